# SPDX-License-Identifier: GPL-2.0-or-later
"""When an ACK is sent: quick ACKs, conversations, sizes and PSH, TCP_QUICKACK, after pauses, holes, a FIN, ECN marks.

A delayed ACK comes after 40 to 44 ms: steps of LATE wait for it, those of SOON end well before."""

from __future__ import annotations

import socket
from typing import Any

from tests.differential.script import (
    FULL,
    Step,
    Stimulus,
    accept,
    ack,
    established,
    info,
    listen,
    recv,
    seg,
    send,
    setopt,
    shutdown,
    stimulus,
    wait,
)

TCP = socket.IPPROTO_TCP
SOON, LATE = 8.0, 70.0
MSG_PEEK = 2
EST = established()
ECN = (listen(), seg("SEW", **FULL), ack(), accept())
QUICK, SLOW = setopt(TCP, socket.TCP_QUICKACK, 1), setopt(TCP, socket.TCP_QUICKACK, 0)
RECEIVED = ("rcv_mss", "segs_out", "segs_in", "data_segs_in", "bytes_received")


def delack(name: str, *steps: Any, **sysctl: int | str) -> Stimulus:
    return stimulus(f"delack-{name}", *steps, **sysctl)


def data(size: int = 100, ms: float = SOON, flags: str = "PA", **more: Any) -> Step:
    return seg(flags, b"x" * size, wait=ms, **more)


def used_up(*, read: bool = True) -> tuple[Step, ...]:
    """The quick ACKs of a new connection, 16, and a few."""
    steps = [data(10, 1) for _ in range(19)]
    return (*steps, *([recv()] if read else []), wait(LATE))


REQUEST = (data(20), recv())
TALK = (*REQUEST, send(b"reply", wait=SOON), *REQUEST, send(b"again", wait=SOON))

_QUICK = [
    delack("first-data-late", EST, data(ms=LATE), info(*RECEIVED)),
    delack("used-up", EST, used_up(), data(ms=LATE), info(*RECEIVED)),
    delack("used-up-unread", EST, used_up(read=False), data(ms=LATE), info(*RECEIVED)),
    delack("used-up-read-at-once", EST, used_up(), data(ms=1), recv(), wait(LATE), info(*RECEIVED)),
    delack("used-up-no-push-read-at-once", EST, used_up(), data(ms=1, flags="A"), recv(), wait(LATE)),
    delack("used-up-two-full", EST, used_up(), data(1448), data(1448, LATE), recv(), wait(LATE)),
    delack("used-up-two-full-read", EST, used_up(), data(1448, 1), recv(), data(1448, 1), recv(), wait(LATE)),
    delack(
        "used-up-two-full-read-no-push",
        EST,
        used_up(),
        *(s for _ in range(2) for s in (data(1448, 2, "A"), recv())),
        wait(LATE),
    ),
    delack(
        "used-up-three-no-push-read-in-one",
        EST,
        used_up(),
        *(data(536, 2, "A") for _ in range(3)),
        recv(),
        wait(LATE),
    ),
    *(
        delack(f"used-up-size-{n}", EST, used_up(), data(n, 1, "A"), recv(), wait(LATE), info(*RECEIVED))
        for n in (1, 268, 535, 536, 537, 700)
    ),
    delack("used-up-peek", EST, used_up(), data(ms=1), recv(100, MSG_PEEK), wait(LATE), recv(), wait(LATE)),
    delack("used-up-part-read", EST, used_up(), data(ms=1), recv(50), wait(LATE)),
    delack("used-up-pause", EST, used_up(), wait(300), data(ms=LATE), info(*RECEIVED)),
    delack("used-up-hole", EST, used_up(), data(10, seq=290), data(99, LATE), info(*RECEIVED)),
    delack(
        "used-up-hole-filled",
        EST,
        used_up(),
        data(10, seq=291),
        data(100),
        recv(),
        data(seq=301, ms=LATE),
        recv(),
    ),
    delack("used-up-old-data", EST, used_up(), data(10, seq=1), data(ms=LATE), info(*RECEIVED)),
    delack("used-up-keepalive", EST, used_up(), ack(seq=190), data(ms=LATE)),
    delack("used-up-paws", EST, used_up(), ack(b"x", tsval=10), data(ms=LATE, tsval=1000)),
    delack("used-up-fin", EST, used_up(), seg("FA", wait=LATE), info("state", *RECEIVED)),
    delack("used-up-data-fin", EST, used_up(), data(), seg("FA", wait=LATE), info("state", *RECEIVED)),
    delack(
        "used-up-fin-with-data", EST, used_up(), seg("FA", b"x" * 100, wait=LATE), info("state", *RECEIVED)
    ),
    delack("used-up-urgent", EST, used_up(), seg("AU", b"x", urg=1, wait=LATE)),
    delack("used-up-ack-with-reply", EST, used_up(), data(), send(b"reply", wait=LATE)),
    delack("used-up-shutdown", EST, used_up(), data(), shutdown(socket.SHUT_WR), wait(LATE)),
]

_TALK = [
    delack("talk", EST, TALK, info(*RECEIVED), data(20, LATE)),
    delack(
        "talk-lone-request-then-more",
        EST,
        TALK,
        data(20, LATE),
        recv(),
        data(20, LATE),
        recv(),
        data(20, LATE),
    ),
    delack("talk-request-in-two", EST, TALK, data(20), data(20, LATE)),
    delack("talk-one-reply", EST, REQUEST, send(b"reply", wait=SOON), data(20, LATE)),
    delack("talk-late-reply", EST, data(20, LATE), recv(), send(b"reply", wait=SOON), data(20, LATE)),
    delack(
        "talk-server-first-twice",
        EST,
        *(s for _ in range(2) for s in (send(b"hi", wait=SOON), ack())),
        data(20, LATE),
    ),
    delack(
        "talk-data-acks-reply",
        EST,
        REQUEST,
        send(b"reply", wait=SOON),
        data(20),
        recv(),
        send(b"re", wait=SOON),
        data(20, LATE),
    ),
    delack(
        "talk-threshold-3",
        EST,
        TALK,
        data(20, LATE),
        recv(),
        send(b"x"),
        data(20, LATE),
        tcp_pingpong_thresh=3,
    ),
    delack("talk-full-segments", EST, TALK, data(1448), data(1448, LATE), recv(), wait(LATE)),
    delack("talk-then-bulk", EST, TALK, *(s for _ in range(4) for s in (data(1448, 2), recv())), wait(LATE)),
    delack("talk-fin", EST, TALK, seg("FA", wait=LATE)),
    delack("talk-hole", EST, TALK, data(20, seq=100), data(59, LATE), recv(), data(20, LATE)),
]

_OPTION = [
    delack("quickack-off", EST, SLOW, data(ms=LATE), data(ms=LATE)),
    delack("quickack-off-full-segments", EST, SLOW, data(1448), data(1448, LATE)),
    delack("quickack-on-in-talk", EST, TALK, QUICK, data(20, LATE), recv(), data(20, LATE)),
    delack("quickack-on-flushes", EST, SLOW, data(), QUICK, wait(LATE)),
    delack("quickack-on-used-up", EST, used_up(), QUICK, data(ms=LATE), data(ms=LATE)),
    delack("quickack-2", EST, SLOW, data(), setopt(TCP, socket.TCP_QUICKACK, 2), wait(LATE), data(ms=LATE)),
    delack("quickack-off-then-reply", EST, SLOW, data(), send(b"reply", wait=LATE), data(ms=LATE)),
    delack("quickack-off-hole", EST, SLOW, data(10, seq=101), data(100, LATE), data(ms=LATE)),
    delack("quickack-off-fin", EST, SLOW, seg("FA", wait=LATE), info("state")),
    delack("quickack-off-data-fin", EST, SLOW, data(), seg("FA", wait=LATE), info("state")),
]

_ECN = [
    delack(
        "ecn-ce",
        ECN,
        used_up(),
        data(tos=2),
        data(tos=3),
        data(tos=3, ms=LATE),
        data(tos=2, ms=LATE),
        info("delivered_ce"),
    ),
    delack("ecn-ce-cwr", ECN, used_up(), data(tos=3), data(tos=2, flags="PAW"), data(tos=2, ms=LATE)),
    delack("ecn-not-ect", ECN, used_up(), data(tos=2), data(tos=0, ms=LATE), data(tos=2, ms=LATE)),
]

STIMULI = [*_QUICK, *_TALK, *_OPTION, *_ECN]
