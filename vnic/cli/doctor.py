# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic doctor``: what this host has, what it lacks, and what to type."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import Annotated

import typer

import images
from guest.vm import probe
from guest.vm.probe import Fact
from vnic import errors
from vnic.cli import output


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Try KVM again, whatever is remembered.")] = False,
) -> int:
    """Tell what this host can do; exit code 3 if it lacks something that vnic needs."""
    report = probe.probe(use_cache=not fresh)
    facts = [*report.facts, _compiler_fact(), *_image_facts()]
    ok = all(fact.ok for fact in facts if fact.required)
    if as_json:
        print(json.dumps({"schema": 1, "ok": ok, "facts": [asdict(fact) for fact in facts]}, indent=1))
        return errors.EXIT_OK if ok else errors.EXIT_HOST
    for fact in facts:
        _print_fact(fact)
    output.headline(
        "this host can run guests" if ok else "this host lacks something: see the lines with FAIL"
    )
    return errors.EXIT_OK if ok else errors.EXIT_HOST


def _print_fact(fact: Fact) -> None:
    mark = "ok  " if fact.ok else "FAIL" if fact.required else "no  "
    print(f"{mark} {fact.name:<14} {fact.value:<20} {fact.evidence}".rstrip())
    if not fact.ok and fact.remedy:
        print(f"     to mend it: {fact.remedy}")


def _compiler_fact() -> Fact:
    path = shutil.which("gcc") or shutil.which("cc")
    evidence = path or "neither gcc nor cc on PATH; the image's measuring client is compiled"
    return Fact("compiler", path is not None, path or "none", evidence, "apt install gcc libc6-dev")


def _image_facts() -> list[Fact]:
    """A missing image is no fault: `vnic vm` builds it."""
    return [_image_fact(name) for name in images.names()]


def _image_fact(name: str) -> Fact:
    remedy = f"vnic image build {name}   (vnic vm does it by itself)"
    found = images.find(name)
    if found is None:
        return Fact(
            f"image {name}", False, "not built", "no image in the cache is of this recipe", remedy, False
        )
    release = str(found.manifest.get("kernel_release", "?"))
    return Fact(f"image {name}", True, release, str(found.directory), required=False)
