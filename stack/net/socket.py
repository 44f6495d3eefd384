# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket calls and their descriptors: net/socket.c, with what of fs/file.c they need.

Each Stack has a table of descriptors (``net.files``); ``sys_socket`` and ``sys_accept4`` put a ``file`` into it whose
``private_data`` is the ``socket``, the other calls look it up, pass the call on to the family (``sock.ops``: inet_bind
and so on in net/ipv4/af_inet.py) and return what that returned.  A negative result is a negative errno.

Addresses are ``(address, port)`` pairs of ints in host order, those of AF_INET6 ``(address, port, flowinfo,
scope_id)``.  ``sys_recvfrom`` returns ``bytes`` from a stream and
``(bytes, address)`` from a datagram socket; ``sys_getsockopt`` returns ``(0, value)`` or ``(negative errno, 0)``.

Departures: one process per Stack and no permissions; every call returns at once, as if O_NONBLOCK were set, and
the application waits through the wait queue (``sk.sk_wq``).  Descriptors begin at 3.
"""

from __future__ import annotations

import errno
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from stack.include.net import (
    FIONBIO,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_TYPE_MASK,
    cmsg_t,
    file,
    files_struct,
    msghdr,
    optval_t,
    sockaddr,
    socket,
)
from stack.include.sock import AF_INET, AF_INET6, INT_MAX
from stack.net.core import sock as core_sock
from stack.net.ipv4 import af_inet
from stack.net.ipv6 import af_inet6

if TYPE_CHECKING:
    from stack.include.sk_buff import Buffer
    from stack.stack import Stack

__all__ = ["file", "files_struct", "socket"]

SOCK_MAX: Final = 11

# What recvmsg() gives: data, ancillary data, flags, address, length
recvmsg_t = tuple[bytes, tuple[cmsg_t, ...], int, sockaddr | None, int]

# net_families[]: which function makes the protocol's part of a new socket
_NET_FAMILIES: Final = {AF_INET: af_inet.inet_create, AF_INET6: af_inet6.inet6_create}


# -- descriptors: fs/file.c --------------------------------------------------------------------------------------


def get_unused_fd_flags(net: Stack, flags: int) -> int:
    """The lowest free descriptor, or -EMFILE."""
    files = net.files
    if files.free:
        return heappop(files.free)
    if files.next_fd >= files.max_fds:
        return -errno.EMFILE
    fd = files.next_fd
    files.next_fd = fd + 1
    return fd


def put_unused_fd(net: Stack, fd: int) -> None:
    heappush(net.files.free, fd)


def fd_install(net: Stack, fd: int, file_: file) -> None:
    net.files.fdt[fd] = file_


def sockfd_lookup_light(net: Stack, fd: int) -> socket | None:
    """The socket behind a descriptor; None makes the call fail with EBADF (every file here is a socket)."""
    file_ = net.files.fdt.get(fd)
    return None if file_ is None else file_.private_data


def fput_light(file_: file | None, fput_needed: int) -> None:
    """Give back what sockfd_lookup_light took: nothing, as long as one thread owns the table."""
    if fput_needed and file_ is not None:
        fput(file_)


def fput(file_: file) -> None:
    """One descriptor less points here; the last one closes the socket."""
    file_.f_count -= 1
    if file_.f_count == 0:
        for release in tuple(file_.f_ep or ()):
            release()
        sock_close(file_)


def close_fd(net: Stack, fd: int) -> int:
    file_ = net.files.fdt.pop(fd, None)
    if file_ is None:
        return -errno.EBADF
    heappush(net.files.free, fd)
    fput(file_)
    return 0


# -- sockets and files -------------------------------------------------------------------------------------------


def sock_alloc(net: Stack, type_: int) -> socket:
    return socket(net, type_)


def sock_alloc_file(sock: socket, flags: int) -> file:
    file_ = file(sock, flags)
    sock.file = file_
    return file_


def sock_map_fd(sock: socket, flags: int) -> int:
    """A descriptor for a new socket; the socket is released if there is none left."""
    fd = get_unused_fd_flags(sock.net, flags)
    if fd < 0:
        sock_release(sock)
        return fd
    fd_install(sock.net, fd, sock_alloc_file(sock, flags))
    return fd


def __sock_create(net: Stack, family: int, type_: int, protocol: int) -> socket | int:
    if not 0 <= type_ < SOCK_MAX:
        return -errno.EINVAL
    create = _NET_FAMILIES.get(family)
    if create is None:
        return -errno.EAFNOSUPPORT
    sock = sock_alloc(net, type_)
    err = create(net, sock, protocol)
    return err if err < 0 else sock


def sock_release(sock: socket) -> None:
    __sock_release(sock)


def __sock_release(sock: socket) -> None:
    sock.ops.release(sock)
    sock.file = None


def sock_close(file_: file) -> None:
    """The file operation behind the last close()."""
    sock = file_.private_data
    file_.private_data = None
    if sock is not None:
        __sock_release(sock)


# -- the calls ---------------------------------------------------------------------------------------------------


def sys_socket(net: Stack, family: int, type_: int, protocol: int = 0) -> int:
    """A descriptor, or -EINVAL, -EAFNOSUPPORT, -ESOCKTNOSUPPORT, -EPROTONOSUPPORT, -EMFILE."""
    return __sys_socket(net, family, type_, protocol)


def __sys_socket(net: Stack, family: int, type_: int, protocol: int) -> int:
    if type_ & ~SOCK_TYPE_MASK & ~(SOCK_NONBLOCK | SOCK_CLOEXEC):
        return -errno.EINVAL
    sock = __sock_create(net, family, type_ & SOCK_TYPE_MASK, protocol)
    return sock if isinstance(sock, int) else sock_map_fd(sock, type_ & ~SOCK_TYPE_MASK)


def sys_bind(net: Stack, fd: int, addr: sockaddr) -> int:
    """0, or -EBADF, -EINVAL (bound already), -EADDRNOTAVAIL, -EADDRINUSE."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    err: int = sock.ops.bind(sock, addr)
    fput_light(sock.file, 0)
    return err


def sys_listen(net: Stack, fd: int, backlog: int) -> int:
    """0, or -EBADF, -EINVAL, -EOPNOTSUPP, -EADDRINUSE.  A backlog that is negative or above net.core.somaxconn means
    somaxconn."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    somaxconn = net.core.sysctl_somaxconn
    if backlog & 0xFFFFFFFF > somaxconn:
        backlog = somaxconn
    err: int = sock.ops.listen(sock, backlog)
    fput_light(sock.file, 0)
    return err


def sys_accept4(net: Stack, fd: int, flags: int = 0) -> int:
    """The descriptor of the next connection, or -EBADF, -EAGAIN (none waits), -EINVAL (not listening, or ``flags``
    other than SOCK_NONBLOCK and SOCK_CLOEXEC), -EMFILE.  Both flags are kept with the file and change nothing."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    if flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC):
        return -errno.EINVAL
    newfd = do_accept(sock, flags)
    fput_light(sock.file, 0)
    return newfd


def sys_accept(net: Stack, fd: int) -> int:
    return sys_accept4(net, fd, 0)


def do_accept(sock: socket, flags: int) -> int:
    net = sock.net
    newfd = get_unused_fd_flags(net, flags)
    if newfd < 0:
        return newfd
    newsock = sock_alloc(net, sock.type)
    newsock.ops = sock.ops
    err: int = sock.ops.accept(sock, newsock, flags | SOCK_NONBLOCK)
    if err < 0:
        put_unused_fd(net, newfd)
        return err
    fd_install(net, newfd, sock_alloc_file(newsock, flags))
    return newfd


def sys_connect(net: Stack, fd: int, addr: sockaddr) -> int:
    """Fix a datagram socket's peer, or begin a connection (-EINPROGRESS)."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    err: int = sock.ops.connect(sock, addr, SOCK_NONBLOCK)
    fput_light(sock.file, 0)
    return err


def sys_getsockname(net: Stack, fd: int) -> sockaddr | int:
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    name: sockaddr | int = sock.ops.getname(sock, 0)
    fput_light(sock.file, 0)
    return name


def sys_getpeername(net: Stack, fd: int) -> sockaddr | int:
    """The peer's address, or -ENOTCONN."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    name: sockaddr | int = sock.ops.getname(sock, 1)
    fput_light(sock.file, 0)
    return name


def sys_sendmsg(
    net: Stack, fd: int, data: Buffer, control: tuple[cmsg_t, ...], flags: int = 0, addr: sockaddr | None = None
) -> int:
    """sys_sendto with ancillary data (level, type, value): SO_TIMESTAMPING, IP_PKTINFO; -EINVAL for malformed ones."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    sent: int = sock.ops.sendmsg(sock, data, flags, addr, msghdr(control=list(control)))
    fput_light(sock.file, 0)
    return sent


def sock_sendmsg(sock: socket, data: Buffer, flags: int, addr: sockaddr | None) -> int:
    sent: int = sock.ops.sendmsg(sock, data, flags, addr)
    return sent


def sys_sendto(net: Stack, fd: int, data: Buffer, flags: int = 0, addr: sockaddr | None = None) -> int:
    """How many bytes were taken, or -EAGAIN, -EPIPE, -ECONNRESET, -EDESTADDRREQ, -EMSGSIZE, -ENETUNREACH ..."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    sent = sock_sendmsg(sock, data, flags, addr)
    fput_light(sock.file, 0)
    return sent


def sock_recvmsg(sock: socket, size: int, flags: int) -> Any:
    return sock.ops.recvmsg(sock, size, flags)


def sys_recvfrom(net: Stack, fd: int, size: int, flags: int = 0) -> Any:
    """``bytes`` (empty at the end of the stream), ``(bytes, address)`` of a datagram, or a negative errno."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    got = sock_recvmsg(sock, size, flags)
    fput_light(sock.file, 0)
    return got


def sys_recvmsg(net: Stack, fd: int, size: int, flags: int, controllen: int) -> recvmsg_t | int:
    """(data, ancillary data, MSG_ flags, address or None, length) or a negative errno; ``controllen`` bytes of room for
    ancillary data.  The length is what the call returns in C where that is not the data's (see msghdr)."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    msg = msghdr(controllen)
    got = sock.ops.recvmsg(sock, size, flags, msg)
    fput_light(sock.file, 0)
    if isinstance(got, int):
        return got
    if isinstance(got, tuple):
        got, msg.msg_name = got
    return got, tuple(msg.msg_control), msg.msg_flags, msg.msg_name, msg.msg_len


def sys_ioctl(net: Stack, fd: int, cmd: int) -> tuple[int, int]:
    """(0, value) of a request of include/net.py, or (-EBADF, 0), (-ENOTTY, 0) and what the protocol says.  FIONBIO is
    taken: nothing here blocks anyway."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF, 0
    if cmd == FIONBIO:
        return 0, 0
    result: tuple[int, int] = sock.ops.ioctl(sock, cmd)
    fput_light(sock.file, 0)
    return result


def sys_shutdown(net: Stack, fd: int, how: int) -> int:
    """SHUT_RD, SHUT_WR or SHUT_RDWR; 0, or -EBADF, -EINVAL, -ENOTCONN."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    err: int = sock.ops.shutdown(sock, how)
    fput_light(sock.file, 0)
    return err


def sys_setsockopt(net: Stack, fd: int, level: int, optname: int, optval: optval_t) -> int:
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF
    if level == core_sock.SOL_SOCKET:
        err = core_sock.sock_setsockopt(sock, level, optname, optval)
    else:
        err = sock.ops.setsockopt(sock, level, optname, optval)
    fput_light(sock.file, 0)
    return err


def sys_getsockopt(net: Stack, fd: int, level: int, optname: int, optlen: int = INT_MAX) -> tuple[int, Any]:
    """(0, value) for a buffer of ``optlen`` bytes, or (negative errno, 0).  An int stands for a C int, which a shorter
    buffer gets the first bytes of; ``bytes`` are as many as the call in C gives."""
    sock = sockfd_lookup_light(net, fd)
    if sock is None:
        return -errno.EBADF, 0
    if level == core_sock.SOL_SOCKET:
        result: tuple[int, Any] = core_sock.sock_getsockopt(sock, level, optname, optlen)
    else:
        result = sock.ops.getsockopt(sock, level, optname, optlen)
    fput_light(sock.file, 0)
    return result


def sock_poll(sock: socket) -> int:
    """What the socket is ready for, as EPOLL bits."""
    mask: int = sock.ops.poll(sock)
    return mask


def sys_close(net: Stack, fd: int) -> int:
    """0 or -EBADF."""
    return close_fd(net, fd)
