# SPDX-License-Identifier: GPL-2.0-or-later
"""Which receive queue a frame goes to: hashes of flows (virtio 1.2, section 5.1.6.4.3) and receive-side scaling
(5.1.6.5.6.1 and 5.1.6.5.7).

The hash is Toeplitz' over addresses and ports with the driver's key.  Each byte of the input contributes 32 bits that
depend on its place and value alone, so they are looked up: a table of 256 for each of 36 places, made when the key is
set.  What is hashed follows from the frame and from the types that the driver wants: ports of TCP or UDP if it wants
those, else addresses, else nothing.

Without RSS a flow goes to the queue that the guest sends on for it (5.1.6.5.5, automatic receive steering), and one
that the guest has said nothing on has any; what is no TCP or UDP goes to the first.  A guest sends a flow's
acknowledgements on two queues in turn, from the processor that has the interrupt and from the one that reads; a flow
that followed each of them would have its segments in two queues at once and out of order.  So it moves once MOVE_AFTER
frames in a row came from another queue.  Of FLOWS flows the queue is remembered; with more all are forgotten and
learnt anew.

Left out: the hash types of IPv6 with extension headers (IP_EX, TCP_EX, UDP_EX), which are not offered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from devmodel.port import Buffer

# 5.1.6.4.3.1: hash types, and 5.1.6.4.4: what the header says of them
VIRTIO_NET_HASH_TYPE_IPv4: Final = 1 << 0
VIRTIO_NET_HASH_TYPE_TCPv4: Final = 1 << 1
VIRTIO_NET_HASH_TYPE_UDPv4: Final = 1 << 2
VIRTIO_NET_HASH_TYPE_IPv6: Final = 1 << 3
VIRTIO_NET_HASH_TYPE_TCPv6: Final = 1 << 4
VIRTIO_NET_HASH_TYPE_UDPv6: Final = 1 << 5
SUPPORTED_HASH_TYPES: Final = (1 << 6) - 1

VIRTIO_NET_HASH_REPORT_NONE: Final = 0
VIRTIO_NET_HASH_REPORT_IPv4: Final = 1
VIRTIO_NET_HASH_REPORT_TCPv4: Final = 2
VIRTIO_NET_HASH_REPORT_UDPv4: Final = 3
VIRTIO_NET_HASH_REPORT_IPv6: Final = 4
VIRTIO_NET_HASH_REPORT_TCPv6: Final = 5
VIRTIO_NET_HASH_REPORT_UDPv6: Final = 6

# 5.1.4: rss_max_key_size, rss_max_indirection_table_length
MAX_KEY: Final = 40
MAX_INDIRECTION: Final = 128

FLOWS: Final = 4096
MOVE_AFTER: Final = 64
HASHED: Final = 14 + 60 + 4
"""So many bytes at a frame's beginning have all that is hashed: addresses and ports behind the longest IP header."""
_LONGEST: Final = 36  # two IPv6 addresses and two ports
_ETH_HLEN, _TCP, _UDP = 14, 6, 17
_PORTED: Final = (_TCP, _UDP)
NOTHING: Final = (0, VIRTIO_NET_HASH_REPORT_NONE)


def toeplitz_tables(key: bytes) -> list[list[int]]:
    """What each value of each byte of the input contributes.  The key is followed by zeros where it is too short."""
    bits = int.from_bytes(key.ljust(_LONGEST + 4, b"\0"), "big")
    width = 8 * max(len(key), _LONGEST + 4)
    tables = []
    for place in range(_LONGEST):
        windows = [bits >> (width - 32 - 8 * place - bit) & 0xFFFFFFFF for bit in range(8)]
        table = [0] * 256
        for value in range(1, 256):
            low = value & -value
            table[value] = table[value ^ low] ^ windows[7 - (low.bit_length() - 1)]
        tables.append(table)
    return tables


def toeplitz(tables: list[list[int]], data: bytes) -> int:
    """The hash of at most 36 bytes."""
    result = 0
    for table, value in zip(tables, data, strict=False):
        result ^= table[value]
    return result


@dataclass(frozen=True)
class HashConfig:
    """Which types the driver wants, and its key."""

    types: int
    key: bytes
    tables: list[list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", toeplitz_tables(self.key))

    def of(self, frame: Buffer) -> tuple[int, int]:
        """Hash value and VIRTIO_NET_HASH_REPORT_*; (0, NONE) for what is not hashed.  A frame's beginning will do."""
        found = _input(frame, self.types)
        return NOTHING if found is None else (toeplitz(self.tables, found[0]), found[1])


def _input(frame: Buffer, types: int) -> tuple[bytes, int] | None:
    kind = bytes(frame[12:14])
    if kind == b"\x08\x00" and len(frame) >= _ETH_HLEN + 20:
        at = _ETH_HLEN + (frame[_ETH_HLEN] & 15) * 4
        fragment = (frame[20] & 0x3F) | frame[21]
        return _chosen(frame, 26, 8, at, 0 if fragment else frame[23], types)
    if kind == b"\x86\xdd" and len(frame) >= _ETH_HLEN + 40:
        return _chosen(frame, 22, 32, _ETH_HLEN + 40, frame[20], types >> 3, VIRTIO_NET_HASH_REPORT_IPv6 - 1)
    return None


def _chosen(
    frame: Buffer, ends: int, size: int, at: int, protocol: int, types: int, first: int = 0
) -> tuple[bytes, int] | None:
    """Addresses and ports, or addresses: ``types`` are the three of this IP version, its reports follow ``first``."""
    addresses = bytes(frame[ends : ends + size])
    number = {_TCP: 1, _UDP: 2}.get(protocol, 0)
    if number and types >> number & 1 and len(frame) >= at + 4:
        return addresses + bytes(frame[at : at + 4]), first + 1 + number
    return (addresses, first + 1) if types & 1 else None


@dataclass(frozen=True)
class RssConfig:
    """5.1.6.5.7: ``table`` has a power of two of queue pairs, ``unclassified`` is for what is not hashed."""

    hash: HashConfig
    table: tuple[int, ...]
    unclassified: int

    def pair_of(self, frame: Buffer) -> int:
        value, report = self.hash.of(frame)
        return self.table[value & (len(self.table) - 1)] if report else self.unclassified


class Steering:
    """Chooses the queue pair of each frame to the guest, of the ``pairs`` that are in use."""

    def __init__(self) -> None:
        self.pairs = 1
        self.rss: RssConfig | None = None
        self._flows: dict[bytes, int] = {}
        self._strays: dict[
            bytes, tuple[int, int]
        ] = {}  # on which other queue flows were seen, how often in a row

    def reset(self) -> None:
        self.pairs = 1
        self.rss = None
        self._forget()

    def _forget(self) -> None:
        self._flows = {}
        self._strays = {}

    def use(self, pairs: int) -> None:
        """So many from now on; what is known of flows is forgotten if that is another number."""
        if pairs != self.pairs:
            self.pairs = pairs
            self._forget()

    def sent_on(self, frame: Buffer, pair: int) -> None:
        """The guest sent a frame: its flow's answers go the same way."""
        if self.pairs > 1 and self.rss is None:
            ends = _ends(frame)
            if ends is not None:
                half, place = (4, 8) if len(ends) == 12 else (16, 32)
                self._follow(
                    ends[half:place] + ends[:half] + ends[place + 2 :] + ends[place : place + 2], pair
                )

    def _follow(self, flow: bytes, pair: int) -> None:
        known = self._flows.get(flow)
        if known == pair:
            if self._strays:
                self._strays.pop(flow, None)
        elif known is None:
            self._learn(flow, pair)
        else:
            where, seen = self._strays.get(flow, (pair, 0))
            seen = seen + 1 if where == pair else 1
            self._strays[flow] = pair, seen
            if seen >= MOVE_AFTER:
                self._flows[flow] = pair
                del self._strays[flow]

    def pair_of(self, frame: Buffer) -> int:
        """For a frame to the guest."""
        if self.pairs == 1:
            return 0
        if self.rss is not None:
            return self.rss.pair_of(frame)
        ends = _ends(frame)
        if ends is None:
            return 0
        pair = self._flows.get(ends)
        return crc32(ends) % self.pairs if pair is None else pair

    def _learn(self, flow: bytes, pair: int) -> None:
        if len(self._flows) >= FLOWS:
            self._forget()
        self._flows[flow] = pair


def _ends(frame: Buffer) -> bytes | None:
    """Addresses and ports of a TCP or UDP packet without options and extension headers; None for anything else."""
    kind = bytes(frame[12:14])
    if kind == b"\x08\x00" and len(frame) >= 38:
        plain = frame[14] == 0x45 and frame[23] in _PORTED and not (frame[20] & 0x3F or frame[21])
        return bytes(frame[26:38]) if plain else None
    if kind == b"\x86\xdd" and len(frame) >= 58 and frame[20] in _PORTED:
        return bytes(frame[22:58])
    return None
