# SPDX-License-Identifier: GPL-2.0-or-later
"""Receive buffers that fill up: what coalesces, collapses and is pruned, and windows that may shrink."""

from __future__ import annotations

import socket

from tests.differential.script import (
    Step,
    accept,
    ack,
    established,
    listen,
    recv,
    seg,
    setopt,
    stimulus,
    wait,
)

SOL = socket.SOL_SOCKET
EST = established()


def rcvbuf(size: int) -> tuple[int, int, int]:
    return (SOL, socket.SO_RCVBUF, size)


def many(count: int, size: int) -> list[Step]:
    """So many segments of so many bytes, one after the other."""
    return [ack(bytes([65 + i % 26]) * size, wait=0) for i in range(count)]


def behind(count: int, size: int, step: int | None = None) -> list[Step]:
    """Segments behind a hole; with tcp_comp_sack_nr=0 each has an ACK at once."""
    gap = size if step is None else step
    ms = 0 if count > 10 else 2
    return [seg("A", bytes([65 + i % 26]) * size, seq=2 + i * gap, wait=ms) for i in range(count)]


SHRINK = (setopt(SOL, socket.SO_RCVBUF, 5000), *(step for _ in range(3) for step in (ack(b"x"), recv())))

HOLE = (wait(2), ack(b"x"), recv(60_000))
BARE = (listen(), seg("S", mss=1460), ack(), accept())
BUF20 = established(rcvbuf(20_000))

STIMULI = [
    stimulus("mem-small-in-order", BUF20, *many(60, 600), recv(60_000), recv()),
    stimulus("mem-tiny-in-order", established(rcvbuf(10_000)), *many(60, 130), recv(60_000), recv()),
    stimulus("mem-full-in-order", BUF20, *many(20, 1448), recv(60_000), recv()),
    stimulus(
        "mem-behind-hole",
        established(rcvbuf(20_000)),
        *behind(50, 600),
        wait(2),
        ack(b"x"),
        recv(60_000),
        recv(),
        tcp_comp_sack_nr=0,
    ),
    stimulus(
        "mem-behind-many-holes",
        established(rcvbuf(20_000)),
        *behind(50, 300, step=400),
        wait(2),
        ack(b"x"),
        recv(60_000),
        tcp_comp_sack_nr=0,
    ),
    stimulus(
        "mem-behind-hole-full",
        established(rcvbuf(30_000)),
        *behind(30, 1448),
        wait(2),
        ack(b"x"),
        recv(60_000),
        recv(),
        tcp_comp_sack_nr=0,
    ),
    stimulus("mem-behind-hole-tiny", EST, *behind(6, 10), *HOLE, tcp_comp_sack_nr=0),
    stimulus("mem-behind-hole-backwards", EST, *reversed(behind(6, 10)), *HOLE, tcp_comp_sack_nr=0),
    stimulus(
        "mem-behind-hole-fin",
        EST,
        *behind(3, 10),
        seg("FA", b"!", seq=32),
        wait(2),
        ack(b"x"),
        recv(60_000),
        recv(),
        tcp_comp_sack_nr=0,
    ),
    stimulus("mem-behind-hole-overlaps", EST, *behind(8, 10, step=7), *HOLE, tcp_comp_sack_nr=0),
    stimulus("mem-behind-hole-no-sack", BARE, *behind(4, 10), ack(b"x"), recv(), tcp_comp_sack_nr=0),
    stimulus("mem-never-shrink-window", EST, *SHRINK),
    stimulus("mem-shrink-window", EST, *SHRINK, tcp_shrink_window=1),
    stimulus(
        "mem-shrink-window-no-scale",
        (listen(), seg("S", mss=1460), ack(), accept()),
        *SHRINK,
        tcp_shrink_window=1,
    ),
]
