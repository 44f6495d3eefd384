# SPDX-License-Identifier: GPL-2.0-or-later
"""struct timer_list and struct hrtimer (include/linux/timer.h, include/linux/hrtimer.h).

The wheel itself is in stack/kernel/time/timer.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

HZ: Final = 250
TICK_NSEC: Final = 1_000_000_000 // HZ
USEC_PER_JIFFY: Final = 1_000_000 // HZ


class timer_list:
    """A timer in jiffies.  ``function`` is called with ``arg`` (the object it is embedded in)."""

    __slots__ = ("arg", "armed", "expires", "function", "queued_ns", "serial", "when_ns")

    def __init__(self, function: Callable[[Any], None], arg: Any) -> None:
        self.function = function
        self.arg = arg
        self.expires = 0  # jiffies asked for
        self.armed = False
        self.when_ns = 0  # the wheel's rounded expiry
        self.queued_ns = -1  # earliest entry for it in the heap, or -1
        self.serial = 0


class hrtimer(timer_list):
    """A timer in nanoseconds, without the wheel's rounding: pacing and compressed ACKs."""

    __slots__ = ()
