# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tests.differential PATTERN...`` shows stimuli on both sides, ``--docs`` writes the lists of
docs/differential.md."""

from __future__ import annotations

import platform
import sys
from fnmatch import fnmatchcase

from tests.differential.compare import compare, line
from tests.differential.docs import write_docs
from tests.differential.ours import run_ours
from tests.differential.real import run_all
from tests.differential.table import TABLE


def show(patterns: list[str]) -> int:
    """Both sides' answers to each stimulus that matches, then what differs; how many differ."""
    profile = "linux-" + ".".join(platform.release().split(".")[:2])
    chosen = [s for s in TABLE.values() if any(fnmatchcase(s.name, p) for p in patterns)]
    real = run_all(chosen, profile)
    different = 0
    for stimulus in chosen:
        ours = run_ours(stimulus, profile)
        found = compare(stimulus.name, ours, real[stimulus.name])
        different += bool(found)
        print(f"## {stimulus.name}: {'differs' if found else 'the same'}")
        for label, outcome in (("ours", ours), ("kernel", real[stimulus.name])):
            for answer in outcome.get("answers", []):
                print(f"  {label:6} {line(answer)}")
        for text in found:
            print(f"  {text}")
    return different


if __name__ == "__main__":
    if sys.argv[1:] == ["--docs"]:
        write_docs()
    else:
        sys.exit(1 if show(sys.argv[1:]) else 0)
