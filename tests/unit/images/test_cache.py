# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from images import cache as module
from images.apt import Package
from images.cache import Cache, Image, Lock, cache_root, image_key, verify
from images.errors import DiskError, PackageCorrupt
from images.recipe import Recipe

KERNEL = Package("linux-image-6.1", "6.1-1", "kernel", "a" * 64, 7, "pool/k.deb")
LOCK_PACKAGES = (Package("curl", "8", "web", "b" * 64, 9, "pool/c.deb"),)
KEY = "0123456789abcdef" * 4


def lock_of(recipe: Recipe) -> Lock:
    return Lock(recipe.digest, (KERNEL,), LOCK_PACKAGES)


def files(key: str = KEY, name: str = "unit") -> dict[str, bytes]:
    content = {"vmlinuz": b"kernel", "initramfs.cpio": b"archive"}
    digest = {"vmlinuz": "1" * 64, "initramfs.cpio": "2" * 64}
    manifest = {
        "recipe": name,
        "key": key,
        "kernel": "vmlinuz",
        "initramfs": "initramfs.cpio",
        "files": {file: {"size": len(data), "sha256": digest[file]} for file, data in content.items()},
    }
    return {**content, "manifest.json": json.dumps(manifest).encode()}


def publish(cache: Cache, key: str = KEY) -> Image:
    with cache.exclusive("unit"), cache.work_dir("unit") as work:
        return cache.publish("unit", key, work, files(key))


def test_key_is_stable_and_changes_with_every_input(
    fake_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_of(fake_recipe)
    key = image_key(fake_recipe, lock)
    assert key == image_key(fake_recipe, lock_of(fake_recipe))
    newer = dataclasses.replace(KERNEL, version="6.1-2")
    rebuilt = dataclasses.replace(KERNEL, sha256="c" * 64)
    keys = {
        key,
        image_key(fake_recipe, dataclasses.replace(lock, kernel=(newer,))),
        image_key(fake_recipe, dataclasses.replace(lock, kernel=(rebuilt,))),
        image_key(fake_recipe, dataclasses.replace(lock, packages=())),
        image_key(dataclasses.replace(fake_recipe, digest="x"), lock),
        image_key(dataclasses.replace(fake_recipe, name="other"), lock),
        image_key(fake_recipe, lock, builder_version=99),
    }
    monkeypatch.setattr(module, "our_files", lambda: {"init": b"another"})
    keys.add(image_key(fake_recipe, lock))
    assert len(keys) == 8


def test_key_order_of_packages_does_not_matter(fake_recipe: Recipe) -> None:
    other = dataclasses.replace(KERNEL, name="another")
    one = Lock(fake_recipe.digest, (KERNEL,), (*LOCK_PACKAGES, other))
    two = Lock(fake_recipe.digest, (KERNEL,), (other, *LOCK_PACKAGES))
    assert image_key(fake_recipe, one) == image_key(fake_recipe, two)


def test_lock_reads_back_what_was_written(fake_recipe: Recipe) -> None:
    assert Lock.from_json(lock_of(fake_recipe).to_json()) == lock_of(fake_recipe)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"recipe_digest": 1, "kernel": [{}], "packages": []}']
)
def test_read_lock_damaged_file_is_no_lock(cache: Cache, fake_recipe: Recipe, text: str) -> None:
    cache.root.mkdir(parents=True)
    (cache.root / "unit.lock.json").write_text(text)
    assert cache.read_lock(fake_recipe) is None


def test_read_lock_of_a_changed_recipe_is_no_lock(cache: Cache, fake_recipe: Recipe) -> None:
    with cache.exclusive("unit"), cache.work_dir("unit") as work:
        cache.write_lock(fake_recipe, lock_of(fake_recipe), work)
    assert cache.read_lock(fake_recipe) == lock_of(fake_recipe)
    assert cache.read_lock(dataclasses.replace(fake_recipe, digest="changed")) is None


def test_find_needs_the_lock_and_the_image(cache: Cache, fake_recipe: Recipe) -> None:
    lock = lock_of(fake_recipe)
    assert cache.find(fake_recipe) is None
    image = publish(cache, image_key(fake_recipe, lock))
    assert cache.find(fake_recipe) is None
    with cache.exclusive("unit"), cache.work_dir("unit") as work:
        cache.write_lock(fake_recipe, lock, work)
    assert cache.find(fake_recipe) == image


def test_publish_leaves_the_image_and_nothing_else(cache: Cache) -> None:
    image = publish(cache)
    assert sorted(path.name for path in cache.root.iterdir()) == ["unit-0123456789abcdef", "unit.flock"]
    assert image.kernel.read_bytes() == b"kernel"
    assert image.initramfs.read_bytes() == b"archive"
    assert cache.images() == [image]


def test_publish_over_a_broken_directory_replaces_it(cache: Cache) -> None:
    image = publish(cache)
    image.kernel.unlink()
    assert cache.images() == []
    assert publish(cache).kernel.read_bytes() == b"kernel"


@pytest.mark.parametrize("failing", ["vmlinuz", "initramfs.cpio", "manifest.json"])
def test_publish_full_disk_leaves_nothing(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    real = module._write_durably

    def write(path: Path, data: bytes) -> None:
        if path.name == failing:
            path.write_bytes(data[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(module, "_write_durably", write)
    with pytest.raises(DiskError) as caught:
        publish(cache)
    assert [path.name for path in cache.root.iterdir()] == ["unit.flock"]
    assert caught.value.exit_code == 3
    assert "no space left" in caught.value.fact
    assert failing in caught.value.evidence
    assert "XDG_CACHE_HOME" in caught.value.remedy


def test_exclusive_cache_that_cannot_be_made_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DiskError, match="cannot be written"),
        Cache(tmp_path / "file" / "images").exclusive("unit"),
    ):
        pytest.fail("entered")


def test_exclusive_second_holder_waits_for_the_first(cache: Cache) -> None:
    order: list[str] = []

    def second() -> None:
        with cache.exclusive("unit") as waited:
            order.append("second waited" if waited else "second did not wait")

    with cache.exclusive("unit") as waited:
        assert not waited
        thread = threading.Thread(target=second)
        thread.start()
        with (cache.root / "unit.flock").open() as probe, pytest.raises(BlockingIOError):
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        order.append("first")
    thread.join(5)
    assert order[0] == "first"
    assert order[1].startswith("second")


def test_exclusive_other_recipes_do_not_wait(cache: Cache) -> None:
    with cache.exclusive("unit"), cache.exclusive("other") as waited:
        assert not waited


def test_work_dir_removes_leftovers_of_killed_builds_of_its_recipe_only(cache: Cache) -> None:
    for name in (".work-unit-abcdefgh", ".work-other-abcdefgh"):
        (cache.root / name / "image").mkdir(parents=True)
        (cache.root / name / "image" / "vmlinuz").write_bytes(b"half")
    with cache.exclusive("unit"), cache.work_dir("unit") as work:
        assert work.is_dir()
        assert not (cache.root / ".work-unit-abcdefgh").exists()
    assert not work.exists()
    assert (cache.root / ".work-other-abcdefgh").exists()


def test_work_dir_is_gone_after_an_interrupt(cache: Cache) -> None:
    def interrupted() -> None:
        with cache.exclusive("unit"), cache.work_dir("unit") as work:
            (work / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in cache.root.iterdir()] == ["unit.flock"]


def test_verify_file_with_another_checksum_is_named(cache: Cache) -> None:
    image = publish(cache)
    with pytest.raises(PackageCorrupt, match="unit is damaged") as caught:
        verify(image)
    assert "vmlinuz" in caught.value.evidence


def test_prune_keeps_what_is_asked_for_and_drops_packages(cache: Cache) -> None:
    old, new = publish(cache, "a" * 64), publish(cache, "b" * 64)
    (cache.root / "packages").mkdir()
    gone = cache.prune({new.directory}, ["unit"])
    assert gone == [old.directory, cache.root / "packages"]
    assert cache.images() == [new]
    assert sorted(path.name for path in cache.root.iterdir()) == [new.directory.name, "unit.flock"]


@pytest.mark.parametrize(("value", "home"), [("", ".cache"), ("relative/path", ".cache"), ("{tmp}/x", "x")])
def test_cache_root_follows_xdg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, home: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value.format(tmp=tmp_path))
    assert cache_root() == tmp_path / home / "vnic" / "images"


def test_root_of_a_user_without_home_is_a_disk_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DiskError, match="no home directory") as caught:
        cache_root()
    assert "XDG_CACHE_HOME" in caught.value.remedy
