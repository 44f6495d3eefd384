# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that end early, and options without a value."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vnic import pcapng

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
RECORD = struct.pack("<IIII", 1, 2, 4, 4) + b"abcd"


@pytest.mark.parametrize("kept", [0, 3, 15])
def test_pcap_that_ends_within_a_packets_header_is_read_up_to_there(tmp_path: Path, kept: int) -> None:
    (tmp_path / "cut.pcap").write_bytes(HEADER + RECORD + RECORD[:kept])
    assert [packet.frame for packet in pcapng.read(tmp_path / "cut.pcap")] == [b"abcd"]


def block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def test_pcapng_resolution_without_a_value_is_microseconds(tmp_path: Path) -> None:
    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    interface = block(1, struct.pack("<HHIHH", 1, 0, 0, 9, 0))
    packet = block(6, struct.pack("<IIIII", 0, 0, 7, 4, 4) + b"abcd")
    (tmp_path / "odd.pcapng").write_bytes(section + interface + packet)
    assert [one.stamp_ns for one in pcapng.read(tmp_path / "odd.pcapng")] == [7000]
