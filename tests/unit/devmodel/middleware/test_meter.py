# SPDX-License-Identifier: GPL-2.0-or-later
"""What the meter says of frames that passed."""

from __future__ import annotations

from vu_driver import Recorder

from devmodel.middleware.meter import MeterPort, Rate
from devmodel.netdev.loopback import Loopback
from devmodel.port import VnetHdr


def test_frames_segments_and_batches_are_counted() -> None:
    wire = Loopback()
    port = MeterPort(wire.a, lambda: 0.0)
    port.attach(Recorder())
    port.send(VnetHdr(1, 1, 54, 1000, 34, 16), [bytes(54 + 4500)])
    port.send(None, [bytes(60)])
    port.flush()
    for _ in range(3):
        wire.b.send(None, [bytes(60)])
    wire.b.flush()
    wire.pump()
    stats = port.stats()
    assert (stats["meter_tx_frames"], stats["meter_tx_segments"], stats["meter_tx_gso"]) == (2, 6, 1)
    assert (stats["meter_rx_frames"], stats["meter_rx_batches"], stats["meter_rx_largest_batch"]) == (3, 1, 3)
    assert port.size_histogram("tx") == {4096: 1, 32: 1}
    assert port.size_histogram("rx") == {32: 3}


def test_rates_are_since_the_last_call() -> None:
    now = [0.0]
    wire = Loopback()
    port = MeterPort(wire.a, lambda: now[0])
    port.send(None, [bytes(1000)])
    now[0] = 2.0
    assert port.rates() == (Rate(0.0, 0.0), Rate(0.5, 500.0))
    now[0] = 3.0
    assert port.rates()[1] == Rate(0.0, 0.0)
    assert port.rates()[1] == Rate(0.0, 0.0)
