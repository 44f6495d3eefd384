# SPDX-License-Identifier: GPL-2.0-or-later
"""BBR's model and modes, fed with the rate samples of a path that is an ideal pipe with a queue."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest

from stack.clock import ManualClock
from stack.include.sock import AF_INET, SK_PACING_NEEDED
from stack.include.tcp import (
    CA_EVENT_TX_START,
    TCP_CA_Loss,
    TCP_CA_Open,
    TCP_CA_Recovery,
    minmax_reset,
    rate_sample,
    tcp_sock,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies
from stack.net.ipv4 import tcp_bbr, tcp_cong
from stack.net.ipv4.tcp_bbr import BBR_DRAIN, BBR_PROBE_BW, BBR_PROBE_RTT, BBR_STARTUP, BW_UNIT, bbr
from stack.rng import SeededRng
from stack.stack import Stack

RTT_US = 40_000
RATE = 0.01  # segments per microsecond: 1448 * 8 * 10000 = 116 Mbit/s
BDP = 400


@dataclass
class Pipe:
    """One ACK per round trip for what was sent in it: min(cwnd, pacing) segments, delivered at RATE at most.  When it
    was sent the window was full."""

    sk: tcp_sock
    clock: ManualClock
    rtt_us: int = RTT_US
    rate: float = RATE

    def round(self, losses: int = 0, app_limited: bool = False) -> None:
        """Send a window, wait for it, and give BBR the sample."""
        sk = self.sk
        per_rtt = int(sk.sk_pacing_rate / sk.mss_cache * self.rtt_us / 1e6)
        flight = max(min(sk.snd_cwnd, per_rtt), 1)
        took = max(self.rtt_us, int(flight / self.rate))
        self.clock.advance(took * 1000)
        rs = rate_sample()
        rs.prior_delivered, rs.prior_in_flight = sk.delivered, sk.snd_cwnd
        sk.delivered += flight
        sk.lost += losses
        sk.tcp_clock_cache = self.clock.now_ns()
        sk.tcp_mstamp = sk.delivered_mstamp = self.clock.now_ns() // 1000
        rs.delivered = rs.acked_sacked = flight
        rs.interval_us, rs.rtt_us = took, took
        rs.losses, rs.is_app_limited = losses, app_limited
        sk.packets_out = flight
        tcp_bbr.bbr_main(sk, rs)


@pytest.fixture
def pipe() -> Pipe:
    clock = ManualClock(10**9)
    sk = tcp_sock(Stack(clock, SeededRng(1)), AF_INET)
    sk.icsk_ca_ops = tcp_bbr.tcp_bbr_cong_ops
    sk.mss_cache = 1448
    sk.srtt_us = RTT_US << 3
    sk.tcp_mstamp = sk.delivered_mstamp = clock.now_ns() // 1000
    minmax_reset(sk.rtt_min, 0, RTT_US)
    tcp_cong.tcp_init_congestion_control(sk)
    return Pipe(sk, clock)


def state(pipe: Pipe) -> bbr:
    ca: bbr = pipe.sk.icsk_ca_priv
    return ca


def until(pipe: Pipe, mode: int, limit: int = 100) -> int:
    """Rounds until that mode."""
    for i in range(limit):
        if state(pipe).mode == mode:
            return i
        pipe.round()
    raise AssertionError(f"mode {mode} was not reached in {limit} rounds: {state(pipe).mode}")


def test_init_pacing_is_on_at_the_initial_window_a_round_trip(pipe: Pipe) -> None:
    assert pipe.sk.sk_pacing_status == SK_PACING_NEEDED
    expected = 10 * 1448 / 0.04 * tcp_bbr.bbr_high_gain * 0.99
    assert pipe.sk.sk_pacing_rate == pytest.approx(expected, rel=0.01)


def test_startup_rate_doubles_each_round_until_the_pipe_is_full(pipe: Pipe) -> None:
    rates = []
    for _ in range(5):
        pipe.round()
        rates.append(tcp_bbr.bbr_max_bw(pipe.sk))
    growth = [b / a for a, b in pairwise(rates)]
    assert all(g == pytest.approx(2, rel=0.15) for g in growth)
    rounds = until(pipe, BBR_DRAIN)
    assert rounds <= 8
    assert state(pipe).full_bw_reached
    assert tcp_bbr.bbr_max_bw(pipe.sk) / BW_UNIT == pytest.approx(RATE, rel=0.02)


def test_drain_ends_when_the_queue_is_gone(pipe: Pipe) -> None:
    until(pipe, BBR_DRAIN)
    assert pipe.sk.sk_pacing_rate == pytest.approx(RATE * 1e6 * 1448 / 2.885, rel=0.05)
    pipe.sk.packets_out = 2 * BDP
    tcp_bbr.bbr_check_drain(pipe.sk, rate_sample())
    assert state(pipe).mode == BBR_DRAIN
    pipe.sk.packets_out = BDP
    tcp_bbr.bbr_check_drain(pipe.sk, rate_sample())
    assert state(pipe).mode == BBR_PROBE_BW


def test_probe_bw_gains_cycle_and_the_window_is_two_bdp(pipe: Pipe) -> None:
    until(pipe, BBR_PROBE_BW)
    gains = []
    for _ in range(40):
        pipe.round()
        if not gains or state(pipe).cycle_idx != gains[-1][0]:
            gains.append((state(pipe).cycle_idx, state(pipe).pacing_gain))
    assert [b[0] for b in gains[1:9]] == [(gains[0][0] + 1 + i) % 8 for i in range(8)]
    assert all(gain == tcp_bbr.bbr_pacing_gain[idx] for idx, gain in gains)
    # An ACK for a whole window is aggregation at its worst, which has its own share.
    assert pipe.sk.snd_cwnd == pytest.approx(2 * BDP + max(state(pipe).extra_acked), rel=0.1)


def test_probe_bw_faster_path_is_found(pipe: Pipe) -> None:
    until(pipe, BBR_PROBE_BW)
    pipe.rate = 2 * RATE
    for _ in range(80):
        pipe.round()
    assert tcp_bbr.bbr_max_bw(pipe.sk) / BW_UNIT > 1.5 * RATE


def test_probe_bw_slower_path_is_noticed_after_ten_rounds(pipe: Pipe) -> None:
    until(pipe, BBR_PROBE_BW)
    pipe.rate = RATE / 2
    for _ in range(12):
        pipe.round()
    assert tcp_bbr.bbr_max_bw(pipe.sk) / BW_UNIT == pytest.approx(RATE / 2, rel=0.02)


def test_probe_rtt_every_ten_seconds_for_200_ms(pipe: Pipe) -> None:
    until(pipe, BBR_PROBE_BW)
    pipe.rtt_us = RTT_US + 1000
    measured = state(pipe).min_rtt_stamp
    rounds = until(pipe, BBR_PROBE_RTT, 400)
    assert (jiffies(pipe.sk.sk_net) - measured) / HZ == pytest.approx(10, abs=0.3)
    assert rounds > 100
    assert pipe.sk.snd_cwnd == 4
    probing = pipe.clock.now_ns()
    until(pipe, BBR_PROBE_BW)
    assert (pipe.clock.now_ns() - probing) / 1e6 == pytest.approx(250, abs=60)
    assert state(pipe).min_rtt_us == RTT_US + 1000
    assert pipe.sk.snd_cwnd > 2 * BDP


def test_application_limited_samples_do_not_lower_the_bandwidth(pipe: Pipe) -> None:
    until(pipe, BBR_PROBE_BW)
    bw = tcp_bbr.bbr_max_bw(pipe.sk)
    pipe.rate = RATE / 10
    for _ in range(30):
        pipe.round(app_limited=True)
    assert tcp_bbr.bbr_max_bw(pipe.sk) == bw


def test_recovery_window_follows_delivery_then_comes_back(pipe: Pipe) -> None:
    until(pipe, BBR_PROBE_BW)
    sk = pipe.sk
    window = sk.snd_cwnd
    assert tcp_bbr.bbr_ssthresh(sk) == sk.snd_ssthresh
    assert state(pipe).prior_cwnd == window
    sk.icsk_ca_state = TCP_CA_Recovery
    sk.packets_out = 100
    rs = rate_sample()
    rs.losses = 5
    tcp_bbr.bbr_set_cwnd(sk, rs, 3, tcp_bbr.bbr_bw(sk), 2.0)
    assert sk.snd_cwnd == 103
    state(pipe).packet_conservation = False
    sk.icsk_ca_state = TCP_CA_Open
    tcp_bbr.bbr_set_cwnd(sk, rate_sample(), 3, tcp_bbr.bbr_bw(sk), 2.0)
    assert sk.snd_cwnd == pytest.approx(window, abs=4)


def test_policer_steady_loss_is_taken_for_the_rate(pipe: Pipe) -> None:
    until(pipe, BBR_PROBE_BW)
    pipe.rate = RATE / 2
    for _ in range(14):
        pipe.round(losses=BDP // 4)
    assert state(pipe).lt_use_bw
    assert tcp_bbr.bbr_bw(pipe.sk) / BW_UNIT == pytest.approx(RATE / 2, rel=0.1)
    for _ in range(50):
        pipe.round()
    assert not state(pipe).lt_use_bw


def test_timeout_forgets_the_plateau(pipe: Pipe) -> None:
    pipe.round()
    tcp_bbr.bbr_set_state(pipe.sk, TCP_CA_Loss)
    assert state(pipe).full_bw == 0
    assert state(pipe).prev_ca_state == TCP_CA_Loss
    assert state(pipe).lt_is_sampling


def test_idle_restart_paces_at_the_bandwidth(pipe: Pipe) -> None:
    until(pipe, BBR_PROBE_BW)
    pipe.sk.sk_pacing_rate = 1
    pipe.sk.app_limited = 1
    tcp_bbr.bbr_cwnd_event(pipe.sk, CA_EVENT_TX_START)
    assert pipe.sk.sk_pacing_rate == tcp_bbr.bbr_bw_to_pacing_rate(pipe.sk, tcp_bbr.bbr_bw(pipe.sk), 1.0)
    assert state(pipe).idle_restart


def test_slow_rate_sends_single_segments(pipe: Pipe) -> None:
    pipe.sk.sk_pacing_rate = 100_000
    assert tcp_bbr.bbr_min_tso_segs(pipe.sk) == 1
    pipe.sk.sk_pacing_rate = 200_000
    assert tcp_bbr.bbr_min_tso_segs(pipe.sk) == 2
    assert state(pipe).mode == BBR_STARTUP
