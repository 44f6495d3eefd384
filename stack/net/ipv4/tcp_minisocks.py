# SPDX-License-Identifier: GPL-2.0-or-later
"""The small sockets before and after a connection: net/ipv4/tcp_minisocks.c.

Theory of operation
-------------------
A segment for a request (TCP_NEW_SYN_RECV) is judged by ``tcp_check_req``, in this order:

    segment                                       answer                                      request
    SYN again (same ISN, no ACK or RST)           SYN-ACK, one per 500 ms                      stays, timer anew
    ACK of anything but our ISN + 1               RST (the listener's answer)                  stays
    outside the window, or TSval too old (PAWS)   ACK, one per 500 ms (none to a RST)          stays
    RST, sequence not exact                       challenge ACK, one per 500 ms                stays
    RST, exact                                    nothing                                      dies
    SYN inside the window                         RST                                          dies
    no ACK                                        nothing                                      stays
    bare ACK, TCP_DEFER_ACCEPT                    nothing                                      stays, marked acked
    ACK, accept queue full                        nothing (RST with tcp_abort_on_overflow)     stays, marked acked
    ACK                                           child                                        accept queue

A segment for a TIME_WAIT socket is judged by ``tcp_timewait_state_process``: TCP_TW_SUCCESS (drop), TCP_TW_ACK
(repeat our last ACK), TCP_TW_RST, TCP_TW_SYN (a new connection may begin: RFC 6191, RFC 1122 section 4.2.2.13).
The same object stands in for a closed socket in FIN_WAIT2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_NOT_SPECIFIED,
    SKB_DROP_REASON_TCP_ABORT_ON_OVERFLOW,
    SKB_DROP_REASON_TCP_FLAGS,
    SKB_DROP_REASON_TCP_INVALID_SYN,
    SKB_DROP_REASON_TCP_LISTEN_OVERFLOW,
    SKB_DROP_REASON_TCP_OVERWINDOW,
    SKB_DROP_REASON_TCP_RESET,
    SKB_DROP_REASON_TCP_RFC7323_PAWS,
    SKB_NOT_DROPPED_YET,
)
from stack.include.dst import RTAX_INITRWND, RTAX_WINDOW, dst_metric, dst_metric_advmss
from stack.include.inet_timewait_sock import tcp_timewait_sock
from stack.include.ip import INET_ECN_MASK
from stack.include.request_sock import reqsk_free
from stack.include.snmp import (
    LINUX_MIB_EMBRYONICRSTS,
    LINUX_MIB_PAWS_TW_REJECTED,
    LINUX_MIB_PAWSESTABREJECTED,
    LINUX_MIB_TCPACKSKIPPEDFINWAIT2,
    LINUX_MIB_TCPACKSKIPPEDSYNRECV,
    LINUX_MIB_TCPACKSKIPPEDTIMEWAIT,
    LINUX_MIB_TCPCHALLENGEACK,
    LINUX_MIB_TCPDEFERACCEPTDROP,
    LINUX_MIB_TCPTIMEWAITOVERFLOW,
    LINUX_MIB_TSECRREJECTED,
    NET_INC_STATS,
    TCP_INC_STATS,
    TCP_MIB_ATTEMPTFAILS,
    TCP_MIB_PASSIVEOPENS,
)
from stack.include.sock import SOCK_KEEPOPEN, SOCK_RCVBUF_LOCK, sock_rps_save_rxhash
from stack.include.tcp import (
    TCP_ECN_MODE_ACCECN,
    TCP_ECN_MODE_RFC3168,
    TCP_MSS_DEFAULT,
    TCP_RTO_MAX,
    TCP_SKB_CB,
    TCP_TIMEWAIT_LEN,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCPOLEN_MD5SIG_ALIGNED,
    TCPOLEN_TSTAMP_ALIGNED,
    keepalive_time_when,
    ktime_get_seconds,
    minmax_reset,
    tcp_full_space,
    tcp_hdr,
    tcp_options_received,
    tcp_paws_reject,
    tcp_receive_window,
    tcp_segs_in,
)
from stack.include.tcp_ecn import (
    TCP_ACCECN_ACE_FAIL_RECV,
    TCP_ACCECN_ACE_FAIL_SEND,
    TCP_ACCECN_OPT_COUNTER_SEEN,
    tcp_accecn_ace,
    tcp_accecn_option_init,
    tcp_accecn_third_ack,
    tcp_ecn_received_counters,
)
from stack.include.tcp_states import TCP_FIN_WAIT2, TCP_SYN_RECV, TCP_TIME_WAIT
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies, mod_timer, tcp_jiffies32, timer_pending
from stack.net.core import request_sock
from stack.net.ipv4 import (
    inet_connection_sock,
    tcp,
    tcp_ao,
    tcp_input,
    tcp_metrics,
    tcp_output,
    tcp_timer,
)
from stack.net.ipv4 import (
    inet_timewait_sock as net_inet_timewait_sock,
)
from stack.seqnum import MASK32, after, before, between, diff

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.request_sock import tcp_request_sock
    from stack.include.sk_buff import sk_buff
    from stack.include.tcp import tcp_sock, tcphdr

# enum tcp_tw_status
TCP_TW_SUCCESS: Final = 0
TCP_TW_RST: Final = 1
TCP_TW_ACK: Final = 2
TCP_TW_SYN: Final = 3

TCP_HEADER_LEN: Final = 20


def tcp_in_window(seq: int, end_seq: int, s_win: int, e_win: int) -> bool:
    """Whether a segment touches the window s_win .. e_win (RFC 9293, section 3.10.7.4, first check)."""
    if seq == s_win:
        return True
    if after(end_seq, s_win) and before(seq, e_win):
        return True
    return seq == e_win and seq == end_seq


# -- TIME_WAIT ---------------------------------------------------------------------------------------------------


def tcp_timewait_check_oow_rate_limit(tw: tcp_timewait_sock, skb: sk_buff, mib_idx: int) -> int:
    """Answer something out of window, but not more than twice a second."""
    if not tcp_input.tcp_oow_rate_limited(tw.sk_net, skb, mib_idx, tw):
        return TCP_TW_ACK
    return TCP_TW_SUCCESS


def _tw_parse_options(
    tw: tcp_timewait_sock, skb: sk_buff, th: tcphdr, tmp_opt: tcp_options_received
) -> bool:
    """Whether PAWS rejects the segment."""
    if th.doff <= 5 or not tw.tw_ts_recent_stamp:
        return False
    tcp_input.tcp_parse_options(tw.sk_net, skb, tmp_opt, False, None)
    if not tmp_opt.saw_tstamp:
        return False
    if tmp_opt.rcv_tsecr:
        tmp_opt.rcv_tsecr = (tmp_opt.rcv_tsecr - tw.tw_ts_offset) & MASK32
    tmp_opt.ts_recent = tw.tw_ts_recent
    tmp_opt.ts_recent_stamp = tw.tw_ts_recent_stamp
    return tcp_paws_reject(tmp_opt, th.flags & TCPHDR_RST != 0, tw.sk_net)


def tcp_timewait_state_process(tw: tcp_timewait_sock, skb: sk_buff, th: tcphdr) -> int:
    """What to do about a segment for a connection that is over: TCP_TW_*."""
    tmp_opt = tcp_options_received()
    paws_reject = _tw_parse_options(tw, skb, th, tmp_opt)
    if tw.tw_substate == TCP_FIN_WAIT2:
        return _tw_fin_wait2(tw, skb, th, tmp_opt, paws_reject)
    cb = TCP_SKB_CB(skb)
    rst = th.flags & TCPHDR_RST
    if not paws_reject and cb.seq == tw.tw_rcv_nxt and (cb.seq == cb.end_seq or rst):
        if rst:
            if not tw.sk_net.ipv4.sysctl_tcp_rfc1337:
                net_inet_timewait_sock.inet_twsk_deschedule_put(tw)
                return TCP_TW_SUCCESS
        else:
            net_inet_timewait_sock.inet_twsk_reschedule(tw, TCP_TIMEWAIT_LEN)
        _tw_store_ts_recent(tw, tmp_opt)
        return TCP_TW_SUCCESS
    if not paws_reject and _tw_syn_acceptable(tw, cb, th, tmp_opt):
        if tw.sk_net.profile.tw_syn_isn_from_snd_nxt:
            cb.tcp_tw_isn = (tw.tw_snd_nxt + 65535 + 2) & MASK32 or 1
        return TCP_TW_SYN
    return _tw_old_duplicate(tw, skb, th, paws_reject)


def _tw_store_ts_recent(tw: tcp_timewait_sock, tmp_opt: tcp_options_received) -> None:
    if tmp_opt.saw_tstamp:
        tw.tw_ts_recent = tmp_opt.rcv_tsval
        tw.tw_ts_recent_stamp = ktime_get_seconds(tw.sk_net)


def _tw_syn_acceptable(
    tw: tcp_timewait_sock, cb: Any, th: tcphdr, tmp_opt: tcp_options_received
) -> bool:
    """A SYN that is newer than the old connection by sequence number or time stamp."""
    if th.flags & (TCPHDR_SYN | TCPHDR_RST | TCPHDR_ACK) != TCPHDR_SYN:
        return False
    if after(cb.seq, tw.tw_rcv_nxt):
        return True
    return tmp_opt.saw_tstamp and diff(tw.tw_ts_recent, tmp_opt.rcv_tsval) < 0


def _tw_old_duplicate(tw: tcp_timewait_sock, skb: sk_buff, th: tcphdr, paws_reject: bool) -> int:
    net = tw.sk_net
    if paws_reject:
        NET_INC_STATS(
            net,
            LINUX_MIB_PAWS_TW_REJECTED if net.profile.paws_timewait_counter else LINUX_MIB_PAWSESTABREJECTED,
        )
    if th.flags & TCPHDR_RST:
        return TCP_TW_SUCCESS
    # An ACK or an old duplicate: the peer has not got our last ACK, so it counts the full time again.
    if paws_reject or th.flags & TCPHDR_ACK:
        net_inet_timewait_sock.inet_twsk_reschedule(tw, TCP_TIMEWAIT_LEN)
    return tcp_timewait_check_oow_rate_limit(tw, skb, LINUX_MIB_TCPACKSKIPPEDTIMEWAIT)


def _tw_fin_wait2(
    tw: tcp_timewait_sock, skb: sk_buff, th: tcphdr, tmp_opt: tcp_options_received, paws_reject: bool
) -> int:
    """FIN_WAIT2 without an application: wait for the FIN, refuse data."""
    cb = TCP_SKB_CB(skb)
    flags = th.flags
    rcv_nxt = tw.tw_rcv_nxt
    if paws_reject or not tcp_in_window(cb.seq, cb.end_seq, rcv_nxt, (rcv_nxt + tw.tw_rcv_wnd) & MASK32):
        return tcp_timewait_check_oow_rate_limit(tw, skb, LINUX_MIB_TCPACKSKIPPEDFINWAIT2)
    if flags & TCPHDR_RST:
        net_inet_timewait_sock.inet_twsk_deschedule_put(tw)
        return TCP_TW_SUCCESS
    if flags & TCPHDR_SYN and not before(cb.seq, rcv_nxt):
        return TCP_TW_RST
    if not flags & TCPHDR_ACK or not after(cb.end_seq, rcv_nxt) or cb.end_seq == cb.seq:
        return TCP_TW_SUCCESS
    if not flags & TCPHDR_FIN or cb.end_seq != (rcv_nxt + 1) & MASK32:
        return TCP_TW_RST
    tw.tw_substate = TCP_TIME_WAIT
    tw.tw_rcv_nxt = cb.end_seq
    _tw_store_ts_recent(tw, tmp_opt)
    net_inet_timewait_sock.inet_twsk_reschedule(tw, TCP_TIMEWAIT_LEN)
    return TCP_TW_ACK


def tcp_time_wait(sk: tcp_sock, state: int, timeo: int) -> None:
    """Replace a connection by a TIME_WAIT socket in substate ``state`` for ``timeo`` jiffies (60 s in TIME_WAIT
    itself), and end it."""
    net = sk.sk_net
    tw = net_inet_timewait_sock.inet_twsk_alloc(sk, net.tcp_death_row, state)
    if tw is not None:
        rto = (sk.icsk_rto << 2) - (sk.icsk_rto >> 1)
        _tw_take_over(tw, sk)
        timeo = TCP_TIMEWAIT_LEN if state == TCP_TIME_WAIT else max(timeo, rto)
        net_inet_timewait_sock.inet_twsk_schedule(tw, timeo)
        net_inet_timewait_sock.inet_twsk_hashdance(tw, sk, net.tcp_hashinfo)
    else:
        NET_INC_STATS(net, LINUX_MIB_TCPTIMEWAITOVERFLOW)
    tcp_metrics.tcp_update_metrics(sk)
    tcp.tcp_done(sk)


def _tw_take_over(tw: tcp_timewait_sock, sk: tcp_sock) -> None:
    tw.tw_mark = sk.sk_mark
    tw.ao_info = sk.ao_info
    tw.tw_priority = sk.sk_priority
    tw.tw_rcv_wscale = sk.rx_opt.rcv_wscale
    tw.tw_rcv_nxt = sk.rcv_nxt
    tw.tw_snd_nxt = sk.snd_nxt
    tw.tw_rcv_wnd = tcp_receive_window(sk)
    tw.tw_ts_recent = sk.rx_opt.ts_recent
    tw.tw_ts_recent_stamp = sk.rx_opt.ts_recent_stamp
    tw.tw_ts_offset = sk.tsoffset
    tw.last_oow_ack_time = 0
    if sk.md5sig_info is not None and sk.af_specific is not None:
        tw.tw_md5_key = sk.af_specific.md5_lookup(sk, sk)
    if sk.pinet6 is not None:
        tw.tw_tclass = sk.pinet6.tclass
        tw.tw_flowlabel = sk.pinet6.flow_label
        tw.tw_txhash = sk.sk_txhash



# -- the request -------------------------------------------------------------------------------------------------


def tcp_openreq_init_rwin(req: tcp_request_sock, sk_listener: tcp_sock, dst: dst_entry) -> None:
    """The window that the SYN-ACK offers, and its scale, from the listener's receive buffer."""
    full_space = tcp_full_space(sk_listener)
    mss = tcp_output.tcp_mss_clamp(sk_listener, dst_metric_advmss(dst))
    clamp = sk_listener.window_clamp or dst_metric(dst, RTAX_WINDOW)
    if sk_listener.sk_userlocks & SOCK_RCVBUF_LOCK and (clamp > full_space or not clamp):
        clamp = full_space
    rcv_wnd = dst_metric(dst, RTAX_INITRWND)
    if full_space < rcv_wnd * mss:
        full_space = rcv_wnd * mss
    req.rsk_rcv_wnd, req.rsk_window_clamp, req.rcv_wscale = tcp_output.tcp_select_initial_window(
        sk_listener,
        full_space,
        mss - (TCPOLEN_TSTAMP_ALIGNED if req.tstamp_ok else 0),
        clamp,
        req.wscale_ok,
        rcv_wnd,
    )


def tcp_ecn_openreq_child(sk: tcp_sock, req: tcp_request_sock, skb: sk_buff) -> None:
    """What the handshake decided; of Accurate ECN also what the third segment ``skb`` says and how it came."""
    if not req.accecn_ok:
        sk.ecn_flags = TCP_ECN_MODE_RFC3168 if req.ecn_ok else 0
        return
    sk.ecn_flags = TCP_ECN_MODE_ACCECN
    sk.syn_ect_snt = req.syn_ect_snt
    sk.syn_ect_rcv = sk.prev_ecnfield = req.syn_ect_rcv
    sk.saw_accecn_opt = req.saw_accecn_opt
    sk.accecn_fail_mode = req.accecn_fail_mode
    if req.num_retrans > 1:
        sk.accecn_fail_mode |= TCP_ACCECN_ACE_FAIL_SEND
    sk.accecn_opt_demand = 1
    tcp_accecn_third_ack(sk, skb, req.syn_ect_snt)
    tcp_ecn_received_counters(sk, skb, skb.len - (tcp_hdr(skb).doff << 2))


def tcp_ca_openreq_child(sk: tcp_sock, dst: dst_entry) -> None:
    """Congestion control of the child: the listener's choice, else the default."""
    from stack.net.ipv4 import tcp_cong

    ca_got_dst = False
    if not ca_got_dst and (not sk.icsk_ca_setsockopt or sk.icsk_ca_ops is None):
        tcp_cong.tcp_assign_congestion_control(sk)
    tcp_cong.tcp_set_ca_state(sk, 0)




def _tcp_copy(newtp: tcp_sock, oldtp: tcp_sock) -> None:
    """What a child inherits of struct tcp_sock: the options set on the listener, and tcp_init_sock()'s initial
    values."""
    newtp.nonagle = oldtp.nonagle
    newtp.notsent_lowat = oldtp.notsent_lowat
    newtp.keepalive_time = oldtp.keepalive_time
    newtp.keepalive_intvl = oldtp.keepalive_intvl
    newtp.keepalive_probes = oldtp.keepalive_probes
    newtp.linger2 = oldtp.linger2
    newtp.thin_lto = oldtp.thin_lto
    newtp.recvmsg_inq = oldtp.recvmsg_inq
    newtp.tcp_tx_delay = oldtp.tcp_tx_delay
    newtp.fastopen_connect = oldtp.fastopen_connect
    newtp.save_syn = oldtp.save_syn
    newtp.scaling_ratio = oldtp.scaling_ratio
    newtp.fastopen_no_cookie = oldtp.fastopen_no_cookie
    newtp.af_specific = oldtp.af_specific
    newtp.snd_cwnd = oldtp.snd_cwnd
    newtp.snd_cwnd_clamp = oldtp.snd_cwnd_clamp
    newtp.snd_ssthresh = oldtp.snd_ssthresh
    newtp.app_limited = oldtp.app_limited
    newtp.rate_app_limited = oldtp.rate_app_limited
    newtp.mss_cache = oldtp.mss_cache
    newtp.reordering = oldtp.reordering
    newtp.mdev_us = oldtp.mdev_us
    newtp.icsk_rto = oldtp.icsk_rto
    newtp.rx_opt.user_mss = oldtp.rx_opt.user_mss


def tcp_create_openreq_child(sk: tcp_sock, req: tcp_request_sock, skb: sk_buff) -> tcp_sock:
    """The child of a listener: a full socket in TCP_SYN_RECV with all that the request knew."""
    newsk: tcp_sock = inet_connection_sock.inet_csk_clone_lock(sk, req)
    newsk.sk_txhash = req.txhash
    _tcp_copy(newsk, sk)
    _init_sequence(newsk, req)
    _init_child_timers(newsk)
    _init_child_options(newsk, req, skb)
    if sk.md5sig_info is not None and req.af_specific is not None and sk.sk_net.profile.md5_predicted:
        if req.af_specific.req_md5_lookup(sk, req) is not None:
            newsk.tcp_header_len += TCPOLEN_MD5SIG_ALIGNED
    if req.used_tcp_ao:
        key = tcp_ao.tcp_ao_lookup(sk, req, req.ao_keyid, -1)
        newsk.tcp_header_len += tcp_ao.tcp_ao_len_aligned(key) if key is not None else 0
    if skb.len >= TCP_MSS_DEFAULT + newsk.tcp_header_len:
        newsk.icsk_ack.last_seg_size = skb.len - newsk.tcp_header_len
    tcp_ecn_openreq_child(newsk, req, skb)
    TCP_INC_STATS(sk.sk_net, TCP_MIB_PASSIVEOPENS)
    return newsk


def _init_sequence(tp: tcp_sock, req: tcp_request_sock) -> None:
    seq = (req.rcv_isn + 1) & MASK32
    tp.rcv_wup = tp.copied_seq = tp.rcv_nxt = seq
    tp.segs_in = 1
    seq = (req.snt_isn + 1) & MASK32
    tp.snd_sml = tp.snd_una = tp.snd_nxt = tp.snd_up = seq
    tp.write_seq = tp.pushed_seq = seq
    tp.snd_wl1 = req.rcv_isn
    tp.total_retrans = req.num_retrans
    if req.num_timeout:
        # The SYN-ACK was resent: an ACK of the first one shows that this was needless (RFC 3522's idea).
        tp.undo_marker = req.snt_isn
        tp.retrans_stamp = req.snt_synack // 1000 & MASK32
    tp.tsoffset = req.ts_off


def _init_child_timers(tp: tcp_sock) -> None:
    now = tcp_jiffies32(tp.sk_net)
    minmax_reset(tp.rtt_min, now, MASK32)
    tp.icsk_ack.lrcvtime = now
    tp.lsndtime = now
    tcp_timer.tcp_init_xmit_timers(tp)
    if tp.sk_flags & SOCK_KEEPOPEN:
        inet_connection_sock.inet_csk_reset_keepalive_timer(tp, keepalive_time_when(tp))


def _init_child_options(tp: tcp_sock, req: tcp_request_sock, skb: sk_buff) -> None:
    rx_opt = tp.rx_opt
    rx_opt.tstamp_ok = req.tstamp_ok
    rx_opt.sack_ok = int(req.sack_ok)
    rx_opt.wscale_ok = req.wscale_ok
    rx_opt.mss_clamp = req.mss
    tp.window_clamp = req.rsk_window_clamp
    tp.rcv_ssthresh = tp.rcv_wnd = req.rsk_rcv_wnd
    if req.wscale_ok:
        rx_opt.snd_wscale, rx_opt.rcv_wscale = req.snd_wscale, req.rcv_wscale
    else:
        rx_opt.snd_wscale = rx_opt.rcv_wscale = 0
        tp.window_clamp = min(tp.window_clamp, 65535)
    tp.snd_wnd = tp.max_window = tcp_hdr(skb).window << rx_opt.snd_wscale
    tp.tcp_header_len = TCP_HEADER_LEN
    if rx_opt.tstamp_ok:
        rx_opt.ts_recent = req.ts_recent
        rx_opt.ts_recent_stamp = ktime_get_seconds(tp.sk_net)
        tp.tcp_header_len += TCPOLEN_TSTAMP_ALIGNED


# -- the segment that may complete a request ---------------------------------------------------------------------


def tcp_check_req(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, fastopen: bool) -> Any:
    """Judge a segment for a request: the child if it completed the handshake, the listener ``sk`` if that has to
    answer (with a RST), None if the segment is done with: ``req.drop_reason`` says then why it was dropped, or
    SKB_NOT_DROPPED_YET if it did its work."""
    req.drop_reason = SKB_DROP_REASON_NOT_SPECIFIED
    th: tcphdr = skb.h_th
    cb = TCP_SKB_CB(skb)
    flg = th.flags & (TCPHDR_RST | TCPHDR_SYN | TCPHDR_ACK)
    tmp_opt = tcp_options_received()
    paws_reject = tsecr_reject = False
    if th.doff > 5:
        tcp_input.tcp_parse_options(sk.sk_net, skb, tmp_opt, False, None)
        tsecr_reject = sk.sk_net.profile.tsecr_checked and not fastopen and _req_tsecr_reject(req, tmp_opt)
        paws_reject = _req_paws_reject(sk, req, th, tmp_opt)
    if cb.seq == req.rcv_isn and flg == TCPHDR_SYN and not paws_reject:
        if req.accecn_ok:
            _accecn_syn_again(req, skb, th)
        _retransmitted_syn(sk, skb, req, fastopen)
        return None
    ack_not_ours = flg & TCPHDR_ACK and cb.ack_seq != (req.snt_isn + 1) & MASK32
    if ack_not_ours and not flg & TCPHDR_RST and not fastopen:
        return sk
    window_end = (req.rcv_nxt + req.rsk_rcv_wnd) & MASK32
    if paws_reject or tsecr_reject or not tcp_in_window(cb.seq, cb.end_seq, req.rcv_nxt, window_end):
        _unacceptable(sk, skb, req, flg, paws_reject, tsecr_reject)
        return None
    if flg & TCPHDR_RST and cb.seq != req.rcv_nxt:
        if _send_ack_limited(sk, skb, req):
            NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPCHALLENGEACK)
        req.drop_reason = SKB_DROP_REASON_TCP_RESET
        return None
    if tmp_opt.accecn is not None and req.saw_accecn_opt < TCP_ACCECN_OPT_COUNTER_SEEN:
        req.saw_accecn_opt = tcp_accecn_option_init(tmp_opt.accecn)
    if tmp_opt.saw_tstamp and not after(cb.seq, req.rcv_nxt):
        req.ts_recent = tmp_opt.rcv_tsval
    if cb.seq == req.rcv_isn:
        flg &= ~TCPHDR_SYN  # the old SYN again, in front of something new
    if flg & (TCPHDR_RST | TCPHDR_SYN):
        TCP_INC_STATS(sk.sk_net, TCP_MIB_ATTEMPTFAILS)
        req.drop_reason = SKB_DROP_REASON_TCP_RESET if flg & TCPHDR_RST else SKB_DROP_REASON_TCP_INVALID_SYN
        return _embryonic_reset(sk, skb, req, flg, fastopen)
    if not flg & TCPHDR_ACK:
        req.drop_reason = SKB_DROP_REASON_TCP_FLAGS
        return None
    if fastopen:
        return sk
    return _third_ack(sk, skb, req, flg)


def _req_paws_reject(
    sk: tcp_sock, req: tcp_request_sock, th: tcphdr, tmp_opt: tcp_options_received
) -> bool:
    if not tmp_opt.saw_tstamp:
        return False
    tmp_opt.ts_recent = req.ts_recent
    if tmp_opt.rcv_tsecr:
        tmp_opt.rcv_tsecr = (tmp_opt.rcv_tsecr - req.ts_off) & MASK32
    # A request does not note when it got the peer's time stamp: no longer ago than its timer runs.
    tmp_opt.ts_recent_stamp = ktime_get_seconds(sk.sk_net) - min(req.timeout << req.num_timeout, TCP_RTO_MAX) // HZ
    return tcp_paws_reject(tmp_opt, th.flags & TCPHDR_RST != 0, sk.sk_net)


def _req_tsecr_reject(req: tcp_request_sock, tmp_opt: tcp_options_received) -> bool:
    """Whether the segment echoes a time stamp that no SYN-ACK of ours had (profile switch ``tsecr_checked``).  An echo
    of zero says nothing."""
    if not (req.tstamp_ok and tmp_opt.saw_tstamp and tmp_opt.rcv_tsecr) or req.snt_tsval_first is None:
        return False
    return not between(tmp_opt.rcv_tsecr, req.snt_tsval_first, req.snt_tsval_last)


def _accecn_syn_again(req: tcp_request_sock, skb: sk_buff, th: tcphdr) -> None:
    """The SYN-ACK will tell of this SYN's codepoint.  One without any ECN flags means that the peer has given up on
    them: no ECT to it (RFC 9768, section 3.1.4)."""
    req.syn_ect_rcv = TCP_SKB_CB(skb).ip_dsfield & INET_ECN_MASK
    if not tcp_accecn_ace(th):
        req.accecn_fail_mode |= TCP_ACCECN_ACE_FAIL_RECV


def _retransmitted_syn(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, fastopen: bool) -> None:
    """The peer has not got our SYN-ACK: send it again, and let the timer run anew from here."""
    net = sk.sk_net
    if tcp_input.tcp_oow_rate_limited(net, skb, LINUX_MIB_TCPACKSKIPPEDSYNRECV, req):
        return
    req.drop_reason = SKB_NOT_DROPPED_YET
    if inet_connection_sock.inet_rtx_syn_ack(sk, req) or fastopen:
        return
    if req.rsk_timer is not None and timer_pending(req.rsk_timer):
        mod_timer(net, req.rsk_timer, jiffies(net) + inet_connection_sock.tcp_reqsk_timeout(req))


def _send_ack_limited(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock) -> bool:
    if tcp_input.tcp_oow_rate_limited(sk.sk_net, skb, LINUX_MIB_TCPACKSKIPPEDSYNRECV, req):
        return False
    req.rsk_ops.send_ack(sk, skb, req)
    return True


def _unacceptable(
    sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, flg: int, paws_reject: bool, tsecr_reject: bool
) -> None:
    if not flg & TCPHDR_RST:
        _send_ack_limited(sk, skb, req)
    req.drop_reason = SKB_DROP_REASON_TCP_OVERWINDOW
    if paws_reject:
        req.drop_reason = SKB_DROP_REASON_TCP_RFC7323_PAWS
        NET_INC_STATS(sk.sk_net, LINUX_MIB_PAWSESTABREJECTED)
    elif tsecr_reject:
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TSECRREJECTED)


def _third_ack(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, flg: int) -> Any:
    """The ACK that we wait for: make the child, unless a bare ACK does not count or there is no room."""
    if req.num_timeout < sk.icsk_accept_queue.rskq_defer_accept and TCP_SKB_CB(skb).end_seq == req.rcv_nxt:
        req.acked = True
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPDEFERACCEPTDROP)
        return None
    ops = sk.icsk_af_ops
    child, own_req = ops.syn_recv_sock(sk, skb, req, None, req)  #> // inet_csk(sk)->icsk_af_ops->syn_recv_sock
    if child is None:
        return _listen_overflow(sk, skb, req, flg)
    sock_rps_save_rxhash(child, skb)
    tcp_input.tcp_synack_rtt_meas(child, req)
    return inet_connection_sock.inet_csk_complete_hashdance(sk, child, req, own_req)


def _listen_overflow(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, flg: int) -> None:
    """No child came of it.  The request stays, for a later ACK, unless tcp_abort_on_overflow says otherwise."""
    req.drop_reason = SKB_DROP_REASON_TCP_LISTEN_OVERFLOW
    if not sk.sk_net.ipv4.sysctl_tcp_abort_on_overflow:
        req.acked = True
        return
    req.drop_reason = SKB_DROP_REASON_TCP_ABORT_ON_OVERFLOW
    _embryonic_reset(sk, skb, req, flg, False)


def _embryonic_reset(sk: tcp_sock, skb: sk_buff, req: tcp_request_sock, flg: int, fastopen: bool) -> None:
    """The request dies; the peer hears of it unless it said so itself."""
    if not flg & TCPHDR_RST:
        req.rsk_ops.send_reset(sk, skb)
    elif fastopen:
        request_sock.reqsk_fastopen_remove(sk, req, True)
        tcp_input.tcp_reset(sk, skb)
    if not fastopen:
        if inet_connection_sock.inet_csk_reqsk_queue_drop(sk, req):
            NET_INC_STATS(sk.sk_net, LINUX_MIB_EMBRYONICRSTS)
        reqsk_free(req)


def tcp_child_process(parent: tcp_sock, child: tcp_sock, skb: sk_buff) -> int:
    """Give the segment that made the child to it; the listener's application hears of a child that is established.
    A drop reason, for which the caller sends a RST, or 0."""
    tcp_segs_in(child, skb)
    state = child.sk_state
    ret = tcp_input.tcp_rcv_state_process(child, skb)
    if state == TCP_SYN_RECV and child.sk_state != state:
        parent.sk_data_ready(parent)  #> -> parent->sk_data_ready ->
    return ret
