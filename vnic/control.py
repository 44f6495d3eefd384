# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket of a running back end: what ``vnic ss``, ``nstat``, ``trace``, ``capture`` and the like ask.

A line of JSON is a request, ``{"verb": "snapshot", ...}``; answers are lines of JSON too: ``{"ok": ...}`` or
``{"error": [fact, evidence, remedy]}``, one for a request, and for "trace" and "packets" one for each call tree
or packet until the client leaves.  Nothing of it is on the packet path: the server is a guest of the back end's event
loop between two batches.

Who may ask: processes of the user who runs the back end, and root.  The socket lies in a directory that is closed to
others, and the kernel says who connects (SO_PEERCRED).

A client that misbehaves is cut off and costs nothing more: a request has 64 KiB and ten seconds to arrive, an answer
that is not read for ten seconds ends the connection, and 16 clients are served at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from guest.vm.rundir import base_dir
from vnic.errors import EXIT_HOST, EXIT_USAGE, UsageError, VnicError

if TYPE_CHECKING:
    from stack.stack import Stack
    from stack.trace.hub import TraceHub
    from stack.trace.phases import Phase
    from stack.trace.recorder import Tree
    from vnic.capture import Capture
    from vnic.devicefaults import Injector
    from vnic.feed import Comments, PacketFeed
    from vnic.observe import Observation, Wanted

MAX_REQUEST: Final = 65536
PATIENCE_S: Final = 10.0
MAX_CLIENTS: Final = 16
STREAM_PERIOD_S: Final = 0.1
PAUSE_PERIODS: Final = 2  # without a packet, until that is said: TCP_RTO_MIN, as in stack.inspect.ladder
STREAM_BUFFER: Final = 1000  # trees, or packets, that may wait for that
PROBE_S: Final = 1.0  # for a back end to let us in
ROOT: Final = 0
ANSWER_S: Final = 30.0  # that a client waits for an answer

_UCRED: Final = struct.Struct("3i")  # pid, uid, gid
Request = dict[str, Any]
Answer = dict[str, Any]


class ControlError(VnicError):
    """The back end refused a request."""

    exit_code = EXIT_USAGE


class NoBackEnd(VnicError):
    """There is none to ask, or it went away before it had answered."""

    exit_code = EXIT_HOST


# -- the server's side ------------------------------------------------------------------------------------------------


class ControlServer:
    """Answers for one Stack; made by ``listen``."""

    def __init__(
        self,
        net: Stack,
        *,
        fixed: str = "",
        capture: Capture | None = None,
        hub: TraceHub | None = None,
        feed: PacketFeed | None = None,
        observe: Callable[[Wanted], Observation] | None = None,
        negotiation: Callable[[], dict[str, Any]] | None = None,
        injector: Injector | None = None,
    ) -> None:
        """``fixed`` says why sysctls cannot be changed, if they cannot; without ``capture``, ``feed``, ``observe``,
        ``negotiation`` and ``injector`` there are no such verbs; ``hub`` is the thread's, if there is one already."""
        from stack.trace.hub import TraceHub as Hub

        self._net = net
        self._fixed = fixed
        self._capture = capture
        self._hub = hub if hub is not None else Hub(time.perf_counter_ns)
        self._feed = feed
        self._observe = observe
        self._clients: set[asyncio.Task[None]] = set()
        self._verbs: dict[str, Callable[[Request], Any]] = {
            "snapshot": lambda request: self._net.snapshot(),
            "counters": self._counters,
            "sysctls": lambda request: {k: sysctl_text(v) for k, v in self._net.sysctls().items()},
            "sysctl": self._sysctl,
            "watched": lambda request: self._hub.watched or (self._feed is not None and self._feed.watched),
            "there": lambda request: TraceFilter.of(request).is_there(self._net),
        }
        if capture is not None:
            self._verbs["capture"] = self._captured
        if negotiation is not None:
            self._verbs["negotiation"] = lambda request: negotiation()
        if injector is not None:
            self._verbs["inject"] = lambda request: _injected(injector, request)

    @asynccontextmanager
    async def listen(self, path: Path) -> AsyncIterator[Path]:
        """Serve at ``path``, where nothing is yet, until the block is left.  OSError."""
        server = await asyncio.start_unix_server(self._connected, path, limit=MAX_REQUEST)
        made = path.lstat().st_ino
        try:
            path.chmod(0o600)
            history(path).unlink(missing_ok=True)
            yield path
        finally:
            server.close()
            with contextlib.suppress(OSError):  # somebody may have put another file there
                if path.lstat().st_ino == made:
                    path.unlink()
                    history(path).unlink(missing_ok=True)
            for client in self._clients:
                client.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.ensure_future(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not _is_ours(writer.get_extra_info("socket")):
                return
            if len(self._clients) > MAX_CLIENTS:
                await _send(
                    writer, _refusal("too many clients", f"{MAX_CLIENTS} are served at a time", "end one")
                )
                return
            while await self._answer(reader, writer):
                pass
            writer.close()  # once the end of a large answer has left too, which drain() does not wait for
            async with asyncio.timeout(PATIENCE_S):
                await writer.wait_closed()
        except (ConnectionError, TimeoutError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the client may have another."""
        try:
            async with asyncio.timeout(PATIENCE_S):  # wait_for() of Python 3.11 can lose a cancellation
                line = await reader.readline()
        except ValueError:  # longer than the limit
            await _send(
                writer,
                _refusal("the request is too long", f"more than {MAX_REQUEST} bytes without a line end"),
            )
            return False
        if not line.endswith(b"\n"):
            return False
        try:
            request = json.loads(line)
            verb = request["verb"]
        except (ValueError, TypeError, KeyError, RecursionError):
            await _send(writer, _refusal("the request is not understood", repr(line[:60])))
            return False
        if verb in ("trace", "packets", "observe"):
            await self._stream(verb, request, reader, writer)
            return False
        await _send(writer, self._call(verb, request))
        return True

    async def _stream(
        self, verb: str, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answers until the client leaves."""
        try:
            streams = {"trace": self._trace, "packets": self._packets, "observe": self._observed}
            await streams[verb](request, reader, writer)
        except ControlError as error:
            await _send(writer, {"error": [error.fact, error.evidence, error.remedy]})
        except RuntimeError as error:
            await _send(writer, _refusal("cannot trace", str(error), "end the other one, or run make vm"))

    def _call(self, verb: object, request: Request) -> Answer:
        function = self._verbs.get(verb) if isinstance(verb, str) else None
        if function is None:
            return _refusal(
                f"there is no verb {verb!r}", f"there are {', '.join(self._verbs)}, trace, packets, observe"
            )
        try:
            return {"ok": function(request)}
        except VnicError as error:
            return {"error": [error.fact, error.evidence, error.remedy]}

    # -- verbs ---------------------------------------------------------------------------------------------------

    def _counters(self, request: Request) -> dict[str, int]:
        """Every one, by the names that nstat has."""
        from stack.inspect.snapshot import counters

        return counters(self._net)

    def _sysctl(self, request: Request) -> str:
        """Read a sysctl, or set it if there is a value; its text."""
        name, value = request.get("name"), request.get("value")
        if not isinstance(name, str) or not isinstance(value, str | None):
            raise ControlError("a sysctl has a name, and a value if it is to be set", f"{name!r}, {value!r}")
        if value is not None and self._fixed:
            raise ControlError(f"cannot set {name}", self._fixed)
        try:
            if value is not None:
                self._net.sysctl_write(name, value)
            return sysctl_text(self._net.sysctl_get(name))
        except (KeyError, ValueError, TypeError, OSError) as error:
            fact = f"cannot {'read' if value is None else 'set'} {name}"
            raise ControlError(
                fact, str(error.args[0]), "`vnic sysctl -a` lists them with their values"
            ) from error

    def _captured(self, request: Request) -> dict[str, Any]:
        """Start a capture, stop it, or tell of it: its status."""
        from vnic.capture import Wanted

        assert self._capture is not None
        action, path = request.get("action", "status"), request.get("file")
        ring, files, comments = request.get("ring"), request.get("files", 2), request.get("comments", False)
        if action == "status":
            return self._capture.status()
        if action == "stop":
            return self._capture.stop()
        known = isinstance(path, str) and type(ring) in (int, type(None)) and type(files) is int
        if action != "start" or not known or not isinstance(comments, bool):
            raise ControlError(
                "the capture is not understood", repr(request)[:200], "start with a file, stop, or status"
            )
        return self._capture.start(Wanted(Path(str(path)), ring, files, comments))

    async def _trace(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Call trees as they happen, until the client hangs up or has as many as it asked for."""
        wanted = TraceFilter.of(request)
        trees: _Bounded[Tree] = _Bounded(STREAM_BUFFER)
        unsubscribe = self._hub.subscribe(lambda tree: trees.put(tree) if wanted.takes(tree) else None)
        try:
            await _send(writer, {"ok": "tracing"})
            await _drain(
                trees,
                lambda tree: {"tree": wanted.draw(tree), "flow": flow_text(tree.flow)},
                wanted.count,
                reader,
                writer,
            )
        finally:
            unsubscribe()

    async def _packets(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """The headers of packets as they pass the stack's port, until the client hangs up or has ``count``."""
        from vnic.feed import COMMENTS, Callback
        from vnic.packets import plain_packet

        known: dict[object, Comments] = {name: name for name in COMMENTS}
        comments, count = request.get("comments", "states"), request.get("count", 1 << 62)
        if self._feed is None:
            raise ControlError("this back end has no port to look at", "it serves the control socket alone")
        if not isinstance(comments, str) or comments not in known or type(count) is not int:
            raise ControlError(
                "the request is not understood",
                f"comments {comments!r}, count {count!r}",
                f"comments are {', '.join(COMMENTS)}",
            )
        packets: _Bounded[Answer] = _Bounded(STREAM_BUFFER)
        subscription = self._feed.subscribe(
            Callback(lambda packet: packets.put({"packet": plain_packet(packet)})), known[comments]
        )
        try:
            await _send(writer, {"ok": "watching"})
            await _drain(packets, lambda packet: packet, count, reader, writer, {"pause": True})
        finally:
            subscription.end()

    async def _observed(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Observe until enough connections are over, the time is, or the client says a line; then the record."""
        from vnic.observe import Wanted as Of

        if self._observe is None:
            raise ControlError("this back end has no port to look at", "it serves the control socket alone")
        wanted = TraceFilter.of(request)
        connections, seconds = request.get("connections"), request.get("seconds")
        if type(connections) not in (int, type(None)) or type(seconds) not in (int, float, type(None)):
            raise ControlError(
                "the request is not understood", f"connections {connections!r}, seconds {seconds!r}"
            )
        observation = self._observe(Of(wanted.port, wanted.peer, wanted.level))
        observation.start()
        said = asyncio.ensure_future(reader.read(1))
        began = time.monotonic()
        try:
            await _send(writer, {"ok": "observing"})
            while not said.done():
                await asyncio.wait([said], timeout=STREAM_PERIOD_S)
                if connections is not None and observation.ended >= connections:
                    break
                if seconds is not None and time.monotonic() - began >= seconds:
                    break
            observation.stop()
            if not said.done() or said.result():  # else the client is gone
                await _send(writer, {"record": observation.record()})
        finally:
            observation.stop()
            said.cancel()


T = TypeVar("T")


class _Bounded(Generic[T]):
    """What waits to be sent to a client; what comes beyond that is counted and lost."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self.dropped = 0

    def put(self, item: T) -> None:
        if len(self._items) < self._size:
            self._items.append(item)
        else:
            self.dropped += 1

    def take(self) -> tuple[list[T], int]:
        """All of them, and how many were lost behind these."""
        items, dropped = list(self._items), self.dropped
        self._items.clear()
        self.dropped = 0
        return items, dropped


async def _drain(
    source: _Bounded[T],
    answer: Callable[[T], Answer],
    count: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    pause: Answer | None = None,
) -> None:
    """Send what ``answer`` makes of each item, ``count`` of them, until the client hangs up; ``pause`` when no more
    come for now."""
    gone = asyncio.ensure_future(reader.read(1))
    quiet = PAUSE_PERIODS
    try:
        while not gone.done():
            await asyncio.wait([gone], timeout=STREAM_PERIOD_S)
            items, dropped = source.take()
            quiet = 0 if items else quiet + 1
            if quiet == PAUSE_PERIODS and pause is not None:
                await _send(writer, pause)
            for item in items:
                await _send(writer, answer(item))
                await asyncio.sleep(0)  # drain() alone lets no packet in between while the client keeps up
                count -= 1
                if count == 0:
                    await _send(writer, {"ok": "done"})
                    return
            if dropped:
                await _send(writer, {"dropped": dropped})
    finally:
        gone.cancel()


@dataclass(frozen=True)
class TraceFilter:
    """Which trees a client wants, and how they are drawn."""

    level: str
    port: int | None
    peer: tuple[int, int] | None
    root: str | None
    phase: Phase | None
    count: int

    @classmethod
    def of(cls, request: Request) -> TraceFilter:
        """From a request; ControlError for what cannot be."""
        from stack.trace.notation import LEVELS
        from stack.trace.phases import PHASES
        from stack.trace.recorder import ROOTS

        level, port, peer = request.get("level", "notes"), request.get("port"), request.get("peer")
        root, phase, count = request.get("root"), request.get("phase"), request.get("count", 1 << 62)
        if level not in LEVELS:
            raise ControlError(f"there is no level {level!r}", f"there are {', '.join(LEVELS)}")
        if root is not None and (not isinstance(root, str) or root not in ROOTS):
            raise ControlError(f"no tree begins with {root!r}", f"they begin with {', '.join(sorted(ROOTS))}")
        if phase is not None and (not isinstance(phase, str) or phase not in PHASES):
            there = (f"{name}: {one.what}" for name, one in PHASES.items())
            raise ControlError(f"there is no phase {phase!r}", "\n".join(["there are", *there]))
        if not isinstance(port, int | None) or not isinstance(peer, str | None) or not isinstance(count, int):
            raise ControlError(
                "the filter is not understood", f"port {port!r}, peer {peer!r}, count {count!r}"
            )
        chosen = None if phase is None else PHASES[phase]
        return cls(level, port, None if peer is None else _parse_end(peer), root, chosen, count)

    def takes(self, tree: Tree) -> bool:
        from stack.trace.phases import is_in

        if self.root is not None and tree.root.name != self.root:
            return False
        if not self._takes_flow(tree.flow):
            return False
        return self.phase is None or is_in(tree, self.phase)

    def _takes_flow(self, flow: tuple[int, int, int, int] | None) -> bool:
        if self.port is None and self.peer is None:
            return True
        if flow is None or (self.port is not None and self.port not in (flow[1], flow[3])):
            return False
        return self.peer is None or flow[2:] == self.peer

    def is_there(self, net: Stack) -> bool:
        """Whether a socket of now is meant, if a peer or a port is."""
        from stack.trace.recorder import socket_flow

        if self.port is None and self.peer is None:
            return True
        info = net.tcp_hashinfo
        tables: list[Any] = [info.ehash, info.listening_hash, net.udp_table.hash]
        there = (sk for table in tables for chain in table.values() for sk in chain)
        return any(self._takes_flow(socket_flow(sk)) for sk in there)

    def draw(self, tree: Tree) -> str:
        from stack.trace.notation import render

        return render(tree, self.level)


def _parse_end(text: str) -> tuple[int, int]:
    """ "10.0.2.15:40000", "[fd00::1]:40000" as the stack's numbers; ControlError for anything else."""
    from stack.inspect.conversation import parse_end

    try:
        return parse_end(text)
    except ValueError as error:
        raise ControlError(f"{text!r} is no address with a port", str(error), "10.0.2.15:40000") from error


def flow_text(flow: tuple[int, int, int, int] | None) -> str:
    """ "10.0.2.2:80 < 10.0.2.15:40000", local end first; "" for none."""
    if flow is None:
        return ""
    from stack.inspect.conversation import end_text

    return f"{end_text(flow[:2])} < {end_text(flow[2:])}"


def sysctl_text(value: object) -> str:
    """As sysctl(8) shows it: several numbers with tabs between."""
    if isinstance(value, tuple | frozenset):
        return "\t".join(map(str, sorted(value) if isinstance(value, frozenset) else value))
    return str(value)


def _injected(injector: Injector, request: Request) -> dict[str, Any]:
    """Add device faults, behind those that are there or in their place; all of them, and what was done last."""
    script, clear = request.get("script", []), request.get("clear", False)
    if not isinstance(script, list) or not all(isinstance(text, str) for text in script):
        raise ControlError("the script is not understood", repr(script)[:200], "a list of WHERE:WHAT:WHEN")
    if clear:
        injector.clear()
    if script:
        injector.add(script)
    return injector.asdict()


def _is_ours(sock: socket.socket) -> bool:
    return _peer(sock)[1] in (os.getuid(), ROOT)


def _peer(sock: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def _refusal(fact: str, evidence: str = "", remedy: str = "") -> Answer:
    return {"error": [fact, evidence, remedy]}


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    async with asyncio.timeout(PATIENCE_S):
        await writer.drain()


# -- the client's side ------------------------------------------------------------------------------------------------


def directory() -> Path:
    """Where this user's back ends have their control sockets."""
    return base_dir() / "control"


def socket_path() -> Path:
    """For this process's back end; the directory is made."""
    where = directory()
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    return where / f"{os.getpid()}.sock"


def history(path: Path) -> Path:
    """Where ``vnic nstat`` keeps what it showed last of the back end with that socket."""
    return path.with_name(path.name + ".nstat")


def running() -> list[Path]:
    """The sockets of back ends that run; those of ended ones are removed."""
    found = []
    for path in sorted(directory().glob("*.sock")):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_S)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:  # nobody listens any more
                path.unlink(missing_ok=True)
                history(path).unlink(missing_ok=True)
                continue
            except FileNotFoundError:  # ended meanwhile
                continue
            except OSError:  # its backlog is full, or it may not be asked: it runs
                pass
        found.append(path)
    return found


def choose(wanted: Path | None) -> Path:
    """The back end to ask: ``wanted``, or the only one that runs."""
    if wanted is not None:
        return wanted
    paths = running()
    if len(paths) == 1:
        return paths[0]
    if not paths:
        raise NoBackEnd(
            "no back end runs",
            f"none answers in {directory()}",
            "start one: make vm, or vnic serve --stream PATH",
        )
    raise UsageError(
        f"{len(paths)} back ends run",
        " ".join(map(str, paths)),
        "say which one: --control PATH",
    )


class Client:
    """Asks one back end; a context manager.  ControlError for what it refuses, NoBackEnd if it does not answer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_S)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            raise NoBackEnd(
                f"no back end answers at {path}",
                str(error),
                "leave --control out: the one that runs is found",
            ) from error
        self._lines = self._socket.makefile("rb")

    @property
    def pid(self) -> int:
        """The process that listens there: the back end."""
        return _peer(self._socket)[0]

    def ask(self, verb: str, **more: object) -> Any:
        """One request and its answer."""
        self._request(verb, more)
        return self._read()["ok"]

    def stream(self, verb: str, **more: object) -> Iterator[Answer]:
        """One request and its answers, until the back end has sent all; NoBackEnd if it goes away before ``count`` of
        them.  The back end has taken the request when this returns."""
        self._request(verb, more)
        self._read()
        self._socket.settimeout(None)
        return self._answers()

    def observe(self, **more: object) -> None:
        """Have the back end observe what it does; it does when this returns.  ``read_record`` waits for the end."""
        self._request("observe", more)
        self._read()
        self._socket.settimeout(None)

    def end_observation(self) -> None:
        """The record now, please."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(b"\n")

    def await_record(self) -> None:
        """Until it begins to come.  An interrupt (Ctrl-C) of this loses nothing, as one of ``read_record`` does."""
        with contextlib.suppress(OSError):  # which read_record() meets again
            self._lines.peek(1)

    def read_record(self) -> Answer:
        """It comes when the observation is over."""
        record: Answer = self._read()["record"]
        return record

    def _answers(self) -> Iterator[Answer]:
        while (answer := self._read()) != {"ok": "done"}:
            yield answer

    def _request(self, verb: str, more: dict[str, object]) -> None:
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # what it said before it hung up is read
            self._socket.sendall(json.dumps({"verb": verb, **more}).encode() + b"\n")

    def _read(self) -> Answer:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise NoBackEnd(f"the back end at {self.path} does not answer", str(error)) from error
        if not line.endswith(b"\n"):
            raise NoBackEnd(
                f"the back end at {self.path} hung up",
                "it has ended, or had waited too long for us",
                "vnic trace and the like find one that runs",
            )
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise ControlError(*answer["error"])
        return answer

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()
        self._socket.close()
