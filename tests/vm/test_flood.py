# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest floods its server: who was connected stays connected, new clients get in, memory stays flat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guest.vm.machine import Guest

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
MODES = ("syn", "ack", "rst", "data", "frag", "scan")
PACKETS = 40_000
FLOOD_S = 12
GROWTH_MIB = 4.0
"""What a flood may add to the resident set once every table has been filled: pages of the allocator."""
SIZE, RATE = 4_500_000, "100k"
"""The transfer that goes on meanwhile takes 45 s at the least, at curl's own pace."""


def resident_mib(pid: int) -> float:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


def counters(guest: Guest) -> dict[str, int]:
    """The server's TcpExt."""
    text = guest.check(f"curl -sS http://{SERVER}/proc/net/netstat", 30)
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("TcpExt:"))
    return dict(zip(names, map(int, values), strict=True))


def flood(guest: Guest, mode: str, packets: int) -> int:
    """Flood, with a new client in the middle of it; how many packets were sent."""
    job = guest.shell.background(f"vnicflood {mode} {SERVER} 7 -n {packets} -t {FLOOD_S}")
    hello = guest.check(f"echo {mode} | timeout 20 nc -N {SERVER} 7", 30)
    assert hello == f"{mode}\n", "a new client did not get through"
    said = dict(pair.split("=") for pair in job.wait(60).check().out.split())
    return int(said["sent"])


@pytest.mark.timeout(600)
def test_guest_that_floods_harms_nobody(backends: Any, boot: Boot) -> None:
    guest = boot(nic=backends.start("vhost-user"))
    (backend,) = backends.running
    guest.check(f"curl -sS -o /dev/null http://{SERVER}/bytes/1000000", 30)
    for mode in MODES:  # fills the tables
        flood(guest, mode, PACKETS // 5)
    transfer = guest.shell.background(
        f"curl -sS --limit-rate {RATE} -D /tmp/headers -o /tmp/body http://{SERVER}/bytes/{SIZE}"
    )
    before, sizes = counters(guest), {"": resident_mib(backend.pid)}
    for mode in MODES:
        sent = flood(guest, mode, PACKETS)
        sizes[mode] = resident_mib(backend.pid)
        assert transfer.running() or mode != "syn", "the transfer was over before the floods began"
        print(f"{mode}: {sent} packets, resident set {sizes[mode]:.1f} MiB")
    transfer.wait(120).check()
    assert guest.check("sha256sum /tmp/body", 30).split()[0] in guest.check("cat /tmp/headers")
    after = counters(guest)
    assert after["TCPReqQFullDoCookies"] > before["TCPReqQFullDoCookies"]
    assert after["SyncookiesSent"] > before["SyncookiesSent"]
    assert after["SyncookiesFailed"] > before["SyncookiesFailed"]
    assert max(sizes.values()) - sizes[""] < GROWTH_MIB, sizes
