# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from images import recipe
from images.errors import BadRecipe, UnknownRecipe


def test_names_default_comes_first_and_each_parses() -> None:
    names = recipe.names()
    assert names[0] == recipe.DEFAULT == "debian12"
    assert "debian-newer" in names
    for name in names:
        found = recipe.load(name)
        assert found.static_package in found.packages
        assert {"curl", "iperf3", "ss", "ip", "ethtool", "tcpdump", "nc"} <= {p.name for p in found.programs}
        assert found.load[-1] == "virtio_net"


def test_load_newer_differs_from_the_default_in_the_kernel_only() -> None:
    default, newer = recipe.load("debian12"), recipe.load("debian-newer")
    assert default.programs == newer.programs
    assert (default.suite, newer.suite) == ("", "trixie-backports")


@pytest.mark.parametrize("name", ["nosuch", "../debian12", "", "Debian12", "debian12.toml"])
def test_load_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(UnknownRecipe) as caught:
        recipe.load(name)
    assert caught.value.exit_code == 2
    assert "debian12, debian-newer" in str(caught.value)


def test_parse_digest_changes_with_any_byte(recipe_text: bytes) -> None:
    assert recipe.parse("a", recipe_text).digest != recipe.parse("a", recipe_text + b"\n").digest


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"[kernel]", b"[kernel", "TOMLDecodeError"),
        (b'description = "for tests"', b"", "description"),
        (b'load = ["virtio_net"]', b'load = ["virtio_blk"]', "virtio_blk"),
        (b'load = ["virtio_net"]', b'load = "virtio_net"', "list of strings"),
        (b'sh = "busybox: bin/busybox"', b"", "'sh'"),
        (b'"curl: usr/bin/curl"', b'"curl"', "path/in/it"),
        (b'"curl: usr/bin/curl"', b'"curl: /usr/bin/curl"', "path/in/it"),
    ],
)
def test_parse_mistake_is_named(recipe_text: bytes, old: bytes, new: bytes, why: str) -> None:
    assert old in recipe_text
    with pytest.raises(BadRecipe) as caught:
        recipe.parse("unit", recipe_text.replace(old, new))
    assert why in caught.value.evidence
