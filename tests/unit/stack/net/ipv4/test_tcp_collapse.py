# SPDX-License-Identifier: GPL-2.0-or-later
"""A receive buffer that is full: small packets are copied together, then data behind holes are given up."""

from __future__ import annotations

import random
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, Sim
from stack.include.snmp import (
    LINUX_MIB_OFOPRUNED,
    LINUX_MIB_PRUNECALLED,
    LINUX_MIB_RCVPRUNED,
    LINUX_MIB_TCPRCVCOALESCE,
    LINUX_MIB_TCPRCVCOLLAPSED,
)
from stack.include.tcp import tcp_sock
from stack.net.ipv4 import tcp_input
from stack.stack import Stack

SOL_SOCKET, SO_RCVBUF = 1, 8


class Server:
    """A listener on port 7, and connections of a raw peer to it."""

    def __init__(self, profile: str = "linux-6.1", rcvbuf: int = 0, **sysctl: Any) -> None:
        self.sim = Sim(seed=9)
        self.net: Stack = self.sim.add_stack("10.0.2.2/24", profile=profile, sysctl=sysctl)
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net)
        self.listener = Socket(self.net)
        if rcvbuf:
            self.listener.setsockopt(SOL_SOCKET, SO_RCVBUF, rcvbuf)
        self.listener.bind(("", 7))
        self.listener.listen()
        self.conn = self.peer.tcp(dport=7)
        self.conn.handshake()
        self.child = self.listener.accept()[0]
        self.sk: Any = self.child.sk
        self.start = self.conn.snd_nxt

    def send(self, data: bytes, at: int | None = None, flags: str = "PA") -> None:
        """Data at that distance from the first byte, by default the next in order."""
        self.conn.send(flags, data, **({} if at is None else {"seq": self.start + at}))
        self.sim.settle()

    def seq(self, at: int) -> int:
        """That distance as a sequence number."""
        return (self.conn.isn + self.start + at) & 0xFFFFFFFF

    def count(self, mib: int) -> int:
        return self.net.mib.net_statistics[mib]

    def charged(self) -> bool:
        """What the socket is charged is what its queues hold."""
        queues = [*self.sk.sk_receive_queue, *self.sk.out_of_order_queue]
        return bool(self.sk.sk_rmem_alloc == sum(skb.truesize for skb in queues))


def stream(length: int) -> bytes:
    return random.Random(7).randbytes(length)


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.18"])
def test_established_small_segments_unread_are_collapsed_and_read_unchanged(profile: str) -> None:
    server = Server(profile, rcvbuf=10000)
    data = stream(12000)
    sent = 0
    while not server.count(LINUX_MIB_TCPRCVCOLLAPSED):
        server.send(data[sent : sent + 140])
        sent += 140
    assert server.count(LINUX_MIB_PRUNECALLED) >= 1
    assert server.count(LINUX_MIB_RCVPRUNED) == 0
    assert server.charged()
    assert server.sk.sk_rmem_alloc <= server.sk.sk_rcvbuf
    assert server.child.recv(20000) == data[:sent]
    assert server.sk.sk_rmem_alloc == 0


def test_established_partly_read_packet_is_collapsed_from_where_the_reader_is() -> None:
    server = Server("linux-6.18", rcvbuf=10000)
    data = stream(12000)
    sent = 0
    while sent < 700:
        server.send(data[sent : sent + 140])
        sent += 140
    assert server.child.recv(150) == data[:150]
    while not server.count(LINUX_MIB_TCPRCVCOLLAPSED):
        server.send(data[sent : sent + 140])
        sent += 140
    assert server.sk.sk_receive_queue[0].cb.seq == server.seq(150)
    assert server.child.recv(20000) == data[150:sent]


def test_established_run_behind_a_hole_is_collapsed_and_read_unchanged() -> None:
    server = Server(rcvbuf=10000)
    data = stream(12000)
    at = 1
    while not server.count(LINUX_MIB_TCPRCVCOLLAPSED):
        server.send(data[at : at + 140], at=at)
        at += 140
    assert server.count(LINUX_MIB_OFOPRUNED) == 0
    assert server.charged()
    server.send(data[:1], at=0)
    assert server.child.recv(20000) == data[:at]


def test_established_overlapping_run_behind_a_hole_is_collapsed_and_read_unchanged() -> None:
    server = Server(rcvbuf=10000)
    data = stream(12000)
    at = 1
    while not server.count(LINUX_MIB_TCPRCVCOLLAPSED):
        server.send(data[at : at + 150], at=at)
        at += 120
    server.send(data[:1], at=0)
    assert server.child.recv(20000) == data[: at + 30]


def test_established_fin_in_the_queue_stays_behind_what_is_collapsed() -> None:
    server = Server(rcvbuf=10000)
    data = stream(3000)
    for at in range(1, 1401, 140):
        server.send(data[at : at + 140], at=at)
    server.send(b"!", at=1401, flags="FA")
    server.sk.sk_rcvbuf = server.sk.sk_rmem_alloc
    server.send(data[2000:2001], at=2000)
    server.sk.sk_rcvbuf = 20000
    server.send(data[:1], at=0)
    assert server.child.recv(20000) == data[:1401] + b"!"
    assert server.child.recv(9) == b""


def test_collapse_of_what_was_read_already_drops_it() -> None:
    server = Server()
    server.send(b"a" * 700)
    server.send(b"b" * 1400)
    sk: tcp_sock = server.sk
    waiting = list(sk.sk_receive_queue)
    sk.sk_receive_queue.clear()
    left = tcp_input.tcp_collapse(sk, waiting, server.seq(700), sk.rcv_nxt)
    assert [skb.cb.seq for skb in left] == [server.seq(700)]
    assert server.count(LINUX_MIB_TCPRCVCOLLAPSED) == 1  # the other one is full enough to stay


def test_established_continuation_behind_a_hole_is_merged() -> None:
    server = Server()
    data = stream(100)
    for at in range(1, 51, 10):
        server.send(data[at : at + 10], at=at)
    assert len(server.sk.out_of_order_queue) == 1
    assert server.count(LINUX_MIB_TCPRCVCOALESCE) == 4
    server.send(data[:1], at=0)
    assert server.child.recv(100) == data[:51]


def test_established_many_merged_behind_a_hole_are_read_unchanged() -> None:
    server = Server()
    data = stream(3000)
    for at in range(1, 2401, 60):
        server.send(data[at : at + 60], at=at)
    server.send(data[:1], at=0)
    assert server.child.recv(9000) == data[:2401]
    assert server.sk.sk_rmem_alloc == 0


def test_established_no_room_closes_the_window_of_later_kernels() -> None:
    server = Server("linux-6.18", tcp_mem=(2, 3, 4))
    server.peer.inbox.clear()
    for _ in range(40):
        server.send(b"x" * 1448)
    windows = [server.conn.expect().window for _ in range(len(server.peer.inbox))]
    assert 0 in windows


@pytest.mark.parametrize(("shrink", "smaller"), [(0, False), (1, True)])
def test_established_smaller_buffer_shrinks_the_window_if_it_may(shrink: int, smaller: bool) -> None:
    server = Server(tcp_shrink_window=shrink)
    server.send(b"x")
    before = server.conn.expect("A").window
    server.child.recv(9)
    server.child.setsockopt(SOL_SOCKET, SO_RCVBUF, 5000)
    server.send(b"x")
    server.child.recv(9)
    server.send(b"x")
    server.sim.run_for(100_000_000)
    window = [server.conn.expect().window for _ in range(len(server.peer.inbox))][-1]
    assert (window < before - 10) is smaller
