# SPDX-License-Identifier: GPL-2.0-or-later
"""The state diagram as lines, as a graph and as data."""

from __future__ import annotations

import json
import re

from stack.include.tcp_states import TCP_STATE_NAMES, TCP_TRANSITIONS
from stack.inspect import states


def test_text_has_every_state_and_step_in_80_columns() -> None:
    drawn = states.text()
    assert len(re.findall(r"^  -> ", drawn, re.M)) == len(TCP_TRANSITIONS)
    assert set(re.findall(r"^([A-Z_0-9]+)", drawn, re.M)) == set(TCP_STATE_NAMES.values())
    assert all(len(line) <= 80 for line in drawn.splitlines())


def test_graph_has_every_step_as_an_arrow_or_in_its_box() -> None:
    graph = states.dot()
    for (old, new), event in TCP_TRANSITIONS.items():
        was, comes = TCP_STATE_NAMES[old], TCP_STATE_NAMES[new]
        arrow = (
            f'  {was} -> {comes.replace("CLOSE", "closed") if comes == "CLOSE" else comes} [label=" {event}"'
        )
        box = rf'  {was} \[label="{was}[^"]*{re.escape(event)}: CLOSE'
        assert arrow in graph or re.search(box, graph), event


def test_numbers_of_sockets_stand_with_their_states() -> None:
    counts = {"ESTABLISHED": 3}
    assert "ESTABLISHED (3)\n" in states.text(counts)
    assert "LISTEN (0)\n" in states.text(counts)
    assert '[label="ESTABLISHED (3)' in states.dot(counts)
    plain = json.loads(json.dumps(states.plain(counts)))
    assert {"name": "ESTABLISHED", "struct": "tcp_sock", "sockets": 3} in plain["states"]
    assert {"from": "LISTEN", "to": "CLOSE", "event": "close()"} in plain["steps"]
    assert "sockets" not in states.plain()["states"][0]
