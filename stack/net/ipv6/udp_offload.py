# SPDX-License-Identifier: GPL-2.0-or-later
"""net/ipv6/udp_offload.c; net/ipv4/udp_offload.py says how packets of many datagrams are cut."""

from __future__ import annotations

from stack.include.sk_buff import sk_buff
from stack.net.ipv4.udp_offload import __udp_gso_segment


def udp6_ufo_fragment(skb: sk_buff) -> list[sk_buff]:
    """The datagrams of a packet over IPv6; [] if it is none."""
    return __udp_gso_segment(skb)
