# SPDX-License-Identifier: GPL-2.0-or-later
"""SYN cookies over IPv6: net/ipv6/syncookies.c.

As net/ipv4/syncookies.py tells it, with the longer addresses in the hash and a table of MSS values that fit: those of
an MTU of 1280 (the smallest of IPv6), 1480 (a tunnel), 1500 and 9000 bytes, less 60 for the headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stack.include.ipv6 import ipv6_hdr
from stack.include.request_sock import reqsk_free
from stack.include.snmp import LINUX_MIB_SYNCOOKIESFAILED, LINUX_MIB_SYNCOOKIESRECV, NET_INC_STATS
from stack.include.tcp import (
    MAX_SYNCOOKIE_AGE,
    TCPHDR_ACK,
    TCPHDR_RST,
    tcp_cookie_time,
    tcp_hdr,
    tcp_options_received,
    tcp_synq_no_recent_overflow,
)
from stack.lib.siphash import siphash_in6
from stack.net.core.secure_seq import secure_tcpv6_ts_off
from stack.net.ipv4 import syncookies, tcp_input
from stack.net.ipv4.syncookies import COOKIEBITS, COOKIEMASK
from stack.net.ipv6 import tcp_ipv6
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.include.ipv6 import ipv6hdr
    from stack.include.sk_buff import sk_buff
    from stack.include.tcp import tcp_sock, tcphdr
    from stack.stack import Stack

msstab: Final = (1220, 1420, 1440, 8940)


def cookie_hash(net: Stack, saddr: int, daddr: int, sport: int, dport: int, count: int, c: int) -> int:
    words = (count & MASK32, sport << 16 | dport)
    return siphash_in6(saddr, daddr, words, net.syncookie_secret[c]) & MASK32


def secure_tcp_syn_cookie(
    net: Stack, saddr: int, daddr: int, sport: int, dport: int, sseq: int, data: int
) -> int:
    """The cookie for a SYN with sequence number ``sseq``; ``data`` is below 2**24."""
    count = tcp_cookie_time(net)
    low = (cookie_hash(net, saddr, daddr, sport, dport, count, 1) + data) & COOKIEMASK
    return (cookie_hash(net, saddr, daddr, sport, dport, 0, 0) + sseq + (count << COOKIEBITS) + low) & MASK32


def check_tcp_syn_cookie(
    net: Stack, cookie: int, saddr: int, daddr: int, sport: int, dport: int, sseq: int
) -> int:
    """The data of a cookie, or -1 if it is too old.  A forged one gives a number that nobody chose."""
    count = tcp_cookie_time(net)
    cookie = (cookie - cookie_hash(net, saddr, daddr, sport, dport, 0, 0) - sseq) & MASK32
    age = (count - (cookie >> COOKIEBITS)) & (MASK32 >> COOKIEBITS)
    if age >= MAX_SYNCOOKIE_AGE:
        return -1
    return (cookie - cookie_hash(net, saddr, daddr, sport, dport, count - age, 1)) & COOKIEMASK


def __cookie_v6_init_sequence(net: Stack, iph: ipv6hdr, th: tcphdr, mss: int) -> tuple[int, int]:
    mssind = max(i for i, value in enumerate(msstab) if value <= mss or i == 0)
    cookie = secure_tcp_syn_cookie(net, iph.saddr, iph.daddr, th.source, th.dest, th.seq, mssind)
    return cookie, msstab[mssind]


def cookie_v6_init_sequence(skb: sk_buff, mss: int) -> tuple[int, int]:
    """(cookie, the MSS it stands for) for a SYN that offered ``mss``."""
    assert skb.dev is not None
    return __cookie_v6_init_sequence(skb.dev.net, ipv6_hdr(skb), tcp_hdr(skb), mss)


def __cookie_v6_check(net: Stack, iph: ipv6hdr, th: tcphdr, cookie: int) -> int:
    """The MSS that a cookie stands for, 0 if it is none of ours."""
    seq = (th.seq - 1) & MASK32
    mssind = check_tcp_syn_cookie(net, cookie, iph.saddr, iph.daddr, th.source, th.dest, seq)
    return msstab[mssind] if 0 <= mssind < len(msstab) else 0


def cookie_v6_check(sk: tcp_sock, skb: sk_buff) -> Any:
    """An ACK at a listener: the child if it answers a cookie, the listener if it does not, None if it does but nothing
    comes of it (no room, no route)."""
    net = sk.sk_net
    th = tcp_hdr(skb)
    if not net.ipv4.sysctl_tcp_syncookies or th.flags & (TCPHDR_ACK | TCPHDR_RST) != TCPHDR_ACK:
        return sk
    if tcp_synq_no_recent_overflow(sk):
        return sk
    mss = __cookie_v6_check(net, ipv6_hdr(skb), th, (th.ack_seq - 1) & MASK32)
    if not mss:
        NET_INC_STATS(net, LINUX_MIB_SYNCOOKIESFAILED)
        return sk
    NET_INC_STATS(net, LINUX_MIB_SYNCOOKIESRECV)
    tcp_opt = tcp_options_received()
    tcp_input.tcp_parse_options(net, skb, tcp_opt, False, None)
    ts_off = _remove_ts_off(net, skb, tcp_opt)
    if not syncookies.cookie_timestamp_decode(net, tcp_opt):
        return sk
    ops, af_ops = tcp_ipv6.tcp6_request_sock_ops, tcp_ipv6.tcp_request_sock_ipv6_ops
    req = syncookies.request_from_cookie(ops, af_ops, sk, skb, tcp_opt, mss, ts_off)
    dst = tcp_ipv6.tcp_v6_route_req(sk, skb, None, req)
    if dst is None:
        reqsk_free(req)
        return None
    syncookies.init_window(sk, req, dst)
    req.ecn_ok = tcp_opt.saw_tstamp and syncookies.cookie_ecn_ok(tcp_opt, net, dst)
    req.accecn_ok = req.ecn_ok and syncookies.cookie_accecn_ok(net, th)
    return syncookies.tcp_get_cookie_sock(sk, skb, req, dst)


def _remove_ts_off(net: Stack, skb: sk_buff, tcp_opt: tcp_options_received) -> int:
    if not tcp_opt.saw_tstamp or not tcp_opt.rcv_tsecr:
        return 0
    iph, th = ipv6_hdr(skb), tcp_hdr(skb)
    ts_off = secure_tcpv6_ts_off(net, iph.daddr, iph.saddr, th.dest, th.source)
    tcp_opt.rcv_tsecr = (tcp_opt.rcv_tsecr - ts_off) & MASK32
    return ts_off
