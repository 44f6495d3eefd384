# SPDX-License-Identifier: GPL-2.0-or-later
"""struct socket, struct proto_ops and struct file: include/linux/net.h, include/linux/fs.h, include/linux/fdtable.h.

``socket`` is what the application holds (by a file descriptor of its Stack), ``sock`` what the protocol works on.
A negative return value is a negative errno everywhere on this level.

Departures: a ``sockaddr_in`` is a pair of ints in host order (address, port), a ``sockaddr_in6`` four of them
(address, port, flowinfo, scope_id); an option's value is an int or
``bytes``; ``recvmsg`` returns the data instead of filling the caller's memory.  The wait queue stays in
``sk.sk_wq``, since nothing here outlives its ``sock``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stack.include.sock import sock
    from stack.stack import Stack

# socket_state (include/uapi/linux/net.h)
SS_FREE: Final = 0
SS_UNCONNECTED: Final = 1
SS_CONNECTING: Final = 2
SS_CONNECTED: Final = 3
SS_DISCONNECTING: Final = 4

# Bits of socket.flags (include/linux/net.h); masks here, where the kernel has bit numbers
SOCKWQ_ASYNC_NOSPACE: Final = 1 << 0
SOCKWQ_ASYNC_WAITDATA: Final = 1 << 1
SOCK_NOSPACE: Final = 1 << 2

# accept4() and socket() flags, include/linux/net.h
SOCK_TYPE_MASK: Final = 0xF
SOCK_NONBLOCK: Final = 0o4000
SOCK_CLOEXEC: Final = 0o2000000
O_NONBLOCK: Final = 0o4000

# shutdown(), include/linux/net.h
SHUT_RD: Final = 0
SHUT_WR: Final = 1
SHUT_RDWR: Final = 2

# send() and recv() flags, include/linux/socket.h
MSG_OOB: Final = 0x1
MSG_PEEK: Final = 0x2
MSG_DONTROUTE: Final = 0x4
MSG_CTRUNC: Final = 0x8
MSG_PROBE: Final = 0x10
MSG_TRUNC: Final = 0x20
MSG_DONTWAIT: Final = 0x40
MSG_EOR: Final = 0x80
MSG_WAITALL: Final = 0x100
MSG_CONFIRM: Final = 0x800
MSG_ERRQUEUE: Final = 0x2000
MSG_NOSIGNAL: Final = 0x4000
MSG_MORE: Final = 0x8000
MSG_ZEROCOPY: Final = 0x4000000
MSG_FASTOPEN: Final = 0x20000000

sockaddr_in = tuple[int, int]
sockaddr_in6 = tuple[int, int, int, int]
sockaddr = sockaddr_in | sockaddr_in6
optval_t = int | bytes
cmsg_t = tuple[int, int, bytes]

# ioctl() requests of sockets: include/uapi/linux/sockios.h, include/uapi/asm-generic/ioctls.h
FIONREAD: Final = 0x541B
SIOCINQ: Final = FIONREAD
SIOCOUTQ: Final = 0x5411
SIOCOUTQNSD: Final = 0x894B
SIOCATMARK: Final = 0x8905
FIONBIO: Final = 0x5421


class msghdr:
    """struct msghdr of sendmsg() and recvmsg(), what is beside the data.

    recvmsg: ``msg_controllen`` is the room for ancillary data in bytes, as C counts it; filled in are ``msg_control``
    (level, type, data), ``msg_name`` (the sender's address, None of a stream) and ``msg_flags`` (MSG_TRUNC,
    MSG_CTRUNC, MSG_OOB, MSG_ERRQUEUE).  ``msg_len`` is what the call returns in C where that is not the length of the
    data: a datagram's whole length with MSG_TRUNC.  sendmsg reads ``msg_control`` and, of a stream with MSG_FASTOPEN,
    ``msg_name``."""

    __slots__ = ("msg_control", "msg_controllen", "msg_flags", "msg_len", "msg_name")

    def __init__(self, controllen: int = 0, control: list[cmsg_t] | None = None) -> None:
        self.msg_control: list[cmsg_t] = [] if control is None else control
        self.msg_controllen = controllen
        self.msg_flags = 0
        self.msg_name: sockaddr | None = None
        self.msg_len = 0


_PROTO_OPS_FUNCTIONS: Final = (
    "accept",
    "bind",
    "connect",
    "getname",
    "getsockopt",
    "ioctl",
    "listen",
    "poll",
    "recvmsg",
    "release",
    "sendmsg",
    "setsockopt",
    "shutdown",
)


class proto_ops:
    """struct proto_ops: a family's socket calls, each taking the ``socket`` first.

    Signatures: ``release(sock)``, ``bind(sock, addr)``, ``connect(sock, addr, flags)``,
    ``accept(sock, newsock, flags)``, ``getname(sock, peer) -> addr | int``, ``poll(sock) -> mask``,
    ``listen(sock, backlog)``, ``shutdown(sock, how)``, ``setsockopt(sock, level, optname, optval)``,
    ``getsockopt(sock, level, optname, optlen) -> (err, value)``, ``sendmsg(sock, data, flags, addr, msg=None) -> int``,
    ``recvmsg(sock, size, flags, msg=None)`` -> bytes of a stream, (bytes, addr) of a datagram, or a negative errno;
    ``msg`` is a ``msghdr`` where ancillary data go along.  ``ioctl(sock, cmd) -> (err, value)``.
    """

    __slots__ = ("family", *_PROTO_OPS_FUNCTIONS)

    release: Any
    bind: Any
    connect: Any
    accept: Any
    getname: Any
    poll: Any
    ioctl: Any
    listen: Any
    shutdown: Any
    setsockopt: Any
    getsockopt: Any
    sendmsg: Any
    recvmsg: Any

    def __init__(self, family: int, **functions: Callable[..., Any]) -> None:
        self.family = family
        for slot in _PROTO_OPS_FUNCTIONS:
            setattr(self, slot, functions.pop(slot))
        if functions:
            raise TypeError(f"struct proto_ops has no member {sorted(functions)}")


class socket:
    """struct socket: state (SS_*), type (SOCK_*), flags (SOCK_NOSPACE ...), its ``sock`` and its family's calls."""

    __slots__ = ("file", "flags", "net", "ops", "sk", "state", "type")

    sk: sock
    ops: proto_ops

    def __init__(self, net: Stack, type_: int) -> None:
        self.net = net
        self.type = type_
        self.state = SS_UNCONNECTED
        self.flags = 0
        self.file: file | None = None


class file:
    """struct file of a socket: ``private_data`` is the ``socket``; ``f_count`` descriptors point here; ``f_ep`` is
    called when the last of them is closed."""

    __slots__ = ("f_count", "f_ep", "f_flags", "private_data")

    def __init__(self, sock: socket, flags: int) -> None:
        self.private_data: socket | None = sock
        self.f_flags = flags
        self.f_count = 1
        self.f_ep: list[Callable[[], None]] | None = None


# 150 MiB of idle connections.  ``net.files.max_fds`` sets another limit.
RLIMIT_NOFILE: Final = 16384


class files_struct:
    """struct files_struct: one Stack's descriptors.  ``next_fd`` is the lowest that may be free; ``max_fds``, the
    kernel's RLIMIT_NOFILE, is what bounds the connections that a peer can open and leave open, at about 9 KiB each:
    beyond it accept() fails with EMFILE, the accept queue fills up, and then SYNs are dropped."""

    __slots__ = ("fdt", "free", "max_fds", "next_fd")

    def __init__(self, max_fds: int = RLIMIT_NOFILE) -> None:
        self.fdt: dict[int, file] = {}
        self.free: list[int] = []  # a heap of descriptors given back
        self.next_fd = (
            3  # 0, 1 and 2 stay free, so that no descriptor is ever false or looks like a standard one
        )
        self.max_fds = max_fds
