# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic report``: one HTML page of what a running back end does from now on, or of a capture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vnic import errors
from vnic.cli import output
from vnic.cli.ladder import Interface, Peer, Port, Wanted, chosen, end_of
from vnic.cli.pictures import spare
from vnic.cli.serve import write_whole
from vnic.cli.views import Control, say_if_nobody


def report(
    file: Annotated[
        Path | None, typer.Argument(help="A capture; a running back end is observed unless given.")
    ] = None,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to.")] = Path(
        "report.html"
    ),
    port: Port = None,
    peer: Peer = None,
    interface: Interface = None,
    level: Annotated[
        Literal["notes", "full", "times"] | None,
        typer.Option(help="Of the call trees; as of vnic trace: notes unless given."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", min=1, help="End when so many connections have ended.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("-s", "--seconds", min=0, help="End after so many seconds.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Write the record to stdout instead of a page.")
    ] = False,
    control: Control = None,
) -> int:
    """Write one HTML page of a run: ladders, plots, call trees, tables, counters, what was agreed on.

    A running back end is observed until Ctrl-C, or until --count or --seconds say that it is enough; the stack is
    traced meanwhile, which slows it.
    """
    from vnic import report as reports

    if file is not None:
        if json_ or any(one is not None for one in (level, count, seconds, control)):
            raise errors.UsageError(
                "--level, --count, --seconds, --json and --control are about a running back end",
                f"{file} is a file",
                "leave them out, or leave the file out",
            )
        spare(file, out)
        wanted = Wanted(port, None if peer is None else end_of(peer))
        found = [one for _, one in chosen(file, wanted, interface)]
        run = reports.of_capture(found, file.name)
        write_whole(out, reports.page(run))
    else:
        if interface is not None:
            raise errors.UsageError(
                "--interface is about a capture", "a running back end is observed at its port", "leave it out"
            )
        if not json_:
            write_whole(out, "")  # what cannot be written is said before anybody waits for it
        wishes = {
            "port": port,
            "peer": peer,
            "level": level or "notes",
            "connections": count,
            "seconds": seconds,
        }
        record, where = _observed(control, wishes)
        if json_:
            typer.echo(json.dumps(record))
            return errors.EXIT_OK
        write_whole(out, reports.page(reports.of_record(record, f"vnic {where}")))
    output.stage(f"written: {out}")
    return errors.EXIT_OK


def _observed(control: Path | None, wishes: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The record, and the back end that it is of."""
    from vnic.control import Client, choose

    path = choose(control)
    with Client(path) as back_end:
        say_if_nobody(back_end, wishes["port"], wishes["peer"])
        back_end.observe(**wishes)
        output.stage(f"observing {path}: Ctrl-C ends it and writes the page")
        try:
            back_end.await_record()
        except KeyboardInterrupt:
            back_end.end_observation()
        return back_end.read_record(), path
