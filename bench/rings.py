# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.rings``: the processor time that the device's rings alone take, without guest, socket or loop.

A driver in this process fills a ring of 256; only the device's part is timed. Prints microseconds of CPU time, the best
of several rounds, for split and packed rings:

* a buffer taken and given back, in batches of 128 that are published and asked about once: by drain(), the batch
  call by which the device takes a transmit queue's buffers (VirtioNet.receive); by pop() and push(), which it uses
  for the control queue and for chains of other shapes; by drain() of a ring that writes down what is in flight;
* a frame of 60 bytes from the guest, checked and copied out by VirtioNet.receive;
* a frame of 64 KB laid into mergeable receive buffers of 1536 bytes, and into pages of 4096.

Compiled: with ``PYTHONSAFEPATH=1 PYTHONPATH=build/compiled:.``
"""

from __future__ import annotations

import argparse
import gc
import struct
import sys
import time
from collections.abc import Callable, Sequence

from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.inflight import PackedState, SplitState, queue_bytes
from devmodel.virtio.memory import GuestMemory, Region, RegionSpec
from devmodel.virtio.net import SENT, VirtioNet
from devmodel.virtio.ring import Ring
from devmodel.virtio.ring_packed import PackedRing
from devmodel.virtio.ring_split import SplitRing
from devmodel.virtio.ring_tracked import TrackedPackedRing, TrackedSplitRing
from devmodel.virtio.spec import VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED, VIRTQ_DESC_F_WRITE

NUM, BATCH = 256, 128
BUFFERS = 0x10000
MEMORY = 4 << 20
DRIVER_AREA, DEVICE_AREA = 0x4000, 0x8000
FEATURES = vf.DEVICE_FEATURES & ~vf.mask(
    vf.VIRTIO_F_RING_PACKED, vf.VIRTIO_F_IN_ORDER, vf.VIRTIO_F_NOTIFY_ON_EMPTY
)
FRESH = 0x80008000
FRAME = 60
HDR_64K = VnetHdr(1, 1, 66, 1448, 34, 16)
PARTS_64K = (bytes(66), bytes(65160))


class _Plain:
    """Memory that nobody shares."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(MEMORY))

    def close(self) -> None:
        self.view.release()


class Rig:
    """A driver and a device of one ring whose buffers have `size` bytes; `give()` is the driver's part."""

    def __init__(
        self, packed: bool, size: int, flags: int = 0, extra: int = 0, tracked: bool = False
    ) -> None:
        mapping = _Plain()
        self.view = mapping.view
        self.memory = GuestMemory([Region(RegionSpec(0, MEMORY, 0, 0), mapping)])
        self.given = 0
        self.packed = packed
        features = FEATURES | extra
        areas = (
            self.view[: 16 * NUM],
            self.view[DRIVER_AREA:][: 6 + 2 * NUM],
            self.view[DEVICE_AREA:][: 6 + 8 * NUM],
        )
        self.net = VirtioNet()
        self.net.negotiate(features)
        self.ring: Ring
        if packed:
            areas = (areas[0], areas[1][:4], areas[2][:4])
            features |= vf.mask(vf.VIRTIO_F_RING_PACKED)
            if tracked:
                state = PackedState(0, self._region(packed), NUM)
                self.ring = TrackedPackedRing(0, NUM, self.memory, areas, features, FRESH, False, state)
            else:
                self.ring = PackedRing(0, NUM, self.memory, areas, features, FRESH)
            laps = (VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED)
            self.laps = [self._table(size, lap | flags, packed=True) for lap in laps]
        else:
            self.view[: 16 * NUM] = self._table(size, flags, packed=False)
            heads = struct.pack(f"<{NUM}H", *range(NUM))
            self.view[DRIVER_AREA + 4 : DRIVER_AREA + 4 + 2 * NUM] = heads
            if tracked:
                part = SplitState(0, self._region(packed), NUM)
                self.ring = TrackedSplitRing(0, NUM, self.memory, areas, features, 0, part)
            else:
                self.ring = SplitRing(0, NUM, self.memory, areas, features, 0)

    @staticmethod
    def _region(packed: bool) -> memoryview:
        return memoryview(bytearray(queue_bytes(NUM, packed)))

    @staticmethod
    def _table(size: int, flags: int, packed: bool) -> bytes:
        ends = [(ident, flags) if packed else (flags, 0) for ident in range(NUM)]
        return b"".join(struct.pack("<QIHH", BUFFERS + 4096 * at, size, *end) for at, end in enumerate(ends))

    def give(self, count: int) -> None:
        """Make the next `count` buffers available; event suppression asks for a signal of the batch's last."""
        if self.packed:
            for at in range(self.given, self.given + count):
                slot, lap = at % NUM, at // NUM % 2
                self.view[16 * slot : 16 * slot + 16] = self.laps[lap][16 * slot : 16 * slot + 16]
        self.given += count
        if not self.packed:
            struct.pack_into("<H", self.view, DRIVER_AREA + 2, self.given & 0xFFFF)


def _timed(rig: Rig, count: int, work: Callable[[], int]) -> float:
    """CPU microseconds of each thing that `work` did; the driver refills what it took each time."""
    spent = done = 0
    clock = time.process_time_ns
    while done < count:
        began = clock()
        taken = work()
        spent += clock() - began
        done += taken
        rig.give((rig.ring.last_avail - rig.given) % NUM or NUM)
    return spent / done / 1000


def buffers(packed: bool, count: int) -> float:
    """Per buffer taken and given back by pop() and push()."""
    rig = Rig(packed, 12 + FRAME)
    rig.give(NUM)
    ring = rig.ring

    def work() -> int:
        pop, push = ring.pop, ring.push
        for _ in range(BATCH):
            chain = pop()
            assert chain is not None
            push(chain.head, 0)
        ring.publish()
        ring.needs_signal()
        return BATCH

    return _timed(rig, count, work)


def drained(packed: bool, count: int, extra: int = 0, tracked: bool = False) -> float:
    """Per buffer taken and given back by drain()."""
    rig = Rig(packed, 12 + FRAME, extra=extra, tracked=tracked)
    rig.give(NUM)
    taken = 0

    def read(readable: list[memoryview], writable: list[memoryview]) -> None:
        nonlocal taken
        taken += 1

    def work() -> int:
        before = taken
        rig.ring.drain(read, BATCH)
        rig.ring.publish()
        rig.ring.needs_signal()
        return taken - before

    return _timed(rig, count, work)


def frames(packed: bool, count: int) -> float:
    """Per frame of 60 bytes from the guest."""
    rig = Rig(packed, 12 + FRAME)
    rig.give(NUM)

    def work() -> int:
        taken = len(rig.net.receive(rig.ring, BATCH))
        rig.ring.publish()
        rig.ring.needs_signal()
        return taken

    return _timed(rig, count, work)


def merged(packed: bool, count: int, size: int) -> float:
    """Per frame of 64 KB to the guest."""
    rig = Rig(packed, size, VIRTQ_DESC_F_WRITE)
    rig.give(NUM)

    def work() -> int:
        verdict = rig.net.transmit(rig.ring, HDR_64K, PARTS_64K)
        assert verdict == SENT
        rig.ring.publish()
        rig.ring.needs_signal()
        return 1

    return _timed(rig, count, work)


MEASURES: dict[str, Callable[[bool, int], float]] = {
    "a buffer by drain()": drained,
    "the same with IN_ORDER": lambda packed, count: drained(packed, count, vf.mask(vf.VIRTIO_F_IN_ORDER)),
    "a buffer by pop() and push()": buffers,
    "drain() with what is in flight": lambda packed, count: drained(packed, count, tracked=True),
    "a 60-byte frame received": frames,
    "64 KB into buffers of 1536": lambda packed, count: merged(packed, count // 50, 1536),
    "64 KB into buffers of 4096": lambda packed, count: merged(packed, count // 50, 4096),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.rings", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    gc.collect()
    gc.freeze()
    print(f"{'':32} {'split':>8} {'packed':>8}   us of CPU time, best of {options.rounds}")
    for name, measure in MEASURES.items():
        best = [
            min(measure(packed, options.count) for _ in range(options.rounds)) for packed in (False, True)
        ]
        print(f"{name:32} {best[0]:8.3f} {best[1]:8.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
