# SPDX-License-Identifier: GPL-2.0-or-later
"""The two queues of a listener: limits, overflow, order and end; measured on Linux 6.1."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from stack.api.bsd import Socket
from stack.api.sim import SEC, RawPeer, RawTcp, Sim, SimError
from stack.include.snmp import (
    LINUX_MIB_EMBRYONICRSTS,
    LINUX_MIB_LISTENDROPS,
    LINUX_MIB_LISTENOVERFLOWS,
    LINUX_MIB_TCPREQQFULLDROP,
)
from stack.stack import Stack

Listen = Callable[..., Socket]


def connect(peer: RawPeer, sport: int) -> RawTcp:
    conn = peer.tcp(80, sport=sport)
    conn.handshake()
    return conn


def synacks(peer: RawPeer, count: int) -> int:
    """Send that many SYNs; how many were answered."""
    answered = 0
    for i in range(count):
        conn = peer.tcp(80, sport=40000 + i)
        conn.send("S", mss=1460)
        try:
            conn.expect("SA")
            answered += 1
        except SimError:
            continue
    return answered


def backlog_of(sock: Socket) -> tuple[int, int]:
    return sock.sk.sk_ack_backlog, sock.sk.sk_max_ack_backlog


@pytest.mark.parametrize("backlog", [0, 1, 4])
def test_listen_accept_queue_holds_backlog_plus_one(
    listen: Listen, peer: RawPeer, net: Stack, backlog: int
) -> None:
    sock = listen(backlog)
    for i in range(backlog + 1):
        connect(peer, 40000 + i)
    assert backlog_of(sock) == (backlog + 1, backlog)
    peer.tcp(80, sport=50000).send("S", mss=1460)
    peer.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_LISTENOVERFLOWS] == 1
    assert net.mib.net_statistics[LINUX_MIB_LISTENDROPS] == 1


@pytest.mark.parametrize(("backlog", "answered"), [(0, 1), (1, 2), (4, 5), (16, 17)])
def test_listen_syn_queue_holds_backlog_plus_one_without_cookies(
    listen: Listen, peer: RawPeer, net: Stack, backlog: int, answered: int
) -> None:
    net.sysctl_set("tcp_syncookies", 0)
    listen(backlog)
    assert synacks(peer, 20) == answered
    assert net.mib.net_statistics[LINUX_MIB_TCPREQQFULLDROP] == 20 - answered
    assert net.mib.net_statistics[LINUX_MIB_LISTENDROPS] == 20 - answered


@pytest.mark.parametrize(("maximum", "answered"), [(16, 13), (64, 49)])
def test_listen_last_quarter_is_for_proven_peers(
    listen: Listen, peer: RawPeer, net: Stack, maximum: int, answered: int
) -> None:
    net.sysctl_set("tcp_syncookies", 0)
    net.sysctl_set("tcp_max_syn_backlog", maximum)
    listen(1000)
    assert synacks(peer, maximum) == answered
    assert net.mib.net_statistics[LINUX_MIB_LISTENDROPS] == maximum - answered
    assert net.mib.net_statistics[LINUX_MIB_TCPREQQFULLDROP] == 0


def _full(listen: Listen, peer: RawPeer) -> tuple[Socket, RawTcp]:
    """A full accept queue, and a request whose third ACK is still to come."""
    sock = listen(1)
    late = peer.tcp(80, sport=50000)
    late.send("S", mss=1460)
    late.expect("SA")
    for i in range(2):
        connect(peer, 40000 + i)
    return sock, late


def test_new_syn_recv_ack_with_a_full_accept_queue(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock, late = _full(listen, peer)
    late.send("A")
    peer.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_LISTENOVERFLOWS] == 1
    assert net.mib.net_statistics[LINUX_MIB_LISTENDROPS] == 1
    late.expect("SA", within_ns=2 * SEC)
    sock.accept()
    late.send("A")
    peer.expect_nothing()
    assert [sock.accept()[1][1] for _ in range(2)] == [40001, 50000]


def test_new_syn_recv_ack_with_a_full_accept_queue_and_abort_on_overflow(
    listen: Listen, peer: RawPeer, net: Stack
) -> None:
    net.sysctl_set("tcp_abort_on_overflow", 1)
    _, late = _full(listen, peer)
    late.send("A")
    late.expect("R", seq=1)
    assert net.mib.net_statistics[LINUX_MIB_EMBRYONICRSTS] == 1
    peer.expect_nothing(3 * SEC)


def test_listen_accept_order_is_that_of_the_third_acks(listen: Listen, peer: RawPeer) -> None:
    sock = listen()
    conns = {}
    for port in (40001, 40002, 40003):
        conns[port] = peer.tcp(80, sport=port)
        conns[port].send("S", mss=1460)
        conns[port].expect("SA")
    for port in (40002, 40003, 40001):
        conns[port].send("A")
    peer.expect_nothing()
    assert [sock.accept()[1][1] for _ in range(3)] == [40002, 40003, 40001]


def test_listen_empty_accept_queue(listen: Listen) -> None:
    with pytest.raises(BlockingIOError):
        listen().accept()


def test_listen_again_with_a_smaller_backlog_loses_nothing(listen: Listen, peer: RawPeer) -> None:
    sock = listen(5)
    for i in range(6):
        connect(peer, 40000 + i)
    sock.listen(1)
    assert backlog_of(sock) == (6, 1)
    peer.tcp(80, sport=50000).send("S", mss=1460)
    peer.expect_nothing()
    assert [sock.accept()[1][1] for _ in range(6)] == list(range(40000, 40006))


def test_listen_somaxconn_clamps_the_backlog(listen: Listen, net: Stack) -> None:
    net.sysctl_set("core.somaxconn", 7)
    assert backlog_of(listen(100)) == (0, 7)


def test_listen_over_half_full_takes_retries_from_old_requests(
    listen: Listen, peer: RawPeer, sim: Sim
) -> None:
    sock = listen(16)
    for i in range(17):
        peer.tcp(80, sport=40000 + i).send("S", mss=1460)
    sim.run_for(40 * SEC)
    by_port: dict[int, int] = {}
    while peer.inbox:
        segment = peer.expect_segment()
        by_port[segment.dport] = by_port.get(segment.dport, 0) + 1
    assert set(by_port.values()) == {3, 6}
    left = sock.sk.icsk_accept_queue.qlen  # type: ignore[attr-defined]
    assert 0 < left < 17


def test_listen_close_resets_children_and_forgets_requests(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    waiting = connect(peer, 40000)
    half = peer.tcp(80, sport=40001)
    half.send("S", mss=1460)
    half.expect("SA")
    sock.close()
    waiting.expect("RA", seq=1, ack=1)
    peer.expect_nothing()
    half.send("A")
    half.expect("R", seq=1)
    peer.expect_nothing(70 * SEC)
    assert not any(net.tcp_hashinfo.ehash.values())
    assert net.tcp_hashinfo.bhash == {}
    assert net.tcp_hashinfo.bhash2 == {}
    assert not any(net.tcp_hashinfo.listening_hash.values())


def test_established_rst_before_accept(listen: Listen, peer: RawPeer) -> None:
    sock = listen()
    conn = connect(peer, 40000)
    conn.send("R")
    peer.expect_nothing()
    child, _ = sock.accept()
    with pytest.raises(ConnectionResetError) as caught:
        child.recv(1)
    assert caught.value.errno == errno.ECONNRESET


def test_listen_child_inherits_options(listen: Listen, peer: RawPeer) -> None:
    keepalive = ((1, 9, 1), (6, 4, 33), (6, 5, 44), (6, 6, 5))
    options = (*keepalive, (6, 1, 1), (6, 18, 777), (0, 1, 0x10), (0, 2, 33), (1, 8, 30000))
    sock = listen(before=options)
    connect(peer, 40000)
    child, _ = sock.accept()
    got = [child.getsockopt(level, name) for level, name, _ in options]
    assert got == [1, 33, 44, 5, 1, 777, 0x10, 33, 60000]


def test_listen_reuseport_splits_by_hash(listen: Listen, peer: RawPeer) -> None:
    socks = [listen(64, before=((1, 15, 1),)) for _ in range(4)]
    for i in range(64):
        connect(peer, 40000 + i)
    share = [s.sk.sk_ack_backlog for s in socks]
    assert sum(share) == 64
    assert min(share) >= 4
    assert share != [16, 16, 16, 16]
