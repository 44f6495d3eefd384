# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums and segmentation, with dpkt's and a word-by-word sum as second opinions."""

from __future__ import annotations

import random
import struct

import dpkt
import pytest

from devmodel.netdev.offload import complete_csum, csum_partial, finish, segment
from devmodel.port import VnetHdr

ETH4 = bytes.fromhex("525400123456 52550a000202 0800")
ETH6 = bytes.fromhex("525400123456 52550a000202 86dd")
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80


def word_sum(data: bytes) -> int:
    """RFC 1071 as it is written."""
    if len(data) & 1:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp4(payload: bytes, flags: int = ACK, ident: int = 0xFFFE, vlan: bool = False) -> bytes:
    """A TSO frame over IPv4 with ten bytes of options short of full: 20 + 12 bytes of TCP header."""
    total = 20 + 32 + len(payload)
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 2, total & 0xFFFF, ident, 0x4000, 64, 6, 0, b"\x0a\0\2\2", b"\x0a\0\2\x0f"
    )
    tcp = struct.pack(">HHIIBBHHH", 80, 49152, 0xFFFFFF00, 7, 0x80, flags, 512, 0x1234, 0)
    tag = bytes.fromhex("81000005") if vlan else b""
    return ETH4[:12] + tag + ETH4[12:] + ip + tcp + b"\x01\x01\x08\x0a" + b"timestmp" + payload


def tcp6(payload: bytes) -> bytes:
    addresses = bytes(range(16)) + bytes(range(16, 32))
    ip = struct.pack(">IHBB", 0x60000000, 20 + len(payload), 6, 64) + addresses
    tcp = struct.pack(">HHIIBBHHH", 80, 49152, 1000, 7, 0x50, ACK, 512, 0, 0)
    return ETH6 + ip + tcp + payload


def joined(train: object) -> list[bytes]:
    return [b"".join(frame) for frame in train]  # type: ignore[attr-defined]


def valid(frame: bytes) -> dpkt.ethernet.Ethernet:
    """Parsed by dpkt, all checksums verified word by word."""
    eth = dpkt.ethernet.Ethernet(frame)
    ip = eth.data
    body = bytes(ip.data)
    if isinstance(ip, dpkt.ip.IP):
        assert word_sum(bytes(ip)[:20]) == 0xFFFF
        assert ip.len == 20 + len(body)
    else:
        assert ip.plen == len(body)
    pseudo = ip.src + ip.dst + struct.pack(">II", len(body), 6)
    assert word_sum(pseudo + body) == 0xFFFF
    return eth


@pytest.mark.parametrize("size", [0, 1, 2, 3, 20, 1023, 1024, 1025, 1460, 4095, 65535])
def test_csum_partial_agrees_with_the_word_sum(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert csum_partial(data) == word_sum(data) % 65535
    assert csum_partial(memoryview(data)) == csum_partial(data)


def test_partial_checksum_is_completed() -> None:
    frame = bytearray(tcp4(b"payload"))
    pseudo = b"\x0a\0\2\2\x0a\0\2\x0f" + struct.pack(">HH", 6, 39)
    struct.pack_into(">H", frame, 34 + 16, word_sum(pseudo))
    struct.pack_into(">H", frame, 24, ~word_sum(bytes(frame[14:34])) & 0xFFFF)
    assert complete_csum(VnetHdr(1, 0, 0, 0, 34, 16), frame)
    valid(bytes(frame))


def test_udp_checksum_zero_is_sent_as_ones() -> None:
    frame = bytearray(8)
    struct.pack_into(">HH", frame, 0, 0xFFFE, 1)
    assert complete_csum(VnetHdr(1, 0, 0, 0, 0, 6), frame)
    assert frame[6:8] == b"\xff\xff"


def test_checksum_outside_the_frame_is_refused() -> None:
    frame = bytearray(20)
    assert not complete_csum(VnetHdr(1, 0, 0, 0, 15, 4), frame)
    assert frame == bytes(20)


def test_tso4_frame_becomes_valid_segments_with_all_the_payload() -> None:
    payload = random.Random(1).randbytes(10 * 1448 + 333)
    train = joined(segment(VnetHdr(1, 1, 66, 1448, 34, 16), [tcp4(payload)[:66], payload]))
    packets = [valid(frame) for frame in train]
    assert b"".join(bytes(eth.data.data.data) for eth in packets) == payload
    assert [len(eth.data.data.data) for eth in packets] == [1448] * 10 + [333]
    assert [eth.data.id for eth in packets] == [(0xFFFE + number) & 0xFFFF for number in range(11)]
    assert [eth.data.data.seq for eth in packets] == [
        (0xFFFFFF00 + 1448 * number) & 0xFFFFFFFF for number in range(11)
    ]
    assert {eth.data.data.opts for eth in packets} == {b"\x01\x01\x08\x0atimestmp"}


def test_tso6_frame_becomes_valid_segments() -> None:
    payload = random.Random(2).randbytes(5001)
    packets = [valid(frame) for frame in joined(segment(VnetHdr(1, 4, 74, 1000, 54, 16), [tcp6(payload)]))]
    assert b"".join(bytes(eth.data.data.data) for eth in packets) == payload
    assert len(packets) == 6


def test_tso_behind_a_vlan_tag() -> None:
    train = joined(segment(VnetHdr(1, 1, 70, 1000, 38, 16), [tcp4(bytes(1500), vlan=True)]))
    assert [frame[12:18] for frame in train] == [bytes.fromhex("810000050800")] * 2
    for frame in train:
        valid(frame[:12] + frame[16:])


def test_fin_and_psh_stand_on_the_last_and_cwr_on_the_first() -> None:
    frame = tcp4(bytes(2500), FIN | PSH | ACK | CWR)
    train = joined(segment(VnetHdr(1, 0x81, 66, 1000, 34, 16), [frame]))
    assert [valid(one).data.data.flags & 0xFF for one in train] == [ACK | CWR, ACK, FIN | PSH | ACK]


def test_cwr_repeats_without_gso_ecn() -> None:
    train = joined(segment(VnetHdr(1, 1, 66, 1000, 34, 16), [tcp4(bytes(2500), ACK | CWR)]))
    assert [valid(one).data.data.flags & 0xFF for one in train] == [ACK | CWR] * 3


def test_single_segment_keeps_all_its_flags() -> None:
    [frame] = joined(segment(VnetHdr(1, 1, 66, 1448, 34, 16), [tcp4(b"x", FIN | PSH | ACK | CWR)]))
    assert valid(frame).data.data.flags & 0xFF == FIN | PSH | ACK | CWR


@pytest.mark.parametrize(
    ("hdr", "frame"),
    [
        (VnetHdr(1, 1, 66, 0, 34, 16), tcp4(bytes(2000))),
        (VnetHdr(1, 3, 66, 1448, 34, 16), tcp4(bytes(2000))),
        (VnetHdr(1, 4, 66, 1448, 34, 16), tcp4(bytes(2000))),
        (VnetHdr(1, 1, 66, 1448, 36, 16), tcp4(bytes(2000))),
        (VnetHdr(1, 1, 66, 1448, 34, 16), tcp6(bytes(2000))),
        (VnetHdr(1, 1, 66, 1448, 65535, 16), tcp4(bytes(2000))),
        (VnetHdr(1, 1, 66, 1448, 34, 16), tcp4(b"")[:50]),
        (VnetHdr(1, 1, 66, 1448, 34, 16), tcp4(bytes(2000))[:46] + b"\xf0" + tcp4(b"")[47:]),
        (VnetHdr(1, 1, 66, 1448, 34, 16), b""),
    ],
)
def test_nonsense_gives_an_empty_train(hdr: VnetHdr, frame: bytes) -> None:
    assert finish(hdr, [frame]) == []


def test_complete_frame_passes_untouched() -> None:
    parts = [b"head", b"tail"]
    assert finish(None, parts) == [parts]
    assert finish(VnetHdr(flags=2), parts) == [parts]
