# SPDX-License-Identifier: GPL-2.0-or-later
"""Notifications that wait: VIRTIO_NET_F_NOTF_COAL and VIRTIO_NET_F_VQ_NOTF_COAL (virtio 1.3, section 5.1.6.5.9).

A driver says for its transmit and its receive queues, or for one queue, how long a notification may wait
(`max_usecs`), and for how many packets (`max_packets`). What they decide here:

* The first packet that nobody was told of starts the queue's timer of `max_usecs`; the notification goes when it ends,
  or with the packet that makes `max_packets`, 0 being no limit.
* With `max_usecs` 0 nothing waits, whatever `max_packets` says: a last packet would be told of never.
* A receive queue whose driver has no buffers left is notified at once, since what waits for buffers would wait longer.
* Whether the driver wants the notification is asked when it goes (ring.needs_signal(), for all packets since the last).
* The clock is the event loop's: under asyncio a timer ends up to a millisecond late, so that `max_usecs` of 50 holds
  notifications of one turn of the loop together, and no longer.

Whoever has the rings calls `add()` for packets and asks `due()` before it notifies; `tell` is called when a timer ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from devmodel.virtio.ctrl import Coalescing

if TYPE_CHECKING:
    from devmodel.vhost_user.server import DeviceLoop, Timer


class Coalescer:
    """Of one device. `active` is False while no queue's notifications may wait: then nobody need call anything."""

    def __init__(self, loop: DeviceLoop, tell: Callable[[int], object]) -> None:
        self.active = False
        self._loop = loop
        self._tell = tell
        self._of: Mapping[int, Coalescing] = {}
        self._held: dict[int, int] = {}  # packets that the driver was not told of, by queue
        self._timers: dict[int, Timer] = {}
        self._urgent: set[int] = set()

    def use(self, parameters: Mapping[int, Coalescing]) -> None:
        """From now on, by queue; what waits under others is told of now."""
        if parameters == self._of:
            return
        self._of = dict(parameters)
        self.active = any(one.max_usecs for one in parameters.values())
        for index in list(self._timers):
            self._expired(index)

    def add(self, index: int, packets: int) -> None:
        """The driver is to be told of so many more."""
        self._held[index] = self._held.get(index, 0) + packets

    def hurry(self, index: int) -> None:
        """What waits is told of now, and the next notification of that queue waits for nothing."""
        if index in self._timers:
            self._expired(index)
        self._urgent.add(index)

    def due(self, index: int) -> bool:
        """Whether to notify now; otherwise a timer runs."""
        limits = self._of.get(index)
        held = self._held.get(index, 0)
        if limits is None or not limits.max_usecs or not held or index in self._urgent:
            return self._now(index)
        if limits.max_packets and held >= limits.max_packets:
            return self._now(index)
        if index not in self._timers:
            self._timers[index] = self._loop.call_later(limits.max_usecs / 1e6, lambda: self._expired(index))
        return False

    def _now(self, index: int) -> bool:
        self.forget(index)
        return True

    def forget(self, index: int) -> None:
        """Nothing waits: it was told of, or the queue stopped."""
        self._held.pop(index, None)
        self._urgent.discard(index)
        timer = self._timers.pop(index, None)
        if timer is not None:
            timer.cancel()

    def _expired(self, index: int) -> None:
        self.forget(index)
        self._tell(index)

    def stop(self) -> None:
        """The driver is gone."""
        for index in list(self._timers):
            self.forget(index)
        self._held.clear()
        self._urgent.clear()
        self._of = {}
        self.active = False
