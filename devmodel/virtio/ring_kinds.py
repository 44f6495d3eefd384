# SPDX-License-Identifier: GPL-2.0-or-later
"""Which class of ring a session gets: of one layout or the other, with what it takes written down or not
(ring_tracked.py), with what it writes marked for a migration or not (dirtylog.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from devmodel.virtio.dirtylog import DirtyLog, Journal, LoggedPackedRing, LoggedSplitRing, Logging
from devmodel.virtio.inflight import PackedState, SplitState
from devmodel.virtio.memory import Extent, GuestMemory
from devmodel.virtio.ring import Areas, Ring
from devmodel.virtio.ring_packed import PackedRing
from devmodel.virtio.ring_split import SplitRing
from devmodel.virtio.ring_tracked import TrackedPackedRing, TrackedSplitRing


class LoggedTrackedSplitRing(Logging, TrackedSplitRing):
    """Both."""

    __slots__ = ("_journal",)

    def __init__(
        self,
        index: int,
        num: int,
        memory: GuestMemory,
        areas: Areas,
        features: int,
        base: int,
        state: SplitState,
        log: DirtyLog,
        own: Sequence[Extent],
    ) -> None:
        self._journal = Journal(log, own)
        super().__init__(index, num, memory, areas, features, base, state)


class LoggedTrackedPackedRing(Logging, TrackedPackedRing):
    """Both."""

    __slots__ = ("_journal",)

    def __init__(
        self,
        index: int,
        num: int,
        memory: GuestMemory,
        areas: Areas,
        features: int,
        base: int,
        resumed: bool,
        state: PackedState,
        log: DirtyLog,
        own: Sequence[Extent],
    ) -> None:
        self._journal = Journal(log, own)
        super().__init__(index, num, memory, areas, features, base, resumed, state)
        self._journal.wrote_ring()  # its start may have: TrackedPackedRing._hide()


class Place(NamedTuple):
    """What every ring is made of."""

    queue: int
    num: int
    memory: GuestMemory
    areas: Areas
    features: int
    base: int


Marks = tuple[DirtyLog, Sequence[Extent]]
"""Where to mark what is written, and the ring's own memory as far as the device writes it."""


def split_ring(place: Place, state: SplitState | None, marks: Marks | None) -> Ring:
    """BrokenRing if it cannot go on where `state` says."""
    if state is None:
        return SplitRing(*place) if marks is None else LoggedSplitRing(*place, *marks)
    return TrackedSplitRing(*place, state) if marks is None else LoggedTrackedSplitRing(*place, state, *marks)


def packed_ring(place: Place, resumed: bool, state: PackedState | None, marks: Marks | None) -> Ring:
    """The same; `resumed`: the base is what the last ring there answered when it was stopped."""
    if state is None:
        return PackedRing(*place, resumed) if marks is None else LoggedPackedRing(*place, resumed, *marks)
    if marks is None:
        return TrackedPackedRing(*place, resumed, state)
    return LoggedTrackedPackedRing(*place, resumed, state, *marks)
