# SPDX-License-Identifier: GPL-2.0-or-later
"""Inflight regions: the specification's layout byte by byte, what is recovered from one, and what is refused."""

from __future__ import annotations

import struct

import pytest

from devmodel.errors import BrokenRing, FrontendError
from devmodel.virtio.inflight import (
    INFLIGHT_ALIGNMENT,
    InflightRegion,
    InflightSpec,
    PackedState,
    SplitState,
    check_spec,
    queue_bytes,
    region_bytes,
)

NUM = 8
RINGS = 4


class Plain:
    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))
        self.closed = False

    def close(self) -> None:
        self.view.release()
        self.closed = True


def split() -> SplitState:
    return SplitState(0, memoryview(bytearray(queue_bytes(NUM, packed=False))), NUM)


def packed() -> PackedState:
    return PackedState(1, memoryview(bytearray(queue_bytes(NUM, packed=True))), NUM)


# -- layout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue_size", "is_packed", "size"),
    [
        (1, False, 64),
        (8, False, 192),
        (256, False, 4160),
        (1, True, 64),
        (8, True, 320),
        (32768, True, 1048640),
    ],
)
def test_queue_bytes_are_header_and_entries_up_to_a_cache_line(
    queue_size: int, is_packed: bool, size: int
) -> None:
    assert queue_bytes(queue_size, is_packed) == size
    assert size % INFLIGHT_ALIGNMENT == 0
    assert region_bytes(3, queue_size) >= 3 * size


def test_split_fields_lie_where_the_specification_has_them() -> None:
    state = split()
    state.begin(0x1234)
    state.halves[SplitState.LAST_BATCH_HEAD] = 3
    state.bytes[state.inflight_at(5)] = 1
    state.halves[state.next_at(5)] = 0x0607
    state.words[state.counter_at(5)] = 0x1122334455667788
    raw = bytes(state.bytes)
    assert struct.unpack_from("<QHHHH", raw) == (0, 1, NUM, 3, 0x1234)
    assert struct.unpack_from("<B5xHQ", raw, 16 + 16 * 5) == (1, 0x0607, 0x1122334455667788)


def test_packed_fields_lie_where_the_specification_has_them() -> None:
    state = packed()
    state.begin(6, 1)
    state.set_free(2, 3)
    state.set_used((4, 0), (5, 1))
    raw = bytes(state.bytes)
    assert struct.unpack_from("<QHHHHHHBB", raw) == (0, 1, NUM, 2, 3, 4, 5, 0, 1)
    at = state.next_at(5)
    state.bytes[state.inflight_at(5)] = 1
    state.halves[at : at + 3] = memoryview(struct.pack("<HHH", 1, 2, 3)).cast("H")
    state.words[state.counter_at(5)] = 9
    state.words[state.counter_at(5) + 1] = 0x0A | 0x0B << 16 | 0x0C << 32
    state.words[state.counter_at(5) + 2] = 0x0D
    assert struct.unpack_from("<BxHHHQHHIQ", state.bytes, 32 + 32 * 5) == (1, 1, 2, 3, 9, 10, 11, 12, 13)


def test_packed_begin_links_all_entries_free() -> None:
    state = packed()
    recovered = state.begin(6, 0)
    assert [struct.unpack_from("<H", state.bytes, 32 + 32 * at + 2)[0] for at in range(NUM)] == [*range(1, 9)]
    assert recovered == (6, 0, [], [*reversed(range(NUM))], 0)
    assert state.recover(NUM, lambda slot, wrap: False) == recovered


# -- split: recovery ------------------------------------------------------------------------------------------


def take(state: SplitState, *heads: int) -> None:
    for counter, head in enumerate(heads):
        state.words[state.counter_at(head)] = counter
        state.bytes[state.inflight_at(head)] = 1


def link(state: SplitState, *heads: int) -> None:
    for head in heads:
        state.halves[state.next_at(head)] = state.halves[state.LAST_BATCH_HEAD]
        state.halves[state.LAST_BATCH_HEAD] = head


def test_split_taken_buffers_come_in_the_order_of_their_counters() -> None:
    state = split()
    state.begin(100)
    take(state, 5, 0, 7)
    assert state.recover(NUM, 100) == ([5, 0, 7], 3)


def test_split_published_batch_is_not_in_flight_any_more() -> None:
    state = split()
    state.begin(0xFFFF)
    take(state, 5, 0, 7, 1)
    link(state, 5, 0)
    assert state.recover(NUM, 1) == ([7, 1], 4)
    assert state.halves[SplitState.USED_IDX] == 1
    assert state.recover(NUM, 1) == ([7, 1], 4)


def test_split_batch_that_was_linked_and_not_published_is_in_flight() -> None:
    state = split()
    state.begin(3)
    take(state, 5, 0)
    link(state, 5, 0)
    assert state.recover(NUM, 3) == ([5, 0], 2)


def test_split_used_idx_that_is_more_than_a_queue_ahead_is_refused() -> None:
    state = split()
    state.begin(0)
    with pytest.raises(BrokenRing, match="9 ahead"):
        state.recover(NUM, NUM + 1)


def test_split_list_that_leads_outside_is_refused() -> None:
    state = split()
    state.begin(0)
    link(state, 3)
    state.halves[state.next_at(3)] = NUM
    with pytest.raises(BrokenRing, match="leads to 8"):
        state.recover(NUM, 2)


def test_split_list_that_is_a_circle_is_refused_and_ends() -> None:
    state = split()
    state.begin(0)
    link(state, 3)
    state.halves[state.next_at(3)] = 3
    with pytest.raises(BrokenRing, match="circle"):
        state.recover(NUM, 2)


def test_split_head_in_flight_beyond_a_shorter_queue_is_refused() -> None:
    state = split()
    state.begin(0)
    take(state, 6)
    with pytest.raises(BrokenRing, match="beyond the queue of 4"):
        state.recover(4, 0)


# -- packed: recovery -----------------------------------------------------------------------------------------


def pack_take(state: PackedState, counter: int, *entries: int) -> None:
    """What taking a buffer of these entries leaves, but for the heads of the free list."""
    at = state.next_at(entries[0])
    for entry in entries:
        state.words[state.counter_at(entry) + 1] = 40 + entry
    state.halves[at + 1], state.halves[at + 2] = entries[-1], len(entries)
    state.words[state.counter_at(entries[0])] = counter
    state.bytes[state.inflight_at(entries[0])] = 1


def available(slot: int, wrap: int) -> bool:
    return True


def used(slot: int, wrap: int) -> bool:
    return False


def test_packed_taken_buffers_come_with_their_descriptors() -> None:
    state = packed()
    state.begin(6, 1)
    pack_take(state, 7, 0, 1)
    pack_take(state, 6, 2)
    state.set_free(3, 3)
    found = state.recover(NUM, available)
    assert [what.entries for what in found.taken] == [[2], [0, 1]]
    assert [[words[2] for words in what.descriptors] for what in found.taken] == [[42], [40, 41]]
    assert (found.used_idx, found.wrap, found.free, found.counter) == (6, 1, [7, 6, 5, 4, 3], 8)


def test_packed_taking_that_was_not_finished_is_undone() -> None:
    state = packed()
    state.begin(6, 1)
    pack_take(state, 0, 0, 1)
    state.set_free(2, 0)
    found = state.recover(NUM, available)
    assert (found.taken, found.free[-1]) == ([], 0)
    assert not state.bytes[state.inflight_at(0)]


@pytest.mark.parametrize("to", [(7, 1), (6, 0)], ids=["a part", "all round"])
def test_packed_batch_is_done_if_the_ring_shows_it_and_undone_if_not(to: tuple[int, int]) -> None:
    for shown in (True, False):
        state = packed()
        state.begin(6, 1)
        pack_take(state, 0, 0)
        state.set_free(1, 1)
        state.halves[state.next_at(0)] = 1
        state.set_free(0, 1)
        state.set_used(to, (6, 1))
        found = state.recover(NUM, used if shown else available)
        assert (found.used_idx, found.wrap) == (to if shown else (6, 1))
        assert len(found.taken) == (0 if shown else 1)
        assert len(found.free) + len(found.taken) == NUM


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: state.set_used((8, 0), (8, 0)), "used_idx"),
        (lambda state: state.set_used((0, 2), (0, 2)), "used_idx"),
        (lambda state: state.halves.__setitem__(state.next_at(5), 4), "free list goes in a circle"),
        (lambda state: state.set_free(9, 9), "neither free nor in flight"),
        (lambda state: state.halves.__setitem__(state.next_at(5), 0xFFFF), "neither free nor in flight"),
        (lambda state: state.halves.__setitem__(state.next_at(0) + 2, 9), "ends after"),
        (lambda state: state.halves.__setitem__(state.next_at(0) + 2, 0), "ends after 0"),
        (lambda state: state.halves.__setitem__(state.next_at(0) + 1, 0), "its last one should be 0"),
        (lambda state: state.halves.__setitem__(state.next_at(0), 0), "ends after 1"),
        (lambda state: state.halves.__setitem__(state.next_at(0), 60000), "ends after 1"),
        (lambda state: state.halves.__setitem__(state.next_at(0), 5), "ends after 1"),
    ],
)
def test_packed_region_that_makes_no_sense_is_refused(spoil: object, says: str) -> None:
    state = packed()
    state.begin(6, 1)
    pack_take(state, 0, 0, 1)
    state.set_free(2, 2)
    assert callable(spoil)
    spoil(state)
    with pytest.raises(BrokenRing, match=says):
        state.recover(NUM, available)


def test_packed_more_in_flight_than_a_shorter_queue_holds_is_refused() -> None:
    state = packed()
    state.begin(0, 1)
    pack_take(state, 0, 0, 1, 2)
    state.set_free(3, 3)
    with pytest.raises(BrokenRing, match="3 descriptors are in flight"):
        state.recover(2, available)


# -- the region -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        InflightSpec(4096, 0, 0, NUM),
        InflightSpec(4096, 0, RINGS + 1, NUM),
        InflightSpec(4096, 0, 65535, NUM),
        InflightSpec(4096, 0, 2, 0),
        InflightSpec(4096, 0, 2, 32769),
        InflightSpec(4096, 8, 2, NUM),
        InflightSpec(1 << 63, 0, 2, NUM),
        InflightSpec((1 << 64) - 64, (1 << 64) - 64, 2, NUM),
    ],
)
def test_numbers_that_make_no_region_are_refused(spec: InflightSpec) -> None:
    with pytest.raises(FrontendError):
        check_spec(spec, RINGS)


def test_numbers_of_a_region_are_taken() -> None:
    check_spec(InflightSpec(4096, 64, RINGS, 32768), RINGS)


def region(size: int, num_queues: int = 2) -> tuple[InflightRegion, Plain]:
    mapping = Plain(size)
    return InflightRegion(mapping, InflightSpec(size, 0, num_queues, NUM)), mapping


@pytest.mark.parametrize("is_packed", [False, True])
def test_region_gives_each_queue_its_part_and_unmaps_once(is_packed: bool) -> None:
    stride = queue_bytes(NUM, is_packed)
    made, mapping = region(2 * stride)
    states = [made.state(index, NUM, is_packed) for index in (0, 1)]
    assert made.state(2, NUM, is_packed) is None
    for index, state in enumerate(states):
        assert state is not None
        state.bytes[0] = 0x80 + index
    assert (mapping.view[0], mapping.view[stride]) == (0x80, 0x81)
    made.close()
    assert mapping.closed


def test_region_that_is_too_short_for_its_layout_is_refused() -> None:
    made, _ = region(2 * queue_bytes(NUM, packed=False))
    made.check(packed=False)
    with pytest.raises(FrontendError, match="too short"):
        made.check(packed=True)
    with pytest.raises(BrokenRing, match="too short"):
        made.state(0, NUM, packed=True)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (struct.pack("<QHH", 1, 1, NUM), "unknown version"),
        (struct.pack("<QHH", 0, 2, NUM), "unknown version"),
        (struct.pack("<QHH", 0, 1, NUM + 1), "another size"),
    ],
)
def test_region_of_something_else_is_refused_whichever_queue_it_is_in(header: bytes, says: str) -> None:
    stride = queue_bytes(NUM, packed=False)
    made, mapping = region(2 * stride)
    mapping.view[stride : stride + len(header)] = header
    with pytest.raises(FrontendError, match=says):
        made.check(packed=False)


def test_ring_longer_than_its_part_is_refused() -> None:
    made, _ = region(4096)
    with pytest.raises(BrokenRing, match="a queue of 16"):
        made.state(0, 16, packed=False)


def test_part_that_is_given_out_again_lets_the_old_views_go() -> None:
    made, mapping = region(4096)
    first = made.state(0, NUM, packed=False)
    second = made.state(0, NUM, packed=False)
    assert first is not None
    assert second is not None
    with pytest.raises(ValueError, match="released"):
        first.bytes[0]
    made.close()
    assert mapping.closed
