# SPDX-License-Identifier: GPL-2.0-or-later
"""recvmsg, sendmsg, ioctl, the error queue and time stamps, on the Stack alone; tests/differential compares them with a
live kernel."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from stack.api.bsd import AF_INET6, SOCK_DGRAM, Socket
from stack.api.sim import RawPeer, Sim
from stack.include.net import (
    FIONBIO,
    MSG_CTRUNC,
    MSG_ERRQUEUE,
    MSG_PEEK,
    MSG_TRUNC,
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
)
from stack.include.net_tstamp import (
    SCM_TSTAMP_ACK,
    SCM_TSTAMP_SCHED,
    SCM_TSTAMP_SND,
    SOF_TIMESTAMPING_OPT_ID,
    SOF_TIMESTAMPING_OPT_TSONLY,
    SOF_TIMESTAMPING_SOFTWARE,
    SOF_TIMESTAMPING_TX_ACK,
    SOF_TIMESTAMPING_TX_SCHED,
    SOF_TIMESTAMPING_TX_SOFTWARE,
)
from stack.include.sock import EPOLLERR, EPOLLPRI
from stack.net.core.sock import SO_SELECT_ERR_QUEUE, SO_TIMESTAMPING, SO_TIMESTAMPNS, SOL_SOCKET
from stack.stack import Stack

MSEC = 1_000_000
TCP_INQ, IP_RECVERR, IPV6_RECVERR, IP_PKTINFO, IP_RECVTTL = 36, 11, 25, 8, 12
STAMPS = (
    SOF_TIMESTAMPING_TX_SOFTWARE
    | SOF_TIMESTAMPING_TX_SCHED
    | SOF_TIMESTAMPING_TX_ACK
    | SOF_TIMESTAMPING_SOFTWARE
    | SOF_TIMESTAMPING_OPT_ID
    | SOF_TIMESTAMPING_OPT_TSONLY
)


class World:
    def __init__(self) -> None:
        self.sim = Sim(seed=5)
        self.net: Stack = self.sim.add_stack("10.0.2.2/24", "fd00::2/64")
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net, addr6="fd00::15", delay_ns=5 * MSEC)

    def accepted(self) -> tuple[Any, Socket]:
        listener = Socket(self.net)
        listener.bind(("", 7))
        listener.listen()
        conn = self.peer.tcp(dport=7)
        conn.handshake()
        self.sim.run_for(10 * MSEC)
        return conn, listener.accept4(SOCK_NONBLOCK | SOCK_CLOEXEC)[0]

    def datagram(self, family: int = 2, peer: Any = ("10.0.2.15", 9)) -> Socket:
        sock = Socket(self.net, family, SOCK_DGRAM)
        sock.bind(("", 7))
        if peer:
            sock.connect(peer)
        return sock

    def pass_time(self, ms: int = 20) -> None:
        self.sim.run_for(ms * MSEC)


@pytest.fixture
def world() -> World:
    return World()


def err(call: Any, *args: Any) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno


def test_socket_flags_of_socket_and_accept4(world: World) -> None:
    sock = Socket(world.net, type=1 | SOCK_NONBLOCK | SOCK_CLOEXEC)
    assert sock.type == 1
    assert err(lambda: Socket(world.net, type=1 | 0x100000)) == errno.EINVAL
    sock.bind(("", 80))
    sock.listen()
    assert err(sock.accept4, 1) == errno.EINVAL
    assert err(sock.accept4, SOCK_NONBLOCK) == errno.EAGAIN


def test_established_trunc_throws_away(world: World) -> None:
    conn, sock = world.accepted()
    conn.send("PA", b"hello world")
    world.pass_time()
    assert sock.recv(6, MSG_TRUNC) == bytes(6)
    buffer = bytearray(b"....")
    assert sock.recv_into(buffer, 2, MSG_TRUNC) == 2
    assert buffer == b"...."
    assert sock.recvmsg(99) == (b"rld", [], 0, None)


def test_established_inq_tells_what_is_left(world: World) -> None:
    conn, sock = world.accepted()
    sock.setsockopt(6, TCP_INQ, 1)
    conn.send("FPA", b"hello")
    world.pass_time()
    left = lambda n: [(6, TCP_INQ, n.to_bytes(4, "little"))]  # noqa: E731
    assert sock.recvmsg(2, 64) == (b"he", left(4), 0, None)
    assert sock.recvmsg(3, 64) == (b"llo", left(1), 0, None)
    assert sock.recvmsg(9, 64) == (b"", left(1), 0, None)


def test_established_no_room_for_ancillary_data_is_told(world: World) -> None:
    conn, sock = world.accepted()
    sock.setsockopt(6, TCP_INQ, 1)
    conn.send("PA", b"hello")
    world.pass_time()
    assert sock.recvmsg(1, 8) == (b"h", [], MSG_CTRUNC, None)
    assert sock.recvmsg(1, 18) == (b"e", [(6, TCP_INQ, b"\3\0")], MSG_CTRUNC, None)


def test_established_ioctl_counts_both_queues(world: World) -> None:
    conn, sock = world.accepted()
    conn.send("PA", b"hel", window=12)
    conn.send("PA", b"lo", window=12)  # 1536 bytes
    world.pass_time()
    sock.send(bytes(2000))
    assert [sock.ioctl(n) for n in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD, FIONBIO)] == [5, 2000, 552, 0]
    assert err(sock.ioctl, 0x5499) == errno.ENOTTY
    sock.close()
    assert err(sock.ioctl, SIOCINQ) == errno.EBADF


def _stamps(sock: Socket) -> list[tuple[int, int, int]]:
    """(kind, number, time in ms of the epoch) of what waits in the error queue, each without data."""
    found = []
    while sock.poll() & EPOLLERR:
        data, control, flags, _ = sock.recvmsg(0, 256, MSG_ERRQUEUE)
        (_, kind, time), (_, _, error) = control
        assert (data, kind, flags) == (b"", SO_TIMESTAMPING, MSG_ERRQUEUE)
        number, origin, _, _, _, info, ident = struct.unpack("=IBBBBII", error[:16])
        assert (number, origin) == (errno.ENOMSG, 4)
        seconds, nanos = struct.unpack_from("=qq", time)
        found.append((info, ident, seconds * 1000 + nanos // MSEC))
    return found


def test_established_write_is_stamped_when_queued_sent_and_acknowledged(world: World) -> None:
    conn, sock = world.accepted()
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, STAMPS)
    now = world.net.clock.real_ns() // MSEC
    sock.send(b"hello")
    sock.send(b"!!", 0)
    world.pass_time(5)
    conn.expect("PA", payload=b"hello")
    conn.send("A")
    world.pass_time(5)
    stamps = _stamps(sock)
    assert stamps[:3] == [(SCM_TSTAMP_SCHED, 4, now), (SCM_TSTAMP_SND, 4, now), (SCM_TSTAMP_ACK, 4, now + 10)]
    assert [kind for kind, ident, _ in stamps[3:] if ident == 6] == [SCM_TSTAMP_SCHED, SCM_TSTAMP_SND]


def test_established_one_call_asks_for_its_own_stamps(world: World) -> None:
    _, sock = world.accepted()
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, STAMPS & ~0x302)
    sock.send(b"without")
    wanted = SOF_TIMESTAMPING_TX_SCHED.to_bytes(4, "little")
    assert sock.sendmsg([b"wi", b"th"], [(SOL_SOCKET, SO_TIMESTAMPING, wanted)]) == 4
    world.pass_time()
    bad = (1 << 4).to_bytes(4, "little")
    assert err(sock.sendmsg, [b"x"], [(SOL_SOCKET, SO_TIMESTAMPING, bad)]) == errno.EINVAL
    assert [(kind, ident) for kind, ident, _ in _stamps(sock)] in ([], [(SCM_TSTAMP_SCHED, 10)])


def test_established_stamp_follows_its_byte_when_the_packet_is_cut(world: World) -> None:
    conn, sock = world.accepted()
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPING, STAMPS & ~0x102)
    sock.send(b"x" * 3000)
    world.pass_time(6)
    conn.send("A", ack=1461)
    world.pass_time(6)
    assert _stamps(sock) == []
    conn.send("A", ack=3001)
    world.pass_time(6)
    assert [(kind, ident) for kind, ident, _ in _stamps(sock)] == [(SCM_TSTAMP_ACK, 2999)]


def test_received_time_is_kept_only_while_somebody_asks(world: World) -> None:
    conn, sock = world.accepted()
    assert world.net.core.netstamp_needed == 0
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPNS, 1)
    assert world.net.core.netstamp_needed == 1
    conn.send("PA", b"hello")
    came = world.net.clock.real_ns() + 5 * MSEC
    world.pass_time()
    _, ((level, kind, time),), _, _ = sock.recvmsg(9, 64)
    assert (level, kind, struct.unpack("=qq", time)) == (SOL_SOCKET, SO_TIMESTAMPNS, divmod(came, 10**9))
    sock.setsockopt(SOL_SOCKET, SO_TIMESTAMPNS, 0)
    assert world.net.core.netstamp_needed == 0


def test_listener_passes_time_stamps_on_to_its_children(world: World) -> None:
    listener = Socket(world.net)
    listener.setsockopt(SOL_SOCKET, SO_TIMESTAMPNS, 1)
    listener.bind(("", 7))
    listener.listen()
    conn = world.peer.tcp(dport=7)
    conn.handshake()
    world.pass_time()
    sock = listener.accept()[0]
    assert world.net.core.netstamp_needed == 2
    listener.close()
    conn.send("R")
    world.pass_time()
    sock.close()
    assert world.net.core.netstamp_needed == 0


def _quoted(sport: int, dport: int) -> bytes:
    udp = struct.pack("!HHHH", sport, dport, 13, 0) + b"hello"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    return head + bytes((10, 0, 2, 2, 10, 0, 2, 15)) + udp


def test_datagram_refused_is_in_the_error_queue_with_who_said_so(world: World) -> None:
    sock = world.datagram()
    sock.setsockopt(0, IP_RECVERR, 1)
    sock.setsockopt(SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1)
    sock.send(b"hello")
    world.peer.send_icmp("10.0.2.2", 3, 3, data=_quoted(7, 9))
    world.pass_time()
    assert sock.poll() & (EPOLLERR | EPOLLPRI) == EPOLLERR | EPOLLPRI
    data, ((level, kind, error),), flags, peer = sock.recvmsg(3, 256, MSG_ERRQUEUE)
    assert (data, level, kind, flags, peer) == (
        b"hel",
        0,
        IP_RECVERR,
        MSG_ERRQUEUE | MSG_TRUNC,
        ("10.0.2.15", 9),
    )
    assert struct.unpack("=IBBBBIIHH4s8x", error) == (111, 2, 3, 3, 0, 0, 0, 2, 0, bytes((10, 0, 2, 15)))
    assert err(sock.recvmsg, 9, 0, MSG_ERRQUEUE) == errno.EAGAIN
    assert err(sock.recv, 9) == errno.EAGAIN


def test_datagram_too_long_for_the_path_says_how_long_it_may_be(world: World) -> None:
    sock = world.datagram()
    sock.setsockopt(0, IP_RECVERR, 1)
    sock.setsockopt(0, 10, 2)  # IP_MTU_DISCOVER: IP_PMTUDISC_DO
    assert err(sock.send, bytes(2000)) == errno.EMSGSIZE
    _, ((_, _, error),), _, peer = sock.recvmsg(9, 256, MSG_ERRQUEUE)
    assert struct.unpack("=IBBBBII16x", error) == (errno.EMSGSIZE, 1, 0, 0, 0, 1500, 0)
    assert peer == ("10.0.2.15", 9)


def test_datagram6_unreachable_is_in_the_error_queue(world: World) -> None:
    sock = world.datagram(AF_INET6, ("fd00::15", 9))
    sock.setsockopt(41, IPV6_RECVERR, 1)
    sock.send(b"hello")
    world.pass_time()
    world.peer.send_icmp6("fd00::2", 1, 4, data=_last_frame(world))
    world.pass_time()
    data, ((level, kind, error),), flags, peer = sock.recvmsg(99, 256, MSG_ERRQUEUE)
    assert (data, level, kind, flags, peer[:2]) == (b"hello", 41, IPV6_RECVERR, MSG_ERRQUEUE, ("fd00::15", 9))
    assert struct.unpack_from("=IBBBB", error) == (111, 3, 1, 4, 0)
    assert len(error) == 44


def _last_frame(world: World) -> bytes:
    return next(
        f.data[14:] for f in reversed(world.sim.frames) if f.data[12:14] == b"\x86\xdd" and f.data[20] == 17
    )


def test_datagram_pktinfo_both_ways(world: World) -> None:
    sock = world.datagram(peer=None)
    sock.setsockopt(0, IP_PKTINFO, 1)
    sock.setsockopt(0, IP_RECVTTL, 1)
    world.peer.send_udp("10.0.2.2", 9, 7, b"hello")
    world.pass_time()
    info = struct.pack("=I4s4s", 2, bytes((10, 0, 2, 2)), bytes((10, 0, 2, 2)))
    control = [(0, IP_PKTINFO, info), (0, 2, (64).to_bytes(4, "little"))]
    assert sock.recvmsg(9, 64) == (b"hello", control, 0, ("10.0.2.15", 9))
    assert sock.sendmsg([b"back"], [(0, IP_PKTINFO, info)], 0, ("10.0.2.15", 9)) == 4
    assert err(sock.sendmsg, [b"x"], [(0, IP_PKTINFO, b"short")], 0, ("10.0.2.15", 9)) == errno.EINVAL


def test_datagram_trunc_tells_the_whole_length(world: World) -> None:
    sock = world.datagram()
    world.peer.send_udp("10.0.2.2", 9, 7, b"hello")
    world.pass_time()
    assert sock.ioctl(SIOCINQ) == 5
    assert sock.recv(2, MSG_TRUNC | MSG_PEEK) == b"he\0\0\0"
    assert sock.recvmsg(2)[2] == MSG_TRUNC
    assert sock.ioctl(SIOCINQ) == 0


def test_datagram_shutdown_send_is_epipe_and_a_discard(world: World) -> None:
    sock = world.datagram()
    sock.shutdown(2)
    assert err(sock.send, b"x") == errno.EPIPE
    assert err(sock.recv, 9) == errno.EAGAIN
