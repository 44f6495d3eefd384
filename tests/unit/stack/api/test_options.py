# SPDX-License-Identifier: GPL-2.0-or-later
"""What socket options do, on the Stack alone; tests/differential compares their values with live kernels."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from stack.api.bsd import AF_INET6, SOCK_DGRAM, Socket
from stack.api.sim import RawPeer, Sim
from stack.include.net import MSG_ERRQUEUE, MSG_PEEK, MSG_ZEROCOPY
from stack.include.snmp import UDP_MIB_RCVBUFERRORS
from stack.net.core import sock as core
from stack.net.core.sock import SOL_SOCKET
from stack.stack import Stack

MSEC = 1_000_000
SOL_IP, SOL_TCP, SOL_IPV6 = 0, 6, 41
IP_RECVORIGDSTADDR, IP_RECVFRAGSIZE, IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE = 20, 25, 24, 51
IP_UNICAST_IF, IP_MULTICAST_IF = 50, 32


class World:
    def __init__(self, profile: str = "linux-6.1") -> None:
        self.sim = Sim(seed=5)
        self.net: Stack = self.sim.add_stack("10.0.2.2/24", "fd00::2/64", profile=profile)
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net, addr6="fd00::15")

    def accepted(self, *options: tuple[int, int, Any]) -> tuple[Any, Socket]:
        listener = Socket(self.net)
        for option in options:
            listener.setsockopt(*option)
        listener.bind(("", 80))
        listener.listen()
        conn = self.peer.tcp(dport=80)
        conn.handshake()
        self.sim.settle()
        return conn, listener.accept()[0]

    def send_udp(self, data: bytes, dst: str = "10.0.2.2") -> None:
        self.peer.send_udp(dst, 9, 7, data)
        self.sim.settle()

    def datagrams(self, family: int = 2, *options: tuple[int, int, Any]) -> Socket:
        sock = Socket(self.net, family, SOCK_DGRAM)
        for option in options:
            sock.setsockopt(*option)
        sock.bind(("", 7))
        return sock


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def newer() -> World:
    return World("linux-6.18")


def errno_of(call: Any, *args: Any) -> int:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno or 0


def u32(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)


# -- reading back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "raw"), [(1, b"\1"), (3, b"\1\0\0"), (4, b"\1\0\0\0"), (64, b"\1\0\0\0")])
def test_getsockopt_of_a_number_is_cut_to_the_buffer(world: World, size: int, raw: bytes) -> None:
    sock = Socket(world.net)
    sock.setsockopt(SOL_SOCKET, core.SO_KEEPALIVE, 1)
    assert sock.getsockopt(SOL_SOCKET, core.SO_KEEPALIVE, size) == raw


def test_getsockopt_of_ip_gives_a_byte_into_less_than_an_int(world: World) -> None:
    sock = Socket(world.net)
    assert [sock.getsockopt(SOL_IP, 2, size) for size in (1, 3, 4)] == [b"\x40", b"\x40", b"\x40\0\0\0"]


def test_getsockopt_of_a_pacing_rate_is_a_long_into_eight_bytes(world: World) -> None:
    sock = Socket(world.net)
    sock.setsockopt(SOL_SOCKET, core.SO_MAX_PACING_RATE, struct.pack("=Q", 1 << 33))
    assert sock.getsockopt(SOL_SOCKET, core.SO_MAX_PACING_RATE, 8) == struct.pack("=Q", 1 << 33)
    assert sock.getsockopt(SOL_SOCKET, core.SO_MAX_PACING_RATE) == -1  # ~0U, as an int of C


def test_cookies_differ_and_stay(world: World) -> None:
    one, two = Socket(world.net), Socket(world.net)
    cookies = [sock.getsockopt(SOL_SOCKET, core.SO_COOKIE, 8) for sock in (one, two, one)]
    assert cookies[0] == cookies[2] != cookies[1]
    assert errno_of(one.getsockopt, SOL_SOCKET, core.SO_COOKIE, 4) == errno.EINVAL


def test_peername_of_an_established_socket_is_a_sockaddr(world: World) -> None:
    _, sock = world.accepted()
    port = sock.getpeername()[1].to_bytes(2, "big")
    raw = struct.pack("=H", 2) + port + bytes((10, 0, 2, 15)) + bytes(8)
    assert sock.getsockopt(SOL_SOCKET, core.SO_PEERNAME, 16) == raw


def test_meminfo_counts_what_waits_and_what_was_dropped(world: World) -> None:
    sock = world.datagrams(2, (SOL_SOCKET, core.SO_RCVBUF, 1))
    for _ in range(20):
        world.send_udp(b"x" * 100)
    world.sim.settle()
    info = struct.unpack("=9I", sock.getsockopt(SOL_SOCKET, core.SO_MEMINFO, 36))
    assert info[1] == 2304
    assert info[0] >= 2304
    assert info[8] == world.net.mib.udp_statistics[UDP_MIB_RCVBUFERRORS] > 0


def test_timeouts_count_in_ticks(world: World) -> None:
    sock = Socket(world.net)
    sock.setsockopt(SOL_SOCKET, core.SO_RCVTIMEO, struct.pack("=qq", 0, 4001))
    assert struct.unpack("=qq", sock.getsockopt(SOL_SOCKET, core.SO_RCVTIMEO, 16)) == (0, 8000)
    assert (
        errno_of(sock.setsockopt, SOL_SOCKET, core.SO_SNDTIMEO, struct.pack("=qq", 0, 1_000_000))
        == errno.EDOM
    )


def test_saved_syn_stays_while_the_buffer_is_too_small(world: World) -> None:
    _, sock = world.accepted((SOL_TCP, 27, 1))
    assert errno_of(sock.getsockopt, SOL_TCP, 28, 20) == errno.EINVAL
    assert len(sock.getsockopt(SOL_TCP, 28, 100)) >= 40
    assert sock.getsockopt(SOL_TCP, 28, 100) == b""


# -- buffers and reading -----------------------------------------------------------------------------------------------


def test_rcvlowat_of_a_stream_is_half_of_what_the_buffer_may_become(world: World) -> None:
    _, sock = world.accepted()
    sock.setsockopt(SOL_SOCKET, core.SO_RCVLOWAT, 0x7FFFFFFF)
    assert sock.getsockopt(SOL_SOCKET, core.SO_RCVLOWAT) == 6291456 // 2
    assert sock.getsockopt(SOL_SOCKET, core.SO_RCVBUF) == 6291456


def test_rcvlowat_of_a_locked_buffer_is_half_of_it(world: World) -> None:
    _, sock = world.accepted()
    sock.setsockopt(SOL_SOCKET, core.SO_RCVBUF, 10000)
    sock.setsockopt(SOL_SOCKET, core.SO_RCVLOWAT, 100000)
    assert sock.getsockopt(SOL_SOCKET, core.SO_RCVLOWAT) == 10000
    assert sock.getsockopt(SOL_SOCKET, core.SO_RCVBUF) == 20000


def test_buf_lock_of_nothing_lets_the_buffer_adapt_again(world: World) -> None:
    _, sock = world.accepted()
    sock.setsockopt(SOL_SOCKET, core.SO_RCVBUF, 10000)
    assert sock.getsockopt(SOL_SOCKET, core.SO_BUF_LOCK) == 2
    sock.setsockopt(SOL_SOCKET, core.SO_BUF_LOCK, 0)
    sock.setsockopt(SOL_SOCKET, core.SO_RCVLOWAT, 100000)
    assert sock.getsockopt(SOL_SOCKET, core.SO_RCVBUF) == 200000


def test_peek_off_of_a_stream_moves_with_peeking_and_back_with_reading(newer: World) -> None:
    conn, sock = newer.accepted()
    sock.setsockopt(SOL_SOCKET, core.SO_PEEK_OFF, 0)
    conn.send("PA", b"hello ")
    conn.send("PA", b"world")
    newer.sim.settle()
    assert [sock.recv(4, MSG_PEEK) for _ in range(3)] == [b"hell", b"o wo", b"rld"]
    assert errno_of(sock.recv, 4, MSG_PEEK) == errno.EAGAIN
    assert sock.recv(5) == b"hello"
    assert sock.getsockopt(SOL_SOCKET, core.SO_PEEK_OFF) == 6
    assert errno_of(sock.recv, 9, MSG_PEEK) == errno.EAGAIN
    assert sock.recv(99) == b" world"


def test_peek_off_of_a_stream_is_not_supported_by_older_kernels(world: World) -> None:
    sock = Socket(world.net)
    assert errno_of(sock.setsockopt, SOL_SOCKET, core.SO_PEEK_OFF, 0) == errno.EOPNOTSUPP
    assert errno_of(sock.getsockopt, SOL_SOCKET, core.SO_PEEK_OFF) == errno.EOPNOTSUPP


def test_peek_off_of_datagrams_meets_an_empty_one_once(world: World) -> None:
    sock = world.datagrams(2, (SOL_SOCKET, core.SO_PEEK_OFF, 0))
    for data in (b"ab", b"", b"cd"):
        world.send_udp(data)
    world.sim.settle()
    assert [sock.recv(9, MSG_PEEK) for _ in range(3)] == [b"ab", b"", b"cd"]
    assert errno_of(sock.recv, 9, MSG_PEEK) == errno.EAGAIN
    assert [sock.recv(9) for _ in range(3)] == [b"ab", b"", b"cd"]


# -- what recvmsg tells of datagrams -----------------------------------------------------------------------------------


def test_rxq_ovfl_tells_how_many_were_dropped_before(world: World) -> None:
    sock = world.datagrams(2, (SOL_SOCKET, core.SO_RXQ_OVFL, 1), (SOL_SOCKET, core.SO_RCVBUF, 1))
    for _ in range(20):
        world.send_udp(b"x" * 100)
    world.sim.settle()
    dropped = sock.sk.sk_drops
    while True:
        try:
            assert sock.recvmsg(200, 200)[1] == []
        except BlockingIOError:
            break
    world.send_udp(b"last")
    world.sim.settle()
    assert sock.recvmsg(200, 200)[1] == [(SOL_SOCKET, core.SO_RXQ_OVFL, u32(dropped))]
    assert dropped > 0


def test_recvmsg_tells_mark_original_destination_and_new_time_stamps(world: World) -> None:
    sock = world.datagrams(2, (SOL_SOCKET, core.SO_RCVMARK, 1), (SOL_SOCKET, core.SO_TIMESTAMPNS_NEW, 1))
    sock.setsockopt(SOL_IP, IP_RECVORIGDSTADDR, 1)
    world.send_udp(b"x")
    world.sim.settle()
    control = {(level, kind): data for level, kind, data in sock.recvmsg(9, 200)[1]}
    assert control[SOL_IP, IP_RECVORIGDSTADDR] == b"\2\0\0\7" + bytes((10, 0, 2, 2)) + bytes(8)
    assert control[SOL_SOCKET, core.SO_MARK] == bytes(4)
    assert len(control[SOL_SOCKET, core.SO_TIMESTAMPNS_NEW]) == 16


def test_recvmsg_of_ipv6_tells_destination_device_hops_class_and_label(world: World) -> None:
    asked = {49: 50, 51: 52, 66: 67, 74: 74}  # IPV6_RECVPKTINFO and what comes of it, and so on
    sock = world.datagrams(AF_INET6, *((SOL_IPV6, option, 1) for option in asked))
    world.send_udp(b"x", "fd00::2")
    world.sim.settle()
    control = {kind: data for level, kind, data in sock.recvmsg(9, 500)[1] if level == SOL_IPV6}
    assert sorted(control) == sorted(asked.values())
    ours = bytes.fromhex("fd00" + "0" * 27 + "2")
    assert control[50] == ours + u32(world.net.devices_by_name["eth0"].ifindex)
    assert control[52] == u32(64)
    assert control[67] == u32(0)
    assert control[74] == struct.pack("=H", 10) + b"\0\7" + bytes(4) + ours + bytes(4)


# -- sending and binding -----------------------------------------------------------------------------------------------


def test_no_check_sends_no_checksum(world: World) -> None:
    sock = world.datagrams(2, (SOL_SOCKET, core.SO_NO_CHECK, 1))
    sock.sendto(b"x", ("10.0.2.15", 9))
    assert world.peer.expect_udp(7, 9, b"x").body[6:8] == b"\0\0"


def test_bind_address_no_port_leaves_the_port_to_connect(world: World) -> None:
    sock = Socket(world.net)
    sock.setsockopt(SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind(("10.0.2.2", 0))
    assert sock.getsockname() == ("10.0.2.2", 0)
    sock.connect_ex(("10.0.2.15", 9))
    assert 32768 <= sock.getsockname()[1] <= 60999


@pytest.mark.parametrize("kind", [1, SOCK_DGRAM])
def test_local_port_range_narrows_the_choice(world: World, kind: int) -> None:
    for _ in range(3):
        sock = Socket(world.net, type=kind)
        sock.setsockopt(SOL_IP, IP_LOCAL_PORT_RANGE, u32(40009 << 16 | 40000))
        sock.bind(("", 0))
        assert 40000 <= sock.getsockname()[1] <= 40009


def test_local_port_range_that_is_used_up_is_address_in_use(world: World) -> None:
    socks = [Socket(world.net, type=SOCK_DGRAM) for _ in range(2)]
    for sock in socks:
        sock.setsockopt(SOL_IP, IP_LOCAL_PORT_RANGE, u32(40000 << 16 | 40000))
    socks[0].bind(("", 0))
    assert errno_of(socks[1].bind, ("", 0)) == errno.EADDRINUSE


def test_dontroute_reaches_links_only(world: World) -> None:
    world.net.route_add("0.0.0.0/0", via="10.0.2.15")
    sock = Socket(world.net, type=SOCK_DGRAM)
    sock.setsockopt(SOL_SOCKET, core.SO_DONTROUTE, 1)
    assert errno_of(sock.sendto, b"x", ("192.0.2.1", 9)) == errno.ENETUNREACH
    assert sock.sendto(b"x", ("10.0.2.15", 9)) == 1
    sock.setsockopt(SOL_SOCKET, core.SO_DONTROUTE, 0)
    assert sock.sendto(b"x", ("192.0.2.1", 9)) == 1


def test_dontfrag_of_ipv6_refuses_what_does_not_fit(world: World) -> None:
    sock = Socket(world.net, AF_INET6, SOCK_DGRAM)
    sock.setsockopt(SOL_IPV6, 62, 1)
    assert errno_of(sock.sendto, bytes(1453), ("fd00::15", 9)) == errno.EMSGSIZE
    assert sock.sendto(bytes(1452), ("fd00::15", 9)) == 1452


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.18"])
def test_thin_linear_timeouts_wait_the_same_six_times(profile: str) -> None:
    world = World(profile)
    conn, sock = world.accepted((SOL_TCP, 16, 1))
    sock.send(b"x")
    world.sim.settle()
    conn.expect()
    gaps, last = [], 0
    for _ in range(10):
        conn.expect(within_ns=20_000 * MSEC)
        now = world.sim.now_ns()
        gaps.append(round((now - last) / MSEC))
        last = now
    assert gaps[1] == gaps[7]  # the probe, the first timeout and six more
    assert gaps[8:] == [2 * gaps[1], 4 * gaps[1]]


def test_rto_min_us_and_delack_max_us_round_up_to_ticks(newer: World) -> None:
    _, sock = newer.accepted()
    for option in (45, 46):
        sock.setsockopt(SOL_TCP, option, 5000)
        assert sock.getsockopt(SOL_TCP, option) == 8000
        assert errno_of(sock.setsockopt, SOL_TCP, option, 4000) == errno.EINVAL


# -- TCP_CC_INFO -------------------------------------------------------------------------------------------------------


def test_cc_info_of_bbr_tells_bandwidth_round_trip_and_gains(world: World) -> None:
    _, sock = world.accepted((SOL_TCP, 13, b"bbr"))
    low, high, min_rtt, pacing, cwnd = struct.unpack("=5I", sock.getsockopt(SOL_TCP, 26, 64))
    assert (pacing, cwnd) == (739, 739)  # 2885/1000 + 1 of 256
    assert high == 0
    assert min_rtt < 0xFFFFFFFF
    assert low >= 0
    assert sock.getsockopt(SOL_TCP, 26, 4) == u32(low)


def test_cc_info_of_dctcp_without_ecn_is_off_and_of_reno_is_nothing(world: World) -> None:
    world.net.sysctl_set("tcp_allowed_congestion_control", "reno dctcp")
    _, sock = world.accepted((SOL_TCP, 13, b"dctcp"))
    assert sock.getsockopt(SOL_TCP, 26, 64) == bytes(16)
    sock.setsockopt(SOL_TCP, 13, b"reno")
    assert sock.getsockopt(SOL_TCP, 26, 64) == b""


# -- MSG_ZEROCOPY ------------------------------------------------------------------------------------------------------


def notices(sock: Socket) -> list[tuple[int, int]]:
    """What the error queue says: numbers from, to."""
    found = []
    while True:
        try:
            _, control, _, _ = sock.recvmsg(9, 200, MSG_ERRQUEUE)
        except BlockingIOError:
            return found
        for _, _, raw in control:
            number, origin, _, code, _, low, high = struct.unpack_from("=IBBBBII", raw)
            assert (number, origin, code) == (0, 5, 1)  # SO_EE_ORIGIN_ZEROCOPY, copied by the device
            found.append((low, high))


def test_zerocopy_of_established_is_told_when_all_of_a_call_is_acknowledged(world: World) -> None:
    conn, sock = world.accepted()
    sock.setsockopt(SOL_SOCKET, core.SO_ZEROCOPY, 1)
    for _ in range(3):
        assert sock.send(b"x" * 1000, MSG_ZEROCOPY) == 1000
    world.sim.settle()
    assert notices(sock) == []
    start = conn.rcv_nxt
    conn.send("A", ack=start + 1999)
    world.sim.settle()
    assert notices(sock) == [(0, 0)]
    conn.send("A", ack=start + 3000)
    world.sim.settle()
    assert notices(sock) == [(1, 2)]


def test_zerocopy_of_established_without_the_option_is_an_ordinary_send(world: World) -> None:
    conn, sock = world.accepted()
    sock.send(b"x", MSG_ZEROCOPY)
    world.sim.settle()
    conn.send("A", ack=conn.rcv_nxt + 1)
    world.sim.settle()
    assert notices(sock) == []


def test_zerocopy_of_a_reset_connection_is_told(world: World) -> None:
    conn, sock = world.accepted()
    sock.setsockopt(SOL_SOCKET, core.SO_ZEROCOPY, 1)
    sock.send(b"x", MSG_ZEROCOPY)
    conn.send("R")
    world.sim.settle()
    assert notices(sock) == [(0, 0)]


def test_zerocopy_of_datagrams_is_told_at_once(world: World) -> None:
    sock = world.datagrams(2, (SOL_SOCKET, core.SO_ZEROCOPY, 1))
    for size in (5, 0, 7):
        sock.sendmsg([bytes(size)], flags=MSG_ZEROCOPY, address=("10.0.2.15", 9))
    assert notices(sock) == [(0, 1)]
