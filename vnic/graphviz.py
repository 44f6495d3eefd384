# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures by graphviz's ``dot`` program."""

from __future__ import annotations

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
        raise GraphvizError(
            "SVG needs graphviz", "there is no program dot", "apt install graphviz, or --format dot"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise GraphvizError(
            "dot does not come to an end",
            f"{DEADLINE_S:g} s, {len(graph)} bytes of graph",
            "--format dot, or text",
        ) from error
    if done.returncode:
        raise GraphvizError(
            "dot refuses the graph", done.stderr.strip()[:200], "report this with --format dot"
        )
    return done.stdout
