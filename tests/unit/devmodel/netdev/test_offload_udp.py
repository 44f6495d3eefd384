# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP's two kinds of segmentation in software, with dpkt and a word-by-word sum as second opinions."""

from __future__ import annotations

import random
import struct

import dpkt
import pytest

from devmodel.netdev.offload import finish
from devmodel.port import VnetHdr
from tests.unit.devmodel.netdev.test_offload import ETH4, ETH6, joined, word_sum

USO, UFO = 5, 3
A4, B4 = b"\x0a\0\2\2", b"\x0a\0\2\x0f"
A6, B6 = bytes(range(16)), bytes(range(16, 32))


def udp(payload: bytes, ends: bytes, sport: int = 7, dport: int = 40000) -> bytes:
    """A UDP header whose checksum field holds the pseudo-header's sum."""
    length = 8 + len(payload)
    pseudo = word_sum(ends + struct.pack(">II", length, 17))
    return struct.pack(">HHHH", sport, dport, length & 0xFFFF, pseudo) + payload


def udp4(payload: bytes, ident: int = 0xFFFE, options: bytes = b"", flags: int = 0) -> bytes:
    body = udp(payload, A4 + B4)
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x40 | size // 4, 0, (size + len(body)) & 0xFFFF, ident, flags, 64, 17, 0, A4, B4
    )
    return ETH4 + head + options + body


def udp6(payload: bytes, extension: bytes = b"", first: int = 17) -> bytes:
    body = extension + udp(payload, A6 + B6)
    return ETH6 + struct.pack(">IHBB", 0x60012345, len(body) & 0xFFFF, first, 64) + A6 + B6 + body


def check4(frame: bytes) -> tuple[dpkt.ip.IP, bytes]:
    """The packet and what is in it, its header verified."""
    size = (frame[14] & 15) * 4
    assert word_sum(frame[14 : 14 + size]) == 0xFFFF
    ip = dpkt.ip.IP(frame[14:])
    assert ip.len == len(frame) - 14
    return ip, frame[14 + size :]


def check_udp(datagram: bytes, ends: bytes) -> bytes:
    length, check = struct.unpack_from(">HH", datagram, 4)
    assert length == len(datagram)
    assert check != 0
    assert word_sum(ends + struct.pack(">II", length, 17) + datagram) == 0xFFFF
    return datagram[8:]


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 2000, 64000, 65507])
@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0"])
def test_uso4_frame_becomes_valid_datagrams(size: int, options: bytes) -> None:
    payload = random.Random(size).randbytes(size)
    frame, start = udp4(payload, options=options), 34 + len(options)
    train = joined(finish(VnetHdr(1, USO, start + 8, 1000, start, 6), [frame[:20], frame[20:]]))
    packets = [check4(one) for one in train]
    pieces = [check_udp(body, A4 + B4) for _, body in packets]
    assert b"".join(pieces) == payload
    assert [len(piece) for piece in pieces[:-1]] == [1000] * ((size - 1) // 1000)
    assert [ip.id for ip, _ in packets] == [(0xFFFE + number) & 0xFFFF for number in range(len(packets))]
    assert {bytes(ip.opts) for ip, _ in packets} == {options}


@pytest.mark.parametrize("extension", [b"", bytes([17, 0, 1, 4, 0, 0, 0, 0])])
def test_uso6_frame_becomes_valid_datagrams(extension: bytes) -> None:
    payload = random.Random(6).randbytes(5003)
    frame, start = udp6(payload, extension, 0 if extension else 17), 54 + len(extension)
    train = joined(finish(VnetHdr(1, USO, start + 8, 1452, start, 6), [frame]))
    assert [struct.unpack_from(">H", one, 18)[0] for one in train] == [len(one) - 54 for one in train]
    assert b"".join(check_udp(one[start:], A6 + B6) for one in train) == payload
    assert {one[14:18] for one in train} == {bytes.fromhex("60012345")}


def test_uso_behind_a_vlan_tag() -> None:
    plain = udp4(bytes(2500))
    frame = plain[:12] + bytes.fromhex("81000005") + plain[12:]
    train = joined(finish(VnetHdr(1, USO, 46, 1000, 38, 6), [frame]))
    assert [one[12:18] for one in train] == [bytes.fromhex("810000050800")] * 3
    assert [len(check_udp(check4(one[:12] + one[16:])[1], A4 + B4)) for one in train] == [1000, 1000, 500]


def test_uso_checksum_that_comes_to_zero_is_sent_as_ones() -> None:
    """RFC 768: zero says that there is none."""
    payload = bytearray(4)
    frame = udp4(bytes(payload))
    [one] = joined(finish(VnetHdr(1, USO, 42, 100, 34, 6), [frame]))
    struct.pack_into(">H", payload, 0, struct.unpack_from(">H", one, 40)[0])
    [again] = joined(finish(VnetHdr(1, USO, 42, 100, 34, 6), [udp4(bytes(payload))]))
    assert again[40:42] == b"\xff\xff"
    check_udp(again[34:], A4 + B4)


def reassembled4(train: list[bytes]) -> bytes:
    found = [check4(one) for one in train]
    at, whole = 0, b""
    for ip, body in found:
        assert ip.offset * 8 == at
        assert bool(ip.mf) == (ip is not found[-1][0])
        assert not ip.df
        at += len(body)
        whole += body
    assert len({(ip.id, ip.src, ip.dst, ip.p, ip.ttl) for ip, _ in found}) == 1
    return whole


@pytest.mark.parametrize("gso_size", [8, 1000, 1472, 1480, 1487])
def test_ufo4_frame_becomes_fragments_of_one_datagram(gso_size: int) -> None:
    payload = random.Random(gso_size).randbytes(5001)
    train = joined(finish(VnetHdr(1, UFO, 42, gso_size, 34, 6), [udp4(payload, 77, flags=0x4000)]))
    assert check_udp(reassembled4(train), A4 + B4) == payload
    assert {len(one) - 34 for one in train[:-1]} == {gso_size & ~7}
    assert check4(train[0])[0].id == 77


def test_ufo4_options_that_are_not_copied_are_on_the_first_fragment_only() -> None:
    """RFC 791, section 3.1: record route (7) is not copied, router alert (0x94) is."""
    options = b"\x07\x03\x04\x94\x04\0\0\0"
    train = joined(finish(VnetHdr(1, UFO, 50, 1000, 42, 6), [udp4(bytes(2500), options=options)]))
    assert [one[34:42] for one in train] == [options] + [b"\1\1\1\x94\4\0\0\0"] * 2
    assert check_udp(reassembled4(train), A4 + B4) == bytes(2500)


@pytest.mark.parametrize("hop_by_hop", [False, True])
def test_ufo6_frame_becomes_fragments_behind_a_fragment_header(hop_by_hop: bool) -> None:
    payload = random.Random(66).randbytes(5001)
    extension = bytes([17, 0, 1, 4, 0, 0, 0, 0]) if hop_by_hop else b""
    frame, start = udp6(payload, extension, 0 if hop_by_hop else 17), 54 + len(extension)
    train = joined(finish(VnetHdr(1, UFO, start + 8, 1448, start, 6), [frame]))
    whole, idents = b"", set()
    for one in train:
        assert struct.unpack_from(">H", one, 18)[0] == len(one) - 54
        assert one[start - 8 if hop_by_hop else 20] == 44
        kind, offset, ident = struct.unpack_from(">BxHI", one, start)
        assert (kind, offset & ~7, bool(offset & 1)) == (17, len(whole), one is not train[-1])
        idents.add(ident)
        whole += one[start + 8 :]
    assert check_udp(whole, A6 + B6) == payload
    assert len(idents) == 1
    [other] = {
        struct.unpack_from(">I", one, start + 4)[0]
        for one in joined(finish(VnetHdr(1, UFO, start + 8, 1448, start, 6), [frame[:-1] + b"?"]))
    }
    assert other not in idents


def test_ufo_datagram_that_fits_is_only_summed() -> None:
    [one] = joined(finish(VnetHdr(1, UFO, 42, 1480, 34, 6), [udp4(bytes(1000))]))
    assert check_udp(one[34:], A4 + B4) == bytes(1000)


@pytest.mark.parametrize(
    ("hdr", "frame"),
    [
        (VnetHdr(1, USO, 42, 0, 34, 6), udp4(bytes(2000))),
        (VnetHdr(1, UFO, 42, 7, 34, 6), udp4(bytes(2000))),
        (VnetHdr(1, USO, 42, 1000, 34, 16), udp4(bytes(2000))),
        (VnetHdr(1, USO, 42, 1000, 36, 6), udp4(bytes(2000))),
        (VnetHdr(1, USO, 42, 1000, 65535, 6), udp4(bytes(2000))),
        (VnetHdr(1, USO, 42, 1000, 34, 6), udp6(bytes(2000))),
        (VnetHdr(1, USO, 42, 1000, 34, 6), udp4(bytes(2000))[:23] + b"\6" + udp4(bytes(2000))[24:]),
        (VnetHdr(1, UFO, 42, 1000, 34, 6), udp4(b"")[:41]),
        (VnetHdr(1, UFO, 62, 1000, 62, 6), udp6(bytes(2000), bytes([17, 255]) + bytes(6), 0)),
        (VnetHdr(1, 0x85, 42, 1000, 34, 6), udp4(bytes(2000))),
        (VnetHdr(1, 0x83, 42, 1000, 34, 6), udp4(bytes(2000))),
        (VnetHdr(1, USO, 42, 1000, 34, 6), b""),
    ],
)
def test_nonsense_gives_an_empty_train(hdr: VnetHdr, frame: bytes) -> None:
    assert finish(hdr, [frame]) == []
