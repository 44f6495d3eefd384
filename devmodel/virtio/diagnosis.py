# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a ring is in quarantine, how often that happened and what ended it: what people and programs are told.

The log, `VhostUserServer.negotiation()` and VRING_ERR's descriptor say the same thing, when it happens and as long as
the device is there. A break ends with the message of the frontend that makes the ring startable again, which follows
from a reset by the guest's driver (GET_VRING_BASE), or with the frontend's connection.
"""

from __future__ import annotations

from typing import Any

from devmodel.errors import BrokenRing


def diagnosis(error: BrokenRing) -> dict[str, Any]:
    """A dict for JSON; head and descriptor are None where the rule is not about one."""
    return {
        "queue": error.queue,
        "head": error.head if error.head >= 0 else None,
        "descriptor": error.descriptor if error.descriptor >= 0 else None,
        "rule": error.rule,
        "section": error.section,
        "fact": error.fact,
        "evidence": error.evidence,
        "remedy": error.remedy,
    }


class Breaks:
    """Of one ring, for as long as its device is there. `at` is the device's clock, for whoever has one."""

    __slots__ = ("at", "count", "ended_by", "last")

    def __init__(self) -> None:
        self.count = 0
        self.last: BrokenRing | None = None
        self.ended_by = ""  # of the last one; "" while it lasts
        self.at = 0.0

    def broke(self, error: BrokenRing) -> None:
        self.count += 1
        self.last = error
        self.ended_by = ""

    def ended(self, by: str) -> None:
        self.ended_by = by

    def asdict(self, now: float) -> dict[str, Any]:
        """A dict for JSON; `ago_s` in seconds."""
        last = None
        if self.last is not None:
            last = {
                **diagnosis(self.last),
                "ago_s": round(max(now - self.at, 0.0), 3),
                "ended_by": self.ended_by,
            }
        return {"breaks": self.count, "last_break": last}
