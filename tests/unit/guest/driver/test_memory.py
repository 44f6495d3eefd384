# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's memory: layouts, addresses, the allocator."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from guest.driver.errors import OutOfMemory
from guest.driver.memory import LAYOUTS, DriverMemory, flat_layout, pieces_layout

SIZE = 1 << 20


@pytest.fixture(params=LAYOUTS)
def memory(request: pytest.FixtureRequest) -> Iterator[DriverMemory]:
    made = DriverMemory(LAYOUTS[request.param](SIZE))
    yield made
    made.close()


def test_device_sees_what_the_driver_wrote_at_either_address(memory: DriverMemory) -> None:
    device = memory.device_view()
    for spec in memory.specs:
        memory.write(spec.gpa + 16, b"hello")
        assert device.read(spec.gpa + 16, 5) == b"hello"
        view = device.uva_view(memory.uva(spec.gpa + 16), 5)
        assert view is not None
        assert bytes(view) == b"hello"
        view.release()
    device.close()


def test_flat_layout_has_one_address() -> None:
    assert all(spec.gpa == spec.uva for spec in flat_layout(SIZE))


def test_write_may_cross_into_the_next_region() -> None:
    memory = DriverMemory(pieces_layout(SIZE))
    border = memory.specs[1].gpa
    memory.write(border - 3, b"abcdef")
    assert memory.read(border - 3, 6) == b"abcdef"
    assert bytes(memory.view(border, 3)) == b"def"
    memory.close()


def test_alloc_all_then_free_all_gives_the_regions_back(memory: DriverMemory) -> None:
    taken = [memory.alloc(4096, 4096) for _ in range(SIZE // 4096)]
    with pytest.raises(OutOfMemory, match="no 1 bytes"):
        memory.alloc(1)
    assert len(set(taken)) == len(taken)
    for gpa in taken[::2] + taken[1::2]:
        memory.free(gpa)
    largest = max(spec.size for spec in memory.specs)
    assert memory.alloc(largest, 1) in [spec.gpa for spec in memory.specs]


def test_alloc_is_zeroed_and_a_second_free_is_an_error(memory: DriverMemory) -> None:
    gpa, size = memory.put(b"x" * 100)
    memory.free(gpa)
    again = memory.alloc(size)
    assert memory.read(again, size) == bytes(100)
    memory.free(again)
    with pytest.raises(KeyError):
        memory.free(again)


def test_memfd_cannot_shrink(memory: DriverMemory) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 4096)
