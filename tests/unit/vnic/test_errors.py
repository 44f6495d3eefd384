# SPDX-License-Identifier: GPL-2.0-or-later
"""Every layer's exceptions as fact, evidence, remedy and exit code."""

from __future__ import annotations

import errno

import pytest

from devmodel.errors import SocketPathTooLong
from guest.vm.errors import GuestPanic, GuestTimeout
from images.errors import DiskError
from vnic import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("f", "e", "r"), 2),
        (SocketPathTooLong("f", "e", "r"), 3),
        (DiskError("f", "e", "r"), 3),
        (GuestPanic("f", ["last words"], "r"), 4),
        (GuestTimeout("f", ["last words"], "r"), 5),
        (errors.BackendTimeout("f", "e", "r"), 5),
        (OSError(errno.ENOSPC, "full"), 3),
        (ValueError("odd"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_code(error: BaseException, code: int) -> None:
    assert errors.exit_code_of(error) == code


def test_render_has_a_line_a_part_and_indents_more() -> None:
    text = errors.render(errors.UsageError("the fact", "seen\nand seen", "type this"))
    assert text.split("\n") == [
        "error: the fact",
        "  because: seen",
        "    and seen",
        "  to mend it: type this",
    ]


def test_render_leaves_an_empty_part_out() -> None:
    assert errors.render(errors.UsageError("the fact")) == "error: the fact"


def test_full_disk_names_the_file_and_a_remedy() -> None:
    told = errors.from_oserror(OSError(errno.ENOSPC, "x", "/big/file"), "write the capture")
    assert told.fact == "could not write the capture"
    assert "ENOSPC" in told.evidence
    assert "/big/file" in told.evidence
    assert "df -h" in told.remedy


def test_unknown_error_asks_for_debug() -> None:
    assert "--debug" in errors.render(ValueError("odd"))
