# SPDX-License-Identifier: GPL-2.0-or-later
"""What a child sends and when: RTO, tail-loss probe, retransmission, closed window, keepalive; measured on Linux 6.1.

Times are nominal ones plus what the timer wheel adds: up to 4 ms below 0.25 s, 32 ms below 2 s, 256 ms below 16 s, 2 s
below 129 s."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from factworld import MSS, World, gaps_follow, rel, times

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawTcp
from stack.include.tcp_states import TCP_CLOSE
from stack.include.timer import HZ

SOL_SOCKET, SO_KEEPALIVE = 1, 9


def connected(delay_ns: int = 0, **more: Any) -> tuple[World, RawTcp, Socket]:
    sysctl, before = more.pop("sysctl", None), more.pop("before", ())
    w = World(delay_ns=delay_ns, sysctl=sysctl, features=more.pop("features", 0))
    conn, child = w.connect(w.listen(before=before), **more)
    w.mark()
    return w, conn, child


def one_way(rtt_ms: int) -> int:
    """A measured round trip is a little longer than the one that was set up: 0.4 ms here."""
    return rtt_ms * MSEC // 2 + MSEC // 5


# The runs below that end in ETIMEDOUT had a round trip of 12 to 16 ms: their figures are multiples of an RTO of 216 ms.
RTO_216 = 7_500_000


def rto_ms(child: Socket) -> int:
    sk: Any = child.sk
    return int(sk.icsk_rto) * 1000 // HZ


# -- RTO ----------------------------------------------------------------------------------------------------------


@pytest.mark.probe("sender: RTO after the handshake by round trip")
@pytest.mark.parametrize(
    ("rtt", "rto"), [(0, 204), (20, 224), (50, 252), (100, 304), (200, 604), (500, 1504), (900, 2704)]
)
def test_probe_rto_after_the_handshake(rtt: int, rto: int) -> None:
    _, _, child = connected(one_way(rtt))
    assert rto_ms(child) == rto


@pytest.mark.probe("sender: RTO after twelve steady samples of 30 ms")
def test_probe_rto_after_twelve_steady_samples() -> None:
    w, conn, child = connected(15 * MSEC)
    for _ in range(12):
        child.send(b"x")
        conn.expect("PA", within_ns=20 * MSEC)
        conn.ts_val += 30
        conn.send("A")
        w.sim.run_for(15 * MSEC)
    assert rto_ms(child) == 232


@pytest.mark.probe("sender: resends double with tail-loss probes off")
def test_probe_resends_double_without_tail_loss_probes() -> None:
    w, conn, child = connected(sysctl={"tcp_early_retrans": 0})
    start = w.sim.now_ns()
    child.send(b"x")
    sent = times(w, w.flight(conn, 4 * SEC), start)
    assert 0.204 <= sent[1] <= 0.208
    assert gaps_follow(sent, [0, 0.204, 0.408, 0.816, 1.632])  # measured: 0.205, 0.63, 1.465, 3.13


# -- tail-loss probe ------------------------------------------------------------------------------------------------


@pytest.mark.probe("sender: tail-loss probe with ten segments out")
@pytest.mark.parametrize(
    ("rtt", "low", "high"),
    [
        (0, 4, 8),
        (20, 44, 48),
        (50, 104, 108),
        (100, 204, 208),
        (200, 404, 440),
        (500, 1004, 1040),
        (900, 1804, 1840),
    ],
)
def test_probe_tail_loss_probe_with_ten_out(rtt: int, low: int, high: int) -> None:
    w, conn, child = connected(one_way(rtt))
    start = w.sim.now_ns()
    child.send(b"x" * 10 * MSS)
    flight = w.flight(conn, (high + rtt) * MSEC)
    assert rel(conn, flight[10]) == 1 + 9 * MSS
    assert low - 4 < w.sent_at(flight[10], start) * 1000 <= high


@pytest.mark.probe("sender: tail-loss probe with one segment out")
@pytest.mark.parametrize(
    ("rtt", "low", "high"),
    [
        (0, 204, 208),
        (20, 224, 228),
        (50, 252, 288),
        (100, 304, 340),
        (200, 604, 640),
        (500, 1204, 1240),
        (900, 2004, 2040),
    ],
)
def test_probe_tail_loss_probe_with_one_out(rtt: int, low: int, high: int) -> None:
    w, conn, child = connected(one_way(rtt))
    start = w.sim.now_ns()
    child.send(b"x")
    flight = w.flight(conn, (high + rtt) * MSEC)
    assert [rel(conn, s) for s in flight[:2]] == [1, 1]
    assert low - 4 < w.sent_at(flight[1], start) * 1000 <= high


@pytest.mark.probe("sender: tail-loss probe prefers new data")
def test_probe_tail_loss_probe_sends_the_next_new_segment() -> None:
    w, conn, child = connected(10 * MSEC)
    child.send(b"x" * 12 * MSS)
    flight = w.flight(conn, 70 * MSEC)
    assert rel(conn, flight[10]) == 1 + 10 * MSS
    assert w.counted() == {"TCPLossProbes": 1}


# -- resent SYN-ACKs --------------------------------------------------------------------------------------------------


@pytest.mark.probe("sender: child of a handshake with resent SYN-ACKs")
@pytest.mark.parametrize(
    ("ts", "resends", "cwnd", "rto"),
    [(False, 1, 10, 3000), (False, 2, 1, 3000), (True, 1, 10, 204), (True, 2, 1, 204)],
)
def test_probe_child_after_resent_synacks(ts: bool, resends: int, cwnd: int, rto: int) -> None:
    w = World()
    listener = w.listen()
    options: dict[str, Any] = {"mss": 1460, "sackok": True, "wscale": 7}
    conn, _ = w.request(**options, **({"ts": (1000, 0)} if ts else {}))
    for _ in range(resends):
        conn.expect("SA", within_ns=5 * SEC)
    conn.send("A")
    w.peer.expect_nothing()
    child, _ = listener.accept()
    sk: Any = child.sk
    assert (sk.snd_cwnd, rto_ms(child)) == (cwnd, rto)


@pytest.mark.probe("sender: one resent SYN-ACK and no TS, first segments")
def test_probe_no_rtt_sample_probe_at_1_s_resends_at_4_and_10_s() -> None:
    w = World()
    listener = w.listen()
    conn, _ = w.request(mss=1460, sackok=True, wscale=7)
    conn.expect("SA", within_ns=5 * SEC)
    conn.send("A")
    w.peer.expect_nothing()
    child, _ = listener.accept()
    start = w.sim.now_ns()
    child.send(b"x")
    sent = times(w, w.flight(conn, 11 * SEC), start)
    assert gaps_follow(sent, [0, 1, 3, 6])  # measured: 1.013, 4.0, 10.2


# -- what is never acknowledged -------------------------------------------------------------------------------------


@pytest.mark.probe("sender: one segment never acknowledged")
def test_probe_one_segment_never_acknowledged() -> None:
    w, conn, child = connected(RTO_216)
    start = w.sim.now_ns()
    child.send(b"x")
    sent = times(w, w.flight(conn, 1100 * SEC), start)
    assert len(sent) == 17  # the original, the probe, 15 resends
    assert gaps_follow(sent, [0, 0.216, *(0.216 * 2**n for n in range(10)), 120, 120, 120, 120, 120])
    measured = [0.43, 0.87, 1.73, 3.46, 7.1, 14.0, 27.8, 56.7, 112, 223, 343, 464, 585, 706, 827]
    assert sent[2:] == pytest.approx(measured, rel=0.05, abs=0.02)
    with pytest.raises(TimeoutError):
        child.recv(1)


@pytest.mark.probe("sender: a FIN never acknowledged")
def test_probe_fin_never_acknowledged() -> None:
    w, conn, child = connected(RTO_216)
    start = w.sim.now_ns()
    child.close()
    flight = w.flight(conn, 130 * SEC)
    assert {s.flags for s in flight} == {"FA"}
    measured = [0, 0.22, 0.43, 0.88, 1.75, 3.5, 7.1, 14.0, 27.8, 56.5]
    assert times(w, flight, start) == pytest.approx(measured, rel=0.05, abs=0.02)
    assert w.states() == []


@pytest.mark.probe("sender: FIN_WAIT2 of a closed socket")
def test_probe_fin_wait2_of_a_closed_socket_ends_at_60_s() -> None:
    w, conn, child = connected()
    child.close()
    conn.expect("FA")
    conn.send("A")
    w.sim.run_for(60 * SEC - MSEC)
    assert len(w.states()) == 1
    w.sim.run_for(2100 * MSEC)
    assert w.states() == []


@pytest.mark.probe("sender: keepalive to a silent peer")
def test_probe_keepalive_to_a_silent_peer() -> None:
    w, conn, child = connected()
    child.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    start = w.sim.now_ns()
    flight = w.flight(conn, 9000 * SEC)
    assert [(rel(conn, s), s.flags, len(s.payload)) for s in flight] == [(0, "A", 0)] * 9 + [(1, "RA", 0)]
    sent = times(w, flight, start)
    assert 7200 <= sent[0] <= 7332  # measured: 7281 to 7285
    assert [b - a for a, b in itertools.pairwise(sent)] == pytest.approx(
        [75.776] * 9, abs=0.005
    )  # measured: 75.8
    with pytest.raises(TimeoutError):
        child.recv(1)


# -- loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.probe("sender: SACKs for segments 2 to 5 one by one")
def test_probe_segment_1_is_resent_at_the_third_sack() -> None:
    """One millisecond apart: RACK alone would wait a quarter of the round trip from the first."""
    w, conn, child = connected(10 * MSEC)
    child.send(b"x" * 10 * MSS)
    assert len(w.flight(conn, MSEC)) == 10
    start = w.sim.now_ns()
    for n in range(2, 6):
        conn.send("A", ack=1, sack=((1 + MSS, 1 + n * MSS),))
        w.sim.run_for(MSEC)
    resent = [s for s in w.flight(conn, 15 * MSEC) if rel(conn, s) < 1 + 10 * MSS]
    assert [rel(conn, s) for s in resent] == [1]
    assert w.sent_at(resent[0], start) == pytest.approx(0.012)  # the third one's arrival
    assert w.counted()["TCPFastRetrans"] == 1


@pytest.mark.probe("sender: after the RTO")
def test_probe_after_the_rto_cwnd_1_ssthresh_7() -> None:
    w, conn, child = connected(10 * MSEC)
    child.send(b"x" * 10 * MSS)
    w.flight(conn, 350 * MSEC)
    sk: Any = child.sk
    assert (sk.snd_cwnd, sk.snd_ssthresh) == (1, 7)


@pytest.mark.probe("sender: one ACK for all ten")
def test_probe_one_ack_for_ten_sends_twenty_back_to_back() -> None:
    w, conn, child = connected(10 * MSEC, before=((1, 7, 200_000),))
    child.send(b"x" * 40 * MSS)
    first = w.flight(conn, MSEC)
    assert len(first) == 10
    assert len({s.packet.time_ns for s in first}) == 1  # no pacing
    conn.send("A")
    w.sim.run_for(19 * MSEC)
    second = w.flight(conn)
    sk: Any = child.sk
    assert (len(second), sk.snd_cwnd) == (20, 20)
    assert len({s.packet.time_ns for s in second}) == 1


@pytest.mark.probe("sender: send() of 200000 bytes")
def test_probe_send_takes_79640_bytes() -> None:
    _, _, child = connected(features=7)
    assert child.send(b"x" * 200_000) == 79640


# -- closed window --------------------------------------------------------------------------------------------------


@pytest.mark.probe("sender: zero window since the third ACK, probes answered")
def test_probe_zero_window_probes_when_answered() -> None:
    w, conn, child = connected(RTO_216, window=0)
    start = w.sim.now_ns()
    child.send(b"x" * 100)
    sent = []
    for _ in range(6):
        probe = conn.expect("A", length=0, within_ns=10 * SEC)
        assert rel(conn, probe) == 0
        sent.append(w.sent_at(probe, start))
        conn.send("A")
    assert sent == pytest.approx([0.21, 0.66, 1.52, 3.25, 6.8, 13.7], rel=0.05, abs=0.02)


@pytest.mark.probe("sender: zero window since the third ACK, probes unanswered")
def test_probe_zero_window_probes_unanswered_end_after_15() -> None:
    w, conn, child = connected(RTO_216, window=0)
    start = w.sim.now_ns()
    child.send(b"x" * 100)
    flight = w.flight(conn, 1000 * SEC)
    assert {(rel(conn, s), len(s.payload)) for s in flight} == {(0, 0)}
    measured = [0.21, 0.67, 1.53, 3.3, 6.9, 13.8, 27.6, 55.8, 111, 222, 342, 463, 584, 705, 826]
    assert times(w, flight, start) == pytest.approx(measured, rel=0.05, abs=0.03)
    with pytest.raises(TimeoutError):
        child.recv(1)
    assert child.sk.sk_state == TCP_CLOSE
