# SPDX-License-Identifier: GPL-2.0-or-later
"""The dirty log and the rings that mark in it: each step of a ring, and what it wrote."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from vu_driver import MODERN, PACKED, RAM_SIZE, SPLIT, DriverRing, GuestRam, PackedDriverRing

from devmodel.virtio.dirtylog import EARLY_LIMIT, DirtyLog, LoggedPackedRing, LoggedSplitRing, log_size
from devmodel.virtio.memory import GuestMemory, RegionSpec
from devmodel.virtio.ring import Ring
from devmodel.virtio.spec import PVIRTQ_EVENT_SIZE, desc_size, used_size

APART = 1 << 15


class Bitmap:
    """A log in ordinary memory."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.view = memoryview(self.bytes)
        self.closed = False

    def close(self) -> None:
        self.view.release()
        self.closed = True

    def take(self) -> set[int]:
        """The page numbers that were marked."""
        pages = {at * 8 + bit for at, byte in enumerate(self.bytes) for bit in range(8) if byte >> bit & 1}
        self.bytes[:] = bytes(len(self.bytes))
        return pages


class Bench:
    """A driver's ring, the device's side of it that logs, and what of memory changed."""

    def __init__(self, packed: bool, num: int = 16) -> None:
        self.ram = GuestRam()
        self.ram.alloc = self.apart  # type: ignore[method-assign]
        self.driver: Any = (PackedDriverRing if packed else DriverRing)(self.ram, num)
        self.memory = self.ram.map()
        self.bitmap = Bitmap(log_size(self.memory))
        self.log = DirtyLog()
        self.log.set_base(self.bitmap, self.memory)
        areas = self.driver.areas(self.memory)
        self.ring: Ring
        if packed:
            own = [(self.driver.desc_gpa, desc_size(num)), (self.driver.used_gpa, PVIRTQ_EVENT_SIZE)]
            self.ring = LoggedPackedRing(0, num, self.memory, areas, PACKED, 0x8000, True, self.log, own)
        else:
            own = [(self.driver.used_gpa, used_size(num))]
            self.ring = LoggedSplitRing(0, num, self.memory, areas, MODERN, 0, self.log, own)
        self.before = self.ram.read(0, RAM_SIZE)

    def apart(self, size: int, align: int = APART) -> int:
        """Nothing shares its byte of the log with anything else."""
        gpa = -(-self.ram.next_free // APART) * APART
        self.ram.next_free = gpa + size
        return gpa

    def wrote(self) -> set[int]:
        """The pages that are not as they were when this was asked last."""
        now = self.ram.read(0, RAM_SIZE)
        old, self.before = self.before, now
        return {
            page
            for page in range(RAM_SIZE >> 12)
            if now[page << 12 : page + 1 << 12] != old[page << 12 : page + 1 << 12]
        }

    def check(self) -> set[int]:
        """What was written since the last look is in the log, which is cleared."""
        marked = self.bitmap.take()
        wrote = self.wrote()
        assert wrote <= marked
        return wrote

    def driver_wrote(self) -> None:
        self.wrote()

    def close(self) -> None:
        self.ring.release()
        self.memory.close()
        self.ram.close()


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.close()


def test_each_step_of_a_ring_is_marked_before_the_next(bench: Bench) -> None:
    _, places = bench.driver.add_in(6000, 3000)
    bench.driver_wrote()
    chain = bench.ring.pop()
    assert chain is not None
    assert not bench.check()
    chain.writable[0][:] = b"x" * 6000
    chain.writable[1][:10] = b"x" * 10
    bench.ring.push(chain.head, 6010)
    pages = bench.check()
    assert {places[0][0] >> 12, (places[0][0] >> 12) + 1, places[1][0] >> 12} <= pages
    bench.ring.publish()
    assert bench.check()
    bench.ring.suppress_kicks()
    bench.check()
    bench.ring.arm_kicks()
    bench.check()
    assert bench.driver.used()
    assert not bench.bitmap.take()


def test_chain_that_is_put_back_and_taken_again_is_marked_once_written(bench: Bench) -> None:
    for _ in range(3):
        bench.driver.add_in(100)
    bench.driver_wrote()
    taken = [bench.ring.pop() for _ in range(3)]
    bench.ring.unpop([chain for chain in taken if chain])
    assert not bench.bitmap.take()
    for _ in range(3):
        chain = bench.ring.pop()
        assert chain is not None
        chain.writable[0][:] = b"y" * 100
        bench.ring.push(chain.head, 100)
        assert len(bench.check()) >= 1
    bench.ring.publish()
    bench.check()


def test_buffer_that_is_only_read_is_not_marked(bench: Bench) -> None:
    gpa = bench.ram.alloc(1) + APART
    bench.driver.add_out(b"z" * 5000)
    bench.driver_wrote()
    assert bench.ring.drain(lambda pieces, _: b"".join(pieces), 10) == [b"z" * 5000]
    bench.ring.publish()
    marked = bench.bitmap.take()
    assert marked
    assert not marked & set(range(gpa >> 12, gpa + 3 * APART >> 12))


def test_buffer_across_two_regions_is_marked_on_both_sides(bench: Bench) -> None:
    bench.driver.add([(SPLIT - 100, 200, 2)])
    bench.driver_wrote()
    chain = bench.ring.pop()
    assert chain is not None
    assert len(chain.writable) == 2
    for piece in chain.writable:
        piece[:] = b"w" * 100
    bench.ring.push(chain.head, 200)
    assert {(SPLIT >> 12) - 1, SPLIT >> 12} <= bench.check()


@pytest.mark.parametrize("seed", range(3))
def test_random_steps_of_a_ring_are_all_in_the_log(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    taken: list[Any] = []
    for _ in range(150):
        if rng.random() < 0.4 and bench.driver.room() >= 3 and bench.ram.next_free + 3 * APART < RAM_SIZE:
            bench.driver.add_in(*[rng.randint(1, 9000) for _ in range(rng.randint(1, 3))])
        bench.driver_wrote()
        step = rng.randrange(6)
        if step == 0 and (chain := bench.ring.pop()):
            taken.append(chain)
        elif step == 1 and taken:
            bench.ring.unpop(taken)
            taken = []
        elif step in (2, 3) and taken:
            chain = taken.pop(0)
            room = rng.randint(0, sum(map(len, chain.writable)))
            left = room
            for piece in chain.writable:
                now = min(left, len(piece))
                piece[:now] = rng.randbytes(now)
                left -= now
            bench.ring.push(chain.head, room)
        elif step == 4:
            bench.ring.publish()
        else:
            (bench.ring.arm_kicks, bench.ring.suppress_kicks)[rng.randrange(2)]()
        bench.check()
        if not taken:
            bench.driver.used()
            bench.driver_wrote()


# -- the log itself ----------------------------------------------------------------------------------------------


def test_mark_takes_nothing_away_that_others_set() -> None:
    ram = GuestRam()
    memory = ram.map()
    bitmap = Bitmap(log_size(memory))
    bitmap.bytes[:] = b"\x55" * len(bitmap.bytes)
    log = DirtyLog()
    log.set_base(bitmap, memory)
    log.mark([(0, 1), (5 * APART - 1, 2)])
    assert bitmap.bytes[0] == bitmap.bytes[4] == bitmap.bytes[5] == 0xFF
    assert set(bitmap.bytes[1:4]) == {0x55}
    assert set(bitmap.bytes[6:]) == {0x55}
    memory.close()
    ram.close()


def test_marks_before_there_is_a_log_are_repeated_in_it() -> None:
    ram = GuestRam()
    memory = ram.map()
    log = DirtyLog()
    log.mark([(3 * APART, 10)])
    bitmap = Bitmap(log_size(memory))
    log.set_base(bitmap, memory)
    assert bitmap.take() == set(range(24, 32))
    log.mark([(0, 1)])
    assert bitmap.take() == set(range(8))
    later = Bitmap(log_size(memory))
    log.set_base(later, memory)  # while rings run: the frontend has taken what the old one had
    assert not later.take()
    assert bitmap.closed
    memory.close()
    ram.close()


def test_marks_after_a_stop_are_in_the_old_log_and_in_the_next_one() -> None:
    ram = GuestRam()
    memory = ram.map()
    log, old, new = DirtyLog(), Bitmap(log_size(memory)), Bitmap(log_size(memory))
    log.set_base(old, memory)
    log.mark([(0, 1)])
    log.remember()
    log.mark([(APART, 1)])
    log.remember()
    assert old.take() == set(range(16))
    log.set_base(new, memory)
    assert new.take() == set(range(8, 16))
    memory.close()
    ram.close()


def test_more_early_marks_than_are_remembered_mark_all_memory() -> None:
    ram = GuestRam()
    memory = ram.map()
    log = DirtyLog()
    log.mark([(0, (EARLY_LIMIT + 1) * APART)])
    assert log.overflowed
    bitmap = Bitmap(log_size(memory))
    log.set_base(bitmap, memory)
    assert bitmap.take() == set(range(RAM_SIZE >> 12))
    assert not log.overflowed
    memory.close()
    ram.close()


def test_log_size_covers_the_last_page() -> None:
    class Flat:
        def __init__(self, size: int) -> None:
            self.view = memoryview(bytearray(size))

        def close(self) -> None:
            self.view.release()

    from devmodel.virtio.memory import Region

    assert log_size(GuestMemory()) == 0
    for end, size in ((4096, 1), (APART, 1), (APART + 1, 2)):
        region = Region(RegionSpec(0, end, 0, 0), Flat(end))
        assert log_size(GuestMemory([region])) == size
