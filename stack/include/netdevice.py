# SPDX-License-Identifier: GPL-2.0-or-later
"""struct net_device (include/linux/netdevice.h): the stack's end of the line to a device.

The host process sets ``ndo_start_xmit``; it gets complete packets from ``dev_queue_xmit`` and puts them on a
wire.  Frames come the other way through ``Stack.netif_rx``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.stack import Stack

NETDEV_TX_OK: Final = 0
NETDEV_TX_BUSY: Final = 16

IFF_UP: Final = 1
IFF_LOOPBACK: Final = 8
IFF_NOARP: Final = 0x80

# Features of the device that change what TCP and UDP send; linux/netdev_features.h has them as bits.
NETIF_F_HW_CSUM: Final = 1 << 0  # CHECKSUM_PARTIAL frames are taken
NETIF_F_TSO: Final = 1 << 1
NETIF_F_TSO6: Final = 1 << 2
NETIF_F_TSO_ECN: Final = 1 << 3
NETIF_F_SG: Final = 1 << 4
NETIF_F_GSO_UDP_L4: Final = 1 << 5
NETIF_F_GSO_MASK: Final = NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN | NETIF_F_GSO_UDP_L4

GSO_MAX_SIZE: Final = 65536
GSO_MAX_SEGS: Final = 65535


class net_device_stats:
    __slots__ = ("rx_bytes", "rx_dropped", "rx_errors", "rx_packets", "tx_bytes", "tx_dropped", "tx_packets")

    def __init__(self) -> None:
        self.rx_packets = self.rx_bytes = self.rx_dropped = self.rx_errors = 0
        self.tx_packets = self.tx_bytes = self.tx_dropped = 0


class net_device:
    """struct net_device.  ``dev_addr`` is 6 bytes; ``mtu`` counts bytes of IP packet; ``ip_ptr`` and ``ip6_ptr``
    are the protocols' own data (in_device, inet6_dev)."""

    __slots__ = (
        "dev_addr",
        "features",
        "flags",
        "gso_max_segs",
        "gso_max_size",
        "ifindex",
        "ip6_ptr",
        "ip_ptr",
        "mtu",
        "name",
        "ndo_start_xmit",
        "net",
        "queue_stopped",
        "stats",
        "tx_queue",
        "tx_queue_len",
    )

    def __init__(self, net: Stack, name: str, dev_addr: bytes, mtu: int = 1500) -> None:
        self.net = net
        self.name = name
        self.dev_addr = dev_addr
        self.mtu = mtu
        self.ifindex = 0
        self.flags = IFF_UP
        self.features = 0
        self.gso_max_size = GSO_MAX_SIZE
        self.gso_max_segs = GSO_MAX_SEGS
        self.stats = net_device_stats()
        self.ip_ptr: object | None = None
        self.ip6_ptr: object | None = None
        self.tx_queue: deque[sk_buff] = deque()  # what the device refused with NETDEV_TX_BUSY, in order
        self.tx_queue_len = 1000
        self.queue_stopped = False
        self.ndo_start_xmit: Callable[[sk_buff, net_device], int] | None = None
