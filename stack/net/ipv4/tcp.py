# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's socket calls: net/ipv4/tcp.c.

Theory of operation
-------------------
No call blocks.  What would wait in the kernel returns -EAGAIN, and the caller waits on ``sk_wq``.

``tcp_sendmsg`` fills packets of ``size_goal`` bytes (64 KB where the device segments) by reference: an immutable
``bytes`` object is sliced, anything else copied once.  It takes what ``sk_sndbuf`` has room for; the budget is
checked per packet, so a call may overrun it by one.  ``tcp_recvmsg`` copies once, out of the received frames;
``tcp_recv_skbs`` hands out views of them.  Reading calls ``tcp_cleanup_rbuf``, which sends an ACK when reading has
opened the window or when more than one segment is unacknowledged.

Closing, by state (close() with ``__tcp_close``):

    state                        unread data           else
    LISTEN                       -                     unaccepted children get a RST, requests are forgotten
    ESTABLISHED                  RST, CLOSE            FIN, FIN_WAIT1
    CLOSE_WAIT                   RST, CLOSE            FIN, LAST_ACK
    any, SO_LINGER with time 0   RST, CLOSE            RST, CLOSE

An orphan (closed by its application) lives on until the peer is done, or FIN_WAIT2 has lasted ``tcp_fin_time``, or
there are more than tcp_max_orphans.

Left out: splice, TCP_ZEROCOPY_RECEIVE, TCP_REPAIR and ULP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from errno import (
    EAGAIN,
    EALREADY,
    ECONNRESET,
    EINPROGRESS,
    EINVAL,
    ENOENT,
    ENOPROTOOPT,
    ENOTCONN,
    ENOTTY,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
)
from struct import Struct
from typing import Final

from stack.include.dropreason import (
    SKB_DROP_REASON_TCP_AUTH_HDR,
    SKB_DROP_REASON_TCP_MD5FAILURE,
    SKB_DROP_REASON_TCP_MD5NOTFOUND,
    SKB_DROP_REASON_TCP_MD5UNEXPECTED,
    SKB_NOT_DROPPED_YET,
)
from stack.include.inet_connection_sock import (
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    inet_csk_ack_scheduled,
    inet_csk_delack_init,
    inet_csk_enter_pingpong_mode,
    inet_csk_exit_pingpong_mode,
    inet_csk_in_pingpong_mode,
    inet_csk_listen_poll,
)
from stack.include.inet_sock import inet_sk_set_state
from stack.include.ip import MSG_OOB, MSG_PEEK
from stack.include.net import (
    MSG_EOR,
    MSG_ERRQUEUE,
    MSG_FASTOPEN,
    MSG_MORE,
    MSG_TRUNC,
    MSG_ZEROCOPY,
    SIOCATMARK,
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    SOCK_NOSPACE,
    msghdr,
    sockaddr,
)
from stack.include.net_tstamp import SOF_TIMESTAMPING_TX_ACK, SOF_TIMESTAMPING_TX_RECORD_MASK
from stack.include.netdevice import NETIF_F_GSO_MASK
from stack.include.request_sock import tcp_request_sock
from stack.include.sk_buff import CHECKSUM_PARTIAL, Buffer, sk_buff
from stack.include.snmp import (
    LINUX_MIB_TCPABORTONCLOSE,
    LINUX_MIB_TCPABORTONDATA,
    LINUX_MIB_TCPABORTONLINGER,
    LINUX_MIB_TCPABORTONMEMORY,
    LINUX_MIB_TCPAUTOCORKING,
    LINUX_MIB_TCPMD5FAILURE,
    LINUX_MIB_TCPMD5NOTFOUND,
    LINUX_MIB_TCPMD5UNEXPECTED,
    NET_INC_STATS,
    TCP_DEC_STATS,
    TCP_INC_STATS,
    TCP_MIB_ATTEMPTFAILS,
    TCP_MIB_CURRESTAB,
    TCP_MIB_ESTABRESETS,
)
from stack.include.sock import (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLWRNORM,
    INT_MAX,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    SOCK_DEAD,
    SOCK_DONE,
    SOCK_KEEPOPEN,
    SOCK_LINGER,
    SOCK_MIN_RCVBUF,
    SOCK_MIN_SNDBUF,
    SOCK_RCVBUF_LOCK,
    SOCK_URGINLINE,
    SOCK_ZEROCOPY,
    __sk_stream_is_writeable,
    sock_error,
    sock_orphan,
)
from stack.include.tcp import (
    MAX_TCP_KEEPCNT,
    MAX_TCP_KEEPIDLE,
    MAX_TCP_KEEPINTVL,
    MAX_TCP_SYNCNT,
    SOL_TCP,
    TCP_AO_ADD_KEY,
    TCP_AO_DEL_KEY,
    TCP_AO_INFO,
    TCP_CA_NAME_MAX,
    TCP_CC_INFO,
    TCP_CHRONO_BUSY,
    TCP_CM_INQ,
    TCP_CONGESTION,
    TCP_CORK,
    TCP_DEFAULT_SCALING_RATIO,
    TCP_DEFER_ACCEPT,
    TCP_DELACK_MAX,
    TCP_DELACK_MAX_US,
    TCP_ECN_DISABLED,
    TCP_ECN_MODE_ACCECN,
    TCP_ECN_MODE_ANY,
    TCP_ECN_MODE_PENDING,
    TCP_ECN_MODE_RFC3168,
    TCP_ECN_SEEN,
    TCP_FASTOPEN,
    TCP_FASTOPEN_CONNECT,
    TCP_FASTOPEN_KEY,
    TCP_FASTOPEN_KEY_BUF_LENGTH,
    TCP_FASTOPEN_KEY_LENGTH,
    TCP_FASTOPEN_NO_COOKIE,
    TCP_FIN_TIMEOUT_MAX,
    TCP_INFINITE_SSTHRESH,
    TCP_INFO,
    TCP_INIT_CWND,
    TCP_INQ,
    TCP_IS_MPTCP,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_LINGER2,
    TCP_MAXSEG,
    TCP_MD5SIG,
    TCP_MD5SIG_EXT,
    TCP_MIN_MSS,
    TCP_MSS_DEFAULT,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_NODELAY,
    TCP_NOTSENT_LOWAT,
    TCP_QUICKACK,
    TCP_RTO_MAX,
    TCP_RTO_MIN,
    TCP_RTO_MIN_US,
    TCP_SAVE_SYN,
    TCP_SAVED_SYN,
    TCP_SYNCNT,
    TCP_THIN_DUPACK,
    TCP_THIN_LINEAR_TIMEOUTS,
    TCP_TIMEOUT_INIT,
    TCP_TIMEOUT_MIN,
    TCP_TIMESTAMP,
    TCP_TIMEWAIT_LEN,
    TCP_TX_DELAY,
    TCP_ULP,
    TCP_URG_READ,
    TCP_URG_VALID,
    TCP_USER_TIMEOUT,
    TCP_WINDOW_CLAMP,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TCPI_OPT_ECN,
    TCPI_OPT_ECN_SEEN,
    TCPI_OPT_SACK,
    TCPI_OPT_SYN_DATA,
    TCPI_OPT_TFO_CHILD,
    TCPI_OPT_TIMESTAMPS,
    TCPI_OPT_WSCALE,
    TFO_CLIENT_ENABLE,
    TFO_STATUS_UNSPEC,
    TSQF_THROTTLED,
    TCP_CA_Open,
    fastopen_queue_tune,
    keepalive_intvl_when,
    keepalive_probes,
    keepalive_time_when,
    minmax_reset,
    tcp_fast_path_check,
    tcp_fastopen_request,
    tcp_fin_time,
    tcp_inq,
    tcp_is_sack,
    tcp_min_rtt,
    tcp_options_received,
    tcp_passive_fastopen,
    tcp_receive_window,
    tcp_skb_cb,
    tcp_sock,
    tcp_space_from_win,
    tcp_win_from_space,
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
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
    TCPF_CLOSE,
    TCPF_CLOSE_WAIT,
    TCPF_CLOSING,
    TCPF_ESTABLISHED,
    TCPF_FIN_WAIT1,
    TCPF_FIN_WAIT2,
    TCPF_LAST_ACK,
    TCPF_LISTEN,
    TCPF_SYN_RECV,
    TCPF_SYN_SENT,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies_to_msecs, jiffies_to_usecs, tcp_jiffies32
from stack.net.core import request_sock, scm, skbuff, stream
from stack.net.core import sock as core_sock
from stack.net.core.skbuff import consume_skb
from stack.net.ipv4 import (
    af_inet,
    inet_connection_sock,
    inet_hashtables,
    tcp_ao,
    tcp_cong,
    tcp_fastopen,
    tcp_input,
    tcp_ipv4,
    tcp_minisocks,
    tcp_output,
    tcp_rate,
    tcp_timer,
)
from stack.net.ipv4 import (
    tcp_bbr as tcp_bbr,  # these register themselves, as built-in modules of the kernel do
)
from stack.net.ipv4 import tcp_cubic as tcp_cubic
from stack.net.ipv4 import tcp_dctcp as tcp_dctcp
from stack.seqnum import MASK32, after, diff

# tcp_close_state(): the next state and whether a FIN goes out, by the state now.
TCP_STATE_MASK: Final = 0xF
TCP_ACTION_FIN: Final = 1 << TCP_CLOSE
new_state = {
    TCP_ESTABLISHED: TCP_FIN_WAIT1 | TCP_ACTION_FIN,
    TCP_SYN_SENT: TCP_CLOSE,
    TCP_SYN_RECV: TCP_FIN_WAIT1 | TCP_ACTION_FIN,
    TCP_FIN_WAIT1: TCP_FIN_WAIT1,
    TCP_FIN_WAIT2: TCP_FIN_WAIT2,
    TCP_TIME_WAIT: TCP_CLOSE,
    TCP_CLOSE: TCP_CLOSE,
    TCP_CLOSE_WAIT: TCP_LAST_ACK | TCP_ACTION_FIN,
    TCP_LAST_ACK: TCP_LAST_ACK,
    TCP_LISTEN: TCP_CLOSE,
    TCP_CLOSING: TCP_CLOSING,
}

# Small writes are joined into one buffer when a packet has this many (MAX_SKB_FRAGS is 17).
_MAX_FRAGS: Final = 64


# -- birth --------------------------------------------------------------------------------------------------------


def tcp_init_sock(sk: tcp_sock) -> int:
    """Initial values of a new socket, before it knows its address family's."""
    ipv4 = sk.sk_net.ipv4
    tcp_timer.tcp_init_xmit_timers(sk)
    sk.icsk_rto = TCP_TIMEOUT_INIT
    sk.icsk_rto_min = TCP_RTO_MIN
    sk.icsk_delack_max = TCP_DELACK_MAX
    sk.mdev_us = jiffies_to_usecs(TCP_TIMEOUT_INIT)
    minmax_reset(sk.rtt_min, tcp_jiffies32(sk.sk_net), MASK32)
    sk.snd_cwnd = TCP_INIT_CWND
    sk.app_limited = MASK32
    sk.rate_app_limited = True
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    sk.snd_cwnd_clamp = MASK32
    sk.mss_cache = TCP_MSS_DEFAULT
    sk.reordering = ipv4.sysctl_tcp_reordering
    tcp_cong.tcp_assign_congestion_control(sk)
    if sk.sk_net.profile.window_by_scaling_ratio:
        sk.scaling_ratio = TCP_DEFAULT_SCALING_RATIO
    sk.tsoffset = 0
    sk.sk_state = TCP_CLOSE
    sk.sk_write_space = stream.sk_stream_write_space
    sk.icsk_sync_mss = tcp_output.tcp_sync_mss
    sk.sk_sndbuf = ipv4.sysctl_tcp_wmem[1]
    sk.sk_rcvbuf = ipv4.sysctl_tcp_rmem[1]
    return 0


# -- readiness ----------------------------------------------------------------------------------------------------


def tcp_epollin_ready(sk: tcp_sock, target: int) -> bool:
    """Whether a reader that wants ``target`` bytes can go on: they are there, or no more will come, since the buffer
    or the window is all but full."""
    avail = (sk.rcv_nxt - sk.copied_seq) & MASK32  # what is read is never ahead of what came
    if not avail:
        return False
    return avail >= target or tcp_rmem_pressure(sk) or tcp_receive_window(sk) <= sk.icsk_ack.rcv_mss


def tcp_rmem_pressure(sk: tcp_sock) -> bool:
    """include/net/tcp.h: seven eighths of the receive buffer are taken, or TCP as a whole is short of memory."""
    if sk.sk_net.ipv4.tcp_memory_pressure:
        return True
    return sk.sk_rmem_alloc > sk.sk_rcvbuf - (sk.sk_rcvbuf >> 3)


def sock_rcvlowat(sk: tcp_sock, waitall: int, length: int) -> int:
    """include/net/sock.h: how many bytes a reader of ``length`` waits for."""
    return (length if waitall else min(sk.sk_rcvlowat, length)) or 1


def tcp_set_rcvlowat(sk: tcp_sock, val: int) -> int:
    """SO_RCVLOWAT: at most half of what the buffer may become, which grows so far that so much fits into it."""
    locked = sk.sk_userlocks & SOCK_RCVBUF_LOCK
    cap = (sk.sk_rcvbuf if locked else sk.sk_net.ipv4.sysctl_tcp_rmem[2]) >> 1
    sk.sk_rcvlowat = min(val, cap) or 1
    tcp_input.tcp_data_ready(sk)
    if not locked:
        _grow_for_rcvlowat(sk, min(val, cap))
    return 0


def _grow_for_rcvlowat(sk: tcp_sock, val: int) -> None:
    space = tcp_space_from_win(sk, val)
    if space <= sk.sk_rcvbuf:
        return
    sk.sk_rcvbuf = space
    if not sk.scaling_ratio:
        sk.window_clamp = tcp_win_from_space(sk, space)
    elif 0 < sk.window_clamp < val:
        sk.window_clamp = val


def tcp_stream_is_readable(sk: tcp_sock, target: int) -> bool:
    return tcp_epollin_ready(sk, target)


def tcp_poll(sk: tcp_sock) -> int:
    """The EPOLL bits that hold now."""
    state = sk.sk_state
    if state == TCP_LISTEN:
        return inet_csk_listen_poll(sk)
    mask = 0
    shutdown = sk.sk_shutdown
    if shutdown == SHUTDOWN_MASK or state == TCP_CLOSE:
        mask |= EPOLLHUP
    if shutdown & RCV_SHUTDOWN:
        mask |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP
    if state not in (TCP_SYN_SENT, TCP_SYN_RECV) or tcp_passive_fastopen(sk):
        target = sock_rcvlowat(sk, 0, INT_MAX)
        if sk.urg_data and sk.urg_seq == sk.copied_seq and not sk.sk_flags & SOCK_URGINLINE:
            target += 1
        if tcp_stream_is_readable(sk, target):
            mask |= EPOLLIN | EPOLLRDNORM
        if sk.urg_data & TCP_URG_VALID:
            mask |= EPOLLPRI
        if not shutdown & SEND_SHUTDOWN:
            if __sk_stream_is_writeable(sk, 1):
                mask |= EPOLLOUT | EPOLLWRNORM
            elif sk.sk_socket is not None:
                sk.sk_socket.flags |= SOCK_NOSPACE
        else:
            mask |= EPOLLOUT | EPOLLWRNORM
    elif state == TCP_SYN_SENT and sk.defer_connect:
        mask |= EPOLLOUT | EPOLLWRNORM  # it is the write that sends the SYN
    if sk.sk_err or sk.sk_error_queue:
        mask |= EPOLLERR
    return mask


# -- sending --------------------------------------------------------------------------------------------------------


def tcp_free_fastopen_req(tp: tcp_sock) -> None:
    """What a SYN should have carried is sent, or given up."""
    tp.fastopen_req = None


def tcp_sendmsg_fastopen(sk: tcp_sock, data: bytes, addr: sockaddr | None) -> tuple[int, int]:
    """MSG_FASTOPEN, or the first write after a connect() with TCP_FASTOPEN_CONNECT: connect with data in the SYN
    (RFC 7413, section 4.2.2).  (0 or a negative errno, how many bytes the SYN took)."""
    if not sk.sk_net.ipv4.sysctl_tcp_fastopen & TFO_CLIENT_ENABLE or (addr is not None and addr[:2] == (0, 0)):
        return -EOPNOTSUPP, 0
    if sk.fastopen_req is not None:
        return -EALREADY, 0  # another one waits for the same SYN
    assert sk.sk_socket is not None
    request = sk.fastopen_req = tcp_fastopen_request(data)
    if sk.defer_connect and tcp_output.tcp_connect(sk):
        # As connect() itself would have failed; what it returns is found by the state.
        tcp_set_state(sk, TCP_CLOSE)
        sk.sk_dport = 0
        sk.sk_route_caps = 0
    err = af_inet.__inet_stream_connect(sk.sk_socket, addr, 0, True)
    if sk.fastopen_req is not request:
        return err, 0  # a RST or an error came in this call
    copied = request.copied
    tcp_free_fastopen_req(sk)
    sk.defer_connect = False
    return err, copied


def tcp_mark_push(tp: tcp_sock, skb: sk_buff) -> None:
    skb.cb.tcp_flags |= TCPHDR_PSH
    tp.pushed_seq = tp.write_seq


def forced_push(tp: tcp_sock) -> bool:
    """Push at least every half of the largest window."""
    return after(tp.write_seq, (tp.pushed_seq + (tp.max_window >> 1)) & MASK32)


def tcp_skb_entail(sk: tcp_sock, skb: sk_buff) -> None:
    """An empty packet at the end of the write queue."""
    seq = sk.write_seq
    skb.cb = tcp_skb_cb(seq, seq, TCPHDR_ACK)
    sk.sk_write_queue.append(skb)
    sk.sk_wmem_queued += skb.truesize
    if sk.nonagle & TCP_NAGLE_PUSH:
        sk.nonagle &= ~TCP_NAGLE_PUSH
    tcp_input.tcp_slow_start_after_idle_check(sk)
    tcp_output.tcp_chrono_start(sk, TCP_CHRONO_BUSY)


def tcp_should_autocork(sk: tcp_sock, skb: sk_buff, size_goal: int) -> bool:
    """A small packet while the device still holds as much of this socket's: let it fill up (the kernel's
    sk_wmem_alloc begins at one)."""
    return bool(
        skb.len < size_goal
        and sk.sk_net.ipv4.sysctl_tcp_autocorking
        and sk.tcp_rtx_queue
        and sk.sk_wmem_alloc >= skb.truesize
    )


def tcp_push(sk: tcp_sock, flags: int, mss_now: int, nonagle: int, size_goal: int) -> None:
    """The end of a write: send what may go."""
    if not sk.sk_write_queue:
        return
    skb = sk.sk_write_queue[-1]
    if not flags & MSG_MORE or forced_push(sk):
        tcp_mark_push(sk, skb)
    if flags & MSG_OOB:
        tcp_mark_urg(sk)
    if tcp_should_autocork(sk, skb, size_goal):
        if not sk.tsq_flags & TSQF_THROTTLED:
            NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPAUTOCORKING)
            sk.tsq_flags |= TSQF_THROTTLED
        return
    if flags & MSG_MORE:
        nonagle = TCP_NAGLE_CORK
    tcp_output.__tcp_push_pending_frames(sk, mss_now, nonagle)


def tcp_stream_alloc_skb(sk: tcp_sock) -> sk_buff:
    """An empty packet for a queue of the socket's, of as much memory as the kernel's.  For a device that does not
    segment each segment is a packet here, where the kernel has one for many (software GSO): those count for less."""
    skb = sk_buff(b"", 0, 0)
    if sk.sk_route_caps & NETIF_F_GSO_MASK:  # sk_can_gso()
        skb.truesize = sk.sk_net.profile.tx_skb_truesize
    skb.ip_summed = CHECKSUM_PARTIAL
    return skb


def tcp_xmit_size_goal(sk: tcp_sock, mss_now: int, large_allowed: bool) -> int:
    """Bytes to collect in one packet: whole segments up to the device's limit and half the peer's window."""
    if not large_allowed:
        return mss_now
    limit = tcp_output.tcp_bound_to_half_wnd(sk, sk.sk_gso_max_size)
    segs = min(limit // mss_now, sk.sk_gso_max_segs)
    return max(segs, 1) * mss_now


def tcp_send_mss(sk: tcp_sock, flags: int) -> tuple[int, int]:
    """(segment size, packet size) for a write."""
    mss_now = tcp_output.tcp_current_mss(sk)
    large = not flags & MSG_OOB and tcp_output.sk_can_gso(sk)
    return mss_now, tcp_xmit_size_goal(sk, mss_now, large)


def tcp_stream_memory_free(sk: tcp_sock, wake: int) -> bool:
    """Less is unsent than TCP_NOTSENT_LOWAT; to wake a writer, less than half of that."""
    lowat = sk.notsent_lowat or sk.sk_net.ipv4.sysctl_tcp_notsent_lowat
    return (sk.write_seq - sk.snd_nxt << wake) & MASK32 < lowat  # the kernel's count has 32 bits too


def tcp_tx_timestamp(sk: tcp_sock, tsflags: int) -> None:
    """The last packet of a write carries the socket's wish to be told when it leaves and when it is acknowledged."""
    if not sk.sk_write_queue or not tsflags & SOF_TIMESTAMPING_TX_RECORD_MASK:
        return
    skb = sk.sk_write_queue[-1]
    shinfo = skb.shinfo = scm.__sock_tx_timestamp(tsflags)
    shinfo.tskey = (skb.cb.seq + skb.len - 1) & MASK32
    if tsflags & SOF_TIMESTAMPING_TX_ACK:
        shinfo.txstamp_ack = True


def tcp_mark_urg(sk: tcp_sock) -> None:
    """MSG_OOB: the byte written last is urgent."""
    sk.snd_up = sk.write_seq
    sk.urg_mode = True


def tcp_sendmsg(sk: tcp_sock, data: Buffer, flags: int, msg: msghdr | None = None) -> int:
    """Take bytes to send: how many were taken, or -EAGAIN (no room), -EPIPE, the pending error, -ENOTCONN, -EINVAL
    (ancillary data)."""
    tsflags = sk.sk_tsflags
    if msg is not None and msg.msg_control:
        tsflags = scm.sock_cmsg_tsflags(sk, msg.msg_control)
        if tsflags < 0:
            return tsflags
    if (flags & MSG_FASTOPEN or sk.defer_connect) and not sk.repair:
        ret = _sendmsg_fastopen(sk, data, flags, tsflags, msg.msg_name if msg is not None else None)
    else:
        ret = tcp_sendmsg_locked(sk, data, flags, tsflags)
    if flags & MSG_ZEROCOPY and ret > 0 and sk.sk_flags & SOCK_ZEROCOPY:
        _zerocopy_begun(sk)
    if sk.sk_prot.release_cb is not None:
        sk.sk_prot.release_cb(sk)
    return ret


def _zerocopy_begun(sk: tcp_sock) -> None:
    """A call with MSG_ZEROCOPY took data, which are the application's again when the last of them is acknowledged."""
    if sk.zc_pending is None:
        sk.zc_pending = deque()
    sk.zc_pending.append((sk.write_seq, sk.sk_zckey))
    sk.sk_zckey = (sk.sk_zckey + 1) & MASK32
    tcp_zerocopy_done(sk)


def tcp_zerocopy_done(sk: tcp_sock, everything: bool = False) -> None:
    """What was acknowledged, or forgotten, is given back.  The kernel counts the packets that hold a call's data, so
    that one with data of two calls can hold back the earlier one; here sequence numbers decide."""
    pending = sk.zc_pending
    while pending and (everything or not after(pending[0][0], sk.snd_una)):
        skbuff.__msg_zerocopy_callback(sk, pending.popleft()[1])


def _sendmsg_fastopen(sk: tcp_sock, data: Buffer, flags: int, tsflags: int, addr: sockaddr | None) -> int:
    """The part of tcp_sendmsg_locked that is for Fast Open: what the SYN took counts, and if we are connected already
    (the peer is this very stack) the rest follows."""
    raw = data if isinstance(data, bytes) else bytes(data)
    err, copied_syn = tcp_sendmsg_fastopen(sk, raw, addr)
    if err:
        return copied_syn if err == -EINPROGRESS and copied_syn else err
    copied = tcp_sendmsg_locked(sk, raw[copied_syn:], flags, tsflags)
    return copied_syn + max(copied, 0) if copied_syn else copied


def tcp_sendmsg_locked(sk: tcp_sock, data: Buffer, flags: int, tsflags: int = 0) -> int:
    tcp_rate.tcp_rate_check_app_limited(sk)
    if not (1 << sk.sk_state) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT) and not tcp_passive_fastopen(sk):
        if (1 << sk.sk_state) & (TCPF_SYN_SENT | TCPF_SYN_RECV):
            return -EAGAIN
        return stream.sk_stream_error(sk, -EPIPE)
    if sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
        return stream.sk_stream_error(sk, -EPIPE)
    view = memoryview(data if isinstance(data, bytes) else bytes(data))
    total = len(view)
    mss_now, size_goal = tcp_send_mss(sk, flags)
    copied = 0
    while copied < total:
        skb = sk.sk_write_queue[-1] if sk.sk_write_queue else None
        if skb is None or skb.len >= size_goal or skb.cb.eor:
            if sk.sk_wmem_queued >= sk.sk_sndbuf or not tcp_stream_memory_free(sk, 0):  # sk_stream_memory_free()
                return _wait_for_space(sk, copied, flags, mss_now, size_goal, tsflags)
            skb = tcp_stream_alloc_skb(sk)
            tcp_skb_entail(sk, skb)
        copy = min(size_goal - skb.len, total - copied)
        _append(sk, skb, view[copied : copied + copy] if copy < total else view)
        if not copied:
            skb.cb.tcp_flags &= ~TCPHDR_PSH
        copied += copy
        if copied == total:
            if flags & MSG_EOR:
                skb.cb.eor = True
            break
        if forced_push(sk):
            tcp_mark_push(sk, skb)
            tcp_output.__tcp_push_pending_frames(sk, mss_now, TCP_NAGLE_PUSH)
        elif skb is sk.sk_write_queue[0]:
            tcp_output.tcp_push_one(sk, mss_now)
    if copied:
        if tsflags:
            tcp_tx_timestamp(sk, tsflags)
        tcp_push(sk, flags, mss_now, sk.nonagle, size_goal)
    return copied


def _append(sk: tcp_sock, skb: sk_buff, piece: memoryview) -> None:
    """Payload at the end of an unsent packet, by reference."""
    n = len(piece)
    frags = skb.frags
    if len(frags) >= _MAX_FRAGS:
        skb.frags = frags = [b"".join(frags)]
    frags.append(piece)
    skb.len += n
    skb.data_len = skb.len
    skb.truesize += n
    sk.sk_wmem_queued += n
    cb = skb.cb
    cb.end_seq = sk.write_seq = (sk.write_seq + n) & MASK32
    cb.tcp_gso_segs = 0


def _wait_for_space(
    sk: tcp_sock, copied: int, flags: int, mss_now: int, size_goal: int, tsflags: int
) -> int:
    """The buffer is full: send what is there, and ask for a wake-up."""
    if sk.sk_socket is not None:
        sk.sk_socket.flags |= SOCK_NOSPACE
    if copied:
        if tsflags:
            tcp_tx_timestamp(sk, tsflags)
        tcp_push(sk, flags & ~MSG_MORE, mss_now, TCP_NAGLE_PUSH, size_goal)
        return copied
    return -EAGAIN


# -- receiving ------------------------------------------------------------------------------------------------------


def tcp_recv_urg(sk: tcp_sock, size: int, flags: int, msg: msghdr | None) -> bytes | int:
    """MSG_OOB: the urgent byte, once."""
    if sk.sk_flags & SOCK_URGINLINE or not sk.urg_data or sk.urg_data == TCP_URG_READ:
        return -EINVAL
    if sk.sk_state == TCP_CLOSE and not sk.sk_flags & SOCK_DONE:
        return -ENOTCONN
    if sk.urg_data & TCP_URG_VALID:
        byte = bytes((sk.urg_data & 0xFF,))
        if not flags & MSG_PEEK:
            sk.urg_data = TCP_URG_READ
        if msg is not None:
            msg.msg_flags |= MSG_OOB if size > 0 else MSG_OOB | MSG_TRUNC
        return byte[: max(size, 0)]
    if sk.sk_state == TCP_CLOSE or sk.sk_shutdown & RCV_SHUTDOWN:
        return b""
    return -EAGAIN


def __tcp_cleanup_rbuf(sk: tcp_sock, copied: int) -> None:
    """After reading: acknowledge now if that tells the peer something - more than a segment is unacknowledged, the
    queue was emptied after a push, or the window has at least doubled."""
    time_to_ack = False
    ack = sk.icsk_ack
    pending = ack.pending
    if pending & ICSK_ACK_SCHED:
        if (sk.rcv_nxt - sk.rcv_wup) & MASK32 > ack.rcv_mss or (
            copied > 0
            and (
                pending & ICSK_ACK_PUSHED2
                or (pending & ICSK_ACK_PUSHED and not inet_csk_in_pingpong_mode(sk))
            )
            and not sk.sk_rmem_alloc
        ):
            time_to_ack = True
    if copied > 0 and not time_to_ack and not sk.sk_shutdown & RCV_SHUTDOWN:
        rcv_window_now = tcp_receive_window(sk)
        if 2 * rcv_window_now <= sk.window_clamp:
            new_window = tcp_output.__tcp_select_window(sk)
            time_to_ack = new_window > 0 and new_window >= 2 * rcv_window_now
    if time_to_ack:
        tcp_output.tcp_send_ack(sk)


def tcp_cleanup_rbuf(sk: tcp_sock, copied: int) -> None:
    __tcp_cleanup_rbuf(sk, copied)


def tcp_eat_recv_skb(sk: tcp_sock, skb: sk_buff) -> None:
    """The first packet of the receive queue was read to its end."""
    sk.sk_receive_queue.popleft()
    consume_skb(skb)


def skb_slices(skb: sk_buff, offset: int, length: int) -> list[memoryview]:
    """Views of ``length`` bytes of payload from ``offset`` on."""
    linear = skb.tail - skb.data
    out = []
    if offset < linear:
        n = min(length, linear - offset)
        start = skb.data + offset
        out.append(memoryview(skb.head)[start : start + n])
        offset, length = 0, length - n
    else:
        offset -= linear
    for frag in skb.frags:
        if length <= 0:
            break
        if offset >= len(frag):
            offset -= len(frag)
            continue
        piece = memoryview(frag)[offset : offset + length]
        out.append(piece)
        length -= len(piece)
        offset = 0
    return out


def tcp_recvmsg(sk: tcp_sock, size: int, flags: int, msg: msghdr | None = None) -> bytes | int:
    """Up to ``size`` bytes; b"" at the end of the stream; -EAGAIN, -ENOTCONN or the pending error.

    MSG_PEEK leaves them, MSG_TRUNC throws them away (what is returned is as many zeros), MSG_OOB reads the urgent byte,
    MSG_ERRQUEUE the error queue.  MSG_WAITALL asks to wait for more, which nothing here does: the caller is told what
    there is, as with O_NONBLOCK."""
    if flags & MSG_ERRQUEUE:
        return af_inet.inet_recv_error(sk, size, msg if msg is not None else msghdr())
    if sk.sk_state == TCP_LISTEN:
        return -ENOTCONN
    if flags & MSG_OOB:
        return tcp_recv_urg(sk, size, flags, msg)
    if size <= 0:
        none = [] if sk.sk_receive_queue else _nothing_to_read(sk)
        return none if isinstance(none, int) else b""
    tss = [0] if msg is not None else None
    views = tcp_recvmsg_locked(sk, size, flags, tss)
    if isinstance(views, int):
        return views
    if msg is not None and tss is not None:
        _recv_cmsgs(sk, msg, tss[0])
    if flags & MSG_TRUNC:
        return bytes(sum(map(len, views)))
    return bytes(views[0]) if len(views) == 1 else b"".join(views)


def _recv_cmsgs(sk: tcp_sock, msg: msghdr, tstamp: int) -> None:
    """When the last byte came (tcp_recv_timestamp), and how much is left to read."""
    if tstamp:
        scm.put_timestamps(msg, sk, tstamp)
    if sk.recvmsg_inq:
        scm.put_cmsg(msg, SOL_TCP, TCP_CM_INQ, tcp_inq_hint(sk).to_bytes(4, "little"))


def tcp_inq_hint(sk: tcp_sock) -> int:
    """TCP_INQ: bytes that wait; 1 after the peer's FIN, so that the application comes for the end of the stream."""
    inq = (sk.rcv_nxt - sk.copied_seq) & MASK32
    return 1 if not inq and sk.sk_flags & SOCK_DONE else inq


def tcp_ioctl(sk: tcp_sock, cmd: int) -> tuple[int, int]:
    """(0, value) of SIOCINQ, SIOCATMARK, SIOCOUTQ (not acknowledged) and SIOCOUTQNSD (not sent), or (-EINVAL, 0) of a
    listener, (-ENOTTY, 0) for any other request."""
    if cmd == SIOCATMARK:
        return 0, int(bool(sk.urg_data) and sk.urg_seq == sk.copied_seq)
    if cmd not in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD):
        return -ENOTTY, 0
    if sk.sk_state == TCP_LISTEN:
        return -EINVAL, 0
    if cmd == SIOCINQ:
        return 0, tcp_inq(sk)
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        return 0, 0
    return 0, (sk.write_seq - (sk.snd_una if cmd == SIOCOUTQ else sk.snd_nxt)) & MASK32


def tcp_recv_skbs(sk: tcp_sock, limit: int) -> list[memoryview] | int:
    """tcp_recvmsg without the copy: views of the received frames, which stay valid; [] at the end of the stream."""
    if sk.sk_state == TCP_LISTEN:
        return -ENOTCONN
    return tcp_recvmsg_locked(sk, limit, 0)


def tcp_recvmsg_locked(
    sk: tcp_sock, size: int, flags: int, tss: list[int] | None = None
) -> list[memoryview] | int:
    """Collect what is in order, skip the urgent byte, advance ``copied_seq``, acknowledge.  ``tss[0]`` becomes the time
    when the last of it came, if somebody took note."""
    peek = flags & MSG_PEEK
    views: list[memoryview] = []
    seq = sk.copied_seq
    if peek and sk.sk_peek_off > 0:
        seq = (seq + sk.sk_peek_off) & MASK32
    copied = 0
    got_fin = False
    for skb in list(sk.sk_receive_queue) if peek else _take_queue(sk):
        if copied >= size or (copied and sk.urg_data and sk.urg_seq == seq):
            break
        cb = skb.cb
        offset = (seq - cb.seq) & MASK32
        if peek and offset > skb.len:
            continue  # SO_PEEK_OFF is behind it
        used = min(skb.len - offset, size - copied)
        if used > 0:
            if sk.urg_data:
                skip, used = _before_urgent(sk, seq, skb.len - offset, size - copied)
                offset += skip
                seq = (seq + skip) & MASK32
            if used:
                views += skb_slices(skb, offset, used)
            seq = (seq + used) & MASK32
            copied += used
            if not peek:
                sk.copied_seq = seq
                tcp_input.tcp_rcv_space_adjust(sk)
                if sk.urg_data:
                    _urgent_passed(sk)
            if tss is not None and skb.tstamp:
                tss[0] = skb.tstamp
            if offset + used < skb.len:
                break
        if cb.tcp_flags & TCPHDR_FIN:
            got_fin = True
            if not peek:
                sk.copied_seq = seq = (seq + 1) & MASK32
                tcp_eat_recv_skb(sk, skb)
            break
        if not peek:
            tcp_eat_recv_skb(sk, skb)
    if sk.sk_peek_off >= 0:
        (core_sock.sk_peek_offset_fwd if peek else core_sock.sk_peek_offset_bwd)(sk, copied)
    if peek:
        return views if copied or got_fin else _nothing_to_read(sk)
    result: list[memoryview] | int = views
    if not copied and not got_fin:
        result = _nothing_to_read(sk)
    tcp_cleanup_rbuf(sk, copied)
    return result


def _take_queue(sk: tcp_sock) -> Iterator[sk_buff]:
    """The first packet of the queue, as long as the reader eats it."""
    queue = sk.sk_receive_queue
    while queue:
        yield queue[0]


def _before_urgent(sk: tcp_sock, seq: int, there: int, wanted: int) -> tuple[int, int]:
    """With urgent data pending and ``there`` bytes of a packet from ``seq`` on: (1 if the first is the urgent byte,
    which is skipped unless it is inline; how many to take behind it, at most up to the mark)."""
    urg_offset = (sk.urg_seq - seq) & MASK32
    if urg_offset:
        return 0, min(there, wanted, urg_offset)
    skip = 0 if sk.sk_flags & SOCK_URGINLINE else 1
    return skip, min(there - skip, wanted)


def _urgent_passed(sk: tcp_sock) -> None:
    """The reader is past the mark."""
    if after(sk.copied_seq, sk.urg_seq):
        sk.urg_data = 0
        tcp_fast_path_check(sk)


def _nothing_to_read(sk: tcp_sock) -> list[memoryview] | int:
    if sk.sk_flags & SOCK_DONE:
        return []
    if sk.sk_err:
        return sock_error(sk)
    if sk.sk_shutdown & RCV_SHUTDOWN:
        return []
    if sk.sk_state == TCP_CLOSE:
        return -ENOTCONN
    return -EAGAIN


# -- states -----------------------------------------------------------------------------------------------------------


def tcp_set_state(sk: tcp_sock, state: int) -> None:
    """Change the state, with its counters and its place in the tables."""
    net = sk.sk_net
    oldstate = sk.sk_state
    if state == TCP_ESTABLISHED:
        if oldstate != TCP_ESTABLISHED:
            TCP_INC_STATS(net, TCP_MIB_CURRESTAB)
    elif state == TCP_CLOSE:
        if oldstate in (TCP_CLOSE_WAIT, TCP_ESTABLISHED):
            TCP_INC_STATS(net, TCP_MIB_ESTABRESETS)
        sk.sk_prot.unhash(sk)
        if sk.icsk_bind_hash is not None and not sk.sk_userlocks & SOCK_BINDPORT_LOCK:
            inet_hashtables.inet_put_port(sk)
        if oldstate == TCP_ESTABLISHED:
            TCP_DEC_STATS(net, TCP_MIB_CURRESTAB)
    elif oldstate == TCP_ESTABLISHED:
        TCP_DEC_STATS(net, TCP_MIB_CURRESTAB)
    inet_sk_set_state(sk, state)


def tcp_close_state(sk: tcp_sock) -> bool:
    """Take the step that closing means; whether a FIN has to go."""
    next_state = new_state[sk.sk_state]
    tcp_set_state(sk, next_state & TCP_STATE_MASK)
    return bool(next_state & TCP_ACTION_FIN)


def tcp_shutdown(sk: tcp_sock, how: int) -> None:
    """shutdown(): with SEND_SHUTDOWN a FIN follows what was written."""
    if not how & SEND_SHUTDOWN:
        return
    # In SYN_RECV it waits for the third segment: _syn_recv_acked() calls again.
    if (1 << sk.sk_state) & (TCPF_ESTABLISHED | TCPF_SYN_SENT | TCPF_CLOSE_WAIT):
        if tcp_close_state(sk):
            tcp_output.tcp_send_fin(sk)


def tcp_too_many_orphans(sk: tcp_sock, shift: int) -> bool:
    ipv4 = sk.sk_net.ipv4
    return ipv4.tcp_orphan_count << shift > ipv4.sysctl_tcp_max_orphans


def tcp_check_oom(sk: tcp_sock, shift: int) -> bool:
    """Whether the machine had better drop this orphan."""
    return tcp_too_many_orphans(sk, shift) or tcp_out_of_memory(sk)


def tcp_out_of_memory(sk: tcp_sock) -> bool:
    """include/net/tcp.h: it holds data to send while TCP is beyond the last number of tcp_mem."""
    ipv4 = sk.sk_net.ipv4
    return sk.sk_wmem_queued > SOCK_MIN_SNDBUF and ipv4.tcp_memory_allocated > ipv4.sysctl_tcp_mem[2]


def tcp_close(sk: tcp_sock, timeout: int) -> None:
    """close(): the application lets go for good."""
    __tcp_close(sk, timeout)
    if sk.sk_prot.release_cb is not None:
        sk.sk_prot.release_cb(sk)


def __tcp_close(sk: tcp_sock, timeout: int) -> None:
    sk.sk_shutdown = SHUTDOWN_MASK
    if sk.sk_state == TCP_LISTEN:
        tcp_set_state(sk, TCP_CLOSE)
        inet_connection_sock.inet_csk_listen_stop(sk)
        _adjudge_to_death(sk, sk.sk_state)
        return
    data_was_unread = _drop_unread(sk)
    if sk.sk_state == TCP_CLOSE:
        pass
    elif data_was_unread:
        # RFC 2525, section 2.17: the peer has to learn that its data were lost.
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPABORTONCLOSE)
        tcp_set_state(sk, TCP_CLOSE)
        tcp_output.tcp_send_active_reset(sk)
    elif sk.sk_flags & SOCK_LINGER and not sk.sk_lingertime:
        sk.sk_prot.disconnect(sk, 0)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPABORTONDATA)
    elif tcp_close_state(sk):
        tcp_output.tcp_send_fin(sk)
    _adjudge_to_death(sk, sk.sk_state)


def _drop_unread(sk: tcp_sock) -> bool:
    """Empty the receive queue; whether there was data that nobody read."""
    unread = 0
    queue = sk.sk_receive_queue
    while queue:
        skb = queue.popleft()
        cb = skb.cb
        fin = 1 if cb.tcp_flags & TCPHDR_FIN else 0
        end = (cb.end_seq - fin) & MASK32
        if after(end, sk.copied_seq):
            unread += (end - sk.copied_seq) & MASK32
        consume_skb(skb)
    return unread > 0


def _adjudge_to_death(sk: tcp_sock, state: int) -> None:
    """The socket is an orphan now: destroy it, or let its state run out."""
    sock_orphan(sk)
    sk.sk_net.ipv4.tcp_orphan_count += 1
    net = sk.sk_net
    if sk.sk_state == TCP_FIN_WAIT2:
        if sk.linger2 < 0:
            tcp_set_state(sk, TCP_CLOSE)
            tcp_output.tcp_send_active_reset(sk)
            NET_INC_STATS(net, LINUX_MIB_TCPABORTONLINGER)
        else:
            tmo = tcp_fin_time(sk)
            if tmo > TCP_TIMEWAIT_LEN:
                inet_connection_sock.inet_csk_reset_keepalive_timer(sk, tmo - TCP_TIMEWAIT_LEN)
            else:
                tcp_minisocks.tcp_time_wait(sk, TCP_FIN_WAIT2, tmo)
                return
    if sk.sk_state != TCP_CLOSE and tcp_check_oom(sk, 0):
        tcp_set_state(sk, TCP_CLOSE)
        tcp_output.tcp_send_active_reset(sk)
        NET_INC_STATS(net, LINUX_MIB_TCPABORTONMEMORY)
    if sk.sk_state == TCP_CLOSE:
        if sk.fastopen_rsk is not None:
            # Closed with unread data, or by linger, before the third segment.
            request_sock.reqsk_fastopen_remove(sk, sk.fastopen_rsk, False)
        inet_connection_sock.inet_csk_destroy_sock(sk)


def tcp_need_reset(state: int) -> bool:
    return bool(
        (1 << state) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT | TCPF_FIN_WAIT1 | TCPF_FIN_WAIT2 | TCPF_SYN_RECV)
    )


def tcp_rtx_queue_purge(sk: tcp_sock) -> None:
    sk.tcp_rtx_queue.clear()
    sk.tsorted_sent_queue.clear()
    sk.highest_sack = None


def tcp_write_queue_purge(sk: tcp_sock) -> None:
    """Forget everything that was to be sent."""
    tcp_output.tcp_chrono_stop(sk, TCP_CHRONO_BUSY)
    tcp_zerocopy_done(sk, everything=True)
    sk.sk_write_queue.clear()
    tcp_rtx_queue_purge(sk)
    sk.sk_wmem_queued = 0
    sk.packets_out = 0
    sk.icsk_backoff = 0


def tcp_disconnect(sk: tcp_sock, flags: int) -> int:
    """Back to an unconnected socket; the peer gets a RST if it thinks that there is a connection."""
    old_state = sk.sk_state
    if old_state != TCP_CLOSE:
        tcp_set_state(sk, TCP_CLOSE)
    if old_state == TCP_LISTEN:
        inet_connection_sock.inet_csk_listen_stop(sk)
    elif tcp_need_reset(old_state) or (
        sk.snd_nxt != sk.write_seq and (1 << old_state) & (TCPF_CLOSING | TCPF_LAST_ACK)
    ):
        tcp_output.tcp_send_active_reset(sk)
        sk.sk_err = ECONNRESET
    elif old_state == TCP_SYN_SENT:
        sk.sk_err = ECONNRESET
    inet_connection_sock.inet_csk_clear_xmit_timers(sk)
    while sk.sk_receive_queue:
        consume_skb(sk.sk_receive_queue.popleft())
    sk.copied_seq = sk.rcv_nxt
    sk.urg_data = 0
    tcp_write_queue_purge(sk)
    tcp_free_fastopen_req(sk)
    sk.defer_connect = False
    sk.fastopen_client_fail = TFO_STATUS_UNSPEC
    tcp_fastopen.tcp_fastopen_active_disable_ofo_check(sk)
    for skb in sk.out_of_order_queue:
        consume_skb(skb)
    sk.out_of_order_queue = []
    sk.sk_dport = 0
    if not sk.sk_userlocks & SOCK_BINDADDR_LOCK:
        inet_hashtables.inet_bhash2_update_saddr(sk, 0, sk.sk_family)
        sk.inet_saddr = 0
    sk.sk_shutdown = 0
    sk.sk_flags &= ~SOCK_DONE
    _forget_connection(sk)
    sk.sk_error_report(sk)
    return 0


def _forget_connection(sk: tcp_sock) -> None:
    """The variables of the next connection start like a new socket's."""
    sk.srtt_us = 0
    sk.mdev_us = jiffies_to_usecs(TCP_TIMEOUT_INIT)
    sk.rcv_rtt_last_tsecr = 0
    sk.write_seq = (sk.write_seq + sk.max_window + 2) & MASK32 or 1
    sk.icsk_backoff = sk.icsk_probes_out = sk.icsk_probes_tstamp = 0
    sk.icsk_rto = TCP_TIMEOUT_INIT
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    sk.snd_cwnd = TCP_INIT_CWND
    sk.snd_cwnd_cnt = 0
    sk.is_cwnd_limited = False
    sk.max_packets_out = 0
    sk.window_clamp = 0
    sk.delivered = sk.delivered_ce = 0
    tcp_cong.tcp_cleanup_congestion_control(sk)
    tcp_cong.tcp_set_ca_state(sk, TCP_CA_Open)
    tcp_input.tcp_clear_retrans(sk)
    sk.tlp_high_seq = 0
    sk.rx_opt = tcp_options_received()  # TCP_MAXSEG with it
    sk.selective_acks = []
    inet_csk_delack_init(sk)
    sk.icsk_ack.rcv_mss = TCP_MIN_MSS
    sk.sk_dst_cache = None
    sk.total_retrans = sk.bytes_sent = sk.bytes_acked = sk.bytes_received = sk.bytes_retrans = 0
    sk.segs_in = sk.segs_out = sk.data_segs_in = sk.data_segs_out = 0
    sk.ecn_flags = 0
    sk.init_accecn()
    sk.syn_data_acked = False


def tcp_done_with_error(sk: tcp_sock, err: int) -> None:
    """The connection is over because of ``err``, which the application is told."""
    sk.sk_err = err
    tcp_write_queue_purge(sk)
    tcp_done(sk)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_error_report(sk)


def tcp_done(sk: tcp_sock) -> None:
    """The connection is over: off the tables; an orphan is destroyed."""
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        TCP_INC_STATS(sk.sk_net, TCP_MIB_ATTEMPTFAILS)
    tcp_set_state(sk, TCP_CLOSE)
    tcp_timer.tcp_clear_xmit_timers(sk)
    if sk.fastopen_rsk is not None:
        request_sock.reqsk_fastopen_remove(sk, sk.fastopen_rsk, False)
    sk.sk_shutdown = SHUTDOWN_MASK
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_state_change(sk)
    else:
        inet_connection_sock.inet_csk_destroy_sock(sk)


# -- options ----------------------------------------------------------------------------------------------------------


def secs_to_retrans(seconds: int, timeout: int, rto_max: int) -> int:
    """How many SYN-ACK resends cover ``seconds``: TCP_DEFER_ACCEPT's unit."""
    res = 0
    if seconds > 0:
        period = timeout
        res = 1
        while seconds > period and res < 255:
            res += 1
            timeout = min(timeout << 1, rto_max)
            period += timeout
    return res


def retrans_to_secs(retrans: int, timeout: int, rto_max: int) -> int:
    """The reverse, so that 5 seconds read back as 7."""
    period = 0
    if retrans > 0:
        period = timeout
        while (retrans := retrans - 1) > 0:
            timeout = min(timeout << 1, rto_max)
            period += timeout
    return period


def __tcp_sock_set_cork(sk: tcp_sock, on: bool) -> None:
    if on:
        sk.nonagle |= TCP_NAGLE_CORK
        return
    sk.nonagle &= ~TCP_NAGLE_CORK
    if sk.nonagle & TCP_NAGLE_OFF:
        sk.nonagle |= TCP_NAGLE_PUSH
    tcp_push_pending_frames(sk)


def __tcp_sock_set_nodelay(sk: tcp_sock, on: bool) -> None:
    if on:
        sk.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH
        tcp_push_pending_frames(sk)
    else:
        sk.nonagle &= ~TCP_NAGLE_OFF


def tcp_push_pending_frames(sk: tcp_sock) -> None:
    if sk.sk_write_queue:
        tcp_output.__tcp_push_pending_frames(sk, tcp_output.tcp_current_mss(sk), sk.nonagle)


def __tcp_sock_set_quickack(sk: tcp_sock, val: int) -> None:
    if not val:
        inet_csk_enter_pingpong_mode(sk)
        return
    inet_csk_exit_pingpong_mode(sk)
    if (1 << sk.sk_state) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT) and inet_csk_ack_scheduled(sk):
        sk.icsk_ack.pending |= ICSK_ACK_PUSHED
        tcp_cleanup_rbuf(sk, 1)
        if not val & 1:
            inet_csk_enter_pingpong_mode(sk)


def tcp_sock_set_keepidle_locked(sk: tcp_sock, val: int) -> int:
    if not 1 <= val <= MAX_TCP_KEEPIDLE:
        return -EINVAL
    sk.keepalive_time = val * HZ
    if sk.sk_flags & SOCK_KEEPOPEN and not (1 << sk.sk_state) & (TCPF_CLOSE | TCPF_LISTEN):
        elapsed = tcp_timer.keepalive_time_elapsed(sk)
        inet_connection_sock.inet_csk_reset_keepalive_timer(sk, max(sk.keepalive_time - elapsed, 0))
    return 0


def _set_maxseg(sk: tcp_sock, val: int) -> int:
    if val and not TCP_MIN_MSS <= val <= 32767:
        return -EINVAL
    sk.rx_opt.user_mss = val
    return 0


def _set_linger2(sk: tcp_sock, val: int) -> int:
    if val < 0:
        sk.linger2 = -1
    else:
        sk.linger2 = min(val * HZ, TCP_FIN_TIMEOUT_MAX)
    return 0


def tcp_set_window_clamp(sk: tcp_sock, val: int) -> int:
    """TCP_WINDOW_CLAMP: the most that is offered; 0, of a closed socket, lifts it.  It never falls below
    SOCK_MIN_RCVBUF / 2; older kernels take a negative number for a large one."""
    if not val:
        if sk.sk_state != TCP_CLOSE:
            return -EINVAL
        sk.window_clamp = 0
        return 0
    if not sk.sk_net.profile.newer_options:
        val &= MASK32
    sk.window_clamp = max(val, SOCK_MIN_RCVBUF // 2)
    if sk.rcv_ssthresh > sk.window_clamp:
        sk.rcv_ssthresh = sk.window_clamp
    else:
        sk.rcv_ssthresh = max(sk.rcv_ssthresh, min(sk.rcv_wnd, sk.window_clamp))
    return 0


def _set_ranged(field: str, low: int, high: int, scale: int = 1) -> Callable[[tcp_sock, int], int]:
    def setter(sk: tcp_sock, val: int) -> int:
        if not low <= val <= high:
            return -EINVAL
        setattr(sk, field, val * scale)
        return 0

    return setter


def _set_defer_accept(sk: tcp_sock, val: int) -> int:
    sk.icsk_accept_queue.rskq_defer_accept = secs_to_retrans(val, TCP_TIMEOUT_INIT // HZ, TCP_RTO_MAX // HZ)
    return 0


def _set_fastopen(sk: tcp_sock, val: int) -> int:
    if val < 0 or not (1 << sk.sk_state) & (TCPF_CLOSE | TCPF_LISTEN):
        return -EINVAL
    tcp_fastopen.tcp_fastopen_init_key_once(sk.sk_net)
    fastopen_queue_tune(sk, val)
    return 0


def _set_fastopen_connect(sk: tcp_sock, val: int) -> int:
    """connect() waits for the first write, whose data the SYN carries."""
    if val not in (0, 1):
        return -EINVAL
    if not sk.sk_net.ipv4.sysctl_tcp_fastopen & TFO_CLIENT_ENABLE:
        return -EOPNOTSUPP
    if sk.sk_state != TCP_CLOSE:
        return -EINVAL
    sk.fastopen_connect = bool(val)
    return 0


def _set_fastopen_no_cookie(sk: tcp_sock, val: int) -> int:
    if val not in (0, 1) or not (1 << sk.sk_state) & (TCPF_CLOSE | TCPF_LISTEN):
        return -EINVAL
    sk.fastopen_no_cookie = bool(val)
    return 0


def _set_fastopen_key(sk: tcp_sock, key: bytes) -> int:
    """One key, or the one in use and the one before it."""
    if len(key) not in (TCP_FASTOPEN_KEY_LENGTH, TCP_FASTOPEN_KEY_BUF_LENGTH):
        return -EINVAL
    backup = key[TCP_FASTOPEN_KEY_LENGTH:] or None
    return tcp_fastopen.tcp_fastopen_reset_cipher(sk.sk_net, sk, key[:TCP_FASTOPEN_KEY_LENGTH], backup)


def _set_nodelay(sk: tcp_sock, val: int) -> int:
    __tcp_sock_set_nodelay(sk, bool(val))
    return 0


def _set_cork(sk: tcp_sock, val: int) -> int:
    __tcp_sock_set_cork(sk, bool(val))
    return 0


def _set_quickack(sk: tcp_sock, val: int) -> int:
    __tcp_sock_set_quickack(sk, val)
    return 0


def _set_notsent_lowat(sk: tcp_sock, val: int) -> int:
    sk.notsent_lowat = val & MASK32
    sk.sk_write_space(sk)
    return 0


def _set_thin_dupack(sk: tcp_sock, val: int) -> int:
    """Checked and forgotten, since RACK does what it was for."""
    return 0 if val in (0, 1) else -EINVAL


def _set_timestamp(sk: tcp_sock, val: int) -> int:
    """Only a connection under repair has its clock set."""
    return -EPERM


def _set_tx_delay(sk: tcp_sock, val: int) -> int:
    """Kept and shown: it is the fq queueing discipline that would hold packets back."""
    if val < 0 and sk.sk_net.profile.newer_options:
        return -EINVAL
    sk.tcp_tx_delay = val
    return 0


def _set_microseconds(field: str, limit: int) -> Callable[[tcp_sock, int], int]:
    """A time of at least TCP_TIMEOUT_MIN and at most ``limit`` jiffies, given in microseconds, rounded up."""

    def setter(sk: tcp_sock, val: int) -> int:
        when = -(-(val & MASK32) * HZ // 1_000_000)
        if not TCP_TIMEOUT_MIN <= when <= limit:
            return -EINVAL
        setattr(sk, field, when)
        return 0

    return setter


_SETTERS: dict[int, Callable[[tcp_sock, int], int]] = {
    TCP_NODELAY: _set_nodelay,
    TCP_MAXSEG: _set_maxseg,
    TCP_CORK: _set_cork,
    TCP_KEEPIDLE: tcp_sock_set_keepidle_locked,
    TCP_KEEPINTVL: _set_ranged("keepalive_intvl", 1, MAX_TCP_KEEPINTVL, HZ),
    TCP_KEEPCNT: _set_ranged("keepalive_probes", 1, MAX_TCP_KEEPCNT),
    TCP_SYNCNT: _set_ranged("icsk_syn_retries", 1, MAX_TCP_SYNCNT),
    TCP_SAVE_SYN: _set_ranged("save_syn", 0, 2),
    TCP_LINGER2: _set_linger2,
    TCP_DEFER_ACCEPT: _set_defer_accept,
    TCP_FASTOPEN: _set_fastopen,
    TCP_FASTOPEN_CONNECT: _set_fastopen_connect,
    TCP_FASTOPEN_NO_COOKIE: _set_fastopen_no_cookie,
    TCP_WINDOW_CLAMP: tcp_set_window_clamp,
    TCP_QUICKACK: _set_quickack,
    TCP_THIN_LINEAR_TIMEOUTS: _set_ranged("thin_lto", 0, 1),
    TCP_THIN_DUPACK: _set_thin_dupack,
    TCP_TIMESTAMP: _set_timestamp,
    TCP_USER_TIMEOUT: _set_ranged("icsk_user_timeout", 0, 0x7FFFFFFF),
    TCP_NOTSENT_LOWAT: _set_notsent_lowat,
    TCP_INQ: _set_ranged("recvmsg_inq", 0, 1),
    TCP_TX_DELAY: _set_tx_delay,
}
_NEWER_SETTERS: dict[int, Callable[[tcp_sock, int], int]] = {
    TCP_RTO_MIN_US: _set_microseconds("icsk_rto_min", TCP_RTO_MIN),
    TCP_DELACK_MAX_US: _set_microseconds("icsk_delack_max", TCP_DELACK_MAX),
}


def _set_congestion(sk: tcp_sock, raw: bytes) -> int:
    name = raw[: TCP_CA_NAME_MAX - 1].split(b"\0", 1)[0].decode("ascii", "replace")
    return tcp_cong.tcp_set_congestion_control(sk, name)


# Options whose value is a string or a struct; an int stands for its four bytes.
_RAW_SETTERS: dict[int, Callable[[tcp_sock, bytes], int]] = {
    TCP_CONGESTION: _set_congestion,
    TCP_ULP: lambda sk, raw: -ENOENT,  # there is none: TLS records are made above the socket
    TCP_FASTOPEN_KEY: _set_fastopen_key,
}


def do_tcp_setsockopt(sk: tcp_sock, level: int, optname: int, optval: int | bytes) -> int:
    """0, -EINVAL (also for anything shorter than an int, known or not), -ENOPROTOOPT, -EPERM or -ENOENT (an unknown
    congestion control)."""
    if optname in _RAW_SETTERS:
        raw = (optval & MASK32).to_bytes(4, "little") if isinstance(optval, int) else bytes(optval)
        return _RAW_SETTERS[optname](sk, raw) if raw else -EINVAL
    if optname in (TCP_AO_ADD_KEY, TCP_AO_DEL_KEY, TCP_AO_INFO) and sk.sk_net.profile.tcp_ao:
        return tcp_ao.tcp_parse_ao(sk, optname, optval)
    if optname in (TCP_MD5SIG, TCP_MD5SIG_EXT):
        if sk.af_specific is None:
            return -ENOPROTOOPT
        err: int = sk.af_specific.md5_parse(sk, optname, optval)
        return err
    if not isinstance(optval, int):
        if len(optval) < 4:
            return -EINVAL
        optval = int.from_bytes(optval[:4], "little", signed=True)
    setter = _SETTERS.get(optname)
    if setter is None and sk.sk_net.profile.newer_options:
        setter = _NEWER_SETTERS.get(optname)
    return -ENOPROTOOPT if setter is None else setter(sk, optval)


def tcp_setsockopt(sk: tcp_sock, level: int, optname: int, optval: int | bytes) -> int:
    """Level IPPROTO_TCP here, any other level goes to the address family; 0 or a negative errno."""
    if level != SOL_TCP:
        err: int = sk.icsk_af_ops.setsockopt(sk, level, optname, optval)
        return err
    return do_tcp_setsockopt(sk, level, optname, optval)


def _get_maxseg(sk: tcp_sock) -> int:
    if sk.rx_opt.user_mss and (1 << sk.sk_state) & (TCPF_CLOSE | TCPF_LISTEN):
        return sk.rx_opt.user_mss
    return sk.mss_cache


def _get_defer_accept(sk: tcp_sock) -> int:
    return retrans_to_secs(sk.icsk_accept_queue.rskq_defer_accept, TCP_TIMEOUT_INIT // HZ, TCP_RTO_MAX // HZ)


def _get_linger2(sk: tcp_sock) -> int:
    if sk.linger2 >= 0:
        return (sk.linger2 or sk.sk_net.ipv4.sysctl_tcp_fin_timeout * HZ) // HZ
    return -1


def _get_saved_syn(sk: tcp_sock, optlen: int) -> tuple[int, bytes]:
    """The headers of the SYN, once; -EINVAL, and they stay, if the buffer is too small."""
    saved = sk.saved_syn
    if saved is None:
        return 0, b""
    if optlen < len(saved.data):
        return -EINVAL, b""
    sk.saved_syn = None
    return 0, saved.data


def _get_cc_info(sk: tcp_sock) -> bytes:
    """What the congestion control tells of itself; most tell nothing."""
    get_info = sk.icsk_ca_ops.get_info
    info: bytes = get_info(sk) if get_info is not None else b""
    return info


_GETTERS: dict[int, Callable[[tcp_sock], int | bytes]] = {
    TCP_NODELAY: lambda sk: int(sk.nonagle & TCP_NAGLE_OFF != 0),
    TCP_MAXSEG: _get_maxseg,
    TCP_CORK: lambda sk: int(sk.nonagle & TCP_NAGLE_CORK != 0),
    TCP_KEEPIDLE: lambda sk: keepalive_time_when(sk) // HZ,
    TCP_KEEPINTVL: lambda sk: keepalive_intvl_when(sk) // HZ,
    TCP_KEEPCNT: keepalive_probes,
    TCP_SYNCNT: lambda sk: sk.icsk_syn_retries or sk.sk_net.ipv4.sysctl_tcp_syn_retries,
    TCP_SAVE_SYN: lambda sk: sk.save_syn,
    TCP_LINGER2: _get_linger2,
    TCP_DEFER_ACCEPT: _get_defer_accept,
    TCP_FASTOPEN_CONNECT: lambda sk: int(sk.fastopen_connect),
    TCP_FASTOPEN: lambda sk: sk.icsk_accept_queue.fastopenq.max_qlen,
    TCP_FASTOPEN_KEY: lambda sk: b"".join(tcp_fastopen.tcp_fastopen_get_cipher(sk.sk_net, sk)),
    TCP_FASTOPEN_NO_COOKIE: lambda sk: int(sk.fastopen_no_cookie),
    TCP_WINDOW_CLAMP: lambda sk: sk.window_clamp,
    TCP_QUICKACK: lambda sk: int(not inet_csk_in_pingpong_mode(sk)),
    TCP_THIN_LINEAR_TIMEOUTS: lambda sk: int(sk.thin_lto),
    TCP_THIN_DUPACK: lambda sk: 0,
    TCP_USER_TIMEOUT: lambda sk: sk.icsk_user_timeout,
    TCP_NOTSENT_LOWAT: lambda sk: sk.notsent_lowat,
    TCP_INQ: lambda sk: int(sk.recvmsg_inq),
    TCP_TX_DELAY: lambda sk: sk.tcp_tx_delay,
    TCP_CONGESTION: lambda sk: sk.icsk_ca_ops.name.encode().ljust(TCP_CA_NAME_MAX, b"\0"),
    TCP_CC_INFO: _get_cc_info,
    TCP_ULP: lambda sk: b"",
    TCP_TIMESTAMP: lambda sk: (sk.sk_net.clock.now_ns() // 1_000_000 + sk.tsoffset) & MASK32,
}
_NEWER_GETTERS: dict[int, Callable[[tcp_sock], int | bytes]] = {
    TCP_IS_MPTCP: lambda sk: 0,
    TCP_RTO_MIN_US: lambda sk: jiffies_to_usecs(sk.icsk_rto_min),
    TCP_DELACK_MAX_US: lambda sk: jiffies_to_usecs(sk.icsk_delack_max),
}


def do_tcp_getsockopt(
    sk: tcp_sock, level: int, optname: int, optlen: int = INT_MAX
) -> tuple[int, int | bytes]:
    if optname == TCP_AO_INFO and sk.sk_net.profile.tcp_ao:
        return tcp_ao.tcp_ao_get_sock_info(sk)
    if optname == TCP_SAVED_SYN:
        return _get_saved_syn(sk, optlen)
    getter = _GETTERS.get(optname)
    if getter is None and sk.sk_net.profile.newer_options:
        getter = _NEWER_GETTERS.get(optname)
    if getter is None:
        return -ENOPROTOOPT, 0
    value = getter(sk)
    return 0, value if isinstance(value, int) else value[:optlen]


def tcp_getsockopt(sk: tcp_sock, level: int, optname: int, optlen: int = INT_MAX) -> tuple[int, int | bytes]:
    """(0, value) into a buffer of ``optlen`` bytes, or (-ENOPROTOOPT, 0)."""
    if level != SOL_TCP:
        result: tuple[int, int | bytes] = sk.icsk_af_ops.getsockopt(sk, level, optname, optlen)
        return result
    return do_tcp_getsockopt(sk, level, optname, optlen)


# -- signatures (RFC 2385) ------------------------------------------------------------------------------------------


def tcp_inbound_md5_hash(sk: tcp_sock, skb: sk_buff, saddr: int, family: int) -> int:
    """Whether a segment from ``saddr`` is signed as its socket expects: 0, or the reason to drop it (counted)."""
    net = sk.sk_net
    key = None
    if sk.md5sig_info is not None:
        key = tcp_ipv4.tcp_md5_do_lookup(sk, 0, saddr, family)
    signature = tcp_input.tcp_parse_md5sig_option(skb)
    if key is None and signature is None:
        return SKB_NOT_DROPPED_YET
    if signature is None:
        NET_INC_STATS(net, LINUX_MIB_TCPMD5NOTFOUND)
        return SKB_DROP_REASON_TCP_MD5NOTFOUND
    if key is None:
        NET_INC_STATS(net, LINUX_MIB_TCPMD5UNEXPECTED)
        return SKB_DROP_REASON_TCP_MD5UNEXPECTED
    if signature != tcp_ipv4.md5_hash_received(key, skb):
        NET_INC_STATS(net, LINUX_MIB_TCPMD5FAILURE)
        return SKB_DROP_REASON_TCP_MD5FAILURE
    return SKB_NOT_DROPPED_YET


def tcp_inbound_hash(sk: tcp_sock, req: tcp_request_sock | None, skb: sk_buff, saddr: int, family: int) -> int:
    """The same with the authentication option (RFC 5925) of kernels that know it; ``req`` is the request that a segment
    is for, whose listener is ``sk``."""
    if sk.sk_net.profile.auth_options_checked and not tcp_input.tcp_auth_options_valid(skb):
        return SKB_DROP_REASON_TCP_AUTH_HDR
    if sk.sk_net.profile.tcp_ao and (sk.ao_info is not None or tcp_ao.tcp_parse_ao_option(skb) is not None):
        reason = tcp_ao.tcp_inbound_ao_hash(sk, skb, req, saddr, family)
        if reason or tcp_ao.tcp_parse_ao_option(skb) is not None:
            return reason
    return tcp_inbound_md5_hash(sk, skb, saddr, family)


# -- tcp_info ------------------------------------------------------------------------------------------------------

# struct tcp_info (include/uapi/linux/tcp.h) as of 6.1, up to tcpi_snd_wnd: 232 bytes (measured); 280 in 6.18.
_TCP_INFO_U8: Final = ("state", "ca_state", "retransmits", "probes", "backoff", "options")
_TCP_INFO_U32: Final = (
    "rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets", "last_data_sent",
    "last_ack_sent", "last_data_recv", "last_ack_recv", "pmtu", "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh",
    "snd_cwnd", "advmss", "reordering", "rcv_rtt", "rcv_space", "total_retrans",
)  # fmt: skip


def tcp_get_info(sk: tcp_sock) -> dict[str, int]:
    """struct tcp_info as a dict by field names (``tcpi_state`` ...); times in microseconds, ``tcpi_last_*`` in
    milliseconds.  A listener shows the length of its accept queue in ``tcpi_unacked`` and its backlog in
    ``tcpi_sacked``."""
    return {"tcpi_" + name: value for name, value in _tcp_info(sk).items()}


def _tcp_info(sk: tcp_sock) -> dict[str, int]:
    info = dict.fromkeys(_TCP_INFO_U8 + _TCP_INFO_U32 + _TCP_INFO_REST + _TCP_INFO_LATER, 0)
    info["state"] = sk.sk_state
    info["pacing_rate"] = sk.sk_pacing_rate
    info["max_pacing_rate"] = sk.sk_max_pacing_rate
    info["reordering"] = sk.reordering
    info["snd_cwnd"] = sk.snd_cwnd
    if sk.sk_state == TCP_LISTEN:
        info["unacked"] = sk.sk_ack_backlog
        info["sacked"] = sk.sk_max_ack_backlog
        return info
    _info_state(sk, info)
    _info_timing(sk, info)
    _info_counters(sk, info)
    return info


def _info_state(sk: tcp_sock, info: dict[str, int]) -> None:
    rx_opt = sk.rx_opt
    options = TCPI_OPT_TIMESTAMPS if rx_opt.tstamp_ok else 0
    options |= TCPI_OPT_SACK if tcp_is_sack(sk) else 0
    if rx_opt.wscale_ok:
        options |= TCPI_OPT_WSCALE
        info["snd_wscale"] = rx_opt.snd_wscale
        info["rcv_wscale"] = rx_opt.rcv_wscale
    options |= TCPI_OPT_ECN if sk.ecn_flags & TCP_ECN_MODE_ANY else 0
    options |= TCPI_OPT_ECN_SEEN if sk.ecn_flags & TCP_ECN_SEEN else 0
    options |= TCPI_OPT_SYN_DATA if sk.syn_data_acked else 0
    if sk.syn_fastopen_child and sk.sk_net.profile.info_shows_tfo_child:
        options |= TCPI_OPT_TFO_CHILD
    info.update(
        ca_state=sk.icsk_ca_state,
        retransmits=sk.icsk_retransmits,
        probes=sk.icsk_probes_out,
        backoff=sk.icsk_backoff,
        options=options,
        snd_mss=sk.mss_cache,
        rcv_mss=sk.icsk_ack.rcv_mss,
        unacked=sk.packets_out,
        sacked=sk.sacked_out,
        lost=sk.lost_out,
        retrans=sk.retrans_out,
        pmtu=sk.icsk_pmtu_cookie,
        rcv_ssthresh=sk.rcv_ssthresh,
        snd_ssthresh=sk.snd_ssthresh,
        advmss=sk.advmss,
        rcv_space=sk.rcvq_space.space,
        snd_wnd=sk.snd_wnd,
        rcv_wnd=sk.rcv_wnd,
        fastopen_client_fail=sk.fastopen_client_fail,
        notsent_bytes=max(diff(sk.write_seq, sk.snd_nxt), 0),
    )


def _info_timing(sk: tcp_sock, info: dict[str, int]) -> None:
    net = sk.sk_net
    now = tcp_jiffies32(net)

    def ago(stamp: int) -> int:
        return jiffies_to_msecs((now - stamp) & MASK32)

    info.update(
        rto=jiffies_to_usecs(sk.icsk_rto),
        ato=jiffies_to_usecs(sk.icsk_ack.ato),
        last_data_sent=ago(sk.lsndtime),
        last_data_recv=ago(sk.icsk_ack.lrcvtime),
        last_ack_recv=ago(sk.rcv_tstamp),
        rtt=sk.srtt_us >> 3,
        rttvar=sk.mdev_us >> 2,
        rcv_rtt=sk.rcv_rtt_est.rtt_us >> 3,
        min_rtt=tcp_min_rtt(sk),
    )
    tcp_get_info_chrono_stats(sk, info)
    if sk.rate_interval_us:
        info["delivery_rate"] = sk.rate_delivered * sk.mss_cache * 1_000_000 // sk.rate_interval_us
    info["delivery_rate_app_limited"] = int(sk.rate_app_limited)


def tcp_get_info_chrono_stats(sk: tcp_sock, info: dict[str, int]) -> None:
    """How long the connection was busy sending, and of that held back by the peer's window and by the send buffer; what
    it is now held back by counts until now."""
    stats = list(sk.chrono_stat)
    if sk.chrono_type:
        stats[sk.chrono_type - 1] += (tcp_jiffies32(sk.sk_net) - sk.chrono_start) & MASK32
    busy, rwnd_limited, sndbuf_limited = (jiffies_to_usecs(n) for n in (sum(stats), *stats[1:]))
    info.update(busy_time=busy, rwnd_limited=rwnd_limited, sndbuf_limited=sndbuf_limited)


def _info_counters(sk: tcp_sock, info: dict[str, int]) -> None:
    info.update(
        total_retrans=sk.total_retrans,
        bytes_acked=sk.bytes_acked,
        bytes_received=sk.bytes_received,
        segs_out=sk.segs_out,
        segs_in=sk.segs_in,
        data_segs_in=sk.data_segs_in,
        data_segs_out=sk.data_segs_out,
        delivered=sk.delivered,
        delivered_ce=sk.delivered_ce,
        bytes_sent=sk.bytes_sent,
        bytes_retrans=sk.bytes_retrans,
        dsack_dups=sk.dsack_dups,
        reord_seen=sk.reord_seen,
        rcv_ooopack=sk.rcv_ooopack,
        rehash=sk.timeout_rehash,
        total_rto=sk.total_rto,
        total_rto_recoveries=sk.total_rto_recoveries,
        total_rto_time=sk.total_rto_time,
    )
    if sk.rto_stamp:
        info["total_rto_time"] += (sk.sk_net.clock.now_ns() // 1_000_000 - sk.rto_stamp) & MASK32
    if sk.sk_net.profile.accecn:
        _info_accecn(sk, info)


def _info_accecn(sk: tcp_sock, info: dict[str, int]) -> None:
    """Accurate ECN's counters and state (tcp_ecn.py); ``ecn_mode``: 0 none, 1 RFC 3168, 2 accurate, 3 not decided."""
    received, delivered = sk.received_ecn_bytes, sk.delivered_ecn_bytes
    info.update(
        received_ce=sk.received_ce,
        delivered_e1_bytes=delivered[0],
        delivered_e0_bytes=delivered[1],
        delivered_ce_bytes=delivered[2],
        received_e1_bytes=received[0],
        received_e0_bytes=received[1],
        received_ce_bytes=received[2],
        accecn_fail_mode=sk.accecn_fail_mode,
        accecn_opt_seen=sk.saw_accecn_opt,
    )
    if sk.sk_net.profile.accecn_offered:
        info["ecn_mode"] = _ECN_MODES[sk.ecn_flags & TCP_ECN_MODE_ANY]


_ECN_MODES: Final = {
    TCP_ECN_DISABLED: 0,
    TCP_ECN_MODE_RFC3168: 1,
    TCP_ECN_MODE_ACCECN: 2,
    TCP_ECN_MODE_PENDING: 3,
}
_TCP_INFO_REST: Final = (
    "pacing_rate", "max_pacing_rate", "bytes_acked", "bytes_received", "segs_out", "segs_in", "notsent_bytes",
    "min_rtt", "data_segs_in", "data_segs_out", "delivery_rate", "busy_time", "rwnd_limited", "sndbuf_limited",
    "delivered", "delivered_ce", "bytes_sent", "bytes_retrans", "dsack_dups", "reord_seen", "rcv_ooopack",
    "snd_wnd", "snd_wscale", "rcv_wscale", "delivery_rate_app_limited", "fastopen_client_fail",
)  # fmt: skip
_TCP_INFO_LAYOUT: Final = Struct("=8B24I4Q6I4Q2I2Q4I")
# What came after 6.1, up to 6.18: 280 bytes in all
_TCP_INFO_LATER: Final = (
    "rcv_wnd", "rehash", "total_rto", "total_rto_recoveries", "total_rto_time", "received_ce", "delivered_e1_bytes",
    "delivered_e0_bytes", "delivered_ce_bytes", "received_e1_bytes", "received_e0_bytes", "received_ce_bytes",
    "accecn_fail_mode", "accecn_opt_seen",
)  # fmt: skip
_TCP_INFO_LATER_BITS: Final = (32, 32, 16, 16, 32, 32, 32, 32, 32, 32, 32, 32, 16, 16)
_TCP_INFO_LATER_LAYOUT: Final = Struct("=2I2H8I2H")


def _tcp_info_bytes(sk: tcp_sock) -> bytes:
    """struct tcp_info in C's layout, for getsockopt(TCP_INFO)."""
    info = _tcp_info(sk)
    u8 = [info[name] & 0xFF for name in _TCP_INFO_U8]
    wscale = info["snd_wscale"] | info["rcv_wscale"] << 4
    u32 = [info[name] & MASK32 for name in _TCP_INFO_U32]
    rest = [info[name] for name in _TCP_INFO_REST[:22]]
    bits = info["delivery_rate_app_limited"] | info["fastopen_client_fail"] << 1
    raw = _TCP_INFO_LAYOUT.pack(*u8, wscale, bits, *u32, *rest)
    if sk.sk_net.profile.tcp_info_len == len(raw):
        return raw
    sizes = zip(_TCP_INFO_LATER, _TCP_INFO_LATER_BITS, strict=True)
    return raw + _TCP_INFO_LATER_LAYOUT.pack(*(info[name] & (1 << bits) - 1 for name, bits in sizes))


_GETTERS[TCP_INFO] = _tcp_info_bytes
