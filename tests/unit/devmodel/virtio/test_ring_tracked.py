# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings that track what is in flight, one by one; what crashes leave behind is in tests/sim/test_inflight_crash.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devmodel.errors import BrokenRing
from devmodel.virtio.inflight import PackedState, SplitState, queue_bytes
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.ring import Chain
from devmodel.virtio.ring_tracked import TrackedPackedRing, TrackedSplitRing
from guest.driver.memory import LAYOUTS, DriverMemory
from guest.driver.packed import PackedQueue
from guest.driver.split import SplitQueue
from guest.driver.virtqueue import Piece, Virtqueue

NUM = 8
FRESH = 0x80008000
Tracked = TrackedSplitRing | TrackedPackedRing


class Rig:
    """A driver's queue, a region, and a device that can be made anew over both."""

    def __init__(self, packed: bool) -> None:
        self.packed = packed
        self.memory = DriverMemory(LAYOUTS["flat"](1 << 20))
        self.device: GuestMemory = self.memory.device_view()
        self.queue: Virtqueue = (PackedQueue if packed else SplitQueue)(self.memory, 0, NUM, 0)
        self.region = bytearray(queue_bytes(NUM, packed))

    @property
    def state(self) -> SplitState | PackedState:
        return (PackedState if self.packed else SplitState)(0, memoryview(self.region), NUM)

    def ring(self, base: int | None = None) -> Tracked:
        """A device that takes over; by default with the base of the first start."""
        queue, uva = self.queue, self.memory.uva
        views = [
            self.device.uva_view(uva(gpa), size)
            for gpa, size in zip(
                (queue.desc_gpa, queue.driver_gpa, queue.device_gpa), queue.sizes, strict=True
            )
        ]
        assert views[0] is not None
        assert views[1] is not None
        assert views[2] is not None
        areas = views[0], views[1], views[2]
        state = self.state
        if isinstance(state, PackedState):
            start = FRESH if base is None else base
            return TrackedPackedRing(0, NUM, self.device, areas, 0, start, False, state)
        return TrackedSplitRing(0, NUM, self.device, areas, 0, base or 0, state)

    def offer(self, *texts: bytes, pieces: int = 1) -> None:
        for text in texts:
            cut = len(text) // pieces
            parts = [text[at * cut : (at + 1) * cut] for at in range(pieces)]
            self.queue.add([Piece(*self.memory.put(part)) for part in parts], text)
        self.queue.publish()

    def returned(self) -> list[bytes]:
        return [used.token for used in self.queue.used()]


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(request.param)
    yield made
    made.device.close()
    made.memory.close()


def text_of(chain: Chain | None) -> bytes:
    assert chain is not None
    return b"".join(chain.readable)


def test_taken_and_given_back_leaves_nothing_in_flight(rig: Rig) -> None:
    ring = rig.ring()
    for _ in range(5):
        rig.offer(b"one", b"two", b"thr")
        chains = [ring.pop() for _ in range(3)]
        for chain in chains:
            assert chain is not None
            ring.push(chain.head, 0)
        assert ring.publish()
        assert not ring.publish()
        assert rig.returned() == [b"one", b"two", b"thr"]
    assert rig.ring().resubmitted == 0


def test_taken_is_in_flight_until_it_was_published(rig: Rig) -> None:
    ring = rig.ring()
    rig.offer(b"one", b"two", b"thr")
    first = ring.pop()
    ring.pop()
    assert rig.ring().resubmitted == 2
    assert first is not None
    ring.push(first.head, 0)
    assert rig.ring().resubmitted == 2
    ring.publish()
    again = rig.ring()
    assert again.resubmitted == 1
    assert [text_of(again.pop()), text_of(again.pop())] == [b"two", b"thr"]
    assert again.pop() is None


def test_put_back_is_not_in_flight(rig: Rig) -> None:
    ring = rig.ring()
    rig.offer(b"one", b"two", b"thr")
    chains = [ring.pop() for _ in range(3)]
    ring.unpop([chain for chain in chains[1:] if chain is not None])
    again = rig.ring()
    assert again.resubmitted == 1
    assert [text_of(again.pop()) for _ in range(3)] == [b"one", b"two", b"thr"]


def test_taken_again_and_put_back_is_in_flight_still_and_comes_first_again(rig: Rig) -> None:
    ring = rig.ring()
    rig.offer(b"one", b"two", b"thr")
    ring.pop()
    again = rig.ring()
    chains = [again.pop() for _ in range(2)]
    again.unpop([chain for chain in chains if chain is not None])
    assert rig.ring().resubmitted == 1
    assert [text_of(again.pop()) for _ in range(3)] == [b"one", b"two", b"thr"]


def test_advance_counts_what_is_taken_again(rig: Rig) -> None:
    ring = rig.ring()
    rig.offer(b"one", b"two")
    ring.pop()
    again = rig.ring()
    before = again.last_avail
    again.pop()
    assert again.advance(before) == 1


def test_base_counts_what_was_never_taken_up_again_and_the_next_device_has_it(rig: Rig) -> None:
    ring = rig.ring()
    rig.offer(b"one", b"two", b"thr")
    ring.pop()
    ring.pop()
    stopped = rig.ring()
    base = stopped.base
    assert base == (0x80008002 if rig.packed else 2)
    again = rig.ring(base)
    assert [text_of(again.pop()) for _ in range(3)] == [b"one", b"two", b"thr"]


def test_lists_in_the_ring_are_taken_again_whole(rig: Rig) -> None:
    ring = rig.ring()
    rig.offer(b"oneone", b"twotwo", pieces=3)
    ring.pop()
    ring.pop()
    again = rig.ring()
    chains = [again.pop(), again.pop()]
    assert [text_of(chain) for chain in chains] == [b"oneone", b"twotwo"]
    for chain in chains:
        assert chain is not None
        again.push(chain.head, 0)
    again.publish()
    assert rig.returned() == [b"oneone", b"twotwo"]
    rig.offer(b"threee", pieces=3)  # round the end of a packed ring
    assert text_of(again.pop()) == b"threee"


def test_split_head_that_is_in_flight_is_not_taken_twice() -> None:
    rig = Rig(packed=False)
    ring = rig.ring()
    rig.offer(b"one", b"two")
    rig.memory.view(rig.queue.driver_gpa + 4, 4).cast("H")[1] = 0
    assert text_of(ring.pop()) == b"one"
    with pytest.raises(BrokenRing, match="made available again"):
        ring.pop()
    assert rig.ring().resubmitted == 1


def test_split_more_in_flight_than_was_ever_offered_is_refused() -> None:
    rig = Rig(packed=False)
    ring = rig.ring()
    rig.offer(b"one")
    ring.pop()
    state = rig.state
    state.bytes[SplitState.inflight_at(5)] = 1
    with pytest.raises(BrokenRing, match="2 buffers in flight"):
        rig.ring()


# -- what back ends of another make leave, that give back in another order ------------------------------------


def test_split_out_of_order_takes_the_hole_and_goes_on_behind() -> None:
    """Taken: 0 to 3. Given back: 3, 1, 2."""
    rig = Rig(packed=False)
    rig.offer(b"zero", b"one", b"two", b"three", b"four")
    state = rig.state
    assert isinstance(state, SplitState)
    state.begin(3)
    state.words[SplitState.counter_at(0)] = 17
    state.bytes[SplitState.inflight_at(0)] = 1
    used = rig.memory.view(rig.queue.device_gpa, 4 + 8 * NUM)
    used[4:28] = b"".join(head.to_bytes(4, "little") + bytes(4) for head in (3, 1, 2))
    used[2] = 3
    ring = rig.ring()
    assert [text_of(ring.pop()), text_of(ring.pop())] == [b"zero", b"four"]
    assert ring.pop() is None
    ring.push(0, 0)
    ring.push(4, 0)
    ring.publish()
    assert rig.returned() == [b"three", b"one", b"two", b"zero", b"four"]
    assert rig.queue.outstanding() == 0


def test_packed_out_of_order_takes_what_its_slots_do_not_have_any_more() -> None:
    """Taken: a list in slots 0 and 1, then slots 2 and 3. The latter two were given back, over the former's slots."""
    rig = Rig(packed=True)
    rig.offer(b"abcd", pieces=2)
    rig.offer(b"two", b"three", b"four")
    other = rig.ring()
    first, second, third = other.pop(), other.pop(), other.pop()
    assert first is not None
    assert second is not None
    assert third is not None
    other.push(second.head, 0)
    other.push(third.head, 0)
    other.publish()
    ring = rig.ring()
    assert ring.resubmitted == 1
    assert [text_of(ring.pop()), text_of(ring.pop())] == [b"abcd", b"four"]
    ring.push(first.head, 0)
    ring.publish()
    assert rig.returned() == [b"two", b"three", b"abcd"]
