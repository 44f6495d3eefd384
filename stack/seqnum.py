# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP's 32-bit sequence arithmetic (RFC 9293, section 3.4); include/net/tcp.h has the same names.

Sequence numbers are plain ints in 0 .. 2**32 - 1.  Everything that compares them goes through here.
"""

from __future__ import annotations

from typing import Final

MASK32: Final = 0xFFFFFFFF
_SIGN: Final = 0x80000000


def before(seq1: int, seq2: int) -> bool:
    """Whether seq1 comes strictly before seq2 within half the number space."""
    return ((seq1 - seq2) & MASK32) >= _SIGN


def after(seq2: int, seq1: int) -> bool:
    """Whether seq2 comes strictly after seq1."""
    return ((seq1 - seq2) & MASK32) >= _SIGN


def between(seq1: int, seq2: int, seq3: int) -> bool:
    """Whether seq2 <= seq1 <= seq3, going round the number space."""
    return ((seq3 - seq2) & MASK32) >= ((seq1 - seq2) & MASK32)


def add(seq: int, delta: int) -> int:
    """seq + delta, modulo 2**32; delta may be negative."""
    return (seq + delta) & MASK32


def diff(seq1: int, seq2: int) -> int:
    """seq1 - seq2 as a signed 32-bit number: the kernel's (s32)(a - b)."""
    delta = (seq1 - seq2) & MASK32
    return delta - 0x100000000 if delta >= _SIGN else delta
