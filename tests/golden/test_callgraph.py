# SPDX-License-Identifier: GPL-2.0-or-later
"""The project began with notes: the kernel's call trees of bind, listen and the passive open.  What the stack does,
traced in virtual time, has to draw them, line for line.

``KNOWN`` are the lines that cannot be equal; docs/callgraph.md says why.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vnic.callgraph import MARK, SCENES, document, drawn

NOTES = Path(__file__).parent / "callgraph"
DOCS = Path(__file__).parents[2] / "docs" / "callgraph.md"

# By tree: lines of the notes, and what is drawn in their place.
KNOWN = {
    "receive_ack": {
        "      -> tcp_paws_reject": "    -> tcp_paws_reject",
        "      -> tcp_in_window": "    -> tcp_in_window",
    }
}


@pytest.mark.parametrize("name", ["bind", "listen", "receive_syn", "receive_ack"])
def test_tree_is_the_one_of_the_notes(name: str) -> None:
    known = KNOWN.get(name, {})
    wanted = (NOTES / f"{name}.txt").read_text().splitlines()
    assert set(known) <= set(wanted)
    assert drawn(SCENES[name]).splitlines() == [known.get(line, line) for line in wanted]


def test_docs_hold_the_trees_as_they_are() -> None:
    assert DOCS.read_text().partition(MARK)[2] == document(), "run vnic callgraph --docs"
