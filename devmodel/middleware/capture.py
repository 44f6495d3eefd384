# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes what passes a Port as pcapng (IETF draft-ietf-opsawg-pcapng), which Wireshark and tcpdump open.

One section, one interface of link type Ethernet with the port's name, stamps in nanoseconds (if_tsresol 9)
from the clock that is handed in, and each packet's direction (epb_flags): inbound is from the guest to us,
outbound from us to the guest. GSO frames appear whole and partial checksums partial, as a capture on a TAP
shows them.

The file is written to at each flush of the port, so that what a crash leaves behind is whole up to there.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

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


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _pad(value)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return _BLOCK.pack(kind, size) + body + struct.pack("<I", size)


class PcapngWriter:
    """One file with one interface."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Sink, interface: str) -> None:
        self._sink = sink
        body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
        sink.write(_block(_SECTION_HEADER, body + _option(_SHB_USERAPPL, b"vnic") + bytes(4)))
        options = _option(_IF_NAME, interface.encode()) + _option(_IF_TSRESOL, b"\x09") + bytes(4)
        sink.write(_block(_INTERFACE_DESCRIPTION, struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, 0) + options))
        sink.flush()

    def write(self, stamp_ns: int, direction: int, parts: Sequence[Buffer]) -> None:
        """Append one frame, given as consecutive pieces."""
        frame = b"".join(parts)
        size = len(frame)
        padding = -size % 4
        total = 32 + size + padding + 12
        high, low = stamp_ns >> 32 & 0xFFFFFFFF, stamp_ns & 0xFFFFFFFF
        head = _EPB.pack(_ENHANCED_PACKET, total, 0, high, low, size, size)
        end = _EPB_END.pack(_EPB_FLAGS, 4, direction, 0, 0, total)
        self._sink.write(b"".join((head, frame, bytes(padding), end)))

    def flush(self) -> None:
        """Hand all that was written to the operating system."""
        self._sink.flush()

    def close(self) -> None:
        """Close the file."""
        self._sink.close()


class CapturePort:
    """A Port round `inner` that writes each frame that passes.

    `clock` gives nanoseconds since 1970. Frames to the guest are written when the inner port took them, so
    that what it dropped is not in the file. `close()` closes the file and the inner port. A file that can be
    written no longer (a full disk) ends the capture with a warning; the traffic goes on.
    """

    def __init__(self, inner: Port, writer: PcapngWriter, clock: Callable[[], int]) -> None:
        self.inner = inner
        self.name = inner.name
        self._writer = writer
        self._clock = clock
        self._handler: PortHandler | None = None
        self._open = True

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
        if sent:
            self._record(OUTBOUND, parts)
        return sent

    def flush(self) -> None:
        self.inner.flush()
        self._flush_file()

    def stats(self) -> dict[str, int]:
        return self.inner.stats()

    def close(self) -> None:
        self.inner.close()
        if self._open:
            self._open = False
            self._close_file()

    def _record(self, direction: int, parts: Sequence[Buffer]) -> None:
        if self._open:
            try:
                self._writer.write(self._clock(), direction, parts)
            except OSError as error:
                self._give_up(error)

    def _flush_file(self) -> None:
        if self._open:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._open = False
        log.warning("the capture of %s ends here, the traffic goes on: %s", self.name, error)
        self._close_file()

    def _close_file(self) -> None:
        """A buffered file tries what it holds once more, and is closed even when that fails."""
        with contextlib.suppress(OSError):
            self._writer.close()

    # -- PortHandler, for the inner port ----------------------------------------------------------------

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self._record(INBOUND, (frame,))
        if self._handler is not None:
            self._handler.frame_received(hdr, frame)

    def batch_done(self) -> None:
        if self._handler is not None:
            self._handler.batch_done()
        self._flush_file()

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        if self._handler is not None:
            self._handler.link_changed(up, offloads)
