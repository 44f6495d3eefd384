# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the stack's time comes from: a protocol, and the clock that tests turn by hand.

The stack never asks the machine for the time.  Whoever builds a ``Stack`` hands it a ``Clock``; the real one
is in ``stack.api.aio``.  All times are integers in nanoseconds since the clock's own zero, and never go back.
"""

from __future__ import annotations

from typing import Final, Protocol

NSEC_PER_USEC: Final = 1_000
NSEC_PER_MSEC: Final = 1_000_000
NSEC_PER_SEC: Final = 1_000_000_000


class Clock(Protocol):
    """A monotonic clock; ``now_ns`` may be called on every packet and has to be cheap."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary zero."""
        ...

    def real_ns(self) -> int:
        """Nanoseconds since the Unix epoch, for time stamps that people read."""
        ...


class ManualClock:
    """Virtual time: stands still until ``advance`` or ``set`` moves it forward."""

    __slots__ = ("_epoch_ns", "_now_ns")

    def __init__(self, start_ns: int = 0, epoch_ns: int = 1_700_000_000 * NSEC_PER_SEC) -> None:
        self._now_ns = start_ns
        self._epoch_ns = epoch_ns

    def now_ns(self) -> int:
        return self._now_ns

    def real_ns(self) -> int:
        return self._epoch_ns + self._now_ns

    def advance(self, delta_ns: int) -> None:
        """Move forward by ``delta_ns``; ValueError if that is negative."""
        self.set(self._now_ns + delta_ns)

    def set(self, now_ns: int) -> None:
        """Move to ``now_ns``; ValueError if that lies in the past."""
        if now_ns < self._now_ns:
            raise ValueError(f"time cannot go back from {self._now_ns} ns to {now_ns} ns")
        self._now_ns = now_ns
