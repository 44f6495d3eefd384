# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes and flow keys: include/net/dst.h, include/net/route.h, include/net/flow.h."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stack.include.neighbour import neighbour
    from stack.include.netdevice import net_device
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import sock
    from stack.stack import Stack

RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RTN_BROADCAST: Final = 3
RTN_MULTICAST: Final = 5
RTN_UNREACHABLE: Final = 7

# rt_flags
RTCF_BROADCAST: Final = 0x10000000
RTCF_MULTICAST: Final = 0x20000000
RTCF_LOCAL: Final = 0x80000000

RTAX_LOCK: Final = 1  # a bit for each metric that is not to be changed
RTAX_MTU: Final = 2
RTAX_WINDOW: Final = 3
RTAX_RTT: Final = 4
RTAX_RTTVAR: Final = 5
RTAX_SSTHRESH: Final = 6
RTAX_CWND: Final = 7
RTAX_ADVMSS: Final = 8
RTAX_REORDERING: Final = 9
RTAX_HOPLIMIT: Final = 10
RTAX_INITCWND: Final = 11
RTAX_FEATURES: Final = 12
RTAX_RTO_MIN: Final = 13
RTAX_INITRWND: Final = 14
RTAX_QUICKACK: Final = 15
RTAX_CC_ALGO: Final = 16
RTAX_FASTOPEN_NO_COOKIE: Final = 17


class dst_ops:
    """What a protocol family does with its routes; ``mtu`` and ``default_advmss`` take the dst."""

    __slots__ = ("check", "default_advmss", "family", "link_failure", "mtu", "update_pmtu")

    def __init__(
        self,
        family: int,
        mtu: Callable[[dst_entry], int],
        default_advmss: Callable[[dst_entry], int],
        check: Callable[[dst_entry, int], dst_entry | None],
        update_pmtu: Callable[[dst_entry, sock | None, sk_buff | None, int], None],
        link_failure: Callable[[sk_buff], None],
    ) -> None:
        self.link_failure = link_failure
        self.family = family
        self.mtu = mtu
        self.default_advmss = default_advmss
        self.check = check
        self.update_pmtu = update_pmtu


def dst_link_failure(skb: sk_buff) -> None:
    """The next hop does not answer: tell whoever sent the packet."""
    dst = skb._skb_refdst
    if dst is not None:
        dst.ops.link_failure(skb)


class dst_entry:
    """struct dst_entry: where packets of a flow leave (``output``) or go up (``input``)."""

    __slots__ = ("dev", "input", "metrics", "net", "obsolete", "ops", "output")

    def __init__(self, net: Stack, ops: dst_ops, dev: net_device) -> None:
        self.net = net
        self.ops = ops
        self.dev = dev
        self.obsolete = 0
        self.metrics: dict[int, int] = {}
        self.input: Callable[[sk_buff], int] | None = None
        self.output: Callable[[Stack, sock | None, sk_buff], int] | None = None


class rtable(dst_entry):
    """struct rtable: an IPv4 route.  Addresses are ints in host order; ``rt_gateway`` 0 means on-link."""

    __slots__ = (
        "rt_dst",
        "rt_flags",
        "rt_gateway",
        "rt_genid",
        "rt_is_input",
        "rt_neigh",
        "rt_pmtu",
        "rt_pmtu_expires",
        "rt_src",
        "rt_type",
    )

    def __init__(self, net: Stack, ops: dst_ops, dev: net_device, rt_type: int) -> None:
        super().__init__(net, ops, dev)
        self.rt_type = rt_type
        self.rt_dst = 0
        self.rt_src = 0
        self.rt_gateway = 0
        self.rt_pmtu = 0
        self.rt_pmtu_expires = 0
        self.rt_flags = 0
        self.rt_genid = net.ipv4.rt_genid
        self.rt_is_input = False
        self.rt_neigh: neighbour | None = None  # the next hop, once a packet went there


class flowi4:
    """struct flowi4: the key of a route look-up.  Ports and addresses are ints in host order."""

    __slots__ = (
        "daddr",
        "fl4_dport",
        "fl4_sport",
        "flowi4_iif",
        "flowi4_mark",
        "flowi4_oif",
        "flowi4_proto",
        "flowi4_tos",
        "saddr",
    )

    def __init__(self) -> None:
        self.flowi4_oif = self.flowi4_iif = self.flowi4_mark = self.flowi4_tos = self.flowi4_proto = 0
        self.daddr = self.saddr = 0
        self.fl4_dport = self.fl4_sport = 0


# rt6i_flags (include/uapi/linux/route.h, ipv6_route.h)
RTF_GATEWAY: Final = 0x0002
RTF_REJECT: Final = 0x0200
RTF_ANYCAST: Final = 0x00100000
RTF_LOCAL: Final = 0x80000000


class rt6_info(dst_entry):
    """struct rt6_info: an IPv6 route.  Addresses are ints of 128 bits; ``rt6i_gateway`` 0 means on-link,
    ``rt6i_src`` is the source address that was chosen or asked for; ``rt6i_idev`` the device whose address or link
    it is (``dev`` is lo for an address of ours)."""

    __slots__ = (
        "rt6i_dst",
        "rt6i_flags",
        "rt6i_gateway",
        "rt6i_genid",
        "rt6i_idev",
        "rt6i_neigh",
        "rt6i_plen",
        "rt6i_src",
        "rt_type",
    )

    def __init__(self, net: Stack, ops: dst_ops, dev: net_device, rt_type: int) -> None:
        super().__init__(net, ops, dev)
        self.rt_type = rt_type
        self.rt6i_dst = 0
        self.rt6i_plen = 128  # of the entry in the table; the route itself is for one destination
        self.rt6i_src = 0
        self.rt6i_gateway = 0
        self.rt6i_flags = 0
        self.rt6i_genid = 0
        self.rt6i_idev = dev
        self.rt6i_neigh: neighbour | None = None  # the next hop, once a packet went there


class flowi6:
    """struct flowi6: the key of an IPv6 route look-up.  ``flowlabel`` has the traffic class above its 20 bits."""

    __slots__ = (
        "daddr",
        "fl6_dport",
        "fl6_icmp_code",
        "fl6_icmp_type",
        "fl6_sport",
        "flowi6_iif",
        "flowi6_mark",
        "flowi6_oif",
        "flowi6_proto",
        "flowlabel",
        "saddr",
    )

    def __init__(self) -> None:
        self.daddr = self.saddr = 0
        self.flowi6_oif = self.flowi6_iif = self.flowi6_mark = self.flowi6_proto = 0
        self.flowlabel = 0
        self.fl6_sport = self.fl6_dport = self.fl6_icmp_type = self.fl6_icmp_code = 0


def flowi4_init_output(
    fl4: flowi4,
    oif: int,
    mark: int,
    tos: int,
    proto: int,
    daddr: int,
    saddr: int,
    dport: int,
    sport: int,
) -> None:
    """Fill the key of an output route look-up (the kernel's scope, flags and uid are absent here)."""
    fl4.flowi4_oif = oif
    fl4.flowi4_mark = mark
    fl4.flowi4_tos = tos
    fl4.flowi4_proto = proto
    fl4.daddr = daddr
    fl4.saddr = saddr
    fl4.fl4_dport = dport
    fl4.fl4_sport = sport


def dst_metric(dst: dst_entry, metric: int) -> int:
    return dst.metrics.get(metric, 0) if dst.metrics else 0


def dst_metric_locked(dst: dst_entry, metric: int) -> bool:
    """Whether the route's own value stands, whatever is measured (``ip route ... rtt lock 50ms``)."""
    return bool(dst.metrics.get(RTAX_LOCK, 0) & 1 << metric)


def dst_mtu(dst: dst_entry) -> int:
    """The path MTU in bytes of IP packet, by the family's own rule (``ipv4_mtu``)."""
    return dst.ops.mtu(dst)


def dst_metric_advmss(dst: dst_entry) -> int:
    """The MSS to advertise: the route's own metric, else the family's default (``ipv4_default_advmss``)."""
    return (dst.metrics and dst.metrics.get(RTAX_ADVMSS)) or dst.ops.default_advmss(dst)


def dst_output(net: Stack, sk: sock | None, skb: sk_buff) -> int:
    """Hand the packet to its route: ``ip_output`` for IPv4."""
    dst = skb._skb_refdst
    assert dst is not None
    assert dst.output is not None
    return dst.output(net, sk, skb)
