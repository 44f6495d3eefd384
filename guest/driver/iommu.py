# SPDX-License-Identifier: GPL-2.0-or-later
"""An IOMMU between a device and the driver's memory, as a guest behind QEMU's has one.

`map()` gives a run of guest memory an address of its own, page by page: pages that follow each other there lie anywhere
in guest memory as far as the device can tell, since each is translated by itself. `unmap()` takes it back. Addresses
are drawn at random, far apart, and not used again soon, so that a device that keeps one for too long is found out:
nothing lies there.

`translate()` is what a device asks for. Every translation that goes is reported to `on_unmap` (in `lazy` mode only
every LAZY_UNMAPS of them, and then as one for everything, which is how Linux flushes).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from devmodel.virtio.memory import READ, WRITE
from guest.driver.memory import PAGE, DriverMemory

_PAGES: Final = 1 << 36  # addresses have 48 bits
LAZY_UNMAPS: Final = 64
EVERYTHING: Final = (0, 0)
"""What `on_unmap` hears in lazy mode: a size of 2**64, in the 64 bits that it has."""


class Translation(NamedTuple):
    """One page, as an IOTLB update says it."""

    iova: int
    size: int
    uva: int
    access: int


def _ignore(iova: int, size: int) -> None:
    """Nobody wants to know."""


class Iommu:
    """See the module."""

    def __init__(self, memory: DriverMemory, seed: int = 0, lazy: bool = False) -> None:
        self.memory = memory
        self.lazy = lazy
        self.on_unmap: Callable[[int, int], None] = _ignore
        self._random = random.Random(seed)
        self._pages: dict[int, tuple[int, int]] = {}  # page number: gpa, access
        self._unmapped = 0

    def __len__(self) -> int:
        return len(self._pages)

    def map(self, gpa: int, size: int, access: int = READ | WRITE) -> int:
        """The iova of these bytes; their place in the first page stays."""
        offset = gpa % PAGE
        count = -(-(offset + max(size, 1)) // PAGE)
        while True:
            first = self._random.randrange(1, _PAGES - count)
            if not any(number in self._pages for number in range(first - 1, first + count + 1)):
                break
        for at in range(count):
            self._pages[first + at] = (gpa - offset + at * PAGE, access)
        return first * PAGE + offset

    def unmap(self, iova: int, size: int) -> None:
        """Take back what `map()` gave; KeyError for anything else."""
        first = iova // PAGE
        count = -(-(iova % PAGE + max(size, 1)) // PAGE)
        for number in range(first, first + count):
            del self._pages[number]
        if not self.lazy:
            self.on_unmap(first * PAGE, count * PAGE)
            return
        self._unmapped += 1
        if self._unmapped % LAZY_UNMAPS == 0:
            self.on_unmap(*EVERYTHING)

    def translate(self, iova: int) -> Translation | None:
        """What lies in that page; None if nothing does."""
        found = self._pages.get(iova // PAGE)
        if found is None:
            return None
        gpa, access = found
        return Translation(iova // PAGE * PAGE, PAGE, self.memory.uva(gpa), access)
