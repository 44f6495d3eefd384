# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules of a kernel package: what depends on what, in which order to load, and the files modprobe reads.

Debian's packages carry no modules.dep (depmod writes it on the installed system), so it is made here from the
`depends=` and `alias=` entries of each module's .modinfo section.
"""

from __future__ import annotations

import lzma
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from images.elf import NotElf, modinfo
from images.errors import ContentError

_SUFFIX = re.compile(r"\.ko(\.xz)?$")


@dataclass(frozen=True, slots=True)
class Module:
    """One module, decompressed; `path` is below the kernel's module directory and ends in .ko."""

    name: str
    path: str
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


class Modules:
    """The modules of one kernel, `base` is its directory ("lib/modules/6.1.0-9-cloud-amd64")."""

    def __init__(self, base: str, files: Mapping[str, bytes], builtin: str = "") -> None:
        self.base = base
        self._files = {_canonical(path): (path, data) for path, data in files.items() if _SUFFIX.search(path)}
        self._builtin = {_canonical(line) for line in builtin.split()}
        self._cache: dict[str, Module] = {}

    @property
    def release(self) -> str:
        return posixpath.basename(self.base)

    def get(self, name: str) -> Module | None:
        """The module, or None when it is part of the kernel proper.  Raises ContentError when it is neither."""
        name = _canonical(name)
        if name in self._builtin:
            return None
        if name not in self._cache:
            self._cache[name] = self._read(name)
        return self._cache[name]

    def _read(self, name: str) -> Module:
        if name not in self._files:
            raise ContentError(
                f"kernel {self.release} has no module {name}",
                f"neither in {self.base} ({len(self._files)} modules) nor built in ({len(self._builtin)})",
                "take the name out of the recipe, or choose another kernel in it",
            )
        path, raw = self._files[name]
        try:
            data = lzma.decompress(raw) if path.endswith(".xz") else raw
            info = modinfo(data)
        except (lzma.LZMAError, NotElf) as error:
            raise ContentError(
                f"module {path} cannot be read", str(error), "build again with --refresh"
            ) from None
        inside = _SUFFIX.sub(".ko", path.removeprefix(self.base + "/"))
        return Module(name, inside, data, _wanted(info), tuple(info.get("alias", ())))

    def in_load_order(self, names: Iterable[str]) -> list[Module]:
        """The named modules and all they need, each after its dependencies; built-in ones are left out."""
        order: dict[str, Module] = {}
        for name in names:
            self._visit(name, order, ())
        return list(order.values())

    def _visit(self, name: str, order: dict[str, Module], above: tuple[str, ...]) -> None:
        module = self.get(name)
        if module is None or module.name in order or module.name in above:
            return
        for dependency in module.depends:
            self._visit(dependency, order, (*above, module.name))
        order[module.name] = module


def _canonical(path: str) -> str:
    return _SUFFIX.sub("", posixpath.basename(path)).replace("-", "_")


def _wanted(info: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(name for line in info.get("depends", ()) for name in line.split(",") if name)


def dep_file(modules: Iterable[Module], lookup: Modules) -> str:
    """modules.dep: each module with everything it needs, nearest first, as modprobe loads from the right."""
    lines = []
    for module in modules:
        needed = [other.path for other in lookup.in_load_order([module.name])[:-1]]
        lines.append(" ".join([f"{module.path}:", *reversed(needed)]))
    return "".join(f"{line}\n" for line in lines)


def alias_file(modules: Iterable[Module]) -> str:
    """modules.alias, so that the kernel's request_module() finds e.g. tcp_diag when ss asks."""
    return "".join(f"alias {alias} {module.name}\n" for module in modules for alias in module.aliases)
