# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic torture``: what a vhost-user back end makes of frontends and guests that break the rules."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vnic import errors
from vnic.cli import output

if TYPE_CHECKING:
    from guest.driver.torture import Case, Torture, Verdict

ConnectPath = Annotated[str, typer.Option("--connect", metavar="PATH", help="Where the back end listens.")]
Rows = Annotated[
    str,
    typer.Option(
        "--rows", metavar="LIST", help="Rows of docs/bad-inputs.md, such as 1-9,33; all unless given."
    ),
]
Server = Annotated[str, typer.Option(metavar="ADDR", help="Whom good frames ask by ARP.")]
Deadline = Annotated[
    float,
    typer.Option("--deadline", min=0.1, max=60, metavar="SECONDS", help="For each answer: beyond it hangs."),
]
Start = Annotated[
    str,
    typer.Option(
        "--start",
        metavar="COMMAND",
        help="Starts a further back end at {}, to be killed by row 18; without it that is skipped.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
ListOnly = Annotated[bool, typer.Option("--list", help="Name the inputs and give none.")]


def torture(
    connect: ConnectPath = "",
    rows: Rows = "",
    server: Server = "10.0.2.2",
    deadline: Deadline = 2.0,
    start: Start = "",
    list_only: ListOnly = False,
    as_json: AsJson = False,
) -> int:
    """Give a back end every bad input that is known, one after the other; exit code 1 if it stands one badly.

    A back end that is not made for this may crash: do not point it at one that somebody uses.
    """
    from guest.driver.torture import Settings, Torture

    cases = _chosen(rows)
    if list_only:
        _list(cases, as_json)
        return errors.EXIT_OK
    if not connect:
        raise errors.UsageError(
            "nobody to give them to", "--connect is missing", "vnic torture --connect /tmp/vnic.sock"
        )
    kit = Torture(Settings(path=connect, server=server, deadline_s=deadline, start=tuple(shlex.split(start))))
    baseline = kit.begin()
    if not as_json:
        heard = (
            "answers ARP"
            if baseline.answers_arp
            else f"answers no ARP for {server}: frames cannot be followed"
        )
        output.stage(
            f"{len(cases)} inputs for {connect}, which {heard}{', and polls' if baseline.polls else ''}"
        )
    verdicts = _run(kit, cases, as_json)
    bad = [verdict for verdict in verdicts if not verdict.ok]
    if as_json:
        print(json.dumps(_report(kit, cases, verdicts), indent=1))
    else:
        output.headline(_summary(cases, verdicts, len(bad)))
    return errors.EXIT_FAILED if bad else errors.EXIT_OK


def _chosen(text: str) -> list[Case]:
    """The cases of some rows, in their order."""
    from guest.driver.torture_cases import CASES

    cases = sorted(CASES, key=lambda case: case.row)
    if not text:
        return cases
    wanted: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.strip().isdecimal() or not (last or first).strip().isdecimal():
            raise errors.UsageError(f"--rows {text!r} is no list of numbers", f"{part!r}", "--rows 1-9,33")
        wanted |= set(range(int(first), int(last or first) + 1))
    chosen = [case for case in cases if case.row in wanted]
    if not chosen:
        have = ", ".join(str(row) for row in sorted({case.row for case in cases}))
        raise errors.UsageError(f"no input belongs to --rows {text}", f"there are {have}", "--rows 1-9,33")
    return chosen


def _run(kit: Torture, cases: list[Case], as_json: bool) -> list[Verdict]:
    verdicts = []
    for verdict in kit.run(cases):
        verdicts.append(verdict)
        if not as_json:
            print(_line(verdict), flush=True)
    return verdicts


def _line(verdict: Verdict) -> str:
    mark = "ok  " if verdict.ok else "FAIL"
    line = f"{mark} {verdict.row:>2}  {verdict.outcome:<9} {verdict.name}"
    if verdict.outcome == "skipped" and verdict.evidence:
        return f"{line} ({verdict.evidence})"
    if verdict.ok:
        return line
    due = " or ".join(sorted(verdict.good))
    because = f"\n          {verdict.evidence}" if verdict.evidence else ""
    return f"{line}\n          it has to be {due}{because}"


def _summary(cases: list[Case], verdicts: list[Verdict], bad: int) -> str:
    skipped = sum(verdict.outcome == "skipped" for verdict in verdicts)
    left = len(cases) - len(verdicts)
    told = f"{len(verdicts) - bad - skipped} inputs stood, {bad} not, {skipped} do not apply"
    return told + (f", {left} were not given any more: it serves nobody now" if left else "")


def _report(kit: Torture, cases: list[Case], verdicts: list[Verdict]) -> dict[str, Any]:
    return {
        "schema": 1,
        "ok": all(verdict.ok for verdict in verdicts),
        "path": kit.settings.path,
        "answers_arp": kit.baseline.answers_arp,
        "polls": kit.baseline.polls,
        "verdicts": [verdict.asdict() for verdict in verdicts],
        "not_given": [case.name for case in cases[len(verdicts) :]],
    }


def _list(cases: list[Case], as_json: bool) -> None:
    if as_json:
        entries = [{"row": case.row, "input": case.name, "good": sorted(case.good)} for case in cases]
        print(json.dumps({"schema": 1, "inputs": entries}, indent=1))
        return
    for case in cases:
        print(f"{case.row:>2}  {case.name}: {' or '.join(sorted(case.good))}")
