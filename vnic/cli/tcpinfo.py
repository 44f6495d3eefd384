# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic tcpinfo``: struct tcp_info of one connection of a running back end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from stack.inspect import ss as inspect_ss
from stack.inspect import tcpinfo as inspect_tcpinfo
from vnic import errors
from vnic.cli import output
from vnic.cli.views import Control, Json

_ENDLESS = 1 << 62
_EVERY_S = 1.0
_MEANING = 20  # columns that are left for it at least


def tcpinfo(
    ends: Annotated[
        list[str],
        typer.Argument(metavar="[LOCAL] PEER", help="Its ends, each ADDRESS:PORT; the peer's is enough."),
    ],
    watch: Annotated[
        float | None,
        typer.Option(
            min=0.01, metavar="SECONDS", help="Go on looking, and show what changed (Ctrl-C ends it)."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", min=1, help="Look so often, then end.")
    ] = None,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Show every field of struct tcp_info of one connection: value, unit, meaning."""
    from vnic.control import choose

    if len(ends) > 2:
        raise errors.UsageError(
            "a connection has two ends", f"{len(ends)} are named", "vnic tcpinfo 10.0.2.2:7 10.0.2.15:40000"
        )
    path = choose(control)
    looks = count or (1 if watch is None else _ENDLESS)
    began, before = time.monotonic(), None
    for look in range(looks):
        if look:
            time.sleep(watch or _EVERY_S)
        sock = _connection(path, ends)
        now = inspect_tcpinfo.values(sock)
        if json_:
            print(json.dumps(_plain(sock, now)), flush=True)
        elif before is None:
            _print(inspect_tcpinfo.head(sock), list(inspect_tcpinfo.rows(now)))
        else:
            stamp = f"after {time.monotonic() - began:.1f} s: {sock.state}"
            _print(stamp, list(inspect_tcpinfo.changed(before, now)))
        before = now
    return errors.EXIT_OK


def _connection(path: Path, ends: list[str]) -> inspect_ss.Sock:
    """Asked anew for every look: the back end waits for no client."""
    from vnic.control import Client

    with Client(path) as back_end:
        socks = inspect_ss.sockets(back_end.ask("snapshot"))
    try:
        return inspect_tcpinfo.connection(socks, ends)
    except inspect_tcpinfo.NoConnection as error:
        raise errors.UsageError(error.fact, error.evidence, error.remedy) from error


def _plain(sock: inspect_ss.Sock, info: dict[str, int]) -> dict[str, object]:
    return {
        "local": str(sock.local),
        "peer": str(sock.peer),
        "congestion_control": sock.info["congestion_control"],
        "tcp_info": info,
    }


def _print(head: str, table: list[inspect_tcpinfo.Row]) -> None:
    if sys.stdout.isatty():
        _print_table(head, table)
    else:
        print(head)
        print(inspect_tcpinfo.text(table), end="", flush=True)


def _print_table(head: str, table: list[inspect_tcpinfo.Row]) -> None:
    """Three columns, the last folded at the edge of the terminal."""
    from rich.table import Table
    from rich.text import Text

    console = output.console()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(style="bold", overflow="fold")
    grid.add_column(style="dim", overflow="fold", min_width=_MEANING)
    for row in table:
        grid.add_row(*map(Text, row))
    console.print(Text(head, style="bold"))
    console.print(grid)
