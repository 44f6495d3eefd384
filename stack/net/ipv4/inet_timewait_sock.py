# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets of TIME_WAIT: net/ipv4/inet_timewait_sock.c.

A TIME_WAIT socket takes its connection's place in ehash and in the bind bucket, and leaves both when its timer fires.
Its port stays taken meanwhile.  At most tcp_max_tw_buckets of them are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stack.include.inet_timewait_sock import inet_timewait_death_row, inet_timewait_sock, tcp_timewait_sock
from stack.include.ip import INET_ECN_MASK
from stack.include.snmp import LINUX_MIB_TIMEWAITED, LINUX_MIB_TIMEWAITKILLED, NET_INC_STATS
from stack.include.sock import (
    __sk_del_bind_node,
    __sk_nulls_add_node_rcu,
    sk_add_bind_node,
    sk_nulls_del_node_init_rcu,
    sock_prot_inuse_add,
)
from stack.include.tcp_states import TCP_TIME_WAIT, TCP_TRANSITIONS, tcp_transition_text
from stack.include.timer import HZ
from stack.kernel.time.timer import del_timer, jiffies, mod_timer, timer_pending, timer_setup
from stack.net.ipv4.inet_hashtables import inet_bind2_bucket_destroy, inet_bind_bucket_destroy

if TYPE_CHECKING:
    from stack.include.inet_hashtables import inet_hashinfo


def inet_twsk_bind_unhash(tw: inet_timewait_sock) -> None:
    """Let go of the port."""
    tb, tb2 = tw.tw_tb, tw.tw_tb2
    if tb is None or tb2 is None:
        return
    __sk_del_bind_node(tw, tb.owners)
    tw.tw_tb = None
    __sk_del_bind_node(tw, tb2.deathrow)
    tw.tw_tb2 = None
    inet_bind2_bucket_destroy(tw.sk_net, tb2)
    inet_bind_bucket_destroy(tw.sk_net, tb)


def inet_twsk_kill(tw: inet_timewait_sock) -> None:
    """Out of all tables."""
    if sk_nulls_del_node_init_rcu(tw):
        inet_twsk_bind_unhash(tw)
        tw.tw_dr.tw_refcount -= 1


def inet_twsk_hashdance(tw: inet_timewait_sock, sk: Any, hashinfo: inet_hashinfo) -> None:
    """Take the connection's place in the bind bucket and in ehash."""
    tw.tw_tb = sk.icsk_bind_hash
    tw.tw_tb2 = sk.icsk_bind2_hash
    assert tw.tw_tb is not None
    assert tw.tw_tb2 is not None
    sk_add_bind_node(tw, tw.tw_tb.owners)
    sk_add_bind_node(tw, tw.tw_tb2.deathrow)
    chain = sk.sk_node
    if chain is not None and sk_nulls_del_node_init_rcu(sk):
        sock_prot_inuse_add(sk.sk_net, sk.sk_prot, -1)
        __sk_nulls_add_node_rcu(tw, chain)


def tw_timer_handler(tw: inet_timewait_sock) -> None:
    inet_twsk_kill(tw)


def inet_twsk_alloc(sk: Any, dr: inet_timewait_death_row, state: int) -> tcp_timewait_sock | None:
    """A TIME_WAIT socket with the connection's 4-tuple; None if there are too many already."""
    if dr.tw_refcount >= sk.sk_net.ipv4.sysctl_tcp_max_tw_buckets:
        return None
    tw = tcp_timewait_sock(sk.sk_net, sk.sk_family)
    tw.tw_dr = dr
    tw.sk_daddr, tw.sk_rcv_saddr = sk.sk_daddr, sk.sk_rcv_saddr
    tw.sk_v6_daddr, tw.sk_v6_rcv_saddr = sk.sk_v6_daddr, sk.sk_v6_rcv_saddr
    tw.sk_ipv6only = sk.sk_ipv6only
    tw.sk_bound_dev_if = sk.sk_bound_dev_if
    tw.sk_num, tw.sk_dport, tw.tw_sport = sk.sk_num, sk.sk_dport, sk.inet_sport
    tw.sk_reuse, tw.sk_reuseport = sk.sk_reuse, sk.sk_reuseport
    tw.sk_hash = sk.sk_hash
    tw.sk_prot = sk.sk_prot
    assert (sk.sk_state, TCP_TIME_WAIT) in TCP_TRANSITIONS, tcp_transition_text(sk.sk_state, TCP_TIME_WAIT)
    tw.sk_state = TCP_TIME_WAIT
    tw.tw_tos = sk.tos & ~INET_ECN_MASK  # what is sent from TIME_WAIT are pure ACKs
    tw.tw_substate = state
    tw.tw_transparent = sk.transparent
    tw.tw_timer = timer_setup(tw_timer_handler, tw)
    return tw


def inet_twsk_deschedule_put(tw: inet_timewait_sock) -> None:
    """End it now: its 4-tuple is wanted, or the peer reset it."""
    if timer_pending(tw.tw_timer):
        del_timer(tw.sk_net, tw.tw_timer)
    inet_twsk_kill(tw)


def inet_twsk_replaced(tw: inet_timewait_sock) -> None:
    """The same for one whose place in ehash a connecting socket has taken."""
    if timer_pending(tw.tw_timer):
        del_timer(tw.sk_net, tw.tw_timer)
    inet_twsk_bind_unhash(tw)
    tw.tw_dr.tw_refcount -= 1


def __inet_twsk_schedule(tw: inet_timewait_sock, timeo: int, rearm: bool) -> None:
    """End it in ``timeo`` jiffies; a rearmed one only if its timer still runs."""
    net = tw.sk_net
    tw.tw_kill = timeo <= 4 * HZ
    if not rearm:
        NET_INC_STATS(net, LINUX_MIB_TIMEWAITKILLED if tw.tw_kill else LINUX_MIB_TIMEWAITED)
        mod_timer(net, tw.tw_timer, jiffies(net) + timeo)
        tw.tw_dr.tw_refcount += 1
    elif timer_pending(tw.tw_timer):
        mod_timer(net, tw.tw_timer, jiffies(net) + timeo)


def inet_twsk_schedule(tw: inet_timewait_sock, timeo: int) -> None:
    __inet_twsk_schedule(tw, timeo, False)


def inet_twsk_reschedule(tw: inet_timewait_sock, timeo: int) -> None:
    __inet_twsk_schedule(tw, timeo, True)
