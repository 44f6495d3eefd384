# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stack.lib import checksum as c


def words(data: bytes) -> int:
    """The one's complement sum, by the letter of RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=5000))
def test_any_bytes_sum_like_rfc_1071(data: bytes) -> None:
    assert c.csum_partial(data) == words(data)
    assert c.csum_fold(c.csum_partial(data)) == words(data) ^ 0xFFFF


def test_zero_bytes_and_ffff_stay_apart_as_in_the_kernel() -> None:
    assert c.csum_fold(c.csum_partial(bytes(8))) == 0xFFFF
    assert c.csum_fold(c.csum_partial(b"\xff\xff")) == 0


def test_large_odd_buffer_sums_like_rfc_1071() -> None:
    data = bytes(range(251)) * 261
    assert len(data) % 2 == 1
    assert c.csum_partial(memoryview(data)) == words(data)


def test_ipv4_header_of_rfc_example_has_its_checksum() -> None:
    header = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
    assert c.ip_fast_csum(header, 5) == 0
    assert c.ip_fast_csum(header[:10] + b"\0\0" + header[12:], 5) == 0xB861


def test_pseudo_header_left_in_the_field_is_completed_by_summing_the_segment() -> None:
    saddr, daddr = 0x0A000202, 0x0A00020F
    segment = bytearray(b"\x00\x50\x9c\x40" + bytes(12) + b"\0\0" + b"\0\0" + b"payload")
    full = c.csum_tcpudp_magic(saddr, daddr, len(segment), 6, c.csum_partial(segment))
    segment[16:18] = c.tcp_v4_pseudo(saddr, daddr, len(segment)).to_bytes(2, "big")
    assert c.csum_fold(c.csum_partial(segment)) == full
