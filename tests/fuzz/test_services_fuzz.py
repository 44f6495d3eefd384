# SPDX-License-Identifier: GPL-2.0-or-later
"""DHCP, DHCPv6 and DNS messages of any shape: no exception, a well-formed answer or none, and books that balance."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Any

import pytest
from dpkt import dhcp, dns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnic.services import dhcp6
from vnic.services.dhcp import MIN_MESSAGE, Config, DhcpServer
from vnic.services.dns import MAX_PAYLOAD, Resolver, Table, default_hosts

pytestmark = pytest.mark.fuzz
SETTINGS = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SERVER = IPv4Address("10.0.2.2")
FIRST, LAST = IPv4Address("10.0.2.15"), IPv4Address("10.0.2.18")


# -- DHCP --------------------------------------------------------------------------------------------------------------

addresses = st.one_of(
    st.integers(int(FIRST) - 1, int(LAST) + 1).map(lambda n: n.to_bytes(4, "big")), st.binary(max_size=6)
)
options = st.lists(
    st.one_of(
        st.tuples(st.just(dhcp.DHCP_OPT_MSGTYPE), st.integers(0, 9).map(lambda n: bytes([n]))),
        st.tuples(st.just(dhcp.DHCP_OPT_REQ_IP), addresses),
        st.tuples(st.just(dhcp.DHCP_OPT_SERVER_ID), st.one_of(st.just(SERVER.packed), addresses)),
        st.tuples(st.just(dhcp.DHCP_OPT_CLIENT_ID), st.binary(max_size=4)),
        st.tuples(st.just(dhcp.DHCP_OPT_HOSTNAME), st.binary(max_size=20)),
        st.tuples(st.integers(1, 254), st.binary(max_size=8)),
    ),
    max_size=5,
)


@st.composite
def dhcp_messages(draw: st.DrawFn) -> bytes:
    """A message with hostile fields; now and then damaged or cut."""
    fields = (draw(st.sampled_from([1, 1, 1, 2, 0])), draw(st.sampled_from([1, 1, 6, 255])))
    length = draw(st.sampled_from([6, 6, 6, 0, 16, 17, 255]))
    hardware = bytes([2, 0, 0, 0, 0, draw(st.integers(0, 6))]).ljust(16, b"\0")
    giaddr = draw(st.sampled_from([0, 0, int(SERVER), 0xFFFFFFFF]))
    ciaddr = draw(st.sampled_from([0, 0, int(FIRST), int(LAST), 0xFFFFFFFF]))
    head = struct.pack(
        ">BBBBIHHIIII", *fields, length, 0, draw(st.integers(0, 2**32 - 1)), 0, 0, ciaddr, 0, 0, giaddr
    )
    kind = bytes([dhcp.DHCP_OPT_MSGTYPE, 1, draw(st.sampled_from([1, 1, 3, 3, 3, 4, 7, 8]))])
    body = b"".join(bytes([code, len(value)]) + value for code, value in draw(options))
    message = bytearray(head + hardware + bytes(192) + b"\x63\x82\x53\x63" + kind + body + b"\xff")
    if draw(st.integers(0, 3)) == 0:
        message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 7)) == 0:
        del message[draw(st.integers(0, len(message))) :]
    return bytes(message)


def make_server(clock: Any) -> DhcpServer:
    server = IPv4Interface("10.0.2.2/24")
    return DhcpServer(Config(server=server, first=FIRST, last=LAST, router=SERVER), clock)


def check_reply(reply: tuple[bytes, tuple[str, int]] | None) -> None:
    if reply is None:
        return
    message, (host, port) = reply
    assert len(message) >= MIN_MESSAGE
    parsed = dhcp.DHCP(message)
    assert parsed.op == dhcp.DHCP_OP_REPLY
    kinds = [value for code, value in parsed.opts if code == dhcp.DHCP_OPT_MSGTYPE]
    assert len(kinds) == 1
    assert kinds[0][0] in (dhcp.DHCPOFFER, dhcp.DHCPACK, dhcp.DHCPNAK)
    assert parsed.yiaddr == 0 or int(FIRST) <= parsed.yiaddr <= int(LAST)
    assert (IPv4Address(host), port in (67, 68)) == (IPv4Address(host), True)


@SETTINGS
@given(st.lists(st.tuples(dhcp_messages(), st.sampled_from([0, 0, 1, 61, 4000])), max_size=25))
def test_dhcp_messages_of_any_shape_never_raise_and_lease_an_address_once(
    script: list[tuple[bytes, int]],
) -> None:
    now = [0.0]
    server = make_server(lambda: now[0])
    for message, seconds in script:
        now[0] += seconds
        check_reply(server.handle(message))
        held = [lease for lease in server.pool.leases.values() if lease.state in ("offered", "bound")]
        assert len(server.pool.leases) == 4
        assert len({lease.client for lease in held}) == len(held), "a client has two addresses"


@SETTINGS
@given(st.binary(max_size=400))
def test_dhcp_any_bytes_never_raise(message: bytes) -> None:
    server = make_server(lambda: 0.0)
    check_reply(server.handle(message))


# -- DHCPv6 ------------------------------------------------------------------------------------------------------------

DUID = dhcp6.duid_ll(bytes.fromhex("52550a000202"))
values6 = st.one_of(
    st.just(DUID), st.just(b"iaid" + bytes(8)), st.binary(max_size=20), st.integers(0, 200).map(bytes)
)
options6 = st.lists(
    st.tuples(st.one_of(st.sampled_from([1, 2, 3, 4, 6, 8, 14, 25]), st.integers(0, 65535)), values6),
    max_size=6,
)


@st.composite
def dhcp6_messages(draw: st.DrawFn) -> bytes:
    """A message with hostile options; now and then damaged or cut."""
    kind = draw(st.one_of(st.sampled_from([1, 3, 4, 5, 6, 8, 9, 11, 11, 11]), st.integers(0, 255)))
    message = bytearray(bytes([kind]) + b"xid" + dhcp6.pack_options(draw(options6)))
    if draw(st.integers(0, 3)) == 0:
        message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 7)) == 0:
        del message[draw(st.integers(0, len(message))) :]
    return bytes(message)


def check_dhcp6(server: dhcp6.Dhcp6Server, message: bytes) -> None:
    before = sum(server.counters[name] for name in ("advertise", "reply", "refused", "ignored", "malformed"))
    reply = server.handle(message)
    after = sum(server.counters[name] for name in ("advertise", "reply", "refused", "ignored", "malformed"))
    assert after == before + 1, "each message has one fate"
    if reply is None:
        return
    assert (reply[0] in (dhcp6.ADVERTISE, dhcp6.REPLY), reply[1:4]) == (True, message[1:4])
    options = dhcp6.parse_options(reply[4:])
    assert options is not None
    assert options[0] == (dhcp6.OPTION_SERVERID, DUID)
    assert len(reply) <= 2 * len(message) + 200, "an answer is no amplifier"


def make_dhcp6() -> dhcp6.Dhcp6Server:
    return dhcp6.Dhcp6Server(dhcp6.Config(duid=DUID, name_servers=(IPv6Address("fd00::2"),)))


@SETTINGS
@given(st.lists(dhcp6_messages(), max_size=25))
def test_dhcp6_messages_of_any_shape_never_raise_and_have_one_fate(messages: list[bytes]) -> None:
    server = make_dhcp6()
    for message in messages:
        check_dhcp6(server, message)


@SETTINGS
@given(st.binary(max_size=400))
def test_dhcp6_any_bytes_never_raise(message: bytes) -> None:
    check_dhcp6(make_dhcp6(), message)


# -- DNS ---------------------------------------------------------------------------------------------------------------

labels = st.one_of(
    st.sampled_from([b"vnic", b"test", b"server", b"2", b"0", b"10", b"in-addr", b"arpa"]),
    st.binary(max_size=63),
)
pieces = st.one_of(
    labels.map(lambda label: bytes([len(label)]) + label),
    st.integers(0, 0x3FFF).map(lambda at: (0xC000 | at).to_bytes(2, "big")),  # compression, loops included
    st.integers(0x40, 0xFF).map(lambda kind: bytes([kind])),
)


@st.composite
def dns_messages(draw: st.DrawFn) -> bytes:
    counts = [
        draw(st.sampled_from([1, 1, 1, 0, 2, 65535])),
        *(draw(st.sampled_from([0, 0, 0, 1, 65535])) for _ in "ars"),
    ]
    flags = draw(st.one_of(st.sampled_from([0, 0x100]), st.integers(0, 65535)))
    name = b"".join(draw(st.lists(pieces, max_size=8))) + draw(st.sampled_from([b"\0", b"\0", b""]))
    kind, cls = draw(st.sampled_from([1, 12, 28, 255, 0, 65535])), draw(st.sampled_from([1, 1, 255, 3]))
    message = (
        struct.pack(">HHHHHH", draw(st.integers(0, 65535)), flags, *counts)
        + name
        + struct.pack(">HH", kind, cls)
    )
    return message + draw(st.binary(max_size=30))


def check_answer(resolver: Resolver, message: bytes) -> None:
    reply = resolver.handle(message)
    counters = resolver.counters
    answers = ("answered", "nodata", "nxdomain", "formerr", "notimp")
    assert counters["queries"] == sum(counters[name] for name in answers)
    if reply is None:
        assert len(message) < 12 or message[2] & 0x80
        return
    assert 12 <= len(reply) <= MAX_PAYLOAD
    assert reply[:2] == message[:2]
    assert reply[2] & 0x80
    dns.DNS(reply)


@SETTINGS
@given(st.lists(dns_messages(), max_size=8))
def test_dns_queries_of_any_shape_never_raise_and_are_answered(messages: list[bytes]) -> None:
    resolver = Resolver(Table(default_hosts("10.0.2.2", "10.0.2.3", "fd00::2")))
    for message in messages:
        check_answer(resolver, message)


@SETTINGS
@given(st.binary(max_size=600))
def test_dns_any_bytes_never_raise(message: bytes) -> None:
    check_answer(Resolver(Table(default_hosts("10.0.2.2", "10.0.2.3", "fd00::2"))), message)
