# SPDX-License-Identifier: GPL-2.0-or-later
"""RACK loss detection (RFC 8985): net/ipv4/tcp_recovery.c.

A packet is lost when one sent later was delivered and a reordering window has passed since.  ``tp.rack`` holds the
delivered packet that was sent last (``mstamp``, ``end_seq``) and its round trip.  ``tsorted_sent_queue`` is in order of
sending, so the walk ends at the first packet that was sent after it.

The reordering window (``tcp_rack_reo_wnd``): none as long as no reordering was seen and there are three duplicates, or
recovery has begun; else a quarter of the smallest round trip, more for each round with DSACKs (at most srtt), which
lasts for 16 recoveries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.inet_connection_sock import (
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    inet_csk_reset_xmit_timer,
)
from stack.include.tcp import (
    TCP_RACK_RECOVERY_THRESH,
    TCP_TIMEOUT_MIN_US,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_RETRANS,
    TCP_CA_Recovery,
    tcp_min_rtt,
    tcp_packets_in_flight,
    tcp_rtx_queue_head,
)
from stack.kernel.time.timer import usecs_to_jiffies
from stack.net.ipv4 import tcp_input, tcp_output
from stack.seqnum import after

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.include.tcp import rate_sample, tcp_sock

# The sysctl tcp_recovery's bits, Documentation/networking/ip-sysctl.rst.
TCP_RACK_LOSS_DETECTION: Final = 1
TCP_RACK_STATIC_REO_WND: Final = 2
TCP_RACK_NO_DUPTHRESH: Final = 4
RACK_STEPS_MAX: Final = 0xFF


def tcp_rack_sent_after(t1: int, t2: int, seq1: int, seq2: int) -> bool:
    """Whether the first was sent after the second; of two sent at once, the one with the higher number."""
    return t1 > t2 or (t1 == t2 and after(seq1, seq2))


def tcp_rack_reo_wnd(sk: tcp_sock) -> int:
    """The reordering window in microseconds (RFC 8985, 6.2 step 4)."""
    recovery = sk.sk_net.ipv4.sysctl_tcp_recovery
    if not sk.reord_seen:
        if sk.icsk_ca_state >= TCP_CA_Recovery:
            return 0
        if sk.sacked_out >= sk.reordering and not recovery & TCP_RACK_NO_DUPTHRESH:
            return 0
    return min((tcp_min_rtt(sk) >> 2) * sk.rack.reo_wnd_steps, sk.srtt_us >> 3)


def tcp_rack_skb_timeout(sk: tcp_sock, skb: sk_buff, reo_wnd: int) -> int:
    """Microseconds until the packet is lost; negative: it is."""
    return sk.rack.rtt_us + reo_wnd - (sk.tcp_mstamp - skb.skb_mstamp_ns // 1000)


def tcp_rack_detect_loss(sk: tcp_sock) -> int:
    """Mark what is lost; returns the microseconds until the next packet would be, 0 if none is in question."""
    rack = sk.rack
    reo_wnd = tcp_rack_reo_wnd(sk)
    reo_timeout = 0
    for skb in list(sk.tsorted_sent_queue):
        cb = skb.cb
        if cb.sacked & TCPCB_LOST and not cb.sacked & TCPCB_SACKED_RETRANS:
            continue
        if not tcp_rack_sent_after(rack.mstamp, skb.skb_mstamp_ns // 1000, rack.end_seq, cb.end_seq):
            break
        remaining = tcp_rack_skb_timeout(sk, skb, reo_wnd)
        if remaining <= 0:
            tcp_input.tcp_mark_skb_lost(sk, skb)
            sk.tsorted_sent_queue.pop(skb, None)
        else:
            reo_timeout = max(reo_timeout, remaining)
    return reo_timeout


def tcp_rack_mark_lost(sk: tcp_sock) -> bool:
    """After an ACK that delivered something: find the losses, or arm the timer that will; whether it was armed."""
    if not sk.rack.advanced:
        return False
    sk.rack.advanced = False
    timeout = tcp_rack_detect_loss(sk)
    if timeout:
        when = usecs_to_jiffies(timeout + TCP_TIMEOUT_MIN_US)
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_REO_TIMEOUT, when, sk.icsk_rto)
    return timeout > 0


def tcp_rack_advance(sk: tcp_sock, sacked: int, end_seq: int, xmit_time: int) -> None:
    """A packet was delivered (RFC 8985, 6.2 step 2).  ``xmit_time`` in microseconds."""
    rack = sk.rack
    rtt_us = max(sk.tcp_mstamp - xmit_time, 0)
    if rtt_us < tcp_min_rtt(sk) and sacked & TCPCB_RETRANS:
        # Faster than possible: the ACK is for the original, not for the retransmission.
        return
    rack.advanced = True
    rack.rtt_us = rtt_us
    if tcp_rack_sent_after(xmit_time, rack.mstamp, end_seq, rack.end_seq):
        rack.mstamp = xmit_time
        rack.end_seq = end_seq


def tcp_rack_reo_timeout(sk: tcp_sock) -> None:
    """The reordering window has passed (RFC 8985, 6.3): what has not come is lost."""
    prior_inflight = tcp_packets_in_flight(sk)
    tcp_rack_detect_loss(sk)
    if prior_inflight != tcp_packets_in_flight(sk):
        if sk.icsk_ca_state != TCP_CA_Recovery:
            tcp_input.tcp_enter_recovery(sk, False)
            if not sk.icsk_ca_ops.cong_control:
                tcp_input.tcp_cwnd_reduction(sk, 1, 1, 0)
        tcp_output.tcp_xmit_retransmit_queue(sk)
    if sk.icsk_pending != ICSK_TIME_RETRANS:
        tcp_input.tcp_rearm_rto(sk)


def tcp_rack_update_reo_wnd(sk: tcp_sock, rs: rate_sample) -> None:
    """Widen the window by a quarter of the round trip for each round in which a DSACK showed a needless
    retransmission (RFC 8985, 6.2 step 4); back to a quarter after 16 recoveries without one."""
    rack = sk.rack
    if sk.sk_net.ipv4.sysctl_tcp_recovery & TCP_RACK_STATIC_REO_WND or not rs.prior_delivered:
        return
    if rs.prior_delivered < rack.last_delivered:
        # Sent before the window was widened: its DSACK is old news.
        rack.dsack_seen = False
    if rack.dsack_seen:
        rack.reo_wnd_steps = min(RACK_STEPS_MAX, rack.reo_wnd_steps + 1)
        rack.dsack_seen = False
        rack.last_delivered = sk.delivered
        rack.reo_wnd_persist = TCP_RACK_RECOVERY_THRESH
    elif not rack.reo_wnd_persist:
        rack.reo_wnd_steps = 1


def tcp_newreno_mark_lost(sk: tcp_sock, snd_una_advanced: bool) -> None:
    """Without SACK (RFC 6582): three duplicates, or a partial ACK in recovery, mean that the first packet is lost."""
    state = sk.icsk_ca_state
    if not (
        (state < TCP_CA_Recovery and sk.sacked_out >= sk.reordering)
        or (state == TCP_CA_Recovery and snd_una_advanced)
    ):
        return
    skb = tcp_rtx_queue_head(sk)
    if skb is None or skb.cb.sacked & TCPCB_LOST:
        return
    mss = sk.mss_cache
    if skb.cb.tcp_gso_segs > 1 and skb.len > mss:
        tcp_output.tcp_fragment(sk, sk.tcp_rtx_queue, skb, mss, mss)
    tcp_input.tcp_mark_skb_lost(sk, skb)
