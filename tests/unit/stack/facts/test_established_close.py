# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts 59 to 71: an established connection, its end and TIME_WAIT; where the kernels differ, by profile."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from factworld import MSS, OPTIONS, World, both, rel, times

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawTcp
from stack.include.tcp import TCP_RTO_MAX, TCP_RTO_MIN, TCP_TIMEOUT_FALLBACK, TCP_TIMEOUT_INIT
from stack.include.tcp_states import TCP_CLOSE, TCP_ESTABLISHED
from stack.include.timer import HZ

SOL_SOCKET, SOL_TCP = 1, 6
SO_RCVBUF, SO_LINGER = 8, 13
LINGER_0 = (1).to_bytes(4, "little") + bytes(4)


def established(profile: str, **more: Any) -> tuple[World, RawTcp, Socket, Socket]:
    """(world, the raw host's end, the accepted socket, the listener)"""
    before = more.pop("before", ())
    options = more.pop("options", {})
    w = World(profile, **more)
    listener = w.listen(before=before)
    conn, child = w.connect(listener, **options)
    w.mark()
    return w, conn, child, listener


# -- 59, 60, 71: the window and the ACKs -------------------------------------------------------------------------


@pytest.mark.fact(59, "the child's first window")
@both
@pytest.mark.parametrize(
    ("first", "field"),
    [
        (0, {"linux-6.1": 510, "linux-6.18": 64}),  # 65160 rounded up to 128, to 1024
        (100, {"linux-6.1": 509, "linux-6.18": 64}),
    ],
)
def test_fact_59_first_window_field(profile: str, first: int, field: dict[str, int]) -> None:
    _w, conn, child, _ = established(profile)
    if first:
        conn.send("A", b"x" * first)
    else:
        child.send(b"x")
    assert conn.expect(within_ns=50 * MSEC).window == field[profile]


@pytest.mark.fact(59, "the child's first window after a full segment")
def test_fact_59_window_field_after_a_full_segment() -> None:
    _, conn, _, _ = established("linux-6.1")
    conn.send("A", b"x" * MSS)
    assert conn.expect("A").window == 501  # 64088 rounded up


@pytest.mark.fact(60, "immediate and delayed ACKs")
def test_fact_60_16_immediate_acks_then_40_ms() -> None:
    w, conn, _, _ = established("linux-6.1")
    delays = []
    for _ in range(24):
        start = w.sim.now_ns()
        conn.send("A", b"x" * MSS)
        delays.append(w.sent_at(conn.expect("A", within_ns=SEC), start))
    assert delays[:16] == [0] * 16
    assert all(0.040 <= d <= 0.044 for d in delays[16:])


@pytest.mark.fact(60, "immediate and delayed ACKs")
def test_fact_60_20_immediate_acks_then_44_ms_and_the_window_grows() -> None:
    """Later kernels: the window grows with the first four full segments, and each of those leaves one more
    immediate ACK than the 16."""
    w, conn, child, _ = established("linux-6.18")
    delays, fields = [], []
    for _ in range(26):
        start = w.sim.now_ns()
        conn.send("A", b"x" * MSS)
        answer = conn.expect("A", within_ns=SEC)
        delays.append(w.sent_at(answer, start))
        fields.append(answer.window)
    assert delays[:20] == [0] * 20
    assert all(0.040 <= d <= 0.048 for d in delays[20:])
    assert fields[0] == 67
    assert max(fields) == 75
    assert fields[:4] == sorted(fields[:4])
    assert child.sk.sk_rcvbuf == 131072


@pytest.mark.fact(71, "4 KiB buffer, nobody reading")
@pytest.mark.parametrize(
    ("profile", "size", "fields", "taken"),
    [
        ("linux-6.1", 536, [2896, 2680, 2144, 1608, 1072, 536, 0], 7 * 536),
        ("linux-6.18", 536, [2896, 2680, 2144, 1608, 1072, 536, 0], 7 * 536),
        ("linux-6.1", 1000, [2896, 1896, 896, 0], 4000),  # the straddling segment is taken whole
    ],
)
def test_fact_71_tiny_buffer_closes_and_never_shrinks_its_right_edge(
    profile: str, size: int, fields: list[int], taken: int
) -> None:
    _, conn, child, _ = established(profile, before=((SOL_SOCKET, SO_RCVBUF, 4096),))
    got, edges = [], []
    for _ in fields:
        conn.send("A", b"x" * size)
        answer = conn.expect("A", within_ns=SEC)
        got.append(answer.window)
        edges.append((answer.ack - conn.isn) + answer.window)
    assert got == fields
    assert all(b >= a for a, b in itertools.pairwise(edges))
    assert len(child.recv(10000)) == taken


# -- 61 to 63: what does not fit ---------------------------------------------------------------------------------


@pytest.mark.fact(61, "out of order")
@both
def test_fact_61_each_out_of_order_segment_is_acked_with_the_newest_block_first(profile: str) -> None:
    w, conn, _, _ = established(profile)
    blocks = []
    for at in (201, 401, 601, 801):
        start = w.sim.now_ns()
        conn.send("A", b"x" * 100, seq=at)
        answer = conn.expect("A", ack=1, within_ns=SEC)
        # From the fourth on the ACK may be compressed: a twentieth of the round trip, 1 ms at most.
        assert w.sent_at(answer, start) <= (0.001 if at == 801 else 0)
        blocks.append([(a - conn.isn, b - conn.isn) for a, b in answer.opts.sack])
    assert blocks == [
        [(201, 301)],
        [(401, 501), (201, 301)],
        [(601, 701), (401, 501), (201, 301)],
        [(801, 901), (601, 701), (401, 501)],  # three fit beside a time stamp
    ]


@pytest.mark.fact(61, "duplicate data")
@both
def test_fact_61_duplicate_data_is_reported_by_dsack_first(profile: str) -> None:
    _, conn, _, _ = established(profile)
    conn.send("A", b"a" * 100)
    conn.expect("A", ack=101)
    conn.send("A", b"c" * 100, seq=201)
    conn.expect("A", ack=101)
    conn.send("A", b"a" * 100, seq=1)
    answer = conn.expect("A", ack=101)
    base = conn.isn
    assert answer.opts.sack == ((base + 1, base + 101), (base + 201, base + 301))


@pytest.mark.fact(62, "SYN in ESTABLISHED")
@both
def test_fact_62_syn_draws_one_challenge_ack_per_500_ms(profile: str) -> None:
    w, conn, child, _ = established(profile)
    assert w.net.ipv4.sysctl_tcp_challenge_ack_limit == 0x7FFFFFFF
    answers = 0
    for _ in range(20):  # 2 s
        conn.send("S", seq=1)
        for answer in w.flight(conn, 100 * MSEC):
            assert (answer.flags, rel(conn, answer), answer.ack) == ("A", 1, conn.isn + 1)
            answers += 1
    assert answers == 4
    assert w.counted() == {
        "TCPSYNChallenge": 20,
        "TCPChallengeACK": 4,
        "TCPACKSkippedChallenge": 16,
        "InErrs": 20,
    }
    assert child.sk.sk_state == TCP_ESTABLISHED


@pytest.mark.fact(63, "RST in the window, RST exact")
@both
def test_fact_63_inexact_rst_draws_a_challenge_exact_one_resets(profile: str) -> None:
    w, conn, child, _ = established(profile)
    conn.send("R", seq=100)
    conn.expect("A", seq=1, ack=1, length=0)
    assert w.counted() == {"TCPChallengeACK": 1}
    conn.send("R", seq=1)
    conn.expect_nothing(SEC)
    assert child.sk.sk_state == TCP_CLOSE
    with pytest.raises(ConnectionResetError):
        child.recv(1)


@pytest.mark.fact(63, "ACK of unsent data")
@both
@pytest.mark.parametrize("payload", [b"", b"data"])
def test_fact_63_ack_of_unsent_data(profile: str, payload: bytes) -> None:
    w, conn, child, _ = established(profile)
    conn.send("A", payload, ack=1000, seq=1)
    if profile == "linux-6.1":
        conn.expect_nothing(SEC)
        assert w.counted() == {}
    else:
        conn.expect("A", seq=1, ack=1, length=0)
        conn.expect_nothing(SEC)
        assert w.counted() == {"TCPChallengeACK": 1}
    with pytest.raises(BlockingIOError):
        child.recv(1)


@pytest.mark.fact(63, "far too old ACK")
@both
def test_fact_63_far_too_old_ack_draws_a_challenge(profile: str) -> None:
    w, conn, _, _ = established(profile)
    conn.send("A", ack=-100)  # nothing was acknowledged yet: 100 is already too far
    conn.expect("A", seq=1, ack=1, length=0)
    assert w.counted() == {"TCPChallengeACK": 1}


# -- 64, 65: sending ----------------------------------------------------------------------------------------------


@pytest.mark.fact(64, "first flight and tail-loss probe")
@both
def test_fact_64_ten_segments_then_a_tail_loss_probe(profile: str) -> None:
    w, conn, child, _ = established(profile)
    start = w.sim.now_ns()
    child.send(b"x" * 10 * MSS)
    flight = w.flight(conn, 150 * MSEC)
    assert [rel(conn, s) for s in flight[:10]] == [1 + n * MSS for n in range(10)]
    assert times(w, flight[:10], start) == [0] * 10
    assert [rel(conn, s) for s in flight[10:]] == [1 + 9 * MSS]  # the last one again
    assert 0.004 <= w.sent_at(flight[10], start) <= 0.012  # measured at RTT 0: 4 to 6 ms
    assert w.counted() == {"TCPLossProbes": 1, "RetransSegs": 1}


@pytest.mark.fact(64, "more than ten segments")
@both
def test_fact_64_more_than_ten_wait_for_an_ack(profile: str) -> None:
    w, conn, child, _ = established(profile, delay_ns=10 * MSEC)
    child.send(b"x" * 20 * MSS)
    assert len(w.flight(conn, 15 * MSEC)) == 10


@pytest.mark.fact(64, "RTO floor")
@both
def test_fact_64_rto_floor_is_200_ms(profile: str) -> None:
    w, conn, child, _ = established(profile, sysctl={"tcp_early_retrans": 0})
    start = w.sim.now_ns()
    child.send(b"x")
    conn.expect("PA")
    again = conn.expect("PA", within_ns=SEC)
    assert 0.200 <= w.sent_at(again, start) <= 0.212
    assert child.sk.icsk_rto * 1000 // HZ == 408  # type: ignore[attr-defined]  # 204, doubled


@pytest.mark.fact(65, "constants")
@both
def test_fact_65_constants(profile: str) -> None:
    w, _, child, _ = established(profile)
    assert (TCP_TIMEOUT_INIT, TCP_TIMEOUT_FALLBACK, TCP_RTO_MAX) == (HZ, 3 * HZ, 120 * HZ)
    assert TCP_RTO_MIN * 1000 // HZ == 200
    ipv4 = w.net.ipv4
    assert ipv4.sysctl_tcp_retries2 == 15
    keepalive = [child.getsockopt(SOL_TCP, option) for option in (4, 5, 6)]
    assert keepalive == [7200, 75, 9]


# -- 66 to 68: close ----------------------------------------------------------------------------------------------


@pytest.mark.fact(66, "unread data at close")
@both
def test_fact_66_unread_data_at_close_resets(profile: str) -> None:
    w, conn, child, _ = established(profile)
    conn.send("PA", b"never read")
    conn.expect("A", ack=11)
    child.close()
    conn.expect("RA", seq=1, ack=11)
    assert w.counted() == {"TCPAbortOnClose": 1, "EstabResets": 1, "OutRsts": 1}


@pytest.mark.fact(66, "linger 0")
@both
def test_fact_66_linger_0_resets(profile: str) -> None:
    w, conn, child, _ = established(profile)
    child.setsockopt(SOL_SOCKET, SO_LINGER, LINGER_0)
    child.close()
    conn.expect("RA", seq=1, ack=1)
    assert w.counted() == {"TCPAbortOnData": 1, "EstabResets": 1, "OutRsts": 1}


@pytest.mark.fact(67, "plain close, data after close")
@both
def test_fact_67_plain_close_sends_fin_data_after_it_draw_a_bare_rst(profile: str) -> None:
    w, conn, child, _ = established(profile)
    child.close()
    conn.expect("FA", seq=1, ack=1, length=0)
    conn.send("PA", b"late")
    reset = conn.expect("R", seq=2)
    assert (reset.opts.kinds, reset.window, reset.packet.ip_id, reset.packet.df) == ((), 0, 0, True)
    assert w.states() == []


@pytest.mark.fact(68, "IP id")
@both
def test_fact_68_ip_id_counts_by_one_per_socket_time_wait_uses_0(profile: str) -> None:
    _w, conn, child, _ = established(profile)
    ids = []
    for n in range(4):
        child.send(b"x")
        ids.append(conn.expect("PA").packet.ip_id)
        conn.send("A")
        conn.send("PA", b"y")
        ids.append(conn.expect("A", ack=2 + n, within_ns=50 * MSEC).packet.ip_id)
        child.recv(1)
    assert ids == [(ids[0] + n) & 0xFFFF for n in range(8)]
    child.close()
    assert conn.expect("FA").packet.ip_id == (ids[0] + 8) & 0xFFFF
    conn.send("FA")
    assert conn.expect("A").packet.ip_id == (ids[0] + 9) & 0xFFFF  # still the socket's own
    conn.send("FA", seq=5)
    assert conn.expect("A").packet.ip_id == 0


# -- 69, 70: TIME_WAIT -------------------------------------------------------------------------------------------


def time_wait(profile: str, **more: Any) -> tuple[World, RawTcp, Socket]:
    """A connection that the stack closed first."""
    w, conn, child, listener = established(profile, **more)
    child.close()
    conn.expect("FA", seq=1, ack=1)
    conn.send("FA")
    conn.expect("A", seq=2, ack=2)
    assert w.time_waits() == 1
    w.mark()
    return w, conn, listener


@pytest.mark.fact(69, "TIME_WAIT lasts 60 s")
@both
def test_fact_69_time_wait_lasts_60_s(profile: str) -> None:
    w, _, _ = time_wait(profile)
    w.sim.run_for(60 * SEC - MSEC)
    assert w.time_waits() == 1
    w.sim.run_for(2100 * MSEC)  # measured: gone when polled at 61.3 s
    assert w.states() == []


@pytest.mark.fact(69, "a newer SYN into TIME_WAIT")
@both
def test_fact_69_newer_syn_is_accepted_and_its_isn(profile: str) -> None:
    w, old, listener = time_wait(profile)
    w.sim.run_for(SEC)
    assert old.irs is not None
    again = w.peer.tcp(80, isn=2_000_000)
    again.send("S", mss=1460, ts=(2000, 0))
    answer = again.expect("SA", ack=1)
    ordinary = (old.irs + SEC // 64) & 0xFFFFFFFF  # 15.625 million a second later
    from_snd_nxt = (old.irs + 2 + 65537) & 0xFFFFFFFF
    assert answer.seq == {"linux-6.1": ordinary, "linux-6.18": from_snd_nxt}[profile]
    assert w.time_waits() == 0
    again.send("A", ts=(2001, again.ts_recent))
    w.peer.expect_nothing()
    listener.accept()


@pytest.mark.fact(69, "a newer SYN and a full SYN queue")
def test_fact_69_newer_syn_meets_a_full_syn_queue() -> None:
    w, _, listener = time_wait("linux-6.1", sysctl={"tcp_syncookies": 0})
    listener.listen(0)
    w.request(sport=41000)
    w.mark()
    w.peer.tcp(80, isn=2_000_000).send("S", ts=(2000, 0))
    w.peer.expect_nothing()
    assert w.counted() == {"TCPReqQFullDrop": 1, "ListenDrops": 1}


@pytest.mark.fact(69, "a newer SYN and a full accept queue")
def test_fact_69_newer_syn_meets_a_full_accept_queue() -> None:
    w, _, listener = time_wait("linux-6.1")
    listener.listen(0)
    other, _ = w.request(sport=41000)
    other.send("A")
    w.peer.expect_nothing()
    w.mark()
    w.peer.tcp(80, isn=2_000_000).send("S", ts=(2000, 0))
    w.peer.expect_nothing()
    assert w.counted() == {"ListenOverflows": 1, "ListenDrops": 1}


@pytest.mark.fact(69, "a newer SYN and tcp_syncookies=2")
def test_fact_69_newer_syn_gets_a_cookie_with_syncookies_2() -> None:
    w, _, _ = time_wait("linux-6.1")
    w.net.sysctl_set("tcp_syncookies", 2)
    w.peer.tcp(80, isn=2_000_000).send("S", ts=(2000, 0))
    w.peer.expect("SA")
    assert w.counted() == {"TCPReqQFullDoCookies": 1, "SyncookiesSent": 1}
    assert w.requests() == 0


@pytest.mark.fact(70, "an old SYN into TIME_WAIT")
@both
def test_fact_70_old_syn_draws_an_ack_and_counts_paws(profile: str) -> None:
    w, conn, _ = time_wait(profile)
    conn.send("S", seq=-5000, ts=(900, 0))
    conn.expect("A", seq=2, ack=2)
    assert w.counted() == {{"linux-6.1": "PAWSEstab", "linux-6.18": "PAWSTimewait"}[profile]: 1}
    assert w.time_waits() == 1


@pytest.mark.fact(70, "RST into TIME_WAIT")
@both
def test_fact_70_rst_removes_it_unless_rfc1337(profile: str) -> None:
    for rfc1337 in (0, 1):
        w, conn, _ = time_wait(profile, sysctl={"tcp_rfc1337": rfc1337})
        conn.send("R")
        conn.expect_nothing()
        assert w.time_waits() == rfc1337


@pytest.mark.fact(70, "SYNs into TIME_WAIT by sequence and time stamp")
@both
@pytest.mark.parametrize(
    ("ts", "seq", "tsval", "flags"),
    [(True, -5000, 5000, "SA"), (False, 5000, None, "SA"), (False, -5000, None, "A")],
)
def test_fact_70_syn_by_sequence_number_and_time_stamp(
    profile: str, ts: bool, seq: int, tsval: int | None, flags: str
) -> None:
    options = OPTIONS if ts else {"mss": 1460, "sackok": True, "wscale": 7}
    w, conn, _ = time_wait(profile, options=options)
    conn.send("S", seq=seq, mss=1460, ts=None if tsval is None else (tsval, 0))
    w.peer.expect(flags)
    assert w.time_waits() == (0 if flags == "SA" else 1)


@pytest.mark.fact(70, "FIN again")
@both
def test_fact_70_fin_again_draws_an_ack_with_id_0(profile: str) -> None:
    _, conn, _ = time_wait(profile)
    conn.send("FA", seq=1)
    answer = conn.expect("A", seq=2, ack=2)
    assert answer.packet.ip_id == 0


@pytest.mark.fact(70, "a new SYN with the listener gone")
@both
def test_fact_70_new_syn_with_the_listener_gone_draws_an_ack(profile: str) -> None:
    w, conn, listener = time_wait(profile)
    listener.close()
    conn.send("S", seq=5000, ts=(5000, 0))
    conn.expect("A", seq=2, ack=2)
    assert w.time_waits() == 1
