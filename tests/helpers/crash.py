# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills a device at one of its stores, as SIGKILL would: everything before that store has happened, nothing from it on.

`sys.settrace` counts, one by one, the bytecodes that store into something by index (`view[at] = value`, slices too)
in the files of `devmodel/virtio`, and raises `Killed` in the place of the chosen one. Stores to attributes are not
counted: they die with the process."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import devmodel.virtio.ring as ring

_FOLDER = str(Path(ring.__file__).parent)
_STORES = {dis.opmap[name] for name in ("STORE_SUBSCR", "STORE_SLICE") if name in dis.opmap}


class Killed(BaseException):
    """No `except Exception` on the way may keep the process alive."""


def kill_at_store(number: int, work: Callable[[], object]) -> int:
    """Do the work, dying at the store of that number, counted from 0; how many stores there were before the end."""
    count = 0

    def watch(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal count
        if event == "call":
            if not frame.f_code.co_filename.startswith(_FOLDER):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode" and frame.f_code.co_code[frame.f_lasti] in _STORES:
            if count == number:
                raise Killed
            count += 1
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        work()
    except Killed:
        pass
    finally:
        sys.settrace(before)
    return count
