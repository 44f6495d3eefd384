# SPDX-License-Identifier: GPL-2.0-or-later
"""A host of one address, made of packets: enough to see whether somebody is behind a network card, and what it answers.

No I/O and no time: frames go in by `handle()`, out by `take()`. It answers ARP requests for its address, keeps the
hardware addresses that it hears of, and has

    arp(), ping()    one request each; `heard` has what came back
    RawTcp           one client connection: connect, send, close; data in order are acknowledged and kept

What it leaves out: retransmission (whoever has a clock calls `again()`), windows and congestion, IP options and
fragments, IPv6, a server's side. Checksums are verified unless the frame's header says that they are good or
unfinished, and a frame whose checksum is wrong is only counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from struct import Struct
from typing import Final

from devmodel.port import VnetHdr
from devmodel.virtio.spec import VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM

ETH: Final = Struct("!6s6sH")
ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
BROADCAST: Final = b"\xff" * 6

# RFC 826
ARP: Final = Struct("!HHBBH6s4s6s4s")
ARP_REQUEST, ARP_REPLY = 1, 2

# RFC 791, 792, 9293
IPV4: Final = Struct("!BBHHHBBH4s4s")
ICMP_ECHO: Final = Struct("!BBHHH")
ECHO_REPLY, ECHO_REQUEST = 0, 8
TCP: Final = Struct("!HHIIBBHHH")
IPPROTO_ICMP, IPPROTO_TCP = 1, 6
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

MSS: Final = 1460
WINDOW: Final = 65535


def checksum(data: bytes, start: int = 0) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = start + sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(src: bytes, dst: bytes, proto: int, size: int) -> int:
    """Its sum, not folded."""
    body = src + dst + bytes([0, proto]) + size.to_bytes(2, "big")
    return sum(int.from_bytes(body[at : at + 2], "big") for at in range(0, len(body), 2))


@dataclass(frozen=True, slots=True)
class Heard:
    """Something that came for us: `kind` is arp, echo or tcp; `source` its address."""

    kind: str
    source: str
    detail: str


@dataclass(slots=True)
class RawHost:
    """See the module."""

    mac: bytes
    address: str
    gateway: str = ""
    neighbours: dict[str, bytes] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    bad_checksums: int = 0
    connections: dict[tuple[str, int, int], RawTcp] = field(default_factory=dict)
    _out: list[bytes] = field(default_factory=list)
    _ip_id: int = 0

    def take(self) -> list[bytes]:
        """The frames to be sent."""
        out, self._out = self._out, []
        return out

    # -- out --------------------------------------------------------------------------------------------

    def _frame(self, dst: bytes, kind: int, body: bytes) -> None:
        self._out.append((ETH.pack(dst, self.mac, kind) + body).ljust(60, b"\0"))

    def _arp(self, operation: int, dst: bytes, target_mac: bytes, target: str) -> None:
        ours, theirs = IPv4Address(self.address).packed, IPv4Address(target).packed
        body = ARP.pack(1, ETH_P_IP, 6, 4, operation, self.mac, ours, target_mac, theirs)
        self._frame(dst, ETH_P_ARP, body)

    def arp(self, target: str) -> None:
        """Ask who has an address."""
        self._arp(ARP_REQUEST, BROADCAST, bytes(6), target)

    def ip(self, dst: str, proto: int, body: bytes) -> None:
        """One packet to a host whose hardware address, or whose router's, is known; KeyError."""
        self._ip_id = (self._ip_id + 1) & 0xFFFF
        ours, theirs = IPv4Address(self.address).packed, IPv4Address(dst).packed
        head = IPV4.pack(0x45, 0, 20 + len(body), self._ip_id, 0x4000, 64, proto, 0, ours, theirs)
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        self._frame(self.neighbours[self.gateway or dst], ETH_P_IP, head + body)

    def ping(
        self, dst: str, sequence: int, payload: bytes = b"vnic driver", identifier: int = 0x5643
    ) -> None:
        body = ICMP_ECHO.pack(ECHO_REQUEST, 0, 0, identifier, sequence) + payload
        self.ip(dst, IPPROTO_ICMP, body[:2] + checksum(body).to_bytes(2, "big") + body[4:])

    def tcp(self, dst: str, dport: int, sport: int = 40000, isn: int = 1000) -> RawTcp:
        """A new connection, not begun."""
        connection = RawTcp(self, dst, dport, sport, isn)
        self.connections[dst, dport, sport] = connection
        return connection

    # -- in ---------------------------------------------------------------------------------------------

    def handle(self, frame: bytes, hdr: VnetHdr | None = None) -> None:
        """One frame from the wire. What is malformed or for somebody else is passed over."""
        if len(frame) < ETH.size:
            return
        dst, _, kind = ETH.unpack_from(frame)
        if dst not in (self.mac, BROADCAST):
            return
        if kind == ETH_P_ARP and len(frame) >= ETH.size + ARP.size:
            self._on_arp(frame[ETH.size :])
        elif kind == ETH_P_IP and len(frame) >= ETH.size + IPV4.size:
            trusted = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID
            self._on_ip(frame[ETH.size :], bool(hdr is not None and hdr.flags & trusted))

    def _on_arp(self, body: bytes) -> None:
        _, _, _, _, operation, mac, source, _, target = ARP.unpack_from(body)
        name = str(IPv4Address(source))
        if target != IPv4Address(self.address).packed:
            return
        self.neighbours[name] = mac
        if operation == ARP_REQUEST:
            self._arp(ARP_REPLY, mac, mac, name)
        elif operation == ARP_REPLY:
            self.heard.append(Heard("arp", name, mac.hex(":")))

    def _on_ip(self, packet: bytes, trusted: bool) -> None:
        version, _, size, _, fragment, _, proto, _, source, target = IPV4.unpack_from(packet)
        header = (version & 15) * 4
        if target != IPv4Address(self.address).packed or fragment & 0x3FFF or not 20 <= header <= size:
            return
        if checksum(packet[:header]) or size > len(packet):
            self.bad_checksums += 1
            return
        body, name = packet[header:size], str(IPv4Address(source))
        if proto == IPPROTO_ICMP and len(body) >= ICMP_ECHO.size:
            self._on_icmp(name, body)
        elif proto == IPPROTO_TCP and len(body) >= TCP.size:
            if not trusted and checksum(body, pseudo_header(source, target, proto, len(body))):
                self.bad_checksums += 1
                return
            self._on_tcp(name, body)

    def _on_icmp(self, source: str, body: bytes) -> None:
        kind, code, _, _, sequence = ICMP_ECHO.unpack_from(body)
        if checksum(body):
            self.bad_checksums += 1
        elif kind == ECHO_REPLY:
            self.heard.append(Heard("echo", source, f"sequence {sequence}, {len(body) - 8} bytes"))
        else:
            self.heard.append(Heard("icmp", source, f"type {kind}, code {code}"))

    def _on_tcp(self, source: str, body: bytes) -> None:
        sport, dport, *_ = TCP.unpack_from(body)
        connection = self.connections.get((source, sport, dport))
        if connection is not None:
            connection.segment(body)


@dataclass(slots=True)
class RawTcp:
    """A client connection of a RawHost. `state` is closed, syn-sent, established, fin-sent, ended or reset."""

    host: RawHost
    dst: str
    dport: int
    sport: int
    isn: int
    state: str = "closed"
    received: bytearray = field(default_factory=bytearray)
    peer_closed: bool = False
    _nxt: int = 0  # SND.NXT
    _una: int = 0  # SND.UNA
    _rcv: int = 0  # RCV.NXT
    _last: tuple[int, int, bytes, bytes] = (0, 0, b"", b"")

    # -- out --------------------------------------------------------------------------------------------

    def _emit(self, flags: int, seq: int, data: bytes = b"", options: bytes = b"") -> None:
        words = (20 + len(options)) // 4
        ack = self._rcv if flags & ACK else 0
        body = TCP.pack(self.sport, self.dport, seq, ack, words << 4, flags, WINDOW, 0, 0) + options + data
        ours, theirs = IPv4Address(self.host.address).packed, IPv4Address(self.dst).packed
        total = checksum(body, pseudo_header(ours, theirs, IPPROTO_TCP, len(body)))
        self.host.ip(self.dst, IPPROTO_TCP, body[:16] + total.to_bytes(2, "big") + body[18:])

    def _send(self, flags: int, data: bytes = b"", options: bytes = b"") -> None:
        """Something that takes sequence numbers."""
        self._last = flags, self._nxt, data, options
        self._emit(*self._last)
        self._nxt = (self._nxt + len(data) + bool(flags & (SYN | FIN))) & 0xFFFFFFFF

    def connect(self) -> None:
        self._nxt = self._una = self.isn
        self.state = "syn-sent"
        self._send(SYN, options=b"\x02\x04" + MSS.to_bytes(2, "big"))

    def send(self, data: bytes) -> None:
        """At most as much as fits the peer's first window; segments of one MSS."""
        for at in range(0, len(data), MSS):
            self._send(ACK | PSH, data[at : at + MSS])

    def close(self) -> None:
        """Our half."""
        self._send(FIN | ACK)
        self.state = "fin-sent"

    def abort(self) -> None:
        self._emit(RST | ACK, self._nxt)
        self.state = "ended"

    def again(self) -> None:
        """Send what was sent last once more, if it was not acknowledged."""
        if self._una != self._nxt:
            self._emit(*self._last)

    # -- in ---------------------------------------------------------------------------------------------

    def segment(self, body: bytes) -> None:
        _, _, seq, ack, words, flags, *_ = TCP.unpack_from(body)
        data = body[(words >> 4) * 4 :]
        if flags & RST:
            self.state = "reset"
        elif self.state == "syn-sent":
            self._on_syn_ack(seq, ack, flags)
        elif self.state in ("established", "fin-sent"):
            self._on_segment(seq, ack, flags, data)

    def _on_syn_ack(self, seq: int, ack: int, flags: int) -> None:
        if flags & (SYN | ACK) != SYN | ACK or ack != self._nxt:
            return
        self._una, self._rcv = ack, (seq + 1) & 0xFFFFFFFF
        self.state = "established"
        self._emit(ACK, self._nxt)

    def _on_segment(self, seq: int, ack: int, flags: int, data: bytes) -> None:
        if (ack - self._una) & 0xFFFFFFFF <= (self._nxt - self._una) & 0xFFFFFFFF:
            self._una = ack
        if seq == self._rcv and not self.peer_closed:
            self.received += data
            self.peer_closed = bool(flags & FIN)
            self._rcv = (seq + len(data) + self.peer_closed) & 0xFFFFFFFF
        if data or flags & (FIN | SYN):
            self._emit(ACK, self._nxt)
        if self.state == "fin-sent" and self.peer_closed and self._una == self._nxt:
            self.state = "ended"
