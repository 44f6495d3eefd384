# SPDX-License-Identifier: GPL-2.0-or-later
"""The error queue of AF_INET6 sockets, and what recvmsg() tells of a datagram: net/ipv6/datagram.c (RFC 3542 has the
idea, Linux the form)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from stack.include.errqueue import SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_LOCAL, sock_exterr_skb
from stack.include.ip import ETH_P_IP
from stack.include.ipv6 import (
    IPV6_2292HOPLIMIT,
    IPV6_2292PKTINFO,
    IPV6_FLOWINFO,
    IPV6_HOPLIMIT,
    IPV6_ORIGDSTADDR,
    IPV6_PKTINFO,
    IPV6_RECVERR,
    IPV6_RECVFRAGSIZE,
    IPV6_RXOPT_RECVFRAGSIZE,
    IPV6_RXOPT_RXFLOW,
    IPV6_RXOPT_RXHLIM,
    IPV6_RXOPT_RXINFO,
    IPV6_RXOPT_RXOHLIM,
    IPV6_RXOPT_RXOINFO,
    IPV6_RXOPT_RXORIGDSTADDR,
    IPV6_RXOPT_RXTCLASS,
    IPV6_TCLASS,
    ipv6_addr_needs_scope_id,
    ipv6_addr_set_v4mapped,
    ipv6_hdr,
    ipv6hdr_at,
)
from stack.include.net import MSG_ERRQUEUE, MSG_TRUNC, msghdr
from stack.include.sk_buff import sk_buff
from stack.net.core import scm, skbuff
from stack.net.core.sock import sockaddr_bytes
from stack.net.ipv4 import ip_sockglue
from stack.net.ipv6 import ipv6_sockglue

if TYPE_CHECKING:
    from stack.include.net import sockaddr_in6

# struct sockaddr_in6: sin6_family and sin6_port, sin6_flowinfo, sin6_addr, sin6_scope_id


def ipv6_icmp_error(
    sk: Any, skb: sk_buff, err: int, type_: int, code: int, port: int, info: int, payload: int
) -> None:
    """An ICMPv6 error about a packet to ``port``, for the error queue if IPV6_RECVERR is on; skb.data is at the quoted
    packet, ``payload`` (offset into head) behind its headers."""
    if not sk.pinet6.recverr:
        return
    data = bytes(skb.head[payload : skb.tail])
    new = sk_buff(data, 0, len(data))
    serr = new.cb = sock_exterr_skb(err, SO_EE_ORIGIN_ICMP6, type_, code, info)
    serr.addr = _sockaddr(ipv6hdr_at(skb.head, skb.data).daddr, port, skb.skb_iif)
    serr.offender, serr.port, new.skb_iif = ipv6_hdr(skb).saddr, port, skb.skb_iif
    skbuff.sock_queue_err_skb(sk, new)


def _sockaddr(addr: int, port: int, iif: int) -> sockaddr_in6:
    return (addr, port, 0, iif if ipv6_addr_needs_scope_id(addr) else 0)


def ipv6_local_error(sk: Any, err: int, daddr: int, dport: int, info: int) -> None:
    """What is wrong was found here, before sending: a datagram longer than the path takes (``info`` is its MTU)."""
    if not sk.pinet6.recverr:
        return
    new = sk_buff(b"", 0, 0)
    serr = new.cb = sock_exterr_skb(err, SO_EE_ORIGIN_LOCAL, ee_info=info)
    serr.addr, serr.port = (daddr, dport, 0, 0), dport
    skbuff.sock_queue_err_skb(sk, new)


def ipv6_recv_error(sk: Any, size: int, msg: msghdr) -> bytes | int:
    """MSG_ERRQUEUE: the oldest error, whatever family it is about; -EAGAIN if there is none."""
    skb = skbuff.sock_dequeue_err_skb(sk)
    if skb is None:
        return -errno.EAGAIN
    data = bytes(memoryview(skb.head)[: min(skb.len, max(size, 0))])
    if skb.len > len(data):
        msg.msg_flags |= MSG_TRUNC
    scm.sock_recv_timestamp(msg, sk, skb)
    serr: sock_exterr_skb = skb.cb
    if serr.addr is not None:
        mapped = ipv6_addr_set_v4mapped(serr.addr[0])
        msg.msg_name = serr.addr if len(serr.addr) == 4 else _sockaddr(mapped, serr.port, 0)
    scm.put_cmsg(msg, ipv6_sockglue.SOL_IPV6, IPV6_RECVERR, serr.pack() + _offender(serr, skb.skb_iif))
    msg.msg_flags |= MSG_ERRQUEUE
    skbuff.consume_skb(skb)
    return data


def ip6_datagram_recv_ctl(msg: msghdr, sk: Any, skb: sk_buff) -> None:
    """What a socket of AF_INET6 asked to be told; of an IPv4 datagram what IPv4 has, too."""
    bits = sk.pinet6.rxopt
    if skb.protocol == ETH_P_IP:
        ip_sockglue.ip_cmsg_recv(msg, sk, skb)
    if not bits:
        return
    old = skb.protocol == ETH_P_IP
    if bits & (IPV6_RXOPT_RXINFO | IPV6_RXOPT_RXOINFO):
        daddr = ipv6_addr_set_v4mapped(skb.h_iph.daddr) if old else ipv6_hdr(skb).daddr
        info = daddr.to_bytes(16, "big") + skb.skb_iif.to_bytes(4, "little")
        if bits & IPV6_RXOPT_RXINFO:
            scm.put_cmsg(msg, ipv6_sockglue.SOL_IPV6, IPV6_PKTINFO, info)
        if bits & IPV6_RXOPT_RXOINFO and not old:
            scm.put_cmsg(msg, ipv6_sockglue.SOL_IPV6, IPV6_2292PKTINFO, info)
    if not old:
        _recv_specific_ctl(msg, skb, bits)


def _recv_specific_ctl(msg: msghdr, skb: sk_buff, bits: int) -> None:
    hdr = ipv6_hdr(skb)
    values = (
        (IPV6_RXOPT_RXHLIM, IPV6_HOPLIMIT, hdr.hop_limit.to_bytes(4, "little")),
        (IPV6_RXOPT_RXTCLASS, IPV6_TCLASS, hdr.tclass.to_bytes(4, "little")),
        (IPV6_RXOPT_RXFLOW, IPV6_FLOWINFO, (hdr.tclass << 20 | hdr.flowlabel).to_bytes(4, "big")),
        (IPV6_RXOPT_RXOHLIM, IPV6_2292HOPLIMIT, hdr.hop_limit.to_bytes(4, "little")),
        (IPV6_RXOPT_RXORIGDSTADDR, IPV6_ORIGDSTADDR, _original_destination(skb)),
        (IPV6_RXOPT_RECVFRAGSIZE, IPV6_RECVFRAGSIZE, skb.cb.frag_max_size.to_bytes(4, "little")),
    )
    for bit, kind, value in values:
        if not bits & bit or (bit == IPV6_RXOPT_RECVFRAGSIZE and not skb.cb.frag_max_size):
            continue
        if bit == IPV6_RXOPT_RXFLOW and not any(value):
            continue
        scm.put_cmsg(msg, ipv6_sockglue.SOL_IPV6, kind, value)


def _original_destination(skb: sk_buff) -> bytes:
    daddr, port = ipv6_hdr(skb).daddr, skb.h_th.dest
    scope = skb.skb_iif if ipv6_addr_needs_scope_id(daddr) else 0
    return sockaddr_bytes((daddr, port, 0, scope))


def _offender(serr: sock_exterr_skb, iif: int) -> bytes:
    """struct sockaddr_in6 of who reported the error; empty for what was found here."""
    if serr.ee_origin == SO_EE_ORIGIN_ICMP:
        addr, scope = ipv6_addr_set_v4mapped(serr.offender), 0
    elif serr.ee_origin == SO_EE_ORIGIN_ICMP6:
        addr, scope = serr.offender, iif if ipv6_addr_needs_scope_id(serr.offender) else 0
    else:
        return bytes(28)  # struct sockaddr_in6
    return sockaddr_bytes((addr, 0, 0, scope))
