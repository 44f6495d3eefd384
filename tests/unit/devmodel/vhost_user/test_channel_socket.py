# SPDX-License-Identifier: GPL-2.0-or-later
"""The channel's socket on a clock that is stepped: whatever is at its other end, nothing waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.backend_channel import REPLY_S, Answer, BackendChannel, BackendRequest
from devmodel.vhost_user.channel_socket import MAX_UNSENT, ChannelSocket
from devmodel.vhost_user.connection import receive
from guest.driver.loop import StepLoop

MISS = BackendRequest.VHOST_USER_BACKEND_IOTLB_MSG
CALL = vu.encode(BackendRequest.VHOST_USER_BACKEND_VRING_CALL, bytes(8))


class Loop(StepLoop):
    """With readers that are called by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int, /) -> bool:
        return self.readers.pop(fd, None) is not None

    def turn(self) -> None:
        for callback in list(self.readers.values()):
            callback()
        self.run_ready()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.turn()


class Rig:
    """A channel over a socket pair; who loses it closes it, as a connection does."""

    def __init__(self, fd: int | None = None) -> None:
        self.loop = Loop()
        self.theirs, ours = socket.socketpair()
        self.channel = BackendChannel(True)
        self.heard: list[Answer] = []
        self.reasons: list[str] = []
        taken = ours.detach()
        if fd is not None:
            os.close(taken)
            taken = fd
        self.sock: ChannelSocket | None = None
        self.sock = ChannelSocket(self.loop, taken, self.channel, receive, self.heard.append, self.lost)

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self.channel.close(reason)
        if self.sock is not None:
            self.sock.close()

    def ask(self, what: int = 0) -> None:
        assert self.sock is not None
        self.sock.send(self.channel.request(MISS, bytes(32), what, True))

    def close(self) -> None:
        assert self.sock is not None
        self.sock.close()
        self.theirs.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    before = len(os.listdir("/proc/self/fd"))
    made = Rig()
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not made.loop.readers


def test_answer_is_heard_and_its_deadline_forgotten(rig: Rig) -> None:
    rig.ask(0x1000)
    assert rig.theirs.recv(100)[:12] == vu.HEADER.pack(1, 9, 32)
    rig.theirs.send(vu.encode_reply(1, vu.U64.pack(0)))
    rig.loop.turn()
    assert rig.heard == [Answer(1, 0x1000, 0)]
    rig.loop.sleep(2 * REPLY_S)
    assert rig.reasons == []


def test_frontend_that_never_answers_loses_the_channel(rig: Rig) -> None:
    rig.ask()
    rig.loop.sleep(REPLY_S - 1)
    assert rig.reasons == []
    rig.loop.sleep(1)
    assert rig.reasons == ["the frontend answered nothing for 10 s"]
    assert rig.theirs.recv(100)
    assert rig.theirs.recv(100) == b"", "our end is closed"


def test_deadline_is_of_the_oldest_request(rig: Rig) -> None:
    rig.ask()
    rig.loop.sleep(REPLY_S - 1)
    rig.ask()
    rig.theirs.send(vu.encode_reply(1, vu.U64.pack(0)))
    rig.loop.sleep(REPLY_S / 2)
    assert rig.reasons == []
    rig.loop.sleep(REPLY_S)
    assert len(rig.reasons) == 1


@pytest.mark.parametrize("said", [vu.encode_reply(1, vu.U64.pack(0)), vu.U64.pack(0) * 2, b""])
def test_unasked_for_bytes_or_the_end_close_it_and_are_told_once(rig: Rig, said: bytes) -> None:
    if said:
        rig.theirs.send(said)
    else:
        rig.theirs.close()
    rig.loop.turn()
    rig.loop.turn()
    assert len(rig.reasons) == 1
    assert not rig.loop.readers


def test_frontend_that_goes_with_a_request_unanswered_is_the_end_of_the_channel(rig: Rig) -> None:
    rig.ask()
    rig.theirs.close()
    rig.loop.turn()
    assert len(rig.reasons) == 1
    rig.loop.sleep(2 * REPLY_S)
    assert len(rig.reasons) == 1


def test_descriptors_that_come_are_closed(rig: Rig) -> None:
    socket.send_fds(rig.theirs, [b"x"], [rig.theirs.fileno()])
    rig.loop.turn()
    assert rig.reasons == ["a descriptor came over the back-end channel"]


def test_full_socket_keeps_a_notification_once_and_delivers_it_later(rig: Rig) -> None:
    assert rig.sock is not None
    for _ in range(5000):
        rig.sock.send(CALL)
    assert rig.reasons == []
    assert len(rig.sock._unsent) == 1
    got = 0
    rig.theirs.setblocking(False)
    while rig.sock._unsent or got == 0:
        while True:
            try:
                got += len(rig.theirs.recv(1 << 20))
            except BlockingIOError:
                break
        rig.loop.sleep(0.005)
    got += len(rig.theirs.recv(1 << 20))
    assert got % len(CALL) == 0
    assert 0 < got // len(CALL) < 5000


def test_frontend_that_does_not_read_loses_the_channel(rig: Rig) -> None:
    assert rig.sock is not None
    for number in range(5000):
        rig.sock.send(vu.encode(BackendRequest.VHOST_USER_BACKEND_VRING_CALL, vu.VRING_STATE.pack(number, 0)))
        if rig.reasons:
            break
    assert rig.reasons == ["the frontend does not read it"]
    assert number > MAX_UNSENT


@pytest.mark.parametrize("make", [lambda: os.open("/dev/null", os.O_RDWR), lambda: os.eventfd(0)])
def test_descriptor_that_is_no_socket_is_closed_and_told(make: Callable[[], int]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    rig = Rig(make())
    assert len(rig.reasons) == 1
    assert "no socket" in rig.reasons[0]
    rig.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_socket_that_blocks_does_not_make_us_wait() -> None:
    theirs, ours = socket.socketpair()
    ours.setblocking(True)
    rig = Rig(ours.detach())
    rig.loop.turn()  # nothing is there to be read
    assert rig.sock is not None
    for _ in range(3000):
        rig.sock.send(CALL)  # nor room to write
    assert rig.reasons == []
    rig.close()
    theirs.close()
