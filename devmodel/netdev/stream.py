# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's `-netdev stream` and `-netdev socket,connect=` or `listen=`: a Port at one end of a stream socket.

    StreamPort           a connection, while there is one
      StreamServer       we listen, QEMU connects (`server=off`, `connect=`)
      StreamClient       QEMU listens, we connect (`server=on`, `listen=`): stream_client.py

Wire: a 4-byte big-endian length, then an Ethernet frame without FCS, both ways; no vnet header. A length
above 69632 (QEMU's own limit, 4096 + 65536) cannot be followed any more, so the connection ends; a length
of 0 is skipped. Frames may be shorter than 60 bytes.

As the wire has no header, checksums and segmentation are done here (base.py). The guest's MTU is `mtu`.
A flush writes with as few system calls as possible.

One QEMU at a time: a second one is hung up on. After a hang-up the server goes on listening. QEMU 7.2 connects
once, when it starts, and does not come back; 8.0 has `reconnect=`.

Counters (`stats()`): rx_frames, rx_bytes, rx_drop_{empty,short,long}, tx_frames, tx_bytes,
tx_drop_{link_down,malformed,too_big,backlog} and their sum tx_dropped, batches, connects,
clients_refused, connect_failures, framing_errors, tx_queued (bytes).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Sequence

from devmodel.listener import Listener, listen_inet, listen_unix
from devmodel.netdev.base import MAX_FRAME, NetdevPort
from devmodel.port import Buffer

log = logging.getLogger(__name__)

READ_BYTES = 256 << 10
READS_PER_TURN = 4
IOV = 1000  # below UIO_MAXIOV, 1024

_LENGTH = struct.Struct(">I")


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


class StreamPort(NetdevPort):
    """A connection, or none yet; subclasses make it and are told when it ended (`_ended`)."""

    transport = "stream"
    extra_counters = ("connects", "clients_refused", "connect_failures", "framing_errors")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, mtu: int, software_gso: bool = True
    ) -> None:
        super().__init__(loop, name, mtu, software_gso)
        self._sock: socket.socket | None = None
        self._reader = FrameReader()
        self._out: deque[Buffer] = deque()

    @property
    def link_up(self) -> bool:
        return self._sock is not None

    def _queue(self, size: int, parts: Sequence[Buffer]) -> None:
        # One copy of a frame costs less than two more entries in the vector.
        self._out.append(b"".join((_LENGTH.pack(size), *parts)))
        self._out_bytes += size + 4
        self._count["tx_frames"] += 1
        self._count["tx_bytes"] += size

    def flush(self) -> None:
        if not self._writing and self._out:
            self._write()

    def _ended(self) -> None:
        """The connection is no more."""

    def _connect(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader = FrameReader()
        self._count["connects"] += 1
        self._loop.add_reader(sock.fileno(), self._readable)
        log.info("%s: QEMU connected", self.name)
        self._tell_link()

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
        self._tell_link()
        self._ended()

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
            self._deliver([(None, frame) for frame in frames])
        if ended and self._sock is sock:
            self._disconnect()

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


class StreamServer(StreamPort):
    """See the module. Made by `await StreamServer.listen(...)`; belongs to the loop that ran it."""

    def __init__(
        self, listener: Listener, loop: asyncio.AbstractEventLoop, name: str, mtu: int, software_gso: bool
    ) -> None:
        super().__init__(loop, name, mtu, software_gso)
        self._listener: Listener | None = listener
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

    @property
    def address(self) -> str | tuple[str, int]:
        """Where it listens; the real port if 0 was asked for."""
        if self._listener is None:
            return ""
        if self._listener.path:
            return self._listener.path
        host, port = self._listener.sock.getsockname()[:2]
        return host, port

    def close(self) -> None:
        if self._listener is None:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._disconnect()
        self._listener.close()
        self._listener = None

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
