# SPDX-License-Identifier: GPL-2.0-or-later
"""Notifications that a driver lets wait: NOTF_COAL on the step clock, where an interrupt has a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from devmodel.virtio import ctrl
from devmodel.virtio import features as vf
from guest.driver.control import coalescing, queue_coalescing, queue_coalescing_get
from guest.driver.loop import World
from guest.driver.virtio_net import CONTROL_FEATURES, DRIVER_FEATURES, RX, TX

RX_SET, TX_SET = ctrl.VIRTIO_NET_CTRL_NOTF_COAL_RX_SET, ctrl.VIRTIO_NET_CTRL_NOTF_COAL_TX_SET
ALL = DRIVER_FEATURES | CONTROL_FEATURES
PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
EVENT_IDX = vf.mask(vf.VIRTIO_F_EVENT_IDX)
FRAME = bytes(60)


class Behind:
    """Takes what comes up and says nothing."""

    def frame_received(self, hdr: object, frame: bytes) -> None: ...

    def batch_done(self) -> None: ...

    def link_changed(self, up: bool, offloads: object) -> None: ...


@pytest.fixture(
    params=[ALL, ALL & ~EVENT_IDX, ALL | PACKED, (ALL | PACKED) & ~EVENT_IDX],
    ids=["split", "split, no EVENT_IDX", "packed", "packed, no EVENT_IDX"],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(control_queue=True)
    made.port.attach(Behind())
    made.start(request.param, num=16)
    made.sleep(1)
    yield made
    made.close()


def send(world: World, count: int = 1) -> int:
    """So many frames in one batch; how many frames the guest has now been interrupted for."""
    for _ in range(count):
        assert world.port.send(None, [FRAME])
    world.port.flush()
    world.settle()
    return len(world.received)


def test_nothing_waits_before_the_driver_says_so(world: World) -> None:
    assert send(world) == 1
    assert not world.port._coalescer.active


def test_frame_waits_for_max_usecs(world: World) -> None:
    assert world.command(coalescing(RX_SET, 1000, 0)) == 0
    assert send(world) == 0
    world.sleep(0.000999)
    assert world.received == []
    world.sleep(0.000002)
    assert len(world.received) == 1
    assert send(world) == 1  # the next one has a time of its own
    world.sleep(0.001001)
    assert len(world.received) == 2


def test_frames_since_the_first_share_its_time(world: World) -> None:
    world.command(coalescing(RX_SET, 1000, 0))
    for _ in range(5):
        send(world)
        world.sleep(0.00018)
    assert world.received == []
    world.sleep(0.0002)
    assert len(world.received) == 5
    signals = world.port.stats()["signals"]
    world.sleep(0.01)
    assert world.port.stats()["signals"] == signals


def test_frame_that_makes_max_packets_is_told_of_at_once(world: World) -> None:
    world.command(coalescing(RX_SET, 500_000, 4))
    assert [send(world) for _ in range(4)] == [0, 0, 0, 4]
    assert [send(world, 2), send(world, 3), send(world)] == [4, 9, 9]
    world.sleep(0.6)
    assert len(world.received) == 10


def test_packets_without_a_time_do_not_wait(world: World) -> None:
    """A last packet would be told of never."""
    assert world.command(coalescing(RX_SET, 0, 16)) == 0
    assert send(world) == 1


def test_driver_without_buffers_is_told_at_once(world: World) -> None:
    """What waits for its buffers would wait for the notification besides."""
    world.command(coalescing(RX_SET, 1_000_000, 0))
    assert send(world, 3) == 0
    assert send(world, 14) == 16
    world.sleep(1.001)
    assert len(world.received) == 17
    assert world.port.stats()["tx_dropped"] == 0


def test_what_waits_is_told_of_when_the_driver_changes_its_mind(world: World) -> None:
    world.command(coalescing(RX_SET, 1_000_000, 0))
    assert send(world) == 0
    world.command(coalescing(RX_SET, 0, 0))
    assert len(world.received) == 1
    assert send(world) == 2


def test_one_queue_has_its_own(world: World) -> None:
    world.command(coalescing(RX_SET, 1_000_000, 8))
    assert world.command(queue_coalescing(RX, 2000, 3)) == 0
    assert world.ask(queue_coalescing_get(RX), 12) == b"\0" + struct.pack("<H2xII", RX, 3, 2000)
    assert world.ask(queue_coalescing_get(TX), 12) == b"\0" + struct.pack("<H2xII", TX, 0, 0)
    assert world.command(queue_coalescing(7, 1, 1)) == 1
    assert [send(world) for _ in range(3)] == [0, 0, 3]
    assert send(world) == 3
    world.sleep(0.0021)
    assert len(world.received) == 4


def test_reset_forgets_it(world: World) -> None:
    world.command(coalescing(RX_SET, 1_000_000, 0))
    assert send(world) == 0
    world.stop()
    assert world.driver is not None
    world.start(world.driver.features, num=16)
    world.received.clear()
    assert send(world) == 1


def test_disconnect_leaves_no_timer(world: World) -> None:
    world.command(coalescing(RX_SET, 1_000_000, 0))
    send(world)
    world.link.disconnect()
    world.settle()
    assert world.loop.next_deadline() is None


def sent(world: World, count: int) -> int:
    """The guest sends so many and wants to be told of them; how often it has been."""
    assert world.driver is not None
    before = world.port.stats()["signals"]
    for _ in range(count):
        world.driver.queue(FRAME)
    world.driver.tx.enable_calls()
    if world.driver.tx.publish():
        world.kick(TX)
    world.settle()
    return world.port.stats()["signals"] - before


def test_transmit_queue_waits_too(world: World) -> None:
    assert sent(world, 1) == 1
    world.command(coalescing(TX_SET, 2000, 4))
    assert [sent(world, 1) for _ in range(4)] == [0, 0, 0, 1]
    before = world.port.stats()["signals"]
    assert sent(world, 2) == 0
    world.sleep(0.0021)
    assert world.port.stats()["signals"] == before + 1


def test_transmit_queue_is_not_told_of_sooner_by_the_look_after_5_ms(world: World) -> None:
    world.command(coalescing(TX_SET, 100_000, 0))
    assert sent(world, 1) == 0
    before = world.port.stats()["signals"]
    world.sleep(0.099)
    assert world.port.stats()["signals"] == before
    world.sleep(0.002)
    assert world.port.stats()["signals"] == before + 1
