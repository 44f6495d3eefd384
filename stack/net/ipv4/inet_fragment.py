# SPDX-License-Identifier: GPL-2.0-or-later
"""The store of unfinished datagrams: net/ipv4/inet_fragment.c.

Bounds: ``fqdir.mem`` (truesize of all waiting fragments) up to ipfrag_high_thresh, 4 MiB - above it no new fragment is
taken; 30 s per datagram (ipfrag_time); MAX_QUEUES datagrams at once, since an empty queue costs memory that
truesize does not count.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from stack.include.timer import HZ, timer_list
from stack.kernel.time.timer import del_timer, jiffies, mod_timer

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

MAX_QUEUES: Final = 4096
# What a queue costs beyond its fragments: sizeof(struct ipq) on a 64-bit kernel.
QUEUE_TRUESIZE: Final = 200

INET_FRAG_FIRST_IN: Final = 1
INET_FRAG_LAST_IN: Final = 2
INET_FRAG_COMPLETE: Final = 4

# What inet_frag_queue_insert says
IPFRAG_OK: Final = 0
IPFRAG_DUP: Final = 1
IPFRAG_OVERLAP: Final = 2


class fqdir:
    """struct fqdir: all queues of one family; ``peers`` counts fragments per source for ipfrag_max_dist."""

    __slots__ = ("mem", "peers", "queues")

    def __init__(self) -> None:
        self.queues: dict[Any, Any] = {}
        self.mem = 0
        self.peers: dict[int, int] = {}


def fqdir_init(net: Stack) -> None:
    net.ipv4_fqdir = fqdir()


def inet_frag_may_create(net: Stack, fq: fqdir) -> bool:
    return fq.mem <= net.ipv4.ipfrag_high_thresh and len(fq.queues) < MAX_QUEUES


def inet_frag_insert(net: Stack, fq: fqdir, key: Any, queue: Any, timer: timer_list, seconds: int) -> None:
    fq.queues[key] = queue
    fq.mem += QUEUE_TRUESIZE
    mod_timer(net, timer, jiffies(net) + seconds * HZ)


def inet_frag_kill(net: Stack, fq: fqdir, key: Any, timer: timer_list, mem: int) -> None:
    """Take a queue out: it is complete, wrong or too old."""
    del_timer(net, timer)
    if fq.queues.pop(key, None) is not None:
        fq.mem -= QUEUE_TRUESIZE + mem


def inet_frag_queue_insert(
    fq: fqdir, starts: list[int], frags: list[tuple[int, sk_buff]], skb: sk_buff, start: int, end: int
) -> int:
    """Put the piece from ``start`` to ``end`` in its place of the two lists, which run in step (begin; end and
    fragment): IPFRAG_OK; IPFRAG_DUP if the bytes are there already; IPFRAG_OVERLAP if a part of them is."""
    at = bisect_left(starts, start)
    before_end = frags[at - 1][0] if at else 0
    next_start = starts[at] if at < len(starts) else end
    if before_end > start or next_start < end:
        return IPFRAG_DUP if _inside(starts, frags, at, start, end) else IPFRAG_OVERLAP
    starts.insert(at, start)
    frags.insert(at, (end, skb))
    fq.mem += skb.truesize
    return IPFRAG_OK


def _inside(starts: list[int], frags: list[tuple[int, sk_buff]], at: int, start: int, end: int) -> bool:
    """Whether the run of adjoining pieces round ``at`` has these bytes already."""
    if at < len(starts) and starts[at] == start:
        first = at
    elif at and frags[at - 1][0] > start:
        first = at - 1
    else:
        return False
    reach = frags[first][0]
    for i in range(first + 1, len(starts)):
        if reach >= end or starts[i] != reach:
            break
        reach = frags[i][0]
    return reach >= end
