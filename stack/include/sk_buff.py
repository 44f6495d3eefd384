# SPDX-License-Identifier: GPL-2.0-or-later
"""The packet: include/linux/skbuff.h.

Theory of operation
-------------------
``head`` is the linear area.  A received frame is one immutable ``bytes``; a packet on its way out gets a
``bytearray`` whose header room is filled from the back by ``skb_push``, as in the kernel.  ``data`` and ``tail``
are offsets into ``head``; ``mac_header``, ``network_header`` and ``transport_header`` too.  ``frags`` are the
buffers that follow the linear part: payload that is never copied on its way to the device.
``len`` counts from ``data`` to the end of the last fragment, ``data_len`` what is in ``frags``.

A received TSO frame stays whole: its payload is a slice of ``head`` until someone reads it.

Checksums (``ip_summed``): CHECKSUM_NONE nothing is known; CHECKSUM_UNNECESSARY verified by the device;
CHECKSUM_PARTIAL (both directions) the field at ``csum_start + csum_offset`` holds the pseudo-header sum and
whoever puts the frame on a real wire completes it; ``csum_start`` is an offset into ``head``.

``cb`` is the layer's private area, ``TCP_SKB_CB(skb)`` in TCP.

Departures: no reference counts (Python has its own), no cloned/paged distinction, no headroom growth: a packet
is allocated with the room that it needs and ``skb_push`` beyond it is a bug that raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stack.include.dst import dst_entry
    from stack.include.inet_sock import ip_options
    from stack.include.netdevice import net_device
    from stack.include.sock import sock

Buffer = bytes | bytearray | memoryview

CHECKSUM_NONE: Final = 0
CHECKSUM_UNNECESSARY: Final = 1
CHECKSUM_COMPLETE: Final = 2
CHECKSUM_PARTIAL: Final = 3

PACKET_HOST: Final = 0
PACKET_BROADCAST: Final = 1
PACKET_MULTICAST: Final = 2
PACKET_OTHERHOST: Final = 3
PACKET_OUTGOING: Final = 4

SKB_GSO_TCPV4: Final = 1 << 0
SKB_GSO_DODGY: Final = 1 << 1
SKB_GSO_TCP_ECN: Final = 1 << 2
SKB_GSO_TCP_FIXEDID: Final = 1 << 3
SKB_GSO_TCPV6: Final = 1 << 4
SKB_GSO_UDP: Final = 1 << 16  # one datagram, to be fragmented by the device
SKB_GSO_UDP_L4: Final = 1 << 17  # datagrams of one size each
SKB_GSO_TCP_ACCECN: Final = 1 << 19  # CWR is part of a number: all segments have it

# Header room of every packet that TCP sends: LL_MAX_HEADER plus the largest IP and TCP headers, rounded up.
MAX_TCP_HEADER: Final = 160


class skb_shared_info:
    """struct skb_shared_info, as far as time stamps of sending need it: when to take them (SKBTX_*), and their number
    for SOF_TIMESTAMPING_OPT_ID.  ``txstamp_ack`` is in TCP's control block in the kernel."""

    __slots__ = ("tskey", "tx_flags", "txstamp_ack")

    def __init__(self, tx_flags: int) -> None:
        self.tx_flags = tx_flags
        self.tskey = 0
        self.txstamp_ack = False


class sk_buff:
    """struct sk_buff: one packet, with the offsets of its headers and what is known of its checksum."""

    __slots__ = (
        "_skb_refdst",
        "cb",
        "csum",
        "csum_offset",
        "csum_start",
        "data",
        "data_len",
        "destructor",
        "dev",
        "dst_pending_confirm",
        "frags",
        "gso_segs",
        "gso_size",
        "gso_type",
        "h_iph",
        "h_th",
        "hash",
        "head",
        "ip_opt",
        "ip_summed",
        "len",
        "mac_header",
        "mark",
        "network_header",
        "pkt_type",
        "priority",
        "protocol",
        "shinfo",
        "sk",
        "skb_iif",
        "skb_mstamp_ns",
        "tail",
        "transport_header",
        "truesize",
        "tstamp",
    )

    def __init__(self, head: bytes | bytearray, data: int, tail: int) -> None:
        self.head = head
        self.data = data
        self.tail = tail
        self.len = tail - data
        self.data_len = 0
        self.frags: list[Buffer] = []
        self.truesize = self.len + SKB_TRUESIZE_OVERHEAD
        self.mac_header = self.network_header = self.transport_header = data
        self.dev: net_device | None = None
        self.sk: sock | None = None
        self.destructor: Callable[[sk_buff], None] | None = None  # gives the bytes back to skb.sk's budget
        self._skb_refdst: dst_entry | None = None
        self.cb: Any = None
        self.h_iph: Any = None  # the parsed network header: ip_hdr(skb), ipv6_hdr(skb)
        self.h_th: Any = None  # the parsed transport header: tcp_hdr(skb), icmp_hdr(skb)
        self.ip_opt: ip_options | None = None  # IPCB(skb)->opt of a received packet with IP options
        self.protocol = 0
        self.dst_pending_confirm = False
        self.pkt_type = PACKET_HOST
        self.ip_summed = CHECKSUM_NONE
        self.csum = 0
        self.csum_start = 0
        self.csum_offset = 0
        self.gso_size = 0
        self.gso_segs = 0
        self.gso_type = 0
        self.hash = 0
        self.mark = 0
        self.priority = 0
        self.skb_iif = 0
        self.skb_mstamp_ns = 0
        self.tstamp = 0  # when it was received (of the epoch), if anybody wants to know
        self.shinfo: skb_shared_info | None = None  # of a packet whose sending somebody wants to be told of


# What one packet costs a socket's budget beyond its bytes: sizeof(struct sk_buff) = 232 rounded to a cache line
# (256) plus struct skb_shared_info (320) on a 64-bit kernel; SKB_TRUESIZE() in include/linux/skbuff.h.
SKB_TRUESIZE_OVERHEAD: Final = 576


# Kernels since 6.3 have a cache of their own for small buffers (skb_small_head_cache), of 576 bytes with headroom and
# skb_shared_info: a frame of up to this many bytes fits, Ethernet header included.
RX_SMALL_HEAD: Final = 206
RX_SMALL_TRUESIZE: Final = 832


def rx_truesize(nbytes: int) -> int:
    """What a received frame of ``nbytes`` costs its socket: struct sk_buff and a buffer of headroom (64), frame and
    skb_shared_info from the kernel's allocator, which deals in powers of two up to 8 KB and in pages beyond.  The
    windows measured on 6.1 follow from it: 2304 for a full Ethernet frame."""
    size = nbytes + 384
    if size <= 8192:
        return 256 + (1 << (size - 1).bit_length())
    return 256 + ((size + 4095) & ~4095)


def alloc_skb(size: int) -> sk_buff:
    """An empty packet with ``size`` bytes of room, all of it header room (skb_reserve is implied)."""
    return sk_buff(bytearray(size), size, size)


def skb_push(skb: sk_buff, length: int) -> int:
    """Claim ``length`` bytes in front of the data; returns the new ``data`` offset."""
    skb.data -= length
    if skb.data < 0:
        raise ValueError(f"skb_push({length}) beyond the header room: {skb.data + length} bytes were left")
    skb.len += length
    return skb.data


def skb_pull(skb: sk_buff, length: int) -> bool:
    """Drop ``length`` bytes from the front of the linear data; False if it is shorter than that."""
    if length > skb.tail - skb.data:
        return False
    skb.data += length
    skb.len -= length
    return True


def skb_add_frag(skb: sk_buff, buf: Buffer) -> None:
    """Append a buffer behind the packet's data; it is referenced, not copied."""
    skb.frags.append(buf)
    n = len(buf)
    skb.len += n
    skb.data_len += n
    skb.truesize += n
