# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic image``: the guest images and their cache."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import images
from images.cache import Cache, Image
from vnic.cli import output

app = typer.Typer(help="Build, list and check guest images.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A recipe: see `vnic image list`.")]


@app.command()
def build(
    name: Name = images.DEFAULT,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask for newer package versions.")] = False,
) -> None:
    """Build an image from Debian packages unless it is there."""
    print(images.build(name, output.stage, refresh=refresh).directory)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show the recipes and the images in the cache; * marks the one that a recipe leads to now."""
    current = {found.directory for name in images.names() if (found := images.find(name))}
    rows = [_row(image, image.directory in current) for image in Cache().images()]
    missing = [name for name in images.names() if images.find(name) is None]
    if as_json:
        print(json.dumps({"schema": 1, "images": rows, "not_built": missing}, indent=1))
        return
    for row in rows:
        print(
            f"{'*' if row['current'] else ' '} {row['name']:<14} {row['kernel']:<28} {row['megabytes']:4} MB"
        )
    for name in missing:
        print(f"  {name:<14} not built")


def _row(image: Image, current: bool) -> dict[str, object]:
    size = sum(record["size"] for record in image.manifest["files"].values())
    return {
        "name": image.name,
        "kernel": image.manifest["kernel_release"],
        "megabytes": round(size / 1e6),
        "current": current,
        "path": str(image.directory),
    }


@app.command()
def verify(name: Name = images.DEFAULT) -> None:
    """Compare every file of an image with its manifest."""
    image = _built(name)
    images.verify(image)
    print(f"{image.name} {image.key}: every file is what the manifest says")


@app.command()
def path(name: Name = images.DEFAULT) -> None:
    """Print the directory of a built image."""
    print(_built(name).directory)


@app.command()
def prune() -> None:
    """Remove images that no recipe leads to any more, and all downloaded packages."""
    for dropped in images.prune():
        print(f"removed {dropped}")


def _built(name: str) -> Image:
    image = images.find(name)
    if image is None:
        raise images.ImageError(
            f"the image {name} is not built", f"looked in {Cache().root}", f"vnic image build {name}"
        )
    return image
