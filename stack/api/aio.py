# SPDX-License-Identifier: GPL-2.0-or-later
"""asyncio over a Stack: transports, servers and datagram endpoints for unchanged asyncio protocols.

Theory of operation
-------------------
A ``Runner`` joins one Stack to one event loop.  There are three ways in:

- the host gives the waiting frames to ``Stack.netif_rx`` and then calls ``Runner.batch_done``;
- the loop's one timer, armed for ``Stack.next_deadline``, calls ``Stack.run_timers``;
- an application's task calls a transport (write, close, resume_reading).

Inside the stack a socket that becomes ready only queues its transport.  At the end of each of the three the Runner
works that queue off: it accepts, reads and calls protocols right there, without a turn of the loop, so that one
read acknowledges a whole batch of segments and an answer written from ``data_received`` leaves with it.  Then it
re-arms the timer if the next deadline is earlier than the armed one (one that is too early finds nothing to do and
arms anew), and calls ``flush``, which publishes the frames that were sent.  What a task does outside of a batch is
followed by one such round at the next turn of the loop.

What protocols see is asyncio's: ``connection_made``, then ``data_received`` or the BufferedProtocol calls, at most
one ``eof_received`` whose result decides whether the transport stays open, ``pause_writing`` and ``resume_writing`` by
the water marks, and ``connection_lost`` exactly once, never from inside a call of the transport.  A paused transport
does not read, so TCP's window closes.  What the socket's send buffer does not take waits in user space.

A connection of a frozen stack goes on in another process: ``transport.freeze`` tells what lies in user space,
``create_server`` takes the thawed listening socket, and ``Server.adopt`` the connection with a protocol that knows
where it was.  What lies in a protocol, and a TLS session, are the application's to keep.

Limits: a read joins at most 256 KiB (MAX_READ); a round works at most 64 generations of the queue (MAX_ROUNDS) before
the loop gets its turn; write buffers are bounded by the protocol's obedience to ``pause_writing``, as in asyncio.

Departures from asyncio's own transports: the descriptor is closed before ``connection_lost`` is called (the FIN leaves
together with the last data), and ``abort`` with unsent data resets the connection, so that a peer never takes a
truncated stream for a whole one.  TLS is asyncio's own (``asyncio.sslproto``), by ``create_server(ssl=...)`` or
``loop.start_tls``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
import time
from asyncio import constants, sslproto, transports
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from stack.api.bsd import (
    AF_INET,
    AF_INET6,
    SOCK_DGRAM,
    Address,
    Socket,
    address_of,
    local_address,
    oserror,
    remote_address,
    sockaddr_of,
)
from stack.clock import NSEC_PER_SEC
from stack.include.ip import IPPROTO_TCP
from stack.include.ipv6 import IPV6_V6ONLY
from stack.include.net import MSG_PEEK, MSG_WAITALL, sockaddr
from stack.include.sk_buff import Buffer
from stack.include.sock import RCV_SHUTDOWN
from stack.net import socket as net_socket
from stack.net.core import sock as core_sock
from stack.net.ipv4 import proc, tcp
from stack.net.ipv6.ipv6_sockglue import SOL_IPV6
from stack.stack import Stack

logger = logging.getLogger("stack.api.aio")

MAX_READ = 256 * 1024
MAX_DATAGRAM = 65536
MAX_ROUNDS = 64
JOIN_BELOW = 16 * 1024  # writelines joins what is shorter: one copy is cheaper than several packets
ACCEPT_RETRY_S = 1.0  # after accept failed for want of descriptors; asyncio's own figure
TCP_NODELAY, TCP_FASTOPEN_CONNECT = 1, 30
_EAGAIN = -errno.EAGAIN
_NO_LINGER = b"\1\0\0\0\0\0\0\0"  # struct linger {1, 0}: close resets

ProtocolFactory = Callable[[], asyncio.BaseProtocol]
_T = TypeVar("_T")


class MonotonicClock:
    """The machine's clock: CLOCK_MONOTONIC, the same that asyncio's ``loop.time`` shows in seconds."""

    offset_ns = 0
    now_ns = staticmethod(time.monotonic_ns)
    real_ns = staticmethod(time.time_ns)


class ResumedClock:
    """The machine's clock for a thawed stack: it goes on from what the frozen one showed, ``offset_ns`` behind
    CLOCK_MONOTONIC.  So no timer has run out meanwhile, however long the stack was a file."""

    __slots__ = ("offset_ns",)

    def __init__(self, frozen_ns: int) -> None:
        self.offset_ns = time.monotonic_ns() - frozen_ns

    def now_ns(self) -> int:
        return time.monotonic_ns() - self.offset_ns

    def real_ns(self) -> int:
        return time.time_ns()


class SystemRng:
    """The machine's random numbers, fetched 4 KiB at a time: a system call per number would cost more than the rest of
    a SYN's look-up."""

    __slots__ = ("_at", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def get_random_bytes(self, nbytes: int) -> bytes:
        end = self._at + nbytes
        if end > len(self._pool):
            self._pool = os.urandom(max(4096, nbytes))
            self._at, end = 0, nbytes
        got = self._pool[self._at : end]
        self._at = end
        return got

    def get_random_u32(self) -> int:
        return int.from_bytes(self.get_random_bytes(4), "big")

    def get_random_u32_below(self, ceil: int) -> int:
        if ceil <= 0:
            raise ValueError(f"the range 0 <= n < {ceil} is empty")
        nbytes = (ceil.bit_length() + 15) // 8
        limit = (1 << 8 * nbytes) // ceil * ceil
        while (value := int.from_bytes(self.get_random_bytes(nbytes), "big")) >= limit:
            pass
        return value % ceil


class StackCalls(Protocol):
    """What a Runner calls on a Stack."""

    def rx_done(self) -> None: ...

    def run_timers(self, now_ns: int | None = None) -> int: ...

    def next_deadline(self) -> int | None: ...


# -- the runner ------------------------------------------------------------------------------------------------------


class Runner:
    """Joins a Stack to an event loop (the running one unless given).

    ``calls`` is who takes the runner's calls: the stack itself, or a recorder in front of it (stack.freeze.record).
    ``flush`` is called at the end of every round outside ``batch_done`` (the port flushes after that by itself).
    ``timers`` False leaves time to the caller, who then calls ``run_timers``: a Stack with a ManualClock needs that,
    and it is the default for every clock but MonotonicClock and ResumedClock.
    """

    def __init__(
        self,
        stack: Stack,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        flush: Callable[[], None] | None = None,
        timers: bool | None = None,
    ) -> None:
        self.stack = stack
        self.calls: StackCalls = stack
        self.loop = loop if loop is not None else asyncio.get_running_loop()
        self.flush = flush
        self.in_batch = False
        clock = stack.clock
        self._offset_ns = clock.offset_ns if isinstance(clock, MonotonicClock | ResumedClock) else 0
        self._timers = isinstance(clock, MonotonicClock | ResumedClock) if timers is None else timers
        self._work: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._closed = False

    # -- ways in ---------------------------------------------------------------------------------------------------

    def batch_begin(self) -> None:
        """Frames are about to come: what they make ready waits for batch_done.  Without this call it does too, but the
        loop is also asked for a turn."""
        self.in_batch = True

    def batch_done(self) -> None:
        """All waiting frames were given to the stack: accept, read and answer now."""
        self._round()
        self._arm_timer()

    def run_timers(self) -> None:
        """Fire what is due by the stack's clock, and let applications react."""
        self.in_batch = True
        try:
            self.calls.run_timers()
        finally:
            self._drain()

    def close(self) -> None:
        """A last round, so that what was closed says so to its peers; then no timer and no round any more."""
        if self._closed:
            return
        self._drain()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._work.clear()

    # -- for transports --------------------------------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Call that in this round, or in one at the loop's next turn."""
        self._work.append(call)
        if not self.in_batch:
            self.touch()

    def touch(self) -> None:
        """The stack was called from outside of a batch: make sure that a round follows."""
        if not self.in_batch and not self._scheduled and not self._closed:
            self._scheduled = True
            self.loop.call_soon(self._drain)

    # -- rounds ----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        self._scheduled = False
        if self._closed:
            self.in_batch = False
            return
        self._round()
        if self.flush is not None:
            self.flush()
        self._arm_timer()

    def _round(self) -> None:
        self.in_batch = True
        try:
            self.calls.rx_done()
            self._work_off()
        finally:
            self.in_batch = False
        if self._work:
            self.touch()

    def _work_off(self) -> None:
        work = self._work
        for _ in range(MAX_ROUNDS):
            for _ in range(len(work)):
                self._call(work.popleft())
            if not work:
                return

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.loop.call_exception_handler({"message": f"exception in {call!r}", "exception": exc})

    def _arm_timer(self) -> None:
        if not self._timers or self._closed:
            return
        deadline = self.calls.next_deadline()
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_ns <= deadline:
                return
            self._timer.cancel()
        self._timer_ns = deadline
        self._timer = self.loop.call_at((deadline + self._offset_ns) / NSEC_PER_SEC, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.run_timers()


# -- what stream and datagram transports share -----------------------------------------------------------------------


class _StackTransport(transports._FlowControlMixin):
    """Life of a transport: open, closing (data still to send), lost (connection_lost is due or done)."""

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self, runner: Runner, socket: Socket, protocol: asyncio.BaseProtocol, extra: dict[str, Any]
    ) -> None:
        super().__init__(extra, runner.loop)
        self._runner = runner
        self._socket = socket
        self._sock = socket.sock
        self._sk: Any = socket.sk
        self._buffer: deque[Any] = deque()
        self._buffer_size = 0
        self._closing = False
        self._lost = False
        self._conn_lost = 0
        self._paused = False
        self._queued = False
        self._server: Server | None = None
        self.set_protocol(protocol)

    def __repr__(self) -> str:
        state = "closed" if self._lost else "closing" if self._closing else "open"
        extra = self._extra  # type: ignore[attr-defined]
        return f"<{type(self).__name__} {state} {extra.get('sockname')} <- {extra.get('peername')}>"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol: Any = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes that wait in user space; the socket's send buffer is not counted."""
        return self._buffer_size

    def start(self) -> None:
        """connection_made, then whatever is there already."""
        self._sk.sk_wq.append(self._wake)
        try:
            self._protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(exc, "protocol.connection_made() failed")
        if self._buffer:
            self._maybe_pause_protocol()  # type: ignore[attr-defined]
        self._schedule()

    def _wake(self, sk: Any, mask: int) -> None:
        if not self._queued:
            self._queued = True
            self._runner.post(self._process)

    def _schedule(self) -> None:
        self._wake(self._sk, 0)

    def _process(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """No more reading; connection_lost(None) follows once the buffer is empty."""
        if self._closing:
            return
        self._closing = True
        if not self._buffer:
            self._finish(None)

    def abort(self) -> None:
        """Close now; what waits in the buffer is thrown away, and the peer is told by a reset."""
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._lost:
            return
        self._closing = True
        if self._buffer:
            self._discard_buffer()
        self._finish(exc)

    def _discard_buffer(self) -> None:
        self._buffer.clear()
        self._buffer_size = 0

    def _finish(self, exc: BaseException | None) -> None:
        """Close the socket at once, and post connection_lost."""
        self._lost = True
        self._conn_lost += 1
        if self._wake in self._sk.sk_wq:
            self._sk.sk_wq.remove(self._wake)
        self._socket.close()
        self._runner.post(partial(self._connection_lost, exc))

    def _connection_lost(self, exc: BaseException | None) -> None:
        protocol, self._protocol = self._protocol, None
        try:
            protocol.connection_lost(exc)
        finally:
            if self._server is not None:
                self._server._detach(self)
                self._server = None

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        """What the peer or the network did ends the transport quietly; a bug in the protocol is reported."""
        if not isinstance(exc, OSError):
            self._report(exc, message)
        elif self._loop.get_debug():
            logger.debug("%r: %s", self, message, exc_info=exc)
        self._force_close(exc)

    def _report(self, exc: BaseException, message: str) -> None:
        context = {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)


# -- streams -----------------------------------------------------------------------------------------------------------


class StackStreamTransport(_StackTransport):
    """A TCP connection as an asyncio.Transport.

    ``get_extra_info`` knows 'peername', 'sockname', 'socket' (a stack.api.bsd.Socket), 'tcp_info' (what TCP_INFO
    says now, None once closed) and 'proc_net' (the stack's files of /proc/net by name, as text)."""

    _start_tls_compatible = True
    _sendfile_compatible = (
        constants._SendfileMode.FALLBACK
    )  # loop.sendfile reads and writes, it has no descriptor

    def __init__(
        self, runner: Runner, socket: Socket, protocol: asyncio.BaseProtocol, extra: dict[str, Any]
    ) -> None:
        super().__init__(runner, socket, protocol, extra)
        self._eof = False  # write_eof was called
        self._eof_received = False

    def freeze(self) -> dict[str, Any]:
        """What ``Server.adopt`` takes up again: the descriptor and what waits in user space, of a stack that is frozen
        at this moment.  What lies in a protocol is the application's to keep."""
        return {
            "fd": self._socket.fileno(),
            "buffer": b"".join(self._buffer).hex(),
            "closing": self._closing,
            "eof": self._eof,
            "eof_received": self._eof_received,
        }

    def _thaw(self, state: dict[str, Any]) -> None:
        """Before ``start``."""
        buffer = bytes.fromhex(state["buffer"])
        if buffer:
            self._buffer.append(buffer)
            self._buffer_size = len(buffer)
        self._eof, self._eof_received = bool(state["eof"]), bool(state["eof_received"])

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "tcp_info":
            return default if self._lost else tcp.tcp_get_info(self._sk)
        if name == "proc_net":
            return proc.proc_net(self._sk.sk_net)
        return super().get_extra_info(name, default)

    def _process(self) -> None:
        """The socket may be readable, writable or broken."""
        self._queued = False
        if self._lost:
            return
        if self._buffer:
            self._feed()
        if not (self._paused or self._closing or self._eof_received):
            self._read_ready()

    # -- reading ---------------------------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Leave data in the socket: the window closes when its buffer is full."""
        if not self._closing:
            self._paused = True

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        self._schedule()

    def _read_ready(self) -> None:
        sk = self._sk
        while True:
            if self._buffered:
                if not self._read_into_buffer():
                    return
            elif not self._read_bytes():
                return
            if self._paused or self._closing:
                return
            if not (sk.sk_receive_queue or sk.sk_shutdown & RCV_SHUTDOWN or sk.sk_err):
                return

    def _recv(self, size: int) -> bytes | None:
        """Data, or None if there is none now or ever; the end and errors are dealt with here."""
        data = self._sock.ops.recvmsg(self._sock, size, 0)
        if isinstance(data, int):
            if data != _EAGAIN:
                self._fatal_error(oserror(data, "recv"))
            return None
        if not data:
            self._read_eof()
            return None
        return data  # type: ignore[no-any-return]

    def _read_bytes(self) -> bool:
        data = self._recv(MAX_READ)
        if data is None:
            return False
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")
        return True

    def _read_into_buffer(self) -> bool:
        protocol = self._protocol
        try:
            view = memoryview(protocol.get_buffer(-1)).cast("B")
            if not len(view):
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return False
        data = self._recv(min(len(view), MAX_READ))
        if data is None:
            return False
        view[: len(data)] = data
        try:
            protocol.buffer_updated(len(data))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")
        return True

    def _read_eof(self) -> None:
        self._eof_received = True
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """Send, or keep what the socket does not take.  ``bytes`` are never copied; RuntimeError after write_eof."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data:
            return
        if self._conn_lost:
            self._count_lost_write()
            return
        sent = 0
        if not self._buffer:
            sent = self._sock.ops.sendmsg(self._sock, data, 0, None)
            if not self._runner.in_batch:
                self._runner.touch()
            if sent == len(data):
                return
            if sent < 0:
                if sent != _EAGAIN:
                    self._fatal_error(oserror(sent, "send"))
                    return
                sent = 0
        self._keep(data, sent)

    def _count_lost_write(self) -> None:
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("%r: write after the connection was lost", self)
        self._conn_lost += 1

    def _keep(self, data: Buffer, start: int) -> None:
        """Queue data[start:] in user space."""
        rest: Buffer = memoryview(data).cast("B")[start:] if start or not isinstance(data, bytes) else data
        if not isinstance(data, bytes):
            rest = bytes(rest)
        self._buffer.append(rest)
        self._buffer_size += len(rest)
        self._maybe_pause_protocol()  # type: ignore[attr-defined]

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        pieces = list(list_of_data)
        if sum(map(len, pieces)) <= JOIN_BELOW:
            self.write(b"".join(pieces))
        else:
            for piece in pieces:
                self.write(piece)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send FIN after what was written; reading goes on."""
        if self._closing or self._eof:
            return
        self._eof = True
        if not self._buffer:
            self._shutdown_write()

    def _shutdown_write(self) -> None:
        try:
            self._socket.shutdown(1)
        except OSError as exc:
            self._fatal_error(exc, "Fatal error: shutdown of the sending side failed")
        self._runner.touch()

    def _feed(self) -> None:
        """Room in the send buffer: give it what waits in user space."""
        buffer, sock = self._buffer, self._sock
        while buffer:
            piece = buffer[0]
            sent = sock.ops.sendmsg(sock, piece, 0, None)
            if sent < 0:
                if sent != _EAGAIN:
                    self._fatal_error(oserror(sent, "send"))
                    return
                break
            self._buffer_size -= sent
            if sent < len(piece):
                buffer[0] = memoryview(piece)[sent:]
            else:
                buffer.popleft()
        self._maybe_resume_protocol()  # type: ignore[attr-defined]
        if not buffer and not self._lost:
            self._drained()

    def _drained(self) -> None:
        if self._closing:
            self._finish(None)
        elif self._eof:
            self._shutdown_write()

    def _discard_buffer(self) -> None:
        super()._discard_buffer()
        self._socket.setsockopt(core_sock.SOL_SOCKET, core_sock.SO_LINGER, _NO_LINGER)


# -- servers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tls:
    """What a listener needs to speak TLS: what create_server was given."""

    context: ssl.SSLContext
    handshake_timeout: float | None
    shutdown_timeout: float | None

    def protocol(self, loop: asyncio.AbstractEventLoop, inner: asyncio.BaseProtocol) -> asyncio.BaseProtocol:
        """asyncio's TLS between the transport and ``inner``, which sees a transport of its own after the handshake."""
        return sslproto.SSLProtocol(
            loop,
            inner,
            self.context,
            waiter=None,  # type: ignore[arg-type]
            server_side=True,
            ssl_handshake_timeout=self.handshake_timeout,  # type: ignore[arg-type]
            ssl_shutdown_timeout=self.shutdown_timeout,
        )


def _tls(
    context: ssl.SSLContext | None, handshake_timeout: float | None, shutdown_timeout: float | None
) -> _Tls | None:
    if context is None:
        if handshake_timeout is not None or shutdown_timeout is not None:
            raise ValueError("ssl_handshake_timeout and ssl_shutdown_timeout are only meaningful with ssl")
        return None
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl argument must be an SSLContext or None, not {context!r}")
    return _Tls(context, handshake_timeout, shutdown_timeout)


class Server(asyncio.AbstractServer):
    """Listening sockets and the connections that came from them; asyncio.Server's interface.

    ``wait_closed`` waits for close() and for the end of all connections (asyncio does so from 3.12.1 on)."""

    def __init__(
        self,
        runner: Runner,
        sockets: Sequence[Socket],
        protocol_factory: ProtocolFactory,
        backlog: int,
        tls: _Tls | None = None,
    ) -> None:
        self._runner = runner
        self._sockets: tuple[Socket, ...] | None = tuple(sockets)
        self._protocol_factory = protocol_factory
        self._backlog = backlog
        self._tls = tls
        self._transports: set[_StackTransport] = set()
        self._serving = False
        self._accepting: set[Socket] = set()  # whose _accept is posted
        self._waiters: list[asyncio.Future[None]] = []
        self._forever: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    @property
    def sockets(self) -> tuple[Socket, ...]:
        """The listening sockets; none after close()."""
        return self._sockets or ()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._runner.loop

    def is_serving(self) -> bool:
        return self._serving

    async def start_serving(self) -> None:
        self._listen()

    def _listen(self) -> None:
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        if self._serving:
            return
        self._serving = True
        for sock in self._sockets:
            sock.on_event = self._on_event
            sock.listen(self._backlog)
            self._on_event(
                sock, 0
            )  # a socket that listened before, as a thawed one, may have connections waiting

    def _on_event(self, sock: Socket, mask: int) -> None:
        if sock not in self._accepting:
            self._accepting.add(sock)
            self._runner.post(partial(self._accept, sock))

    def _accept(self, sock: Socket) -> None:
        """Take all connections that wait."""
        self._accepting.discard(sock)
        stack = self._runner.stack
        queue = sock.sk.icsk_accept_queue  # type: ignore[attr-defined]
        while self._serving and queue.rskq_accept_head:
            fd = net_socket.sys_accept4(stack, sock.fileno())
            if fd < 0:
                if fd != _EAGAIN:
                    self._accept_failed(sock, oserror(fd, "accept"))
                return
            self._start_connection(Socket(stack, fd=fd))

    def _accept_failed(self, sock: Socket, exc: OSError) -> None:
        """Out of descriptors: report it, and try again later, as connections go on waiting."""
        loop = self._runner.loop
        loop.call_exception_handler({"message": "accept failed", "exception": exc, "socket": sock})
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            loop.call_later(ACCEPT_RETRY_S, self._on_event, sock, 0)

    @property
    def transports(self) -> tuple[_StackTransport, ...]:
        """Those of the connections that are open."""
        return tuple(self._transports)

    def adopt(self, state: dict[str, Any], protocol: asyncio.BaseProtocol) -> StackStreamTransport:
        """Go on with a connection of a thawed stack, from what its transport's ``freeze`` said.  The protocol sees it
        made and then, if that was so, its writing paused; reading is not paused, and the end of what the peer sent is
        not told twice.  KeyError,
        TypeError or ValueError if that is no such state, OSError for a descriptor that is no connection."""
        conn = Socket(self._runner.stack, fd=state["fd"])
        conn.getpeername()
        transport = self._transport(conn, protocol)
        transport._thaw(state)
        transport.start()
        if state["closing"]:
            transport.close()
        return transport

    def _transport(self, conn: Socket, protocol: asyncio.BaseProtocol) -> StackStreamTransport:
        sk: Any = conn.sk
        extra = {
            "socket": conn,
            "sockname": local_address(sk),
            "peername": remote_address(sk),
        }
        transport = StackStreamTransport(self._runner, conn, protocol, extra)
        transport._server = self
        self._transports.add(transport)
        return transport

    def _start_connection(self, conn: Socket) -> None:
        try:
            protocol = self._protocol_factory()
            if self._tls is not None:
                protocol = self._tls.protocol(self._runner.loop, protocol)
        except Exception as exc:
            conn.close()
            context = {"message": "protocol_factory() failed", "exception": exc, "socket": conn}
            self._runner.loop.call_exception_handler(context)
            return
        self._transport(conn, protocol).start()

    def _detach(self, transport: _StackTransport) -> None:
        self._transports.discard(transport)
        if self._sockets is None and not self._transports:
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Stop listening; connections that nobody accepted are reset, those that run go on."""
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        self._serving = False
        for sock in sockets:
            sock.close()
        self._runner.touch()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        if not self._transports:
            self._wake_waiters()

    def close_clients(self) -> None:
        """close() every connection."""
        for transport in tuple(self._transports):
            transport.close()

    def abort_clients(self) -> None:
        """abort() every connection."""
        for transport in tuple(self._transports):
            transport.abort()

    async def wait_closed(self) -> None:
        if self._sockets is None and not self._transports:
            return
        waiter: asyncio.Future[None] = self._runner.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    async def serve_forever(self) -> None:
        """Serve until cancelled or closed, then close; RuntimeError if that runs already."""
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        self._listen()
        self._forever = self._runner.loop.create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()


def _hosts(host: str | Sequence[str] | None) -> list[str]:
    if host is None or host == "":
        return ["0.0.0.0"]
    return [host] if isinstance(host, str) else list(host)


def _family(host: str) -> int:
    return AF_INET6 if ":" in host else AF_INET


def _listening_socket(stack: Stack, address: Address, reuse_address: bool, reuse_port: bool) -> Socket:
    sock = Socket(stack, _family(address[0]))
    try:
        if sock.family == AF_INET6:
            sock.setsockopt(SOL_IPV6, IPV6_V6ONLY, 1)  # as asyncio: one socket per family, no overlap
        if reuse_address:
            sock.setsockopt(core_sock.SOL_SOCKET, core_sock.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(core_sock.SOL_SOCKET, core_sock.SO_REUSEPORT, 1)
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)  # inherited by connections: asyncio sets it on each
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


async def create_server(
    runner: Runner,
    protocol_factory: ProtocolFactory,
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    sock: Socket | None = None,
    backlog: int = 100,
    reuse_address: bool = True,
    reuse_port: bool = False,
    start_serving: bool = True,
    ssl: ssl.SSLContext | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> Server:
    """loop.create_server on a Stack: a protocol of ``protocol_factory`` for each connection.

    ``host`` is an address of the stack, several, or None for all of IPv4; "::" means all of IPv6 alone, as with asyncio
    (for both families in one socket pass a ``sock`` of AF_INET6 that is bound to "::").  ``sock`` is a bound socket
    instead.  With ``ssl`` connections speak TLS, as with asyncio.  OSError with the errno of bind or listen if the
    address is taken or not the stack's."""
    tls = _tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
    sockets = [sock] if sock is not None else []
    try:
        if sock is None:
            for one in _hosts(host):
                sockets.append(_listening_socket(runner.stack, (one, port), reuse_address, reuse_port))
        server = Server(runner, sockets, protocol_factory, backlog, tls)
        if start_serving:
            await server.start_serving()
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    return server


async def start_server(
    runner: Runner,
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    limit: int = 2**16,
    **options: Any,
) -> Server:
    """asyncio.start_server on a Stack: a task of ``client_connected_cb(reader, writer)`` for each connection.
    ``limit`` bounds the reader's buffer; the other options are create_server's."""

    def factory() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=runner.loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=runner.loop)

    return await create_server(runner, factory, host, port, **options)


# -- clients -----------------------------------------------------------------------------------------------------------


async def sock_connect(runner: Runner, sock: Socket, address: Address) -> None:
    """loop.sock_connect on a Stack: wait until a stream socket is connected, one on which connect() was called before
    too; OSError says why it is not.  There is no time limit but TCP's own (tcp_syn_retries, about two minutes): use
    asyncio.timeout or asyncio.wait_for."""
    done: asyncio.Future[None] = runner.loop.create_future()

    def look() -> None:
        if done.done():
            return
        err = sock.connect_ex(address)
        if err == errno.EALREADY:
            return
        if err:
            done.set_exception(oserror(err, f"connect to {address[0]}:{address[1]}"))
        else:
            done.set_result(None)

    err = sock.connect_ex(address)
    if err in (errno.EINPROGRESS, errno.EALREADY):
        sock.on_event = lambda _sock, _mask: runner.post(look)
        runner.touch()
        try:
            await done
        finally:
            sock.on_event = None
    elif err:
        raise oserror(err, f"connect to {address[0]}:{address[1]}")


async def create_connection(
    runner: Runner,
    protocol_factory: Callable[[], _T],
    host: str | None = None,
    port: int = 0,
    *,
    sock: Socket | None = None,
    local_addr: Address | None = None,
    fastopen: bool = False,
) -> tuple[StackStreamTransport, _T]:
    """loop.create_connection on a Stack: connect to an address, then start the protocol on it.

    ``local_addr`` is where it comes from; ``sock`` is a connected socket instead of ``host`` and ``port``.  OSError:
    ConnectionRefusedError, TimeoutError, EHOSTUNREACH, ENETUNREACH and what bind() has; ValueError for neither an
    address nor a socket.

    ``fastopen`` is for protocols that speak first: once the server has given a Fast Open cookie (RFC 7413), later
    connections start at once, and the SYN leaves with the first write, which it carries.  If the server is gone,
    ``connection_lost`` says why, not this call; where nothing is written, nothing is sent."""
    if sock is None:
        if host is None:
            raise ValueError("create_connection needs a host or a connected sock")
        sock = Socket(runner.stack, _family(host))
        try:
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            if fastopen:
                sock.setsockopt(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            if local_addr is not None:
                sock.bind(local_addr)
            await sock_connect(runner, sock, (host, port))
        except BaseException:
            sock.close()
            runner.touch()
            raise
    protocol = protocol_factory()
    extra = {"socket": sock, "sockname": local_address(sock.sk), "peername": remote_address(sock.sk)}
    assert isinstance(protocol, asyncio.BaseProtocol)
    transport = StackStreamTransport(runner, sock, protocol, extra)
    transport.start()
    return transport, protocol


async def open_connection(
    runner: Runner, host: str, port: int, *, limit: int = 2**16, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """asyncio.open_connection on a Stack.  ``limit`` bounds the reader's buffer; the other options are
    create_connection's."""
    reader = asyncio.StreamReader(limit=limit, loop=runner.loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=runner.loop)
    transport, _ = await create_connection(runner, lambda: protocol, host, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, runner.loop)


# -- plain sockets ---------------------------------------------------------------------------------------------------


async def _until_done(runner: Runner, sock: Socket, call: Callable[[], _T]) -> _T:
    """Make a socket call until it does not raise BlockingIOError, waiting for the socket's wake-ups in between."""
    while True:
        try:
            return call()
        except BlockingIOError:
            pass
        finally:
            runner.touch()
        await _wake_up(runner, sock)


async def _wake_up(runner: Runner, sock: Socket) -> None:
    woken: asyncio.Future[None] = runner.loop.create_future()

    def wake(sk: Any, mask: int) -> None:
        if not woken.done():
            woken.set_result(None)

    waiters = sock.sk.sk_wq
    waiters.append(wake)
    try:
        await woken
    finally:
        if wake in waiters:
            waiters.remove(wake)


async def sock_recv(runner: Runner, sock: Socket, n: int, flags: int = 0) -> bytes:
    """loop.sock_recv on a Stack: at most ``n`` bytes, at least one unless the stream is over; with MSG_WAITALL all
    ``n``, or what there was when the stream ended or broke, as a blocking recv() has it."""
    if not flags & MSG_WAITALL or flags & MSG_PEEK:
        return await _until_done(runner, sock, lambda: sock.recv(n, flags))
    got = bytearray()
    while len(got) < n:
        try:
            piece = await _until_done(runner, sock, partial(sock.recv, n - len(got), flags))
        except OSError:
            if not got:
                raise
            break
        if not piece:
            break
        got += piece
    return bytes(got)


async def sock_recv_into(runner: Runner, sock: Socket, buffer: bytearray | memoryview) -> int:
    """loop.sock_recv_into on a Stack."""
    return await _until_done(runner, sock, lambda: sock.recv_into(buffer))


async def sock_recvfrom(runner: Runner, sock: Socket, bufsize: int) -> tuple[bytes, Address | None]:
    """loop.sock_recvfrom on a Stack."""
    return await _until_done(runner, sock, lambda: sock.recvfrom(bufsize))


async def sock_sendall(runner: Runner, sock: Socket, data: Buffer) -> None:
    """loop.sock_sendall on a Stack: returns when the socket has taken all of it."""
    rest = memoryview(data).cast("B")
    while rest:
        sent = await _until_done(runner, sock, partial(sock.send, rest))
        rest = rest[sent:]


async def sock_sendto(runner: Runner, sock: Socket, data: Buffer, address: Address) -> int:
    """loop.sock_sendto on a Stack."""
    return await _until_done(runner, sock, lambda: sock.sendto(data, address))


async def sock_accept(runner: Runner, sock: Socket) -> tuple[Socket, Address]:
    """loop.sock_accept on a Stack."""
    return await _until_done(runner, sock, sock.accept)


# -- datagrams ---------------------------------------------------------------------------------------------------------


class StackDatagramTransport(_StackTransport, asyncio.DatagramTransport):
    """A UDP socket as an asyncio.DatagramTransport."""

    def _process(self) -> None:
        self._queued = False
        if self._buffer and not self._lost:
            self._feed()
        while not self._closing:
            got = self._sock.ops.recvmsg(self._sock, MAX_DATAGRAM, 0)
            if isinstance(got, int):
                if got == _EAGAIN:
                    return
                self._protocol.error_received(oserror(got, "recvfrom"))
                continue
            self._received(bytes(got[0]), address_of(got[1]))

    def _received(self, data: bytes, address: Address) -> None:
        """As asyncio: a datagram that the protocol stumbles over is reported, the endpoint goes on."""
        try:
            self._protocol.datagram_received(data, address)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(exc, "protocol.datagram_received() failed")

    def sendto(self, data: Buffer, addr: Any = None) -> None:
        """One datagram to ``addr``; what the network refuses comes back through error_received."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if addr is None and not self._sk.sk_dport:
            raise ValueError("a datagram needs an address: this endpoint has no remote_addr")
        if self._conn_lost:
            self._conn_lost += 1
            return
        to = None if addr is None else sockaddr_of(self._runner.stack, self._socket.family, addr)
        packet = (bytes(data), to)
        if not self._buffer and self._send(*packet):
            return
        self._buffer.append(packet)
        self._buffer_size += len(packet[0])
        self._maybe_pause_protocol()  # type: ignore[attr-defined]

    def _send(self, data: bytes, address: sockaddr | None) -> bool:
        """Whether the socket took or refused it; False: no room now."""
        sent = self._sock.ops.sendmsg(self._sock, data, 0, address)
        self._runner.touch()
        if sent == _EAGAIN:
            return False
        if sent < 0:
            host, port, *_ = remote_address(self._sk) if address is None else address_of(address)
            self._protocol.error_received(oserror(sent, f"sendto {host}:{port}"))
        return True

    def _feed(self) -> None:
        while self._buffer and self._send(*self._buffer[0]):
            data, _ = self._buffer.popleft()
            self._buffer_size -= len(data)
        self._maybe_resume_protocol()  # type: ignore[attr-defined]
        if self._closing and not self._buffer and not self._lost:
            self._finish(None)


async def create_datagram_endpoint(
    runner: Runner,
    protocol_factory: Callable[[], _T],
    local_addr: Address | None = None,
    remote_addr: Address | None = None,
    *,
    sock: Socket | None = None,
    allow_broadcast: bool = False,
    reuse_port: bool = False,
    device: str | None = None,
) -> tuple[StackDatagramTransport, _T]:
    """loop.create_datagram_endpoint on a Stack; the family is that of the address (local_addr's, if both are given).
    With ``remote_addr`` only that peer's datagrams are received.
    ``device`` ties the endpoint to one network device by name, so that a broadcast leaves there (SO_BINDTODEVICE).
    ``sock`` is a bound socket instead of all these."""
    try:
        sock = sock or _datagram_socket(
            runner.stack, local_addr, remote_addr, allow_broadcast, reuse_port, device
        )
        protocol = protocol_factory()
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    extra = {"socket": sock, "sockname": sock.getsockname(), "peername": remote_addr}
    assert isinstance(protocol, asyncio.BaseProtocol)
    transport = StackDatagramTransport(runner, sock, protocol, extra)
    transport.start()
    return transport, protocol


def _datagram_socket(
    stack: Stack,
    local_addr: Address | None,
    remote_addr: Address | None,
    allow_broadcast: bool,
    reuse_port: bool,
    device: str | None,
) -> Socket:
    sock = Socket(stack, _family((local_addr or remote_addr or ("",))[0]), SOCK_DGRAM)
    try:
        if allow_broadcast:
            sock.setsockopt(core_sock.SOL_SOCKET, core_sock.SO_BROADCAST, 1)
        if reuse_port:
            sock.setsockopt(core_sock.SOL_SOCKET, core_sock.SO_REUSEPORT, 1)
        if device is not None:
            sock.setsockopt(core_sock.SOL_SOCKET, core_sock.SO_BINDTODEVICE, device.encode())
        sock.bind(local_addr or ("", 0))
        if remote_addr is not None:
            sock.connect(remote_addr)
    except BaseException:
        sock.close()
        raise
    return sock
