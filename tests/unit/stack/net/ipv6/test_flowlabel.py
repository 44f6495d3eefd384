# SPDX-License-Identifier: GPL-2.0-or-later
"""Flow labels of what TCP and ICMPv6 send: which packets have the same one, and what the sysctls change."""

from __future__ import annotations

import pytest

from stack.api.bsd import AF_INET6, Socket
from stack.api.sim import SEC, RawPeer, RawTcp, Sim
from stack.include.ipv6 import IPV6_AUTOFLOWLABEL, IPV6_FLOWLABEL_STATELESS_FLAG
from stack.net.ipv6.ipv6_sockglue import SOL_IPV6
from stack.stack import Stack

GIVEN = 0x12345


@pytest.fixture
def listener(net: Stack) -> Socket:
    return listening(net)


def listening(net: Stack, autoflowlabel: int | None = None) -> Socket:
    sock = Socket(net, AF_INET6)
    if autoflowlabel is not None:
        sock.setsockopt(SOL_IPV6, IPV6_AUTOFLOWLABEL, autoflowlabel)
    sock.bind(("::", 80))
    sock.listen(5)
    return sock


def client(peer: RawPeer, sport: int = 40000) -> RawTcp:
    return peer.tcp(80, dst="fd00::2", sport=sport)


def label_of(conn: RawTcp, flags: str, within_ns: int = 0) -> int:
    return conn.expect(flags, within_ns=within_ns).packet.flowlabel


def test_connection_keeps_the_label_of_its_synack(listener: Socket, peer: RawPeer, sim: Sim) -> None:
    conn = client(peer)
    conn.send("S", mss=1440)
    label = label_of(conn, "SA")
    conn.send("A")
    sim.settle()
    listener.accept()[0].send(b"hello")
    assert label_of(conn, "PA") == label != 0


def test_synack_sent_again_has_another_label(listener: Socket, peer: RawPeer) -> None:
    conn = client(peer)
    conn.send("S", mss=1440)
    first = label_of(conn, "SA")
    assert label_of(conn, "SA", within_ns=2 * SEC) != first


def test_retransmission_timeout_changes_the_label(listener: Socket, peer: RawPeer, sim: Sim) -> None:
    conn = client(peer)
    conn.handshake(mss=1440)
    sim.settle()
    listener.accept()[0].send(b"hello")
    first, probe, *timeouts = [label_of(conn, "PA", within_ns=2 * SEC) for _ in range(4)]
    assert probe == first  # a tail loss probe is no timeout
    assert len({first, *timeouts}) == 3


def test_time_wait_ack_has_the_label_of_the_connection(listener: Socket, peer: RawPeer, sim: Sim) -> None:
    conn = client(peer)
    conn.handshake(mss=1440)
    sim.settle()
    listener.accept()[0].close()
    label = label_of(conn, "FA")
    conn.send("FA")
    assert label_of(conn, "A") == label


def test_rst_to_a_request_has_the_flows_label_not_the_requests(listener: Socket, peer: RawPeer) -> None:
    conn = client(peer)
    conn.send("S", mss=1440)
    synack = label_of(conn, "SA")
    conn.send("A", ack=7)
    rst = label_of(conn, "R")
    assert rst not in (0, synack)
    conn.send("A", ack=7)
    assert label_of(conn, "R") == rst


@pytest.mark.parametrize(("reflect", "expected"), [(0, False), (1, True), (2, False), (4, False)])
def test_established_reflects_the_clients_label(
    net: Stack, peer: RawPeer, sim: Sim, reflect: int, expected: bool
) -> None:
    net.sysctl_set("ipv6.flowlabel_reflect", reflect)
    sock, conn = listening(net), client(peer)
    conn.send("S", mss=1440, flowlabel=GIVEN)
    assert (label_of(conn, "SA") == GIVEN) is expected
    conn.send("A", flowlabel=GIVEN)
    sim.settle()
    sock.accept()[0].send(b"hello")
    assert (label_of(conn, "PA") == GIVEN) is expected


@pytest.mark.parametrize(("reflect", "expected"), [(0, False), (1, False), (2, True)])
def test_closed_port_reflects_the_label(net: Stack, peer: RawPeer, reflect: int, expected: bool) -> None:
    net.sysctl_set("ipv6.flowlabel_reflect", reflect)
    conn = client(peer)
    conn.send("S", flowlabel=GIVEN)
    assert (label_of(conn, "RA") == GIVEN) is expected


@pytest.mark.parametrize(("reflect", "expected"), [(0, False), (2, False), (4, True)])
def test_echo_reply_reflects_the_label(net: Stack, peer: RawPeer, reflect: int, expected: bool) -> None:
    net.sysctl_set("ipv6.flowlabel_reflect", reflect)
    peer.send_icmp6("fd00::2", 128, 0, flowlabel=GIVEN)
    assert (peer.expect_icmp6(129, 0).flowlabel == GIVEN) is expected


@pytest.mark.parametrize(
    ("mode", "option", "labelled"),
    [
        (0, None, False),
        (0, 1, False),
        (1, None, True),
        (1, 0, False),
        (2, None, False),
        (2, 1, True),
        (3, None, True),
        (3, 0, True),
    ],
)
def test_listener_labels_as_auto_flowlabels_and_the_option_say(
    net: Stack, peer: RawPeer, mode: int, option: int | None, labelled: bool
) -> None:
    net.sysctl_set("ipv6.auto_flowlabels", mode)
    sock, conn = listening(net, option), client(peer)
    expected = mode in (1, 3) if option is None else bool(option)
    assert sock.getsockopt(SOL_IPV6, IPV6_AUTOFLOWLABEL) == expected
    conn.send("S", mss=1440)
    assert (label_of(conn, "SA") != 0) is labelled


def test_state_ranges_mark_what_is_made_from_a_hash(net: Stack, listener: Socket, peer: RawPeer) -> None:
    net.sysctl_set("ipv6.flowlabel_state_ranges", 1)
    for sport in range(40000, 40008):
        conn = client(peer, sport)
        conn.send("S", mss=1440)
        assert label_of(conn, "SA") & IPV6_FLOWLABEL_STATELESS_FLAG
