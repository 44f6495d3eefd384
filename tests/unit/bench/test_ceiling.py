# SPDX-License-Identifier: GPL-2.0-or-later
"""The responder of the bench's ceiling, read back by dpkt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dpkt
import pytest

from bench.apps import BASE_PORT
from bench.ceiling import GSO, MSS, Responder
from devmodel.port import Buffer, Offloads, PortHandler, VnetHdr

CLIENT, SERVER = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
CLIENT_MAC, MAC = bytes.fromhex("525400000001"), bytes.fromhex("525500000002")
SYN, ACK, PSH, FIN = 2, 16, 8, 1


class Wire:
    """A port whose far end is the test."""

    name = "wire"
    link_up = True
    offloads = Offloads()

    def __init__(self) -> None:
        self.sent: list[tuple[VnetHdr | None, bytes]] = []
        self.responder = Responder(self, MAC, int.from_bytes(SERVER, "big"))

    def attach(self, handler: PortHandler) -> None:
        self.handler = handler

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        self.sent.append((hdr, b"".join(parts)))
        return True

    def flush(self) -> None: ...

    def stats(self) -> dict[str, int]:
        return {}

    def close(self) -> None: ...

    def answers(self, frame: bytes) -> list[Any]:
        """The Ethernet frames that one batch of this frame brings."""
        self.sent.clear()
        self.handler.frame_received(None, frame)
        self.handler.batch_done()
        return [dpkt.ethernet.Ethernet(data) for _, data in self.sent]


def segment(
    service: int, flags: int, seq: int = 0, ack: int = 0, data: bytes = b"", opts: bytes = b""
) -> bytes:
    tcp = dpkt.tcp.TCP(sport=40000, dport=BASE_PORT + service, seq=seq, ack=ack, flags=flags, win=500)
    tcp.opts, tcp.data = opts, data
    tcp.off = 5 + len(opts) // 4
    ip = dpkt.ip.IP(src=CLIENT, dst=SERVER, p=dpkt.ip.IP_PROTO_TCP, data=tcp, len=20 + len(bytes(tcp)))
    return bytes(dpkt.ethernet.Ethernet(src=CLIENT_MAC, dst=MAC, data=ip))


def connected(service: int) -> tuple[Wire, list[Any]]:
    """A wire on which the handshake is done, and what the third segment brought."""
    wire = Wire()
    (synack,) = wire.answers(segment(service, SYN, seq=99, opts=b"\x02\x04\x05\xb4\x01\x03\x03\x07"))
    assert synack.data.data.flags == SYN | ACK
    assert synack.data.data.ack == 100
    return wire, wire.answers(segment(service, ACK, 100, synack.data.data.seq + 1))


def test_arp_request_for_the_address_is_answered() -> None:
    arp = dpkt.arp.ARP(sha=CLIENT_MAC, spa=CLIENT, tha=bytes(6), tpa=SERVER)
    (reply,) = Wire().answers(
        bytes(dpkt.ethernet.Ethernet(src=CLIENT_MAC, dst=b"\xff" * 6, data=arp, type=0x806))
    )
    assert (reply.data.op, reply.data.sha, reply.data.spa, reply.data.tpa) == (2, MAC, SERVER, CLIENT)


@pytest.mark.parametrize("payload", [b"", b"\xff" * 7, bytes(range(56))])
def test_echo_request_is_answered_with_a_right_checksum(payload: bytes) -> None:
    echo = dpkt.icmp.ICMP.Echo(id=7, seq=1, data=payload)
    ip = dpkt.ip.IP(src=CLIENT, dst=SERVER, p=1, data=dpkt.icmp.ICMP(type=8, data=echo))
    ip.len = len(bytes(ip))
    (reply,) = Wire().answers(bytes(dpkt.ethernet.Ethernet(src=CLIENT_MAC, dst=MAC, data=ip)))
    assert reply.data.src == SERVER
    assert reply.data.data.type == 0
    body = bytes(reply.data)[20:]
    assert dpkt.in_cksum(body) == 0


def test_one_byte_is_followed_by_fin() -> None:
    _, (data, fin) = connected(0)
    assert data.data.data.data == b"x"
    assert fin.data.data.flags == ACK | FIN
    assert fin.data.data.seq == data.data.data.seq + 1


def test_ping_pong_returns_the_payload_and_acknowledges_it() -> None:
    wire, none = connected(1)
    assert none == []
    (answer,) = wire.answers(segment(1, ACK | PSH, 100, 1001, b"abc"))
    assert (answer.data.data.data, answer.data.data.ack) == (b"abc", 103)


def test_source_sends_what_the_window_takes_in_large_frames() -> None:
    wire, _ = connected(3)
    frames = wire.answers(segment(3, ACK | PSH, 100, 1001, (10**6).to_bytes(8, "big")))
    assert sum(len(frame.data.data.data) for frame in frames) == (500 << 7) // MSS * MSS
    assert max(len(data) for _, data in wire.sent) <= GSO + 54
    assert wire.sent[0][0] == VnetHdr(1, 1, 54, MSS, 34, 16)
