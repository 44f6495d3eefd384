# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv6 addresses of devices: net/ipv6/addrconf.c, struct inet6_dev and inet6_ifaddr of include/net/if_inet6.h.

An Ethernet device has its link-local address from the start, with the modified EUI-64 of its hardware address as
interface identifier (RFC 4862 section 5.3, RFC 2464 section 4), and is a member of all-nodes and of the solicited-node
group of each address.  A device whose MTU is below 1280 has no IPv6 (RFC 8200, section 5).

Departures: our addresses are configured, so duplicate address detection is not done before they are used - that of
others is answered (ndisc.py).  What routers advertise is not followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.ipv6 import (
    IPV6_MIN_MTU,
    addrconf_addr_solict_mult,
    addrconf_ifid_eui48,
    in6_ntop,
    in6_pton,
    in6addr_linklocal_allnodes,
    ipv6_addr_any,
    ipv6_addr_is_linklocal,
    ipv6_addr_is_multicast,
    ipv6_addr_loopback,
    ipv6_addr_mc_scope,
    ipv6_prefix,
)
from stack.include.netdevice import IFF_LOOPBACK, IFF_UP
from stack.net.ipv6 import mcast, route

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.net.ipv6.radv import ra_server
    from stack.stack import Stack

# include/net/ipv6.h: scopes, RFC 4007 and RFC 4291 section 2.7
IPV6_ADDR_SCOPE_NODELOCAL: Final = 0x01
IPV6_ADDR_SCOPE_LINKLOCAL: Final = 0x02
IPV6_ADDR_SCOPE_SITELOCAL: Final = 0x05
IPV6_ADDR_SCOPE_GLOBAL: Final = 0x0E

_LINKLOCAL_PREFIX: Final = 0xFE80 << 112


class inet6_ifaddr:
    """struct inet6_ifaddr."""

    __slots__ = ("addr", "prefix_len", "scope")

    def __init__(self, addr: int, prefix_len: int) -> None:
        self.addr = addr
        self.prefix_len = prefix_len
        self.scope = ipv6_addr_scope(addr)


class inet6_dev:
    """struct inet6_dev: ``dev.ip6_ptr``.  ``mc_list`` counts the members of each group; ``ra`` are the router
    advertisements sent on this link, if any."""

    __slots__ = ("addr_list", "mc_list", "ra")

    def __init__(self) -> None:
        self.addr_list: list[inet6_ifaddr] = []
        self.mc_list: dict[int, int] = {}
        self.ra: ra_server | None = None


def ipv6_addr_scope(addr: int) -> int:
    """ipv6_addr_src_scope(): how far an address reaches."""
    if ipv6_addr_is_multicast(addr):
        return ipv6_addr_mc_scope(addr)
    if ipv6_addr_loopback(addr):
        return IPV6_ADDR_SCOPE_NODELOCAL
    return IPV6_ADDR_SCOPE_LINKLOCAL if ipv6_addr_is_linklocal(addr) else IPV6_ADDR_SCOPE_GLOBAL


def in6_dev_get(dev: net_device) -> inet6_dev | None:
    """__in6_dev_get(): None if the device has no IPv6."""
    ptr = dev.ip6_ptr
    assert ptr is None or isinstance(ptr, inet6_dev)
    return ptr


def ipv6_add_dev(net: Stack, dev: net_device) -> inet6_dev | None:
    """A device begins to speak IPv6 (addrconf_notify, addrconf_dev_config); None if it can't."""
    idev = in6_dev_get(dev)
    if idev is not None:
        return idev
    if dev.mtu < IPV6_MIN_MTU or net.ipv6.sysctl_disable_ipv6:
        return None
    idev = inet6_dev()
    dev.ip6_ptr = idev
    mcast.ipv6_dev_mc_inc(dev, in6addr_linklocal_allnodes)
    if not dev.flags & IFF_LOOPBACK:
        ipv6_add_addr(net, dev, inet6_ifaddr(_LINKLOCAL_PREFIX | addrconf_ifid_eui48(dev.dev_addr), 64))
    return idev


def addrconf_init(net: Stack) -> None:
    """lo has ::1 from the start."""
    if ipv6_add_dev(net, net.loopback_dev) is not None:
        ipv6_add_addr(net, net.loopback_dev, inet6_ifaddr(1, 128))


# -- addresses ---------------------------------------------------------------------------------------------------------


def parse_cidr6(cidr: str) -> tuple[int, int]:
    """"fd00::2/64" as address and prefix length; ValueError with the reason."""
    text, slash, plen = cidr.partition("/")
    prefix_len = int(plen) if plen.isascii() and plen.isdigit() else -1
    if not slash or not 0 <= prefix_len <= 128:
        raise ValueError(f"{cidr!r} is not an address with its prefix length, as in fd00::2/64")
    return in6_pton(text), prefix_len


def inet6_addr_add(net: Stack, dev: net_device, cidr: str) -> inet6_ifaddr:
    """RTM_NEWADDR: ValueError if the address is malformed, no host's, there already, or the device has no IPv6."""
    addr, prefix_len = parse_cidr6(cidr)
    if ipv6_addr_is_multicast(addr) or ipv6_addr_any(addr):
        raise ValueError(f"{cidr} cannot be a host's address")
    idev = ipv6_add_dev(net, dev)
    if idev is None:
        raise ValueError(f"{dev.name} has no IPv6: its MTU is {dev.mtu}, or disable_ipv6 is set; 1280 is the least")
    if any(ifa.addr == addr for ifa in idev.addr_list):
        raise ValueError(f"{dev.name} has the address {cidr} already")
    ifa = inet6_ifaddr(addr, prefix_len)
    ipv6_add_addr(net, dev, ifa)
    return ifa


def ipv6_add_addr(net: Stack, dev: net_device, ifa: inet6_ifaddr) -> None:
    """The address with its group and its routes; last of its scope, wider scopes first."""
    idev = in6_dev_get(dev)
    assert idev is not None
    at = 0
    while at < len(idev.addr_list) and idev.addr_list[at].scope >= ifa.scope:
        at += 1
    idev.addr_list.insert(at, ifa)
    mcast.ipv6_dev_mc_inc(dev, addrconf_addr_solict_mult(ifa.addr))
    route.fib6_add_ifaddr(net, dev, ifa)


def inet6_addr_del(net: Stack, dev: net_device, cidr: str) -> None:
    """RTM_DELADDR; ValueError if the device has no such address."""
    addr, prefix_len = parse_cidr6(cidr)
    idev = in6_dev_get(dev)
    for ifa in idev.addr_list if idev is not None else ():
        if ifa.addr == addr and ifa.prefix_len == prefix_len:
            break
    else:
        raise ValueError(f"{dev.name} has no address {cidr}")
    assert idev is not None
    idev.addr_list.remove(ifa)
    mcast.ipv6_dev_mc_dec(dev, addrconf_addr_solict_mult(addr))
    route.fib6_sync_addresses(net)


def ipv6_chk_addr(net: Stack, addr: int, dev: net_device | None) -> bool:
    """Whether the address is ours: on this device, or on any if none is given (link-local ones need one)."""
    owners = net.fib6.local.get(addr)
    return owners is not None and (dev is None or dev in owners)


def ipv6_dev_get_saddr(net: Stack, dst_dev: net_device | None, daddr: int) -> int:
    """The source address towards ``daddr`` (RFC 6724, section 5: the address itself, then scope, then the outgoing
    device, then the longest common prefix); 0 if there is none."""
    best = 0
    best_rank: tuple[int, ...] = ()
    want = ipv6_addr_scope(daddr)
    for dev in net.devices.values():
        idev = in6_dev_get(dev)
        if idev is None or not dev.flags & IFF_UP:
            continue
        if want <= IPV6_ADDR_SCOPE_LINKLOCAL and dst_dev is not None and dev is not dst_dev:
            continue
        for ifa in idev.addr_list:
            if ifa.scope == IPV6_ADDR_SCOPE_LINKLOCAL and dev is not dst_dev:
                continue
            rank = (
                int(ifa.addr == daddr),
                ifa.scope if ifa.scope < want else 2 * IPV6_ADDR_SCOPE_GLOBAL - ifa.scope,
                int(dev is dst_dev),
                min(128 - (ifa.addr ^ daddr).bit_length(), ifa.prefix_len),
            )
            if not best or rank > best_rank:
                best, best_rank = ifa.addr, rank
    return best


def ipv6_get_lladdr(dev: net_device) -> int:
    """The device's link-local address, 0 if it has none."""
    idev = in6_dev_get(dev)
    for ifa in idev.addr_list if idev is not None else ():
        if ifa.scope == IPV6_ADDR_SCOPE_LINKLOCAL:
            return ifa.addr
    return 0


def ifaddrs6(dev: net_device) -> list[str]:
    """The device's addresses as text with prefix length, global ones first."""
    idev = in6_dev_get(dev)
    return [f"{in6_ntop(i.addr)}/{i.prefix_len}" for i in idev.addr_list] if idev is not None else []


def prefix_of(ifa: inet6_ifaddr) -> int:
    """The prefix that the address is on."""
    return ipv6_prefix(ifa.addr, ifa.prefix_len)
