# SPDX-License-Identifier: GPL-2.0-or-later
"""Receiving IPv6: net/ipv6/ip6_input.c.

    ipv6_rcv -> ip6_rcv_core (RFC 8200 section 3: every check; hop-by-hop options) -> ip6_rcv_finish (route)
      -> ip6_input | ip6_mc_input -> ip6_input_finish -> ip6_protocol_deliver_rcu -> handler after handler

Extension headers and upper protocols are in one table (``net.inet6_protos``): a handler of the first kind returns 1
and leaves the place of the next header in ``inet6_skb_parm.nhoff`` and ``skb.transport_header``.  The chain of
headers is as long as the packet at most, each being 8 bytes or more. """

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_IP_INHDR,
    SKB_DROP_REASON_IP_NOPROTO,
    SKB_DROP_REASON_IPV6DISABLED,
    SKB_DROP_REASON_MULTICAST_IGNORED,
    SKB_DROP_REASON_OTHERHOST,
    SKB_DROP_REASON_PKT_TOO_SMALL,
)
from stack.include.ipv6 import (
    ICMPV6_UNK_NEXTHDR,
    INET6_PROTO_FINAL,
    IPV6HDR_LEN,
    IPV6HDR_STRUCT,
    NEXTHDR_HOP,
    NEXTHDR_NONE,
    ipv6_addr_is_multicast,
    ipv6_addr_loopback,
    ipv6_addr_mc_scope,
    ipv6hdr,
)
from stack.include.netdevice import IFF_LOOPBACK
from stack.include.sk_buff import PACKET_OTHERHOST
from stack.include.snmp import (
    IP6_INC_STATS,
    IP6_UPD_PO_STATS,
    IPSTATS_MIB_INDELIVERS,
    IPSTATS_MIB_INDISCARDS,
    IPSTATS_MIB_INHDRERRORS,
    IPSTATS_MIB_INMCASTOCTETS,
    IPSTATS_MIB_INMCASTPKTS,
    IPSTATS_MIB_INOCTETS,
    IPSTATS_MIB_INPKTS,
    IPSTATS_MIB_INTRUNCATEDPKTS,
    IPSTATS_MIB_INUNKNOWNPROTOS,
    IPSTATS_MIB_NOECTPKTS,
)
from stack.net.core import skbuff
from stack.net.ipv6 import exthdrs, icmp, mcast, route

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

NET_RX_SUCCESS: Final = 0
NET_RX_DROP: Final = 1

_unpack: Final = IPV6HDR_STRUCT.unpack_from


def ipv6_rcv(skb: sk_buff) -> int:
    """The entry of every IPv6 packet; skb.data is at its header."""
    dev = skb.dev
    assert dev is not None
    if not ip6_rcv_core(skb, dev, dev.net):
        return NET_RX_DROP
    return ip6_rcv_finish(dev.net, skb)


def ip6_rcv_core(skb: sk_buff, dev: net_device, net: Stack) -> bool:
    """Check the header and set ``ipv6_hdr(skb)``; False if the packet was dropped.  What is behind the payload's end
    (Ethernet padding) is cut off."""
    if skb.pkt_type == PACKET_OTHERHOST:
        return _drop(skb, SKB_DROP_REASON_OTHERHOST)
    IP6_UPD_PO_STATS(net, IPSTATS_MIB_INPKTS, IPSTATS_MIB_INOCTETS, skb.len)
    if dev.ip6_ptr is None or net.ipv6.sysctl_disable_ipv6:
        IP6_INC_STATS(net, IPSTATS_MIB_INDISCARDS)
        return _drop(skb, SKB_DROP_REASON_IPV6DISABLED)
    if skb.len < IPV6HDR_LEN:
        return _inhdr_error(skb, net)
    hdr = ipv6hdr(*_unpack(skb.head, skb.data))
    if hdr.version != 6:
        return _inhdr_error(skb, net)
    net.mib.ipv6_statistics[IPSTATS_MIB_NOECTPKTS + (hdr.tclass & 3)] += skb.gso_segs or 1
    if not _addresses_ok(hdr, dev):
        return _inhdr_error(skb, net)
    skb.h_iph = hdr
    skb.transport_header = skb.data + IPV6HDR_LEN
    skb.cb = exthdrs.inet6_skb_parm()
    if not _trim(skb, net, hdr):
        return False
    return hdr.nexthdr != NEXTHDR_HOP or exthdrs.ipv6_parse_hopopts(skb)


def _addresses_ok(hdr: ipv6hdr, dev: net_device) -> bool:
    """RFC 4291, sections 2.5.3 and 2.7: ::1 never comes over a link, a group is no source, scope 0 is reserved and
    scope 1 stays within the node."""
    saddr, daddr = hdr.saddr, hdr.daddr
    loopback = dev.flags & IFF_LOOPBACK != 0
    if not loopback and (ipv6_addr_loopback(saddr) or ipv6_addr_loopback(daddr)):
        return False
    if ipv6_addr_is_multicast(saddr):
        return False
    if ipv6_addr_is_multicast(daddr):
        scope = ipv6_addr_mc_scope(daddr)
        return scope != 0 and (scope != 1 or loopback)
    return True


def _trim(skb: sk_buff, net: Stack, hdr: ipv6hdr) -> bool:
    """The packet's end by its own length; 0 with hop-by-hop options announces a jumbogram (exthdrs.py)."""
    if not hdr.payload_len and hdr.nexthdr == NEXTHDR_HOP:
        return True
    total = hdr.payload_len + IPV6HDR_LEN
    if total > skb.len:
        IP6_INC_STATS(net, IPSTATS_MIB_INTRUNCATEDPKTS)
        return _drop(skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    if total < skb.len:
        skb.tail = skb.data + total
        skb.len = total
    return True


def _inhdr_error(skb: sk_buff, net: Stack) -> bool:
    IP6_INC_STATS(net, IPSTATS_MIB_INHDRERRORS)
    return _drop(skb, SKB_DROP_REASON_IP_INHDR)


def _drop(skb: sk_buff, reason: int) -> bool:
    skbuff.kfree_skb_reason(skb, reason)
    return False


def ip6_rcv_finish(net: Stack, skb: sk_buff) -> int:
    """Find the packet's route and hand it there."""
    dst = skb._skb_refdst
    if dst is None or dst.input is None:
        route.ip6_route_input(skb)
        dst = skb._skb_refdst
    assert dst is not None
    assert dst.input is not None
    return dst.input(skb)


def ip6_input(skb: sk_buff) -> int:
    """The packet is for this host."""
    assert skb.dev is not None
    return ip6_input_finish(skb.dev.net, skb)


def ip6_mc_input(skb: sk_buff) -> int:
    """It is for a group; one that the device is not in is no error."""
    assert skb.dev is not None
    IP6_UPD_PO_STATS(skb.dev.net, IPSTATS_MIB_INMCASTPKTS, IPSTATS_MIB_INMCASTOCTETS, skb.len)
    if mcast.ipv6_chk_mcast_addr(skb.dev, skb.h_iph.daddr):
        return ip6_input(skb)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_MULTICAST_IGNORED)
    return 0


def ip6_input_finish(net: Stack, skb: sk_buff) -> int:
    ip6_protocol_deliver_rcu(net, skb)
    return 0


def ip6_protocol_deliver_rcu(net: Stack, skb: sk_buff) -> None:
    """From header to header until one is final.  skb.data is at the network header on entry and at the transport header
    in each handler.  An unknown value draws a parameter problem."""
    network = skb.network_header
    while True:
        nhoff = exthdrs.IP6CB(skb).nhoff
        nexthdr = skb.head[network + nhoff]
        skb.len -= skb.transport_header - skb.data
        skb.data = skb.transport_header
        ipprot = net.inet6_protos[nexthdr]
        if ipprot is None:
            break
        if ipprot.flags & INET6_PROTO_FINAL:
            IP6_INC_STATS(net, IPSTATS_MIB_INDELIVERS)
            ipprot.handler(skb)
            return
        if ipprot.handler(skb) <= 0:
            return
    if nexthdr == NEXTHDR_NONE:
        IP6_INC_STATS(net, IPSTATS_MIB_INDELIVERS)
        skbuff.consume_skb(skb)
        return
    IP6_INC_STATS(net, IPSTATS_MIB_INUNKNOWNPROTOS)
    icmp.icmpv6_param_prob(skb, ICMPV6_UNK_NEXTHDR, nhoff, SKB_DROP_REASON_IP_NOPROTO)
