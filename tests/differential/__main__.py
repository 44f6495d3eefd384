# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tests.differential PATTERN...`` shows stimuli on both sides, with ``--guest`` first on a guest's kernel
instead of the host's, with ``--guest=RECIPE`` on that of another image (images/recipes); ``--docs`` writes the lists of
docs/differential.md."""

from __future__ import annotations

import functools
import platform
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import images
from guest.vm import probe
from guest.vm.args import Vm
from guest.vm.rundir import RunDir
from tests.differential.compare import line
from tests.differential.docs import write_docs
from tests.differential.guest import booted
from tests.differential.ours import judge_ours, run_ours
from tests.differential.real import run_all
from tests.differential.script import Stimulus
from tests.differential.table import TABLE

Outcomes = dict[str, dict[str, Any]]


def of_host(stimuli: list[Stimulus]) -> tuple[str, Outcomes]:
    """The host's profile and what its kernel answers."""
    profile = "linux-" + ".".join(platform.release().split(".")[:2])
    return profile, run_all(stimuli, profile)


def of_guest(stimuli: list[Stimulus], recipe: str) -> tuple[str, Outcomes]:
    """A guest's profile and what its kernel answers."""
    qemu, image = probe.ask_qemu(probe.find_qemu()), images.ensure(recipe, print)
    host = {"tsc_khz": probe.tsc_khz(), "qemu": qemu.path, "qemu_version": qemu.version}
    vm_of = functools.partial(Vm, kernel=image.kernel, initramfs=image.initramfs, **host)
    with (
        tempfile.TemporaryDirectory() as kept,
        RunDir.create() as rundir,
        booted(vm_of, rundir, Path(kept)) as server,
    ):
        return server.profile, {stimulus.name: server.run(stimulus) for stimulus in stimuli}


def show(side: str, patterns: list[str], recipe: str = images.DEFAULT) -> int:
    """Both sides' answers to each stimulus that matches, then what differs; how many differ."""
    chosen = [s for s in TABLE.values() if any(fnmatchcase(s.name, p) for p in patterns)]
    profile, real = of_guest(chosen, recipe) if side == "guest" else of_host(chosen)
    different = 0
    for stimulus in chosen:
        ours = run_ours(stimulus, profile)
        found = judge_ours(stimulus, profile, real[stimulus.name], side).differences
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
    elif sys.argv[1:] and sys.argv[1].partition("=")[0] == "--guest":
        recipe = sys.argv[1].partition("=")[2] or images.DEFAULT
        sys.exit(1 if show("guest", sys.argv[2:], recipe) else 0)
    else:
        sys.exit(1 if show("host", sys.argv[1:]) else 0)
