# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver's side of a split virtqueue (virtio 1.2, section 2.7).

Free descriptors are a first-in first-out list. With VIRTIO_F_IN_ORDER they come back in the order in which they went,
so that the table is used round and round as 2.7.9 wants it; without, any order is as good.

Three counters of 16 bits run free: `_avail_next` (what was laid into the available ring), `_avail_shown` (what
avail.idx says) and `_last_used`. `publish()` stores avail.idx once for all that was added, then, behind a full fence,
reads what the device said about kicks: a device that armed them before that store is told, one that arms them after it
looks at avail.idx again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from devmodel.virtio.spec import (
    VIRTQ_AVAIL_ALIGN,
    VIRTQ_AVAIL_F_NO_INTERRUPT,
    VIRTQ_DESC,
    VIRTQ_DESC_ALIGN,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_WRITE,
    VIRTQ_USED_ALIGN,
    VIRTQ_USED_F_NO_NOTIFY,
    avail_size,
    desc_size,
    used_size,
)
from guest.driver.virtqueue import Lent, Outstanding, Piece, QueueFull, Used, Virtqueue, capacity_of


class SplitQueue(Virtqueue):
    """See the module."""

    aligns = (VIRTQ_DESC_ALIGN, VIRTQ_AVAIL_ALIGN, VIRTQ_USED_ALIGN)

    @staticmethod
    def _area_sizes(num: int) -> tuple[int, int, int]:
        return desc_size(num), avail_size(num), used_size(num)

    def _bind(self) -> None:
        view = self.memory.view
        self._desc = view(self.desc_gpa, self.sizes[0])
        self._avail = view(self.driver_gpa, self.sizes[1]).cast("H")
        self._used = view(self.device_gpa, self.sizes[2]).cast("H")
        self._elements = view(self.device_gpa + 4, 8 * self.num).cast("I")

    def reset(self) -> None:
        for gpa, size in zip((self.desc_gpa, self.driver_gpa, self.device_gpa), self.sizes, strict=True):
            self.memory.view(gpa, size)[:] = bytes(size)
        self._avail_next = self._avail_shown = self._last_used = 0
        self._free = deque(range(self.num))
        self._out: dict[int, Outstanding] = {}  # by head; in the order in which they were made available

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def base(self) -> int:
        """used.idx: a device that has gone took no more than it gave back."""
        return int(self._used[1])

    def outstanding(self) -> int:
        return len(self._out)

    def _abandoned(self) -> list[Outstanding]:
        lost = list(self._out.values())
        self._out = {}
        return lost

    # -- giving -----------------------------------------------------------------------------------------

    def add(self, pieces: Sequence[Piece], token: Any, indirect: bool = False) -> None:
        self._check(pieces, indirect)
        if len(self._free) < (1 if indirect else len(pieces)):
            raise QueueFull
        table = -1
        lent: Lent = []
        pieces = self._lend(pieces, lent)
        if indirect:
            table = self._table(pieces)
            ids = [self._free.popleft()]
            ((address, size, _),) = self._lend([Piece(table, 16 * len(pieces))], lent)
            self._store(ids[0], address, size, VIRTQ_DESC_F_INDIRECT, 0)
        else:
            ids = [self._free.popleft() for _ in pieces]
            self._chain(ids, pieces)
        self._out[ids[0]] = Outstanding(token, ids, len(ids), capacity_of(pieces), table, lent)
        self._avail[2 + self._avail_next % self.num] = ids[0]
        self._avail_next = (self._avail_next + 1) & 0xFFFF

    def _store(self, at: int, gpa: int, size: int, flags: int, nxt: int) -> None:
        VIRTQ_DESC.pack_into(self._desc, 16 * at, gpa, size, flags, nxt)

    def _chain(self, ids: Sequence[int], pieces: Sequence[Piece]) -> None:
        for (at, nxt), piece in zip(pairwise([*ids, -1]), pieces, strict=True):
            flags = VIRTQ_DESC_F_WRITE if piece.writable else 0
            if nxt < 0:
                self._store(at, piece.gpa, piece.size, flags, 0)
            else:
                self._store(at, piece.gpa, piece.size, flags | VIRTQ_DESC_F_NEXT, nxt)

    def _table(self, pieces: Sequence[Piece]) -> int:
        """The gpa of a fresh indirect table (2.7.5.3)."""
        last = len(pieces) - 1
        body = b"".join(
            VIRTQ_DESC.pack(
                piece.gpa,
                piece.size,
                (VIRTQ_DESC_F_WRITE if piece.writable else 0) | (VIRTQ_DESC_F_NEXT if at < last else 0),
                at + 1 if at < last else 0,
            )
            for at, piece in enumerate(pieces)
        )
        return self.memory.put(body)[0]

    def publish(self) -> bool:
        old, new = self._avail_shown, self._avail_next
        if old == new:
            return False
        self._barrier()
        self._avail[1] = new
        self._avail_shown = new
        self._barrier()
        if not self.event_idx:
            return self._count_kick(not self._used[0] & VIRTQ_USED_F_NO_NOTIFY)
        event = self._used[2 + 4 * self.num]
        return self._count_kick((new - event - 1) & 0xFFFF < (new - old) & 0xFFFF)

    # -- taking -----------------------------------------------------------------------------------------

    def used(self) -> list[Used]:
        idx = self._used[1]
        waiting = (idx - self._last_used) & 0xFFFF
        if waiting > len(self._out):
            rule = f"used.idx {idx} is {waiting} ahead of {self._last_used}, {len(self._out)} buffers are out"
            raise self._broken(rule, "2.7.8")
        self._barrier()
        found: list[Used] = []
        while self._last_used != idx:
            at = 2 * (self._last_used % self.num)
            head, written = self._elements[at], self._elements[at + 1]
            batch = self._batch(head, (idx - self._last_used) & 0xFFFF)
            self._last_used = (self._last_used + len(batch)) & 0xFFFF
            for what in batch:
                found.append(self._completed(what, written if what.ids[0] == head else what.capacity))
        return found

    def _batch(self, head: int, most: int) -> list[Outstanding]:
        """The buffers that one used element completes: one, or with IN_ORDER all up to it (2.7.9)."""
        if head not in self._out:
            raise self._broken(f"used element names head {head}, which is not available", "2.7.8")
        heads = [head]
        if self.in_order:
            order = list(self._out)
            heads = order[: order.index(head) + 1]
            if len(heads) > most:
                raise self._broken(f"{len(heads)} buffers used in order, used.idx counts {most}", "2.7.9")
        batch = [self._out.pop(one) for one in heads]
        for what in batch:
            self._free.extend(what.ids)
        return batch

    def enable_calls(self) -> bool:
        if self.event_idx:
            self._avail[2 + self.num] = self._last_used
        else:
            self._avail[0] = 0
        self._barrier()
        return self._used[1] != self._last_used

    def disable_calls(self) -> None:
        """With EVENT_IDX flags has to be 0 (2.7.7.1): an event index that has passed does the same."""
        if not self.event_idx:
            self._avail[0] = VIRTQ_AVAIL_F_NO_INTERRUPT
