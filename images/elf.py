# SPDX-License-Identifier: GPL-2.0-or-later
"""The little of ELF that an image needs: which libraries a program wants, which modules a module wants.

Structures and constants are those of the System V ABI (gABI 4.1, chapters 4 and 5) for 64-bit little-endian files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_DYN = struct.Struct("<qQ")

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SONAME = 0, 1, 5, 14


class NotElf(ValueError):
    """The bytes are no 64-bit little-endian ELF file, or end too early."""


@dataclass(frozen=True, slots=True)
class Dynamic:
    """What the dynamic section asks for; all empty for a static program."""

    interpreter: str = ""
    soname: str = ""
    needed: tuple[str, ...] = ()


def is_elf(data: bytes) -> bool:
    return data[:6] == b"\x7fELF\x02\x01"


def dynamic(data: bytes) -> Dynamic:
    """PT_INTERP, DT_SONAME and the DT_NEEDED list in link order; NotElf on damaged input."""
    try:
        return _dynamic(data)
    except struct.error as error:
        raise NotElf(f"truncated ELF file: {error}") from None


def _dynamic(data: bytes) -> Dynamic:
    segments = list(_segments(data))
    entries = [
        pair for kind, off, _, size in segments if kind == PT_DYNAMIC for pair in _tags(data, off, size)
    ]
    interpreter = next((_string(data, off) for kind, off, _, _ in segments if kind == PT_INTERP), "")
    table = next((value for tag, value in entries if tag == DT_STRTAB), None)
    if table is None:
        return Dynamic(interpreter)
    strings = _file_offset(segments, table)
    names = [(tag, _string(data, strings + value)) for tag, value in entries if tag in (DT_NEEDED, DT_SONAME)]
    soname = next((name for tag, name in names if tag == DT_SONAME), "")
    return Dynamic(interpreter, soname, tuple(name for tag, name in names if tag == DT_NEEDED))


def _header(data: bytes) -> tuple[int, ...]:
    if not is_elf(data):
        raise NotElf("no 64-bit little-endian ELF header")
    return tuple(_EHDR.unpack_from(data)[1:])


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(type, file offset, virtual address, size in the file) of each program header."""
    header = _header(data)
    offset, size, count = header[4], header[8], header[9]
    for number in range(count):
        kind, _, at, address, _, in_file, _, _ = _PHDR.unpack_from(data, offset + number * size)
        yield kind, at, address, in_file


def _tags(data: bytes, offset: int, size: int) -> Iterator[tuple[int, int]]:
    for at in range(offset, offset + size, _DYN.size):
        tag, value = _DYN.unpack_from(data, at)
        if tag == DT_NULL:
            return
        yield tag, value


def _file_offset(segments: list[tuple[int, int, int, int]], address: int) -> int:
    for kind, offset, start, size in segments:
        if kind == PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise NotElf(f"address {address:#x} is in no loaded segment")


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    if end < 0:
        raise NotElf(f"the string at byte {offset} does not end")
    return data[offset:end].decode("utf-8", "replace")


def modinfo(data: bytes) -> dict[str, list[str]]:
    """The key=value pairs of a kernel module's .modinfo section (Linux include/linux/moduleinfo.h), by key."""
    try:
        section = _section(data, ".modinfo")
    except struct.error as error:
        raise NotElf(f"truncated ELF file: {error}") from None
    pairs: dict[str, list[str]] = {}
    for item in section.split(b"\0"):
        key, found, value = item.decode("utf-8", "replace").partition("=")
        if found:
            pairs.setdefault(key, []).append(value)
    return pairs


def _section(data: bytes, name: str) -> bytes:
    header = _header(data)
    offset, size, count, names_at = header[5], header[10], header[11], header[12]
    headers = [_SHDR.unpack_from(data, offset + number * size) for number in range(count)]
    strings = headers[names_at][4]
    for entry in headers:
        if _string(data, strings + entry[0]) == name:
            return data[entry[4] : entry[4] + entry[5]]
    raise NotElf(f"no section {name}")
