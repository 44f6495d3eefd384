# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend's IOMMU as a session sees it: which translations were asked for, and which rings wait for them.

With VIRTIO_F_ACCESS_PLATFORM all addresses of a ring are I/O virtual. What is not known yet is asked for over the
back-end channel ("IOMMU support"): a miss there, an update on the main socket, then the answer to the miss. Nothing
waits for that but the ring that needs it:

    runs -> waits     it met a buffer that is not translated. The buffer stays in the ring; kicks are looked at as
                      ever and end the same way
    runs -> parked    the run that one of its areas lies in was invalidated (a guest that flushes its IOMMU lazily
                      does so to everything, many times a second). What was pushed is published, all views of
                      its areas are let go of before the invalidation is answered, its indexes are kept
    parked, waits -> runs   all pages that it missed have come. It is looked at without a kick
    parked, waits -> broken the answer to a miss is not 0, a page may not be used as the ring has to (then the
                      frontend is told, ACCESS_FAIL), or the channel is gone

A page that is answered by 0 without an update is asked for again when the server looks at its rings the next time,
every 80 ms at the latest; one that is never answered costs the channel (backend_channel.REPLY_S).
"""

from __future__ import annotations

from devmodel.virtio.iotlb import Iotlb, IotlbMemory, IotlbMiss
from devmodel.virtio.memory import GuestMemory


class Iommu:
    """See the module."""

    __slots__ = ("_asked", "_waiting", "memory", "tlb")

    def __init__(self, memory: GuestMemory) -> None:
        self.tlb = Iotlb(memory)
        self.memory = IotlbMemory(self.tlb)
        self._asked: set[int] = set()  # addresses of misses that were not answered yet
        self._waiting: dict[int, tuple[set[int], int]] = {}  # ring: what it misses, and for which access

    def wait(self, ring: int, miss: IotlbMiss) -> list[int]:
        """A ring waits for what it missed; the addresses to be asked for that nobody has asked for yet."""
        self._waiting[ring] = (set(miss.missing), miss.access)
        return [iova for iova in miss.missing if iova not in self._asked]

    def asked(self, iova: int) -> None:
        self._asked.add(iova)

    def forget(self, ring: int) -> None:
        """It waits for nothing any more."""
        self._waiting.pop(ring, None)

    def waits(self, ring: int) -> bool:
        return ring in self._waiting

    def to_ask_again(self, ring: int) -> bool:
        """It misses something, and no answer is under way."""
        waiting = self._waiting.get(ring)
        return waiting is not None and not waiting[0] <= self._asked

    def came(self) -> list[int]:
        """The translations changed: the rings that miss nothing any more, in the order in which they began to wait."""
        ready = []
        for ring, (missing, _access) in list(self._waiting.items()):
            missing -= {iova for iova in missing if self.tlb.find(iova) is not None}
            if not missing:
                del self._waiting[ring]
                ready.append(ring)
        return ready

    def answered(self, iova: int, ok: bool) -> list[int]:
        """A miss was answered; the rings that will never get what they wait for."""
        self._asked.discard(iova)
        if ok:
            return []
        return [ring for ring, (missing, _access) in self._waiting.items() if iova in missing]

    def everyone(self) -> list[int]:
        """All rings that wait."""
        return list(self._waiting)

    def rebase(self, memory: GuestMemory) -> None:
        self.tlb.rebase(memory)
