# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP frames as a guest with offloads sends them, and what is in those that it gets, by sums of words."""

from __future__ import annotations

import struct
from ipaddress import ip_address


def word_sum(data: bytes) -> int:
    """RFC 1071 as it is written."""
    if len(data) & 1:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def udp_frame(
    payload: bytes, source: str, dest: str, sport: int, dport: int, to: bytes, mac: bytes
) -> tuple[bytes, int]:
    """A frame of either IP version whose checksum field holds the pseudo-header's sum, and where its UDP header is."""
    src, dst = ip_address(source).packed, ip_address(dest).packed
    length = 8 + len(payload)
    pseudo = word_sum(src + dst + struct.pack(">II", length, 17))
    body = struct.pack(">HHHH", sport, dport, length, pseudo) + payload
    if len(src) == 16:
        return to + mac + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, length, 17, 64) + src + dst + body, 54
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 7, 0, 64, 17, 0) + src + dst
    head = head[:10] + struct.pack(">H", ~word_sum(head) & 0xFFFF) + head[12:]
    return to + mac + b"\x08\x00" + head + body, 34


def check_datagram(datagram: bytes, src: bytes, dst: bytes) -> bytes:
    """The payload; AssertionError if length or checksum are wrong."""
    length, check = struct.unpack_from(">HH", datagram, 4)
    assert length == len(datagram)
    assert check != 0
    assert word_sum(src + dst + struct.pack(">II", length, 17) + datagram) == 0xFFFF
    return datagram[8:]


def datagrams_of(frame: bytes, src: bytes, dst: bytes) -> list[bytes]:
    """The payload of a complete UDP frame between those addresses; none of another frame."""
    if frame[12:14] == b"\x08\x00" and frame[23] == 17 and len(src) == 4:
        assert word_sum(frame[14:34]) == 0xFFFF
        assert int.from_bytes(frame[16:18], "big") == len(frame) - 14
        return [check_datagram(frame[34:], src, dst)]
    if frame[12:14] == b"\x86\xdd" and frame[20] == 17 and len(src) == 16:
        assert int.from_bytes(frame[18:20], "big") == len(frame) - 54
        return [check_datagram(frame[54:], src, dst)]
    return []
