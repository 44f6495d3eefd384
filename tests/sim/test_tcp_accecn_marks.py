# SPDX-License-Identifier: GPL-2.0-or-later
"""Accurate ECN (RFC 9768) between two stacks, over a path whose queue marks, in virtual time."""

from __future__ import annotations

from contextlib import suppress

import pytest

from stack.api.bsd import Socket
from stack.api.path import Path
from stack.api.sim import MSEC, Sim
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.net.ipv4.tcp import tcp_get_info


def test_two_stacks_over_a_marking_path_count_the_same() -> None:
    """1 MiB through 20 Mbit/s with 20 ms of round trip, whose queue marks from 30 KB on: nothing is lost, the link is
    used, the window is reduced once a round trip at most, and both ends know how much was marked."""
    sim = Sim(seed=7)
    tso = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO
    ends = [
        sim.add_stack(f"10.0.0.{n}/24", profile="linux-7.3", sysctl={"tcp_ecn": 3}, features=tso)
        for n in (1, 2)
    ]
    path = Path(rate_bps=20_000_000, delay_ns=10 * MSEC, queue_bytes=1 << 20, ce_bytes=30_000)
    sim.join(*ends, forward=path, backward=Path(delay_ns=10 * MSEC))
    listener = Socket(ends[1])
    listener.bind(("", 80))
    listener.listen(1)
    sender = Socket(ends[0])
    sender.setblocking(False)
    with pytest.raises(BlockingIOError):
        sender.connect(("10.0.0.2", 80))
    sim.run_for(100 * MSEC)
    receiver = listener.accept()[0]
    receiver.setblocking(False)
    nbytes, reductions = _transfer(sim, sender, receiver, 1 << 20)
    seconds = 0.45
    up, down = tcp_get_info(sender._sock.sk), tcp_get_info(receiver._sock.sk)
    assert nbytes == 1 << 20
    assert sim.now_ns() < (0.1 + 1.3 * seconds) * 1e9
    assert 1 <= reductions <= 12
    assert (path.stats.lost, path.stats.overflowed, up["tcpi_total_retrans"]) == (0, 0, 0)
    assert path.stats.marked == down["tcpi_received_ce"] == up["tcpi_delivered_ce"] > 10
    received = [down[f"tcpi_received_{kind}_bytes"] for kind in ("e1", "e0", "ce")]
    delivered = [up[f"tcpi_delivered_{kind}_bytes"] for kind in ("e1", "e0", "ce")]
    assert sum(received) == 1 << 20
    assert delivered == received
    assert (up["tcpi_ecn_mode"], up["tcpi_accecn_opt_seen"], up["tcpi_accecn_fail_mode"]) == (2, 2, 0)


def _transfer(sim: Sim, sender: Socket, receiver: Socket, nbytes: int) -> tuple[int, int]:
    """Send so much; what was received, and how often the window was reduced for ECN."""
    data, taken, reductions, reducing = memoryview(bytes(nbytes)), 0, 0, False
    while taken < nbytes:
        if data:
            with suppress(BlockingIOError):
                data = data[sender.send(data) :]
        sim.run_for(2 * MSEC)
        now = sender._sock.sk.icsk_ca_state == 2
        reductions += now and not reducing
        reducing = now
        with suppress(BlockingIOError):
            taken += len(receiver.recv(nbytes))
    sim.run_for(25 * MSEC)
    return taken, reductions
