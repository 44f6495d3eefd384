# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's IPv4 side: whole lives, ICMP errors, TTL and addresses, the metrics cache."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Sim
from stack.include.ip import ICMP_DEST_UNREACH, ICMP_TIME_EXCEEDED, IP_MINTTL, IP_RECVERR, in_aton
from stack.include.snmp import (
    ICMP_MIB_INERRORS,
    LINUX_MIB_OUTOFWINDOWICMPS,
    LINUX_MIB_TCPMINTTLDROP,
    TCP_MIB_CURRESTAB,
    TCP_MIB_INERRS,
)
from stack.include.tcp_states import TCP_CLOSE
from stack.stack import Stack

Listen = Callable[..., Socket]
FULL = {"mss": 1460, "sackok": True, "ts": (1000, 0), "wscale": 7}


def established(listen: Listen, peer: RawPeer) -> tuple[RawTcp, Socket]:
    sock = listen()
    conn = peer.tcp(80)
    conn.handshake()
    return conn, sock.accept()[0]


def icmp(
    peer: RawPeer, conn: RawTcp, type_: int, code: int, rel_seq: int, mtu: int = 0, port: int = 80
) -> None:
    """An ICMP error that quotes a segment of the stack's with that relative sequence number."""
    assert conn.irs is not None
    seq = (conn.irs + rel_seq) & 0xFFFFFFFF
    head = b"".join(v.to_bytes(2, "big") for v in (port, conn.sport)) + seq.to_bytes(4, "big")
    quoted = bytes((0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0))
    quoted += in_aton("10.0.2.2").to_bytes(4, "big") + in_aton("10.0.2.15").to_bytes(4, "big") + head
    peer.send_icmp("10.0.2.2", type_, code, mtu, quoted)
    peer.sim.settle()


def test_whole_lives_leave_nothing_behind(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    sock = listen(64)
    for i in range(50):
        conn = peer.tcp(80, sport=40000 + i)
        conn.handshake()
        child, _ = sock.accept()
        conn.send("PA", b"ping")
        conn.expect("A", ack=5)
        assert child.recv(100) == b"ping"
        assert child.send(b"pong") == 4
        conn.expect("PA", payload=b"pong", ack=5)
        conn.send("A")
        if i % 2:
            child.close()
            conn.expect("FA")
            conn.send("FA")
            conn.expect("A")
        else:
            conn.send("FA")
            conn.expect("A", within_ns=50 * MSEC)
            assert child.recv(1) == b""
            child.close()
            conn.expect("FA")
            conn.send("A")
        peer.expect_nothing()
    assert net.mib.tcp_statistics[TCP_MIB_CURRESTAB] == 0
    assert net.tcp_death_row.tw_refcount == 25
    sim.run_for(70 * SEC)
    assert net.tcp_death_row.tw_refcount == 0
    assert not any(net.tcp_hashinfo.ehash.values())
    (tb,) = net.tcp_hashinfo.bhash[80]
    assert list(tb.owners) == [sock.sk]
    sock.close()
    assert (net.tcp_hashinfo.bhash, net.tcp_hashinfo.bhash2) == ({}, {})
    assert net.core.prot_inuse["TCP"] == 0


def test_established_icmp_error_is_soft(listen: Listen, peer: RawPeer) -> None:
    conn, child = established(listen, peer)
    child.send(b"x")
    conn.expect("PA")
    icmp(peer, conn, ICMP_DEST_UNREACH, 1, 1)
    assert (child.sk.sk_err, child.sk.sk_err_soft) == (0, errno.EHOSTUNREACH)
    icmp(peer, conn, ICMP_TIME_EXCEEDED, 0, 1)
    assert child.sk.sk_err == 0


def test_established_icmp_error_with_recverr(listen: Listen, peer: RawPeer) -> None:
    conn, child = established(listen, peer)
    child.setsockopt(0, IP_RECVERR, 1)
    child.send(b"x")
    conn.expect("PA")
    icmp(peer, conn, ICMP_DEST_UNREACH, 1, 1)
    assert child.sk.sk_err == errno.EHOSTUNREACH


def test_established_icmp_error_outside_what_is_in_flight(listen: Listen, peer: RawPeer, net: Stack) -> None:
    conn, child = established(listen, peer)
    icmp(peer, conn, ICMP_DEST_UNREACH, 1, 5000)
    assert child.sk.sk_err_soft == 0
    assert net.mib.net_statistics[LINUX_MIB_OUTOFWINDOWICMPS] == 1


def test_icmp_error_about_nobody(listen: Listen, peer: RawPeer, net: Stack) -> None:
    conn, _ = established(listen, peer)
    icmp(peer, conn, ICMP_DEST_UNREACH, 1, 1, port=81)
    assert net.mib.icmp_statistics[ICMP_MIB_INERRORS] == 1


def test_established_fragmentation_needed_shrinks_the_mss_and_resends(listen: Listen, peer: RawPeer) -> None:
    conn, child = established(listen, peer)
    child.send(b"x" * 1448)
    conn.expect("PA", length=1448)
    icmp(peer, conn, ICMP_DEST_UNREACH, 4, 1, mtu=1000)
    assert child.sk.mss_cache == 1000 - 52  # type: ignore[attr-defined]
    assert conn.expect(seq=1, length=948).packet.df
    conn.expect(seq=949, length=500)


def test_listen_segment_below_the_minimum_ttl(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen(before=((0, IP_MINTTL, 100),))
    peer.tcp(80).send("S", ttl=99)
    peer.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_TCPMINTTLDROP] == 1
    peer.tcp(80).send("S", ttl=100)
    peer.expect("SA")


def test_listen_syn_in_a_broadcast_frame(listen: Listen, peer: RawPeer) -> None:
    listen()
    peer.tcp(80).send("S", dest_mac=b"\xff" * 6)
    peer.expect_nothing()


@pytest.mark.parametrize("cut", [0, 4, 19])
def test_segment_shorter_than_its_header(listen: Listen, peer: RawPeer, net: Stack, cut: int) -> None:
    listen()
    peer.send_ip(6, b"\x9c\x40\x00\x50" + bytes(16)[: max(cut - 4, 0)] if cut else b"", "10.0.2.2")
    peer.expect_nothing()
    assert net.drop_reasons["PKT_TOO_SMALL"] == 1
    assert net.mib.tcp_statistics[TCP_MIB_INERRS] == 0


def test_segment_with_a_data_offset_beyond_its_end(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    head = b"\x9c\x40\x00\x50" + bytes(8) + b"\xf0\x02" + bytes(6)
    peer.send_ip(6, head, "10.0.2.2")
    peer.expect_nothing()
    assert net.drop_reasons["PKT_TOO_SMALL"] == 1
    assert net.mib.tcp_statistics[TCP_MIB_INERRS] == 0


def test_metrics_make_a_proven_peer(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    sock = listen(1000)
    conn = peer.tcp(80, sport=50000)
    conn.send("S", **FULL)
    conn.expect("SA")
    conn.ts_on = True
    sim.run_for(20 * MSEC)
    conn.send("A")
    sim.settle()
    child, _ = sock.accept()
    child.close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    assert child.sk.sk_state == TCP_CLOSE
    ((key, metrics),) = net.tcp_metrics.items()
    assert key == (in_aton("10.0.2.2"), in_aton("10.0.2.15"))
    assert 15_000 <= metrics.rtt >> 3 <= 25_000
    net.sysctl_set("tcp_syncookies", 0)
    net.sysctl_set("tcp_max_syn_backlog", 16)
    for i in range(16):
        peer.tcp(80, sport=41000 + i).send("S", mss=1460)
        peer.expect("SA")


def test_metrics_are_not_kept_if_told_so(listen: Listen, peer: RawPeer, net: Stack) -> None:
    net.sysctl_set("tcp_no_metrics_save", 1)
    conn, child = established(listen, peer)
    child.close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    assert net.tcp_metrics == {}
