# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic version``."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Annotated

import typer


def version(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show the version of vnic and of the Python that runs it."""
    facts = {
        "vnic": metadata.version("vnic"),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    if as_json:
        print(json.dumps({"schema": 1, **facts}))
    else:
        print(f"vnic {facts['vnic']} (Python {facts['python']}, Linux {facts['kernel']})")
