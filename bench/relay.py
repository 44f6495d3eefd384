# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries packets between two kernels in real time, each way through the ``Path`` of a scenario.

A ``Port`` is where a kernel's packets come out and go in: ``Tun`` a device of a namespace of this machine, ``Stream``
the card of a QEMU guest.  Both speak Ethernet frames, so that a packet takes the same room in the path as ours does.
Frames have to be packets: of a sender that leaves segmentation to its card, 64 KB would be lost at once.

The relay is late when the machine is busy, or when a timer's grain is in the way; ``late`` has by how much each packet
was, in nanoseconds.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, Protocol

from bench.transfer import Scenario, make_path
from devmodel.netdev.stream import FrameReader
from stack.api.path import ETH_HLEN, Frame, Path

# Of both kernels: the buffers that are ours by default, and no memory of earlier connections.
SYSCTLS: Final = {
    "tcp_rmem": "4096 131072 6291456",
    "tcp_wmem": "4096 16384 4194304",
    "tcp_no_metrics_save": "1",
}
ETHERNET: Final = bytes(12) + b"\x08\x00"
BATCH: Final = 64
READ_BYTES: Final = 256 << 10
MAX_FRAME: Final = 1500 + ETH_HLEN

# Offsets of IPv4 (RFC 791, section 3.1) behind an Ethernet header, and of TCP (RFC 9293, section 3.1) behind that.
ETHERTYPE: Final = slice(12, 14)
IP_IHL, IP_LENGTH, IP_PROTOCOL = 14, slice(16, 18), 23
TCP_DATA_OFFSET, TCP_FLAGS = 12, 13
PROTOCOL_TCP: Final = 6
FIN: Final = 0x01


class Port(Protocol):
    """One kernel's end; ``fileno`` is readable when ``take`` has something."""

    def fileno(self) -> int: ...

    def take(self) -> Iterator[bytes]:
        """Frames that the kernel has sent, at most a batch of them; never waits."""
        ...

    def give(self, frame: bytes) -> None:
        """A frame that arrives at the kernel."""
        ...


@dataclass(eq=False)
class Tun:
    """A TUN device by its descriptor, which does not block; it is closed by whoever opened it."""

    fd: int

    def fileno(self) -> int:
        return self.fd

    def take(self) -> Iterator[bytes]:
        for _ in range(BATCH):
            try:
                yield ETHERNET + os.read(self.fd, 65536)
            except BlockingIOError:
                return

    def give(self, frame: bytes) -> None:
        os.write(self.fd, frame[ETH_HLEN:])


@dataclass(eq=False)
class Stream:
    """The other end of a card with ``-netdev stream``.  Only TCP over IPv4 passes: whatever else a guest says now and
    then would move the draws of the path."""

    sock: socket.socket
    reader: FrameReader = field(default_factory=FrameReader)

    def fileno(self) -> int:
        return self.sock.fileno()

    def take(self) -> Iterator[bytes]:
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise ConnectionError("QEMU hung up its card's socket: the guest has ended")
        for frame in self.reader.feed(data):
            if is_tcp(frame):
                assert len(frame) <= MAX_FRAME, (
                    f"a frame of {len(frame)} bytes: the guest leaves segmentation to its card"
                )
                yield frame

    def give(self, frame: bytes) -> None:
        self.sock.sendall(len(frame).to_bytes(4, "big") + frame)

    def drain(self) -> None:
        """Throw away what came while nobody carried it."""
        while select.select([self.sock], [], [], 0)[0]:
            for _ in self.take():
                pass


@dataclass(eq=False)
class Stopwatch:
    """A receiver's port that reads the clock (``time.monotonic``) when its kernel is given the first byte of a
    connection and when it closes it: that is when its application has read the last one."""

    port: Port
    began: float = 0.0
    ended: float = 0.0

    def fileno(self) -> int:
        return self.port.fileno()

    def take(self) -> Iterator[bytes]:
        for frame in self.port.take():
            if not self.ended and is_fin(frame):
                self.ended = time.monotonic()
            yield frame

    def give(self, frame: bytes) -> None:
        if not self.began and payload_size(frame):
            self.began = time.monotonic()
        self.port.give(frame)

    def seconds(self) -> float:
        assert self.ended > self.began > 0, "there was no connection with data that came to its end"
        return self.ended - self.began


def is_tcp(frame: bytes) -> bool:
    """Whether it is TCP over IPv4."""
    return frame[ETHERTYPE] == b"\x08\x00" and frame[IP_PROTOCOL] == PROTOCOL_TCP


def tcp_start(frame: bytes) -> int:
    """Where the TCP header begins."""
    return ETH_HLEN + (frame[IP_IHL] & 15) * 4


def payload_size(frame: bytes) -> int:
    """Bytes of payload of a TCP segment, by its headers: a short frame may be padded."""
    start = tcp_start(frame)
    end = ETH_HLEN + int.from_bytes(frame[IP_LENGTH], "big")
    return end - start - (frame[start + TCP_DATA_OFFSET] >> 4) * 4


def is_fin(frame: bytes) -> bool:
    return bool(frame[tcp_start(frame) + TCP_FLAGS] & FIN)


class Relay:
    """Carries packets between a sender's port and a receiver's until told to stop."""

    def __init__(self, sender: Port, receiver: Port, s: Scenario) -> None:
        self.ways: dict[Port, tuple[Path, Port]] = {
            sender: (make_path(s, True, True, s.seed), receiver),
            receiver: (make_path(s, s.both, False, s.seed + 1000), sender),
        }
        self.flight: list[tuple[int, int, Port, bytes]] = []
        self.serial = 0
        self.late: list[int] = []

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.deliver()
            ready, _, _ = select.select(list(self.ways), [], [], self.idle())
            for port in ready:
                self.take(port)

    def idle(self) -> float:
        """Seconds to the next arrival, a millisecond at most so that the end is noticed."""
        if not self.flight:
            return 0.001
        return min(max(self.flight[0][0] - time.monotonic_ns(), 0) / 1e9, 0.001)

    def take(self, port: Port) -> None:
        """Put what the kernel sends on its path."""
        path, other = self.ways[port]
        for sent in port.take():
            now = time.monotonic_ns()
            for when, frame in path.send(now, Frame(now, "", "", sent)):
                self.serial += 1
                heappush(self.flight, (when, self.serial, other, frame.data))

    def deliver(self) -> None:
        """Give the kernels what has arrived."""
        flight = self.flight
        now = time.monotonic_ns()
        while flight and flight[0][0] <= now:
            when, _, port, frame = heappop(flight)
            port.give(frame)
            self.late.append(now - when)

    def late_ms(self) -> float:
        """By how much the worst percent of the packets was late; 0 if none was delivered."""
        late = sorted(self.late)
        return late[len(late) * 99 // 100] / 1e6 if late else 0.0


@dataclass(frozen=True)
class Measured:
    """Mbit/s of payload, and the lateness of the relay's worst percent in ms."""

    goodput: float
    late_ms: float


def say(text: str) -> None:
    """Beside the table."""
    print(text, file=sys.stderr, flush=True)
