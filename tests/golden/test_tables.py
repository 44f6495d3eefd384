# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables after bind() and listen(), after the SYN, after the third ACK, and after connect(), as pictures.

``python -m tests.golden.test_tables`` writes them anew, and docs/tables.md shows them.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.inspect import tables
from vnic import graphviz
from vnic.callgraph import World

GOLDEN = Path(__file__).parent / "tables"
DOCS = Path(__file__).parents[2] / "docs" / "tables.md"
MARK = "<!-- written by python -m tests.golden.test_tables; a test compares -->\n"


def connected(world: World) -> None:
    world.syn_sent()
    world.receive_syn_ack()


MOMENTS: dict[str, tuple[str, Callable[[World], None]]] = {
    "listen": ("After bind() and listen()", World.listening),
    "syn": ("After the SYN", World.half_open),
    "ack": ("After the third ACK, before accept()", World.unaccepted),
    "connect": ("After connect() and its SYN-ACK", connected),
}


def boxes_at(moment: str) -> list[tables.Box]:
    world = World()
    MOMENTS[moment][1](world)
    return tables.picture(world.net.snapshot()["tcp"])


def document() -> str:
    parts = (f"## {title}\n```\n{tables.text(boxes_at(name))}```\n" for name, (title, _) in MOMENTS.items())
    return "\n".join(parts)


@pytest.mark.parametrize("moment", MOMENTS)
def test_picture_is_the_golden_one(moment: str) -> None:
    assert tables.text(boxes_at(moment)) == (GOLDEN / f"{moment}.txt").read_text()
    assert tables.dot(boxes_at(moment)) == (GOLDEN / f"{moment}.dot").read_text()


def test_port_2222_lies_in_bucket_174() -> None:
    assert "| bhash[174] -> tb2222 " in (GOLDEN / "listen.txt").read_text()


has_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="dot is not installed")


@has_dot
@pytest.mark.parametrize("moment", MOMENTS)
def test_graphviz_draws_every_box_and_pointer(moment: str) -> None:
    boxes = boxes_at(moment)
    drawn = graphviz.svg(tables.dot(boxes))
    classes = [element.get("class") for element in ET.fromstring(drawn).iter()]
    assert classes.count("node") == len(boxes)
    assert classes.count("edge") == sum(len(row.to) for box in boxes for row in box.rows)


def test_docs_show_the_pictures_as_they_are() -> None:
    assert DOCS.read_text().partition(MARK)[2] == document(), "run python -m tests.golden.test_tables"


@has_dot
def test_graphviz_that_refuses_is_quoted() -> None:
    with pytest.raises(graphviz.GraphvizError, match="dot refuses"):
        graphviz.svg("digraph {")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in MOMENTS:
        (GOLDEN / f"{name}.txt").write_text(tables.text(boxes_at(name)))
        (GOLDEN / f"{name}.dot").write_text(tables.dot(boxes_at(name)))
    head = DOCS.read_text().partition(MARK)[0] if DOCS.exists() else ""
    DOCS.write_text(head + MARK + document())
