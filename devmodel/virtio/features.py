# SPDX-License-Identifier: GPL-2.0-or-later
"""Feature bits of virtio 1.2 (sections 5.1.3, 6 and 6.3), what this device offers, and their dependencies."""

from __future__ import annotations

from typing import Final

# 5.1.3 Feature bits of the network device
VIRTIO_NET_F_CSUM: Final = 0
VIRTIO_NET_F_GUEST_CSUM: Final = 1
VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: Final = 2
VIRTIO_NET_F_MTU: Final = 3
VIRTIO_NET_F_MAC: Final = 5
VIRTIO_NET_F_GUEST_TSO4: Final = 7
VIRTIO_NET_F_GUEST_TSO6: Final = 8
VIRTIO_NET_F_GUEST_ECN: Final = 9
VIRTIO_NET_F_GUEST_UFO: Final = 10
VIRTIO_NET_F_HOST_TSO4: Final = 11
VIRTIO_NET_F_HOST_TSO6: Final = 12
VIRTIO_NET_F_HOST_ECN: Final = 13
VIRTIO_NET_F_HOST_UFO: Final = 14
VIRTIO_NET_F_MRG_RXBUF: Final = 15
VIRTIO_NET_F_STATUS: Final = 16
VIRTIO_NET_F_CTRL_VQ: Final = 17
VIRTIO_NET_F_CTRL_RX: Final = 18
VIRTIO_NET_F_CTRL_VLAN: Final = 19
VIRTIO_NET_F_CTRL_RX_EXTRA: Final = 20
VIRTIO_NET_F_GUEST_ANNOUNCE: Final = 21
VIRTIO_NET_F_MQ: Final = 22
VIRTIO_NET_F_CTRL_MAC_ADDR: Final = 23
VIRTIO_NET_F_VQ_NOTF_COAL: Final = 52
VIRTIO_NET_F_NOTF_COAL: Final = 53
VIRTIO_NET_F_GUEST_USO4: Final = 54
VIRTIO_NET_F_GUEST_USO6: Final = 55
VIRTIO_NET_F_HOST_USO: Final = 56
VIRTIO_NET_F_HASH_REPORT: Final = 57
VIRTIO_NET_F_RSS: Final = 60
VIRTIO_NET_F_SPEED_DUPLEX: Final = 63

# 5.1.3.2 Legacy: feature bits
VIRTIO_NET_F_GSO: Final = 6

# 6.3 Legacy: reserved feature bits
VIRTIO_F_NOTIFY_ON_EMPTY: Final = 24
VIRTIO_F_ANY_LAYOUT: Final = 27

# 6 Reserved feature bits
VIRTIO_F_INDIRECT_DESC: Final = 28
VIRTIO_F_EVENT_IDX: Final = 29
VIRTIO_F_VERSION_1: Final = 32
VIRTIO_F_ACCESS_PLATFORM: Final = 33
VIRTIO_F_RING_PACKED: Final = 34
VIRTIO_F_IN_ORDER: Final = 35
VIRTIO_F_RING_RESET: Final = 40

# vhost-user specification, "Feature negotiation" and "Live migration"
VHOST_F_LOG_ALL: Final = 26
VHOST_USER_F_PROTOCOL_FEATURES: Final = 30

NAMES: Final = {
    value: name
    for name, value in list(globals().items())
    if name.startswith(("VIRTIO_", "VHOST_")) and isinstance(value, int)
}


def mask(*bits: int) -> int:
    """The 64-bit word with these bit numbers set."""
    word = 0
    for bit in bits:
        word |= 1 << bit
    return word


# MAC, STATUS and the control queue are missing by intent: they live in configuration space, which the
# frontend owns, and QEMU offers them by itself whatever a back end says. RING_RESET is missing as QEMU 7.2
# passes the offer on to the guest, but tells a vhost-user back end nothing of a reset: after `ethtool -G` the
# device went on with the old ring, in pages that the guest had given to somebody else.
DEVICE_FEATURES: Final = mask(
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_GSO,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_F_NOTIFY_ON_EMPTY,
    VIRTIO_F_ANY_LAYOUT,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_VERSION_1,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_IN_ORDER,
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
)

# For a frontend that forwards the control queue.
CONTROL_FEATURES: Final = mask(
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_F_HASH_REPORT,
    VIRTIO_NET_F_NOTF_COAL,
    VIRTIO_NET_F_VQ_NOTF_COAL,
)

# 5.1.3.1 Feature bit requirements: a bit, and the bits of which at least one must come with it
_REQUIRES: Final = (
    (VIRTIO_NET_F_GUEST_TSO4, mask(VIRTIO_NET_F_GUEST_CSUM)),
    (VIRTIO_NET_F_GUEST_TSO6, mask(VIRTIO_NET_F_GUEST_CSUM)),
    (VIRTIO_NET_F_GUEST_ECN, mask(VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6)),
    (VIRTIO_NET_F_GUEST_UFO, mask(VIRTIO_NET_F_GUEST_CSUM)),
    (VIRTIO_NET_F_GUEST_USO4, mask(VIRTIO_NET_F_GUEST_CSUM)),
    (VIRTIO_NET_F_GUEST_USO6, mask(VIRTIO_NET_F_GUEST_CSUM)),
    (VIRTIO_NET_F_GSO, mask(VIRTIO_NET_F_CSUM)),
    (VIRTIO_NET_F_HOST_TSO4, mask(VIRTIO_NET_F_CSUM)),
    (VIRTIO_NET_F_HOST_TSO6, mask(VIRTIO_NET_F_CSUM)),
    (VIRTIO_NET_F_HOST_ECN, mask(VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6)),
    (VIRTIO_NET_F_HOST_UFO, mask(VIRTIO_NET_F_CSUM)),
    (VIRTIO_NET_F_HOST_USO, mask(VIRTIO_NET_F_CSUM)),
    (VIRTIO_NET_F_HASH_REPORT, mask(VIRTIO_NET_F_CTRL_VQ)),
    (VIRTIO_NET_F_NOTF_COAL, mask(VIRTIO_NET_F_CTRL_VQ)),
    (VIRTIO_NET_F_VQ_NOTF_COAL, mask(VIRTIO_NET_F_CTRL_VQ)),
)


_HOST_GSO: Final = mask(
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_UFO
)


def effective(features: int) -> int:
    """`features` without the bits whose requirement (5.1.3.1) is not met.

    A frontend passes on what the guest's driver acknowledged; such a bit is ignored, not refused, since a
    driver that never uses it does no harm. VIRTIO_NET_F_GSO is a legacy driver's word for all kinds of segmentation
    that there were then (5.1.3.2); a driver of VERSION_1 does not know it.
    """
    if features >> VIRTIO_NET_F_GSO & 1:
        features = (
            features & ~(1 << VIRTIO_NET_F_GSO)
            if features >> VIRTIO_F_VERSION_1 & 1
            else features | _HOST_GSO
        )
    for bit, needs in _REQUIRES:
        if features >> bit & 1 and not features & needs:
            features &= ~(1 << bit)
    return features


def names(features: int) -> list[str]:
    """The set bits by name, lowest first; a bit without a name as `bit N`."""
    return [NAMES.get(bit, f"bit {bit}") for bit in range(64) if features >> bit & 1]
