# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end behind a unix socket: carries the frontend's calls, kicks its rings and waits for its signals.

Everything has a deadline. While an answer is awaited the socket is read for exactly what is due (a header, then its
payload); while a signal is awaited the socket is watched too, since a back end that dies says so there only. What
comes unasked for breaks the protocol: no channel for requests of the back end is ever given to it.

Errors say whose fault it was: BackendAbsent, BackendSilent, BackendHungUp, ProtocolBroken.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, TypeVar

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.connection import receive
from guest.driver.errors import BackendAbsent, BackendHungUp, BackendSilent, ProtocolBroken
from guest.driver.frontend import Call, RingFds, Steps

T = TypeVar("T")

DEADLINE_S: Final = 5.0
_REPLY_FLAGS: Final = vu.VHOST_USER_VERSION | vu.VHOST_USER_REPLY_MASK
_RETRY_S: Final = 0.02
_NO_ONE_LISTENS: Final = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.EACCES, errno.ENOTSOCK)


def eventfd() -> int:
    """A fresh one that never blocks."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


class Backend:
    """A context manager; `rings` descriptors of each kind are made with it."""

    def __init__(self, path: str, deadline_s: float = DEADLINE_S, rings: int = 3) -> None:
        self.path = path
        self.deadline_s = deadline_s
        self.log: list[Call] = []
        self.fds = [RingFds(eventfd(), eventfd(), eventfd()) for _ in range(rings)]
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    # -- the socket -------------------------------------------------------------------------------------

    def connect(self) -> None:
        """BackendAbsent, BackendSilent."""
        self.sock.settimeout(self.deadline_s)
        until = time.monotonic() + self.deadline_s
        while not self._connected():
            if time.monotonic() > until:
                raise BackendSilent(
                    f"{self.path} took no connection within {self.deadline_s:g} s",
                    "its queue of connections is full",
                    "end the program that listens there, or wait for it",
                )
            time.sleep(_RETRY_S)

    def _connected(self) -> bool:
        """False while the queue of connections is full: unix(7) has no way to wait for that with a deadline."""
        try:
            self.sock.connect(self.path)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_ONE_LISTENS and "too long" not in str(error):
                raise
            why = str(error) if error.errno is None else os.strerror(error.errno)
            raise BackendAbsent(
                f"no vhost-user back end at {self.path}",
                why,
                f"start one first: vnic serve --vhost-user {self.path}",
            ) from error
        return True

    def reconnect(self) -> None:
        """A new connection in the place of the old one, which is closed."""
        self.sock.close()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connect()

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Any bytes at all. BackendHungUp, BackendSilent."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
            if sent < len(data):
                self.sock.sendall(data[sent:])
        except TimeoutError as error:
            evidence = "its socket takes no more bytes"
            raise self._silent("to read what it was sent", evidence) from error
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise
            raise self._hung_up("the socket was closed before the message was sent") from error

    def call(self, call: Call) -> bytes:
        """Send one message; the payload of its answer, b"" if it has none."""
        self.log.append(call)
        self.send_raw(call.encode(), call.fds)
        return self.answer(call) if call.replies else b""

    def answer(self, call: Call) -> bytes:
        """The answer to a call that was sent. BackendSilent, BackendHungUp, ProtocolBroken."""
        until = time.monotonic() + self.deadline_s
        request, flags, size = vu.HEADER.unpack(self._read(vu.HEADER.size, until, call))
        if size > vu.MAX_PAYLOAD:
            raise ProtocolBroken(
                f"the answer to {call.name} has {size} bytes", "that is no vhost-user message"
            )
        payload = self._read(size, until, call)
        if request != call.request or flags & ~vu.VHOST_USER_NEED_REPLY_MASK != _REPLY_FLAGS:
            raise ProtocolBroken(
                f"what came is no answer to {call.name}",
                f"request {request} instead of {call.request}, flags {flags:#x} instead of {_REPLY_FLAGS:#x}",
                "is it a vhost-user back end that listens there?",
            )
        return payload

    def _read(self, size: int, until: float, call: Call) -> bytes:
        got = b""
        while len(got) < size:
            self.sock.settimeout(max(until - time.monotonic(), 0.001))
            try:
                data, fds, _ = receive(self.sock, size - len(got))
            except TimeoutError as error:
                evidence = f"{len(got)} of {size} bytes came"
                raise self._silent(f"to answer {call.name}", evidence) from error
            except OSError as error:
                if error.errno != errno.ECONNRESET:
                    raise
                data, fds = b"", []
            if call.got_fds is not None:
                call.got_fds.extend(fds)
            else:
                for fd in fds:
                    os.close(fd)
            if not data:
                raise self._hung_up(f"{call.name} was the last message, {len(got)} bytes of its answer came")
            got += data
        self.sock.settimeout(self.deadline_s)
        return got

    def _silent(self, what: str, evidence: str) -> BackendSilent:
        return BackendSilent(
            f"the back end took more than {self.deadline_s:g} s {what}",
            evidence,
            "it hangs or serves another frontend; --deadline SECONDS waits longer",
        )

    @staticmethod
    def _hung_up(evidence: str) -> BackendHungUp:
        return BackendHungUp(
            "the back end hung up", evidence, "its log should say why; it may serve another frontend already"
        )

    def run(self, steps: Steps[T]) -> T:
        """Carry a part of the protocol to its end."""
        answer: bytes | None = None
        while True:
            try:
                call = next(steps) if answer is None else steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = self.call(call)

    # -- rings ------------------------------------------------------------------------------------------

    def kick(self, index: int) -> None:
        """Never blocks: a counter that is full was not read yet."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.fds[index].kick, 1)

    def wait(self, indexes: Sequence[int], timeout_s: float) -> list[int]:
        """Which of these rings were signalled; none if that time passes. BackendHungUp, ProtocolBroken."""
        poller = select.poll()
        ring_of = {self.fds[index].call: index for index in indexes}
        for fd in (self.sock.fileno(), *ring_of):
            poller.register(fd, select.POLLIN)
        ready = dict(poller.poll(max(timeout_s, 0) * 1000))
        if self.sock.fileno() in ready:
            self._unasked()
        return [ring_of[fd] for fd in ready if fd in ring_of and drain(fd)]

    def _unasked(self) -> None:
        """The socket is readable although nothing was asked."""
        try:
            data = self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            data = b""
        if not data:
            raise self._hung_up("the socket was closed while the rings ran")
        raise ProtocolBroken("the back end sent something that nobody asked for", f"it begins with {data!r}")

    def broken_rings(self) -> list[int]:
        """The rings whose error descriptor was signalled since the last call."""
        return [index for index, fds in enumerate(self.fds) if drain(fds.err)]

    def close(self) -> None:
        self.sock.close()
        for fd in (fd for fds in self.fds for fd in fds):
            os.close(fd)
        self.fds = []

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def drain(fd: int) -> bool:
    """Read an eventfd; False if nothing was in it."""
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        return False
    return True
