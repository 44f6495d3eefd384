# SPDX-License-Identifier: GPL-2.0-or-later
"""What TCP sends, and when: net/ipv4/tcp_output.c.

Theory of operation
-------------------
Data wait in ``sk_write_queue`` in packets of up to ``size_goal`` bytes (64 KB if the device segments, one MSS if
not).  ``tcp_write_xmit`` moves what may go to ``tcp_rtx_queue`` while it transmits it.  It asks, in this order:

    congestion window   tcp_cwnd_test: RFC 5681, segments in flight by RFC 6675
    peer's window       tcp_snd_wnd_test: at least one MSS, or the end of the packet, lies inside
    Nagle               tcp_nagle_test: RFC 896 with Minshall's refinement, for a short last packet
    TSO deferral        tcp_tso_should_defer: half-filled big packets wait for the next ACK
    small queues        tcp_small_queue_check: bytes that the device holds back

but first, of a socket that is paced (bbr, SO_MAX_PACING_RATE), whether its time has come: each packet moves
``tcp_wstamp_ns``, when the next may leave, by its length over ``sk_pacing_rate`` (the first ten segments of a
connection do not), and tcp_pacing_check() sets a timer for it, tcp_pace_kick().

A packet on the wire is a clone: fresh header room, the same payload buffers.  Payload is never copied and never
summed here: the checksum field gets the pseudo-header's sum (CHECKSUM_PARTIAL), the IP layer or the device
completes it.

The window that is offered (``tcp_select_window``) is what the free half of the receive buffer allows, at most
``rcv_ssthresh``; its right edge never moves left.

Limits: retransmission timeout 200 ms .. 120 s, first 1 s; loss probe 2 x srtt (one packet out: + 200 ms),
never later than the RTO; delayed ACK 40 .. 200 ms; probes of a closed window back off like the RTO.

A connection of our own begins with tcp_connect(): its SYN waits in the retransmit queue like data, at sequence
number ISN, and tcp_retransmit_timer() resends it after 1, 2, 4, 8 ... s, tcp_syn_retries times.  One with an ECN offer
goes without it from the second time on, an accurate one from the third (tcp_ecn_fallback).

Left out: path MTU probing beyond its variables.
"""

from __future__ import annotations

from errno import EAGAIN, ECONNREFUSED, EFAULT, EHOSTUNREACH, EINVAL
from struct import Struct
from typing import TYPE_CHECKING, Final

from stack.include.dst import RTAX_INITRWND, RTAX_WINDOW, dst_metric, dst_metric_advmss, dst_mtu
from stack.include.inet_connection_sock import (
    ICSK_ACK_NOMEM,
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    ICSK_ACK_TIMER,
    ICSK_TIME_DACK,
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_RETRANS,
    inet_csk_clear_xmit_timer,
    inet_csk_in_pingpong_mode,
    inet_csk_inc_pingpong_cnt,
    inet_csk_reset_xmit_timer,
)
from stack.include.ip import INET_ECN_ECT_0, INET_ECN_MASK
from stack.include.net import SOCK_NOSPACE
from stack.include.netdevice import NETIF_F_GSO_MASK
from stack.include.sk_buff import (
    CHECKSUM_PARTIAL,
    SKB_GSO_TCP_ACCECN,
    SKB_GSO_TCP_ECN,
    Buffer,
    alloc_skb,
    sk_buff,
    skb_push,
)
from stack.include.snmp import (
    LINUX_MIB_TCPABORTFAILED,
    LINUX_MIB_TCPACKCOMPRESSED,
    LINUX_MIB_TCPFASTRETRANS,
    LINUX_MIB_TCPFROMZEROWINDOWADV,
    LINUX_MIB_TCPLOSSPROBES,
    LINUX_MIB_TCPORIGDATASENT,
    LINUX_MIB_TCPRETRANSFAIL,
    LINUX_MIB_TCPSLOWSTARTRETRANS,
    LINUX_MIB_TCPSYNRETRANS,
    LINUX_MIB_TCPTOZEROWINDOWADV,
    LINUX_MIB_TCPWANTZEROWINDOWADV,
    LINUX_MIB_TCPWINPROBE,
    NET_ADD_STATS,
    NET_INC_STATS,
    TCP_ADD_STATS,
    TCP_INC_STATS,
    TCP_MIB_ACTIVEOPENS,
    TCP_MIB_OUTRSTS,
    TCP_MIB_OUTSEGS,
    TCP_MIB_RETRANSSEGS,
)
from stack.include.sock import (
    SK_PACING_NEEDED,
    SK_PACING_NONE,
    SOCK_DONE,
    SOCK_RCVBUF_LOCK,
    net_tx_rndhash,
)
from stack.include.tcp import (
    CA_EVENT_CWND_RESTART,
    CA_EVENT_TX_START,
    MAX_TCP_HEADER,
    MAX_TCP_OPTION_SPACE,
    MAX_TCP_WINDOW,
    TCP_CHRONO_BUSY,
    TCP_CHRONO_RWND_LIMITED,
    TCP_CHRONO_SNDBUF_LIMITED,
    TCP_CHRONO_UNSPEC,
    TCP_DELACK_MAX,
    TCP_DELACK_MIN,
    TCP_ECN_DEMAND_CWR,
    TCP_ECN_MODE_ACCECN,
    TCP_ECN_MODE_ANY,
    TCP_ECN_MODE_PENDING,
    TCP_ECN_MODE_RFC3168,
    TCP_ECN_QUEUE_CWR,
    TCP_HEADER,
    TCP_HEADER_LEN,
    TCP_INIT_CWND,
    TCP_MAX_WINDOW,
    TCP_MAX_WSCALE,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_RESOURCE_PROBE_INTERVAL,
    TCP_RTO_MAX,
    TCP_SACK_BLOCKS_EXPECTED,
    TCP_SYNACK_COOKIE,
    TCP_SYNACK_RETRANS,
    TCP_TIMEOUT_INIT,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TCPF_CA_CWR,
    TCPHDR_ACE,
    TCPHDR_ACK,
    TCPHDR_AE,
    TCPHDR_CWR,
    TCPHDR_ECE,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCPHDR_URG,
    TCPOLEN_EXP_FASTOPEN_BASE,
    TCPOLEN_FASTOPEN_BASE,
    TCPOLEN_MD5SIG,
    TCPOLEN_MD5SIG_ALIGNED,
    TCPOLEN_MSS,
    TCPOLEN_MSS_ALIGNED,
    TCPOLEN_SACK_BASE,
    TCPOLEN_SACK_BASE_ALIGNED,
    TCPOLEN_SACK_PERBLOCK,
    TCPOLEN_SACK_PERM,
    TCPOLEN_SACKPERM_ALIGNED,
    TCPOLEN_TIMESTAMP,
    TCPOLEN_TSTAMP_ALIGNED,
    TCPOLEN_WINDOW,
    TCPOLEN_WSCALE_ALIGNED,
    TCPOPT_ACCECN1,
    TCPOPT_EXP,
    TCPOPT_FASTOPEN,
    TCPOPT_FASTOPEN_MAGIC,
    TCPOPT_MD5SIG,
    TCPOPT_MSS,
    TCPOPT_NOP,
    TCPOPT_SACK,
    TCPOPT_SACK_PERM,
    TCPOPT_TIMESTAMP,
    TCPOPT_WINDOW,
    TSQF_THROTTLED,
    TCP_CA_Loss,
    TCP_CA_Open,
    TCP_CA_Recovery,
    TCPF_CA_Open,
    tcp_adjust_rcv_ssthresh,
    tcp_ao_key,
    tcp_ca_event,
    tcp_ca_needs_ecn,
    tcp_current_ssthresh,
    tcp_fastopen_cookie,
    tcp_fastopen_request,
    tcp_full_space,
    tcp_in_cwnd_reduction,
    tcp_is_cwnd_limited,
    tcp_is_sack,
    tcp_md5sig_key,
    tcp_minshall_check,
    tcp_needs_internal_pacing,
    tcp_pacing_delay,
    tcp_packets_in_flight,
    tcp_passive_fastopen,
    tcp_receive_window,
    tcp_rtx_queue_head,
    tcp_skb_cb,
    tcp_skb_is_last,
    tcp_sock,
    tcp_space,
    tcp_time_stamp,
    tcp_under_memory_pressure,
    tcp_urg_mode,
    tcp_wnd_end,
)
from stack.include.tcp_ecn import (
    TCP_ACCECN_ACE_FAIL_RECV,
    TCP_ACCECN_ACE_FAIL_SEND,
    TCP_ACCECN_NUMFIELDS,
    TCP_ECN_IN_ACCECN_OUT_ACCECN,
    TCP_ECN_IN_ACCECN_OUT_ECN,
    TCP_ECN_IN_ECN_OUT_ECN,
    TCPOLEN_ACCECN_BASE,
    TCPOLEN_ACCECN_PERFIELD,
    tcp_accecn_option_fields,
    tcp_accecn_option_wanted,
    tcp_accecn_reflector_flags,
    tcp_accecn_set_ace,
    tcp_ecn_mode_accecn,
)
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCPF_CLOSE,
    TCPF_CLOSE_WAIT,
    TCPF_ESTABLISHED,
    TCPF_LISTEN,
    TCPF_SYN_SENT,
)
from stack.include.timer import HZ, TICK_NSEC, USEC_PER_JIFFY
from stack.kernel.time.timer import (
    INITIAL_JIFFIES,
    hrtimer_init,
    hrtimer_is_queued,
    hrtimer_start,
    jiffies,
    jiffies_to_usecs,
    tcp_jiffies32,
    usecs_to_jiffies,
)
from stack.net.core import sock as net_core_sock
from stack.net.ipv4 import tcp, tcp_ao, tcp_fastopen, tcp_input, tcp_rate, tcp_timer
from stack.seqnum import MASK32, after, before, between

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.request_sock import tcp_request_sock

_SIGN: Final = 0x80000000
NSEC_PER_MSEC: Final = 1_000_000
_NO_RATE: Final = (1 << 64) - 1

_SYN_ECN: Final = TCPHDR_SYN | TCPHDR_ECE | TCPHDR_CWR

OPTION_SACK_ADVERTISE: Final = 1 << 0
OPTION_TS: Final = 1 << 1
OPTION_MD5: Final = 1 << 2
OPTION_WSCALE: Final = 1 << 3
OPTION_FAST_OPEN_COOKIE: Final = 1 << 8
OPTION_ACCECN: Final = 1 << 11

_NO_ECN_BYTES: Final = [0, 0, 0]  # what a SYN-ACK's AccECN option says

# NOP NOP kind length, TSval, TSecr
_TS_OPTION: Final = Struct("!III")
_TS_ALONE: Final = TCPOPT_NOP << 24 | TCPOPT_NOP << 16 | TCPOPT_TIMESTAMP << 8 | TCPOLEN_TIMESTAMP
_TS_AFTER_SACKOK: Final = (
    TCPOPT_SACK_PERM << 24 | TCPOLEN_SACK_PERM << 16 | TCPOPT_TIMESTAMP << 8 | TCPOLEN_TIMESTAMP
)
_SACKOK_ALONE: Final = TCPOPT_NOP << 24 | TCPOPT_NOP << 16 | TCPOPT_SACK_PERM << 8 | TCPOLEN_SACK_PERM
_MD5SIG: Final = TCPOPT_NOP << 24 | TCPOPT_NOP << 16 | TCPOPT_MD5SIG << 8 | TCPOLEN_MD5SIG
_WORD: Final = Struct("!I")
_TWO_WORDS: Final = Struct("!II")
# The whole header of nearly every segment: 20 bytes and the time stamp option.
_HEADER_TS: Final = Struct("!HHIIHHHHIII")


class tcp_out_options:
    """struct tcp_out_options: what tcp_options_write() puts behind the header."""

    __slots__ = (
        "accecn_bytes",
        "ao_ids",
        "ao_key",
        "fastopen_cookie",
        "hash_location",
        "md5",
        "mss",
        "num_accecn_fields",
        "num_sack_blocks",
        "options",
        "tsecr",
        "tsval",
        "ws",
    )

    def __init__(self) -> None:
        self.options = 0
        self.mss = 0
        self.ws = 0
        self.num_sack_blocks = 0
        self.num_accecn_fields = 0
        self.accecn_bytes = _NO_ECN_BYTES
        self.tsval = 0
        self.tsecr = 0
        self.fastopen_cookie: tcp_fastopen_cookie | None = None
        self.md5: tcp_md5sig_key | None = None
        self.ao_key: tcp_ao_key | None = None
        self.ao_ids = (0, 0)  # KeyID, RNextKeyID
        self.hash_location = 0  # offset in the packet's head


# -- bookkeeping of what was sent -------------------------------------------------------------------------------


def tcp_event_new_data_sent(sk: tcp_sock, skb: sk_buff) -> None:
    """The head of the write queue was sent for the first time: it joins the retransmit queue."""
    prior_packets = sk.packets_out
    cb = skb.cb
    sk.snd_nxt = cb.end_seq
    sk.sk_write_queue.popleft()
    tcp_rbtree_insert(sk, skb)
    pcount = cb.tcp_gso_segs
    sk.packets_out = prior_packets + pcount
    if not prior_packets or sk.icsk_pending == ICSK_TIME_LOSS_PROBE:
        tcp_input.tcp_rearm_rto(sk)
    NET_ADD_STATS(sk.sk_net, LINUX_MIB_TCPORIGDATASENT, pcount)
    tcp_input.tcp_check_space(sk)


def tcp_rbtree_insert(sk: tcp_sock, skb: sk_buff) -> None:
    """Append to the retransmit queue: new data always has the highest sequence numbers."""
    sk.tcp_rtx_queue.append(skb)


def tcp_acceptable_seq(sk: tcp_sock) -> int:
    """The sequence number for a segment without data: snd_nxt, unless the peer took its window back; a shrink
    by less than one scaling unit is rounding and does not count."""
    wnd_end = tcp_wnd_end(sk)
    snd_nxt = sk.snd_nxt
    if not before(wnd_end, snd_nxt):
        return snd_nxt
    shrunk = (snd_nxt - wnd_end) & MASK32
    if sk.rx_opt.wscale_ok and shrunk < (1 << sk.rx_opt.rcv_wscale):
        return snd_nxt
    return wnd_end


def tcp_advertise_mss(sk: tcp_sock) -> int:
    """The MSS to put into a SYN; the route may have lowered it since."""
    dst = sk.sk_dst_cache
    if dst is not None:
        metric = dst_metric_advmss(dst)
        if metric < sk.advmss:
            sk.advmss = metric
    return sk.advmss


def tcp_cwnd_restart(sk: tcp_sock, delta: int) -> None:
    """RFC 2861: after an idle time of ``delta`` jiffies halve cwnd per RTO, not below the restart window."""
    restart_cwnd = tcp_input.tcp_init_cwnd(sk, sk.sk_dst_cache)
    cwnd = sk.snd_cwnd
    tcp_ca_event(sk, CA_EVENT_CWND_RESTART)
    sk.snd_ssthresh = tcp_current_ssthresh(sk)
    restart_cwnd = min(restart_cwnd, cwnd)
    while (delta := delta - sk.icsk_rto) > 0 and cwnd > restart_cwnd:
        cwnd >>= 1
    sk.snd_cwnd = max(cwnd, restart_cwnd)
    sk.snd_cwnd_stamp = tcp_jiffies32(sk.sk_net)
    sk.snd_cwnd_used = 0


def tcp_event_data_sent(sk: tcp_sock) -> None:
    """Data leave: note the time, and whether this looks like an answer (ping-pong mode)."""
    now = tcp_jiffies32(sk.sk_net)  # an ICMP error too can be why, before which nobody has read the clock
    if not tcp_packets_in_flight(sk):
        tcp_ca_event(sk, CA_EVENT_TX_START)
    sk.lsndtime = now
    # Sent within an ATO of the last data received: the peer's ACK will ride on our data.
    if (now - sk.icsk_ack.lrcvtime) & MASK32 < sk.icsk_ack.ato:
        inet_csk_inc_pingpong_cnt(sk)


def tcp_event_ack_sent(sk: tcp_sock, rcv_nxt: int) -> None:
    """Every segment carries an ACK: the delayed one is no longer owed."""
    if sk.compressed_ack:
        NET_ADD_STATS(sk.sk_net, LINUX_MIB_TCPACKCOMPRESSED, sk.compressed_ack)
        sk.compressed_ack = 0
        tcp_input.tcp_cancel_compressed_ack(sk)
    if rcv_nxt != sk.rcv_nxt:
        return
    tcp_dec_quickack_mode(sk)
    inet_csk_clear_xmit_timer(sk, ICSK_TIME_DACK)


def tcp_dec_quickack_mode(sk: tcp_sock) -> None:
    """One of the immediate ACKs is used up; after the last one the ATO starts again from its minimum."""
    ack = sk.icsk_ack
    if not ack.quick:
        return
    pkts = 1 if ack.pending & ICSK_ACK_SCHED else 0
    if pkts >= ack.quick:
        ack.quick = 0
        ack.ato = TCP_DELACK_MIN
    else:
        ack.quick -= pkts


# -- the receive window -----------------------------------------------------------------------------------------


def tcp_select_initial_window(
    sk: tcp_sock,
    space: int,
    mss: int,
    window_clamp: int,
    wscale_ok: bool,
    init_rcv_wnd: int,
) -> tuple[int, int, int]:
    """The first window for ``space`` bytes worth of buffer: (rcv_wnd, window_clamp, rcv_wscale).

    Whole segments, by the profile at most what fits in a SYN's unscaled field; the scale leaves room for the largest
    buffer that the sysctls allow.  Measured: 65160 (45 x 1448) for a buffer of 131072, scale 7 for tcp_rmem[2] of
    6 MiB."""
    net = sk.sk_net
    clamp = window_clamp or TCP_MAX_WINDOW << TCP_MAX_WSCALE
    space = min(clamp, max(space, 0))
    if space > mss:
        space -= space % mss
    rcv_wnd = space
    if net.ipv4.sysctl_tcp_workaround_signed_windows:
        rcv_wnd = min(space, MAX_TCP_WINDOW)
    elif not net.profile.first_window_unbounded:
        rcv_wnd = min(space, TCP_MAX_WINDOW)
    if init_rcv_wnd:
        rcv_wnd = min(rcv_wnd, init_rcv_wnd * mss)
    rcv_wscale = 0
    if wscale_ok:
        largest = min(max(space, net.ipv4.sysctl_tcp_rmem[2], net.core.sysctl_rmem_max), clamp)
        rcv_wscale = min(max(largest.bit_length() - 1 - 15, 0), TCP_MAX_WSCALE)
    return rcv_wnd, min(TCP_MAX_WINDOW << rcv_wscale, clamp), rcv_wscale


def tcp_select_window(sk: tcp_sock) -> int:
    """The window field of the segment about to leave, already scaled; remembers what it offers."""
    net = sk.sk_net
    old_win = sk.rcv_wnd
    if sk.icsk_ack.pending & ICSK_ACK_NOMEM and net.profile.nomem_closes_window:
        sk.pred_flags = sk.rcv_wnd = 0
        sk.rcv_wup = sk.rcv_nxt
        return 0
    cur_win = tcp_receive_window(sk)
    new_win = __tcp_select_window(sk)
    wscale = sk.rx_opt.rcv_wscale
    if new_win < cur_win and not (wscale and net.ipv4.sysctl_tcp_shrink_window):
        # Never shrink (RFC 9293, section 3.8.6.2.1): keep the right edge, rounded up to what can be said.
        if new_win == 0:
            NET_INC_STATS(net, LINUX_MIB_TCPWANTZEROWINDOWADV)
        new_win = (cur_win + (1 << wscale) - 1) >> wscale << wscale
    sk.rcv_wnd = new_win
    sk.rcv_wup = sk.rcv_nxt
    if not wscale and net.ipv4.sysctl_tcp_workaround_signed_windows:
        new_win = min(new_win, MAX_TCP_WINDOW)
    else:
        new_win = min(new_win, TCP_MAX_WINDOW << wscale)
    new_win >>= wscale
    if not new_win:
        sk.pred_flags = 0
        if old_win:
            NET_INC_STATS(net, LINUX_MIB_TCPTOZEROWINDOWADV)
    elif not old_win:
        NET_INC_STATS(net, LINUX_MIB_TCPFROMZEROWINDOWADV)
    return new_win


def __tcp_select_window(sk: tcp_sock) -> int:
    """How much window the buffer's state allows, before the rule that it never shrinks.

    Receiver-side silly window avoidance (RFC 9293, section 3.8.6.2.2): below a sixteenth of the buffer, or one
    segment, nothing is offered.  With scaling the window follows the free space; without, it moves in whole
    segments."""
    free_space = tcp_space(sk)
    allowed_space = tcp_full_space(sk)
    full_space = min(sk.window_clamp, allowed_space)
    mss = sk.icsk_ack.rcv_mss
    if mss > full_space:
        mss = full_space
        if mss <= 0:
            return 0
    wscale = sk.rx_opt.rcv_wscale
    if wscale and sk.sk_net.ipv4.sysctl_tcp_shrink_window:
        return _shrinking_window(sk, free_space, full_space, allowed_space, mss)
    if free_space < full_space >> 1:
        sk.icsk_ack.quick = 0
        if tcp_under_memory_pressure(sk):
            tcp_adjust_rcv_ssthresh(sk)
        free_space = max(free_space, 0) >> wscale << wscale
        if free_space < allowed_space >> 4 or free_space < mss:
            return 0
    if free_space > sk.rcv_ssthresh:
        free_space = sk.rcv_ssthresh
    if wscale:
        return (free_space + (1 << wscale) - 1) >> wscale << wscale
    window = sk.rcv_wnd
    if window <= free_space - mss or window > free_space:
        return free_space - free_space % mss
    if mss == full_space and free_space > window + (full_space >> 1):
        return free_space
    return window


def _shrinking_window(sk: tcp_sock, free_space: int, full_space: int, allowed_space: int, mss: int) -> int:
    """The part of __tcp_select_window() for tcp_shrink_window: what the buffer really has room for, rounded down to
    what can be said, so that the window may close before the buffer is exceeded."""
    wscale = sk.rx_opt.rcv_wscale
    free_space = max(free_space, 0) >> wscale << wscale
    if free_space < full_space >> 1:
        sk.icsk_ack.quick = 0
        if tcp_under_memory_pressure(sk):
            tcp_adjust_rcv_ssthresh(sk)
        if free_space < allowed_space >> 4 or free_space < mss or free_space < 1 << wscale:
            return 0
    if free_space > sk.rcv_ssthresh:
        free_space = (sk.rcv_ssthresh + (1 << wscale) - 1) >> wscale << wscale
    return free_space


# -- ECN (RFC 3168, RFC 9768) -----------------------------------------------------------------------------------------


def tcp_ecn_make_synack(req: tcp_request_sock, flags: int, synack_type: int) -> int:
    """ECE in the SYN-ACK accepts the peer's classic offer.  To an accurate one ACE says which codepoint the SYN
    had; it is left out the second time that the SYN-ACK's timer fires, in case that is what the path drops (RFC
    9768, section 3.1.4)."""
    if req.accecn_ok:
        if synack_type == TCP_SYNACK_RETRANS and req.num_timeout:
            return flags
        return flags | tcp_accecn_reflector_flags(req.syn_ect_rcv)
    return flags | TCPHDR_ECE if req.ecn_ok else flags


def tcp_ecn_send(sk: tcp_sock, skb: sk_buff, flags: int, header_len: int) -> int:
    """ECT on new data, CWR once after a reduction, ECE until the peer answered with CWR; returns the flags.  With
    Accurate ECN everything is ECT, unless the handshake has shown that the path does not bear it, and all three
    flags are the count of CE."""
    if not sk.ecn_flags & TCP_ECN_MODE_ANY:
        return flags
    if sk.ecn_flags & TCP_ECN_MODE_ACCECN:
        fail = sk.accecn_fail_mode & (TCP_ACCECN_ACE_FAIL_RECV | TCP_ACCECN_ACE_FAIL_SEND)
        _set_ecn(sk, 0 if fail else INET_ECN_ECT_0)
        skb.gso_type |= SKB_GSO_TCP_ACCECN if skb.gso_size else 0
        return tcp_accecn_set_ace(sk, flags)
    if skb.len != header_len and not before(skb.cb.seq, sk.snd_nxt):
        sk.tos |= 2
        if sk.pinet6 is not None:
            sk.pinet6.tclass |= 2
        if sk.ecn_flags & TCP_ECN_QUEUE_CWR:
            sk.ecn_flags &= ~TCP_ECN_QUEUE_CWR
            flags |= TCPHDR_CWR
            skb.gso_type |= SKB_GSO_TCP_ECN if skb.gso_size else 0
    elif not tcp_ca_needs_ecn(sk):
        sk.tos &= ~3
        if sk.pinet6 is not None:
            sk.pinet6.tclass &= ~3
    if sk.ecn_flags & TCP_ECN_DEMAND_CWR:
        flags |= TCPHDR_ECE
    return flags


def tcp_ecn_send_syn(sk: tcp_sock, skb: sk_buff) -> None:
    """Offer ECN in our SYN, classic (RFC 3168, section 6.1.1) if tcp_ecn says so or the congestion control lives on it,
    accurate (RFC 9768, section 3.1.1) with a tcp_ecn of 3 where the kernel has that."""
    needed = tcp_ca_needs_ecn(sk)
    setting = sk.sk_net.ipv4.sysctl_tcp_ecn
    accurate = sk.sk_net.profile.accecn
    sk.ecn_flags = 0
    if accurate and setting == TCP_ECN_IN_ACCECN_OUT_ACCECN:
        skb.cb.tcp_flags |= TCPHDR_ACE
        sk.ecn_flags = TCP_ECN_MODE_PENDING
    elif needed or setting == TCP_ECN_IN_ECN_OUT_ECN or (accurate and setting == TCP_ECN_IN_ACCECN_OUT_ECN):
        skb.cb.tcp_flags |= TCPHDR_ECE | TCPHDR_CWR
        sk.ecn_flags = TCP_ECN_MODE_RFC3168
    if needed:
        _set_ecn(sk, sk.tos | INET_ECN_ECT_0)
    sk.syn_ect_snt = sk.tos & INET_ECN_MASK


def tcp_ecn_clear_syn(sk: tcp_sock, skb: sk_buff) -> None:
    """A SYN that went unanswered may have met somebody who drops ECN's bits: the next does without; of an accurate
    offer the next but one (RFC 9768, section 3.1.4)."""
    if sk.sk_net.ipv4.sysctl_tcp_ecn_fallback:
        if skb.cb.tcp_flags & TCPHDR_AE and sk.total_retrans < 1:
            return
        skb.cb.tcp_flags &= ~TCPHDR_ACE


def tcp_ecn_send_synack(sk: tcp_sock, skb: sk_buff) -> None:
    """Our SYN becomes a SYN-ACK (both ends opened at once).  The AE of an accurate offer that met another stays in it
    (measured)."""
    if tcp_ecn_mode_accecn(sk):
        skb.cb.tcp_flags = skb.cb.tcp_flags & ~TCPHDR_ACE | tcp_accecn_reflector_flags(sk.syn_ect_rcv)
        sk.syn_ect_snt = sk.tos & INET_ECN_MASK
        return
    skb.cb.tcp_flags &= ~TCPHDR_CWR
    if not sk.ecn_flags & TCP_ECN_MODE_ANY:
        skb.cb.tcp_flags &= ~TCPHDR_ECE
    elif tcp_ca_needs_ecn(sk):
        _set_ecn(sk, sk.tos | INET_ECN_ECT_0)


def _set_ecn(sk: tcp_sock, ect: int) -> None:
    """INET_ECN_xmit() and INET_ECN_dontxmit(): the codepoint of what is sent from here on."""
    sk.tos = sk.tos & ~INET_ECN_MASK | ect & INET_ECN_MASK
    if sk.pinet6 is not None:
        sk.pinet6.tclass = sk.pinet6.tclass & ~INET_ECN_MASK | ect & INET_ECN_MASK


# -- options ------------------------------------------------------------------------------------------------------


def tcp_options_write(head: bytearray, off: int, tp: tcp_sock | None, opts: tcp_out_options) -> None:
    """Write the options at ``head[off:]``, in the kernel's order and padding: room for a signature (its offset goes
    into ``opts.hash_location``), MSS, SACK-permitted and time stamp in one pair of words where both are there, Accurate
    ECN, window scale, SACK blocks (a DSACK first), Fast Open cookie."""
    options = opts.options
    if options & OPTION_MD5:
        _WORD.pack_into(head, off, _MD5SIG)
        opts.hash_location = off + 4
        off += TCPOLEN_MD5SIG_ALIGNED
    elif opts.ao_key is not None:
        option = tcp_ao.tcp_ao_option(opts.ao_key, *opts.ao_ids)
        head[off : off + len(option)] = option
        opts.hash_location = off + 4
        off += len(option)
    if opts.mss:
        _WORD.pack_into(head, off, TCPOPT_MSS << 24 | TCPOLEN_MSS << 16 | opts.mss)
        off += 4
    if options & OPTION_TS:
        kind = _TS_AFTER_SACKOK if options & OPTION_SACK_ADVERTISE else _TS_ALONE
        _TS_OPTION.pack_into(head, off, kind, opts.tsval, opts.tsecr)
        off += 12
    accecn_off = off
    if options & OPTION_ACCECN:
        if tp is not None:
            tp.accecn_opt_sent_w_dsack = tp.rx_opt.dsack
        off += _accecn_space(opts.num_accecn_fields, opts.num_sack_blocks)
    if options & (OPTION_TS | OPTION_SACK_ADVERTISE) == OPTION_SACK_ADVERTISE:
        _WORD.pack_into(head, off, _SACKOK_ALONE)
        off += 4
    if options & OPTION_WSCALE:
        _WORD.pack_into(head, off, TCPOPT_NOP << 24 | TCPOPT_WINDOW << 16 | TCPOLEN_WINDOW << 8 | opts.ws)
        off += 4
    if opts.num_sack_blocks and tp is not None:
        _write_sack_blocks(head, off, tp, opts.num_sack_blocks)
    if opts.fastopen_cookie is not None:
        _write_fastopen_cookie(head, off, opts.fastopen_cookie)
    if options & OPTION_ACCECN:
        _write_accecn(head, accecn_off, tp, opts)


def _accecn_space(num_fields: int, num_sack_blocks: int) -> int:
    """Bytes that an AccECN option takes in whole words.  The two NOPs in front of SACK blocks are saved where the
    option ends one or two bytes behind a word's beginning."""
    size = TCPOLEN_ACCECN_BASE + num_fields * TCPOLEN_ACCECN_PERFIELD
    return size & ~3 if num_sack_blocks and size & 3 in (1, 2) else size + 3 & ~3


def _write_accecn(head: bytearray, off: int, tp: tcp_sock | None, opts: tcp_out_options) -> None:
    """Write the option over the NOPs of what is there already, and NOPs up to the end of its space."""
    option = tcp_accecn_option_fields(opts.accecn_bytes, opts.num_accecn_fields)
    size = TCPOLEN_ACCECN_BASE + len(option)
    head[off : off + size] = bytes((TCPOPT_ACCECN1, size)) + option
    pad = _accecn_space(opts.num_accecn_fields, opts.num_sack_blocks) - size
    if pad > 0:
        head[off + size : off + size + pad] = bytes((TCPOPT_NOP,)) * pad
    if tp is not None:
        tp.accecn_minlen = 0
        tp.accecn_opt_tstamp = tp.tcp_mstamp
        tp.accecn_opt_demand = max(tp.accecn_opt_demand - 1, 0)


def tcp_options_fit_accecn(opts: tcp_out_options, required: int, remaining: int) -> int:
    """Find room for an AccECN option of ``required`` fields at least, as many as ``remaining`` bytes allow beside
    the SACK blocks that are already chosen; what that adds to the length.  A field that has to be told takes the
    place of SACK blocks beyond the second."""
    chosen = opts.num_sack_blocks
    fewest = min(chosen, TCP_SACK_BLOCKS_EXPECTED) if required else chosen
    for blocks in range(chosen, fewest - 1, -1):
        saved = (chosen - blocks) * TCPOLEN_SACK_PERBLOCK
        for fields in range(TCP_ACCECN_NUMFIELDS, required - 1, -1):
            space = _accecn_space(fields, blocks)
            if space <= remaining + saved:
                opts.options |= OPTION_ACCECN
                opts.num_accecn_fields = fields
                opts.num_sack_blocks = blocks
                return space - saved
    return 0


def _write_fastopen_cookie(head: bytearray, off: int, foc: tcp_fastopen_cookie) -> None:
    """RFC 7413's option or, if the client used that, the experimental one; two NOPs behind fill the word."""
    if foc.exp:
        length = TCPOLEN_EXP_FASTOPEN_BASE + foc.len
        option = _WORD.pack(TCPOPT_EXP << 24 | length << 16 | TCPOPT_FASTOPEN_MAGIC) + foc.val
    else:
        option = bytes((TCPOPT_FASTOPEN, TCPOLEN_FASTOPEN_BASE + foc.len)) + foc.val
    if len(option) & 3 == 2:
        option += bytes((TCPOPT_NOP, TCPOPT_NOP))
    head[off : off + len(option)] = option


def _write_sack_blocks(head: bytearray, off: int, tp: tcp_sock, count: int) -> None:
    length = TCPOLEN_SACK_BASE + count * TCPOLEN_SACK_PERBLOCK
    _WORD.pack_into(head, off, TCPOPT_NOP << 24 | TCPOPT_NOP << 16 | TCPOPT_SACK << 8 | length)
    off += 4
    blocks = tp.selective_acks
    if tp.rx_opt.dsack and tp.duplicate_sack is not None:
        blocks = [tp.duplicate_sack, *blocks]
    for start, end in blocks[:count]:
        _TWO_WORDS.pack_into(head, off, start, end)
        off += 8
    tp.rx_opt.dsack = False


def _signature_options(sk: tcp_sock, opts: tcp_out_options) -> int:
    """Choose the key to sign with, if the peer has one; the length of its option."""
    if sk.md5sig_info is not None and sk.af_specific is not None:
        opts.md5 = sk.af_specific.md5_lookup(sk, sk)
        if opts.md5 is not None:
            opts.options |= OPTION_MD5
            return TCPOLEN_MD5SIG_ALIGNED
    ao = sk.ao_info
    if ao is not None and ao.current_key is not None and ao.rnext_key is not None:
        opts.ao_key = ao.current_key
        opts.ao_ids = ao.current_key.sndid, ao.rnext_key.rcvid
        return tcp_ao.tcp_ao_len_aligned(ao.current_key)
    return 0


def tcp_syn_options(sk: tcp_sock, skb: sk_buff, opts: tcp_out_options) -> int:
    """Options of our own SYN: all that the sysctls allow; returns their length."""
    ipv4 = sk.sk_net.ipv4
    size = _signature_options(sk, opts)
    opts.mss = tcp_advertise_mss(sk)
    size += TCPOLEN_MSS_ALIGNED
    if ipv4.sysctl_tcp_timestamps and opts.md5 is None:
        opts.options |= OPTION_TS
        opts.tsval = (skb.skb_mstamp_ns // 1_000_000 + sk.tsoffset) & MASK32
        opts.tsecr = sk.rx_opt.ts_recent
        size += TCPOLEN_TSTAMP_ALIGNED
    if ipv4.sysctl_tcp_window_scaling:
        opts.options |= OPTION_WSCALE
        opts.ws = sk.rx_opt.rcv_wscale
        size += TCPOLEN_WSCALE_ALIGNED
    if ipv4.sysctl_tcp_sack:
        opts.options |= OPTION_SACK_ADVERTISE
        if not opts.options & OPTION_TS:
            size += TCPOLEN_SACKPERM_ALIGNED
    if sk.fastopen_req is not None and sk.fastopen_req.cookie.len >= 0:
        size += _syn_fastopen_option(sk, sk.fastopen_req.cookie, MAX_TCP_OPTION_SPACE - size, opts)
    synack = skb.cb.tcp_flags & TCPHDR_ACK
    if synack and sk.ecn_flags & TCP_ECN_MODE_ACCECN and ipv4.sysctl_tcp_ecn_option:
        size += tcp_options_fit_accecn(opts, 0, MAX_TCP_OPTION_SPACE - size)
    return size


def _fastopen_option_size(foc: tcp_fastopen_cookie) -> int:
    return foc.len + (TCPOLEN_EXP_FASTOPEN_BASE if foc.exp else TCPOLEN_FASTOPEN_BASE) + 3 & ~3


def _syn_fastopen_option(sk: tcp_sock, foc: tcp_fastopen_cookie, room: int, opts: tcp_out_options) -> int:
    """The Fast Open option of our SYN, with a cookie or empty, if there is room; its length."""
    need = _fastopen_option_size(foc)
    if need > room:
        return 0
    opts.options |= OPTION_FAST_OPEN_COOKIE
    opts.fastopen_cookie = foc
    sk.syn_fastopen = True
    sk.syn_fastopen_exp = foc.exp
    return need


def tcp_synack_options(
    sk: tcp_sock,
    req: tcp_request_sock,
    mss: int,
    skb: sk_buff,
    opts: tcp_out_options,
    foc: tcp_fastopen_cookie | None,
    synack_type: int,
) -> int:
    """Options of a SYN-ACK: MSS always, the others only if the SYN had them; returns the header's length."""
    size = TCPOLEN_MSS_ALIGNED
    opts.mss = mss
    if opts.md5 is not None:
        opts.options |= OPTION_MD5
        size += TCPOLEN_MD5SIG_ALIGNED
        # Signature, time stamp and SACK blocks together find no room in later segments: SACK is worth more.
        if synack_type != TCP_SYNACK_COOKIE:
            req.tstamp_ok = req.tstamp_ok and not req.sack_ok
    if opts.ao_key is not None:
        size += tcp_ao.tcp_ao_len_aligned(opts.ao_key)
        opts.ao_ids = req.ao_keyid, req.ao_rcv_next
        req.tstamp_ok = req.tstamp_ok and not req.sack_ok
    if req.wscale_ok:
        opts.ws = req.rcv_wscale
        opts.options |= OPTION_WSCALE
        size += TCPOLEN_WSCALE_ALIGNED
    if req.tstamp_ok:
        opts.options |= OPTION_TS
        opts.tsval = req.snt_tsval_last = (skb.skb_mstamp_ns // 1_000_000 + req.ts_off) & MASK32
        if req.snt_tsval_first is None:
            req.snt_tsval_first = opts.tsval
        opts.tsecr = req.ts_recent
        size += TCPOLEN_TSTAMP_ALIGNED
    if req.sack_ok:
        opts.options |= OPTION_SACK_ADVERTISE
        if not req.tstamp_ok:
            size += TCPOLEN_SACKPERM_ALIGNED
    if foc is not None and foc.len >= 0:
        need = _fastopen_option_size(foc)
        if size + need <= MAX_TCP_OPTION_SPACE:
            opts.options |= OPTION_FAST_OPEN_COOKIE
            opts.fastopen_cookie = foc
            size += need
    if req.accecn_ok and sk.sk_net.ipv4.sysctl_tcp_ecn_option and synack_type != TCP_SYNACK_RETRANS:
        size += tcp_options_fit_accecn(opts, 0, MAX_TCP_OPTION_SPACE - size)
    return size + TCP_HEADER_LEN


def tcp_established_options(sk: tcp_sock, skb: sk_buff | None, opts: tcp_out_options) -> int:
    """Options of any other segment: time stamp and as many SACK blocks as fit; returns their length."""
    rx_opt = sk.rx_opt
    size = _signature_options(sk, opts) if sk.md5sig_info is not None or sk.ao_info is not None else 0
    if rx_opt.tstamp_ok:
        opts.options |= OPTION_TS
        if skb is not None:
            opts.tsval = (skb.skb_mstamp_ns // 1_000_000 + sk.tsoffset) & MASK32
        opts.tsecr = rx_opt.ts_recent
        size += TCPOLEN_TSTAMP_ALIGNED
    eff_sacks = rx_opt.num_sacks + rx_opt.dsack
    if eff_sacks:
        remaining = MAX_TCP_OPTION_SPACE - size
        if remaining >= TCPOLEN_SACK_BASE_ALIGNED + TCPOLEN_SACK_PERBLOCK:
            blocks = min(eff_sacks, (remaining - TCPOLEN_SACK_BASE_ALIGNED) // TCPOLEN_SACK_PERBLOCK)
            opts.num_sack_blocks = blocks
            size += TCPOLEN_SACK_BASE_ALIGNED + blocks * TCPOLEN_SACK_PERBLOCK
    if sk.ecn_flags & TCP_ECN_MODE_ACCECN and tcp_accecn_option_wanted(sk):
        opts.accecn_bytes = sk.received_ecn_bytes
        size += tcp_options_fit_accecn(opts, sk.accecn_minlen, MAX_TCP_OPTION_SPACE - size)
    return size


# -- one packet ---------------------------------------------------------------------------------------------------


def tcp_init_nondata_skb(seq: int, flags: int) -> sk_buff:
    """A packet that carries no data, only flags; SYN and FIN take one sequence number each."""
    skb = sk_buff(b"", 0, 0)
    end_seq = (seq + 1) & MASK32 if flags & (TCPHDR_SYN | TCPHDR_FIN) else seq
    skb.cb = cb = tcp_skb_cb(seq, end_seq, flags)
    cb.tcp_gso_segs = 1
    skb.ip_summed = CHECKSUM_PARTIAL
    return skb


def skb_clone(skb: sk_buff) -> sk_buff:
    """A packet for the wire: room for all headers, the payload shared with ``skb``."""
    new = alloc_skb(MAX_TCP_HEADER)
    new.frags = skb.frags
    new.len = new.data_len = skb.len
    new.truesize = skb.truesize
    new.cb = skb.cb
    new.shinfo = skb.shinfo
    return new


def tcp_transmit_skb(sk: tcp_sock, skb: sk_buff, clone_it: bool) -> int:
    return __tcp_transmit_skb(sk, skb, clone_it, sk.rcv_nxt)


def __tcp_transmit_skb(sk: tcp_sock, oskb: sk_buff, clone_it: bool, rcv_nxt: int) -> int:
    """Build the TCP header in front of a packet and hand it to IP; 0 or a negative errno.

    ``clone_it`` says that ``oskb`` stays in a queue of ours; in either case the wire gets a packet of its own,
    since queued packets have no header room here."""
    prior_wstamp = sk.tcp_wstamp_ns
    sk.tcp_wstamp_ns = stamp = max(prior_wstamp, sk.tcp_clock_cache)
    oskb.skb_mstamp_ns = stamp
    tcb = oskb.cb
    skb = skb_clone(oskb)
    skb.skb_mstamp_ns = oskb.skb_mstamp_ns
    flags = tcb.tcp_flags
    opts = tcp_out_options()
    if flags & TCPHDR_SYN:
        size = tcp_syn_options(sk, skb, opts)
    else:
        size = tcp_established_options(sk, skb, opts)
        if tcb.tcp_gso_segs > 1:
            # A packet of several segments ends with PSH, which keeps the receiver's GRO from waiting for more.
            flags |= TCPHDR_PSH
    header_size = TCP_HEADER_LEN + size
    payload = skb.len
    pcount = tcb.tcp_gso_segs
    if pcount > 1:
        skb.gso_segs = pcount
        skb.gso_size = tcb.tcp_gso_size
        skb.gso_type = sk.sk_gso_type
    skb.sk = sk
    if sk.sk_dst_pending_confirm:
        skb.dst_pending_confirm = True
    skb.destructor = tcp_wfree
    sk.sk_wmem_alloc += skb.truesize
    skb.transport_header = off = skb_push(skb, header_size)
    if flags & TCPHDR_SYN:
        window = min(sk.rcv_wnd, TCP_MAX_WINDOW)
    else:
        window = tcp_select_window(sk)
        flags = tcp_ecn_send(sk, skb, flags, header_size)
    urg_ptr = 0
    if sk.urg_mode and (urg_ptr := _urgent_pointer(sk, tcb.seq)):
        flags |= TCPHDR_URG
    word = header_size << 10 | flags
    head = skb.head
    assert isinstance(head, bytearray)
    if opts.options == OPTION_TS and size == TCPOLEN_TSTAMP_ALIGNED:
        _HEADER_TS.pack_into(
            head, off, sk.inet_sport, sk.sk_dport, tcb.seq, rcv_nxt, word, window, 0, urg_ptr,
            _TS_ALONE, opts.tsval, opts.tsecr,
        )  # fmt: skip
    else:
        TCP_HEADER.pack_into(head, off, sk.inet_sport, sk.sk_dport, tcb.seq, rcv_nxt, word, window, 0, urg_ptr)
        if size:
            tcp_options_write(head, off + TCP_HEADER_LEN, sk, opts)
        if opts.md5 is not None and sk.af_specific is not None:
            net_core_sock.sk_gso_disable(sk)
            at = opts.hash_location
            head[at : at + 16] = sk.af_specific.calc_md5_hash(opts.md5, sk, skb)
        elif opts.ao_key is not None:
            at = opts.hash_location
            mac = tcp_ao.tcp_ao_transmit_skb(sk, skb, opts.ao_key, tcb.seq, at)
            head[at : at + len(mac)] = mac
    af_ops = sk.icsk_af_ops
    af_ops.send_check(sk, skb)
    if flags & TCPHDR_ACK:
        tcp_event_ack_sent(sk, rcv_nxt)
    if payload:
        tcp_event_data_sent(sk)
        sk.data_segs_out += pcount
        sk.bytes_sent += payload
    net = sk.sk_net
    if after(tcb.end_seq, sk.snd_nxt) or tcb.seq == tcb.end_seq:
        TCP_ADD_STATS(net, TCP_MIB_OUTSEGS, pcount)
    sk.segs_out += pcount
    err: int = af_ops.queue_xmit(sk, skb, None)
    if err > 0:
        # The queue is congested: the segment may have gone, but slow down.
        tcp_input.tcp_enter_cwr(sk)
        err = 0
    if not err and clone_it:
        tcb.in_flight = (tcb.end_seq - sk.snd_una) & MASK32
        tcp_update_skb_after_send(sk, oskb, prior_wstamp)
        tcp_rate.tcp_rate_skb_sent(sk, oskb)
    return err


def _urgent_pointer(sk: tcp_sock, seq: int) -> int:
    """The urgent pointer of a segment at ``seq``: one past the urgent byte, as BSD has it; 0xFFFF if it is too far away
    to say; 0 if there is nothing urgent ahead."""
    if not before(seq, sk.snd_up):
        return 0
    ahead = (sk.snd_up - seq) & MASK32
    if ahead < 0x10000:
        return ahead
    return 0xFFFF if after((seq + 0xFFFF) & MASK32, sk.snd_nxt) else 0


def tcp_update_skb_after_send(sk: tcp_sock, skb: sk_buff, prior_wstamp: int) -> None:
    """Keep the list of sent packets in order of their last transmission (RACK walks it).  Of a paced socket also note
    when the next may leave; what it came late, it may be early again, up to half of the gap."""
    if sk.sk_pacing_status != SK_PACING_NONE:
        rate = sk.sk_pacing_rate
        if rate and rate != _NO_RATE and sk.data_segs_out >= TCP_INIT_CWND:
            len_ns = skb.len * 1_000_000_000 // rate
            credit = sk.tcp_wstamp_ns - prior_wstamp
            sk.tcp_wstamp_ns += len_ns - min(len_ns // 2, credit)
    tsorted = sk.tsorted_sent_queue
    tsorted.pop(skb, None)
    tsorted[skb] = None


def tcp_queue_skb(sk: tcp_sock, skb: sk_buff) -> None:
    """Append to the write queue."""
    sk.write_seq = skb.cb.end_seq
    sk.sk_write_queue.append(skb)
    sk.sk_wmem_queued += skb.truesize
    tcp_chrono_start(sk, TCP_CHRONO_BUSY)


def tcp_set_skb_tso_segs(skb: sk_buff, mss_now: int) -> int:
    """Count the segments that the packet will make on the wire."""
    cb = skb.cb
    length = skb.len
    if length <= mss_now:
        cb.tcp_gso_size = 0
        cb.tcp_gso_segs = 1
        return 1
    cb.tcp_gso_size = mss_now
    cb.tcp_gso_segs = segs = (length + mss_now - 1) // mss_now
    return segs


def tcp_init_tso_segs(skb: sk_buff, mss_now: int) -> int:
    """As tcp_set_skb_tso_segs, unless the count is there for this MSS already."""
    segs: int = skb.cb.tcp_gso_segs
    if not segs or (segs > 1 and skb.cb.tcp_gso_size != mss_now):
        return tcp_set_skb_tso_segs(skb, mss_now)
    return segs


def tcp_adjust_pcount(sk: tcp_sock, skb: sk_buff, decr: int) -> None:
    """``decr`` segments less than were counted for a packet in flight; the scoreboard follows."""
    sk.packets_out -= decr
    sacked = skb.cb.sacked
    if sacked & TCPCB_SACKED_ACKED:
        sk.sacked_out -= decr
    if sacked & TCPCB_SACKED_RETRANS:
        sk.retrans_out -= decr
    if sacked & TCPCB_LOST:
        sk.lost_out -= decr
    if not tcp_is_sack(sk) and sk.sacked_out > 0:
        sk.sacked_out -= min(sk.sacked_out, decr)


def split_frags(frags: list[Buffer], length: int) -> tuple[list[Buffer], list[Buffer]]:
    """Cut a list of buffers after ``length`` bytes, without copying."""
    for i, frag in enumerate(frags):
        n = len(frag)
        if length < n:
            view = memoryview(frag)
            first = [*frags[:i], view[:length]] if length else frags[:i]
            return first, [view[length:], *frags[i + 1 :]]
        length -= n
    return frags, []


def skb_split(skb: sk_buff, skb1: sk_buff, length: int) -> None:
    """Move all but the first ``length`` bytes of payload to the empty packet ``skb1``."""
    skb.frags, skb1.frags = split_frags(skb.frags, length)
    moved = skb.len - length
    skb.len = skb.data_len = length
    skb1.len = skb1.data_len = moved
    skb.truesize -= moved
    skb1.truesize += moved


def skb_shift(tgt: sk_buff, skb: sk_buff, shiftlen: int) -> None:
    """Move the first ``shiftlen`` bytes of payload to the end of the packet before."""
    moved, skb.frags = split_frags(skb.frags, shiftlen)
    tgt.frags = [*tgt.frags, *moved]
    tgt.len += shiftlen
    tgt.data_len = tgt.len
    tgt.truesize += shiftlen
    skb.len -= shiftlen
    skb.data_len = skb.len
    skb.truesize -= shiftlen


def tcp_skb_can_collapse(to: sk_buff, from_: sk_buff) -> bool:
    """Whether the packets may become one: not behind an end of record."""
    return not to.cb.eor


def tcp_eat_one_skb(sk: tcp_sock, dst: sk_buff, src: sk_buff) -> None:
    """What is left of ``src``, all of whose payload ``dst`` took over: its flags and its wish for time stamps."""
    dst.cb.end_seq = src.cb.end_seq
    dst.cb.tcp_flags |= src.cb.tcp_flags
    dst.cb.eor = src.cb.eor
    tcp_skb_collapse_tstamp(dst, src)
    sk.sk_wmem_queued -= src.truesize


def tcp_skb_collapse_tstamp(skb: sk_buff, next_skb: sk_buff) -> None:
    if next_skb.shinfo is not None:
        skb.shinfo = next_skb.shinfo


def tcp_grow_skb(sk: tcp_sock, skb: sk_buff, amount: int) -> None:
    """Fill the packet that is about to go with payload of the next in the write queue (kernels since 6.10)."""
    queue = sk.sk_write_queue
    if len(queue) < 2 or not tcp_skb_can_collapse(skb, queue[1]):
        return
    next_skb = queue[1]
    nlen = min(amount, next_skb.len)
    if not nlen:
        return
    skb_shift(skb, next_skb, nlen)
    skb.cb.end_seq = next_skb.cb.seq = (skb.cb.end_seq + nlen) & MASK32
    skb.cb.tcp_gso_segs = next_skb.cb.tcp_gso_segs = 0
    if not next_skb.len:
        tcp_eat_one_skb(sk, skb, next_skb)
        del queue[1]


def tcp_fragment(sk: tcp_sock, queue: object, skb: sk_buff, length: int, mss_now: int) -> int:
    """Split a packet of ``queue`` (write or retransmit queue) after ``length`` bytes; 0 or -EINVAL."""
    if length > skb.len:
        return -EINVAL
    buff = tcp.tcp_stream_alloc_skb(sk)
    sk.sk_wmem_queued += buff.truesize
    tcb = skb.cb
    old_factor = tcb.tcp_gso_segs
    seq = (tcb.seq + length) & MASK32
    flags = tcb.tcp_flags
    buff.cb = cb = tcp_skb_cb(seq, tcb.end_seq, flags)
    cb.sacked = tcb.sacked
    cb.in_flight = tcb.in_flight
    cb.eor = tcb.eor
    tcb.eor = False
    tcb.end_seq = seq
    tcb.tcp_flags = flags & ~(TCPHDR_FIN | TCPHDR_PSH)
    skb_split(skb, buff, length)
    if skb.shinfo is not None:
        tcp_fragment_tstamp(skb, buff)
    buff.skb_mstamp_ns = skb.skb_mstamp_ns
    new = tcp_set_skb_tso_segs(skb, mss_now) + tcp_set_skb_tso_segs(buff, mss_now)
    if queue is sk.tcp_rtx_queue:
        _fragment_sent(sk, skb, buff, old_factor - new)
    else:
        sk.sk_write_queue.insert(sk.sk_write_queue.index(skb) + 1, buff)
    return 0


def tcp_fragment_tstamp(skb: sk_buff, skb2: sk_buff) -> None:
    """The wish for time stamps goes with the byte that it is about."""
    assert skb.shinfo is not None
    if not before(skb.shinfo.tskey, skb2.cb.seq):
        skb2.shinfo, skb.shinfo = skb.shinfo, None


def _fragment_sent(sk: tcp_sock, skb: sk_buff, buff: sk_buff, decr: int) -> None:
    """The new half of a packet that was sent already takes its place in queues and rate samples."""
    tcb, cb = skb.cb, buff.cb
    tcp_rate.tcp_rate_copy(tcb, cb)
    if decr:
        tcp_adjust_pcount(sk, skb, decr)
    queue = sk.tcp_rtx_queue
    queue.insert(queue.index(skb) + 1, buff)
    if skb in sk.tsorted_sent_queue:
        sk.tsorted_sent_queue = _insert_after(sk.tsorted_sent_queue, skb, buff)


def _insert_after(order: dict[sk_buff, None], skb: sk_buff, new: sk_buff) -> dict[sk_buff, None]:
    result: dict[sk_buff, None] = {}
    for item in order:
        result[item] = None
        if item is skb:
            result[new] = None
    return result


def tcp_trim_head(sk: tcp_sock, skb: sk_buff, length: int) -> int:
    """Drop ``length`` acknowledged bytes from the front of a sent packet."""
    _, skb.frags = split_frags(skb.frags, length)
    skb.len -= length
    skb.data_len = skb.len
    skb.truesize -= length
    skb.cb.seq = (skb.cb.seq + length) & MASK32
    sk.sk_wmem_queued -= length
    if skb.cb.tcp_gso_segs > 1:
        tcp_set_skb_tso_segs(skb, skb.cb.tcp_gso_size)
    return 0


# -- segment sizes ------------------------------------------------------------------------------------------------


def __tcp_mtu_to_mss(sk: tcp_sock, pmtu: int) -> int:
    """The payload that fits in a packet of ``pmtu`` bytes beside the headers, if TCP's has no options."""
    mss = pmtu - sk.icsk_af_ops.net_header_len - TCP_HEADER_LEN
    mss = min(mss, sk.rx_opt.mss_clamp) - sk.icsk_ext_hdr_len
    return max(mss, sk.sk_net.ipv4.sysctl_tcp_min_snd_mss)


def tcp_mtu_to_mss(sk: tcp_sock, pmtu: int) -> int:
    """The payload that fits in a packet of ``pmtu`` bytes beside IP header and the usual TCP header."""
    return __tcp_mtu_to_mss(sk, pmtu) - (sk.tcp_header_len - TCP_HEADER_LEN)


def tcp_mss_to_mtu(sk: tcp_sock, mss: int) -> int:
    return mss + sk.tcp_header_len + sk.icsk_ext_hdr_len + sk.icsk_af_ops.net_header_len


def tcp_mtup_init(sk: tcp_sock) -> None:
    """Path MTU probing (RFC 4821) starts from these bounds; it is off by default."""
    mtup = sk.icsk_mtup
    ipv4 = sk.sk_net.ipv4
    mtup.enabled = ipv4.sysctl_tcp_mtu_probing > 1
    mtup.search_high = sk.rx_opt.mss_clamp + TCP_HEADER_LEN + sk.icsk_af_ops.net_header_len
    mtup.search_low = tcp_mss_to_mtu(sk, ipv4.sysctl_tcp_base_mss)
    mtup.probe_size = 0
    if mtup.enabled:
        mtup.probe_timestamp = tcp_jiffies32(sk.sk_net)


def tcp_bound_to_half_wnd(tp: tcp_sock, pktsize: int) -> int:
    """No packet larger than half the largest window ever seen, so that a peer with a small window can acknowledge
    one while the next is under way; tiny windows (576 and less) are used whole."""
    max_window = tp.max_window
    cutoff = max_window >> 1 if max_window > 576 else max_window
    return max(cutoff, 68 - tp.tcp_header_len) if cutoff and pktsize > cutoff else pktsize


def tcp_sync_mss(sk: tcp_sock, pmtu: int) -> int:
    """Take over a path MTU: sets and returns ``mss_cache``."""
    mtup = sk.icsk_mtup
    if mtup.search_high > pmtu:
        mtup.search_high = pmtu
    mss_now = tcp_mtu_to_mss(sk, pmtu)
    mss_now = tcp_bound_to_half_wnd(sk, mss_now)
    sk.icsk_pmtu_cookie = pmtu
    if mtup.enabled:
        mss_now = min(mss_now, tcp_mtu_to_mss(sk, mtup.search_low))
    sk.mss_cache = mss_now
    return mss_now


def tcp_current_mss(sk: tcp_sock) -> int:
    """Payload bytes of the next full segment: mss_cache, less what SACK blocks take now."""
    mss_now = sk.mss_cache
    dst = sk.sk_dst_cache
    if dst is not None:
        mtu = dst_mtu(dst)
        if mtu != sk.icsk_pmtu_cookie:
            mss_now = tcp_sync_mss(sk, mtu)
    rx_opt = sk.rx_opt
    if rx_opt.tstamp_ok and not (rx_opt.num_sacks or rx_opt.dsack or sk.ecn_flags & TCP_ECN_MODE_ACCECN):
        if sk.md5sig_info is None and sk.ao_info is None:
            return mss_now  # a time stamp and nothing else, which mss_cache allows for
    header_len = tcp_established_options(sk, None, tcp_out_options()) + TCP_HEADER_LEN
    mss_now -= header_len - sk.tcp_header_len
    return mss_now


def sk_can_gso(sk: tcp_sock) -> bool:
    """Whether the route's device segments for us (include/net/sock.h; needs sk_setup_caps)."""
    return bool(sk.sk_route_caps & NETIF_F_GSO_MASK)


# -- may this packet go? --------------------------------------------------------------------------------------------


def tcp_cwnd_application_limited(sk: tcp_sock) -> None:
    """RFC 2861: cwnd decays towards what was used when the application did not fill it for an RTO."""
    socket_ = sk.sk_socket
    if sk.icsk_ca_state == TCP_CA_Open and socket_ is not None and not socket_.flags & SOCK_NOSPACE:
        win_used = max(sk.snd_cwnd_used, tcp_input.tcp_init_cwnd(sk, sk.sk_dst_cache))
        if win_used < sk.snd_cwnd:
            sk.snd_ssthresh = tcp_current_ssthresh(sk)
            sk.snd_cwnd = (sk.snd_cwnd + win_used) >> 1
        sk.snd_cwnd_used = 0
    sk.snd_cwnd_stamp = tcp_jiffies32(sk.sk_net)


def tcp_cwnd_validate(sk: tcp_sock, is_cwnd_limited: bool) -> None:
    """Note whether cwnd was what stopped us in this round trip."""
    if (
        not before(sk.snd_una, sk.cwnd_usage_seq)
        or is_cwnd_limited
        or (not sk.is_cwnd_limited and sk.packets_out > sk.max_packets_out)
    ):
        sk.is_cwnd_limited = is_cwnd_limited
        sk.max_packets_out = sk.packets_out
        sk.cwnd_usage_seq = sk.snd_nxt
    if tcp_is_cwnd_limited(sk):
        sk.snd_cwnd_used = 0
        sk.snd_cwnd_stamp = sk.sk_net.tcp_jiffies32
        return
    if sk.packets_out > sk.snd_cwnd_used:
        sk.snd_cwnd_used = sk.packets_out
    idle = (sk.sk_net.tcp_jiffies32 - sk.snd_cwnd_stamp) & MASK32
    ca_ops = sk.icsk_ca_ops
    if (
        sk.sk_net.ipv4.sysctl_tcp_slow_start_after_idle
        and idle >= sk.icsk_rto
        and not (ca_ops is not None and ca_ops.cong_control)
    ):
        tcp_cwnd_application_limited(sk)
    socket_ = sk.sk_socket
    if (
        not sk.sk_write_queue
        and socket_ is not None
        and socket_.flags & SOCK_NOSPACE
        and 1 << sk.sk_state & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT)
    ):
        # All was sent, cwnd has room, and the application could not write more: the buffer is too small.
        tcp_chrono_start(sk, TCP_CHRONO_SNDBUF_LIMITED)


def tcp_minshall_update(tp: tcp_sock, mss_now: int, skb: sk_buff) -> None:
    """Remember the end of the last short segment."""
    if skb.len < skb.cb.tcp_gso_segs * mss_now:
        tp.snd_sml = skb.cb.end_seq


def tcp_nagle_check(partial: bool, tp: tcp_sock, nonagle: int) -> bool:
    """Whether a short packet has to wait: corked, or an earlier short one is not acknowledged."""
    return partial and bool(
        nonagle & TCP_NAGLE_CORK or (not nonagle and tp.packets_out and tcp_minshall_check(tp))
    )


def tcp_pacing_check(sk: tcp_sock) -> bool:
    """Whether pacing holds the next packet back; if so, tcp_pace_kick() goes on."""
    if not tcp_needs_internal_pacing(sk) or sk.tcp_wstamp_ns <= sk.tcp_clock_cache:
        return False
    timer = sk.pacing_timer
    if timer is None:
        timer = sk.pacing_timer = hrtimer_init(tcp_pace_kick, sk)
    if not hrtimer_is_queued(timer):
        hrtimer_start(sk.sk_net, timer, sk.tcp_wstamp_ns)
    return True


def tcp_pace_kick(sk: tcp_sock) -> None:
    """The pacing timer fired."""
    tcp_tsq_write(sk)


def tcp_tso_autosize(sk: tcp_sock, mss_now: int, min_tso_segs: int) -> int:
    """Segments of one packet for about a millisecond at the current rate, more where the round trip is short:
    the lower the RTT, the less bursts matter."""
    bytes_ = sk.sk_pacing_rate >> sk.sk_pacing_shift
    shift = sk.rtt_min.s[0][1] >> sk.sk_net.ipv4.sysctl_tcp_tso_rtt_log
    if shift < 32:
        bytes_ += sk.sk_gso_max_size >> shift
    bytes_ = min(bytes_, sk.sk_gso_max_size)
    return max(bytes_ // mss_now, min_tso_segs)


def tcp_tso_segs(sk: tcp_sock, mss_now: int) -> int:
    """The most segments that one packet may hold now: one where the device does not segment, as nothing below does it
    in its place (the kernel's software GSO)."""
    if not sk.sk_route_caps & NETIF_F_GSO_MASK:  # sk_can_gso()
        return 1
    ca_ops = sk.icsk_ca_ops
    if ca_ops is not None and ca_ops.min_tso_segs is not None:
        min_tso = ca_ops.min_tso_segs(sk)
    else:
        min_tso = sk.sk_net.ipv4.sysctl_tcp_min_tso_segs
    return min(tcp_tso_autosize(sk, mss_now, min_tso), sk.sk_gso_max_segs or 1)


def tcp_mss_split_point(sk: tcp_sock, skb: sk_buff, mss_now: int, max_segs: int, nonagle: int) -> int:
    """How many bytes of a multi-segment packet may go now: window and quota, in whole segments unless Nagle lets
    the short rest of the packet go too."""
    window: int = (tcp_wnd_end(sk) - skb.cb.seq) & MASK32
    max_len = mss_now * max_segs
    if max_len <= window and skb is not sk.sk_write_queue[-1]:
        return max_len
    needed = min(skb.len, window)
    if max_len <= needed:
        return max_len
    partial = needed % mss_now
    if tcp_nagle_check(partial != 0, sk, nonagle):
        return needed - partial
    return needed


def tcp_cwnd_test(tp: tcp_sock, skb: sk_buff) -> int:
    """Segments that cwnd leaves room for, at most half of it in one packet so that the ACK clock keeps ticking;
    a FIN of one segment always may go."""
    if skb.cb.tcp_flags & TCPHDR_FIN and skb.cb.tcp_gso_segs == 1 and not tp.sk_net.profile.fin_in_cwnd:
        return 1
    in_flight = tp.packets_out - tp.sacked_out - tp.lost_out + tp.retrans_out
    cwnd = tp.snd_cwnd
    if in_flight >= cwnd:
        return 0
    return min(cwnd >> 1 or 1, cwnd - in_flight)


def tcp_nagle_test(tp: tcp_sock, skb: sk_buff, cur_mss: int, nonagle: int) -> bool:
    """Whether Nagle lets the packet go.  A FIN and urgent data always go."""
    if nonagle & TCP_NAGLE_PUSH:
        return True
    if skb.cb.tcp_flags & TCPHDR_FIN or tcp_urg_mode(tp):
        return True
    return not tcp_nagle_check(skb.len < cur_mss, tp, nonagle)


def tcp_snd_wnd_test(tp: tcp_sock, skb: sk_buff, cur_mss: int) -> bool:
    """Whether the packet's first segment lies inside the peer's window."""
    end_seq = skb.cb.end_seq
    if skb.len > cur_mss:
        end_seq = (skb.cb.seq + cur_mss) & MASK32
    return not after(end_seq, tcp_wnd_end(tp))


def tso_fragment(sk: tcp_sock, skb: sk_buff, length: int, mss_now: int) -> int:
    """Cut a packet that was not sent yet; the rest becomes the new head behind it."""
    return tcp_fragment(sk, sk.sk_write_queue, skb, length, mss_now)


def tcp_tso_should_defer(sk: tcp_sock, skb: sk_buff, max_segs: int) -> tuple[bool, bool, bool]:
    """Whether a big packet that cannot go whole had better wait for the next ACK: (defer, cwnd limited, window
    limited).  Not in recovery, not if the last send is more than a millisecond ago, not if a third of the
    window is free, not if the next ACK is further away than half a round trip."""
    no = (False, False, False)
    if sk.icsk_ca_state >= TCP_CA_Recovery:
        return no
    now = sk.tcp_clock_cache
    if now - sk.tcp_wstamp_ns > NSEC_PER_MSEC:
        return no
    in_flight = tcp_packets_in_flight(sk)
    send_win = (tcp_wnd_end(sk) - skb.cb.seq) & MASK32
    cong_win = (sk.snd_cwnd - in_flight) * sk.mss_cache
    limit = min(send_win, cong_win)
    if limit >= max_segs * sk.mss_cache:
        return no
    if not tcp_skb_is_last(sk, skb) and limit >= skb.len:
        return no
    divisor = sk.sk_net.ipv4.sysctl_tcp_tso_win_divisor
    if divisor:
        chunk = min(sk.snd_wnd, sk.snd_cwnd * sk.mss_cache) // divisor
        if limit >= chunk:
            return no
    elif limit > 3 * sk.mss_cache:
        return no
    if sk.tcp_rtx_queue:
        elapsed_ns = now - sk.tcp_rtx_queue[0].skb_mstamp_ns
        if elapsed_ns < (sk.srtt_us >> 4) * 1000:
            return no
    elif not in_flight:
        return no
    if cong_win < send_win and cong_win <= skb.len:
        return True, True, False
    if send_win <= cong_win and send_win <= skb.len:
        return True, False, True
    if skb.cb.tcp_flags & TCPHDR_FIN or skb.cb.eor:
        return no
    return True, False, False


def tcp_small_queue_check(sk: tcp_sock, skb: sk_buff, factor: int) -> bool:
    """Whether the device's queue holds enough of this socket's bytes already (two packets, or a millisecond's
    worth); whoever drains that queue calls tcp_tsq_handler() then."""
    if not sk.sk_wmem_alloc:
        return False
    limit = max(2 * skb.truesize, sk.sk_pacing_rate >> sk.sk_pacing_shift)
    if sk.sk_pacing_status == SK_PACING_NONE:
        limit = min(limit, sk.sk_net.ipv4.sysctl_tcp_limit_output_bytes)
    limit <<= factor
    if sk.sk_wmem_alloc > limit and sk.tcp_rtx_queue:
        sk.tsq_flags |= TSQF_THROTTLED
        return True
    return False


def tcp_tsq_handler(sk: tcp_sock) -> None:
    """The device's queue has room again: go on where tcp_small_queue_check() stopped."""
    if not sk.tsq_flags & TSQF_THROTTLED:
        return
    sk.tsq_flags &= ~TSQF_THROTTLED
    tcp_tsq_write(sk)


def tcp_tsq_write(sk: tcp_sock) -> None:
    """Send, lost packets first."""
    if (1 << sk.sk_state) & (TCPF_CLOSE | TCPF_LISTEN | TCPF_SYN_SENT):
        return
    if sk.lost_out > sk.retrans_out and sk.snd_cwnd > tcp_packets_in_flight(sk):
        tcp_mstamp_refresh(sk)
        tcp_xmit_retransmit_queue(sk)
    tcp_write_xmit(sk, tcp_current_mss(sk), sk.nonagle, 0)


def tcp_wfree(skb: sk_buff) -> None:
    """The device has taken a packet (its destructor): the bytes leave the socket's share of the device's queue."""
    sk = skb.sk
    assert isinstance(sk, tcp_sock)
    sk.sk_wmem_alloc -= skb.truesize
    if sk.tsq_flags & TSQF_THROTTLED:
        tcp_tsq_handler(sk)


def tcp_release_cb(sk: tcp_sock) -> None:
    """The end of a socket call: lift the small-queue limit if the device has caught up meanwhile."""
    if sk.tsq_flags & TSQF_THROTTLED and not sk.sk_wmem_alloc:
        tcp_tsq_handler(sk)


# -- what held the sender back, for tcp_info ----------------------------------------------------------------------


def tcp_chrono_set(tp: tcp_sock, new: int) -> None:
    now = tcp_jiffies32(tp.sk_net)
    old = tp.chrono_type
    if old > TCP_CHRONO_UNSPEC:
        tp.chrono_stat[old - 1] += (now - tp.chrono_start) & MASK32
    tp.chrono_start = now
    tp.chrono_type = new


def tcp_chrono_start(sk: tcp_sock, type_: int) -> None:
    """The most specific reason wins: the enum is in rising order."""
    if type_ > sk.chrono_type:
        tcp_chrono_set(sk, type_)


def tcp_chrono_stop(sk: tcp_sock, type_: int) -> None:
    if not sk.tcp_rtx_queue and not sk.sk_write_queue:
        tcp_chrono_set(sk, TCP_CHRONO_UNSPEC)
    elif type_ == sk.chrono_type:
        tcp_chrono_set(sk, TCP_CHRONO_BUSY)


# -- the transmit loop ----------------------------------------------------------------------------------------------


def tcp_mstamp_refresh(tp: tcp_sock) -> None:
    """Read the clock once for everything that happens in this call."""
    net = tp.sk_net
    val = net.clock.now_ns()
    tp.tcp_clock_cache = val
    tp.tcp_mstamp = val // 1000
    net.tcp_jiffies32 = (INITIAL_JIFFIES + val // TICK_NSEC) & MASK32


def tcp_write_xmit(sk: tcp_sock, mss_now: int, nonagle: int, push_one: int) -> bool:
    """Send what may go.  ``push_one`` 1 sends one packet, 2 forces one out beyond cwnd (loss probe).

    Returns True if data wait, nothing is in flight and therefore only a window probe can get things moving."""
    sent_pkts = 0
    is_cwnd_limited = is_rwnd_limited = False
    tcp_mstamp_refresh(sk)
    max_segs = tcp_tso_segs(sk, mss_now)
    queue = sk.sk_write_queue
    paced = sk.sk_pacing_status == SK_PACING_NEEDED
    grown = sk.sk_net.profile.skb_grown
    while queue:
        if paced and tcp_pacing_check(sk):
            break
        skb = queue[0]
        tso_segs = tcp_init_tso_segs(skb, mss_now)
        cwnd_quota = tcp_cwnd_test(sk, skb)
        if not cwnd_quota:
            if push_one != 2:
                break
            cwnd_quota = 1
        if grown and (missing_bytes := min(cwnd_quota, max_segs) * mss_now - skb.len) > 0:
            tcp_grow_skb(sk, skb, missing_bytes)
            tso_segs = tcp_init_tso_segs(skb, mss_now)
        if not tcp_snd_wnd_test(sk, skb, mss_now):
            is_rwnd_limited = True
            break
        limit = mss_now
        if tso_segs == 1:
            if not tcp_nagle_test(sk, skb, mss_now, nonagle if len(queue) == 1 else TCP_NAGLE_PUSH):
                break
        else:
            if not push_one:
                defer, by_cwnd, by_rwnd = tcp_tso_should_defer(sk, skb, max_segs)
                if defer:
                    is_cwnd_limited |= by_cwnd
                    is_rwnd_limited |= by_rwnd
                    break
            limit = tcp_mss_split_point(sk, skb, mss_now, min(cwnd_quota, max_segs), nonagle)
        if skb.len > limit and tso_fragment(sk, skb, limit, mss_now):
            break
        if tcp_small_queue_check(sk, skb, 0):
            break
        if skb.cb.end_seq == skb.cb.seq:
            break
        if tcp_transmit_skb(sk, skb, True):
            break
        tcp_event_new_data_sent(sk, skb)
        tcp_minshall_update(sk, mss_now, skb)
        sent_pkts += skb.cb.tcp_gso_segs
        if push_one:
            break
    return _write_xmit_done(sk, sent_pkts, push_one, is_cwnd_limited, is_rwnd_limited)


def _write_xmit_done(sk: tcp_sock, sent_pkts: int, push_one: int, by_cwnd: bool, by_rwnd: bool) -> bool:
    if by_rwnd:
        tcp_chrono_start(sk, TCP_CHRONO_RWND_LIMITED)
    elif sk.chrono_type == TCP_CHRONO_RWND_LIMITED or not sk.sk_write_queue:
        tcp_chrono_stop(sk, TCP_CHRONO_RWND_LIMITED)
    by_cwnd |= sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out >= sk.snd_cwnd
    if sent_pkts or by_cwnd:
        tcp_cwnd_validate(sk, by_cwnd)
    if sent_pkts:
        if sk.icsk_ca_state >= 2 and tcp_in_cwnd_reduction(sk):
            sk.prr_out += sent_pkts
        if push_one != 2:
            tcp_schedule_loss_probe(sk, False)
        return False
    return not sk.packets_out and bool(sk.sk_write_queue)


def __tcp_push_pending_frames(sk: tcp_sock, cur_mss: int, nonagle: int) -> None:
    """Send what may go; if nothing can until the peer's window opens, start probing it."""
    if sk.sk_state == TCP_CLOSE:
        return
    if tcp_write_xmit(sk, cur_mss, nonagle, 0):
        tcp_check_probe_timer(sk)


def tcp_push_one(sk: tcp_sock, mss_now: int) -> None:
    tcp_write_xmit(sk, mss_now, TCP_NAGLE_PUSH, 1)


def tcp_probe0_base(sk: tcp_sock) -> int:
    return max(sk.icsk_rto, HZ // 5)


def tcp_probe0_when(sk: tcp_sock, max_when: int) -> int:
    """Jiffies to the next window probe: the RTO, doubled per unanswered probe."""
    backoff = min(sk.icsk_backoff, 40)
    return min(tcp_probe0_base(sk) << backoff, max_when)


def tcp_check_probe_timer(sk: tcp_sock) -> None:
    if not sk.packets_out and not sk.icsk_pending:
        tcp_reset_xmit_timer(sk, ICSK_TIME_PROBE0, tcp_probe0_base(sk), TCP_RTO_MAX)


def tcp_reset_xmit_timer(sk: tcp_sock, what: int, when: int, max_when: int) -> None:
    """Arm the retransmit timer for one of its purposes, ``when`` jiffies from now (include/net/tcp.h), or from when
    pacing lets the next packet go."""
    if sk.sk_pacing_status:
        when += tcp_pacing_delay(sk)
    inet_csk_reset_xmit_timer(sk, what, when, max_when)


# -- tail loss probe (RFC 8985, section 7) -------------------------------------------------------------------------


def tcp_rto_min_us(sk: tcp_sock) -> int:
    return tcp_input.tcp_rto_min(sk) * USEC_PER_JIFFY


def tcp_schedule_loss_probe(sk: tcp_sock, advancing_rto: bool) -> bool:
    """Arm the probe instead of the RTO where that makes sense; returns whether it did.  Measured on 6.1: after
    2 x srtt, with one packet out 2 x srtt + 200 ms, rounded up to a tick; never later than the RTO."""
    if sk.fastopen_rsk is not None:
        return False
    if sk.sk_net.ipv4.sysctl_tcp_early_retrans not in (3, 4):
        return False
    if not sk.packets_out or not tcp_is_sack(sk):
        return False
    if not (1 << sk.icsk_ca_state) & (TCPF_CA_Open | TCPF_CA_CWR):
        return False
    if sk.srtt_us:
        timeout_us = sk.srtt_us >> 2
        if sk.packets_out == 1:
            timeout_us += tcp_rto_min_us(sk)
        timeout = usecs_to_jiffies(timeout_us)
    else:
        timeout = TCP_TIMEOUT_INIT
    if advancing_rto:
        rto_delta_us = jiffies_to_usecs(sk.icsk_rto)
    else:
        rto_delta_us = tcp_input.tcp_rto_delta_us(sk)
    if rto_delta_us > 0:
        timeout = min(timeout, usecs_to_jiffies(rto_delta_us))
    tcp_reset_xmit_timer(sk, ICSK_TIME_LOSS_PROBE, timeout, TCP_RTO_MAX)
    return True


def tcp_send_loss_probe(sk: tcp_sock) -> None:
    """The probe timer fired: send one new packet if there is one and the window allows, else the last one again,
    so that its ACK or SACK shows what is missing before the RTO would."""
    if sk.tlp_high_seq:
        tcp_input.tcp_rearm_rto(sk)
        return
    sk.tlp_retrans = False
    mss = tcp_current_mss(sk)
    if sk.sk_write_queue and tcp_snd_wnd_test(sk, sk.sk_write_queue[0], mss):
        pcount = sk.packets_out
        tcp_write_xmit(sk, mss, TCP_NAGLE_OFF, 2)
        if sk.packets_out > pcount:
            _probe_sent(sk)
            return
    elif sk.tcp_rtx_queue and _retransmit_tail(sk, mss):
        return
    tcp_input.tcp_rearm_rto(sk)


def _retransmit_tail(sk: tcp_sock, mss: int) -> bool:
    skb = sk.tcp_rtx_queue[-1]
    pcount = skb.cb.tcp_gso_segs
    if pcount > 1 and skb.len > (pcount - 1) * mss:
        if tcp_fragment(sk, sk.tcp_rtx_queue, skb, (pcount - 1) * mss, mss):
            return False
        skb = sk.tcp_rtx_queue[-1]
    if __tcp_retransmit_skb(sk, skb, 1):
        return False
    sk.tlp_retrans = True
    _probe_sent(sk)
    return True


def _probe_sent(sk: tcp_sock) -> None:
    sk.tlp_high_seq = sk.snd_nxt
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPLOSSPROBES)
    sk.icsk_pending = 0  # so that tcp_rearm_rto() runs the RTO from the probe
    tcp_input.tcp_rearm_rto(sk)


# -- retransmission -------------------------------------------------------------------------------------------------


def __tcp_retransmit_skb(sk: tcp_sock, skb: sk_buff, segs: int) -> int:
    """Send (at most ``segs`` segments of) a packet again; 0, or a negative errno if it could not go."""
    net = sk.sk_net
    cb = skb.cb
    if sk.icsk_mtup.probe_size:
        sk.icsk_mtup.probe_size = 0
    if before(cb.seq, sk.snd_una):
        if before(cb.end_seq, sk.snd_una):
            return -EINVAL
        tcp_trim_head(sk, skb, (sk.snd_una - cb.seq) & MASK32)
    if sk.icsk_af_ops.rebuild_header(sk):
        return -EHOSTUNREACH
    cur_mss = tcp_current_mss(sk)
    avail_wnd = (tcp_wnd_end(sk) - cb.seq) & MASK32
    if avail_wnd >= _SIGN or not avail_wnd:
        if cb.seq != sk.snd_una:
            return -EAGAIN
        avail_wnd = cur_mss
    length = cur_mss * (segs if sk_can_gso(sk) else 1)
    if length > avail_wnd:
        length = max(avail_wnd - avail_wnd % cur_mss, min(avail_wnd, cur_mss))
    if skb.len > length:
        if tcp_fragment(sk, sk.tcp_rtx_queue, skb, length, cur_mss):
            return -EINVAL
    else:
        diff = cb.tcp_gso_segs
        tcp_set_skb_tso_segs(skb, cur_mss)
        diff -= cb.tcp_gso_segs
        if diff:
            tcp_adjust_pcount(sk, skb, diff)
        if skb.len < min(avail_wnd, cur_mss):
            tcp_retrans_try_collapse(sk, skb, min(avail_wnd, cur_mss))
    if cb.tcp_flags & _SYN_ECN == _SYN_ECN:
        tcp_ecn_clear_syn(sk, skb)
    segs = cb.tcp_gso_segs
    TCP_ADD_STATS(net, TCP_MIB_RETRANSSEGS, segs)
    if cb.tcp_flags & TCPHDR_SYN:
        NET_INC_STATS(net, LINUX_MIB_TCPSYNRETRANS)
    sk.total_retrans += segs
    sk.bytes_retrans += skb.len
    err = tcp_transmit_skb(sk, skb, True)
    cb.sacked |= TCPCB_EVER_RETRANS
    if err:
        NET_ADD_STATS(net, LINUX_MIB_TCPRETRANSFAIL, segs)
    return err


def tcp_can_collapse(skb: sk_buff) -> bool:
    """Whether a packet may be resent as part of the one before: small, and not SACKed."""
    return skb.cb.tcp_gso_segs <= 1 and not skb.cb.sacked & TCPCB_SACKED_ACKED


def tcp_retrans_try_collapse(sk: tcp_sock, to: sk_buff, space: int) -> None:
    """Fill a small packet that is resent with those behind it, up to ``space`` bytes (tcp_retrans_collapse)."""
    if not sk.sk_net.ipv4.sysctl_tcp_retrans_collapse or to.cb.tcp_flags & TCPHDR_SYN or not tcp_can_collapse(to):
        return
    queue = sk.tcp_rtx_queue
    at = queue.index(to) + 1
    space -= to.len
    while at < len(queue):
        skb = queue[at]
        space -= skb.len
        if space < 0 or not tcp_can_collapse(skb) or not tcp_skb_can_collapse(to, skb):
            return
        if after(skb.cb.end_seq, tcp_wnd_end(sk)):
            return
        tcp_collapse_retrans(sk, to, skb)


def tcp_collapse_retrans(sk: tcp_sock, skb: sk_buff, next_skb: sk_buff) -> None:
    """Make one packet in flight of two that follow each other."""
    skb_shift(skb, next_skb, next_skb.len)
    skb.cb.sacked |= next_skb.cb.sacked & TCPCB_EVER_RETRANS
    tcp_adjust_pcount(sk, next_skb, next_skb.cb.tcp_gso_segs)
    tcp_eat_one_skb(sk, skb, next_skb)
    sk.tcp_rtx_queue.remove(next_skb)
    sk.tsorted_sent_queue.pop(next_skb, None)


def tcp_retransmit_skb(sk: tcp_sock, skb: sk_buff, segs: int) -> int:
    """__tcp_retransmit_skb and the scoreboard: the packet counts as in flight again."""
    err = __tcp_retransmit_skb(sk, skb, segs)
    if not err:
        skb.cb.sacked |= TCPCB_RETRANS
        sk.retrans_out += skb.cb.tcp_gso_segs
    if not sk.retrans_stamp:
        sk.retrans_stamp = _retrans_stamp(skb)
    if sk.undo_retrans < 0:
        sk.undo_retrans = 0
    sk.undo_retrans += skb.cb.tcp_gso_segs
    return err


def _retrans_stamp(skb: sk_buff) -> int:
    """Milliseconds, the TSval clock; 0 means that nothing was retransmitted."""
    return (skb.skb_mstamp_ns // 1_000_000 & MASK32) or 1


def tcp_xmit_retransmit_queue(sk: tcp_sock) -> None:
    """Send again what is marked lost, oldest first, as far as cwnd allows."""
    if sk.packets_out:
        while _xmit_retransmit_pass(sk):
            pass


def _xmit_retransmit_pass(sk: tcp_sock) -> bool:
    """One walk over the queue; True if a packet had to be split, so that its rest is still to be looked at."""
    net = sk.sk_net
    split = False
    rearm_timer = False
    max_segs = tcp_tso_segs(sk, tcp_current_mss(sk))
    paced = sk.sk_pacing_status == SK_PACING_NEEDED
    for skb in list(sk.tcp_rtx_queue):
        if sk.lost_out <= sk.retrans_out or (paced and tcp_pacing_check(sk)):
            break
        segs = sk.snd_cwnd - tcp_packets_in_flight(sk)
        if segs <= 0:
            break
        sacked = skb.cb.sacked
        if not sacked & TCPCB_LOST or sacked & (TCPCB_SACKED_ACKED | TCPCB_SACKED_RETRANS):
            continue
        if tcp_small_queue_check(sk, skb, 1):
            break
        packets = len(sk.tcp_rtx_queue)
        if tcp_retransmit_skb(sk, skb, min(segs, max_segs)):
            break
        in_loss = sk.icsk_ca_state == TCP_CA_Loss
        NET_ADD_STATS(
            net, LINUX_MIB_TCPSLOWSTARTRETRANS if in_loss else LINUX_MIB_TCPFASTRETRANS, skb.cb.tcp_gso_segs
        )
        if tcp_in_cwnd_reduction(sk):
            sk.prr_out += skb.cb.tcp_gso_segs
        if skb is sk.tcp_rtx_queue[0] and sk.icsk_pending != 0:
            rearm_timer = True
        if len(sk.tcp_rtx_queue) != packets:
            split = True
            break
    if rearm_timer:
        tcp_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.icsk_rto, TCP_RTO_MAX)
    return split


# -- FIN, RST, SYN-ACK ----------------------------------------------------------------------------------------------


def tcp_send_fin(sk: tcp_sock) -> None:
    """Queue our FIN: on the last packet that was not sent yet, or in a packet of its own."""
    tskb = sk.sk_write_queue[-1] if sk.sk_write_queue else None
    cur_mss = tcp_current_mss(sk)
    if tskb is not None:
        tskb.cb.tcp_flags |= TCPHDR_FIN
        tskb.cb.end_seq = (tskb.cb.end_seq + 1) & MASK32
        sk.write_seq = (sk.write_seq + 1) & MASK32
    else:
        skb = tcp_init_nondata_skb(sk.write_seq, TCPHDR_ACK | TCPHDR_FIN)
        tcp_queue_skb(sk, skb)
    __tcp_push_pending_frames(sk, cur_mss, TCP_NAGLE_OFF)


def tcp_send_active_reset(sk: tcp_sock) -> None:
    """Tell the peer that the connection is gone: RST with ACK, no window."""
    net = sk.sk_net
    TCP_INC_STATS(net, TCP_MIB_OUTRSTS)
    tcp_mstamp_refresh(sk)
    skb = tcp_init_nondata_skb(tcp_acceptable_seq(sk), TCPHDR_ACK | TCPHDR_RST)
    if tcp_transmit_skb(sk, skb, False):
        NET_INC_STATS(net, LINUX_MIB_TCPABORTFAILED)


def tcp_make_synack(
    sk: tcp_sock,
    dst: dst_entry,
    req: tcp_request_sock,
    foc: tcp_fastopen_cookie | None,
    synack_type: int,
    syn_skb: sk_buff | None,
) -> sk_buff:
    """A SYN-ACK for a request, with TCP header but without checksum and IP header; with the Fast Open cookie ``foc``
    if there is one and room for it.  For a SYN whose data were taken ``sk`` is the child, else the listener."""
    skb = alloc_skb(MAX_TCP_HEADER)
    skb.sk = sk
    skb._skb_refdst = dst
    skb.hash = req.txhash
    mss = tcp_mss_clamp(sk, dst_metric_advmss(dst))
    now = sk.sk_net.clock.now_ns()
    if synack_type == TCP_SYNACK_COOKIE and req.tstamp_ok:
        from stack.net.ipv4 import syncookies

        skb.skb_mstamp_ns = syncookies.cookie_init_timestamp(req, now)
    else:
        skb.skb_mstamp_ns = now
        if not req.snt_synack:
            req.snt_synack = now // 1000 or 1
    opts = tcp_out_options()
    if sk.md5sig_info is not None and req.af_specific is not None:
        opts.md5 = req.af_specific.req_md5_lookup(sk, req)
    if req.used_tcp_ao:
        opts.ao_key = tcp_ao.tcp_ao_lookup(sk, req, req.ao_keyid, -1)
        opts.md5 = None
    header_size = tcp_synack_options(sk, req, mss, skb, opts, foc, synack_type)
    skb.transport_header = off = skb_push(skb, header_size)
    flags = tcp_ecn_make_synack(req, TCPHDR_SYN | TCPHDR_ACK, synack_type)
    head = skb.head
    assert isinstance(head, bytearray)
    TCP_HEADER.pack_into(
        head, off, req.ir_num, req.ir_rmt_port, req.snt_isn, req.rcv_nxt,
        header_size << 10 | flags, min(req.rsk_rcv_wnd, TCP_MAX_WINDOW), 0, 0,
    )  # fmt: skip
    tcp_options_write(head, off + TCP_HEADER_LEN, None, opts)
    if opts.md5 is not None and req.af_specific is not None:
        at = opts.hash_location
        head[at : at + 16] = req.af_specific.calc_md5_hash(opts.md5, req, skb)
    elif opts.ao_key is not None:
        at = opts.hash_location
        mac = tcp_ao.tcp_ao_synack_hash(req, skb, opts.ao_key, at)
        head[at : at + len(mac)] = mac
    TCP_INC_STATS(sk.sk_net, TCP_MIB_OUTSEGS)
    skb.ip_summed = CHECKSUM_PARTIAL
    return skb


def tcp_send_synack(sk: tcp_sock) -> int:
    """Answer the SYN of a peer that opened at the same time: our SYN again, with an ACK.  0 or a negative errno."""
    skb = tcp_rtx_queue_head(sk)
    if skb is None or not skb.cb.tcp_flags & TCPHDR_SYN:
        return -EFAULT
    if not skb.cb.tcp_flags & TCPHDR_ACK:
        skb.cb.tcp_flags |= TCPHDR_ACK
        tcp_ecn_send_synack(sk, skb)
    return tcp_transmit_skb(sk, skb, True)


def tcp_mss_clamp(tp: tcp_sock, mss: int) -> int:
    """TCP_MAXSEG bounds what we say and what we send (include/net/tcp.h)."""
    user_mss = tp.rx_opt.user_mss
    return user_mss if user_mss and user_mss < mss else mss


def tcp_rtx_synack(sk: tcp_sock, req: tcp_request_sock) -> int:
    """Send the SYN-ACK again; counts it unless it could not go."""
    net = sk.sk_net
    assert req.af_specific is not None
    if net.core.sysctl_txrehash:
        req.txhash = net_tx_rndhash(net, req.sk_family)
    res: int = req.af_specific.send_synack(sk, None, None, req, None, TCP_SYNACK_RETRANS, None)
    if not res:
        TCP_INC_STATS(net, TCP_MIB_RETRANSSEGS)
        NET_INC_STATS(net, LINUX_MIB_TCPSYNRETRANS)
        if tcp_passive_fastopen(sk):
            sk.total_retrans += 1
    return res


# -- the active open --------------------------------------------------------------------------------------------------


def tcp_connect_init(sk: tcp_sock) -> None:
    """Every variable of a connection that begins; its route is known."""
    dst = sk.sk_dst_cache
    assert dst is not None
    ipv4 = sk.sk_net.ipv4
    sk.tcp_header_len = TCP_HEADER_LEN + (TCPOLEN_TSTAMP_ALIGNED if ipv4.sysctl_tcp_timestamps else 0)
    sk.tcp_header_len += _signature_options(sk, tcp_out_options())
    if sk.rx_opt.user_mss:
        sk.rx_opt.mss_clamp = sk.rx_opt.user_mss
    sk.max_window = 0
    tcp_mtup_init(sk)
    tcp_sync_mss(sk, dst_mtu(dst))
    sk.advmss = tcp_mss_clamp(sk, dst_metric_advmss(dst))
    tcp_input.tcp_initialize_rcv_mss(sk)
    _connect_window(sk, dst)
    sk.sk_err = 0
    sk.sk_flags &= ~SOCK_DONE
    sk.snd_wnd = 0
    sk.snd_wl1 = 0
    tcp.tcp_write_queue_purge(sk)
    sk.snd_una = sk.snd_sml = sk.snd_up = sk.snd_nxt = sk.write_seq
    if not sk.repair:
        sk.rcv_nxt = 0
    sk.rcv_wup = sk.copied_seq = sk.rcv_nxt
    sk.icsk_rto = TCP_TIMEOUT_INIT
    sk.icsk_retransmits = 0
    tcp_input.tcp_clear_retrans(sk)


def _connect_window(sk: tcp_sock, dst: dst_entry) -> None:
    """The window and the scale that our SYN offers."""
    space = tcp_full_space(sk)
    clamp = sk.window_clamp or dst_metric(dst, RTAX_WINDOW)
    if sk.sk_userlocks & SOCK_RCVBUF_LOCK and (clamp > space or not clamp):
        clamp = space
    # A time stamp left from a TIME_WAIT socket makes its option certain.
    options = sk.tcp_header_len - TCP_HEADER_LEN if sk.rx_opt.ts_recent_stamp else 0
    sk.rcv_wnd, sk.window_clamp, sk.rx_opt.rcv_wscale = tcp_select_initial_window(
        sk,
        space,
        sk.advmss - options,
        clamp,
        bool(sk.sk_net.ipv4.sysctl_tcp_window_scaling),
        dst_metric(dst, RTAX_INITRWND),
    )
    sk.rcv_ssthresh = sk.rcv_wnd


def tcp_connect_queue_skb(sk: tcp_sock, skb: sk_buff) -> None:
    """The SYN counts as sent and unacknowledged."""
    sk.write_seq = skb.cb.end_seq
    sk.sk_wmem_queued += skb.truesize
    sk.packets_out += skb.cb.tcp_gso_segs


def tcp_send_syn_data(sk: tcp_sock, syn: sk_buff, fo: tcp_fastopen_request) -> int:
    """The SYN of a client that uses Fast Open: with its cookie and what data fit (RFC 7413, section 4.2.1), or, without
    a cookie, with the wish for one.  The SYN and the data are two packets in the retransmit queue: neither cookie nor
    data are sent with a SYN again.  0 or a negative errno."""
    sk.rx_opt.mss_clamp = sk.advmss  # unless the cache knows the peer's
    usable, sk.rx_opt.mss_clamp = tcp_fastopen.tcp_fastopen_cookie_check(sk, sk.rx_opt.mss_clamp, fo.cookie)
    if not usable or not _transmit_syn_data(sk, syn, fo):
        fo.cookie.len = min(fo.cookie.len, 0)
        err = tcp_transmit_skb(sk, syn, True)
        if err:
            sk.syn_fastopen = False
    else:
        err = 0
    fo.cookie.len = -1
    return err


def _transmit_syn_data(sk: tcp_sock, syn: sk_buff, fo: tcp_fastopen_request) -> bool:
    """SYN and data as one segment; False if it could not go, and the data wait for their turn."""
    sk.rx_opt.mss_clamp = tcp_mss_clamp(sk, sk.rx_opt.mss_clamp)
    tcp_sync_mss(sk, sk.icsk_pmtu_cookie)
    # Room for as many options as there can be, as middleboxes may add some to a SYN.
    space = min(__tcp_mtu_to_mss(sk, sk.icsk_pmtu_cookie) - MAX_TCP_OPTION_SPACE, fo.size)
    data = (fo.data or b"")[:space]
    if space == fo.size:
        fo.data = None
    fo.copied = space
    skb = _syn_data_skb(sk, syn, data)
    tcp_connect_queue_skb(sk, skb)
    if data:
        tcp_chrono_start(sk, TCP_CHRONO_BUSY)
    err = tcp_transmit_skb(sk, skb, True)
    syn.skb_mstamp_ns = skb.skb_mstamp_ns
    skb.cb.seq = (skb.cb.seq + 1) & MASK32
    skb.cb.tcp_flags = TCPHDR_ACK | TCPHDR_PSH
    if err:
        sk.sk_write_queue.append(skb)
        sk.packets_out -= skb.cb.tcp_gso_segs
        return False
    sk.syn_data = fo.copied > 0
    tcp_rbtree_insert(sk, skb)
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPORIGDATASENT)
    return True


def _syn_data_skb(sk: tcp_sock, syn: sk_buff, data: bytes) -> sk_buff:
    """A SYN like ``syn`` with data."""
    skb = tcp.tcp_stream_alloc_skb(sk)
    skb.cb = tcp_skb_cb(syn.cb.seq, (syn.cb.end_seq + len(data)) & MASK32, syn.cb.tcp_flags)
    skb.cb.tcp_gso_segs = 1
    skb.frags = [memoryview(data)] if data else []
    skb.len = skb.data_len = len(data)
    skb.truesize += len(data)
    return skb


def tcp_connect(sk: tcp_sock) -> int:
    """Send the SYN of a socket in SYN_SENT and arm its timer; 0 or a negative errno."""
    if sk.icsk_af_ops.rebuild_header(sk):
        return -EHOSTUNREACH
    tcp_connect_init(sk)
    skb = tcp_init_nondata_skb(sk.write_seq, TCPHDR_SYN)
    tcp_mstamp_refresh(sk)
    sk.retrans_stamp = tcp_time_stamp(sk)
    tcp_connect_queue_skb(sk, skb)
    tcp_ecn_send_syn(sk, skb)
    tcp_rbtree_insert(sk, skb)
    fo = sk.fastopen_req
    err = tcp_transmit_skb(sk, skb, True) if fo is None else tcp_send_syn_data(sk, skb, fo)
    if err == -ECONNREFUSED:
        return err
    head = sk.sk_write_queue[0] if sk.sk_write_queue else None
    sk.snd_nxt = sk.pushed_seq = sk.write_seq if head is None else head.cb.seq
    TCP_INC_STATS(sk.sk_net, TCP_MIB_ACTIVEOPENS)
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.icsk_rto, TCP_RTO_MAX)
    return 0


# -- ACKs -------------------------------------------------------------------------------------------------------------


def tcp_send_delayed_ack(sk: tcp_sock) -> None:
    """Arm the delayed ACK: after the ATO, bounded by the round trip (at least 40 ms) and by 200 ms; half a second
    in ping-pong mode, where the ACK is expected to ride on the answer."""
    ack = sk.icsk_ack
    ato = ack.ato
    if ato > TCP_DELACK_MIN:
        max_ato = HZ // 2
        if inet_csk_in_pingpong_mode(sk) or ack.pending & ICSK_ACK_PUSHED:
            max_ato = TCP_DELACK_MAX
        if sk.srtt_us:
            rtt = max(usecs_to_jiffies(sk.srtt_us >> 3), TCP_DELACK_MIN)
            max_ato = min(max_ato, rtt)
        ato = min(ato, max_ato)
    ato = min(ato, sk.icsk_delack_max)
    timeout = jiffies(sk.sk_net) + ato
    if ack.pending & ICSK_ACK_TIMER:
        if ack.timeout <= jiffies(sk.sk_net) + (ato >> 2):
            tcp_send_ack(sk)
            return
        timeout = min(timeout, ack.timeout)
    ack.pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER
    ack.timeout = timeout
    net_core_sock.sk_reset_timer(sk, sk.icsk_delack_timer, timeout)


def __tcp_send_ack(sk: tcp_sock, rcv_nxt: int, flags: int = 0) -> None:
    """An ACK on its own, for ``rcv_nxt``, with these header flags as well."""
    if sk.sk_state == TCP_CLOSE:
        return
    skb = tcp_init_nondata_skb(tcp_acceptable_seq(sk), TCPHDR_ACK | flags)
    tcp_mstamp_refresh(sk)
    __tcp_transmit_skb(sk, skb, False, rcv_nxt)


def tcp_send_ack(sk: tcp_sock) -> None:
    __tcp_send_ack(sk, sk.rcv_nxt)


def tcp_xmit_probe_skb(sk: tcp_sock, urgent: int, mib: int) -> int:
    """An empty segment one below snd_una (snd_una itself with ``urgent``): the peer has to answer it."""
    NET_INC_STATS(sk.sk_net, mib)
    seq = (sk.snd_una - (0 if urgent else 1)) & MASK32
    skb = tcp_init_nondata_skb(seq, TCPHDR_ACK)
    tcp_mstamp_refresh(sk)
    return tcp_transmit_skb(sk, skb, False)


def tcp_write_wakeup(sk: tcp_sock, mib: int) -> int:
    """Get an answer out of the peer: with data if its window has room for some, else with an empty probe."""
    if sk.sk_state == TCP_CLOSE:
        return -1
    skb = sk.sk_write_queue[0] if sk.sk_write_queue else None
    if skb is None or not before(skb.cb.seq, tcp_wnd_end(sk)):
        if sk.urg_mode and between(sk.snd_up, (sk.snd_una + 1) & MASK32, (sk.snd_una + 0xFFFF) & MASK32):
            tcp_xmit_probe_skb(sk, 1, mib)
        return tcp_xmit_probe_skb(sk, 0, mib)
    mss = tcp_current_mss(sk)
    seg_size = (tcp_wnd_end(sk) - skb.cb.seq) & MASK32
    if before(sk.pushed_seq, skb.cb.end_seq):
        sk.pushed_seq = skb.cb.end_seq
    if seg_size < (skb.cb.end_seq - skb.cb.seq) & MASK32 or skb.len > mss:
        seg_size = min(seg_size, mss)
        skb.cb.tcp_flags |= TCPHDR_PSH
        if tcp_fragment(sk, sk.sk_write_queue, skb, seg_size, mss):
            return -1
    elif not skb.cb.tcp_gso_segs:
        tcp_set_skb_tso_segs(skb, mss)
    skb.cb.tcp_flags |= TCPHDR_PSH
    tcp_mstamp_refresh(sk)
    err = tcp_transmit_skb(sk, skb, True)
    if not err:
        tcp_event_new_data_sent(sk, skb)
    return err


def tcp_send_probe0(sk: tcp_sock) -> None:
    """The probe timer fired: probe the closed window and set the timer again, doubled."""
    net = sk.sk_net
    err = tcp_write_wakeup(sk, LINUX_MIB_TCPWINPROBE)
    if sk.packets_out or not sk.sk_write_queue:
        sk.icsk_probes_out = 0
        sk.icsk_backoff = 0
        sk.icsk_probes_tstamp = 0
        return
    sk.icsk_probes_out += 1
    if err <= 0:
        if sk.icsk_backoff < net.ipv4.sysctl_tcp_retries2:
            sk.icsk_backoff += 1
        timeout = tcp_probe0_when(sk, TCP_RTO_MAX)
    else:
        timeout = TCP_RESOURCE_PROBE_INTERVAL
    timeout = tcp_timer.tcp_clamp_probe0_to_user_timeout(sk, timeout)
    tcp_reset_xmit_timer(sk, ICSK_TIME_PROBE0, timeout, TCP_RTO_MAX)
