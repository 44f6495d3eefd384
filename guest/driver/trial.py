# SPDX-License-Identifier: GPL-2.0-or-later
"""Is somebody there? A driver's whole way to a back end behind a socket, then ARP, ping and a TCP connection.

`Trial.run()` does it and leaves what it saw in `Trial.report()`. Each probe has a deadline and is repeated meanwhile,
as any host would; what does not answer is a result, what breaks the protocol is an error (guest/driver/errors.py). The
receive ring is looked at when its signal comes, and once more at every repetition: what lay there without a signal is
counted, since a real driver would not have seen it. With HASH_REPORT the back end is told to hash everything before the
first probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from devmodel.virtio import features as vf
from devmodel.virtio.rss import SUPPORTED_HASH_TYPES
from devmodel.virtio.spec import VIRTQ_MAX_SIZE
from guest.driver.backend import DEADLINE_S, Backend
from guest.driver.control import CTRL, Command, hash_config
from guest.driver.errors import BackendSilent, DeviceBroken, DriverError
from guest.driver.frontend import Frontend
from guest.driver.memory import LAYOUTS, DriverMemory
from guest.driver.negotiation import describe
from guest.driver.rawhost import RawHost
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX, VirtioNetDriver

REPEAT_S: Final = 0.5
HASH_KEY: Final = bytes(range(1, 41))
_RING_BUFFER: Final = 70_000  # the most that one receive buffer takes with its table


class BadQueueSize(DriverError):
    """A queue size that the specification does not know."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to try. `features` are asked for as far as they are offered; `must` have to be offered."""

    address: str = "10.0.2.15"
    server: str = "10.0.2.2"
    mac: bytes = bytes.fromhex("525400123456")
    port: int = 7
    pings: int = 3
    features: int = DRIVER_FEATURES
    must: int = 0
    queue_size: int = 256
    layout: str = "split"
    deadline_s: float = DEADLINE_S

    def __post_init__(self) -> None:
        """BadQueueSize."""
        packed = self.must >> vf.VIRTIO_F_RING_PACKED & 1
        power = not self.queue_size & (self.queue_size - 1)
        if not 2 <= self.queue_size <= VIRTQ_MAX_SIZE or not (packed or power):
            raise BadQueueSize(
                f"a queue cannot have {self.queue_size} entries",
                f"2 to {VIRTQ_MAX_SIZE}, and a power of two unless the ring is packed",
                "--queue-size 256",
            )

    def memory_size(self) -> int:
        """Enough for both rings and all buffers of any kind."""
        return (4 << 20) + self.queue_size * _RING_BUFFER


@dataclass(slots=True)
class Probe:
    """One question to whoever is behind the card; `ms` until its answer."""

    name: str
    target: str
    ok: bool = False
    ms: float | None = None
    detail: str = "no answer"
    sent: int = 0


@dataclass(slots=True)
class Trial:
    """See the module."""

    backend: Backend
    plan: Plan
    frontend: Frontend = field(default_factory=Frontend)
    probes: list[Probe] = field(default_factory=list)
    unsignalled: int = 0
    broken: list[int] = field(default_factory=list)
    driver: VirtioNetDriver | None = None
    host: RawHost | None = None
    memory: DriverMemory | None = None

    # -- the way there ----------------------------------------------------------------------------------

    def start(self) -> VirtioNetDriver:
        """Negotiate and start the rings."""
        plan, backend, frontend = self.plan, self.backend, self.frontend
        backend.connect()
        offered = backend.run(frontend.connect())
        backend.run(frontend.set_features(plan.features & offered | plan.must))
        self.memory = DriverMemory(LAYOUTS[plan.layout](plan.memory_size()))
        driver = VirtioNetDriver(self.memory, frontend.features, plan.queue_size)
        driver.refill()
        driver.rx.enable_calls()
        backend.run(frontend.start(self.memory, driver.queues, backend.fds))
        backend.kick(RX)
        self.driver = driver
        if driver.hash_report:
            self._command(hash_config(SUPPORTED_HASH_TYPES, HASH_KEY))
        self.host = RawHost(plan.mac, plan.address)
        return driver

    def _command(self, command: Command) -> None:
        """Have a command carried out. BackendSilent without an answer, DeviceBroken if it is refused."""
        assert self.driver is not None
        control = self.driver.control
        if control is None:
            raise DeviceBroken(CTRL, "a feature was offered whose VIRTIO_NET_F_CTRL_VQ was not", "5.1.3.1")
        control.post(command)
        self.backend.kick(CTRL)
        until = time.monotonic() + self.plan.deadline_s
        while not (answers := control.answers()):
            if time.monotonic() > until:
                evidence = f"class {command[0]}, command {command[1]}, {self.plan.deadline_s:g} s"
                raise BackendSilent("the back end does not serve its control queue", evidence)
            if not control.queue.enable_calls():
                self.backend.wait((CTRL,), 0.05)
        if answers[0][0]:
            raise DeviceBroken(CTRL, f"command {command[1]} of class {command[0]} was refused", "5.1.6.5")

    def run(self) -> None:
        """Everything. DriverError."""
        self.start()
        if self.arp():
            for sequence in range(1, self.plan.pings + 1):
                self.ping(sequence)
            self.tcp()
        else:
            not_tried = "not tried: nobody has that address"
            self.probes.append(Probe("ping", self.plan.server, detail=not_tried))
            self.probes.append(Probe("tcp", f"{self.plan.server}:{self.plan.port}", detail=not_tried))
        self.stop()

    def stop(self) -> list[int]:
        """Stop the rings; where they stand."""
        assert self.driver is not None
        return self.backend.run(self.frontend.stop(self.driver.queues))

    # -- probes -----------------------------------------------------------------------------------------

    @property
    def _host(self) -> RawHost:
        assert self.host is not None
        return self.host

    def arp(self) -> bool:
        server, host = self.plan.server, self._host
        probe = self._ask(
            Probe("arp", server), lambda: host.arp(server), lambda: host.neighbours.get(server, b"").hex(":")
        )
        return probe.ok

    def ping(self, sequence: int) -> bool:
        server, host = self.plan.server, self._host
        begins = f"sequence {sequence}, "

        def answer() -> str:
            found = (one.detail for one in host.heard if one.kind == "echo" and one.source == server)
            return next((detail for detail in found if detail.startswith(begins)), "")

        return self._ask(Probe("ping", server), lambda: host.ping(server, sequence), answer).ok

    def tcp(self) -> bool:
        """Connect and reset: nothing of it stays at the server."""
        plan, host = self.plan, self._host
        now = time.monotonic_ns()
        connection = host.tcp(plan.server, plan.port, 32768 + now // 1000 % 28000, now // 4000 & 0xFFFFFFFF)
        states = {"established": "connected", "reset": "refused: it answered with a reset"}
        probe = self._ask(
            Probe("tcp", f"{plan.server}:{plan.port}"),
            lambda: connection.connect() if connection.state == "closed" else connection.again(),
            lambda: states.get(connection.state, ""),
        )
        probe.ok = connection.state == "established"
        if probe.ok:
            connection.abort()
            self._send()
        return probe.ok

    def _ask(self, probe: Probe, send: Callable[[], None], answer: Callable[[], str]) -> Probe:
        """Send until there is an answer or the deadline has passed."""
        self.probes.append(probe)
        began = time.monotonic()
        until = began + self.plan.deadline_s
        while (now := time.monotonic()) < until and not answer():
            send()
            probe.sent += 1
            self._send()
            self._listen(min(now + REPEAT_S, until), answer)
        if detail := answer():
            probe.ok, probe.detail = True, detail
            probe.ms = round((time.monotonic() - began) * 1000, 3)
        return probe

    # -- the rings --------------------------------------------------------------------------------------

    def _send(self) -> None:
        assert self.driver is not None
        for frame in self._host.take():
            if self.driver.send(frame):
                self.backend.kick(TX)

    def _listen(self, until: float, answer: Callable[[], str]) -> None:
        """Take what comes until there is an answer, or it is time to ask again."""
        while not answer() and (left := until - time.monotonic()) > 0:
            if RX in self.backend.wait((RX, TX), left):
                self._receive()
        self.broken += self.backend.broken_rings()
        if not answer():
            self.unsignalled += self._receive()

    def _receive(self) -> int:
        assert self.driver is not None
        frames, kick = self.driver.receive()
        if kick:
            self.backend.kick(RX)
        for hdr, frame in frames:
            self._host.handle(frame, hdr)
        self._send()
        return len(frames)

    # -- what came of it --------------------------------------------------------------------------------

    @property
    def ok(self) -> bool:
        return bool(self.probes) and all(probe.ok for probe in self.probes) and not self.broken

    def report(self) -> dict[str, Any]:
        """A dict for JSON."""
        driver = self.driver
        rings = {
            "layout": "packed" if self.frontend.features >> vf.VIRTIO_F_RING_PACKED & 1 else "split",
            "size": self.plan.queue_size,
            "header": 0 if driver is None else driver.hdr_size,
            "memory": self.plan.layout,
            "broken": self.broken,
            "frames_without_signal": self.unsignalled,
            "bad_checksums": 0 if self.host is None else self.host.bad_checksums,
        }
        return {
            "ok": self.ok,
            "path": self.backend.path,
            **describe(self.frontend, self.plan.features | self.plan.must),
            "rings": rings,
            "probes": [asdict(probe) for probe in self.probes],
            "counters": {} if driver is None else driver.counters.asdict(),
        }

    def close(self) -> None:
        self.backend.close()
        if self.memory is not None:
            self.memory.close()
