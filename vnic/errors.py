# SPDX-License-Identifier: GPL-2.0-or-later
"""How every failure reaches the user: fact, evidence, remedy and an exit code.

The layers below have their own exceptions; those that carry ``fact``, ``evidence`` and ``remedy`` are shown as they
are, the others are put into words here.  Exit codes: 0 ok, 1 a test or guest command failed, 2 usage, 3 the host lacks
something, 4 guest panic, 5 a deadline passed; 130 and 143 for an end by SIGINT and SIGTERM where the shell expects it.
"""

from __future__ import annotations

import errno
import os

from devmodel.errors import TransportError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_HOST = 3
EXIT_PANIC = 4
EXIT_TIMEOUT = 5


class VnicError(Exception):
    """Root of the front door's own errors; never raised itself."""

    exit_code = EXIT_FAILED

    def __init__(self, fact: str, evidence: str = "", remedy: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.evidence = evidence
        self.remedy = remedy


class UsageError(VnicError):
    """Options that contradict each other, or a value that cannot be."""

    exit_code = EXIT_USAGE


class BackendError(VnicError):
    """The back end did not start, or ended while it was needed."""

    exit_code = EXIT_HOST


class BackendTimeout(BackendError):
    """The back end gave no ready line in time."""

    exit_code = EXIT_TIMEOUT


class HostIOError(VnicError):
    """The operating system refused a file or socket that was needed."""

    exit_code = EXIT_HOST


_REMEDY_OF_ERRNO = {
    errno.ENOSPC: "free some space (df -h shows where); XDG_RUNTIME_DIR and TMPDIR say where short-lived files go",
    errno.EDQUOT: "free some of your quota; XDG_RUNTIME_DIR and TMPDIR say where short-lived files go",
    errno.EADDRINUSE: "end the program that has it (ss -ltnp shows it), or name another port or path",
    errno.EACCES: "name a path that you may write",
    errno.EPERM: "name a path that you may write",
    errno.EROFS: "name a path on a file system that can be written",
    errno.ENOENT: "make the directory, or name another path",
    errno.EMFILE: "raise the limit: ulimit -n 4096",
    errno.ENOMEM: "give the guest less memory: --memory 128",
}


def from_oserror(error: OSError, doing: str) -> HostIOError:
    """An OSError in three parts; ``doing`` completes "could not ...": "listen on /tmp/x.sock"."""
    name = errno.errorcode.get(error.errno or 0, "OSError")
    where = f": {error.filename}" if error.filename else ""
    evidence = f"{os.strerror(error.errno) if error.errno else error} ({name}){where}"
    remedy = _REMEDY_OF_ERRNO.get(error.errno or 0, "vnic doctor shows what this host has and lacks")
    return HostIOError(f"could not {doing}", evidence, remedy)


def exit_code_of(error: BaseException) -> int:
    """What the process returns when it ends by ``error``."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return EXIT_HOST if isinstance(error, OSError | TransportError) else EXIT_FAILED


def three_parts(error: BaseException) -> tuple[str, str, str]:
    """Fact, evidence and remedy of any exception, its own words where it has them."""
    if isinstance(getattr(error, "fact", None), str):
        return str(error.fact), str(getattr(error, "evidence", "")), str(getattr(error, "remedy", ""))  # type: ignore[attr-defined]
    if isinstance(error, OSError):
        told = from_oserror(error, "go on")
        return told.fact, told.evidence, told.remedy
    kind = type(error).__name__
    return (
        f"an error of vnic itself: {kind}",
        str(error) or "(it carries no text)",
        "run it again with --debug before the verb for the traceback, and report that",
    )


def render(error: BaseException) -> str:
    """The text for stderr: a part a line, the further lines of a part indented below it."""
    fact, evidence, remedy = three_parts(error)
    parts = (("error: ", fact), ("  because: ", evidence), ("  to mend it: ", remedy))
    return "\n".join(_labelled(label, text) for label, text in parts if text)


def _labelled(label: str, text: str) -> str:
    first, *rest = text.rstrip("\n").split("\n")
    return "\n".join([label + first, *("    " + line for line in rest)])
