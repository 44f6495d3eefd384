# SPDX-License-Identifier: GPL-2.0-or-later
"""The neighbour cache: net/core/neighbour.c (RFC 1122 section 2.3.2; the states are those of RFC 4861 section 7.3).

    state        event                        next        what happens
    NONE         packet to send               INCOMPLETE  solicit (broadcast), packet waits in arp_queue
    INCOMPLETE   answer                       REACHABLE   what waits is sent
    INCOMPLETE   retrans_time, 3 times        FAILED      what waits is dropped, its sockets hear EHOSTUNREACH
    REACHABLE    reachable_time passes        STALE (or DELAY if it was used lately)
    STALE        packet to send               DELAY       the packet goes out at once
    DELAY        delay_probe_time (5 s)       PROBE       unless a confirmation came: REACHABLE
    PROBE        answer                       REACHABLE
    PROBE        retrans_time, 3 times        FAILED      solicited to its address (unicast)
    FAILED       packet to send               INCOMPLETE

Limits: ``queue_len_bytes`` of waiting packets per neighbour (the oldest is dropped, unresolved_discards), gc_thresh3
entries a table (the oldest unused one makes room, else NEIGH_CREATEFAIL).  ``reachable_time`` is drawn anew every 300 s
from 1/2 to 3/2 of base_reachable_time.  Entries that are not in use go after gc_staletime when the table is above
gc_thresh1.

Departures: no proxy entries, no netlink; ``arp_queue`` counts truesize as the kernel does.  All queues of a table
together hold ARP_QUEUES_MAX_BYTES and one packet each: the kernel has no such limit, so that there SYNs from a thousand
silent neighbours make their SYN-ACKs take gc_thresh3 times queue_len_bytes, 218 MB.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_NEIGH_DEAD,
    SKB_DROP_REASON_NEIGH_FAILED,
    SKB_DROP_REASON_NEIGH_QUEUEFULL,
)
from stack.include.neighbour import (
    NEIGH_UPDATE_F_ADMIN,
    NEIGH_UPDATE_F_OVERRIDE,
    NEIGH_UPDATE_F_WEAK_OVERRIDE,
    NUD_CONNECTED,
    NUD_DELAY,
    NUD_FAILED,
    NUD_IN_TIMER,
    NUD_INCOMPLETE,
    NUD_NOARP,
    NUD_NONE,
    NUD_PERMANENT,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
    NUD_VALID,
    neigh_table,
    neighbour,
)
from stack.include.timer import HZ
from stack.kernel.time.timer import del_timer, jiffies, mod_timer, timer_setup
from stack.net.core import dev as net_core_dev
from stack.net.core import skbuff
from stack.net.ethernet import eth

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.include.sk_buff import sk_buff

ARP_QUEUES_MAX_BYTES: Final = 8 * 212992
_NUD_KEEP: Final = NUD_PERMANENT | NUD_NOARP


def neigh_table_init(tbl: neigh_table) -> None:
    """Start the table's housekeeping (neigh_periodic_work), which runs only while there are entries."""
    tbl.last_flush = tbl.last_rand = jiffies(tbl.net)
    tbl.parms.reachable_time = neigh_rand_reach_time(tbl)
    tbl.gc_work = timer_setup(neigh_periodic_work, tbl)


def neigh_rand_reach_time(tbl: neigh_table) -> int:
    base = tbl.parms.base_reachable_time
    return tbl.net.rng.get_random_u32_below(base) + base // 2 if base else 0


# -- look-up -----------------------------------------------------------------------------------------------------------


def neigh_lookup(tbl: neigh_table, key: int, dev: net_device) -> neighbour | None:
    tbl.stats["lookups"] += 1
    neigh = tbl.hash.get((key, dev.ifindex))
    if neigh is not None:
        tbl.stats["hits"] += 1
    return neigh


def neigh_create(tbl: neigh_table, key: int, dev: net_device) -> neighbour | None:
    """The entry, made if need be; None if the table is full of entries in use or the key has no neighbour."""
    neigh = tbl.hash.get((key, dev.ifindex))
    if neigh is not None:
        return neigh
    if len(tbl.hash) >= tbl.gc_thresh2 and not _neigh_make_room(tbl):
        tbl.stats["table_fulls"] += 1
        return None
    neigh = neighbour(tbl, key, dev, jiffies(tbl.net))
    neigh.timer = timer_setup(neigh_timer_handler, neigh)
    # A fresh entry has never been confirmed: older than anything reachable_time allows.
    neigh.confirmed = neigh.updated - 2 * tbl.parms.base_reachable_time
    if tbl.constructor(neigh):
        return None
    tbl.stats["allocs"] += 1
    tbl.hash[(key, dev.ifindex)] = neigh
    if not tbl.gc_work.armed:
        mod_timer(tbl.net, tbl.gc_work, jiffies(tbl.net) + tbl.parms.base_reachable_time // 2)
    return neigh


def _neigh_make_room(tbl: neigh_table) -> bool:
    """neigh_forced_gc(): above gc_thresh2 the unused entries of the last 5 s ago go, above gc_thresh3 any unused."""
    now = jiffies(tbl.net)
    full = len(tbl.hash) >= tbl.gc_thresh3
    if not full and now - tbl.last_flush < 5 * HZ:
        return True
    tbl.last_flush = now
    tbl.stats["forced_gc_runs"] += 1
    for neigh in list(tbl.hash.values()):
        if len(tbl.hash) < tbl.gc_thresh2:
            break
        idle = neigh.nud_state in (NUD_FAILED, NUD_NONE) or (
            not neigh.nud_state & (_NUD_KEEP | NUD_IN_TIMER) and now - neigh.updated > 5 * HZ
        )
        if idle:
            neigh_remove_one(neigh)
    return len(tbl.hash) < tbl.gc_thresh3


def neigh_remove_one(neigh: neighbour) -> None:
    """Take the entry out of the table; routes that point to it look again."""
    tbl = neigh.tbl
    neigh.dead = True
    del_timer(tbl.net, neigh.timer)
    _neigh_purge(neigh, SKB_DROP_REASON_NEIGH_DEAD)
    tbl.hash.pop((neigh.primary_key, neigh.dev.ifindex), None)
    tbl.stats["destroys"] += 1


def neigh_periodic_work(tbl: neigh_table) -> None:
    """Every half base_reachable_time: a new random reachable_time now and then, and what is stale long enough goes."""
    now = jiffies(tbl.net)
    if now - tbl.last_rand > 300 * HZ:
        tbl.last_rand = now
        tbl.parms.reachable_time = neigh_rand_reach_time(tbl)
    if len(tbl.hash) >= tbl.gc_thresh1:
        for neigh in list(tbl.hash.values()):
            if neigh.nud_state & (NUD_PERMANENT | NUD_IN_TIMER):
                continue
            used = max(neigh.used, neigh.confirmed)
            if neigh.nud_state == NUD_FAILED or now - used > tbl.parms.gc_staletime:
                neigh_remove_one(neigh)
    if any(not n.nud_state & _NUD_KEEP for n in tbl.hash.values()):
        mod_timer(tbl.net, tbl.gc_work, now + tbl.parms.base_reachable_time // 2)


# -- sending -----------------------------------------------------------------------------------------------------------


def neigh_output(neigh: neighbour, skb: sk_buff) -> int:
    """include/net/neighbour.h: with the ready header if the entry is connected, else through resolution."""
    if neigh.nud_state & NUD_CONNECTED:
        return neigh_connected_output(neigh, skb)
    return neigh_resolve_output(neigh, skb)


def neigh_connected_output(neigh: neighbour, skb: sk_buff) -> int:
    _push_hh(neigh, skb)
    return net_core_dev.dev_queue_xmit(skb)


def neigh_resolve_output(neigh: neighbour, skb: sk_buff) -> int:
    """Send if the link address is known, else queue; 0, or a negative errno when dropped."""
    if neigh_event_send(neigh, skb):
        return 0 if not neigh.dead else -errno.EINVAL
    _push_hh(neigh, skb)
    return net_core_dev.dev_queue_xmit(skb)


def _push_hh(neigh: neighbour, skb: sk_buff) -> None:
    head = skb.head
    assert isinstance(head, bytearray)
    data = skb.data - 14
    if data < 0:
        raise ValueError("no room for an Ethernet header in front of the packet")
    head[data : skb.data] = neigh.hh
    skb.data = skb.mac_header = data
    skb.len += 14


def neigh_event_send(neigh: neighbour, skb: sk_buff | None) -> bool:
    """True if the packet (if any) was queued or dropped, False if it may go now."""
    neigh.used = jiffies(neigh.tbl.net)
    if neigh.nud_state & (NUD_CONNECTED | NUD_DELAY | NUD_PROBE):
        return False
    return __neigh_event_send(neigh, skb)


def __neigh_event_send(neigh: neighbour, skb: sk_buff | None) -> bool:
    net = neigh.tbl.net
    now = jiffies(net)
    if neigh.dead:
        if skb is not None:
            skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NEIGH_DEAD)
        return True
    probe = False
    if not neigh.nud_state & (NUD_STALE | NUD_INCOMPLETE):
        parms = neigh.tbl.parms
        if not parms.mcast_probes:
            neigh.nud_state = NUD_FAILED
            neigh.updated = now
            if skb is not None:
                skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_NEIGH_FAILED)
            return True
        neigh.probes = parms.ucast_probes
        neigh.nud_state = NUD_INCOMPLETE
        neigh.updated = now
        mod_timer(net, neigh.timer, now + max(parms.retrans_time, HZ // 100))
        probe = True
    elif neigh.nud_state & NUD_STALE:
        neigh.nud_state = NUD_DELAY
        neigh.updated = now
        mod_timer(net, neigh.timer, now + neigh.tbl.parms.delay_probe_time)
    waits = neigh.nud_state == NUD_INCOMPLETE
    if waits and skb is not None:
        _neigh_enqueue(neigh, skb)
    if probe:
        neigh_probe(neigh)
    return waits


def _neigh_enqueue(neigh: neighbour, skb: sk_buff) -> None:
    limit = neigh.tbl.parms.queue_len_bytes
    queue = neigh.arp_queue
    tbl = neigh.tbl
    size = skb.truesize
    while queue and (
        neigh.arp_queue_len_bytes + size > limit or tbl.arp_queue_len_bytes + size > ARP_QUEUES_MAX_BYTES
    ):
        old = queue.popleft()
        neigh.arp_queue_len_bytes -= old.truesize
        tbl.arp_queue_len_bytes -= old.truesize
        tbl.stats["unresolved_discards"] += 1
        skbuff.kfree_skb_reason(old, SKB_DROP_REASON_NEIGH_QUEUEFULL)
    queue.append(skb)
    neigh.arp_queue_len_bytes += size
    tbl.arp_queue_len_bytes += size


def neigh_probe(neigh: neighbour) -> None:
    """Send one solicitation, for the first packet that waits."""
    neigh.probes += 1
    neigh.tbl.solicit(neigh, neigh.arp_queue[0] if neigh.arp_queue else None)


def neigh_max_probes(neigh: neighbour) -> int:
    parms = neigh.tbl.parms
    return parms.ucast_probes + (0 if neigh.nud_state & NUD_PROBE else parms.mcast_probes)


# -- time --------------------------------------------------------------------------------------------------------------


def neigh_timer_handler(neigh: neighbour) -> None:
    """One timer drives REACHABLE, DELAY and the probing states; see the table at the head of the file."""
    net = neigh.tbl.net
    now = jiffies(net)
    if not neigh.nud_state & NUD_IN_TIMER:
        return
    when = now + HZ
    if neigh.nud_state & (NUD_REACHABLE | NUD_DELAY):
        when = _neigh_aged(neigh, now)
    else:
        when = now + max(neigh.tbl.parms.retrans_time, HZ // 100)
    if neigh.nud_state & (NUD_INCOMPLETE | NUD_PROBE) and neigh.probes >= neigh_max_probes(neigh):
        neigh.nud_state = NUD_FAILED
        neigh.updated = now
        neigh_invalidate(neigh)
        return
    if neigh.nud_state & NUD_IN_TIMER:
        mod_timer(net, neigh.timer, max(when, now + HZ // 100))
    if neigh.nud_state & (NUD_INCOMPLETE | NUD_PROBE):
        neigh_probe(neigh)


def _neigh_aged(neigh: neighbour, now: int) -> int:
    """The next state of a REACHABLE or DELAY entry, and when to look again."""
    parms = neigh.tbl.parms
    if neigh.nud_state & NUD_REACHABLE:
        if now <= neigh.confirmed + parms.reachable_time:
            return neigh.confirmed + parms.reachable_time
        recent = now <= neigh.used + parms.delay_probe_time
        neigh.nud_state = NUD_DELAY if recent else NUD_STALE
        neigh.updated = now
        return now + parms.delay_probe_time
    neigh.updated = now
    if now <= neigh.confirmed + parms.delay_probe_time:
        neigh.nud_state = NUD_REACHABLE
        return neigh.confirmed + parms.reachable_time
    neigh.nud_state = NUD_PROBE
    neigh.probes = 0
    return now + max(parms.retrans_time, HZ // 100)


def neigh_invalidate(neigh: neighbour) -> None:
    """Nobody answered: tell the senders of what waits, then drop it."""
    tbl = neigh.tbl
    tbl.stats["res_failed"] += 1
    for skb in list(neigh.arp_queue):
        tbl.error_report(neigh, skb)
    _neigh_purge(neigh, SKB_DROP_REASON_NEIGH_FAILED)


def _neigh_purge(neigh: neighbour, reason: int) -> None:
    while neigh.arp_queue:
        skbuff.kfree_skb_reason(neigh.arp_queue.popleft(), reason)
    neigh.tbl.arp_queue_len_bytes -= neigh.arp_queue_len_bytes
    neigh.arp_queue_len_bytes = 0


def neigh_confirm(neigh: neighbour) -> None:
    """Something above heard from the neighbour: as good as an answer."""
    neigh.confirmed = jiffies(neigh.tbl.net)


def sock_confirm_neigh(skb: sk_buff, neigh: neighbour) -> None:
    """include/net/sock.h: a transport made progress since the last packet to this next hop."""
    skb.dst_pending_confirm = False
    neigh.confirmed = jiffies(neigh.tbl.net)
    if skb.sk is not None:
        skb.sk.sk_dst_pending_confirm = 0


# -- learning ----------------------------------------------------------------------------------------------------------


def neigh_update(neigh: neighbour, lladdr: bytes | None, new: int, flags: int) -> int:
    """What was heard about a neighbour; -EPERM if the entry is permanent and this is not the administrator."""
    net = neigh.tbl.net
    now = jiffies(net)
    old = neigh.nud_state
    if neigh.dead:
        return -errno.EINVAL
    if not flags & NEIGH_UPDATE_F_ADMIN and old & _NUD_KEEP:
        return -errno.EPERM
    if not new & NUD_VALID:
        return _neigh_update_invalid(neigh, old, new, now)
    if lladdr is None or (old & NUD_VALID and lladdr == neigh.ha):
        lladdr = neigh.ha
    if new & NUD_CONNECTED:
        neigh.confirmed = now
    if old & NUD_VALID:
        if lladdr != neigh.ha and not flags & NEIGH_UPDATE_F_OVERRIDE:
            if flags & NEIGH_UPDATE_F_WEAK_OVERRIDE and old & NUD_CONNECTED:
                lladdr, new = neigh.ha, NUD_STALE
            else:
                return 0
        elif lladdr == neigh.ha and new == NUD_STALE and not flags & NEIGH_UPDATE_F_ADMIN:
            new = old
    if new != old or lladdr != neigh.ha:
        neigh.updated = now
    _neigh_set_state(neigh, new, now)
    if lladdr != neigh.ha:
        _neigh_set_ha(neigh, lladdr)
        if not new & NUD_CONNECTED:
            neigh.confirmed = now - 2 * neigh.tbl.parms.base_reachable_time
    if not old & NUD_VALID:
        _neigh_flush_queue(neigh)
    return 0


def _neigh_update_invalid(neigh: neighbour, old: int, new: int, now: int) -> int:
    del_timer(neigh.tbl.net, neigh.timer)
    neigh.nud_state = new
    neigh.updated = now
    if old & (NUD_INCOMPLETE | NUD_PROBE) and new & NUD_FAILED:
        neigh_invalidate(neigh)
    return 0


def _neigh_set_state(neigh: neighbour, new: int, now: int) -> None:
    net = neigh.tbl.net
    if new == neigh.nud_state:
        return
    del_timer(net, neigh.timer)
    neigh.nud_state = new
    if new & NUD_REACHABLE:
        mod_timer(net, neigh.timer, now + neigh.tbl.parms.reachable_time)
    elif new & NUD_PROBE:
        neigh.probes = 0
        mod_timer(net, neigh.timer, now)


def _neigh_set_ha(neigh: neighbour, lladdr: bytes) -> None:
    neigh.ha = lladdr
    neigh.hh = lladdr + neigh.dev.dev_addr + neigh.tbl.protocol.to_bytes(2, "big")


def _neigh_flush_queue(neigh: neighbour) -> None:
    """Send what waited, in order, by whatever entry its route has now."""
    waiting = list(neigh.arp_queue)
    neigh.arp_queue.clear()
    neigh.tbl.arp_queue_len_bytes -= neigh.arp_queue_len_bytes
    neigh.arp_queue_len_bytes = 0
    for skb in waiting:
        neigh_output(neigh, skb)


def neigh_set_noarp(neigh: neighbour, lladdr: bytes) -> None:
    """An address whose link address follows from it: broadcast, multicast, loopback."""
    neigh.nud_state = NUD_NOARP
    _neigh_set_ha(neigh, lladdr)


def neigh_event_ns(tbl: neigh_table, lladdr: bytes, saddr: int, dev: net_device) -> neighbour | None:
    """A request from ``saddr``: learn it as STALE, as its sender will want an answer to more than this."""
    neigh = neigh_create(tbl, saddr, dev) if saddr else None
    if neigh is not None:
        neigh_update(neigh, lladdr, NUD_STALE, NEIGH_UPDATE_F_OVERRIDE)
    return neigh


def neigh_add_permanent(tbl: neigh_table, key: int, dev: net_device, lladdr: bytes) -> neighbour:
    """``ip neigh add ... nud permanent``; ValueError if the address is not a unicast Ethernet address or the table
    is full."""
    neigh = neigh_create(tbl, key, dev) if eth.is_valid_ether_addr(lladdr) else None
    if neigh is None:
        raise ValueError(f"no permanent neighbour {lladdr.hex(':')}: not a unicast address, or the table is full")
    neigh_update(neigh, lladdr, NUD_PERMANENT, NEIGH_UPDATE_F_OVERRIDE | NEIGH_UPDATE_F_ADMIN)
    return neigh
