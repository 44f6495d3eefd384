# SPDX-License-Identifier: GPL-2.0-or-later
"""What is inside a Debian package, in memory: nothing is installed, and no maintainer script runs."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from images.errors import PackageCorrupt
from images.host import Runner, tail

_MAX_LINKS = 16
# Debian merged these with their namesakes under /usr; packages of different ages say either.
_MERGED = ("bin/", "sbin/", "lib/", "lib64/")


@dataclass(slots=True)
class Tree:
    """The files and links of one package, by path without a leading slash."""

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def find(self, path: str) -> str | None:
        """The regular file that `path` leads to, through links and the merged /usr; None when there is none."""
        for _ in range(_MAX_LINKS):
            known = next(
                (name for name in _spellings(path) if name in self.files or name in self.links), None
            )
            if known is None or known in self.files:
                return known
            target = self.links[known]
            path = posixpath.normpath(posixpath.join("/", posixpath.dirname(known), target)).lstrip("/")
        return None

    def add(self, archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> None:
        """Takes the wanted members; directories and devices are of no use here."""
        for member in archive:
            path = posixpath.normpath(member.name).lstrip("/")
            if not wanted(path):
                continue
            if member.issym():
                self.links[path] = member.linkname
            elif member.islnk():
                self.links[path] = "/" + posixpath.normpath(member.linkname)
            elif (data := archive.extractfile(member)) is not None:
                self.files[path] = data.read()


def _spellings(path: str) -> tuple[str, ...]:
    if path.startswith("usr/") and path[4:].startswith(_MERGED):
        return (path, path[4:])
    return (path, f"usr/{path}") if path.startswith(_MERGED) else (path,)


def unpack(run: Runner, deb: Path, wanted: Callable[[str], bool]) -> Tree:
    """The wanted files of one .deb.  Raises PackageCorrupt when dpkg-deb refuses the file."""
    result = run(["dpkg-deb", "--fsys-tarfile", str(deb)])
    tree = Tree()
    try:
        if result.code:
            raise tarfile.TarError(tail(result.err))
        with tarfile.open(fileobj=io.BytesIO(result.out)) as archive:
            tree.add(archive, wanted)
    except (tarfile.TarError, EOFError) as error:
        raise PackageCorrupt(
            f"the Debian package {deb.name} cannot be unpacked",
            f"dpkg-deb --fsys-tarfile {deb}: {error}",
            f"remove {deb} and build again",
        ) from None
    return tree
