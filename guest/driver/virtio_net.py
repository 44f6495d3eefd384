# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtio-net driver over two virtqueues: frames with headers in, frames with headers out (virtio 1.2, section 5.1.6).

What it decides:

* The header's length. 20 bytes with HASH_REPORT, else 12 with VERSION_1 or MRG_RXBUF, else 10 (5.1.6.1). Where it
  lies: in the frame's own descriptor if VERSION_1 or ANY_LAYOUT allow that, else in one of its own (2.7.4.1, legacy
  framing).
* Receive buffers (5.1.6.3.1). Mergeable: `MERGEABLE_BUFFER` bytes each, put together by num_buffers. Segmentation of
  any kind without mergeable: chains of 65562 bytes in pages. Neither: the MTU and the headers. A ring is filled up
  whenever half of it is empty.
* What the device may send: a header that needs a feature which was not acknowledged, a num_buffers of 0 or beyond the
  queue, a frame shorter than its header, are DeviceBroken. Without MRG_RXBUF num_buffers has to be 1, and drivers do
  not look at it: another value is counted (DPDK 22.11 leaves 0).
* Transmit buffers are copies in guest memory, given back by the next `send()` or `reclaim()`. Transmit interrupts are
  off: a driver that reclaims while it sends needs none.
* With CTRL_VQ it has a third queue, `control` (control.py): behind the one pair that this driver has.

Neither socket nor eventfd is known here. `send()`, `refill()` and `receive()` return whether the device wants a kick;
whoever has the eventfds kicks, and calls `receive()` when it was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.spec import (
    ETH_HLEN,
    MAX_GSO_FRAME,
    VIRTIO_NET_HDR,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
    VIRTIO_NET_HDR_HASH,
    VIRTIO_NET_HDR_LEGACY,
)
from guest.driver.control import CTRL, ControlDriver
from guest.driver.errors import DeviceBroken
from guest.driver.iommu import Iommu
from guest.driver.memory import PAGE, DriverMemory
from guest.driver.packed import PackedQueue
from guest.driver.split import SplitQueue
from guest.driver.virtqueue import Piece, QueueFull, Used, Virtqueue

RX, TX = 0, 1  # 5.1.2: receiveq1, transmitq1

MERGEABLE_BUFFER: Final = 1536
DEFAULT_MTU: Final = 1500

# Features that a driver of this kind has a use for; VHOST_USER_F_PROTOCOL_FEATURES belongs to the frontend.
DRIVER_FEATURES: Final = vf.mask(
    vf.VIRTIO_NET_F_CSUM,
    vf.VIRTIO_NET_F_GUEST_CSUM,
    vf.VIRTIO_NET_F_MTU,
    vf.VIRTIO_NET_F_GUEST_TSO4,
    vf.VIRTIO_NET_F_GUEST_TSO6,
    vf.VIRTIO_NET_F_GUEST_ECN,
    vf.VIRTIO_NET_F_GUEST_UFO,
    vf.VIRTIO_NET_F_GUEST_USO4,
    vf.VIRTIO_NET_F_GUEST_USO6,
    vf.VIRTIO_NET_F_HOST_TSO4,
    vf.VIRTIO_NET_F_HOST_TSO6,
    vf.VIRTIO_NET_F_HOST_ECN,
    vf.VIRTIO_NET_F_HOST_UFO,
    vf.VIRTIO_NET_F_HOST_USO,
    vf.VIRTIO_NET_F_MRG_RXBUF,
    vf.VIRTIO_F_ANY_LAYOUT,
    vf.VIRTIO_F_INDIRECT_DESC,
    vf.VIRTIO_F_EVENT_IDX,
    vf.VIRTIO_F_VERSION_1,
)
# What it has a use for besides, of back ends that serve a control queue. They are to be asked for by name: some back
# ends (DPDK's) offer CTRL_VQ and leave the queue to their frontend.
CONTROL_FEATURES: Final = vf.mask(
    vf.VIRTIO_NET_F_CTRL_VQ,
    vf.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    vf.VIRTIO_NET_F_NOTF_COAL,
    vf.VIRTIO_NET_F_VQ_NOTF_COAL,
    vf.VIRTIO_NET_F_HASH_REPORT,
)

Frame = tuple[VnetHdr, bytes]

# 5.1.3: a feature, and the gso_type that it allows
_GUEST_GSO: Final = (
    (vf.VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_HDR_GSO_TCPV4),
    (vf.VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_HDR_GSO_TCPV6),
    (vf.VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_HDR_GSO_UDP),
    (vf.VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_HDR_GSO_UDP_L4),
    (vf.VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_HDR_GSO_UDP_L4),
)
_HOST_GSO: Final = (
    (vf.VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_HDR_GSO_TCPV4),
    (vf.VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_HDR_GSO_TCPV6),
    (vf.VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_HDR_GSO_UDP),
    (vf.VIRTIO_NET_F_HOST_USO, VIRTIO_NET_HDR_GSO_UDP_L4),
)
_TCP_GSO: Final = frozenset((VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6))
_LEGACY_GSO: Final = frozenset(
    (*_TCP_GSO, *(kind | VIRTIO_NET_HDR_GSO_ECN for kind in _TCP_GSO), VIRTIO_NET_HDR_GSO_UDP)
)


@dataclass
class DriverCounters:
    """rx is from the device, tx to it."""

    rx_frames: int = 0
    rx_bytes: int = 0
    rx_buffers: int = 0
    rx_merged: int = 0
    rx_gso: int = 0
    rx_hashed: int = 0
    rx_odd_num_buffers: int = 0
    tx_frames: int = 0
    tx_bytes: int = 0
    tx_gso: int = 0
    tx_dropped: int = 0
    tx_reclaimed: int = 0

    def asdict(self) -> dict[str, int]:
        return asdict(self)


def make_queue(
    memory: DriverMemory, index: int, num: int, features: int, iommu: Iommu | None = None
) -> Virtqueue:
    """A queue of the layout that was negotiated."""
    kind = PackedQueue if features >> vf.VIRTIO_F_RING_PACKED & 1 else SplitQueue
    return kind(memory, index, num, features, iommu)


class VirtioNetDriver:
    """See the module. `features` are those that were negotiated."""

    def __init__(
        self,
        memory: DriverMemory,
        features: int,
        num: int = 256,
        mtu: int = DEFAULT_MTU,
        iommu: Iommu | None = None,
    ) -> None:
        self.memory = memory
        self.features = features
        self.mtu = mtu
        self.counters = DriverCounters()
        indexes = (RX, TX, CTRL) if self.has(vf.VIRTIO_NET_F_CTRL_VQ) else (RX, TX)
        self.queues = [make_queue(memory, index, num, features, iommu) for index in indexes]
        self.control = ControlDriver(memory, self.queues[CTRL]) if len(indexes) > CTRL else None
        self.hashes: list[tuple[int, int]] = []
        """Hash value and VIRTIO_NET_HASH_REPORT_* of each frame of the last `receive()`, with HASH_REPORT."""
        self.mergeable = self.has(vf.VIRTIO_NET_F_MRG_RXBUF)
        modern = self.mergeable or self.has(vf.VIRTIO_F_VERSION_1)
        self._hdr = VIRTIO_NET_HDR if modern else VIRTIO_NET_HDR_LEGACY
        self.hash_report = self.has(vf.VIRTIO_NET_F_HASH_REPORT)
        if self.hash_report:
            self._hdr = VIRTIO_NET_HDR_HASH
        self.hdr_size = self._hdr.size
        # num_buffers, then hash_value and hash_report: the device ignores them (5.1.6.2.1)
        self._hdr_tail = (0, 0, 0) if self.hash_report else (0,) if self._hdr is VIRTIO_NET_HDR else ()
        self._any_layout = self.has(vf.VIRTIO_F_VERSION_1) or self.has(vf.VIRTIO_F_ANY_LAYOUT)
        self._gso_in = self._gso_kinds(_GUEST_GSO, vf.VIRTIO_NET_F_GUEST_ECN)
        self._gso_out = self._gso_kinds(_HOST_GSO, vf.VIRTIO_NET_F_HOST_ECN)
        if self.has(vf.VIRTIO_NET_F_GSO) and not self.has(vf.VIRTIO_F_VERSION_1):  # 5.1.3.2
            self._gso_out |= _LEGACY_GSO
        self._partial: list[tuple[list[Piece], int]] = []
        self._wanted = 0
        self._hdr_of_frame = VnetHdr()
        self._hash_of_frame = (0, 0)
        self.queues[TX].disable_calls()

    @property
    def rx(self) -> Virtqueue:
        return self.queues[RX]

    @property
    def tx(self) -> Virtqueue:
        return self.queues[TX]

    def has(self, bit: int) -> bool:
        return bool(self.features >> bit & 1)

    def _gso_kinds(self, bits: tuple[tuple[int, int], ...], ecn: int) -> frozenset[int]:
        kinds = {kind for bit, kind in bits if self.has(bit)}
        if self.has(ecn):
            kinds |= {kind | VIRTIO_NET_HDR_GSO_ECN for kind in kinds & _TCP_GSO}
        return frozenset(kinds)

    # -- receiving --------------------------------------------------------------------------------------

    def _receive_shape(self) -> list[int]:
        """Sizes of one receive buffer's pieces (5.1.6.3.1)."""
        if self.mergeable:
            return [MERGEABLE_BUFFER]
        big = bool(self._gso_in)
        room = MAX_GSO_FRAME if big else self.mtu + ETH_HLEN
        if not big and self._any_layout:
            return [self.hdr_size + room]
        if not big:
            return [self.hdr_size, room]
        piece = max(PAGE, -(-room // (self.rx.num - 1)))  # 2.7.5.3.1: a chain is no longer than the queue
        rest = [room % piece] if room % piece else []
        return [self.hdr_size, *[piece] * (room // piece), *rest]

    def _make_buffer(self) -> list[Piece]:
        return [Piece(self.memory.alloc(size), size, True) for size in self._receive_shape()]

    def refill(self) -> bool:
        """Fill the receive ring up; whether the device wants a kick."""
        shape = self._receive_shape()
        indirect = self.rx.indirect and len(shape) > 1
        while self.rx.free >= (1 if indirect else len(shape)):
            pieces = self._make_buffer()
            self.rx.add(pieces, pieces, indirect)
        return self.rx.publish()

    def receive(self) -> tuple[list[Frame], bool]:
        """The frames that came, and whether the device wants a kick for the buffers that replace theirs.

        Interrupts are on afterwards, and nothing was in the ring when they were switched on.
        """
        frames: list[Frame] = []
        self.hashes = []
        self.rx.disable_calls()
        while True:
            for used in self.rx.used():
                self._take(used, frames)
            if not self.rx.enable_calls():
                break
        kick = self.rx.free * 2 >= self.rx.num and self.refill()
        return frames, kick

    def _take(self, used: Used, frames: list[Frame]) -> None:
        """One buffer: a frame, or a part of one."""
        pieces: list[Piece] = used.token
        self.counters.rx_buffers += 1
        if not self._partial:
            self._begin(pieces, used.written)
        self._partial.append((pieces, used.written))
        if len(self._partial) < self._wanted:
            return
        whole = b"".join(self._contents(*part) for part in self._partial)
        for part, _ in self._partial:
            for piece in part:
                self.memory.free(piece.gpa)
        self.counters.rx_merged += len(self._partial) > 1
        self._partial = []
        frame = whole[self.hdr_size :]
        self.counters.rx_frames += 1
        self.counters.rx_bytes += len(frame)
        self._check_offload(frame)
        frames.append((self._hdr_of_frame, frame))
        if self.hash_report:
            self.hashes.append(self._hash_of_frame)
            self.counters.rx_hashed += self._hash_of_frame[1] != 0

    def _contents(self, pieces: Sequence[Piece], written: int) -> bytes:
        parts = []
        for piece in pieces:
            take = min(piece.size, written)
            parts.append(self.memory.read(piece.gpa, take))
            written -= take
        return b"".join(parts)

    def _begin(self, pieces: Sequence[Piece], written: int) -> None:
        """The header of a frame: what it asks for, and how many buffers it takes (5.1.6.4)."""
        if written < self.hdr_size:
            raise self._broken(f"{written} bytes of a frame whose header has {self.hdr_size}", "5.1.6.4.1")
        fields = self._hdr.unpack(self._contents(pieces, self.hdr_size))
        self._hdr_of_frame = VnetHdr(*fields[:6])
        self._hash_of_frame = (fields[7], fields[8]) if self.hash_report else (0, 0)
        told = fields[6] if len(fields) > 6 else 1
        self._wanted = told if self.mergeable else 1
        self.counters.rx_odd_num_buffers += not self.mergeable and told != 1
        if not 1 <= self._wanted <= self.rx.num:
            raise self._broken(f"num_buffers is {told}", "5.1.6.4.1")

    def _check_offload(self, frame: bytes) -> None:
        """Nothing that was not negotiated, nothing impossible (5.1.6.4.1)."""
        hdr, size = self._hdr_of_frame, len(frame)
        allowed = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID
        if hdr.flags & allowed and not self.has(vf.VIRTIO_NET_F_GUEST_CSUM):
            raise self._broken(f"header flags {hdr.flags:#x} without VIRTIO_NET_F_GUEST_CSUM", "5.1.6.4.1")
        if hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM and hdr.csum_start + hdr.csum_offset + 2 > size:
            where = f"checksum at {hdr.csum_start} + {hdr.csum_offset}"
            raise self._broken(f"{where} of a frame of {size} bytes", "5.1.6.4.1")
        if hdr.gso_type == VIRTIO_NET_HDR_GSO_NONE:
            return
        allowed_kind = hdr.gso_type in self._gso_in
        if hdr.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4:
            four = frame[12:14] == b"\x08\0"
            allowed_kind = self.has(vf.VIRTIO_NET_F_GUEST_USO4 if four else vf.VIRTIO_NET_F_GUEST_USO6)
        if not allowed_kind or not hdr.gso_size:
            raise self._broken(f"gso_type {hdr.gso_type:#x}, gso_size {hdr.gso_size}", "5.1.6.4.1")
        self.counters.rx_gso += 1

    def _broken(self, rule: str, section: str) -> DeviceBroken:
        return DeviceBroken(self.rx.index, rule, section)

    # -- sending ----------------------------------------------------------------------------------------

    def send(self, frame: bytes, hdr: VnetHdr | None = None) -> bool:
        """Queue one frame and show it to the device; whether it wants a kick. QueueFull: counted, dropped."""
        try:
            self.queue(frame, hdr)
        except QueueFull:
            self.counters.tx_dropped += 1
            return False
        return self.tx.publish()

    def queue(self, frame: bytes, hdr: VnetHdr | None = None) -> None:
        """Lay one frame into the transmit ring; `tx.publish()` shows all that were. QueueFull.

        ValueError for a header that needs what was not negotiated (5.1.6.2.1).
        """
        hdr = VnetHdr() if hdr is None else hdr
        self._check_request(hdr)
        self.reclaim()
        header = self._hdr.pack(*hdr.astuple(), *self._hdr_tail)
        parts = [header + frame] if self._any_layout else [header, frame]
        if self.tx.free < len(parts):
            raise QueueFull
        pieces = [Piece(*self.memory.put(part)) for part in parts]
        self.tx.add(pieces, pieces, self.tx.indirect and len(pieces) > 1)
        self.counters.tx_frames += 1
        self.counters.tx_bytes += len(frame)
        self.counters.tx_gso += hdr.gso_type != VIRTIO_NET_HDR_GSO_NONE

    def _check_request(self, hdr: VnetHdr) -> None:
        if hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM and not self.has(vf.VIRTIO_NET_F_CSUM):
            raise ValueError("VIRTIO_NET_F_CSUM was not negotiated")
        if hdr.gso_type and hdr.gso_type not in self._gso_out:
            raise ValueError(f"gso_type {hdr.gso_type:#x} was not negotiated")

    def reclaim(self) -> int:
        """Take back the transmit buffers that the device is done with; how many."""
        done = self.tx.used()
        for used in done:
            for piece in used.token:
                self.memory.free(piece.gpa)
        self.counters.tx_reclaimed += len(done)
        return len(done)

    def release(self) -> None:
        """Give all memory back, after the device stopped."""
        lost: list[list[Piece]] = [part for part, _ in self._partial]
        for queue in self.queues:
            lost += queue.release()
        for piece in (piece for pieces in lost for piece in pieces):
            self.memory.free(piece.gpa)
