# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks frozen at random moments: the thawed one sends the same frames from there on and ends in the same state.
And random runs recorded: replayed, they end in the same state too.

Two kinds of moments: those of the passive open's state machine (requests, children, TIME_WAIT, cookies, hostile
segments), and those of a transfer each way between two stacks through loss and reordering (queues in every stage of
recovery, reassembly, timers).
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from twins import Twins, TwinSocket

from stack.api.sim import MSEC, SEC, RawTcp, Sim, StackEnd
from stack.freeze.record import Recorder, Replay
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from tests.fuzz.test_passive_open_machine import PassiveOpen
from tests.sim.test_tcp_lossy_download import Receiver


class FrozenPassiveOpen(PassiveOpen):
    """The machine with a rule more; each of its steps is taken by the thawed twin too."""

    def new_socket(self) -> Any:
        if not hasattr(self, "twins"):  # the machine's start makes the first one
            self.twins = Twins(self.sim, self.net)
        return self.twins.socket()

    @rule()
    def freeze(self) -> None:
        self.twins.renew()

    @invariant()
    def twins_sent_the_same(self) -> None:
        if hasattr(self, "twins"):
            self.twins.check()

    def teardown(self) -> None:
        if hasattr(self, "twins"):
            self.twins.compare()
        super().teardown()
        if hasattr(self, "twins"):
            self.twins.compare()


FrozenPassiveOpen.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestFrozenPassiveOpen = pytest.mark.fuzz(pytest.mark.slow(FrozenPassiveOpen.TestCase))


class RecordedPassiveOpen(PassiveOpen):
    """The machine with a recorder in front of its stack; at the end the whole run is replayed."""

    def new_socket(self) -> Any:
        if not hasattr(self, "recorder"):  # the machine's start makes the first one
            self.lines: list[str] = []
            self.recorder = Recorder(self.net, self.lines.append)
            end = next(iter(self.sim.links.values())).a
            assert isinstance(end, StackEnd)
            end.net = self.sim.stacks[0] = self.recorder  # type: ignore[assignment, call-overload]
        return super().new_socket()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "recorder"):
            self.recorder.close()
            replay = Replay(self.lines)
            replay.run()
            assert replay.complete


RecordedPassiveOpen.TestCase.settings = FrozenPassiveOpen.TestCase.settings
TestRecordedPassiveOpen = pytest.mark.fuzz(pytest.mark.slow(RecordedPassiveOpen.TestCase))


# -- transfers ---------------------------------------------------------------------------------------------------------

MOMENTS = st.lists(st.integers(1, 60), min_size=1, max_size=4)


def connected(
    seed: int, features: int, profile: str, congestion: str = "cubic"
) -> tuple[Sim, Twins, RawTcp, TwinSocket]:
    sim = Sim(seed=seed)
    sysctl = {"tcp_congestion_control": congestion}
    net = sim.add_stack("10.0.2.2/24", features=features, profile=profile, sysctl=sysctl)
    peer = sim.add_peer("10.0.2.15", net, delay_ns=5 * MSEC)
    twins = Twins(sim, net)
    listener = twins.socket()
    listener.bind(("", 80))
    listener.listen(5)
    conn = peer.tcp(80)
    conn.handshake()
    sim.run_for(10 * MSEC)
    return sim, twins, conn, listener.accept()[0]


@pytest.mark.fuzz
@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(1, 1000),
    features=st.sampled_from([0, NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_SG]),
    profile=st.sampled_from(["linux-6.1", "linux-6.18"]),
    loss=st.sampled_from([0.0, 0.03]),
    congestion=st.sampled_from(["cubic", "reno", "bbr", "dctcp"]),
    moments=MOMENTS,
)
def test_established_lossy_download_frozen_goes_on_alike(
    seed: int, features: int, profile: str, loss: float, congestion: str, moments: list[int]
) -> None:
    sim, twins, conn, sock = connected(seed, features, profile, congestion)
    for link in sim.links.values():
        for way in (link.forward, link.backward):
            way.loss, way.reorder, way.reorder_ns = loss, 0.02, 3 * MSEC
    blob = bytes(i * 7 & 255 for i in range(150_000))
    receiver = Receiver(conn, sack=True)
    sent = ticks = 0
    while len(receiver.data) < len(blob) and ticks < 30_000:
        with contextlib.suppress(BlockingIOError):
            while sent < len(blob):
                sent += sock.send(blob[sent : sent + 20_000])
        sim.run_for(MSEC)
        conn.ts_val = 1000 + sim.now_ns() // MSEC
        receiver.drain()
        ticks += 1
        if ticks in moments:
            twins.renew()
        twins.check()
    assert receiver.data == blob
    sock.close()
    sim.run_for(200 * SEC)
    twins.compare()
    assert twins.freezes > 0


@pytest.mark.fuzz
@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(1, 1000), profile=st.sampled_from(["linux-6.1", "linux-6.18"]), moments=MOMENTS)
def test_established_shuffled_upload_frozen_goes_on_alike(
    seed: int, profile: str, moments: list[int]
) -> None:
    sim, twins, conn, sock = connected(seed, 0, profile)
    rng = random.Random(seed)
    stream = rng.randbytes(20_000)
    got = bytearray()
    pieces = 0
    while len(got) < len(stream):
        start = len(got) + (rng.randrange(8000) if pieces % 13 else 0)
        end = min(start + rng.randrange(1, 1449), len(stream))
        if start < end:
            conn.send("A", stream[start:end], seq=1 + start)
        sim.settle()
        if pieces % 5 == 0:
            with contextlib.suppress(BlockingIOError):
                got += sock.recv(1 << 20)
            sim.run_for(MSEC)
        pieces += 1
        if pieces in moments:
            twins.renew()
        twins.check()
    assert got == stream
    twins.compare()
    assert twins.freezes > 0
