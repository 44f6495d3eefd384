# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of level SOL_IPV6: net/ipv6/ipv6_sockglue.c.

Values are ints, or ``bytes`` of one or four bytes in the machine's order.  A socket of AF_INET6 knows the options of
SOL_IP too, for the IPv4 that it may speak.  What is not known is -ENOPROTOOPT.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

from stack.include.dst import dst_mtu
from stack.include.inet_sock import IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT
from stack.include.ipv6 import (
    IPV6_AUTOFLOWLABEL,
    IPV6_FREEBIND,
    IPV6_MINHOPCOUNT,
    IPV6_MTU,
    IPV6_MTU_DISCOVER,
    IPV6_MULTICAST_HOPS,
    IPV6_MULTICAST_LOOP,
    IPV6_RECVERR,
    IPV6_TCLASS,
    IPV6_TRANSPARENT,
    IPV6_UNICAST_HOPS,
    IPV6_V6ONLY,
)
from stack.include.net import optval_t
from stack.include.sock import SOCK_STREAM
from stack.net.ipv4 import ip_sockglue

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
    sk.pinet6.autoflowlabel = bool(val)
    return 0


def _set_freebind(sk: Any, val: int) -> int:
    sk.freebind = bool(val)
    return 0


def _set_transparent(sk: Any, val: int) -> int:
    sk.transparent = bool(val)
    return 0


_SETTERS: Final[dict[int, Callable[[Any, int], int]]] = {
    IPV6_V6ONLY: _set_v6only,
    IPV6_TCLASS: _set_tclass,
    IPV6_UNICAST_HOPS: _set_unicast_hops,
    IPV6_MULTICAST_HOPS: _set_multicast_hops,
    IPV6_MULTICAST_LOOP: _set_multicast_loop,
    IPV6_MTU_DISCOVER: _set_mtu_discover,
    IPV6_MINHOPCOUNT: _set_minhopcount,
    IPV6_RECVERR: _set_recverr,
    IPV6_AUTOFLOWLABEL: _set_autoflowlabel,
    IPV6_FREEBIND: _set_freebind,
    IPV6_TRANSPARENT: _set_transparent,
}


def ipv6_setsockopt(sk: Any, level: int, optname: int, optval: optval_t) -> int:
    """0, -EINVAL or -ENOPROTOOPT."""
    if level == ip_sockglue.SOL_IP:
        return ip_sockglue.ip_setsockopt(sk, level, optname, optval)
    if level != SOL_IPV6:
        return -errno.ENOPROTOOPT
    return do_ipv6_setsockopt(sk, level, optname, optval)


def do_ipv6_setsockopt(sk: Any, level: int, optname: int, optval: optval_t) -> int:
    setter = _SETTERS.get(optname)
    if setter is None:
        return -errno.ENOPROTOOPT
    if not isinstance(optval, int):
        if not optval:
            return -errno.EINVAL
        optval = int.from_bytes(optval[:4], "little", signed=True) if len(optval) >= 4 else optval[0]
    return setter(sk, optval)


def _get_mtu(sk: Any) -> int:
    dst = sk.sk_dst_cache
    return dst_mtu(dst) if dst is not None else -errno.ENOTCONN


def _get_hops(sk: Any) -> int:
    hops: int = sk.pinet6.hop_limit
    if hops < 0:
        hops = sk.sk_net.ipv6.sysctl_hop_limit
    return hops


_GETTERS: Final[dict[int, Callable[[Any], int]]] = {
    IPV6_V6ONLY: lambda sk: int(sk.sk_ipv6only),
    IPV6_TCLASS: lambda sk: int(sk.pinet6.tclass),
    IPV6_UNICAST_HOPS: _get_hops,
    IPV6_MULTICAST_HOPS: lambda sk: int(sk.pinet6.mcast_hops),
    IPV6_MULTICAST_LOOP: lambda sk: int(sk.pinet6.mc_loop),
    IPV6_MTU_DISCOVER: lambda sk: int(sk.pinet6.pmtudisc),
    IPV6_MINHOPCOUNT: lambda sk: int(sk.pinet6.min_hopcount),
    IPV6_RECVERR: lambda sk: int(sk.pinet6.recverr),
    IPV6_AUTOFLOWLABEL: lambda sk: int(sk.pinet6.autoflowlabel),
    IPV6_FREEBIND: lambda sk: int(sk.freebind),
    IPV6_TRANSPARENT: lambda sk: int(sk.transparent),
    IPV6_MTU: _get_mtu,
}


def ipv6_getsockopt(sk: Any, level: int, optname: int) -> tuple[int, optval_t]:
    """(0, value), (-ENOPROTOOPT, 0), or (-ENOTCONN, 0) for IPV6_MTU without a route."""
    if level == ip_sockglue.SOL_IP:
        return ip_sockglue.ip_getsockopt(sk, level, optname)
    getter = _GETTERS.get(optname) if level == SOL_IPV6 else None
    if getter is None:
        return -errno.ENOPROTOOPT, 0
    value = getter(sk)
    return (value, 0) if optname == IPV6_MTU and value < 0 else (0, value)
