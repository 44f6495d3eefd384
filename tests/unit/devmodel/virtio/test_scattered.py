# SPDX-License-Identifier: GPL-2.0-or-later
"""Areas in several pieces against a memoryview of the same bytes in one."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from devmodel.virtio.scattered import ScatteredArea

SIZE = 96


def cut(data: bytearray, *borders: int) -> ScatteredArea:
    """The same bytes, each piece in a buffer of its own."""
    return ScatteredArea([memoryview(bytearray(data[a:b])) for a, b in pairwise((0, *borders, len(data)))])


@pytest.mark.parametrize("kind", ["H", "I", "Q"])
@pytest.mark.parametrize("borders", [(), (32,), (8, 64), (4, 36, 68), (12, 44)])
def test_items_are_those_of_a_memoryview(kind: str, borders: tuple[int, ...]) -> None:
    rng = random.Random(kind)
    plain = bytearray(rng.randbytes(SIZE))
    area = cut(plain, *borders)
    items, model = area.cast(kind), memoryview(plain).cast(kind)  # type: ignore[call-overload]
    for _ in range(200):
        at = rng.randrange(len(model))
        if rng.random() < 0.5:
            value = rng.getrandbits(8 * model.itemsize)
            items[at] = model[at] = value
        assert items[at] == model[at]
    assert area.tobytes() == bytes(plain)
    assert items[1::2].tolist() == model[1::2].tolist()
    items.release()
    area.release()


@pytest.mark.parametrize("part", [slice(0, 96), slice(4, 84), slice(40, 41), slice(33, 33), slice(90, 500)])
def test_slices_are_those_of_bytes(part: slice) -> None:
    plain = bytearray(range(SIZE))
    area = cut(plain, 20, 60)
    assert area[part].tobytes() == bytes(plain[part])
    assert len(area[part]) == len(plain[part])


def test_slice_of_elements_writes_through_to_the_pages() -> None:
    area = cut(bytearray(SIZE), 32, 64)
    elements = area[4:84].cast("Q")
    for at in range(10):
        elements[at] = at << 32 | 0xFFFFFFFF
    assert area.tobytes()[4:84] == b"".join((at << 32 | 0xFFFFFFFF).to_bytes(8, "little") for at in range(10))


def test_release_lets_go_of_every_page() -> None:
    buffers = [bytearray(32) for _ in range(3)]
    area = ScatteredArea([memoryview(buffer) for buffer in buffers])
    items = area.cast("Q")
    elements = area[4:92]
    more = elements.cast("Q")
    for view in (items, more, elements, area):
        view.release()
    for buffer in buffers:
        buffer.append(0)  # BufferError while anybody has a view of it
