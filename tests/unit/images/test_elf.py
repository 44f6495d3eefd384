# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from images.elf import Dynamic, NotElf, dynamic, is_elf, modinfo

Maker = Callable[..., bytes]


def test_dynamic_reads_needed_in_order_soname_and_interpreter(elf: Maker) -> None:
    data = elf(["libb.so.1", "liba.so.2"], "libself.so.3", "/lib64/ld-linux.so.2")
    assert dynamic(data) == Dynamic("/lib64/ld-linux.so.2", "libself.so.3", ("libb.so.1", "liba.so.2"))


def test_dynamic_of_a_static_program_is_empty(elf: Maker) -> None:
    assert dynamic(elf()) == Dynamic()


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)])
def test_dynamic_of_something_else_is_refused(data: bytes) -> None:
    assert not is_elf(data)
    with pytest.raises(NotElf):
        dynamic(data)


def test_dynamic_cut_anywhere_is_refused_or_shorter_and_never_another_error(elf: Maker) -> None:
    whole = elf(["libb.so.1"], "libself.so.3", "/lib64/ld.so")
    for size in range(6, 360):
        try:
            assert set(dynamic(whole[:size]).needed) <= {"libb.so.1"}
        except NotElf:
            continue


def test_modinfo_collects_all_values_of_a_key(elf: Maker) -> None:
    info = modinfo(elf(modinfo=["license=GPL", "alias=a", "alias=b", "depends=virtio,failover", "noequals"]))
    assert info == {"license": ["GPL"], "alias": ["a", "b"], "depends": ["virtio,failover"]}


def test_modinfo_without_the_section_is_refused() -> None:
    shell = shutil.which("sh")
    assert shell is not None
    with pytest.raises(NotElf, match=r"\.modinfo"):
        modinfo(Path(shell).read_bytes())


def test_dynamic_of_the_hosts_shell_needs_libc() -> None:
    shell = shutil.which("sh")
    assert shell is not None
    found = dynamic(Path(shell).read_bytes())
    assert any(name.startswith("libc.so") for name in found.needed)
    assert found.interpreter.startswith("/lib")
