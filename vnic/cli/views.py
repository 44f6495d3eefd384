# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs that look at a running back end over its control socket: trace, tables, states, nstat, sysctl."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vnic import errors
from vnic.cli import output
from vnic.cli.pictures import Format, Out, show

if TYPE_CHECKING:
    from vnic.control import Client

Control = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="The back end's control socket; the one that runs unless given."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def nstat(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Counters to show: names, or patterns.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("-a", "--ignore", help="Absolute values, not what came since last time.")
    ] = False,
    zeros: Annotated[bool, typer.Option("-z", "--zeros", help="Those that are zero too.")] = False,
    no_update: Annotated[bool, typer.Option("-s", "--noupdate", help="Leave the history as it is.")] = False,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Show the stack's counters as nstat shows the kernel's: what they grew by since the last call.

    The history is kept for each back end in the directory of its control socket.
    """
    from vnic import counters

    values = counters.read(control, absolute=all_, update=not no_update)
    shown = counters.chosen(values, patterns or [], zeros=zeros)
    if json_:
        typer.echo(json.dumps({"kernel": shown}))
    elif sys.stdout.isatty():
        heads = ("counter", "value" if all_ else "since the last call")
        output.print_names(heads, ((name, str(value)) for name, value in shown.items()), numbers=True)
    else:
        typer.echo(counters.text(shown), nl=False)
    return errors.EXIT_OK


def sysctl(
    names: Annotated[list[str] | None, typer.Argument(help="NAME to read, NAME=VALUE to set.")] = None,
    all_: Annotated[bool, typer.Option("-a", "--all", help="Show all of them.")] = False,
    values_only: Annotated[bool, typer.Option("-n", "--values", help="Without the names.")] = False,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Read and change the sysctls of a running stack: vnic sysctl net.ipv4.tcp_syncookies=2"""
    from vnic.control import Client, choose

    if not names and not all_:
        raise errors.UsageError("nothing to read or set", remedy="vnic sysctl -a, or name one")
    found: dict[str, str] = {}
    with Client(choose(control)) as back_end:
        if all_:
            found.update(back_end.ask("sysctls"))
        pairs = [word.partition("=") for word in names or []]
        for name, _, _ in pairs:  # all have to be there before one is set
            found[name.strip()] = back_end.ask("sysctl", name=name.strip())
        for name, equals, value in pairs:
            if equals:
                found[name.strip()] = back_end.ask("sysctl", name=name.strip(), value=value.strip())
    if json_:
        typer.echo(json.dumps(found))
    elif sys.stdout.isatty() and not values_only:
        rows = ((name, value.replace("\t", " ")) for name, value in found.items())
        output.print_names(("sysctl", "value"), rows)
    else:
        for name, value in found.items():
            typer.echo(value if values_only else f"{name} = {value}")
    return errors.EXIT_OK


def trace(
    level: Annotated[
        Literal["notes", "full", "times"],
        typer.Option(help="What notes would show, every call, or with microseconds."),
    ] = "notes",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Only segments and sockets with this port at either end."),
    ] = None,
    peer: Annotated[
        str | None, typer.Option(metavar="ADDRESS:PORT", help="Only those of this peer: 10.0.2.15:40000")
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(metavar="FUNCTION", help="Only trees that begin with it: tcp_v4_rcv, sys_bind ..."),
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(metavar="PHASE", help="Only of that phase of a connection: syn, ack, data, close ..."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", min=1, help="End after so many trees.")
    ] = None,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Print the call tree of what a running stack does, as it happens (Ctrl-C ends it)."""
    from vnic.control import Client, choose

    wanted = {"level": level, "port": port, "peer": peer, "root": root, "phase": phase}
    if count is not None:
        wanted["count"] = count
    with Client(choose(control)) as back_end:
        say_if_nobody(back_end, port, peer)
        for answer in back_end.stream("trace", **wanted):
            if "dropped" in answer:
                output.say(f"... {answer['dropped']} trees were lost: they came too fast")
            elif json_:
                print(json.dumps(answer), flush=True)
            else:
                print(
                    f"# {answer['flow']}\n{answer['tree']}\n" if answer["flow"] else f"{answer['tree']}\n",
                    flush=True,
                )
    return errors.EXIT_OK


def say_if_nobody(back_end: Client, port: int | None, peer: str | None) -> None:
    """Who waits for what a socket does wants to know that there is none.  ControlError for what is no address."""
    if (port or peer) and not back_end.ask("there", port=port, peer=peer):
        whose = " and ".join(([peer] if peer else []) + ([f"port {port}"] if port else []))
        output.say(f"no socket of the stack has {whose}: waiting for one (vnic ss -tan lists them)")


def tables(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ehash|bhash|lhash|all]...", help="Which; all unless given."),
    ] = None,
    format_: Format = "text",
    out: Out = None,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Draw the TCP tables of a running stack: buckets, structs with the kernel's field names, pointers."""
    from stack.inspect import tables as pictures
    from vnic.control import Client, choose

    chosen = [name for name in names or [] if name != "all"] or list(pictures.TABLES)
    with Client(choose(control)) as back_end:
        tcp = back_end.ask("snapshot")["tcp"]
    try:
        boxes = pictures.picture(tcp, chosen)
    except ValueError as error:
        raise errors.UsageError(str(error), remedy="vnic tables all") from error
    show(
        format_,
        json_,
        out,
        text=lambda: pictures.text(boxes),
        dot=lambda: pictures.dot(boxes),
        plain=lambda: pictures.plain(boxes),
    )
    return errors.EXIT_OK


def states(
    live: Annotated[
        bool, typer.Option("--live", help="With the number of sockets of a running stack in each state.")
    ] = False,
    format_: Format = "text",
    out: Out = None,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Draw TCP's state diagram, from the table of steps that the stack asserts."""
    from stack.inspect import states as diagram

    counts = _in_each_state(control) if live or control is not None else None
    show(
        format_,
        json_,
        out,
        text=lambda: diagram.text(counts),
        dot=lambda: diagram.dot(counts),
        plain=lambda: diagram.plain(counts),
    )
    return errors.EXIT_OK


def _in_each_state(control: Path | None) -> Counter[str]:
    from vnic.control import Client, choose

    with Client(choose(control)) as back_end:
        tcp = back_end.ask("snapshot")["tcp"]
    groups = ("listeners", "requests", "connections", "time_wait")
    return Counter(one["state"] for group in groups for one in tcp[group])
