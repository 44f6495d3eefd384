# SPDX-License-Identifier: GPL-2.0-or-later
"""Close races: FINs lost, crossing and repeated, data behind a FIN, RST in each closing state, half closes, SO_LINGER,
unread data, shutdown both ways, TIME_WAIT after each, tcp_fin_timeout and TCP_LINGER2."""

from __future__ import annotations

import socket
import struct
from typing import Any

from tests.differential.script import (
    Step,
    Stimulus,
    ack,
    close,
    established,
    info,
    poll,
    recv,
    seg,
    send,
    setopt,
    shutdown,
    stimulus,
    syn,
    wait,
)

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
EST = established()
WR, RD, RDWR = socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR
STATE = info("state")
COUNTS = info(
    "state", "unacked", "retransmits", "bytes_sent", "bytes_acked", "bytes_received", "segs_in", "segs_out", "options"
)  # fmt: skip
RTO_MS = 300.0


def race(name: str, *steps: Any, **sysctl: int | str) -> Stimulus:
    return stimulus(f"race-{name}", *steps, **{"tcp_early_retrans": 0, **sysctl})


def linger(seconds: int) -> Step:
    return setopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, seconds))


def fin(data: bytes = b"", **fields: Any) -> Step:
    return seg("FA", data, **fields)


def shut(how: int = WR) -> tuple[Step, ...]:
    return (shutdown(how), wait(4))


# Each closing state, still with a socket: what has happened, and what the peer's next byte is.
FIN_WAIT1 = (EST, shut())
FIN_WAIT2 = (EST, shut(), ack())
CLOSING = (EST, shut(), fin(ack=1))
CLOSE_WAIT = (EST, fin())
LAST_ACK = (EST, fin(), shut())
TIME_WAIT = (EST, shut(), ack(), fin())
STATES = {
    "fin-wait1": FIN_WAIT1,
    "fin-wait2": FIN_WAIT2,
    "closing": CLOSING,
    "close-wait": CLOSE_WAIT,
    "last-ack": LAST_ACK,
}
# The same without one: the application has closed it.
ORPHANS = {
    "fin-wait1": (EST, close(wait=4)),
    "fin-wait2": (EST, close(wait=4), ack()),
    "closing": (EST, close(wait=4), fin(ack=1)),
    "last-ack": (EST, fin(), close(wait=4)),
    "time-wait": (EST, close(wait=4), ack(), fin()),
}

_RESETS = [
    *(
        race(f"rst-in-{state}", steps, seg("R"), STATE, poll(), recv(), recv())
        for state, steps in STATES.items()
    ),
    *(
        race(f"rst-inexact-in-{state}", steps, seg("R", seq=50), STATE, seg("R"), recv())
        for state, steps in STATES.items()
    ),
    *(
        race(f"rst-ack-in-orphaned-{state}", steps, seg("RA"), ack(), fin())
        for state, steps in ORPHANS.items()
    ),
    *(
        race(f"syn-in-{state}", steps, seg("S", seq=5, ts=(1000, 0)), STATE)
        for state, steps in STATES.items()
    ),
]

_FINS = [
    *(race(f"fin-again-in-{state}", steps, fin(seq=1), STATE) for state, steps in STATES.items()),
    *(race(f"data-in-{state}", steps, ack(b"late"), STATE, recv()) for state, steps in STATES.items()),
    *(race(f"data-in-orphaned-{state}", steps, ack(b"late"), ack()) for state, steps in ORPHANS.items()),
    *(race(f"ack-of-unsent-in-{state}", steps, ack(ack=900), STATE) for state, steps in STATES.items()),
    race("fin-lost", EST, shut(), wait(RTO_MS), COUNTS, ack(), COUNTS),
    race(
        "fin-lost-with-data",
        EST,
        send(b"bye", wait=0),
        shut(),
        ack(ack=4, wait=RTO_MS),
        COUNTS,
        ack(ack=5),
        COUNTS,
    ),
    race(
        "fin-and-data-lost",
        EST,
        send(b"bye", wait=0),
        shut(),
        wait(RTO_MS),
        COUNTS,
        ack(ack=5),
        COUNTS,
    ),
    race(
        "fin-lost-both-ways",
        EST,
        shut(),
        fin(ack=1),
        wait(RTO_MS),
        COUNTS,
        ack(ack=2),
        fin(seq=1, ack=2),
    ),
    race("fin-lost-then-crossing", EST, shut(), wait(RTO_MS), fin(), ack()),
    race("fin-lost-orphan", EST, close(wait=RTO_MS), ack(), fin()),
    race("fin-lost-last-ack", EST, fin(), recv(), close(wait=RTO_MS), ack(), ack()),
    race("peer-fin-behind-hole", EST, fin(seq=6), shut(), ack(b"hello", seq=1), COUNTS, recv(), recv()),
    race("peer-fin-behind-hole-orphan", EST, fin(seq=6), close(wait=4), ack(b"hello", seq=1)),
    race(
        "crossing-fins-with-data",
        EST,
        send(b"bye"),
        shut(),
        fin(b"hello", ack=1),
        COUNTS,
        ack(ack=5),
        recv(),
        recv(),
    ),
    race(
        "crossing-fin-acks-data-only",
        EST,
        send(b"bye"),
        shut(),
        fin(ack=4),
        COUNTS,
        ack(ack=5),
        STATE,
    ),
    race("fin-acks-fin", EST, shut(), fin(), STATE, recv()),
    race("fin-in-two", EST, ack(b"hel"), fin(b"lo"), fin(b"llo", seq=3), recv(), recv(), COUNTS),
    race(
        "data-beyond-fin",
        EST,
        fin(b"hello"),
        ack(b"more", seq=6),
        ack(b"more"),
        recv(),
        recv(),
        COUNTS,
    ),
    race("second-fin-further", EST, fin(), fin(seq=10), recv(), COUNTS),
    race("fin-urgent", EST, seg("FAU", b"x", urg=1, wait=14), recv(), recv(), COUNTS),
    race("fin-no-ack-flag", EST, seg("F", wait=14), recv(), STATE),
]

_HALF = [
    race(
        "half-close-sends-on",
        EST,
        fin(),
        recv(),
        *(s for _ in range(3) for s in (send(b"on", wait=4), ack())),
        close(wait=4),
        ack(),
    ),
    race(
        "half-close-data-lost",
        EST,
        fin(),
        recv(),
        send(b"hello", wait=RTO_MS),
        COUNTS,
        ack(),
        close(wait=4),
        ack(),
    ),
    race(
        "half-close-receives-on",
        FIN_WAIT2,
        *(s for _ in range(3) for s in (ack(b"on"), recv())),
        fin(),
        recv(),
        STATE,
    ),
    race("half-close-before-ack", FIN_WAIT1, ack(b"one", ack=1), ack(b"two"), recv(), fin(), recv()),
    race(
        "half-close-acks-late",
        FIN_WAIT1,
        ack(b"one", ack=1),
        recv(),
        ack(ack=2),
        COUNTS,
        fin(),
        recv(),
    ),
    race("half-close-send-refused", FIN_WAIT1, send(b"x"), poll(), ack(), send(b"x"), poll()),
    race(
        "half-close-window-closed",
        established(win=0),
        send(b"bye"),
        shut(),
        fin(win=0),
        recv(),
        ack(win=100),
        COUNTS,
    ),
    race("shut-rd", EST, shut(RD), poll(), ack(b"hello"), recv(), fin(), recv(), poll(), COUNTS),
    race("shut-rd-with-data", EST, ack(b"hello"), shut(RD), poll(), recv(), recv(), close(wait=4)),
    race("shut-rd-then-wr", EST, shut(RD), shut(WR), poll(), ack(), fin(), STATE),
    race("shut-wr-then-rd", EST, shut(WR), shut(RD), poll(), ack(), ack(b"x"), fin(), STATE),
    race("shut-rdwr-with-data", EST, ack(b"hello"), shut(RDWR), recv(), recv(), poll(), close(wait=4)),
    race("shut-rdwr-then-close", EST, shut(RDWR), close(wait=4), ack(), fin()),
    race("shut-twice-with-fin", EST, fin(), shut(WR), shut(WR), ack(), poll()),
    race("shut-after-rst", EST, seg("R"), shut(WR), recv(), shut(RD), poll()),
    race(
        "shut-rd-listener-then-close-wait",
        EST,
        fin(),
        shut(RD),
        poll(),
        send(b"x", wait=4),
        ack(),
        shut(WR),
        ack(),
    ),
]

_CLOSES = [
    race("linger-0-in-flight", EST, send(b"x" * 3000, wait=4), linger(0), close(wait=4), ack(ack=1449)),
    race("linger-0-unsent", established(win=0), send(b"hello"), linger(0), close(wait=4), ack(win=100)),
    race("linger-0-unread", EST, ack(b"hello"), linger(0), close(wait=4), ack()),
    race("linger-0-after-fin", EST, fin(), linger(0), close(wait=4), ack()),
    race("linger-0-fin-wait1", FIN_WAIT1, linger(0), close(wait=4), ack()),
    race("linger-0-fin-wait2", FIN_WAIT2, linger(0), close(wait=4), ack()),
    race("linger-0-closing", CLOSING, linger(0), close(wait=4), ack(ack=2)),
    race("linger-0-last-ack", LAST_ACK, linger(0), close(wait=4), ack()),
    race("linger-0-behind-hole", EST, ack(b"x", seq=9), linger(0), close(wait=4)),
    race("unread-in-flight", EST, send(b"x" * 300, wait=4), ack(b"hello", ack=1), close(wait=4), ack()),
    race("unread-after-fin", EST, fin(b"hello"), close(wait=4), ack()),
    race("unread-fin-wait2", FIN_WAIT2, ack(b"hello"), close(wait=4), ack()),
    race("unread-closing", FIN_WAIT1, fin(b"hello", ack=1), close(wait=4), ack(ack=2)),
    race("unread-behind-hole-only", EST, ack(b"hello", seq=9), close(wait=4), ack()),
    race("read-all-but-fin", EST, fin(b"hello"), recv(5), close(wait=4), ack()),
    race("data-after-close-twice", EST, close(wait=4), ack(b"one"), ack(b"two", seq=4)),
    race(
        "data-acked-after-close",
        EST,
        send(b"x" * 2000, wait=4),
        close(wait=4),
        ack(ack=1449),
        ack(ack=2002),
        fin(),
    ),
    race("old-ack-after-close", EST, send(b"hello"), close(wait=4), ack(ack=1), ack(ack=1), ack()),
    race("close-nagled", EST, send(b"a", wait=4), send(b"b", wait=4), close(wait=4), ack(ack=2), ack()),
    race("close-corked", EST, setopt(TCP, socket.TCP_CORK, 1), send(b"ab", wait=4), close(wait=4), ack()),
    race("fin-wait2-data-after-close", FIN_WAIT2, close(wait=4), ack(b"x"), fin()),
    race("linger2-1", EST, setopt(TCP, socket.TCP_LINGER2, 1), close(wait=4), ack(wait=1500), fin()),
    race("linger2-negative", EST, setopt(TCP, socket.TCP_LINGER2, -1), shut(), ack(), close(wait=4), fin()),
    race("time-wait-rst-then-ack", EST, close(wait=4), fin(), seg("R"), ack()),
]

_PASSED = {
    "active": (EST, close(wait=4), ack(), fin()),
    "crossing": (EST, close(wait=4), fin(ack=1), ack(ack=2)),
    "half": (EST, shut(), ack(), ack(b"x"), recv(), fin(), close(wait=4)),
    "linger2": (EST, setopt(TCP, socket.TCP_LINGER2, 20), close(wait=4), ack(), fin()),
}
_TIME_WAIT = [
    race(f"time-wait-{how}-{what}", steps, event, ack())
    for how, steps in _PASSED.items()
    for what, event in (
        ("fin", fin(seq=2 if how == "half" else 1)),
        ("data", ack(b"late")),
        ("rst", seg("R")),
        ("syn", syn(seq=100, ts=(2000, 0))),
    )
]

STIMULI = [*_RESETS, *_FINS, *_HALF, *_CLOSES, *_TIME_WAIT]
