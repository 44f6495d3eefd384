# SPDX-License-Identifier: GPL-2.0-or-later
"""The shape of the SYN-ACK, and what a listener and a closed port answer; values measured on Linux 6.1."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim
from stack.include.snmp import TCP_MIB_CSUMERRORS, TCP_MIB_INERRS, TCP_MIB_OUTRSTS
from stack.stack import Stack

Listen = Callable[..., Socket]
SO_RCVBUF = (1, 8)
TCP_MAXSEG = (6, 2)


def syn(peer: RawPeer, sport: int = 40000, **options: object) -> tuple[RawTcp, Segment]:
    conn = peer.tcp(80, sport=sport)
    conn.send("S", **options)
    return conn, conn.expect("SA", seq=0, ack=1)


FULL: dict[str, object] = {"mss": 1460, "sackok": True, "ts": (1000, 0), "wscale": 7}


def test_listen_syn_with_all_options(listen: Listen, peer: RawPeer) -> None:
    listen()
    _, answer = syn(peer, **FULL)
    assert answer.opts.kinds == (2, 4, 8, 1, 3)
    assert (answer.opts.mss, answer.opts.sackok, answer.opts.wscale) == (1460, True, 7)
    assert answer.opts.ts is not None
    assert answer.opts.ts[1] == 1000
    assert answer.window == 65160


def test_listen_syn_without_options(listen: Listen, peer: RawPeer) -> None:
    listen()
    _, answer = syn(peer)
    assert answer.opts.kinds == (2,)
    assert answer.window == 64240


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"mss": 1460, "ts": (1, 0)}, (2, 1, 1, 8)),
        ({"mss": 1460, "sackok": True}, (2, 1, 1, 4)),
        ({"mss": 1460, "wscale": 3}, (2, 1, 3)),
        ({"mss": 1460, "sackok": True, "wscale": 3}, (2, 1, 1, 4, 1, 3)),
    ],
)
def test_listen_syn_offers_are_answered_in_kind(
    listen: Listen, peer: RawPeer, options: dict[str, object], kinds: tuple[int, ...]
) -> None:
    listen()
    assert syn(peer, **options)[1].opts.kinds == kinds


def test_listen_syn_ip_header(listen: Listen, peer: RawPeer) -> None:
    listen()
    packet = syn(peer, **FULL)[1].packet
    assert (packet.ttl, packet.df, packet.ip_id, packet.tos) == (64, True, 0, 0)


def test_listen_syn_with_tos_is_not_reflected_by_default(listen: Listen, peer: RawPeer) -> None:
    listen()
    assert syn(peer, mss=1460, tos=0x10)[1].packet.tos == 0


def test_listen_syn_with_tos_reflected(listen: Listen, peer: RawPeer, net: Stack) -> None:
    net.sysctl_set("tcp_reflect_tos", 1)
    listen()
    assert syn(peer, mss=1460, tos=0x10)[1].packet.tos == 0x10


@pytest.mark.parametrize(
    ("value", "window", "wscale"),
    [(2048, 1448, 0), (8192, 7240, 0), (20000, 18824, 0), (65536, 65160, 1), (1048576, 65535, 2)],
)
def test_listen_syn_with_rcvbuf_on_the_listener(
    listen: Listen, peer: RawPeer, value: int, window: int, wscale: int
) -> None:
    sock = listen(before=((*SO_RCVBUF, value),))
    assert sock.getsockopt(*SO_RCVBUF) == min(value, 212992) * 2
    _, answer = syn(peer, **FULL)
    assert (answer.window, answer.opts.wscale) == (window, wscale)


@pytest.mark.parametrize(
    ("maxseg", "mss", "window"), [(500, 500, 65392), (1000, 1000, 65208), (4000, 1460, 65160)]
)
def test_listen_syn_with_maxseg_on_the_listener(
    listen: Listen, peer: RawPeer, maxseg: int, mss: int, window: int
) -> None:
    listen(before=((*TCP_MAXSEG, maxseg),))
    _, answer = syn(peer, **FULL)
    assert (answer.opts.mss, answer.window) == (mss, window)


def test_listen_syn_with_payload_acknowledges_the_syn_only(listen: Listen, peer: RawPeer) -> None:
    listen()
    conn = peer.tcp(80)
    conn.send("S", b"early", mss=1460)
    conn.expect("SA", ack=1)


def test_listen_syn_isn_advances_once_per_64_ns(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    listen()
    first = syn(peer)[1].seq
    peer.tcp(80).send("R", seq=1)
    sim.run_for(SEC)
    second = syn(peer)[1].seq
    assert (second - first) & 0xFFFFFFFF == SEC // 64


def test_listen_syn_isn_of_another_port_is_unrelated(listen: Listen, peer: RawPeer) -> None:
    listen()
    isns = {syn(peer, sport=port)[1].seq for port in range(40000, 40008)}
    assert len(isns) == 8
    assert max(isns) - min(isns) > 1 << 24


def test_listen_syn_tsval_offset_belongs_to_the_4_tuple(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    listen()
    first = syn(peer, **FULL)[1].opts.ts
    other = syn(peer, sport=40001, **FULL)[1].opts.ts
    peer.tcp(80).send("R", seq=1)
    sim.run_for(10 * MSEC)
    again = syn(peer, **FULL)[1].opts.ts
    assert first is not None
    assert other is not None
    assert again is not None
    assert (again[0] - first[0]) & 0xFFFFFFFF == 10
    assert abs(other[0] - first[0]) > 1000


def test_listen_syn_tsval_without_offset(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    net.sysctl_set("tcp_timestamps", 2)
    listen()
    sim.run_for(5 * SEC)
    ts = syn(peer, **FULL)[1].opts.ts
    assert ts is not None
    assert ts[0] == 5000


def test_listen_syn_ecn_setup(listen: Listen, peer: RawPeer) -> None:
    listen()
    conn = peer.tcp(80)
    conn.send("SEW", mss=1460)
    conn.expect("SAE")


def test_listen_syn_ecn_setup_in_an_ect_packet(listen: Listen, peer: RawPeer) -> None:
    listen()
    conn = peer.tcp(80)
    conn.send("SEW", mss=1460, tos=2)
    conn.expect("SA")


@pytest.mark.parametrize("flags", ["SP", "SU"])
def test_listen_syn_with_psh_or_urg(listen: Listen, peer: RawPeer, flags: str) -> None:
    listen()
    conn = peer.tcp(80)
    conn.send(flags, mss=1460)
    conn.expect("SA", ack=1)


def test_listen_syn_with_a_malformed_option(listen: Listen, peer: RawPeer) -> None:
    listen()
    conn = peer.tcp(80)
    conn.send("S", options=b"\x02\x04\x05\xb4\x03\x00\x00\x00")
    assert conn.expect("SA").opts.kinds == (2,)


def test_listen_syn_bad_checksum(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    peer.tcp(80).send("S", bad_checksum=True)
    peer.expect_nothing()
    assert net.mib.tcp_statistics[TCP_MIB_CSUMERRORS] == net.mib.tcp_statistics[TCP_MIB_INERRS] == 1


@pytest.mark.parametrize("flags", ["SF", "SR", "F", "R", "", "PU"])
def test_listen_segment_that_gets_silence(listen: Listen, peer: RawPeer, flags: str) -> None:
    listen()
    peer.tcp(80).send(flags)
    peer.expect_nothing()


@pytest.mark.parametrize("flags", ["A", "SA", "FA", "PA"])
def test_listen_segment_with_ack_gets_rst(listen: Listen, peer: RawPeer, flags: str) -> None:
    listen()
    peer.tcp(80).send(flags, ack=777)
    answer = peer.expect("R", seq=777, ack=0, window=0)
    packet = answer.packet
    assert (answer.opts.kinds, packet.ip_id, packet.df, packet.ttl) == ((), 0, True, 64)


@pytest.mark.parametrize(("flags", "extra"), [("S", 1), ("F", 1), ("SF", 2), ("P", 0), ("", 0)])
def test_closed_port_segment_without_ack(peer: RawPeer, net: Stack, flags: str, extra: int) -> None:
    peer.tcp(81).send(flags, b"abc")
    peer.expect("RA", seq=0, ack=1_000_000 + 3 + extra, window=0, length=0)
    assert net.mib.tcp_statistics[TCP_MIB_OUTRSTS] == 1


def test_closed_port_segment_with_ack(peer: RawPeer) -> None:
    peer.tcp(81).send("A", b"abc", ack=99)
    peer.expect("R", seq=99, ack=0)


def test_closed_port_rst(peer: RawPeer) -> None:
    peer.tcp(81).send("R")
    peer.tcp(81).send("RA", ack=5)
    peer.expect_nothing()
