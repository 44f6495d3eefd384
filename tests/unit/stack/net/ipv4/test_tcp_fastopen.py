# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP Fast Open at a listener (RFC 7413): cookies, data in the SYN, the limit, and what ends such a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim
from stack.include.snmp import (
    LINUX_MIB_TCPFASTOPENCOOKIEREQD,
    LINUX_MIB_TCPFASTOPENLISTENOVERFLOW,
    LINUX_MIB_TCPFASTOPENPASSIVE,
    LINUX_MIB_TCPFASTOPENPASSIVEALTKEY,
    LINUX_MIB_TCPFASTOPENPASSIVEFAIL,
    LINUX_MIB_TCPSYNRETRANS,
    LINUX_MIB_TCPTIMEOUTS,
    TCP_MIB_RETRANSSEGS,
)
from stack.include.tcp import (
    SOL_TCP,
    TCP_FASTOPEN,
    TCP_FASTOPEN_KEY,
    TCP_FASTOPEN_NO_COOKIE,
    TCP_INFO,
    TCPI_OPT_SYN_DATA,
)
from stack.include.tcp_states import TCP_ESTABLISHED, TCP_FIN_WAIT2, TCP_SYN_RECV
from stack.stack import Stack

Listen = Callable[..., Socket]
KEY = "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4"
EVERYTHING = {"mss": 1460, "sackok": True, "ts": (1000, 0), "wscale": 7}


def fo(cookie: bytes = b"", exp: bool = False) -> bytes:
    """The option as a client sends it, filled up with NOPs."""
    if exp:
        option = bytes((254, 4 + len(cookie))) + b"\xf9\x89" + cookie
    else:
        option = bytes((34, 2 + len(cookie))) + cookie
    return option + b"\x01" * (-len(option) % 4)


def cookie_of(segment: Segment, exp: bool = False) -> bytes | None:
    """The cookie of a SYN-ACK, None without the option."""
    raw, at = segment.opts.raw, 0
    while at < len(raw):
        if raw[at] == 1:
            at += 1
            continue
        kind, size = raw[at], raw[at + 1]
        if kind == 34 and not exp:
            return raw[at + 2 : at + size]
        if kind == 254 and exp and raw[at + 2 : at + 4] == b"\xf9\x89":
            return raw[at + 4 : at + size]
        at += size
    return None


@pytest.fixture
def server(net: Stack, listen: Listen) -> Callable[..., Any]:
    """A listener that does Fast Open; ``qlen`` is TCP_FASTOPEN's value."""

    def make(qlen: int = 5, bits: int = 3, **more: Any) -> Any:
        net.sysctl_set("tcp_fastopen", bits)
        sock = listen(before=((SOL_TCP, TCP_FASTOPEN, qlen),), **more)
        sock.setblocking(False)
        return sock

    return make


def ask(peer: RawPeer, sport: int = 39000, exp: bool = False) -> bytes:
    """Get a cookie as a client does, and give the connection up."""
    conn = peer.tcp(80, sport=sport)
    conn.send("S", options=fo(exp=exp), **EVERYTHING)
    cookie = cookie_of(conn.expect("SA", seq=0, ack=1), exp)
    assert cookie is not None
    conn.send("R")
    peer.expect_nothing()
    return cookie


def opened(peer: RawPeer, data: bytes = b"hello", sport: int = 40000, cookie: bytes | None = None) -> RawTcp:
    """A connection whose SYN carried a good cookie and data; the SYN-ACK has come."""
    conn = peer.tcp(80, sport=sport)
    conn.send("S", data, options=fo(cookie or ask(peer, sport - 1000)), **EVERYTHING)
    conn.expect("SA", seq=0, ack=1 + len(data))
    conn.ts_on = True
    return conn


def mib(net: Stack, index: int) -> int:
    return net.mib.net_statistics[index]


def fastopenq(sock: Any) -> Any:
    return sock.sk.icsk_accept_queue.fastopenq


def test_listen_empty_cookie_is_answered_with_one(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server()
    conn = peer.tcp(80)
    conn.send("S", b"early", options=fo(), **EVERYTHING)
    answer = conn.expect("SA", seq=0, ack=1)
    cookie = cookie_of(answer)
    assert cookie is not None
    assert len(cookie) == 8
    assert answer.opts.raw[-12:] == b"\x22\x0a" + cookie + b"\x01\x01"
    assert mib(net, LINUX_MIB_TCPFASTOPENCOOKIEREQD) == 1
    assert mib(net, LINUX_MIB_TCPFASTOPENPASSIVE) == 0
    assert sock.sk.sk_ack_backlog == 0


def test_listen_cookie_is_linux_s(sim: Sim) -> None:
    # The cookie of these addresses under that key is public: Linux's own packetdrill tests expect it.
    net = sim.add_stack("192.168.0.1/16", sysctl={"tcp_fastopen": 0x403, "tcp_fastopen_key": KEY})
    net.dev_addr_add(net.devices_by_name["eth0"], "192.0.2.2/24")
    peer = sim.add_peer("192.0.2.1", net)
    sock = Socket(net)
    sock.bind(("", 80))
    sock.listen(5)
    conn = peer.tcp(80, dst="192.168.0.1")
    conn.send("S", options=fo(), **EVERYTHING)
    assert cookie_of(conn.expect("SA")) == bytes.fromhex("3021b9d889017eeb")


def test_listen_good_cookie_makes_the_child_at_once(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server()
    conn = opened(peer)
    assert mib(net, LINUX_MIB_TCPFASTOPENPASSIVE) == 1
    child, address = sock.accept()
    assert address == ("10.0.2.15", 40000)
    assert child._sock.sk.sk_state == TCP_SYN_RECV
    assert fastopenq(sock).qlen == 1
    assert child.recv(100) == b"hello"
    assert child.send(b"world") == 5
    # Before the third segment it goes out at once.
    assert conn.expect("PA", seq=1, payload=b"world").opts.ts is not None
    conn.send("A")
    peer.expect_nothing()
    assert child._sock.sk.sk_state == TCP_ESTABLISHED
    assert child._sock.sk.fastopen_rsk is None
    assert fastopenq(sock).qlen == 0
    assert child.getsockopt(SOL_TCP, TCP_INFO, 8)[5] & TCPI_OPT_SYN_DATA
    conn.send("PA", b" again")
    peer.sim.settle()
    assert child.recv(100) == b" again"


def test_listen_good_cookie_without_data(server: Any, peer: RawPeer) -> None:
    sock = server()
    conn = opened(peer, b"")
    child, _ = sock.accept()
    with pytest.raises(BlockingIOError):
        child.recv(10)
    conn.send("A")
    conn.send("PA", b"later")
    peer.sim.settle()
    assert child.recv(10) == b"later"
    assert not child.getsockopt(SOL_TCP, TCP_INFO, 8)[5] & TCPI_OPT_SYN_DATA


def test_syn_recv_fast_open_window_is_not_scaled(server: Any, peer: RawPeer) -> None:
    sock = server()
    conn = peer.tcp(80)
    cookie = ask(peer)
    conn.send("S", b"x", window=4000, options=fo(cookie), **EVERYTHING)
    conn.expect("SA", ack=2)
    child, _ = sock.accept()
    child.send(b"y" * 6000)
    conn.expect(seq=1, length=1448)
    conn.expect(seq=1449, length=1448)
    peer.expect_nothing()


def test_listen_wrong_cookie_data_are_ignored(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server()
    good = ask(peer)
    conn = peer.tcp(80)
    conn.send("S", b"hello", options=fo(bytes(8)), **EVERYTHING)
    assert cookie_of(conn.expect("SA", seq=0, ack=1)) == good
    assert mib(net, LINUX_MIB_TCPFASTOPENPASSIVEFAIL) == 1
    assert mib(net, LINUX_MIB_TCPFASTOPENPASSIVE) == 0
    with pytest.raises(BlockingIOError):
        sock.accept()


@pytest.mark.parametrize("length", [2, 18])
def test_listen_cookie_of_a_length_that_none_has(server: Any, peer: RawPeer, length: int) -> None:
    server()
    conn = peer.tcp(80)
    conn.send("S", b"hello", options=fo(bytes(length)), mss=1460)
    assert conn.expect("SA", ack=1).opts.raw == b"\x02\x04\x05\xb4"


def test_listen_experimental_option_is_answered_in_kind(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server()
    cookie = ask(peer, exp=True)
    assert cookie == ask(peer, sport=39001)
    conn = peer.tcp(80)
    conn.send("S", b"exp", options=fo(cookie, exp=True), **EVERYTHING)
    conn.expect("SA", ack=4)
    assert sock.accept()[0].recv(10) == b"exp"
    assert mib(net, LINUX_MIB_TCPFASTOPENCOOKIEREQD) == 2


def test_listen_other_experiment_is_not_fast_open(server: Any, peer: RawPeer, net: Stack) -> None:
    server()
    conn = peer.tcp(80)
    conn.send("S", options=b"\xfe\x04\xe2\xd4", mss=1460)
    assert conn.expect("SA", ack=1).opts.raw == b"\x02\x04\x05\xb4"
    assert mib(net, LINUX_MIB_TCPFASTOPENCOOKIEREQD) == 0


@pytest.mark.parametrize(("bits", "qlen"), [(1, 5), (3, 0)])
def test_listen_fast_open_is_off(server: Any, peer: RawPeer, net: Stack, bits: int, qlen: int) -> None:
    server(bits=bits, qlen=qlen)
    conn = peer.tcp(80)
    conn.send("S", b"hello", options=fo(), mss=1460)
    assert conn.expect("SA", ack=1).opts.raw == b"\x02\x04\x05\xb4"
    assert mib(net, LINUX_MIB_TCPFASTOPENCOOKIEREQD) == 1


def test_listen_sysctl_turns_it_on_for_all(net: Stack, listen: Listen, peer: RawPeer) -> None:
    net.sysctl_set("tcp_fastopen", 0x402)
    sock = listen(backlog=7)
    assert sock.getsockopt(SOL_TCP, TCP_FASTOPEN) == 7
    assert len(ask(peer)) == 8


def test_listen_cookie_is_not_asked_for_by_sysctl(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server(bits=0x203)
    conn = peer.tcp(80)
    conn.send("S", b"naked", **EVERYTHING)
    assert cookie_of(conn.expect("SA", ack=6)) is None
    assert sock.accept()[0].recv(10) == b"naked"
    assert mib(net, LINUX_MIB_TCPFASTOPENPASSIVE) == 1


def test_listen_cookie_is_not_asked_for_by_option(server: Any, peer: RawPeer) -> None:
    sock = server()
    sock.setsockopt(SOL_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    conn = peer.tcp(80)
    conn.send("S", b"naked", **EVERYTHING)
    conn.expect("SA", ack=6)
    assert sock.accept()[0].recv(10) == b"naked"


def test_listen_second_key_is_taken_and_renewed(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server()
    first, second = bytes(range(16)), bytes(range(16, 32))
    sock.setsockopt(SOL_TCP, TCP_FASTOPEN_KEY, first)
    old = ask(peer)
    sock.setsockopt(SOL_TCP, TCP_FASTOPEN_KEY, second + first)
    assert sock.getsockopt(SOL_TCP, TCP_FASTOPEN_KEY, 32) == second + first
    conn = peer.tcp(80)
    conn.send("S", b"old", options=fo(old), **EVERYTHING)
    new = cookie_of(conn.expect("SA", ack=4))
    assert new == ask(peer, 39001) != old
    assert mib(net, LINUX_MIB_TCPFASTOPENPASSIVEALTKEY) == 1
    assert mib(net, LINUX_MIB_TCPFASTOPENPASSIVE) == 1
    sock.setsockopt(SOL_TCP, TCP_FASTOPEN_KEY, second)
    gone = peer.tcp(80, sport=40001)
    gone.send("S", b"old", options=fo(old), **EVERYTHING)
    assert cookie_of(gone.expect("SA", ack=1)) == new


@pytest.mark.parametrize("value", [b"short", bytes(17), bytes(48), 5])
def test_fastopen_key_of_another_length(net: Stack, value: Any) -> None:
    with pytest.raises(OSError, match="invalid argument"):
        Socket(net).setsockopt(SOL_TCP, TCP_FASTOPEN_KEY, value)


@pytest.mark.parametrize("value", [-1, -5])
def test_fastopen_negative_queue(net: Stack, value: int) -> None:
    with pytest.raises(OSError, match="invalid argument"):
        Socket(net).setsockopt(SOL_TCP, TCP_FASTOPEN, value)


def test_fastopen_queue_is_bounded_by_somaxconn(net: Stack) -> None:
    sock = Socket(net)
    sock.setsockopt(SOL_TCP, TCP_FASTOPEN, 1_000_000)
    assert sock.getsockopt(SOL_TCP, TCP_FASTOPEN) == 4096


def test_sysctl_key_as_text(net: Stack) -> None:
    assert net.sysctl_get("tcp_fastopen_key") == "00000000-00000000-00000000-00000000"
    net.sysctl_set("tcp_fastopen_key", "3020100-7060504-b0a0908-f0e0d0c,1-2-3-4")
    sock = Socket(net)
    assert sock.getsockopt(SOL_TCP, TCP_FASTOPEN_KEY, 32)[:16] == bytes(range(16))
    shown = "03020100-07060504-0b0a0908-0f0e0d0c,00000001-00000002-00000003-00000004"
    assert net.sysctl_get("net.ipv4.tcp_fastopen_key") == shown


@pytest.mark.parametrize("text", ["", "1-2-3", "1-2-3-g", "1-2-3-4,", "1-2-3-4,1-2-3-4,1-2-3-4"])
def test_sysctl_key_that_is_none(net: Stack, text: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        net.sysctl_set("tcp_fastopen_key", text)


def test_syn_recv_fast_open_silence_resends_the_synack_six_times(
    server: Any, peer: RawPeer, net: Stack, sim: Sim
) -> None:
    sock = server()
    conn = opened(peer)
    child, _ = sock.accept()
    began = sim.now_ns()
    times = []
    for _ in range(6):
        again = conn.expect("SA", seq=0, ack=6, within_ns=80 * SEC)
        times.append((again.packet.time_ns - began) / SEC)
    for got, nominal, wheel in zip(times, (1, 3, 7, 15, 31, 63), (0.04, 0.1, 0.4, 0.9, 3, 7), strict=True):
        assert nominal <= got <= nominal + wheel
    sim.run_for(90 * SEC)
    assert child.recv(100) == b"hello"
    with pytest.raises(TimeoutError):
        child.recv(100)
    assert mib(net, LINUX_MIB_TCPSYNRETRANS) == 6
    assert mib(net, LINUX_MIB_TCPTIMEOUTS) == 7
    assert net.mib.tcp_statistics[TCP_MIB_RETRANSSEGS] == 6
    assert fastopenq(sock).qlen == 0
    assert child._sock.sk.fastopen_rsk is None


def test_syn_recv_fast_open_data_wait_for_the_third_segment(server: Any, peer: RawPeer, sim: Sim) -> None:
    sock = server()
    conn = opened(peer)
    child, _ = sock.accept()
    child.send(b"lost")
    conn.expect("PA", seq=1, payload=b"lost")
    assert "S" in conn.expect(within_ns=2 * SEC).flags
    # The third segment, which does not acknowledge what was lost: it is resent by the ordinary timer now.
    conn.send("A", ack=1)
    again = conn.expect("PA", seq=1, payload=b"lost", within_ns=3 * SEC)
    assert again.packet.time_ns > 1 * SEC


def test_syn_recv_fast_open_syn_again_gets_the_synack_again(server: Any, peer: RawPeer, sim: Sim) -> None:
    server()
    cookie = ask(peer)
    conn = opened(peer, cookie=cookie)
    sim.run_for(600 * MSEC)
    conn.send("S", b"hello", seq=0, options=fo(cookie), **EVERYTHING)
    again = conn.expect("SA", seq=0, ack=6)
    assert cookie_of(again) is None


def test_syn_recv_fast_open_rst_before_accept(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server()
    conn = opened(peer)
    conn.send("R")
    peer.expect_nothing()
    # Nobody has it yet, so its place is free at once; accept() gives a dead connection.
    assert fastopenq(sock).qlen == 0
    child, _ = sock.accept()
    child.recv(100)
    with pytest.raises(ConnectionResetError):
        child.recv(100)
    assert sum(map(len, net.tcp_hashinfo.ehash.values())) == 0


def test_syn_recv_fast_open_rst_after_accept_holds_its_place_for_a_minute(
    server: Any, peer: RawPeer, net: Stack, sim: Sim
) -> None:
    sock = server(qlen=1)
    cookie = ask(peer)
    conn = opened(peer, cookie=cookie)
    sock.accept()
    conn.send("R")
    sim.run_for(59 * SEC)
    assert (fastopenq(sock).qlen, len(fastopenq(sock).rskq_rst_head)) == (1, 1)
    refused = peer.tcp(80, sport=40001)
    refused.send("S", b"hello", options=fo(cookie), **EVERYTHING)
    assert cookie_of(refused.expect("SA", ack=1)) is None
    assert mib(net, LINUX_MIB_TCPFASTOPENLISTENOVERFLOW) == 1
    refused.send("R", seq=1)
    sim.run_for(2 * SEC)
    opened(peer, sport=40002, cookie=cookie)
    assert (fastopenq(sock).qlen, len(fastopenq(sock).rskq_rst_head)) == (1, 0)


def test_listen_beyond_the_limit_a_syn_is_an_ordinary_one(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server(qlen=2)
    cookie = ask(peer)
    first = opened(peer, sport=40000, cookie=cookie)
    opened(peer, sport=40001, cookie=cookie)
    third = peer.tcp(80, sport=40002)
    third.send("S", b"hello", options=fo(cookie), **EVERYTHING)
    third.expect("SA", ack=1)
    assert mib(net, LINUX_MIB_TCPFASTOPENLISTENOVERFLOW) == 1
    first.send("A")
    peer.expect_nothing()
    assert fastopenq(sock).qlen == 1
    opened(peer, sport=40003, cookie=cookie)


def test_syn_recv_fast_open_close_sends_the_fin_at_once(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server()
    conn = opened(peer)
    child, _ = sock.accept()
    child.recv(100)
    child.close()
    conn.expect("FA", seq=1)
    conn.send("A")
    peer.expect_nothing()
    assert fastopenq(sock).qlen == 0
    (left,) = (sk for chain in net.tcp_hashinfo.ehash.values() for sk in chain)
    assert left.tw_substate == TCP_FIN_WAIT2


def test_syn_recv_fast_open_close_with_unread_data_resets(server: Any, peer: RawPeer) -> None:
    sock = server()
    conn = opened(peer)
    child, _ = sock.accept()
    child.close()
    assert "R" in conn.expect().flags
    assert fastopenq(sock).qlen == 0


def test_syn_recv_fast_open_listener_closes(server: Any, peer: RawPeer, net: Stack) -> None:
    sock = server()
    conn = opened(peer)
    sock.close()
    assert "R" in conn.expect().flags
    assert sum(map(len, net.tcp_hashinfo.ehash.values())) == 0


def test_syn_recv_fast_open_accepted_child_survives_its_listener(server: Any, peer: RawPeer) -> None:
    sock = server()
    conn = opened(peer)
    child, _ = sock.accept()
    sock.close()
    conn.send("A")
    conn.send("PA", b" more")
    peer.sim.settle()
    assert child.recv(100) == b"hello more"
