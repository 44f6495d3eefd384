# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic torture`` against ``vnic serve``: the outcome of every row of docs/bad-inputs.md, exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.driver import torture_messages, torture_migration, torture_rings
from guest.driver.torture import NOT_THERE, Settings, Torture
from vnic import cli

pytestmark = pytest.mark.slow  # a Python process takes a second to start

SERVE = [sys.executable, "-m", "vnic", "serve", "--control", "none"]
CASES = [*torture_messages.CASES, *torture_rings.CASES, *torture_migration.CASES]

# What each row's inputs get from our own back end, in the order of the inputs where they differ
OUTCOMES: dict[int, str | list[str]] = {
    1: "closed",
    2: "closed",
    3: "closed",
    4: "refused",
    5: ["refused"] * 4 + ["closed"],
    6: "refused",
    7: "refused",
    8: "refused",
    9: "refused",
    10: "served",
    11: "served",
    12: ["refused"] * 7 + ["closed", "refused"],
    13: "refused",
    14: "refused",
    15: "refused",
    16: "refused",
    17: "refused",
    19: "broken",
    20: "skipped",
    21: "refused",
    22: "refused",
    23: "refused",
    24: "served",
    25: "refused",
    26: "refused",
    27: "refused",
    28: "refused",
    29: "skipped",
    30: "broken",
    31: "broken",
    32: "broken",
    33: "broken",
    34: "passed",
    35: "broken",
    36: "broken",
    37: ["broken"] * 5 + ["passed"],
    38: ["passed", "dropped"],
    39: "dropped",
    40: "served",
    41: ["dropped"] * 4 + ["passed"],
    42: ["dropped", "dropped", "broken"],
    43: "dropped",
    44: "dropped",
    46: "broken",
    47: "served",
    48: ["refused"] * 8 + ["served"] * 2,
    50: ["refused"] * 10 + ["served"] * 3,
    52: "served",
    53: "served",
    54: "served",
    55: "served",
}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torture]:
    """A back end that is ready, and the kit with its baseline."""
    path = str(tmp_path_factory.mktemp("torture") / "s")
    process = subprocess.Popen(
        [*SERVE, "--vhost-user", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready:")
        made = Torture(Settings(path=path, patience_s=0.5))
        assert made.begin().answers_arp
        assert not made.baseline.polls
        yield made
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("row", sorted({case.row for case in CASES}))
def test_row_gets_its_outcome(kit: Torture, row: int) -> None:
    verdicts = list(kit.run([case for case in CASES if case.row == row]))
    due = OUTCOMES[row]
    due = [due] * len(verdicts) if isinstance(due, str) else due
    assert [(verdict.name, verdict.outcome) for verdict in verdicts] == [
        (verdict.name, outcome) for verdict, outcome in zip(verdicts, due, strict=True)
    ]
    assert all(verdict.ok for verdict in verdicts)


def test_every_row_of_the_table_is_there_or_said_not_to_be() -> None:
    assert {case.row for case in CASES} | set(NOT_THERE) == set(range(1, 56))
    table = Path("docs/bad-inputs.md").read_text("utf-8")
    rows = {
        int(line.split("|")[1]) for line in table.splitlines() if line.split("|")[1:2] and line[2:3].isdigit()
    }
    assert rows == set(range(1, 56))


def test_verb_says_each_verdict(kit: Torture, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["torture", "--connect", kit.settings.path, "--rows", "6,30-31"]) == 0
    told = capsys.readouterr()
    assert [line.split()[:3] for line in told.out.splitlines()] == [
        ["ok", "6", "refused"],
        ["ok", "30", "broken"],
        ["ok", "31", "broken"],
    ]
    assert "3 inputs stood, 0 not" in told.err


def test_verb_for_programs(kit: Torture, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["torture", "--connect", kit.settings.path, "--rows", "6", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["verdicts"][0]["outcome"] == "refused"
    assert set(report["not_there"]) == {str(row) for row in NOT_THERE}


def test_list_needs_no_back_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["torture", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CASES)


@pytest.mark.parametrize(
    "arguments", [(), ("--rows", "6"), ("--connect", "x", "--rows", "a"), ("--rows", "99")]
)
def test_what_cannot_be_is_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["torture", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_nobody_there_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["torture", "--connect", str(tmp_path / "none")]) == 3
    assert "no vhost-user back end" in capsys.readouterr().err
