# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP in frames of many datagrams, and in frames to be fragmented, between a driver and the stack: byte by byte."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Final

import pytest
from driverworld import GUEST, GUEST_MAC, SERVER, DriverWorld
from udpframes import check_datagram, datagrams_of, udp_frame

from devmodel.netdev.offload import finish
from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.rss import HashConfig
from devmodel.virtio.spec import (
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)
from guest.driver.control import hash_config
from guest.driver.virtio_net import CONTROL_FEATURES, DRIVER_FEATURES, TX
from stack.api.bsd import AF_INET, AF_INET6, SOCK_DGRAM, Socket
from stack.include.ipv6 import in6_pton
from stack.include.udp import SOL_UDP, UDP_GRO, UDP_SEGMENT
from stack.net.core.neighbour import neigh_add_permanent
from tests.sim.test_driver_and_stack import KINDS
from vnic.host import MAC

SERVER6, GUEST6 = "fd00::2", "fd00::15"
USO = vf.mask(vf.VIRTIO_NET_F_GUEST_USO4, vf.VIRTIO_NET_F_GUEST_USO6, vf.VIRTIO_NET_F_HOST_USO)
KEY = bytes(range(40))
TYPES = 0x3F
MORE: Final = {
    "no USO": DRIVER_FEATURES & ~USO,
    "USO of IPv4": DRIVER_FEATURES & ~vf.mask(vf.VIRTIO_NET_F_GUEST_USO6),
    "USO of IPv6": DRIVER_FEATURES & ~vf.mask(vf.VIRTIO_NET_F_GUEST_USO4),
    "USO alone, big packets": vf.mask(vf.VIRTIO_F_VERSION_1, vf.VIRTIO_NET_F_CSUM, vf.VIRTIO_NET_F_GUEST_CSUM)
    | USO,
    "hashes": DRIVER_FEATURES | CONTROL_FEATURES,
    "hashes, packed, big packets": KINDS["packed, big packets"] | CONTROL_FEATURES,
}
DOWN = {**KINDS, **MORE}
UP = [kind for kind, features in DOWN.items() if features >> vf.VIRTIO_NET_F_HOST_USO & 1]
UFO = [kind for kind, features in DOWN.items() if features >> vf.VIRTIO_NET_F_HOST_UFO & 1]


class UdpWorld(DriverWorld):
    """The world with a UDP socket on port 7000 of the stack, over either IP version."""

    def __init__(self, kind: str, version: int) -> None:
        features = DOWN[kind]
        control = bool(features >> vf.VIRTIO_NET_F_CTRL_VQ & 1)
        super().__init__(features, num=256, memory_size=48 << 20, control_queue=control)
        self.find_server()
        dev = self.stack.devices_by_name["eth0"]
        self.stack.dev_addr_add(dev, SERVER6 + "/64")
        neigh_add_permanent(self.stack.nd_tbl, in6_pton(GUEST6), dev, GUEST_MAC)
        self.server, self.guest = (SERVER, GUEST) if version == 4 else (SERVER6, GUEST6)
        self.sock = Socket(self.stack, AF_INET if version == 4 else AF_INET6, SOCK_DGRAM)
        self.sock.setsockopt(1, 33, 8 << 20)
        self.sock.setsockopt(1, 32, 8 << 20)
        self.sock.bind(("" if version == 4 else "::", 7000))
        self.seen.clear()
        self.hashed: list[tuple[int, int]] = []
        self.hashes = HashConfig(TYPES, KEY) if control else None
        if control:
            assert self.world.command(hash_config(TYPES, KEY)) == 0

    def _frames(self, frames: list[tuple[VnetHdr, bytes]]) -> None:
        driver = self.world.driver
        if driver is not None and driver.hash_report:
            assert len(driver.hashes) == len(frames)
            if hasattr(self, "hashed"):
                self.hashed += driver.hashes
        super()._frames(frames)

    def down(self, data: bytes, size: int) -> list[bytes]:
        """What a guest that takes everything apart has of one send(): payloads, all checksums verified."""
        self.sock.setsockopt(SOL_UDP, UDP_SEGMENT, size)
        assert self.sock.sendto(data, (self.guest, 4000)) == len(data)
        self.runner.touch()
        self.run(0.01)
        ends = ip_address(self.server).packed, ip_address(self.guest).packed
        found = []
        for hdr, frame in self.seen:
            for one in finish(hdr, [frame]):
                found += datagrams_of(b"".join(one), *ends)
        return found

    def up(self, data: bytes, gso_type: int, size: int) -> None:
        """One frame from the guest's driver."""
        frame, start = udp_frame(data, self.guest, self.server, 4000, 7000, MAC, GUEST_MAC)
        driver = self.world.driver
        assert driver is not None
        driver.queue(frame, VnetHdr(VIRTIO_NET_HDR_F_NEEDS_CSUM, gso_type, start + 8, size, start, 6))
        if driver.tx.publish():
            self.world.kick(TX)
        self.run(0.01)

    def received(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.sock.recv(65536))
            except BlockingIOError:
                return found


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


Make = Callable[[str, int], UdpWorld]


@pytest.fixture
def make() -> Iterator[Make]:
    worlds: list[UdpWorld] = []

    def making(kind: str, version: int) -> UdpWorld:
        worlds.append(UdpWorld(kind, version))
        return worlds[-1]

    yield making
    for world in worlds:
        world.close()


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("kind", DOWN)
def test_one_send_of_the_stack_reaches_the_guest_as_datagrams(make: Make, version: int, kind: str) -> None:
    world = make(kind, version)
    rng = random.Random(kind)
    driver = world.world.driver
    assert driver is not None
    for _ in range(12):
        size = rng.randint(1, 1452)
        data = rng.randbytes(rng.randint(size + 1, min(size * 128, 65000)))
        world.seen.clear()
        world.hashed.clear()
        if DOWN[kind] >> vf.VIRTIO_NET_F_GUEST_CSUM & 1:
            assert world.down(data, size) == pieces(data, size)
        else:  # Linux 6.1 cuts nothing for a device that does not sum
            with pytest.raises(OSError, match="sendto"):
                world.down(data, size)
            continue
        whole = DOWN[kind] >> (vf.VIRTIO_NET_F_GUEST_USO4 if version == 4 else vf.VIRTIO_NET_F_GUEST_USO6) & 1
        assert len(world.seen) == (1 if whole else len(pieces(data, size)))
        assert {hdr.gso_type for hdr, _ in world.seen} == {VIRTIO_NET_HDR_GSO_UDP_L4 if whole else 0}
        if world.hashes is not None:
            assert world.hashed == [world.hashes.of(frame) for _, frame in world.seen]
            assert {report for _, report in world.hashed} == {3 if version == 4 else 6}
    assert world.world.port.stats()["tx_dropped"] == 0


@pytest.mark.parametrize("kind", UP)
def test_frame_of_many_datagrams_comes_up_whole_and_is_cut(make: Make, version: int, kind: str) -> None:
    world = make(kind, version)
    rng = random.Random(kind)
    for _ in range(12):
        size = rng.randint(1, 1452)
        data = rng.randbytes(rng.randint(1, min(size * 128, 65000)))
        world.up(data, VIRTIO_NET_HDR_GSO_UDP_L4, size)
        assert world.received() == pieces(data, size)
    stats = world.world.port.stats()
    assert (stats["rx_drop_gso"], stats["rx_drop_csum"]) == (0, 0)
    world.sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    world.up(data := rng.randbytes(5000), VIRTIO_NET_HDR_GSO_UDP_L4, 1000)
    assert world.received() == [data]


@pytest.mark.parametrize("kind", UFO)
def test_datagram_to_be_fragmented_comes_up_as_one(make: Make, version: int, kind: str) -> None:
    world = make(kind, version)
    rng = random.Random(kind)
    for _ in range(8):
        data = rng.randbytes(rng.randint(1, 65000))
        world.up(data, VIRTIO_NET_HDR_GSO_UDP, 1480)
        assert world.received() == [data]


@pytest.mark.parametrize("kind", ["all", "big packets", "packed", "no USO", "modern, nothing else", "legacy"])
def test_datagram_to_be_fragmented_goes_to_the_guest_as_it_takes_it(
    make: Make, version: int, kind: str
) -> None:
    """The stack makes none; another guest of the segment does (devmodel/switch.py)."""
    world = make(kind, version)
    rng = random.Random(kind)
    ends = world.server, world.guest
    for _ in range(8):
        data = rng.randbytes(rng.randint(1, 65000))
        frame, start = udp_frame(data, *ends, 7000, 4000, GUEST_MAC, MAC)
        world.seen.clear()
        hdr = VnetHdr(VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP, start + 8, 1448, start, 6)
        assert world.world.port.send(hdr, [frame])
        world.world.port.flush()
        world.run()
        if DOWN[kind] >> vf.VIRTIO_NET_F_GUEST_UFO & 1:
            assert world.seen == [(hdr, frame)]
        else:
            whole = b"".join(
                one[34:] if version == 4 or len(world.seen) == 1 else one[62:] for _, one in world.seen
            )
            if version == 6 and len(world.seen) == 1:
                whole = whole[20:]
            assert check_datagram(whole, *(ip_address(one).packed for one in ends)) == data
            assert all(len(one) <= 1448 + 62 for _, one in world.seen)


def test_legacy_driver_whose_gso_is_one_bit_sends_ufo(make: Make) -> None:
    features = vf.mask(vf.VIRTIO_NET_F_CSUM, vf.VIRTIO_NET_F_GSO)
    DOWN["legacy, GSO"] = features
    world = make("legacy, GSO", 4)
    del DOWN["legacy, GSO"]
    driver = world.world.driver
    assert driver is not None
    assert driver.hdr_size == 10
    data = random.Random(1).randbytes(9000)
    world.up(data, VIRTIO_NET_HDR_GSO_UDP, 1480)
    assert world.received() == [data]
    with pytest.raises(ValueError, match="not negotiated"):
        world.up(data, VIRTIO_NET_HDR_GSO_UDP_L4, 1000)
