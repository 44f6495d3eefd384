# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.trace``: what the call tree costs while nobody looks at it.

The same measures as ``bench.micro``, on copies of the stack, each in a process of its own, one after the other in each
round; ratios are formed inside a round.

    untouched   without stack/trace, and without the comments "#>" that it reads
    untouched2  the same once more: what two of the same differ by is the noise
    off         the stack as it is, nobody traces
    after       the same, in a process in which somebody has traced, and has left
    on          while somebody traces (to be compared with nothing but itself)
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
VARIANTS: Final = ("untouched", "untouched2", "off", "after", "on")
Figures = dict[str, float]  # by measure, microseconds


def without_markers(source: str) -> str:
    """The same source, each line where it was, without the comments that begin with "#>"."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("#>"):
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    return "".join(lines)


def copy(where: Path, *, untouched: bool) -> None:
    """bench and stack, in that directory."""
    for package in ("bench", "stack"):
        shutil.copytree(ROOT / package, where / package, ignore=shutil.ignore_patterns("__pycache__"))
    if untouched:
        shutil.rmtree(where / "stack" / "trace")
        for path in (where / "stack").rglob("*.py"):
            path.write_text(without_markers(path.read_text()))


def child(variant: str, count: int) -> Figures:
    """All measures once, in this process."""
    from bench import micro

    if variant in ("after", "on"):
        from stack.trace.recorder import Recorder

        recorder = Recorder(time.perf_counter_ns, max_trees=10)
        recorder.start()
        micro.MEASURES["connection"](micro.Client(), 10)
        if variant == "after":
            recorder.stop()
    gc.collect()
    gc.freeze()
    return {
        name: min(measure(micro.Client(), count) for _ in range(3))
        for name, measure in micro.MEASURES.items()
    }


def in_a_process(variant: str, where: Path, count: int) -> Figures:
    argv = [sys.executable, "-m", "bench.trace", "--child", variant, "--count", str(count)]
    env = {**os.environ, "PYTHONPATH": str(where), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=env, cwd=where)
    figures: Figures = json.loads(done.stdout)
    return figures


def table(rounds: Sequence[dict[str, Figures]]) -> str:
    """Markdown: medians of the untouched one, then how many times as long each other took (1.00 is equal)."""
    others = [name for name in VARIANTS if name != "untouched" and name in rounds[0]]
    heads = ["measure", "untouched, us", *(f"{name} : untouched (min-max)" for name in others)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for measure in rounds[0]["untouched"]:
        cells = [measure, f"{median(figures['untouched'][measure] for figures in rounds):.1f}"]
        for name in others:
            ratios = [figures[name][measure] / figures["untouched"][measure] for figures in rounds]
            cells.append(f"**{median(ratios):.3f}x** ({min(ratios):.3f}-{max(ratios):.3f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.trace", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=1000, help="units of each measure")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        print(json.dumps(child(options.child, options.count)))
        return 0
    with tempfile.TemporaryDirectory() as directory:
        where = {name: Path(directory) / name for name in VARIANTS}
        for name, path in where.items():
            copy(path, untouched=name.startswith("untouched"))
        rounds = []
        for number in range(options.rounds):
            # Each is first in one round as often as the others: what runs first finds the caches cold.
            order = VARIANTS[number % len(VARIANTS) :] + VARIANTS[: number % len(VARIANTS)]
            counts = {name: options.count // (20 if name == "on" else 1) for name in order}
            rounds.append({name: in_a_process(name, where[name], counts[name]) for name in order})
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print(table(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
