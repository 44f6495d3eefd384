# SPDX-License-Identifier: GPL-2.0-or-later
"""What the two layouts of a virtqueue have in common, seen from the device (virtio 1.2, section 2.6).

A device takes buffers and gives them back in batches, whatever the layout:

    pop()          the next buffer that the driver made available
    unpop()        puts back what was taken last and not given back
    push()         gives a buffer back, without telling anybody
    publish()      makes all that was given back visible at once
    needs_signal() answers once for the batch whether the driver wants to hear of it
    arm_kicks(), suppress_kicks()  whether the driver is to tell of new buffers
    drain(), fill()  pop() and push() of many buffers at once, for a transmit and a receive queue

The guest owns the memory and may change any byte at any time, so each descriptor is read once, each number is checked
before it is used, and what breaks a rule raises BrokenRing. Whoever owns the ring must then drop it: nothing is written
to that guest's ring after.

Order. Both layouts give buffers back in the order in which they took them, as everything that is taken is completed at
once; VIRTIO_F_IN_ORDER promises no more. If it was negotiated, one used element stands for a run of buffers that
nothing was written to (2.7.9, 2.8.8), which is every batch of a transmit queue. Buffers that were written to have an
element each, since the driver would take a skipped one for full.

Stores. An index, a descriptor's flags or an event must never be seen half written, so they are accessed through
`memoryview.cast`, whose item access is one aligned load or store (`struct` with an explicit byte order goes byte by
byte). Where a store must be seen before a later load, a lock that nobody contends for is taken and dropped: the
cheapest locked instruction that Python has (0.11 us)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final, NamedTuple, TypeVar

from devmodel.errors import BrokenRing
from devmodel.port import Buffer
from devmodel.virtio.features import VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC
from devmodel.virtio.iotlb import IotlbMiss
from devmodel.virtio.memory import READ, WRITE, GuestMemory
from devmodel.virtio.scattered import ScatteredArea, ScatteredItems
from devmodel.virtio.spec import VIRTQ_DESC_F_WRITE, VIRTQ_DESC_SIZE

_WRITE: Final = VIRTQ_DESC_F_WRITE

Got = TypeVar("Got")

NOTHING: Final[list[memoryview]] = []
"""The writable part of a buffer that has none, for many at once: nobody may add to it."""

# What a chain may have before it counts as more than one against a budget of work. Linux needs up to 18 for a TSO
# frame (MAX_SKB_FRAGS and the header); a hostile driver could make 32768 of one queue's chain.
DESCRIPTORS_PER_CHAIN: Final = 32

Area = memoryview | ScatteredArea
Areas = tuple[Area, Area, Area]
"""Descriptor, driver and device area (2.6); in a split queue the table, the available and the used ring."""


class Sections(NamedTuple):
    """Where the specification has the rules that both layouts share."""

    address: str
    order: str
    table: str
    indirect: str


class Chain:
    """One buffer that the driver made available: the pieces to read, then the pieces to write.

    `head` names it to the driver: the index of its first descriptor (split), or its buffer id (packed).
    """

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview]) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable


class Ring(ABC):
    """A running ring."""

    __slots__ = (
        "_event_idx",
        "_fence_acquire",
        "_fence_release",
        "_in_order",
        "_indirect",
        "_memory",
        "_sections",
        "_views",
        "index",
        "last_avail",
        "num",
        "resubmitted",
        "resynchronised",
        "tracked",
        "walked",
    )

    def __init__(self, index: int, num: int, memory: GuestMemory, features: int, sections: Sections) -> None:
        self.index = index
        self.num = num
        self.last_avail = 0  # where the next available buffer will be found, in the layout's own measure
        self.walked = 0  # descriptors read beyond the first of each chain, since the start
        self.resynchronised = False  # it does not start where SET_VRING_BASE said
        self.tracked = False  # what it takes is written down: publish() behind the work (ring_tracked.py)
        self.resubmitted = 0  # buffers that a device which died had taken, and that pop() gives first
        self._event_idx = bool(features >> VIRTIO_F_EVENT_IDX & 1)
        self._indirect = bool(features >> VIRTIO_F_INDIRECT_DESC & 1)
        self._in_order = bool(features >> VIRTIO_F_IN_ORDER & 1)
        self._sections = sections
        fence = Lock()
        self._fence_acquire = fence.acquire
        self._fence_release = fence.release
        self._memory = memory
        self._views: list[Area | ScatteredItems] = []

    @property
    @abstractmethod
    def base(self) -> int:
        """Where it stands, as SET_VRING_BASE and GET_VRING_BASE say it."""

    @abstractmethod
    def rebind(self, memory: GuestMemory, areas: Areas) -> None:
        """Move to a new memory map; indexes stay."""

    def release(self) -> None:
        """Let go of the guest's memory; the ring must not be used afterwards unless it is bound again."""
        for view in self._views:
            view.release()
        self._views = []

    # -- taking -----------------------------------------------------------------------------------------

    @abstractmethod
    def pop(self) -> Chain | None:
        """The next available chain, or None. May raise BrokenRing; IotlbMiss for one that is not translated yet, which
        stays where it is (iotlb.py)."""

    def drain(
        self, read: Callable[[list[memoryview], list[memoryview]], Got | None], budget: int
    ) -> list[Got]:
        """pop() and push() for a queue whose buffers are only read: up to `budget` chains, fewer if they are long or
        one is not translated yet; IotlbMiss if that is the first.

        `read(readable, writable)` must copy what it wants and not raise; what it returns is collected, None left out.
        """
        found: list[Got] = []
        began = self.last_avail
        enough = self.walked + budget * DESCRIPTORS_PER_CHAIN
        while budget > 0 and self.walked < enough:
            budget -= self._drain_plain(read, budget, found)
            if budget > 0:
                try:
                    chain = self.pop()
                except IotlbMiss:
                    if self.last_avail == began:
                        raise
                    break
                if chain is None:
                    break
                got = read(chain.readable, chain.writable)
                self.push(chain.head, 0)
                if got is not None:
                    found.append(got)
                budget -= 1
        return found

    @abstractmethod
    def _drain_plain(
        self,
        read: Callable[[list[memoryview], list[memoryview]], Got | None],
        budget: int,
        found: list[Got],
    ) -> int:
        """drain() as far as chains are one readable descriptor in the largest region; how many it took."""

    @abstractmethod
    def fill(self, parts: Sequence[Buffer], least: int) -> tuple[int, memoryview] | None:
        """pop() and push() for a frame of many buffers: lay `parts` into chains of one writable descriptor each.

        Returns how many chains it took, at most as many as the queue is long, and a view of the first one's buffer,
        which has at least `least` bytes. None when the chains end too early or one is of another shape: pop() tells
        which. May raise BrokenRing. Unless it returns chains, the ring is as it was.
        """

    @abstractmethod
    def unpop(self, chains: Sequence[Chain]) -> None:
        """Put back the chains that were taken last. May raise BrokenRing, with the chains put back."""

    @abstractmethod
    def advance(self, before: int) -> int:
        """How far last_avail has come since it was `before`, not more than a queue's length ago."""

    # -- giving back ------------------------------------------------------------------------------------

    @abstractmethod
    def push(self, head: int, written: int) -> None:
        """Give a chain back; `written` counts the bytes stored into its writable part."""

    @abstractmethod
    def publish(self) -> bool:
        """Make all that was pushed visible at once; False when there was nothing."""

    @abstractmethod
    def needs_signal(self) -> bool:
        """Whether the driver wants to hear of what `publish()` showed it."""

    @abstractmethod
    def forget_signalled(self) -> None:
        """Signal the next batch whatever the driver's event says: the one to be signalled was replaced."""

    # -- being told -------------------------------------------------------------------------------------

    @abstractmethod
    def suppress_kicks(self) -> None:
        """Ask the driver for no notifications."""

    @abstractmethod
    def arm_kicks(self) -> bool:
        """Ask for a notification of the next buffer; True if one came meanwhile and must be looked at now."""

    @abstractmethod
    def unseen(self) -> bool:
        """Whether the driver has added something since it was last looked at."""

    @abstractmethod
    def mark(self) -> int:
        """A number that is another one when the driver has added something."""

    # -- lies, for whoever tests a driver (ringfaults.py) ------------------------------------------------

    @abstractmethod
    def forge(self, head: int, claimed: int, written: int) -> None:
        """push() of buffer `head` by a used element that names buffer `claimed`; both numbers are stored unchecked."""

    @abstractmethod
    def waiting_heads(self) -> set[int]:
        """The heads that the driver made available and that were not taken, as far as they are heads at all."""

    def let_go(self) -> None:  # noqa: B027 - a ring that does not lie has nothing to do
        """push() what is held back on purpose: another ring takes this one's place."""

    # -- checks that both layouts make ------------------------------------------------------------------

    def _broken(self, rule: str, section: str, head: int, descriptor: int) -> BrokenRing:
        return BrokenRing(self.index, rule, section, head, descriptor)

    def _table(self, head: int, at: int, addr: int, length: int, chained: bool) -> bytes:
        """A copy of the indirect table that descriptor `at` points to; `chained` says that NEXT was set with it."""
        section = self._sections.indirect
        if not self._indirect:
            raise self._broken("INDIRECT was not negotiated", section, head, at)
        if chained:
            raise self._broken("INDIRECT and NEXT in one descriptor", section, head, at)
        if length == 0 or length % VIRTQ_DESC_SIZE or length > self.num * VIRTQ_DESC_SIZE:
            raise self._broken(f"indirect table of {length} bytes", section, head, at)
        table = self._memory.read(addr, length)
        if table is None:
            rule = f"indirect table: address {addr:#x} and length {length} {self._memory.fault}"
            raise self._broken(rule, self._sections.table, head, at)
        return table

    def _take(self, chain: Chain, head: int, at: int, addr: int, length: int, flags: int) -> None:
        """Add one plain descriptor to a chain."""
        if flags & _WRITE:
            self._translate(chain.writable, addr, length, head, at, WRITE)
        elif chain.writable:
            rule = "readable descriptor after a writable one"
            raise self._broken(rule, self._sections.order, head, at)
        else:
            self._translate(chain.readable, addr, length, head, at, READ)

    def _translate(
        self, pieces: list[memoryview], addr: int, length: int, head: int, at: int, access: int
    ) -> None:
        for start, end, view in self._memory.fast:
            if start <= addr and addr + length <= end:
                offset = addr - start
                pieces.append(view[offset : offset + length])
                return
        found = self._memory.pieces(addr, length, access)
        if found is None:
            rule = f"address {addr:#x} and length {length} {self._memory.fault}"
            raise self._broken(rule, self._sections.address, head, at)
        pieces.extend(found)
