# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of translations, and guest memory seen through it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from vu_driver import SPLIT, GuestRam

from devmodel.errors import FrontendError
from devmodel.virtio import iotlb
from devmodel.virtio.iotlb import PAGE, READ, WRITE, Iotlb, IotlbMemory, IotlbMiss
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.scattered import ScatteredArea

RW = READ | WRITE
IOVA = 0xABC_0000_0000


class Rig:
    """Memory of two regions, a cache over it, and rights by gpa."""

    def __init__(self) -> None:
        self.ram = GuestRam()
        self.memory = self.ram.map()
        self.tlb = Iotlb(self.memory)
        self.through = IotlbMemory(self.tlb)

    def add(self, iova: int, gpa: int, size: int = PAGE, access: int = RW) -> None:
        self.tlb.update(iova, size, self.ram.uva(gpa), access)

    def runs(self) -> list[tuple[int, int]]:
        return [(run.start, run.end) for run in self.tlb._runs]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.tlb.clear()
    made.memory.close()
    made.ram.close()


def missing(through: IotlbMemory, iova: int, size: int, access: int = READ) -> tuple[int, ...]:
    with pytest.raises(IotlbMiss) as caught:
        through.pieces(iova, size, access)
    assert caught.value.access == access
    return caught.value.missing


def test_translated_bytes_are_those_of_guest_memory(rig: Rig) -> None:
    rig.ram.write(0x5000, b"abcdefgh")
    rig.add(IOVA, 0x5000)
    assert [bytes(piece) for piece in rig.through.pieces(IOVA + 2, 3) or []] == [b"cde"]
    assert rig.through.read(IOVA + 4, 4) == b"efgh"


def test_pages_that_lie_apart_come_as_pieces_in_order(rig: Rig) -> None:
    rig.add(IOVA, 0x9000)
    rig.add(IOVA + PAGE, 0x3000)
    rig.ram.write(0x9FFE, b"ab")
    rig.ram.write(0x3000, b"cd")
    assert [bytes(piece) for piece in rig.through.pieces(IOVA + PAGE - 2, 4) or []] == [b"ab", b"cd"]


def test_empty_buffer_is_an_empty_piece_where_something_is(rig: Rig) -> None:
    rig.add(IOVA, 0x9000)
    assert [len(piece) for piece in rig.through.pieces(IOVA + 7, 0) or []] == [0]
    assert missing(rig.through, IOVA + PAGE, 0) == (IOVA + PAGE,)


def test_every_missing_page_is_named_once_and_no_more_than_the_limit(rig: Rig) -> None:
    rig.add(IOVA + PAGE, 0x9000)
    assert missing(rig.through, IOVA + 100, 3 * PAGE, WRITE) == (
        IOVA + 100,
        IOVA + 2 * PAGE,
        IOVA + 3 * PAGE,
    )
    assert len(missing(rig.through, IOVA, 1 << 20)) == iotlb.MAX_MISSES


@pytest.mark.parametrize(("have", "want", "why"), [(READ, WRITE, "written"), (WRITE, READ, "read")])
def test_access_that_is_not_allowed_is_no_memory(rig: Rig, have: int, want: int, why: str) -> None:
    rig.add(IOVA, 0x9000, access=have)
    assert rig.through.pieces(IOVA, 8, want) is None
    assert rig.through.fault == f"may not be {why}"
    assert rig.through.take_denied() == (IOVA, want)
    assert rig.through.take_denied() is None
    assert rig.through.pieces(IOVA, 8, have) is not None


def test_buffer_that_wraps_is_no_memory(rig: Rig) -> None:
    assert rig.through.pieces((1 << 64) - 4, 8) is None
    assert rig.through.fault == "wrap beyond 2**64"


def test_buffer_in_too_many_pages_is_no_memory(rig: Rig) -> None:
    for page in range(iotlb.MAX_RUNS_OF_PIECE + 1):
        rig.add(IOVA + page * PAGE, 0x9000)
    assert rig.through.pieces(IOVA, iotlb.MAX_RUNS_OF_PIECE * PAGE) is not None
    assert rig.through.pieces(IOVA, (iotlb.MAX_RUNS_OF_PIECE + 1) * PAGE) is None
    assert "pages" in rig.through.fault


def test_area_of_pages_that_follow_each_other_is_one_view(rig: Rig) -> None:
    rig.add(IOVA, 0x9000)
    rig.add(IOVA + PAGE, 0xA000)
    view = rig.through.area(IOVA + 16, PAGE + 100, RW)
    assert isinstance(view, memoryview)
    view[PAGE - 16] = 7
    assert rig.ram.read(0xA000, 1) == b"\7"


@pytest.mark.parametrize("places", [(0x9000, 0x7000), (SPLIT - PAGE, SPLIT)])
def test_area_of_pages_that_lie_apart_is_scattered(rig: Rig, places: tuple[int, int]) -> None:
    for at, gpa in enumerate(places):
        rig.add(IOVA + at * PAGE, gpa)
        rig.ram.write(gpa, bytes([at + 1]) * PAGE)
    area = rig.through.area(IOVA + PAGE - 4, 8, RW)
    assert isinstance(area, ScatteredArea)
    assert area.tobytes() == b"\1" * 4 + b"\2" * 4
    assert isinstance(rig.through.area(IOVA + PAGE, PAGE, RW), memoryview)


def test_area_that_may_not_be_used_so_or_has_too_many_pages_is_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.add(IOVA, 0x9000, access=READ)
    rig.add(IOVA + PAGE, 0x7000)
    assert rig.through.area(IOVA, 100, WRITE) is None
    monkeypatch.setattr(iotlb, "MAX_RUNS_OF_AREA", 1)
    assert rig.through.area(IOVA, 2 * PAGE, READ) is None
    with pytest.raises(IotlbMiss):
        rig.through.area(IOVA + 2 * PAGE, PAGE, READ)


@pytest.mark.parametrize(
    ("iova", "size", "gpa", "access", "why"),
    [
        (IOVA, 0, 0x9000, RW, "no bytes"),
        ((1 << 64) - PAGE, 2 * PAGE, 0x9000, RW, "wraps"),
        (IOVA, PAGE, 0x9000, 0, "permissions"),
        (IOVA, PAGE, 0x9000, 4, "permissions"),
        (IOVA, PAGE, 1 << 40, RW, "not inside one memory region"),
        (IOVA, 2 * PAGE, SPLIT - PAGE, RW, "not inside one memory region"),
    ],
)
def test_update_that_makes_no_sense_changes_nothing(
    rig: Rig, iova: int, size: int, gpa: int, access: int, why: str
) -> None:
    rig.add(IOVA, 0x9000)
    with pytest.raises(FrontendError, match=why):
        rig.add(iova, gpa, size, access)
    assert rig.runs() == [(IOVA, IOVA + PAGE)]


def test_update_takes_the_place_of_all_that_it_touches(rig: Rig) -> None:
    for page in range(4):
        rig.add(page * 2 * PAGE, 0x9000)
    rig.add(PAGE, 0x10000, 4 * PAGE)
    assert rig.runs() == [(0, PAGE), (PAGE, 5 * PAGE), (6 * PAGE, 7 * PAGE)]
    assert rig.tlb.find(4 * PAGE) is not None
    assert rig.tlb.covers(4 * PAGE, WRITE)
    assert not rig.tlb.covers(5 * PAGE, READ)


@pytest.mark.parametrize(
    ("iova", "size", "left"),
    [
        (2 * PAGE, PAGE, [0, 4]),
        (2 * PAGE + 5, 1, [0, 4]),
        (PAGE, PAGE, [0, 2, 4]),
        (PAGE, PAGE + 1, [0, 4]),
        (0, 3 * PAGE, [4]),
        (4 * PAGE, 1 << 60, [0, 2]),
        (5 * PAGE, (1 << 64) - 5 * PAGE, [0, 2, 4]),
        (0, 0, []),
        (17, 0, []),
    ],
)
def test_invalidation_takes_whole_runs_that_it_touches(
    rig: Rig, iova: int, size: int, left: list[int]
) -> None:
    for page in (0, 2, 4):
        rig.add(page * PAGE, 0x9000)
    rig.tlb.invalidate(iova, size)
    assert [start // PAGE for start, _ in rig.runs()] == left


def test_full_cache_drops_the_oldest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iotlb, "MAX_RUNS", 4)
    for page in (5, 1, 3, 9):
        rig.add(page * PAGE, 0x9000)
    rig.tlb.invalidate(5 * PAGE, PAGE)
    for page in (2, 7, 8):
        rig.add(page * PAGE, 0x9000)
    assert [start // PAGE for start, _ in rig.runs()] == [2, 7, 8, 9]


def test_flood_of_updates_keeps_what_is_remembered_small(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iotlb, "MAX_RUNS", 8)
    for at in range(1000):
        rig.add(at % 3 * PAGE, 0x9000)
    assert len(rig.tlb) == 3
    assert len(rig.tlb._age) <= 2 * 8 + 1


def test_new_memory_map_keeps_what_still_leads_into_it(rig: Rig) -> None:
    rig.add(IOVA, 0x9000)
    rig.add(IOVA + PAGE, SPLIT)
    low = GuestMemory(rig.memory.regions[:1])
    rig.tlb.rebase(low)
    assert rig.runs() == [(IOVA, IOVA + PAGE)]
    rig.ram.write(0x9000, b"x")
    assert rig.through.read(IOVA, 1) == b"x"
