# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import errno

import pytest

from stack.api.sim import RawPeer, Sim
from stack.include.inet_sock import IP_PMTUDISC_DO
from stack.include.ip import MSG_PEEK, in_aton
from stack.include.sock import RCV_SHUTDOWN, SOCK_BROADCAST
from stack.net.ipv4 import proc, udp
from stack.stack import Stack

from .conftest import UdpFactory

HOST = in_aton("10.0.2.15")
US, US2 = in_aton("10.0.2.2"), in_aton("10.0.2.3")
ANYWHERE = in_aton("255.255.255.255")


def test_bound_socket_receives_and_answers(net: Stack, peer: RawPeer, udp_socket: UdpFactory) -> None:
    sk = udp_socket(53)
    peer.send_udp("10.0.2.2", 4000, 53, b"question")
    peer.sim.settle()
    assert udp.udp_recvmsg(sk, 100, 0) == (b"question", (HOST, 4000))
    assert udp.udp_sendmsg(sk, b"answer", (HOST, 4000), 0) == 6
    packet = peer.expect_udp(53, 4000, b"answer")
    assert (packet.src, packet.ttl, packet.df, packet.ip_id) == ("10.0.2.2", 64, True, 0)
    counters = proc.counters(net)
    assert counters["UdpInDatagrams"] == counters["UdpOutDatagrams"] == 1
    assert sk.sk_rmem_alloc == sk.sk_wmem_alloc == 0


def test_bound_socket_with_address_answers_from_it(net: Stack, peer: RawPeer, udp_socket: UdpFactory) -> None:
    any_sk, own_sk = udp_socket(54), udp_socket(53, US2)
    peer.send_udp("10.0.2.3", 4000, 53, b"q")
    peer.send_udp("10.0.2.2", 4000, 54, b"q")
    peer.sim.settle()
    for sk in (own_sk, any_sk):
        udp.udp_sendmsg(sk, b"a", (HOST, 4000), 0)
    assert peer.expect_udp(53, 4000).src == "10.0.2.3"
    assert peer.expect_udp(54, 4000).src == "10.0.2.2"
    udp.udp_sendmsg(any_sk, b"a", (HOST, 4000), 0, saddr=US2)
    assert peer.expect_udp(54, 4000).src == "10.0.2.3"


@pytest.mark.parametrize("size", [0, 1, 3, 1000, 1472, 1473, 5000, 65507])
def test_sent_datagram_arrives_whole_with_a_good_checksum(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory, size: int
) -> None:
    other = sim.add_stack("10.0.2.99/24")
    net2 = sim.add_stack("10.0.2.98/24")
    sim.join(net2, other)
    data = bytes(i * 3 & 255 for i in range(size))
    from stack.include.sock import AF_INET
    from stack.net.core import sock as core_sock

    ends = []
    for stack, port in ((net2, 7), (other, 9)):
        sk: udp.udp_sock = core_sock.sk_alloc(stack, AF_INET, udp.udp_prot)
        core_sock.sock_init_data(None, sk)
        sk.sk_protocol = 17
        assert udp.udp_lib_get_port(sk, port) == 0
        ends.append(sk)
    assert udp.udp_sendmsg(ends[0], data, (in_aton("10.0.2.99"), 9), 0) == size
    sim.settle()
    assert udp.udp_recvmsg(ends[1], 70000, 0) == (data, (in_aton("10.0.2.98"), 7))
    assert "InCsumErrors" not in str(proc.counters(other))


def test_sent_datagram_above_65507_bytes_is_too_long(udp_socket: UdpFactory) -> None:
    assert udp.udp_sendmsg(udp_socket(7), bytes(65508), (HOST, 9), 0) == -errno.EMSGSIZE


def test_sent_datagram_above_the_mtu_with_df_is_too_long(udp_socket: UdpFactory) -> None:
    sk = udp_socket(7)
    sk.pmtudisc = IP_PMTUDISC_DO
    assert udp.udp_sendmsg(sk, bytes(1473), (HOST, 9), 0) == -errno.EMSGSIZE


def test_received_datagram_with_bad_checksum_is_dropped(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    udp_socket(9)
    peer.send_ip(17, b"\x03\xe8\x00\x09\x00\x09\x12\x34x", "10.0.2.2")
    peer.expect_nothing()
    counters = proc.counters(net)
    assert counters["UdpInCsumErrors"] == counters["UdpInErrors"] == 1
    assert net.drop_reasons == {"UDP_CSUM": 1}


def test_received_datagram_without_checksum_is_taken(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    sk = udp_socket(9)
    peer.send_udp("10.0.2.2", 1000, 9, b"x", checksum=False)
    peer.sim.settle()
    assert udp.udp_recvmsg(sk, 10, 0) == (b"x", (HOST, 1000))


@pytest.mark.parametrize("header", [b"\0\1\0\x09\0", b"\0\1\0\x09\0\x07\0\0", b"\0\1\0\x09\0\x0a\0\0x"])
def test_received_datagram_with_wrong_length_is_dropped(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory, header: bytes
) -> None:
    sk = udp_socket(9)
    peer.send_ip(17, header, "10.0.2.2")
    peer.expect_nothing()
    assert udp.udp_recvmsg(sk, 10, 0) == -errno.EAGAIN
    assert net.drop_reasons == {"PKT_TOO_SMALL": 1}
    assert proc.counters(net)["UdpInErrors"] == 1


def test_received_datagram_shorter_than_its_ip_packet_is_cut(peer: RawPeer, udp_socket: UdpFactory) -> None:
    sk = udp_socket(9)
    peer.send_ip(17, b"\x03\xe8\0\x09\0\x0a\0\0xytail", "10.0.2.2")
    peer.sim.settle()
    assert udp.udp_recvmsg(sk, 100, 0) == (b"xy", (HOST, 1000))


def test_full_receive_buffer_drops_and_counts(net: Stack, peer: RawPeer, udp_socket: UdpFactory) -> None:
    sk = udp_socket(9, sk_rcvbuf=5000)
    for i in range(20):
        peer.send_udp("10.0.2.2", 1000, 9, bytes([i]) * 100)
    peer.expect_nothing()
    counters = proc.counters(net)
    assert counters["UdpRcvbufErrors"] == counters["UdpInErrors"] == net.drop_reasons["SOCKET_RCVBUFF"]
    taken = 0
    while not isinstance(got := udp.udp_recvmsg(sk, 100, 0), int):
        assert got[0] == bytes([taken]) * 100
        taken += 1
    assert taken == 20 - counters["UdpRcvbufErrors"]
    assert 0 < taken < 20
    assert sk.sk_rmem_alloc == 0


def test_reader_peeks_then_reads_a_cut_datagram(peer: RawPeer, udp_socket: UdpFactory) -> None:
    sk = udp_socket(9)
    peer.send_udp("10.0.2.2", 1000, 9, b"abcdef")
    peer.sim.settle()
    assert udp.udp_recvmsg(sk, 3, MSG_PEEK) == (b"abc", (HOST, 1000))
    assert udp.udp_recvmsg(sk, 4, 0) == (b"abcd", (HOST, 1000))
    assert udp.udp_recvmsg(sk, 4, 0) == -errno.EAGAIN
    sk.sk_shutdown |= RCV_SHUTDOWN
    assert udp.udp_recvmsg(sk, 4, 0) == -errno.EAGAIN


def test_reader_is_woken_per_datagram(peer: RawPeer, udp_socket: UdpFactory) -> None:
    sk = udp_socket(9)
    woken: list[int] = []
    sk.sk_data_ready = lambda sk: woken.append(len(sk.sk_receive_queue))
    for _ in range(2):
        peer.send_udp("10.0.2.2", 1000, 9, b"x")
    peer.sim.settle()
    assert woken == [1, 2]


# -- who gets it -------------------------------------------------------------------------------------------------------


def test_lookup_prefers_the_bound_address_then_the_connected_peer(
    peer: RawPeer, udp_socket: UdpFactory
) -> None:
    wild = udp_socket(9, sk_reuse=1)
    bound = udp_socket(9, US, sk_reuse=1)
    connected = udp_socket(9, US, sk_reuse=1)
    assert udp.ip4_datagram_connect(connected, (HOST, 1000)) == 0
    for dst, sport, payload in (("10.0.2.2", 1000, b"c"), ("10.0.2.2", 1001, b"b"), ("10.0.2.3", 1000, b"w")):
        peer.send_udp(dst, sport, 9, payload)
    peer.sim.settle()
    got = [udp.udp_recvmsg(sk, 9, 0) for sk in (connected, bound, wild)]
    assert got == [(b"c", (HOST, 1000)), (b"b", (HOST, 1001)), (b"w", (HOST, 1000))]


def test_lookup_spreads_over_reuseport_sockets_and_keeps_a_flow_on_one(
    peer: RawPeer, udp_socket: UdpFactory
) -> None:
    socks = [udp_socket(9, sk_reuseport=True) for _ in range(4)]
    for sport in range(1000, 1064):
        for _ in range(2):
            peer.send_udp("10.0.2.2", sport, 9, b"x")
    peer.sim.settle()
    sizes = [len(sk.sk_receive_queue) for sk in socks]
    assert sum(sizes) == 128
    assert min(sizes) > 0
    assert all(size % 2 == 0 for size in sizes)


def test_broadcast_goes_to_every_socket_on_the_port(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    first, second = udp_socket(67, sk_reuse=1), udp_socket(67, sk_reuse=1)
    peer.send_udp("255.255.255.255", 68, 67, b"discover", src="0.0.0.0", dest_mac=b"\xff" * 6)
    peer.sim.settle()
    for sk in (first, second):
        assert udp.udp_recvmsg(sk, 100, 0) == (b"discover", (0, 68))
    assert proc.counters(net)["IpExtInBcastPkts"] == 1


def test_device_bound_socket_sends_to_the_limited_broadcast_address(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    sk = udp_socket(67, sk_bound_dev_if=2)
    assert udp.udp_sendmsg(sk, b"offer", (ANYWHERE, 68), 0) == -errno.EACCES
    sk.sk_flags |= SOCK_BROADCAST
    assert udp.udp_sendmsg(sk, b"offer", (ANYWHERE, 68), 0) == 5
    packet = peer.expect_udp(67, 68, b"offer")
    assert (packet.src, packet.dst, packet.frame.data[:6]) == ("10.0.2.2", "255.255.255.255", b"\xff" * 6)
    assert proc.counters(net)["IpExtOutBcastPkts"] == 1


def test_unbound_socket_cannot_reach_the_limited_broadcast_address_without_a_route(
    net: Stack, udp_socket: UdpFactory
) -> None:
    sk = udp_socket(67, sk_flags=SOCK_BROADCAST)
    assert udp.udp_sendmsg(sk, b"x", (ANYWHERE, 68), 0) == -errno.ENETUNREACH
    assert proc.counters(net)["IpOutNoRoutes"] == 1


def test_connected_socket_ignores_strangers(net: Stack, peer: RawPeer, udp_socket: UdpFactory) -> None:
    sk = udp_socket(9)
    udp.ip4_datagram_connect(sk, (HOST, 1000))
    assert sk.inet_saddr == US
    peer.send_udp("10.0.2.2", 1001, 9, b"x")
    peer.expect_icmp(3, 3)
    peer.send_udp("10.0.2.2", 1000, 9, b"x")
    peer.sim.settle()
    assert udp.udp_recvmsg(sk, 9, 0) == (b"x", (HOST, 1000))
    assert udp.udp_sendmsg(sk, b"y", None, 0) == 1
    peer.expect_udp(9, 1000, b"y")


# -- ports -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        ({}, {}, True),
        ({"sk_reuse": 1}, {"sk_reuse": 1}, False),
        ({"sk_reuse": 1}, {}, True),
        ({"sk_reuseport": True}, {"sk_reuseport": True}, False),
        ({"sk_bound_dev_if": 1}, {"sk_bound_dev_if": 2}, False),
        ({"addr": US}, {"addr": US2}, False),
        ({"addr": US}, {}, True),
    ],
)
def test_bound_port_is_taken_unless_shared(
    udp_socket: UdpFactory, first: dict[str, object], second: dict[str, object], conflict: bool
) -> None:
    udp_socket(9, **first)
    if conflict:
        with pytest.raises(OSError, match="taken"):
            udp_socket(9, **second)
    else:
        assert udp_socket(9, **second).sk_num == 9


def test_closed_socket_frees_its_port_and_what_it_holds(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    sk = udp_socket(9)
    peer.send_udp("10.0.2.2", 1000, 9, b"x")
    peer.sim.settle()
    udp.udp_lib_close(sk, 0)
    assert net.drop_reasons == {"SOCKET_CLOSE": 1}
    assert (net.udp_table.hash, net.udp_table.hash2) == ({}, {})
    assert udp_socket(9).sk_num == 9


def test_unbound_socket_gets_an_ephemeral_port_on_sending(
    net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    sk = udp_socket(0)
    assert 32768 <= sk.sk_num <= 60999
    udp.udp_lib_unhash(sk)
    sk.sk_num = 0
    assert udp.udp_sendmsg(sk, b"x", (HOST, 9), 0) == 1
    assert 32768 <= sk.sk_num <= 60999


def test_exhausted_ephemeral_range_refuses(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl={"ip_local_port_range": (40000, 40001)})
    from stack.include.sock import AF_INET
    from stack.net.core import sock as core_sock

    results = []
    for _ in range(3):
        sk: udp.udp_sock = core_sock.sk_alloc(net, AF_INET, udp.udp_prot)
        core_sock.sock_init_data(None, sk)
        results.append(udp.udp_lib_get_port(sk, 0))
    assert results == [0, 0, 1]


@pytest.mark.parametrize(("addr", "error"), [(None, errno.EDESTADDRREQ), ((HOST, 0), errno.EINVAL)])
def test_sending_without_a_destination_is_refused(
    udp_socket: UdpFactory, addr: tuple[int, int] | None, error: int
) -> None:
    assert udp.udp_sendmsg(udp_socket(7), b"x", addr, 0) == -error
