# SPDX-License-Identifier: GPL-2.0-or-later
"""How verbs that draw hand out what they drew: as text, for graphviz, as SVG or JSON; on stdout or into a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vnic import errors, graphviz

Form = Literal["text", "dot", "svg", "json"]
Format = Annotated[Form, typer.Option("--format", "-f", help="svg needs graphviz.")]
Out = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")]


def show(
    form: Form,
    json_: bool,
    out: Path | None,
    *,
    text: Callable[[], str],
    dot: Callable[[], str],
    plain: Callable[[], Any],
) -> None:
    """Draw in that form.  UsageError, GraphvizError, HostIOError of the file."""
    if json_ and form not in ("text", "json"):
        raise errors.UsageError(
            f"--json and --format {form} contradict each other", remedy="give one of them"
        )
    if json_ or form == "json":
        drawn = json.dumps(plain()) + "\n"
    elif form == "text":
        drawn = text()
    else:
        drawn = dot() if form == "dot" else graphviz.svg(dot())
    write(drawn, out)


def spare(file: Path, out: Path | None) -> None:
    """UsageError if the output would replace the capture that it is made of."""
    if out is not None and out.exists() and file.exists() and out.samefile(file):
        raise errors.UsageError(f"{out} is the capture", "it would be replaced", "-o and another name")


def write(drawn: str, out: Path | None) -> None:
    """On stdout, or into the file."""
    if out is None:
        typer.echo(drawn, nl=False)
        return
    try:
        out.write_text(drawn, "utf-8")
    except OSError as error:
        raise errors.from_oserror(error, f"write {out}") from error
