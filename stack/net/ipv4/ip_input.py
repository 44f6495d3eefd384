# SPDX-License-Identifier: GPL-2.0-or-later
"""Receiving IPv4: net/ipv4/ip_input.c.

    ip_rcv -> ip_rcv_core (RFC 1122 section 3.2.1: every check of the header) -> ip_rcv_finish (route, options)
      -> ip_local_deliver (reassembly) -> ip_local_deliver_finish -> ip_protocol_deliver_rcu -> the protocol's handler

The header is unpacked once; its checksum is checked on the unpacked fields, since a sum modulo 65535 may be taken over
32-bit fields as well as 16-bit ones.  A host does not forward: what is for nobody here is counted and dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_IP_CSUM,
    SKB_DROP_REASON_IP_INHDR,
    SKB_DROP_REASON_IP_NOPROTO,
    SKB_DROP_REASON_IP_OPTIONS,
    SKB_DROP_REASON_IP_RPFILTER,
    SKB_DROP_REASON_OTHERHOST,
    SKB_DROP_REASON_PKT_TOO_SMALL,
)
from stack.include.dst import RTN_BROADCAST, RTN_MULTICAST
from stack.include.ip import (
    ICMP_DEST_UNREACH,
    ICMP_PARAMETERPROB,
    ICMP_PROT_UNREACH,
    IP_MF,
    IP_OFFSET,
    IPHDR_STRUCT,
    iphdr,
)
from stack.include.sk_buff import PACKET_OTHERHOST
from stack.include.snmp import (
    IP_INC_STATS,
    IP_UPD_PO_STATS,
    IPSTATS_MIB_CSUMERRORS,
    IPSTATS_MIB_INBCASTOCTETS,
    IPSTATS_MIB_INBCASTPKTS,
    IPSTATS_MIB_INDELIVERS,
    IPSTATS_MIB_INHDRERRORS,
    IPSTATS_MIB_INMCASTOCTETS,
    IPSTATS_MIB_INMCASTPKTS,
    IPSTATS_MIB_INOCTETS,
    IPSTATS_MIB_INPKTS,
    IPSTATS_MIB_INTRUNCATEDPKTS,
    IPSTATS_MIB_INUNKNOWNPROTOS,
    IPSTATS_MIB_NOECTPKTS,
    LINUX_MIB_IPRPFILTER,
    NET_INC_STATS,
)
from stack.net.core import skbuff
from stack.net.ipv4 import icmp, ip_fragment, ip_options, route

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

NET_RX_SUCCESS: Final = 0
NET_RX_DROP: Final = 1

_unpack: Final = IPHDR_STRUCT.unpack_from


def ip_rcv(skb: sk_buff) -> int:
    """The entry of every IPv4 packet; skb.data is at its header."""
    net = skb.dev.net  # type: ignore[union-attr]
    if not ip_rcv_core(skb, net):
        return NET_RX_DROP
    return ip_rcv_finish(net, skb)


def ip_rcv_core(skb: sk_buff, net: Stack) -> bool:
    """Check the header and set ``ip_hdr(skb)``; False if the packet was dropped.  Ethernet padding is cut off."""
    if skb.pkt_type == PACKET_OTHERHOST:
        return _drop(skb, SKB_DROP_REASON_OTHERHOST)
    stats = net.mib.ip_statistics
    stats[IPSTATS_MIB_INPKTS] += 1
    stats[IPSTATS_MIB_INOCTETS] += skb.len
    data = skb.data
    if skb.len < 20:
        return _inhdr_error(skb, net, SKB_DROP_REASON_IP_INHDR)
    ver_ihl, tos, tot_len, ident, frag_off, ttl, protocol, check, saddr, daddr = _unpack(skb.head, data)
    ihl = (ver_ihl & 15) * 4
    if ver_ihl >> 4 != 4 or ihl < 20:
        return _inhdr_error(skb, net, SKB_DROP_REASON_IP_INHDR)
    # IpExt counts not-ECT, ECT(1), ECT(0) and CE in the order of the two bits.
    stats[IPSTATS_MIB_NOECTPKTS + (tos & 3)] += skb.gso_segs or 1
    if ihl > skb.len:
        return _inhdr_error(skb, net, SKB_DROP_REASON_IP_INHDR)
    total = (ver_ihl << 8) + tos + tot_len + ident + frag_off + (ttl << 8) + protocol + check + saddr + daddr
    if ihl > 20:
        total += int.from_bytes(skb.head[data + 20 : data + ihl], "big")
    if total % 65535:
        IP_INC_STATS(net, IPSTATS_MIB_CSUMERRORS)
        return _inhdr_error(skb, net, SKB_DROP_REASON_IP_CSUM)
    if skb.len < tot_len:
        IP_INC_STATS(net, IPSTATS_MIB_INTRUNCATEDPKTS)
        return _drop(skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    if tot_len < ihl:
        return _inhdr_error(skb, net, SKB_DROP_REASON_IP_INHDR)
    skb.h_iph = iphdr(ver_ihl, tos, tot_len, ident, frag_off, ttl, protocol, check, saddr, daddr)
    if tot_len < skb.len:
        skb.tail = data + tot_len
        skb.len = tot_len
    skb.transport_header = data + ihl
    return True


def _inhdr_error(skb: sk_buff, net: Stack, reason: int) -> bool:
    IP_INC_STATS(net, IPSTATS_MIB_INHDRERRORS)
    return _drop(skb, reason)


def _drop(skb: sk_buff, reason: int) -> bool:
    skbuff.kfree_skb_reason(skb, reason)
    return False


def ip_rcv_finish(net: Stack, skb: sk_buff) -> int:
    """Find the packet's route and hand it there."""
    if not ip_rcv_finish_core(net, skb):
        return NET_RX_DROP
    dst = skb._skb_refdst
    assert dst is not None
    assert dst.input is not None
    return dst.input(skb)


def ip_rcv_finish_core(net: Stack, skb: sk_buff) -> bool:
    """False if the packet was dropped: no route takes it, or its options are wrong or ask for source routing."""
    iph: iphdr = skb.h_iph
    dev = skb.dev
    assert dev is not None
    if skb._skb_refdst is None or skb._skb_refdst.input is None:
        reason = route.ip_route_input(skb, iph.daddr, iph.saddr, iph.tos, dev)
        if reason:
            if reason == SKB_DROP_REASON_IP_RPFILTER:
                NET_INC_STATS(net, LINUX_MIB_IPRPFILTER)
            return _drop(skb, reason)
    if iph.ihl > 5 and not ip_rcv_options(net, skb):
        return False
    rt: Any = skb._skb_refdst
    if rt.rt_type == RTN_BROADCAST:
        IP_UPD_PO_STATS(net, IPSTATS_MIB_INBCASTPKTS, IPSTATS_MIB_INBCASTOCTETS, skb.len)
    elif rt.rt_type == RTN_MULTICAST:
        IP_UPD_PO_STATS(net, IPSTATS_MIB_INMCASTPKTS, IPSTATS_MIB_INMCASTOCTETS, skb.len)
    return True


def ip_rcv_options(net: Stack, skb: sk_buff) -> bool:
    """Parse and check the options (RFC 1122, section 3.2.1.8); a wrong one draws a parameter problem.  Source routes
    are refused (accept_source_route=0)."""
    iph: iphdr = skb.h_iph
    data = bytes(skb.head[skb.network_header + 20 : skb.network_header + iph.ihl * 4])
    opt, problem = ip_options.ip_options_compile(net, data, skb)
    if problem:
        icmp.icmp_send(skb, ICMP_PARAMETERPROB, 0, problem << 24)
        return _inhdr_error(skb, net, SKB_DROP_REASON_IP_INHDR)
    skb.ip_opt = opt
    if opt.is_changed:
        at = skb.network_header + 20
        head = bytearray(skb.head)
        head[at : at + len(opt.data)] = opt.data
        skb.head = head
    if opt.srr and not net.ipv4.sysctl_accept_source_route:
        return _drop(skb, SKB_DROP_REASON_IP_OPTIONS)
    return True


def ip_local_deliver(skb: sk_buff) -> int:
    """The packet is for this host: collect fragments first."""
    net = skb.dev.net  # type: ignore[union-attr]
    iph: iphdr = skb.h_iph
    if iph.frag_off & (IP_MF | IP_OFFSET):
        whole = ip_fragment.ip_defrag(net, skb)
        if whole is None:
            return 0
        skb = whole
    return ip_local_deliver_finish(net, skb)


def ip_local_deliver_finish(net: Stack, skb: sk_buff) -> int:
    """Step over the header and deliver by protocol."""
    iph: iphdr = skb.h_iph
    ihl = iph.ihl * 4
    skb.data += ihl
    skb.len -= ihl
    skb.transport_header = skb.data
    ip_protocol_deliver_rcu(net, skb, iph.protocol)
    return 0


def ip_protocol_deliver_rcu(net: Stack, skb: sk_buff, protocol: int) -> None:
    """To the protocol's handler; an unknown protocol draws an ICMP protocol unreachable."""
    ipprot = net.inet_protos[protocol]
    if ipprot is not None:
        net.mib.ip_statistics[IPSTATS_MIB_INDELIVERS] += 1
        ipprot.handler(skb)
        return
    IP_INC_STATS(net, IPSTATS_MIB_INUNKNOWNPROTOS)
    icmp.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PROT_UNREACH, 0)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IP_NOPROTO)
