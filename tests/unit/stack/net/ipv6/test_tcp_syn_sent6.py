# SPDX-License-Identifier: GPL-2.0-or-later
"""The active open over IPv6: routes, scopes, IPv4-mapped peers."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest

from stack.api.bsd import AF_INET6, Socket
from stack.api.sim import MSEC, SEC, RawPeer, Sim
from stack.include.net import MSG_ERRQUEUE, MSG_FASTOPEN
from stack.include.sock import EPOLLERR
from stack.include.tcp_states import TCP_CLOSE, TCP_ESTABLISHED, TCP_SYN_SENT
from stack.net.ipv6 import tcp_ipv6
from stack.stack import Stack

SERVER = ("fd00::15", 80)
IPV6_V6ONLY = (41, 26, 1)


def test_close_connect_sends_a_syn(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = Socket(net, AF_INET6)
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS
    sim.settle()
    conn = peer.tcp(sock.getsockname()[1], dst="fd00::2", sport=80)
    syn = conn.expect("S", seq=0, window=64800)
    assert (syn.packet.src, syn.opts.mss, syn.opts.kinds) == ("fd00::2", 1440, (2, 4, 8, 1, 3))
    conn.send("SA", mss=1440, sackok=True, wscale=7)
    conn.expect("A", seq=1, ack=1)
    assert sock.sk.sk_state == TCP_ESTABLISHED
    assert sock.getpeername() == ("fd00::15", 80, 0, 0)
    sock.send(b"question")
    conn.expect("PA", seq=1, payload=b"question")


def test_syn_sent_neighbour_unknown_is_ehostunreach(net: Stack, sim: Sim) -> None:
    sock = Socket(net, AF_INET6)
    assert sock.connect_ex(("fd00::77", 80)) == errno.EINPROGRESS
    sim.run_for(5 * SEC)
    assert sock.connect_ex(("fd00::77", 80)) == errno.EHOSTUNREACH


@pytest.mark.parametrize(
    ("host", "error"),
    [("fe80::15", errno.EINVAL), ("ff02::1", errno.ENETUNREACH), ("fd09::1", errno.ENETUNREACH)],
)
def test_close_connect_to_what_cannot_be_reached(net: Stack, host: str, error: int) -> None:
    sock = Socket(net, AF_INET6)
    assert sock.connect_ex((host, 80)) == error
    assert sock.sk.sk_state == TCP_CLOSE


def test_close_connect_to_a_link_local_address_with_its_device(net: Stack) -> None:
    sock = Socket(net, AF_INET6)
    assert sock.connect_ex(("fe80::15%eth0", 80)) == errno.EINPROGRESS
    assert sock.sk.sk_bound_dev_if == net.devices_by_name["eth0"].ifindex


def test_close_connect_to_a_mapped_address_is_ipv4(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = Socket(net, AF_INET6)
    assert sock.connect_ex(("::ffff:10.0.2.15", 80)) == errno.EINPROGRESS
    sim.settle()
    conn = peer.tcp(sock.getsockname()[1], sport=80)
    conn.expect("S", seq=0, window=64240)
    conn.send("SA", mss=1460)
    conn.expect("A")
    assert sock.getsockname()[0] == "::ffff:10.0.2.2"
    assert sock.sk.sk_state == TCP_ESTABLISHED


def test_close_connect_to_a_mapped_address_with_v6only(net: Stack) -> None:
    sock = Socket(net, AF_INET6)
    sock.setsockopt(*IPV6_V6ONLY)
    assert sock.connect_ex(("::ffff:10.0.2.15", 80)) == errno.ENETUNREACH
    assert sock.sk.icsk_af_ops is tcp_ipv6.ipv6_specific  # type: ignore[attr-defined]


def test_syn_sent_refused_and_tried_again(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = Socket(net, AF_INET6)
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS
    sim.run_for(10 * MSEC)
    conn = peer.tcp(sock.getsockname()[1], dst="fd00::2", sport=80)
    conn.expect("S", seq=0)
    conn.send("RA", seq=0)
    sim.settle()
    assert sock.connect_ex(SERVER) == errno.ECONNREFUSED
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS
    assert sock.sk.sk_state == TCP_SYN_SENT


@pytest.mark.parametrize("recverr", [0, 1])
@pytest.mark.parametrize(
    ("kind", "code", "error"),
    [(1, 0, errno.ENETUNREACH), (1, 1, errno.EACCES), (1, 3, errno.EHOSTUNREACH), (1, 4, errno.ECONNREFUSED),
     (3, 0, errno.EHOSTUNREACH), (4, 1, errno.EPROTO)],
)  # fmt: skip
def test_syn_sent_icmpv6_error_ends_it(
    net: Stack, peer: RawPeer, sim: Sim, kind: int, code: int, error: int, recverr: int
) -> None:
    """The message itself is for IPV6_RECVERR alone, unlike IPv4's."""
    sock = Socket(net, AF_INET6)
    sock.setsockopt(41, 25, recverr)
    assert sock.connect_ex(SERVER) == errno.EINPROGRESS
    sim.settle()
    syn = peer.expect_segment()
    peer.send_icmp6("fd00::2", kind, code, 0, syn.packet.frame.data[14 : 14 + 48])
    sim.settle()
    assert not sock.sk.packets_out  # type: ignore[attr-defined]
    assert sock.connect_ex(SERVER) == error
    if not recverr:
        assert not sock.poll() & EPOLLERR
        return
    data, (control,), _, where = sock.recvmsg(100, 200, MSG_ERRQUEUE)
    assert (len(data), where) == (8, (*SERVER, 0, 0))
    assert (control[:2], control[2][5:7]) == ((41, 25), bytes((kind, code)))


def test_close_sendto_with_a_cookie_puts_data_into_the_syn(net: Stack, peer: RawPeer, sim: Sim) -> None:
    cookie = b"\x22\x0achocchip\x01\x01"
    for wanted in (b"", b"x" * (1440 - 40)):
        sock = Socket(net, AF_INET6)
        with suppress(BlockingIOError):
            sock.sendto(b"x" * 2000, MSG_FASTOPEN, SERVER)
        syn = peer.expect_segment()
        assert (syn.flags, syn.payload) == ("S", wanted)
        conn = peer.tcp(syn.sport, sport=80, dst="fd00::2")
        conn.irs, conn.rcv_nxt = syn.seq, 1 + len(wanted)
        conn.send("SA", mss=1440, options=cookie)
        conn.expect("A", seq=1 + len(wanted))
