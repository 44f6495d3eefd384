# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session knows of each of its rings, and how large the areas of one are."""

from __future__ import annotations

from typing import NamedTuple

from devmodel.errors import BrokenRing
from devmodel.virtio.diagnosis import Breaks
from devmodel.virtio.memory import READ, WRITE
from devmodel.virtio.ring import Ring
from devmodel.virtio.spec import (
    PVIRTQ_EVENT_ALIGN,
    PVIRTQ_EVENT_SIZE,
    VIRTQ_AVAIL_ALIGN,
    VIRTQ_DESC_ALIGN,
    VIRTQ_USED_ALIGN,
    avail_size,
    desc_size,
    used_size,
)


class Area(NamedTuple):
    """One of a ring's three areas, and what a device does with it (2.6, 2.8.1)."""

    what: str
    align: int
    size: int
    access: int


def areas_of(num: int, packed: bool) -> tuple[str, tuple[Area, Area, Area]]:
    """The section that describes the layout, and the areas in the order of Vring.addr."""
    if packed:
        return "2.8.10.1", (
            Area("descriptor ring", VIRTQ_DESC_ALIGN, desc_size(num), READ | WRITE),
            Area("driver event", PVIRTQ_EVENT_ALIGN, PVIRTQ_EVENT_SIZE, READ),
            Area("device event", PVIRTQ_EVENT_ALIGN, PVIRTQ_EVENT_SIZE, WRITE),
        )
    return "2.7", (
        Area("descriptor table", VIRTQ_DESC_ALIGN, desc_size(num), READ),
        Area("available ring", VIRTQ_AVAIL_ALIGN, avail_size(num), READ),
        Area("used ring", VIRTQ_USED_ALIGN, used_size(num), WRITE),
    )


class Vring:
    """What the frontend said about one ring, and the ring while it runs."""

    __slots__ = (
        "addr",
        "base",
        "breaks",
        "broken",
        "enabled",
        "given_base",
        "has_kick",
        "index",
        "log",
        "logged",
        "num",
        "parked",
        "ring",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.logged = False  # its ring marks what it writes
        self.num = 0
        self.base = 0
        self.given_base = -1  # what GET_VRING_BASE answered last
        self.addr: tuple[int, int, int] | None = None  # desc, avail, used as the frontend's user addresses
        self.log: int | None = None  # VHOST_VRING_F_LOG: log_guest_addr
        self.enabled = False
        self.has_kick = False
        self.ring: Ring | None = None
        self.parked: Ring | None = None  # in its place while its areas are not translated
        self.broken: BrokenRing | None = None
        self.breaks = Breaks()

    @property
    def state(self) -> str:
        """One word for people; whether it is enabled is another matter."""
        if self.broken is not None:
            return "broken"
        return "stopped" if self.ring is None and self.parked is None else "running"
