# SPDX-License-Identifier: GPL-2.0-or-later
"""Around the passive open: ports, what children inherit, both limits of challenge ACKs, ICMP errors, linger, keepalive.

The bind table and the answers to Accurate ECN's SYN were measured on Linux 6.18, the latter on 6.1 and 7.3 too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import AF_INET, AF_INET6, Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Sim
from stack.include.tcp_states import TCP_CLOSE, TCP_ESTABLISHED, TCP_FIN_WAIT2
from stack.net.ipv4 import proc
from stack.net.socket import sys_connect
from stack.stack import Stack

Listen = Callable[..., Socket]
Make = Callable[..., Any]

SOL_IP, SOL_SOCKET, SOL_TCP, SOL_IPV6 = 0, 1, 6, 41
IP_TOS, IP_TTL, IP_OPTIONS, IP_MTU_DISCOVER, IP_RECVERR, IP_MINTTL = 1, 2, 4, 10, 11, 21
SO_BINDTODEVICE, SO_INCOMING_CPU, SO_BINDTOIFINDEX, IPV6_V6ONLY = 25, 49, 62, 26
TCP_DEFER_ACCEPT, TCP_FASTOPEN, TCP_INQ = 9, 23, 36
SO_REUSEADDR, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_PRIORITY, SO_LINGER, SO_REUSEPORT = (
    2,
    7,
    8,
    9,
    12,
    13,
    15,
)
TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT = 1, 2, 3, 4, 5, 6
TCP_LINGER2, TCP_CONGESTION, TCP_USER_TIMEOUT, TCP_NOTSENT_LOWAT = 8, 13, 18, 25


def counter(net: Stack, name: str) -> int:
    return proc.counters(net).get(name, 0)


# -- ports -------------------------------------------------------------------------------------------------------

OPTIONS: tuple[tuple[int, ...], ...] = ((), (SO_REUSEADDR,), (SO_REUSEPORT,), (SO_REUSEADDR, SO_REUSEPORT))
ADDRS = ("0.0.0.0", "10.0.2.2", "10.0.2.3")
# A row per options and address of the first socket, a column per options and address of the second: "b" its bind()
# fails, "l" bind() works and listen() fails, "." both work.
FIRST_BOUND = """
bbbbbbbbbbbb bb.bb.bb.bb. b.bb.bb.bb.b
bbb...bbb... bb....bb.... b.b...b.b...
bbbbbb...... bb.bb....... b.bb.b......
bbb......... bb.......... b.b.........
"""
FIRST_LISTENS = """
bbbbbbbbbbbb bb.bb.bb.bb. b.bb.bb.bb.b
bbbbbbbbbbbb bb.bb.bb.bb. b.bb.bb.bb.b
bbbbbb...... bb.bb....... b.bb.b......
bbbbbb...... bb.bb....... b.bb.b......
"""


def fresh(net: Stack, options: tuple[int, ...]) -> Socket:
    sock = Socket(net)
    for option in options:
        sock.setsockopt(SOL_SOCKET, option, 1)
    return sock


def outcome(net: Stack, options: tuple[int, ...], addr: str) -> str:
    sock = fresh(net, options)
    try:
        sock.bind((addr, 80))
    except OSError:
        return "b"
    try:
        sock.listen(1)
    except OSError:
        return "l"
    finally:
        sock.close()
    return "."


@pytest.mark.parametrize(("listening", "table"), [(False, FIRST_BOUND), (True, FIRST_LISTENS)])
@pytest.mark.parametrize("row", range(12))
def test_bind_conflicts_as_in_the_measured_table(listening: bool, table: str, row: int, net: Stack) -> None:
    first = fresh(net, OPTIONS[row // 3])
    first.bind((ADDRS[row % 3], 80))
    if listening:
        first.listen(1)
    got = "".join(outcome(net, options, addr) for options in OPTIONS for addr in ADDRS)
    assert got == table.split()[row]


@pytest.mark.parametrize("reuse", [False, True])
def test_bind_again_over_children_and_time_wait_needs_reuseaddr(
    reuse: bool, listen: Listen, peer: RawPeer, net: Stack
) -> None:
    before = ((SOL_SOCKET, SO_REUSEADDR, 1),) if reuse else ()
    sock = listen(before=before)
    for sport in (1, 2):
        peer.tcp(80, sport=sport).handshake()
    first, _second = sock.accept()[0], sock.accept()[0]
    first.close()
    sock.close()
    if reuse:
        listen(before=before).close()
    else:
        with pytest.raises(OSError, match="in use"):
            listen()


def test_bind_any_port_with_reuseaddr_takes_the_lower_half_first(net: Stack) -> None:
    net.sysctl_set("ip_local_port_range", (40000, 40015))
    ports = []
    for _ in range(8):
        sock = fresh(net, (SO_REUSEADDR,))
        sock.bind(("", 0))
        ports.append(sock.getsockname()[1])
    assert sorted(ports) == list(range(40000, 40008))


# -- inheritance -------------------------------------------------------------------------------------------------

INHERITED: list[tuple[int, int, int, int]] = [
    (SOL_IP, IP_TOS, 0x10, 0x10),
    (SOL_IP, IP_TTL, 33, 33),
    (SOL_IP, IP_MTU_DISCOVER, 0, 0),
    (SOL_IP, IP_RECVERR, 1, 1),
    (SOL_IP, IP_MINTTL, 5, 5),
    (SOL_SOCKET, SO_SNDBUF, 30000, 60000),
    (SOL_SOCKET, SO_RCVBUF, 40000, 80000),
    (SOL_SOCKET, SO_KEEPALIVE, 1, 1),
    (SOL_SOCKET, SO_REUSEADDR, 1, 1),
    (SOL_TCP, TCP_NODELAY, 1, 1),
    (SOL_TCP, TCP_MAXSEG, 700, 688),
    (SOL_TCP, TCP_CORK, 1, 1),
    (SOL_TCP, TCP_KEEPIDLE, 44, 44),
    (SOL_TCP, TCP_KEEPINTVL, 45, 45),
    (SOL_TCP, TCP_KEEPCNT, 4, 4),
    (SOL_TCP, TCP_LINGER2, 7, 7),
    (SOL_TCP, TCP_USER_TIMEOUT, 777, 777),
    (SOL_TCP, TCP_NOTSENT_LOWAT, 5000, 5000),
    (SOL_TCP, TCP_INQ, 1, 1),
]


@pytest.mark.parametrize(("level", "option", "value", "read"), INHERITED)
def test_listen_child_inherits_the_option(
    level: int, option: int, value: int, read: int, established: Make
) -> None:
    child = established(before=((level, option, value),)).sock
    assert child.getsockopt(level, option) == read
    assert established().sock.getsockopt(level, option) != read


# What a child does not have from its listener, as measured on 6.18: the packet's own IP options, priority 0, the MSS
# less the time stamp, no Fast Open queue, the processor that made it.
NOT_INHERITED = {
    (SOL_IP, IP_OPTIONS),
    (SOL_SOCKET, SO_PRIORITY),
    (SOL_TCP, TCP_MAXSEG),
    (SOL_TCP, TCP_FASTOPEN),
    (SOL_SOCKET, SO_INCOMING_CPU),
}
LEVELS = (SOL_IP, SOL_SOCKET, SOL_TCP, SOL_IPV6)


def _changed(sock: Socket, level: int, option: int) -> bool:
    """Whether some number makes the option read back otherwise than before."""
    try:
        before = sock.getsockopt(level, option)
    except OSError:
        return False
    for value in (1, 3, 0, 200, 40000):
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)
            if sock.getsockopt(level, option) != before:
                return True
    return False


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.18"])
@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_listen_child_inherits_every_other_option(profile: str, family: int) -> None:
    sim = Sim(seed=1)
    net = sim.add_stack("10.0.2.2/24", "fd00::2/64", profile=profile)
    peer = sim.add_peer("10.0.2.15", net, addr6="fd00::15")
    listener = Socket(net, family)
    not_set = {
        *((SOL_SOCKET, SO_BINDTODEVICE), (SOL_SOCKET, SO_BINDTOIFINDEX), (SOL_SOCKET, SO_REUSEPORT)),
        *((SOL_IPV6, IPV6_V6ONLY), (SOL_TCP, TCP_DEFER_ACCEPT)),
    }
    options = [
        (level, option)
        for level in LEVELS
        for option in range(90)
        if (level, option) not in not_set and _changed(listener, level, option)
    ]
    listener.setsockopt(SOL_SOCKET, SO_RCVBUF, 100_000)
    listener.bind(("" if family == AF_INET else "::", 80))
    listener.listen(5)
    wanted = {where: listener.getsockopt(*where) for where in options}
    peer.tcp(80, dst="10.0.2.2" if family == AF_INET else "fd00::2").handshake()
    child, _ = listener.accept()
    found = {where: child.getsockopt(*where) for where in options}
    different = {where for where in options if found[where] != wanted[where]}
    assert len(options) > 40
    assert different <= NOT_INHERITED
    assert found[SOL_SOCKET, SO_PRIORITY] == 0
    assert found[SOL_SOCKET, SO_INCOMING_CPU] == 0


def test_established_disconnect_forgets_the_window_and_the_timeouts(established: Make) -> None:
    """The next connection offers a window scale of its own, and TCP_INFO counts its own timeouts (measured on 6.18)."""
    e = established()
    e.sock.send(b"lost")
    e.sim.run_for(3 * SEC)
    assert e.sk.total_rto
    sys_connect(e.net, e.sock.fileno(), (0, 0))
    assert (e.sk.window_clamp, e.sk.total_rto, e.sk.rto_stamp, e.sk.undo_marker) == (0, 0, 0, 0)


def test_listen_child_inherits_congestion_control_and_linger(established: Make) -> None:
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    before = ((SOL_TCP, TCP_CONGESTION, b"reno"), (SOL_SOCKET, SO_LINGER, linger))
    e = established(before=before)
    assert e.sock.getsockopt(SOL_TCP, TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
    e.sock.close()
    e.conn.expect("RA")


def test_listen_child_keepalive_runs_without_the_application(established: Make) -> None:
    before = ((SOL_SOCKET, SO_KEEPALIVE, 1), (SOL_TCP, TCP_KEEPIDLE, 5), (SOL_TCP, TCP_KEEPINTVL, 2))
    e = established(before=(*before, (SOL_TCP, TCP_KEEPCNT, 2)))
    segments = e.flight(30 * SEC)
    assert [(e.rel(s), s.flags) for s in segments] == [(0, "A"), (0, "A"), (1, "RA")]
    assert e.sk.sk_state == TCP_CLOSE


def test_established_keepalive_user_timeout_ends_it_before_the_count(established: Make) -> None:
    options = ((SO_KEEPALIVE, SOL_SOCKET, 1), (TCP_KEEPIDLE, SOL_TCP, 5), (TCP_KEEPINTVL, SOL_TCP, 2))
    before = (*((level, name, value) for name, level, value in options), (SOL_TCP, TCP_USER_TIMEOUT, 8000))
    e = established(before=before)
    start = e.sim.now_ns()
    segments = e.flight(60 * SEC)
    assert [s.flags for s in segments] == ["A", "A", "RA"]
    assert 8 <= (segments[-1].packet.time_ns - start) / SEC <= 10
    with pytest.raises(TimeoutError):
        e.sock.recv(1)


# -- what is kept of the SYN -------------------------------------------------------------------------------------

TCP_SAVE_SYN, TCP_SAVED_SYN, IP_OPTIONS = 27, 28, 4
US = bytes((10, 0, 2, 2))
RECORD = bytes((7, 11, 4)) + bytes(9)


def child_of_syn(peer: RawPeer, sock: Socket, **fields: Any) -> tuple[RawTcp, Socket, bytes]:
    """The raw end, the child, and the IP options of its SYN-ACK."""
    conn = peer.tcp(80)
    conn.send("S", mss=1460, **fields)
    options = conn.expect("SA").packet.ip_options
    conn.send("A")
    peer.sim.settle()
    return conn, sock.accept()[0], options


@pytest.mark.parametrize(("save", "start"), [(0, None), (1, 14), (2, 0)])
def test_listen_saved_syn_has_its_headers_and_is_read_once(
    save: int, start: int | None, listen: Listen, peer: RawPeer, sim: Sim
) -> None:
    sock = listen(before=((SOL_TCP, TCP_SAVE_SYN, save),))
    _, child, _ = child_of_syn(peer, sock)
    (syn, *_) = [f.data for f in sim.frames if f.src == peer.name and f.data[12:14] == b"\x08\0"]
    saved = child.getsockopt(SOL_TCP, TCP_SAVED_SYN, 500)
    assert saved == (b"" if start is None else syn[start : 14 + 44])
    assert child.getsockopt(SOL_TCP, TCP_SAVED_SYN, 500) == b""


def test_listen_syn_with_record_route_gives_it_to_all_that_the_child_sends(
    listen: Listen, peer: RawPeer
) -> None:
    sock = listen(before=((SOL_TCP, TCP_SAVE_SYN, 1),))
    conn, child, synack = child_of_syn(peer, sock, ip_options=RECORD)
    sent = bytes((7, 11, 12)) + US + US + b"\0"
    assert synack == sent
    assert child.getsockopt(SOL_TCP, TCP_SAVED_SYN, 500)[20:32] == bytes((7, 11, 8)) + US + bytes(5)
    assert child.getsockopt(SOL_IP, IP_OPTIONS, 40) == bytes((7, 11, 8)) + US + bytes(5)
    assert child.getsockopt(SOL_TCP, TCP_MAXSEG) == 1460 - 12
    child.send(b"x" * 3000)
    segment = conn.expect(length=1448)
    assert segment.packet.ip_options == sent


@pytest.mark.parametrize("options", [bytes((148, 4, 0, 0)), b"\1\1\1\1"])
def test_listen_syn_with_other_options_is_answered_without(
    options: bytes, listen: Listen, peer: RawPeer
) -> None:
    _, child, synack = child_of_syn(peer, listen(), ip_options=options)
    assert synack == b""
    assert child.getsockopt(SOL_TCP, TCP_MAXSEG) == 1460


def test_established_options_set_by_the_application_are_filled_when_sent(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_IP, IP_OPTIONS, RECORD)
    assert e.sock.getsockopt(SOL_IP, IP_OPTIONS, 40) == RECORD
    e.sock.send(b"x")
    assert e.conn.expect(length=1).packet.ip_options == bytes((7, 11, 8)) + US + bytes(5)
    with pytest.raises(OSError, match="invalid"):
        e.sock.setsockopt(SOL_IP, IP_OPTIONS, bytes((7, 1, 4, 0)))


# -- closing -----------------------------------------------------------------------------------------------------


def test_fin_wait2_closed_with_negative_linger2_resets_at_once(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_TCP, TCP_LINGER2, -1)
    e.sock.shutdown(1)
    e.conn.expect("FA")
    e.conn.send("A")
    e.sim.settle()
    assert e.sk.sk_state == TCP_FIN_WAIT2
    e.sock.close()
    e.conn.expect("RA")
    assert counter(e.net, "TcpExtTCPAbortOnLinger") == 1


def test_fin_wait2_closed_lasts_linger2_seconds(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_TCP, TCP_LINGER2, 3)
    e.sock.shutdown(1)
    e.conn.expect("FA")
    e.conn.send("A")
    e.sim.settle()
    e.sock.close()
    assert [tw["substate"] for tw in e.net.snapshot()["tcp"]["time_wait"]] == ["FIN_WAIT2"]
    e.sim.run_for(2900 * MSEC)
    assert len(e.net.snapshot()["tcp"]["time_wait"]) == 1
    e.sim.run_for(400 * MSEC)
    assert e.net.snapshot()["tcp"]["time_wait"] == []


def test_established_close_with_linger_time_still_sends_all_and_fin(established: Make) -> None:
    e = established()
    e.sock.setsockopt(SOL_SOCKET, SO_LINGER, (1).to_bytes(4, "little") + (5).to_bytes(4, "little"))
    e.sock.send(b"last words")
    e.sock.close()
    assert e.conn.expect().payload == b"last words"
    e.conn.expect("FA", seq=11)


# -- challenge ACKs ----------------------------------------------------------------------------------------------


def challenges(sim: Sim, limit: int | None, seconds: int, profile: str = "linux-6.1") -> list[int]:
    """How many of 40 connections get a challenge ACK for a SYN, each second."""
    sysctl = {} if limit is None else {"tcp_challenge_ack_limit": limit}
    net = sim.add_stack("10.0.2.2/24", sysctl=sysctl, profile=profile)
    peer = sim.add_peer("10.0.2.15", net)
    sock = Socket(net)
    sock.bind(("", 80))
    sock.listen(100)
    conns: list[RawTcp] = []
    for i in range(40):
        conns.append(peer.tcp(80, sport=1000 + i))
        conns[-1].handshake(ts=False)
    counts = []
    for _ in range(seconds):
        sim.run_until((sim.now_ns() // SEC + 1) * SEC)
        before = counter(net, "TcpExtTCPChallengeACK")
        for conn in conns:
            conn.send("S", seq=1)
        sim.settle()
        counts.append(counter(net, "TcpExtTCPChallengeACK") - before)
        peer.inbox.clear()
    return counts


def test_established_challenges_have_no_limit_of_the_host_by_default(sim: Sim) -> None:
    assert challenges(sim, None, 2) == [40, 40]


def test_established_challenges_of_all_connections_are_limited_by_the_host(sim: Sim) -> None:
    counts = challenges(sim, 10, 12)
    assert all(5 <= count < 15 for count in counts)
    assert len(set(counts)) > 2  # drawn anew each second
    assert challenges(Sim(seed=7), 0, 1) == [0]


def test_established_challenge_of_one_connection_every_half_second(established: Make) -> None:
    e = established()
    counts = []
    for _ in range(8):
        e.conn.send("S", seq=1)
        e.flight(200 * MSEC)
        counts.append(counter(e.net, "TcpExtTCPChallengeACK"))
    assert counts == [1, 1, 1, 2, 2, 2, 3, 3]
    assert counter(e.net, "TcpExtTCPACKSkippedChallenge") == 5


# -- ICMP errors -------------------------------------------------------------------------------------------------


def icmp(conn: RawTcp, code: int, seq: int, *, mtu: int = 0, ttl: int = 64, sport: int = 80) -> None:
    """A destination unreachable that quotes a segment of ours with that sequence number, relative to our SYN."""
    numbers = sport.to_bytes(2, "big") + conn.sport.to_bytes(2, "big")
    quoted = numbers + ((conn.irs or 0) + seq & 0xFFFFFFFF).to_bytes(4, "big")
    packet = conn.peer.ip_packet(6, quoted, conn.peer.addr, src="10.0.2.2", ttl=ttl)
    conn.peer.send_icmp("10.0.2.2", 3, code, mtu, packet)
    conn.peer.sim.settle()


def test_listen_icmp_error_about_a_listener_counts_as_wrong(
    listen: Listen, peer: RawPeer, net: Stack
) -> None:
    sock = listen()
    icmp(peer.tcp(80), 1, 0)
    assert counter(net, "IcmpInErrors") == 1
    assert (sock.sk.sk_err, sock.sk.sk_err_soft) == (0, 0)


def test_established_icmp_error_below_the_minimum_ttl_is_ignored(established: Make) -> None:
    e = established(before=((SOL_IP, IP_MINTTL, 50),))
    e.sock.send(b"x")
    e.flight()
    icmp(e.conn, 1, 1, ttl=49)
    assert (e.sk.sk_err_soft, counter(e.net, "TcpExtTCPMinTTLDrop")) == (0, 1)
    icmp(e.conn, 1, 1, ttl=50)
    assert e.sk.sk_err_soft == 113


def test_established_unreachable_after_rtos_takes_a_doubling_back(established: Make) -> None:
    e = established(sysctl={"tcp_early_retrans": 0})
    e.sock.send(b"x")
    e.flight(3 * SEC)  # resent at 0.2, 0.6, 1.4; the next at 3.1
    backoff = e.sk.icsk_backoff
    assert backoff == 3
    sent = len(e.flight(0))
    icmp(e.conn, 1, 1)
    # 1.6 s have passed since the last one, the shorter timeout of 0.8 s is over: resent at once, and doubled again.
    assert sent == 0
    assert [e.rel(s) for s in e.flight(0)] == [1]
    assert e.sk.icsk_backoff == backoff
    e.flight(100 * MSEC)
    icmp(e.conn, 1, 1)
    assert e.sk.icsk_backoff == backoff - 1
    assert e.flight(600 * MSEC) == []
    assert len(e.flight(200 * MSEC)) == 1


def test_established_unreachable_of_a_port_leaves_the_timeout(established: Make) -> None:
    e = established(sysctl={"tcp_early_retrans": 0})
    e.sock.send(b"x")
    e.flight(3 * SEC)
    icmp(e.conn, 3, 1)
    assert e.sk.icsk_backoff == 3
    assert e.flight() == []


def test_established_fragmentation_needed_below_the_minimum_gives_up_df(established: Make) -> None:
    e = established()
    e.sock.send(b"x" * 1400)
    e.flight()
    icmp(e.conn, 4, 1, mtu=100)
    resent = e.flight(0)
    assert [len(s.payload) for s in resent] == [500, 500, 400]
    assert not any(s.packet.df for s in resent)
    assert e.sk.sk_state == TCP_ESTABLISHED


def test_established_fragmentation_needed_with_a_larger_mtu_changes_nothing(established: Make) -> None:
    e = established()
    e.sock.send(b"x" * 1400)
    e.flight()
    mss = e.sk.mss_cache
    icmp(e.conn, 4, 1, mtu=9000)
    assert e.flight(0) == []
    assert e.sk.mss_cache == mss


# -- Accurate ECN ------------------------------------------------------------------------------------------------

AE = 1


@pytest.mark.parametrize(
    ("profile", "sysctl"),
    [("linux-6.1", n) for n in range(3)]
    + [("linux-6.18", n) for n in range(3)]
    + [("linux-7.3", n) for n in range(3)],
)
@pytest.mark.parametrize(
    ("flags", "res1", "tos", "echo"),
    [
        ("SEW", AE, 0, True),
        ("SEW", 0, 0, True),
        ("SEW", AE, 2, True),  # a reserved bit makes an ECT SYN acceptable
        ("SEW", 0xE, 1, True),
        ("SEW", 0, 2, False),
        ("SEW", 0, 1, False),
        ("S", AE, 0, False),
        ("SE", AE, 0, False),
        ("SW", AE, 0, False),
        ("SE", 0, 0, False),
    ],
)
def test_listen_accurate_ecn_syn_is_answered_as_rfc_3168(
    profile: str, sysctl: int, flags: str, res1: int, tos: int, echo: bool
) -> None:
    sim = Sim(seed=2)
    net = sim.add_stack("10.0.2.2/24", profile=profile, sysctl={"tcp_ecn": sysctl})
    peer = sim.add_peer("10.0.2.15", net)
    sock = Socket(net)
    sock.bind(("", 80))
    sock.listen()
    conn = peer.tcp(80)
    conn.send(flags, mss=1460, res1=res1, tos=tos)
    answer = conn.expect("SAE" if echo and sysctl else "SA")
    assert answer.packet.frame.data[46] & 0xF == 0  # no reserved bit comes back
    assert answer.packet.tos == 0
