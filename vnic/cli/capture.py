# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic capture``: packets of a running back end into a file, from now on and until told to stop."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from vnic import errors
from vnic.cli.views import Control, Json

app = typer.Typer(help="Capture packets of a running back end as pcapng.", no_args_is_help=True)

_SIZE = re.compile(r"(\d+)([kKmMgG]?)")
FILES = 2
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size_of(text: str) -> int:
    """ "10M" in bytes; UsageError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise errors.UsageError(
            f"{text!r} is no size", "a number of bytes, with K, M or G behind it", "--ring 10M"
        )
    return int(found[1]) * _FACTORS[found[2].lower()]


@app.command()
def start(
    file: Annotated[Path, typer.Argument(help="Where to; a ring's files have a number behind that name.")],
    ring: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Begin a new file when one has that size: 10M.")
    ] = None,
    files: Annotated[
        int | None, typer.Option(min=1, help="So many files of the ring are kept: 2 unless given.")
    ] = None,
    comments: Annotated[
        bool,
        typer.Option(
            "--comments",
            help="Say of each packet which functions it went through, the state before and after, why it was "
            "dropped. The stack is traced meanwhile, which slows it.",
        ),
    ] = False,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Begin to write what passes between stack and port."""
    if files is not None and ring is None:
        raise errors.UsageError(
            "--files is about a ring", "without --ring there is one file", f"--ring 10M --files {files}"
        )
    wanted = {"file": str(file.absolute()), "files": files or FILES, "comments": comments}
    return _tell("start", wanted | {"ring": size_of(ring) if ring is not None else None}, json_, control)


@app.command()
def stop(json_: Json = False, control: Control = None) -> int:
    """End the capture."""
    return _tell("stop", {}, json_, control)


@app.command()
def status(json_: Json = False, control: Control = None) -> int:
    """Tell whether packets are being captured, and how many were."""
    return _tell("status", {}, json_, control)


def _tell(action: str, more: dict[str, Any], json_: bool, control: Path | None) -> int:
    from vnic.control import Client, choose

    with Client(choose(control)) as back_end:
        answer = back_end.ask("capture", action=action, **more)
    typer.echo(json.dumps(answer) if json_ else text(answer))
    return errors.EXIT_OK


def text(status: dict[str, Any]) -> str:
    """A line about a status."""
    if "file" not in status:
        return "nothing is being captured"
    where = status["file"]
    if status["ring"] is not None:
        where += f" (a ring: {status['files']} files of {status['ring']} bytes)"
    if status["failed"]:
        return f"{status['packets']} packets in {where}, then it failed: {status['failed']}"
    verb = "capturing into" if status["running"] else "captured into"
    return f"{verb} {where}: {status['packets']} packets"
