# SPDX-License-Identifier: GPL-2.0-or-later
"""The Internet checksum (RFC 1071): lib/checksum.c, include/net/checksum.h.

Because 2**16 = 1 (mod 65535), a buffer read as one big-endian integer is congruent to the one's complement sum of
its 16-bit words; so is any sum of 16- and 32-bit header fields.  The running sums here are plain ints that are
right modulo 65535; 0 stands for "only zero bytes", 65535 for a non-zero sum that is congruent to zero, so that a
computed checksum is bit for bit the one the kernel would send.
"""

from __future__ import annotations

from typing import Final

Buffer = bytes | bytearray | memoryview

CSUM_MANGLED_0: Final = 0xFFFF

# Above this size it pays to add the two halves of the number before dividing: one division step per 30 bits is
# slower than the linear shifts and additions of big integers.
_FOLD_BYTES: Final = 1024
_masks: dict[int, int] = {}


def _half(value: int, nbytes: int) -> tuple[int, int]:
    half = (nbytes // 2 + 3) & ~1
    mask = _masks.get(half)
    if mask is None:
        mask = _masks[half] = (1 << (8 * half)) - 1
        if len(_masks) > 4096:
            _masks.clear()
    return (value >> (8 * half)) + (value & mask), half + 2


def csum_partial(buf: Buffer, wsum: int = 0) -> int:
    """The sum of ``buf`` as 16-bit big-endian words (an odd last byte counts as its word's high byte), plus
    ``wsum``, in 0 .. 65535."""
    nbytes = len(buf)
    value = int.from_bytes(buf, "big")
    if nbytes & 1:
        value <<= 8
        nbytes += 1
    while nbytes > _FOLD_BYTES:
        value, nbytes = _half(value, nbytes)
    value += wsum
    return (value % 65535) or (65535 if value else 0)


def csum_fold(wsum: int) -> int:
    """The 16 bits that go into a checksum field for the sum ``wsum``; 0 when verifying means correct."""
    return -wsum % 65535 if wsum else 0xFFFF


def csum_tcpudp_nofold(saddr: int, daddr: int, length: int, proto: int, wsum: int) -> int:
    """``wsum`` plus the IPv4 pseudo-header (RFC 9293, section 3.1); the result is not reduced."""
    return wsum + saddr + daddr + proto + length


def csum_tcpudp_magic(saddr: int, daddr: int, length: int, proto: int, wsum: int) -> int:
    """The folded checksum of a segment whose own bytes add up to ``wsum``; 0 when verifying means correct.
    Addresses are host-order ints, ``length`` counts transport header and payload."""
    return -(wsum + saddr + daddr + proto + length) % 65535


def tcp_v4_pseudo(saddr: int, daddr: int, length: int, proto: int = 6) -> int:
    """What a CHECKSUM_PARTIAL segment carries in its checksum field: the pseudo-header sum, not inverted."""
    return (saddr + daddr + proto + length) % 65535


def csum_ipv6_magic(saddr: int, daddr: int, length: int, proto: int, wsum: int) -> int:
    """The same over IPv6's pseudo-header (RFC 8200, section 8.1); addresses are ints of 128 bits."""
    return -(wsum + saddr + daddr + proto + length) % 65535


def tcp_v6_pseudo(saddr: int, daddr: int, length: int, proto: int = 6) -> int:
    """tcp_v4_pseudo() for IPv6."""
    return (saddr + daddr + proto + length) % 65535


def ip_fast_csum(iph: Buffer, ihl: int) -> int:
    """The checksum of an IPv4 header of ``ihl`` 32-bit words; 0 when verifying means correct."""
    return -int.from_bytes(iph[: 4 * ihl], "big") % 65535


def ip_compute_csum(buf: Buffer) -> int:
    """The folded checksum of a whole buffer: ICMP."""
    return csum_fold(csum_partial(buf))
