# SPDX-License-Identifier: GPL-2.0-or-later
"""Mapping of passed descriptors: offsets of any kind, sizes checked before anything is touched."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devmodel.errors import MappingError
from devmodel.vhost_user.mapping import allocate, map_fd


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("ram", os.MFD_CLOEXEC)
    os.ftruncate(fd, 3 * 4096 + 100)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("size", "offset"), [(4096, 0), (4096, 8192), (100, 12288), (5000, 4095), (1, 12387)]
)
def test_view_is_that_piece_of_the_file(memfd: int, size: int, offset: int) -> None:
    mapping = map_fd(memfd, size, offset)
    assert len(mapping.view) == size
    mapping.view[0] = 0xA5
    assert os.pread(memfd, 1, offset) == b"\xa5"
    mapping.close()


def test_same_descriptor_twice_is_the_same_memory(memfd: int) -> None:
    one, two = map_fd(memfd, 4096, 0), map_fd(memfd, 8192, 0)
    one.view[7] = 1
    assert two.view[7] == 1
    one.close()
    two.close()


def test_row_16_one_byte_beyond_the_end(memfd: int) -> None:
    with pytest.raises(MappingError, match="too short"):
        map_fd(memfd, 101, 12288)


def test_row_17_directory_is_no_memory() -> None:
    fd = os.open("/", os.O_RDONLY)
    with pytest.raises(MappingError, match="not a file"):
        map_fd(fd, 4096, 0)
    os.close(fd)


def test_close_with_a_slice_in_use_delays_the_unmapping(memfd: int) -> None:
    mapping = map_fd(memfd, 4096, 0)
    piece = mapping.view[10:20]
    mapping.close()
    piece[0] = 9
    assert os.pread(memfd, 1, 10) == b"\x09"
    piece.release()


def test_sealed_is_what_cannot_be_made_shorter(memfd: int) -> None:
    mapping = map_fd(memfd, 4096, 0)
    assert not mapping.sealed
    mapping.close()
    fd = allocate(4096)
    mapping = map_fd(fd, 4096, 0)
    assert mapping.sealed
    mapping.close()
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.close(fd)


def test_file_of_a_disk_cannot_be_sealed(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file:
        mapping = map_fd(file.fileno(), 4096, 0)
        assert not mapping.sealed
        mapping.close()


def test_memory_of_no_possible_size_is_refused() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for size in (1 << 63, -1):
        with pytest.raises(MappingError):
            allocate(size)
    assert len(os.listdir("/proc/self/fd")) == before
