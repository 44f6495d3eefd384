# SPDX-License-Identifier: GPL-2.0-or-later
"""struct inet_connection_sock and its inline helpers: include/net/inet_connection_sock.h.

``jiffies`` values (icsk_timeout, icsk_ack.timeout) are not wrapped; ``icsk_ack.lrcvtime`` is tcp_jiffies32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from stack.include.inet_sock import inet_sock
from stack.include.request_sock import reqsk_queue_added, reqsk_queue_len, request_sock_queue
from stack.include.sock import EPOLLIN, EPOLLRDNORM, sock
from stack.include.timer import HZ, timer_list
from stack.kernel.time.timer import jiffies, mod_timer

if TYPE_CHECKING:
    from stack.include.inet_hashtables import inet_bind2_bucket, inet_bind_bucket
    from stack.stack import Stack

# icsk_pending
ICSK_TIME_RETRANS: Final = 1
ICSK_TIME_DACK: Final = 2
ICSK_TIME_PROBE0: Final = 3
ICSK_TIME_LOSS_PROBE: Final = 5
ICSK_TIME_REO_TIMEOUT: Final = 6

# icsk_ack.pending
ICSK_ACK_SCHED: Final = 1
ICSK_ACK_TIMER: Final = 2
ICSK_ACK_PUSHED: Final = 4
ICSK_ACK_PUSHED2: Final = 8
ICSK_ACK_NOW: Final = 16
ICSK_ACK_NOMEM: Final = 32

TCP_RTO_MIN: Final = HZ // 5
TCP_DELACK_MAX: Final = HZ // 5
TCP_TIMEOUT_INIT: Final = HZ


class inet_connection_sock_af_ops:
    """struct inet_connection_sock_af_ops: the network layer below a TCP socket.

    Signatures: ``queue_xmit(sk, skb, fl4) -> int``, ``send_check(sk, skb)``, ``rebuild_header(sk) -> int``,
    ``sk_rx_dst_set(sk, skb)``, ``conn_request(sk, skb) -> int``,
    ``syn_recv_sock(sk, skb, req, dst, req_unhash, own_req) -> (sock | None, own_req)``, ``setsockopt``, ``getsockopt``,
    ``mtu_reduced(sk)``.
    """

    __slots__ = (
        "conn_request",
        "getsockopt",
        "mtu_reduced",
        "net_frag_header_len",
        "net_header_len",
        "queue_xmit",
        "rebuild_header",
        "send_check",
        "setsockopt",
        "sk_rx_dst_set",
        "sockaddr_len",
        "syn_recv_sock",
    )

    def __init__(self, net_header_len: int, sockaddr_len: int, **functions: Callable[..., Any]) -> None:
        self.net_header_len = net_header_len
        self.net_frag_header_len = 0
        self.sockaddr_len = sockaddr_len
        for name, function in functions.items():
            setattr(self, name, function)

    conn_request: Any
    getsockopt: Any
    mtu_reduced: Any
    queue_xmit: Any
    rebuild_header: Any
    send_check: Any
    setsockopt: Any
    sk_rx_dst_set: Any
    syn_recv_sock: Any


class icsk_ack_state:
    """icsk->icsk_ack: the delayed ACK."""

    __slots__ = (
        "ato",
        "blocked",
        "last_seg_size",
        "lrcvtime",
        "pending",
        "pingpong",
        "quick",
        "rcv_mss",
        "retry",
        "timeout",
    )

    def __init__(self) -> None:
        self.pending = 0
        self.quick = 0  # immediate ACKs left
        self.pingpong = 0
        self.retry = 0
        self.blocked = 0
        self.ato = 0  # jiffies
        self.timeout = 0  # jiffies
        self.lrcvtime = 0
        self.last_seg_size = 0
        self.rcv_mss = 0


class icsk_mtup_state:
    """icsk->icsk_mtup: path MTU probing (RFC 4821)."""

    __slots__ = ("enabled", "probe_size", "probe_timestamp", "search_high", "search_low")

    def __init__(self) -> None:
        self.search_high = 0
        self.search_low = 0
        self.probe_size = 0
        self.enabled = False
        self.probe_timestamp = 0


class inet_connection_sock(inet_sock):
    """struct inet_connection_sock: what any connection-oriented protocol over IP has.  Times in jiffies."""

    __slots__ = (
        "icsk_accept_queue",
        "icsk_ack",
        "icsk_af_ops",
        "icsk_backoff",
        "icsk_bind2_hash",
        "icsk_bind_hash",
        "icsk_ca_dst_locked",
        "icsk_ca_initialized",
        "icsk_ca_ops",
        "icsk_ca_priv",
        "icsk_ca_setsockopt",
        "icsk_ca_state",
        "icsk_delack_max",
        "icsk_delack_timer",
        "icsk_ext_hdr_len",
        "icsk_listen_portaddr_node",
        "icsk_mtup",
        "icsk_pending",
        "icsk_pmtu_cookie",
        "icsk_probes_out",
        "icsk_probes_tstamp",
        "icsk_retransmit_timer",
        "icsk_retransmits",
        "icsk_rto",
        "icsk_rto_min",
        "icsk_syn_retries",
        "icsk_sync_mss",
        "icsk_timeout",
        "icsk_user_timeout",
    )

    icsk_af_ops: inet_connection_sock_af_ops
    icsk_ca_ops: Any
    icsk_sync_mss: Callable[[Any, int], int]
    icsk_retransmit_timer: timer_list
    icsk_delack_timer: timer_list

    def __init__(self, net: Stack, family: int) -> None:
        super().__init__(net, family)
        self.icsk_accept_queue = request_sock_queue()
        self.icsk_bind_hash: inet_bind_bucket | None = None
        self.icsk_bind2_hash: inet_bind2_bucket | None = None
        self.icsk_listen_portaddr_node: list[sock] | None = None  # the lhash2 chain of a listener
        self.icsk_timeout = 0
        self.icsk_rto = 0
        self.icsk_rto_min = 0
        self.icsk_delack_max = 0
        self.icsk_pmtu_cookie = 0
        self.icsk_ca_ops = None
        self.icsk_ca_state = 0
        self.icsk_ca_initialized = False
        self.icsk_ca_setsockopt = False
        self.icsk_ca_dst_locked = False
        self.icsk_ca_priv: Any = None
        self.icsk_retransmits = 0
        self.icsk_pending = 0
        self.icsk_backoff = 0
        self.icsk_syn_retries = 0
        self.icsk_probes_out = 0
        self.icsk_probes_tstamp = 0
        self.icsk_ext_hdr_len = 0
        self.icsk_ack = icsk_ack_state()
        self.icsk_mtup = icsk_mtup_state()
        self.icsk_user_timeout = 0  # ms


def inet_csk_schedule_ack(sk: inet_connection_sock) -> None:
    sk.icsk_ack.pending |= ICSK_ACK_SCHED


def inet_csk_ack_scheduled(sk: inet_connection_sock) -> bool:
    return sk.icsk_ack.pending & ICSK_ACK_SCHED != 0


def inet_csk_delack_init(sk: inet_connection_sock) -> None:
    sk.icsk_ack = icsk_ack_state()


def inet_csk_clear_xmit_timer(sk: inet_connection_sock, what: int) -> None:
    """Forget a timer.  The retransmission timer itself goes on (it finds nothing to do): stopping and starting it for
    every ACK costs more, as in the kernel."""
    if what == ICSK_TIME_DACK:
        ack = sk.icsk_ack
        ack.pending = 0
        ack.retry = 0
    else:
        sk.icsk_pending = 0


def inet_csk_reset_xmit_timer(sk: inet_connection_sock, what: int, when: int, max_when: int) -> None:
    """Arm one of the three timers ``when`` jiffies from now, at most ``max_when``."""
    if when > max_when:
        when = max_when
    net = sk.sk_net
    expires = jiffies(net) + when
    if what == ICSK_TIME_DACK:
        ack = sk.icsk_ack
        ack.pending |= ICSK_ACK_TIMER
        ack.timeout = expires
        mod_timer(net, sk.icsk_delack_timer, expires)
    else:
        sk.icsk_pending = what
        sk.icsk_timeout = expires
        mod_timer(net, sk.icsk_retransmit_timer, expires)


def inet_csk_rto_backoff(sk: inet_connection_sock, max_when: int) -> int:
    return min(sk.icsk_rto << sk.icsk_backoff, max_when)


def inet_csk_enter_pingpong_mode(sk: inet_connection_sock) -> None:
    sk.icsk_ack.pingpong = sk.sk_net.ipv4.sysctl_tcp_pingpong_thresh


def inet_csk_exit_pingpong_mode(sk: inet_connection_sock) -> None:
    sk.icsk_ack.pingpong = 0


def inet_csk_in_pingpong_mode(sk: inet_connection_sock) -> bool:
    return sk.icsk_ack.pingpong >= sk.sk_net.ipv4.sysctl_tcp_pingpong_thresh


def inet_csk_inc_pingpong_cnt(sk: inet_connection_sock) -> None:
    if sk.icsk_ack.pingpong < 0xFF:
        sk.icsk_ack.pingpong += 1


def inet_csk_reqsk_queue_added(sk: inet_connection_sock) -> None:
    reqsk_queue_added(sk.icsk_accept_queue)


def inet_csk_reqsk_queue_len(sk: inet_connection_sock) -> int:
    return reqsk_queue_len(sk.icsk_accept_queue)


def inet_csk_reqsk_queue_is_full(sk: inet_connection_sock) -> bool:
    """Whether one more SYN would be too many: the queue takes backlog + 1 (measured on 6.1.192 and 6.18)."""
    return sk.icsk_accept_queue.qlen > sk.sk_max_ack_backlog


def inet_csk_listen_poll(sk: inet_connection_sock) -> int:
    return EPOLLIN | EPOLLRDNORM if sk.icsk_accept_queue.rskq_accept_head else 0
