# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's timers: net/ipv4/tcp_timer.c.

Theory of operation
-------------------
A socket has three timers.  ``icsk_retransmit_timer`` serves one purpose at a time, named by ``icsk_pending``:

    ICSK_TIME_RETRANS      RTO (RFC 6298): the first packet again, everything counts as lost, RTO doubled
    ICSK_TIME_LOSS_PROBE   tail loss probe (RFC 8985, section 7)
    ICSK_TIME_REO_TIMEOUT  RACK's reordering window has passed (RFC 8985, section 6)
    ICSK_TIME_PROBE0       the peer's window is closed: probe it (RFC 9293, section 3.8.6.1)

``icsk_delack_timer`` sends the delayed ACK.  ``sk_timer`` is keepalive, and for an orphan in FIN_WAIT2 the end.

When it fires early (the deadline moved later meanwhile) a handler arms itself again and does nothing else.

Giving up: retransmissions end after as much time as tcp_retries2 (15) doublings from 200 ms take: 924.6 s nominal, with
at least one resend; a probe goes unanswered 15 times; a keepalive 9 times.  Then ETIMEDOUT.  An orphan (closed by its
application) ends earlier: tcp_orphan_retries, 8 if the peer still lives.  TCP_USER_TIMEOUT (RFC 5482) replaces all of
these.

Left out: tcp_mtu_probing (its sysctl is 0).
"""

from __future__ import annotations

from errno import ETIMEDOUT
from typing import TYPE_CHECKING, Final

from stack.include.inet_connection_sock import (
    ICSK_ACK_TIMER,
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    inet_csk_ack_scheduled,
    inet_csk_exit_pingpong_mode,
    inet_csk_in_pingpong_mode,
    inet_csk_reset_xmit_timer,
    inet_csk_rto_backoff,
)
from stack.include.snmp import (
    LINUX_MIB_DELAYEDACKS,
    LINUX_MIB_TCPABORTONMEMORY,
    LINUX_MIB_TCPABORTONTIMEOUT,
    LINUX_MIB_TCPKEEPALIVE,
    LINUX_MIB_TCPLOSSFAILURES,
    LINUX_MIB_TCPRENOFAILURES,
    LINUX_MIB_TCPRENORECOVERYFAIL,
    LINUX_MIB_TCPSACKFAILURES,
    LINUX_MIB_TCPSACKRECOVERYFAIL,
    LINUX_MIB_TCPTIMEOUTREHASH,
    LINUX_MIB_TCPTIMEOUTS,
    NET_INC_STATS,
)
from stack.include.sock import SOCK_DEAD, SOCK_KEEPOPEN, sk_dst_reset, sk_rethink_txhash, sock_flag
from stack.include.tcp import (
    TCP_ATO_MIN,
    TCP_RESOURCE_PROBE_INTERVAL,
    TCP_RTO_MAX,
    TCP_RTO_MIN,
    TCP_THIN_LINEAR_RETRIES,
    TCP_TIMEOUT_INIT,
    TCP_TIMEWAIT_LEN,
    TCP_CA_Disorder,
    TCP_CA_Loss,
    TCP_CA_Recovery,
    keepalive_intvl_when,
    keepalive_probes,
    keepalive_time_when,
    tcp_fin_time,
    tcp_is_sack,
    tcp_rtx_queue_head,
    tcp_stream_is_thin,
    tcp_time_stamp,
    tcp_time_stamp_ms,
    tcp_write_queue_empty,
)
from stack.include.tcp_states import (
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_LISTEN,
    TCP_SYN_SENT,
    TCPF_CLOSE,
    TCPF_LISTEN,
    TCPF_SYN_RECV,
    TCPF_SYN_SENT,
)
from stack.kernel.time.timer import (
    hrtimer_cancel,
    hrtimer_init,
    jiffies,
    jiffies_to_msecs,
    mod_timer,
    msecs_to_jiffies,
    tcp_jiffies32,
)
from stack.net.ipv4 import (
    inet_connection_sock,
    tcp,
    tcp_fastopen,
    tcp_input,
    tcp_minisocks,
    tcp_output,
    tcp_recovery,
)
from stack.seqnum import MASK32

if TYPE_CHECKING:
    from stack.include.request_sock import request_sock, tcp_request_sock
    from stack.include.tcp import tcp_sock

# With tcp_orphan_retries 0: how often an orphan whose peer still answers may resend (tcp_orphan_retries()).
ORPHAN_RETRIES_ALIVE: Final = 8


# -- when to give up ---------------------------------------------------------------------------------------------


def tcp_clamp_rto_to_user_timeout(sk: tcp_sock) -> int:
    """The RTO in jiffies, cut so that the timer fires when TCP_USER_TIMEOUT is over."""
    if not sk.icsk_user_timeout:
        return sk.icsk_rto
    elapsed = (tcp_time_stamp(sk) - sk.retrans_stamp) & MASK32
    remaining = sk.icsk_user_timeout - elapsed
    return 1 if remaining <= 0 else min(sk.icsk_rto, msecs_to_jiffies(remaining))


def tcp_clamp_probe0_to_user_timeout(sk: tcp_sock, when: int) -> int:
    """The same for window probes."""
    if not sk.icsk_user_timeout or not sk.icsk_probes_tstamp:
        return when
    elapsed = (tcp_jiffies32(sk.sk_net) - sk.icsk_probes_tstamp) & MASK32
    remaining = max(msecs_to_jiffies(sk.icsk_user_timeout) - elapsed, 1)
    return min(remaining, when)


def tcp_write_err(sk: tcp_sock) -> None:
    """Give the connection up: ETIMEDOUT, or the ICMP error that came meanwhile."""
    sk.sk_err = sk.sk_err_soft or ETIMEDOUT
    sk.sk_error_report(sk)
    tcp.tcp_write_queue_purge(sk)
    tcp.tcp_done(sk)
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPABORTONTIMEOUT)


def tcp_orphan_retries(sk: tcp_sock, alive: bool) -> int:
    """How often a socket without an application may try."""
    if sk.sk_err_soft and not alive:
        return 0
    retries = sk.sk_net.ipv4.sysctl_tcp_orphan_retries
    return ORPHAN_RETRIES_ALIVE if retries == 0 and alive else retries


def tcp_model_timeout(boundary: int, rto_base: int) -> int:
    """How long, in ms, ``boundary`` doublings of ``rto_base`` jiffies take, each at most TCP_RTO_MAX."""
    doublings = (TCP_RTO_MAX // rto_base).bit_length() - 1
    if boundary <= doublings:
        total = ((2 << boundary) - 1) * rto_base
    else:
        total = ((2 << doublings) - 1) * rto_base + (boundary - doublings) * TCP_RTO_MAX
    return jiffies_to_msecs(total)


def retransmits_timed_out(sk: tcp_sock, boundary: int, timeout: int) -> bool:
    """Whether the data first resent at ``retrans_stamp`` wait for longer than ``timeout`` ms, or, if that is 0, than
    ``boundary`` retransmissions take."""
    if not sk.icsk_retransmits:
        return False
    if not timeout:
        handshake = 1 << sk.sk_state & (TCPF_SYN_SENT | TCPF_SYN_RECV)
        timeout = tcp_model_timeout(boundary, TCP_TIMEOUT_INIT if handshake else TCP_RTO_MIN)
    waited = (tcp_time_stamp(sk) - sk.retrans_stamp - timeout) & MASK32
    return waited < 0x80000000


def tcp_out_of_resources(sk: tcp_sock, do_reset: bool) -> bool:
    """Whether an orphan had to go because there are too many of them, or too little memory.  One that has not sent
    for long, or that routers complained about, counts twice or four times."""
    idle = (tcp_jiffies32(sk.sk_net) - sk.lsndtime) & MASK32
    shift = int(2 * TCP_RTO_MAX < idle < 0x80000000 or not do_reset) + int(bool(sk.sk_err_soft))
    if not tcp.tcp_check_oom(sk, shift):
        return False
    if do_reset or idle <= TCP_TIMEWAIT_LEN or (not sk.snd_wnd and not sk.packets_out):
        tcp_output.tcp_send_active_reset(sk)
    tcp.tcp_done(sk)
    NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPABORTONMEMORY)
    return True


def tcp_write_timeout(sk: tcp_sock) -> bool:
    """The RTO fired: is it enough?  Returns True if the connection was given up."""
    net = sk.sk_net
    if 1 << sk.sk_state & (TCPF_SYN_SENT | TCPF_SYN_RECV):
        if sk.icsk_retransmits:
            sk_dst_reset(sk)
        retry_until = sk.icsk_syn_retries or net.ipv4.sysctl_tcp_syn_retries
        tries = retry_until
        if sk.sk_state == TCP_SYN_SENT:
            tries += net.ipv4.sysctl_tcp_syn_linear_timeouts
        expired = sk.icsk_retransmits >= tries
    else:
        if retransmits_timed_out(sk, net.ipv4.sysctl_tcp_retries1, 0):
            sk_dst_reset(sk)
        retry_until = net.ipv4.sysctl_tcp_retries2
        if sock_flag(sk, SOCK_DEAD):
            alive = sk.icsk_rto < TCP_RTO_MAX
            retry_until = tcp_orphan_retries(sk, alive)
            if tcp_out_of_resources(sk, alive or not retransmits_timed_out(sk, retry_until, 0)):
                return True
        expired = False
    expired = expired or retransmits_timed_out(sk, retry_until, sk.icsk_user_timeout)
    tcp_fastopen.tcp_fastopen_active_detect_blackhole(sk, expired)
    if expired:
        tcp_write_err(sk)
    elif sk_rethink_txhash(sk):
        sk.timeout_rehash += 1
        NET_INC_STATS(net, LINUX_MIB_TCPTIMEOUTREHASH)
    return expired


# -- delayed ACK ---------------------------------------------------------------------------------------------------


def tcp_delack_timer_handler(sk: tcp_sock) -> None:
    """Send the ACK that was put off; one that had to wait for this timer makes the next wait longer."""
    ack = sk.icsk_ack
    if 1 << sk.sk_state & (TCPF_CLOSE | TCPF_LISTEN):
        return
    if sk.compressed_ack:
        tcp_output.tcp_mstamp_refresh(sk)
        tcp_input.tcp_sack_compress_send_ack(sk)
        return
    if not ack.pending & ICSK_ACK_TIMER:
        return
    net = sk.sk_net
    if ack.timeout > jiffies(net):
        mod_timer(net, sk.icsk_delack_timer, ack.timeout)
        return
    ack.pending &= ~ICSK_ACK_TIMER
    if inet_csk_ack_scheduled(sk):
        if inet_csk_in_pingpong_mode(sk):
            # The application did not answer in time: it is not a conversation after all.
            inet_csk_exit_pingpong_mode(sk)
            ack.ato = TCP_ATO_MIN
        else:
            ack.ato = min(ack.ato << 1, sk.icsk_rto)
        tcp_output.tcp_mstamp_refresh(sk)
        tcp_output.tcp_send_ack(sk)
        NET_INC_STATS(net, LINUX_MIB_DELAYEDACKS)


def tcp_delack_timer(sk: tcp_sock) -> None:
    tcp_delack_timer_handler(sk)


# -- window probes -------------------------------------------------------------------------------------------------


def tcp_probe_timer(sk: tcp_sock) -> None:
    """The peer's window has been closed for a while: probe it, or give up."""
    if sk.packets_out or not sk.sk_write_queue:
        sk.icsk_probes_out = 0
        sk.icsk_probes_tstamp = 0
        return
    now = tcp_jiffies32(sk.sk_net)
    if not sk.icsk_probes_tstamp:
        sk.icsk_probes_tstamp = now
    elif sk.icsk_user_timeout:
        if (now - sk.icsk_probes_tstamp) & MASK32 >= msecs_to_jiffies(sk.icsk_user_timeout):
            tcp_write_err(sk)
            return
    max_probes = sk.sk_net.ipv4.sysctl_tcp_retries2
    if sock_flag(sk, SOCK_DEAD):
        alive = inet_csk_rto_backoff(sk, TCP_RTO_MAX) < TCP_RTO_MAX
        max_probes = tcp_orphan_retries(sk, alive)
        if not alive and sk.icsk_backoff >= max_probes:
            tcp_write_err(sk)
            return
        if tcp_out_of_resources(sk, True):
            return
    if sk.icsk_probes_out >= max_probes:
        tcp_write_err(sk)
    else:
        tcp_output.tcp_send_probe0(sk)


# -- retransmission ------------------------------------------------------------------------------------------------


def _count_timeout(sk: tcp_sock) -> None:
    """The first timeout of an episode: under which name nstat shows what it interrupted."""
    state = sk.icsk_ca_state
    sack = tcp_is_sack(sk)
    if state == TCP_CA_Recovery:
        mib = LINUX_MIB_TCPSACKRECOVERYFAIL if sack else LINUX_MIB_TCPRENORECOVERYFAIL
    elif state == TCP_CA_Loss:
        mib = LINUX_MIB_TCPLOSSFAILURES
    elif state == TCP_CA_Disorder or sk.sacked_out:
        mib = LINUX_MIB_TCPSACKFAILURES if sack else LINUX_MIB_TCPRENOFAILURES
    else:
        return
    NET_INC_STATS(sk.sk_net, mib)


def tcp_fastopen_synack_timer(sk: tcp_sock, req: tcp_request_sock) -> None:
    """The peer of a Fast Open child has not answered the SYN-ACK: send it again, once more often than to others."""
    net = sk.sk_net
    req.rsk_ops.syn_ack_timeout(req)
    max_retries = sk.icsk_syn_retries or net.ipv4.sysctl_tcp_synack_retries + 1
    if req.num_timeout >= max_retries:
        tcp_write_err(sk)
        return
    if sk.icsk_retransmits == 1:
        tcp_input.tcp_enter_loss(sk)
    # Whether it left or not: the application may have the connection already, so do not give up early.
    inet_connection_sock.inet_rtx_syn_ack(sk, req)
    req.num_timeout += 1
    tcp_update_rto_stats(sk)
    if not sk.retrans_stamp:
        sk.retrans_stamp = tcp_time_stamp(sk)
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, req.timeout << req.num_timeout, TCP_RTO_MAX)


def tcp_retransmit_timer(sk: tcp_sock) -> None:
    """The RTO fired (RFC 6298, 5.4-5.6): resend the first packet, double the RTO; or give up."""
    net = sk.sk_net
    if sk.fastopen_rsk is not None:
        # Nothing but the SYN-ACK is resent before it is answered.
        tcp_fastopen_synack_timer(sk, sk.fastopen_rsk)
        return
    skb = tcp_rtx_queue_head(sk)
    if not sk.packets_out or skb is None:
        return
    if not sk.snd_wnd and not sock_flag(sk, SOCK_DEAD) and sk.sk_state != TCP_SYN_SENT:
        _retransmit_into_closed_window(sk)
        return
    NET_INC_STATS(net, LINUX_MIB_TCPTIMEOUTS)
    if tcp_write_timeout(sk):
        return
    if sk.icsk_retransmits == 0:
        _count_timeout(sk)
    tcp_input.tcp_enter_loss(sk)
    tcp_update_rto_stats(sk)
    if tcp_output.tcp_retransmit_skb(sk, sk.tcp_rtx_queue[0], 1) > 0:
        # The device's queue is full: try again soon, without doubling.
        tcp_output.tcp_reset_xmit_timer(sk, ICSK_TIME_RETRANS, TCP_RESOURCE_PROBE_INTERVAL, TCP_RTO_MAX)
        return
    _back_off(sk)


def tcp_update_rto_stats(sk: tcp_sock) -> None:
    """One more timeout; the first in a row begins a recovery, whose time TCP_INFO tells."""
    if not sk.icsk_retransmits:
        sk.total_rto_recoveries += 1
        sk.rto_stamp = tcp_time_stamp_ms(sk)
    sk.icsk_retransmits += 1
    sk.total_rto += 1


def _back_off(sk: tcp_sock) -> None:
    if _stays_linear(sk):
        sk.icsk_backoff = 0
        tcp_input.tcp_set_rto(sk)
        sk.icsk_rto = max(sk.icsk_rto, tcp_input.tcp_rto_min(sk))
        _rearm_backed_off(sk)
        return
    linear = sk.sk_net.ipv4.sysctl_tcp_syn_linear_timeouts
    if linear and sk.sk_state == TCP_SYN_SENT and sk.icsk_retransmits <= linear:
        # Kernels since 6.5: the first SYNs follow each other at the initial timeout.
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, tcp_clamp_rto_to_user_timeout(sk), TCP_RTO_MAX)
        return
    sk.icsk_backoff += 1
    sk.icsk_rto = min(sk.icsk_rto << 1, TCP_RTO_MAX)
    _rearm_backed_off(sk)


def _stays_linear(sk: tcp_sock) -> bool:
    """A thin stream (tcp_thin_linear_timeouts) resends up to six times at the same pace: it cannot get three duplicates
    (Documentation/networking/tcp-thin.rst)."""
    return bool(
        sk.sk_state == TCP_ESTABLISHED
        and (sk.thin_lto or sk.sk_net.ipv4.sysctl_tcp_thin_linear_timeouts)
        and tcp_stream_is_thin(sk)
        and sk.icsk_retransmits <= TCP_THIN_LINEAR_RETRIES
    )


def _rearm_backed_off(sk: tcp_sock) -> None:
    when = tcp_clamp_rto_to_user_timeout(sk)
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, when, TCP_RTO_MAX)
    if retransmits_timed_out(sk, sk.sk_net.ipv4.sysctl_tcp_retries1 + 1, 0):
        sk_dst_reset(sk)


def _retransmit_into_closed_window(sk: tcp_sock) -> None:
    """The peer took its window back while data were in flight: keep trying for as long as it answers at all."""
    if (tcp_jiffies32(sk.sk_net) - sk.rcv_tstamp) & MASK32 > TCP_RTO_MAX:
        tcp_write_err(sk)
        return
    tcp_input.tcp_enter_loss(sk)
    tcp_output.tcp_retransmit_skb(sk, sk.tcp_rtx_queue[0], 1)
    sk_dst_reset(sk)
    _back_off(sk)


def tcp_write_timer_handler(sk: tcp_sock) -> None:
    """The transmit timer fired: do what it was armed for."""
    if 1 << sk.sk_state & (TCPF_CLOSE | TCPF_LISTEN) or not sk.icsk_pending:
        return
    net = sk.sk_net
    if sk.icsk_timeout > jiffies(net):
        mod_timer(net, sk.icsk_retransmit_timer, sk.icsk_timeout)
        return
    tcp_output.tcp_mstamp_refresh(sk)
    event = sk.icsk_pending
    if event == ICSK_TIME_REO_TIMEOUT:
        tcp_recovery.tcp_rack_reo_timeout(sk)
    elif event == ICSK_TIME_LOSS_PROBE:
        tcp_output.tcp_send_loss_probe(sk)
    elif event == ICSK_TIME_RETRANS:
        sk.icsk_pending = 0
        tcp_retransmit_timer(sk)
    elif event == ICSK_TIME_PROBE0:
        sk.icsk_pending = 0
        tcp_probe_timer(sk)


def tcp_write_timer(sk: tcp_sock) -> None:
    tcp_write_timer_handler(sk)


# -- keepalive and FIN_WAIT2 ---------------------------------------------------------------------------------------


def tcp_set_keepalive(sk: tcp_sock, val: int) -> None:
    """setsockopt(SO_KEEPALIVE)."""
    if 1 << sk.sk_state & (TCPF_CLOSE | TCPF_LISTEN):
        return
    if val and not sock_flag(sk, SOCK_KEEPOPEN):
        inet_connection_sock.inet_csk_reset_keepalive_timer(sk, keepalive_time_when(sk))
    elif not val:
        inet_connection_sock.inet_csk_delete_keepalive_timer(sk)


def keepalive_time_elapsed(sk: tcp_sock) -> int:
    """Jiffies since anything came from the peer."""
    now = tcp_jiffies32(sk.sk_net)
    return min((now - sk.icsk_ack.lrcvtime) & MASK32, (now - sk.rcv_tstamp) & MASK32)


def tcp_keepalive_timer(sk: tcp_sock) -> None:
    """sk_timer fired: an orphan's FIN_WAIT2 is over, or the peer has been silent."""
    if sk.sk_state == TCP_LISTEN:
        return
    tcp_output.tcp_mstamp_refresh(sk)
    if sk.sk_state == TCP_FIN_WAIT2 and sock_flag(sk, SOCK_DEAD):
        _fin_wait2_over(sk)
        return
    if not sock_flag(sk, SOCK_KEEPOPEN) or sk.sk_state in (TCP_CLOSE, TCP_SYN_SENT):
        return
    # Data in flight or waiting: the other timers look after the peer.
    elapsed = keepalive_time_when(sk)
    if not sk.packets_out and tcp_write_queue_empty(sk):
        silent = keepalive_time_elapsed(sk)
        if silent >= elapsed:
            if _keepalive_exhausted(sk, silent):
                tcp_output.tcp_send_active_reset(sk)
                tcp_write_err(sk)
                return
            elapsed = _keepalive_probe(sk)
        else:
            elapsed -= silent
    inet_connection_sock.inet_csk_reset_keepalive_timer(sk, elapsed)


def _fin_wait2_over(sk: tcp_sock) -> None:
    """The part of FIN_WAIT2 beyond a minute is over: the minute itself is spent as a TIME_WAIT socket."""
    if sk.linger2 >= 0:
        tmo = tcp_fin_time(sk) - TCP_TIMEWAIT_LEN
        if tmo > 0:
            tcp_minisocks.tcp_time_wait(sk, TCP_FIN_WAIT2, tmo)
            return
    tcp_output.tcp_send_active_reset(sk)
    tcp.tcp_done(sk)


def _keepalive_exhausted(sk: tcp_sock, silent: int) -> bool:
    if sk.icsk_user_timeout:
        return silent >= msecs_to_jiffies(sk.icsk_user_timeout) and sk.icsk_probes_out > 0
    return sk.icsk_probes_out >= keepalive_probes(sk)


def _keepalive_probe(sk: tcp_sock) -> int:
    """Send one; jiffies to the next."""
    if tcp_output.tcp_write_wakeup(sk, LINUX_MIB_TCPKEEPALIVE) <= 0:
        sk.icsk_probes_out += 1
        return keepalive_intvl_when(sk)
    return TCP_RESOURCE_PROBE_INTERVAL


# -- set-up --------------------------------------------------------------------------------------------------------


def tcp_syn_ack_timeout(req: request_sock) -> None:
    """A SYN-ACK was not answered in time."""
    NET_INC_STATS(req.sk_net, LINUX_MIB_TCPTIMEOUTS)


def tcp_compressed_ack_kick(sk: tcp_sock) -> None:
    """The compressed-ACK timer fired: the ACK that was held back (tcp_comp_sack_delay_ns) goes out now."""
    if sk.compressed_ack:
        # One is not counted: it would have been sent anyway.
        sk.compressed_ack -= 1
        tcp_output.tcp_mstamp_refresh(sk)
        tcp_output.tcp_send_ack(sk)


def tcp_init_xmit_timers(sk: tcp_sock) -> None:
    """A new socket's timers, none armed."""
    inet_connection_sock.inet_csk_init_xmit_timers(sk, tcp_write_timer, tcp_delack_timer, tcp_keepalive_timer)
    sk.compressed_ack_timer = hrtimer_init(tcp_compressed_ack_kick, sk)


def tcp_clear_xmit_timers(sk: tcp_sock) -> None:
    """The connection is over: no timer of it fires any more."""
    if sk.pacing_timer is not None:
        hrtimer_cancel(sk.sk_net, sk.pacing_timer)
    hrtimer_cancel(sk.sk_net, sk.compressed_ack_timer)
    inet_connection_sock.inet_csk_clear_xmit_timers(sk)
