# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's timers in virtual time.  Figures were measured on Linux 6.1; the wheel adds its rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.sim import MSEC, SEC
from stack.include.snmp import LINUX_MIB_TCPABORTONTIMEOUT, LINUX_MIB_TCPKEEPALIVE
from stack.include.tcp_states import TCP_CLOSE, TCP_ESTABLISHED

SOL_SOCKET, SO_KEEPALIVE = 1, 9
IPPROTO_TCP, TCP_USER_TIMEOUT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT = 6, 18, 4, 5, 6
Make = Callable[..., Any]


def times(e: Any, for_ns: int, start: int) -> list[float]:
    return [(s.packet.time_ns - start) / SEC for s in e.flight(for_ns)]


def close_to(got: list[float], nominal: list[float]) -> bool:
    """Each gap at least nominal and at most an eighth and two ticks more: the wheel never fires early."""
    return len(got) == len(nominal) and all(
        n - 0.005 <= g <= n * 1.13 + 0.012 for g, n in zip(got, nominal, strict=True)
    )


def gaps(values: list[float]) -> list[float]:
    return [b - a for a, b in zip([0.0, *values], values, strict=False)]


@pytest.mark.parametrize(
    ("rtt_ms", "rto_ms"), [(0, 204), (20, 224), (50, 252), (100, 304), (500, 1504), (900, 2704)]
)
def test_handshake_rtt_sets_the_rto(established: Make, rtt_ms: int, rto_ms: int) -> None:
    e = established(delay_ns=rtt_ms * MSEC // 2)
    assert rto_ms - 4 <= e.sk.icsk_rto * 4 <= rto_ms


def test_established_segment_never_acknowledged_ends_in_etimedout(established: Make) -> None:
    e = established()
    start = e.sim.now_ns()
    e.sock.send(b"x")
    sent = times(e, 1000 * SEC, start)
    assert len(sent) == 17
    nominal = [0.204, *(0.204 * 2**n for n in range(10)), 120, 120, 120, 120, 120]
    assert close_to(gaps(sent)[1:], nominal)
    with pytest.raises(TimeoutError):
        e.sock.recv(1)
    assert e.net.mib.net_statistics[LINUX_MIB_TCPABORTONTIMEOUT] == 1
    e.conn.expect_nothing(SEC)


def test_established_rto_doubles_without_probes(established: Make) -> None:
    e = established(sysctl={"tcp_early_retrans": 0})
    start = e.sim.now_ns()
    e.sock.send(b"x")
    assert close_to(gaps(times(e, 4 * SEC, start))[1:], [0.204, 0.408, 0.816, 1.632])


def test_established_ack_after_rto_restores_the_timeout(established: Make) -> None:
    e = established(sysctl={"tcp_early_retrans": 0})
    e.sock.send(b"x")
    e.flight(700 * MSEC)
    assert e.sk.icsk_rto > 60
    e.conn.ts_val += 700
    e.conn.send("A")
    e.sim.settle()
    assert e.sk.icsk_backoff == 0
    assert e.sk.packets_out == 0


def test_established_user_timeout_ends_it_earlier(established: Make) -> None:
    e = established()
    e.sock.setsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT, 3000)
    e.sock.send(b"x")
    e.sim.run_for(2900 * MSEC)
    assert e.sk.sk_state == TCP_ESTABLISHED
    e.sim.run_for(1000 * MSEC)
    assert e.sk.sk_state == TCP_CLOSE


def closed_window(established: Make) -> Any:
    e = established(window=0)
    e.sock.send(b"x" * 100)
    return e


def test_established_closed_window_is_probed_with_backoff(established: Make) -> None:
    e = closed_window(established)
    start = e.sim.now_ns()
    probes = []
    while e.sim.now_ns() < start + 20 * SEC:
        for s in e.flight(20 * MSEC):
            probes.append((s.packet.time_ns - start) / SEC)
            assert (e.rel(s), s.payload) == (0, b"")
            e.conn.send("A")
    assert close_to(gaps(probes), [0.204, 0.408, 0.816, 1.632, 3.264, 6.528])
    assert e.sk.sk_state == TCP_ESTABLISHED


def test_established_closed_window_unanswered_gives_up_after_15(established: Make) -> None:
    e = closed_window(established)
    assert len(e.flight(1000 * SEC)) == 15
    with pytest.raises(TimeoutError):
        e.sock.recv(1)


def test_established_window_opens_and_data_go(established: Make) -> None:
    e = closed_window(established)
    e.flight(SEC)
    e.conn.send("A", window=10)
    assert [len(s.payload) for s in e.flight()] == [100]
    assert e.sk.icsk_probes_out == 0


def test_fin_wait1_fin_never_acknowledged_is_forgotten(established: Make) -> None:
    e = established()
    start = e.sim.now_ns()
    e.sock.close()
    sent = times(e, 130 * SEC, start)
    assert len(sent) == 10
    assert 50 < sent[-1] < 60
    assert e.net.snapshot()["tcp"]["connections"] == []
    assert e.net.ipv4.tcp_orphan_count == 0


def test_established_keepalive_silent_peer(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    start = e.sim.now_ns()
    segments = e.flight(9000 * SEC)
    stamps = [(s.packet.time_ns - start) / SEC for s in segments]
    assert [(e.rel(s), s.flags) for s in segments] == [(0, "A")] * 9 + [(1, "RA")]
    assert 7200 <= stamps[0] <= 7332
    assert all(75 <= g <= 77.1 for g in gaps(stamps)[1:])
    assert e.net.mib.net_statistics[LINUX_MIB_TCPKEEPALIVE] == 9
    with pytest.raises(TimeoutError):
        e.sock.recv(1)


def test_established_keepalive_answered_starts_again(established: Make) -> None:
    e = established()
    e.sock.setsockopt(IPPROTO_TCP, TCP_KEEPIDLE, 10)
    e.sock.setsockopt(IPPROTO_TCP, TCP_KEEPINTVL, 5)
    e.sock.setsockopt(IPPROTO_TCP, TCP_KEEPCNT, 2)
    e.sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    for _ in range(3):
        probe = e.conn.expect("A", within_ns=12 * SEC)
        assert e.rel(probe) == 0
        e.conn.send("A")
        e.sim.settle()
    assert e.sk.sk_state == TCP_ESTABLISHED
    assert len(e.flight(30 * SEC)) == 3
    assert e.sk.sk_state == TCP_CLOSE
