# SPDX-License-Identifier: GPL-2.0-or-later
"""Urgent data, both ways (RFC 9293 section 3.8.5 as BSD and Linux read it: the pointer is one past the byte)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from stack.include.net import MSG_OOB, MSG_PEEK, SIOCATMARK, SIOCINQ
from stack.include.sock import EPOLLIN, EPOLLPRI

MSEC = 1_000_000
Make = Callable[..., Any]


def urgent(e: Any, data: bytes, pointer: int) -> None:
    e.conn.send("PAU", data, urg_ptr=pointer)
    e.sim.settle()


def err(call: Any, *args: Any) -> int | None:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno


def test_established_urgent_byte_splits_the_stream_and_is_read_once(established: Make) -> None:
    e = established()
    urgent(e, b"abcdef", 3)
    assert e.sock.poll() & (EPOLLIN | EPOLLPRI) == EPOLLIN | EPOLLPRI
    assert e.sock.ioctl(SIOCINQ) == 2
    assert e.sock.recv(9) == b"ab"
    assert e.sock.ioctl(SIOCATMARK) == 1
    assert e.sock.recv(1, MSG_OOB | MSG_PEEK) == b"c"
    assert e.sock.recv(1, MSG_OOB) == b"c"
    assert err(e.sock.recv, 1, MSG_OOB) == errno.EINVAL
    assert e.sock.recv(9) == b"def"
    assert e.sock.ioctl(SIOCATMARK) == 0


def test_established_urgent_byte_alone_is_nothing_to_read(established: Make) -> None:
    e = established()
    urgent(e, b"!", 1)
    assert e.sock.poll() & (EPOLLIN | EPOLLPRI) == EPOLLPRI
    assert e.sock.recv(1, MSG_OOB) == b"!"
    assert err(e.sock.recv, 9) == errno.EAGAIN


def test_established_urgent_byte_that_a_reader_passed_is_gone(established: Make) -> None:
    e = established()
    urgent(e, b"!", 1)
    assert err(e.sock.recv, 9) == errno.EAGAIN
    assert err(e.sock.recv, 1, MSG_OOB) == errno.EINVAL


def test_established_new_urgent_byte_at_the_mark_takes_over(established: Make) -> None:
    e = established()
    urgent(e, b"ab", 2)
    assert e.sock.recv(9) == b"a"
    urgent(e, b"cd", 2)
    assert e.sock.recv(9) == b"c"
    assert e.sock.recv(1, MSG_OOB) == b"d"


def test_established_new_urgent_byte_where_the_old_was_all_of_its_packet(established: Make) -> None:
    e = established()
    urgent(e, b"!", 1)
    urgent(e, b"?", 1)
    assert e.sock.recv(1, MSG_OOB) == b"?"
    assert err(e.sock.recv, 9) == errno.EAGAIN


def test_established_send_oob_sets_the_pointer_until_acknowledged(established: Make) -> None:
    e = established()
    assert e.sock.send(b"abc", MSG_OOB) == 3
    (first,) = e.flight()
    assert (first.flags, first.urg_ptr, first.payload) == ("PAU", 3, b"abc")
    e.conn.send("A")
    e.sim.settle()
    e.sock.send(b"def")
    (second,) = e.flight()
    assert (second.flags, second.urg_ptr) == ("PA", 0)


def narrow(e: Any, window: int) -> None:
    """The peer's window becomes 128 times that: only a segment with newer data can make it smaller."""
    for data in (b"a", b"b"):
        e.conn.send("PA", data, window=window)
    e.sim.settle()
    assert e.sock.recv(9) == b"ab"
    e.flight(300 * MSEC)


def test_established_send_oob_behind_a_window_points_ahead(established: Make) -> None:
    e = established()
    narrow(e, 12)
    e.sock.send(b"a" * 1448 + b"b" * 88 + b"c" * 64, MSG_OOB)
    (first,) = e.flight()
    assert (first.urg_ptr, first.payload) == (0, b"a" * 1448)  # it left before the call came to its end
    e.conn.send("A")
    (second,) = e.flight()
    assert (second.flags, second.urg_ptr, second.payload) == ("PAU", 152, b"b" * 88 + b"c" * 64)


def test_established_send_oob_at_a_closed_window_is_told_by_the_probe(established: Make) -> None:
    e = established()
    narrow(e, 0)
    e.sock.send(b"abc", MSG_OOB)
    probes = e.flight(300 * MSEC)
    assert [(p.flags, p.urg_ptr, p.payload, e.rel(p)) for p in probes] == [
        ("AU", 3, b"", 1),
        ("AU", 4, b"", 0),
    ]


def test_established_urgent_byte_goes_past_nagle(established: Make) -> None:
    e = established(delay_ns=10 * MSEC)
    e.sock.send(b"a")
    e.sock.send(b"b", MSG_OOB)
    assert [s.payload for s in e.flight(11 * MSEC)] == [b"a", b"b"]
