# SPDX-License-Identifier: GPL-2.0-or-later
"""AES-128's forward cipher (FIPS 197) and AES-CMAC (RFC 4493), for the authentication option: lib/crypto/aes.c.

Python's standard library has no AES.  The four tables join SubBytes, ShiftRows and MixColumns of one byte into one
look-up, so that a block takes 160 of them.  Not for secrets that are worth an attack on the clock: look-ups take as
long as the cache makes them.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

BLOCK: Final = 16
ROUNDS: Final = 10
_POLYNOMIAL: Final = 0x11B  # FIPS 197, section 4.2
_CMAC_RB: Final = 0x87  # RFC 4493, section 2.3
_MASK128: Final = (1 << 128) - 1
_WORDS: Final = Struct("!4I")


def _times(a: int, b: int) -> int:
    """In GF(2^8)."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= _POLYNOMIAL
        b >>= 1
    return product


def _sbox() -> bytes:
    """FIPS 197, section 5.1.1: the inverse, then an affine map.  3 generates the field; its inverse is 0xf6."""
    power = inverse = 1
    box = bytearray(256)
    box[0] = 0x63
    for _ in range(255):
        rotations = inverse ^ inverse << 1 ^ inverse << 2 ^ inverse << 3 ^ inverse << 4
        box[power] = (rotations ^ rotations >> 8 ^ 0x63) & 0xFF
        power, inverse = _times(power, 3), _times(inverse, 0xF6)
    return bytes(box)


def _table(rotation: int) -> list[int]:
    """What a byte of the state adds to its column, by the row that it stands in."""
    column = [_times(s, 2) << 24 | s << 16 | s << 8 | _times(s, 3) for s in _SBOX]
    return [(word >> rotation | word << 32 - rotation) & 0xFFFFFFFF for word in column]


_SBOX: Final = _sbox()
_T0: Final = _table(0)
_T1: Final = _table(8)
_T2: Final = _table(16)
_T3: Final = _table(24)


def _sub_word(word: int) -> int:
    return (
        _SBOX[word >> 24] << 24
        | _SBOX[word >> 16 & 255] << 16
        | _SBOX[word >> 8 & 255] << 8
        | _SBOX[word & 255]
    )


def expand_key(key: bytes) -> list[int]:
    """The 44 words of the key schedule (FIPS 197, section 5.2); ValueError if the key is not 16 bytes long."""
    if len(key) != BLOCK:
        raise ValueError(f"an AES-128 key has 16 bytes, this one has {len(key)}")
    words = list(_WORDS.unpack(key))
    constant = 1
    for i in range(4, 4 * (ROUNDS + 1)):
        word = words[i - 1]
        if i % 4 == 0:
            word = _sub_word((word << 8 | word >> 24) & 0xFFFFFFFF) ^ constant << 24
            constant = _times(constant, 2)
        words.append(words[i - 4] ^ word)
    return words


def encrypt_block(schedule: list[int], block: int) -> int:
    """One block, both ways a 128-bit number."""
    a, b, c, d = _WORDS.unpack(block.to_bytes(16, "big"))
    a, b, c, d = a ^ schedule[0], b ^ schedule[1], c ^ schedule[2], d ^ schedule[3]
    for i in range(4, 4 * ROUNDS, 4):
        a, b, c, d = (
            _T0[a >> 24] ^ _T1[b >> 16 & 255] ^ _T2[c >> 8 & 255] ^ _T3[d & 255] ^ schedule[i],
            _T0[b >> 24] ^ _T1[c >> 16 & 255] ^ _T2[d >> 8 & 255] ^ _T3[a & 255] ^ schedule[i + 1],
            _T0[c >> 24] ^ _T1[d >> 16 & 255] ^ _T2[a >> 8 & 255] ^ _T3[b & 255] ^ schedule[i + 2],
            _T0[d >> 24] ^ _T1[a >> 16 & 255] ^ _T2[b >> 8 & 255] ^ _T3[c & 255] ^ schedule[i + 3],
        )
    columns = ((a, b, c, d), (b, c, d, a), (c, d, a, b), (d, a, b, c))
    last = [
        _sub_word(w & 0xFF000000 | x & 0xFF0000 | y & 0xFF00 | z & 0xFF) ^ key
        for (w, x, y, z), key in zip(columns, schedule[-4:], strict=True)
    ]
    return last[0] << 96 | last[1] << 64 | last[2] << 32 | last[3]


def _double(value: int) -> int:
    """Times x in GF(2^128)."""
    return (value << 1 ^ (_CMAC_RB if value >> 127 else 0)) & _MASK128


@lru_cache(maxsize=64)
def _prepared(key: bytes) -> tuple[list[int], int, int]:
    """Schedule and the two subkeys (RFC 4493, section 2.3)."""
    schedule = expand_key(key)
    first = _double(encrypt_block(schedule, 0))
    return schedule, first, _double(first)


def cmac(key: bytes, message: bytes) -> bytes:
    """AES-CMAC (RFC 4493, section 2.4): 16 bytes."""
    schedule, whole, padded = _prepared(key)
    rest = len(message) % BLOCK
    if message and not rest:
        last = int.from_bytes(message[-BLOCK:], "big") ^ whole
        body = len(message) - BLOCK
    else:
        body = len(message) - rest
        last = int.from_bytes((message[body:] + b"\x80").ljust(BLOCK, b"\0"), "big") ^ padded
    state = 0
    for at in range(0, body, BLOCK):
        state = encrypt_block(schedule, state ^ int.from_bytes(message[at : at + BLOCK], "big"))
    return encrypt_block(schedule, state ^ last).to_bytes(BLOCK, "big")
