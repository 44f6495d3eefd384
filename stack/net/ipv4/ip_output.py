# SPDX-License-Identifier: GPL-2.0-or-later
"""Sending IPv4: net/ipv4/ip_output.c.

    ip_queue_xmit (a socket's packet) | ip_build_and_send_pkt (a SYN-ACK) | ip_send_unicast_reply (a RST, an ACK of
      TIME_WAIT or a request) | ip_send_skb (a datagram)
      -> ip_local_out -> __ip_local_out (length, header checksum) -> dst_output -> ip_output -> ip_finish_output
      -> __ip_finish_output (fragments if it must) -> ip_finish_output2 -> the neighbour -> dev_queue_xmit

The header is a ``struct iphdr`` object on the packet until ``ip_send_check`` packs it into the header room.

The identification field (measured on 6.1; RFC 6864): a packet of a connected socket counts the socket's own
``inet_id`` up, by one per segment of a GSO frame; any other packet with DF has 0 (SYN-ACK, RST, ACK of TIME_WAIT);
a packet that may be fragmented draws from a counter per (destination, source, protocol).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, cast

from stack.include.dropreason import (
    SKB_DROP_REASON_IP_OUTNOROUTES,
    SKB_DROP_REASON_NEIGH_CREATEFAIL,
    SKB_DROP_REASON_PKT_TOO_BIG,
)
from stack.include.dst import (
    RTCF_BROADCAST,
    RTCF_MULTICAST,
    dst_entry,
    dst_mtu,
    dst_output,
    flowi4,
    rtable,
)
from stack.include.inet_sock import (
    IP_PMTUDISC_DO,
    IP_PMTUDISC_PROBE,
    IP_PMTUDISC_WANT,
    inet_sock,
    ip_options,
)
from stack.include.ip import (
    ETH_P_IP,
    ICMP_DEST_UNREACH,
    ICMP_FRAG_NEEDED,
    IP_DF,
    IP_MAX_MTU,
    IP_MF,
    IP_OFFSET,
    IPHDR_STRUCT,
    IPV4_MIN_MTU,
    iphdr,
)
from stack.include.neighbour import NUD_CONNECTED
from stack.include.sk_buff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    MAX_TCP_HEADER,
    alloc_skb,
    sk_buff,
)
from stack.include.snmp import (
    IP_INC_STATS,
    IP_UPD_PO_STATS,
    IPSTATS_MIB_FRAGCREATES,
    IPSTATS_MIB_FRAGFAILS,
    IPSTATS_MIB_FRAGOKS,
    IPSTATS_MIB_OUTBCASTOCTETS,
    IPSTATS_MIB_OUTBCASTPKTS,
    IPSTATS_MIB_OUTDISCARDS,
    IPSTATS_MIB_OUTMCASTOCTETS,
    IPSTATS_MIB_OUTMCASTPKTS,
    IPSTATS_MIB_OUTNOROUTES,
    IPSTATS_MIB_OUTOCTETS,
    IPSTATS_MIB_OUTPKTS,
    IPSTATS_MIB_OUTREQUESTS,
)
from stack.lib.checksum import csum_fold, csum_partial
from stack.net.core import dev as net_core_dev
from stack.net.core import neighbour, skbuff
from stack.net.ipv4 import arp, icmp, route
from stack.net.ipv4 import ip_options as ipv4_options

if TYPE_CHECKING:
    from stack.include.ip import ip_reply_arg
    from stack.include.sock import sock
    from stack.stack import Stack

_pack_into: Final = IPHDR_STRUCT.pack_into


# -- the header --------------------------------------------------------------------------------------------------------


def ip_send_check(skb: sk_buff) -> None:
    """Compute the header checksum and write the header, options included, at the packet's network header."""
    iph: iphdr = skb.h_iph
    head = skb.head
    at = skb.network_header
    ver_ihl = 0x40 | iph.ihl
    total = (
        (ver_ihl << 8)
        + iph.tos
        + iph.tot_len
        + iph.id
        + iph.frag_off
        + (iph.ttl << 8)
        + iph.protocol
        + iph.saddr
        + iph.daddr
    )
    if iph.ihl > 5:
        total += int.from_bytes(head[at + 20 : at + iph.ihl * 4], "big")
    iph.check = check = -total % 65535
    _pack_into(
        head,
        at,
        ver_ihl,
        iph.tos,
        iph.tot_len,
        iph.id,
        iph.frag_off,
        iph.ttl,
        iph.protocol,
        check,
        iph.saddr,
        iph.daddr,
    )


def _push_header(
    net: Stack,
    skb: sk_buff,
    tos: int,
    frag_off: int,
    ttl: int,
    protocol: int,
    saddr: int,
    daddr: int,
    opt: ip_options | None,
) -> iphdr:
    """Claim room for the header in front of the packet; the length, id and checksum come later."""
    optlen = opt.optlen if opt is not None else 0
    data = skb.data - 20 - optlen
    if data < 0:
        raise ValueError("no room for an IPv4 header in front of the packet")
    skb.data = skb.network_header = data
    skb.len += 20 + optlen
    iph = iphdr(0x45 + optlen // 4, tos, 0, 0, frag_off, ttl, protocol, 0, saddr, daddr)
    skb.h_iph = iph
    if opt is not None and optlen:
        head = skb.head
        assert isinstance(head, bytearray)
        head[data + 20 : data + 20 + optlen] = ipv4_options.ip_options_build(net, opt, saddr, daddr)
        if opt.srr:
            iph.daddr = opt.faddr
    return iph


def ip_dont_fragment(sk: inet_sock, dst: dst_entry) -> bool:
    """include/net/ip.h: whether the socket's packets carry DF."""
    pmtudisc = sk.pmtudisc
    return pmtudisc == IP_PMTUDISC_DO or (pmtudisc == IP_PMTUDISC_WANT and not route.ip_mtu_locked(dst))


def ip_select_ttl(inet: inet_sock, dst: dst_entry) -> int:
    return inet.uc_ttl if inet.uc_ttl >= 0 else route.ip4_dst_hoplimit(dst)


def ip_select_ident_segs(net: Stack, iph: iphdr, sk: inet_sock | None, segs: int, ignore_df: bool = False) -> None:
    """Set ``iph.id``: see the head of this file."""
    if sk is not None and sk.sk_daddr:
        iph.id = sk.inet_id
        sk.inet_id = (sk.inet_id + segs) & 0xFFFF
        return
    if iph.frag_off & IP_DF and not ignore_df:
        return
    __ip_select_ident(net, iph, segs)


def __ip_select_ident(net: Stack, iph: iphdr, segs: int) -> None:
    """The shared counters of route.c: a random start each, at most 2048 of them, as ip_idents has at least."""
    table = net.ip_ident_table
    key = (iph.daddr * 0x9E3779B1 ^ iph.saddr * 0x85EBCA77 ^ iph.protocol ^ net.inet_ehash_secret) % 2039
    value = table.get(key)
    if value is None:
        value = net.rng.get_random_u32()
    table[key] = (value + segs) & 0xFFFF
    iph.id = value & 0xFFFF


# -- entries -----------------------------------------------------------------------------------------------------------


def ip_queue_xmit(sk: inet_sock, skb: sk_buff, fl: flowi4 | None) -> int:
    """Send a packet of a connected socket; skb.data is at the transport header.  0 or a negative errno."""
    return __ip_queue_xmit(sk, skb, fl, sk.tos)


def __ip_queue_xmit(sk: inet_sock, skb: sk_buff, fl: flowi4 | None, tos: int) -> int:
    net = sk.sk_net
    rt = skb._skb_refdst
    if rt is None:
        rt = __sk_dst_check(sk)
        if rt is None:
            rt = _route_of_socket(net, sk, fl, tos)
            if rt is None:
                IP_INC_STATS(net, IPSTATS_MIB_OUTNOROUTES)
                skb.sk = skb.sk or sk  # the packet has neither route nor device to say whose it was
                skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IP_OUTNOROUTES)
                return -errno.EHOSTUNREACH
        skb._skb_refdst = rt
    pmtudisc = sk.pmtudisc
    if pmtudisc == IP_PMTUDISC_DO or (pmtudisc == IP_PMTUDISC_WANT and not route.ip_mtu_locked(rt)):
        frag_off = IP_DF
    else:
        frag_off = 0
    ttl = sk.uc_ttl
    if ttl < 0:
        ttl = route.ip4_dst_hoplimit(rt)
    iph = _push_header(
        sk.sk_net, skb, tos, frag_off, ttl, sk.sk_protocol, sk.inet_saddr, sk.sk_daddr, sk.inet_opt
    )
    ip_select_ident_segs(net, iph, sk, skb.gso_segs or 1)
    skb.priority = sk.sk_priority
    skb.mark = sk.sk_mark
    return ip_local_out(net, sk, skb)


def __sk_dst_check(sk: inet_sock) -> dst_entry | None:
    """net/core/sock.c: the socket's cached route, if it is still good."""
    dst = sk.sk_dst_cache
    if dst is not None and dst.ops.check(dst, 0) is None:
        sk.sk_dst_cache = None
        return None
    return dst


def _route_of_socket(net: Stack, sk: inet_sock, fl: flowi4 | None, tos: int) -> rtable | None:
    opt = sk.inet_opt
    daddr = opt.faddr if opt is not None and opt.srr else sk.sk_daddr
    rt = route.ip_route_output_ports(
        net,
        fl if fl is not None else flowi4(),
        sk,
        daddr,
        sk.inet_saddr,
        sk.sk_dport,
        sk.inet_sport,
        sk.sk_protocol,
        tos,
        sk.sk_bound_dev_if,
    )
    if isinstance(rt, int):
        return None
    sk.sk_dst_cache = rt
    return rt


def ip_build_and_send_pkt(
    skb: sk_buff, sk: inet_sock, saddr: int, daddr: int, opt: ip_options | None, tos: int
) -> int:
    """Send a packet that has its route already, for a listener's request: DF and id 0."""
    rt = cast(rtable, skb._skb_refdst)
    net = sk.sk_net
    may_fragment = not ip_dont_fragment(sk, rt)
    ttl = ip_select_ttl(sk, rt)
    iph = _push_header(sk.sk_net, skb, tos, 0 if may_fragment else IP_DF, ttl, sk.sk_protocol, saddr, daddr, opt)
    if may_fragment:
        __ip_select_ident(net, iph, 1)
    skb.priority = sk.sk_priority
    if not skb.mark:
        skb.mark = sk.sk_mark
    return ip_local_out(net, sk, skb)


def ip_send_unicast_reply(
    net: Stack,
    sk: inet_sock | None,
    skb: sk_buff,
    sopt: ip_options | None,
    daddr: int,
    saddr: int,
    arg: ip_reply_arg,
) -> int:
    """Answer the packet ``skb`` without a socket of its own; ``sopt`` are that packet's options, echoed back.  The
    checksum is finished here.  0 or a negative errno."""
    opt = ipv4_options.ip_options_echo(net, sopt, skb) if sopt is not None and sopt.optlen else None
    fl4 = flowi4()
    fl4.flowi4_oif = arg.bound_dev_if
    fl4.daddr = opt.faddr if opt is not None and opt.srr else daddr
    fl4.saddr = saddr
    fl4.flowi4_tos = arg.tos
    fl4.flowi4_proto = ip_hdr_protocol(skb)
    rt = route.ip_route_output_key(net, fl4)
    if isinstance(rt, int):
        return rt
    body = arg.iov
    if arg.csumoffset >= 0:
        at = 2 * arg.csumoffset
        check = csum_fold(csum_partial(body) + arg.csum)
        body[at] = check >> 8
        body[at + 1] = check & 255
    reply = alloc_skb(MAX_TCP_HEADER + len(body))
    reply.data -= len(body)
    reply.len = len(body)
    cast(bytearray, reply.head)[reply.data : reply.tail] = body
    reply.transport_header = reply.data
    reply._skb_refdst = rt
    reply.ip_summed = CHECKSUM_NONE
    _push_header(net, reply, arg.tos, IP_DF, route.ip4_dst_hoplimit(rt), fl4.flowi4_proto, saddr, daddr, opt)
    return ip_local_out(net, sk, reply)


def ip_hdr_protocol(skb: sk_buff) -> int:
    iph: iphdr = skb.h_iph
    return iph.protocol


def ip_send_skb(net: Stack, skb: sk_buff) -> int:
    """Send a finished datagram; 0 or a negative errno, which counts in OutDiscards (-ENOBUFS: the device's queue is
    full)."""
    err = ip_local_out(net, skb.sk, skb)
    if err:
        err = net_core_dev.net_xmit_errno(err) if err > 0 else err
        if err:
            IP_INC_STATS(net, IPSTATS_MIB_OUTDISCARDS)
    return err


# -- the way down ------------------------------------------------------------------------------------------------------


def ip_local_out(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    return __ip_local_out(net, sk, skb)


def __ip_local_out(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """Set the total length, finish the header, hand the packet to its route."""
    skb.h_iph.tot_len = skb.len
    ip_send_check(skb)
    net.mib.ip_statistics[IPSTATS_MIB_OUTREQUESTS] += 1
    skb.protocol = ETH_P_IP
    return dst_output(net, sk, skb)


def ip_output(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """Unicast: by the route's device."""
    skb.dev = skb._skb_refdst.dev  # type: ignore[union-attr]
    return ip_finish_output(net, sk, skb)


def ip_mc_output(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """Broadcast and multicast; a copy for local listeners is not made (no multicast groups here)."""
    rt = cast(rtable, skb._skb_refdst)
    if rt.rt_flags & RTCF_MULTICAST:
        IP_UPD_PO_STATS(net, IPSTATS_MIB_OUTMCASTPKTS, IPSTATS_MIB_OUTMCASTOCTETS, skb.len)
    elif rt.rt_flags & RTCF_BROADCAST:
        IP_UPD_PO_STATS(net, IPSTATS_MIB_OUTBCASTPKTS, IPSTATS_MIB_OUTBCASTOCTETS, skb.len)
    return ip_output(net, sk, skb)


def ip_finish_output(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    return __ip_finish_output(net, sk, skb)


def ip_skb_dst_mtu(sk: sock | None, dst: dst_entry) -> int:
    """include/net/ip.h: the size above which this packet is cut."""
    if isinstance(sk, inet_sock) and sk.pmtudisc >= IP_PMTUDISC_PROBE:
        return min(dst.dev.mtu, IP_MAX_MTU)
    return dst_mtu(dst)


def __ip_finish_output(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """GSO frames go whole; larger ones than the path takes are fragmented.  What leaves is counted here rather than in
    ip_finish_output2, where a fragment is like a packet."""
    if skb.len > IPV4_MIN_MTU and not skb.gso_size:
        mtu = ip_skb_dst_mtu(sk, skb._skb_refdst)  # type: ignore[arg-type]
        if skb.len > mtu:
            return ip_fragment(net, sk, skb, mtu)
    stats = net.mib.ip_statistics
    stats[IPSTATS_MIB_OUTPKTS] += 1
    stats[IPSTATS_MIB_OUTOCTETS] += skb.len
    return ip_finish_output2(net, sk, skb)


def ip_finish_output2(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """Find the next hop's link address and send."""
    dst: Any = skb._skb_refdst
    rt: rtable = dst
    neigh = rt.rt_neigh
    if neigh is None or neigh.dead:
        neigh = arp.ip_neigh_for_gw(rt, skb)
        if neigh is None:
            skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NEIGH_CREATEFAIL)
            return -errno.EINVAL
        rt.rt_neigh = neigh
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


def ip_fragment(net: Stack, sk: sock | None, skb: sk_buff, mtu: int) -> int:
    """Cut the packet, or refuse if it must not be cut (RFC 791 section 3.2, RFC 1191)."""
    if not net.profile.octets_by_fragment:
        IP_UPD_PO_STATS(net, IPSTATS_MIB_OUTPKTS, IPSTATS_MIB_OUTOCTETS, skb.len)
    iph: iphdr = skb.h_iph
    if not iph.frag_off & IP_DF:
        return ip_do_fragment(net, sk, skb, mtu)
    IP_INC_STATS(net, IPSTATS_MIB_FRAGFAILS)
    icmp.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_PKT_TOO_BIG)
    return -errno.EMSGSIZE


def ip_do_fragment(net: Stack, sk: sock | None, skb: sk_buff, mtu: int) -> int:
    """Send the packet as fragments of at most ``mtu`` bytes; options marked for copying go into each."""
    if skb.ip_summed == CHECKSUM_PARTIAL:
        skbuff.skb_checksum_help(skb)
    iph: iphdr = skb.h_iph
    hlen = iph.ihl * 4
    whole = skbuff.skb_linear_bytes(skb)
    payload = memoryview(whole)[hlen:]
    step = (mtu - hlen) & ~7
    if step < 8:
        IP_INC_STATS(net, IPSTATS_MIB_FRAGFAILS)
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_PKT_TOO_BIG)
        return -errno.EMSGSIZE
    err = 0
    for offset in range(0, len(payload), step):
        piece = payload[offset : offset + step]
        more = offset + step < len(payload)
        err = _send_fragment(net, sk, skb, whole[20:hlen], piece, offset, more)
        if err:
            break
        IP_INC_STATS(net, IPSTATS_MIB_FRAGCREATES)
    IP_INC_STATS(net, IPSTATS_MIB_FRAGFAILS if err else IPSTATS_MIB_FRAGOKS)
    skbuff.consume_skb(skb)
    return err


def _send_fragment(
    net: Stack, sk: sock | None, skb: sk_buff, options: bytes, piece: memoryview, offset: int, more: bool
) -> int:
    old: iphdr = skb.h_iph
    frag = alloc_skb(MAX_TCP_HEADER + len(piece))
    frag.data -= len(piece)
    head = cast(bytearray, frag.head)
    head[frag.data : frag.tail] = piece
    frag.transport_header = frag.data
    if offset:
        options = ipv4_options.ip_options_fragment(options)
    frag.data -= 20 + len(options)
    head[frag.data + 20 : frag.data + 20 + len(options)] = options
    frag.network_header = frag.data
    frag.len = frag.tail - frag.data
    frag_off = (old.frag_off & ~(IP_OFFSET | IP_MF)) | ((old.frag_off & IP_OFFSET) + offset // 8)
    if more or old.frag_off & IP_MF:
        frag_off |= IP_MF
    frag.h_iph = iphdr(
        0x45 + len(options) // 4, old.tos, frag.len, old.id, frag_off, old.ttl, old.protocol, 0, old.saddr, old.daddr
    )
    ip_send_check(frag)
    frag._skb_refdst = skb._skb_refdst
    frag.dev = skb.dev
    frag.protocol = ETH_P_IP
    frag.priority, frag.mark = skb.priority, skb.mark
    if net.profile.octets_by_fragment:
        IP_UPD_PO_STATS(net, IPSTATS_MIB_OUTPKTS, IPSTATS_MIB_OUTOCTETS, frag.len)
    return ip_finish_output2(net, sk, frag)


# -- datagrams ---------------------------------------------------------------------------------------------------------


def ip_make_skb(
    sk: inet_sock, transport: bytes, data: bytes | bytearray | memoryview, rt: rtable, fl4: flowi4, tos: int, ttl: int,
    gso: bool = False,
) -> sk_buff | int:
    """One datagram: transport header and payload behind an IPv4 header.  DF unless it is larger than the path MTU
    (__ip_make_skb); -EMSGSIZE above 65535 bytes, or above the MTU for a socket that asked for DF, unless it is many
    datagrams (``gso``)."""
    length = 20 + len(transport) + len(data) + (sk.inet_opt.optlen if sk.inet_opt is not None else 0)
    if length > IP_MAX_MTU:
        return -errno.EMSGSIZE
    mtu = ip_skb_dst_mtu(sk, rt)
    if length > mtu and not gso and sk.pmtudisc in (IP_PMTUDISC_DO, IP_PMTUDISC_PROBE):
        return -errno.EMSGSIZE
    df = sk.pmtudisc in (IP_PMTUDISC_DO, IP_PMTUDISC_PROBE) or (length <= mtu and ip_dont_fragment(sk, rt))
    room = MAX_TCP_HEADER + len(transport) + len(data)
    skb = alloc_skb(room)
    skb.data -= len(transport) + len(data)
    cast(bytearray, skb.head)[skb.data : skb.tail] = transport + bytes(data)
    skb.len = skb.tail - skb.data
    skb.transport_header = skb.data
    skb._skb_refdst = rt
    iph = _push_header(
        sk.sk_net, skb, tos, IP_DF if df else 0, ttl, sk.sk_protocol, fl4.saddr, fl4.daddr, sk.inet_opt
    )
    ip_select_ident_segs(sk.sk_net, iph, sk, 1)
    skb.priority, skb.mark = sk.sk_priority, sk.sk_mark
    return skb
