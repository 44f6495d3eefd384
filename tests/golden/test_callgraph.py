# SPDX-License-Identifier: GPL-2.0-or-later
"""The project began with notes: the kernel's call trees of bind, listen and the passive open.  What the stack does,
traced in virtual time, has to draw them, line for line.

``KNOWN`` are the lines that cannot be equal; docs/callgraph.md says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawTcp, Sim
from stack.trace.notation import render
from stack.trace.recorder import Recorder

NOTES = Path(__file__).parent / "callgraph"

# By tree: lines of the notes, and what is drawn in their place.
KNOWN = {
    "receive_ack": {
        "      -> tcp_paws_reject": "    -> tcp_paws_reject",
        "      -> tcp_in_window": "    -> tcp_in_window",
    }
}


class World:
    """A listener on port 2222 and a client, step by step."""

    def __init__(self) -> None:
        self.sim = Sim(seed=1)
        self.net = self.sim.add_stack("10.0.2.2/24")
        self.client: RawTcp = self.sim.add_peer("10.0.2.15", self.net).tcp(2222)
        self.sock = Socket(self.net)

    def bind(self) -> None:
        self.sock.bind(("", 2222))

    def listen(self) -> None:
        self.sock.listen(5)
        self.sock.on_event = lambda _sock, _mask: None  # somebody waits in accept()

    def receive_syn(self) -> None:
        self.client.send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
        self.sim.settle()

    def receive_ack(self) -> None:
        self.client.expect("SA")
        self.client.ts_on = True
        self.sim.run_for(1_000_000)
        self.client.send("A")
        self.sim.settle()


STEPS: list[Callable[[World], None]] = [World.bind, World.listen, World.receive_syn, World.receive_ack]


def drawn(step: Callable[[World], None]) -> list[str]:
    """What the first tree of that step looks like, after the steps before it."""
    world = World()
    for before in STEPS[: STEPS.index(step)]:
        before(world)
    with Recorder(time.perf_counter_ns) as recorder:
        step(world)
    trees = [tree for tree in recorder.take() if tree.root.name != "arp_rcv"]
    return render(trees[0]).splitlines()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_tree_is_the_one_of_the_notes(step: Callable[[World], None]) -> None:
    known = KNOWN.get(step.__name__, {})
    wanted = (NOTES / f"{step.__name__}.txt").read_text().splitlines()
    assert set(known) <= set(wanted)
    assert drawn(step) == [known.get(line, line) for line in wanted]
