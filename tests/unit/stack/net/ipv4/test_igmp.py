# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets to multicast groups: what is ours, what is not, and that nothing is answered."""

from __future__ import annotations

import pytest

from stack.api.sim import RawPeer
from stack.include.ip import IPPROTO_IGMP
from stack.include.snmp import IPSTATS_MIB_INDELIVERS, IPSTATS_MIB_INMCASTPKTS
from stack.stack import Stack

ALL_HOSTS, OTHER = "224.0.0.1", "239.1.2.3"
QUERY = bytes.fromhex("1164ee9b00000000")


def received(net: Stack) -> tuple[int, int]:
    """(multicast packets, delivered packets)"""
    return net.mib.ip_statistics[IPSTATS_MIB_INMCASTPKTS], net.mib.ip_statistics[IPSTATS_MIB_INDELIVERS]


def test_all_systems_is_ours(net: Stack, peer: RawPeer) -> None:
    peer.send_udp(ALL_HOSTS, 9, 9, b"x")
    peer.expect_nothing()
    assert received(net) == (1, 1)


def test_other_group_is_not(net: Stack, peer: RawPeer) -> None:
    peer.send_udp(OTHER, 9, 9, b"x")
    peer.expect_nothing()
    assert received(net) == (0, 0)


def test_sender_that_is_a_group_is_refused(net: Stack, peer: RawPeer) -> None:
    peer.send_udp(ALL_HOSTS, 9, 9, b"x", src=OTHER)
    peer.expect_nothing()
    assert received(net) == (0, 0)
    assert net.drop_reasons["IP_INVALID_SOURCE"] == 1


def test_query_has_no_answer(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(IPPROTO_IGMP, QUERY, ALL_HOSTS)
    peer.expect_nothing()
    assert received(net) == (1, 1)
    assert not net.drop_reasons


@pytest.mark.parametrize(
    ("body", "reason"),
    [(QUERY[:4], "PKT_TOO_SMALL"), (b"\x12" + QUERY[1:], "IP_CSUM")],
    ids=["short", "checksum"],
)
def test_broken_igmp_is_dropped_with_its_reason(net: Stack, peer: RawPeer, body: bytes, reason: str) -> None:
    peer.send_ip(IPPROTO_IGMP, body, ALL_HOSTS)
    peer.expect_nothing()
    assert net.drop_reasons[reason] == 1
