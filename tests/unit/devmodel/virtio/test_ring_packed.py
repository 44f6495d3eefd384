# SPDX-License-Identifier: GPL-2.0-or-later
"""The packed ring against a driver that keeps the rules and one that keeps none.

`row_NN` in a name is a row of tests/unit/devmodel/BAD_INPUTS.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vu_driver import (
    AVAIL,
    FRESH,
    INDIRECT,
    NEXT,
    PACKED,
    RAM_SIZE,
    SPLIT,
    USED,
    WRITE,
    GuestRam,
    PackedDriverRing,
)

from devmodel.errors import BrokenRing
from devmodel.virtio import features as vf
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.ring import Chain
from devmodel.virtio.ring_packed import PackedRing, bad_base, half_of, position_of

NO_EVENT_IDX = PACKED & ~vf.mask(vf.VIRTIO_F_EVENT_IDX)
IN_ORDER = PACKED | vf.mask(vf.VIRTIO_F_IN_ORDER)
SIZES = [1, 3, 256, 32768]
ENABLE, DISABLE, DESC = 0, 1, 2


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
def driver(ram: GuestRam) -> PackedDriverRing:
    return PackedDriverRing(ram)


@pytest.fixture
def ring(driver: PackedDriverRing, memory: GuestMemory) -> Iterator[PackedRing]:
    ring = driver.device(memory)
    yield ring
    ring.release()


class Standing:
    """A ring of `num` that has gone round up to `position`."""

    def __init__(self, num: int, position: int, features: int = PACKED) -> None:
        self.ram = GuestRam()
        self.memory = self.ram.map()
        in_order = bool(features >> vf.VIRTIO_F_IN_ORDER & 1)
        self.driver = PackedDriverRing(self.ram, num, in_order=in_order)
        self.driver.reset(position)
        self.ring = self.driver.device(self.memory, features, base=0x10001 * half_of(position, num))

    def turn(self, *pieces: bytes) -> None:
        """One buffer there and back."""
        ident = self.driver.add_out(*pieces)
        chain = pop(self.ring)
        assert [bytes(piece) for piece in chain.readable] == list(pieces)
        assert chain.head == ident
        self.ring.push(chain.head, 0)
        assert self.ring.publish()
        assert self.driver.used() == [(ident, 0)]

    def close(self) -> None:
        self.ring.release()
        self.memory.close()
        self.ram.close()


def pop(ring: PackedRing) -> Chain:
    chain = ring.pop()
    assert chain is not None
    return chain


# -- taking and giving back -----------------------------------------------------------------------------


def test_empty_ring_pop_gives_nothing(ring: PackedRing) -> None:
    assert ring.pop() is None
    assert not ring.publish()


@pytest.mark.parametrize("lap", [0, 1], ids=["wrap-1", "wrap-0"])
@pytest.mark.parametrize("num", SIZES)
def test_ring_goes_round_past_its_end_in_both_laps(num: int, lap: int) -> None:
    standing = Standing(num, lap * num + num - 1)
    for number in range(min(num, 3) + 2):
        assert standing.ring.pop() is None
        standing.turn(bytes([number]))
    expected = (lap * num + num - 1 + min(num, 3) + 2) % (2 * num)
    assert standing.ring.last_avail == standing.driver.position == expected
    standing.close()


@pytest.mark.parametrize("num", SIZES)
def test_full_ring_is_taken_whole_and_then_gives_nothing(num: int) -> None:
    standing = Standing(num, num // 2)
    place = standing.ram.put(b"x")
    idents = [standing.driver.add([(*place, 0)]) for _ in range(num)]
    chains = [pop(standing.ring) for _ in range(num)]
    assert standing.ring.pop() is None
    for chain in chains:
        standing.ring.push(chain.head, 0)
    assert standing.ring.pop() is None
    assert standing.driver.used() == []
    assert standing.ring.publish()
    assert standing.driver.used() == [(ident, 0) for ident in idents]
    standing.turn(b"again")
    standing.close()


@pytest.mark.parametrize("lap", [0, 1], ids=["wrap-1", "wrap-0"])
def test_list_across_the_end_of_the_ring_turns_the_wrap_counter_over(lap: int) -> None:
    standing = Standing(3, 3 * lap + 2)
    for _ in range(4):
        standing.turn(b"one", b"two")
    standing.turn(b"1", b"2", b"3")
    standing.close()


def test_list_goes_by_the_id_of_its_last_descriptor(driver: PackedDriverRing, ring: PackedRing) -> None:
    driver.offer(*driver.ram.put(b"first"), NEXT, 9)
    driver.offer(*driver.ram.put(b"last"), 0, 5)
    assert pop(ring).head == 5


def test_writable_chain_gives_pieces_to_write_and_its_length_comes_back(
    driver: PackedDriverRing, ring: PackedRing, ram: GuestRam
) -> None:
    ident, places = driver.add_in(8, 8)
    chain = pop(ring)
    assert [len(piece) for piece in chain.writable] == [8, 8]
    chain.writable[1][:3] = b"abc"
    ring.push(ident, 11)
    ring.publish()
    assert ram.read(places[1][0], 3) == b"abc"
    assert driver.read(0)[1:] == (11, ident, WRITE | AVAIL | USED)
    assert driver.used() == [(ident, 11)]


def test_batch_is_shown_by_its_first_descriptor_stored_last(
    driver: PackedDriverRing, ring: PackedRing
) -> None:
    idents = [driver.add_out(b"a"), driver.add_out(b"b", b"c"), driver.add_out(b"d")]
    for ident in idents:
        assert pop(ring).head == ident
        ring.push(ident, 0)
    assert driver.read(0)[3] == AVAIL
    assert [driver.read(slot)[3] & (AVAIL | USED) for slot in (1, 3)] == [AVAIL | USED] * 2
    assert driver.read(2)[3] == AVAIL  # the tail of the list stays as the driver wrote it
    assert driver.used() == []
    ring.publish()
    assert driver.used() == [(ident, 0) for ident in idents]


def test_unpop_gives_the_same_chains_again(driver: PackedDriverRing, ring: PackedRing) -> None:
    idents = [driver.add_out(b"x", b"y"), driver.add_out(b"z")]
    for _ in range(2):
        chains = [pop(ring), pop(ring)]
        assert [chain.head for chain in chains] == idents
        ring.unpop(chains)
    assert ring.last_avail == 0


def test_indirect_chain_reads_like_a_direct_one(driver: PackedDriverRing, ring: PackedRing) -> None:
    ident = driver.add_out(b"a" * 100, b"b" * 50, indirect=True)
    chain = pop(ring)
    assert b"".join(chain.readable) == b"a" * 100 + b"b" * 50
    assert (chain.head, ring.last_avail, ring.walked) == (ident, 1, 1)


def test_indirect_table_flags_other_than_write_are_ignored(
    driver: PackedDriverRing, ring: PackedRing, ram: GuestRam
) -> None:
    read, write = ram.put(b"read"), ram.alloc(8)
    driver.add([(*read, NEXT | INDIRECT | AVAIL), (write, 8, WRITE | NEXT | USED)], indirect=True)
    chain = pop(ring)
    assert [bytes(piece) for piece in chain.readable] == [b"read"]
    assert [len(piece) for piece in chain.writable] == [8]


def test_write_flag_of_an_indirect_descriptor_is_ignored(
    driver: PackedDriverRing, ring: PackedRing, ram: GuestRam
) -> None:
    data, size = ram.put(b"data")
    table, length = ram.put(data.to_bytes(8, "little") + size.to_bytes(4, "little") + bytes(4))
    driver.offer(table, length, INDIRECT | WRITE)
    assert [bytes(piece) for piece in pop(ring).readable] == [b"data"]


def test_memory_map_replaced_between_push_and_publish(
    driver: PackedDriverRing, ring: PackedRing, ram: GuestRam
) -> None:
    idents = [driver.add_out(b"x"), driver.add_out(b"y")]
    for ident in idents:
        pop(ring)
        ring.push(ident, 0)
    again = ram.map()
    ring.rebind(again, driver.areas(again))
    ring.publish()
    assert driver.used() == [(ident, 0) for ident in idents]
    ring.release()
    again.close()


# -- drain(): the buffers of a transmit queue at once ---------------------------------------------------


def read(readable: list[memoryview], writable: list[memoryview]) -> bytes | None:
    """What drain() is to do with a buffer: nothing for those that are empty."""
    assert writable == []
    return b"".join(readable) or None


@pytest.mark.parametrize("features", [PACKED, IN_ORDER], ids=["any-order", "in-order"])
@pytest.mark.parametrize("position", range(8))
def test_drain_takes_buffers_of_every_shape_and_gives_them_back_in_both_laps(
    position: int, features: int
) -> None:
    standing = filled(4, position, features)
    driver, ring = standing.driver, standing.ring
    for turn in range(5):
        data = [bytes([turn, number]) for number in range(3)]
        idents = [driver.add_out(*[data[0]] * (turn % 3)) if turn % 3 else driver.add_out(b"")]
        idents += [driver.add_out(data[1], indirect=turn == 3)]
        expected = [data[0] * (turn % 3), data[1]]
        if driver.room():
            idents.append(driver.add_out(data[2]))
            expected.append(data[2])
        assert ring.drain(read, 8) == [piece for piece in expected if piece]
        assert driver.used() == []
        assert ring.publish()
        assert driver.used() == [(ident, 0) for ident in idents]
        assert ring.last_avail == driver.position == driver.last_used
    assert ring.drain(read, 8) == []
    assert not ring.publish()
    standing.close()


def test_drain_takes_no_more_than_its_budget() -> None:
    standing = filled(16, 14)
    idents = [standing.driver.add_out(bytes([number])) for number in range(6)]
    assert standing.ring.drain(read, 4) == [b"\0", b"\1", b"\2", b"\3"]
    standing.ring.publish()
    assert standing.driver.used() == [(ident, 0) for ident in idents[:4]]
    assert standing.ring.drain(read, 4) == [b"\4", b"\5"]
    assert standing.ring.arm_kicks() is False
    assert standing.driver.device_event == (DESC, standing.driver.position)
    standing.close()


def test_drain_of_long_lists_stops_when_they_cost_more_than_its_budget_pays_for() -> None:
    standing = filled(256, 0)
    for _ in range(2):
        standing.driver.add_out(*[b"x"] * 100)
    assert standing.ring.drain(read, 2) == [b"x" * 100]
    standing.close()


def test_drain_with_a_buffer_in_flight_gives_back_in_the_right_slots() -> None:
    standing = filled(4, 3)
    idents = [standing.driver.add_out(b"a", b"b"), standing.driver.add_out(b"c")]
    chain = pop(standing.ring)
    standing.ring.push(chain.head, 0)
    assert standing.ring.drain(read, 4) == [b"c"]
    standing.ring.publish()
    assert standing.driver.used() == [(ident, 0) for ident in idents]
    standing.close()


# -- in order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 15, 16, 31])
def test_in_order_one_descriptor_stands_for_a_batch_of_read_buffers(position: int) -> None:
    standing = Standing(16, position, IN_ORDER)
    driver, ring = standing.driver, standing.ring
    for _ in range(5):
        idents = [driver.add_out(b"a"), driver.add_out(b"b", b"c"), driver.add_out(b"d")]
        untouched = [driver.slot(driver.position - back) for back in (1, 2, 3)]
        before = [driver.read(slot) for slot in untouched]
        for ident in idents:
            pop(ring)
            ring.push(ident, 0)
        ring.publish()
        assert driver.read(driver.slot(driver.last_used))[2] == idents[-1]
        assert [driver.read(slot) for slot in untouched] == before
        assert driver.used() == [(ident, 0) for ident in idents]
        assert ring.last_avail == driver.last_used
    standing.close()


def test_in_order_buffers_that_were_written_to_have_a_descriptor_each() -> None:
    standing = Standing(16, 0, IN_ORDER)
    idents = [standing.driver.add_in(8)[0] for _ in range(3)]
    for written in (8, 5, 8):
        standing.ring.push(pop(standing.ring).head, written)
    standing.ring.publish()
    assert standing.driver.used() == list(zip(idents, (8, 5, 8), strict=True))
    standing.close()


# -- fill(): the buffers of a frame at once -------------------------------------------------------------


def filled(num: int, position: int, features: int = PACKED) -> Standing:
    """A ring whose buffers lie where fill() and drain() look for them, in the largest region."""
    standing = Standing(num, position, features)
    standing.ram.next_free = max(standing.ram.next_free, SPLIT)
    return standing


@pytest.mark.parametrize("position", [0, 3, 4, 7])
def test_fill_lays_a_frame_into_as_few_buffers_as_hold_it_in_both_laps(position: int) -> None:
    standing = filled(4, position)
    driver, ring = standing.driver, standing.ring
    posted = [driver.add_in(8) for _ in range(4)]
    assert (taken := ring.fill((b"head", b"0123456789abc"), 0))
    assert (taken[0], len(taken[1])) == (3, 8)
    assert driver.used() == []
    assert ring.publish()
    used = driver.used()
    assert used == [(posted[0][0], 8), (posted[1][0], 8), (posted[2][0], 1)]
    data = [standing.ram.read(posted[at][1][0][0], size) for at, (_, size) in enumerate(used)]
    assert b"".join(data) == b"head0123456789abc"
    assert ring.last_avail == driver.last_used == (position + 3) % 8
    assert pop(ring).head == posted[3][0]
    standing.close()


def test_fill_behind_another_frame_of_the_batch_is_shown_with_it() -> None:
    standing = filled(16, 14)
    posted = [standing.driver.add_in(8)[0] for _ in range(6)]
    assert standing.ring.fill((bytes(12),), 0)
    standing.ring.push(pop(standing.ring).head, 3)
    assert standing.ring.fill((bytes(20),), 0)
    assert standing.driver.used() == []
    standing.ring.publish()
    assert standing.driver.used() == list(zip(posted, (8, 4, 3, 8, 8, 4), strict=True))
    standing.close()


@pytest.mark.parametrize(
    ("buffers", "least"),
    [
        ([], 0),
        ([(8, WRITE)], 0),
        ([(8, WRITE), (16, 0)], 0),
        ([(4, WRITE), (64, WRITE)], 8),
        ([(8, WRITE), (0, WRITE)], 0),
    ],
    ids=["none", "too-few", "readable", "first-too-short", "no-room"],
)
def test_fill_that_takes_nothing_leaves_the_descriptors_as_they_were(
    buffers: list[tuple[int, int]], least: int
) -> None:
    standing = filled(4, 3)
    for size, flags in buffers:
        standing.driver.add([(standing.ram.alloc(16, 64), size, flags)])
    before = [standing.driver.read(slot) for slot in range(4)]
    assert standing.ring.fill((bytes(12),), least) is None
    assert [standing.driver.read(slot) for slot in range(4)] == before
    assert (standing.ring.last_avail, standing.ring.publish()) == (3, False)
    standing.close()


@pytest.mark.parametrize("shape", ["list", "indirect", "other-region", "beyond-memory", "id"])
def test_fill_leaves_buffers_of_another_shape_to_pop(shape: str) -> None:
    standing = filled(4, 0)
    driver, gpa = standing.driver, standing.ram.alloc(16, 64)
    if shape == "list":
        driver.add([(gpa, 8, WRITE), (gpa + 8, 8, WRITE)])
    elif shape == "indirect":
        driver.add([(gpa, 16, WRITE)], indirect=True)
    elif shape == "id":
        driver.offer(gpa, 16, WRITE, ident=4)
    else:
        driver.add([({"other-region": SPLIT - 16, "beyond-memory": RAM_SIZE - 4}[shape], 16, WRITE)])
    assert standing.ring.fill((bytes(12),), 0) is None
    if shape in ("id", "beyond-memory"):
        broken(standing.ring)
    else:
        assert sum(map(len, pop(standing.ring).writable)) == 16
    standing.close()


def test_fill_with_buffers_in_flight_takes_nothing() -> None:
    standing = filled(4, 0)
    for _ in range(3):
        standing.driver.add_in(16)
    pop(standing.ring)
    assert standing.ring.fill((bytes(12),), 0) is None
    standing.close()


def test_fill_takes_no_more_than_the_queue_holds() -> None:
    standing = filled(2, 0)
    places = [standing.driver.add_in(8)[1][0][0] for _ in range(2)]
    assert standing.ring.fill((bytes(16),), 0)
    for gpa in places:  # before they came back
        standing.driver.offer(gpa, 8, WRITE)
    assert standing.ring.fill((bytes(12),), 0) is None
    assert "made available again" in broken(standing.ring).rule
    standing.close()


# -- notifications --------------------------------------------------------------------------------------


def complete(driver: PackedDriverRing, ring: PackedRing, count: int = 1) -> bool:
    """Buffers there and back; whether the driver is to be told."""
    for _ in range(count):
        driver.add_out(b"x")
        ring.push(pop(ring).head, 0)
    assert ring.publish()
    driver.used()
    return ring.needs_signal()


def test_first_batch_is_signalled_whatever_the_event_says(driver: PackedDriverRing, ring: PackedRing) -> None:
    driver.set_event(DESC, 9)
    assert complete(driver, ring)
    assert not complete(driver, ring)
    ring.forget_signalled()
    assert complete(driver, ring)


@pytest.mark.parametrize(("flags", "wanted"), [(ENABLE, True), (DISABLE, False)])
def test_event_flags_enable_and_disable(
    driver: PackedDriverRing, ring: PackedRing, flags: int, wanted: bool
) -> None:
    assert complete(driver, ring)
    driver.set_event(flags)
    assert complete(driver, ring) is wanted


@pytest.mark.parametrize("start", range(0, 32, 5))
@pytest.mark.parametrize(
    ("ahead", "count", "wanted"), [(0, 1, True), (1, 1, False), (2, 3, True), (3, 3, False)]
)
def test_event_of_one_descriptor_signals_when_it_is_passed_in_both_laps(
    start: int, ahead: int, count: int, wanted: bool
) -> None:
    standing = Standing(16, start)
    complete(standing.driver, standing.ring)
    standing.driver.set_event(DESC, (standing.driver.last_used + ahead) % 32)
    assert complete(standing.driver, standing.ring, count) is wanted
    standing.close()


def test_event_that_was_passed_by_several_batches_before_the_question_signals() -> None:
    standing = Standing(1, 0)
    complete(standing.driver, standing.ring)
    standing.driver.set_event(DESC, standing.driver.last_used)
    for _ in range(2):  # twice round: the position is the same as before
        standing.driver.add_out(b"x")
        standing.ring.push(pop(standing.ring).head, 0)
        standing.ring.publish()
        standing.driver.used()
    assert standing.ring.needs_signal()
    assert not standing.ring.needs_signal()
    standing.close()


@pytest.mark.parametrize(
    ("flags", "half"), [(3, 0), (3, 0xFFFF), (DESC, 16), (DESC, 0x7FFF), (DESC | 0xFFFC, 0x8010)]
)
def test_row_47_event_that_makes_no_sense_always_signals(
    driver: PackedDriverRing, ring: PackedRing, flags: int, half: int
) -> None:
    complete(driver, ring)
    driver.set_event(flags, half=half)
    assert complete(driver, ring)
    assert complete(driver, ring)


def test_row_47_event_of_one_descriptor_without_event_idx_always_signals(
    driver: PackedDriverRing, memory: GuestMemory
) -> None:
    ring = driver.device(memory, NO_EVENT_IDX)
    complete(driver, ring)
    driver.set_event(DESC, 12)
    assert complete(driver, ring)
    ring.release()


@pytest.mark.parametrize("position", [0, 2, 3, 5])
def test_arming_with_event_idx_names_the_next_descriptor(position: int) -> None:
    standing = Standing(3, position)
    standing.driver.add_out(b"x")
    pop(standing.ring)
    assert not standing.ring.arm_kicks()
    assert standing.driver.device_event == (DESC, (position + 1) % 6)
    standing.ring.suppress_kicks()
    assert standing.driver.device_event[0] == DISABLE
    standing.close()


def test_arming_without_event_idx_enables(driver: PackedDriverRing, memory: GuestMemory) -> None:
    ring = driver.device(memory, NO_EVENT_IDX)
    ring.suppress_kicks()
    assert driver.device_event[0] == DISABLE
    assert not ring.arm_kicks()
    assert driver.device_event[0] == ENABLE
    ring.release()


def test_arming_sees_a_buffer_that_came_meanwhile(driver: PackedDriverRing, ring: PackedRing) -> None:
    assert ring.pop() is None
    before = ring.mark()
    assert not ring.unseen()
    driver.add_out(b"x")
    assert ring.unseen()
    assert ring.mark() != before
    assert ring.arm_kicks()


def test_arming_behind_buffers_that_were_put_back_waits_for_more(
    driver: PackedDriverRing, ring: PackedRing
) -> None:
    driver.add_in(8, 8)
    driver.add_in(8)
    chains = [pop(ring), pop(ring)]
    assert ring.pop() is None
    ring.unpop(chains)
    assert not ring.arm_kicks()
    assert driver.device_event == (DESC, 3)
    assert not ring.unseen()
    before = ring.mark()
    driver.add_in(8)
    assert ring.unseen()
    assert ring.mark() != before
    assert len(pop(ring).writable) == 2
    assert not ring.unseen()
    assert ring.arm_kicks()


# -- where a ring starts --------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 15, 16, 17, 31])
def test_base_says_slot_and_wrap_counter_of_both_sides(position: int) -> None:
    standing = Standing(16, position)
    assert standing.ring.last_avail == position
    assert not standing.ring.resynchronised
    assert standing.ring.base == 0x10001 * half_of(position, 16)
    assert position_of(half_of(position, 16), 16) == position
    standing.turn(b"x")
    standing.close()


@pytest.mark.parametrize("base", [FRESH, 0x8000, 0], ids=["qemu", "dpdk", "uml"])
@pytest.mark.parametrize("offered", [False, True])
def test_fresh_ring_starts_with_wrap_counters_of_one(
    driver: PackedDriverRing, memory: GuestMemory, base: int, offered: bool
) -> None:
    if offered:
        driver.add_out(b"x")
    ring = driver.device(memory, base=base)
    assert (ring.last_avail, ring.base, ring.resynchronised) == (0, FRESH, False)
    assert (ring.pop() is not None) is offered
    ring.release()


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("offered", [False, True])
def test_base_of_zero_on_a_ring_that_was_stopped_there_is_taken_as_it_is(
    driver: PackedDriverRing, memory: GuestMemory, resumed: bool, offered: bool
) -> None:
    driver.reset(16)
    if offered:
        driver.add_out(b"x")
    ring = driver.device(memory, base=0, resumed=resumed)
    assert (ring.last_avail, ring.base) == (16, 0)
    assert (ring.pop() is not None) is offered
    ring.release()


@pytest.mark.parametrize(
    ("features", "resumed"),
    [(PACKED, True), (IN_ORDER, True), (IN_ORDER, False)],
    ids=["lists", "in order", "in order, of another back end"],
)
def test_base_of_zero_is_believed_behind_a_list_or_a_run_across_the_end(
    driver: PackedDriverRing, memory: GuestMemory, features: int, resumed: bool
) -> None:
    """Slot 0 looks like one of a fresh ring; the ring does not, as some slot was given back in the lap before."""
    driver.reset(16)
    driver.desc(0, 0, 0, 0, AVAIL)  # the tail of a list of the lap before, or what IN_ORDER skipped
    ring = driver.device(memory, features, base=0, resumed=resumed)
    assert ring.last_avail == 16
    ring.release()


def test_base_with_descriptors_in_flight_takes_them_again(
    driver: PackedDriverRing, memory: GuestMemory
) -> None:
    idents = [driver.add_out(b"x") for _ in range(3)]
    ring = driver.device(memory, base=half_of(2, 16) | half_of(0, 16) << 16)
    assert ring.resynchronised
    assert [pop(ring).head for _ in idents] == idents
    ring.release()


@pytest.mark.parametrize(
    ("base", "num"), [(0x80108010, 16), (0x8010, 16), (0x00108000, 16), (0x80000000 | 1, 16), (0x80018001, 1)]
)
def test_base_that_none_can_be_breaks(ram: GuestRam, memory: GuestMemory, base: int, num: int) -> None:
    assert bad_base(base, num)
    with pytest.raises(BrokenRing) as caught:
        PackedDriverRing(ram, num).device(memory, base=base)
    assert caught.value.section == "2.8.1"


@pytest.mark.parametrize("waiting", [0, 5, 16])
@pytest.mark.parametrize("position", [0, 1, 15, 16, 17, 31])
@pytest.mark.parametrize("stale", [FRESH, 0x80058005])
def test_back_end_that_died_is_followed_where_the_descriptors_say(
    driver: PackedDriverRing, memory: GuestMemory, position: int, waiting: int, stale: int
) -> None:
    driver.reset(position)
    idents = [driver.add_out(b"x") for _ in range(waiting)]
    ring = driver.device(memory, base=stale)
    assert ring.last_avail == position
    assert ring.resynchronised is (position_of(stale & 0xFFFF, 16) != position)
    assert [pop(ring).head for _ in idents] == idents
    assert ring.pop() is None
    ring.release()


def test_lists_hide_where_a_ring_stands_and_its_base_is_believed(
    driver: PackedDriverRing, memory: GuestMemory
) -> None:
    ring = driver.device(memory)
    for _ in range(3):
        driver.add_out(b"a", b"b", b"c")
        ring.push(pop(ring).head, 0)
        ring.publish()
        driver.used()
    base = ring.base
    ring.release()
    again = driver.device(memory, base=base)
    assert (again.last_avail, again.resynchronised) == (9, False)
    again.release()


# -- bad inputs -----------------------------------------------------------------------------------------


def broken(ring: PackedRing) -> BrokenRing:
    with pytest.raises(BrokenRing) as caught:
        ring.pop()
    error = caught.value
    assert error.queue == 1
    assert error.section.startswith("2.8.")
    assert f"queue {error.queue}, head {error.head}, descriptor {error.descriptor}" in str(error)
    return error


def test_row_30_descriptor_available_again_before_it_came_back_breaks() -> None:
    standing = Standing(2, 1)
    place = standing.ram.put(b"x")
    for ident in (0, 1):
        standing.driver.offer(*place, 0, ident)
        pop(standing.ring)
    standing.driver.offer(*place, 0, 0)
    error = broken(standing.ring)
    assert (error.rule, error.descriptor) == ("made available again before it was given back", 1)
    standing.close()


def test_row_33_list_of_more_than_the_queue_breaks(driver: PackedDriverRing, ring: PackedRing) -> None:
    for _ in range(16):
        driver.offer(*driver.ram.put(b"x"), NEXT)
    error = broken(ring)
    assert "more than 16" in error.rule
    assert (error.section, error.descriptor) == ("2.8.17", 15)


def test_row_33_list_into_descriptors_in_flight_breaks(driver: PackedDriverRing, ring: PackedRing) -> None:
    for _ in range(12):
        driver.add_out(b"x")
        pop(ring)
    for _ in range(5):
        driver.offer(*driver.ram.put(b"x"), NEXT)
    assert "more than 4" in broken(ring).rule


def test_row_33_list_of_the_whole_queue_is_legal(driver: PackedDriverRing, ring: PackedRing) -> None:
    driver.add_out(*[b"x"] * 16)
    assert len(pop(ring).readable) == 16
    assert ring.pop() is None


def test_row_34_id_in_flight_twice_breaks(driver: PackedDriverRing, ring: PackedRing) -> None:
    for _ in range(2):
        driver.offer(*driver.ram.put(b"x"), 0, 7)
    pop(ring)
    error = broken(ring)
    assert (error.rule, error.section) == ("buffer id 7 is in flight already", "2.8.21.1")


def test_row_35_readable_after_writable_breaks(driver: PackedDriverRing, ring: PackedRing) -> None:
    driver.add([(*driver.ram.put(b"x"), WRITE), (*driver.ram.put(b"x"), 0)])
    error = broken(ring)
    assert (error.section, error.head, error.descriptor) == ("2.8.17", 0, 1)


def test_row_36_indirect_without_the_feature_breaks(driver: PackedDriverRing, memory: GuestMemory) -> None:
    ring = driver.device(memory, PACKED & ~vf.mask(vf.VIRTIO_F_INDIRECT_DESC))
    driver.add_out(b"x", indirect=True)
    assert "not negotiated" in broken(ring).rule
    ring.release()


@pytest.mark.parametrize("size", [0, 8, 24, 17 * 16])
def test_row_36_indirect_table_of_bad_size_breaks(
    driver: PackedDriverRing, ring: PackedRing, size: int
) -> None:
    driver.offer(0x200000, size, INDIRECT)
    error = broken(ring)
    assert f"{size} bytes" in error.rule
    assert error.section == "2.8.19"


@pytest.mark.parametrize("first", [INDIRECT | NEXT, NEXT], ids=["at-once", "behind-another"])
def test_row_36_indirect_in_a_list_breaks(driver: PackedDriverRing, ring: PackedRing, first: int) -> None:
    driver.offer(*driver.ram.put(bytes(16)), first)
    driver.offer(*driver.ram.put(bytes(16)), INDIRECT)
    assert "INDIRECT and NEXT" in broken(ring).rule


def test_row_36_indirect_table_outside_memory_breaks(driver: PackedDriverRing, ring: PackedRing) -> None:
    driver.offer(RAM_SIZE - 8, 16, INDIRECT)
    assert "not in memory" in broken(ring).rule


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize(
    ("addr", "size"),
    [(RAM_SIZE, 1), (RAM_SIZE - 4, 8), (2**64 - 4, 8), (2**63, 0), (0, 2**32 - 1)],
    ids=["hole", "end", "wrap", "empty-in-hole", "huge"],
)
def test_row_37_address_outside_memory_breaks(
    driver: PackedDriverRing, ring: PackedRing, addr: int, size: int, indirect: bool
) -> None:
    driver.add([(addr, size, 0)], indirect)
    assert "not in memory" in broken(ring).rule


def test_row_37_buffer_across_adjacent_regions_is_split(
    driver: PackedDriverRing, ring: PackedRing, ram: GuestRam
) -> None:
    ram.write(SPLIT - 3, b"abcdef")
    driver.add([(SPLIT - 3, 6, 0)])
    assert [bytes(piece) for piece in pop(ring).readable] == [b"abc", b"def"]


def test_row_38_zero_length_descriptor_is_an_empty_piece(driver: PackedDriverRing, ring: PackedRing) -> None:
    driver.add_out(b"", b"data")
    assert [bytes(piece) for piece in pop(ring).readable] == [b"", b"data"]


def test_row_39_descriptor_over_the_ring_itself_is_read_once(
    driver: PackedDriverRing, ring: PackedRing
) -> None:
    ident = driver.add([(driver.desc_gpa, 16, WRITE), (driver.used_gpa, 4, WRITE)])
    chain = pop(ring)
    for piece in chain.writable:
        piece[:] = b"\xff" * len(piece)
    ring.push(chain.head, 20)
    ring.publish()
    assert driver.used() == [(ident, 20)]
    assert ring.pop() is None


def test_row_40_changes_after_pop_do_not_move_the_pieces(driver: PackedDriverRing, ring: PackedRing) -> None:
    ident = driver.add_out(b"stay")
    chain = pop(ring)
    driver.desc(0, 2**63, 2**31, 0xFFFF, INDIRECT | NEXT)
    assert bytes(chain.readable[0]) == b"stay"
    ring.push(chain.head, 0)
    ring.publish()
    assert driver.used() == [(ident, 0)]


@pytest.mark.parametrize("lap", [0, 1], ids=["wrap-1", "wrap-0"])
def test_row_46_descriptor_that_the_driver_marked_used_breaks(lap: int) -> None:
    standing = Standing(16, 16 * lap + 3)
    standing.driver.desc(3, *standing.ram.put(b"x"), 0, 0 if lap else AVAIL | USED)
    error = broken(standing.ring)
    assert (error.section, error.descriptor) == ("2.8.15", 3)
    standing.close()


@pytest.mark.parametrize("length", [1, 2])
def test_row_46_id_beyond_the_queue_breaks(driver: PackedDriverRing, ring: PackedRing, length: int) -> None:
    for at in range(length):
        driver.offer(*driver.ram.put(b"x"), NEXT if at + 1 < length else 0, 16)
    error = broken(ring)
    assert (error.rule, error.section) == ("buffer id 16, the queue size is 16", "2.8.22")
    assert error.descriptor == length - 1


def test_row_46_list_whose_tail_is_not_available_breaks(driver: PackedDriverRing, ring: PackedRing) -> None:
    driver.offer(*driver.ram.put(b"x"), NEXT)
    error = broken(ring)
    assert (error.section, error.head, error.descriptor) == ("2.8.17", 0, 1)


def test_row_46_descriptor_of_the_lap_before_is_not_there_yet() -> None:
    standing = Standing(4, 4)
    standing.driver.desc(0, *standing.ram.put(b"x"), 0, AVAIL)
    assert standing.ring.pop() is None
    standing.close()
