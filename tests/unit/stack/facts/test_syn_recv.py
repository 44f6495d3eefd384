# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts 35 to 51: a half-open connection.  Each was measured with raw segments on Linux 6.1 and on 6.18."""

from __future__ import annotations

from typing import Any

import pytest
from factworld import OPTIONS, World, both, gaps_follow, rel, times

from stack.api.sim import MSEC, SEC
from stack.include.tcp_states import TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_NEW_SYN_RECV

SOL_SOCKET, SOL_IP, SOL_TCP = 1, 0, 6
# rcv_wnd >> wscale of a request: 65160 >> 7 and 65160 >> 10
REQUEST_WINDOW = {"linux-6.1": 509, "linux-6.18": 63}


@pytest.mark.fact(35, "SYN-ACK retransmission")
@both
def test_fact_35_synack_at_0_1_3_7_15_31_then_given_up(profile: str) -> None:
    w = World(profile)
    w.listen()
    _, _ = w.request()
    conn = w.peer.tcp(80)
    resent = [w.peer.expect("SA", within_ns=40 * SEC) for _ in range(5)]
    sent = times(w, resent, 0)
    assert gaps_follow(sent, [1, 2, 4, 8, 16])
    assert w.requests() == 1
    conn.expect_nothing(63 * SEC - w.sim.now_ns())
    assert w.requests() == 1
    conn.expect_nothing(5 * SEC)  # measured: gone at 64.5 s
    assert w.requests() == 0


@pytest.mark.fact(35, "SYN-ACK retransmission")
@both
@pytest.mark.parametrize(("retries", "gone"), [(0, 1), (1, 3), (2, 7)])
def test_fact_35_fewer_retries(profile: str, retries: int, gone: int) -> None:
    w = World(profile, sysctl={"tcp_synack_retries": retries})
    w.listen()
    w.request()
    w.sim.run_for(gone * SEC - MSEC)
    assert w.requests() == 1
    w.sim.run_for(400 * MSEC)  # measured: 1.0, 3.1, 7.2
    assert w.requests() == 0


@pytest.mark.fact(36, "counters of a resent SYN-ACK")
@both
def test_fact_36_each_resend_counts_in_both(profile: str) -> None:
    w = World(profile)
    w.listen()
    w.request()
    for n in (1, 2, 3, 4, 5):
        w.peer.expect("SA", within_ns=40 * SEC)
        assert w.counted() == {"TCPSynRetrans": n, "RetransSegs": n, "TCPTimeouts": n}


@pytest.mark.fact(37, "duplicate SYN")
@both
def test_fact_37_duplicate_syn_answered_at_once_once_per_500_ms(profile: str) -> None:
    w = World(profile)
    w.listen()
    conn, first = w.request()
    answered = []
    for _ in range(9):  # 0.1 ... 0.9 s
        w.sim.run_for(100 * MSEC)
        w.mark()
        conn.send("S", seq=0, **OPTIONS)
        answers = w.flight(conn)
        answered.append(len(answers))
        assert all(s.flags == "SA" and s.seq == first.seq for s in answers)
        expected = {"TCPSynRetrans": 1, "RetransSegs": 1} if answers else {"TCPACKSkippedSynRecv": 1}
        assert w.counted() == expected
    assert answered == [1, 0, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.fact(37, "duplicate SYN")
@both
def test_fact_37_duplicate_syn_pushes_the_timer(profile: str) -> None:
    w = World(profile)
    w.listen()
    conn, _ = w.request()
    w.sim.run_for(600 * MSEC)
    conn.send("S", seq=0, **OPTIONS)
    sent = times(w, [conn.expect("SA", within_ns=10 * SEC) for _ in range(4)], 0)
    assert gaps_follow(sent, [0.6, 1, 2, 4])  # measured: 0.6, 1.6, 3.6, 7.8


@pytest.mark.fact(38, "another SYN in the window")
@both
def test_fact_38_another_syn_in_the_window_resets_the_request(profile: str) -> None:
    w = World(profile)
    listener = w.listen()
    conn, _ = w.request()
    w.mark()
    conn.send("S", seq=100)
    w.peer.expect("RA", seq=0, ack=conn.isn + 101, window=0)
    assert w.requests() == 0
    assert listener.sk.icsk_accept_queue.qlen == 0  # type: ignore[attr-defined]
    assert w.counted() == {"EmbryonicRsts": 1, "AttemptFails": 1, "OutRsts": 1}


@pytest.mark.fact(39, "ACK that is not ISN+1")
@both
@pytest.mark.parametrize("ack", [0, 2, 5000, 0x7FFFFFFF])
def test_fact_39_wrong_ack_draws_rst_and_the_request_survives(profile: str, ack: int) -> None:
    w = World(profile)
    listener = w.listen()
    conn, answer = w.request()
    conn.send("A", ack=ack)
    w.peer.expect("R", seq=(answer.seq + ack) & 0xFFFFFFFF, ack=0, window=0)
    assert w.states() == [TCP_NEW_SYN_RECV]
    conn.send("A")
    w.peer.expect_nothing()
    listener.accept()


@pytest.mark.fact(40, "ACK outside the window")
@both
def test_fact_40_ack_outside_the_window_draws_a_pure_ack(profile: str) -> None:
    w = World(profile)
    w.listen()
    conn, _ = w.request()
    conn.send("A", seq=100_000)
    answer = conn.expect("A", seq=1, ack=1, window=REQUEST_WINDOW[profile], length=0)
    assert answer.opts.kinds == (1, 1, 8)
    assert answer.opts.ts is not None
    assert answer.opts.ts[1] == 1000
    assert w.requests() == 1


@pytest.mark.fact(41, "old TSval on the third ACK")
@both
def test_fact_41_old_tsval_draws_an_ack_then_silence_for_500_ms(profile: str) -> None:
    w = World(profile)
    w.listen()
    conn, _ = w.request()
    w.mark()
    conn.send("A", ts=(900, conn.ts_recent))
    conn.expect("A", seq=1, ack=1, window=REQUEST_WINDOW[profile])
    assert w.counted() == {"PAWSEstab": 1}
    conn.send("A", ts=(900, conn.ts_recent))
    conn.expect_nothing()
    assert w.counted() == {"PAWSEstab": 2, "TCPACKSkippedSynRecv": 1}
    w.sim.run_for(500 * MSEC)
    conn.send("A", ts=(900, conn.ts_recent))
    conn.expect("A", seq=1, ack=1)
    assert w.counted() == {"PAWSEstab": 3, "TCPACKSkippedSynRecv": 1}
    assert w.requests() == 1


@pytest.mark.fact(42, "RST to a request")
@both
def test_fact_42_exact_rst_kills_silently(profile: str) -> None:
    w = World(profile)
    w.listen()
    conn, _ = w.request()
    conn.send("R")
    w.peer.expect_nothing()
    assert w.states() == []
    assert w.counted() == {"EmbryonicRsts": 1, "AttemptFails": 1}


@pytest.mark.fact(42, "RST to a request")
@both
def test_fact_42_inexact_rst_in_the_window_draws_a_challenge_ack(profile: str) -> None:
    w = World(profile)
    w.listen()
    conn, _ = w.request()
    conn.send("R", seq=100)
    conn.expect("A", seq=1, ack=1, length=0)
    assert w.requests() == 1
    conn.send("R", seq=100_000)
    conn.expect_nothing()
    assert w.requests() == 1


@pytest.mark.fact(43, "no ACK bit")
@both
@pytest.mark.parametrize(("flags", "payload"), [("", b"data"), ("P", b"data"), ("F", b""), ("FP", b"data")])
def test_fact_43_data_or_fin_without_ack_is_silent(profile: str, flags: str, payload: bytes) -> None:
    w = World(profile)
    w.listen()
    conn, _ = w.request()
    w.mark()
    conn.send(flags, payload, seq=1)
    conn.expect_nothing(900 * MSEC)
    assert w.requests() == 1
    assert w.counted() == {}


@pytest.mark.fact(44, "FIN+ACK as third segment")
@both
def test_fact_44_fin_ack_as_third_segment_makes_a_child_in_close_wait(profile: str) -> None:
    w = World(profile)
    listener = w.listen()
    conn, _ = w.request()
    w.mark()
    start = w.sim.now_ns()
    conn.send("FA")
    ack = conn.expect("A", seq=1, ack=2, within_ns=8 * MSEC)
    assert 0 < w.sent_at(ack, start) <= 0.004  # the next tick
    assert w.counted() == {"PassiveOpens": 1, "DelayedACKs": 1}
    assert w.states() == [TCP_CLOSE_WAIT]
    child, _ = listener.accept()
    assert child.recv(10) == b""


@pytest.mark.fact(45, "third ACK with data")
@both
def test_fact_45_third_ack_with_data_is_delivered_and_acknowledged_at_once(profile: str) -> None:
    w = World(profile)
    listener = w.listen()
    conn, _ = w.request()
    start = w.sim.now_ns()
    conn.send("PA", b"hello")
    ack = conn.expect("A", seq=1, ack=6, length=0)
    assert ack.packet.time_ns == start
    child, _ = listener.accept()
    assert child.recv(10) == b"hello"


@pytest.mark.fact(46, "crossed SYN+ACK")
@both
def test_fact_46_crossed_synack_draws_an_ack_and_makes_no_child(profile: str) -> None:
    w = World(profile)
    listener = w.listen()
    conn, _ = w.request()
    conn.send("SA", seq=0)
    conn.expect("A", seq=1, ack=1, length=0)
    assert w.states() == [TCP_NEW_SYN_RECV]
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.fact(47, "no TS after TS was negotiated")
@both
def test_fact_47_third_ack_without_time_stamp_is_accepted(profile: str) -> None:
    w = World(profile)
    listener = w.listen()
    conn, _ = w.request()
    conn.ts_on = False
    conn.send("A")
    conn.send("PA", b"plain")
    answer = conn.expect("A", ack=6)
    assert answer.opts.ts is not None
    child, _ = listener.accept()
    assert child.recv(10) == b"plain"


@pytest.mark.fact(48, "ICMP errors for a request")
@both
@pytest.mark.parametrize(
    ("type_", "code", "dies"),
    [(3, 0, True), (3, 1, True), (11, 0, True), (3, 3, False), (3, 4, False), (4, 0, False)],
)
def test_fact_48_which_icmp_errors_kill_the_request(profile: str, type_: int, code: int, dies: bool) -> None:
    w = World(profile)
    w.listen()
    conn, _ = w.request()
    w.mark()
    w.icmp(conn, type_, code, 0)
    w.peer.expect_nothing()
    assert w.requests() == (0 if dies else 1)
    assert w.counted() == ({"ListenDrops": 1} if dies else {})


@pytest.mark.fact(48, "ICMP errors for a request")
@both
def test_fact_48_icmp_error_with_a_wrong_sequence_number(profile: str) -> None:
    w = World(profile)
    w.listen()
    conn, _ = w.request()
    w.mark()
    w.icmp(conn, 3, 1, 1)
    assert w.requests() == 1
    assert w.counted() == {"OutOfWindowIcmps": 1}


SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE = 7, 8, 9
TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_LINGER2 = 1, 4, 5, 6, 8
TCP_QUICKACK, TCP_CONGESTION, TCP_USER_TIMEOUT, IP_TOS, IP_TTL = 12, 13, 18, 1, 2
INHERITED: list[tuple[str, int, int, Any, int]] = [
    ("SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1, 1),
    ("TCP_NODELAY", SOL_TCP, TCP_NODELAY, 1, 1),
    ("TCP_KEEPIDLE", SOL_TCP, TCP_KEEPIDLE, 77, 77),
    ("TCP_KEEPINTVL", SOL_TCP, TCP_KEEPINTVL, 11, 11),
    ("TCP_KEEPCNT", SOL_TCP, TCP_KEEPCNT, 4, 4),
    ("TCP_USER_TIMEOUT", SOL_TCP, TCP_USER_TIMEOUT, 12345, 12345),
    ("TCP_LINGER2", SOL_TCP, TCP_LINGER2, 13, 13),
    ("IP_TOS", SOL_IP, IP_TOS, 16, 16),
    ("IP_TTL", SOL_IP, IP_TTL, 33, 33),
    ("SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 30000, 60000),
    ("SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 40000, 80000),
]


@pytest.mark.fact(49, "what the child inherits")
@both
@pytest.mark.parametrize(
    ("name", "level", "option", "value", "read"), INHERITED, ids=[i[0] for i in INHERITED]
)
def test_fact_49_child_inherits(
    profile: str, name: str, level: int, option: int, value: int, read: int
) -> None:
    w = World(profile)
    listener = w.listen(before=((level, option, value),))
    _, child = w.connect(listener)
    assert child.getsockopt(level, option) == read


@pytest.mark.fact(49, "what the child inherits")
@both
def test_fact_49_child_inherits_the_congestion_control(profile: str) -> None:
    w = World(profile)
    listener = w.listen(before=((SOL_TCP, TCP_CONGESTION, b"reno"),))
    _, child = w.connect(listener)
    assert child.getsockopt(SOL_TCP, TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"


@pytest.mark.fact(49, "what the child inherits")
@both
def test_fact_49_child_does_not_inherit_quickack_off(profile: str) -> None:
    w = World(profile)
    listener = w.listen(before=((SOL_TCP, TCP_QUICKACK, 0),))
    _, child = w.connect(listener)
    assert child.getsockopt(SOL_TCP, TCP_QUICKACK) == 1


@pytest.mark.fact(50, "RST before accept")
@both
def test_fact_50_rst_before_accept_leaves_a_child_with_econnreset(profile: str) -> None:
    w = World(profile)
    listener = w.listen()
    conn, _ = w.request()
    conn.send("A")
    conn.send("R")
    w.peer.expect_nothing()
    child, address = listener.accept()
    assert address == ("10.0.2.15", 40000)
    with pytest.raises(ConnectionResetError):
        child.recv(1)
    assert child.sk.sk_state == TCP_CLOSE


@pytest.mark.fact(51, "closing a listener")
@both
def test_fact_51_closing_a_listener_resets_children_and_forgets_requests(profile: str) -> None:
    w = World(profile)
    listener = w.listen()
    first, _ = w.request(sport=40000)
    first.send("A")
    second, _ = w.request(sport=40001)
    second.send("PA", b"data")
    second.expect("A")
    pending, answer = w.request(sport=40002)
    w.request(sport=40003)
    assert w.states() == [TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_NEW_SYN_RECV, TCP_NEW_SYN_RECV]
    listener.close()
    for conn, acked in ((first, 1), (second, 5)):
        reset = conn.expect("RA", seq=1, ack=acked)
        assert rel(conn, reset) == 1
    w.peer.expect_nothing()
    pending.send("A")
    w.peer.expect("R", seq=(answer.seq + 1) & 0xFFFFFFFF)
    w.peer.expect_nothing(2 * SEC)
    assert w.states() == []
