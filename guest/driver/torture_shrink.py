# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory whose file is cut short after it was mapped: row 18 of docs/bad-inputs.md.

Whoever touches such memory gets SIGBUS, and a back end in a language without signal handlers that return dies of it. So
this is given to a back end of its own, which `Settings.start` says how to start; without that the case is skipped. To
die of that is the outcome that is to be expected (DIED); one that hangs up, or calls the ring broken, does better.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from guest.driver.errors import BackendAbsent, BackendHungUp, BackendSilent, FeatureMissing
from guest.driver.torture import (
    BROKEN,
    CLOSED,
    CRASHED,
    DIED,
    HUNG,
    REFUSED,
    STALLED,
    Baseline,
    Case,
    Victim,
)
from guest.driver.virtio_net import RX, TX

START_S: Final = 10.0
DEATH_S: Final = 2.0
_POLL_S: Final = 0.05


@contextlib.contextmanager
def _started(command: tuple[str, ...]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A back end that listens, as a child; "{}" in its command is where."""
    with tempfile.TemporaryDirectory(prefix="vnic-torture-") as folder:
        path = os.path.join(folder, "s")
        argv = [word.replace("{}", path) for word in command]
        try:
            child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise FeatureMissing(f"--start {' '.join(command)} does not start", str(error)) from error
        try:
            until = time.monotonic() + START_S
            while not os.path.exists(path):
                if child.poll() is not None or time.monotonic() > until:
                    raise FeatureMissing(
                        f"no back end listens at {path} after {' '.join(argv)}",
                        f"exit code {child.returncode}",
                    )
                time.sleep(_POLL_S)
            yield child, path
        finally:
            child.kill()
            child.wait()


def _meet(victim: Victim) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            victim.connect()
            return
        except BackendAbsent:
            if time.monotonic() > until:
                raise
        time.sleep(_POLL_S)


def _shrunk(victim: Victim) -> str:
    command = victim.settings.start
    if not command:
        raise FeatureMissing(
            "this kills a back end", "it needs one of its own: --start 'vnic serve --vhost-user {}'"
        )
    with _started(command) as (child, path), Victim(replace(victim.settings, path=path), Baseline()) as inner:
        _meet(inner)
        inner.start(sealed=False)
        # From here on this process must not touch that memory either.
        os.ftruncate(inner.memory.fd, 0)
        inner.backend.kick(RX)
        inner.backend.kick(TX)
        return _fate(child, inner)


def _fate(child: subprocess.Popen[bytes], victim: Victim) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return DIED if child.wait(DEATH_S) == -signal.SIGBUS else CRASHED
    if TX in victim.backend.broken_rings():
        return BROKEN
    try:
        victim.alive()
    except BackendHungUp:
        return CLOSED
    except BackendSilent:
        return HUNG
    return STALLED


CASES: Final[list[Case]] = [
    Case(
        18,
        "a file that is cut short after it was mapped",
        _shrunk,
        frozenset({DIED, CLOSED, BROKEN, STALLED, REFUSED}),
    )
]
