# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that end when we do, and that are told apart from later ones with the same number.

A process is named by its pid and its start time (field 22 of /proc/PID/stat, proc(5), in clock ticks since
boot): a pid alone may have been given to a stranger.  Every child gets a process group of its own, so that a
Ctrl-C at the terminal reaches us alone and we end the children in order, and PR_SET_PDEATHSIG, so that a
SIGKILL of ours is theirs too.  That signal fires when the *thread* that started the child ends: start
children from a thread that lives as long as they do (prctl(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: the child of a threaded process must not load libraries.
_libc = ctypes.CDLL(None, use_errno=True)


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which `pid` started; None if there is no such process (or it is a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether the very process that had `pid` and start time `started` still runs."""
    return start_time(pid) == started


def _die_with(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died between fork and prctl: the signal will never come
        os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """A running program whose end can be polled for and which close() always brings about."""

    def __init__(self, argv: Sequence[str], output: IO[bytes] | int, cwd: Path | None = None) -> None:
        """Start `argv` with no stdin, stdout and stderr to `output`; FileNotFoundError as subprocess."""
        parent = os.getpid()
        self.argv = list(argv)
        self.started_at = time.monotonic()
        self._popen = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            process_group=0,
            preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - calls one prctl, nothing that locks
        )
        self.pid = self._popen.pid
        self.start_time = start_time(self.pid) or 0
        self.pidfd = os.pidfd_open(self.pid)

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._popen.poll()

    def wait(self, timeout: float) -> int | None:
        """Exit code, or None if it still runs after `timeout` seconds."""
        if self.pidfd >= 0:
            select.select([self.pidfd], [], [], max(0.0, timeout))
        return self._popen.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send to the whole group, as long as the leader is not reaped (its number is ours till then)."""
        if self._popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def end(self, term_s: float = 2.0, kill_s: float = 5.0) -> int | None:
        """SIGTERM, `term_s` later SIGKILL; None if it even survives that for `kill_s` s."""
        for number, patience in ((signal.SIGTERM, term_s), (signal.SIGKILL, kill_s)):
            if patience > 0:
                self.signal(number)
            if self.wait(patience) is not None:
                break
        return self._popen.poll()

    def close(self) -> None:
        """End it if it runs, and free the pidfd."""
        self.end()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
