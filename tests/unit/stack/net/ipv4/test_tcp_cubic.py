# SPDX-License-Identifier: GPL-2.0-or-later
"""CUBIC's growth against RFC 9438's own formulas, Reno's against RFC 5681's."""

from __future__ import annotations

import pytest

from stack.clock import ManualClock
from stack.include.snmp import (
    LINUX_MIB_TCPHYSTARTDELAYCWND,
    LINUX_MIB_TCPHYSTARTDELAYDETECT,
    LINUX_MIB_TCPHYSTARTTRAINCWND,
    LINUX_MIB_TCPHYSTARTTRAINDETECT,
)
from stack.include.sock import AF_INET, SK_PACING_NEEDED
from stack.include.tcp import TCP_INFINITE_SSTHRESH, ack_sample, tcp_sock
from stack.net.ipv4 import tcp_cong, tcp_cubic
from stack.net.ipv4.tcp_cubic import BETA, C, bictcp, bictcp_update
from stack.rng import SeededRng
from stack.stack import Stack


def make_sock() -> tcp_sock:
    """A socket far enough along for congestion control."""
    sk = tcp_sock(Stack(ManualClock(), SeededRng()), AF_INET)
    sk.is_cwnd_limited = True
    return sk


def test_slow_start_ack_grows_by_the_segments_acked_up_to_ssthresh() -> None:
    sk = make_sock()
    sk.snd_cwnd, sk.snd_ssthresh = 10, 14
    assert tcp_cong.tcp_slow_start(sk, 10) == 6
    assert sk.snd_cwnd == 14


def test_reno_avoidance_full_window_acked_grows_by_one() -> None:
    sk = make_sock()
    sk.snd_cwnd = sk.snd_ssthresh = 20
    for _ in range(20):
        tcp_cong.tcp_reno_cong_avoid(sk, 0, 1)
    assert sk.snd_cwnd == 21


def test_reno_not_cwnd_limited_keeps_the_window() -> None:
    sk = make_sock()
    sk.is_cwnd_limited = False
    sk.snd_cwnd = sk.snd_ssthresh = 20
    sk.max_packets_out = 3
    tcp_cong.tcp_reno_cong_avoid(sk, 0, 100)
    assert sk.snd_cwnd == 20


def test_reno_loss_halves_but_keeps_two() -> None:
    sk = make_sock()
    sk.snd_cwnd = 31
    assert tcp_cong.tcp_reno_ssthresh(sk) == 15
    sk.snd_cwnd = 3
    assert tcp_cong.tcp_reno_ssthresh(sk) == 2


def test_cubic_loss_cuts_to_beta_and_remembers_w_max() -> None:
    sk = make_sock()
    tcp_cubic.bictcp_init(sk)
    sk.snd_cwnd = 100
    assert tcp_cubic.bictcp_recalc_ssthresh(sk) == 70
    assert sk.icsk_ca_priv.last_max_cwnd == 100


def test_cubic_second_loss_below_w_max_gives_room() -> None:
    sk = make_sock()
    tcp_cubic.bictcp_init(sk)
    sk.snd_cwnd = 100
    tcp_cubic.bictcp_recalc_ssthresh(sk)
    sk.snd_cwnd = 80
    tcp_cubic.bictcp_recalc_ssthresh(sk)
    assert sk.icsk_ca_priv.last_max_cwnd == pytest.approx(80 * (1 + BETA) / 2)


def test_cubic_curve_returns_to_w_max_after_k_seconds() -> None:
    """One window of ACKs per 100 ms round trip: cwnd follows W_cubic(t) within two segments."""
    sk = make_sock()
    tcp_cubic.bictcp_init(sk)
    ca: bictcp = sk.icsk_ca_priv
    sk.snd_cwnd, w_max, rtt = 1000, 1000.0, 0.1
    sk.snd_cwnd = sk.snd_ssthresh = tcp_cubic.bictcp_recalc_ssthresh(sk)
    ca.delay_min = rtt
    k = ((w_max - sk.snd_cwnd) / C) ** (1 / 3)
    now = 0.0
    while now < 2 * k:
        sk.tcp_mstamp = int(now * 1e6)
        for _ in range(sk.snd_cwnd):
            tcp_cubic.bictcp_cong_avoid(sk, 0, 1)
        now += rtt
        expected = C * (now - k) ** 3 + w_max
        assert sk.snd_cwnd == pytest.approx(expected, rel=0.02), f"at {now:.1f} s"
    assert k == pytest.approx(9.09, abs=0.01)


def test_cubic_short_round_trip_is_as_fast_as_reno() -> None:
    """With 1 ms round trips the cubic curve is flat; W_est carries the growth (RFC 9438, 4.3)."""
    ca = bictcp()
    ca.last_max_cwnd, ca.cwnd_prior, ca.delay_min = 20.0, 20.0, 0.001
    cwnd, cnt, rounds = 14, 0, 0
    while cwnd < 20 and rounds < 100:
        for _ in range(cwnd):
            bictcp_update(ca, cwnd, 1, rounds * 0.001)
            cnt += 1
            if cnt >= ca.cnt:
                cwnd, cnt = cwnd + 1, 0
        rounds += 1
    # Reno with this alpha needs 6 / 0.529 = 11.3 round trips for six segments.
    assert 10 <= rounds <= 20


def test_cubic_small_window_after_a_loss_grows_in_the_first_round_trip() -> None:
    """W_max 10, 7 after the loss, 40 ms: a guest's 6.1 is at 8 once seven segments were acknowledged, as its curve
    counts in whole segments.  The formula's own 7.2 would take it five round trips."""
    sk = make_sock()
    tcp_cubic.bictcp_init(sk)
    sk.icsk_ca_priv.delay_min = 0.04
    sk.snd_cwnd = 10
    sk.snd_cwnd = sk.snd_ssthresh = tcp_cubic.bictcp_recalc_ssthresh(sk)
    for _ in range(sk.snd_cwnd):
        tcp_cubic.bictcp_cong_avoid(sk, 0, 1)
    assert sk.snd_cwnd == 8


# -- HyStart ----------------------------------------------------------------------------------------------


def slow_start(cwnd: int = 40, rtt_us: int = 50_000) -> tcp_sock:
    """A socket in slow start, at the beginning of a round trip, with ``rtt_us`` the smallest so far."""
    sk = make_sock()
    sk.tcp_mstamp = 1_000_000
    tcp_cubic.bictcp_init(sk)
    sk.snd_cwnd = cwnd
    sk.icsk_ca_priv.delay_min = rtt_us / 1e6
    sk.sk_gso_max_size, sk.sk_pacing_rate = 65536, 1 << 40
    return sk


def acks(sk: tcp_sock, count: int, gap_us: int, rtt_us: int = 50_000) -> None:
    for _ in range(count):
        sk.tcp_mstamp += gap_us
        tcp_cubic.bictcp_acked(sk, ack_sample(1, rtt_us, 0))


def counted(sk: tcp_sock, mib: int) -> int:
    return sk.sk_net.mib.net_statistics[mib]


def test_hystart_ack_train_of_half_a_round_trip_ends_slow_start() -> None:
    sk = slow_start()
    acks(sk, 25, 1000)
    assert sk.snd_ssthresh == TCP_INFINITE_SSTHRESH
    acks(sk, 1, 1000)
    assert sk.snd_ssthresh == 40
    assert counted(sk, LINUX_MIB_TCPHYSTARTTRAINDETECT) == 1
    assert counted(sk, LINUX_MIB_TCPHYSTARTTRAINCWND) == 40


def test_hystart_ack_train_of_a_paced_sender_takes_a_whole_round_trip() -> None:
    sk = slow_start()
    sk.sk_pacing_status = SK_PACING_NEEDED
    acks(sk, 49, 1000)
    assert sk.snd_ssthresh == TCP_INFINITE_SSTHRESH
    acks(sk, 2, 1000)
    assert sk.snd_ssthresh == 40


def test_hystart_acks_far_apart_are_no_train() -> None:
    sk = slow_start()
    acks(sk, 100, 2100)
    assert sk.snd_ssthresh == TCP_INFINITE_SSTHRESH


def test_hystart_short_path_allows_for_big_packets() -> None:
    sk = slow_start(rtt_us=1000)
    sk.sk_pacing_rate = 64_000_000  # four packets of 64 KB take 4 ms: a millisecond is the most that counts
    assert tcp_cubic.hystart_ack_delay(sk) == 1000
    acks(sk, 9, 100, rtt_us=1000)
    assert sk.snd_ssthresh == TCP_INFINITE_SSTHRESH
    acks(sk, 2, 100, rtt_us=1000)
    assert sk.snd_ssthresh == 40


@pytest.mark.parametrize(
    ("delay_min", "rtt", "ends"),
    [
        (50_000, 56_250, False),  # an eighth of 50 ms is 6.25 ms
        (50_000, 56_251, True),
        (10_000, 14_000, False),  # 4 ms at least
        (10_000, 14_001, True),
        (400_000, 416_001, True),  # 16 ms at most
    ],
)
def test_hystart_round_trips_above_the_threshold_end_slow_start(delay_min: int, rtt: int, ends: bool) -> None:
    sk = slow_start(rtt_us=delay_min)
    acks(sk, 8, 3000, rtt_us=rtt)
    assert sk.snd_ssthresh == TCP_INFINITE_SSTHRESH
    acks(sk, 1, 3000, rtt_us=rtt)
    assert (sk.snd_ssthresh == 40) is ends
    assert counted(sk, LINUX_MIB_TCPHYSTARTDELAYDETECT) == ends
    assert counted(sk, LINUX_MIB_TCPHYSTARTDELAYCWND) == 40 * ends


def test_hystart_one_small_round_trip_in_the_round_is_enough_to_go_on() -> None:
    sk = slow_start()
    acks(sk, 1, 3000)
    acks(sk, 20, 3000, rtt_us=90_000)
    assert sk.snd_ssthresh == TCP_INFINITE_SSTHRESH


def test_hystart_small_window_is_left_alone() -> None:
    sk = slow_start(cwnd=15)
    acks(sk, 60, 1000)
    assert sk.snd_ssthresh == TCP_INFINITE_SSTHRESH


def test_hystart_round_begins_again_with_the_ack_of_its_end() -> None:
    sk = slow_start()
    sk.snd_nxt = 5000
    tcp_cubic.bictcp_hystart_reset(sk)
    acks(sk, 20, 1000)
    sk.snd_nxt = 9000
    tcp_cubic.bictcp_cong_avoid(sk, 5001, 1)
    assert sk.icsk_ca_priv.end_seq == 9000
    assert sk.icsk_ca_priv.sample_cnt == 0
    acks(sk, 20, 1000)
    assert sk.snd_ssthresh == TCP_INFINITE_SSTHRESH


def test_hystart_right_after_a_recovery_takes_no_samples() -> None:
    sk = slow_start()
    ca: bictcp = sk.icsk_ca_priv
    ca.epoch_start = 0.5
    acks(sk, 1, 0, rtt_us=10_000)
    assert ca.delay_min == 0.05
    acks(sk, 1, 600_000, rtt_us=10_000)
    assert ca.delay_min == 0.01


def test_set_unknown_control_is_refused_by_name() -> None:
    assert tcp_cong.tcp_ca_find("cubic") is tcp_cubic.cubictcp
    assert tcp_cong.tcp_ca_find("vegas") is None
    assert tcp_cong.tcp_register_congestion_control(tcp_cubic.cubictcp) < 0
