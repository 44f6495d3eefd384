# SPDX-License-Identifier: GPL-2.0-or-later
"""The channel for the back end's own requests (VHOST_USER_SET_BACKEND_REQ_FD), as a state machine without I/O.

The frontend hands over one end of a socket pair; on it we ask and it answers, in the format of the main socket with the
roles exchanged. Requests are few: the IOMMU's misses, changes of configuration space, and with INBAND_NOTIFICATIONS
what otherwise goes through call and err descriptors.

    channel = BackendChannel(reply_ack)         with each SET_BACKEND_REQ_FD
    channel.request(...)                        bytes for the socket, or b""
    channel.feed(data)                          what came; the answers to requests, in their order
    channel.close(reason)                       whose answers are lost

States. Open, then closed, for one of these reasons, and never open again; the frontend may hand over another socket.

    the frontend closed it        at any time, also inside a message or with requests unanswered
    it broke the protocol         an answer that nobody waits for, to another request than the oldest one, of a wrong
                                  length or version, without the reply flag or with a descriptor: after that nobody can
                                  say which answer belongs to which request, and closing is the only way to agree again
    it did not answer in time     whoever runs the clock compares `oldest` REPLY_S later
    it does not read              the socket is full

What closed means. Data go on: rings, kicks and calls do not pass through here unless they are in-band. Requests that
were to come are dropped and counted; what waits for a translation waits for good (devmodel/vhost_user/iommu.py says
what becomes of its ring). The main socket stays open, since nothing was misunderstood there.

Answers are asked for with NEED_REPLY where REPLY_ACK allows it and the asker wants to know: misses, since an answer
that is not 0 says that no translation will come, and changes of configuration. In-band notifications are as frequent
as interrupts and want none. At most MAX_PENDING requests are unanswered at a time; a miss beyond that is not sent, and
asked for again when the ring is looked at the next time.

Neither side may wait for the other: while QEMU waits for our answer to a message on the main socket it does not serve
this one, and a back end that waited here would never answer there. Nothing in this package waits. A device that
is suspended, all of whose rings are stopped, sends nothing ("Suspended device state"); the session sees to that. QEMU
prints "Unexpected end-of-file before all data were read" when the channel is closed before the main socket
is, so it is closed with the session and not earlier.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from devmodel.errors import FrontendError
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.message import MessageReader

MAX_PENDING: Final = 64
REPLY_S: Final = 10.0
"""QEMU answers within a turn of its main loop; one that is held by a debugger for longer loses the channel."""


class BackendRequest(IntEnum):
    """ "Back-end message types", those that a network device sends."""

    VHOST_USER_BACKEND_IOTLB_MSG = 1
    VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2
    VHOST_USER_BACKEND_VRING_CALL = 4
    VHOST_USER_BACKEND_VRING_ERR = 5


class Answer(NamedTuple):
    """What a request came to: the `what` it was made with, and the frontend's number, 0 for success."""

    request: int
    what: int
    number: int


class _Pending(NamedTuple):
    serial: int
    request: int
    what: int


class BackendChannel:
    """See the module. `counters` are of one channel."""

    __slots__ = ("_pending", "_reader", "_reply_ack", "_serial", "closed", "counters", "finished")

    def __init__(self, reply_ack: bool) -> None:
        """`reply_ack`: VHOST_USER_PROTOCOL_F_REPLY_ACK was negotiated."""
        self.closed = ""  # why; "" while it is open
        self.finished = (
            False  # the frontend closed it with nothing begun and nothing unanswered, as it does at its end
        )
        self.counters = {"requests": 0, "answers": 0, "unsent": 0}
        self._reply_ack = reply_ack
        self._reader = MessageReader()
        self._pending: deque[_Pending] = deque()
        self._serial = 0

    # -- asking -----------------------------------------------------------------------------------------

    def request(self, request: int, payload: bytes = b"", what: int = 0, answered: bool = False) -> bytes:
        """The bytes of one request; b"" if it may not be sent, since the channel is closed or too much waits.

        `answered`: an Answer with this `what` will come, where REPLY_ACK allows it.
        """
        answered = answered and self._reply_ack
        if self.closed or (answered and len(self._pending) >= MAX_PENDING):
            self.counters["unsent"] += 1
            return b""
        flags = vu.VHOST_USER_VERSION
        if answered:
            flags |= vu.VHOST_USER_NEED_REPLY_MASK
            self._serial += 1
            self._pending.append(_Pending(self._serial, request, what))
        self.counters["requests"] += 1
        return vu.encode(request, payload, flags)

    @property
    def pending(self) -> int:
        """How many requests wait for their answer."""
        return len(self._pending)

    @property
    def oldest(self) -> int:
        """A number for the request that has waited longest, another one for each; 0 if none waits."""
        return self._pending[0].serial if self._pending else 0

    # -- hearing ----------------------------------------------------------------------------------------

    @property
    def wants(self) -> int:
        """How many bytes to read next, at most."""
        return self._reader.wants

    def feed(self, data: bytes, fds: Sequence[int] = (), truncated: bool = False) -> Answer | None:
        """What was read, b"" for the end of the stream; the answer that it completes. FrontendError: close it.

        The descriptors stay the caller's, who has to close them: no answer has any.
        """
        if not data:
            where = "between two messages" if self._reader.idle else "inside a message"
            self.finished = self._reader.idle and not self._pending
            raise FrontendError(f"the frontend closed the back-end channel {where}", self._unanswered())
        if fds or truncated:
            raise FrontendError("a descriptor came over the back-end channel", f"{len(fds)} of them")
        message = self._reader.feed(data)
        return None if message is None else self._take(message)

    def _take(self, message: vu.Message) -> Answer:
        if message.flags & ~vu.VHOST_USER_NEED_REPLY_MASK != vu.VHOST_USER_VERSION | vu.VHOST_USER_REPLY_MASK:
            raise FrontendError(
                "what came over the back-end channel is no reply",
                f"request {message.request}, flags {message.flags:#x}",
            )
        if not self._pending:
            raise FrontendError(
                "a reply that nobody waits for on the back-end channel", f"to {message.request}"
            )
        due = self._pending[0]
        if message.request != due.request or len(message.payload) != vu.U64.size:
            raise FrontendError(
                f"the reply on the back-end channel is none to request {due.request}",
                f"it is to {message.request}, with {len(message.payload)} bytes",
            )
        self._pending.popleft()
        self.counters["answers"] += 1
        return Answer(due.request, due.what, int(vu.U64.unpack(message.payload)[0]))

    # -- the end ----------------------------------------------------------------------------------------

    def _unanswered(self) -> str:
        return f"{len(self._pending)} requests were not answered"

    def close(self, reason: str) -> list[Answer]:
        """Nothing more is sent or heard; the requests whose answer is lost, with a number of -1. Once."""
        if self.closed:
            return []
        self.closed = reason
        lost = [Answer(pending.request, pending.what, -1) for pending in self._pending]
        self._pending.clear()
        return lost


def iotlb_message(iova: int, size: int, uva: int, access: int, kind: int) -> bytes:
    """The payload of an IOTLB message, of either direction."""
    return vu.IOTLB.pack(iova, size, uva, access, kind).ljust(vu.IOTLB_SIZE, b"\0")
