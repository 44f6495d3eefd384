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
    TCP_CA_Disorder,
    TCP_CA_Recovery,
)

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
