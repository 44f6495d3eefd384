# SPDX-License-Identifier: GPL-2.0-or-later
"""Fragments: RFC 8200 section 4.5, RFC 5722 (overlaps), RFC 6946 (atomic ones), RFC 7112 (whole header chains)."""

from __future__ import annotations

import itertools

import pytest

from stack.api.sim import SEC, RawPeer, Sim
from stack.net.ipv4 import inet_fragment
from stack.stack import Stack

DATA = bytes(range(256)) * 8


def message(peer: RawPeer, data: bytes = DATA, dst: str = "fd00::2") -> bytes:
    return peer.icmp6_message(dst, 128, 0, 1, data)


def send(
    peer: RawPeer, part: bytes, offset: int, more: bool, ident: int = 7, nexthdr: int = 58, **fields: object
) -> None:
    header = bytes((nexthdr, 0)) + (offset | more).to_bytes(2, "big") + ident.to_bytes(4, "big")
    peer.send_ip(44, header + part, "fd00::2", **fields)


def pieces(raw: bytes, step: int = 800) -> list[tuple[bytes, int, bool]]:
    return [(raw[at : at + step], at, at + step < len(raw)) for at in range(0, len(raw), step)]


def count(net: Stack, name: str) -> int:
    value = net.snapshot()["snmp6"]["Ip6" + name]
    assert isinstance(value, int)
    return value


def expect_reply(peer: RawPeer, data: bytes = DATA) -> None:
    peer.sim.settle()
    parts = sorted(peer.inbox, key=lambda p: p.frag_off)
    assert b"".join(p.body for p in parts)[8:] == data
    peer.inbox.clear()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_fragments_in_any_order_become_the_packet(net: Stack, peer: RawPeer, order: tuple[int, ...]) -> None:
    parts = pieces(message(peer))
    for n in order:
        send(peer, *parts[n])
    expect_reply(peer)
    assert (count(net, "ReasmReqds"), count(net, "ReasmOKs"), count(net, "ReasmFails")) == (3, 1, 0)
    assert net.snapshot()["fragments6"] == {"queues": 0, "mem": 0}


def test_headers_in_front_of_the_fragment_header_stay(peer: RawPeer) -> None:
    raw = message(peer)
    for part, at, more in pieces(raw):
        header = b"\x3a\0" + (at | more).to_bytes(2, "big") + (7).to_bytes(4, "big")
        peer.send_ip(60, b"\x2c\0\x01\x04\0\0\0\0" + header + part, "fd00::2")
    expect_reply(peer)


def test_repeated_fragment_is_dropped_alone(net: Stack, peer: RawPeer) -> None:
    parts = pieces(message(peer))
    for n in (0, 0, 1, 1, 2):
        send(peer, *parts[n])
    expect_reply(peer)
    assert net.drop_reasons == {"DUP_FRAG": 2}


def test_fragment_that_overlaps_throws_the_packet_away(net: Stack, peer: RawPeer) -> None:
    raw = message(peer)
    send(peer, raw[:800], 0, True)
    send(peer, raw[792:1600], 792, True)
    send(peer, raw[1600:], 1600, False)
    peer.expect_nothing()
    assert count(net, "ReasmFails") == 1
    assert net.snapshot()["fragments6"]["queues"] == 1  # the last one began anew


def test_atomic_fragment_is_worked_at_once_whatever_waits_under_its_id(net: Stack, peer: RawPeer) -> None:
    send(peer, message(peer)[:800], 0, True)
    send(peer, message(peer, b"small"), 0, False)
    assert peer.expect_icmp6(129, 0).body[8:] == b"small"
    assert (count(net, "ReasmOKs"), net.snapshot()["fragments6"]["queues"]) == (1, 1)


@pytest.mark.parametrize(("size", "pointer"), [(801, 4), (799, 4)])
def test_middle_piece_that_is_no_multiple_of_eight_is_refused(peer: RawPeer, size: int, pointer: int) -> None:
    send(peer, message(peer)[:size], 0, True)
    assert peer.expect_icmp6(4, 0).body[4:8] == pointer.to_bytes(4, "big")


def test_piece_that_ends_beyond_65535_is_refused(peer: RawPeer) -> None:
    send(peer, bytes(16), 65528, False)
    assert peer.expect_icmp6(4, 0).body[4:8] == (42).to_bytes(4, "big")


def test_whole_that_its_headers_make_too_long_is_dropped(net: Stack, peer: RawPeer) -> None:
    options = b"\x2c\0\x01\x04\0\0\0\0"
    step = 1400
    for at in range(0, 65528, step):
        part = bytes(min(step, 65528 - at))
        header = b"\x3a\0" + (at | (at + step < 65528)).to_bytes(2, "big") + (7).to_bytes(4, "big")
        peer.send_ip(60, options + header + part, "fd00::2")
    peer.expect_nothing()
    assert (count(net, "ReasmFails"), net.snapshot()["fragments6"]["mem"]) == (1, 0)


@pytest.mark.parametrize(
    "second",
    [(800, False), (2400, True), (3200, False)],
    ids=["ends before what is there", "goes on behind the end", "ends elsewhere"],
)
def test_pieces_that_disagree_on_the_end_throw_the_packet_away(
    net: Stack, peer: RawPeer, second: tuple[int, bool]
) -> None:
    send(peer, bytes(800), 1600, False)
    if second[0] == 800:
        send(peer, bytes(800), 800, False)
    else:
        send(peer, bytes(800), *second)
    peer.expect_nothing()
    assert (count(net, "ReasmFails"), net.snapshot()["fragments6"]["queues"]) == (1, 0)


@pytest.mark.parametrize("nexthdr", [6, 17, 58])
def test_first_fragment_without_its_upper_header_is_refused(net: Stack, peer: RawPeer, nexthdr: int) -> None:
    # 8 bytes would do for UDP and ICMPv6: here they are behind options that fill the first fragment.
    send(peer, bytes((nexthdr, 0)) + b"\x01\x04\0\0\0\0", 0, True, nexthdr=60)
    assert peer.expect_icmp6(4, 3).body[4:8] == bytes(4)
    assert net.snapshot()["fragments6"]["queues"] == 0


def test_packet_that_does_not_complete_draws_time_exceeded_after_a_minute(
    net: Stack, sim: Sim, peer: RawPeer
) -> None:
    send(peer, message(peer)[:800], 0, True)
    sim.run_for(59 * SEC)
    peer.expect_nothing()
    error = peer.expect_icmp6(3, 1, within_ns=20 * SEC)
    assert error.body[8 + 6] == 44
    assert (count(net, "ReasmTimeout"), count(net, "ReasmFails")) == (1, 1)
    assert net.snapshot()["fragments6"] == {"queues": 0, "mem": 0}


def test_without_its_first_fragment_it_ends_in_silence(net: Stack, sim: Sim, peer: RawPeer) -> None:
    send(peer, bytes(800), 800, True)
    sim.run_for(80 * SEC)
    peer.expect_nothing()
    assert net.drop_reasons == {"FRAG_REASM_TIMEOUT": 1}


def test_waiting_fragments_are_bounded_in_bytes(net: Stack, peer: RawPeer) -> None:
    net.sysctl_set("ipv6.ip6frag_high_thresh", 20_000)
    for ident in range(50):
        send(peer, bytes(800), 800, True, ident)
    peer.sim.settle()
    assert net.snapshot()["fragments6"]["mem"] < 25_000
    assert count(net, "ReasmFails") == 50 - net.snapshot()["fragments6"]["queues"] > 0


def test_waiting_packets_are_bounded_in_number(
    net: Stack, peer: RawPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inet_fragment, "MAX_QUEUES", 10)
    for ident in range(30):
        send(peer, bytes(8), 800, True, ident)
    peer.sim.settle()
    assert net.snapshot()["fragments6"]["queues"] == 10


def test_packets_of_two_senders_with_one_id_stay_apart(net: Stack, peer: RawPeer) -> None:
    send(peer, message(peer)[:800], 0, True)
    send(peer, bytes(800), 800, False, src="fd00::16")
    peer.expect_nothing()
    assert net.snapshot()["fragments6"]["queues"] == 2


def test_ce_on_one_fragment_is_on_the_whole(net: Stack, peer: RawPeer) -> None:
    parts = pieces(message(peer, b"x" * 1000))
    send(peer, *parts[0], tos=2)
    send(peer, *parts[1], tos=3)
    peer.sim.settle()
    assert peer.inbox[0].tos == 3
