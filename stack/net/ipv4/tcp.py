# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's socket calls: net/ipv4/tcp.c.

Theory of operation
-------------------
``tcp_sendmsg`` cuts what the application gives into packets of up to a GSO frame (``tcp_xmit_size_goal``) at the end of
``sk_write_queue`` and pushes; ``tcp_recvmsg`` takes slices of received frames from ``sk_receive_queue`` and
acknowledges what was read (``tcp_cleanup_rbuf``).  Neither ever waits: a call that would returns -EAGAIN, and who waits is woken by
``sk_write_space`` or ``sk_data_ready``.

Payload is not copied on its way out: immutable ``bytes`` are referenced (anything else is copied once), and small
pieces at the end of an unsent packet are joined, so that a thousand one-byte writes do not make a thousand buffers.
Reading copies each byte once, when the slices are joined for the application.

Closing (RFC 9293, section 3.10.4, and RFC 1122, 4.2.2.13): data that were not read, or a zero linger time, reset the
connection; otherwise a FIN goes out behind the data and the socket, now an orphan, finishes alone:

    state at close    sends   next            state at close    sends   next
    ESTABLISHED       FIN     FIN_WAIT1       LISTEN            -       CLOSE, children are reset
    SYN_RECV          FIN     FIN_WAIT1       SYN_SENT          -       CLOSE
    CLOSE_WAIT        FIN     LAST_ACK        others            -       unchanged

Limits: sndbuf and rcvbuf from tcp_wmem and tcp_rmem; data queued beyond sndbuf are refused, not cut in half.

Left out: splice, zero copy by page, TCP_REPAIR, a global limit of TCP memory and of orphans.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, ECONNRESET, EINVAL, ENOPROTOOPT, ENOTCONN, EPERM, EPIPE
from typing import TYPE_CHECKING, Any

from stack.include.inet_connection_sock import (
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    inet_csk_ack_scheduled,
    inet_csk_delack_init,
    inet_csk_enter_pingpong_mode,
    inet_csk_exit_pingpong_mode,
    inet_csk_in_pingpong_mode,
    inet_csk_listen_poll,
)
from stack.include.net import (
    MSG_EOR,
    MSG_MORE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    SOCK_NOSPACE,
)
from stack.include.sk_buff import CHECKSUM_PARTIAL, Buffer, sk_buff
from stack.include.snmp import (
    LINUX_MIB_TCPABORTONCLOSE,
    LINUX_MIB_TCPABORTONDATA,
    LINUX_MIB_TCPABORTONLINGER,
    LINUX_MIB_TCPAUTOCORKING,
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
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    SOCK_DEAD,
    SOCK_DONE,
    SOCK_KEEPOPEN,
    SOCK_LINGER,
    SOCK_URGINLINE,
    __sk_stream_is_writeable,
    sk_dst_reset,
    sock_error,
    sock_flag,
    sock_orphan,
)
from stack.include.tcp import (
    IPPROTO_TCP,
    MAX_TCP_KEEPCNT,
    MAX_TCP_KEEPIDLE,
    MAX_TCP_KEEPINTVL,
    MAX_TCP_SYNCNT,
    MAX_TCP_WINDOW,
    TCP_CHRONO_BUSY,
    TCP_CONGESTION,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_ECN_OK,
    TCP_ECN_SEEN,
    TCP_FIN_TIMEOUT_MAX,
    TCP_INFINITE_SSTHRESH,
    TCP_INFO,
    TCP_INIT_CWND,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_LINGER2,
    TCP_MAXSEG,
    TCP_MIN_MSS,
    TCP_MSS_DEFAULT,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_NODELAY,
    TCP_NOTSENT_LOWAT,
    TCP_QUICKACK,
    TCP_RTO_MAX,
    TCP_SAVE_SYN,
    TCP_SAVED_SYN,
    TCP_SYNCNT,
    TCP_TIMEOUT_INIT,
    TCP_TIMEWAIT_LEN,
    TCP_USER_TIMEOUT,
    TCP_WINDOW_CLAMP,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TCPHDR_SYN,
    TCPI_OPT_ECN,
    TCPI_OPT_ECN_SEEN,
    TCPI_OPT_SACK,
    TCPI_OPT_TIMESTAMPS,
    TCPI_OPT_WSCALE,
    keepalive_intvl_when,
    keepalive_probes,
    keepalive_time_when,
    minmax_reset,
    tcp_fin_time,
    tcp_rack,
    tcp_receive_window,
    tcp_skb_cb,
)
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
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
from stack.net.core import sock as core_sock
from stack.net.core.skbuff import consume_skb
from stack.net.core.stream import EPOLLWRNORM, sk_stream_error, sk_stream_write_space
from stack.net.ipv4 import (
    inet_connection_sock,
    inet_hashtables,
    tcp_cong,
    tcp_input,
    tcp_minisocks,
    tcp_output,
    tcp_rate,
    tcp_timer,
)
from stack.seqnum import MASK32, after

if TYPE_CHECKING:
    from stack.include.tcp import tcp_sock

# Pieces smaller than this are joined with the piece before them, up to this size.
SMALL_PIECE = 4096

optval_t = int | bytes


# -- birth ---------------------------------------------------------------------------------------------------------


def tcp_init_sock(sk: tcp_sock) -> int:
    """The protocol's part of a new socket."""
    net = sk.sk_net
    tcp_timer.tcp_init_xmit_timers(sk)
    sk.icsk_rto = TCP_TIMEOUT_INIT
    sk.icsk_rto_min = HZ // 5
    sk.icsk_delack_max = HZ // 5
    sk.mdev_us = jiffies_to_usecs(TCP_TIMEOUT_INIT)
    minmax_reset(sk.rtt_min, tcp_jiffies32(net), MASK32)
    sk.snd_cwnd = TCP_INIT_CWND
    # Until there was a round trip the rate samples are the application's.
    sk.app_limited = MASK32
    sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    sk.snd_cwnd_clamp = MASK32
    sk.mss_cache = TCP_MSS_DEFAULT
    sk.reordering = net.ipv4.sysctl_tcp_reordering
    tcp_cong.tcp_assign_congestion_control(sk)
    sk.sk_write_space = sk_stream_write_space
    sk.icsk_sync_mss = tcp_output.tcp_sync_mss
    sk.sk_sndbuf = net.ipv4.sysctl_tcp_wmem[1]
    sk.sk_rcvbuf = net.ipv4.sysctl_tcp_rmem[1]
    return 0


# -- states --------------------------------------------------------------------------------------------------------


def tcp_set_state(sk: tcp_sock, state: int) -> None:
    """Change the state; the gauge of established connections follows, and a closed socket leaves the tables."""
    oldstate = sk.sk_state
    net = sk.sk_net
    if state == TCP_ESTABLISHED:
        if oldstate != TCP_ESTABLISHED:
            TCP_INC_STATS(net, TCP_MIB_CURRESTAB)
    else:
        if state == TCP_CLOSE:
            if oldstate in (TCP_CLOSE_WAIT, TCP_ESTABLISHED):
                TCP_INC_STATS(net, TCP_MIB_ESTABRESETS)
            sk.sk_prot.unhash(sk)
            if sk.icsk_bind_hash is not None and not sk.sk_userlocks & SOCK_BINDPORT_LOCK:
                inet_hashtables.inet_put_port(sk)
        if oldstate == TCP_ESTABLISHED:
            TCP_DEC_STATS(net, TCP_MIB_CURRESTAB)
    sk.sk_state = state


def tcp_done(sk: tcp_sock) -> None:
    """The connection is over, for whatever reason: wake who waits, or let an orphan go."""
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        TCP_INC_STATS(sk.sk_net, TCP_MIB_ATTEMPTFAILS)
    tcp_set_state(sk, TCP_CLOSE)
    inet_connection_sock.inet_csk_clear_xmit_timers(sk)
    sk.sk_shutdown = SHUTDOWN_MASK
    if not sock_flag(sk, SOCK_DEAD):
        sk.sk_state_change(sk)
    else:
        inet_connection_sock.inet_csk_destroy_sock(sk)


def tcp_need_reset(state: int) -> bool:
    """Whether giving up in this state has to be told to the peer."""
    told = TCPF_ESTABLISHED | TCPF_CLOSE_WAIT | TCPF_FIN_WAIT1 | TCPF_FIN_WAIT2 | TCPF_SYN_RECV
    return 1 << state & told != 0


# What close() and shutdown() make of each state, and whether a FIN says so.
_NEW_STATE: dict[int, tuple[int, bool]] = {
    TCP_ESTABLISHED: (TCP_FIN_WAIT1, True),
    TCP_SYN_RECV: (TCP_FIN_WAIT1, True),
    TCP_CLOSE_WAIT: (TCP_LAST_ACK, True),
    TCP_SYN_SENT: (TCP_CLOSE, False),
}


def tcp_close_state(sk: tcp_sock) -> bool:
    """Take the step that closing takes; whether a FIN has to be sent."""
    state, fin = _NEW_STATE.get(sk.sk_state, (sk.sk_state, False))
    if state != sk.sk_state:
        tcp_set_state(sk, state)
    return fin


# -- sending -------------------------------------------------------------------------------------------------------


def tcp_stream_memory_free(sk: tcp_sock) -> bool:
    """Whether another packet may be queued: room in the send buffer, and not too much of it unsent."""
    if sk.sk_wmem_queued >= sk.sk_sndbuf:
        return False
    lowat = sk.notsent_lowat or sk.sk_net.ipv4.sysctl_tcp_notsent_lowat
    return (sk.write_seq - sk.snd_nxt) & MASK32 < lowat


def tcp_stream_alloc_skb(sk: tcp_sock) -> sk_buff:
    """An empty packet for payload that will be sent."""
    skb = sk_buff(b"", 0, 0)
    skb.ip_summed = CHECKSUM_PARTIAL
    return skb


def tcp_skb_entail(sk: tcp_sock, skb: sk_buff) -> None:
    """Append a new packet to the write queue."""
    skb.cb = tcp_skb_cb(sk.write_seq, sk.write_seq, TCPHDR_ACK)
    sk.sk_write_queue.append(skb)
    sk.sk_wmem_queued += skb.truesize
    if sk.nonagle & TCP_NAGLE_PUSH:
        sk.nonagle &= ~TCP_NAGLE_PUSH
    if not sk.packets_out:
        tcp_output.tcp_chrono_start(sk, TCP_CHRONO_BUSY)


def tcp_xmit_size_goal(sk: tcp_sock, mss_now: int, large_allowed: bool) -> int:
    """How many bytes a packet should hold: as many whole segments as the device and half of the peer's window take."""
    if not large_allowed or not tcp_output.sk_can_gso(sk):
        return mss_now
    goal = tcp_output.tcp_bound_to_half_wnd(sk, sk.sk_gso_max_size)
    sk.gso_segs = max(min(sk.sk_gso_max_segs, goal // mss_now), 1)
    return max(sk.gso_segs * mss_now, mss_now)


def tcp_send_mss(sk: tcp_sock, flags: int) -> tuple[int, int]:
    """(segment size, packet size) for data that are sent now."""
    mss_now = tcp_output.tcp_current_mss(sk)
    return mss_now, tcp_xmit_size_goal(sk, mss_now, not flags & MSG_OOB)


def forced_push(sk: tcp_sock) -> bool:
    """Whether more than half of the peer's largest window was written since the last PSH."""
    return after(sk.write_seq, (sk.pushed_seq + (sk.max_window >> 1)) & MASK32)


def tcp_mark_push(sk: tcp_sock, skb: sk_buff) -> None:
    skb.cb.tcp_flags |= TCPHDR_PSH
    sk.pushed_seq = sk.write_seq


def tcp_mark_urg(sk: tcp_sock, flags: int) -> None:
    if flags & MSG_OOB:
        sk.snd_up = sk.write_seq


def tcp_should_autocork(sk: tcp_sock, skb: sk_buff, size_goal: int) -> bool:
    """Whether a small packet should wait because the device still holds earlier ones of this socket."""
    return (
        skb.len < size_goal
        and bool(sk.sk_net.ipv4.sysctl_tcp_autocorking)
        and bool(sk.tcp_rtx_queue)
        and sk.sk_wmem_alloc > skb.truesize
    )


def tcp_push(sk: tcp_sock, flags: int, mss_now: int, nonagle: int, size_goal: int) -> None:
    """The application's write is over: mark its end and send what may be sent."""
    if not sk.sk_write_queue:
        return
    skb = sk.sk_write_queue[-1]
    if not flags & MSG_MORE or forced_push(sk):
        tcp_mark_push(sk, skb)
    tcp_mark_urg(sk, flags)
    if tcp_should_autocork(sk, skb, size_goal):
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPAUTOCORKING)
        return
    if flags & MSG_MORE:
        nonagle = TCP_NAGLE_CORK
    tcp_output.__tcp_push_pending_frames(sk, mss_now, nonagle)


def tcp_sendmsg(sk: tcp_sock, data: Buffer, flags: int) -> int:
    """Queue bytes for sending; how many were taken (at least one), or -EAGAIN, -EPIPE, or the pending error."""
    ret = tcp_sendmsg_locked(sk, data, flags)
    core_sock.release_sock(sk)
    return ret


def tcp_sendmsg_locked(sk: tcp_sock, data: Buffer, flags: int) -> int:
    tcp_rate.tcp_rate_check_app_limited(sk)
    state = 1 << sk.sk_state
    if not state & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT):
        if state & (TCPF_SYN_SENT | TCPF_SYN_RECV):
            return -EAGAIN
        return sk_stream_error(sk, -EPIPE)
    if sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
        return sk_stream_error(sk, -EPIPE)
    if not isinstance(data, bytes):
        data = bytes(data)
    mss_now, size_goal = tcp_send_mss(sk, flags)
    copied = _queue_data(sk, data, flags, mss_now, size_goal)
    if copied:
        tcp_push(sk, flags, mss_now, sk.nonagle, size_goal)
    elif data:
        return -EAGAIN
    return copied


def _queue_data(sk: tcp_sock, data: bytes, flags: int, mss_now: int, size_goal: int) -> int:
    """Fill packets at the end of the write queue until the data or the send buffer end; how many bytes went in."""
    size, copied = len(data), 0
    view = memoryview(data)
    queue = sk.sk_write_queue
    while copied < size:
        skb = queue[-1] if queue else None
        room = size_goal - skb.len if skb is not None and not skb.cb.eor else 0
        if skb is None or room <= 0:
            if not tcp_stream_memory_free(sk):
                _wait_for_space(sk)
                return copied
            skb = tcp_stream_alloc_skb(sk)
            tcp_skb_entail(sk, skb)
            room = size_goal
        n = min(room, size - copied)
        _append(sk, skb, data if n == size else view[copied : copied + n])
        copied += n
        if skb.len >= size_goal and copied < size:
            _push_full(sk, skb, mss_now)
    if flags & MSG_EOR and queue:
        queue[-1].cb.eor = True
    return copied


def _wait_for_space(sk: tcp_sock) -> None:
    if sk.sk_socket is not None:
        sk.sk_socket.flags |= SOCK_NOSPACE


def _append(sk: tcp_sock, skb: sk_buff, piece: bytes | memoryview) -> None:
    """Add payload to an unsent packet; a small piece is joined with a small one before it."""
    n = len(piece)
    frags = skb.frags
    if n < SMALL_PIECE and frags and len(frags[-1]) + n <= SMALL_PIECE:
        frags[-1] = b"".join((frags[-1], piece))
    else:
        frags.append(piece)
    skb.len += n
    skb.data_len += n
    skb.truesize += n
    sk.sk_wmem_queued += n
    cb = skb.cb
    cb.end_seq = sk.write_seq = (sk.write_seq + n) & MASK32
    cb.tcp_gso_segs = 0
    if cb.end_seq != cb.seq:
        cb.tcp_flags &= ~TCPHDR_PSH


def _push_full(sk: tcp_sock, skb: sk_buff, mss_now: int) -> None:
    """A packet is full and more follows: let it go if it is time."""
    if forced_push(sk):
        tcp_mark_push(sk, skb)
        tcp_output.__tcp_push_pending_frames(sk, mss_now, TCP_NAGLE_PUSH)
    elif skb is sk.sk_write_queue[0]:
        tcp_output.tcp_push_one(sk, mss_now)


def tcp_write_queue_purge(sk: tcp_sock) -> None:
    """Forget everything that was to be sent or acknowledged."""
    tcp_output.tcp_chrono_stop(sk, TCP_CHRONO_BUSY)
    sk.sk_write_queue.clear()
    sk.tcp_rtx_queue.clear()
    sk.tsorted_sent_queue = {}
    sk.sk_wmem_queued = 0
    sk.packets_out = sk.retrans_out = sk.sacked_out = sk.lost_out = 0
    sk.highest_sack = None
    sk.icsk_backoff = 0


# -- receiving -----------------------------------------------------------------------------------------------------


def tcp_recvmsg(sk: tcp_sock, size: int, flags: int) -> bytes | int:
    """At most ``size`` bytes, b"" at the end of the stream; -EAGAIN, -ENOTCONN or the pending error."""
    pieces = tcp_recv_skbs(sk, size, flags)
    if isinstance(pieces, int):
        return pieces
    return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)


def tcp_recv_skbs(sk: tcp_sock, size: int, flags: int = 0) -> list[memoryview] | int:
    """As tcp_recvmsg, without the copy: slices of the received frames (tcp_read_sock() is the kernel's)."""
    if sk.sk_state == TCP_LISTEN:
        return -ENOTCONN
    if flags & MSG_OOB:
        return tcp_recv_urg(sk, flags)
    ret = tcp_recvmsg_locked(sk, size, flags)
    core_sock.release_sock(sk)
    return ret


def tcp_recvmsg_locked(sk: tcp_sock, size: int, flags: int) -> list[memoryview] | int:
    peek = bool(flags & MSG_PEEK)
    seq = sk.copied_seq
    pieces: list[memoryview] = []
    left = size
    queue = sk.sk_receive_queue
    index = 0
    while left > 0 and index < len(queue):
        skb = queue[index]
        cb = skb.cb
        offset = (seq - cb.seq) & MASK32
        if cb.tcp_flags & TCPHDR_SYN:
            offset -= 1
        used = min(skb.len - offset, left)
        skip = 0
        if sk.urg_data and used > 0:
            used, skip = _around_urgent(sk, seq, used, bool(pieces))
        if used > 0:
            start = skb.data + offset + skip
            if not flags & MSG_TRUNC:
                pieces.append(memoryview(skb.head)[start : start + used])
            left -= used
        seq = (seq + used + skip) & MASK32
        if offset + used + skip < skb.len:
            break
        if cb.tcp_flags & TCPHDR_FIN:
            seq = (seq + 1) & MASK32
        if peek:
            index += 1
        else:
            queue.popleft()
            tcp_eat_recv_skb(sk, skb)
        if cb.tcp_flags & TCPHDR_FIN:
            break
    return _received(sk, pieces, size - left, seq, flags)


def _received(
    sk: tcp_sock, pieces: list[memoryview], copied: int, seq: int, flags: int
) -> list[memoryview] | int:
    """Account for what was read, or say why nothing was."""
    if flags & MSG_PEEK:
        return pieces if copied else _nothing_to_read(sk)
    advanced = seq != sk.copied_seq
    sk.copied_seq = seq
    if copied:
        tcp_input.tcp_rcv_space_adjust(sk)
    if copied or advanced:
        tcp_cleanup_rbuf(sk, copied)
    return pieces if copied else _nothing_to_read(sk)


def _nothing_to_read(sk: tcp_sock) -> list[memoryview] | int:
    if sock_flag(sk, SOCK_DONE):
        return []
    if sk.sk_err:
        return sock_error(sk)
    if sk.sk_shutdown & RCV_SHUTDOWN:
        return []
    if sk.sk_state == TCP_CLOSE:
        return -ENOTCONN
    return -EAGAIN


def tcp_eat_recv_skb(sk: tcp_sock, skb: sk_buff) -> None:
    """A received packet was read to its end."""
    consume_skb(skb)


def _around_urgent(sk: tcp_sock, seq: int, used: int, have_some: bool) -> tuple[int, int]:
    """Stop before the urgent byte; at it, skip it unless SO_OOBINLINE.  (bytes to take, bytes to skip first)."""
    urg_offset = (sk.urg_seq - seq) & MASK32
    if urg_offset >= used:
        return used, 0
    if urg_offset:
        return urg_offset, 0
    if sock_flag(sk, SOCK_URGINLINE):
        return used, 0
    return used - 1, 1


def tcp_recv_urg(sk: tcp_sock, flags: int) -> list[memoryview] | int:
    """recv(MSG_OOB): the urgent byte, once; -EINVAL if there is none (or it is in the stream), -EAGAIN if only announced."""
    if sock_flag(sk, SOCK_URGINLINE) or not sk.urg_data or sk.urg_data == TCP_URG_READ:
        return -EINVAL
    if sk.urg_data & TCP_URG_VALID:
        byte = bytes((sk.urg_data & 0xFF,))
        if not flags & MSG_PEEK:
            sk.urg_data = TCP_URG_READ
        return [memoryview(byte)]
    return -EAGAIN


# tp.urg_data: the byte in the low 8 bits, and how far it has got (include/net/tcp.h).
TCP_URG_VALID = 0x0100
TCP_URG_NOTYET = 0x0200
TCP_URG_READ = 0x0400


def tcp_cleanup_rbuf(sk: tcp_sock, copied: int) -> None:
    """The application has read: send the ACK that waits for it, or a window update worth sending."""
    __tcp_cleanup_rbuf(sk, copied)


def __tcp_cleanup_rbuf(sk: tcp_sock, copied: int) -> None:
    time_to_ack = False
    if inet_csk_ack_scheduled(sk):
        ack = sk.icsk_ack
        unacked = (sk.rcv_nxt - sk.rcv_wup) & MASK32
        # More than a segment is owed; or the sender pushed and everything it sent was read, in a one-way stream.
        if unacked > ack.rcv_mss:
            time_to_ack = True
        elif copied > 0 and not sk.sk_rmem_alloc:
            pushed_once = ack.pending & ICSK_ACK_PUSHED and not inet_csk_in_pingpong_mode(sk)
            time_to_ack = bool(ack.pending & ICSK_ACK_PUSHED2 or pushed_once)
    if copied > 0 and not time_to_ack and not sk.sk_shutdown & RCV_SHUTDOWN:
        rcv_window_now = tcp_receive_window(sk)
        # Only when the window could double is it worth a packet (RFC 9293, 3.8.6.2.2).
        if 2 * rcv_window_now <= sk.window_clamp:
            new_window = tcp_output.__tcp_select_window(sk)
            time_to_ack = bool(new_window) and new_window >= 2 * rcv_window_now
    if time_to_ack:
        tcp_output.tcp_send_ack(sk)


# -- shutting down -------------------------------------------------------------------------------------------------


def tcp_shutdown(sk: tcp_sock, how: int) -> None:
    """Half-close: a FIN behind the data, if the writing side is shut down."""
    if not how & SEND_SHUTDOWN:
        return
    if 1 << sk.sk_state & (TCPF_ESTABLISHED | TCPF_SYN_SENT | TCPF_CLOSE_WAIT):
        if tcp_close_state(sk):
            tcp_output.tcp_send_fin(sk)


def tcp_close(sk: tcp_sock, timeout: int) -> None:
    """The application lets go of its socket; nothing waits, so ``timeout`` (linger) only matters when it is 0."""
    __tcp_close(sk, timeout)
    if sk.sk_prot.release_cb is not None:
        sk.sk_prot.release_cb(sk)


def __tcp_close(sk: tcp_sock, timeout: int) -> None:
    net = sk.sk_net
    sk.sk_shutdown = SHUTDOWN_MASK
    if sk.sk_state == TCP_LISTEN:
        tcp_set_state(sk, TCP_CLOSE)
        inet_connection_sock.inet_csk_listen_stop(sk)
        _adjudge_to_death(sk)
        return
    data_was_unread = _flush_unread(sk)
    if sk.sk_state == TCP_CLOSE:
        pass
    elif data_was_unread:
        # RFC 2525, section 2.17: the peer must learn that its data were lost.
        NET_INC_STATS(net, LINUX_MIB_TCPABORTONCLOSE)
        tcp_set_state(sk, TCP_CLOSE)
        tcp_output.tcp_send_active_reset(sk)
    elif sock_flag(sk, SOCK_LINGER) and not sk.sk_lingertime:
        sk.sk_prot.disconnect(sk, 0)
        NET_INC_STATS(net, LINUX_MIB_TCPABORTONDATA)
    elif tcp_close_state(sk):
        tcp_output.tcp_send_fin(sk)
    _adjudge_to_death(sk)


def _flush_unread(sk: tcp_sock) -> int:
    """Drop what was received and not read; how many bytes that was."""
    unread = 0
    while sk.sk_receive_queue:
        skb = sk.sk_receive_queue.popleft()
        cb = skb.cb
        length = (cb.end_seq - cb.seq) & MASK32
        if cb.tcp_flags & TCPHDR_FIN:
            length -= 1
        # The first packet may have been read in part.
        already = (sk.copied_seq - cb.seq) & MASK32
        unread += max(length - already, 0) if already < 0x80000000 else length
        consume_skb(skb)
    return unread


def _adjudge_to_death(sk: tcp_sock) -> None:
    """The socket is an orphan now: let it finish alone, bounded by timers, or end it."""
    sock_orphan(sk)
    if sk.sk_state == TCP_FIN_WAIT2:
        if sk.linger2 < 0:
            tcp_set_state(sk, TCP_CLOSE)
            tcp_output.tcp_send_active_reset(sk)
            NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPABORTONLINGER)
        else:
            tmo = tcp_fin_time(sk)
            if tmo <= TCP_TIMEWAIT_LEN:
                tcp_minisocks.tcp_time_wait(sk, TCP_FIN_WAIT2, tmo)
                return
            inet_connection_sock.inet_csk_reset_keepalive_timer(sk, tmo - TCP_TIMEWAIT_LEN)
    if sk.sk_state == TCP_CLOSE:
        inet_connection_sock.inet_csk_destroy_sock(sk)


def tcp_disconnect(sk: tcp_sock, flags: int) -> int:
    """connect(AF_UNSPEC), a zero linger time, an unaccepted child: end the connection, keep the socket."""
    old_state = sk.sk_state
    if old_state != TCP_CLOSE:
        tcp_set_state(sk, TCP_CLOSE)
    unsent_fin = sk.snd_nxt != sk.write_seq and 1 << old_state & (TCPF_CLOSING | TCPF_LAST_ACK)
    if old_state == TCP_LISTEN:
        inet_connection_sock.inet_csk_listen_stop(sk)
    elif tcp_need_reset(old_state) or unsent_fin:
        tcp_output.tcp_send_active_reset(sk)
        sk.sk_err = ECONNRESET
    elif old_state == TCP_SYN_SENT:
        sk.sk_err = ECONNRESET
    inet_connection_sock.inet_csk_clear_xmit_timers(sk)
    _forget_queues(sk)
    _forget_connection(sk)
    sk.sk_error_report(sk)
    return 0


def _forget_queues(sk: tcp_sock) -> None:
    while sk.sk_receive_queue:
        consume_skb(sk.sk_receive_queue.popleft())
    sk.copied_seq = sk.rcv_nxt
    sk.urg_data = 0
    tcp_write_queue_purge(sk)
    for skb in sk.out_of_order_queue:
        consume_skb(skb)
    sk.out_of_order_queue = []


def _forget_connection(sk: tcp_sock) -> None:
    """Back to what tcp_init_sock() made, so that the socket could be used again."""
    sk.sk_dport = sk.sk_daddr = 0
    if not sk.sk_userlocks & SOCK_BINDADDR_LOCK:
        sk.sk_rcv_saddr = sk.inet_saddr = 0
    sk.sk_shutdown = 0
    sk.sk_flags &= ~SOCK_DONE
    sk.srtt_us = sk.rcv_rtt_last_tsecr = 0
    sk.mdev_us = jiffies_to_usecs(TCP_TIMEOUT_INIT)
    sk.icsk_rto = TCP_TIMEOUT_INIT
    sk.icsk_backoff = sk.icsk_probes_out = sk.icsk_probes_tstamp = sk.icsk_retransmits = 0
    sk.snd_cwnd, sk.snd_ssthresh = TCP_INIT_CWND, TCP_INFINITE_SSTHRESH
    sk.snd_cwnd_cnt = sk.window_clamp = 0
    tcp_cong.tcp_cleanup_congestion_control(sk)
    sk.icsk_ca_state = 0
    inet_csk_delack_init(sk)
    sk.rx_opt.saw_tstamp = False
    sk.rx_opt.num_sacks = 0
    sk.rack = tcp_rack()
    sk_dst_reset(sk)


# -- readiness -----------------------------------------------------------------------------------------------------


def tcp_inq(sk: tcp_sock) -> int:
    """SIOCINQ: bytes that could be read now."""
    answ = (sk.rcv_nxt - sk.copied_seq) & MASK32
    if answ and sock_flag(sk, SOCK_DONE):
        answ -= 1
    return answ


def tcp_stream_is_readable(sk: tcp_sock, target: int) -> bool:
    return bool(sk.sk_receive_queue) and tcp_inq(sk) >= target


def tcp_poll(sk: tcp_sock) -> int:
    """What would not block now, as EPOLL bits."""
    state = sk.sk_state
    if state == TCP_LISTEN:
        return inet_csk_listen_poll(sk)
    mask = 0
    if sk.sk_shutdown == SHUTDOWN_MASK or state == TCP_CLOSE:
        mask |= EPOLLHUP
    if sk.sk_shutdown & RCV_SHUTDOWN:
        mask |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP
    if not 1 << state & (TCPF_SYN_SENT | TCPF_SYN_RECV):
        mask |= _poll_connected(sk)
    if sk.sk_err or sk.sk_error_queue:
        mask |= EPOLLERR
    return mask


def _poll_connected(sk: tcp_sock) -> int:
    mask = 0
    if tcp_stream_is_readable(sk, sk.sk_rcvlowat):
        mask |= EPOLLIN | EPOLLRDNORM
    if sk.sk_shutdown & SEND_SHUTDOWN or (__sk_stream_is_writeable(sk) and tcp_stream_memory_free(sk)):
        mask |= EPOLLOUT | EPOLLWRNORM
    else:
        _wait_for_space(sk)
    if sk.urg_data & TCP_URG_VALID:
        mask |= EPOLLPRI
    return mask


# -- options -------------------------------------------------------------------------------------------------------


def __tcp_sock_set_nodelay(sk: tcp_sock, on: int) -> int:
    if on:
        sk.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH
        tcp_push_pending_frames(sk)
    else:
        sk.nonagle &= ~TCP_NAGLE_OFF
    return 0


def __tcp_sock_set_cork(sk: tcp_sock, on: int) -> int:
    if on:
        sk.nonagle |= TCP_NAGLE_CORK
    else:
        sk.nonagle &= ~TCP_NAGLE_CORK
        if sk.nonagle & TCP_NAGLE_OFF:
            sk.nonagle |= TCP_NAGLE_PUSH
        tcp_push_pending_frames(sk)
    return 0


def tcp_push_pending_frames(sk: tcp_sock) -> None:
    """Send what waits, if anything does (include/net/tcp.h)."""
    if sk.sk_write_queue:
        tcp_output.__tcp_push_pending_frames(sk, tcp_output.tcp_current_mss(sk), sk.nonagle)


def _set_maxseg(sk: tcp_sock, val: int) -> int:
    if val and not TCP_MIN_MSS <= val <= MAX_TCP_WINDOW:
        return -EINVAL
    sk.rx_opt.user_mss = val
    return 0


def tcp_sock_set_keepidle_locked(sk: tcp_sock, val: int) -> int:
    if not 1 <= val <= MAX_TCP_KEEPIDLE:
        return -EINVAL
    sk.keepalive_time = val * HZ
    if sock_flag(sk, SOCK_KEEPOPEN) and not 1 << sk.sk_state & (TCPF_CLOSE | TCPF_LISTEN):
        elapsed = tcp_timer.keepalive_time_elapsed(sk)
        inet_connection_sock.inet_csk_reset_keepalive_timer(sk, max(sk.keepalive_time - elapsed, 0))
    return 0


def tcp_sock_set_keepintvl(sk: tcp_sock, val: int) -> int:
    if not 1 <= val <= MAX_TCP_KEEPINTVL:
        return -EINVAL
    sk.keepalive_intvl = val * HZ
    return 0


def tcp_sock_set_keepcnt(sk: tcp_sock, val: int) -> int:
    if not 1 <= val <= MAX_TCP_KEEPCNT:
        return -EINVAL
    sk.keepalive_probes = val
    return 0


def tcp_sock_set_syncnt(sk: tcp_sock, val: int) -> int:
    if not 1 <= val <= MAX_TCP_SYNCNT:
        return -EINVAL
    sk.icsk_syn_retries = val
    return 0


def tcp_sock_set_user_timeout(sk: tcp_sock, val: int) -> int:
    if val < 0:
        return -EINVAL
    sk.icsk_user_timeout = val
    return 0


def _set_linger2(sk: tcp_sock, val: int) -> int:
    if val < 0:
        sk.linger2 = -1
    elif val > TCP_FIN_TIMEOUT_MAX // HZ:
        sk.linger2 = TCP_FIN_TIMEOUT_MAX
    else:
        sk.linger2 = val * HZ
    return 0


def secs_to_retrans(seconds: int, timeout: int, rto_max: int) -> int:
    """How many SYN-ACKs, doubling from ``timeout`` seconds, it takes to cover that many seconds."""
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
    """The other way round, so what was set is read back rounded up: 5 as 7."""
    period = 0
    for _ in range(retrans):
        period += timeout
        timeout = min(timeout << 1, rto_max)
    return period


def _set_defer_accept(sk: tcp_sock, val: int) -> int:
    retries = secs_to_retrans(val, TCP_TIMEOUT_INIT // HZ, TCP_RTO_MAX // HZ)
    sk.icsk_accept_queue.rskq_defer_accept = retries
    return 0


def _set_window_clamp(sk: tcp_sock, val: int) -> int:
    if not val:
        if sk.sk_state != TCP_CLOSE:
            return -EINVAL
        sk.window_clamp = 0
        return 0
    sk.window_clamp = max(val, 2304 // 2)
    sk.rcv_ssthresh = min(sk.rcv_wnd, sk.window_clamp)
    return 0


def __tcp_sock_set_quickack(sk: tcp_sock, val: int) -> int:
    """On: acknowledge at once from now on, and what is owed now.  An even value holds until the next reply only."""
    if not val:
        inet_csk_enter_pingpong_mode(sk)
        return 0
    inet_csk_exit_pingpong_mode(sk)
    if 1 << sk.sk_state & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT) and inet_csk_ack_scheduled(sk):
        sk.icsk_ack.pending |= ICSK_ACK_PUSHED
        tcp_cleanup_rbuf(sk, 1)
        if not val & 1:
            inet_csk_enter_pingpong_mode(sk)
    return 0


def _set_notsent_lowat(sk: tcp_sock, val: int) -> int:
    sk.notsent_lowat = val
    sk.sk_write_space(sk)
    return 0


def _set_save_syn(sk: tcp_sock, val: int) -> int:
    if not 0 <= val <= 2:
        return -EINVAL
    sk.save_syn = val
    return 0


_SETSOCKOPT: dict[int, Callable[[tcp_sock, int], int]] = {
    TCP_NODELAY: __tcp_sock_set_nodelay,
    TCP_MAXSEG: _set_maxseg,
    TCP_CORK: __tcp_sock_set_cork,
    TCP_KEEPIDLE: tcp_sock_set_keepidle_locked,
    TCP_KEEPINTVL: tcp_sock_set_keepintvl,
    TCP_KEEPCNT: tcp_sock_set_keepcnt,
    TCP_SYNCNT: tcp_sock_set_syncnt,
    TCP_LINGER2: _set_linger2,
    TCP_DEFER_ACCEPT: _set_defer_accept,
    TCP_WINDOW_CLAMP: _set_window_clamp,
    TCP_QUICKACK: __tcp_sock_set_quickack,
    TCP_USER_TIMEOUT: tcp_sock_set_user_timeout,
    TCP_NOTSENT_LOWAT: _set_notsent_lowat,
    TCP_SAVE_SYN: _set_save_syn,
}


def tcp_setsockopt(sk: tcp_sock, level: int, optname: int, optval: optval_t) -> int:
    """An option of level IPPROTO_TCP, others by the network layer; 0, -EINVAL, -ENOPROTOOPT or -ENOENT."""
    if level != IPPROTO_TCP:
        err: int = sk.icsk_af_ops.setsockopt(sk, level, optname, optval)
        return err
    if optname == TCP_CONGESTION:
        if isinstance(optval, int):
            return -EINVAL
        return tcp_cong.tcp_set_congestion_control(sk, optval.split(b"\0")[0].decode("ascii", "replace"))
    setter = _SETSOCKOPT.get(optname)
    if setter is None:
        return -ENOPROTOOPT
    if isinstance(optval, bytes):
        if len(optval) < 4:
            return -EINVAL
        optval = int.from_bytes(optval[:4], "little", signed=True)
    return setter(sk, optval)


def _get_maxseg(sk: tcp_sock) -> int:
    if 1 << sk.sk_state & (TCPF_CLOSE | TCPF_LISTEN):
        return sk.rx_opt.user_mss or sk.mss_cache
    return sk.mss_cache


def _get_linger2(sk: tcp_sock) -> int:
    if sk.linger2 < 0:
        return -1
    return sk.linger2 // HZ if sk.linger2 else sk.sk_net.ipv4.sysctl_tcp_fin_timeout


def _get_defer_accept(sk: tcp_sock) -> int:
    retries = sk.icsk_accept_queue.rskq_defer_accept
    return retrans_to_secs(retries, TCP_TIMEOUT_INIT // HZ, TCP_RTO_MAX // HZ)


_GETSOCKOPT: dict[int, Callable[[tcp_sock], optval_t]] = {
    TCP_NODELAY: lambda sk: int(sk.nonagle & TCP_NAGLE_OFF != 0),
    TCP_MAXSEG: _get_maxseg,
    TCP_CORK: lambda sk: int(sk.nonagle & TCP_NAGLE_CORK != 0),
    TCP_KEEPIDLE: lambda sk: keepalive_time_when(sk) // HZ,
    TCP_KEEPINTVL: lambda sk: keepalive_intvl_when(sk) // HZ,
    TCP_KEEPCNT: keepalive_probes,
    TCP_SYNCNT: lambda sk: sk.icsk_syn_retries or sk.sk_net.ipv4.sysctl_tcp_syn_retries,
    TCP_LINGER2: _get_linger2,
    TCP_DEFER_ACCEPT: _get_defer_accept,
    TCP_WINDOW_CLAMP: lambda sk: sk.window_clamp,
    TCP_QUICKACK: lambda sk: int(not inet_csk_in_pingpong_mode(sk)),
    TCP_USER_TIMEOUT: lambda sk: sk.icsk_user_timeout,
    TCP_NOTSENT_LOWAT: lambda sk: sk.notsent_lowat,
    TCP_SAVE_SYN: lambda sk: sk.save_syn,
    TCP_CONGESTION: lambda sk: sk.icsk_ca_ops.name.encode().ljust(16, b"\0"),
}


def tcp_getsockopt(sk: tcp_sock, level: int, optname: int) -> tuple[int, Any]:
    """(0, value) or (negative errno, 0).  TCP_INFO is the mapping of tcp_get_info()."""
    if level != IPPROTO_TCP:
        result: tuple[int, Any] = sk.icsk_af_ops.getsockopt(sk, level, optname)
        return result
    if optname == TCP_INFO:
        return 0, tcp_get_info(sk)
    if optname == TCP_SAVED_SYN:
        if not sk.save_syn and sk.saved_syn is None:
            return -EPERM, 0
        saved, sk.saved_syn = sk.saved_syn, None
        return 0, saved or b""
    getter = _GETSOCKOPT.get(optname)
    return (0, getter(sk)) if getter is not None else (-ENOPROTOOPT, 0)


# -- TCP_INFO ------------------------------------------------------------------------------------------------------


def tcp_get_info(sk: tcp_sock) -> dict[str, int]:
    """struct tcp_info by the kernel's field names.  tcpi_rtt, rttvar, rto, ato in microseconds, ages in ms, sizes in
    bytes, cwnd and ssthresh in segments.  A listener shows its queue as unacked and its backlog as sacked."""
    info = _info_header(sk)
    info["tcpi_unacked"] = sk.packets_out
    info["tcpi_sacked"] = sk.sacked_out
    if sk.sk_state == TCP_LISTEN:
        info["tcpi_unacked"] = sk.sk_ack_backlog
        info["tcpi_sacked"] = sk.sk_max_ack_backlog
        return info
    info.update(_info_congestion(sk))
    info.update(_info_ages(sk))
    info.update(_info_counts(sk))
    return info


def _info_header(sk: tcp_sock) -> dict[str, int]:
    opt = sk.rx_opt
    options = TCPI_OPT_TIMESTAMPS if opt.tstamp_ok else 0
    options |= TCPI_OPT_SACK if opt.sack_ok else 0
    options |= TCPI_OPT_WSCALE if opt.wscale_ok else 0
    options |= TCPI_OPT_ECN if sk.ecn_flags & TCP_ECN_OK else 0
    options |= TCPI_OPT_ECN_SEEN if sk.ecn_flags & TCP_ECN_SEEN else 0
    return {
        "tcpi_state": sk.sk_state,
        "tcpi_ca_state": sk.icsk_ca_state,
        "tcpi_retransmits": sk.icsk_retransmits,
        "tcpi_probes": sk.icsk_probes_out,
        "tcpi_backoff": sk.icsk_backoff,
        "tcpi_options": options,
        "tcpi_snd_wscale": opt.snd_wscale if opt.wscale_ok else 0,
        "tcpi_rcv_wscale": opt.rcv_wscale if opt.wscale_ok else 0,
        "tcpi_reordering": sk.reordering,
    }


def _info_congestion(sk: tcp_sock) -> dict[str, int]:
    return {
        "tcpi_rto": jiffies_to_usecs(sk.icsk_rto),
        "tcpi_ato": jiffies_to_usecs(sk.icsk_ack.ato),
        "tcpi_snd_mss": sk.mss_cache,
        "tcpi_rcv_mss": sk.icsk_ack.rcv_mss,
        "tcpi_lost": sk.lost_out,
        "tcpi_retrans": sk.retrans_out,
        "tcpi_pmtu": sk.icsk_pmtu_cookie,
        "tcpi_rcv_ssthresh": sk.rcv_ssthresh,
        "tcpi_rtt": sk.srtt_us >> 3,
        "tcpi_rttvar": sk.mdev_us >> 2,
        "tcpi_snd_ssthresh": sk.snd_ssthresh,
        "tcpi_snd_cwnd": sk.snd_cwnd,
        "tcpi_advmss": sk.advmss,
        "tcpi_rcv_rtt": sk.rcv_rtt_est.rtt_us >> 3,
        "tcpi_rcv_space": sk.rcvq_space.space,
        "tcpi_snd_wnd": sk.snd_wnd,
        "tcpi_rcv_wnd": sk.rcv_wnd,
        "tcpi_min_rtt": sk.rtt_min.s[0][1],
    }


def _info_ages(sk: tcp_sock) -> dict[str, int]:
    now = tcp_jiffies32(sk.sk_net)

    def age(stamp: int) -> int:
        return jiffies_to_msecs((now - stamp) & MASK32)

    return {
        "tcpi_last_data_sent": age(sk.lsndtime),
        "tcpi_last_data_recv": age(sk.icsk_ack.lrcvtime),
        "tcpi_last_ack_recv": age(sk.rcv_tstamp),
    }


def _info_counts(sk: tcp_sock) -> dict[str, int]:
    return {
        "tcpi_total_retrans": sk.total_retrans,
        "tcpi_bytes_acked": sk.bytes_acked,
        "tcpi_bytes_received": sk.bytes_received,
        "tcpi_bytes_sent": sk.bytes_sent,
        "tcpi_bytes_retrans": sk.bytes_retrans,
        "tcpi_segs_out": sk.segs_out,
        "tcpi_segs_in": sk.segs_in,
        "tcpi_data_segs_in": sk.data_segs_in,
        "tcpi_data_segs_out": sk.data_segs_out,
        "tcpi_notsent_bytes": (sk.write_seq - sk.snd_nxt) & MASK32,
        "tcpi_delivered": sk.delivered,
        "tcpi_delivered_ce": sk.delivered_ce,
        "tcpi_dsack_dups": sk.dsack_dups,
        "tcpi_reord_seen": sk.reord_seen,
        "tcpi_rcv_ooopack": sk.rcv_ooopack,
    }
