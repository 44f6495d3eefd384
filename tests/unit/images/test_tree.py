# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from images.errors import PackageCorrupt
from images.host import Result
from images.tree import Tree, unpack


def tree(files: dict[str, bytes], links: dict[str, str]) -> Tree:
    return Tree(dict(files), dict(links))


def test_find_follows_relative_and_absolute_links() -> None:
    found = tree(
        {"lib/x/libc.so.6.1": b"c"}, {"lib/x/libc.so.6": "libc.so.6.1", "lib64/ld.so": "/lib/x/libc.so.6"}
    )
    assert found.find("lib64/ld.so") == "lib/x/libc.so.6.1"


def test_find_sees_through_the_merged_usr_both_ways() -> None:
    assert tree({"usr/bin/ip": b""}, {}).find("bin/ip") == "usr/bin/ip"
    assert tree({"sbin/ip": b""}, {}).find("usr/sbin/ip") == "sbin/ip"


def test_find_dangling_link_and_loop_give_none() -> None:
    assert tree({}, {"bin/a": "b"}).find("bin/a") is None
    assert tree({}, {"bin/a": "b", "bin/b": "a"}).find("bin/a") is None


def test_unpack_takes_the_wanted_files_only(tar: Callable[..., bytes]) -> None:
    data = tar({"usr/bin/a": b"1", "usr/share/doc/a": b"2", "usr/bin/b": "a"})
    found = unpack(lambda *_: Result(0, data, ""), Path("a.deb"), lambda path: path.startswith("usr/bin/"))
    assert (found.files, found.links) == ({"usr/bin/a": b"1"}, {"usr/bin/b": "a"})


@pytest.mark.parametrize(
    "result", [Result(2, b"", "dpkg-deb: error: not a Debian archive"), Result(0, b"garbage" * 100, "")]
)
def test_unpack_damaged_package_is_named(result: Result) -> None:
    with pytest.raises(PackageCorrupt, match=r"a_1\.deb") as caught:
        unpack(lambda *_: result, Path("/x/a_1.deb"), lambda _: True)
    assert "remove /x/a_1.deb" in caught.value.remedy


def test_unpack_cut_off_archive_is_named(tar: Callable[..., bytes]) -> None:
    data = tar({"usr/bin/a": b"1" * 5000})[:2000]
    with pytest.raises(PackageCorrupt):
        unpack(lambda *_: Result(0, data, ""), Path("a.deb"), lambda _: True)
