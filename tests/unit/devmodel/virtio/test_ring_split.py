# SPDX-License-Identifier: GPL-2.0-or-later
"""The split ring against a driver that keeps the rules and one that keeps none.

`row_NN` in a name is a row of tests/unit/devmodel/BAD_INPUTS.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vu_driver import INDIRECT, MODERN, NEXT, RAM_SIZE, SPLIT, WRITE, DriverRing, GuestRam

from devmodel.errors import BrokenRing
from devmodel.virtio import features as vf
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.ring_split import Chain, SplitRing

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
    assert [pop(ring).head, pop(ring).head] == heads
    ring.unpop(2)
    assert [pop(ring).head, pop(ring).head] == heads


def test_started_ring_takes_used_idx_for_the_truth(driver: DriverRing, memory: GuestMemory) -> None:
    driver.set_used_idx(5)
    driver.set_avail_idx(7)
    ring = driver.device(memory, base=2)
    assert ring.resynchronised
    assert (ring.last_avail, ring.waiting()) == (5, 2)
    ring.release()


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
