# SPDX-License-Identifier: GPL-2.0-or-later
"""Every stimulus of the differential on the guest's own kernel as the server; see docs/differential.md."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
YOUNG_S = 230.0
"""Five minutes after boot the kernel's 32-bit clock passes 0 (INITIAL_JIFFIES).  From a second before until two minutes
after that, a listener that never had too many SYNs looks like one that has just had them, as 0 is what it remembers of
none: its ACKs then count in SyncookiesFailed."""

# A stimulus takes the guest some tenths of a second.  Of these groups, which mostly repeat on 6.1 what the host is
# asked on 6.18, every so many of the table are run here, and all with VNIC_HEAVY=1, as `make conformance` does.
EVERY = {"accecn": 12, "connect": 5, "options": 5, "ipv6": 4, "six": 4, "recovery": 4, "timers": 4}
EVERY |= {"races": 3, "windows": 3, "delack": 3, "states": 2, "memory": 2}

pytestmark = pytest.mark.xdist_group("kernel-differential")


def _asked(group: str) -> list[str]:
    step = 1 if os.environ.get("VNIC_HEAVY") else EVERY.get(group, 1)
    return GROUPS[group][::step]


class Guests:
    """A guest, and another one before it is five minutes old."""

    def __init__(self, boot: Callable[[], AbstractContextManager[GuestServer]]) -> None:
        self._boot = boot
        self._kept = ExitStack()
        self._until = 0.0

    def young(self) -> GuestServer:
        if time.monotonic() > self._until:
            self.close()
            self._server = self._kept.enter_context(self._boot())
            self._until = time.monotonic() + YOUNG_S
        return self._server

    def close(self) -> None:
        self._kept.close()


@pytest.fixture(scope="module")
def guests(vm_of: Callable[..., Vm], shared_artifacts: Any) -> Iterator[Guests]:
    """One guest at a time for the whole table; each stimulus has a namespace of its own in it."""
    with shared_artifacts("") as folder:

        @contextmanager
        def boot() -> Iterator[GuestServer]:
            with RunDir.create() as rundir, booted(vm_of, rundir, folder) as server:
                yield server

        made = Guests(boot)
        try:
            first = made.young()
            if first.profile not in PROFILES:
                pytest.skip(
                    f"the guest runs Linux {first.release}, for which stack/profile.py has no profile"
                )
            yield made
        finally:
            made.close()


def _judge(guests: Guests, stimulus: Stimulus) -> tuple[Verdict, float]:
    """The best verdict, and how late the guest was the last time."""
    for _ in range(TRIES):
        server = guests.young()
        real = server.run(stimulus)
        verdict = judge_ours(stimulus, server.profile, real, "guest")
        if not verdict.differences or stimulus.name in OPEN:
            break
    return verdict, real["late"]


@pytest.mark.stimuli
@pytest.mark.parametrize("group", sorted(GROUPS))
def test_answers_and_counters_are_the_guests_kernels(
    guests: Guests, group: str, record_property: Callable[[str, object], None]
) -> None:
    texts, late, verdicts = [], [], {}
    asked = _asked(group)
    for name in asked:
        verdict, ms = _judge(guests, TABLE[name])
        found, verdicts[name] = verdict.differences, verdict.text()
        if not found and name in OPEN:
            warnings.warn(f"{name} is listed as open and does not differ in the guest", stacklevel=1)
        elif found and name not in OPEN:
            (late if ms > LATE_MS else texts).append(f"{name}:\n  " + "\n  ".join(found))
    record_property("stimuli", (guests.young().profile, verdicts))
    if late:
        warnings.warn("the guest is too slow to judge:\n" + "\n".join(late), stacklevel=1)
    assert len(late) <= max(len(asked) // 10, 1), f"the guest is too slow: {late}"
    assert not texts, "\n" + "\n".join(texts)


@pytest.mark.parametrize("name", ["snmp", "netstat"])
def test_counters_have_the_names_and_the_order_of_the_guests_kernel(guests: Guests, name: str) -> None:
    server = guests.young()
    net = Stack(ManualClock(0), SeededRng(1), server.profile)
    ours = {"snmp": proc.snmp_seq_show, "netstat": proc.netstat_seq_show}[name](net)
    ignored = ("IcmpMsg", "MPTcpExt")  # only types that happened are named; multipath TCP is not ours
    assert _names(ours, ignored) == _names(server.proc[name], ignored)


def _names(text: str, ignored: tuple[str, ...]) -> list[str]:
    return [line for line in text.splitlines()[::2] if not line.startswith(ignored)]
