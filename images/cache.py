# SPDX-License-Identifier: GPL-2.0-or-later
"""Where images live, and how a directory appears there whole or not at all.

Below $XDG_CACHE_HOME/vnic/images (default ~/.cache):

    <recipe>-<key>/            one image: kernel, initramfs.cpio, manifest.json; never changed once it is there
    <recipe>.lock.json         the package versions that the recipe was last resolved to
    <recipe>.flock             held by the one build of that recipe that runs
    .work-<recipe>-XXXXXXXX/   a build under way; the next build of that recipe removes those of killed ones
    packages/<sha256>.deb      what was downloaded, so that a change of /init needs no network

A build writes into its work directory and renames it: rename(2) within one file system is the only step that others
can see.  flock(2) belongs to the process, so a killed build holds nothing.  The key is the SHA-256 over
everything that decides the bytes: recipe, our own files, the builder's version, every package's version and SHA-256.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from images.apt import Package
from images.errors import DiskError, PackageCorrupt
from images.initramfs import CLIENTS, client_source, our_files
from images.recipe import Recipe

# Raise it when the builder's output changes although its inputs do not.
BUILDER_VERSION = 3
KEY_DIGITS = 16
INITRAMFS, KERNEL, MANIFEST = "initramfs.cpio", "vmlinuz", "manifest.json"


@dataclass(frozen=True, slots=True)
class Image:
    """A bootable pair of files and the record of what is in them."""

    name: str
    key: str
    kernel: Path
    initramfs: Path
    manifest: dict[str, Any]

    @property
    def directory(self) -> Path:
        return self.kernel.parent


@dataclass(frozen=True, slots=True)
class Lock:
    """What a recipe was resolved to; `recipe_digest` tells whether it still is that recipe's.

    `kernel` is one package up to Linux 6.12, and several since Debian split binary and modules.
    """

    recipe_digest: str
    kernel: tuple[Package, ...]
    packages: tuple[Package, ...]

    @property
    def all(self) -> tuple[Package, ...]:
        return (*self.kernel, *self.packages)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Lock:
        """Raises ValueError, KeyError or TypeError on anything that to_json did not write."""
        raw = json.loads(text)
        kernel, packages = (tuple(Package(**item) for item in raw[part]) for part in ("kernel", "packages"))
        return cls(raw["recipe_digest"], kernel, packages)


def cache_root() -> Path:
    """DiskError for a user without a home who names no cache either."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    # The XDG base directory specification: relative paths are to be ignored.
    home = Path(base) if base.startswith("/") else _home() / ".cache"
    return home / "vnic" / "images"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise DiskError(
            "there is no home directory to keep guest images in",
            f"HOME is not set and user {os.getuid()} is not in /etc/passwd: {error}",
            "set HOME or XDG_CACHE_HOME to a directory that can be written",
        ) from error


def inputs(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of each file of ours that goes into an image."""
    files = {**our_files(), **{f"{name}.c": client_source(name).read_bytes() for name in CLIENTS}}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    return {"recipe": recipe.digest, **digests}


def image_key(recipe: Recipe, lock: Lock, builder_version: int = BUILDER_VERSION) -> str:
    """The content address; equal keys mean equal images."""
    packages = sorted((package.name, package.version, package.sha256) for package in lock.all)
    text = json.dumps([recipe.name, builder_version, inputs(recipe), packages], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """The directory of one user; every method that writes raises DiskError when it cannot."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()

    def _image_dir(self, name: str, key: str) -> Path:
        return self.root / f"{name}-{key[:KEY_DIGITS]}"

    def read_lock(self, recipe: Recipe) -> Lock | None:
        """The recorded versions; None when there are none, or the recipe has changed since."""
        try:
            lock = Lock.from_json((self.root / f"{recipe.name}.lock.json").read_text())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return lock if lock.recipe_digest == recipe.digest else None

    def write_lock(self, recipe: Recipe, lock: Lock, work: Path) -> None:
        with self.disk_errors():
            fresh = work / "lock.json"
            fresh.write_text(lock.to_json())
            fresh.rename(self.root / f"{recipe.name}.lock.json")

    def find(self, recipe: Recipe) -> Image | None:
        """The image that the recipe as it is now was last built to; asks neither apt nor the network."""
        lock = self.read_lock(recipe)
        return self.load(recipe.name, image_key(recipe, lock)) if lock else None

    def load(self, name: str, key: str) -> Image | None:
        return read_image(self._image_dir(name, key))

    def images(self) -> list[Image]:
        """Every whole image in the cache, sorted by directory name."""
        found = (read_image(path) for path in sorted(self.root.glob("*-*/")) if not path.name.startswith("."))
        return [image for image in found if image]

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskError.from_os_error(error, self.root) from error

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[bool]:
        """Holds the recipe's flock; the value tells whether another build had to be waited for."""
        with self.disk_errors():
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / f"{name}.flock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield _lock(descriptor)
        finally:
            # Said aloud, because a process that was forked meanwhile holds a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    @contextlib.contextmanager
    def work_dir(self, name: str) -> Iterator[Path]:
        """A scratch directory beside the images, gone afterwards; first removes those of killed builds.

        Only under exclusive(name), which is what makes any other directory of that name a leftover.
        """
        with self.disk_errors():
            for leftover in self.root.glob(f".work-{name}-????????"):
                shutil.rmtree(leftover, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=f".work-{name}-", dir=self.root))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def publish(self, name: str, key: str, work: Path, files: dict[str, bytes]) -> Image:
        """Writes the files below `work`, then makes them visible in one step."""
        target = self._image_dir(name, key)
        with self.disk_errors():
            staging = work / "image"
            staging.mkdir()
            for file, data in files.items():
                _write_durably(staging / file, data)
            if target.exists():
                # A directory under this key that does not load: somebody removed files from it.
                target.rename(work / "broken")
            staging.rename(target)
        image = read_image(target)
        if image is None:
            raise DiskError(f"the image in {target} disappeared", "it was written and renamed", "build again")
        return image

    def package_path(self, package: Package) -> Path:
        return self.root / "packages" / f"{package.sha256}.deb"

    def keep_package(self, package: Package, deb: Path) -> Path:
        """Moves a checked download from a work directory to its place."""
        place = self.package_path(package)
        with self.disk_errors():
            place.parent.mkdir(exist_ok=True)
            deb.rename(place)
        return place

    def prune(self, keep: set[Path], names: Iterable[str] = ()) -> list[Path]:
        """Removes every image directory but those in `keep`, and all packages; what was removed.

        Waits for the builds of the recipes `names`, which may be reading the packages.  A directory is
        renamed first, so that nobody loads it half gone.
        """
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.enter_context(self.exclusive(name))
            victims = [image.directory for image in self.images() if image.directory not in keep]
            victims += [path for path in [self.root / "packages"] if path.exists()]
            with self.disk_errors():
                for path in victims:
                    path.rename(Path(tempfile.mkdtemp(prefix=".prune-", dir=self.root)) / path.name)
                for hidden in self.root.glob(".prune-*"):
                    shutil.rmtree(hidden, ignore_errors=True)
            return victims


def _lock(descriptor: int) -> bool:
    """True when somebody else held the lock and we waited."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    return False


def _write_durably(path: Path, data: bytes) -> None:
    """fsync before the rename, or a power cut could leave a visible image with empty files."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_image(directory: Path) -> Image | None:
    """The image in a directory, or None when a file of it is missing or has another size than recorded."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        sizes = {name: record["size"] for name, record in manifest["files"].items()}
        if any((directory / name).stat().st_size != size for name, size in sizes.items()):
            return None
        kernel, initramfs = (directory / manifest[role] for role in ("kernel", "initramfs"))
        return Image(manifest["recipe"], manifest["key"], kernel, initramfs, manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def verify(image: Image) -> None:
    """Hashes every file of the image.  Raises PackageCorrupt naming the first that differs."""
    for name, record in image.manifest["files"].items():
        found = hashlib.sha256((image.directory / name).read_bytes()).hexdigest()
        if found != record["sha256"]:
            raise PackageCorrupt(
                f"the guest image {image.name} is damaged",
                f"{image.directory / name}: SHA-256 is {found}, the manifest says {record['sha256']}",
                f"rm -r {image.directory}, then build it again: vnic image build {image.name}",
            )
