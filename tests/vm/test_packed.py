# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's driver of packed virtqueues: transfers, a reboot, a back end that dies."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from guest.vm.machine import Guest

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
SIZE = 16 << 20
RING_PACKED = 34  # virtio 1.2, section 6


def packed_guest(backends: Any, boot: Boot, machine: str, **settings: Any) -> Guest:
    nic = replace(backends.start("vhost-user"), packed=True)
    return boot(nic=nic, machine=machine, **settings)


def transfer(guest: Guest) -> None:
    """16 MiB down and up again over packed rings, with equal SHA-256."""
    assert guest.check("cat /sys/bus/virtio/devices/virtio0/features")[RING_PACKED] == "1"
    guest.check(f"curl -sS -D /tmp/headers -o /tmp/body http://{SERVER}/bytes/{SIZE}", 60)
    digest = guest.check("sha256sum /tmp/body", 60).split()[0]
    assert digest in guest.check("cat /tmp/headers")
    answer = guest.check(f"curl -sS -T /tmp/body http://{SERVER}/upload", 60)
    assert digest in answer
    assert str(SIZE) in answer


@pytest.mark.parametrize("machine", ["microvm", "q35"])
def test_packed_rings_carry_data_both_ways_before_and_after_a_reboot(
    backends: Any, boot: Boot, machine: str
) -> None:
    guest = packed_guest(backends, boot, machine, reboot=True)
    transfer(guest)
    guest.reboot()
    assert guest.ready["dhcp"] == "ok"
    transfer(guest)


def test_paused_guest_goes_on_with_packed_rings(backends: Any, boot: Boot) -> None:
    guest = packed_guest(backends, boot, "microvm")
    transfer(guest)
    guest.machine.monitor.execute("stop")
    guest.machine.monitor.execute("cont")
    transfer(guest)


def test_back_end_killed_and_restarted_finds_where_the_packed_rings_stand(backends: Any, boot: Boot) -> None:
    guest = packed_guest(backends, boot, "microvm")
    transfer(guest)
    backends.kill(signal.SIGKILL)
    backends.start("vhost-user")
    # QEMU tries again each second, with the indexes that the rings were first started with.
    guest.check(f"for i in $(seq 20); do ping -c 1 -W 1 {SERVER} >/dev/null && break; done", 60)
    transfer(guest)
