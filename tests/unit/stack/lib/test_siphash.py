# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from stack.lib.siphash import siphash, siphash_4u32

KEY = bytes(range(16))


def test_siphash_vector_of_the_paper() -> None:
    assert siphash(bytes(range(15)), KEY) == 0xA129CA6149BE45E5


def test_siphash_empty_input() -> None:
    assert siphash(b"", KEY) == 0x726FDB47DD0E0E31


def test_siphash_words_are_little_endian() -> None:
    data = b"".join(n.to_bytes(4, "little") for n in (1, 2, 3))
    assert siphash_4u32(1, 2, 3, 4, KEY) == siphash(data + bytes((4, 0, 0, 0)), KEY)
