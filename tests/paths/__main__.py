# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tests.paths [NAME...]``: run matrices of simulated paths and write their snapshots anew.

Without a name those that every test run compares (all but ``full``); ``--show`` prints instead of writing.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.paths.matrix import MATRICES, SNAPSHOTS, snapshot_path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.paths", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*MATRICES, []], help="matrices")
    parser.add_argument("--show", action="store_true", help="print, write nothing")
    options = parser.parse_args(argv)
    for name in options.names or [name for name in MATRICES if name != "full"]:
        began = time.monotonic()
        text = MATRICES[name]()
        if options.show:
            print(text)
            continue
        SNAPSHOTS.mkdir(exist_ok=True)
        snapshot_path(name).write_text(text, encoding="utf-8")
        print(
            f"{snapshot_path(name)}: {len(text.splitlines()) - 1} lines in {time.monotonic() - began:.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
