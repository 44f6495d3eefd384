# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``vnic callgraph`` shows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import typer

from vnic import callgraph as scenes
from vnic import errors, kernelgraph
from vnic.cli import output


def list_steps() -> None:
    for name, scene in scenes.SCENES.items():
        witness = "kernel too" if name in kernelgraph.SCENES else ""
        typer.echo(f"{name:26}{scene.title:54}{witness}".rstrip())


def write_docs(docs: Path) -> None:
    """Write all trees behind the mark in that file; what stands before stays."""
    if not docs.parent.is_dir():
        raise errors.UsageError(
            f"cannot write {docs}",
            evidence=f"{Path.cwd()} has no directory {docs.parent}",
            remedy="run it at the top of a checkout",
        )
    head = docs.read_text().partition(scenes.MARK)[0] if docs.exists() else ""
    docs.write_text(head + scenes.MARK + scenes.document())


def show(names: list[str] | None, level: str) -> None:
    """Our trees, recorded now."""
    _check(names or [])
    chosen = {name: scenes.SCENES[name] for name in names or scenes.SCENES}
    _print((scene.title, scenes.drawn(scene, level)) for scene in chosen.values())


def show_kernel(names: list[str] | None, image: str, *, diff: bool, raw: bool) -> None:
    """The kernel's trees, recorded in a new guest of that image."""
    _check(names or [])
    unseen = [name for name in names or [] if name not in kernelgraph.SCENES]
    if unseen:
        raise errors.UsageError(
            f"the kernel's tree of {unseen[0]} is not recorded",
            evidence=f"those of {', '.join(kernelgraph.SCENES)} are",
            remedy=f"leave --kernel out, to see ours: vnic callgraph {unseen[0]}",
        )
    text = asyncio.run(kernelgraph.record(kernelgraph.plan(image)))
    if raw:
        typer.echo(text)
        return
    trees = kernelgraph.parse(text)
    _print(
        (scenes.SCENES[name].title, _witness(trees, name, diff)) for name in names or list(kernelgraph.SCENES)
    )
    ours, missing = kernelgraph.mirrored(trees)
    seen = len(ours) + len(missing)
    output.stage(
        f"{len(ours)} of {seen} ({len(ours) / seen:.0%}) of the TCP functions that the kernel called are here, all but "
        f"{', '.join(sorted(missing))}"
    )


def _witness(trees: list[kernelgraph.KernelCall], name: str, diff: bool) -> str:
    tree = kernelgraph.find(trees, name)
    if not diff:
        return "\n".join(kernelgraph.draw(tree))
    return "\n".join(kernelgraph.compare(scenes.trace(scenes.SCENES[name], tree.name).root, tree))


def _check(names: list[str]) -> None:
    unknown = [name for name in names if name not in scenes.SCENES]
    if unknown:
        raise errors.UsageError(
            f"there is no step {unknown[0]}",
            evidence=f"there are {', '.join(scenes.SCENES)}",
            remedy="`vnic callgraph --list` tells what each of them is",
        )


def _print(parts: Iterable[tuple[str, str]]) -> None:
    for number, (title, text) in enumerate(parts):
        typer.echo(f"{chr(10) if number else ''}# {title}\n{text}")
