# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import errno

import pytest

from stack.api.sim import SEC, RawPeer, Sim
from stack.include.inet_sock import IP_PMTUDISC_DONT
from stack.include.ip import in_aton
from stack.include.tcp_states import TCP_ESTABLISHED
from stack.net.ipv4 import proc, udp
from stack.stack import Stack

from .conftest import UdpFactory

HOST = in_aton("10.0.2.15")


@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_echo_request_is_answered_with_the_same_data(net: Stack, peer: RawPeer, size: int) -> None:
    data = bytes(i & 255 for i in range(size))
    peer.send_icmp("10.0.2.3", 8, 0, 0x1234_0007, data)
    answer = peer.expect_icmp(0, 0)
    assert answer.src == "10.0.2.3"
    assert answer.body[4:] == b"\x12\x34\x00\x07" + data
    assert (answer.ttl, answer.df, answer.tos) == (64, False, 0)
    counters = proc.counters(net)
    assert counters["IcmpInEchos"] == counters["IcmpOutEchoReps"] == counters["IcmpOutMsgs"] == 1
    assert counters["IcmpMsgInType8"] == counters["IcmpMsgOutType0"] == 1


def test_echo_request_keeps_its_tos_in_the_answer(net: Stack, peer: RawPeer) -> None:
    peer.send_icmp("10.0.2.2", 8, 0, tos=0x10)
    assert peer.expect_icmp(0, 0).tos == 0x10


def test_echo_request_with_bad_checksum_is_dropped(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(1, b"\x08\x00\x00\x01\x00\x00\x00\x00", "10.0.2.2")
    peer.expect_nothing()
    assert net.drop_reasons == {"ICMP_CSUM": 1}
    counters = proc.counters(net)
    assert counters["IcmpInCsumErrors"] == counters["IcmpInErrors"] == 1


def test_echo_request_to_a_broadcast_address_is_ignored(net: Stack, peer: RawPeer) -> None:
    peer.send_icmp("10.0.2.255", 8, 0, dest_mac=b"\xff" * 6)
    peer.expect_nothing()
    assert net.drop_reasons == {"INVALID_PROTO": 1}
    net.sysctl_set("icmp_echo_ignore_broadcasts", 0)
    peer.send_icmp("10.0.2.255", 8, 0, dest_mac=b"\xff" * 6)
    assert peer.expect_icmp(0, 0).src == "10.0.2.2"


def test_echo_request_is_ignored_when_told_so(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl={"icmp_echo_ignore_all": 1})
    peer = sim.add_peer("10.0.2.15", net)
    peer.send_icmp("10.0.2.2", 8, 0)
    peer.expect_nothing()
    assert net.drop_reasons == {"ICMP_IGNORED": 1}


def test_timestamp_request_is_answered_with_the_time_of_day(net: Stack, peer: RawPeer) -> None:
    peer.send_icmp("10.0.2.2", 13, 0, 0x0001_0002, b"\0\0\0\x63" + bytes(8))
    body = peer.expect_icmp(14, 0).body
    now = (net.clock.real_ns() // 1_000_000 % 86_400_000).to_bytes(4, "big")
    assert body[4:] == b"\0\x01\0\x02" + b"\0\0\0\x63" + now + now


@pytest.mark.parametrize(
    ("icmp_type", "reason"), [(19, "UNHANDLED_PROTO"), (255, "UNHANDLED_PROTO"), (0, "ICMP_IGNORED")]
)
def test_message_that_nothing_is_done_about_is_dropped(
    net: Stack, peer: RawPeer, icmp_type: int, reason: str
) -> None:
    peer.send_icmp("10.0.2.2", icmp_type, 0)
    peer.expect_nothing()
    assert net.drop_reasons == {reason: 1}


def test_message_shorter_than_its_header_is_dropped(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(1, b"\x08\x00\xf7\xff", "10.0.2.2")
    peer.expect_nothing()
    assert net.drop_reasons == {"PKT_TOO_SMALL": 1}


# -- errors that are sent ----------------------------------------------------------------------------------------------


def test_closed_port_draws_port_unreachable_that_quotes_at_most_548_bytes(net: Stack, peer: RawPeer) -> None:
    peer.send_udp("10.0.2.2", 1000, 2000, bytes(1000))
    error = peer.expect_icmp(3, 3)
    assert len(error.body) == 576 - 20
    assert error.tos == 0xC0
    quoted = error.body[8:]
    assert quoted[12:20] == bytes((10, 0, 2, 15, 10, 0, 2, 2))
    assert quoted[20:24] == b"\x03\xe8\x07\xd0"
    counters = proc.counters(net)
    assert counters["UdpNoPorts"] == counters["IcmpOutDestUnreachs"] == 1


def test_errors_to_one_peer_are_limited_to_a_burst_of_six_then_one_a_second(
    sim: Sim, net: Stack, peer: RawPeer
) -> None:
    for _ in range(20):
        peer.send_udp("10.0.2.2", 1000, 2000, b"x")
    sim.settle()
    assert len(peer.inbox) == 6
    peer.inbox.clear()
    for _ in range(10):
        sim.run_for(SEC // 2)
        peer.send_udp("10.0.2.2", 1000, 2000, b"x")
    sim.settle()
    assert len(peer.inbox) == 5


def test_errors_to_all_peers_are_limited_by_the_global_bucket(sim: Sim, net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("icmp_ratelimit", 0)
    for i in range(200):
        peer.send_udp("10.0.2.2", 1000 + i, 2000, b"x")
    sim.settle()
    assert 20 < len(peer.inbox) < 100  # each takes 0, 1 or 2 of the 50
    stats = net.mib.icmp_statistics
    from stack.include.snmp import ICMP_MIB_RATELIMITGLOBAL

    assert stats[ICMP_MIB_RATELIMITGLOBAL] == 200 - len(peer.inbox)


def test_echo_answers_are_not_limited(sim: Sim, net: Stack, peer: RawPeer) -> None:
    for _ in range(300):
        peer.send_icmp("10.0.2.2", 8, 0)
    sim.settle()
    assert len(peer.inbox) == 300


def test_error_never_answers_an_error(net: Stack, peer: RawPeer) -> None:
    # A destination unreachable with broken IP options: the parameter problem must not go out.
    peer.send_ip(1, b"\x03\x00\xfc\xff\0\0\0\0", "10.0.2.2", ip_options=bytes((7, 1, 4, 0)))
    peer.expect_nothing()
    assert net.drop_reasons == {"IP_INHDR": 1}


def test_error_never_answers_a_later_fragment_or_a_broadcast(net: Stack, peer: RawPeer) -> None:
    peer.send_udp("10.0.2.255", 1000, 2000, b"x", dest_mac=b"\xff" * 6)
    peer.expect_nothing()
    assert proc.counters(net)["UdpIgnoredMulti"] == 1


# -- errors that are received ------------------------------------------------------------------------------------------


def send_error(
    peer: RawPeer, sk: udp.udp_sock, icmp_type: int, code: int, rest: int = 0, sport: int | None = None
) -> None:
    """An error about a datagram from ``sk`` to port 9 of the peer."""
    ports = (sk.sk_num if sport is None else sport).to_bytes(2, "big") + (9).to_bytes(2, "big")
    quoted = peer.ip_packet(17, ports + b"\0\x09\0\0x", "10.0.2.15", src="10.0.2.2")
    peer.send_icmp("10.0.2.2", icmp_type, code, rest, quoted)
    peer.sim.settle()


@pytest.mark.parametrize(
    ("icmp_type", "code", "error"),
    [
        (3, 3, errno.ECONNREFUSED),
        (3, 2, errno.ENOPROTOOPT),
        (3, 13, errno.EHOSTUNREACH),
        (12, 0, errno.EPROTO),
    ],
)
def test_connected_socket_hears_of_a_hard_error_once(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory, icmp_type: int, code: int, error: int
) -> None:
    sk = udp_socket(7)
    assert udp.ip4_datagram_connect(sk, (HOST, 9)) == 0
    assert sk.sk_state == TCP_ESTABLISHED
    send_error(peer, sk, icmp_type, code)
    assert udp.udp_recvmsg(sk, 100, 0) == -error
    assert udp.udp_recvmsg(sk, 100, 0) == -errno.EAGAIN


@pytest.mark.parametrize(("icmp_type", "code"), [(3, 0), (3, 1), (11, 0), (4, 0)])
def test_connected_socket_does_not_hear_of_a_soft_error(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory, icmp_type: int, code: int
) -> None:
    sk = udp_socket(7)
    udp.ip4_datagram_connect(sk, (HOST, 9))
    send_error(peer, sk, icmp_type, code)
    assert udp.udp_recvmsg(sk, 100, 0) == -errno.EAGAIN


def test_unconnected_socket_hears_of_errors_only_with_ip_recverr(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    sk = udp_socket(7)
    send_error(peer, sk, 3, 3)
    assert udp.udp_recvmsg(sk, 100, 0) == -errno.EAGAIN
    sk.recverr = True
    send_error(peer, sk, 3, 1)
    assert udp.udp_recvmsg(sk, 100, 0) == -errno.EHOSTUNREACH


def test_error_about_a_datagram_of_nobody_counts_as_wrong(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    send_error(peer, udp_socket(7), 3, 3, sport=8)
    counters = proc.counters(net)
    assert counters["IcmpInErrors"] == counters["IcmpInDestUnreachs"] == 1


def test_fragmentation_needed_lowers_the_path_mtu_for_ten_minutes(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    sk = udp_socket(7)
    sk.pmtudisc = IP_PMTUDISC_DONT
    udp.ip4_datagram_connect(sk, (HOST, 9))
    send_error(peer, sk, 3, 4, 600)
    udp.udp_sendmsg(sk, bytes(1000), None, 0)
    first = peer.next_packet(17)
    assert first is not None
    assert first.more_fragments
    assert len(first.body) == (600 - 20) // 8 * 8
    peer.inbox.clear()
    sim.run_for(601 * SEC)
    udp.udp_sendmsg(sk, bytes(1000), None, 0)
    peer.expect_udp(7, 9, bytes(1000))


@pytest.mark.parametrize("cut", [1, 19, 20, 27])
def test_error_that_quotes_too_little_counts_as_wrong(net: Stack, peer: RawPeer, cut: int) -> None:
    quoted = peer.ip_packet(17, b"\0\x07\0\x09\0\x09\0\0", "10.0.2.15", src="10.0.2.2")
    peer.send_icmp("10.0.2.2", 3, 3, 0, quoted[:cut])
    peer.expect_nothing()
    assert net.drop_reasons == {"PKT_TOO_SMALL": 1}
    assert proc.counters(net)["IcmpInErrors"] == 1


def test_redirect_is_counted_and_not_followed(net: Stack, peer: RawPeer) -> None:
    quoted = peer.ip_packet(17, bytes(8), "10.0.2.15", src="10.0.2.2")
    peer.send_icmp("10.0.2.2", 5, 1, in_aton("10.0.2.77"), quoted)
    peer.expect_nothing()
    assert proc.counters(net)["IcmpInRedirects"] == 1
    assert net.drop_reasons == {"ICMP_IGNORED": 1}
