# SPDX-License-Identifier: GPL-2.0-or-later
"""Hashes of flows, and the queue pair that a frame goes to."""

from __future__ import annotations

from ipaddress import ip_address

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmodel.virtio import rss
from devmodel.virtio.rss import HashConfig, RssConfig, Steering

# The verification suite for receive-side scaling that network card vendors test against, with its key.
KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
VECTORS = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51CCC178, 0x323E8FC2),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xC626B0EA, 0xD718262A),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5C2B394A, 0xD2D0A5DE),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x40207D3D, 0x2CC18CD5),
]


def frame(
    source: str, sport: int, dest: str, dport: int, *, udp: bool = False, fragment: bool = False
) -> bytes:
    transport = dpkt.udp.UDP(sport=sport, dport=dport) if udp else dpkt.tcp.TCP(sport=sport, dport=dport)
    number = dpkt.ip.IP_PROTO_UDP if udp else dpkt.ip.IP_PROTO_TCP
    if ":" in source:
        packet = dpkt.ip6.IP6(
            src=_packed(source), dst=_packed(dest), nxt=number, plen=len(transport), data=transport
        )
        kind = dpkt.ethernet.ETH_TYPE_IP6
    else:
        packet = dpkt.ip.IP(
            src=_packed(source), dst=_packed(dest), p=number, data=transport, mf=int(fragment)
        )
        kind = dpkt.ethernet.ETH_TYPE_IP
    return bytes(dpkt.ethernet.Ethernet(type=kind, data=packet))


def _packed(address: str) -> bytes:
    return ip_address(address).packed


@pytest.mark.parametrize("vector", VECTORS)
def test_hash_is_that_of_the_verification_suite(vector: tuple[str, int, str, int, int, int]) -> None:
    *flow, with_ports, without = vector
    hashes = HashConfig(rss.SUPPORTED_HASH_TYPES, KEY)
    six = ":" in flow[0]
    tcp = rss.VIRTIO_NET_HASH_REPORT_TCPv6 if six else rss.VIRTIO_NET_HASH_REPORT_TCPv4
    plain = rss.VIRTIO_NET_HASH_REPORT_IPv6 if six else rss.VIRTIO_NET_HASH_REPORT_IPv4
    assert hashes.of(frame(*flow)) == (with_ports, tcp)
    addresses_only = rss.VIRTIO_NET_HASH_TYPE_IPv4 | rss.VIRTIO_NET_HASH_TYPE_IPv6
    assert HashConfig(addresses_only, KEY).of(frame(*flow)) == (without, plain)
    assert HashConfig(0, KEY).of(frame(*flow)) == rss.NOTHING


def test_udp_is_hashed_by_its_own_type() -> None:
    one = frame("10.0.2.15", 1000, "10.0.2.2", 53, udp=True)
    value, report = HashConfig(rss.VIRTIO_NET_HASH_TYPE_UDPv4, KEY).of(one)
    assert report == rss.VIRTIO_NET_HASH_REPORT_UDPv4
    assert value != 0
    assert HashConfig(rss.VIRTIO_NET_HASH_TYPE_TCPv4, KEY).of(one) == rss.NOTHING


def test_fragment_is_hashed_by_its_addresses_as_the_later_ones_have_no_ports() -> None:
    whole, part = (frame("10.0.2.15", 1000, "10.0.2.2", 7, fragment=some) for some in (False, True))
    hashes = HashConfig(rss.SUPPORTED_HASH_TYPES, KEY)
    assert hashes.of(whole)[1] == rss.VIRTIO_NET_HASH_REPORT_TCPv4
    assert hashes.of(part)[1] == rss.VIRTIO_NET_HASH_REPORT_IPv4


def test_arp_is_not_hashed() -> None:
    arp = bytes(dpkt.ethernet.Ethernet(type=dpkt.ethernet.ETH_TYPE_ARP, data=dpkt.arp.ARP()))
    assert HashConfig(rss.SUPPORTED_HASH_TYPES, KEY).of(arp) == rss.NOTHING


@given(st.binary(max_size=120))
def test_any_bytes_have_a_hash_or_none(data: bytes) -> None:
    value, report = HashConfig(rss.SUPPORTED_HASH_TYPES, KEY).of(data)
    assert 0 <= value < 1 << 32
    assert 0 <= report <= rss.VIRTIO_NET_HASH_REPORT_UDPv6


@given(st.binary(min_size=1, max_size=36), st.binary(max_size=40))
def test_looked_up_hash_is_the_one_of_the_definition(data: bytes, key: bytes) -> None:
    """Each bit of the input that is set adds the 32 bits of the key that begin at its place."""
    bits = int.from_bytes(key.ljust(48, b"\0"), "big")
    expected = 0
    for place in range(8 * len(data)):
        if data[place // 8] >> (7 - place % 8) & 1:
            expected ^= bits >> (8 * 48 - 32 - place) & 0xFFFFFFFF
    assert rss.toeplitz(rss.toeplitz_tables(key), data) == expected


# -- the queue ------------------------------------------------------------------------------------------------------


def test_one_pair_gets_everything() -> None:
    assert Steering().pair_of(frame("10.0.2.2", 7, "10.0.2.15", 1000)) == 0


OUT = frame("10.0.2.15", 1000, "10.0.2.2", 7)
BACK = frame("10.0.2.2", 7, "10.0.2.15", 1000)


def test_answer_goes_where_the_guest_sent() -> None:
    for pair in (3, 1, 2):
        steering = Steering()
        steering.use(4)
        steering.pair_of(BACK)
        steering.sent_on(OUT, pair)
        assert steering.pair_of(BACK) == pair


def test_flow_moves_once_it_is_sent_elsewhere_for_a_while() -> None:
    steering = Steering()
    steering.use(4)
    steering.sent_on(OUT, 3)
    for _ in range(rss.MOVE_AFTER - 1):
        steering.sent_on(OUT, 1)
        assert steering.pair_of(BACK) == 3
    steering.sent_on(OUT, 1)
    assert steering.pair_of(BACK) == 1
    assert not steering._strays


@pytest.mark.parametrize("other", [3, 2])
def test_flow_that_is_sent_on_several_queues_in_turn_stays(other: int) -> None:
    steering = Steering()
    steering.use(4)
    steering.sent_on(OUT, 3)
    for _ in range(4 * rss.MOVE_AFTER):
        steering.sent_on(OUT, 1)
        steering.sent_on(OUT, other)
        assert steering.pair_of(BACK) == 3


@pytest.mark.parametrize("flow", [("10.0.2.15", 1000, "10.0.2.2", 7), ("fd00::15", 1000, "fd00::2", 7)])
def test_ipv4_and_ipv6_flows_are_told_apart_by_their_ends(flow: tuple[str, int, str, int]) -> None:
    steering = Steering()
    steering.use(8)
    guest, gport, server, sport = flow
    for pair in range(8):
        steering.sent_on(frame(guest, gport + pair, server, sport), pair)
    answers = [steering.pair_of(frame(server, sport, guest, gport + pair)) for pair in range(8)]
    assert answers == list(range(8))


def test_another_number_of_pairs_begins_anew() -> None:
    steering = Steering()
    steering.use(4)
    steering.sent_on(frame("10.0.2.15", 1000, "10.0.2.2", 7), 3)
    steering.use(2)
    assert steering.pair_of(frame("10.0.2.2", 7, "10.0.2.15", 1000)) < 2


def test_flows_beyond_the_bound_are_learnt_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rss, "FLOWS", 10)
    steering = Steering()
    steering.use(4)
    for port in range(1000, 1100):
        steering.sent_on(frame("10.0.2.15", port, "10.0.2.2", 7), 3)
        assert steering.pair_of(frame("10.0.2.2", 7, "10.0.2.15", port)) == 3
        assert len(steering._flows) <= 10


def test_flows_that_nothing_is_known_of_are_spread() -> None:
    steering = Steering()
    steering.use(4)
    pairs = [steering.pair_of(frame("10.0.2.2", 7, "10.0.2.15", port)) for port in range(1000, 1200)]
    assert all(pairs.count(pair) > 20 for pair in range(4))


def test_rss_chooses_by_the_low_bits_of_the_hash() -> None:
    one = frame("66.9.149.187", 2794, "161.142.100.80", 1766)
    steering = Steering()
    steering.use(4)
    steering.rss = RssConfig(HashConfig(rss.SUPPORTED_HASH_TYPES, KEY), (0, 1, 2, 3), 1)
    assert steering.pair_of(one) == 0x51CCC178 & 3
    steering.sent_on(one, 2)  # means nothing now
    assert steering.pair_of(one) == 0x51CCC178 & 3
    arp = bytes(dpkt.ethernet.Ethernet(type=dpkt.ethernet.ETH_TYPE_ARP, data=dpkt.arp.ARP()))
    assert steering.pair_of(arp) == 1  # unclassified


def test_reset_forgets_everything() -> None:
    steering = Steering()
    steering.use(4)
    steering.sent_on(frame("10.0.2.15", 1000, "10.0.2.2", 7), 3)
    steering.reset()
    assert (steering.pairs, steering.rss) == (1, None)
    assert steering.pair_of(frame("10.0.2.2", 7, "10.0.2.15", 1000)) == 0
