# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from images import cpio

ENTRIES = [
    cpio.regular("usr/bin/tool", b"12345", 0o755),
    cpio.symlink("bin/tool", "../usr/bin/tool"),
    cpio.char_device("dev/console", 5, 1),
    cpio.regular("init", b"", 0o755),
]


def test_archive_read_back_gives_the_entries_sorted_with_their_parents() -> None:
    found = list(cpio.read(cpio.archive(ENTRIES)))
    paths = ["bin", "bin/tool", "dev", "dev/console", "init", "usr", "usr/bin", "usr/bin/tool"]
    assert [entry.path for entry in found] == paths
    assert {*ENTRIES} <= {*found}
    assert stat.S_ISDIR(found[0].mode)


def test_archive_order_of_entries_does_not_matter() -> None:
    assert cpio.archive(ENTRIES) == cpio.archive(reversed(ENTRIES))


def test_archive_a_changed_byte_changes_it() -> None:
    other = [*ENTRIES[:-1], cpio.regular("init", b"x", 0o755)]
    assert cpio.archive(ENTRIES) != cpio.archive(other)


def test_archive_header_has_no_time_and_no_owner() -> None:
    data = cpio.archive([cpio.regular("a", b"x")])
    fields = [int(data[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    inode, mode, uid, gid, links, mtime, size = fields[:7]
    assert (inode, mode, uid, gid, links, mtime, size) == (1, 0o100644, 0, 0, 1, 0, 1)
    assert len(data) % 512 == 0


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5])
def test_archive_every_padding_reads_back(size: int) -> None:
    entries = [cpio.regular("n" * (size + 1), b"d" * size), cpio.regular("z", b"end")]
    assert list(cpio.read(cpio.archive(entries))) == entries


def test_archive_same_path_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="twice"):
        cpio.archive([cpio.regular("a", b"1"), cpio.regular("a", b"2")])


@pytest.mark.parametrize("cut", [50, 115, 250])
def test_read_truncated_is_an_error(cut: int) -> None:
    with pytest.raises(ValueError):
        list(cpio.read(cpio.archive([cpio.regular("a", b"x" * 200)])[:cut]))


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio(1): apt-get install cpio")
def test_archive_cpio_lists_the_same_names(tmp_path: Path) -> None:
    data = cpio.archive(ENTRIES)
    done = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True)
    assert done.stdout.decode().split() == [entry.path for entry in cpio.read(data)]
