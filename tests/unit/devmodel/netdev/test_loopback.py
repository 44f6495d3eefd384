# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire in memory."""

from __future__ import annotations

from vu_driver import Recorder

from devmodel.netdev.loopback import Loopback
from devmodel.port import Offloads, VnetHdr


def test_flushed_frames_arrive_as_one_batch() -> None:
    wire, behind = Loopback(), Recorder()
    wire.b.attach(behind)
    wire.a.send(VnetHdr(1, 1, 54, 1448, 34, 16), [b"one", b"two"])
    wire.a.send(None, [b"three"])
    assert wire.pump() == 0
    wire.a.flush()
    assert wire.pump() == 2
    assert behind.frames == [(VnetHdr(1, 1, 54, 1448, 34, 16), b"onetwo"), (None, b"three")]
    assert behind.batches == 1


def test_two_that_answer_each_other_stop_at_the_limit() -> None:
    wire = Loopback()
    for port in (wire.a, wire.b):
        behind = Recorder()
        behind.batch_done = lambda port=port: port.send(None, [b"again"])  # type: ignore[method-assign, misc]
        port.attach(behind)
    wire.a.send(None, [b"first"])
    wire.a.flush()
    assert wire.pump(rounds=10) == 10


def test_pulled_cable_drops_and_tells() -> None:
    wire, behind = Loopback(), Recorder()
    wire.b.attach(behind)
    wire.b.set_link(False)
    assert not wire.b.send(None, [b"x"])
    assert behind.links == [(True, wire.a.offloads), (False, Offloads())]
    assert wire.b.stats()["tx_dropped"] == 1


def test_scheduler_pumps_by_itself() -> None:
    scheduled: list[object] = []
    wire, behind = Loopback(call_soon=scheduled.append), Recorder()
    wire.b.attach(behind)
    for _ in range(2):
        wire.a.send(None, [b"x"])
        wire.a.flush()
    assert len(scheduled) == 1
    scheduled.pop()()  # type: ignore[operator]
    assert len(behind.frames) == 2
