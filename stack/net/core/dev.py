# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices and the way of a frame in and out: net/core/dev.c, with drivers/net/loopback.c at the end.

In: ``netif_rx`` makes the packet, checks what the device claims about checksum and segmentation against the frame
itself (virtio_net_hdr_to_skb in include/linux/virtio_net.h), and ``netif_receive_skb`` hands it to the protocol of its
Ethernet type.  Out: ``dev_queue_xmit`` validates the packet against the device's features (software checksum if it
has no NETIF_F_HW_CSUM) and calls ``ndo_start_xmit``.  A device may refuse with NETDEV_TX_BUSY: the packet and those
after it then wait in ``dev.tx_queue`` (a pfifo of ``tx_queue_len`` packets, the rest is dropped as QDISC_DROP) until
the adapter calls ``netif_wake_queue``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from stack.include.dropreason import (
    SKB_DROP_REASON_CPU_BACKLOG,
    SKB_DROP_REASON_DEV_HDR,
    SKB_DROP_REASON_DEV_READY,
    SKB_DROP_REASON_DEV_RX_OFFLOAD,
    SKB_DROP_REASON_OTHERHOST,
    SKB_DROP_REASON_QDISC_DROP,
    SKB_DROP_REASON_SKB_GSO_SEG,
    SKB_DROP_REASON_UNHANDLED_PROTO,
)
from stack.include.ip import ETH_HLEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_UDP, IPV4_MIN_MTU
from stack.include.net_tstamp import SCM_TSTAMP_SCHED, SKBTX_SCHED_TSTAMP
from stack.include.netdevice import (
    IFF_LOOPBACK,
    IFF_NOARP,
    IFF_UP,
    NETDEV_TX_BUSY,
    NETDEV_TX_OK,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    net_device,
)
from stack.include.sk_buff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    PACKET_OTHERHOST,
    RX_SMALL_HEAD,
    RX_SMALL_TRUESIZE,
    SKB_GSO_DODGY,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKB_GSO_UDP,
    SKB_GSO_UDP_L4,
    rx_truesize,
    sk_buff,
)
from stack.include.udp import UDP_MAX_SEGMENTS
from stack.net.core import skbuff
from stack.net.ethernet import eth
from stack.net.ipv4 import af_inet, arp, ip_input
from stack.net.ipv6 import ip6_offload

if TYPE_CHECKING:
    from stack.stack import Stack

NET_RX_SUCCESS: Final = 0
NET_RX_DROP: Final = 1
NET_XMIT_DROP: Final = 1
NET_XMIT_CN: Final = 2

IFNAMSIZ: Final = 16


# -- devices ---------------------------------------------------------------------------------------------------------


def _add_device(net: Stack, dev: net_device) -> net_device:
    dev.ifindex = len(net.devices) + 1
    net.devices[dev.ifindex] = dev
    net.devices_by_name[dev.name] = dev
    return dev


def register_netdevice(net: Stack, name: str, mac: bytes, mtu: int) -> net_device:
    """An Ethernet device, up; ValueError as ``Stack.register_netdevice`` says."""
    if not eth.is_valid_ether_addr(mac):
        raise ValueError(f"{mac.hex(':')} is not a unicast Ethernet address of 6 bytes")
    if not IPV4_MIN_MTU <= mtu <= 65535:
        raise ValueError(f"an MTU of {mtu} is outside {IPV4_MIN_MTU}..65535 bytes")
    if not 0 < len(name) < IFNAMSIZ or name in net.devices_by_name:
        raise ValueError(f"the device name {name!r} is taken, empty or longer than {IFNAMSIZ - 1} characters")
    return _add_device(net, net_device(net, name, bytes(mac), mtu))


# -- receive ---------------------------------------------------------------------------------------------------------


def netif_rx(
    dev: net_device, frame: bytes, csum_start: int, csum_offset: int, ip_summed: int, gso_size: int, gso_type: int
) -> int:
    """See ``Stack.netif_rx``."""
    stats = dev.stats
    nbytes = len(frame)
    skb = sk_buff(frame, 0, nbytes)
    small = nbytes <= RX_SMALL_HEAD and dev.net.profile.small_heads
    skb.truesize = RX_SMALL_TRUESIZE if small else rx_truesize(nbytes)
    skb.dev = dev
    stats.rx_packets += 1
    stats.rx_bytes += nbytes
    if nbytes < ETH_HLEN or not dev.flags & IFF_UP:
        return _rx_refuse(skb, SKB_DROP_REASON_DEV_READY if nbytes >= ETH_HLEN else SKB_DROP_REASON_DEV_HDR)
    skb.skb_iif = dev.ifindex
    if dev.net.core.netstamp_needed:
        skb.tstamp = dev.net.clock.real_ns()
    skb.ip_summed = ip_summed
    if ip_summed == CHECKSUM_PARTIAL and not _skb_partial_csum_set(skb, csum_start, csum_offset):
        return _rx_refuse(skb, SKB_DROP_REASON_DEV_RX_OFFLOAD)
    skb.protocol = eth.eth_type_trans(skb, dev)
    if gso_type and not _virtio_gso_set(skb, gso_size, gso_type):
        return _rx_refuse(skb, SKB_DROP_REASON_DEV_RX_OFFLOAD)
    return netif_receive_skb(skb)


def _rx_refuse(skb: sk_buff, reason: int) -> int:
    assert skb.dev is not None
    skb.dev.stats.rx_errors += 1
    skbuff.kfree_skb_reason(skb, reason)
    return NET_RX_DROP


def _skb_partial_csum_set(skb: sk_buff, start: int, offset: int) -> bool:
    """net/core/skbuff.c: the checksum field has to lie inside the frame, behind its Ethernet header."""
    if start < ETH_HLEN or offset < 0 or start + offset + 2 > skb.len:
        return False
    skb.csum_start = start
    skb.csum_offset = offset
    return True


def _virtio_gso_set(skb: sk_buff, gso_size: int, gso_type: int) -> bool:
    """A segmented frame has to be TCP of the family it says, or UDP, with a partial checksum and a size that is not
    0."""
    if gso_type & (SKB_GSO_UDP | SKB_GSO_UDP_L4):
        return _virtio_gso_udp(skb, gso_size, gso_type)
    family = gso_type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6)
    expected = ETH_P_IP if family == SKB_GSO_TCPV4 else 0x86DD
    if family not in (SKB_GSO_TCPV4, SKB_GSO_TCPV6) or skb.protocol != expected or gso_size <= 0:
        return False
    if skb.ip_summed != CHECKSUM_PARTIAL:
        return False
    payload = skb.len + ETH_HLEN - skb.csum_start - 20
    if payload <= gso_size:
        return True  # one segment after all: the kernel drops the GSO fields too
    skb.gso_size = gso_size
    skb.gso_type = gso_type | SKB_GSO_DODGY
    skb.gso_segs = -(-payload // gso_size)
    return True


def _virtio_gso_udp(skb: sk_buff, gso_size: int, gso_type: int) -> bool:
    """One datagram (UFO), or no more of them than UDP_MAX_SEGMENTS; ``gso_size`` counts UFO's header too."""
    if skb.ip_summed != CHECKSUM_PARTIAL or skb.csum_offset != 6 or gso_size <= 0 or not _is_udp(skb):
        return False
    payload = skb.tail - skb.csum_start
    if gso_type == SKB_GSO_UDP_L4:
        payload -= 8
        if payload > gso_size * UDP_MAX_SEGMENTS:
            return False
    elif gso_type != SKB_GSO_UDP:
        return False
    if payload > gso_size:
        skb.gso_size = gso_size
        skb.gso_type = gso_type | SKB_GSO_DODGY  # nobody has counted them: gso_segs is 0, as in Linux
    return True


def _is_udp(skb: sk_buff) -> bool:
    """Whether the checksum is where UDP has it: behind the header of IPv4, or some way behind that of IPv6."""
    at, th = skb.data, skb.csum_start
    if skb.tail < th + 8:
        return False
    if skb.protocol == ETH_P_IP:
        return th == at + (skb.head[at] & 15) * 4 and th >= at + 20 and skb.head[at + 9] == IPPROTO_UDP
    return skb.protocol == ETH_P_IPV6 and th >= at + 40


def netif_receive_skb(skb: sk_buff) -> int:
    return __netif_receive_skb_core(skb)


def __netif_receive_skb_core(skb: sk_buff) -> int:
    """Hand the packet to the handler of its Ethernet type (packet_type list)."""
    skb.network_header = skb.transport_header = skb.data
    proto = skb.protocol
    if proto == ETH_P_IP:
        return ip_input.ip_rcv(skb)
    dev = skb.dev
    assert dev is not None
    if proto == ETH_P_ARP:
        return arp.arp_rcv(skb)
    handler = dev.net.ptype_base.get(proto)
    if handler is not None:
        return handler(skb)
    dev.stats.rx_dropped += 1
    other = skb.pkt_type == PACKET_OTHERHOST
    skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_OTHERHOST if other else SKB_DROP_REASON_UNHANDLED_PROTO)
    return NET_RX_DROP


def net_rx_action(net: Stack) -> None:
    """The receive softirq: what the loopback device queued, and what answers put there meanwhile - bounded by
    netdev_max_backlog packets a call, so that a ping-pong over loopback cannot keep the adapter here."""
    budget = net.core.netdev_max_backlog
    backlog = net.backlog
    while backlog and budget > 0:
        budget -= 1
        netif_receive_skb(backlog.popleft())


# -- transmit --------------------------------------------------------------------------------------------------------


def validate_xmit_skb(skb: sk_buff, dev: net_device) -> sk_buff | None:
    """Do in software what the device cannot; None if the packet had to be dropped."""
    if skb.ip_summed == CHECKSUM_PARTIAL and not dev.features & NETIF_F_HW_CSUM:
        skbuff.skb_checksum_help(skb)
    if skb.gso_size and not _gso_ok(skb, dev):
        dev.stats.tx_dropped += 1
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_SKB_GSO_SEG)
        return None
    return skb


def _gso_ok(skb: sk_buff, dev: net_device) -> bool:
    if skb.gso_type & SKB_GSO_UDP_L4:
        need = NETIF_F_GSO_UDP_L4 | NETIF_F_HW_CSUM
        return dev.features & need == need and skb.len < dev.gso_max_size
    need = NETIF_F_TSO if skb.gso_type & SKB_GSO_TCPV4 else NETIF_F_TSO6
    return dev.features & need != 0 and dev.features & NETIF_F_HW_CSUM != 0


def skb_gso_segment(skb: sk_buff) -> list[sk_buff]:
    """The packets that one with GSO stands for, from their link headers on, all headers their own; [] if it cannot be
    cut.  Of TCP's nothing comes here: who has segments that no device takes cuts them itself (tcp_output.py)."""
    if skb.protocol == ETH_P_IP:
        return af_inet.inet_gso_segment(skb)
    return ip6_offload.ipv6_gso_segment(skb) if skb.protocol == ETH_P_IPV6 else []


def _xmit_segments(skb: sk_buff, dev: net_device) -> int:
    """Datagrams in one packet, for a device that takes them one by one; the first error, or 0."""
    segs = skb_gso_segment(skb)
    if not segs:
        dev.stats.tx_dropped += 1
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_SKB_GSO_SEG)
        return NET_XMIT_DROP
    skbuff.consume_skb(skb)
    err = 0
    for seg in segs:
        err = dev_queue_xmit(seg) or err
    return err


def net_xmit_errno(code: int) -> int:
    """include/linux/netdevice.h: the errno of a queue's answer; congestion (NET_XMIT_CN) is none."""
    return 0 if code == NET_XMIT_CN else -errno.ENOBUFS


def dev_queue_xmit(skb: sk_buff) -> int:
    """Send a packet whose link header is in place; 0, or NET_XMIT_DROP."""
    dev = skb.dev
    assert dev is not None
    if skb.ip_summed == CHECKSUM_PARTIAL or skb.gso_size:
        if skb.gso_type & SKB_GSO_UDP_L4 and not _gso_ok(skb, dev):
            return _xmit_segments(skb, dev)
        if validate_xmit_skb(skb, dev) is None:
            return NET_XMIT_DROP
    if skb.shinfo is not None and skb.shinfo.tx_flags & SKBTX_SCHED_TSTAMP and skb.sk is not None:
        skbuff.__skb_tstamp_tx(skb, skb.sk, SCM_TSTAMP_SCHED)
    if dev.queue_stopped or dev.tx_queue:
        return _qdisc_enqueue(skb, dev)
    return dev_hard_start_xmit(skb, dev)


def _qdisc_enqueue(skb: sk_buff, dev: net_device) -> int:
    if len(dev.tx_queue) >= dev.tx_queue_len:
        dev.stats.tx_dropped += 1
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_QDISC_DROP)
        return NET_XMIT_DROP
    dev.tx_queue.append(skb)
    return 0


def dev_hard_start_xmit(skb: sk_buff, dev: net_device) -> int:
    """Give the packet to the device.  Taken means gone: the packet leaves its socket's budget here."""
    xmit = dev.ndo_start_xmit
    if xmit is None or not dev.flags & IFF_UP:
        dev.stats.tx_dropped += 1
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_DEV_READY)
        return NET_XMIT_DROP
    nbytes = skb.len
    if xmit(skb, dev) == NETDEV_TX_BUSY:
        dev.queue_stopped = True
        dev.tx_queue.appendleft(skb)
        return 0
    stats = dev.stats
    stats.tx_packets += 1
    stats.tx_bytes += nbytes
    if skb.shinfo is not None:
        skbuff.skb_tx_timestamp(skb)
    if skb.destructor is not None:
        skbuff.skb_orphan(skb)
    return 0


def netif_wake_queue(dev: net_device) -> None:
    """The device has room again: send what waits, in order, until it refuses."""
    dev.queue_stopped = False
    queue = dev.tx_queue
    while queue and not dev.queue_stopped:
        dev_hard_start_xmit(queue.popleft(), dev)


# -- loopback --------------------------------------------------------------------------------------------------------


def loopback_xmit(skb: sk_buff, dev: net_device) -> int:
    """drivers/net/loopback.c: the packet comes back in at the next net_rx_action, its checksum as good as done.
    It is made linear, as received packets are."""
    net = dev.net
    if len(net.backlog) >= net.core.netdev_max_backlog:
        dev.stats.rx_dropped += 1
        skbuff.kfree_skb_reason(skb, SKB_DROP_REASON_CPU_BACKLOG)
        return NETDEV_TX_OK
    frame = skbuff.skb_linear_bytes(skb)
    back = sk_buff(frame, 0, len(frame))
    back.skb_iif = dev.ifindex
    back.ip_summed = CHECKSUM_UNNECESSARY if skb.ip_summed != CHECKSUM_NONE else CHECKSUM_NONE
    back.gso_size, back.gso_type, back.gso_segs = skb.gso_size, skb.gso_type, skb.gso_segs
    back._skb_refdst = skb._skb_refdst
    if net.core.netstamp_needed:
        back.tstamp = net.clock.real_ns()
    back.protocol = eth.eth_type_trans(back, dev)
    dev.stats.rx_packets += 1
    dev.stats.rx_bytes += len(frame)
    net.backlog.append(back)
    return NETDEV_TX_OK


def loopback_init(net: Stack) -> net_device:
    """The device ``lo``, ifindex 1."""
    dev = net_device(net, "lo", bytes(6), 65536)
    dev.flags = IFF_UP | IFF_LOOPBACK | IFF_NOARP
    dev.features = NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN | NETIF_F_SG
    dev.features |= NETIF_F_GSO_UDP_L4
    dev.ndo_start_xmit = loopback_xmit
    return _add_device(net, dev)
