# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that is written as a whole or not at all, and what is there instead of a file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from vnic.cli.serve import write_whole
from vnic.errors import HostIOError


def test_file_is_replaced_and_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    write_whole(path, "")
    assert path.read_text() == "old"
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_pipe_stays_a_pipe(tmp_path: Path) -> None:
    """As /dev/null stays what it is, also where root writes there."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    write_whole(path, "")
    writer = threading.Thread(target=write_whole, args=(path, "text"))
    writer.start()
    assert path.read_text() == "text"
    writer.join()
    assert path.is_fifo()


@pytest.mark.parametrize("name", [".", "", "directory"])
def test_directory_is_refused_when_it_is_tried(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    with pytest.raises(HostIOError, match="could not write"):
        write_whole(Path(name), "")
    assert not list(tmp_path.glob("*.part"))


def test_text_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\udcff")
    assert not list(tmp_path.iterdir())
