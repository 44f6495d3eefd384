# SPDX-License-Identifier: GPL-2.0-or-later
"""Which scenes of a connection's life are in which phase."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import stack
from stack.trace.phases import PHASES, is_in
from stack.trace.recorder import Recorder
from vnic.callgraph import SCENES, World, trace

EXPECTED = {
    "bind": "bind",
    "listen": "listen",
    "receive_syn": "syn",
    "receive_ack": "ack",
    "accept": "accept",
    "synack_timer": "retransmit timer",
    "cookie_syn": "syn",
    "cookie_ack": "ack",
    "connect": "connect",
    "receive_syn_ack": "syn-ack",
    "syn_sent_syn": "syn-ack",
    "syn_recv_ack": "",
    "closed_port": "reset",
    "established_data": "data",
    "established_ack": "data",
    "established_out_of_order": "data",
    "established_fin": "data fin",
    "established_rst": "data reset",
    "fin_wait1_ack": "",
    "fin_wait1_fin": "fin",
    "fin_wait2_fin": "time-wait",
    "closing_ack": "",
    "close_wait_ack": "",
    "last_ack_ack": "",
    "time_wait_fin": "time-wait",
    "time_wait_syn": "syn time-wait",
    "read": "read",
    "write": "write",
    "loss_probe": "retransmit timer",
    "retransmission": "retransmit timer",
    "close": "close",
}


@pytest.mark.parametrize("scene", list(SCENES))
def test_scene_is_in_its_phases_and_no_other(scene: str) -> None:
    tree = trace(SCENES[scene])
    assert " ".join(sorted(name for name, phase in PHASES.items() if is_in(tree, phase))) == EXPECTED[scene]


def test_functions_of_the_phases_are_the_stacks() -> None:
    source = "".join(path.read_text() for path in (Path(stack.__file__).parent / "net").rglob("*.py"))
    for phase in PHASES.values():
        for name in phase.roots | phase.functions:
            assert f"\ndef {name}(" in source, name


def test_zero_window_probe_is_a_retransmission() -> None:
    world = World()
    world.written()
    world.client.send("A", window=0)
    world.sim.settle()
    world.conn.send(b"more")
    with Recorder(time.perf_counter_ns) as recorder:
        world.wait_for_the_timer()
    (probe, *_) = [tree for tree in recorder.take() if tree.root.name == "tcp_write_timer"]
    assert {name for name, phase in PHASES.items() if is_in(probe, phase)} == {"retransmit", "timer"}


def test_every_phase_has_a_scene() -> None:
    assert {name for names in EXPECTED.values() for name in names.split()} == set(PHASES)
