# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP Fast Open of a client (RFC 7413): asking for a cookie, data in the SYN, what a SYN-ACK leaves of them, and the
pause after a black hole.  What the wire and the counters show is measured by the stimuli conn-tfo-* of the
differential; here is what the stack's inside has to say, and two stacks with each other."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest

from stack.api.bsd import AF_INET, AF_INET6, Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim
from stack.include.net import MSG_FASTOPEN, SHUT_WR
from stack.include.snmp import (
    LINUX_MIB_TCPFASTOPENACTIVE,
    LINUX_MIB_TCPFASTOPENACTIVEFAIL,
    LINUX_MIB_TCPFASTOPENBLACKHOLE,
    LINUX_MIB_TCPFASTOPENCOOKIEREQD,
    LINUX_MIB_TCPFASTOPENPASSIVE,
)
from stack.include.sock import EPOLLOUT, EPOLLWRNORM
from stack.include.tcp import (
    SOL_TCP,
    TCP_FASTOPEN,
    TCP_FASTOPEN_CONNECT,
    TCP_FASTOPEN_NO_COOKIE,
    TCP_INFO,
    TCP_MAXSEG,
    TCPI_OPT_SYN_DATA,
    TCPI_OPT_TFO_CHILD,
    TFO_COOKIE_UNAVAILABLE,
    TFO_DATA_NOT_ACKED,
    TFO_SYN_RETRANSMITTED,
)
from stack.include.tcp_states import TCP_CLOSE, TCP_ESTABLISHED, TCP_SYN_SENT
from stack.stack import Stack

SERVER = ("10.0.2.15", 80)
COOKIE = b"\x22\x0achocchip\x01\x01"
SO_LINGER = (1, 13, b"\1\0\0\0\0\0\0\0")  # with no time: close() resets


def mib(net: Stack, item: int) -> int:
    return net.mib.net_statistics[item]


def info(sock: Socket) -> bytes:
    raw: bytes = sock.getsockopt(SOL_TCP, TCP_INFO, 232)
    return raw


def client_fail(sock: Socket) -> int:
    return info(sock)[7] >> 1 & 3


def syn_data(sock: Socket) -> bool:
    return bool(info(sock)[5] & TCPI_OPT_SYN_DATA)


def fastopen_option(segment: Segment) -> bytes | None:
    """The cookie that a segment has, empty for the wish for one; None without the option."""
    at, raw = 0, segment.opts.raw
    while at < len(raw):
        size = 1 if raw[at] < 2 else raw[at + 1]
        if raw[at] == 34:
            return raw[at + 2 : at + size]
        at += size
    return None


def ask(net: Stack, data: bytes = b"request", *options: tuple[int, int, int]) -> Socket:
    """A socket that connects with data."""
    sock = Socket(net)
    for option in options:
        sock.setsockopt(*option)
    with suppress(BlockingIOError):  # EINPROGRESS: the SYN took none
        sock.sendto(data, MSG_FASTOPEN, SERVER)
    return sock


def syn_of(peer: RawPeer) -> tuple[RawTcp, Segment]:
    """The SYN that comes, and the raw server's end."""
    syn = peer.expect_segment()
    conn = peer.tcp(syn.sport, sport=80)
    conn.irs, conn.rcv_nxt = syn.seq, 1 + len(syn.payload)
    assert syn.flags == "S"
    return conn, syn


def learn(net: Stack, peer: RawPeer, mss: int = 1460, *options: tuple[int, int, int]) -> None:
    """A first connection, which brings a cookie and is reset."""
    sock = ask(net, b"", *options)
    conn, _ = syn_of(peer)
    conn.send("SA", mss=mss, options=COOKIE)
    conn.expect("A", seq=1)
    sock.setsockopt(*SO_LINGER)
    sock.close()
    conn.expect("RA")


# -- two stacks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.18"])
@pytest.mark.parametrize(
    ("family", "host"), [(AF_INET, "10.0.2.3"), (AF_INET6, "fd00::3"), (AF_INET6, "::ffff:10.0.2.3")]
)
def test_close_second_connection_is_read_before_the_third_segment(
    profile: str, family: int, host: str
) -> None:
    sim = Sim(seed=5)
    client = sim.add_stack("10.0.2.2/24", "fd00::2/64", profile=profile)
    server = sim.add_stack("10.0.2.3/24", "fd00::3/64", profile=profile, sysctl={"tcp_fastopen": 3})
    sim.join(client, server, delay_ns=10 * MSEC)
    listener = Socket(server, AF_INET6)
    listener.setsockopt(SOL_TCP, TCP_FASTOPEN, 5)
    listener.bind(("::", 80))
    listener.listen()
    sim.run_for(3 * SEC)  # duplicate address detection

    first = Socket(client, family)
    with pytest.raises(BlockingIOError):
        first.sendto(b"first", MSG_FASTOPEN, (host, 80))
    sim.run_for(100 * MSEC)
    first.send(b"first")
    sim.run_for(100 * MSEC)
    assert listener.accept()[0].recv(10) == b"first"
    assert mib(server, LINUX_MIB_TCPFASTOPENCOOKIEREQD) == 1
    assert client_fail(first) == TFO_COOKIE_UNAVAILABLE

    second = Socket(client, family)
    assert second.sendto(b"request", MSG_FASTOPEN, (host, 80)) == 7
    sim.run_for(15 * MSEC)  # the SYN is there, its answer is not
    assert second.sk.sk_state == TCP_SYN_SENT
    child, _ = listener.accept()
    assert child.recv(10) == b"request"
    child.send(b"reply")
    sim.run_for(10 * MSEC)
    assert second.recv(10) == b"reply"
    assert syn_data(second)
    assert syn_data(child)
    assert bool(info(child)[5] & TCPI_OPT_TFO_CHILD) == (profile == "linux-6.18")
    assert not info(second)[5] & TCPI_OPT_TFO_CHILD
    assert mib(client, LINUX_MIB_TCPFASTOPENACTIVE) == mib(server, LINUX_MIB_TCPFASTOPENPASSIVE) == 1
    assert mib(client, LINUX_MIB_TCPFASTOPENACTIVEFAIL) == 0


def test_close_sendto_oneself_over_loopback() -> None:
    sim = Sim(seed=5)
    net = sim.add_stack("10.0.2.2/24", sysctl={"tcp_fastopen": 0x207})
    listener = Socket(net)
    listener.setsockopt(SOL_TCP, TCP_FASTOPEN, 5)
    listener.bind(("", 80))
    listener.listen()
    sock = Socket(net)
    data = bytes(range(256)) * 300
    sent = sock.sendto(data, MSG_FASTOPEN, ("127.0.0.1", 80))
    assert sent == 65535 - 40 - 40
    sim.run_for(1 * MSEC)
    child, _ = listener.accept()
    got = child.recv(1 << 17)
    assert got == data[:sent]
    assert sock.send(data[sent:]) == len(data) - sent
    sim.run_for(1 * MSEC)
    assert child.recv(1 << 17) == data[sent:]


# -- the SYN ---------------------------------------------------------------------------------------------------------


def test_close_sendto_without_a_cookie_asks_for_one(net: Stack, peer: RawPeer) -> None:
    sock = ask(net)
    conn, syn = syn_of(peer)
    assert (fastopen_option(syn), syn.payload) == (b"", b"")
    conn.send("SA", mss=1460, options=COOKIE)
    conn.expect("A", seq=1)
    assert sock.send(b"request") == 7
    conn.expect("PA", seq=1, payload=b"request")


def test_close_sendto_with_a_cookie_puts_data_into_the_syn(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    sock = ask(net)
    conn, syn = syn_of(peer)
    assert (fastopen_option(syn), syn.payload) == (b"chocchip", b"request")
    conn.send("SA", mss=1460)
    conn.expect("A", seq=8, ack=1)
    assert sock.sk.sk_state == TCP_ESTABLISHED
    assert not sock.sk.tcp_rtx_queue  # type: ignore[attr-defined]


@pytest.mark.parametrize(("mss", "size"), [(1460, 1420), (600, 560), (48, 48 - 40 or 8)])
def test_close_sendto_data_in_the_syn_are_bounded_by_the_servers_mss(
    net: Stack, peer: RawPeer, mss: int, size: int
) -> None:
    learn(net, peer, mss)
    sock = Socket(net)
    assert sock.sendto(b"x" * 5000, MSG_FASTOPEN, SERVER) == size
    assert len(syn_of(peer)[1].payload) == size


def test_close_sendto_data_in_the_syn_are_bounded_by_maxseg(net: Stack, peer: RawPeer) -> None:
    maxseg = (SOL_TCP, TCP_MAXSEG, 500)
    learn(net, peer, 1460, maxseg)
    assert len(syn_of_ask(net, peer, maxseg).payload) == 460
    assert len(syn_of_ask(net, peer).payload) == 1420  # the cache has what the server said


def syn_of_ask(net: Stack, peer: RawPeer, *options: tuple[int, int, int]) -> Segment:
    ask(net, b"x" * 5000, *options)
    return syn_of(peer)[1]


@pytest.mark.parametrize("by_option", [True, False])
def test_close_sendto_without_cookie_if_told_so(net: Stack, peer: RawPeer, by_option: bool) -> None:
    if not by_option:
        net.sysctl_set("tcp_fastopen", 5)
    ask(net, b"request", *([(SOL_TCP, TCP_FASTOPEN_NO_COOKIE, 1)] if by_option else []))
    _, syn = syn_of(peer)
    assert (fastopen_option(syn), syn.payload) == (None, b"request")


def test_close_sendto_experimental_option_after_no_answer(net: Stack, peer: RawPeer) -> None:
    for wanted in (34, 254, 34):
        ask(net)
        conn, syn = syn_of(peer)
        assert wanted in syn.opts.kinds
        conn.send("SA", mss=1460)
        conn.expect("A")


def test_close_sendto_disabled_is_eopnotsupp(net: Stack) -> None:
    net.sysctl_set("tcp_fastopen", 2)
    sock = Socket(net)
    with pytest.raises(OSError, match="not supported") as caught:
        sock.sendto(b"x", MSG_FASTOPEN, SERVER)
    assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError, match="not supported"):
        sock.setsockopt(SOL_TCP, TCP_FASTOPEN_CONNECT, 1)


def test_close_sendmsg_connects_too(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    sock = Socket(net)
    assert sock.sendmsg([b"re", b"quest"], (), MSG_FASTOPEN, SERVER) == 7
    assert syn_of(peer)[1].payload == b"request"


def test_established_sendto_with_fastopen_is_eisconn(net: Stack, peer: RawPeer) -> None:
    sock = ask(net)
    conn, _ = syn_of(peer)
    conn.send("SA", mss=1460)
    conn.expect("A")
    assert sock.connect_ex(SERVER) == 0
    with pytest.raises(OSError, match="connected already"):
        sock.sendto(b"x", MSG_FASTOPEN, SERVER)


# -- TCP_FASTOPEN_CONNECT --------------------------------------------------------------------------------------------

LATER = (SOL_TCP, TCP_FASTOPEN_CONNECT, 1)


def test_close_connect_waits_for_the_first_write(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    sock = Socket(net)
    sock.setsockopt(*LATER)
    assert sock.connect_ex(SERVER) == 0
    peer.expect_nothing()
    assert sock.poll() == EPOLLOUT | EPOLLWRNORM
    assert sock.connect_ex(SERVER) == errno.EISCONN
    assert sock.send(b"request") == 7
    conn, syn = syn_of(peer)
    assert (fastopen_option(syn), syn.payload) == (b"chocchip", b"request")
    assert sock.connect_ex(SERVER) == errno.EALREADY
    conn.send("SA", mss=1460)
    conn.expect("A", seq=8)


def test_close_connect_without_a_cookie_goes_on_as_always(net: Stack, peer: RawPeer) -> None:
    sock = Socket(net)
    sock.setsockopt(*LATER)
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS
    conn, syn = syn_of(peer)
    assert fastopen_option(syn) == b""
    conn.send("SA", mss=1460, options=COOKIE)
    conn.expect("A", seq=1)
    assert sock.send(b"request") == 7
    conn.expect("PA", seq=1)


def test_syn_sent_deferred_close_sends_nothing(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    sock = Socket(net)
    sock.setsockopt(*LATER)
    sock.connect(SERVER)
    sock.close()
    peer.expect_nothing()
    assert not net.tcp_hashinfo.bhash


def test_syn_sent_deferred_shutdown_leaves_a_socket_that_can_write(net: Stack, peer: RawPeer) -> None:
    """Whatever its initial sequence number, of which nothing was ever sent."""
    learn(net, peer)
    for _ in range(8):
        sock = Socket(net)
        sock.setsockopt(*LATER)
        sock.connect(SERVER)
        sock.shutdown(SHUT_WR)
        assert sock.sk.sk_state == TCP_CLOSE
        assert sock.poll() & EPOLLOUT


# -- the SYN-ACK -----------------------------------------------------------------------------------------------------


def test_syn_sent_synack_of_the_syn_alone_draws_the_data_again(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    sock = ask(net)
    conn, _ = syn_of(peer)
    conn.send("SA", mss=1460, ack=1)
    conn.expect("PA", seq=1, ack=1, payload=b"request")
    peer.expect_nothing()
    assert client_fail(sock) == TFO_DATA_NOT_ACKED
    assert not syn_data(sock)
    assert mib(net, LINUX_MIB_TCPFASTOPENACTIVEFAIL) == 1
    conn.send("A", ack=8)
    peer.sim.settle()
    assert (sock.sk.snd_cwnd, sock.sk.retrans_out) == (10, 0)  # type: ignore[attr-defined]


def test_syn_sent_synack_data_are_taken(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    sock = ask(net)
    conn, _ = syn_of(peer)
    conn.send("SA", b"reply", mss=1460)
    conn.expect("A", seq=8, ack=6)
    assert sock.recv(10) == b"reply"


def test_syn_sent_timeout_sends_neither_cookie_nor_data_again(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    sock = ask(net)
    conn, _ = syn_of(peer)
    again = conn.expect("S", seq=0, within_ns=2 * SEC)
    assert (fastopen_option(again), again.payload) == (None, b"")
    conn.send("SA", mss=1460, ack=1)
    conn.expect("PA", seq=1, payload=b"request")
    assert client_fail(sock) == TFO_SYN_RETRANSMITTED
    ((_, tm),) = net.tcp_metrics.items()
    assert (tm.tcpm_fastopen.syn_loss, tm.tcpm_fastopen.cookie.val) == (1, b"chocchip")


def test_syn_sent_frag_needed_counts_syn_and_data_as_lost(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    ask(net, b"x" * 1000)
    conn, syn = syn_of(peer)
    peer.send_icmp("10.0.2.2", 3, 4, 600, syn.packet.frame.data[14 : 14 + 28])
    again = conn.expect("S", seq=0)
    assert (again.opts.mss, again.payload) == (560, b"")


def test_syn_sent_refused_gives_the_error_to_the_next_call(net: Stack, peer: RawPeer) -> None:
    learn(net, peer)
    sock = ask(net)
    conn, _ = syn_of(peer)
    conn.send("RA", seq=0)
    peer.sim.settle()
    assert sock.sk.sk_state == TCP_CLOSE
    with pytest.raises(ConnectionRefusedError):
        sock.send(b"x")


# -- black holes -----------------------------------------------------------------------------------------------------


def fails(net: Stack, peer: RawPeer) -> None:
    """A connection that a RST with a wrong number ends before any data came."""
    sock = ask(net)
    conn, syn = syn_of(peer)
    assert syn.payload == b"request"
    conn.send("SA", mss=1460)
    conn.expect("A", seq=8)
    conn.send("R", seq=5)
    conn.expect("A")
    sock.setsockopt(*SO_LINGER)
    sock.close()
    conn.expect("RA")


def plain(net: Stack, peer: RawPeer) -> bool:
    """Whether Fast Open pauses: the SYN has neither cookie nor data."""
    sock = ask(net)
    conn, syn = syn_of(peer)
    conn.send("RA", seq=0)
    sock.close()
    return fastopen_option(syn) is None and not syn.payload


def test_established_rst_with_a_wrong_number_pauses_fast_open_ever_longer(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("tcp_fastopen_blackhole_timeout_sec", 60)
    learn(net, peer)
    for times, seconds in enumerate((60, 120, 240), 1):
        fails(net, peer)
        assert mib(net, LINUX_MIB_TCPFASTOPENBLACKHOLE) == times
        peer.sim.run_for((seconds - 1) * SEC)
        assert plain(net, peer)
        peer.sim.run_for(2 * SEC)


def test_established_good_end_resets_the_pause(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("tcp_fastopen_blackhole_timeout_sec", 60)
    learn(net, peer)
    fails(net, peer)
    fails_after(net, peer, 61)
    peer.sim.run_for(121 * SEC)
    sock = ask(net)
    conn, _ = syn_of(peer)
    conn.send("SA", mss=1460)
    conn.expect("A", seq=8)
    conn.send("PA", b"reply")
    conn.expect("A", ack=6)
    assert sock.recv(10) == b"reply"
    sock.close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    assert net.ipv4.tfo_active_disable_times == 0
    fails(net, peer)
    peer.sim.run_for(61 * SEC)
    assert not plain(net, peer)


def fails_after(net: Stack, peer: RawPeer, seconds: int) -> None:
    peer.sim.run_for(seconds * SEC)
    fails(net, peer)


def test_established_lone_fin_behind_a_hole_pauses_fast_open(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("tcp_fastopen_blackhole_timeout_sec", 60)
    learn(net, peer)
    sock = ask(net)
    conn, _ = syn_of(peer)
    conn.send("SA", mss=1460)
    conn.expect("A", seq=8)
    conn.send("FA", seq=100)
    conn.expect("A", ack=1)
    sock.setsockopt(*SO_LINGER)
    sock.close()
    conn.expect("RA")
    assert mib(net, LINUX_MIB_TCPFASTOPENBLACKHOLE) == 1
    assert plain(net, peer)


def test_syn_sent_third_timeout_pauses_fast_open(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("tcp_fastopen_blackhole_timeout_sec", 60)
    learn(net, peer)
    sock = ask(net)
    conn, _ = syn_of(peer)
    for _ in range(2):
        conn.expect("S", within_ns=5 * SEC)
        assert mib(net, LINUX_MIB_TCPFASTOPENBLACKHOLE) == 0
    conn.expect("S", within_ns=5 * SEC)
    assert mib(net, LINUX_MIB_TCPFASTOPENBLACKHOLE) == mib(net, LINUX_MIB_TCPFASTOPENACTIVEFAIL) == 1
    sock.close()
    net.sysctl_set("tcp_fastopen_blackhole_timeout_sec", 60)  # a new value forgives
    assert not plain(net, peer)
