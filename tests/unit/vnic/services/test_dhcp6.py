# SPDX-License-Identifier: GPL-2.0-or-later
"""The stateless DHCPv6 server: what RFC 8415 wants of each message."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

import pytest

from vnic.services import dhcp6
from vnic.services.dhcp6 import Config, Dhcp6Server, Option, pack_options, parse_options

DUID = dhcp6.duid_ll(bytes.fromhex("52550a000202"))
CLIENT = (dhcp6.OPTION_CLIENTID, b"\0\3\0\1\x52\x54\0\0\0\1")
SERVER = (dhcp6.OPTION_SERVERID, DUID)
OTHER = (dhcp6.OPTION_SERVERID, DUID[:-1] + b"\xff")
IA = (dhcp6.OPTION_IA_NA, b"iaid" + bytes(8))
PD = (dhcp6.OPTION_IA_PD, b"pref" + bytes(8))
DNS = (dhcp6.OPTION_DNS_SERVERS, IPv6Address("fd00:10:0:2::2").packed)
DOMAINS = (dhcp6.OPTION_DOMAIN_LIST, b"\4vnic\4test\0")
REFRESH = (dhcp6.OPTION_INFORMATION_REFRESH_TIME, (86400).to_bytes(4, "big"))


@pytest.fixture
def server() -> Dhcp6Server:
    return Dhcp6Server(Config(duid=DUID, name_servers=(IPv6Address("fd00:10:0:2::2"),)))


def message(kind: int, *options: Option) -> bytes:
    return bytes([kind]) + b"xid" + pack_options(list(options))


def answer(server: Dhcp6Server, kind: int, *options: Option) -> tuple[int, list[Option]]:
    raw = server.handle(message(kind, *options))
    assert raw is not None
    assert raw[1:4] == b"xid"
    found = parse_options(raw[4:])
    assert found is not None
    return raw[0], found


def wanting(*codes: int) -> Option:
    return dhcp6.OPTION_ORO, struct.pack(f">{len(codes)}H", *codes)


def without(ia: Option, status: int) -> Option:
    return ia[0], ia[1] + pack_options([(dhcp6.OPTION_STATUS_CODE, status.to_bytes(2, "big"))])


def test_duid_is_that_of_a_link_layer_address() -> None:
    assert DUID.hex() == "0003000152550a000202"


def test_information_request_gets_everything(server: Dhcp6Server) -> None:
    kind, options = answer(server, dhcp6.INFORMATION_REQUEST, CLIENT)
    assert kind == dhcp6.REPLY
    assert options == [SERVER, CLIENT, DNS, DOMAINS, REFRESH]
    assert (server.counters["information-request"], server.counters["reply"]) == (1, 1)


def test_information_request_without_a_client_identifier_is_answered(server: Dhcp6Server) -> None:
    """Section 18.2.6: the client SHOULD have one, and need not."""
    assert answer(server, dhcp6.INFORMATION_REQUEST)[1] == [SERVER, DNS, DOMAINS, REFRESH]


def test_information_request_gets_only_what_it_asks_for(server: Dhcp6Server) -> None:
    assert answer(server, dhcp6.INFORMATION_REQUEST, wanting(24, 31))[1] == [SERVER, DOMAINS]
    assert answer(server, dhcp6.INFORMATION_REQUEST, wanting())[1] == [SERVER]


@pytest.mark.parametrize("option", [IA, PD, OTHER])
def test_information_request_with_an_ia_or_for_another_server_is_refused(
    server: Dhcp6Server, option: Option
) -> None:
    assert server.handle(message(dhcp6.INFORMATION_REQUEST, CLIENT, option)) is None
    assert server.counters["refused"] == 1


def test_information_request_for_this_server_is_answered(server: Dhcp6Server) -> None:
    assert answer(server, dhcp6.INFORMATION_REQUEST, SERVER)[0] == dhcp6.REPLY


def test_solicit_hears_that_there_are_no_addresses_and_the_rest(server: Dhcp6Server) -> None:
    kind, options = answer(server, dhcp6.SOLICIT, CLIENT, IA, PD, wanting(23, 32))
    assert kind == dhcp6.ADVERTISE
    unavailable = [without(IA, dhcp6.NO_ADDRS_AVAIL), without(PD, dhcp6.NO_PREFIX_AVAIL)]
    assert options == [SERVER, CLIENT, *unavailable, DNS]


def test_request_hears_that_there_are_no_addresses(server: Dhcp6Server) -> None:
    kind, options = answer(server, dhcp6.REQUEST, CLIENT, SERVER, IA, wanting(24))
    assert (kind, options) == (dhcp6.REPLY, [SERVER, CLIENT, without(IA, dhcp6.NO_ADDRS_AVAIL), DOMAINS])


@pytest.mark.parametrize("kind", [dhcp6.RENEW, dhcp6.RELEASE, dhcp6.DECLINE])
def test_addresses_that_we_never_gave_have_no_binding(server: Dhcp6Server, kind: int) -> None:
    status = [] if kind == dhcp6.RENEW else [(dhcp6.OPTION_STATUS_CODE, bytes(2))]
    expected = (dhcp6.REPLY, [SERVER, CLIENT, *status, without(IA, dhcp6.NO_BINDING)])
    assert answer(server, kind, CLIENT, SERVER, IA) == expected


@pytest.mark.parametrize("kind", [dhcp6.CONFIRM, dhcp6.REBIND])
def test_questions_to_who_knows_the_addresses_are_ignored(server: Dhcp6Server, kind: int) -> None:
    assert server.handle(message(kind, CLIENT, IA)) is None
    assert server.counters["ignored"] == 1


@pytest.mark.parametrize("kind", [2, 7, 10, 12, 13])
def test_what_is_not_from_a_client_is_ignored(server: Dhcp6Server, kind: int) -> None:
    assert server.handle(message(kind, CLIENT, SERVER)) is None
    assert server.counters["ignored"] == 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (dhcp6.SOLICIT, [IA]),
        (dhcp6.SOLICIT, [CLIENT, SERVER, IA]),
        (dhcp6.REQUEST, [CLIENT, IA]),
        (dhcp6.REQUEST, [SERVER, IA]),
        (dhcp6.REQUEST, [CLIENT, OTHER, IA]),
        (dhcp6.RENEW, [CLIENT, OTHER, IA]),
        (dhcp6.RELEASE, [CLIENT, IA]),
        (dhcp6.CONFIRM, [IA]),
        (dhcp6.REBIND, [CLIENT, SERVER, IA]),
    ],
)
def test_identifiers_that_section_16_forbids_are_refused(
    server: Dhcp6Server, kind: int, options: list[Option]
) -> None:
    assert server.handle(message(kind, *options)) is None
    assert server.counters["refused"] == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x0b",
        b"\x0bxi",
        b"\x00xid",
        b"\xffxid",
        b"\x0bxid\0",
        b"\x0bxid\0\1\0\5abcd",
        message(11, CLIENT, CLIENT),
        message(11, (1, b"")),
        message(11, (1, bytes(131))),
        message(11, (6, b"\0\x17\0")),
        message(1, CLIENT, (3, b"short")),
    ],
)
def test_bad_input_is_counted_and_ignored(server: Dhcp6Server, raw: bytes) -> None:
    assert server.handle(raw) is None
    assert server.counters["malformed"] == 1


@pytest.mark.parametrize(("duid", "refresh"), [(b"\0\3", 86400), (bytes(131), 86400), (DUID, 599)])
def test_config_that_no_client_would_take_is_refused(duid: bytes, refresh: int) -> None:
    with pytest.raises(ValueError, match=r"DUID|refresh"):
        Config(duid=duid, name_servers=(), refresh_s=refresh)
