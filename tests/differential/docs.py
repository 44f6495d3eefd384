# SPDX-License-Identifier: GPL-2.0-or-later
"""The generated end of docs/differential.md: the stimuli's number, allowed and open differences."""

from __future__ import annotations

from pathlib import Path

from tests.differential.allowed import ALLOWED, OPEN
from tests.differential.table import GROUPS, TABLE

PATH = Path(__file__).resolve().parents[2] / "docs" / "differential.md"
MARK = "<!-- written by `python -m tests.differential --docs`; a test compares -->\n"

_SIDES = {"*": "both", "host": "the host's", "guest": "the guest's"}


def generated() -> str:
    """What follows MARK."""
    out = [f"## The table\n{len(TABLE)} stimuli:", "", "| file | stimuli |", "| --- | --- |"]
    out += [f"| {group} | {len(names)} |" for group, names in sorted(GROUPS.items())]
    out += [
        "",
        "## Allowed differences",
        "",
        "| field | stimuli | kernel | reason |",
        "| --- | --- | --- | --- |",
    ]
    out += [f"| {a.field} | `{a.stimuli}` | {_SIDES[a.side]} | {a.reason} |" for a in ALLOWED]
    out += ["", "## Open differences", *_open()]
    return "\n".join(out) + "\n"


def _open() -> list[str]:
    if not OPEN:
        return ["None is known."]
    rows = [f"| {name} | {text} |" for name, text in OPEN.items()]
    return [
        "Known faults of our stack, still to be mended:",
        "",
        "| stimulus | what differs |",
        "| --- | --- |",
        *rows,
    ]


def write_docs() -> None:
    head = PATH.read_text().partition(MARK)[0]
    PATH.write_text(head + MARK + generated())
