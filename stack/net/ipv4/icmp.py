# SPDX-License-Identifier: GPL-2.0-or-later
"""ICMP: net/ipv4/icmp.c (RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 4.3).

Received: echo and time stamp requests are answered (not those to a broadcast address); errors go to the ``err_handler``
of the protocol of the packet that they quote, with skb.data at that packet's IP header.  Redirects are counted and
not followed: a Stack is a host on links of its own, the gateway that it was given stays.

Sent errors never answer a broadcast, a fragment other than the first, or another ICMP error, and pass two limits:
icmp_msgs_per_sec for all (a bucket of icmp_msgs_burst, from which now and then up to 2 are taken extra, so that a
stranger can't read other people's traffic from it), and for the types in icmp_ratemask one per icmp_ratelimit ms and
peer after a burst of 6.  A quoted packet is cut so that the error has at most 576 bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from stack.include.dropreason import (
    SKB_DROP_REASON_ICMP_CSUM,
    SKB_DROP_REASON_ICMP_IGNORED,
    SKB_DROP_REASON_INVALID_PROTO,
    SKB_DROP_REASON_NOT_SPECIFIED,
    SKB_DROP_REASON_PKT_TOO_SMALL,
    SKB_DROP_REASON_UNHANDLED_PROTO,
    SKB_NOT_DROPPED_YET,
)
from stack.include.dst import (
    RTCF_BROADCAST,
    RTCF_LOCAL,
    RTCF_MULTICAST,
    RTN_BROADCAST,
    dst_mtu,
    flowi4,
    rtable,
)
from stack.include.inet_sock import IP_PMTUDISC_DONT, inet_sock, ip_options
from stack.include.ip import (
    ICMP_ADDRESS,
    ICMP_ADDRESSREPLY,
    ICMP_DEST_UNREACH,
    ICMP_ECHO,
    ICMP_ECHOREPLY,
    ICMP_EXC_FRAGTIME,
    ICMP_FRAG_NEEDED,
    ICMP_PARAMETERPROB,
    ICMP_REDIRECT,
    ICMP_SOURCE_QUENCH,
    ICMP_TIME_EXCEEDED,
    ICMP_TIMESTAMP,
    ICMP_TIMESTAMPREPLY,
    ICMPHDR_STRUCT,
    IP_OFFSET,
    IPPROTO_ICMP,
    NR_ICMP_TYPES,
    NR_ICMP_UNREACH,
    icmphdr,
    iphdr,
    iphdr_at,
    net_protocol,
)
from stack.include.sk_buff import CHECKSUM_NONE, PACKET_HOST, sk_buff
from stack.include.snmp import (
    ICMP_INC_STATS,
    ICMP_MIB_CSUMERRORS,
    ICMP_MIB_INERRORS,
    ICMP_MIB_INMSGS,
    ICMP_MIB_OUTERRORS,
    ICMP_MIB_OUTMSGS,
    ICMP_MIB_RATELIMITGLOBAL,
    ICMP_MIB_RATELIMITHOST,
    ICMPMSGIN_INC_STATS,
    ICMPMSGOUT_INC_STATS,
)
from stack.include.sock import AF_INET
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies, msecs_to_jiffies
from stack.lib.checksum import csum_fold, csum_partial, ip_compute_csum
from stack.net.core import skbuff
from stack.net.ipv4 import devinet, fib_frontend, ip_output, route
from stack.net.ipv4 import ip_options as ipv4_options

if TYPE_CHECKING:
    from stack.stack import Stack

MSEC_PER_DAY: Final = 86_400_000
# Errors have at most this many bytes with their IP header: RFC 1812, section 4.3.2.3.
_ERROR_SIZE: Final = 576
XRLIM_BURST_FACTOR: Final = 6
_MAX_PEERS: Final = 4096

_ERROR_TYPES: Final = frozenset(
    (ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB)
)
_ANSWERED_TO_BROADCAST: Final = frozenset((ICMP_ECHO, ICMP_TIMESTAMP, ICMP_ADDRESS, ICMP_ADDRESSREPLY))

# struct icmp_err by code of a destination unreachable: the errno, and whether it ends a connection at once
# (RFC 1122, section 4.2.3.9).
icmp_err_convert: tuple[tuple[int, bool], ...] = (
    (errno.ENETUNREACH, False),  # ICMP_NET_UNREACH
    (errno.EHOSTUNREACH, False),  # ICMP_HOST_UNREACH
    (errno.ENOPROTOOPT, True),  # ICMP_PROT_UNREACH
    (errno.ECONNREFUSED, True),  # ICMP_PORT_UNREACH
    (errno.EMSGSIZE, False),  # ICMP_FRAG_NEEDED
    (errno.EOPNOTSUPP, False),  # ICMP_SR_FAILED
    (errno.ENETUNREACH, True),  # ICMP_NET_UNKNOWN
    (errno.EHOSTDOWN, True),  # ICMP_HOST_UNKNOWN
    (errno.ENONET, True),  # ICMP_HOST_ISOLATED
    (errno.ENETUNREACH, True),  # ICMP_NET_ANO
    (errno.EHOSTUNREACH, True),  # ICMP_HOST_ANO
    (errno.ENETUNREACH, False),  # ICMP_NET_UNR_TOS
    (errno.EHOSTUNREACH, False),  # ICMP_HOST_UNR_TOS
    (errno.EHOSTUNREACH, True),  # ICMP_PKT_FILTERED
    (errno.EHOSTUNREACH, True),  # ICMP_PREC_VIOLATION
    (errno.EHOSTUNREACH, True),  # ICMP_PREC_CUTOFF
)


class inet_peer:
    """struct inet_peer, for its token bucket only; in jiffies."""

    __slots__ = ("rate_last", "rate_tokens")

    def __init__(self, now: int) -> None:
        self.rate_tokens = 0
        self.rate_last = now - 60 * HZ


class icmp_global:
    """The bucket of all errors, the buckets by peer, and the socket that ICMP sends from."""

    __slots__ = ("credit", "peers", "sk", "stamp")

    def __init__(self, net: Stack) -> None:
        self.credit = 0
        self.stamp = jiffies(net) - 60 * HZ
        self.peers: dict[int, inet_peer] = {}
        self.sk = inet_sock(net, AF_INET)
        self.sk.sk_protocol = IPPROTO_ICMP
        self.sk.pmtudisc = IP_PMTUDISC_DONT
        self.sk.sk_sndbuf = 2 * 64 * 1024


def icmp_sk_init(net: Stack) -> None:
    net.icmp_global = icmp_global(net)


# -- limits ------------------------------------------------------------------------------------------------------------


def icmp_global_allow(net: Stack) -> bool:
    """Take one from the bucket that all errors share."""
    bucket = net.icmp_global
    now = jiffies(net)
    delta = min(now - bucket.stamp, HZ)
    if delta >= HZ // 50:
        gained = net.ipv4.sysctl_icmp_msgs_per_sec * delta // HZ
        if gained:
            bucket.stamp = now
            bucket.credit = min(bucket.credit + gained, net.ipv4.sysctl_icmp_msgs_burst)
    if not bucket.credit:
        return False
    bucket.credit = max(bucket.credit - net.rng.get_random_u32_below(3), 0)
    return True


def icmpv4_mask_allow(net: Stack, icmp_type: int, code: int) -> bool:
    """Whether the type is free of limits."""
    if icmp_type > NR_ICMP_TYPES:
        return True
    if icmp_type == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED:
        return True
    return not (1 << icmp_type) & net.ipv4.sysctl_icmp_ratemask


def icmpv4_global_allow(net: Stack, icmp_type: int, code: int) -> bool:
    if icmpv4_mask_allow(net, icmp_type, code) or icmp_global_allow(net):
        return True
    ICMP_INC_STATS(net, ICMP_MIB_RATELIMITGLOBAL)
    return False


def inet_peer_xrlim_allow(net: Stack, daddr: int, timeout: int) -> bool:
    """net/ipv4/inetpeer.c: one per ``timeout`` jiffies and peer, after a burst."""
    peers = net.icmp_global.peers
    now = jiffies(net)
    peer = peers.get(daddr)
    if peer is None:
        if len(peers) >= _MAX_PEERS:
            peers.pop(next(iter(peers)))
        peer = peers[daddr] = inet_peer(now)
    token = min(peer.rate_tokens + now - peer.rate_last, XRLIM_BURST_FACTOR * timeout)
    peer.rate_last = now
    allowed = token >= timeout
    peer.rate_tokens = token - timeout if allowed else token
    return allowed


def icmpv4_xrlim_allow(net: Stack, rt: rtable, daddr: int, icmp_type: int, code: int) -> bool:
    if icmpv4_mask_allow(net, icmp_type, code) or rt.dev is net.loopback_dev:
        return True
    timeout = msecs_to_jiffies(net.ipv4.sysctl_icmp_ratelimit)
    if not timeout or inet_peer_xrlim_allow(net, daddr, timeout):
        return True
    ICMP_INC_STATS(net, ICMP_MIB_RATELIMITHOST)
    return False


# -- sending -----------------------------------------------------------------------------------------------------------


def icmp_out_count(net: Stack, icmp_type: int) -> None:
    ICMPMSGOUT_INC_STATS(net, icmp_type)
    ICMP_INC_STATS(net, ICMP_MIB_OUTMSGS)


def icmp_push_reply(
    net: Stack,
    icmp_type: int,
    code: int,
    rest: int,
    body: bytes | memoryview,
    fl4: flowi4,
    rt: rtable,
    opt: ip_options | None,
    tos: int,
) -> None:
    """Finish the message and send it; ``rest`` are the header's last 32 bits."""
    header = ICMPHDR_STRUCT.pack(icmp_type, code, 0, rest >> 16, rest & 0xFFFF)
    check = csum_fold(csum_partial(body, csum_partial(header)))
    header = ICMPHDR_STRUCT.pack(icmp_type, code, check, rest >> 16, rest & 0xFFFF)
    sk = net.icmp_global.sk
    sk.inet_opt = opt
    sk.sk_daddr = 0
    skb = ip_output.ip_make_skb(sk, header, body, rt, fl4, tos, route.ip4_dst_hoplimit(rt))
    sk.inet_opt = None
    if isinstance(skb, int):
        ICMP_INC_STATS(net, ICMP_MIB_OUTERRORS)
        return
    # Linux counts each answer as an echo reply, one to a time stamp request too (measured).
    icmp_out_count(net, ICMP_ECHOREPLY if icmp_type == ICMP_TIMESTAMPREPLY else icmp_type)
    ip_output.ip_send_skb(net, skb)


def icmp_reply(skb: sk_buff, icmp_type: int, code: int, rest: int, body: bytes | memoryview) -> None:
    """Answer a request, from the address it was sent to."""
    rt_in = cast(rtable, skb._skb_refdst)
    net = rt_in.net
    iph: iphdr = skb.h_iph
    if not icmpv4_global_allow(net, icmp_type, code):
        return
    opt = ipv4_options.ip_options_echo(net, skb.ip_opt, skb) if skb.ip_opt is not None else None
    fl4 = flowi4()
    fl4.daddr = opt.faddr if opt is not None and opt.srr else iph.saddr
    fl4.saddr = _spec_dst(rt_in, iph)
    fl4.flowi4_proto = IPPROTO_ICMP
    rt = route.ip_route_output_key(net, fl4)
    if isinstance(rt, int) or not icmpv4_xrlim_allow(net, rt, fl4.daddr, icmp_type, code):
        return
    icmp_push_reply(net, icmp_type, code, rest, body, fl4, rt, opt, iph.tos)


def _spec_dst(rt: rtable, iph: iphdr) -> int:
    """fib_compute_spec_dst(): the address that the sender meant, never a broadcast one."""
    if rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        return devinet.inet_select_addr(rt.dev, iph.saddr)
    return iph.daddr


def icmp_send(skb_in: sk_buff, icmp_type: int, code: int, info: int) -> None:
    """Tell the sender of ``skb_in`` (its network header in place, its route set) that it could not be delivered.
    ``info`` is the header's last 32 bits: the MTU, or the pointer in the top byte."""
    rt_in = skb_in._skb_refdst
    iph = skb_in.h_iph
    if not isinstance(rt_in, rtable) or iph is None or not _error_may_answer(skb_in, rt_in, iph, icmp_type):
        return
    net = rt_in.net
    if not icmpv4_global_allow(net, icmp_type, code):
        return
    saddr = iph.daddr
    if not rt_in.rt_flags & RTCF_LOCAL or not rt_in.rt_is_input:
        saddr = 0
    tos = (iph.tos & 0x1E) | 0xC0 if icmp_type in _ERROR_TYPES else iph.tos
    opt = ipv4_options.ip_options_echo(net, skb_in.ip_opt, skb_in) if skb_in.ip_opt is not None else None
    fl4 = flowi4()
    fl4.daddr = opt.faddr if opt is not None and opt.srr else iph.saddr
    fl4.saddr = saddr
    fl4.flowi4_proto = IPPROTO_ICMP
    rt = route.ip_route_output_key(net, fl4)
    if isinstance(rt, int) or not icmpv4_xrlim_allow(net, rt, iph.saddr, icmp_type, code):
        return
    room = min(dst_mtu(rt), _ERROR_SIZE) - 20 - 8 - (opt.optlen if opt is not None else 0)
    icmp_push_reply(net, icmp_type, code, info, _quoted(skb_in, room), fl4, rt, opt, tos)


def _error_may_answer(skb: sk_buff, rt: rtable, iph: iphdr, icmp_type: int) -> bool:
    if skb.pkt_type != PACKET_HOST or rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        return False
    if iph.frag_off & IP_OFFSET or not iph.saddr:
        return False
    if icmp_type in _ERROR_TYPES and iph.protocol == IPPROTO_ICMP:
        at = skb.network_header + iph.ihl * 4
        inner = skb.head[at] if at < skb.tail else None
        if inner is None or inner > NR_ICMP_TYPES or inner in _ERROR_TYPES:
            return False
    return True


def _quoted(skb: sk_buff, room: int) -> bytes:
    whole = memoryview(skb.head)[skb.network_header : skb.tail]
    if len(whole) >= room or not skb.frags:
        return bytes(whole[:room])
    return b"".join((whole, *skb.frags))[:room]


# -- receiving ---------------------------------------------------------------------------------------------------------


def icmp_rcv(skb: sk_buff) -> int:
    """Check the message and hand it to its type's function."""
    rt = cast(rtable, skb._skb_refdst)
    net = rt.net
    ICMP_INC_STATS(net, ICMP_MIB_INMSGS)
    if skb.ip_summed == CHECKSUM_NONE and ip_compute_csum(memoryview(skb.head)[skb.data : skb.tail]):
        ICMP_INC_STATS(net, ICMP_MIB_CSUMERRORS)
        return _icmp_error(net, skb, SKB_DROP_REASON_ICMP_CSUM)
    if skb.len < 8:
        return _icmp_error(net, skb, SKB_DROP_REASON_PKT_TOO_SMALL)
    icmph = icmphdr(*ICMPHDR_STRUCT.unpack_from(skb.head, skb.data))
    skb.h_th = icmph
    skb.data += 8
    skb.len -= 8
    ICMPMSGIN_INC_STATS(net, icmph.type)
    if icmph.type > NR_ICMP_TYPES:
        return _icmp_error(net, skb, SKB_DROP_REASON_UNHANDLED_PROTO)
    if rt.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST) and not _answered_to_all(net, icmph.type):
        return _icmp_error(net, skb, SKB_DROP_REASON_INVALID_PROTO)
    handler, is_error = icmp_pointers[icmph.type]
    reason = handler(skb)
    if reason == SKB_NOT_DROPPED_YET:
        skbuff.consume_skb(skb)
        return 0
    if is_error and reason == SKB_DROP_REASON_PKT_TOO_SMALL:
        return _icmp_error(net, skb, reason)
    skbuff.kfree_skb_reason(skb, reason)
    return 1


def _icmp_error(net: Stack, skb: sk_buff, reason: int) -> int:
    ICMP_INC_STATS(net, ICMP_MIB_INERRORS)
    skbuff.kfree_skb_reason(skb, reason)
    return 1


def _answered_to_all(net: Stack, icmp_type: int) -> bool:
    if icmp_type in (ICMP_ECHO, ICMP_TIMESTAMP) and net.ipv4.sysctl_icmp_echo_ignore_broadcasts:
        return False
    return icmp_type in _ANSWERED_TO_BROADCAST


def icmp_discard(skb: sk_buff) -> int:
    """A type that nothing is done about (an echo reply reaches ping sockets only, which there are none of)."""
    return SKB_DROP_REASON_ICMP_IGNORED


def icmp_echo(skb: sk_buff) -> int:
    """RFC 1122, section 3.2.2.6: the same data back; the code too, whatever it is."""
    net = cast(rtable, skb._skb_refdst).net
    if net.ipv4.sysctl_icmp_echo_ignore_all:
        return SKB_DROP_REASON_ICMP_IGNORED
    icmph: icmphdr = skb.h_th
    body = memoryview(skb.head)[skb.data : skb.tail]
    icmp_reply(skb, ICMP_ECHOREPLY, icmph.code, icmph.gateway, body)
    return SKB_NOT_DROPPED_YET


def icmp_timestamp(skb: sk_buff) -> int:
    """RFC 792: milliseconds since midnight UT, in the answer's receive and transmit fields."""
    net = cast(rtable, skb._skb_refdst).net
    if skb.len < 4:
        return SKB_DROP_REASON_PKT_TOO_SMALL
    icmph: icmphdr = skb.h_th
    now = (net.clock.real_ns() // 1_000_000 % MSEC_PER_DAY).to_bytes(4, "big")
    body = bytes(skb.head[skb.data : skb.data + 4]) + now + now
    icmp_reply(skb, ICMP_TIMESTAMPREPLY, 0, icmph.gateway, body)
    return SKB_NOT_DROPPED_YET


def icmp_redirect(skb: sk_buff) -> int:
    """Counted only; see the head of the file."""
    return SKB_DROP_REASON_ICMP_IGNORED if skb.len >= 20 else SKB_DROP_REASON_PKT_TOO_SMALL


def icmp_unreach(skb: sk_buff) -> int:
    """Unreachable, time exceeded, quench and parameter problem: find what the error carries besides its code and give
    it to the protocol of the packet that it quotes."""
    net = cast(rtable, skb._skb_refdst).net
    icmph: icmphdr = skb.h_th
    if skb.len < 20:
        return SKB_DROP_REASON_PKT_TOO_SMALL
    iph = iphdr_at(skb.head, skb.data)
    if iph.ihl < 5 or iph.version != 4:
        return SKB_DROP_REASON_PKT_TOO_SMALL
    info = 0
    if icmph.type == ICMP_DEST_UNREACH:
        if icmph.code == ICMP_FRAG_NEEDED:
            if net.ipv4.sysctl_ip_no_pmtu_disc:
                return SKB_NOT_DROPPED_YET
            info = icmph.mtu
        elif icmph.code > NR_ICMP_UNREACH:
            return SKB_DROP_REASON_ICMP_IGNORED
    elif icmph.type == ICMP_TIME_EXCEEDED and icmph.code == ICMP_EXC_FRAGTIME:
        return SKB_NOT_DROPPED_YET  # of fragments that a resent packet replaces: of interest to nobody
    elif icmph.type == ICMP_PARAMETERPROB:
        info = icmph.gateway >> 24
    # RFC 1122, section 3.2.2: an error about a packet to a broadcast address is bogus.
    bogus = fib_frontend.inet_addr_type(net, iph.daddr) == RTN_BROADCAST
    if bogus and net.ipv4.sysctl_icmp_ignore_bogus_error_responses:
        return SKB_DROP_REASON_ICMP_IGNORED
    return icmp_socket_deliver(skb, iph, info)


def icmp_socket_deliver(skb: sk_buff, iph: iphdr, info: int) -> int:
    """The protocol needs 8 bytes of its header to know whose packet it was."""
    net = cast(rtable, skb._skb_refdst).net
    if skb.len < iph.ihl * 4 + 8:
        return SKB_DROP_REASON_PKT_TOO_SMALL
    ipprot = net.inet_protos[iph.protocol]
    if ipprot is None or ipprot.err_handler is None:
        return SKB_DROP_REASON_NOT_SPECIFIED
    ipprot.err_handler(skb, info)
    return SKB_NOT_DROPPED_YET


def icmp_err(skb: sk_buff, info: int) -> int:
    """An error about an ICMP message of ours: only its MTU matters."""
    icmph: icmphdr = skb.h_th
    if icmph.type == ICMP_DEST_UNREACH and icmph.code == ICMP_FRAG_NEEDED:
        iph = iphdr_at(skb.head, skb.data)
        route.ipv4_update_pmtu(skb, cast(rtable, skb._skb_refdst).net, info, 0, IPPROTO_ICMP, iph.daddr)
    return 0


_Handler = Callable[[sk_buff], int]


def _pointers() -> tuple[tuple[_Handler, bool], ...]:
    table: list[tuple[_Handler, bool]] = [(icmp_discard, False)] * (NR_ICMP_TYPES + 1)
    for icmp_type in (ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB):
        table[icmp_type] = (icmp_unreach, True)
    table[ICMP_REDIRECT] = (icmp_redirect, True)
    table[ICMP_ECHO] = (icmp_echo, False)
    table[ICMP_TIMESTAMP] = (icmp_timestamp, True)
    return tuple(table)


# By type: the function, and whether a short message of it counts as InErrors.
icmp_pointers = _pointers()
icmp_protocol = net_protocol(icmp_rcv, icmp_err)
