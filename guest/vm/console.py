# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's serial console: everything it says is kept, and a vain wait ends at once.

A thread of its own reads the socket all the time, so that QEMU never blocks on a console nobody reads and
line times are those of arrival.  It writes two transcripts: console.raw (the bytes) and console.log
(`seconds | line`, without escape sequences).  Waiting is pexpect's: `spawn` is a pexpect spawn object over
the bytes that have come and were not yet matched.

A wait ends early, with the last LAST_LINES lines in the error, when

========================  ==========================================================================
the kernel died           GuestPanic.  Looked for in lines that carry printk's own time stamp, so that a
                          guest which prints such words itself is not taken for dead.  SETTLE_S are
                          given for the trace that follows.
no byte for `silence` s   GuestSilent; only if the caller sets a limit, as a boot does: a command that
                          works for a minute without a word is in order
QEMU is gone              what the machine's `obituary` says: QemuDied or GuestLeft
the deadline passed       GuestTimeout
========================  ==========================================================================

Soft lockups and RCU stalls are no reason to give up: a TCG guest on a busy host has them and goes on.
"""

from __future__ import annotations

import contextlib
import io
import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import pexpect
from pexpect.spawnbase import SpawnBase

from guest.vm.errors import GuestError, GuestLeft, GuestPanic, GuestSilent, GuestTimeout

LAST_LINES = 30
SETTLE_S = 0.3
"""Quiet time after the first words of a panic, after which its trace is taken to be complete."""
SETTLE_LIMIT_S = 2.0
BACKLOG_LIMIT = 64 << 20
"""Bytes kept for waits to come; beyond it the reader stops and the guest's console blocks."""

Pattern = bytes | re.Pattern[bytes]

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][0-9A-B]|[=>])")
_STAMP = r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? .*?"
_DEATH = re.compile(
    rf"{_STAMP}(?:Kernel panic - not syncing"
    r"|BUG: (?!soft lockup|workqueue lockup)"
    r"|: [0-9a-f]{4} \[#\d+\]"  # die(): "Oops: 0002 [#1]", "general protection fault: 0000 [#1]"
    r"|PANIC: double fault)"
    r"|^PANIC: early exception"
)


class Transcript:
    """Splits console bytes into lines, keeps the last ones and notices a dying kernel."""

    def __init__(
        self, raw: BinaryIO | None, log: TextIO | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._raw, self._log, self._clock = raw, log, clock
        self._began = clock()
        self._partial = b""
        self._lines: deque[str] = deque(maxlen=1000)
        self.obituary: str | None = None
        """The line that showed the kernel's death."""
        self.died_at = 0.0

    def feed(self, data: bytes) -> None:
        """Take bytes as they came from the console."""
        if self._raw is not None:
            self._raw.write(data)
            self._raw.flush()
        *whole, self._partial = (self._partial + data).split(b"\n")
        for line in whole:
            self._line(_readable(line))
        if self._log is not None:
            self._log.flush()

    def _line(self, text: str) -> None:
        self._lines.append(text)
        if self._log is not None:
            self._log.write(f"{self._clock() - self._began:10.3f} | {text}\n")
        if self.obituary is None and _DEATH.search(text):
            self.obituary, self.died_at = text, self._clock()

    def last(self, count: int = LAST_LINES) -> list[str]:
        """The last lines, the one not yet ended (a prompt, say) included."""
        lines = [*self._lines, _readable(self._partial)] if self._partial else list(self._lines)
        return lines[-count:]

    def close(self) -> None:
        """Write out the line not yet ended and close both files."""
        if self._partial:
            self._line(_readable(self._partial))
            self._partial = b""
        for file in (self._raw, self._log):
            if file is not None:
                file.close()


def _readable(line: bytes) -> str:
    text = _ESCAPES.sub("", line.decode("utf-8", "replace")).rstrip("\r")
    return "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text)


if TYPE_CHECKING:
    _BytesSpawn = SpawnBase[bytes]  # generic in its type stubs only
else:
    _BytesSpawn = SpawnBase


class ConsoleSpawn(_BytesSpawn):
    """pexpect's spawn interface over a Console: expect(), expect_exact(), send(), sendline(), before."""

    def __init__(self, console: Console) -> None:
        super().__init__(timeout=30, maxread=65536)
        self.delayafterread = None
        self.delaybeforesend = None
        self.closed = False
        self._console = console

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:
        """Up to `size` bytes, waiting at most `timeout` s; GuestError as the module says, pexpect.TIMEOUT."""
        return self._console.take(size, 30.0 if timeout is None or timeout < 0 else timeout)

    def send(self, data: bytes | str) -> int:
        """Type something; the number of bytes."""
        raw = data.encode() if isinstance(data, str) else data
        self._console.send(raw)
        return len(raw)

    def sendline(self, data: bytes | str = b"") -> int:
        """Type a line and Enter."""
        return self.send((data.encode() if isinstance(data, str) else data) + b"\n")

    def isalive(self) -> bool:
        """Whether QEMU still holds the other end."""
        return not self._console.at_eof

    def forget(self) -> None:
        """Drop what has come and was not matched."""
        self._console.drop()
        self._buffer = io.BytesIO()
        self._before = io.BytesIO()


class Console:
    """One guest's console over a connected socket, which it takes over."""

    def __init__(
        self,
        sock: socket.socket,
        raw: Path | None = None,
        log: Path | None = None,
        obituary: Callable[[], GuestError] | None = None,
    ) -> None:
        """`obituary` is asked, once the other end is closed, for the error that ends a wait."""
        self._sock = sock
        self._obituary = obituary or (lambda: GuestLeft("the console was closed"))
        self._transcript = Transcript(
            raw.open("ab") if raw is not None else None,
            log.open("a", encoding="utf-8") if log is not None else None,
        )
        self._changed = threading.Condition()
        self._pending = bytearray()
        self._last_byte_at = time.monotonic()
        self._silence: float | None = None
        self._tap: Callable[[bytes], None] | None = None
        self.at_eof = False
        self.bytes_seen = 0
        self.spawn = ConsoleSpawn(self)
        self._thread = threading.Thread(target=self._pump, name="vnic-console", daemon=True)
        self._thread.start()

    # -- the reading thread

    def _pump(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._sock.recv(65536):
                self._arrived(data)
        with self._changed:
            self.at_eof = True
            self._changed.notify_all()

    def _arrived(self, data: bytes) -> None:
        with self._changed:
            self._transcript.feed(data)
            self.bytes_seen += len(data)
            self._last_byte_at = time.monotonic()
            tap = self._tap
            if tap is None:
                self._pending += data
            self._changed.notify_all()
        if tap is not None:
            tap(data)  # outside the lock: a slow terminal holds up the guest's console and nothing else
        with self._changed:
            self._changed.wait_for(lambda: len(self._pending) < BACKLOG_LIMIT or self.at_eof)

    # -- waiting

    def take(self, size: int, timeout: float) -> bytes:
        """Bytes not yet taken, at least one; else raises as the module says, pexpect.TIMEOUT at the end."""
        began = time.monotonic()
        with self._changed:
            while not self._pending:
                pause = self._patience(began, timeout)
                self._changed.wait(pause)
            data = bytes(self._pending[:size])
            del self._pending[:size]
            self._changed.notify_all()
        return data

    def _patience(self, began: float, timeout: float) -> float:
        """Seconds that may be waited before looking again; raises when there is nothing left to wait for."""
        now = time.monotonic()
        limits = [began + timeout]
        if self._transcript.obituary is not None:
            settled = min(self._last_byte_at + SETTLE_S, self._transcript.died_at + SETTLE_LIMIT_S)
            if now >= settled or self.at_eof:
                raise self._panic()
            limits.append(settled)
        if self.at_eof:
            raise self._obituary()
        if self._silence is not None:
            quiet_until = max(self._last_byte_at, self._wait_began) + self._silence
            if now >= quiet_until:
                raise GuestSilent(
                    f"the guest said nothing for {self._silence:g} s", self.last_lines(), _SILENCE_HINT
                )
            limits.append(quiet_until)
        if now >= limits[0]:
            raise pexpect.TIMEOUT(f"nothing more came within {timeout:g} s")
        return min(limits) - now

    def _panic(self) -> GuestPanic:
        line = self._transcript.obituary or ""
        return GuestPanic(
            "the guest's kernel died", self.last_lines(), _PANIC_HINT, f"it said: {line.strip()}"
        )

    def wait_for(
        self,
        pattern: Pattern | Sequence[Pattern],
        timeout: float,
        silence: float | None = None,
        what: str = "",
    ) -> bytes:
        """Wait for one of the patterns; the bytes that came before it.  `spawn.match_index` tells which.

        Bytes are taken literally (and found fast in megabytes of output), compiled patterns are searched.
        GuestPanic, GuestSilent, GuestTimeout, QemuDied or GuestLeft otherwise.
        """
        patterns = [pattern] if isinstance(pattern, (bytes, re.Pattern)) else list(pattern)
        self._wait_began, self._silence = time.monotonic(), silence
        try:
            if all(isinstance(each, bytes) for each in patterns):
                self.spawn.expect_exact(
                    [each for each in patterns if isinstance(each, bytes)], timeout=timeout
                )
            else:
                self.spawn.expect([_compiled(each) for each in patterns], timeout=timeout)
        except pexpect.TIMEOUT:
            wanted = what or " or ".join(repr(_compiled(each).pattern)[1:] for each in patterns)
            fact = f"waited {timeout:g} s for {wanted}, in vain"
            raise GuestTimeout(fact, self.last_lines(), _TIMEOUT_HINT) from None
        finally:
            self._silence = None
        before = self.spawn.before
        return before if isinstance(before, bytes) else b""

    def wait_first_byte(self, timeout: float) -> None:
        """GuestSilent if the console stays mute for that long after QEMU's start; GuestError if QEMU ends."""
        with self._changed:
            self._changed.wait_for(lambda: self.bytes_seen > 0 or self.at_eof, timeout)
        if self.bytes_seen == 0:
            if self.at_eof:
                raise self._obituary()
            raise GuestSilent(f"the guest said nothing in its first {timeout:g} s", (), _SPIN_HINT)

    # -- the rest

    def send(self, data: bytes, timeout: float = 10.0) -> None:
        """Type bytes; GuestTimeout if the guest does not take them, the obituary if QEMU is gone."""
        deadline = time.monotonic() + timeout
        while data:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([], [self._sock], [], left)[1]:
                raise GuestTimeout(
                    f"the guest took no input for {timeout:g} s", self.last_lines(), _TIMEOUT_HINT
                )
            try:
                data = data[self._sock.send(data, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._obituary() from None

    def drop(self) -> None:
        """Forget what has come and was not taken; the transcripts keep it."""
        with self._changed:
            self._pending.clear()
            self._changed.notify_all()

    def last_lines(self, count: int = LAST_LINES) -> list[str]:
        """The last lines seen, without escape sequences."""
        return self._transcript.last(count)

    @property
    def panic(self) -> GuestPanic | None:
        """The kernel's death, if it was seen and has not been forgiven."""
        with self._changed:
            return self._panic() if self._transcript.obituary is not None else None

    def forgive(self) -> None:
        """Forget a panic: the guest is being reset."""
        with self._changed:
            self._transcript.obituary = None

    def divert(self, tap: Callable[[bytes], None] | None) -> bytes:
        """From now on give each piece to `tap`, on the reading thread, instead of keeping it for waits; None
        goes back.  What was kept and not yet taken is returned."""
        with self._changed:
            kept = bytes(self._pending)
            self._pending.clear()
            self._tap = tap
            self._changed.notify_all()
        return kept

    def close(self) -> None:
        """Hang up, end the thread, close the transcripts."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        with self._changed:
            self.at_eof = True
            self._changed.notify_all()
        self._thread.join(5.0)
        self._sock.close()
        with self._changed:
            self._transcript.close()

    _wait_began = 0.0


def _compiled(pattern: Pattern) -> re.Pattern[bytes]:
    return re.compile(re.escape(pattern)) if isinstance(pattern, bytes) else pattern


_PANIC_HINT = "read the whole trace in console.log; if it died while booting: `vnic image verify`"
_SILENCE_HINT = (
    "console.log shows how far it came; if a boot ends there again: `vnic image verify`, or --machine q35"
)
_SPIN_HINT = "microvm under TCG at times spins before its first line: start it again, or use --machine q35"
_TIMEOUT_HINT = "under TCG steps take up to 10 times longer: give it more time, or look into console.log"
