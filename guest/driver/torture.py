# SPDX-License-Identifier: GPL-2.0-or-later
"""What a back end makes of frontends and guests that break the rules, input by input; docs/bad-inputs.md is the table.

Theory of operation. A `Case` is one bad input: the row of the table that it belongs to, a function that gives it to a
`Victim` (a fresh connection to the back end), and the outcomes that are good. Before the first case a baseline is
taken: does the back end answer ARP through the rings, does it poll (a busy loop cannot be told from one that does),
which features does it have. After each case another connection asks for features and, if the baseline had it, for ARP:
a back end that does not answer that any more is hung or crashed, whatever the case saw.

Outcomes, what was seen:

    refused      a nonzero acknowledgement; the connection goes on
    closed       the back end hung up
    broken       it stopped that ring, and said so through the ring's error descriptor
    stalled      nothing happened to the buffer, nobody was told, the connection goes on
    dropped      the buffer came back and its frame went nowhere
    passed       its frame went through
    served       the input is legal, or harmless, and traffic went on
    accepted     a nonzero acknowledgement was due, and zero came
    busy         the back end spins
    leaking      its descriptors grow
    scribbled    it wrote into a ring after it had called it broken, or beside the migration log
    hung         no answer before the deadline
    crashed      nobody listens any more
    died         a back end that was started for this one input ended by SIGBUS, which is no surprise
    nonsense     the answer is none
    skipped      the back end lacks the feature that this is about

Frames for rings are ARP requests: whether one went through is seen by its answer. Behind a back end that answers no
ARP, frames that `passed` look dropped.

"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.message import Request
from devmodel.virtio import features as vf
from guest.driver.backend import Backend
from guest.driver.errors import (
    BackendAbsent,
    BackendHungUp,
    BackendSilent,
    DeviceBroken,
    FeatureMissing,
    ProtocolBroken,
    RequestRefused,
)
from guest.driver.frontend import Call, Frontend
from guest.driver.memory import LAYOUTS, DriverMemory
from guest.driver.rawhost import RawHost
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX, VirtioNetDriver

REFUSED: Final = "refused"
CLOSED: Final = "closed"
BROKEN: Final = "broken"
STALLED: Final = "stalled"
DROPPED: Final = "dropped"
SERVED: Final = "served"
PASSED: Final = "passed"
ACCEPTED: Final = "accepted"
BUSY: Final = "busy"
LEAKING: Final = "leaking"
SCRIBBLED: Final = "scribbled"
HUNG: Final = "hung"
CRASHED: Final = "crashed"
DIED: Final = "died"
NONSENSE: Final = "nonsense"
SKIPPED: Final = "skipped"

Good = frozenset[str]
ERR: Final[Good] = frozenset({REFUSED, CLOSED})
CLOSE: Final[Good] = frozenset({CLOSED})
BROKEN_RING: Final[Good] = frozenset({BROKEN, STALLED, CLOSED})
DROP: Final[Good] = frozenset({DROPPED})
SERVE: Final[Good] = frozenset({SERVED})
HARMLESS: Final[Good] = frozenset({SERVED, DROPPED, PASSED, STALLED, REFUSED, CLOSED, BROKEN})
"""Anything but a back end that hangs, spins or dies."""

MEMORY: Final = 8 << 20
NUM: Final = 16
_SAMPLES: Final = 20
_SAMPLE_S: Final = 0.01
_MAY_SPIN: Final = frozenset({10, 11, 44, 46, 55})
"""Rows after which it is seen whether the back end sleeps, which takes a while."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`deadline_s` is for answers; `patience_s` for what a ring may do unasked; `start` is the command that starts a
    further back end of this kind, listening at "{}", for an input that is likely to kill it."""

    path: str
    server: str = "10.0.2.2"
    address: str = "10.0.2.15"
    deadline_s: float = 2.0
    patience_s: float = 0.25
    start: tuple[str, ...] = ()


@dataclass(slots=True)
class Baseline:
    """What the back end does while nobody breaks anything."""

    answers_arp: bool = False
    polls: bool = False
    pid: int = 0


class Victim:
    """One connection to the back end, and what a frontend has; a context manager."""

    def __init__(self, settings: Settings, baseline: Baseline) -> None:
        self.settings = settings
        self.baseline = baseline
        self.backend = Backend(settings.path, settings.deadline_s)
        self.frontend = Frontend()
        self.host = RawHost(bytes.fromhex("525400567890"), settings.address)
        self._memory: DriverMemory | None = None
        self._driver: VirtioNetDriver | None = None
        self._extra_fds: list[int] = []

    # -- the good way -----------------------------------------------------------------------------------

    def connect(self) -> Victim:
        self.backend.connect()
        self.backend.run(self.frontend.connect())
        return self

    @property
    def memory(self) -> DriverMemory:
        if self._memory is None:
            self._memory = DriverMemory(LAYOUTS["split"](MEMORY))
        return self._memory

    @property
    def driver(self) -> VirtioNetDriver:
        assert self._driver is not None
        return self._driver

    def prepare(
        self, features: int = DRIVER_FEATURES, layout: str = "split", num: int = NUM, sealed: bool = True
    ) -> VirtioNetDriver:
        """Features are set and rings laid out, nothing is shared yet."""
        self._memory = DriverMemory(LAYOUTS[layout](MEMORY), sealed)
        self.backend.run(self.frontend.set_features(features & self.frontend.offered))
        self._driver = VirtioNetDriver(self._memory, self.frontend.features, num)
        return self._driver

    def start(
        self, features: int = DRIVER_FEATURES, layout: str = "split", num: int = NUM, sealed: bool = True
    ) -> Victim:
        """Rings run, receive buffers are there."""
        driver = self.prepare(features, layout, num, sealed)
        driver.refill()
        driver.rx.enable_calls()
        self.go()
        return self

    def go(self) -> None:
        """Share the memory and start the rings that `prepare()` made."""
        self.backend.run(self.frontend.start(self.memory, self.driver.queues, self.backend.fds))
        self.backend.kick(RX)

    # -- asking -----------------------------------------------------------------------------------------

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 1) -> str:
        """Give a message that has to be refused; what became of it."""
        need = self.frontend.has(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
        flags |= vu.VHOST_USER_NEED_REPLY_MASK if need else 0
        self.backend.send_raw(vu.encode(request, payload, flags), fds)
        if not need:
            self.alive()
            return ACCEPTED
        answer = self.backend.answer(Call(request, replies=True))
        return REFUSED if any(answer[:8]) else ACCEPTED

    def alive(self) -> None:
        """The connection goes on. BackendHungUp, BackendSilent."""
        self.backend.run(self.frontend.number(Request.VHOST_USER_GET_FEATURES))

    def closes(self) -> str:
        """Wait for the back end to hang up; if it does not it is HUNG, or ACCEPTED what it was sent."""
        self.backend.sock.settimeout(self.settings.deadline_s)
        said = b""
        try:
            while data := self.backend.sock.recv(4096):
                said += data
        except TimeoutError:
            return ACCEPTED if said else HUNG
        except ConnectionResetError:
            pass
        return CLOSED

    # -- rings ------------------------------------------------------------------------------------------

    def arp_frame(self) -> bytes:
        self.host.arp(self.settings.server)
        return self.host.take()[0]

    def packet(self) -> bytes:
        """An ARP request with its virtio_net_hdr, all zeros."""
        return bytes(self.driver.hdr_size) + self.arp_frame()

    def heard(self) -> bool:
        """Whether an answer to an ARP request is there."""
        for hdr, frame in self.driver.receive()[0]:
            self.host.handle(frame, hdr)
        self.host.take()
        return self.settings.server in self.host.neighbours

    def watch(self, completed: Callable[[], bool]) -> str:
        """Kick the transmit ring, and see what becomes of what lies there."""
        self.backend.kick(TX)
        until = time.monotonic() + self.settings.patience_s
        done = False
        while (left := until - time.monotonic()) > 0:
            self.backend.wait((RX,), min(left, 0.02))
            if self.heard():
                return PASSED
            if TX in self.backend.broken_rings():
                return self._left_alone()
            if completed() and not done:
                done, until = True, min(until, time.monotonic() + self.settings.patience_s / 2)
        self.alive()
        return DROPPED if done else STALLED

    def _left_alone(self) -> str:
        """BROKEN, unless the device still writes to a ring that it called broken."""
        tx = self.driver.tx

        def ring() -> list[bytes]:
            areas = zip((tx.desc_gpa, tx.driver_gpa, tx.device_gpa), tx.sizes, strict=True)
            return [self.memory.read(gpa, size) for gpa, size in areas]

        before = ring()
        self.backend.kick(TX)
        time.sleep(0.01)
        self.alive()
        return BROKEN if ring() == before else SCRIBBLED

    def traffic(self) -> str:
        """An ordinary ARP request: SERVED if it is answered, STALLED if not."""
        self.alive()
        if not self.baseline.answers_arp:
            return SERVED
        self.host.neighbours.clear()
        self.driver.send(self.arp_frame())
        self.backend.kick(TX)
        until = time.monotonic() + self.settings.deadline_s
        while (left := until - time.monotonic()) > 0:
            self.backend.wait((RX,), min(left, 0.02))
            if self.heard():
                return SERVED
        return STALLED

    # -- the process ------------------------------------------------------------------------------------

    def pid(self) -> int:
        """Of who listens; 0 if that is not known."""
        creds = self.backend.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", creds)[0])

    def spins(self) -> bool:
        """The back end never sleeps although nothing happens."""
        return not self.baseline.polls and always_runs(self.baseline.pid)

    def fd_count(self) -> int:
        """How many descriptors it has; 0 if that cannot be seen."""
        try:
            return len(os.listdir(f"/proc/{self.baseline.pid}/fd"))
        except OSError:
            return 0

    def keep(self, *fds: int) -> tuple[int, ...]:
        """Descriptors that are closed with this connection."""
        self._extra_fds += fds
        return fds

    def drop(self, fd: int) -> None:
        """Close one of those now."""
        self._extra_fds.remove(fd)
        os.close(fd)

    def close(self) -> None:
        self.backend.close()
        for fd in self._extra_fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        if self._memory is not None:
            self._memory.close()

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def always_runs(pid: int) -> bool:
    """Whether a thread of that process never sleeps; False if that cannot be seen. Not measured by the time that it
    gets, of which a busy machine gives it little."""
    samples = []
    for _ in range(_SAMPLES):
        time.sleep(_SAMPLE_S)
        samples.append(_running_threads(pid))
    threads: set[str] = set().union(*samples)
    return any(sum(thread in sample for sample in samples) >= 0.9 * _SAMPLES for thread in threads)


def _running_threads(pid: int) -> set[str]:
    """Those that run or would if they had a processor."""
    running: set[str] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] == "R":
                    running.add(thread)
    except OSError:
        pass
    return running


# -- cases and their verdicts ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """See the module."""

    row: int
    name: str
    act: Callable[[Victim], str]
    good: Good


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a case; `ok` also for one that was skipped."""

    row: int
    name: str
    outcome: str
    good: Good
    evidence: str = ""
    fatal: bool = False  # the back end serves nobody any more

    @property
    def ok(self) -> bool:
        return self.outcome in self.good or self.outcome == SKIPPED

    def asdict(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "input": self.name,
            "ok": self.ok,
            "outcome": self.outcome,
            "good": sorted(self.good),
            "evidence": self.evidence,
            "fatal": self.fatal,
        }


_OUTCOME_OF: Final[dict[type[Exception], str]] = {
    BackendHungUp: CLOSED,
    BackendSilent: HUNG,
    BackendAbsent: CRASHED,
    RequestRefused: REFUSED,
    FeatureMissing: SKIPPED,
    ProtocolBroken: NONSENSE,
    DeviceBroken: NONSENSE,
}


@dataclass(slots=True)
class Torture:
    """Gives cases to a back end, one after the other."""

    settings: Settings
    baseline: Baseline = field(default_factory=Baseline)

    def begin(self) -> Baseline:
        """Take the baseline. DriverError if the back end does not even serve a good frontend."""
        with Victim(self.settings, self.baseline) as victim:
            victim.connect().start()
            self.baseline.pid = victim.pid()
            self.baseline.answers_arp = True
            self.baseline.answers_arp = victim.traffic() == SERVED
            self.baseline.polls = always_runs(self.baseline.pid)
        return self.baseline

    def run(self, cases: Iterable[Case]) -> Iterable[Verdict]:
        """Each case's verdict as it is known; ends early when the back end serves nobody any more."""
        for case in cases:
            verdict = self.one(case)
            yield verdict
            if verdict.fatal:
                return

    def one(self, case: Case) -> Verdict:
        outcome, evidence = self._give(case)
        ill, why = self._health()
        if ill:
            outcome, evidence = ill, f"seen: {outcome}; then {why}"
        return Verdict(case.row, case.name, outcome, case.good, evidence, bool(ill))

    def _give(self, case: Case) -> tuple[str, str]:
        try:
            with Victim(self.settings, self.baseline) as victim:
                victim.connect()
                outcome = case.act(victim)
                if case.row in _MAY_SPIN and outcome != CLOSED and victim.spins():
                    return BUSY, f"after {outcome}"
                return outcome, ""
        except tuple(_OUTCOME_OF) as error:
            return _OUTCOME_OF[type(error)], str(error).replace("\n", ": ")

    def _health(self) -> tuple[str, str]:
        """Whether a good frontend is served: ("", "") or what ails the back end and how it is known."""
        try:
            with Victim(self.settings, self.baseline) as victim:
                self._reach(victim)
                victim.start()
                if victim.traffic() != SERVED:
                    return HUNG, "a good frontend got no answer through its rings"
        except tuple(_OUTCOME_OF) as error:
            return CRASHED if isinstance(error, BackendAbsent) else HUNG, str(error).replace("\n", ": ")
        return "", ""

    def _reach(self, victim: Victim) -> None:
        """Connect; a back end that serves one frontend at a time may need a moment to see that the last one left."""
        until = time.monotonic() + self.settings.deadline_s
        while True:
            try:
                victim.connect()
                return
            except BackendHungUp:
                if time.monotonic() > until:
                    raise
            time.sleep(0.02)
            victim.backend.sock.close()
            victim.backend.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def rows(cases: Iterable[Case]) -> set[int]:
    return {case.row for case in cases}


def feature(victim: Victim, bit: int) -> None:
    """FeatureMissing, and so SKIPPED, without it."""
    if not victim.frontend.offered >> bit & 1:
        raise FeatureMissing(f"{vf.names(1 << bit)[0]} is not offered")


def protocol(victim: Victim, bit: int) -> None:
    """FeatureMissing, and so SKIPPED, without it."""
    if not victim.frontend.has(bit):
        raise FeatureMissing(f"{vu.names(1 << bit)[0]} is not offered")
