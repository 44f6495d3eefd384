# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings that write down what they take and give back (inflight.py): they take the place of SplitRing and PackedRing
when the frontend handed over an inflight region, so that those know nothing of it.

What a ring does beside its layout's own:

    pop()      first what the device that died had taken, in its order; then what the driver made available, written
               down before anybody sees it
    unpop()    strikes it out again, the last one first: a crash in between leaves what was taken without a gap
    push()     remembers the buffer
    publish()  writes the batch down, shows it to the driver, strikes its buffers out

`last_avail` starts at the place of the first buffer in flight and comes past those as they are taken again, so that it
counts them like any others. What drain() and fill() of the layouts do at once goes by pop() and push() here, one by
one.

A buffer that goes back to the driver has been worked on. One that does not, at a crash, has perhaps: its frame may have
been handed on already, and is handed on again. So frames out of the guest arrive at least once, and exactly once unless
the crash lies between the handing on of a batch and its publishing. (The device publishes behind that, for
these rings; see server.py.) Frames into the guest arrive once or not at all, as it is their sender's memory that died.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from devmodel.errors import BrokenRing
from devmodel.port import Buffer
from devmodel.virtio.inflight import SECTION, Inflight, PackedState, SplitState
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.ring import Areas, Chain, Got
from devmodel.virtio.ring_packed import PackedRing
from devmodel.virtio.ring_split import SplitRing
from devmodel.virtio.spec import (
    VIRTQ_DESC_F_AVAIL,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_USED,
)

_BOTH: Final = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
_COUNTERS: Final = 1 << 64


class TrackedSplitRing(SplitRing):
    """A split ring with an inflight region, whose `used.idx` and entries say where it stands."""

    __slots__ = ("_again", "_batch", "_counter", "_last_batch_head", "_redone", "_state", "_taken")

    def __init__(
        self,
        index: int,
        num: int,
        memory: GuestMemory,
        areas: Areas,
        features: int,
        base: int,
        state: SplitState,
    ) -> None:
        super().__init__(index, num, memory, areas, features, base)
        self._state = state
        used_idx = self._used_idx
        taken: list[int] = []
        self._counter = 0
        if state.fresh:
            state.begin(used_idx)
        else:
            taken, self._counter = state.recover(num, used_idx)
            self.resynchronised = False
        if len(taken) > (self._avail[1] - used_idx) & 0xFFFF:
            rule = f"{len(taken)} buffers in flight, avail.idx has come {(self._avail[1] - used_idx) & 0xFFFF} far"
            raise BrokenRing(index, rule, SECTION)
        self.tracked = True
        self.resubmitted = len(taken)
        self._avail_idx = (used_idx + len(taken)) & 0xFFFF
        self._again = taken[::-1]  # heads that are to be taken again, the next one last
        self._redone: list[int] = []  # those that were, and not pushed
        self._taken = set(taken)
        self._batch: list[int] = []
        self._last_batch_head = state.halves[SplitState.LAST_BATCH_HEAD]

    @property
    def base(self) -> int:
        """Behind what is in flight, also if it was not taken up again: its marks stay in the region."""
        return (self.last_avail + len(self._again)) & 0xFFFF

    def pop(self) -> Chain | None:
        if self._again:
            head = self._again[-1]
            chain = self._walk(head, *self._unpack(self._desc, head << 4))
            self._redone.append(self._again.pop())
            self.last_avail = (self.last_avail + 1) & 0xFFFF
            return chain
        before = self.last_avail
        fresh = super().pop()
        if fresh is not None:
            head = fresh.head
            if head in self._taken:
                self.last_avail = before
                raise self._broken("made available again before it was given back", "2.7.6", head, head)
            state = self._state
            self._taken.add(head)
            state.words[2 * head + 3] = self._counter  # counter_at()
            self._counter = (self._counter + 1) % _COUNTERS
            state.bytes[16 * head + 16] = 1  # inflight_at()
        return fresh

    def unpop(self, chains: Sequence[Chain]) -> None:
        state = self._state
        for chain in reversed(chains):
            if self._redone and self._redone[-1] == chain.head:
                self._again.append(self._redone.pop())
            else:
                state.bytes[state.inflight_at(chain.head)] = 0
                self._taken.discard(chain.head)
        super().unpop(chains)

    def push(self, head: int, written: int) -> None:
        super().push(head, written)
        self._batch.append(head)
        if self._redone and head in self._redone:
            self._redone.remove(head)

    def forge(self, head: int, claimed: int, written: int) -> None:
        """Buffer `head` goes back, whatever the element says; for the second time if it is one of this batch's."""
        super().forge(head, claimed, written)
        if head not in self._batch:
            self._batch.append(head)
        if head in self._redone:
            self._redone.remove(head)

    def publish(self) -> bool:
        """ "When supplying used buffers to the driver", steps 2 to 7."""
        halves, marks, last = self._state.halves, self._state.bytes, self._last_batch_head
        for head in self._batch:
            halves[8 * head + 11] = last  # next_at()
            halves[SplitState.LAST_BATCH_HEAD] = last = head
        self._last_batch_head = last
        published = super().publish()
        if published:
            for head in self._batch:
                marks[16 * head + 16] = 0  # inflight_at()
            halves[SplitState.USED_IDX] = self._used_idx
            self._taken.difference_update(self._batch)
            self._batch = []
        return published

    def _drain_plain(
        self,
        read: Callable[[list[memoryview], list[memoryview]], Got | None],
        budget: int,
        found: list[Got],
    ) -> int:
        return 0

    def fill(self, parts: Sequence[Buffer], least: int) -> tuple[int, memoryview] | None:
        return None


class TrackedPackedRing(PackedRing):
    """A packed ring with an inflight region, which says where it stands, whatever shape its buffers have."""

    __slots__ = ("_again", "_batch", "_counter", "_entries", "_free", "_redone", "_shown", "_state")

    def __init__(
        self,
        index: int,
        num: int,
        memory: GuestMemory,
        areas: Areas,
        features: int,
        base: int,
        resumed: bool,
        state: PackedState,
    ) -> None:
        self._state = state
        self._again: list[Inflight] = []  # to be taken again, the next one last
        self._redone: list[Inflight] = []  # those that were, and not pushed
        self._entries: dict[int, list[int]] = {}  # of each buffer that was taken, by its id
        self._batch: list[list[int]] = []
        super().__init__(index, num, memory, areas, features, base, resumed)
        self.tracked = True
        self.resubmitted = len(self._again)
        self._ahead = self._pending()

    def _start(self, base: int, resumed: bool) -> int:
        state, num = self._state, self.num
        if state.fresh:
            position = super()._start(base, resumed)
            recovered = state.begin(position % num, int(position < num))
        else:
            recovered = state.recover(num, self._is_available)
            position = recovered.used_idx + (0 if recovered.wrap else num)
        self._shown = recovered.used_idx, recovered.wrap
        self._free = recovered.free
        self._counter = recovered.counter
        self._again = recovered.taken[::-1]
        self._hide(position)
        return position

    def _is_available(self, slot: int, wrap: int) -> bool:
        want = VIRTQ_DESC_F_AVAIL if wrap else VIRTQ_DESC_F_USED
        return self._desc_words[slot << 1 | 1] >> 48 & _BOTH == want

    def _pending(self) -> int:
        """How many descriptors are to be taken again."""
        return sum(len(what.entries) for what in self._again)

    def _hide(self, position: int) -> None:
        """Make every slot that the device holds look available: see inflight.py, last paragraph. The driver looks at
        the first of them only, and that one is available or else the batch would have been published."""
        words = self._desc_words
        for _ in range(self._pending()):
            slot, want = self._place(position)
            words[slot << 1 | 1] = words[slot << 1 | 1] & ~(_BOTH << 48) | want << 48
            position = (position + 1) % (2 * self.num)

    @property
    def base(self) -> int:
        """The half to take counts what is in flight, also if it was not taken up again."""
        last = self.last_avail
        self.last_avail = (last + self._pending()) % (2 * self.num)
        base = super().base
        self.last_avail = last
        return base

    # -- taking -----------------------------------------------------------------------------------------

    def pop(self) -> Chain | None:
        if self._again:
            what = self._again[-1]
            chain = self._rebuild(what)
            self._redone.append(self._again.pop())
            self._entries[chain.head] = what.entries
            return chain
        first = self.last_avail
        fresh = super().pop()
        if fresh is not None:
            self._mark(fresh.head, first, self._counts[fresh.head])
        return fresh

    def _rebuild(self, what: Inflight) -> Chain:
        """The buffer whose descriptors were copied; its slots may be overwritten."""
        chain = Chain(0, [], [])
        first = what.entries[0]
        for at, (addr, length, _, flags) in zip(what.entries, what.descriptors, strict=True):
            if flags & VIRTQ_DESC_F_INDIRECT:
                chained = bool(flags & VIRTQ_DESC_F_NEXT) or at != first
                self._walk_table(chain, first, at, addr, length, chained)
            else:
                self._take(chain, first, at, addr, length, flags)
        chain.head = what.descriptors[-1][2]
        self._took(chain.head, len(what.entries), first, first)
        return chain

    def _mark(self, head: int, position: int, count: int) -> None:
        """ "When receiving available buffers from the driver": the last store is what counts."""
        state, ring, num, free = self._state, self._desc_words, self.num, self._free
        words = state.words
        entries = [free.pop() for _ in range(count)]
        slot = position if position < num else position - num
        for entry in entries:
            at = 4 * entry + 5  # counter_at()
            word = ring[slot << 1 | 1]
            words[at + 1] = word >> 32 | (word & 0xFFFFFFFF) << 32
            words[at + 2] = ring[slot << 1]
            slot += 1
            if slot == num:
                slot = 0
        first = entries[0]
        state.longs[8 * first + 9] = entries[-1] | count << 16  # last, num
        words[4 * first + 5] = self._counter
        self._counter = (self._counter + 1) % _COUNTERS
        state.bytes[32 * first + 32] = 1
        self._entries[head] = entries
        self._set_free(free[-1] if free else state.desc_num)

    @property
    def _free_head(self) -> int:
        return self._free[-1] if self._free else self._state.desc_num

    def _set_free(self, head: int) -> None:
        self._state.set_free(head, head)

    def unpop(self, chains: Sequence[Chain]) -> None:
        for chain in reversed(chains):
            entries = self._entries.pop(chain.head)
            if self._redone and self._redone[-1].entries is entries:
                self._again.append(self._redone.pop())
                continue
            self._free += entries[::-1]
            self._set_free(entries[0])
            self._state.bytes[self._state.inflight_at(entries[0])] = 0
        super().unpop(chains)

    # -- giving back ------------------------------------------------------------------------------------

    def push(self, head: int, written: int) -> None:
        super().push(head, written)
        self._went_back(head)

    def forge(self, head: int, claimed: int, written: int) -> None:
        super().forge(head, claimed, written)
        self._went_back(head)

    def _went_back(self, head: int) -> None:
        entries = self._entries.pop(head)
        self._batch.append(entries)
        if self._redone:
            self._redone = [what for what in self._redone if what.entries is not entries]

    def publish(self) -> bool:
        """ "When supplying used buffers to the driver", steps 3 to 9. They wait until now since a buffer that is taken
        in between would have to leave old_free_head behind while it differs from free_head."""
        if not self._batch:
            return False
        state, free = self._state, self._free
        head = old_head = self._free_head
        for entries in self._batch:
            state.halves[16 * entries[-1] + 17] = head  # next_at()
            head = entries[0]
            free += entries[::-1]
        old, new = self._shown, (self._used % self.num, int(self._used < self.num))
        state.set_free(head, old_head)
        state.set_used(new, old)
        super().publish()
        for entries in self._batch:
            state.bytes[32 * entries[0] + 32] = 0  # inflight_at()
        self._set_free(head)
        state.set_used(new, new)
        self._shown = new
        self._batch = []
        return True

    def _drain_plain(
        self,
        read: Callable[[list[memoryview], list[memoryview]], Got | None],
        budget: int,
        found: list[Got],
    ) -> int:
        return 0

    def fill(self, parts: Sequence[Buffer], least: int) -> tuple[int, memoryview] | None:
        return None
