# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver that keeps the rules against the device's rings, in any order of steps, for both layouts.

The model is a queue of buffers. Whatever the steps, the device sees each buffer once, in the order in which it was
made available and with the driver's bytes; the driver gets each back once, in that order, with the device's bytes and
their number. Notifications are counted as the two sides see them: a side that went to sleep after it asked to be
told, and that has something to do now, has been told. Both sides' steps are atomic here, so what only fences prevent
is not tried."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import cycle

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from vu_driver import FRESH, MODERN, PACKED, RAM_SIZE, SPLIT, WRITE, DriverRing, GuestRam, PackedDriverRing

from devmodel.virtio import features as vf
from devmodel.virtio.ring import Chain, Ring
from devmodel.virtio.ring_packed import half_of

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]

AREA = 512  # bytes of memory for each buffer's pieces, and for its indirect table
SIZES = st.sampled_from([0, 1, 7, 60])
SHAPES = st.one_of(  # what a buffer has to read, what to write, and whether in an indirect table
    st.tuples(st.lists(SIZES, min_size=1, max_size=1), st.just([]), st.just(False)),
    st.tuples(st.just([]), st.lists(SIZES, min_size=1, max_size=1), st.just(False)),
    st.tuples(st.lists(SIZES, max_size=3), st.lists(SIZES, max_size=3), st.booleans()),
)


@dataclass
class Buffer:
    """What the driver made available, and what became of it."""

    name: int
    readable: list[bytes]
    writable: list[tuple[int, int]]
    written: bytes = b""
    used: int = -1


@dataclass
class Model:
    """Buffers by whose they are, oldest first."""

    waiting: deque[Buffer] = field(default_factory=deque)
    taken: deque[tuple[Buffer, Chain]] = field(default_factory=deque)
    given: deque[Buffer] = field(default_factory=deque)


class RingMachine(RuleBasedStateMachine):
    """See the module; a subclass says which layout."""

    sizes: tuple[int, ...] = ()
    packed = False

    @initialize(data=st.data(), event_idx=st.booleans(), indirect=st.booleans(), in_order=st.booleans())
    def start(self, data: st.DataObject, event_idx: bool, indirect: bool, in_order: bool) -> None:
        num = data.draw(st.sampled_from(self.sizes))
        self.ram = GuestRam()
        self.memory = self.ram.map()
        self.indirect = indirect
        off = [vf.VIRTIO_F_EVENT_IDX] * (not event_idx) + [vf.VIRTIO_F_INDIRECT_DESC] * (not indirect)
        features = (PACKED if self.packed else MODERN) & ~vf.mask(*off)
        features |= vf.mask(vf.VIRTIO_F_IN_ORDER) * in_order
        self.driver = self.make_driver(num, event_idx, in_order)
        self.features = features
        self.ring = self.make_ring(self.start_at(data))
        self.areas = cycle(range(SPLIT, RAM_SIZE - 2 * AREA, AREA))
        self.model = Model()
        self.bytes = 0
        self.kicked = self.called = False
        self.driver_sleeps = self.device_sleeps = False
        self.owed = False  # the device published and has not asked yet whether to signal

    def make_driver(self, num: int, event_idx: bool, in_order: bool) -> DriverRing | PackedDriverRing:
        raise NotImplementedError

    def start_at(self, data: st.DataObject) -> int:
        """Where both sides begin: its base."""
        raise NotImplementedError

    def make_ring(self, base: int) -> Ring:
        raise NotImplementedError

    # the driver

    def fresh(self, size: int) -> bytes:
        self.bytes += 1
        return bytes((self.bytes + at) & 0xFF for at in range(size))

    @rule(batch=st.lists(SHAPES, min_size=1, max_size=6))
    def driver_adds_a_batch(self, batch: list[tuple[list[int], list[int], bool]]) -> None:
        added = False
        for readable, writable, indirect in batch:
            pieces = (len(readable) + len(writable)) or 1
            indirect = indirect and self.indirect and pieces <= self.driver.num
            if self.driver.room() >= (1 if indirect else pieces):
                self.add(readable, writable or [60] * (not readable), indirect)
                added = True
        if added and self.driver.wants_to_kick():
            self.kicked = True

    def add(self, readable: list[int], writable: list[int], indirect: bool) -> None:
        gpa = next(self.areas)
        self.ram.next_free = next(self.areas)  # where an indirect table goes
        descriptors, data, places = [], [], []
        for size in readable:
            data.append(self.fresh(size))
            self.ram.write(gpa, data[-1])
            descriptors.append((gpa, size, 0))
            gpa += 64
        for size in writable:
            places.append((gpa, size))
            descriptors.append((gpa, size, WRITE))
            gpa += 64
        name = self.driver.add(descriptors, indirect)
        self.model.waiting.append(Buffer(name, data, places))

    @rule(then=st.sampled_from(["sleep", "look", "nothing"]))
    def driver_looks(self, then: str) -> None:
        self.called = self.driver_sleeps = False
        self.collect()
        if then == "sleep":
            while self.driver.sleep():
                self.collect()
            self.driver_sleeps = True
        elif then == "look":
            self.driver.look_by_itself()

    def collect(self) -> None:
        for name, size in self.driver.used():
            buffer = self.model.given.popleft()
            assert name == buffer.name
            assert size == buffer.used
            data = b"".join(self.ram.read(gpa, length) for gpa, length in buffer.writable)
            assert data[:size] == buffer.written

    # the device

    def check_taken(self, chain: Chain) -> None:
        buffer = self.model.waiting.popleft()
        assert chain.head == buffer.name
        assert [bytes(piece) for piece in chain.readable] == buffer.readable
        assert [len(piece) for piece in chain.writable] == [size for _, size in buffer.writable]
        self.model.taken.append((buffer, chain))

    @rule(count=st.integers(1, 6))
    def device_takes(self, count: int) -> None:
        self.device_sleeps = self.kicked = False
        for _ in range(count):
            chain = self.ring.pop()
            if chain is None:
                assert not self.model.waiting
                break
            self.check_taken(chain)

    @precondition(lambda self: self.model.taken)
    @rule(count=st.integers(1, 3))
    def device_puts_back(self, count: int) -> None:
        self.device_sleeps = False
        taken = self.model.taken
        last = [taken.pop() for _ in range(min(count, len(taken)))]
        self.ring.unpop([chain for _, chain in reversed(last)])
        self.model.waiting.extendleft(buffer for buffer, _ in last)

    @precondition(lambda self: self.model.taken)
    @rule(count=st.integers(1, 6), share=st.sampled_from([0.0, 0.5, 1.0]))
    def device_gives_back(self, count: int, share: float) -> None:
        taken = self.model.taken
        for _ in range(min(count, len(taken))):
            buffer, chain = taken.popleft()
            size = int(share * sum(map(len, chain.writable)))
            self.written(buffer, self.fresh(size))
            at = 0
            for piece in chain.writable:
                part = buffer.written[at : at + len(piece)]
                piece[: len(part)] = part
                at += len(part)
            self.ring.push(chain.head, size)

    def written(self, buffer: Buffer, data: bytes) -> None:
        buffer.written, buffer.used = data, len(data)
        self.model.given.append(buffer)

    @precondition(lambda self: not self.model.taken)
    @rule(budget=st.integers(1, 8))
    def device_drains(self, budget: int) -> None:
        self.device_sleeps = self.kicked = False
        seen = self.ring.drain(lambda readable, writable: list(map(bytes, readable)), budget)
        for pieces in seen:
            buffer = self.model.waiting.popleft()
            assert pieces == buffer.readable
            self.written(buffer, b"")
        assert len(seen) == budget or not self.model.waiting

    @precondition(lambda self: not self.model.taken)
    @rule(sizes=st.lists(st.sampled_from([0, 1, 12, 60, 100]), min_size=1, max_size=4))
    def device_fills(self, sizes: list[int]) -> None:
        self.device_sleeps = self.kicked = False
        parts = [self.fresh(size) for size in sizes]
        taken = self.ring.fill(parts, 0)
        data = b"".join(parts)
        for _ in range(taken[0] if taken else 0):
            buffer = self.model.waiting.popleft()
            assert not buffer.readable
            [(_, room)] = buffer.writable
            self.written(buffer, data[:room])
            data = data[room:]
        assert not taken or not data

    @rule(ask=st.booleans())
    def device_publishes(self, ask: bool) -> None:
        self.owed |= self.ring.publish()
        if ask:
            self.owed = False
            self.called |= self.ring.needs_signal()

    @rule()
    def device_arms(self) -> None:
        self.device_sleeps = not self.ring.arm_kicks()
        self.kicked = False
        if self.device_sleeps:
            assert not self.ring.unseen()

    @rule()
    def device_suppresses(self) -> None:
        self.ring.suppress_kicks()
        self.device_sleeps = False

    @precondition(lambda self: not self.model.taken)
    @rule()
    def device_stops_and_starts(self) -> None:
        self.ring.publish()
        base = self.ring.base
        self.ring.release()
        self.ring = self.make_ring(base)
        assert not self.ring.resynchronised
        assert self.ring.base == base
        self.owed, self.device_sleeps = True, False

    # what always holds

    @invariant()
    def nobody_sleeps_over_what_he_asked_to_be_told(self) -> None:
        if not hasattr(self, "ring"):
            return
        if self.device_sleeps and self.ring.unseen():
            assert self.kicked
            assert self.model.waiting
        if self.driver_sleeps and self.driver.has_used() and self.driver.chains and not self.owed:
            assert self.called

    def teardown(self) -> None:
        if not hasattr(self, "ring"):
            return
        self.device_takes(1 << 20)
        self.device_gives_back(1 << 20, 1.0)
        self.device_publishes(ask=True)
        self.collect()
        assert self.model == Model()
        assert self.driver.room() == self.driver.num
        self.ring.release()
        self.memory.close()
        self.ram.close()


class SplitMachine(RingMachine):
    sizes = (1, 2, 4, 16)

    def make_driver(self, num: int, event_idx: bool, in_order: bool) -> DriverRing:
        return DriverRing(self.ram, num, event_idx, in_order)

    def start_at(self, data: st.DataObject) -> int:
        assert isinstance(self.driver, DriverRing)
        base = data.draw(st.sampled_from([0, 7, 65530, 65535]))
        self.driver.set_avail_idx(base)
        self.driver.set_used_idx(base)
        self.driver.last_used = self.driver.kicked_idx = base
        return base

    def make_ring(self, base: int) -> Ring:
        assert isinstance(self.driver, DriverRing)
        return self.driver.device(self.memory, self.features, base=base)


class PackedMachine(RingMachine):
    sizes = (1, 2, 3, 5, 16)
    packed = True

    def make_driver(self, num: int, event_idx: bool, in_order: bool) -> PackedDriverRing:
        return PackedDriverRing(self.ram, num, event_idx, in_order)

    def start_at(self, data: st.DataObject) -> int:
        assert isinstance(self.driver, PackedDriverRing)
        position = data.draw(st.integers(0, 2 * self.driver.num - 1))
        self.driver.reset(position)
        return half_of(position, self.driver.num) * 0x10001 if position else FRESH

    def make_ring(self, base: int) -> Ring:
        assert isinstance(self.driver, PackedDriverRing)
        return self.driver.device(self.memory, self.features, base=base, resumed=True)


bounded = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSplitRing = SplitMachine.TestCase
TestSplitRing.settings = bounded
TestPackedRing = PackedMachine.TestCase
TestPackedRing.settings = bounded
