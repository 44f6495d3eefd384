# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic serve``: the back end alone, for any frontend.

The first line on stdout begins with "ready:" and is printed once the socket listens and every service is open; whoever
starts this program waits for it.  SIGINT and SIGTERM end it with exit code 0 and the socket removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guest.vm.rundir import claim_socket_path
from vnic import errors
from vnic.cli import output
from vnic.options import DEFAULT_ADDRESS, DEFAULT_ADDRESS6, Options, parse_hosts
from vnic.places import KINDS, Place, bridge_lines, frontend_lines

if TYPE_CHECKING:
    from vnic.cli.moves import Moves
    from vnic.host import Host, Line

READY = "ready:"
PAGE = "  live page:"
NO_CONTROL = "none"

VhostUserPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--vhost-user", metavar="PATH[,mac=MAC]", help="Listen for vhost-user; mac: a card of ours."
    ),
]
VhostUserTargets = Annotated[
    list[str] | None,
    typer.Option(
        "--vhost-user-to", metavar="PATH", help="Connect to a vhost-user chardev with server=on,wait=off."
    ),
]
StreamPaths = Annotated[
    list[str] | None,
    typer.Option("--stream", metavar="PATH|HOST:PORT", help="Listen for QEMU's -netdev stream."),
]
StreamTargets = Annotated[
    list[str] | None,
    typer.Option("--stream-to", metavar="PATH|HOST:PORT", help="Connect to a -netdev stream,server=on."),
]
Dgrams = Annotated[
    list[str] | None,
    typer.Option(
        "--dgram", metavar="LOCAL[,REMOTE]", help="Datagrams of QEMU's -netdev dgram; paths, or HOST:PORT."
    ),
]
Sockets = Annotated[
    list[str] | None,
    typer.Option("--socket", metavar="TEXT", help="The other end of a -netdev socket,TEXT, say connect=..."),
]
Taps = Annotated[
    list[str] | None,
    typer.Option("--tap", metavar="NAME[,vnet]", help="A TAP of this network namespace; vnet: offloads."),
]
Pcap = Annotated[Path | None, typer.Option("--pcap", metavar="FILE", help="Write all frames as pcapng.")]
Loss = Annotated[float, typer.Option(help="Lose frames with this probability, each way.")]
Reorder = Annotated[float, typer.Option(help="Let the next frame overtake, with this probability.")]
Duplicate = Annotated[float, typer.Option(help="Send frames twice with this probability.")]
Seed = Annotated[int, typer.Option(help="Of the faults: same seed, same faults.")]
DeviceFaults = Annotated[
    list[str] | None,
    typer.Option(
        "--device-fault",
        metavar="WHERE:WHAT:WHEN",
        help="Break a rule of the rings, as in rx:duplicate-used:at=100; vnic inject --list shows which.",
    ),
]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", metavar="NAME=ADDR", help="A name for the DNS server.")
]
Address = Annotated[str, typer.Option(metavar="CIDR", help="The server's address in the guest's network.")]
Address6 = Annotated[
    str,
    typer.Option(
        metavar="CIDR|none",
        help="Its IPv6 address, and the prefix that is advertised; none below an MTU of 1280.",
    ),
]
Freeze = Annotated[
    Path | None, typer.Option("--freeze", metavar="FILE", help="Write the state there at the end.")
]
Thaw = Annotated[
    Path | None, typer.Option("--thaw", metavar="FILE", help="Go on from the state in that file.")
]
HandOver = Annotated[
    Path | None,
    typer.Option(
        "--hand-over", metavar="SOCKET", help="Give the state there to the back end that the guest moved to."
    ),
]
TakeOver = Annotated[
    Path | None,
    typer.Option(
        "--take-over", metavar="SOCKET", help="Get it there, from the back end that the guest comes from."
    ),
]
Record = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Write the run down, for vnic replay.")
]
Control = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|none",
        help="Where vnic trace, nstat and the like ask; a place that they find unless given.",
    ),
]
Web = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        metavar="PORT",
        help="Show it live to a browser on this machine, at that port of 127.0.0.1; 0: any free one.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="At the end, write a page of the run there; the first trees are slow.",
    ),
]
Mtu = Annotated[int, typer.Option(min=576, max=65521, help="Bytes of IP packet on the link.")]


def serve(
    vhost_user: VhostUserPaths = None,
    vhost_user_to: VhostUserTargets = None,
    stream: StreamPaths = None,
    stream_to: StreamTargets = None,
    dgram: Dgrams = None,
    socket: Sockets = None,
    tap: Taps = None,
    pcap: Pcap = None,
    loss: Loss = 0.0,
    reorder: Reorder = 0.0,
    duplicate: Duplicate = 0.0,
    seed: Seed = 0,
    device_fault: DeviceFaults = None,
    host: Hosts = None,
    address: Address = DEFAULT_ADDRESS,
    address6: Address6 = DEFAULT_ADDRESS6,
    mtu: Mtu = 1500,
    freeze: Freeze = None,
    thaw: Thaw = None,
    hand_over: HandOver = None,
    take_over: TakeOver = None,
    record: Record = None,
    control: Control = None,
    web: Web = None,
    report: Report = None,
) -> int:
    """Run the back end alone; QEMU, or any other frontend, connects to it.

    At several places (each of the first seven options may be repeated) it is a switch: guests reach each other too.

    With --freeze it can be stopped and, with --thaw, another one started without the guest's connections noticing more
    than a pause.

    With --hand-over here and --take-over in another one the guest can be migrated live from a QEMU that is connected
    here to one that is connected there: docs/migration.md.
    """
    options = Options(
        further=places_of(vhost_user, vhost_user_to, stream, stream_to, dgram, socket, tap),
        capture=pcap,
        loss=loss,
        reorder=reorder,
        duplicate=duplicate,
        seed=seed,
        device_faults=tuple(device_fault or []),
        address=address,
        address6=address6,
        mtu=mtu,
        hosts=parse_hosts(host or []),
        freeze=freeze,
        thaw=thaw,
        record=record,
        hand_over=hand_over,
        take_over=take_over,
    )
    if freeze is not None:
        write_whole(freeze, "")  # what cannot be written is said before anybody relies on it
    if report is not None:
        write_whole(report, "")
    asyncio.run(_serve(options, control, web, report))
    return errors.EXIT_OK


def places_of(*texts: list[str] | None) -> tuple[Place, ...]:
    """What was given for each kind, in the order of KINDS."""
    pairs = zip(KINDS, texts, strict=True)
    return tuple(kind(text) for kind, given in pairs for text in given or [])


async def _serve(options: Options, control: str | None, web: int | None, report: Path | None) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)

    from vnic.cli.moves import Moves
    from vnic.host import Line  # the stack takes a while to load: `vnic --help` should not

    # What is loaded now stays: the collector need not look at it again on the packet path.
    gc.collect()
    gc.freeze()
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(Line.open(options))
        moves = Moves(line, options)
        await stack.enter_async_context(moves.open())
        if options.take_over is not None:
            _announce(options)
            await _first(moves.arrive(), ended.wait())
        while not ended.is_set():
            await _life(line, moves, ended, options, control, web, report)
            # The file's connections were those of the first life, and somebody else has them now.
            options = replace(options, thaw=None)
            report = None if report is None else _next_report(report)


def _next_report(path: Path) -> Path:
    """Where the page of the next life goes: run.html, run.2.html, run.3.html."""
    stem, _, number = path.stem.rpartition(".")
    if stem and number.isdecimal():
        return path.with_name(f"{stem}.{int(number) + 1}{path.suffix}")
    return path.with_name(f"{path.stem}.2{path.suffix}")


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Until one of them is done; its error is raised, the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()


async def _life(
    line: Line,
    moves: Moves,
    ended: asyncio.Event,
    options: Options,
    control: str | None,
    web: int | None,
    report: Path | None,
) -> None:
    """A stack on the line, until the end or until another one takes its place."""
    async with AsyncExitStack() as stack:
        host = await _host(stack, line, moves, options)
        if control != NO_CONTROL:
            await stack.enter_async_context(_controlled(host, options, control))
        page = await stack.enter_async_context(_shown(host, web)) if web is not None else ""
        if report is not None:
            stack.enter_context(_reported(host, options, report))
        if not moves.announced:
            _announce(options, page)
        moves.live(host)
        await _first(ended.wait(), moves.next.wait())
        moves.leave()
        if not ended.is_set():
            return
        if options.freeze is not None:
            write_whole(options.freeze, host.freeze())
            output.stage(f"frozen: {options.freeze}")
        output.stage(f"ending: {_totals(host.port.stats())}")


async def _host(cleanup: AsyncExitStack, line: Line, moves: Moves, options: Options) -> Host:
    """The stack of a life.  One that came from elsewhere and cannot be gone on from is no reason to die: its bytes are
    whole, as they were checked, but may have been written by anybody."""
    from vnic.host import Host

    state = moves.take_state()
    if state is None:
        return await cleanup.enter_async_context(Host.open(options, line=line))
    try:
        return await cleanup.enter_async_context(Host.open(options, line=line, state=state))
    except Exception as error:
        output.stage("the state that came cannot be gone on from: beginning anew")
        output.show_error(error)
    return await cleanup.enter_async_context(Host.open(options, line=line))


@asynccontextmanager
async def _controlled(host: Host, options: Options, where: str | None) -> AsyncIterator[None]:
    """The control socket, for the verbs that look at a running back end."""
    from vnic.control import ControlServer, socket_path

    fixed = "the run is recorded, and its sysctls belong to what was recorded" if options.record else ""
    path = Path(where) if where is not None else socket_path()
    if any(str(path) in place.paths() for place in options.places):
        raise errors.UsageError(
            f"--control {path} is the frontend's socket too", f"{path} is named twice", "name another path"
        )
    claim_socket_path(path)
    async with AsyncExitStack() as open_:
        try:
            server = ControlServer(
                host.runner.stack,
                fixed=fixed,
                capture=host.capture,
                hub=host.hub,
                feed=host.feed,
                observe=host.observe,
                negotiation=host.negotiation,
                injector=host.injector,
            )
            await open_.enter_async_context(server.listen(path))
        except OSError as error:
            raise errors.from_oserror(error, f"listen on {path}") from error
        yield


@contextlib.contextmanager
def _reported(host: Host, options: Options, path: Path) -> Iterator[None]:
    """The page of all that is done, at the end."""
    from vnic import report
    from vnic.observe import Wanted

    observation = host.observe(Wanted())
    observation.start()
    try:
        yield
    finally:
        observation.stop()
    where = ", ".join(map(str, options.places))
    write_whole(path, report.page(report.of_record(observation.record(), f"vnic serve, {where}")))
    output.stage(f"report: {path}")


@asynccontextmanager
async def _shown(host: Host, port: int) -> AsyncIterator[str]:
    """The live page's address."""
    from vnic.web.server import ADDRESS, WebServer

    async with AsyncExitStack() as open_:
        try:
            url = await open_.enter_async_context(WebServer(host).listen(port))
        except OSError as error:
            raise errors.from_oserror(error, f"show the page on {ADDRESS}:{port}") from error
        output.stage(f"the live page is {url}")
        yield url


def write_whole(path: Path, text: str) -> None:
    """The file with that text, or as it was: HostIOError if it cannot be written.  Nobody else may read it: it has the
    keys of connections in it.  What is no file, /dev/null or a pipe, stays that and gets the text; "" only tries."""
    try:
        if path.exists() and not path.is_file():
            if text or not path.is_fifo():  # whose opening waits for a reader
                path.write_text(text, "utf-8")
        else:
            _replace(path, text)
    except OSError as error:
        raise errors.from_oserror(error, f"write {path}") from error


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.touch(mode=0o600)
        part.write_text(text, "utf-8")
        if text:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _announce(options: Options, page: str = "") -> None:
    places = options.places
    print(f"{READY} {', '.join(map(str, places))}, server {options.address}")
    if page:
        print(f"{PAGE} {page}")
    for place, lines in zip(places, frontend_lines(places), strict=True):
        print(f"  connect a guest {f'to {place} ' if len(places) > 1 else ''}with:")
        print("    " + " \\\n    ".join(lines))
        for line in bridge_lines(place):
            print(f"  {line}")
    sys.stdout.flush()


def _totals(stats: dict[str, int]) -> str:
    with contextlib.suppress(KeyError):
        broken = f", {stats['broken_rings']} rings broke" if stats.get("broken_rings") else ""
        return (
            f"{stats['rx_frames']} frames from the guest, {stats['tx_frames']} to it, "
            f"{stats['tx_dropped']} dropped{broken}"
        )
    return ", ".join(f"{name} {value}" for name, value in stats.items())
