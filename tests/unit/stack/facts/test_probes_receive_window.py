# SPDX-License-Identifier: GPL-2.0-or-later
"""How a child of 6.1 offers its receive window, and the values it begins with; measured on Linux 6.1."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from factworld import MSS, PROFILES, World

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawTcp
from stack.include.tcp import TCP_INFINITE_SSTHRESH
from stack.include.tcp_states import TCP_ESTABLISHED
from stack.net.ipv4 import proc


def connected(delay_ns: int = 0, **options: Any) -> tuple[World, RawTcp, Socket]:
    w = World(delay_ns=delay_ns)
    conn, child = w.connect(w.listen(), **options)
    w.mark()
    return w, conn, child


def unread(w: World, conn: RawTcp, size: int, count: int) -> list[int]:
    """Send segments as the window allows, each after the ACK of the one before; the window fields that came."""
    fields: list[int] = []
    room = 65160
    for _ in range(count):
        payload = b"x" * min(size, room)
        conn.send("A", payload)
        answer = conn.expect("A", within_ns=SEC)
        fields.append(answer.window)
        room = answer.window << 7
        conn.ts_val = 1000 + (w.sim.now_ns() // MSEC)
    return fields


@pytest.mark.probe("receive window: nobody reads, 1448-byte segments")
def test_probe_window_nobody_reads_full_segments() -> None:
    w, conn, child = connected()
    fields = unread(w, conn, MSS, 57)
    assert fields[:4] == [501, 494, 485, 476]
    assert {a - b for a, b in itertools.pairwise(fields[2:52])} == {9}
    assert fields[-5:] == [35, 24, 13, 2, 0]
    assert conn.snd_nxt - 1 == 81344
    assert child.sk.sk_rcvbuf == 131072


@pytest.mark.probe("receive window: nobody reads, 512-byte segments")
def test_probe_window_nobody_reads_512_byte_segments() -> None:
    w, conn, _ = connected()
    fields = unread(w, conn, 512, 40)
    assert fields == [506 - 4 * n for n in range(40)]


@pytest.mark.probe("receive window: nobody reads, 100-byte segments")
def test_probe_window_nobody_reads_100_byte_segments() -> None:
    w, conn, _ = connected()
    assert unread(w, conn, 100, 40) == [509] * 40


@pytest.mark.probe("receive window: updates while 81344 unread bytes are read in 16 KiB steps")
def test_probe_window_updates_while_reading_in_16_kib_steps() -> None:
    """The first step frees 13056 bytes.  The second does not double that.  By the third a round trip has passed
    since the last look at what was read, so the buffer grows and all that the threshold allows is offered."""
    w, conn, child = connected(delay_ns=10 * MSEC)
    assert unread(w, conn, MSS, 57)[-1] == 0
    w.sim.run_for(100 * MSEC)
    for _ in range(5):
        assert len(child.recv(16384)) in (16384, 81344 - 4 * 16384)
        w.sim.run_for(12 * MSEC)
    assert [s.window for s in w.flight(conn, 20 * MSEC)] == [102, 501]


@pytest.mark.probe("receive window: a reader that keeps up over a 20 ms round trip")
def test_probe_window_of_a_reader_that_keeps_up() -> None:
    """10, 20, then 40 segments a round, read at once; rounds further apart than the RTO, so that each begins with 16
    immediate ACKs.  The last field of each round."""
    w, conn, child = connected(delay_ns=10 * MSEC)
    fields = []
    for count in (10, 20, *([40] * 8)):
        for _ in range(count):
            conn.send("A", b"x" * MSS)
        w.sim.run_for(10 * MSEC)
        assert len(child.recv(1 << 20)) == count * MSS
        fields.append(w.flight(conn, 10 * MSEC)[-1].window)
        w.sim.run_for(300 * MSEC)
        conn.ts_val += 320
        conn.ts_recent += 300  # an echo that is 20 ms old
    assert fields == [422, 501, 505, 1317, 2247, 2925, 3195, 3258, 3276, 3276]
    assert child.sk.sk_rcvbuf == 840960


@pytest.mark.probe("receive window: data across the right edge, in order")
def test_probe_data_across_the_right_edge_are_taken_whole() -> None:
    _, conn, child = connected()
    for n in range(44):
        conn.send("A", b"x" * MSS)
        conn.expect("A", ack=1 + (n + 1) * MSS, within_ns=SEC)
    sk: Any = child.sk
    room = (sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt) & 0xFFFFFFFF
    conn.send("A", b"y" * (room + 500))
    conn.expect("A", ack=1 + 44 * MSS + room + 500, within_ns=SEC)


@pytest.mark.probe("receive window: data across the right edge, out of order")
def test_probe_data_across_the_right_edge_out_of_order_are_sacked() -> None:
    _, conn, child = connected()
    sk: Any = child.sk
    start = sk.rcv_wnd - 500
    conn.send("A", b"y" * 1000, seq=1 + start)
    answer = conn.expect("A", ack=1)
    assert answer.opts.sack == ((conn.isn + 1 + start, conn.isn + 1 + start + 1000),)


@pytest.mark.probe("receive window: data across the right edge, with the third ACK")
def test_probe_data_across_the_right_edge_with_the_third_ack() -> None:
    w = World()
    listener = w.listen(before=((1, 8, 2048),))  # SO_RCVBUF: window 1448
    conn, answer = w.request()
    assert answer.window == 1448
    conn.send("PA", b"z" * 1460)
    conn.expect("A", ack=1461, within_ns=50 * MSEC)
    assert len(listener.accept()[0].recv(4000)) == 1460


@pytest.mark.probe("receive window: wholly beyond it")
def test_probe_data_wholly_beyond_draw_an_ack_a_rst_nothing() -> None:
    _, conn, child = connected()
    conn.send("A", b"x", seq=1 + 70_000)
    conn.expect("A", seq=1, ack=1)
    conn.send("R", seq=1 + 70_000)
    conn.expect_nothing(SEC)
    assert child.sk.sk_state == TCP_ESTABLISHED


@pytest.mark.probe("receive window: third ACK with data behind a hole")
def test_probe_third_ack_with_data_behind_a_hole_makes_the_child() -> None:
    w = World()
    listener = w.listen()
    conn, _ = w.request()
    conn.send("PA", b"x" * 100, seq=101)
    answer = conn.expect("A", ack=1)
    assert answer.opts.sack == ((conn.isn + 101, conn.isn + 201),)
    child, _ = listener.accept()
    with pytest.raises(BlockingIOError):
        child.recv(1)


@pytest.mark.probe("receive window: third ACK with a TSecr that was never sent")
@pytest.mark.parametrize("off", [-5_000_000, 5_000_000])
def test_probe_third_ack_with_a_tsecr_never_sent_is_accepted(off: int) -> None:
    w = World()
    listener = w.listen()
    conn, _ = w.request()
    conn.send("A", ts=(1000, (conn.ts_recent + off) & 0xFFFFFFFF))
    w.peer.expect_nothing()
    listener.accept()


@pytest.mark.probe("receive window: third ACK again with window 0")
def test_probe_third_ack_again_with_window_0_does_not_close() -> None:
    w, conn, child = connected()
    conn.send("A", window=0)
    w.sim.settle()
    child.send(b"goes out")
    conn.expect("PA", payload=b"goes out")


@pytest.mark.probe("receive window: window 0 on the third ACK")
def test_probe_window_0_on_the_third_ack_closes() -> None:
    _w, conn, child = connected(window=0)
    child.send(b"waits")
    conn.expect_nothing(150 * MSEC)


@pytest.mark.probe("defaults: a child right after accept")
def test_probe_child_right_after_accept() -> None:
    w = World()
    listener = w.listen()
    _, child = w.connect(listener)
    sk: Any = child.sk
    assert child.getsockopt(1, 7) == 46080  # SO_SNDBUF, under cubic
    assert child.getsockopt(1, 8) == 131072
    assert (sk.snd_cwnd, sk.snd_ssthresh, sk.advmss) == (10, TCP_INFINITE_SSTHRESH, 1448)
    assert (sk.icsk_ack.rcv_mss, sk.rcv_ssthresh, sk.rcvq_space.space) == (536, 64088, 14480)
    assert (sk.reordering, sk.mss_cache) == (3, 1448)
    assert listener.getsockopt(1, 7) == 16384
    assert listener.getsockopt(6, 2) == 536  # TCP_MAXSEG


@pytest.mark.probe("defaults: sysctls of a fresh namespace")
def test_probe_sysctl_defaults() -> None:
    net = World().net
    names = {
        "tcp_rmem": (4096, 131072, 6291456),
        "tcp_wmem": (4096, 16384, 4194304),
        "core.rmem_default": 212992,
        "core.rmem_max": 212992,
        "core.wmem_default": 212992,
        "core.somaxconn": 4096,
        "tcp_syn_retries": 6,
        "tcp_fin_timeout": 60,
        "tcp_invalid_ratelimit": 500,
        "tcp_shrink_window": 0,
        "tcp_comp_sack_delay_ns": MSEC,
        "tcp_synack_retries": 5,
        "tcp_syncookies": 1,
        "tcp_ecn": 2,
        "tcp_fastopen": 1,
        "tcp_tw_reuse": 2,
        "tcp_early_retrans": 3,
        "tcp_recovery": 1,
        "tcp_reordering": 3,
        "tcp_min_snd_mss": 48,
        "tcp_retries1": 3,
        "tcp_retries2": 15,
        "tcp_orphan_retries": 0,
        "tcp_slow_start_after_idle": 1,
        "tcp_no_metrics_save": 0,
        "tcp_comp_sack_nr": 44,
        "tcp_adv_win_scale": 1,
        "tcp_app_win": 31,
    }
    assert {name: net.sysctl_get(name) for name in names} == names


@pytest.mark.probe("defaults: counters that only 6.18 has")
def test_probe_counters_that_only_6_18_has() -> None:
    newer = {"BeyondWindow", "PAWSOldAck", "PAWSTimewait", "TSEcrRejected", "TCPPLBRehash"}
    newer |= {"TCPAORequired", "TCPAOBad", "TCPAOKeyNotFound", "TCPAOGood", "TCPAODroppedIcmps"}
    shown = {}
    for profile in PROFILES:
        names = proc.netstat_seq_show(World(profile).net).split("\n", 1)[0]
        shown[profile] = set(names.split()[1:])
    assert shown["linux-6.18"] - shown["linux-6.1"] == newer
    assert shown["linux-6.1"] <= shown["linux-6.18"]
