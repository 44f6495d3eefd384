# SPDX-License-Identifier: GPL-2.0-or-later
"""A stack, a scripted peer on a wire without delay, and an event loop that is turned by hand.  Nothing sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from stack.api.aio import Runner, Server, create_server
from stack.api.sim import RawPeer, RawTcp, Sim
from stack.stack import Stack


class Recorder(asyncio.Protocol):
    """Writes down every call; ``keep_open`` is what eof_received returns."""

    def __init__(self, keep_open: bool | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.keep_open = keep_open
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.calls.append(("made",))

    def data_received(self, data: bytes) -> None:
        self.calls.append(("data", data))

    def eof_received(self) -> bool | None:
        self.calls.append(("eof",))
        return self.keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", exc))

    def pause_writing(self) -> None:
        self.calls.append(("pause",))

    def resume_writing(self) -> None:
        self.calls.append(("resume",))

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    @property
    def received(self) -> bytes:
        return b"".join(call[1] for call in self.calls if call[0] == "data")


class World:
    """``net`` at 10.0.2.2, ``peer`` at 10.0.2.15, ``runner`` for ``net``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **stack_options: Any) -> None:
        self.loop = loop
        self.sim = Sim(seed=1)
        self.net: Stack = self.sim.add_stack("10.0.2.2/24", **stack_options)
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net)
        self.runner = Runner(self.net, loop)
        self.errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))

    def settle(self) -> None:
        """Move frames, batches and the loop until nothing more happens at this instant."""
        for _ in range(12):
            self.sim.settle()
            self.runner.batch_done()
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def pass_time(self, ns: int) -> None:
        self.sim.run_for(ns)
        self.settle()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """A coroutine that does not wait for the network."""
        return self.loop.run_until_complete(coroutine)

    def serve(self, factory: Callable[[], asyncio.BaseProtocol], port: int = 7, **options: Any) -> Server:
        server = self.run(create_server(self.runner, factory, "10.0.2.2", port, **options))
        assert isinstance(server, Server)
        return server

    def connect(self, port: int = 7, sport: int = 40000, **options: Any) -> RawTcp:
        conn = self.peer.tcp(dport=port, sport=sport)
        conn.handshake(**options)
        self.settle()
        return conn

    def opened(self, protocol: Recorder | None = None, **options: Any) -> tuple[RawTcp, Recorder]:
        """A connection that is up, with its recording protocol on our side."""
        recorder = protocol if protocol is not None else Recorder()
        self.serve(lambda: recorder)
        return self.connect(**options), recorder

    def drain(self, conn: RawTcp, rounds: int = 400) -> bytes:
        """Take and acknowledge what the stack sends until it has no more; the bytes."""
        got = bytearray()
        for _ in range(rounds):
            self.settle()
            segments = 0
            while self.peer.inbox:
                segment = conn.expect()
                segments += 1
                got += segment.payload
            if not segments:
                break
            conn.send("A")
        return bytes(got)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def world(loop: asyncio.AbstractEventLoop) -> World:
    return World(loop)


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def make_world(loop: asyncio.AbstractEventLoop) -> Callable[..., World]:
    """World with other options for the stack."""
    return lambda **options: World(loop, **options)
