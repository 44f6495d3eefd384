# SPDX-License-Identifier: GPL-2.0-or-later
"""Framing: whatever the pieces that bytes arrive in, messages come out whole, with their own descriptors."""

from __future__ import annotations

import struct

import pytest

from devmodel.errors import FrontendError
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.message import MessageReader, Request
from devmodel.virtio.memory import RegionSpec


def test_header_then_payload_is_one_message() -> None:
    reader = MessageReader()
    data = vu.encode(Request.VHOST_USER_SET_FEATURES, b"12345678", 9)
    assert reader.wants == 12
    assert reader.feed(data[:12], [7]) is None
    assert reader.wants == 8
    message = reader.feed(data[12:])
    assert message == vu.Message(2, 9, b"12345678", (7,))
    assert message.need_reply
    assert reader.wants == 12


def test_single_bytes_make_the_same_message() -> None:
    reader = MessageReader()
    data = vu.encode(Request.VHOST_USER_GET_FEATURES)
    found = [reader.feed(data[at : at + 1]) for at in range(12)]
    assert found[:-1] == [None] * 11
    assert found[-1] == vu.Message(1, 1)


def test_descriptors_stay_with_their_message() -> None:
    reader = MessageReader()
    first = reader.feed(vu.encode(Request.VHOST_USER_SET_OWNER), [3])
    second = reader.feed(vu.encode(Request.VHOST_USER_SET_OWNER), [4])
    assert first is not None
    assert second is not None
    assert (first.fds, second.fds) == ((3,), (4,))


def test_row_01_end_inside_a_message_keeps_the_descriptors_to_close() -> None:
    reader = MessageReader()
    assert reader.idle
    reader.feed(b"\x01\x00", [5, 6])
    assert not reader.idle
    assert reader.take_fds() == [5, 6]
    assert reader.take_fds() == []


@pytest.mark.parametrize("flags", [0, 2, 3, 8])
def test_row_02_version_is_not_1(flags: int) -> None:
    with pytest.raises(FrontendError, match="version"):
        MessageReader().feed(struct.pack("<III", 1, flags, 0))


@pytest.mark.parametrize("size", [4097, 0xFFFFFFFF])
def test_row_03_size_above_the_limit(size: int) -> None:
    with pytest.raises(FrontendError, match="4096"):
        MessageReader().feed(struct.pack("<III", 1, 1, size))


def test_memory_table_survives_the_round_trip() -> None:
    specs = [RegionSpec(0, 0xA0000, 0x7F0000000000, 0), RegionSpec(0xC0000, 4096, 0x7F00000C0000, 0xC0000)]
    assert vu.decode_mem_table(vu.encode_mem_table(specs)) == specs


def test_error_has_fact_and_evidence() -> None:
    with pytest.raises(FrontendError) as caught:
        vu.check(vu.Message(Request.VHOST_USER_SET_VRING_ADDR, 1, bytes(39)), 0)
    assert "VHOST_USER_SET_VRING_ADDR" in caught.value.fact
    assert "39" in caught.value.evidence
