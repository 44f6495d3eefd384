# SPDX-License-Identifier: GPL-2.0-or-later
"""What the driver's side of a virtqueue is, whichever layout it has (virtio 1.2, sections 2.6 to 2.8).

A driver adds buffers, publishes what it added, kicks if the device wants to be kicked, and takes what comes back::

    queue.add([Piece(gpa, size)], token)      laid into the ring; the device does not see it yet
    if queue.publish():                       one store shows it all that was added
        kick()                                only then: the device asked for it (2.7.10, 2.8.10)
    for token, written in queue.used(): ...   what the device gave back, in the order in which it did

Interrupts are asked for with `enable_calls()`, which says whether something came back meanwhile, so that no
completion is slept over, and not wanted with `disable_calls()`.

The device is not trusted either: what it gives back must have been made available, with no more bytes written than the
buffer has room for. DeviceBroken names the rule if not. The hostile driver of tests and of `vnic torture` goes round
these methods and writes ring memory by itself.

Both layouts keep three areas at guest physical addresses (`desc_gpa`, `driver_gpa`, `device_gpa`), which
SET_VRING_ADDR names as descriptor table, available and used ring.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

from devmodel.virtio import features as vf
from devmodel.virtio.memory import READ, WRITE
from guest.driver.errors import DeviceBroken
from guest.driver.iommu import Iommu
from guest.driver.memory import DriverMemory


class Piece(NamedTuple):
    """One descriptor's worth of guest memory; `writable` is seen from the device."""

    gpa: int
    size: int
    writable: bool = False


class Used(NamedTuple):
    """A buffer that came back: what `add()` was given as its token, and how many bytes the device wrote."""

    token: Any
    written: int


class QueueFull(Exception):
    """Fewer free descriptors than the buffer needs; nothing was changed."""


Lent = list[tuple[int, int]]


class Outstanding:
    """A buffer that the device has."""

    __slots__ = ("capacity", "descriptors", "ids", "lent", "table", "token")

    def __init__(
        self, token: Any, ids: list[int], descriptors: int, capacity: int, table: int, lent: Lent
    ) -> None:
        self.token = token
        self.ids = ids
        self.descriptors = descriptors  # how many places of the ring it takes
        self.capacity = capacity  # bytes that the device may write
        self.table = table  # gpa of its indirect table, -1 without
        self.lent = lent  # iova and size of what is mapped for it


class Virtqueue(ABC):
    """See the module. `kicks_wanted` and `kicks_spared` count what `publish()` said."""

    sizes: tuple[int, int, int]  # bytes of the three areas
    aligns: tuple[int, int, int]

    def __init__(
        self, memory: DriverMemory, index: int, num: int, features: int, iommu: Iommu | None = None
    ) -> None:
        """With an IOMMU, what goes into descriptors and SET_VRING_ADDR are its addresses."""
        self.memory = memory
        self.iommu = iommu
        self.index = index
        self.num = num
        self.event_idx = bool(features >> vf.VIRTIO_F_EVENT_IDX & 1)
        self.indirect = bool(features >> vf.VIRTIO_F_INDIRECT_DESC & 1)
        self.in_order = bool(features >> vf.VIRTIO_F_IN_ORDER & 1)
        self.kicks_wanted = 0
        self.kicks_spared = 0
        self._fence = Lock()
        self.sizes = self._area_sizes(num)
        self.desc_gpa, self.driver_gpa, self.device_gpa = (
            memory.alloc(size, align) for size, align in zip(self.sizes, self.aligns, strict=True)
        )
        areas = (self.desc_gpa, self.driver_gpa, self.device_gpa)
        if iommu is None:
            self.addresses = [memory.uva(gpa) for gpa in areas]
        else:
            self.addresses = [iommu.map(gpa, size) for gpa, size in zip(areas, self.sizes, strict=True)]
        self._bind()
        self.reset()

    @property
    def log_address(self) -> int:
        """What SET_VRING_ADDR has for the log of a migration: where the device area lies for the device."""
        return self.device_gpa if self.iommu is None else self.addresses[2]

    @staticmethod
    @abstractmethod
    def _area_sizes(num: int) -> tuple[int, int, int]: ...

    @abstractmethod
    def _bind(self) -> None:
        """Make the views of ring memory."""

    @abstractmethod
    def reset(self) -> None:
        """As a driver leaves the queue before it hands it over; whatever the device had is forgotten."""

    @property
    @abstractmethod
    def free(self) -> int:
        """Descriptors that `add()` may still take."""

    @property
    @abstractmethod
    def base(self) -> int:
        """What SET_VRING_BASE has to say of this queue now: where the device is to go on."""

    @abstractmethod
    def add(self, pieces: Sequence[Piece], token: Any, indirect: bool = False) -> None:
        """Lay one buffer into the ring, device-readable pieces first (2.7.4.2). QueueFull."""

    @abstractmethod
    def publish(self) -> bool:
        """Show the device all that was added; whether it wants a kick for it. False if nothing was added."""

    @abstractmethod
    def used(self) -> list[Used]:
        """What came back since the last call. DeviceBroken."""

    @abstractmethod
    def enable_calls(self) -> bool:
        """Ask for an interrupt with the next buffer; True if one came back already."""

    @abstractmethod
    def disable_calls(self) -> None:
        """Ask for no interrupts; the device may send some nevertheless."""

    @abstractmethod
    def outstanding(self) -> int:
        """How many buffers the device has."""

    @abstractmethod
    def _abandoned(self) -> list[Outstanding]:
        """The buffers that the device has; the queue forgets them."""

    def release(self) -> list[Any]:
        """Give ring memory back once the device has let go of it; the tokens of buffers that never came back."""
        lost = self._abandoned()
        if self.iommu is not None:
            for address, size in zip(self.addresses, self.sizes, strict=True):
                self.iommu.unmap(address, size)
        for what in lost:
            self._unmap(what)
            if what.table >= 0:
                self.memory.free(what.table)
        for gpa in (self.desc_gpa, self.driver_gpa, self.device_gpa):
            self.memory.free(gpa)
        return [what.token for what in lost]

    # -- shared -----------------------------------------------------------------------------------------

    def _barrier(self) -> None:
        """A full fence: see devmodel/virtio/ring_split.py, which needs the same."""
        with self._fence:
            pass

    def _count_kick(self, wanted: bool) -> bool:
        if wanted:
            self.kicks_wanted += 1
        else:
            self.kicks_spared += 1
        return wanted

    def _broken(self, rule: str, section: str) -> DeviceBroken:
        return DeviceBroken(self.index, rule, section)

    def _completed(self, what: Outstanding, written: int) -> Used:
        """Free what belongs to a buffer that came back."""
        self._unmap(what)
        if what.table >= 0:
            self.memory.free(what.table)
        if written > what.capacity:
            rule = f"{written} bytes written into a buffer with room for {what.capacity}"
            raise self._broken(rule, "2.7.8.2")
        return Used(what.token, written)

    def _lend(self, pieces: Sequence[Piece], lent: Lent) -> Sequence[Piece]:
        """The pieces as the device is to address them; `lent` gets what was mapped for that."""
        iommu = self.iommu
        if iommu is None:
            return pieces
        mapped = []
        for gpa, size, writable in pieces:
            iova = iommu.map(gpa, size, WRITE if writable else READ)
            lent.append((iova, size))
            mapped.append(Piece(iova, size, writable))
        return mapped

    def _unmap(self, what: Outstanding) -> None:
        if self.iommu is not None:
            for iova, size in what.lent:
                self.iommu.unmap(iova, size)

    def _check(self, pieces: Sequence[Piece], indirect: bool) -> None:
        """ValueError for a buffer that this driver must not offer: a mistake of our caller."""
        if not pieces or len(pieces) > self.num:
            raise ValueError(f"a buffer of {len(pieces)} pieces for a queue of {self.num}")
        if indirect and not self.indirect:
            raise ValueError("VIRTIO_F_INDIRECT_DESC was not negotiated")
        flags = [piece.writable for piece in pieces]
        if flags != sorted(flags):
            raise ValueError("a device-readable piece follows a device-writable one")


def capacity_of(pieces: Sequence[Piece]) -> int:
    """How many bytes the device may write into a buffer."""
    return sum(piece.size for piece in pieces if piece.writable)
