# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import lzma
from collections.abc import Callable

import pytest

from images.errors import ContentError
from images.kmod import Modules, alias_file, dep_file

BASE = "lib/modules/6.1"
Maker = Callable[..., bytes]


def modules(elf: Maker, depends: dict[str, str], builtin: str = "") -> Modules:
    files = {f"{BASE}/kernel/{name}.ko": elf(modinfo=[f"depends={what}"]) for name, what in depends.items()}
    return Modules(BASE, files, builtin)


def names(found: Modules, *wanted: str) -> list[str]:
    return [module.name for module in found.in_load_order(wanted)]


def test_load_order_puts_dependencies_first_and_each_once(elf: Maker) -> None:
    found = modules(
        elf, {"net": "failover,virtio", "failover": "", "virtio": "ring", "ring": "", "mmio": "virtio"}
    )
    assert names(found, "mmio", "net") == ["ring", "virtio", "mmio", "failover", "net"]


def test_load_order_dash_and_underscore_are_one(elf: Maker) -> None:
    found = modules(elf, {"virtio-rng": "rng_core", "rng-core": ""})
    assert names(found, "virtio_rng") == ["rng_core", "virtio_rng"]


def test_load_order_leaves_out_what_is_built_in(elf: Maker) -> None:
    found = modules(elf, {"net": "virtio"}, builtin="kernel/drivers/virtio/virtio.ko\n")
    assert names(found, "net", "virtio") == ["net"]


def test_load_order_of_a_cycle_ends(elf: Maker) -> None:
    assert sorted(names(modules(elf, {"a": "b", "b": "a"}), "a")) == ["a", "b"]


def test_load_order_missing_module_is_named_with_the_kernel(elf: Maker) -> None:
    with pytest.raises(ContentError) as caught:
        names(modules(elf, {"net": "nowhere"}), "net")
    assert "6.1 has no module nowhere" in caught.value.fact


def test_get_xz_module_is_decompressed_and_renamed(elf: Maker) -> None:
    raw = elf(modinfo=["depends="])
    module = Modules(BASE, {f"{BASE}/kernel/a.ko.xz": lzma.compress(raw)}).get("a")
    assert module is not None
    assert (module.path, module.data) == ("kernel/a.ko", raw)


@pytest.mark.parametrize(("name", "data"), [("a.ko", b"no elf"), ("a.ko.xz", b"no xz")])
def test_get_damaged_module_is_a_content_error(name: str, data: bytes) -> None:
    with pytest.raises(ContentError, match="cannot be read"):
        Modules(BASE, {f"{BASE}/{name}": data}).get("a")


def test_dep_file_lists_everything_needed_nearest_first(elf: Maker) -> None:
    found = modules(elf, {"net": "virtio", "virtio": "ring", "ring": ""})
    chosen = found.in_load_order(["net"])
    assert dep_file(chosen, found).splitlines() == [
        "kernel/ring.ko:",
        "kernel/virtio.ko: kernel/ring.ko",
        "kernel/net.ko: kernel/virtio.ko kernel/ring.ko",
    ]


def test_alias_file_has_one_line_for_each_alias(elf: Maker) -> None:
    data = elf(modinfo=["depends=", "alias=net-pf-16-type-2-6", "alias=other"])
    found = Modules(BASE, {f"{BASE}/tcp_diag.ko": data})
    text = alias_file(found.in_load_order(["tcp_diag"]))
    assert text == "alias net-pf-16-type-2-6 tcp_diag\nalias other tcp_diag\n"
