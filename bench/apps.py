# SPDX-License-Identifier: GPL-2.0-or-later
"""The application under every back end: four asyncio protocols, the same code on vnic's stack and on the host's.

| port     | protocol   | what the client of the image does                                        |
|----------|------------|--------------------------------------------------------------------------|
| base + 0 | OneByte    | connect, read 1 byte, read end of file, close                            |
| base + 1 | PingPong   | write 1 byte, read 1 byte, again                                         |
| base + 2 | Sink       | write N bytes, shut down, read end of file                               |
| base + 3 | Source     | read N bytes (the first 8 that it wrote say how many), read end of file  |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

CHUNK = bytes(range(256)) * 1024  # 256 KiB
BASE_PORT = 7700


class _Base(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)


class OneByte(_Base):
    """One byte and the end of file for each connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(b"x")
        self.transport.close()


class PingPong(_Base):
    """Every byte back at once."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Sink(_Base):
    """Takes everything; the end of file is answered with the end of file."""

    def data_received(self, data: bytes) -> None:
        pass


class Source(_Base):
    """Sends as many bytes as the 8-byte big-endian number asks for, never more than the transport wants."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.request = b""
        self.left = 0
        self.paused = False
        self.done = False

    def data_received(self, data: bytes) -> None:
        self.request += data
        if len(self.request) >= 8:
            self.left = int.from_bytes(self.request[:8], "big")
            self._feed()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._feed()

    def _feed(self) -> None:
        while self.left and not self.paused:
            chunk = CHUNK if self.left >= len(CHUNK) else CHUNK[: self.left]
            self.left -= len(chunk)
            self.transport.write(chunk)
        if not self.left and not self.done:
            # Not from here: CPython's selector transport loses count of its ends if resume_writing() closes it.
            self.done = True
            asyncio.get_running_loop().call_soon(self.transport.close)


APPS: list[Callable[[], asyncio.Protocol]] = [OneByte, PingPong, Sink, Source]
