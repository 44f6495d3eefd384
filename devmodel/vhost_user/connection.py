# SPDX-License-Identifier: GPL-2.0-or-later
"""One connected frontend: its socket and descriptors, and a Session that says what to do with them.

Reads exactly what the MessageReader wants, so that no descriptor of a following message is taken early; a
frontend that sends a byte a second costs a wake-up a second and blocks nobody. Replies are a few bytes: a
frontend that lets its socket fill up with unread replies is disconnected.
"""

from __future__ import annotations

import array
import logging
import os
import socket
from collections.abc import Callable
from typing import Protocol

from devmodel.errors import BrokenRing, FrontendError, StateError
from devmodel.vhost_user import actions as va
from devmodel.vhost_user.backend_channel import Answer
from devmodel.vhost_user.channel_socket import ChannelSocket, TimerLoop
from devmodel.vhost_user.eventfd import CallFd, KickFd
from devmodel.vhost_user.message import MAX_FDS, MessageReader
from devmodel.vhost_user.session import Session
from devmodel.vhost_user.transfer import Load, Save, Transfer, TransferLoop, check_descriptor
from devmodel.virtio.state import DeviceState

log = logging.getLogger(__name__)

_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
_MESSAGES_PER_TURN = 64


class Device(Protocol):
    """What a connection tells its device."""

    def ring_started(self, index: int) -> None: ...

    def ring_stopped(self, index: int) -> None: ...

    def ring_broken(self, index: int, error: BrokenRing) -> None: ...

    def ring_paused(self, index: int) -> None: ...

    def ring_resumed(self, index: int) -> None: ...

    def channel_closed(self, reason: str, finished: bool) -> None:
        """The back-end channel is gone, and all else goes on; `finished`: nobody did anything wrong."""

    def state_changed(self) -> None: ...

    def kicked(self, index: int) -> bool:
        """Look at the ring; whether there was anything to do."""

    def rarp(self, mac: bytes) -> None: ...

    def disconnected(self, error: FrontendError | None) -> None:
        """The session is over; None if the frontend closed it between two messages."""


def receive(sock: socket.socket, size: int) -> tuple[bytes, list[int], bool]:
    """Up to `size` bytes with their descriptors (close-on-exec), and whether the kernel dropped some. Never blocks."""
    data, ancillary, flags, _ = sock.recvmsg(size, _ANCILLARY, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    fds = array.array("i")
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
    return data, fds.tolist(), bool(flags & socket.MSG_CTRUNC)


class ConnectionLoop(TimerLoop, TransferLoop, Protocol):
    """The part of an asyncio event loop that a connection and what it owns use."""


class Connection:
    """Owns everything that came over one socket, and gives it all back in `close()`."""

    def __init__(self, loop: ConnectionLoop, sock: socket.socket, session: Session, device: Device) -> None:
        self.session = session
        self._loop = loop
        self._sock = sock
        self._device = device
        self._reader = MessageReader()
        rings = len(session.vrings)
        self._kicks: list[KickFd | None] = [None] * rings
        self._calls: list[CallFd | None] = [None] * rings
        self._errs: list[CallFd | None] = [None] * rings
        self._missed = [False] * rings
        self._channel: ChannelSocket | None = None
        self._log_fd: CallFd | None = None
        self._transfer: Transfer | None = None
        self._open = True
        self._actions: dict[type, Callable[..., None]] = {
            va.Reply: self._on_reply,
            va.CloseFd: lambda action: os.close(action.fd),
            va.KickFd: self._on_kick_fd,
            va.CallFd: self._on_call_fd,
            va.ErrFd: self._on_err_fd,
            va.LogFd: self._on_log_fd,
            va.Signal: self._on_signal,
            va.SaveState: self._on_transfer,
            va.LoadState: self._on_transfer,
            va.StopTransfer: lambda action: self._stop_transfer(),
            va.RingStarted: lambda action: device.ring_started(action.index),
            va.RingStopped: lambda action: device.ring_stopped(action.index),
            va.RingBroken: self._on_broken,
            va.RingPaused: lambda action: device.ring_paused(action.index),
            va.RingResumed: lambda action: device.ring_resumed(action.index),
            va.Kicked: self._on_kicked,
            va.ChannelFd: self._on_channel_fd,
            va.ChannelSend: self._on_channel_send,
            va.ChannelClosed: self._on_channel_closed,
            va.StateChanged: lambda action: device.state_changed(),
            va.Rarp: lambda action: device.rarp(action.mac),
            va.Disconnect: lambda action: self._end(action.error),
        }
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)

    # -- the socket -------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            if not self._open or not self._read_once():
                return

    def _read_once(self) -> bool:
        """Read what one message still lacks; False when nothing is there or the session ended."""
        try:
            data, fds, truncated = receive(self._sock, self._reader.wants)
        except BlockingIOError:
            return False
        except OSError:
            data, fds, truncated = b"", [], False
        if not data:
            idle = self._reader.idle
            error = None if idle else FrontendError("the frontend closed the socket inside a message")
            self._end(error)
            return False
        try:
            message = self._reader.feed(data, fds, truncated)
        except FrontendError as error:
            self._end(error)
            return False
        if message is not None:
            self.perform(self.session.handle(message))
        return True

    def hung_up(self) -> bool:
        """Whether the frontend has closed its end; if so the session is ended here and now."""
        try:
            if self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return False
        except BlockingIOError:
            return False
        except OSError:
            pass
        self._end(None)
        return True

    # -- actions ----------------------------------------------------------------------------------------

    def perform(self, actions: list[va.Action]) -> None:
        """Carry out a session's actions in order. The descriptors in them are taken over even at the end."""
        for action in actions:
            if self._open or isinstance(action, va.CloseFd):
                self._actions[type(action)](action)
            elif isinstance(action, va.ChannelFd):
                os.close(action.fd)

    def _on_reply(self, action: va.Reply) -> None:
        try:
            if action.fd is None:
                sent = self._sock.send(action.data, socket.MSG_NOSIGNAL)
            else:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [action.fd]))
                sent = self._sock.sendmsg([action.data], [rights], socket.MSG_NOSIGNAL)
        except OSError:
            sent = 0
        finally:
            if action.fd is not None:
                os.close(action.fd)
        if sent != len(action.data):
            self._end(FrontendError("the frontend does not read its replies"))

    def _on_kick_fd(self, action: va.KickFd) -> None:
        index = action.index
        old = self._kicks[index]
        if old is not None:
            old.close()
        self._kicks[index] = None
        if action.fd is not None:
            self._kicks[index] = KickFd(self._loop, action.fd, lambda: self._device.kicked(index))

    def _on_call_fd(self, action: va.CallFd) -> None:
        old = self._calls[action.index]
        if old is not None:
            old.close()
        self._calls[action.index] = None if action.fd is None else CallFd(action.fd)
        if action.fd is not None and self._missed[action.index]:
            self.signal(action.index)
        self._missed[action.index] = False

    def _on_kicked(self, action: va.Kicked) -> None:
        self._device.kicked(action.index)

    def _on_err_fd(self, action: va.ErrFd) -> None:
        old = self._errs[action.index]
        if old is not None:
            old.close()
        self._errs[action.index] = None if action.fd is None else CallFd(action.fd)

    def _on_signal(self, action: va.Signal) -> None:
        self.signal(action.index)

    def _on_log_fd(self, action: va.LogFd) -> None:
        if self._log_fd is not None:
            self._log_fd.close()
        self._log_fd = CallFd(action.fd)
        self.session.log.announce = self._log_fd.signal

    def _on_transfer(self, action: va.SaveState | va.LoadState) -> None:
        try:
            check_descriptor(action.fd)
        except StateError as error:
            os.close(action.fd)
            self._transferred(None, error)
            return
        if isinstance(action, va.SaveState):
            self._transfer = Save(self._loop, action.fd, self._transferred, action.data)
        else:
            self._transfer = Load(self._loop, action.fd, self._transferred)

    def _transferred(self, state: DeviceState | None, error: StateError | None) -> None:
        self._transfer = None
        actions = self.session.state_ended(state, error)
        if self.session.state.error is not None:
            log.warning("the device's state was not transferred: %s", self.session.state.error)
        self.perform(actions)

    def _stop_transfer(self) -> None:
        if self._transfer is not None:
            self._transfer.close()
            self._transfer = None

    def _on_broken(self, action: va.RingBroken) -> None:
        err = self._errs[action.index]
        if err is not None:
            err.signal()
        self._device.ring_broken(action.index, action.error)

    # -- the back-end channel ---------------------------------------------------------------------------

    def _on_channel_fd(self, action: va.ChannelFd) -> None:
        if self._channel is not None:
            self._channel.close()
        channel = action.channel

        def lost(reason: str) -> None:
            if self.session.channel is channel and not self.hung_up():
                self.perform(self.session.channel_lost(reason))

        made = ChannelSocket(self._loop, action.fd, channel, receive, self._heard, lost)
        self._channel = made
        if channel.closed:
            made.close()

    def _heard(self, answer: Answer) -> None:
        self.perform(self.session.channel_heard(answer))

    def _on_channel_send(self, action: va.ChannelSend) -> None:
        if self._channel is not None:
            self._channel.send(action.data)

    def _on_channel_closed(self, action: va.ChannelClosed) -> None:
        if self._channel is not None:
            self._channel.close()
        self._device.channel_closed(action.reason, action.finished)

    # -- for the device ---------------------------------------------------------------------------------

    def signal(self, index: int) -> bool:
        """Tell the ring's driver. Without a descriptor yet, it is told as soon as there is one, or by a message."""
        call = self._calls[index]
        if call is None:
            if actions := self.session.notify(index):
                self.perform(actions)
                return True
            self._missed[index] = True
            return False
        return call.signal()

    def kick_pending(self, index: int) -> bool:
        """A kick is on its way through the event loop."""
        kick = self._kicks[index]
        return kick is not None and kick.pending

    def _end(self, error: FrontendError | None) -> None:
        if self._open:
            self.close()
            self._device.disconnected(error)

    def close(self) -> None:
        """Stop all rings, unmap all memory, close all descriptors and the socket."""
        if not self._open:
            return
        self.perform(self.session.close())
        self._open = False
        if self._channel is not None:
            self._channel.close()
        self._stop_transfer()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for fd in self._reader.take_fds():
            os.close(fd)
        for owner in (*self._kicks, *self._calls, *self._errs, self._log_fd):
            if owner is not None:
                owner.close()
