# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv4 addresses of devices: net/ipv4/devinet.c, struct in_device and in_ifaddr of include/linux/inetdevice.h."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dst import RTN_LOCAL
from stack.include.ip import in_aton, in_ntoa, ipv4_is_loopback
from stack.include.netdevice import IFF_LOOPBACK
from stack.net.ipv4 import arp, fib_frontend, igmp

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.stack import Stack

IFA_F_SECONDARY: Final = 0x01
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPE_HOST: Final = 254


class in_ifaddr:
    """struct in_ifaddr; ``ifa_broadcast`` is 0 for a /31 and /32."""

    __slots__ = ("ifa_broadcast", "ifa_flags", "ifa_local", "ifa_mask", "ifa_prefixlen", "ifa_scope")

    def __init__(self, local: int, prefixlen: int, scope: int) -> None:
        self.ifa_local = local
        self.ifa_prefixlen = prefixlen
        self.ifa_mask = inet_make_mask(prefixlen)
        self.ifa_broadcast = (local | ~self.ifa_mask) & 0xFFFFFFFF if prefixlen < 31 else 0
        self.ifa_scope = scope
        self.ifa_flags = 0


class in_device:
    """struct in_device: ``dev.ip_ptr``.  ``cnf_*`` are /proc/sys/net/ipv4/conf/DEV/*."""

    __slots__ = (
        "cnf_accept_local",
        "cnf_arp_accept",
        "cnf_arp_announce",
        "cnf_arp_ignore",
        "cnf_route_localnet",
        "cnf_rp_filter",
        "ifa_list",
        "mc_list",
    )

    def __init__(self, rp_filter: int) -> None:
        self.ifa_list: list[in_ifaddr] = []
        self.mc_list: list[int] = []
        self.cnf_rp_filter = rp_filter
        self.cnf_accept_local = 0
        self.cnf_route_localnet = 0
        self.cnf_arp_ignore = 0
        self.cnf_arp_announce = 0
        self.cnf_arp_accept = 0


def inet_make_mask(prefixlen: int) -> int:
    return (0xFFFFFFFF << (32 - prefixlen)) & 0xFFFFFFFF


def in_dev_get(dev: net_device) -> in_device | None:
    """__in_dev_get_rcu()."""
    ptr = dev.ip_ptr
    assert ptr is None or isinstance(ptr, in_device)
    return ptr


def inetdev_init(net: Stack, dev: net_device) -> in_device:
    in_dev = in_dev_get(dev)
    if in_dev is None:
        in_dev = in_device(net.ipv4.sysctl_rp_filter)
        dev.ip_ptr = in_dev
        igmp.ip_mc_up(in_dev)
    return in_dev


def devinet_init(net: Stack) -> None:
    """lo has 127.0.0.1/8 from the start."""
    inet_addr_add(net, net.loopback_dev, "127.0.0.1/8")


def parse_cidr(cidr: str) -> tuple[int, int]:
    """"10.0.2.2/24" as address and prefix length; ValueError with the reason."""
    text, slash, plen = cidr.partition("/")
    prefixlen = int(plen) if plen.isascii() and plen.isdigit() else -1
    if not slash or not 0 <= prefixlen <= 32:
        raise ValueError(f"{cidr!r} is not an address with its prefix length, as in 10.0.2.2/24")
    return in_aton(text), prefixlen


def inet_addr_add(net: Stack, dev: net_device, cidr: str) -> in_ifaddr:
    """RTM_NEWADDR: ValueError if the address is malformed or there already."""
    local, prefixlen = parse_cidr(cidr)
    in_dev = inetdev_init(net, dev)
    if any(ifa.ifa_local == local and ifa.ifa_prefixlen == prefixlen for ifa in in_dev.ifa_list):
        raise ValueError(f"{dev.name} has the address {cidr} already")
    ifa = in_ifaddr(local, prefixlen, RT_SCOPE_HOST if ipv4_is_loopback(local) else RT_SCOPE_UNIVERSE)
    inet_insert_ifa(net, dev, ifa)
    return ifa


def inet_insert_ifa(net: Stack, dev: net_device, ifa: in_ifaddr) -> None:
    """An address of a subnet that the device is already in becomes secondary; routes and ARP follow."""
    in_dev = inetdev_init(net, dev)
    for other in in_dev.ifa_list:
        if other.ifa_mask == ifa.ifa_mask and inet_ifa_match(ifa.ifa_local, other):
            ifa.ifa_flags |= IFA_F_SECONDARY
            break
    in_dev.ifa_list.append(ifa)
    fib_frontend.fib_add_ifaddr(net, dev, ifa)
    if not dev.flags & IFF_LOOPBACK and dev.ndo_start_xmit is not None:
        arp.arp_send_gratuitous(net, dev, ifa.ifa_local)


def inet_addr_del(net: Stack, dev: net_device, cidr: str) -> None:
    """RTM_DELADDR; ValueError if the device has no such address.  A secondary of the same subnet is promoted, as
    with promote_secondaries=1."""
    local, prefixlen = parse_cidr(cidr)
    in_dev = inetdev_init(net, dev)
    for ifa in in_dev.ifa_list:
        if ifa.ifa_local == local and ifa.ifa_prefixlen == prefixlen:
            break
    else:
        raise ValueError(f"{dev.name} has no address {cidr}")
    in_dev.ifa_list.remove(ifa)
    if not ifa.ifa_flags & IFA_F_SECONDARY:
        for other in in_dev.ifa_list:
            if other.ifa_mask == ifa.ifa_mask and inet_ifa_match(local, other):
                other.ifa_flags &= ~IFA_F_SECONDARY
                break
    fib_frontend.fib_sync_addresses(net)


def inet_ifa_match(addr: int, ifa: in_ifaddr) -> bool:
    return (addr ^ ifa.ifa_local) & ifa.ifa_mask == 0


def __ip_dev_find(net: Stack, addr: int) -> net_device | None:
    """The device that has this local address."""
    hit = net.fib.local.get(addr)
    return hit.dev if hit is not None and hit.type == RTN_LOCAL else None


def inet_confirm_addr(net: Stack, dev: net_device, addr: int) -> int:
    """The address if the device has it, else 0."""
    in_dev = in_dev_get(dev)
    if in_dev is not None and any(ifa.ifa_local == addr for ifa in in_dev.ifa_list):
        return addr
    return 0


def inet_select_addr(dev: net_device, dst: int, scope: int = RT_SCOPE_UNIVERSE) -> int:
    """The source address to use on this device towards ``dst``: the primary one of its subnet, else the first
    primary one, else one of another device; 0 if there is none."""
    in_dev = in_dev_get(dev)
    first = 0
    for ifa in in_dev.ifa_list if in_dev is not None else ():
        if ifa.ifa_flags & IFA_F_SECONDARY or ifa.ifa_scope > scope:
            continue
        if not dst or inet_ifa_match(dst, ifa):
            return ifa.ifa_local
        first = first or ifa.ifa_local
    if first:
        return first
    return 0 if dev.flags & IFF_LOOPBACK else _select_elsewhere(dev, scope)


def _select_elsewhere(dev: net_device, scope: int) -> int:
    for other in dev.net.devices.values():
        in_dev = in_dev_get(other)
        if other is dev or in_dev is None:
            continue
        for ifa in in_dev.ifa_list:
            if not ifa.ifa_flags & IFA_F_SECONDARY and ifa.ifa_scope <= scope:
                return ifa.ifa_local
    return 0


def ifaddrs(dev: net_device) -> list[str]:
    """The device's addresses as text with prefix length, primary ones first of their subnet."""
    in_dev = in_dev_get(dev)
    return [f"{in_ntoa(i.ifa_local)}/{i.ifa_prefixlen}" for i in in_dev.ifa_list] if in_dev is not None else []
