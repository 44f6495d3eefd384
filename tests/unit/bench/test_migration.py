# SPDX-License-Identifier: GPL-2.0-or-later
"""The pause of a download is found across two captures, whatever else is in them."""

from __future__ import annotations

from pathlib import Path

from bench.migration import Move, longest_pause
from devmodel.middleware.capture import INBOUND, Captured, PcapngWriter, open_file

HEAD = bytes(12) + b"\x08\x00" + bytes(20)
DATA = HEAD + b"\x00\x50" + bytes(1000)
ACK = HEAD + b"\x00\x50" + bytes(30)
OTHER = HEAD + b"\x00\x07" + bytes(1000)


def capture(path: Path, *frames: tuple[int, bytes]) -> Path:
    writer = PcapngWriter(open_file(path), "net")
    for stamp_ms, frame in frames:
        writer.write(Captured(stamp_ms * 1_000_000, INBOUND, [frame]))
    writer.close()
    return path


def test_longest_pause_lies_between_the_captures(tmp_path: Path) -> None:
    first = capture(tmp_path / "first", (1000, DATA), (1010, DATA), (1100, ACK), (1150, OTHER))
    second = capture(tmp_path / "second", (1180, OTHER), (1200, DATA), (1201, DATA))
    assert longest_pause(first, second) == 190
    assert longest_pause(first) == 10


def test_row_of_a_guest_that_downloaded_nothing_has_no_pause() -> None:
    assert Move(1, 2, 3, 4, 0.0).row("waits") == "| waits | 1 | 2 | 3 | 4 | - |"
