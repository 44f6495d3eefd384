# SPDX-License-Identifier: GPL-2.0-or-later
"""What a service is started on, and what the simple ones share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

ProtocolFactory = Callable[[], asyncio.Protocol]
DatagramFactory = Callable[[], asyncio.DatagramProtocol]


class Server(Protocol):
    """The part of asyncio.AbstractServer that is needed."""

    def close(self) -> None: ...


class Network(Protocol):
    """Where servers can be opened: an asyncio event loop, or the stack's own (``stack.api.aio``)."""

    async def create_server(self, protocol_factory: ProtocolFactory, host: str, port: int) -> Server:
        """Listen; OSError (EADDRINUSE) when the port is taken."""
        ...

    async def create_datagram_endpoint(
        self, protocol_factory: DatagramFactory, local_addr: tuple[str, int]
    ) -> tuple[Any, Any]:
        """A UDP socket bound to ``local_addr`` that may send broadcasts."""
        ...


class LoopNetwork:
    """The host's own sockets behind the same calls: for tests and for comparing the two stacks."""

    async def create_server(self, protocol_factory: ProtocolFactory, host: str, port: int) -> Server:
        return await asyncio.get_running_loop().create_server(protocol_factory, host, port)

    async def create_datagram_endpoint(
        self, protocol_factory: DatagramFactory, local_addr: tuple[str, int]
    ) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        return await loop.create_datagram_endpoint(
            protocol_factory, local_addr=local_addr, allow_broadcast=True
        )


class StreamService(asyncio.Protocol):
    """Keeps the transport and whether it wants data now."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.paused = False
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
