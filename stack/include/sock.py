# SPDX-License-Identifier: GPL-2.0-or-later
"""struct sock_common, struct sock and struct proto: include/net/sock.h.

Departures: no locks and no reference counts (one thread owns a Stack), so sk_lock, sk_refcnt and the backlog
of a locked socket are absent; an ``inet_sock`` *is* a ``sock`` by inheritance, so ``inet_sk(sk)`` and
``tcp_sk(sk)`` are the socket itself.  Addresses are ints in host order (IPv4: 32 bits), ports are ints.

``sk_wq`` holds the callables that ``sock_def_readable`` and friends wake: ``waiter(sk, mask)`` with EPOLL bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.net import socket
    from stack.include.sk_buff import sk_buff
    from stack.include.timer import timer_list
    from stack.net.core.sock_reuseport import sock_reuseport
    from stack.stack import Stack

AF_INET: Final = 2
AF_INET6: Final = 10

SOCK_STREAM: Final = 1
SOCK_DGRAM: Final = 2
SOCK_RAW: Final = 3

# sk_shutdown
RCV_SHUTDOWN: Final = 1
SEND_SHUTDOWN: Final = 2
SHUTDOWN_MASK: Final = 3

# sk_flags bits by name (enum sock_flags)
SOCK_DEAD: Final = 1 << 0
SOCK_DONE: Final = 1 << 1
SOCK_URGINLINE: Final = 1 << 2
SOCK_KEEPOPEN: Final = 1 << 3
SOCK_LINGER: Final = 1 << 4
SOCK_DESTROY: Final = 1 << 5
SOCK_BROADCAST: Final = 1 << 6
SOCK_RCVTSTAMP: Final = 1 << 7
SOCK_RCU_FREE: Final = 1 << 8
SOCK_RCVTSTAMPNS: Final = 1 << 9
SOCK_TIMESTAMPING_RX_SOFTWARE: Final = 1 << 10
SOCK_SELECT_ERR_QUEUE: Final = 1 << 11
SOCK_DBG: Final = 1 << 12
SOCK_LOCALROUTE: Final = 1 << 13
SOCK_RXQ_OVFL: Final = 1 << 14
SOCK_WIFI_STATUS: Final = 1 << 15
SOCK_NOFCS: Final = 1 << 16
SOCK_TSTAMP_NEW: Final = 1 << 17
SOCK_RCVMARK: Final = 1 << 18
SOCK_PASSCRED: Final = 1 << 19  # socket.flags in the kernel
SOCK_PASSSEC: Final = 1 << 20
SOCK_ZEROCOPY: Final = 1 << 21

# sk_userlocks
SOCK_SNDBUF_LOCK: Final = 1
SOCK_RCVBUF_LOCK: Final = 2
SOCK_BUF_LOCK_MASK: Final = SOCK_SNDBUF_LOCK | SOCK_RCVBUF_LOCK
SOCK_BINDADDR_LOCK: Final = 4
SOCK_BINDPORT_LOCK: Final = 8

EPOLLIN: Final = 0x001
EPOLLPRI: Final = 0x002
EPOLLOUT: Final = 0x004
EPOLLERR: Final = 0x008
EPOLLHUP: Final = 0x010
EPOLLRDNORM: Final = 0x040
EPOLLWRNORM: Final = 0x100
EPOLLWRBAND: Final = 0x200
EPOLLRDHUP: Final = 0x2000

# sk_pacing_status (enum sk_pacing): NEEDED is paced by TCP itself; there is no queueing discipline (FQ) below that does
SK_PACING_NONE: Final = 0
SK_PACING_NEEDED: Final = 1

SOCK_MIN_SNDBUF: Final = 4608
SOCK_MIN_RCVBUF: Final = 2304

INT_MAX: Final = 0x7FFFFFFF
MAX_SCHEDULE_TIMEOUT: Final = (1 << 63) - 1  # include/linux/sched.h: jiffies, for ever


class sock_common:
    """struct sock_common: what full, request and TIME_WAIT sockets have alike, so that all three live in ehash."""

    __slots__ = (
        "sk_bound_dev_if",
        "sk_daddr",
        "sk_dport",
        "sk_family",
        "sk_hash",
        "sk_ipv6only",
        "sk_net",
        "sk_node",
        "sk_num",
        "sk_prot",
        "sk_rcv_saddr",
        "sk_reuse",
        "sk_reuseport",
        "sk_state",
        "sk_v6_daddr",
        "sk_v6_rcv_saddr",
    )

    sk_net: Stack
    sk_prot: Any
    sk_family: int
    sk_state: int
    sk_daddr: int
    sk_rcv_saddr: int
    sk_v6_daddr: int
    sk_v6_rcv_saddr: int
    sk_ipv6only: bool
    sk_dport: int
    sk_num: int
    sk_hash: int
    sk_bound_dev_if: int
    sk_reuse: int
    sk_reuseport: bool

    def __init__(self, net: Stack, family: int) -> None:
        self.sk_net = net
        self.sk_family = family
        self.sk_prot = None
        self.sk_state = 0
        self.sk_daddr = self.sk_rcv_saddr = self.sk_v6_daddr = self.sk_v6_rcv_saddr = 0
        self.sk_dport = self.sk_num = self.sk_hash = self.sk_bound_dev_if = self.sk_reuse = 0
        self.sk_reuseport = self.sk_ipv6only = False
        self.sk_node: list[sock_common] | None = None  # the chain of ehash or listening_hash that it hangs in


class sock(sock_common):
    """struct sock: the protocol-independent part of a socket."""

    __slots__ = (
        "sk_ack_backlog",
        "sk_cookie",
        "sk_data_ready",
        "sk_destruct",
        "sk_drops",
        "sk_dst_cache",
        "sk_dst_pending_confirm",
        "sk_err",
        "sk_err_soft",
        "sk_error_queue",
        "sk_error_report",
        "sk_flags",
        "sk_forward_alloc",
        "sk_gso_disabled",
        "sk_gso_max_segs",
        "sk_gso_max_size",
        "sk_gso_type",
        "sk_incoming_cpu",
        "sk_ino",
        "sk_lingertime",
        "sk_ll_usec",
        "sk_mark",
        "sk_max_ack_backlog",
        "sk_max_pacing_rate",
        "sk_no_check_tx",
        "sk_pacing_rate",
        "sk_pacing_shift",
        "sk_pacing_status",
        "sk_peek_off",
        "sk_prefer_busy_poll",
        "sk_priority",
        "sk_protocol",
        "sk_rcvbuf",
        "sk_rcvlowat",
        "sk_rcvtimeo",
        "sk_receive_queue",
        "sk_reuseport_cb",
        "sk_rmem_alloc",
        "sk_route_caps",
        "sk_rx_dst",
        "sk_rxhash",
        "sk_send_head",
        "sk_shutdown",
        "sk_sndbuf",
        "sk_sndtimeo",
        "sk_socket",
        "sk_state_change",
        "sk_timer",
        "sk_tsflags",
        "sk_tskey",
        "sk_txhash",
        "sk_txrehash",
        "sk_type",
        "sk_user_data",
        "sk_userlocks",
        "sk_wmem_alloc",
        "sk_wmem_queued",
        "sk_wq",
        "sk_write_queue",
        "sk_write_space",
        "sk_zckey",
    )

    sk_timer: timer_list

    def __init__(self, net: Stack, family: int) -> None:
        super().__init__(net, family)
        self.sk_type = 0
        self.sk_protocol = 0
        self.sk_shutdown = 0
        self.sk_userlocks = 0
        self.sk_flags = 0
        self.sk_err = 0
        self.sk_err_soft = 0
        self.sk_ino = 0
        self.sk_tsflags = 0
        self.sk_tskey = 0
        self.sk_drops = 0
        self.sk_ack_backlog = 0
        self.sk_max_ack_backlog = 0
        self.sk_rcvbuf = 0
        self.sk_sndbuf = 0
        self.sk_rcvlowat = 1
        self.sk_rcvtimeo = MAX_SCHEDULE_TIMEOUT  # jiffies; kept for the application, as no call waits
        self.sk_sndtimeo = MAX_SCHEDULE_TIMEOUT
        self.sk_lingertime = 0
        self.sk_priority = 0
        self.sk_mark = 0
        self.sk_rmem_alloc = 0  # truesize of what waits in the receive queues
        self.sk_wmem_alloc = 0  # truesize handed to the device and not yet gone
        self.sk_wmem_queued = 0  # truesize in the write queue and the retransmit queue
        self.sk_forward_alloc = 0
        self.sk_gso_type = 0
        self.sk_gso_disabled = False
        self.sk_gso_max_size = 0
        self.sk_gso_max_segs = 0
        self.sk_route_caps = 0
        self.sk_pacing_rate = (1 << 64) - 1
        self.sk_max_pacing_rate = (1 << 64) - 1
        self.sk_pacing_status = SK_PACING_NONE
        self.sk_pacing_shift = 10
        self.sk_rxhash = 0
        self.sk_incoming_cpu = -1
        self.sk_no_check_tx = 0
        self.sk_peek_off = -1
        self.sk_ll_usec = 0
        self.sk_prefer_busy_poll = 0
        self.sk_txrehash = 0
        self.sk_cookie = 0
        self.sk_zckey = 0  # the number of the next call with MSG_ZEROCOPY
        self.sk_txhash = 0
        self.sk_receive_queue: deque[sk_buff] = deque()
        self.sk_write_queue: deque[sk_buff] = deque()
        self.sk_error_queue: deque[sk_buff] = deque()
        self.sk_send_head: sk_buff | None = None
        self.sk_dst_pending_confirm = 0
        self.sk_dst_cache: dst_entry | None = None
        self.sk_rx_dst: dst_entry | None = None
        self.sk_socket: socket | None = None
        self.sk_wq: list[Callable[[sock, int], None]] = []
        self.sk_user_data: Any = None
        self.sk_reuseport_cb: sock_reuseport | None = None
        self.sk_state_change: Callable[[sock], None] = _no_op
        self.sk_data_ready: Callable[[sock], None] = _no_op
        self.sk_write_space: Callable[[sock], None] = _no_op
        self.sk_error_report: Callable[[sock], None] = _no_op
        self.sk_destruct: Callable[[sock], None] | None = None


def _no_op(sk: sock) -> None:
    """Before sock_init_data: nobody to wake."""


def sock_flag(sk: sock, flag: int) -> bool:
    return sk.sk_flags & flag != 0


def sk_add_node_rcu(sk: sock_common, chain: list[sock_common]) -> None:
    """Hang a socket at the head of a chain."""
    chain.insert(0, sk)
    sk.sk_node = chain


def __sk_nulls_add_node_rcu(sk: sock_common, chain: list[sock_common]) -> None:
    chain.insert(0, sk)
    sk.sk_node = chain


def sk_nulls_del_node_init_rcu(sk: sock_common) -> bool:
    """Take a socket off its chain; whether it was on one."""
    chain = sk.sk_node
    if chain is None:
        return False
    sk.sk_node = None
    chain.remove(sk)
    return True


def sk_add_bind_node(sk: sock_common, owners: dict[sock_common, None]) -> None:
    owners[sk] = None


def __sk_del_bind_node(sk: sock_common, owners: dict[sock_common, None]) -> None:
    owners.pop(sk, None)


def sock_prot_inuse_add(net: Stack, prot: Any, inc: int) -> None:
    """How many sockets a protocol has in its tables: /proc/net/sockstat."""
    inuse = net.core.prot_inuse
    inuse[prot.name] = inuse.get(prot.name, 0) + inc


def net_tx_rndhash(net: Stack, family: int) -> int:
    """A transmit hash, never 0 (which is none).  It picks queues, paths and IPv6 flow labels: as nothing of it is on an
    IPv4 wire, no random number is spent there."""
    return (net.rng.get_random_u32() or 1) if family == AF_INET6 else 1


def sk_set_txhash(sk: Any) -> None:
    sk.sk_txhash = net_tx_rndhash(sk.sk_net, sk.sk_family)


def sk_rethink_txhash(sk: Any) -> bool:
    """Choose another transmit hash (SO_TXREHASH); whether that was allowed."""
    if not sk.sk_txhash or not sk.sk_txrehash:
        return False
    sk_set_txhash(sk)
    return True


def sk_acceptq_added(sk: sock) -> None:
    sk.sk_ack_backlog += 1


def sk_acceptq_is_full(sk: sock) -> bool:
    """Whether the accept queue holds more than the backlog: listen(n) has room for n + 1."""
    return sk.sk_ack_backlog > sk.sk_max_ack_backlog


def sk_dst_reset(sk: sock) -> None:
    sk.sk_dst_cache = None


def __sk_stream_memory_free(sk: sock, wake: int) -> bool:
    """Whether a write would be taken; with ``wake`` 1 the protocol wants it to be worth waking somebody."""
    if sk.sk_wmem_queued >= sk.sk_sndbuf:
        return False
    memory_free = sk.sk_prot.stream_memory_free
    return bool(memory_free(sk, wake)) if memory_free is not None else True


def __sk_stream_is_writeable(sk: sock, wake: int) -> bool:
    """A third of the send buffer is free, and the protocol takes more."""
    queued = sk.sk_wmem_queued
    return sk.sk_sndbuf - queued >= queued >> 1 and __sk_stream_memory_free(sk, wake)


def sock_writeable(sk: sock) -> bool:
    return sk.sk_wmem_alloc < sk.sk_sndbuf >> 1


def sock_rps_save_rxhash(sk: sock, skb: sk_buff) -> None:
    """The device's hash of the flow, by which the kernel steers packets to a CPU."""
    sk.sk_rxhash = skb.hash


def sock_error(sk: sock) -> int:
    """The pending error as a negative errno, which is cleared; 0 if none."""
    err = sk.sk_err
    if err:
        sk.sk_err = 0
    return -err


def sock_orphan(sk: sock) -> None:
    """The application has let go: nobody is woken any more."""
    sk.sk_flags |= SOCK_DEAD
    sk.sk_socket = None
    sk.sk_wq = []


def sock_graft(sk: sock, parent: socket) -> None:
    """accept() gives the child to the application's new socket."""
    sk.sk_socket = parent
    parent.sk = sk


_PROTO_FUNCTIONS: Final = (
    "accept",
    "bind",
    "close",
    "connect",
    "destroy",
    "disconnect",
    "get_port",
    "getsockopt",
    "h",
    "hash",
    "init",
    "ioctl",
    "keepalive",
    "obj_size",
    "recvmsg",
    "release_cb",
    "rsk_prot",
    "sendmsg",
    "set_rcvlowat",
    "setsockopt",
    "shutdown",
    "slab",
    "stream_memory_free",
    "twsk_prot",
    "unhash",
)


class proto:
    """struct proto: a protocol's functions, called as ``sk.sk_prot.close(sk, timeout)``.

    Each attribute is a plain function; a protocol leaves out (None) what it has not.
    """

    __slots__ = ("memory_allocated", "name", *_PROTO_FUNCTIONS)

    name: str
    memory_allocated: bool  # whether its sockets count against tcp_mem (the kernel: a pointer to the counter)
    accept: Any
    bind: Any
    close: Any
    connect: Any
    destroy: Any
    disconnect: Any
    get_port: Any
    getsockopt: Any
    h: Any
    hash: Any
    init: Any
    ioctl: Any
    keepalive: Any
    obj_size: Any
    recvmsg: Any
    release_cb: Any
    rsk_prot: Any
    sendmsg: Any
    set_rcvlowat: Any  # a member of struct proto_ops in the kernel
    setsockopt: Any
    shutdown: Any
    slab: Any
    stream_memory_free: Any
    twsk_prot: Any
    unhash: Any

    def __init__(self, name: str, memory_allocated: bool = False, **functions: Any) -> None:
        self.name = name
        self.memory_allocated = memory_allocated
        for slot in _PROTO_FUNCTIONS:
            setattr(self, slot, functions.pop(slot, None))
        if functions:
            raise TypeError(f"struct proto has no member {sorted(functions)}")
