# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of the notifications of one ring, both ways (virtio 1.2, sections 2.7.7, 2.7.10, 2.8.10).

Terms. A *look* is one go at a ring until nothing is in it. A *batch* is what one look took at once and gave back
together: up to 256 buffers of a transmit queue, the frames that had waited for buffers of a receive queue, the
commands of a control queue. Everything is counted per batch or per event, never per buffer.

Kicks (the driver tells the device). Each look has one cause:

    kicks        kicks that were read. Several that come before the device reads its eventfd are one.
    spurious     of those, the ones whose look found nothing: the buffers had been taken already, the ring does not
                 run, or, on a receive queue, no frame waits for buffers
    lost         looks of the re-check that found a batch that the driver was to kick for, with no kick on its way
    at_start     looks at a ring that started, or goes on after a pause (vhost_user/iommu.py), that found a batch: the
                 kick for it may have gone to somebody else, or came when nothing could be done
    suppressed   batches that needed no kick, as the device had asked for none: found when it looked again after a batch
    batches      all of them

    batches == (kicks - spurious) + lost + at_start + suppressed

Interrupts (the device tells the driver). A *decision* asks once whether the driver wants to hear of what it was shown:

    shown        batches of used buffers that were made visible
    needed       decisions that said yes
    suppressed   decisions that said no: the driver's flag, its event index or its event structure
    coalesced    batches shown for which nothing was decided, as another queue's interrupt went out for the answer
    stopped      batches shown for which nothing was decided, as the ring was stopped or broken meanwhile
    held         batches shown for which nothing was decided, as the driver lets its interrupts wait (NOTF_COAL)
    timed        decisions at the end of that time
    lost         decisions of the re-check that said yes to a coalesced batch: the driver waited and was not told
    settled      decisions of the re-check that said no to one: the driver had looked by itself
    fresh        decisions of the re-check that said yes with nothing new: a ring that has just started, goes on after a
                 pause, or whose call descriptor was replaced, has its driver told once whatever the event says
    sent, unsent interrupts that were written to the call descriptor, and those that could not be: there is none (it is
                 told as soon as there is one), or its counter is full, which means that the driver has not looked yet

    shown + lost + settled + fresh + timed == needed + suppressed + coalesced + stopped + held
    needed == sent + unsent, if nobody injects interrupts (ringfaults.py)
    lost + settled <= coalesced

What cannot be seen from here: an interrupt that was written and that the frontend or the guest's kernel lost, and a
kick that the driver did not send since it was asked for none.
"""

from __future__ import annotations


class KickAudit:
    """See the module."""

    __slots__ = ("at_start", "batches", "kicks", "lost", "spurious", "suppressed")

    def __init__(self) -> None:
        self.kicks = 0
        self.spurious = 0
        self.lost = 0
        self.at_start = 0
        self.suppressed = 0
        self.batches = 0

    def looked(self, batches: int, caused: bool = True) -> int:
        """A look found so many; `caused`: the first of them had a cause, which the caller counts. How many."""
        if batches:
            self.batches += batches
            self.suppressed += batches - caused
        return batches

    def asdict(self) -> dict[str, int]:
        return {
            "kicks": self.kicks,
            "spurious": self.spurious,
            "lost": self.lost,
            "at_start": self.at_start,
            "suppressed": self.suppressed,
            "batches": self.batches,
        }


class InterruptAudit:
    """See the module. `pending`: something was shown that nothing was decided for yet."""

    __slots__ = (
        "coalesced",
        "fresh",
        "held",
        "lost",
        "needed",
        "pending",
        "sent",
        "settled",
        "shown",
        "stopped",
        "suppressed",
        "timed",
        "unsent",
    )

    def __init__(self) -> None:
        self.shown = 0
        self.needed = 0
        self.suppressed = 0
        self.coalesced = 0
        self.stopped = 0
        self.held = 0
        self.timed = 0
        self.lost = 0
        self.settled = 0
        self.fresh = 0
        self.sent = 0
        self.unsent = 0
        self.pending = False

    def rechecked(self, wanted: bool) -> None:
        """With no batch of its own."""
        pending = self.pending
        if wanted:
            self.needed += 1
            if pending:
                self.lost += 1
            else:
                self.fresh += 1
        elif pending:
            self.suppressed += 1
            self.settled += 1
        self.pending = False

    def held_back(self) -> None:
        """A batch was shown, and its interrupt may wait."""
        self.shown += 1
        self.held += 1

    def put_off(self) -> None:
        """Another queue's interrupt went out."""
        self.coalesced += 1
        self.pending = True

    def asdict(self) -> dict[str, int]:
        return {
            "shown": self.shown,
            "needed": self.needed,
            "suppressed": self.suppressed,
            "coalesced": self.coalesced,
            "stopped": self.stopped,
            "held": self.held,
            "timed": self.timed,
            "lost": self.lost,
            "settled": self.settled,
            "fresh": self.fresh,
            "sent": self.sent,
            "unsent": self.unsent,
        }


class RingAudit:
    """Of one ring, for as long as its device is there: it outlives drivers and frontends."""

    __slots__ = ("interrupts", "kicks")

    def __init__(self) -> None:
        self.kicks = KickAudit()
        self.interrupts = InterruptAudit()

    def asdict(self) -> dict[str, dict[str, int]]:
        """A dict for JSON."""
        return {"kicks": self.kicks.asdict(), "interrupts": self.interrupts.asdict()}
