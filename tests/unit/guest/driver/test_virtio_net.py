# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtio-net driver over a small model of the device: header lengths, receive buffers, offloads, refill."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from ring_models import PackedModel, SplitModel

from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from guest.driver.errors import DeviceBroken
from guest.driver.memory import DriverMemory, split_layout
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX, VirtioNetDriver
from guest.driver.virtqueue import QueueFull

MODERN = vf.mask(vf.VIRTIO_F_VERSION_1)
MERGEABLE = MODERN | vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)
BIG = MODERN | vf.mask(vf.VIRTIO_NET_F_GUEST_CSUM, vf.VIRTIO_NET_F_GUEST_TSO4, vf.VIRTIO_F_INDIRECT_DESC)
PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
FRAME = bytes(range(200))


class Rig:
    """A driver and models of both queues."""

    def __init__(self, features: int, num: int = 16, **options: int) -> None:
        self.memory = DriverMemory(split_layout(8 << 20))
        self.driver = VirtioNetDriver(self.memory, features, num, **options)
        model = PackedModel if features & PACKED else SplitModel
        self.device = [model(queue) for queue in self.driver.queues]
        self.driver.refill()

    def give(self, frame: bytes, flags: int = 0, gso: int = 0, gso_size: int = 0, buffers: int = 1) -> None:
        """A frame from the device, in as many receive buffers as it needs."""
        fields = (flags, gso, 0, gso_size, 34, 16)
        head = (
            struct.pack("<BBHHHH", *fields)
            if self.driver.hdr_size == 10
            else struct.pack("<BBHHHHH", *fields, buffers)
        )
        data = head + frame
        while data:
            seen = self.device[RX].pop()
            assert seen is not None
            written = self.device[RX].fill(seen, data)
            self.device[RX].push(seen, written)
            data = data[written:]

    def take(self) -> bytes:
        """What the driver put on the wire, its header with it."""
        seen = self.device[TX].pop()
        assert seen is not None
        self.device[TX].push(seen, 0)
        return seen.out


@pytest.fixture
def rigs() -> Iterator[list[Rig]]:
    made: list[Rig] = []
    yield made
    for rig in made:
        rig.memory.close()


@pytest.fixture(params=[0, PACKED], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def rig(rigs: list[Rig], features: int, num: int = 16, **options: int) -> Rig:
    rigs.append(Rig(features, num, **options))
    return rigs[-1]


@pytest.mark.parametrize(
    ("features", "size"),
    [(0, 10), (vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF), 12), (MODERN, 12), (MERGEABLE, 12), (DRIVER_FEATURES, 12)],
)
def test_header_length_follows_from_features(rigs: list[Rig], features: int, size: int) -> None:
    world = rig(rigs, features)
    assert world.driver.hdr_size == size
    assert world.driver.send(FRAME)
    assert world.take() == bytes(size) + FRAME
    world.give(FRAME)
    assert world.driver.receive()[0] == [(VnetHdr(0, 0, 0, 0, 34, 16), FRAME)]


def test_legacy_header_has_a_descriptor_of_its_own(rigs: list[Rig]) -> None:
    world = rig(rigs, 0)
    world.driver.send(FRAME)
    assert world.driver.tx.free == 16 - 2
    modern = rig(rigs, MODERN)
    modern.driver.send(FRAME)
    assert modern.driver.tx.free == 16 - 1


def test_frame_over_several_mergeable_buffers(rigs: list[Rig], packed: int) -> None:
    world = rig(rigs, MERGEABLE | packed)
    big = bytes(range(256)) * 16
    world.give(big, buffers=3)
    world.give(FRAME)
    frames, _ = world.driver.receive()
    assert [frame for _, frame in frames] == [big, FRAME]
    assert world.driver.counters.rx_merged == 1
    assert world.driver.counters.rx_buffers == 4


def test_first_part_of_a_frame_waits_for_the_rest(rigs: list[Rig]) -> None:
    world = rig(rigs, MERGEABLE)
    seen = world.device[RX].pop()
    assert seen is not None
    world.device[RX].push(
        seen, world.device[RX].fill(seen, struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 2) + b"a" * 1524)
    )
    assert world.driver.receive()[0] == []
    seen = world.device[RX].pop()
    assert seen is not None
    world.device[RX].push(seen, world.device[RX].fill(seen, b"b" * 10))
    assert [frame for _, frame in world.driver.receive()[0]] == [b"a" * 1524 + b"b" * 10]


def test_big_receive_buffers_take_a_whole_tso_frame(rigs: list[Rig], packed: int) -> None:
    world = rig(rigs, BIG | packed)
    frame = bytes(65550)
    world.give(frame, flags=1, gso=1, gso_size=1448)
    ((hdr, got),) = world.driver.receive()[0]
    assert got == frame
    assert (hdr.gso_type, hdr.gso_size) == (1, 1448)


def test_ring_is_filled_up_when_half_of_it_is_empty(rigs: list[Rig], packed: int) -> None:
    world = rig(rigs, MERGEABLE | packed)
    driver = world.driver
    assert driver.rx.free == 0
    for count in range(1, 20):
        world.give(FRAME)
        frames, _kick = driver.receive()
        assert len(frames) == 1
        assert driver.rx.free == (count if count < 8 else count - 8 if count < 16 else count - 16)


def test_all_memory_comes_back(rigs: list[Rig], packed: int) -> None:
    world = rig(rigs, MERGEABLE | packed)
    for _ in range(40):
        world.give(FRAME)
        world.driver.receive()
        world.driver.send(FRAME)
        world.take()
    world.driver.release()
    assert world.memory.alloc((8 << 20) - 0xA0000, 1)


def test_transmit_ring_full_drops_and_counts(rigs: list[Rig]) -> None:
    world = rig(rigs, MODERN, num=4)
    for _ in range(4):
        world.driver.send(FRAME)
    assert not world.driver.send(FRAME)
    assert world.driver.counters.tx_dropped == 1
    with pytest.raises(QueueFull):
        world.driver.queue(FRAME)
    world.take()
    assert world.driver.send(FRAME)
    assert world.driver.counters.tx_reclaimed == 1


def test_offload_requests_need_their_features(rigs: list[Rig]) -> None:
    tso = VnetHdr(1, 1, 54, 1448, 34, 16)
    plain = rig(rigs, MODERN)
    with pytest.raises(ValueError, match="CSUM"):
        plain.driver.send(FRAME, tso)
    able = rig(rigs, DRIVER_FEATURES)
    able.driver.send(FRAME, tso)
    assert able.take()[:12] == struct.pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)
    with pytest.raises(ValueError, match="gso_type"):
        able.driver.send(FRAME, VnetHdr(1, 2, 54, 1448, 34, 16))
    for bit, kind in ((vf.VIRTIO_NET_F_HOST_UFO, 3), (vf.VIRTIO_NET_F_HOST_USO, 5)):
        able.driver.send(FRAME, VnetHdr(1, kind, 42, 1000, 34, 6))
        with pytest.raises(ValueError, match="gso_type"):
            rig(rigs, DRIVER_FEATURES & ~vf.mask(bit)).driver.send(FRAME, VnetHdr(1, kind, 42, 1000, 34, 6))


@pytest.mark.parametrize(
    ("features", "header", "rule"),
    [
        (MODERN, {"flags": 1}, "without VIRTIO_NET_F_GUEST_CSUM"),
        (MODERN, {"flags": 2}, "without VIRTIO_NET_F_GUEST_CSUM"),
        (BIG, {"flags": 1, "gso": 4, "gso_size": 1448}, "gso_type 0x4"),
        (BIG, {"flags": 1, "gso": 1, "gso_size": 0}, "gso_size 0"),
        (BIG, {"flags": 1, "gso": 3, "gso_size": 1448}, "gso_type 0x3"),
        (BIG, {"flags": 1, "gso": 5, "gso_size": 1448}, "gso_type 0x5"),
        (BIG | vf.mask(vf.VIRTIO_NET_F_GUEST_USO4), {"flags": 1, "gso": 5, "gso_size": 1448}, "gso_type 0x5"),
        (MERGEABLE, {"buffers": 0}, "num_buffers is 0"),
        (MERGEABLE, {"buffers": 17}, "num_buffers is 17"),
    ],
)
def test_device_that_sends_what_was_not_agreed_on_is_told(
    rigs: list[Rig], features: int, header: dict[str, int], rule: str
) -> None:
    world = rig(rigs, features)
    world.give(FRAME, **header)
    with pytest.raises(DeviceBroken, match=rule):
        world.driver.receive()


def test_checksum_beyond_the_frame_is_told(rigs: list[Rig]) -> None:
    world = rig(rigs, BIG)
    world.give(bytes(51), flags=1)
    with pytest.raises(DeviceBroken, match="checksum at 34"):
        world.driver.receive()


def test_frame_shorter_than_its_header_is_told(rigs: list[Rig]) -> None:
    world = rig(rigs, MODERN)
    seen = world.device[RX].pop()
    assert seen is not None
    world.device[RX].push(seen, 11)
    with pytest.raises(DeviceBroken, match="11 bytes"):
        world.driver.receive()


def test_num_buffers_without_mergeable_is_counted_only(rigs: list[Rig]) -> None:
    world = rig(rigs, MODERN)
    world.give(FRAME, buffers=0)
    assert len(world.driver.receive()[0]) == 1
    assert world.driver.counters.rx_odd_num_buffers == 1
