# SPDX-License-Identifier: GPL-2.0-or-later
"""The line between a device and whoever is behind it: what a TAP with IFF_VNET_HDR carries.

A Port carries, each way, a `virtio_net_hdr` and an Ethernet frame without FCS. Generic segmentation and
partial checksums are ordinary on both sides of that line: a guest's 64 KB TSO frame comes in whole, and a
64 KB frame goes out whole when `offloads` says so. A transport whose wire has no room for the header (a QEMU
socket netdev) completes checksums and segments by itself, and gives `hdr=None` for what it receives.

Rules that both sides keep:

* `send()` queues, `flush()` publishes: one `flush()` per batch means one used-index update and one signal.
* `frame_received()` is called for every frame of the input that was waiting, then `batch_done()` once. The
  answer to a batch may be sent from either; the port itself calls `flush()` after `batch_done()` returned.
* Neither side raises for what the guest did. `send()` says False when it dropped the frame, and a counter
  says why. A frame that is too long for the port is dropped alone: those after it go on.
* A header that `offloads` does not allow is no error: the port finishes such a frame in software.
* All calls come from one thread (the event loop's).

tests/unit/devmodel/test_port_contract.py holds every port and every middleware to these.

Middleware (capture, faults, meters) is a Port round a Port, so it works on every transport.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from devmodel.virtio.spec import (
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)

Buffer = bytes | bytearray | memoryview


class VnetHdr:
    """struct virtio_net_hdr without num_buffers (virtio 1.2, section 5.1.6); host-endian integers.

    `csum_start` counts from the first byte of the Ethernet frame, `csum_offset` from `csum_start`; `hdr_len`
    is a hint.
    """

    __slots__ = ("csum_offset", "csum_start", "flags", "gso_size", "gso_type", "hdr_len")

    def __init__(
        self,
        flags: int = 0,
        gso_type: int = 0,
        hdr_len: int = 0,
        gso_size: int = 0,
        csum_start: int = 0,
        csum_offset: int = 0,
    ) -> None:
        self.flags = flags
        self.gso_type = gso_type
        self.hdr_len = hdr_len
        self.gso_size = gso_size
        self.csum_start = csum_start
        self.csum_offset = csum_offset

    def astuple(self) -> tuple[int, int, int, int, int, int]:
        """The fields in the order of the struct."""
        return (self.flags, self.gso_type, self.hdr_len, self.gso_size, self.csum_start, self.csum_offset)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VnetHdr) and self.astuple() == other.astuple()

    def __hash__(self) -> int:
        return hash(self.astuple())

    def __repr__(self) -> str:
        return (
            f"VnetHdr(flags={self.flags:#x}, gso_type={self.gso_type:#x}, hdr_len={self.hdr_len}, "
            f"gso_size={self.gso_size}, csum_start={self.csum_start}, csum_offset={self.csum_offset})"
        )


@dataclass(frozen=True, slots=True)
class Offloads:
    """What `Port.send()` accepts now: what the guest negotiated, or what the port does in software."""

    csum: bool = False  # frames with NEEDS_CSUM or DATA_VALID may be sent (VIRTIO_NET_F_GUEST_CSUM)
    tso4: bool = False
    tso6: bool = False
    ecn: bool = False  # TSO frames may carry CWR (VIRTIO_NET_F_GUEST_ECN)
    max_frame: int = 1514  # the largest frame in bytes, Ethernet header included, vnet header not
    uso4: bool = False  # UDP datagrams of equal size in one frame (VIRTIO_NET_F_GUEST_USO4, USO6)
    uso6: bool = False
    ufo: bool = False  # a UDP datagram of either version that the path takes in fragments only

    def takes(self, hdr: VnetHdr, parts: Sequence[Buffer]) -> bool:
        """Whether a frame with that header may be sent, or has to be finished in software first."""
        if hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM and not self.csum:
            return False
        gso_type = hdr.gso_type
        if not gso_type:
            return True
        if gso_type & VIRTIO_NET_HDR_GSO_ECN:
            if not self.ecn:
                return False
            gso_type &= ~VIRTIO_NET_HDR_GSO_ECN
        if gso_type == VIRTIO_NET_HDR_GSO_TCPV4:
            return self.tso4
        if gso_type == VIRTIO_NET_HDR_GSO_TCPV6:
            return self.tso6
        if hdr.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4:
            return (self.uso4 and self.uso6) or self._takes_uso(parts)
        return hdr.gso_type == VIRTIO_NET_HDR_GSO_UDP and self.ufo

    def _takes_uso(self, parts: Sequence[Buffer]) -> bool:
        """The type is one for both IP versions, the features are two: the frame says which it is."""
        if not (self.uso4 or self.uso6):
            return False
        kind = b"".join(parts)[12:14] if len(parts[0]) < 14 else bytes(parts[0][12:14])
        return self.uso4 if kind == b"\x08\x00" else self.uso6 and kind == b"\x86\xdd"


class PortHandler(Protocol):
    """Who sits behind a port; also each middleware, seen from the port it wraps."""

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        """One frame from the guest. `hdr` None: a complete frame whose checksums nobody has verified."""

    def batch_done(self) -> None:
        """The input that was waiting is drained: answer now (one ACK for many segments)."""

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        """The guest's driver came, went or negotiated anew; also from `attach()` when it is up."""


def deliver(
    handler: PortHandler,
    frames: Iterable[tuple[VnetHdr | None, bytes]],
    failed: Callable[[Exception], None],
) -> None:
    """Hand over a batch. A fault of the handler costs the frame that met it and no other, and `batch_done()` is
    called whatever happened: the device goes on."""
    for hdr, frame in frames:
        try:
            handler.frame_received(hdr, frame)
        except Exception as error:
            failed(error)
    try:
        handler.batch_done()
    except Exception as error:
        failed(error)


class Port(Protocol):
    """A network device as its back end sees it."""

    name: str

    @property
    def link_up(self) -> bool:
        """A driver is there and its receive ring runs."""

    @property
    def offloads(self) -> Offloads:
        """What `send()` may be given now; the all-False default while the link is down."""

    def attach(self, handler: PortHandler) -> None:
        """Set the handler; a later call replaces it."""

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        """Queue one frame to the guest, given as consecutive pieces. False: dropped, counted in `stats()`."""

    def flush(self) -> None:
        """Publish what `send()` queued, and signal once."""

    def stats(self) -> dict[str, int]:
        """Flat counters; every port has at least rx_frames, rx_bytes, tx_frames, tx_bytes, tx_dropped.

        rx is from the guest to us, tx from us to the guest.
        """

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
