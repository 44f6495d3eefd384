# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket under the frontend: a back end that is absent, silent, gone or wrong, each with its own error.

The other end of the socket is held by the test, which has said beforehand all that it will say.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from devmodel.vhost_user.message import Request
from guest.driver.backend import Backend
from guest.driver.errors import BackendAbsent, BackendHungUp, BackendSilent, DriverError, ProtocolBroken
from guest.driver.frontend import Frontend


class Ends:
    """A Backend, and the socket's other end."""

    def __init__(self) -> None:
        self.backend = Backend("/nowhere", deadline_s=0.05)
        self.backend.sock.close()
        self.backend.sock, self.other = socket.socketpair()

    def say(self, request: int, number: int = 0, flags: int = 5) -> None:
        self.other.send(struct.pack("<IIIQ", request, flags, 8, number))

    def connect(self) -> int:
        return self.backend.run(Frontend().connect())


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.backend.close()
    made.other.close()


def test_answers_come_to_who_asked(ends: Ends) -> None:
    ends.say(Request.VHOST_USER_GET_FEATURES, 0x1234)
    assert ends.connect() == 0x1234
    assert ends.other.recv(100) == struct.pack("<IIIIII", 3, 1, 0, 1, 1, 0)


def test_answer_in_many_pieces(ends: Ends) -> None:
    answer = struct.pack("<IIIQ", Request.VHOST_USER_GET_FEATURES, 5, 8, 7)
    for byte in answer:
        ends.other.send(bytes([byte]))
    assert ends.connect() == 7


def test_silent_back_end_meets_the_deadline(ends: Ends) -> None:
    ends.other.send(b"\1\0\0")
    with pytest.raises(BackendSilent, match=r"0\.05 s to answer GET_FEATURES") as caught:
        ends.connect()
    assert caught.value.evidence == "3 of 12 bytes came"
    assert caught.value.exit_code == 5


def test_back_end_that_does_not_read_meets_the_deadline(ends: Ends) -> None:
    ends.backend.sock.settimeout(0.05)
    with pytest.raises(BackendSilent, match="to read what it was sent"):
        ends.backend.send_raw(bytes(1 << 24))


@pytest.mark.parametrize("said", [b"", b"\1\0\0\0\5\0\0\0\x08\0\0\0\0"])
def test_hang_up_before_or_inside_an_answer(ends: Ends, said: bytes) -> None:
    ends.other.send(said)
    ends.other.shutdown(socket.SHUT_WR)
    with pytest.raises(BackendHungUp):
        ends.connect()


def test_hang_up_before_a_message(ends: Ends) -> None:
    ends.other.close()
    with pytest.raises(BackendHungUp, match="hung up"):
        ends.connect()


@pytest.mark.parametrize(
    ("request_number", "flags"),
    [(2, 5), (1, 1), (1, 4), (1, 0x15)],
    ids=["other", "no reply", "version", "bits"],
)
def test_answer_to_something_else_is_told(ends: Ends, request_number: int, flags: int) -> None:
    ends.say(request_number, flags=flags)
    with pytest.raises(ProtocolBroken, match="no answer to GET_FEATURES"):
        ends.connect()


def test_answer_of_a_gigabyte_is_told(ends: Ends) -> None:
    ends.other.send(struct.pack("<III", 1, 5, 1 << 30))
    with pytest.raises(ProtocolBroken, match="1073741824 bytes"):
        ends.connect()


def test_wait_says_which_ring_was_signalled(ends: Ends) -> None:
    assert ends.backend.wait((0, 1), 0) == []
    os.eventfd_write(ends.backend.fds[1].call, 3)
    assert ends.backend.wait((0, 1), 1) == [1]
    assert ends.backend.wait((0, 1), 0) == []


def test_wait_sees_the_socket_close_and_words_nobody_asked_for(ends: Ends) -> None:
    ends.say(Request.VHOST_USER_GET_FEATURES)
    with pytest.raises(ProtocolBroken, match="nobody asked for"):
        ends.backend.wait((0,), 1)
    ends.backend.sock.recv(100)
    ends.other.close()
    with pytest.raises(BackendHungUp):
        ends.backend.wait((0,), 1)


def test_kick_never_blocks(ends: Ends) -> None:
    os.eventfd_write(ends.backend.fds[0].kick, 2**64 - 2)
    ends.backend.kick(0)


def test_broken_rings_are_told_once(ends: Ends) -> None:
    os.eventfd_write(ends.backend.fds[1].err, 1)
    assert ends.backend.broken_rings() == [1]
    assert ends.backend.broken_rings() == []


@pytest.mark.parametrize("kind", ["missing", "file", "stale", "too long"])
def test_nobody_listens(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 110 if kind == "too long" else "s")
    if kind == "file":
        path.write_text("")
    if kind == "stale":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    with Backend(str(path)) as backend, pytest.raises(BackendAbsent) as caught:
        backend.connect()
    assert caught.value.exit_code == 3
    assert "vnic serve" in caught.value.remedy


def test_queue_of_connections_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with (
            Backend(str(path), deadline_s=0.05) as backend,
            pytest.raises(DriverError, match="took no connection"),
        ):
            backend.connect()
