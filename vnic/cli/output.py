# SPDX-License-Identifier: GPL-2.0-or-later
"""What the verbs say while they work: stage lines with the time since the start, and errors in three parts.

All of it goes to stderr, so that stdout holds results alone.  Colour is used on a terminal unless NO_COLOR is set to
anything (no-color.org) or TERM is "dumb"; FORCE_COLOR turns it on anywhere.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from vnic import errors

if TYPE_CHECKING:
    from rich.console import Console

_RED, _DIM, _BOLD, _RESET = "\x1b[31;1m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
_started = time.monotonic()


def use_colour(stream: TextIO) -> bool:
    """Whether escape sequences may be written to ``stream``."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _painted(text: str, colour: str) -> str:
    return f"{colour}{text}{_RESET}" if use_colour(sys.stderr) else text


def console() -> Console:
    """For tables on stdout, as wide as the terminal."""
    from rich.console import Console  # `vnic --help` should not wait for it

    return Console(no_color=not use_colour(sys.stdout), highlight=False)


def print_names(heads: tuple[str, str], rows: Iterable[tuple[str, str]], *, numbers: bool = False) -> None:
    """Names and their values for a terminal, folded at its edge; ``numbers`` stand at the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(heads[0], overflow="fold")
    table.add_column(heads[1], overflow="fold", justify="right" if numbers else "left")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    console().print(table)


def say(text: str) -> None:
    """A line on stderr; lost, and no error, if whoever read it is gone (a closed terminal: EIO)."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def stage(text: str) -> None:
    """One line that says what is being done, after the seconds since this command began."""
    stamp = _painted(f"[{time.monotonic() - _started:6.1f} s]", _DIM)
    say(f"{stamp} {text}")


def headline(text: str) -> None:
    """A line that should not be overlooked."""
    say(_painted(text, _BOLD))


def show_error(error: BaseException) -> None:
    """Fact, evidence and remedy on stderr."""
    first, *rest = errors.render(error).split("\n")
    label, _, fact = first.partition(" ")
    say("\n".join([f"{_painted(label, _RED)} {fact}", *rest]))
