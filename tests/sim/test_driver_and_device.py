# SPDX-License-Identifier: GPL-2.0-or-later
"""Random traffic through both sides of the rings on a step clock: nothing is lost, nothing waits for a re-check."""

from __future__ import annotations

import random

import pytest
from mirror import FEATURES, Mirror

from guest.driver.loop import World
from guest.driver.memory import LAYOUTS, DriverMemory
from guest.driver.virtio_net import TX
from guest.driver.virtqueue import QueueFull


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("num", [4, 16])
def test_random_traffic_comes_back_once_and_in_order(kind: str, num: int) -> None:
    rng = random.Random(num)
    world = World()
    Mirror(world.port)
    driver = world.start(FEATURES[kind], num)
    sent: list[bytes] = []
    for number in range(150):
        for _ in range(rng.randint(1, num)):
            frame = number.to_bytes(2, "big") * rng.randint(30, 700)
            try:
                driver.queue(frame)
                sent.append(frame)
            except QueueFull:
                break
        if driver.tx.publish():
            world.kick(TX)
        if rng.random() < 0.7:
            world.settle()
        if rng.random() < 0.2:
            world.sleep(rng.choice((0.001, 0.02)))
    world.settle()
    assert [frame for _, frame in world.received] == sent
    stats = world.port.stats()
    assert stats["lost_kicks"] == stats["broken_rings"] == stats["tx_dropped"] == 0
    assert len(sent) > 200
    world.close()


@pytest.mark.parametrize("sealed", [True, False])
def test_memory_that_could_be_cut_short_is_taken_and_told_of_once(
    caplog: pytest.LogCaptureFixture, sealed: bool
) -> None:
    world = World()
    world.memory.close()
    world.memory = DriverMemory(LAYOUTS["split"](8 << 20), sealed=sealed)
    world.start()
    assert world.port.link_up
    assert world.port.stats()["unsealed_regions"] == (0 if sealed else 2)
    assert sum("F_SEAL_SHRINK" in record.message for record in caplog.records) == (0 if sealed else 1)
    world.close()
