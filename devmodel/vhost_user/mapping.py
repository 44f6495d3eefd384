# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps guest memory out of the descriptors that a frontend passed, and makes shared memory for it; the I/O half of
devmodel/virtio/memory.py and inflight.py."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat

from devmodel.errors import MappingError


class MmapMapping:
    """`view` over a shared, writable mapping. Python's mmap keeps a duplicate of the descriptor. `sealed`: nobody can
    make the file shorter, after which touching the view would be SIGBUS."""

    def __init__(self, area: mmap.mmap, delta: int, size: int, sealed: bool) -> None:
        self._area = area
        self.sealed = sealed
        whole = memoryview(area)
        self.view = whole[delta : delta + size]
        whole.release()

    def close(self) -> None:
        """Unmap now, or when the last slice of it dies: a slice that is in use is no error."""
        self.view.release()
        try:
            self._area.close()
        except BufferError:
            return


def _page_size(blksize: int) -> int:
    """What offset and length must be multiples of: hugetlbfs gives its page size as the block size."""
    usable = blksize > mmap.ALLOCATIONGRANULARITY and not blksize & (blksize - 1)
    return blksize if usable else mmap.ALLOCATIONGRANULARITY


def map_fd(fd: int, size: int, offset: int) -> MmapMapping:
    """Map `size` bytes at `offset`, which need not be page-aligned and may exceed `size`.

    MappingError if the descriptor is no regular file (memfd, shm, hugetlbfs and tmpfs files are), is
    shorter than offset + size, or may not be written.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise MappingError("a memory region's descriptor is not a file", f"mode {info.st_mode:#o}")
    if info.st_size < offset + size:
        evidence = f"it has {info.st_size} bytes, offset {offset} + size {size} are needed"
        raise MappingError("a memory region's file is too short", evidence)
    page = _page_size(info.st_blksize)
    start = offset - offset % page
    end = min(-(-(offset + size) // page) * page, info.st_size)
    try:
        area = mmap.mmap(fd, end - start, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=start)
    except (OSError, ValueError, OverflowError) as error:
        raise MappingError("a memory region cannot be mapped", str(error)) from error
    return MmapMapping(area, offset - start, size, is_sealed(fd))


def is_sealed(fd: int) -> bool:
    """F_SEAL_SHRINK is set: only a memfd can have it, and QEMU's memory-backend-memfd has it by default."""
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


def allocate(size: int) -> int:
    """A fresh memfd of `size` zero bytes that nobody can make shorter; its owner closes it. MappingError."""
    try:
        fd = os.memfd_create("vhost-user-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise MappingError("no shared memory can be made", str(error)) from error
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except (OSError, OverflowError) as error:
        os.close(fd)
        raise MappingError(f"no {size} bytes of shared memory can be made", str(error)) from error
    return fd
