# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that reboot, back ends that die and come back, listeners that are full: a card has to live through it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest.vm.args import VhostUser, Vm
from guest.vm.machine import Guest
from guest.vm.machine import boot as boot_vm
from guest.vm.rundir import RunDir

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
QUIET = ("vnic.quiet", "vnic.plain")
MACHINES = ("microvm", "q35")
LAZY_SERVER = Path(__file__).parents[1] / "helpers" / "lazy_server.py"


def fetch(guest: Guest, timeout: float = 30.0) -> None:
    """A new connection that carries data both ways."""
    assert "ESTABLISHED" in guest.check(f"curl -sS --max-time {timeout:g} http://{SERVER}/", timeout + 10)


@pytest.mark.parametrize("machine", MACHINES)
def test_guest_reboot_keeps_the_back_end_and_gets_a_network_again(
    backends: Any, boot: Boot, machine: str
) -> None:
    guest = boot(nic=backends.start("vhost-user"), machine=machine, reboot=True)
    fetch(guest)
    guest.reboot()
    assert guest.ready["dhcp"] == "ok"
    fetch(guest)


@pytest.mark.parametrize("machine", MACHINES)
def test_back_end_killed_and_restarted_serves_new_connections(
    backends: Any, boot: Boot, machine: str
) -> None:
    guest = boot(nic=backends.start("vhost-user"), machine=machine)
    fetch(guest)
    backends.kill(signal.SIGKILL)
    backends.start("vhost-user")
    # QEMU tries again each second.
    guest.check(f"for i in $(seq 20); do ping -c 1 -W 1 {SERVER} >/dev/null && break; done", 60)
    fetch(guest)
    assert "200" in guest.check(
        f"curl -sS -o /dev/null -w '%{{http_code}} ' http://{SERVER}/bytes/5000000", 60
    )


def test_back_end_that_connects_is_killed_and_another_one_finds_the_guest(backends: Any, boot: Boot) -> None:
    """QEMU listens, and has no word of when to connect again."""
    guest = boot(nic=backends.start("vhost-user-to"), append=QUIET)
    fetch(guest)
    backends.kill(signal.SIGKILL)
    backends.start("vhost-user-to")
    guest.check(f"for i in $(seq 20); do ping -c 1 -W 1 {SERVER} >/dev/null && break; done", 60)
    fetch(guest)
    assert "200" in guest.check(
        f"curl -sS -o /dev/null -w '%{{http_code}} ' http://{SERVER}/bytes/5000000", 60
    )


def test_qemu_that_listens_goes_and_comes_and_is_found_again(
    backends: Any, vm_of: Callable[..., Vm], artifacts: Path
) -> None:
    """One back end, that guest after guest; beside a place at which it listens, as two ports of a switch."""
    path = backends.path("q.sock")
    backends.serve("--vhost-user-to", str(path), "--vhost-user", str(backends.path("l.sock")))
    for number, nic in enumerate(
        (VhostUser(path=path, listens=True), VhostUser(path=backends.path("l.sock")))
    ):
        vm = vm_of(nics=(nic,), append=QUIET)
        for again in range(2 - number):
            with boot_vm(vm, None, artifacts / f"{number}{again}", progress=print) as guest:
                assert guest.ready["dhcp"] == "ok"
                fetch(guest)


def test_back_end_restarted_twice_during_a_transfer_leaves_the_card_usable(backends: Any, boot: Boot) -> None:
    guest = boot(nic=backends.start("vhost-user"))
    for _ in range(2):
        job = guest.shell.background(f"curl -sS -o /dev/null --max-time 20 http://{SERVER}/bytes/2000000000")
        guest.check("sleep 1")
        backends.kill(signal.SIGKILL)
        backends.start("vhost-user")
        job.kill("KILL")
        guest.check(f"for i in $(seq 20); do ping -c 1 -W 1 {SERVER} >/dev/null && break; done", 60)
        fetch(guest)


@pytest.fixture
def lazy_server(rundir: RunDir) -> Iterator[subprocess.Popen[str]]:
    """A listener with backlog 2 on port 7000 that accepts only when it is told to."""
    argv = [sys.executable, str(LAZY_SERVER), str(rundir.socket_path("net0.sock")), "2"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
        child.kill()


def ask(server: subprocess.Popen[str], command: str) -> str:
    """One command, one line of answer."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(command + "\n")
    server.stdin.flush()
    return server.stdout.readline().strip()


def test_full_accept_queue_lets_backlog_plus_one_in_and_the_next_after_an_accept(
    lazy_server: subprocess.Popen[str], boot: Boot, rundir: RunDir
) -> None:
    guest = boot(nic=VhostUser(path=rundir.socket_path("net0.sock")), append=("vnic.nodhcp",))
    guest.check("ip addr add 10.0.2.15/24 dev eth0")
    waiting = [guest.shell.background(f"nc {SERVER} 7000") for _ in range(5)]
    guest.check("sleep 2")
    assert ask(lazy_server, "queue") == "3"
    states = guest.check("ss -tnH dst 10.0.2.2").split("\n")
    assert sum("SYN-SENT" in line for line in states) == 2, states
    assert int(ask(lazy_server, "ListenOverflows")) > 0
    for _ in range(3):
        assert ask(lazy_server, "accept").startswith("10.0.2.15:")
    # The two that were dropped try again, at the latest 2 s after.
    guest.check(
        "for i in $(seq 50); do ss -tnH dst 10.0.2.2 | grep -q SYN-SENT || break; sleep 0.2; done", 30
    )
    assert ask(lazy_server, "queue") == "2"
    for job in waiting:
        job.kill("KILL")
