# SPDX-License-Identifier: GPL-2.0-or-later
"""One or more transfers between two stacks over a simulated path, in virtual time.

A ``Scenario`` says what the path does and what is sent; ``run`` makes two stacks, joins them, opens a connection per
flow, sends and reads, and says how it went: goodput, retransmissions, the shape of the congestion window, and whether
the bytes that arrived are those that were sent.  The same scenario gives the same ``Result``, always.

The stream is made of 1 MiB blocks, each numbered, so that a block that is lost, repeated or misplaced changes the
hash.  Applications act when the stack tells them to, after each step of the simulation, as a process does that was
woken.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from stack.api.bsd import Socket
from stack.api.path import Bernoulli, GilbertElliott, LossModel, Path
from stack.api.sim import MSEC, SEC, Link, Sim
from stack.include.ip import in_aton
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.include.snmp import LINUX_MIB_TCPDSACKRECV, LINUX_MIB_TCPTIMEOUTS, TCP_MIB_RETRANSSEGS
from stack.net.core.neighbour import neigh_add_permanent
from stack.rng import SeededRng
from stack.stack import Stack

MIB = 1 << 20
BLOCK = MIB
PORT = 5001
SENDER, RECEIVER = "10.0.0.1", "10.0.0.2"
TSO = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO
CWND_SAMPLES = 16
LIMIT_NS = 4 * 3600 * SEC
CONNECT_NS = 120 * SEC


@dataclass(frozen=True)
class Scenario:
    """What is sent over which path.  ``queue`` is the bottleneck's, in bandwidth-delay products; ``loss`` the mean, in
    bursts of ``burst`` packets if that is more than 1; ``ce`` marks from that share of a bandwidth-delay product on.
    The impairments are those of the data's way; ``both`` gives the ACKs' way the same (but for the queue)."""

    nbytes: int = 4 * MIB
    control: str = "cubic"
    rate_mbit: float = 100.0
    rtt_ms: float = 50.0
    queue: float = 1.0
    loss: float = 0.0
    burst: float = 1.0
    reorder: float = 0.0
    reorder_ms: float = 5.0
    dup: float = 0.0
    corrupt: float = 0.0
    ce: float = 0.0
    both: bool = False
    flows: int = 1
    stagger_ms: int = 0
    features: int = 0
    seed: int = 1
    sysctl: tuple[tuple[str, Any], ...] = ()

    def bdp(self) -> int:
        """Bytes."""
        return int(self.rate_mbit * 1e6 / 8 * self.rtt_ms / 1e3)


@dataclass
class FlowResult:
    """How one connection did: ``seconds`` from its first byte read to its last, ``goodput_mbit`` in that time."""

    goodput_mbit: float = 0.0
    seconds: float = 0.0
    cwnd: list[int] = field(default_factory=list)
    intact: bool = False
    control: str = ""


@dataclass
class Result:
    """All flows, and the counters of both stacks and of the path."""

    flows: list[FlowResult]
    retransmitted: int
    timeouts: int
    dsacks: int
    path: Path
    back: Path
    sender: Stack
    receiver: Stack

    def goodput_mbit(self) -> float:
        return sum(flow.goodput_mbit for flow in self.flows)

    def jain(self) -> float:
        """Jain's index of fairness: 1 if all flows got the same, 1/n if one got all."""
        rates = [flow.goodput_mbit for flow in self.flows]
        return sum(rates) ** 2 / (len(rates) * sum(r * r for r in rates))


@lru_cache(maxsize=1)
def _block_body() -> bytes:
    return SeededRng(42).get_random_bytes(BLOCK)


def block(number: int) -> bytes:
    """The stream's bytes from ``number`` MiB on."""
    return number.to_bytes(8, "big") + _block_body()[8:]


class Upload:
    """The sending application: writes what is taken, closes at the end."""

    def __init__(self, sock: Socket, nbytes: int) -> None:
        self.sock = sock
        self.left = nbytes
        self.hash = hashlib.sha256()
        self.number = 0
        self.rest = memoryview(b"")
        self.woken = True
        self.closed = False
        sock.on_event = self.on_event

    def on_event(self, sock: Socket, mask: int) -> None:
        self.woken = True

    def act(self) -> None:
        self.woken = False
        with suppress(BlockingIOError):
            while self.left:
                if not self.rest:
                    data = block(self.number)[: self.left]
                    self.hash.update(data)
                    self.rest = memoryview(data)
                    self.number += 1
                sent = self.sock.send(self.rest)
                self.rest = self.rest[sent:]
                self.left -= sent
            if not self.closed:
                self.closed = True
                self.sock.shutdown(1)


class Download:
    """The receiving application: reads whatever there is."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self.hash = hashlib.sha256()
        self.taken = 0
        self.began_ns = self.done_ns = -1
        self.woken = True
        sock.on_event = self.on_event

    def on_event(self, sock: Socket, mask: int) -> None:
        self.woken = True

    def act(self, now_ns: int) -> None:
        self.woken = False
        with suppress(BlockingIOError):
            while data := self.sock.recv(MIB):
                self.hash.update(data)
                self.taken += len(data)
                if self.began_ns < 0:
                    self.began_ns = now_ns
            self.done_ns = now_ns
            self.sock.close()


@dataclass
class Flow:
    """A connection: both applications, and the congestion window over time as (ns, segments)."""

    upload: Upload
    download: Download
    nbytes: int
    cwnd: list[tuple[int, int]] = field(default_factory=list)

    def done(self) -> bool:
        return self.download.done_ns >= 0

    def result(self) -> FlowResult:
        began, ended = self.download.began_ns, self.download.done_ns
        sk: Any = self.upload.sock._sock.sk
        return FlowResult(
            self.nbytes * 8e3 / (ended - began),
            (ended - began) / SEC,
            shape(self.cwnd, began, ended),
            self.download.hash.digest() == self.upload.hash.digest() and self.download.taken == self.nbytes,
            sk.icsk_ca_ops.name,
        )


def shape(samples: list[tuple[int, int]], began: int, ended: int) -> list[int]:
    """The largest window in each of CWND_SAMPLES equal parts of the time; one without a sample has its forerunner's."""
    parts = [0] * CWND_SAMPLES
    for when, cwnd in samples:
        i = min((when - began) * CWND_SAMPLES // max(ended - began, 1), CWND_SAMPLES - 1)
        if i >= 0:
            parts[i] = max(parts[i], cwnd)
    parts[0] = parts[0] or max((cwnd for when, cwnd in samples if when <= began), default=0)
    for i in range(1, CWND_SAMPLES):
        parts[i] = parts[i] or parts[i - 1]
    return parts


def loss_model(scenario: Scenario) -> LossModel | None:
    if not scenario.loss:
        return None
    if scenario.burst <= 1:
        return Bernoulli(scenario.loss)
    r = 1 / scenario.burst
    return GilbertElliott(scenario.loss * r / (1 - scenario.loss), r)


def make_path(s: Scenario, impaired: bool, queued: bool, seed: int) -> Path:
    path = Path(int(s.rate_mbit * 1e6), int(s.rtt_ms / 2 * MSEC), rng=SeededRng(seed))
    if queued:
        path.queue_bytes = int(s.queue * s.bdp())
        path.ce_bytes = int(s.ce * s.bdp())
    if impaired:
        path.loss = loss_model(s)
        path.reorder, path.reorder_ns = s.reorder, int(s.reorder_ms * MSEC)
        path.dup, path.corrupt = s.dup, s.corrupt
    return path


class World:
    """The two stacks and the path of a scenario."""

    def __init__(self, s: Scenario) -> None:
        self.scenario = s
        self.sim = Sim(seed=s.seed, keep_frames=False)
        sysctl = {"tcp_congestion_control": s.control, "tcp_ecn": 1 if s.ce else 2, **dict(s.sysctl)}
        self.sender = self.sim.add_stack(f"{SENDER}/24", features=s.features, sysctl=sysctl)
        self.receiver = self.sim.add_stack(f"{RECEIVER}/24", features=s.features, sysctl=sysctl)
        self.path = make_path(s, True, True, s.seed)
        self.back = make_path(s, s.both, False, s.seed + 1000)
        self.link: Link = self.sim.join(self.sender, self.receiver, forward=self.path, backward=self.back)
        self._know_each_other()
        self.listener = Socket(self.receiver)
        self.listener.bind((RECEIVER, PORT))
        self.listener.listen(16)
        self.flows: list[Flow] = []

    def _know_each_other(self) -> None:
        one, two = self.sender.devices_by_name["eth0"], self.receiver.devices_by_name["eth0"]
        neigh_add_permanent(self.sender.arp_tbl, in_aton(RECEIVER), one, two.dev_addr)
        neigh_add_permanent(self.receiver.arp_tbl, in_aton(SENDER), two, one.dev_addr)

    def open_flow(self) -> None:
        """Connect, and put an application at each end once the connection is there."""
        client = Socket(self.sender)
        client.connect_ex((RECEIVER, PORT))
        limit = self.sim.now_ns() + CONNECT_NS
        while (server := self._accept()) is None:
            if not self.sim.step(limit):
                raise AssertionError(f"no connection in {CONNECT_NS // SEC} s: {self.scenario}")
            self.act()
        nbytes = self.scenario.nbytes
        self.flows.append(Flow(Upload(client, nbytes), Download(server), nbytes))

    def _accept(self) -> Socket | None:
        with suppress(BlockingIOError):
            accepted: Socket = self.listener.accept()[0]
            return accepted
        return None

    def act(self) -> None:
        """Who was woken, acts; who sends, has its window looked at."""
        now = self.sim.now_ns()
        for flow in self.flows:
            if flow.download.woken and not flow.done():
                flow.download.act(now)
            if flow.upload.woken:
                flow.upload.act()
            sk: Any = flow.upload.sock._sock.sk
            cwnd = sk.snd_cwnd
            if not flow.cwnd or flow.cwnd[-1][1] != cwnd:
                flow.cwnd.append((now, cwnd))

    def run(self) -> Result:
        for i in range(self.scenario.flows):
            self.open_flow()
            if i + 1 < self.scenario.flows:
                self.run_until(self.sim.now_ns() + self.scenario.stagger_ms * MSEC)
        self.finish(self.sim.now_ns() + LIMIT_NS)
        if not all(flow.done() for flow in self.flows):
            raise AssertionError(f"not finished after {LIMIT_NS // SEC} s: {self.scenario}")
        return self._result()

    def run_until(self, limit_ns: int) -> None:
        """Let time pass, and the applications act whenever they are woken."""
        self.act()
        while self.sim.step(limit_ns):
            self.act()

    def finish(self, limit_ns: int) -> None:
        """Until all flows are done."""
        self.act()
        while not all(flow.done() for flow in self.flows) and self.sim.step(limit_ns):
            self.act()

    def _result(self) -> Result:
        mib = self.sender.mib
        return Result(
            [flow.result() for flow in self.flows],
            mib.tcp_statistics[TCP_MIB_RETRANSSEGS],
            mib.net_statistics[LINUX_MIB_TCPTIMEOUTS],
            mib.net_statistics[LINUX_MIB_TCPDSACKRECV],
            self.path,
            self.back,
            self.sender,
            self.receiver,
        )


def run(scenario: Scenario) -> Result:
    """Run a scenario to its end; AssertionError if it does not come within four hours of virtual time."""
    return World(scenario).run()
