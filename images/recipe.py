# SPDX-License-Identifier: GPL-2.0-or-later
"""Recipes: which Debian packages make a guest image, as TOML files in images/recipes.

A recipe decides the kernel, its modules and the programs; versions are not in it.  They are resolved when an
image is built and recorded beside it (images.cache), so that the same recipe on another day may give another image
under another key, and each of them stays what it was.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.errors import BadRecipe, UnknownRecipe

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"
DEFAULT = "debian12"

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, slots=True)
class Program:
    """A file `path` of `package` that the guest finds as `name`."""

    name: str
    package: str
    path: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """`modules` are all that the image carries, `load` those that /init loads, in order.

    `suite` is "" for whatever the host's apt is configured for, or a Debian suite that the kernel alone is
    taken from.  `digest` is the SHA-256 of the file.
    """

    name: str
    description: str
    kernel: str
    suite: str
    modules: tuple[str, ...]
    load: tuple[str, ...]
    programs: tuple[Program, ...]
    digest: str

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages of the programs, sorted, without the kernel."""
        return tuple(sorted({program.package for program in self.programs}))

    @property
    def static_package(self) -> str:
        """The package of the program `busybox`, which is static: nothing has to be fetched along with it."""
        return next(program.package for program in self.programs if program.name == "busybox")


def names(directory: Path = RECIPES) -> list[str]:
    """Every recipe there is, the default first."""
    found = sorted(path.stem for path in directory.glob("*.toml"))
    return sorted(found, key=lambda name: name != DEFAULT)


def load(name: str, directory: Path = RECIPES) -> Recipe:
    """The recipe of that name.  Raises UnknownRecipe or BadRecipe."""
    path = directory / f"{name}.toml"
    if not _NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(names(directory))
        raise UnknownRecipe(
            f"no image recipe is called {name!r}", f"there are: {known}", f"use one of: {known}"
        )
    return parse(name, path.read_bytes())


def parse(name: str, text: bytes) -> Recipe:
    """The recipe that `text` (TOML) describes.  Raises BadRecipe."""
    try:
        return _recipe(name, tomllib.loads(text.decode()), hashlib.sha256(text).hexdigest())
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadRecipe(
            f"the image recipe {name} cannot be used",
            f"{type(error).__name__}: {error}",
            f"compare images/recipes/{name}.toml with images/recipes/{DEFAULT}.toml",
        ) from None


def _recipe(name: str, table: dict[str, Any], digest: str) -> Recipe:
    kernel = table["kernel"]
    programs = tuple(_program(key, value) for key, value in table["programs"].items())
    load_list, modules = _strings(kernel["load"]), _strings(kernel["modules"])
    if strangers := set(load_list) - set(modules):
        raise ValueError(f"`load` names modules that `modules` does not: {sorted(strangers)}")
    if missing := {"busybox", "sh"} - {program.name for program in programs}:
        raise ValueError(f"`programs` lacks {sorted(missing)}, which /init needs")
    return Recipe(
        name,
        str(table["description"]),
        kernel["package"],
        kernel["suite"],
        modules,
        load_list,
        programs,
        digest,
    )


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"a list of strings is needed, not {value!r}")
    return tuple(value)


def _program(name: str, text: str) -> Program:
    package, found, path = (part.strip() for part in text.partition(":"))
    if not (found and package and path) or path.startswith("/"):
        raise ValueError(f'{name} = {text!r}: needs "package: path/in/it"')
    return Program(name, package, path)
