# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way in which a guest's card can be put together: 64 combinations, each of which is run or cannot be.

tests/vm/test_matrix.py runs them; `REDUCED` always, the others with VNIC_HEAVY=1. What is said here is checked by
tests/unit/guest/vm/test_matrix_table.py without a guest.

With stream, dgram and tap QEMU's own virtio runs the rings, and the back end sees frames: those say that what is behind
a card works whatever the card is. With vhost-user the rings are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Final, Literal, NamedTuple

Transport = Literal["vhost-user", "stream", "dgram", "tap"]

TRANSPORTS: Final[tuple[Transport, ...]] = ("vhost-user", "stream", "dgram", "tap")
MACHINES: Final = ("microvm", "q35")
DIALECTS: Final = ("modern", "legacy")
RINGS: Final = ("split", "packed")
PAIRS: Final = (1, 4)


class Combination(NamedTuple):
    transport: Transport
    machine: Literal["microvm", "q35"]
    dialect: Literal["modern", "legacy"]
    ring: Literal["split", "packed"]
    pairs: int

    def __str__(self) -> str:
        return "-".join(map(str, self))


ALL: Final = tuple(
    Combination(*values)
    for values in product(TRANSPORTS, MACHINES, DIALECTS, RINGS, PAIRS)  # type: ignore[arg-type]
)


class Obstacle(NamedTuple):
    """What cannot be, and why."""

    stands_in: Callable[[Combination], bool]
    why: str


OBSTACLES: Final = (
    Obstacle(
        lambda one: one.ring == "packed" and one.dialect == "legacy",
        "a legacy driver reads and writes feature bits 0 to 31 (virtio 1.2, 4.1.4.8 and 4.2.4), "
        "VIRTIO_F_RING_PACKED is bit 34",
    ),
    Obstacle(
        lambda one: one.pairs > 1 and one.transport in ("stream", "dgram"),
        "these netdevs have one queue: QEMU 7.2 says \"Parameter 'queues' is unexpected\"",
    ),
)


def why_not(one: Combination) -> str:
    """Why it cannot be, "" if it can."""
    return "; ".join(obstacle.why for obstacle in OBSTACLES if obstacle.stands_in(one))


POSSIBLE: Final = tuple(one for one in ALL if not why_not(one))

# Any two properties that can be together are together in one of these.
REDUCED: Final = (
    Combination("vhost-user", "microvm", "modern", "packed", 4),
    Combination("vhost-user", "q35", "modern", "split", 4),
    Combination("vhost-user", "q35", "legacy", "split", 1),
    Combination("tap", "microvm", "legacy", "split", 4),
    Combination("tap", "q35", "modern", "packed", 1),
    Combination("stream", "microvm", "modern", "packed", 1),
    Combination("stream", "q35", "legacy", "split", 1),
    Combination("dgram", "microvm", "legacy", "split", 1),
    Combination("dgram", "q35", "modern", "packed", 1),
)


def two_at_a_time(those: tuple[Combination, ...]) -> set[tuple[str, object, str, object]]:
    """Every pair of properties that one of those has."""
    found = set()
    for one in those:
        named = list(one._asdict().items())
        found |= {(*first, *second) for at, first in enumerate(named) for second in named[at + 1 :]}
    return found
