# SPDX-License-Identifier: GPL-2.0-or-later
"""What a connection sends, and when.  Figures were measured on Linux 6.1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.sim import MSEC, SEC
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.include.sk_buff import CHECKSUM_PARTIAL, SKB_GSO_TCPV4
from stack.include.snmp import (
    LINUX_MIB_TCPFASTRETRANS,
    LINUX_MIB_TCPLOSSPROBES,
    TCP_MIB_OUTSEGS,
    TCP_MIB_RETRANSSEGS,
)
from stack.include.sock import SOCK_DEAD
from stack.include.tcp import TCP_CA_Loss, TCP_CA_Recovery
from stack.include.tcp_states import TCP_CLOSE
from stack.net.ipv4 import tcp_output
from stack.stack import Stack

IPPROTO_TCP, TCP_NODELAY, TCP_CORK, TCP_MAXSEG = 6, 1, 3, 2
SOL_SOCKET, SO_LINGER = 1, 13
MSS = 1448
TSO = NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_SG
Make = Callable[..., Any]


def lengths(segments: list[Any]) -> list[int]:
    return [len(s.payload) for s in segments]


def ack_all(e: Any) -> None:
    e.conn.send("A")
    e.sim.settle()


# -- windows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rmem", "mss", "window"),
    [
        (131072, 1448, 65160),
        (131072, 1460, 64240),
        (65536, 1448, 31856),
        (87380, 1448, 43440),
        (262144, 1448, 65535),
    ],
)
def test_initial_window_by_buffer(established: Make, rmem: int, mss: int, window: int) -> None:
    sk = established().sk
    got, _, _ = tcp_output.tcp_select_initial_window(sk, rmem // 2, mss, 0, True, 0)
    assert got == window


@pytest.mark.parametrize(
    ("rmem_max", "wscale"), [(3679840, 6), (4194304, 7), (6291456, 7), (16777216, 9), (33554432, 10)]
)
def test_initial_window_scale_by_largest_buffer(established: Make, rmem_max: int, wscale: int) -> None:
    sk = established(sysctl={"tcp_rmem": (4096, 131072, rmem_max)}).sk
    assert tcp_output.tcp_select_initial_window(sk, 65536, MSS, 0, True, 0)[2] == wscale
    assert tcp_output.tcp_select_initial_window(sk, 65536, MSS, 0, False, 0)[2] == 0


# -- how much goes ------------------------------------------------------------------------------------------


def test_established_first_flight_is_ten_segments(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    assert e.sock.send(b"x" * 20 * MSS) == 20 * MSS
    flight = e.flight(11 * MSEC)
    assert lengths(flight) == [MSS] * 10
    assert len({s.packet.time_ns for s in flight}) == 1
    ack_all(e)
    assert lengths(e.flight(11 * MSEC)) == [MSS] * 10
    assert e.sk.snd_cwnd == 20


def test_established_peer_window_limits(established: Make) -> None:
    e = established()
    e.conn.send("A", b"x")
    e.conn.send("A", b"x", window=20)  # scaled by 7: 2560 bytes
    e.flight()
    e.sock.send(b"x" * 5000)
    assert lengths(e.flight()) == [MSS]
    e.conn.send("A", window=40)
    assert sum(lengths(e.flight())) == 5000 - MSS


def test_established_send_takes_what_the_buffer_holds(established: Make) -> None:
    e = established(features=TSO)
    assert e.sock.send(b"x" * 200_000) == 79640
    with pytest.raises(BlockingIOError):
        e.sock.send(b"x")


def test_established_gso_frames_leave_whole(established: Make) -> None:
    e = established(features=TSO)
    for _ in range(6):
        e.sock.send(bytes(range(256)) * 256)
        e.flight()
        ack_all(e)
    e.flight()
    start = len(e.sim.frames)
    e.sock.send(b"x" * 65160)
    frames = [f for f in e.sim.frames[start:] if len(f.data) > 100]
    assert max(len(f.data) for f in frames) > 40000
    assert all(f.ip_summed == CHECKSUM_PARTIAL for f in frames)
    assert all(f.gso_size == MSS and f.gso_type == SKB_GSO_TCPV4 for f in frames)
    assert sum(len(f.data) - 66 for f in frames) == 65160


def test_established_gso_frame_counts_as_its_segments(established: Make) -> None:
    e = established(features=TSO)
    before = e.net.mib.tcp_statistics[TCP_MIB_OUTSEGS]
    e.sock.send(b"x" * (10 * MSS))
    assert e.net.mib.tcp_statistics[TCP_MIB_OUTSEGS] - before == 10
    assert e.sk.packets_out == 10


def test_established_gso_frame_half_acknowledged_is_trimmed(established: Make) -> None:
    e = established(features=TSO, delay_ns=MSEC)
    e.sock.send(b"x" * (4 * MSS))
    e.flight(MSEC)
    e.conn.send("A", ack=1 + 2 * MSS + 100)
    e.sim.run_for(2 * MSEC)
    assert e.sk.packets_out == 2
    assert sum(skb.len for skb in e.sk.tcp_rtx_queue) == 2 * MSS - 100


def test_established_payload_is_not_copied(established: Make) -> None:
    e = established(features=TSO)
    blob = b"z" * 10_000
    e.sock.send(blob)
    owners = [memoryview(f).obj for skb in e.sk.tcp_rtx_queue for f in skb.frags]
    assert owners
    assert all(owner is blob for owner in owners)


def test_established_many_small_writes_are_one_packet(established: Make) -> None:
    e = established(delay_ns=MSEC)
    e.sock.send(b"first")
    for _ in range(500):
        e.sock.send(b"xy")
    assert lengths(e.flight(MSEC)) == [5]
    ack_all(e)
    segments = e.flight(2 * MSEC)
    assert b"".join(s.payload for s in segments) == b"xy" * 500
    assert len(segments) == 1


# -- Nagle ------------------------------------------------------------------------------------------


def test_established_nagle_holds_the_second_small_write(established: Make) -> None:
    e = established()
    e.sock.send(b"a")
    e.sock.send(b"b")
    e.sock.send(b"c")
    assert lengths(e.flight()) == [1]
    e.conn.send("A")
    assert [s.payload for s in e.flight()] == [b"bc"]


def test_established_nodelay_sends_each_write(established: Make) -> None:
    e = established()
    e.sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    for piece in (b"a", b"b", b"c"):
        e.sock.send(piece)
    assert [s.payload for s in e.flight()] == [b"a", b"b", b"c"]


def test_established_cork_waits_for_a_full_segment_or_the_end(established: Make) -> None:
    e = established()
    e.sock.setsockopt(IPPROTO_TCP, TCP_CORK, 1)
    e.sock.send(b"head")
    e.conn.expect_nothing()
    e.sock.send(b"x" * MSS)
    assert lengths(e.flight()) == [MSS]
    e.sock.setsockopt(IPPROTO_TCP, TCP_CORK, 0)
    assert lengths(e.flight()) == [4]


def test_established_maxseg_reads_the_segment_size(established: Make) -> None:
    e = established(mss=1000)
    assert e.sock.getsockopt(IPPROTO_TCP, TCP_MAXSEG) == 988
    e.sock.send(b"x" * 2000)
    assert lengths(e.flight())[0] == 988


# -- loss ------------------------------------------------------------------------------------------


def test_established_three_sacks_resend_the_hole(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.send(b"x" * 10 * MSS)
    e.flight(11 * MSEC)
    resent = []
    for n in range(2, 6):
        e.conn.send("A", ack=1, sack=((1 + MSS, 1 + n * MSS),))
        e.sim.run_for(10 * MSEC)
        resent.append(e.net.mib.net_statistics[LINUX_MIB_TCPFASTRETRANS])
        e.sim.run_for(MSEC // 10)
    assert resent == [0, 0, 1, 1] or resent == [0, 1, 1, 1]
    assert e.sk.icsk_ca_state == TCP_CA_Recovery
    assert e.sk.snd_ssthresh == 7


def test_established_three_duplicate_acks_without_sack_resend_the_first(established: Make) -> None:
    e = established(sackok=False)
    e.sock.send(b"x" * 10 * MSS)
    e.flight()
    for _ in range(2):
        e.conn.send("A", ack=1)
    e.conn.expect_nothing()
    e.conn.send("A", ack=1)
    assert e.rel(e.conn.expect("A", seq=1, length=MSS)) == 1


def test_established_ack_of_everything_ends_recovery(established: Make) -> None:
    e = established(sackok=False)
    e.sim.run_for(10 * MSEC)
    e.sock.send(b"x" * 10 * MSS)
    e.flight()
    for _ in range(3):
        e.conn.send("A", ack=1)
    e.flight()
    e.conn.send("A", ack=1 + 10 * MSS)
    e.sim.settle()
    e.sock.send(b"y")
    e.flight()
    ack_all(e)
    assert e.sk.icsk_ca_state == 0
    assert e.sk.packets_out == e.sk.lost_out == e.sk.retrans_out == e.sk.sacked_out == 0
    assert e.sk.snd_ssthresh == 7
    assert e.sk.snd_cwnd in (7, 8)


@pytest.mark.parametrize(
    ("rtt_ms", "low", "high"), [(0, 4, 12), (20, 44, 52), (50, 104, 112), (100, 204, 212), (200, 404, 436)]
)
def test_established_tail_loss_probe_after_two_srtt(
    established: Make, rtt_ms: int, low: int, high: int
) -> None:
    e = established(delay_ns=rtt_ms * MSEC // 2)
    start = e.sim.now_ns()
    e.sock.send(b"x" * 10 * MSS)
    flight = e.flight(500 * MSEC)
    probe = flight[10]
    assert e.rel(probe) == 1 + 9 * MSS
    assert low <= (probe.packet.time_ns - start) / MSEC - rtt_ms / 2 <= high
    assert e.net.mib.net_statistics[LINUX_MIB_TCPLOSSPROBES] == 1


def test_established_tail_loss_probe_prefers_new_data(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.send(b"x" * 12 * MSS)
    flight = e.flight(70 * MSEC)
    assert e.rel(flight[10]) == 1 + 10 * MSS
    assert e.net.mib.tcp_statistics[TCP_MIB_RETRANSSEGS] == 0


def test_established_rto_counts_everything_as_lost(established: Make) -> None:
    e = established(sysctl={"tcp_early_retrans": 0})
    e.sock.send(b"x" * 10 * MSS)
    e.flight(250 * MSEC)
    assert (e.sk.icsk_ca_state, e.sk.snd_cwnd) == (TCP_CA_Loss, 1)
    assert e.sk.lost_out == 10
    # F-RTO: an ACK of what was never resent shows that the timeout was spurious.
    e.conn.send("A", ack=1 + 3 * MSS)
    e.sim.settle()
    assert e.sk.snd_cwnd >= 1


# -- the end ------------------------------------------------------------------------------------------


def test_close_with_unsent_data_puts_the_fin_behind_it(established: Make) -> None:
    e = established()
    e.conn.send("A", b"x")
    e.conn.send("A", b"x", window=1)  # 128 bytes
    e.flight()
    assert e.sock.recv(10) == b"xx"
    e.sock.send(b"y" * 200)
    e.sock.close()
    assert lengths(e.flight()) == []
    e.conn.send("A", window=100)
    assert [(len(s.payload), "F" in s.flags) for s in e.flight()] == [(200, True)]


def test_close_with_unread_data_resets(established: Make) -> None:
    e = established()
    e.conn.send("A", b"unread")
    e.flight()
    e.sock.close()
    e.conn.expect("RA", seq=1)
    assert e.sk.sk_state == TCP_CLOSE
    assert e.net.snapshot()["netstat"]["TcpExt"]["TCPAbortOnClose"] == 1


def test_close_linger_zero_resets(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_SOCKET, SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    e.sock.close()
    e.conn.expect("RA", seq=1)
    assert e.net.snapshot()["netstat"]["TcpExt"]["TCPAbortOnData"] == 1


def test_shutdown_write_then_send_is_a_broken_pipe(established: Make) -> None:
    e = established()
    e.sock.shutdown(1)
    e.conn.expect("FA")
    with pytest.raises(BrokenPipeError):
        e.sock.send(b"x")


def test_close_twice_closed_leaves_nothing(established: Make) -> None:
    e = established()
    e.sock.close()
    e.conn.expect("FA")
    e.conn.send("FA")
    e.sim.run_for(130 * SEC)
    assert e.net.next_deadline() is None or e.sk.sk_flags & SOCK_DEAD
    assert e.net.snapshot()["tcp"]["connections"] == []
    assert e.net.snapshot()["tcp"]["time_wait"] == []


# -- small queues ------------------------------------------------------------------------------------------


def test_established_busy_device_holds_the_sender_back(established: Make) -> None:
    """A device that refuses packets does not get more than a few: the rest stays in the socket."""
    e = established(features=TSO)
    for _ in range(8):
        e.sock.send(b"x" * 65536)
        e.flight()
        ack_all(e)
    net: Stack = e.net
    dev = net.devices_by_name["eth0"]
    dev.queue_stopped = True
    taken = 0
    try:
        for _ in range(100):
            taken += e.sock.send(b"x" * 65536)
    except BlockingIOError:
        pass
    assert len(dev.tx_queue) <= 20
    queued = len(dev.tx_queue)
    assert e.sk.sk_wmem_alloc > 0
    from stack.net.core.dev import netif_wake_queue

    start = len(e.sim.frames)
    netif_wake_queue(dev)
    assert len(e.sim.frames) - start >= queued
    assert e.sk.sk_wmem_alloc == 0
    assert taken > 0
