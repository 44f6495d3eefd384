# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver's sides of split and packed virtqueues, against the small models of ring_models.py."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from ring_models import PackedModel, SplitModel

from devmodel.virtio import features as vf
from guest.driver.errors import DeviceBroken
from guest.driver.memory import DriverMemory, split_layout
from guest.driver.packed import EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, PackedQueue
from guest.driver.split import SplitQueue
from guest.driver.virtqueue import Piece, QueueFull, Virtqueue

INDIRECT = vf.mask(vf.VIRTIO_F_INDIRECT_DESC)
EVENT_IDX = vf.mask(vf.VIRTIO_F_EVENT_IDX)
IN_ORDER = vf.mask(vf.VIRTIO_F_IN_ORDER)
LAYOUTS = {"split": (SplitQueue, SplitModel), "packed": (PackedQueue, PackedModel)}
NUM = 8


@pytest.fixture
def memory() -> Iterator[DriverMemory]:
    made = DriverMemory(split_layout(1 << 20))
    yield made
    made.close()


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(layout: str, memory: DriverMemory, features: int = 0, num: int = NUM):  # type: ignore[no-untyped-def]
    queue_type, model_type = LAYOUTS[layout]
    queue = queue_type(memory, 1, num, features)
    return queue, model_type(queue)


def out(memory: DriverMemory, *contents: bytes) -> list[Piece]:
    return [Piece(*memory.put(content)) for content in contents]


def test_added_is_not_seen_until_published(layout: str, memory: DriverMemory) -> None:
    queue, device = make(layout, memory)
    queue.add(out(memory, b"one"), 1)
    queue.add(out(memory, b"two"), 2)
    assert device.pop() is None
    assert queue.publish()
    assert [device.pop().out, device.pop().out] == [b"one", b"two"]
    assert device.pop() is None
    assert not queue.publish()


@pytest.mark.parametrize("indirect", [False, True])
def test_chain_out_and_in_comes_back_with_what_was_written(
    layout: str, memory: DriverMemory, indirect: bool
) -> None:
    queue, device = make(layout, memory, INDIRECT)
    room = [Piece(memory.alloc(4), 4, True), Piece(memory.alloc(4), 4, True)]
    queue.add([*out(memory, b"ab", b"cd"), *room], "token", indirect)
    queue.publish()
    assert queue.free == NUM - (1 if indirect else 4)
    seen = device.pop()
    assert seen.out == b"abcd"
    device.push(seen, device.fill(seen, b"answer"))
    assert queue.used() == [("token", 6)]
    assert memory.read(room[0].gpa, 4) + memory.read(room[1].gpa, 2) == b"answer"
    assert queue.free == NUM
    assert queue.outstanding() == 0


@pytest.mark.parametrize(
    ("layout", "num"), [("split", 4), ("split", 8), ("packed", 4), ("packed", 7), ("packed", 8)]
)
def test_many_random_buffers_all_come_back_once(layout: str, memory: DriverMemory, num: int) -> None:
    rng = random.Random(num)
    queue, device = make(layout, memory, INDIRECT, num)
    pending, back, sent, heard = [], [], 0, []
    for _ in range(1000):
        if rng.random() < 0.5:
            parts = [bytes([sent & 0xFF]) * rng.randint(1, 5) for _ in range(rng.randint(1, num))]
            pieces = out(memory, *parts)
            try:
                queue.add(pieces, (sent, pieces), rng.random() < 0.3)
                heard.append(b"".join(parts))
                sent += 1
            except QueueFull:
                for piece in pieces:
                    memory.free(piece.gpa)
            if rng.random() < 0.7:
                queue.publish()
        while rng.random() < 0.7 and (seen := device.pop()) is not None:
            assert seen.out == heard[len(pending) + len(back)]
            pending.append(seen)
        if pending and rng.random() < 0.7:
            device.push(pending.pop(0), 0)
            back.append(None)
        for (number, pieces), _ in queue.used():
            assert number == len([None for one in back if one is not None])
            back[number] = number
            for piece in pieces:
                memory.free(piece.gpa)
    assert sent > 150
    assert back == list(range(len(back)))


def test_out_of_order_completion_frees_the_right_descriptors(layout: str, memory: DriverMemory) -> None:
    queue, device = make(layout, memory)
    for number in range(4):
        queue.add(out(memory, b"x"), number)
    queue.publish()
    seen = [device.pop() for _ in range(4)]
    for one in reversed(seen):
        device.push(one, 0)
    assert [used.token for used in queue.used()] == [3, 2, 1, 0]


def test_in_order_one_element_completes_a_batch(layout: str, memory: DriverMemory) -> None:
    queue, device = make(layout, memory, IN_ORDER)
    for round_ in range(20):
        rooms = [Piece(memory.alloc(8), 8, True) for _ in range(3)]
        for number, room in enumerate(rooms):
            queue.add([room], 10 * round_ + number)
        queue.publish()
        seen = [device.pop() for _ in range(3)]
        device.push(seen[2], 5, 3)
        assert queue.used() == [(10 * round_, 8), (10 * round_ + 1, 8), (10 * round_ + 2, 5)]
    assert queue.free == NUM


def test_more_pieces_than_free_changes_nothing(layout: str, memory: DriverMemory) -> None:
    queue, device = make(layout, memory)
    queue.add(out(memory, *[b"x"] * 6), 0)
    with pytest.raises(QueueFull):
        queue.add(out(memory, *[b"y"] * 3), 1)
    queue.add(out(memory, *[b"z"] * 2), 2)
    assert queue.free == 0
    queue.publish()
    assert [device.pop().out, device.pop().out] == [b"x" * 6, b"zz"]


@pytest.mark.parametrize("pieces", [[], [Piece(0, 1)] * (NUM + 1), [Piece(0, 1, True), Piece(0, 1)]])
def test_buffer_that_must_not_be_is_refused(layout: str, memory: DriverMemory, pieces: list[Piece]) -> None:
    queue, _ = make(layout, memory)
    with pytest.raises(ValueError, match="piece"):
        queue.add(pieces, None)


# -- a device that breaks rules -----------------------------------------------------------------------------


def test_used_unknown_id_is_told(layout: str, memory: DriverMemory) -> None:
    queue, device = make(layout, memory)
    queue.add(out(memory, b"x"), 0)
    queue.publish()
    seen = device.pop()
    seen.number = 5
    device.push(seen, 0)
    with pytest.raises(DeviceBroken, match="5, which is not available"):
        queue.used()


def test_written_more_than_there_is_room_is_told(layout: str, memory: DriverMemory) -> None:
    queue, device = make(layout, memory)
    queue.add([Piece(memory.alloc(8), 8, True)], 0)
    queue.publish()
    device.push(device.pop(), 9)
    with pytest.raises(DeviceBroken, match="9 bytes written"):
        queue.used()


def test_split_used_idx_that_runs_ahead_is_told(memory: DriverMemory) -> None:
    queue, device = make("split", memory)
    queue.add(out(memory, b"x"), 0)
    queue.publish()
    device.put16(device.device + 2, 2)
    with pytest.raises(DeviceBroken, match=r"used\.idx 2 is 2 ahead"):
        queue.used()


# -- kicks and interrupts -----------------------------------------------------------------------------------


def batch(queue: Virtqueue, memory: DriverMemory, count: int) -> bool:
    for _ in range(count):
        queue.add(out(memory, b"x"), None)
    return queue.publish()


def serve(queue: Virtqueue, device: SplitModel | PackedModel) -> None:
    while (seen := device.pop()) is not None:
        device.push(seen, 0)
    queue.used()


def test_split_flag_suppresses_kicks(memory: DriverMemory) -> None:
    queue, device = make("split", memory)
    assert batch(queue, memory, 1)
    device.put16(device.device, 1)
    assert not batch(queue, memory, 1)
    assert (queue.kicks_wanted, queue.kicks_spared) == (1, 1)


@pytest.mark.parametrize(
    ("event", "kick"), [(0, True), (1, True), (2, True), (3, False), (4, False), (0xFFFF, False)]
)
def test_split_event_index_says_with_which_entry_to_kick(
    memory: DriverMemory, event: int, kick: bool
) -> None:
    queue, device = make("split", memory, EVENT_IDX)
    device.put16(device.device + 4 + 8 * NUM, event)
    assert batch(queue, memory, 3) is kick


def test_split_event_index_across_the_counters_end(memory: DriverMemory) -> None:
    queue, device = make("split", memory, EVENT_IDX)
    queue._avail_next = queue._avail_shown = queue._last_used = 65534
    device.last_avail = device.used_idx = 65534
    device.put16(device.driver + 2, 65534)
    device.put16(device.device + 2, 65534)
    device.put16(device.device + 4 + 8 * NUM, 0)
    assert not batch(queue, memory, 2)  # entries 65534 and 65535
    serve(queue, device)
    assert batch(queue, memory, 2)  # entries 0 and 1


def test_packed_event_flags_suppress_kicks(memory: DriverMemory) -> None:
    queue, device = make("packed", memory, EVENT_IDX)
    device.event(EVENT_DISABLE)
    assert not batch(queue, memory, 1)
    device.event(EVENT_ENABLE)
    assert batch(queue, memory, 1)
    device.event(3)
    assert batch(queue, memory, 1), "a value that means nothing must not silence the driver"


@pytest.mark.parametrize("done", [0, 3, 6, 8, 13, 21])
@pytest.mark.parametrize("ahead", [0, 1, 2, 3, 7])
def test_packed_event_names_position_and_wrap(memory: DriverMemory, done: int, ahead: int) -> None:
    queue, device = make("packed", memory, EVENT_IDX)
    for _ in range(done):
        batch(queue, memory, 1)
        serve(queue, device)
    at = done + ahead
    device.event(EVENT_DESC, at % NUM, 1 ^ (at // NUM & 1))
    assert batch(queue, memory, 3) is (ahead < 3)


def test_enable_calls_says_what_came_meanwhile(layout: str, memory: DriverMemory) -> None:
    queue, device = make(layout, memory, EVENT_IDX)
    batch(queue, memory, 2)
    assert not queue.enable_calls()
    device.push(device.pop(), 0)
    assert queue.enable_calls()
    queue.used()
    assert not queue.enable_calls()


def test_split_call_wishes_are_in_memory(memory: DriverMemory) -> None:
    queue, device = make("split", memory)
    queue.disable_calls()
    assert device.u16(device.driver) == 1
    queue.enable_calls()
    assert device.u16(device.driver) == 0
    queue, device = make("split", memory, EVENT_IDX)
    batch(queue, memory, 3)
    serve(queue, device)
    queue.enable_calls()
    assert device.u16(device.driver + 4 + 2 * NUM) == 3
    queue.disable_calls()
    assert device.u16(device.driver) == 0


def test_packed_call_wishes_are_in_memory(memory: DriverMemory) -> None:
    queue, device = make("packed", memory, EVENT_IDX)
    for _ in range(2):
        batch(queue, memory, 5)
        serve(queue, device)
    queue.enable_calls()
    assert device.wanted() == (EVENT_DESC, 2, 0)
    queue.disable_calls()
    assert device.wanted()[0] == EVENT_DISABLE


def test_packed_base_has_both_halves(memory: DriverMemory) -> None:
    queue, device = make("packed", memory)
    assert queue.base == 0x80008000
    for _ in range(2):
        batch(queue, memory, 5)
        serve(queue, device)
    assert queue.base == 0x00020002


def test_release_gives_ring_and_tables_back(layout: str, memory: DriverMemory) -> None:
    mark = memory.alloc(1)
    memory.free(mark)
    queue, _ = make(layout, memory, INDIRECT)
    queue.add([Piece(0, 1), Piece(0, 1)], "lost", True)
    queue.publish()
    assert queue.release() == ["lost"]
    assert memory.alloc(1) == mark
