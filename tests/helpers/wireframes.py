# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP frames as a stack with offloads sends them, and a second opinion on what becomes of them."""

from __future__ import annotations

import dpkt


def tcp_frame(to: bytes, source: bytes, payload: bytes) -> tuple[bytes, int]:
    """An IPv4 TCP frame whose checksum field holds the pseudo-header's sum, and where its TCP header is."""
    tcp = dpkt.tcp.TCP(sport=80, dport=4000, seq=7, flags=dpkt.tcp.TH_ACK | dpkt.tcp.TH_PUSH, data=payload)
    ip = dpkt.ip.IP(src=b"\x0a\x00\x02\x02", dst=b"\x0a\x00\x02\x0f", p=6, ttl=64, data=tcp)
    ip.len = len(ip)
    frame = bytearray(bytes(dpkt.ethernet.Ethernet(dst=to, src=source, type=0x0800, data=bytes(ip))))
    words = bytes(frame[26:34]) + b"\x00\x06" + (len(frame) - 34).to_bytes(2, "big")
    total = sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2))
    total = (total & 0xFFFF) + (total >> 16)
    frame[50:52] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
    return bytes(frame), 34


def checksums_hold(frame: bytes) -> bool:
    """A second opinion: dpkt computes them anew."""
    ip = dpkt.ethernet.Ethernet(frame).data
    had = (ip.sum, ip.data.sum)
    ip.sum = ip.data.sum = 0
    again = dpkt.ip.IP(bytes(ip))
    return had == (again.sum, again.data.sum)
