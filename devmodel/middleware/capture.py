# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes what passes a Port as pcapng (IETF draft-ietf-opsawg-pcapng), which Wireshark and tcpdump open.

One section, an interface of link type Ethernet for each port that is captured, with its name, stamps in nanoseconds
(if_tsresol 9) from the clock that is handed in, and each packet's direction (epb_flags): inbound is from the
guest to us, outbound from us to the guest. GSO frames appear whole and partial checksums partial, as a capture
on a TAP shows them.

The file is written to at each flush of the port, so that what a crash leaves behind is whole up to there. A
capture that may not grow goes round: PcapngRing begins a new file when one is full and removes the oldest.

A Commenter gives each packet a comment (opt_comment): what is behind the port knows what became of a frame only
once it has dealt with it, so a received frame is written after that, with the time at which it came, and what
was sent meanwhile follows it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import struct
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from devmodel.port import Buffer, Offloads, Port, PortHandler, VnetHdr

log = logging.getLogger(__name__)

INBOUND = 1
OUTBOUND = 2

_BLOCK = struct.Struct("<II")
_EPB = struct.Struct("<IIIIIII")
_EPB_END = struct.Struct("<HHIHHI")
_SECTION_HEADER, _INTERFACE_DESCRIPTION, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_OPT_COMMENT, _SHB_USERAPPL, _IF_NAME, _IF_TSRESOL, _EPB_FLAGS = 1, 4, 2, 9, 2
_LINKTYPE_ETHERNET = 1


class Sink(Protocol):
    """A binary file, as far as it is needed."""

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...

    def close(self) -> object: ...


class Captured(NamedTuple):
    """A frame that passed, given as consecutive pieces; `interface` counts the points that are captured, from 0."""

    stamp_ns: int
    direction: int
    parts: Sequence[Buffer]
    comment: str = ""
    interface: int = 0


class Writer(Protocol):
    """What a capture is written to."""

    def write(self, packet: Captured, /) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Commenter(Protocol):
    """What is said of each packet; "" for nothing."""

    def received(self, frame: bytes) -> Callable[[], str]:
        """A frame comes from the guest; what is returned is asked once it has been dealt with."""

    def sent(self, parts: Sequence[Buffer]) -> str:
        """A frame goes to the guest."""


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _pad(value)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return _BLOCK.pack(kind, size) + body + struct.pack("<I", size)


class PcapngWriter:
    """One file; ``size`` is how many bytes were written to it. After ``close()`` nothing is written any more."""

    __slots__ = ("_open", "_sink", "size")

    def __init__(self, sink: Sink, *interfaces: str) -> None:
        """The names of the ports that packets come from, the first is interface 0."""
        self._sink = sink
        self._open = True
        self.size = 0
        body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
        self._append(_block(_SECTION_HEADER, body + _option(_SHB_USERAPPL, b"vnic") + bytes(4)))
        for name in interfaces:
            options = _option(_IF_NAME, name.encode()) + _option(_IF_TSRESOL, b"\x09") + bytes(4)
            described = struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, 0) + options
            self._append(_block(_INTERFACE_DESCRIPTION, described))
        sink.flush()

    def write(self, packet: Captured) -> None:
        """Append one frame."""
        stamp_ns, direction, parts, comment, interface = packet
        frame = b"".join(parts)
        size = len(frame)
        padding = -size % 4
        said = _option(_OPT_COMMENT, comment.encode()) if comment else b""
        total = 32 + size + padding + 12 + len(said)
        high, low = stamp_ns >> 32 & 0xFFFFFFFF, stamp_ns & 0xFFFFFFFF
        head = _EPB.pack(_ENHANCED_PACKET, total, interface, high, low, size, size)
        end = _EPB_END.pack(_EPB_FLAGS, 4, direction, 0, 0, total)
        self._append(b"".join((head, frame, bytes(padding), said, end)))

    def _append(self, data: bytes) -> None:
        if self._open:
            self._sink.write(data)
            self.size += len(data)

    def flush(self) -> None:
        """Hand all that was written to the operating system."""
        if self._open:
            self._sink.flush()

    def close(self) -> None:
        """Close the file."""
        self._open = False
        self._sink.close()


class Point:
    """One of several ports that write to the same; whoever closes first closes it for all."""

    __slots__ = ("_interface", "_shared")

    def __init__(self, shared: Writer, interface: int) -> None:
        self._shared, self._interface = shared, interface

    def write(self, packet: Captured) -> None:
        """Hand a frame on as that interface's."""
        self._shared.write(packet._replace(interface=self._interface))

    def flush(self) -> None:
        self._shared.flush()

    def close(self) -> None:
        self._shared.close()


def open_file(path: Path) -> Sink:
    """A new file, or that one emptied, which only its owner may read. OSError, also for what is no regular file: a
    pipe that nobody reads would stop whoever captures."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return os.fdopen(fd, "wb")


class PcapngRing:
    """The last ``files`` files of at most ``limit`` bytes each (a packet larger than that has one to itself), named
    after ``path``: net.pcapng makes net_00001.pcapng, net_00002.pcapng and so on. OSError as of files."""

    def __init__(self, path: Path, interfaces: Sequence[str], limit: int, files: int) -> None:
        self._path, self._interfaces, self._limit, self._files = path, interfaces, limit, files
        self._number = 0
        self._kept: deque[Path] = deque()
        self._writer = self._next()
        self._empty = self._writer.size

    def _next(self) -> PcapngWriter:
        self._number += 1
        path = self._path.with_stem(f"{self._path.stem}_{self._number:05}")
        writer = PcapngWriter(open_file(path), *self._interfaces)
        self._kept.append(path)
        if len(self._kept) > self._files:
            self._kept.popleft().unlink(missing_ok=True)
        return writer

    def write(self, packet: Captured) -> None:
        """Append one frame, to a new file if this one is full."""
        coming = 56 + sum(map(len, packet.parts)) + len(packet.comment)
        if self._writer.size > self._empty and self._writer.size + coming > self._limit:
            self._writer.close()
            self._writer = self._next()
        self._writer.write(packet)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class CapturePort:
    """A Port round `inner` that writes each frame that passes.

    `clock` gives nanoseconds since 1970. Frames to the guest are written when the inner port took them, so
    that what it dropped is not in the file. `close()` closes the file and the inner port. A file that can be
    written no longer (a full disk) ends the capture with a warning; the traffic goes on. `writer` and `comments`
    may be exchanged at any time; without a writer nothing is looked at.
    """

    def __init__(
        self,
        inner: Port,
        writer: Writer | None,
        clock: Callable[[], int],
        comments: Commenter | None = None,
    ) -> None:
        self.inner = inner
        self.name = inner.name
        self.writer = writer
        self.comments = comments
        self._clock = clock
        self._sent_meanwhile: list[tuple[int, bytes, str]] | None = None
        self._handler: PortHandler | None = None

    @property
    def link_up(self) -> bool:
        return self.inner.link_up

    @property
    def offloads(self) -> Offloads:
        return self.inner.offloads

    def attach(self, handler: PortHandler) -> None:
        self._handler = handler
        self.inner.attach(self)

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        sent = self.inner.send(hdr, parts)
        if sent and self.writer is not None:
            self._sent(parts)
        return sent

    def flush(self) -> None:
        self.inner.flush()
        self._flush_file()

    def stats(self) -> dict[str, int]:
        return self.inner.stats()

    def close(self) -> None:
        self.inner.close()
        self._close_file()

    def _sent(self, parts: Sequence[Buffer]) -> None:
        if self.comments is None:
            self._record(self._clock(), OUTBOUND, parts)
            return
        comment = self.comments.sent(parts)
        if self._sent_meanwhile is None:
            self._record(self._clock(), OUTBOUND, parts, comment)
        else:
            self._sent_meanwhile.append((self._clock(), b"".join(parts), comment))

    def _received(self, comments: Commenter, hdr: VnetHdr | None, frame: bytes) -> None:
        """Let the frame be dealt with, then write it and what was sent for it."""
        stamp, explain = self._clock(), comments.received(frame)
        sent: list[tuple[int, bytes, str]] = []
        self._sent_meanwhile = sent
        try:
            if self._handler is not None:
                self._handler.frame_received(hdr, frame)
        finally:
            self._sent_meanwhile = None
            self._record(stamp, INBOUND, (frame,), explain())
            for when, answer, comment in sent:
                self._record(when, OUTBOUND, (answer,), comment)

    def _record(self, stamp_ns: int, direction: int, parts: Sequence[Buffer], comment: str = "") -> None:
        if self.writer is not None:
            try:
                self.writer.write(Captured(stamp_ns, direction, parts, comment))
            except OSError as error:
                self._give_up(error)

    def _flush_file(self) -> None:
        if self.writer is not None:
            try:
                self.writer.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("the capture of %s ends here, the traffic goes on: %s", self.name, error)
        self._close_file()

    def _close_file(self) -> None:
        """A buffered file tries what it holds once more, and is closed even when that fails."""
        writer, self.writer = self.writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()

    # -- PortHandler, for the inner port ----------------------------------------------------------------

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        if self.writer is not None:
            if self.comments is not None:
                self._received(self.comments, hdr, frame)
                return
            self._record(self._clock(), INBOUND, (frame,))
        if self._handler is not None:
            self._handler.frame_received(hdr, frame)

    def batch_done(self) -> None:
        if self._handler is not None:
            self._handler.batch_done()
        self._flush_file()

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        if self._handler is not None:
            self._handler.link_changed(up, offloads)
