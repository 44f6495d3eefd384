# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end as a process of its own, for verbs that also hold a terminal.

The console of ``vnic vm`` waits in system calls, the back end in its event loop, and neither may wait for the other.  A
process of its own also gives the back end a processor of its own.  It ends with us however we end (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from guest.vm.process import Child
from guest.vm.rundir import RunDir
from vnic.cli.serve import PAGE, READY
from vnic.errors import BackendError, BackendTimeout

READY_S = 30.0
"""From start to ready line: 1 s on an idle machine."""
END_S = 2.0
REPORT_S = 120.0
"""To end with a report: 20 connections with their plots take 8 s on an idle machine."""
_POLL_S = 0.02
_LOG_LINES = 15
_COMPLAINTS = ("WARNING ", "ERROR ", "CRITICAL ")


def serve_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a back end with these arguments of ``vnic serve``."""
    return [sys.executable, "-m", "vnic", "serve", *arguments]


class Backend:
    """``vnic serve`` as a child; a context manager that ends it."""

    def __init__(self, arguments: Sequence[str], rundir: RunDir, end_s: float = END_S) -> None:
        """``end_s``: how long it may take to end after SIGTERM."""
        self._end_s = end_s
        self.argv = serve_command(arguments)
        self.log = rundir.path / "backend.log"
        with self.log.open("wb") as sink:
            self._child = Child(self.argv, sink)
        rundir.register(self._child)
        self.pid, self.pidfd = self._child.pid, self._child.pidfd

    def await_ready(self, deadline_s: float = READY_S) -> str:
        """Its ready line; BackendError if it ends before, BackendTimeout after ``deadline_s`` seconds."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            ended = self._child.wait(_POLL_S)
            line = self._line_of(READY)
            if line:
                return line
            if ended is not None:
                raise self.obituary()
        self._child.end()
        raise BackendTimeout(
            f"the back end was not ready after {deadline_s:g} s", self._evidence(), self._remedy()
        )

    def page(self) -> str:
        """The address of its live page once it is ready, "" if it has none."""
        return self._line_of(PAGE).removeprefix(PAGE).strip()

    def _line_of(self, head: str) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return next((line for line in lines if line.startswith(head)), "")

    @property
    def running(self) -> bool:
        return self._child.returncode is None

    def obituary(self) -> BackendError:
        """What to raise when it ended unasked: its own words where it ended by an error that it explained."""
        code = self._child.wait(2.0)
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        error = BackendError(f"the back end ended: {how}", self._evidence(), self._remedy())
        if code is not None and code > 0:
            error.exit_code = code
        return error

    def complaints(self) -> list[str]:
        """What it logged as a warning or worse while it worked, for a user who would not look into its log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return [line for line in lines if line.startswith(_COMPLAINTS)][-_LOG_LINES:]

    def _evidence(self) -> str:
        said = self.log.read_text("utf-8", "replace").strip().splitlines()[-_LOG_LINES:]
        return "it said:\n" + "\n".join(said) if said else "it said nothing"

    def _remedy(self) -> str:
        """Not this very command: its socket's directory is gone with the run."""
        return "do what it says; if that does not help, `vnic vm --dry-run` shows the commands to run by hand"

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._child.end(self._end_s)
        self._child.close()
