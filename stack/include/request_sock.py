# SPDX-License-Identifier: GPL-2.0-or-later
"""Half-open connections and the queues of a listener: include/net/request_sock.h, and struct inet_request_sock
(include/net/inet_sock.h) and struct tcp_request_sock (include/linux/tcp.h).

A ``tcp_request_sock`` is a ``sock_common``: between SYN and third ACK it hangs in ehash with ``sk_state``
TCP_NEW_SYN_RECV and holds all that the connection has.  ``rsk_listener`` is whose it is; the listener itself keeps
only counts (``request_sock_queue.qlen``, ``young``).  After the third ACK it leaves ehash, ``sk`` becomes the
child and it waits in ``rskq_accept_head`` for accept()."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from stack.include.inet_sock import ip_options
from stack.include.sock import sock_common
from stack.include.tcp_states import TCP_NEW_SYN_RECV

if TYPE_CHECKING:
    from stack.include.sock import sock
    from stack.include.timer import timer_list
    from stack.stack import Stack


class saved_syn:
    """struct saved_syn: the headers of the SYN (TCP_SAVE_SYN), from the network header on."""

    __slots__ = ("data", "mac_hdrlen", "network_hdrlen", "tcp_hdrlen")

    def __init__(self, data: bytes, mac_hdrlen: int, network_hdrlen: int, tcp_hdrlen: int) -> None:
        self.data = data
        self.mac_hdrlen = mac_hdrlen
        self.network_hdrlen = network_hdrlen
        self.tcp_hdrlen = tcp_hdrlen


class request_sock_ops:
    """struct request_sock_ops: what the protocol does with a request.

    Signatures: ``rtx_syn_ack(sk, req) -> int``, ``send_ack(sk, skb, req)``, ``send_reset(sk, skb)``,
    ``destructor(req)``, ``syn_ack_timeout(req)``.
    """

    __slots__ = (
        "destructor",
        "family",
        "obj",
        "rtx_syn_ack",
        "send_ack",
        "send_reset",
        "syn_ack_timeout",
    )

    rtx_syn_ack: Any
    send_ack: Any
    send_reset: Any
    destructor: Any
    syn_ack_timeout: Any

    def __init__(self, family: int, obj: type[request_sock], **functions: Callable[..., Any]) -> None:
        self.family = family
        self.obj = obj
        for name, function in functions.items():
            setattr(self, name, function)


class request_sock(sock_common):
    """struct request_sock.  ``timeout`` in jiffies, ``ts_recent`` the peer's TSval, ``mss`` the peer's."""

    __slots__ = (
        "mss",
        "num_retrans",
        "num_timeout",
        "peer_secid",
        "rsk_listener",
        "rsk_ops",
        "rsk_rcv_wnd",
        "rsk_timer",
        "rsk_window_clamp",
        "saved_syn",
        "sk",
        "syncookie",
        "timeout",
        "ts_recent",
    )

    def __init__(self, net: Stack, family: int, ops: request_sock_ops) -> None:
        super().__init__(net, family)
        self.rsk_ops = ops
        self.rsk_listener: Any = None  # the listening tcp_sock; None for a request made from a cookie
        self.rsk_timer: timer_list | None = None
        self.rsk_rcv_wnd = 0
        self.rsk_window_clamp = 0
        self.saved_syn: saved_syn | None = None
        self.sk: Any = None  # the child, once there is one
        self.mss = 0
        self.num_retrans = 0  # SYN-ACKs sent again
        self.num_timeout = 0  # times the timer fired
        self.syncookie = False
        self.timeout = 0
        self.ts_recent = 0
        self.peer_secid = 0


class inet_request_sock(request_sock):
    """struct inet_request_sock.  The kernel's ``ir_*`` and ``ireq_*`` are names for members of sock_common."""

    __slots__ = (
        "acked",
        "ecn_ok",
        "ir_mark",
        "ireq_opt",
        "no_srccheck",
        "rcv_wscale",
        "sack_ok",
        "smc_ok",
        "snd_wscale",
        "tstamp_ok",
        "wscale_ok",
    )

    def __init__(self, net: Stack, family: int, ops: request_sock_ops) -> None:
        super().__init__(net, family, ops)
        self.snd_wscale = 0
        self.rcv_wscale = 0
        self.tstamp_ok = False
        self.sack_ok = False
        self.wscale_ok = False
        self.ecn_ok = False
        self.acked = False  # a bare third ACK was dropped: TCP_DEFER_ACCEPT, or no room in the accept queue
        self.no_srccheck = False
        self.smc_ok = False
        self.ir_mark = 0
        self.ireq_opt: ip_options | None = None

    @property
    def ir_loc_addr(self) -> int:
        return self.sk_rcv_saddr

    @ir_loc_addr.setter
    def ir_loc_addr(self, addr: int) -> None:
        self.sk_rcv_saddr = addr

    @property
    def ir_rmt_addr(self) -> int:
        return self.sk_daddr

    @ir_rmt_addr.setter
    def ir_rmt_addr(self, addr: int) -> None:
        self.sk_daddr = addr

    @property
    def ir_num(self) -> int:
        return self.sk_num

    @ir_num.setter
    def ir_num(self, port: int) -> None:
        self.sk_num = port

    @property
    def ir_rmt_port(self) -> int:
        return self.sk_dport

    @ir_rmt_port.setter
    def ir_rmt_port(self, port: int) -> None:
        self.sk_dport = port

    @property
    def ir_iif(self) -> int:
        return self.sk_bound_dev_if

    @ir_iif.setter
    def ir_iif(self, ifindex: int) -> None:
        self.sk_bound_dev_if = ifindex

    @property
    def ireq_state(self) -> int:
        return self.sk_state

    @ireq_state.setter
    def ireq_state(self, state: int) -> None:
        self.sk_state = state

class SynVerdict(enum.Enum):
    """What ``Stack.syn_hook`` wants done with a SYN to a listener.

    ACCEPT goes on as without a hook (the queues' limits hold).  DROP is silence.  RESET answers with RST+ACK, as a port
    without a listener does.  COOKIE answers with a SYN cookie and keeps nothing; with tcp_syncookies=0 no cookie would
    be believed later, so then it is DROP."""

    ACCEPT = 0
    DROP = 1
    RESET = 2
    COOKIE = 3


class tcp_request_sock(inet_request_sock):
    """struct tcp_request_sock.  ``snt_synack`` in us of the stack's clock (0: not known), ``rcv_isn`` and
    ``snt_isn`` the two initial sequence numbers, ``rcv_nxt`` what the SYN-ACK acknowledges."""

    __slots__ = (
        "accecn_fail_mode",
        "accecn_ok",
        "af_specific",
        "ao_keyid",
        "ao_rcv_next",
        "drop_reason",
        "last_oow_ack_time",
        "pktopts_flowlabel",
        "rcv_isn",
        "rcv_nxt",
        "saw_accecn_opt",
        "snt_isn",
        "snt_synack",
        "snt_tsval_first",
        "snt_tsval_last",
        "syn_ect_rcv",
        "syn_ect_snt",
        "syn_tos",
        "tfo_listener",
        "ts_off",
        "txhash",
        "used_tcp_ao",
    )

    def __init__(self, net: Stack, family: int, ops: request_sock_ops) -> None:
        super().__init__(net, family, ops)
        self.accecn_ok = False  # Accurate ECN, and what is known of it (tcp_ecn.py)
        self.syn_ect_snt = self.syn_ect_rcv = 0
        self.saw_accecn_opt = self.accecn_fail_mode = 0
        self.af_specific: tcp_request_sock_ops | None = None
        self.drop_reason = 0  # of the segment that tcp_check_req last judged
        self.snt_synack = 0
        self.snt_tsval_first: int | None = None  # TSval of the first SYN-ACK and of the last; None: none left yet
        self.snt_tsval_last = 0
        self.tfo_listener = False
        self.pktopts_flowlabel = 0  # of the SYN, for a listener that repeats labels: all that is asked of ireq->pktopts
        self.used_tcp_ao = False  # the SYN was signed (RFC 5925); the ids that the SYN-ACK bears:
        self.ao_keyid = self.ao_rcv_next = 0
        self.txhash = 0
        self.rcv_isn = 0
        self.snt_isn = 0
        self.ts_off = 0
        self.last_oow_ack_time = 0
        self.rcv_nxt = 0
        self.syn_tos = 0


class tcp_request_sock_ops:
    """struct tcp_request_sock_ops (include/net/tcp.h): the address family's half of answering a SYN.

    Signatures: ``init_req(req, sk, skb)``, ``route_req(sk, skb, fl4, req) -> dst | None``,
    ``init_seq(skb, req) -> isn`` (sets ``req.ts_off`` too), ``init_ts_off(net, skb) -> int``,
    ``init_seq_and_ts_off(net, skb) -> (isn, ts_off)``, ``cookie_init_seq(skb, mss) -> (isn, mss)``,
    ``send_synack(sk, dst, fl4, req, foc, synack_type, syn_skb) -> int``,
    ``req_md5_lookup(sk, addr_sk) -> key | None``, ``calc_md5_hash(key, sk, skb) -> bytes``.
    """

    __slots__ = (
        "calc_md5_hash",
        "cookie_init_seq",
        "init_req",
        "init_seq",
        "init_seq_and_ts_off",
        "init_ts_off",
        "mss_clamp",
        "req_md5_lookup",
        "route_req",
        "send_synack",
    )

    calc_md5_hash: Any
    cookie_init_seq: Any
    init_req: Any
    init_seq: Any
    init_seq_and_ts_off: Any
    init_ts_off: Any
    req_md5_lookup: Any
    route_req: Any
    send_synack: Any

    def __init__(self, mss_clamp: int, **functions: Callable[..., Any]) -> None:
        self.mss_clamp = mss_clamp
        for name, function in functions.items():
            setattr(self, name, function)


class tcp_fastopen_context:
    """struct tcp_fastopen_context (include/net/tcp.h): one or two keys of 16 bytes, the first of which is in use."""

    __slots__ = ("key",)

    def __init__(self, primary_key: bytes, backup_key: bytes | None) -> None:
        self.key = (primary_key,) if backup_key is None else (primary_key, backup_key)


class fastopen_queue:
    """struct fastopen_queue: the children that a listener's SYNs with data made (TCP Fast Open).  ``qlen`` counts
    those before their third segment and what waits in ``rskq_rst_head`` after a RST; ``max_qlen`` 0 is off."""

    __slots__ = ("ctx", "max_qlen", "qlen", "rskq_rst_head")

    def __init__(self) -> None:
        self.rskq_rst_head: deque[Any] = deque()  # tcp_request_sock with rsk_timer.expires set
        self.qlen = 0
        self.max_qlen = 0
        self.ctx: tcp_fastopen_context | None = None


class request_sock_queue:
    """struct request_sock_queue: a listener's two queues.  ``qlen`` counts the half-open requests (they hang in ehash),
    ``young`` those whose SYN-ACK was never sent again, ``rskq_accept_head`` is what accept() takes from."""

    __slots__ = ("fastopenq", "qlen", "rskq_accept_head", "rskq_defer_accept", "synflood_warned", "young")

    def __init__(self) -> None:
        self.qlen = 0
        self.young = 0
        self.synflood_warned = 0
        self.rskq_defer_accept = 0  # SYN-ACK resends to wait for data (TCP_DEFER_ACCEPT)
        self.rskq_accept_head: deque[request_sock] = deque()
        self.fastopenq = fastopen_queue()


def reqsk_alloc(ops: request_sock_ops, sk_listener: sock, attach_listener: bool) -> Any:
    """A new request of the protocol's own kind.  Without ``attach_listener`` (a cookie is going to be sent,
    nothing is kept) it does not belong to the listener."""
    req = ops.obj(sk_listener.sk_net, ops.family, ops)
    if attach_listener:
        req.rsk_listener = sk_listener
        #> req->rsk_listener = sk_listener;
    req.sk_prot = sk_listener.sk_prot
    return req


def reqsk_free(req: request_sock) -> None:
    """The request has left every table and queue."""
    req.rsk_ops.destructor(req)
    req.saved_syn = None
    req.rsk_listener = None
    timer = req.rsk_timer
    if timer is not None and not timer.armed:
        timer.arg = None  # or the two keep each other until the cyclic collector comes


def reqsk_put(req: request_sock) -> None:
    """Without reference counts: let go of a request that nobody else can reach."""
    if req.sk_node is None:
        reqsk_free(req)


def reqsk_queue_empty(queue: request_sock_queue) -> bool:
    return not queue.rskq_accept_head


def reqsk_queue_remove(queue: request_sock_queue, parent: sock) -> request_sock | None:
    """The oldest completed connection, or None; the parent's accept queue gets one shorter."""
    if not queue.rskq_accept_head:
        return None
    parent.sk_ack_backlog -= 1
    return queue.rskq_accept_head.popleft()


def reqsk_queue_removed(queue: request_sock_queue, req: request_sock) -> None:
    if req.num_timeout == 0:
        queue.young -= 1
    queue.qlen -= 1


def reqsk_queue_added(queue: request_sock_queue) -> None:
    queue.young += 1
    queue.qlen += 1


def reqsk_queue_len(queue: request_sock_queue) -> int:
    return queue.qlen


def reqsk_queue_len_young(queue: request_sock_queue) -> int:
    return queue.young


_NEW_SYN_RECV: Final = TCP_NEW_SYN_RECV
