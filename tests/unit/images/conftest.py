# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian host that exists in memory only: apt, dpkg-deb and cc as one scripted runner, and hand-made ELF files."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from images import recipe
from images.cache import Cache
from images.host import Result

RECIPE = b"""
description = "for tests"
[kernel]
package = "linux-image-cloud-amd64"
suite = ""
modules = ["virtio_net", "tcp_diag"]
load = ["virtio_net"]
[programs]
busybox = "busybox-static: bin/busybox"
sh = "busybox: bin/busybox"
curl = "curl: usr/bin/curl"
"""


def make_elf(
    needed: Sequence[str] = (), soname: str = "", interpreter: str = "", modinfo: Sequence[str] = ()
) -> bytes:
    """A 64-bit ELF file with the dynamic section and the .modinfo that were asked for, and nothing else."""
    strings = bytearray(b"\0")

    def string(text: str) -> int:
        at = len(strings)
        strings.extend(text.encode() + b"\0")
        return at

    tags = [(1, string(name)) for name in needed] + ([(14, string(soname))] if soname else [])
    base, address = 64 + 3 * 56, 0x400000
    tags += [(5, address), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in tags)
    interp = interpreter.encode() + b"\0"
    info = b"".join(item.encode() + b"\0" for item in modinfo)
    names = b"\0.modinfo\0.shstrtab\0"
    at_dynamic = base + len(strings)
    at_interp = at_dynamic + len(dynamic)
    at_info = at_interp + len(interp)
    at_names = at_info + len(info)
    at_sections = at_names + len(names)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0, 64, at_sections, 0, 64, 56, 3, 64, 3, 2)
    segments = [
        struct.pack("<IIQQQQQQ", 1, 4, base, address, address, len(strings), len(strings), 1),
        struct.pack("<IIQQQQQQ", 2 if needed or soname else 0, 4, at_dynamic, 0, 0, len(dynamic), 0, 8),
        struct.pack("<IIQQQQQQ", 3 if interpreter else 0, 4, at_interp, 0, 0, len(interp), 0, 1),
    ]
    sections = [
        bytes(64),
        struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, at_info, len(info), 0, 0, 1, 0),
        struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, at_names, len(names), 0, 0, 1, 0),
    ]
    return b"".join([header, *segments, bytes(strings), dynamic, interp, info, names, *sections])


def make_tar(files: dict[str, bytes | str]) -> bytes:
    """A package's file system; a str is a symbolic link's target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"./{path}")
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@dataclass
class FakeDeb:
    name: str
    version: str
    section: str
    depends: str
    content: bytes

    @property
    def file(self) -> str:
        return f"{self.name}_{self.version.replace(':', '%3a')}_amd64.deb"

    @property
    def record(self) -> str:
        return (
            f"Package: {self.name}\nVersion: {self.version}\nSection: {self.section}\n"
            f"Depends: {self.depends}\nFilename: pool/{self.file}\nSize: {len(self.content)}\n"
            f"SHA256: {hashlib.sha256(self.content).hexdigest()}\n"
        )


@dataclass
class FakeHost:
    """Callable as images.host.run is; the fields say what the host and the network can do."""

    debs: dict[str, FakeDeb] = field(default_factory=dict)
    host_lists: bool = True
    network: bool = True
    mirror_lacks: set[str] = field(default_factory=set)
    cc_error: str = ""
    download_error: str = "Err:1 Could not resolve 'deb.example'"
    targets: str = (
        "http://mirror.example/debian/|bookworm|main\nhttp://mirror.example/debian-security/|x|main\n"
    )
    calls: list[list[str]] = field(default_factory=list)

    def add(
        self,
        name: str,
        files: dict[str, bytes | str],
        version: str = "1.0",
        section: str = "net",
        depends: str = "",
    ) -> None:
        self.debs[name] = FakeDeb(name, version, section, depends, make_tar(files))

    def __call__(self, argv: Sequence[str], cwd: Path | None = None) -> Result:
        self.calls.append(list(argv))
        options = [argv[i + 1] for i in range(len(argv) - 1) if argv[i] == "-o"]
        words = list(argv)
        if argv[0].startswith("apt-"):
            words = [w for i, w in enumerate(argv) if w != "-o" and (i == 0 or argv[i - 1] != "-o")]
        state = next((Path(o.partition("=")[2]) for o in options if o.startswith("Dir::State=")), None)
        program = Path(words[0]).name
        handler: Callable[..., Result] = getattr(self, "_" + program.replace("-", "_"))
        return handler(words[1:], cwd, state)

    def count(self, *words: str) -> int:
        """How many calls had all of these words."""
        return sum(set(words) <= {*call, Path(call[0]).name} for call in self.calls)

    def _knows(self, state: Path | None) -> bool:
        return self.host_lists if state is None else (state / "lists/x_Packages").exists()

    def _apt_get(self, words: list[str], cwd: Path | None, state: Path | None) -> Result:
        names = [word.partition("=")[0] for word in words[1:] if not word.startswith("-")]
        if words[0] == "update":
            assert state is not None, "the host's own lists must never be written"
            if not self.network:
                return Result(0, b"", "W: Failed to fetch http://mirror.example: Could not resolve")
            (state / "lists/x_Packages").touch()
            return Result(0, b"", "")
        if words[0] == "indextargets":
            listed = f"{state}/lists/x_Packages\n" if state else self.targets
            return Result(0, listed.encode(), "")
        if not self._knows(state) or any(name not in self.debs for name in names):
            return Result(100, b"", f"E: Unable to locate package {names[0]}")
        if words[0] == "install":
            wanted = self._closure(names)
            text = "".join(f"'http://m/{d.file}' {d.file} {len(d.content)} MD5Sum:0\n" for d in wanted)
            return Result(0, text.encode(), "")
        assert words[0] == "download"
        if not self.network or self.mirror_lacks & set(names):
            return Result(100, b"", self.download_error)
        assert cwd is not None
        for word in words[2:]:
            name, _, version = word.partition("=")
            if self.debs[name].version != version:
                return Result(100, b"", f"E: Version '{version}' for '{name}' was not found")
            (cwd / self.debs[name].file).write_bytes(self.debs[name].content)
        return Result(0, b"", "")

    def _closure(self, names: list[str]) -> list[FakeDeb]:
        found: dict[str, FakeDeb] = {}
        waiting = list(names)
        while waiting:
            deb = self.debs[waiting.pop()]
            found[deb.name] = deb
            waiting += [
                d.split()[0] for d in deb.depends.split(",") if d.strip() and d.split()[0] not in found
            ]
        return list(found.values())

    def _apt_cache(self, words: list[str], _: Path | None, state: Path | None) -> Result:
        pairs = [word.partition("=") for word in words[1:] if not word.startswith("-")]
        known = [self.debs[name] for name, _, _ in pairs if name in self.debs] if self._knows(state) else []
        matching = [d for d, (_, _, version) in zip(known, pairs, strict=False) if version in ("", d.version)]
        if not matching:
            return Result(100, b"", "E: No packages found")
        return Result(0, "\n".join(deb.record for deb in matching).encode(), "")

    def _dpkg_deb(self, words: list[str], *_: object) -> Result:
        content = Path(words[1]).read_bytes()
        return (
            Result(0, content, "") if content else Result(2, b"", "dpkg-deb: error: unexpected end of file")
        )

    def _cc(self, words: list[str], *_: object) -> Result:
        if words == ["--version"]:
            return Result(0, b"cc 12\nmore\n", "")
        if self.cc_error:
            return Result(1, b"", self.cc_error)
        Path(words[words.index("-o") + 1]).write_bytes(b"static client")
        return Result(0, b"", "")

    def _busybox(self, *_: object) -> Result:
        return Result(0, b"ls\nping\ncurl\n", "")


def debian() -> FakeHost:
    """A host on which the recipe RECIPE builds."""
    host = FakeHost()
    modules = "lib/modules/6.1.0-1-cloud-amd64"
    host.add(
        "linux-image-cloud-amd64", {}, depends="linux-image-6.1.0-1-cloud-amd64 (= 1.0)", section="kernel"
    )
    host.add(
        "linux-image-6.1.0-1-cloud-amd64",
        {
            "boot/vmlinuz-6.1.0-1-cloud-amd64": b"the kernel",
            f"{modules}/modules.builtin": b"kernel/net/inet_diag.ko\n",
            f"{modules}/kernel/virtio_net.ko": make_elf(modinfo=["depends=virtio"]),
            f"{modules}/kernel/virtio.ko": make_elf(modinfo=["depends="]),
            f"{modules}/kernel/tcp_diag.ko": make_elf(
                modinfo=["depends=inet_diag", "alias=net-pf-16-type-2-6"]
            ),
        },
        section="kernel",
        depends="kmod, linux-base (>= 4)",
    )
    host.add("busybox-static", {"bin/busybox": make_elf()}, version="1:1.35")
    host.add(
        "busybox", {"bin/busybox": make_elf(["libc.so.6"], interpreter="/lib64/ld.so.2")}, depends="libc6"
    )
    host.add("curl", {"usr/bin/curl": make_elf(["libcurl.so.4", "libc.so.6"])}, depends="libcurl4, adduser")
    libcurl = {
        "usr/lib/x86_64-linux-gnu/libcurl.so.4": "libcurl.so.4.8",
        "usr/lib/x86_64-linux-gnu/libcurl.so.4.8": make_elf(["libc.so.6"], "libcurl.so.4"),
    }
    host.add("libcurl4", libcurl, section="libs", depends="libc6 (>= 2.36)")
    libc = {
        "lib/x86_64-linux-gnu/libc.so.6": make_elf(["ld.so.2"], "libc.so.6"),
        "lib/x86_64-linux-gnu/ld.so.2": make_elf(soname="ld.so.2"),
        "lib64/ld.so.2": "/lib/x86_64-linux-gnu/ld.so.2",
    }
    host.add("libc6", libc, section="libs")
    host.add("adduser", {"usr/sbin/adduser": b"#!/usr/bin/perl"}, section="admin")
    return host


@pytest.fixture
def elf() -> Callable[..., bytes]:
    return make_elf


@pytest.fixture
def tar() -> Callable[..., bytes]:
    return make_tar


@pytest.fixture
def host() -> FakeHost:
    return debian()


@pytest.fixture
def fake_recipe() -> recipe.Recipe:
    return recipe.parse("unit", RECIPE)


@pytest.fixture
def recipe_text() -> bytes:
    return RECIPE


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
