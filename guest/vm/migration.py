# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration from one QEMU to another on this host, over a unix socket in the destination's run directory.

The destination is the same machine with `-incoming`: it waits, with its cards connected to their back ends, until the
guest has come, and lets it run. The source stops it before that, for good (QMP `query-migrate`: completed).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guest.vm.errors import MigrationFailed
from guest.vm.qmp import Monitor
from guest.vm.rundir import RunDir

if TYPE_CHECKING:
    from guest.vm.machine import Machine

SOCKET = "incoming.sock"
POLL_S = 0.02
BANDWIDTH = 1 << 30
"""Bytes a second, for a socket on this host; QEMU's own limit is 128 MiB/s."""
_GOING = ("none", "setup", "active", "device", "pre-switchover", "wait-unplug", "cancelling")


def incoming_words(rundir: RunDir) -> tuple[str, str]:
    """QEMU's arguments to wait for a guest there."""
    return "-incoming", f"unix:{rundir.socket_path(SOCKET)}"


def incoming_path(machine: Machine) -> Path:
    """Where that machine waits."""
    return machine.rundir.socket_path(SOCKET)


def migrate(source: Monitor, destination: Monitor, path: Path, timeout: float) -> dict[str, Any]:
    """Move the guest, and wait until it runs at its destination; QMP's MigrationInfo. MigrationFailed."""
    deadline = time.monotonic() + timeout
    source.execute("migrate-set-parameters", {"max-bandwidth": BANDWIDTH})
    source.execute("migrate", {"uri": f"unix:{path}"})
    info = _await_end(source, deadline, timeout)
    while destination.status() != "running":
        if time.monotonic() > deadline:
            raise MigrationFailed(
                "the guest does not run at its destination", f"its status is {destination.status()}"
            )
        time.sleep(POLL_S)
    return info


def _await_end(source: Monitor, deadline: float, timeout: float) -> dict[str, Any]:
    while True:
        info: dict[str, Any] = source.execute("query-migrate")
        status = info.get("status", "none")
        if status == "completed":
            return info
        if status not in _GOING:
            raise MigrationFailed(f"the migration is {status}", str(info.get("error-desc", info)))
        if time.monotonic() > deadline:
            source.execute("migrate_cancel")
            dirty = info.get("ram", {}).get("dirty-pages-rate", 0)
            raise MigrationFailed(
                f"the migration took more than {timeout:g} s",
                f"the guest writes {dirty} pages a second",
                "give it more time, or a guest with less to do",
            )
        time.sleep(POLL_S)
