# SPDX-License-Identifier: GPL-2.0-or-later
"""Pacing: when a paced socket's packets leave, and that others do not notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.sim import MSEC, SEC
from stack.include.sock import SK_PACING_NEEDED, SK_PACING_NONE
from stack.include.tcp import TCPCB_LOST, tcp_packets_in_flight
from stack.net.core.sock import SO_MAX_PACING_RATE, SOL_SOCKET
from stack.net.ipv4 import tcp_output

Make = Callable[..., Any]
MSS = 1448
RATE = MSS * 1000  # bytes per second: a full segment each millisecond
PACED = ((SOL_SOCKET, SO_MAX_PACING_RATE, RATE),)


def times(segments: list[Any]) -> list[float]:
    """Milliseconds of each segment with payload, from the first."""
    with_data = [s for s in segments if s.payload]
    return [(s.packet.time_ns - with_data[0].packet.time_ns) / MSEC for s in with_data]


@pytest.mark.parametrize(
    ("value", "status", "rate"),
    [
        (RATE, SK_PACING_NEEDED, RATE),
        (-1, SK_PACING_NONE, (1 << 64) - 1),
        ((1 << 33).to_bytes(8, "little"), SK_PACING_NEEDED, 1 << 33),
        (b"\xff" * 8, SK_PACING_NONE, (1 << 64) - 1),
    ],
)
def test_listen_max_pacing_rate_is_inherited_and_turns_pacing_on(
    established: Make, value: int | bytes, status: int, rate: int
) -> None:
    e = established(before=((SOL_SOCKET, SO_MAX_PACING_RATE, value),))
    assert e.sk.sk_pacing_status == status
    assert e.sk.sk_max_pacing_rate == rate


def test_established_paced_first_ten_leave_at_once_then_one_a_millisecond(established: Make) -> None:
    e = established(delay_ns=10 * MSEC, before=PACED)
    e.sock.send(bytes(20 * MSS))
    first = e.flight()
    assert times(first) == [0.0] * 10
    e.conn.send("A")
    gaps = times(e.flight(30 * MSEC))
    assert len(gaps) == 10
    assert gaps == pytest.approx([float(i) for i in range(10)], abs=0.51)


def test_established_not_paced_has_no_timer(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.send(bytes(20 * MSS))
    e.flight()
    e.conn.send("A")
    assert times(e.flight(30 * MSEC)) == [0.0] * 10
    assert e.sk.pacing_timer is None
    assert 0 < e.sk.tcp_wstamp_ns <= e.net.clock.now_ns()


def test_established_paced_a_late_packet_gets_half_of_its_gap_back(established: Make) -> None:
    e = established(delay_ns=10 * MSEC, before=PACED)
    e.sock.send(bytes(10 * MSS))
    e.flight()
    e.conn.send("A")
    e.flight(100 * MSEC)
    e.sock.send(bytes(3 * MSS))
    assert times(e.flight(10 * MSEC)) == [0.0, 0.5, 1.5]


def test_established_paced_retransmissions_wait_as_well(established: Make) -> None:
    e = established(delay_ns=10 * MSEC, before=PACED)
    e.sock.send(bytes(20 * MSS))
    e.flight()
    e.conn.send("A")
    e.flight(60 * MSEC)
    assert e.sk.packets_out == 10
    for skb in list(e.sk.tcp_rtx_queue)[:4]:
        skb.cb.sacked |= TCPCB_LOST
        e.sk.lost_out += 1
    tcp_output.tcp_mstamp_refresh(e.sk)
    tcp_output.tcp_xmit_retransmit_queue(e.sk)
    assert e.sk.retrans_out == 1
    gaps = times(e.flight(10 * MSEC))
    assert gaps == pytest.approx([0.0, 0.5, 1.5, 2.5], abs=0.01)
    assert tcp_packets_in_flight(e.sk) == 10


def test_established_paced_rto_runs_from_when_the_packet_may_leave(established: Make) -> None:
    e = established(before=PACED)
    e.sk.tcp_clock_cache, e.sk.tcp_wstamp_ns = 0, SEC
    before = e.net.clock.now_ns()
    tcp_output.tcp_reset_xmit_timer(e.sk, 1, e.sk.icsk_rto, 250 * 120)
    assert e.sk.icsk_retransmit_timer.when_ns - before == pytest.approx(
        SEC + e.sk.icsk_rto * 4 * MSEC, abs=40 * MSEC
    )


def test_close_paced_timer_does_not_outlive_the_socket(established: Make) -> None:
    e = established(delay_ns=10 * MSEC, before=PACED)
    e.sock.send(bytes(20 * MSS))
    e.flight()
    e.conn.send("A")
    e.sim.run_for(11 * MSEC)
    assert e.sk.pacing_timer.armed
    e.conn.send("RA")
    e.sim.run_for(11 * MSEC)
    assert not e.sk.pacing_timer.armed
