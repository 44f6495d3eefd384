# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic plot``: a TCP connection of a capture as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vnic import errors
from vnic.cli import output
from vnic.cli.ladder import Wanted, end_of

if TYPE_CHECKING:
    from stack.inspect.conversation import Conversation
    from vnic.series import Direction, Series

Format = Literal["svg", "png"]
_STDOUT = Path("-")
_NAMED = 10  # connections at most that an error lists


def plot(
    file: Annotated[Path, typer.Argument(help="A capture: pcapng or pcap.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write it there; - is stdout. Unless given: FILE as .svg."
        ),
    ] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", "-f", help="Unless given, what the output's name ends with.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("-n", "--connection", min=1, help="The connection of this number.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Only connections with this port at either end.")
    ] = None,
    peer: Annotated[
        str | None, typer.Option(metavar="ADDRESS:PORT", help="Only those with this end: 10.0.2.15:40000")
    ] = None,
    direction: Annotated[
        Literal["up", "down"] | None,
        typer.Option(help="Data from client to server, or back; where there are more unless given."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="PANEL,...", help="Of sequence, cwnd, rtt and throughput; all.")
    ] = None,
    interface: Annotated[
        str | None,
        typer.Option(
            "-i", "--interface", metavar="NAME", help="The capture's interface; its first unless given."
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", "-l", help="List the connections and draw none.")] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON and draw nothing.")
    ] = False,
) -> int:
    """Draw a TCP connection: sequence numbers, congestion window, round trips and goodput over time.

    Of several connections the one with the most data is drawn.
    """
    from stack.inspect.conversation import conversations
    from vnic import pcapng
    from vnic.series import series_of

    panels = _panels(only)
    path, kind = _target(file, out, format_)
    found = conversations(pcapng.read(file, interface))
    if list_:
        print("\n".join(_line(i, one) for i, one in enumerate(found, 1)))
        return errors.EXIT_OK
    ends = None if peer is None else end_of(peer)
    conversation = _choose(file, found, Wanted(port, ends, () if number is None else (number,)))
    way = _direction(conversation, direction)
    series = series_of(conversation, way, panels)
    if json_:
        print(json.dumps(series.plain()))
        return errors.EXIT_OK
    _write(series, path, kind)
    return errors.EXIT_OK


# -- what is asked for ---------------------------------------------------------------------------------------------


def _panels(only: str | None) -> tuple[str, ...] | None:
    from vnic.series import PANELS

    if only is None:
        return None
    names = tuple(name.strip() for name in only.split(","))
    for name in names:
        if name not in PANELS:
            raise errors.UsageError(
                f"there is no panel {name!r}", f"there are {', '.join(PANELS)}", "--only sequence,cwnd"
            )
    return names


def _target(file: Path, out: Path | None, format_: Format | None) -> tuple[Path, Format]:
    """Where to, and what."""
    ending = "" if out is None or out == _STDOUT else out.suffix.lower().removeprefix(".")
    of_name: Format | None = "svg" if ending == "svg" else "png" if ending == "png" else None
    if format_ is not None and of_name not in (None, format_):
        raise errors.UsageError(
            f"--format {format_} and {out} contradict each other",
            "the name says otherwise",
            "give one of them",
        )
    if out not in (None, _STDOUT) and format_ is None and of_name is None:
        raise errors.UsageError(
            f"{out} tells no format", "its name ends neither with .svg nor with .png", "--format svg, or png"
        )
    kind = format_ or of_name or "svg"
    path = file.with_suffix(f".{kind}") if out is None else out
    if path.exists() and file.exists() and path.samefile(file):
        raise errors.UsageError(
            f"{path} is the capture", "the picture would replace it", "-o and another name"
        )
    return path, kind


# -- which connection ----------------------------------------------------------------------------------------------


def _choose(file: Path, found: list[Conversation], wanted: Wanted) -> Conversation:
    """The one that is named, or of those that fit the one with the most data."""
    if not found:
        raise errors.UsageError(
            f"{file} holds no TCP connection",
            "none of its packets is a TCP segment that can be read",
            "capture one: vnic capture start FILE --comments",
        )
    named = [(i, one) for i, one in enumerate(found, 1) if wanted.takes(one, i)]
    if not named:
        raise errors.UsageError(f"no connection in {file} has {wanted}", _named(found), "name one of these")
    if len(named) == 1:
        return named[0][1]
    i, most = max(named, key=lambda pair: (_size(pair[1]), -pair[0]))
    output.stage(f"connection {i} of {len(found)}, the one with the most data: {' > '.join(most.ends)}")
    output.stage("--connection N, --port or --peer take another one; --list shows them")
    return most


def _size(conversation: Conversation) -> int:
    from vnic.series import nbytes_of

    return nbytes_of(conversation, "up") + nbytes_of(conversation, "down")


def _line(number: int, conversation: Conversation) -> str:
    """ "  2  10.0.2.15:40000 > 10.0.2.2:80  31 segments, 120 bytes up, 4096 down"."""
    from vnic.series import nbytes_of

    client, server = conversation.ends
    up, down = nbytes_of(conversation, "up"), nbytes_of(conversation, "down")
    return (
        f"{number:3}  {client} > {server}  {len(conversation.segments)} segments, {up} bytes up, {down} down"
    )


def _named(found: list[Conversation]) -> str:
    lines = [_line(i, one) for i, one in enumerate(found[:_NAMED], 1)]
    more = [f"and {len(found) - _NAMED} more: --list"] if len(found) > _NAMED else []
    return "\n".join(["there are", *lines, *more])


def _direction(conversation: Conversation, wanted: Direction | None) -> Direction:
    """The one that is asked for, else where there are more data; UsageError if there are none."""
    from vnic.series import direction_of, nbytes_of

    way = wanted or direction_of(conversation)
    if nbytes_of(conversation, way):
        return way
    client, server = conversation.ends
    up, down = nbytes_of(conversation, "up"), nbytes_of(conversation, "down")
    raise errors.UsageError(
        f"that connection has no data {way} it" if up + down else "that connection has no data",
        f"{client} sent {up} bytes and {server} {down}, in {len(conversation.segments)} segments",
        f"--direction {'down' if up == 0 else 'up'}"
        if up + down
        else "vnic plot --list shows which have some",
    )


# -- the picture ---------------------------------------------------------------------------------------------------


def _write(series: Series, path: Path, kind: Format) -> None:
    from vnic import plots

    if path == _STDOUT and kind == "png" and sys.stdout.isatty():
        raise errors.UsageError(
            "a PNG is nothing for a terminal", "stdout is one", "-o FILE.png, or a pipe behind it"
        )
    data = plots.svg(series).encode() if kind == "svg" else plots.png(series)
    if path == _STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        path.write_bytes(data)
    except OSError as error:
        raise errors.from_oserror(error, f"write {path}") from error
    output.stage(f"drawn: {path}")
