# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import itertools

import pytest

from stack.api.sim import SEC, RawPeer, Sim
from stack.lib.checksum import ip_compute_csum
from stack.net.ipv4 import proc
from stack.stack import Stack

MF = 0x2000


def echo(size: int) -> bytes:
    data = bytes(i * 7 & 255 for i in range(size))
    head = b"\x08\x00\x00\x00\x12\x34\x00\x01"
    return head[:2] + ip_compute_csum(head + data).to_bytes(2, "big") + head[4:] + data


def send_piece(
    peer: RawPeer, body: bytes, start: int, end: int, *, last: bool, ip_id: int = 9, **fields: int
) -> None:
    frag = start // 8 | (0 if last else MF)
    peer.send_ip(1, body[start:end], "10.0.2.2", frag=frag, ip_id=ip_id, **fields)


def reassembled_answer(peer: RawPeer) -> bytes:
    """The payload of the echo reply, put together from its own fragments."""
    pieces: dict[int, bytes] = {}
    while (packet := peer.next_packet(1)) is not None:
        pieces[packet.frag_off] = packet.body
    whole = b"".join(pieces[k] for k in sorted(pieces))
    assert ip_compute_csum(whole) == 0
    assert whole[0] == 0
    return whole[8:]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_fragments_in_any_order_make_the_datagram(net: Stack, peer: RawPeer, order: tuple[int, ...]) -> None:
    body = echo(3000)
    cuts = [(0, 1480), (1480, 2960), (2960, 3008)]
    for i in order:
        send_piece(peer, body, *cuts[i], last=i == 2)
    assert reassembled_answer(peer) == body[8:]
    counters = proc.counters(net)
    assert (counters["IpReasmReqds"], counters["IpReasmOKs"], counters["IpInDelivers"]) == (3, 1, 1)
    assert (counters["IpFragOKs"], counters["IpFragCreates"]) == (1, 3)
    assert net.ipv4_fqdir.mem == 0
    assert net.ipv4_fqdir.queues == {}


def test_largest_datagram_goes_both_ways(net: Stack, peer: RawPeer) -> None:
    body = echo(65535 - 20 - 8)
    for start in range(0, len(body), 1480):
        end = min(start + 1480, len(body))
        send_piece(peer, body, start, end, last=end == len(body))
    assert reassembled_answer(peer) == body[8:]


def test_waiting_fragment_repeated_is_dropped_alone(net: Stack, peer: RawPeer) -> None:
    body = echo(3000)
    send_piece(peer, body, 0, 1480, last=False)
    send_piece(peer, body, 0, 1480, last=False)
    send_piece(peer, body, 8, 80, last=False)
    send_piece(peer, body, 1480, 3008, last=True)
    assert reassembled_answer(peer) == body[8:]
    assert net.drop_reasons == {"DUP_FRAG": 2}


def test_waiting_fragment_overlapped_throws_the_datagram_away(net: Stack, peer: RawPeer) -> None:
    body = echo(3000)
    send_piece(peer, body, 0, 1480, last=False)
    send_piece(peer, body, 1472, 2960, last=False)
    peer.expect_nothing()
    counters = proc.counters(net)
    assert counters["IpExtReasmOverlaps"] == counters["IpReasmFails"] == 1
    assert net.drop_reasons == {"NOT_SPECIFIED": 2}
    assert (net.ipv4_fqdir.mem, net.ipv4_fqdir.queues) == (0, {})


def test_fragment_beyond_65535_bytes_is_refused(net: Stack, peer: RawPeer) -> None:
    peer.send_ip(1, bytes(800), "10.0.2.2", frag=0x1FFF, ip_id=5)
    peer.expect_nothing()
    assert net.drop_reasons == {"IP_INHDR": 1}
    assert proc.counters(net)["IpReasmFails"] == 1


@pytest.mark.parametrize("second_end", [2000, 2992])
def test_waiting_last_fragment_contradicted_throws_the_datagram_away(
    net: Stack, peer: RawPeer, second_end: int
) -> None:
    body = echo(3000)
    send_piece(peer, body, 1480, 2960, last=True)
    send_piece(peer, body, 1480 if second_end < 2960 else 2960, second_end, last=True)
    peer.expect_nothing()
    assert net.drop_reasons["IP_INHDR"] == 2


def test_incomplete_datagram_times_out_with_an_error_to_its_sender(
    sim: Sim, net: Stack, peer: RawPeer
) -> None:
    body = echo(3000)
    send_piece(peer, body, 0, 1480, last=False)
    sim.run_for(29 * SEC)
    peer.expect_nothing()
    error = peer.expect_icmp(11, 1, within_ns=4 * SEC)
    assert error.body[8 + 20 : 8 + 28] == body[:8]
    counters = proc.counters(net)
    assert counters["IpReasmTimeout"] == counters["IpReasmFails"] == 1
    assert net.drop_reasons == {"FRAG_REASM_TIMEOUT": 1}
    assert net.ipv4_fqdir.mem == 0


def test_incomplete_datagram_without_its_first_fragment_times_out_silently(
    sim: Sim, net: Stack, peer: RawPeer
) -> None:
    send_piece(peer, echo(3000), 1480, 2960, last=False)
    sim.run_for(40 * SEC)
    peer.expect_nothing()
    assert proc.counters(net)["IpReasmTimeout"] == 1


def test_flood_of_first_fragments_stays_within_the_memory_limit(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl={"ipfrag_high_thresh": 100_000})
    peer = sim.add_peer("10.0.2.15", net)
    for i in range(200):
        send_piece(peer, echo(3000), 0, 1480, last=False, ip_id=i)
        sim.settle()
    assert net.ipv4_fqdir.mem <= 100_000 + 3000
    assert net.drop_reasons["NOMEM"] == proc.counters(net)["IpReasmFails"]
    assert net.drop_reasons["NOMEM"] > 100


def test_fragments_far_apart_in_their_senders_count_are_not_joined(
    sim: Sim, net: Stack, peer: RawPeer
) -> None:
    body = echo(3000)
    send_piece(peer, body, 0, 1480, last=False, ip_id=1)
    for i in range(70):
        send_piece(peer, body, 0, 1480, last=False, ip_id=100 + i)
    send_piece(peer, body, 1480, 3008, last=True, ip_id=1)
    peer.expect_nothing()
    assert net.drop_reasons == {"FRAG_TOO_FAR": 2}


def test_fragments_with_ce_and_not_ect_are_dropped(net: Stack, peer: RawPeer) -> None:
    body = echo(3000)
    send_piece(peer, body, 0, 1480, last=False, tos=0)
    send_piece(peer, body, 1480, 3008, last=True, tos=3)
    peer.expect_nothing()
    assert net.drop_reasons == {"NOT_SPECIFIED": 2}
