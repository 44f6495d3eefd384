# SPDX-License-Identifier: GPL-2.0-or-later
"""Sending IPv6: net/ipv6/ip6_output.c.

    ip6_xmit (TCP: a socket's packet, a SYN-ACK, a RST) | ip6_send_skb (a datagram, ICMPv6)
      -> ip6_local_out -> __ip6_local_out (length, header) -> dst_output -> ip6_output -> ip6_finish_output
      -> ip6_fragment (if it must) -> ip6_finish_output2 -> the neighbour -> dev_queue_xmit

Flow labels (RFC 6437): a packet whose flow has none gets 20 bits of its hash, unless the socket or auto_flowlabels says
otherwise.  A connection's hash is a random number that changes when its path seems bad (sk_txhash); what belongs to no
connection has a keyed hash of its addresses, protocol and ports, so that labels are stable for a flow and say nothing
about others.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, cast

from stack.include.dropreason import (
    SKB_DROP_REASON_IP_OUTNOROUTES,
    SKB_DROP_REASON_NEIGH_CREATEFAIL,
    SKB_DROP_REASON_PKT_TOO_BIG,
)
from stack.include.dst import dst_mtu, dst_output, flowi6, rt6_info
from stack.include.inet_sock import inet_sock
from stack.include.ip import ETH_P_IPV6
from stack.include.ipv6 import (
    FRAG_HDR_STRUCT,
    IP6_AUTO_FLOW_LABEL_FORCED,
    IP6_AUTO_FLOW_LABEL_OPTOUT,
    IP6_MF,
    IPV6_FLOWLABEL_MASK,
    IPV6_FLOWLABEL_STATELESS_FLAG,
    IPV6_MAXPLEN,
    IPV6_MIN_MTU,
    IPV6HDR_LEN,
    IPV6HDR_STRUCT,
    NEXTHDR_DEST,
    NEXTHDR_FRAGMENT,
    NEXTHDR_HOP,
    NEXTHDR_ROUTING,
    ipv6_addr_is_multicast,
    ipv6_pinfo,
    ipv6_txoptions,
    ipv6hdr,
    ipv6hdr_pack,
)
from stack.include.neighbour import NUD_CONNECTED
from stack.include.sk_buff import CHECKSUM_PARTIAL, MAX_TCP_HEADER, alloc_skb, sk_buff
from stack.include.snmp import (
    IP6_INC_STATS,
    IP6_UPD_PO_STATS,
    IPSTATS_MIB_FRAGCREATES,
    IPSTATS_MIB_FRAGFAILS,
    IPSTATS_MIB_FRAGOKS,
    IPSTATS_MIB_OUTMCASTOCTETS,
    IPSTATS_MIB_OUTMCASTPKTS,
    IPSTATS_MIB_OUTNOROUTES,
    IPSTATS_MIB_OUTOCTETS,
    IPSTATS_MIB_OUTPKTS,
    IPSTATS_MIB_OUTREQUESTS,
)
from stack.net.core import dev as net_core_dev
from stack.net.core import neighbour, skbuff
from stack.net.ipv6 import ndisc, route

if TYPE_CHECKING:
    from stack.include.sock import sock
    from stack.stack import Stack

_pack_into: Final = IPV6HDR_STRUCT.pack_into
_PRIME: Final = (1 << 61) - 1


# -- the header --------------------------------------------------------------------------------------------------------


def ip6_default_np_autolabel(net: Stack) -> bool:
    """include/net/ipv6.h: whether sockets that say nothing get labels."""
    return net.ipv6.sysctl_auto_flowlabels in (IP6_AUTO_FLOW_LABEL_OPTOUT, IP6_AUTO_FLOW_LABEL_FORCED)


def ip6_autoflowlabel(net: Stack, np: ipv6_pinfo | None) -> bool:
    """Whether the socket's packets get labels."""
    return np.autoflowlabel if np is not None and np.autoflowlabel_set else ip6_default_np_autolabel(net)


def ip6_make_flowlabel(net: Stack, skb: sk_buff, flowlabel: int, np: ipv6_pinfo | None, fl6: flowi6) -> int:
    """include/net/ipv6.h: the label that is given, else one made from the packet's hash, else 0."""
    if flowlabel:
        return flowlabel
    mode = net.ipv6.sysctl_auto_flowlabels
    if not mode or (mode != IP6_AUTO_FLOW_LABEL_FORCED and not ip6_autoflowlabel(net, np)):
        return 0
    label = (skb.hash or _flow_hash(net, fl6)) >> 12  # the kernel takes other bits of the hash, as random as these
    return label | IPV6_FLOWLABEL_STATELESS_FLAG if net.ipv6.sysctl_flowlabel_state_ranges else label


def _flow_hash(net: Stack, fl6: flowi6) -> int:
    """skb_get_hash_flowi6(): 32 bits that say nothing of the flow to who does not know the key."""
    ports = fl6.flowi6_proto << 32 | fl6.fl6_sport << 16 | fl6.fl6_dport
    key = net.inet_ehash_secret | 1 << 33
    mixed = ((fl6.saddr * key ^ fl6.daddr) * key ^ ports) * key % _PRIME
    return (mixed ^ mixed >> 20) & 0xFFFFFFFF or 1


def ip6_push_hdr(skb: sk_buff, tclass: int, label: int, nexthdr: int, hlimit: int, saddr: int, daddr: int) -> None:
    """Claim room for the header in front of the packet; its length comes later."""
    data = skb.data - IPV6HDR_LEN
    if data < 0:
        raise ValueError("no room for an IPv6 header in front of the packet")
    skb.data = skb.network_header = data
    skb.len += IPV6HDR_LEN
    hdr = ipv6hdr(0x60000000 | tclass << 20 | label, 0, nexthdr, hlimit, b"", b"")
    hdr.saddr, hdr.daddr = saddr, daddr
    skb.h_iph = hdr


def ipv6_push_opts(skb: sk_buff, opt: ipv6_txoptions, nexthdr: int) -> int:
    """The socket's own extension headers, innermost first; returns the first one's value (exthdrs.c:
    ipv6_push_frag_opts, ipv6_push_nfrag_opts)."""
    head = cast(bytearray, skb.head)
    for kind, raw in ((NEXTHDR_DEST, opt.dst1opt), (NEXTHDR_DEST, opt.dst0opt), (NEXTHDR_HOP, opt.hopopt)):
        if raw:
            data = skb.data - len(raw)
            if data < 0:
                raise ValueError("no room for extension headers in front of the packet")
            head[data : skb.data] = raw
            head[data] = nexthdr
            nexthdr = kind
            skb.len += len(raw)
            skb.data = data
    return nexthdr


# -- entries -----------------------------------------------------------------------------------------------------------


def ip6_xmit(sk: sock, skb: sk_buff, fl6: flowi6, mark: int, opt: ipv6_txoptions | None, tclass: int) -> int:
    """Send a packet of TCP; skb.data is at the transport header, its checksum done or partial.  The packet's route is
    used if it has one, else that of ``fl6``.  0 or a negative errno."""
    net = sk.sk_net
    dst = skb._skb_refdst
    if dst is None:
        found = route.ip6_route_output(net, sk, fl6)
        if isinstance(found, int):
            IP6_INC_STATS(net, IPSTATS_MIB_OUTNOROUTES)
            skb.sk = skb.sk or sk  # the packet has neither route nor device to say whose it was
            skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IP_OUTNOROUTES)
            return found
        dst = skb._skb_refdst = found
    np = sk.pinet6 if isinstance(sk, inet_sock) else None
    hlimit = np.hop_limit if np is not None else -1
    if hlimit < 0:
        hlimit = route.ip6_dst_hoplimit(dst)
    nexthdr = fl6.flowi6_proto
    if opt is not None:
        nexthdr = ipv6_push_opts(skb, opt, nexthdr)
    label = ip6_make_flowlabel(net, skb, fl6.flowlabel & IPV6_FLOWLABEL_MASK, np, fl6)
    ip6_push_hdr(skb, tclass, label, nexthdr, hlimit, fl6.saddr, fl6.daddr)
    skb.priority = sk.sk_priority
    skb.mark = mark
    return ip6_local_out(net, sk, skb)


def ip6_dst_lookup_flow(net: Stack, sk: sock | None, fl6: flowi6, final_dst: int | None = None) -> rt6_info | int:
    """The flow's route, through ``final_dst`` if that is given; ``fl6.saddr`` is filled in.  A negative errno counts in
    OutNoRoutes if it is ENETUNREACH."""
    if final_dst is not None:
        fl6.daddr = final_dst
    rt = route.ip6_route_output(net, sk, fl6)
    if rt == -errno.ENETUNREACH:
        IP6_INC_STATS(net, IPSTATS_MIB_OUTNOROUTES)
    return rt


def ip6_make_skb(
    net: Stack,
    sk: sock | None,
    transport: bytes,
    data: bytes | bytearray | memoryview,
    rt: rt6_info,
    fl6: flowi6,
    tclass: int,
    hlimit: int,
) -> sk_buff | int:
    """One datagram behind an IPv6 header, its checksum done by the caller; -EMSGSIZE above 65535 bytes of payload."""
    length = len(transport) + len(data)
    if length > IPV6_MAXPLEN:
        return -errno.EMSGSIZE
    skb = alloc_skb(MAX_TCP_HEADER + length)
    skb.data -= length
    cast(bytearray, skb.head)[skb.data : skb.tail] = transport + bytes(data)
    skb.len = length
    skb.transport_header = skb.data
    skb._skb_refdst = rt
    np = sk.pinet6 if isinstance(sk, inet_sock) else None
    label = ip6_make_flowlabel(net, skb, fl6.flowlabel & IPV6_FLOWLABEL_MASK, np, fl6)
    ip6_push_hdr(skb, tclass, label, fl6.flowi6_proto, hlimit, fl6.saddr, fl6.daddr)
    if sk is not None:
        skb.priority, skb.mark = sk.sk_priority, sk.sk_mark
    return skb


def ip6_send_skb(net: Stack, skb: sk_buff) -> int:
    """Send a finished datagram; a local congestion code is not an error of the datagram."""
    return min(ip6_local_out(net, skb.sk, skb), 0)


# -- the way down ------------------------------------------------------------------------------------------------------


def ip6_local_out(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    return __ip6_local_out(net, sk, skb)


def __ip6_local_out(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """Set the length, write the header, hand the packet to its route (output_core.c)."""
    hdr: ipv6hdr = skb.h_iph
    length = skb.len - IPV6HDR_LEN
    hdr.payload_len = length if length <= IPV6_MAXPLEN else 0
    _pack_into(
        skb.head,
        skb.data,
        0x60000000 | hdr.tclass << 20 | hdr.flowlabel,
        hdr.payload_len,
        hdr.nexthdr,
        hdr.hop_limit,
        hdr.saddr.to_bytes(16, "big"),
        hdr.daddr.to_bytes(16, "big"),
    )
    net.mib.ipv6_statistics[IPSTATS_MIB_OUTREQUESTS] += 1
    skb.protocol = ETH_P_IPV6
    return dst_output(net, sk, skb)


def ip6_output(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """By the route's device."""
    skb.dev = skb._skb_refdst.dev  # type: ignore[union-attr]
    return ip6_finish_output(net, sk, skb)


def ip6_finish_output(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """GSO frames go whole; larger ones than the path takes are fragmented.  What leaves is counted here rather than in
    ip6_finish_output2, where a fragment is like a packet."""
    if not skb.gso_size and skb.len > IPV6_MIN_MTU:
        mtu = dst_mtu(skb._skb_refdst)  # type: ignore[arg-type]
        if skb.len > mtu:
            return ip6_fragment(net, sk, skb, mtu)
    stats = net.mib.ipv6_statistics
    stats[IPSTATS_MIB_OUTPKTS] += 1
    stats[IPSTATS_MIB_OUTOCTETS] += skb.len
    return ip6_finish_output2(net, sk, skb)


def ip6_finish_output2(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """Find the next hop's link address and send."""
    rt = cast(rt6_info, skb._skb_refdst)
    daddr: int = skb.h_iph.daddr
    if ipv6_addr_is_multicast(daddr):
        IP6_UPD_PO_STATS(net, IPSTATS_MIB_OUTMCASTPKTS, IPSTATS_MIB_OUTMCASTOCTETS, skb.len)
    neigh = rt.rt6i_neigh
    if neigh is None or neigh.dead:
        neigh = ndisc.ip6_neigh_for_gw(rt, daddr)
        if neigh is None:
            skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NEIGH_CREATEFAIL)
            return -errno.EINVAL
        rt.rt6i_neigh = neigh
    if skb.dst_pending_confirm:
        neighbour.sock_confirm_neigh(skb, neigh)
    if neigh.nud_state & NUD_CONNECTED:
        # neigh_hh_output(): the ready Ethernet header, then the device.
        data = skb.data - 14
        skb.head[data : skb.data] = neigh.hh  # type: ignore[index]
        skb.data = skb.mac_header = data
        skb.len += 14
        return net_core_dev.dev_queue_xmit(skb)
    return neighbour.neigh_resolve_output(neigh, skb)


# -- fragmentation -----------------------------------------------------------------------------------------------------


def ip6_find_1stfragopt(whole: bytes) -> tuple[int, int]:
    """The length of the unfragmentable part, and where its last next-header byte stands (RFC 8200, section 4.5)."""
    at, prev, nexthdr = IPV6HDR_LEN, 6, whole[6]
    while nexthdr in (NEXTHDR_HOP, NEXTHDR_ROUTING) and at + 8 <= len(whole):
        prev, nexthdr = at, whole[at]
        at += (whole[at + 1] + 1) * 8
    return at, prev


def ip6_fragment(net: Stack, sk: sock | None, skb: sk_buff, mtu: int) -> int:
    """Send the packet as fragments of at most ``mtu`` bytes: the sender's work in IPv6."""
    by_fragment = net.profile.octets_by_fragment
    if not by_fragment:
        IP6_UPD_PO_STATS(net, IPSTATS_MIB_OUTPKTS, IPSTATS_MIB_OUTOCTETS, skb.len)
    if skb.ip_summed == CHECKSUM_PARTIAL:
        skbuff.skb_checksum_help(skb)
    whole = skbuff.skb_linear_bytes(skb)
    hlen, prev = ip6_find_1stfragopt(whole)
    step = (mtu - hlen - FRAG_HDR_STRUCT.size) & ~7
    if step < 8:
        IP6_INC_STATS(net, IPSTATS_MIB_FRAGFAILS)
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_PKT_TOO_BIG)
        return -errno.EMSGSIZE
    headers = bytearray(whole[:hlen])
    nexthdr, headers[prev] = headers[prev], NEXTHDR_FRAGMENT
    ident = ipv6_select_ident(net)
    payload = memoryview(whole)[hlen:]
    err = 0
    for offset in range(0, len(payload), step):
        piece = payload[offset : offset + step]
        more = IP6_MF if offset + step < len(payload) else 0
        part = headers + FRAG_HDR_STRUCT.pack(nexthdr, 0, offset | more, ident) + piece
        if by_fragment:
            IP6_UPD_PO_STATS(net, IPSTATS_MIB_OUTPKTS, IPSTATS_MIB_OUTOCTETS, len(part))
        err = _send_fragment(net, sk, skb, part)
        if err:
            break
        IP6_INC_STATS(net, IPSTATS_MIB_FRAGCREATES)
    IP6_INC_STATS(net, IPSTATS_MIB_FRAGFAILS if err else IPSTATS_MIB_FRAGOKS)
    skbuff.consume_skb(skb)
    return err


def ipv6_select_ident(net: Stack) -> int:
    """output_core.c: never 0, never to be guessed (RFC 7739)."""
    return net.rng.get_random_u32() or 1


def _send_fragment(net: Stack, sk: sock | None, skb: sk_buff, part: bytearray) -> int:
    old: ipv6hdr = skb.h_iph
    frag = alloc_skb(MAX_TCP_HEADER + len(part))
    frag.data = frag.network_header = frag.data - len(part)
    frag.len = len(part)
    part[4:6] = (len(part) - IPV6HDR_LEN).to_bytes(2, "big")
    cast(bytearray, frag.head)[frag.data : frag.tail] = part
    frag.h_iph = ipv6hdr(*IPV6HDR_STRUCT.unpack_from(ipv6hdr_pack(old)))
    frag.h_iph.payload_len, frag.h_iph.nexthdr = len(part) - IPV6HDR_LEN, part[6]
    frag._skb_refdst, frag.dev, frag.protocol = skb._skb_refdst, skb.dev, ETH_P_IPV6
    frag.priority, frag.mark = skb.priority, skb.mark
    return ip6_finish_output2(net, sk, frag)
