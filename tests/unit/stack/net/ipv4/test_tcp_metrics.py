# SPDX-License-Identifier: GPL-2.0-or-later
"""What a connection leaves to the next one with the same peer.  The numbers are those that ``ip tcp_metrics`` of Linux
6.18 shows after the same segments, with the round trips of virtual time; the stimuli conn-metrics-* of the differential
compare what the next connection makes of them."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Sim
from stack.include.dst import (
    RTAX_CWND,
    RTAX_LOCK,
    RTAX_REORDERING,
    RTAX_RTT,
    RTAX_RTTVAR,
    RTAX_SSTHRESH,
)
from stack.include.tcp import TCP_INFINITE_SSTHRESH
from stack.include.timer import HZ
from stack.net.ipv4.tcp_metrics import TCP_METRICS_MAX, tcp_metrics_block
from stack.stack import Stack

SERVER = ("10.0.2.15", 80)
MSS = 1448


class Client:
    """A connected socket and the raw server's end."""

    def __init__(self, net: Stack, peer: RawPeer, rtt_ms: int = 0, host: str = SERVER[0]) -> None:
        self.peer = peer
        self.sock = Socket(net)
        self.sk: Any = self.sock.sk
        assert self.sock.connect_ex((host, 80)) == errno.EINPROGRESS
        syn = peer.expect_segment()
        self.conn: RawTcp = peer.tcp(syn.sport, sport=80)
        self.conn.irs, self.conn.rcv_nxt = syn.seq, 1
        assert syn.opts.ts is not None
        peer.sim.run_for(rtt_ms * MSEC)
        self.conn.send("SA", mss=1460, sackok=True, wscale=7, ts=(5000, syn.opts.ts[0]))
        self.conn.ts_on, self.conn.ts_val = True, 5000
        self.conn.expect("A")

    def send(self, size: int) -> None:
        """Data, and what the raw server sees of them."""
        self.sock.send(b"x" * size)
        self.peer.sim.settle()
        while self.peer.inbox:
            self.conn.expect()

    def ack(self) -> None:
        self.conn.send("A")
        self.peer.sim.settle()

    def close(self) -> None:
        """Our FIN, then the peer's: the end that counts."""
        self.sock.close()
        self.conn.expect("FA")
        self.conn.send("FA")
        self.conn.expect("A")


def only(net: Stack) -> tcp_metrics_block:
    (tm,) = net.tcp_metrics.values()
    return tm


def seen(tm: tcp_metrics_block) -> tuple[int, int]:
    """RTT and RTTVAR in ms, as ``ip tcp_metrics`` shows them."""
    return round((tm.rtt >> 3) / 1000), round((tm.rttvar >> 2) / 1000)


def route(net: Stack, **metrics: int) -> None:
    """The metrics of the route to the peer."""
    names = {"rtt": RTAX_RTT, "rttvar": RTAX_RTTVAR, "ssthresh": RTAX_SSTHRESH, "cwnd": RTAX_CWND,
             "reordering": RTAX_REORDERING, "lock": RTAX_LOCK}  # fmt: skip
    for entry in net.fib.main:
        entry.metrics = {names[name]: value for name, value in metrics.items()}


@pytest.fixture(autouse=True)
def later(sim: Sim) -> None:
    """A clock at 0 is a time stamp of 0, which means none."""
    sim.run_for(1 * SEC)


# -- what is noted -----------------------------------------------------------------------------------------------------


def test_last_ack_rtt_shrinks_by_an_eighth_and_rttvar_by_a_quarter(net: Stack, peer: RawPeer) -> None:
    found = []
    for rtt_ms in (300, 4, 4, 100):
        Client(net, peer, rtt_ms).close()
        found.append(seen(only(net)))
    assert found == [(262, 262), (230, 262), (202, 253), (188, 218)]  # 7/8 of 300 ms, and so on


def test_last_ack_longer_rtt_is_taken_at_once(net: Stack, peer: RawPeer) -> None:
    Client(net, peer, 50).close()
    short = only(net).rtt
    client = Client(net, peer, 200)
    client.close()
    assert only(net).rtt > 3 * short


def test_established_reset_leaves_nothing(net: Stack, peer: RawPeer) -> None:
    client = Client(net, peer, 50)
    client.conn.send("R")
    peer.sim.settle()
    assert net.tcp_metrics == {}


def test_last_ack_no_metrics_save(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("tcp_no_metrics_save", 1)
    Client(net, peer, 50).close()
    assert net.tcp_metrics == {}


def test_last_ack_initial_slow_start_notes_the_largest_cwnd(net: Stack, peer: RawPeer) -> None:
    client = Client(net, peer, 10)
    client.send(10 * MSS)
    client.ack()
    assert client.sk.snd_cwnd == 20
    client.close()
    Client(net, peer, 10).close()
    assert (only(net).cwnd, only(net).ssthresh, only(net).reordering) == (20, 0, 0)


def loses(net: Stack, peer: RawPeer, after: int) -> Client:
    """A connection whose window of 20 was lost in a timeout, which makes ssthresh 10, and is ``after`` since."""
    net.sysctl_set("tcp_early_retrans", 0)
    net.sysctl_set("tcp_congestion_control", "reno")
    client = Client(net, peer, 10)
    client.send(10 * MSS)
    client.ack()
    assert client.sk.snd_cwnd == 20
    client.send(300)
    client.conn.expect(within_ns=1 * SEC)
    client.ack()
    while client.sk.snd_cwnd < after:
        client.send(client.sk.snd_cwnd * MSS)
        client.ack()
    assert (client.sk.snd_cwnd, client.sk.snd_ssthresh) == (after, 10)
    return client


@pytest.mark.parametrize(("saved", "wanted"), [(1, 0), (0, 10)])
def test_last_ack_congestion_avoidance_notes_ssthresh_if_told_so(
    net: Stack, peer: RawPeer, saved: int, wanted: int
) -> None:
    net.sysctl_set("tcp_no_ssthresh_metrics_save", saved)
    loses(net, peer, 10).close()
    assert (only(net).cwnd, only(net).ssthresh) == (5, wanted)


def test_last_ack_slow_start_after_a_loss_notes_reordering(net: Stack, peer: RawPeer) -> None:
    client = loses(net, peer, 4)
    at = client.conn.rcv_nxt
    client.send(4 * MSS)
    client.conn.send("A", ack=at, sack=[(at + 3 * MSS, at + 4 * MSS)])
    client.ack()
    assert client.sk.reordering == 4
    client.close()
    assert (only(net).reordering, only(net).cwnd) == (4, 5)
    assert Client(net, peer).sk.reordering == 4


def test_last_ack_slow_start_without_a_loss_does_not_note_reordering(net: Stack, peer: RawPeer) -> None:
    client = Client(net, peer, 10)
    client.send(6 * MSS)
    client.conn.send("A", ack=1, sack=[(1 + 5 * MSS, 1 + 6 * MSS)])
    client.ack()
    assert client.sk.reordering == 6
    client.close()
    assert only(net).reordering == 0


# -- what the next connection makes of it ----------------------------------------------------------------------------


def test_syn_sent_noted_rtt_makes_the_first_rto_longer(net: Stack, peer: RawPeer) -> None:
    Client(net, peer, 300).close()
    assert Client(net, peer, 4).sk.icsk_rto == 3 * (262 * HZ // 1000)


def test_syn_sent_noted_ssthresh_ends_slow_start(net: Stack, peer: RawPeer) -> None:
    Client(net, peer, 4).close()
    only(net).ssthresh = 7
    assert Client(net, peer).sk.snd_ssthresh == TCP_INFINITE_SSTHRESH
    net.sysctl_set("tcp_no_ssthresh_metrics_save", 0)
    assert Client(net, peer).sk.snd_ssthresh == 7


# -- the route's metrics -----------------------------------------------------------------------------------------------


def test_syn_sent_metrics_of_the_route_begin_an_entry(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("tcp_no_ssthresh_metrics_save", 0)
    route(net, rtt=8 * 500, rttvar=4 * 100, ssthresh=5, cwnd=7, reordering=9)
    first = Client(net, peer, 4)
    assert first.sk.snd_ssthresh == TCP_INFINITE_SSTHRESH
    first.close()
    tm = only(net)
    assert (seen(tm)[0], tm.ssthresh, tm.cwnd, tm.reordering) == (438, 5, 10, 9)
    second = Client(net, peer, 4)
    assert (second.sk.snd_ssthresh, second.sk.snd_cwnd, second.sk.reordering) == (5, 10, 9)


def test_last_ack_locked_metrics_of_the_route_stay(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("tcp_no_ssthresh_metrics_save", 0)
    locked = 1 << RTAX_RTT | 1 << RTAX_RTTVAR | 1 << RTAX_SSTHRESH | 1 << RTAX_CWND | 1 << RTAX_REORDERING
    route(net, rtt=8 * 500, rttvar=4 * 100, ssthresh=5, cwnd=7, reordering=9, lock=locked)
    Client(net, peer, 4).close()
    tm = only(net)
    assert (*seen(tm), tm.ssthresh, tm.cwnd, tm.reordering) == (500, 100, 5, 7, 9)
    second = Client(net, peer, 4)
    assert second.sk.icsk_rto == 1500 * HZ // 1000
    assert (second.sk.snd_cwnd, second.sk.snd_cwnd_clamp) == (7, 7)


# -- what is forgotten -----------------------------------------------------------------------------------------------


def test_last_ack_entry_an_hour_old_keeps_only_its_cookie(net: Stack, peer: RawPeer) -> None:
    Client(net, peer, 300).close()
    only(net).tcpm_fastopen.cookie.val = b"chocchip"
    peer.sim.run_for(3601 * SEC)
    assert Client(net, peer, 4).sk.icsk_rto < HZ // 4
    assert (only(net).rtt, only(net).tcpm_fastopen.cookie.val) == (0, b"chocchip")


def test_last_ack_table_full_the_oldest_goes(net: Stack, peer: RawPeer) -> None:
    Client(net, peer, 4).close()
    (mine,) = net.tcp_metrics
    for i in range(TCP_METRICS_MAX - 1):
        net.tcp_metrics[1, i] = tcp_metrics_block()
    Client(net, peer, 4).close()  # it is the youngest now
    net.dev_addr_add(net.devices_by_name["eth0"], "10.0.2.9/24")
    sock = Socket(net)
    sock.bind(("10.0.2.9", 0))
    sock.connect_ex(SERVER)
    syn = peer.expect_segment()
    conn = peer.tcp(syn.sport, sport=80, dst="10.0.2.9")
    conn.irs, conn.rcv_nxt = syn.seq, 1
    conn.send("SA", mss=1460)
    conn.expect("A")
    sock.close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    assert len(net.tcp_metrics) == TCP_METRICS_MAX
    assert mine in net.tcp_metrics
    assert (1, 0) not in net.tcp_metrics
