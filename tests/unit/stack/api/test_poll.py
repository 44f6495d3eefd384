# SPDX-License-Identifier: GPL-2.0-or-later
"""Epoll: level and edge triggered, one shot, wake-ups, closing."""

from __future__ import annotations

from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.poll import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP, Epoll
from stack.api.sim import RawTcp, Sim


class Service:
    """A listener on port 7 with as many accepted connections as asked for."""

    def __init__(self) -> None:
        self.sim = Sim(seed=3)
        self.net = self.sim.add_stack("10.0.2.2/24")
        self.peer = self.sim.add_peer("10.0.2.15", self.net)
        self.listener = Socket(self.net)
        self.listener.bind(("", 7))
        self.listener.listen()
        self.ep = Epoll()
        self.sport = 40000

    def connection(self) -> tuple[RawTcp, Socket]:
        self.sport += 1
        conn = self.peer.tcp(dport=7, sport=self.sport)
        conn.handshake()
        return conn, self.listener.accept()[0]

    def data(self, conn: RawTcp, data: bytes = b"x") -> None:
        conn.send("PA", data)
        self.sim.settle()


@pytest.fixture
def service() -> Service:
    return Service()


def test_listening_connection_makes_it_ready(service: Service) -> None:
    service.ep.register(service.listener, EPOLLIN)
    assert service.ep.poll() == []
    service.peer.tcp(dport=7).handshake()
    assert service.ep.poll() == [(service.listener, EPOLLIN)]
    service.listener.accept()
    assert service.ep.poll() == []


def test_established_level_triggered_is_told_until_read(service: Service) -> None:
    conn, sock = service.connection()
    service.ep.register(sock, EPOLLIN)
    service.data(conn)
    assert service.ep.poll() == service.ep.poll() == [(sock, EPOLLIN)]
    sock.recv(9)
    assert service.ep.poll() == []


def test_established_edge_triggered_is_told_once_per_arrival(service: Service) -> None:
    conn, sock = service.connection()
    service.ep.register(sock, EPOLLIN | EPOLLET)
    service.data(conn)
    assert service.ep.poll() == [(sock, EPOLLIN)]
    assert service.ep.poll() == []
    service.data(conn)
    assert service.ep.poll() == [(sock, EPOLLIN)]


def test_established_one_shot_is_quiet_until_modified(service: Service) -> None:
    conn, sock = service.connection()
    service.ep.register(sock, EPOLLIN | EPOLLONESHOT)
    service.data(conn)
    assert service.ep.poll() == [(sock, EPOLLIN)]
    service.data(conn)
    assert service.ep.poll() == []
    service.ep.modify(sock, EPOLLIN | EPOLLONESHOT)
    assert service.ep.poll() == [(sock, EPOLLIN)]


def test_established_writable_at_once_and_fin_as_rdhup(service: Service) -> None:
    conn, sock = service.connection()
    service.ep.register(sock, EPOLLOUT | EPOLLRDHUP)
    assert service.ep.poll() == [(sock, EPOLLOUT)]
    conn.send("FA")
    service.sim.settle()
    assert service.ep.poll() == [(sock, EPOLLOUT | EPOLLRDHUP)]


def test_established_reset_is_told_unasked(service: Service) -> None:
    conn, sock = service.connection()
    service.ep.register(sock, 0)
    conn.send("R")
    service.sim.settle()
    assert service.ep.poll() == [(sock, EPOLLERR | EPOLLHUP)]


def test_many_ready_few_asked_take_turns(service: Service) -> None:
    pairs = [service.connection() for _ in range(3)]
    for conn, sock in pairs:
        service.ep.register(sock, EPOLLIN)
        service.data(conn)
    seen = [service.ep.poll(2) for _ in range(3)]
    counts = [sum(sock is one for found in seen for one, _ in found) for _, sock in pairs]
    assert [len(found) for found in seen] == [2, 2, 2]
    assert counts == [2, 2, 2]


def test_on_ready_is_called_when_the_list_fills(service: Service) -> None:
    conn, sock = service.connection()
    calls: list[int] = []
    service.ep.register(sock, EPOLLIN)
    service.ep.on_ready = lambda: calls.append(len(service.ep))
    service.data(conn)
    service.data(conn)
    assert calls == [1]
    sock.recv(9)
    assert service.ep.poll() == []
    service.data(conn)
    assert calls == [1, 1]


def test_closed_socket_leaves(service: Service) -> None:
    conn, sock = service.connection()
    service.ep.register(sock, EPOLLIN)
    service.data(conn)
    sock.close()
    assert len(service.ep) == 0
    assert service.ep.poll() == []
    with pytest.raises(OSError, match="closed"):
        service.ep.register(sock)


def test_two_lists_on_one_socket_and_unregister(service: Service) -> None:
    conn, sock = service.connection()
    other = Epoll()
    service.ep.register(sock, EPOLLIN)
    other.register(sock, EPOLLIN)
    service.ep.unregister(sock)
    service.data(conn)
    assert service.ep.poll() == []
    assert other.poll() == [(sock, EPOLLIN)]
    other.close()
    assert len(other) == 0
    assert sock.sk.sk_wq == []


@pytest.mark.parametrize("call", [lambda ep, s: ep.modify(s, EPOLLIN), lambda ep, s: ep.unregister(s)])
def test_unknown_socket_is_not_found(service: Service, call: Any) -> None:
    with pytest.raises(FileNotFoundError):
        call(service.ep, service.listener)
    service.ep.register(service.listener)
    with pytest.raises(FileExistsError):
        service.ep.register(service.listener)
