# SPDX-License-Identifier: GPL-2.0-or-later
"""Echo, discard and chargen against a transport that notes what is asked of it."""

from __future__ import annotations

import asyncio
import itertools

from vnic.services.chargen import LINE_LENGTH, PATTERN, TURN, Chargen
from vnic.services.discard import Discard
from vnic.services.echo import Echo


class Transport(asyncio.Transport):
    """Takes ``room`` bytes, then asks the protocol to pause."""

    def __init__(self, protocol: asyncio.Protocol, room: int = 1 << 30) -> None:
        super().__init__()
        self.protocol, self.room = protocol, room
        self.written = bytearray()
        self.reading = True
        self.closing = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written += data
        if len(self.written) >= self.room:
            self.protocol.pause_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


def test_echo_data_comes_back() -> None:
    echo = Echo()
    transport = Transport(echo)
    echo.connection_made(transport)
    echo.data_received(b"ab")
    echo.data_received(b"\0c")
    assert transport.written == b"ab\0c"


def test_echo_paused_stops_reading_until_resumed() -> None:
    echo = Echo()
    transport = Transport(echo, room=3)
    echo.connection_made(transport)
    echo.data_received(b"abc")
    assert not transport.reading
    echo.resume_writing()
    assert transport.reading


def test_discard_data_is_not_answered() -> None:
    discard = Discard()
    transport = Transport(discard)
    discard.connection_made(transport)
    discard.data_received(b"x" * 100)
    assert transport.written == b""
    assert not transport.closing


def test_chargen_lines_rotate_through_the_95_characters() -> None:
    lines = PATTERN.split(b"\r\n")[:-1]
    assert len(lines) == 95
    assert {len(line) for line in lines} == {LINE_LENGTH}
    assert lines[0].startswith(b' !"#')
    assert all(after[:-1] == before[1:] for before, after in itertools.pairwise(lines))
    assert lines[0][:-1] == lines[-1][1:]


def test_chargen_paused_writes_no_more_until_resumed() -> None:
    chargen = Chargen()
    transport = Transport(chargen, room=1)
    chargen.connection_made(transport)
    once = len(transport.written)
    assert once > 0
    chargen.resume_writing()
    assert len(transport.written) == 2 * once


def test_chargen_hungry_reader_does_not_keep_the_loop() -> None:
    async def run() -> None:
        chargen = Chargen()
        transport = Transport(chargen)
        chargen.connection_made(transport)
        first = len(transport.written)
        await asyncio.sleep(0)
        assert len(transport.written) == 2 * first
        assert first % TURN == 0
        transport.close()

    asyncio.run(run())


def test_chargen_end_of_file_leaves_it_open() -> None:
    assert Chargen().eof_received() is True
