# SPDX-License-Identifier: GPL-2.0-or-later
"""The name server, with messages built and read by dpkt."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address
from typing import Any

import pytest
from dpkt import dns

from vnic.services.dns import Resolver, Table, default_hosts


@pytest.fixture
def resolver() -> Resolver:
    table = Table(default_hosts("10.0.2.2", "10.0.2.3", "fd00::2"))
    table.add("db.test", "10.0.2.50")
    table.add("six.test", "fd00::50")
    return Resolver(table)


def query(name: str, kind: int = dns.DNS_A, ident: int = 77) -> bytes:
    message = dns.DNS(id=ident)
    question = dns.DNS.Q()
    question.name, question.type, question.cls = name, kind, dns.DNS_IN
    message.qd = [question]
    return bytes(message)


def answer(resolver: Resolver, message: bytes) -> Any:
    reply = resolver.handle(message)
    assert reply is not None
    return dns.DNS(reply)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("vnic.test", "10.0.2.2"),
        ("server.vnic.test", "10.0.2.2"),
        ("DNS.Vnic.Test", "10.0.2.3"),
        ("db.test", "10.0.2.50"),
    ],
)
def test_known_name_query_a(resolver: Resolver, name: str, address: str) -> None:
    reply = answer(resolver, query(name))
    assert (reply.id, reply.qr, reply.aa, reply.rcode) == (77, 1, 1, dns.DNS_RCODE_NOERR)
    assert reply.qd[0].name == name
    assert [bytes(record.ip) for record in reply.an] == [bytes(map(int, address.split(".")))]


@pytest.mark.parametrize(
    ("name", "address"), [("vnic.test", "fd00::2"), ("DNS.vnic.test", "fd00::2"), ("six.test", "fd00::50")]
)
def test_known_name_query_aaaa(resolver: Resolver, name: str, address: str) -> None:
    reply = answer(resolver, query(name, dns.DNS_AAAA))
    assert reply.rcode == dns.DNS_RCODE_NOERR
    assert [(record.type, bytes(record.ip6)) for record in reply.an] == [
        (dns.DNS_AAAA, IPv6Address(address).packed)
    ]


@pytest.mark.parametrize(("name", "kind"), [("db.test", dns.DNS_AAAA), ("six.test", dns.DNS_A)])
def test_known_name_without_an_address_of_the_family_is_nodata(
    resolver: Resolver, name: str, kind: int
) -> None:
    reply = answer(resolver, query(name, kind))
    assert (reply.rcode, reply.an) == (dns.DNS_RCODE_NOERR, [])
    assert resolver.counters["nodata"] == 1


def test_known_name_query_any_gets_both_families(resolver: Resolver) -> None:
    reply = answer(resolver, query("server.vnic.test", 255))
    assert [record.type for record in reply.an] == [dns.DNS_A, dns.DNS_AAAA]


def test_pointer_of_an_ipv6_address(resolver: Resolver) -> None:
    name = IPv6Address("fd00::2").reverse_pointer
    assert answer(resolver, query(name, dns.DNS_PTR)).an[0].ptrname == "server.vnic.test"
    above = name.partition(".")[2]
    assert answer(resolver, query(above, dns.DNS_PTR)).rcode == dns.DNS_RCODE_NOERR
    assert answer(resolver, query("1." + above, dns.DNS_PTR)).rcode == dns.DNS_RCODE_NXDOMAIN


def test_unknown_name_query_is_nxdomain(resolver: Resolver) -> None:
    assert answer(resolver, query("example.org")).rcode == dns.DNS_RCODE_NXDOMAIN


def test_name_between_known_ones_is_nodata_not_nxdomain(resolver: Resolver) -> None:
    reply = answer(resolver, query("test"))
    assert (reply.rcode, reply.an) == (dns.DNS_RCODE_NOERR, [])


def test_known_address_query_ptr_names_the_first(resolver: Resolver) -> None:
    reply = answer(resolver, query("2.2.0.10.in-addr.arpa", dns.DNS_PTR))
    assert [record.ptrname for record in reply.an] == ["server.vnic.test"]
    assert answer(resolver, query("9.2.0.10.in-addr.arpa", dns.DNS_PTR)).rcode == dns.DNS_RCODE_NXDOMAIN


def test_query_with_edns_is_answered(resolver: Resolver) -> None:
    plain = query("vnic.test")
    with_opt = (
        plain[:10] + struct.pack(">H", 1) + plain[12:] + b"\0" + struct.pack(">HHIH", dns.DNS_OPT, 1232, 0, 0)
    )
    assert len(answer(resolver, with_opt).an) == 1


def test_response_is_dropped(resolver: Resolver) -> None:
    message = bytearray(query("vnic.test"))
    message[2] |= 0x80
    assert resolver.handle(bytes(message)) is None
    assert resolver.counters["dropped"] == 1


def test_other_opcode_is_not_implemented(resolver: Resolver) -> None:
    message = bytearray(query("vnic.test"))
    message[2] |= dns.DNS_UPDATE << 3
    reply = resolver.handle(bytes(message))
    assert reply is not None
    assert reply[3] & 15 == dns.DNS_RCODE_NOTIMP
    assert (reply[2] >> 3) & 15 == dns.DNS_UPDATE


@pytest.mark.parametrize(
    "body",
    [
        b"",  # the question is missing
        b"\x04vnic",  # cut within the name
        b"\x04vnic\x04test\0\0\1",  # cut within the type
        b"\xc0\x0c\0\1\0\1",  # a pointer to itself
        b"\x80abc\0\0\1\0\1",  # a label type that does not exist
        b"\x02\xff\xfe\0\0\1\0\1",  # not UTF-8
    ],
)
def test_malformed_question_is_formerr(resolver: Resolver, body: bytes) -> None:
    reply = resolver.handle(struct.pack(">HHHHHH", 5, 0x0100, 1, 0, 0, 0) + body)
    assert reply is not None
    assert struct.unpack_from(">HH", reply) == (5, 0x8101)
    assert resolver.counters["formerr"] == 1


@pytest.mark.parametrize("count", [0, 2, 65535])
def test_not_exactly_one_question_is_formerr(resolver: Resolver, count: int) -> None:
    message = query("vnic.test")
    reply = resolver.handle(message[:4] + struct.pack(">H", count) + message[6:])
    assert reply is not None
    assert reply[3] & 15 == dns.DNS_RCODE_FORMERR


def test_short_message_is_dropped(resolver: Resolver) -> None:
    assert resolver.handle(b"\0" * 11) is None


def test_many_addresses_answer_is_cut_at_512_bytes(resolver: Resolver) -> None:
    for last in range(100):
        resolver.table.add("many.test", f"10.0.3.{last}")
    reply = resolver.handle(query("many.test"))
    assert reply is not None
    assert len(reply) <= 512
    assert dns.DNS(reply).tc == 1
    assert len(dns.DNS(reply).an) > 10


@pytest.mark.parametrize(
    ("name", "address"), [("-bad", "10.0.0.1"), ("a..b", "10.0.0.1"), ("ok", "10.0.0.256"), ("", "::1")]
)
def test_table_refuses(name: str, address: str) -> None:
    with pytest.raises(ValueError):
        Table().add(name, address)
