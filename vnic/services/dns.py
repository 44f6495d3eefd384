# SPDX-License-Identifier: GPL-2.0-or-later
"""A name server for the guest's link, RFC 1035: an authority for what is in its table, and for nothing else.

A query for a name of the table is answered with its A or AAAA records (RFC 3596); other types of such a name, and a
family that it has no address of, get NOERROR without an answer (NODATA, RFC 2308); unknown names get NXDOMAIN, since no
query is ever passed on.  Addresses of the table have PTR records, below in-addr.arpa and ip6.arpa.  What is no query is
dropped and counted: answering a response would let two servers talk for ever.  A query that dpkt cannot read is
answered with FORMERR if its header is whole.

EDNS (RFC 6891): the OPT record of a query is ignored, as by a server of RFC 1035; answers fit in 512 bytes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import struct
from collections.abc import Iterable
from typing import Any

import dpkt
from dpkt import dns

PORT = 53
DOMAIN = "vnic.test"
"""What our names are below, and guests search in."""
TTL_S = 60
MAX_PAYLOAD = 512  # RFC 1035, section 2.3.4: UDP messages
MAX_NAME = 253
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
_ANY_TYPE = 255

Address = tuple[str, int]


def valid_name(name: str) -> bool:
    """Whether it is a host name as in RFC 1123 (underscores allowed), without a final dot."""
    return 0 < len(name) <= MAX_NAME and all(_LABEL.fullmatch(label) for label in name.split("."))


class Table:
    """Names and addresses, both ways; the last name added to an address is not its PTR: the first is."""

    def __init__(self, hosts: Iterable[tuple[str, str]] = ()) -> None:
        self._addresses: dict[str, list[bytes]] = {}
        self._names: dict[str, str] = {}
        for name, address in hosts:
            self.add(name, address)

    def add(self, name: str, address: str) -> None:
        """ValueError for a name that is no host name, or an address that is none of either family."""
        name = name.rstrip(".").lower()
        if not valid_name(name):
            raise ValueError(f"{name!r} is not a host name")
        where = ipaddress.ip_address(address)
        packed = where.packed
        known = self._addresses.setdefault(name, [])
        if packed not in known:
            known.append(packed)
        self._names.setdefault(where.reverse_pointer, name)

    def addresses(self, name: str) -> list[bytes] | None:
        """Packed addresses of 4 or 16 bytes; None if the name is unknown, empty if only names below it are known."""
        name = name.lower()
        if name in self._addresses:
            return self._addresses[name]
        tail = "." + name
        below = any(known.endswith(tail) for known in (*self._addresses, *self._names))
        return [] if below or name in self._names else None

    def pointer(self, name: str) -> str | None:
        """The host name behind 4.3.2.1.in-addr.arpa, or 32 digits and ip6.arpa."""
        return self._names.get(name.lower())


class Resolver:
    """Bytes in, bytes out; ``counters`` says what came in and what became of it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.counters: dict[str, int] = dict.fromkeys(
            ("queries", "answered", "nodata", "nxdomain", "formerr", "notimp", "dropped"), 0
        )

    def handle(self, message: bytes) -> bytes | None:
        """The answer to one UDP message; None if there must be none."""
        if len(message) < 12 or message[2] & 0x80:
            self.counters["dropped"] += 1
            return None
        self.counters["queries"] += 1
        if (message[2] >> 3) & 15 != dns.DNS_QUERY:
            return self._refuse(message, dns.DNS_RCODE_NOTIMP, "notimp")
        question = _read_question(message)
        if question is None:
            return self._refuse(message, dns.DNS_RCODE_FORMERR, "formerr")
        return self._answer(message, question)

    def _refuse(self, message: bytes, rcode: int, counter: str) -> bytes:
        self.counters[counter] += 1
        ident, flags = struct.unpack_from(">HH", message)
        return struct.pack(">HHHHHH", ident, dns.DNS_QR | (flags & 0x7900) | rcode, 0, 0, 0, 0)

    def _answer(self, message: bytes, question: Any) -> bytes:
        ident, flags = struct.unpack_from(">HH", message)
        records, known = self._look_up(question)
        rcode = dns.DNS_RCODE_NOERR if known else dns.DNS_RCODE_NXDOMAIN
        self.counters["answered" if records else "nodata" if known else "nxdomain"] += 1
        reply = dns.DNS(id=ident, op=dns.DNS_QR | dns.DNS_AA | (flags & dns.DNS_RD) | dns.DNS_RA | rcode)
        reply.qd, reply.an = [question], records
        packed = bytes(reply)
        while len(packed) > MAX_PAYLOAD and reply.an:
            reply.an, reply.op = reply.an[:-1], reply.op | dns.DNS_TC
            packed = bytes(reply)
        return packed

    def _look_up(self, question: Any) -> tuple[list[Any], bool]:
        if question.cls not in (dns.DNS_IN, dns.DNS_ANY):
            return [], False
        name = question.name
        pointer = self.table.pointer(name)
        if pointer is not None:
            wanted = question.type in (dns.DNS_PTR, _ANY_TYPE)
            return ([_record(name, dns.DNS_PTR, ptrname=pointer)] if wanted else []), True
        found = self.table.addresses(name)
        if found is None:
            return [], False
        records = [_address(name, packed) for packed in found]
        return [record for record in records if question.type in (record.type, _ANY_TYPE)], True


def _read_question(message: bytes) -> Any | None:
    """The one question of a query (more than one is nowhere defined: RFC 9619); None if it can't be read."""
    try:
        query = dns.DNS(
            message[:4] + struct.pack(">HHHH", *struct.unpack_from(">H", message, 4), 0, 0, 0) + message[12:]
        )
    except (dpkt.Error, struct.error, UnicodeError, IndexError):
        return None
    if len(query.qd) != 1:
        return None
    name = query.qd[0].name  # a label with a dot inside could not be told from two when packed again
    return None if name and not all(name.split(".")) else query.qd[0]


def _record(name: str, kind: int, **data: object) -> Any:
    record = dns.DNS.RR(name=name, type=kind, cls=dns.DNS_IN, ttl=TTL_S, rdata=b"")
    for field, value in data.items():
        setattr(record, field, value)
    return record


def _address(name: str, packed: bytes) -> Any:
    if len(packed) == 4:
        return _record(name, dns.DNS_A, ip=packed)
    return _record(name, dns.DNS_AAAA, ip6=packed)


class DnsProtocol(asyncio.DatagramProtocol):
    """The resolver on a UDP socket."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        answer = self._resolver.handle(bytes(data))
        if answer is not None:
            self._transport.sendto(answer, addr)


def default_hosts(server: str, name_server: str, server6: str | None = None) -> Iterable[tuple[str, str]]:
    """The names that every guest can resolve, with their addresses; over IPv6 all are the server."""
    names = (f"server.{DOMAIN}", DOMAIN, f"gateway.{DOMAIN}", f"dns.{DOMAIN}")
    v4 = [(name, name_server if name.startswith("dns.") else server) for name in names]
    return v4 + ([(name, server6) for name in names] if server6 is not None else [])
