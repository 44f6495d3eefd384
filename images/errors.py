# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong while a guest image is found or built.

Every error has three parts: the fact (what happened), the evidence (why we think so) and the remedy (what
to type).  `exit_code` is what a command line that ends because of the error returns.

.. code-block:: text

    Exception
     +-- ImageError                  3  never raised itself
          +-- UnknownRecipe          2  no recipe of that name
          +-- BadRecipe              2  a recipe file contradicts itself
          +-- HostToolMissing        3  apt, dpkg-deb or the C compiler is not there
          +-- PackageListError       3  apt does not know a package: its lists are missing or too old
          +-- DownloadError          3  a package could not be fetched
          |    +-- NoNetwork         3  not even a package list could
          +-- PackageCorrupt         3  a file is not what its checksum says
          +-- ContentError           3  a package lacks a program, module or library that the image needs
          +-- CompileError           3  a program of images/client did not compile
          +-- DiskError              3  the disk is full, or the cache cannot be written
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import ClassVar

__all__ = [
    "BadRecipe",
    "CompileError",
    "ContentError",
    "DiskError",
    "DownloadError",
    "HostToolMissing",
    "ImageError",
    "NoNetwork",
    "PackageCorrupt",
    "PackageListError",
    "UnknownRecipe",
    "raise_if_full",
]

_NO_SPACE = ("No space left on device", "You don't have enough free space")


class ImageError(Exception):
    """Root of the tree; `fact` is one line, `evidence` and `remedy` may be several."""

    exit_code: ClassVar[int] = 3

    def __init__(self, fact: str, evidence: str = "", remedy: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.evidence = evidence
        self.remedy = remedy

    def __str__(self) -> str:
        parts = (("", self.fact), ("why: ", self.evidence), ("try: ", self.remedy))
        return "\n".join(_labelled(label, text) for label, text in parts if text)


def _labelled(label: str, text: str) -> str:
    first, *rest = text.rstrip("\n").split("\n")
    return "\n".join([f"{label}{first}", *(" " * len(label) + line for line in rest)])


class UnknownRecipe(ImageError):
    """Met when an image is asked for by a name that no file in images/recipes has."""

    exit_code = 2


class BadRecipe(ImageError):
    """Met when a recipe file is not TOML, or lacks or misspells a key."""

    exit_code = 2


class HostToolMissing(ImageError):
    """Met on a host that is no Debian, or has no C compiler, or another processor."""


class PackageListError(ImageError):
    """Met when apt's lists are empty and fresh ones cannot be had."""


class DownloadError(ImageError):
    """Met without a network, or when the mirror has replaced a version since the lists were read."""


class NoNetwork(DownloadError):
    """Met when the image is missing and no mirror answers."""


class PackageCorrupt(ImageError):
    """Met when a downloaded or cached file has another SHA-256 than its record."""


class ContentError(ImageError):
    """Met when Debian moved a file that the recipe names, or a library has no provider."""


class CompileError(ImageError):
    """Met when the C compiler refuses images/client, most often because libc6-dev is not there."""


class DiskError(ImageError):
    """Met when the cache's file system is full, read-only or somebody else's."""

    @classmethod
    def from_os_error(cls, error: OSError, root: Path) -> DiskError:
        """The three parts for a failed write below `root`; what was half written is gone already."""
        place = error.filename or root
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls(
                f"no space left for the guest image in {root}",
                f"{_free_space(root)}; writing {place} ended with: {error.strerror}",
                "free about 200 MB there, drop old images with `vnic image prune`,\n"
                "or point XDG_CACHE_HOME to a larger file system; nothing half written was left",
            )
        return cls(
            f"the image cache {root} cannot be written",
            f"{place}: {error.strerror or error}",
            "make it writable for this user, or point XDG_CACHE_HOME elsewhere",
        )


def _free_space(root: Path) -> str:
    try:
        state = os.statvfs(root)
    except OSError:
        return "its free space is unknown"
    return f"{state.f_bavail * state.f_frsize // 1_000_000} MB free"


def raise_if_full(complaint: str, root: Path) -> None:
    """Raises DiskError when a program that we ran met the full disk before we did."""
    if any(words in complaint for words in _NO_SPACE):
        raise DiskError.from_os_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), root)
