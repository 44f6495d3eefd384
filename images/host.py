# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs of the host that a build runs: apt-get, apt-cache, dpkg-deb and the C compiler.

One callable, so that tests put a scripted host in its place.  Nothing here needs root or changes the host.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from images.errors import HostToolMissing

# Mirrors that accept the connection and then say nothing are what this bounds; a cloud kernel is 27 MB.
COMMAND_TIMEOUT_S = 900.0

PROVIDERS = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "cc": "gcc libc6-dev",
}


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended; `out` is raw because package archives come through it."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace")


class Runner(Protocol):
    """Runs `argv` to its end and reports; a nonzero exit code is not an error here."""

    def __call__(self, argv: Sequence[str], cwd: Path | None = None) -> Result: ...


def run(argv: Sequence[str], cwd: Path | None = None) -> Result:
    """The real runner.  Raises HostToolMissing when the program is not there."""
    # Messages are matched by the errors below ("No space left on device"), so they have to be English.
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise _missing(argv[0]) from None
    except subprocess.TimeoutExpired as expired:
        return Result(124, expired.stdout or b"", f"{argv[0]} gave no result in {COMMAND_TIMEOUT_S:.0f} s")
    return Result(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def _missing(program: str) -> HostToolMissing:
    return HostToolMissing(
        f"the guest image cannot be built: {program} is not installed",
        f"looked on PATH={os.environ.get('PATH', '')}",
        f"apt-get install {PROVIDERS.get(program, program)}   (images are built from Debian packages, on Debian)",
    )


def tail(text: str, lines: int = 8) -> str:
    """The last lines of a command's complaint, as evidence."""
    kept = [line for line in text.strip().splitlines() if line.strip()]
    return "\n".join(kept[-lines:]) or "it said nothing"
