# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is plugged into a guest while it transfers: the frontend adds a region, the rings go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from guest.vm.machine import Guest
from vnic.control import Client

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
SIZE = 24 << 20
MORE_MIB = 128


def test_memory_is_plugged_in_while_a_transfer_runs(backends: Any, boot: Boot, rundir: Any) -> None:
    control = rundir.path / "control.sock"
    # QEMU 7.2 tells of each region once for each pair.
    nic = replace(backends.start("vhost-user", "--control", str(control)), queues=2)
    guest = boot(
        nic=nic,
        machine="q35",
        append=("memhp_default_state=online",),
        extra=("-m", "256,slots=2,maxmem=1G"),
    )
    had = int(guest.check("grep MemTotal /proc/meminfo").split()[1])
    guest.check(
        f"(curl -sS -D /tmp/h -o /tmp/b http://{SERVER}/bytes/{SIZE}; echo > /tmp/done) > /dev/null 2>&1 &"
    )
    backend = {"id": "more", "qom-type": "memory-backend-memfd", "size": MORE_MIB << 20, "share": True}
    guest.monitor.execute("object-add", backend)
    guest.monitor.execute("device_add", {"id": "dimm0", "driver": "pc-dimm", "memdev": "more"})
    guest.check("for i in $(seq 200); do [ -e /tmp/done ] && exit; sleep 0.1; done; exit 1", 60)
    assert guest.check("sha256sum /tmp/b", 60).split()[0] in guest.check("cat /tmp/h")
    want = had + MORE_MIB * 1024 * 9 // 10
    guest.check(
        "for i in $(seq 100); do set -- $(grep MemTotal /proc/meminfo); "
        f"[ $2 -ge {want} ] && exit; sleep 0.1; done; exit 1",
        30,
    )
    # More than there was at first, so that buffers lie in what was plugged in.
    guest.check(
        "mkdir /m; mount -t tmpfs -o size=150m none /m; cat /tmp/b /tmp/b /tmp/b /tmp/b /tmp/b > /m/c", 60
    )
    digest = guest.check("sha256sum /tmp/b", 60).split()[0]
    assert digest in guest.check(f"curl -sS -T /tmp/b http://{SERVER}/upload", 60)
    with Client(control) as back_end:
        found = back_end.ask("negotiation")
    assert found["regions"] == 2
    assert [ring["running"] for ring in found["rings"]] == [True] * 4
