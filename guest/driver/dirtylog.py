# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend's end of the dirty log (vhost-user specification, "Migration"): a bitmap that the back end sets bits in.

A page's bit is bit `page % 8` of byte `page / 8`, a page being 4096 bytes of guest physical address space.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Final

from devmodel.virtio.memory import RegionSpec

LOG_PAGE: Final = 4096


class GuestLog:
    """The log of a guest with these regions, in a memfd of its own; `offset` bytes of that are somebody else's."""

    def __init__(self, specs: Iterable[RegionSpec], offset: int = 0) -> None:
        pages = max(-(-(spec.gpa + spec.size) // LOG_PAGE) for spec in specs)
        self.size = -(-pages // 64) * 8  # QEMU counts in words of 64 bits
        self.offset = offset
        self.fd = os.memfd_create("log", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, offset + self.size)
        self._area = mmap.mmap(self.fd, offset + self.size)

    def take(self) -> set[int]:
        """The numbers of the pages that are marked; afterwards none is."""
        found: set[int] = set()
        for at in range(self.offset, self.offset + self.size):
            byte = self._area[at]
            if byte:
                self._area[at] = 0  # no exchange: nobody writes meanwhile where this is used
                first = (at - self.offset) * 8
                found.update(first + bit for bit in range(8) if byte >> bit & 1)
        return found

    def others(self) -> bytes:
        """What lies before `offset`."""
        return self._area[: self.offset]

    def close(self) -> None:
        self._area.close()
        os.close(self.fd)
