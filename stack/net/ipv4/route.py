# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes for packets: net/ipv4/route.c.

``ip_route_output_flow`` gives a socket its ``rtable`` or a negative errno (the kernel's ERR_PTR); ``ip_route_input``
gives a received packet its one, or the reason to drop it.  Both are cached: output by (destination, source, device),
input by (destination, source, device); a change of address or route (``rt_genid``) empties both, and so does their
growing past RT_CACHE_MAX entries, so that no sender of many addresses can make them large.

Path MTUs learned from ICMP live in ``net.fib_nh_exceptions`` by destination (struct fib_nh_exception), with their
time of expiry; ``ipv4_mtu`` asks there first.  Departures: no policy rules, no multipath, no forwarding.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_IP_INADDRERRORS,
    SKB_DROP_REASON_IP_INVALID_DEST,
    SKB_DROP_REASON_IP_INVALID_SOURCE,
    SKB_DROP_REASON_IP_LOCAL_SOURCE,
    SKB_DROP_REASON_IP_LOCALNET,
    SKB_DROP_REASON_IP_RPFILTER,
    SKB_NOT_DROPPED_YET,
)
from stack.include.dst import (
    RTAX_HOPLIMIT,
    RTAX_MTU,
    RTCF_BROADCAST,
    RTCF_LOCAL,
    RTCF_MULTICAST,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    dst_entry,
    dst_ops,
    flowi4,
    rtable,
)
from stack.include.ip import (
    ICMP_DEST_UNREACH,
    ICMP_HOST_UNREACH,
    INADDR_LOOPBACK,
    IP_MAX_MTU,
    ipv4_is_lbcast,
    ipv4_is_loopback,
    ipv4_is_multicast,
    ipv4_is_zeronet,
)
from stack.include.netdevice import IFF_UP
from stack.include.snmp import IP_INC_STATS, IPSTATS_MIB_INADDRERRORS
from stack.include.sock import AF_INET, SOCK_LOCALROUTE
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies
from stack.net.core import skbuff
from stack.net.ipv4 import devinet, fib_frontend, icmp, igmp, ip_input, ip_output

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import sock
    from stack.net.ipv4.fib_frontend import fib_result
    from stack.stack import Stack

RT_CACHE_MAX: Final = 4096
# sizeof(struct tcphdr) + sizeof(struct iphdr)
_TCP_IP_HEADERS: Final = 40


class fib_nh_exception:
    """What ICMP taught about one destination."""

    __slots__ = ("fnhe_expires", "fnhe_mtu_locked", "fnhe_pmtu")

    def __init__(self, pmtu: int, locked: bool, expires: int) -> None:
        self.fnhe_pmtu = pmtu
        self.fnhe_mtu_locked = locked
        self.fnhe_expires = expires


# -- the family's rules ------------------------------------------------------------------------------------------------


def find_exception(net: Stack, daddr: int) -> fib_nh_exception | None:
    """The live exception for a destination."""
    table = net.fib_nh_exceptions
    if not table:
        return None
    fnhe = table.get(daddr)
    if fnhe is not None and jiffies(net) >= fnhe.fnhe_expires:
        del table[daddr]
        return None
    return fnhe


def ipv4_mtu(dst: dst_entry) -> int:
    """Path MTU in bytes: learned, else the route's metric, else the device's."""
    assert isinstance(dst, rtable)
    net = dst.net
    if net.fib_nh_exceptions:
        fnhe = find_exception(net, dst.rt_dst)
        if fnhe is not None:
            return fnhe.fnhe_pmtu
    mtu = (dst.metrics and dst.metrics.get(RTAX_MTU)) or dst.dev.mtu
    return mtu if mtu < IP_MAX_MTU else IP_MAX_MTU


def ipv4_default_advmss(dst: dst_entry) -> int:
    """The MSS to offer to a peer of ours: the MTU less 40, at least route.min_adv_mss."""
    return min(max(ipv4_mtu(dst) - _TCP_IP_HEADERS, dst.net.ipv4.ip_rt_min_advmss), 65535 - _TCP_IP_HEADERS)


def ipv4_dst_check(dst: dst_entry, cookie: int) -> dst_entry | None:
    """The route, or None if tables changed since it was made."""
    assert isinstance(dst, rtable)
    return dst if dst.rt_genid == dst.net.ipv4.rt_genid and not dst.obsolete else None


def ip_rt_update_pmtu(dst: dst_entry, sk: sock | None, skb: sk_buff | None, mtu: int) -> None:
    """Learn a smaller path MTU; below route.min_pmtu the value is that and fragmentation is allowed (locked)."""
    assert isinstance(dst, rtable)
    if dst.rt_dst:
        __ip_rt_update_pmtu(dst.net, dst, dst.rt_dst, mtu)


def __ip_rt_update_pmtu(net: Stack, rt: rtable, daddr: int, mtu: int) -> None:
    old = ipv4_mtu(rt)
    if old < mtu:
        return
    locked = False
    if mtu < net.ipv4.ip_rt_min_pmtu:
        locked = True
        mtu = min(old, net.ipv4.ip_rt_min_pmtu)
    fnhe = find_exception(net, daddr)
    half = net.ipv4.ip_rt_mtu_expires * HZ // 2
    if fnhe is not None and fnhe.fnhe_pmtu == mtu and jiffies(net) < fnhe.fnhe_expires - half:
        return
    if len(net.fib_nh_exceptions) >= RT_CACHE_MAX:
        net.fib_nh_exceptions.pop(next(iter(net.fib_nh_exceptions)))
    net.fib_nh_exceptions[daddr] = fib_nh_exception(mtu, locked, jiffies(net) + net.ipv4.ip_rt_mtu_expires * HZ)
    rt.rt_pmtu = mtu


def ip_mtu_locked(dst: dst_entry) -> bool:
    """Whether DF must not be set: the path is narrower than route.min_pmtu."""
    if not dst.net.fib_nh_exceptions or not isinstance(dst, rtable):
        return False
    fnhe = find_exception(dst.net, dst.rt_dst)
    return fnhe is not None and fnhe.fnhe_mtu_locked


def ip4_dst_hoplimit(dst: dst_entry) -> int:
    """The TTL of what leaves by this route."""
    return (dst.metrics and dst.metrics.get(RTAX_HOPLIMIT)) or dst.net.ipv4.sysctl_ip_default_ttl


def ipv4_sk_update_pmtu(skb: sk_buff, sk: sock, mtu: int) -> None:
    """A fragmentation-needed error that belongs to a datagram socket."""
    fl4 = flowi4()
    fl4.daddr, fl4.saddr = sk.sk_daddr, sk.sk_rcv_saddr
    rt = ip_route_output_flow(sk.sk_net, fl4, sk)
    if isinstance(rt, rtable):
        __ip_rt_update_pmtu(sk.sk_net, rt, fl4.daddr, mtu)


def ipv4_update_pmtu(skb: sk_buff, net: Stack, mtu: int, oif: int, protocol: int, daddr: int) -> None:
    """The same for a destination without a socket."""
    fl4 = flowi4()
    fl4.daddr, fl4.flowi4_oif, fl4.flowi4_proto = daddr, oif, protocol
    rt = ip_route_output_key(net, fl4)
    if isinstance(rt, rtable):
        __ip_rt_update_pmtu(net, rt, daddr, mtu)


def ipv4_link_failure(skb: sk_buff) -> None:
    """A host-unreachable of our own making, to ourselves: the sender's socket hears of it like of a router's."""
    icmp.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, 0)


ipv4_dst_ops = dst_ops(
    AF_INET,
    mtu=ipv4_mtu,
    default_advmss=ipv4_default_advmss,
    check=ipv4_dst_check,
    update_pmtu=ip_rt_update_pmtu,
    link_failure=ipv4_link_failure,
)


# -- output ------------------------------------------------------------------------------------------------------------


def ip_route_output_flow(net: Stack, fl4: flowi4, sk: sock | None) -> rtable | int:
    """The route of a flow, or a negative errno; fills in ``fl4.saddr`` if it was 0.  With SO_DONTROUTE only what is on
    a link of ours can be reached (the kernel looks in the link's scope)."""
    rt = ip_route_output_key_hash_rcu(net, fl4)
    if sk is not None and sk.sk_flags & SOCK_LOCALROUTE and isinstance(rt, rtable) and rt.rt_gateway:
        return -errno.ENETUNREACH
    return rt


def ip_route_output_key(net: Stack, fl4: flowi4) -> rtable | int:
    return ip_route_output_key_hash_rcu(net, fl4)


def ip_route_output_ports(
    net: Stack,
    fl4: flowi4,
    sk: sock | None,
    daddr: int,
    saddr: int,
    dport: int,
    sport: int,
    proto: int,
    tos: int,
    oif: int,
) -> rtable | int:
    """include/net/route.h: fill the key, then look up."""
    fl4.daddr, fl4.saddr, fl4.fl4_dport, fl4.fl4_sport = daddr, saddr, dport, sport
    fl4.flowi4_proto, fl4.flowi4_tos, fl4.flowi4_oif = proto, tos, oif
    return ip_route_output_flow(net, fl4, sk)


def ip_route_connect(
    net: Stack, fl4: flowi4, daddr: int, saddr: int, oif: int, proto: int, sport: int, dport: int, sk: sock
) -> rtable | int:
    """include/net/route.h: the route of a connection that begins.  Where an address is open the look-up fills it in."""
    tos = getattr(sk, "tos", 0)
    return ip_route_output_ports(net, fl4, sk, daddr, saddr, dport, sport, proto, tos, oif)


def ip_route_output_key_hash_rcu(net: Stack, fl4: flowi4) -> rtable | int:
    """The look-up itself, cached by what decides it."""
    key = (fl4.daddr, fl4.saddr, fl4.flowi4_oif)
    rt = net.rt_hash_cache.get(key)
    if rt is None:
        found = _route_output_slow(net, fl4)
        if isinstance(found, int):
            return found
        rt = found
        if len(net.rt_hash_cache) >= RT_CACHE_MAX:
            net.rt_hash_cache.clear()
        net.rt_hash_cache[key] = rt
    if not fl4.saddr:
        fl4.saddr = rt.rt_src
    if not fl4.daddr:
        fl4.daddr = rt.rt_dst
    return rt


def _route_output_slow(net: Stack, fl4: flowi4) -> rtable | int:
    saddr, daddr, oif = fl4.saddr, fl4.daddr, fl4.flowi4_oif
    if saddr:
        if ipv4_is_multicast(saddr) or ipv4_is_lbcast(saddr) or ipv4_is_zeronet(saddr):
            return -errno.EINVAL
        if not oif and fib_frontend.inet_addr_type(net, saddr) != RTN_LOCAL:
            return -errno.EINVAL
        if not oif and (ipv4_is_multicast(daddr) or ipv4_is_lbcast(daddr)):
            dev = devinet.__ip_dev_find(net, saddr)
            if dev is not None:
                return __mkroute_output(net, fl4, None, dev, saddr)
    if oif:
        return _route_output_oif(net, fl4, oif)
    if not daddr:
        daddr = fl4.daddr = saddr or INADDR_LOOPBACK
    return _route_by_table(net, fl4)


def _route_output_oif(net: Stack, fl4: flowi4, oif: int) -> rtable | int:
    dev = net.devices.get(oif)
    if dev is None:
        return -errno.ENODEV
    if not dev.flags & IFF_UP or devinet.in_dev_get(dev) is None:
        return -errno.ENETUNREACH
    if ipv4_is_multicast(fl4.daddr) or ipv4_is_lbcast(fl4.daddr) or not fl4.daddr:
        saddr = fl4.saddr or devinet.inet_select_addr(dev, 0)
        return __mkroute_output(net, fl4, None, dev, saddr)
    res = fib_frontend.fib_lookup(net, fl4.daddr)
    if res is not None and res.type == RTN_LOCAL:
        return _route_by_table(net, fl4)
    res = fib_frontend.fib_lookup(net, fl4.daddr, oif)
    if res is None:
        # A device was named, so the destination is taken to be on its link.
        return __mkroute_output(net, fl4, None, dev, fl4.saddr or devinet.inet_select_addr(dev, fl4.daddr))
    return __mkroute_output(net, fl4, res, dev, fl4.saddr or fib_result_prefsrc(res, fl4.daddr))


def _route_by_table(net: Stack, fl4: flowi4) -> rtable | int:
    res = fib_frontend.fib_lookup(net, fl4.daddr)
    if res is None:
        return -errno.ENETUNREACH
    if res.type == RTN_LOCAL:
        return __mkroute_output(net, fl4, res, net.loopback_dev, fl4.saddr or res.prefsrc or fl4.daddr)
    return __mkroute_output(net, fl4, res, res.dev, fl4.saddr or fib_result_prefsrc(res, fl4.daddr))


def fib_result_prefsrc(res: fib_result, daddr: int) -> int:
    """The source address that a route prefers."""
    return res.prefsrc or devinet.inet_select_addr(res.dev, res.gateway or daddr)


def __mkroute_output(net: Stack, fl4: flowi4, res: fib_result | None, dev: net_device, saddr: int) -> rtable | int:
    daddr = fl4.daddr
    rtype = res.type if res is not None else RTN_UNICAST
    flags = 0
    if ipv4_is_lbcast(daddr) or rtype == RTN_BROADCAST:
        rtype, flags = RTN_BROADCAST, RTCF_BROADCAST
    elif ipv4_is_multicast(daddr):
        rtype, flags = RTN_MULTICAST, RTCF_MULTICAST
    elif ipv4_is_zeronet(daddr):
        return -errno.EINVAL
    elif rtype == RTN_LOCAL:
        flags = RTCF_LOCAL
    if ipv4_is_loopback(saddr) and dev is not net.loopback_dev:
        return -errno.EINVAL
    rt = rt_dst_alloc(net, dev, flags, rtype)
    rt.rt_dst, rt.rt_src = daddr, saddr
    if res is not None:
        rt.rt_gateway = res.gateway
        rt.metrics = res.metrics
    rt.output = ip_output.ip_mc_output if flags & (RTCF_BROADCAST | RTCF_MULTICAST) else ip_output.ip_output
    if flags & RTCF_LOCAL:
        rt.input = ip_input.ip_local_deliver
    return rt


def rt_dst_alloc(net: Stack, dev: net_device, flags: int, rtype: int) -> rtable:
    rt = rtable(net, ipv4_dst_ops, dev, rtype)
    rt.rt_flags = flags
    return rt


# -- input -------------------------------------------------------------------------------------------------------------


def ip_route_input(skb: sk_buff, daddr: int, saddr: int, tos: int, dev: net_device) -> int:
    """Set the packet's route; SKB_NOT_DROPPED_YET (0) or a drop reason (ip_route_input_noref)."""
    net = dev.net
    rt = net.rt_input_cache.get((daddr, saddr, dev.ifindex))
    if rt is None:
        found = ip_route_input_slow(net, daddr, saddr, dev)
        if isinstance(found, int):
            return found
        rt = found
        if len(net.rt_input_cache) >= RT_CACHE_MAX:
            net.rt_input_cache.clear()
        net.rt_input_cache[(daddr, saddr, dev.ifindex)] = rt
    skb._skb_refdst = rt
    return SKB_NOT_DROPPED_YET


def ip_route_input_slow(net: Stack, daddr: int, saddr: int, dev: net_device) -> rtable | int:
    """Refuse martians (RFC 1812, section 5.3.7), then find out whether the packet is ours."""
    if ipv4_is_multicast(daddr):
        return ip_route_input_mc(net, daddr, saddr, dev)
    if ipv4_is_multicast(saddr) or ipv4_is_lbcast(saddr):
        return SKB_DROP_REASON_IP_INVALID_SOURCE
    if ipv4_is_lbcast(daddr) or (saddr == 0 and daddr == 0):
        return _route_input_broadcast(net, daddr, saddr, dev)
    if ipv4_is_zeronet(saddr):
        return SKB_DROP_REASON_IP_INVALID_SOURCE
    if ipv4_is_zeronet(daddr):
        return SKB_DROP_REASON_IP_INVALID_DEST
    in_dev = devinet.in_dev_get(dev)
    localnet = dev is net.loopback_dev or (in_dev is not None and in_dev.cnf_route_localnet)
    if not localnet and (ipv4_is_loopback(daddr) or ipv4_is_loopback(saddr)):
        return SKB_DROP_REASON_IP_LOCALNET
    res = fib_frontend.fib_lookup(net, daddr)
    if res is not None and res.type == RTN_BROADCAST:
        return _route_input_broadcast(net, daddr, saddr, dev)
    if res is not None and res.type == RTN_LOCAL:
        reason = _validate_source(net, saddr, dev)
        return reason or _mkroute_input(net, daddr, dev, RTN_LOCAL, RTCF_LOCAL)
    return _mkroute_input(net, daddr, dev, RTN_UNREACHABLE, 0)


def ip_route_input_mc(net: Stack, daddr: int, saddr: int, dev: net_device) -> rtable | int:
    """To a group of the device's, from an address that can be a sender's (ip_mc_validate_source)."""
    in_dev = devinet.in_dev_get(dev)
    if in_dev is None or not igmp.ip_check_mc(in_dev, daddr):
        return SKB_DROP_REASON_IP_INVALID_DEST
    if ipv4_is_multicast(saddr) or ipv4_is_lbcast(saddr) or ipv4_is_loopback(saddr):
        return SKB_DROP_REASON_IP_INVALID_SOURCE
    if not ipv4_is_zeronet(saddr) and (reason := _validate_source(net, saddr, dev)):
        return reason
    return _mkroute_input(net, daddr, dev, RTN_MULTICAST, RTCF_MULTICAST | RTCF_LOCAL)


def _validate_source(net: Stack, saddr: int, dev: net_device) -> int:
    if fib_frontend.fib_validate_source(net, saddr, dev):
        return SKB_NOT_DROPPED_YET
    return SKB_DROP_REASON_IP_LOCAL_SOURCE if saddr in net.fib.local else SKB_DROP_REASON_IP_RPFILTER


def _route_input_broadcast(net: Stack, daddr: int, saddr: int, dev: net_device) -> rtable | int:
    if not ipv4_is_zeronet(saddr):
        reason = _validate_source(net, saddr, dev)
        if reason:
            return reason
    return _mkroute_input(net, daddr, dev, RTN_BROADCAST, RTCF_BROADCAST | RTCF_LOCAL)


def _mkroute_input(net: Stack, daddr: int, dev: net_device, rtype: int, flags: int) -> rtable:
    rt = rt_dst_alloc(net, dev, flags, rtype)
    rt.rt_dst = daddr
    rt.rt_is_input = True
    rt.input = ip_error if rtype == RTN_UNREACHABLE else ip_input.ip_local_deliver
    return rt


def ip_error(skb: sk_buff) -> int:
    """A packet for somebody else, or for nowhere: a host that does not forward only counts it (no ICMP)."""
    net = skb.dev.net if skb.dev is not None else None
    assert net is not None
    # Without forwarding every failed look-up becomes EHOSTUNREACH, which counts as an address error.
    IP_INC_STATS(net, IPSTATS_MIB_INADDRERRORS)
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_IP_INADDRERRORS)
    return 0
