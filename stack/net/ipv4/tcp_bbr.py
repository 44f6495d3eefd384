# SPDX-License-Identifier: GPL-2.0-or-later
"""BBR congestion control, version 1: net/ipv4/tcp_bbr.c (draft-cardwell-iccrg-bbr-congestion-control-00; Cardwell,
Cheng, Gunn, Yeganeh, Jacobson, "BBR: Congestion-Based Congestion Control", 2016).

Theory of operation
-------------------
BBR does not take losses for congestion.  It keeps a model of the path, two numbers:

    bw       the largest delivery rate of the last ten round trips (tcp_rate.c gives a sample with each ACK)
    min_rtt  the smallest round trip of the last ten seconds

sends at ``pacing_gain * bw`` and keeps at most ``cwnd_gain * bw * min_rtt`` in flight.  What it has not measured it
probes for, in turn:

    STARTUP    gain 2/ln 2 = 2.89, which doubles the rate each round trip, until three rounds bring less than 25 % more
    DRAIN      the inverse gain, until what is in flight is bw * min_rtt: the queue that STARTUP made is gone
    PROBE_BW   eight phases of a min_rtt each: gain 1.25 (is there more?), 0.75 (give the queue back), then six times 1
    PROBE_RTT  when min_rtt is ten seconds old: four segments in flight for 200 ms, so that it can be measured again

Two corrections of Linux's are here too: what ACKs deliver in bursts beyond bw (aggregation) is added to the window; and
a path that polices - losing a fifth at the same rate for several rounds - is used at that long-term rate ("lt") for 48
rounds, without probing.

After a loss the window follows what is delivered for one round trip (packet conservation), then the model again; at
the end of the recovery it is what it was before.

Bandwidth is in segments per microsecond, times 2**24 (``BW_UNIT``); times are microseconds of ``tcp_mstamp`` unless
said.
"""

from __future__ import annotations

from math import ceil
from struct import Struct
from typing import TYPE_CHECKING, Final

from stack.include.sk_buff import MAX_TCP_HEADER
from stack.include.sock import SK_PACING_NEEDED, SK_PACING_NONE
from stack.include.tcp import (
    CA_EVENT_TX_START,
    TCP_CONG_NON_RESTRICTED,
    TCP_INFINITE_SSTHRESH,
    TCP_INIT_CWND,
    TCP_CA_Loss,
    TCP_CA_Open,
    TCP_CA_Recovery,
    minmax,
    minmax_reset,
    minmax_running_max,
    rate_sample,
    tcp_congestion_ops,
    tcp_min_rtt,
    tcp_packets_in_flight,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies
from stack.net.ipv4 import tcp_cong
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.include.tcp import tcp_sock

BW_SCALE: Final = 24
BW_UNIT: Final = 1 << BW_SCALE

BBR_STARTUP: Final = 0
BBR_DRAIN: Final = 1
BBR_PROBE_BW: Final = 2
BBR_PROBE_RTT: Final = 3

# The draft's constants, section 4.
bbr_high_gain: Final = 2885 / 1000
bbr_drain_gain: Final = 1000 / 2885
bbr_cwnd_gain: Final = 2.0
bbr_pacing_gain: Final = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
CYCLE_LEN: Final = 8
CYCLE_RAND: Final = 7  # the first phase is any but the one that drains
bbr_bw_rtts: Final = CYCLE_LEN + 2
bbr_min_rtt_win: Final = 10 * HZ
bbr_probe_rtt_time: Final = HZ // 5
bbr_cwnd_min_target: Final = 4
bbr_full_bw_thresh: Final = 1.25
bbr_full_bw_cnt: Final = 3
bbr_pacing_margin: Final = 0.99  # a percent below bw, so that the queue drains
bbr_min_tso_rate: Final = 1_200_000 // 8  # bytes per second; slower ones send single segments
GSO_LEGACY_MAX_SIZE: Final = 65536

# The long-term rate of a policer: rounds of a sample, share of losses in it, tolerance between two, rounds of use.
bbr_lt_intvl_min_rtts: Final = 4
bbr_lt_intvl_max_rtts: Final = 4 * bbr_lt_intvl_min_rtts
bbr_lt_loss_thresh: Final = 50 / 256
bbr_lt_bw_ratio: Final = 1 / 8
bbr_lt_bw_diff: Final = 4000 // 8  # bytes per second
bbr_lt_bw_max_rtts: Final = 48

# ACK aggregation: what came beyond bw, the largest of two windows of five rounds, at most 100 ms' worth.
bbr_extra_acked_win_rtts: Final = 5
bbr_extra_acked_max_us: Final = 100_000
bbr_ack_epoch_acked_reset_thresh: Final = 1 << 20


class bbr:
    """struct bbr.  ``min_rtt_stamp`` and ``probe_rtt_done_stamp`` are jiffies (not wrapped; 0: not set),
    ``lt_last_stamp`` milliseconds."""

    __slots__ = (
        "ack_epoch_acked",
        "ack_epoch_mstamp",
        "bw",
        "cwnd_gain",
        "cycle_idx",
        "cycle_mstamp",
        "extra_acked",
        "extra_acked_win_idx",
        "extra_acked_win_rtts",
        "full_bw",
        "full_bw_cnt",
        "full_bw_reached",
        "has_seen_rtt",
        "idle_restart",
        "lt_bw",
        "lt_is_sampling",
        "lt_last_delivered",
        "lt_last_lost",
        "lt_last_stamp",
        "lt_rtt_cnt",
        "lt_use_bw",
        "min_rtt_stamp",
        "min_rtt_us",
        "mode",
        "next_rtt_delivered",
        "pacing_gain",
        "packet_conservation",
        "prev_ca_state",
        "prior_cwnd",
        "probe_rtt_done_stamp",
        "probe_rtt_round_done",
        "round_start",
        "rtt_cnt",
    )

    def __init__(self) -> None:
        self.mode = BBR_STARTUP
        self.pacing_gain = self.cwnd_gain = bbr_high_gain
        self.bw = minmax(0, 0)
        self.min_rtt_us = MASK32
        self.min_rtt_stamp = self.probe_rtt_done_stamp = 0
        self.rtt_cnt = self.next_rtt_delivered = self.cycle_mstamp = self.cycle_idx = 0
        self.prev_ca_state = TCP_CA_Open
        self.packet_conservation = self.round_start = self.idle_restart = self.has_seen_rtt = False
        self.probe_rtt_round_done = self.full_bw_reached = False
        self.full_bw = self.full_bw_cnt = self.prior_cwnd = 0
        self.lt_is_sampling = self.lt_use_bw = False
        self.lt_rtt_cnt = self.lt_bw = self.lt_last_delivered = self.lt_last_stamp = self.lt_last_lost = 0
        self.ack_epoch_mstamp = self.ack_epoch_acked = 0
        self.extra_acked = [0, 0]
        self.extra_acked_win_rtts = self.extra_acked_win_idx = 0


# -- the model, and what follows from it ------------------------------------------------------------------------


def bbr_full_bw_reached(sk: tcp_sock) -> bool:
    ca: bbr = sk.icsk_ca_priv
    return ca.full_bw_reached


def bbr_max_bw(sk: tcp_sock) -> int:
    """The largest delivery rate of the last ten rounds."""
    ca: bbr = sk.icsk_ca_priv
    return ca.bw.s[0][1]


def bbr_bw(sk: tcp_sock) -> int:
    """The bandwidth to go by: a policer's if there is one."""
    ca: bbr = sk.icsk_ca_priv
    return ca.lt_bw if ca.lt_use_bw else ca.bw.s[0][1]


def bbr_rate_bytes_per_sec(sk: tcp_sock, rate: int, gain: float) -> int:
    """Segments per microsecond as bytes per second, a percent less."""
    return int(rate * sk.mss_cache * 1_000_000 * gain * bbr_pacing_margin) >> BW_SCALE


def bbr_bw_to_pacing_rate(sk: tcp_sock, bw: int, gain: float) -> int:
    return min(bbr_rate_bytes_per_sec(sk, bw, gain), sk.sk_max_pacing_rate)


def bbr_init_pacing_rate_from_rtt(sk: tcp_sock) -> None:
    """Before the first sample: cwnd in the handshake's round trip, or in a millisecond if that is not known."""
    ca: bbr = sk.icsk_ca_priv
    rtt_us = 1000
    if sk.srtt_us:
        rtt_us = max(sk.srtt_us >> 3, 1)
        ca.has_seen_rtt = True
    sk.sk_pacing_rate = bbr_bw_to_pacing_rate(sk, sk.snd_cwnd * BW_UNIT // rtt_us, bbr_high_gain)


def bbr_set_pacing_rate(sk: tcp_sock, bw: int, gain: float) -> None:
    """Pace at gain * bw; until the pipe is known to be full the rate only rises."""
    ca: bbr = sk.icsk_ca_priv
    rate = bbr_bw_to_pacing_rate(sk, bw, gain)
    if not ca.has_seen_rtt and sk.srtt_us:
        bbr_init_pacing_rate_from_rtt(sk)
    if ca.full_bw_reached or rate > sk.sk_pacing_rate:
        sk.sk_pacing_rate = rate


def bbr_min_tso_segs(sk: tcp_sock) -> int:
    return 1 if sk.sk_pacing_rate < bbr_min_tso_rate else 2


def bbr_tso_segs_goal(sk: tcp_sock) -> int:
    """Segments of one packet: about a millisecond's worth."""
    size = min(sk.sk_pacing_rate >> sk.sk_pacing_shift, GSO_LEGACY_MAX_SIZE - 1 - MAX_TCP_HEADER)
    return min(max(size // sk.mss_cache, bbr_min_tso_segs(sk)), 0x7F)


def bbr_bdp(sk: tcp_sock, bw: int, gain: float) -> int:
    """gain * bw * min_rtt in segments, rounded up; the initial window as long as there is no round trip."""
    ca: bbr = sk.icsk_ca_priv
    if ca.min_rtt_us == MASK32:
        return TCP_INIT_CWND
    return int(bw * ca.min_rtt_us * gain + BW_UNIT - 1) >> BW_SCALE


def bbr_quantization_budget(sk: tcp_sock, cwnd: int) -> int:
    """Room for what waits in big packets at both ends, for delayed ACKs (even), and for the probing phase."""
    ca: bbr = sk.icsk_ca_priv
    cwnd += 3 * bbr_tso_segs_goal(sk)
    cwnd = (cwnd + 1) & ~1
    return cwnd + 2 if ca.mode == BBR_PROBE_BW and ca.cycle_idx == 0 else cwnd


def bbr_inflight(sk: tcp_sock, bw: int, gain: float) -> int:
    return bbr_quantization_budget(sk, bbr_bdp(sk, bw, gain))


def bbr_packets_in_net_at_edt(sk: tcp_sock, inflight_now: int) -> int:
    """What will be in the network when pacing lets the next packet go (its earliest departure time)."""
    ca: bbr = sk.icsk_ca_priv
    wait_us = max(sk.tcp_wstamp_ns - sk.tcp_clock_cache, 0) // 1000
    delivered = bbr_bw(sk) * wait_us >> BW_SCALE
    if ca.pacing_gain > 1:
        inflight_now += bbr_tso_segs_goal(sk)
    return max(inflight_now - delivered, 0)


def bbr_ack_aggregation_cwnd(sk: tcp_sock) -> int:
    """Segments to allow for ACKs that come in bursts."""
    ca: bbr = sk.icsk_ca_priv
    if not ca.full_bw_reached:
        return 0
    return min(max(ca.extra_acked), bbr_bw(sk) * bbr_extra_acked_max_us >> BW_SCALE)


# -- the window ---------------------------------------------------------------------------------------------------


def bbr_save_cwnd(sk: tcp_sock) -> None:
    """Remember the window of before a recovery, or before PROBE_RTT."""
    ca: bbr = sk.icsk_ca_priv
    if ca.prev_ca_state < TCP_CA_Recovery and ca.mode != BBR_PROBE_RTT:
        ca.prior_cwnd = sk.snd_cwnd
    else:
        ca.prior_cwnd = max(ca.prior_cwnd, sk.snd_cwnd)


def bbr_set_cwnd_to_recover_or_restore(sk: tcp_sock, rs: rate_sample, acked: int) -> tuple[bool, int]:
    """The window in a recovery, and at its end: (whether that is all, the window)."""
    ca: bbr = sk.icsk_ca_priv
    prev_state, state = ca.prev_ca_state, sk.icsk_ca_state
    cwnd = sk.snd_cwnd
    if rs.losses > 0:
        cwnd = max(cwnd - rs.losses, 1)
    if state == TCP_CA_Recovery and prev_state != TCP_CA_Recovery:
        ca.packet_conservation = True
        ca.next_rtt_delivered = sk.delivered
        cwnd = tcp_packets_in_flight(sk) + acked
    elif prev_state >= TCP_CA_Recovery > state:
        cwnd = max(cwnd, ca.prior_cwnd)
        ca.packet_conservation = False
    ca.prev_ca_state = state
    if ca.packet_conservation:
        return True, max(cwnd, tcp_packets_in_flight(sk) + acked)
    return False, cwnd


def bbr_set_cwnd(sk: tcp_sock, rs: rate_sample, acked: int, bw: int, gain: float) -> None:
    """Towards gain * bw * min_rtt by what was acknowledged, four segments at least; in PROBE_RTT four at most."""
    ca: bbr = sk.icsk_ca_priv
    cwnd = sk.snd_cwnd
    if acked:
        done, cwnd = bbr_set_cwnd_to_recover_or_restore(sk, rs, acked)
        if not done:
            target = bbr_quantization_budget(sk, bbr_bdp(sk, bw, gain) + bbr_ack_aggregation_cwnd(sk))
            if ca.full_bw_reached:
                cwnd = min(cwnd + acked, target)
            elif cwnd < target or sk.delivered < TCP_INIT_CWND:
                cwnd += acked
            cwnd = max(cwnd, bbr_cwnd_min_target)
    sk.snd_cwnd = min(cwnd, sk.snd_cwnd_clamp)
    if ca.mode == BBR_PROBE_RTT:
        sk.snd_cwnd = min(sk.snd_cwnd, bbr_cwnd_min_target)


# -- PROBE_BW -------------------------------------------------------------------------------------------------------


def bbr_is_next_cycle_phase(sk: tcp_sock, rs: rate_sample) -> bool:
    """A phase lasts a min_rtt; the probing one until it filled the pipe or lost, the draining one no longer than the
    queue does."""
    ca: bbr = sk.icsk_ca_priv
    full_length = sk.delivered_mstamp - ca.cycle_mstamp > ca.min_rtt_us
    if ca.pacing_gain == 1:
        return full_length
    inflight = bbr_packets_in_net_at_edt(sk, rs.prior_in_flight)
    bw = bbr_max_bw(sk)
    if ca.pacing_gain > 1:
        return full_length and (rs.losses > 0 or inflight >= bbr_inflight(sk, bw, ca.pacing_gain))
    return full_length or inflight <= bbr_inflight(sk, bw, 1.0)


def bbr_advance_cycle_phase(sk: tcp_sock) -> None:
    ca: bbr = sk.icsk_ca_priv
    ca.cycle_idx = (ca.cycle_idx + 1) % CYCLE_LEN
    ca.cycle_mstamp = sk.delivered_mstamp


def bbr_update_cycle_phase(sk: tcp_sock, rs: rate_sample) -> None:
    ca: bbr = sk.icsk_ca_priv
    if ca.mode == BBR_PROBE_BW and bbr_is_next_cycle_phase(sk, rs):
        bbr_advance_cycle_phase(sk)


def bbr_reset_startup_mode(sk: tcp_sock) -> None:
    ca: bbr = sk.icsk_ca_priv
    ca.mode = BBR_STARTUP


def bbr_reset_probe_bw_mode(sk: tcp_sock) -> None:
    """PROBE_BW from a random phase, so that flows do not probe together."""
    ca: bbr = sk.icsk_ca_priv
    ca.mode = BBR_PROBE_BW
    ca.cycle_idx = CYCLE_LEN - 1 - sk.sk_net.rng.get_random_u32_below(CYCLE_RAND)
    bbr_advance_cycle_phase(sk)


def bbr_reset_mode(sk: tcp_sock) -> None:
    if bbr_full_bw_reached(sk):
        bbr_reset_probe_bw_mode(sk)
    else:
        bbr_reset_startup_mode(sk)


# -- the long-term rate of a policer ----------------------------------------------------------------------------


def bbr_reset_lt_bw_sampling_interval(sk: tcp_sock) -> None:
    ca: bbr = sk.icsk_ca_priv
    ca.lt_last_stamp = sk.delivered_mstamp // 1000
    ca.lt_last_delivered = sk.delivered
    ca.lt_last_lost = sk.lost
    ca.lt_rtt_cnt = 0


def bbr_reset_lt_bw_sampling(sk: tcp_sock) -> None:
    ca: bbr = sk.icsk_ca_priv
    ca.lt_bw = 0
    ca.lt_use_bw = ca.lt_is_sampling = False
    bbr_reset_lt_bw_sampling_interval(sk)


def bbr_lt_bw_interval_done(sk: tcp_sock, bw: int) -> None:
    """Two samples alike, within an eighth or 4 kbit/s: it is a policer, go at their mean."""
    ca: bbr = sk.icsk_ca_priv
    if ca.lt_bw:
        diff = abs(bw - ca.lt_bw)
        alike = diff <= ca.lt_bw * bbr_lt_bw_ratio
        if alike or bbr_rate_bytes_per_sec(sk, diff, 1.0) <= bbr_lt_bw_diff:
            ca.lt_bw = (bw + ca.lt_bw) >> 1
            ca.lt_use_bw = True
            ca.pacing_gain = 1.0
            ca.lt_rtt_cnt = 0
            return
    ca.lt_bw = bw
    bbr_reset_lt_bw_sampling_interval(sk)


def bbr_lt_bw_sampling(sk: tcp_sock, rs: rate_sample) -> None:
    """A sample runs from one loss to another, 4 to 16 rounds later, with a fifth lost between them."""
    ca: bbr = sk.icsk_ca_priv
    if ca.lt_use_bw:
        _lt_bw_in_use(sk, ca)
        return
    if not ca.lt_is_sampling:
        if not rs.losses:
            return
        bbr_reset_lt_bw_sampling_interval(sk)
        ca.lt_is_sampling = True
    if sk.app_limited:
        bbr_reset_lt_bw_sampling(sk)
        return
    ca.lt_rtt_cnt += ca.round_start
    if ca.lt_rtt_cnt < bbr_lt_intvl_min_rtts:
        return
    if ca.lt_rtt_cnt > bbr_lt_intvl_max_rtts:
        bbr_reset_lt_bw_sampling(sk)
        return
    if rs.losses:
        _lt_bw_sample(sk, ca)


def _lt_bw_in_use(sk: tcp_sock, ca: bbr) -> None:
    if ca.mode == BBR_PROBE_BW and ca.round_start:
        ca.lt_rtt_cnt += 1
        if ca.lt_rtt_cnt >= bbr_lt_bw_max_rtts:
            bbr_reset_lt_bw_sampling(sk)
            bbr_reset_probe_bw_mode(sk)


def _lt_bw_sample(sk: tcp_sock, ca: bbr) -> None:
    lost = sk.lost - ca.lt_last_lost
    delivered = sk.delivered - ca.lt_last_delivered
    t = sk.delivered_mstamp // 1000 - ca.lt_last_stamp
    if delivered and lost >= bbr_lt_loss_thresh * delivered and t >= 1:
        bbr_lt_bw_interval_done(sk, delivered * BW_UNIT // (t * 1000))


# -- each ACK -----------------------------------------------------------------------------------------------------


def bbr_update_bw(sk: tcp_sock, rs: rate_sample) -> None:
    """Count the rounds, and take the sample unless the application was the limit and it shows no more than is known."""
    ca: bbr = sk.icsk_ca_priv
    ca.round_start = False
    if rs.delivered < 0 or rs.interval_us <= 0:
        return
    if rs.prior_delivered >= ca.next_rtt_delivered:
        ca.next_rtt_delivered = sk.delivered
        ca.rtt_cnt += 1
        ca.round_start = True
        ca.packet_conservation = False
    bbr_lt_bw_sampling(sk, rs)
    bw = rs.delivered * BW_UNIT // rs.interval_us
    if not rs.is_app_limited or bw >= bbr_max_bw(sk):
        minmax_running_max(ca.bw, bbr_bw_rtts, ca.rtt_cnt, bw)


def bbr_update_ack_aggregation(sk: tcp_sock, rs: rate_sample) -> None:
    """How much more than bw * time was acknowledged since ACKs last fell behind that."""
    ca: bbr = sk.icsk_ca_priv
    if rs.acked_sacked <= 0 or rs.delivered < 0 or rs.interval_us <= 0:
        return
    if ca.round_start:
        ca.extra_acked_win_rtts += 1
        if ca.extra_acked_win_rtts >= bbr_extra_acked_win_rtts:
            ca.extra_acked_win_rtts = 0
            ca.extra_acked_win_idx ^= 1
            ca.extra_acked[ca.extra_acked_win_idx] = 0
    expected = bbr_bw(sk) * (sk.delivered_mstamp - ca.ack_epoch_mstamp) >> BW_SCALE
    if (
        ca.ack_epoch_acked <= expected
        or ca.ack_epoch_acked + rs.acked_sacked >= bbr_ack_epoch_acked_reset_thresh
    ):
        ca.ack_epoch_acked = 0
        ca.ack_epoch_mstamp = sk.delivered_mstamp
        expected = 0
    ca.ack_epoch_acked += rs.acked_sacked
    extra = min(ca.ack_epoch_acked - expected, sk.snd_cwnd)
    ca.extra_acked[ca.extra_acked_win_idx] = max(ca.extra_acked[ca.extra_acked_win_idx], extra)


def bbr_check_full_bw_reached(sk: tcp_sock, rs: rate_sample) -> None:
    """Three rounds in which bw grew by less than a quarter: the pipe is full."""
    ca: bbr = sk.icsk_ca_priv
    if ca.full_bw_reached or not ca.round_start or rs.is_app_limited:
        return
    if bbr_max_bw(sk) >= ca.full_bw * bbr_full_bw_thresh:
        ca.full_bw = bbr_max_bw(sk)
        ca.full_bw_cnt = 0
        return
    ca.full_bw_cnt += 1
    ca.full_bw_reached = ca.full_bw_cnt >= bbr_full_bw_cnt


def bbr_check_drain(sk: tcp_sock, rs: rate_sample) -> None:
    """STARTUP to DRAIN when the pipe is full, DRAIN to PROBE_BW when the queue is gone."""
    ca: bbr = sk.icsk_ca_priv
    if ca.mode == BBR_STARTUP and ca.full_bw_reached:
        ca.mode = BBR_DRAIN
        sk.snd_ssthresh = bbr_inflight(sk, bbr_max_bw(sk), 1.0)
    if ca.mode == BBR_DRAIN:
        in_net = bbr_packets_in_net_at_edt(sk, tcp_packets_in_flight(sk))
        if in_net <= bbr_inflight(sk, bbr_max_bw(sk), 1.0):
            bbr_reset_probe_bw_mode(sk)


def bbr_check_probe_rtt_done(sk: tcp_sock) -> None:
    ca: bbr = sk.icsk_ca_priv
    now = jiffies(sk.sk_net)
    if not ca.probe_rtt_done_stamp or now <= ca.probe_rtt_done_stamp:
        return
    ca.min_rtt_stamp = now
    sk.snd_cwnd = max(sk.snd_cwnd, ca.prior_cwnd)
    bbr_reset_mode(sk)


def bbr_update_min_rtt(sk: tcp_sock, rs: rate_sample) -> None:
    """Keep min_rtt; when it is old, PROBE_RTT.  An idle restart needs none: the queue was empty anyway."""
    ca: bbr = sk.icsk_ca_priv
    now = jiffies(sk.sk_net)
    expired = now > ca.min_rtt_stamp + bbr_min_rtt_win
    if rs.rtt_us >= 0 and (rs.rtt_us < ca.min_rtt_us or (expired and not rs.is_ack_delayed)):
        ca.min_rtt_us = rs.rtt_us
        ca.min_rtt_stamp = now
    if expired and not ca.idle_restart and ca.mode != BBR_PROBE_RTT:
        ca.mode = BBR_PROBE_RTT
        bbr_save_cwnd(sk)
        ca.probe_rtt_done_stamp = 0
    if ca.mode == BBR_PROBE_RTT:
        _probe_rtt(sk, ca, now)
    if rs.delivered > 0:
        ca.idle_restart = False


def _probe_rtt(sk: tcp_sock, ca: bbr, now: int) -> None:
    """Once four segments are in flight: 200 ms and a round more.  What is sent meanwhile says nothing about bw."""
    sk.app_limited = (sk.delivered + tcp_packets_in_flight(sk)) or 1
    if not ca.probe_rtt_done_stamp:
        if tcp_packets_in_flight(sk) <= bbr_cwnd_min_target:
            ca.probe_rtt_done_stamp = now + bbr_probe_rtt_time
            ca.probe_rtt_round_done = False
            ca.next_rtt_delivered = sk.delivered
        return
    if ca.round_start:
        ca.probe_rtt_round_done = True
    if ca.probe_rtt_round_done:
        bbr_check_probe_rtt_done(sk)


def bbr_update_gains(sk: tcp_sock) -> None:
    ca: bbr = sk.icsk_ca_priv
    if ca.mode == BBR_STARTUP:
        ca.pacing_gain = ca.cwnd_gain = bbr_high_gain
    elif ca.mode == BBR_DRAIN:
        ca.pacing_gain, ca.cwnd_gain = bbr_drain_gain, bbr_high_gain
    elif ca.mode == BBR_PROBE_BW:
        ca.pacing_gain = 1.0 if ca.lt_use_bw else bbr_pacing_gain[ca.cycle_idx]
        ca.cwnd_gain = bbr_cwnd_gain
    else:
        ca.pacing_gain = ca.cwnd_gain = 1.0


def bbr_update_model(sk: tcp_sock, rs: rate_sample) -> None:
    bbr_update_bw(sk, rs)
    bbr_update_ack_aggregation(sk, rs)
    bbr_update_cycle_phase(sk, rs)
    bbr_check_full_bw_reached(sk, rs)
    bbr_check_drain(sk, rs)
    bbr_update_min_rtt(sk, rs)
    bbr_update_gains(sk)


def bbr_main(sk: tcp_sock, rs: rate_sample) -> None:
    """cong_control(): the model first, then rate and window from it."""
    ca: bbr | None = sk.icsk_ca_priv
    if ca is None:
        return  # the ACK of a SYN: not established yet
    bbr_update_model(sk, rs)
    bw = bbr_bw(sk)
    bbr_set_pacing_rate(sk, bw, ca.pacing_gain)
    bbr_set_cwnd(sk, rs, rs.acked_sacked, bw, ca.cwnd_gain)


# -- the other calls ------------------------------------------------------------------------------------------------


def bbr_init(sk: tcp_sock) -> None:
    """The connection is established: pacing on, everything unknown."""
    sk.icsk_ca_priv = ca = bbr()
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    ca.next_rtt_delivered = sk.delivered
    ca.min_rtt_us = tcp_min_rtt(sk)
    ca.min_rtt_stamp = jiffies(sk.sk_net)
    minmax_reset(ca.bw, ca.rtt_cnt, 0)
    bbr_init_pacing_rate_from_rtt(sk)
    bbr_reset_lt_bw_sampling(sk)
    bbr_reset_startup_mode(sk)
    ca.ack_epoch_mstamp = sk.tcp_mstamp
    if sk.sk_pacing_status == SK_PACING_NONE:
        sk.sk_pacing_status = SK_PACING_NEEDED


def bbr_cwnd_event(sk: tcp_sock, event: int) -> None:
    """Sending again after the application was idle: at bw, without a burst."""
    ca: bbr | None = sk.icsk_ca_priv
    if event != CA_EVENT_TX_START or ca is None or not sk.app_limited:
        return
    ca.idle_restart = True
    ca.ack_epoch_mstamp = sk.tcp_mstamp
    ca.ack_epoch_acked = 0
    if ca.mode == BBR_PROBE_BW:
        bbr_set_pacing_rate(sk, bbr_bw(sk), 1.0)
    elif ca.mode == BBR_PROBE_RTT:
        bbr_check_probe_rtt_done(sk)


def bbr_sndbuf_expand(sk: tcp_sock) -> int:
    """Three windows: the one in flight, one that recovers, one from the application."""
    return 3


def bbr_undo_cwnd(sk: tcp_sock) -> int:
    """The recovery was a mistake: it also hid how fast the path is."""
    ca: bbr | None = sk.icsk_ca_priv
    if ca is not None:
        ca.full_bw = ca.full_bw_cnt = 0
        bbr_reset_lt_bw_sampling(sk)
    return sk.snd_cwnd


def bbr_ssthresh(sk: tcp_sock) -> int:
    """A loss: the window is remembered, ssthresh stays."""
    if sk.icsk_ca_priv is not None:
        bbr_save_cwnd(sk)
    return sk.snd_ssthresh


def bbr_set_state(sk: tcp_sock, new_state: int) -> None:
    """A timeout counts as a loss for the policer's sample, and begins a round."""
    ca: bbr | None = sk.icsk_ca_priv
    if new_state != TCP_CA_Loss or ca is None:
        return
    ca.prev_ca_state = TCP_CA_Loss
    ca.full_bw = 0
    ca.round_start = True
    rs = rate_sample()
    rs.losses = 1
    bbr_lt_bw_sampling(sk, rs)


# struct tcp_bbr_info (include/uapi/linux/inet_diag.h); gains are in units of 1/256.
_BBR_INFO: Final = Struct("=5I")


def bbr_get_info(sk: tcp_sock) -> bytes:
    """TCP_CC_INFO: bandwidth in bytes per second (low and high half), least round trip in us, the two gains."""
    ca: bbr | None = sk.icsk_ca_priv
    if ca is None:
        return bytes(_BBR_INFO.size)
    bw = bbr_bw(sk) * sk.mss_cache * 1_000_000 >> BW_SCALE
    return _BBR_INFO.pack(bw & MASK32, bw >> 32, ca.min_rtt_us, _in_256(ca.pacing_gain), _in_256(ca.cwnd_gain))


def _in_256(gain: float) -> int:
    """A gain as the kernel has it: the first one is rounded up, the one that drains down; the others are whole."""
    return ceil(gain * 256) if gain > 1 else int(gain * 256)


tcp_bbr_cong_ops = tcp_congestion_ops(
    "bbr",
    flags=TCP_CONG_NON_RESTRICTED,
    init=bbr_init,
    cong_control=bbr_main,
    sndbuf_expand=bbr_sndbuf_expand,
    undo_cwnd=bbr_undo_cwnd,
    cwnd_event=bbr_cwnd_event,
    ssthresh=bbr_ssthresh,
    min_tso_segs=bbr_min_tso_segs,
    set_state=bbr_set_state,
    get_info=bbr_get_info,
)
tcp_cong.tcp_register_congestion_control(tcp_bbr_cong_ops)
