# SPDX-License-Identifier: GPL-2.0-or-later
"""A device that is killed at any of its stores, and another one that goes on in the same memory with the same inflight
region: every buffer comes back exactly once, frames out of the guest arrive at least once, in order.

The driver is strict: a buffer that comes back without being out, or with more bytes than it has room for,
is DeviceBroken. A buffer that never comes back is missed at the end, when all must be in the driver's hands again
(transmit) or are filled one after the other, twice as many as the ring has (receive)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from crash import Killed, kill_at_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devmodel.port import Offloads, VnetHdr
from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio import features as vf
from guest.driver.loop import World
from guest.driver.virtio_net import DRIVER_FEATURES, TX
from guest.driver.virtqueue import Piece, QueueFull

PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
INDIRECT = vf.mask(vf.VIRTIO_F_INDIRECT_DESC)
EVENT_IDX = vf.mask(vf.VIRTIO_F_EVENT_IDX)
IN_ORDER = vf.mask(vf.VIRTIO_F_IN_ORDER)
MERGEABLE = vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)

KINDS = {
    "split": DRIVER_FEATURES,
    "split, no EVENT_IDX, no indirect": DRIVER_FEATURES & ~(INDIRECT | EVENT_IDX),
    "split, IN_ORDER, lists": (DRIVER_FEATURES | IN_ORDER) & ~INDIRECT,
    "split, long receive buffers": DRIVER_FEATURES & ~MERGEABLE,
    "packed": DRIVER_FEATURES | PACKED,
    "packed, no EVENT_IDX, lists": (DRIVER_FEATURES | PACKED) & ~(INDIRECT | EVENT_IDX),
    "packed, IN_ORDER, lists": (DRIVER_FEATURES | PACKED | IN_ORDER) & ~INDIRECT,
    "packed, long receive buffers": (DRIVER_FEATURES | PACKED) & ~MERGEABLE,
}
THOROUGH = ("split", "packed", "packed, IN_ORDER, lists")
SMALL = 60


def frame_of(number: int, size: int = SMALL) -> bytes:
    return number.to_bytes(4, "big").ljust(size, b"\x5a")


class Behind:
    """Behind the port: what arrived."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.dies_in_batch_done = False

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self.numbers.append(int.from_bytes(frame[:4], "big"))

    def batch_done(self) -> None:
        if self.dies_in_batch_done:
            raise Killed

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        pass


class Machine:
    """A guest whose device may die."""

    def __init__(self, features: int, num: int) -> None:
        self.world = World(inflight=True)
        self.behind = Behind()
        self.world.port.attach(self.behind)
        self.driver = self.world.start(features, num)
        self.num = num
        self.sent = 0
        self.delivered = 0  # by the host, to the guest

    @property
    def port(self) -> VhostUserServer:
        return self.world.port

    def queue(self, size: int, pieces: int) -> None:
        """A frame out of the guest, in so many descriptors."""
        driver = self.driver
        whole = bytes(driver.hdr_size) + frame_of(self.sent, size)
        cut = len(whole) // pieces
        parts = [whole[at * cut : (at + 1) * cut if at < pieces - 1 else None] for at in range(pieces)]
        driver.reclaim()
        indirect = driver.tx.indirect and pieces > 1
        if driver.tx.free < (1 if indirect else pieces):
            return
        put = [Piece(*driver.memory.put(part)) for part in parts]
        with contextlib.suppress(QueueFull):
            driver.tx.add(put, put, indirect)
            self.sent += 1

    def guest_sends(self, sizes: list[tuple[int, int]]) -> None:
        for size, pieces in sizes:
            self.queue(size, pieces)
        if self.driver.tx.publish():
            self.world.kick(TX)

    def host_sends(self, sizes: list[int]) -> None:
        for size in sizes:
            self.port.send(None, [frame_of(self.delivered, size)])
            self.delivered += 1
        self.port.flush()

    def work(self, down: list[int]) -> None:
        """What the device may be killed in."""
        self.world.settle()
        self.host_sends(down)
        self.world.settle()

    def die_and_recover(self) -> None:
        self.world.crash().attach(self.behind)
        self.driver.reclaim()

    def recovered(self, at: int = 1 << 30) -> bool:
        """Take over; False if it was killed again meanwhile."""

        def work() -> None:
            self.world.take_over()
            self.world.settle()

        return not self.killed(at, work)

    def killed(self, at: int, work: Callable[[], object]) -> bool:
        """Whether the device died at that store, or by itself, before the work was done."""
        done = False

        def whole() -> None:
            nonlocal done
            work()
            done = True

        kill_at_store(at, whole)
        return not done

    def check(self) -> None:
        """Nothing is out, nothing is lost, no frame went missing or out of order."""
        self.world.sleep(0.01)
        assert not self.driver.rx.enable_calls(), "the driver was not told of what came back"
        self.driver.reclaim()
        assert self.driver.tx.outstanding() == 0
        assert [*dict.fromkeys(self.behind.numbers)] == list(range(self.sent))
        before = len(self.world.received)
        for number in range(2 * self.num):
            assert self.port.send(None, [frame_of(1 << 20 | number)])
            if number % 3 == 0:
                self.port.flush()
                self.world.settle()
        self.port.flush()
        self.world.settle()
        got = [int.from_bytes(frame[:4], "big") for _, frame in self.world.received[before:]]
        assert got == [1 << 20 | number for number in range(2 * self.num)]
        self.guest_sends([(SMALL, 1)] * min(self.num, 3))
        self.world.settle()
        self.driver.reclaim()
        assert self.driver.tx.outstanding() == 0
        assert [*dict.fromkeys(self.behind.numbers)] == list(range(self.sent))
        assert self.port.stats()["broken_rings"] == 0
        self.world.close()


BATCHES = {
    "mixed": (8, [(SMALL, 1), (700, 2), (SMALL, 1)], [SMALL, 2000]),
    "as long as the ring": (4, [(SMALL, 1)] * 4, [SMALL] * 4),
    "more than fits": (8, [], [SMALL, 2000, 7000]),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_each_store_in_turn_of_one_batch(kind: str, batch: str) -> None:
    """At each fifth for kinds that differ in the shape of buffers only."""
    num, up, down = BATCHES[batch]
    at = 0
    while True:
        machine = Machine(KINDS[kind], num)
        for _ in range(3):  # so that a ring wraps in the batch
            machine.guest_sends([(SMALL, 1), (SMALL, 1)])
            machine.host_sends([SMALL, SMALL])
            machine.world.settle()
        machine.guest_sends(up)
        if not machine.killed(at, lambda machine=machine: machine.work(down)):  # type: ignore[misc]
            break
        machine.die_and_recover()
        assert machine.recovered()
        machine.check()
        at += 1 if kind in THOROUGH else 5
    assert at > 20


STEPS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from([SMALL, 300, 1514]), st.integers(1, 4)), max_size=6),
        st.lists(st.sampled_from([SMALL, 1514, 3000]), max_size=4),
        st.one_of(st.just(1 << 30), st.integers(0, 150)),
        st.integers(0, 60),
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(sorted(KINDS)), num=st.sampled_from([4, 8, 16]), steps=STEPS)
def test_killed_again_and_again_in_random_traffic(
    kind: str, num: int, steps: list[tuple[list[tuple[int, int]], list[int], int, int]]
) -> None:
    machine = Machine(KINDS[kind], num)
    for up, down, at, again in steps:
        machine.guest_sends([(size, min(pieces, num)) for size, pieces in up])
        if machine.killed(at, lambda down=down: machine.work(down)):
            machine.die_and_recover()
            if not machine.recovered(again):
                machine.die_and_recover()
                assert machine.recovered()
    machine.check()


@pytest.mark.parametrize("kind", KINDS)
def test_killed_between_handing_on_and_publishing_hands_on_twice(kind: str) -> None:
    machine = Machine(KINDS[kind], 8)
    machine.behind.dies_in_batch_done = True
    machine.guest_sends([(SMALL, 1), (SMALL, 2)])
    assert machine.killed(1 << 30, machine.world.settle)
    machine.behind.dies_in_batch_done = False
    machine.die_and_recover()
    assert machine.recovered()
    assert machine.behind.numbers == [0, 1, 0, 1]
    assert machine.port.stats()["resubmitted_buffers"] == 2
    machine.check()


@pytest.mark.parametrize("kind", KINDS)
def test_rings_stopped_in_good_order_resume_with_the_region(kind: str) -> None:
    machine = Machine(KINDS[kind], 8)
    for _ in range(5):
        machine.guest_sends([(SMALL, 1), (SMALL, 2)])
        machine.host_sends([SMALL])
        machine.world.settle()
        machine.world.stop()
        machine.world.resume()
        machine.world.settle()
    assert machine.behind.numbers == list(range(machine.sent))
    assert machine.port.stats()["resubmitted_buffers"] == 0
    machine.check()
