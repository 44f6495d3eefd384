# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import json

import pytest

from stack.inspect import tables
from stack.inspect.tables import Box, Row
from vnic.callgraph import World


def test_table_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no table fib: there are ehash, bhash, lhash"):
        tables.picture(World().net.snapshot()["tcp"], ["fib"])


def test_empty_tables_are_one_empty_box() -> None:
    boxes = tables.picture(World().net.snapshot()["tcp"])
    assert tables.text(boxes).splitlines()[3] == "| (empty)       |"
    assert tables.dot(boxes).count("label") == 1


def test_one_table_shows_what_can_be_reached_from_it() -> None:
    world = World()
    world.half_open()
    shown = {box.name for box in tables.picture(world.net.snapshot()["tcp"], ["bhash"])}
    assert shown == {"inet_hashinfo", "tb2222", "sk1"}


def test_time_wait_hangs_in_ehash() -> None:
    world = World()
    world.time_wait()
    assert "tw_substate = TCP_TIME_WAIT" in tables.text(
        tables.picture(world.net.snapshot()["tcp"], ["ehash"])
    )


def test_row_of_many_pointers_goes_on_in_the_next_line() -> None:
    row = Row("owners", to=[f"sk{n}.sk_bind_node" for n in range(20)])
    lines = tables.text([Box("tb1", "inet_bind_bucket", [row])]).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.count("sk_bind_node") for line in lines) == 20


def test_names_with_characters_that_mean_something_to_graphviz_are_escaped() -> None:
    shown = tables.dot([Box("a", "b<c>", [Row("x|y", "{1}")])])
    assert r"b\<c\>" in shown
    assert r"x\|y\ =\ \{1\}" in shown


def test_plain_form_is_json() -> None:
    world = World()
    world.listening()
    boxes = json.loads(json.dumps(tables.plain(tables.picture(world.net.snapshot()["tcp"]))))
    assert boxes[0]["rows"][0] == {"name": "bhash[174]", "value": "", "to": ["tb2222"]}
