# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's side of a split virtqueue (virtio 1.2, section 2.7).

The guest owns this memory and may change any byte at any time, so:

* each 16-byte descriptor is read once, into locals; an indirect table is copied before it is walked;
* every number from the guest is checked before it is used: `avail.idx` may not run ahead by more than the
  queue size, a head and a `next` must lie in their table, a chain has at most as many descriptors as the
  queue, the device-readable part comes first, addresses must be memory;
* what breaks a rule raises BrokenRing, which names queue, head, descriptor, rule and section. Whoever owns
  the ring must then drop it: nothing is written to that guest's ring after.

Work is batched. `pop()` takes chains, `push()` fills used elements without telling anybody, `publish()`
makes all of them visible by one store of `used.idx`, and `needs_signal()` answers once for the batch.
`unpop()` puts back chains that were taken last and not pushed. `fill()` pops, fills and pushes the many buffers
of a 64 KB frame at once, when each is of the shape that drivers use.

Stores. An index must never be seen half written, so 16-bit fields are accessed through
`memoryview.cast("H")`, whose item assignment is one aligned two-byte store (`struct` with an explicit byte
order stores byte by byte). Two places need a full fence, store before load: `publish()` then reading the
driver's event index, and arming notifications then reading `avail.idx` again. Taking and dropping an
uncontended lock is the cheapest locked instruction that Python has (0.11 us); the same fence orders the
element stores before the index store on machines that would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Final

from devmodel.errors import BrokenRing
from devmodel.port import Buffer
from devmodel.virtio.features import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.spec import (
    VIRTQ_AVAIL_F_NO_INTERRUPT,
    VIRTQ_DESC,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    VIRTQ_DESC_SIZE,
    VIRTQ_USED_F_NO_NOTIFY,
)

_unpack_desc: Final = VIRTQ_DESC.unpack_from
_NEXT: Final = VIRTQ_DESC_F_NEXT
_WRITE: Final = VIRTQ_DESC_F_WRITE
_INDIRECT: Final = VIRTQ_DESC_F_INDIRECT


class Chain:
    """One buffer that the driver made available: the pieces to read, then the pieces to write."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview]) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable


class SplitRing:
    """A running ring. `desc`, `avail` and `used` are views of exactly the sizes that section 2.7 gives.

    `base` is the index of the next available entry; `used.idx` is read from memory and wins when it differs,
    because all that this device takes it completes at once: the entries between were lost with the back end
    that had taken them (`resynchronised` says so).
    """

    __slots__ = (
        "_avail",
        "_avail_idx",
        "_desc",
        "_desc_words",
        "_event_idx",
        "_fence_acquire",
        "_fence_release",
        "_indirect",
        "_mask",
        "_memory",
        "_signalled",
        "_signalled_valid",
        "_used",
        "_used_elem",
        "_used_idx",
        "_views",
        "index",
        "last_avail",
        "num",
        "resynchronised",
        "walked",
    )

    def __init__(
        self,
        index: int,
        num: int,
        memory: GuestMemory,
        areas: tuple[memoryview, memoryview, memoryview],
        features: int,
        base: int,
    ) -> None:
        self.index = index
        self.num = num
        self._mask = num - 1
        self._event_idx = bool(features >> VIRTIO_F_EVENT_IDX & 1)
        self._indirect = bool(features >> VIRTIO_F_INDIRECT_DESC & 1)
        fence = Lock()
        self._fence_acquire = fence.acquire
        self._fence_release = fence.release
        self.walked = 0  # descriptors read beyond the first of each chain, since the start
        self._views: list[memoryview] = []
        self.rebind(memory, areas)
        self._used_idx = self._used[1]
        self._signalled = self._used_idx
        self._signalled_valid = False
        self.resynchronised = self._used_idx != base
        self.last_avail = self._used_idx
        self._avail_idx = self.last_avail

    def rebind(self, memory: GuestMemory, areas: tuple[memoryview, memoryview, memoryview]) -> None:
        """Move to a new memory map; indexes stay."""
        self.release()
        desc, avail, used = areas
        self._memory = memory
        self._desc = desc
        self._desc_words = desc.cast("Q")  # 2.7.5: addr, then len | flags << 32 | next << 48
        self._avail = avail.cast("H")
        self._used = used.cast("H")
        elements = used[4 : 4 + 8 * self.num]
        self._used_elem = elements.cast("Q")
        self._views = [
            self._used_elem,
            elements,
            self._used,
            self._avail,
            self._desc_words,
            used,
            avail,
            desc,
        ]

    def release(self) -> None:
        """Let go of the guest's memory; the ring must not be used afterwards unless it is bound again."""
        for view in self._views:
            view.release()
        self._views = []

    # -- taking -----------------------------------------------------------------------------------------

    def _refresh(self, taken: int = 0) -> int:
        """Read `avail.idx`; how many entries wait (2.7.6) behind the `taken` ones that follow last_avail.

        It may be as far ahead of last_avail as the queue is long, whatever was taken since: the driver cannot reuse
        what it was not given back. Nor may it fall behind what was taken.
        """
        idx = self._avail[1]
        ahead = (idx - self.last_avail) & 0xFFFF
        if not taken <= ahead <= self.num:
            raise self._astray(idx, taken)
        self._fence_acquire()
        self._fence_release()
        self._avail_idx = idx
        return ahead - taken

    def _astray(self, idx: int, taken: int) -> BrokenRing:
        """What to raise when `avail.idx` is not where the entries behind last_avail can end (2.7.13.3)."""
        last = self.last_avail
        rule = f"avail.idx {idx} is {(idx - last) & 0xFFFF} ahead of {last}, the queue size is {self.num}"
        if taken:
            rule += f", and {taken} were taken"
        return BrokenRing(self.index, rule, "2.7.13.3")

    def waiting(self) -> int:
        """How many entries the driver has made available that were not taken. May raise BrokenRing."""
        return self._refresh()

    @property
    def avail_idx(self) -> int:
        """`avail.idx` as it stands in memory, unchecked."""
        return self._avail[1]

    def unseen(self) -> bool:
        """Whether `avail.idx` has moved since it was last looked at."""
        return self._avail[1] != self._avail_idx

    def pop(self) -> Chain | None:
        """The next available chain, or None. May raise BrokenRing."""
        last = self.last_avail
        if last == self._avail_idx and not self._refresh():
            return None
        head = self._avail[2 + (last & self._mask)]
        if head >= self.num:
            rule = f"avail.ring[{last & self._mask}] is {head}, the queue size is {self.num}"
            raise BrokenRing(self.index, rule, "2.7.6", head)
        addr, length, flags, nxt = _unpack_desc(self._desc, head << 4)
        if not flags & (_NEXT | _INDIRECT):
            for start, end, view in self._memory.fast:
                if start <= addr and addr + length <= end:
                    offset = addr - start
                    piece = view[offset : offset + length]
                    chain = Chain(head, [], [piece]) if flags & _WRITE else Chain(head, [piece], [])
                    self.last_avail = (last + 1) & 0xFFFF
                    return chain
        chain = self._walk(head, addr, length, flags, nxt)
        self.last_avail = (last + 1) & 0xFFFF
        return chain

    def fill(self, parts: Sequence[Buffer], least: int) -> tuple[int, memoryview] | None:
        """pop() and push() for a frame of many buffers: lay `parts` into chains of one writable descriptor each.

        Returns how many chains it took, at most as many as the queue is long, and a view of the first one's buffer,
        which has at least `least` bytes. None when the chains end too early or one is of another shape: pop() tells
        which. May raise BrokenRing. Unless it returns chains, last_avail and the used index are what they were.
        """
        if not self._memory.fast or not (taken := self._lay(parts)) or len(taken[1]) < least:
            return None
        self.last_avail = (self.last_avail + taken[0]) & 0xFFFF
        self._used_idx = (self._used_idx + taken[0]) & 0xFFFF
        return taken

    def _lay(self, parts: Sequence[Buffer]) -> tuple[int, memoryview] | None:
        """fill(), but for the indexes: what it stores lies in buffers and used elements that nobody looks at before
        they are published. A frame of 64 KB takes 17 chains, so no object is made for a chain, and none is counted
        against the queue size: `waiting` and `count` together never exceed it, see _refresh() and unpop()."""
        start, limit, view = self._memory.fast[0]
        words, avail, elements = self._desc_words, self._avail, self._used_elem
        mask, num, last, used = self._mask, self.num, self.last_avail, self._used_idx
        waiting = (self._avail_idx - last) & 0xFFFF
        count = head = length = room = at = 0
        first: memoryview | None = None
        for part in parts:
            left = len(part)
            if left <= room:
                view[at : at + left] = part
            else:
                source, done = memoryview(part), 0
                while left > room:
                    view[at : at + room] = source[done : done + room]
                    done += room
                    left -= room
                    if not waiting and not (waiting := self._refresh(count)):
                        return None
                    head = avail[2 + (last + count & mask)]
                    if head >= num:
                        return None
                    addr, word = words[head << 1], words[head << 1 | 1]
                    room = length = word & 0xFFFFFFFF
                    if word >> 32 & 0xFFFF != _WRITE or addr < start or addr + length > limit:
                        return None
                    at = addr - start
                    if first is None:
                        first = view[at : at + length]
                    elements[used + count & mask] = head | length << 32
                    count += 1
                    waiting -= 1
                view[at : at + left] = source[done:]
            at += left
            room -= left
        if first is None:
            return None
        elements[used + count - 1 & mask] = head | (length - room) << 32
        return count, first

    def _walk(self, head: int, addr: int, length: int, flags: int, nxt: int) -> Chain:
        """The chain whose first descriptor is given (2.7.5); a loop ends as a chain that is too long."""
        chain = Chain(head, [], [])
        table: bytes | memoryview = self._desc
        size, at, nested = self.num, head, False
        for count in range(self.num):
            if flags & _INDIRECT:
                table = self._indirect_table(head, at, addr, length, flags, nested)
                size, at, nested = length >> 4, 0, True
                addr, length, flags, nxt = _unpack_desc(table, 0)
                if flags & _INDIRECT:
                    raise self._broken("INDIRECT inside an indirect table", "2.7.5.3.1", head, 0)
            self._take(chain, at, addr, length, flags)
            if not flags & _NEXT:
                self.walked += count
                return chain
            if nxt >= size:
                raise self._broken(f"next is {nxt}, the table has {size}", "2.7.5", head, at)
            at = nxt
            addr, length, flags, nxt = _unpack_desc(table, at << 4)
        raise self._broken(f"chain of more than {self.num} descriptors", "2.7.5.2", head, at)

    def _indirect_table(self, head: int, at: int, addr: int, length: int, flags: int, nested: bool) -> bytes:
        """A copy of the table that a descriptor points to (2.7.5.3)."""
        if nested:
            raise self._broken("INDIRECT inside an indirect table", "2.7.5.3.1", head, at)
        if not self._indirect:
            raise self._broken("INDIRECT was not negotiated", "2.7.5.3.1", head, at)
        if flags & _NEXT:
            raise self._broken("INDIRECT and NEXT in one descriptor", "2.7.5.3.1", head, at)
        if length == 0 or length % VIRTQ_DESC_SIZE or length > self.num * VIRTQ_DESC_SIZE:
            raise self._broken(f"indirect table of {length} bytes", "2.7.5.3.1", head, at)
        table = self._memory.read(addr, length)
        if table is None:
            raise self._broken(f"indirect table at {addr:#x} is not in memory", "2.7.5.3", head, at)
        return table

    def _take(self, chain: Chain, at: int, addr: int, length: int, flags: int) -> None:
        """Add one plain descriptor to a chain."""
        if flags & _WRITE:
            self._translate(chain.writable, addr, length, chain.head, at)
        elif chain.writable:
            raise self._broken("readable descriptor after a writable one", "2.7.4.2", chain.head, at)
        else:
            self._translate(chain.readable, addr, length, chain.head, at)

    def _translate(self, pieces: list[memoryview], addr: int, length: int, head: int, at: int) -> None:
        for start, end, view in self._memory.fast:
            if start <= addr and addr + length <= end:
                offset = addr - start
                pieces.append(view[offset : offset + length])
                return
        found = self._memory.pieces(addr, length)
        if found is None:
            rule = f"address {addr:#x} and length {length} are not in memory"
            raise self._broken(rule, "2.7.5", head, at)
        pieces.extend(found)

    def _broken(self, rule: str, section: str, head: int, descriptor: int) -> BrokenRing:
        return BrokenRing(self.index, rule, section, head, descriptor)

    def unpop(self, count: int) -> None:
        """Put back the `count` chains that were taken last.

        BrokenRing, with the chains put back, if `avail.idx` was moved on for chains that were never given back: pop()
        could not know that they would not be.
        """
        self.last_avail = last = (self.last_avail - count) & 0xFFFF
        if (self._avail_idx - last) & 0xFFFF > self.num:
            raise self._astray(self._avail_idx, 0)

    # -- giving back ------------------------------------------------------------------------------------

    def push(self, head: int, written: int) -> None:
        """Fill the next used element; `written` counts bytes stored into the writable part (2.7.8)."""
        used_idx = self._used_idx
        self._used_elem[used_idx & self._mask] = head | written << 32
        self._used_idx = (used_idx + 1) & 0xFFFF

    def publish(self) -> bool:
        """Make all pushed elements visible at once; False when there was nothing to publish."""
        used_idx = self._used_idx
        used = self._used
        if used[1] == used_idx:
            return False
        self._fence_acquire()
        self._fence_release()
        used[1] = used_idx
        return True

    def needs_signal(self) -> bool:
        """Whether the driver wants to hear of what `publish()` showed it (2.7.7.2, 2.7.10)."""
        new = self._used_idx
        old = self._signalled
        if self._signalled_valid and new == old:
            return False
        self._fence_acquire()
        self._fence_release()
        valid, self._signalled, self._signalled_valid = self._signalled_valid, new, True
        avail = self._avail
        if not self._event_idx:
            return not avail[0] & VIRTQ_AVAIL_F_NO_INTERRUPT
        return not valid or (new - avail[2 + self.num] - 1) & 0xFFFF < (new - old) & 0xFFFF

    def forget_signalled(self) -> None:
        """Signal the next batch whatever the event index says: the one to be signalled was replaced."""
        self._signalled_valid = False

    # -- being told -------------------------------------------------------------------------------------

    def suppress_kicks(self) -> None:
        """Ask the driver for no notifications (2.7.10); with EVENT_IDX a stale avail_event does it."""
        if not self._event_idx:
            self._used[0] = VIRTQ_USED_F_NO_NOTIFY

    def arm_kicks(self) -> bool:
        """Ask for a notification of the next entry; True if one came meanwhile and must be looked at now."""
        seen = self._avail_idx
        if self._event_idx:
            self._used[2 + 4 * self.num] = seen
        else:
            self._used[0] = 0
        self._fence_acquire()
        self._fence_release()
        return self._avail[1] != seen
