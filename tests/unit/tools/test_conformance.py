# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/conformance: what it makes of the tests' outcomes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from stack.profile import PROFILES
from tests.differential.allowed import OPEN
from tests.differential.table import TABLE

ROOT = Path(__file__).parents[3]

SAMPLE = """
import pytest

@pytest.mark.fact(1, "both")
@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.18"])
def test_both(profile): assert profile

@pytest.mark.fact(1, "a|bar")
@pytest.mark.parametrize(("value", "profile"), [(1, "linux-6.18"), (2, "linux-6.18")])
def test_newer(value, profile): assert value == 1

@pytest.mark.probe("default")
def test_probe(): assert True

@pytest.mark.probe("skipped")
def test_skipped(): pytest.skip("no root")

@pytest.mark.probe("known")
@pytest.mark.xfail(reason="not built", strict=True)
def test_known(): assert False

@pytest.mark.probe("setup")
def test_setup(no_such_fixture): pass

def test_unmarked(): assert False
"""


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command as a module."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("conformance", str(ROOT / "tools" / "conformance"))
    spec = importlib.util.spec_from_loader("conformance", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "conformance", module)
    loader.exec_module(module)
    return module


def test_profiles_are_those_of_the_stack(conformance: ModuleType) -> None:
    assert set(conformance.PROFILES) == set(PROFILES) - {
        "linux-7.3"
    }  # which was asked for Accurate ECN alone


def test_no_test_leaves_every_fact_missing(conformance: ModuleType) -> None:
    table = conformance.Table()
    assert table.missing() == list(range(1, 72))
    assert not table.all_hold()
    assert "Without a test: 1, 2, 3," in table.render()


def test_every_fact_passed_holds(conformance: ModuleType) -> None:
    table = conformance.Table()
    for number in range(1, 72):
        table.add(conformance.Row(number, "x"), "test_x", "linux-6.1", "passed")
    assert table.all_hold()
    text = table.render()
    assert "| facts that hold | 71 of 71 (71 cases) | 0 of 0 (0 cases) |" in text
    assert "Without a test" not in text
    table.add(conformance.Row(7, "x"), "test_x", "linux-6.18", "failed")
    assert not table.all_hold()
    assert "| 7 | x | holds (1) | **fails** (1 of 1) | `test_x` |" in table.render()


def test_facts_stand_in_order_of_their_numbers(conformance: ModuleType) -> None:
    table = conformance.Table()
    for number in (12, 2, 30):
        table.add(conformance.Row(number, f"s{number}"), "t", "linux-6.1", "passed")
    assert [row.number for row in table.facts()] == [2, 12, 30]


@pytest.mark.slow
def test_outcomes_of_a_run(tmp_path: Path) -> None:
    """In a process of its own: pytest does not nest."""
    sample = tmp_path / "test_sample.py"
    sample.write_text(SAMPLE)
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['run_tests'](sys.argv[2:]).render())"
    options = ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={tmp_path}", str(sample)]
    command = [sys.executable, "-B", "-c", code, str(ROOT / "tools" / "conformance"), *options]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=True)
    rows = [line for line in run.stdout.splitlines() if line.startswith("| ")]
    assert "| 1 | both | holds (1) | holds (1) | `test_both` |" in rows
    assert "| 1 | a\\|bar | - | **fails** (1 of 2) | `test_newer` |" in rows
    assert "| default | holds (1) | - | `test_probe` |" in rows
    assert "| skipped | skipped: no root | - | `test_skipped` |" in rows
    assert "| known | known departure: not built | - | `test_known` |" in rows
    assert "| setup | **fails** (1 of 1) | - | `test_setup` |" in rows
    assert not any("test_unmarked" in row for row in rows)


def test_stimuli_of_a_run_are_rows_with_a_verdict_for_each_profile(conformance: ModuleType) -> None:
    table = conformance.Table()
    table.add_stimuli("linux-6.1", {"b": "same", "a": "same but for win"})
    table.add_stimuli("linux-6.18", {"b": "**differs**"})
    text = table.render()
    assert "| a | same but for win | - |\n| b | same | **differs** |\n" in text
    assert (
        "| stimuli that are the same | 2 of 2 (1 but for what is listed) | 0 of 1 (0 but for what is listed) |"
        in text
    )
    assert not table.all_hold()


def test_document_has_a_row_for_each_stimulus_of_the_differential() -> None:
    text = (ROOT / "docs" / "conformance.md").read_text().partition("## Stimuli")[2]
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert set(rows) - {"stimulus"} == set(TABLE), "run make conformance"
    assert {name for name, row in rows.items() if "differs" in row} <= set(OPEN)
