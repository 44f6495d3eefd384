# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures read back: our own writer's, other byte orders and resolutions, the older pcap, and what is none."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest

from devmodel.middleware.capture import INBOUND, OUTBOUND, Captured, PcapngWriter, open_file
from stack.inspect.conversation import Packet
from vnic import pcapng
from vnic.errors import HostIOError, UsageError

STAMP = 1_700_000_000_123_456_789
FRAME = bytes(range(61))  # not a multiple of 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pcapng"


def read(path: Path, data: bytes) -> list[Packet]:
    path.write_bytes(data)
    return list(pcapng.read(path))


@pytest.fixture
def ours(path: Path) -> Path:
    writer = PcapngWriter(open_file(path), "vhost0")
    writer.write(Captured(STAMP, INBOUND, [FRAME[:10], FRAME[10:]], "tcp_v4_rcv; LISTEN -> NEW_SYN_RECV"))
    writer.write(Captured(STAMP + 1, OUTBOUND, [FRAME]))
    writer.close()
    return path


def test_our_own_file_has_direction_comment_and_nanoseconds(ours: Path) -> None:
    assert list(pcapng.read(ours)) == [
        Packet(STAMP, False, FRAME, "tcp_v4_rcv; LISTEN -> NEW_SYN_RECV", "vhost0"),
        Packet(STAMP + 1, True, FRAME, "", "vhost0"),
    ]


def test_file_that_is_being_written_is_read_up_to_there(ours: Path) -> None:
    whole = ours.read_bytes()
    counts = [len(read(ours, whole[:size])) for size in range(12, len(whole) + 1)]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}
    assert counts[-2:] == [1, 2]


def test_interface_that_is_read_is_the_first_of_the_file_not_that_of_the_first_packet(path: Path) -> None:
    """With --loss a received frame passes the wire before the stack."""
    writer = PcapngWriter(open_file(path), "eth0", "vhost0")
    writer.write(Captured(STAMP, INBOUND, [FRAME], interface=1))
    writer.write(Captured(STAMP, INBOUND, [FRAME], "LISTEN -> NEW_SYN_RECV", interface=0))
    writer.close()
    assert [packet.interface for packet in pcapng.read(path)] == ["eth0"]
    assert [packet.interface for packet in pcapng.read_all(path)] == ["vhost0", "eth0"]


def test_first_interface_without_packets_is_passed_over(path: Path) -> None:
    writer = PcapngWriter(open_file(path), "eth0", "vhost0", "eth1")
    writer.write(Captured(STAMP, INBOUND, [FRAME], interface=2))
    writer.write(Captured(STAMP, INBOUND, [FRAME], interface=1))
    writer.close()
    assert [packet.interface for packet in pcapng.read(path)] == ["vhost0"]


# -- blocks that are not ours --------------------------------------------------------------------------


def block(order: str, kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, resolution: bytes | None = None, link: int = 1) -> bytes:
    body = struct.pack(order + "HHI", link, 0, 0)
    if resolution is not None:
        body += struct.pack(order + "HH", 9, len(resolution)) + resolution + bytes(-len(resolution) % 4)
    return block(order, 1, body)


def packet(order: str, ticks: int, number: int = 0, flags: int | None = None) -> bytes:
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, 4, 4)
    options = struct.pack(order + "HHI", 2, 4, flags) if flags is not None else b""
    return block(order, 6, head + b"abcd" + options)


def test_big_endian(path: Path) -> None:
    data = section(">") + interface(">") + packet(">", 5_000_001, flags=2)
    assert read(path, data) == [Packet(5_000_001_000, True, b"abcd")]


@pytest.mark.parametrize(
    ("resolution", "stamp"),
    [(None, 3_000_000), (b"", 3_000_000), (b"\x03", 3_000_000_000), (b"\x8a", 3_000_000_000_000 >> 10)],
)
def test_resolution_of_stamps(path: Path, resolution: bytes | None, stamp: int) -> None:
    (found,) = read(path, section("<") + interface("<", resolution) + packet("<", 3000))
    assert found.stamp_ns == stamp


def test_interfaces_of_other_kinds_and_unknown_ones_are_passed_over(path: Path) -> None:
    packets = packet("<", 1, 0) + packet("<", 2, 1) + packet("<", 3, 7)
    found = read(path, section("<") + interface("<", link=101) + interface("<") + packets)
    assert [one.stamp_ns for one in found] == [2000]


def test_section_begins_anew(path: Path) -> None:
    found = read(
        path, section("<") + interface("<") + section(">") + packet(">", 1) + interface(">") + packet(">", 2)
    )
    assert [one.stamp_ns for one in found] == [2000]


def test_blocks_of_other_kinds_are_passed_over(path: Path) -> None:
    data = section("<") + block("<", 5, bytes(12)) + interface("<") + block("<", 6, bytes(8)) + packet("<", 1)
    assert len(read(path, data)) == 1


# -- pcap --------------------------------------------------------------------------


def pcap(magic: int, fraction: int, order: str = "<", link: int = 1) -> bytes:
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    return head + struct.pack(order + "IIII", 1_700_000_000, fraction, 4, 4) + b"abcd"


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_of_microseconds(path: Path, order: str) -> None:
    found = read(path, pcap(0xA1B2C3D4, 123_457, order))
    assert found == [Packet(1_700_000_000_123_457_000, None, b"abcd")]


def test_pcap_of_nanoseconds(path: Path) -> None:
    (found,) = read(path, pcap(0xA1B23C4D, 123_456_789))
    assert found.stamp_ns == STAMP


def test_pcap_that_ends_within_a_header_is_read_up_to_there(path: Path) -> None:
    assert len(read(path, pcap(0xA1B2C3D4, 1) + bytes(7))) == 1


def test_pcap_packet_of_four_gigabytes_is_refused_before_room_is_made_for_it(path: Path) -> None:
    huge = pcap(0xA1B2C3D4, 1) + struct.pack("<IIII", 1, 1, 0xFFFFFFFF, 0xFFFFFFFF)
    with pytest.raises(UsageError, match="cannot be read as a capture") as refused:
        read(path, huge)
    assert "4294967295 bytes" in refused.value.evidence


# -- pipes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [pcap(0xA1B2C3D4, 1), section("<") + interface("<") + section(">") + interface(">") + packet(">", 1)],
)
def test_capture_from_a_pipe(path: Path, data: bytes) -> None:
    """tcpdump -w - | vnic ladder /dev/stdin"""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,))
    writer.start()
    assert [one.frame for one in pcapng.read(path)] == [b"abcd"]
    writer.join()


# -- no captures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "evidence"),
    [
        (b"", "empty"),
        (b"abc", "it has 3 bytes"),
        (b"#!/bin/sh\necho", "begins with 23 21"),
        (section("<")[:8] + b"abcd" + section("<")[12:], "magic is 61 62 63 64"),
        (section("<") + struct.pack("<II", 6, 7), "7 bytes"),
        (section("<") + struct.pack("<II", 6, 1 << 30), "1073741824 bytes"),
        (pcap(0xA1B2C3D4, 1, link=101), "link type is 101"),
        (pcap(0xA1B2C3D4, 1)[:10], ""),
    ],
)
def test_what_is_no_capture_is_refused_with_evidence(path: Path, data: bytes, evidence: str) -> None:
    with pytest.raises(UsageError, match="cannot be read as a capture") as refused:
        read(path, data)
    assert evidence in refused.value.evidence
    assert refused.value.evidence
    assert refused.value.remedy


def test_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(HostIOError, match="could not read"):
        list(pcapng.read(path))
