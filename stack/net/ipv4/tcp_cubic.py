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

Slow start ends before it overflows the bottleneck (HyStart; Ha and Rhee 2008, and RFC 9406 for the delays): once the
window has 16 segments, each round trip is watched for two signs that the pipe is full, and the first of them makes the
window at hand ssthresh:

    ACK train   ACKs at most 2 ms apart that go on for half of the smallest round trip; for the whole of it if
                pacing spreads what they acknowledge
    delay       of eight samples at the start of the round the smallest is above the smallest ever by an eighth of that
                (4 ms at least, 16 ms at most)

The names are those of the 4.x kernel (bictcp_*), which the call graph that this stack mirrors shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.snmp import (
    LINUX_MIB_TCPHYSTARTDELAYCWND,
    LINUX_MIB_TCPHYSTARTDELAYDETECT,
    LINUX_MIB_TCPHYSTARTTRAINCWND,
    LINUX_MIB_TCPHYSTARTTRAINDETECT,
    NET_ADD_STATS,
    NET_INC_STATS,
)
from stack.include.sock import SK_PACING_NONE
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
from stack.seqnum import MASK32, after

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

# HyStart: segments from which on it looks, and its times in microseconds.
HYSTART_LOW_WINDOW: Final = 16
HYSTART_ACK_DELTA: Final = 2_000
HYSTART_MIN_SAMPLES: Final = 8
HYSTART_DELAY_MIN: Final = 4_000
HYSTART_DELAY_MAX: Final = 16_000
USEC_PER_MSEC: Final = 1_000
USEC_PER_SEC: Final = 1_000_000


class bictcp:
    """struct bictcp.  Windows in segments, times in seconds; ``epoch_start`` None before the first ACK of an epoch.
    HyStart's ``round_start``, ``last_ack`` and ``curr_rtt`` (None: no sample in this round) are in microseconds."""

    __slots__ = (
        "bic_K",
        "bic_origin_point",
        "cnt",
        "curr_rtt",
        "cwnd_prior",
        "delay_min",
        "end_seq",
        "epoch_start",
        "found",
        "last_ack",
        "last_max_cwnd",
        "last_sent",
        "round_start",
        "sample_cnt",
        "tcp_cwnd",
    )

    def __init__(self) -> None:
        bictcp_reset(self)
        self.round_start = self.last_ack = self.end_seq = self.sample_cnt = 0
        self.curr_rtt: int | None = None

    cnt: int
    last_max_cwnd: float
    bic_origin_point: float
    bic_K: float
    delay_min: float
    epoch_start: float | None
    tcp_cwnd: float
    cwnd_prior: float
    last_sent: float
    found: bool


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
    ca.found = False


def bictcp_hystart_reset(sk: tcp_sock) -> None:
    """A round trip begins; it ends with the ACK of what is sent by now."""
    ca: bictcp = sk.icsk_ca_priv
    ca.round_start = ca.last_ack = sk.tcp_mstamp
    ca.end_seq = sk.snd_nxt
    ca.curr_rtt = None
    ca.sample_cnt = 0


def bictcp_init(sk: tcp_sock) -> None:
    """The connection is established."""
    sk.icsk_ca_priv = bictcp()
    bictcp_hystart_reset(sk)


def bictcp_cwnd_event(sk: tcp_sock, event: int) -> None:
    """After an idle time the epoch is moved forward by it: the curve is a function of time in use (4.2)."""
    ca: bictcp = sk.icsk_ca_priv
    if event != CA_EVENT_TX_START or ca is None or ca.epoch_start is None:
        return
    idle = ((tcp_jiffies32(sk.sk_net) - sk.lsndtime) & MASK32) / HZ
    ca.epoch_start = min(ca.epoch_start + idle, sk.tcp_mstamp / 1e6)


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
    # Whole segments, as in Linux: 2.8 below W_max = 10 is 8, so that a small window grows in the first round trip.
    target = ca.bic_origin_point + int(C * (t - ca.bic_K) ** 3)
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
    ca: bictcp | None = sk.icsk_ca_priv
    if ca is None:
        return  # the ACK of a SYN: not established yet
    if tcp_in_slow_start(sk):
        if after(ack, ca.end_seq):
            bictcp_hystart_reset(sk)
        acked = tcp_cong.tcp_slow_start(sk, acked)
        if not acked:
            return
    bictcp_update(ca, sk.snd_cwnd, acked, sk.tcp_mstamp / 1e6)
    tcp_cong.tcp_cong_avoid_ai(sk, ca.cnt, acked)


def bictcp_recalc_ssthresh(sk: tcp_sock) -> int:
    """A loss at this window: the epoch ends, W_max is remembered, the window to go on with is returned."""
    ca: bictcp | None = sk.icsk_ca_priv
    cwnd = sk.snd_cwnd
    if ca is None:
        return max(int(cwnd * BETA), 2)
    ca.epoch_start = None
    ca.cwnd_prior = float(cwnd)
    ca.last_max_cwnd = float(int(cwnd * FAST_CONVERGENCE)) if cwnd < ca.last_max_cwnd else float(cwnd)
    return max(int(cwnd * BETA), 2)


def bictcp_state(sk: tcp_sock, new_state: int) -> None:
    """A timeout starts from nothing; a child that is just being made has no state yet."""
    if new_state == TCP_CA_Loss and sk.icsk_ca_priv is not None:
        bictcp_reset(sk.icsk_ca_priv)
        bictcp_hystart_reset(sk)


def hystart_ack_delay(sk: tcp_sock) -> int:
    """Microseconds that the ACK of a big packet may come later because it is one: four of them at the pacing rate, a
    millisecond at most, so that a short path is not taken for a full one."""
    rate = sk.sk_pacing_rate
    return min(USEC_PER_MSEC, sk.sk_gso_max_size * 4 * USEC_PER_SEC // rate) if rate else 0


def hystart_update(sk: tcp_sock, delay: int) -> None:
    """An ACK in slow start, with a round trip of ``delay`` microseconds: is the pipe full?"""
    ca: bictcp = sk.icsk_ca_priv
    now = sk.tcp_mstamp
    delay_min = round(ca.delay_min * USEC_PER_SEC)
    if now - ca.last_ack <= HYSTART_ACK_DELTA:
        ca.last_ack = now
        threshold = delay_min + hystart_ack_delay(sk)
        if sk.sk_pacing_status == SK_PACING_NONE:
            threshold >>= 1
        if now - ca.round_start > threshold:
            _leave_slow_start(sk, LINUX_MIB_TCPHYSTARTTRAINDETECT, LINUX_MIB_TCPHYSTARTTRAINCWND)
    if ca.curr_rtt is None or ca.curr_rtt > delay:
        ca.curr_rtt = delay
    if ca.sample_cnt < HYSTART_MIN_SAMPLES:
        ca.sample_cnt += 1
    elif ca.curr_rtt > delay_min + min(max(delay_min >> 3, HYSTART_DELAY_MIN), HYSTART_DELAY_MAX):
        _leave_slow_start(sk, LINUX_MIB_TCPHYSTARTDELAYDETECT, LINUX_MIB_TCPHYSTARTDELAYCWND)


def _leave_slow_start(sk: tcp_sock, mib_detect: int, mib_cwnd: int) -> None:
    sk.icsk_ca_priv.found = True
    NET_INC_STATS(sk.sk_net, mib_detect)
    NET_ADD_STATS(sk.sk_net, mib_cwnd, sk.snd_cwnd)
    sk.snd_ssthresh = sk.snd_cwnd


def bictcp_acked(sk: tcp_sock, sample: ack_sample) -> None:
    """Keep the smallest round trip seen, in seconds, and look for the end of slow start.  Right after a recovery the
    queue is what it was before it: for a second there are no samples."""
    ca: bictcp = sk.icsk_ca_priv
    if sample.rtt_us < 0 or ca is None:
        return
    if ca.epoch_start is not None and sk.tcp_mstamp / 1e6 - ca.epoch_start < 1.0:
        return
    delay_us = max(sample.rtt_us, 1)
    delay = delay_us / 1e6
    if ca.delay_min == 0.0 or delay < ca.delay_min:
        ca.delay_min = delay
    if not ca.found and sk.snd_cwnd >= HYSTART_LOW_WINDOW and tcp_in_slow_start(sk):
        hystart_update(sk, delay_us)


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
