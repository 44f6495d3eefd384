# SPDX-License-Identifier: GPL-2.0-or-later
"""A selector in the place of SO_ATTACH_REUSEPORT_CBPF."""

from __future__ import annotations

import errno

import pytest

from stack.api.bsd import SOCK_DGRAM, Socket
from stack.api.sim import RawPeer, Sim
from stack.include.sk_buff import sk_buff
from stack.include.tcp import tcp_hdr
from stack.stack import Stack

SOL_SOCKET, SO_REUSEPORT = 1, 15


@pytest.fixture
def net() -> Stack:
    return Sim(seed=3).add_stack("10.0.2.2/24")


def member(net: Stack, start: bool = True) -> Socket:
    sock = Socket(net)
    sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
    if start:
        sock.bind(("", 80))
        sock.listen(64)
    return sock


def group(sim: Sim, n: int = 3) -> tuple[Stack, RawPeer, list[Socket]]:
    net = sim.add_stack("10.0.2.2/24")
    return net, sim.add_peer("10.0.2.15", net), [member(net) for _ in range(n)]


def share(socks: list[Socket]) -> list[int]:
    return [sock.sk.sk_ack_backlog for sock in socks]


def connect(peer: RawPeer, count: int, first: int = 40000) -> None:
    for i in range(count):
        peer.tcp(80, sport=first + i).handshake()


def by_port(skb: sk_buff) -> int:
    return tcp_hdr(skb).source % 3


def test_listen_group_selector_chooses_the_member() -> None:
    _, peer, socks = group(Sim(seed=3))
    socks[1].attach_reuseport(by_port)
    connect(peer, 9)
    assert share(socks) == [3, 3, 3]
    for sock in socks:
        ports = [sock.accept()[1][1] for _ in range(3)]
        assert {port % 3 for port in ports} == {socks.index(sock)}


@pytest.mark.parametrize("answer", [-1, 3, 1 << 40])
def test_listen_group_selector_outside_the_group_falls_back_to_the_hash(answer: int) -> None:
    shares = []
    for selector in (None, lambda skb: answer):
        _, peer, socks = group(Sim(seed=3))
        if selector is not None:
            socks[0].attach_reuseport(selector)
        connect(peer, 24)
        shares.append(share(socks))
    assert shares[0] == shares[1]
    assert sum(shares[0]) == 24


def test_listen_group_selector_detached_gives_the_hash_back() -> None:
    _, peer, socks = group(Sim(seed=3))
    socks[0].attach_reuseport(lambda skb: 2)
    connect(peer, 4)
    assert share(socks) == [0, 0, 4]
    socks[2].attach_reuseport(None)
    connect(peer, 24, 50000)
    assert min(share(socks)[:2]) > 0
    with pytest.raises(OSError, match="attach_reuseport") as caught:
        socks[2].attach_reuseport(None)
    assert caught.value.errno == errno.ENOENT


def test_close_selector_attached_before_listen_holds_for_those_who_join() -> None:
    sim = Sim(seed=3)
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net)
    founder = member(net, start=False)
    founder.attach_reuseport(lambda skb: 1)
    founder.bind(("", 80))
    founder.listen(64)
    other = member(net)
    connect(peer, 5)
    assert share([founder, other]) == [0, 5]


def test_listen_group_member_that_leaves_gives_its_number_to_the_last() -> None:
    _, peer, socks = group(Sim(seed=3))
    socks[0].attach_reuseport(lambda skb: 0)
    socks[0].close()
    connect(peer, 2)
    assert share(socks[1:]) == [0, 2]


def test_close_selector_needs_reuseport_and_a_stream(net: Stack) -> None:
    plain = Socket(net)
    with pytest.raises(OSError, match="invalid") as caught:
        plain.attach_reuseport(by_port)
    assert caught.value.errno == errno.EINVAL
    plain.bind(("", 81))
    plain.listen()
    with pytest.raises(OSError, match="invalid") as caught:
        plain.attach_reuseport(by_port)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="not supported") as caught:
        Socket(net, type=SOCK_DGRAM).attach_reuseport(by_port)
    assert caught.value.errno == errno.EOPNOTSUPP
