# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP's two kinds of segmentation in software (virtio 1.3, section 5.1.6.2), for offload.py.

UDP_L4 (USO): a frame holds many datagrams of one flow, each of `gso_size` bytes, the last one perhaps shorter. They
become frames of their own with lengths and checksums of their own; IPv4's identification advances by one.

UDP (UFO): a frame holds one datagram that is longer than the path takes. It becomes fragments, each with at most
`gso_size` bytes behind the IP header, rounded down to a multiple of 8 (RFC 791 section 3.2, RFC 8200 section 4.5); the
UDP checksum is one, over all of it. IPv4's fragments keep the identification that the sender chose, and have no DF.
IPv6's get a Fragment header behind the part that every node on the way looks at. Its identification has to differ
between datagrams of one pair of hosts: it is a CRC of the whole packet, so only equal packets share one, and mixing the
fragments of those does no harm. Options of IPv4 that must not be copied are NOPs from the second fragment on.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from devmodel.netdev.csum import Train, complete_csum, csum_partial
from devmodel.port import VnetHdr
from devmodel.virtio.spec import ETH_HLEN

_ETH_P_IP: Final = 0x0800
_ETH_P_IPV6: Final = 0x86DD
_VLAN_TYPES: Final = (0x8100, 0x88A8)
_IPPROTO_UDP: Final = 17
_UDP_HEADER: Final = 8
_CHECK: Final = 6  # offset of the checksum in a UDP header

# RFC 791: flags and fragment offset, options
_IP_MF: Final = 0x2000
_IPOPT_END, _IPOPT_NOP, _IPOPT_COPY = 0, 1, 0x80

# RFC 8200
_IPV6_HEADER: Final = 40
_NEXTHDR_HOP, _NEXTHDR_ROUTING, _NEXTHDR_FRAGMENT = 0, 43, 44
_FRAGMENT_HEADER: Final = struct.Struct(">BxHI")

_put16 = struct.Struct(">H").pack_into
_put16x2 = struct.Struct(">HH").pack_into
_get16 = struct.Struct(">H").unpack_from


def _l3(hdr: VnetHdr, frame: bytes) -> tuple[int, bool] | None:
    """Where the IP header is and whether it is IPv4's; None if the frame has no UDP header at `csum_start`."""
    at, l4 = ETH_HLEN, hdr.csum_start
    if hdr.csum_offset != _CHECK or len(frame) < l4 + _UDP_HEADER or l4 < at + 20:
        return None
    ethertype: int = _get16(frame, 12)[0]
    if ethertype in _VLAN_TYPES:
        at += 4
        ethertype = _get16(frame, 16)[0]
    if ethertype == _ETH_P_IP and l4 >= at + 20 and frame[at] >> 4 == 4:
        good = at + (frame[at] & 15) * 4 == l4 and frame[at + 9] == _IPPROTO_UDP
        return (at, True) if good else None
    if ethertype == _ETH_P_IPV6 and l4 >= at + _IPV6_HEADER and frame[at] >> 4 == 6:
        return at, False
    return None


def segment_udp(hdr: VnetHdr, frame: bytes) -> Train:
    """Cut a UDP_L4 frame into datagrams of `gso_size` bytes of payload, all checksums filled in; an empty train if it
    is not UDP or `gso_size` is 0. Each is [headers, payload]."""
    found = _l3(hdr, frame)
    if found is None or not hdr.gso_size:
        return []
    l3, v4 = found
    l4, size = hdr.csum_start, hdr.gso_size
    headers = bytearray(frame[: l4 + _UDP_HEADER])
    ident: int = _get16(headers, l3 + 4)[0] if v4 else 0
    _put16x2(headers, l4 + 4, 0, 0)
    if v4:
        _put16x2(headers, l3 + 2, 0, 0)
        _put16(headers, l3 + 10, 0)
    ip_sum = csum_partial(headers[l3:l4]) if v4 else 0
    addresses = headers[l3 + 12 : l3 + 20] if v4 else headers[l3 + 8 : l3 + 40]
    udp_sum = csum_partial(addresses) + _IPPROTO_UDP + csum_partial(headers[l4 : l4 + 4])
    payload = memoryview(frame)[l4 + _UDP_HEADER :]
    train: Train = []
    for number, at in enumerate(range(0, len(payload), size) or (0,)):
        piece = payload[at : at + size]
        own = headers.copy()
        length = _UDP_HEADER + len(piece)
        if v4:
            total, number_of_it = l4 - l3 + length, (ident + number) & 0xFFFF
            _put16x2(own, l3 + 2, total, number_of_it)
            _put16(own, l3 + 10, -(ip_sum + total + number_of_it) % 65535)
        else:
            _put16(own, l3 + 4, l4 - l3 - _IPV6_HEADER + length)
        check = -(udp_sum + 2 * length + csum_partial(piece)) % 65535
        _put16x2(own, l4 + 4, length, check or 0xFFFF)
        train.append([own, piece])
    return train


def fragment_udp(hdr: VnetHdr, frame: bytes) -> Train:
    """Cut the datagram of a UFO frame into IP fragments, its checksum filled in; itself if it fits `gso_size`. An empty
    train if it is not UDP or `gso_size` has no room for 8 bytes."""
    found = _l3(hdr, frame)
    step = hdr.gso_size & ~7
    whole = bytearray(frame)
    if found is None or not step or not complete_csum(hdr, whole):
        return []
    l3, v4 = found
    if len(whole) - hdr.csum_start <= hdr.gso_size:
        return [[whole]]
    return _fragments4(whole, l3, hdr.csum_start, step) if v4 else _fragments6(whole, l3, step)


def _fragments4(whole: bytearray, l3: int, l4: int, step: int) -> Train:
    headers, rest = whole[:l4], _copied(whole[:l4], l3 + 20)
    payload = memoryview(whole)[l4:]
    train: Train = []
    for at in range(0, len(payload), step):
        piece = payload[at : at + step]
        own = rest.copy() if at else headers
        more = _IP_MF if at + step < len(payload) else 0
        _put16(own, l3 + 2, l4 - l3 + len(piece))
        _put16x2(own, l3 + 6, more | at >> 3, whole[l3 + 8] << 8 | _IPPROTO_UDP)
        _put16(own, l3 + 10, 0)
        _put16(own, l3 + 10, -csum_partial(own[l3:l4]) % 65535)
        train.append([own, piece])
    return train


def _copied(headers: bytearray, at: int) -> bytearray:
    """The headers with NOPs for the options from `at` on that only the first fragment has."""
    while at < len(headers) and headers[at] != _IPOPT_END:
        size = 1
        if headers[at] != _IPOPT_NOP:
            size = headers[at + 1] if at + 1 < len(headers) else 0
            if size < 2 or at + size > len(headers):
                break
            if not headers[at] & _IPOPT_COPY:
                headers[at : at + size] = bytes([_IPOPT_NOP]) * size
        at += size
    return headers


def _fragments6(whole: bytearray, l3: int, step: int) -> Train:
    at, previous, kind = l3 + _IPV6_HEADER, l3 + 6, whole[l3 + 6]
    while kind in (_NEXTHDR_HOP, _NEXTHDR_ROUTING) and at + 8 <= len(whole):
        previous, kind = at, whole[at]
        at += (whole[at + 1] + 1) * 8
    if at >= len(whole):
        return []
    ident = crc32(whole) or 1
    headers = whole[:at]
    headers[previous] = _NEXTHDR_FRAGMENT
    payload = memoryview(whole)[at:]
    train: Train = []
    for offset in range(0, len(payload), step):
        piece = payload[offset : offset + step]
        more = int(offset + step < len(payload))
        own = headers + _FRAGMENT_HEADER.pack(kind, offset | more, ident)
        _put16(own, l3 + 4, len(own) - l3 - _IPV6_HEADER + len(piece))
        train.append([own, piece])
    return train
