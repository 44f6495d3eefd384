# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures by graphviz's ``dot`` program."""

from __future__ import annotations

import asyncio
import subprocess

from vnic.errors import EXIT_HOST, VnicError

DEADLINE_S = 60.0


class GraphvizError(VnicError):
    """``dot`` is missing or refuses the graph."""

    exit_code = EXIT_HOST


def svg(graph: str) -> str:
    """A graph in the dot language as SVG."""
    try:
        done = subprocess.run(
            ["dot", "-Tsvg"], input=graph, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
    except FileNotFoundError as error:
        raise _missing() from error
    except subprocess.TimeoutExpired as error:
        raise _endless(graph, DEADLINE_S) from error
    return _drawn(done.returncode, done.stdout, done.stderr)


async def svg_soon(graph: str, deadline_s: float = DEADLINE_S) -> str:
    """The same, while the event loop goes on; ``dot`` ends with a cancellation."""
    try:
        process = await asyncio.create_subprocess_exec(
            "dot",
            "-Tsvg",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise _missing() from error
    try:
        async with asyncio.timeout(deadline_s):
            out, err = await process.communicate(graph.encode())
    except TimeoutError as error:
        raise _endless(graph, deadline_s) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _drawn(process.returncode or 0, out.decode(), err.decode("utf-8", "replace"))


def _missing() -> GraphvizError:
    return GraphvizError(
        "SVG needs graphviz", "there is no program dot", "apt install graphviz, or --format dot"
    )


def _endless(graph: str, deadline_s: float) -> GraphvizError:
    return GraphvizError(
        "dot does not come to an end",
        f"{deadline_s:g} s, {len(graph)} bytes of graph",
        "--format dot, or text",
    )


def _drawn(code: int, out: str, err: str) -> str:
    if code:
        raise GraphvizError("dot refuses the graph", err.strip()[:200], "report this with --format dot")
    return out
