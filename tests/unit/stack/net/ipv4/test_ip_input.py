# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from stack.api.sim import RawPeer, Sim
from stack.net.ipv4 import proc
from stack.stack import Stack

ECHO = (1, b"\x08\x00\xf7\xff\x00\x00\x00\x00")  # protocol ICMP, an echo request


def deliver(peer: RawPeer, packet: bytes, *, mac: bytes | None = None, pad: int = 0) -> None:
    """Send raw IPv4 bytes with their Ethernet header."""
    peer.send_frame((mac or peer.remote_mac) + peer.mac + b"\x08\x00" + packet + bytes(pad))
    peer.sim.settle()


def rechecked(packet: bytes) -> bytes:
    from stack.lib.checksum import ip_fast_csum

    ihl = packet[0] & 15
    head = packet[:10] + b"\0\0" + packet[12:]
    return packet[:10] + ip_fast_csum(head, ihl).to_bytes(2, "big") + packet[12:]


def grown(net: Stack, reason: str, *names: str) -> None:
    """Exactly one drop for this reason, and each of these counters is 1."""
    assert net.drop_reasons == {reason: 1}
    counters = proc.counters(net)
    for name in names:
        assert counters.get(name) == 1, (name, counters)


def test_host_packet_is_delivered_and_counted(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(*ECHO, "10.0.2.2")
    peer.expect_icmp(0, 0)
    counters = proc.counters(net)
    assert counters["IpInReceives"] == counters["IpInDelivers"] == 1
    # The received packet is counted before its Ethernet padding is cut off.
    assert (counters["IpExtInOctets"], counters["IpExtOutOctets"]) == (46, 28)
    assert counters["IpExtInNoECTPkts"] == 1
    assert counters["IpOutRequests"] == 1
    assert net.drop_reasons == {}


@pytest.mark.parametrize(
    ("tos", "name"), [(1, "IpExtInECT1Pkts"), (2, "IpExtInECT0Pkts"), (3, "IpExtInCEPkts")]
)
def test_host_packet_with_ecn_bits_is_counted_by_them(net: Stack, peer: RawPeer, tos: int, name: str) -> None:
    peer.send_ip(*ECHO, "10.0.2.2", tos=tos)
    peer.expect_icmp(0, 0)
    assert proc.counters(net)[name] == 1


def test_host_packet_with_ethernet_padding_is_trimmed(net: Stack, peer: RawPeer) -> None:
    deliver(peer, peer.ip_packet(*ECHO, "10.0.2.2"), pad=18)
    assert len(peer.expect_icmp(0, 0).body) == 8


def test_host_packet_to_another_mac_is_dropped_before_counting(net: Stack, peer: RawPeer) -> None:
    deliver(peer, peer.ip_packet(*ECHO, "10.0.2.2"), mac=b"\x02\x02\x02\x02\x02\x02")
    grown(net, "OTHERHOST")
    assert "IpInReceives" not in proc.counters(net)


def test_host_packet_shorter_than_a_header_is_dropped(net: Stack, peer: RawPeer) -> None:
    deliver(peer, peer.ip_packet(*ECHO, "10.0.2.2")[:19])
    grown(net, "IP_INHDR", "IpInHdrErrors")


@pytest.mark.parametrize("first", [0x65, 0x35, 0x05, 0x44, 0x40])
def test_host_packet_with_wrong_version_or_header_length_is_dropped(
    net: Stack, peer: RawPeer, first: int
) -> None:
    packet = bytearray(peer.ip_packet(*ECHO, "10.0.2.2"))
    packet[0] = first
    deliver(peer, bytes(packet))
    grown(net, "IP_INHDR", "IpInHdrErrors")


def test_host_packet_with_header_beyond_its_end_is_dropped(net: Stack, peer: RawPeer) -> None:
    packet = bytearray(peer.ip_packet(*ECHO, "10.0.2.2"))
    packet[0] = 0x4F
    deliver(peer, bytes(packet))
    grown(net, "IP_INHDR", "IpInHdrErrors")


def test_host_packet_with_bad_header_checksum_is_dropped(net: Stack, peer: RawPeer) -> None:
    packet = bytearray(peer.ip_packet(*ECHO, "10.0.2.2"))
    packet[10] ^= 0x40
    deliver(peer, bytes(packet))
    grown(net, "IP_CSUM", "IpInHdrErrors", "IpExtInCsumErrors")


def test_host_packet_cut_short_is_dropped_as_truncated(net: Stack, peer: RawPeer) -> None:
    deliver(peer, peer.ip_packet(*ECHO, "10.0.2.2")[:-1])
    grown(net, "PKT_TOO_SMALL", "IpExtInTruncatedPkts")


def test_host_packet_with_total_length_below_its_header_is_dropped(net: Stack, peer: RawPeer) -> None:
    packet = bytearray(peer.ip_packet(*ECHO, "10.0.2.2"))
    packet[2:4] = (19).to_bytes(2, "big")
    deliver(peer, rechecked(bytes(packet)))
    grown(net, "IP_INHDR", "IpInHdrErrors")


@pytest.mark.parametrize(
    ("src", "dst", "reason"),
    [
        ("224.0.0.1", "10.0.2.2", "IP_INVALID_SOURCE"),
        ("255.255.255.255", "10.0.2.2", "IP_INVALID_SOURCE"),
        ("0.1.2.3", "10.0.2.2", "IP_INVALID_SOURCE"),
        ("127.0.0.1", "10.0.2.2", "IP_LOCALNET"),
        ("10.0.2.15", "127.0.0.1", "IP_LOCALNET"),
        ("10.0.2.15", "0.0.0.1", "IP_INVALID_DEST"),
        ("10.0.2.15", "224.0.0.251", "IP_INVALID_DEST"),
        ("10.0.2.3", "10.0.2.2", "IP_LOCAL_SOURCE"),
    ],
)
def test_host_packet_with_martian_address_is_dropped(
    net: Stack, peer: RawPeer, src: str, dst: str, reason: str
) -> None:
    peer.send_ip(*ECHO, dst, src=src)
    peer.expect_nothing()
    grown(net, reason)


@pytest.mark.parametrize("dst", ["10.0.2.99", "8.8.8.8"])
def test_host_packet_for_somebody_else_is_not_forwarded(net: Stack, peer: RawPeer, dst: str) -> None:
    peer.send_ip(*ECHO, dst)
    peer.expect_nothing()
    grown(net, "IP_INADDRERRORS", "IpInAddrErrors")


def test_rp_filter_strict_drops_a_source_that_is_reached_elsewhere(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl={"rp_filter": 1})
    peer = sim.add_peer("10.0.2.15", net)
    peer.send_ip(*ECHO, "10.0.2.2", src="192.168.1.1")
    peer.expect_nothing()
    grown(net, "IP_RPFILTER")
    peer.send_ip(*ECHO, "10.0.2.2")
    peer.expect_icmp(0, 0)


def test_host_packet_of_unknown_protocol_draws_protocol_unreachable(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(132, b"sctp data", "10.0.2.2")
    error = peer.expect_icmp(3, 2)
    assert error.body[8 + 9] == 132
    assert error.body[-9:] == b"sctp data"
    grown(net, "IP_NOPROTO", "IpInUnknownProtos", "IcmpOutDestUnreachs")


def test_broadcast_packet_of_unknown_protocol_draws_nothing(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(132, b"sctp data", "10.0.2.255", dest_mac=b"\xff" * 6)
    peer.expect_nothing()
    grown(net, "IP_NOPROTO", "IpInUnknownProtos", "IpExtInBcastPkts")


# -- options -----------------------------------------------------------------------------------------------------------


US, THEM = bytes((10, 0, 2, 2)), bytes((10, 0, 2, 15))
NOW = b"now!"  # stands for the time of day
ANSWERED_OPTIONS = [
    (bytes((7, 11, 4)) + bytes(9), bytes((7, 11, 12)) + US + US + b"\0"),
    (bytes((7, 7, 4)) + bytes(5), bytes((7, 7, 8)) + US + b"\0"),
    (bytes((7, 7, 8, 1, 2, 3, 4, 0)), bytes((7, 7, 8, 1, 2, 3, 4, 0))),
    (bytes((68, 8, 5, 0)) + bytes(4), bytes((68, 8, 9, 0)) + NOW),
    (bytes((68, 12, 5, 0)) + bytes(8), bytes((68, 12, 13, 0)) + NOW + NOW),
    (bytes((68, 20, 5, 1)) + bytes(16), bytes((68, 20, 21, 1)) + US + NOW + US + NOW),
    (bytes((68, 8, 9, 0, 0, 0, 0, 9)), bytes((68, 8, 9, 16, 0, 0, 0, 9))),
    (bytes((68, 12, 5, 3)) + THEM + bytes(4), bytes((68, 12, 5, 3)) + THEM + bytes(4)),
    (bytes((68, 20, 5, 3)) + (US + bytes(4)) * 2, bytes((68, 20, 21, 3)) + (US + NOW) * 2),
]


@pytest.mark.parametrize(("asked", "answered"), ANSWERED_OPTIONS)
def test_record_route_and_timestamp_take_an_entry_on_receipt_and_one_on_sending(
    net: Stack, peer: RawPeer, asked: bytes, answered: bytes
) -> None:
    """Measured on Linux 6.18, for echo requests and the RST of a closed port alike."""
    now = (net.clock.real_ns() // 1_000_000 % 86_400_000).to_bytes(4, "big")
    peer.send_ip(*ECHO, "10.0.2.2", ip_options=asked)
    assert peer.expect_icmp(0, 0).ip_options == answered.replace(NOW, now)
    peer.send_tcp("10.0.2.2", 5, 81, "S", 1, ip_options=asked)
    assert peer.expect_segment().packet.ip_options == answered.replace(NOW, now)


def test_record_route_is_quoted_by_errors_as_it_was_filled(net: Stack, peer: RawPeer) -> None:
    peer.send_udp("10.0.2.2", 1, 2, b"", ip_options=ANSWERED_OPTIONS[0][0])
    error = peer.expect_icmp(3, 3)
    assert error.body[8 + 20 : 8 + 32] == bytes((7, 11, 8)) + US + bytes(5)
    assert error.ip_options == ANSWERED_OPTIONS[0][1]


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        (bytes((7, 1, 4, 0)), 20),
        (bytes((7, 40, 4, 0)), 20),
        (bytes((7, 7, 3)) + bytes(5), 22),
        (bytes((1, 1, 1, 7)), 23),
        (bytes((68, 8, 5, 2)) + bytes(4), 23),
        (bytes((148, 3, 0, 0)), 21),
    ],
)
def test_wrong_option_draws_a_parameter_problem_that_points_at_it(
    net: Stack, peer: RawPeer, options: bytes, pointer: int
) -> None:
    peer.send_ip(*ECHO, "10.0.2.2", ip_options=options)
    # An echo request is not an error, so an error may answer it.
    assert peer.expect_icmp(12, 0).body[4] == pointer
    grown(net, "IP_INHDR", "IpInHdrErrors")


def test_source_route_is_refused_in_silence(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(*ECHO, "10.0.2.2", ip_options=bytes((131, 7, 4, 10, 0, 2, 99, 0)))
    peer.expect_nothing()
    grown(net, "IP_OPTIONS")


def test_unknown_option_and_router_alert_are_passed_over(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(*ECHO, "10.0.2.2", ip_options=bytes((200, 4, 1, 2, 148, 4, 0, 0)))
    assert peer.expect_icmp(0, 0).ip_options == b""
