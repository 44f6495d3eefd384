# SPDX-License-Identifier: GPL-2.0-or-later
"""SYN cookies; measured on Linux 6.1."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stack.api.bsd import Socket
from stack.api.sim import SEC, RawPeer, RawTcp, Segment, Sim
from stack.include.snmp import (
    LINUX_MIB_LISTENOVERFLOWS,
    LINUX_MIB_SYNCOOKIESFAILED,
    LINUX_MIB_SYNCOOKIESRECV,
    LINUX_MIB_SYNCOOKIESSENT,
    LINUX_MIB_TCPREQQFULLDOCOOKIES,
)
from stack.net.ipv4 import syncookies
from stack.stack import Stack

Listen = Callable[..., Socket]


@pytest.fixture
def always(net: Stack) -> Stack:
    net.sysctl_set("tcp_syncookies", 2)
    return net


def cookie(peer: RawPeer, **options: object) -> tuple[RawTcp, Segment]:
    conn = peer.tcp(80)
    conn.send("S", **options)
    answer = conn.expect("SA", seq=0, ack=1)
    conn.ts_on = options.get("ts") is not None
    return conn, answer


def test_listen_full_syn_queue_answers_with_cookies(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen(0)
    for i in range(10):
        peer.tcp(80, sport=40000 + i).send("S", mss=1460)
        peer.expect("SA")
    assert net.mib.net_statistics[LINUX_MIB_TCPREQQFULLDOCOOKIES] == 9
    assert net.mib.net_statistics[LINUX_MIB_SYNCOOKIESSENT] == 9
    assert sock.sk.icsk_accept_queue.qlen == 1  # type: ignore[attr-defined]


def test_cookie_synack_keeps_the_options_only_with_time_stamps(
    listen: Listen, peer: RawPeer, always: Stack
) -> None:
    listen()
    assert cookie(peer, mss=1460, sackok=True, wscale=7)[1].opts.kinds == (2,)
    assert cookie(peer, mss=1460, sackok=True, wscale=7, ts=(1, 0))[1].opts.kinds == (2, 4, 8, 1, 3)


def test_cookie_ack_makes_the_child_with_its_options(
    listen: Listen, peer: RawPeer, always: Stack, sim: Sim
) -> None:
    sim.run_for(1 * SEC)
    sock = listen()
    conn, _ = cookie(peer, mss=1460, sackok=True, wscale=7, ts=(1000, 0))
    assert not any(always.tcp_hashinfo.ehash.values())
    conn.send("PA", b"hello")
    conn.expect("A", ack=6)
    assert always.mib.net_statistics[LINUX_MIB_SYNCOOKIESRECV] == 1
    child, _ = sock.accept()
    assert child.recv(10) == b"hello"
    opt = child.sk.rx_opt  # type: ignore[attr-defined]
    assert (opt.snd_wscale, opt.rcv_wscale, bool(opt.sack_ok), opt.tstamp_ok) == (7, 7, True, True)


@pytest.mark.parametrize(
    ("mss", "child"),
    [
        (None, 536),
        (48, 536),
        (1299, 536),
        (1300, 1300),
        (1439, 1300),
        (1440, 1440),
        (1459, 1440),
        (1460, 1460),
        (9000, 1460),
    ],
)
def test_cookie_child_has_one_of_four_mss(
    listen: Listen, peer: RawPeer, always: Stack, mss: int | None, child: int
) -> None:
    sock = listen()
    conn, _ = cookie(peer, mss=mss)
    conn.send("A")
    peer.expect_nothing()
    assert sock.accept()[0].sk.mss_cache == child  # type: ignore[attr-defined]


def test_cookie_forged(listen: Listen, peer: RawPeer, always: Stack) -> None:
    listen()
    conn, _ = cookie(peer, mss=1460)
    conn.send("A", ack=2)
    conn.expect("R", seq=2)
    assert always.mib.net_statistics[LINUX_MIB_SYNCOOKIESFAILED] == 1


def test_cookie_forged_at_a_listener_that_never_sent_any(
    listen: Listen, peer: RawPeer, always: Stack
) -> None:
    listen()
    peer.tcp(80).send("A", ack=77)
    peer.expect("R", seq=77)
    assert always.mib.net_statistics[LINUX_MIB_SYNCOOKIESFAILED] == 0


@pytest.mark.parametrize(
    ("start", "wait", "good"), [(51, 118, True), (51, 121, False), (110, 60, True), (110, 62, False)]
)
def test_cookie_is_good_for_less_than_two_minute_boundaries(
    listen: Listen, peer: RawPeer, always: Stack, sim: Sim, start: int, wait: int, good: bool
) -> None:
    sim.run_for(start * SEC)
    listen()
    conn, _ = cookie(peer, mss=1460)
    sim.run_for(wait * SEC)
    conn.send("A")
    peer.expect_nothing() if good else conn.expect("R", seq=1)
    assert always.mib.net_statistics[LINUX_MIB_SYNCOOKIESRECV] == int(good)


def test_cookie_ack_with_a_full_accept_queue(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen(0)
    peer.tcp(80, sport=40001).handshake()
    net.sysctl_set("tcp_syncookies", 2)
    peer.tcp(80, sport=40002).send("S", mss=1460)
    peer.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_LISTENOVERFLOWS] == 1


def test_cookie_ack_while_a_request_has_the_4_tuple(listen: Listen, peer: RawPeer, always: Stack) -> None:
    sock = listen()
    conn, _ = cookie(peer, mss=1460)
    always.sysctl_set("tcp_syncookies", 1)
    peer.tcp(80).send("S", mss=1460)
    conn.send("A")
    peer.sim.settle()
    assert sock.sk.sk_ack_backlog == 0
    assert sock.sk.icsk_accept_queue.qlen == 1  # type: ignore[attr-defined]
    assert always.ipv4.tcp_orphan_count == 0
    assert [len(tb.owners) for chain in always.tcp_hashinfo.bhash.values() for tb in chain] == [1]


def test_cookie_hash_round_trip(net: Stack) -> None:
    made = syncookies.secure_tcp_syn_cookie(net, 1, 2, 3, 4, 5, 0xABCDEF)
    assert syncookies.check_tcp_syn_cookie(net, made, 1, 2, 3, 4, 5) == 0xABCDEF
    assert syncookies.check_tcp_syn_cookie(net, made, 1, 2, 3, 5, 5) != 0xABCDEF
