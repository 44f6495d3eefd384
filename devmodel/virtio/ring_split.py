# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's side of a split virtqueue (virtio 1.2, section 2.7); ring.py has what it shares with the packed one.

The guest may change any byte at any time, so:

* each 16-byte descriptor is read once, into locals; an indirect table is copied before it is walked;
* every number from the guest is checked before it is used: `avail.idx` may not run ahead by more than the
  queue size, a head and a `next` must lie in their table, a chain has at most as many descriptors as the
  queue, the device-readable part comes first, addresses must be memory;
* what breaks a rule raises BrokenRing, which names queue, head, descriptor, rule and section.

Work is batched. `push()` fills used elements that nobody looks at, `publish()` makes all of them visible by one store
of `used.idx`. `fill()` pops, fills and pushes the many buffers of a 64 KB frame at once, when each is of the shape
that drivers use.

Two places need a full fence, store before load: `publish()` then reading the driver's event index, and arming
notifications then reading `avail.idx` again. The same fence orders the element stores before the index store on
machines that would not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from devmodel.errors import BrokenRing
from devmodel.port import Buffer
from devmodel.virtio.features import VIRTIO_F_NOTIFY_ON_EMPTY
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.ring import NOTHING, Areas, Chain, Got, Ring, Sections
from devmodel.virtio.scattered import ScatteredArea
from devmodel.virtio.spec import (
    VIRTQ_AVAIL_F_NO_INTERRUPT,
    VIRTQ_DESC,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    VIRTQ_USED_F_NO_NOTIFY,
)

_unpack_desc: Final = VIRTQ_DESC.unpack_from
_NEXT: Final = VIRTQ_DESC_F_NEXT
_WRITE: Final = VIRTQ_DESC_F_WRITE
_INDIRECT: Final = VIRTQ_DESC_F_INDIRECT
_SECTIONS: Final = Sections(address="2.7.5", order="2.7.4.2", table="2.7.5.3", indirect="2.7.5.3.1")


def _unpack_scattered(desc: ScatteredArea, offset: int) -> tuple[int, int, int, int]:
    """A descriptor of a table in pages that lie apart; it lies in one of them."""
    addr, length, flags, nxt = _unpack_desc(desc[offset : offset + 16].tobytes())
    return addr, length, flags, nxt


class SplitRing(Ring):
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
        "_mask",
        "_notify_on_empty",
        "_open",
        "_signalled",
        "_signalled_valid",
        "_unpack",
        "_used",
        "_used_elem",
        "_used_idx",
    )

    def __init__(
        self, index: int, num: int, memory: GuestMemory, areas: Areas, features: int, base: int
    ) -> None:
        super().__init__(index, num, memory, features, _SECTIONS)
        self._mask = num - 1
        self._notify_on_empty = bool(features >> VIRTIO_F_NOTIFY_ON_EMPTY & 1)
        self._open = (
            -1
        )  # of a run that IN_ORDER lets one element stand for: where that lies, while it may grow
        self.rebind(memory, areas)
        self._used_idx = self._used[1]
        self._signalled = self._used_idx
        self._signalled_valid = False
        self.resynchronised = self._used_idx != base
        self.last_avail = self._used_idx
        self._avail_idx = self.last_avail

    @property
    def base(self) -> int:
        return self.last_avail

    def rebind(self, memory: GuestMemory, areas: Areas) -> None:
        self.release()
        desc, avail, used = areas
        self._memory = memory
        self._desc = desc
        self._unpack: Callable[[Any, int], tuple[int, int, int, int]] = (
            _unpack_desc if isinstance(desc, memoryview) else _unpack_scattered
        )
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

    def advance(self, before: int) -> int:
        return (self.last_avail - before) & 0xFFFF

    def pop(self) -> Chain | None:
        last = self.last_avail
        if last == self._avail_idx and not self._refresh():
            return None
        head = self._avail[2 + (last & self._mask)]
        if head >= self.num:
            rule = f"avail.ring[{last & self._mask}] is {head}, the queue size is {self.num}"
            raise BrokenRing(self.index, rule, "2.7.6", head)
        addr, length, flags, nxt = self._unpack(self._desc, head << 4)
        if not flags & (_NEXT | _INDIRECT):
            for start, end, view in self._memory.fast:
                if start <= addr and addr + length <= end:
                    offset = addr - start
                    piece = view[offset : offset + length]
                    chain = Chain(head, NOTHING, [piece]) if flags & _WRITE else Chain(head, [piece], NOTHING)
                    self.last_avail = (last + 1) & 0xFFFF
                    return chain
        chain = self._walk(head, addr, length, flags, nxt)
        self.last_avail = (last + 1) & 0xFFFF
        return chain

    def _drain_plain(
        self,
        read: Callable[[list[memoryview], list[memoryview]], Got | None],
        budget: int,
        found: list[Got],
    ) -> int:
        if not self._memory.fast:
            return 0
        in_order = self._in_order
        start, limit, view = self._memory.fast[0]
        words, avail, elements = self._desc_words, self._avail, self._used_elem
        mask, num, last, used = self._mask, self.num, self.last_avail, self._used_idx
        count = min((self._avail_idx - last) & 0xFFFF or self._refresh(), budget)
        done = given = 0
        while done < count:
            head = avail[2 + (last & mask)]
            if head >= num:
                break
            addr, word = words[head << 1], words[head << 1 | 1]
            offset, length = addr - start, word & 0xFFFFFFFF
            if word >> 32 & 0xFFFF or offset < 0 or addr + length > limit:
                break
            got = read([view[offset : offset + length]], NOTHING)
            if got is not None:
                found.append(got)
            if in_order:
                given = head
            else:
                elements[used & mask] = head
            last += 1
            used += 1
            done += 1
        if done and in_order:
            self._push_in_order(given, 0)
        self.last_avail = last & 0xFFFF
        self._used_idx = used & 0xFFFF
        return done

    def fill(self, parts: Sequence[Buffer], least: int) -> tuple[int, memoryview] | None:
        if not self._memory.fast or not (taken := self._lay(parts)) or len(taken[1]) < least:
            return None
        self.last_avail = (self.last_avail + taken[0]) & 0xFFFF
        self._used_idx = (self._used_idx + taken[0]) & 0xFFFF
        self._open = -1
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
        table = self._desc if isinstance(self._desc, memoryview) else self._desc.tobytes()
        size, at, nested = self.num, head, False
        for count in range(self.num):
            if flags & _INDIRECT:
                if nested:
                    raise self._broken("INDIRECT inside an indirect table", "2.7.5.3.1", head, at)
                table = self._table(head, at, addr, length, bool(flags & _NEXT))
                size, at, nested = length >> 4, 0, True
                addr, length, flags, nxt = _unpack_desc(table, 0)
                if flags & _INDIRECT:
                    raise self._broken("INDIRECT inside an indirect table", "2.7.5.3.1", head, 0)
            self._take(chain, head, at, addr, length, flags)
            if not flags & _NEXT:
                self.walked += count
                return chain
            if nxt >= size:
                raise self._broken(f"next is {nxt}, the table has {size}", "2.7.5", head, at)
            at = nxt
            addr, length, flags, nxt = _unpack_desc(table, at << 4)
        raise self._broken(f"chain of more than {self.num} descriptors", "2.7.5.2", head, at)

    def unpop(self, chains: Sequence[Chain]) -> None:
        """Also raises when `avail.idx` was moved on for chains that were never given back: pop() could not know that
        they would not be."""
        self.last_avail = last = (self.last_avail - len(chains)) & 0xFFFF
        if (self._avail_idx - last) & 0xFFFF > self.num:
            raise self._astray(self._avail_idx, 0)

    # -- giving back ------------------------------------------------------------------------------------

    def push(self, head: int, written: int) -> None:
        """Fill the next used element (2.7.8)."""
        used_idx = self._used_idx
        if self._in_order:
            self._push_in_order(head, written)
        else:
            self._used_elem[used_idx & self._mask] = head | written << 32
        self._used_idx = (used_idx + 1) & 0xFFFF

    def forge(self, head: int, claimed: int, written: int) -> None:
        self._used_elem[self._used_idx & self._mask] = claimed & 0xFFFFFFFF | (written & 0xFFFFFFFF) << 32
        self._used_idx = (self._used_idx + 1) & 0xFFFF
        self._open = -1

    def waiting_heads(self) -> set[int]:
        waiting = range((self._avail[1] - self.last_avail) & 0xFFFF)
        return {self._avail[2 + (self.last_avail + at & self._mask)] for at in waiting}

    def _push_in_order(self, head: int, written: int) -> None:
        """One element at a run's first place, with the id of its last buffer, stands for the run (2.7.9)."""
        at = self._open if self._open >= 0 else self._used_idx
        self._used_elem[at & self._mask] = head | written << 32
        self._open = -1 if written else at

    def publish(self) -> bool:
        used_idx = self._used_idx
        used = self._used
        if used[1] == used_idx:
            return False
        self._open = -1
        self._fence_acquire()
        self._fence_release()
        used[1] = used_idx
        return True

    def needs_signal(self) -> bool:
        """2.7.7.2, 2.7.10; 6.3 for a driver that wants to be told when the device has run out of buffers."""
        new = self._used_idx
        old = self._signalled
        if self._signalled_valid and new == old:
            return False
        self._fence_acquire()
        self._fence_release()
        valid, self._signalled, self._signalled_valid = self._signalled_valid, new, True
        avail = self._avail
        if self._notify_on_empty and avail[1] == new:
            return True
        if not self._event_idx:
            return not avail[0] & VIRTQ_AVAIL_F_NO_INTERRUPT
        return not valid or (new - avail[2 + self.num] - 1) & 0xFFFF < (new - old) & 0xFFFF

    def forget_signalled(self) -> None:
        self._signalled_valid = False

    # -- being told -------------------------------------------------------------------------------------

    def suppress_kicks(self) -> None:
        """2.7.10; with EVENT_IDX a stale avail_event does it."""
        if not self._event_idx:
            self._used[0] = VIRTQ_USED_F_NO_NOTIFY

    def arm_kicks(self) -> bool:
        seen = self._avail_idx
        if self._event_idx:
            self._used[2 + 4 * self.num] = seen
        else:
            self._used[0] = 0
        self._fence_acquire()
        self._fence_release()
        return self._avail[1] != seen

    def unseen(self) -> bool:
        return self._avail[1] != self._avail_idx

    def mark(self) -> int:
        return self._avail[1]
