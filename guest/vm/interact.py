# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's terminal on the guest's console.

A terminal is put into raw mode, so that every key, Ctrl-C too, is the guest's; it is put back whatever
happens.  Ctrl-A is ours, as with QEMU's -nographic: Ctrl-A x ends the session, Ctrl-A Ctrl-A sends one,
Ctrl-A h helps.  A terminal that hangs up, or an output nobody reads any more, ends the session too.

Input that is no terminal (`echo 'nc 10.0.2.2 7' | make vm`) is typed as it comes.  At its end the guest is
watched: once it stands at its prompt it gets `exit`, which powers it off; if it shows nothing for EOF_QUIET_S
and is not at its prompt, a program is waiting for input and gets Ctrl-D, the end of its.  One that
neither ends nor says a word at EOF_TRIES of them gets Ctrl-C: Debian's nc stays for as long as its peer does.

The session ends with the guest: its power off, QEMU's death, its kernel's panic, Ctrl-A x, or Ctrl-C where
input is no terminal (a KeyboardInterrupt, which passes through).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import termios
import threading
import time
import tty
from collections.abc import Iterator
from enum import Enum

from guest.vm.errors import GuestError, GuestLeft
from guest.vm.machine import Guest, Machine
from guest.vm.shell import END_OF_FILE, INTERRUPT, PROMPT

ESCAPE = b"\x01"
HELP = b"\r\n[Ctrl-A x: leave and end the guest; Ctrl-A Ctrl-A: send Ctrl-A; Ctrl-A h: this]\r\n"
EOF_QUIET_S = 5.0
EOF_TRIES = 6
"""Half a minute in all, which a command that works in silence may take after the end of input."""
PANIC_QUIET_S = 1.0
_TAIL = 256
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[@-~]")
_TICK_S = 0.1
"""How often a panic, and the prompt after the end of input, are looked for."""


class Outcome(Enum):
    """Why a session without error ended."""

    GUEST_OFF = "the guest switched itself off"
    LEFT = "the user left"


class _Keys:
    """Splits what was typed into bytes for the guest and escape commands."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> tuple[bytes, list[bytes]]:
        """(bytes for the guest, escape commands met) - nothing after an `x` counts."""
        guest, commands = bytearray(), []
        for key in (data[i : i + 1] for i in range(len(data))):
            if not self._escaped:
                self._escaped = key == ESCAPE
                guest += b"" if self._escaped else key
                continue
            self._escaped = False
            if key == ESCAPE:
                guest += key
            else:
                commands.append(key.lower())
        return bytes(guest), commands


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[bool]:
    """Raw mode for as long as it lasts; False, and nothing done, if `fd` is no terminal."""
    if not os.isatty(fd):
        yield False
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield True
    finally:
        with contextlib.suppress(termios.error):  # EIO: it hung up, there is nothing to restore
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def interact(machine: Machine, stdin_fd: int = 0, stdout_fd: int = 1, prompt: bytes = PROMPT) -> Outcome:
    """Join the two until the guest is off or the user leaves; GuestPanic and QemuDied as they come.

    Starts with what the console has said and nobody has taken, or else with a fresh prompt.  The machine is
    not closed.
    """
    session = _Session(machine, stdin_fd, stdout_fd, prompt)
    with raw_terminal(stdin_fd) as is_terminal:
        session.escapes = is_terminal
        try:
            return session.run()
        finally:
            machine.console.divert(None)


def interact_with(guest: Guest, stdin_fd: int = 0, stdout_fd: int = 1) -> Outcome:
    """interact(), with the guest told the size of the terminal."""
    if os.isatty(stdout_fd):
        size = os.get_terminal_size(stdout_fd)
        guest.shell.resize(size.lines, size.columns)
    return interact(guest.machine, stdin_fd, stdout_fd, guest.shell.prompt)


class _Session:
    def __init__(self, machine: Machine, stdin_fd: int, stdout_fd: int, prompt: bytes) -> None:
        self._machine, self._console = machine, machine.console
        self._stdin, self._stdout, self._prompt = stdin_fd, stdout_fd, prompt
        self._keys = _Keys()
        self._tail = b""
        self._quiet_since = time.monotonic()
        self._input_ended = False
        self._unheeded = 0
        self._output_lost = False
        self._output = threading.Lock()
        self.escapes = True

    def run(self) -> Outcome:
        with self._output:  # what comes from now on waits till the older is shown
            kept = self._console.divert(self._show)
            self._write(kept)
        if not kept:
            self._console.send(b"\n")
        while not self._output_lost:
            sources = [self._machine.pidfd] + ([] if self._input_ended else [self._stdin])
            ready, _, _ = select.select(sources, [], [], _TICK_S)
            if self._machine.pidfd in ready:
                return self._guest_gone()
            if self._stdin in ready and self._type(self._read()):
                return Outcome.LEFT
            if self._console.panic is not None and self._is_quiet_for(PANIC_QUIET_S):
                raise self._console.panic
            if self._input_ended:
                self._see_it_out()
        return Outcome.LEFT

    def _show(self, data: bytes) -> None:
        """Called on the console's reading thread."""
        with self._output:
            self._write(data)

    def _write(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-_TAIL:]
        self._quiet_since = time.monotonic()
        self._unheeded = 0
        while data and not self._output_lost:
            try:
                data = data[os.write(self._stdout, data) :]
            except BlockingIOError:
                select.select([], [self._stdout], [], 1.0)
            except OSError:
                self._output_lost = True

    def _read(self) -> bytes:
        try:
            return os.read(self._stdin, 4096)
        except OSError:  # EIO: the terminal hung up
            return b""

    def _type(self, data: bytes) -> bool:
        """Whether the user wants to leave."""
        if not data:
            self._input_ended = True
            self._quiet_since = time.monotonic()
            return self.escapes  # a terminal has no end but its hang-up
        typed, commands = self._keys.feed(data) if self.escapes else (data, [])
        if b"h" in commands:
            self._show(HELP)
        if typed:
            self._console.send(typed)
        return b"x" in commands

    def _is_quiet_for(self, seconds: float) -> bool:
        return time.monotonic() - self._quiet_since >= seconds

    def _see_it_out(self) -> None:
        """Input has ended: bring the guest to its end, one step each time it falls quiet."""
        if self._at_prompt():
            if self._is_quiet_for(3 * _TICK_S):
                self._tail = b""
                self._console.send(b"exit\n")
        elif self._is_quiet_for(EOF_QUIET_S):
            self._console.send(END_OF_FILE if self._unheeded < EOF_TRIES else INTERRUPT)
            self._unheeded += 1
            self._quiet_since = time.monotonic()

    def _at_prompt(self) -> bool:
        """A line editor may send escape sequences after its prompt."""
        return _ESCAPES.sub(b"", self._tail).endswith(self._prompt)

    def _guest_gone(self) -> Outcome:
        """Show the last words, then say how it ended."""
        try:
            self._console.take(1, 5.0)
        except GuestLeft:
            return Outcome.GUEST_OFF
        except GuestError:
            raise
        raise GuestError("QEMU ended and its console is still open")
