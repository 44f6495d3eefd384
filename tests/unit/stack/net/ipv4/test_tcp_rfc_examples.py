# SPDX-License-Identifier: GPL-2.0-or-later
"""The worked examples of RFC 6937 (PRR) and RFC 8985 (RACK-TLP), segment by segment on the wire."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from stack.api.sim import MSEC
from stack.include.snmp import (
    LINUX_MIB_TCPLOSSPROBES,
    LINUX_MIB_TCPLOSTRETRANSMIT,
    LINUX_MIB_TCPTIMEOUTS,
)
from stack.include.tcp import SOL_TCP, TCP_CONGESTION, TCP_CA_Open, TCP_CA_Recovery, tcp_packets_in_flight
from stack.net.ipv4 import tcp_recovery

Make = Callable[..., Any]
MSS = 1448
RTT = 20 * MSEC
RENO = ((SOL_TCP, TCP_CONGESTION, b"reno"),)


def at(number: int) -> int:
    """The relative sequence number of segment ``number``, counted from 0."""
    return 1 + number * MSS


class Wire:
    """A connection whose first ``flight`` segments have arrived at the raw host, an RTT of 20 ms ago; from now on the
    wire takes no time, so that an answer to an ACK is there at once."""

    def __init__(self, established: Make, flight: int, written: int) -> None:
        self.e = established(delay_ns=RTT // 2, before=RENO)
        sk = self.e.sk
        sk.snd_cwnd, sk.sk_sndbuf = max(flight, 10), 1 << 20
        self.e.sock.send(bytes(written * MSS))
        assert len(self.e.flight()) == flight
        link = self.e.sim.links[self.e.conn.peer.name]
        link.forward.delay_ns = link.backward.delay_ns = 0
        self.e.sim.run_for(RTT // 2)
        self.nxt = flight

    def sent(self) -> str:
        """What has arrived since: "N" new, "R" again, with the number of the segment."""
        text = []
        for segment in self.e.flight():
            number = (self.e.rel(segment) - 1) // MSS
            text.append(f"{'R' if number < self.nxt else 'N'}{number}")
            self.nxt = max(self.nxt, number + 1)
        return " ".join(text)

    def ack(self, ack: int, *sack: tuple[int, int]) -> str:
        """ACK up to segment ``ack``, SACK segments ``sack`` (first, last + 1); what the sender does about it."""
        self.e.conn.send("A", ack=at(ack), sack=tuple((at(a), at(b)) for a, b in sack))
        self.e.sim.settle()
        answer = self.sent()
        self.e.sim.run_for(MSEC // 5)
        return answer

    def wait(self, for_ns: int) -> str:
        self.e.sim.run_for(for_ns)
        return self.sent()


# -- RFC 6937 --------------------------------------------------------------------------------------------------


def test_rfc_6937_one_loss_of_twenty(established: Make) -> None:
    """Section 3.1: cwnd 20, segment 0 lost.  Two new by limited transmit (RFC 3042), the retransmission, then one for
    every second ACK, and at the end of the round trip ssthresh is in flight."""
    wire = Wire(established, 20, 40)
    sent, pipe = [], []
    for n in range(1, 20):
        sent.append(wire.ack(0, (1, n + 1))[:1])
        pipe.append(tcp_packets_in_flight(wire.e.sk))
    assert "".join(s or "." for s in sent[:17]) == "NNR.N.N.N.N.N.N.N"
    assert pipe[:17] == [20, 20, 19, 18, 18, 17, 17, 16, 16, 15, 15, 14, 14, 13, 13, 12, 12]
    assert pipe[-1] == wire.e.sk.snd_ssthresh == 10
    assert all(b <= a for a, b in pairwise(pipe))


def test_rfc_6937_fifteen_losses_of_twenty(established: Make) -> None:
    """Section 3.1: segments 0 to 14 lost.  No burst: each of the five ACKs sends one, as PRR with the conservative
    bound; from the first ACK that covers a retransmission on it is slow start towards ssthresh."""
    wire = Wire(established, 20, 40)
    answers = [wire.ack(0, (15, n + 1)) for n in range(15, 20)]
    assert answers == ["N20", "N21", "R0", "R1", "R2"]
    assert tcp_packets_in_flight(wire.e.sk) == 5
    assert wire.ack(1, (15, 20)) == "R3 R4"
    assert wire.ack(2, (15, 20)) == "R5 R6"


def test_rfc_6937_end_of_recovery_window_is_ssthresh(established: Make) -> None:
    wire = Wire(established, 20, 40)
    for n in range(1, 20):
        wire.ack(0, (1, n + 1))
    wire.ack(wire.nxt)
    sk = wire.e.sk
    assert sk.icsk_ca_state == TCP_CA_Open
    assert sk.snd_ssthresh == 10
    assert sk.snd_cwnd == 10 + 1  # the same ACK covers more than a window, which grows it by one


# -- RFC 8985 --------------------------------------------------------------------------------------------------


def test_rfc_8985_tail_loss_is_found_by_the_probe(established: Make) -> None:
    """Section 3.4: P1 to P3 lost; the probe after 2 RTT sends P3, and its SACK shows that P1 and P2 are lost.  PRR lets
    one go for each that is delivered.  No timeout."""
    wire = Wire(established, 4, 4)
    assert wire.ack(1) == ""
    assert wire.wait(RTT) == ""
    assert wire.wait(2 * RTT) == "R3"
    wire.e.sim.run_for(RTT)
    assert wire.ack(1, (3, 4)) == "R1"
    assert wire.e.sk.lost_out == 2
    wire.e.sim.run_for(RTT)
    assert wire.ack(2, (3, 4)) == "R2"
    wire.ack(4)
    mib = wire.e.net.mib.net_statistics
    assert mib[LINUX_MIB_TCPLOSSPROBES] == 1
    assert mib[LINUX_MIB_TCPTIMEOUTS] == 0
    assert wire.e.sk.packets_out == 0


def test_rfc_8985_lost_retransmission_is_found_by_what_was_sent_after_it(established: Make) -> None:
    """Section 3.4, step 7: the retransmission of P0 is lost too; P12 was sent after it and arrives."""
    wire = Wire(established, 10, 30)
    assert [wire.ack(0, (1, n)) for n in (2, 3, 4)] == ["N10", "N11", "R0"]
    assert [wire.ack(0, (1, n)) for n in (5, 6)] == ["", "N12"]
    wire.e.sim.run_for(RTT)
    assert wire.ack(0, (1, 6), (12, 13)).split()[0] == "R0"
    assert wire.e.net.mib.net_statistics[LINUX_MIB_TCPLOSTRETRANSMIT] >= 1
    assert wire.e.net.mib.net_statistics[LINUX_MIB_TCPTIMEOUTS] == 0


def test_rfc_8985_three_sacked_need_no_reordering_window(established: Make) -> None:
    """Section 6.2, step 4: as long as no reordering was seen, three duplicates are as good as ever."""
    wire = Wire(established, 10, 10)
    assert [wire.ack(0, (1, n)) for n in (2, 3, 4)] == ["", "", "R0"]
    assert wire.e.sk.icsk_ca_state == TCP_CA_Recovery


def test_rfc_8985_two_sacked_wait_for_a_quarter_of_the_round_trip(established: Make) -> None:
    """Section 6.2, step 4 and 6.3: below three the reordering window is min_rtt / 4, then the timer resends."""
    wire = Wire(established, 10, 10)
    link = wire.e.sim.links[wire.e.conn.peer.name]
    link.forward.delay_ns = link.backward.delay_ns = 0
    assert wire.ack(0, (1, 3)) == ""
    assert wire.e.sk.icsk_ca_state != TCP_CA_Recovery
    assert tcp_recovery.tcp_rack_reo_wnd(wire.e.sk) == pytest.approx(5000, abs=100)
    assert wire.wait(4 * MSEC) == ""
    assert wire.wait(12 * MSEC) == "R0"


def test_rfc_8985_reordering_seen_then_late_segments_are_given_time(established: Make) -> None:
    """Section 6.2: a segment that is filled in without retransmission is reordering; from then on even many duplicates
    do not resend before the window is over."""
    wire = Wire(established, 10, 30)
    assert wire.ack(0, (1, 3)) == "N10 N11"
    assert wire.ack(3).startswith("N12")
    assert wire.e.sk.reord_seen
    wire.e.sim.run_for(RTT)
    assert "R" not in wire.ack(3, (4, 10))
    assert "R" not in wire.ack(10)


@pytest.mark.parametrize(
    ("steps", "srtt_ms", "window"), [(1, 20, 5000), (2, 20, 10000), (3, 20, 15000), (9, 20, 20000)]
)
def test_rfc_8985_each_round_of_dsacks_widens_the_window_up_to_srtt(
    established: Make, steps: int, srtt_ms: int, window: int
) -> None:
    """Section 6.2, step 4: RACK.reo_wnd = min(reo_wnd_mult * min_RTT / 4, SRTT)."""
    sk = Wire(established, 4, 4).e.sk
    sk.reord_seen = 1
    sk.rack.reo_wnd_steps = steps
    sk.srtt_us = srtt_ms * 1000 << 3
    assert tcp_recovery.tcp_rack_reo_wnd(sk) == window


def test_two_blocks_that_are_news_at_once_are_no_reordering(established: Make) -> None:
    """The newest block stands first (RFC 2018, section 4), but nothing that was below it came late."""
    wire = Wire(established, 10, 30)
    assert wire.ack(0, (5, 6), (3, 4)) == "N10 N11"
    sk = wire.e.sk
    assert sk.sacked_out == 2
    assert sk.reord_seen == 0
    wire.ack(0, (1, 2), (5, 6), (3, 4))
    assert sk.reord_seen == 1  # this one came late


def test_rfc_8985_dsack_widens_once_a_round_and_for_sixteen_recoveries(established: Make) -> None:
    from stack.include.tcp import rate_sample

    sk = Wire(established, 4, 4).e.sk
    rack, rs = sk.rack, rate_sample()
    sk.delivered, rs.prior_delivered = 50, 40
    rack.dsack_seen = True
    tcp_recovery.tcp_rack_update_reo_wnd(sk, rs)
    assert (rack.reo_wnd_steps, rack.reo_wnd_persist) == (2, 16)
    rack.dsack_seen = True
    rs.prior_delivered = 49  # sent before the window was widened
    tcp_recovery.tcp_rack_update_reo_wnd(sk, rs)
    assert rack.reo_wnd_steps == 2
    rack.reo_wnd_persist = 0
    tcp_recovery.tcp_rack_update_reo_wnd(sk, rs)
    assert rack.reo_wnd_steps == 1
