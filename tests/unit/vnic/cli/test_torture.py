# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic torture`` against ``vnic serve``: the outcome of every row of docs/bad-inputs.md, exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.driver.torture import Settings, Torture
from guest.driver.torture_cases import CASES
from vnic import cli

pytestmark = pytest.mark.slow  # a Python process takes a second to start

BAD_BACKEND = Path(__file__).parents[3] / "helpers" / "bad_backend.py"
SERVE = [sys.executable, "-m", "vnic", "serve", "--control", "none"]

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
    18: "skipped",
    19: "broken",
    20: "refused",
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
    45: "skipped",
    46: "broken",
    47: "served",
    48: ["refused"] * 8 + ["served"] * 2,
    49: ["refused"] * 17 + ["broken"] * 5 + ["refused"] * 2 + ["broken"] * 7 + ["served"],
    50: ["refused"] * 10 + ["served"] * 3,
    51: ["served"] * 9 + ["stalled", "broken", "stalled"],
    52: "served",
    53: "served",
    54: "served",
    55: "served",
    56: ["refused"] * 10 + ["served"],
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


def test_every_row_of_the_table_is_there() -> None:
    assert {case.row for case in CASES} == set(range(1, 57))
    table = Path("docs/bad-inputs.md").read_text("utf-8")
    rows = {
        int(line.split("|")[1]) for line in table.splitlines() if line.split("|")[1:2] and line[2:3].isdigit()
    }
    assert rows == set(range(1, 57))


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


def test_list_needs_no_back_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["torture", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CASES)


def test_row_that_kills_is_given_to_a_back_end_of_its_own(
    kit: Torture, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["torture", "--connect", kit.settings.path, "--rows", "18"]
    assert cli.main(told) == 0
    assert "--start" in capsys.readouterr().out
    start = f"{sys.executable} {BAD_BACKEND} {{}} none"
    assert cli.main([*told, "--start", start]) == 0
    assert capsys.readouterr().out.split()[:3] == ["ok", "18", "died"]


@pytest.mark.parametrize(
    "arguments", [(), ("--rows", "6"), ("--connect", "x", "--rows", "a"), ("--rows", "99")]
)
def test_what_cannot_be_is_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["torture", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_nobody_there_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["torture", "--connect", str(tmp_path / "none")]) == 3
    assert "no vhost-user back end" in capsys.readouterr().err
