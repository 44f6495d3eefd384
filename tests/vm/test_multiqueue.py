# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's driver with several queue pairs: flows of several processors at once, and a reboot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guest.vm.machine import Guest
from vnic.control import Client

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
PAIRS = 4
SIZE = 4 << 20


def receive_queues(control: Path) -> list[dict[str, Any]]:
    with Client(control) as back_end:
        rings = back_end.ask("negotiation")["rings"]
    return [ring for ring in rings if not ring["index"] & 1]


def transfers(guest: Guest) -> None:
    """Eight at once, down and up again, each with its SHA-256."""
    for number in range(8):
        fetch = f"curl -sS -D /tmp/h{number} -o /tmp/b{number} http://{SERVER}/bytes/{SIZE}"
        send = f"curl -sS -T /tmp/b{number} http://{SERVER}/upload > /tmp/u{number}"
        guest.check(f"({fetch} && {send}; echo done > /tmp/d{number}) > /dev/null 2>&1 &")
    guest.check("for i in $(seq 600); do [ $(ls /tmp/d? | wc -l) = 8 ] && exit; sleep 0.1; done; exit 1", 90)
    for number in range(8):
        digest = guest.check(f"sha256sum /tmp/b{number}", 30).split()[0]
        assert digest in guest.check(f"cat /tmp/h{number}")
        assert digest in guest.check(f"cat /tmp/u{number}")
    guest.check("rm /tmp/d?")


@pytest.mark.parametrize(("machine", "packed"), [("microvm", False), ("q35", True)])
def test_flows_of_a_guest_with_four_processors_use_several_queues(
    backends: Any, boot: Boot, rundir: Any, machine: str, packed: bool
) -> None:
    control = rundir.path / "control.sock"
    nic = replace(backends.start("vhost-user", "--control", str(control)), queues=PAIRS, packed=packed)
    guest = boot(nic=nic, machine=machine, smp=PAIRS, reboot=True)
    for life in range(2):
        assert guest.check("ls -d /sys/class/net/eth0/queues/rx-*").split()[-1].endswith(f"rx-{PAIRS - 1}")
        before = {ring["index"]: ring["steered"] for ring in receive_queues(control)}
        transfers(guest)
        rings = receive_queues(control)
        assert [ring["running"] for ring in rings] == [True] * PAIRS
        assert sum(ring["steered"] > before[ring["index"]] for ring in rings) >= 2
        if life == 0:
            guest.reboot()
            assert guest.ready["dhcp"] == "ok"
