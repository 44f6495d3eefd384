# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves from one QEMU to another, each with a back end of its own, in the middle of what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guest.vm import migration
from guest.vm.args import VhostUser
from guest.vm.machine import Guest, Machine, incoming
from guest.vm.rundir import RunDir

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
MIB = 1 << 20
UPLOAD = 2 * MIB
MEMORY_MIB = 256


class Destination:
    """The machine that a guest is to move to, and its back end; the source's socket is known to it."""

    def __init__(self, backends: Any, source: RunDir, artifacts: Path) -> None:
        self.socket = source.socket_path("move.sock")
        self.rundir = RunDir.create()
        self.artifacts = artifacts / "there"
        self.artifacts.mkdir()
        self.backends = type(backends)(self.rundir, self.artifacts)
        self.machine: Machine | None = None

    def start(self, guest: Guest, *options: str, **card: Any) -> Machine:
        nic = self.backends.start("vhost-user", *(options or ("--take-over", str(self.socket))))
        assert isinstance(nic, VhostUser)
        vm = replace(guest.machine.vm, nics=(replace(nic, **card),))
        self.machine = incoming(vm, self.rundir, self.artifacts, progress=print)
        return self.machine

    def close(self) -> None:
        if self.machine is not None:
            self.machine.close()
        self.backends.close()
        self.rundir.close()

    def log(self) -> str:
        return self.backends.running[0].log.read_text()


@pytest.fixture
def there(backends: Any, rundir: RunDir, artifacts: Path) -> Iterator[Destination]:
    made = Destination(backends, rundir, artifacts)
    yield made
    made.close()


def await_size(guest: Guest, path: str, size: int, seconds: float) -> None:
    step = f"until [ $(stat -c %s {path} 2>/dev/null || echo 0) -ge {size} ]; do sleep 0.1; done"
    guest.check(step, seconds)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_download_upload_and_idle_connection_go_on_where_the_guest_went(
    backends: Any, boot: Boot, there: Destination, packed: bool
) -> None:
    size = 16 * MIB
    nic = backends.start("vhost-user", "--hand-over", str(there.socket))
    guest = boot(nic=replace(nic, packed=packed), memory_mib=MEMORY_MIB)
    machine = there.start(guest, packed=packed)
    url = f"http://{SERVER}/bytes/{size}"
    get = f"curl -sS -D /tmp/headers -o /tmp/body --limit-rate {size // 4} {url}"
    guest.shell.background(get)
    guest.check(f"dd if=/dev/urandom of=/tmp/up bs=64k count={UPLOAD >> 16} 2>/dev/null", 30)
    slowly = (
        f"for i in $(seq 0 {(UPLOAD >> 16) - 1}); do dd if=/tmp/up bs=64k skip=$i count=1; sleep 0.06; done"
    )
    guest.shell.background(f"({slowly}; sleep 1000) 2>/dev/null | nc {SERVER} 7 > /tmp/up.back")
    guest.shell.background(f"mkfifo /tmp/say; (exec 3<>/tmp/say; cat <&3) | nc {SERVER} 7 > /tmp/echoed")
    guest.check("until [ -p /tmp/say ]; do sleep 0.05; done; echo before > /tmp/say", 10)
    await_size(guest, "/tmp/echoed", 7, 10)
    await_size(guest, "/tmp/body", size // 8, 60)

    moved = guest.migrate_to(machine)
    assert guest.monitor.status() == "postmigrate"
    moved.check("echo after > /tmp/say")
    await_size(moved, "/tmp/echoed", 13, 20)
    assert moved.check("cat /tmp/echoed").split() == ["before", "after"]
    assert int(moved.check("stat -c %s /tmp/up.back")) < UPLOAD  # it still goes on
    await_size(moved, "/tmp/body", size, 60)
    await_size(moved, "/tmp/up.back", UPLOAD, 60)
    assert moved.check("sha256sum /tmp/body", 60).split()[0] in moved.check("cat /tmp/headers")
    assert moved.run("cmp /tmp/up /tmp/up.back", 30).ok
    assert "ESTABLISHED" in moved.check(f"curl -sS --max-time 20 http://{SERVER}/", 30)
    assert "its connections were taken over" in there.log()
    assert "handed over" in backends.running[0].log.read_text()


@pytest.mark.heavy
def test_guest_of_two_queue_pairs_moves_and_its_old_qemu_ends_at_once(
    backends: Any, boot: Boot, there: Destination
) -> None:
    nic = backends.start("vhost-user", "--hand-over", str(there.socket))
    guest = boot(nic=replace(nic, queues=2), machine="q35", smp=2, memory_mib=MEMORY_MIB)
    machine = there.start(guest, queues=2)
    size = 64 * MIB
    url = f"http://{SERVER}/bytes/{size}"
    guest.shell.background(f"curl -sS -D /tmp/headers -o /tmp/body --limit-rate {size // 8} {url}")
    await_size(guest, "/tmp/body", size // 8, 60)
    moved = guest.migrate_to(machine)
    guest.close()
    await_size(moved, "/tmp/body", size, 200)
    assert moved.check("sha256sum /tmp/body", 60).split()[0] in moved.check("cat /tmp/headers")


def test_guest_whose_migration_is_cancelled_goes_on_where_it_is(
    backends: Any, boot: Boot, there: Destination
) -> None:
    nic = backends.start("vhost-user", "--hand-over", str(there.socket))
    guest = boot(nic=nic, memory_mib=MEMORY_MIB)
    machine = there.start(guest)
    size = 8 * MIB
    url = f"http://{SERVER}/bytes/{size}"
    guest.shell.background(f"curl -sS -D /tmp/headers -o /tmp/body --limit-rate {size // 2} {url}")
    await_size(guest, "/tmp/body", 1, 20)
    guest.monitor.execute("migrate-set-parameters", {"max-bandwidth": 8 * MIB})
    guest.monitor.execute("migrate", {"uri": f"unix:{migration.incoming_path(machine)}"})
    await_size(guest, "/tmp/body", size // 2, 60)  # in the meantime the rings log
    assert guest.monitor.execute("query-migrate")["status"] == "active"
    guest.monitor.execute("migrate_cancel")
    await_size(guest, "/tmp/body", size, 60)
    assert guest.check("sha256sum /tmp/body", 60).split()[0] in guest.check("cat /tmp/headers")
    assert guest.monitor.execute("query-migrate")["status"] == "cancelled"
    assert "handed over" not in backends.running[0].log.read_text()
