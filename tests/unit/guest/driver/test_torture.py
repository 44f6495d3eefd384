# SPDX-License-Identifier: GPL-2.0-or-later
"""The kit against back ends that have a fault: each fault gets its verdict."""

from __future__ import annotations

import sys
from pathlib import Path

import bad_backend
import pytest
from bad_backend import faulty

from guest.driver import torture_control, torture_messages, torture_shrink
from guest.driver.torture import ERR, Baseline, Case, Settings, Torture, Verdict

pytestmark = pytest.mark.slow  # a Python process takes a second to start


def find(row: int, part: str) -> Case:
    return next(case for case in torture_messages.CASES if case.row == row and part in case.name)


@pytest.mark.parametrize(
    ("fault", "row", "part", "outcome", "fatal"),
    [
        ("crash", 5, "request 99", "crashed", True),
        ("hang", 5, "request 99", "hung", True),
        ("accept", 5, "request 99", "accepted", False),
        ("nonsense", 5, "request 99", "nonsense", False),
        ("leak", 52, "SET_VRING_CALL", "leaking", False),
        ("spin", 10, "regular file", "busy", False),
    ],
)
def test_fault_is_seen(tmp_path: Path, fault: str, row: int, part: str, outcome: str, fatal: bool) -> None:
    with faulty(tmp_path / "s", fault) as path:
        kit = Torture(Settings(path=path, deadline_s=1.0, patience_s=0.05))
        if fault != "spin":
            assert not kit.begin().answers_arp
        else:
            with_pid(kit)
        case = find(row, part)
        verdicts = list(kit.run([case, find(6, "SET_OWNER")]))
        assert (verdicts[0].outcome, verdicts[0].ok) == (outcome, False)
        assert len(verdicts) == (1 if fatal else 2)


def test_bad_commands_of_the_control_queue_are_refused_by_our_device(tmp_path: Path) -> None:
    with faulty(tmp_path / "s", "control") as path:
        kit = Torture(Settings(path=path, deadline_s=1.0))
        kit.begin()
        seen = {verdict.name: verdict.outcome for verdict in kit.run(torture_control.CASES)}
    assert len(seen) == len(torture_control.CASES)
    assert seen.pop("no room for the answer") == "broken"
    assert set(seen.values()) == {"refused"}


def test_commands_that_are_all_obeyed_are_seen(tmp_path: Path) -> None:
    with faulty(tmp_path / "s", "oblige") as path:
        kit = Torture(Settings(path=path, deadline_s=1.0))
        kit.begin()
        verdicts = list(kit.run(torture_control.CASES[:5]))
    assert {(verdict.outcome, verdict.ok) for verdict in verdicts} == {("accepted", False)}


def test_memory_that_shrinks_kills_the_back_end_that_was_started_for_it(tmp_path: Path) -> None:
    start = (sys.executable, bad_backend.__file__, "{}", "none")
    with faulty(tmp_path / "s", "none") as path:
        kit = Torture(Settings(path=path, deadline_s=1.0, start=start))
        kit.begin()
        (verdict,) = kit.run(torture_shrink.CASES)
    assert (verdict.outcome, verdict.ok, verdict.fatal) == ("died", True, False)


@pytest.mark.parametrize("start", [(), ("false",), ("/no/such/program",)])
def test_memory_that_shrinks_is_skipped_without_a_back_end_of_its_own(
    tmp_path: Path, start: tuple[str, ...]
) -> None:
    with faulty(tmp_path / "s", "none") as path:
        kit = Torture(Settings(path=path, deadline_s=1.0, start=start))
        kit.begin()
        (verdict,) = kit.run(torture_shrink.CASES)
    assert (verdict.outcome, verdict.ok) == ("skipped", True)
    assert "--start" in verdict.evidence or "exit code" in verdict.evidence


def with_pid(kit: Torture) -> None:
    """The baseline of a back end that does not spin yet."""
    from guest.driver.torture import Victim

    with Victim(kit.settings, kit.baseline) as victim:
        victim.connect()
        kit.baseline.pid = victim.pid()


def test_skipped_is_ok_and_evidence_is_told() -> None:
    assert Verdict(20, "x", "skipped", ERR).ok
    assert not Verdict(20, "x", "hung", ERR, "why").ok
    assert Verdict(20, "x", "hung", ERR, "why").asdict()["evidence"] == "why"
    assert Baseline() == Baseline(False, False, 0)
