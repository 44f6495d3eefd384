# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a guest, its QEMU or the host under it.

Every error has three parts: the fact (what happened), the evidence (why we think so) and the remedy (what
to type).  `exit_code` is what a command line that ends because of the error returns.

.. code-block:: text

    Exception
     +-- GuestError                  never raised itself
          +-- BadArguments           2  the virtual machine described cannot exist
          +-- HostLacks              3  this host cannot do it
          |    +-- QemuMissing          no qemu-system-x86_64 on PATH
          |    +-- QemuTooOld           it lacks a netdev or machine type that was asked for
          |    +-- KvmUnusable          KVM was demanded, and is missing, closed to us, or hangs
          |    +-- SocketPathError      a socket path too long, or held by somebody who lives
          |    +-- RunDirError          no private directory for sockets could be made
          +-- QemuDied               3  QEMU ended although nobody asked it to
          +-- MigrationFailed        1  QEMU could not move a guest to another QEMU
          +-- QmpError               1  QEMU refused a monitor command, or the monitor closed
          +-- CommandFailed          1  a command in the guest ended with a nonzero code
          +-- GuestLeft              1  the guest switched itself off while something was awaited
          +-- GuestPanic             4  the kernel in the guest panicked or oopsed
          +-- GuestTimeout           5  a deadline passed
               +-- GuestSilent       5  no byte came from the console for too long
               +-- QmpTimeout        5  QEMU did not answer its monitor
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "BadArguments",
    "CommandFailed",
    "GuestError",
    "GuestLeft",
    "GuestPanic",
    "GuestSilent",
    "GuestTimeout",
    "HostLacks",
    "KvmUnusable",
    "MigrationFailed",
    "QemuDied",
    "QemuMissing",
    "QemuTooOld",
    "QmpError",
    "QmpTimeout",
    "RunDirError",
    "SocketPathError",
]


class GuestError(Exception):
    """Root of the tree; `fact` is one line, `evidence` and `remedy` may be several."""

    exit_code: ClassVar[int] = 1

    def __init__(self, fact: str, evidence: str = "", remedy: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.evidence = evidence
        self.remedy = remedy

    def __str__(self) -> str:
        parts = (("", self.fact), ("why: ", self.evidence), ("try: ", self.remedy))
        return "\n".join(_labelled(label, text) for label, text in parts if text)


def _labelled(label: str, text: str) -> str:
    first, *rest = text.rstrip("\n").split("\n")
    return "\n".join([f"{label}{first}", *(" " * len(label) + line for line in rest)])


class BadArguments(GuestError):
    """Met when a Vm or Nic contradicts itself, before anything is started."""

    exit_code = 2


class HostLacks(GuestError):
    """Met before or instead of starting a guest; `vnic doctor` shows the same facts."""

    exit_code = 3


class QemuMissing(HostLacks):
    """No QEMU for x86_64 was found on PATH (or where VNIC_QEMU points)."""


class QemuTooOld(HostLacks):
    """QEMU is there but was built without, or is older than, what the guest needs."""


class KvmUnusable(HostLacks):
    """KVM was asked for by name; with accel "auto" the guest runs under TCG instead."""


class SocketPathError(HostLacks):
    """A Unix socket cannot be bound at that path: 107 bytes is the limit (unix(7)), or it is in use."""


class RunDirError(HostLacks):
    """The directory for sockets could not be made private to this user."""


class QemuDied(GuestError):
    """QEMU ended unasked: `returncode` as in subprocess (negative: killed by that signal)."""

    exit_code = 3

    def __init__(
        self, returncode: int, stderr: str, command: str, remedy: str = "", uptime: float = 0.0
    ) -> None:
        how = f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
        said = stderr.strip("\n") or "(it wrote nothing to stderr)"
        super().__init__(
            f"QEMU ended after {uptime:.1f} s: {how}",
            f"its stderr:\n{said}\ncommand line:\n{command}",
            remedy
            or "`vnic vm --dry-run` shows commands to run by hand, `vnic doctor` what this QEMU can do",
        )
        self.returncode = returncode
        self.stderr = stderr
        self.command = command


class QmpError(GuestError):
    """QEMU answered a monitor command with an error, or closed the monitor under it."""


class MigrationFailed(GuestError):
    """QEMU could not move the guest to another QEMU; it still runs where it was."""


class CommandFailed(GuestError):
    """Raised by Shell.check(); `code` is the guest command's own exit code."""

    def __init__(self, command: str, code: int, out: str, err: str) -> None:
        said = "\n".join(part.rstrip("\n") for part in (out[-2000:], err[-2000:]) if part.strip())
        super().__init__(f"in the guest, `{command}` ended with code {code}", said or "(it printed nothing)")
        self.code = code


class GuestLeft(GuestError):
    """QEMU ended with code 0 during a wait: power off, or reboot under -no-reboot."""


def _tail(lines: Sequence[str]) -> str:
    if not lines:
        return "the console never showed a line"
    return f"last {len(lines)} console lines:\n" + "\n".join(lines)


class _ConsoleError(GuestError):
    """Shares the shape of all that is known from the console; `lines` are its last ones."""

    def __init__(self, fact: str, lines: Sequence[str] = (), remedy: str = "", context: str = "") -> None:
        evidence = "\n".join(part for part in (context, _tail(lines)) if part)
        super().__init__(fact, evidence, remedy)
        self.lines = list(lines)


class GuestPanic(_ConsoleError):
    """The kernel said so on the console: panic, BUG, oops, double fault."""

    exit_code = 4


class GuestTimeout(_ConsoleError):
    """Something awaited from the guest did not come before its deadline."""

    exit_code = 5


class GuestSilent(GuestTimeout):
    """The console gave no byte for longer than the wait allows; the guest may spin."""


class QmpTimeout(GuestTimeout):
    """QEMU's main loop did not answer: it hangs, or waits for a back end that does not answer it."""
