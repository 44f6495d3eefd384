# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of level SOL_IPV6: net/ipv6/ipv6_sockglue.c.

Values are ints, or ``bytes`` of at least four in the machine's order.  A socket of AF_INET6 knows the options of SOL_IP
too, for the IPv4 that it may speak.  What is not known is -ENOPROTOOPT; docs/sockets.md has the list.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from stack.include.dst import dst_mtu
from stack.include.inet_sock import IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT
from stack.include.ipv6 import (
    IPV6_2292HOPLIMIT,
    IPV6_2292PKTINFO,
    IPV6_ADD_MEMBERSHIP,
    IPV6_AUTOFLOWLABEL,
    IPV6_DONTFRAG,
    IPV6_DROP_MEMBERSHIP,
    IPV6_FLOWINFO,
    IPV6_FREEBIND,
    IPV6_MIN_MTU,
    IPV6_MINHOPCOUNT,
    IPV6_MTU,
    IPV6_MTU_DISCOVER,
    IPV6_MULTICAST_ALL,
    IPV6_MULTICAST_HOPS,
    IPV6_MULTICAST_IF,
    IPV6_MULTICAST_LOOP,
    IPV6_RECVERR,
    IPV6_RECVERR_RFC4884,
    IPV6_RECVFRAGSIZE,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVORIGDSTADDR,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    IPV6_ROUTER_ALERT,
    IPV6_RXOPT_RECVFRAGSIZE,
    IPV6_RXOPT_RXFLOW,
    IPV6_RXOPT_RXHLIM,
    IPV6_RXOPT_RXINFO,
    IPV6_RXOPT_RXOHLIM,
    IPV6_RXOPT_RXOINFO,
    IPV6_RXOPT_RXORIGDSTADDR,
    IPV6_RXOPT_RXTCLASS,
    IPV6_TCLASS,
    IPV6_TRANSPARENT,
    IPV6_UNICAST_HOPS,
    IPV6_UNICAST_IF,
    IPV6_V6ONLY,
)
from stack.include.net import optval_t
from stack.include.sock import INT_MAX, SOCK_STREAM
from stack.net.ipv4 import ip_sockglue
from stack.net.ipv6 import ip6_output, mcast

SOL_IPV6: Final = 41


def _set_v6only(sk: Any, val: int) -> int:
    """Only before bind(): the port's conflicts hang on it."""
    if sk.sk_num:
        return -errno.EINVAL
    sk.sk_ipv6only = bool(val)
    return 0


def _set_tclass(sk: Any, val: int) -> int:
    """-1 is the default, 0.  On a stream the two ECN bits belong to TCP and stay as they are."""
    if not -1 <= val <= 255:
        return -errno.EINVAL
    val = max(val, 0)
    np = sk.pinet6
    if sk.sk_type == SOCK_STREAM:
        val = (val & ~3) | (np.tclass & 3)
    if np.tclass != val:
        np.tclass = val
        sk.sk_dst_cache = None
    return 0


def _set_unicast_hops(sk: Any, val: int) -> int:
    if not -1 <= val <= 255:
        return -errno.EINVAL
    sk.pinet6.hop_limit = val
    return 0


def _set_multicast_hops(sk: Any, val: int) -> int:
    if sk.sk_type == SOCK_STREAM:
        return -errno.ENOPROTOOPT
    if not -1 <= val <= 255:
        return -errno.EINVAL
    sk.pinet6.mcast_hops = 1 if val == -1 else val
    return 0


def _set_multicast_loop(sk: Any, val: int) -> int:
    if val not in (0, 1):
        return -errno.EINVAL
    sk.pinet6.mc_loop = bool(val)
    return 0


def _set_mtu_discover(sk: Any, val: int) -> int:
    if not IP_PMTUDISC_DONT <= val <= IP_PMTUDISC_OMIT:
        return -errno.EINVAL
    sk.pinet6.pmtudisc = val
    return 0


def _set_minhopcount(sk: Any, val: int) -> int:
    if not 0 <= val <= 255:
        return -errno.EINVAL
    sk.pinet6.min_hopcount = val
    return 0


def _set_recverr(sk: Any, val: int) -> int:
    sk.pinet6.recverr = bool(val)
    if not val:
        sk.sk_error_queue.clear()
    return 0


def _set_autoflowlabel(sk: Any, val: int) -> int:
    sk.pinet6.autoflowlabel, sk.pinet6.autoflowlabel_set = bool(val), True
    return 0


def _set_freebind(sk: Any, val: int) -> int:
    sk.freebind = bool(val)
    return 0


def _set_transparent(sk: Any, val: int) -> int:
    sk.transparent = bool(val)
    return 0


def _rxopt(bit: int) -> Callable[[Any, int], int]:
    """Whether recvmsg() tells something."""

    def set_bit(sk: Any, val: int) -> int:
        np = sk.pinet6
        np.rxopt = np.rxopt | bit if val else np.rxopt & ~bit
        return 0

    return set_bit


def _set_multicast_if(sk: Any, val: int) -> int:
    """The device that multicasts leave by; 0: the route decides."""
    if sk.sk_type == SOCK_STREAM:
        return -errno.ENOPROTOOPT
    if val:
        if val not in sk.sk_net.devices:
            return -errno.ENODEV
        if sk.sk_bound_dev_if not in (0, val):
            return -errno.EINVAL
    sk.pinet6.mcast_oif = val
    return 0


def _set_unicast_if(sk: Any, val: int) -> int:
    """The number of the device that datagrams leave by, in network order."""
    index = int.from_bytes((val & 0xFFFFFFFF).to_bytes(4, "little"), "big")
    if index and index not in sk.sk_net.devices:
        return -errno.EADDRNOTAVAIL
    if index and sk.sk_bound_dev_if not in (0, index):
        return -errno.EINVAL
    sk.pinet6.ucast_oif = index
    return 0


def _set_mtu(sk: Any, val: int) -> int:
    """The size that this socket's datagrams are cut to; 0 is the path's."""
    if val and val < IPV6_MIN_MTU:
        return -errno.EINVAL
    sk.pinet6.frag_size = val
    return 0


def _set_dontfrag(sk: Any, val: int) -> int:
    sk.pinet6.dontfrag = bool(val)
    return 0


def _set_multicast_all(sk: Any, val: int) -> int:
    sk.pinet6.mc_all = bool(val)
    return 0


def _set_recverr_rfc4884(sk: Any, val: int) -> int:
    if val not in (0, 1):
        return -errno.EINVAL
    sk.pinet6.recverr_rfc4884 = bool(val)
    return 0


_SETTERS: Final[dict[int, Callable[[Any, int], int]]] = {
    IPV6_V6ONLY: _set_v6only,
    IPV6_TCLASS: _set_tclass,
    IPV6_UNICAST_HOPS: _set_unicast_hops,
    IPV6_UNICAST_IF: _set_unicast_if,
    IPV6_MULTICAST_HOPS: _set_multicast_hops,
    IPV6_MULTICAST_LOOP: _set_multicast_loop,
    IPV6_MULTICAST_ALL: _set_multicast_all,
    IPV6_MULTICAST_IF: _set_multicast_if,
    IPV6_MTU: _set_mtu,
    IPV6_MTU_DISCOVER: _set_mtu_discover,
    IPV6_DONTFRAG: _set_dontfrag,
    IPV6_MINHOPCOUNT: _set_minhopcount,
    IPV6_RECVERR: _set_recverr,
    IPV6_RECVERR_RFC4884: _set_recverr_rfc4884,
    IPV6_RECVPKTINFO: _rxopt(IPV6_RXOPT_RXINFO),
    IPV6_2292PKTINFO: _rxopt(IPV6_RXOPT_RXOINFO),
    IPV6_RECVHOPLIMIT: _rxopt(IPV6_RXOPT_RXHLIM),
    IPV6_2292HOPLIMIT: _rxopt(IPV6_RXOPT_RXOHLIM),
    IPV6_RECVTCLASS: _rxopt(IPV6_RXOPT_RXTCLASS),
    IPV6_FLOWINFO: _rxopt(IPV6_RXOPT_RXFLOW),
    IPV6_RECVORIGDSTADDR: _rxopt(IPV6_RXOPT_RXORIGDSTADDR),
    IPV6_RECVFRAGSIZE: _rxopt(IPV6_RXOPT_RECVFRAGSIZE),
    IPV6_AUTOFLOWLABEL: _set_autoflowlabel,
    IPV6_FREEBIND: _set_freebind,
    IPV6_TRANSPARENT: _set_transparent,
}
# A value shorter than an int is 0, where for the others it is an error.
_SHORT_IS_ZERO: Final = frozenset((IPV6_DONTFRAG, IPV6_AUTOFLOWLABEL, IPV6_RECVFRAGSIZE))


def ipv6_setsockopt(sk: Any, level: int, optname: int, optval: optval_t) -> int:
    """0, -EINVAL or -ENOPROTOOPT."""
    if level == ip_sockglue.SOL_IP:
        return ip_sockglue.ip_setsockopt(sk, level, optname, optval)
    if level != SOL_IPV6:
        return -errno.ENOPROTOOPT
    return do_ipv6_setsockopt(sk, level, optname, optval)


# struct ipv6_mreq: ipv6mr_multiaddr, ipv6mr_ifindex
_IPV6_MREQ: Final = Struct("=16si")


def _membership(sk: Any, optname: int, optval: optval_t) -> int:
    """-EPROTO for a stream, which no group can be the other end of."""
    if isinstance(optval, int) or len(optval) < _IPV6_MREQ.size:
        return -errno.EINVAL
    if sk.sk_type == SOCK_STREAM:
        return -errno.EPROTO
    group, ifindex = _IPV6_MREQ.unpack_from(optval)
    change = mcast.ipv6_sock_mc_join if optname == IPV6_ADD_MEMBERSHIP else mcast.ipv6_sock_mc_drop
    return change(sk, ifindex, int.from_bytes(group, "big"))


def do_ipv6_setsockopt(sk: Any, level: int, optname: int, optval: optval_t) -> int:
    if optname in (IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP):
        return _membership(sk, optname, optval)
    setter = _SETTERS.get(optname)
    if setter is None:
        return -errno.ENOPROTOOPT
    if not isinstance(optval, int):
        if len(optval) >= 4:
            optval = int.from_bytes(optval[:4], "little", signed=True)
        elif optname in _SHORT_IS_ZERO:
            optval = 0
        else:
            of_datagrams = optname in (IPV6_MULTICAST_HOPS, IPV6_MULTICAST_IF)
            return -errno.ENOPROTOOPT if of_datagrams and sk.sk_type == SOCK_STREAM else -errno.EINVAL
    return setter(sk, optval)


def _get_mtu(sk: Any) -> int:
    dst = sk.sk_dst_cache
    return dst_mtu(dst) if dst is not None else -errno.ENOTCONN


def _get_hops(sk: Any) -> int:
    hops: int = sk.pinet6.hop_limit
    if hops < 0:
        hops = sk.sk_net.ipv6.sysctl_hop_limit
    return hops


def _has_rxopt(bit: int) -> Callable[[Any], int]:
    return lambda sk: int(sk.pinet6.rxopt & bit != 0)


_GETTERS: Final[dict[int, Callable[[Any], int]]] = {
    IPV6_V6ONLY: lambda sk: int(sk.sk_ipv6only),
    IPV6_TCLASS: lambda sk: int(sk.pinet6.tclass),
    IPV6_UNICAST_HOPS: _get_hops,
    IPV6_MULTICAST_HOPS: lambda sk: int(sk.pinet6.mcast_hops),
    IPV6_MULTICAST_LOOP: lambda sk: int(sk.pinet6.mc_loop),
    IPV6_MTU_DISCOVER: lambda sk: int(sk.pinet6.pmtudisc),
    IPV6_MINHOPCOUNT: lambda sk: int(sk.pinet6.min_hopcount),
    IPV6_RECVERR: lambda sk: int(sk.pinet6.recverr),
    IPV6_AUTOFLOWLABEL: lambda sk: int(ip6_output.ip6_autoflowlabel(sk.sk_net, sk.pinet6)),
    IPV6_FREEBIND: lambda sk: int(sk.freebind),
    IPV6_TRANSPARENT: lambda sk: int(sk.transparent),
    IPV6_MTU: _get_mtu,
    IPV6_DONTFRAG: lambda sk: int(sk.pinet6.dontfrag),
    IPV6_UNICAST_IF: lambda sk: int.from_bytes(sk.pinet6.ucast_oif.to_bytes(4, "big"), "little"),
    IPV6_MULTICAST_ALL: lambda sk: int(sk.pinet6.mc_all),
    IPV6_MULTICAST_IF: lambda sk: int(sk.pinet6.mcast_oif),
    IPV6_RECVERR_RFC4884: lambda sk: int(sk.pinet6.recverr_rfc4884),
    IPV6_RECVPKTINFO: _has_rxopt(IPV6_RXOPT_RXINFO),
    IPV6_2292PKTINFO: _has_rxopt(IPV6_RXOPT_RXOINFO),
    IPV6_RECVHOPLIMIT: _has_rxopt(IPV6_RXOPT_RXHLIM),
    IPV6_2292HOPLIMIT: _has_rxopt(IPV6_RXOPT_RXOHLIM),
    IPV6_RECVTCLASS: _has_rxopt(IPV6_RXOPT_RXTCLASS),
    IPV6_FLOWINFO: _has_rxopt(IPV6_RXOPT_RXFLOW),
    IPV6_RECVORIGDSTADDR: _has_rxopt(IPV6_RXOPT_RXORIGDSTADDR),
    IPV6_RECVFRAGSIZE: _has_rxopt(IPV6_RXOPT_RECVFRAGSIZE),
}


def ipv6_getsockopt(sk: Any, level: int, optname: int, optlen: int = INT_MAX) -> tuple[int, optval_t]:
    """(0, value), (-ENOPROTOOPT, 0), or (-ENOTCONN, 0) for IPV6_MTU without a route."""
    if level == ip_sockglue.SOL_IP:
        return ip_sockglue.ip_getsockopt(sk, level, optname, optlen)
    getter = _GETTERS.get(optname) if level == SOL_IPV6 else None
    if getter is None:
        of_raw = level == SOL_IPV6 and optname == IPV6_ROUTER_ALERT and sk.sk_net.profile.newer_options
        return (0, 0) if of_raw else (-errno.ENOPROTOOPT, 0)
    value = getter(sk)
    return (value, 0) if optname == IPV6_MTU and value < 0 else (0, value)
