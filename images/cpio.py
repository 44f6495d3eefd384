# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives in the "newc" cpio format, which the kernel unpacks as its initial root file system.

The format is Documentation/driver-api/early-userspace/buffer-format.rst in Linux: a 110-byte header of
hexadecimal fields, the name, the data, each padded to four bytes.  Same entries in, same bytes out: entries are
sorted by name, time stamps are zero, owners are root, and inode numbers count up.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAGIC = b"070701"
HEADER_SIZE = 110
TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: `path` without a leading slash, `mode` with its type bits, `data` or the link's target."""

    path: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, stat.S_IFDIR | mode)


def regular(path: str, data: bytes, mode: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | mode, data)


def symlink(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def char_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    return Entry(path, stat.S_IFCHR | mode, rdev=(major, minor))


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """The entries sorted by path, with every directory on the way; a path given twice is a ValueError."""
    known: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in known:
            raise ValueError(f"{entry.path} is in the archive twice")
        known[entry.path] = entry
    for path in list(known):
        for parent in _parents(path):
            known.setdefault(parent, directory(parent))
    return [known[path] for path in sorted(known)]


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def archive(entries: Iterable[Entry]) -> bytes:
    """The uncompressed archive, padded to 512 bytes as cpio(1) does."""
    out = bytearray()
    for number, entry in enumerate(with_parents(entries), start=1):
        out += _record(entry, number)
    out += _record(Entry(TRAILER, 0), 0)
    out += bytes(-len(out) % 512)
    return bytes(out)


def _record(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.rdev, len(name), 0)
    head = MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)


def read(data: bytes) -> Iterator[Entry]:
    """The entries of an uncompressed archive, in order; ValueError where it is none."""
    at = 0
    while True:
        if data[at : at + 6] != MAGIC or len(data) < at + HEADER_SIZE:
            raise ValueError(f"no newc header at byte {at}")
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = data[at + HEADER_SIZE : at + HEADER_SIZE + name_size - 1].decode()
        start = _aligned(at + HEADER_SIZE + name_size)
        if name == TRAILER:
            return
        if start + size > len(data):
            raise ValueError(f"{name} ends beyond the archive")
        yield Entry(name, fields[1], data[start : start + size], (fields[9], fields[10]))
        at = _aligned(start + size)


def _aligned(offset: int) -> int:
    return offset + (-offset % 4)
