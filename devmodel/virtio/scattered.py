# SPDX-License-Identifier: GPL-2.0-or-later
"""A ring's area in pages that lie apart, used like a memoryview.

Behind an IOMMU a driver may allocate a ring page by page (Linux does), so that an area of several pages is one run of
I/O virtual addresses and nowhere one piece of memory. `ScatteredArea` has what the rings use of a memoryview: `cast()`,
slices, `tobytes()`, `release()`; what `cast()` gives has items. Each item that lies in one page is accessed by that
page's own cast, so that it is one load or store as it is in a memoryview. Items of eight bytes in a used ring may lie
across the border of two pages (the elements begin at offset 4): they go byte by byte, which nobody sees, since the
driver looks at used elements only once their index was stored.

An access costs about three times as much as a memoryview's. Rings whose areas are one piece do not come here.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import overload


class ScatteredArea:
    """Bytes in several pieces, in order."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = list(pieces)

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __getitem__(self, part: slice) -> ScatteredArea:
        start, stop, _step = part.indices(len(self))
        found = []
        for piece in self._pieces:
            if start < len(piece) and stop > 0:
                found.append(piece[max(start, 0) : stop])
            start -= len(piece)
            stop -= len(piece)
        return ScatteredArea(found)

    def cast(self, kind: str) -> ScatteredItems:
        """Items of that struct format; the area is a whole number of them."""
        return ScatteredItems(self._pieces, kind)

    def tobytes(self) -> bytes:
        return b"".join(self._pieces)

    def release(self) -> None:
        for piece in self._pieces:
            piece.release()


class _Split:
    """Items across the border of two pieces, as if there were one of them in a list."""

    __slots__ = ("_pair", "_struct")

    def __init__(self, pair: tuple[memoryview, memoryview], kind: str) -> None:
        self._pair = pair
        self._struct = struct.Struct("<" + kind)

    def __getitem__(self, _at: int) -> int:
        return int(self._struct.unpack(b"".join(self._pair))[0])

    def __setitem__(self, _at: int, value: int) -> None:
        data = self._struct.pack(value)
        first, second = self._pair
        first[:] = data[: len(first)]
        second[:] = data[len(first) :]

    def release(self) -> None:
        for view in self._pair:
            view.release()


class ScatteredItems:
    """What `ScatteredArea.cast()` gives."""

    __slots__ = ("_cells", "_kind", "_views")

    def __init__(self, pieces: Sequence[memoryview], kind: str) -> None:
        size = struct.calcsize(kind)
        self._kind = kind
        self._cells: list[tuple[memoryview | _Split, int]] = []
        self._views: list[memoryview | _Split] = []
        rest: memoryview | None = None  # the end of the piece before, less than an item
        for piece in pieces:
            at = 0
            if rest is not None:
                at = size - len(rest)
                self._add(_Split((rest, piece[:at]), kind), 1)
            whole = (len(piece) - at) // size
            if whole:
                bare = piece[at : at + whole * size]
                self._add(bare.cast(kind), whole)  # type: ignore[call-overload]
                self._views.append(bare)
            at += whole * size
            rest = piece[at:] if at < len(piece) else None

    def _add(self, view: memoryview | _Split, count: int) -> None:
        self._views.append(view)
        self._cells += [(view, at) for at in range(count)]

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice) -> array[int]: ...

    def __getitem__(self, at: int | slice) -> int | array[int]:
        if isinstance(at, slice):
            return array(self._kind, [view[place] for view, place in self._cells[at]])
        view, place = self._cells[at]
        return view[place]

    def __setitem__(self, at: int, value: int) -> None:
        view, place = self._cells[at]
        view[place] = value

    def release(self) -> None:
        self._cells = []
        for view in self._views:
            view.release()
        self._views = []
