# SPDX-License-Identifier: GPL-2.0-or-later
"""A device's state through the descriptor that a frontend gave for it (vhost-user specification, "Migrating back-end
state"): all of it out, or all of it in, while the event loop goes on.

The descriptor is a pipe's end or a stream socket; of anything else nothing is read or written (a file of any size has
no end that somebody closes). Its O_NONBLOCK belongs to the frontend as much as to us, so it is read and written by
RWF_NOWAIT, and where the kernel has none for it, by what can be had without waiting once it is ready.

Limits: STALL_S without a byte, TOTAL_S in all, and the size that StateReader allows. What exceeds them, and a reader or
writer that goes away too early, is a StateError.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from typing import Any, Final, Protocol

from devmodel.errors import StateError
from devmodel.virtio.state import DeviceState, StateReader

STALL_S: Final = 10.0
TOTAL_S: Final = 120.0
_AT_ONCE: Final = 1 << 20  # bytes for one turn of the event loop
_SURE: Final = 4096  # PIPE_BUF: a pipe that is ready takes so many without waiting
_NO_NOWAIT: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE)

Ended = Callable[[DeviceState | None, StateError | None], None]
"""Called once: the state that came (None after a save), or why there is none."""


class Timer(Protocol):
    """What `call_later()` gives."""

    def cancel(self) -> None: ...


class TransferLoop(Protocol):
    """The part of an asyncio event loop that is used here."""

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_reader(self, fd: int, /) -> bool: ...

    def add_writer(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_writer(self, fd: int, /) -> bool: ...

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer: ...


def check_descriptor(fd: int) -> None:
    """StateError for what is neither a pipe nor a socket."""
    mode = os.fstat(fd).st_mode
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        raise StateError("the state's descriptor is neither a pipe nor a socket", f"mode {mode:#o}")


def _ready(fd: int, event: int) -> bool:
    poller = select.poll()
    poller.register(fd, event)
    return bool(poller.poll(0))


def _read_now(fd: int) -> bytes:
    """What is there; BlockingIOError if nothing is, b"" at the end."""
    data = bytearray(1 << 16)
    try:
        return bytes(data[: os.preadv(fd, [data], -1, os.RWF_NOWAIT)])
    except OSError as error:
        if error.errno not in _NO_NOWAIT:
            raise
    if not _ready(fd, select.POLLIN):
        raise BlockingIOError(errno.EAGAIN, "nothing to read")
    return os.read(fd, 1 << 16)


def _write_now(fd: int, data: memoryview) -> int:
    """As much as is taken; BlockingIOError if nothing is."""
    try:
        return os.pwritev(fd, [data[: 1 << 16]], -1, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in _NO_NOWAIT:
            raise
    if not _ready(fd, select.POLLOUT):
        raise BlockingIOError(errno.EAGAIN, "no room")
    return os.write(fd, data[:_SURE])


class Transfer:
    """One of either direction; owns the descriptor, which is closed at its end."""

    def __init__(self, loop: TransferLoop, fd: int, ended: Ended) -> None:
        self._loop, self._fd, self._ended = loop, fd, ended
        self._stall: Timer | None = None
        self._total = loop.call_later(TOTAL_S, self._late)
        self._progress()
        self._watch()

    def _watch(self) -> None:
        raise NotImplementedError

    def _unwatch(self) -> None:
        raise NotImplementedError

    def _progress(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._stall = self._loop.call_later(STALL_S, self._late)

    def _late(self) -> None:
        self._end(None, StateError("the state's transfer stalled", f"no byte for {STALL_S:g} s, or too slow"))

    def _end(self, state: DeviceState | None, error: StateError | None) -> None:
        if self._fd >= 0:
            self.close()
            self._ended(state, error)

    def close(self) -> None:
        """Stop it, and tell nobody."""
        if self._fd < 0:
            return
        self._unwatch()
        os.close(self._fd)
        self._fd = -1
        self._total.cancel()
        if self._stall is not None:
            self._stall.cancel()


class Save(Transfer):
    """Writes the state and closes the descriptor, which is the reader's sign that it was all."""

    def __init__(self, loop: TransferLoop, fd: int, ended: Ended, data: bytes) -> None:
        self._left = memoryview(data)
        super().__init__(loop, fd, ended)

    def _watch(self) -> None:
        self._loop.add_writer(self._fd, self._writable)

    def _unwatch(self) -> None:
        self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        done = 0
        try:
            while len(self._left) and done < _AT_ONCE:
                count = _write_now(self._fd, self._left)
                self._left = self._left[count:]
                done += count
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(None, StateError("nobody reads the state any more", str(error)))
            return
        if done:
            self._progress()
        if not len(self._left):
            self._end(None, None)


class Load(Transfer):
    """Reads the state up to the end of what the writer has."""

    def __init__(self, loop: TransferLoop, fd: int, ended: Ended) -> None:
        self._reader = StateReader()
        super().__init__(loop, fd, ended)

    def _watch(self) -> None:
        self._loop.add_reader(self._fd, self._readable)

    def _unwatch(self) -> None:
        self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        done = 0
        try:
            while done < _AT_ONCE:
                data = _read_now(self._fd)
                if not data:
                    self._end(self._reader.finish(), None)
                    return
                self._reader.feed(data)
                done += len(data)
        except BlockingIOError:
            pass
        except StateError as error:
            self._end(None, error)
            return
        except OSError as error:
            self._end(None, StateError("the state cannot be read", str(error)))
            return
        if done:
            self._progress()
