# SPDX-License-Identifier: GPL-2.0-or-later
"""Device sides of both virtqueue layouts, as small as the specification allows: a second opinion on the driver's.

They are slow and unbatched; the real ones are in devmodel/virtio. Of the driver's objects they know nothing but the
addresses of the three areas.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from guest.driver.memory import DriverMemory
from guest.driver.virtqueue import Virtqueue

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 0x80, 0x8000


@dataclass
class Seen:
    """One buffer as the device sees it."""

    number: int  # head, or buffer id
    places: int  # descriptors of the ring that it takes
    out: bytes
    writable: list[tuple[int, int]]


class _Model:
    def __init__(self, queue: Virtqueue) -> None:
        self.memory: DriverMemory = queue.memory
        self.num = queue.num
        self.desc, self.driver, self.device = queue.desc_gpa, queue.driver_gpa, queue.device_gpa

    def u16(self, gpa: int) -> int:
        return int(struct.unpack("<H", self.memory.read(gpa, 2))[0])

    def put16(self, gpa: int, value: int) -> None:
        self.memory.write(gpa, struct.pack("<H", value & 0xFFFF))

    def _seen(self, number: int, places: int, descriptors: list[tuple[int, int, int]]) -> Seen:
        out = b"".join(self.memory.read(addr, size) for addr, size, flags in descriptors if not flags & WRITE)
        return Seen(number, places, out, [(a, n) for a, n, flags in descriptors if flags & WRITE])

    def fill(self, seen: Seen, data: bytes) -> int:
        """Write into a buffer; how much."""
        done = 0
        for addr, size in seen.writable:
            piece = data[done : done + size]
            self.memory.write(addr, piece)
            done += len(piece)
        return done


class SplitModel(_Model):
    """2.7."""

    def __init__(self, queue: Virtqueue) -> None:
        super().__init__(queue)
        self.last_avail = self.used_idx = 0

    def pop(self) -> Seen | None:
        if self.u16(self.driver + 2) == self.last_avail:
            return None
        head = self.u16(self.driver + 4 + 2 * (self.last_avail % self.num))
        self.last_avail = (self.last_avail + 1) & 0xFFFF
        table, at, descriptors, places = self.desc, head, [], 0
        while True:
            addr, size, flags, nxt = struct.unpack("<QIHH", self.memory.read(table + 16 * at, 16))
            if flags & INDIRECT:
                assert flags == INDIRECT
                table, at, places = addr, 0, 1
                continue
            descriptors.append((addr, size, flags))
            if not flags & NEXT:
                return self._seen(head, places or len(descriptors), descriptors)
            at = nxt

    def push(self, seen: Seen, written: int, batch: int = 1) -> None:
        """`batch` buffers with one element, by IN_ORDER."""
        slot = self.device + 4 + 8 * (self.used_idx % self.num)
        self.memory.write(slot, struct.pack("<II", seen.number, written))
        self.used_idx += batch
        self.put16(self.device + 2, self.used_idx)


class PackedModel(_Model):
    """2.8; keeps its own idea of where it is."""

    def __init__(self, queue: Virtqueue) -> None:
        super().__init__(queue)
        self.at, self.wrap = 0, True
        self.used_at, self.used_wrap = 0, True

    def _read(self, at: int) -> tuple[int, int, int, int]:
        addr, size, number, flags = struct.unpack("<QIHH", self.memory.read(self.desc + 16 * at, 16))
        return addr, size, number, flags

    def _step(self) -> None:
        self.at += 1
        if self.at == self.num:
            self.at, self.wrap = 0, not self.wrap

    def pop(self) -> Seen | None:
        flags = self._read(self.at)[3]
        if bool(flags & AVAIL) != self.wrap or bool(flags & USED) == self.wrap:
            return None
        descriptors = []
        while True:
            addr, size, number, flags = self._read(self.at)
            assert bool(flags & AVAIL) == self.wrap, "a chain with a descriptor that is not available"
            assert bool(flags & USED) != self.wrap
            self._step()
            if flags & INDIRECT:
                assert not flags & NEXT
                entries = [
                    struct.unpack("<QIHH", self.memory.read(addr + at, 16)) for at in range(0, size, 16)
                ]
                return self._seen(number, 1, [(a, n, f) for a, n, _, f in entries])
            descriptors.append((addr, size, flags))
            if not flags & NEXT:
                return self._seen(number, len(descriptors), descriptors)

    def push(self, seen: Seen, written: int, places: int | None = None) -> None:
        """`places`: those of all buffers that this one ends, by IN_ORDER."""
        flags = (AVAIL | USED if self.used_wrap else 0) | (WRITE if seen.writable else 0)
        place = self.desc + 16 * self.used_at
        self.memory.write(place + 8, struct.pack("<IHH", written, seen.number, flags))
        self.used_at += seen.places if places is None else places
        if self.used_at >= self.num:
            self.used_at, self.used_wrap = self.used_at - self.num, not self.used_wrap

    def event(self, flags: int, at: int = 0, wrap: int = 0) -> None:
        """When the driver is to kick."""
        self.put16(self.device, at | wrap << 15)
        self.put16(self.device + 2, flags)

    def wanted(self) -> tuple[int, int, int]:
        """When the driver wants to be interrupted: flags, position, wrap counter."""
        word = self.u16(self.driver)
        return self.u16(self.driver + 2), word & 0x7FFF, word >> 15
