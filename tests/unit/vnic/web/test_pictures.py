# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables' picture: dot runs beside the event loop, one at a time and not often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from vnic import graphviz
from vnic.callgraph import PORT, World
from vnic.web import pictures
from vnic.web.pictures import Pictures


class Dot:
    """In graphviz's place."""

    def __init__(self) -> None:
        self.graphs: list[str] = []
        self.running = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, graph: str, deadline_s: float) -> str:
        self.graphs.append(graph)
        await self.running.wait()
        if self.error is not None:
            raise self.error
        return f"<svg>{len(self.graphs)}</svg>"


@pytest.fixture
def world() -> World:
    made = World()
    made.listening()
    return made


def drawing(world: World, monkeypatch: pytest.MonkeyPatch, script: Callable[[Pictures, Dot], object]) -> None:
    async def run() -> None:
        dot = Dot()
        monkeypatch.setattr(graphviz, "svg_soon", dot)
        made = Pictures(world.net)
        await script(made, dot)  # type: ignore[misc]
        await made.close()

    asyncio.run(run())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_svg_comes_when_dot_has_made_it_and_no_second_dot_runs_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "PERIOD_S", 0)

    async def script(made: Pictures, dot: Dot) -> None:
        assert made.look("svg") == {}
        world.receive_syn()
        await turns()
        assert made.look("svg") == {}
        await turns()
        assert len(dot.graphs) == 1
        dot.running.set()
        await turns()
        assert made.look("svg") == {"svg": "<svg>1</svg>", "more": 0}
        await turns()
        assert made.look("svg") == {"svg": "<svg>2</svg>", "more": 0}
        await turns()
        made.look("svg")
        assert len(dot.graphs) == 2  # nothing is new

    drawing(world, monkeypatch, script)


def test_dot_does_not_run_again_within_two_seconds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pictures.time, "monotonic", lambda: now[0])

    async def script(made: Pictures, dot: Dot) -> None:
        dot.running.set()
        made.look("svg")
        await turns()
        world.receive_syn()
        for at, graphs in ((101.9, 1), (102.1, 2)):
            now[0] = at
            made.look("svg")
            await turns()
            assert len(dot.graphs) == graphs

    drawing(world, monkeypatch, script)


def test_missing_dot_is_said_and_text_is_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(made: Pictures, dot: Dot) -> None:
        dot.error = graphviz.GraphvizError("SVG needs graphviz")
        dot.running.set()
        made.look("svg")
        await turns()
        assert made.look("svg") == {"error": "SVG needs graphviz: choose text", "more": 0}
        assert "tcp_sock" in made.look("text")["text"]

    drawing(world, monkeypatch, script)


def test_picture_of_many_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnic.web.state.MAX_DRAWN", 5)
    world = World()
    world.sock.bind(("", PORT))
    world.sock.listen(20)
    for i in range(20):
        world.peer.tcp(PORT, sport=10_000 + i).handshake()
    told = Pictures(world.net).look("text")
    assert told["more"] == 15
    assert told["text"].count("ehash[") == 5
    assert told["text"].count("sk_state = TCP_ESTABLISHED") == 5
    assert "num_owners = 21" in told["text"]


def test_dot_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(graphviz.GraphvizError, match="does not come to an end"):
        asyncio.run(graphviz.svg_soon("digraph {}", 0.05))


def test_dot_that_is_missing_or_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(graphviz.GraphvizError, match="needs graphviz"):
        asyncio.run(graphviz.svg_soon("digraph {}"))
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho 'syntax error' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(graphviz.GraphvizError, match="refuses") as caught:
        asyncio.run(graphviz.svg_soon("digraph {"))
    assert "syntax error" in caught.value.evidence
