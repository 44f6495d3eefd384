# SPDX-License-Identifier: GPL-2.0-or-later
"""Stack.syn_hook: a program's verdict on each SYN for a listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, RawTcp
from stack.include.ip import in_aton, ip_hdr
from stack.include.request_sock import SynVerdict
from stack.include.sk_buff import sk_buff
from stack.include.snmp import (
    LINUX_MIB_LISTENDROPS,
    LINUX_MIB_LISTENOVERFLOWS,
    LINUX_MIB_SYNCOOKIESRECV,
    LINUX_MIB_SYNCOOKIESSENT,
    LINUX_MIB_TCPREQQFULLDOCOOKIES,
    TCP_MIB_OUTRSTS,
)
from stack.include.tcp import tcp_hdr
from stack.stack import Stack

Listen = Callable[..., Socket]


def syn(peer: RawPeer, sport: int = 40000, dport: int = 80) -> RawTcp:
    conn = peer.tcp(dport, sport=sport)
    conn.send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    return conn


def test_listen_syn_hook_sees_the_listener_and_the_headers(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    seen: list[tuple[Any, int, int, int]] = []

    def hook(sk: Any, skb: sk_buff) -> SynVerdict:
        seen.append((sk, ip_hdr(skb).saddr, tcp_hdr(skb).source, tcp_hdr(skb).dest))
        return SynVerdict.ACCEPT

    net.syn_hook = hook
    conn = syn(peer)
    conn.expect("SA", seq=0, ack=1)
    conn.send("A")
    peer.expect_nothing()
    assert seen == [(sock.sk, in_aton("10.0.2.15"), 40000, 80)]
    assert sock.accept()[1] == ("10.0.2.15", 40000)


def test_listen_syn_hook_is_not_asked_about_other_segments(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    net.syn_hook = lambda sk, skb: pytest.fail("asked")
    peer.tcp(81).send("S")
    peer.tcp(80).send("A", ack=7)
    assert [peer.expect_segment().flags for _ in range(2)] == ["RA", "R"]


def test_listen_syn_hook_accept_keeps_the_limits(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen(backlog=0)
    peer.tcp(80, sport=1).handshake()
    net.syn_hook = lambda sk, skb: SynVerdict.ACCEPT
    syn(peer)
    peer.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_LISTENOVERFLOWS] == 1
    assert net.drop_reasons == {"TCP_LISTEN_OVERFLOW": 1}


def test_listen_syn_hook_drop_is_silence(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    net.syn_hook = lambda sk, skb: SynVerdict.DROP
    syn(peer)
    peer.expect_nothing()
    assert net.drop_reasons == {"SOCKET_FILTER": 1}
    assert net.mib.net_statistics[LINUX_MIB_LISTENDROPS] == 1
    assert (sock.sk.sk_drops, sock.sk.icsk_accept_queue.qlen) == (1, 0)  # type: ignore[attr-defined]


def test_listen_syn_hook_reset_answers_like_a_closed_port(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    net.syn_hook = lambda sk, skb: SynVerdict.RESET
    refused = syn(peer).expect("RA", seq=0, ack=1)
    closed = syn(peer, dport=81).expect("RA", seq=0, ack=1)
    assert (refused.window, refused.opts.kinds, refused.packet.ip_id, refused.packet.df) == (
        closed.window,
        closed.opts.kinds,
        closed.packet.ip_id,
        closed.packet.df,
    )
    assert net.mib.tcp_statistics[TCP_MIB_OUTRSTS] == 2
    assert net.drop_reasons == {"SOCKET_FILTER": 1, "NO_SOCKET": 1}


def test_listen_syn_hook_cookie_keeps_nothing_and_lets_the_ack_in(
    listen: Listen, peer: RawPeer, net: Stack
) -> None:
    sock = listen()
    net.syn_hook = lambda sk, skb: SynVerdict.COOKIE
    conn = syn(peer)
    conn.expect("SA", seq=0, ack=1)
    conn.ts_on = True
    assert sock.sk.icsk_accept_queue.qlen == 0  # type: ignore[attr-defined]
    assert not any(net.tcp_hashinfo.ehash.values())
    stats = net.mib.net_statistics
    assert (stats[LINUX_MIB_SYNCOOKIESSENT], stats[LINUX_MIB_TCPREQQFULLDOCOOKIES]) == (1, 0)
    conn.send("A")
    peer.expect_nothing()
    assert stats[LINUX_MIB_SYNCOOKIESRECV] == 1
    assert sock.accept()[1] == ("10.0.2.15", 40000)


def test_listen_syn_hook_cookie_without_syncookies_is_a_drop(
    listen: Listen, peer: RawPeer, net: Stack
) -> None:
    net.sysctl_set("tcp_syncookies", 0)
    listen()
    net.syn_hook = lambda sk, skb: SynVerdict.COOKIE
    syn(peer)
    peer.expect_nothing()
    assert net.drop_reasons == {"SOCKET_FILTER": 1}
