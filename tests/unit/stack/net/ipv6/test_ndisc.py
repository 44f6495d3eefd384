# SPDX-License-Identifier: GPL-2.0-or-later
"""Neighbour discovery: RFC 4861 section 7, and section 7.1's rules on what is valid."""

from __future__ import annotations

import pytest

from stack.api.sim import SEC, Packet, RawPeer, Sim
from stack.include.ipv6 import in6_pton
from stack.include.neighbour import NUD_STATE_NAMES
from stack.include.netdevice import net_device
from stack.stack import Stack

NS, NA = 135, 136
LL = "fe80::5054:ff:fe00:1"
GROUP = "ff02::1:ff00:2"
ROUTER, SOLICITED, OVERRIDE = 1 << 31, 1 << 30, 1 << 29


def target(addr: str) -> bytes:
    return in6_pton(addr).to_bytes(16, "big")


def slla(peer: RawPeer) -> bytes:
    return b"\x01\x01" + peer.mac


def tlla(mac: bytes) -> bytes:
    return b"\x02\x01" + mac


def state(net: Stack, addr: str = "fd00::15") -> str | None:
    entry = net.nd_tbl.hash.get((in6_pton(addr), 2))
    return None if entry is None else NUD_STATE_NAMES[entry.nud_state]


def ask(peer: RawPeer, what: str = "fd00::2", dst: str = GROUP, **fields: object) -> list[Packet]:
    """Solicit, and return what was advertised."""
    options = fields.pop("options", slla(peer))
    assert isinstance(options, bytes)
    fields.setdefault("ttl", 255)
    peer.send_icmp6(dst, NS, 0, 0, target(what) + options, **fields)
    peer.sim.settle()
    return [p for p in peer.nd_seen if p.body[0] == NA]


@pytest.mark.parametrize(("what", "group"), [("fd00::2", GROUP), (LL, "ff02::1:ff00:1")])
def test_solicitation_for_an_address_of_ours_is_answered_and_its_sender_learned(
    net: Stack, dev: net_device, stranger: RawPeer, what: str, group: str
) -> None:
    (answer,) = ask(stranger, what, group)
    assert (answer.src, answer.dst, answer.ttl) == (what, "fd00::15", 255)
    assert answer.body[4:8] == (SOLICITED | OVERRIDE).to_bytes(4, "big")
    assert answer.body[8:] == target(what) + tlla(dev.dev_addr)
    assert answer.frame.data[:6] == stranger.mac
    assert state(net) == "DELAY"


def test_solicitation_to_our_own_address_without_link_address_is_answered(net: Stack, peer: RawPeer) -> None:
    (answer,) = ask(peer, dst="fd00::2", options=b"")
    assert answer.dst == "fd00::15"


def test_probe_of_duplicate_address_detection_is_answered_to_all_nodes(net: Stack, stranger: RawPeer) -> None:
    (answer,) = ask(stranger, src="::", options=b"")
    assert (answer.dst, answer.body[4:8]) == ("ff02::1", OVERRIDE.to_bytes(4, "big"))
    assert answer.frame.data[:6] == bytes.fromhex("333300000001")
    assert state(net, "::") is None


def test_answer_says_router_where_advertisements_are_sent(
    net: Stack, dev: net_device, stranger: RawPeer
) -> None:
    net.ra_start(dev, "fd00::/64")
    (answer,) = ask(stranger)
    assert answer.body[4:8] == (ROUTER | SOLICITED | OVERRIDE).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ttl": 254}, "IPV6_NDISC_HOP_LIMIT"),
        ({"options": b"\x01\x00" + bytes(6)}, "IPV6_NDISC_BAD_OPTIONS"),
        ({"options": b"\x01\x02" + bytes(6)}, "IPV6_NDISC_BAD_OPTIONS"),
        ({"options": b"\x01"}, "IPV6_NDISC_BAD_OPTIONS"),
        ({"options": b"\x01\x01\x33\x33\0\0\0\x01"}, "IPV6_NDISC_INVALID"),
        ({"src": "::"}, "IPV6_NDISC_INVALID"),
        ({"src": "::", "options": b"", "dst": "fd00::2"}, "IPV6_NDISC_INVALID"),
        ({"what": "ff02::1"}, "IPV6_NDISC_INVALID"),
        ({"what": "fd00::3", "dst": "ff02::1"}, "ICMP_IGNORED"),
    ],
)
def test_solicitation_that_is_wrong_or_for_somebody_else_is_dropped(
    net: Stack, stranger: RawPeer, fields: dict[str, object], reason: str
) -> None:
    assert ask(stranger, **fields) == []  # type: ignore[arg-type]
    assert net.drop_reasons == {reason: 1}
    assert state(net) is None


def test_solicitation_cut_short_is_dropped(net: Stack, stranger: RawPeer) -> None:
    stranger.send_icmp6(GROUP, NS, 0, 0, target("fd00::2")[:15], ttl=255)
    stranger.sim.settle()
    assert net.drop_reasons == {"IPV6_NDISC_INVALID": 1}


def test_code_other_than_0_is_dropped(net: Stack, stranger: RawPeer) -> None:
    stranger.send_icmp6(GROUP, NS, 1, 0, target("fd00::2") + slla(stranger), ttl=255)
    stranger.sim.settle()
    assert net.drop_reasons == {"IPV6_NDISC_INVALID": 1}


# -- our own questions -------------------------------------------------------------------------------------------------


def ping(peer: RawPeer) -> None:
    """A packet that we have to answer to fd00::15."""
    peer.send_icmp6("fd00::2", 128, 0, 0x10001, b"x")


def test_unknown_neighbour_is_solicited_and_the_packet_waits_for_its_answer(
    net: Stack, dev: net_device, stranger: RawPeer
) -> None:
    ping(stranger)
    stranger.expect_icmp6(129, 0)
    (question,) = stranger.nd_seen
    assert (question.src, question.dst, question.ttl) == ("fd00::2", "ff02::1:ff00:15", 255)
    assert question.body[8:] == target("fd00::15") + b"\x01\x01" + dev.dev_addr
    assert question.frame.data[:6] == bytes.fromhex("3333ff000015")
    assert state(net) == "REACHABLE"


def test_neighbour_that_never_answers_is_asked_three_times_and_fails(
    net: Stack, sim: Sim, stranger: RawPeer
) -> None:
    stranger.answer_nd = False
    ping(stranger)
    sim.run_for(10 * SEC)
    assert [p.body[0] for p in stranger.nd_seen] == [NS] * 3
    assert [p.time_ns // SEC for p in stranger.nd_seen] == [0, 1, 2]
    assert state(net) == "FAILED"
    assert net.drop_reasons["NEIGH_FAILED"] == 1
    stranger.expect_nothing()


def test_stale_neighbour_is_probed_at_its_own_address(net: Stack, sim: Sim, stranger: RawPeer) -> None:
    ping(stranger)
    sim.run_for(60 * SEC)
    assert state(net) == "STALE"
    stranger.nd_seen.clear()
    ping(stranger)
    sim.run_for(6 * SEC)
    (question,) = stranger.nd_seen
    assert (question.dst, question.frame.data[:6]) == ("fd00::15", stranger.mac)
    assert state(net) == "REACHABLE"


def test_advertisement_without_override_does_not_change_a_known_address(
    net: Stack, stranger: RawPeer
) -> None:
    ping(stranger)
    stranger.expect_icmp6(129, 0)
    stranger.send_icmp6("fd00::2", NA, 0, SOLICITED, target("fd00::15") + tlla(b"\x02\0\0\0\0\x09"), ttl=255)
    stranger.sim.settle()
    entry = net.nd_tbl.hash[(in6_pton("fd00::15"), 2)]
    assert (entry.ha, state(net)) == (stranger.mac, "STALE")


def test_advertisement_with_override_changes_it(net: Stack, stranger: RawPeer) -> None:
    ping(stranger)
    stranger.expect_icmp6(129, 0)
    stranger.send_icmp6("ff02::1", NA, 0, OVERRIDE, target("fd00::15") + tlla(b"\x02\0\0\0\0\x09"), ttl=255)
    stranger.sim.settle()
    entry = net.nd_tbl.hash[(in6_pton("fd00::15"), 2)]
    assert (entry.ha, state(net)) == (b"\x02\0\0\0\0\x09", "STALE")


@pytest.mark.parametrize("option", [b"", tlla(b"\x02\0\0\0\0\x09")])
def test_advertisement_of_a_stranger_teaches_nothing(net: Stack, stranger: RawPeer, option: bytes) -> None:
    stranger.send_icmp6("fd00::2", NA, 0, SOLICITED | OVERRIDE, target("fd00::99") + option, ttl=255)
    stranger.sim.settle()
    assert net.nd_tbl.hash == {}


def test_advertisement_without_a_link_address_does_not_complete_a_question(
    net: Stack, stranger: RawPeer
) -> None:
    stranger.answer_nd = False
    ping(stranger)
    stranger.send_icmp6("fd00::2", NA, 0, SOLICITED | OVERRIDE, target("fd00::15"), ttl=255)
    stranger.sim.settle()
    assert state(net) == "INCOMPLETE"
    stranger.expect_nothing()


def test_solicited_advertisement_to_a_group_is_dropped(net: Stack, stranger: RawPeer) -> None:
    ping(stranger)
    stranger.expect_icmp6(129, 0)
    stranger.send_icmp6(
        "ff02::1", NA, 0, SOLICITED | OVERRIDE, target("fd00::15") + tlla(b"\x02\0\0\0\0\x09"), ttl=255
    )
    stranger.sim.settle()
    assert net.nd_tbl.hash[(in6_pton("fd00::15"), 2)].ha == stranger.mac


@pytest.mark.parametrize("kind", [134, 137])
def test_router_advertisement_and_redirect_are_not_followed(net: Stack, peer: RawPeer, kind: int) -> None:
    before = net.snapshot()["routes6"]
    peer.send_icmp6("ff02::1", kind, 0, 0x40000708, bytes(32), ttl=255, src=peer.addr6_ll)
    peer.sim.settle()
    assert net.snapshot()["routes6"] == before
    assert net.drop_reasons == {"ICMP_IGNORED": 1}
