# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's side of a packed virtqueue (virtio 1.2, section 2.8); ring.py has what it shares with the split one.

Theory of operation
===================

One ring of descriptors serves both directions: the driver writes available ones, the device overwrites them by used
ones. Nobody has an index in memory. Both sides go round in order, and two flags of each descriptor tell the laps apart
(2.8.1). In a lap whose wrap counter is w (1 in the first, then turn about) a slot reads

    AVAIL  USED
      w     !w      the driver made it available in this lap: take it
     !w     !w      given back in the lap before, or never touched: nothing here yet
     !w      w      of the lap before, the tail of a list: given back with its head, nothing here yet
      w      w      given back in this lap, which this device has not done: the driver broke the rules

Positions. A place on the ring and its wrap counter are one number here, 0 to 2 * num - 1: slot p with w = 1 below
num, slot p - num with w = 0 above. The distance from one position to a later one is their difference modulo 2 * num,
unlike that of slots plainly 0 or num when the ring is empty or full. Three positions move: `last_avail` (next to
take), `_used` (next to give back), and the one up to which the driver was shown what was given back; num further, at
`_limit`, begins what it cannot have filled again.

Reading. A descriptor's length, id and flags are one aligned 64-bit load, its address the next load: flags that say
"available" never come with an older length or id, and on x86, which keeps loads in order, never with an older address;
other machines pay a fence. Nothing is read a second time, so a guest that changes it after only confuses itself. A list
(NEXT) lies in slots that follow each other, across the end of the ring if need be, and only its last descriptor's id
counts (2.8.6). The driver shows a list by its first flags last, so each further slot must be available too. An indirect
table (2.8.7) is copied before it is walked; its entries follow each other, and of their flags only WRITE is looked at.

Giving back. A used descriptor takes the first slot that is free to be overwritten, and the next one follows as many
slots later as the list had, which is why the length of each list in flight is kept by its id. It is one 64-bit store.
The driver polls one slot, the first of a batch; the others can be written as they come, and that one is held back:
`publish()` stores it, behind a fence, and so shows the whole batch at once (2.8.9).

Events (2.8.10, 2.8.14). Each side has four bytes that the other reads: an offset with a wrap counter, and flags that
say "always" (0), "never" (1) or, with EVENT_IDX, "when you pass this descriptor" (2). Both are one load or store. What
makes no sense - 3, an offset beyond the ring, 2 without EVENT_IDX - is read as "always": a notification too many is
harmless. Two fences of store before load keep a notification from being lost: ours between the flags of the
batch and the look at the driver's event, and between arming our event and the second look at the ring.

What breaks a ring: descriptor w, w above (2.8.15); a slot filled again before it was given back (2.8.16); a list longer
than the queue or than what is free, a slot of it that is not available, readable behind writable (2.8.17); INDIRECT in
a list, not negotiated, or with a bad table (2.8.19); an address that is no memory (2.8.4); an id that is not below the
queue size, on which 2.8.22 relies, or that is in flight already (2.8.21.1).

Starting. The base of SET_VRING_BASE is 16 bits of slot and wrap counter for each of `last_avail` and `_used`. QEMU
sends both. DPDK leaves the used half 0: then it is the other one. User-mode Linux sends 0 for a fresh ring, whose
wrap counters are 1. A ring that was stopped at slot 0 with counters of 0 has the same base, and other descriptors:
the first list, or run of IN_ORDER, that began in the lap before was given back with USED = 1, and what was made
available over it since has USED = 1 too. In a fresh ring no descriptor has. Where the two halves differ, a back end had
taken what lies between and is gone: the used one is right, as it is `used.idx` for split.

After a crash of the back end nothing in memory says where the ring stood, and QEMU sends the base that the ring was
last started with. What can be told from the ring itself is told: each descriptor given back or made available again has
USED = w, the others !w, so the only edge between them is the place. That is exact for a driver whose buffers have one
descriptor each, indirect ones counted as one (Linux with INDIRECT_DESC). The tails of longer lists, and IN_ORDER's
skipped buffers, look like the other kind; if there are several edges, or a NEXT, the base is taken as it came, and the
ring may be lost until the driver resets the device. Tracking in flight (INFLIGHT_SHMFD, ring_tracked.py) does better,
with frontends that do it: QEMU's network device does not.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Final

from devmodel.errors import BrokenRing
from devmodel.port import Buffer
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.ring import NOTHING, Areas, Chain, Got, Ring, Sections
from devmodel.virtio.spec import (
    PVIRTQ_DESC,
    RING_EVENT_FLAGS_DESC,
    RING_EVENT_FLAGS_DISABLE,
    RING_EVENT_FLAGS_ENABLE,
    VIRTQ_DESC_F_AVAIL,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_USED,
    VIRTQ_DESC_F_WRITE,
)

_unpack_desc: Final = PVIRTQ_DESC.unpack_from
_NEXT: Final = VIRTQ_DESC_F_NEXT
_WRITE: Final = VIRTQ_DESC_F_WRITE
_INDIRECT: Final = VIRTQ_DESC_F_INDIRECT
_AVAIL: Final = VIRTQ_DESC_F_AVAIL
_USED: Final = VIRTQ_DESC_F_USED
_BOTH: Final = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
_SECTIONS: Final = Sections(address="2.8.4", order="2.8.17", table="2.8.7", indirect="2.8.19")

# The second half of a descriptor as one word: len | id << 32 | flags << 48
_WORD_WRITE: Final = VIRTQ_DESC_F_WRITE << 48
_WORD_USED: Final = VIRTQ_DESC_F_USED << 48
_WORD_BOTH: Final = (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED) << 48

# Loads of this machine may pass each other: an address could be older than the flags that were read before it.
_LOADS_PASS: Final = platform.machine() not in ("x86_64", "AMD64", "i686")

_WRAP: Final = 0x8000  # of a half of SET_VRING_BASE, and of an event's offset


def position_of(half: int, num: int) -> int:
    """The position that 15 bits of slot and a wrap counter say; the slot may lie beyond the ring."""
    return half & 0x7FFF if half & _WRAP else (half & 0x7FFF) + num


def half_of(position: int, num: int) -> int:
    """A position as 15 bits of slot and a wrap counter."""
    return position | _WRAP if position < num else position - num


def bad_base(base: int, num: int) -> str:
    """What is wrong with a value of SET_VRING_BASE; "" if it may be one."""
    avail = base & 0xFFFF
    used = base >> 16 or avail
    if max(avail & 0x7FFF, used & 0x7FFF) >= num:
        return f"base {base:#x} lies beyond a queue of {num}"
    if (position_of(avail, num) - position_of(used, num)) % (2 * num) > num:
        return f"base {base:#x} has more descriptors in flight than the queue of {num}"
    return ""


class PackedRing(Ring):
    """A running ring. `areas` are the descriptor ring, the driver's and the device's event.

    `resumed` says that this process gave out `base` when it stopped the ring: it is taken at its word.
    """

    __slots__ = (
        "_ahead",
        "_counts",
        "_desc_words",
        "_device_event",
        "_driver_event",
        "_first",
        "_first_word",
        "_limit",
        "_open",
        "_signalled_valid",
        "_unsignalled",
        "_used",
    )

    def __init__(
        self,
        index: int,
        num: int,
        memory: GuestMemory,
        areas: Areas,
        features: int,
        base: int,
        resumed: bool = False,
    ) -> None:
        super().__init__(index, num, memory, features, _SECTIONS)
        self._counts = [0] * num  # descriptors of each buffer in flight, by its id
        self._first = (
            -1
        )  # the slot of what was given back first and is held back until publish(), and its word
        self._first_word = 0
        self._open = -1  # of a run that IN_ORDER lets one element stand for: its position, while it may grow
        self._ahead = (
            0  # descriptors from last_avail on that were looked at and put back; -1: more may wait there
        )
        self._unsignalled = (
            0  # descriptors given back, and shown, since the driver was last told or left alone
        )
        self._signalled_valid = False
        self.rebind(memory, areas)
        self._used = self.last_avail = self._start(base, resumed)
        self._limit = (self._used + num) % (2 * num)

    def _start(self, base: int, resumed: bool) -> int:
        """The position where it starts; BrokenRing for a base that is none."""
        num = self.num
        wrong = bad_base(base, num)
        if wrong:
            raise BrokenRing(self.index, wrong, "2.8.1")
        if base == 0 and not any(word >> 48 & _USED for word in self._desc_words[1::2].tolist()):
            base = _WRAP  # fresh
        start = position_of(base >> 16 or base & 0xFFFF, num)
        if not resumed and not self._in_order:
            start = self._survey(start)
        self.resynchronised = start != position_of(base & 0xFFFF, num)
        return start

    def _survey(self, position: int) -> int:
        """Where the ring stands by its USED flags, if they have one edge; else `position`."""
        flags = [word >> 48 for word in self._desc_words[1::2].tolist()]
        if any(flag & _NEXT for flag in flags):
            return position
        wraps = [flag & _USED for flag in flags]
        wrap = wraps[0]
        edge = wraps.index(_USED ^ wrap) if _USED ^ wrap in wraps else self.num
        if wrap in wraps[edge:]:
            return position
        if edge == self.num:
            return self.num if wrap else 0
        return edge if wrap else edge + self.num

    @property
    def base(self) -> int:
        """16 bits for the next to take, above them 16 for the next to give back."""
        num = self.num
        return half_of(self.last_avail, num) | half_of((self._limit + num) % (2 * num), num) << 16

    def rebind(self, memory: GuestMemory, areas: Areas) -> None:
        self.release()
        desc, driver, device = areas
        self._memory = memory
        self._desc_words = desc.cast("Q")  # 2.8.13: addr, then len | id << 32 | flags << 48
        self._driver_event = driver.cast("I")  # 2.8.14: offset and wrap counter, then flags << 16
        self._device_event = device.cast("I")
        self._views = [self._desc_words, self._driver_event, self._device_event, device, driver, desc]

    # -- taking -----------------------------------------------------------------------------------------

    def advance(self, before: int) -> int:
        """In descriptors."""
        return (self.last_avail - before) % (2 * self.num)

    def pop(self) -> Chain | None:
        last, num = self.last_avail, self.num
        if last < num:
            slot, want = last, _AVAIL
        else:
            slot, want = last - num, _USED
        words = self._desc_words
        word = words[slot << 1 | 1]
        flags = word >> 48
        if flags & _BOTH != want:
            if flags & _BOTH == (_BOTH if last < num else 0):
                raise self._broken("a descriptor that the driver marked used", "2.8.15", slot, slot)
            self._ahead = 0
            return None
        if _LOADS_PASS:
            self._fence_acquire()
            self._fence_release()
        head = word >> 32 & 0xFFFF
        if not flags & (_NEXT | _INDIRECT) and last != self._limit and head < num and not self._counts[head]:
            addr, length = words[slot << 1], word & 0xFFFFFFFF
            for start, end, view in self._memory.fast:
                if start <= addr and addr + length <= end:
                    offset = addr - start
                    piece = view[offset : offset + length]
                    self._counts[head] = 1
                    self._ahead = -1
                    last += 1
                    self.last_avail = last if last < 2 * num else 0
                    return Chain(head, NOTHING, [piece]) if flags & _WRITE else Chain(head, [piece], NOTHING)
        return self._walk(slot, word)

    def _walk(self, first: int, word: int) -> Chain:
        """The list whose first descriptor lies in slot `first` and has this word (2.8.5)."""
        words, position = self._desc_words, self.last_avail
        chain = Chain(0, [], [])
        slot = first
        room = (self._limit - position) % (2 * self.num)
        if not room:
            raise self._broken("made available again before it was given back", "2.8.16", first, first)
        for count in range(1, room + 1):
            flags = word >> 48
            addr, length = words[slot << 1], word & 0xFFFFFFFF
            if flags & _INDIRECT:
                self._walk_table(chain, first, slot, addr, length, bool(flags & _NEXT) or count > 1)
            else:
                self._take(chain, first, slot, addr, length, flags)
            if not flags & _NEXT:
                chain.head = word >> 32 & 0xFFFF
                self._took(chain.head, count, first, slot)
                return chain
            if count == room:
                break
            position = (position + 1) % (2 * self.num)
            slot, want = self._place(position)
            word = words[slot << 1 | 1]
            if word >> 48 & _BOTH != want:
                raise self._broken("list with a descriptor that is not available", "2.8.17", first, slot)
        raise self._broken(f"list of more than {room} descriptors, all that are free", "2.8.17", first, slot)

    def _walk_table(self, chain: Chain, first: int, slot: int, addr: int, length: int, chained: bool) -> None:
        """All entries of an indirect table, of whose flags only WRITE counts (2.8.7)."""
        table = self._table(first, slot, addr, length, chained)
        entries = length >> 4
        for at in range(entries):
            addr, length, _id, flags = _unpack_desc(table, at << 4)
            self._take(chain, first, at, addr, length, flags)
        self.walked += entries - 1

    def _took(self, head: int, count: int, first: int, slot: int) -> None:
        """A buffer of `count` descriptors is ours now."""
        if head >= self.num:
            rule = f"buffer id {head}, the queue size is {self.num}"
            raise self._broken(rule, "2.8.22", first, slot)
        if self._counts[head]:
            raise self._broken(f"buffer id {head} is in flight already", "2.8.21.1", first, slot)
        self._counts[head] = count
        self._ahead = -1
        self.walked += count - 1
        self.last_avail = (self.last_avail + count) % (2 * self.num)

    def _place(self, position: int) -> tuple[int, int]:
        """The slot of a position, and what AVAIL and USED are there when it is available."""
        num = self.num
        return (position, _AVAIL) if position < num else (position - num, _USED)

    def _drain_plain(
        self,
        read: Callable[[list[memoryview], list[memoryview]], Got | None],
        budget: int,
        found: list[Got],
    ) -> int:
        # If buffers are in flight the used ones would not come to lie over those that are taken here.
        if not self._memory.fast or self._used != self.last_avail:
            return 0
        in_order = self._in_order
        start, limit, view = self._memory.fast[0]
        words, num, first = self._desc_words, self.num, self._first
        slot, want = self._place(self.last_avail)
        back = _WORD_BOTH if want == _AVAIL else 0
        count = min((self._limit - self.last_avail) % (2 * num), budget)
        done = given = 0
        while done < count:
            word = words[slot << 1 | 1]
            head = word >> 32 & 0xFFFF
            if word >> 48 != want or head >= num:
                break
            if _LOADS_PASS:
                self._fence_acquire()
                self._fence_release()
            addr, length = words[slot << 1], word & 0xFFFFFFFF
            offset = addr - start
            if offset < 0 or addr + length > limit:
                break
            got = read([view[offset : offset + length]], NOTHING)
            if got is not None:
                found.append(got)
            if in_order:
                given = head
            elif first < 0:
                first = slot
                self._first, self._first_word = slot, head << 32 | back
            else:
                words[slot << 1 | 1] = head << 32 | back
            done += 1
            slot += 1
            if slot == num:
                slot, want, back = 0, want ^ _BOTH, back ^ _WORD_BOTH
        if done:
            if in_order:
                self._push_in_order(given, 0)
            self._ahead = -1
            self._used = self.last_avail = (self.last_avail + done) % (2 * num)
        return done

    def fill(self, parts: Sequence[Buffer], least: int) -> tuple[int, memoryview] | None:
        # If buffers are in flight the used ones would not come to lie over those that are taken here.
        if not self._memory.fast or self._used != self.last_avail or not (laid := self._lay(parts)):
            return None
        words, first = laid
        if len(first) < least:
            return None
        self._give(words)
        self._ahead = -1
        self._used = self.last_avail = (self.last_avail + len(words)) % (2 * self.num)
        return len(words), first

    def _lay(self, parts: Sequence[Buffer]) -> tuple[list[int], memoryview] | None:
        """fill(), but for giving back: the words of the used descriptors, and a view of the first buffer.

        A used descriptor of a buffer that was filled to its end is the available one with USED turned over.
        """
        start, limit, view = self._memory.fast[0]
        words, num = self._desc_words, self.num
        slot, want = self._place(self.last_avail)
        want |= _WRITE
        free = (self._limit - self.last_avail) % (2 * num)
        taken: list[int] = []
        length = room = at = 0
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
                    word = words[slot << 1 | 1]
                    if word >> 48 != want or word >> 32 & 0xFFFF >= num or not free:
                        return None
                    if _LOADS_PASS:
                        self._fence_acquire()
                        self._fence_release()
                    addr = words[slot << 1]
                    room = length = word & 0xFFFFFFFF
                    if addr < start or addr + length > limit:
                        return None
                    at = addr - start
                    if first is None:
                        first = view[at : at + length]
                    taken.append(word ^ _WORD_USED)
                    free -= 1
                    slot += 1
                    if slot == num:
                        slot, want = 0, want ^ _BOTH
                view[at : at + left] = source[done:]
            at += left
            room -= left
        if first is None:
            return None
        taken[-1] -= room
        return taken, first

    def _give(self, taken: list[int]) -> None:
        """Store used descriptors of one slot each, but for the one that shows the batch."""
        words, num = self._desc_words, self.num
        slot = self._place(self._used)[0]
        for word in taken:
            if self._first < 0:
                self._first, self._first_word = slot, word
            else:
                words[slot << 1 | 1] = word
            slot += 1
            if slot == num:
                slot = 0
        self._open = -1

    def unpop(self, chains: Sequence[Chain]) -> None:
        counts = self._counts
        back = 0
        for chain in chains:
            back += counts[chain.head]
            counts[chain.head] = 0
        self.last_avail = (self.last_avail - back) % (2 * self.num)
        self._ahead = back

    # -- giving back ------------------------------------------------------------------------------------

    def push(self, head: int, written: int) -> None:
        used, num = self._used, self.num
        if self._in_order:
            self._push_in_order(head, written)
        else:
            word = written | head << 32
            if written:
                word |= _WORD_WRITE
            if used < num:
                slot = used
                word |= _WORD_BOTH
            else:
                slot = used - num
            if self._first < 0:
                self._first, self._first_word = slot, word
            else:
                self._desc_words[slot << 1 | 1] = word
        counts = self._counts
        used += counts[head]
        counts[head] = 0
        self._used = used if used < 2 * num else used - 2 * num

    def forge(self, head: int, claimed: int, written: int) -> None:
        slot = self._place(self._used)[0]
        word = written & 0xFFFFFFFF | (claimed & 0xFFFF) << 32
        word |= (_WORD_WRITE if written else 0) | (_WORD_BOTH if self._used < self.num else 0)
        if self._first < 0:
            self._first, self._first_word = slot, word
        else:
            self._desc_words[slot << 1 | 1] = word
        self._open = -1
        self._used = (self._used + self._counts[head]) % (2 * self.num)
        self._counts[head] = 0

    def waiting_heads(self) -> set[int]:
        heads = set()
        for ahead in range((self._limit - self.last_avail) % (2 * self.num)):
            slot, want = self._place((self.last_avail + ahead) % (2 * self.num))
            word = self._desc_words[slot << 1 | 1]
            if word >> 48 & _BOTH != want:
                break
            heads.add(word >> 32 & 0xFFFF)
        return heads

    def _push_in_order(self, head: int, written: int) -> None:
        """One descriptor in a run's first slot, with the id of its last buffer, stands for the run (2.8.8)."""
        at = self._open if self._open >= 0 else self._used
        slot = self._place(at)[0]
        word = written | head << 32 | (_WORD_WRITE if written else 0) | (_WORD_BOTH if at < self.num else 0)
        if self._first < 0 or self._first == slot:
            self._first, self._first_word = slot, word
        else:
            self._desc_words[slot << 1 | 1] = word
        self._open = -1 if written else at

    def publish(self) -> bool:
        """The flags of the batch's first descriptor, stored last, show all of it (2.8.9)."""
        first = self._first
        if first < 0:
            return False
        self._fence_acquire()
        self._fence_release()
        self._desc_words[first << 1 | 1] = self._first_word
        self._first = self._open = -1
        used, num = self._used, self.num
        self._unsignalled += (used - self._limit - num) % (2 * num)
        self._limit = used + num if used < num else used - num
        return True

    def needs_signal(self) -> bool:
        """2.8.10: an event for one descriptor is due if that is among those given back since it was last asked."""
        count = self._unsignalled
        if self._signalled_valid and not count:
            return False
        self._fence_acquire()
        self._fence_release()
        event = self._driver_event[0]
        valid, self._signalled_valid, self._unsignalled = self._signalled_valid, True, 0
        flags, num = event >> 16 & 3, self.num
        if flags != RING_EVENT_FLAGS_DESC or not self._event_idx or event & 0x7FFF >= num:
            return flags != RING_EVENT_FLAGS_DISABLE
        shown = self._limit + num
        return not valid or (position_of(event & 0xFFFF, num) - shown + count) % (2 * num) < count

    def forget_signalled(self) -> None:
        self._signalled_valid = False

    # -- being told -------------------------------------------------------------------------------------

    def suppress_kicks(self) -> None:
        self._device_event[0] = RING_EVENT_FLAGS_DISABLE << 16

    def arm_kicks(self) -> bool:
        self._ahead = max(self._ahead, 0)
        if self._event_idx:
            event = half_of(self._looked(), self.num)
            self._device_event[0] = event | RING_EVENT_FLAGS_DESC << 16
        else:
            self._device_event[0] = RING_EVENT_FLAGS_ENABLE << 16
        self._fence_acquire()
        self._fence_release()
        return self.unseen()

    def _looked(self) -> int:
        """The position of the next descriptor that was not available when the ring was last looked at."""
        return (self.last_avail + max(self._ahead, 0)) % (2 * self.num)

    def _available(self) -> bool:
        """Whether it is available now."""
        slot, want = self._place(self._looked())
        return self._desc_words[slot << 1 | 1] >> 48 & _BOTH == want

    def unseen(self) -> bool:
        return self._ahead >= 0 and self._available()

    def mark(self) -> int:
        return self._looked() << 1 | self._available()
