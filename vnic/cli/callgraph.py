# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic callgraph``: who calls whom in the stack, step by step."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

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
    kernel: Annotated[
        bool,
        typer.Option(
            "--kernel", help="Show the kernel's own trees, recorded in a guest that is booted for it."
        ),
    ] = False,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="With --kernel: both trees in one; + is ours only, - the kernel's only."),
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="With --kernel: what ftrace wrote, unread.")] = False,
    image: Annotated[str, typer.Option(help="The guest image for --kernel.")] = "debian12",
) -> int:
    """Show the stack's call trees of bind, listen, accept, connect, read, write, close and each kind of segment.

    Each is recorded on the spot, in virtual time: no guest is needed, but for --kernel.
    """
    from vnic.cli import trees  # the whole stack, which no other verb has to wait for

    if (diff or raw) and not kernel:
        raise errors.UsageError("--diff and --raw are about the kernel's trees", remedy="add --kernel")
    if docs:
        trees.write_docs(DOCS)
    elif list_:
        trees.list_steps()
    elif kernel:
        trees.show_kernel(names, image, diff=diff, raw=raw)
    else:
        trees.show(names, level.value)
    return errors.EXIT_OK
