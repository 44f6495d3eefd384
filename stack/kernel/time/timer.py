# SPDX-License-Identifier: GPL-2.0-or-later
"""Timers: kernel/time/timer.c (the wheel) and, for nanosecond timers, kernel/time/hrtimer.c.

Theory of operation
-------------------
A heap of deadlines stands in for the wheel, with the wheel's own rounding: a timer never fires early, and a bucket of
level n is 8**n jiffies wide.  So a timer fires at the end of the bucket its expiry falls in:

    level   width      used below          level   width     used below
    0       4 ms       63 jiffies 0.25 s   4       16 s      258048   1032 s
    1       32 ms      504        2 s      5       131 s     2064384  8258 s
    2       256 ms     4032       16 s     6, 7    1049 s, 8389 s
    3       2 s        32256      129 s    (HZ = 250)

``mod_timer`` runs for every packet, nearly always to move a deadline later or by nothing.  A timer therefore has at
most one entry that counts in the heap (``queued_ns``); moving it later only writes ``when_ns``, and the entry is
pushed again when it surfaces.  ``del_timer`` leaves the entry behind; when stale entries outnumber the live ones the
heap is rebuilt.

``run_timers`` runs what was armed before it began, once: a callback that arms itself in the past (a nanosecond
timer can) is run by the next call, so no callback can make it loop for ever.  ``next_deadline`` is exact.

Jiffies start 300 s below the wrap of 32 bits, as on a booted kernel (include/linux/jiffies.h), and are not
wrapped here: ``tcp_jiffies32`` is what wraps.  The injected clock's zero is the boot of the Stack.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Any, Final

from stack.include.timer import HZ, TICK_NSEC, hrtimer, timer_list

if TYPE_CHECKING:
    from stack.stack import Stack

INITIAL_JIFFIES: Final = (1 << 32) - 300 * HZ

LVL_BITS: Final = 6
LVL_CLK_SHIFT: Final = 3
LVL_DEPTH: Final = 9
# Below LVL_START[n] jiffies ahead a timer goes to level n.
LVL_START: Final = tuple(((1 << LVL_BITS) - 1) << (n * LVL_CLK_SHIFT) for n in range(LVL_DEPTH))
_STALE_MIN: Final = 256


class timer_base:
    """All timers of a Stack: heap entries are (when_ns, serial, timer)."""

    __slots__ = ("heap", "serial", "stale")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, timer_list]] = []
        self.serial = 0
        self.stale = 0


def jiffies(net: Stack) -> int:
    """The tick count, HZ per second, never wrapped."""
    return INITIAL_JIFFIES + net.clock.now_ns() // TICK_NSEC


def tcp_jiffies32(net: Stack) -> int:
    """include/net/tcp.h: jiffies in 32 bits.  What was read last also stands in ``net.tcp_jiffies32``, for whoever
    comes after it, or after tcp_mstamp_refresh(), in the same call: a segment's way asks a dozen times."""
    net.tcp_jiffies32 = now = (INITIAL_JIFFIES + net.clock.now_ns() // TICK_NSEC) & 0xFFFFFFFF
    return now


def msecs_to_jiffies(ms: int) -> int:
    """Rounded up."""
    return (ms * HZ + 999) // 1000


def usecs_to_jiffies(us: int) -> int:
    """Rounded up."""
    return (us * HZ + 999_999) // 1_000_000


def nsecs_to_jiffies(ns: int) -> int:
    """Rounded down."""
    return ns * HZ // 1_000_000_000


def jiffies_to_msecs(j: int) -> int:
    return j * 1000 // HZ


def jiffies_to_usecs(j: int) -> int:
    return j * 1_000_000 // HZ


def timer_setup(function: Callable[[Any], None], arg: Any) -> timer_list:
    """A timer that is not armed; ``function(arg)`` when it fires (timer_setup() and from_timer() in one)."""
    return timer_list(function, arg)


def hrtimer_init(function: Callable[[Any], None], arg: Any) -> hrtimer:
    return hrtimer(function, arg)


def timer_pending(timer: timer_list) -> bool:
    return timer.armed


def _wheel_shift(delta: int) -> int:
    for level in range(1, LVL_DEPTH):
        if delta < LVL_START[level]:
            return level * LVL_CLK_SHIFT
    return (LVL_DEPTH - 1) * LVL_CLK_SHIFT


def calc_wheel_expiry(expires: int, clk: int) -> int:
    """The jiffy at which a timer for ``expires``, armed at ``clk``, really fires."""
    delta = expires - clk
    if delta < 63:
        return expires + 1 if delta >= 0 else clk + 1
    shift = _wheel_shift(delta)
    return ((expires >> shift) + 1) << shift


def mod_timer(net: Stack, timer: timer_list, expires: int) -> bool:
    """Arm or move a timer to ``expires`` (jiffies, not wrapped); returns whether it was pending."""
    was_pending = timer.armed
    if was_pending and timer.expires == expires:
        return True
    timer.expires = expires
    clk = INITIAL_JIFFIES + net.clock.now_ns() // TICK_NSEC
    delta = expires - clk
    if 0 <= delta < 63:
        when = (expires + 1 - INITIAL_JIFFIES) * TICK_NSEC
    else:
        when = (calc_wheel_expiry(expires, clk) - INITIAL_JIFFIES) * TICK_NSEC
    _enqueue(net.timers, timer, when)
    return was_pending


def _enqueue(base: timer_base, timer: timer_list, when: int) -> None:
    base.serial += 1
    timer.serial = base.serial
    timer.when_ns = when
    queued = timer.queued_ns
    if not timer.armed:
        timer.armed = True
        if queued >= 0:
            base.stale -= 1
    if queued < 0 or when < queued:
        if queued >= 0:
            base.stale += 1
        timer.queued_ns = when
        heappush(base.heap, (when, base.serial, timer))
        if base.stale > _STALE_MIN and base.stale > len(base.heap) // 2:
            _rebuild(base)


def _rebuild(base: timer_base) -> None:
    live = {id(t): t for _, _, t in base.heap if t.armed}
    for _, _, t in base.heap:
        t.queued_ns = -1
    for t in live.values():
        t.queued_ns = t.when_ns
    base.heap = [(t.when_ns, t.serial, t) for t in live.values()]
    heapify(base.heap)
    base.stale = 0


def del_timer(net: Stack, timer: timer_list) -> bool:
    """Disarm; returns whether it was pending."""
    if not timer.armed:
        return False
    timer.armed = False
    net.timers.stale += 1
    return True


def hrtimer_start(net: Stack, timer: timer_list, when_ns: int) -> None:
    """Arm a nanosecond timer for an absolute time of the clock."""
    timer.expires = when_ns
    _enqueue(net.timers, timer, when_ns)


def hrtimer_cancel(net: Stack, timer: timer_list) -> bool:
    return del_timer(net, timer)


def hrtimer_is_queued(timer: timer_list) -> bool:
    return timer.armed


def _first(base: timer_base) -> timer_list | None:
    """The live timer with the earliest deadline, left at the head of the heap."""
    heap = base.heap
    while heap:
        when, _, timer = heap[0]
        if timer.queued_ns != when or not timer.armed:
            heappop(heap)
            if timer.queued_ns == when:
                timer.queued_ns = -1
            if base.stale > 0:
                base.stale -= 1
        elif timer.when_ns > when:
            timer.queued_ns = timer.when_ns
            heapreplace(heap, (timer.when_ns, timer.serial, timer))
        else:
            return timer
    return None


def next_deadline(base: timer_base) -> int | None:
    """When the next timer fires, in ns of the clock; None if none is armed."""
    timer = _first(base)
    return None if timer is None else timer.when_ns


def run_timers(net: Stack, now_ns: int) -> int:
    """Fire everything due at ``now_ns`` that was armed before this call; returns how many fired."""
    base = net.timers
    limit = base.serial
    fired = 0
    while (timer := _first(base)) is not None and timer.when_ns <= now_ns:
        if timer.serial > limit:
            break
        heappop(base.heap)
        timer.queued_ns = -1
        timer.armed = False
        fired += 1
        timer.function(timer.arg)
    return fired
