# SPDX-License-Identifier: GPL-2.0-or-later
"""Received IPv6 packets up to their protocol's handler: RFC 8200 sections 3 and 4."""

from __future__ import annotations

import pytest

from stack.api.sim import RawPeer, Sim
from stack.include.netdevice import net_device
from stack.stack import Stack

LL = "fe80::5054:ff:fe00:1"
PAD = b"\x01\x04\0\0\0\0"
ECHO = 58


def count(net: Stack, name: str) -> int:
    value = net.snapshot()["snmp6"][name]
    assert isinstance(value, int)
    return value


def echo(peer: RawPeer, dst: str = "fd00::2") -> bytes:
    return peer.icmp6_message(dst, 128, 0, 1, b"data")


def raw_frame(peer: RawPeer, packet: bytes) -> None:
    peer.send_frame(peer.remote_mac + peer.mac + b"\x86\xdd" + packet)
    peer.sim.settle()


def test_packet_is_counted_with_its_bytes_and_ecn_bits(net: Stack, peer: RawPeer) -> None:
    for tos in (0, 1, 2, 3):
        peer.send_icmp6("fd00::2", 128, 0, tos=tos)
    peer.sim.settle()
    names = ("InReceives", "InDelivers", "InOctets", "InNoECTPkts", "InECT1Pkts", "InECT0Pkts", "InCEPkts")
    assert [count(net, "Ip6" + n) for n in names] == [4, 4, 4 * 48, 1, 1, 1, 1]
    assert [count(net, "Ip6" + n) for n in ("OutRequests", "OutOctets")] == [4, 4 * 48]


@pytest.mark.parametrize(
    ("packet", "counter", "reason"),
    [
        (b"\x60" + bytes(38), "Ip6InHdrErrors", "IP_INHDR"),
        (b"\x50" + bytes(39), "Ip6InHdrErrors", "IP_INHDR"),
        (b"\x60\0\0\0\0\x09\x3a\x40" + bytes(40), "Ip6InTruncatedPkts", "PKT_TOO_SMALL"),
    ],
)
def test_header_that_is_wrong_is_counted(
    net: Stack, peer: RawPeer, packet: bytes, counter: str, reason: str
) -> None:
    raw_frame(peer, packet)
    assert count(net, counter) == 1
    assert net.drop_reasons == {reason: 1}


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        ("::1", "fd00::2"),
        ("fd00::15", "::1"),
        ("ff02::9", "fd00::2"),
        ("fd00::15", "ff00::1"),
        ("fd00::15", "ff01::1"),
    ],
)
def test_address_that_cannot_be_on_a_link_is_a_header_error(
    net: Stack, peer: RawPeer, src: str, dst: str
) -> None:
    peer.send_icmp6(dst, 128, 0, src=src)
    peer.expect_nothing()
    assert count(net, "Ip6InHdrErrors") == 1


def test_ethernet_padding_is_cut_off(peer: RawPeer) -> None:
    raw_frame(peer, peer.ip6_packet(ECHO, echo(peer), "fd00::2") + b"padding of the frame")
    assert peer.expect_icmp6(129, 0).body[8:] == b"data"


def test_frame_for_another_station_is_dropped_uncounted(net: Stack, peer: RawPeer) -> None:
    peer.send_icmp6("fd00::2", 128, 0, dest_mac=b"\x02\0\0\0\0\x01")
    peer.expect_nothing()
    assert (count(net, "Ip6InReceives"), net.drop_reasons) == (0, {"OTHERHOST": 1})


def test_device_without_ipv6_discards(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("ipv6.disable_ipv6", 1)
    peer.send_icmp6("fd00::2", 128, 0)
    peer.expect_nothing()
    assert (count(net, "Ip6InDiscards"), net.drop_reasons) == (1, {"IPV6DISABLED": 1})


def test_device_below_1280_has_no_ipv6(sim: Sim) -> None:
    narrow = sim.add_stack("10.0.3.2/24", mtu=1279)
    dev = narrow.devices_by_name["eth0"]
    assert narrow.snapshot()["devices"][1]["addresses6"] == []
    with pytest.raises(ValueError, match="1280"):
        narrow.dev_addr_add(dev, "fd00::2/64")
    narrow.netif_rx(dev, dev.dev_addr + bytes(6) + b"\x86\xdd" + b"\x60" + bytes(39))
    assert narrow.drop_reasons == {"IPV6DISABLED": 1}


def test_group_that_nobody_joined_is_ignored_and_one_that_we_are_in_counts(net: Stack, peer: RawPeer) -> None:
    peer.send_icmp6("ff02::1:3", 128, 0)
    peer.expect_nothing()
    assert net.drop_reasons == {"MULTICAST_IGNORED": 1}
    assert count(net, "Ip6InMcastPkts") == 1
    peer.send_icmp6("ff02::1", 128, 0)
    peer.expect_icmp6(129, 0)
    assert count(net, "Ip6InMcastPkts") == 2


def test_nothing_behind_the_header_is_delivered(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(59, b"what no next header means", "fd00::2")
    peer.expect_nothing()
    assert (count(net, "Ip6InDelivers"), net.drop_reasons) == (1, {})


def test_link_local_address_of_another_device_is_not_ours_here(
    net: Stack, dev: net_device, peer: RawPeer
) -> None:
    net.register_netdevice("eth1", bytes.fromhex("525400000077"))
    peer.send_icmp6("fe80::5054:ff:fe00:77", 128, 0)
    peer.expect_nothing()
    assert count(net, "Ip6InAddrErrors") == 1


# -- extension headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 60])
def test_options_that_are_known_or_may_be_skipped_are(peer: RawPeer, kind: int) -> None:
    for option in (PAD, b"\x05\x02\0\0\x01\0", b"\x1e\x04abcd", b"\0\0\0\0\0\0"):
        if option[0] == 5 and kind == 60:
            continue  # router alert is a hop-by-hop option
        peer.send_ip(kind, b"\x3a\x00" + option + echo(peer), "fd00::2")
        peer.expect_icmp6(129, 0)


def test_chain_of_extension_headers_is_walked(peer: RawPeer) -> None:
    routing = b"\x3c\x00\x00\x00\0\0\0\0"
    chain = b"\x2b\x00" + PAD + routing + b"\x2c\x00" + PAD + b"\x3a\x00\x00\x00\0\0\0\x01"
    peer.send_ip(0, chain + echo(peer), "fd00::2")
    peer.expect_icmp6(129, 0)


def test_hop_by_hop_options_anywhere_but_first_are_an_unknown_header(peer: RawPeer) -> None:
    peer.send_ip(60, b"\x00\x00" + PAD + b"\x3a\x00" + PAD + echo(peer), "fd00::2")
    assert peer.expect_icmp6(4, 1).body[4:8] == (40).to_bytes(4, "big")


@pytest.mark.parametrize("kind", [0, 60])
@pytest.mark.parametrize(
    ("option", "answered"),
    [(b"\x40\x04abcd", False), (b"\x80\x04abcd", True), (b"\xc0\x04abcd", True)],
)
def test_unknown_option_says_itself_what_becomes_of_the_packet(
    net: Stack, peer: RawPeer, kind: int, option: bytes, answered: bool
) -> None:
    peer.send_ip(kind, b"\x3a\x00" + option + echo(peer), "fd00::2")
    if answered:
        assert peer.expect_icmp6(4, 2).body[4:8] == (42).to_bytes(4, "big")
    peer.expect_nothing()
    assert net.drop_reasons == {"IPV6_BAD_EXTHDR": 1}
    assert count(net, "Ip6InHdrErrors") == 1


@pytest.mark.parametrize(("option", "answered"), [(b"\x80\x04abcd", True), (b"\xc0\x04abcd", False)])
def test_unknown_option_in_a_packet_to_a_group(peer: RawPeer, option: bytes, answered: bool) -> None:
    peer.send_ip(60, b"\x3a\x00" + option + echo(peer, "ff02::1"), "ff02::1")
    if answered:
        peer.expect_icmp6(4, 2)
    peer.expect_nothing()


@pytest.mark.parametrize("kind", [0, 60])
@pytest.mark.parametrize(
    "header",
    [
        b"\x3a\x01" + PAD,  # longer than the packet
        b"\x3a\x00\x01\x05\0\0\0\0",  # an option longer than its header
        b"\x3a\x00\x01\x03\0\0\0\x1e",  # one byte left for an option
        b"\x3a\x00\x01\x04\0\x01\0\0",  # padding with something in it
        b"\x3a\x01\x01\x0c" + bytes(12),  # 14 bytes of padding
        b"\x3a\x01" + bytes(14),
        b"\x3a\x02" + b"\x1e\0" * 11,  # more options than we look at
    ],
)
def test_options_that_do_not_add_up_are_a_header_error(
    net: Stack, peer: RawPeer, kind: int, header: bytes
) -> None:
    tail = b"" if header[:2] == b"\x3a\x01" and len(header) == 8 else echo(peer)
    peer.send_ip(kind, header + tail, "fd00::2")
    peer.expect_nothing()
    assert count(net, "Ip6InHdrErrors") == 1
    assert net.drop_reasons == {"IPV6_BAD_EXTHDR": 1}


@pytest.mark.parametrize(("segments", "routing_type"), [(1, 0), (1, 5), (255, 253)])
def test_routing_header_with_segments_left_is_refused(
    peer: RawPeer, segments: int, routing_type: int
) -> None:
    routing = bytes((58, 2, routing_type, segments)) + bytes(20)
    peer.send_ip(43, routing + echo(peer), "fd00::2")
    assert peer.expect_icmp6(4, 0).body[4:8] == (42).to_bytes(4, "big")


@pytest.mark.parametrize("segments", [0, 1])
@pytest.mark.parametrize(("routing_type", "counter"), [(2, "Ip6InAddrErrors"), (3, None), (4, None)])
def test_routing_header_that_is_not_enabled_is_dropped(
    net: Stack, peer: RawPeer, segments: int, routing_type: int, counter: str | None
) -> None:
    peer.send_ip(43, bytes((58, 2, routing_type, segments)) + bytes(20) + echo(peer), "fd00::2")
    peer.expect_nothing()
    assert net.drop_reasons == {"IPV6_BAD_EXTHDR": 1}
    assert (count(net, "Ip6InHdrErrors"), count(net, "Ip6InAddrErrors")) == (0, int(counter is not None))


@pytest.mark.parametrize(
    ("option", "payload_len", "pointer"),
    [
        (b"\xc2\x04\0\0\x10\0", None, 44),
        (b"\xc2\x04\0\x01\0\0", None, 42),
        (b"\xc2\x04\0\x01\0\0", 0, None),
        (b"\xc2\x02\0\0\x01\0", None, None),
    ],
)
def test_jumbo_payload_is_refused_for_what_is_wrong_with_it(
    net: Stack, peer: RawPeer, option: bytes, payload_len: int | None, pointer: int | None
) -> None:
    packet = bytearray(peer.ip6_packet(0, b"\x3a\x00" + option + echo(peer), "fd00::2"))
    if payload_len is not None:
        packet[4:6] = payload_len.to_bytes(2, "big")
    raw_frame(peer, bytes(packet))
    if pointer is not None:
        assert peer.expect_icmp6(4, 0).body[4:8] == pointer.to_bytes(4, "big")
    peer.expect_nothing()
    assert net.drop_reasons == {"IPV6_BAD_EXTHDR": 1}
    assert (count(net, "Ip6InHdrErrors"), count(net, "Ip6InTruncatedPkts")) == (1, 0)
