# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of feature bits, those included that only other back ends offer."""

from __future__ import annotations

from typing import Final

from devmodel.vhost_user import message as vu
from devmodel.virtio import features as vf

# Bits of virtio 1.2 (5.1.3, 6) that other back ends offer and the device model has no use for
FURTHER_NAMES: Final = {
    18: "VIRTIO_NET_F_CTRL_RX",
    19: "VIRTIO_NET_F_CTRL_VLAN",
    20: "VIRTIO_NET_F_CTRL_RX_EXTRA",
    21: "VIRTIO_NET_F_GUEST_ANNOUNCE",
    23: "VIRTIO_NET_F_CTRL_MAC_ADDR",
    33: "VIRTIO_F_ACCESS_PLATFORM",
    36: "VIRTIO_F_ORDER_PLATFORM",
    37: "VIRTIO_F_SR_IOV",
    38: "VIRTIO_F_NOTIFICATION_DATA",
    50: "VIRTIO_NET_F_DEVICE_STATS",
    51: "VIRTIO_NET_F_HASH_TUNNEL",
    57: "VIRTIO_NET_F_HASH_REPORT",
    59: "VIRTIO_NET_F_GUEST_HDRLEN",
    60: "VIRTIO_NET_F_RSS",
    61: "VIRTIO_NET_F_RSC_EXT",
    62: "VIRTIO_NET_F_STANDBY",
    63: "VIRTIO_NET_F_SPEED_DUPLEX",
}

# "Protocol features" beyond those of the device model
FURTHER_PROTOCOL_NAMES: Final = {
    1: "VHOST_USER_PROTOCOL_F_LOG_SHMFD",
    5: "VHOST_USER_PROTOCOL_F_BACKEND_REQ",
    6: "VHOST_USER_PROTOCOL_F_CROSS_ENDIAN",
    7: "VHOST_USER_PROTOCOL_F_CRYPTO_SESSION",
    8: "VHOST_USER_PROTOCOL_F_PAGEFAULT",
    9: "VHOST_USER_PROTOCOL_F_CONFIG",
    10: "VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD",
    11: "VHOST_USER_PROTOCOL_F_HOST_NOTIFIER",
    12: "VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD",
    14: "VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS",
    17: "VHOST_USER_PROTOCOL_F_XEN_MMAP",
    18: "VHOST_USER_PROTOCOL_F_SHARED_OBJECT",
    19: "VHOST_USER_PROTOCOL_F_DEVICE_STATE",
}


def feature_name(bit: int) -> str:
    return vf.NAMES.get(bit) or FURTHER_NAMES.get(bit) or f"bit {bit}"


def protocol_name(bit: int) -> str:
    name = vu.names(1 << bit)[0]
    return FURTHER_PROTOCOL_NAMES.get(bit, name) if name.startswith("bit ") else name


def feature_names(features: int) -> str:
    """The set bits, for messages to people."""
    return ", ".join(feature_name(bit) for bit in range(64) if features >> bit & 1)
