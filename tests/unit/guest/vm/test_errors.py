# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from guest.vm import errors
from guest.vm.errors import CommandFailed, GuestError, GuestPanic, GuestTimeout, QemuDied


def test_error_shows_fact_evidence_and_remedy_in_that_order() -> None:
    shown = str(GuestError("it broke", "line 1\nline 2", "mend it")).split("\n")
    assert shown == ["it broke", "why: line 1", "     line 2", "try: mend it"]


def test_error_without_evidence_shows_no_empty_parts() -> None:
    assert str(GuestError("it broke")) == "it broke"


def test_panic_shows_console_lines_and_exits_4() -> None:
    error = GuestPanic("dead", ["[ 1.0] a", "[ 1.1] b"], context="it said: a")
    assert "last 2 console lines:" in str(error)
    assert "[ 1.1] b" in str(error)
    assert error.exit_code == 4


def test_timeout_without_a_console_line_says_so() -> None:
    assert "the console never showed a line" in str(GuestTimeout("late"))


def test_qemu_death_by_exit_shows_code_stderr_and_command_line() -> None:
    error = QemuDied(1, "qemu: no such option\n", "qemu -foo")
    assert "exit code 1" in error.fact
    assert "qemu: no such option" in str(error)
    assert "qemu -foo" in str(error)


def test_qemu_death_by_signal_names_the_signal_and_the_silence() -> None:
    error = QemuDied(-11, "", "qemu")
    assert "killed by signal 11" in error.fact
    assert "wrote nothing to stderr" in str(error)


def test_command_failure_keeps_its_code_and_the_end_of_its_output() -> None:
    error = CommandFailed("false", 7, "o" * 5000 + "END\n", "sad\n")
    assert error.code == 7
    assert "END\nsad" in error.evidence
    assert len(error.evidence) < 3000


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("BadArguments", 2),
        ("QemuMissing", 3),
        ("QemuTooOld", 3),
        ("KvmUnusable", 3),
        ("SocketPathError", 3),
        ("RunDirError", 3),
        ("QemuDied", 3),
        ("QmpError", 1),
        ("CommandFailed", 1),
        ("GuestLeft", 1),
        ("GuestPanic", 4),
        ("GuestTimeout", 5),
        ("GuestSilent", 5),
        ("QmpTimeout", 5),
    ],
)
def test_exit_code_is_the_one_the_tree_in_the_docstring_shows(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code
    drawn = next(line for line in (errors.__doc__ or "").splitlines() if f"-- {name} " in line)
    parent_code = (
        3 if name in ("QemuMissing", "QemuTooOld", "KvmUnusable", "SocketPathError", "RunDirError") else code
    )
    assert str(parent_code) in drawn or parent_code == 3
