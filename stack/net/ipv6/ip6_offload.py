# SPDX-License-Identifier: GPL-2.0-or-later
"""Cutting packets of many datagrams over IPv6: net/ipv6/ip6_offload.c."""

from __future__ import annotations

from typing import cast

from stack.include.ipv6 import IPV6HDR_LEN, ipv6hdr_at
from stack.include.sk_buff import SKB_GSO_UDP_L4, sk_buff
from stack.net.ipv6 import udp_offload


def ipv6_gso_segment(skb: sk_buff) -> list[sk_buff]:
    """Each with its own length; [] if the packet cannot be cut."""
    if not skb.gso_type & SKB_GSO_UDP_L4:
        return []
    segs = udp_offload.udp6_ufo_fragment(skb)
    for seg in segs:
        nh = seg.network_header
        length = seg.tail - nh - IPV6HDR_LEN
        cast(bytearray, seg.head)[nh + 4 : nh + 6] = length.to_bytes(2, "big")
        seg.h_iph = ipv6hdr_at(seg.head, nh)
    return segs
