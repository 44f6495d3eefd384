# SPDX-License-Identifier: GPL-2.0-or-later
"""Kick and call descriptors, which the frontend chose: eventfds as a rule, but anything at all may come.

Neither side ever blocks here. O_NONBLOCK belongs to the open file, which we share with the frontend, so it
can neither be relied on nor set. A kick is read with RWF_NOWAIT, since the frontend may take it between the
loop's poll and our read; where the kernel does not offer that for a kind of file, and before each write, the
descriptor is polled.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from typing import Protocol

_ONE = (1).to_bytes(8, "little")

# A descriptor that is always readable would keep the loop busy: after so many kicks in a row with nothing new
# in the ring it is dropped, and the ring is polled. A driver's spurious kicks are one at a time.
MAX_VAIN_KICKS = 1000


class ReaderLoop(Protocol):
    """The part of an asyncio event loop that is used here."""

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_reader(self, fd: int, /) -> bool: ...


def _ready(fd: int, events: int) -> int:
    poller = select.poll()
    poller.register(fd, events)
    found = poller.poll(0)
    return found[0][1] if found else 0


def _read_now(fd: int) -> bytes:
    """A kick's eight bytes, b"" at the end of a pipe. BlockingIOError if it is gone again."""
    data = bytearray(8)
    try:
        return bytes(data[: os.preadv(fd, [data], -1, os.RWF_NOWAIT)])
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE):
            raise
    if not _ready(fd, select.POLLIN):
        raise BlockingIOError(errno.EAGAIN, "nothing to read")
    return os.read(fd, 8)


class KickFd:
    """Watches a descriptor and calls back for each kick; gives up on one that misbehaves (`lost`)."""

    __slots__ = ("_callback", "_fd", "_loop", "_vain", "lost")

    def __init__(self, loop: ReaderLoop, fd: int, callback: Callable[[], bool]) -> None:
        """`callback` says whether the kick was of use."""
        self._loop = loop
        self._fd = fd
        self._callback = callback
        self._vain = 0
        self.lost = False
        try:
            loop.add_reader(fd, self._readable)
        except OSError:  # EPERM: a regular file can be opened and passed, but not waited for
            self.close()
            self.lost = True

    @property
    def pending(self) -> bool:
        """A kick has come that was not read yet."""
        return self._fd >= 0 and bool(_ready(self._fd, select.POLLIN))

    def _readable(self) -> None:
        try:
            data = _read_now(self._fd)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self._callback():
            self._vain = 0
        else:
            self._vain += 1
        if len(data) != 8 or self._vain > MAX_VAIN_KICKS:
            self.close()
            self.lost = True

    def close(self) -> None:
        """Stop watching, and close the descriptor."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._loop.remove_reader(fd)
            os.close(fd)


class CallFd:
    """Signals a driver. A counter that is full, or a pipe, means that the driver has not looked yet:
    skipped."""

    __slots__ = ("_fd", "_poller", "_write")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poller = select.poll()
        self._poller.register(fd, select.POLLOUT)
        self._write = os.write

    def signal(self) -> bool:
        """False if nothing was written."""
        if self._fd < 0 or not self._poller.poll(0):
            return False
        try:
            self._write(self._fd, _ONE)
        except BlockingIOError:
            return False
        except OSError:  # the reader is gone, or the descriptor never was one to write to
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
