# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses as text and as numbers, and what follows from them."""

from __future__ import annotations

import pytest

from stack.include import ipv6
from stack.include.ipv6 import in6_ntop, in6_pton
from stack.lib.checksum import csum_fold, csum_ipv6_magic, csum_partial, tcp_v6_pseudo


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("::", 0),
        ("::1", 1),
        ("fd00:10:0:2::2", 0xFD00_0010_0000_0002_0000_0000_0000_0002),
        ("fe80::5054:ff:fe12:3456", 0xFE80_0000_0000_0000_5054_00FF_FE12_3456),
        ("::ffff:10.0.2.2", 0xFFFF_0A00_0202),
        ("2001:db8:0:0:1::1", 0x2001_0DB8_0000_0000_0001_0000_0000_0001),
    ],
)
def test_address_goes_to_a_number_and_back(text: str, value: int) -> None:
    assert in6_pton(text) == value
    assert in6_pton(in6_ntop(value)) == value


def test_text_of_a_v4_mapped_address_has_dots() -> None:
    assert in6_ntop(ipv6.ipv6_addr_set_v4mapped(0x0A000202)) == "::ffff:10.0.2.2"


@pytest.mark.parametrize("text", ["", "10.0.2.2", "fe80::1%eth0", ":::", "1:2:3:4:5:6:7:8:9", "fd00::g"])
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv6 address"):
        in6_pton(text)


@pytest.mark.parametrize(
    ("test", "yes", "no"),
    [
        (ipv6.ipv6_addr_is_multicast, "ff02::1", "fe80::1"),
        (ipv6.ipv6_addr_is_linklocal, "febf::1", "fec0::1"),
        (ipv6.ipv6_addr_v4mapped, "::ffff:1.2.3.4", "::fffe:1.2.3.4"),
        (ipv6.ipv6_addr_is_solict_mult, "ff02::1:ff00:2", "ff02::1"),
        (ipv6.ipv6_addr_needs_scope_id, "ff02::1", "ff05::1"),
    ],
)
def test_kind_of_address(test: object, yes: str, no: str) -> None:
    assert callable(test)
    assert test(in6_pton(yes))
    assert not test(in6_pton(no))


def test_interface_identifier_is_the_modified_eui_64() -> None:
    # RFC 4291, appendix A: the universal/local bit inverted, ff:fe in the middle.
    assert ipv6.addrconf_ifid_eui48(bytes.fromhex("34567890abcd")) == 0x365678FFFE90ABCD


def test_groups_have_their_ethernet_addresses() -> None:
    group = ipv6.addrconf_addr_solict_mult(in6_pton("fd00::12:3456"))
    assert in6_ntop(group) == "ff02::1:ff12:3456"
    assert ipv6.ipv6_eth_mc_map(group) == bytes.fromhex("3333ff123456")


def test_prefix_keeps_its_bits_only() -> None:
    assert in6_ntop(ipv6.ipv6_prefix(in6_pton("fd00:10:0:2:ffff::1"), 64)) == "fd00:10:0:2::"
    assert ipv6.ipv6_prefix(in6_pton("fd00::1"), 0) == 0


def test_header_packs_to_what_it_was_unpacked_from() -> None:
    raw = bytes.fromhex("6a2bcdef0014063f") + bytes(range(32))
    hdr = ipv6.ipv6hdr_at(b"xx" + raw, 2)
    assert (hdr.version, hdr.tclass, hdr.flowlabel) == (6, 0xA2, 0xBCDEF)
    assert (hdr.payload_len, hdr.nexthdr, hdr.hop_limit) == (20, 6, 63)
    assert ipv6.ipv6hdr_pack(hdr) == raw


def test_checksum_covers_the_pseudo_header_and_partial_sums_complete_to_it() -> None:
    saddr, daddr = in6_pton("fd00::2"), in6_pton("fd00::f")
    body = bytes(range(1, 31))
    words = saddr.to_bytes(16, "big") + daddr.to_bytes(16, "big") + bytes((0, 0, 0, 30, 0, 0, 0, 6))
    expected = csum_fold(csum_partial(words + body))
    assert csum_ipv6_magic(saddr, daddr, 30, 6, csum_partial(body)) == expected
    assert csum_fold(csum_partial(body) + tcp_v6_pseudo(saddr, daddr, 30)) == expected
