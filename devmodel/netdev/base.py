# SPDX-License-Identifier: GPL-2.0-or-later
"""What the ports of this package share: handler, counters, frames that are finished in software, bounded queues.

    NetdevPort           a port whose wire carries complete frames (stream.py, stream_client.py)
      PacketPort         one system call moves one frame (dgram.py, tap.py)

What they decide:

* A frame with a header is finished before it is queued (offload.py), so `offloads` says that partial checksums and
  segmentation of all kinds are welcome. With `software_gso=False` it says that they are not; they are finished all the
  same.
* Frames queue until `flush()`, which writes them and never blocks; what the wire does not take waits, up to
  BACKLOG_BYTES, beyond which whole frames are dropped (`tx_drop_backlog`).
* What is read in one turn of the event loop is one batch, and is bounded, so that other ports and timers run.
* A frame below an Ethernet header is no frame (`rx_drop_empty`, `rx_drop_short`); one above MAX_FRAME is none of
  QEMU's (`rx_drop_long`, `tx_drop_too_big`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from devmodel.netdev.offload import finish
from devmodel.port import Buffer, Offloads, PortHandler, VnetHdr, deliver
from devmodel.virtio.spec import ETH_HLEN, MAX_GSO_FRAME, VIRTIO_NET_HDR_F_NEEDS_CSUM

MAX_FRAME: Final = 69632
"""QEMU's NET_BUFSIZE, 4096 + 65536: it takes nothing above."""
BACKLOG_BYTES = 4 << 20
BATCH: Final = 256
"""Frames that a packet port reads in one turn, as the vhost-user port takes off a ring."""

Frame = tuple[VnetHdr | None, bytes]

_COUNTERS = (
    "rx_frames",
    "rx_bytes",
    "rx_drop_empty",
    "rx_drop_short",
    "rx_drop_long",
    "tx_frames",
    "tx_bytes",
    "tx_drop_link_down",
    "tx_drop_malformed",
    "tx_drop_too_big",
    "tx_drop_backlog",
    "batches",
)


def _unsound(size: int) -> str:
    """The counter of a frame that is none."""
    if size > MAX_FRAME:
        return "rx_drop_long"
    return "rx_drop_short" if size else "rx_drop_empty"


class NetdevPort:
    """See the module. A subclass says when the link is up, queues complete frames, flushes and closes."""

    transport = ""
    """The kind, for `negotiation()`."""
    extra_counters: tuple[str, ...] = ()

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, mtu: int, software_gso: bool = True
    ) -> None:
        self.name = name
        self.mtu = mtu
        self._loop = loop
        self._up_offloads = (
            Offloads(
                csum=True,
                tso4=True,
                tso6=True,
                ecn=True,
                max_frame=MAX_GSO_FRAME,
                uso4=True,
                uso6=True,
                ufo=True,
            )
            if software_gso
            else Offloads(max_frame=mtu + ETH_HLEN)
        )
        self._max_frame = MAX_FRAME
        self._handler: PortHandler | None = None
        self._out_bytes = 0
        self._writing = False
        self._count = dict.fromkeys((*_COUNTERS, *self.extra_counters), 0)

    # -- Port -------------------------------------------------------------------------------------------

    @property
    def link_up(self) -> bool:
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Somebody is at the other end."""
        return self.link_up

    @property
    def offloads(self) -> Offloads:
        return self._up_offloads if self.link_up else Offloads()

    def negotiation(self) -> dict[str, Any]:
        """Such a wire negotiates nothing: a dict for JSON."""
        return {"transport": self.transport, "connected": self.connected, "mtu": self.mtu}

    def attach(self, handler: PortHandler) -> None:
        self._handler = handler
        if self.link_up:
            handler.link_changed(True, self.offloads)

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        if not self.link_up:
            self._count["tx_drop_link_down"] += 1
            return False
        if hdr is None or not (hdr.gso_type or hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM):
            return self._offer(parts)
        train = finish(hdr, parts)
        if not train:
            self._count["tx_drop_malformed"] += 1
            return False
        sent = True
        for frame in train:
            sent &= self._offer(frame)
        return sent

    def _offer(self, parts: Sequence[Buffer]) -> bool:
        """Queue one complete frame if it may be."""
        size = sum(map(len, parts))
        if self._has_room(size):
            self._queue(size, parts)
            return True
        return False

    def _has_room(self, size: int) -> bool:
        if ETH_HLEN <= size <= self._max_frame and self._out_bytes + size <= BACKLOG_BYTES:
            return True
        long = "tx_drop_too_big" if size > self._max_frame else "tx_drop_backlog"
        self._count[long if size >= ETH_HLEN else "tx_drop_malformed"] += 1
        return False

    def _queue(self, size: int, parts: Sequence[Buffer]) -> None:
        """Keep a copy: the caller's buffers may change before the wire takes them."""
        raise NotImplementedError

    def stats(self) -> dict[str, int]:
        count = self._count
        dropped = sum(number for name, number in count.items() if name.startswith("tx_drop_"))
        return {**count, "tx_queued": self._out_bytes, "tx_dropped": dropped}

    # -- what came ---------------------------------------------------------------------------------------

    def _deliver(self, frames: Iterable[Frame]) -> None:
        """Hand the sound ones on as one batch, and publish the answer."""
        count = self._count
        count["batches"] += 1
        sound: list[Frame] = []
        for one in frames:
            size = len(one[1])
            if size < ETH_HLEN or size > MAX_FRAME:
                count[_unsound(size)] += 1
                continue
            count["rx_frames"] += 1
            count["rx_bytes"] += size
            sound.append(one)
        if self._handler is not None:
            deliver(self._handler, sound, self._handler_failed)
        self.flush()

    def _handler_failed(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": f"{self.name}: handler failed", "exception": error})

    def _tell_link(self) -> None:
        if self._handler is not None:
            self._handler.link_changed(self.link_up, self.offloads)

    def flush(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class PacketPort(NetdevPort):
    """See the module. A subclass reads one frame, writes one frame, and says what an error means.

    `_overhead` is how much longer a queued packet is than its frame (a header before it).
    """

    _overhead = 0

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, mtu: int, software_gso: bool = True
    ) -> None:
        super().__init__(loop, name, mtu, software_gso)
        self._out: deque[bytes] = deque()

    def _read_one(self) -> Frame | None:
        """The next frame, None for one that was dropped and counted; BlockingIOError when there is none."""
        raise NotImplementedError

    def _write_one(self, packet: bytes) -> None:
        """Write one packet; BlockingIOError when it has to wait."""
        raise NotImplementedError

    def _read_failed(self, error: OSError) -> None:
        """Reading failed for another reason than that there is nothing."""
        raise NotImplementedError

    def _write_failed(self, error: OSError) -> str:
        """The counter of a packet that was refused; the port may take its link down here."""
        raise NotImplementedError

    def _write_fd(self) -> int:
        """What becomes writable when a packet need not wait any more; -1 when there is none."""
        raise NotImplementedError

    def _queue(self, size: int, parts: Sequence[Buffer]) -> None:
        self._out.append(b"".join(parts))
        self._out_bytes += size

    def flush(self) -> None:
        if not self._writing and self._out:
            self._write()

    def _write(self) -> None:
        """Write until all is written or the wire is full; then wait for it."""
        out, count = self._out, self._count
        while out:
            packet = out.popleft()
            size = len(packet) - self._overhead
            try:
                self._write_one(packet)
            except BlockingIOError:
                out.appendleft(packet)
                break
            except OSError as error:
                count[self._write_failed(error)] += 1
            else:
                count["tx_frames"] += 1
                count["tx_bytes"] += size
            self._out_bytes -= size
        self._watch_writable(bool(out))

    def _watch_writable(self, wanted: bool) -> None:
        fd = self._write_fd()
        if fd < 0 or wanted == self._writing:
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(fd, self._write)
        else:
            self._loop.remove_writer(fd)

    def _forget_queue(self, reason: str) -> None:
        """Drop what waits."""
        self._count[reason] += len(self._out)
        self._out.clear()
        self._out_bytes = 0
        self._watch_writable(False)

    def _readable(self) -> None:
        frames: list[Frame] = []
        for _ in range(BATCH):
            try:
                one = self._read_one()
            except BlockingIOError:
                break
            except OSError as error:
                self._read_failed(error)
                break
            if one is not None:
                frames.append(one)
        if frames:
            self._deliver(frames)
