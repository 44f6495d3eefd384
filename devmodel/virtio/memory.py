# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory: a few regions, each known by two addresses, over buffers that somebody mapped.

Two address spaces meet here and must not be mixed: ring addresses in vhost-user messages are the frontend's
user addresses (uva), addresses inside descriptors are guest physical (gpa). Some frontends make both equal,
QEMU does not.

What is decided here: which region an address lies in, whether a range fits, and how a range that crosses into
a neighbouring region is cut. A range that touches a hole or wraps beyond 2**64 is no memory.

Mapping is done by whoever hands in a `Mapper`, since this package does no I/O. The mapper must refuse a file
shorter than offset + size: touching it is SIGBUS, which kills the process. A frontend that shrinks the file
after that check kills us too unless the memfd carries F_SEAL_SHRINK (QEMU's memory-backend-memfd does by
default); nothing in Python can catch it.

The host must be little-endian, as ring fields are accessed by native casts; all of virtio 1.x is
little-endian and a legacy guest has the host's order when it runs the host's architecture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from devmodel.errors import FrontendError, MappingError

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("devmodel needs a little-endian host: virtqueue fields are accessed by native casts")

_LIMIT: Final = 1 << 64

# vhost-user specification, "IOTLB message": what memory behind an IOMMU may be used for; all of it otherwise
READ: Final = 1
WRITE: Final = 2


class Mapping(Protocol):
    """A mapped piece of a file; `view` is writable, one-dimensional, of format B and of the size asked
    for."""

    @property
    def view(self) -> memoryview: ...

    def close(self) -> None:
        """Release `view` and unmap; slices that are still alive delay the unmapping, they do not fail."""


Extent = tuple[int, int]
"""Guest physical address and size in bytes."""

Mapper = Callable[[int, int, int], Mapping]
"""(fd, size, offset) -> Mapping; MappingError if it is not mappable, not writable or too short."""


class RegionSpec(NamedTuple):
    """One region as the frontend describes it (vhost-user specification, "Memory region description")."""

    gpa: int
    size: int
    uva: int
    offset: int


class Region:
    """A mapped region."""

    __slots__ = ("end", "gpa", "mapping", "size", "uva", "view")

    def __init__(self, spec: RegionSpec, mapping: Mapping) -> None:
        self.gpa = spec.gpa
        self.size = spec.size
        self.end = spec.gpa + spec.size
        self.uva = spec.uva
        self.mapping = mapping
        self.view = mapping.view


class GuestMemory:
    """An immutable set of regions; a change of the memory map makes a new one.

    `fast` is what a ring walks for each descriptor: (gpa start, gpa end, view), the largest region first, as
    nearly every buffer lies there. `access` is of interest behind an IOMMU only (iotlb.py).
    """

    __slots__ = ("fast", "regions")

    fault = "are not in memory"  # why there is no view of some bytes

    def __init__(self, regions: Sequence[Region] = ()) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.gpa))
        by_size = sorted(self.regions, key=lambda region: -region.size)
        self.fast = [(region.gpa, region.end, region.view) for region in by_size]

    def uva_view(self, uva: int, size: int) -> memoryview | None:
        """The `size` bytes at a frontend's user address, if they all lie in one region."""
        for region in self.regions:
            offset = uva - region.uva
            if offset >= 0 and offset + size <= region.size:
                return region.view[offset : offset + size]
        return None

    def gpa_of(self, uva: int, size: int) -> int | None:
        """The guest physical address of those bytes, if they all lie in one region."""
        for region in self.regions:
            offset = uva - region.uva
            if offset >= 0 and offset + size <= region.size:
                return region.gpa + offset
        return None

    def extents(self, addr: int, size: int) -> list[Extent]:
        """Where bytes that `pieces()` gives for writing lie in guest physical addresses."""
        return [(addr, size)]

    def area_extents(self, addr: int, size: int) -> list[Extent]:
        """The same for an address that SET_VRING_ADDR gave."""
        gpa = self.gpa_of(addr, size)
        return [] if gpa is None else [(gpa, size)]

    def pieces(self, gpa: int, size: int, access: int = READ) -> list[memoryview] | None:
        """The `size` bytes at a guest physical address, cut where one region ends and the next begins.

        None if any byte of it is no memory. A size of 0 gives one empty piece if the address is in memory.
        """
        found: list[memoryview] = []
        for region in self.regions:
            if region.gpa <= gpa < region.end:
                take = min(size, region.end - gpa)
                offset = gpa - region.gpa
                found.append(region.view[offset : offset + take])
                gpa += take
                size -= take
                if not size:
                    return found
        return None

    def read(self, gpa: int, size: int) -> bytes | None:
        """A copy of guest memory, or None if any byte of it is no memory."""
        found = self.pieces(gpa, size)
        return None if found is None else b"".join(found)

    def close(self) -> None:
        """Unmap all regions."""
        self.fast = []
        for region in self.regions:
            region.view.release()
            region.mapping.close()
        self.regions = ()


def _overlap(starts_and_sizes: Sequence[tuple[int, int]]) -> bool:
    ordered = sorted(starts_and_sizes)
    return any(a + size > b for (a, size), (b, _) in pairwise(ordered))


def check_regions(specs: Sequence[RegionSpec]) -> None:
    """FrontendError for an empty, wrapping or overlapping region; nothing is mapped yet."""
    for spec in specs:
        if spec.size == 0:
            raise FrontendError("memory region of size 0", f"{spec}")
        if max(spec.gpa, spec.uva, spec.offset) + spec.size > _LIMIT:
            raise FrontendError("memory region wraps beyond 2**64", f"{spec}")
    if _overlap([(spec.gpa, spec.size) for spec in specs]):
        raise FrontendError("memory regions overlap in guest physical addresses", f"{list(specs)}")
    if _overlap([(spec.uva, spec.size) for spec in specs]):
        raise FrontendError("memory regions overlap in user addresses", f"{list(specs)}")


def map_regions(specs: Sequence[RegionSpec], fds: Sequence[int], mapper: Mapper) -> GuestMemory:
    """Map all regions or none. The descriptors stay the caller's. FrontendError says why not."""
    check_regions(specs)
    regions: list[Region] = []
    try:
        for spec, fd in zip(specs, fds, strict=True):
            regions.append(Region(spec, mapper(fd, spec.size, spec.offset)))
    except MappingError:
        GuestMemory(regions).close()
        raise
    return GuestMemory(regions)
