# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import errno

from stack.api.sim import RawPeer, Sim
from stack.include.inet_sock import IP_PMTUDISC_DONT, inet_sock, ip_options
from stack.include.ip import in_aton, ip_reply_arg
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_TSO
from stack.include.sk_buff import (
    CHECKSUM_PARTIAL,
    MAX_TCP_HEADER,
    SKB_GSO_TCPV4,
    alloc_skb,
    sk_buff,
    skb_add_frag,
    skb_push,
)
from stack.include.sock import AF_INET
from stack.lib.checksum import csum_tcpudp_magic, tcp_v4_pseudo
from stack.net.ipv4 import ip_output, proc
from stack.stack import Stack

HOST, US = in_aton("10.0.2.15"), in_aton("10.0.2.2")


def connected(net: Stack) -> inet_sock:
    sk = inet_sock(net, AF_INET)
    sk.sk_protocol, sk.sk_daddr, sk.inet_saddr, sk.inet_id = 6, HOST, US, 0xFFFE
    return sk


def segment(payload: bytes, *, partial: bool = False) -> sk_buff:
    """A TCP-like packet: 20 bytes of header, the payload by reference."""
    skb = alloc_skb(MAX_TCP_HEADER)
    skb.transport_header = skb_push(skb, 20)
    skb_add_frag(skb, payload)
    if partial:
        skb.ip_summed, skb.csum_start, skb.csum_offset = CHECKSUM_PARTIAL, skb.transport_header, 16
        skb.head[skb.data + 16 : skb.data + 18] = tcp_v4_pseudo(US, HOST, skb.len).to_bytes(2, "big")  # type: ignore[index]
    return skb


def test_socket_packets_count_their_id_up_with_df(net: Stack, peer: RawPeer) -> None:
    sk = connected(net)
    for _ in range(3):
        assert ip_output.ip_queue_xmit(sk, segment(b"x"), None) == 0
    seen = [peer.next_packet(6) for _ in range(3)]
    assert [(p.ip_id, p.df, p.ttl, p.src, p.dst) for p in seen if p is not None] == [
        (i, True, 64, "10.0.2.2", "10.0.2.15") for i in (0xFFFE, 0xFFFF, 0)
    ]


def test_socket_ttl_tos_and_options_go_into_the_header(net: Stack, peer: RawPeer) -> None:
    sk = connected(net)
    sk.uc_ttl, sk.tos, sk.inet_opt = 7, 0x48, ip_options(bytes((148, 4, 0, 0)))
    ip_output.ip_queue_xmit(sk, segment(b"x"), None)
    packet = peer.next_packet(6)
    assert packet is not None
    assert (packet.ttl, packet.tos, packet.ip_options) == (7, 0x48, bytes((148, 4, 0, 0)))


def test_socket_without_route_gets_host_unreachable(net: Stack) -> None:
    sk = connected(net)
    sk.sk_daddr = in_aton("8.8.8.8")
    assert ip_output.ip_queue_xmit(sk, segment(b"x"), None) == -errno.EHOSTUNREACH
    assert net.drop_reasons == {"IP_OUTNOROUTES": 1}
    assert proc.counters(net)["IpOutNoRoutes"] == 1


def test_partial_checksum_is_finished_for_a_device_that_cannot(net: Stack, peer: RawPeer) -> None:
    ip_output.ip_queue_xmit(connected(net), segment(b"odd", partial=True), None)
    packet = peer.next_packet(6)
    assert packet is not None
    from stack.lib.checksum import csum_partial

    assert csum_tcpudp_magic(US, HOST, len(packet.body), 6, csum_partial(packet.body)) == 0


def test_gso_frame_goes_whole_and_takes_one_id_per_segment(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", features=NETIF_F_HW_CSUM | NETIF_F_TSO)
    peer = sim.add_peer("10.0.2.15", net)
    sk = connected(net)
    sk.inet_id = 5
    skb = segment(bytes(40000), partial=True)
    skb.gso_size, skb.gso_segs, skb.gso_type = 1460, 28, SKB_GSO_TCPV4
    ip_output.ip_queue_xmit(sk, skb, None)
    packet = peer.next_packet(6)
    assert packet is not None
    assert (len(packet.body), packet.frame.gso_size, packet.frame.gso_type) == (40020, 1460, SKB_GSO_TCPV4)
    assert (packet.frame.ip_summed, packet.frame.csum_start) == (CHECKSUM_PARTIAL, 34)
    assert sk.inet_id == 5 + 28


def test_gso_frame_to_a_device_without_tso_is_dropped(net: Stack, peer: RawPeer) -> None:
    skb = segment(bytes(4000))
    skb.gso_size, skb.gso_segs, skb.gso_type = 1460, 3, SKB_GSO_TCPV4
    ip_output.ip_queue_xmit(connected(net), skb, None)
    assert net.drop_reasons == {"SKB_GSO_SEG": 1}


def test_packet_above_the_mtu_with_df_is_refused(net: Stack, peer: RawPeer) -> None:
    assert ip_output.ip_queue_xmit(connected(net), segment(bytes(1461)), None) == -errno.EMSGSIZE
    assert net.drop_reasons == {"PKT_TOO_BIG": 1}
    assert proc.counters(net)["IpFragFails"] == 1


def test_packet_above_the_mtu_without_df_is_cut_on_multiples_of_eight(net: Stack, peer: RawPeer) -> None:
    sk = connected(net)
    sk.pmtudisc = IP_PMTUDISC_DONT
    sk.inet_opt = ip_options(bytes((7, 7, 4)) + bytes(4) + b"\x01" + bytes((148, 4, 0, 0)))
    ip_output.ip_queue_xmit(sk, segment(bytes(range(256)) * 12), None)
    pieces = []
    while (packet := peer.next_packet(6)) is not None:
        pieces.append(packet)
    assert [p.frag_off for p in pieces] == [0, 1464, 2928]
    assert [p.more_fragments for p in pieces] == [True, True, False]
    assert len({p.ip_id for p in pieces}) == 1
    assert b"".join(p.body for p in pieces)[20:] == bytes(range(256)) * 12
    # Record route stays in the first fragment only, router alert has the copied flag.
    assert pieces[0].ip_options[0] == 7
    assert pieces[1].ip_options == bytes([1] * 8) + bytes((148, 4, 0, 0))
    assert proc.counters(net)["IpFragCreates"] == 3


def test_reply_without_a_socket_has_id_0_df_and_a_finished_checksum(net: Stack, peer: RawPeer) -> None:
    caught: list[sk_buff] = []
    prot = net.inet_protos[6]
    assert prot is not None
    original = prot.handler
    net.inet_protos[6] = type(prot)(lambda skb: caught.append(skb) or 0)  # type: ignore[func-returns-value]
    peer.send_tcp("10.0.2.3", 1, 2, "A", 5, 6)
    peer.sim.settle()
    body = bytearray(b"\0\x02\0\x01" + bytes(8) + b"\x50\x04" + bytes(6))
    us2 = in_aton("10.0.2.3")
    arg = ip_reply_arg(body, csum=us2 + HOST + 6 + len(body), csumoffset=8, tos=0x20)
    assert ip_output.ip_send_unicast_reply(net, None, caught[0], None, HOST, us2, arg) == 0
    segment = peer.expect("R", seq=0)
    packet = segment.packet
    assert (packet.src, packet.ip_id, packet.df, packet.ttl, packet.tos) == ("10.0.2.3", 0, True, 64, 0x20)
    assert original is not None
