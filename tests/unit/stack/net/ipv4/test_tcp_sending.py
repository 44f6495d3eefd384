# SPDX-License-Identifier: GPL-2.0-or-later
"""When data may leave: windows after idle times, corks, the marks of unsent data, packet sizes, small queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.sim import MSEC, SEC
from stack.include.net import MSG_MORE
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.include.snmp import LINUX_MIB_TCPAUTOCORKING
from stack.include.sock import EPOLLOUT
from stack.include.tcp import (
    SOL_TCP,
    TCP_CONGESTION,
    TCP_CORK,
    TCP_INFINITE_SSTHRESH,
    TCP_NODELAY,
    TCP_NOTSENT_LOWAT,
    TSQF_THROTTLED,
    minmax_reset,
)
from stack.kernel.time.timer import tcp_jiffies32
from stack.net.core.dev import netif_wake_queue
from stack.net.ipv4 import tcp, tcp_input, tcp_output

Make = Callable[..., Any]
MSS = 1448
TSO = NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_SG


def lengths(segments: list[Any]) -> list[int]:
    return [len(s.payload) for s in segments]


def ack_all(e: Any, count: int = 1) -> None:
    """Let the raw host acknowledge what it got, ``count`` round trips long."""
    for _ in range(count):
        e.flight(e.sim.links[e.conn.peer.name].forward.delay_ns)
        e.conn.send("A")
        e.sim.run_for(e.sim.links[e.conn.peer.name].forward.delay_ns)


# -- the window after idle times (RFC 2861, RFC 7661) ---------------------------------------------------------


@pytest.mark.parametrize(("rtos", "cwnd"), [(0.5, 80), (1.5, 40), (2.5, 20), (3.5, 10), (30, 10)])
def test_established_idle_window_halves_per_rto_down_to_the_initial_one(
    established: Make, rtos: float, cwnd: int
) -> None:
    """RFC 2861, section 3.2; not below RFC 5681's restart window."""
    e = established(delay_ns=10 * MSEC)
    e.sock.send(b"x")
    ack_all(e)
    e.sk.snd_cwnd = 80
    e.sim.run_for(int(rtos * e.sk.icsk_rto * 4 * MSEC))
    e.sock.send(b"y")
    assert e.sk.snd_cwnd == cwnd
    if cwnd < 80:
        assert e.sk.snd_ssthresh == TCP_INFINITE_SSTHRESH


def test_established_idle_remembers_three_quarters_of_the_window(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.send(b"x")
    ack_all(e)
    e.sk.snd_cwnd, e.sk.snd_ssthresh = 80, 20
    e.sim.run_for(SEC)
    e.sock.send(b"y")
    assert e.sk.snd_ssthresh == 60


def test_established_idle_keeps_the_window_without_the_sysctl_and_under_bbr(established: Make) -> None:
    for more in (
        {"sysctl": {"tcp_slow_start_after_idle": 0}},
        {"before": ((SOL_TCP, TCP_CONGESTION, b"bbr"),)},
    ):
        e = established(delay_ns=10 * MSEC, **more)
        e.sock.send(b"x")
        ack_all(e)
        e.sk.snd_cwnd = 80
        e.sim.run_for(5 * SEC)
        e.sock.send(b"y")
        assert e.sk.snd_cwnd == 80


def test_established_window_not_used_for_an_rto_moves_halfway_to_what_was(established: Make) -> None:
    """RFC 2861: an application that sends 20 segments a round trip does not keep a window of 60."""
    e = established(delay_ns=10 * MSEC)
    e.sk.snd_cwnd, e.sk.snd_cwnd_used, e.sk.packets_out = 60, 20, 20
    e.sk.snd_ssthresh = 30
    e.sk.snd_cwnd_stamp = tcp_jiffies32(e.net) - e.sk.icsk_rto
    e.sk.cwnd_usage_seq = e.sk.snd_una
    tcp_output.tcp_cwnd_validate(e.sk, False)
    assert e.sk.snd_cwnd == 40
    assert e.sk.snd_ssthresh == 45
    assert e.sk.snd_cwnd_used == 0


def test_established_slow_start_with_half_the_window_used_still_grows(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.send(bytes(6 * MSS))
    ack_all(e)
    assert e.sk.snd_cwnd == 16
    e.sock.send(bytes(6 * MSS))
    ack_all(e)
    assert e.sk.snd_cwnd == 16  # six of sixteen: the window is not the limit


# -- corks ----------------------------------------------------------------------------------------------------


def test_established_msg_more_waits_for_the_rest(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_TCP, TCP_NODELAY, 1)
    e.sock.send(b"head", MSG_MORE)
    e.conn.expect_nothing()
    e.sock.send(b"body")
    assert [s.payload for s in e.flight()] == [b"headbody"]


def test_established_msg_more_full_segments_go(established: Make) -> None:
    e = established()
    e.sock.send(bytes(MSS + 10), MSG_MORE)
    assert lengths(e.flight()) == [MSS]
    e.sock.send(b"end")
    e.conn.send("A")
    assert lengths(e.flight()) == [13]


def test_established_cork_holds_for_200_ms_at_most(established: Make) -> None:
    """With nothing in flight the probe timer sends what is corked (tcp(7))."""
    e = established(delay_ns=MSEC)
    e.sock.setsockopt(SOL_TCP, TCP_CORK, 1)
    start = e.sim.now_ns()
    e.sock.send(b"partial")
    segment = e.conn.expect("PA", payload=b"partial", within_ns=SEC)
    assert 200 <= (segment.packet.time_ns - start) / MSEC <= 212


def test_established_nodelay_opens_the_cork_for_what_is_there(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_TCP, TCP_CORK, 1)
    e.sock.send(b"a")
    e.conn.expect_nothing()
    e.sock.setsockopt(SOL_TCP, TCP_NODELAY, 1)
    assert [s.payload for s in e.flight()] == [b"a"]


# -- TCP_NOTSENT_LOWAT ----------------------------------------------------------------------------------------


def fill(e: Any) -> int:
    """Write segments until no more are taken; how many bytes were."""
    taken = 0
    for _ in range(1000):
        try:
            taken += e.sock.send(bytes(MSS))
        except BlockingIOError:
            return taken
    raise AssertionError("a thousand segments were taken")


def writable(e: Any) -> bool:
    return bool(tcp.tcp_poll(e.sk) & EPOLLOUT)


def test_established_notsent_lowat_takes_no_more_than_that_beyond_the_window(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.setsockopt(SOL_TCP, TCP_NOTSENT_LOWAT, 4 * MSS)
    taken = fill(e)
    assert taken == 14 * MSS  # ten are sent, four wait
    assert not writable(e)


def test_established_notsent_lowat_wakes_when_half_of_it_is_left(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.setsockopt(SOL_TCP, TCP_NOTSENT_LOWAT, 8 * MSS)
    fill(e)
    assert not writable(e)
    woken: list[int] = []
    e.sk.sk_wq.append(lambda sk, mask: woken.append((sk.write_seq - sk.snd_nxt) // MSS))
    e.flight(10 * MSEC)
    for n in (1, 2, 3):
        e.conn.send("A", ack=1 + n * MSS)
        e.sim.run_for(11 * MSEC)
    assert woken
    assert woken[0] < 4
    assert writable(e)


def test_established_notsent_lowat_by_sysctl(established: Make) -> None:
    e = established(delay_ns=10 * MSEC, sysctl={"tcp_notsent_lowat": 2 * MSS})
    taken = fill(e)
    assert taken == 12 * MSS


# -- packet sizes, small queues -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "rtt_us", "segments"),
    [
        (1_000_000, 100_000, 2),  # 976 bytes a millisecond: the minimum
        (10_000_000, 100_000, 6),  # 9765 bytes a millisecond
        (1 << 34, 100_000, 45),  # 64 KB is all
        (1_000_000, 100, 45),  # below 2**9 us bursts do not matter
        (1_000_000, 1024, 11),  # 64 KB >> (1024 >> 9), and a millisecond's worth
    ],
)
def test_tso_autosize_is_a_millisecond_at_the_pacing_rate_and_more_near_by(
    established: Make, rate: int, rtt_us: int, segments: int
) -> None:
    sk = established(features=TSO).sk
    sk.sk_pacing_rate = rate
    minmax_reset(sk.rtt_min, 0, rtt_us)
    assert tcp_output.tcp_tso_autosize(sk, MSS, 2) == segments


def test_small_queue_limit_is_two_packets_or_a_millisecond(established: Make) -> None:
    e = established(features=TSO)
    e.sock.send(bytes(3 * MSS))
    sk, skb = e.sk, e.sk.tcp_rtx_queue[0]
    for rate, limit in ((1, 2 * skb.truesize), (100 << 20, 100 << 10), (1 << 40, 1 << 20)):
        sk.sk_pacing_rate = rate
        sk.sk_wmem_alloc = limit
        assert not tcp_output.tcp_small_queue_check(sk, skb, 0)
        sk.sk_wmem_alloc = limit + 1
        assert tcp_output.tcp_small_queue_check(sk, skb, 0)
        assert sk.tsq_flags & TSQF_THROTTLED
        assert not tcp_output.tcp_small_queue_check(sk, skb, 1)
    sk.sk_wmem_alloc = 0


# -- what held the sender back (struct tcp_info) ------------------------------------------------------------------


def held_back(e: Any) -> tuple[int, int, int]:
    """tcpi_busy_time, tcpi_rwnd_limited and tcpi_sndbuf_limited in milliseconds."""
    info = tcp.tcp_get_info(e.sk)
    return tuple(info[f"tcpi_{name}"] // 1000 for name in ("busy_time", "rwnd_limited", "sndbuf_limited"))


def test_established_closed_window_counts_until_now(established: Make) -> None:
    e = established(window=0)
    e.sock.send(b"hello")
    e.sim.run_for(100 * MSEC)
    assert held_back(e) == (100, 100, 0)
    e.conn.send("A", window=100)
    e.sim.run_for(100 * MSEC)
    assert held_back(e) == (200, 100, 0)


def test_established_full_buffer_counts_as_such_once_all_of_it_was_sent(established: Make) -> None:
    """What fits into the buffer fits into cwnd; into the window only when that opens."""
    e = established(mss=1012, window=0)
    e.sock.setsockopt(1, 7, 2304)
    assert e.sock.send(bytes(60000)) < 10000
    e.sim.run_for(100 * MSEC)
    assert held_back(e) == (100, 100, 0)
    e.conn.send("A", window=65535)
    e.sim.run_for(100 * MSEC)
    assert held_back(e) == (200, 100, 100)


def test_fin_wait1_fin_alone_is_business(established: Make) -> None:
    e = established()
    e.sock.shutdown(1)
    e.sim.run_for(100 * MSEC)
    assert held_back(e) == (100, 0, 0)


@pytest.mark.parametrize(("autocorking", "waits"), [(1, True), (0, False)])
def test_established_small_write_waits_for_a_device_that_holds_the_one_before(
    established: Make, autocorking: int, waits: bool
) -> None:
    """tcp_autocorking: what is written meanwhile leaves when the device has gone on."""
    e = established(features=TSO)
    e.net.sysctl_set("tcp_autocorking", autocorking)
    e.sock.setsockopt(SOL_TCP, TCP_NODELAY, 1)
    dev = e.net.devices_by_name["eth0"]
    dev.queue_stopped = True
    e.sock.send(b"a" * 100)
    e.sock.send(b"b" * 100)
    assert bool(e.sk.sk_write_queue) is waits
    assert (e.net.mib.net_statistics[LINUX_MIB_TCPAUTOCORKING] > 0) is waits
    netif_wake_queue(dev)
    assert not e.sk.sk_write_queue
    assert [s.payload for s in e.flight()] == [b"a" * 100, b"b" * 100]


def test_established_pacing_rate_of_an_unpaced_socket_follows_cwnd_and_round_trip(established: Make) -> None:
    """Twice what cwnd gives in a round trip while in slow start (below half of ssthresh), then 1.2 times; it sizes TSO
    packets of every socket."""
    e = established(delay_ns=10_000_000)
    e.sock.send(b"x" * MSS)
    e.flight(20_000_000)
    e.conn.send("A")
    e.flight(20_000_000)
    sk = e.sk
    per_second = sk.mss_cache * 8_000_000 * max(sk.snd_cwnd, sk.packets_out) // sk.srtt_us
    assert sk.sk_pacing_rate == pytest.approx(2 * per_second, rel=0.01)
    sk.snd_ssthresh = sk.snd_cwnd
    tcp_input.tcp_update_pacing_rate(sk)
    assert sk.sk_pacing_rate == pytest.approx(1.2 * per_second, rel=0.01)
    e.sock.setsockopt(1, 47, 5000)
    tcp_input.tcp_update_pacing_rate(sk)
    assert sk.sk_pacing_rate == 5000
