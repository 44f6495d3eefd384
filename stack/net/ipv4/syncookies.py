# SPDX-License-Identifier: GPL-2.0-or-later
"""SYN cookies: connections without a request, when the SYN queue is full: net/ipv4/syncookies.c.

Theory of operation (D. J. Bernstein, 1996; RFC 4987, section 3.6)
------------------------------------------------------------------ Nothing is kept.  The SYN-ACK's sequence number
is the cookie: a keyed hash of the 4-tuple, plus the peer's ISN, plus in the top 8 bits the minute counter, plus in
the low 24 a second keyed hash with an index into a table of four MSS values.  The ACK that comes back holds it;
the counter may be at most one minute boundary old (so 60 to 120 s by phase).

What the SYN offered besides the MSS would be lost; if it had a time stamp, the low 6 bits of our TSval carry it: 4 bits
window scale (15: none), one SACK, one ECN.  Without time stamps the options are off.

A cookie is only looked for on a listener that sent one lately (tcp_synq_no_recent_overflow).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stack.include.dst import RTAX_FEATURES, RTAX_INITRWND, RTAX_WINDOW, dst_metric, flowi4
from stack.include.ip import ip_hdr
from stack.include.request_sock import reqsk_free, request_sock_ops, tcp_request_sock
from stack.include.snmp import (
    LINUX_MIB_SYNCOOKIESFAILED,
    LINUX_MIB_SYNCOOKIESRECV,
    LINUX_MIB_SYNCOOKIESSENT,
    NET_INC_STATS,
)
from stack.include.sock import SOCK_RCVBUF_LOCK, net_tx_rndhash, sock_rps_save_rxhash
from stack.include.tcp import (
    MAX_SYNCOOKIE_AGE,
    TCP_SACK_SEEN,
    TCP_SKB_CB,
    TCPHDR_ACK,
    TCPHDR_RST,
    tcp_clear_options,
    tcp_cookie_time,
    tcp_full_space,
    tcp_hdr,
    tcp_options_received,
    tcp_synq_no_recent_overflow,
    tcp_synq_overflow,
)
from stack.include.tcp_ecn import tcp_accecn_ace
from stack.lib.siphash import siphash_4u32
from stack.net.core.secure_seq import secure_tcp_ts_off
from stack.net.ipv4 import inet_connection_sock, tcp_ao, tcp_input, tcp_ipv4, tcp_output
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.ip import iphdr
    from stack.include.request_sock import tcp_request_sock_ops
    from stack.include.sk_buff import sk_buff
    from stack.include.tcp import tcp_sock, tcphdr
    from stack.stack import Stack

COOKIEBITS: Final = 24
COOKIEMASK: Final = (1 << COOKIEBITS) - 1

# The MSS values that a cookie can mean: by far the most common ones of measured SYNs.
msstab = (536, 1300, 1440, 1460)

# The low bits of our TSval
TSBITS: Final = 6
TSMASK: Final = (1 << TSBITS) - 1
TS_OPT_WSCALE_MASK: Final = 0xF
TS_OPT_SACK: Final = 1 << 4
TS_OPT_ECN: Final = 1 << 5

RTAX_FEATURE_ECN: Final = 1
NSEC_PER_MSEC: Final = 1_000_000


def cookie_hash(net: Stack, saddr: int, daddr: int, sport: int, dport: int, count: int, c: int) -> int:
    return siphash_4u32(saddr, daddr, sport << 16 | dport, count & MASK32, net.syncookie_secret[c]) & MASK32


def secure_tcp_syn_cookie(
    net: Stack, saddr: int, daddr: int, sport: int, dport: int, sseq: int, data: int
) -> int:
    """The cookie for a SYN with sequence number ``sseq``; ``data`` is below 2**24."""
    count = tcp_cookie_time(net)
    low = (cookie_hash(net, saddr, daddr, sport, dport, count, 1) + data) & COOKIEMASK
    cookie = cookie_hash(net, saddr, daddr, sport, dport, 0, 0) + sseq + (count << COOKIEBITS)
    return (cookie + low) & MASK32


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


def __cookie_v4_init_sequence(net: Stack, iph: iphdr, th: tcphdr, mss: int) -> tuple[int, int]:
    mssind = max(i for i, value in enumerate(msstab) if value <= mss or i == 0)
    cookie = secure_tcp_syn_cookie(net, iph.saddr, iph.daddr, th.source, th.dest, th.seq, mssind)
    return cookie, msstab[mssind]


def cookie_v4_init_sequence(skb: sk_buff, mss: int) -> tuple[int, int]:
    """(cookie, the MSS it stands for) for a SYN that offered ``mss``."""
    assert skb.dev is not None
    return __cookie_v4_init_sequence(skb.dev.net, ip_hdr(skb), tcp_hdr(skb), mss)


def cookie_init_sequence(
    ops: tcp_request_sock_ops, sk: tcp_sock, skb: sk_buff, req: tcp_request_sock
) -> int:
    """The cookie that answers a SYN; ``req.mss`` becomes what it stands for (an inline of include/net/tcp.h)."""
    tcp_synq_overflow(sk)
    NET_INC_STATS(sk.sk_net, LINUX_MIB_SYNCOOKIESSENT)
    cookie: int
    cookie, req.mss = ops.cookie_init_seq(skb, req.mss)
    return cookie


def __cookie_v4_check(net: Stack, iph: iphdr, th: tcphdr, cookie: int) -> int:
    """The MSS that a cookie stands for, 0 if it is none of ours."""
    seq = (th.seq - 1) & MASK32
    mssind = check_tcp_syn_cookie(net, cookie, iph.saddr, iph.daddr, th.source, th.dest, seq)
    return msstab[mssind] if 0 <= mssind < len(msstab) else 0


def cookie_init_timestamp(req: tcp_request_sock, now: int) -> int:
    """The time (ns) whose TSval carries the options of ``req`` in its low bits; never later than ``now``."""
    ts_now = now // NSEC_PER_MSEC
    options = req.snd_wscale if req.wscale_ok else TS_OPT_WSCALE_MASK
    if req.sack_ok:
        options |= TS_OPT_SACK
    if req.ecn_ok:
        options |= TS_OPT_ECN
    ts = ts_now & ~TSMASK | options
    if ts > ts_now:
        ts -= 1 << TSBITS
    # Below 64 ms of clock the stamp is before its zero; TSval wraps, so that is right modulo 2**32.
    return ts * NSEC_PER_MSEC


def cookie_timestamp_decode(net: Stack, tcp_opt: tcp_options_received) -> bool:
    """Take the options from the echoed TSval (its offset removed); False if they are not allowed (any more)."""
    if not tcp_opt.saw_tstamp:
        tcp_clear_options(tcp_opt)
        return True
    ipv4 = net.ipv4
    if not ipv4.sysctl_tcp_timestamps:
        return False
    options = tcp_opt.rcv_tsecr & TSMASK
    tcp_opt.sack_ok = TCP_SACK_SEEN if options & TS_OPT_SACK else 0
    if tcp_opt.sack_ok and not ipv4.sysctl_tcp_sack:
        return False
    if options & TS_OPT_WSCALE_MASK == TS_OPT_WSCALE_MASK:
        return True
    tcp_opt.wscale_ok = True
    tcp_opt.snd_wscale = options & TS_OPT_WSCALE_MASK
    return ipv4.sysctl_tcp_window_scaling != 0


def cookie_ecn_ok(tcp_opt: tcp_options_received, net: Stack, dst: dst_entry) -> bool:
    if not tcp_opt.rcv_tsecr & TS_OPT_ECN:
        return False
    return net.ipv4.sysctl_tcp_ecn != 0 or bool(dst_metric(dst, RTAX_FEATURES) & RTAX_FEATURE_ECN)


def cookie_accecn_ok(net: Stack, th: tcphdr) -> bool:
    """Whether a cookie that says ECN stands for Accurate ECN: no classic peer sends such flags in its first ACK."""
    return net.profile.accecn and tcp_accecn_ace(th) > 1


def tcp_get_cookie_sock(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, dst: dst_entry) -> Any:
    """The child of a cookie, waiting for accept(); None if there is no room."""
    child, _own_req = sk.icsk_af_ops.syn_recv_sock(sk, skb, req, dst, None)
    if child is not None:
        sock_rps_save_rxhash(child, skb)
        if inet_connection_sock.inet_csk_reqsk_queue_add(sk, req, child) is not None:
            return child
    reqsk_free(req)
    return None


def cookie_tcp_reqsk_alloc(
    ops: request_sock_ops, af_ops: tcp_request_sock_ops, sk: tcp_sock, skb: sk_buff
) -> tcp_request_sock:
    req = tcp_input.inet_reqsk_alloc(ops, sk, False)
    req.af_specific = af_ops
    req.syncookie = True
    return req


def cookie_v4_check(sk: tcp_sock, skb: sk_buff) -> Any:
    """An ACK at a listener: the child if it answers a cookie, the listener if it does not, None if it does but nothing
    comes of it (no room, no route)."""
    net = sk.sk_net
    th = tcp_hdr(skb)
    if not net.ipv4.sysctl_tcp_syncookies or th.flags & (TCPHDR_ACK | TCPHDR_RST) != TCPHDR_ACK:
        return sk
    if tcp_synq_no_recent_overflow(sk):
        return sk
    mss = __cookie_v4_check(net, ip_hdr(skb), th, (th.ack_seq - 1) & MASK32)
    if not mss:
        NET_INC_STATS(net, LINUX_MIB_SYNCOOKIESFAILED)
        return sk
    NET_INC_STATS(net, LINUX_MIB_SYNCOOKIESRECV)
    tcp_opt = tcp_options_received()
    tcp_input.tcp_parse_options(net, skb, tcp_opt, False, None)
    ts_off = _remove_ts_off(net, skb, tcp_opt)
    if not cookie_timestamp_decode(net, tcp_opt):
        return sk
    ops, af_ops = tcp_ipv4.tcp_request_sock_ops, tcp_ipv4.tcp_request_sock_ipv4_ops
    req = request_from_cookie(ops, af_ops, sk, skb, tcp_opt, mss, ts_off)
    dst = tcp_ipv4.tcp_v4_route_req(sk, skb, flowi4(), req)
    if dst is None:
        reqsk_free(req)
        return None
    init_window(sk, req, dst)
    req.ecn_ok = tcp_opt.saw_tstamp and cookie_ecn_ok(tcp_opt, net, dst)
    req.accecn_ok = req.ecn_ok and cookie_accecn_ok(net, th)
    return tcp_get_cookie_sock(sk, skb, req, dst)


def _remove_ts_off(net: Stack, skb: sk_buff, tcp_opt: tcp_options_received) -> int:
    if not tcp_opt.saw_tstamp or not tcp_opt.rcv_tsecr:
        return 0
    iph, th = ip_hdr(skb), tcp_hdr(skb)
    ts_off = secure_tcp_ts_off(net, iph.daddr, iph.saddr, th.dest, th.source)
    tcp_opt.rcv_tsecr = (tcp_opt.rcv_tsecr - ts_off) & MASK32
    return ts_off


def request_from_cookie(
    ops: request_sock_ops,
    af_ops: tcp_request_sock_ops,
    sk: tcp_sock,
    skb: sk_buff,
    tcp_opt: tcp_options_received,
    mss: int,
    ts_off: int,
) -> tcp_request_sock:
    """The request as it would be if it had been kept."""
    th = tcp_hdr(skb)
    req = cookie_tcp_reqsk_alloc(ops, af_ops, sk, skb)
    req.sk_num, req.sk_dport = th.dest, th.source
    req.ir_mark = skb.mark or sk.sk_mark
    req.sk_bound_dev_if = sk.sk_bound_dev_if
    af_ops.init_req(req, sk, skb)
    req.rcv_isn = (th.seq - 1) & MASK32
    req.rcv_nxt = th.seq
    req.snt_isn = (th.ack_seq - 1) & MASK32
    req.ts_off = ts_off
    req.txhash = net_tx_rndhash(sk.sk_net, req.sk_family)
    if sk.ao_info is not None:
        tcp_ao.tcp_ao_init_request(req, skb)
    req.mss = mss
    req.snd_wscale = tcp_opt.snd_wscale
    req.sack_ok = bool(tcp_opt.sack_ok)
    req.wscale_ok = tcp_opt.wscale_ok
    req.tstamp_ok = tcp_opt.saw_tstamp
    req.ts_recent = tcp_opt.rcv_tsval if tcp_opt.saw_tstamp else 0
    req.syn_tos = TCP_SKB_CB(skb).ip_dsfield
    return req


def init_window(sk: tcp_sock, req: tcp_request_sock, dst: dst_entry) -> None:
    """The same window as in the SYN-ACK; the segment size that it was rounded to is known roughly only."""
    clamp = sk.window_clamp or dst_metric(dst, RTAX_WINDOW)
    full_space = tcp_full_space(sk)
    if sk.sk_userlocks & SOCK_RCVBUF_LOCK and (clamp > full_space or not clamp):
        clamp = full_space
    mss = req.mss  # measured: the room of the time stamp is not taken off here
    req.rsk_rcv_wnd, req.rsk_window_clamp, req.rcv_wscale = tcp_output.tcp_select_initial_window(
        sk, full_space, mss, clamp, req.wscale_ok, dst_metric(dst, RTAX_INITRWND)
    )
