# SPDX-License-Identifier: GPL-2.0-or-later
"""Router advertisements that we send: RFC 4861 section 6.2, RFC 8106."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stack.api.sim import MSEC, SEC, Packet, RawPeer, Sim
from stack.include.ipv6 import in6_pton
from stack.include.netdevice import net_device
from stack.stack import Stack

LL = "fe80::5054:ff:fe00:1"


def seen(peer: RawPeer) -> list[Packet]:
    return [p for p in peer.nd_seen if p.body[0] == 134]


def solicit(peer: RawPeer, options: bytes | None = None, **fields: object) -> None:
    options = b"\x01\x01" + peer.mac if options is None else options
    peer.send_icmp6("ff02::2", 133, 0, 0, options, **{"ttl": 255, "src": peer.addr6_ll, **fields})


def test_advertisement_has_prefix_mtu_link_address_and_name_servers(
    net: Stack, dev: net_device, sim: Sim, peer: RawPeer
) -> None:
    net.ra_start(dev, "fd00::2/64", dns=["fd00::3", "fd00::4"], router_lifetime=1800)
    sim.run_for(100 * MSEC)
    (ra,) = seen(peer)
    assert (ra.src, ra.dst, ra.ttl) == (LL, "ff02::1", 255)
    head, options = ra.body[4:16], ra.body[16:]
    assert head == bytes((64, 0)) + (1800).to_bytes(2, "big") + bytes(8)
    assert options[:8] == b"\x01\x01" + dev.dev_addr
    assert options[8:16] == b"\x05\x01\0\0" + (1500).to_bytes(4, "big")
    assert options[16:20] == bytes((3, 4, 64, 0xC0))
    assert options[20:32] == (2592000).to_bytes(4, "big") + (604800).to_bytes(4, "big") + bytes(4)
    assert options[32:48] == in6_pton("fd00::").to_bytes(16, "big")
    servers = in6_pton("fd00::3").to_bytes(16, "big") + in6_pton("fd00::4").to_bytes(16, "big")
    assert options[48:] == b"\x19\x05\0\0" + (1800).to_bytes(4, "big") + servers


def test_stack_is_no_default_router_unless_told(net: Stack, dev: net_device, sim: Sim, peer: RawPeer) -> None:
    net.ra_start(dev, "fd00::/64")
    sim.run_for(100 * MSEC)
    (ra,) = seen(peer)
    assert ra.body[6:8] == bytes(2)
    assert len(ra.body) == 16 + 8 + 8 + 32


def test_three_initial_ones_come_soon_and_later_ones_seldom(
    net: Stack, dev: net_device, sim: Sim, peer: RawPeer
) -> None:
    net.ra_start(dev, "fd00::/64")
    sim.run_for(4 * 3600 * SEC)
    times = [p.time_ns / SEC for p in seen(peer)]
    gaps = [b - a for a, b in pairwise(times)]
    assert times[0] < 0.1
    assert max(gaps[:2]) <= 17
    # the timer wheel rounds up by an eighth at most
    assert all(200 <= gap <= 675 for gap in gaps[2:])
    assert len(gaps) > 20


def test_solicitation_is_answered_within_half_a_second(
    net: Stack, dev: net_device, sim: Sim, stranger: RawPeer
) -> None:
    net.ra_start(dev, "fd00::/64")
    sim.run_for(40 * SEC)
    stranger.nd_seen.clear()
    asked = sim.now_ns()
    solicit(stranger)
    sim.run_for(SEC)
    (ra,) = seen(stranger)
    assert 0 <= ra.time_ns - asked < 600 * MSEC
    assert ra.dst == "ff02::1"
    assert net.nd_tbl.hash[(in6_pton(stranger.addr6_ll), 2)].ha == stranger.mac


def test_flood_of_solicitations_gets_one_answer_in_three_seconds(
    net: Stack, dev: net_device, sim: Sim, peer: RawPeer
) -> None:
    net.ra_start(dev, "fd00::/64")
    sim.run_for(40 * SEC)
    peer.nd_seen.clear()
    for _ in range(300):
        solicit(peer)
        sim.run_for(100 * MSEC)
    assert 5 <= len(seen(peer)) <= 11


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ttl": 64}, "IPV6_NDISC_HOP_LIMIT"),
        ({"src": "::"}, "IPV6_NDISC_INVALID"),
        ({"options": b"\x01\x00" + bytes(6)}, "IPV6_NDISC_BAD_OPTIONS"),
        ({"options": b"\x01\x01" + b"\xff" * 6}, "IPV6_NDISC_INVALID"),
    ],
)
def test_solicitation_that_is_wrong_is_not_answered(
    net: Stack, dev: net_device, sim: Sim, peer: RawPeer, fields: dict[str, object], reason: str
) -> None:
    net.ra_start(dev, "fd00::/64")
    sim.run_for(40 * SEC)
    peer.nd_seen.clear()
    solicit(peer, **fields)  # type: ignore[arg-type]
    sim.run_for(2 * SEC)
    assert seen(peer) == []
    assert net.drop_reasons == {reason: 1}


def test_solicitation_from_nobody_is_answered(net: Stack, dev: net_device, sim: Sim, peer: RawPeer) -> None:
    net.ra_start(dev, "fd00::/64")
    sim.run_for(40 * SEC)
    peer.nd_seen.clear()
    solicit(peer, b"", src="::")
    sim.run_for(SEC)
    assert len(seen(peer)) == 1


def test_nobody_answers_where_no_advertisements_are_sent(
    net: Stack, dev: net_device, sim: Sim, peer: RawPeer
) -> None:
    net.ra_start(dev, "fd00::/64")
    net.ra_stop(dev)
    solicit(peer)
    sim.run_for(3600 * SEC)
    assert seen(peer) == []
    assert net.drop_reasons == {"MULTICAST_IGNORED": 1}


@pytest.mark.parametrize(("prefix", "lifetime"), [("fd00::/48", 0), ("fd00::/64", 9001), ("10.0.2.0/24", 0)])
def test_prefix_or_lifetime_that_cannot_be_is_refused(
    net: Stack, dev: net_device, prefix: str, lifetime: int
) -> None:
    with pytest.raises(ValueError):
        net.ra_start(dev, prefix, router_lifetime=lifetime)


def test_device_without_ipv6_advertises_nothing(net: Stack) -> None:
    narrow = net.register_netdevice("eth1", bytes.fromhex("525400000077"), 1000)
    with pytest.raises(ValueError, match="no IPv6"):
        net.ra_start(narrow, "fd00::/64")


def test_advertisement_has_search_domains_and_the_other_flag(
    net: Stack, dev: net_device, sim: Sim, peer: RawPeer
) -> None:
    net.ra_start(dev, "fd00::/64", domains=["vnic.test", "ab.c"], other=True)
    sim.run_for(100 * MSEC)
    (ra,) = seen(peer)
    assert ra.body[5] == 0x40
    names = b"\x04vnic\x04test\0" + b"\x02ab\x01c\0"
    assert ra.body[64:] == b"\x1f\x04\0\0" + (1800).to_bytes(4, "big") + names.ljust(24, b"\0")


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".test"])
def test_search_domain_that_is_none_is_refused(net: Stack, dev: net_device, name: str) -> None:
    with pytest.raises(ValueError, match="is no domain"):
        net.ra_start(dev, "fd00::/64", domains=[name])
