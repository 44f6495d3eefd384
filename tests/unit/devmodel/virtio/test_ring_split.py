# SPDX-License-Identifier: GPL-2.0-or-later
"""The split ring against a driver that keeps the rules and one that keeps none.

`row_NN` in a name is a row of tests/unit/devmodel/BAD_INPUTS.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vu_driver import INDIRECT, MODERN, NEXT, RAM_SIZE, SPLIT, WRITE, DriverRing, GuestRam

from devmodel.errors import BrokenRing
from devmodel.virtio import features as vf
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.net import scatter
from devmodel.virtio.ring import Chain
from devmodel.virtio.ring_split import SplitRing

NO_EVENT_IDX = MODERN & ~vf.mask(vf.VIRTIO_F_EVENT_IDX)


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    ram = GuestRam()
    yield ram
    ram.close()


@pytest.fixture
def memory(ram: GuestRam) -> Iterator[GuestMemory]:
    memory = ram.map()
    yield memory
    memory.close()


@pytest.fixture
def driver(ram: GuestRam) -> DriverRing:
    return DriverRing(ram)


@pytest.fixture
def ring(driver: DriverRing, memory: GuestMemory) -> Iterator[SplitRing]:
    ring = driver.device(memory)
    yield ring
    ring.release()


def pop(ring: SplitRing) -> Chain:
    chain = ring.pop()
    assert chain is not None
    return chain


def test_empty_ring_pop_gives_nothing(ring: SplitRing) -> None:
    assert ring.pop() is None


def test_pop_push_publish_completes_chains_in_order_taken(driver: DriverRing, ring: SplitRing) -> None:
    heads = [driver.add_out(b"first"), driver.add_out(b"se", b"cond")]
    for expected in (b"first", b"second"):
        chain = pop(ring)
        assert b"".join(chain.readable) == expected
        assert chain.writable == []
        ring.push(chain.head, 0)
    assert driver.used() == []
    assert ring.publish()
    assert driver.used() == [(heads[0], 0), (heads[1], 0)]


def test_indexes_wrap_at_65536(driver: DriverRing, memory: GuestMemory) -> None:
    driver.set_avail_idx(65530)
    driver.set_used_idx(65530)
    driver.last_used = 65530
    ring = driver.device(memory, base=65530)
    for number in range(12):
        driver.add_out(bytes([number]))
        chain = pop(ring)
        assert bytes(chain.readable[0]) == bytes([number])
        ring.push(chain.head, 0)
        ring.publish()
        assert len(driver.used()) == 1
    assert ring.last_avail == 6
    ring.release()


def test_writable_chain_gives_pieces_to_write(driver: DriverRing, ring: SplitRing, ram: GuestRam) -> None:
    head, places = driver.add_in(8, 8)
    chain = pop(ring)
    assert [len(piece) for piece in chain.writable] == [8, 8]
    chain.writable[1][:3] = b"abc"
    ring.push(head, 11)
    ring.publish()
    assert ram.read(places[1][0], 3) == b"abc"
    assert driver.used() == [(head, 11)]


def test_indirect_chain_reads_like_a_direct_one(driver: DriverRing, ring: SplitRing) -> None:
    driver.add_out(b"a" * 100, b"b" * 50, indirect=True)
    assert b"".join(pop(ring).readable) == b"a" * 100 + b"b" * 50


def test_direct_descriptors_then_an_indirect_one_are_legal(
    driver: DriverRing, ring: SplitRing, ram: GuestRam
) -> None:
    table, size = ram.put(bytes(16))
    data, length = ram.put(b"tail")
    ram.write(table, data.to_bytes(8, "little") + length.to_bytes(4, "little") + bytes(4))
    driver.desc(0, *ram.put(b"head-"), NEXT, 1)
    driver.desc(1, table, size, INDIRECT)
    driver.offer(0)
    assert b"".join(pop(ring).readable) == b"head-tail"


def test_unpop_gives_the_same_chains_again(driver: DriverRing, ring: SplitRing) -> None:
    heads = [driver.add_out(b"x"), driver.add_out(b"y")]
    chains = [pop(ring), pop(ring)]
    assert [chain.head for chain in chains] == heads
    ring.unpop(chains)
    assert [pop(ring).head, pop(ring).head] == heads


def test_started_ring_takes_used_idx_for_the_truth(driver: DriverRing, memory: GuestMemory) -> None:
    driver.set_used_idx(5)
    driver.set_avail_idx(7)
    ring = driver.device(memory, base=2)
    assert ring.resynchronised
    assert (ring.last_avail, ring.waiting()) == (5, 2)
    ring.release()


# -- drain() and in order -------------------------------------------------------------------------------


def read(readable: list[memoryview], writable: list[memoryview]) -> bytes | None:
    """What drain() is to do with a buffer: nothing for those that are empty."""
    assert writable == []
    return b"".join(readable) or None


@pytest.mark.parametrize("extra", [0, vf.mask(vf.VIRTIO_F_IN_ORDER)], ids=["any-order", "in-order"])
def test_drain_takes_buffers_of_every_shape_and_gives_them_back(
    driver: DriverRing, memory: GuestMemory, ram: GuestRam, extra: int
) -> None:
    driver.set_avail_idx(65533)
    driver.set_used_idx(65533)
    driver.last_used = 65533
    driver.in_order = bool(extra)
    ring = driver.device(memory, MODERN | extra, base=65533)
    ram.next_free = SPLIT
    for turn in range(4):
        heads = [driver.add_out(b"a"), driver.add_out(b"b", b"c"), driver.add_out(b"")]
        heads += [driver.add_out(b"d", b"e", indirect=True), driver.add_out(b"f")]
        assert ring.drain(read, 4) == [b"a", b"bc", b"de"]
        assert driver.used() == []
        if turn & 1:
            ring.publish()
        assert ring.drain(read, 4) == [b"f"]
        ring.publish()
        assert driver.used() == [(head, 0) for head in heads]
        assert ring.last_avail == driver.avail_idx
    ring.release()


def test_in_order_one_element_stands_for_a_batch(driver: DriverRing, memory: GuestMemory) -> None:
    ring = driver.device(memory, MODERN | vf.mask(vf.VIRTIO_F_IN_ORDER))
    driver.in_order = True
    heads = [driver.add_out(b"x") for _ in range(3)]
    for _ in heads:
        ring.push(pop(ring).head, 0)
    ring.publish()
    assert driver.ram.read(driver.used_gpa + 4, 24) == heads[-1].to_bytes(4, "little") + bytes(20)
    assert driver.used() == [(head, 0) for head in heads]
    ring.release()


def test_notify_on_empty_tells_a_driver_that_looks_by_itself_when_no_buffer_is_left(
    driver: DriverRing, memory: GuestMemory
) -> None:
    ring = driver.device(memory, vf.mask(vf.VIRTIO_F_NOTIFY_ON_EMPTY))
    driver.set_avail_flags(1)
    driver.add_out(b"x")
    driver.add_out(b"y")
    for empty in (False, True):
        ring.push(pop(ring).head, 0)
        ring.publish()
        assert ring.needs_signal() is empty
    assert not ring.needs_signal()
    ring.release()


# -- fill(): the buffers of a frame at once -------------------------------------------------------------


class Filling:
    """A ring whose buffers lie where fill() looks for them, in the largest region, and what became of each."""

    def __init__(self, num: int = 16, base: int = 0) -> None:
        self.ram = GuestRam()
        self.memory = self.ram.map()
        self.driver = DriverRing(self.ram, num)
        self.driver.set_avail_idx(base)
        self.driver.set_used_idx(base)
        self.driver.last_used = base
        self.ring = self.driver.device(self.memory, base=base)
        self.ram.next_free = SPLIT
        self.places: dict[int, tuple[int, int]] = {}

    def post(self, *sizes: int) -> list[int]:
        """Give the device a buffer of each size: their heads."""
        heads = []
        for size in sizes:
            head, [self.places[head]] = self.driver.add_in(size)
            heads.append(head)
        return heads

    def completed(self) -> list[tuple[int, int, bytes]]:
        """Publish; of each buffer given back the head, the length and the bytes that the device says it wrote."""
        self.ring.publish()
        return [(head, size, self.ram.read(self.places[head][0], size)) for head, size in self.driver.used()]

    def laid(self, *parts: bytes, least: int = 0) -> list[tuple[int, int]]:
        """fill() with parts that must fit: (head, length) of each buffer, after the bytes in them were compared."""
        taken = self.ring.fill(parts, least)
        assert taken is not None
        found = self.completed()
        assert b"".join(data for _, _, data in found) == b"".join(parts)
        assert taken[0] == len(found)
        assert len(taken[1]) == self.places[found[0][0]][1]
        return [(head, size) for head, size, _ in found]

    def state(self) -> tuple[int, int, list[tuple[int, int]]]:
        """What a fill() that takes nothing must leave alone, as the driver and a successor of this device see it."""
        self.ring.publish()
        return self.ring.last_avail, self.driver.used_idx, self.driver.used()

    def close(self) -> None:
        self.ring.release()
        self.memory.close()
        self.ram.close()


@pytest.fixture
def filling() -> Iterator[Filling]:
    filling = Filling()
    yield filling
    filling.close()


@pytest.fixture
def four() -> Iterator[Filling]:
    """A ring of four, so that a driver gets ahead of itself soon."""
    four = Filling(4)
    yield four
    four.close()


class Meanwhile(Sequence[bytes]):
    """Parts of a frame; just before the second is read, the driver does something."""

    def __init__(self, first: bytes, act: Callable[[], object], second: bytes) -> None:
        self.parts, self.act = (first, second), act

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]
        if number == 1:
            self.act()
        return self.parts[number]


def test_fill_lays_a_frame_into_as_few_buffers_as_hold_it(filling: Filling) -> None:
    heads = filling.post(8, 8, 8, 8)
    assert filling.laid(b"head", b"0123456789abc") == [(heads[0], 8), (heads[1], 8), (heads[2], 1)]
    assert filling.ring.last_avail == 3
    assert filling.laid(b"next") == [(heads[3], 4)]


def test_fill_indexes_wrap_at_65536() -> None:
    filling = Filling(base=65533)
    for number in range(4):
        heads = filling.post(8, 8)
        assert filling.laid(bytes([number]) * 12) == [(heads[0], 8), (heads[1], 4)]
    assert (filling.ring.last_avail, filling.driver.used_idx) == (5, 5)
    filling.close()


@pytest.mark.parametrize("sizes", [(0, 8, 8), (8, 0, 8), (8, 0, 0, 8)], ids=["first", "middle", "two"])
def test_row_38_fill_completes_buffers_of_length_zero_on_its_way(
    filling: Filling, sizes: tuple[int, ...]
) -> None:
    heads = filling.post(*sizes)
    written = [*sizes[:-1], 4]
    assert filling.laid(b"01234", b"56789ab") == list(zip(heads, written, strict=True))


def test_row_38_fill_leaves_a_buffer_of_length_zero_behind_a_full_one(filling: Filling) -> None:
    heads = filling.post(8, 0)
    assert filling.laid(b"01234567") == [(heads[0], 8)]
    assert pop(filling.ring).head == heads[1]


def test_row_38_fill_finds_no_room_in_a_last_buffer_of_length_zero(filling: Filling) -> None:
    filling.post(8, 0)
    before = filling.state()
    assert filling.ring.fill((b"012345678",), 0) is None
    assert filling.state() == before


def test_fill_part_that_ends_with_a_buffer_takes_no_further_one(filling: Filling) -> None:
    heads = filling.post(8, 8, 8)
    assert filling.laid(b"01234567", b"89abcdef") == [(heads[0], 8), (heads[1], 8)]
    assert filling.ring.waiting() == 1


def test_fill_empty_parts_change_nothing(filling: Filling) -> None:
    heads = filling.post(8, 8)
    assert filling.laid(b"", b"01234567", b"", b"8", b"") == [(heads[0], 8), (heads[1], 1)]
    assert filling.ring.fill((b"", b""), 0) is None


def test_fill_first_buffer_must_have_the_least(filling: Filling) -> None:
    filling.post(11, 64)
    before = filling.state()
    assert filling.ring.fill((bytes(12), b"frame"), 12) is None
    assert filling.state() == before
    assert filling.laid(bytes(12), b"frame", least=11)


def too_few(filling: Filling) -> None:
    """No more buffers."""


def another_shape(filling: Filling) -> None:
    gpa = filling.ram.alloc(16, 64)
    filling.driver.add([(gpa, 8, WRITE), (gpa + 8, 8, WRITE)])


def readable(filling: Filling) -> None:
    filling.driver.add_out(b"01234567")


def indirect(filling: Filling) -> None:
    filling.driver.add([(filling.ram.alloc(8, 64), 8, WRITE)], indirect=True)


def other_region(filling: Filling) -> None:
    filling.driver.add([(SPLIT - 8, 8, WRITE)])


def across_regions(filling: Filling) -> None:
    filling.driver.add([(SPLIT - 4, 8, WRITE)])


def beyond_memory(filling: Filling) -> None:
    filling.driver.add([(RAM_SIZE - 4, 8, WRITE)])


def head_out_of_range(filling: Filling) -> None:
    filling.driver.offer(16)


@pytest.mark.parametrize("good", [0, 2], ids=["at-once", "behind-two"])
@pytest.mark.parametrize(
    "bad",
    [
        too_few,
        another_shape,
        readable,
        indirect,
        other_region,
        across_regions,
        beyond_memory,
        head_out_of_range,
    ],
)
def test_fill_that_takes_nothing_leaves_both_indexes(
    filling: Filling, bad: Callable[[Filling], None], good: int
) -> None:
    filling.post(8)
    assert filling.laid(b"before")
    heads = filling.post(*[8] * good)
    bad(filling)
    before = filling.state()
    assert filling.ring.fill((b"012", b"3456789", bytes(14)), 0) is None
    assert filling.state() == before
    if heads:
        assert pop(filling.ring).head == heads[0]


def test_fill_takes_what_the_driver_adds_meanwhile(four: Filling) -> None:
    heads = four.post(8, 8, 8)
    parts = Meanwhile(bytes(24), lambda: heads.extend(four.post(8)), b"01234567")
    assert four.laid(*parts) == [(head, 8) for head in heads]
    assert four.ring.last_avail == 4


def ahead_of(four: Filling, idx: int, posted: int) -> BrokenRing:
    """fill() over `posted` buffers, all of them full when the driver moves avail.idx and more are needed."""
    base = four.ring.last_avail
    four.post(*[8] * posted)
    before = four.state()
    parts = Meanwhile(bytes(8 * posted), lambda: four.driver.set_avail_idx(base + idx), bytes(32))
    with pytest.raises(BrokenRing) as caught:
        four.ring.fill(parts, 0)
    assert caught.value.section == "2.7.13.3"
    assert four.state() == before
    return caught.value


@pytest.mark.parametrize(("posted", "idx"), [(3, 5), (3, 7), (4, 5), (4, 8)])
def test_row_30_avail_idx_too_far_ahead_inside_a_frame_breaks(four: Filling, posted: int, idx: int) -> None:
    assert f"{idx} ahead of 0, the queue size is 4" in ahead_of(four, idx, posted).rule


def test_row_31_avail_idx_goes_backwards_inside_a_frame_breaks(four: Filling) -> None:
    assert "2 ahead of 0, the queue size is 4, and 3 were taken" in ahead_of(four, 2, 3).rule


def test_row_30_avail_idx_inside_a_frame_is_measured_from_its_start_across_the_wrap() -> None:
    four = Filling(4, base=65534)
    assert "5 ahead of 65534" in ahead_of(four, 5, 3).rule
    four.close()


def test_row_30_putting_chains_back_shows_that_avail_idx_is_too_far_ahead(four: Filling) -> None:
    heads = four.post(8, 8, 8)
    chains = [pop(four.ring) for _ in heads]
    assert [chain.head for chain in chains] == heads
    four.driver.set_avail_idx(7)
    chains.append(pop(four.ring))
    with pytest.raises(BrokenRing, match="7 ahead of 0"):
        four.ring.unpop(chains)
    assert four.ring.last_avail == 0


def pop_scatter_push(ring: SplitRing, parts: Sequence[bytes], least: int) -> int | None:
    """fill() by the calls that it stands for: how many chains it took."""
    size = sum(map(len, parts))
    chains: list[Chain] = []
    while size > sum(len(chain.writable[0]) for chain in chains) and (chain := ring.pop()):
        chains.append(chain)
    rooms = [len(chain.writable[0]) for chain in chains]
    if not chains or size > sum(rooms) or rooms[0] < least:
        ring.unpop(chains)
        return None
    scatter([chain.writable[0] for chain in chains], parts)
    for chain, room, before in zip(chains, rooms, accumulate(rooms, initial=0), strict=False):
        ring.push(chain.head, min(room, size - before))
    return len(chains)


Round = tuple[list[int], list[int], int]
ROUNDS = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0, 1, 7, 12, 16, 64]), min_size=1, max_size=8),  # buffers posted
        st.lists(st.sampled_from([0, 1, 4, 12, 16, 48, 100]), min_size=1, max_size=5),  # parts
        st.sampled_from([0, 1, 12]),  # least
    ),
    min_size=3,
    max_size=8,
)


@given(rounds=ROUNDS)
@settings(max_examples=60, deadline=None)
def test_fill_does_what_pop_scatter_and_push_do(rounds: list[Round]) -> None:
    filled, reference = Filling(base=65530), Filling(base=65530)
    data = bytes(range(1, 256)) * 2
    refused = False
    try:
        for buffers, sizes, least in rounds:
            room = len(filled.driver.free)
            assert filled.post(*buffers[:room]) == reference.post(*buffers[:room])
            ends = list(accumulate(sizes, initial=0))
            parts = [data[ends[at] : ends[at] + size] for at, size in enumerate(sizes)]
            taken = filled.ring.fill(parts, least)
            assert (taken and taken[0]) == pop_scatter_push(reference.ring, parts, least)
            assert filled.ring.last_avail == reference.ring.last_avail
            assert filled.completed() == reference.completed()
            assert filled.driver.used_idx == reference.driver.used_idx
            refused = refused or taken is None
            size = filled.ram.next_free - SPLIT + 4096
            if not refused:  # which may have stored into buffers, all of them still the device's
                assert filled.ram.read(SPLIT, size) == reference.ram.read(SPLIT, size)
    finally:
        filled.close()
        reference.close()


# -- notifications --------------------------------------------------------------------------------------


def test_event_idx_signals_only_when_used_event_is_passed(driver: DriverRing, ring: SplitRing) -> None:
    def complete(count: int) -> bool:
        for _ in range(count):
            driver.add_out(b"x")
            ring.push(pop(ring).head, 0)
        assert ring.publish()
        driver.used()
        return ring.needs_signal()

    driver.set_used_event(0)
    assert complete(1)
    driver.set_used_event(3)
    assert not complete(2)
    assert complete(1)
    assert not complete(1)


def test_first_batch_is_signalled_whatever_the_event_index(driver: DriverRing, ring: SplitRing) -> None:
    driver.set_used_event(9)
    driver.add_out(b"x")
    ring.push(pop(ring).head, 0)
    ring.publish()
    assert ring.needs_signal()


def test_no_event_idx_signal_follows_the_interrupt_flag(driver: DriverRing, memory: GuestMemory) -> None:
    ring = driver.device(memory, NO_EVENT_IDX)
    for flags, wanted in ((1, False), (0, True)):
        driver.set_avail_flags(flags)
        driver.add_out(b"x")
        ring.push(pop(ring).head, 0)
        ring.publish()
        assert ring.needs_signal() is wanted
    ring.release()


def test_publish_without_pushes_says_nothing_changed(ring: SplitRing) -> None:
    assert not ring.publish()


def test_arming_with_event_idx_names_the_next_entry(driver: DriverRing, ring: SplitRing) -> None:
    driver.add_out(b"x")
    pop(ring)
    assert ring.pop() is None
    assert not ring.arm_kicks()
    assert driver.avail_event == 1


def test_arming_sees_an_entry_that_came_meanwhile(driver: DriverRing, ring: SplitRing) -> None:
    assert ring.pop() is None
    driver.add_out(b"x")
    assert ring.unseen()
    assert ring.arm_kicks()


def test_no_event_idx_kicks_are_suppressed_by_the_flag(driver: DriverRing, memory: GuestMemory) -> None:
    ring = driver.device(memory, NO_EVENT_IDX)
    ring.suppress_kicks()
    assert driver.used_flags == 1
    ring.arm_kicks()
    assert driver.used_flags == 0
    ring.release()


# -- bad inputs -----------------------------------------------------------------------------------------


def broken(ring: SplitRing) -> BrokenRing:
    with pytest.raises(BrokenRing) as caught:
        ring.pop()
    error = caught.value
    assert error.queue == 1
    assert error.section
    assert f"queue {error.queue}" in str(error)
    return error


def test_row_30_avail_idx_too_far_ahead_breaks(driver: DriverRing, ring: SplitRing) -> None:
    driver.set_avail_idx(17)
    assert "17 ahead" in broken(ring).rule


def test_row_31_avail_idx_goes_backwards_breaks(driver: DriverRing, ring: SplitRing) -> None:
    for _ in range(3):
        driver.add_out(b"x")
        pop(ring)
    driver.set_avail_idx(1)
    broken(ring)


def test_row_32_head_outside_the_table_breaks(driver: DriverRing, ring: SplitRing) -> None:
    driver.offer(16)
    assert broken(ring).head == 16


def test_row_33_next_outside_the_table_breaks(driver: DriverRing, ring: SplitRing, ram: GuestRam) -> None:
    driver.desc(3, *ram.put(b"x"), NEXT, 16)
    driver.offer(3)
    error = broken(ring)
    assert (error.head, error.descriptor) == (3, 3)


@pytest.mark.parametrize("nexts", [(0,), (1, 0), (1, 2, 1)], ids=["self", "two-cycle", "rho"])
def test_row_33_loop_breaks(
    driver: DriverRing, ring: SplitRing, ram: GuestRam, nexts: tuple[int, ...]
) -> None:
    for at, nxt in enumerate(nexts):
        driver.desc(at, *ram.put(b"x"), NEXT, nxt)
    driver.offer(0)
    assert "more than 16" in broken(ring).rule


def test_row_33_chain_of_the_whole_queue_is_legal(driver: DriverRing, ring: SplitRing) -> None:
    driver.add_out(*[b"x"] * 16)
    assert len(pop(ring).readable) == 16


def test_row_34_same_head_twice_is_completed_twice(driver: DriverRing, ring: SplitRing) -> None:
    head = driver.add_out(b"x")
    driver.offer(head)
    for _ in range(2):
        chain = pop(ring)
        assert bytes(chain.readable[0]) == b"x"
        ring.push(chain.head, 0)
    ring.publish()
    assert driver.used() == [(head, 0), (head, 0)]


def test_row_35_readable_after_writable_breaks(driver: DriverRing, ring: SplitRing, ram: GuestRam) -> None:
    driver.desc(0, *ram.put(b"x"), WRITE | NEXT, 1)
    driver.desc(1, *ram.put(b"x"), 0)
    driver.offer(0)
    error = broken(ring)
    assert error.section == "2.7.4.2"
    assert error.descriptor == 1


def test_row_36_indirect_without_the_feature_breaks(driver: DriverRing, memory: GuestMemory) -> None:
    ring = driver.device(memory, MODERN & ~vf.mask(vf.VIRTIO_F_INDIRECT_DESC))
    driver.add_out(b"x", indirect=True)
    assert "not negotiated" in broken(ring).rule
    ring.release()


@pytest.mark.parametrize("size", [0, 8, 24, 17 * 16])
def test_row_36_indirect_table_of_bad_size_breaks(driver: DriverRing, ring: SplitRing, size: int) -> None:
    driver.desc(0, 0x200000, size, INDIRECT)
    driver.offer(0)
    assert f"{size} bytes" in broken(ring).rule


def test_row_36_indirect_with_next_breaks(driver: DriverRing, ring: SplitRing) -> None:
    driver.desc(0, 0x200000, 16, INDIRECT | NEXT, 1)
    driver.offer(0)
    assert "NEXT" in broken(ring).rule


@pytest.mark.parametrize("at", [0, 1])
def test_row_36_nested_indirect_breaks(driver: DriverRing, ring: SplitRing, ram: GuestRam, at: int) -> None:
    gpa, size = ram.put(b"x" * 16)
    buffers = [(gpa, size, 0), (gpa, size, 0)]
    buffers[at] = (gpa, size, INDIRECT)
    driver.add(buffers, indirect=True)
    assert "inside an indirect table" in broken(ring).rule


def test_row_36_indirect_table_outside_memory_breaks(driver: DriverRing, ring: SplitRing) -> None:
    driver.desc(0, RAM_SIZE - 8, 16, INDIRECT)
    driver.offer(0)
    assert "not in memory" in broken(ring).rule


def test_row_36_indirect_next_outside_its_table_breaks(
    driver: DriverRing, ring: SplitRing, ram: GuestRam
) -> None:
    data, size = ram.put(b"x")
    table = data.to_bytes(8, "little") + size.to_bytes(4, "little") + b"\x01\x00\x01\x00"
    driver.desc(0, *ram.put(table), INDIRECT)
    driver.offer(0)
    assert "the table has 1" in broken(ring).rule


@pytest.mark.parametrize(
    ("addr", "size"),
    [(RAM_SIZE, 1), (RAM_SIZE - 4, 8), (2**64 - 4, 8), (2**63, 0), (0, 2**32 - 1)],
    ids=["hole", "end", "wrap", "empty-in-hole", "huge"],
)
def test_row_37_address_outside_memory_breaks(
    driver: DriverRing, ring: SplitRing, addr: int, size: int
) -> None:
    driver.desc(0, addr, size)
    driver.offer(0)
    assert "not in memory" in broken(ring).rule


def test_row_37_buffer_across_adjacent_regions_is_split(
    driver: DriverRing, ring: SplitRing, ram: GuestRam
) -> None:
    ram.write(SPLIT - 3, b"abcdef")
    driver.add([(SPLIT - 3, 6, 0)])
    chain = pop(ring)
    assert [bytes(piece) for piece in chain.readable] == [b"abc", b"def"]


def test_row_38_zero_length_descriptor_is_an_empty_piece(driver: DriverRing, ring: SplitRing) -> None:
    driver.add_out(b"", b"data")
    assert [bytes(piece) for piece in pop(ring).readable] == [b"", b"data"]


def test_row_39_descriptor_over_the_ring_itself_is_read_once(driver: DriverRing, ring: SplitRing) -> None:
    driver.add([(driver.desc_gpa, 16, WRITE), (driver.used_gpa, 6, WRITE)])
    chain = pop(ring)
    for piece in chain.writable:
        piece[:] = b"\xff" * len(piece)
    ring.push(chain.head, 22)
    ring.publish()
    assert driver.used_idx == 1
    assert ring.pop() is None


def test_row_40_changes_after_pop_do_not_move_the_pieces(
    driver: DriverRing, ring: SplitRing, ram: GuestRam
) -> None:
    head = driver.add_out(b"stay")
    chain = pop(ring)
    driver.desc(head, 2**63, 2**31, INDIRECT)
    assert bytes(chain.readable[0]) == b"stay"
