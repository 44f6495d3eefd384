# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts 23 to 34: the two queues of a listener."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from measured import FULL, LINUX_6_1, Host

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawTcp
from stack.net import socket as net_socket
from stack.net.ipv4 import tcp
from stack.profile import memory_sysctl

MakeHost = Callable[..., Host]


def _recv_q_send_q(sock: Socket) -> tuple[int, int]:
    """What ``ss`` shows of a listener: connections that wait, backlog."""
    info = tcp.tcp_get_info(sock.sk)  # type: ignore[arg-type]
    return info["tcpi_unacked"], info["tcpi_sacked"]


def _half_open(sock: Socket) -> int:
    queue: Any = sock.sk.icsk_accept_queue  # type: ignore[attr-defined]
    return int(queue.qlen)


def _full_but_for_a_third_ack(host: Host) -> tuple[Socket, RawTcp]:
    """A full accept queue of two, and a request from port 50000 whose SYN-ACK went out before."""
    sock = host.listen(1)
    late, _ = host.syn(50000, **FULL)
    late.ts_on = True
    host.connect(40000)
    host.connect(40001)
    assert _recv_q_send_q(sock) == (2, 1)
    return sock, late


# -- 23 to 26: how much they hold ------------------------------------------------------------------------------


@pytest.mark.fact(23, "listen(n) holds n+1 completed connections")
@pytest.mark.parametrize("backlog", [0, 1, 4, 16])
def test_fact_23_accept_queue_holds_backlog_plus_one(host: Host, backlog: int) -> None:
    sock = host.listen(backlog)
    for i in range(backlog + 1):
        host.connect(40000 + i)
    assert _recv_q_send_q(sock) == (backlog + 1, backlog)
    assert host.count("ListenOverflows") == 0
    host.peer.tcp(80, sport=50000).send("S", **FULL)
    host.peer.expect_nothing()
    assert (host.count("ListenOverflows"), host.count("ListenDrops")) == (1, 1)
    assert len([sock.accept() for _ in range(backlog + 1)]) == backlog + 1


@pytest.mark.fact(24, "the SYN queue holds backlog+1 requests, cookies off")
@pytest.mark.parametrize(("backlog", "answered"), [(0, 1), (1, 2), (4, 5), (16, 17)])
def test_fact_24_syn_queue_holds_backlog_plus_one(make_host: MakeHost, backlog: int, answered: int) -> None:
    host = make_host(sysctl={"tcp_syncookies": 0})
    sock = host.listen(backlog)
    assert host.synacks(40) == answered
    assert _half_open(sock) == answered


@pytest.mark.fact(25, "SYN queue full, cookies off: dropped, TCPReqQFullDrop and ListenDrops")
def test_fact_25_syn_queue_full_without_cookies(make_host: MakeHost) -> None:
    host = make_host(sysctl={"tcp_syncookies": 0})
    host.listen(4)
    assert host.synacks(40) == 5
    assert (host.count("TCPReqQFullDrop"), host.count("ListenDrops")) == (35, 35)
    assert (host.count("TCPReqQFullDoCookies"), host.count("SyncookiesSent")) == (0, 0)
    assert host.count("ListenOverflows") == 0


@pytest.mark.fact(25, "SYN queue full, cookies on: all answered, TCPReqQFullDoCookies and SyncookiesSent")
def test_fact_25_syn_queue_full_with_cookies(host: Host) -> None:
    sock = host.listen(4)
    assert host.synacks(40) == 40
    assert (host.count("TCPReqQFullDoCookies"), host.count("SyncookiesSent")) == (35, 35)
    assert (host.count("TCPReqQFullDrop"), host.count("ListenDrops")) == (0, 0)
    assert _half_open(sock) == 5


@pytest.mark.fact(26, "accept queue full: new SYNs are dropped, cookies or not")
@pytest.mark.parametrize("syncookies", [0, 1, 2])
def test_fact_26_accept_queue_full(make_host: MakeHost, syncookies: int) -> None:
    host = make_host(sysctl={"tcp_syncookies": syncookies})
    host.listen(1)
    host.connect(40000)
    host.connect(40001)
    assert host.synacks(10, first=41000) == 0
    assert (host.count("ListenOverflows"), host.count("ListenDrops")) == (10, 10)
    assert host.count("TCPReqQFullDrop") == 0


# -- 27 and 28: the third ACK meets a full accept queue --------------------------------------------------------


@pytest.mark.fact(27, "third ACK with a full accept queue: dropped, the request goes on and completes later")
def test_fact_27_third_ack_with_a_full_accept_queue(host: Host) -> None:
    sock, late = _full_but_for_a_third_ack(host)
    late.send("A")
    host.peer.expect_nothing(500 * MSEC)
    assert (host.count("ListenOverflows"), host.count("ListenDrops")) == (1, 1)
    assert _half_open(sock) == 1
    late.expect("SA", seq=0, ack=1, within_ns=1 * SEC)
    late.send("A")
    host.peer.expect_nothing()
    assert (host.count("ListenOverflows"), host.count("ListenDrops")) == (2, 2)
    sock.accept()
    late.expect("SA", seq=0, ack=1, within_ns=3 * SEC)
    late.send("A")
    host.peer.expect_nothing(40 * SEC)
    assert _half_open(sock) == 0
    assert [sock.accept()[1][1] for _ in range(2)] == [40001, 50000]
    assert (host.count("ListenOverflows"), host.count("ListenDrops")) == (2, 2)


@pytest.mark.fact(28, "tcp_abort_on_overflow=1: RST with seq = ack, EmbryonicRsts, the request is gone")
def test_fact_28_abort_on_overflow(make_host: MakeHost) -> None:
    host = make_host(sysctl={"tcp_abort_on_overflow": 1})
    sock, late = _full_but_for_a_third_ack(host)
    late.send("A")
    late.expect("R", seq=1)
    assert host.count("EmbryonicRsts") == 1
    assert _half_open(sock) == 0
    host.peer.expect_nothing(70 * SEC)
    late.send("A")
    late.expect("R", seq=1)


# -- 29 and 30: backlogs and limits ----------------------------------------------------------------------------


@pytest.mark.fact(29, "somaxconn clamps the backlog")
@pytest.mark.parametrize(("asked", "got"), [(0, 0), (5, 5), (4095, 4095), (4096, 4096), (5000, 4096)])
def test_fact_29_somaxconn_clamps_the_backlog(host: Host, asked: int, got: int) -> None:
    assert host.net.sysctl_get("core.somaxconn") == 4096
    assert _recv_q_send_q(host.listen(asked)) == (0, got)


@pytest.mark.fact(29, "a negative backlog is somaxconn for the kernel, 0 for Python's listen()")
@pytest.mark.parametrize("asked", [-1, -5])
def test_fact_29_negative_backlog(host: Host, asked: int) -> None:
    assert _recv_q_send_q(host.listen(asked)) == (0, 0)
    sock = Socket(host.net)
    sock.bind(("", 81))
    assert net_socket.sys_listen(host.net, sock.fileno(), asked) == 0
    assert _recv_q_send_q(sock) == (0, 4096)


@pytest.mark.fact(30, "tcp_max_syn_backlog of the profile")
def test_fact_30_max_syn_backlog(host: Host, profile: str) -> None:
    assert host.net.sysctl_get("tcp_max_syn_backlog") == {"linux-6.1": 128, "linux-6.18": 2048}[profile]


@pytest.mark.fact(30, "tcp_max_syn_backlog by the machine's memory")
@LINUX_6_1
@pytest.mark.parametrize(("mib", "backlog"), [(512, 128), (1024, 128), (2048, 128), (4096, 256), (8192, 512)])
def test_fact_30_max_syn_backlog_by_memory(make_host: MakeHost, mib: int, backlog: int) -> None:
    assert make_host(sysctl=memory_sysctl(mib)).net.sysctl_get("tcp_max_syn_backlog") == backlog


@pytest.mark.fact(30, "cookies off: the last quarter of tcp_max_syn_backlog refuses unproven peers")
@LINUX_6_1
@pytest.mark.parametrize(("maximum", "answered"), [(16, 13), (64, 49), (100, 76), (128, 97)])
def test_fact_30_unproven_peers(make_host: MakeHost, maximum: int, answered: int) -> None:
    host = make_host(sysctl={"tcp_syncookies": 0, "tcp_max_syn_backlog": maximum})
    sock = host.listen(1000)
    assert host.synacks(maximum) == answered == _half_open(sock)
    assert (host.count("ListenDrops"), host.count("TCPReqQFullDrop")) == (maximum - answered, 0)


def _make_proven(host: Host, sock: Socket) -> None:
    """One connection of 20 ms that closes cleanly, so that its RTT stays in the metrics."""
    conn, _ = host.syn(50000, **FULL)
    conn.ts_on = True
    host.sim.run_for(20 * MSEC)
    conn.send("A")
    host.sim.settle()
    sock.accept()[0].close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")


@pytest.mark.fact(30, "a proven peer gets the last quarter too")
@LINUX_6_1
def test_fact_30_proven_peer(make_host: MakeHost) -> None:
    host = make_host(sysctl={"tcp_syncookies": 0})
    sock = host.listen(1000)
    _make_proven(host, sock)
    assert host.synacks(124) == 124
    assert host.count("ListenDrops") == 0


@pytest.mark.fact(30, "with cookies on there is no such limit")
@LINUX_6_1
def test_fact_30_no_limit_with_cookies(make_host: MakeHost) -> None:
    host = make_host(sysctl={"tcp_max_syn_backlog": 16})
    sock = host.listen(1000)
    assert host.synacks(124) == 124 == _half_open(sock)
    assert (host.count("SyncookiesSent"), host.count("ListenDrops")) == (0, 0)


# -- 31 to 34: retries, what is shown, order -------------------------------------------------------------------


@pytest.mark.fact(31, "over half full old requests lose retries: some get 3 SYN-ACKs, others 6")
def test_fact_31_over_half_full(host: Host) -> None:
    sock = host.listen(16)
    assert host.synacks(17) == 17
    host.sim.run_for(40 * SEC)
    seen = Counter(segment.dport for segment in host.drain())
    assert {1 + resent for resent in seen.values()} == {3, 6}
    assert _half_open(sock) == 8
    assert len(seen) == 17
    host.sim.run_for(30 * SEC)
    assert _half_open(sock) == 0


@pytest.mark.fact(32, "TCP_INFO of a listener: unacked is the queue's length, sacked the backlog")
def test_fact_32_tcp_info_of_a_listener(host: Host) -> None:
    sock = host.listen(5)
    for i in range(3):
        host.connect(40000 + i)
    raw = sock.getsockopt(6, 11, 104)
    unacked, sacked = (int.from_bytes(raw[at : at + 4], "little") for at in (24, 28))
    assert (unacked, sacked) == (3, 5) == _recv_q_send_q(sock)


@pytest.mark.fact(33, "accept order is first in, first out by the third ACK")
def test_fact_33_accept_order(host: Host) -> None:
    sock = host.listen()
    conns = {sport: host.syn(sport, mss=1460)[0] for sport in (40001, 40002, 40003)}
    for sport in (40002, 40003, 40001):
        conns[sport].send("A")
    host.peer.expect_nothing()
    assert [sock.accept()[1][1] for _ in range(3)] == [40002, 40003, 40001]


@pytest.mark.fact(34, "listen() again with a smaller backlog drops nothing that is queued")
def test_fact_34_smaller_backlog_keeps_the_accept_queue(host: Host) -> None:
    sock = host.listen(5)
    for i in range(6):
        host.connect(40000 + i)
    sock.listen(1)
    assert _recv_q_send_q(sock) == (6, 1)
    accepted = []
    for waiting in range(6, 1, -1):
        assert _recv_q_send_q(sock) == (waiting, 1)
        assert host.synacks(1, first=50000 + waiting) == 0
        accepted.append(sock.accept()[1][1])
    assert _recv_q_send_q(sock) == (1, 1)
    assert host.synacks(1, first=51000) == 1
    accepted.append(sock.accept()[1][1])
    assert accepted == list(range(40000, 40006))


@pytest.mark.fact(34, "half-open requests survive a smaller backlog, which refuses new SYNs")
def test_fact_34_smaller_backlog_keeps_the_syn_queue(make_host: MakeHost) -> None:
    host = make_host(sysctl={"tcp_syncookies": 0})
    sock = host.listen(5)
    conns = [host.syn(40000 + i, mss=1460)[0] for i in range(5)]
    sock.listen(2)
    assert _half_open(sock) == 5
    assert host.synacks(1, first=50000) == 0
    assert host.count("TCPReqQFullDrop") == 1
    for conn in conns[:3]:
        conn.send("A")
    host.peer.expect_nothing()
    assert [sock.accept()[1][1] for _ in range(3)] == [40000, 40001, 40002]
    assert _half_open(sock) == 2


@pytest.mark.fact(34, "listen(8) raises the backlog again")
def test_fact_34_larger_backlog(host: Host) -> None:
    sock = host.listen(1)
    host.connect(40000)
    host.connect(40001)
    assert host.synacks(1, first=50000) == 0
    sock.listen(8)
    for i in range(2, 9):
        host.connect(40000 + i)
    assert _recv_q_send_q(sock) == (9, 8)
    assert host.synacks(1, first=50001) == 0
