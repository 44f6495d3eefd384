# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP over IPv6, and sockets that speak both families."""

from __future__ import annotations

import errno

import pytest

from stack.api.bsd import AF_INET6, SOCK_DGRAM, Socket
from stack.api.sim import RawPeer, Sim
from stack.include.ipv6 import (
    ICMPV6_DEST_UNREACH,
    ICMPV6_PORT_UNREACH,
    IPV6_TCLASS,
    IPV6_UNICAST_HOPS,
    IPV6_V6ONLY,
    in6_pton,
)
from stack.include.snmp import UDP_MIB_CSUMERRORS, UDP_MIB_INDATAGRAMS, UDP_MIB_NOPORTS, UDP_MIB_OUTDATAGRAMS
from stack.lib.checksum import csum_ipv6_magic, csum_partial
from stack.net.ipv6.ipv6_sockglue import SOL_IPV6
from stack.stack import Stack

HOST = "fd00::2"
PEER = "fd00::15"


@pytest.fixture
def sim() -> Sim:
    return Sim(seed=7)


@pytest.fixture
def net(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", HOST + "/64")


@pytest.fixture
def peer(sim: Sim, net: Stack) -> RawPeer:
    return sim.add_peer("10.0.2.15", net, addr6=PEER)


def bound(net: Stack, host: str = "::", port: int = 53) -> Socket:
    sock = Socket(net, AF_INET6, SOCK_DGRAM)
    sock.bind((host, port))
    return sock


def test_udp6_datagrams_both_ways(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = bound(net)
    peer.send_udp(HOST, 4000, 53, b"question")
    sim.settle()
    assert sock.recvfrom(100) == (b"question", (PEER, 4000, 0, 0))
    sock.sendto(b"answer", (PEER, 4000))
    packet = peer.expect_udp(53, 4000, b"answer")
    assert (packet.src, packet.dst, packet.ttl, packet.tos) == (HOST, PEER, 64, 0)
    stats = net.mib.udp_stats_in6
    assert (stats[UDP_MIB_INDATAGRAMS], stats[UDP_MIB_OUTDATAGRAMS]) == (1, 1)
    with pytest.raises(BlockingIOError):
        sock.recvfrom(100)


def test_udp6_closed_port_gets_port_unreachable(net: Stack, peer: RawPeer) -> None:
    peer.send_udp(HOST, 4000, 53, b"question")
    peer.expect_icmp6(ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH)
    assert net.mib.udp_stats_in6[UDP_MIB_NOPORTS] == 1


def test_udp6_datagram_without_checksum_is_dropped(net: Stack, peer: RawPeer) -> None:
    sock = bound(net)
    peer.send_udp(HOST, 4000, 53, b"question", checksum=False)
    peer.expect_nothing()
    assert sock.poll() & 1 == 0
    assert net.mib.udp_stats_in6[UDP_MIB_CSUMERRORS] == 1


def test_udp6_length_0_stands_for_all_of_the_packet(net: Stack, peer: RawPeer, sim: Sim) -> None:
    """RFC 2675, section 4; the checksum is over the length that was meant."""
    sock = bound(net)
    good, bad = (udp_of_length_0(peer, length) for length in (13, 0))
    peer.send_ip(17, good, "fd00::2")
    peer.send_ip(17, bad, "fd00::2")
    sim.settle()
    assert sock.recv(100) == b"hello"
    assert net.snapshot()["snmp6"]["Udp6InCsumErrors"] == 1


def udp_of_length_0(peer: RawPeer, length: int) -> bytes:
    raw = b"\x9c\x40\x00\x35\0\0\0\0hello"
    saddr, daddr = in6_pton("fd00::15"), in6_pton("fd00::2")
    check = csum_ipv6_magic(saddr, daddr, length, 17, csum_partial(raw))
    return raw[:6] + check.to_bytes(2, "big") + raw[8:]


def test_udp6_connected_socket_hears_that_its_datagram_was_too_big(
    net: Stack, peer: RawPeer, sim: Sim
) -> None:
    sock = bound(net)
    sock.connect(("fd00::15", 40000))
    sock.send(b"x" * 1400)
    sent = peer.expect_udp(53, 40000)
    peer.send_icmp6("fd00::2", 2, 0, 1300, peer.ip6_packet(17, sent.body[:40], "fd00::15", src="fd00::2"))
    sim.settle()
    with pytest.raises(OSError, match="than the path takes"):
        sock.recv(100)


def test_udp6_connected_socket_hears_its_peer_alone(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = bound(net)
    sock.connect((PEER, 4000))
    assert sock.getpeername() == (PEER, 4000, 0, 0)
    assert sock.getsockname() == (HOST, 53, 0, 0)
    peer.send_udp(HOST, 4001, 53, b"other")
    peer.expect_icmp6(ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH)
    peer.send_udp(HOST, 4000, 53, b"own")
    sim.settle()
    assert sock.recv(100) == b"own"
    sock.send(b"back")
    peer.expect_udp(53, 4000, b"back")
    sock.connect(("::", 0))
    peer.send_udp(HOST, 4001, 53, b"other")
    sim.settle()
    assert sock.recv(100) == b"other"


def test_udp6_options_are_in_the_header(net: Stack, peer: RawPeer) -> None:
    sock = bound(net)
    sock.setsockopt(SOL_IPV6, IPV6_TCLASS, 0x2A)
    sock.setsockopt(SOL_IPV6, IPV6_UNICAST_HOPS, 7)
    sock.sendto(b"x", (PEER, 4000))
    packet = peer.expect_udp(53, 4000)
    assert (packet.tos, packet.ttl) == (0x2A, 7)


def test_udp6_errors_of_send(net: Stack) -> None:
    sock = bound(net)
    for address, data, err in (
        ((PEER, 0), b"x", errno.EINVAL),
        (("2001:db8::1", 9), b"x", errno.ENETUNREACH),
        ((PEER, 9), bytes(65528), errno.EMSGSIZE),
    ):
        with pytest.raises(OSError, match="sendto") as caught:
            sock.sendto(data, address)
        assert caught.value.errno == err


def test_udp6_dual_stack_speaks_ipv4(net: Stack, sim: Sim) -> None:
    peer = sim.add_peer("10.0.2.15", net)
    sock = bound(net)
    peer.send_udp("10.0.2.2", 4000, 53, b"question")
    sim.settle()
    data, address = sock.recvfrom(100)
    assert (data, address) == (b"question", ("::ffff:10.0.2.15", 4000, 0, 0))
    sock.sendto(b"answer", address)
    peer.expect_udp(53, 4000, b"answer")
    sock.connect(address)
    assert sock.getsockname() == ("::ffff:10.0.2.2", 53, 0, 0)
    peer.send_udp("10.0.2.2", 4000, 53, b"more")
    sim.settle()
    assert sock.recv(100) == b"more"


def test_udp6_v6only_leaves_ipv4_to_others(net: Stack, sim: Sim) -> None:
    peer = sim.add_peer("10.0.2.15", net)
    six = Socket(net, AF_INET6, SOCK_DGRAM)
    six.setsockopt(SOL_IPV6, IPV6_V6ONLY, 1)
    six.bind(("::", 53))
    four = Socket(net, type=SOCK_DGRAM)
    four.bind(("", 53))
    peer.send_udp("10.0.2.2", 4000, 53, b"question")
    sim.settle()
    assert four.recv(100) == b"question"
    with pytest.raises(BlockingIOError):
        six.recv(100)
    with pytest.raises(OSError, match="no route"):
        six.sendto(b"x", ("::ffff:10.0.2.15", 4000))


def test_udp6_port_is_shared_by_the_rules_of_both_families(net: Stack) -> None:
    bound(net, "::")
    four = Socket(net, type=SOCK_DGRAM)
    with pytest.raises(OSError, match="in use"):
        four.bind(("", 53))
    bound(net, HOST, 54)
    four.bind(("", 54))
