# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters: each event of the stack moves those that it moves in Linux."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import SOCK_DGRAM, Socket
from stack.api.sim import MSEC, SEC, RawPeer, Sim
from stack.include.netdevice import NETDEV_TX_BUSY
from stack.net.ipv4 import proc
from stack.stack import Stack

Make = Callable[..., Any]
TCP_LINGER2, SOL_TCP, IP_RECVERR = 8, 6, 11


def grown(net: Stack, *names: str) -> list[int]:
    counters = proc.counters(net)
    return [counters.get(name, 0) for name in names]


def test_rp_filter_drop_counts_in_ip_reverse_path_filter(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl={"rp_filter": 1})
    peer = sim.add_peer("10.0.2.15", net)
    for _ in range(2):
        peer.send_icmp("10.0.2.2", 8, 0, 1, b"x", src="192.168.1.1")
    peer.expect_nothing()
    assert grown(net, "TcpExtIPReversePathFilter", "IcmpInMsgs") == [2, 0]


@pytest.mark.parametrize("recverr", [0, 1])
def test_datagram_into_a_full_queue_counts_in_out_discards_and_sndbuf_errors(
    net: Stack, peer: RawPeer, recverr: int
) -> None:
    sock = Socket(net, type=SOCK_DGRAM)
    sock.setsockopt(0, IP_RECVERR, recverr)
    sock.sendto(b"resolves the neighbour", ("10.0.2.15", 9))
    peer.expect_udp(sock.getsockname()[1], 9)
    dev = net.devices_by_name["eth0"]
    dev.ndo_start_xmit = lambda skb, dev: NETDEV_TX_BUSY
    dev.tx_queue_len = 1
    sock.sendto(b"waits", ("10.0.2.15", 9))
    if recverr:
        with pytest.raises(OSError, match="no buffer space") as caught:
            sock.sendto(b"lost", ("10.0.2.15", 9))
        assert caught.value.errno == errno.ENOBUFS
    else:
        assert sock.sendto(b"lost", ("10.0.2.15", 9)) == 4
    assert grown(net, "IpOutDiscards", "UdpSndbufErrors", "UdpOutDatagrams") == [1, 1 - recverr, 2]


def test_established_rto_counts_in_tcp_timeout_rehash(established: Make) -> None:
    e = established(sysctl={"tcp_early_retrans": 0})
    e.sock.send(b"x")
    e.flight(SEC)
    timeouts, rehashed = grown(e.net, "TcpExtTCPTimeouts", "TcpExtTcpTimeoutRehash")
    assert timeouts == rehashed == 2


def test_established_rto_without_txrehash_counts_nothing(established: Make) -> None:
    e = established(sysctl={"tcp_early_retrans": 0, "core.txrehash": 0})
    e.sock.send(b"x")
    e.flight(SEC)
    assert grown(e.net, "TcpExtTCPTimeouts", "TcpExtTcpTimeoutRehash") == [2, 0]


def test_established_same_data_a_third_time_counts_in_tcp_duplicate_data_rehash(established: Make) -> None:
    e = established()
    e.conn.send("A", b"a" * 100)
    e.flight(SEC)
    counts = []
    for _ in range(3):
        e.conn.send("A", b"a" * 100, seq=1)
        e.flight(SEC)
        counts += grown(e.net, "TcpExtTcpDuplicateDataRehash")
    assert counts == [0, 1, 2]


def test_established_dsack_of_nothing_resent_counts_as_dubious(established: Make) -> None:
    e = established()
    e.sock.send(b"x" * 100)
    e.flight()
    e.conn.send("A", ack=101)
    e.sock.send(b"y" * 100)
    e.flight()
    e.sk.undo_marker = e.sk.snd_una
    e.conn.send("A", ack=101, sack=((51, 101), (101, 201)))
    e.sim.settle()
    names = ("TcpExtTCPDSACKRecv", "TcpExtTCPDSACKIgnoredDubious", "TcpExtTCPDSACKRecvSegs")
    assert grown(e.net, *names) == [1, 1, 0]


def test_fin_wait1_acked_with_negative_linger2_resets(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_TCP, TCP_LINGER2, -1)
    e.sock.close()
    e.conn.expect("FA")
    e.conn.send("A")
    e.conn.expect("R")
    e.sim.run_for(MSEC)
    assert grown(e.net, "TcpExtTCPAbortOnData", "TcpOutRsts") == [1, 1]
    assert e.net.snapshot()["tcp"]["connections"] == []
