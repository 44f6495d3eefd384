# SPDX-License-Identifier: GPL-2.0-or-later
"""The rings of a device as text: a real device's, in process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from guest.driver.loop import World
from guest.driver.virtio_net import RX, TX
from vnic import rings

FRAME = bytes(60)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def told(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.port.negotiation()["rings"]
    return found


def break_ring(world: World) -> None:
    """The driver moves the transmit queue's avail.idx far beyond it."""
    assert world.driver is not None
    world.memory.view(world.driver.tx.driver_gpa, 4).cast("H")[1] = 1000
    world.kick(TX)
    world.settle()


def test_running_rings_are_a_table(world: World) -> None:
    world.start()
    assert rings.table(told(world)) == [
        "ring  queue       size  state    broke  steered",
        "   0  receiveq1     64  running      0        0",
        "   1  transmitq1    64  running      0        -",
    ]


def test_broken_ring_is_told_with_rule_section_and_remedy(world: World) -> None:
    world.start()
    break_ring(world)
    world.sleep(2.5)
    lines = rings.table(told(world))
    assert lines[2] == "   1  transmitq1    64  broken       1        -"
    text = " ".join(line.strip() for line in lines[3:])
    assert text.startswith(
        "ring 1 broken ring: queue 1: avail.idx 1000 is 1000 ahead of 0, the queue size is 64, 2.5"
    )
    assert "because: virtio 1.2, section 2.7.13.3" in text
    assert "echo virtio0 > unbind" in text
    assert max(map(len, lines)) <= 80
    (one,) = (ring["last_break"] for ring in told(world) if ring["last_break"])
    assert (one["queue"], one["head"], one["descriptor"], one["section"]) == (1, None, None, "2.7.13.3")
    assert one["rule"] in one["fact"]


def test_ring_that_was_broken_tells_what_ended_it_over_reconnections(world: World) -> None:
    world.start()
    break_ring(world)
    world.stop()
    world.start()
    text = "\n".join(rings.table(told(world)))
    assert "running      1" in text
    assert "was broken once" in text
    assert "ended by: VHOST_USER_GET_VRING_BASE" in text
    break_ring(world)
    world.link.disconnect()
    world.connect()
    world.start()
    text = "\n".join(rings.table(told(world)))
    assert "was broken 2 times, last" in text
    assert "ended by: the end of the frontend's connection" in text


def test_disabled_ring_is_no_running_one(world: World) -> None:
    world.start()
    world.link.session.vrings[RX].enabled = False
    assert "disabled" in rings.table(told(world))[1]


def test_audit_is_two_tables_that_fit(world: World) -> None:
    world.start()
    for _ in range(5):
        world.send(FRAME)
        world.settle()
    lines = rings.audit(told(world))
    assert [line.split()[0] for line in lines] == [
        "kicks,",
        "ring",
        "0",
        "1",
        "interrupts,",
        "ring",
        "0",
        "1",
    ]
    wide = told(world)
    for ring in wide:
        for part in ring["audit"].values():
            part.update(dict.fromkeys(part, 9999999))
    assert max(map(len, rings.audit(wide))) <= 80


def test_no_rings_are_no_lines() -> None:
    assert rings.table([]) == []
    assert rings.audit([]) == []
