# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration space of a network device: struct virtio_net_config (virtio 1.2, section 5.1.4).

QEMU has one of its own for a network device behind vhost-user and refuses ours with a warning, so a back end
has this only when its owner asks for it, for frontends that have none: User-Mode Linux, and the driver in guest/driver.

Who owns the device changes `mac` before a frontend connects, and the link at any time; `announce` and the number of
queue pairs come from whoever packs it, since the control queue and the session know them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from devmodel.virtio import features as vf
from devmodel.virtio.rss import MAX_INDIRECTION, MAX_KEY, SUPPORTED_HASH_TYPES
from devmodel.virtio.spec import VIRTIO_NET_MAX_MTU, VIRTIO_NET_MIN_MTU

# 5.1.4: mac, status, max_virtqueue_pairs, mtu, speed, duplex, rss_max_key_size, rss_max_indirection_table_length,
# supported_hash_types
VIRTIO_NET_CONFIG: Final = struct.Struct("<6sHHHIBBHI")

# 5.1.4: status
VIRTIO_NET_S_LINK_UP: Final = 1
VIRTIO_NET_S_ANNOUNCE: Final = 2

# 5.1.4: speed in Mbit/s, duplex
SPEED_UNKNOWN: Final = 0xFFFFFFFF
DUPLEX_HALF: Final = 0
DUPLEX_FULL: Final = 1
DUPLEX_UNKNOWN: Final = 0xFF

CONFIG_FEATURES: Final = vf.mask(
    vf.VIRTIO_NET_F_MAC, vf.VIRTIO_NET_F_STATUS, vf.VIRTIO_NET_F_MTU, vf.VIRTIO_NET_F_SPEED_DUPLEX
)
"""What makes a driver look at its fields; max_virtqueue_pairs and those of RSS have features of their own."""


@dataclass(kw_only=True)
class NetConfig:
    """See the module. ValueError for a MAC that is not six bytes of a unicast address, and for an MTU that cannot
    be."""

    mac: bytes
    mtu: int = 1500
    speed: int = SPEED_UNKNOWN
    duplex: int = DUPLEX_UNKNOWN
    link_up: bool = True

    def __post_init__(self) -> None:
        if len(self.mac) != 6 or self.mac[0] & 1:
            raise ValueError(f"no unicast MAC address: {self.mac.hex(':')}")
        if not VIRTIO_NET_MIN_MTU <= self.mtu <= VIRTIO_NET_MAX_MTU:
            raise ValueError(f"MTU {self.mtu} is not within {VIRTIO_NET_MIN_MTU} to {VIRTIO_NET_MAX_MTU}")

    def pack(self, pairs: int, announce: bool) -> bytes:
        """The space as a driver reads it."""
        status = VIRTIO_NET_S_LINK_UP if self.link_up else 0
        status |= VIRTIO_NET_S_ANNOUNCE if announce else 0
        return VIRTIO_NET_CONFIG.pack(
            self.mac,
            status,
            pairs,
            self.mtu,
            self.speed,
            self.duplex,
            MAX_KEY,
            MAX_INDIRECTION,
            SUPPORTED_HASH_TYPES,
        )

    def write(self, offset: int, data: bytes, *, migration: bool) -> bool:
        """What was written to it; False if that may not be.

        A driver may write the MAC address alone, all or some of it; one that knows VIRTIO_NET_F_CTRL_MAC_ADDR does not
        (5.1.4). A migration writes the whole space of the device that it came from; its address is taken over, the
        rest describes this device and is not.
        """
        inside = offset + len(data) <= (VIRTIO_NET_CONFIG.size if migration else len(self.mac))
        if not inside:
            return False
        mac = bytearray(self.mac)
        part = data[: max(len(mac) - offset, 0)]
        mac[offset : offset + len(part)] = part
        if mac[0] & 1:
            return False
        self.mac = bytes(mac)
        return True
