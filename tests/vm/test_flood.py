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
GROWTH_MIB = 12.0
"""What the floods may add to the resident set: what the tables' limits allow (4 MiB of fragments, 4 MiB of buffered
data) and pages of the allocator. 50 bytes kept of each packet would be more."""
SIZE = 32_000_000
TRANSFER = f"""
curl -sS -D /tmp/headers http://{SERVER}/bytes/{SIZE} | {{
    until test -e /tmp/enough; do dd bs=100000 count=1 iflag=fullblock 2>/dev/null; sleep 1; done
    cat
}} | sha256sum > /tmp/sum
"""
"""Its reader takes 100 kB a second until it may hurry, so that the transfer outlasts every flood. (curl's own
``--limit-rate`` took from 4.6 to 40 s for the same 4.5 MB.)"""


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
    transfer = guest.shell.background(TRANSFER.strip())
    before, sizes = counters(guest), {"": resident_mib(backend.pid)}
    for mode in MODES:
        sent = flood(guest, mode, PACKETS)
        sizes[mode] = resident_mib(backend.pid)
        assert transfer.running(), f"the transfer was over in the {mode} flood: {transfer.wait(1)}"
        print(f"{mode}: {sent} packets, resident set {sizes[mode]:.1f} MiB")
    guest.check("touch /tmp/enough")
    transfer.wait(120).check()
    assert guest.check("cat /tmp/sum").split()[0] in guest.check("cat /tmp/headers")
    after = counters(guest)
    assert after["TCPReqQFullDoCookies"] > before["TCPReqQFullDoCookies"]
    assert after["SyncookiesSent"] > before["SyncookiesSent"]
    assert after["SyncookiesFailed"] > before["SyncookiesFailed"]
    assert max(sizes.values()) - sizes[""] < GROWTH_MIB, sizes
