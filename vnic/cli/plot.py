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
from vnic.cli.ladder import Interface, Peer, Port, Wanted, chosen, end_of, line
from vnic.cli.pictures import spare, write

if TYPE_CHECKING:
    from stack.inspect.conversation import Conversation
    from vnic.series import Direction, Series

Format = Literal["svg", "png"]
_STDOUT = Path("-")


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
    port: Port = None,
    peer: Peer = None,
    direction: Annotated[
        Literal["up", "down"] | None,
        typer.Option(help="Data from client to server, or back; where there are more unless given."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="PANEL,...", help="Of sequence, cwnd, rtt and throughput; all.")
    ] = None,
    interface: Interface = None,
    list_: Annotated[
        bool, typer.Option("--list", "-l", help="List the connections that fit and draw none.")
    ] = False,
    json_: Annotated[
        bool,
        typer.Option(
            "--json", help="Write the numbers as JSON, to stdout unless -o is given, and draw nothing."
        ),
    ] = False,
) -> int:
    """Draw a TCP connection: sequence numbers, congestion window, round trips and goodput over time.

    Of several connections the one with the most data is drawn.
    """
    from vnic.series import series_of

    panels = _panels(only)
    if json_ and format_ is not None:
        raise errors.UsageError(
            f"--json and --format {format_} contradict each other",
            "numbers are no picture",
            "give one of them",
        )
    path, kind = (out or _STDOUT, None) if json_ else _target(file, out, format_)
    spare(file, path)
    ends = None if peer is None else end_of(peer)
    found = chosen(file, Wanted(port, ends, () if number is None else (number,)), interface)
    if list_:
        print("\n".join(line(i, one) for i, one in found))
        return errors.EXIT_OK
    conversation = _most(found)
    way = _direction(conversation, direction)
    series = series_of(conversation, way, panels)
    if kind is None:
        write(json.dumps(series.plain()) + "\n", None if path == _STDOUT else path)
    else:
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
    return file.with_suffix(f".{kind}") if out is None else out, kind


# -- which connection ----------------------------------------------------------------------------------------------


def _most(found: list[tuple[int, Conversation]]) -> Conversation:
    """The one of these with the most data."""
    i, most = max(found, key=lambda pair: (_size(pair[1]), -pair[0]))
    if len(found) > 1:
        output.stage(f"connection {i}, of {len(found)} the one with the most data: {' > '.join(most.ends)}")
        output.stage("--connection N, --port or --peer take another one; --list shows them")
    return most


def _size(conversation: Conversation) -> int:
    from vnic.series import nbytes_of

    return nbytes_of(conversation, "up") + nbytes_of(conversation, "down")


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
