# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands in the guest, over nothing but its console, with their output, errors and exit codes kept apart.

run() is subprocess.run(shell=True, stdin=DEVNULL) in the guest: each command has a shell of its own, so that
a `cd` or a syntax error ends with it.  Output stands between markers that hold a random token:

    @vnic:TOKEN:begin@ NL  stdout  @vnic:TOKEN:mid:CODE@ NL  stderr  @vnic:TOKEN:end@ NL

The markers are printed by functions that attach() defines in the guest's interactive shell; what is typed is
`vnic_run TOKEN 'command'`, so the terminal's echo of it holds no marker.  They run in a subshell that
outlives Ctrl-C, so that an interrupted command's output, errors and code (130) arrive like any other's.
Whatever the output contains - prompts, echoes, no final newline - is given back as it was: the terminal's CR
NL is NL again.  Kernel messages below KERN_CRIT are kept off the console meanwhile (they would land in the
middle of outputs); they are in dmesg.

Long or multi-line commands travel as files.  Files travel as base64, up to the guest in CHUNK pieces that are
acknowledged one by one: the terminal's line discipline buffers 4 KiB and its flip buffers 64 KiB
(Linux drivers/tty), and drop what comes beyond.
"""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from guest.vm.console import Console, Pattern
from guest.vm.errors import CommandFailed, GuestError, GuestTimeout

PROMPT = b"vnic# "
COMMAND_TIMEOUT_S = 30.0
CHUNK = 16 * 1024
LINE_LIMIT = 512
"""Longest command typed as a line; busybox's line editor takes 1024 bytes."""

_KILLED = 128 + 9

INTERRUPT = b"\x03"
END_OF_FILE = b"\x04"

_PREPARATIONS = (
    "dmesg -n 2",
    'vnic_mark() { printf "@vnic:%s@\\n" "$1"; }',
    (
        'vnic_run() { ( trap : INT; vnic_mark $1:begin; sh -c "$2" </dev/null 2>/tmp/.vnic.err;'
        " vnic_mark $1:mid:$?; [ ! -s /tmp/.vnic.err ] || cat /tmp/.vnic.err; vnic_mark $1:end; ) }"
    ),
    # The program's own shell says that it begins: an interrupt that comes right after that finds it there.
    (
        "vnic_tty() { ( trap : INT; sh -c '"
        'printf "@vnic:%s@\\n" $1:begin; set -- "$2"; eval "shift; $1"'
        '\' sh $1 "$2"; vnic_mark $1:mid:$?; ) }'
    ),
    'vnic_push() { stty -echo; vnic_mark $1:begin; base64 -d >>"$2"; vnic_mark $1:mid:$?; stty echo; }',
)


@dataclass(frozen=True)
class Result:
    """A finished command: exit code (128 + n for signal n), text, wall-clock seconds on the host."""

    command: str
    code: int
    out: str
    err: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.code == 0

    def check(self) -> Result:
        """Itself; CommandFailed if the code is not 0."""
        if self.code != 0:
            raise CommandFailed(self.command, self.code, self.out, self.err)
        return self


class Shell:
    """The interactive shell on a guest's console."""

    def __init__(
        self,
        console: Console,
        prompt: bytes = PROMPT,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self.console = console
        self.prompt = prompt
        self._token = token

    def attach(self, timeout: float = 20.0) -> None:
        """Get to a fresh prompt and define the helper functions; call it again after a reboot."""
        self.console.spawn.forget()
        self.console.send(b"\n")
        self._await_prompt(timeout)
        for line in _PREPARATIONS:
            self._type(line)
            self._await_prompt(timeout)

    def _type(self, line: str) -> None:
        self.console.send(line.encode() + b"\n")

    def _await_prompt(self, timeout: float) -> None:
        self.console.wait_for(self.prompt, timeout, what="the prompt")

    def run(self, command: str, timeout: float = COMMAND_TIMEOUT_S) -> Result:
        """Run to its end; GuestTimeout after `timeout` s, with Ctrl-C sent and what it printed till then."""
        out, err, code, seconds = self._run_raw(command, timeout)
        return Result(command, code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), seconds)

    def check(self, command: str, timeout: float = COMMAND_TIMEOUT_S) -> str:
        """run(), CommandFailed for any code but 0, and only its output."""
        return self.run(command, timeout).check().out

    def _run_raw(self, command: str, timeout: float) -> tuple[bytes, bytes, int, float]:
        token, began = self._token(), time.monotonic()
        self._type(f"vnic_run {token} {self._quoted(command, token)}")
        try:
            code, out = self._body(token, timeout)
            err = self._until(f"@vnic:{token}:end@\r\n", began + timeout)
            self._await_prompt(10.0)
        except GuestTimeout as error:
            raise self._timed_out(command, timeout, token, error) from None
        return out, err, code, time.monotonic() - began

    def _quoted(self, command: str, token: str) -> str:
        quoted = shlex.quote(command)
        if len(quoted.encode()) <= LINE_LIMIT and command.isprintable():
            return quoted
        script = f"/tmp/.vnic.{token}.sh"
        self.push(command.encode(), script)
        return shlex.quote(f"sh {script}; code=$?; rm -f {script}; exit $code")

    def _body(self, token: str, timeout: float) -> tuple[int, bytes]:
        """(exit code, bytes between the begin and the mid marker)."""
        deadline = time.monotonic() + timeout
        self._until(f"@vnic:{token}:begin@\r\n", deadline)
        out = self._until(f"@vnic:{token}:mid:", deadline)
        return int(self._until("@\r\n", deadline)), out

    def _until(self, marker: str, deadline: float) -> bytes:
        left = max(0.0, deadline - time.monotonic())
        return self.console.wait_for(marker.encode(), left).replace(b"\r\n", b"\n")

    def _timed_out(self, command: str, timeout: float, token: str, error: GuestTimeout) -> GuestTimeout:
        """The error to raise, after Ctrl-C and an attempt to get what it said and the prompt back."""
        fact = f"in the guest, `{command}` did not end within {timeout:g} s"
        self.console.send(INTERRUPT)
        try:
            self._until(f"@vnic:{token}:end@\r\n", time.monotonic() + 5.0)
            self._await_prompt(5.0)
        except GuestTimeout:
            fact += ", nor after Ctrl-C"
        return GuestTimeout(fact, self.console.last_lines(), error.remedy)

    def interrupt(self, timeout: float = 10.0) -> bool:
        """Ctrl-C; whether the prompt came back."""
        self.console.send(INTERRUPT)
        try:
            self._await_prompt(timeout)
        except GuestTimeout:
            return False
        return True

    def spawn(self, command: str) -> Program:
        """Start a program that talks to the terminal; it has the console until it ends."""
        token = self._token()
        self._type(f"vnic_tty {token} {self._quoted(command, token)}")
        self._until(f"@vnic:{token}:begin@\r\n", time.monotonic() + 10.0)
        return Program(self, command, token)

    def background(self, command: str) -> Job:
        """Start a command that runs beside others, its output in files."""
        stem = f"/tmp/.vnic-job.{self._token()}"
        # The outer shell outlives a signal to the group, to note how the command took it.
        run = f"sh -c {shlex.quote(command)} >{stem}.out 2>{stem}.err </dev/null"
        inner = f"trap : HUP INT TERM; : >{stem}.up; {run}; echo $? >{stem}.code"
        started = f"until test -e {stem}.up; do sleep 0.02; done"
        pid = self.check(f"setsid sh -c {shlex.quote(inner)} >/dev/null 2>&1 & {started}; echo $!")
        return Job(self, command, stem, int(pid), time.monotonic())

    def push(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write a file in the guest; meant for some hundred KiB (about 100 KiB/s under TCG)."""
        self._type(f": >{shlex.quote(path)}")
        self._await_prompt(10.0)
        for start in range(0, len(data), CHUNK):
            self._push_piece(data[start : start + CHUNK], path)
        self._type(f"chmod {mode:o} {shlex.quote(path)}")
        self._await_prompt(10.0)

    def _push_piece(self, piece: bytes, path: str) -> None:
        token, deadline = self._token(), time.monotonic() + COMMAND_TIMEOUT_S
        self._type(f"vnic_push {token} {shlex.quote(path)}")
        self._until(f"@vnic:{token}:begin@\r\n", deadline)
        self.console.send(base64.encodebytes(piece) + END_OF_FILE)
        self._until(f"@vnic:{token}:mid:", deadline)
        code = int(self._until("@\r\n", deadline))
        self._await_prompt(10.0)
        if code != 0:
            raise CommandFailed(f"base64 -d >>{path}", code, "", "\n".join(self.console.last_lines(5)))

    def pull(self, path: str, timeout: float = 60.0) -> bytes:
        """Read a file of the guest; CommandFailed if it can't be read."""
        return base64.b64decode(self.check(f"base64 {shlex.quote(path)}", timeout))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the guest the size of the terminal that shows its console."""
        self._type(f"stty rows {rows} columns {columns}")
        self._await_prompt(10.0)

    def poweroff(self) -> None:
        """Ask for the end and return at once; Machine.wait_exit() sees it."""
        self._type("poweroff -f")

    def reboot(self) -> None:
        """Ask for a reboot and return at once; needs Vm.reboot, and attach() afterwards."""
        self._type("reboot -f")


class Program:
    """A program on the guest's terminal; a context manager that ends it with Ctrl-C if it still runs."""

    def __init__(self, shell: Shell, command: str, token: str) -> None:
        self._shell, self.command, self._token = shell, command, token
        self._began = time.monotonic()
        self._seen: list[bytes] = []
        self._code: int | None = None

    def expect(self, pattern: Pattern, timeout: float = COMMAND_TIMEOUT_S) -> re.Match[bytes] | bytes:
        """Wait for it in the program's output and the echo of what was sent; the match."""
        console = self._shell.console
        self._seen.append(console.wait_for(pattern, timeout))
        after = console.spawn.after
        self._seen.append(after if isinstance(after, bytes) else b"")
        match = console.spawn.match
        return match if isinstance(match, re.Match) else self._seen[-1]

    def send(self, data: bytes | str) -> None:
        """Type as if at the terminal."""
        self._shell.console.send(data.encode() if isinstance(data, str) else data)

    def sendline(self, line: str = "") -> None:
        """Type a line and Enter."""
        self.send(line + "\n")

    def eof(self) -> None:
        """Ctrl-D; the end of its input, if typed at the start of a line."""
        self.send(END_OF_FILE)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.send(INTERRUPT)

    def wait(self, timeout: float = COMMAND_TIMEOUT_S) -> Result:
        """Until it ends; everything it showed since spawn(), echoes included, is the result's `out`."""
        deadline = time.monotonic() + timeout
        console = self._shell.console
        self._seen.append(console.wait_for(f"@vnic:{self._token}:mid:".encode(), timeout))
        self._code = int(console.wait_for(b"@\r\n", max(1.0, deadline - time.monotonic())))
        console.wait_for(self._shell.prompt, 10.0, what="the prompt")
        text = b"".join(self._seen).replace(b"\r\n", b"\n").decode("utf-8", "replace")
        return Result(self.command, self._code, text, "", time.monotonic() - self._began)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._code is None:
            with contextlib.suppress(GuestError):  # whatever ended the guest, the next wait tells
                self._shell.interrupt()


class Job:
    """A command running beside others in the guest."""

    def __init__(self, shell: Shell, command: str, stem: str, pid: int, began: float) -> None:
        self._shell, self.command, self._stem, self.pid, self._began = shell, command, stem, pid, began

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._shell.run(f"test -s {self._stem}.code").ok

    def kill(self, signal: str = "TERM") -> None:
        """Signal its whole process group; no error if it has ended."""
        self._shell.run(f"kill -{signal} -{self.pid}")

    def wait(self, timeout: float = COMMAND_TIMEOUT_S) -> Result:
        """Until it ends, and its output; GuestTimeout leaves it running."""
        stem = self._stem
        ended = f"until test -s {stem}.code || ! kill -0 {self.pid} 2>/dev/null; do sleep 0.1; done"
        told = f"cat {stem}.out; cat {stem}.err >&2; code=$(cat {stem}.code 2>/dev/null); rm -f {stem}.*"
        got = self._shell.run(f"{ended}; {told}; exit ${{code:-{_KILLED}}}", timeout)
        return Result(self.command, got.code, got.out, got.err, time.monotonic() - self._began)
