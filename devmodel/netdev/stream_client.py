# SPDX-License-Identifier: GPL-2.0-or-later
"""A Port at the connecting end of a stream socket: QEMU listens (`-netdev stream,server=on`, `-netdev socket,listen=`).

The wire is stream.py's. What is decided here is when to connect: at once, and again `retry_s` after an attempt
failed (`connect_failures`) or a connection ended, for as long as the port is open. So either side may be started
first, and a QEMU that was ended and started again is found. QEMU (measured with 7.2) takes one connection at a time and
leaves a second one in its queue until the first has ended: such a port is up, and nobody answers.

An attempt never blocks: a unix socket whose queue is full says so, TCP goes on in the background and is given
CONNECT_S. Names are resolved once, when the port is made.

A TCP connection from a port to itself is possible where nobody listens and the kernel happens to choose that port as
our own (RFC 9293, simultaneous open): such a one is dropped as a failure.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket

from devmodel.listener import check_unix_path, resolve
from devmodel.netdev.stream import StreamPort

log = logging.getLogger(__name__)

RETRY_S = 0.5
CONNECT_S = 10.0

Address = str | tuple[str, int]


class StreamClient(StreamPort):
    """See the module. Made by `await StreamClient.connect(...)`; belongs to the loop that ran it."""

    def __init__(
        self,
        address: Address,
        family: int,
        loop: asyncio.AbstractEventLoop,
        name: str,
        mtu: int,
        software_gso: bool,
        retry_s: float,
    ) -> None:
        super().__init__(loop, name, mtu, software_gso)
        self.address = address
        self._family = family
        self._retry_s = retry_s
        self._open = True
        self._pending: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told = False

    @classmethod
    async def connect(
        cls,
        address: Address,
        *,
        name: str = "stream",
        mtu: int = 1500,
        software_gso: bool = True,
        retry_s: float = RETRY_S,
    ) -> StreamClient:
        """A port that connects to a unix path or to (host, port), now or once somebody listens there. TransportError
        for an address that nobody can ever listen at."""
        loop = asyncio.get_running_loop()
        if isinstance(address, str):
            check_unix_path(address)
            family = int(socket.AF_UNIX)
        else:
            family, address = await resolve(*address, socket.SOCK_STREAM)
        port = cls(address, family, loop, name, mtu, software_gso, retry_s)
        port._try()
        return port

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._give_up_pending()
        self._disconnect()
        if self._timer is not None:
            self._timer.cancel()

    def _ended(self) -> None:
        self._try_later()

    def _try_later(self) -> None:
        if self._open:
            self._timer = self._loop.call_later(self._retry_s, self._try)

    def _try(self) -> None:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex(self.address)
        if code == errno.EINPROGRESS:
            self._pending = sock
            self._loop.add_writer(sock.fileno(), self._settled)
            self._timer = self._loop.call_later(CONNECT_S, self._settled, errno.ETIMEDOUT)
        else:
            self._done(sock, code)

    def _settled(self, code: int = 0) -> None:
        """The attempt under way succeeded, failed or took too long."""
        sock = self._give_up_pending(keep=True)
        if sock is not None:
            self._done(sock, code or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _give_up_pending(self, keep: bool = False) -> socket.socket | None:
        sock, self._pending = self._pending, None
        if sock is None:
            return None
        self._loop.remove_writer(sock.fileno())
        if self._timer is not None:
            self._timer.cancel()
        if not keep:
            sock.close()
        return sock

    def _done(self, sock: socket.socket, code: int) -> None:
        if code == 0 and self._family != socket.AF_UNIX and _is_its_own_peer(sock):
            code = errno.ECONNREFUSED
        if code == 0:
            self._told = False
            self._connect(sock)
            return
        sock.close()
        self._count["connect_failures"] += 1
        if not self._told:
            self._told = True
            log.info("%s: nobody at %s yet (%s)", self.name, self.address, os.strerror(code))
        self._try_later()


def _is_its_own_peer(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:
        return True
