# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from images import apt
from images.errors import DiskError, DownloadError, PackageCorrupt, PackageListError
from images.host import Result
from images.sources import resolve_kernel


def view(host: Any, tmp_path: Path) -> apt.View:
    return apt.host_view(host, tmp_path)


def test_closure_has_dependencies_with_versions_and_checksums(host: Any, tmp_path: Path) -> None:
    found = {package.name: package for package in view(host, tmp_path).closure(["curl", "busybox-static"])}
    assert set(found) == {"curl", "busybox-static", "libcurl4", "libc6", "adduser"}
    assert found["busybox-static"].version == "1:1.35"
    assert len(found["curl"].sha256) == 64
    assert [name for name, package in found.items() if package.is_library] == ["libcurl4", "libc6"]


def test_closure_asks_with_an_empty_status_file(host: Any, tmp_path: Path) -> None:
    view(host, tmp_path).closure(["curl"])
    status = next(word for word in host.calls[0] if word.startswith("Dir::State::status="))
    assert Path(status.partition("=")[2]).read_bytes() == b""


def test_closure_without_lists_says_what_to_type(host: Any, tmp_path: Path) -> None:
    host.host_lists = False
    with pytest.raises(PackageListError) as caught:
        view(host, tmp_path).closure(["curl"])
    text = str(caught.value)
    assert "curl" in caught.value.fact
    assert "Unable to locate package" in text
    assert "apt-get update" in caught.value.remedy


def test_candidate_unknown_is_a_list_error(host: Any, tmp_path: Path) -> None:
    with pytest.raises(PackageListError, match="linux-image-none"):
        view(host, tmp_path).candidate("linux-image-none")


def test_resolve_kernel_follows_the_metapackage(host: Any, tmp_path: Path) -> None:
    found = resolve_kernel(view(host, tmp_path), "linux-image-cloud-amd64")
    assert [package.name for package in found] == ["linux-image-6.1.0-1-cloud-amd64"]


def test_resolve_kernel_named_outright_is_itself(host: Any, tmp_path: Path) -> None:
    found = resolve_kernel(view(host, tmp_path), "linux-image-6.1.0-1-cloud-amd64")
    assert [package.name for package in found] == ["linux-image-6.1.0-1-cloud-amd64"]


def test_resolve_kernel_split_package_collects_its_parts(host: Any, tmp_path: Path) -> None:
    parts = ["linux-image-7.3-cloud", "linux-binary-7.3-cloud", "linux-modules-7.3-cloud"]
    host.add("linux-image-new", {}, depends=f"linux-base-cloud (= 1), {parts[0]} (= 1)")
    host.add(parts[0], {}, depends=f"dracut | initramfs-tools, {parts[1]} (= 1), {parts[2]} (= 1)")
    host.add(parts[1], {}, depends="linux-base")
    host.add(parts[2], {}, depends="kmod, linux-base")
    found = resolve_kernel(view(host, tmp_path), "linux-image-new")
    assert sorted(package.name for package in found) == sorted(parts)


def test_download_several_come_in_one_call(host: Any, tmp_path: Path) -> None:
    it = view(host, tmp_path)
    packages = it.closure(["curl"])
    files = it.download(packages, tmp_path)
    assert set(files) == {package.name for package in packages}
    assert host.count("apt-get", "download") == 1


def test_download_without_network_shows_apts_words(host: Any, tmp_path: Path) -> None:
    it = view(host, tmp_path)
    packages = it.closure(["curl"])
    host.network = False
    with pytest.raises(DownloadError) as caught:
        it.download(packages, tmp_path)
    assert "Could not resolve" in caught.value.evidence
    assert "4 more" not in caught.value.fact
    assert "and 3 more" in caught.value.fact


def test_download_full_disk_met_by_apt_is_a_disk_error(host: Any, tmp_path: Path) -> None:
    it = view(host, tmp_path)
    packages = it.closure(["curl"])
    host.network, host.download_error = False, "E: write, (28: No space left on device)"
    cache = tmp_path.parent
    with pytest.raises(DiskError, match="no space left") as caught:
        it.download(packages, tmp_path, cache)
    assert caught.value.fact.endswith(f" {cache}")  # the scratch directory is gone when this is read


def test_download_other_bytes_than_listed_are_refused(host: Any, tmp_path: Path) -> None:
    it = view(host, tmp_path)
    package = dataclasses.replace(it.candidate("curl"), sha256="0" * 64)
    with pytest.raises(PackageCorrupt, match="damaged"):
        it.download([package], tmp_path)


def test_mirror_is_the_archive_and_not_the_security_one(host: Any) -> None:
    host.targets = (
        "http://m.example/debian-security/|bookworm-security|main\nhttp://m.example/debian/|bookworm|main\n"
    )
    assert apt.mirror(host) == "http://m.example/debian/"


def test_mirror_none_configured_is_a_list_error(host: Any) -> None:
    host.targets = "https://packages.example/apt/|stable|main\n"
    with pytest.raises(PackageListError, match="no mirror") as caught:
        apt.mirror(host)
    assert "packages.example" in caught.value.evidence


def test_suite_view_source_is_the_hosts_mirror_and_nothing_of_the_host_is_written(
    host: Any, tmp_path: Path
) -> None:
    it = apt.suite_view(host, tmp_path, "trixie-backports")
    source = (tmp_path / "sources.list").read_text()
    assert source.endswith("http://mirror.example/debian/ trixie-backports main\n")
    places = [word.partition("=")[2] for word in it.options if word.startswith(("Dir::State", "Dir::Cache"))]
    assert len(places) == 5
    assert all(place.startswith(str(tmp_path)) for place in places)


def test_update_partial_failure_is_reported(tmp_path: Path) -> None:
    it = apt.private_view(lambda *_: Result(0, b"", "W: Failed to fetch x\n"), tmp_path)
    assert it.update() == "W: Failed to fetch x"


def test_update_without_complaint_is_empty(host: Any, tmp_path: Path) -> None:
    it = apt.private_view(host, tmp_path)
    assert not it.has_lists()
    assert it.update() == ""
    assert it.has_lists()
