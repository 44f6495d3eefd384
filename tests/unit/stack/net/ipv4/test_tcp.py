# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's socket calls: options, readiness, reading, TCP_INFO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC
from stack.include.net import MSG_PEEK
from stack.include.sock import EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from stack.include.tcp import (
    TCP_CONGESTION,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_INFO,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_LINGER2,
    TCP_MAXSEG,
    TCP_NODELAY,
    TCP_QUICKACK,
    TCP_SYNCNT,
    TCP_USER_TIMEOUT,
    TCP_WINDOW_CLAMP,
)
from stack.net.ipv4 import tcp
from stack.stack import Stack

IPPROTO_TCP = 6
Make = Callable[..., Any]


@pytest.fixture
def fresh(net: Stack) -> Any:
    return Socket(net)._sock.sk


@pytest.mark.parametrize(
    ("option", "value", "reads"),
    [
        (TCP_NODELAY, 1, 1),
        (TCP_CORK, 1, 1),
        (TCP_MAXSEG, 500, 500),
        (TCP_KEEPIDLE, 10, 10),
        (TCP_KEEPINTVL, 5, 5),
        (TCP_KEEPCNT, 3, 3),
        (TCP_SYNCNT, 4, 4),
        (TCP_LINGER2, 30, 30),
        (TCP_LINGER2, -5, -1),
        (TCP_LINGER2, 500, 120),
        (TCP_DEFER_ACCEPT, 5, 7),
        (TCP_DEFER_ACCEPT, 0, 0),
        (TCP_USER_TIMEOUT, 1234, 1234),
        (TCP_WINDOW_CLAMP, 20000, 20000),
        (TCP_QUICKACK, 0, 0),
    ],
)
def test_close_option_reads_back(fresh: Any, option: int, value: int, reads: int) -> None:
    assert tcp.tcp_setsockopt(fresh, IPPROTO_TCP, option, value) == 0
    assert tcp.tcp_getsockopt(fresh, IPPROTO_TCP, option) == (0, reads)


@pytest.mark.parametrize(
    ("option", "value"),
    [(TCP_MAXSEG, 87), (TCP_MAXSEG, 40000), (TCP_KEEPIDLE, 0), (TCP_KEEPIDLE, 40000), (TCP_KEEPCNT, 128)],
)
def test_close_option_out_of_range_is_einval(fresh: Any, option: int, value: int) -> None:
    assert tcp.tcp_setsockopt(fresh, IPPROTO_TCP, option, value) == -22


def test_close_unknown_option_is_enoprotoopt(fresh: Any) -> None:
    assert tcp.tcp_setsockopt(fresh, IPPROTO_TCP, 999, 1) == -92
    assert tcp.tcp_getsockopt(fresh, IPPROTO_TCP, 999) == (-92, 0)


def test_close_congestion_control_by_name(fresh: Any) -> None:
    assert tcp.tcp_setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, b"reno\0") == 0
    assert tcp.tcp_getsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION) == (0, b"reno".ljust(16, b"\0"))
    assert tcp.tcp_setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, b"vegas") == -2


def test_close_congestion_control_not_allowed_is_eperm_until_it_is(fresh: Any) -> None:
    net = fresh.sk_net
    assert net.sysctl_get("tcp_allowed_congestion_control") == "reno cubic bbr"
    assert tcp.tcp_setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, b"dctcp") == -1
    net.sysctl_set("tcp_allowed_congestion_control", "dctcp reno")
    assert net.sysctl_get("tcp_allowed_congestion_control") == "reno dctcp"
    assert tcp.tcp_setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, b"dctcp") == 0
    assert tcp.tcp_setsockopt(fresh, IPPROTO_TCP, TCP_CONGESTION, b"bbr") == -1


def test_established_readiness_follows_the_connection(established: Make) -> None:
    e = established()
    assert tcp.tcp_poll(e.sk) & (EPOLLIN | EPOLLOUT | EPOLLHUP) == EPOLLOUT
    e.conn.send("A", b"x")
    e.sim.settle()
    assert tcp.tcp_poll(e.sk) & EPOLLIN
    e.sock.recv(10)
    assert not tcp.tcp_poll(e.sk) & EPOLLIN
    e.conn.send("FA")
    e.sim.settle()
    assert tcp.tcp_poll(e.sk) & (EPOLLIN | EPOLLRDHUP | EPOLLHUP) == EPOLLIN | EPOLLRDHUP
    e.sock.shutdown(1)
    assert tcp.tcp_poll(e.sk) & EPOLLHUP


def test_established_full_send_buffer_is_not_writable_until_acknowledged(established: Make) -> None:
    e = established(delay_ns=MSEC)
    while tcp.tcp_sendmsg(e.sk, b"x" * 65536, 0) > 0:
        pass
    assert not tcp.tcp_poll(e.sk) & EPOLLOUT
    woken: list[int] = []
    e.sk.sk_wq.append(lambda sk, mask: woken.append(mask))
    for _ in range(3):
        e.flight(2 * MSEC)
        e.conn.send("A")
    e.sim.run_for(2 * MSEC)
    assert any(mask & EPOLLOUT for mask in woken)
    assert tcp.tcp_poll(e.sk) & EPOLLOUT


def test_established_peek_leaves_the_data(established: Make) -> None:
    e = established()
    e.conn.send("A", b"abc")
    e.conn.send("A", b"def")
    e.sim.settle()
    assert tcp.tcp_recvmsg(e.sk, 4, MSG_PEEK) == b"abcd"
    assert tcp.tcp_recvmsg(e.sk, 2, 0) == b"ab"
    assert tcp.tcp_recvmsg(e.sk, 100, 0) == b"cdef"


def test_established_views_are_of_the_frames(established: Make) -> None:
    e = established()
    e.conn.send("A", b"a" * 1000)
    e.conn.send("A", b"b" * 1000)
    e.sim.settle()
    views = tcp.tcp_recv_skbs(e.sk, 1500)
    assert isinstance(views, list)
    assert [(bytes(v[:1]), len(v)) for v in views] == [(b"a", 1000), (b"b", 500)]
    assert all(isinstance(v.obj, bytes) and len(v.obj) > 1000 for v in views)
    assert tcp.tcp_recvmsg(e.sk, 1500, 0) == b"b" * 500
    assert e.sk.sk_rmem_alloc == 0


def test_established_mutable_data_are_copied_on_send(established: Make) -> None:
    e = established(delay_ns=MSEC)
    e.sock.send(b"first")
    buffer = bytearray(b"abc")
    e.sock.send(buffer)
    buffer[:] = b"xyz"
    e.flight(MSEC)
    e.conn.send("A")
    assert [s.payload for s in e.flight(2 * MSEC)] == [b"abc"]


def test_established_info_shows_the_connection(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.send(b"x" * 5000)
    e.flight(10 * MSEC)
    info = tcp.tcp_get_info(e.sk)
    assert (info["tcpi_state"], info["tcpi_options"], info["tcpi_unacked"]) == (1, 7, 4)
    assert (info["tcpi_snd_mss"], info["tcpi_advmss"], info["tcpi_rcv_mss"]) == (1448, 1448, 536)
    assert (info["tcpi_rtt"], info["tcpi_snd_wscale"], info["tcpi_rcv_wscale"]) == (20000, 7, 7)
    assert info["tcpi_bytes_sent"] == 5000
    err, raw = tcp.tcp_getsockopt(e.sk, IPPROTO_TCP, TCP_INFO)
    assert (err, len(raw), raw[0], raw[6]) == (0, 232, 1, 0x77)


def test_listen_info_shows_the_queue(listen: Callable[..., Socket]) -> None:
    info = tcp.tcp_get_info(listen(5)._sock.sk)
    assert (info["tcpi_state"], info["tcpi_unacked"], info["tcpi_sacked"]) == (10, 0, 5)
