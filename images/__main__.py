# SPDX-License-Identifier: GPL-2.0-or-later
"""python -m images build|list|verify|path|prune [NAME]: the image cache without the rest of the project."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType

import images
from images.cache import Cache
from images.errors import ImageError


def _build(arguments: argparse.Namespace) -> None:
    started = time.monotonic()

    def stage(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", file=sys.stderr, flush=True)

    print(images.build(arguments.name, stage, refresh=arguments.refresh).directory)


def _path(arguments: argparse.Namespace) -> None:
    print(_existing(arguments.name).directory)


def _verify(arguments: argparse.Namespace) -> None:
    image = _existing(arguments.name)
    images.verify(image)
    print(f"{image.name} {image.key}: every file is what the manifest says")


def _list(_: argparse.Namespace) -> None:
    current = {found.directory for name in images.names() if (found := images.find(name))}
    for image in Cache().images():
        mark = "*" if image.directory in current else " "
        size = sum(record["size"] for record in image.manifest["files"].values()) / 1e6
        print(f"{mark} {image.directory.name:32} {image.manifest['kernel_release']:28} {size:4.0f} MB")
    for name in images.names():
        if images.find(name) is None:
            print(f"  {name:32} not built")


def _prune(_: argparse.Namespace) -> None:
    for path in images.prune():
        print(f"removed {path}")


def _existing(name: str) -> images.Image:
    image = images.find(name)
    if image is None:
        raise ImageError(
            f"the guest image {name} is not built", f"looked in {Cache().root}", f"vnic image build {name}"
        )
    return image


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="images", description="guest images from Debian packages")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb, action, text in (
        ("build", _build, "build the image unless it is there"),
        ("path", _path, "print the directory of the built image"),
        ("verify", _verify, "compare every file with the manifest"),
        ("list", _list, "what is in the cache; * marks the image that a recipe leads to"),
        ("prune", _prune, "remove images that no recipe leads to, and all downloaded packages"),
    ):
        sub = verbs.add_parser(verb, help=text)
        sub.set_defaults(action=action)
        if verb in ("build", "path", "verify"):
            sub.add_argument("name", nargs="?", default=images.DEFAULT, metavar="NAME")
        if verb == "build":
            sub.add_argument("--refresh", action="store_true", help="ask for newer package versions")
    return parser


def _terminated(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or that of the ImageError."""
    signal.signal(signal.SIGTERM, _terminated)
    arguments = _parser().parse_args(argv)
    try:
        arguments.action(arguments)
    except ImageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
