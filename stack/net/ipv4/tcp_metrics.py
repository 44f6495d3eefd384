# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of a destination from earlier connections: net/ipv4/tcp_metrics.c.

When a connection ends well - it was closed, not reset, and has a round trip estimate - tcp_update_metrics() notes for
its pair of addresses:

    rtt          the smoothed RTT; a longer one at once, of a shorter one an eighth
    rttvar       its deviation, which shrinks by a quarter of the difference (nothing here reads it)
    cwnd         the congestion window: the largest of slow starts, in congestion avoidance the mean with the one
                 before; it counts only where the route locks it
    ssthresh     unless tcp_no_ssthresh_metrics_save
    reordering   if it is not the sysctl's, and slow start goes on after a loss

The next connection starts from them (tcp_init_metrics): an RTT longer than the handshake's makes the first RTO longer,
ssthresh and reordering are taken.  A peer with a noted RTT is *proven*: it completed a handshake, so it is no forged
address, and a listener without cookies keeps the last quarter of its SYN queue for such.  Fast Open's cookies are here
too.

A new entry begins with the route's metrics (tcpm_suck_dst), and an entry that nobody updated for an hour begins anew
but for its cookie; what the route locks is never updated.

Departure: at most TCP_METRICS_MAX pairs are kept, and the one updated longest ago goes first; the kernel bounds the
entries of a hash bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dst import (
    RTAX_CWND,
    RTAX_REORDERING,
    RTAX_RTT,
    RTAX_RTTVAR,
    RTAX_SSTHRESH,
    dst_metric,
    dst_metric_locked,
)
from stack.include.sock import AF_INET6
from stack.include.tcp import (
    TCP_INFINITE_SSTHRESH,
    TCP_TIMEOUT_FALLBACK,
    TCP_CA_Open,
    tcp_fastopen_cookie,
    tcp_in_initial_slowstart,
    tcp_in_slow_start,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies, jiffies_to_usecs
from stack.net.ipv4 import tcp_input

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.request_sock import request_sock
    from stack.include.tcp import tcp_sock
    from stack.stack import Stack

TCP_METRICS_MAX: Final = 1024
TCP_METRICS_TIMEOUT: Final = 60 * 60 * HZ
USEC_PER_SEC: Final = 1_000_000
_METRICS: Final = (RTAX_RTT, RTAX_RTTVAR, RTAX_SSTHRESH, RTAX_CWND, RTAX_REORDERING)


class tcp_fastopen_metrics:
    """struct tcp_fastopen_metrics: what a client that uses Fast Open knows of a server.  ``mss`` 0: nothing yet;
    ``syn_loss`` SYNs with data in a row seem to be lost, the last at ``last_syn_loss`` (jiffies); ``try_exp`` 1: ask
    with the experimental option next time, 2: that was tried."""

    __slots__ = ("cookie", "last_syn_loss", "mss", "syn_loss", "try_exp")

    def __init__(self) -> None:
        self.mss = self.syn_loss = self.try_exp = self.last_syn_loss = 0
        self.cookie = tcp_fastopen_cookie()
        self.cookie.len = 0


class tcp_metrics_block:
    """struct tcp_metrics_block.  ``rtt`` and ``rttvar`` as in tcp_sock, in us times 8 and times 4; 0 means not known.
    ``tcpm_lock``: the RTAX_ numbers of what the route fixes."""

    __slots__ = ("cwnd", "reordering", "rtt", "rttvar", "ssthresh", "tcpm_fastopen", "tcpm_lock", "tcpm_stamp")

    def __init__(self) -> None:
        self.tcpm_stamp = 0
        self.tcpm_lock: frozenset[int] = frozenset()
        self.rtt = self.rttvar = self.ssthresh = self.cwnd = self.reordering = 0
        self.tcpm_fastopen = tcp_fastopen_metrics()


def tcpm_suck_dst(tm: tcp_metrics_block, dst: dst_entry, fastopen_clear: bool) -> None:
    """Begin with the route's metrics: its RTT in eighths of a millisecond, its RTTVAR in quarters."""
    tm.tcpm_stamp = jiffies(dst.net)
    tm.tcpm_lock = frozenset(metric for metric in _METRICS if dst_metric_locked(dst, metric))
    tm.rtt = dst_metric(dst, RTAX_RTT) * 1000
    tm.rttvar = dst_metric(dst, RTAX_RTTVAR) * 1000
    tm.ssthresh = dst_metric(dst, RTAX_SSTHRESH)
    tm.cwnd = dst_metric(dst, RTAX_CWND)
    tm.reordering = dst_metric(dst, RTAX_REORDERING)
    if fastopen_clear:
        tm.tcpm_fastopen = tcp_fastopen_metrics()


def tcpm_check_stamp(tm: tcp_metrics_block | None, dst: dst_entry) -> None:
    """What is an hour old is forgotten."""
    if tm is not None and jiffies(dst.net) - tm.tcpm_stamp > TCP_METRICS_TIMEOUT:
        tcpm_suck_dst(tm, dst, False)


def tcpm_new(net: Stack, dst: dst_entry, saddr: int, daddr: int) -> tcp_metrics_block:
    """An entry for a pair of addresses."""
    if len(net.tcp_metrics) >= TCP_METRICS_MAX:
        del net.tcp_metrics[next(iter(net.tcp_metrics))]
    tm = net.tcp_metrics[saddr, daddr] = tcp_metrics_block()
    tcpm_suck_dst(tm, dst, True)
    return tm


def __tcp_get_metrics(net: Stack, saddr: int, daddr: int) -> tcp_metrics_block | None:
    return net.tcp_metrics.get((saddr, daddr))


def __tcp_get_metrics_req(req: request_sock, dst: dst_entry) -> tcp_metrics_block | None:
    if req.sk_family == AF_INET6:
        tm = __tcp_get_metrics(req.sk_net, req.sk_v6_rcv_saddr, req.sk_v6_daddr)
    else:
        tm = __tcp_get_metrics(req.sk_net, req.sk_rcv_saddr, req.sk_daddr)
    tcpm_check_stamp(tm, dst)
    return tm


def _addresses(sk: tcp_sock) -> tuple[int, int]:
    if sk.sk_family == AF_INET6 and sk.sk_v6_daddr >> 32 != 0xFFFF:
        return sk.sk_v6_rcv_saddr, sk.sk_v6_daddr
    return sk.inet_saddr, sk.sk_daddr


def tcp_get_metrics(sk: tcp_sock, dst: dst_entry, create: bool) -> tcp_metrics_block | None:
    """The entry of a connection's addresses; a new one with ``create``."""
    net = sk.sk_net
    saddr, daddr = _addresses(sk)
    tm = __tcp_get_metrics(net, saddr, daddr)
    if tm is None and create:
        return tcpm_new(net, dst, saddr, daddr)
    tcpm_check_stamp(tm, dst)
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
        if tm is not None and RTAX_RTT not in tm.tcpm_lock:
            tm.rtt = 0
        return
    tm = tcp_get_metrics(sk, dst, True)
    assert tm is not None
    _update_rtt(tm, sk)
    if tcp_in_initial_slowstart(sk):
        _slow_start_goes_on(tm, sk)
    elif not tcp_in_slow_start(sk) and sk.icsk_ca_state == TCP_CA_Open:
        _congestion_avoidance(tm, sk)
    else:
        _slow_start_cut_short(tm, sk)
    tm.tcpm_stamp = jiffies(net)
    key = _addresses(sk)
    net.tcp_metrics[key] = net.tcp_metrics.pop(key)  # the last to go


def _update_rtt(tm: tcp_metrics_block, sk: tcp_sock) -> None:
    m = tm.rtt - sk.srtt_us
    if RTAX_RTT not in tm.tcpm_lock:
        tm.rtt = sk.srtt_us if m <= 0 else tm.rtt - (m >> 3)
    if RTAX_RTTVAR not in tm.tcpm_lock:
        deviation = max(abs(m) >> 1, sk.mdev_us)
        tm.rttvar = deviation if deviation >= tm.rttvar else tm.rttvar - (tm.rttvar - deviation >> 2)


def _may_save_ssthresh(tm: tcp_metrics_block, sk: tcp_sock) -> bool:
    return RTAX_SSTHRESH not in tm.tcpm_lock and not sk.sk_net.ipv4.sysctl_tcp_no_ssthresh_metrics_save


def _slow_start_goes_on(tm: tcp_metrics_block, sk: tcp_sock) -> None:
    """Nothing was ever lost: the windows were too small if anything."""
    if tm.ssthresh and _may_save_ssthresh(tm, sk):
        tm.ssthresh = max(tm.ssthresh, sk.snd_cwnd >> 1)
    if RTAX_CWND not in tm.tcpm_lock:
        tm.cwnd = max(tm.cwnd, sk.snd_cwnd)


def _congestion_avoidance(tm: tcp_metrics_block, sk: tcp_sock) -> None:
    """The window is what the path takes."""
    if _may_save_ssthresh(tm, sk):
        tm.ssthresh = max(sk.snd_cwnd >> 1, sk.snd_ssthresh)
    if RTAX_CWND not in tm.tcpm_lock:
        tm.cwnd = tm.cwnd + sk.snd_cwnd >> 1


def _slow_start_cut_short(tm: tcp_metrics_block, sk: tcp_sock) -> None:
    """After a loss, and not yet where the window was: ssthresh says more than cwnd.  Only here the degree of reordering
    is noted (measured on both kernels)."""
    if RTAX_CWND not in tm.tcpm_lock:
        tm.cwnd = tm.cwnd + sk.snd_ssthresh >> 1
    if tm.ssthresh and _may_save_ssthresh(tm, sk):
        tm.ssthresh = tm.ssthresh + sk.snd_ssthresh >> 1
    if RTAX_REORDERING not in tm.tcpm_lock and sk.reordering != sk.sk_net.ipv4.sysctl_tcp_reordering:
        tm.reordering = max(tm.reordering, sk.reordering)


def tcp_init_metrics(sk: tcp_sock) -> None:
    """A connection begins: start from what is known.  A handshake that gave no RTT sample (the SYN-ACK was resent)
    falls back to 3 s (RFC 6298, section 5.7)."""
    dst = sk.sk_dst_cache
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    tm = tcp_get_metrics(sk, dst, False) if dst is not None else None
    crtt = 0
    if tm is not None:
        if RTAX_CWND in tm.tcpm_lock:
            sk.snd_cwnd_clamp = tm.cwnd
        if tm.ssthresh and not sk.sk_net.ipv4.sysctl_tcp_no_ssthresh_metrics_save:
            sk.snd_ssthresh = min(tm.ssthresh, sk.snd_cwnd_clamp)
        sk.reordering = tm.reordering or sk.reordering
        crtt = tm.rtt
    if crtt > sk.srtt_us:
        # The noted RTT says that the handshake's sample is too short: start with a longer timeout (RFC 2988).
        ticks = crtt // (8 * USEC_PER_SEC // HZ)
        sk.icsk_rto = ticks + max(2 * ticks, tcp_input.tcp_rto_min(sk))
    elif not sk.srtt_us:
        sk.rttvar_us = sk.mdev_us = sk.mdev_max_us = jiffies_to_usecs(TCP_TIMEOUT_FALLBACK)
        sk.icsk_rto = TCP_TIMEOUT_FALLBACK


def tcp_peer_is_proven(req: request_sock, dst: dst_entry | None) -> bool:
    """Whether an earlier connection with this peer left an RTT."""
    if dst is None:
        return False
    tm = __tcp_get_metrics_req(req, dst)
    return tm is not None and tm.rtt != 0


# -- Fast Open's client --------------------------------------------------------------------------------------------


def tcp_fastopen_cache_get(sk: tcp_sock, mss: int, cookie: tcp_fastopen_cookie) -> int:
    """Fill in the cookie that the server gave earlier; the MSS that it announced then, else ``mss``."""
    dst = sk.sk_dst_cache
    tm = tcp_get_metrics(sk, dst, False) if dst is not None else None
    if tm is None:
        return mss
    known = tm.tcpm_fastopen
    cookie.val, cookie.len, cookie.exp = known.cookie.val, known.cookie.len, known.cookie.exp
    if cookie.len <= 0 and known.try_exp == 1:
        cookie.exp = True
    return known.mss or mss


def tcp_fastopen_cache_set(
    sk: tcp_sock, mss: int, cookie: tcp_fastopen_cookie | None, syn_lost: bool, try_exp: int
) -> None:
    """Note what a SYN-ACK said: the MSS (0: nothing), a cookie, or that there was none to be had."""
    dst = sk.sk_dst_cache
    tm = tcp_get_metrics(sk, dst, True) if dst is not None else None
    if tm is None:
        return
    known = tm.tcpm_fastopen
    known.mss = mss or known.mss
    if cookie is not None and cookie.len > 0:
        known.cookie = cookie
    elif try_exp > known.try_exp and known.cookie.len <= 0 and not known.cookie.exp:
        known.try_exp = try_exp
    if syn_lost:
        known.syn_loss += 1
        known.last_syn_loss = jiffies(sk.sk_net)
    else:
        known.syn_loss = 0
