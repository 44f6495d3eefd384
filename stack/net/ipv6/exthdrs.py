# SPDX-License-Identifier: GPL-2.0-or-later
"""Extension headers of received packets: net/ipv6/exthdrs.c (RFC 8200 section 4, RFC 5095 for routing type 0).

Options (section 4.2): an unknown one says in its two top bits what becomes of the packet - skipped, dropped, dropped
with a parameter problem, or that only if it was not sent to a group.  Padding is at most 7 bytes a run and zero, and at
most max_dst_opts_number (max_hbh_opts_number) options are looked at, so that a header of 2 KB of one-byte options costs
no more than a short one.

A routing header whose segments are used up is stepped over; any other is refused with a parameter problem, as we are no
router and source routing is off.  Those of types that are off (segments) or for hosts that we are none of (mobile ones)
are dropped.

A handler returns 1 to go on with the next header, whose place it has left in ``inet6_skb_parm.nhoff`` and
``skb.transport_header``; -1 if the packet is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dropreason import SKB_DROP_REASON_IPV6_BAD_EXTHDR
from stack.include.dst import rt6_info
from stack.include.ipv6 import (
    ICMPV6_HDR_FIELD,
    ICMPV6_UNK_OPTION,
    IPV6_MAXPLEN,
    IPV6_TLV_JUMBO,
    IPV6_TLV_PAD1,
    IPV6_TLV_PADN,
    IPV6_TLV_ROUTERALERT,
    NEXTHDR_DEST,
    NEXTHDR_ROUTING,
    inet6_protocol,
    ipv6_addr_is_multicast,
    ipv6hdr,
)
from stack.include.sk_buff import PACKET_HOST
from stack.include.snmp import IP6_INC_STATS, IPSTATS_MIB_INADDRERRORS, IPSTATS_MIB_INHDRERRORS
from stack.net.core import skbuff
from stack.net.ipv6 import icmp, protocol

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

IP6SKB_FRAGMENTED: Final = 16
IP6SKB_HOPBYHOP: Final = 32
IPV6_SRCRT_TYPE_2: Final = 2
IPV6_SRCRT_TYPE_3: Final = 3  # RPL, RFC 6554
IPV6_SRCRT_TYPE_4: Final = 4  # segment routing, RFC 8754
_MAX_PADDING: Final = 7


class inet6_skb_parm:
    """struct inet6_skb_parm, IP6CB(skb): ``nhoff`` is where the current header's value stands, from the network
    header on; ``ra`` the value of a router alert option, -1 without one; ``dropcount`` and
    ``peeked`` as in inet_skb_parm."""

    __slots__ = ("dropcount", "flags", "frag_max_size", "nhoff", "peeked", "ra", "srcrt")

    def __init__(self) -> None:
        self.nhoff = 6  # offsetof(struct ipv6hdr, nexthdr)
        self.flags = 0
        self.frag_max_size = 0
        self.dropcount = 0
        self.peeked = False
        self.srcrt = 0
        self.ra = -1


def IP6CB(skb: sk_buff) -> inet6_skb_parm:
    parm: inet6_skb_parm = skb.cb
    return parm


def ipv6_exthdrs_init(net: Stack) -> None:
    protocol.inet6_add_protocol(net, inet6_protocol(ipv6_rthdr_rcv, flags=0), NEXTHDR_ROUTING)
    protocol.inet6_add_protocol(net, inet6_protocol(ipv6_destopt_rcv, flags=0), NEXTHDR_DEST)


def _net(skb: sk_buff) -> Stack:
    assert skb.dev is not None
    return skb.dev.net


def _bad(skb: sk_buff) -> bool:
    IP6_INC_STATS(_net(skb), IPSTATS_MIB_INHDRERRORS)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IPV6_BAD_EXTHDR)
    return False


def _param_prob(skb: sk_buff, code: int, at: int) -> bool:
    """Refuse the packet for the byte at head offset ``at``."""
    IP6_INC_STATS(_net(skb), IPSTATS_MIB_INHDRERRORS)
    icmp.icmpv6_param_prob(skb, code, at - skb.network_header, SKB_DROP_REASON_IPV6_BAD_EXTHDR)
    return False


# -- options -----------------------------------------------------------------------------------------------------------


def ip6_parse_tlv(skb: sk_buff, hopbyhop: bool, start: int, end: int, max_count: int) -> bool:
    """Work the options from ``start`` to ``end`` of the head; False if the packet is gone."""
    head = skb.head
    padding = 0
    while start < end:
        kind = head[start]
        if kind == IPV6_TLV_PAD1:
            start += 1
            padding += 1
            if padding > _MAX_PADDING:
                return _bad(skb)
            continue
        if end - start < 2:
            return _bad(skb)
        size = head[start + 1] + 2
        if size > end - start:
            return _bad(skb)
        if kind == IPV6_TLV_PADN:
            padding += size
            if padding > _MAX_PADDING or any(head[start + 2 : start + size]):
                return _bad(skb)
        else:
            max_count -= 1
            if max_count < 0:
                return _bad(skb)
            if not (_hop_option(skb, kind, start) if hopbyhop else ip6_tlvopt_unknown(skb, start)):
                return False
            padding = 0
        start += size
    return True


def _hop_option(skb: sk_buff, kind: int, at: int) -> bool:
    if kind == IPV6_TLV_ROUTERALERT:
        return ipv6_hop_ra(skb, at)
    if kind == IPV6_TLV_JUMBO:
        return ipv6_hop_jumbo(skb, at)
    return ip6_tlvopt_unknown(skb, at)


def ip6_tlvopt_unknown(skb: sk_buff, at: int) -> bool:
    """True if the option says that it may be skipped; else the packet goes as its top bits say."""
    action = skb.head[at] >> 6
    if action == 0:
        return True
    hdr: ipv6hdr = skb.h_iph
    if action == 1 or (action == 3 and (ipv6_addr_is_multicast(hdr.daddr) or skb.pkt_type != PACKET_HOST)):
        return _bad(skb)
    return _param_prob(skb, ICMPV6_UNK_OPTION, at)


def ipv6_hop_ra(skb: sk_buff, at: int) -> bool:
    """Router alert (RFC 2711): noted."""
    if skb.head[at + 1] != 2:
        return _bad(skb)
    IP6CB(skb).ra = int.from_bytes(skb.head[at + 2 : at + 4], "big")
    return True


def ipv6_hop_jumbo(skb: sk_buff, at: int) -> bool:
    """Jumbo payload (RFC 2675).  No frame here can hold one, so each ends in an error of its kind."""
    hdr: ipv6hdr = skb.h_iph
    if skb.head[at + 1] != 4 or (at - skb.network_header) & 3 != 2:
        return _bad(skb)
    length = int.from_bytes(skb.head[at + 2 : at + 6], "big")
    if length <= IPV6_MAXPLEN:
        return _param_prob(skb, ICMPV6_HDR_FIELD, at + 2)
    if hdr.payload_len:
        return _param_prob(skb, ICMPV6_HDR_FIELD, at)
    return _bad(skb)  # it claims more than there is


def _ext_end(skb: sk_buff) -> int:
    """The end of the extension header at the transport header; 0 if it is not all there."""
    at = skb.transport_header
    if at + 8 > skb.tail:
        return 0
    end = at + (skb.head[at + 1] + 1) * 8
    return end if end <= skb.tail else 0


def ipv6_parse_hopopts(skb: sk_buff) -> bool:
    """Hop-by-hop options, right behind the IPv6 header; False if the packet is gone."""
    at = skb.transport_header
    end = _ext_end(skb)
    if not end:
        return _bad(skb)
    parm = IP6CB(skb)
    parm.flags |= IP6SKB_HOPBYHOP
    if not ip6_parse_tlv(skb, True, at + 2, end, _net(skb).ipv6.sysctl_max_hbh_opts_number):
        return False
    skb.transport_header = end
    parm.nhoff = at - skb.network_header
    return True


def ipv6_destopt_rcv(skb: sk_buff) -> int:
    """Destination options."""
    at = skb.transport_header
    end = _ext_end(skb)
    if not end:
        _bad(skb)
        return -1
    if not ip6_parse_tlv(skb, False, at + 2, end, _net(skb).ipv6.sysctl_max_dst_opts_number):
        return -1
    skb.transport_header = end
    IP6CB(skb).nhoff = at - skb.network_header
    return 1


def ipv6_rthdr_rcv(skb: sk_buff) -> int:
    """A routing header: see the head of the file."""
    at = skb.transport_header
    end = _ext_end(skb)
    if not end:
        _bad(skb)
        return -1
    hdr: ipv6hdr = skb.h_iph
    if ipv6_addr_is_multicast(hdr.daddr) or skb.pkt_type != PACKET_HOST:
        _bad(skb)
        return -1
    if skb.head[at + 2] == IPV6_SRCRT_TYPE_2:
        # A home address of mobile IPv6 (RFC 6275, section 6.4), of which we have none.
        IP6_INC_STATS(_net(skb), IPSTATS_MIB_INADDRERRORS)
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IPV6_BAD_EXTHDR)
        return -1
    if skb.head[at + 2] in (IPV6_SRCRT_TYPE_3, IPV6_SRCRT_TYPE_4):
        # Routing by segments is for devices that have it enabled (RFC 6554, RFC 8754), and ours have not.
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IPV6_BAD_EXTHDR)
        return -1
    if skb.head[at + 3]:  # segments left
        _param_prob(skb, ICMPV6_HDR_FIELD, at + 2)
        return -1
    IP6CB(skb).srcrt = at - skb.network_header
    skb.transport_header = end
    IP6CB(skb).nhoff = at - skb.network_header
    return 1


def route_of(skb: sk_buff) -> rt6_info:
    """skb_rt6_info(): a received packet's route."""
    rt = skb._skb_refdst
    assert isinstance(rt, rt6_info)
    return rt
