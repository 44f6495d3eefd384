# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns a recipe into package versions, and versions into files, with as little network as possible.

The host's apt lists are asked first, since they are there and cost nothing.  If they do not know a package (a machine
whose lists were never fetched) or name a version that the mirror has dropped, lists of our own are fetched into
the build's scratch directory: that needs a network and no root.  NoNetwork is what remains when that fails too.
A kernel of another suite always needs such lists; programs never come from another suite.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from images import apt
from images.apt import Package, View, no_network
from images.cache import Cache, Lock
from images.errors import DownloadError, NoNetwork, PackageCorrupt, PackageListError, raise_if_full
from images.host import Runner
from images.recipe import Recipe

T = TypeVar("T")
_KERNEL_PART = re.compile(r"\blinux-(?:image|binary|modules|base)-[0-9][^\s,|()]*")


class Sources:
    """Where the packages of one build come from; `work` is the build's scratch directory, `say` its progress."""

    def __init__(
        self, recipe: Recipe, cache: Cache, run: Runner, work: Path, say: Callable[[str], None]
    ) -> None:
        self._recipe = recipe
        self._cache = cache
        self._run = run
        self._work = work
        self._say = say
        self._views: dict[str, View | NoNetwork] = {}

    def resolve(self, fresh: bool = False) -> Lock:
        """Asks apt which versions there are; `fresh` does not trust the host's lists.  Raises PackageListError."""
        self._say(f"resolving the packages of {self._recipe.name}")
        wanted = self._ask(self._programs, fresh)
        if self._recipe.suite:
            kernel = resolve_kernel(self._suite(), self._recipe.kernel)
        else:
            kernel = self._ask(lambda view: resolve_kernel(view, self._recipe.kernel), fresh)
        return Lock(self._recipe.digest, kernel, tuple(wanted))

    def _programs(self, view: View) -> list[Package]:
        """The recipe's packages and every library that they may need.

        The static busybox is asked for on its own: it conflicts with the one that serves the shell.
        """
        static = self._recipe.static_package
        others = [name for name in self._recipe.packages if name != static]
        wanted = [p for p in view.closure(others) if p.is_library or p.name in others]
        return [view.candidate(static), *wanted]

    def _ask(self, question: Callable[[View], T], fresh: bool = False) -> T:
        """The answer of the host's lists, or of fresh ones when those do not know."""
        if not fresh:
            try:
                return question(self._host())
            except (PackageListError, DownloadError) as error:
                self._say(f"{error.fact} ({self._host().label})")
        return question(self._private())

    def _host(self) -> View:
        return self._view("host", apt.host_view)

    def _private(self) -> View:
        return self._view("private", apt.private_view)

    def _suite(self) -> View:
        return self._view("suite", lambda run, path: apt.suite_view(run, path, self._recipe.suite))

    def _view(self, name: str, make: Callable[[Runner, Path], View]) -> View:
        """The view of that name; its lists, unless they are the host's, are fetched the first time.

        Raises NoNetwork, the second time as fast as a dictionary.
        """
        if name not in self._views:
            self._views[name] = self._new_view(name, make)
        view = self._views[name]
        if isinstance(view, NoNetwork):
            raise view
        return view

    def _new_view(self, name: str, make: Callable[[Runner, Path], View]) -> View | NoNetwork:
        with self._cache.disk_errors():
            (self._work / name).mkdir()
            view = make(self._run, self._work / name)
        if name == "host":
            return view
        self._say(f"fetching {view.label}")
        complaint = view.update()
        raise_if_full(complaint, self._cache.root)
        if not view.has_lists():
            return no_network(view.label, complaint)
        if complaint:
            # One source of several is ill; whether it matters shows when packages are asked for.
            self._say(f"apt-get update: {complaint.splitlines()[-1]}")
        return view

    def fetch(self, lock: Lock) -> dict[str, Path]:
        """The .deb of every package, by name.  Raises DownloadError, PackageListError, PackageCorrupt, DiskError."""
        missing = [package for package in lock.all if not self._is_kept(package)]
        if missing:
            self._say(f"fetching {len(missing)} packages ({sum(p.size for p in missing) / 1e6:.0f} MB)")
        foreign = [package for package in missing if package in lock.kernel] if self._recipe.suite else []
        if foreign:
            self._keep(foreign, self._download(self._suite(), foreign, "kernel"))
        if ours := [package for package in missing if package not in foreign]:
            self._keep(ours, self._ask(lambda view: self._download(view, ours, view.label)))
        return {package.name: self._cache.package_path(package) for package in lock.all}

    def _is_kept(self, package: Package) -> bool:
        """Whether the cache has the package's file, whole; a damaged one is removed."""
        path = self._cache.package_path(package)
        if not path.exists():
            return False
        try:
            apt.check(path, package)
        except PackageCorrupt as error:
            self._say(f"{error.fact}; fetching it again")
            with self._cache.disk_errors():
                path.unlink()
            return False
        return True

    def _download(self, view: View, packages: Sequence[Package], label: str) -> dict[str, Path]:
        return view.download(packages, self._downloads(label), self._cache.root)

    def _downloads(self, label: str) -> Path:
        with self._cache.disk_errors():
            directory = self._work / f"debs-{re.sub(r'[^a-z]+', '-', label.lower())}"
            directory.mkdir(exist_ok=True)
            return directory

    def _keep(self, packages: Sequence[Package], files: dict[str, Path]) -> None:
        for package in packages:
            self._cache.keep_package(package, files[package.name])


def resolve_kernel(view: View, name: str) -> tuple[Package, ...]:
    """The packages with the kernel and its modules that the (meta)package `name` leads to, itself left out.

    Up to 6.12 that is linux-image-VERSION; since 7.2 that one is empty and depends on linux-binary-VERSION,
    linux-modules-VERSION and linux-base-VERSION.
    """
    found: dict[str, Package] = {}
    waiting = [name]
    while waiting:
        package = view.candidate(waiting.pop(0))
        found[package.name] = package
        waiting += [
            other for other in _KERNEL_PART.findall(package.depends) if other not in {*found, *waiting}
        ]
    parts = tuple(package for package in found.values() if package.name != name)
    return parts or tuple(found.values())
