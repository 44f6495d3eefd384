# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from stack.api.sim import MSEC, SEC, RawPeer, Sim
from stack.include import neighbour as n
from stack.include.ip import in_aton
from stack.net.core import neighbour as core_neighbour
from stack.net.ipv4 import udp
from stack.stack import Stack

from .conftest import UdpFactory

HOST = in_aton("10.0.2.15")


@pytest.fixture
def peer(sim: Sim, net: Stack) -> RawPeer:
    return sim.add_peer("10.0.2.15", net, resolve=True)


def entry(net: Stack, addr: str = "10.0.2.15") -> n.neighbour | None:
    return net.arp_tbl.hash.get((in_aton(addr), 2))


def state(net: Stack, addr: str = "10.0.2.15") -> str | None:
    found = entry(net, addr)
    return None if found is None else n.NUD_STATE_NAMES[found.nud_state]


@pytest.mark.parametrize("target", ["10.0.2.2", "10.0.2.3"])
def test_request_for_an_address_of_ours_is_answered_and_its_sender_learned(
    net: Stack, peer: RawPeer, target: str
) -> None:
    peer.send_arp(1, target)
    peer.sim.settle()
    assert peer.arp_seen == [(2, target, "10.0.2.15")]
    assert peer.sim.frames[-1].data[:6] == peer.mac
    assert state(net) == "STALE"
    found = entry(net)
    assert found is not None
    assert found.ha == peer.mac


def test_probe_of_duplicate_address_detection_is_answered_without_learning(net: Stack, peer: RawPeer) -> None:
    peer.send_arp(1, "10.0.2.2", sender="0.0.0.0")
    peer.sim.settle()
    assert peer.arp_seen == [(2, "10.0.2.2", "0.0.0.0")]
    assert net.arp_tbl.hash == {}


def test_request_for_another_address_is_not_answered_and_teaches_nothing(net: Stack, peer: RawPeer) -> None:
    peer.send_arp(1, "10.0.2.99")
    peer.sim.settle()
    assert peer.arp_seen == []
    assert net.arp_tbl.hash == {}


def test_gratuitous_request_of_a_stranger_is_not_learned(net: Stack, peer: RawPeer) -> None:
    peer.send_arp(1, "10.0.2.15")
    peer.sim.settle()
    assert net.arp_tbl.hash == {}


def test_known_neighbour_that_announces_a_new_address_is_updated(net: Stack, peer: RawPeer) -> None:
    peer.send_arp(1, "10.0.2.2")
    peer.sim.run_for(2 * SEC)
    peer.send_arp(1, "10.0.2.15", sender_mac=b"\x02\0\0\0\0\x77")
    peer.sim.settle()
    found = entry(net)
    assert found is not None
    assert found.ha == b"\x02\0\0\0\0\x77"
    assert state(net) == "STALE"


@pytest.mark.parametrize(("offset", "value"), [(14, 0), (16, 0x86), (18, 5), (19, 16), (21, 9), (22, 0x03)])
def test_malformed_arp_is_dropped(net: Stack, peer: RawPeer, offset: int, value: int) -> None:
    peer.send_arp(1, "10.0.2.2")
    frame = bytearray(peer.sim.frames[-1].data)
    peer.sim.settle()
    peer.arp_seen.clear()
    net.arp_tbl.hash.clear()
    frame[offset] = value
    if offset == 14:
        frame[15] = 0x20
    peer.send_frame(bytes(frame))
    peer.sim.settle()
    assert peer.arp_seen == []
    assert net.drop_reasons == {"ARP_INVALID": 1}


def test_short_arp_is_dropped(net: Stack, peer: RawPeer) -> None:
    peer.send_frame(peer.remote_mac + peer.mac + b"\x08\x06" + bytes(27))
    peer.sim.settle()
    assert net.drop_reasons == {"ARP_INVALID": 1}


def test_unresolved_neighbour_keeps_packets_until_the_answer(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    peer.answer_arp = False
    sk = udp_socket(7)
    for data in (b"one", b"two"):
        assert udp.udp_sendmsg(sk, data, (HOST, 9), 0) == 3
    sim.settle()
    assert peer.arp_seen == [(1, "10.0.2.2", "10.0.2.15")]
    assert state(net) == "INCOMPLETE"
    peer.send_arp(2, "10.0.2.2", dest_mac=peer.remote_mac)
    peer.expect_udp(7, 9, b"one")
    peer.expect_udp(7, 9, b"two")
    assert state(net) == "REACHABLE"


def test_unresolved_neighbour_fails_after_three_questions(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    peer.answer_arp = False
    sk = udp_socket(7)
    udp.udp_sendmsg(sk, b"lost", (HOST, 9), 0)
    sim.run_for(10 * SEC)
    assert peer.arp_seen == [(1, "10.0.2.2", "10.0.2.15")] * 3
    assert state(net) == "FAILED"
    assert net.drop_reasons == {"NEIGH_FAILED": 1}
    assert net.snapshot()["snmp"]["Icmp"]["OutDestUnreachs"] == 1  # a host-unreachable, from us to us
    assert sk.sk_err_soft == 0
    assert sk.sk_wmem_alloc == 0


def test_unresolved_neighbour_drops_the_oldest_beyond_its_queue(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    peer.answer_arp = False
    net.arp_tbl.parms.queue_len_bytes = 2000
    sk = udp_socket(7)
    for i in range(5):
        udp.udp_sendmsg(sk, bytes([i]), (HOST, 9), 0)
    assert net.drop_reasons == {"NEIGH_QUEUEFULL": 2}
    assert net.arp_tbl.stats["unresolved_discards"] == 2
    peer.answer_arp = True
    peer.send_arp(2, "10.0.2.2", dest_mac=peer.remote_mac)
    assert [peer.expect_udp(7, 9).body[8] for _ in range(3)] == [2, 3, 4]


def test_reachable_neighbour_becomes_stale_when_unused(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    udp.udp_sendmsg(udp_socket(7), b"x", (HOST, 9), 0)
    peer.expect_udp(7, 9)
    assert state(net) == "REACHABLE"
    sim.run_for(60 * SEC)
    assert state(net) == "STALE"
    assert len(peer.arp_seen) == 1


def test_stale_neighbour_is_used_at_once_then_probed_by_unicast(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    peer.send_arp(1, "10.0.2.2")
    sim.settle()
    peer.arp_seen.clear()
    udp.udp_sendmsg(udp_socket(7), b"x", (HOST, 9), 0)
    peer.expect_udp(7, 9)
    assert state(net) == "DELAY"
    sim.run_for(5500 * MSEC)
    assert peer.arp_seen == [(1, "10.0.2.2", "10.0.2.15")]
    probe = next(f for f in reversed(sim.frames) if f.src.startswith("stack"))
    assert probe.data[:6] == peer.mac
    assert state(net) == "REACHABLE"


def test_probed_neighbour_that_is_silent_fails_after_three(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    peer.send_arp(1, "10.0.2.2")
    sim.settle()
    peer.arp_seen.clear()
    peer.answer_arp = False
    udp.udp_sendmsg(udp_socket(7), b"x", (HOST, 9), 0)
    sim.run_for(10 * SEC)
    assert len(peer.arp_seen) == 3
    assert state(net) == "FAILED"


def test_delayed_neighbour_that_a_transport_confirms_is_not_probed(
    sim: Sim, net: Stack, peer: RawPeer, udp_socket: UdpFactory
) -> None:
    peer.send_arp(1, "10.0.2.2")
    sim.settle()
    peer.arp_seen.clear()
    udp.udp_sendmsg(udp_socket(7), b"x", (HOST, 9), 0)
    found = entry(net)
    assert found is not None
    sim.run_for(2 * SEC)
    core_neighbour.neigh_confirm(found)
    sim.run_for(4 * SEC)
    assert peer.arp_seen == []
    assert state(net) == "REACHABLE"


def test_full_table_refuses_new_neighbours_but_keeps_those_in_use(
    sim: Sim, net: Stack, peer: RawPeer
) -> None:
    tbl = net.arp_tbl
    tbl.gc_thresh2, tbl.gc_thresh3 = 4, 6
    dev = net.devices_by_name["eth0"]
    for i in range(6):
        core_neighbour.neigh_add_permanent(tbl, in_aton("10.0.2.100") + i, dev, b"\x02\0\0\0\0\1")
    assert core_neighbour.neigh_create(tbl, HOST, dev) is None
    assert tbl.stats["table_fulls"] == 1


def test_full_table_makes_room_by_dropping_failed_entries(sim: Sim, net: Stack, peer: RawPeer) -> None:
    tbl = net.arp_tbl
    tbl.gc_thresh2, tbl.gc_thresh3 = 4, 6
    dev = net.devices_by_name["eth0"]
    for i in range(6):
        made = core_neighbour.neigh_create(tbl, in_aton("10.0.2.100") + i, dev)
        assert made is not None
        made.nud_state = n.NUD_FAILED
    assert core_neighbour.neigh_create(tbl, HOST, dev) is not None
    assert len(tbl.hash) <= 6


def test_added_address_is_announced(sim: Sim, net: Stack, peer: RawPeer) -> None:
    net.dev_addr_add(net.devices_by_name["eth0"], "10.0.2.4/24")
    sim.settle()
    assert peer.arp_seen == [(1, "10.0.2.4", "10.0.2.4")]
