# SPDX-License-Identifier: GPL-2.0-or-later
"""Neighbour discovery: net/ipv6/ndisc.c (RFC 4861; the state machine is stack/net/core/neighbour.py).

What is answered: a solicitation for an address of ours, also the probe of another's duplicate address detection (from
::, answered to all nodes), and a router solicitation where router advertisements are sent (radv.py).  What is
learned: the sender of a solicitation to us (STALE), the answer to our own solicitation (REACHABLE if it was
solicited), a change that an advertisement announces for a neighbour that is known.  Nothing is learned of
strangers.  Router advertisements and redirects are counted and not followed: our addresses and routes are configured.

Each message has to come with hop limit 255 (so it is from this link), code 0 and options whose lengths add up
(sections 6.1 and 7.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from stack.include.dropreason import (
    SKB_DROP_REASON_ICMP_IGNORED,
    SKB_DROP_REASON_IPV6_NDISC_BAD_OPTIONS,
    SKB_DROP_REASON_IPV6_NDISC_HOP_LIMIT,
    SKB_DROP_REASON_IPV6_NDISC_INVALID,
)
from stack.include.dst import dst_link_failure, rt6_info
from stack.include.ip import ETH_P_IPV6
from stack.include.ipv6 import (
    IPPROTO_ICMPV6,
    NDISC_NEIGHBOUR_ADVERTISEMENT,
    NDISC_NEIGHBOUR_SOLICITATION,
    NDISC_ROUTER_SOLICITATION,
    addrconf_addr_solict_mult,
    icmp6_hdr,
    in6addr_linklocal_allnodes,
    ipv6_addr_any,
    ipv6_addr_is_multicast,
    ipv6_addr_is_solict_mult,
    ipv6_addr_needs_scope_id,
    ipv6_eth_mc_map,
    ipv6hdr,
)
from stack.include.neighbour import (
    NEIGH_UPDATE_F_OVERRIDE,
    NEIGH_UPDATE_F_WEAK_OVERRIDE,
    NUD_FAILED,
    NUD_REACHABLE,
    NUD_STALE,
    NUD_VALID,
    neigh_table,
    neighbour,
)
from stack.include.netdevice import IFF_LOOPBACK, IFF_NOARP
from stack.include.sk_buff import MAX_TCP_HEADER, alloc_skb
from stack.include.sock import AF_INET6
from stack.include.timer import HZ
from stack.net.core import neighbour as net_core_neighbour
from stack.net.core import skbuff
from stack.net.ethernet import eth
from stack.net.ipv6 import addrconf, icmp, ip6_output, radv, route

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

# RFC 4861, section 4.6; RFC 8106 for 25 and 31
ND_OPT_SOURCE_LL_ADDR: Final = 1
ND_OPT_TARGET_LL_ADDR: Final = 2
ND_OPT_PREFIX_INFO: Final = 3
ND_OPT_MTU: Final = 5
ND_OPT_RDNSS: Final = 25
ND_OPT_DNSSL: Final = 31

# The flags of a neighbour advertisement, in the last 32 bits of the ICMPv6 header
NA_ROUTER: Final = 1 << 31
NA_SOLICITED: Final = 1 << 30
NA_OVERRIDE: Final = 1 << 29

NDISC_HOP_LIMIT: Final = 255
_TARGET: Final = 8  # where a target address stands in a message
_NS_LEN: Final = 24
_RS_LEN: Final = 8


def ndisc_init(net: Stack) -> None:
    net.nd_tbl = neigh_table(net, AF_INET6, ETH_P_IPV6, HZ, ndisc_constructor, ndisc_solicit, ndisc_error_report)
    net_core_neighbour.neigh_table_init(net.nd_tbl)


def ndisc_constructor(neigh: neighbour) -> int:
    """Addresses that need no question: groups (RFC 2464, section 7) and everything on loopback."""
    addr, dev = neigh.primary_key, neigh.dev
    if dev.flags & (IFF_LOOPBACK | IFF_NOARP):
        net_core_neighbour.neigh_set_noarp(neigh, dev.dev_addr)
    elif ipv6_addr_is_multicast(addr):
        net_core_neighbour.neigh_set_noarp(neigh, ipv6_eth_mc_map(addr))
    return 0


def ip6_neigh_for_gw(rt: rt6_info, daddr: int) -> neighbour | None:
    """include/net/ip6_route.h: the neighbour that a route's packet goes to; None if the table is full."""
    key = rt.rt6i_gateway or daddr
    if rt.dev.flags & IFF_LOOPBACK:
        key = 0
    return net_core_neighbour.neigh_create(rt.net.nd_tbl, key, rt.dev)


# -- sending -----------------------------------------------------------------------------------------------------------


def ndisc_opt_lladdr(kind: int, lladdr: bytes) -> bytes:
    """A link-layer address option of Ethernet: 8 bytes."""
    return bytes((kind, 1)) + lladdr


def ndisc_send_skb(
    net: Stack, dev: net_device, daddr: int, saddr: int, icmp6_type: int, data: int, body: bytes
) -> None:
    """Send a message on the device's link; ``data`` are the header's last 32 bits."""
    raw = icmp.icmpv6_message(icmp6_type, 0, data, body, saddr, daddr)
    skb = alloc_skb(MAX_TCP_HEADER + len(raw))
    skb.data -= len(raw)
    cast(bytearray, skb.head)[skb.data : skb.tail] = raw
    skb.len = len(raw)
    skb.transport_header = skb.data
    skb._skb_refdst = route.icmp6_dst_alloc(net, dev, daddr)
    ip6_output.ip6_push_hdr(skb, 0, 0, IPPROTO_ICMPV6, NDISC_HOP_LIMIT, saddr, daddr)
    icmp.icmpv6_out_count(net, icmp6_type)
    ip6_output.ip6_local_out(net, None, skb)


def ndisc_send_ns(dev: net_device, target: int, daddr: int, saddr: int) -> None:
    """Ask for the link address of ``target``."""
    option = ndisc_opt_lladdr(ND_OPT_SOURCE_LL_ADDR, dev.dev_addr) if saddr else b""
    body = target.to_bytes(16, "big") + option
    ndisc_send_skb(dev.net, dev, daddr, saddr, NDISC_NEIGHBOUR_SOLICITATION, 0, body)


def ndisc_error_report(neigh: neighbour, skb: sk_buff) -> None:
    """A packet waited for an answer that did not come (section 7.2.2)."""
    dst_link_failure(skb)


def ndisc_send_na(dev: net_device, daddr: int, target: int, solicited: bool) -> None:
    """Say that ``target`` is ours.  The answer to a probe from :: goes to all nodes, unsolicited (section 7.2.4)."""
    idev = addrconf.in6_dev_get(dev)
    flags = NA_OVERRIDE | (NA_SOLICITED if solicited else 0)
    if idev is not None and idev.ra is not None:
        flags |= NA_ROUTER
    body = target.to_bytes(16, "big") + ndisc_opt_lladdr(ND_OPT_TARGET_LL_ADDR, dev.dev_addr)
    ndisc_send_skb(dev.net, dev, daddr, target, NDISC_NEIGHBOUR_ADVERTISEMENT, flags, body)


def ndisc_solicit(neigh: neighbour, skb: sk_buff | None) -> None:
    """Ask for a neighbour: at its known address while probing, its solicited-node group otherwise.  The sender's
    address is that of the packet that waits if it is ours, else the best of the device."""
    dev = neigh.dev
    target = neigh.primary_key
    saddr = skb.h_iph.saddr if skb is not None else 0
    if not saddr or not addrconf.ipv6_chk_addr(dev.net, saddr, dev):
        saddr = addrconf.ipv6_dev_get_saddr(dev.net, dev, target)
    if neigh.probes <= neigh.tbl.parms.ucast_probes and neigh.nud_state & NUD_VALID:
        ndisc_send_ns(dev, target, target, saddr)
    else:
        ndisc_send_ns(dev, target, addrconf_addr_solict_mult(target), saddr)


# -- receiving ---------------------------------------------------------------------------------------------------------


def ndisc_parse_options(raw: bytes) -> dict[int, bytes] | None:
    """The first option of each kind, without its two bytes of kind and length; None if a length is 0 or too large,
    which makes the message invalid."""
    options: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        size = raw[at + 1] * 8 if at + 1 < len(raw) else 0
        if not size or at + size > len(raw):
            return None
        options.setdefault(raw[at], raw[at + 2 : at + size])
        at += size
    return options


def _lladdr(options: dict[int, bytes], kind: int) -> bytes | None:
    """The Ethernet address of such an option: None without one, empty if it is no unicast address."""
    value = options.get(kind)
    if value is None:
        return None
    return value[:6] if eth.is_valid_ether_addr(value[:6]) else b""


def _refuse(skb: sk_buff, reason: int) -> int:
    skbuff.kfree_skb_reason(skb, reason)
    return 0


def ndisc_rcv(skb: sk_buff) -> int:
    """A message whose checksum is right; skb.data is at its ICMPv6 header."""
    hdr: ipv6hdr = skb.h_iph
    icmph = icmp6_hdr(skb)
    if hdr.hop_limit != NDISC_HOP_LIMIT:
        return _refuse(skb, SKB_DROP_REASON_IPV6_NDISC_HOP_LIMIT)
    if icmph.icmp6_code:
        return _refuse(skb, SKB_DROP_REASON_IPV6_NDISC_INVALID)
    message = bytes(memoryview(skb.head)[skb.data : skb.tail])
    if icmph.icmp6_type == NDISC_ROUTER_SOLICITATION:
        return ndisc_router_solicitation(skb, hdr, message)
    if icmph.icmp6_type in (NDISC_NEIGHBOUR_SOLICITATION, NDISC_NEIGHBOUR_ADVERTISEMENT):
        if len(message) < _NS_LEN or ipv6_addr_is_multicast(_target(message)):
            return _refuse(skb, SKB_DROP_REASON_IPV6_NDISC_INVALID)
        options = ndisc_parse_options(message[_NS_LEN:])
        if options is None:
            return _refuse(skb, SKB_DROP_REASON_IPV6_NDISC_BAD_OPTIONS)
        if icmph.icmp6_type == NDISC_NEIGHBOUR_SOLICITATION:
            return ndisc_recv_ns(skb, hdr, _target(message), options)
        return ndisc_recv_na(skb, hdr, _target(message), options)
    return _refuse(skb, SKB_DROP_REASON_ICMP_IGNORED)


def _target(message: bytes) -> int:
    return int.from_bytes(message[_TARGET : _TARGET + 16], "big")


def ndisc_recv_ns(skb: sk_buff, hdr: ipv6hdr, target: int, options: dict[int, bytes]) -> int:
    """A neighbour solicitation (section 7.2.3)."""
    dev = skb.dev
    assert dev is not None
    lladdr = _lladdr(options, ND_OPT_SOURCE_LL_ADDR)
    dad = ipv6_addr_any(hdr.saddr)
    if lladdr == b"" or (dad and (lladdr is not None or not ipv6_addr_is_solict_mult(hdr.daddr))):
        return _refuse(skb, SKB_DROP_REASON_IPV6_NDISC_INVALID)
    if not addrconf.ipv6_chk_addr(dev.net, target, dev):
        return _refuse(skb, SKB_DROP_REASON_ICMP_IGNORED)
    if dad:
        ndisc_send_na(dev, in6addr_linklocal_allnodes, target, False)
    else:
        if lladdr is not None:
            net_core_neighbour.neigh_event_ns(dev.net.nd_tbl, lladdr, hdr.saddr, dev)
        ndisc_send_na(dev, hdr.saddr, target, True)
    skbuff.consume_skb(skb)
    return 0


def ndisc_recv_na(skb: sk_buff, hdr: ipv6hdr, target: int, options: dict[int, bytes]) -> int:
    """A neighbour advertisement (section 7.2.5): news of a neighbour that is known or asked for."""
    dev = skb.dev
    assert dev is not None
    flags = icmp6_hdr(skb).data
    lladdr = _lladdr(options, ND_OPT_TARGET_LL_ADDR)
    if lladdr == b"" or (ipv6_addr_is_multicast(hdr.daddr) and flags & NA_SOLICITED):
        return _refuse(skb, SKB_DROP_REASON_IPV6_NDISC_INVALID)
    neigh = net_core_neighbour.neigh_lookup(dev.net.nd_tbl, target, dev)
    if neigh is None or neigh.nud_state & NUD_FAILED or (lladdr is None and not neigh.nud_state & NUD_VALID):
        return _refuse(skb, SKB_DROP_REASON_ICMP_IGNORED)
    state = NUD_REACHABLE if flags & NA_SOLICITED else NUD_STALE
    how = NEIGH_UPDATE_F_WEAK_OVERRIDE | (NEIGH_UPDATE_F_OVERRIDE if flags & NA_OVERRIDE else 0)
    net_core_neighbour.neigh_update(neigh, lladdr, state, how)
    skbuff.consume_skb(skb)
    return 0


def ndisc_router_solicitation(skb: sk_buff, hdr: ipv6hdr, message: bytes) -> int:
    """A router solicitation (section 6.2.6)."""
    dev = skb.dev
    assert dev is not None
    idev = addrconf.in6_dev_get(dev)
    options = ndisc_parse_options(message[_RS_LEN:])
    if options is None:
        return _refuse(skb, SKB_DROP_REASON_IPV6_NDISC_BAD_OPTIONS)
    lladdr = _lladdr(options, ND_OPT_SOURCE_LL_ADDR)
    from_nobody = ipv6_addr_any(hdr.saddr)
    if lladdr == b"" or (from_nobody and lladdr is not None):
        return _refuse(skb, SKB_DROP_REASON_IPV6_NDISC_INVALID)
    if idev is None or idev.ra is None:
        return _refuse(skb, SKB_DROP_REASON_ICMP_IGNORED)
    if lladdr is not None and ipv6_addr_needs_scope_id(hdr.saddr):
        net_core_neighbour.neigh_event_ns(dev.net.nd_tbl, lladdr, hdr.saddr, dev)
    radv.ra_solicited(idev.ra)
    skbuff.consume_skb(skb)
    return 0
