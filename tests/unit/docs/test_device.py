# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/device.md: a "yes" has a test that exists, and nothing that can be negotiated is left out."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from devmodel.vhost_user import message as vu
from devmodel.virtio import features as vf

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "device.md"
COLUMNS = 6
_TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


class Row(NamedTuple):
    line: int
    name: str
    ours: str
    others: tuple[str, ...]

    @property
    def tests(self) -> list[tuple[str, str]]:
        return _TEST.findall(self.ours)


def rows() -> list[Row]:
    """Of the feature tables: those with the columns of five implementations."""
    found = []
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        ruler = set(line) <= set("|-")
        if line.startswith("| ") and len(cells) == COLUMNS and not ruler and cells[1] != "vnic":
            found.append(Row(number, cells[0], cells[1], tuple(cells[2:])))
    return found


ROWS = rows()


@functools.cache
def functions_of(path: str) -> set[str]:
    """The test functions of a file below tests/."""
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_page_has_a_table_for_each_kind() -> None:
    assert len(ROWS) > 90


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line {row.line}")
def test_row_names_tests_that_exist_exactly_where_we_have_something(row: Row) -> None:
    says_no = re.match(r"no\b(?!t offered)", row.ours) is not None
    assert bool(row.tests) != says_no, row
    for path, name in row.tests:
        assert name in functions_of(path), f"{path}::{name}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line {row.line}")
def test_row_says_something_of_each_other_implementation(row: Row) -> None:
    assert all(row.others)


def named(prefix: str) -> set[str]:
    """The words of the first column, with the prefix that the first of a list has."""
    words: set[str] = set()
    for row in ROWS:
        if row.name.startswith(prefix):
            words |= {
                prefix + word.strip() for word in re.sub(r" \(.*", "", row.name)[len(prefix) :].split(",")
            }
    return words


def test_every_feature_bit_that_has_a_name_here_has_a_row() -> None:
    net = {name for name in vf.NAMES.values() if name.startswith("VIRTIO_NET_F_")}
    assert net <= named("VIRTIO_NET_F_")
    ring = {name for name in vf.NAMES.values() if name.startswith("VIRTIO_F_")}
    assert ring <= named("VIRTIO_F_")
    assert {name for name in vf.NAMES.values() if name.startswith("VHOST_")} <= named("VHOST_F_") | named(
        "VHOST_USER_F_"
    )


def test_every_protocol_feature_has_a_row() -> None:
    known = {name for name in vars(vu) if name.startswith("VHOST_USER_PROTOCOL_F_")}
    assert known <= named("VHOST_USER_PROTOCOL_F_")


def test_every_message_has_a_row() -> None:
    words = {word for row in ROWS for word in re.findall(r"[A-Z][A-Z_]+[A-Z]", row.name)}
    assert {request.name.removeprefix("VHOST_USER_") for request in vu.Request} <= words
