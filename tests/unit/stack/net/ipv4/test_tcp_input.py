# SPDX-License-Identifier: GPL-2.0-or-later
"""Received segments of a connection.  Figures were measured on Linux 6.1."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC
from stack.include.snmp import (
    LINUX_MIB_OFOPRUNED,
    LINUX_MIB_PAWSESTABREJECTED,
    LINUX_MIB_TCPABORTONDATA,
    LINUX_MIB_TCPACKCOMPRESSED,
    LINUX_MIB_TCPACKSKIPPEDCHALLENGE,
    LINUX_MIB_TCPCHALLENGEACK,
    LINUX_MIB_TCPDSACKOFOSENT,
    LINUX_MIB_TCPDSACKOLDSENT,
    LINUX_MIB_TCPHPHITS,
    LINUX_MIB_TCPOFOQUEUE,
    LINUX_MIB_TCPSYNCHALLENGE,
    LINUX_MIB_TCPZEROWINDOWDROP,
    TCP_MIB_ESTABRESETS,
)
from stack.include.tcp import SOL_TCP, TCP_WINDOW_CLAMP
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
)
from stack.include.timer import TICK_NSEC

SOL_SOCKET, SO_RCVBUF, SO_OOBINLINE = 1, 8, 10
MSS = 1448
Make = Callable[..., Any]


def mib(e: Any, field: int) -> int:
    value: int = e.net.mib.net_statistics[field]
    return value


def wanted(e: Any, within_ns: int = SEC) -> Any:
    return e.conn.expect("A", within_ns=within_ns)


def time_wait_states(e: Any) -> list[str]:
    return [str(t["substate"]) for t in e.net.snapshot()["tcp"]["time_wait"]]


# -- memory ----------------------------------------------------------------------------------------------


def test_established_rst_with_data_in_all_queues_gives_the_memory_back(established: Make) -> None:
    e = established()
    e.conn.send("PA", b"read never")
    e.conn.send("PA", b"behind a hole", seq=100)
    e.sim.settle()
    assert e.sk.sk_rmem_alloc > 0
    e.conn.send("R")
    e.sim.settle()
    e.sock.close()
    assert (e.sk.sk_rmem_alloc, e.sk.sk_wmem_queued, e.sk.sk_forward_alloc) == (0, 0, 0)


def test_established_single_bytes_unread_hold_few_frames(established: Make) -> None:
    e = established()
    sent = bytes(i & 0xFF for i in range(3000))
    for i in range(len(sent)):
        e.conn.send("PA", sent[i : i + 1])
        e.sim.settle()
    frames = sum(1 + len(skb.frags) for skb in e.sk.sk_receive_queue)
    assert frames < 10 * len(e.sk.sk_receive_queue) < 1000
    assert e.sock.recv(5000) == sent


# -- the window ------------------------------------------------------------------------------------------


def test_established_data_unread_window_falls_to_zero(established: Make) -> None:
    e = established()
    windows = []
    for _ in range(57):
        e.conn.send("A", b"x" * MSS)
        windows.append(wanted(e).window)
    assert windows[:4] == [501, 494, 485, 476]
    assert {a - b for a, b in itertools.pairwise(windows[2:52])} == {9}
    assert windows[-5:] == [35, 24, 13, 2, 0]


def test_established_small_data_unread_window_slides(established: Make) -> None:
    e = established()
    windows = []
    for _ in range(10):
        e.conn.send("A", b"x" * 100)
        windows.append(wanted(e).window)
    assert windows == [509] * 10


def test_established_512_byte_segments_window_keeps_its_right_edge(established: Make) -> None:
    e = established()
    windows = []
    for _ in range(6):
        e.conn.send("A", b"x" * 512)
        windows.append(wanted(e).window)
    assert windows == [506, 502, 498, 494, 490, 486]


@pytest.mark.parametrize(
    ("size", "windows", "taken"),
    [(536, [2896, 2680, 2144, 1608, 1072, 536, 0], 7 * 536), (1000, [2896, 1896, 896, 0], 4000)],
)
def test_established_tiny_buffer_straddling_segment_is_taken_whole(
    established: Make, size: int, windows: list[int], taken: int
) -> None:
    e = established(before=((SOL_SOCKET, SO_RCVBUF, 4096),))
    got = []
    for _ in windows:
        e.conn.send("A", b"x" * size)
        got.append(wanted(e).window)
    assert got == windows
    assert len(e.sock.recv(10000)) == taken


def test_established_data_into_zero_window_is_dropped_and_acknowledged(established: Make) -> None:
    e = established(before=((SOL_SOCKET, SO_RCVBUF, 4096),))
    for _ in range(4):
        e.conn.send("A", b"x" * 1000)
        wanted(e)
    e.conn.send("A", b"y")
    assert wanted(e).ack == e.conn.isn + 4001
    assert mib(e, LINUX_MIB_TCPZEROWINDOWDROP) == 1


@pytest.mark.parametrize(
    ("profile", "state"), [("linux-6.1", TCP_ESTABLISHED), ("linux-6.18", TCP_CLOSE_WAIT)]
)
def test_established_bare_fin_into_zero_window_by_profile(
    established: Make, profile: str, state: int
) -> None:
    e = established(before=((SOL_SOCKET, SO_RCVBUF, 2304),), profile=profile)
    e.conn.send("A", b"x" * MSS)
    assert wanted(e).window == 0
    e.conn.send("FA")
    e.sim.settle()
    assert e.sk.sk_state == state


@pytest.mark.parametrize(("profile", "rcv_mss"), [("linux-6.1", 536), ("linux-6.18", 700)])
def test_established_data_behind_a_hole_tell_the_segment_size_by_profile(
    established: Make, profile: str, rcv_mss: int
) -> None:
    e = established(profile=profile)
    e.conn.send("A", b"x" * 700, seq=1001)
    e.sim.settle()
    assert e.sk.icsk_ack.rcv_mss == rcv_mss


def test_close_wait_new_data_behind_the_fin_reset_the_connection(established: Make) -> None:
    """Of whatever begins below the FIN and ends above it nothing may reach the reader."""
    e = established()
    e.conn.send("FA", b"hello")
    e.flight(10 * MSEC)
    e.conn.send("A", b"more", seq=6)
    assert [s.flags for s in e.flight()] == ["R"]
    assert e.sk.sk_state == TCP_CLOSE
    assert mib(e, LINUX_MIB_TCPABORTONDATA) == 1


@pytest.mark.parametrize(("threshold", "at_once"), [(1, 0), (3, 1)])
def test_established_replies_begin_a_conversation_after_the_sysctl_says(
    established: Make, threshold: int, at_once: int
) -> None:
    """tcp_pingpong_thresh: the second request of a conversation waits for its reply."""
    e = established(sysctl={"tcp_pingpong_thresh": threshold})
    e.conn.send("A", b"question")
    e.flight()
    e.sock.recv(100)
    e.sock.send(b"answer")
    e.flight()
    e.conn.send("A", b"question")
    assert len(e.flight()) == at_once


@pytest.mark.parametrize(
    ("profile", "size", "truesize"),
    [
        ("linux-6.1", 5, 768),
        ("linux-6.1", 140, 1280),
        ("linux-6.18", 5, 832),
        ("linux-6.18", 140, 832),
        ("linux-6.18", 141, 1280),
    ],
)
def test_established_small_packet_takes_a_small_buffer_by_profile(
    established: Make, profile: str, size: int, truesize: int
) -> None:
    """192 bytes of IP packet, 52 of them headers."""
    e = established(profile=profile)
    e.conn.send("A", b"x" * size)
    e.sim.settle()
    assert e.sk.sk_rmem_alloc == truesize


@pytest.mark.parametrize("shrink", [0, 1])
def test_established_unread_data_move_the_right_edge_back_only_with_the_sysctl(
    established: Make, shrink: int
) -> None:
    """tcp_shrink_window: the window is what the buffer has room for, even if more was offered before.  A packet takes
    more of it than its bytes."""
    e = established(sysctl={"tcp_shrink_window": shrink})
    edges = []
    for _ in range(10):
        e.conn.send("A", b"x" * 600)
        answer = wanted(e)
        edges.append(answer.ack + (answer.window << 7))
    moved_back = any(after < before for before, after in itertools.pairwise(edges))
    assert moved_back == bool(shrink)


@pytest.mark.parametrize(
    ("profile", "read", "estimate"),
    [("linux-6.1", True, 12), ("linux-6.1", False, 12), ("linux-6.18", True, 12), ("linux-6.18", False, 10)],
)
def test_established_longer_round_trip_of_the_receiver_by_profile(
    established: Make, profile: str, read: bool, estimate: int
) -> None:
    """A first sample of 10 ms, then one of 26: an eighth of the difference is added, under 6.18 only to a reader who
    keeps up."""
    e = established(profile=profile)
    for delay in (10, 26):
        e.sim.run_for(delay * MSEC)
        e.conn.send("A", b"x" * MSS)
        e.flight()
        if read:
            e.sock.recv(MSS)
            e.flight()
    assert e.sk.rcv_rtt_est.rtt_us // 8000 == estimate


def test_established_raised_window_clamp_keeps_what_is_offered(established: Make) -> None:
    """The window is two segments, below the first clamp of 3000."""
    e = established(before=((SOL_TCP, TCP_WINDOW_CLAMP, 3000),))
    e.conn.send("A", b"x" * 500)
    e.sim.settle()
    assert (e.sk.rcv_wnd, e.sk.rcv_ssthresh) == (2896, 3000)
    e.sock.setsockopt(SOL_TCP, TCP_WINDOW_CLAMP, 9000)
    assert e.sk.rcv_ssthresh == 3000
    e.sock.setsockopt(SOL_TCP, TCP_WINDOW_CLAMP, 2000)
    assert e.sk.rcv_ssthresh == 2000


def test_established_seven_hundred_bytes_fit_behind_as_many(established: Make) -> None:
    """A buffer of 2048 bytes has room for both: they are one packet in the queue."""
    e = established()
    for _ in range(2):
        e.conn.send("A", b"x" * 700)
        e.sim.settle()
    assert [skb.len for skb in e.sk.sk_receive_queue] == [1400]


def test_established_read_after_zero_window_sends_an_update(established: Make) -> None:
    e = established()
    for _ in range(56):
        e.conn.send("A", b"x" * MSS)
        wanted(e)
    e.conn.send("A", b"x" * 256)
    assert wanted(e).window == 0
    e.sock.recv(16384)
    assert wanted(e).window == 102


def test_established_reader_keeps_up_buffer_grows(established: Make) -> None:
    """Over a 20 ms round trip the window offered grows with what is read, up to megabytes."""
    e = established(delay_ns=10 * MSEC)
    e.conn.ts_val += 20
    first = e.sk.sk_rcvbuf
    window = 510
    for _ in range(8):
        for _ in range(window * 128 // MSS):
            e.conn.send("A", b"x" * MSS)
        e.sim.run_for(10 * MSEC)
        while True:
            try:
                e.sock.recv(1 << 20)
            except BlockingIOError:
                break
        window = e.flight(10 * MSEC)[-1].window
        e.conn.ts_val += 20
    assert e.sk.sk_rcvbuf > 2 * first
    assert window * 128 > 65535 * 2


# -- acknowledging ------------------------------------------------------------------------------------------


def test_established_first_16_segments_acknowledged_at_once(established: Make) -> None:
    e = established()
    delays = []
    for _ in range(18):
        start = e.sim.now_ns()
        e.conn.send("A", b"x" * 100)
        delays.append((wanted(e).packet.time_ns - start) // MSEC)
    assert delays[:16] == [0] * 16
    assert all(40 <= d <= 44 for d in delays[16:])


@pytest.mark.parametrize(("pause_ms", "at_once"), [(150, False), (300, True), (600, True)])
def test_established_pause_longer_than_rto_brings_quick_acks_back(
    established: Make, pause_ms: int, at_once: bool
) -> None:
    e = established()
    for _ in range(18):
        e.conn.send("A", b"x" * 100)
        wanted(e)
    e.sim.run_for(pause_ms * MSEC)
    start = e.sim.now_ns()
    e.conn.send("A", b"x" * 100)
    assert (wanted(e).packet.time_ns == start) is at_once


def test_established_reader_gets_an_ack_for_every_second_segment(established: Make) -> None:
    e = established()
    acks = []
    for _ in range(24):
        e.conn.send("A", b"x" * MSS)
        e.sim.settle()
        e.sock.recv(100000)
        acks.append(len(e.flight()))
    assert acks == [1] * 16 + [0, 1] * 4


def test_established_nobody_reads_two_segments_force_no_ack(established: Make) -> None:
    e = established()
    for _ in range(16):
        e.conn.send("A", b"x" * MSS)
        wanted(e)
    for _ in range(4):
        e.conn.send("A", b"x" * MSS)
    e.conn.expect_nothing(30 * MSEC)
    assert wanted(e).ack == e.conn.isn + 1 + 20 * MSS


def test_established_pushed_data_read_at_once_are_acknowledged_by_the_read(established: Make) -> None:
    e = established()
    for _ in range(16):
        e.conn.send("PA", b"x" * 100)
        wanted(e)
        e.sock.recv(100)
    e.conn.send("PA", b"x" * 100)
    e.conn.expect_nothing()
    e.sock.recv(100)
    assert wanted(e, 0).ack == e.conn.isn + 1 + 1700


def test_established_ping_pong_acks_ride_on_the_replies(established: Make) -> None:
    e = established()
    counts = []
    for _ in range(4):
        e.conn.send("PA", b"ping")
        before = len(e.flight())
        e.sock.recv(100)
        e.sock.send(b"pong")
        counts.append((before, len(e.flight())))
        e.conn.send("A")
        e.sim.settle()
    assert counts == [(1, 1), (0, 1), (0, 1), (0, 1)]
    start = e.sim.now_ns()
    e.conn.send("PA", b"ping")
    assert 40 * MSEC <= wanted(e).packet.time_ns - start <= 44 * MSEC


def test_established_fin_without_data_is_acknowledged_at_the_next_tick(established: Make) -> None:
    e = established()
    start = e.sim.now_ns()
    e.conn.send("FA")
    assert 0 < wanted(e).packet.time_ns - start <= TICK_NSEC
    assert e.sk.sk_state == TCP_CLOSE_WAIT
    assert e.sock.recv(10) == b""


# -- order ------------------------------------------------------------------------------------------


def test_established_out_of_order_is_sacked_newest_first(established: Make) -> None:
    e = established()
    e.conn.send("A", b"c" * 100, seq=201)
    first = wanted(e)
    e.conn.send("A", b"e" * 100, seq=401)
    second = wanted(e)
    base = e.conn.isn
    assert first.ack == second.ack == base + 1
    assert first.opts.sack == ((base + 201, base + 301),)
    assert second.opts.sack == ((base + 401, base + 501), (base + 201, base + 301))
    assert mib(e, LINUX_MIB_TCPOFOQUEUE) == 2


def test_established_hole_filled_delivers_all_and_acknowledges_at_once(established: Make) -> None:
    e = established()
    e.conn.send("A", b"b" * 100, seq=101)
    wanted(e)
    e.conn.send("A", b"a" * 100, seq=1)
    segment = wanted(e, 0)
    assert segment.ack == e.conn.isn + 201
    assert segment.opts.sack == ()
    assert e.sock.recv(1000) == b"a" * 100 + b"b" * 100


def test_established_duplicate_data_is_reported_by_dsack(established: Make) -> None:
    e = established()
    e.conn.send("A", b"a" * 100)
    wanted(e)
    e.conn.send("A", b"a" * 100, seq=1)
    segment = wanted(e, 0)
    assert segment.opts.sack == ((e.conn.isn + 1, e.conn.isn + 101),)
    assert mib(e, LINUX_MIB_TCPDSACKOLDSENT) == 1


def test_established_overlap_is_trimmed(established: Make) -> None:
    e = established()
    e.conn.send("A", b"a" * 100)
    wanted(e)
    e.conn.send("A", b"z" * 50 + b"b" * 50, seq=51)
    wanted(e)
    assert e.sock.recv(1000) == b"a" * 100 + b"b" * 50


def test_established_out_of_order_overlaps_are_read_once(established: Make) -> None:
    e = established()
    e.conn.send("A", b"cc", seq=5)
    e.conn.send("A", b"bbcc", seq=3)
    e.conn.send("A", b"ccdd", seq=5)
    e.conn.send("A", b"bcc", seq=4)
    e.conn.send("A", b"aa", seq=1)
    e.sim.settle()
    assert e.sock.recv(100) == b"aabbccdd"
    assert mib(e, LINUX_MIB_TCPDSACKOFOSENT) >= 1
    assert not e.sk.out_of_order_queue
    assert e.sk.sk_rmem_alloc == 0


def test_established_fin_behind_a_hole_waits_for_it(established: Make) -> None:
    e = established()
    e.conn.send("FA", b"b" * 10, seq=11)
    e.sim.settle()
    assert e.sk.sk_state == TCP_ESTABLISHED
    e.conn.send("A", b"a" * 10, seq=1)
    e.sim.settle()
    assert e.sk.sk_state == TCP_CLOSE_WAIT
    assert e.sock.recv(100) == b"a" * 10 + b"b" * 10
    assert e.sock.recv(100) == b""


def test_established_many_behind_a_hole_are_compressed(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    for i in range(1, 30):
        e.conn.send("A", b"x" * MSS, seq=1 + MSS * i)
    acks = e.flight(SEC)
    assert 4 <= len(acks) < 29
    assert len(acks) + mib(e, LINUX_MIB_TCPACKCOMPRESSED) == 29
    assert acks[-1].opts.sack == ((e.conn.isn + 1 + MSS, e.conn.isn + 1 + 30 * MSS),)


def test_established_more_holes_than_an_ack_can_tell_are_not_held_back(established: Make) -> None:
    """With a time stamp three blocks fit: nine single segments behind nine holes are reported two by two.  The ninth
    sends the ACK for the two before it and gets none itself (measured on 6.18)."""
    e = established(delay_ns=10 * MSEC)
    for _ in range(16):  # the ACKs that go at once
        e.conn.send("A", b"x" * 1000)
        e.flight(20 * MSEC)
        e.sock.recv(1000)
    for n in range(9):
        e.conn.send("A", b"x" * 1000, seq=17001 + 2000 * n)
    told = {block for s in e.flight(40 * MSEC) for block in s.opts.sack}
    assert {(right - e.conn.isn - 1) // 1000 for _, right in told} == {18 + 2 * n for n in range(8)}


def test_established_out_of_order_beyond_the_buffer_is_pruned(established: Make) -> None:
    e = established(before=((SOL_SOCKET, SO_RCVBUF, 8192),))
    for at in range(7001, 1001, -20):
        e.conn.send("A", b"x" * 10, seq=at)
    e.sim.settle()
    assert mib(e, LINUX_MIB_OFOPRUNED) >= 1
    assert e.sk.sk_rmem_alloc <= e.sk.sk_rcvbuf + 2304


def test_established_prediction_takes_plain_data(established: Make) -> None:
    e = established()
    for _ in range(3):
        e.conn.send("A", b"x" * 10)
        wanted(e)
    assert mib(e, LINUX_MIB_TCPHPHITS) >= 2


# -- what is not believed ------------------------------------------------------------------------------------------


def test_established_exact_rst_resets(established: Make) -> None:
    e = established()
    e.conn.send("R")
    e.conn.expect_nothing()
    assert e.sk.sk_state == TCP_CLOSE
    with pytest.raises(ConnectionResetError):
        e.sock.recv(1)
    assert e.net.mib.tcp_statistics[TCP_MIB_ESTABRESETS] == 1


def test_established_rst_inside_the_window_draws_a_challenge(established: Make) -> None:
    e = established()
    e.conn.send("R", seq=100)
    assert wanted(e, 0).ack == e.conn.isn + 1
    assert mib(e, LINUX_MIB_TCPCHALLENGEACK) == 1
    assert e.sk.sk_state == TCP_ESTABLISHED


def test_established_rst_beyond_the_window_is_ignored(established: Make) -> None:
    e = established()
    e.conn.send("R", seq=70000)
    e.conn.expect_nothing()
    assert e.sk.sk_state == TCP_ESTABLISHED


def test_established_syn_flood_one_challenge_per_half_second(established: Make) -> None:
    e = established()
    for _ in range(20):
        e.conn.send("S", seq=1)
        e.sim.run_for(100 * MSEC)
    assert len(e.flight()) == 4
    assert mib(e, LINUX_MIB_TCPSYNCHALLENGE) == 20
    assert mib(e, LINUX_MIB_TCPACKSKIPPEDCHALLENGE) == 16


def test_established_old_timestamp_is_rejected_by_paws(established: Make) -> None:
    e = established()
    e.conn.send("A", b"a" * 10)
    wanted(e)
    e.conn.send("A", b"b" * 10, ts=(e.conn.ts_val - 10, e.conn.ts_recent))
    assert wanted(e, 0).ack == e.conn.isn + 11
    assert mib(e, LINUX_MIB_PAWSESTABREJECTED) == 1
    assert e.sock.recv(100) == b"a" * 10


def test_established_segment_without_timestamp_is_accepted(established: Make) -> None:
    e = established()
    e.conn.ts_on = False
    e.conn.send("A", b"plain")
    wanted(e)
    assert e.sock.recv(100) == b"plain"


@pytest.mark.parametrize("payload", [b"", b"data"])
def test_established_ack_of_unsent_data_is_dropped_in_silence(established: Make, payload: bytes) -> None:
    e = established()
    e.conn.send("A", payload, ack=1000, seq=1)
    e.conn.expect_nothing(SEC)
    with pytest.raises(BlockingIOError):
        e.sock.recv(1)


def test_established_far_too_old_ack_draws_a_challenge(established: Make) -> None:
    e = established()
    e.conn.send("A", ack=-100)
    wanted(e, 0)
    assert mib(e, LINUX_MIB_TCPCHALLENGEACK) == 1


def test_established_data_beyond_the_window_draws_an_ack(established: Make) -> None:
    e = established()
    e.conn.send("A", b"x", seq=70000)
    assert wanted(e, 0).ack == e.conn.isn + 1
    assert e.net.drop_reasons["TCP_OVERWINDOW"] == 1


def test_established_no_flags_is_dropped(established: Make) -> None:
    e = established()
    e.conn.send("", b"x", seq=1)
    e.conn.expect_nothing(SEC)
    assert e.net.drop_reasons["TCP_FLAGS"] == 1


def test_established_third_ack_window_zero_repeated_is_ignored(established: Make) -> None:
    """An ACK that says nothing new but a closed window does not close it."""
    e = established()
    e.conn.send("A", window=1000, seq=0)
    e.sim.settle()
    assert e.sk.snd_wnd == 65535 << 7


# -- urgent data ------------------------------------------------------------------------------------------


def test_established_urgent_byte_is_read_apart(established: Make) -> None:
    e = established()
    e.conn.send("UA", b"abcd", urg_ptr=3)
    e.sim.settle()
    assert e.sock.recv(1, 1) == b"c"
    assert e.sock.recv(100) == b"ab"
    assert e.sock.recv(100, 2) == b"d"  # MSG_PEEK
    assert e.sock.recv(1) == b"d"


def test_established_urgent_byte_inline_stops_one_read_and_is_over(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_SOCKET, SO_OOBINLINE, 1)
    e.conn.send("PA", b"ab")
    e.conn.send("UA", b"cd", urg_ptr=1)
    e.sim.settle()
    assert e.sock.recv(100) == b"ab"
    assert e.sock.recv(100) == b"cd"
    assert e.sk.urg_data == 0
    predicted = mib(e, LINUX_MIB_TCPHPHITS)
    for _ in range(3):  # the first one makes the forward allocation large enough
        e.conn.send("PA", b"plain")
        e.sim.settle()
    assert mib(e, LINUX_MIB_TCPHPHITS) == predicted + 2


def test_established_data_with_an_ack_too_old_is_dropped_before_the_forward_allocation_has_room(
    established: Make,
) -> None:
    e = established()
    e.conn.send("PA", b"hello", ack=-70000)
    e.sim.settle()
    assert e.sk.rcv_nxt == (e.conn.isn + 1) & 0xFFFFFFFF
    with pytest.raises(BlockingIOError):
        e.sock.recv(100)


def test_established_data_with_an_ack_too_old_is_taken_by_header_prediction(established: Make) -> None:
    e = established()
    for _ in range(2):
        e.conn.send("PA", b"hello")
        e.sim.settle()
    e.conn.send("PA", b"again", ack=-70000)
    e.sim.settle()
    assert e.sock.recv(100) == b"hellohelloagain"


# -- closing ------------------------------------------------------------------------------------------


def test_close_wait_close_sends_fin_and_last_ack_ends_it(established: Make) -> None:
    e = established()
    e.conn.send("FA")
    wanted(e)
    e.sock.close()
    e.conn.expect("FA", seq=1)
    assert e.sk.sk_state == TCP_LAST_ACK
    e.conn.send("A")
    e.sim.settle()
    assert e.sk.sk_state == TCP_CLOSE
    assert e.net.snapshot()["tcp"]["connections"] == []
    assert e.net.ipv4.tcp_orphan_count == 0


def test_fin_wait1_ack_then_fin_ends_in_time_wait(established: Make) -> None:
    e = established()
    e.sock.shutdown(1)
    e.conn.expect("FA", seq=1)
    assert e.sk.sk_state == TCP_FIN_WAIT1
    e.conn.send("A")
    e.sim.settle()
    assert e.sk.sk_state == TCP_FIN_WAIT2
    e.conn.send("FA")
    assert wanted(e, 0).ack == e.conn.isn + 2
    assert time_wait_states(e) == ["TIME_WAIT"]


def test_fin_wait2_half_closed_still_receives(established: Make) -> None:
    e = established()
    e.sock.shutdown(1)
    e.conn.expect("FA")
    e.conn.send("A", b"late data")
    e.sim.settle()
    assert e.sk.sk_state == TCP_FIN_WAIT2
    assert e.sock.recv(100) == b"late data"


def test_fin_wait1_fin_with_ack_of_ours_goes_to_time_wait(established: Make) -> None:
    e = established()
    e.sock.close()
    e.conn.expect("FA")
    e.conn.send("FA")
    wanted(e, 0)
    assert time_wait_states(e) == ["TIME_WAIT"]
    assert e.net.ipv4.tcp_orphan_count == 0


def test_fin_wait1_simultaneous_close_passes_through_closing(established: Make) -> None:
    e = established()
    e.sock.shutdown(1)
    e.conn.expect("FA", seq=1)
    e.conn.send("FA", ack=1)
    e.conn.expect("A", seq=2)
    assert e.sk.sk_state == TCP_CLOSING
    e.conn.send("A", ack=2)
    e.sim.settle()
    assert time_wait_states(e) == ["TIME_WAIT"]


def test_fin_wait1_orphan_ack_only_becomes_a_small_socket(established: Make) -> None:
    e = established()
    e.sock.close()
    e.conn.expect("FA")
    e.conn.send("A")
    e.sim.settle()
    assert time_wait_states(e) == ["FIN_WAIT2"]
    e.sim.run_for(62 * SEC)
    assert time_wait_states(e) == []


def test_fin_wait1_orphan_data_draws_rst(established: Make) -> None:
    e = established()
    e.sock.close()
    e.conn.expect("FA")
    e.conn.send("A", b"nobody reads this")
    segment = e.conn.expect("R")
    assert segment.opts.kinds == ()
    assert e.net.snapshot()["tcp"]["connections"] == []


def test_time_wait_lasts_a_minute(established: Make) -> None:
    e = established()
    e.sock.close()
    e.conn.expect("FA")
    e.conn.send("FA")
    e.sim.run_for(59 * SEC)
    assert time_wait_states(e) == ["TIME_WAIT"]
    e.sim.run_for(3 * SEC)
    assert time_wait_states(e) == []


def test_close_wait_rst_gives_epipe_error(established: Make) -> None:
    e = established()
    e.conn.send("FA")
    wanted(e)
    e.conn.send("R")
    e.sim.settle()
    with pytest.raises(BrokenPipeError):
        e.sock.send(b"x")


def test_listener_socket_type(established: Make) -> None:
    """The child's sizes right after accept()."""
    e = established()
    sk = e.sk
    assert isinstance(e.sock, Socket)
    assert (sk.sk_sndbuf, sk.sk_rcvbuf, sk.snd_cwnd, sk.advmss) == (46080, 131072, 10, 1448)
    assert (sk.icsk_ack.rcv_mss, sk.rcv_ssthresh, sk.rcvq_space.space) == (536, 64088, 14480)
    assert (sk.reordering, sk.mss_cache, sk.icsk_ca_ops.name) == (3, 1448, "cubic")
