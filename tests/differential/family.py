# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between IPv4 and IPv6 for the raw client: addresses, headers, checksums.

A ``Family`` builds the packets that a step sends and reads the header of an answer.  Both give an answer's header the
same names where they mean the same: ``ttl`` is the hop limit, ``tos`` the traffic class.  An IPv6 answer has a
``label`` besides, whose value the runner normalises.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, ClassVar, Final, Protocol

from stack.lib.checksum import csum_ipv6_magic, csum_partial, csum_tcpudp_magic, ip_fast_csum

_IP4 = Struct("!BBHHHBBHII")
_IP6 = Struct("!IHBB16s16s")
_FRAGMENT: Final = 44
_FRAG6 = Struct("!BBHI")


@dataclass
class Head:
    """An answer's IP header as fields of the outcome; ``ip_id`` is only IPv4's, ``label`` only IPv6's."""

    fields: dict[str, Any]
    proto: int
    body: bytes
    addresses: bytes
    later: bool  # a fragment without the transport header
    ip_id: int = 0
    label: int = field(default=0)


class Family(Protocol):
    """One of IPV4 and IPV6."""

    number: ClassVar[int]
    af: ClassVar[int]
    any: ClassVar[str]
    server: ClassVar[str]
    client: ClassVar[str]
    icmp: ClassVar[int]
    icmp_pseudo: ClassVar[bool]  # its checksum covers the addresses

    def addresses(self, src: str, dst: str) -> bytes:
        """Both, one after the other."""

    def checksum(self, addresses: bytes, proto: int, size: int, body: bytes) -> int:
        """Of a transport segment, with the pseudo header of those addresses and that length."""

    def packets(self, proto: int, body: bytes, ident: int, **fields: Any) -> list[bytes]:
        """The packet of a step, or its fragments."""

    def quoted(self, proto: int, size: int, src: str, dst: str) -> bytes:
        """The header of a packet of the server's with ``size`` bytes behind it, for ICMP errors."""

    def head(self, packet: bytes) -> Head:
        """Read an answer."""


def aton(text: str) -> int:
    return int.from_bytes(socket.inet_aton(text), "big")


class _Ipv4:
    number, af, any, icmp, icmp_pseudo = 4, int(socket.AF_INET), "0.0.0.0", 1, False
    server, client = "10.0.2.2", "10.0.2.15"

    def addresses(self, src: str, dst: str) -> bytes:
        return socket.inet_aton(src) + socket.inet_aton(dst)

    def checksum(self, addresses: bytes, proto: int, size: int, body: bytes) -> int:
        saddr, daddr = int.from_bytes(addresses[:4], "big"), int.from_bytes(addresses[4:], "big")
        return csum_tcpudp_magic(saddr, daddr, size, proto, csum_partial(body))

    def packets(
        self,
        proto: int,
        body: bytes,
        ident: int,
        *,
        ttl: int = 64,
        tos: int = 0,
        ip_id: int | None = None,
        frag: int = 0x4000,
        ip_options: bytes = b"",
        src: str = client,
        dst: str = server,
        tot_len: int | None = None,
        ihl: int | None = None,
        bad_ip_checksum: bool = False,
        pad: bytes = b"",
        frags: tuple[tuple[int, int, bool], ...] = (),
    ) -> list[bytes]:
        pieces = [(body[a:b], a // 8 | (0x2000 if more else 0)) for a, b, more in frags] or [(body, frag)]
        out = []
        for piece, offset in pieces:
            words = 5 + len(ip_options) // 4
            size = words * 4 + len(piece) if tot_len is None else tot_len
            first = 0x40 | (words if ihl is None else ihl)
            values = (first, tos, size, ident if ip_id is None else ip_id, offset, ttl, proto)
            head = _header4(values, aton(src), aton(dst), ip_options, bad_ip_checksum)
            out.append(head + piece + pad)
        return out

    def quoted(self, proto: int, size: int, src: str, dst: str) -> bytes:
        return _header4((0x45, 0, 20 + size, 0, 0x4000, 64, proto), aton(src), aton(dst))

    def head(self, packet: bytes) -> Head:
        first, tos, size, ip_id, frag, ttl, proto, _, _, daddr = _IP4.unpack_from(packet)
        ihl = (first & 15) * 4
        fields = {"proto": proto, "ttl": ttl, "tos": tos, "df": bool(frag & 0x4000)}
        if frag & 0x3FFF:
            fields["frag"] = [(frag & 0x1FFF) * 8, bool(frag & 0x2000)]
        if ihl > 20:
            fields["ip_options"] = packet[20:ihl].hex()
        if ip_fast_csum(packet, ihl // 4) or size != len(packet):
            fields["malformed"] = packet[:ihl].hex()
        if daddr != aton(self.client):
            fields["to"] = packet[16:20].hex()
        return Head(fields, proto, packet[ihl:size], packet[12:20], bool(frag & 0x1FFF), ip_id)


def _header4(
    values: tuple[int, ...], saddr: int, daddr: int, options: bytes = b"", bad: bool = False
) -> bytes:
    head = _IP4.pack(*values, 0, saddr, daddr) + options
    check = ip_fast_csum(head, len(head) // 4) ^ (1 if bad else 0)
    return head[:10] + check.to_bytes(2, "big") + head[12:]


class _Ipv6:
    number, af, any, icmp, icmp_pseudo = 6, int(socket.AF_INET6), "::", 58, True
    server, client = "fd00:10:0:2::2", "fd00:10:0:2::15"

    def addresses(self, src: str, dst: str) -> bytes:
        return socket.inet_pton(self.af, src) + socket.inet_pton(self.af, dst)

    def checksum(self, addresses: bytes, proto: int, size: int, body: bytes) -> int:
        saddr, daddr = int.from_bytes(addresses[:16], "big"), int.from_bytes(addresses[16:], "big")
        return csum_ipv6_magic(saddr, daddr, size, proto, csum_partial(body))

    def packets(
        self,
        proto: int,
        body: bytes,
        ident: int,
        *,
        ttl: int = 64,
        tos: int = 0,
        label: int = 0,
        src: str = client,
        dst: str = server,
        version: int = 6,
        plen: int | None = None,
        ext: tuple[tuple[int, bytes], ...] = (),
        inner: tuple[tuple[int, bytes], ...] = (),
        frags: tuple[tuple[int, int, bool], ...] = (),
        pad: bytes = b"",
    ) -> list[bytes]:
        proto, body = _chained(inner, proto, body)
        if frags:
            heads = [(_FRAG6.pack(proto, 0, a | more, ident), body[a:b]) for a, b, more in frags]
            proto, pieces = _FRAGMENT, [head + piece for head, piece in heads]
        else:
            pieces = [body]
        out = []
        for piece in pieces:
            nexthdr, payload = _chained(ext, proto, piece)
            first = version << 28 | tos << 20 | label
            size = len(payload) if plen is None else plen
            out.append(_IP6.pack(first, size, nexthdr, ttl, *self._pair(src, dst)) + payload + pad)
        return out

    def _pair(self, src: str, dst: str) -> tuple[bytes, bytes]:
        both = self.addresses(src, dst)
        return both[:16], both[16:]

    def quoted(self, proto: int, size: int, src: str, dst: str) -> bytes:
        return _IP6.pack(6 << 28, size, proto, 64, *self._pair(src, dst))

    def head(self, packet: bytes) -> Head:
        first, size, nexthdr, ttl, _, daddr = _IP6.unpack_from(packet)
        fields: dict[str, Any] = {"proto": nexthdr, "ttl": ttl, "tos": first >> 20 & 0xFF}
        body, later = packet[40:], False
        if size != len(body):
            fields["malformed"] = packet[:40].hex()
        if daddr != socket.inet_pton(self.af, self.client):
            fields["to"] = daddr.hex()
        if nexthdr == _FRAGMENT:
            nexthdr, _, offset, _ = _FRAG6.unpack_from(body)
            fields["frag"] = [offset & ~7, bool(offset & 1)]
            body, later = body[8:], offset >= 8
        return Head(fields, nexthdr, body, packet[8:40], later, label=first & 0xFFFFF)


def _chained(headers: tuple[tuple[int, bytes], ...], proto: int, body: bytes) -> tuple[int, bytes]:
    """Extension headers (each its own number and its bytes, of which the first is overwritten) before a body."""
    for number, raw in reversed(headers):
        body, proto = bytes((proto,)) + raw[1:] + body, number
    return proto, body


IPV4: Final[Family] = _Ipv4()
IPV6: Final[Family] = _Ipv6()
FAMILIES: Final[dict[int, Family]] = {4: IPV4, 6: IPV6}
SERVER, CLIENT = IPV4.server, IPV4.client
SERVER6, CLIENT6 = IPV6.server, IPV6.client
