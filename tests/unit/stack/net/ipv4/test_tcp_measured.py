# SPDX-License-Identifier: GPL-2.0-or-later
"""What the differential (docs/differential.md) found on Linux 6.18, in virtual time."""

from __future__ import annotations

import socket

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, RawTcp, Sim
from stack.stack import Stack

PROFILE = "linux-6.18"


@pytest.fixture
def new(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", profile=PROFILE)


@pytest.fixture
def host(sim: Sim, new: Stack) -> RawPeer:
    return sim.add_peer("10.0.2.15", new)


@pytest.fixture
def server(new: Stack) -> Socket:
    sock = Socket(new)
    sock.bind(("", 80))
    sock.listen(4)
    return sock


def tcp_ext(net: Stack, name: str) -> int:
    return int(net.snapshot()["netstat"]["TcpExt"][name])


def syn_recv(host: RawPeer) -> RawTcp:
    conn = host.tcp(80)
    conn.send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    conn.expect("SA")
    conn.ts_on = True
    return conn


def established(host: RawPeer, server: Socket, **options: bool) -> tuple[RawTcp, Socket]:
    conn = host.tcp(80)
    conn.handshake(**options)
    return conn, server.accept()[0]


@pytest.mark.parametrize("off", [-5000, 5000])
def test_syn_recv_echo_of_a_time_stamp_that_was_not_sent(
    sim: Sim, host: RawPeer, new: Stack, server: Socket, off: int
) -> None:
    conn = syn_recv(host)
    conn.send("A", ts=(1000, conn.ts_recent + off))
    conn.expect("A", seq=1, ack=1)
    assert tcp_ext(new, "TSEcrRejected") == 1
    with pytest.raises(BlockingIOError):
        server.accept()


def test_syn_recv_echo_of_the_second_syn_ack(sim: Sim, host: RawPeer, new: Stack, server: Socket) -> None:
    conn = syn_recv(host)
    sim.run_for(1_200_000_000)
    conn.expect("SA")
    conn.send("A")
    sim.settle()
    assert server.accept()[1] == ("10.0.2.15", 40000)
    assert tcp_ext(new, "TSEcrRejected") == 0


def test_syn_recv_rst_with_a_wrong_ack(sim: Sim, host: RawPeer, new: Stack, server: Socket) -> None:
    conn = syn_recv(host)
    conn.send("RA", seq=1, ack=99)
    sim.settle()
    assert tcp_ext(new, "EmbryonicRsts") == 1


def test_syn_recv_inexact_rst_counts_a_challenge(host: RawPeer, new: Stack, server: Socket) -> None:
    conn = syn_recv(host)
    conn.send("R", seq=2)
    conn.expect("A", seq=1, ack=1)
    assert tcp_ext(new, "TCPChallengeACK") == 1


def test_established_data_beyond_the_window_behind_unread_data(
    host: RawPeer, new: Stack, server: Socket
) -> None:
    conn, child = established(host, server)
    conn.send("PA", b"x" * 100, seq=65100)
    conn.expect("A", ack=1)
    assert tcp_ext(new, "BeyondWindow") == 0
    conn.send("PA", b"hello")
    conn.expect("A", ack=6)
    conn.send("PA", b"y" * 900, seq=65400)
    conn.expect("A", ack=6)
    assert tcp_ext(new, "BeyondWindow") == 1
    assert child.recv(10) == b"hello"


def test_established_hole_without_sack_permitted(host: RawPeer, server: Socket) -> None:
    conn, _ = established(host, server, sackok=False, ts=False)
    conn.send("PA", b"b", seq=2)
    assert conn.expect("A", ack=1).opts.raw == b""


def test_established_hole_filled_merges_small_packets(host: RawPeer, new: Stack, server: Socket) -> None:
    conn, child = established(host, server)
    conn.send("PA", b"world", seq=6)
    conn.send("PA", b"hello")
    conn.peer.sim.settle()
    assert tcp_ext(new, "TCPRcvCoalesce") == 1
    assert child.recv(20) == b"helloworld"


def test_fin_wait1_acked_with_negative_linger2(sim: Sim, host: RawPeer, server: Socket) -> None:
    conn, child = established(host, server)
    child.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, -1)
    child.close()
    conn.expect("FA")
    conn.send("A")
    conn.expect("R", seq=2)


def test_time_wait_is_counted_when_it_begins(sim: Sim, host: RawPeer, new: Stack, server: Socket) -> None:
    conn, child = established(host, server)
    child.close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    assert tcp_ext(new, "TW") == 1


def test_keepalive_probe_is_no_window_probe(sim: Sim, host: RawPeer, new: Stack, server: Socket) -> None:
    conn, child = established(host, server)
    child.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    child.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    conn.expect("A", seq=0, within_ns=2_000_000_000)
    assert tcp_ext(new, "TCPKeepAlive") == 1
    assert tcp_ext(new, "TCPWinProbe") == 0


def test_syn_recv_icmp_reassembly_time_exceeded(sim: Sim, host: RawPeer, server: Socket) -> None:
    conn = syn_recv(host)
    inner = host.ip_packet(
        6, b"\x00\x50\x9c\x40" + (conn.irs or 0).to_bytes(4, "big"), "10.0.2.15", src="10.0.2.2"
    )
    host.send_icmp("10.0.2.2", 11, 1, 0, inner)
    conn.send("A")
    sim.settle()
    assert server.accept()[1] == ("10.0.2.15", 40000)


def test_closed_udp_port_quotes_the_reassembled_header(host: RawPeer, new: Stack) -> None:
    body = b"\x9c\x40\x00\x09\x00\x30\x00\x00" + bytes(40)
    host.send_ip(17, body[:24], "10.0.2.2", ip_id=9, frag=0x2000)
    host.send_ip(17, body[24:], "10.0.2.2", ip_id=9, frag=3)
    quoted = host.expect_icmp(3, 3).body[8:]
    assert int.from_bytes(quoted[2:4], "big") == 68
    assert quoted[6:8] == b"\0\0"


def test_echo_keeps_the_code(host: RawPeer, new: Stack) -> None:
    host.send_icmp("10.0.2.2", 8, 9, 0x10001, b"ping")
    host.expect_icmp(0, 9)


def test_option_longer_than_the_header_is_pointed_at_from_its_start(host: RawPeer, new: Stack) -> None:
    host.send_ip(17, bytes(8), "10.0.2.2", ip_options=b"\x07\x20\x04\0")
    assert host.expect_icmp(12, 0).body[4] == 20


def test_cookie_child_with_time_stamps_has_a_window_of_whole_mss(
    sim: Sim, host: RawPeer, new: Stack, server: Socket
) -> None:
    new.sysctl_set("tcp_syncookies", 2)
    conn, _ = established(host, server)
    conn.send("PA", b"hello")
    conn.expect("A", ack=6, window=63)  # 44 x 1460 bytes, where a kept request has 45 x 1448
