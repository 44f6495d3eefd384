# SPDX-License-Identifier: GPL-2.0-or-later
"""A running back end's counters as nstat shows the kernel's: differences to the last time, names aligned."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

from vnic import errors
from vnic.control import Client, choose, history

_COLUMN = 32


def read(control: Path | None, *, absolute: bool, update: bool) -> dict[str, int]:
    """The counters of the back end, less those of the last call unless ``absolute``; with ``update`` that call is this
    one from now on."""
    path = choose(control)
    with Client(path) as back_end:
        now: dict[str, int] = back_end.ask("counters")
    kept = history(path)
    before = _load(kept)
    if update:
        try:
            kept.write_text(json.dumps(now))
        except OSError as error:
            raise errors.from_oserror(error, f"keep the history in {kept}") from error
    if absolute:
        return now
    # A counter that went back belongs to another run than the history's.
    fresh = any(value < before.get(name, 0) for name, value in now.items())
    return now if fresh else {name: value - before.get(name, 0) for name, value in now.items()}


def _load(kept: Path) -> dict[str, int]:
    try:
        loaded = json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in loaded.items() if isinstance(v, int)} if isinstance(loaded, dict) else {}


def chosen(values: dict[str, int], patterns: list[str], *, zeros: bool) -> dict[str, int]:
    """Those that match one of the patterns, if there are any; UsageError for a pattern that nothing matches."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in values):
            raise errors.UsageError(
                f"no counter is called {pattern}",
                f"there are {len(values)}, such as {', '.join(list(values)[:3])}",
                "vnic nstat -az lists them",
            )
    matching = {n: v for n, v in values.items() if not patterns or any(fnmatchcase(n, p) for p in patterns)}
    return {name: value for name, value in matching.items() if value or zeros}


def text(values: dict[str, int]) -> str:
    """Two columns under nstat's head line."""
    return "".join(["#kernel\n", *(f"{name:<{_COLUMN}}{value}\n" for name, value in values.items())])
