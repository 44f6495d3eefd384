# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic replay``: a run that was recorded, once more, in the stack's own time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vnic import errors
from vnic.cli import output
from vnic.cli.serve import write_whole

if TYPE_CHECKING:
    from stack.freeze.record import Replay


def replay(
    file: Annotated[Path, typer.Argument(help="What `vnic serve --record` wrote.")],
    calls: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many calls; all of them unless given.")
    ] = None,
    freeze: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the state that is reached there.")
    ] = None,
    pcap: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the frames, with the stack's times, as pcapng.")
    ] = None,
) -> int:
    """Run a recording again: the same calls at the same times, no guest and no waiting.

    It ends with 1 at the first call that returns something else or lets other frames out than when it was recorded,
    and if the state at the end is not the same, byte for byte.
    """
    from devmodel.middleware.capture import Captured, PcapngWriter, open_file
    from stack.freeze.record import Replay
    from stack.freeze.writer import freeze as frozen

    try:
        with file.open(encoding="ascii", errors="replace") as lines:
            running = Replay(lines)
            if pcap is not None:
                writer = PcapngWriter(open_file(pcap), "eth0")
                running.seen = lambda direction, frame: writer.write(
                    Captured(running.now_ns, direction, [frame])
                )
            try:
                running.run(calls)
            finally:
                if pcap is not None:
                    writer.close()
    except OSError as error:
        raise errors.from_oserror(error, f"replay {file}") from error
    if freeze is not None:
        write_whole(freeze, frozen(running.net))
    output.stage(_told(running))
    return errors.EXIT_OK


def _told(running: Replay) -> str:
    seconds = (running.now_ns - running.began_ns) / 1e9
    if running.complete:
        end = "the state at the end is the recorded one, byte for byte"
    else:
        end = "the recording's end was not reached"
    return f"{running.calls} calls, {seconds:.3f} s of the stack's time; {end}"
