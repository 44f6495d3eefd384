# SPDX-License-Identifier: GPL-2.0-or-later
"""CUBIC congestion control (RFC 9438): net/ipv4/tcp_cubic.c.

Theory of operation
-------------------
After a loss at window W_max the window is cut to beta = 0.7 of it and then grows along

    W_cubic(t) = C * (t - K)**3 + W_max,   K = cbrt((W_max - cwnd_epoch) / C),   C = 0.4        (RFC 9438, 4.2)

so that it returns to W_max after K seconds, stays near it, and then probes beyond.  Beside it runs an estimate of
what Reno would have reached, W_est, which grows by alpha = 3 * (1 - beta) / (1 + beta) segments a round trip (4.3); the
larger of the two is the target.  A flow that lost before it came back to its old W_max gives room: W_max is set
below the window (fast convergence, 4.7).

The window is in segments, times are seconds as floats from ``tcp_mstamp``.  A growth of (target - cwnd) / cwnd segments
for each segment acknowledged is expressed for ``tcp_cong_avoid_ai`` as one segment for every ``cnt`` acknowledged.

Left out: HyStart (RFC 9406); slow start ends at the first loss or at ssthresh.

The names are those of the 4.x kernel (bictcp_*), which the call graph that this stack mirrors shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.tcp import (
    CA_EVENT_TX_START,
    TCP_CA_Loss,
    ack_sample,
    tcp_congestion_ops,
    tcp_in_slow_start,
    tcp_is_cwnd_limited,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import tcp_jiffies32
from stack.net.ipv4 import tcp_cong
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.include.tcp import tcp_sock

# RFC 9438 section 5: the constants of the curve; ALPHA makes W_est as fast as Reno (4.3).
C: Final = 0.4
BETA: Final = 0.7
ALPHA: Final = 3 * (1 - BETA) / (1 + BETA)
FAST_CONVERGENCE: Final = (1 + BETA) / 2
MAX_TARGET: Final = 1.5  # of cwnd, 4.2: no faster than half a window a round trip
# No growth is asked for: one segment for every hundred windows.
CNT_IDLE: Final = 100
# Until there was a first loss there is no W_max; then one segment for every twenty, 5 % a round trip, at least.
CNT_NO_LOSS_YET: Final = 20


class bictcp:
    """struct bictcp.  Windows in segments, times in seconds; ``epoch_start`` None before the first ACK of an epoch."""

    __slots__ = (
        "bic_K",
        "bic_origin_point",
        "cnt",
        "cwnd_prior",
        "delay_min",
        "epoch_start",
        "last_max_cwnd",
        "last_sent",
        "tcp_cwnd",
    )

    def __init__(self) -> None:
        bictcp_reset(self)

    cnt: int
    last_max_cwnd: float
    bic_origin_point: float
    bic_K: float
    delay_min: float
    epoch_start: float | None
    tcp_cwnd: float
    cwnd_prior: float
    last_sent: float


def bictcp_reset(ca: bictcp) -> None:
    """Forget everything: a new connection, or a retransmission timeout (RFC 9438, 4.8)."""
    ca.cnt = 0
    ca.last_max_cwnd = 0.0
    ca.bic_origin_point = 0.0
    ca.bic_K = 0.0
    ca.delay_min = 0.0
    ca.epoch_start = None
    ca.tcp_cwnd = 0.0
    ca.cwnd_prior = 0.0
    ca.last_sent = 0.0


def bictcp_init(sk: tcp_sock) -> None:
    """The connection is established."""
    sk.icsk_ca_priv = bictcp()


def _now(sk: tcp_sock) -> float:
    return sk.tcp_mstamp / 1e6


def bictcp_cwnd_event(sk: tcp_sock, event: int) -> None:
    """After an idle time the epoch is moved forward by it: the curve is a function of time in use (4.2)."""
    ca: bictcp = sk.icsk_ca_priv
    if event != CA_EVENT_TX_START or ca is None or ca.epoch_start is None:
        return
    idle = ((tcp_jiffies32(sk.sk_net) - sk.lsndtime) & MASK32) / HZ
    ca.epoch_start = min(ca.epoch_start + idle, _now(sk))


def _start_epoch(ca: bictcp, cwnd: int, now: float) -> None:
    ca.epoch_start = now
    ca.tcp_cwnd = float(cwnd)
    if ca.last_max_cwnd <= cwnd:
        ca.bic_K = 0.0
        ca.bic_origin_point = float(cwnd)
    else:
        ca.bic_K = ((ca.last_max_cwnd - cwnd) / C) ** (1 / 3)
        ca.bic_origin_point = ca.last_max_cwnd


def bictcp_update(ca: bictcp, cwnd: int, acked: int, now: float) -> None:
    """Set ``cnt``, the number of segments to be acknowledged for one segment of growth (RFC 9438, 4.2-4.4)."""
    if ca.epoch_start is None:
        _start_epoch(ca, cwnd, now)
    assert ca.epoch_start is not None
    t = now - ca.epoch_start + ca.delay_min
    target = C * (t - ca.bic_K) ** 3 + ca.bic_origin_point
    target = min(target, MAX_TARGET * cwnd)
    cnt = cwnd / (target - cwnd) if target > cwnd else float(CNT_IDLE * cwnd)
    if ca.last_max_cwnd == 0.0:
        cnt = min(cnt, CNT_NO_LOSS_YET)
    ca.cnt = max(int(min(cnt, _reno_friendly(ca, cwnd, acked))), 2)


def _reno_friendly(ca: bictcp, cwnd: int, acked: int) -> float:
    """4.3: grow W_est by ``acked``; the count that reaches it within a round trip, or infinity if cwnd is there."""
    alpha = 1.0 if ca.tcp_cwnd >= ca.cwnd_prior else ALPHA
    ca.tcp_cwnd += alpha * acked / cwnd
    if ca.tcp_cwnd <= cwnd:
        return float("inf")
    return cwnd / (ca.tcp_cwnd - cwnd)


def bictcp_cong_avoid(sk: tcp_sock, ack: int, acked: int) -> None:
    """``acked`` more segments have arrived."""
    if not tcp_is_cwnd_limited(sk):
        return
    if tcp_in_slow_start(sk):
        acked = tcp_cong.tcp_slow_start(sk, acked)
        if not acked:
            return
    ca: bictcp = sk.icsk_ca_priv
    bictcp_update(ca, sk.snd_cwnd, acked, _now(sk))
    tcp_cong.tcp_cong_avoid_ai(sk, ca.cnt, acked)


def bictcp_recalc_ssthresh(sk: tcp_sock) -> int:
    """A loss at this window: the epoch ends, W_max is remembered, the window to go on with is returned."""
    ca: bictcp = sk.icsk_ca_priv
    cwnd = sk.snd_cwnd
    ca.epoch_start = None
    ca.cwnd_prior = float(cwnd)
    ca.last_max_cwnd = cwnd * FAST_CONVERGENCE if cwnd < ca.last_max_cwnd else float(cwnd)
    return max(int(cwnd * BETA), 2)


def bictcp_state(sk: tcp_sock, new_state: int) -> None:
    """A timeout starts from nothing; a child that is just being made has no state yet."""
    if new_state == TCP_CA_Loss and sk.icsk_ca_priv is not None:
        bictcp_reset(sk.icsk_ca_priv)


def bictcp_acked(sk: tcp_sock, sample: ack_sample) -> None:
    """Keep the smallest round trip seen, in seconds."""
    ca: bictcp = sk.icsk_ca_priv
    if sample.rtt_us < 0 or ca is None:
        return
    delay = max(sample.rtt_us, 1) / 1e6
    if ca.delay_min == 0.0 or delay < ca.delay_min:
        ca.delay_min = delay


cubictcp = tcp_congestion_ops(
    "cubic",
    init=bictcp_init,
    ssthresh=bictcp_recalc_ssthresh,
    cong_avoid=bictcp_cong_avoid,
    set_state=bictcp_state,
    undo_cwnd=tcp_cong.tcp_reno_undo_cwnd,
    cwnd_event=bictcp_cwnd_event,
    pkts_acked=bictcp_acked,
)
tcp_cong.tcp_register_congestion_control(cubictcp)
