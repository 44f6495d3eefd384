# SPDX-License-Identifier: GPL-2.0-or-later
"""What is counted of kicks and interrupts, and that it adds up whatever device and driver do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devmodel.port import Offloads, VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.features import DEVICE_FEATURES
from guest.driver.loop import World
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX

FRAME = bytes(60)
PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
NO_EVENT_IDX = DRIVER_FEATURES & ~vf.mask(vf.VIRTIO_F_EVENT_IDX)


class Answering:
    """Whoever is behind the port: it answers each batch by one frame, or is silent."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers = False

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None: ...

    def batch_done(self) -> None:
        if self.answers:
            self.world.port.send(None, [FRAME])

    def link_changed(self, up: bool, offloads: Offloads) -> None: ...


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.start()
    settle_down(made)
    yield made
    made.close()


def settle_down(world: World) -> None:
    """What a fresh ring does once lies behind."""
    world.send(FRAME)
    world.sleep(1.0)


def counts(world: World, index: int, side: str) -> dict[str, int]:
    (ring,) = (one for one in world.port.negotiation()["rings"] if one["index"] == index)
    found: dict[str, int] = ring["audit"][side]
    return found


class Change:
    """What grew since it was made."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.before = {(index, side): counts(world, index, side) for index in (RX, TX) for side in SIDES}

    def of(self, index: int, side: str) -> dict[str, int]:
        now, before = counts(self.world, index, side), self.before[index, side]
        return {name: value - before[name] for name, value in now.items() if value != before[name]}


SIDES = ("kicks", "interrupts")


def test_batch_with_a_kick(world: World) -> None:
    change = Change(world)
    world.send(FRAME, FRAME)
    world.settle()
    assert change.of(TX, "kicks") == {"kicks": 1, "batches": 1}


def test_kick_that_finds_nothing_is_spurious(world: World) -> None:
    change = Change(world)
    world.kick(TX)
    world.kick(RX)
    world.settle()
    assert change.of(TX, "kicks") == change.of(RX, "kicks") == {"kicks": 1, "spurious": 1}


def test_batch_that_came_while_no_kick_was_wanted_is_one_without(world: World) -> None:
    change = Change(world)
    answering = Answering(world)
    world.port.attach(answering)
    once = iter([True])

    def more() -> None:
        if next(once, False):
            world.send(FRAME)  # the driver sends while the device is at it

    answering.batch_done = more  # type: ignore[method-assign]
    world.send(FRAME)
    world.settle()
    assert change.of(TX, "kicks") == {"kicks": 1, "suppressed": 1, "batches": 2}


def test_rest_of_a_long_look_needs_no_kick_either() -> None:
    world = World(memory_size=32 << 20)
    world.start(num=2048)
    settle_down(world)
    change = Change(world)
    world.send(*[FRAME] * 1500)  # 1024 chains are looked at in one turn of the loop, 256 in a batch
    world.settle()
    assert change.of(TX, "kicks") == {"kicks": 1, "suppressed": 5, "batches": 6}
    world.close()


def test_ring_that_is_stopped_while_its_frames_are_handed_on_is_not_asked(world: World) -> None:
    answering = Answering(world)
    world.port.attach(answering)
    answering.batch_done = lambda: world.stop() and None  # type: ignore[method-assign]
    change = Change(world)
    world.send(FRAME)
    world.settle()
    assert change.of(TX, "interrupts") == {"shown": 1, "stopped": 1}
    assert change.of(TX, "kicks") == {"kicks": 1, "batches": 1}


def test_lost_kick_is_found_by_the_recheck(world: World) -> None:
    change = Change(world)
    world.lose_kicks = 1
    world.send(FRAME)
    world.sleep(0.2)
    assert change.of(TX, "kicks") == {"lost": 1, "batches": 1}


def test_batch_that_waited_at_the_start_is_counted_as_such() -> None:
    world = World()
    driver = world.start()
    world.stop()
    driver.queue(FRAME)
    driver.tx.publish()
    change = Change(world)
    world.resume()
    assert change.of(TX, "kicks") == {"at_start": 1, "batches": 1}
    world.close()


def test_frames_that_wait_for_buffers_are_a_batch_of_the_receive_queue(world: World) -> None:
    assert world.driver is not None
    for _ in range(64):
        world.port.send(None, [FRAME])
    world.port.flush()
    change = Change(world)
    for _ in range(10):
        world.port.send(None, [FRAME])
    world.settle()
    assert change.of(RX, "kicks") == {"kicks": 1, "batches": 1}
    assert len(world.received) == 74


def test_interrupt_that_the_driver_wants_is_sent(world: World) -> None:
    change = Change(world)
    world.port.send(None, [FRAME])
    world.port.flush()
    world.settle()
    assert change.of(RX, "interrupts") == {"shown": 1, "needed": 1, "sent": 1}


def test_interrupt_that_it_does_not_want_is_suppressed(world: World) -> None:
    change = Change(world)
    world.send(FRAME)  # this driver wants none for what it has sent
    world.settle()
    assert change.of(TX, "interrupts") == {"shown": 1, "suppressed": 1}


def test_answered_batch_is_coalesced_and_settled_when_the_driver_looked(world: World) -> None:
    answering = Answering(world)
    world.port.attach(answering)
    answering.answers = True
    change = Change(world)
    world.send(FRAME)
    world.settle()
    assert change.of(TX, "interrupts") == {"shown": 1, "coalesced": 1}
    assert change.of(RX, "interrupts") == {"shown": 1, "needed": 1, "sent": 1}
    world.sleep(0.2)
    assert change.of(TX, "interrupts") == {"shown": 1, "coalesced": 1, "suppressed": 1, "settled": 1}


def test_answered_batch_whose_driver_waits_is_found_by_the_recheck(world: World) -> None:
    assert world.driver is not None
    answering = Answering(world)
    world.port.attach(answering)
    answering.answers = True
    world.driver.reclaim()
    world.driver.tx.enable_calls()
    change = Change(world)
    world.send(FRAME)
    world.sleep(0.2)
    assert change.of(TX, "interrupts") == {"shown": 1, "coalesced": 1, "needed": 1, "lost": 1, "sent": 1}


def test_fresh_ring_is_told_of_once() -> None:
    world = World()
    world.start()
    world.sleep(1.0)
    assert {name: n for name, n in counts(world, TX, "interrupts").items() if n} == {
        "needed": 1,
        "fresh": 1,
        "sent": 1,
    }
    world.close()


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("to_guest"), st.integers(1, 40)),
    st.tuples(st.just("kick"), st.sampled_from([RX, TX])),
    st.tuples(st.just("sleep"), st.sampled_from([0.001, 0.006, 0.1])),
    st.tuples(
        st.sampled_from(["lose_kick", "lose_signal", "wait_tx", "answer", "settle", "restart", "back"]),
        st.just(0),
    ),
)


def step(world: World, behind: Answering, what: str, number: int) -> None:
    assert world.driver is not None
    match what:
        case "send":
            world.send(*[FRAME] * min(number, world.driver.tx.free // 2))
        case "to_guest":
            for _ in range(number):
                world.port.send(None, [FRAME])
            world.port.flush()
        case "kick":
            world.kick(number)
        case "sleep":
            world.sleep(number)
        case "lose_kick":
            world.lose_kicks = 1
        case "lose_signal":
            world.lose_signals = 1
        case "wait_tx":
            world.driver.reclaim()
            world.driver.tx.enable_calls()
        case "answer":
            behind.answers = not behind.answers
        case "settle":
            world.settle()
        case "restart":
            world.stop()
            world.start(world.driver.features)
        case "back":
            world.link.disconnect()
            world.connect()
            world.start(world.driver.features)


@settings(max_examples=60, deadline=None)
@given(
    features=st.sampled_from(
        [DRIVER_FEATURES, NO_EVENT_IDX, DRIVER_FEATURES | PACKED, NO_EVENT_IDX | PACKED]
    ),
    steps=st.lists(STEPS, max_size=25),
)
def test_counts_add_up_whatever_happens(features: int, steps: list[tuple[str, int]]) -> None:
    world = World(offered=DEVICE_FEATURES | PACKED)
    behind = Answering(world)
    world.port.attach(behind)
    world.start(features)
    for what, number in steps:
        step(world, behind, what, number)
    stats = world.port.stats()
    kicks = [counts(world, index, "kicks") for index in (RX, TX)]
    interrupts = [counts(world, index, "interrupts") for index in (RX, TX)]
    for one in kicks:
        found = one["kicks"] - one["spurious"] + one["lost"] + one["at_start"] + one["suppressed"]
        assert one["batches"] == found, one
    for one in interrupts:
        decided = one["needed"] + one["suppressed"]
        without_batch = one["lost"] + one["settled"] + one["fresh"] + one["timed"]
        put_off = one["coalesced"] + one["stopped"] + one["held"]
        assert one["shown"] + without_batch == decided + put_off, one
        assert one["needed"] == one["sent"] + one["unsent"], one
        assert one["lost"] + one["settled"] <= one["coalesced"], one
    assert sum(one["kicks"] for one in kicks) == stats["kicks"]
    assert sum(one["lost"] for one in kicks) == stats["lost_kicks"]
    assert sum(one["sent"] for one in interrupts) == stats["signals"]
    assert kicks[TX]["batches"] == stats["batches"] == interrupts[TX]["shown"]
    world.close()
