# SPDX-License-Identifier: GPL-2.0-or-later
"""Cutting a packet of many UDP datagrams: net/ipv4/udp_offload.c.

Theory of operation
-------------------
SKB_GSO_UDP_L4 means that the payload behind one UDP header is datagrams of ``gso_size`` bytes each, the last one
perhaps shorter; UDP's length and the sum in its checksum field are those of the whole.  Such a packet is made by
sendmsg() of a socket with UDP_SEGMENT and cut on the way out if the device cannot (``dev_queue_xmit``), or it comes
from a guest and is cut before it waits in a socket without UDP_GRO (``udp_rcv_segment``).

SKB_GSO_UDP is one datagram, longer than the path takes, that a guest left to its device to fragment.  It is never made
here and not cut: as a received packet it is what it would be after reassembly.

``skb_gso_segment`` -> ``inet_gso_segment`` or ``ipv6_gso_segment`` -> ``udp4_ufo_fragment`` or ``udp6_ufo_fragment`` ->
``__udp_gso_segment``.  The packets that come out begin with the link header and have all headers of their own; their
checksums are as good as the whole's was.

Departures: no partial cuts (a device that takes some of it), no tunnels, no lists of packets (SKB_GSO_FRAGLIST).
"""

from __future__ import annotations

from typing import Final

from stack.include.ip import UDPHDR_STRUCT, udphdr
from stack.include.sk_buff import sk_buff
from stack.net.core import skbuff
from stack.net.core import sock as core_sock

UDP_HEADER: Final = 8
_CHECK: Final = 6  # offset of the checksum in the header


def udp4_ufo_fragment(skb: sk_buff) -> list[sk_buff]:
    """The datagrams of a packet over IPv4; [] if it is none."""
    return __udp_gso_segment(skb)


def __udp_gso_segment(gso_skb: sk_buff) -> list[sk_buff]:
    """The datagrams of a packet as packets, each with its UDP header; their IP headers are the whole's still.  [] if
    there is not more than one.  A socket's send budget has all of them from here on.  The sums in the checksum fields
    follow from the whole's, which differs from them by the length."""
    th = gso_skb.transport_header
    mss = gso_skb.gso_size
    payload = memoryview(skbuff.skb_linear_bytes(gso_skb))[th + UDP_HEADER - gso_skb.data :]
    if not mss or len(payload) <= mss:
        return []
    source, dest, whole, total = UDPHDR_STRUCT.unpack_from(gso_skb.head, th)
    mac = gso_skb.mac_header
    headers = bytes(memoryview(gso_skb.head)[mac:th])
    segs = []
    for at in range(0, len(payload), mss):
        piece = payload[at : at + mss]
        length = UDP_HEADER + len(piece)
        check = (total - whole + length) % 65535
        head = bytearray(headers)
        head += UDPHDR_STRUCT.pack(source, dest, length, check)
        head += piece
        seg = sk_buff(head, 0, len(head))
        seg.network_header, seg.transport_header = gso_skb.network_header - mac, th - mac
        seg.h_th = udphdr(source, dest, length, check)
        seg.ip_summed, seg.csum_start, seg.csum_offset = gso_skb.ip_summed, th - mac, _CHECK
        _skb_copy(seg, gso_skb)
        segs.append(seg)
    segs[0].shinfo = gso_skb.shinfo
    return segs


def _skb_copy(seg: sk_buff, skb: sk_buff) -> None:
    """What all packets have from the one that they were cut from."""
    seg.dev, seg.skb_iif, seg.protocol, seg.pkt_type = skb.dev, skb.skb_iif, skb.protocol, skb.pkt_type
    seg.priority, seg.mark, seg.tstamp, seg.hash = skb.priority, skb.mark, skb.tstamp, skb.hash
    seg._skb_refdst, seg.ip_opt = skb._skb_refdst, skb.ip_opt
    if skb.destructor is core_sock.sock_wfree:
        assert skb.sk is not None
        core_sock.skb_set_owner_w(seg, skb.sk)
