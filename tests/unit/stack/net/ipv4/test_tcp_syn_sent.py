# SPDX-License-Identifier: GPL-2.0-or-later
"""The active open: what connect() sends, what each answer does to SYN_SENT, and which port it comes from."""

from __future__ import annotations

import errno
from itertools import pairwise
from struct import unpack

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim
from stack.include.ip import (
    ICMP_DEST_UNREACH,
    ICMP_EXC_FRAGTIME,
    ICMP_EXC_TTL,
    ICMP_HOST_UNREACH,
    ICMP_NET_UNREACH,
    ICMP_PARAMETERPROB,
    ICMP_PORT_UNREACH,
    ICMP_SR_FAILED,
    ICMP_TIME_EXCEEDED,
)
from stack.include.net import MSG_ERRQUEUE, SHUT_WR
from stack.include.snmp import (
    LINUX_MIB_PAWSACTIVEREJECTED,
    LINUX_MIB_TCPSYNCHALLENGE,
    LINUX_MIB_TCPSYNRETRANS,
    LINUX_MIB_TCPTIMEOUTS,
    LINUX_MIB_TIMEWAITRECYCLED,
    TCP_MIB_ACTIVEOPENS,
    TCP_MIB_ATTEMPTFAILS,
)
from stack.include.sock import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from stack.include.tcp import SOL_TCP, TCP_INFO, TCP_MAXSEG, TCP_USER_TIMEOUT
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)
from stack.net.ipv4 import tcp_ipv4
from stack.stack import Stack

SERVER = ("10.0.2.15", 80)
ANSWER = {"mss": 1460, "sackok": True, "wscale": 7}
TCP_SYNCNT, TCP_QUICKACK, SO_ERROR, SO_REUSEADDR = 7, 12, (1, 4), (1, 2)


def connect(net: Stack, sim: Sim, *options: tuple[int, int, int], **bind: int) -> Socket:
    """A socket in SYN_SENT whose SYN is on the wire."""
    sock = Socket(net)
    for option in options:
        sock.setsockopt(*option)
    if bind:
        sock.bind(("10.0.2.2", bind["port"]))
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS
    sim.settle()
    return sock


def server(peer: RawPeer, sock: Socket, *, isn: int = 1_000_000) -> tuple[RawTcp, Segment]:
    """The raw end that the socket connects to, and the SYN."""
    conn = peer.tcp(sock.getsockname()[1], sport=80, isn=isn)
    return conn, conn.expect("S", seq=0)


def state(sock: Socket) -> int:
    return sock.sk.sk_state


def established(net: Stack, peer: RawPeer, **options: object) -> tuple[Socket, RawTcp]:
    sock = connect(net, peer.sim)
    conn, syn = server(peer, sock)
    assert syn.opts.ts is not None
    conn.send("SA", ts=(5000, syn.opts.ts[0]), **(options or ANSWER))  # type: ignore[arg-type]
    conn.ts_on, conn.ts_val = True, 5000
    conn.expect("A", seq=1, ack=1)
    return sock, conn


# -- the SYN ---------------------------------------------------------------------------------------------------------


def test_close_connect_sends_the_syn_of_linux(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    _, syn = server(peer, sock)
    assert syn.opts.kinds == (2, 4, 8, 1, 3)
    assert (syn.opts.mss, syn.opts.wscale, syn.opts.sackok, syn.window, syn.ack) == (1460, 7, True, 64240, 0)
    assert syn.opts.ts is not None
    assert syn.opts.ts[1] == 0
    assert state(sock) == TCP_SYN_SENT
    assert net.mib.tcp_statistics[TCP_MIB_ACTIVEOPENS] == 1


def test_close_connect_twice_is_ealready_and_then_eisconn(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    assert sock.connect_ex(SERVER) == errno.EALREADY
    conn, _ = server(peer, sock)
    conn.send("SA", **ANSWER)  # type: ignore[arg-type]
    sim.settle()
    assert sock.connect_ex(SERVER) == 0
    assert sock.connect_ex(SERVER) == errno.EISCONN


def test_close_connect_without_a_route_is_enetunreach(net: Stack) -> None:
    sock = Socket(net)
    assert sock.connect_ex(("192.0.2.1", 80)) == errno.ENETUNREACH
    assert state(sock) == TCP_CLOSE
    assert sock.connect_ex(("224.0.0.1", 80)) == errno.ENETUNREACH


def test_listen_connect_is_eisconn(net: Stack) -> None:
    sock = Socket(net)
    sock.bind(("0.0.0.0", 80))
    sock.listen()
    assert sock.connect_ex(SERVER) == errno.EISCONN


@pytest.mark.parametrize(
    ("profile", "times"),
    [("linux-6.1", [1, 3, 7, 15, 31, 63]), ("linux-6.18", [1, 2, 3, 4, 5, 7])],
)
def test_syn_sent_timeout_resends_then_gives_up(profile: str, times: list[int]) -> None:
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24", profile=profile)
    peer = sim.add_peer("10.0.2.15", net)
    sock = connect(net, sim)
    start = sim.now_ns()
    conn, _ = server(peer, sock)
    for due in times:
        conn.expect("S", seq=0, within_ns=70 * SEC)
        assert (sim.now_ns() - start) / SEC == pytest.approx(due, rel=0.05)
    if profile == "linux-6.18":
        return
    sim.run_for(80 * SEC)
    assert sock.getsockopt(*SO_ERROR) == errno.ETIMEDOUT
    assert net.mib.net_statistics[LINUX_MIB_TCPSYNRETRANS] == 6
    assert net.mib.net_statistics[LINUX_MIB_TCPTIMEOUTS] == 7
    assert net.mib.tcp_statistics[TCP_MIB_ATTEMPTFAILS] == 1


def test_syn_sent_timeout_by_tcp_syncnt(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim, (SOL_TCP, TCP_SYNCNT, 1))
    conn, _ = server(peer, sock)
    conn.expect("S", seq=0, within_ns=2 * SEC)
    sim.run_for(3 * SEC)
    assert sock.connect_ex(SERVER) == errno.ETIMEDOUT


def test_syn_sent_timeout_linear_ones_count_on_top_of_the_retries() -> None:
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24", sysctl={"tcp_syn_retries": 1, "tcp_syn_linear_timeouts": 2})
    peer = sim.add_peer("10.0.2.15", net)
    sock = connect(net, sim)
    sim.run_for(20 * SEC)
    assert sock.getsockopt(*SO_ERROR) == errno.ETIMEDOUT
    assert [peer.expect_segment().flags for _ in range(4)] == ["S"] * 4
    peer.expect_nothing()


@pytest.mark.parametrize("timeout", [500, 1500])
def test_syn_sent_timeout_by_tcp_user_timeout(net: Stack, peer: RawPeer, sim: Sim, timeout: int) -> None:
    sim.run_for(1 * SEC)  # a time stamp of 0 is none
    sock = connect(net, sim, (SOL_TCP, TCP_USER_TIMEOUT, timeout))
    conn, _ = server(peer, sock)
    conn.expect("S", seq=0, within_ns=2 * SEC)
    sim.run_for(1 * SEC)
    assert sock.getsockopt(*SO_ERROR) == errno.ETIMEDOUT
    peer.expect_nothing(10 * SEC)


# -- answers ---------------------------------------------------------------------------------------------------------


def test_syn_sent_synack_establishes(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock, conn = established(net, peer)
    assert state(sock) == TCP_ESTABLISHED
    assert sock.poll() & (EPOLLOUT | EPOLLIN | EPOLLERR) == EPOLLOUT
    sock.send(b"question")
    assert conn.expect("PA", seq=1, ack=1).payload == b"question"
    conn.send("PA", b"answer", ack=9)
    sim.settle()
    assert sock.recv(100) == b"answer"


def test_syn_sent_synack_window_is_not_scaled(net: Stack, peer: RawPeer) -> None:
    sock = connect(net, peer.sim)
    conn, _ = server(peer, sock)
    conn.send("SA", window=1000, **ANSWER)  # type: ignore[arg-type]
    conn.expect("A")
    assert sock.sk.snd_wnd == 1000  # type: ignore[attr-defined]
    conn.send("A", window=1000)
    peer.sim.settle()
    assert sock.sk.snd_wnd == 1000 << 7  # type: ignore[attr-defined]


def test_syn_sent_synack_without_options(net: Stack, peer: RawPeer) -> None:
    sock = connect(net, peer.sim)
    conn, _ = server(peer, sock)
    conn.send("SA")
    answer = conn.expect("A", seq=1, ack=1)
    assert answer.opts.kinds == ()
    sock.send(b"x" * 2000)
    assert len(conn.expect(seq=1).payload) == 536


def test_syn_sent_synack_data_is_left_to_be_sent_again(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send("SA", b"early", **ANSWER)  # type: ignore[arg-type]
    conn.expect("A", seq=1, ack=1)
    with pytest.raises(BlockingIOError):
        sock.recv(10)


def test_syn_sent_synack_in_pingpong_mode_is_not_acked_at_once(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim, (SOL_TCP, TCP_QUICKACK, 0))
    conn, _ = server(peer, sock)
    conn.send("SA", **ANSWER)  # type: ignore[arg-type]
    peer.expect_nothing()
    sock.send(b"question")
    conn.expect("PA", seq=1, ack=1)


def test_syn_sent_rst_with_ack_is_refused(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send("RA", seq=0)
    sim.settle()
    assert sock.poll() & (EPOLLERR | EPOLLHUP) == EPOLLERR | EPOLLHUP
    assert sock.connect_ex(SERVER) == errno.ECONNREFUSED
    assert state(sock) == TCP_CLOSE
    assert net.mib.tcp_statistics[TCP_MIB_ATTEMPTFAILS] == 1
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS  # and may try again


def test_established_disconnect_forgets_options_and_maxseg(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock, conn = established(net, peer)
    sock.setsockopt(SOL_TCP, TCP_MAXSEG, 600)
    conn.send("R")
    sim.settle()
    assert sock.connect_ex(SERVER) == errno.ECONNRESET
    info = sock.getsockopt(SOL_TCP, TCP_INFO, 232)
    assert info[5:7] == b"\0\0"  # no option, no scale
    assert int.from_bytes(info[20:24], "little") == 88  # rcv_mss
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS
    assert peer.expect_segment().opts.mss == 1460


@pytest.mark.parametrize("flags", ["R", "F", "A", "FA", "PA"])
def test_syn_sent_other_segment_is_dropped(net: Stack, peer: RawPeer, sim: Sim, flags: str) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send(flags, seq=0)
    peer.expect_nothing()
    assert state(sock) == TCP_SYN_SENT


@pytest.mark.parametrize("ack", [0, 2, 0x7FFFFFFF])
@pytest.mark.parametrize("flags", ["A", "SA"])
def test_syn_sent_wrong_ack_is_reset_and_the_syn_sent_again(
    net: Stack, peer: RawPeer, sim: Sim, flags: str, ack: int
) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send(flags, seq=5, ack=ack)
    conn.expect("R", seq=ack)
    conn.expect("S", seq=0, within_ns=12 * MSEC)
    assert state(sock) == TCP_SYN_SENT


def test_syn_sent_rst_with_wrong_ack_is_not_answered(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send("RA", seq=5, ack=9)
    peer.expect_nothing()
    assert state(sock) == TCP_SYN_SENT


@pytest.mark.parametrize("off", [-1000, 1000])
def test_syn_sent_synack_with_a_tsecr_never_sent_is_reset(
    net: Stack, peer: RawPeer, sim: Sim, off: int
) -> None:
    sock = connect(net, sim)
    conn, syn = server(peer, sock)
    assert syn.opts.ts is not None
    conn.send("SA", ts=(5000, (syn.opts.ts[0] + off) & 0xFFFFFFFF), **ANSWER)  # type: ignore[arg-type]
    conn.expect("R", seq=1)
    assert net.mib.net_statistics[LINUX_MIB_PAWSACTIVEREJECTED] == 1
    assert state(sock) == TCP_SYN_SENT


def test_syn_sent_syn_crosses_and_becomes_synack(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send("S", **ANSWER)  # type: ignore[arg-type]
    conn.expect("SA", seq=0, ack=1)
    assert state(sock) == TCP_SYN_RECV
    conn.send("A")
    sim.settle()
    assert state(sock) == TCP_ESTABLISHED
    sock.send(b"hello")
    conn.expect("PA", seq=1, ack=1)


def test_syn_recv_crossed_synack_is_sent_again(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send("S", **ANSWER)  # type: ignore[arg-type]
    conn.expect("SA", seq=0, ack=1)
    conn.expect("SA", seq=0, ack=1, within_ns=2 * SEC)


@pytest.mark.parametrize("flags", ["SA", "A"])
def test_syn_recv_crossed_second_segment_establishes(net: Stack, peer: RawPeer, sim: Sim, flags: str) -> None:
    """RFC 9293, figure 7: the peer's answer to our SYN has the number of its own SYN."""
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send("S", **ANSWER)  # type: ignore[arg-type]
    conn.expect("SA", seq=0, ack=1)
    conn.send(flags, seq=0 if "S" in flags else 1)
    sim.settle()
    assert state(sock) == TCP_ESTABLISHED
    assert net.mib.net_statistics[LINUX_MIB_TCPSYNCHALLENGE] == 0


def test_syn_recv_crossed_synack_of_something_else_is_challenged(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send("S", **ANSWER)  # type: ignore[arg-type]
    conn.expect("SA", seq=0, ack=1)
    conn.send("SA", seq=1)
    conn.expect("A", seq=1, ack=1)
    assert state(sock) == TCP_SYN_RECV


def test_syn_recv_crossed_shutdown_waits_for_the_third_segment(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    conn.send("S", **ANSWER)  # type: ignore[arg-type]
    conn.expect("SA", seq=0, ack=1)
    sock.shutdown(SHUT_WR)
    peer.expect_nothing()
    conn.send("A")
    conn.expect("FA", seq=1, ack=1)


def send_error(peer: RawPeer, syn: Segment, kind: int, code: int) -> None:
    """An ICMP error about the SYN."""
    peer.send_icmp("10.0.2.2", kind, code, 0, syn.packet.frame.data[14 : 14 + 28])
    peer.sim.settle()


@pytest.mark.parametrize(
    ("kind", "code", "error"),
    [
        (ICMP_DEST_UNREACH, ICMP_NET_UNREACH, errno.ENETUNREACH),
        (ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, errno.EHOSTUNREACH),
        (ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, errno.ECONNREFUSED),
        (ICMP_DEST_UNREACH, ICMP_SR_FAILED, errno.EOPNOTSUPP),
        (ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, errno.EHOSTUNREACH),
        (ICMP_PARAMETERPROB, 0, errno.EPROTO),
    ],
)
def test_syn_sent_icmp_error_ends_it(
    net: Stack, peer: RawPeer, sim: Sim, kind: int, code: int, error: int
) -> None:
    sock = connect(net, sim)
    send_error(peer, server(peer, sock)[1], kind, code)
    assert not sock.sk.packets_out  # type: ignore[attr-defined]
    assert sock.connect_ex(SERVER) == error
    assert sock.poll() & EPOLLERR  # the message itself can be read, with or without IP_RECVERR
    data, (control,), flags, where = sock.recvmsg(100, 200, MSG_ERRQUEUE)
    assert (len(data), where, flags) == (8, SERVER, MSG_ERRQUEUE)
    assert control[:2] == (0, 11)  # IP_RECVERR
    assert unpack("=IBBBBII", control[2][:16]) == (error, 2, kind, code, 0, 0, 0)
    assert not sock.poll() & EPOLLERR


def test_syn_sent_icmp_reassembly_time_is_of_no_interest(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    send_error(peer, server(peer, sock)[1], ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME)
    assert state(sock) == TCP_SYN_SENT


def test_syn_sent_host_without_a_link_address_is_ehostunreach(net: Stack, sim: Sim) -> None:
    sock = Socket(net)
    assert sock.connect_ex(("10.0.2.77", 80)) == errno.EINPROGRESS
    sim.run_for(5 * SEC)
    assert sock.getsockopt(*SO_ERROR) == errno.EHOSTUNREACH


# -- ECN ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "agreed"), [("SAE", True), ("SA", False), ("SAEW", False)])
def test_syn_sent_ecn_offer(answer: str, agreed: bool) -> None:
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24", sysctl={"tcp_ecn": 1})
    peer = sim.add_peer("10.0.2.15", net)
    sock = connect(net, sim)
    conn = peer.tcp(sock.getsockname()[1], sport=80)
    conn.expect("SEW", seq=0)
    conn.send(answer, **ANSWER)  # type: ignore[arg-type]
    conn.expect("A")
    sock.send(b"hello")
    segment = conn.expect("PA", seq=1)
    assert segment.packet.tos & 3 == (2 if agreed else 0)


@pytest.mark.parametrize(("fallback", "again"), [(1, "S"), (0, "SEW")])
def test_syn_sent_ecn_offer_unanswered(fallback: int, again: str) -> None:
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24", sysctl={"tcp_ecn": 1, "tcp_ecn_fallback": fallback})
    peer = sim.add_peer("10.0.2.15", net)
    sock = connect(net, sim)
    conn = peer.tcp(sock.getsockname()[1], sport=80)
    conn.expect("SEW", seq=0)
    conn.expect(again, seq=0, within_ns=2 * SEC)


# -- calls in SYN_SENT -----------------------------------------------------------------------------------------------


def test_syn_sent_send_waits(net: Stack, sim: Sim) -> None:
    sock = connect(net, sim)
    with pytest.raises(BlockingIOError):
        sock.send(b"x")
    assert sock.poll() == 0


def test_syn_sent_close_is_silent(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    conn, _ = server(peer, sock)
    sock.close()
    peer.expect_nothing(10 * SEC)
    assert not any(net.tcp_hashinfo.ehash.values())
    assert not net.tcp_hashinfo.bhash
    conn.send("SA", **ANSWER)  # type: ignore[arg-type]
    conn.expect("R", seq=1)


def test_established_close_and_the_port_is_free_again(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock, conn = established(net, peer)
    sock.close()
    conn.expect("FA", seq=1)
    assert state(sock) != TCP_FIN_WAIT2
    conn.send("FA")
    conn.expect("A")
    sim.run_for(61 * SEC)
    assert not net.tcp_hashinfo.bhash
    assert not any(net.tcp_hashinfo.ehash.values())


def test_syn_sent_connect_to_nowhere_gives_up(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim)
    assert sock.connect_ex(("0.0.0.0", 0)) == 0
    assert state(sock) == TCP_CLOSE
    assert sock.getsockopt(*SO_ERROR) == errno.ECONNRESET


# -- ports -----------------------------------------------------------------------------------------------------------


def test_close_connect_takes_even_ports_that_follow_each_other(net: Stack, sim: Sim) -> None:
    ports = [connect(net, sim).getsockname()[1] for _ in range(20)]
    assert [port % 2 for port in ports] == [0] * 20
    assert len(set(ports)) == 20
    assert all(2 <= (b - a) % 28232 <= 16 for a, b in pairwise(ports))


def test_close_connect_port_serves_many_peers(net: Stack, sim: Sim) -> None:
    net.sysctl_set("ip_local_port_range", (40000, 40001))
    socks = [Socket(net) for _ in range(3)]
    assert [s.connect_ex((f"10.0.2.{n}", 80)) for n, s in enumerate(socks, 20)] == [errno.EINPROGRESS] * 3
    assert {s.getsockname()[1] for s in socks} <= {40000, 40001}


def test_close_connect_without_a_free_port_is_eaddrnotavail(net: Stack, sim: Sim) -> None:
    net.sysctl_set("ip_local_port_range", (40000, 40003))
    for _ in range(4):
        connect(net, sim)
    sock = Socket(net)
    assert sock.connect_ex(SERVER) == errno.EADDRNOTAVAIL
    assert state(sock) == TCP_CLOSE


def test_close_connect_leaves_reserved_and_bound_ports(net: Stack, sim: Sim) -> None:
    net.sysctl_set("ip_local_port_range", (40000, 40003))
    net.sysctl_set("ip_local_reserved_ports", frozenset({40000, 40001}))
    Socket(net).bind(("0.0.0.0", 40002))
    bound = Socket(net)
    bound.bind(("0.0.0.0", 40003))
    assert Socket(net).connect_ex(SERVER) == errno.EADDRNOTAVAIL


def test_bound_connect_comes_from_its_port(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = connect(net, sim, port=50000)
    assert sock.getsockname() == ("10.0.2.2", 50000)
    server(peer, sock)


def test_bound_connect_of_a_tuple_in_use_is_eaddrnotavail(net: Stack, sim: Sim) -> None:
    reuse = (*SO_REUSEADDR, 1)
    connect(net, sim, reuse, port=50000)
    second = Socket(net)
    second.setsockopt(*reuse)
    second.bind(("10.0.2.2", 50000))
    assert second.connect_ex(SERVER) == errno.EADDRNOTAVAIL
    assert second.connect_ex(("10.0.2.16", 80)) == errno.EINPROGRESS


def test_time_wait_connect_takes_its_place_if_tcp_tw_reuse_says_so(
    net: Stack, peer: RawPeer, sim: Sim
) -> None:
    net.sysctl_set("ip_local_port_range", (40000, 40001))
    for _ in range(2):
        sock, conn = established(net, peer)
        sock.close()
        conn.expect("FA")
        conn.send("FA")
        conn.expect("A")
    assert Socket(net).connect_ex(SERVER) == errno.EADDRNOTAVAIL
    net.sysctl_set("tcp_tw_reuse", 1)
    assert Socket(net).connect_ex(SERVER) == errno.EADDRNOTAVAIL  # not within a second
    sim.run_for(2 * SEC)
    (sock, syn) = (connect(net, sim), peer.expect_segment())
    assert net.mib.net_statistics[LINUX_MIB_TIMEWAITRECYCLED] == 1
    assert syn.opts.ts is not None
    assert syn.opts.ts[1] == 5000  # the peer's last time stamp
    assert len(net.tcp_hashinfo.bhash) == 2
    assert tcp_ipv4.tcp_prot.name == sock.sk.sk_prot.name
