# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic callgraph``: who calls whom in the stack, step by step."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vnic import callgraph as scenes
from vnic import errors

DOCS = Path("docs/callgraph.md")


class Level(Enum):
    """How much of a tree is drawn."""

    NOTES = "notes"
    FULL = "full"
    TIMES = "times"


def callgraph(
    names: Annotated[
        list[str] | None, typer.Argument(help="Steps to show; all of them unless given.")
    ] = None,
    level: Annotated[
        Level, typer.Option(help="What notes would show, every call, or every call with microseconds.")
    ] = Level.NOTES,
    list_: Annotated[bool, typer.Option("--list", help="Name the steps.")] = False,
    docs: Annotated[
        bool, typer.Option("--docs", help=f"Write {DOCS} of the checkout that this is run in.")
    ] = False,
) -> int:
    """Show the stack's call trees of bind, listen, accept, connect, read, write, close and each kind of segment.

    Each is recorded on the spot, in virtual time: no guest is needed.
    """
    if docs:
        if not DOCS.parent.is_dir():
            raise errors.UsageError(
                f"cannot write {DOCS}",
                evidence=f"{Path.cwd()} has no directory {DOCS.parent}",
                remedy="run it at the top of a checkout",
            )
        head = DOCS.read_text().partition(scenes.MARK)[0] if DOCS.exists() else ""
        DOCS.write_text(head + scenes.MARK + scenes.document())
    elif list_:
        for name, scene in scenes.SCENES.items():
            typer.echo(f"{name:26}{scene.title}")
    else:
        _show(names or list(scenes.SCENES), level.value)
    return errors.EXIT_OK


def _show(names: list[str], level: str) -> None:
    unknown = [name for name in names if name not in scenes.SCENES]
    if unknown:
        raise errors.UsageError(
            f"there is no step {unknown[0]}",
            evidence=f"the steps are {', '.join(scenes.SCENES)}",
            remedy="`vnic callgraph --list` tells what each of them is",
        )
    for number, name in enumerate(names):
        scene = scenes.SCENES[name]
        typer.echo(f"{chr(10) if number else ''}# {scene.title}")
        typer.echo(scenes.drawn(scene, level))
