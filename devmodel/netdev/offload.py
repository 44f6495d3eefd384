# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksum completion and segmentation in software, for every port whose wire has no vnet header.

Decides what one frame with a virtio_net_hdr becomes on a wire without one: itself, itself with its checksum
filled in, or a train of segments. A header or frame that makes no sense gives an empty train, never an
exception: both may come from a guest.

Checksums are csum.py's. A segment's is the sum of one part that all segments share, the few fields that differ, and
its payload.

Segmentation follows RFC 9293 and RFC 3168 for what may repeat: `seq` advances by the payload, FIN and PSH
stand on the last segment only; CWR, where the header says GSO_ECN, on the first only (without that bit it is part
of Accurate ECN's counter, RFC 9768, and repeats); the IPv4 identification advances by one (RFC 791), lengths and
checksums are each segment's own. Nothing is reassembled here. UDP's two kinds are offload_udp.py's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from devmodel.netdev.csum import Train, complete_csum, csum_partial
from devmodel.netdev.offload_udp import fragment_udp, segment_udp
from devmodel.port import Buffer, VnetHdr
from devmodel.virtio.spec import (
    ETH_HLEN,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)

__all__ = ["Train", "complete_csum", "csum_partial", "finish", "segment"]

_ETH_P_IP = 0x0800
_ETH_P_IPV6 = 0x86DD
_VLAN_TYPES = (0x8100, 0x88A8)
_IPPROTO_TCP = 6
_TCP_FIN, _TCP_PSH, _TCP_CWR = 0x01, 0x08, 0x80

_put16 = struct.Struct(">H").pack_into
_put16x2 = struct.Struct(">HH").pack_into
_put32 = struct.Struct(">I").pack_into
_get16 = struct.Struct(">H").unpack_from
_get32 = struct.Struct(">I").unpack_from


class _Template:
    """The headers of a TSO frame, and where in them lies what differs from segment to segment."""

    __slots__ = ("flags", "headers", "ip_id", "ip_sum", "l3", "l4", "seq", "tcp_sum", "v4")

    def __init__(self, frame: bytes, l3: int, l4: int, payload_at: int, v4: bool) -> None:
        headers = bytearray(frame[:payload_at])
        self.l3, self.l4, self.v4 = l3, l4, v4
        self.seq: int = _get32(headers, l4 + 4)[0]
        self.flags = headers[l4 + 13]
        self.ip_id: int = _get16(headers, l3 + 4)[0] if v4 else 0
        _put32(headers, l4 + 4, 0)
        headers[l4 + 13] = 0
        _put16(headers, l4 + 16, 0)
        if v4:
            _put16x2(headers, l3 + 2, 0, 0)
            _put16(headers, l3 + 10, 0)
        self.ip_sum = csum_partial(headers[l3:l4]) if v4 else 0
        addresses = headers[l3 + 12 : l3 + 20] if v4 else headers[l3 + 8 : l3 + 40]
        self.tcp_sum = csum_partial(addresses) + _IPPROTO_TCP + csum_partial(headers[l4:])
        self.headers = headers

    def stamp(self, number: int, offset: int, payload: memoryview, keep: int) -> bytearray:
        """Headers of segment `number`, whose payload starts `offset` bytes into the train's."""
        headers = self.headers.copy()
        l3, l4 = self.l3, self.l4
        tcp_len = len(headers) - l4 + len(payload)
        if self.v4:
            length = l4 - l3 + tcp_len
            ident = (self.ip_id + number) & 0xFFFF
            _put16x2(headers, l3 + 2, length, ident)
            _put16(headers, l3 + 10, -(self.ip_sum + length + ident) % 65535)
        else:
            _put16(headers, l3 + 4, l4 - l3 - 40 + tcp_len)
        seq = (self.seq + offset) & 0xFFFFFFFF
        flags = self.flags & keep
        _put32(headers, l4 + 4, seq)
        headers[l4 + 13] = flags
        total = self.tcp_sum + tcp_len + (seq >> 16) + (seq & 0xFFFF) + flags + csum_partial(payload)
        _put16(headers, l4 + 16, -total % 65535)
        return headers


def _template(hdr: VnetHdr, frame: bytes) -> _Template | None:
    """Find the headers; None if the frame is not what `gso_type` says."""
    l3, l4 = ETH_HLEN, hdr.csum_start
    if len(frame) < l4 + 20 or l4 < l3 + 20:
        return None
    ethertype: int = _get16(frame, 12)[0]
    if ethertype in _VLAN_TYPES:
        l3 += 4
        ethertype = _get16(frame, 16)[0]
    v4 = hdr.gso_type & ~VIRTIO_NET_HDR_GSO_ECN == VIRTIO_NET_HDR_GSO_TCPV4
    if v4:
        good = ethertype == _ETH_P_IP and frame[l3] >> 4 == 4 and l3 + (frame[l3] & 15) * 4 == l4
        good = good and frame[l3 + 9] == _IPPROTO_TCP and l4 >= l3 + 20
    else:
        good = ethertype == _ETH_P_IPV6 and frame[l3] >> 4 == 6 and l4 >= l3 + 40
    payload_at = l4 + (frame[l4 + 12] >> 4) * 4
    if not good or payload_at < l4 + 20 or payload_at > len(frame):
        return None
    return _Template(frame, l3, l4, payload_at, v4)


def segment(hdr: VnetHdr, parts: Sequence[Buffer]) -> Train:
    """Cut a TSO frame into segments of `gso_size` payload bytes, all checksums filled in.

    Each segment is [headers, payload]; the payloads are slices of one copy of the frame. An empty train means
    that the frame is not TCP over the protocol that `gso_type` names, or that `gso_size` is 0.
    """
    frame = b"".join(parts)
    kind = hdr.gso_type & ~VIRTIO_NET_HDR_GSO_ECN
    if not hdr.gso_size or kind not in (VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6):
        return []
    template = _template(hdr, frame)
    if template is None:
        return []
    payload = memoryview(frame)[len(template.headers) :]
    size, mss = len(payload), hdr.gso_size
    train: Train = []
    for number, offset in enumerate(range(0, size, mss) or (0,)):
        piece = payload[offset : offset + mss]
        keep = 0xFF if offset + mss >= size else 0xFF & ~(_TCP_FIN | _TCP_PSH)
        if number and hdr.gso_type & VIRTIO_NET_HDR_GSO_ECN:
            keep &= ~_TCP_CWR
        train.append([template.stamp(number, offset, piece, keep), piece])
    return train


def finish(hdr: VnetHdr | None, parts: Sequence[Buffer]) -> Train:
    """What a frame becomes on a wire without a vnet header; empty if it makes no sense."""
    if hdr is None or not (hdr.gso_type or hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM):
        return [parts]
    if hdr.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4:
        return segment_udp(hdr, b"".join(parts))
    if hdr.gso_type == VIRTIO_NET_HDR_GSO_UDP:
        return fragment_udp(hdr, b"".join(parts))
    if hdr.gso_type:
        return segment(hdr, parts)
    frame = bytearray().join(parts)
    return [[frame]] if complete_csum(hdr, frame) else []
