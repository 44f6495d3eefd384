# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory seen through an IOMMU: addresses that a driver gives are I/O virtual (virtio 1.2, section 6,
VIRTIO_F_ACCESS_PLATFORM), and what lies behind them is told by the frontend, piece by piece.

Theory of operation
===================

`Iotlb` is a cache of translations: runs of addresses (iova), each with a user address (uva) of the frontend in guest
memory, and what it may be used for. They come by `update()` and go by `invalidate()`; they never overlap, as a new one
takes the place of whatever it touches. A run that is invalidated in part goes as a whole: it is a cache, and what is
wanted again is asked for again.

`IotlbMemory` is what a ring sees in the place of GuestMemory, with the same methods. `fast` is empty, so every address
takes the general way through `pieces()`; a ring that knows nothing of all this works on it, and one without an
IOMMU pays nothing for it. What is not in the cache raises IotlbMiss, which names the pages that are missing, out of the
middle of a buffer: the rings take a buffer only once all of it is translated, so nothing has to be put back
but what a caller took before. What is there and may not be used so, or is no memory, is None as ever, and `fault`
says why.

Nobody keeps a piece of memory for longer than it takes to copy out of it or into it; only a ring's own areas are
held, and whoever holds them lets go of them when a run that they lie in is invalidated (devmodel/vhost_user/iommu.py).

Limits. MAX_RUNS translations, of which the oldest goes first: 64 MiB of pages of 4096 bytes. A buffer with more than
that in it is never translated as a whole, and its ring stands still; no driver makes one. A descriptor may lie in
MAX_RUNS_OF_PIECE of them, 256 KiB of pages, since a guest that makes all memory one page and then a queue full of it
would keep us walking for seconds; the largest frame needs 17. One IotlbMiss names up to MAX_MISSES pages, of 4096 bytes
since nobody says how large the IOMMU's are; larger ones answer several at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from typing import Final, NamedTuple

from devmodel.errors import FrontendError
from devmodel.virtio.memory import READ, WRITE, Extent, GuestMemory
from devmodel.virtio.scattered import ScatteredArea

PAGE: Final = 4096
MAX_RUNS: Final = 16384
MAX_MISSES: Final = 16
MAX_RUNS_OF_PIECE: Final = 64
MAX_RUNS_OF_AREA: Final = 256
_LIMIT: Final = 1 << 64


Area = memoryview | ScatteredArea


class IotlbMiss(Exception):
    """Addresses that have no translation yet; each lies in another page. `access` is READ, WRITE or both."""

    def __init__(self, missing: tuple[int, ...], access: int) -> None:
        super().__init__(missing, access)
        self.missing = missing
        self.access = access


class Run(NamedTuple):
    """One translation."""

    start: int
    end: int
    uva: int
    access: int
    view: memoryview


class Iotlb:
    """See the module. `memory` is what user addresses point into."""

    __slots__ = ("_age", "_runs", "_starts", "memory")

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self._starts: list[int] = []  # sorted, one for each of `_runs`
        self._runs: list[Run] = []
        self._age: deque[int] = deque()  # starts in the order in which they came; some of them gone since

    def __len__(self) -> int:
        return len(self._runs)

    def update(self, iova: int, size: int, uva: int, access: int) -> None:
        """A new translation. FrontendError for one that is empty, wraps, allows nothing or leaves memory."""
        evidence = f"iova {iova:#x}, {size:#x} bytes at {uva:#x}, permissions {access}"
        if not size:
            raise FrontendError("an IOTLB update of no bytes", evidence)
        if max(iova, uva) + size > _LIMIT:
            raise FrontendError("an IOTLB update wraps beyond 2**64", evidence)
        if not READ <= access <= READ | WRITE:
            raise FrontendError("an IOTLB update with permissions that are none", evidence)
        view = self.memory.uva_view(uva, size)
        if view is None:
            raise FrontendError("an IOTLB update leads to what is not inside one memory region", evidence)
        self.invalidate(iova, size)
        while len(self._runs) >= MAX_RUNS:
            self._drop_oldest()
        self._put(Run(iova, iova + size, uva, access, view))

    def _put(self, run: Run) -> None:
        at = bisect_left(self._starts, run.start)
        self._starts.insert(at, run.start)
        self._runs.insert(at, run)
        self._age.append(run.start)
        if len(self._age) > 2 * MAX_RUNS:
            there = set(self._starts)
            self._age = deque(dict.fromkeys(start for start in self._age if start in there))

    def _drop_oldest(self) -> None:
        start = self._age.popleft()
        at = bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == start:
            del self._starts[at], self._runs[at]

    def invalidate(self, iova: int, size: int) -> None:
        """Forget every run that touches these addresses; all that there are when `size` is 0, as 2**64 is written
        (QEMU's Intel IOMMU, when the guest flushes the whole of a device's cache)."""
        first = max(bisect_right(self._starts, iova) - 1, 0)
        if first < len(self._runs) and self._runs[first].end <= iova:
            first += 1
        last = bisect_left(self._starts, iova + size) if size else len(self._runs)
        if not size:
            first = 0
        del self._starts[first:last], self._runs[first:last]

    def clear(self) -> None:
        self._starts, self._runs, self._age = [], [], deque()

    def rebase(self, memory: GuestMemory) -> None:
        """Go over to another memory map: what still leads into memory stays."""
        old, self.memory = self._runs, memory
        self.clear()
        for run in old:
            view = memory.uva_view(run.uva, run.end - run.start)
            if view is not None:
                self._put(run._replace(view=view))

    def find(self, iova: int) -> Run | None:
        """The run that an address lies in."""
        at = bisect_right(self._starts, iova) - 1
        if at < 0:
            return None
        run = self._runs[at]
        return run if iova < run.end else None

    def covers(self, iova: int, access: int) -> bool:
        """Whether an address may be used so now."""
        run = self.find(iova)
        return run is not None and run.access & access == access


class IotlbMemory(GuestMemory):
    """See the module. It owns no mapping: closing it does nothing."""

    __slots__ = ("_denied", "fault", "tlb")

    def __init__(self, tlb: Iotlb) -> None:
        super().__init__()
        self.tlb = tlb
        self.fault = GuestMemory.fault
        self._denied: tuple[int, int] | None = None

    def take_denied(self) -> tuple[int, int] | None:
        """The address, and the access, that was not allowed since the last call."""
        denied, self._denied = self._denied, None
        return denied

    def area(self, iova: int, size: int, access: int) -> Area | None:
        """A ring's area: one view if its pages follow each other in guest memory too. IotlbMiss."""
        runs = self._runs(iova, size, access, MAX_RUNS_OF_AREA)
        if runs is None:
            return None
        start = runs[0].uva + iova - runs[0].start
        if all(run.uva + max(iova - run.start, 0) == start + max(run.start - iova, 0) for run in runs):
            view = self.tlb.memory.uva_view(start, size)
            if view is not None:
                return view
        return ScatteredArea(self._cut(runs, iova, size))

    @staticmethod
    def _cut(runs: list[Run], iova: int, size: int) -> list[memoryview]:
        """These bytes of the runs that they lie in."""
        end = iova + size
        return [run.view[max(iova - run.start, 0) : min(end, run.end) - run.start] for run in runs]

    def pieces(self, gpa: int, size: int, access: int = READ) -> list[memoryview] | None:
        """The bytes at an iova, cut where one translation ends. IotlbMiss."""
        runs = self._runs(gpa, size, access, MAX_RUNS_OF_PIECE)
        return None if runs is None else self._cut(runs, gpa, size)

    def extents(self, addr: int, size: int) -> list[Extent]:
        """Where the bytes at an iova lie in guest physical addresses. IotlbMiss."""
        found = []
        for run in self._runs(addr, size, WRITE, MAX_RUNS_OF_AREA) or []:
            start, end = max(addr, run.start), min(addr + size, run.end)
            gpa = self.tlb.memory.gpa_of(run.uva + start - run.start, end - start)
            if gpa is not None:
                found.append((gpa, end - start))
        return found

    def area_extents(self, addr: int, size: int) -> list[Extent]:
        return self.extents(addr, size)

    def _runs(self, iova: int, size: int, access: int, most: int) -> list[Run] | None:
        """The translations that these bytes need, in order, at most so many."""
        end = iova + max(size, 1)
        if end > _LIMIT:
            self.fault = "wrap beyond 2**64"
            return None
        found: list[Run] = []
        missing: list[int] = []
        at = iova
        while at < end and len(missing) < MAX_MISSES:
            run = self.tlb.find(at)
            if run is None:
                missing.append(at)
                at = (at | PAGE - 1) + 1
            elif run.access & access != access:
                self.fault = f"may not be {'written' if access & WRITE else 'read'}"
                self._denied = at, access
                return None
            else:
                found.append(run)
                at = run.end
                if len(found) > most:
                    self.fault = f"lie in more than {most} pages"
                    return None
        if missing:
            raise IotlbMiss(tuple(missing), access)
        return found

    def close(self) -> None:
        """Nothing here is ours."""
