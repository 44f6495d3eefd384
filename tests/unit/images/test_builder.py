# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import hashlib
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from images import cpio, recipe
from images.builder import Builder
from images.cache import Cache, Image, verify
from images.errors import (
    CompileError,
    ContentError,
    DiskError,
    DownloadError,
    HostToolMissing,
    ImageError,
    NoNetwork,
    PackageCorrupt,
    PackageListError,
)
from images.recipe import Recipe


def build(host: Any, cache: Cache, which: Recipe, refresh: bool = False) -> Image:
    return Builder(which, cache, host, machine="x86_64").build(refresh)


def visible(cache: Cache) -> list[str]:
    """What a build left, without the packages and locks that may stay."""
    stays = {"packages", "unit.flock"}
    return sorted(path.name for path in cache.root.iterdir() if path.name not in stays)


def content(image: Image) -> dict[str, bytes]:
    return {entry.path: entry.data for entry in cpio.read(image.initramfs.read_bytes())}


def test_build_has_kernel_programs_libraries_modules_and_init(
    host: Any, cache: Cache, fake_recipe: Recipe
) -> None:
    image = build(host, cache, fake_recipe)
    found = content(image)
    assert image.kernel.read_bytes() == b"the kernel"
    assert {
        "init",
        "bin/busybox",
        "bin/sh",
        "usr/bin/curl",
        "usr/bin/vnicbench",
        "usr/bin/vnicsock",
        "lib64/ld.so.2",
    } <= set(found)
    assert {"lib/x86_64-linux-gnu/libcurl.so.4", "lib/x86_64-linux-gnu/libc.so.6"} <= set(found)
    base = "/lib/modules/6.1.0-1-cloud-amd64/kernel"
    assert found["etc/modules.load"].decode().split() == [f"{base}/virtio.ko", f"{base}/virtio_net.ko"]
    assert f"{base[1:]}/tcp_diag.ko" in found
    assert not any("adduser" in path for path in found)


def test_build_applet_links_do_not_hide_real_programs(host: Any, cache: Cache, fake_recipe: Recipe) -> None:
    found = content(build(host, cache, fake_recipe))
    assert found["bin/ping"] == b"sh"
    assert "bin/curl" not in found


def test_build_manifest_records_packages_files_and_tools(
    host: Any, cache: Cache, fake_recipe: Recipe
) -> None:
    image = build(host, cache, fake_recipe)
    packages = {package["name"]: package for package in image.manifest["packages"]}
    assert packages["busybox-static"]["version"] == "1:1.35"
    assert packages["curl"]["sha256"] == hashlib.sha256(host.debs["curl"].content).hexdigest()
    assert {"libcurl4", "libc6", "linux-image-6.1.0-1-cloud-amd64"} <= set(packages)
    assert "adduser" not in packages
    assert set(image.manifest["clients"]) == {
        f"/usr/bin/{name}" for name in ("vnicbench", "vnicflood", "vnicsock")
    }
    assert (
        image.manifest["clients"]["/usr/bin/vnicbench"]["sha256"]
        == hashlib.sha256(b"static client").hexdigest()
    )
    assert image.manifest["tools"]["cc"] == "cc 12"
    assert image.manifest["modules"] == ["virtio", "virtio_net"]
    assert image.manifest["libraries"]["libcurl.so.4"] == "libcurl4"
    verify(image)


def test_build_same_inputs_elsewhere_give_the_same_bytes(
    host: Any, tmp_path: Path, fake_recipe: Recipe
) -> None:
    one, two = (build(host, Cache(tmp_path / name), fake_recipe) for name in "ab")
    assert one.key == two.key
    assert one.initramfs.read_bytes() == two.initramfs.read_bytes()
    assert one.manifest == two.manifest


def test_build_second_time_asks_nobody(host: Any, cache: Cache, fake_recipe: Recipe) -> None:
    first = build(host, cache, fake_recipe)
    host.calls.clear()
    assert build(host, cache, fake_recipe) == first
    assert host.calls == []


def test_build_changed_init_needs_no_network(
    host: Any, cache: Cache, fake_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(host, cache, fake_recipe)
    host.network = host.host_lists = False
    monkeypatch.setattr("images.cache.BUILDER_VERSION", 99)
    monkeypatch.setattr("images.cache.image_key", lambda *_: "f" * 64)
    monkeypatch.setattr("images.builder.image_key", lambda *_: "f" * 64)
    second = build(host, cache, fake_recipe)
    assert second.directory != first.directory
    assert host.count("apt-get", "download") == 1


def test_build_changed_recipe_is_resolved_again(host: Any, cache: Cache, recipe_text: bytes) -> None:
    first = build(host, cache, recipe.parse("unit", recipe_text))
    second = build(host, cache, recipe.parse("unit", recipe_text + b"# changed\n"))
    assert first.key != second.key
    assert host.count("apt-get", "install") == 2


def test_build_refresh_takes_newer_versions_from_fresh_lists(
    host: Any, cache: Cache, fake_recipe: Recipe
) -> None:
    first = build(host, cache, fake_recipe)
    host.add("curl", {"usr/bin/curl": b"#!new"}, version="2.0", depends="libc6")
    assert build(host, cache, fake_recipe) == first
    second = build(host, cache, fake_recipe, refresh=True)
    assert content(second)["usr/bin/curl"] == b"#!new"
    assert host.count("apt-get", "update") == 1
    assert Cache(cache.root).find(fake_recipe) == second


def test_build_refresh_without_newer_versions_keeps_the_image(
    host: Any, cache: Cache, fake_recipe: Recipe
) -> None:
    first = build(host, cache, fake_recipe)
    assert build(host, cache, fake_recipe, refresh=True) == first
    assert host.count("cc") == 4  # three compilations and one --version


def test_build_host_without_lists_fetches_its_own(host: Any, cache: Cache, fake_recipe: Recipe) -> None:
    host.host_lists = False
    lines: list[str] = []
    image = Builder(fake_recipe, cache, host, lines.append, machine="x86_64").build()
    assert image.kernel.exists()
    assert host.count("apt-get", "update") == 1
    assert "fetching fresh lists of the host's sources" in lines


def test_build_no_lists_and_no_network_is_one_clear_error(
    host: Any, cache: Cache, fake_recipe: Recipe
) -> None:
    host.host_lists = host.network = False
    with pytest.raises(NoNetwork) as caught:
        build(host, cache, fake_recipe)
    assert caught.value.exit_code == 3
    assert "Could not resolve" in caught.value.evidence
    assert "vnic image build" in caught.value.remedy
    assert host.count("apt-get", "update") == 1
    assert visible(cache) == []


def test_build_lists_but_no_network_is_the_same_error(host: Any, cache: Cache, fake_recipe: Recipe) -> None:
    host.network = False
    with pytest.raises(NoNetwork):
        build(host, cache, fake_recipe)
    assert host.count("apt-get", "update") == 1
    assert visible(cache) == []


def test_build_version_gone_from_the_mirror_is_resolved_again(
    host: Any, cache: Cache, fake_recipe: Recipe
) -> None:
    def moved_on(argv: list[str], cwd: Path | None = None) -> Any:
        # The list was read, then the mirror replaced curl before it was downloaded.
        if "download" in argv and host.count("apt-get", "download") == 0:
            host.add("curl", {"usr/bin/curl": b"#!v2"}, version="2.0", depends="libc6")
        return host(argv, cwd)

    image = build(moved_on, cache, fake_recipe)
    assert content(image)["usr/bin/curl"] == b"#!v2"


def test_build_package_missing_from_the_mirror_is_a_download_error(
    host: Any, cache: Cache, fake_recipe: Recipe
) -> None:
    host.mirror_lacks, host.download_error = {"curl"}, "E: Failed to fetch http://m/curl.deb 404 Not Found"
    with pytest.raises(DownloadError, match="curl") as caught:
        build(host, cache, fake_recipe)
    assert "404 Not Found" in caught.value.evidence
    assert visible(cache) == []


def test_build_unknown_package_is_a_list_error(host: Any, cache: Cache, recipe_text: bytes) -> None:
    which = recipe.parse("unit", recipe_text.replace(b"curl: ", b"curlew: "))
    with pytest.raises(PackageListError, match="curlew"):
        build(host, cache, which)


def test_build_damaged_package_in_the_cache_is_fetched_again(
    host: Any, cache: Cache, fake_recipe: Recipe
) -> None:
    image = build(host, cache, fake_recipe)
    for deb in (cache.root / "packages").iterdir():
        deb.write_bytes(deb.read_bytes()[:-1])
    image.kernel.unlink()
    again = build(host, cache, fake_recipe)
    assert again.key == image.key
    verify(again)


def test_build_suite_gives_the_kernel_and_never_the_programs(
    host: Any, cache: Cache, recipe_text: bytes
) -> None:
    which = recipe.parse("unit", recipe_text.replace(b'suite = ""', b'suite = "trixie"'))
    build(host, cache, which)
    with_suite = [call for call in host.calls if any("Dir::Etc::SourceList=" in word for word in call)]
    asked = {word.partition("=")[0] for call in with_suite for word in call if not word.startswith("-")}
    assert "linux-image-cloud-amd64" in asked
    assert "curl" not in asked


@pytest.mark.parametrize(
    ("complaint", "kind", "says"),
    [
        ("vnicbench.c:25:10: fatal error: arpa/inet.h: No such file", CompileError, "libc6-dev"),
        ("/usr/bin/ld: final link failed: No space left on device", DiskError, "XDG_CACHE_HOME"),
    ],
)
def test_build_compiler_failure_leaves_nothing(
    host: Any, cache: Cache, fake_recipe: Recipe, complaint: str, kind: type[ImageError], says: str
) -> None:
    host.cc_error = complaint
    with pytest.raises(kind) as caught:
        build(host, cache, fake_recipe)
    assert says in caught.value.remedy
    assert visible(cache) == []


def test_build_kernel_package_without_a_kernel_is_named(host: Any, cache: Cache, fake_recipe: Recipe) -> None:
    host.add("linux-image-6.1.0-1-cloud-amd64", {"usr/share/doc/x": b""}, section="kernel")
    with pytest.raises(ContentError, match=r"linux-image-6\.1\.0-1"):
        build(host, cache, fake_recipe)


def test_build_program_that_moved_is_named(host: Any, cache: Cache, recipe_text: bytes) -> None:
    which = recipe.parse("unit", recipe_text.replace(b"usr/bin/curl", b"opt/curl"))
    with pytest.raises(ContentError, match="curl has no file opt/curl"):
        build(host, cache, which)
    assert visible(cache) == []


def test_build_empty_package_file_is_corrupt(host: Any, cache: Cache, fake_recipe: Recipe) -> None:
    host.debs["curl"].content = b""
    with pytest.raises(PackageCorrupt):
        build(host, cache, fake_recipe)


def test_build_on_another_processor_is_refused(host: Any, cache: Cache, fake_recipe: Recipe) -> None:
    with pytest.raises(HostToolMissing, match="x86-64"):
        Builder(fake_recipe, cache, host, machine="aarch64").build()
    assert host.calls == []


def _child(pipe: Connection, host: Any, cache: Cache, which: Recipe) -> None:
    pipe.send("started")
    image = build(host, cache, which)
    pipe.send((str(image.directory), len(host.calls)))


def test_build_two_processes_at_once_build_once(host: Any, cache: Cache, fake_recipe: Recipe) -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_child, args=(there, host, cache, fake_recipe))

    def run(argv: list[str], cwd: Path | None = None) -> Any:
        # The other process begins while this build holds the lock, and goes on for the rest of it.
        if not child.pid:
            child.start()
            assert here.recv() == "started"
        return host(argv, cwd)

    image = build(run, cache, fake_recipe)
    assert here.poll(10)
    assert here.recv() == (str(image.directory), 0)
    child.join(10)
    assert child.exitcode == 0
    assert visible(cache) == [image.directory.name, "unit.lock.json"]
