# SPDX-License-Identifier: GPL-2.0-or-later
"""Two Ports joined by a wire in memory: what one sends the other receives. For tests and simulations.

Nothing is delivered inside `send()` or `flush()`, since two stacks that answer each other would recurse
without end: `flush()` puts the frames on the wire, `Loopback.pump()` delivers until the wire is empty.
Frames and headers arrive as they were sent, unless the other end's offloads, which are chosen by whoever makes
the pair, do not allow that: then they arrive finished, as everywhere (offload.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from devmodel.netdev.offload import Train, finish
from devmodel.port import Buffer, Offloads, PortHandler, VnetHdr, deliver
from devmodel.virtio.spec import MAX_GSO_FRAME

FULL_OFFLOADS = Offloads(
    csum=True, tso4=True, tso6=True, ecn=True, max_frame=MAX_GSO_FRAME, uso4=True, uso6=True, ufo=True
)
_Frame = tuple[VnetHdr | None, bytes]


class LoopbackPort:
    """One end. `offloads` is what the other end accepts; `mtu` is only told."""

    def __init__(self, name: str, offloads: Offloads, mtu: int, flushed: Callable[[], None]) -> None:
        self.name = name
        self.mtu = mtu
        self._offloads = offloads
        self._up = True
        self._handler: PortHandler | None = None
        self._queued: list[_Frame] = []
        self._wire: list[_Frame] = []
        self._flushed = flushed
        self._count = {"rx_frames": 0, "rx_bytes": 0, "tx_frames": 0, "tx_bytes": 0, "tx_dropped": 0}

    @property
    def link_up(self) -> bool:
        return self._up

    @property
    def offloads(self) -> Offloads:
        return self._offloads if self._up else Offloads()

    def attach(self, handler: PortHandler) -> None:
        self._handler = handler
        if self._up:
            handler.link_changed(True, self._offloads)

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        train: Train = [parts]
        if hdr is not None and not self.offloads.takes(hdr, parts):
            hdr, train = None, finish(hdr, parts)
        sent = self._up and bool(train)
        if not sent:
            self._count["tx_dropped"] += 1
            return False
        for one in train:
            sent &= self._queue(hdr, b"".join(one))
        return sent

    def _queue(self, hdr: VnetHdr | None, frame: bytes) -> bool:
        if len(frame) > MAX_GSO_FRAME:
            self._count["tx_dropped"] += 1
            return False
        self._count["tx_frames"] += 1
        self._count["tx_bytes"] += len(frame)
        self._queued.append((None if hdr is None else VnetHdr(*hdr.astuple()), frame))
        return True

    def flush(self) -> None:
        if self._queued:
            self._wire += self._queued
            self._queued = []
            self._flushed()

    def stats(self) -> dict[str, int]:
        return dict(self._count)

    def close(self) -> None:
        self.set_link(False)

    def set_link(self, up: bool, offloads: Offloads | None = None) -> None:
        """Pull or plug this end; plugging may announce other offloads."""
        if offloads is not None:
            self._offloads = offloads
        changed = up != self._up or offloads is not None
        self._up = up
        if not up:
            self._queued = []
        if changed and self._handler is not None:
            self._handler.link_changed(up, self.offloads)

    def take(self) -> list[_Frame]:
        """The frames that this end put on the wire."""
        wire, self._wire = self._wire, []
        return wire

    def deliver(self, frames: Sequence[_Frame]) -> None:
        """Hand frames to this end's handler as one batch."""
        if self._handler is None or not self._up:
            return
        self._count["rx_frames"] += len(frames)
        self._count["rx_bytes"] += sum(len(frame) for _, frame in frames)
        faults: list[Exception] = []
        deliver(self._handler, frames, faults.append)
        self.flush()
        if faults:  # of a test's own code: it has to be seen
            raise faults[0]


class Loopback:
    """The pair `a` and `b`. With `call_soon`, a flush schedules `pump()` there; without, the test pumps."""

    def __init__(
        self,
        *,
        a: Offloads = FULL_OFFLOADS,
        b: Offloads = FULL_OFFLOADS,
        mtu: int = 1500,
        call_soon: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        self._call_soon = call_soon
        self._scheduled = False
        self.a = LoopbackPort("a", a, mtu, self._flushed)
        self.b = LoopbackPort("b", b, mtu, self._flushed)

    def _flushed(self) -> None:
        if self._call_soon is not None and not self._scheduled:
            self._scheduled = True
            self._call_soon(self.pump)

    def pump(self, rounds: int = 1000) -> int:
        """Deliver both ways until nobody answers, or `rounds` are over; how many frames went."""
        self._scheduled = False
        moved = 0
        for _ in range(rounds):
            to_b, to_a = self.a.take(), self.b.take()
            if not to_b and not to_a:
                return moved
            moved += len(to_b) + len(to_a)
            if to_b:
                self.b.deliver(to_b)
            if to_a:
                self.a.deliver(to_a)
        return moved
