# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of /bytes/N and their checksums, against hashlib and zlib over the whole."""

from __future__ import annotations

import asyncio
import hashlib
import zlib

import pytest

from vnic.services import content

SIZES = [0, 1, 999_999, content.BLOCK_LENGTH, content.BLOCK_LENGTH + 1, 3 * content.BLOCK_LENGTH + 7]


@pytest.mark.parametrize("size", SIZES)
def test_prefix_has_its_length_and_checksums(size: int) -> None:
    whole = b"".join(content.pieces(size))
    assert len(whole) == size
    assert content.crc32(size) == zlib.crc32(whole)
    assert asyncio.run(content.Checksums().sha256(size)) == hashlib.sha256(whole).hexdigest()


def test_checksum_is_the_same_with_and_without_kept_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "PIECE", 2 * content.BLOCK_LENGTH)
    sums = content.Checksums()
    sizes = [5 * content.BLOCK_LENGTH + 1, 2 * content.BLOCK_LENGTH, 5 * content.BLOCK_LENGTH + 1]

    async def all_of_them() -> list[str]:
        return [await sums.sha256(size) for size in sizes]

    expected = [hashlib.sha256(b"".join(content.pieces(size))).hexdigest() for size in sizes]
    assert asyncio.run(all_of_them()) == expected


def test_huge_crc_takes_no_time_and_obeys_concatenation() -> None:
    half = content.BLOCK_LENGTH << 30
    crc = content.crc32(half)
    assert content.crc32(2 * half) == content.crc32_of_concatenation(crc, crc, half)


def test_displaced_piece_changes_the_checksum() -> None:
    whole = bytearray(b"".join(content.pieces(1 << 21)))
    before = zlib.crc32(whole)
    whole[0:65536], whole[1 << 20 : (1 << 20) + 65536] = whole[1 << 20 : (1 << 20) + 65536], whole[0:65536]
    assert zlib.crc32(whole) != before


@pytest.mark.parametrize("length", [0, 5, content.BLOCK_LENGTH, 2 * content.BLOCK_LENGTH + 7])
@pytest.mark.parametrize(
    "start", [0, 3, content.BLOCK_LENGTH - 1, content.BLOCK_LENGTH, content.BLOCK_LENGTH + 9]
)
def test_pieces_from_within_are_the_rest_of_the_whole(length: int, start: int) -> None:
    whole = b"".join(content.pieces(length))
    assert b"".join(content.pieces(length, min(start, length))) == whole[start:]
