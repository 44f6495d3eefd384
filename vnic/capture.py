# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture that is started and stopped while the back end runs (``vnic capture``).

It shows what the stack sees (vnic.feed) and, as a second interface of the file, what is on the wire where ``--loss``
and the like stand between the two.  ``--pcap`` shows the wire from the first packet on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devmodel.middleware.capture import PcapngRing, PcapngWriter, Writer, open_file
from vnic.errors import UsageError, from_oserror
from vnic.feed import Discard, PacketFeed, Subscription

MIN_RING = 65536 + 1024  # bytes of a file of a ring: the largest frame and what is round it
MAX_RING = 1 << 40
MAX_FILES = 10_000


@dataclass(frozen=True)
class Wanted:
    """What to capture into.  ``ring`` is the size of each of ``files`` files in bytes, None for one that grows."""

    path: Path
    ring: int | None = None
    files: int = 2
    comments: bool = False

    def check(self) -> None:
        """UsageError for what cannot be."""
        name = str(self.path)
        try:
            usable = bool(self.path.name) and b"\0" not in os.fsencode(name)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise UsageError(f"{name!r} is no name of a file", "nothing can be written there", "name a file")
        if self.ring is not None and not MIN_RING <= self.ring <= MAX_RING:
            raise UsageError(
                f"{self.ring} bytes is no size for a file of a ring",
                f"{MIN_RING}, which the largest packet takes, to {MAX_RING} are",
                "--ring 10M",
            )
        if not 1 <= self.files <= MAX_FILES:
            raise UsageError(f"{self.files} is no number of files", f"1 to {MAX_FILES} are", "--files 2")


class Capture:
    """Of one run; at most one file, or ring of files, at a time."""

    def __init__(self, feed: PacketFeed) -> None:
        self._feed = feed
        # Of the capture that runs, or of one that failed and was not stopped.
        self._subscription: Subscription | None = None
        self._wanted: Wanted | None = None

    def start(self, wanted: Wanted) -> dict[str, Any]:
        """Begin; its status.  UsageError if one runs already or there can be no comments, HostIOError of the file."""
        wanted.check()
        if self._running():
            assert self._wanted is not None
            raise UsageError("a capture runs already", f"it goes to {self._wanted.path}", "vnic capture stop")
        try:  # before the file is touched: what is in it stays if this cannot be
            subscription = self._feed.subscribe(Discard(), "paths" if wanted.comments else "none")
        except RuntimeError as error:
            raise UsageError(
                "cannot comment on packets", str(error), "end it, or leave --comments out"
            ) from error
        try:
            subscription.writer = self._writer(wanted)
        except OSError as error:
            subscription.end()
            raise from_oserror(error, f"write the capture to {wanted.path}") from error
        self._wanted, self._subscription = wanted, subscription
        return self.status()

    def _writer(self, wanted: Wanted) -> Writer:
        names = self._feed.interfaces
        if wanted.ring is None:
            return PcapngWriter(open_file(wanted.path), *names)
        return PcapngRing(wanted.path, names, wanted.ring, wanted.files)

    def _running(self) -> bool:
        return self._subscription is not None and not self._subscription.failed

    def stop(self) -> dict[str, Any]:
        """End it; its last status.  UsageError if there is none."""
        if self._subscription is None:
            raise UsageError("no capture runs", "there is none to stop", "vnic capture start FILE")
        self.close()
        last = self.status()
        self._subscription = self._wanted = None
        return {**last, "running": False}

    def close(self) -> None:
        """End it if there is one: the file is whole."""
        if self._subscription is not None:
            self._subscription.end()

    def status(self) -> dict[str, Any]:
        """What is being captured, or was when it failed: a dict for JSON."""
        if self._subscription is None or self._wanted is None:
            return {"running": False}
        return {
            "running": self._running(),
            "file": str(self._wanted.path),
            "ring": self._wanted.ring,
            "files": self._wanted.files if self._wanted.ring is not None else 1,
            "comments": self._wanted.comments,
            "packets": self._subscription.packets,
            "failed": self._subscription.failed,
        }
