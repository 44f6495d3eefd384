# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivery rate samples: net/ipv4/tcp_rate.c (draft-cheng-iccrg-delivery-rate-estimation).

Each packet carries, from the moment it is sent, what had been delivered by then and when; the ACK that covers it tells
how much was delivered since and in what time.  The sample's rate is delivered / interval, where the interval is the
longer of the sending and the acknowledging phase, so that neither ACK compression nor a burst makes it too high.
Times are microseconds of the connection's clock (``tcp_mstamp``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stack.include.tcp import TCPCB_EVER_RETRANS, TCP_CA_Loss, tcp_min_rtt, tcp_packets_in_flight
from stack.seqnum import MASK32, after

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.include.tcp import rate_sample, tcp_skb_cb, tcp_sock


def tcp_rate_skb_sent(sk: tcp_sock, skb: sk_buff) -> None:
    """A packet leaves: write down the state of delivery."""
    if not sk.packets_out:
        # The first of a flight: sending and acknowledging both start now.
        now = skb.skb_mstamp_ns // 1000
        sk.first_tx_mstamp = now
        sk.delivered_mstamp = now
    cb = skb.cb
    cb.first_tx_mstamp = sk.first_tx_mstamp
    cb.delivered_mstamp = sk.delivered_mstamp
    cb.delivered = sk.delivered
    cb.delivered_ce = sk.delivered_ce
    cb.is_app_limited = bool(sk.app_limited)


def tcp_rate_copy(old: tcp_skb_cb, new: tcp_skb_cb) -> None:
    """A sent packet was split: its second half was sent with the first."""
    new.delivered_mstamp = old.delivered_mstamp
    if not old.delivered_mstamp:
        return
    new.first_tx_mstamp = old.first_tx_mstamp
    new.delivered = old.delivered
    new.delivered_ce = old.delivered_ce
    new.is_app_limited = old.is_app_limited


def tcp_rate_skb_delivered(sk: tcp_sock, skb: sk_buff, rs: rate_sample) -> None:
    """A packet was acknowledged or SACKed: the one sent last gives the sample."""
    cb = skb.cb
    if not cb.delivered_mstamp:
        return
    tx_mstamp = skb.skb_mstamp_ns // 1000
    later = tx_mstamp > sk.first_tx_mstamp or (
        tx_mstamp == sk.first_tx_mstamp and after(cb.end_seq, rs.last_end_seq)
    )
    if not rs.prior_delivered or later:
        rs.prior_delivered = cb.delivered
        rs.prior_mstamp = cb.delivered_mstamp
        rs.is_app_limited = cb.is_app_limited
        rs.is_retrans = cb.sacked & TCPCB_EVER_RETRANS != 0
        rs.last_end_seq = cb.end_seq
        sk.first_tx_mstamp = tx_mstamp
        rs.snd_interval_us = tx_mstamp - cb.first_tx_mstamp
    # Once SACKed, the later cumulative ACK must not count it again.
    cb.delivered_mstamp = 0


def tcp_rate_gen(sk: tcp_sock, delivered: int, lost: int, is_sack_reneg: bool, rs: rate_sample) -> None:
    """Finish the sample of one ACK: ``delivered`` and ``lost`` segments are news of it."""
    if sk.app_limited and sk.delivered > sk.app_limited:
        sk.app_limited = 0
    if delivered:
        sk.delivered_mstamp = sk.tcp_mstamp
    rs.acked_sacked = delivered
    rs.losses = lost
    if not rs.prior_mstamp or is_sack_reneg:
        rs.delivered = -1
        rs.interval_us = -1
        return
    rs.delivered = sk.delivered - rs.prior_delivered
    rs.rcv_interval_us = max(sk.tcp_mstamp - rs.prior_mstamp, 0)
    rs.interval_us = max(rs.snd_interval_us, rs.rcv_interval_us)
    if rs.interval_us < tcp_min_rtt(sk):
        # Shorter than a round trip: a retransmission whose original arrived.  No sample.
        rs.interval_us = -1
        return
    _keep_best(sk, rs)


def _keep_best(sk: tcp_sock, rs: rate_sample) -> None:
    """What TCP_INFO shows: the last sample that was not limited by the application, or a higher one that was."""
    faster = rs.delivered * sk.rate_interval_us >= sk.rate_delivered * rs.interval_us
    if not rs.is_app_limited or faster:
        sk.rate_delivered = rs.delivered
        sk.rate_interval_us = rs.interval_us
        sk.rate_app_limited = rs.is_app_limited


def tcp_rate_check_app_limited(sk: tcp_sock) -> None:
    """Before new data are taken: if there is less than a segment waiting, nothing in the device, room in cwnd and
    nothing lost to resend, then the application, not the network, is what limits the rate."""
    if (
        (sk.write_seq - sk.snd_nxt) & MASK32 < sk.mss_cache
        and not sk.sk_wmem_alloc
        and sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out < sk.snd_cwnd
        and sk.lost_out <= sk.retrans_out
        and sk.icsk_ca_state != TCP_CA_Loss
    ):
        sk.app_limited = (sk.delivered + tcp_packets_in_flight(sk)) or 1
