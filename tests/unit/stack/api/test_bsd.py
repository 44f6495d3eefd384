# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket calls against a scripted peer in virtual time."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from stack.api.bsd import SHUT_RD, SHUT_RDWR, SHUT_WR, SOCK_DGRAM, Socket
from stack.api.sim import Sim
from stack.include.sock import EPOLLIN, EPOLLOUT, EPOLLRDHUP

SEC = 1_000_000_000
SOL_SOCKET, SO_REUSEADDR, SO_LINGER, SO_RCVBUF, SO_ERROR = 1, 2, 13, 8, 4
IPPROTO_IP, IP_TOS, IP_TTL = 0, 1, 2
IPPROTO_TCP, TCP_NODELAY = 6, 1


class Pair:
    """A stack at 10.0.2.2, a raw peer at 10.0.2.15, and a listener on port 7."""

    def __init__(self) -> None:
        self.sim = Sim(seed=2)
        self.net = self.sim.add_stack("10.0.2.2/24")
        self.peer = self.sim.add_peer("10.0.2.15", self.net)

    def listener(self, backlog: int = 5) -> Socket:
        sock = Socket(self.net)
        sock.bind(("10.0.2.2", 7))
        sock.listen(backlog)
        return sock

    def accepted(self) -> tuple[Any, Socket]:
        listener = self.listener()
        conn = self.peer.tcp(dport=7)
        conn.handshake()
        sock, _ = listener.accept()
        return conn, sock


@pytest.fixture
def pair() -> Pair:
    return Pair()


def _errno_of(call: Any, *args: Any) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno


def test_socket_bind_reads_back(pair):
    sock = Socket(pair.net)
    assert sock.getsockname() == ("0.0.0.0", 0)
    sock.bind(("10.0.2.2", 2222))
    assert sock.getsockname() == ("10.0.2.2", 2222)
    assert _errno_of(sock.getpeername) == errno.ENOTCONN


def test_socket_bind_twice_is_invalid(pair):
    sock = Socket(pair.net)
    sock.bind(("", 2222))
    assert _errno_of(sock.bind, ("", 2223)) == errno.EINVAL


def test_socket_bind_foreign_address_is_not_available(pair):
    sock = Socket(pair.net)
    with pytest.raises(OSError, match=r"bind to 10\.0\.2\.9:1.*dev_addr_add") as caught:
        sock.bind(("10.0.2.9", 1))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_socket_bind_name_is_a_value_error(pair):
    with pytest.raises(ValueError, match="not an IPv4 address"):
        Socket(pair.net).bind(("localhost", 1))


def test_socket_bind_port_out_of_range_is_an_overflow(pair):
    with pytest.raises(OverflowError, match="70000"):
        Socket(pair.net).bind(("", 70000))


def test_socket_bind_port_0_takes_an_ephemeral_one(pair):
    sock = Socket(pair.net)
    sock.bind(("", 0))
    assert 32768 <= sock.getsockname()[1] <= 60999


def test_socket_bind_failed_leaves_it_unbound(pair):
    pair.listener()
    sock = Socket(pair.net)
    assert _errno_of(sock.bind, ("10.0.2.2", 7)) == errno.EADDRINUSE
    assert sock.getsockname() == ("0.0.0.0", 0)
    sock.bind(("10.0.2.2", 8))


def test_listening_bind_with_reuseaddr_is_still_in_use(pair):
    pair.listener()
    sock = Socket(pair.net)
    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    assert _errno_of(sock.bind, ("10.0.2.2", 7)) == errno.EADDRINUSE


def test_socket_unknown_family_type_and_protocol_are_refused(pair):
    assert _errno_of(Socket, pair.net, 99) == errno.EAFNOSUPPORT
    assert _errno_of(Socket, pair.net, 2, 5) == errno.ESOCKTNOSUPPORT
    assert _errno_of(Socket, pair.net, 2, 1, 17) == errno.EPROTONOSUPPORT
    assert _errno_of(Socket, pair.net, 2, 99) in (errno.EINVAL, errno.ESOCKTNOSUPPORT)


def test_socket_connect_of_a_stream_goes_on_alone(pair):
    with pytest.raises(BlockingIOError, match="has begun") as caught:
        Socket(pair.net).connect(("10.0.2.15", 1))
    assert caught.value.errno == errno.EINPROGRESS


def test_socket_never_blocks(pair):
    sock = Socket(pair.net)
    assert sock.gettimeout() == 0.0
    assert not sock.getblocking()
    sock.setblocking(False)
    with pytest.raises(ValueError, match="never block"):
        sock.setblocking(True)


def test_listening_accept_without_connection_would_block(pair):
    listener = pair.listener()
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert not listener.poll() & EPOLLIN


def test_listening_handshake_wakes_and_accepts(pair):
    listener = pair.listener()
    events: list[int] = []
    listener.on_event = lambda sock, mask: events.append(mask)
    conn = pair.peer.tcp(dport=7)
    conn.handshake()
    assert any(mask & EPOLLIN for mask in events)
    assert listener.poll() & EPOLLIN
    sock, address = listener.accept()
    assert address == ("10.0.2.15", 40000)
    assert sock.getpeername() == address
    assert sock.getsockname() == ("10.0.2.2", 7)
    assert sock.poll() & EPOLLOUT
    assert "raddr=('10.0.2.15', 40000)" in repr(sock)


def test_socket_accept_without_listen_is_invalid(pair):
    sock = Socket(pair.net)
    sock.bind(("", 7))
    assert _errno_of(sock.accept) == errno.EINVAL


def test_socket_listen_on_a_datagram_socket_is_not_supported(pair):
    sock = Socket(pair.net, type=SOCK_DGRAM)
    assert _errno_of(sock.listen) == errno.EOPNOTSUPP
    assert _errno_of(sock.accept) == errno.EOPNOTSUPP


def test_established_listen_is_invalid(pair):
    _, sock = pair.accepted()
    assert _errno_of(sock.listen) == errno.EINVAL


def test_listening_listen_again_changes_the_backlog(pair):
    listener = pair.listener(backlog=5)
    listener.listen(9)
    assert listener.sk.sk_max_ack_backlog == 9
    listener.listen(1_000_000)
    assert listener.sk.sk_max_ack_backlog == 4096


def test_established_send_and_recv(pair):
    conn, sock = pair.accepted()
    assert _errno_of(sock.recv, 100) == errno.EAGAIN
    conn.send("PA", b"ping")
    pair.sim.settle()
    assert sock.poll() & EPOLLIN
    assert sock.recv(2) == b"pi"
    assert sock.recv(100) == b"ng"
    assert sock.send(b"pong") == 4
    pair.sim.settle()
    payloads = b""
    while pair.peer.inbox:
        payloads += conn.expect().payload
    assert payloads == b"pong"


def test_established_recv_peek_leaves_the_data(pair):
    conn, sock = pair.accepted()
    conn.send("PA", b"data")
    pair.sim.settle()
    assert sock.recv(100, 2) == b"data"
    assert sock.recv(100) == b"data"


def test_established_recv_into_fills_a_buffer(pair):
    conn, sock = pair.accepted()
    conn.send("PA", b"abcdef")
    pair.sim.settle()
    buffer = bytearray(4)
    assert sock.recv_into(buffer) == 4
    assert buffer == b"abcd"
    assert sock.recv_into(buffer, 1) == 1
    assert buffer == b"ebcd"


def _send_until_full(sock: Socket) -> int:
    sent = 0
    for _ in range(1000):
        try:
            sent += sock.send(bytes(50_000))
        except BlockingIOError:
            return sent
    raise AssertionError(f"the send buffer has no end: it took {sent} bytes")


def test_established_send_until_full_would_block_and_wakes_when_acknowledged(pair):
    conn, sock = pair.accepted()
    events: list[int] = []
    sock.on_event = lambda _, mask: events.append(mask)
    assert _send_until_full(sock) > 0
    assert not sock.poll() & EPOLLOUT
    for _ in range(60):
        pair.sim.settle()
        while pair.peer.inbox:
            conn.expect()
        conn.send("A")
    assert any(mask & EPOLLOUT for mask in events)
    assert sock.send(b"x") == 1


def test_established_fin_reads_as_empty(pair):
    conn, sock = pair.accepted()
    conn.send("FA")
    pair.sim.settle()
    assert sock.poll() & EPOLLRDHUP
    assert sock.recv(10) == b""
    assert sock.recv(10) == b""


def test_established_reset_raises_once_then_reads_as_empty(pair):
    conn, sock = pair.accepted()
    conn.send("RA")
    pair.sim.settle()
    with pytest.raises(ConnectionResetError):
        sock.recv(10)
    assert sock.recv(10) == b""
    with pytest.raises(BrokenPipeError):
        sock.send(b"x")


def test_established_reset_shows_in_so_error_once(pair):
    conn, sock = pair.accepted()
    conn.send("RA")
    pair.sim.settle()
    assert sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNRESET
    assert sock.getsockopt(SOL_SOCKET, SO_ERROR) == 0


def test_established_reset_before_accept_is_accepted_then_reset(pair):
    listener = pair.listener()
    conn = pair.peer.tcp(dport=7)
    conn.handshake()
    conn.send("RA")
    pair.sim.settle()
    sock, _ = listener.accept()
    with pytest.raises(ConnectionResetError):
        sock.recv(10)


def test_established_shutdown_write_sends_fin_and_still_reads(pair):
    conn, sock = pair.accepted()
    sock.shutdown(SHUT_WR)
    pair.sim.settle()
    assert conn.expect().flags == "FA"
    with pytest.raises(BrokenPipeError):
        sock.send(b"x")
    conn.send("PA", b"heard")
    pair.sim.settle()
    assert sock.recv(10) == b"heard"


def test_established_shutdown_read_reads_as_empty(pair):
    _, sock = pair.accepted()
    sock.shutdown(SHUT_RD)
    assert sock.recv(10) == b""


def test_established_shutdown_of_nonsense_is_invalid(pair):
    _, sock = pair.accepted()
    assert _errno_of(sock.shutdown, 7) == errno.EINVAL


def test_socket_shutdown_unconnected_is_not_connected(pair):
    assert _errno_of(Socket(pair.net).shutdown, SHUT_RDWR) == errno.ENOTCONN


def test_listening_shutdown_read_stops_listening(pair):
    listener = pair.listener()
    listener.shutdown(SHUT_RD)
    conn = pair.peer.tcp(dport=7)
    conn.send("S", mss=1460)
    assert conn.expect("RA", ack=1)


def test_established_close_sends_fin_and_frees_the_descriptor(pair):
    conn, sock = pair.accepted()
    fd = sock.fileno()
    with sock:
        pass
    sock.close()
    assert sock.fileno() == -1
    pair.sim.settle()
    assert conn.expect().flags == "FA"
    assert _errno_of(sock.recv, 1) == errno.EBADF
    assert _errno_of(sock.poll) == errno.EBADF
    assert Socket(pair.net).fileno() == fd


def test_established_close_with_unread_data_resets(pair):
    conn, sock = pair.accepted()
    conn.send("PA", b"unread")
    pair.sim.settle()
    pair.peer.inbox.clear()
    sock.close()
    pair.sim.settle()
    assert conn.expect().flags == "RA"


def test_established_close_with_linger_0_resets(pair):
    conn, sock = pair.accepted()
    sock.setsockopt(SOL_SOCKET, SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    pair.sim.settle()
    assert conn.expect().flags == "RA"


def test_on_event_set_to_none_is_called_no_more(pair):
    conn, sock = pair.accepted()
    events: list[int] = []
    sock.on_event = lambda _, mask: events.append(mask)
    sock.on_event = None
    conn.send("PA", b"x")
    pair.sim.settle()
    assert events == []
    assert not sock.sk.sk_wq


def test_socket_options_read_back(pair):
    sock = Socket(pair.net)
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 20000)
    assert sock.getsockopt(SOL_SOCKET, SO_RCVBUF) == 40000
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, True)
    assert sock.getsockopt(IPPROTO_TCP, TCP_NODELAY) == 1
    sock.setsockopt(IPPROTO_IP, IP_TOS, 0x10)
    assert sock.getsockopt(IPPROTO_IP, IP_TOS) == 0x10
    assert sock.getsockopt(IPPROTO_IP, IP_TTL) == 64
    assert sock.getsockopt(SOL_SOCKET, SO_LINGER, 8) == bytes(8)
    assert sock.getsockopt(SOL_SOCKET, SO_RCVBUF, 4) == (40000).to_bytes(4, "little")


def test_socket_option_unknown_is_no_protocol_option(pair):
    sock = Socket(pair.net)
    assert _errno_of(sock.setsockopt, SOL_SOCKET, 9999, 1) == errno.ENOPROTOOPT
    assert _errno_of(sock.getsockopt, IPPROTO_IP, 9999) == errno.ENOPROTOOPT
    assert _errno_of(sock.getsockopt, 77, 1) == errno.EOPNOTSUPP
    assert _errno_of(sock.setsockopt, 77, 1, 1) == errno.ENOPROTOOPT


def test_ip_ttl_and_tos_are_on_the_wire(pair):
    listener = pair.listener()
    listener.setsockopt(IPPROTO_IP, IP_TTL, 7)
    listener.setsockopt(IPPROTO_IP, IP_TOS, 0x10)
    conn = pair.peer.tcp(dport=7)
    conn.handshake()
    sock, _ = listener.accept()
    sock.send(b"x")
    pair.sim.settle()
    packet = conn.expect().packet
    assert (packet.ttl, packet.tos) == (7, 0x10)


def test_datagram_sendto_and_recvfrom(pair):
    sock = Socket(pair.net, type=SOCK_DGRAM)
    sock.bind(("10.0.2.2", 53))
    with pytest.raises(BlockingIOError):
        sock.recvfrom(100)
    pair.peer.send_udp("10.0.2.2", 5000, 53, b"question")
    pair.sim.settle()
    assert sock.recvfrom(4) == (b"ques", ("10.0.2.15", 5000))  # the rest of a datagram is lost
    assert sock.sendto(b"answer", ("10.0.2.15", 5000)) == 6
    assert sock.sendto(b"again", 0, ("10.0.2.15", 5000)) == 5
    pair.sim.settle()
    pair.peer.expect_udp(53, 5000, b"answer")
    pair.peer.expect_udp(53, 5000, b"again")


def test_datagram_sendto_unbound_takes_a_port(pair):
    sock = Socket(pair.net, type=SOCK_DGRAM)
    sock.sendto(b"x", ("10.0.2.15", 9))
    assert sock.getsockname()[1] >= 32768


def test_datagram_send_without_address_needs_one(pair):
    assert _errno_of(Socket(pair.net, type=SOCK_DGRAM).send, b"x") == errno.EDESTADDRREQ


def test_datagram_too_long_is_refused(pair):
    sock = Socket(pair.net, type=SOCK_DGRAM)
    assert _errno_of(sock.sendto, bytes(65508), ("10.0.2.15", 9)) == errno.EMSGSIZE


def test_datagram_connected_hears_its_peer_alone(pair):
    sock = Socket(pair.net, type=SOCK_DGRAM)
    sock.bind(("10.0.2.2", 53))
    sock.connect(("10.0.2.15", 5000))
    assert sock.getpeername() == ("10.0.2.15", 5000)
    pair.peer.send_udp("10.0.2.2", 5001, 53, b"stranger")
    pair.peer.send_udp("10.0.2.2", 5000, 53, b"friend")
    pair.sim.settle()
    assert sock.recv(100) == b"friend"
    assert sock.send(b"hi") == 2
    pair.peer.next_packet(1)  # the stranger's port unreachable
    pair.peer.expect_udp(53, 5000, b"hi")
