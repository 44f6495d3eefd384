# SPDX-License-Identifier: GPL-2.0-or-later
"""Which buffers a device has taken and not given back, in memory that outlives it (vhost-user specification, "Inflight
I/O tracking").

A region of shared memory, which the frontend keeps while back ends come and go, has one part for each queue. What lies
in a part depends on the layout of the ring: `SplitState` and `PackedState`, below, with the specification's names.
ring_tracked.py has the rings that write it. Here is the one place that reads it: `recover()` says what the device that
died had taken, once, when a ring starts. After that a ring goes by what it knows itself, so that whoever else can write
to the region confuses the next device at most, and `recover()` believes nothing: each index is checked, each walk is
as long as the queue at most, and what makes no sense is a BrokenRing.

What a crash leaves. A process that is killed has carried out all its stores up to one point and none behind it, and
whoever looks later sees them all, so the order of stores in the program is all that counts; no fence is needed between
them. Each store is one aligned item of a `memoryview.cast`. "Taken" begins with a store of its own, and so does "given
back" for all buffers of a batch, but that one is a store to the ring (`used.idx`, or the flags of the batch's first
descriptor): what was done to the region before it is undone, or what was left to do behind it is done, by comparing
both. For that the region keeps where the ring stood before the batch.

Split. A buffer is named by its head, which has an entry of the same number: `inflight`, and a `counter` that says in
which order they were taken. The heads of the batch under way are linked from `last_batch_head`; if `used_idx` is not
the ring's, the batch was published and the first of the list, as many as the two differ by, have been given back.

Packed. Slots of the ring are overwritten in another order than they were taken in, so the descriptors are copied: each
takes an entry off a list of free ones, `last` and `num` say which entries are one buffer's. `free_head`, `used_idx` and
the wrap counter each have an old value, that of the last batch which was completed; a buffer is taken when
`old_free_head` has left its entries behind. The batch under way was published if the ring's descriptor at
`old_used_idx` is not available any more.

Two things are more exact here than where the specification leaves it open:

* Values that belong together are stored together: `free_head` with its old value is one aligned 32-bit word, and both
  used indexes with both wrap counters lie in one aligned 64-bit word. A crash between two stores of a pair could
  otherwise turn a published batch into an unpublished one, where the ring wraps. That is why a region has to begin at a
  multiple of 64 in its file.
* A batch as long as the ring leaves `used_idx` where it was and only turns the wrap counter over: both are compared.

Of a batch that was rolled back the ring may hold used descriptors behind the first slot, invisible until that one is
overwritten. The next device overwrites it with a batch of its own, which may be shorter: so the slots that belong to
the device are made to look available again before it starts (ring_tracked.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from devmodel.errors import BrokenRing, FrontendError
from devmodel.virtio.memory import Mapping
from devmodel.virtio.spec import VIRTQ_MAX_SIZE

# "Inflight description"; libvhost-user, DPDK and this device align each queue's part to a cache line
INFLIGHT_ALIGNMENT: Final = 64

# "Inflight I/O tracking for split virtqueue", "... for packed virtqueue"
VERSION: Final = 1  # 0: nobody has written to it yet
SPLIT_HEADER: Final = 16
SPLIT_ENTRY: Final = 16
PACKED_HEADER: Final = 32  # 29 bytes of fields, aligned to what follows
PACKED_ENTRY: Final = 32

SECTION: Final = "vhost-user specification, Inflight I/O tracking"

Allocator = Callable[[int], int]
"""size -> a fresh descriptor of so many zero bytes of shared memory; MappingError if there are none."""


class InflightSpec(NamedTuple):
    """The payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD ("Inflight description")."""

    mmap_size: int
    mmap_offset: int
    num_queues: int
    queue_size: int


def queue_bytes(queue_size: int, packed: bool) -> int:
    """How long one queue's part is."""
    size = PACKED_HEADER + PACKED_ENTRY * queue_size if packed else SPLIT_HEADER + SPLIT_ENTRY * queue_size
    return -(-size // INFLIGHT_ALIGNMENT) * INFLIGHT_ALIGNMENT


def region_bytes(num_queues: int, queue_size: int) -> int:
    """What a region needs whichever layout will be negotiated: a frontend may ask for it before that is known."""
    return num_queues * queue_bytes(queue_size, packed=True)


def check_spec(spec: InflightSpec, rings: int) -> None:
    """FrontendError for numbers that no device of `rings` rings can make a region of."""
    if not 0 < spec.num_queues <= rings:
        raise FrontendError(
            f"an inflight region for {spec.num_queues} queues", f"the device has {rings} rings"
        )
    if not 0 < spec.queue_size <= VIRTQ_MAX_SIZE:
        raise FrontendError("an inflight region's queues have 1 to 32768 entries", f"{spec.queue_size}")
    if spec.mmap_offset % INFLIGHT_ALIGNMENT:
        raise FrontendError("an inflight region begins at a multiple of 64", f"offset {spec.mmap_offset}")
    if spec.mmap_offset + spec.mmap_size >= 1 << 63:
        raise FrontendError("an inflight region ends beyond 2**63", f"{spec}")


class InflightRegion:
    """A mapped region. `state()` gives a queue's part to the ring that starts."""

    def __init__(self, mapping: Mapping, spec: InflightSpec) -> None:
        """Takes the mapping over; `check()` comes before any `state()`."""
        self.num_queues = spec.num_queues
        self.queue_size = spec.queue_size
        self._mapping = mapping
        self._states: dict[int, SplitState | PackedState] = {}

    def check(self, packed: bool) -> None:
        """FrontendError if it is too short for this layout, or holds what this device does not know."""
        stride = queue_bytes(self.queue_size, packed)
        view = self._mapping.view
        if len(view) < self.num_queues * stride:
            evidence = (
                f"{len(view)} bytes for {self.num_queues} queues of {self.queue_size}, each has {stride}"
            )
            raise FrontendError("an inflight region is too short", evidence)
        for at in range(0, self.num_queues * stride, stride):
            features = int.from_bytes(view[at : at + 8], "little")
            version = int.from_bytes(view[at + 8 : at + 10], "little")
            desc_num = int.from_bytes(view[at + 10 : at + 12], "little")
            where = f"queue {at // stride}: features {features:#x}, version {version}, desc_num {desc_num}"
            if features or version > VERSION:
                raise FrontendError("an inflight region of an unknown version", where)
            if version and desc_num != self.queue_size:
                raise FrontendError("an inflight region's queues have another size than was said", where)

    def state(self, index: int, num: int, packed: bool) -> SplitState | PackedState | None:
        """The part of a ring of `num` entries; None if the region has none for it. BrokenRing."""
        if index >= self.num_queues:
            return None
        if num > self.queue_size:
            raise BrokenRing(index, f"a queue of {num}, its inflight region has {self.queue_size}", SECTION)
        try:
            self.check(packed)
        except FrontendError as error:
            raise BrokenRing(index, f"{error.fact}: {error.evidence}", SECTION) from error
        stride = queue_bytes(self.queue_size, packed)
        view = self._mapping.view[index * stride : (index + 1) * stride]
        state = (PackedState if packed else SplitState)(index, view, self.queue_size)
        if index in self._states:
            self._states[index].release()
        self._states[index] = state
        return state

    def close(self) -> None:
        """Unmap it; the rings that write to it have ended."""
        for state in self._states.values():
            state.release()
        self._states = {}
        self._mapping.close()


class SplitState:
    """QueueRegionSplit: the words of one queue's part, by the specification's names."""

    __slots__ = ("_view", "bytes", "desc_num", "halves", "index", "words")

    # Where fields lie: in `bytes`, 16-bit `halves` and 64-bit `words`
    LAST_BATCH_HEAD: Final = 6
    USED_IDX: Final = 7

    def __init__(self, index: int, view: memoryview, desc_num: int) -> None:
        self.index = index
        self.desc_num = desc_num
        self._view = view
        self.bytes = view.cast("B")
        self.halves = view.cast("H")
        self.words = view.cast("Q")

    def release(self) -> None:
        for view in (self.words, self.halves, self.bytes, self._view):
            view.release()

    @staticmethod
    def inflight_at(head: int) -> int:
        return SPLIT_HEADER + SPLIT_ENTRY * head

    @staticmethod
    def next_at(head: int) -> int:
        return (SPLIT_HEADER + SPLIT_ENTRY * head + 6) // 2

    @staticmethod
    def counter_at(head: int) -> int:
        return (SPLIT_HEADER + SPLIT_ENTRY * head + 8) // 8

    @property
    def fresh(self) -> bool:
        return not self.halves[4]

    def begin(self, used_idx: int) -> None:
        """Make an unused part one of a queue whose used.idx is this; the version is written last."""
        self.bytes[:] = bytes(len(self.bytes))
        self.halves[5] = self.desc_num
        self.halves[self.USED_IDX] = used_idx
        self.halves[4] = VERSION

    def recover(self, num: int, used_idx: int) -> tuple[list[int], int]:
        """The heads in flight, in the order in which they were taken, and the next counter. BrokenRing."""
        ahead = (used_idx - self.halves[self.USED_IDX]) & 0xFFFF
        if ahead > num:
            rule = f"used.idx {used_idx} is {ahead} ahead of the inflight region's, the queue size is {num}"
            raise BrokenRing(self.index, rule, SECTION)
        if ahead:
            for head in self._last_batch(num, ahead):
                self.bytes[self.inflight_at(head)] = 0
            self.halves[self.USED_IDX] = used_idx
        entries = range(self.desc_num)
        taken = [
            (self.words[self.counter_at(head)], head)
            for head in entries
            if self.bytes[self.inflight_at(head)]
        ]
        taken.sort()
        if taken and max(head for _, head in taken) >= num:
            rule = f"a head beyond the queue of {num} is in flight"
            raise BrokenRing(self.index, rule, SECTION, max(head for _, head in taken))
        return [head for _, head in taken], (taken[-1][0] + 1 if taken else 0) & (1 << 64) - 1

    def _last_batch(self, num: int, size: int) -> list[int]:
        """The first `size` heads of the list, which no sound list names twice."""
        heads: list[int] = []
        head = self.halves[self.LAST_BATCH_HEAD]
        while len(heads) < size:
            if head >= num:
                rule = f"the last batch's list leads to {head}, the queue size is {num}"
                raise BrokenRing(self.index, rule, SECTION, head)
            heads.append(head)
            head = self.halves[self.next_at(head)]
        if len(set(heads)) < size:
            raise BrokenRing(self.index, f"the last batch's list of {size} goes in a circle", SECTION)
        return heads


class Inflight(NamedTuple):
    """A buffer of a packed ring that was taken: its entries, first to last, and their descriptors (addr, len, id,
    flags)."""

    entries: list[int]
    descriptors: list[tuple[int, int, int, int]]


class Recovered(NamedTuple):
    """Where a packed ring stands: slot and wrap counter of the next used descriptor, what is in flight in the order in
    which it was taken, the free entries (the head of the list is the last), the next counter."""

    used_idx: int
    wrap: int
    taken: list[Inflight]
    free: list[int]
    counter: int


class PackedState:
    """QueueRegionPacked: the words of one queue's part, by the specification's names."""

    __slots__ = ("_view", "bytes", "desc_num", "halves", "index", "longs", "words")

    # Where fields lie: free_head and old_free_head in 32-bit `longs`, both used_idx and wrap counters in 64-bit `words`
    FREE: Final = 3
    USED: Final = 2

    def __init__(self, index: int, view: memoryview, desc_num: int) -> None:
        self.index = index
        self.desc_num = desc_num
        self._view = view
        self.bytes = view.cast("B")
        self.halves = view.cast("H")
        self.longs = view.cast("I")
        self.words = view.cast("Q")

    def release(self) -> None:
        for view in (self.words, self.longs, self.halves, self.bytes, self._view):
            view.release()

    @staticmethod
    def inflight_at(entry: int) -> int:
        return PACKED_HEADER + PACKED_ENTRY * entry

    @staticmethod
    def next_at(entry: int) -> int:
        """In `halves`; `last` and `num` follow."""
        return (PACKED_HEADER + PACKED_ENTRY * entry + 2) // 2

    @staticmethod
    def counter_at(entry: int) -> int:
        """In `words`; behind it id, flags and len are one word (`packed_word`), then addr."""
        return (PACKED_HEADER + PACKED_ENTRY * entry + 8) // 8

    @property
    def fresh(self) -> bool:
        return not self.halves[4]

    def set_free(self, head: int, old: int) -> None:
        self.longs[self.FREE] = head | old << 16

    def set_used(self, used: tuple[int, int], old: tuple[int, int]) -> None:
        """Both as slot and wrap counter."""
        self.words[self.USED] = used[0] | old[0] << 16 | used[1] << 32 | old[1] << 40

    def begin(self, used_idx: int, wrap: int) -> Recovered:
        """Make an unused part one of a queue that stands there; the version is written last."""
        self.bytes[:] = bytes(len(self.bytes))
        for entry in range(self.desc_num):
            self.halves[self.next_at(entry)] = entry + 1
        self.set_used((used_idx, wrap), (used_idx, wrap))
        self.halves[5] = self.desc_num
        self.halves[4] = VERSION
        return Recovered(used_idx, wrap, [], list(reversed(range(self.desc_num))), 0)

    def recover(self, num: int, is_available: Callable[[int, int], bool]) -> Recovered:
        """What was taken; `is_available(slot, wrap)` looks at the ring's descriptor. BrokenRing."""
        word, free = self.words[self.USED], self.longs[self.FREE]
        used, old = (word & 0xFFFF, word >> 32 & 0xFF), (word >> 16 & 0xFFFF, word >> 40 & 0xFF)
        if max(used[0], old[0]) >= num or max(used[1], old[1]) > 1:
            rule = f"the inflight region's used_idx is {used} after {old}, the queue size is {num}"
            raise BrokenRing(self.index, rule, SECTION)
        head, old_head = free & 0xFFFF, free >> 16
        if used != old and not is_available(*old):
            old, old_head = used, head  # the batch was published: what was left to do
        self.set_free(old_head, old_head)
        self.set_used(old, old)
        unused = self._free_list(old_head)
        for entry in unused:
            self.bytes[self.inflight_at(entry)] = 0
        taken = self._in_flight(num, set(unused))
        counter = taken[-1][0] + 1 if taken else 0
        return Recovered(*old, [what for _, what in taken], unused[::-1], counter & (1 << 64) - 1)

    def _free_list(self, head: int) -> list[int]:
        """Its entries, head first; it ends with a number that is none."""
        found: dict[int, None] = {}
        while head < self.desc_num:
            if head in found:
                raise BrokenRing(self.index, "the inflight region's free list goes in a circle", SECTION)
            found[head] = None
            head = self.halves[self.next_at(head)]
        return list(found)

    def _in_flight(self, num: int, seen: set[int]) -> list[tuple[int, Inflight]]:
        """The buffers in flight with their counters; `seen` are the free entries, and every other one has to be one of
        a buffer's."""
        taken: list[tuple[int, Inflight]] = []
        for entry in range(self.desc_num):
            if self.bytes[self.inflight_at(entry)]:
                taken.append((self.words[self.counter_at(entry)], self._buffer(entry, seen)))
        if len(seen) != self.desc_num:
            rule = (
                f"{self.desc_num - len(seen)} entries of the inflight region are neither free nor in flight"
            )
            raise BrokenRing(self.index, rule, SECTION)
        count = sum(len(what.entries) for _, what in taken)
        if count > num:
            rule = f"{count} descriptors are in flight, the queue size is {num}"
            raise BrokenRing(self.index, rule, SECTION)
        taken.sort(key=lambda pair: pair[0])
        return taken

    def _buffer(self, entry: int, seen: set[int]) -> Inflight:
        at = self.next_at(entry)
        last, count = self.halves[at + 1], self.halves[at + 2]
        what = Inflight([], [])
        while entry < self.desc_num and entry not in seen and len(what.entries) < count:
            seen.add(entry)
            what.entries.append(entry)
            at = self.counter_at(entry) + 1
            word = self.words[at]
            what.descriptors.append((self.words[at + 1], word >> 32, word & 0xFFFF, word >> 16 & 0xFFFF))
            entry = self.halves[self.next_at(entry)]
        if not what.entries or len(what.entries) != count or what.entries[-1] != last:
            rule = f"a list of {count} entries ends after {len(what.entries)}, its last one should be {last}"
            raise BrokenRing(self.index, rule, SECTION)
        return what
