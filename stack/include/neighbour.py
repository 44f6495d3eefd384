# SPDX-License-Identifier: GPL-2.0-or-later
"""struct neighbour and its table: include/net/neighbour.h.  The state machine is in stack/net/core/neighbour.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from stack.include.timer import timer_list

if TYPE_CHECKING:
    from stack.include.netdevice import net_device
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

NUD_NONE: Final = 0x00
NUD_INCOMPLETE: Final = 0x01
NUD_REACHABLE: Final = 0x02
NUD_STALE: Final = 0x04
NUD_DELAY: Final = 0x08
NUD_PROBE: Final = 0x10
NUD_FAILED: Final = 0x20
NUD_NOARP: Final = 0x40
NUD_PERMANENT: Final = 0x80
NUD_IN_TIMER: Final = NUD_INCOMPLETE | NUD_REACHABLE | NUD_DELAY | NUD_PROBE
NUD_VALID: Final = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY
NUD_CONNECTED: Final = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE

NUD_STATE_NAMES: dict[int, str] = {
    NUD_NONE: "NONE",
    NUD_INCOMPLETE: "INCOMPLETE",
    NUD_REACHABLE: "REACHABLE",
    NUD_STALE: "STALE",
    NUD_DELAY: "DELAY",
    NUD_PROBE: "PROBE",
    NUD_FAILED: "FAILED",
    NUD_NOARP: "NOARP",
    NUD_PERMANENT: "PERMANENT",
}

NEIGH_UPDATE_F_OVERRIDE: Final = 0x1
NEIGH_UPDATE_F_WEAK_OVERRIDE: Final = 0x2
NEIGH_UPDATE_F_ADMIN: Final = 0x80000000


class neigh_parms:
    """struct neigh_parms: /proc/sys/net/ipv4/neigh/*; times in jiffies, the queue in bytes of truesize."""

    __slots__ = (
        "base_reachable_time",
        "delay_probe_time",
        "gc_staletime",
        "locktime",
        "mcast_probes",
        "queue_len_bytes",
        "reachable_time",
        "retrans_time",
        "ucast_probes",
    )

    def __init__(self, hz: int) -> None:
        self.base_reachable_time = 30 * hz
        self.reachable_time = 30 * hz
        self.delay_probe_time = 5 * hz
        self.retrans_time = hz
        self.gc_staletime = 60 * hz
        self.locktime = hz
        self.queue_len_bytes = 212992
        self.ucast_probes = 3
        self.mcast_probes = 3


class neighbour:
    """struct neighbour: one address on the link of ``dev``.  ``hh`` is its ready Ethernet header (14 bytes, empty
    while ``ha`` is unknown); ``dead`` entries have left the table and are looked up anew by their routes."""

    __slots__ = (
        "arp_queue",
        "arp_queue_len_bytes",
        "confirmed",
        "dead",
        "dev",
        "ha",
        "hh",
        "nud_state",
        "primary_key",
        "probes",
        "tbl",
        "timer",
        "type",
        "updated",
        "used",
    )

    def __init__(self, tbl: neigh_table, primary_key: int, dev: net_device, now: int) -> None:
        self.tbl = tbl
        self.primary_key = primary_key
        self.dev = dev
        self.nud_state = NUD_NONE
        self.type = 0
        self.ha = b""
        self.hh = b""
        self.dead = False
        self.probes = 0
        self.used = self.updated = self.confirmed = now
        self.arp_queue: deque[sk_buff] = deque()
        self.arp_queue_len_bytes = 0
        self.timer: timer_list


class neigh_table:
    """struct neigh_table: ``hash`` maps (primary_key, ifindex) to its neighbour, oldest first."""

    __slots__ = (
        "arp_queue_len_bytes",
        "constructor",
        "error_report",
        "family",
        "gc_thresh1",
        "gc_thresh2",
        "gc_thresh3",
        "gc_work",
        "hash",
        "last_flush",
        "last_rand",
        "net",
        "parms",
        "protocol",
        "solicit",
        "stats",
    )

    def __init__(
        self,
        net: Stack,
        family: int,
        protocol: int,
        hz: int,
        constructor: Callable[[neighbour], int],
        solicit: Callable[[neighbour, sk_buff | None], None],
        error_report: Callable[[neighbour, sk_buff], None],
    ) -> None:
        self.net = net
        self.error_report = error_report
        self.family = family
        self.protocol = protocol
        self.constructor = constructor
        self.solicit = solicit
        self.parms = neigh_parms(hz)
        self.arp_queue_len_bytes = 0  # of all entries
        self.gc_thresh1 = 128
        self.gc_thresh2 = 512
        self.gc_thresh3 = 1024
        self.hash: dict[tuple[int, int], neighbour] = {}
        self.last_flush = 0
        self.last_rand = 0
        self.gc_work: timer_list
        self.stats: dict[str, int] = dict.fromkeys(
            (
                "allocs",
                "destroys",
                "lookups",
                "hits",
                "res_failed",
                "unresolved_discards",
                "table_fulls",
                "forced_gc_runs",
            ),
            0,
        )
