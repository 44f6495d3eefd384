# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports, listening, and the life of half-open connections: net/ipv4/inet_connection_sock.c.

Theory of operation
-------------------
Two sockets conflict on a port if their addresses overlap (equal, or one of them any) and their devices too, unless both
have SO_REUSEADDR and neither listens, or both have SO_REUSEPORT.  ``bind(0)`` walks the ephemeral range
from a random start in steps of two, odd ports first (the even ones are left to connect()).

A listener with backlog n has two limits, both "more than n": the SYN queue (``qlen`` requests in ehash) and the accept
queue (``sk_ack_backlog``); so each holds n + 1.

A request's life:

    event                        what happens                                            next
    SYN                          inet_csk_reqsk_queue_hash_add: ehash, timer 1 s         TCP_NEW_SYN_RECV
    timer                        SYN-ACK again, timer 2, 4, 8, 16, 32 s                  the same
    timer after the last retry   inet_csk_reqsk_queue_drop                               gone (nominal 63 s)
    third ACK                    child replaces it in ehash, complete_hashdance          accept queue
    accept()                     the application gets the child                          gone

Retries are tcp_synack_retries (5).  When more than half of the SYN queue is taken, old requests lose retries, down
to 2, the more the fewer young requests (never resent) there are: whoever answers at once is preferred to who never
does.

Left out: migration of requests between listeners (tcp_migrate_req).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from stack.include.dst import flowi4, flowi4_init_output, rtable
from stack.include.inet_connection_sock import (
    inet_connection_sock,
    inet_csk_delack_init,
    inet_csk_reqsk_queue_added,
)
from stack.include.inet_sock import inet_sk_set_state
from stack.include.ip import IPPROTO_TCP, IPTOS_RT_MASK, inet_sk_get_local_port_range
from stack.include.request_sock import (
    reqsk_free,
    reqsk_put,
    reqsk_queue_empty,
    reqsk_queue_len,
    reqsk_queue_len_young,
    reqsk_queue_remove,
    reqsk_queue_removed,
    request_sock,
    request_sock_queue,
)
from stack.include.snmp import IP_INC_STATS, IPSTATS_MIB_OUTNOROUTES
from stack.include.sock import (
    AF_INET6,
    SOCK_DEAD,
    sk_acceptq_added,
    sk_dst_reset,
    sk_nulls_del_node_init_rcu,
    sock_orphan,
)
from stack.include.tcp_states import TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV
from stack.include.timer import HZ
from stack.kernel.time.timer import del_timer, jiffies, mod_timer, timer_pending, timer_setup
from stack.net.core.request_sock import reqsk_queue_alloc
from stack.net.core.sock import SK_CAN_REUSE, sk_clone_lock, sk_free, sk_reset_timer, sk_stop_timer
from stack.net.core.stream import sk_stream_kill_queues, sk_stream_write_space
from stack.net.ipv4 import route
from stack.net.ipv4.inet_hashtables import (
    inet_bind2_bucket_create,
    inet_bind2_bucket_find,
    inet_bind_bucket_create,
    inet_bind_bucket_find,
    inet_bind_hash,
    inet_ehash_insert,
)

if TYPE_CHECKING:
    from stack.include.inet_hashtables import inet_bind_bucket
    from stack.include.sock import sock_common
    from stack.stack import Stack

TCP_RTO_MAX: Final = 120 * HZ
O_NONBLOCK: Final = 0o4000


# -- ports -------------------------------------------------------------------------------------------------------


def inet_rcv_saddr_equal(sk: sock_common, sk2: sock_common) -> bool:
    """Whether the local addresses overlap: equal, or one of them any.  An IPv6 socket that takes IPv4 too overlaps with
    IPv4's."""
    if sk.sk_family == AF_INET6:
        return ipv6_rcv_saddr_equal(sk, sk2)
    return not sk2.sk_ipv6only and ipv4_rcv_saddr_equal(sk, sk2)


def ipv4_rcv_saddr_equal(sk: sock_common, sk2: sock_common) -> bool:
    a, b = sk.sk_rcv_saddr, sk2.sk_rcv_saddr
    return a == b or not a or not b


def ipv6_rcv_saddr_equal(sk: sock_common, sk2: sock_common) -> bool:
    """The same for ``sk`` of AF_INET6; ``sk2`` of AF_INET counts as bound to an IPv4-mapped address.  :: includes
    0.0.0.0 unless IPV6_V6ONLY is set (RFC 3493, sections 3.7 and 5.3)."""
    a = sk.sk_v6_rcv_saddr
    mapped = a >> 32 == 0xFFFF
    mapped2 = sk2.sk_family != AF_INET6 or sk2.sk_v6_rcv_saddr >> 32 == 0xFFFF
    if mapped and mapped2:
        return ipv4_rcv_saddr_equal(sk, sk2)
    if not mapped2:
        b = sk2.sk_v6_rcv_saddr
        if a == b or (not b and not (sk2.sk_ipv6only and mapped)):
            return True
    return not a and not (sk.sk_ipv6only and mapped2)


def _devices_overlap(sk: sock_common, sk2: sock_common) -> bool:
    a, b = sk.sk_bound_dev_if, sk2.sk_bound_dev_if
    return not a or not b or a == b


def inet_bind_conflict(
    sk: sock_common, sk2: sock_common, relax: bool, reuseport_ok: bool
) -> bool:
    """Whether ``sk2``, an owner of the port, keeps ``sk`` from it.  Not ``relax``: a port that shall be picked for the
    caller, so SO_REUSEADDR does not help it; not ``reuseport_ok``: nor does SO_REUSEPORT."""
    if sk is sk2 or not _devices_overlap(sk, sk2) or not inet_rcv_saddr_equal(sk, sk2):
        return False
    both_reuseport = sk.sk_reuseport and sk2.sk_reuseport
    if sk.sk_reuse and sk2.sk_reuse and sk2.sk_state != TCP_LISTEN:
        return not relax or (not reuseport_ok and both_reuseport)
    return not (reuseport_ok and both_reuseport)


def inet_csk_bind_conflict(
    sk: inet_connection_sock, tb: inet_bind_bucket, relax: bool, reuseport_ok: bool
) -> bool:
    """Whether any owner of the port conflicts.  Of one that has children only those count that could conflict, so
    owners are looked at one by one; the children of one listener share its options."""
    for sk2 in tb.owners:  # noqa: SIM110 - any() would put a generator's frames into the call tree
        if inet_bind_conflict(sk, sk2, relax, reuseport_ok):
            return True
    return False


def sk_reuseport_match(tb: inet_bind_bucket, sk: inet_connection_sock) -> bool:
    """Whether all owners have SO_REUSEPORT and so has this one."""
    return tb.fastreuseport > 0 and sk.sk_reuseport and tb.fast_rcv_saddr in (0, sk.sk_rcv_saddr)


def inet_csk_update_fastreuse(tb: inet_bind_bucket, sk: inet_connection_sock) -> None:
    """Keep the bucket's short cuts true with one more owner."""
    reuse = bool(sk.sk_reuse) and sk.sk_state != TCP_LISTEN
    if not tb.owners:
        tb.fastreuse = int(reuse)
        tb.fastreuseport = int(sk.sk_reuseport)
        tb.fast_rcv_saddr = sk.sk_rcv_saddr
        return
    if not reuse:
        tb.fastreuse = 0
    if not sk.sk_reuseport:
        tb.fastreuseport = 0
    elif not tb.fastreuseport:
        tb.fast_rcv_saddr = sk.sk_rcv_saddr


def _port_free(sk: inet_connection_sock, port: int) -> bool:
    net = sk.sk_net
    if port in net.ipv4.sysctl_local_reserved_ports:
        return False
    tb = inet_bind_bucket_find(net, port, 0)
    return tb is None or not inet_csk_bind_conflict(sk, tb, False, False)


def _scan(sk: inet_connection_sock, low: int, remaining: int, offset: int) -> int:
    """Every second port of ``remaining`` from ``low``, beginning at ``offset`` and round; 0 if none is free."""
    for step in range(0, remaining, 2):
        port = low + (offset + step) % remaining
        if _port_free(sk, port):
            return port
    return 0


def inet_csk_find_open_port(sk: inet_connection_sock) -> int:
    """A free port of the ephemeral range, or 0.  With SO_REUSEADDR one half of the range is tried before the other."""
    low, high = inet_sk_get_local_port_range(sk)
    high += 1
    halves = [(low, high)]
    if sk.sk_reuse == SK_CAN_REUSE and high - low >= 4:
        half = low + (high - low >> 2 << 1)
        halves = [(low, half), (half, high)]
    for start, end in halves:
        remaining = end - start
        if remaining > 1:
            remaining &= ~1
        offset = sk.sk_net.rng.get_random_u32_below(remaining) | 1
        port = _scan(sk, start, remaining, offset) or _scan(sk, start, remaining, offset - 1)
        if port:
            return port
    return 0


def inet_csk_get_port(sk: inet_connection_sock, snum: int) -> int:
    """Make the socket an owner of port ``snum`` (0: any free one); 0 or -EADDRINUSE.  A socket that owns it already
    (listen() asks again) passes the same check, now as a listener."""
    port = snum or inet_csk_find_open_port(sk)
    if not port:
        return -errno.EADDRINUSE
    net = sk.sk_net
    #> goto have_snum:
    tb = inet_bind_bucket_find(net, port, 0)
    if tb is None:
        #> goto tb_not_found:  tb == NULL
        tb = inet_bind_bucket_create(net, port, 0)
    elif tb.owners:
        #> goto tb_found:
        if _tb_found_conflict(sk, tb):
            return -errno.EADDRINUSE
        #> goto tb_not_found:  tb != NULL
    inet_csk_update_fastreuse(tb, sk)
    if sk.icsk_bind_hash is None:
        #> goto success:
        tb2 = inet_bind2_bucket_find(net, port, 0, sk) or inet_bind2_bucket_create(net, port, 0, sk)
        inet_bind_hash(sk, tb, tb2, port)
    return 0


def _tb_found_conflict(sk: inet_connection_sock, tb: inet_bind_bucket) -> bool:
    if tb.fastreuse > 0 and sk.sk_reuse and sk.sk_state != TCP_LISTEN:
        return False
    return not sk_reuseport_match(tb, sk) and inet_csk_bind_conflict(sk, tb, True, True)


# -- listening ---------------------------------------------------------------------------------------------------


def inet_csk_listen_start(sk: inet_connection_sock) -> int:
    """TCP_CLOSE to TCP_LISTEN; 0 or -EADDRINUSE (another socket took the port, or listens on it)."""
    reqsk_queue_alloc(sk.icsk_accept_queue)
    sk.sk_ack_backlog = 0
    inet_csk_delack_init(sk)
    #> -> set sk->sk_state = TCP_LISTEN
    inet_sk_set_state(sk, TCP_LISTEN)
    err: int = sk.sk_prot.get_port(sk, sk.sk_num)
    if not err:
        sk.inet_sport = sk.sk_num
        sk_dst_reset(sk)
        err = sk.sk_prot.hash(sk)
        if not err:
            return 0
    inet_sk_set_state(sk, TCP_CLOSE)
    return err


def inet_csk_accept(sk: inet_connection_sock, flags: int) -> Any:
    """The oldest completed connection: a tcp_sock, or -EINVAL (not listening), -EAGAIN (none is there; whoever wants to
    wait does so on sk_wq)."""
    if sk.sk_state != TCP_LISTEN:
        return -errno.EINVAL
    queue = sk.icsk_accept_queue
    if reqsk_queue_empty(queue):
        return -errno.EAGAIN
    req: Any = reqsk_queue_remove(queue, sk)
    newsk = req.sk
    req.sk = None
    if not req.tfo_listener:  # else reqsk_fastopen_remove() frees it, when the third segment has come
        reqsk_free(req)
    return newsk


def inet_csk_listen_stop(sk: inet_connection_sock) -> None:
    """The listener closes: connections that nobody accepted are reset.  Requests are left in ehash; their timers find
    the listener gone, and segments for them too."""
    queue = sk.icsk_accept_queue
    while (req := reqsk_queue_remove(queue, sk)) is not None:
        child = req.sk
        req.sk = None
        if child is not None:
            inet_child_forget(sk, req, child)
        reqsk_free(req)
    waiting = queue.fastopenq.rskq_rst_head
    while waiting:
        reqsk_put(waiting.popleft())


def inet_child_forget(sk: inet_connection_sock, req: request_sock, child: Any) -> None:
    """End a connection that no application will ever see; the peer gets a RST if it thinks that there is one."""
    child.sk_prot.disconnect(child, O_NONBLOCK)
    sock_orphan(child)
    sk.sk_net.ipv4.tcp_orphan_count += 1
    child.fastopen_rsk = None
    inet_csk_destroy_sock(child)


def inet_csk_destroy_sock(sk: inet_connection_sock) -> None:
    """The end of a socket that is closed, orphaned and in no table."""
    sk.sk_prot.destroy(sk)
    sk_stream_kill_queues(sk)
    sk.sk_net.ipv4.tcp_orphan_count -= 1
    sk_free(sk)


def inet_csk_prepare_forced_close(sk: inet_connection_sock) -> None:
    """A child that never got into the tables is going to be closed."""
    sk.sk_flags |= SOCK_DEAD
    sk.sk_num = 0
    sk.sk_net.ipv4.tcp_orphan_count += 1


# -- the half-open connection ------------------------------------------------------------------------------------


def inet_csk_route_req(sk: inet_connection_sock, fl4: flowi4, req: Any) -> rtable | None:
    """The route back to whoever sent the SYN; None (counted in OutNoRoutes) if there is none."""
    opt = req.ireq_opt
    flowi4_init_output(
        fl4,
        req.sk_bound_dev_if,
        req.ir_mark,
        sk.tos & IPTOS_RT_MASK,
        IPPROTO_TCP,
        opt.faddr if opt is not None and opt.srr else req.sk_daddr,
        req.sk_rcv_saddr,
        req.sk_dport,
        req.sk_num,
    )
    return _route(sk.sk_net, fl4, sk)


def inet_csk_route_child_sock(
    sk: inet_connection_sock, newsk: inet_connection_sock, req: Any
) -> rtable | None:
    """The route that the child is going to keep."""
    fl4 = flowi4()
    opt = req.ireq_opt
    flowi4_init_output(
        fl4,
        req.sk_bound_dev_if,
        req.ir_mark,
        sk.tos & IPTOS_RT_MASK,
        IPPROTO_TCP,
        opt.faddr if opt is not None and opt.srr else req.sk_daddr,
        req.sk_rcv_saddr,
        req.sk_dport,
        req.sk_num,
    )
    return _route(sk.sk_net, fl4, sk)


def _route(net: Stack, fl4: flowi4, sk: inet_connection_sock) -> rtable | None:
    rt = route.ip_route_output_flow(net, fl4, sk)
    if isinstance(rt, int):
        IP_INC_STATS(net, IPSTATS_MIB_OUTNOROUTES)
        return None
    return rt


def inet_csk_reqsk_queue_hash_add(sk: inet_connection_sock, req: request_sock, timeout: int) -> None:
    """A new request, its SYN-ACK about to be sent; ``timeout`` in jiffies."""
    reqsk_queue_hash_req(req, timeout)
    inet_csk_reqsk_queue_added(sk)


def reqsk_queue_hash_req(req: request_sock, timeout: int) -> None:
    net = req.sk_net
    req.rsk_timer = timer_setup(reqsk_timer_handler, req)
    mod_timer(net, req.rsk_timer, jiffies(net) + timeout)
    inet_ehash_insert(req, None)


def reqsk_queue_unlink(req: request_sock) -> bool:
    """Take a request off ehash and stop its timer; whether it was there still."""
    found = sk_nulls_del_node_init_rcu(req)
    if req.rsk_timer is not None and timer_pending(req.rsk_timer):
        del_timer(req.sk_net, req.rsk_timer)
    return found


def inet_csk_reqsk_queue_drop(sk: inet_connection_sock, req: request_sock) -> bool:
    """A request ends; whether it was in the table still (its listener's counts follow only then)."""
    return __inet_csk_reqsk_queue_drop(sk, req)


def __inet_csk_reqsk_queue_drop(sk: inet_connection_sock, req: request_sock) -> bool:
    unlinked = reqsk_queue_unlink(req)
    if unlinked:
        reqsk_queue_removed(sk.icsk_accept_queue, req)
    return unlinked


def inet_csk_reqsk_queue_drop_and_put(sk: inet_connection_sock, req: request_sock) -> None:
    """A request ends without a child."""
    inet_csk_reqsk_queue_drop(sk, req)
    reqsk_put(req)


def inet_csk_reqsk_queue_add(sk: inet_connection_sock, req: request_sock, child: Any) -> Any:
    """The child waits for accept(); None (and it is reset) if the listener has closed."""
    if sk.sk_state != TCP_LISTEN:
        inet_child_forget(sk, req, child)
        return None
    req.sk = child
    sk.icsk_accept_queue.rskq_accept_head.append(req)
    sk_acceptq_added(sk)
    return child


def inet_csk_complete_hashdance(sk: inet_connection_sock, child: Any, req: request_sock, own_req: bool) -> Any:
    """The child has taken the request's place in ehash: the request moves to the accept queue.  Returns the child, or
    None if somebody else was first or the listener has closed."""
    if own_req:
        inet_csk_reqsk_queue_drop(req.rsk_listener, req)
        reqsk_queue_removed(req.rsk_listener.icsk_accept_queue, req)
        if inet_csk_reqsk_queue_add(sk, req, child) is not None:
            return child
        return None
    return None


def tcp_reqsk_timeout(req: request_sock) -> int:
    """Jiffies to the next resend: doubled each time the timer fired, at most TCP_RTO_MAX."""
    return min(req.timeout << req.num_timeout, TCP_RTO_MAX)


def inet_rtx_syn_ack(parent: inet_connection_sock, req: request_sock) -> int:
    """Send the SYN-ACK again; 0 if it left."""
    err: int = req.rsk_ops.rtx_syn_ack(parent, req)
    if not err:
        req.num_retrans += 1
    return err


def syn_ack_recalc(req: Any, max_syn_ack_retries: int, rskq_defer_accept: int) -> tuple[bool, bool]:
    """(expire, resend): whether the request's time is up, and whether this time-out sends a SYN-ACK.  A request
    whose bare ACK was dropped (TCP_DEFER_ACCEPT) stays silent until the deferral is nearly over."""
    expire = req.num_timeout >= max_syn_ack_retries
    if not rskq_defer_accept:
        return expire, True
    expire = expire and (not req.acked or req.num_timeout >= rskq_defer_accept)
    return expire, not req.acked or req.num_timeout >= rskq_defer_accept - 1


def _max_syn_ack_retries(sk: inet_connection_sock, queue: request_sock_queue) -> int:
    """How often a request may be resent now, given how full the SYN queue is."""
    retries = sk.icsk_syn_retries or sk.sk_net.ipv4.sysctl_tcp_synack_retries
    qlen = reqsk_queue_len(queue)
    if qlen << 1 > max(8, sk.sk_max_ack_backlog):
        young = reqsk_queue_len_young(queue) << 1
        while retries > 2 and qlen >= young:
            retries -= 1
            young <<= 1
    return retries


def reqsk_timer_handler(req: request_sock) -> None:
    """The peer has not answered the SYN-ACK: send it again, or give up."""
    sk_listener = req.rsk_listener
    if sk_listener.sk_state == TCP_LISTEN and _reqsk_retry(sk_listener, req):
        net = req.sk_net
        assert req.rsk_timer is not None
        mod_timer(net, req.rsk_timer, jiffies(net) + tcp_reqsk_timeout(req))
        return
    inet_csk_reqsk_queue_drop_and_put(sk_listener, req)


def _reqsk_retry(sk_listener: inet_connection_sock, req: Any) -> bool:
    """Whether the request lives on."""
    queue = sk_listener.icsk_accept_queue
    retries = _max_syn_ack_retries(sk_listener, queue)
    expire, resend = syn_ack_recalc(req, retries, queue.rskq_defer_accept)
    req.rsk_ops.syn_ack_timeout(req)
    if expire or (resend and inet_rtx_syn_ack(sk_listener, req) and not req.acked):
        return False
    if req.num_timeout == 0:
        queue.young -= 1
    req.num_timeout += 1
    return True


# -- the child ---------------------------------------------------------------------------------------------------




def _inet_copy(newsk: inet_connection_sock, sk: inet_connection_sock) -> None:
    """What a child takes over of struct inet_sock and struct inet_connection_sock."""
    newsk.tos = sk.tos
    newsk.rcv_tos = sk.rcv_tos
    newsk.uc_ttl = sk.uc_ttl
    newsk.mc_ttl = sk.mc_ttl
    newsk.mc_all, newsk.mc_addr = sk.mc_all, sk.mc_addr
    newsk.uc_index = sk.uc_index
    newsk.local_port_range = sk.local_port_range
    newsk.bind_address_no_port = sk.bind_address_no_port
    newsk.recverr_rfc4884 = sk.recverr_rfc4884
    newsk.mc_loop = sk.mc_loop
    newsk.min_ttl = sk.min_ttl
    newsk.pmtudisc = sk.pmtudisc
    newsk.recverr = sk.recverr
    newsk.freebind = sk.freebind
    newsk.transparent = sk.transparent
    newsk.cmsg_flags = sk.cmsg_flags
    newsk.icsk_af_ops = sk.icsk_af_ops
    newsk.icsk_ca_ops = sk.icsk_ca_ops
    newsk.icsk_ca_setsockopt = sk.icsk_ca_setsockopt
    newsk.icsk_delack_max = sk.icsk_delack_max
    newsk.icsk_pmtu_cookie = sk.icsk_pmtu_cookie
    newsk.icsk_rto_min = sk.icsk_rto_min
    newsk.icsk_sync_mss = sk.icsk_sync_mss
    newsk.icsk_syn_retries = sk.icsk_syn_retries
    newsk.icsk_user_timeout = sk.icsk_user_timeout


def inet_csk_clone_lock(sk: inet_connection_sock, req: Any) -> Any:
    """The child of a listener for a request: the listener's options, the request's ports, no timers, in
    TCP_SYN_RECV."""
    newsk = sk_clone_lock(sk)
    _inet_copy(newsk, sk)
    newsk.sk_state = req.sk_state
    inet_sk_set_state(newsk, TCP_SYN_RECV)
    newsk.sk_dport = req.sk_dport
    newsk.sk_num = req.sk_num
    newsk.inet_sport = req.sk_num
    newsk.sk_mark = req.ir_mark
    newsk.sk_write_space = sk_stream_write_space
    return newsk


# -- timers ------------------------------------------------------------------------------------------------------


def inet_csk_init_xmit_timers(
    sk: inet_connection_sock,
    retransmit_handler: Callable[[Any], None],
    delack_handler: Callable[[Any], None],
    keepalive_handler: Callable[[Any], None],
) -> None:
    """The three timers of a connection; each handler gets the socket."""
    sk.icsk_retransmit_timer = timer_setup(retransmit_handler, sk)
    sk.icsk_delack_timer = timer_setup(delack_handler, sk)
    sk.sk_timer = timer_setup(keepalive_handler, sk)
    sk.icsk_pending = sk.icsk_ack.pending = 0


def inet_csk_clear_xmit_timers(sk: inet_connection_sock) -> None:
    sk.icsk_pending = sk.icsk_ack.pending = 0
    for timer in (sk.icsk_retransmit_timer, sk.icsk_delack_timer, sk.sk_timer):
        if timer.armed:
            sk_stop_timer(sk, timer)


def inet_csk_delete_keepalive_timer(sk: inet_connection_sock) -> None:
    sk_stop_timer(sk, sk.sk_timer)


def inet_csk_reset_keepalive_timer(sk: inet_connection_sock, when: int) -> None:
    """``when`` in jiffies from now."""
    sk_reset_timer(sk, sk.sk_timer, jiffies(sk.sk_net) + when)


# -- routes of a connection --------------------------------------------------------------------------------------


def inet_csk_rebuild_route(sk: inet_connection_sock) -> rtable | None:
    """The connection's route looked up anew and kept."""
    fl4 = flowi4()
    opt = sk.inet_opt
    daddr = opt.faddr if opt is not None and opt.srr else sk.sk_daddr
    flowi4_init_output(
        fl4, sk.sk_bound_dev_if, sk.sk_mark, sk.tos & IPTOS_RT_MASK, IPPROTO_TCP, daddr,
        sk.inet_saddr, sk.sk_dport, sk.inet_sport,
    )
    rt = route.ip_route_output_flow(sk.sk_net, fl4, sk)
    if isinstance(rt, int):
        return None
    sk.sk_dst_cache = rt
    return rt


def inet_csk_update_pmtu(sk: inet_connection_sock, mtu: int) -> rtable | None:
    """A router said that the path takes ``mtu`` bytes at most; the route that knows it now, or None."""
    dst = sk.sk_dst_cache or inet_csk_rebuild_route(sk)
    if dst is None:
        return None
    dst.ops.update_pmtu(dst, sk, None, mtu)
    dst = dst.ops.check(dst, 0)
    if dst is None:
        return inet_csk_rebuild_route(sk)
    assert isinstance(dst, rtable)
    return dst
