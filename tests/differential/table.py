# SPDX-License-Identifier: GPL-2.0-or-later
"""The table: every stimulus of every file in stimuli/, by name."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.differential.script import Stimulus


def _load() -> tuple[dict[str, Stimulus], dict[str, list[str]]]:
    table: dict[str, Stimulus] = {}
    groups: dict[str, list[str]] = {}
    for path in sorted((Path(__file__).parent / "stimuli").glob("[a-z]*.py")):
        module = importlib.import_module(f"tests.differential.stimuli.{path.stem}")
        for stimulus in module.STIMULI:
            if stimulus.name in table:
                raise ValueError(f"two stimuli are called {stimulus.name}")
            table[stimulus.name] = stimulus
            groups.setdefault(path.stem, []).append(stimulus.name)
    return table, groups


TABLE, GROUPS = _load()  # GROUPS: the names by file
