# SPDX-License-Identifier: GPL-2.0-or-later
"""Which scenes of a connection's life are in which phase."""

from __future__ import annotations

import pytest

from stack.trace.phases import PHASES, is_in
from vnic.callgraph import SCENES, trace

EXPECTED = {
    "bind": "bind",
    "listen": "listen",
    "receive_syn": "syn",
    "receive_ack": "ack",
    "accept": "accept",
    "synack_timer": "timer",
    "cookie_syn": "syn",
    "cookie_ack": "ack",
    "connect": "connect",
    "receive_syn_ack": "syn-ack",
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


def test_every_phase_has_a_scene() -> None:
    assert {name for names in EXPECTED.values() for name in names.split()} == set(PHASES)
