# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes for IPv6 packets: net/ipv6/route.c, with the table of ip6_fib.c.

Two tables, as for IPv4: ``local`` (our addresses, each with the devices that have it: a link-local one may be on
several) and ``main`` (links and gateways, the longest prefix first).  ``ip6_route_output`` gives a flow its
``rt6_info`` or a negative errno, ``ip6_route_input`` gives a received packet its one; both are cached by what decides
them, and emptied when an address or a route changes (``net.ipv6.rt_genid``) or when they grow past RT6_CACHE_MAX.

Path MTUs learned from packet-too-big errors live in ``net.rt6_exceptions`` by destination until mtu_expires.  One
below 1280 is not believed (RFC 8201, section 4).

Departures: no policy rules, no source routing by prefix, no multipath, no anycast, no forwarding.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_IP_INADDRERRORS,
    SKB_DROP_REASON_IP_INNOROUTES,
)
from stack.include.dst import (
    RTAX_HOPLIMIT,
    RTAX_MTU,
    RTF_GATEWAY,
    RTF_LOCAL,
    RTF_REJECT,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    dst_entry,
    dst_ops,
    flowi6,
    rt6_info,
)
from stack.include.ipv6 import (
    ICMPV6_ADDR_UNREACH,
    ICMPV6_DEST_UNREACH,
    ICMPV6_NOROUTE,
    IPV6_MAXPLEN,
    IPV6_MIN_MTU,
    in6_pton,
    ipv6_addr_is_multicast,
    ipv6_addr_needs_scope_id,
    ipv6_prefix,
    ipv6hdr,
)
from stack.include.netdevice import IFF_UP
from stack.include.snmp import IP6_INC_STATS, IPSTATS_MIB_INADDRERRORS, IPSTATS_MIB_INNOROUTES
from stack.include.sock import AF_INET6
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies
from stack.net.core import skbuff
from stack.net.ipv6 import addrconf, icmp, ip6_input, ip6_output

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import sock
    from stack.net.ipv6.addrconf import inet6_ifaddr
    from stack.stack import Stack

RT6_CACHE_MAX: Final = 4096
_HEADERS: Final = 60  # IPv6 and TCP

_Key = tuple[int, int, int]


class fib6_info:
    """struct fib6_info: where a prefix leads.  ``gateway`` 0 means on-link."""

    __slots__ = ("dev", "gateway", "metrics", "plen", "prefix", "proto")

    def __init__(self, prefix: int, plen: int, dev: net_device, gateway: int = 0, proto: str = "kernel") -> None:
        self.prefix = prefix
        self.plen = plen
        self.dev = dev
        self.gateway = gateway
        self.proto = proto
        self.metrics: dict[int, int] = {}


class fib6_net:
    """The tables and caches of one Stack."""

    __slots__ = ("input_cache", "local", "main", "output_cache")

    def __init__(self) -> None:
        self.local: dict[int, list[net_device]] = {}
        self.main: list[fib6_info] = []
        self.output_cache: dict[_Key, rt6_info] = {}
        self.input_cache: dict[_Key, rt6_info] = {}


class rt6_exception:
    """struct rt6_exception: a learned path MTU, until ``expires`` (jiffies)."""

    __slots__ = ("expires", "mtu")

    def __init__(self, mtu: int, expires: int) -> None:
        self.mtu = mtu
        self.expires = expires


# -- tables ------------------------------------------------------------------------------------------------------------


def fib6_net_init(net: Stack) -> None:
    net.fib6 = fib6_net()
    net.rt6_exceptions = {}


def rt6_flush(net: Stack) -> None:
    """Cached routes are stale from now on."""
    net.ipv6.rt_genid += 1
    net.fib6.output_cache.clear()
    net.fib6.input_cache.clear()


def fib6_add_ifaddr(net: Stack, dev: net_device, ifa: inet6_ifaddr) -> None:
    """The routes that an address brings: itself and its prefix."""
    owners = net.fib6.local.setdefault(ifa.addr, [])
    if dev not in owners:
        owners.append(dev)
    prefix = addrconf.prefix_of(ifa)
    there = any(r.prefix == prefix and r.plen == ifa.prefix_len and r.dev is dev for r in net.fib6.main)
    if dev is not net.loopback_dev and not there:
        _insert(net, fib6_info(prefix, ifa.prefix_len, dev))
    rt6_flush(net)


def fib6_sync_addresses(net: Stack) -> None:
    """Build everything that comes from addresses again."""
    net.fib6.local.clear()
    net.fib6.main[:] = [r for r in net.fib6.main if r.proto != "kernel"]
    for dev in net.devices.values():
        idev = addrconf.in6_dev_get(dev)
        for ifa in idev.addr_list if idev is not None else ():
            fib6_add_ifaddr(net, dev, ifa)
    rt6_flush(net)


def _insert(net: Stack, entry: fib6_info) -> None:
    net.fib6.main.append(entry)
    net.fib6.main.sort(key=lambda r: -r.plen)  # stable: the older of two equal prefixes stays first


def ip6_route_add(net: Stack, cidr: str, dev: net_device | None, via: str | None) -> None:
    """A static route by a gateway (which needs a device if it is link-local) or on a device's link; ValueError if it
    has neither, or if the gateway is on no link of ours."""
    prefix, plen = addrconf.parse_cidr6(cidr)
    gateway = 0
    if via is not None:
        gateway = in6_pton(via)
        hop = fib6_lookup(net, gateway, dev.ifindex if dev is not None else 0)
        if hop is None or hop.gateway or (ipv6_addr_needs_scope_id(gateway) and dev is None):
            raise ValueError(f"the gateway {via} is on no link of this stack, or needs a device")
        dev = hop.dev
    if dev is None:
        raise ValueError(f"a route to {cidr} needs a device or a gateway")
    _insert(net, fib6_info(ipv6_prefix(prefix, plen), plen, dev, gateway, "static"))
    rt6_flush(net)


def fib6_lookup(net: Stack, daddr: int, oif: int = 0) -> fib6_info | None:
    """The longest prefix of ``main``, on device ``oif`` if that is given."""
    for entry in net.fib6.main:
        if (daddr ^ entry.prefix) >> (128 - entry.plen) or (oif and entry.dev.ifindex != oif):
            continue
        if entry.dev.flags & IFF_UP:
            return entry
    return None


# -- the family's rules ------------------------------------------------------------------------------------------------


def rt6_find_exception(net: Stack, daddr: int) -> rt6_exception | None:
    """The live exception for a destination."""
    exception = net.rt6_exceptions.get(daddr)
    if exception is not None and jiffies(net) >= exception.expires:
        del net.rt6_exceptions[daddr]
        return None
    return exception


def ip6_mtu(dst: dst_entry) -> int:
    """Path MTU in bytes: learned, else the route's metric, else the device's."""
    assert isinstance(dst, rt6_info)
    net = dst.net
    if net.rt6_exceptions:
        exception = rt6_find_exception(net, dst.rt6i_dst)
        if exception is not None:
            return exception.mtu
    return min(dst.metrics.get(RTAX_MTU, 0) or dst.dev.mtu, IPV6_MAXPLEN + 40)


def ip6_default_advmss(dst: dst_entry) -> int:
    """The MSS to offer: the MTU less 60, at least route.min_adv_mss; IPV6_MAXPLEN ("any") if that is too large for
    16 bits."""
    mss = max(ip6_mtu(dst) - _HEADERS, dst.net.ipv6.ip6_rt_min_advmss)
    return IPV6_MAXPLEN if mss > IPV6_MAXPLEN - 20 else mss


def ip6_dst_check(dst: dst_entry, cookie: int) -> dst_entry | None:
    """The route, or None if tables changed since it was made."""
    assert isinstance(dst, rt6_info)
    return dst if dst.rt6i_genid == dst.net.ipv6.rt_genid and not dst.obsolete else None


def ip6_rt_update_pmtu(dst: dst_entry, sk: sock | None, skb: sk_buff | None, mtu: int) -> None:
    """Learn a smaller path MTU, for mtu_expires seconds."""
    assert isinstance(dst, rt6_info)
    if dst.rt6i_flags & RTF_LOCAL or not dst.rt6i_dst:
        return
    net = dst.net
    if not IPV6_MIN_MTU <= mtu < ip6_mtu(dst):
        return
    if len(net.rt6_exceptions) >= RT6_CACHE_MAX:
        net.rt6_exceptions.pop(next(iter(net.rt6_exceptions)))
    net.rt6_exceptions[dst.rt6i_dst] = rt6_exception(mtu, jiffies(net) + net.ipv6.ip6_rt_mtu_expires * HZ)


def ip6_update_pmtu(skb: sk_buff, net: Stack, mtu: int, oif: int, daddr: int) -> None:
    """A packet-too-big error about a packet to ``daddr`` that no socket is known for."""
    fl6 = flowi6()
    fl6.daddr, fl6.flowi6_oif = daddr, oif if ipv6_addr_needs_scope_id(daddr) else 0
    rt = ip6_route_output(net, None, fl6)
    if isinstance(rt, rt6_info):
        ip6_rt_update_pmtu(rt, None, skb, mtu)


def ip6_sk_update_pmtu(skb: sk_buff, sk: sock, mtu: int) -> None:
    """One about a packet of this socket."""
    ip6_update_pmtu(skb, sk.sk_net, mtu, sk.sk_bound_dev_if, sk.sk_v6_daddr)


def ip6_dst_hoplimit(dst: dst_entry) -> int:
    """The hop limit of what leaves by this route."""
    return dst.metrics.get(RTAX_HOPLIMIT, 0) or dst.net.ipv6.sysctl_hop_limit


def ip6_link_failure(skb: sk_buff) -> None:
    """An address-unreachable of our own making, to ourselves."""
    icmp.icmpv6_send(skb, ICMPV6_DEST_UNREACH, ICMPV6_ADDR_UNREACH, 0)


ip6_dst_ops = dst_ops(
    AF_INET6,
    mtu=ip6_mtu,
    default_advmss=ip6_default_advmss,
    check=ip6_dst_check,
    update_pmtu=ip6_rt_update_pmtu,
    link_failure=ip6_link_failure,
)


# -- output ------------------------------------------------------------------------------------------------------------


def ip6_route_output(net: Stack, sk: sock | None, fl6: flowi6) -> rt6_info | int:
    """The route of a flow, or a negative errno; fills in ``fl6.saddr`` if it was 0 (the kernel leaves that to
    ip6_dst_lookup_tail)."""
    key = (fl6.daddr, fl6.saddr, fl6.flowi6_oif)
    fib = net.fib6
    rt = fib.output_cache.get(key)
    if rt is None:
        found = ip6_pol_route_output(net, fl6)
        if isinstance(found, int):
            return found
        rt = found
        if len(fib.output_cache) >= RT6_CACHE_MAX:
            fib.output_cache.clear()
        fib.output_cache[key] = rt
    if not fl6.saddr:
        fl6.saddr = rt.rt6i_src
    return rt


def ip6_pol_route_output(net: Stack, fl6: flowi6) -> rt6_info | int:
    """The look-up itself."""
    daddr, saddr, oif = fl6.daddr, fl6.saddr, fl6.flowi6_oif
    if ipv6_addr_is_multicast(saddr):
        return -errno.EINVAL
    if oif and oif not in net.devices:
        return -errno.ENODEV
    if saddr and not _source_is_ours(net, saddr, oif) and not net.ipv6.sysctl_ip_nonlocal_bind:
        return -errno.EADDRNOTAVAIL
    owners = net.fib6.local.get(daddr)
    if owners is not None and (not oif or any(d.ifindex in (oif, net.loopback_dev.ifindex) for d in owners)):
        if oif or not ipv6_addr_needs_scope_id(daddr) or len(owners) == 1:
            return _mkroute_local(net, daddr, saddr, owners[0])
    if ipv6_addr_needs_scope_id(daddr) and not oif:
        oif = _only_device(net)
    if ipv6_addr_is_multicast(daddr):
        return _mkroute_multicast(net, daddr, saddr, oif)
    entry = fib6_lookup(net, daddr, oif)
    if entry is None:
        return -errno.ENETUNREACH
    saddr = saddr or addrconf.ipv6_dev_get_saddr(net, entry.dev, daddr)
    if not saddr:
        return -errno.EADDRNOTAVAIL
    return _mkroute_output(net, daddr, saddr, entry)


def _source_is_ours(net: Stack, saddr: int, oif: int) -> bool:
    return addrconf.ipv6_chk_addr(net, saddr, net.devices[oif] if oif and ipv6_addr_needs_scope_id(saddr) else None)


def _only_device(net: Stack) -> int:
    """The device of a link-local destination without a scope: the one Ethernet device if there is just one (the kernel
    asks for a scope where bind() and connect() check it)."""
    others = [d.ifindex for d in net.devices.values() if d is not net.loopback_dev]
    return others[0] if len(others) == 1 else 0


def _mkroute_local(net: Stack, daddr: int, saddr: int, owner: net_device) -> rt6_info:
    rt = ip6_dst_alloc(net, net.loopback_dev, RTF_LOCAL, RTN_LOCAL)
    rt.rt6i_dst, rt.rt6i_src = daddr, saddr or daddr
    rt.rt6i_idev = owner
    rt.input = ip6_input.ip6_input
    rt.output = ip6_output.ip6_output
    return rt


def _mkroute_multicast(net: Stack, daddr: int, saddr: int, oif: int) -> rt6_info | int:
    dev = net.devices.get(oif or _only_device(net))
    if dev is None or addrconf.in6_dev_get(dev) is None:
        return -errno.ENETUNREACH
    rt = icmp6_dst_alloc(net, dev, daddr)
    rt.rt6i_src = saddr or addrconf.ipv6_dev_get_saddr(net, dev, daddr)
    return rt


def _mkroute_output(net: Stack, daddr: int, saddr: int, entry: fib6_info) -> rt6_info:
    rt = ip6_dst_alloc(net, entry.dev, RTF_GATEWAY if entry.gateway else 0, RTN_UNICAST)
    rt.rt6i_dst, rt.rt6i_src, rt.rt6i_gateway, rt.rt6i_plen = daddr, saddr, entry.gateway, entry.plen
    rt.metrics = entry.metrics
    rt.output = ip6_output.ip6_output
    return rt


def icmp6_dst_alloc(net: Stack, dev: net_device, daddr: int) -> rt6_info:
    """A route of its own on a device's link, for neighbour discovery and groups: asked of no table."""
    rt = ip6_dst_alloc(net, dev, 0, RTN_MULTICAST if ipv6_addr_is_multicast(daddr) else RTN_UNICAST)
    rt.rt6i_dst = daddr
    rt.output = ip6_output.ip6_output
    return rt


def ip6_dst_alloc(net: Stack, dev: net_device, flags: int, rtype: int) -> rt6_info:
    rt = rt6_info(net, ip6_dst_ops, dev, rtype)
    rt.rt6i_flags = flags
    rt.rt6i_genid = net.ipv6.rt_genid
    return rt


# -- input -------------------------------------------------------------------------------------------------------------


def ip6_route_input(skb: sk_buff) -> None:
    """Set a received packet's route."""
    dev = skb.dev
    assert dev is not None
    fib = dev.net.fib6
    hdr: ipv6hdr = skb.h_iph
    key = (hdr.daddr, dev.ifindex, 0)
    rt = fib.input_cache.get(key)
    if rt is None:
        rt = ip6_route_input_lookup(dev.net, dev, hdr.daddr)
        if len(fib.input_cache) >= RT6_CACHE_MAX:
            fib.input_cache.clear()
        fib.input_cache[key] = rt
    skb._skb_refdst = rt


def ip6_route_input_lookup(net: Stack, dev: net_device, daddr: int) -> rt6_info:
    """Whether a packet to ``daddr`` on this device is ours: a group of the device, an address of any device, a
    link-local one of this device only."""
    if ipv6_addr_is_multicast(daddr):
        rt = ip6_dst_alloc(net, dev, 0, RTN_MULTICAST)
        rt.input = ip6_input.ip6_mc_input
    elif addrconf.ipv6_chk_addr(net, daddr, dev if ipv6_addr_needs_scope_id(daddr) else None):
        rt = ip6_dst_alloc(net, net.loopback_dev, RTF_LOCAL, RTN_LOCAL)
        rt.input = ip6_input.ip6_input
    else:
        rt = ip6_dst_alloc(net, dev, RTF_REJECT, RTN_UNREACHABLE)
        rt.input = ip6_forward if fib6_lookup(net, daddr) is not None else ip6_pkt_discard
    rt.rt6i_dst = daddr
    rt.rt6i_idev = dev
    return rt


def ip6_forward(skb: sk_buff) -> int:
    """ip6_output.c: a packet that a router would pass on; a host counts it and is silent."""
    assert skb.dev is not None
    IP6_INC_STATS(skb.dev.net, IPSTATS_MIB_INADDRERRORS)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IP_INADDRERRORS)
    return 0


def ip6_pkt_discard(skb: sk_buff) -> int:
    """A packet to a place that we have no route to: its sender hears "no route to destination"."""
    assert skb.dev is not None
    hdr: ipv6hdr = skb.h_iph
    IP6_INC_STATS(skb.dev.net, IPSTATS_MIB_INNOROUTES if hdr.daddr else IPSTATS_MIB_INADDRERRORS)
    icmp.icmpv6_send(skb, ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE, 0)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IP_INNOROUTES)
    return 0
