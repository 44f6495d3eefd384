# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Callable

import pytest

from images.errors import ContentError
from images.initramfs import ROOTFS, needed_libraries, our_files
from images.tree import Tree

Maker = Callable[..., bytes]
LIB = "usr/lib/x86_64-linux-gnu"


def test_needed_libraries_follows_every_level_and_link(elf: Maker) -> None:
    trees = {
        "liba": Tree(
            {f"{LIB}/liba.so.1.5": elf(["libb.so.2", "libc.so.6"])}, {f"{LIB}/liba.so.1": "liba.so.1.5"}
        ),
        "libb": Tree({f"{LIB}/libb.so.2": elf(["libc.so.6"])}),
        "libc": Tree({"lib/x86_64-linux-gnu/libc.so.6": elf()}),
    }
    found = needed_libraries(trees, [elf(["liba.so.1"])])
    assert {name: package for name, (package, _) in found.items()} == {
        "liba.so.1": "liba",
        "libb.so.2": "libb",
        "libc.so.6": "libc",
    }


def test_needed_libraries_interpreter_is_there_once_by_its_path(elf: Maker) -> None:
    ld = elf(soname="ld-linux.so.2")
    tree = Tree({"lib64/ld-linux.so.2": ld, "lib/x86_64-linux-gnu/libc.so.6": elf(["ld-linux.so.2"])})
    found = needed_libraries({"libc6": tree}, [elf(["libc.so.6"], interpreter="/lib64/ld-linux.so.2")])
    assert sorted(found) == ["/lib64/ld-linux.so.2", "libc.so.6"]


def test_needed_libraries_script_and_static_program_need_nothing(elf: Maker) -> None:
    assert needed_libraries({}, [b"#!/bin/sh\n", elf()]) == {}


def test_needed_libraries_without_a_provider_names_the_library(elf: Maker) -> None:
    with pytest.raises(ContentError) as caught:
        needed_libraries({"libc6": Tree()}, [elf(["libmissing.so.9"])])
    assert "libmissing.so.9" in caught.value.fact
    assert caught.value.exit_code == 3


def test_our_files_are_all_there_is_in_rootfs() -> None:
    assert sorted(our_files()) == sorted(path.name for path in ROOTFS.iterdir() if path.is_file())


def test_init_prompt_and_ready_line_are_what_programs_wait_for() -> None:
    files = our_files()
    assert b"PS1='vnic# '" in files["shrc"]
    assert b'echo "vnic-guest-ready uptime=$up dhcp=$dhcp"' in files["init"]
