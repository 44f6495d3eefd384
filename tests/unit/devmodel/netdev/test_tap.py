# SPDX-License-Identifier: GPL-2.0-or-later
"""TAPs, beyond the contract, in a network namespace of the test's own: the kernel's offloads, the link, refusals."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from netns import Namespace, beside, why_no_tap
from portrigs import until
from pyroute2 import IPRoute
from udpframes import udp_frame
from vu_driver import Recorder

from devmodel.errors import TapUnavailable
from devmodel.netdev import base, tap
from devmodel.netdev.tap import TapPort
from devmodel.port import VnetHdr

FRAME = b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x88\xb5".ljust(60, b"x")

_NO_TAP = why_no_tap()
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(_NO_TAP), reason=f"no TAP here: {_NO_TAP}")]


@pytest.fixture
def private() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def run(
    private: Namespace, script: Callable[[TapPort, Recorder], Awaitable[None]], **options: object
) -> None:
    async def main() -> None:
        port = await TapPort.open("tap0", **options)  # type: ignore[arg-type]
        behind = Recorder()
        port.attach(behind)
        try:
            await script(port, behind)
        finally:
            port.close()
            port.close()

    private.run(main)


def address_tap() -> None:
    """10.0.2.1/24, and a neighbour."""
    with IPRoute() as route:
        index = route.link_lookup(ifname="tap0")[0]
        route.addr("add", index=index, address="10.0.2.1", prefixlen=24)
        route.neigh("add", dst="10.0.2.2", lladdr="02:00:00:00:00:02", ifindex=index, state="permanent")


def address_tap_and_its_mac() -> bytes:
    address_tap()
    with IPRoute() as route:
        [link] = route.get_links(route.link_lookup(ifname="tap0")[0])
        return bytes.fromhex(str(link.get_attr("IFLA_ADDRESS")).replace(":", ""))


def delete_tap() -> None:
    with IPRoute() as route:
        route.link("del", index=route.link_lookup(ifname="tap0")[0])


def link_of(name: str) -> dict[str, object]:
    with IPRoute() as route:
        found = route.link_lookup(ifname=name)
        if not found:
            return {}
        [link] = route.get_links(found[0])
        return {"mtu": link.get_attr("IFLA_MTU"), "flags": link["flags"], "index": found[0]}


def set_link(name: str, state: str) -> None:
    with IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname=name)[0], state=state)


@pytest.mark.parametrize("vnet", [False, True])
def test_interface_is_made_up_with_its_mtu_and_goes_with_the_port(private: Namespace, vnet: bool) -> None:
    async def script(port: TapPort, behind: Recorder) -> None:
        link = beside(lambda: link_of("tap0"))
        assert link["mtu"] == 9000
        assert int(str(link["flags"])) & 1
        assert port.negotiation()["interface"] == "tap0"

    run(private, script, vnet=vnet, mtu=9000)
    assert private.call(lambda: link_of("tap0")) == {}


def test_machine_itself_never_sees_the_interface(private: Namespace) -> None:
    async def script(port: TapPort, behind: Recorder) -> None:
        names = Path(f"/proc/{os.getpid()}/net/dev").read_text()
        assert "tap0:" not in names
        assert "tap0:" in Path("/proc/thread-self/net/dev").read_text()

    run(private, script)


def test_number_in_the_name_is_chosen_by_the_kernel(private: Namespace) -> None:
    async def main() -> None:
        ports = [await TapPort.open("vnic%d") for _ in range(2)]
        assert [port.interface for port in ports] == ["vnic0", "vnic1"]
        for port in ports:
            port.close()

    private.run(main)


@pytest.mark.parametrize("hdr_size", [10, 12])
def test_kernel_sends_gso_frames_and_partial_checksums_with_a_header(
    private: Namespace, hdr_size: int
) -> None:
    """A UDP datagram of this host leaves with its checksum still to be done."""

    async def script(port: TapPort, behind: Recorder) -> None:
        beside(address_tap)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 100, ("10.0.2.2", 9))
        await until(lambda: any(frame[12:14] == b"\x08\x00" for _, frame in behind.frames))
        [(hdr, frame)] = [one for one in behind.frames if one[1][12:14] == b"\x08\x00"]
        assert isinstance(hdr, VnetHdr)
        assert (hdr.flags & 1, hdr.csum_start, hdr.csum_offset) == (1, 34, 6)
        assert len(frame) == 142

    run(private, script, hdr_size=hdr_size)


def test_kernel_finishes_what_it_sends_without_a_header(private: Namespace) -> None:
    async def script(port: TapPort, behind: Recorder) -> None:
        beside(address_tap)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 100, ("10.0.2.2", 9))
        await until(lambda: any(frame[12:14] == b"\x08\x00" for _, frame in behind.frames))
        [(hdr, frame)] = [one for one in behind.frames if one[1][12:14] == b"\x08\x00"]
        assert hdr is None
        words = frame[26:34] + b"\x00\x11" + frame[38:40] + frame[34:]
        total = sum(struct.unpack(f">{len(words) // 2}H", words))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        assert total == 0xFFFF

    run(private, script, vnet=False)


@pytest.fixture(params=["kernel takes USO", "kernel without USO"])
def uso(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel knows TUN_F_USO4, as it does since 6.2; one that does is made to refuse it."""
    if request.param == "kernel takes USO":
        return True
    real = fcntl.ioctl

    def refusing(fd: int, request: int, arg: Any = 0) -> Any:
        if request == tap.TUNSETOFFLOAD and arg & tap.TUN_F_USO4:
            raise OSError(errno.EINVAL, "as kernels before 6.2 say")
        return real(fd, request, arg)

    monkeypatch.setattr(tap.fcntl, "ioctl", refusing)
    return False


def test_many_datagrams_of_the_kernel_come_as_one_frame(private: Namespace, uso: bool) -> None:
    """UDP_SEGMENT of this host; what the kernel may not send whole it cuts."""

    async def script(port: TapPort, behind: Recorder) -> None:
        assert (port.offloads.uso4, port.offloads.uso6, port.offloads.ufo) == (uso, uso, True)
        beside(address_tap)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(17, 103, 1000)
            sender.sendto(bytes(2500), ("10.0.2.2", 9))
        frames = [1042, 1042, 542] if not uso else [2542]
        await until(lambda: sum(frame[12:14] == b"\x08\x00" for _, frame in behind.frames) == len(frames))
        got = [one for one in behind.frames if one[1][12:14] == b"\x08\x00"]
        assert [len(frame) for _, frame in got] == frames
        if uso:
            assert got[0][0] == VnetHdr(1, 5, 42, 1000, 34, 6)

    run(private, script)


@pytest.mark.parametrize("kind", [3, 5])
def test_kernel_takes_udp_that_is_to_be_cut(private: Namespace, uso: bool, kind: int) -> None:
    """UFO is one datagram to it, UDP_L4 many; which a kernel without USO gets cut already."""

    async def script(port: TapPort, behind: Recorder) -> None:
        mac = beside(address_tap_and_its_mac)
        data = bytes(range(250)) * 10
        frame, start = udp_frame(data, "10.0.2.2", "10.0.2.1", 4000, 7, mac, b"\2" + bytes(4) + b"\2")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.setblocking(False)
            receiver.bind(("10.0.2.1", 7))
            assert port.send(VnetHdr(1, kind, 42, 1000, start, 6), [frame[:20], frame[20:]])
            port.flush()
            got = b""
            for size in (1000, 1000, 500) if kind == 5 else (2500,):
                await until(lambda: select.select([receiver], [], [], 0)[0])
                got += receiver.recv(9999)
                assert len(got) % 1000 == size % 1000
            assert got == data
        assert port.stats()["tx_frames"] == (3 if kind == 5 and not uso else 1)
        bad = VnetHdr(1, kind, 42, 1000, 1000, 6)
        if kind == 5 and not uso:
            assert not port.send(bad, [frame])
            assert port.stats()["tx_drop_malformed"] == 1

    run(private, script)


@pytest.mark.parametrize("vnet", [False, True])
def test_link_follows_the_interface(private: Namespace, vnet: bool) -> None:
    async def script(port: TapPort, behind: Recorder) -> None:
        beside(lambda: set_link("tap0", "down"))
        await until(lambda: not port.link_up)
        assert not port.send(None, [FRAME])
        beside(lambda: set_link("tap0", "up"))
        await until(lambda: port.link_up)
        assert port.send(None, [FRAME])
        port.flush()
        assert port.stats()["tx_frames"] == 1
        assert [up for up, _ in behind.links] == [True, False, True]

    run(private, script, vnet=vnet)


def test_frame_that_meets_a_link_that_is_just_down_is_counted(private: Namespace) -> None:
    async def script(port: TapPort, behind: Recorder) -> None:
        assert port.send(None, [FRAME])
        beside(lambda: set_link("tap0", "down"))
        port.flush()  # before the netlink message is read
        stats = port.stats()
        assert (stats["tx_drop_link_down"], stats["tx_frames"], stats["tx_queued"]) == (1, 0, 0)

    run(private, script)


def test_interface_that_is_deleted_ends_the_link_and_keeps_nobody_busy(private: Namespace) -> None:
    async def script(port: TapPort, behind: Recorder) -> None:
        beside(delete_tap)
        await until(lambda: not port.link_up)
        reads = 0
        before = port._read_one

        def counted() -> object:
            nonlocal reads
            reads += 1
            return before()

        port._read_one = counted  # type: ignore[method-assign, assignment]
        await asyncio.sleep(0.01)
        assert reads <= 1
        assert not port.send(None, [FRAME])

    run(private, script)


def test_full_queue_of_the_kernel_makes_frames_wait_and_bounds_them(
    private: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes what it gets, unless its memory is short: so its refusal is made here."""
    monkeypatch.setattr(base, "BACKLOG_BYTES", 10 * len(FRAME))
    full = True

    def write(self: TapPort, packet: bytes) -> None:
        if full:
            raise BlockingIOError(errno.EAGAIN, "full")
        os.write(self._fd, packet)

    monkeypatch.setattr(TapPort, "_write_one", write)

    async def script(port: TapPort, behind: Recorder) -> None:
        nonlocal full
        taken = 0
        while port.send(None, [FRAME]):
            port.flush()
            taken += 1
        stats = port.stats()
        assert (taken, stats["tx_drop_backlog"], stats["tx_queued"]) == (10, 1, 10 * len(FRAME))
        full = False
        await until(lambda: port.stats()["tx_queued"] == 0)
        assert port.stats()["tx_frames"] == 10

    run(private, script)


@pytest.mark.parametrize(
    ("raw", "counter"),
    [
        (struct.pack("=BBHHHH", 1, 2, 42, 1000, 34, 6), "rx_drop_gso"),
        (struct.pack("=BBHHHH", 1, 1, 54, 0, 34, 16), "rx_drop_gso"),
        (struct.pack("=BBHHHH", 1, 0, 0, 0, 50, 16), "rx_drop_csum"),
        (struct.pack("=BBHHHH", 1, 0, 0, 0, 4, 2), "rx_drop_csum"),
        (struct.pack("=BBHHHH", 0, 1, 54, 1448, 34, 16), "rx_drop_csum"),
    ],
)
def test_header_that_was_not_asked_for_is_not_believed(
    private: Namespace, monkeypatch: pytest.MonkeyPatch, raw: bytes, counter: str
) -> None:
    async def script(port: TapPort, behind: Recorder) -> None:
        waiting = [raw.ljust(12, b"\0") + FRAME, bytes(12) + FRAME]

        def readv(fd: int, buffers: list[bytearray]) -> int:
            if not waiting:
                raise BlockingIOError
            data = waiting.pop(0)
            buffers[0][: len(data)] = data
            return len(data)

        monkeypatch.setattr(tap.os, "readv", readv)
        port._readable()
        monkeypatch.undo()
        assert behind.frames == [(None, FRAME)]
        assert port.stats()[counter] == 1

    run(private, script)


@pytest.mark.parametrize("name", ["", "sixteen-letters-"])
def test_name_that_no_interface_has_is_refused(private: Namespace, name: str) -> None:
    async def main() -> None:
        with pytest.raises(TapUnavailable, match="name"):
            await TapPort.open(name)

    private.run(main)


def test_interface_of_another_process_or_kind_is_refused_in_three_parts(private: Namespace) -> None:
    async def main() -> None:
        port = await TapPort.open("tap0")
        for name in ("tap0", "lo"):
            with pytest.raises(TapUnavailable) as refused:
                await TapPort.open(name)
            assert all(refused.value.args)
        port.close()

    before = len(os.listdir("/proc/self/fd"))
    private.run(main)
    assert len(os.listdir("/proc/self/fd")) == before


def test_host_without_the_device_is_told_what_to_do(
    private: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tap, "DEVICE", str(tmp_path / "tun"))

    async def main() -> None:
        with pytest.raises(TapUnavailable, match="modprobe tun"):
            await TapPort.open("tap0")

    private.run(main)
