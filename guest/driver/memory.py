# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's memory: one memfd, several regions of it, and an allocator.

A back end sees each region by two addresses (vhost-user specification, "Memory region description"): the guest
physical one (gpa), which descriptors hold, and the frontend's user address (uva), which ring addresses are given
in. A back end that mixes them up works with one frontend and fails with another, so there are layouts of both
kinds:

    split_layout   like QEMU's: a piece below a hole and a piece above it, which touch in the file only; uva and
                   gpa differ, and by another amount in each region
    flat_layout    like DPDK's virtio-user: one region, gpa == uva
    pieces_layout  regions that touch in guest physical addresses and nowhere else, so that a buffer may cross from
                   one into the next

The memfd is sealed against shrinking, which a back end may ask for before it dares to map it; `sealed=False` leaves
that out.

The allocator gives out runs of bytes that lie in one region and takes them back: first fit over a sorted list of
holes. A driver allocates its buffers once, so speed does not matter here, and a double free is worth an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from bisect import insort
from collections.abc import Sequence
from typing import Final

from devmodel.vhost_user.mapping import map_fd
from devmodel.virtio.memory import GuestMemory, RegionSpec, map_regions
from guest.driver.errors import OutOfMemory

PAGE: Final = 4096
UVA: Final = 0x7F00_0000_0000
UVA_GAP: Final = 0x1000_0000
HOLE: Final = 0x2_0000  # what lies between the two pieces of a PC's low memory: video memory
LOW_SIZE: Final = 0xA_0000


def split_layout(size: int) -> list[RegionSpec]:
    """Two regions with a hole between them; `size` counts both."""
    low = min(LOW_SIZE, size // 2 // PAGE * PAGE)
    return [
        RegionSpec(0, low, UVA, 0),
        RegionSpec(low + HOLE, size - low, UVA + low + UVA_GAP, low),
    ]


def flat_layout(size: int) -> list[RegionSpec]:
    """One region whose user address is its guest physical one."""
    return [RegionSpec(UVA, size, UVA, 0)]


def pieces_layout(size: int, pieces: int = 4) -> list[RegionSpec]:
    """Regions side by side in guest physical addresses, each elsewhere in user addresses and in the file."""
    each = size // pieces // PAGE * PAGE
    return [
        RegionSpec(0x4000_0000 + at * each, each, UVA + at * (each + UVA_GAP), (pieces - 1 - at) * each)
        for at in range(pieces)
    ]


LAYOUTS: Final = {"split": split_layout, "flat": flat_layout, "pieces": pieces_layout}


class DriverMemory:
    """The memory, mapped; owns the memfd."""

    def __init__(self, specs: Sequence[RegionSpec], sealed: bool = True) -> None:
        self.specs = list(specs)
        self.size = max(spec.offset + spec.size for spec in specs)
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.size)
        if sealed:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._area = mmap.mmap(self.fd, self.size)
        self._view = memoryview(self._area)
        self._holes = sorted((spec.gpa, spec.size) for spec in specs)
        self._taken: dict[int, int] = {}

    # -- addresses --------------------------------------------------------------------------------------

    def _region(self, gpa: int, size: int) -> RegionSpec:
        for spec in self.specs:
            if spec.gpa <= gpa and gpa + size <= spec.gpa + spec.size:
                return spec
        raise OutOfMemory(f"no region holds {size} bytes at {gpa:#x}", f"regions: {self.specs}")

    def uva(self, gpa: int) -> int:
        """The frontend's user address of a guest physical one."""
        spec = self._region(gpa, 1)
        return spec.uva + gpa - spec.gpa

    def view(self, gpa: int, size: int) -> memoryview:
        """Writable bytes of one region."""
        spec = self._region(gpa, size)
        start = spec.offset + gpa - spec.gpa
        return self._view[start : start + size]

    def pieces(self, gpa: int, size: int) -> list[memoryview]:
        """Writable bytes that may cross from one region into the next."""
        found: list[memoryview] = []
        while size:
            spec = self._region(gpa, 1)
            take = min(size, spec.gpa + spec.size - gpa)
            found.append(self.view(gpa, take))
            gpa, size = gpa + take, size - take
        return found

    def read(self, gpa: int, size: int) -> bytes:
        return b"".join(self.pieces(gpa, size))

    def write(self, gpa: int, data: bytes) -> None:
        at = 0
        for piece in self.pieces(gpa, len(data)):
            piece[:] = data[at : at + len(piece)]
            at += len(piece)

    # -- allocation -------------------------------------------------------------------------------------

    def alloc(self, size: int, align: int = 64) -> int:
        """The gpa of zeroed memory inside one region; OutOfMemory."""
        for at, (start, room) in enumerate(self._holes):
            gpa = -(-start // align) * align
            end = gpa + size
            if end > start + room:
                continue
            rest = [(start, gpa - start), (end, start + room - end)]
            self._holes[at : at + 1] = [hole for hole in rest if hole[1]]
            self._taken[gpa] = size
            self.view(gpa, size)[:] = bytes(size)
            return gpa
        free = sum(room for _, room in self._holes)
        raise OutOfMemory(
            f"the guest's memory has no {size} bytes in one piece",
            f"{free} of {self.size} bytes are free, in {len(self._holes)} pieces",
            "use smaller queues, or more memory",
        )

    def free(self, gpa: int) -> None:
        """Give back what `alloc()` gave; KeyError for anything else."""
        insort(self._holes, (gpa, self._taken.pop(gpa)))
        merged: list[tuple[int, int]] = []
        for start, room in self._holes:
            if merged and self._joined(merged[-1], start):
                merged[-1] = (merged[-1][0], merged[-1][1] + room)
            else:
                merged.append((start, room))
        self._holes = merged

    def _joined(self, hole: tuple[int, int], start: int) -> bool:
        """Whether a hole ends where another starts, inside one region."""
        return hole[0] + hole[1] == start and all(spec.gpa != start for spec in self.specs)

    @property
    def taken(self) -> int:
        """How many pieces were given out and not given back."""
        return len(self._taken)

    def put(self, data: bytes) -> tuple[int, int]:
        """Fresh memory with these contents: gpa and size."""
        gpa = self.alloc(max(len(data), 1), 64)
        self.write(gpa, data)
        return gpa, len(data)

    # -- the other side ---------------------------------------------------------------------------------

    def device_view(self) -> GuestMemory:
        """The memory as a device in this process maps it; to be closed by the caller."""
        return map_regions(self.specs, [self.fd] * len(self.specs), map_fd)

    def close(self) -> None:
        """Unmap and close; views that are still alive delay the unmapping."""
        if self.fd < 0:
            return
        self._view.release()
        with contextlib.suppress(BufferError):
            self._area.close()
        fd, self.fd = self.fd, -1
        os.close(fd)
