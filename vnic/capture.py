# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture that is started and stopped while the back end runs (``vnic capture``).

While there is one, a CapturePort stands between the stack and its port; before and after it nothing does.  It shows
what the stack saw: with ``--loss`` and the like what they left of it, where ``--pcap``, which lies next to the wire,
shows what the guest saw.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devmodel.middleware.capture import CapturePort, PcapngRing, PcapngWriter, Writer, open_file
from vnic.errors import UsageError, from_oserror

if TYPE_CHECKING:
    from stack.trace.packets import PacketComments
    from vnic.host import Adapter

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

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._port: CapturePort | None = None
        self._comments: PacketComments | None = None
        # Of the capture that runs, or of one that failed and was not stopped.
        self._wanted: Wanted | None = None

    def start(self, wanted: Wanted) -> dict[str, Any]:
        """Begin; its status.  UsageError if one runs already or there can be no comments, HostIOError of the file."""
        wanted.check()
        if self._running():
            assert self._wanted is not None
            raise UsageError("a capture runs already", f"it goes to {self._wanted.path}", "vnic capture stop")
        comments = self._commenting() if wanted.comments else None
        try:
            writer = self._writer(wanted)
        except BaseException as error:
            if comments is not None:
                comments.stop()
            if isinstance(error, OSError):
                raise from_oserror(error, f"write the capture to {wanted.path}") from error
            raise
        self._wanted, self._comments = wanted, comments
        self._port = CapturePort(self._adapter.port, writer, time.time_ns, comments, self._unplug)
        self._adapter.plug(self._port)
        return self.status()

    def _writer(self, wanted: Wanted) -> Writer:
        name = self._adapter.port.name
        if wanted.ring is None:
            return PcapngWriter(open_file(wanted.path), name)
        return PcapngRing(wanted.path, name, wanted.ring, wanted.files)

    def _commenting(self) -> PacketComments:
        from stack.trace.packets import PacketComments
        from stack.trace.recorder import is_compiled

        if is_compiled():
            raise UsageError(
                "the stack is compiled", "compiled functions cannot be traced", "leave --comments out"
            )
        comments = PacketComments(self._adapter.net, self._adapter.dev.ifindex)
        try:
            comments.start()
        except RuntimeError as error:
            raise UsageError(
                "cannot comment on packets", str(error), "end it, or leave --comments out"
            ) from error
        return comments

    def _running(self) -> bool:
        return self._port is not None and not self._port.failed

    def _unplug(self) -> None:
        """Nothing stands between the stack and its port any more, and nobody traces."""
        if self._comments is not None:
            self._comments.stop()
            self._comments = None
        if self._port is not None and self._adapter.port is self._port:
            self._adapter.plug(self._port.inner)

    def stop(self) -> dict[str, Any]:
        """End it; its last status.  UsageError if there is none."""
        if self._port is None:
            raise UsageError("no capture runs", "there is none to stop", "vnic capture start FILE")
        self.close()
        last = self.status()
        self._port = self._wanted = None
        return {**last, "running": False}

    def close(self) -> None:
        """End it if there is one: the file is whole."""
        self._unplug()
        if self._port is not None:
            self._port.end()

    def status(self) -> dict[str, Any]:
        """What is being captured, or was when it failed: a dict for JSON."""
        if self._port is None or self._wanted is None:
            return {"running": False}
        return {
            "running": self._running(),
            "file": str(self._wanted.path),
            "ring": self._wanted.ring,
            "files": self._wanted.files if self._wanted.ring is not None else 1,
            "comments": self._wanted.comments,
            "packets": self._port.packets,
            "failed": self._port.failed,
        }
