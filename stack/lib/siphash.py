# SPDX-License-Identifier: GPL-2.0-or-later
"""SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012): the kernel's lib/siphash.c.

Keys are 16 bytes, results 64 bits.  About 10 us for a 4-tuple: for what happens once per connection.
"""

from __future__ import annotations

from typing import Final

_M: Final = 0xFFFFFFFFFFFFFFFF


def _compress(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    """Two SipRounds; additions are masked only where a carry would reach the result."""
    v0 = v0 + v1 & _M
    v1 = (v1 << 13 & _M | v1 >> 51) ^ v0
    v2 = v2 + v3 & _M
    v3 = (v3 << 16 & _M | v3 >> 48) ^ v2
    v0 = (v0 << 32 & _M | v0 >> 32) + v3 & _M
    v2 = v2 + v1 & _M
    v1 = (v1 << 17 & _M | v1 >> 47) ^ v2
    v3 = (v3 << 21 & _M | v3 >> 43) ^ v0
    v2 = v2 << 32 & _M | v2 >> 32
    v0 = v0 + v1 & _M
    v1 = (v1 << 13 & _M | v1 >> 51) ^ v0
    v2 = v2 + v3 & _M
    v3 = (v3 << 16 & _M | v3 >> 48) ^ v2
    v0 = (v0 << 32 & _M | v0 >> 32) + v3 & _M
    v2 = v2 + v1 & _M
    v1 = (v1 << 17 & _M | v1 >> 47) ^ v2
    v3 = (v3 << 21 & _M | v3 >> 43) ^ v0
    v2 = v2 << 32 & _M | v2 >> 32
    return v0, v1, v2, v3


def _siphash(words: tuple[int, ...], key: bytes) -> int:
    """The hash of 64-bit words, the last of which has the length in its top byte."""
    k0 = int.from_bytes(key[:8], "little")
    k1 = int.from_bytes(key[8:16], "little")
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    for word in words:
        v0, v1, v2, v3 = _compress(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v0, v1, v2, v3 = _compress(v0, v1, v2 ^ 0xFF, v3)
    v0, v1, v2, v3 = _compress(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def siphash(data: bytes, key: bytes) -> int:
    """The 64-bit hash of ``data`` under a 16-byte key."""
    whole = len(data) & ~7
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, whole, 8)]
    words.append(len(data) << 56 & _M | int.from_bytes(data[whole:], "little"))
    return _siphash(tuple(words), key)


def siphash_4u32(first: int, second: int, third: int, fourth: int, key: bytes) -> int:
    return _siphash((second << 32 | first, fourth << 32 | third, 16 << 56), key)


def siphash_in6(saddr: int, daddr: int, words: tuple[int, ...], key: bytes) -> int:
    """The hash of two IPv6 addresses in network order and the 32-bit words behind them."""
    data = saddr.to_bytes(16, "big") + daddr.to_bytes(16, "big")
    return siphash(data + b"".join(word.to_bytes(4, "little") for word in words), key)
