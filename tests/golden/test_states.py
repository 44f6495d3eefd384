# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/states.md shows TCP's states as the stack's table has them.

``python -m tests.golden.test_states`` writes the page and its picture anew.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from stack.inspect import states
from vnic import graphviz

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "states.md"
PICTURE = DOCS / "pictures" / "tcp-states.svg"
MARK = "<!-- written by python -m tests.golden.test_states; a test compares -->\n"


def document() -> str:
    return f"![The states and the steps between them](pictures/{PICTURE.name})\n\n```\n{states.text()}```\n"


def words(svg: str) -> Counter[str]:
    """All that is written in a picture, and how many boxes and arrows it has: versions of graphviz place them
    differently."""
    elements = list(ET.fromstring(svg).iter())
    kinds = [kind for element in elements if (kind := element.get("class"))]
    return Counter([(element.text or "").strip() for element in elements] + kinds)


def test_docs_show_the_states_as_they_are() -> None:
    assert PAGE.read_text().partition(MARK)[2] == document(), "run python -m tests.golden.test_states"


@pytest.mark.skipif(shutil.which("dot") is None, reason="dot is not installed")
def test_picture_in_the_docs_is_the_one_that_is_drawn() -> None:
    drawn = words(graphviz.svg(states.dot()))
    assert drawn == words(PICTURE.read_text()), "run python -m tests.golden.test_states"
    assert drawn["NEW_SYN_RECV"] == 2  # in its box, and as the name of it


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(graphviz.svg(states.dot()))
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + document())
