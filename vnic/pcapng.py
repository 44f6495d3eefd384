# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads captures: pcapng (with direction, comments, nanoseconds, several interfaces) and the older pcap.

The blocks of pcapng are taken apart here, as what is wanted of them (epb_flags, opt_comment, the interface's name and
resolution) is not given by readers of packets; pcap is read by dpkt.  A file that ends within a block, as one that is
being written does, is read up to there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO, Final

import dpkt

from stack.inspect.conversation import Packet
from vnic.errors import UsageError, from_oserror

_SECTION_HEADER, _INTERFACE_DESCRIPTION, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
_MAGIC: Final = 0x1A2B3C4D
_OPT_COMMENT, _IF_NAME, _IF_TSRESOL, _EPB_FLAGS = 1, 2, 9, 2
_ETHERNET: Final = 1
_OUTBOUND: Final = {0: None, 1: False, 2: True, 3: None}
MAX_BLOCK: Final = 1 << 24
_PCAP_MAGICS: Final = tuple(
    struct.pack(order + "I", magic) for order in "<>" for magic in (0xA1B2C3D4, 0xA1B23C4D)
)


@dataclass(frozen=True)
class _Interface:
    name: str
    ticks: int  # a second
    ethernet: bool


def read(path: Path, interface: str | None = None) -> Iterator[Packet]:
    """The packets of a capture's interface with that name, unless given of the first that has any (of a pipe, which can
    be read but once: of its first packet's), in the order of the file.  UsageError for what is no capture of Ethernet,
    HostIOError."""
    if interface is None and path.is_file():
        interface = _first_interface(path)
    for packet in read_all(path):
        if interface is None:
            interface = packet.interface
        if packet.interface == interface:
            yield packet


def read_all(path: Path) -> Iterator[Packet]:
    """The packets of all interfaces."""
    return (packet for _, packet in _numbered(path))


def _first_interface(path: Path) -> str:
    """Its name, "" if there are no packets.  It is not that of the first packet: with --loss and the like a received
    frame passes the wire, the second interface of our captures, before the stack."""
    first: tuple[int, str] | None = None
    for number, packet in _numbered(path):
        if first is None or number < first[0]:
            first = number, packet.interface
        if number == 0:
            break
    return "" if first is None else first[1]


def _numbered(path: Path) -> Iterator[tuple[int, Packet]]:
    """All packets, each with the number of its interface."""
    try:
        with path.open("rb") as file:
            if file.peek(4)[:4] in _PCAP_MAGICS:  # which a pipe has too
                yield from ((0, packet) for packet in _pcap(path, file))
            else:
                yield from _sections(path, file)
    except OSError as error:
        raise from_oserror(error, f"read {path}") from error


def _refused(path: Path, evidence: str) -> UsageError:
    return UsageError(
        f"{path} cannot be read as a capture", evidence, "give a pcapng or pcap file of Ethernet frames"
    )


def _pcap(path: Path, file: BinaryIO) -> Iterator[Packet]:
    try:
        reader = dpkt.pcap.Reader(_Limited(path, file))
    except (ValueError, dpkt.dpkt.Error) as error:
        raise _refused(path, str(error) or "its header is cut off") from error
    if reader.datalink() != dpkt.pcap.DLT_EN10MB:
        raise _refused(path, f"its link type is {reader.datalink()}")
    try:
        for stamp, frame in reader:
            # Of a file with microseconds it is a float, which holds those but no nanoseconds.
            exact = isinstance(stamp, Decimal)
            yield Packet(
                int(stamp * 1_000_000_000) if exact else round(stamp * 1_000_000) * 1000, None, bytes(frame)
            )
    except dpkt.dpkt.NeedData:  # ends within the header of a packet
        return


class _Limited:
    """A file of pcap for dpkt, which would make room for whatever size a packet's header says."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file

    def read(self, size: int) -> bytes:
        if size > MAX_BLOCK:
            raise _refused(self._path, f"a packet says it has {size} bytes")
        return self._file.read(size)


def _sections(path: Path, file: BinaryIO) -> Iterator[tuple[int, Packet]]:
    order = ""
    interfaces: list[_Interface] = []
    at = 0
    while len(head := file.read(8)) == 8:
        kind, begun = struct.unpack("<I", head[:4])[0], b""
        if kind == _SECTION_HEADER:
            begun = file.read(4)
            order, interfaces = _byte_order(path, begun), []
        elif not order:
            raise _refused(path, f"it begins with {head.hex(' ')}")
        kind, size = struct.unpack(order + "II", head)
        if size < 12 or size % 4 or size > MAX_BLOCK:
            raise _refused(path, f"a block at byte {at} says it has {size} bytes")
        body = begun + file.read(max(size - 12 - len(begun), 0))
        if len(body) != size - 12 or len(file.read(4)) < 4:
            return
        at += size
        if kind == _INTERFACE_DESCRIPTION:
            interfaces.append(_interface(order, body))
        elif kind == _ENHANCED_PACKET and len(body) >= 20:
            (number,) = struct.unpack_from(order + "I", body)
            if number < len(interfaces) and interfaces[number].ethernet:
                yield number, _packet(order, body, interfaces[number])
    if not order:
        raise _refused(path, f"it has {len(head)} bytes" if head else "it is empty")


def _byte_order(path: Path, magic: bytes) -> str:
    for order in "<>":
        if magic == struct.pack(order + "I", _MAGIC):
            return order
    raise _refused(path, f"its byte-order magic is {magic.hex(' ')}")


def _options(order: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from(order + "HH", data, at)
        if code == 0:
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4


def _interface(order: str, body: bytes) -> _Interface:
    link = struct.unpack_from(order + "H", body)[0] if len(body) >= 8 else -1
    options = dict(_options(order, body[8:]))
    resolution = (options.get(_IF_TSRESOL) or b"\x06")[0]
    ticks = 1 << (resolution & 127) if resolution & 128 else 10 ** (resolution & 127)
    return _Interface(options.get(_IF_NAME, b"").decode("utf-8", "replace"), ticks, link == _ETHERNET)


def _packet(order: str, body: bytes, interface: _Interface) -> Packet:
    _, high, low, captured = struct.unpack_from(order + "IIII", body)
    options = dict(_options(order, body[20 + captured + -captured % 4 :]))
    flags = int.from_bytes(options.get(_EPB_FLAGS, b"")[:4], "little" if order == "<" else "big")
    stamp = (high << 32 | low) * 1_000_000_000 // interface.ticks
    comment = options.get(_OPT_COMMENT, b"").decode("utf-8", "replace")
    return Packet(stamp, _OUTBOUND[flags & 3], body[20 : 20 + captured], comment, interface.name)
