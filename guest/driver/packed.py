# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver's side of a packed virtqueue (virtio 1.2, section 2.8).

One ring of descriptors, which both sides write. Each side walks it with an index and a wrap counter that starts at 1
and turns over whenever the index passes the end of the ring (2.8.1). A descriptor is available when its AVAIL bit is
the driver's counter and its USED bit is not; it is used when both bits are the device's counter.

* A buffer's descriptors lie side by side, the ring's end in between or not; the buffer id stands in the last one
  and comes back in one used descriptor, wherever the device is. An indirect buffer takes one place.
* Nothing is seen before the flags of its first descriptor are stored, so these are stored last (2.8.21). `publish()`
  holds back those of the first buffer of a batch: the device cannot look behind a descriptor that is not available,
  so one store shows the whole batch.
* Ids are a first-in first-out list of our own; they need not be positions.
* Kicks and interrupts: each side has an event structure of two words, read by the other (2.8.14). With EVENT_IDX it
  may name a position and wrap counter; the comparison is that of split rings, in positions (2.8.10).
* SET_VRING_BASE takes index and wrap counter, twice: bits 0-14 and 15 of the available side, 16-30 and 31 of the
  used one (vhost-user specification, "Vring state description").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from guest.driver.virtqueue import Lent, Outstanding, Piece, QueueFull, Used, Virtqueue, capacity_of

# 2.8.13 struct pvirtq_desc: addr, len, id, flags
PACKED_DESC: Final = Struct("<QIHH")
PACKED_DESC_SIZE: Final = 16

# 2.8.4, 2.8.1 flags
F_NEXT: Final = 1
F_WRITE: Final = 2
F_INDIRECT: Final = 4
F_AVAIL: Final = 1 << 7
F_USED: Final = 1 << 15

# 2.8.14 struct pvirtq_event_suppress: offset and wrap counter, flags
EVENT_SIZE: Final = 4
EVENT_ENABLE: Final = 0
EVENT_DISABLE: Final = 1
EVENT_DESC: Final = 2

# 2.8.10.1: alignment of the three areas
ALIGNS: Final = (16, 4, 4)


class PackedQueue(Virtqueue):
    """See the module."""

    aligns = ALIGNS

    @staticmethod
    def _area_sizes(num: int) -> tuple[int, int, int]:
        return PACKED_DESC_SIZE * num, EVENT_SIZE, EVENT_SIZE

    def _bind(self) -> None:
        view = self.memory.view
        self._desc = view(self.desc_gpa, self.sizes[0])
        self._words = self._desc.cast("H")  # flags of descriptor n at 8 n + 7
        self._driver_event = view(self.driver_gpa, EVENT_SIZE).cast("H")
        self._device_event = view(self.device_gpa, EVENT_SIZE).cast("H")

    def reset(self) -> None:
        for gpa, size in zip((self.desc_gpa, self.driver_gpa, self.device_gpa), self.sizes, strict=True):
            self.memory.view(gpa, size)[:] = bytes(size)
        self._next, self._wrap = 0, 1  # where the next descriptor goes
        self._used_at, self._used_wrap = 0, 1  # where the next used one is looked for
        self._room = self.num
        self._ids = deque(range(self.num))
        self._out: dict[int, Outstanding] = {}  # by id; in the order in which they were made available
        self._held: tuple[int, int] | None = None  # position and flags of the first descriptor of the batch
        self._added = 0  # descriptors since the last publish()

    @property
    def free(self) -> int:
        return self._room if self._ids else 0

    @property
    def base(self) -> int:
        """Behind the last used descriptor, whether `used()` has seen it: a device that has gone took no more than it
        gave back."""
        at, wrap, left = self._used_at, self._used_wrap, dict(self._out)
        while left and self._used_there(at, wrap):
            numbers = self._completed_by(self._words[8 * at + 6], left)
            if not numbers:
                break
            at += sum(left.pop(number).descriptors for number in numbers)
            if at >= self.num:
                at, wrap = at - self.num, wrap ^ 1
        return (at | wrap << 15) * 0x10001

    def outstanding(self) -> int:
        return len(self._out)

    def _abandoned(self) -> list[Outstanding]:
        lost = list(self._out.values())
        self._out = {}
        return lost

    # -- giving -----------------------------------------------------------------------------------------

    def add(self, pieces: Sequence[Piece], token: Any, indirect: bool = False) -> None:
        self._check(pieces, indirect)
        places = 1 if indirect else len(pieces)
        if self.free < places:
            raise QueueFull
        number = self._ids.popleft()
        table = -1
        lent: Lent = []
        pieces = self._lend(pieces, lent)
        if indirect:
            table = self._table(pieces)
            ((address, size, _),) = self._lend([Piece(table, 16 * len(pieces))], lent)
            self._lay([(address, size, F_INDIRECT)], number)
        else:
            self._lay([(piece.gpa, piece.size, F_WRITE if piece.writable else 0) for piece in pieces], number)
        self._out[number] = Outstanding(token, [number], places, capacity_of(pieces), table, lent)
        self._room -= places
        self._added += places

    def _table(self, pieces: Sequence[Piece]) -> int:
        """The gpa of a fresh indirect table: entries in order, only WRITE is meant (2.8.8)."""
        body = b"".join(
            PACKED_DESC.pack(piece.gpa, piece.size, 0, F_WRITE if piece.writable else 0) for piece in pieces
        )
        return self.memory.put(body)[0]

    def _lay(self, descriptors: Sequence[tuple[int, int, int]], number: int) -> None:
        """Write descriptors at the next places; the flags of the very first one last, or not yet."""
        first = self._next, 0
        last = len(descriptors) - 1
        for at, (gpa, size, flags) in enumerate(descriptors):
            flags |= (F_NEXT if at < last else 0) | (F_AVAIL if self._wrap else F_USED)
            place = self._next
            hidden = self._words[8 * place + 7] if at == 0 else flags
            PACKED_DESC.pack_into(self._desc, PACKED_DESC_SIZE * place, gpa, size, number, hidden)
            if at == 0:
                first = place, flags
            self._next += 1
            if self._next == self.num:
                self._next, self._wrap = 0, self._wrap ^ 1
        if self._held is None:
            self._held = first
        else:
            self._words[8 * first[0] + 7] = first[1]

    def publish(self) -> bool:
        if self._held is None:
            return False
        place, flags = self._held
        self._held = None
        self._barrier()
        self._words[8 * place + 7] = flags
        self._barrier()
        added, self._added = self._added, 0
        return self._count_kick(self._wants_kick(added))

    def _wants_kick(self, added: int) -> bool:
        flags = self._device_event[1]
        if flags != EVENT_DESC or not self.event_idx:
            return flags != EVENT_DISABLE
        word = self._device_event[0]
        event = word & 0x7FFF
        if word >> 15 != self._wrap:
            event -= self.num
        return (self._next - event - 1) & 0xFFFF < added

    # -- taking -----------------------------------------------------------------------------------------

    def _used_there(self, at: int, wrap: int) -> bool:
        flags = self._words[8 * at + 7]
        return bool(flags & F_AVAIL) == bool(flags & F_USED) == bool(wrap)

    def _is_used(self) -> bool:
        return self._used_there(self._used_at, self._used_wrap)

    def _completed_by(self, number: int, out: dict[int, Outstanding]) -> list[int]:
        """Which ids one used descriptor completes: one, or with IN_ORDER all up to it (2.8.6); none if it is wrong."""
        if number not in out:
            return []
        if not self.in_order:
            return [number]
        order = list(out)
        return order[: order.index(number) + 1]

    def used(self) -> list[Used]:
        found: list[Used] = []
        while self._out and self._is_used():
            self._barrier()
            _, written, number, flags = PACKED_DESC.unpack_from(self._desc, PACKED_DESC_SIZE * self._used_at)
            written = written if flags & F_WRITE else 0  # 2.8.4: without it len means nothing
            batch = self._batch(number)
            self._forward(sum(what.descriptors for what in batch))
            for what in batch:
                found.append(self._completed(what, written if what.ids[0] == number else what.capacity))
        return found

    def _batch(self, number: int) -> list[Outstanding]:
        numbers = self._completed_by(number, self._out)
        if not numbers:
            rule = f"used descriptor {self._used_at} has id {number}, which is not available"
            raise self._broken(rule, "2.8.6")
        self._ids.extend(numbers)
        return [self._out.pop(one) for one in numbers]

    def _forward(self, places: int) -> None:
        self._room += places
        self._used_at += places
        if self._used_at >= self.num:
            self._used_at -= self.num
            self._used_wrap ^= 1

    def enable_calls(self) -> bool:
        if self.event_idx:
            self._driver_event[0] = self._used_at | self._used_wrap << 15
            self._barrier()
            self._driver_event[1] = EVENT_DESC
        else:
            self._driver_event[1] = EVENT_ENABLE
        self._barrier()
        return bool(self._out) and self._is_used()

    def disable_calls(self) -> None:
        self._driver_event[1] = EVENT_DISABLE
