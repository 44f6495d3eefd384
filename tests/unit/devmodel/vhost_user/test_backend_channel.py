# SPDX-License-Identifier: GPL-2.0-or-later
"""The back-end channel without a socket."""

from __future__ import annotations

import pytest

from devmodel.errors import FrontendError
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.backend_channel import (
    MAX_PENDING,
    Answer,
    BackendChannel,
    BackendRequest,
    iotlb_message,
)

MISS = BackendRequest.VHOST_USER_BACKEND_IOTLB_MSG
CONFIG = BackendRequest.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG
CALL = BackendRequest.VHOST_USER_BACKEND_VRING_CALL


def reply(request: int, number: int = 0) -> bytes:
    return vu.encode_reply(request, vu.U64.pack(number))


def feed(channel: BackendChannel, data: bytes) -> list[Answer]:
    """As a socket would: never more than it wants."""
    found = []
    while data:
        part, data = data[: channel.wants], data[channel.wants :]
        answer = channel.feed(part)
        found += [] if answer is None else [answer]
    return found


def test_request_is_a_message_that_asks_for_a_reply_where_it_may() -> None:
    payload = iotlb_message(0x1000, 0, 0, 1, vu.VHOST_IOTLB_MISS)
    assert len(payload) == 32
    assert BackendChannel(True).request(MISS, payload, 0x1000, True)[:12] == vu.HEADER.pack(1, 9, 32)
    assert BackendChannel(False).request(MISS, payload, 0x1000, True)[:12] == vu.HEADER.pack(1, 1, 32)
    assert BackendChannel(True).request(CALL, bytes(8)) == vu.HEADER.pack(4, 1, 8) + bytes(8)


def test_answers_belong_to_requests_in_their_order() -> None:
    channel = BackendChannel(True)
    channel.request(MISS, bytes(32), 0x1000, True)
    channel.request(CALL, bytes(8))
    channel.request(CONFIG, what=5, answered=True)
    channel.request(MISS, bytes(32), 0x3000, True)
    assert channel.pending == 3
    assert feed(channel, reply(MISS) + reply(CONFIG) + reply(MISS, 1)) == [
        Answer(MISS, 0x1000, 0),
        Answer(CONFIG, 5, 0),
        Answer(MISS, 0x3000, 1),
    ]
    assert channel.pending == 0
    assert channel.counters == {"requests": 4, "answers": 3, "unsent": 0}


def test_reply_byte_by_byte_is_a_reply() -> None:
    channel = BackendChannel(True)
    channel.request(MISS, bytes(32), 7, True)
    found = [channel.feed(bytes([byte])) for byte in reply(MISS, 3)]
    assert found[:-1] == [None] * 19
    assert found[-1] == Answer(MISS, 7, 3)


@pytest.mark.parametrize(
    ("asked", "said", "why"),
    [
        (False, reply(MISS), "nobody waits for"),
        (True, reply(CONFIG), "none to request 1"),
        (True, vu.encode_reply(MISS, bytes(4)), "with 4 bytes"),
        (True, vu.encode_reply(MISS, b""), "with 0 bytes"),
        (True, vu.encode(MISS, bytes(8)), "is no reply"),
        (False, vu.encode(1), "is no reply"),
        (True, vu.encode(MISS, bytes(8), 6), "version"),
        (True, b"\xff" * 12, "version"),
        (True, vu.HEADER.pack(1, 5, 1 << 20), "above 4096"),
        (False, vu.U64.pack(0) * 2, "version"),
    ],
)
def test_what_is_no_answer_to_the_oldest_request_ends_the_channel(asked: bool, said: bytes, why: str) -> None:
    channel = BackendChannel(True)
    if asked:
        channel.request(MISS, bytes(32), 7, True)
    with pytest.raises(FrontendError, match=why):
        feed(channel, said)


@pytest.mark.parametrize(
    ("said", "where"), [(b"", "between two messages"), (reply(MISS)[:15], "inside a message")]
)
def test_end_of_the_stream_is_told_with_where(said: bytes, where: str) -> None:
    channel = BackendChannel(True)
    channel.request(MISS, bytes(32), 7, True)
    if said:
        assert feed(channel, said) == []
    with pytest.raises(FrontendError, match=where) as caught:
        channel.feed(b"")
    assert "1 requests were not answered" in str(caught.value)


@pytest.mark.parametrize(("fds", "truncated"), [((3,), False), ((), True)])
def test_descriptor_on_the_channel_ends_it(fds: tuple[int, ...], truncated: bool) -> None:
    with pytest.raises(FrontendError, match="descriptor"):
        BackendChannel(True).feed(b"\0", fds, truncated)


def test_closed_channel_sends_nothing_and_gives_up_what_was_asked() -> None:
    channel = BackendChannel(True)
    channel.request(MISS, bytes(32), 7, True)
    channel.request(CONFIG, what=1, answered=True)
    assert channel.close("enough") == [Answer(MISS, 7, -1), Answer(CONFIG, 1, -1)]
    assert channel.closed == "enough"
    assert channel.request(CALL, bytes(8)) == b""
    assert channel.close("again") == []
    assert channel.closed == "enough"
    assert channel.counters["unsent"] == 1


def test_frontend_that_never_answers_is_asked_only_so_much() -> None:
    channel = BackendChannel(True)
    sent = [channel.request(MISS, bytes(32), at, True) for at in range(MAX_PENDING + 3)]
    assert sum(map(bool, sent)) == MAX_PENDING == channel.pending
    assert channel.request(CALL, bytes(8)), "what needs no answer goes on"


def test_oldest_request_has_a_number_of_its_own() -> None:
    channel = BackendChannel(True)
    assert channel.oldest == 0
    channel.request(MISS, bytes(32), 1, True)
    first = channel.oldest
    channel.request(MISS, bytes(32), 1, True)
    assert channel.oldest == first
    feed(channel, reply(MISS))
    assert channel.oldest not in (0, first)
