# SPDX-License-Identifier: GPL-2.0-or-later
"""The error queue of AF_INET6 sockets: net/ipv6/datagram.c (IPV6_RECVERR, RFC 3542 has the idea, Linux the form)."""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from stack.include.errqueue import SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_LOCAL, sock_exterr_skb
from stack.include.ipv6 import (
    IPV6_RECVERR,
    ipv6_addr_needs_scope_id,
    ipv6_addr_set_v4mapped,
    ipv6_hdr,
    ipv6hdr_at,
)
from stack.include.net import MSG_ERRQUEUE, MSG_TRUNC, msghdr
from stack.include.sk_buff import sk_buff
from stack.net.core import scm, skbuff
from stack.net.ipv6 import ipv6_sockglue

if TYPE_CHECKING:
    from stack.include.net import sockaddr_in6

# struct sockaddr_in6: sin6_family and sin6_port, sin6_flowinfo, sin6_addr, sin6_scope_id
_SOCKADDR_IN6: Final = Struct("=HHI16sI")
_AF_INET6: Final = 10


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


def _offender(serr: sock_exterr_skb, iif: int) -> bytes:
    """struct sockaddr_in6 of who reported the error; empty for what was found here."""
    if serr.ee_origin == SO_EE_ORIGIN_ICMP:
        addr, scope = ipv6_addr_set_v4mapped(serr.offender), 0
    elif serr.ee_origin == SO_EE_ORIGIN_ICMP6:
        addr, scope = serr.offender, iif if ipv6_addr_needs_scope_id(serr.offender) else 0
    else:
        return bytes(_SOCKADDR_IN6.size)
    return _SOCKADDR_IN6.pack(_AF_INET6, 0, 0, addr.to_bytes(16, "big"), scope)
