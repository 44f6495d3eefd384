# SPDX-License-Identifier: GPL-2.0-or-later
"""Framing of old drivers and of those without mergeable buffers, through the rings of the device that serves QEMU."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from guest.driver.loop import World
from guest.driver.virtio_net import RX, TX, VirtioNetDriver

MODERN = vf.mask(vf.VIRTIO_F_VERSION_1)
PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
INDIRECT = vf.mask(vf.VIRTIO_F_INDIRECT_DESC)
MERGEABLE = vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)
CSUM = vf.mask(vf.VIRTIO_NET_F_GUEST_CSUM)
LARGEST = 65550
MAC = b"\x52\x54\0\0\0\1"


class Mirror:
    """A handler that keeps what comes up."""

    def __init__(self, world: World) -> None:
        self.frames: list[tuple[VnetHdr | None, bytes]] = []
        world.port.attach(self)

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self.frames.append((hdr, frame))

    def batch_done(self) -> None: ...

    def link_changed(self, up: bool, offloads: object) -> None: ...


Make = Callable[..., tuple[World, VirtioNetDriver, Mirror]]


@pytest.fixture
def make() -> Iterator[Make]:
    worlds: list[World] = []

    def making(features: int, num: int = 64, mtu: int = 1500) -> tuple[World, VirtioNetDriver, Mirror]:
        worlds.append(World(memory_size=48 << 20))
        mirror = Mirror(worlds[-1])
        return worlds[-1], worlds[-1].start(features, num, mtu), mirror

    yield making
    for world in worlds:
        world.close()


def frame(size: int) -> bytes:
    return MAC + random.Random(size).randbytes(size - 6)


def both_ways(world: World, mirror: Mirror, sizes: list[int]) -> None:
    """Frames of those sizes up and down, one after the other."""
    for size in sizes:
        world.send(frame(size))
        world.settle()
        assert mirror.frames.pop() == (None, frame(size))
        assert world.port.send(None, [frame(size)])
        world.port.flush()
        world.settle()
        assert world.received.pop()[1] == frame(size)
    stats = world.port.stats()
    assert (stats["tx_dropped"], stats["broken_rings"]) == (0, 0)


def test_legacy_driver_without_any_layout_has_its_header_in_a_descriptor_of_its_own(make: Make) -> None:
    """2.7.4.1: such a driver has to, and the device must not rely on it of others."""
    world, driver, mirror = make(0)
    assert driver.hdr_size == 10
    assert driver._receive_shape() == [10, 1514]
    before = driver.tx.free
    driver.queue(frame(60))
    assert before - driver.tx.free == 2
    if driver.tx.publish():
        world.kick(TX)
    world.settle()
    assert mirror.frames.pop() == (None, frame(60))
    both_ways(world, mirror, [14, 60, 1514])


def test_legacy_driver_with_any_layout_has_header_and_frame_in_one(make: Make) -> None:
    world, driver, mirror = make(vf.mask(vf.VIRTIO_F_ANY_LAYOUT))
    assert driver.hdr_size == 10
    assert driver._receive_shape() == [1524]
    both_ways(world, mirror, [14, 60, 1514])


def test_legacy_driver_with_mergeable_buffers_has_a_header_of_twelve(make: Make) -> None:
    world, driver, mirror = make(MERGEABLE)
    assert driver.hdr_size == 12
    both_ways(world, mirror, [14, 60, 1514, 9014, LARGEST])
    assert driver.counters.rx_merged


@pytest.mark.parametrize("kind", ["GUEST_TSO4", "GUEST_TSO6", "GUEST_UFO", "GUEST_USO4", "GUEST_USO6"])
@pytest.mark.parametrize(
    "layout",
    [0, MODERN, MODERN | INDIRECT, MODERN | PACKED, MODERN | PACKED | INDIRECT],
    ids=["legacy", "split", "split indirect", "packed", "packed indirect"],
)
def test_big_packets_without_mergeable_buffers_are_chains_of_65562_bytes(
    make: Make, kind: str, layout: int
) -> None:
    """5.1.6.3.1: the header's descriptor and 17 of pages."""
    world, driver, mirror = make(layout | CSUM | vf.mask(getattr(vf, f"VIRTIO_NET_F_{kind}")))
    shape = driver._receive_shape()
    assert len(shape) == 18
    assert sum(shape) == LARGEST + driver.hdr_size == LARGEST + (12 if layout else 10)
    assert world.port.offloads.max_frame == LARGEST
    both_ways(world, mirror, [14, 4096, 4097, 65535, LARGEST])
    assert not world.port.send(None, [frame(LARGEST + 1)])
    assert world.port.stats()["tx_drop_too_big"] == 1


@pytest.mark.parametrize("features", [0, MODERN, MODERN | MERGEABLE, MERGEABLE, MODERN | PACKED | MERGEABLE])
@pytest.mark.parametrize("mtu", [576, 1500, 4000, 9000, 65535])
def test_frames_as_long_as_the_mtu_pass_both_ways(make: Make, features: int, mtu: int) -> None:
    """host_mtu of QEMU's card: the driver's buffers follow it, and so does what the device may send."""
    world, driver, mirror = make(features, mtu=mtu)
    assert world.port.mtu == mtu
    assert world.port.offloads.max_frame == mtu + 14
    both_ways(world, mirror, [60, mtu + 13, mtu + 14])
    assert len(driver.queues) == 2


def test_ring_of_a_big_packet_each_is_used_again_and_again(make: Make) -> None:
    """With chains in the ring a queue of 64 has three buffers."""
    world, driver, _ = make(CSUM | vf.mask(vf.VIRTIO_NET_F_GUEST_TSO4), num=64)
    assert driver.queues[RX].free == 64 - 3 * 18
    for size in range(100, 60000, 1999):
        assert world.port.send(None, [frame(size)])
        world.port.flush()
        world.settle()
        assert world.received.pop()[1] == frame(size)
