# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic ladder``: TCP connections of a capture, or of a running back end, as ladder diagrams."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from stack.inspect import ladder as drawing
from stack.inspect import ladderrows
from stack.inspect.conversation import Conversation, End, Tracker, end_text, parse_end
from vnic import errors
from vnic.cli import output
from vnic.cli.pictures import spare, write
from vnic.cli.views import Control, Json, say_if_nobody

NAMED: Final = 10  # connections that an error names
_COLOURS: Final = {
    drawing.HEADING: "\x1b[1m",
    drawing.DROPPED: "\x1b[31;1m",
    drawing.GAP: "\x1b[2m",
    drawing.MANY: "\x1b[36m",
    drawing.PATH: "\x1b[2m",
    ladderrows.AGAIN: "\x1b[33m",
    ladderrows.DUPLICATE: "\x1b[35m",
    ladderrows.WINDOW: "\x1b[34m",
    ladderrows.RESET: "\x1b[31m",
}
_RESET: Final = "\x1b[0m"

Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Only connections with this port at either end.")
]
Peer = Annotated[
    str | None, typer.Option(metavar="ADDRESS:PORT", help="Only those with this end: 10.0.2.15:40000")
]

Interface = Annotated[
    str | None,
    typer.Option(
        "-i", "--interface", metavar="NAME", help="The capture's interface; its first unless given."
    ),
]


def ladder(
    file: Annotated[Path | None, typer.Argument(help="A capture: pcapng or pcap.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Draw what passes a running back end (Ctrl-C ends it).")
    ] = False,
    port: Port = None,
    peer: Peer = None,
    interface: Interface = None,
    numbers: Annotated[
        list[int] | None,
        typer.Option("-n", "--connection", min=1, metavar="N", help="The file's Nth; again for more."),
    ] = None,
    format_: Annotated[
        Literal["text", "svg", "json"],
        typer.Option("--format", "-f", help="svg: several connections are drawn below each other."),
    ] = "text",
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Draw every segment; else one arrow for many that are alike.")
    ] = False,
    paths: Annotated[
        bool, typer.Option("--paths", help="Say which functions a packet took, if there are comments.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("-c", "--count", min=1, help="With --live: end when so many connections have ended."),
    ] = None,
    json_: Json = False,
    control: Control = None,
) -> int:
    """Draw TCP connections as ladder diagrams: who sent what when, and the states of both ends.

    Captures with comments (vnic capture start FILE --comments) have the stack's own states, and what it dropped; of
    others, and of the guest, states follow from the segments.
    """
    wanted = Wanted(port, None if peer is None else end_of(peer), tuple(numbers or ()))
    if json_ and format_ == "svg":
        raise errors.UsageError("--json and --format svg contradict each other", remedy="give one of them")
    if live:
        _check_live(file, format_ if not json_ else "json", out, wanted, interface)
        return _live(wanted, count, control, every=every, paths=paths)
    if file is None:
        raise errors.UsageError(
            "there is nothing to draw", "neither a file nor --live is given", "vnic ladder net.pcapng"
        )
    if count is not None or control is not None:
        raise errors.UsageError(
            "--count and --control are about a running back end", f"{file} is a file", "leave them out"
        )
    spare(file, out)
    found = chosen(file, wanted, interface)
    if json_ or format_ == "json":
        text = json.dumps([{"connection": n} | drawing.plain(one) for n, one in found]) + "\n"
    elif format_ == "svg":
        text = drawing.stacked(found, every=every, paths=paths)
    else:
        text = _drawn(found, out is None, every=every, paths=paths)
    write(text, out)
    return errors.EXIT_OK


# -- which connections ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What --port, --peer and --connection say."""

    port: int | None = None
    peer: End | None = None
    numbers: tuple[int, ...] = ()

    def takes(self, conversation: Conversation, number: int = 0) -> bool:
        """``number`` is its place in the capture, from 1."""
        ends = conversation.client, conversation.server
        if self.port is not None and self.port not in (ends[0][1], ends[1][1]):
            return False
        if self.peer is not None and self.peer not in ends:
            return False
        return not self.numbers or number in self.numbers

    def __str__(self) -> str:
        parts = [f"port {self.port}"] if self.port is not None else []
        parts += [f"end {end_text(self.peer)}"] if self.peer is not None else []
        parts += [f"number {' or '.join(map(str, self.numbers))}"] if self.numbers else []
        return " and ".join(parts)


def end_of(text: str) -> End:
    """ "10.0.2.15:40000", "[fd00::15]:40000" as numbers; UsageError for anything else."""
    try:
        return parse_end(text)
    except ValueError as error:
        raise errors.UsageError(
            f"{text!r} is no address with a port", str(error), "--peer 10.0.2.15:40000"
        ) from error


def chosen(file: Path, wanted: Wanted, interface: str | None = None) -> list[tuple[int, Conversation]]:
    """The connections of a capture that are wanted, with their numbers; UsageError if there are none."""
    from vnic import pcapng

    tracker = Tracker()
    for packet in pcapng.read(file, interface):
        tracker.add(packet)
    there = list(enumerate(tracker.conversations, 1))
    if not there:
        raise errors.UsageError(
            f"no TCP connection is in {file}",
            f"none of its {tracker.packets} packets is a TCP segment right behind an IP header",
            "capture while a connection is made: vnic capture start FILE, or vnic serve --pcap FILE",
        )
    found = [(number, one) for number, one in there if wanted.takes(one, number)]
    if not found:
        raise errors.UsageError(f"no connection in {file} has {wanted}", _listed(there), "name one of these")
    return found


def _listed(there: list[tuple[int, Conversation]]) -> str:
    lines = [line(number, one) for number, one in there[:NAMED]]
    more = [f"and {len(there) - NAMED} more: vnic plot --list"] if len(there) > NAMED else []
    return "\n".join(["there are", *lines, *more])


def line(number: int, conversation: Conversation) -> str:
    """ "  2  10.0.2.15:40000 > 10.0.2.2:80  31 segments, 120 bytes up, 4096 down"."""
    from vnic.series import nbytes_of

    client, server = conversation.ends
    up, down = nbytes_of(conversation, "up"), nbytes_of(conversation, "down")
    return (
        f"{number:3}  {client} > {server}  {len(conversation.segments)} segments, {up} bytes up, {down} down"
    )


# -- as text -------------------------------------------------------------------------------------------------


def _drawn(found: list[tuple[int, Conversation]], to_stdout: bool, *, every: bool, paths: bool) -> str:
    width = _width() if to_stdout else drawing.MIN_WIDTH
    colour = to_stdout and output.use_colour(sys.stdout)
    ladders = (
        "".join(
            painted(drawn, colour)
            for drawn in drawing.lines(one, width, every=every, paths=paths, number=number)
        )
        for number, one in found
    )
    return "\n".join(ladders)


def _width() -> int:
    """The terminal's, 80 in a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else drawing.MIN_WIDTH


def painted(line: drawing.Line, colour: bool) -> str:
    """A line with its end, in the colour of what it is."""
    begin = _COLOURS.get(line.kind, "") if colour else ""
    return f"{begin}{line.text}{_RESET if begin else ''}\n"


# -- while it happens ----------------------------------------------------------------------------------------


def _check_live(
    file: Path | None, format_: str, out: Path | None, wanted: Wanted, interface: str | None
) -> None:
    if file is not None:
        raise errors.UsageError(
            "a file and --live exclude each other", f"{file} is a file", "leave one of them out"
        )
    if format_ != "text":
        raise errors.UsageError(
            f"--live draws text, no {format_.upper()}",
            "a picture can be made when all of it is there",
            "vnic capture start FILE --comments, later vnic ladder FILE",
        )
    if out is not None:
        raise errors.UsageError(
            "--live writes to stdout", f"-o {out} is given", f"vnic ladder --live > {out}"
        )
    if wanted.numbers:
        raise errors.UsageError(
            "--connection is about a file", "what passes has no numbers beforehand", "--port or --peer"
        )
    if interface is not None:
        raise errors.UsageError(
            "--interface is about a file", "--live shows what passes the stack's port", "leave it out"
        )


def _live(wanted: Wanted, count: int | None, control: Path | None, *, every: bool, paths: bool) -> int:
    from vnic.control import Client, choose

    live = drawing.Live(_width(), every=every, paths=paths)
    colour = output.use_colour(sys.stdout)
    with Client(choose(control)) as back_end:
        say_if_nobody(back_end, wanted.port, None if wanted.peer is None else end_text(wanted.peer))
        packets = back_end.stream("packets", comments="paths" if paths else "states")
        try:
            for lines in follow(packets, live, wanted, count):
                _print(lines, colour)
        finally:
            _print(live.flush(), colour)
    return errors.EXIT_OK


def _print(lines: list[drawing.Line], colour: bool) -> None:
    if lines:
        print("".join(painted(line, colour) for line in lines), end="", flush=True)


def follow(
    answers: Iterable[dict[str, Any]], live: drawing.Live, wanted: Wanted, count: int | None
) -> Iterator[list[drawing.Line]]:
    """The lines to write for each answer of a back end, until ``count`` connections have ended."""
    from vnic.packets import packet_of

    tracker = Tracker(keep=False)
    ended: dict[int, Conversation] = {}  # a number is given anew when what had it is gone
    for answer in answers:
        if "dropped" in answer:
            output.say(f"... {answer['dropped']} packets were lost: they came too fast")
        if "pause" in answer:  # who watches a stall sees what led to it
            yield live.flush()
        if "packet" not in answer:
            continue
        found = tracker.add(packet_of(answer["packet"]))
        if found is None or not wanted.takes(found[0]):
            continue
        yield live.add(*found)
        if count is not None and found[1].is_last:
            ended[id(found[0])] = found[0]
        if count is not None and len(ended) >= count:
            return
