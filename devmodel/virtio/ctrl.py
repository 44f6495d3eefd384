# SPDX-License-Identifier: GPL-2.0-or-later
"""The control queue of virtio-net (virtio 1.2, section 5.1.6.5), for frontends that forward it.

QEMU keeps this queue to itself; User-Mode Linux and the driver in guest/driver hand it on.  ``ControlQueue.process``
takes the device-readable bytes of one command and gives those that are written back: the ack, then a result where the
command has one.  It never raises: whatever a driver writes is done as a whole or refused with VIRTIO_NET_ERR, and a
command of a class whose feature was not negotiated is refused.  Who leaves no room for the ack has a broken driver: the
result is then empty.

State lives where it is used: modes and tables in RxFilter, queues in Steering, offloads and coalescing here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from devmodel.virtio import features as vf
from devmodel.virtio.rss import (
    MAX_INDIRECTION,
    MAX_KEY,
    SUPPORTED_HASH_TYPES,
    HashConfig,
    RssConfig,
    Steering,
)
from devmodel.virtio.rxfilter import MAX_TABLE, MODES, VLANS, RxFilter

# 5.1.6.5: ack values
VIRTIO_NET_OK: Final = 0
VIRTIO_NET_ERR: Final = 1

# 5.1.6.5.1 to 5.1.6.5.9: class and command
VIRTIO_NET_CTRL_RX: Final = 0
VIRTIO_NET_CTRL_MAC: Final = 1
VIRTIO_NET_CTRL_MAC_TABLE_SET: Final = 0
VIRTIO_NET_CTRL_MAC_ADDR_SET: Final = 1
VIRTIO_NET_CTRL_VLAN: Final = 2
VIRTIO_NET_CTRL_VLAN_ADD: Final = 0
VIRTIO_NET_CTRL_VLAN_DEL: Final = 1
VIRTIO_NET_CTRL_ANNOUNCE: Final = 3
VIRTIO_NET_CTRL_ANNOUNCE_ACK: Final = 0
VIRTIO_NET_CTRL_MQ: Final = 4
VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: Final = 0
VIRTIO_NET_CTRL_MQ_RSS_CONFIG: Final = 1
VIRTIO_NET_CTRL_MQ_HASH_CONFIG: Final = 2
VIRTIO_NET_CTRL_GUEST_OFFLOADS: Final = 5
VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: Final = 0
VIRTIO_NET_CTRL_NOTF_COAL: Final = 6
VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: Final = 0
VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: Final = 1
VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: Final = 2  # virtio 1.3
VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET: Final = 3

_RX_NEEDS: Final = (vf.VIRTIO_NET_F_CTRL_RX,) * 2 + (vf.VIRTIO_NET_F_CTRL_RX_EXTRA,) * 4
GUEST_OFFLOADS: Final = vf.mask(
    vf.VIRTIO_NET_F_GUEST_CSUM,
    vf.VIRTIO_NET_F_GUEST_TSO4,
    vf.VIRTIO_NET_F_GUEST_TSO6,
    vf.VIRTIO_NET_F_GUEST_ECN,
    vf.VIRTIO_NET_F_GUEST_UFO,
    vf.VIRTIO_NET_F_GUEST_USO4,
    vf.VIRTIO_NET_F_GUEST_USO6,
)
_RSS_HEAD: Final = struct.Struct("<IHH")
_VQ_COAL: Final = struct.Struct("<H2xII")
_HASH_HEAD: Final = struct.Struct("<I8x")


@dataclass(frozen=True)
class Coalescing:
    """5.1.6.5.9: a notification may wait so long, or for so many packets (vhost_user/coalesce.py)."""

    max_usecs: int = 0
    max_packets: int = 0


class Refused(Exception):
    """The command is answered by VIRTIO_NET_ERR."""


class ControlQueue:
    """Of one device.  ``on_offloads`` is told the features that the driver lets us use from now on; ``pairs`` and the
    steering's ``rss`` are for whoever has the rings: it uses pairs that run."""

    def __init__(
        self,
        rx_filter: RxFilter,
        steering: Steering,
        max_pairs: int,
        on_offloads: Callable[[int], object] = lambda features: None,
    ) -> None:
        self._filter, self._steering, self._max_pairs = rx_filter, steering, max_pairs
        self._on_offloads = on_offloads
        self.counters = {"ok": 0, "refused": 0}
        self.pairs = 1  # that the driver uses
        self.negotiate(0)

    def negotiate(self, features: int) -> None:
        """Begin anew with the driver's features: 5.1.6.5.*.1, everything is as after a reset."""
        self.features = features
        self.pairs = 1
        self.announce = False  # a gratuitous packet of the guest's is wanted
        self.coalescing: dict[int, Coalescing] = {}  # by queue; what is missing does not wait
        self.hash: HashConfig | None = None  # for VIRTIO_NET_F_HASH_REPORT
        has_queue = self._has(vf.VIRTIO_NET_F_CTRL_VQ)
        self._filter.reset(
            filtering=has_queue and self._has(vf.VIRTIO_NET_F_CTRL_RX),
            vlan_filtering=has_queue and self._has(vf.VIRTIO_NET_F_CTRL_VLAN),
        )
        self._steering.reset()

    def _has(self, bit: int) -> bool:
        return bool(self.features >> bit & 1)

    def process(self, command: bytes, room: int) -> bytes:
        """One command; ``room`` is the size of the device-writable part.  What to write there, b"" without room."""
        if room < 1:
            return b""
        try:
            result = self._dispatch(command) or b""
            if len(result) >= room:
                raise Refused
        except (Refused, struct.error, IndexError):
            self.counters["refused"] += 1
            return bytes([VIRTIO_NET_ERR])
        self.counters["ok"] += 1
        return bytes([VIRTIO_NET_OK]) + result

    def _dispatch(self, command: bytes) -> bytes | None:
        kind, number, data = command[0], command[1], command[2:]
        handlers: dict[int, Callable[[int, bytes], bytes | None]] = {
            VIRTIO_NET_CTRL_RX: self._rx,
            VIRTIO_NET_CTRL_MAC: self._mac,
            VIRTIO_NET_CTRL_VLAN: self._vlan,
            VIRTIO_NET_CTRL_ANNOUNCE: self._announced,
            VIRTIO_NET_CTRL_MQ: self._mq,
            VIRTIO_NET_CTRL_GUEST_OFFLOADS: self._guest_offloads,
            VIRTIO_NET_CTRL_NOTF_COAL: self._coalesce,
        }
        handler = handlers.get(kind)
        if handler is None or not self._has(vf.VIRTIO_NET_F_CTRL_VQ):
            raise Refused
        return handler(number, data)

    def _need(self, bit: int, *, when: bool = True) -> None:
        if not when or not self._has(bit):
            raise Refused

    # -- filters: 5.1.6.5.1 to 5.1.6.5.3 ------------------------------------------------------------------------

    def _rx(self, number: int, data: bytes) -> None:
        self._need(_RX_NEEDS[number], when=len(data) == 1)
        self._filter.set_mode(MODES[number], bool(data[0]))

    def _mac(self, number: int, data: bytes) -> None:
        if number == VIRTIO_NET_CTRL_MAC_ADDR_SET:
            self._need(vf.VIRTIO_NET_F_CTRL_MAC_ADDR, when=len(data) == 6)
            self._filter.mac = data
            return
        self._need(vf.VIRTIO_NET_F_CTRL_RX, when=number == VIRTIO_NET_CTRL_MAC_TABLE_SET)
        unicast, rest = _table(data)
        multicast, rest = _table(rest)
        if rest or any(mac[0] & 1 for mac in unicast) or not all(mac[0] & 1 for mac in multicast):
            raise Refused
        self._filter.set_table(unicast, multicast)

    def _vlan(self, number: int, data: bytes) -> None:
        self._need(vf.VIRTIO_NET_F_CTRL_VLAN, when=len(data) == 2)
        vlan = int.from_bytes(data, "little")
        if vlan >= VLANS:
            raise Refused
        if number == VIRTIO_NET_CTRL_VLAN_ADD:
            self._filter.vlans.add(vlan)
        elif number == VIRTIO_NET_CTRL_VLAN_DEL:
            self._filter.vlans.discard(vlan)
        else:
            raise Refused

    # -- announcements, offloads, coalescing: 5.1.6.5.4, 5.1.6.5.6, 5.1.6.5.9 -----------------------------------

    def _announced(self, number: int, data: bytes) -> None:
        self._need(vf.VIRTIO_NET_F_GUEST_ANNOUNCE, when=number == VIRTIO_NET_CTRL_ANNOUNCE_ACK and not data)
        self.announce = False

    def _guest_offloads(self, number: int, data: bytes) -> None:
        known = number == VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET and len(data) == 8
        self._need(vf.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, when=known)
        wanted = int.from_bytes(data, "little")
        if wanted & ~(self.features & GUEST_OFFLOADS):
            raise Refused
        self._on_offloads(self.features & ~GUEST_OFFLOADS | wanted)

    def _coalesce(self, number: int, data: bytes) -> bytes | None:
        if number == VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET:
            index = self._queue_of(data, 4)
            found = self.coalescing.get(index, Coalescing())
            return _VQ_COAL.pack(index, found.max_packets, found.max_usecs)
        if number == VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET:
            index = self._queue_of(data, _VQ_COAL.size)
            _, packets, usecs = _VQ_COAL.unpack(data)
            self.coalescing[index] = Coalescing(usecs, packets)
            return None
        of_rx = number == VIRTIO_NET_CTRL_NOTF_COAL_RX_SET
        self._need(vf.VIRTIO_NET_F_NOTF_COAL, when=len(data) == 8 and (of_rx or number == 0))
        packets, usecs = struct.unpack("<II", data)
        for index in range(0 if of_rx else 1, 2 * self._max_pairs, 2):
            self.coalescing[index] = Coalescing(usecs, packets)
        return None

    def _queue_of(self, data: bytes, size: int) -> int:
        """The receive or transmit queue that a command of that length is about."""
        self._need(vf.VIRTIO_NET_F_VQ_NOTF_COAL, when=len(data) == size)
        index = int.from_bytes(data[:2], "little")
        if index >= 2 * self._max_pairs:
            raise Refused
        return index

    # -- queues: 5.1.6.5.5, 5.1.6.5.7 -----------------------------------------------------------------------------

    def _mq(self, number: int, data: bytes) -> None:
        if number == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
            self._need(vf.VIRTIO_NET_F_MQ, when=len(data) == 2)
            pairs = int.from_bytes(data, "little")
            self._use(pairs, None)
        elif number == VIRTIO_NET_CTRL_MQ_RSS_CONFIG:
            self._need(vf.VIRTIO_NET_F_RSS)
            self._use(*self._rss(data))
        elif number == VIRTIO_NET_CTRL_MQ_HASH_CONFIG:
            self._need(vf.VIRTIO_NET_F_HASH_REPORT)
            (types,) = _HASH_HEAD.unpack_from(data)
            self.hash = _hash_config(types, data[_HASH_HEAD.size :])
        else:
            raise Refused

    def _use(self, pairs: int, rss: RssConfig | None) -> None:
        if not 1 <= pairs <= self._max_pairs:
            raise Refused
        self.pairs = pairs
        self._steering.rss = rss
        if rss is not None:
            self.hash = rss.hash

    def _rss(self, data: bytes) -> tuple[int, RssConfig]:
        types, mask, unclassified = _RSS_HEAD.unpack_from(data)
        size = mask + 1
        if size & mask or size > MAX_INDIRECTION:
            raise Refused
        table = struct.unpack_from(f"<{size}H", data, _RSS_HEAD.size)
        at = _RSS_HEAD.size + 2 * size
        (max_tx,) = struct.unpack_from("<H", data, at)
        if max(*table, unclassified) >= self._max_pairs:
            raise Refused
        return max_tx, RssConfig(_hash_config(types, data[at + 2 :]), table, unclassified)


def _table(data: bytes) -> tuple[frozenset[bytes], bytes]:
    """5.1.6.5.2: a number and so many addresses; what follows them."""
    (count,) = struct.unpack_from("<I", data)
    if count > MAX_TABLE or len(data) < 4 + 6 * count:
        raise Refused
    found = frozenset(data[4 + 6 * n : 10 + 6 * n] for n in range(count))
    return found, data[4 + 6 * count :]


def _hash_config(types: int, tail: bytes) -> HashConfig:
    """The key's length and the key, up to the end."""
    size = tail[0]
    if types & ~SUPPORTED_HASH_TYPES or size > MAX_KEY or len(tail) != 1 + size:
        raise Refused
    return HashConfig(types, tail[1:])
