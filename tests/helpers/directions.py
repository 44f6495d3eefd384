# SPDX-License-Identifier: GPL-2.0-or-later
"""One file from end to end of a line, in the four directions that there are: who connects, and who sends."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from dataclasses import dataclass
from functools import lru_cache

from line import GUEST, SERVER, SERVER6, Line, send_all, sha256_of

DIRECTIONS = ("guest-uploads", "guest-downloads", "stack-uploads", "stack-downloads")
"""Who connects, and what it does then."""


def sender_of(direction: str) -> str:
    """ "guest" or "stack"."""
    return "guest" if direction in ("guest-uploads", "stack-downloads") else "stack"


@lru_cache(maxsize=2)
def payload(size: int) -> bytes:
    """What the stack sends."""
    return random.Random(size).randbytes(size)


@dataclass(frozen=True)
class Report:
    """How a transfer went for the stack's end: its own digest if it received, its round-trip time in microseconds."""

    digest: str
    seconds: float
    rtt_us: int


class _Application:
    """The stack's end; ``size`` bytes are sent, or with 0 everything is received."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Report:
        began = time.monotonic()
        if self.size:
            await send_all(writer, payload(self.size))
            writer.write_eof()
        digest, _ = await sha256_of(reader)
        seconds = time.monotonic() - began
        rtt_us = writer.get_extra_info("tcp_info")["tcpi_rtt"]
        writer.close()
        await writer.wait_closed()
        return Report(digest, seconds, rtt_us)


def _nc(line: Line, direction: str, family: str, size: int, port: int) -> str:
    """The guest's end."""
    v6 = "-6 " if family == "ipv6" else ""
    server = SERVER6 if family == "ipv6" else SERVER
    ends = f"-l {port}" if direction.startswith("stack") else f"{server} {port}"
    if sender_of(direction) == "guest":
        return f"nc {v6}-N {ends} < {line.guest_file(size)}"
    return f"nc {v6}-d {ends} | sha256sum"


def transfer(line: Line, direction: str, family: str, size: int, timeout_s: float) -> Report:
    """Send ``size`` bytes; AssertionError unless they arrive as they were sent, TimeoutError or GuestTimeout if that
    takes longer."""
    if family == "ipv6":
        line.guest_address6()  # a guest that boots has it a second or two after its prompt
    port = line.free_port()
    command = _nc(line, direction, family, size, port)
    application = _Application(size if sender_of(direction) == "stack" else 0)
    if direction.startswith("stack"):
        host = line.guest_address6() if family == "ipv6" else GUEST
        with line.serving(command, port) as job:
            report = line.behind.run(line.connect(application, host, port), timeout_s)
            heard = job.wait(timeout_s).check().out
    else:
        host = SERVER6 if family == "ipv6" else SERVER
        with line.accepting(application, host, port) as said:
            heard = line.guest.check(command, timeout_s)
            report = said.result(timeout_s)
    if sender_of(direction) == "guest":
        assert report.digest == line.guest_digest(size)
    else:
        assert heard.split()[0] == hashlib.sha256(payload(size)).hexdigest()
    return report
