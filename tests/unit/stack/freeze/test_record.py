# SPDX-License-Identifier: GPL-2.0-or-later
"""A recorded run is replayed to the same state, and a recording that was touched is found out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from stack.api import aio
from stack.api.bsd import SOCK_DGRAM, Socket
from stack.api.sim import MSEC, SEC, RawTcp, Sim, StackEnd
from stack.freeze.errors import FreezeError
from stack.freeze.record import INBOUND, OUTBOUND, Recorder, Replay
from stack.net import socket as net_socket
from stack.net.ipv4 import af_inet


class Recorded:
    """A stack of a simulation whose frames and timers go through a recorder."""

    def __init__(self) -> None:
        self.sim = Sim(seed=5)
        self.net = self.sim.add_stack("10.0.2.2/24")
        self.peer = self.sim.add_peer("10.0.2.15", self.net, delay_ns=MSEC)
        self.lines: list[str] = []

    def start(self) -> Recorder:
        self.recorder = recorder = Recorder(self.net, self.lines.append)
        end = next(iter(self.sim.links.values())).a
        assert isinstance(end, StackEnd)
        end.net = self.sim.stacks[0] = recorder  # type: ignore[assignment, call-overload]
        return recorder

    def replay(self) -> Replay:
        replay = Replay(self.lines)
        replay.run()
        return replay


def listening(net: Any, port: int = 80) -> Socket:
    sock = Socket(net)
    sock.bind(("", port))
    sock.listen(5)
    return sock


def conversation(world: Recorded) -> Socket:
    """A connection with data both ways, losses, options and an error."""
    listener = listening(world.net)
    conn: RawTcp = world.peer.tcp(80)
    conn.handshake()
    world.sim.run_for(5 * MSEC)
    sock = listener.accept()[0]
    sock.setsockopt(6, 1, 1)
    conn.send("PA", b"question")
    world.sim.run_for(50 * MSEC)
    assert sock.recv(100) == b"question"
    with contextlib.suppress(BlockingIOError):
        sock.recv(100)
    sock.send(memoryview(bytearray(b"from a buffer")))
    piece = bytes(200_000)
    sent = sock.send(piece)
    with contextlib.suppress(BlockingIOError):
        sock.send(memoryview(piece)[sent:])
    world.sim.run_for(3 * SEC)  # retransmissions
    sock.shutdown(1)
    return sock


def test_run_is_replayed_to_the_same_state() -> None:
    world = Recorded()
    recorder = world.start()
    conversation(world)
    udp = Socket(world.net, type=SOCK_DGRAM)
    udp.sendto(b"x", ("10.0.2.15", 9))
    recorder.close()
    replay = world.replay()
    assert replay.complete
    assert replay.calls == sum(line.startswith("[") for line in world.lines) > 20
    assert replay.now_ns >= 3 * SEC


def test_recording_may_begin_in_the_middle() -> None:
    world = Recorded()
    sock = conversation(world)
    recorder = world.start()
    sock.close()
    world.sim.run_for(70 * SEC)
    recorder.close()
    assert world.replay().complete


def test_replay_tells_the_frames_of_both_directions() -> None:
    world = Recorded()
    recorder = world.start()
    before = len(world.sim.frames)
    conversation(world)
    recorder.close()
    told: list[tuple[int, bytes]] = []
    replay = Replay(world.lines)
    replay.seen = lambda direction, frame: told.append((direction, frame))
    replay.run()
    sent = [frame.data for frame in world.sim.frames[before:] if frame.src.startswith("stack")]
    assert [frame for direction, frame in told if direction == OUTBOUND] == sent
    assert sum(direction == INBOUND for direction, _ in told) > 0


def test_replay_stops_where_it_is_told_to_and_goes_on() -> None:
    world = Recorded()
    recorder = world.start()
    conversation(world)
    recorder.close()
    replay = Replay(world.lines)
    replay.run(3)
    assert (replay.calls, replay.complete) == (3, False)
    replay.run()
    assert replay.complete


def test_recording_that_was_cut_short_is_replayed_as_far_as_it_goes() -> None:
    world = Recorded()
    world.start()
    conversation(world)
    world.recorder.close()
    replay = Replay(world.lines[:-1])
    replay.run()
    assert not replay.complete
    assert replay.calls > 20


def test_big_pieces_are_written_once() -> None:
    world = Recorded()
    recorder = world.start()
    sock = conversation(world)
    piece = bytes(range(256)) * 400
    for start in range(0, 5000, 1000):
        with contextlib.suppress(OSError):
            sock.send(memoryview(piece)[start:])
    recorder.close()
    assert sum('"blob"' in line for line in world.lines) == 2
    assert world.replay().complete


def test_close_gives_everything_back() -> None:
    world = Recorded()
    before = net_socket.sys_bind, af_inet.inet_stream_ops.sendmsg, world.net.clock
    recorder = world.start()
    assert net_socket.sys_bind is not before[0]
    recorder.close()
    recorder.close()
    assert (net_socket.sys_bind, af_inet.inet_stream_ops.sendmsg, world.net.clock) == before
    count = len(world.lines)
    conversation(world)
    assert len(world.lines) == count


def test_other_stacks_are_not_recorded() -> None:
    world, other = Recorded(), Recorded()
    recorder = world.start()
    count = len(world.lines)
    conversation(other)
    assert len(world.lines) == count
    recorder.close()


def test_asyncio_server_is_replayed_without_its_application() -> None:
    class Answer(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.writelines([data.upper(), bytes(300_000)])

    async def run(world: Recorded) -> None:
        runner = aio.Runner(world.net, timers=False)
        runner.calls = recorder = world.start()
        server = await aio.create_server(runner, Answer, "10.0.2.2", 80)
        conn = world.peer.tcp(80)
        conn.handshake()
        conn.send("PA", b"hello")
        for _ in range(20):
            world.sim.run_for(MSEC)
            await asyncio.sleep(0)
        assert any(b"HELLO" in frame.data for frame in world.sim.frames)
        server.close()
        server.abort_clients()
        runner.close()
        recorder.close()

    world = Recorded()
    asyncio.run(run(world))
    assert world.replay().complete


# -- what is found out -------------------------------------------------------------------------------------------------


def recording() -> list[str]:
    world = Recorded()
    recorder = world.start()
    conversation(world)
    recorder.close()
    return world.lines


def first_call(lines: list[str], name: str) -> tuple[int, list[Any]]:
    for number, line in enumerate(lines):
        entry = json.loads(line)
        if isinstance(entry, list) and entry[0] == name:
            return number, entry
    raise AssertionError(name)


def result(entry: list[Any]) -> None:
    entry[3] = 12345


def frames(entry: list[Any]) -> None:
    entry[4] += 1


def fewer_readings(entry: list[Any]) -> None:
    entry[2] = []


def more_readings(entry: list[Any]) -> None:
    entry[2] += [entry[2][-1]]


def unknown_call(entry: list[Any]) -> None:
    entry[0] = "__class__"


def unknown_device(entry: list[Any]) -> None:
    entry[1][0] = "eth7"


def no_frame(entry: list[Any]) -> None:
    entry[1][1] = {"bytes": "xyz"}


def unknown_blob(entry: list[Any]) -> None:
    entry[1][1] = {"bytes": 77}


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (result, "returns 0, and returned 12345"),
        (frames, "other frames leave"),
        (fewer_readings, "more often"),
        (more_readings, "less often"),
        (unknown_call, "no call '__class__'"),
        (unknown_device, "eth7"),
        (no_frame, "damaged"),
        (unknown_blob, "damaged"),
    ],
)
def test_forged_call_is_found_out(forge: Callable[[list[Any]], None], words: str) -> None:
    lines = recording()
    number, entry = first_call(lines, "netif_rx")
    forge(entry)
    lines[number] = json.dumps(entry)
    with pytest.raises(FreezeError, match=words):
        Replay(lines).run()


def test_other_end_is_found_out() -> None:
    lines = recording()
    entry = json.loads(lines[-1])
    entry["end"] = entry["end"].replace('"snd_cwnd": ', '"snd_cwnd": 7', 1)
    with pytest.raises(FreezeError, match="snd_cwnd"):
        Replay([*lines[:-1], json.dumps(entry)]).run()


@pytest.mark.parametrize("lines", [[], ["{}"], ["x"], ['{"format": "vnic recording", "version": 9}']])
def test_other_files_are_refused(lines: list[str]) -> None:
    with pytest.raises(FreezeError):
        Replay(lines)


def test_call_with_an_object_of_the_application_is_refused() -> None:
    world = Recorded()
    recorder = world.start()
    with pytest.raises(FreezeError, match="cannot be recorded"):
        net_socket.sys_bind(world.net, 3, print)  # type: ignore[arg-type]
    recorder.close()
