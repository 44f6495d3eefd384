# SPDX-License-Identifier: GPL-2.0-or-later
"""While nobody traces, tracing is not there: the code that runs is the one that would run without it."""

from __future__ import annotations

import marshal
import re
from pathlib import Path

from bench.trace import without_markers

STACK = Path(__file__).parents[4] / "stack"
SOURCES = [path for path in STACK.rglob("*.py") if STACK / "trace" not in path.parents]


def test_marker_comments_leave_no_trace_in_the_code() -> None:
    marked = [path for path in SOURCES if "#>" in path.read_text()]
    assert len(marked) > 5
    for path in marked:
        source = path.read_text()
        bare = without_markers(source)
        assert "#> " not in bare
        assert marshal.dumps(compile(source, str(path), "exec")) == marshal.dumps(
            compile(bare, str(path), "exec")
        )


def test_no_module_of_the_stack_knows_of_the_tracing() -> None:
    imports = re.compile(r"^\s*(from|import) stack\.trace|^\s*from stack import .*\btrace\b", re.M)
    assert imports.search("from stack.trace import recorder\n")
    assert [path for path in SOURCES if imports.search(path.read_text())] == []


def test_marker_is_taken_out_where_it_stands_and_nothing_else() -> None:
    source = 'a = "#> not a comment"\nb = 1  #> -> b\n#> goto c\nc = 2  # stays\n'
    assert without_markers(source) == 'a = "#> not a comment"\nb = 1\n\nc = 2  # stays\n'
