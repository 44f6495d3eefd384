# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns a recipe into package versions, and versions into files, with as little network as possible.

The host's apt lists are asked first, since they are there and cost nothing.  If they do not know a package (a machine
whose lists were never fetched) or name a version that the mirror has dropped, lists of our own are fetched into
the build's scratch directory: that needs a network and no root.  When that fails as well, the error of the fresh
lists is the one that is raised, as it tells about the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from images import apt
from images.apt import Package, View
from images.cache import Cache, Lock
from images.errors import DownloadError, PackageCorrupt, PackageListError, raise_if_full
from images.host import Runner
from images.recipe import Recipe

T = TypeVar("T")


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
        self._views: dict[str, View] = {}

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
        """The view of that name; its lists, unless they are the host's, are fetched the first time."""
        if name not in self._views:
            with self._cache.disk_errors():
                (self._work / name).mkdir()
                view = make(self._run, self._work / name)
            if name != "host":
                self._say(f"fetching {view.label}")
                if complaint := view.update():
                    raise_if_full(complaint, self._cache.root)
                    self._say(f"apt-get update: {complaint.splitlines()[-1]}")
            self._views[name] = view
        return self._views[name]

    def fetch(self, lock: Lock) -> dict[str, Path]:
        """The .deb of every package, by name.  Raises DownloadError, PackageListError, PackageCorrupt, DiskError."""
        missing = [package for package in lock.all if not self._is_kept(package)]
        if missing:
            self._say(f"fetching {len(missing)} packages ({sum(p.size for p in missing) / 1e6:.0f} MB)")
        if lock.kernel in missing and self._recipe.suite:
            self._keep([lock.kernel], self._suite().download([lock.kernel], self._downloads("kernel")))
            missing.remove(lock.kernel)
        if missing:
            self._keep(missing, self._ask(lambda view: view.download(missing, self._downloads(view.label))))
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
            path.unlink()
            return False
        return True

    def _downloads(self, label: str) -> Path:
        with self._cache.disk_errors():
            directory = self._work / f"debs-{re.sub(r'[^a-z]+', '-', label.lower())}"
            directory.mkdir(exist_ok=True)
            return directory

    def _keep(self, packages: Sequence[Package], files: dict[str, Path]) -> None:
        for package in packages:
            self._cache.keep_package(package, files[package.name])


def resolve_kernel(view: View, name: str) -> Package:
    """The package with the kernel in it: `name` itself, or what the metapackage `name` depends on."""
    package = view.candidate(name)
    real = re.match(r"\s*(linux-image-[0-9][^\s,|(]*)", package.depends)
    return view.candidate(real.group(1)) if real else package
