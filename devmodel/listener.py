# SPDX-License-Identifier: GPL-2.0-or-later
"""Listening sockets for the transports: what lies in the way is told apart, and only a stale socket is
removed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import struct

from devmodel.errors import (
    AddressInUse,
    AddressUnknown,
    SocketPathBlocked,
    SocketPathInUse,
    SocketPathTooLong,
)

log = logging.getLogger(__name__)

MAX_UNIX_PATH = 107  # sockaddr_un.sun_path has 108 bytes, one of them the final NUL (unix(7))
_BACKLOG = 8


class Listener:
    """A non-blocking listening socket; `close()` removes the path if it is still this socket's."""

    def __init__(self, sock: socket.socket, path: str = "") -> None:
        self.sock = sock
        self.path = path
        self._inode = _inode(path) if path else None
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self.sock.fileno()

    def accept(self) -> socket.socket | None:
        """The next connection, or None. Out of descriptors, it is hung up on with the help of a spare one: left in
        the queue it would make the listener readable for ever, and keep the event loop busy."""
        try:
            return self.sock.accept()[0]
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or self._spare < 0:
                return None
        os.close(self._spare)
        self._spare = -1
        with contextlib.suppress(OSError):
            self.sock.accept()[0].close()
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        log.warning("a connection was refused: this process has no descriptor left (see ulimit -n)")
        return None

    def close(self) -> None:
        self.sock.close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        if self.path and _inode(self.path) == self._inode:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        self.path = ""


def _inode(path: str) -> tuple[int, int] | None:
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _owner_of(path: str) -> str | None:
    """Who accepts connections at a unix socket; None if nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return "its queue of connections is full"
        except ConnectionRefusedError:
            return None
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            return "a socket of another type is open there"
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return f"process {struct.unpack('3i', credentials)[0]} listens there"


def _clear_the_way(path: str) -> None:
    """Remove a socket that nobody listens on; say what else lies at `path`."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketPathBlocked(f"cannot look at {path}", str(error), "choose another path") from error
    if not stat.S_ISSOCK(mode):
        remedy = "choose another path, or remove it if you know what it is"
        raise SocketPathBlocked(f"{path} exists and is no socket", f"mode {mode:#o}", remedy)
    try:
        owner = _owner_of(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketPathBlocked(
            f"{path} belongs to somebody else", str(error), "choose another path"
        ) from error
    if owner:
        raise SocketPathInUse(f"{path} is in use", owner, "end that process, or choose another path")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def check_unix_path(path: str) -> None:
    """SocketPathTooLong for what no socket can be called."""
    size = len(os.fsencode(path))
    if size > MAX_UNIX_PATH:
        evidence = f"{size} bytes, {MAX_UNIX_PATH} are possible: {path}"
        raise SocketPathTooLong(
            "the socket's path is too long", evidence, "choose a shorter path, as in /tmp"
        )


def listen_unix(path: str) -> Listener:
    """Listen at `path`. SocketPathTooLong, SocketPathInUse or SocketPathBlocked."""
    check_unix_path(path)
    return _bind_unix(path, socket.SOCK_STREAM)


def bind_unix_datagram(path: str) -> Listener:
    """A datagram socket at `path`, nothing to accept; errors as listen_unix()."""
    check_unix_path(path)
    return _bind_unix(path, socket.SOCK_DGRAM)


def _bind_unix(path: str, kind: socket.SocketKind) -> Listener:
    _clear_the_way(path)
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.bind(path)
        if kind is socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        remedy = "create its directory, or choose a path in one that you may write to"
        raise SocketPathBlocked(f"cannot listen at {path}", str(error), remedy) from error
    sock.setblocking(False)
    return Listener(sock, path)


def listen_inet(host: str, port: int) -> Listener:
    """Listen at a TCP address; port 0 takes a free one. AddressInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise AddressInUse(
            f"cannot listen at {host} port {port}", str(error), _inet_remedy(error, port)
        ) from error
    sock.setblocking(False)
    return Listener(sock)


def bind_udp(host: str, port: int, family: int) -> socket.socket:
    """A non-blocking UDP socket at an address of this host. AddressInUse."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise AddressInUse(
            f"cannot receive at {host} port {port}", str(error), _inet_remedy(error, port, "lnup")
        ) from error
    sock.setblocking(False)
    return sock


async def resolve(host: str, port: int, kind: socket.SocketKind) -> tuple[int, tuple[str, int]]:
    """Family and address of the first that a name or an address stands for. AddressUnknown."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind)
    except OSError as error:
        remedy = "give an address, as in 127.0.0.1"
        raise AddressUnknown(f"{host} is no address, and no name of one", str(error), remedy) from error
    family, _, _, _, address = found[0]
    return int(family), (str(address[0]), int(address[1]))


def _inet_remedy(error: OSError, port: int, ss: str = "ltnp") -> str:
    if error.errno == errno.EADDRINUSE:
        return f"see who has it: ss -{ss} 'sport = :{port}'; or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "choose a port above 1023, or run it as root"
    return "choose an address of this host: ip -br address shows them; 127.0.0.1 is always one"
