# SPDX-License-Identifier: GPL-2.0-or-later
"""The packets of a run for whoever wants them while it runs: captures, ``vnic ladder --live``, the report, the page.

While there is a subscriber, a CapturePort stands between the stack and its port; before and after it nothing does, so
that a run that nobody looks at pays nothing.  Where something stands between that and the wire (``--loss`` and the
like) a second point, next to the wire, shows what the guest sees: it is always there then, and asleep until needed.

A packet's comment (stack.trace.packets) is made once for all subscribers.  "states" costs two look-ups in the hash
tables; "paths" has the stack traced, which slows it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from devmodel.middleware.capture import Captured, CapturePort, Point, Writer
from stack.trace.packets import PacketComments

if TYPE_CHECKING:
    from stack.trace.hub import TraceHub
    from vnic.host import Adapter

log = logging.getLogger(__name__)

Comments = Literal["none", "states", "paths"]
COMMENTS: Final[tuple[Comments, ...]] = ("none", "states", "paths")
STACK, WIRE = 0, 1  # interfaces


class Subscription:
    """What one subscriber gets, until ``end``.  A writer that raises ends it, and stops no packet: ``failed`` says
    why."""

    def __init__(self, feed: PacketFeed, writer: Writer, comments: Comments) -> None:
        self.comments = comments
        self.packets = 0
        self.failed = ""
        self._feed, self.writer = feed, writer

    def write(self, packet: Captured) -> None:
        try:
            self.writer.write(packet._replace(comment="") if self.comments == "none" else packet)
            self.packets += 1
        except OSError as error:
            self._fail(error)
        except Exception as error:
            log.exception("a watcher of packets has a fault")
            self._fail(error)

    def flush(self) -> None:
        try:
            self.writer.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failed = str(error) if isinstance(error, OSError) else repr(error)
        log.warning("a capture ends here, the traffic goes on: %s", self.failed)
        self.end()

    def end(self) -> None:
        """No more packets; the writer is closed.  A second time it does nothing."""
        if self._feed.forget(self):
            try:
                self.writer.close()
            except OSError as error:  # a buffered file tries what it holds once more
                self.failed = self.failed or str(error)


class PacketFeed:
    """Of one run."""

    def __init__(self, adapter: Adapter, hub: TraceHub, wire: CapturePort | None = None) -> None:
        """``wire`` is the sleeping point next to the wire, if anything stands between it and the stack's port."""
        self._adapter = adapter
        self._wire = wire
        self._port: CapturePort | None = None
        self._comments = PacketComments(adapter.net, adapter.dev.ifindex, hub)
        self._subscriptions: list[Subscription] = []
        self._all = _All(self._subscriptions)

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Names of the points that packets are seen at: the stack's device, and the wire where that is another."""
        name = self._adapter.dev.name
        return (name,) if self._wire is None else (name, self._wire.name)

    @property
    def watched(self) -> bool:
        """Whether there is a subscriber."""
        return bool(self._subscriptions)

    def subscribe(self, writer: Writer, comments: Comments = "none") -> Subscription:
        """Give all packets from now on to ``writer``, flushed at the end of each batch.  RuntimeError if "paths" cannot
        be had."""
        subscription = Subscription(self, writer, comments)
        self._comment([*self._subscriptions, subscription])
        self._subscriptions.append(subscription)
        if self._port is None:
            at_stack = Point(self._all, STACK)
            self._port = CapturePort(self._adapter.port, at_stack, time.time_ns, self._commenter())
            self._adapter.plug(self._port)
            if self._wire is not None:
                self._wire.writer = Point(self._all, WIRE)
        self._port.comments = self._commenter()
        return subscription

    def forget(self, subscription: Subscription) -> bool:
        """Whether it was one; with the last of them the port is the stack's own again."""
        if subscription not in self._subscriptions:
            return False
        self._subscriptions.remove(subscription)
        self._comment(self._subscriptions)
        if self._port is None:
            return True
        if self._subscriptions:
            self._port.comments = self._commenter()
            return True
        if self._adapter.port is self._port:
            self._adapter.plug(self._port.inner)
        self._port.writer = None
        self._port = None
        if self._wire is not None:
            self._wire.writer = None
        return True

    def _comment(self, subscriptions: list[Subscription]) -> None:
        """Make the comments that these want."""
        wanted = {one.comments for one in subscriptions}
        if wanted & {"states", "paths"}:
            self._comments.start(paths="paths" in wanted)
        else:
            self._comments.stop()

    def _commenter(self) -> PacketComments | None:
        return self._comments if any(one.comments != "none" for one in self._subscriptions) else None


class _All:
    """A Writer that hands on to the subscribers; closing it is not their end."""

    def __init__(self, subscriptions: list[Subscription]) -> None:
        self._subscriptions = subscriptions

    def write(self, packet: Captured) -> None:
        for one in tuple(self._subscriptions):
            one.write(packet)

    def flush(self) -> None:
        for one in tuple(self._subscriptions):
            one.flush()

    def close(self) -> None:
        """The port goes."""


class Discard:
    """A Writer that does nothing."""

    def write(self, packet: Captured) -> None:
        """A packet."""

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


class Callback(Discard):
    """A Writer that calls a function with the packets at the stack's port."""

    def __init__(self, take: Callable[[Captured], object]) -> None:
        self._take = take

    def write(self, packet: Captured) -> None:
        if packet.interface == STACK:
            self._take(packet)
