# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the stack's random numbers come from: a protocol, and the seeded generator of tests.

Same seed, same numbers, on every Python version: the seeded generator is SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014), whose whole state is one 64-bit word and can be
written down.  The real generator is in ``stack.api.aio``.
"""

from __future__ import annotations

from typing import Protocol

_MASK64 = (1 << 64) - 1


class Rng(Protocol):
    """The kernel's random number calls that the stack uses."""

    def get_random_u32(self) -> int: ...

    def get_random_u32_below(self, ceil: int) -> int:
        """An integer in 0 <= n < ceil, each as likely."""
        ...

    def get_random_bytes(self, nbytes: int) -> bytes: ...


class SeededRng:
    """SplitMix64 behind the kernel's calls; ``state`` is its whole state."""

    __slots__ = ("state",)

    def __init__(self, seed: int = 0) -> None:
        self.state = seed & _MASK64

    def _next64(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK64
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
        return z ^ (z >> 31)

    def get_random_u32(self) -> int:
        return self._next64() >> 32

    def get_random_u32_below(self, ceil: int) -> int:
        if ceil <= 0:
            raise ValueError(f"the range 0 <= n < {ceil} is empty")
        limit = (1 << 64) - (1 << 64) % ceil
        while (value := self._next64()) >= limit:
            pass
        return value % ceil

    def get_random_bytes(self, nbytes: int) -> bytes:
        words = (nbytes + 7) // 8
        return b"".join(self._next64().to_bytes(8, "little") for _ in range(words))[:nbytes]
