# SPDX-License-Identifier: GPL-2.0-or-later
"""What --vhost-user, --stream, --dgram, --socket and --tap take, refuse, and tell QEMU."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from devmodel.virtio.features import VIRTIO_F_ACCESS_PLATFORM, VIRTIO_NET_F_GUEST_ANNOUNCE
from guest.driver.backend import Backend
from guest.driver.frontend import CHANNEL_FEATURES, Frontend
from vnic.errors import UsageError
from vnic.options import Options
from vnic.places import (
    Dgram,
    Place,
    Socket,
    Stream,
    StreamTo,
    Tap,
    VhostUser,
    VhostUserTo,
    bridge_lines,
    frontend_lines,
    port_names,
    stream_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/tmp/x", "/tmp/x"),
        ("name", "name"),
        ("/tmp/a:5", "/tmp/a:5"),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("::1:9", ("::1", 9)),
    ],
)
def test_stream_address(text: str, address: object) -> None:
    assert stream_address(text) == address


@pytest.mark.parametrize("text", ["host:http", "host:70000", "host:"])
def test_stream_address_bad_port(text: str) -> None:
    with pytest.raises(UsageError):
        stream_address(text)


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        (
            VhostUser("/tmp/a,b"),
            [
                "-object memory-backend-memfd,id=mem0,size=256M,share=on -machine q35,memory-backend=mem0 -m 256",
                "-chardev socket,id=chr0,path=/tmp/a,,b,reconnect=1",
                "-netdev vhost-user,id=net0,chardev=chr0",
                "-device virtio-net-pci,netdev=net0,vectors=0",
            ],
        ),
        (
            VhostUserTo("/tmp/s"),
            [
                "-object memory-backend-memfd,id=mem0,size=256M,share=on -machine q35,memory-backend=mem0 -m 256",
                "-chardev socket,id=chr0,path=/tmp/s,server=on,wait=off",
                "-netdev vhost-user,id=net0,chardev=chr0",
                "-device virtio-net-pci,netdev=net0,vectors=0",
            ],
        ),
        (
            VhostUser("/tmp/a,mac=52:54:00:12:34:56"),
            [
                "-object memory-backend-memfd,id=mem0,size=256M,share=on -machine q35,memory-backend=mem0 -m 256",
                "-chardev socket,id=chr0,path=/tmp/a,reconnect=1",
                "-netdev vhost-user,id=net0,chardev=chr0",
                "-device virtio-net-pci,netdev=net0,vectors=0",
            ],
        ),
        (Stream("/tmp/s"), ["-netdev stream,id=net0,server=off,addr.type=unix,addr.path=/tmp/s"]),
        (
            Stream("127.0.0.1:5"),
            ["-netdev stream,id=net0,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port=5"],
        ),
        (StreamTo("/tmp/s"), ["-netdev stream,id=net0,server=on,addr.type=unix,addr.path=/tmp/s"]),
        (
            Dgram("/tmp/s,/tmp/g"),
            [
                "-netdev dgram,id=net0,local.type=unix,local.path=/tmp/g,remote.type=unix,remote.path=/tmp/s",
            ],
        ),
        (
            Dgram("/tmp/s"),
            [
                (
                    "-netdev dgram,id=net0,local.type=unix,local.path=/tmp/s.guest,"
                    "remote.type=unix,remote.path=/tmp/s"
                ),
            ],
        ),
        (
            Dgram("127.0.0.1:5,127.0.0.1:6"),
            [
                (
                    "-netdev dgram,id=net0,local.type=inet,local.host=127.0.0.1,local.port=6,"
                    "remote.type=inet,remote.host=127.0.0.1,remote.port=5"
                ),
            ],
        ),
        (
            Dgram("127.0.0.1:0,239.0.0.1:6"),
            [
                (
                    "-netdev dgram,id=net0,remote.type=inet,remote.host=239.0.0.1,remote.port=6,"
                    "local.type=inet,local.host=127.0.0.1,local.port=0"
                ),
            ],
        ),
        (Socket("connect=127.0.0.1:5"), ["-netdev socket,id=net0,connect=127.0.0.1:5"]),
        (Socket("mcast=239.0.0.1:5"), ["-netdev socket,id=net0,mcast=239.0.0.1:5,localaddr=127.0.0.1"]),
        (Tap("tap0"), ["-netdev tap,id=net0,ifname=tap0-guest,script=no,downscript=no"]),
    ],
)
def test_lines_for_qemu(place: Place, lines: list[str]) -> None:
    [told] = frontend_lines([place])
    if not isinstance(place, VhostUser):
        assert told.pop() == "-device virtio-net-pci,netdev=net0"
    assert told == lines
    assert bool(bridge_lines(place)) == isinstance(place, Tap)


def test_guests_of_one_segment_get_addresses_of_their_own() -> None:
    told = frontend_lines([VhostUser("/a"), Stream("/b")])
    assert told[0][-1].endswith(",mac=52:54:00:12:34:56")
    assert told[1][-1].endswith(",mac=52:54:00:12:34:57")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("connect=127.0.0.1:5", Stream("127.0.0.1:5")),
        ("listen=127.0.0.1:5", StreamTo("127.0.0.1:5")),
        ("listen=:5", StreamTo("127.0.0.1:5")),
        ("udp=127.0.0.1:5,localaddr=127.0.0.1:6", Dgram("127.0.0.1:5,127.0.0.1:6")),
        ("mcast=239.0.0.1:5", Dgram("127.0.0.1:0,239.0.0.1:5")),
        ("mcast=239.0.0.1:5,localaddr=127.0.0.2", Dgram("127.0.0.2:0,239.0.0.1:5")),
    ],
)
def test_socket_is_the_other_end_of_qemus(text: str, same: Place) -> None:
    assert Socket(text).same() == same


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (VhostUser, ""),
        (Stream, "host:http"),
        (StreamTo, "host:70000"),
        (Dgram, ""),
        (Dgram, "/a,"),
        (Dgram, ",/a"),
        (Dgram, "/a,/a"),
        (Dgram, "/a,127.0.0.1:5"),
        (Dgram, "127.0.0.1:0"),
        (Dgram, "127.0.0.1:0,127.0.0.1:5"),
        (Socket, "connect"),
        (Socket, "connect=/a"),
        (Socket, "connect=127.0.0.1:5,listen=127.0.0.1:6"),
        (Socket, "connect=127.0.0.1:5,localaddr=127.0.0.1:6"),
        (Socket, "connect=127.0.0.1:5,connect=127.0.0.1:6"),
        (Socket, "localaddr=127.0.0.1:6"),
        (Socket, "fd=3"),
        (Socket, "udp=127.0.0.1:5"),
        (Socket, "udp=239.0.0.1:5,localaddr=127.0.0.1:6"),
        (Socket, "mcast=127.0.0.1:5"),
        (Tap, ""),
        (Tap, "tap0,fast"),
        (Tap, "a/b"),
        (Tap, "sixteen-letters-"),
    ],
)
def test_text_that_cannot_be_is_refused_in_three_parts(kind: type[Place], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        kind(text)
    error = refused.value
    assert error.fact
    assert error.evidence
    assert f"--{kind.kind} " in error.remedy or text.startswith("host:")


@pytest.mark.parametrize(
    "places",
    [
        (),
        (Stream("/a"), Stream("/a")),
        (VhostUser("/a"), Stream("/a")),
        (Stream("/a"), Dgram("/a,/b")),
        (Tap("tap0"), Tap("tap0")),
        (VhostUserTo("/a"), VhostUserTo("/a")),
        (Stream("127.0.0.1:5"), Stream("127.0.0.1:5")),
    ],
)
def test_places_that_cannot_be_together_are_refused(places: tuple[Place, ...]) -> None:
    with pytest.raises(UsageError):
        Options(further=places)


def test_mtu_that_udp_cannot_carry_is_refused() -> None:
    place = Socket("udp=127.0.0.1:5,localaddr=127.0.0.1:6")
    Options(further=(place,), mtu=65493)
    with pytest.raises(UsageError) as refused:
        Options(further=(Stream("/a"), place), mtu=65494)
    assert "--mtu 65493" in refused.value.remedy


def test_ports_of_a_kind_are_numbered() -> None:
    places = [VhostUser("/a"), Stream("/b"), Stream("/c"), StreamTo("/d"), Stream("/e"), VhostUserTo("/f")]
    names = ["vhost-user", "stream", "stream2", "stream-to", "stream3", "vhost-user-to"]
    assert port_names(places) == names


@pytest.mark.parametrize("mac", ["", "52:54:00:12:34", "53:54:00:12:34:56", "x", "52:54:00:12:34:56,mac=1"])
def test_vhost_user_with_an_address_that_no_card_can_have_is_refused(mac: str) -> None:
    with pytest.raises(UsageError, match="mac="):
        VhostUser(f"/tmp/a,mac={mac}")


def test_mac_address_where_qemu_listens_is_refused() -> None:
    with pytest.raises(UsageError, match="a card of its own"):
        VhostUserTo("/tmp/a,mac=52:54:00:12:34:56")


def test_vhost_user_with_an_address_is_a_whole_card(tmp_path: Path) -> None:
    async def script() -> None:
        place = VhostUser(f"{tmp_path}/s,mac=52:54:00:12:34:56")
        assert place.paths() == (f"{tmp_path}/s",)
        port = await place.open("card", 9000)
        backend, frontend = Backend(f"{tmp_path}/s", 5.0), Frontend()
        frontend.wanted_protocol |= CHANNEL_FEATURES
        await asyncio.to_thread(backend.connect)
        await asyncio.to_thread(backend.run, frontend.connect())
        space = await asyncio.to_thread(backend.run, frontend.get_config(0, 12))
        assert space.hex() == "525400123456" + "0100" + "0100" + "2823"
        assert frontend.offered >> VIRTIO_NET_F_GUEST_ANNOUNCE & 1
        assert not frontend.offered >> VIRTIO_F_ACCESS_PLATFORM & 1
        backend.close()
        port.close()

    asyncio.run(script())
