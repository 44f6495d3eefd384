# SPDX-License-Identifier: GPL-2.0-or-later
"""The kit against back ends that have a fault: each fault gets its verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_backend import faulty

from guest.driver import torture_messages
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
