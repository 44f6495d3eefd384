# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets without their protocol: birth, cloning, death, options, wake-ups and memory: net/core/sock.c.

``struct proto.slab`` is the class that a protocol's sockets are made of (the kernel has a slab of that size).
Memory: what a socket received is charged in whole pages of SK_MEM_QUANTUM, of which ``sk_forward_alloc`` bytes are not
used; for TCP all sockets' pages add up in ``net.ipv4.tcp_memory_allocated``, and the three numbers of tcp_mem decide:

    pages          what happens
    <= tcp_mem[0]  all is well; pressure, if there was, is over
    >  tcp_mem[1]  pressure (TCPMemoryPressures): windows stop growing, out-of-order data are given up first
    >  tcp_mem[2]  refused, so that the packet is dropped (TCPRcvQDrop, TCPOFODrop)

A socket always gets tcp_rmem[0] bytes, and under pressure but below tcp_mem[2] its fair share: the limit divided by
the number of sockets.  So a peer that is not read, or that sends behind holes on many connections, costs tcp_mem[2]
at most, beyond tcp_rmem[0] a socket.

Departures: no locks, no reference counts (``sk_free`` is called once, by whoever takes the socket off its last table);
data to be sent are not charged (they are the application's own buffers, bounded by sk_sndbuf), and UDP has no limit
beyond each socket's sk_rcvbuf.

An option's value is an int, or ``bytes`` in the layout of the C struct (SO_LINGER two native ints, SO_RCVTIMEO two
native longs, SO_BINDTODEVICE a name).  ``sk_getsockopt`` returns (0, value) or (negative errno, 0).
docs/sockets.md has the list of all options, and of those that are not there.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from stack.include.ip import IPPROTO_TCP, MSG_PEEK, inet_skb_parm
from stack.include.net import SOCK_NOSPACE, optval_t
from stack.include.net_tstamp import (
    SOF_TIMESTAMPING_BIND_PHC,
    SOF_TIMESTAMPING_OPT_ID,
    SOF_TIMESTAMPING_OPT_ID_TCP,
    SOF_TIMESTAMPING_OPT_STATS,
    SOF_TIMESTAMPING_RX_SOFTWARE,
)
from stack.include.netdevice import NETIF_F_GSO_MASK, NETIF_F_TSO, NETIF_F_TSO6
from stack.include.sk_buff import MAX_TCP_HEADER, SKB_GSO_TCPV6
from stack.include.snmp import LINUX_MIB_TCPMEMORYPRESSURES, NET_INC_STATS
from stack.include.sock import (
    AF_INET,
    AF_INET6,
    EPOLLERR,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDNORM,
    EPOLLWRBAND,
    EPOLLWRNORM,
    INT_MAX,
    MAX_SCHEDULE_TIMEOUT,
    SEND_SHUTDOWN,
    SK_PACING_NEEDED,
    SK_PACING_NONE,
    SOCK_BINDPORT_LOCK,
    SOCK_BROADCAST,
    SOCK_BUF_LOCK_MASK,
    SOCK_DBG,
    SOCK_DEAD,
    SOCK_DONE,
    SOCK_KEEPOPEN,
    SOCK_LINGER,
    SOCK_LOCALROUTE,
    SOCK_MIN_RCVBUF,
    SOCK_MIN_SNDBUF,
    SOCK_NOFCS,
    SOCK_PASSCRED,
    SOCK_PASSSEC,
    SOCK_RCVBUF_LOCK,
    SOCK_RCVMARK,
    SOCK_RCVTSTAMP,
    SOCK_RCVTSTAMPNS,
    SOCK_RXQ_OVFL,
    SOCK_SELECT_ERR_QUEUE,
    SOCK_SNDBUF_LOCK,
    SOCK_STREAM,
    SOCK_TIMESTAMPING_RX_SOFTWARE,
    SOCK_TSTAMP_NEW,
    SOCK_URGINLINE,
    SOCK_WIFI_STATUS,
    SOCK_ZEROCOPY,
    sock,
    sock_error,
    sock_writeable,
)
from stack.include.tcp_states import TCP_CLOSE, TCP_LISTEN
from stack.include.timer import HZ, timer_list
from stack.include.wait import wake_up_interruptible_poll, wake_up_interruptible_sync_poll
from stack.kernel.time.timer import del_timer, jiffies, mod_timer, timer_setup
from stack.net.core import sock_reuseport
from stack.net.core.skbuff import skb_orphan

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.net import sockaddr, sockaddr_in, socket
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import proto
    from stack.stack import Stack

SK_MEM_QUANTUM: Final = 4096
_QUANTUM_SHIFT: Final = 12

# include/uapi/asm-generic/socket.h
SOL_SOCKET: Final = 1
SO_DEBUG: Final = 1
SO_REUSEADDR: Final = 2
SO_TYPE: Final = 3
SO_ERROR: Final = 4
SO_DONTROUTE: Final = 5
SO_BROADCAST: Final = 6
SO_SNDBUF: Final = 7
SO_RCVBUF: Final = 8
SO_KEEPALIVE: Final = 9
SO_OOBINLINE: Final = 10
SO_NO_CHECK: Final = 11
SO_PRIORITY: Final = 12
SO_LINGER: Final = 13
SO_BSDCOMPAT: Final = 14
SO_REUSEPORT: Final = 15
SO_PASSCRED: Final = 16
SO_PEERCRED: Final = 17
SO_RCVLOWAT: Final = 18
SO_SNDLOWAT: Final = 19
SO_RCVTIMEO: Final = 20
SO_SNDTIMEO: Final = 21
SO_BINDTODEVICE: Final = 25
SO_DETACH_FILTER: Final = 27
SO_PEERNAME: Final = 28
SO_TIMESTAMP: Final = 29
SO_ACCEPTCONN: Final = 30
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SO_PASSSEC: Final = 34
SO_TIMESTAMPNS: Final = 35
SO_MARK: Final = 36
SO_TIMESTAMPING: Final = 37
SO_PROTOCOL: Final = 38
SO_DOMAIN: Final = 39
SO_RXQ_OVFL: Final = 40
SO_WIFI_STATUS: Final = 41
SO_PEEK_OFF: Final = 42
SO_NOFCS: Final = 43
SO_LOCK_FILTER: Final = 44
SO_SELECT_ERR_QUEUE: Final = 45
SO_BUSY_POLL: Final = 46
SO_MAX_PACING_RATE: Final = 47
SO_BPF_EXTENSIONS: Final = 48
SO_INCOMING_CPU: Final = 49
SO_CNX_ADVICE: Final = 53
SO_MEMINFO: Final = 55
SO_INCOMING_NAPI_ID: Final = 56
SO_COOKIE: Final = 57
SO_PEERGROUPS: Final = 59
SO_ZEROCOPY: Final = 60
SO_BINDTOIFINDEX: Final = 62
SO_TIMESTAMP_NEW: Final = 63
SO_TIMESTAMPNS_NEW: Final = 64
SO_TIMESTAMPING_NEW: Final = 65
SO_RCVTIMEO_NEW: Final = 66
SO_SNDTIMEO_NEW: Final = 67
SO_DETACH_REUSEPORT_BPF: Final = 68
SO_PREFER_BUSY_POLL: Final = 69
SO_BUSY_POLL_BUDGET: Final = 70
SO_NETNS_COOKIE: Final = 71
SO_BUF_LOCK: Final = 72
SO_RESERVE_MEM: Final = 73
SO_TXREHASH: Final = 74
SO_RCVMARK: Final = 75

SK_CAN_REUSE: Final = 1
_NO_RATE: Final = (1 << 64) - 1

IFNAMSIZ: Final = 16
_INT: Final = Struct("=i")
_TWO_INTS: Final = Struct("=ii")
_LINGER: Final = Struct("=iI")
_TIMEVAL: Final = Struct("=qq")
_MEMINFO: Final = Struct("=9I")
struct_ucred: Final = Struct("=iii")  # pid, uid, gid
_SOCKADDR_IN: Final = Struct("=H2s4s8x")
_SOCKADDR_IN6: Final = Struct("=H2s4s16sI")


# -- birth and death ---------------------------------------------------------------------------------------------


def sk_prot_alloc(prot: proto, net: Stack, family: int) -> Any:
    """The bare object, all members zero or empty."""
    return prot.slab(net, family)


def sk_alloc(net: Stack, family: int, prot: proto) -> Any:
    """A new socket of a protocol; inet_create() and sock_init_data() do the rest."""
    sk = sk_prot_alloc(prot, net, family)
    sk.sk_prot = prot
    return sk


def sock_init_data(sock_: socket | None, sk: sock) -> None:
    """What every new socket starts with; ``sock_`` is None for one that has no application yet."""
    sock_init_data_uid(sock_, sk)


def sock_init_data_uid(sock_: socket | None, sk: sock) -> None:
    core = sk.sk_net.core
    sk.sk_timer = timer_setup(_no_timer, sk)
    sk.sk_rcvbuf = core.sysctl_rmem_default
    sk.sk_sndbuf = core.sysctl_wmem_default
    sk.sk_txrehash = core.sysctl_txrehash
    sk.sk_state = TCP_CLOSE
    sk.sk_socket = sock_
    if sock_ is not None:
        sk.sk_type = sock_.type
        sock_.sk = sk
    _set_callbacks(sk)


def _set_callbacks(sk: sock) -> None:
    sk.sk_state_change = sock_def_wakeup
    sk.sk_data_ready = sock_def_readable
    sk.sk_write_space = sock_def_write_space
    sk.sk_error_report = sock_def_error_report
    sk.sk_destruct = sock_def_destruct


def _no_timer(sk: sock) -> None:
    """sk_timer fired without a protocol that uses it."""


def sock_def_destruct(sk: sock) -> None:
    """A protocol without anything to free."""




def sock_copy(nsk: sock, osk: sock) -> None:
    """What a clone takes over of struct sock; everything else starts as in a new socket."""
    nsk.sk_prot = osk.sk_prot
    nsk.sk_bound_dev_if = osk.sk_bound_dev_if
    nsk.sk_reuse = osk.sk_reuse
    nsk.sk_reuseport = osk.sk_reuseport
    nsk.sk_type = osk.sk_type
    nsk.sk_protocol = osk.sk_protocol
    nsk.sk_userlocks = osk.sk_userlocks & ~SOCK_BINDPORT_LOCK  # the child's port goes when it closes
    nsk.sk_rcvbuf = osk.sk_rcvbuf
    nsk.sk_sndbuf = osk.sk_sndbuf
    nsk.sk_rcvlowat = osk.sk_rcvlowat
    nsk.sk_rcvtimeo = osk.sk_rcvtimeo
    nsk.sk_sndtimeo = osk.sk_sndtimeo
    nsk.sk_lingertime = osk.sk_lingertime
    nsk.sk_mark = osk.sk_mark
    nsk.sk_no_check_tx = osk.sk_no_check_tx
    nsk.sk_peek_off = osk.sk_peek_off
    nsk.sk_ll_usec = osk.sk_ll_usec
    nsk.sk_prefer_busy_poll = osk.sk_prefer_busy_poll
    nsk.sk_txrehash = osk.sk_txrehash
    nsk.sk_incoming_cpu = 0  # the processor that makes it: there is one
    nsk.sk_max_pacing_rate = osk.sk_max_pacing_rate
    nsk.sk_pacing_rate = osk.sk_pacing_rate
    nsk.sk_pacing_status = osk.sk_pacing_status
    nsk.sk_pacing_shift = osk.sk_pacing_shift
    nsk.sk_state_change = osk.sk_state_change
    nsk.sk_data_ready = osk.sk_data_ready
    nsk.sk_write_space = osk.sk_write_space
    nsk.sk_error_report = osk.sk_error_report
    nsk.sk_destruct = osk.sk_destruct
    nsk.sk_user_data = osk.sk_user_data
    nsk.sk_flags = osk.sk_flags & ~(SOCK_DEAD | SOCK_DONE)
    nsk.sk_tsflags = osk.sk_tsflags
    if sock_needs_netstamp(nsk):
        nsk.sk_net.core.netstamp_needed += 1


def sk_clone_lock(sk: sock) -> Any:
    """A copy of a listener's socket for its child: options, limits and callbacks, with empty queues and no
    application.  What the layers above struct sock inherit is copied by them."""
    newsk = sk_prot_alloc(sk.sk_prot, sk.sk_net, sk.sk_family)
    sock_copy(newsk, sk)
    newsk.sk_timer = timer_setup(_no_timer, newsk)
    return newsk


def sk_free(sk: sock) -> None:
    """The last one lets go."""
    __sk_free(sk)


def __sk_free(sk: sock) -> None:
    sk_destruct(sk)


def sk_destruct(sk: sock) -> None:
    if sk.sk_destruct is not None:
        sk.sk_destruct(sk)
    if sock_needs_netstamp(sk):
        _change_timestamping(sk, SOCK_RCVTSTAMP | SOCK_TIMESTAMPING_RX_SOFTWARE, 0)
    sk.sk_wq = []


# -- routes ------------------------------------------------------------------------------------------------------


def __sk_dst_check(sk: sock, cookie: int) -> dst_entry | None:
    """The cached route, if it is still good; a stale one is forgotten."""
    dst = sk.sk_dst_cache
    if dst is not None and dst.ops.check(dst, cookie) is None:
        sk.sk_dst_cache = None
        return None
    return dst


def sk_setup_caps(sk: sock, dst: dst_entry) -> None:
    """Cache a route and note what its device can do: whether TCP may hand it packets of many segments, and how big.
    Of the device's kinds of GSO only the one that this socket's packets are of is noted."""
    sk.sk_dst_cache = dst
    dev = dst.dev
    gso = 0 if sk.sk_gso_disabled else NETIF_F_TSO6 if sk.sk_gso_type == SKB_GSO_TCPV6 else NETIF_F_TSO
    sk.sk_route_caps = dev.features & (~NETIF_F_GSO_MASK | gso)
    if dev.features & (NETIF_F_TSO | NETIF_F_TSO6):
        sk.sk_gso_max_size = dev.gso_max_size - (MAX_TCP_HEADER + 1)
    sk.sk_gso_max_segs = max(dev.gso_max_segs, 1)


def sk_gso_disable(sk: sock) -> None:
    """From here on every segment is made by TCP itself: each is signed on its own (an inline of include/net/sock.h)."""
    sk.sk_gso_disabled = True
    sk.sk_route_caps &= ~NETIF_F_GSO_MASK


# -- what a protocol has not ---------------------------------------------------------------------------------------


def sock_no_connect(sock_: socket, addr: sockaddr_in, flags: int) -> int:
    return -errno.EOPNOTSUPP


def sock_no_accept(sock_: socket, newsock: socket, flags: int) -> int:
    return -errno.EOPNOTSUPP


def sock_no_listen(sock_: socket, backlog: int) -> int:
    return -errno.EOPNOTSUPP


# -- timers ------------------------------------------------------------------------------------------------------


def sk_reset_timer(sk: Any, timer: timer_list, expires: int) -> None:
    """Arm one of the socket's timers; ``expires`` in jiffies."""
    mod_timer(sk.sk_net, timer, expires)


def sk_stop_timer(sk: Any, timer: timer_list) -> None:
    del_timer(sk.sk_net, timer)


# -- wake-ups ----------------------------------------------------------------------------------------------------


def sock_def_wakeup(sk: sock) -> None:
    """The state changed."""
    if sk.sk_wq:
        wake_up_interruptible_poll(sk, 0)


def sock_def_error_report(sk: sock) -> None:
    if sk.sk_wq:
        wake_up_interruptible_poll(sk, EPOLLERR)


def sock_def_readable(sk: sock) -> None:
    if sk.sk_wq:
        wake_up_interruptible_sync_poll(sk, EPOLLIN | EPOLLPRI | EPOLLRDNORM)


def sock_def_write_space(sk: sock) -> None:
    if sk.sk_wq and sock_writeable(sk):
        if sk.sk_socket is not None:
            sk.sk_socket.flags &= ~SOCK_NOSPACE
        wake_up_interruptible_sync_poll(sk, EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND)


# -- memory ------------------------------------------------------------------------------------------------------


def skb_set_owner_w(skb: sk_buff, sk: sock) -> None:
    """The packet counts against the socket's send budget until its destructor runs."""
    if skb.destructor is not None:
        skb_orphan(skb)
    skb.sk = sk
    skb.destructor = sock_wfree
    sk.sk_wmem_alloc += skb.truesize


def skb_set_owner_r(skb: sk_buff, sk: sock) -> None:
    """The packet counts against the socket's receive budget until it is read."""
    if skb.destructor is not None:
        skb_orphan(skb)
    skb.sk = sk
    skb.destructor = sock_rfree
    truesize = skb.truesize
    sk.sk_rmem_alloc += truesize
    sk.sk_forward_alloc -= truesize


def sock_wfree(skb: sk_buff) -> None:
    sk = skb.sk
    assert sk is not None
    sk.sk_wmem_alloc -= skb.truesize
    sk.sk_write_space(sk)


def sock_rfree(skb: sk_buff) -> None:
    sk = skb.sk
    assert sk is not None
    truesize = skb.truesize
    sk.sk_rmem_alloc -= truesize
    forward = sk.sk_forward_alloc + truesize
    sk.sk_forward_alloc = forward
    if forward >= SK_MEM_QUANTUM:
        __sk_mem_reclaim(sk, forward)


def sk_mem_pages(amt: int) -> int:
    """include/net/sock.h: bytes as pages, rounded up."""
    return (amt + SK_MEM_QUANTUM - 1) >> _QUANTUM_SHIFT


def __sk_mem_schedule(sk: sock, size: int) -> bool:
    """Set whole pages aside for ``size`` bytes; False if tcp_mem does not allow it."""
    amt = (size + SK_MEM_QUANTUM - 1) >> _QUANTUM_SHIFT
    if sk.sk_prot.memory_allocated and not __sk_mem_raise_allocated(sk, amt):
        return False
    sk.sk_forward_alloc += amt << _QUANTUM_SHIFT
    return True


def __sk_mem_raise_allocated(sk: sock, amt: int) -> bool:
    """Charge ``amt`` pages to the protocol; see the table at the head of the file."""
    ipv4 = sk.sk_net.ipv4
    allocated = ipv4.tcp_memory_allocated = ipv4.tcp_memory_allocated + amt
    mem = ipv4.sysctl_tcp_mem
    if allocated <= mem[0]:
        ipv4.tcp_memory_pressure = 0
        return True
    if allocated > mem[1]:
        tcp_enter_memory_pressure(sk)
    if allocated <= mem[2] and (not ipv4.tcp_memory_pressure or _has_fair_share(sk, amt, mem[2])):
        return True
    if sk.sk_rmem_alloc < ipv4.sysctl_tcp_rmem[0]:
        return True
    ipv4.tcp_memory_allocated -= amt
    return False


def _has_fair_share(sk: sock, amt: int, limit: int) -> bool:
    sockets = sk.sk_net.core.prot_inuse.get(sk.sk_prot.name, 1)
    mine = sk_mem_pages(sk.sk_wmem_queued + sk.sk_rmem_alloc + sk.sk_forward_alloc) + amt
    return limit > sockets * mine


def tcp_enter_memory_pressure(sk: sock) -> None:
    """net/ipv4/tcp.c, called through struct proto there."""
    ipv4 = sk.sk_net.ipv4
    if not ipv4.tcp_memory_pressure:
        ipv4.tcp_memory_pressure = jiffies(sk.sk_net)
        NET_INC_STATS(sk.sk_net, LINUX_MIB_TCPMEMORYPRESSURES)


def sk_forced_mem_schedule(sk: sock, size: int) -> None:
    """Set pages aside whatever the limit says: for the one packet that gets a connection going again."""
    if size > sk.sk_forward_alloc:
        amt = sk_mem_pages(size - sk.sk_forward_alloc)
        sk.sk_forward_alloc += amt << _QUANTUM_SHIFT
        if sk.sk_prot.memory_allocated:
            sk.sk_net.ipv4.tcp_memory_allocated += amt


def __sk_mem_reclaim(sk: sock, forward: int) -> None:
    """Give the whole pages of ``forward`` unused bytes back to the protocol."""
    sk.sk_forward_alloc = forward & (SK_MEM_QUANTUM - 1)
    if sk.sk_prot.memory_allocated:
        ipv4 = sk.sk_net.ipv4
        ipv4.tcp_memory_allocated -= forward >> _QUANTUM_SHIFT
        if ipv4.tcp_memory_pressure and ipv4.tcp_memory_allocated < ipv4.sysctl_tcp_mem[0]:
            ipv4.tcp_memory_pressure = 0


def sk_rmem_schedule(sk: sock, skb: sk_buff, size: int) -> bool:
    return size <= sk.sk_forward_alloc or __sk_mem_schedule(sk, size - sk.sk_forward_alloc)


def sock_alloc_send_pskb(sk: sock) -> int:
    """Whether a datagram may be built: 0, the pending error, -EPIPE after shutdown(), or -EAGAIN while the device holds
    as much as SO_SNDBUF allows."""
    err = sock_error(sk)
    if err:
        return err
    if sk.sk_shutdown & SEND_SHUTDOWN:
        return -errno.EPIPE
    if sk.sk_wmem_alloc < sk.sk_sndbuf:
        return 0
    if sk.sk_socket is not None:
        sk.sk_socket.flags |= SOCK_NOSPACE
    return -errno.EAGAIN


# -- queues ------------------------------------------------------------------------------------------------------


def sock_queue_rcv_skb(sk: sock, skb: sk_buff) -> int:
    """Queue a datagram for reading; -ENOMEM if the receive buffer is full."""
    if sk.sk_rmem_alloc >= sk.sk_rcvbuf:
        sk.sk_drops += 1
        return -errno.ENOMEM
    if sk.sk_flags & SOCK_RXQ_OVFL:
        sock_skb_set_dropcount(sk, skb)
    sk_rmem_schedule(sk, skb, skb.truesize)
    skb_set_owner_r(skb, sk)
    sk.sk_receive_queue.append(skb)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_data_ready(sk)
    return 0


def sock_skb_set_dropcount(sk: sock, skb: sk_buff) -> None:
    """A datagram says how many had been dropped when it came (SO_RXQ_OVFL)."""
    if skb.cb is None:
        skb.cb = inet_skb_parm()
    skb.cb.dropcount = sk.sk_drops


# -- options -----------------------------------------------------------------------------------------------------


def _flag(bit: int) -> Callable[[sock, int], int]:
    def set_flag(sk: sock, val: int) -> int:
        sk.sk_flags = sk.sk_flags | bit if val else sk.sk_flags & ~bit
        return 0

    return set_flag


def _has(bit: int) -> Callable[[sock], int]:
    return lambda sk: int(sk.sk_flags & bit != 0)


def _dst_flag(bit: int) -> Callable[[sock, int], int]:
    """A flag that the route depends on."""

    def set_flag(sk: sock, val: int) -> int:
        sk.sk_dst_cache = None
        return _flag(bit)(sk, val)

    return set_flag


def sock_needs_netstamp(sk: sock) -> bool:
    """Whether the packets that this socket receives have to carry their time."""
    return sk.sk_flags & (SOCK_RCVTSTAMP | SOCK_TIMESTAMPING_RX_SOFTWARE) != 0


def _change_timestamping(sk: sock, clear: int, set_: int) -> None:
    """Other sk_flags, and the stack's count of sockets that want to know when packets came
    (sock_enable_timestamp, sock_disable_timestamp)."""
    before = sock_needs_netstamp(sk)
    sk.sk_flags = sk.sk_flags & ~clear | set_
    sk.sk_net.core.netstamp_needed += sock_needs_netstamp(sk) - before


def _set_timestamp(unit: int) -> Callable[[sock, int], int]:
    def set_timestamp(sk: sock, val: int) -> int:
        set_ = SOCK_RCVTSTAMP | unit if val else 0
        _change_timestamping(sk, _TSTAMP_KIND, set_)
        return 0

    return set_timestamp


_TSTAMP_KIND: Final = SOCK_RCVTSTAMP | SOCK_RCVTSTAMPNS | SOCK_TSTAMP_NEW


def _get_timestamp(unit: int) -> Callable[[sock], int]:
    """One of SO_TIMESTAMP, SO_TIMESTAMPNS and their _NEW forms is on at a time."""
    return lambda sk: int(sk.sk_flags & _TSTAMP_KIND == SOCK_RCVTSTAMP | unit)


def sock_set_timestamping(sk: Any, val: int) -> int:
    """SO_TIMESTAMPING.  With SOF_TIMESTAMPING_OPT_ID the numbers of a stream count bytes from here on: from the first
    that is not acknowledged, or the next to be written with SOF_TIMESTAMPING_OPT_ID_TCP; a listener has none
    (-EINVAL).  SOF_TIMESTAMPING_OPT_STATS is refused: the statistics are not there."""
    known = SOF_TIMESTAMPING_OPT_ID_TCP if sk.sk_net.profile.timestamping_opt_id_tcp else SOF_TIMESTAMPING_BIND_PHC
    if not 0 <= val < known << 1 or val & SOF_TIMESTAMPING_OPT_STATS:
        return -errno.EINVAL
    if val & SOF_TIMESTAMPING_OPT_ID_TCP and not val & SOF_TIMESTAMPING_OPT_ID:
        return -errno.EINVAL
    if val & SOF_TIMESTAMPING_OPT_ID and not sk.sk_tsflags & SOF_TIMESTAMPING_OPT_ID:
        if sk.sk_protocol != IPPROTO_TCP:
            sk.sk_tskey = 0
        elif sk.sk_state in (TCP_CLOSE, TCP_LISTEN):
            return -errno.EINVAL
        else:
            sk.sk_tskey = sk.write_seq if val & SOF_TIMESTAMPING_OPT_ID_TCP else sk.snd_una
    sk.sk_tsflags = val
    wanted = SOCK_TIMESTAMPING_RX_SOFTWARE if val & SOF_TIMESTAMPING_RX_SOFTWARE else 0
    _change_timestamping(sk, SOCK_TIMESTAMPING_RX_SOFTWARE, wanted)
    return 0


def _set_timestamping_new(sk: sock, val: int) -> int:
    err = sock_set_timestamping(sk, val)
    return err or _flag(SOCK_TSTAMP_NEW)(sk, 1)


def _set_timestamping_old(sk: sock, val: int) -> int:
    err = sock_set_timestamping(sk, val)
    return err or _flag(SOCK_TSTAMP_NEW)(sk, 0)


def _get_timestamping(sk: sock) -> bytes:
    """struct so_timestamping: the flags, and the hardware clock, which there is none of."""
    return _TWO_INTS.pack(sk.sk_tsflags, 0)


def _set_reuseaddr(sk: sock, val: int) -> int:
    sk.sk_reuse = SK_CAN_REUSE if val else 0
    return 0


def _set_reuseport(sk: sock, val: int) -> int:
    sk.sk_reuseport = bool(val)
    return 0


def __sock_set_rcvbuf(sk: sock, val: int) -> int:
    """Doubled, since the kernel counts its own overhead against it; never below SOCK_MIN_RCVBUF."""
    sk.sk_userlocks |= SOCK_RCVBUF_LOCK
    sk.sk_rcvbuf = max(min(val, INT_MAX // 2) * 2, SOCK_MIN_RCVBUF)
    return 0


def _set_rcvbuf(sk: sock, val: int) -> int:
    return __sock_set_rcvbuf(sk, min(val & 0xFFFFFFFF, sk.sk_net.core.sysctl_rmem_max))


def _set_rcvbufforce(sk: sock, val: int) -> int:
    return __sock_set_rcvbuf(sk, max(val, 0))


def __sock_set_sndbuf(sk: sock, val: int) -> int:
    sk.sk_userlocks |= SOCK_SNDBUF_LOCK
    sk.sk_sndbuf = max(min(val, INT_MAX // 2) * 2, SOCK_MIN_SNDBUF)
    sk.sk_write_space(sk)
    return 0


def _set_sndbuf(sk: sock, val: int) -> int:
    return __sock_set_sndbuf(sk, min(val & 0xFFFFFFFF, sk.sk_net.core.sysctl_wmem_max))


def _set_sndbufforce(sk: sock, val: int) -> int:
    return __sock_set_sndbuf(sk, max(val, 0))


def _set_keepalive(sk: sock, val: int) -> int:
    if sk.sk_prot.keepalive is not None:
        sk.sk_prot.keepalive(sk, val)
    return _flag(SOCK_KEEPOPEN)(sk, val)


def _set_rcvlowat(sk: sock, val: int) -> int:
    """A stream has an opinion of its own (tcp_set_rcvlowat)."""
    val = INT_MAX if val < 0 else val
    if sk.sk_prot.set_rcvlowat is not None:
        err: int = sk.sk_prot.set_rcvlowat(sk, val)
        return err
    sk.sk_rcvlowat = val or 1
    return 0


def _member(name: str) -> Callable[[sock, int], int]:
    def set_member(sk: sock, val: int) -> int:
        setattr(sk, name, val)
        return 0

    return set_member


def _dst_member(name: str) -> Callable[[sock, int], int]:
    """A number that the route depends on."""

    def set_member(sk: sock, val: int) -> int:
        if getattr(sk, name) != val:
            setattr(sk, name, val)
            sk.sk_dst_cache = None
        return 0

    return set_member


def _bool_member(name: str) -> Callable[[sock, int], int]:
    return lambda sk, val: _member(name)(sk, int(bool(val)))


def _set_busy_poll(sk: sock, val: int) -> int:
    """Kept and shown: a stack that is called with each packet has no queue to look into."""
    if val < 0:
        return -errno.EINVAL
    sk.sk_ll_usec = val
    return 0


def _set_busy_poll_budget(sk: sock, val: int) -> int:
    return 0 if 0 <= val <= 0xFFFF else -errno.EINVAL


def sk_set_peek_off(sk: sock, val: int) -> int:
    """Where the next MSG_PEEK begins, in bytes behind what was read; negative: at the first of them, always."""
    if not _knows_peek_off(sk):
        return -errno.EOPNOTSUPP
    sk.sk_peek_off = val
    return 0


def _knows_peek_off(sk: sock) -> bool:
    return sk.sk_type != SOCK_STREAM or sk.sk_net.profile.newer_options


def sk_peek_offset(sk: sock, flags: int) -> int:
    """include/net/sock.h: where this MSG_PEEK begins."""
    return max(sk.sk_peek_off, 0) if flags & MSG_PEEK else 0


def sk_peek_offset_bwd(sk: sock, val: int) -> None:
    """So much was read and is gone."""
    if sk.sk_peek_off >= 0:
        sk.sk_peek_off = max(sk.sk_peek_off - val, 0)


def sk_peek_offset_fwd(sk: sock, val: int) -> None:
    """So much was peeked at."""
    if sk.sk_peek_off >= 0:
        sk.sk_peek_off += val


def _set_max_pacing_rate(sk: sock, val: int) -> int:
    """Bytes per second: an unsigned int, or a long of eight bytes; all ones are no limit.  A limit turns TCP's own
    pacing on."""
    rate = _NO_RATE if val in (-1, 0xFFFFFFFF) else val & 0xFFFFFFFF if val < 0 else val
    if rate != _NO_RATE and sk.sk_pacing_status == SK_PACING_NONE:
        sk.sk_pacing_status = SK_PACING_NEEDED
    sk.sk_max_pacing_rate = rate
    sk.sk_pacing_rate = min(sk.sk_pacing_rate, sk.sk_max_pacing_rate)
    return 0


def _set_zerocopy(sk: sock, val: int) -> int:
    """Whether MSG_ZEROCOPY of send() means something."""
    return _flag(SOCK_ZEROCOPY)(sk, val) if val in (0, 1) else -errno.EINVAL


def _set_cnx_advice(sk: sock, val: int) -> int:
    """The application says that the connection does not go on: 1 makes the next packet look for another way."""
    if val == 1:
        sk.sk_dst_cache = None
    return 0


def _set_bindtoifindex(sk: sock, val: int) -> int:
    """A number that no device has (yet) is taken, too."""
    return -errno.EINVAL if val < 0 else sock_bindtoindex(sk, val)


def _set_buf_lock(sk: sock, val: int) -> int:
    """Whether the sizes of the buffers are the application's: without a lock they adapt to the connection."""
    if val & ~SOCK_BUF_LOCK_MASK:
        return -errno.EINVAL
    sk.sk_userlocks = sk.sk_userlocks & ~SOCK_BUF_LOCK_MASK | val
    return 0


def _set_reserve_mem(sk: sock, val: int) -> int:
    """Memory is reserved with a control group's account, which there is none of."""
    return -errno.EINVAL if val < 0 else -errno.EOPNOTSUPP


def _set_txrehash(sk: sock, val: int) -> int:
    if not _knows_txrehash(sk):
        return -errno.EOPNOTSUPP
    if not -1 <= val <= 1:
        return -errno.EINVAL
    sk.sk_txrehash = sk.sk_net.core.sysctl_txrehash if val == -1 else val
    return 0


def _knows_txrehash(sk: sock) -> bool:
    return sk.sk_type == SOCK_STREAM or not sk.sk_net.profile.newer_options


def _set_credentials(bit: int) -> Callable[[sock, int], int]:
    """SO_PASSCRED and SO_PASSSEC are about sockets of one machine; older kernels keep the flag of any socket."""

    def set_flag(sk: sock, val: int) -> int:
        return -errno.EOPNOTSUPP if sk.sk_net.profile.newer_options else _flag(bit)(sk, val)

    return set_flag


def _get_credentials(bit: int) -> Callable[[sock], int]:
    return lambda sk: -errno.EOPNOTSUPP if sk.sk_net.profile.newer_options else int(sk.sk_flags & bit != 0)


def _detach_reuseport_bpf(sk: sock, val: int) -> int:
    if sk.sk_reuseport_cb is None:
        return -errno.ENOENT if sk.sk_reuseport else -errno.EINVAL
    return sock_reuseport.reuseport_detach_prog(sk)


def _ignored(sk: sock, val: int) -> int:
    return 0


_SETTERS: dict[int, Callable[[sock, int], int]] = {
    SO_DEBUG: _flag(SOCK_DBG),
    SO_REUSEADDR: _set_reuseaddr,
    SO_REUSEPORT: _set_reuseport,
    SO_DONTROUTE: _dst_flag(SOCK_LOCALROUTE),
    SO_BROADCAST: _flag(SOCK_BROADCAST),
    SO_SNDBUF: _set_sndbuf,
    SO_SNDBUFFORCE: _set_sndbufforce,
    SO_RCVBUF: _set_rcvbuf,
    SO_RCVBUFFORCE: _set_rcvbufforce,
    SO_KEEPALIVE: _set_keepalive,
    SO_OOBINLINE: _flag(SOCK_URGINLINE),
    SO_NO_CHECK: _bool_member("sk_no_check_tx"),
    SO_PRIORITY: _member("sk_priority"),
    SO_BSDCOMPAT: _ignored,
    SO_PASSCRED: _set_credentials(SOCK_PASSCRED),
    SO_PASSSEC: _set_credentials(SOCK_PASSSEC),
    SO_RCVLOWAT: _set_rcvlowat,
    SO_TIMESTAMP: _set_timestamp(0),
    SO_TIMESTAMP_NEW: _set_timestamp(SOCK_TSTAMP_NEW),
    SO_TIMESTAMPNS: _set_timestamp(SOCK_RCVTSTAMPNS),
    SO_TIMESTAMPNS_NEW: _set_timestamp(SOCK_RCVTSTAMPNS | SOCK_TSTAMP_NEW),
    SO_TIMESTAMPING: _set_timestamping_old,
    SO_TIMESTAMPING_NEW: _set_timestamping_new,
    SO_MARK: _dst_member("sk_mark"),
    SO_RXQ_OVFL: _flag(SOCK_RXQ_OVFL),
    SO_WIFI_STATUS: _flag(SOCK_WIFI_STATUS),
    SO_PEEK_OFF: sk_set_peek_off,
    SO_NOFCS: _flag(SOCK_NOFCS),
    SO_SELECT_ERR_QUEUE: _flag(SOCK_SELECT_ERR_QUEUE),
    SO_BUSY_POLL: _set_busy_poll,
    SO_PREFER_BUSY_POLL: _bool_member("sk_prefer_busy_poll"),
    SO_BUSY_POLL_BUDGET: _set_busy_poll_budget,
    SO_MAX_PACING_RATE: _set_max_pacing_rate,
    SO_INCOMING_CPU: _member("sk_incoming_cpu"),
    SO_CNX_ADVICE: _set_cnx_advice,
    SO_ZEROCOPY: _set_zerocopy,
    SO_BINDTOIFINDEX: _set_bindtoifindex,
    SO_DETACH_REUSEPORT_BPF: _detach_reuseport_bpf,
    SO_BUF_LOCK: _set_buf_lock,
    SO_RESERVE_MEM: _set_reserve_mem,
    SO_TXREHASH: _set_txrehash,
    SO_RCVMARK: _flag(SOCK_RCVMARK),
}


def sock_bindtoindex(sk: sock, ifindex: int) -> int:
    sk.sk_bound_dev_if = ifindex
    sk.sk_dst_cache = None
    return 0


def sock_setbindtodevice(sk: sock, name: bytes) -> int:
    """Only packets of that device; an empty name lifts it."""
    text = name[: IFNAMSIZ - 1].split(b"\0", 1)[0].decode("ascii", "replace")
    if not text:
        return sock_bindtoindex(sk, 0)
    dev = sk.sk_net.devices_by_name.get(text)
    return -errno.ENODEV if dev is None else sock_bindtoindex(sk, dev.ifindex)


def _set_linger(sk: sock, raw: bytes) -> int:
    """A time below zero is for ever.  Without the flag the time stays what it was."""
    if len(raw) < _TWO_INTS.size:
        return -errno.EINVAL
    onoff, seconds = _TWO_INTS.unpack_from(raw)
    if onoff:
        sk.sk_lingertime = MAX_SCHEDULE_TIMEOUT if seconds < 0 else seconds * HZ
    return _flag(SOCK_LINGER)(sk, onoff)


def sock_set_timeout(raw: bytes) -> int:
    """struct timeval to jiffies, rounded up; MAX_SCHEDULE_TIMEOUT is no limit; or -EINVAL, -EDOM."""
    if len(raw) < _TIMEVAL.size:
        return -errno.EINVAL
    seconds, usec = _TIMEVAL.unpack_from(raw)
    if not 0 <= usec < 1_000_000:
        return -errno.EDOM
    if seconds < 0:
        return 0
    if not (seconds or usec) or seconds >= MAX_SCHEDULE_TIMEOUT // HZ - 1:
        return MAX_SCHEDULE_TIMEOUT
    return int(seconds * HZ + -(-usec * HZ // 1_000_000))


def _set_timeout(name: str) -> Callable[[sock, bytes], int]:
    def set_timeout(sk: sock, raw: bytes) -> int:
        timeout = sock_set_timeout(raw)
        if timeout < 0:
            return timeout
        setattr(sk, name, timeout)
        return 0

    return set_timeout


# Options whose value is a struct
_RAW_SETTERS: dict[int, Callable[[sock, bytes], int]] = {
    SO_LINGER: _set_linger,
    SO_RCVTIMEO: _set_timeout("sk_rcvtimeo"),
    SO_RCVTIMEO_NEW: _set_timeout("sk_rcvtimeo"),
    SO_SNDTIMEO: _set_timeout("sk_sndtimeo"),
    SO_SNDTIMEO_NEW: _set_timeout("sk_sndtimeo"),
}


def sk_setsockopt(sk: sock, level: int, optname: int, optval: optval_t) -> int:
    """SOL_SOCKET options; 0 or -EINVAL (also for anything shorter than an int, known or not), -ENOPROTOOPT, -ENODEV,
    -EDOM, -EOPNOTSUPP."""
    setter = _SETTERS.get(optname)
    if setter is not None and isinstance(optval, int):
        return setter(sk, optval)
    raw = optval.to_bytes(4, "little", signed=optval < 0) if isinstance(optval, int) else optval
    if optname == SO_BINDTODEVICE:
        return sock_setbindtodevice(sk, raw)
    if len(raw) < 4:
        return -errno.EINVAL
    if optname in _RAW_SETTERS:
        return _RAW_SETTERS[optname](sk, raw)
    if setter is None:
        return -errno.ENOPROTOOPT
    if optname == SO_MAX_PACING_RATE and len(raw) == 8:
        return setter(sk, int.from_bytes(raw, "little"))
    return setter(sk, int.from_bytes(raw[:4], "little", signed=True))


def sock_setsockopt(sock_: socket, level: int, optname: int, optval: optval_t) -> int:
    return sk_setsockopt(sock_.sk, level, optname, optval)


def _get_error(sk: sock) -> int:
    """SO_ERROR reads and clears."""
    if sk.sk_err:
        err, sk.sk_err = sk.sk_err, 0
    else:
        err, sk.sk_err_soft = sk.sk_err_soft, 0
    return err


def _get_linger(sk: sock) -> bytes:
    return _LINGER.pack(1 if sk.sk_flags & SOCK_LINGER else 0, sk.sk_lingertime // HZ & 0xFFFFFFFF)


def sock_get_timeout(timeo: int) -> bytes:
    """Jiffies as a struct timeval; zeros for no limit."""
    if timeo == MAX_SCHEDULE_TIMEOUT:
        return bytes(_TIMEVAL.size)
    return _TIMEVAL.pack(timeo // HZ, timeo % HZ * 1_000_000 // HZ)


def _get_bindtodevice(sk: sock) -> bytes:
    dev = sk.sk_net.devices.get(sk.sk_bound_dev_if)
    return dev.name.encode() + b"\0" if dev is not None else b""


def sk_get_meminfo(sk: sock) -> bytes:
    """SO_MEMINFO: the nine numbers of SK_MEMINFO_*; there is no backlog and no memory for options."""
    return _MEMINFO.pack(
        sk.sk_rmem_alloc, sk.sk_rcvbuf, sk.sk_wmem_alloc, sk.sk_sndbuf, max(sk.sk_forward_alloc, 0),
        sk.sk_wmem_queued, 0, 0, sk.sk_drops,
    )  # fmt: skip


def sock_gen_cookie(sk: sock) -> int:
    """A number that no other socket of this stack has had; made when it is first asked for."""
    if not sk.sk_cookie:
        core = sk.sk_net.core
        core.cookie_last = sk.sk_cookie = core.cookie_last + 1
    return sk.sk_cookie


_GETTERS: dict[int, Callable[[sock], optval_t]] = {
    SO_DEBUG: _has(SOCK_DBG),
    SO_REUSEADDR: lambda sk: sk.sk_reuse,
    SO_REUSEPORT: lambda sk: int(sk.sk_reuseport),
    SO_TYPE: lambda sk: sk.sk_type,
    SO_PROTOCOL: lambda sk: sk.sk_protocol,
    SO_DOMAIN: lambda sk: sk.sk_family,
    SO_ERROR: _get_error,
    SO_ACCEPTCONN: lambda sk: int(sk.sk_state == TCP_LISTEN),
    SO_DONTROUTE: _has(SOCK_LOCALROUTE),
    SO_BROADCAST: _has(SOCK_BROADCAST),
    SO_SNDBUF: lambda sk: sk.sk_sndbuf,
    SO_RCVBUF: lambda sk: sk.sk_rcvbuf,
    SO_KEEPALIVE: _has(SOCK_KEEPOPEN),
    SO_OOBINLINE: _has(SOCK_URGINLINE),
    SO_NO_CHECK: lambda sk: sk.sk_no_check_tx,
    SO_PRIORITY: lambda sk: sk.sk_priority,
    SO_LINGER: _get_linger,
    SO_BSDCOMPAT: lambda sk: 0,
    SO_PASSCRED: _get_credentials(SOCK_PASSCRED),
    SO_PASSSEC: _get_credentials(SOCK_PASSSEC),
    SO_PEERCRED: lambda sk: struct_ucred.pack(0, -1, -1),  # nobody's: peers of this machine only have any
    SO_PEERGROUPS: lambda sk: -errno.ENODATA,
    SO_RCVLOWAT: lambda sk: sk.sk_rcvlowat,
    SO_SNDLOWAT: lambda sk: 1,
    SO_RCVTIMEO: lambda sk: sock_get_timeout(sk.sk_rcvtimeo),
    SO_RCVTIMEO_NEW: lambda sk: sock_get_timeout(sk.sk_rcvtimeo),
    SO_SNDTIMEO: lambda sk: sock_get_timeout(sk.sk_sndtimeo),
    SO_SNDTIMEO_NEW: lambda sk: sock_get_timeout(sk.sk_sndtimeo),
    SO_BINDTODEVICE: _get_bindtodevice,
    SO_TIMESTAMP: _get_timestamp(0),
    SO_TIMESTAMP_NEW: _get_timestamp(SOCK_TSTAMP_NEW),
    SO_TIMESTAMPNS: _get_timestamp(SOCK_RCVTSTAMPNS),
    SO_TIMESTAMPNS_NEW: _get_timestamp(SOCK_RCVTSTAMPNS | SOCK_TSTAMP_NEW),
    SO_TIMESTAMPING: _get_timestamping,
    SO_TIMESTAMPING_NEW: lambda sk: _get_timestamping(sk) if sk.sk_flags & SOCK_TSTAMP_NEW else bytes(8),
    SO_MARK: lambda sk: sk.sk_mark,
    SO_RXQ_OVFL: _has(SOCK_RXQ_OVFL),
    SO_WIFI_STATUS: _has(SOCK_WIFI_STATUS),
    SO_PEEK_OFF: lambda sk: _INT.pack(sk.sk_peek_off) if _knows_peek_off(sk) else -errno.EOPNOTSUPP,
    SO_NOFCS: _has(SOCK_NOFCS),
    SO_SELECT_ERR_QUEUE: _has(SOCK_SELECT_ERR_QUEUE),
    SO_BUSY_POLL: lambda sk: sk.sk_ll_usec,
    SO_PREFER_BUSY_POLL: lambda sk: sk.sk_prefer_busy_poll,
    SO_MAX_PACING_RATE: lambda sk: min(sk.sk_max_pacing_rate, 0xFFFFFFFF),
    SO_INCOMING_CPU: lambda sk: _INT.pack(sk.sk_incoming_cpu),
    SO_INCOMING_NAPI_ID: lambda sk: 0,
    SO_MEMINFO: sk_get_meminfo,
    SO_COOKIE: lambda sk: sock_gen_cookie(sk).to_bytes(8, "little"),
    SO_ZEROCOPY: _has(SOCK_ZEROCOPY),
    SO_BINDTOIFINDEX: lambda sk: sk.sk_bound_dev_if,
    SO_BUF_LOCK: lambda sk: sk.sk_userlocks & SOCK_BUF_LOCK_MASK,
    SO_RESERVE_MEM: lambda sk: 0,
    SO_TXREHASH: lambda sk: sk.sk_txrehash if _knows_txrehash(sk) else -errno.EOPNOTSUPP,
    SO_RCVMARK: _has(SOCK_RCVMARK),
}


def sk_getsockopt(sk: sock, level: int, optname: int, optlen: int = INT_MAX) -> tuple[int, optval_t]:
    """(0, value) of a SOL_SOCKET option into a buffer of ``optlen`` bytes, or (negative errno, 0).  Most values are cut
    to the buffer; a device's name, a cookie and an address longer than it are -EINVAL."""
    getter = _GETTERS.get(optname)
    if getter is None:
        return -errno.ENOPROTOOPT, 0
    value = getter(sk)
    if isinstance(value, int):
        if optname == SO_MAX_PACING_RATE and optlen >= 8:
            return 0, sk.sk_max_pacing_rate.to_bytes(8, "little")
        return (value, 0) if optname in _MAY_FAIL and value < 0 else (0, value)
    if (optname == SO_BINDTODEVICE and value and optlen < IFNAMSIZ) or (optname == SO_COOKIE and optlen < 8):
        return -errno.EINVAL, 0
    return 0, value[:optlen]


_MAY_FAIL: Final = frozenset((SO_PASSCRED, SO_PASSSEC, SO_PEERGROUPS, SO_PEEK_OFF, SO_TXREHASH))


def sock_getsockopt(sock_: socket, level: int, optname: int, optlen: int = INT_MAX) -> tuple[int, optval_t]:
    """(0, value) of a SOL_SOCKET option, or (negative errno, 0): sk_getsockopt, and what the ``socket`` knows."""
    if optname == SO_PEERNAME:
        return _get_peername(sock_, optlen)
    return sk_getsockopt(sock_.sk, level, optname, optlen)


def _get_peername(sock_: socket, optlen: int) -> tuple[int, optval_t]:
    """struct sockaddr_in or sockaddr_in6 of the peer; a longer buffer than that is -EINVAL."""
    name = sock_.ops.getname(sock_, 1)
    if isinstance(name, int):
        return -errno.ENOTCONN, 0
    raw = sockaddr_bytes(name)
    return (0, raw[:optlen]) if optlen <= len(raw) else (-errno.EINVAL, 0)


def sockaddr_bytes(name: sockaddr) -> bytes:
    """An address as C has it: struct sockaddr_in (16 bytes) or sockaddr_in6 (28)."""
    if len(name) == 2:
        return _SOCKADDR_IN.pack(AF_INET, name[1].to_bytes(2, "big"), name[0].to_bytes(4, "big"))
    addr, port, flowinfo, scope_id = name
    return _SOCKADDR_IN6.pack(
        AF_INET6, port.to_bytes(2, "big"), flowinfo.to_bytes(4, "big"), addr.to_bytes(16, "big"), scope_id
    )


def sock_common_setsockopt(sock_: socket, level: int, optname: int, optval: optval_t) -> int:
    """Options of any other level are the protocol's."""
    sk = sock_.sk
    err: int = sk.sk_prot.setsockopt(sk, level, optname, optval)
    return err


def sock_common_getsockopt(sock_: socket, level: int, optname: int, optlen: int) -> tuple[int, Any]:
    sk = sock_.sk
    result: tuple[int, Any] = sk.sk_prot.getsockopt(sk, level, optname, optlen)
    return result
