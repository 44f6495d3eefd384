# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures what passes a Port: frames, bytes, segments, how large frames and batches are, rates since last
asked.

It sees frames as they cross the port: `frames` counts a 64 KB TSO frame once, `segments` as what it will
be on a wire. `size_histogram` has, for each power of two, how many frames are that large or larger, up to
the next power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from devmodel.port import Buffer, Offloads, Port, PortHandler, VnetHdr


@dataclass(frozen=True, slots=True)
class Rate:
    """What went one way between two calls of `MeterPort.rates()`, per second."""

    frames: float
    bytes: float


class _Way:
    """One direction's counts."""

    __slots__ = ("batch", "batches", "bytes", "frames", "gso", "largest_batch", "segments", "sizes")

    def __init__(self) -> None:
        self.frames = self.bytes = self.segments = self.gso = 0
        self.batch = self.batches = self.largest_batch = 0
        self.sizes = [0] * 18

    def count(self, hdr: VnetHdr | None, size: int) -> None:
        self.frames += 1
        self.bytes += size
        self.batch += 1
        self.sizes[min(size.bit_length(), 17)] += 1
        if hdr is not None and hdr.gso_type and hdr.gso_size:
            self.gso += 1
            self.segments += max(1, -(-(size - hdr.hdr_len) // hdr.gso_size))
        else:
            self.segments += 1

    def end_batch(self) -> None:
        if self.batch:
            self.batches += 1
            self.largest_batch = max(self.largest_batch, self.batch)
            self.batch = 0

    def asdict(self) -> dict[str, int]:
        names = ("frames", "bytes", "segments", "gso", "batches", "largest_batch")
        return {name: getattr(self, name) for name in names}


class MeterPort:
    """A Port round `inner` that counts. `clock` gives seconds and serves `rates()` only."""

    def __init__(self, inner: Port, clock: Callable[[], float]) -> None:
        self.inner = inner
        self.name = inner.name
        self._clock = clock
        self._handler: PortHandler | None = None
        self._rx = _Way()
        self._tx = _Way()
        self._mark = (clock(), (0, 0), (0, 0))

    @property
    def link_up(self) -> bool:
        return self.inner.link_up

    @property
    def offloads(self) -> Offloads:
        return self.inner.offloads

    def attach(self, handler: PortHandler) -> None:
        self._handler = handler
        self.inner.attach(self)

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        sent = self.inner.send(hdr, parts)
        if sent:
            self._tx.count(hdr, sum(map(len, parts)))
        return sent

    def flush(self) -> None:
        self._tx.end_batch()
        self.inner.flush()

    def stats(self) -> dict[str, int]:
        """The inner port's counters and meter_{rx,tx}_{frames,bytes,segments,gso,batches,largest_batch}."""
        stats = self.inner.stats()
        for name, way in (("rx", self._rx), ("tx", self._tx)):
            stats |= {f"meter_{name}_{key}": value for key, value in way.asdict().items()}
        return stats

    def size_histogram(self, direction: str) -> dict[int, int]:
        """Lower bound in bytes (a power of two) -> frames; `direction` is "rx" or "tx"."""
        way = {"rx": self._rx, "tx": self._tx}[direction]
        return {1 << bits >> 1: number for bits, number in enumerate(way.sizes) if number}

    def rates(self) -> tuple[Rate, Rate]:
        """(rx, tx) since the last call, or since the start."""
        now = self._clock()
        then, old_rx, old_tx = self._mark
        new_rx, new_tx = (self._rx.frames, self._rx.bytes), (self._tx.frames, self._tx.bytes)
        self._mark = (now, new_rx, new_tx)
        elapsed = now - then
        if elapsed <= 0:
            return Rate(0.0, 0.0), Rate(0.0, 0.0)
        return _rate(old_rx, new_rx, elapsed), _rate(old_tx, new_tx, elapsed)

    def close(self) -> None:
        self.inner.close()

    # -- PortHandler, for the inner port ----------------------------------------------------------------

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self._rx.count(hdr, len(frame))
        if self._handler is not None:
            self._handler.frame_received(hdr, frame)

    def batch_done(self) -> None:
        self._rx.end_batch()
        if self._handler is not None:
            self._handler.batch_done()

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        if self._handler is not None:
            self._handler.link_changed(up, offloads)


def _rate(old: tuple[int, int], new: tuple[int, int], elapsed: float) -> Rate:
    return Rate((new[0] - old[0]) / elapsed, (new[1] - old[1]) / elapsed)
