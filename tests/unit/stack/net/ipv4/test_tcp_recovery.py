# SPDX-License-Identifier: GPL-2.0-or-later
"""Loss recovery where a live kernel once answered otherwise; the stimuli of tests/differential/stimuli/recovery.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.sim import MSEC
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.include.snmp import (
    LINUX_MIB_TCPDSACKUNDO,
    LINUX_MIB_TCPSACKDISCARD,
    LINUX_MIB_TCPSACKRENEGING,
)
from stack.include.tcp import (
    SOL_TCP,
    TCP_CONGESTION,
    TCP_INFINITE_SSTHRESH,
    TCP_NODELAY,
    TCP_CA_Disorder,
    TCP_CA_Recovery,
)
from stack.net.ipv4 import tcp_metrics

Make = Callable[..., Any]
MSS = 200
RTT = 40 * MSEC
TSO = NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_SG
NO_PROBES = {"tcp_early_retrans": 0, "tcp_min_tso_segs": 64}


def at(segment: int) -> int:
    """The relative sequence number of a segment, counted from 0."""
    return 1 + segment * MSS


class Sender:
    """A connection that sent ``segments`` an RTT ago over a device with TSO; from now on the wire takes no time."""

    def __init__(self, established: Make, segments: int, **more: Any) -> None:
        sysctl = {**NO_PROBES, **more.pop("sysctl", {})}
        before = ((SOL_TCP, TCP_CONGESTION, b"reno"),)
        e = established(delay_ns=RTT // 2, features=TSO, before=before, mss=212, sysctl=sysctl, **more)
        self.e, self.sk = e, e.sk
        e.sock.send(bytes(segments * MSS))
        self.first = e.flight(RTT // 2)
        link = e.sim.links[e.conn.peer.name]
        link.forward.delay_ns = link.backward.delay_ns = 0
        e.sim.run_for(RTT // 2)

    def sent(self) -> list[tuple[int, int]]:
        """What came since: (first segment, segments) of each packet."""
        return [((self.e.rel(s) - 1) // MSS, len(s.payload) // MSS) for s in self.e.flight()]

    def ack(self, una: int, *sack: tuple[int, int], wait: int = 0) -> list[tuple[int, int]]:
        """All before segment ``una``; SACK blocks from first to last + 1; what is sent within ``wait``."""
        self.e.conn.send("A", ack=at(una), sack=tuple((at(a), at(b)) for a, b in sack))
        self.e.sim.settle()
        self.e.sim.run_for(wait)
        return self.sent()

    def count(self, mib: int) -> int:
        return int(self.e.net.mib.net_statistics[mib])


def test_established_packets_of_several_segments_end_with_psh(established: Make) -> None:
    """Half a congestion window in a packet; a packet of one segment has PSH only at the end of what was written."""
    assert [(len(s.payload) // MSS, s.flags) for s in Sender(established, 11).first] == [(5, "PA"), (5, "PA")]


def test_recovery_retransmission_of_one_segment_out_of_several_has_no_psh(established: Make) -> None:
    sender = Sender(established, 10)
    sender.e.conn.send("A", ack=at(4), sack=((at(5), at(10)),))
    assert [(sender.e.rel(s), s.flags) for s in sender.e.flight()] == [(at(4), "A")]


@pytest.mark.parametrize(("apart_ns", "second"), [(MSEC // 2, []), (2 * MSEC, [(11, 1)])])
def test_disorder_second_dupack_sends_new_data_a_millisecond_after_the_first(
    established: Make, apart_ns: int, second: list[tuple[int, int]]
) -> None:
    """Limited transmit (RFC 3042); what waits is a packet of several segments, which is put off for more to be sent
    at once only if the last send is less than a millisecond ago."""
    sender = Sender(established, 20)
    assert sender.ack(0, (1, 2), wait=apart_ns) == [(10, 1)]
    assert sender.ack(0, (1, 3)) == second
    assert sender.sk.icsk_ca_state == TCP_CA_Disorder


@pytest.mark.parametrize(("profile", "resent"), [("linux-6.1", []), ("linux-6.18", [(0, 1)])])
def test_disorder_one_sack_without_tcp_recovery_is_loss_to_rack_by_profile(
    established: Make, profile: str, resent: list[tuple[int, int]]
) -> None:
    sender = Sender(established, 4, profile=profile, sysctl={"tcp_recovery": 0})
    assert sender.ack(0, (3, 4), wait=80 * MSEC) == resent
    assert sender.sk.lost_out == 3 * len(resent)


def test_established_sack_block_that_begins_at_snd_una_is_discarded(established: Make) -> None:
    """What it covers would have been acknowledged."""
    sender = Sender(established, 6)
    sender.ack(0, (0, 2))
    assert sender.sk.sacked_out == 0
    assert sender.count(LINUX_MIB_TCPSACKDISCARD) == 1


def test_recovery_dsack_below_an_ack_that_advances_undoes_the_reduction(established: Make) -> None:
    """The duplicate's packet is in the queue still while the blocks are read."""
    sender = Sender(established, 10)
    assert sender.ack(0, (1, 4)) == [(0, 1)]
    assert sender.sk.icsk_ca_state == TCP_CA_Recovery
    sender.ack(4, (0, 1))
    assert sender.count(LINUX_MIB_TCPDSACKUNDO) == 1


def test_disorder_head_that_was_sacked_is_resent_after_half_a_round_trip(established: Make) -> None:
    """Reneging: the ACK stops before what was SACKed.  The RTO does not replace the short timer."""
    sender = Sender(established, 6)
    sender.ack(0, (1, 3), wait=3 * MSEC)
    assert sender.ack(1, wait=16 * MSEC) == []
    assert sender.ack(1, wait=24 * MSEC) == [(1, 1)]
    assert sender.count(LINUX_MIB_TCPSACKRENEGING) == 1


@pytest.mark.parametrize(("segments", "linear", "resent"), [(2, 1, 3), (2, 0, 2), (5, 1, 2)])
def test_loss_thin_stream_is_resent_at_one_pace_with_the_sysctl(
    established: Make, segments: int, linear: int, resent: int
) -> None:
    """Fewer than four packets in flight, and tcp_thin_linear_timeouts; the RTO is 240 ms."""
    sender = Sender(established, segments, sysctl={"tcp_thin_linear_timeouts": linear})
    sender.e.sim.run_for(820 * MSEC)
    assert sender.sent() == [(0, 1)] * resent
    assert sender.sk.icsk_backoff == (0 if resent == 3 else 2)


# -- small packets -------------------------------------------------------------------------------------------------


def small(established: Make, writes: int, size: int, **more: Any) -> Sender:
    """A connection that sent packets of ``size`` bytes each."""
    sender = Sender(established, 0, **more)
    sender.e.sock.setsockopt(SOL_TCP, TCP_NODELAY, 1)
    for _ in range(writes):
        sender.e.sock.send(bytes(size))
    sender.e.flight()
    return sender


@pytest.mark.parametrize(
    ("size", "sysctl", "resent"), [(30, {}, 150), (90, {}, 180), (30, {"tcp_retrans_collapse": 0}, 30)]
)
def test_loss_small_packets_are_resent_as_one_of_a_segment_at_most(
    established: Make, size: int, sysctl: dict[str, int], resent: int
) -> None:
    sender = small(established, 5, size, sysctl=sysctl)
    queued = sender.sk.sk_wmem_queued
    segments = sender.e.flight(RTT * 7)
    assert [len(s.payload) for s in segments] == [resent]
    assert sender.sk.packets_out == 6 - resent // size
    assert queued - sender.sk.sk_wmem_queued == (resent // size - 1) * sender.e.net.profile.tx_skb_truesize


def test_loss_small_packets_are_not_resent_with_one_that_was_sacked(established: Make) -> None:
    sender = small(established, 6, 30)
    sender.e.conn.send("A", ack=1, sack=((61, 91),))
    assert [len(s.payload) for s in sender.e.flight(RTT * 2)] == [60]


@pytest.mark.parametrize(("profile", "lengths"), [("linux-6.1", [200]), ("linux-6.18", [201])])
def test_established_packet_that_leaves_takes_from_the_next_by_profile(
    established: Make, profile: str, lengths: list[int]
) -> None:
    """The peer's window of 201 bytes makes packets of 200 when they are written."""
    e = established(features=TSO, mss=212, window=201, wscale=0, profile=profile, sysctl=NO_PROBES)
    e.sock.send(bytes(1400))
    assert [len(s.payload) for s in e.flight()] == [200]
    e.conn.send("A", window=201)
    assert [len(s.payload) for s in e.flight()] == lengths


@pytest.mark.parametrize(("profile", "flags"), [("linux-6.1", ["FA"]), ("linux-6.18", [])])
def test_fin_wait1_fin_behind_a_full_congestion_window_goes_by_profile(
    established: Make, profile: str, flags: list[str]
) -> None:
    sender = Sender(established, 10, profile=profile)
    sender.e.sock.shutdown(1)
    assert [s.flags for s in sender.e.flight()] == flags
    sender.e.conn.send("A", ack=at(10))
    assert [s.flags for s in sender.e.flight()] == ([] if flags else ["FA"])


@pytest.mark.parametrize(("profile", "cost"), [("linux-6.1", 1280), ("linux-6.18", 832)])
def test_established_send_buffer_counts_what_a_packet_takes_in_the_kernel(
    established: Make, profile: str, cost: int
) -> None:
    """getsockopt(SO_MEMINFO) of one byte behind a cork: 833 on 6.18; twenty packets of 36 fill 25600 bytes on 6.1."""
    e = established(window=0, features=TSO, profile=profile)
    e.sock.send(b"x")
    assert e.sk.sk_wmem_queued == cost + 1


# -- the path MTU, the metrics cache ---------------------------------------------------------------------------------


def test_loss_path_mtu_that_shrinks_again_makes_what_was_resent_lost_again(established: Make) -> None:
    e = established(features=TSO)
    e.sock.send(bytes(2896))
    e.flight()
    lengths = []
    for mtu in (1200, 800):
        ports = b"\0\x50" + e.conn.sport.to_bytes(2, "big")
        quoted = e.conn.peer.ip_packet(
            6, ports + (e.conn.irs + 1).to_bytes(4, "big"), "10.0.2.15", src="10.0.2.2"
        )
        e.conn.peer.send_icmp("10.0.2.2", 3, 4, mtu, quoted)
        lengths.append(sum(len(s.payload) for s in e.flight()))
    assert lengths == [2896, 2896]
    assert e.sk.mss_cache == 748


@pytest.mark.parametrize(
    ("cwnd", "ssthresh", "noted"), [(10, TCP_INFINITE_SSTHRESH, 0), (10, 5, 0), (2, 5, 9)]
)
def test_close_reordering_is_noted_in_slow_start_after_a_loss_only(
    established: Make, cwnd: int, ssthresh: int, noted: int
) -> None:
    """tcp_metrics: neither by a connection that never lost anything nor in congestion avoidance."""
    sk = Sender(established, 2).sk
    sk.reordering, sk.snd_cwnd, sk.snd_ssthresh = 9, cwnd, ssthresh
    tcp_metrics.tcp_update_metrics(sk)
    metrics = tcp_metrics.tcp_get_metrics(sk, sk.sk_dst_cache, False)
    assert metrics is not None
    assert metrics.reordering == noted
