# SPDX-License-Identifier: GPL-2.0-or-later
"""The routing tables: net/ipv4/fib_frontend.c with the look-up of fib_trie.c and fib_semantics.c.

Two tables, as on a kernel without policy rules: ``local`` (our addresses and broadcast addresses: a dict by exact
address, and 127/8) is asked first, then ``main`` (links and gateways, the longest prefix first).  Every change
bumps ``net.ipv4.rt_genid``, which makes all cached routes stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stack.include.dst import RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, RTN_UNICAST
from stack.include.ip import (
    in_aton,
    ipv4_is_lbcast,
    ipv4_is_loopback,
    ipv4_is_multicast,
    ipv4_is_zeronet,
)
from stack.include.netdevice import IFF_UP
from stack.net.ipv4 import devinet

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.net.ipv4.devinet import in_ifaddr
    from stack.stack import Stack


class fib_result:
    """struct fib_result and fib_info in one: where a prefix leads.  ``gateway`` 0 means on-link, ``prefsrc`` 0 none."""

    __slots__ = ("dev", "gateway", "mask", "metrics", "prefix", "prefixlen", "prefsrc", "proto", "type")

    def __init__(
        self, rtype: int, prefix: int, prefixlen: int, dev: net_device, gateway: int = 0, prefsrc: int = 0
    ) -> None:
        self.type = rtype
        self.prefix = prefix
        self.prefixlen = prefixlen
        self.mask = devinet.inet_make_mask(prefixlen)
        self.dev = dev
        self.gateway = gateway
        self.prefsrc = prefsrc
        self.metrics: dict[int, int] = {}
        self.proto = "kernel"


class fib_net:
    """The tables of one Stack."""

    __slots__ = ("local", "local_prefixes", "main")

    def __init__(self) -> None:
        self.local: dict[int, fib_result] = {}
        self.local_prefixes: list[fib_result] = []
        self.main: list[fib_result] = []


def fib_net_init(net: Stack) -> None:
    net.fib = fib_net()


def rt_cache_flush(net: Stack) -> None:
    """Cached routes are stale from now on (route.c)."""
    net.ipv4.rt_genid += 1
    net.rt_hash_cache.clear()
    net.rt_input_cache.clear()


def fib_add_ifaddr(net: Stack, dev: net_device, ifa: in_ifaddr) -> None:
    """The routes that an address brings: itself, its subnet and the subnet's two broadcast addresses."""
    local = net.fib.local
    addr, mask = ifa.ifa_local, ifa.ifa_mask
    local[addr] = fib_result(RTN_LOCAL, addr, 32, dev, prefsrc=addr)
    prefix = addr & mask
    if ipv4_is_loopback(addr):
        net.fib.local_prefixes.append(fib_result(RTN_LOCAL, prefix, ifa.ifa_prefixlen, dev, prefsrc=addr))
    elif ifa.ifa_prefixlen < 32 and not ifa.ifa_flags & devinet.IFA_F_SECONDARY:
        _insert(net, fib_result(RTN_UNICAST, prefix, ifa.ifa_prefixlen, dev, prefsrc=addr))
    if ifa.ifa_broadcast:
        for bcast in (prefix, ifa.ifa_broadcast):
            local.setdefault(bcast, fib_result(RTN_BROADCAST, bcast, 32, dev, prefsrc=addr))
    rt_cache_flush(net)


def fib_sync_addresses(net: Stack) -> None:
    """Build everything that comes from addresses again (fib_del_ifaddr for all that is gone)."""
    net.fib.local.clear()
    net.fib.local_prefixes.clear()
    net.fib.main[:] = [r for r in net.fib.main if r.proto != "kernel"]
    for dev in net.devices.values():
        in_dev = devinet.in_dev_get(dev)
        for ifa in in_dev.ifa_list if in_dev is not None else ():
            fib_add_ifaddr(net, dev, ifa)
    rt_cache_flush(net)


def _insert(net: Stack, entry: fib_result) -> None:
    net.fib.main.append(entry)
    net.fib.main.sort(key=lambda r: -r.prefixlen)  # stable: the older of two equal prefixes stays first


def ip_rt_add(net: Stack, cidr: str, dev: net_device | None, via: str | None) -> None:
    """A static route: by a gateway that is on a link of ours, or on a device's link.  ValueError otherwise."""
    prefix, prefixlen = devinet.parse_cidr(cidr)
    gateway = 0
    if via is not None:
        gateway = in_aton(via)
        hop = fib_lookup(net, gateway)
        if hop is None or hop.type != RTN_UNICAST or hop.gateway:
            raise ValueError(f"the gateway {via} is on no link of this stack: add an address of its subnet first")
        dev = hop.dev
    if dev is None:
        raise ValueError(f"a route to {cidr} needs a device or a gateway")
    entry = fib_result(RTN_UNICAST, prefix & devinet.inet_make_mask(prefixlen), prefixlen, dev, gateway)
    entry.proto = "static"
    _insert(net, entry)
    rt_cache_flush(net)


def fib_lookup(net: Stack, daddr: int, oif: int = 0) -> fib_result | None:
    """The route to ``daddr``: local addresses win, then the longest prefix; ``oif`` limits it to one device."""
    fib = net.fib
    hit = fib.local.get(daddr)
    if hit is not None and (not oif or hit.dev.ifindex == oif):
        return hit
    for entry in fib.local_prefixes:
        if daddr & entry.mask == entry.prefix and (not oif or entry.dev.ifindex == oif):
            return entry
    for entry in fib.main:
        if daddr & entry.mask == entry.prefix and (not oif or entry.dev.ifindex == oif):
            if entry.dev.flags & IFF_UP:
                return entry
    return None


def inet_addr_type_table(net: Stack, addr: int, dev: net_device | None = None) -> int:
    """RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST or RTN_UNICAST for an address that someone binds to or sends to."""
    if ipv4_is_zeronet(addr) or ipv4_is_lbcast(addr):
        return RTN_BROADCAST
    if ipv4_is_multicast(addr):
        return RTN_MULTICAST
    hit = net.fib.local.get(addr)
    if hit is not None and (dev is None or hit.dev is dev):
        return hit.type
    for entry in net.fib.local_prefixes:
        if addr & entry.mask == entry.prefix and (dev is None or entry.dev is dev):
            return entry.type
    return RTN_UNICAST


def inet_addr_type(net: Stack, addr: int) -> int:
    return inet_addr_type_table(net, addr)


def fib_validate_source(net: Stack, saddr: int, dev: net_device) -> bool:
    """Whether a packet from ``saddr`` may come in on ``dev``: never from an address of ours; with rp_filter 1 only
    where the answer would leave, with 2 only if there is any route back."""
    in_dev = devinet.in_dev_get(dev)
    if in_dev is None:
        return True
    if net.fib.local.get(saddr) is not None and not in_dev.cnf_accept_local:
        return dev is net.loopback_dev
    mode = max(in_dev.cnf_rp_filter, net.ipv4.sysctl_rp_filter)
    if not mode:
        return True
    back = fib_lookup(net, saddr)
    return back is not None and (mode == 2 or back.dev is dev)
