# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of /bytes/N: the same for everybody, and their SHA-256 is known before the first one is sent.

The content is one block repeated without end.  The block is text (a terminal survives it), and its length, 1 000 003,
is a prime: a piece that a broken stack puts 4096, 65536 or 2^20 bytes off its place changes the checksum.

A SHA-256 can't be had faster than by hashing (1.7 GB/s where the processor has instructions for it), so it is computed
in pieces of PIECE in a worker thread (hashlib lets other threads run meanwhile), and the hash state after each piece is
kept: the second request for any size costs at most one piece.  Sizes beyond SHA256_LIMIT get no SHA-256, since the
client would wait for its header for too long; their CRC-32 is still given.

The CRC-32 (as zlib's) of any N takes microseconds: appending a block to a message is, over GF(2), a linear map of the
CRC, and a map is squared in 32 x 32 steps, so N blocks need log2(N) squarings.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import zlib
from collections.abc import Iterator

BLOCK_LENGTH = 1_000_003
PIECE_BLOCKS = 64
PIECE = PIECE_BLOCKS * BLOCK_LENGTH
SHA256_LIMIT = 8 << 30
"""About 5 s of hashing once; the states kept for it are 134."""


def _make_block() -> bytes:
    seed = hashlib.shake_128(b"vnic").hexdigest(BLOCK_LENGTH // 2)
    width = 52
    lines = (f"{at:09d}  {seed[at % len(seed) :][:width]}\n" for at in range(0, BLOCK_LENGTH, width + 12))
    return "".join(lines).encode().ljust(BLOCK_LENGTH, b"\n")[:BLOCK_LENGTH]


BLOCK = _make_block()


def pieces(length: int, start: int = 0) -> Iterator[bytes]:
    """The first ``length`` bytes, without the first ``start`` of them, as whole blocks and a rest; the blocks are one
    object, so nothing is copied."""
    if inside := start % BLOCK_LENGTH:
        yield BLOCK[inside : inside + length - start]
        start += BLOCK_LENGTH - inside
    whole, rest = divmod(max(length - start, 0), BLOCK_LENGTH)
    for _ in range(whole):
        yield BLOCK
    if rest:
        yield BLOCK[:rest]


class Checksums:
    """SHA-256 of prefixes of the content, with the states that were passed on the way."""

    def __init__(self) -> None:
        self._states = [hashlib.sha256()]  # after 0, 1, 2 ... pieces
        self._busy = asyncio.Lock()

    async def sha256(self, length: int) -> str:
        """Hex digest of the first ``length`` bytes; the loop runs on while it is computed."""
        whole, rest = divmod(length, PIECE)
        async with self._busy:
            while len(self._states) <= whole:
                self._states.append(await asyncio.to_thread(_after, self._states[-1], PIECE))
        state = self._states[whole]
        return (await asyncio.to_thread(_after, state, rest)).hexdigest()


def _after(state: hashlib._Hash, length: int) -> hashlib._Hash:
    grown = state.copy()
    for piece in pieces(length):
        grown.update(piece)
    return grown


# -- CRC-32 of a repetition ------------------------------------------------------------------------------------------

_POLYNOMIAL = 0xEDB88320  # CRC-32 of ISO-HDLC, bits reversed (RFC 1952, section 8)
_Matrix = list[int]  # 32 columns: what each bit of the CRC becomes


def _times(matrix: _Matrix, vector: int) -> int:
    result = 0
    for column in matrix:
        if vector & 1:
            result ^= column
        vector >>= 1
        if not vector:
            break
    return result


def _product(first: _Matrix, second: _Matrix) -> _Matrix:
    return [_times(first, column) for column in second]


def _power(matrix: _Matrix, exponent: int) -> _Matrix:
    result = [1 << bit for bit in range(32)]
    while exponent:
        if exponent & 1:
            result = _product(matrix, result)
        matrix = _product(matrix, matrix)
        exponent >>= 1
    return result


_ONE_ZERO_BIT: _Matrix = [_POLYNOMIAL] + [1 << bit for bit in range(31)]


def crc32_of_concatenation(first: int, second: int, second_length: int) -> int:
    """CRC-32 of A + B from those of A and B and the length of B in bytes."""
    return _times(_power(_ONE_ZERO_BIT, 8 * second_length), first) ^ second


_APPEND_BLOCK = _power(_ONE_ZERO_BIT, 8 * BLOCK_LENGTH)


@functools.lru_cache(maxsize=256)
def crc32(length: int) -> int:
    """CRC-32 of the first ``length`` bytes of the content."""
    whole, rest = divmod(length, BLOCK_LENGTH)
    total, doubled, append = 0, zlib.crc32(BLOCK), _APPEND_BLOCK
    while whole:
        if whole & 1:  # equal blocks: their order among themselves does not matter
            total = _times(append, total) ^ doubled
        doubled = _times(append, doubled) ^ doubled
        append = _product(append, append)
        whole >>= 1
    return crc32_of_concatenation(total, zlib.crc32(BLOCK[:rest]), rest)
