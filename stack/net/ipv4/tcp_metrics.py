# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of a destination from earlier connections: net/ipv4/tcp_metrics.c.

When a connection ends with a good round trip estimate, that and (unless tcp_no_ssthresh_metrics_save) ssthresh are
noted for its pair of addresses; the next connection starts from them.  A peer with a noted RTT is *proven*: it
completed a handshake, so it is no forged address, and a listener without cookies keeps the last quarter of its SYN
queue for such.  At most TCP_METRICS_MAX pairs are kept, the oldest goes first; a value older than an hour is
ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dst import RTAX_CWND, RTAX_REORDERING, RTAX_SSTHRESH, dst_metric
from stack.include.sock import AF_INET6
from stack.include.tcp import (
    TCP_INFINITE_SSTHRESH,
    TCP_TIMEOUT_FALLBACK,
    tcp_in_initial_slowstart,
    tcp_in_slow_start,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies, jiffies_to_usecs, usecs_to_jiffies
from stack.net.ipv4 import tcp_input

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.request_sock import request_sock
    from stack.include.tcp import tcp_sock
    from stack.stack import Stack

TCP_METRICS_MAX: Final = 1024
TCP_METRICS_TIMEOUT: Final = 60 * 60 * HZ


class tcp_metrics_block:
    """struct tcp_metrics_block.  ``rtt`` and ``rttvar`` in us (smoothed value and deviation, unscaled), 0 for not
    known."""

    __slots__ = ("cwnd", "reordering", "rtt", "rttvar", "ssthresh", "tcpm_stamp")

    def __init__(self, stamp: int) -> None:
        self.tcpm_stamp = stamp
        self.rtt = self.rttvar = self.ssthresh = self.cwnd = self.reordering = 0


def __tcp_get_metrics(net: Stack, saddr: int, daddr: int) -> tcp_metrics_block | None:
    tm = net.tcp_metrics.get((saddr, daddr))
    if tm is not None and jiffies(net) - tm.tcpm_stamp > TCP_METRICS_TIMEOUT:
        del net.tcp_metrics[saddr, daddr]
        return None
    return tm


def __tcp_get_metrics_req(req: request_sock, dst: dst_entry) -> tcp_metrics_block | None:
    if req.sk_family == AF_INET6:
        return __tcp_get_metrics(req.sk_net, req.sk_v6_rcv_saddr, req.sk_v6_daddr)
    return __tcp_get_metrics(req.sk_net, req.sk_rcv_saddr, req.sk_daddr)


def tcp_get_metrics(sk: tcp_sock, dst: dst_entry | None, create: bool) -> tcp_metrics_block | None:
    """The entry of a connection's addresses; a new one with ``create``."""
    net = sk.sk_net
    saddr, daddr = sk.inet_saddr, sk.sk_daddr
    if sk.sk_family == AF_INET6 and sk.sk_v6_daddr >> 32 != 0xFFFF:
        saddr, daddr = sk.sk_v6_rcv_saddr, sk.sk_v6_daddr
    tm = __tcp_get_metrics(net, saddr, daddr)
    if tm is None and create:
        if len(net.tcp_metrics) >= TCP_METRICS_MAX:
            del net.tcp_metrics[next(iter(net.tcp_metrics))]
        tm = net.tcp_metrics[saddr, daddr] = tcp_metrics_block(jiffies(net))
    return tm


def tcp_update_metrics(sk: tcp_sock) -> None:
    """A connection ends well: note what it learned."""
    net = sk.sk_net
    dst = sk.sk_dst_cache
    if net.ipv4.sysctl_tcp_nometrics_save or dst is None:
        return
    if sk.icsk_backoff or not sk.srtt_us:
        # This session failed to estimate an RTT: an old one would mislead the next.
        tm = tcp_get_metrics(sk, dst, False)
        if tm is not None:
            tm.rtt = 0
        return
    tm = tcp_get_metrics(sk, dst, True)
    assert tm is not None
    tm.tcpm_stamp = jiffies(net)
    _update_rtt(tm, sk)
    _update_ssthresh(tm, sk)
    _update_reordering(tm, sk)


def _update_rtt(tm: tcp_metrics_block, sk: tcp_sock) -> None:
    """A longer RTT is taken at once, a shorter one by an eighth; the deviation shrinks by a quarter."""
    srtt = sk.srtt_us >> 3
    m = tm.rtt - srtt
    tm.rtt = srtt if m <= 0 or not tm.rtt else tm.rtt - (m >> 3)
    deviation = max(abs(m) >> 1, sk.mdev_us >> 2)
    if deviation >= tm.rttvar:
        tm.rttvar = deviation
    else:
        tm.rttvar -= (tm.rttvar - deviation) >> 2


def _update_ssthresh(tm: tcp_metrics_block, sk: tcp_sock) -> None:
    if sk.sk_net.ipv4.sysctl_tcp_no_ssthresh_metrics_save:
        return
    if tcp_in_initial_slowstart(sk):
        if tm.ssthresh and sk.snd_cwnd >> 1 > tm.ssthresh:
            tm.ssthresh = sk.snd_cwnd >> 1
    elif not tcp_in_slow_start(sk) and sk.icsk_ca_state == 0:
        tm.ssthresh = max(sk.snd_cwnd >> 1, sk.snd_ssthresh)
    else:
        tm.ssthresh = (tm.ssthresh + sk.snd_ssthresh) >> 1 if tm.ssthresh else sk.snd_ssthresh


def _update_reordering(tm: tcp_metrics_block, sk: tcp_sock) -> None:
    """Noted by a connection that ends in recovery or in slow start after a loss, not by one that never left slow start
    or is in congestion avoidance."""
    if tcp_in_initial_slowstart(sk) or (not tcp_in_slow_start(sk) and sk.icsk_ca_state == 0):
        return
    if sk.reordering != sk.sk_net.ipv4.sysctl_tcp_reordering and tm.reordering < sk.reordering:
        tm.reordering = sk.reordering


def tcp_init_metrics(sk: tcp_sock) -> None:
    """A connection begins: start from what is known.  A handshake that gave no RTT sample (the SYN-ACK was resent)
    falls back to 3 s (RFC 6298, section 5.7)."""
    dst = sk.sk_dst_cache
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    if dst is None:
        _fallback_rto(sk)
        return
    crtt = 0
    cwnd_clamp = dst_metric(dst, RTAX_CWND)
    if cwnd_clamp:
        sk.snd_cwnd_clamp = cwnd_clamp
    tm = tcp_get_metrics(sk, dst, False)
    if tm is not None:
        ssthresh = 0 if sk.sk_net.ipv4.sysctl_tcp_no_ssthresh_metrics_save else tm.ssthresh
        if ssthresh:
            sk.snd_ssthresh = min(ssthresh, sk.snd_cwnd_clamp)
        if tm.reordering and sk.reordering != tm.reordering:
            sk.reordering = tm.reordering
        crtt = tm.rtt << 3
    elif dst_metric(dst, RTAX_SSTHRESH):
        sk.snd_ssthresh = dst_metric(dst, RTAX_SSTHRESH)
    if dst_metric(dst, RTAX_REORDERING):
        sk.reordering = dst_metric(dst, RTAX_REORDERING)
    if crtt > sk.srtt_us:
        # The noted RTT says that the handshake's sample is too short: start with a longer timeout (RFC 2988).
        crtt >>= 3
        sk.icsk_rto = usecs_to_jiffies(crtt) + max(2 * usecs_to_jiffies(crtt), tcp_input.tcp_rto_min(sk))
    elif not sk.srtt_us:
        _fallback_rto(sk)


def _fallback_rto(sk: tcp_sock) -> None:
    if sk.srtt_us:
        return
    sk.rttvar_us = sk.mdev_us = sk.mdev_max_us = jiffies_to_usecs(TCP_TIMEOUT_FALLBACK)
    sk.icsk_rto = TCP_TIMEOUT_FALLBACK


def tcp_peer_is_proven(req: request_sock, dst: dst_entry | None) -> bool:
    """Whether an earlier connection with this peer left an RTT."""
    if dst is None:
        return False
    tm = __tcp_get_metrics_req(req, dst)
    return tm is not None and tm.rtt != 0
