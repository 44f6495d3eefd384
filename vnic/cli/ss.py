# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic ss``: the sockets of a running back end, in the notation of ss(8).

Into a pipe it writes what ss writes; on a terminal the columns are cut to its width and what is known of a socket is
folded below it.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from stack.inspect import ss as inspect_ss
from stack.inspect import ssfilter
from vnic import errors
from vnic.cli import output
from vnic.cli.views import Control, Json

_GAP = 1
_INDENT = 4


def ss(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[state STATE|exclude STATE]... [EXPRESSION]",
            help="Which: state established '( dport = :7 or dst 10.0.2.0/24 )'",
        ),
    ] = None,
    tcp: Annotated[bool, typer.Option("-t", "--tcp", help="TCP sockets.")] = False,
    udp: Annotated[bool, typer.Option("-u", "--udp", help="UDP sockets.")] = False,
    listening: Annotated[bool, typer.Option("-l", "--listening", help="Only those that listen.")] = False,
    all_: Annotated[bool, typer.Option("-a", "--all", help="Those in every state.")] = False,
    numeric: Annotated[
        bool, typer.Option("-n", "--numeric", help="Rates in full (ports are numbers anyway).")
    ] = False,
    timers: Annotated[bool, typer.Option("-o", "--options", help="The timer that runs.")] = False,
    info: Annotated[bool, typer.Option("-i", "--info", help="struct tcp_info.")] = False,
    memory: Annotated[bool, typer.Option("-m", "--memory", help="Memory of the socket.")] = False,
    extended: Annotated[
        bool, typer.Option("-e", "--extended", help="Timer, key, which directions are open.")
    ] = False,
    processes: Annotated[
        bool, typer.Option("-p", "--processes", help="The back end's pid, the stack's descriptor.")
    ] = False,
    ipv4: Annotated[bool, typer.Option("-4", "--ipv4", help="Sockets of IPv4.")] = False,
    ipv6: Annotated[bool, typer.Option("-6", "--ipv6", help="Sockets of IPv6.")] = False,
    no_header: Annotated[bool, typer.Option("-H", "--no-header", help="No line of headings.")] = False,
    summary: Annotated[bool, typer.Option("-s", "--summary", help="Only how many there are.")] = False,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Show the sockets of a running stack as ss shows the kernel's; without -a and -l those that are connected."""
    from vnic.control import Client, choose

    states = ssfilter.ALL if all_ else ssfilter.LISTENING if listening else ssfilter.DEFAULT
    wanted = _filter(words or [], states)
    with Client(choose(control)) as back_end:
        snapshot, pid = back_end.ask("snapshot"), back_end.pid
    if summary:
        counted = inspect_ss.summary(snapshot)
        typer.echo(json.dumps(counted) if json_ else inspect_ss.summary_text(counted), nl=json_)
        return errors.EXIT_OK
    kinds = [kind for kind, chosen in (("tcp", tcp), ("udp", udp)) if chosen] or ["tcp", "udp"]
    families = [family for family, chosen in ((4, ipv4), (6, ipv6)) if chosen] or [4, 6]
    socks = [
        sock
        for sock in inspect_ss.sockets(snapshot)
        if sock.netid in kinds and sock.family in families and wanted(sock)
    ]
    if json_:
        typer.echo(json.dumps([inspect_ss.plain(sock, pid) for sock in socks]))
        return errors.EXIT_OK
    shown = inspect_ss.Details(timers, info, memory, extended, processes, numeric, pid)
    hidden = {"Netid"} if len(kinds) == 1 else set()
    if len(wanted.states) == 1:
        hidden.add("State")
    _print(socks, shown, hidden=frozenset(hidden), header=not no_header)
    return errors.EXIT_OK


def _filter(words: list[str], states: frozenset[str]) -> ssfilter.Filter:
    try:
        return ssfilter.parse(words, states, socket.getservbyname)
    except ssfilter.FilterError as error:
        raise errors.UsageError(error.fact, error.evidence, error.remedy) from error


def _print(
    socks: list[inspect_ss.Sock], shown: inspect_ss.Details, *, hidden: frozenset[str], header: bool
) -> None:
    if sys.stdout.isatty():
        _print_table(socks, shown, hidden=hidden, header=header)
    else:
        typer.echo(inspect_ss.text(socks, shown, hidden=hidden, header=header), nl=False)


def _print_table(
    socks: list[inspect_ss.Sock], shown: inspect_ss.Details, *, hidden: frozenset[str], header: bool
) -> None:
    """A table whose rows have what is known of the socket below them, folded; no line is wider than the terminal."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    rows = [inspect_ss.visible(inspect_ss.cells(sock), hidden) for sock in socks]
    headings = inspect_ss.visible(inspect_ss.HEADINGS, hidden)
    console = output.console()
    widths = _widths([headings, *rows], console.width)

    def row(texts: Iterable[str], style: str = "") -> None:
        grid = Table.grid(padding=(0, _GAP))
        for width in widths:
            grid.add_column(width=width, overflow="fold")
        grid.add_row(*map(Text, texts), style=style)
        console.print(grid)

    if header:
        row(headings, "bold")
    for sock, texts in zip(socks, rows, strict=True):
        row(texts)
        words = [inspect_ss.process_words(sock, shown), *inspect_ss.info_words(sock, shown)]
        known = Text(" ".join(filter(None, words)), style="dim", overflow="fold")
        if known:
            console.print(Padding(known, (0, 0, 0, _INDENT)))


def _widths(rows: list[list[str]], limit: int) -> list[int]:
    """As wide as the longest cell; if that is more than there is, the two addresses share what the others leave."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    *others, local, peer = widths
    left = max(limit - sum(others) - _GAP * len(others) - _GAP, 2)
    if local + peer > left:
        local = min(local, max(left // 2, left - peer))
        peer = min(peer, left - local)
    return [*others, local, peer]
