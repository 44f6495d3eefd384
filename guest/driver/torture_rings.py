# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad inputs of a guest's driver: rows 30 to 47 (but 45) and 55 of docs/bad-inputs.md.

The rings run and are good; then a `Pen` writes into the transmit ring's memory what a driver must not write. Wherever
the device could take a frame out of it, an ARP request lies there, so that a frame that went through shows itself.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final

from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.spec import VIRTIO_NET_HDR, VIRTQ_DESC
from guest.driver.packed import F_AVAIL, F_NEXT, F_USED, PACKED_DESC
from guest.driver.torture import (
    BROKEN,
    BROKEN_RING,
    DROP,
    DROPPED,
    HARMLESS,
    PASSED,
    SERVE,
    SERVED,
    STALLED,
    Case,
    Good,
    Victim,
    feature,
)
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX
from guest.driver.virtqueue import Piece, Virtqueue

NEXT, WRITE, INDIRECT = 1, 2, 4
NOWHERE: Final = 1 << 50
BAD_CHAIN: Final[Good] = BROKEN_RING | DROP
"""A device that gives a bad chain back untouched does no harm, though it lets the driver go on."""
PACKED: Final = DRIVER_FEATURES | vf.mask(vf.VIRTIO_F_RING_PACKED)
CASES: Final[list[Case]] = []


Write = Callable[[Victim, "Pen", int, int], None]


class Pen:
    """Writes the memory of a split queue that was never used."""

    def __init__(self, victim: Victim, queue: Virtqueue) -> None:
        self.memory = victim.memory
        self.queue = queue
        self.num = queue.num
        self.idx = 0

    def desc(self, at: int, gpa: int, size: int, flags: int = 0, nxt: int = 0) -> None:
        self.memory.write(self.queue.desc_gpa + 16 * at, VIRTQ_DESC.pack(gpa, size, flags, nxt))

    def offer(self, head: int) -> None:
        """Into the available ring; `show()` makes it seen."""
        slot = self.queue.driver_gpa + 4 + 2 * (self.idx % self.num)
        self.memory.write(slot, struct.pack("<H", head))
        self.idx += 1

    def show(self, idx: int | None = None) -> None:
        idx = self.idx if idx is None else idx
        self.memory.write(self.queue.driver_gpa + 2, struct.pack("<H", idx & 0xFFFF))

    def given_back(self) -> int:
        """used.idx."""
        return int.from_bytes(self.memory.read(self.queue.device_gpa + 2, 2), "little")

    def moved(self) -> bool:
        """Whether the device gave anything back."""
        return self.given_back() != 0

    def table(self, *entries: tuple[int, int, int, int]) -> tuple[int, int]:
        """An indirect table: gpa and size."""
        return self.memory.put(b"".join(VIRTQ_DESC.pack(*entry) for entry in entries))


def ring(
    row: int, name: str, good: Good = BROKEN_RING, features: int = DRIVER_FEATURES, layout: str = "split"
) -> Callable[[Write], Write]:
    """A case with a transmit ring to be written: the function gets victim, pen, and where a good packet lies."""

    def put(write: Write) -> Write:
        def act(victim: Victim) -> str:
            victim.start(features, layout)
            pen = Pen(victim, victim.driver.tx)
            gpa, size = victim.memory.put(victim.packet())
            write(victim, pen, gpa, size)
            return victim.watch(pen.moved)

        CASES.append(Case(row, name, act, good))
        return write

    return put


# -- available ring: 30 to 34 ---------------------------------------------------------------------------------


@ring(30, "avail.idx runs ahead by more than the queue size")
def _ahead(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    for at in range(pen.num):
        pen.desc(at, gpa, size)
        pen.offer(at)
    pen.show(pen.num + 1)


@ring(31, "avail.idx goes backwards")
def _backwards(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size)
    pen.show(-1)


@ring(32, "a head beyond the queue")
def _head(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size)
    pen.offer(pen.num)
    pen.show()


@ring(32, "head 65535")
def _head_far(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size)
    pen.offer(0xFFFF)
    pen.show()


@ring(33, "next beyond the table", BAD_CHAIN)
def _next(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size, NEXT, pen.num)
    pen.offer(0)
    pen.show()


@ring(33, "a descriptor that is its own next", BAD_CHAIN)
def _loop(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size, NEXT, 0)
    pen.offer(0)
    pen.show()


@ring(33, "a chain that goes in a circle", BAD_CHAIN)
def _circle(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size, NEXT, 1)
    pen.desc(1, gpa, size, NEXT, 0)
    pen.offer(0)
    pen.show()


@ring(34, "one head twice at the same time", HARMLESS)
def _twice(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size)
    pen.offer(0)
    pen.offer(0)
    pen.show()


# -- descriptors: 35 to 39 ------------------------------------------------------------------------------------


@ring(35, "a readable descriptor behind a writable one", BAD_CHAIN)
def _order(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size, NEXT | WRITE, 1)
    pen.desc(1, gpa, size)
    pen.offer(0)
    pen.show()


@ring(
    36,
    "INDIRECT that was not negotiated",
    BAD_CHAIN,
    features=DRIVER_FEATURES & ~vf.mask(vf.VIRTIO_F_INDIRECT_DESC),
)
def _not_negotiated(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, *pen.table((gpa, size, 0, 0)), INDIRECT)
    pen.offer(0)
    pen.show()


@ring(36, "INDIRECT and NEXT in one descriptor", BAD_CHAIN)
def _indirect_next(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, *pen.table((gpa, size, 0, 0)), INDIRECT | NEXT, 1)
    pen.desc(1, gpa, size)
    pen.offer(0)
    pen.show()


@ring(36, "INDIRECT inside an indirect table", BAD_CHAIN)
def _nested(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    inner = pen.table((gpa, size, 0, 0))
    pen.desc(0, *pen.table((*inner, INDIRECT, 0)), INDIRECT)
    pen.offer(0)
    pen.show()


@ring(36, "an indirect table that points to itself", BAD_CHAIN)
def _self_nested(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    table, length = pen.table((gpa, size, 0, 0))
    pen.memory.write(table, VIRTQ_DESC.pack(table, length, INDIRECT, 0))
    pen.desc(0, table, length, INDIRECT)
    pen.offer(0)
    pen.show()


def _sized(name: str, length: int) -> None:
    @ring(36, name, BAD_CHAIN)
    def _write(_: Victim, pen: Pen, gpa: int, size: int) -> None:
        table, _length = pen.table(*[(gpa, size, 0, 0)] * (pen.num + 1))
        pen.desc(0, table, length, INDIRECT)
        pen.offer(0)
        pen.show()


_sized("an indirect table of 0 bytes", 0)
_sized("an indirect table of 24 bytes", 24)


@ring(36, "an indirect table with a longer chain than the queue", BAD_CHAIN)
def _long_table(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    count = pen.num + 1
    table = pen.table(*[(gpa, size, NEXT if at + 1 < count else 0, at + 1) for at in range(count)])
    pen.desc(0, *table, INDIRECT)
    pen.offer(0)
    pen.show()


@ring(36, "an indirect table outside of memory", BAD_CHAIN)
def _table_nowhere(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, NOWHERE, 16, INDIRECT)
    pen.offer(0)
    pen.show()


@ring(36, "next beyond an indirect table", BAD_CHAIN)
def _table_next(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, *pen.table((gpa, size, NEXT, 2), (gpa, size, 0, 0)), INDIRECT)
    pen.offer(0)
    pen.show()


def _address(name: str, where: Callable[[Victim], tuple[int, int]], layout: str = "split") -> None:
    @ring(37, name, BAD_CHAIN, layout=layout)
    def _write(victim: Victim, pen: Pen, gpa: int, size: int) -> None:
        pen.desc(0, *where(victim))
        pen.offer(0)
        pen.show()


_address("a descriptor outside of memory", lambda _: (NOWHERE, 60))
_address("a descriptor that reaches into a hole", lambda victim: (victim.memory.specs[0].size - 30, 60))
_address("a descriptor that begins in a hole", lambda victim: (victim.memory.specs[0].size + 100, 60))
_address("a descriptor that wraps beyond 2**64", lambda _: ((1 << 64) - 30, 60))
_address("a descriptor of 4 GiB", lambda victim: (victim.memory.specs[0].gpa, 0xFFFFFFFF))


@ring(37, "a frame that crosses into the next region, which is legal", frozenset({PASSED}), layout="pieces")
def _crossing(victim: Victim, pen: Pen, gpa: int, size: int) -> None:
    border = victim.memory.specs[2].gpa - 30
    victim.memory.write(border, victim.memory.read(gpa, size))
    pen.desc(0, border, size)
    pen.offer(0)
    pen.show()


@ring(38, "a descriptor of length 0 before the frame", HARMLESS)
def _zero(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, 0, NEXT, 1)
    pen.desc(1, gpa, size)
    pen.offer(0)
    pen.show()


@ring(38, "a chain of length 0", HARMLESS - {PASSED, SERVED})
def _all_zero(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, 0)
    pen.offer(0)
    pen.show()


@ring(39, "a buffer that is the ring itself", HARMLESS)
def _aliased(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, 12, NEXT, 1)
    pen.desc(1, pen.queue.desc_gpa, 16 * pen.num)
    pen.offer(0)
    pen.show()


# -- races: 40 ------------------------------------------------------------------------------------------------

_RACE_S: Final = 0.3


def _race(name: str, change: Callable[[Victim, Pen, int, int], Callable[[int], None]]) -> None:
    """One of two sound things at a time lies in memory, changed as fast as we can while the device reads it."""

    def act(victim: Victim) -> str:
        victim.start()
        pen = Pen(victim, victim.driver.tx)
        gpa, size = victim.memory.put(victim.packet().ljust(4096, b"\0"))
        pen.desc(0, gpa, size)
        flip = change(victim, pen, gpa, size)
        until = time.monotonic() + _RACE_S
        while time.monotonic() < until:
            for _ in range(pen.num // 2 if pen.given_back() == pen.idx & 0xFFFF else 0):
                pen.offer(0)
            pen.show()
            victim.backend.kick(TX)
            for turn in range(64):
                flip(turn)
            victim.heard()
        victim.alive()
        return BROKEN if TX in victim.backend.broken_rings() else SERVED

    CASES.append(Case(40, name, act, HARMLESS))


def _lengths(_: Victim, pen: Pen, gpa: int, size: int) -> Callable[[int], None]:
    return lambda turn: pen.desc(0, gpa, (size, 1, 13, 65536)[turn % 4])


def _headers(victim: Victim, _: Pen, gpa: int, __: int) -> Callable[[int], None]:
    kinds = [
        VIRTIO_NET_HDR.pack(*hdr, 0)
        for hdr in ((0, 0, 0, 0, 0, 0), (1, 1, 54, 1448, 34, 16), (1, 1, 65535, 0, 65535, 65535))
    ]
    return lambda turn: victim.memory.write(gpa, kinds[turn % 3])


def _indirections(_: Victim, pen: Pen, gpa: int, size: int) -> Callable[[int], None]:
    table, length = pen.table((gpa, size, 0, 0), (gpa, size, 0, 0))
    pen.desc(0, table, length, INDIRECT)
    entries = [VIRTQ_DESC.pack(gpa, size, 0, 0), VIRTQ_DESC.pack(gpa, 7, NEXT, 1)]
    return lambda turn: pen.memory.write(table, entries[turn % 2])


_race("a descriptor whose length changes while it is read", _lengths)
_race("a header that changes while it is read", _headers)
_race("an indirect table that changes while it is read", _indirections)


# -- frames: 41 to 44 -----------------------------------------------------------------------------------------


def _cut(name: str, keep: int) -> None:
    @ring(41, name, BAD_CHAIN)
    def _write(_: Victim, pen: Pen, gpa: int, size: int) -> None:
        pen.desc(0, gpa, keep)
        pen.offer(0)
        pen.show()


_cut("a chain shorter than the header", 5)
_cut("a header and no frame", 12)
_cut("a frame shorter than an Ethernet header", 12 + 13)


@ring(41, "a frame of 256 KiB", BAD_CHAIN)
def _long(victim: Victim, pen: Pen, gpa: int, size: int) -> None:
    big = victim.memory.alloc(1 << 18)
    victim.memory.write(big, victim.memory.read(gpa, size))
    pen.desc(0, big, 1 << 18)
    pen.offer(0)
    pen.show()


@ring(41, "a header in 12 descriptors of one byte, which is legal", frozenset({PASSED}))
def _spread(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    for at in range(12):
        pen.desc(at, gpa + at, 1, NEXT, at + 1)
    pen.desc(12, gpa + 12, size - 12)
    pen.offer(0)
    pen.show()


@ring(42, "a writable descriptor behind the frame", BAD_CHAIN | {PASSED})
def _writable(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size, NEXT, 1)
    pen.desc(1, gpa, size, WRITE)
    pen.offer(0)
    pen.show()


@ring(42, "a frame in a writable descriptor", BAD_CHAIN)
def _only_writable(_: Victim, pen: Pen, gpa: int, size: int) -> None:
    pen.desc(0, gpa, size, WRITE)
    pen.offer(0)
    pen.show()


def _offload(name: str, hdr: VnetHdr, features: int = DRIVER_FEATURES) -> None:
    @ring(43, name, BAD_CHAIN, features)
    def _write(victim: Victim, pen: Pen, gpa: int, size: int) -> None:
        victim.memory.write(gpa, VIRTIO_NET_HDR.pack(*hdr.astuple(), 0)[: victim.driver.hdr_size])
        pen.desc(0, gpa, size)
        pen.offer(0)
        pen.show()


_offload("a checksum that begins behind the frame", VnetHdr(1, 0, 0, 0, 60000, 16))
_offload("a checksum that lies behind the frame", VnetHdr(1, 0, 0, 0, 34, 60000))
_offload("TSO with a segment size of 0", VnetHdr(1, 1, 54, 0, 34, 16))
_offload("TSO without a checksum", VnetHdr(0, 1, 54, 1448, 0, 0))
_offload("TSO with headers longer than the frame", VnetHdr(1, 1, 60000, 1448, 34, 16))
_offload("an unknown kind of segmentation", VnetHdr(1, 0x3F, 54, 1448, 34, 16))
_offload("a checksum that was not negotiated", VnetHdr(1, 0, 0, 0, 34, 16), vf.mask(vf.VIRTIO_F_VERSION_1))


def _receive_ring(
    row: int, name: str, good: Good, pieces: Callable[[Victim], list[Piece]], features: int
) -> None:
    """A receive ring with bad buffers, and a frame that is to come there."""

    def act(victim: Victim) -> str:
        driver = victim.prepare(features)
        pen = Pen(victim, driver.rx)
        for at, piece in enumerate(pieces(victim)):
            pen.desc(at, piece.gpa, piece.size, WRITE if piece.writable else 0)
            pen.offer(at)
        pen.show()
        victim.go()
        driver.send(victim.arp_frame())
        victim.backend.kick(TX)
        until = time.monotonic() + victim.settings.patience_s
        while time.monotonic() < until:
            victim.backend.wait((RX,), 0.02)
            if RX in victim.backend.broken_rings():
                victim.alive()
                return BROKEN
        victim.alive()
        return PASSED if pen.moved() else DROPPED if victim.baseline.answers_arp else SERVED

    CASES.append(Case(row, name, act, good))


def _of(size: int, count: int, writable: bool = True) -> Callable[[Victim], list[Piece]]:
    return lambda victim: [Piece(victim.memory.alloc(max(size, 1)), size, writable) for _ in range(count)]


PLAIN: Final = vf.mask(vf.VIRTIO_F_VERSION_1)
MERGEABLE: Final = PLAIN | vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)
_PUT_BACK: Final[Good] = frozenset({DROPPED, BROKEN, STALLED, SERVED})

_receive_ring(42, "a receive buffer that is readable", BROKEN_RING | _PUT_BACK, _of(2048, 4, False), PLAIN)
_receive_ring(44, "receive buffers shorter than the header", _PUT_BACK, _of(8, 4), PLAIN)
_receive_ring(44, "receive buffers too small for the frame", _PUT_BACK, _of(20, 4), PLAIN)
_receive_ring(44, "all mergeable buffers are too small together", _PUT_BACK, _of(13, 4), MERGEABLE)
_receive_ring(44, "mergeable buffers shorter than the header", _PUT_BACK | {PASSED}, _of(8, 16), MERGEABLE)


# -- packed: 46, 47 -------------------------------------------------------------------------------------------


def _packed_pen(victim: Victim, descriptors: list[tuple[int, int, int, int]]) -> str:
    """Write descriptors from the beginning of a packed transmit ring, the first one's flags last."""
    tx = victim.driver.tx
    for at, fields in reversed(list(enumerate(descriptors))):
        victim.memory.write(tx.desc_gpa + 16 * at, PACKED_DESC.pack(*fields))
    first = descriptors[0]

    def moved() -> bool:
        return victim.memory.read(tx.desc_gpa, 16) != PACKED_DESC.pack(*first)

    return victim.watch(moved)


def _packed(
    name: str, good: Good, make: Callable[[Victim, int, int], list[tuple[int, int, int, int]]]
) -> None:
    def act(victim: Victim) -> str:
        feature(victim, vf.VIRTIO_F_RING_PACKED)
        victim.start(PACKED)
        gpa, size = victim.memory.put(victim.packet())
        return _packed_pen(victim, make(victim, gpa, size))

    CASES.append(Case(46, f"packed: {name}", act, good))


_packed(
    "a chain without an end", BAD_CHAIN, lambda v, gpa, n: [(gpa, n, 0, F_NEXT | F_AVAIL)] * v.driver.tx.num
)
_packed("a descriptor outside of memory", BAD_CHAIN, lambda _v, _gpa, n: [(NOWHERE, n, 0, F_AVAIL)])
_packed(
    "a chain whose second descriptor is not available",
    BAD_CHAIN,
    lambda _, gpa, n: [(gpa, n, 0, F_NEXT | F_AVAIL), (gpa, n, 0, F_AVAIL | F_USED)],
)
_packed("buffer id 65535", HARMLESS, lambda _v, gpa, n: [(gpa, n, 0xFFFF, F_AVAIL)])
_packed(
    "an indirect table of 24 bytes",
    BAD_CHAIN,
    lambda _, gpa, n: [(gpa, 24, 0, 4 | F_AVAIL)],
)


def _packed_event(name: str, word: int, flags: int) -> None:
    """What the driver asks for makes no sense: the device has to interrupt rather than not."""

    def act(victim: Victim) -> str:
        feature(victim, vf.VIRTIO_F_RING_PACKED)
        victim.start(PACKED)
        rx = victim.driver.rx
        victim.memory.write(rx.driver_gpa, struct.pack("<HH", word, flags))
        victim.driver.send(victim.arp_frame())
        victim.backend.kick(TX)
        if victim.backend.wait((RX,), victim.settings.deadline_s) == [RX] and victim.heard():
            return SERVED
        return STALLED if victim.baseline.answers_arp else SERVED

    CASES.append(Case(47, f"packed: {name}", act, SERVE))


_packed_event("event flags of 3", 0, 3)
_packed_event("an event offset beyond the ring", 0x7FFF, 0)


# -- time: 55 -------------------------------------------------------------------------------------------------


def _never_refilled(victim: Victim) -> str:
    """Many requests whose answers find no buffer; then the buffers come."""
    driver = victim.prepare()
    victim.go()
    for _ in range(60):
        for _ in range(driver.tx.num):
            driver.reclaim()
            if driver.tx.free:
                driver.queue(victim.arp_frame())
        driver.tx.publish()
        victim.backend.kick(TX)
        time.sleep(0.002)
    victim.alive()
    driver.refill()
    driver.rx.enable_calls()
    victim.backend.kick(RX)
    return victim.traffic()


CASES.append(Case(55, "a receive ring that stays empty for a thousand answers", _never_refilled, SERVE))
