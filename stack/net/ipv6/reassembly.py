# SPDX-License-Identifier: GPL-2.0-or-later
"""Reassembly of IPv6 packets: net/ipv6/reassembly.c (RFC 8200 section 4.5, RFC 5722, RFC 6946, RFC 7112).

A queue is keyed by (id, source, destination, device if the addresses need one).  A fragment that repeats bytes exactly
inside what is there is dropped alone; one that overlaps anything else throws the whole packet away.  A packet that does
not complete within 60 s counts ReasmTimeout and, if its first fragment came, draws a time exceeded.  An "atomic"
fragment (the whole packet behind a fragment header) waits for nobody.  A first fragment has to hold all headers.

Bounds are those of inet_fragment.py: ip6frag_high_thresh bytes of truesize, MAX_QUEUES packets at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_DUP_FRAG,
    SKB_DROP_REASON_FRAG_REASM_TIMEOUT,
    SKB_DROP_REASON_IP_INHDR,
    SKB_DROP_REASON_NOMEM,
    SKB_DROP_REASON_NOT_SPECIFIED,
)
from stack.include.ip import INET_ECN_MASK
from stack.include.ipv6 import (
    FRAG_HDR_STRUCT,
    ICMPV6_EXC_FRAGTIME,
    ICMPV6_HDR_FIELD,
    ICMPV6_TIME_EXCEED,
    IP6_MF,
    IP6_OFFSET,
    IPV6_MAXPLEN,
    IPV6HDR_LEN,
    NEXTHDR_FRAGMENT,
    NEXTHDR_ICMP,
    NEXTHDR_TCP,
    NEXTHDR_UDP,
    inet6_protocol,
    ipv6_addr_needs_scope_id,
    ipv6hdr,
)
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_UNNECESSARY, sk_buff
from stack.include.snmp import (
    IP6_INC_STATS,
    IPSTATS_MIB_INHDRERRORS,
    IPSTATS_MIB_REASMFAILS,
    IPSTATS_MIB_REASMOKS,
    IPSTATS_MIB_REASMREQDS,
    IPSTATS_MIB_REASMTIMEOUT,
)
from stack.include.timer import timer_list
from stack.net.core import skbuff
from stack.net.ipv4 import inet_fragment, ip_fragment
from stack.net.ipv4.inet_fragment import INET_FRAG_FIRST_IN, INET_FRAG_LAST_IN
from stack.net.ipv6 import exthdrs, exthdrs_core, icmp, protocol

if TYPE_CHECKING:
    from stack.stack import Stack

_Key = tuple[int, int, int, int]
_FLAGS_DONE: Final = INET_FRAG_FIRST_IN | INET_FRAG_LAST_IN
_SIZE: Final = FRAG_HDR_STRUCT.size
ICMPV6_HDR_INCOMP: Final = 3  # RFC 7112, section 6
_UPPER_LEN: Final = {NEXTHDR_TCP: 20, NEXTHDR_UDP: 8, NEXTHDR_ICMP: 8}


class frag_queue:
    """struct frag_queue: one unfinished packet.  ``starts`` and ``frags`` run in step, sorted by offset; ``nhoffset``
    is where the unfragmentable part names its next header."""

    __slots__ = ("ecn", "flags", "frags", "key", "len", "meat", "mem", "net", "starts", "timer")

    def __init__(self, net: Stack, key: _Key) -> None:
        self.net = net
        self.key = key
        self.starts: list[int] = []
        self.frags: list[tuple[int, sk_buff]] = []  # (end, fragment with data at its payload)
        self.flags = 0
        self.len = 0
        self.meat = 0
        self.mem = 0
        self.ecn = 0
        self.timer: timer_list = timer_list(ip6_frag_expire, self)


def ipv6_frag_init(net: Stack) -> None:
    net.ipv6_fqdir = inet_fragment.fqdir()
    protocol.inet6_add_protocol(net, inet6_protocol(ipv6_frag_rcv, flags=0), NEXTHDR_FRAGMENT)


def ipv6_frag_rcv(skb: sk_buff) -> int:
    """A fragment header; skb.data is at it.  1 when ``skb`` has become the whole packet, -1 if it was kept or
    dropped."""
    assert skb.dev is not None
    net = skb.dev.net
    IP6_INC_STATS(net, IPSTATS_MIB_REASMREQDS)
    hdr: ipv6hdr = skb.h_iph
    at = skb.transport_header
    if not hdr.payload_len or at + _SIZE > skb.tail:
        return _fail_hdr(net, skb, ICMPV6_HDR_FIELD, at - skb.network_header)
    nexthdr, _, frag_off, ident = FRAG_HDR_STRUCT.unpack_from(skb.head, at)
    if not frag_off & (IP6_OFFSET | IP6_MF):
        skb.transport_header = at + _SIZE
        IP6_INC_STATS(net, IPSTATS_MIB_REASMOKS)
        parm = exthdrs.IP6CB(skb)
        parm.nhoff = at - skb.network_header
        parm.flags |= exthdrs.IP6SKB_FRAGMENTED
        return 1
    if not frag_off & IP6_OFFSET and ipv6frag_thdr_truncated(skb, at + _SIZE, nexthdr):
        IP6_INC_STATS(net, IPSTATS_MIB_INHDRERRORS)
        icmp.icmpv6_param_prob(skb, ICMPV6_HDR_INCOMP, 0, SKB_DROP_REASON_IP_INHDR)
        return -1
    fq = fq_find(net, hdr, ident, skb.dev.ifindex)
    if fq is None:
        IP6_INC_STATS(net, IPSTATS_MIB_REASMFAILS)
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NOMEM)
        return -1
    return ip6_frag_queue(net, fq, skb, frag_off)


def _fail_hdr(net: Stack, skb: sk_buff, code: int, pointer: int) -> int:
    IP6_INC_STATS(net, IPSTATS_MIB_INHDRERRORS)
    icmp.icmpv6_param_prob(skb, code, pointer, SKB_DROP_REASON_IP_INHDR)
    return -1


def ipv6frag_thdr_truncated(skb: sk_buff, start: int, nexthdr: int) -> bool:
    """Whether a first fragment lacks a part of its headers (RFC 7112)."""
    found = exthdrs_core.ipv6_skip_exthdr(skb.head, start, skb.tail, nexthdr)
    if found is None:
        return True
    at, upper, _ = found
    return at + _UPPER_LEN.get(upper, 1) > skb.tail


def fq_find(net: Stack, hdr: ipv6hdr, ident: int, iif: int) -> frag_queue | None:
    """The packet's queue, made if the bounds allow it."""
    fqdir = net.ipv6_fqdir
    scope = iif if ipv6_addr_needs_scope_id(hdr.saddr) or ipv6_addr_needs_scope_id(hdr.daddr) else 0
    key = (ident, hdr.saddr, hdr.daddr, scope)
    if fqdir.mem > net.ipv6.sysctl_ip6frag_high_thresh:
        return None
    fq = fqdir.queues.get(key)
    if fq is None:
        if len(fqdir.queues) >= inet_fragment.MAX_QUEUES:
            return None
        fq = frag_queue(net, key)
        inet_fragment.inet_frag_insert(net, fqdir, key, fq, fq.timer, net.ipv6.sysctl_ip6frag_time)
    assert isinstance(fq, frag_queue)
    return fq


def _kill(fq: frag_queue) -> None:
    inet_fragment.inet_frag_kill(fq.net, fq.net.ipv6_fqdir, fq.key, fq.timer, fq.mem)


def _discard(fq: frag_queue, skb: sk_buff, reason: int) -> int:
    """Drop the packet with everything that came of it."""
    IP6_INC_STATS(fq.net, IPSTATS_MIB_REASMFAILS)
    _kill(fq)
    for _, frag in fq.frags:
        skbuff.kfree_skb_reason(frag, reason)
    fq.frags = []
    fq.starts = []
    skbuff.kfree_skb_reason(skb, reason)
    return -1


def ip6_frag_queue(net: Stack, fq: frag_queue, skb: sk_buff, frag_off: int) -> int:
    """Add the piece; as ipv6_frag_rcv()."""
    hdr: ipv6hdr = skb.h_iph
    start = frag_off & IP6_OFFSET
    at = skb.transport_header
    end = start + skb.tail - at - _SIZE
    if end > IPV6_MAXPLEN:
        return _fail_hdr(net, skb, ICMPV6_HDR_FIELD, at + 2 - skb.network_header)
    if frag_off & IP6_MF and end & 7:
        return _fail_hdr(net, skb, ICMPV6_HDR_FIELD, 4)  # offsetof(struct ipv6hdr, payload_len)
    if not _frag_bounds_ok(fq, end, bool(frag_off & IP6_MF)) or start == end:
        return _discard(fq, skb, SKB_DROP_REASON_IP_INHDR)
    skb.data = at + _SIZE
    skb.len = skb.tail - skb.data
    verdict = inet_fragment.inet_frag_queue_insert(net.ipv6_fqdir, fq.starts, fq.frags, skb, start, end)
    if verdict == inet_fragment.IPFRAG_DUP:
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_DUP_FRAG)
        return -1
    if verdict == inet_fragment.IPFRAG_OVERLAP:
        return _discard(fq, skb, SKB_DROP_REASON_NOT_SPECIFIED)
    fq.meat += end - start
    fq.mem += skb.truesize
    fq.ecn |= 1 << (hdr.tclass & INET_ECN_MASK)
    if start == 0:
        fq.flags |= INET_FRAG_FIRST_IN
    if fq.flags & _FLAGS_DONE == _FLAGS_DONE and fq.meat == fq.len:
        return ip6_frag_reasm(net, fq, skb)
    return -1


def _frag_bounds_ok(fq: frag_queue, end: int, more: bool) -> bool:
    """Check the piece against what is known of the packet's length."""
    if more:
        if end > fq.len:
            if fq.flags & INET_FRAG_LAST_IN:
                return False
            fq.len = end
        return True
    if end < fq.len or (fq.flags & INET_FRAG_LAST_IN and end != fq.len):
        return False
    fq.flags |= INET_FRAG_LAST_IN
    fq.len = end
    return True


def ip6_frag_reasm(net: Stack, fq: frag_queue, skb: sk_buff) -> int:
    """Make ``skb``, the piece that was missing, the whole packet: the first piece's headers without the fragment
    header, then all pieces."""
    first = fq.frags[0][1]
    ecn = ip_fragment.ip_frag_ecn(fq.ecn)
    unfragmentable = first.transport_header - first.network_header
    payload_len = unfragmentable - IPV6HDR_LEN + fq.len
    if ecn is None or payload_len > IPV6_MAXPLEN:
        fq.frags = [f for f in fq.frags if f[1] is not skb]
        return _discard(fq, skb, SKB_DROP_REASON_NOT_SPECIFIED)
    _kill(fq)
    nhoff = exthdrs.IP6CB(first).nhoff
    headers = bytearray(first.head[first.mac_header : first.transport_header])
    network = first.network_header - first.mac_header
    headers[network + nhoff] = first.head[first.transport_header]
    headers[network + 4 : network + 6] = payload_len.to_bytes(2, "big")
    pieces = [memoryview(f.head)[f.data : f.tail] for _, f in fq.frags]
    longest = max(f.tail - f.network_header for _, f in fq.frags)
    verified = all(f.ip_summed != CHECKSUM_NONE for _, f in fq.frags)
    hdr, parm = first.h_iph, exthdrs.IP6CB(first)
    frame = b"".join([headers, *pieces])
    for _, frag in fq.frags:
        if frag is not skb:
            skbuff.consume_skb(frag)
    hdr.payload_len = payload_len
    hdr.tclass = (hdr.tclass & ~INET_ECN_MASK) | ecn
    hdr.nexthdr = frame[network + 6]
    parm.flags |= exthdrs.IP6SKB_FRAGMENTED
    parm.frag_max_size = longest
    skb.head, skb.mac_header, skb.network_header, skb.tail = frame, 0, network, len(frame)
    skb.data = skb.transport_header = network + unfragmentable
    skb.len = skb.tail - skb.data
    skb.truesize = fq.mem
    skb.h_iph, skb.cb = hdr, parm
    skb.ip_summed = CHECKSUM_UNNECESSARY if verified else CHECKSUM_NONE
    IP6_INC_STATS(net, IPSTATS_MIB_REASMOKS)
    return 1


def ip6_frag_expire(fq: frag_queue) -> None:
    """The packet did not complete in time."""
    net = fq.net
    _kill(fq)
    IP6_INC_STATS(net, IPSTATS_MIB_REASMFAILS)
    IP6_INC_STATS(net, IPSTATS_MIB_REASMTIMEOUT)
    if fq.flags & INET_FRAG_FIRST_IN:
        icmp.icmpv6_send(fq.frags[0][1], ICMPV6_TIME_EXCEED, ICMPV6_EXC_FRAGTIME, 0)
    for _, frag in fq.frags:
        skbuff.kfree_skb_reason(frag, SKB_DROP_REASON_FRAG_REASM_TIMEOUT)
