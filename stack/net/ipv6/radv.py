# SPDX-License-Identifier: GPL-2.0-or-later
"""Router advertisements that this stack sends: RFC 4861 section 6.2, RFC 4862, RFC 8106.

On a Linux machine radvd does this, not the kernel; here it is what lets a guest configure itself.  Timing is section
6.2.4's and 6.2.6's: three initial ones 16 s apart at most, then one in a random time between min and max interval; a
solicitation is answered to all nodes after a random delay up to 0.5 s, and two to all nodes are at least 3 s apart - so
solicitations cannot make us send more, whatever their number.

An advertisement holds the prefix (on-link, autonomous), the MTU, our link address and, if given, name servers and
search domains.  Its O flag says that DHCPv6 has more of that kind; addresses are not to be had there.  Its router
lifetime is 0 unless asked for: a stack that forwards nothing is not a default router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.ipv6 import (
    NDISC_ROUTER_ADVERTISEMENT,
    in6_pton,
    in6addr_linklocal_allnodes,
    in6addr_linklocal_allrouters,
    ipv6_prefix,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import del_timer, jiffies, mod_timer, timer_setup
from stack.net.ipv6 import addrconf, mcast, ndisc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stack.include.netdevice import net_device
    from stack.stack import Stack

# RFC 4861, section 10
MAX_INITIAL_RTR_ADVERT_INTERVAL: Final = 16 * HZ
MAX_INITIAL_RTR_ADVERTISEMENTS: Final = 3
MIN_DELAY_BETWEEN_RAS: Final = 3 * HZ
MAX_RA_DELAY_TIME: Final = HZ // 2

MAX_INTERVAL: Final = 600 * HZ  # MaxRtrAdvInterval; the minimum is a third of it, section 6.2.1
VALID_LIFETIME: Final = 2_592_000  # s, AdvValidLifetime
PREFERRED_LIFETIME: Final = 604_800  # s, AdvPreferredLifetime
RDNSS_LIFETIME: Final = 3 * MAX_INTERVAL // HZ  # s, RFC 8106 section 5.1

_PREFIX_FLAGS: Final = 0xC0  # on-link, autonomous
_OTHER_CONFIG: Final = 0x40  # section 4.2: the O flag


class ra_server:
    """The advertisements of one device.  ``last`` is when the last one went out, in jiffies; ``sent`` how many."""

    __slots__ = ("dev", "dns", "domains", "last", "other", "plen", "prefix", "router_lifetime", "sent", "timer")

    def __init__(self, dev: net_device, prefix: int, plen: int, dns: list[int], router_lifetime: int) -> None:
        self.dev = dev
        self.prefix = prefix
        self.plen = plen
        self.dns = dns
        self.router_lifetime = router_lifetime
        self.domains: list[str] = []
        self.other = False
        self.sent = 0
        self.last = jiffies(dev.net) - MIN_DELAY_BETWEEN_RAS
        self.timer = timer_setup(ra_timer, self)


def ra_start(
    net: Stack,
    dev: net_device,
    cidr: str,
    dns: Sequence[str] = (),
    router_lifetime: int = 0,
    domains: Sequence[str] = (),
    other: bool = False,
) -> None:
    """Begin to advertise the prefix of ``cidr`` ("fd00:10:0:2::/64") on a device; what was advertised there before
    ends. ``router_lifetime`` in seconds, 0..9000; ``other`` is the O flag.  ValueError for a prefix that no host can
    make an address from (RFC 4862 section 5.5.3 (d): 64 bits), a malformed domain, or a device without IPv6."""
    addr, plen = addrconf.parse_cidr6(cidr)
    idev = addrconf.in6_dev_get(dev)
    if plen != 64:
        raise ValueError(f"{cidr}: an Ethernet host makes its address from a prefix of 64 bits only")
    if not 0 <= router_lifetime <= 9000:
        raise ValueError(f"a router lifetime of {router_lifetime} s is outside 0..9000")
    for name in domains:
        _dns_name(name)
    if idev is None:
        raise ValueError(f"{dev.name} has no IPv6: no router advertisements there")
    ra_stop(net, dev)
    servers = [in6_pton(d) for d in dns]
    idev.ra = ra_server(dev, ipv6_prefix(addr, plen), plen, servers, router_lifetime)
    idev.ra.domains, idev.ra.other = list(domains), other
    mcast.ipv6_dev_mc_inc(dev, in6addr_linklocal_allrouters)
    mod_timer(net, idev.ra.timer, jiffies(net))


def ra_stop(net: Stack, dev: net_device) -> None:
    """End it; nothing is taken back from who configured itself."""
    idev = addrconf.in6_dev_get(dev)
    if idev is None or idev.ra is None:
        return
    del_timer(net, idev.ra.timer)
    idev.ra = None
    mcast.ipv6_dev_mc_dec(dev, in6addr_linklocal_allrouters)


def ra_message(ra: ra_server) -> tuple[int, bytes]:
    """The advertisement: the last 32 bits of its ICMPv6 header, and what follows."""
    dev = ra.dev
    flags = _OTHER_CONFIG if ra.other else 0
    data = dev.net.ipv6.sysctl_hop_limit << 24 | flags << 16 | ra.router_lifetime
    body = bytearray(8)  # reachable time and retransmission timer: unspecified
    body += ndisc.ndisc_opt_lladdr(ndisc.ND_OPT_SOURCE_LL_ADDR, dev.dev_addr)
    body += bytes((ndisc.ND_OPT_MTU, 1, 0, 0)) + dev.mtu.to_bytes(4, "big")
    body += bytes((ndisc.ND_OPT_PREFIX_INFO, 4, ra.plen, _PREFIX_FLAGS))
    body += VALID_LIFETIME.to_bytes(4, "big") + PREFERRED_LIFETIME.to_bytes(4, "big") + bytes(4)
    body += ra.prefix.to_bytes(16, "big")
    if ra.dns:
        body += bytes((ndisc.ND_OPT_RDNSS, 1 + 2 * len(ra.dns), 0, 0)) + RDNSS_LIFETIME.to_bytes(4, "big")
        for server in ra.dns:
            body += server.to_bytes(16, "big")
    if ra.domains:
        names = b"".join(map(_dns_name, ra.domains))
        names += bytes(-len(names) % 8)
        body += bytes((ndisc.ND_OPT_DNSSL, 1 + len(names) // 8, 0, 0)) + RDNSS_LIFETIME.to_bytes(4, "big") + names
    return data, bytes(body)


def _dns_name(name: str) -> bytes:
    """RFC 1035, section 3.1: labels with their lengths; ValueError for one that is empty or too long."""
    labels = [label.encode("ascii") for label in name.split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"{name!r} is no domain: each label has 1 to 63 characters")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def ra_timer(ra: ra_server) -> None:
    """Send one to all nodes, and plan the next."""
    dev = ra.dev
    net = dev.net
    data, body = ra_message(ra)
    saddr = addrconf.ipv6_get_lladdr(dev)
    ndisc.ndisc_send_skb(net, dev, in6addr_linklocal_allnodes, saddr, NDISC_ROUTER_ADVERTISEMENT, data, body)
    ra.sent += 1
    ra.last = jiffies(net)
    least = MAX_INTERVAL // 3
    wait = least + net.rng.get_random_u32_below(MAX_INTERVAL - least)
    if ra.sent < MAX_INITIAL_RTR_ADVERTISEMENTS:
        wait = min(wait, MAX_INITIAL_RTR_ADVERT_INTERVAL)
    mod_timer(net, ra.timer, ra.last + wait)


def ra_solicited(ra: ra_server) -> None:
    """Somebody asks: one to all nodes soon, if none is due before."""
    net = ra.dev.net
    when = jiffies(net) + net.rng.get_random_u32_below(MAX_RA_DELAY_TIME)
    when = max(when, ra.last + MIN_DELAY_BETWEEN_RAS)
    if when < ra.timer.expires:
        mod_timer(net, ra.timer, when)
