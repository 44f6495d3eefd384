# SPDX-License-Identifier: GPL-2.0-or-later
"""A bad wire: a Port round a Port that loses, duplicates, reorders, corrupts, delays and throttles frames.

What it decides, for each frame in each direction, in this order: is it lost; is one of its bits flipped;
is it sent twice; does it wait for its turn on a wire of limited rate; does it wait for the wire's delay;
does the next frame overtake it. Each is drawn from the random source that is handed in, time comes from
the scheduler that is handed in: same seed, same frames, same faults.

A TSO frame is up to 45 segments. With `segment=True` it is cut first, so that a loss of 2 % means
segments; what arrives then is complete frames without a header, as from a card without offloads. Without
it, faults hit whole GSO frames.

Reordering. A frame that is picked is held back and leaves after the next frame of its direction, or after
`reorder_hold` seconds if none comes.

Corruption flips one bit anywhere behind the Ethernet addresses and drops the claim that the checksum is
known: a partial checksum is completed before, or the receiver would find the damaged frame in order.

Counters: those of the inner port, and fault_{rx,tx}_{lost,corrupted,duplicated,reordered,delayed,overflow}.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from devmodel.netdev.offload import finish
from devmodel.port import Buffer, Offloads, Port, PortHandler, VnetHdr

_ETH_ADDRESSES = 12
_KINDS = ("lost", "corrupted", "duplicated", "reordered", "delayed", "overflow")


class Random(Protocol):
    """The part of random.Random that is used here."""

    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...


class Scheduler(Protocol):
    """An asyncio event loop, or a virtual one."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object: ...


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad one direction is. Probabilities are 0 to 1, times are seconds.

    `rate` is in bytes per second, 0 for no limit; `rate_queue` frames may wait for it, further ones are
    dropped. `jitter` is added to `delay`, uniformly from 0; frames do not overtake each other because of it.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_hold: float = 0.005
    corrupt: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    rate_queue: int = 1000
    segment: bool = False


_Emit = Callable[[VnetHdr | None, Sequence[Buffer]], object]


class _Line:
    """One direction. `emit` passes a frame on, `settle` ends a batch that a timer made."""

    def __init__(
        self, faults: Faults, rng: Random, scheduler: Scheduler, emit: _Emit, settle: Callable[[], object]
    ) -> None:
        self.faults = faults
        self.counters = dict.fromkeys(_KINDS, 0)
        self._rng = rng
        self._scheduler = scheduler
        self._emit = emit
        self._settle = settle
        self._held: list[tuple[VnetHdr | None, Sequence[Buffer]]] = []
        self._hold_number = 0
        self._wire_free = 0.0
        self._last_exit = 0.0
        self._waiting: deque[tuple[float, VnetHdr | None, Sequence[Buffer]]] = deque()
        self.open = True

    def put(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> None:
        """Let one frame try its luck."""
        if self.faults.segment and hdr is not None:
            for frame in finish(hdr, parts):
                self._try(None, frame)
        else:
            self._try(hdr, parts)

    def _hit(self, probability: float, kind: str) -> bool:
        if probability <= 0.0 or self._rng.random() >= probability:
            return False
        self.counters[kind] += 1
        return True

    def _try(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> None:
        faults = self.faults
        if self._hit(faults.loss, "lost"):
            return
        if faults.corrupt and self._hit(faults.corrupt, "corrupted"):
            for frame in finish(hdr, parts):
                self._route(None, self._corrupt(frame))
            return
        self._route(hdr, parts)
        if self._hit(faults.duplicate, "duplicated"):
            self._route(hdr, parts)

    def _corrupt(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        frame = bytearray().join(parts)
        room = (len(frame) - _ETH_ADDRESSES) * 8
        if room > 0:
            bit = self._rng.randrange(room)
            frame[_ETH_ADDRESSES + bit // 8] ^= 1 << bit % 8
        return [bytes(frame)]

    def _route(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> None:
        """Now, or when rate and delay let it, and never before a frame that waits already."""
        faults = self.faults
        if not (faults.delay or faults.jitter or faults.rate or self._waiting):
            self._leave(hdr, parts)
            return
        now = self._scheduler.time()
        leave = now
        if faults.rate:
            if len(self._waiting) >= faults.rate_queue:
                self.counters["overflow"] += 1
                return
            leave = self._wire_free = max(now, self._wire_free) + sum(map(len, parts)) / faults.rate
        leave += faults.delay + (faults.jitter * self._rng.random() if faults.jitter else 0.0)
        leave = self._last_exit = max(leave, self._last_exit)
        self.counters["delayed"] += 1
        self._waiting.append((leave, hdr, [b"".join(parts)]))
        if len(self._waiting) == 1:
            self._arm(now)

    def _arm(self, now: float) -> None:
        """One timer, for the first that waits: with one for each, those that are due together would leave in any order
        (asyncio's heap is not stable, and its call_later reads the clock anew)."""
        self._scheduler.call_later(self._waiting[0][0] - now, self._arrive)

    def _arrive(self) -> None:
        if not self.open:
            return
        now = max(
            self._scheduler.time(), self._waiting[0][0]
        )  # a timer may be early by the clock's resolution
        while self._waiting and self._waiting[0][0] <= now:
            _, hdr, parts = self._waiting.popleft()
            self._leave(hdr, parts)
        if self._waiting:
            self._arm(now)
        self._settle()

    def _leave(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> None:
        if not self._held and self._hit(self.faults.reorder, "reordered"):
            self._held.append((hdr, [b"".join(parts)]))
            self._hold_number += 1
            number = self._hold_number
            self._scheduler.call_later(self.faults.reorder_hold, lambda: self._release_late(number))
            return
        self._emit(hdr, parts)
        self._release()

    def _release(self) -> None:
        held, self._held = self._held, []
        for hdr, parts in held:
            self._emit(hdr, parts)

    def _release_late(self, number: int) -> None:
        if self.open and self._held and number == self._hold_number:
            self._release()
            self._settle()


class FaultPort:
    """A Port round `inner`; `rx` is the way from the guest to us, `tx` from us to the guest.

    `send()` says True for a frame that the wire loses: a sender is not told. Faults may be exchanged at
    any time (`set_faults`), as when a cable is pulled in the middle of a test.
    """

    def __init__(
        self,
        inner: Port,
        rng: Random,
        scheduler: Scheduler,
        *,
        rx: Faults | None = None,
        tx: Faults | None = None,
    ) -> None:
        self.inner = inner
        self.name = inner.name
        self._handler: PortHandler | None = None
        self._rx = _Line(rx or Faults(), rng, scheduler, self._emit_rx, self._settle_rx)
        self._tx = _Line(tx or Faults(), rng, scheduler, inner.send, inner.flush)

    def set_faults(self, *, rx: Faults | None = None, tx: Faults | None = None) -> None:
        """Exchange the faults of a direction from now on."""
        if rx is not None:
            self._rx.faults = rx
        if tx is not None:
            self._tx.faults = tx

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
        if not self.inner.link_up:
            return self.inner.send(hdr, parts)
        self._tx.put(hdr, parts)
        return True

    def flush(self) -> None:
        self.inner.flush()

    def stats(self) -> dict[str, int]:
        stats = self.inner.stats()
        for way, line in (("rx", self._rx), ("tx", self._tx)):
            stats |= {f"fault_{way}_{kind}": value for kind, value in line.counters.items()}
        return stats

    def close(self) -> None:
        self._rx.open = self._tx.open = False
        self.inner.close()

    # -- PortHandler, for the inner port ----------------------------------------------------------------

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self._rx.put(hdr, (frame,))

    def _emit_rx(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> None:
        if self._handler is not None:
            self._handler.frame_received(hdr, b"".join(parts))

    def _settle_rx(self) -> None:
        self.batch_done()
        self.inner.flush()

    def batch_done(self) -> None:
        if self._handler is not None:
            self._handler.batch_done()

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        if self._handler is not None:
            self._handler.link_changed(up, offloads)
