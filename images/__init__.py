# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest images: a Debian kernel and an initramfs, built without root and kept by content.

    image = images.ensure("debian12", print)
    image.kernel, image.initramfs, image.manifest

Every error is an images.errors.ImageError with the fact, the evidence and the remedy.
"""

from __future__ import annotations

from images import recipe as _recipe
from images.builder import Builder, Progress, silent
from images.cache import Cache, Image, verify
from images.errors import ImageError
from images.recipe import DEFAULT, names

__all__ = ["DEFAULT", "Image", "ImageError", "build", "ensure", "find", "names", "prune", "verify"]


def find(name: str = DEFAULT) -> Image | None:
    """The image that recipe `name` was last built to, or None when it never was or its inputs have changed.

    Takes milliseconds and no network.  Raises UnknownRecipe.
    """
    return Cache().find(_recipe.load(name))


def build(name: str = DEFAULT, progress: Progress = silent, *, refresh: bool = False) -> Image:
    """The image of recipe `name`, built unless it is there; `progress` gets a line for each stage.

    `refresh` asks for the newest package versions and builds if there are newer ones.  Raises ImageError.
    """
    return Builder(_recipe.load(name), Cache(), progress=progress).build(refresh)


def ensure(name: str = DEFAULT, progress: Progress = silent) -> Image:
    """find(), and build() when there is none."""
    return find(name) or build(name, progress)


def prune() -> list[str]:
    """Drops the images that no recipe leads to any more, and all downloads; the paths of what was dropped."""
    cache = Cache()
    current = {image.directory for name in names() if (image := cache.find(_recipe.load(name)))}
    return [str(path) for path in cache.prune(current, names())]
