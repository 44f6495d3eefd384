# SPDX-License-Identifier: GPL-2.0-or-later
"""Reassembly of IPv4 datagrams: net/ipv4/ip_fragment.c (RFC 791 section 3.2, RFC 5722's rule on overlaps, which Linux
applies to IPv4 too).

A queue is keyed by (id, source, destination, protocol).  A fragment that repeats bytes exactly inside what is there is
dropped alone; one that overlaps anything else throws the whole datagram away.  A datagram that does not complete within
ipfrag_time counts ReasmTimeout and, if its first fragment came, draws an ICMP "fragment reassembly time exceeded".
More than ipfrag_max_dist fragments of other datagrams from the same source between two of one datagram throw it away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_DUP_FRAG,
    SKB_DROP_REASON_FRAG_REASM_TIMEOUT,
    SKB_DROP_REASON_FRAG_TOO_FAR,
    SKB_DROP_REASON_IP_INHDR,
    SKB_DROP_REASON_NOMEM,
    SKB_DROP_REASON_NOT_SPECIFIED,
)
from stack.include.ip import (
    ICMP_EXC_FRAGTIME,
    ICMP_TIME_EXCEEDED,
    INET_ECN_MASK,
    IP_DF,
    IP_MF,
    IP_OFFSET,
    IPHDR_STRUCT,
    inet_skb_parm,
    iphdr,
)
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_UNNECESSARY, PACKET_HOST, sk_buff
from stack.include.snmp import (
    IP_INC_STATS,
    IPSTATS_MIB_REASM_OVERLAPS,
    IPSTATS_MIB_REASMFAILS,
    IPSTATS_MIB_REASMOKS,
    IPSTATS_MIB_REASMREQDS,
    IPSTATS_MIB_REASMTIMEOUT,
)
from stack.include.timer import timer_list
from stack.lib.checksum import ip_fast_csum
from stack.net.core import skbuff
from stack.net.ipv4 import icmp, inet_fragment
from stack.net.ipv4.inet_fragment import INET_FRAG_FIRST_IN, INET_FRAG_LAST_IN

if TYPE_CHECKING:
    from stack.stack import Stack

_Key = tuple[int, int, int, int]
_FLAGS_DONE: Final = INET_FRAG_FIRST_IN | INET_FRAG_LAST_IN

# RFC 3168, section 5.3: what the ECN bits of the fragments (one bit each per value seen) make of the whole; None
# drops the datagram, as CE beside not-ECT does.
_NOT_ECT, _ECT_1, _ECT_0, _CE = 1, 2, 4, 8


class ipq:
    """struct ipq: one unfinished datagram.  ``starts`` and ``frags`` run in step, sorted by offset."""

    __slots__ = ("ecn", "flags", "frags", "key", "len", "meat", "mem", "net", "rid", "starts", "timer")

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
        self.rid = 0
        self.timer: timer_list = timer_list(ip_expire, self)


def ip_defrag(net: Stack, skb: sk_buff) -> sk_buff | None:
    """Add a fragment; the whole datagram if that completed it, else None (the fragment is kept or dropped)."""
    IP_INC_STATS(net, IPSTATS_MIB_REASMREQDS)
    qp = ip_find(net, skb.h_iph)
    if qp is None:
        IP_INC_STATS(net, IPSTATS_MIB_REASMFAILS)
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NOMEM)
        return None
    return ip_frag_queue(net, qp, skb)


def ip_find(net: Stack, iph: iphdr) -> ipq | None:
    """The datagram's queue, made if the bounds allow it."""
    fq = net.ipv4_fqdir
    key = (iph.id, iph.saddr, iph.daddr, iph.protocol)
    qp = fq.queues.get(key)
    if qp is None:
        if not inet_fragment.inet_frag_may_create(net, fq):
            return None
        qp = ipq(net, key)
        inet_fragment.inet_frag_insert(net, fq, key, qp, qp.timer, net.ipv4.ipfrag_time)
        qp.rid = fq.peers.get(iph.saddr, 0)
    elif fq.mem > net.ipv4.ipfrag_high_thresh:
        return None
    assert isinstance(qp, ipq)
    return qp


def ipq_kill(qp: ipq) -> None:
    inet_fragment.inet_frag_kill(qp.net, qp.net.ipv4_fqdir, qp.key, qp.timer, qp.mem)


def ip_frag_too_far(net: Stack, qp: ipq, saddr: int) -> bool:
    """Whether so many other fragments came from the sender meanwhile that the id has probably been used again."""
    dist = net.ipv4.ipfrag_max_dist
    peers = net.ipv4_fqdir.peers
    if not dist:
        return False
    if len(peers) > inet_fragment.MAX_QUEUES:
        peers.clear()
    start = qp.rid
    qp.rid = peers[saddr] = peers.get(saddr, 0) + 1
    return bool(qp.frags) and qp.rid - start > dist


def _discard(qp: ipq, skb: sk_buff, reason: int) -> None:
    """Drop the datagram with everything that came of it."""
    IP_INC_STATS(qp.net, IPSTATS_MIB_REASMFAILS)
    ipq_kill(qp)
    for _, frag in qp.frags:
        skbuff.kfree_skb_reason(frag, reason)
    qp.frags = []
    qp.starts = []
    skbuff.kfree_skb_reason(skb, reason)


def ip_frag_queue(net: Stack, qp: ipq, skb: sk_buff) -> sk_buff | None:
    iph: iphdr = skb.h_iph
    if ip_frag_too_far(net, qp, iph.saddr):
        _discard(qp, skb, SKB_DROP_REASON_FRAG_TOO_FAR)
        return None
    start = (iph.frag_off & IP_OFFSET) * 8
    skb.data += iph.ihl * 4
    skb.len -= iph.ihl * 4
    end = start + skb.len
    if not _frag_bounds_ok(qp, skb, start, end, bool(iph.frag_off & IP_MF)):
        _discard(qp, skb, SKB_DROP_REASON_IP_INHDR)
        return None
    end = start + skb.len
    overlap = _frag_insert(net, qp, skb, start, end)
    if overlap:
        return None
    qp.ecn |= 1 << (iph.tos & INET_ECN_MASK)
    if start == 0:
        qp.flags |= INET_FRAG_FIRST_IN
    if qp.flags & _FLAGS_DONE == _FLAGS_DONE and qp.meat == qp.len:
        return ip_frag_reasm(net, qp)
    return None


def _frag_bounds_ok(qp: ipq, skb: sk_buff, start: int, end: int, more: bool) -> bool:
    """Check the piece against what is known of the datagram's length; a middle piece is cut to a multiple of 8."""
    if more:
        cut = end & 7
        skb.tail -= cut
        skb.len -= cut
        end -= cut
        if end > qp.len:
            if qp.flags & INET_FRAG_LAST_IN:
                return False
            qp.len = end
    else:
        if end < qp.len or (qp.flags & INET_FRAG_LAST_IN and end != qp.len):
            return False
        qp.flags |= INET_FRAG_LAST_IN
        qp.len = end
    return start < end <= 65535 - 20


def _frag_insert(net: Stack, qp: ipq, skb: sk_buff, start: int, end: int) -> bool:
    """Put the piece in its place; True if it was dropped for repeating or overlapping another."""
    fq = net.ipv4_fqdir
    verdict = inet_fragment.inet_frag_queue_insert(fq, qp.starts, qp.frags, skb, start, end)
    if verdict == inet_fragment.IPFRAG_OK:
        qp.meat += end - start
        qp.mem += skb.truesize
        return False
    if verdict == inet_fragment.IPFRAG_DUP:
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_DUP_FRAG)
        return True
    IP_INC_STATS(net, IPSTATS_MIB_REASM_OVERLAPS)
    _discard(qp, skb, SKB_DROP_REASON_NOT_SPECIFIED)
    return True


def ip_frag_ecn(seen: int) -> int | None:
    """The ECN bits of the whole from those of its parts."""
    if seen & _NOT_ECT:
        return 0 if seen == _NOT_ECT else None
    if seen & _CE:
        return 3
    return {_ECT_1: 1, _ECT_0: 2, _ECT_0 | _ECT_1: 2}.get(seen)


def ip_frag_reasm(net: Stack, qp: ipq) -> sk_buff | None:
    """Build the whole datagram behind the first fragment's header."""
    ecn = ip_frag_ecn(qp.ecn)
    first = qp.frags[0][1]
    iph: iphdr = first.h_iph
    hlen = iph.ihl * 4
    if ecn is None or hlen + qp.len > 65535:
        last = qp.frags.pop()[1]
        _discard(qp, last, SKB_DROP_REASON_NOT_SPECIFIED)
        return None
    ipq_kill(qp)
    view = memoryview(first.head)
    pieces = [memoryview(f.head)[f.data : f.tail] for _, f in qp.frags]
    network = first.network_header - first.mac_header
    tos = (iph.tos & ~INET_ECN_MASK) | ecn
    fields = ((iph.version << 4) | iph.ihl, tos, hlen + qp.len, iph.id, iph.frag_off & IP_DF, iph.ttl, iph.protocol)
    options = view[first.network_header + 20 : first.network_header + hlen]
    check = ip_fast_csum(IPHDR_STRUCT.pack(*fields, 0, iph.saddr, iph.daddr) + options, iph.ihl)
    header = IPHDR_STRUCT.pack(*fields, check, iph.saddr, iph.daddr)  # an ICMP error quotes this, the whole's
    frame = b"".join([view[first.mac_header : first.network_header], header, options, *pieces])
    whole = sk_buff(frame, network, len(frame))
    whole.mac_header = 0
    whole.network_header = network
    whole.transport_header = network + hlen
    whole.dev, whole.skb_iif, whole.protocol = first.dev, first.skb_iif, first.protocol
    whole.pkt_type = max((f.pkt_type for _, f in qp.frags), default=PACKET_HOST)
    verified = all(f.ip_summed != CHECKSUM_NONE for _, f in qp.frags)
    whole.ip_summed = CHECKSUM_UNNECESSARY if verified else CHECKSUM_NONE
    whole._skb_refdst = first._skb_refdst
    whole.ip_opt = first.ip_opt
    whole.cb = inet_skb_parm(max(f.h_iph.ihl * 4 + f.len for _, f in qp.frags))
    whole.h_iph = iphdr(*fields, check, iph.saddr, iph.daddr)
    for _, frag in qp.frags:
        skbuff.consume_skb(frag)
    IP_INC_STATS(net, IPSTATS_MIB_REASMOKS)
    return whole


def ip_expire(qp: ipq) -> None:
    """The datagram did not complete in time."""
    net = qp.net
    ipq_kill(qp)
    IP_INC_STATS(net, IPSTATS_MIB_REASMFAILS)
    IP_INC_STATS(net, IPSTATS_MIB_REASMTIMEOUT)
    if qp.flags & INET_FRAG_FIRST_IN and qp.frags:
        icmp.icmp_send(qp.frags[0][1], ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME, 0)
    for _, frag in qp.frags:
        skbuff.kfree_skb_reason(frag, SKB_DROP_REASON_FRAG_REASM_TIMEOUT)
