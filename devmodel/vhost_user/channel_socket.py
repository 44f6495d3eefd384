# SPDX-License-Identifier: GPL-2.0-or-later
"""The back-end channel's socket: the I/O half of backend_channel.py.

The frontend chose the descriptor, so it may be anything, may block, and may never be read. Each call is made with
MSG_DONTWAIT, as O_NONBLOCK belongs to the open file, which others may share. What the socket does not take is kept and
tried again: a notification once, however often it was given, up to MAX_UNSENT messages in all, beyond which the
frontend is taken for one that does not read.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

from devmodel.errors import FrontendError
from devmodel.vhost_user.backend_channel import REPLY_S, Answer, BackendChannel
from devmodel.vhost_user.eventfd import ReaderLoop
from devmodel.vhost_user.message import HEADER, VHOST_USER_NEED_REPLY_MASK

MAX_UNSENT: Final = 256
RETRY_S: Final = 0.005
_MESSAGES_PER_TURN: Final = 64
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

Receive = Callable[[socket.socket, int], tuple[bytes, list[int], bool]]


class Timer(Protocol):
    """What `call_later()` gives."""

    def cancel(self) -> None: ...


class TimerLoop(ReaderLoop, Protocol):
    """The part of an asyncio event loop that is used here."""

    def call_later(self, delay: float, callback: Callable[..., object], /) -> Timer: ...


class ChannelSocket:
    """See the module. `heard` gets the answers, `lost` the reason why the channel is of no use any more; whoever hears
    that closes it."""

    def __init__(
        self,
        loop: TimerLoop,
        fd: int,
        channel: BackendChannel,
        receive: Receive,
        heard: Callable[[Answer], None],
        lost: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._receive = receive
        self._heard = heard
        self._lost = lost
        self._unsent: list[bytes] = []
        self._watched = 0  # the request that the timer is for
        self._timers: dict[str, Timer] = {}
        self._sock: socket.socket | None = None
        try:
            self._sock = socket.socket(fileno=fd)
            loop.add_reader(fd, self._readable)
        except OSError as error:
            if self._sock is None:
                os.close(fd)
            lost(f"its descriptor is no socket: {error}")

    def send(self, data: bytes) -> None:
        """One message, now or as soon as the socket takes it."""
        if self._unsent or not self._sent(data):
            self._keep(data)
        self._watch()

    def _sent(self, data: bytes) -> bool:
        if self._sock is None:
            return True
        try:
            done = self._sock.send(data, _FLAGS)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost(f"it cannot be written: {error}")
            return True
        if done != len(data):  # a stream socket of the kernel's takes a message of this size as a whole
            self._lost("it took a part of a message")
        return True

    def _keep(self, data: bytes) -> None:
        _request, flags, _size = HEADER.unpack_from(data)
        if not flags & VHOST_USER_NEED_REPLY_MASK and data in self._unsent:
            return
        self._unsent.append(data)
        if len(self._unsent) > MAX_UNSENT:
            self._lost("the frontend does not read it")
        elif "retry" not in self._timers:
            self._timers["retry"] = self._loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        del self._timers["retry"]
        while self._unsent and self._sent(self._unsent[0]):
            del self._unsent[:1]  # all of it may be gone with the channel
        if self._unsent:
            self._timers["retry"] = self._loop.call_later(RETRY_S, self._retry)

    def _watch(self) -> None:
        """Give the oldest request its time."""
        if "reply" not in self._timers and self._channel.oldest and self._sock is not None:
            self._watched = self._channel.oldest
            self._timers["reply"] = self._loop.call_later(REPLY_S, self._due)

    def _due(self) -> None:
        del self._timers["reply"]
        if self._channel.oldest == self._watched:
            self._lost(f"the frontend answered nothing for {REPLY_S:g} s")
        else:
            self._watch()

    def _readable(self) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            if self._sock is None or not self._read_once(self._sock):
                return

    def _read_once(self, sock: socket.socket) -> bool:
        try:
            data, fds, truncated = self._receive(sock, self._channel.wants)
        except BlockingIOError:
            return False
        except OSError:
            data, fds, truncated = b"", [], False
        for fd in fds:
            os.close(fd)
        try:
            answer = self._channel.feed(data, fds, truncated)
        except FrontendError as error:
            self._lost(error.fact)
            return False
        if answer is not None:
            self._heard(answer)
        return True

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._unsent.clear()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
