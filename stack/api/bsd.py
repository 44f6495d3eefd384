# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket calls on a Stack, with the names and habits of Python's ``socket`` module.

    sock = Socket(stack)
    sock.bind(("10.0.2.2", 7))
    sock.listen()
    sock.on_event = lambda sock, mask: ...        # called when there may be something to do

Every socket is non-blocking: a call that would wait raises BlockingIOError, and ``on_event`` is called from inside
the stack as soon as trying again makes sense (it should only take a note; ``stack.api.aio`` does that for asyncio).
An address is (host, port), of AF_INET6 (host, port, flowinfo, scope_id) as there; the last two may be left out of what
is passed in.  A socket of AF_INET6 bound to "::" takes IPv4 connections too (peers "::ffff:10.0.2.15") unless
IPV6_V6ONLY is set.  Errors are OSError with the kernel's errno, so that ``except ConnectionResetError`` works.  There
is no I/O here and no clock but the Stack's: the same calls run in virtual time.

connect() of a stream raises BlockingIOError (EINPROGRESS) and goes on alone.  With MSG_FASTOPEN sendto() and sendmsg()
connect too, with data in the SYN if the server gave a cookie before (RFC 7413), and BlockingIOError (EINPROGRESS) if
not: nothing was taken then, and what was to be sent is sent once the connection is there.  With TCP_FASTOPEN_CONNECT
connect() returns, and the first send() connects.

Flags are Linux's (``socket.MSG_PEEK`` and so on): MSG_PEEK, MSG_TRUNC, MSG_OOB, MSG_ERRQUEUE when receiving, MSG_MORE,
MSG_EOR, MSG_OOB, MSG_FASTOPEN, MSG_ZEROCOPY when sending.  MSG_DONTWAIT and MSG_NOSIGNAL say what is so anyway, and
MSG_WAITALL waits for nothing, as with O_NONBLOCK (``stack.api.aio.sock_recv`` does wait).

Left out: blocking calls and time-outs, names (addresses are dotted numbers).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from stack.include.ip import in_aton, in_ntoa
from stack.include.ipv6 import in6_ntop, in6_pton
from stack.include.net import MSG_TRUNC, SHUT_RD, SHUT_RDWR, SHUT_WR
from stack.include.sock import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM
from stack.net import socket as net_socket
from stack.net.core import sock_reuseport
from stack.net.ipv6 import af_inet6

if TYPE_CHECKING:
    from stack.include.net import sockaddr, socket
    from stack.include.sk_buff import Buffer, sk_buff
    from stack.include.sock import sock as kernel_sock
    from stack.stack import Stack

__all__ = [
    "AF_INET",
    "AF_INET6",
    "SHUT_RD",
    "SHUT_RDWR",
    "SHUT_WR",
    "SOCK_DGRAM",
    "SOCK_STREAM",
    "Address",
    "Ends",
    "Socket",
    "ends_of",
    "open_sockets",
]

# (host, port), or (host, port, flowinfo, scope_id) of AF_INET6; Any, as typeshed has it, so that both unpack
Address = Any
EventCallback = Callable[["Socket", int], None]
# protocol (6 TCP, 17 UDP), local address and port, remote address and port ("" and 0 if there is none)
Ends = tuple[int, str, int, str, int]

_SIZEOF_INT = 4

# What each errno means here, and what to do about it; OSError shows it as strerror.
_REASONS = {
    errno.EBADF: "the socket is closed",
    errno.EINPROGRESS: "the connection has begun; wait for on_event and EPOLLOUT or EPOLLERR",
    errno.EALREADY: "the connection that was begun is not there yet; wait for on_event",
    errno.EISCONN: "the socket is connected already",
    errno.EAGAIN: "nothing to do now; wait for on_event and try again",
    errno.EADDRINUSE: "the address is in use by another socket; close that one, take another port, or set "
    "SO_REUSEADDR or SO_REUSEPORT on both",
    errno.EADDRNOTAVAIL: "no device of this stack has that address; give it one with Stack.dev_addr_add, or bind to "
    "0.0.0.0",
    errno.EINVAL: "invalid argument, or not possible in the socket's state",
    errno.EOPNOTSUPP: "not supported on this kind of socket",
    errno.ENOTCONN: "the socket is not connected",
    errno.ECONNRESET: "the peer reset the connection",
    errno.EPIPE: "the sending side is closed",
    errno.ETIMEDOUT: "the peer stopped answering",
    errno.EMSGSIZE: "the datagram is longer than 65507 bytes, or than the path takes without fragments",
    errno.EACCES: "permission denied; a broadcast needs SO_BROADCAST",
    errno.ENETUNREACH: "no route to that network",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ECONNREFUSED: "nobody listens there",
    errno.EDESTADDRREQ: "a datagram needs an address",
    errno.ENOPROTOOPT: "no such option at this level",
    errno.EAFNOSUPPORT: "no such address family in this stack",
    errno.EPROTONOSUPPORT: "that protocol does not go with that type of socket",
    errno.ESOCKTNOSUPPORT: "no such type of socket in this family",
    errno.EMFILE: "this stack's table of descriptors is full",
    errno.ENOBUFS: "no buffer space",
    errno.ENOMEM: "no buffer space",
    errno.ENODEV: "no such device",
    errno.EPERM: "not allowed in the socket's state",
    errno.ENODATA: "there is no such thing of this socket",
    errno.EDOM: "the value is out of range",
    errno.ENOTTY: "no such request of this socket",
}


def oserror(err: int, what: str) -> OSError:
    """The OSError (or its subclass) of a positive or negative errno; ``what`` names the call that failed."""
    err = abs(err)
    reason = _REASONS.get(err) or errno.errorcode.get(err, "unknown error")
    return OSError(err, f"{what}: {reason}")


def _raise(err: int, what: str) -> NoReturn:
    raise oserror(err, what)


ntoa = lru_cache(maxsize=4096)(in_ntoa)


@lru_cache(maxsize=4096)
def aton(host: str) -> int:
    """A dotted address, "" for any, "<broadcast>" for 255.255.255.255; ValueError for anything else."""
    if not host:
        return 0
    return 0xFFFFFFFF if host == "<broadcast>" else in_aton(host)


ntop6 = lru_cache(maxsize=4096)(in6_ntop)


def sockaddr_of(stack: Stack, family: int, address: Address) -> sockaddr:
    """The stack's form of an address of that family; ValueError for a host or a "%device" that is none."""
    host, port = address[0], address[1]
    if not 0 <= port <= 0xFFFF:
        raise OverflowError(f"port {port} is not in 0..65535")
    if family != AF_INET6:
        return aton(host), port
    flowinfo = address[2] if len(address) > 2 else 0
    scope_id = address[3] if len(address) > 3 else 0
    host, _, zone = host.partition("%")
    if zone:
        scope_id = _scope_id(stack, zone)
    return (in6_pton(host) if host else 0), port, flowinfo, scope_id


def _scope_id(stack: Stack, zone: str) -> int:
    dev = stack.devices_by_name.get(zone)
    if dev is not None:
        return dev.ifindex
    if not zone.isdecimal():
        raise ValueError(f"this stack has no device {zone!r}")
    return int(zone)


def address_of(name: sockaddr) -> Address:
    """The application's form of an address of the stack's."""
    if len(name) == 2:
        return ntoa(name[0]), name[1]
    return ntop6(name[0]), name[1], name[2], name[3]


def local_address(sk: Any) -> Address:
    """Where a connected socket's packets come from."""
    if sk.sk_family == AF_INET6:
        return address_of(af_inet6.sockaddr_local(sk))
    return ntoa(sk.inet_saddr), sk.inet_sport


def remote_address(sk: Any) -> Address:
    """The peer of a connected socket."""
    if sk.sk_family == AF_INET6:
        return address_of(af_inet6.sockaddr_remote(sk))
    return ntoa(sk.sk_daddr), sk.sk_dport


class Socket:
    """One socket of a Stack; see the module's text.  ``fd`` wraps an open descriptor of that Stack."""

    __slots__ = ("__weakref__", "_fd", "_net", "_on_event", "_sock")

    def __init__(
        self,
        stack: Stack,
        family: int = AF_INET,
        type: int = SOCK_STREAM,
        proto: int = 0,
        *,
        fd: int | None = None,
    ) -> None:
        if fd is None:
            fd = net_socket.sys_socket(stack, family, type, proto)
            if fd < 0:
                _raise(fd, f"socket({family}, {type}, {proto})")
        sock = net_socket.sockfd_lookup_light(stack, fd)
        if sock is None:
            _raise(errno.EBADF, f"socket of descriptor {fd}")
        self._net = stack
        self._fd = fd
        self._sock: socket = sock
        self._on_event: EventCallback | None = None

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def family(self) -> int:
        return self._sock.ops.family

    @property
    def type(self) -> int:
        return self._sock.type

    @property
    def proto(self) -> int:
        return self.sk.sk_protocol

    @property
    def sock(self) -> socket:
        """The kernel's ``struct socket``."""
        return self._sock

    @property
    def sk(self) -> kernel_sock:
        """The kernel's ``struct sock``: all that the protocol knows about this socket.  It stays readable after
        close()."""
        return self._sock.sk

    def fileno(self) -> int:
        """The descriptor in the Stack's own table, never one of the process; -1 after close()."""
        return self._fd

    def getblocking(self) -> bool:
        return False

    def gettimeout(self) -> float:
        return 0.0

    def setblocking(self, flag: bool) -> None:
        """Accepts False; ValueError for True, since nothing here can wait."""
        if flag:
            raise ValueError("a Stack's sockets never block: wait with on_event, or use stack.api.aio")

    def settimeout(self, value: float | None) -> None:
        """Accepts 0, as asyncio's sockets do; ValueError for a time, since nothing here can wait."""
        if value != 0:
            raise ValueError("a Stack's sockets never block: wait with on_event, or use stack.api.aio")

    def get_inheritable(self) -> bool:
        """Never: the descriptor is the Stack's, which no child process has."""
        return False

    def __repr__(self) -> str:
        if self._fd < 0:
            return "<stack.api.bsd.Socket closed>"
        text = f"<stack.api.bsd.Socket fd={self._fd}, type={self.type}, laddr={self.getsockname()}"
        peer = self._sock.ops.getname(self._sock, 1)
        return text + (">" if isinstance(peer, int) else f", raddr={address_of(peer)}>")

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    # -- readiness -------------------------------------------------------------------------------------------------

    @property
    def on_event(self) -> EventCallback | None:
        """``callback(socket, mask)``, called from inside the stack with EPOLL bits, or with 0 when the state changed.
        The callback must not call back into the socket: it takes a note for later."""
        return self._on_event

    @on_event.setter
    def on_event(self, callback: EventCallback | None) -> None:
        waiters = self.sk.sk_wq
        if self._on_event is not None and self._wake in waiters:
            waiters.remove(self._wake)
        self._on_event = callback
        if callback is not None:
            waiters.append(self._wake)

    def _wake(self, sk: kernel_sock, mask: int) -> None:
        if self._on_event is not None:
            self._on_event(self, mask)

    def poll(self) -> int:
        """What would not block now, as EPOLL bits (stack.include.sock has their names)."""
        self._check("poll")
        return net_socket.sock_poll(self._sock)

    def _sockaddr(self, address: Address) -> sockaddr:
        return sockaddr_of(self._net, self.family, address)

    def _check(self, what: str) -> None:
        if self._fd < 0:
            _raise(errno.EBADF, what)

    # -- opening and closing ---------------------------------------------------------------------------------------

    def bind(self, address: Address) -> None:
        """Take a local (host, port); host "", "0.0.0.0" or "::" is every address, port 0 any free one."""
        err = net_socket.sys_bind(self._net, self._fd, self._sockaddr(address))
        if err < 0:
            _raise(err, f"bind to {address[0] or '0.0.0.0'}:{address[1]}")

    def listen(self, backlog: int = 128) -> None:
        """Accept connections; ``backlog`` + 1 of them may wait to be accepted."""
        err = net_socket.sys_listen(self._net, self._fd, max(backlog, 0))
        if err < 0:
            _raise(err, f"listen({backlog})")

    def accept(self) -> tuple[Socket, Address]:
        """The oldest waiting connection and its peer's address."""
        return self.accept4()

    def accept4(self, flags: int = 0) -> tuple[Socket, Address]:
        """accept() with SOCK_NONBLOCK and SOCK_CLOEXEC, which change nothing here; EINVAL for other flags."""
        fd = net_socket.sys_accept4(self._net, self._fd, flags)
        if fd < 0:
            _raise(fd, "accept4")
        conn = Socket(self._net, fd=fd)
        return conn, remote_address(conn.sk)

    def connect(self, address: Address) -> None:
        """Fix a datagram socket's peer, or begin a stream's connection: BlockingIOError (EINPROGRESS), then EPOLLOUT
        once it is there, or EPOLLERR with the reason in SO_ERROR."""
        err = self.connect_ex(address)
        if err:
            _raise(err, f"connect to {address[0]}:{address[1]}")

    def connect_ex(self, address: Address) -> int:
        """connect() with the errno for a result: 0, EINPROGRESS, EALREADY (begun before), EISCONN, or why it failed."""
        return -net_socket.sys_connect(self._net, self._fd, self._sockaddr(address))

    def shutdown(self, how: int) -> None:
        """SHUT_RD, SHUT_WR (sends FIN after what is queued) or SHUT_RDWR."""
        err = net_socket.sys_shutdown(self._net, self._fd, how)
        if err < 0:
            _raise(err, "shutdown")

    def close(self) -> None:
        """Give the socket up; the protocol finishes alone.  Unread data resets the connection.  Idempotent."""
        if self._fd >= 0:
            self.on_event = None
            fd, self._fd = self._fd, -1
            net_socket.sys_close(self._net, fd)

    def getsockname(self) -> Address:
        name = net_socket.sys_getsockname(self._net, self._fd)
        if isinstance(name, int):
            _raise(name, "getsockname")
        return address_of(name)

    def getpeername(self) -> Address:
        name = net_socket.sys_getpeername(self._net, self._fd)
        if isinstance(name, int):
            _raise(name, "getpeername")
        return address_of(name)

    def attach_reuseport(self, selector: Callable[[sk_buff], int] | None) -> None:
        """Let ``selector(skb)`` choose which listener of this socket's SO_REUSEPORT group gets a SYN, in the place of
        Linux's SO_ATTACH_REUSEPORT_CBPF; None goes back to the hash of the 4-tuple.

        It returns the listener's number in the order of the listen() calls; any other number falls back to the hash.
        ``ip_hdr(skb)`` and ``tcp_hdr(skb)`` are the segment's headers.  It is asked for every segment that no
        connection takes, so it must always answer alike for one 4-tuple if cookies are to work.  Attach it to a socket
        with SO_REUSEPORT before the first listen(), or to any member later.  OSError: EINVAL without SO_REUSEPORT,
        ENOENT if there is nothing to detach, EOPNOTSUPP for datagrams."""
        self._check("attach_reuseport")
        if self.type != SOCK_STREAM:
            _raise(errno.EOPNOTSUPP, "attach_reuseport")
        if selector is None:
            err = sock_reuseport.reuseport_detach_prog(self.sk)
        else:
            err = sock_reuseport.reuseport_attach_prog(self.sk, selector)
        if err < 0:
            _raise(err, "attach_reuseport")

    # -- data ------------------------------------------------------------------------------------------------------

    def send(self, data: Buffer, flags: int = 0) -> int:
        """How many bytes were taken, at least one; ``bytes`` are referenced until acknowledged, not copied."""
        sent = net_socket.sys_sendto(self._net, self._fd, data, flags)
        if sent < 0:
            _raise(sent, "send")
        return sent

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """At most ``bufsize`` bytes; empty at the end of the stream.  With MSG_TRUNC what is returned is as long as
        what was there, zeros for what was thrown away."""
        if not bufsize:
            return b""  # as Python's: recvmsg(0) asks the stack
        if flags & MSG_TRUNC:
            data, _, _, _, length = self._recvmsg(bufsize, 0, flags, "recv")
            return data.ljust(length, b"\0")
        got = net_socket.sys_recvfrom(self._net, self._fd, bufsize, flags)
        if isinstance(got, int):
            _raise(got, "recv")
        return got if isinstance(got, bytes) else bytes(got[0])

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """Read at most ``nbytes`` (0: the buffer's size) into the buffer; how many - with MSG_TRUNC how many there
        were, and a stream's are thrown away."""
        view = memoryview(buffer).cast("B")
        data, _, _, _, length = self._recvmsg(nbytes or len(view), 0, flags, "recv_into")
        if self.type == SOCK_DGRAM or not flags & MSG_TRUNC:
            view[: len(data)] = data
        return max(len(data), length)

    def _recvmsg(self, bufsize: int, room: int, flags: int, what: str) -> net_socket.recvmsg_t:
        got = net_socket.sys_recvmsg(self._net, self._fd, bufsize, flags, room)
        if isinstance(got, int):
            _raise(got, what)
        return got

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Address | None]:
        """Data, ancillary data (level, type, value) within ``ancbufsize`` bytes (socket.CMSG_SPACE says how many each
        takes), MSG_ flags of the result, and the sender (None of a stream).

        What may come along: TCP_INQ; SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING; IP_PKTINFO, IP_TTL and IP_TOS; with
        MSG_ERRQUEUE IP_RECVERR or IPV6_RECVERR and time stamps of sending, where the data are the start of the packet
        and the address is where it was going."""
        data, control, msg_flags, name, _ = self._recvmsg(bufsize, ancbufsize, flags, "recvmsg")
        return data, list(control), msg_flags, None if name is None else address_of(name)

    def sendmsg(
        self,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, bytes]] = (),
        flags: int = 0,
        address: Address | None = None,
    ) -> int:
        """The buffers one after the other, as one call; how many bytes were taken.  Ancillary data: SO_TIMESTAMPING
        (four bytes of SOF_TIMESTAMPING_TX_ flags), IP_PKTINFO."""
        pieces = list(buffers)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        to = None if address is None else self._sockaddr(address)
        sent = net_socket.sys_sendmsg(self._net, self._fd, data, tuple(ancdata), flags, to)
        if sent < 0:
            _raise(sent, "sendmsg")
        return sent

    def sendto(self, data: Buffer, *args: Any) -> int:
        """``sendto(data, address)`` or ``sendto(data, flags, address)``: one datagram, or, with MSG_FASTOPEN, the
        first data of a stream to that address."""
        flags, address = args if len(args) == 2 else (0, *args)
        sent = net_socket.sys_sendto(self._net, self._fd, data, flags, self._sockaddr(address))
        if sent < 0:
            _raise(sent, f"sendto {address[0]}:{address[1]}")
        return sent

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Address | None]:
        """One datagram (cut to ``bufsize``) and its sender; of a stream, data and None."""
        got = net_socket.sys_recvfrom(self._net, self._fd, bufsize, flags)
        if isinstance(got, int):
            _raise(got, "recvfrom")
        if isinstance(got, bytes):
            return got, None
        return bytes(got[0]), None if got[1] is None else address_of(got[1])

    def ioctl(self, request: int) -> int:
        """The value of SIOCINQ (FIONREAD), SIOCOUTQ, SIOCOUTQNSD or SIOCATMARK, which ``stack.include.net`` names;
        ENOTTY for any other request, EINVAL of a listener."""
        self._check("ioctl")
        err, value = net_socket.sys_ioctl(self._net, self._fd, request)
        if err < 0:
            _raise(err, f"ioctl({request:#x})")
        return value

    # -- options ---------------------------------------------------------------------------------------------------

    def setsockopt(self, level: int, optname: int, value: int | bytes | bytearray) -> None:
        """An int, or the bytes of the C struct; the numbers are Linux's, as in the ``socket`` module."""
        raw = value if isinstance(value, int) else bytes(value)
        err = net_socket.sys_setsockopt(self._net, self._fd, level, optname, raw)
        if err < 0:
            _raise(err, f"setsockopt({level}, {optname})")

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> Any:
        """An int (of a struct its first four bytes), or with ``buflen`` at most that many bytes of the C struct."""
        err, value = net_socket.sys_getsockopt(self._net, self._fd, level, optname, buflen or _SIZEOF_INT)
        if err < 0:
            _raise(err, f"getsockopt({level}, {optname})")
        raw = (value & 0xFFFFFFFF).to_bytes(_SIZEOF_INT, "little") if isinstance(value, int) else value
        return (
            raw[:buflen]
            if buflen
            else int.from_bytes(raw[:_SIZEOF_INT], "little", signed=len(raw) >= _SIZEOF_INT)
        )


def open_sockets(stack: Stack) -> dict[Ends, list[Socket]]:
    """The sockets behind a stack's descriptors by their ends: how an application finds those of a thawed stack again.
    A list, since sockets with SO_REUSEPORT, or without an address yet, have the same ends."""
    found: dict[Ends, list[Socket]] = {}
    for fd in sorted(stack.files.fdt):
        sock = Socket(stack, fd=fd)
        found.setdefault(ends_of(sock), []).append(sock)
    return found


def ends_of(sock: Socket) -> Ends:
    """Where a socket is in ``open_sockets``."""
    local = sock.getsockname()
    peer = sock.sock.ops.getname(sock.sock, 1)
    remote = ("", 0) if isinstance(peer, int) else address_of(peer)[:2]
    return (sock.proto, local[0], local[1], *remote)
