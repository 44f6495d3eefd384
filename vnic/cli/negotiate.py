# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic negotiate``: what a running back end, its frontend and the guest's driver agreed on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vnic import errors
from vnic.cli import output
from vnic.cli.views import Control, Json

if TYPE_CHECKING:
    from vnic.negotiate import Feature


def negotiate(
    qmp: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A QMP socket of the QEMU, as vnic vm --qmp makes one: tells who vetoed what.",
        ),
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="What became of each ring's kicks and interrupts, instead.")
    ] = False,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Show the rings, why those that are broken are, and each feature bit: offered by whom, acknowledged by the guest,
    vetoed by whom."""
    from vnic import negotiate as negotiation
    from vnic import rings
    from vnic.control import Client, choose

    with Client(choose(control)) as back_end:
        told = back_end.ask("negotiation")
    ports = told.get("ports", [told])
    if qmp is not None and len(ports) > 1:
        raise errors.UsageError(
            f"--qmp is one guest's, and this back end has {len(ports)} ports",
            ", ".join(one["name"] for one in ports),
            "leave --qmp out",
        )
    status = None if qmp is None else negotiation.ask_qemu(qmp)
    for one in ports:
        found = negotiation.features(one.get("features", []), status)
        protocol = negotiation.features(one.get("protocol_features", []))
        if json_:
            one |= {"features": negotiation.plain(found), "protocol_features": negotiation.plain(protocol)}
            continue
        typer.echo(_headline(one))
        there = one.get("rings", [])
        for line in rings.audit(there) if audit else rings.table(there):
            typer.echo(line)
        if audit:
            continue
        for title, rows in (("virtio", found), ("vhost-user protocol", protocol)):
            if rows:
                _show(title, rows)
    if json_:
        typer.echo(json.dumps(told))
    return errors.EXIT_OK


def _headline(told: dict[str, Any]) -> str:
    connected = "connected" if told["connected"] else "nobody is connected"
    name = told.get("name", told["transport"])
    return f"{name}, {connected}, MTU {told['mtu']}"


def _show(title: str, rows: list[Feature]) -> None:
    heads = [f"{title} feature", "vnic", "shown", "guest", "verdict"]
    if all(row.shown is None for row in rows):
        heads.remove("shown")
    lines = [[_yes(word) for word in _cells(row, len(heads) == 5)] for row in rows]
    if sys.stdout.isatty():
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for head in heads:
            table.add_column(head, no_wrap=head != "verdict")  # which is folded where the terminal is narrow
        for line in lines:
            table.add_row(*line)
        output.console().print(table)
        return
    widths = [max(len(line[n]) for line in [heads, *lines]) for n in range(len(heads))]
    for line in [heads, *lines]:
        typer.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())


def _cells(row: Feature, frontend: bool) -> list[str | bool | None]:
    middle = [row.shown] if frontend else []
    return [row.name, row.offered, *middle, row.acknowledged, row.verdict]


def _yes(word: str | bool | None) -> str:
    return word if isinstance(word, str) else "yes" if word else "-"
