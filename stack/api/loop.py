# SPDX-License-Identifier: GPL-2.0-or-later
"""An event loop whose network is a Stack, for asyncio applications that know nothing of it.

    with asyncio.Runner(loop_factory=StackEventLoop) as runner: ...
    loop.network = aio.Runner(stack, loop)

From there on ``loop.create_server``, ``create_datagram_endpoint`` and the ``loop.sock_*`` calls, and so all that is
built on them (asyncio.start_server, aiohttp, uvicorn), use the Stack:

    call                         the Stack                          the machine, as in any other loop
    create_server                host and port, or a bsd.Socket     a socket.socket
    create_datagram_endpoint     local_addr or remote_addr          a socket.socket, family AF_UNIX
    sock_recv, sock_sendall ...  a bsd.Socket                       a socket.socket

Everything else (timers, subprocesses, unix sockets, signals, executors) is the machine's.  As long as ``network`` is
None so is the network.  Hosts are addresses, "localhost" or None; the Stack asks no name server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from stack.api import aio
from stack.api.bsd import Socket

__all__ = ["StackEventLoop"]

_LOCALHOST = "127.0.0.1"


class StackEventLoop(asyncio.SelectorEventLoop):
    """See the module's text.  ``network`` is the Stack's ``aio.Runner``, made for this loop."""

    def __init__(self) -> None:
        super().__init__()
        self.network: aio.Runner | None = None

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        sock: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        family: int = 0,
        flags: int = 1,
        **options: Any,
    ) -> Any:
        """asyncio's, on the Stack.  ``family`` and ``flags``, which are for names, are not looked at there."""
        if self.network is None or (sock is not None and not isinstance(sock, Socket)):
            return await super().create_server(
                protocol_factory,
                host,
                port,
                sock=sock,
                reuse_address=reuse_address,
                reuse_port=reuse_port,
                family=family,
                flags=flags,
                **options,
            )
        return await aio.create_server(
            self.network,
            protocol_factory,
            _hosts(host),
            port or 0,
            sock=sock,
            reuse_address=reuse_address is not False,
            reuse_port=bool(reuse_port),
            **options,
        )

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: Any = None,
        **options: Any,
    ) -> Any:
        """asyncio's, on the Stack."""
        if self.network is None or sock is not None or not isinstance(local_addr or remote_addr, tuple):
            return await super().create_datagram_endpoint(
                protocol_factory,
                local_addr,
                remote_addr,
                reuse_port=reuse_port,
                allow_broadcast=allow_broadcast,
                sock=sock,
                **options,
            )
        return await aio.create_datagram_endpoint(
            self.network,
            protocol_factory,
            local_addr,
            remote_addr,
            reuse_port=bool(reuse_port),
            allow_broadcast=bool(allow_broadcast),
        )

    def _network(self, sock: object) -> aio.Runner | None:
        return self.network if isinstance(sock, Socket) else None

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """asyncio's, also of a bsd.Socket; so are those that follow."""
        runner = self._network(sock)
        return await (super().sock_recv(sock, n) if runner is None else aio.sock_recv(runner, sock, n))

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        runner = self._network(sock)
        if runner is None:
            return await super().sock_recv_into(sock, buf)
        return await aio.sock_recv_into(runner, sock, buf)

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        runner = self._network(sock)
        await (super().sock_sendall(sock, data) if runner is None else aio.sock_sendall(runner, sock, data))

    async def sock_accept(self, sock: Any) -> Any:
        runner = self._network(sock)
        return await (super().sock_accept(sock) if runner is None else aio.sock_accept(runner, sock))

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> Any:
        runner = self._network(sock)
        if runner is None:
            return await super().sock_recvfrom(sock, bufsize)
        return await aio.sock_recvfrom(runner, sock, bufsize)

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> int:
        runner = self._network(sock)
        if runner is None:
            return await super().sock_sendto(sock, data, address)
        return await aio.sock_sendto(runner, sock, data, address)


def _hosts(host: str | Sequence[str] | None) -> str | list[str] | None:
    if host is None or isinstance(host, str):
        return _LOCALHOST if host == "localhost" else host
    return [_LOCALHOST if one == "localhost" else one for one in host]
