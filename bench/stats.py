# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians and same-round ratios: what may be said of timings taken on a shared machine.

A round holds one figure per back end, taken one after the other.  A ratio is formed inside a round, and the median
of the rounds' ratios is reported with the lowest and highest, so that a machine that changes its speed between rounds
does not change the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Measure:
    """One row of the table.  ``key`` is the client's field, ``scale`` turns it into ``unit``."""

    name: str
    unit: str
    higher_is_better: bool


MEASURES = [
    Measure("conn/s", "connections/s", True),
    Measure("x16", "connections/s, 16 in flight", True),
    Measure("ping-pong", "us per round trip", False),
    Measure("up", "MB/s guest to host", True),
    Measure("down", "MB/s host to guest", True),
]

Round = dict[tuple[str, str], float]  # (measure, back end) -> figure


def medians(rounds: Sequence[Round], measure: str, backends: Sequence[str]) -> dict[str, float]:
    """The median figure of each back end for one measure."""
    return {b: median(r[measure, b] for r in rounds) for b in backends}


def advantage(rounds: Sequence[Round], measure: Measure, ours: str, peer: str) -> tuple[float, float, float]:
    """(lowest, median, highest) of "ours is this many times better than the peer", formed inside each round."""
    ratios = []
    for figures in rounds:
        a, b = figures[measure.name, ours], figures[measure.name, peer]
        ratios.append(a / b if measure.higher_is_better else b / a)
    return min(ratios), median(ratios), max(ratios)


def table(rounds: Sequence[Round], ours: Sequence[str], peer: str) -> str:
    """The result as a Markdown table: medians, then each of ``ours`` against ``peer`` (1.00 is equal)."""
    backends = [*ours, peer]
    head = ["measure", "unit", *backends, *(f"{o} : {peer} (min-max)" for o in ours)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for measure in MEASURES:
        mid = medians(rounds, measure.name, backends)
        cells = [measure.name, measure.unit, *(f"{mid[b]:.4g}" for b in backends)]
        for name in ours:
            low, middle, high = advantage(rounds, measure, name, peer)
            cells.append(f"**{middle:.2f}x** ({low:.2f}-{high:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
