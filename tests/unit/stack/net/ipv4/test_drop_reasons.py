# SPDX-License-Identifier: GPL-2.0-or-later
"""One frame of each kind that is dropped, and the reason it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Sim
from stack.include.dropreason import drop_reason_names
from stack.include.sk_buff import CHECKSUM_PARTIAL, sk_buff
from stack.stack import Stack

Send = Callable[[RawPeer], None]
HOST = "10.0.2.2"


def frame(peer: RawPeer, ethertype: int, body: bytes, dest: bytes | None = None) -> None:
    peer.send_frame((dest or peer.remote_mac) + peer.mac + ethertype.to_bytes(2, "big") + body)


def ip(**fields: Any) -> Send:
    return lambda peer: peer.send_ip(1, b"\x08\x00\xf7\xff\0\0\0\0", fields.pop("dst", HOST), **fields)


def broken_ip(at: int, value: int) -> Send:
    def send(peer: RawPeer) -> None:
        packet = bytearray(peer.ip_packet(17, bytes(20), HOST))
        packet[at] = value
        frame(peer, 0x0800, bytes(packet))

    return send


def tcp(flags: str, dport: int = 80, **fields: Any) -> Send:
    return lambda peer: peer.send_tcp(HOST, 40000, dport, flags, 5, 6, **fields)


def fragments(*pieces: tuple[int, int, bool]) -> Send:
    def send(peer: RawPeer) -> None:
        for offset, length, more in pieces:
            peer.send_ip(17, bytes(length), HOST, frag=more << 13 | offset, ip_id=7)

    return send


def offload(**fields: Any) -> Send:
    return lambda peer: peer.send_frame(peer.remote_mac + peer.mac + b"\x08\0" + bytes(40), **fields)


FRAMES: list[tuple[str, Send]] = [
    ("DEV_HDR", lambda peer: peer.send_frame(b"short")),
    ("DEV_RX_OFFLOAD", offload(ip_summed=CHECKSUM_PARTIAL, csum_start=50, csum_offset=16)),
    ("UNHANDLED_PROTO", lambda peer: frame(peer, 0x88CC, bytes(46))),
    ("OTHERHOST", lambda peer: peer.send_udp(HOST, 1, 2, b"", dest_mac=b"\x02\0\0\0\0\x77")),
    ("ARP_INVALID", lambda peer: frame(peer, 0x0806, bytes(28))),
    ("IP_INHDR", broken_ip(0, 0x44)),
    ("IP_CSUM", broken_ip(8, 99)),
    ("PKT_TOO_SMALL", lambda peer: frame(peer, 0x0800, peer.ip_packet(17, bytes(80), HOST)[:60])),
    ("IP_OPTIONS", ip(ip_options=bytes((131, 7, 4, 10, 0, 2, 9, 0)))),
    ("IP_INHDR", ip(ip_options=bytes((7, 2, 4, 0)))),
    ("IP_INVALID_SOURCE", ip(src="224.0.0.1")),
    ("IP_LOCAL_SOURCE", ip(src=HOST)),
    ("IP_LOCALNET", ip(src="127.0.0.1")),
    ("IP_INVALID_DEST", ip(dst="0.0.0.1")),
    ("IP_INADDRERRORS", ip(dst="10.9.9.9")),
    ("IP_NOPROTO", lambda peer: peer.send_ip(132, bytes(8), HOST)),
    ("DUP_FRAG", fragments((0, 64, True), (0, 64, True))),
    ("NOT_SPECIFIED", fragments((0, 64, True), (4, 64, True))),
    ("ICMP_CSUM", lambda peer: peer.send_ip(1, b"\x08\0\0\0\0\0\0\0", HOST)),
    ("ICMP_IGNORED", lambda peer: peer.send_icmp(HOST, 0, 0, 1)),
    ("PKT_TOO_SMALL", lambda peer: peer.send_icmp(HOST, 3, 3, 0, b"short")),
    ("UNHANDLED_PROTO", lambda peer: peer.send_icmp(HOST, 99, 0, 1)),
    ("INVALID_PROTO", lambda peer: peer.send_icmp("10.0.2.255", 8, 0, 1)),
    ("PKT_TOO_SMALL", lambda peer: peer.send_ip(17, b"short", HOST)),
    ("UDP_CSUM", lambda peer: peer.send_ip(17, b"\0\1\0\2\0\x08\x12\x34", HOST)),
    ("NO_SOCKET", lambda peer: peer.send_udp(HOST, 1, 2, b"")),
    ("NO_SOCKET", lambda peer: peer.send_udp("10.0.2.255", 1, 2, b"")),
    ("PKT_TOO_SMALL", lambda peer: peer.send_ip(6, b"short", HOST)),
    ("TCP_CSUM", lambda peer: peer.send_ip(6, bytes(12) + b"\x50\x02" + bytes(6), HOST)),
    ("NO_SOCKET", tcp("S", 81)),
    ("TCP_FLAGS", tcp("A")),
    ("TCP_FLAGS", tcp("")),
    ("TCP_FLAGS", tcp("SF")),
    ("TCP_RESET", tcp("R")),
]


@pytest.mark.parametrize(("reason", "send"), FRAMES, ids=[f"{i}-{f[0]}" for i, f in enumerate(FRAMES)])
def test_listen_frame_is_dropped_with_its_reason(
    reason: str, send: Send, net: Stack, peer: RawPeer, listen: Callable[..., Socket]
) -> None:
    listen()
    told: list[str] = []
    net.drop_hook = lambda skb, number: told.append(drop_reason_names[number])
    send(peer)
    peer.sim.settle()
    assert set(told) == {reason}
    assert net.drop_reasons == {reason: len(told)}


def test_incomplete_datagram_is_dropped_as_timed_out(net: Stack, peer: RawPeer) -> None:
    fragments((0, 64, True))(peer)
    peer.sim.run_for(33 * SEC)  # ipfrag_time, and 2 s for the timer wheel
    assert net.drop_reasons == {"FRAG_REASM_TIMEOUT": 1}


def request(peer: RawPeer, sport: int = 40000) -> RawTcp:
    conn = peer.tcp(80, sport=sport)
    conn.send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    conn.expect("SA", seq=0, ack=1)
    conn.ts_on = True
    return conn


SEGMENTS_FOR_A_REQUEST: list[tuple[str, dict[str, Any]]] = [
    ("TCP_FLAGS", {"flags": "A", "ack": 77}),
    ("TCP_OVERWINDOW", {"flags": "A", "seq": 1_000_000}),
    ("TCP_RFC7323_PAWS", {"flags": "A", "ts": (3, 0)}),
    ("TCP_RESET", {"flags": "R"}),
    ("TCP_RESET", {"flags": "R", "seq": 50}),
    ("TCP_INVALID_SYN", {"flags": "S", "seq": 50}),
    ("TCP_FLAGS", {"flags": "P"}),
]


@pytest.mark.parametrize(("reason", "segment"), SEGMENTS_FOR_A_REQUEST)
def test_new_syn_recv_segment_is_dropped_with_its_reason(
    reason: str, segment: dict[str, Any], net: Stack, peer: RawPeer, listen: Callable[..., Socket]
) -> None:
    listen()
    request(peer).send(**segment)
    peer.sim.settle()
    assert net.drop_reasons == {reason: 1}


def test_new_syn_recv_repeated_syn_is_consumed(
    net: Stack, peer: RawPeer, listen: Callable[..., Socket]
) -> None:
    listen()
    conn = request(peer)
    conn.send("S", seq=0, mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    conn.expect("SA")
    assert net.drop_reasons == {}


@pytest.mark.parametrize(
    ("sysctl", "reason"),
    [
        ({}, "TCP_LISTEN_OVERFLOW"),
        ({"tcp_abort_on_overflow": 1}, "TCP_ABORT_ON_OVERFLOW"),
        ({"tcp_syncookies": 2}, "TCP_LISTEN_OVERFLOW"),
    ],
)
def test_new_syn_recv_ack_with_a_full_accept_queue_is_dropped_as_overflow(
    sim: Sim, sysctl: dict[str, Any], reason: str
) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl=sysctl)
    peer = sim.add_peer("10.0.2.15", net)
    sock = Socket(net)
    sock.bind(("", 80))
    sock.listen(1)
    first, second = request(peer, 1), request(peer, 2)
    first.send("A")
    peer.sim.settle()
    third = request(peer, 3)
    second.send("A")
    third.send("A")
    peer.sim.settle()
    assert net.drop_reasons == {reason: 1}


def test_listen_syn_with_full_queues_is_dropped_as_full(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl={"tcp_syncookies": 0})
    peer = sim.add_peer("10.0.2.15", net)
    sock = Socket(net)
    sock.bind(("", 80))
    sock.listen(0)
    request(peer, 1)
    peer.tcp(80, sport=2).send("S")
    sim.settle()
    assert net.drop_reasons == {"TCP_SYN_QUEUE_FULL": 1}


def outside(segment: dict[str, Any]) -> Callable[[RawTcp], None]:
    return lambda conn: conn.send(**segment)


SEGMENTS_FOR_A_CONNECTION: list[tuple[str, dict[str, Any]]] = [
    ("TCP_FLAGS", {"flags": ""}),
    ("TCP_INVALID_SYN", {"flags": "S"}),
    ("TCP_RESET", {"flags": "R"}),
    ("TCP_RESET", {"flags": "R", "seq": 50}),
    ("TCP_RFC7323_PAWS", {"flags": "A", "ts": (3, 0), "payload": b"x"}),
    ("TCP_ACK_UNSENT_DATA", {"flags": "A", "ack": 5000}),
    ("TCP_OLD_DATA", {"flags": "A", "seq": 0, "payload": b"x"}),
]


@pytest.mark.parametrize(("reason", "segment"), SEGMENTS_FOR_A_CONNECTION)
def test_established_segment_is_dropped_with_its_reason(
    reason: str, segment: dict[str, Any], established: Callable[..., Any]
) -> None:
    e = established()
    e.conn.send(**segment)
    e.sim.run_for(MSEC)
    assert e.net.drop_reasons == {reason: 1}


def test_established_data_out_of_order_twice_is_dropped_as_merged(established: Callable[..., Any]) -> None:
    e = established()
    for _ in range(2):
        e.conn.send("A", b"x" * 10, seq=100)
    e.sim.run_for(MSEC)
    assert e.net.drop_reasons == {"TCP_OFOMERGE": 1}


def test_established_small_segments_that_merge_are_consumed(established: Callable[..., Any]) -> None:
    e = established()
    e.conn.send("A", b"x" * 1000)
    e.conn.send("A", b"y" * 10)
    e.sim.run_for(MSEC)
    assert e.sock.recv(2000) == b"x" * 1000 + b"y" * 10
    assert e.net.drop_reasons == {}


def test_closed_port_below_the_minimum_ttl_is_dropped_for_it(
    net: Stack, peer: RawPeer, listen: Callable[..., Socket]
) -> None:
    listen(before=((0, 21, 200),))
    tcp("S")(peer)
    peer.sim.settle()
    assert net.drop_reasons == {"TCP_MINTTL": 1}


def test_drop_hook_gets_the_packet_itself(net: Stack, peer: RawPeer) -> None:
    seen: list[bytes] = []
    net.drop_hook = lambda skb, reason: seen.append(_whole(skb))
    peer.send_frame(b"short")
    peer.sim.settle()
    assert seen == [b"short"]


def _whole(skb: sk_buff) -> bytes:
    return bytes(memoryview(skb.head)[skb.data : skb.tail])
