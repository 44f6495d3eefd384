# SPDX-License-Identifier: GPL-2.0-or-later
"""The Ethernet header: net/ethernet/eth.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.ip import ETH_HLEN
from stack.include.sk_buff import PACKET_BROADCAST, PACKET_HOST, PACKET_MULTICAST, PACKET_OTHERHOST, sk_buff

if TYPE_CHECKING:
    from stack.include.netdevice import net_device

ETH_BROADCAST: Final = b"\xff\xff\xff\xff\xff\xff"
ETH_P_802_3_MIN: Final = 0x0600
ETH_P_802_2: Final = 0x0004


def is_multicast_ether_addr(addr: bytes) -> bool:
    """Whether the group bit is set: multicast or broadcast."""
    return addr[0] & 1 != 0


def is_valid_ether_addr(addr: bytes) -> bool:
    return len(addr) == 6 and not addr[0] & 1 and any(addr)


def eth_type_trans(skb: sk_buff, dev: net_device) -> int:
    """Decide for whom a received frame is (``pkt_type``), step over its header and return its protocol.  The caller
    has made sure of 14 bytes."""
    head = skb.head
    data = skb.data
    skb.dev = dev
    skb.mac_header = data
    skb.data = data + ETH_HLEN
    skb.len -= ETH_HLEN
    dest = head[data : data + 6]
    if dest == dev.dev_addr:
        skb.pkt_type = PACKET_HOST
    elif dest == ETH_BROADCAST:
        skb.pkt_type = PACKET_BROADCAST
    elif dest[0] & 1:
        skb.pkt_type = PACKET_MULTICAST
    else:
        skb.pkt_type = PACKET_OTHERHOST
    proto = (head[data + 12] << 8) | head[data + 13]
    # IEEE 802.3: below 0x0600 the field is a length, and an LLC frame follows.
    return proto if proto >= ETH_P_802_3_MIN else ETH_P_802_2
