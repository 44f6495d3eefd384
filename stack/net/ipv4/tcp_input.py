# SPDX-License-Identifier: GPL-2.0-or-later
"""What TCP does with a received segment: net/ipv4/tcp_input.c.

Theory of operation
-------------------
A segment of an established connection enters at ``tcp_rcv_established``.  Header prediction (``pred_flags``: plain
ACK, expected header length, unchanged window field, next in order) decides between the fast path - data are queued,
or a pure ACK taken, with a handful of tests - and the slow path: validation (PAWS, window, RST and SYN by RFC 5961),
the ACK, urgent data, the data, and then what to send.  All other states enter at ``tcp_rcv_state_process``; a SYN to a
listener goes from there to ``tcp_conn_request``.

    tcp_validate_incoming   may this segment be looked at?  RST, SYN, PAWS, window; challenge ACKs are rate limited
    tcp_ack                 what the peer got: window, retransmit queue, round trip, scoreboard, congestion control
    tcp_data_queue          in order -> receive queue; beyond a hole -> out-of-order queue and SACK; else DSACK
    tcp_data_snd_check      the ACK may have made room: send
    tcp_ack_snd_check       acknowledge now, later, or compressed

Loss is found by RACK (RFC 8985, tcp_recovery.py) with the three-duplicate rule as a floor of its reordering window,
by NewReno counting where the peer has no SACK, and by the retransmission timer (tcp_timer.py).  States of
``icsk_ca_state``: Open, Disorder (duplicate ACKs), CWR (ECN), Recovery (fast retransmit, PRR by RFC 6937), Loss (after
a timeout, with F-RTO by RFC 5682).  Reductions are undone when DSACK or time stamps show that nothing was lost.

Numbers, measured on 6.1: 16 immediate ACKs at the start and after a pause longer than the RTO; delayed ACKs
40..200 ms; at most one challenge ACK per 500 ms and connection.

Departures: no locks, no prequeue.  A received packet's payload stays a slice of its frame.
"""

from __future__ import annotations

from errno import ECONNREFUSED, ECONNRESET, EPIPE
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from stack.include.dropreason import (
    SKB_DROP_REASON_IP_OUTNOROUTES,
    SKB_DROP_REASON_PKT_TOO_SMALL,
    SKB_DROP_REASON_PROTO_MEM,
    SKB_DROP_REASON_SOCKET_FILTER,
    SKB_DROP_REASON_TCP_ACK_UNSENT_DATA,
    SKB_DROP_REASON_TCP_CLOSE,
    SKB_DROP_REASON_TCP_CSUM,
    SKB_DROP_REASON_TCP_FASTOPEN,
    SKB_DROP_REASON_TCP_FLAGS,
    SKB_DROP_REASON_TCP_INVALID_END_SEQUENCE,
    SKB_DROP_REASON_TCP_INVALID_SEQUENCE,
    SKB_DROP_REASON_TCP_INVALID_SYN,
    SKB_DROP_REASON_TCP_LISTEN_OVERFLOW,
    SKB_DROP_REASON_TCP_OFO_DROP,
    SKB_DROP_REASON_TCP_OFO_QUEUE_PRUNE,
    SKB_DROP_REASON_TCP_OFOMERGE,
    SKB_DROP_REASON_TCP_OLD_ACK,
    SKB_DROP_REASON_TCP_OLD_DATA,
    SKB_DROP_REASON_TCP_OVERWINDOW,
    SKB_DROP_REASON_TCP_RESET,
    SKB_DROP_REASON_TCP_RFC7323_PAWS,
    SKB_DROP_REASON_TCP_SYN_QUEUE_FULL,
    SKB_DROP_REASON_TCP_TOO_OLD_ACK,
    SKB_DROP_REASON_TCP_ZEROWINDOW,
)
from stack.include.dst import RTAX_INITCWND, RTAX_QUICKACK, RTAX_RTO_MIN, dst_entry, dst_metric, flowi4
from stack.include.inet_connection_sock import (
    ICSK_ACK_NOMEM,
    ICSK_ACK_NOW,
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    ICSK_TIME_DACK,
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    inet_csk_ack_scheduled,
    inet_csk_clear_xmit_timer,
    inet_csk_enter_pingpong_mode,
    inet_csk_exit_pingpong_mode,
    inet_csk_in_pingpong_mode,
    inet_csk_reqsk_queue_is_full,
    inet_csk_reqsk_queue_len,
    inet_csk_reset_xmit_timer,
    inet_csk_schedule_ack,
)
from stack.include.ip import ETH_P_IPV6, INET_ECN_CE, INET_ECN_MASK, INET_ECN_NOT_ECT
from stack.include.net import SOCK_NOSPACE
from stack.include.net_tstamp import SCM_TSTAMP_ACK
from stack.include.request_sock import (
    SynVerdict,
    reqsk_alloc,
    reqsk_free,
    request_sock_ops,
    saved_syn,
    tcp_request_sock,
    tcp_request_sock_ops,
)
from stack.include.sk_buff import SKB_TRUESIZE_OVERHEAD, rx_truesize, sk_buff, skb_pull
from stack.include.snmp import (
    LINUX_MIB_BEYOND_WINDOW,
    LINUX_MIB_DELAYEDACKLOST,
    LINUX_MIB_LISTENOVERFLOWS,
    LINUX_MIB_OFOPRUNED,
    LINUX_MIB_PAWSACTIVEREJECTED,
    LINUX_MIB_PAWSESTABREJECTED,
    LINUX_MIB_PRUNECALLED,
    LINUX_MIB_RCVPRUNED,
    LINUX_MIB_TCPABORTONDATA,
    LINUX_MIB_TCPACKCOMPRESSED,
    LINUX_MIB_TCPACKSKIPPEDCHALLENGE,
    LINUX_MIB_TCPACKSKIPPEDPAWS,
    LINUX_MIB_TCPACKSKIPPEDSEQ,
    LINUX_MIB_TCPCHALLENGEACK,
    LINUX_MIB_TCPDELIVERED,
    LINUX_MIB_TCPDELIVEREDCE,
    LINUX_MIB_TCPDSACKIGNOREDDUBIOUS,
    LINUX_MIB_TCPDSACKIGNOREDNOUNDO,
    LINUX_MIB_TCPDSACKIGNOREDOLD,
    LINUX_MIB_TCPDSACKOFORECV,
    LINUX_MIB_TCPDSACKOFOSENT,
    LINUX_MIB_TCPDSACKOLDSENT,
    LINUX_MIB_TCPDSACKRECV,
    LINUX_MIB_TCPDSACKRECVSEGS,
    LINUX_MIB_TCPDSACKUNDO,
    LINUX_MIB_TCPDUPLICATEDATAREHASH,
    LINUX_MIB_TCPFASTOPENACTIVE,
    LINUX_MIB_TCPFASTOPENACTIVEFAIL,
    LINUX_MIB_TCPFULLUNDO,
    LINUX_MIB_TCPHPACKS,
    LINUX_MIB_TCPHPHITS,
    LINUX_MIB_TCPLOSSPROBERECOVERY,
    LINUX_MIB_TCPLOSSUNDO,
    LINUX_MIB_TCPLOSTRETRANSMIT,
    LINUX_MIB_TCPOFODROP,
    LINUX_MIB_TCPOFOMERGE,
    LINUX_MIB_TCPOFOQUEUE,
    LINUX_MIB_TCPPARTIALUNDO,
    LINUX_MIB_TCPPUREACKS,
    LINUX_MIB_TCPRCVCOALESCE,
    LINUX_MIB_TCPRCVCOLLAPSED,
    LINUX_MIB_TCPRCVQDROP,
    LINUX_MIB_TCPRENORECOVERY,
    LINUX_MIB_TCPRENOREORDER,
    LINUX_MIB_TCPREQQFULLDOCOOKIES,
    LINUX_MIB_TCPREQQFULLDROP,
    LINUX_MIB_TCPSACKDISCARD,
    LINUX_MIB_TCPSACKRECOVERY,
    LINUX_MIB_TCPSACKRENEGING,
    LINUX_MIB_TCPSACKREORDER,
    LINUX_MIB_TCPSPURIOUSRTOS,
    LINUX_MIB_TCPSYNCHALLENGE,
    LINUX_MIB_TCPTSREORDER,
    LINUX_MIB_TCPZEROWINDOWDROP,
    NET_ADD_STATS,
    NET_INC_STATS,
    TCP_INC_STATS,
    TCP_MIB_CSUMERRORS,
    TCP_MIB_INERRS,
)
from stack.include.sock import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SOCK_DEAD,
    SOCK_DONE,
    SOCK_KEEPOPEN,
    SOCK_RCVBUF_LOCK,
    SOCK_SNDBUF_LOCK,
    SOCK_URGINLINE,
    sk_acceptq_is_full,
    sk_rethink_txhash,
)
from stack.include.tcp import (
    CA_ACK_ECE,
    CA_ACK_SLOWPATH,
    CA_ACK_WIN_UPDATE,
    CA_EVENT_COMPLETE_CWR,
    CA_EVENT_ECN_IS_CE,
    CA_EVENT_ECN_NO_CE,
    CA_EVENT_LOSS,
    MAX_TCP_HEADER,
    TCP_ATO_MIN,
    TCP_CA_CWR,
    TCP_CHRONO_BUSY,
    TCP_CHRONO_SNDBUF_LIMITED,
    TCP_DELACK_MAX,
    TCP_DSACK_SEEN,
    TCP_ECN_DEMAND_CWR,
    TCP_ECN_DISABLED,
    TCP_ECN_MODE_ACCECN,
    TCP_ECN_MODE_ANY,
    TCP_ECN_MODE_RFC3168,
    TCP_ECN_QUEUE_CWR,
    TCP_ECN_SEEN,
    TCP_FASTOPEN_COOKIE_MAX,
    TCP_FASTOPEN_COOKIE_MIN,
    TCP_FASTRETRANS_THRESH,
    TCP_HEADER_LEN,
    TCP_INFINITE_SSTHRESH,
    TCP_INIT_CWND,
    TCP_MAX_QUICKACKS,
    TCP_MAX_WINDOW,
    TCP_MAX_WSCALE,
    TCP_MIN_MSS,
    TCP_MSS_DEFAULT,
    TCP_NAGLE_OFF,
    TCP_NUM_SACKS,
    TCP_PAWS_WINDOW,
    TCP_RMEM_TO_WIN_SCALE,
    TCP_RTO_MAX,
    TCP_SACK_BLOCKS_EXPECTED,
    TCP_SACK_SEEN,
    TCP_SYNACK_COOKIE,
    TCP_SYNACK_FASTOPEN,
    TCP_SYNACK_NORMAL,
    TCP_TIMEOUT_INIT,
    TCP_TIMEOUT_MIN,
    TCP_TIMEWAIT_LEN,
    TCP_URG_NOTYET,
    TCP_URG_VALID,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TCPHDR_ACK,
    TCPHDR_CWR,
    TCPHDR_ECE,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCPHDR_URG,
    TCPOLEN_MD5SIG,
    TCPOLEN_MSS,
    TCPOLEN_SACK_BASE,
    TCPOLEN_SACK_PERBLOCK,
    TCPOLEN_SACK_PERM,
    TCPOLEN_TIMESTAMP,
    TCPOLEN_TSTAMP_ALIGNED,
    TCPOLEN_WINDOW,
    TCPOPT_ACCECN0,
    TCPOPT_ACCECN1,
    TCPOPT_AO,
    TCPOPT_EOL,
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
    TFO_DATA_NOT_ACKED,
    TFO_SYN_RETRANSMITTED,
    TCP_CA_Disorder,
    TCP_CA_Loss,
    TCP_CA_Open,
    TCP_CA_Recovery,
    ack_sample,
    keepalive_time_when,
    ktime_get_seconds,
    minmax_running_min,
    rate_sample,
    tcp_accecn_option,
    tcp_adjust_rcv_ssthresh,
    tcp_ca_event,
    tcp_ca_needs_ecn,
    tcp_clear_options,
    tcp_current_ssthresh,
    tcp_fast_path_check,
    tcp_fast_path_on,
    tcp_fastopen_cookie,
    tcp_fin_time,
    tcp_full_space,
    tcp_in_cwnd_reduction,
    tcp_is_reno,
    tcp_is_sack,
    tcp_left_out,
    tcp_listendrop,
    tcp_options_received,
    tcp_packets_in_flight,
    tcp_paws_check,
    tcp_paws_reject,
    tcp_receive_window,
    tcp_rtx_queue_head,
    tcp_skb_cb,
    tcp_sock,
    tcp_space,
    tcp_time_stamp,
    tcp_time_stamp_ms,
    tcp_under_memory_pressure,
    tcp_win_from_space,
    tcp_wnd_end,
    tcphdr,
)
from stack.include.tcp_ecn import (
    TCP_ACCECN_ACE_MAX_DELTA,
    TCP_ACCECN_CEP_ACE_MASK,
    TCP_ACCECN_CEP_INIT_OFFSET,
    TCP_ACCECN_OPT_COUNTER_SEEN,
    TCP_ACCECN_OPT_FAIL_RECV,
    TCP_ACCECN_OPT_FAIL_SEND,
    TCP_ECN_IN_ACCECN_OUT_ACCECN,
    tcp_accecn_ace,
    tcp_accecn_option_init,
    tcp_accecn_reflector_flags,
    tcp_accecn_saw_opt_fail_recv,
    tcp_accecn_syn_requested,
    tcp_accecn_third_ack,
    tcp_ecn_mode_accecn,
    tcp_ecn_mode_pending,
    tcp_ecn_mode_rfc3168,
    tcp_ecn_mode_set,
    tcp_ecn_received_counters,
    tcp_update_ecn_bytes,
)
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    TCP_TRANSITIONS,
)
from stack.include.timer import HZ, USEC_PER_JIFFY
from stack.kernel.time.timer import (
    hrtimer_cancel,
    hrtimer_is_queued,
    hrtimer_start,
    jiffies,
    jiffies_to_usecs,
    tcp_jiffies32,
    usecs_to_jiffies,
)
from stack.net.core import request_sock, skbuff
from stack.net.core.skbuff import consume_skb, kfree_skb_reason
from stack.net.core.sock import sk_forced_mem_schedule, sk_rmem_schedule, skb_set_owner_r
from stack.net.ipv4 import (
    inet_connection_sock,
    syncookies,
    tcp,
    tcp_ao,
    tcp_cong,
    tcp_fastopen,
    tcp_metrics,
    tcp_minisocks,
    tcp_output,
    tcp_rate,
    tcp_recovery,
    tcp_timer,
)
from stack.seqnum import MASK32, after, before, between

if TYPE_CHECKING:
    from stack.stack import Stack

# flags of tcp_ack() and what it calls
FLAG_DATA: Final = 0x01  # the segment carried data
FLAG_WIN_UPDATE: Final = 0x02
FLAG_DATA_ACKED: Final = 0x04
FLAG_RETRANS_DATA_ACKED: Final = 0x08
FLAG_SYN_ACKED: Final = 0x10
FLAG_DATA_SACKED: Final = 0x20
FLAG_ECE: Final = 0x40
FLAG_LOST_RETRANS: Final = 0x80
FLAG_SLOWPATH: Final = 0x100
FLAG_ORIG_SACK_ACKED: Final = 0x200  # never retransmitted data were (S)ACKed
FLAG_SND_UNA_ADVANCED: Final = 0x400
FLAG_DSACKING_ACK: Final = 0x800
FLAG_SET_XMIT_TIMER: Final = 0x1000
FLAG_SACK_RENEGING: Final = 0x2000
FLAG_UPDATE_TS_RECENT: Final = 0x4000
FLAG_NO_CHALLENGE_ACK: Final = 0x8000
FLAG_ACK_MAYBE_DELAYED: Final = 0x10000
FLAG_DSACK_TLP: Final = 0x20000
FLAG_TS_PROGRESS: Final = 0x40000  # a newer time stamp of the peer's

FLAG_ACKED: Final = FLAG_DATA_ACKED | FLAG_SYN_ACKED
FLAG_NOT_DUP: Final = FLAG_DATA | FLAG_WIN_UPDATE | FLAG_ACKED
FLAG_CA_ALERT: Final = FLAG_DATA_SACKED | FLAG_ECE | FLAG_DSACKING_ACK
FLAG_FORWARD_PROGRESS: Final = FLAG_ACKED | FLAG_DATA_SACKED

REXMIT_NONE: Final = 0
REXMIT_LOST: Final = 1
REXMIT_NEW: Final = 2

# Flags other than PSH, AE included, in the word that header prediction compares.
TCP_HP_BITS: Final = ~(TCPHDR_PSH << 16) & 0xF1FFFFFF
TCP_REMNANT: Final = TCPHDR_FIN | TCPHDR_URG | TCPHDR_SYN | TCPHDR_PSH

# A merged fragment keeps its whole frame alive: after so many they are copied into one.  Without that a peer who sends
# single bytes to a reader who does not read costs 430 bytes for each.
_MAX_COALESCED: Final = 8
_MAX_COPIED: Final = 2048  # no buffer has room for more behind its packet
# Of a packet's truesize: struct sk_buff and struct skb_shared_info; and a received one's headroom (see rx_truesize).
_SKB_NO_TAIL: Final = 256 + 320
_SKB_HEADROOM: Final = 64
# SKB_MAX_ORDER(0, 0): what fits into a page beside the kernel's struct skb_shared_info
_SKB_MAX_ORDER: Final = 4096 - 320

INT_MAX: Final = 0x7FFFFFFF
_SIGN: Final = 0x80000000
# Accurate ECN: the average of segments per ACK, its weight and scale (powers of two); where it is above ACK_COMP_THRESH
# somebody thins ACKs out, and few of them does not mean that some were lost.
PKTS_ACKED_WEIGHT: Final = 6
PKTS_ACKED_PREC: Final = 6
ACK_COMP_THRESH: Final = 4
TCP_ACCECN_SAFETY_SHIFT: Final = 1  # CE segments of less than half an MSS on average: the counter wrapped
_TIMESTAMP: Final = Struct("!II")
_SACK_BLOCKS: Final = tuple(Struct(f"!{2 * n}I") for n in range(5))
# NOP NOP kind length: a time stamp option in the usual place
_FASTOPEN_MAGIC: Final = TCPOPT_FASTOPEN_MAGIC.to_bytes(2, "big")
_DOFF_MD5SIG: Final = 5 - -TCPOLEN_MD5SIG // 4  # a header shorter than this (in words) has no room for a signature
_TS_ALIGNED: Final = bytes((TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, TCPOLEN_TIMESTAMP))


class oow_holder(Protocol):
    """Whatever remembers when it last answered an unacceptable segment."""

    last_oow_ack_time: int


class tcp_sacktag_state:
    """struct tcp_sacktag_state: what one ACK's SACK blocks told."""

    __slots__ = (
        "delivered_bytes",
        "dup_segs",
        "first_sackt",
        "flag",
        "last_sackt",
        "mss_now",
        "rate",
        "reord",
        "sack_delivered",
    )

    def __init__(self) -> None:
        self.first_sackt = 0  # us
        self.last_sackt = 0
        self.reord = 0
        self.sack_delivered = 0
        self.delivered_bytes = 0
        self.flag = 0
        self.mss_now = 0
        self.dup_segs = 0
        self.rate = rate_sample()


# -- quick and delayed ACKs ---------------------------------------------------------------------------------------


def tcp_measure_rcv_mss(sk: tcp_sock, skb: sk_buff) -> None:
    """Estimate the peer's segment size, which the delayed ACK and the window's rounding go by; note pushes.

    A full segment sets it; smaller ones only if two in a row agree and are not the tail of a write."""
    ack = sk.icsk_ack
    lss = ack.last_seg_size
    ack.last_seg_size = 0
    payload = skb.gso_size or skb.len
    flags = skb.cb.tcp_flags
    if payload >= ack.rcv_mss:
        if payload != ack.rcv_mss:
            if sk.scaling_ratio:
                _measure_scaling_ratio(sk, skb)
            ack.rcv_mss = min(payload, sk.advmss)
        if flags & TCPHDR_PSH:
            ack.pending |= ICSK_ACK_PUSHED
        return
    header = skb.h_th.doff << 2
    length = payload + header
    if length >= TCP_MSS_DEFAULT + 20 or (length >= TCP_MIN_MSS + 20 and not flags & TCP_REMNANT):
        length -= sk.tcp_header_len
        ack.last_seg_size = length
        if length == lss:
            ack.rcv_mss = length
            return
    if ack.pending & ICSK_ACK_PUSHED:
        ack.pending |= ICSK_ACK_PUSHED2
    ack.pending |= ICSK_ACK_PUSHED


def _measure_scaling_ratio(sk: tcp_sock, skb: sk_buff) -> None:
    """A new segment size: how much of its memory is payload, and what window the buffer is worth then.  A larger clamp
    takes back the segment that tcp_init_buffer_space() kept in reserve (measured on 6.18: a first window of 67 KB,
    growing to 75 KB while nobody reads, at a scale of 10)."""
    old = sk.scaling_ratio
    sk.scaling_ratio = max((skb.len << TCP_RMEM_TO_WIN_SCALE) // skb.truesize, 1)
    if sk.scaling_ratio == old:
        return
    clamp = tcp_win_from_space(sk, sk.sk_rcvbuf)
    if clamp < sk.window_clamp:
        sk.rcv_ssthresh = min(sk.rcv_ssthresh, clamp)
    else:
        sk.rcv_ssthresh = max(sk.rcv_ssthresh, min(sk.rcv_wnd, clamp))
    sk.window_clamp = clamp
    sk.rcvq_space.space = min(sk.rcvq_space.space, clamp)


def tcp_incr_quickack(sk: tcp_sock, max_quickacks: int) -> None:
    """Allow immediate ACKs for half a window of segments, at least two."""
    ack = sk.icsk_ack
    quickacks = sk.rcv_wnd // (2 * ack.rcv_mss) if ack.rcv_mss else 0
    quickacks = min(quickacks or 2, max_quickacks)
    if quickacks > ack.quick:
        ack.quick = quickacks


def tcp_enter_quickack_mode(sk: tcp_sock, max_quickacks: int) -> None:
    tcp_incr_quickack(sk, max_quickacks)
    inet_csk_exit_pingpong_mode(sk)
    sk.icsk_ack.ato = TCP_ATO_MIN


def tcp_in_quickack_mode(sk: tcp_sock) -> bool:
    dst = sk.sk_dst_cache
    if dst is not None and dst_metric(dst, RTAX_QUICKACK):
        return True
    return sk.icsk_ack.quick > 0 and not inet_csk_in_pingpong_mode(sk)


def tcp_event_data_recv(sk: tcp_sock, skb: sk_buff) -> None:
    """New in-order data: an ACK is owed; adapt the ATO to the gaps between segments; let the window grow."""
    ack = sk.icsk_ack
    ack.pending |= ICSK_ACK_SCHED
    tcp_measure_rcv_mss(sk, skb)
    tcp_rcv_rtt_measure(sk)
    now = sk.sk_net.tcp_jiffies32
    ato = ack.ato
    if not ato:
        tcp_incr_quickack(sk, TCP_MAX_QUICKACKS)
        ack.ato = TCP_ATO_MIN
    else:
        gap = (now - ack.lrcvtime) & MASK32
        if gap <= TCP_ATO_MIN // 2:
            ack.ato = (ato >> 1) + TCP_ATO_MIN // 2
        elif gap < ato:
            ack.ato = min((ato >> 1) + gap, sk.icsk_rto)
        elif gap > sk.icsk_rto:
            # The peer restarted after a pause: it is in slow start, help it along.
            tcp_incr_quickack(sk, TCP_MAX_QUICKACKS)
    ack.lrcvtime = now
    tcp_ecn_check_ce(sk, skb)
    if skb.len >= 128:
        tcp_grow_window(sk, skb)


# -- ECN --------------------------------------------------------------------------------------------------------


def tcp_ecn_queue_cwr(tp: tcp_sock) -> None:
    if tcp_ecn_mode_rfc3168(tp):
        tp.ecn_flags |= TCP_ECN_QUEUE_CWR


def tcp_ecn_accept_cwr(sk: tcp_sock, skb: sk_buff) -> None:
    """The peer has reduced: stop echoing; acknowledge at once so that it knows."""
    if skb.cb.tcp_flags & TCPHDR_CWR:
        sk.ecn_flags &= ~TCP_ECN_DEMAND_CWR
        if skb.cb.seq != skb.cb.end_seq:
            sk.icsk_ack.pending |= ICSK_ACK_NOW


def tcp_ecn_withdraw_cwr(tp: tcp_sock) -> None:
    tp.ecn_flags &= ~TCP_ECN_QUEUE_CWR


def tcp_ecn_check_ce(sk: tcp_sock, skb: sk_buff) -> None:
    if not sk.ecn_flags & TCP_ECN_MODE_ANY:
        return
    ecn = skb.cb.ip_dsfield & INET_ECN_MASK
    if ecn == INET_ECN_NOT_ECT:
        if sk.ecn_flags & TCP_ECN_SEEN:
            tcp_enter_quickack_mode(sk, 2)
        return
    if tcp_ca_needs_ecn(sk):
        tcp_ca_event(sk, CA_EVENT_ECN_IS_CE if ecn == INET_ECN_CE else CA_EVENT_ECN_NO_CE)
    if sk.ecn_flags & TCP_ECN_MODE_ACCECN:
        return
    if ecn == INET_ECN_CE and not sk.ecn_flags & TCP_ECN_DEMAND_CWR:
        tcp_enter_quickack_mode(sk, 2)
        sk.ecn_flags |= TCP_ECN_DEMAND_CWR
    sk.ecn_flags |= TCP_ECN_SEEN


def tcp_ecn_rcv_ecn_echo(tp: tcp_sock, th: tcphdr) -> bool:
    return bool(th.flags & TCPHDR_ECE and not th.flags & TCPHDR_SYN and tcp_ecn_mode_rfc3168(tp))


def tcp_ecn_rcv_synack(sk: tcp_sock, skb: sk_buff, th: tcphdr) -> None:
    """What the SYN-ACK makes of our offer.  Classic: ECE without CWR accepts it, anything else refuses.  Accurate (RFC
    9768, table 2), and that is how an answer to a classic offer is read as well (measured)."""
    if not sk.ecn_flags & TCP_ECN_MODE_ANY:
        return
    if not sk.sk_net.profile.accecn:
        if th.flags & (TCPHDR_ECE | TCPHDR_CWR) != TCPHDR_ECE:
            tcp_ecn_mode_set(sk, TCP_ECN_DISABLED)
        return
    ace = tcp_accecn_ace(th)
    if ace in (0b000, 0b111):
        tcp_ecn_mode_set(sk, TCP_ECN_DISABLED)
    elif ace == 0b001 or (ace == 0b101 and not tcp_ecn_mode_pending(sk)):
        tcp_ecn_mode_set(sk, TCP_ECN_MODE_RFC3168)
    else:
        _accecn_rcv_synack(sk, skb)


def _accecn_rcv_synack(sk: tcp_sock, skb: sk_buff) -> None:
    """Both ends speak Accurate ECN.  The SYN-ACK itself counts, and our first two segments tell of it in the option."""
    tcp_ecn_mode_set(sk, TCP_ECN_MODE_ACCECN)
    ect = skb.cb.ip_dsfield & INET_ECN_MASK
    sk.syn_ect_rcv = sk.prev_ecnfield = ect
    option = sk.rx_opt.accecn
    if option is not None and sk.saw_accecn_opt < TCP_ACCECN_OPT_COUNTER_SEEN:
        tcp_accecn_saw_opt_fail_recv(sk, tcp_accecn_option_init(option))
    sk.accecn_opt_demand = 2
    if ect == INET_ECN_CE:
        sk.received_ce += 1
        sk.received_ce_pending += 1


def tcp_ecn_rcv_syn(sk: tcp_sock, skb: sk_buff, th: tcphdr) -> None:
    """Of two SYNs that crossed both have to offer the same; who offers accurately and gets a classic offer turns
    classic."""
    ace = tcp_accecn_ace(th)
    if tcp_ecn_mode_pending(sk):
        if not tcp_accecn_syn_requested(th):
            # Plain, or downgraded to RFC 3168.
            tcp_ecn_mode_set(sk, TCP_ECN_MODE_RFC3168)
        else:
            sk.syn_ect_rcv = sk.prev_ecnfield = skb.cb.ip_dsfield & INET_ECN_MASK
            tcp_ecn_mode_set(sk, TCP_ECN_MODE_ACCECN)
    if tcp_ecn_mode_rfc3168(sk) and ace & 0b011 != 0b011:
        tcp_ecn_mode_set(sk, TCP_ECN_DISABLED)


# -- buffers ------------------------------------------------------------------------------------------------------


def tcp_sndbuf_expand(sk: tcp_sock) -> None:
    """The send buffer follows cwnd: room for two windows of segments with their overhead."""
    per_mss = max(sk.rx_opt.mss_clamp, sk.mss_cache) + MAX_TCP_HEADER + 320
    per_mss = (1 << (per_mss - 1).bit_length()) + 256
    nr_segs = max(TCP_INIT_CWND, sk.snd_cwnd, sk.reordering + 1)
    ca_ops = sk.icsk_ca_ops
    factor = ca_ops.sndbuf_expand(sk) if ca_ops is not None and ca_ops.sndbuf_expand else 2
    sndmem = factor * nr_segs * per_mss
    if sk.sk_sndbuf < sndmem:
        sk.sk_sndbuf = min(sndmem, sk.sk_net.ipv4.sysctl_tcp_wmem[2])


def __tcp_grow_window(sk: tcp_sock, truesize: int, length: int) -> int:
    """How much the window may grow for a packet whose overhead is large: more, the better it is filled."""
    truesize = tcp_win_from_space(sk, truesize) >> 1
    window = tcp_win_from_space(sk, sk.sk_net.ipv4.sysctl_tcp_rmem[2]) >> 1
    while sk.rcv_ssthresh <= window:
        if truesize <= length:
            return 2 * sk.icsk_ack.rcv_mss
        truesize >>= 1
        window >>= 1
    return 0


def tcp_grow_window(sk: tcp_sock, skb: sk_buff) -> None:
    """Raise ``rcv_ssthresh``, which limits the window offered, as long as packets carry enough for their size."""
    room = min(sk.window_clamp, tcp_space(sk)) - sk.rcv_ssthresh
    if room <= 0 or tcp_under_memory_pressure(sk):
        return
    if tcp_win_from_space(sk, skb.truesize) <= skb.len:
        incr = 2 * sk.advmss
    else:
        incr = __tcp_grow_window(sk, skb.truesize, skb.len)
    if incr:
        incr = max(incr, 2 * skb.len)
        sk.rcv_ssthresh += min(room, incr)
        sk.icsk_ack.quick |= 1


def tcp_init_buffer_space(sk: tcp_sock) -> None:
    """Sizes at the moment of establishment.  The clamp keeps one segment of the buffer in reserve: 64088 with the
    default buffer of 131072 (measured)."""
    tcp_fixup_rcvbuf(sk)
    if not sk.sk_userlocks & SOCK_SNDBUF_LOCK:
        tcp_sndbuf_expand(sk)
    tcp_output.tcp_mstamp_refresh(sk)
    sk.rcvq_space.time = sk.tcp_mstamp
    sk.rcvq_space.seq = sk.copied_seq
    maxwin = tcp_full_space(sk)
    app_win = sk.sk_net.ipv4.sysctl_tcp_app_win
    advmss = sk.advmss
    if sk.window_clamp >= maxwin:
        sk.window_clamp = maxwin
        if app_win and maxwin > 4 * advmss:
            sk.window_clamp = max(maxwin - (maxwin >> app_win), 4 * advmss)
    if app_win and sk.window_clamp > 2 * advmss and sk.window_clamp + advmss > maxwin:
        sk.window_clamp = max(2 * advmss, maxwin - advmss)
    sk.rcv_ssthresh = min(sk.rcv_ssthresh, sk.window_clamp)
    sk.snd_cwnd_stamp = tcp_jiffies32(sk.sk_net)
    sk.rcvq_space.space = min(sk.rcv_ssthresh, sk.rcv_wnd, TCP_INIT_CWND * advmss)


def tcp_fixup_rcvbuf(sk: tcp_sock) -> None:
    """Older kernels raised sk_rcvbuf here to hold the initial window; since 4.19 the buffer is large enough from
    the start (tcp_rmem[1]) and nothing is left to do but to make sure."""
    if not sk.sk_userlocks & SOCK_RCVBUF_LOCK and not sk.sk_rcvbuf:
        sk.sk_rcvbuf = sk.sk_net.ipv4.sysctl_tcp_rmem[1]


def tcp_clamp_window(sk: tcp_sock) -> None:
    """The buffer overflowed: grow it if it may, else shrink the window that will be offered."""
    sk.icsk_ack.quick = 0
    ipv4 = sk.sk_net.ipv4
    rmem2 = ipv4.sysctl_tcp_rmem[2]
    roomy = not tcp_under_memory_pressure(sk) and ipv4.tcp_memory_allocated < ipv4.sysctl_tcp_mem[0]
    if sk.sk_rcvbuf < rmem2 and not sk.sk_userlocks & SOCK_RCVBUF_LOCK and roomy:
        sk.sk_rcvbuf = min(sk.sk_rmem_alloc, rmem2)
    if sk.sk_rmem_alloc > sk.sk_rcvbuf:
        sk.rcv_ssthresh = min(sk.window_clamp, 2 * sk.advmss)


def tcp_initialize_rcv_mss(sk: tcp_sock) -> None:
    """A careful first guess of the peer's segment size, so that ACKs come early rather than late."""
    hint = min(sk.advmss, sk.mss_cache, sk.rcv_wnd // 2, TCP_MSS_DEFAULT)
    sk.icsk_ack.rcv_mss = max(hint, TCP_MIN_MSS)


def tcp_rcv_rtt_update(tp: tcp_sock, sample: int, win_dep: bool) -> None:
    """Smooth the receiver's round trip estimate (us, scaled by 8); samples that depend on our own window only
    lower it.  Under the profile switch ``rcv_rtt_minimal`` any smaller sample does at once, and larger ones count only
    when the application has read all there is."""
    old = tp.rcv_rtt_est.rtt_us
    new = sample << 3
    minimal = tp.sk_net.profile.rcv_rtt_minimal
    if old and not (minimal and new < old):
        if minimal and tp.rcv_nxt != tp.copied_seq:
            return
        if win_dep:
            new = min(new, old)
        else:
            new = old - (old >> 3) + sample
    tp.rcv_rtt_est.rtt_us = new


def tcp_rcv_rtt_measure(tp: tcp_sock) -> None:
    """Without time stamps: the time in which one window's worth of data came."""
    est = tp.rcv_rtt_est
    if est.time:
        if before(tp.rcv_nxt, est.seq):
            return
        tcp_rcv_rtt_update(tp, max(tp.tcp_mstamp - est.time, 1), True)
    est.seq = (tp.rcv_nxt + tp.rcv_wnd) & MASK32
    est.time = tp.tcp_mstamp


def tcp_rcv_rtt_measure_ts(sk: tcp_sock, skb: sk_buff) -> None:
    """With time stamps: from a full segment's TSecr, once per new TSecr."""
    rx_opt = sk.rx_opt
    tsecr = rx_opt.rcv_tsecr
    if tsecr == sk.rcv_rtt_last_tsecr:
        return
    sk.rcv_rtt_last_tsecr = tsecr
    if (skb.cb.end_seq - skb.cb.seq) & MASK32 >= sk.icsk_ack.rcv_mss:
        delta = (sk.tcp_mstamp // 1000 + sk.tsoffset - tsecr) & MASK32
        if delta < 0x7FFFFFFF // 1000:
            tcp_rcv_rtt_update(sk, max(delta * 1000, 1000), False)


def tcp_rcv_space_adjust(sk: tcp_sock) -> None:
    """Dynamic right-sizing: called as the application reads; grows the buffer to twice of what was read in the last
    round trip, plus a margin for slow start."""
    tcp_output.tcp_mstamp_refresh(sk)
    rq = sk.rcvq_space
    elapsed = sk.tcp_mstamp - rq.time
    rtt_us = sk.rcv_rtt_est.rtt_us
    if not rtt_us or elapsed < rtt_us >> 3:
        return
    copied = (sk.copied_seq - rq.seq) & MASK32
    if copied > rq.space:
        if sk.sk_net.ipv4.sysctl_tcp_moderate_rcvbuf and not sk.sk_userlocks & SOCK_RCVBUF_LOCK:
            _grow_rcvbuf(sk, copied, rq.space)
        rq.space = copied
    rq.seq = sk.copied_seq
    rq.time = sk.tcp_mstamp


def _grow_rcvbuf(sk: tcp_sock, copied: int, space: int) -> None:
    rcvwin = 2 * copied + 16 * sk.advmss
    rcvwin += 2 * (rcvwin * (copied - space) // max(space, 1))
    rcvmem = SKB_TRUESIZE_OVERHEAD + sk.advmss + 256  # the kernel's MAX_TCP_HEADER
    while tcp_win_from_space(sk, rcvmem) < sk.advmss:
        rcvmem += 128
    rcvbuf = min(rcvwin // sk.advmss * rcvmem, sk.sk_net.ipv4.sysctl_tcp_rmem[2])
    if rcvbuf > sk.sk_rcvbuf:
        sk.sk_rcvbuf = rcvbuf
        sk.window_clamp = tcp_win_from_space(sk, rcvbuf)


# -- round trip and RTO (RFC 6298) --------------------------------------------------------------------------------


def tcp_rto_min(sk: tcp_sock) -> int:
    """Jiffies: the route's rto_min if it has one, else 200 ms."""
    dst = sk.sk_dst_cache
    if dst is not None and dst.metrics:
        metric = dst_metric(dst, RTAX_RTO_MIN)
        if metric:
            return metric * HZ // 1000 or 1
    return sk.icsk_rto_min


def tcp_rtt_estimator(sk: tcp_sock, mrtt_us: int) -> None:
    """Van Jacobson's estimator; the variance that counts is the largest of the last window and decays slowly, and a
    sample far below the average raises it less (so that a falling RTT does not raise the RTO)."""
    srtt = sk.srtt_us
    rto_min_us = tcp_output.tcp_rto_min_us(sk)
    if not srtt:
        sk.srtt_us = max(mrtt_us << 3, 1)
        sk.mdev_us = mrtt_us << 1
        sk.rttvar_us = sk.mdev_max_us = max(sk.mdev_us, rto_min_us)
        sk.rtt_seq = sk.snd_nxt
        return
    err = mrtt_us - (srtt >> 3)
    sk.srtt_us = max(srtt + err, 1)
    if err < 0:
        err = -err - (sk.mdev_us >> 2)
        if err > 0:
            err >>= 3
    else:
        err -= sk.mdev_us >> 2
    sk.mdev_us = mdev = sk.mdev_us + err
    if mdev > sk.mdev_max_us:
        sk.mdev_max_us = mdev
        if mdev > sk.rttvar_us:
            sk.rttvar_us = mdev
    if after(sk.snd_una, sk.rtt_seq):
        if sk.mdev_max_us < sk.rttvar_us:
            sk.rttvar_us -= (sk.rttvar_us - sk.mdev_max_us) >> 2
        sk.rtt_seq = sk.snd_nxt
        sk.mdev_max_us = rto_min_us


def tcp_update_pacing_rate(sk: tcp_sock) -> None:
    """Bytes per second at which cwnd goes out in one srtt, with headroom to grow; sizes TSO packets."""
    ipv4 = sk.sk_net.ipv4
    slow_start = sk.snd_cwnd < sk.snd_ssthresh // 2
    ratio = ipv4.sysctl_tcp_pacing_ss_ratio if slow_start else ipv4.sysctl_tcp_pacing_ca_ratio
    rate = sk.mss_cache * 8_000_000 * ratio // 100 * max(sk.snd_cwnd, sk.packets_out)
    if sk.srtt_us:
        rate //= sk.srtt_us
    sk.sk_pacing_rate = min(rate, sk.sk_max_pacing_rate)


def tcp_set_rto(sk: tcp_sock) -> None:
    rto = usecs_to_jiffies((sk.srtt_us >> 3) + sk.rttvar_us)
    sk.icsk_rto = rto if rto < TCP_RTO_MAX else TCP_RTO_MAX


def tcp_init_cwnd(tp: tcp_sock, dst: dst_entry | None) -> int:
    """The route's initial window, or ten segments."""
    cwnd = dst_metric(dst, RTAX_INITCWND) if dst is not None else 0
    return min(cwnd or TCP_INIT_CWND, tp.snd_cwnd_clamp)


def tcp_update_rtt_min(sk: tcp_sock, rtt_us: int, flag: int) -> None:
    wlen = sk.sk_net.ipv4.sysctl_tcp_min_rtt_wlen * HZ
    if flag & FLAG_ACK_MAYBE_DELAYED and rtt_us > sk.rtt_min.s[0][1]:
        # An ACK that may have been delayed says nothing new about the minimum.
        return
    minmax_running_min(sk.rtt_min, wlen, sk.sk_net.tcp_jiffies32, rtt_us or jiffies_to_usecs(1))


def tcp_ack_update_rtt(
    sk: tcp_sock, flag: int, seq_rtt_us: int, sack_rtt_us: int, ca_rtt_us: int, rs: rate_sample
) -> bool:
    """Take a sample if there is one: from a segment that was sent once (Karn), else from a SACKed one, else from the
    time stamp echo; whether there was."""
    if seq_rtt_us < 0:
        seq_rtt_us = sack_rtt_us
    rx_opt = sk.rx_opt
    if seq_rtt_us < 0 and rx_opt.saw_tstamp and rx_opt.rcv_tsecr and flag & FLAG_ACKED:
        delta = (sk.tcp_mstamp // 1000 + sk.tsoffset - rx_opt.rcv_tsecr) & MASK32
        if delta < 0x7FFFFFFF // 1000:
            seq_rtt_us = ca_rtt_us = max(delta, 1) * 1000
    rs.rtt_us = ca_rtt_us
    if seq_rtt_us < 0:
        return False
    # A clock that did not move (virtual time) still is a sample: the shortest.
    seq_rtt_us = seq_rtt_us or 1
    tcp_update_rtt_min(sk, ca_rtt_us, flag)
    tcp_rtt_estimator(sk, seq_rtt_us)
    tcp_set_rto(sk)
    sk.icsk_backoff = 0
    return True


def tcp_synack_rtt_meas(sk: tcp_sock, req: tcp_request_sock | None) -> None:
    """The handshake's round trip; none if the SYN-ACK was sent again (unless time stamps tell)."""
    rtt_us = -1
    if req is not None and not req.num_retrans and req.snt_synack:
        rtt_us = skb_mstamp_us_delta(sk.sk_net.clock.now_ns() // 1000, req.snt_synack)
    tcp_ack_update_rtt(sk, FLAG_SYN_ACKED, rtt_us, -1, rtt_us, rate_sample())


def skb_mstamp_us_delta(t1: int, t0: int) -> int:
    """Microseconds from t0 to t1, not negative."""
    return max(t1 - t0, 0)


# -- recovery state -----------------------------------------------------------------------------------------------


def tcp_enter_loss(sk: tcp_sock) -> None:
    """The retransmission timer fired: everything outstanding counts as lost, cwnd starts again from one."""
    ipv4 = sk.sk_net.ipv4
    new_recovery = sk.icsk_ca_state < TCP_CA_Recovery
    tcp_timeout_mark_lost(sk)
    if (
        sk.icsk_ca_state <= TCP_CA_Disorder
        or not after(sk.high_seq, sk.snd_una)
        or (sk.icsk_ca_state == TCP_CA_Loss and not sk.icsk_retransmits)
    ):
        sk.prior_ssthresh = tcp_current_ssthresh(sk)
        sk.prior_cwnd = sk.snd_cwnd
        sk.snd_ssthresh = sk.icsk_ca_ops.ssthresh(sk)
        tcp_ca_event(sk, CA_EVENT_LOSS)
        tcp_init_undo(sk)
    sk.snd_cwnd = tcp_packets_in_flight(sk) + 1
    sk.snd_cwnd_cnt = 0
    sk.snd_cwnd_stamp = tcp_jiffies32(sk.sk_net)
    if sk.icsk_ca_state <= TCP_CA_Disorder and sk.sacked_out >= ipv4.sysctl_tcp_reordering:
        sk.reordering = min(sk.reordering, ipv4.sysctl_tcp_reordering)
    tcp_cong.tcp_set_ca_state(sk, TCP_CA_Loss)
    sk.high_seq = sk.snd_nxt
    tcp_ecn_queue_cwr(sk)
    # F-RTO (RFC 5682), unless this is the second timeout of the same loss.
    sk.frto = bool(
        ipv4.sysctl_tcp_frto and (new_recovery or sk.icsk_retransmits) and not sk.icsk_mtup.probe_size
    )


def tcp_timeout_mark_lost(sk: tcp_sock) -> None:
    """After a timeout: mark all as lost; where RACK is sure that later packets are too young, only the first.

    A first packet that is SACKed means that the receiver dropped what it had: forget the scoreboard."""
    head = sk.tcp_rtx_queue[0] if sk.tcp_rtx_queue else None
    is_reneg = head is not None and head.cb.sacked & TCPCB_SACKED_ACKED != 0
    if is_reneg:
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPSACKRENEGING)
        sk.sacked_out = 0
        sk.highest_sack = None
    elif tcp_is_reno(sk):
        tcp_reset_reno_sack(sk)
    for skb in sk.tcp_rtx_queue:
        if is_reneg:
            skb.cb.sacked &= ~TCPCB_SACKED_ACKED
        elif skb is not head and tcp_is_rack(sk) and tcp_recovery.tcp_rack_skb_timeout(sk, skb, 0) > 0:
            continue
        tcp_mark_skb_lost(sk, skb)


def tcp_is_rack(sk: tcp_sock) -> bool:
    net = sk.sk_net
    return tcp_is_sack(sk) and bool(net.ipv4.sysctl_tcp_recovery & 1 or net.profile.rack_always)


def tcp_mark_skb_lost(sk: tcp_sock, skb: sk_buff) -> None:
    """The packet, or its retransmission, is judged lost."""
    cb = skb.cb
    sacked = cb.sacked
    if sacked & TCPCB_SACKED_ACKED:
        return
    segs = cb.tcp_gso_segs
    if sacked & TCPCB_LOST:
        if sacked & TCPCB_SACKED_RETRANS:
            cb.sacked &= ~TCPCB_SACKED_RETRANS
            sk.retrans_out -= segs
            NET_ADD_STATS(sk.sk_net, LINUX_MIB_TCPLOSTRETRANSMIT, segs)
            sk.lost += segs
    else:
        sk.lost_out += segs
        cb.sacked |= TCPCB_LOST
        sk.lost += segs
        if sacked & TCPCB_SACKED_RETRANS:
            cb.sacked &= ~TCPCB_SACKED_RETRANS
            sk.retrans_out -= segs


def tcp_clear_retrans(tp: tcp_sock) -> None:
    """Nothing is in flight, and no timeout was ever met."""
    tp.retrans_out = tp.lost_out = tp.sacked_out = tp.undo_marker = 0
    tp.undo_retrans = -1
    tp.rto_stamp = tp.total_rto = tp.total_rto_recoveries = tp.total_rto_time = 0


def tcp_init_undo(tp: tcp_sock) -> None:
    tp.undo_marker = tp.snd_una
    tp.undo_retrans = tp.retrans_out or -1


def tcp_check_sack_reneging(sk: tcp_sock, flag: int) -> bool:
    """A SACKed packet at the head of the queue: the receiver may have dropped it.  Give it half a round trip (10 ms
    at least) before believing so."""
    if flag & FLAG_SACK_RENEGING and flag & FLAG_SND_UNA_ADVANCED:
        delay = max(usecs_to_jiffies(sk.srtt_us >> 4), HZ // 100)
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, delay, TCP_RTO_MAX)
        return True
    return False


def tcp_dupack_heuristics(tp: tcp_sock) -> int:
    return tp.sacked_out + 1


def tcp_time_to_recover(sk: tcp_sock, flag: int) -> bool:
    """Enter Recovery: something is marked lost, or (without RACK) enough duplicate ACKs came."""
    if sk.lost_out:
        return True
    return not tcp_is_rack(sk) and tcp_dupack_heuristics(sk) > sk.reordering


def tcp_update_scoreboard(sk: tcp_sock, fast_rexmit: bool) -> None:
    """SACK without RACK (tcp_recovery=0): RFC 6675's rule, ``reordering`` segments SACKed above."""
    if not tcp_is_sack(sk):
        return
    sacked_upto = sk.sacked_out - sk.reordering
    if sacked_upto >= 0:
        tcp_mark_head_lost(sk, sacked_upto, False)
    elif fast_rexmit:
        tcp_mark_head_lost(sk, 1, True)


def tcp_mark_head_lost(sk: tcp_sock, packets: int, mark_head: bool) -> None:
    seen = 0
    loss_high = sk.snd_nxt if not mark_head else tcp_highest_sack_seq(sk)
    for skb in sk.tcp_rtx_queue:
        if after(skb.cb.end_seq, loss_high):
            break
        if skb.cb.sacked & TCPCB_SACKED_ACKED:
            seen += skb.cb.tcp_gso_segs
        if seen > packets:
            break
        if not skb.cb.sacked & TCPCB_LOST:
            tcp_mark_skb_lost(sk, skb)
        if mark_head:
            break


def tcp_skb_spurious_retrans(tp: tcp_sock, skb: sk_buff) -> bool:
    """Whether the ACK's time stamp echo is older than the packet's retransmission (Eifel, RFC 3522)."""
    return bool(skb.cb.sacked & TCPCB_RETRANS) and tcp_tsopt_ecr_before(
        tp, skb.skb_mstamp_ns // 1_000_000 & MASK32
    )


def tcp_try_undo_spurious_syn(sk: tcp_sock) -> None:
    """The SYN-ACK was resent, but the ACK echoes the first one's time stamp: it was not lost."""
    stamp = sk.retrans_stamp
    rx_opt = sk.rx_opt
    if sk.undo_marker and stamp and rx_opt.saw_tstamp and rx_opt.rcv_tsecr == (stamp + sk.tsoffset) & MASK32:
        sk.undo_marker = 0


def tcp_simple_retransmit(sk: tcp_sock) -> None:
    """The path MTU shrank (an ICMP error said so): what is larger than a segment may now be is lost, without any
    congestion.  A SYN with data is two packets in the queue, of which neither need be too large: both are lost."""
    mss = -1 if sk.syn_data and sk.sk_state == TCP_SYN_SENT else tcp_output.tcp_current_mss(sk)
    for skb in sk.tcp_rtx_queue:
        if (skb.cb.tcp_gso_size or skb.len) > mss:
            tcp_mark_skb_lost(sk, skb)
    if not sk.lost_out:
        return
    if tcp_is_reno(sk):
        tcp_limit_reno_sacked(sk)
    tcp_non_congestion_loss_retransmit(sk)


def tcp_non_congestion_loss_retransmit(sk: tcp_sock) -> None:
    """Send again what is marked lost for another reason than congestion: the window stays as it is."""
    if sk.icsk_ca_state != TCP_CA_Loss:
        sk.high_seq = sk.snd_nxt
        sk.snd_ssthresh = tcp_current_ssthresh(sk)
        sk.prior_ssthresh = 0
        sk.undo_marker = 0
        tcp_cong.tcp_set_ca_state(sk, TCP_CA_Loss)
    tcp_output.tcp_xmit_retransmit_queue(sk)


def tcp_tsopt_ecr_before(tp: tcp_sock, when: int) -> bool:
    rx_opt = tp.rx_opt
    return bool(rx_opt.saw_tstamp and rx_opt.rcv_tsecr) and before(
        rx_opt.rcv_tsecr, (when + tp.tsoffset) & MASK32
    )


def tcp_packet_delayed(tp: tcp_sock) -> bool:
    """Nothing was retransmitted, or the ACK is older than the first retransmission: it was for the original."""
    return bool(tp.retrans_stamp and tcp_tsopt_ecr_before(tp, tp.retrans_stamp))


def tcp_any_retrans_done(sk: tcp_sock) -> bool:
    if sk.retrans_out:
        return True
    return bool(sk.tcp_rtx_queue) and sk.tcp_rtx_queue[0].cb.sacked & TCPCB_EVER_RETRANS != 0


def tcp_retrans_stamp_cleanup(sk: tcp_sock) -> None:
    if not tcp_any_retrans_done(sk):
        sk.retrans_stamp = 0


def tcp_undo_cwnd_reduction(sk: tcp_sock, unmark_loss: bool) -> None:
    """The reduction was a mistake: back to the window of before."""
    if unmark_loss:
        for skb in sk.tcp_rtx_queue:
            skb.cb.sacked &= ~TCPCB_LOST
        sk.lost_out = 0
    if sk.prior_ssthresh:
        sk.snd_cwnd = sk.icsk_ca_ops.undo_cwnd(sk)
        if sk.prior_ssthresh > sk.snd_ssthresh:
            sk.snd_ssthresh = sk.prior_ssthresh
            tcp_ecn_withdraw_cwr(sk)
    sk.snd_cwnd_stamp = tcp_jiffies32(sk.sk_net)
    sk.undo_marker = 0
    sk.rack.advanced = True


def tcp_may_undo(tp: tcp_sock) -> bool:
    return bool(tp.undo_marker) and (not tp.undo_retrans or tcp_packet_delayed(tp))


def tcp_is_non_sack_preventing_reopen(sk: tcp_sock) -> bool:
    """NewReno without SACK stays in recovery until something above high_seq is acknowledged, lest its own duplicates
    look like a new loss."""
    if sk.snd_una == sk.high_seq and tcp_is_reno(sk):
        if not tcp_any_retrans_done(sk):
            sk.retrans_stamp = 0
        return True
    return False


def tcp_try_undo_recovery(sk: tcp_sock) -> bool:
    """high_seq is acknowledged: undo if nothing was really lost.  Returns whether to stay in the state."""
    if tcp_may_undo(sk):
        mib = LINUX_MIB_TCPLOSSUNDO if sk.icsk_ca_state == TCP_CA_Loss else LINUX_MIB_TCPFULLUNDO
        tcp_undo_cwnd_reduction(sk, False)
        NET_INC_STATS(sk.sk_net, mib)
    if tcp_is_non_sack_preventing_reopen(sk):
        return True
    tcp_cong.tcp_set_ca_state(sk, TCP_CA_Open)
    return False


def tcp_try_undo_dsack(sk: tcp_sock) -> bool:
    """Every retransmission was reported as a duplicate."""
    if sk.undo_marker and not sk.undo_retrans:
        tcp_undo_cwnd_reduction(sk, False)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPDSACKUNDO)
        return True
    return False


def tcp_try_undo_loss(sk: tcp_sock, frto_undo: bool) -> bool:
    """A timeout that need not have been."""
    if not frto_undo and not tcp_may_undo(sk):
        return False
    tcp_undo_cwnd_reduction(sk, True)
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPLOSSUNDO)
    if frto_undo:
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPSPURIOUSRTOS)
    sk.icsk_retransmits = 0
    if tcp_is_non_sack_preventing_reopen(sk):
        return True
    if frto_undo or tcp_is_sack(sk):
        tcp_cong.tcp_set_ca_state(sk, TCP_CA_Open)
    return True


def tcp_init_cwnd_reduction(sk: tcp_sock) -> None:
    """Start PRR (RFC 6937): from now on cwnd follows what is delivered, down to ssthresh."""
    sk.high_seq = sk.snd_nxt
    sk.tlp_high_seq = 0
    sk.snd_cwnd_cnt = 0
    sk.prior_cwnd = sk.snd_cwnd
    sk.prr_delivered = 0
    sk.prr_out = 0
    sk.snd_ssthresh = sk.icsk_ca_ops.ssthresh(sk)
    tcp_ecn_queue_cwr(sk)


def tcp_cwnd_reduction(sk: tcp_sock, newly_acked_sacked: int, newly_lost: int, flag: int) -> None:
    """RFC 6937 with the safe bound: proportional while in flight exceeds ssthresh, then slow start back to it."""
    if newly_acked_sacked <= 0 or not sk.prior_cwnd:
        return
    in_flight = tcp_packets_in_flight(sk)
    delta = sk.snd_ssthresh - in_flight
    sk.prr_delivered += newly_acked_sacked
    if delta < 0:
        dividend = sk.snd_ssthresh * sk.prr_delivered + sk.prior_cwnd - 1
        sndcnt = dividend // sk.prior_cwnd - sk.prr_out
    else:
        sndcnt = max(sk.prr_delivered - sk.prr_out, newly_acked_sacked)
        if flag & FLAG_SND_UNA_ADVANCED and not newly_lost:
            sndcnt += 1
        sndcnt = min(delta, sndcnt)
    # The first retransmission always may go.
    sndcnt = max(sndcnt, 0 if sk.prr_out else 1)
    sk.snd_cwnd = in_flight + sndcnt


def tcp_end_cwnd_reduction(sk: tcp_sock) -> None:
    if sk.icsk_ca_ops.cong_control:
        return
    if sk.snd_ssthresh < TCP_INFINITE_SSTHRESH and (sk.icsk_ca_state == TCP_CA_CWR or sk.undo_marker):
        sk.snd_cwnd = sk.snd_ssthresh
        sk.snd_cwnd_stamp = tcp_jiffies32(sk.sk_net)
    tcp_ca_event(sk, CA_EVENT_COMPLETE_CWR)


def tcp_enter_cwr(sk: tcp_sock) -> None:
    """ECN or a full local queue: reduce without a loss."""
    sk.prior_ssthresh = 0
    if sk.icsk_ca_state < TCP_CA_CWR:
        sk.undo_marker = 0
        tcp_init_cwnd_reduction(sk)
        tcp_cong.tcp_set_ca_state(sk, TCP_CA_CWR)


def tcp_try_keep_open(sk: tcp_sock) -> None:
    state = TCP_CA_Disorder if tcp_left_out(sk) or tcp_any_retrans_done(sk) else TCP_CA_Open
    if sk.icsk_ca_state != state:
        tcp_cong.tcp_set_ca_state(sk, state)
        sk.high_seq = sk.snd_nxt


def tcp_try_to_open(sk: tcp_sock, flag: int) -> None:
    if not tcp_any_retrans_done(sk):
        sk.retrans_stamp = 0
    if flag & FLAG_ECE:
        tcp_enter_cwr(sk)
    if sk.icsk_ca_state != TCP_CA_CWR:
        tcp_try_keep_open(sk)


def tcp_enter_recovery(sk: tcp_sock, ece_ack: bool) -> None:
    """Fast retransmit starts here."""
    tcp_retrans_stamp_cleanup(sk)
    sack = tcp_is_sack(sk)
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPSACKRECOVERY if sack else LINUX_MIB_TCPRENORECOVERY)
    sk.prior_ssthresh = 0
    tcp_init_undo(sk)
    if not tcp_in_cwnd_reduction(sk):
        if not ece_ack:
            sk.prior_ssthresh = tcp_current_ssthresh(sk)
        tcp_init_cwnd_reduction(sk)
    tcp_cong.tcp_set_ca_state(sk, TCP_CA_Recovery)


def tcp_update_rto_time(sk: tcp_sock) -> None:
    """The recovery from a timeout is over."""
    if sk.rto_stamp:
        sk.total_rto_time += (tcp_time_stamp_ms(sk) - sk.rto_stamp) & MASK32
        sk.rto_stamp = 0


def tcp_process_loss(sk: tcp_sock, flag: int, num_dupack: int) -> int:
    """An ACK in the Loss state: F-RTO's two tests, and the end of the state; returns the REXMIT_* to do."""
    recovered = not before(sk.snd_una, sk.high_seq)
    if flag & FLAG_SND_UNA_ADVANCED and tcp_try_undo_loss(sk, False):
        return REXMIT_NONE
    if sk.frto:
        # Step 3.b: an original was acknowledged that came before any retransmission.
        if flag & FLAG_ORIG_SACK_ACKED and tcp_try_undo_loss(sk, True):
            return REXMIT_NONE
        if after(sk.snd_nxt, sk.high_seq):
            if flag & FLAG_DATA_SACKED or num_dupack:
                sk.frto = False
        elif flag & FLAG_SND_UNA_ADVANCED and not recovered:
            sk.high_seq = sk.snd_nxt
            # Step 2.b: send new data, whose ACKs tell whether the timeout was real.
            if sk.sk_write_queue and after(tcp_wnd_end(sk), sk.snd_nxt):
                return REXMIT_NEW
            sk.frto = False
    if recovered:
        tcp_try_undo_recovery(sk)
        return REXMIT_NONE
    if tcp_is_reno(sk):
        if after(sk.snd_nxt, sk.high_seq) and num_dupack:
            tcp_add_reno_sack(sk, num_dupack, False)
        elif flag & FLAG_SND_UNA_ADVANCED:
            tcp_reset_reno_sack(sk)
    return REXMIT_LOST


def tcp_force_fast_retransmit(sk: tcp_sock) -> bool:
    return after(tcp_highest_sack_seq(sk), (sk.snd_una + sk.reordering * sk.mss_cache) & MASK32)


def tcp_try_undo_partial(sk: tcp_sock, prior_snd_una: int) -> bool:
    """A partial ACK in Recovery that was for an original: it was reordering, not loss."""
    if sk.undo_marker and tcp_packet_delayed(sk):
        tcp_check_sack_reordering(sk, prior_snd_una, True)
        if sk.retrans_out:
            return True
        if not tcp_any_retrans_done(sk):
            sk.retrans_stamp = 0
        tcp_undo_cwnd_reduction(sk, True)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPPARTIALUNDO)
        tcp_try_keep_open(sk)
    return False


def tcp_identify_packet_loss(sk: tcp_sock, flag: int) -> int:
    """Mark what is lost by now; returns the flags, with FLAG_LOST_RETRANS and without the timer flag as needed."""
    if not sk.tcp_rtx_queue:
        return flag
    if tcp_is_reno(sk):
        tcp_recovery.tcp_newreno_mark_lost(sk, bool(flag & FLAG_SND_UNA_ADVANCED))
    elif tcp_is_rack(sk):
        prior_retrans = sk.retrans_out
        if tcp_recovery.tcp_rack_mark_lost(sk):
            flag &= ~FLAG_SET_XMIT_TIMER
        if prior_retrans > sk.retrans_out:
            flag |= FLAG_LOST_RETRANS
    return flag


def tcp_fastretrans_alert(sk: tcp_sock, prior_snd_una: int, num_dupack: int, flag: int) -> tuple[int, int]:
    """The state machine of loss recovery, on each ACK that is not plain progress in Open; returns the flags and
    which retransmission is due (REXMIT_*)."""
    do_lost = bool(num_dupack) or bool(flag & FLAG_DATA_SACKED and tcp_force_fast_retransmit(sk))
    if not sk.packets_out and sk.sacked_out:
        sk.sacked_out = 0
    if flag & FLAG_ECE:
        sk.prior_ssthresh = 0
    if tcp_check_sack_reneging(sk, flag):
        return flag & ~FLAG_SET_XMIT_TIMER, REXMIT_NONE
    if sk.icsk_ca_state == TCP_CA_Open:
        sk.retrans_stamp = 0
    elif not before(sk.snd_una, sk.high_seq):
        if sk.icsk_ca_state == TCP_CA_CWR:
            if sk.snd_una != sk.high_seq:
                tcp_end_cwnd_reduction(sk)
                tcp_cong.tcp_set_ca_state(sk, TCP_CA_Open)
        elif sk.icsk_ca_state == TCP_CA_Recovery:
            if tcp_is_reno(sk):
                tcp_reset_reno_sack(sk)
            if tcp_try_undo_recovery(sk):
                return flag, REXMIT_NONE
            tcp_end_cwnd_reduction(sk)
    state = sk.icsk_ca_state
    fast_rexmit = False
    if state == TCP_CA_Recovery:
        if not flag & FLAG_SND_UNA_ADVANCED:
            if tcp_is_reno(sk):
                tcp_add_reno_sack(sk, num_dupack, bool(flag & FLAG_ECE))
        elif tcp_try_undo_partial(sk, prior_snd_una):
            return flag, REXMIT_NONE
        if tcp_try_undo_dsack(sk):
            tcp_try_to_open(sk, flag)
        flag = tcp_identify_packet_loss(sk, flag)
        if sk.icsk_ca_state != TCP_CA_Recovery:
            if not tcp_time_to_recover(sk, flag):
                return flag, REXMIT_NONE
            tcp_enter_recovery(sk, bool(flag & FLAG_ECE))
    else:
        if state == TCP_CA_Loss:
            rexmit = tcp_process_loss(sk, flag, num_dupack)
            if sk.icsk_ca_state != TCP_CA_Loss:
                tcp_update_rto_time(sk)
            if sk.icsk_ca_state != TCP_CA_Loss or rexmit == REXMIT_LOST:
                flag = tcp_identify_packet_loss(sk, flag)
            if not (sk.icsk_ca_state == TCP_CA_Open or (flag & FLAG_LOST_RETRANS)):
                return flag, rexmit
            if sk.icsk_ca_state == TCP_CA_Loss:
                return flag, rexmit
        if tcp_is_reno(sk):
            if flag & FLAG_SND_UNA_ADVANCED:
                tcp_reset_reno_sack(sk)
            tcp_add_reno_sack(sk, num_dupack, bool(flag & FLAG_ECE))
        if sk.icsk_ca_state <= TCP_CA_Disorder:
            tcp_try_undo_dsack(sk)
        flag = tcp_identify_packet_loss(sk, flag)
        if not tcp_time_to_recover(sk, flag):
            tcp_try_to_open(sk, flag)
            return flag, REXMIT_NONE
        tcp_enter_recovery(sk, bool(flag & FLAG_ECE))
        fast_rexmit = True
    if not tcp_is_rack(sk) and do_lost:
        tcp_update_scoreboard(sk, fast_rexmit)
    return flag, REXMIT_LOST


# -- duplicate ACKs without SACK (RFC 6582) -----------------------------------------------------------------------


def tcp_limit_reno_sacked(sk: tcp_sock) -> bool:
    """sacked_out stands for duplicate ACKs; one packet at least must be missing."""
    holes = min(max(sk.lost_out, 1), sk.packets_out)
    if sk.sacked_out + holes > sk.packets_out:
        sk.sacked_out = sk.packets_out - holes
        return True
    return False


def tcp_check_reno_reordering(sk: tcp_sock, addend: int) -> None:
    if not tcp_limit_reno_sacked(sk):
        return
    sk.reordering = min(sk.packets_out + addend, sk.sk_net.ipv4.sysctl_tcp_max_reordering)
    sk.reord_seen += 1
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPRENOREORDER)


def tcp_add_reno_sack(sk: tcp_sock, num_dupack: int, ece_ack: bool) -> None:
    if num_dupack:
        prior = sk.sacked_out
        sk.sacked_out += num_dupack
        tcp_check_reno_reordering(sk, 0)
        if sk.sacked_out > prior:
            tcp_count_delivered(sk, sk.sacked_out - prior, ece_ack)


def tcp_remove_reno_sacks(sk: tcp_sock, acked: int, ece_ack: bool) -> None:
    """A cumulative ACK: one of the segments filled the hole, the others were the duplicates."""
    if acked > 0:
        tcp_count_delivered(sk, max(acked - sk.sacked_out, 1), ece_ack)
        sk.sacked_out = 0 if acked - 1 >= sk.sacked_out else sk.sacked_out - (acked - 1)
    tcp_check_reno_reordering(sk, acked)


def tcp_reset_reno_sack(tp: tcp_sock) -> None:
    tp.sacked_out = 0


# -- SACK (RFC 2018, 2883) ----------------------------------------------------------------------------------------


def tcp_count_delivered(tp: tcp_sock, delivered: int, ece_ack: bool) -> None:
    tp.delivered += delivered
    if ece_ack:
        tp.delivered_ce += delivered


def tcp_highest_sack_seq(tp: tcp_sock) -> int:
    """The end of the highest SACKed packet; snd_una if nothing is SACKed."""
    if not tp.sacked_out or tp.highest_sack is None:
        return tp.snd_una
    return tp.highest_sack


def tcp_check_sack_reordering(sk: tcp_sock, low_seq: int, ts: bool) -> None:
    """Something below the highest SACK arrived without having been resent: the network reorders by this much."""
    fack = tcp_highest_sack_seq(sk)
    if not before(low_seq, fack):
        return
    metric = (fack - low_seq) & MASK32
    mss = sk.mss_cache
    if metric > sk.reordering * mss and mss:
        sk.reordering = min((metric + mss - 1) // mss, sk.sk_net.ipv4.sysctl_tcp_max_reordering)
    sk.reord_seen += 1
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPTSREORDER if ts else LINUX_MIB_TCPSACKREORDER)


def tcp_is_sackblock_valid(tp: tcp_sock, is_dsack: bool, start_seq: int, end_seq: int) -> bool:
    """A block lies inside what is outstanding; a DSACK may lie below, within the largest window."""
    if after(end_seq, tp.snd_nxt) or not before(start_seq, end_seq):
        return False
    if not before(start_seq, tp.snd_nxt):
        return False
    if after(start_seq, tp.snd_una):
        return True
    if not is_dsack or not tp.undo_marker:
        return False
    if after(end_seq, tp.snd_una):
        return False
    if not before(start_seq, tp.undo_marker):
        return True
    if not after(end_seq, tp.undo_marker):
        return False
    return not before(start_seq, (end_seq - tp.max_window) & MASK32)


def tcp_dsack_seen(tp: tcp_sock, start_seq: int, end_seq: int, state: tcp_sacktag_state) -> int:
    """Count a DSACK; returns the segments it covers, 0 for one that is not worth believing."""
    seq_len = (end_seq - start_seq) & MASK32
    if seq_len > tp.max_window:
        return 0
    mss = tp.mss_cache
    dup_segs = max((seq_len + mss - 1) // mss, 1) if seq_len > mss else 1
    if tp.tlp_high_seq and tp.tlp_high_seq == end_seq:
        state.flag |= FLAG_DSACK_TLP
    tp.dsack_dups += dup_segs
    if tp.dsack_dups > tp.total_retrans:
        return 0
    tp.rx_opt.sack_ok |= TCP_DSACK_SEEN
    if tp.reord_seen and not state.flag & FLAG_DSACK_TLP:
        tp.rack.dsack_seen = True
    state.flag |= FLAG_DSACKING_ACK
    state.sack_delivered += dup_segs
    return dup_segs


def tcp_check_dsack(
    sk: tcp_sock, ack_seq: int, blocks: list[tuple[int, int]], prior_snd_una: int, state: tcp_sacktag_state
) -> bool:
    """Whether the first block reports a duplicate (RFC 2883): below the ACK, or inside the second block."""
    net = sk.sk_net
    start, end = blocks[0]
    if before(start, ack_seq):
        NET_INC_STATS(net, LINUX_MIB_TCPDSACKRECV)
    elif len(blocks) > 1 and not after(end, blocks[1][1]) and not before(start, blocks[1][0]):
        NET_INC_STATS(net, LINUX_MIB_TCPDSACKOFORECV)
    else:
        return False
    dup_segs = tcp_dsack_seen(sk, start, end, state)
    if not dup_segs:
        NET_INC_STATS(net, LINUX_MIB_TCPDSACKIGNOREDDUBIOUS)
        return False
    NET_ADD_STATS(net, LINUX_MIB_TCPDSACKRECVSEGS, dup_segs)
    if (
        sk.undo_marker
        and sk.undo_retrans > 0
        and not after(end, prior_snd_una)
        and after(end, sk.undo_marker)
    ):
        sk.undo_retrans = max(0, sk.undo_retrans - dup_segs)
    return True


def tcp_match_skb_to_sack(sk: tcp_sock, skb: sk_buff, start_seq: int, end_seq: int) -> sk_buff | None:
    """Split a packet that a block covers in part, in whole segments; returns the part inside, or None."""
    cb = skb.cb
    mss = cb.tcp_gso_size or skb.len
    if not cb.tcp_gso_size or mss <= 0:
        return None
    if before(cb.seq, start_seq):
        cut = ((start_seq - cb.seq) & MASK32) + mss - 1
        cut -= cut % mss
        if cut >= skb.len or tcp_output.tcp_fragment(sk, sk.tcp_rtx_queue, skb, cut, mss):
            return None
        queue = sk.tcp_rtx_queue
        skb = queue[queue.index(skb) + 1]
        cb = skb.cb
        if before(cb.seq, start_seq):
            return None
    if after(cb.end_seq, end_seq):
        cut = (end_seq - cb.seq) & MASK32
        cut -= cut % mss
        if not cut or cut & _SIGN or tcp_output.tcp_fragment(sk, sk.tcp_rtx_queue, skb, cut, mss):
            return None
    return skb


def tcp_sacktag_one(sk: tcp_sock, state: tcp_sacktag_state, skb: sk_buff, dup_sack: bool) -> None:
    """Mark one packet as SACKed and move it on the scoreboard."""
    cb = skb.cb
    sacked = cb.sacked
    if dup_sack and sacked & TCPCB_RETRANS:
        if sk.undo_marker and sk.undo_retrans > 0 and after(cb.end_seq, sk.undo_marker):
            sk.undo_retrans = max(0, sk.undo_retrans - cb.tcp_gso_segs)
        if sacked & TCPCB_SACKED_ACKED and before(cb.seq, state.reord):
            state.reord = cb.seq
    if not after(cb.end_seq, sk.snd_una) or sacked & TCPCB_SACKED_ACKED:
        return
    xmit_time = skb.skb_mstamp_ns // 1000
    tcp_recovery.tcp_rack_advance(sk, sacked, cb.end_seq, xmit_time)
    pcount = cb.tcp_gso_segs
    if sacked & TCPCB_SACKED_RETRANS:
        if sacked & TCPCB_LOST:
            sacked &= ~(TCPCB_LOST | TCPCB_SACKED_RETRANS)
            sk.lost_out -= pcount
            sk.retrans_out -= pcount
    else:
        if not sacked & TCPCB_RETRANS:
            # New data below the highest SACK: reordering, unless it was resent.
            if before(cb.seq, tcp_highest_sack_seq(sk)) and before(cb.seq, state.reord):
                state.reord = cb.seq
            if not after(cb.end_seq, sk.high_seq):
                state.flag |= FLAG_ORIG_SACK_ACKED
            if not state.first_sackt:
                state.first_sackt = xmit_time
            state.last_sackt = xmit_time
        if sacked & TCPCB_LOST:
            sacked &= ~TCPCB_LOST
            sk.lost_out -= pcount
    cb.sacked = sacked | TCPCB_SACKED_ACKED
    state.flag |= FLAG_DATA_SACKED
    sk.sacked_out += pcount
    state.sack_delivered += pcount
    state.delivered_bytes += (cb.end_seq - cb.seq) & MASK32
    if sk.highest_sack is None or after(cb.end_seq, sk.highest_sack):
        sk.highest_sack = cb.end_seq
    tcp_rate.tcp_rate_skb_delivered(sk, skb, state.rate)
    sk.tsorted_sent_queue.pop(skb, None)


def tcp_sacktag_skip(sk: tcp_sock, skip_to_seq: int) -> int:
    """Where in the retransmit queue the first packet stands that ends behind ``skip_to_seq`` (the kernel: the packet,
    found in its tree)."""
    base = sk.snd_una
    wanted = (skip_to_seq - base) & MASK32
    if wanted >= _SIGN:
        return 0
    queue = sk.tcp_rtx_queue
    low, high = 0, len(queue)
    while low < high:
        middle = (low + high) // 2
        if (queue[middle].cb.end_seq - base) & MASK32 > wanted:
            high = middle
        else:
            low = middle + 1
    return low


def tcp_sacktag_walk(sk: tcp_sock, state: tcp_sacktag_state, start: int, end: int, dup_sack: bool) -> None:
    """Mark the packets that a block covers; one that it covers in part is split, in whole segments."""
    queue = sk.tcp_rtx_queue
    at = tcp_sacktag_skip(sk, start)
    while at < len(queue):
        skb = queue[at]
        cb = skb.cb
        if not before(cb.seq, end):
            break
        at += 1
        inside: sk_buff | None = skb
        if before(cb.seq, start) or after(cb.end_seq, end):
            if cb.sacked & TCPCB_SACKED_ACKED:
                continue
            inside = tcp_match_skb_to_sack(sk, skb, start, end)
        if inside is not None:
            tcp_sacktag_one(sk, state, inside, dup_sack)


def _sort_blocks(blocks: list[tuple[int, int]], found_dup: bool, base: int) -> list[tuple[int, int]]:
    """In order of sequence, a DSACK first, so that the scoreboard fills from below: a block that is news is no
    reordering just because the one above it is news of the same ACK."""
    rest = sorted(blocks[found_dup:], key=lambda block: (block[0] - base) & MASK32)
    return blocks[:found_dup] + rest


def tcp_sacktag_write_queue(sk: tcp_sock, skb: sk_buff, prior_snd_una: int, state: tcp_sacktag_state) -> int:
    """Take the SACK blocks of an ACK into the scoreboard; returns flags."""
    blocks = sk.rx_opt.sack_blocks
    state.flag = 0
    state.reord = sk.snd_nxt
    if not sk.sacked_out:
        sk.highest_sack = None
    ack = skb.cb.ack_seq
    found_dup = tcp_check_dsack(sk, ack, blocks, prior_snd_una, state)
    if before(ack, (prior_snd_una - sk.max_window) & MASK32):
        return 0
    if not sk.packets_out:
        return state.flag
    if len(blocks) > 1:
        blocks = _sort_blocks(blocks, found_dup, (sk.snd_una - _SIGN) & MASK32)
    for i, (start, end) in enumerate(blocks):
        dup_sack = found_dup and i == 0
        if not tcp_is_sackblock_valid(sk, dup_sack, start, end):
            if dup_sack:
                mib = LINUX_MIB_TCPDSACKIGNOREDOLD if sk.undo_marker else LINUX_MIB_TCPDSACKIGNOREDNOUNDO
            elif ack != sk.snd_una and not after(end, sk.snd_una):
                continue
            else:
                mib = LINUX_MIB_TCPSACKDISCARD
            NET_INC_STATS(sk.sk_net, mib)
            continue
        if after(end, prior_snd_una):
            tcp_sacktag_walk(sk, state, start, end, dup_sack)
    if sk.icsk_ca_state != TCP_CA_Loss or sk.undo_marker:
        tcp_check_sack_reordering(sk, state.reord, False)
    return state.flag


# -- the timers that an ACK moves ----------------------------------------------------------------------------------


def tcp_rto_delta_us(sk: tcp_sock) -> int:
    """Microseconds to the RTO of the oldest packet in flight."""
    skb = sk.tcp_rtx_queue[0] if sk.tcp_rtx_queue else None
    rto_us = sk.icsk_rto * USEC_PER_JIFFY
    if skb is None:
        return rto_us
    return skb.skb_mstamp_ns // 1000 + rto_us - sk.tcp_mstamp


def tcp_rearm_rto(sk: tcp_sock) -> None:
    """Restart the retransmission timer for what is in flight now, or stop it (RFC 6298, 5.1-5.3)."""
    if sk.fastopen_rsk is not None:
        return
    if not sk.packets_out:
        inet_csk_clear_xmit_timer(sk, ICSK_TIME_RETRANS)
        return
    rto = sk.icsk_rto
    if sk.icsk_pending in (ICSK_TIME_REO_TIMEOUT, ICSK_TIME_LOSS_PROBE):
        # These ran in the RTO's place: it counts from the transmission still.
        rto = usecs_to_jiffies(max(tcp_rto_delta_us(sk), 1))
    tcp_output.tcp_reset_xmit_timer(sk, ICSK_TIME_RETRANS, rto, TCP_RTO_MAX)


def tcp_set_xmit_timer(sk: tcp_sock) -> None:
    if not tcp_output.tcp_schedule_loss_probe(sk, True):
        tcp_rearm_rto(sk)


def tcp_ack_probe(sk: tcp_sock) -> None:
    """An ACK while nothing is in flight: the window opened (stop probing) or not (go on)."""
    if not sk.sk_write_queue:
        return
    if not after(sk.sk_write_queue[0].cb.end_seq, tcp_wnd_end(sk)):
        sk.icsk_backoff = 0
        sk.icsk_probes_tstamp = 0
        inet_csk_clear_xmit_timer(sk, ICSK_TIME_PROBE0)
    else:
        when = tcp_output.tcp_probe0_when(sk, TCP_RTO_MAX)
        when = tcp_timer.tcp_clamp_probe0_to_user_timeout(sk, when)
        tcp_output.tcp_reset_xmit_timer(sk, ICSK_TIME_PROBE0, when, TCP_RTO_MAX)


# -- the ACK ------------------------------------------------------------------------------------------------------


def tcp_ack_tstamp(sk: tcp_sock, skb: sk_buff, ack_skb: sk_buff, prior_snd_una: int) -> None:
    """The byte that SOF_TIMESTAMPING_TX_ACK waits for is acknowledged."""
    shinfo = skb.shinfo
    if shinfo is None or not shinfo.txstamp_ack:
        return
    if not before(shinfo.tskey, prior_snd_una) and before(shinfo.tskey, sk.snd_una):
        skbuff.__skb_tstamp_tx(skb, sk, SCM_TSTAMP_ACK)


def tcp_clean_rtx_queue(
    sk: tcp_sock, skb: sk_buff, prior_fack: int, prior_snd_una: int, sack: tcp_sacktag_state, ece_ack: bool
) -> int:
    """Drop what the ACK covers from the retransmit queue, take round trip samples; returns flags."""
    flag = 0
    pkts_acked = 0
    first_ackt = last_ackt = 0
    last_in_flight = 0
    snd_una = sk.snd_una
    prior_sacked = sk.sacked_out
    reord = sk.snd_nxt
    fully_acked = True
    queue = sk.tcp_rtx_queue
    tsorted = sk.tsorted_sent_queue
    while queue:
        head = queue[0]
        cb = head.cb
        acked_pcount = cb.tcp_gso_segs
        if after(cb.end_seq, snd_una):
            if acked_pcount == 1 or not after(snd_una, cb.seq):
                break
            acked_pcount = tcp_tso_acked(sk, head)
            if not acked_pcount:
                break
            fully_acked = False
        sacked = cb.sacked
        if sacked & TCPCB_RETRANS:
            if sacked & TCPCB_SACKED_RETRANS:
                sk.retrans_out -= acked_pcount
            flag |= FLAG_RETRANS_DATA_ACKED
        elif not sacked & TCPCB_SACKED_ACKED:
            last_ackt = head.skb_mstamp_ns // 1000
            if not first_ackt:
                first_ackt = last_ackt
            last_in_flight = cb.in_flight
            if before(cb.seq, reord):
                reord = cb.seq
            if not after(cb.end_seq, sk.high_seq):
                flag |= FLAG_ORIG_SACK_ACKED
        if sacked & TCPCB_SACKED_ACKED:
            sk.sacked_out -= acked_pcount
            sack.delivered_bytes -= (cb.end_seq - cb.seq) & MASK32  # counted when it was SACKed
        elif tcp_is_sack(sk):
            tcp_count_delivered(sk, acked_pcount, ece_ack)
            if not tcp_skb_spurious_retrans(sk, head):
                tcp_recovery.tcp_rack_advance(sk, sacked, cb.end_seq, head.skb_mstamp_ns // 1000)
        if sacked & TCPCB_LOST:
            sk.lost_out -= acked_pcount
        sk.packets_out -= acked_pcount
        pkts_acked += acked_pcount
        tcp_rate.tcp_rate_skb_delivered(sk, head, sack.rate)
        if not cb.tcp_flags & TCPHDR_SYN:
            flag |= FLAG_DATA_ACKED
        else:
            flag |= FLAG_SYN_ACKED
            sk.retrans_stamp = 0
        if not fully_acked:
            break
        queue.popleft()
        tsorted.pop(head, None)
        sk.sk_wmem_queued -= head.truesize
        if head.shinfo is not None:
            tcp_ack_tstamp(sk, head, skb, prior_snd_una)
    if sk.zc_pending:
        tcp.tcp_zerocopy_done(sk)
    if sk.urg_mode and between(sk.snd_up, prior_snd_una, snd_una):
        sk.urg_mode = False
    if not queue:
        tcp_output.tcp_chrono_stop(sk, TCP_CHRONO_BUSY)
    if queue and queue[0].cb.sacked & TCPCB_SACKED_ACKED:
        flag |= FLAG_SACK_RENEGING
    seq_rtt_us, ca_rtt_us = -1, -1
    now = sk.tcp_mstamp
    if first_ackt and not flag & FLAG_RETRANS_DATA_ACKED:
        seq_rtt_us = now - first_ackt
        ca_rtt_us = now - last_ackt
        if (
            pkts_acked == 1
            and fully_acked
            and 0 < last_in_flight < sk.mss_cache
            and not prior_sacked
            and not sack.flag & FLAG_DATA_SACKED
        ):
            # A lone short packet: its ACK probably waited at the peer.
            flag |= FLAG_ACK_MAYBE_DELAYED
    sack_rtt_us = -1
    if sack.first_sackt:
        sack_rtt_us = now - sack.first_sackt
        ca_rtt_us = now - sack.last_sackt
    rtt_update = tcp_ack_update_rtt(sk, flag, seq_rtt_us, sack_rtt_us, ca_rtt_us, sack.rate)
    if flag & FLAG_ACKED:
        flag |= FLAG_SET_XMIT_TIMER
        if tcp_is_reno(sk):
            tcp_remove_reno_sacks(sk, pkts_acked, ece_ack)
            # Non-retransmitted hole got filled? That's reordering.
        elif before(reord, prior_fack):
            tcp_check_sack_reordering(sk, reord, False)
    elif rtt_update and sack_rtt_us >= 0 and queue and sack_rtt_us > now - queue[0].skb_mstamp_ns // 1000:
        # The head was sent after what was just SACKed: do not let the RTO fire too early.
        flag |= FLAG_SET_XMIT_TIMER
    if sk.sacked_out < prior_sacked and not sk.sacked_out:
        sk.highest_sack = None
    pkts_acked_cb = sk.icsk_ca_ops.pkts_acked
    if pkts_acked_cb is not None:
        pkts_acked_cb(sk, ack_sample(pkts_acked, sack.rate.rtt_us, last_in_flight))
    return flag


def tcp_tso_acked(sk: tcp_sock, skb: sk_buff) -> int:
    """Some segments of the first packet are acknowledged: cut them off; returns how many."""
    packets_acked: int = skb.cb.tcp_gso_segs
    tcp_output.tcp_trim_head(sk, skb, (sk.snd_una - skb.cb.seq) & MASK32)
    packets_acked -= skb.cb.tcp_gso_segs
    return packets_acked


def tcp_ack_is_dubious(sk: tcp_sock, flag: int) -> bool:
    return not flag & FLAG_NOT_DUP or bool(flag & FLAG_CA_ALERT) or sk.icsk_ca_state != TCP_CA_Open


def tcp_may_raise_cwnd(sk: tcp_sock, flag: int) -> bool:
    if sk.reordering > sk.sk_net.ipv4.sysctl_tcp_reordering:
        return bool(flag & FLAG_FORWARD_PROGRESS)
    return bool(flag & FLAG_DATA_ACKED)


def tcp_cong_control(sk: tcp_sock, ack: int, acked_sacked: int, flag: int, rs: rate_sample) -> None:
    ca_ops = sk.icsk_ca_ops
    if ca_ops.cong_control:
        ca_ops.cong_control(sk, rs)
        return
    if tcp_in_cwnd_reduction(sk):
        tcp_cwnd_reduction(sk, acked_sacked, rs.losses, flag)
    elif tcp_may_raise_cwnd(sk, flag):
        ca_ops.cong_avoid(sk, ack, acked_sacked)
        sk.snd_cwnd_stamp = sk.sk_net.tcp_jiffies32
    tcp_update_pacing_rate(sk)


def tcp_may_update_window(tp: tcp_sock, ack: int, ack_seq: int, nwin: int) -> bool:
    """RFC 9293 section 3.10.7.4, and a larger window in an ACK that is otherwise the same; whether that one may also
    close the window depends on the kernel."""
    return (
        after(ack, tp.snd_una)
        or after(ack_seq, tp.snd_wl1)
        or (
            ack_seq == tp.snd_wl1
            and (nwin > tp.snd_wnd or (not nwin and tp.sk_net.profile.ack_again_closes_window))
        )
    )


def tcp_update_wl(tp: tcp_sock, seq: int) -> None:
    tp.snd_wl1 = seq


def tcp_snd_una_update(tp: tcp_sock, ack: int) -> None:
    tp.bytes_acked += (ack - tp.snd_una) & MASK32
    tp.snd_una = ack


def tcp_rcv_nxt_update(tp: tcp_sock, seq: int) -> None:
    tp.bytes_received += (seq - tp.rcv_nxt) & MASK32
    tp.rcv_nxt = seq


def tcp_ack_update_window(sk: tcp_sock, skb: sk_buff, ack: int, ack_seq: int) -> int:
    """Take over the peer's window; returns FLAG_WIN_UPDATE if the ACK was new enough to."""
    flag = 0
    th = skb.h_th
    nwin = th.window
    if not th.flags & TCPHDR_SYN:
        nwin <<= sk.rx_opt.snd_wscale
    if tcp_may_update_window(sk, ack, ack_seq, nwin):
        flag = FLAG_WIN_UPDATE
        tcp_update_wl(sk, ack_seq)
        if sk.snd_wnd != nwin:
            sk.snd_wnd = nwin
            sk.pred_flags = 0
            tcp_fast_path_check(sk)
            if sk.sk_write_queue:
                tcp_slow_start_after_idle_check(sk)
            if nwin > sk.max_window:
                sk.max_window = nwin
                tcp_output.tcp_sync_mss(sk, sk.icsk_pmtu_cookie)
    tcp_snd_una_update(sk, ack)
    return flag


def tcp_slow_start_after_idle_check(sk: tcp_sock) -> None:
    """Reduce cwnd before sending after an idle time longer than the RTO."""
    if not sk.sk_net.ipv4.sysctl_tcp_slow_start_after_idle or sk.packets_out or sk.icsk_ca_ops.cong_control:
        return
    delta = (tcp_jiffies32(sk.sk_net) - sk.lsndtime) & MASK32
    if _SIGN > delta > sk.icsk_rto:
        tcp_output.tcp_cwnd_restart(sk, delta)


def __tcp_oow_rate_limited(net: Stack, mib_idx: int, last: int) -> tuple[bool, int]:
    """Whether to stay silent, and the new time stamp to keep."""
    now = tcp_jiffies32(net)
    if last:
        elapsed = (now - last) & MASK32
        if elapsed < net.ipv4.sysctl_tcp_invalid_ratelimit * HZ // 1000:
            NET_INC_STATS(net, mib_idx)
            return True, last
    return False, now or 1


def tcp_oow_rate_limited(net: Stack, skb: sk_buff, mib_idx: int, holder: oow_holder) -> bool:
    """Answers to unacceptable segments: one per 500 ms and ``holder`` (a connection, a request, a
    TIME_WAIT socket); data are always answered, except in a SYN."""
    cb = skb.cb
    if cb.seq != cb.end_seq and not skb.h_th.flags & TCPHDR_SYN:
        return False
    silent, holder.last_oow_ack_time = __tcp_oow_rate_limited(net, mib_idx, holder.last_oow_ack_time)
    return silent


def tcp_send_ack_reflect_ect(sk: tcp_sock, accecn_reflector: bool) -> None:
    """An ACK; with ``accecn_reflector`` and Accurate ECN one that says which codepoint the peer's SYN or SYN-ACK
    had."""
    flags = 0
    if accecn_reflector and tcp_ecn_mode_accecn(sk):
        flags = tcp_accecn_reflector_flags(sk.syn_ect_rcv)
    tcp_output.__tcp_send_ack(sk, sk.rcv_nxt, flags)


def tcp_send_challenge_ack(sk: tcp_sock, accecn_reflector: bool = False) -> None:
    """RFC 5961: make the peer prove that it is the peer.  One per 500 ms and connection, and with a
    tcp_challenge_ack_limit about so many per second on the whole host."""
    net = sk.sk_net
    silent, sk.last_oow_ack_time = __tcp_oow_rate_limited(
        net, LINUX_MIB_TCPACKSKIPPEDCHALLENGE, sk.last_oow_ack_time
    )
    if silent or (net.ipv4.sysctl_tcp_challenge_ack_limit != INT_MAX and not _challenge_allowed(net)):
        return
    NET_INC_STATS(net, LINUX_MIB_TCPCHALLENGEACK)
    tcp_send_ack_reflect_ect(sk, accecn_reflector)


def _challenge_allowed(net: Stack) -> bool:
    """Take one of this second's challenges.  How many there are is drawn anew each second, round the limit: were it
    known, somebody off the path could count the answers to guess at connections (CVE-2016-5696)."""
    ipv4 = net.ipv4
    second = jiffies(net) // HZ
    if second != ipv4.tcp_challenge_timestamp:
        limit = ipv4.sysctl_tcp_challenge_ack_limit
        ipv4.tcp_challenge_timestamp = second
        ipv4.tcp_challenge_count = (limit + 1 >> 1) + (net.rng.get_random_u32_below(limit) if limit else 0)
    if ipv4.tcp_challenge_count <= 0:
        return False
    ipv4.tcp_challenge_count -= 1
    return True


def tcp_store_ts_recent(tp: tcp_sock) -> None:
    rx_opt = tp.rx_opt
    rx_opt.ts_recent = rx_opt.rcv_tsval
    rx_opt.ts_recent_stamp = ktime_get_seconds(tp.sk_net)


def tcp_replace_ts_recent(tp: tcp_sock, seq: int) -> int:
    """Keep the TSval of the segment at the left edge (RFC 7323, section 4.3), if it is not older; FLAG_TS_PROGRESS
    if it is newer."""
    rx_opt = tp.rx_opt
    if rx_opt.saw_tstamp and not after(seq, tp.rcv_wup):
        if tcp_paws_check(rx_opt, 0, tp.sk_net):
            progress = after(rx_opt.rcv_tsval, rx_opt.ts_recent)
            tcp_store_ts_recent(tp)
            return FLAG_TS_PROGRESS if progress else 0
    return 0


def tcp_process_tlp_ack(sk: tcp_sock, ack: int, flag: int) -> None:
    """The ACK of a tail loss probe: if the probe repaired a loss, reduce cwnd as for any loss (RFC 8985, 7.4)."""
    if before(ack, sk.tlp_high_seq):
        return
    if not sk.tlp_retrans or flag & FLAG_DSACK_TLP:
        sk.tlp_high_seq = 0
    elif after(ack, sk.tlp_high_seq):
        tcp_init_cwnd_reduction(sk)
        tcp_cong.tcp_set_ca_state(sk, TCP_CA_CWR)
        tcp_end_cwnd_reduction(sk)
        tcp_try_keep_open(sk)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPLOSSPROBERECOVERY)
    elif not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DATA_SACKED):
        # A pure duplicate: original and probe both arrived.
        sk.tlp_high_seq = 0


def tcp_in_ack_event(sk: tcp_sock, flags: int) -> None:
    event = sk.icsk_ca_ops.in_ack_event
    if event is not None:
        event(sk, flags)


def tcp_xmit_recovery(sk: tcp_sock, rexmit: int) -> None:
    """Send what loss recovery asked for."""
    if rexmit == REXMIT_NONE or sk.sk_state == TCP_SYN_SENT:
        return
    if rexmit == REXMIT_NEW:
        tcp_output.__tcp_push_pending_frames(sk, tcp_output.tcp_current_mss(sk), TCP_NAGLE_OFF)
        if after(sk.snd_nxt, sk.high_seq):
            return
        sk.frto = False
    tcp_output.tcp_xmit_retransmit_queue(sk)


def tcp_newly_delivered(sk: tcp_sock, prior_delivered: int, ecn_count: int, flag: int) -> int:
    """How many segments the ACK delivered; ``ecn_count`` of them with CE, where the peer counts them."""
    delivered = sk.delivered - prior_delivered
    net = sk.sk_net
    NET_ADD_STATS(net, LINUX_MIB_TCPDELIVERED, delivered)
    if flag & FLAG_ECE:
        marked = delivered if tcp_ecn_mode_rfc3168(sk) else ecn_count
        NET_ADD_STATS(net, LINUX_MIB_TCPDELIVEREDCE, marked)
    return delivered


# -- Accurate ECN's feedback (RFC 9768) --------------------------------------------------------------------------------


def tcp_accecn_process_option(tp: tcp_sock, delivered_bytes: int, flag: int) -> bool:
    """Bring delivered_ecn_bytes up to date; whether the counter of CE is known to be right.

    An ACK without the option is taken to deliver bytes of the codepoint that grew last, if only one did."""
    if tp.accecn_fail_mode & TCP_ACCECN_OPT_FAIL_RECV:
        return False
    option = tp.rx_opt.accecn if flag & FLAG_SLOWPATH else None
    if option is None:
        if tp.est_ecnfield:
            counters = tp.delivered_ecn_bytes
            counters[tp.est_ecnfield - 1] = (counters[tp.est_ecnfield - 1] + delivered_bytes) & MASK32
            return True
        return False
    if tp.saw_accecn_opt < TCP_ACCECN_OPT_COUNTER_SEEN:
        tcp_accecn_saw_opt_fail_recv(tp, tcp_accecn_option_init(option))
    valid = tp.est_ecnfield != 0
    grown = 0
    ambiguous = False
    for codepoint, value in option.counters():
        delta = tcp_update_ecn_bytes(tp, codepoint, value)
        if delta < 0:
            ambiguous = True
        if delta and codepoint != tp.est_ecnfield:
            if grown:
                ambiguous = True
            else:
                tp.est_ecnfield = grown = codepoint
    if ambiguous:
        tp.est_ecnfield = 0
    return valid and not ambiguous


def _accecn_pkts_acked(tp: tcp_sock, delivered_pkts: int) -> None:
    """Average how many segments an ACK acknowledges."""
    ewma = tp.pkts_acked_ewma
    new = delivered_pkts << PKTS_ACKED_PREC
    if ewma:
        new = (ewma * ((1 << PKTS_ACKED_WEIGHT) - 1) + new) >> PKTS_ACKED_WEIGHT
    tp.pkts_acked_ewma = min(new, 0xFFFF)


def _accecn_wrapped(tp: tcp_sock, delta: int, safe_delta: int, d_ceb: int, pkts: int, size: int) -> int:
    """Which of two counts of CE fits ``d_ceb`` bytes that were delivered with CE (RFC 9768, appendix A.2.2): ``delta``,
    or ``safe_delta``, as if the field had wrapped as often as it can have."""
    if not d_ceb:
        return delta
    reliable = tcp_is_sack(tp) or tp.icsk_ca_state in (TCP_CA_Open, TCP_CA_CWR)
    if pkts >= 2 * (TCP_ACCECN_CEP_ACE_MASK + 1) and reliable:
        if size <= d_ceb:
            return safe_delta
        estimate = -(-d_ceb * pkts // size)
        return min(safe_delta, delta + (estimate & ~TCP_ACCECN_CEP_ACE_MASK))
    if d_ceb > delta * tp.mss_cache:
        return safe_delta
    return delta if d_ceb < safe_delta * tp.mss_cache >> TCP_ACCECN_SAFETY_SHIFT else safe_delta


def __tcp_accecn_process(
    sk: tcp_sock, skb: sk_buff, delivered_pkts: int, delivered_bytes: int, flag: int
) -> int:
    """How many more segments came with CE, by ACE and if need be by the option.  Nothing is taken from an ACK that
    may be older than the last one: it acknowledges nothing new and has no newer time stamp."""
    if not flag & (FLAG_FORWARD_PROGRESS | FLAG_TS_PROGRESS):
        return 0
    old_ceb = sk.delivered_ecn_bytes[INET_ECN_CE - 1]
    known = tcp_accecn_process_option(sk, delivered_bytes, flag)
    if delivered_pkts:
        _accecn_pkts_acked(sk, delivered_pkts)
    if not flag & FLAG_SLOWPATH and delivered_pkts <= TCP_ACCECN_CEP_ACE_MASK:
        return 0  # header prediction found the same ACE
    if flag & FLAG_SYN_ACKED:
        return 0  # the handshake's ACE is no counter
    if sk.received_ce_pending >= TCP_ACCECN_ACE_MAX_DELTA:
        sk.icsk_ack.pending |= ICSK_ACK_NOW
    ace = tcp_accecn_ace(skb.h_th) - TCP_ACCECN_CEP_INIT_OFFSET
    delta = (ace - sk.delivered_ce) & TCP_ACCECN_CEP_ACE_MASK
    if delivered_pkts <= TCP_ACCECN_CEP_ACE_MASK:
        return delta
    safe_delta = delivered_pkts - ((delivered_pkts - delta) & TCP_ACCECN_CEP_ACE_MASK)
    if known:
        d_ceb = (sk.delivered_ecn_bytes[INET_ECN_CE - 1] - old_ceb) & MASK32
        return _accecn_wrapped(sk, delta, safe_delta, d_ceb, delivered_pkts, delivered_bytes)
    if sk.pkts_acked_ewma > ACK_COMP_THRESH << PKTS_ACKED_PREC:
        return delta
    return safe_delta


def tcp_accecn_process(
    sk: tcp_sock, skb: sk_buff, delivered_pkts: int, delivered_bytes: int, flag: int
) -> tuple[int, int]:
    """Take in an ACK's feedback: (newly known segments with CE, flags with FLAG_ECE if there are any)."""
    delta = __tcp_accecn_process(sk, skb, delivered_pkts, delivered_bytes, flag)
    if delta > 0:
        sk.delivered_ce += delta
        flag |= FLAG_ECE
        if sk.pred_flags:
            tcp_fast_path_on(sk)
    return delta, flag


def tcp_ack(sk: tcp_sock, skb: sk_buff, flag: int) -> int:
    """Process the ACK of a segment: 1 if it was good, 0 if it was old, a negative drop reason if it is not to be
    believed."""
    prior_snd_una = sk.snd_una
    cb = skb.cb
    ack_seq = cb.seq
    ack = cb.ack_seq
    advance = (ack - prior_snd_una) & MASK32
    if advance >= _SIGN:
        return _tcp_ack_old(sk, skb, flag, prior_snd_una)
    if advance > (sk.snd_nxt - prior_snd_una) & MASK32:
        return _tcp_ack_unsent(sk, flag)
    prior_packets = sk.packets_out
    prior_delivered = sk.delivered
    prior_lost = sk.lost
    if advance:
        flag |= FLAG_SND_UNA_ADVANCED
        sk.icsk_retransmits = 0
    sack = tcp_sacktag_state()
    sack.rate.prior_in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
    prior_fack = tcp_highest_sack_seq(sk) if sk.sacked_out else prior_snd_una
    if flag & FLAG_UPDATE_TS_RECENT:
        flag |= tcp_replace_ts_recent(sk, ack_seq)
    net = sk.sk_net
    if flag & (FLAG_SLOWPATH | FLAG_SND_UNA_ADVANCED) == FLAG_SND_UNA_ADVANCED:
        # Header prediction said that the window is the same.
        sk.snd_wl1 = ack_seq
        sk.bytes_acked += advance
        sk.snd_una = ack
        flag |= FLAG_WIN_UPDATE
        tcp_in_ack_event(sk, CA_ACK_WIN_UPDATE)
        NET_INC_STATS(net, LINUX_MIB_TCPHPACKS)
    else:
        if ack_seq != cb.end_seq:
            flag |= FLAG_DATA
        else:
            NET_INC_STATS(net, LINUX_MIB_TCPPUREACKS)
        flag |= tcp_ack_update_window(sk, skb, ack, ack_seq)
        if sk.rx_opt.sack_blocks and tcp_is_sack(sk):
            flag |= tcp_sacktag_write_queue(sk, skb, prior_snd_una, sack)
        ack_ev_flags = CA_ACK_SLOWPATH
        if tcp_ecn_rcv_ecn_echo(sk, skb.h_th):
            flag |= FLAG_ECE
            ack_ev_flags |= CA_ACK_ECE
        if sack.sack_delivered:
            tcp_count_delivered(sk, sack.sack_delivered, bool(flag & FLAG_ECE))
        if flag & FLAG_WIN_UPDATE:
            ack_ev_flags |= CA_ACK_WIN_UPDATE
        tcp_in_ack_event(sk, ack_ev_flags)
    accecn = sk.ecn_flags & TCP_ECN_MODE_ACCECN
    if cb.tcp_flags & TCPHDR_CWR and not accecn:
        tcp_ecn_accept_cwr(sk, skb)
    sk.sk_err_soft = 0
    sk.icsk_probes_out = 0
    sk.rcv_tstamp = net.tcp_jiffies32
    if not prior_packets:
        #> return 1
        if accecn:
            _, flag = tcp_accecn_process(sk, skb, 0, 0, flag)
        return _tcp_ack_no_queue(sk, ack, flag, prior_snd_una, prior_delivered)
    flag |= tcp_clean_rtx_queue(sk, skb, prior_fack, prior_snd_una, sack, bool(flag & FLAG_ECE))
    ecn_count = 0
    if accecn:
        acked = sk.delivered - prior_delivered
        ecn_count, flag = tcp_accecn_process(sk, skb, acked, sack.delivered_bytes + advance, flag)
    tcp_recovery.tcp_rack_update_reo_wnd(sk, sack.rate)
    if sk.tlp_high_seq:
        tcp_process_tlp_ack(sk, ack, flag)
    rexmit = REXMIT_NONE
    if tcp_ack_is_dubious(sk, flag):
        num_dupack = 0
        if not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP | FLAG_DSACKING_ACK):
            num_dupack = 1
        flag, rexmit = tcp_fastretrans_alert(sk, prior_snd_una, num_dupack, flag)
    if flag & FLAG_SET_XMIT_TIMER:
        tcp_set_xmit_timer(sk)
    if flag & FLAG_FORWARD_PROGRESS or not flag & FLAG_NOT_DUP:
        sk.sk_dst_pending_confirm = 1
    delivered = tcp_newly_delivered(sk, prior_delivered, ecn_count, flag)
    rs = sack.rate
    rs.is_ack_delayed = bool(flag & FLAG_ACK_MAYBE_DELAYED)
    tcp_rate.tcp_rate_gen(sk, delivered, sk.lost - prior_lost, bool(flag & FLAG_SACK_RENEGING), rs)
    tcp_cong_control(sk, ack, delivered, flag, rs)
    if rexmit:
        tcp_xmit_recovery(sk, rexmit)
    return 1


def _tcp_ack_no_queue(sk: tcp_sock, ack: int, flag: int, prior_snd_una: int, prior_delivered: int) -> int:
    """Nothing was in flight: no sample to take, perhaps a window to probe."""
    if flag & FLAG_DSACKING_ACK:
        flag, _ = tcp_fastretrans_alert(sk, prior_snd_una, 0, flag)
        tcp_newly_delivered(sk, prior_delivered, 0, flag)
    tcp_ack_probe(sk)
    if sk.tlp_high_seq:
        tcp_process_tlp_ack(sk, ack, flag)
    return 1


def _tcp_ack_old(sk: tcp_sock, skb: sk_buff, flag: int, prior_snd_una: int) -> int:
    """An ACK below snd_una: useful only for its SACK blocks; far below (RFC 5961, section 5.2) it is an attack or a
    ghost.  How far depends on what was acknowledged so far, too."""
    max_window = min(sk.max_window, sk.bytes_acked)
    if before(skb.cb.ack_seq, (prior_snd_una - max_window) & MASK32):
        if not flag & FLAG_NO_CHALLENGE_ACK:
            tcp_send_challenge_ack(sk)
        return -SKB_DROP_REASON_TCP_TOO_OLD_ACK
    if sk.rx_opt.sack_blocks and tcp_is_sack(sk):
        sack = tcp_sacktag_state()
        delivered = sk.delivered
        flag |= tcp_sacktag_write_queue(sk, skb, prior_snd_una, sack)
        if sack.sack_delivered:
            tcp_count_delivered(sk, sack.sack_delivered, False)
        flag, rexmit = tcp_fastretrans_alert(sk, prior_snd_una, 0, flag)
        tcp_newly_delivered(sk, delivered, 0, flag)
        tcp_xmit_recovery(sk, rexmit)
    return 0


def _tcp_ack_unsent(sk: tcp_sock, flag: int) -> int:
    """An ACK of what was never sent: RFC 9293 wants an ACK; Linux 6.1 is silent (measured), later ones challenge."""
    if sk.sk_net.profile.ack_unsent_challenge and not flag & FLAG_NO_CHALLENGE_ACK:
        tcp_send_challenge_ack(sk)
    return -SKB_DROP_REASON_TCP_ACK_UNSENT_DATA


# -- options ------------------------------------------------------------------------------------------------------


def tcp_parse_options(
    net: Stack, skb: sk_buff, opt_rx: tcp_options_received, estab: bool, foc: tcp_fastopen_cookie | None
) -> None:
    """Parse the options of a segment into ``opt_rx``.  On a SYN (``estab`` false) the offers are taken if the sysctls
    allow; a wrong length ends the parsing, what came before it counts (measured).  A scale above 14 becomes 14."""
    opt_rx.saw_tstamp = False
    opt_rx.accecn = None
    if opt_rx.sack_blocks:
        opt_rx.sack_blocks = []
    th = skb.h_th
    start = skb.transport_header + 20
    opts = bytes(skb.head[start : start + (th.doff << 2) - 20])
    syn = th.flags & TCPHDR_SYN
    pos, end = 0, len(opts)
    if end == 12 and opts.startswith(_TS_ALIGNED):
        if opt_rx.tstamp_ok if estab else net.ipv4.sysctl_tcp_timestamps:  # the usual ones
            opt_rx.saw_tstamp = True
            opt_rx.rcv_tsval, opt_rx.rcv_tsecr = _TIMESTAMP.unpack_from(opts, 4)
        return
    while pos < end:
        kind = opts[pos]
        if kind == TCPOPT_EOL:
            return
        if kind == TCPOPT_NOP:
            pos += 1
            continue
        if pos + 1 >= end:
            return
        size = opts[pos + 1]
        if size < 2 or pos + size > end:
            return
        if kind in (TCPOPT_FASTOPEN, TCPOPT_EXP) and foc is not None and syn:
            tcp_parse_fastopen_option(kind, opts[pos + 2 : pos + size], foc)
        _parse_option(net, opt_rx, kind, opts[pos + 2 : pos + size], bool(syn) and not estab, estab)
        pos += size


def tcp_parse_fastopen_option(kind: int, body: bytes, foc: tcp_fastopen_cookie) -> None:
    """A SYN's Fast Open option (RFC 7413, section 4.1.1), of its own kind or experimental.  An empty one asks for a
    cookie; one of an odd length is ignored, one of a length that no cookie has is like none."""
    exp_opt = kind == TCPOPT_EXP
    if exp_opt:
        if body[:2] != _FASTOPEN_MAGIC:
            return
        body = body[2:]
    size = len(body)
    if size & 1:
        return
    if TCP_FASTOPEN_COOKIE_MIN <= size <= TCP_FASTOPEN_COOKIE_MAX:
        foc.val = body
    elif size:
        size = -1
    foc.len = size
    foc.exp = exp_opt


def _parse_option(
    net: Stack, opt_rx: tcp_options_received, kind: int, body: bytes, syn: bool, estab: bool
) -> None:
    size = len(body) + 2
    ipv4 = net.ipv4
    if kind == TCPOPT_TIMESTAMP:
        if size == TCPOLEN_TIMESTAMP and (opt_rx.tstamp_ok if estab else ipv4.sysctl_tcp_timestamps):
            opt_rx.saw_tstamp = True
            opt_rx.rcv_tsval, opt_rx.rcv_tsecr = _TIMESTAMP.unpack(body)
    elif kind == TCPOPT_SACK:
        n = (size - TCPOLEN_SACK_BASE) // TCPOLEN_SACK_PERBLOCK
        if 0 < n <= TCP_NUM_SACKS and not len(body) % TCPOLEN_SACK_PERBLOCK and opt_rx.sack_ok:
            edges = _SACK_BLOCKS[n].unpack(body)
            opt_rx.sack_blocks = list(zip(edges[::2], edges[1::2], strict=True))
    elif kind in (TCPOPT_ACCECN0, TCPOPT_ACCECN1):
        if net.profile.accecn:
            opt_rx.accecn = tcp_accecn_option(kind, body)
    elif not syn:
        return
    elif kind == TCPOPT_MSS:
        mss = int.from_bytes(body, "big")
        if size == TCPOLEN_MSS and mss:
            opt_rx.mss_clamp = min(mss, opt_rx.user_mss) if opt_rx.user_mss else mss
    elif kind == TCPOPT_WINDOW:
        if size == TCPOLEN_WINDOW and ipv4.sysctl_tcp_window_scaling:
            opt_rx.wscale_ok = True
            opt_rx.snd_wscale = min(body[0], TCP_MAX_WSCALE)
    elif kind == TCPOPT_SACK_PERM:
        if size == TCPOLEN_SACK_PERM and ipv4.sysctl_tcp_sack:
            opt_rx.sack_ok = TCP_SACK_SEEN
            tcp_sack_reset(opt_rx)


def tcp_parse_md5sig_option(skb: sk_buff) -> bytes | None:
    """The 16 bytes of a segment's signature (RFC 2385), None if it has none."""
    th = skb.h_th
    if th.doff < _DOFF_MD5SIG:
        return None
    start = skb.transport_header + 20
    opts = bytes(skb.head[start : start + (th.doff << 2) - 20])
    pos, end = 0, len(opts)
    while end - pos >= TCPOLEN_MD5SIG:
        kind = opts[pos]
        if kind == TCPOPT_EOL:
            return None
        if kind == TCPOPT_NOP:
            pos += 1
            continue
        size = opts[pos + 1]
        if size < 2 or pos + size > end:
            return None
        if kind == TCPOPT_MD5SIG:
            return opts[pos + 2 : pos + size] if size == TCPOLEN_MD5SIG else None
        pos += size
    return None


def tcp_auth_options_valid(skb: sk_buff) -> bool:
    """Whether a segment has at most one authentication option (RFC 2385, RFC 5925), well-formed; looked at only where
    the options have room for a signature."""
    start = skb.transport_header + 20
    opts = bytes(skb.head[start : start + (skb.h_th.doff << 2) - 20])
    pos, end, found = 0, len(opts), 0
    while end - pos >= TCPOLEN_MD5SIG and opts[pos] != TCPOPT_EOL:
        if opts[pos] == TCPOPT_NOP:
            pos += 1
            continue
        kind, size = opts[pos], opts[pos + 1]
        if size < 2 or pos + size > end:
            return False
        if kind in (TCPOPT_MD5SIG, TCPOPT_AO):
            found += 1
            if found > 1 or (size != TCPOLEN_MD5SIG if kind == TCPOPT_MD5SIG else size < 4):
                return False
        pos += size
    return True


def tcp_sack_reset(rx_opt: tcp_options_received) -> None:
    rx_opt.dsack = False
    rx_opt.num_sacks = 0


def tcp_parse_aligned_timestamp(tp: tcp_sock, skb: sk_buff) -> bool:
    """The usual case: NOP NOP TS right behind the header."""
    off = skb.transport_header + 20
    head = skb.head
    if head[off : off + 4] != _TS_ALIGNED:
        return False
    rx_opt = tp.rx_opt
    rx_opt.saw_tstamp = True
    rx_opt.rcv_tsval, rx_opt.rcv_tsecr = _TIMESTAMP.unpack_from(head, off + 4)
    return True


def tcp_fast_parse_options(net: Stack, skb: sk_buff, th: tcphdr, tp: tcp_sock) -> bool:
    """Whether there were options; those of the usual form are not taken apart."""
    rx_opt = tp.rx_opt
    doff = th.doff
    if doff == 5:
        rx_opt.saw_tstamp = False
        rx_opt.accecn = None
        rx_opt.sack_blocks = []
        return False
    if rx_opt.tstamp_ok and doff == 8 and tcp_parse_aligned_timestamp(tp, skb):
        rx_opt.accecn = None
        rx_opt.sack_blocks = []
        return True
    tcp_parse_options(net, skb, rx_opt, True, None)
    return True


# -- validation ---------------------------------------------------------------------------------------------------


def tcp_disordered_ack(sk: tcp_sock, skb: sk_buff) -> bool:
    """A pure ACK that only came late: same data, no window news, not too old by its time stamp."""
    cb = skb.cb
    rx_opt = sk.rx_opt
    th = skb.h_th
    return bool(
        th.flags & TCPHDR_ACK
        and cb.seq == cb.end_seq == sk.rcv_nxt
        and cb.ack_seq == sk.snd_una
        and not tcp_may_update_window(sk, cb.ack_seq, cb.seq, th.window << rx_opt.snd_wscale)
        and (rx_opt.ts_recent - rx_opt.rcv_tsval) & MASK32 <= sk.icsk_rto * 1200 // HZ
    )


def tcp_paws_discard(sk: tcp_sock, skb: sk_buff) -> bool:
    return not tcp_paws_check(sk.rx_opt, TCP_PAWS_WINDOW, sk.sk_net) and not tcp_disordered_ack(sk, skb)


def tcp_sequence(tp: tcp_sock, seq: int, end_seq: int, flags: int) -> int:
    """RFC 9293 section 3.4: 0 if any part of the segment is inside the window, else the drop reason.  Under the profile
    switch ``beyond_window_dropped`` its data must not pass the right edge either while something waits to be read."""
    if before(end_seq, tp.rcv_wup):
        return SKB_DROP_REASON_TCP_OLD_DATA
    limit = (tp.rcv_nxt + tcp_receive_window(tp)) & MASK32
    if after(end_seq, limit):
        if after(seq, limit):
            return SKB_DROP_REASON_TCP_OVERWINDOW
        if tp.sk_net.profile.beyond_window_dropped and tp.sk_receive_queue:
            if after((end_seq - bool(flags & TCPHDR_FIN)) & MASK32, limit):
                return SKB_DROP_REASON_TCP_INVALID_END_SEQUENCE
    return 0


def tcp_reset(sk: tcp_sock, skb: sk_buff | None) -> None:
    """A RST that was believed: the error depends on how far the connection had come."""
    state = sk.sk_state
    if state == TCP_SYN_SENT:
        err = ECONNREFUSED
    elif state == TCP_CLOSE_WAIT:
        err = EPIPE
    elif state == TCP_CLOSE:
        return
    else:
        err = ECONNRESET
    tcp.tcp_done_with_error(sk, err)


def tcp_fin(sk: tcp_sock) -> None:
    """The peer has sent all: no more reading, and one state on."""
    inet_csk_schedule_ack(sk)
    sk.sk_shutdown |= RCV_SHUTDOWN
    sk.sk_flags |= SOCK_DONE
    state = sk.sk_state
    if state in (TCP_SYN_RECV, TCP_ESTABLISHED):
        tcp.tcp_set_state(sk, TCP_CLOSE_WAIT)
        inet_csk_enter_pingpong_mode(sk)
    elif state == TCP_FIN_WAIT1:
        # Both closed at once: acknowledge now, wait for the ACK of ours.
        tcp_output.tcp_send_ack(sk)
        tcp.tcp_set_state(sk, TCP_CLOSING)
    elif state == TCP_FIN_WAIT2:
        tcp_output.tcp_send_ack(sk)
        tcp_minisocks.tcp_time_wait(sk, TCP_TIME_WAIT, 0)
    # In the other states the FIN is a retransmission.
    for ofo in sk.out_of_order_queue:
        consume_skb(ofo)
    sk.out_of_order_queue = []
    if tcp_is_sack(sk):
        tcp_sack_reset(sk.rx_opt)
        sk.selective_acks = []
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_state_change(sk)


def tcp_validate_incoming(sk: tcp_sock, skb: sk_buff, th: tcphdr, syn_inerr: bool) -> bool:
    """PAWS, window, RST, SYN: whether the segment may be processed.  If not, it is answered as it should be and
    dropped here.  RFC 9293 section 3.10.7.4, RFC 7323 section 5.3, RFC 5961 sections 3 and 4."""
    net = sk.sk_net
    cb = skb.cb
    flags = th.flags
    if (
        tcp_fast_parse_options(net, skb, th, sk)
        and sk.rx_opt.saw_tstamp
        and tcp_paws_discard(sk, skb)
        and not flags & TCPHDR_RST
    ):
        NET_INC_STATS(net, LINUX_MIB_PAWSESTABREJECTED)
        if flags & TCPHDR_SYN:
            return _syn_challenge(sk, skb, syn_inerr)
        if not tcp_oow_rate_limited(net, skb, LINUX_MIB_TCPACKSKIPPEDPAWS, sk):
            tcp_send_dupack(sk, skb)
        return _discard(skb, SKB_DROP_REASON_TCP_RFC7323_PAWS)
    reason = tcp_sequence(sk, cb.seq, cb.end_seq, flags)
    if reason:
        return _out_of_window(sk, skb, th, syn_inerr, reason)
    if flags & TCPHDR_RST:
        return _validate_rst(sk, skb)
    if flags & TCPHDR_SYN and not _completes_crossed_open(sk, cb):
        return _syn_challenge(sk, skb, syn_inerr)
    return True


def _completes_crossed_open(sk: tcp_sock, cb: tcp_skb_cb) -> bool:
    """Both ends opened at once (RFC 9293, figure 7): the peer's SYN is known already, and its SYN-ACK, which has the
    same sequence number, acknowledges ours."""
    return (
        sk.sk_state == TCP_SYN_RECV
        and sk.sk_socket is not None
        and bool(cb.tcp_flags & TCPHDR_ACK)
        and (cb.seq + 1) & MASK32 == cb.end_seq == sk.rcv_nxt
        and cb.ack_seq == sk.snd_nxt
    )


def _discard(skb: sk_buff, reason: int) -> bool:
    kfree_skb_reason(skb, reason)
    return False


def _out_of_window(sk: tcp_sock, skb: sk_buff, th: tcphdr, syn_inerr: bool, reason: int) -> bool:
    """No part is inside the window: answer with an ACK, unless it is a RST."""
    if th.flags & TCPHDR_RST:
        if tcp_reset_check(sk, skb):
            tcp_reset(sk, skb)
            return _discard(skb, SKB_DROP_REASON_TCP_RESET)
    elif th.flags & TCPHDR_SYN:
        return _syn_challenge(sk, skb, syn_inerr)
    else:
        net = sk.sk_net
        if reason != SKB_DROP_REASON_TCP_OLD_DATA and net.profile.beyond_window_dropped:
            NET_INC_STATS(net, LINUX_MIB_BEYOND_WINDOW)
        if not tcp_oow_rate_limited(net, skb, LINUX_MIB_TCPACKSKIPPEDSEQ, sk):
            tcp_send_dupack(sk, skb)
    return _discard(skb, reason)


def tcp_reset_check(sk: tcp_sock, skb: sk_buff) -> bool:
    """A RST one below rcv_nxt, after the peer's FIN: it was sent without counting the FIN."""
    return skb.cb.seq == (sk.rcv_nxt - 1) & MASK32 and sk.sk_state in (
        TCP_CLOSE_WAIT,
        TCP_LAST_ACK,
        TCP_CLOSING,
    )


def _validate_rst(sk: tcp_sock, skb: sk_buff) -> bool:
    """A RST inside the window: only the exact one is believed, or one at the edge of a SACK block that we sent."""
    seq = skb.cb.seq
    rst_seq_match = seq == sk.rcv_nxt or tcp_reset_check(sk, skb)
    if not rst_seq_match and tcp_is_sack(sk) and sk.selective_acks:
        highest = sk.selective_acks[0][1]
        for _, end in sk.selective_acks:
            if after(end, highest):
                highest = end
        rst_seq_match = seq == highest
    if rst_seq_match:
        tcp_reset(sk, skb)
        return _discard(skb, SKB_DROP_REASON_TCP_RESET)
    if sk.syn_fastopen and not sk.data_segs_in and sk.sk_state == TCP_ESTABLISHED:
        # A RST with a wrong number, before any data: perhaps of a middlebox that minds the SYN's.
        tcp_fastopen.tcp_fastopen_active_disable(sk)
    tcp_send_challenge_ack(sk)
    return _discard(skb, SKB_DROP_REASON_TCP_RESET)


def _syn_challenge(sk: tcp_sock, skb: sk_buff, syn_inerr: bool) -> bool:
    """A SYN on a connection: never believed, answered with a challenge ACK.  If it is the peer's SYN or SYN-ACK
    again, its ACE has to say how that came (RFC 9768, section 3.1.5); newer kernels look at how this one came."""
    net = sk.sk_net
    if net.profile.accecn_offered:
        sk.syn_ect_rcv = skb.cb.ip_dsfield & INET_ECN_MASK
    if syn_inerr:
        TCP_INC_STATS(net, TCP_MIB_INERRS)
    NET_INC_STATS(net, LINUX_MIB_TCPSYNCHALLENGE)
    tcp_send_challenge_ack(sk, accecn_reflector=True)
    return _discard(skb, SKB_DROP_REASON_TCP_INVALID_SYN)


def tcp_send_dupack(sk: tcp_sock, skb: sk_buff) -> None:
    """An ACK for a segment that was not wanted, with a DSACK if it was data that we have."""
    cb = skb.cb
    if cb.end_seq != cb.seq and before(cb.seq, sk.rcv_nxt):
        NET_INC_STATS(sk.sk_net, LINUX_MIB_DELAYEDACKLOST)
        tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
        if tcp_is_sack(sk) and sk.sk_net.ipv4.sysctl_tcp_dsack:
            tcp_rcv_spurious_retrans(sk, skb)
            end_seq = cb.end_seq
            if after(end_seq, sk.rcv_nxt):
                end_seq = sk.rcv_nxt
            tcp_dsack_set(sk, cb.seq, end_seq)
    tcp_output.tcp_send_ack(sk)


# -- SACK that we send ----------------------------------------------------------------------------------------------


def tcp_dsack_set(sk: tcp_sock, seq: int, end_seq: int) -> None:
    if not tcp_is_sack(sk) or not sk.sk_net.ipv4.sysctl_tcp_dsack:
        return
    old = before(seq, sk.rcv_nxt)
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPDSACKOLDSENT if old else LINUX_MIB_TCPDSACKOFOSENT)
    sk.rx_opt.dsack = True
    sk.duplicate_sack = (seq, end_seq)


def tcp_dsack_extend(sk: tcp_sock, seq: int, end_seq: int) -> None:
    if not sk.rx_opt.dsack or sk.duplicate_sack is None:
        tcp_dsack_set(sk, seq, end_seq)
        return
    start, end = sk.duplicate_sack
    if not after(seq, end) and not after(start, end_seq):
        sk.duplicate_sack = (seq if before(seq, start) else start, end_seq if after(end_seq, end) else end)


def tcp_sack_new_ofo_skb(sk: tcp_sock, seq: int, end_seq: int) -> None:
    """The blocks to report, newest first (RFC 2018, section 4); touching ones become one."""
    if len(sk.selective_acks) >= TCP_SACK_BLOCKS_EXPECTED and sk.compressed_ack:
        _report_before_forgetting(sk, seq, end_seq)
    blocks = []
    for start, end in sk.selective_acks:
        if not after(seq, end) and not after(start, end_seq):
            seq = start if before(start, seq) else seq
            end_seq = end if after(end, end_seq) else end_seq
        else:
            blocks.append((start, end))
    sk.selective_acks = [(seq, end_seq), *blocks][:TCP_NUM_SACKS]
    sk.rx_opt.num_sacks = len(sk.selective_acks)


def _report_before_forgetting(sk: tcp_sock, seq: int, end_seq: int) -> None:
    """ACKs are held back, and a block beyond the first two moves to the front: what an ACK has room for would not tell
    it all any more, so the one held back goes now."""
    for start, end in sk.selective_acks[:TCP_SACK_BLOCKS_EXPECTED]:
        if not after(seq, end) and not after(start, end_seq):
            return
    tcp_sack_compress_send_ack(sk)


def tcp_sack_remove(sk: tcp_sock) -> None:
    """rcv_nxt moved: drop the blocks that it covers."""
    if not sk.out_of_order_queue:
        sk.selective_acks = []
    else:
        sk.selective_acks = [b for b in sk.selective_acks if before(sk.rcv_nxt, b[0])]
    sk.rx_opt.num_sacks = len(sk.selective_acks)


def tcp_sack_compress_send_ack(sk: tcp_sock) -> None:
    """ACKs are held back: send one before something else does."""
    if not sk.compressed_ack:
        return
    tcp_cancel_compressed_ack(sk)
    NET_ADD_STATS(sk.sk_net, LINUX_MIB_TCPACKCOMPRESSED, sk.compressed_ack - 1)
    sk.compressed_ack = 0
    tcp_output.tcp_send_ack(sk)


def tcp_cancel_compressed_ack(sk: tcp_sock) -> None:
    hrtimer_cancel(sk.sk_net, sk.compressed_ack_timer)


# -- received data ---------------------------------------------------------------------------------------------------


def tcp_queue_rcv(sk: tcp_sock, skb: sk_buff) -> bool:
    """Append in-order data to the receive queue; whether they were merged into the last packet there."""
    queue = sk.sk_receive_queue
    end_seq = skb.cb.end_seq
    eaten = bool(queue) and skb.len < _MAX_COPIED and tcp_try_coalesce(sk, queue[-1], skb)
    sk.bytes_received += (end_seq - sk.rcv_nxt) & MASK32
    sk.rcv_nxt = end_seq
    if eaten:
        consume_skb(skb)  # kfree_skb_partial()
    else:
        queue.append(skb)
        skb_set_owner_r(skb, sk)
    return eaten


def tcp_try_coalesce(sk: tcp_sock, to: sk_buff, from_: sk_buff) -> bool:
    """Merge a small packet into the tail's unused room, so that small writes do not eat the buffer by their overhead.

    The kernel copies into the tail's linear area; here its payload becomes another fragment, and only as much as would
    have fitted there is merged, so that the budget is spent at the same pace."""
    tcb, cb = to.cb, from_.cb
    if cb.seq != tcb.end_seq or tcb.tcp_flags & TCPHDR_FIN:
        return False
    used = to.tail + to.data_len + (_SKB_HEADROOM if to.data else 0)
    if from_.len > to.truesize - _SKB_NO_TAIL - used:
        return False
    if from_.len:
        if len(to.frags) >= _MAX_COALESCED:
            to.frags = [b"".join(to.frags)]
        to.frags.append(memoryview(from_.head)[from_.data : from_.tail])
        to.frags += from_.frags  # of one that others were merged into while it waited behind a hole
        to.len += from_.len
        to.data_len += from_.len
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPRCVCOALESCE)
    tcb.end_seq = cb.end_seq
    tcb.ack_seq = cb.ack_seq
    tcb.tcp_flags |= cb.tcp_flags
    if from_.tstamp:
        to.tstamp = from_.tstamp
    return True


def tcp_data_ready(sk: tcp_sock) -> None:
    """Wake the reader, if there is as much as it asked for or no more can come."""
    if tcp.tcp_epollin_ready(sk, sk.sk_rcvlowat) or sk.sk_flags & SOCK_DONE:
        sk.sk_data_ready(sk)


def tcp_can_ingest(sk: tcp_sock) -> bool:
    """Whether the receive buffer is not overfull: what a segment costs does not count before it is in."""
    return sk.sk_rmem_alloc <= sk.sk_rcvbuf


def tcp_try_rmem_schedule(sk: tcp_sock, skb: sk_buff, size: int) -> int:
    """Make room for a packet: 0, or -1 if the buffer is full and pruning did not help."""
    if not tcp_can_ingest(sk) or not sk_rmem_schedule(sk, skb, size):
        if tcp_prune_queue(sk, skb) < 0:
            return -1
        while not sk_rmem_schedule(sk, skb, size):
            if not tcp_prune_ofo_queue(sk, skb):
                return -1
    return 0


def tcp_prune_queue(sk: tcp_sock, skb: sk_buff) -> int:
    """The receive buffer is full: grow it if allowed, else copy small packets together, else give up out-of-order data.
    0 if there is room now."""
    NET_INC_STATS(sk.sk_net, LINUX_MIB_PRUNECALLED)
    if sk.sk_rmem_alloc >= sk.sk_rcvbuf:
        tcp_clamp_window(sk)
    elif tcp_under_memory_pressure(sk):
        tcp_adjust_rcv_ssthresh(sk)
    if tcp_can_ingest(sk):
        return 0
    tcp_collapse_ofo_queue(sk)
    if sk.sk_receive_queue:
        waiting = list(sk.sk_receive_queue)
        sk.sk_receive_queue.clear()
        sk.sk_receive_queue.extend(tcp_collapse(sk, waiting, sk.copied_seq, sk.rcv_nxt))
    if tcp_can_ingest(sk):
        return 0
    # Collapsing did not help: data are given up.
    tcp_prune_ofo_queue(sk, skb)
    if tcp_can_ingest(sk):
        return 0
    NET_INC_STATS(sk.sk_net, LINUX_MIB_RCVPRUNED)
    sk.pred_flags = 0
    return -1


def tcp_collapse_one(sk: tcp_sock, skb: sk_buff) -> None:
    """All that this packet holds was copied out of it, or read."""
    consume_skb(skb)
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPRCVCOLLAPSED)


def tcp_collapse(sk: tcp_sock, skbs: list[sk_buff], start: int, end: int) -> list[sk_buff]:
    """Copy the bytes from ``start`` to ``end`` out of packets that take much more memory than they have payload, into
    packets of a page; the queue as it is then.  What comes before the first such packet stays as it is, and so does a
    FIN and what is behind it."""
    kept: list[sk_buff] = []
    at = 0
    while at < len(skbs):
        skb = skbs[at]
        if not before(start, skb.cb.end_seq):
            tcp_collapse_one(sk, skb)
        elif _worth_collapsing(sk, skbs, at, start):
            break
        else:
            start = skb.cb.end_seq
            kept.append(skb)
        at += 1
    if at == len(skbs) or skbs[at].cb.tcp_flags & (TCPHDR_SYN | TCPHDR_FIN):
        return kept + skbs[at:]
    while before(start, end) and at < len(skbs) and not skbs[at].cb.tcp_flags & (TCPHDR_SYN | TCPHDR_FIN):
        nskb, at = _collapse_page(sk, skbs, at, start, min((end - start) & MASK32, _SKB_MAX_ORDER))
        kept.append(nskb)
        start = nskb.cb.end_seq
    return kept + skbs[at:]


def _worth_collapsing(sk: tcp_sock, skbs: list[sk_buff], at: int, start: int) -> bool:
    """The packet is bloated, partly read, or overlaps the next one."""
    skb = skbs[at]
    cb = skb.cb
    if not cb.tcp_flags & (TCPHDR_SYN | TCPHDR_FIN):
        if tcp_win_from_space(sk, skb.truesize) > skb.len or before(cb.seq, start):
            return True
    return bool(at + 1 < len(skbs) and cb.end_seq != skbs[at + 1].cb.seq)


def _collapse_page(
    sk: tcp_sock, skbs: list[sk_buff], at: int, start: int, size: int
) -> tuple[sk_buff, int]:
    """One new packet with ``size`` bytes from ``start`` on, fewer if a FIN is met; and which packet is next."""
    first = skbs[at]
    pieces: list[memoryview] = []
    seq = start
    while size > 0:
        skb = skbs[at]
        there = min((skb.cb.end_seq - seq) & MASK32, size)
        pieces += tcp.skb_slices(skb, (seq - skb.cb.seq) & MASK32, there)
        seq = (seq + there) & MASK32
        size -= there
        if seq == skb.cb.end_seq:
            tcp_collapse_one(sk, skb)
            at += 1
            while at < len(skbs) and not after(skbs[at].cb.end_seq, seq):
                tcp_collapse_one(sk, skbs[at])
                at += 1
            if at == len(skbs) or skbs[at].cb.tcp_flags & (TCPHDR_SYN | TCPHDR_FIN):
                break
    data = b"".join(pieces)
    nskb = sk_buff(data, 0, len(data))
    nskb.truesize = rx_truesize(len(data) - _SKB_HEADROOM)
    nskb.cb = tcp_skb_cb(start, seq, first.cb.tcp_flags)
    nskb.cb.ack_seq = first.cb.ack_seq
    nskb.h_th, nskb.tstamp = first.h_th, first.tstamp
    skb_set_owner_r(nskb, sk)
    return nskb, at


def tcp_collapse_ofo_queue(sk: tcp_sock) -> None:
    """Collapse each run of out-of-order packets without a hole that is a page long, or of several packets; a queue of
    many tiny runs is not worth the work."""
    queue = sk.out_of_order_queue
    collapsed: list[sk_buff] = []
    tiny = at = 0
    while at < len(queue):
        head, first = queue[at], at
        start, end, truesize = head.cb.seq, head.cb.end_seq, head.truesize
        at += 1
        while at < len(queue) and not after(queue[at].cb.seq, end):
            truesize += queue[at].truesize
            end = queue[at].cb.end_seq if after(queue[at].cb.end_seq, end) else end
            at += 1
        run = queue[first:at]
        if truesize != head.truesize or (end - start) & MASK32 >= _SKB_MAX_ORDER:
            run = tcp_collapse(sk, run, start, end)
        else:
            tiny += truesize
            if tiny > sk.sk_rcvbuf >> 3:
                collapsed += run
                break
        collapsed += run
    sk.out_of_order_queue = collapsed + queue[at:]


def tcp_prune_ofo_queue(sk: tcp_sock, in_skb: sk_buff) -> bool:
    """Drop out-of-order packets from the far end, an eighth of the buffer at a time; of later kernels never for one
    beyond them.  The peer may rely on our SACKs no longer: they are forgotten."""
    queue = sk.out_of_order_queue
    pruned = False
    goal = sk.sk_rcvbuf >> 3
    always = not sk.sk_net.profile.ofo_prune_in_order
    while queue and (always or before(in_skb.cb.seq, queue[-1].cb.seq)):
        skb = queue.pop()
        pruned = True
        goal -= skb.truesize
        kfree_skb_reason(skb, SKB_DROP_REASON_TCP_OFO_QUEUE_PRUNE)
        if goal <= 0 or not queue:
            if tcp_can_ingest(sk) and not tcp_under_memory_pressure(sk):
                break
            goal = sk.sk_rcvbuf >> 3
    if pruned:
        NET_INC_STATS(sk.sk_net, LINUX_MIB_OFOPRUNED)
        if sk.rx_opt.sack_ok:
            tcp_sack_reset(sk.rx_opt)
            sk.selective_acks = []
    return pruned


def tcp_rcv_spurious_retrans(sk: tcp_sock, skb: sk_buff) -> None:
    """A whole segment came again.  If the last DSACK began with it too, our ACKs do not arrive: another transmit hash
    may lead them by another path.  If an AccECN option stood beside that DSACK, it may be what the path drops: no more
    of them (RFC 9768, section 3.2.3.2.2)."""
    last = sk.duplicate_sack
    if last is None or skb.cb.seq != last[0]:
        return
    profile = sk.sk_net.profile
    if sk.accecn_opt_sent_w_dsack and profile.accecn_offered:
        sk.accecn_fail_mode |= TCP_ACCECN_OPT_FAIL_SEND
    if (profile.duplicate_data_rehash or skb.protocol == ETH_P_IPV6) and sk_rethink_txhash(sk):
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPDUPLICATEDATAREHASH)


def tcp_data_queue(sk: tcp_sock, skb: sk_buff) -> None:
    """Data (and FIN) of a validated segment find their queue."""
    cb = skb.cb
    seq, end_seq = cb.seq, cb.end_seq
    if seq == end_seq:
        consume_skb(skb)
        return
    skb_pull(skb, skb.h_th.doff << 2)
    sk.rx_opt.dsack = False
    rcv_nxt = sk.rcv_nxt
    if seq == rcv_nxt:
        if not tcp_receive_window(sk) and (skb.len or not sk.sk_net.profile.fin_in_zero_window):
            NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPZEROWINDOWDROP)
            _tcp_data_unwanted(sk, skb, SKB_DROP_REASON_TCP_ZEROWINDOW)
            return
        _tcp_queue_and_out(sk, skb)
        return
    if not after(end_seq, rcv_nxt):
        tcp_rcv_spurious_retrans(sk, skb)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_DELAYEDACKLOST)
        tcp_dsack_set(sk, seq, end_seq)
        _tcp_data_unwanted(sk, skb, SKB_DROP_REASON_TCP_OLD_DATA)
        return
    if not before(seq, (rcv_nxt + tcp_receive_window(sk)) & MASK32):
        _tcp_data_unwanted(sk, skb, SKB_DROP_REASON_TCP_OVERWINDOW)
        return
    if before(seq, rcv_nxt):
        tcp_dsack_set(sk, seq, rcv_nxt)
        if not tcp_receive_window(sk):
            NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPZEROWINDOWDROP)
            _tcp_data_unwanted(sk, skb, SKB_DROP_REASON_TCP_ZEROWINDOW)
            return
        _tcp_queue_and_out(sk, skb)
        return
    tcp_data_queue_ofo(sk, skb)


def _tcp_data_unwanted(sk: tcp_sock, skb: sk_buff, reason: int) -> None:
    tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
    inet_csk_schedule_ack(sk)
    kfree_skb_reason(skb, reason)


def _tcp_queue_and_out(sk: tcp_sock, skb: sk_buff) -> None:
    """In order (the part below rcv_nxt is skipped by the reader): queue it, and what follows from behind a hole."""
    first = not sk.sk_receive_queue
    if first and not sk.sk_net.profile.nomem_closes_window:
        sk_forced_mem_schedule(sk, skb.truesize)
    elif tcp_try_rmem_schedule(sk, skb, skb.truesize):
        sk.icsk_ack.pending |= ICSK_ACK_NOMEM | ICSK_ACK_NOW
        inet_csk_schedule_ack(sk)
        sk.sk_data_ready(sk)
        if not first and skb.len:
            NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPRCVQDROP)
            kfree_skb_reason(skb, SKB_DROP_REASON_PROTO_MEM)
            return
        sk_forced_mem_schedule(sk, skb.truesize)
    tcp_queue_rcv(sk, skb)
    if skb.len:
        tcp_event_data_recv(sk, skb)
    if skb.cb.tcp_flags & TCPHDR_FIN:
        tcp_fin(sk)
    if sk.out_of_order_queue:
        tcp_ofo_queue(sk)
        # RFC 5681, section 4.2: acknowledge at once when a hole is filled.
        if not sk.out_of_order_queue:
            sk.icsk_ack.pending |= ICSK_ACK_NOW
    if sk.rx_opt.num_sacks:
        tcp_sack_remove(sk)
    tcp_fast_path_check(sk)
    if not sk.sk_flags & SOCK_DEAD:
        tcp_data_ready(sk)


def tcp_ofo_queue(sk: tcp_sock) -> None:
    """Move what has become in-order from the out-of-order queue to the receive queue."""
    queue = sk.out_of_order_queue
    dsack_high = sk.rcv_nxt
    taken = 0
    for skb in queue:
        cb = skb.cb
        if after(cb.seq, sk.rcv_nxt):
            break
        taken += 1
        if before(cb.seq, dsack_high):
            dsack = dsack_high
            if before(cb.end_seq, dsack_high):
                dsack_high = cb.end_seq
            tcp_dsack_extend(sk, cb.seq, dsack)
        if not after(cb.end_seq, sk.rcv_nxt):
            kfree_skb_reason(skb, SKB_DROP_REASON_TCP_OFO_DROP)
            continue
        fin = cb.tcp_flags & TCPHDR_FIN
        tcp_rcv_nxt_update(sk, cb.end_seq)
        tail = sk.sk_receive_queue[-1] if sk.sk_receive_queue else None
        if tail is not None and skb.len < 512 and tcp_try_coalesce(sk, tail, skb):
            consume_skb(skb)
        else:
            sk.sk_receive_queue.append(skb)
        if fin:
            del queue[:taken]
            tcp_fin(sk)
            return
    del queue[:taken]


def tcp_data_queue_ofo(sk: tcp_sock, skb: sk_buff) -> None:
    """Data behind a hole: keep them sorted, without overlaps, and report them in SACK blocks."""
    net = sk.sk_net
    tcp_ecn_check_ce(sk, skb)
    if tcp_try_rmem_schedule(sk, skb, skb.truesize):
        NET_INC_STATS(net, LINUX_MIB_TCPOFODROP)
        sk.sk_data_ready(sk)
        kfree_skb_reason(skb, SKB_DROP_REASON_PROTO_MEM)
        return
    if net.profile.ofo_measured:
        tcp_measure_rcv_mss(sk, skb)
    sk.pred_flags = 0
    inet_csk_schedule_ack(sk)
    sk.rcv_ooopack += max(skb.gso_segs, 1)
    NET_INC_STATS(net, LINUX_MIB_TCPOFOQUEUE)
    seq, end_seq = skb.cb.seq, skb.cb.end_seq
    queue = sk.out_of_order_queue
    pos = len(queue)
    while pos and after(queue[pos - 1].cb.seq, seq):
        pos -= 1
    if pos and before(seq, queue[pos - 1].cb.end_seq):
        prev_end = queue[pos - 1].cb.end_seq
        if not after(end_seq, prev_end):
            NET_INC_STATS(net, LINUX_MIB_TCPOFOMERGE)
            tcp_dsack_set(sk, seq, end_seq)
            if tcp_is_sack(sk):
                tcp_sack_new_ofo_skb(sk, seq, end_seq)
            kfree_skb_reason(skb, SKB_DROP_REASON_TCP_OFOMERGE)
            return
        tcp_dsack_set(sk, seq, prev_end)
    if pos == len(queue) and pos and tcp_ooo_try_coalesce(sk, queue[-1], skb):
        if tcp_is_sack(sk):
            tcp_grow_window(sk, skb)
            tcp_sack_new_ofo_skb(sk, seq, end_seq)
        consume_skb(skb)
        return
    queue.insert(pos, skb)
    _drop_covered(sk, queue, pos + 1, end_seq)
    if tcp_is_sack(sk):
        # Without SACK the window stays, so that the ACKs are duplicates and the peer resends at once.
        tcp_sack_new_ofo_skb(sk, seq, end_seq)
        tcp_grow_window(sk, skb)
    skb_set_owner_r(skb, sk)


def tcp_ooo_try_coalesce(sk: tcp_sock, to: sk_buff, from_: sk_buff) -> bool:
    """Merge into the last packet of the out-of-order queue, of which it is the continuation."""
    return from_.len < _MAX_COPIED and tcp_try_coalesce(sk, to, from_)


def _drop_covered(sk: tcp_sock, queue: list[sk_buff], pos: int, end_seq: int) -> None:
    """Packets after the new one that it covers go; one that it covers in part stays, the overlap is a DSACK."""
    while pos < len(queue) and after(end_seq, queue[pos].cb.seq):
        other = queue[pos]
        if before(end_seq, other.cb.end_seq):
            tcp_dsack_extend(sk, other.cb.seq, end_seq)
            return
        del queue[pos]
        tcp_dsack_extend(sk, other.cb.seq, other.cb.end_seq)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPOFOMERGE)
        kfree_skb_reason(other, SKB_DROP_REASON_TCP_OFOMERGE)


# -- after the segment ----------------------------------------------------------------------------------------------


def tcp_should_expand_sndbuf(sk: tcp_sock) -> bool:
    if sk.sk_userlocks & SOCK_SNDBUF_LOCK or sk.sk_net.ipv4.tcp_memory_pressure:
        return False
    return sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out < sk.snd_cwnd


def tcp_new_space(sk: tcp_sock) -> None:
    if tcp_should_expand_sndbuf(sk):
        tcp_sndbuf_expand(sk)
        sk.snd_cwnd_stamp = sk.sk_net.tcp_jiffies32
    sk.sk_write_space(sk)


def tcp_check_space(sk: tcp_sock) -> None:
    """A writer found the send buffer full: wake it if there is room now."""
    socket_ = sk.sk_socket
    if socket_ is not None and socket_.flags & SOCK_NOSPACE:
        tcp_new_space(sk)
        if not socket_.flags & SOCK_NOSPACE:
            tcp_output.tcp_chrono_stop(sk, TCP_CHRONO_SNDBUF_LIMITED)


def tcp_data_snd_check(sk: tcp_sock) -> None:
    """The segment may have opened a window: send what waits."""
    if sk.sk_write_queue:
        tcp_output.__tcp_push_pending_frames(sk, tcp_output.tcp_current_mss(sk), sk.nonagle)
    tcp_check_space(sk)


def __tcp_ack_snd_check(sk: tcp_sock, ofo_possible: bool) -> None:
    """An ACK is owed: send it now, later, or with others.

    Now: more than one full segment came and the window can move, or quick-ACK mode, or it was asked for.  Out of order:
    the first three at once, then compressed, at most a twentieth of the round trip and 1 ms late."""
    ack = sk.icsk_ack
    if (
        (
            (sk.rcv_nxt - sk.rcv_wup) & MASK32 > ack.rcv_mss
            and (
                (sk.rcv_nxt - sk.copied_seq) & MASK32 < sk.sk_rcvlowat
                or tcp_output.__tcp_select_window(sk) >= sk.rcv_wnd
            )
        )
        or tcp_in_quickack_mode(sk)
        or ack.pending & ICSK_ACK_NOW
    ):
        tcp_output.tcp_send_ack(sk)
        return
    if not ofo_possible or not sk.out_of_order_queue:
        tcp_output.tcp_send_delayed_ack(sk)
        return
    _compress_ack(sk)


def _compress_ack(sk: tcp_sock) -> None:
    ipv4 = sk.sk_net.ipv4
    if not tcp_is_sack(sk) or sk.compressed_ack >= ipv4.sysctl_tcp_comp_sack_nr:
        tcp_output.tcp_send_ack(sk)
        return
    if sk.compressed_ack_rcv_nxt != sk.rcv_nxt:
        sk.compressed_ack_rcv_nxt = sk.rcv_nxt
        sk.dup_ack_counter = 0
    if sk.dup_ack_counter < TCP_FASTRETRANS_THRESH:
        sk.dup_ack_counter += 1
        tcp_output.tcp_send_ack(sk)
        return
    sk.compressed_ack += 1
    if hrtimer_is_queued(sk.compressed_ack_timer):
        return
    rtt = sk.rcv_rtt_est.rtt_us
    if sk.srtt_us and (not rtt or sk.srtt_us < rtt):
        rtt = sk.srtt_us
    # rtt is scaled by 8: a twentieth of the round trip is 6.25 ns for each unit of 1/8 us
    delay = min(ipv4.sysctl_tcp_comp_sack_delay_ns, rtt * 25 // 4)
    hrtimer_start(sk.sk_net, sk.compressed_ack_timer, sk.sk_net.clock.now_ns() + delay)


def tcp_ack_snd_check(sk: tcp_sock) -> None:
    if inet_csk_ack_scheduled(sk):
        __tcp_ack_snd_check(sk, True)


# -- urgent data ----------------------------------------------------------------------------------------------------


def tcp_check_urg(sk: tcp_sock, th: tcphdr, seq: int) -> None:
    """A new urgent pointer: remember it (it points one past the urgent byte, as BSD has it, unless tcp_stdurg)."""
    ptr = th.urg_ptr
    if ptr and not sk.sk_net.ipv4.sysctl_tcp_stdurg:
        ptr -= 1
    ptr = (ptr + seq) & MASK32
    if after(sk.copied_seq, ptr) or before(ptr, sk.rcv_nxt):
        return
    if sk.urg_data and not after(ptr, sk.urg_seq):
        return
    if sk.urg_data and sk.urg_seq == sk.copied_seq != sk.rcv_nxt and not sk.sk_flags & SOCK_URGINLINE:
        _skip_read_urgent(sk)
    sk.urg_data = TCP_URG_NOTYET
    sk.urg_seq = ptr
    sk.pred_flags = 0


def _skip_read_urgent(sk: tcp_sock) -> None:
    """The reader stands at an urgent byte, which is to be read out of band only, and a new one takes over: without this
    the old one would be read as data."""
    sk.copied_seq = (sk.copied_seq + 1) & MASK32
    queue = sk.sk_receive_queue
    if queue and not before(sk.copied_seq, queue[0].cb.end_seq):
        tcp.tcp_eat_recv_skb(sk, queue[0])


def tcp_urg(sk: tcp_sock, skb: sk_buff, th: tcphdr) -> None:
    """Fetch the urgent byte as soon as it arrives, also ahead of the data before it."""
    if th.flags & TCPHDR_URG:
        tcp_check_urg(sk, th, skb.cb.seq)
    if sk.urg_data != TCP_URG_NOTYET:
        return
    ptr = ((sk.urg_seq - skb.cb.seq) & MASK32) + (th.doff << 2)
    if th.flags & TCPHDR_SYN:
        ptr -= 1
    if ptr < skb.len:
        sk.urg_data = TCP_URG_VALID | skb.head[skb.data + ptr]
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_data_ready(sk)


# -- the connection is there -----------------------------------------------------------------------------------------


def tcp_init_transfer(sk: tcp_sock, skb: sk_buff | None) -> None:
    """All that begins with ESTABLISHED: MTU probing, congestion control, buffers."""
    sk.icsk_af_ops.rebuild_header(sk)  #> // icsk->icsk_af_ops->rebuild_header
    # Initialize the congestion window: one segment if the SYN-ACK was lost more than once (RFC 5681, section 3.1;
    # measured: 10 after one resend, 1 after two).
    if sk.total_retrans > 1 and sk.undo_marker:
        sk.snd_cwnd = 1
    else:
        sk.snd_cwnd = tcp_init_cwnd(sk, sk.sk_dst_cache)
    sk.snd_cwnd_stamp = tcp_jiffies32(sk.sk_net)
    if not sk.icsk_ca_initialized:
        tcp_cong.tcp_init_congestion_control(sk)
    tcp_output.tcp_mtup_init(sk)
    tcp_init_buffer_space(sk)


def tcp_rcv_established(sk: tcp_sock, skb: sk_buff) -> None:
    """A segment for a connection in ESTABLISHED: header prediction, then the fast or the slow path."""
    tcp_output.tcp_mstamp_refresh(sk)
    sk.rx_opt.saw_tstamp = False
    th = skb.h_th
    cb = skb.cb
    word = th.doff << 28 | th.flags << 16 | th.window
    if th.res1 and sk.sk_net.profile.accecn:
        word |= (th.res1 & 1) << 24
    if (
        word & TCP_HP_BITS == sk.pred_flags
        and cb.seq == sk.rcv_nxt
        and not after(cb.ack_seq, sk.snd_nxt)
        and _tcp_rcv_fast(sk, skb, th)
    ):
        return
    net = sk.sk_net
    if skb.len < th.doff << 2 or tcp_checksum_complete(skb):
        TCP_INC_STATS(net, TCP_MIB_CSUMERRORS)
        TCP_INC_STATS(net, TCP_MIB_INERRS)
        kfree_skb_reason(skb, SKB_DROP_REASON_TCP_CSUM)
        return
    if not th.flags & (TCPHDR_ACK | TCPHDR_RST | TCPHDR_SYN):
        kfree_skb_reason(skb, SKB_DROP_REASON_TCP_FLAGS)
        return
    if not tcp_validate_incoming(sk, skb, th, True):
        return
    if (cb.ip_dsfield & INET_ECN_MASK or sk.prev_ecnfield) and net.profile.accecn:
        tcp_ecn_received_counters(sk, skb, max(skb.len - (th.doff << 2), 0))
    reason = tcp_ack(sk, skb, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT)
    if reason < 0:
        kfree_skb_reason(skb, -reason)
        return
    if sk.rx_opt.saw_tstamp:
        tcp_rcv_rtt_measure_ts(sk, skb)
    tcp_urg(sk, skb, th)
    tcp_data_queue(sk, skb)
    tcp_data_snd_check(sk)
    tcp_ack_snd_check(sk)


def tcp_checksum_complete(skb: sk_buff) -> bool:
    """Whether the checksum is wrong: never here, tcp_v4_rcv has verified it (the kernel defers that for long
    segments)."""
    return False


def _tcp_rcv_fast(sk: tcp_sock, skb: sk_buff, th: tcphdr) -> bool:
    """Header prediction hit; returns False if the slow path has to look after all."""
    cb = skb.cb
    rx_opt = sk.rx_opt
    tcp_header_len = sk.tcp_header_len
    rx_opt.sack_blocks = []
    if tcp_header_len == 20 + TCPOLEN_TSTAMP_ALIGNED:
        if not tcp_parse_aligned_timestamp(sk, skb):
            return False
        if (rx_opt.rcv_tsval - rx_opt.ts_recent) & MASK32 >= _SIGN:
            return False
    if skb.len <= tcp_header_len:
        if skb.len < tcp_header_len:
            TCP_INC_STATS(sk.sk_net, TCP_MIB_INERRS)
            kfree_skb_reason(skb, SKB_DROP_REASON_PKT_TOO_SMALL)
            return True
        if rx_opt.saw_tstamp and sk.rcv_nxt == sk.rcv_wup:
            tcp_store_ts_recent(sk)
        if (cb.ip_dsfield & INET_ECN_MASK or sk.prev_ecnfield) and sk.sk_net.profile.accecn:
            tcp_ecn_received_counters(sk, skb, 0)
        tcp_ack(sk, skb, 0)
        consume_skb(skb)
        tcp_data_snd_check(sk)
        sk.rcv_rtt_last_tsecr = rx_opt.rcv_tsecr
        return True
    # The kernel leaves data that exceed the forward allocation to the slow path.  It ends the same, but for an old ACK
    # that the slow path would refuse: so only those go there.
    truesize = skb.truesize
    predicted = truesize <= sk.sk_forward_alloc
    if not predicted and (
        before(cb.ack_seq, sk.snd_una)
        or truesize > sk.sk_rcvbuf - sk.sk_rmem_alloc
        or not sk_rmem_schedule(sk, skb, truesize)
    ):
        return False
    net = sk.sk_net
    if net.profile.beyond_window_dropped and tcp_sequence(sk, cb.seq, cb.end_seq, th.flags):
        return False
    if rx_opt.saw_tstamp:
        if sk.rcv_nxt == sk.rcv_wup:
            tcp_store_ts_recent(sk)
        tcp_rcv_rtt_measure_ts(sk, skb)
    if predicted:
        NET_INC_STATS(net, LINUX_MIB_TCPHPHITS)
    rx_opt.dsack = False
    if (cb.ip_dsfield & INET_ECN_MASK or sk.prev_ecnfield) and net.profile.accecn:
        tcp_ecn_received_counters(sk, skb, skb.len - tcp_header_len)
    skb_pull(skb, tcp_header_len)
    tcp_queue_rcv(sk, skb)
    tcp_event_data_recv(sk, skb)
    if cb.ack_seq != sk.snd_una:
        tcp_ack(sk, skb, FLAG_DATA)
        tcp_data_snd_check(sk)
        if inet_csk_ack_scheduled(sk):
            __tcp_ack_snd_check(sk, False)
    else:
        sk.snd_wl1 = cb.seq
        __tcp_ack_snd_check(sk, False)
    tcp_data_ready(sk)
    return True


# -- all other states ------------------------------------------------------------------------------------------------


def tcp_rcv_state_process(sk: tcp_sock, skb: sk_buff) -> int:
    """A segment for a socket in any state but ESTABLISHED and TIME_WAIT.

    Returns 0, or a drop reason that makes the caller send a RST (the packet is the caller's then)."""
    th = skb.h_th
    flags = th.flags
    state = sk.sk_state
    if state == TCP_CLOSE:
        kfree_skb_reason(skb, SKB_DROP_REASON_TCP_CLOSE)
        return 0
    if state == TCP_LISTEN:
        return _rcv_listen(sk, skb, flags)
    if state == TCP_SYN_SENT:
        return _rcv_syn_sent(sk, skb)
    tcp_output.tcp_mstamp_refresh(sk)
    sk.rx_opt.saw_tstamp = False
    req = sk.fastopen_rsk
    if req is not None and not tcp_minisocks.tcp_check_req(sk, skb, req, True):
        kfree_skb_reason(skb, SKB_DROP_REASON_TCP_FASTOPEN)
        return 0
    if not flags & (TCPHDR_ACK | TCPHDR_RST | TCPHDR_SYN):
        kfree_skb_reason(skb, SKB_DROP_REASON_TCP_FLAGS)
        return 0
    if not tcp_validate_incoming(sk, skb, th, False):
        return 0
    reason = tcp_ack(sk, skb, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT | FLAG_NO_CHALLENGE_ACK)
    if reason <= 0:
        if sk.sk_state == TCP_SYN_RECV:
            return -reason or SKB_DROP_REASON_TCP_OLD_ACK
        if reason < 0:
            # RFC 5961, section 5.2
            tcp_send_challenge_ack(sk)
            kfree_skb_reason(skb, -reason)
            return 0
    consumed, result = _rcv_acked(sk, skb)
    if consumed:
        return result
    tcp_urg(sk, skb, th)
    return _rcv_data(sk, skb)


def _rcv_listen(sk: tcp_sock, skb: sk_buff, flags: int) -> int:
    """RFC 9293 section 3.10.7.2: an ACK draws a RST, a clean SYN a connection, the rest silence (measured: also
    SYN+FIN and SYN+RST)."""
    if flags & TCPHDR_ACK:
        return SKB_DROP_REASON_TCP_FLAGS
    if flags & TCPHDR_RST:
        kfree_skb_reason(skb, SKB_DROP_REASON_TCP_RESET)
        return 0
    if flags & TCPHDR_SYN:
        if flags & TCPHDR_FIN:
            kfree_skb_reason(skb, SKB_DROP_REASON_TCP_FLAGS)
            return 0
        reason: int = sk.icsk_af_ops.conn_request(sk, skb)  #> // icsk->icsk_af_ops->conn_request
        if reason < 0:
            return -reason
        if reason:
            kfree_skb_reason(skb, reason)
        else:
            consume_skb(skb)
        return 0
    kfree_skb_reason(skb, SKB_DROP_REASON_TCP_FLAGS)
    return 0


def _rcv_acked(sk: tcp_sock, skb: sk_buff) -> tuple[bool, int]:
    """What a good ACK does in each state; (True, result) if the packet ends here."""
    state = sk.sk_state
    if state == TCP_SYN_RECV:
        #> -> sk_state == TCP_SYN_RECV
        _syn_recv_acked(sk, skb)
    elif state == TCP_FIN_WAIT1:
        return _fin_wait1_acked(sk, skb)
    elif state == TCP_CLOSING:
        if sk.snd_una == sk.write_seq:
            tcp_minisocks.tcp_time_wait(sk, TCP_TIME_WAIT, 0)
            consume_skb(skb)
            return True, 0
    elif state == TCP_LAST_ACK:
        if sk.snd_una == sk.write_seq:
            tcp_metrics.tcp_update_metrics(sk)
            tcp.tcp_done(sk)
            consume_skb(skb)
            return True, 0
    return False, 0


def tcp_rcv_synrecv_state_fastopen(sk: tcp_sock) -> None:
    """The third segment of a Fast Open child: its request has done its work, and the retransmit timer is free for
    what was sent meanwhile."""
    if sk.icsk_ca_state == TCP_CA_Loss and not sk.packets_out:
        tcp_try_undo_loss(sk, False)
    sk.retrans_stamp = 0
    sk.icsk_retransmits = 0
    if sk.fastopen_rsk is not None:
        request_sock.reqsk_fastopen_remove(sk, sk.fastopen_rsk, False)
    tcp_rearm_rto(sk)


def _syn_recv_acked(sk: tcp_sock, skb: sk_buff) -> None:
    """The third segment: the connection is established."""
    sk.delivered += 1
    req = sk.fastopen_rsk
    if sk.ecn_flags & TCP_ECN_MODE_ACCECN:
        tcp_accecn_third_ack(sk, skb, sk.syn_ect_snt)
    if not sk.srtt_us:
        tcp_synack_rtt_meas(sk, req)
    if sk.rx_opt.tstamp_ok:
        sk.advmss -= TCPOLEN_TSTAMP_ALIGNED
    if req is not None:
        tcp_rcv_synrecv_state_fastopen(sk)
    else:
        tcp_try_undo_spurious_syn(sk)
        sk.retrans_stamp = 0
        tcp_init_transfer(sk, skb)
        sk.copied_seq = sk.rcv_nxt
    tcp.tcp_set_state(sk, TCP_ESTABLISHED)
    #> TCP_ESTABLISHED
    sk.sk_state_change(sk)  #> sk->sk_state_change ->
    if req is None:
        # Where older kernels have it; newer ones begin tcp_init_transfer with it, to the same effect.
        tcp_metrics.tcp_init_metrics(sk)
    sk.snd_una = skb.cb.ack_seq
    sk.snd_wnd = skb.h_th.window << sk.rx_opt.snd_wscale
    sk.snd_wl1 = skb.cb.seq
    if not sk.icsk_ca_ops.cong_control:
        tcp_update_pacing_rate(sk)
    sk.lsndtime = tcp_jiffies32(sk.sk_net)
    tcp_initialize_rcv_mss(sk)
    tcp_fast_path_on(sk)
    if sk.sk_shutdown & SEND_SHUTDOWN:
        tcp.tcp_shutdown(sk, SEND_SHUTDOWN)
    #> // out of switch


def _fin_wait1_acked(sk: tcp_sock, skb: sk_buff) -> tuple[bool, int]:
    """Is our FIN acknowledged?  Then FIN_WAIT2; a socket without an owner waits there for 60 s at most, in a
    TIME_WAIT socket as soon as that is short."""
    if sk.fastopen_rsk is not None:
        tcp_rcv_synrecv_state_fastopen(sk)
    if sk.snd_una != sk.write_seq:
        return False, 0
    tcp.tcp_set_state(sk, TCP_FIN_WAIT2)
    sk.sk_shutdown |= SEND_SHUTDOWN
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_state_change(sk)
        return False, 0
    net = sk.sk_net
    cb = skb.cb
    fin = 1 if skb.h_th.flags & TCPHDR_FIN else 0
    if sk.linger2 < 0:
        tcp.tcp_done(sk)
        NET_INC_STATS(net, LINUX_MIB_TCPABORTONDATA)
        return True, SKB_DROP_REASON_TCP_CLOSE
    if cb.end_seq != cb.seq and after((cb.end_seq - fin) & MASK32, sk.rcv_nxt):
        # Data for a socket that nobody reads any more: RST.
        tcp.tcp_done(sk)
        NET_INC_STATS(net, LINUX_MIB_TCPABORTONDATA)
        return True, SKB_DROP_REASON_TCP_CLOSE
    tmo = tcp_fin_time(sk)
    if tmo > TCP_TIMEWAIT_LEN:
        inet_connection_sock.inet_csk_reset_keepalive_timer(sk, tmo - TCP_TIMEWAIT_LEN)
    elif fin:
        # The FIN may be lost on its way to TIME_WAIT's side: keep the full socket for it.
        inet_connection_sock.inet_csk_reset_keepalive_timer(sk, tmo)
    else:
        tcp_minisocks.tcp_time_wait(sk, TCP_FIN_WAIT2, tmo)
        consume_skb(skb)
        return True, 0
    return False, 0


def _data_beyond_end(sk: tcp_sock, skb: sk_buff) -> bool:
    """New data that nobody can read, behind the peer's own FIN or after a shutdown for reading: the connection is reset
    (RFC 1122, 4.2.2.13)."""
    cb = skb.cb
    if not sk.sk_shutdown & RCV_SHUTDOWN or cb.end_seq == cb.seq:
        return False
    fin = 1 if skb.h_th.flags & TCPHDR_FIN else 0
    if not after((cb.end_seq - fin) & MASK32, sk.rcv_nxt):
        return False
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPABORTONDATA)
    tcp_reset(sk, skb)
    return True


def _rcv_data(sk: tcp_sock, skb: sk_buff) -> int:
    """The data of the segment, in the states in which there can be any."""
    state = sk.sk_state
    cb = skb.cb
    queued = False
    if state in (TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK):
        if before(cb.seq, sk.rcv_nxt):
            if _data_beyond_end(sk, skb):
                return SKB_DROP_REASON_TCP_CLOSE
            tcp_data_queue(sk, skb)
            queued = True
    elif state in (TCP_FIN_WAIT1, TCP_FIN_WAIT2):
        if _data_beyond_end(sk, skb):
            return SKB_DROP_REASON_TCP_CLOSE
        tcp_data_queue(sk, skb)
        queued = True
    elif state == TCP_ESTABLISHED:
        #> // switch TCP_ESTABLISHED
        tcp_data_queue(sk, skb)
        queued = True
    if sk.sk_state != TCP_CLOSE:
        tcp_data_snd_check(sk)
        tcp_ack_snd_check(sk)
    if not queued:
        consume_skb(skb)
    return 0


# -- the active open ---------------------------------------------------------------------------------------------------


def _rcv_syn_sent(sk: tcp_sock, skb: sk_buff) -> int:
    """A segment in SYN_SENT: 0, or the reason for the caller to answer with a RST."""
    sk.rx_opt.saw_tstamp = False
    tcp_output.tcp_mstamp_refresh(sk)
    queued = tcp_rcv_synsent_state_process(sk, skb, skb.h_th)
    if queued >= 0:
        return queued
    tcp_urg(sk, skb, skb.h_th)
    consume_skb(skb)
    tcp_data_snd_check(sk)
    return 0


def tcp_rcv_synsent_state_process(sk: tcp_sock, skb: sk_buff, th: tcphdr) -> int:
    """RFC 9293 section 3.10.7.3.  0: the segment ends here; -1: we are connected and data may be sent; otherwise the
    reason for a RST.  Data and FIN of a SYN-ACK are not taken: the peer resends them."""
    rx_opt = sk.rx_opt
    saved_clamp = rx_opt.mss_clamp
    foc = tcp_fastopen_cookie()
    tcp_parse_options(sk.sk_net, skb, rx_opt, False, foc)
    if th.flags & TCPHDR_ACK:
        reason = _synsent_ack_refused(sk, skb)
        if reason:
            return _synsent_undo(sk, saved_clamp, reason)
        if th.flags & TCPHDR_RST:
            tcp_reset(sk, skb)
            consume_skb(skb)
            return 0
        if th.flags & TCPHDR_SYN:
            return _synsent_established(sk, skb, th, foc)
    elif not th.flags & TCPHDR_RST:
        if rx_opt.ts_recent_stamp and rx_opt.saw_tstamp and tcp_paws_reject(rx_opt, False, sk.sk_net):
            kfree_skb_reason(skb, SKB_DROP_REASON_TCP_RFC7323_PAWS)
            return _synsent_undo(sk, saved_clamp, 0)
        if th.flags & TCPHDR_SYN:
            return _synsent_crossed(sk, skb, th)
    rst = th.flags & TCPHDR_RST
    kfree_skb_reason(skb, SKB_DROP_REASON_TCP_RESET if rst else SKB_DROP_REASON_TCP_FLAGS)
    return _synsent_undo(sk, saved_clamp, 0)


def _synsent_undo(sk: tcp_sock, saved_clamp: int, result: int) -> int:
    """The options of a segment that did not count are forgotten."""
    tcp_clear_options(sk.rx_opt)
    sk.rx_opt.mss_clamp = saved_clamp
    return result


def _synsent_ack_refused(sk: tcp_sock, skb: sk_buff) -> int:
    """Why an ACK cannot be one of our SYN's: 0 if it can."""
    ack_seq = skb.cb.ack_seq
    rx_opt = sk.rx_opt
    if not after(ack_seq, sk.snd_una) or after(ack_seq, sk.snd_nxt):
        # Of an older connection of the peer's.  Our RST ends that, so the SYN is worth another try right away.
        if not sk.icsk_retransmits:
            inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, TCP_TIMEOUT_MIN, TCP_RTO_MAX)
        return SKB_DROP_REASON_TCP_INVALID_SEQUENCE
    if rx_opt.saw_tstamp and rx_opt.rcv_tsecr:
        echoed = (rx_opt.rcv_tsecr - sk.tsoffset) & MASK32
        if not between(echoed, sk.retrans_stamp, tcp_time_stamp(sk)):
            NET_INC_STATS(sk.sk_net, LINUX_MIB_PAWSACTIVEREJECTED)
            return SKB_DROP_REASON_TCP_RFC7323_PAWS
    return 0


def tcp_rcv_fastopen_synack(sk: tcp_sock, synack: sk_buff, cookie: tcp_fastopen_cookie) -> bool:
    """What the SYN-ACK says of Fast Open (RFC 7413, section 4.2.2): remember the cookie and the MSS, and send the
    SYN's data again at once if they were not taken.  True then: the segment is acknowledged with them."""
    data = tcp_rtx_queue_head(sk) if sk.syn_data else None
    try_exp = 0
    syn_drop = False
    if not sk.syn_fastopen:
        cookie.len = -1  # nobody asked for it
    elif sk.total_retrans:
        # Neither a cookie nor an ACK of the data: the peer probably saw only the SYN that was sent again.
        syn_drop = cookie.len < 0 and data is not None
    elif cookie.len < 0 and not sk.syn_data:
        # No answer to the wish for a cookie: try the experimental option next time, and the other again after that.
        try_exp = 2 if sk.syn_fastopen_exp else 1
    tcp_metrics.tcp_fastopen_cache_set(sk, _mss_of_synack(sk, synack), cookie, syn_drop, try_exp)
    if data is not None:
        sk.fastopen_client_fail = TFO_SYN_RETRANSMITTED if sk.total_retrans else TFO_DATA_NOT_ACKED
        for skb in sk.tcp_rtx_queue:
            tcp_mark_skb_lost(sk, skb)
        tcp_non_congestion_loss_retransmit(sk)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPFASTOPENACTIVEFAIL)
        return True
    sk.syn_data_acked = sk.syn_data
    if sk.syn_data_acked:
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPFASTOPENACTIVE)
        if sk.delivered > 1:
            sk.delivered -= 1  # SYN and data were two packets to tcp_ack()
    tcp_fastopen.tcp_fastopen_add_skb(sk, synack)
    return False


def _mss_of_synack(sk: tcp_sock, synack: sk_buff) -> int:
    """What the peer said, even if TCP_MAXSEG bounds what we send."""
    mss = sk.rx_opt.mss_clamp
    if mss != sk.rx_opt.user_mss:
        return mss
    opt = tcp_options_received()
    tcp_parse_options(sk.sk_net, synack, opt, False, None)
    return opt.mss_clamp


def _synsent_established(sk: tcp_sock, skb: sk_buff, th: tcphdr, foc: tcp_fastopen_cookie) -> int:
    """A SYN-ACK for our SYN."""
    rx_opt = sk.rx_opt
    seq = skb.cb.seq
    tcp_ecn_rcv_synack(sk, skb, th)
    sk.snd_wl1 = seq
    tcp_try_undo_spurious_syn(sk)
    tcp_ack(sk, skb, FLAG_SLOWPATH)
    sk.rcv_nxt = sk.rcv_wup = (seq + 1) & MASK32
    # RFC 7323, section 2.2: the window field of a SYN segment is never scaled.
    sk.snd_wnd = th.window
    if not rx_opt.wscale_ok:
        rx_opt.snd_wscale = rx_opt.rcv_wscale = 0
        sk.window_clamp = min(sk.window_clamp, TCP_MAX_WINDOW)
    if rx_opt.saw_tstamp:
        sk.advmss -= TCPOLEN_TSTAMP_ALIGNED
    _synsent_time_stamps(sk)
    tcp_output.tcp_sync_mss(sk, sk.icsk_pmtu_cookie)
    tcp_initialize_rcv_mss(sk)
    sk.copied_seq = sk.rcv_nxt
    tcp_finish_connect(sk, skb)
    fastopen_fail = (sk.syn_fastopen or sk.syn_data) and tcp_rcv_fastopen_synack(sk, skb, foc)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_state_change(sk)
    if fastopen_fail:
        return -1
    if sk.icsk_accept_queue.rskq_defer_accept or inet_csk_in_pingpong_mode(sk):
        # TCP_DEFER_ACCEPT or TCP_QUICKACK 0: our first data will carry this ACK, soon.
        inet_csk_schedule_ack(sk)
        tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_DACK, TCP_DELACK_MAX, TCP_RTO_MAX)
        consume_skb(skb)
        return 0
    tcp_send_ack_reflect_ect(sk, True)
    return -1


def _synsent_time_stamps(sk: tcp_sock) -> None:
    """Both ends offered time stamps, or one did not."""
    sk.tcp_header_len = TCP_HEADER_LEN
    if sk.rx_opt.saw_tstamp:
        sk.rx_opt.tstamp_ok = True
        sk.tcp_header_len += TCPOLEN_TSTAMP_ALIGNED
        tcp_store_ts_recent(sk)


def _synsent_crossed(sk: tcp_sock, skb: sk_buff, th: tcphdr) -> int:
    """A SYN that crossed ours (RFC 9293, section 3.5, figure 7): answer with SYN-ACK."""
    tcp.tcp_set_state(sk, TCP_SYN_RECV)
    _synsent_time_stamps(sk)
    seq = skb.cb.seq
    sk.rcv_nxt = sk.rcv_wup = sk.copied_seq = (seq + 1) & MASK32
    sk.snd_wnd = sk.max_window = th.window
    sk.snd_wl1 = seq
    tcp_ecn_rcv_syn(sk, skb, th)
    tcp_output.tcp_mtup_init(sk)
    tcp_output.tcp_sync_mss(sk, sk.icsk_pmtu_cookie)
    tcp_initialize_rcv_mss(sk)
    tcp_output.tcp_send_synack(sk)
    consume_skb(skb)
    return 0


def tcp_finish_connect(sk: tcp_sock, skb: sk_buff | None) -> None:
    """SYN_SENT to ESTABLISHED."""
    tcp.tcp_set_state(sk, TCP_ESTABLISHED)
    now = tcp_jiffies32(sk.sk_net)
    sk.icsk_ack.lrcvtime = now
    if skb is not None:
        sk.icsk_af_ops.sk_rx_dst_set(sk, skb)
    tcp_metrics.tcp_init_metrics(sk)
    tcp_init_transfer(sk, skb)
    # An idle time has not begun yet: the first data may use all of the window.
    sk.lsndtime = now
    if sk.sk_flags & SOCK_KEEPOPEN:
        inet_connection_sock.inet_csk_reset_keepalive_timer(sk, keepalive_time_when(sk))
    if sk.rx_opt.snd_wscale:
        sk.pred_flags = 0
    else:
        tcp_fast_path_on(sk)


# -- a SYN for a listener ----------------------------------------------------------------------------------------------


def tcp_openreq_init(req: tcp_request_sock, rx_opt: tcp_options_received, skb: sk_buff, sk: tcp_sock) -> None:
    """What a request remembers of the SYN."""
    seq = skb.cb.seq
    req.rsk_rcv_wnd = 0
    req.rcv_isn = seq
    req.rcv_nxt = (seq + 1) & MASK32
    req.mss = rx_opt.mss_clamp
    req.ts_recent = rx_opt.rcv_tsval if rx_opt.saw_tstamp else 0
    req.tstamp_ok = rx_opt.tstamp_ok
    req.sack_ok = bool(rx_opt.sack_ok)
    req.snd_wscale = rx_opt.snd_wscale
    req.wscale_ok = rx_opt.wscale_ok
    req.acked = False
    req.ecn_ok = False
    th = skb.h_th
    req.ir_rmt_port = th.source
    req.ir_num = th.dest
    req.ir_mark = skb.mark or sk.sk_mark


def inet_reqsk_alloc(ops: request_sock_ops, sk_listener: tcp_sock, attach_listener: bool) -> tcp_request_sock:
    req: tcp_request_sock = reqsk_alloc(ops, sk_listener, attach_listener)
    assert (sk_listener.sk_state, TCP_NEW_SYN_RECV) in TCP_TRANSITIONS, "a request of what does not listen"
    req.ireq_state = TCP_NEW_SYN_RECV
    #> ireq->ireq_state = TCP_NEW_SYN_RECV;
    return req


def tcp_ecn_create_request(req: tcp_request_sock, skb: sk_buff, sk: tcp_sock, dst: dst_entry) -> None:
    """Accept an ECN offer (RFC 3168, section 6.1.1) if the sysctl allows and the SYN itself is not ECT.  A SYN with any
    reserved bit set, as one that offers Accurate ECN, may be ECT.  A listener whose congestion control lives on ECN
    accepts any offer.  An accurate one (RFC 9768) is accepted as such with a tcp_ecn of 3 to 5, which only kernels
    have that offer it themselves."""
    net = sk.sk_net
    flags = skb.h_th.flags
    if net.profile.accecn and net.ipv4.sysctl_tcp_ecn >= TCP_ECN_IN_ACCECN_OUT_ACCECN:
        if tcp_accecn_syn_requested(skb.h_th):
            req.ecn_ok = req.accecn_ok = True
            req.syn_ect_rcv = skb.cb.ip_dsfield & INET_ECN_MASK
            return
    if flags & (TCPHDR_ECE | TCPHDR_CWR) != TCPHDR_ECE | TCPHDR_CWR:
        return
    ect = skb.cb.ip_dsfield & INET_ECN_MASK != INET_ECN_NOT_ECT
    if (net.ipv4.sysctl_tcp_ecn and (not ect or skb.h_th.res1)) or tcp_ca_needs_ecn(sk):
        req.ecn_ok = True


def tcp_syn_flood_action(sk: tcp_sock) -> bool:
    """The SYN queue is full: whether to answer with a cookie."""
    net = sk.sk_net
    queue = sk.icsk_accept_queue
    if net.ipv4.sysctl_tcp_syncookies:
        NET_INC_STATS(net, LINUX_MIB_TCPREQQFULLDOCOOKIES)
        want_cookie = True
    else:
        NET_INC_STATS(net, LINUX_MIB_TCPREQQFULLDROP)
        want_cookie = False
    queue.synflood_warned = 1
    return want_cookie


def tcp_reqsk_record_syn(sk: tcp_sock, req: tcp_request_sock, skb: sk_buff) -> None:
    """TCP_SAVE_SYN: keep the SYN's headers for TCP_SAVED_SYN on the child."""
    if not sk.save_syn:
        return
    start = skb.network_header if sk.save_syn < 2 else skb.mac_header
    th_len = skb.h_th.doff << 2
    end = skb.transport_header + th_len
    req.saved_syn = saved_syn(
        bytes(skb.head[start:end]),
        skb.network_header - start,
        skb.transport_header - skb.network_header,
        th_len,
    )


def tcp_conn_request(
    rsk_ops: request_sock_ops, af_ops: tcp_request_sock_ops, sk: tcp_sock, skb: sk_buff
) -> int:
    """A SYN for a listener: make a request, or only a cookie, and answer with a SYN-ACK; or drop it.

    Drops: SYN queue full and no cookies, accept queue full (cookies or not), no route, and without cookies
    an unproven peer in the last quarter of tcp_max_syn_backlog.

    0, the reason of a drop, or a negative one for the caller to answer with a RST (``net.syn_hook``)."""
    net = sk.sk_net
    ipv4 = net.ipv4
    isn = skb.cb.tcp_tw_isn
    want_cookie = False
    if net.syn_hook is not None:
        verdict = net.syn_hook(sk, skb)
        want_cookie = verdict is SynVerdict.COOKIE and ipv4.sysctl_tcp_syncookies != 0
        if verdict is not SynVerdict.ACCEPT and not want_cookie:
            reason = _listen_drop(sk, SKB_DROP_REASON_SOCKET_FILTER)
            return -reason if verdict is SynVerdict.RESET else reason
    full = ipv4.sysctl_tcp_syncookies == 2 or inet_csk_reqsk_queue_is_full(sk)
    if full and not isn and not want_cookie:
        want_cookie = tcp_syn_flood_action(sk)
        if not want_cookie:
            return _listen_drop(sk, SKB_DROP_REASON_TCP_SYN_QUEUE_FULL)
    if sk_acceptq_is_full(sk):
        NET_INC_STATS(net, LINUX_MIB_LISTENOVERFLOWS)
        return _listen_drop(sk, SKB_DROP_REASON_TCP_LISTEN_OVERFLOW)
    req = inet_reqsk_alloc(rsk_ops, sk, not want_cookie)  #> req =
    req.syncookie = want_cookie
    req.af_specific = af_ops
    tmp_opt = tcp_options_received()
    tmp_opt.mss_clamp = af_ops.mss_clamp
    tmp_opt.user_mss = sk.rx_opt.user_mss
    foc = tcp_fastopen_cookie()
    tcp_parse_options(net, skb, tmp_opt, False, None if want_cookie else foc)
    if want_cookie and not tmp_opt.saw_tstamp:
        # Only a time stamp can carry options through a cookie.
        tcp_clear_options(tmp_opt)
    tmp_opt.tstamp_ok = tmp_opt.saw_tstamp
    tcp_openreq_init(req, tmp_opt, skb, sk)
    req.no_srccheck = sk.transparent
    if sk.ao_info is not None:
        tcp_ao.tcp_ao_init_request(req, skb)
    af_ops.init_req(req, sk, skb)
    if not want_cookie and not isn:
        isn = af_ops.init_seq(skb, req)
    elif tmp_opt.tstamp_ok:
        req.ts_off = af_ops.init_ts_off(net, skb)
    fl4 = flowi4()
    dst = af_ops.route_req(sk, skb, fl4, req)
    if dst is None or (not want_cookie and not skb.cb.tcp_tw_isn and _backlog_refuses(sk, req, dst)):
        reqsk_free(req)
        return _listen_drop(
            sk, SKB_DROP_REASON_IP_OUTNOROUTES if dst is None else SKB_DROP_REASON_TCP_SYN_QUEUE_FULL
        )
    tcp_ecn_create_request(req, skb, sk, dst)
    if want_cookie:
        isn = syncookies.cookie_init_sequence(af_ops, sk, skb, req)
        if not tmp_opt.tstamp_ok:
            req.ecn_ok = False
    req.snt_isn = isn
    req.txhash = net.rng.get_random_u32() or 1
    req.syn_tos = skb.cb.ip_dsfield
    tcp_minisocks.tcp_openreq_init_rwin(req, sk, dst)
    if want_cookie:
        af_ops.send_synack(sk, dst, fl4, req, None, TCP_SYNACK_COOKIE, skb)
        reqsk_free(req)
        return 0
    tcp_reqsk_record_syn(sk, req, skb)
    fastopen_sk = tcp_fastopen.tcp_try_fastopen(sk, skb, req, foc, dst)
    if fastopen_sk is not None:
        af_ops.send_synack(fastopen_sk, dst, fl4, req, foc, TCP_SYNACK_FASTOPEN, skb)
        inet_connection_sock.inet_csk_reqsk_queue_add(sk, req, fastopen_sk)
        sk.sk_data_ready(sk)
        return 0
    req.tfo_listener = False
    req.timeout = TCP_TIMEOUT_INIT
    inet_connection_sock.inet_csk_reqsk_queue_hash_add(sk, req, req.timeout)
    af_ops.send_synack(sk, dst, fl4, req, foc, TCP_SYNACK_NORMAL, skb)
    return 0


def _backlog_refuses(sk: tcp_sock, req: tcp_request_sock, dst: dst_entry) -> bool:
    """Without cookies the last quarter of the backlog is for peers that were seen alive before."""
    ipv4 = sk.sk_net.ipv4
    backlog = ipv4.sysctl_max_syn_backlog
    return (
        not ipv4.sysctl_tcp_syncookies
        and backlog - inet_csk_reqsk_queue_len(sk) < backlog >> 2
        and not tcp_metrics.tcp_peer_is_proven(req, dst)
    )


def _listen_drop(sk: tcp_sock, reason: int) -> int:
    tcp_listendrop(sk)
    return reason
