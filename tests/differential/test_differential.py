# SPDX-License-Identifier: GPL-2.0-or-later
"""Every stimulus of the table on our Stack and on the host's kernel; see docs/differential.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stack.profile import PROFILES
from tests.differential import script
from tests.differential.allowed import OPEN
from tests.differential.compare import Verdict, judge
from tests.differential.docs import MARK, PATH, generated
from tests.differential.ours import judge_ours, run_ours
from tests.differential.table import GROUPS, TABLE

LATE_MS = 5.0  # a run whose client was late by more says nothing where it differs
ROOT = Path(__file__).resolve().parents[2]
TRIES = 5  # a busy host delays real time: what differs is looked at again


def _profile() -> str:
    return "linux-" + ".".join(platform.release().split(".")[:2])


@cache
def _why_not() -> str | None:
    """Why the host's kernel cannot be compared with; None if it can."""
    if os.geteuid() != 0:
        return "needs root, for a network namespace with a TUN device"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing"
    if _profile() not in PROFILES:
        return f"the host runs Linux {platform.release()}, for which stack/profile.py has no profile"
    probe = subprocess.run(
        [sys.executable, "-m", "tests.differential.real", _profile()],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return None if probe.returncode == 0 else f"no private namespace: {probe.stderr.strip().splitlines()[-1]}"


def _real(names: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.differential.real", _profile(), *names]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=50)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, Any] = json.loads(done.stdout)
    return outcomes


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.stimuli
@pytest.mark.parametrize("group", sorted(GROUPS))
def test_answers_and_counters_are_the_hosts_kernels(
    group: str, record_property: Callable[[str, object], None]
) -> None:
    reason = _why_not()
    if reason is not None:
        pytest.skip(reason)
    left = list(GROUPS[group])
    found: dict[str, Verdict] = {}
    for _ in range(TRIES):
        real = _real(left)
        found |= {name: judge_ours(TABLE[name], _profile(), real[name], "host") for name in left}
        left = [name for name in left if found[name].differences]
        if all(name in OPEN for name in left):
            break
    for name in sorted(OPEN.keys() & set(GROUPS[group]) - set(left)):
        warnings.warn(f"{name} is listed as open and does not differ any more", stacklevel=1)
    late = [name for name in left if name not in OPEN and real[name].get("late", 0.0) > LATE_MS]
    if late:
        warnings.warn(f"the host is too busy to judge {', '.join(late)}", stacklevel=1)
        left = [name for name in left if name not in late]
    assert len(late) <= len(GROUPS[group]) // 10, f"the host is too busy: {late}"
    record_property("stimuli", (_profile(), {name: verdict.text() for name, verdict in found.items()}))
    texts = [f"{name}:\n  " + "\n  ".join(found[name].differences) for name in left if name not in OPEN]
    assert not texts, "\n" + "\n".join(texts)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_stimulus_runs_on_our_stack(profile: str) -> None:
    outcomes = {name: run_ours(stimulus, profile) for name, stimulus in TABLE.items()}
    assert len(outcomes) >= 150
    malformed = {
        n: a for n, o in outcomes.items() for a in o["answers"] if a.get("malformed") or a.get("bad_checksum")
    }
    assert not malformed


def test_kernel_that_was_slow_is_judged_by_the_time_its_steps_took() -> None:
    stimulus = script.stimulus(
        "", script.established(), script.seg("FA", b"end"), *[script.recv()] * 5
    )  # ends before its delayed ACK
    slow = replace(stimulus, steps=tuple(replace(step, wait=step.wait + 12) for step in stimulus.steps))
    real = run_ours(slow, "linux-6.1") | {"sysctl": []}
    assert [a["flags"] for a in run_ours(stimulus, "linux-6.1")["answers"]] == ["SA"]
    assert [a["flags"] for a in real["answers"]] == ["SA", "A"]
    assert not judge_ours(stimulus, "linux-6.1", real, "guest").differences
    real["answers"][-1]["win"] += 1
    assert judge_ours(stimulus, "linux-6.1", real, "guest").differences


def test_what_a_slow_call_made_the_kernel_send_may_be_as_old_as_the_call() -> None:
    stimulus = script.stimulus("", script.established(), script.send(b"hello"))
    ours = run_ours(stimulus, "linux-6.1")
    real = run_ours(stimulus, "linux-6.1") | {"sysctl": []}
    real["answers"][-1]["tsval"] -= 60
    assert judge("", ours, real, "guest").differences
    real["called"][real["answers"][-1]["step"]] += 60
    assert not judge("", ours, real, "guest").differences
    real["answers"][-1]["tsval"] -= 60
    assert judge("", ours, real, "guest").differences


def test_open_differences_name_stimuli() -> None:
    assert set(OPEN) <= set(TABLE)


def test_docs_list_the_table_and_the_differences() -> None:
    assert PATH.read_text().partition(MARK)[2] == generated(), "run python -m tests.differential --docs"
