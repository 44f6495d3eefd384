# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of level SOL_IP: net/ipv4/ip_sockglue.c.

Values are ints, or ``bytes`` in the machine's order, as the kernel takes them: an int if there are four or more, the
first byte of fewer, and for many options 0 of none; IP_OPTIONS takes the raw options.  What is not known is
-ENOPROTOOPT; docs/sockets.md has the list.

Errors reach the application through the error queue (IP_RECVERR, read with MSG_ERRQUEUE), each with the start of the
packet that it is about, where that was going, and who reported it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

from stack.include.errqueue import SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_LOCAL, sock_exterr_skb
from stack.include.inet_sock import IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT, inet_sock
from stack.include.ip import (
    IP_BIND_ADDRESS_NO_PORT,
    IP_CHECKSUM,
    IP_FREEBIND,
    IP_HDRINCL,
    IP_LOCAL_PORT_RANGE,
    IP_MINTTL,
    IP_MTU,
    IP_MTU_DISCOVER,
    IP_MULTICAST_ALL,
    IP_MULTICAST_IF,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL,
    IP_NODEFRAG,
    IP_OPTIONS,
    IP_ORIGDSTADDR,
    IP_PASSSEC,
    IP_PKTINFO,
    IP_PROTOCOL,
    IP_RECVERR,
    IP_RECVERR_RFC4884,
    IP_RECVFRAGSIZE,
    IP_RECVOPTS,
    IP_RECVORIGDSTADDR,
    IP_RECVTOS,
    IP_RECVTTL,
    IP_RETOPTS,
    IP_ROUTER_ALERT,
    IP_TOS,
    IP_TRANSPARENT,
    IP_TTL,
    IP_UNICAST_IF,
    inet_skb_parm,
    iphdr_at,
)
from stack.include.net import MSG_ERRQUEUE, MSG_TRUNC, cmsg_t, msghdr, optval_t
from stack.include.sk_buff import CHECKSUM_NONE, sk_buff
from stack.include.sock import INT_MAX, SOCK_STREAM
from stack.lib.checksum import csum_fold, csum_partial
from stack.net.core import scm, skbuff
from stack.net.core.sock import sockaddr_bytes
from stack.net.ipv4 import devinet
from stack.net.ipv4 import ip_options as ipv4_options

SOL_IP: Final = 0

# struct sockaddr_in: sin_family, sin_port, sin_addr

# inet_sock.cmsg_flags (include/net/inet_sock.h)
IP_CMSG_PKTINFO: Final = 1 << 0
IP_CMSG_TTL: Final = 1 << 1
IP_CMSG_TOS: Final = 1 << 2
IP_CMSG_RECVOPTS: Final = 1 << 3
IP_CMSG_RETOPTS: Final = 1 << 4
IP_CMSG_PASSSEC: Final = 1 << 5
IP_CMSG_ORIGDSTADDR: Final = 1 << 6
IP_CMSG_CHECKSUM: Final = 1 << 7
IP_CMSG_RECVFRAGSIZE: Final = 1 << 8

# rt_tos2priority(): the kernel's queueing priority by the four TOS bits (net/ipv4/route.c, ip_tos2prio)
TC_PRIO_BESTEFFORT: Final = 0
TC_PRIO_BULK: Final = 2
TC_PRIO_INTERACTIVE_BULK: Final = 4
TC_PRIO_INTERACTIVE: Final = 6
_TOS_PRIORITY: Final = (TC_PRIO_BESTEFFORT, TC_PRIO_BULK, TC_PRIO_INTERACTIVE, TC_PRIO_INTERACTIVE_BULK)


# -- what goes along with received datagrams --------------------------------------------------------------------------


def ip_cmsg_recv(msg: msghdr, sk: inet_sock, skb: sk_buff) -> None:
    """What the socket asked to be told of a received datagram.  There are no labels (IP_PASSSEC)."""
    flags = sk.cmsg_flags
    if not flags:
        return
    iph = skb.h_iph
    if flags & IP_CMSG_PKTINFO:
        ours = ipv4_options.fib_compute_spec_dst(skb)
        info = skb.skb_iif.to_bytes(4, "little") + ours.to_bytes(4, "big") + iph.daddr.to_bytes(4, "big")
        scm.put_cmsg(msg, SOL_IP, IP_PKTINFO, info)
    if flags & IP_CMSG_TTL:
        scm.put_cmsg(msg, SOL_IP, IP_TTL, iph.ttl.to_bytes(4, "little"))
    if flags & IP_CMSG_TOS:
        scm.put_cmsg(msg, SOL_IP, IP_TOS, bytes((iph.tos,)))
    if flags & (IP_CMSG_RECVOPTS | IP_CMSG_RETOPTS) and skb.ip_opt is not None:
        _cmsg_options(msg, sk, skb, flags)
    if flags & IP_CMSG_ORIGDSTADDR and skb.h_th is not None:
        scm.put_cmsg(msg, SOL_IP, IP_ORIGDSTADDR, sockaddr_bytes((iph.daddr, skb.h_th.dest)))
    if flags & IP_CMSG_CHECKSUM and skb.ip_summed == CHECKSUM_NONE and skb.h_th.check:
        scm.put_cmsg(msg, SOL_IP, IP_CHECKSUM, _payload_sum(skb).to_bytes(4, "little"))
    if flags & IP_CMSG_RECVFRAGSIZE and isinstance(skb.cb, inet_skb_parm):
        scm.put_cmsg(msg, SOL_IP, IP_RECVFRAGSIZE, skb.cb.frag_max_size.to_bytes(4, "little"))


def _cmsg_options(msg: msghdr, sk: inet_sock, skb: sk_buff, flags: int) -> None:
    """The IP options as they came, and as an answer would have them."""
    opt = skb.ip_opt
    assert opt is not None
    if flags & IP_CMSG_RECVOPTS and opt.optlen:
        scm.put_cmsg(msg, SOL_IP, IP_RECVOPTS, bytes(opt.data))
    if flags & IP_CMSG_RETOPTS and opt.optlen:
        echo = ipv4_options.ip_options_echo(sk.sk_net, opt, skb)
        scm.put_cmsg(msg, SOL_IP, IP_RETOPTS, ipv4_options.ip_options_undo(echo) if echo is not None else b"")


def _payload_sum(skb: sk_buff) -> int:
    """The sum of a payload that was summed up to verify it (nobody else did), as the machine has it: its 16-bit words,
    low byte first.  The kernel leaves the carries where they came up."""
    data = bytes(memoryview(skb.head)[skb.data : skb.tail])
    big = csum_fold(csum_partial(data)) ^ 0xFFFF
    return int.from_bytes(big.to_bytes(2, "big"), "little")


def ip_cmsg_send(control: list[cmsg_t]) -> int:
    """The source address that an IP_PKTINFO of sendmsg() asks for (0: any), or -EINVAL."""
    saddr = 0
    for level, type_, data in control:
        if level == SOL_IP and type_ == IP_PKTINFO:
            if len(data) != 12:
                return -errno.EINVAL
            saddr = int.from_bytes(data[4:8], "big")
    return saddr


# -- the error queue ---------------------------------------------------------------------------------------------------


def ip_icmp_error(sk: inet_sock, skb: sk_buff, err: int, port: int, info: int, payload: int) -> None:
    """An ICMP error about a packet to ``port``, for the error queue; skb.data is at the quoted packet, ``payload``
    (offset into head) behind its headers."""
    data = bytes(skb.head[payload : skb.tail])
    new = sk_buff(data, 0, len(data))
    icmph = skb.h_th
    serr = new.cb = sock_exterr_skb(err, SO_EE_ORIGIN_ICMP, icmph.type, icmph.code, info)
    serr.addr = (iphdr_at(skb.head, skb.data).daddr, port)
    serr.offender, serr.port, new.skb_iif, new.h_iph = skb.h_iph.saddr, port, skb.skb_iif, skb.h_iph
    new._skb_refdst = skb._skb_refdst
    skbuff.sock_queue_err_skb(sk, new)


def ip_local_error(sk: inet_sock, err: int, daddr: int, port: int, info: int) -> None:
    """What is wrong was found here, before sending: a datagram longer than the path takes (``info`` is its MTU)."""
    if not sk.recverr:
        return
    new = sk_buff(b"", 0, 0)
    serr = new.cb = sock_exterr_skb(err, SO_EE_ORIGIN_LOCAL, ee_info=info)
    serr.addr, serr.port = (daddr, port), port
    skbuff.sock_queue_err_skb(sk, new)


def ip_recv_error(sk: inet_sock, size: int, msg: msghdr) -> bytes | int:
    """MSG_ERRQUEUE: the oldest error's payload, with what happened in ``msg``; -EAGAIN if there is none."""
    skb = skbuff.sock_dequeue_err_skb(sk)
    if skb is None:
        return -errno.EAGAIN
    data = bytes(memoryview(skb.head)[: min(skb.len, max(size, 0))])
    if skb.len > len(data):
        msg.msg_flags |= MSG_TRUNC
    scm.sock_recv_timestamp(msg, sk, skb)
    serr: sock_exterr_skb = skb.cb
    msg.msg_name = serr.addr
    offender = bytes(16)  # struct sockaddr_in
    if serr.ee_origin == SO_EE_ORIGIN_ICMP:
        offender = sockaddr_bytes((serr.offender, 0))
        ip_cmsg_recv(msg, sk, skb)
    scm.put_cmsg(msg, SOL_IP, IP_RECVERR, serr.pack() + offender)
    msg.msg_flags |= MSG_ERRQUEUE
    skbuff.consume_skb(skb)
    return data


# -- options -----------------------------------------------------------------------------------------------------------


def __ip_sock_set_tos(sk: inet_sock, val: int) -> None:
    """On a stream the two ECN bits belong to TCP and stay as they are."""
    if sk.sk_type == SOCK_STREAM:
        val = (val & ~3) | (sk.tos & 3)
    if sk.tos != val:
        sk.tos = val & 0xFF
        sk.sk_priority = _TOS_PRIORITY[(val & 0x18) >> 3]
        sk.sk_dst_cache = None


def _set_tos(sk: inet_sock, val: int) -> int:
    __ip_sock_set_tos(sk, val & 0xFF)
    return 0


def _set_ttl(sk: inet_sock, val: int) -> int:
    if val != -1 and not 1 <= val <= 255:
        return -errno.EINVAL
    sk.uc_ttl = val
    return 0


def _set_minttl(sk: inet_sock, val: int) -> int:
    if not 0 <= val <= 255:
        return -errno.EINVAL
    sk.min_ttl = val
    return 0


def _set_mtu_discover(sk: inet_sock, val: int) -> int:
    if not IP_PMTUDISC_DONT <= val <= IP_PMTUDISC_OMIT:
        return -errno.EINVAL
    sk.pmtudisc = val
    return 0


def _set_multicast_ttl(sk: inet_sock, val: int) -> int:
    if sk.sk_type == SOCK_STREAM or not -1 <= val <= 255:
        return -errno.EINVAL
    sk.mc_ttl = 1 if val == -1 else val
    return 0


def _set_multicast_all(sk: inet_sock, val: int) -> int:
    if val not in (0, 1):
        return -errno.EINVAL
    sk.mc_all = bool(val)
    return 0


def _set_recvfragsize(sk: inet_sock, val: int) -> int:
    if sk.sk_type == SOCK_STREAM:
        return -errno.EINVAL
    return _cmsg(IP_CMSG_RECVFRAGSIZE)(sk, val)


def _set_recverr_rfc4884(sk: inet_sock, val: int) -> int:
    if val not in (0, 1):
        return -errno.EINVAL
    sk.recverr_rfc4884 = bool(val)
    return 0


def _set_multicast_loop(sk: inet_sock, val: int) -> int:
    sk.mc_loop = bool(val)
    return 0


def _cmsg(bit: int) -> Callable[[inet_sock, int], int]:
    def set_flag(sk: inet_sock, val: int) -> int:
        sk.cmsg_flags = sk.cmsg_flags | bit if val else sk.cmsg_flags & ~bit
        return 0

    return set_flag


def _member(name: str) -> Callable[[inet_sock, int], int]:
    def set_member(sk: inet_sock, val: int) -> int:
        setattr(sk, name, bool(val))
        return 0

    return set_member


def _set_recverr(sk: inet_sock, val: int) -> int:
    """Without the option there is no queue: what waits in it is forgotten."""
    sk.recverr = bool(val)
    if not val:
        sk.sk_error_queue.clear()
    return 0


_SETTERS: dict[int, Callable[[Any, int], int]] = {
    IP_TOS: _set_tos,
    IP_TTL: _set_ttl,
    IP_MINTTL: _set_minttl,
    IP_MTU_DISCOVER: _set_mtu_discover,
    IP_MULTICAST_TTL: _set_multicast_ttl,
    IP_MULTICAST_LOOP: _set_multicast_loop,
    IP_PKTINFO: _cmsg(IP_CMSG_PKTINFO),
    IP_RECVTTL: _cmsg(IP_CMSG_TTL),
    IP_RECVTOS: _cmsg(IP_CMSG_TOS),
    IP_RECVOPTS: _cmsg(IP_CMSG_RECVOPTS),
    IP_RETOPTS: _cmsg(IP_CMSG_RETOPTS),
    IP_PASSSEC: _cmsg(IP_CMSG_PASSSEC),
    IP_RECVORIGDSTADDR: _cmsg(IP_CMSG_ORIGDSTADDR),
    IP_CHECKSUM: _cmsg(IP_CMSG_CHECKSUM),
    IP_RECVFRAGSIZE: _set_recvfragsize,
    IP_RECVERR: _set_recverr,
    IP_RECVERR_RFC4884: _set_recverr_rfc4884,
    IP_FREEBIND: _member("freebind"),
    IP_TRANSPARENT: _member("transparent"),
    IP_BIND_ADDRESS_NO_PORT: _member("bind_address_no_port"),
    IP_MULTICAST_ALL: _set_multicast_all,
    IP_ROUTER_ALERT: lambda sk, val: -errno.EINVAL,  # of raw sockets
}
# An empty value is an error, where for the others it is 0.
_NOT_EMPTY: Final = frozenset(
    (IP_TTL, IP_MINTTL, IP_FREEBIND, IP_TRANSPARENT, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_MULTICAST_ALL)
)


def _set_options(sk: inet_sock, raw: bytes) -> int:
    """The IP options of what this socket sends; empty takes them away.  -EINVAL beyond 40 bytes and
    for malformed ones."""
    if len(raw) > 40:
        return -errno.EINVAL
    padded = raw + b"\0" * (-len(raw) % 4)
    opt, problem = ipv4_options.ip_options_compile(sk.sk_net, padded, None)
    if problem:
        return -errno.EINVAL
    sk.inet_opt = opt if padded else None
    return 0


def _set_multicast_if(sk: inet_sock, raw: bytes) -> int:
    """By address (struct in_addr), or by a device's number too (struct ip_mreqn); all zeros let the route decide."""
    if sk.sk_type == SOCK_STREAM or len(raw) < 4:
        return -errno.EINVAL
    addr, index = int.from_bytes(raw[4:8] if len(raw) >= 8 else raw[:4], "big"), 0
    if len(raw) >= 12:
        index = int.from_bytes(raw[8:12], "little", signed=True)
    net = sk.sk_net
    if index:
        dev = net.devices.get(index)
    elif addr:
        dev = devinet.__ip_dev_find(net, addr)
    else:
        sk.mc_index = sk.mc_addr = 0
        return 0
    if dev is None:
        return -errno.EADDRNOTAVAIL
    if sk.sk_bound_dev_if and dev.ifindex != sk.sk_bound_dev_if:
        return -errno.EINVAL
    sk.mc_index, sk.mc_addr = dev.ifindex, addr
    return 0


def _set_unicast_if(sk: inet_sock, raw: bytes) -> int:
    """The number of the device that datagrams leave by, in network order."""
    if len(raw) != 4:
        return -errno.EINVAL
    index = int.from_bytes(raw, "big")
    if index and index not in sk.sk_net.devices:
        return -errno.EADDRNOTAVAIL
    if index and sk.sk_bound_dev_if not in (0, index):
        return -errno.EINVAL
    sk.uc_index = index
    return 0


def _set_local_port_range(sk: inet_sock, raw: bytes) -> int:
    """Two numbers of 16 bits, the lower end first; 0 is the stack's own end."""
    if len(raw) != 4:
        return -errno.EINVAL
    low, high = int.from_bytes(raw[:2], "little"), int.from_bytes(raw[2:], "little")
    if low and high and low > high:
        return -errno.EINVAL
    sk.local_port_range = high << 16 | low
    return 0


_RAW_SETTERS: dict[int, Callable[[Any, bytes], int]] = {
    IP_OPTIONS: _set_options,
    IP_MULTICAST_IF: _set_multicast_if,
    IP_UNICAST_IF: _set_unicast_if,
    IP_LOCAL_PORT_RANGE: _set_local_port_range,
}


def ip_setsockopt(sk: Any, level: int, optname: int, optval: optval_t) -> int:
    """0, -EINVAL, -ENOPROTOOPT or -EADDRNOTAVAIL."""
    if level != SOL_IP:
        return -errno.ENOPROTOOPT
    return do_ip_setsockopt(sk, level, optname, optval)


def do_ip_setsockopt(sk: inet_sock, level: int, optname: int, optval: optval_t) -> int:
    if optname in _RAW_SETTERS:
        raw = (optval & 0xFFFFFFFF).to_bytes(4, "little") if isinstance(optval, int) else optval
        return _RAW_SETTERS[optname](sk, raw)
    setter = _SETTERS.get(optname)
    if setter is None:
        return -errno.ENOPROTOOPT
    if not isinstance(optval, int):
        if not optval and optname in _NOT_EMPTY:
            return -errno.EINVAL
        optval = int.from_bytes(optval[:4], "little", signed=True) if len(optval) >= 4 else sum(optval[:1])
    return setter(sk, optval)


def _get_mtu(sk: inet_sock) -> int:
    dst = sk.sk_dst_cache
    return dst.ops.mtu(dst) if dst is not None else -errno.ENOTCONN


def _get_ttl(sk: inet_sock) -> int:
    return sk.sk_net.ipv4.sysctl_ip_default_ttl if sk.uc_ttl == -1 else sk.uc_ttl


def _has_cmsg(bit: int) -> Callable[[inet_sock], int]:
    return lambda sk: int(sk.cmsg_flags & bit != 0)


_GETTERS: dict[int, Callable[[inet_sock], optval_t]] = {
    IP_TOS: lambda sk: sk.tos,
    IP_TTL: _get_ttl,
    IP_MINTTL: lambda sk: sk.min_ttl,
    IP_MTU_DISCOVER: lambda sk: sk.pmtudisc,
    IP_MULTICAST_TTL: lambda sk: sk.mc_ttl,
    IP_MULTICAST_LOOP: lambda sk: int(sk.mc_loop),
    IP_MULTICAST_ALL: lambda sk: int(sk.mc_all),
    IP_MULTICAST_IF: lambda sk: sk.mc_addr.to_bytes(4, "big"),
    IP_UNICAST_IF: lambda sk: int.from_bytes(sk.uc_index.to_bytes(4, "big"), "little"),
    IP_HDRINCL: lambda sk: 0,  # of raw sockets, as IP_NODEFRAG
    IP_NODEFRAG: lambda sk: 0,
    IP_PKTINFO: _has_cmsg(IP_CMSG_PKTINFO),
    IP_RECVTTL: _has_cmsg(IP_CMSG_TTL),
    IP_RECVTOS: _has_cmsg(IP_CMSG_TOS),
    IP_RECVOPTS: _has_cmsg(IP_CMSG_RECVOPTS),
    IP_RETOPTS: _has_cmsg(IP_CMSG_RETOPTS),
    IP_PASSSEC: _has_cmsg(IP_CMSG_PASSSEC),
    IP_RECVORIGDSTADDR: _has_cmsg(IP_CMSG_ORIGDSTADDR),
    IP_CHECKSUM: _has_cmsg(IP_CMSG_CHECKSUM),
    IP_RECVFRAGSIZE: _has_cmsg(IP_CMSG_RECVFRAGSIZE),
    IP_RECVERR: lambda sk: int(sk.recverr),
    IP_RECVERR_RFC4884: lambda sk: int(sk.recverr_rfc4884),
    IP_BIND_ADDRESS_NO_PORT: lambda sk: int(sk.bind_address_no_port),
    IP_LOCAL_PORT_RANGE: lambda sk: sk.local_port_range,
    IP_PROTOCOL: lambda sk: sk.sk_num,
    IP_FREEBIND: lambda sk: int(sk.freebind),
    IP_TRANSPARENT: lambda sk: int(sk.transparent),
    IP_OPTIONS: lambda sk: ipv4_options.ip_options_undo(sk.inet_opt) if sk.inet_opt is not None else b"",
    IP_MTU: _get_mtu,
}


def ip_getsockopt(sk: Any, level: int, optname: int, optlen: int = INT_MAX) -> tuple[int, optval_t]:
    """(0, value) into a buffer of ``optlen`` bytes, (-ENOPROTOOPT, 0), (-EOPNOTSUPP, 0) for another level, or
    (-ENOTCONN, 0) for IP_MTU without a route.  A number below 256 into less than an int is one byte."""
    if level != SOL_IP:
        return -errno.EOPNOTSUPP, 0
    getter = _GETTERS.get(optname)
    if getter is None:
        if optname == IP_ROUTER_ALERT and sk.sk_net.profile.newer_options:
            return 0, _shortened(0, optlen)
        return -errno.ENOPROTOOPT, 0
    value = getter(sk)
    if not isinstance(value, int):
        return 0, value[:optlen]
    if optname == IP_MTU and value < 0:
        return value, 0
    return 0, _shortened(value, optlen)


def _shortened(value: int, optlen: int) -> optval_t:
    return bytes((value,)) if optlen < 4 and 0 <= value <= 255 else value
