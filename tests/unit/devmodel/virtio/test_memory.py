# SPDX-License-Identifier: GPL-2.0-or-later
"""The two address spaces of guest memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vu_driver import RAM_SIZE, SPLIT, UVA, GuestRam

from devmodel.virtio.memory import GuestMemory


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    ram = GuestRam()
    yield ram
    ram.close()


@pytest.fixture
def memory(ram: GuestRam) -> Iterator[GuestMemory]:
    memory = ram.map()
    yield memory
    memory.close()


def test_user_address_is_not_a_physical_one(ram: GuestRam, memory: GuestMemory) -> None:
    ram.write(SPLIT + 5, b"here")
    view = memory.uva_view(ram.uva(SPLIT + 5), 4)
    assert view is not None
    assert bytes(view) == b"here"
    assert memory.uva_view(SPLIT + 5, 4) is None
    assert memory.read(ram.uva(SPLIT + 5), 4) is None
    view.release()


def test_user_range_must_lie_in_one_region(memory: GuestMemory) -> None:
    assert memory.uva_view(UVA + SPLIT - 4, 8) is None
    assert memory.uva_view(2**64 - 4, 8) is None


def test_physical_range_goes_on_in_the_next_region(ram: GuestRam, memory: GuestMemory) -> None:
    ram.write(SPLIT - 2, b"abcd")
    assert memory.read(SPLIT - 2, 4) == b"abcd"
    pieces = memory.pieces(SPLIT - 2, 4)
    assert pieces is not None
    assert [bytes(piece) for piece in pieces] == [b"ab", b"cd"]


def test_physical_range_into_a_hole_is_no_memory(memory: GuestMemory) -> None:
    assert memory.pieces(RAM_SIZE - 1, 2) is None
    assert memory.pieces(2**64 - 1, 2) is None


def test_largest_region_is_looked_at_first(memory: GuestMemory) -> None:
    assert [start for start, _, _ in memory.fast] == [SPLIT, 0]


def test_closed_memory_has_no_regions(ram: GuestRam) -> None:
    memory = ram.map()
    memory.close()
    assert memory.regions == ()
    assert memory.read(0, 1) is None
