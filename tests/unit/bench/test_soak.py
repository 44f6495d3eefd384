# SPDX-License-Identifier: GPL-2.0-or-later
"""The command prints a table for each life, and says by its exit code whether there was a leak."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import soak
from bench.soak import Census, Result

SHORT = ["--hours", "0.02", "--rounds", "8", "--seeds", "1"]
FLAT = Census(6.0, fds=6, maps=0, timers=0, readers=0, blocks=80_000, rss_kib=30_000)


def test_command_prints_four_marks_of_each_life(capsys: pytest.CaptureFixture[str]) -> None:
    soak.main(SHORT)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines if "seed" in line] == ["in process", "unix socket"]
    assert sum(line.lstrip()[:1].isdigit() for line in lines) == 8


@pytest.mark.parametrize(("more", "code"), [(0, 0), (1, 1)])
def test_exit_code_says_whether_there_was_a_leak(
    more: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Result("in process", 1, (FLAT, replace(FLAT, at=12.0, fds=6 + more)), {"chat": 1}, 1, 1.0)
    monkeypatch.setattr(soak, "in_process", lambda hours, seed: result)
    monkeypatch.setattr(soak, "over_socket", lambda rounds, seed: replace(result, marks=(FLAT,)))
    assert soak.main(SHORT) == code
    assert ("LEAK fds: 6 at 6, 7 at 12" in capsys.readouterr().out) == bool(more)
