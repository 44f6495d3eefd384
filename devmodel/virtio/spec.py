# SPDX-License-Identifier: GPL-2.0-or-later
"""Constants of the virtio specification, version 1.2, in blocks by section, under its names."""

from __future__ import annotations

import struct
from typing import Final

# 2.1 Device Status Field
VIRTIO_CONFIG_S_ACKNOWLEDGE: Final = 1
VIRTIO_CONFIG_S_DRIVER: Final = 2
VIRTIO_CONFIG_S_DRIVER_OK: Final = 4
VIRTIO_CONFIG_S_FEATURES_OK: Final = 8
VIRTIO_CONFIG_S_NEEDS_RESET: Final = 0x40
VIRTIO_CONFIG_S_FAILED: Final = 0x80

# 2.7 Split Virtqueues: the largest queue size
VIRTQ_MAX_SIZE: Final = 32768

# 2.7.5 The Virtqueue Descriptor Table: addr, len, flags, next
VIRTQ_DESC: Final = struct.Struct("<QIHH")
VIRTQ_DESC_SIZE: Final = 16
VIRTQ_DESC_F_NEXT: Final = 1
VIRTQ_DESC_F_WRITE: Final = 2
VIRTQ_DESC_F_INDIRECT: Final = 4

# 2.7.6 The Virtqueue Available Ring
VIRTQ_AVAIL_F_NO_INTERRUPT: Final = 1

# 2.7.8 The Virtqueue Used Ring
VIRTQ_USED_F_NO_NOTIFY: Final = 1

# 2.7, table of sizes and alignments; the two event fields are counted in
VIRTQ_DESC_ALIGN: Final = 16
VIRTQ_AVAIL_ALIGN: Final = 2
VIRTQ_USED_ALIGN: Final = 4


def desc_size(num: int) -> int:
    """Bytes of the descriptor table of a queue of `num`."""
    return 16 * num


def avail_size(num: int) -> int:
    """Bytes of the available ring: flags, idx, ring[num], used_event."""
    return 6 + 2 * num


def used_size(num: int) -> int:
    """Bytes of the used ring: flags, idx, ring[num] of (id, len), avail_event."""
    return 6 + 8 * num


# 2.8.13 The Virtqueue Descriptor Format (packed): addr, len, id, flags
PVIRTQ_DESC: Final = struct.Struct("<QIHH")

# 2.8.1 Driver and Device Ring Wrap Counters
VIRTQ_DESC_F_AVAIL: Final = 1 << 7
VIRTQ_DESC_F_USED: Final = 1 << 15

# 2.8.10 Driver and Device Event Suppression
RING_EVENT_FLAGS_ENABLE: Final = 0
RING_EVENT_FLAGS_DISABLE: Final = 1
RING_EVENT_FLAGS_DESC: Final = 2

# 2.8.10.1 Structure Size and Alignment; the descriptor ring is as large and aligned as a split queue's table
PVIRTQ_EVENT_SIZE: Final = 4
PVIRTQ_EVENT_ALIGN: Final = 4

# 5.1.6 Device Operation: struct virtio_net_hdr; num_buffers is absent from a legacy device's header unless
# mergeable receive buffers were negotiated (5.1.6.1)
VIRTIO_NET_HDR_LEGACY: Final = struct.Struct("<BBHHHH")
VIRTIO_NET_HDR: Final = struct.Struct("<BBHHHHH")
VIRTIO_NET_HDR_NUM_BUFFERS: Final = 10  # its offset
VIRTIO_NET_HDR_HASH: Final = struct.Struct("<BBHHHHHIH2x")  # with hash_value, hash_report (HASH_REPORT)
VIRTIO_NET_HDR_HASH_VALUE: Final = 12  # its offset; hash_report follows
VIRTIO_NET_HDR_F_NEEDS_CSUM: Final = 1
VIRTIO_NET_HDR_F_DATA_VALID: Final = 2
VIRTIO_NET_HDR_F_RSC_INFO: Final = 4
VIRTIO_NET_HDR_GSO_NONE: Final = 0
VIRTIO_NET_HDR_GSO_TCPV4: Final = 1
VIRTIO_NET_HDR_GSO_UDP: Final = 3
VIRTIO_NET_HDR_GSO_TCPV6: Final = 4
VIRTIO_NET_HDR_GSO_UDP_L4: Final = 5
VIRTIO_NET_HDR_GSO_ECN: Final = 0x80

# 5.1.6.3.1: a driver that takes TSO without mergeable buffers supplies 65562 bytes: a 12-byte header and this
MAX_GSO_FRAME: Final = 65550
ETH_HLEN: Final = 14

# 5.1.4.1: "mtu"; the lower bound is IPv4's (RFC 791)
VIRTIO_NET_MIN_MTU: Final = 68
VIRTIO_NET_MAX_MTU: Final = 65535
