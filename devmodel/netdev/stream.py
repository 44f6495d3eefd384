# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's `-netdev stream` (and `-netdev socket,connect=`): a Port at the listening end of a stream socket.

Wire: a 4-byte big-endian length, then an Ethernet frame without FCS, both ways; no vnet header. A length
above 69632 (QEMU's own limit, 4096 + 65536) cannot be followed any more, so the connection ends; a length
of 0 is skipped. Frames may be shorter than 60 bytes.

As the wire has no header, checksums and segmentation are done here: `offloads` says that frames with partial
checksums and TSO frames are welcome, and `send()` finishes them (offload.py). With `software_gso=False` it
says that they are not; a frame with a header is finished all the same. The guest's MTU is `mtu`.

Frames queue until `flush()`, which writes them with as few system calls as possible and never blocks; what
the socket does not take waits, up to 4 MiB, beyond which whole frames are dropped (`tx_drop_backlog`).

One QEMU at a time: a second one is hung up on. After a hang-up it goes on listening. QEMU 7.2 connects
once, when it starts, and does not come back; 8.0 has `reconnect=`.

Counters (`stats()`): rx_frames, rx_bytes, rx_drop_{empty,short}, tx_frames, tx_bytes,
tx_drop_{link_down,malformed, too_big,backlog} and their sum tx_dropped, batches, connects,
clients_refused, framing_errors, tx_queued (bytes).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from devmodel.listener import Listener, listen_inet, listen_unix
from devmodel.netdev.offload import finish
from devmodel.port import Buffer, Offloads, PortHandler, VnetHdr, deliver
from devmodel.virtio.spec import ETH_HLEN, MAX_GSO_FRAME

log = logging.getLogger(__name__)

MAX_FRAME = 69632
BACKLOG_BYTES = 4 << 20
READ_BYTES = 256 << 10
READS_PER_TURN = 4
IOV = 1000  # below UIO_MAXIOV, 1024

_LENGTH = struct.Struct(">I")
_COUNTERS = (
    "rx_frames",
    "rx_bytes",
    "rx_drop_empty",
    "rx_drop_short",
    "tx_frames",
    "tx_bytes",
    "tx_drop_link_down",
    "tx_drop_malformed",
    "tx_drop_too_big",
    "tx_drop_backlog",
    "batches",
    "connects",
    "clients_refused",
    "framing_errors",
)
_TX_DROPS = ("tx_drop_link_down", "tx_drop_malformed", "tx_drop_too_big", "tx_drop_backlog")


class FramingError(Exception):
    """A length that QEMU would not send: the stream cannot be followed."""


class FrameReader:
    """Cuts a byte stream into frames; bytes in, frames out."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """All frames that are complete now, empty ones included. FramingError for a length above the
        limit."""
        if self._rest:
            data = self._rest + data
        frames: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= 4:
            (size,) = _LENGTH.unpack_from(data, at)
            if size > MAX_FRAME:
                raise FramingError(f"a frame of {size} bytes, {MAX_FRAME} are possible")
            stop = at + 4 + size
            if stop > end:
                break
            frames.append(data[at + 4 : stop])
            at = stop
        self._rest = data[at:]
        return frames


class StreamServer:
    """See the module. Made by `await StreamServer.listen(...)`; belongs to the loop that ran it."""

    def __init__(
        self, listener: Listener, loop: asyncio.AbstractEventLoop, name: str, mtu: int, software_gso: bool
    ) -> None:
        self.name = name
        self.mtu = mtu
        self._listener: Listener | None = listener
        self._loop = loop
        self._max_plain = mtu + ETH_HLEN
        self._up_offloads = (
            Offloads(csum=True, tso4=True, tso6=True, ecn=True, max_frame=MAX_GSO_FRAME)
            if software_gso
            else Offloads(max_frame=self._max_plain)
        )
        self._handler: PortHandler | None = None
        self._sock: socket.socket | None = None
        self._reader = FrameReader()
        self._out: deque[Buffer] = deque()
        self._out_bytes = 0
        self._writing = False
        self._count = dict.fromkeys(_COUNTERS, 0)
        loop.add_reader(listener.fileno(), self._accept)

    @classmethod
    async def listen(
        cls,
        address: str | tuple[str, int],
        *,
        name: str = "stream",
        mtu: int = 1500,
        software_gso: bool = True,
    ) -> StreamServer:
        """Listen now, at a unix path or at (host, port). TransportError says why not."""
        listener = listen_unix(address) if isinstance(address, str) else listen_inet(*address)
        return cls(listener, asyncio.get_running_loop(), name, mtu, software_gso)

    # -- Port -------------------------------------------------------------------------------------------

    @property
    def address(self) -> str | tuple[str, int]:
        """Where it listens; the real port if 0 was asked for."""
        if self._listener is None:
            return ""
        if self._listener.path:
            return self._listener.path
        host, port = self._listener.sock.getsockname()[:2]
        return host, port

    @property
    def link_up(self) -> bool:
        return self._sock is not None

    @property
    def connected(self) -> bool:
        """A QEMU is connected."""
        return self._sock is not None

    @property
    def offloads(self) -> Offloads:
        return self._up_offloads if self._sock is not None else Offloads()

    def negotiation(self) -> dict[str, Any]:
        """A socket netdev negotiates nothing: a dict for JSON."""
        return {"transport": "stream", "connected": self.connected, "mtu": self.mtu}

    def attach(self, handler: PortHandler) -> None:
        self._handler = handler
        if self.link_up:
            handler.link_changed(True, self.offloads)

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        count = self._count
        if self._sock is None:
            count["tx_drop_link_down"] += 1
            return False
        train = [parts] if hdr is None else finish(hdr, parts)
        if not train:
            count["tx_drop_malformed"] += 1
            return False
        sent = True
        for frame in train:
            sent &= self._queue(frame)
        return sent

    def _queue(self, parts: Sequence[Buffer]) -> bool:
        size = sum(map(len, parts))
        if size > MAX_FRAME:
            self._count["tx_drop_too_big"] += 1
            return False
        if self._out_bytes + size > BACKLOG_BYTES:
            self._count["tx_drop_backlog"] += 1
            return False
        # Joined: the caller's buffers may change before the socket takes them, and one copy of a
        # frame costs less than two more entries in the vector.
        self._out.append(b"".join((_LENGTH.pack(size), *parts)))
        self._out_bytes += size + 4
        self._count["tx_frames"] += 1
        self._count["tx_bytes"] += size
        return True

    def flush(self) -> None:
        if not self._writing and self._out:
            self._write()

    def stats(self) -> dict[str, int]:
        dropped = sum(self._count[name] for name in _TX_DROPS)
        return {**self._count, "tx_queued": self._out_bytes, "tx_dropped": dropped}

    def close(self) -> None:
        if self._listener is None:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._disconnect()
        self._listener.close()
        self._listener = None

    # -- the socket -------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._listener is None:
            return
        sock = self._listener.accept()
        if sock is None:
            return
        if self._sock is not None:
            self._read_now(self._sock)  # its end of file may be waiting beside this connection
        if self._sock is not None:
            self._count["clients_refused"] += 1
            sock.close()
            log.warning("%s: a second QEMU was refused, one is connected", self.name)
            return
        self._connect(sock)

    def _connect(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader = FrameReader()
        self._count["connects"] += 1
        self._loop.add_reader(sock.fileno(), self._readable)
        log.info("%s: QEMU connected", self.name)
        if self._handler is not None:
            self._handler.link_changed(True, self.offloads)

    def _disconnect(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._loop.remove_reader(sock.fileno())
        if self._writing:
            self._loop.remove_writer(sock.fileno())
            self._writing = False
        sock.close()
        self._out.clear()
        self._out_bytes = 0
        log.info("%s: QEMU disconnected", self.name)
        if self._handler is not None:
            self._handler.link_changed(False, Offloads())

    def _readable(self) -> None:
        if self._sock is not None:
            self._read_now(self._sock)

    def _read_now(self, sock: socket.socket) -> None:
        """Take what waits, up to 1 MiB in one turn, and hand it on as one batch."""
        frames: list[bytes] = []
        ended = False
        for _ in range(READS_PER_TURN):
            try:
                data = sock.recv(READ_BYTES)
                frames += self._reader.feed(data)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            except FramingError as error:
                self._count["framing_errors"] += 1
                log.warning("%s: %s: disconnected", self.name, error)
                data = b""
            if not data:
                ended = True
                break
            if len(data) < READ_BYTES:
                break
        if frames:
            self._deliver(frames)
        if ended and self._sock is sock:
            self._disconnect()

    def _deliver(self, frames: list[bytes]) -> None:
        count = self._count
        count["batches"] += 1
        sound: list[tuple[VnetHdr | None, bytes]] = []
        for frame in frames:
            if len(frame) < ETH_HLEN:
                count["rx_drop_short" if frame else "rx_drop_empty"] += 1
                continue
            count["rx_frames"] += 1
            count["rx_bytes"] += len(frame)
            sound.append((None, frame))
        if self._handler is not None:
            deliver(self._handler, sound, self._handler_failed)
        self.flush()

    def _handler_failed(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": f"{self.name}: handler failed", "exception": error})

    def _write(self) -> None:
        """Write until all is written or the socket is full; then wait for it."""
        sock, out = self._sock, self._out
        while sock is not None and out:
            try:
                vector = list(out) if len(out) <= IOV else [out[i] for i in range(IOV)]
                sent = sock.sendmsg(vector, (), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:  # the reader sees the end of file too, and disconnects
                out.clear()
                self._out_bytes = 0
                break
            self._out_bytes -= sent
            while sent:
                head = out[0]
                if sent < len(head):
                    out[0] = memoryview(head)[sent:]
                    break
                sent -= len(head)
                out.popleft()
        self._watch_writable(bool(out))

    def _watch_writable(self, wanted: bool) -> None:
        if self._sock is None or wanted == self._writing:
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(self._sock.fileno(), self._write)
        else:
            self._loop.remove_writer(self._sock.fileno())
