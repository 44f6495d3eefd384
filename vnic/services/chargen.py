# SPDX-License-Identifier: GPL-2.0-or-later
"""The Character Generator Protocol, RFC 864: lines of 72 characters out of 95, each begun one further than the last.

What the client sends is thrown away, and so is its end of file (``nc 10.0.2.2 19 </dev/null`` still reads): the flow
stops when the connection does.  The pattern repeats after 95 lines, so one constant block of 7030 bytes serves all.
"""

from __future__ import annotations

import asyncio

from vnic.services.base import StreamService

PORT = 19

LINE_LENGTH = 72
_PRINTABLE = bytes(range(0x20, 0x7F))  # the ASCII printing characters, space included
PATTERN = b"".join(
    (_PRINTABLE + _PRINTABLE)[start : start + LINE_LENGTH] + b"\r\n" for start in range(len(_PRINTABLE))
)
TURN = 16
"""Chunks written before others have their turn: a reader faster than us never makes the transport pause."""
_CHUNK = PATTERN * 9  # about 63 KiB a write: one full GSO frame


class Chargen(StreamService):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._feed()

    def data_received(self, data: bytes) -> None:
        """RFC 864: "any data received is thrown away"."""

    def eof_received(self) -> bool:
        return True  # half open: we go on writing

    def resume_writing(self) -> None:
        super().resume_writing()
        self._feed()

    def _feed(self) -> None:
        for _ in range(TURN):
            if self.paused or self.transport.is_closing():
                return
            self.transport.write(_CHUNK)
        asyncio.get_running_loop().call_soon(self._feed)
