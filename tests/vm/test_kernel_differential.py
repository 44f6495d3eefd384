# SPDX-License-Identifier: GPL-2.0-or-later
"""Every IPv4 stimulus of the differential on the guest's own kernel as the server; see docs/differential.md."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guest.vm.args import Vm
from guest.vm.rundir import RunDir
from stack.clock import ManualClock
from stack.net.ipv4 import proc
from stack.profile import PROFILES
from stack.rng import SeededRng
from stack.stack import Stack
from tests.differential.allowed import OPEN
from tests.differential.compare import Verdict
from tests.differential.guest import GuestServer, booted
from tests.differential.ours import judge_ours
from tests.differential.script import Stimulus
from tests.differential.table import GROUPS, TABLE

LATE_MS = 10.0  # a guest that took longer for an answer says nothing where it differs
TRIES = 4

pytestmark = pytest.mark.xdist_group("kernel-differential")


@pytest.fixture(scope="module")
def server(vm_of: Callable[..., Vm], shared_artifacts: Any) -> Iterator[GuestServer]:
    """One guest for the whole table; each stimulus has a namespace of its own in it."""
    with shared_artifacts("") as folder, RunDir.create() as rundir, booted(vm_of, rundir, folder) as made:
        if made.profile not in PROFILES:
            pytest.skip(f"the guest runs Linux {made.release}, for which stack/profile.py has no profile")
        yield made


def _judge(server: GuestServer, stimulus: Stimulus) -> tuple[Verdict, float]:
    """The best verdict, and how late the guest was the last time."""
    for _ in range(TRIES):
        real = server.run(stimulus)
        verdict = judge_ours(stimulus, server.profile, real, "guest")
        if not verdict.differences or stimulus.name in OPEN:
            break
    return verdict, real["late"]


@pytest.mark.stimuli
@pytest.mark.parametrize("group", sorted(GROUPS))
def test_answers_and_counters_are_the_guests_kernels(
    server: GuestServer, group: str, record_property: Callable[[str, object], None]
) -> None:
    texts, late, verdicts = [], [], {}
    for name in GROUPS[group]:
        verdict, ms = _judge(server, TABLE[name])
        found, verdicts[name] = verdict.differences, verdict.text()
        if not found and name in OPEN:
            warnings.warn(f"{name} is listed as open and does not differ in the guest", stacklevel=1)
        elif found and name not in OPEN:
            (late if ms > LATE_MS else texts).append(f"{name}:\n  " + "\n  ".join(found))
    record_property("stimuli", (server.profile, verdicts))
    if late:
        warnings.warn("the guest is too slow to judge:\n" + "\n".join(late), stacklevel=1)
    assert len(late) <= len(GROUPS[group]) // 10, f"the guest is too slow: {late}"
    assert not texts, "\n" + "\n".join(texts)


@pytest.mark.parametrize("name", ["snmp", "netstat"])
def test_counters_have_the_names_and_the_order_of_the_guests_kernel(server: GuestServer, name: str) -> None:
    net = Stack(ManualClock(0), SeededRng(1), server.profile)
    ours = {"snmp": proc.snmp_seq_show, "netstat": proc.netstat_seq_show}[name](net)
    ignored = ("IcmpMsg", "MPTcpExt")  # only types that happened are named; multipath TCP is not ours
    assert _names(ours, ignored) == _names(server.proc[name], ignored)


def _names(text: str, ignored: tuple[str, ...]) -> list[str]:
    return [line for line in text.splitlines()[::2] if not line.startswith(ignored)]
