# SPDX-License-Identifier: GPL-2.0-or-later
"""The dirty log of live migration (vhost-user specification, "Migration"): which pages of the guest this device wrote.

Theory of operation
===================

While a guest is copied to another machine its frontend needs to know which pages changed after they were copied. It
gives the device a bitmap in shared memory, one bit for each page of 4096 bytes of guest physical address space; the
device sets bits, the frontend clears them by exchanging whole words for 0, copies those pages again, and does so until
few are left and the guest is stopped.

Marks are bytes. The bitmap belongs to several writers at once: other devices of the same machine set bits in it while
the frontend clears. Python has no atomic OR; reading a byte, setting a bit and storing it again could store a bit that
somebody else had cleared (harmless: a page is copied twice) and could take away one that another device had set
meanwhile (not harmless: its page is never copied). So a mark is the plain store of 0xff into the byte that holds the
page's bit. Such a store can take no mark away, whatever it races with. It also marks the 7 pages beside it: up to eight
times the pages are copied again. A network's buffers lie together, so it is less in practice (docs/migration.md).

Order. A page is marked after it was written: a frontend that takes the bit away early copies the old page and is never
told of the new one. A fence stands between both. As all of this runs in one thread, what was written is marked when
the next message of the frontend is read, the one that stops the ring in particular.

What is marked. Buffers, as far as they were written, when they are given back; the memory of the ring itself (the used
ring, or the packed descriptors with the device's event) after each store into it. For the ring the frontend says where
it lies in guest physical addresses (`log_guest_addr`, VHOST_VRING_F_LOG), for packed descriptors, of which the
specification says nothing, the memory map does.

Rings that log are classes of their own, which replace a ring where it stands when VHOST_F_LOG_ALL is switched on and
are replaced when it is switched off. Their memory has an empty `fast` list, so that the quick ways of ring_split.py and
ring_packed.py, which know no guest physical addresses any more, are not taken. Rings that do not log have no test for
it, and run as they always did.

Early marks. QEMU starts the rings of a guest that boots during a migration before it says where the log is
(SET_FEATURES, SET_VRING_KICK, then SET_LOG_BASE), and after a stop and a start the log that is known may be one that
nobody reads any more. So from the start, and again from each time when the last ring has stopped, marks are remembered
until the next SET_LOG_BASE and repeated in that log: up to EARLY_LIMIT bytes of it, beyond which all memory is marked.

Bounds. The log must cover all memory when it is set, and memory may not grow beyond it while rings run, which Session
sees to; buffers and rings lie in memory. So no mark can be outside, and a memoryview would refuse it if one were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final

from devmodel.virtio.memory import Extent, GuestMemory, Mapping
from devmodel.virtio.ring import Areas, Chain, Ring
from devmodel.virtio.ring_packed import PackedRing
from devmodel.virtio.ring_split import SplitRing
from devmodel.virtio.spec import VIRTQ_DESC_F_WRITE

# "Migration": "Dirty page logging", the page is fixed
LOG_PAGE: Final = 4096
_SHIFT: Final = 15  # 8 pages of 4096 bytes share a byte of the log
EARLY_LIMIT: Final = 1 << 16


def log_size(memory: GuestMemory) -> int:
    """Bytes of a log that covers all of this memory."""
    return max((region.end - 1 >> _SHIFT) + 1 for region in memory.regions) if memory.regions else 0


class DirtyLog:
    """One session's log; there may be none yet, or none any more."""

    __slots__ = ("_early", "_fence", "_mapping", "_view", "announce", "overflowed")

    def __init__(self) -> None:
        self._mapping: Mapping | None = None
        self._view: memoryview | None = None
        self._early: set[int] | None = set()
        self._fence = Lock()
        self.overflowed = False  # more early marks than are remembered
        self.announce: Callable[[], object] = lambda: None  # SET_LOG_FD: called when a batch was marked

    @property
    def size(self) -> int:
        """Bytes of the log, 0 without one."""
        return 0 if self._view is None else len(self._view)

    def covers(self, memory: GuestMemory) -> bool:
        """Whether every page of that memory has its bit; nobody's log covers anything."""
        return self._view is None or len(self._view) >= log_size(memory)

    def set_base(self, mapping: Mapping, memory: GuestMemory) -> None:
        """Mark in this log from now on, which is closed when it is replaced."""
        self.drop()
        self._mapping, self._view = mapping, mapping.view
        early, self._early = self._early, None
        if self.overflowed:
            self.overflowed = False
            self.mark([(region.gpa, region.size) for region in memory.regions])
        for at in early or ():
            if at < len(self._view):
                self._view[at] = 0xFF

    def remember(self) -> None:
        """The rings stand still: what is marked from now on may be for another log that is not known yet."""
        if self._early is None:
            self._early = set()

    def drop(self) -> None:
        """Let go of the log."""
        mapping, self._mapping, self._view = self._mapping, None, None
        if mapping is not None:
            mapping.close()

    def mark(self, extents: Sequence[Extent]) -> None:
        """These bytes were written."""
        with self._fence:
            view, early = self._view, self._early
        for gpa, size in extents:
            if size:
                start, end = gpa >> _SHIFT, (gpa + size - 1 >> _SHIFT) + 1
                if view is not None:
                    view[start:end] = b"\xff" * (end - start)
                if early is not None and not self.overflowed:
                    self._note(early, start, end)

    def _note(self, early: set[int], start: int, end: int) -> None:
        if len(early) + end - start > EARLY_LIMIT:
            self.overflowed = True
            early.clear()
        else:
            early.update(range(start, end))


class Journal:
    """What a ring that logs keeps of the buffers that it took."""

    __slots__ = ("log", "own", "taken", "writable")

    def __init__(self, log: DirtyLog, own: Sequence[Extent]) -> None:
        self.log = log
        self.own = own  # the ring's own memory, as far as the device writes it
        self.writable: list[Extent] = []  # of the chain that is being walked
        self.taken: dict[int, deque[list[Extent]]] = {}  # of those in flight, by their heads

    def took(self, chain: Chain | None) -> None:
        if chain is not None:
            self.taken.setdefault(chain.head, deque()).append(self.writable)

    def put_back(self, chains: Sequence[Chain]) -> None:
        for chain in chains:
            self._forget(chain.head, last=True)

    def gave_back(self, head: int, written: int) -> None:
        """Mark what was written of a buffer, and the ring."""
        marks = []
        for gpa, size in self._forget(head, last=False):
            marks.append((gpa, min(size, written)))
            written -= min(size, written)
        self.log.mark([*marks, *self.own])

    def _forget(self, head: int, *, last: bool) -> list[Extent]:
        waiting = self.taken.get(head)
        if not waiting:
            return []
        extents = waiting.pop() if last else waiting.popleft()
        if not waiting:
            del self.taken[head]
        return extents

    def wrote_ring(self) -> None:
        self.log.mark(self.own)


def _slow(memory: GuestMemory) -> GuestMemory:
    """The same memory, whose `fast` list has nothing in it."""
    if not memory.fast:
        return memory
    copy = GuestMemory(memory.regions)
    copy.fast = []
    return copy


class Logging(Ring):
    """What both layouts do besides their own work; `_journal` is in the classes below."""

    __slots__ = ()
    _journal: Journal

    def rebind(self, memory: GuestMemory, areas: Areas) -> None:
        super().rebind(_slow(memory), areas)  # type: ignore[safe-super]

    def _take(self, chain: Chain, head: int, at: int, addr: int, length: int, flags: int) -> None:
        super()._take(chain, head, at, addr, length, flags)
        if flags & VIRTQ_DESC_F_WRITE:
            self._journal.writable += self._memory.extents(addr, length)

    def pop(self) -> Chain | None:
        self._journal.writable = []
        chain = super().pop()  # type: ignore[safe-super]
        self._journal.took(chain)
        return chain

    def unpop(self, chains: Sequence[Chain]) -> None:
        self._journal.put_back(chains)
        super().unpop(chains)  # type: ignore[safe-super]

    def push(self, head: int, written: int) -> None:
        super().push(head, written)  # type: ignore[safe-super]
        self._journal.gave_back(head, written)

    def forge(self, head: int, claimed: int, written: int) -> None:
        super().forge(head, claimed, written)  # type: ignore[safe-super]
        self._journal.gave_back(head, 1 << 64)  # what was written is not what the element says

    def publish(self) -> bool:
        published = super().publish()  # type: ignore[safe-super]
        if published:
            self._journal.wrote_ring()
            self._journal.log.announce()
        return published

    def suppress_kicks(self) -> None:
        super().suppress_kicks()  # type: ignore[safe-super]
        self._journal.wrote_ring()

    def arm_kicks(self) -> bool:
        more = super().arm_kicks()  # type: ignore[safe-super]
        self._journal.wrote_ring()
        return more


class LoggedSplitRing(Logging, SplitRing):
    """A split ring that logs. `own` is its used ring if that is to be logged."""

    __slots__ = ("_journal",)

    def __init__(
        self,
        index: int,
        num: int,
        memory: GuestMemory,
        areas: Areas,
        features: int,
        base: int,
        log: DirtyLog,
        own: Sequence[Extent],
    ) -> None:
        self._journal = Journal(log, own)
        super().__init__(index, num, memory, areas, features, base)


class LoggedPackedRing(Logging, PackedRing):
    """A packed ring that logs. `own` is its descriptors and the device's event if those are to be logged."""

    __slots__ = ("_journal",)

    def __init__(
        self,
        index: int,
        num: int,
        memory: GuestMemory,
        areas: Areas,
        features: int,
        base: int,
        resumed: bool,
        log: DirtyLog,
        own: Sequence[Extent],
    ) -> None:
        self._journal = Journal(log, own)
        super().__init__(index, num, memory, areas, features, base, resumed)
