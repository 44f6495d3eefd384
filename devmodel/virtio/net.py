# SPDX-License-Identifier: GPL-2.0-or-later
"""virtio-net between rings and frames (virtio 1.2, section 5.1.6): one object per device, no I/O.

What it decides, each way:

* guest to us: which bytes of a chain are the header and which the frame, wherever the descriptor borders lie;
  whether the offload fields are allowed by the negotiated features and possible for this frame. A frame that
  is not sound is counted and dropped, and its buffer completed: only a ring that breaks the rules of section
  2.7 or 2.8 is quarantined.
* us to guest: how a frame is laid into one chain, or into several when mergeable buffers were negotiated. A
  frame that does not fit leaves the chains where they were.

Limits: a frame has 14 to 65550 bytes, the latter being the 65562 that a driver without mergeable buffers must
supply for TSO (5.1.6.3.1) less the header. The header has 12 bytes with VERSION_1 or MRG_RXBUF, else 10
(5.1.6.1): one connection may see both, firmware first. With HASH_REPORT it has 20 both ways, and says of each frame
to the guest what its flow hashes to (5.1.6.4.3), by the key of the driver's last command; without a command, nothing.

Left to the frontend, which owns configuration space: MAC and STATUS, and the control queue unless it forwards that one
(`ctrl`).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from devmodel.errors import BrokenRing
from devmodel.port import Buffer, Offloads, VnetHdr
from devmodel.virtio.ctrl import GUEST_OFFLOADS, ControlQueue
from devmodel.virtio.features import (
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HASH_REPORT,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MRG_RXBUF,
    effective,
    mask,
)
from devmodel.virtio.iotlb import IotlbMiss
from devmodel.virtio.ring import Chain, Ring
from devmodel.virtio.rss import HASHED, Steering
from devmodel.virtio.rxfilter import RxFilter
from devmodel.virtio.spec import (
    ETH_HLEN,
    MAX_GSO_FRAME,
    VIRTIO_NET_HDR,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
    VIRTIO_NET_HDR_HASH,
    VIRTIO_NET_HDR_HASH_VALUE,
    VIRTIO_NET_HDR_LEGACY,
    VIRTIO_NET_HDR_NUM_BUFFERS,
)

Frame = tuple[VnetHdr | None, bytes]

# What became of a frame to the guest
SENT: Final = 0
NO_BUFFERS: Final = 1  # the driver has not supplied enough yet: try again after its next kick
TOO_BIG: Final = 2  # it will never fit

DEFAULT_MTU: Final = 1500
_HASH: Final = Struct("<IH2x")

# 5.1.6.3.1: with any of these a driver without mergeable buffers supplies the largest frame's room
_GUEST_GSO: Final = mask(
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
)


class NetCounters:
    """What happened to frames. rx is from the guest, tx to the guest; each drop has its reason."""

    __slots__ = (
        "rx_bytes",
        "rx_drop_csum",
        "rx_drop_gso",
        "rx_drop_long",
        "rx_drop_short",
        "rx_drop_writable",
        "rx_frames",
        "tx_bytes",
        "tx_drop_too_big",
        "tx_frames",
    )

    def __init__(self) -> None:
        self.rx_frames = 0
        self.rx_bytes = 0
        self.rx_drop_short = 0
        self.rx_drop_long = 0
        self.rx_drop_writable = 0
        self.rx_drop_csum = 0
        self.rx_drop_gso = 0
        self.tx_frames = 0
        self.tx_bytes = 0
        self.tx_drop_too_big = 0

    def asdict(self) -> dict[str, int]:
        return {
            "rx_frames": self.rx_frames,
            "rx_bytes": self.rx_bytes,
            "rx_drop_short": self.rx_drop_short,
            "rx_drop_long": self.rx_drop_long,
            "rx_drop_writable": self.rx_drop_writable,
            "rx_drop_csum": self.rx_drop_csum,
            "rx_drop_gso": self.rx_drop_gso,
            "tx_frames": self.tx_frames,
            "tx_bytes": self.tx_bytes,
            "tx_drop_too_big": self.tx_drop_too_big,
        }


class VirtioNet:
    """The device's negotiated state; `counters` outlive a negotiation."""

    __slots__ = (
        "_csum",
        "_gso_in",
        "_guest_features",
        "_hash_report",
        "_hdr",
        "_hdr_size",
        "_max_written",
        "_mergeable",
        "_plain",
        "control",
        "counters",
        "features",
        "mtu",
        "offloads",
        "rx_filter",
        "steering",
    )

    def __init__(self, max_pairs: int = 1) -> None:
        self.counters = NetCounters()
        self.steering = Steering()
        self.rx_filter = RxFilter()
        self.control = ControlQueue(self.rx_filter, self.steering, max_pairs, self._let_use)
        self.mtu = DEFAULT_MTU
        self.negotiate(0)

    def negotiate(self, features: int) -> None:
        """Take over the driver's features (5.1.3); the header's length follows from them."""
        self.features = features = effective(features)
        self._mergeable = bool(features >> VIRTIO_NET_F_MRG_RXBUF & 1)
        modern = self._mergeable or bool(features >> VIRTIO_F_VERSION_1 & 1)
        self._hash_report = bool(features >> VIRTIO_NET_F_HASH_REPORT & 1)
        self._hdr = VIRTIO_NET_HDR if modern else VIRTIO_NET_HDR_LEGACY
        if self._hash_report:
            self._hdr = VIRTIO_NET_HDR_HASH
        self._hdr_size = self._hdr.size
        self._max_written = self._hdr_size + MAX_GSO_FRAME
        self._plain = self._header(VnetHdr())
        self._csum = bool(features >> VIRTIO_NET_F_CSUM & 1)
        self._gso_in = self._accepted_gso(features)
        self.control.negotiate(features)
        self._let_use(features)

    def _let_use(self, features: int) -> None:
        """The driver takes what these say, of what it acknowledged, until it says otherwise (5.1.6.5.6)."""
        self._guest_features = features
        self.offloads = self._offloads(features)

    @property
    def used_offloads(self) -> int:
        """The driver's offloads that it lets us use (5.1.6.5.6)."""
        return self._guest_features & GUEST_OFFLOADS

    def set_mtu(self, mtu: int) -> None:
        """The MTU that the frontend announced to the guest."""
        self.mtu = mtu
        self.offloads = self._offloads(self._guest_features)

    @staticmethod
    def _accepted_gso(features: int) -> frozenset[int]:
        kinds = set()
        if features >> VIRTIO_NET_F_HOST_TSO4 & 1:
            kinds.add(VIRTIO_NET_HDR_GSO_TCPV4)
        if features >> VIRTIO_NET_F_HOST_TSO6 & 1:
            kinds.add(VIRTIO_NET_HDR_GSO_TCPV6)
        if features >> VIRTIO_NET_F_HOST_ECN & 1:
            kinds |= {kind | VIRTIO_NET_HDR_GSO_ECN for kind in kinds}
        if features >> VIRTIO_NET_F_HOST_UFO & 1:
            kinds.add(VIRTIO_NET_HDR_GSO_UDP)
        if features >> VIRTIO_NET_F_HOST_USO & 1:
            kinds.add(VIRTIO_NET_HDR_GSO_UDP_L4)
        return frozenset(kinds)

    def _offloads(self, features: int) -> Offloads:
        def has(bit: int) -> bool:
            return bool(features >> bit & 1)

        return Offloads(
            csum=has(VIRTIO_NET_F_GUEST_CSUM),
            tso4=has(VIRTIO_NET_F_GUEST_TSO4),
            tso6=has(VIRTIO_NET_F_GUEST_TSO6),
            ecn=has(VIRTIO_NET_F_GUEST_ECN),
            max_frame=MAX_GSO_FRAME if features & _GUEST_GSO else self.mtu + ETH_HLEN,
            uso4=has(VIRTIO_NET_F_GUEST_USO4),
            uso6=has(VIRTIO_NET_F_GUEST_USO6),
            ufo=has(VIRTIO_NET_F_GUEST_UFO),
        )

    # -- from the guest ---------------------------------------------------------------------------------

    def receive(self, ring: Ring, budget: int) -> list[Frame]:
        """Take up to `budget` chains off the transmit queue; their buffers are pushed, not yet published. Fewer if
        they are long: DESCRIPTORS_PER_CHAIN on average is what a budget pays for.

        BrokenRing comes out of here with the frames before it lost: that guest's driver is not to be trusted.
        """
        return ring.drain(self._parse, budget)

    def _parse(self, pieces: list[memoryview], writable: list[memoryview]) -> Frame | None:
        """Header and frame of one chain, copied out once; None when it was dropped."""
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        hdr_size = self._hdr_size
        size -= hdr_size
        counters = self.counters
        if size < ETH_HLEN or size > MAX_GSO_FRAME:
            self._count_bad_size(size)
            return None
        if writable:
            counters.rx_drop_writable += 1
            return None
        first = pieces[0]
        if len(first) >= hdr_size:
            fields = self._hdr.unpack_from(first)
            pieces[0] = first[hdr_size:]
            frame = b"".join(pieces)
        else:
            whole = b"".join(pieces)
            fields = self._hdr.unpack_from(whole)
            frame = whole[hdr_size:]
        hdr: VnetHdr | None = None
        if fields[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM or fields[1]:
            hdr = self._check_offload(fields, size)
            if hdr is None:
                return None
        counters.rx_frames += 1
        counters.rx_bytes += size
        return hdr, frame

    def _count_bad_size(self, size: int) -> None:
        if size < ETH_HLEN:
            self.counters.rx_drop_short += 1
        else:
            self.counters.rx_drop_long += 1

    def _check_offload(self, fields: tuple[int, ...], size: int) -> VnetHdr | None:
        """The header if its requests were negotiated and fit the frame (5.1.6.2.1), else None."""
        flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = fields[:6]
        flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM
        if not flags or not self._csum or csum_start < ETH_HLEN or csum_start + csum_offset + 2 > size:
            self.counters.rx_drop_csum += 1
            return None
        if gso_type and (gso_type not in self._gso_in or not gso_size or hdr_len > size):
            self.counters.rx_drop_gso += 1
            return None
        return VnetHdr(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)

    # -- to the guest -----------------------------------------------------------------------------------

    def transmit(self, ring: Ring, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> int:
        """Lay one frame into the receive queue: SENT (pushed, not published), NO_BUFFERS or TOO_BIG. IotlbMiss, with
        nothing taken, if a buffer for it is not translated yet."""
        size = self._hdr_size + sum(map(len, parts))
        if size > self._max_written:
            self.counters.tx_drop_too_big += 1
            return TOO_BIG
        header = self._plain if hdr is None else self._header(hdr)
        if self._hash_report:
            header = self._hashed(header, parts)
        if self._mergeable and self._merge(ring, header, parts):
            self.counters.tx_frames += 1
            self.counters.tx_bytes += size - self._hdr_size
            return SENT
        chain = ring.pop()
        if chain is None:
            return NO_BUFFERS
        if chain.readable:
            rule = "a device-readable descriptor in a receive queue"
            raise BrokenRing(ring.index, rule, "5.1.6.3", chain.head)
        writable = chain.writable
        at = self._hdr_size
        if len(writable) == 1 and len(writable[0]) >= size:
            target = writable[0]
            target[:at] = header
            for part in parts:
                end = at + len(part)
                target[at:end] = part
                at = end
            ring.push(chain.head, size)
        else:
            verdict = self._scatter(ring, chain, header, parts, size)
            if verdict:
                return verdict
        self.counters.tx_frames += 1
        self.counters.tx_bytes += size - self._hdr_size
        return SENT

    def _merge(self, ring: Ring, header: bytes, parts: Sequence[Buffer]) -> bool:
        """Lay a frame into as many plain buffers as it needs; False, with nothing taken, if there are not
        enough of those."""
        taken = ring.fill((header, *parts), len(header))
        if taken is None:
            return False
        count, first = taken
        if count > 1:
            first[VIRTIO_NET_HDR_NUM_BUFFERS : VIRTIO_NET_HDR_NUM_BUFFERS + 2] = count.to_bytes(2, "little")
        return True

    def _header(self, hdr: VnetHdr) -> bytes:
        """The bytes of virtio_net_hdr, for one buffer; DATA_VALID only for a driver that knows it (5.1.6.4.1)."""
        flags = hdr.flags
        if flags & VIRTIO_NET_HDR_F_DATA_VALID and not self.offloads.csum:
            flags &= ~VIRTIO_NET_HDR_F_DATA_VALID
        fields = (flags, hdr.gso_type, hdr.hdr_len, hdr.gso_size, hdr.csum_start, hdr.csum_offset)
        if self._hdr is VIRTIO_NET_HDR_LEGACY:
            return self._hdr.pack(*fields)
        return self._hdr.pack(*fields, 1, 0, 0) if self._hash_report else self._hdr.pack(*fields, 1)

    def _hashed(self, header: bytes, parts: Sequence[Buffer]) -> bytes:
        """The header with the frame's hash and of what it is (5.1.6.4.4)."""
        config = self.control.hash
        if config is None:
            return header
        beginning = parts[0] if len(parts[0]) >= HASHED or len(parts) == 1 else b"".join(parts)
        value, report = config.of(beginning)
        return header[:VIRTIO_NET_HDR_HASH_VALUE] + _HASH.pack(value, report)

    def _scatter(self, ring: Ring, chain: Chain, header: bytes, parts: Sequence[Buffer], size: int) -> int:
        """The general case: several descriptors, several chains."""
        chains = [chain]
        rooms = [sum(map(len, chain.writable))]
        try:
            verdict = self._gather(ring, chains, rooms, size)
        except IotlbMiss:
            ring.unpop(chains)
            raise
        if verdict:
            ring.unpop(chains)
            return verdict
        targets = [piece for taken in chains for piece in taken.writable]
        if len(chains) > 1:
            at = VIRTIO_NET_HDR_NUM_BUFFERS
            header = header[:at] + len(chains).to_bytes(2, "little") + header[at + 2 :]
        scatter(targets, (header, *parts))
        for taken, room in zip(chains, rooms, strict=True):
            written = min(room, size)
            ring.push(taken.head, written)
            size -= written
        return SENT

    def _gather(self, ring: Ring, chains: list[Chain], rooms: list[int], size: int) -> int:
        """Take further chains until `size` bytes fit (5.1.6.3.1, 5.1.6.4)."""
        room = rooms[0]
        if room < self._hdr_size:
            self.counters.tx_drop_too_big += 1
            return TOO_BIG
        while room < size:
            if not self._mergeable or len(chains) == ring.num:
                self.counters.tx_drop_too_big += 1
                return TOO_BIG
            chain = ring.pop()
            if chain is None:
                return NO_BUFFERS
            if chain.readable:
                rule = "a device-readable descriptor in a receive queue"
                raise BrokenRing(ring.index, rule, "5.1.6.3", chain.head)
            writable = chain.writable
            more = len(writable[0]) if len(writable) == 1 else sum(map(len, writable))
            chains.append(chain)
            rooms.append(more)
            room += more
        return SENT


def scatter(targets: Sequence[memoryview], sources: Sequence[Buffer]) -> None:
    """Copy the bytes of `sources` into `targets`, whose borders lie elsewhere; the targets are large
    enough."""
    number, at = 0, 0
    target = targets[0]
    room = len(target)
    for source in sources:
        left = len(source)
        if left <= room:
            target[at : at + left] = source
            at += left
            room -= left
            continue
        view = memoryview(source)
        target[at:] = view[:room]
        done = room
        while True:
            number += 1
            target = targets[number]
            room = len(target)
            if left - done <= room:
                break
            target[:] = view[done : done + room]
            done += room
        at = left - done
        target[:at] = view[done:]
        room -= at
