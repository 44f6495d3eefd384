# SPDX-License-Identifier: GPL-2.0-or-later
"""The groups that a device and its sockets have joined: net/ipv6/mcast.c (RFC 3493, section 5.2).

A device takes packets to a group while anybody is in it: an address of the device (its solicited-node group), the
device itself (all nodes) or a socket (IPV6_ADD_MEMBERSHIP).  Whoever joins counts once and leaves once.

Departures: no source filters, no IPV6_MULTICAST_ALL (a socket bound to no address hears every group of its device), and
no reports by MLD: a virtual link has no snooping switch.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from stack.include.dst import flowi6
from stack.include.ipv6 import ipv6_addr_is_multicast
from stack.net.ipv6 import addrconf, route

if TYPE_CHECKING:
    from stack.include.netdevice import net_device


def ipv6_dev_mc_inc(dev: net_device, group: int) -> None:
    """Join a group on a device."""
    idev = addrconf.in6_dev_get(dev)
    assert idev is not None
    idev.mc_list[group] = idev.mc_list.get(group, 0) + 1


def ipv6_dev_mc_dec(dev: net_device, group: int) -> None:
    """Leave it again, as often as it was joined."""
    idev = addrconf.in6_dev_get(dev)
    assert idev is not None
    idev.mc_list[group] -= 1
    if not idev.mc_list[group]:
        del idev.mc_list[group]


def ipv6_chk_mcast_addr(dev: net_device, group: int) -> bool:
    """Whether the device takes packets to this group."""
    idev = addrconf.in6_dev_get(dev)
    return idev is not None and group in idev.mc_list


# -- sockets -----------------------------------------------------------------------------------------------------------


def ipv6_sock_mc_join(sk: Any, ifindex: int, addr: int) -> int:
    """Join a group on a device, or with ``ifindex`` 0 on the one that packets to it leave by.  0, -EINVAL (no group),
    -EADDRINUSE (joined already), -ENODEV."""
    if not ipv6_addr_is_multicast(addr):
        return -errno.EINVAL
    if _joined(sk, ifindex, addr) is not None:
        return -errno.EADDRINUSE
    dev = _device_of(sk, ifindex, addr)
    if dev is None or addrconf.in6_dev_get(dev) is None:
        return -errno.ENODEV
    sk.pinet6.ipv6_mc_list[addr, dev.ifindex] = dev.ifindex
    ipv6_dev_mc_inc(dev, addr)
    return 0


def _joined(sk: Any, ifindex: int, addr: int) -> int | None:
    """The device on which the socket is in the group; ``ifindex`` 0 stands for any."""
    return next((dev for group, dev in sk.pinet6.ipv6_mc_list if group == addr and ifindex in (0, dev)), None)


def _device_of(sk: Any, ifindex: int, addr: int) -> net_device | None:
    devices: dict[int, net_device] = sk.sk_net.devices
    if ifindex:
        return devices.get(ifindex)
    fl6 = flowi6()
    fl6.daddr, fl6.flowi6_oif = addr, sk.sk_bound_dev_if
    rt = route.ip6_route_output(sk.sk_net, sk, fl6)
    return None if isinstance(rt, int) else rt.dev


def ipv6_sock_mc_drop(sk: Any, ifindex: int, addr: int) -> int:
    """Leave it: 0, -EINVAL (no group) or -EADDRNOTAVAIL (not joined like that)."""
    if not ipv6_addr_is_multicast(addr):
        return -errno.EINVAL
    joined = _joined(sk, ifindex, addr)
    if joined is None:
        return -errno.EADDRNOTAVAIL
    del sk.pinet6.ipv6_mc_list[addr, joined]
    ipv6_dev_mc_dec(sk.sk_net.devices[joined], addr)
    return 0


def ipv6_sock_mc_close(sk: Any) -> None:
    """The socket goes, and leaves all its groups."""
    for addr, ifindex in list(sk.pinet6.ipv6_mc_list):
        ipv6_sock_mc_drop(sk, ifindex, addr)
