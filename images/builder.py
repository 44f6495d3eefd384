# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds a guest image from Debian packages, without root, without installing anything.

Steps, each of which says so through `progress`: wait for another build of the same recipe; resolve package versions
(the recorded ones when the recipe has not changed); fetch what is not in the cache; unpack in memory; compile the
guest's own programs; put the initramfs together; publish (images.cache).

Which lists the versions come from is in images.sources.  What goes wrong raises an ImageError and leaves nothing
but what was downloaded whole; a build that is killed leaves a work directory, which the next one removes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images import host
from images.apt import Package
from images.cache import (
    BUILDER_VERSION,
    INITRAMFS,
    KERNEL,
    MANIFEST,
    Cache,
    Image,
    Lock,
    image_key,
    inputs,
)
from images.errors import (
    CompileError,
    ContentError,
    DownloadError,
    HostToolMissing,
    NoNetwork,
    PackageListError,
    raise_if_full,
)
from images.initramfs import CLIENTS, Contents, client_path, client_source, pack, program_file
from images.kmod import Modules
from images.recipe import Recipe
from images.sources import Sources
from images.tree import Tree, unpack

# Gets what is being done now, e.g. "fetching 31 packages (41 MB)"; whoever prints it adds the time.
Progress = Callable[[str], None]
CC_FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-static", "-s")
_VMLINUZ = re.compile(r"(^|/)vmlinuz(-[^/]*)?$")


def silent(_: str) -> None:
    """A progress that nobody watches."""


@dataclass(slots=True)
class Builder:
    """One build of one recipe; `run` is the host, `cache` the place."""

    recipe: Recipe
    cache: Cache
    run: host.Runner = host.run
    progress: Progress = silent
    machine: str = field(default_factory=platform.machine)

    def build(self, refresh: bool = False) -> Image:
        """The image of the recipe, built unless it is there.  Raises a subclass of ImageError.

        `refresh` resolves the versions anew, and builds only if one of them changed.
        """
        self._check_machine()
        with self.cache.exclusive(self.recipe.name) as waited:
            if waited:
                self.progress(f"waited for another build of {self.recipe.name}")
            if not refresh and (image := self.cache.find(self.recipe)):
                return image
            with self.cache.work_dir(self.recipe.name) as work:
                return self._build_in(work, refresh)

    def _check_machine(self) -> None:
        if self.machine not in ("x86_64", "AMD64"):
            raise HostToolMissing(
                "guest images are for x86-64 and can be built on x86-64 only",
                f"this host is {self.machine}",
                "build on a PC and copy the directory that `vnic image path` prints",
            )

    def _build_in(self, work: Path, refresh: bool) -> Image:
        lock = None if refresh else self.cache.read_lock(self.recipe)
        sources = Sources(self.recipe, self.cache, self.run, work, self.progress)
        if lock is None:
            lock = sources.resolve(fresh=refresh)
        try:
            debs = sources.fetch(lock)
        except NoNetwork:
            raise
        except (DownloadError, PackageListError) as error:
            self.progress(f"{error.fact}: resolving again with fresh lists")
            lock = sources.resolve(fresh=True)
            debs = sources.fetch(lock)
        key = image_key(self.recipe, lock)
        image = self.cache.load(self.recipe.name, key) or self._assemble(lock, key, debs, work)
        self.cache.write_lock(self.recipe, lock, work)
        return image

    def _assemble(self, lock: Lock, key: str, debs: dict[str, Path], work: Path) -> Image:
        self.progress(f"unpacking {len(debs)} packages, kernel {lock.kernel[0].name}")
        kernel, modules = self._kernel(lock.kernel, debs)
        trees = {p.name: unpack(self.run, debs[p.name], _is_program_or_library) for p in lock.packages}
        self.progress(f"compiling {', '.join(CLIENTS)}")
        clients = {name: self._client(name, work) for name in CLIENTS}
        compiler = self.run(["cc", "--version"]).text.partition("\n")[0]
        contents = Contents(self.recipe, trees, modules, self._applets(trees, work), clients)
        self.progress("putting the initramfs together")
        files = {KERNEL: kernel, INITRAMFS: pack(contents)}
        manifest = self._manifest(lock, key, files, contents, compiler)
        files[MANIFEST] = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
        image = self.cache.publish(self.recipe.name, key, work, files)
        self.progress(f"built {image.directory} ({sum(map(len, files.values())) / 1e6:.0f} MB)")
        return image

    def _kernel(self, packages: Sequence[Package], debs: dict[str, Path]) -> tuple[bytes, Modules]:
        files: dict[str, bytes] = {}
        for package in packages:
            files.update(unpack(self.run, debs[package.name], _is_kernel_or_module).files)
        images = sorted(path for path in files if _VMLINUZ.search(path))
        lists = sorted(path for path in files if path.endswith("/modules.builtin"))
        if not (images and lists):
            raise ContentError(
                f"there is no kernel in {', '.join(package.name for package in packages)}",
                f"of {len(files)} files, called vmlinuz: {images}, called modules.builtin: {lists}",
                "choose another kernel package in images/recipes",
            )
        return files[images[0]], Modules(lists[0].rpartition("/")[0], files, files[lists[0]].decode())

    def _client(self, name: str, work: Path) -> bytes:
        """A static program of images/client."""
        output = work / name
        result = self.run(["cc", *CC_FLAGS, "-o", str(output), str(client_source(name))])
        if result.code or not output.exists():
            raise_if_full(result.err, self.cache.root)
            raise CompileError(
                f"the guest's program images/client/{name}.c did not compile",
                f"cc {' '.join(CC_FLAGS)} ended with {result.code}:\n{host.tail(result.err)}",
                "apt-get install gcc libc6-dev",
            )
        with self.cache.disk_errors():
            return output.read_bytes()

    def _applets(self, trees: Mapping[str, Tree], work: Path) -> list[str]:
        """The applets of the busybox that serves the shell, asked of the static one, which can run here.

        Both are built from one source with nearly one configuration; a link to an applet that the
        other lacks answers "applet not found", which is what a missing program would amount to.
        """
        program = next(program for program in self.recipe.programs if program.name == "busybox")
        with self.cache.disk_errors():
            binary = work / "busybox"
            binary.write_bytes(program_file(trees, program))
            binary.chmod(0o755)
        return self.run([str(binary), "--list"]).text.split()

    def _manifest(
        self, lock: Lock, key: str, files: dict[str, bytes], contents: Contents, compiler: str
    ) -> dict[str, Any]:
        """What is in the image, for people and for verify()."""
        used = set(contents.libraries.values()) | set(self.recipe.packages)
        return {
            "schema": 1,
            "recipe": self.recipe.name,
            "description": self.recipe.description,
            "key": key,
            "kernel": KERNEL,
            "initramfs": INITRAMFS,
            "kernel_release": contents.modules.release,
            "modules": [module.name for module in contents.modules.in_load_order(self.recipe.load)],
            "files": {name: _record(data) for name, data in files.items()},
            "clients": {f"/{client_path(name)}": _record(data) for name, data in contents.clients.items()},
            "packages": [_package_record(p) for p in lock.all if p in lock.kernel or p.name in used],
            "libraries": dict(sorted(contents.libraries.items())),
            "inputs": inputs(self.recipe),
            "tools": {"builder": str(BUILDER_VERSION), "cc": compiler, "python": platform.python_version()},
        }


def _record(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _package_record(package: Package) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "sha256": package.sha256,
        "size": package.size,
        "filename": package.filename,
    }


def _is_kernel_or_module(path: str) -> bool:
    return bool(_VMLINUZ.search(path)) or path.endswith((".ko", ".ko.xz", "/modules.builtin"))


def _is_program_or_library(path: str) -> bool:
    parts = path.split("/")
    return any(part in ("bin", "sbin", "lib", "lib64") for part in parts[:2])
