# SPDX-License-Identifier: GPL-2.0-or-later
"""The root file system of the guest: programs, their libraries, kernel modules, /init and a few files of ours.

Programs go to their own path below /usr, libraries to /lib/x86_64-linux-gnu under the name that asks for them, so
that ld.so needs no cache file.  Applets of busybox are links in /bin, after the real programs in PATH.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from images import cpio
from images.elf import dynamic, is_elf
from images.errors import ContentError
from images.kmod import Modules, alias_file, dep_file
from images.recipe import HERE, Program, Recipe
from images.tree import Tree

LIBRARY_DIR = "lib/x86_64-linux-gnu"
_SEARCH = (LIBRARY_DIR, f"usr/{LIBRARY_DIR}", "lib64", "lib", "usr/lib")
ROOTFS = HERE / "rootfs"
# Where each file of images/rootfs goes, and its mode.
OURS = {
    "init": ("init", 0o755),
    "udhcpc.sh": ("etc/udhcpc/default.script", 0o755),
    "motd": ("etc/motd", 0o644),
    "shrc": ("etc/shrc", 0o644),
    "passwd": ("etc/passwd", 0o644),
    "group": ("etc/group", 0o644),
    "hosts": ("etc/hosts", 0o644),
    "services": ("etc/services", 0o644),
    "protocols": ("etc/protocols", 0o644),
}
_EMPTY_DIRS = ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp", "var/run", "etc/iproute2")
CLIENTS = ("vnicbench", "vnicflood", "vnicsock")
"""Programs of our own, from client/NAME.c."""


@dataclass(slots=True)
class Contents:
    """What the builder hands over: a tree for each package, because two of them have a bin/busybox.

    `applets` are busybox's names, `clients` are our own static programs by name.
    """

    recipe: Recipe
    trees: Mapping[str, Tree]
    modules: Modules
    applets: Sequence[str]
    clients: Mapping[str, bytes]
    libraries: dict[str, str] = field(default_factory=dict)


def our_files() -> dict[str, bytes]:
    """The files of images/rootfs by name; they are part of an image's key."""
    return {name: (ROOTFS / name).read_bytes() for name in sorted(OURS)}


def entries(contents: Contents) -> list[cpio.Entry]:
    """Everything in the archive.  Raises ContentError when a program or a library is missing.

    Leaves in `contents.libraries` which package's file stands behind each library name.
    """
    programs = list(_programs(contents))
    taken = {posixpath.basename(entry.path) for entry in programs} | {"busybox", "sh"}
    return [
        *(cpio.directory(path, 0o1777 if path.endswith("tmp") else 0o755) for path in _EMPTY_DIRS),
        cpio.char_device("dev/console", 5, 1),
        *programs,
        *(cpio.regular(client_path(name), program, 0o755) for name, program in contents.clients.items()),
        # The kernel's own path for loading a module on demand (kernel.modprobe).
        cpio.symlink("sbin/modprobe", "../bin/sh"),
        *(cpio.symlink(f"bin/{name}", "sh") for name in sorted(set(contents.applets) - taken)),
        *_libraries(contents, [entry.data for entry in programs]),
        *_modules(contents),
        *(cpio.regular(OURS[name][0], data, OURS[name][1]) for name, data in our_files().items()),
    ]


def _programs(contents: Contents) -> Iterable[cpio.Entry]:
    for program in contents.recipe.programs:
        folder = "bin" if program.name in ("busybox", "sh") else "usr/bin"
        yield cpio.regular(f"{folder}/{program.name}", program_file(contents.trees, program), 0o755)


def program_file(trees: Mapping[str, Tree], program: Program) -> bytes:
    """The program's bytes.  Raises ContentError when its package has no such file."""
    tree = trees[program.package]
    found = tree.find(program.path)
    if found is None:
        raise ContentError(
            f"the package {program.package} has no file {program.path}",
            f"the recipe takes the program {program.name} from there",
            "Debian moved it: correct the path in images/recipes",
        )
    return tree.files[found]


def _libraries(contents: Contents, programs: Iterable[bytes]) -> Iterable[cpio.Entry]:
    found = needed_libraries(contents.trees, programs)
    contents.libraries.update({name: package for name, (package, _) in found.items()})
    for name, (_, data) in sorted(found.items()):
        place = name.lstrip("/") if name.startswith("/") else f"{LIBRARY_DIR}/{name}"
        yield cpio.regular(place, data, 0o755)


def needed_libraries(trees: Mapping[str, Tree], programs: Iterable[bytes]) -> dict[str, tuple[str, bytes]]:
    """Library name (the interpreter: absolute path) -> its package and bytes, over all levels of DT_NEEDED.

    Raises ContentError naming the library that no package provides and who asks for it.
    """
    found: dict[str, tuple[str, bytes]] = {}
    waiting = [data for data in programs if is_elf(data)]
    while waiting:
        wishes = dynamic(waiting.pop())
        for name in (*wishes.needed, *filter(None, [wishes.interpreter])):
            if name not in found:
                found[name] = _provider(trees, name)
                waiting.append(found[name][1])
    # ld.so is asked for by path by programs and by name by libc.so.6; one copy serves both.
    interpreters = {posixpath.basename(name) for name in found if name.startswith("/")}
    return {name: value for name, value in found.items() if name not in interpreters}


def _provider(trees: Mapping[str, Tree], name: str) -> tuple[str, bytes]:
    places = [name.lstrip("/")] if name.startswith("/") else [f"{folder}/{name}" for folder in _SEARCH]
    for package, tree in trees.items():
        if path := next(filter(None, map(tree.find, places)), None):
            return package, tree.files[path]
    raise ContentError(
        f"no package of the image provides the library {name}",
        f"looked in {', '.join(places)} of {len(trees)} packages",
        "name the package that has it in images/recipes, then build again",
    )


def _modules(contents: Contents) -> Iterable[cpio.Entry]:
    lookup, recipe = contents.modules, contents.recipe
    chosen = lookup.in_load_order(recipe.modules)
    base = f"lib/modules/{lookup.release}"
    for module in chosen:
        yield cpio.regular(f"{base}/{module.path}", module.data)
    yield cpio.regular(f"{base}/modules.dep", dep_file(chosen, lookup).encode())
    yield cpio.regular(f"{base}/modules.alias", alias_file(chosen).encode())
    order = [f"/{base}/{module.path}" for module in lookup.in_load_order(recipe.load)]
    yield cpio.regular("etc/modules.load", "".join(f"{path}\n" for path in order).encode())


def pack(contents: Contents) -> bytes:
    """The archive, not compressed: under TCG unpacking gzip costs the guest 0.7 s of each boot."""
    return cpio.archive(entries(contents))


def client_source(name: str) -> Path:
    """Where the source of one of CLIENTS is."""
    return HERE / "client" / f"{name}.c"


def client_path(name: str) -> str:
    """Where it is in the guest, without the first slash."""
    return f"usr/bin/{name}"
