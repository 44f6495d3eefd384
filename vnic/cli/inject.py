# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic inject``: let the device of a running back end break the rules, for whoever writes the guest's driver."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

import typer

from vnic import errors
from vnic.cli.views import Control, Json

HELP = (
    "WHERE is rx, tx, rx0, tx3 or ring4. WHEN is one of at=N, every=N and p=P, and if wanted times=N, after=SECONDS,"
    " until=SECONDS, with the fault's own keys: rx:late-used:every=10,ms=50,times=3"
)


def inject(
    script: Annotated[
        list[str] | None, typer.Argument(metavar="[WHERE:WHAT:WHEN]...", help="Faults to add.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="First forget those that are there.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show what can be injected.")] = False,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Make a running back end's device misbehave: vnic inject rx:duplicate-used:at=1

    Numbers count from now. Without a fault it shows those that are there and what was injected last.
    """
    from vnic.control import Client, choose

    if list_:
        return _list(json_)
    with Client(choose(control)) as back_end:
        told = back_end.ask("inject", script=script or [], clear=clear)
    typer.echo(json.dumps(told) if json_ else "\n".join(lines(told)))
    return errors.EXIT_OK


def _list(json_: bool) -> int:
    from devmodel.virtio.faultscript import KINDS

    if json_:
        kinds = {name: {"occasion": k.occasion, "text": k.text, "keys": k.keys} for name, k in KINDS.items()}
        typer.echo(json.dumps(kinds))
        return errors.EXIT_OK
    for name, kind in KINDS.items():
        keys = ", ".join(kind.keys)
        typer.echo(_folded(f"{name}  (each {kind.occasion}{f'; {keys}' if keys else ''})", "", "  "))
        typer.echo(_folded(kind.text, "    ", "    "))
    typer.echo("")
    typer.echo(_folded(HELP, "", ""))
    return errors.EXIT_OK


def _folded(text: str, first: str, further: str) -> str:
    return textwrap.fill(text, 80, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)


def lines(told: dict[str, Any]) -> list[str]:
    """What there is to say of the faults of each port."""
    if not told:
        return ["no device faults"]
    found = []
    for port, faults in told.items():
        found.append(f"{port}: {faults['count']} injected")
        for rule in faults["rules"]:
            found.append(f"  {rule['fault']}: {rule['injected']} of {rule['occasions']} occasions")
        for one in faults["injected"]:
            head = "" if one["head"] < 0 else f", head {one['head']}"
            found.append(
                f"  {one['ring_s']:12.6f} s  {one['fault']}: queue {one['queue']}{head}: {one['detail']}"
            )
    return found
