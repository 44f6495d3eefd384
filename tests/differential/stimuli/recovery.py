# SPDX-License-Identifier: GPL-2.0-or-later
"""Loss as the sending server sees it: duplicate ACKs, SACK, recovery, RACK, probes, timeouts, undo, ECN, the window.

The path's round trip is RTT ms and tcp_min_tso_segs keeps a flight in one GSO packet, so that neither a late client nor
the pacing rate decides anything.  ``sacks`` counts segments: ``sacks((1, 2), una=0)`` has segment 1 of 0, 1, 2 ...
"""

from __future__ import annotations

import socket
from typing import Any

from tests.differential.script import (
    FULL,
    Step,
    Stimulus,
    accept,
    ack,
    close,
    icmp,
    info,
    listen,
    recv,
    seg,
    send,
    setopt,
    shutdown,
    stimulus,
    syn,
    wait,
)

TCP = socket.IPPROTO_TCP
NODELAY = setopt(TCP, socket.TCP_NODELAY, 1)
RTT = 40.0
MSS = 200  # small: the guest's calls come over its console
SYN_MSS = 212  # less the time stamps
RTO_MS = 330.0  # RTO and its slack
LATER = (ack(wait=20), info())


def opened(**fields: Any) -> tuple[Step, ...]:
    """established() over a path of RTT."""
    return (listen(), syn(wait=RTT, **{"mss": SYN_MSS, **fields}), ack(), accept())


EST = opened()
NOTS = opened(ts=None, mss=MSS)
RENO = opened(sackok=False)
RENO_NOTS = opened(sackok=False, ts=None, mss=MSS)
ECN = (listen(), seg("SEW", wait=RTT, **{**FULL, "mss": SYN_MSS}), ack(), accept())


def at(segment: int) -> int:
    return 1 + segment * MSS


def flight(segments: int, ms: float = RTT) -> Step:
    return send(b"x" * (segments * MSS), wait=ms)


def acks(una: int, **more: Any) -> Step:
    """All before segment ``una``."""
    return ack(ack=at(una), **{"wait": 0, **more})


def sacks(*blocks: tuple[int, int], una: int = 0, **more: Any) -> Step:
    """Segments first to last (exclusive) of each block."""
    return acks(una, sack=tuple((at(a), at(b)) for a, b in blocks), **more)


def lossy(name: str, *steps: Any, **sysctl: int | str) -> Stimulus:
    return stimulus(f"rec-{name}", *steps, **{"tcp_min_tso_segs": 64, **sysctl})


NO_TLP = {"tcp_early_retrans": 0}

_DUPLICATES = [
    # n duplicate ACKs, each with one more segment above the hole
    *(
        lossy(
            f"sack-dup-{n}",
            EST,
            flight(10),
            *(sacks((1, 2 + i)) for i in range(n - 1)),
            sacks((1, 1 + n), wait=10 if n >= 3 else 3),
            info(),
            acks(10, wait=10),
            info(),
        )
        for n in (1, 2, 3, 9)
    ),
    # the same from a peer without SACK
    *(
        lossy(
            f"reno-dup-{n}",
            RENO,
            flight(10),
            *[acks(0)] * n,
            wait(10),
            info(),
            acks(10, wait=10),
            info(),
            **NO_TLP,
        )
        for n in (1, 2, 3, 4, 7, 9, 12)
    ),
    lossy("reno-dup-no-ts", RENO_NOTS, flight(8), *[acks(0)] * 3, wait(10), info(), acks(8), info()),
    # one hole, everything else SACKed at once
    *(
        lossy(
            f"hole-{k}",
            EST,
            flight(10),
            sacks(*([(k + 1, 10)] if k < 9 else []), una=k, wait=60 if k in (7, 8) else 10),
            info(),
            acks(10, wait=10),
            info(),
            **NO_TLP,
        )
        for k in (0, 1, 4, 7, 8, 9)
    ),
    lossy(
        "holes-2",
        EST,
        flight(10),
        sacks((7, 10), (2, 5), wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "holes-3",
        EST,
        flight(10),
        sacks((8, 10), (5, 6), (2, 3), wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "holes-3-filled-one-by-one",
        EST,
        flight(10),
        sacks((8, 10), (5, 6), (2, 3), wait=RTT),
        info(),
        sacks((8, 10), (5, 6), una=3, wait=RTT),
        info(),
        sacks((8, 10), una=6, wait=RTT),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reno-partial-acks",
        RENO,
        flight(10),
        *[acks(0)] * 3,
        wait(RTT),
        info(),
        acks(2, wait=RTT),
        info(),
        acks(5, wait=RTT),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reno-partial-then-dups",
        RENO,
        flight(14),
        *[acks(0)] * 3,
        wait(RTT),
        acks(4, wait=1),
        *[acks(4)] * 4,
        wait(10),
        info(),
        acks(14, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reno-ack-of-everything",
        RENO,
        flight(10),
        *[acks(0)] * 4,
        acks(10, wait=10),
        info(),
        *[acks(10)] * 2,
        info(),
    ),
    lossy(
        "limited-transmit-sack",
        EST,
        flight(16),
        sacks((1, 2), wait=3),
        info(),
        sacks((1, 3), wait=3),
        info(),
        **NO_TLP,
    ),
    lossy(
        "limited-transmit-reno", RENO, flight(16), acks(0, wait=3), info(), acks(0, wait=3), info(), **NO_TLP
    ),
    lossy(
        "prr",
        EST,
        flight(30),
        *(
            s
            for n in range(1, 10)
            for s in (sacks((1, 1 + n), wait=3), info("snd_cwnd", "retrans", "lost", "unacked"))
        ),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "prr-stretch",
        EST,
        flight(30),
        sacks((1, 6), wait=10),
        info(),
        sacks((1, 10), wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "prr-half-lost",
        EST,
        flight(30),
        sacks((5, 10), wait=RTT),
        info(),
        sacks((5, 10), una=1, wait=RTT),
        info(),
        sacks((5, 10), una=2, wait=RTT),
        info(),
        acks(10, wait=RTT),
        info(),
        **NO_TLP,
    ),
    lossy(
        "sack-and-window-update",
        EST,
        flight(10),
        sacks((1, 2), win=400),
        sacks((1, 3), win=300),
        sacks((1, 4), win=65535, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "dup-ack-with-data",
        RENO,
        flight(10),
        *(ack(b"x", ack=1, wait=0) for _ in range(4)),
        wait(10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "dup-ack-window-changes",
        RENO,
        flight(10),
        *(acks(0, win=60000 + n) for n in range(4)),
        wait(10),
        info(),
        **NO_TLP,
    ),
]

_RACK = [
    *(
        lossy(
            f"rack-recovery-{bits}",
            EST,
            flight(10),
            *(sacks((1, 2 + i)) for i in range(2)),
            sacks((1, 4), wait=60),
            info(),
            acks(10, wait=10),
            info(),
            tcp_recovery=bits,
            **NO_TLP,
        )
        for bits in (0, 1, 2, 4, 5, 7)
    ),
    *(
        lossy(
            f"rack-one-sack-{bits}",
            EST,
            flight(4),
            sacks((3, 4), wait=80),
            info(),
            acks(4, wait=10),
            info(),
            tcp_recovery=bits,
            **NO_TLP,
        )
        for bits in (0, 1)
    ),
    lossy(
        "rack-reordering-seen",
        EST,
        flight(6, 40),
        sacks((2, 3)),
        sacks((1, 3)),
        acks(3, wait=10),
        info(),
        flight(4),
        sacks((4, 7), una=3, wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "early-retransmit-2",
        EST,
        flight(2),
        sacks((1, 2), wait=80),
        info(),
        acks(2, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "early-retransmit-3",
        EST,
        flight(3),
        sacks((1, 3), wait=80),
        info(),
        acks(3, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "early-retransmit-reno",
        RENO,
        flight(3),
        acks(0),
        acks(0, wait=80),
        info(),
        acks(3, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "retransmission-lost",
        EST,
        flight(30),
        sacks((1, 5), wait=RTT),
        info(),
        sacks((1, 12), wait=RTT),
        info(),
        sacks((1, 14), wait=RTT),
        info(),
        acks(14, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reordering-2",
        EST,
        flight(10),
        sacks((2, 4)),
        acks(4, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reordering-6",
        EST,
        flight(10),
        sacks((8, 9)),
        sacks((1, 9), wait=0),
        acks(9, wait=10),
        info(),
        acks(10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reordering-limit",
        EST,
        flight(10),
        sacks((8, 9)),
        acks(9, wait=10),
        info(),
        tcp_max_reordering=4,
        **NO_TLP,
    ),
    lossy(
        "reordering-sysctl",
        EST,
        flight(10),
        *(sacks((1, 2 + n)) for n in range(5)),
        wait(10),
        info(),
        tcp_reordering=5,
        tcp_recovery=0,
        **NO_TLP,
    ),
    lossy(
        "reordering-reno",
        RENO,
        flight(10),
        *[acks(0)] * 2,
        acks(1),
        *[acks(1)] * 9,
        wait(10),
        info(),
        **NO_TLP,
    ),
]


# The RTO is 240 to 260 ms here: a step of RTO_MS ends after the first one and long before the second.
_TIMEOUTS = [
    lossy("rto", EST, flight(4, RTO_MS), info(), acks(4, wait=10), info(), **NO_TLP),
    lossy(
        "rto-partial",
        EST,
        flight(6, RTO_MS),
        acks(1, wait=RTT),
        info(),
        acks(3, wait=RTT),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "rto-reno",
        RENO,
        flight(6, RTO_MS),
        acks(1, wait=RTT),
        info(),
        acks(1, wait=10),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "rto-no-ts",
        NOTS,
        flight(6, RTO_MS),
        acks(1, wait=RTT),
        info(),
        acks(3, wait=RTT),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    *(
        lossy(
            f"frto-{how}",
            opened(**fields),
            flight(6, RTO_MS),
            info(),
            *steps,
            info(),
            acks(6, wait=10),
            info(),
            **{**NO_TLP, **more},
        )
        for how, fields, steps, more in (
            # the first ACK is of the original: nothing was lost (RFC 5682, 2.1 and 3.1)
            ("sack-of-original", {"ts": None, "mss": MSS}, [sacks((1, 2), wait=10)], {}),
            ("dup-ack", {"ts": None, "mss": MSS}, [acks(0, wait=10)], {}),
            ("ack-then-ack", {"ts": None, "mss": MSS}, [acks(1, wait=10), info(), acks(3, wait=10)], {}),
            ("ack-then-dup", {"ts": None, "mss": MSS}, [acks(1, wait=10), info(), acks(1, wait=10)], {}),
            ("off", {"ts": None, "mss": MSS}, [acks(1, wait=10), info(), acks(3, wait=10)], {"tcp_frto": 0}),
            (
                "reno",
                {"ts": None, "mss": MSS, "sackok": False},
                [acks(1, wait=10), info(), acks(3, wait=10)],
                {},
            ),
        )
    ),
    lossy(
        "frto-new-data",
        opened(ts=None, mss=MSS),
        flight(6, RTO_MS),
        send(b"y" * 400, wait=10),
        acks(1, wait=10),
        info(),
        acks(2, wait=10),
        info(),
        acks(8, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy("frto-all-acked", opened(ts=None, mss=MSS), flight(6, RTO_MS), acks(6, wait=10), info(), **NO_TLP),
    lossy("eifel-after-rto", EST, flight(6, RTO_MS), acks(6, ts_off=300, wait=10), info(), **NO_TLP),
    lossy(
        "eifel-after-rto-partial",
        EST,
        flight(6, RTO_MS),
        acks(2, ts_off=200, wait=10),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "eifel-in-recovery",
        EST,
        flight(10),
        sacks((1, 4), wait=RTT),
        info(),
        acks(4, ts_off=20, wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "eifel-in-recovery-reno",
        RENO,
        flight(10),
        *[acks(0)] * 3,
        wait(RTT),
        info(),
        acks(4, ts_off=20, wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "dsack-undo",
        EST,
        flight(10),
        sacks((1, 4), wait=RTT),
        info(),
        sacks((0, 1), una=4, wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "dsack-undo-after-recovery",
        EST,
        flight(10),
        sacks((1, 4), wait=RTT),
        acks(10, wait=10),
        info(),
        sacks((0, 1), una=10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "dsack-undo-after-rto",
        NOTS,
        flight(1, RTO_MS),
        acks(1, wait=10),
        info(),
        sacks((0, 1), una=1, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "dsack-undo-two-of-two",
        EST,
        flight(10),
        sacks((2, 6), wait=RTT),
        info(),
        sacks((0, 1), una=6, wait=10),
        info(),
        sacks((1, 2), una=6, wait=10),
        info(),
        acks(10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reneging",
        EST,
        flight(6),
        sacks((1, 3), una=0, wait=3),
        acks(1, wait=40),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reneging-dup-acks",
        EST,
        flight(6),
        sacks((1, 3), wait=3),
        *[acks(1, wait=18)] * 3,
        acks(1, wait=60),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reneging-taken-back",
        EST,
        flight(6),
        sacks((1, 3), una=0, wait=3),
        acks(1, wait=3),
        acks(3, wait=40),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "reneging-at-rto",
        EST,
        flight(6),
        sacks((2, 4), wait=RTO_MS),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "thin", EST, flight(2, 900), info(), acks(2, wait=10), info(), tcp_thin_linear_timeouts=1, **NO_TLP
    ),
    lossy(
        "rto-in-recovery",
        EST,
        flight(10),
        sacks((1, 4), wait=RTO_MS),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "sack-after-rto",
        EST,
        flight(10, RTO_MS),
        sacks((4, 6), una=1, wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
]

# A tail loss probe comes 80 to 100 ms after the flight (2 srtt), after one packet 280 (200 more for its delayed ACK).
_PROBES = [
    lossy("tlp", EST, flight(4, 130), info(), acks(4, wait=10), info()),
    lossy("tlp-one-packet", EST, flight(1, RTO_MS), info(), acks(1, wait=10), info()),
    lossy("tlp-new-data", EST, flight(12, 130), info(), acks(11, wait=10), info()),
    lossy("tlp-dsack", EST, flight(4, 130), sacks((3, 4), una=4, wait=10), info()),
    lossy("tlp-repaired", NOTS, flight(4, 130), sacks((3, 4), una=3), acks(4, wait=10), info()),
    lossy("tlp-repaired-no-dsack", EST, flight(4, 130), acks(4, wait=10), info(), acks(4, wait=10), info()),
    lossy("tlp-probe-sacked", EST, flight(4, 130), sacks((3, 4), wait=30), info(), acks(4, wait=10), info()),
    lossy("tlp-then-rto", EST, flight(4, 500), info(), acks(4, wait=10), info()),
    lossy("tlp-reno", RENO, flight(4, 130), info(), acks(4, wait=10), info()),
    lossy(
        "tlp-after-sack",
        EST,
        flight(6),
        sacks((5, 6), wait=130),
        info(),
        acks(6, wait=10),
        info(),
        tcp_recovery=1,
    ),
    lossy("tlp-once", EST, flight(4, 130), acks(2, wait=130), info(), acks(4, wait=10), info()),
    *(
        lossy(f"tlp-early-retrans-{n}", EST, flight(4, 130), info(), acks(4), info(), tcp_early_retrans=n)
        for n in (1, 2, 4)
    ),
    lossy(
        "tlp-window-closed",
        opened(win=800, wscale=0),
        flight(5, 130),
        info(),
        acks(4, win=800, wait=10),
        info(),
    ),
    lossy("tlp-fin", EST, send(b"x" * 400, wait=0), close(wait=130), acks(2, wait=10)),
]

_BLOCKS = [
    lossy(f"sack-{how}", EST, flight(6), *steps, info(), acks(6, wait=10), info(), **NO_TLP)
    for how, steps in (
        ("beyond-snd-nxt", [sacks((4, 9), wait=10)]),
        ("across-snd-nxt", [sacks((2, 7)), sacks((3, 4), wait=10)]),
        ("below-snd-una", [acks(3), sacks((1, 2), una=3, wait=10)]),
        ("across-snd-una", [acks(3), sacks((2, 4), una=3, wait=10)]),
        ("reversed", [sacks((4, 2), wait=10)]),
        ("empty", [sacks((2, 2), wait=10)]),
        ("at-snd-una", [sacks((0, 2), wait=10)]),
        ("overlapping", [sacks((2, 4), (3, 5), wait=10)]),
        ("same-twice", [sacks((2, 3), (2, 3), wait=10)]),
        ("same-again", [sacks((2, 3)), sacks((2, 3)), sacks((2, 3), wait=10)]),
        ("nested", [sacks((2, 5), (3, 4), wait=10)]),
        ("four", [sacks((1, 2), (3, 4), (5, 6), nots=True, wait=10)]),
        ("ascending", [sacks((1, 2), (3, 4), wait=10)]),
        ("half-segments", [ack(ack=1, sack=((301, 501),), wait=10)]),
        ("one-byte", [ack(ack=1, sack=((300, 301),), wait=10)]),
        ("dsack-below", [sacks((0, 1), una=2, wait=10)]),
        ("dsack-inside", [sacks((3, 4), (2, 5), wait=10)]),
        ("dsack-of-nothing-sent", [sacks((7, 8), una=2, wait=10)]),
        ("dsack-too-old", [ack(ack=at(2), sack=((-70000, -69800),), wait=10)]),
        ("dsack-and-blocks", [sacks((0, 1), (3, 4), (5, 6), una=2, wait=10)]),
        ("odd-length", [ack(ack=1, opts=b"\x01\x01\x05\x09" + bytes(8), wait=10)]),
        ("no-blocks", [ack(ack=1, opts=b"\x01\x01\x05\x02", wait=10)]),
        ("shrinks", [sacks((2, 5)), sacks((2, 3), wait=10)]),
        ("with-data", [ack(b"x", ack=1, sack=((201, 401),), wait=10)]),
        ("in-fin", [seg("FA", ack=1, sack=((201, 401),), wait=14)]),
    )
] + [
    lossy(
        "sack-unnegotiated",
        RENO,
        flight(6),
        *[sacks((1, 3))] * 3,
        wait(10),
        info(),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "sack-disabled",
        EST,
        flight(6),
        *[sacks((1, 3))] * 3,
        wait(10),
        info(),
        acks(6, wait=10),
        info(),
        tcp_sack=0,
        **NO_TLP,
    ),
]

_ECN = [
    lossy(
        "ecn-ece",
        ECN,
        flight(10),
        seg("AE", ack=at(2), wait=10),
        info(),
        seg("AE", ack=at(4), wait=10),
        info(),
        acks(10, wait=10),
        flight(2),
        info(),
        **NO_TLP,
    ),
    lossy(
        "ecn-ece-twice-a-window",
        ECN,
        flight(30),
        seg("AE", ack=at(2), wait=10),
        info(),
        seg("AE", ack=at(10), wait=10),
        info(),
        seg("AE", ack=at(14), wait=10),
        info(),
        acks(14, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "ecn-ece-with-sack",
        ECN,
        flight(10),
        seg("AE", ack=1, sack=((201, 801),), wait=10),
        info(),
        acks(10, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy(
        "ecn-ece-unnegotiated",
        EST,
        flight(10),
        seg("AE", ack=at(2), wait=10),
        info(),
        acks(10),
        info(),
        **NO_TLP,
    ),
    lossy("ecn-ece-no-data", ECN, seg("AE", wait=10), info(), flight(2), info(), **NO_TLP),
    lossy(
        "ecn-cwr-pure-ack",
        ECN,
        ack(b"x", tos=3),
        seg("AW"),
        info(),
        ack(b"y", tos=2),
        seg("PAW", b"z", tos=2),
        recv(),
        send(b"answer"),
        info(),
    ),
    lossy(
        "ecn-retransmission-not-ect",
        ECN,
        flight(4, RTO_MS),
        info(),
        acks(4, wait=10),
        send(b"y"),
        info(),
        **NO_TLP,
    ),
    lossy("ecn-ect1", ECN, ack(b"x", tos=1), ack(b"y", tos=3), ack(b"z", tos=1), recv(), info()),
]


def _grown(name: str, *steps: Any, **sysctl: int | str) -> Stimulus:
    """Enough is waiting to be sent for cwnd to be the limit."""
    return lossy(f"cwnd-{name}", EST, flight(60), *steps, info(), **{**NO_TLP, **sysctl})


_WINDOW = [
    _grown("slow-start-one-by-one", *(acks(n + 1, wait=2) for n in range(5))),
    _grown("slow-start-stretch", acks(10, wait=10), info(), acks(30, wait=10)),
    _grown("ack-of-bytes", *(ack(ack=1 + n, wait=2) for n in (1, 50, 100, 199))),
    _grown(
        "avoidance",
        sacks((1, 4), wait=RTT),
        acks(10, wait=RTT),
        info(),
        acks(15, wait=RTT),
        info(),
        acks(22, wait=RTT),
    ),
    _grown("avoidance-stretch", sacks((1, 4), wait=RTT), acks(10, wait=RTT), info(), acks(30, wait=RTT)),
    lossy(
        "cwnd-not-used",
        EST,
        flight(3),
        acks(3, wait=10),
        info(),
        flight(3),
        acks(6, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy("cwnd-half-used", EST, flight(6), acks(6, wait=10), info(), **NO_TLP),
    lossy(
        "cwnd-idle",
        EST,
        flight(20),
        acks(10, wait=RTT),
        acks(20, wait=600),
        info(),
        flight(12),
        info(),
        **NO_TLP,
    ),
    lossy(
        "cwnd-idle-kept",
        EST,
        flight(20),
        acks(10, wait=RTT),
        acks(20, wait=600),
        info(),
        flight(12),
        info(),
        tcp_slow_start_after_idle=0,
        **NO_TLP,
    ),
    lossy(
        "cwnd-short-pause",
        EST,
        flight(20),
        acks(10, wait=RTT),
        acks(20, wait=RTT),
        info(),
        flight(6),
        info(),
        **NO_TLP,
    ),
    lossy(
        "cwnd-full-fin",
        EST,
        flight(10, 4),
        shutdown(socket.SHUT_WR),
        wait(10),
        info(),
        acks(1, wait=10),
        info(),
        **NO_TLP,
    ),
    lossy("cwnd-clamp", EST, flight(30), *(acks(10 * n, wait=10) for n in (1, 2, 3)), info(), **NO_TLP),
]


def frag_needed(mtu: int, segment: int = 0) -> Step:
    """ICMP: the packet at full segment ``segment`` does not fit."""
    return icmp(3, 4, rest=mtu, seq=1 + segment * FULL_MSS)


FULL_MSS = 1448
ETHERNET = (listen(), syn(wait=RTT), ack(), accept())

_PATH_MTU = [
    lossy(
        f"pmtu-{how}",
        ETHERNET,
        send(b"x" * size, wait=RTT),
        *steps,
        info(),
        ack(ack=1 + size),
        info(),
        **NO_TLP,
    )
    for how, size, steps in (
        ("in-flight", 5792, [frag_needed(1000)]),
        ("in-flight-sack", 5792, [ack(ack=1, sack=((1449, 2897),), wait=0), frag_needed(1000)]),
        ("middle", 5792, [frag_needed(1000, 2)]),
        ("twice", 2896, [frag_needed(1200), frag_needed(800)]),
        ("after-rto", 2896, [wait(RTO_MS), frag_needed(1000)]),
        ("zero", 1448, [frag_needed(0)]),
    )
]

_IN_RECOVERY = [
    lossy(
        f"in-recovery-{how}",
        EST,
        flight(10),
        sacks((1, 4), wait=10),
        *steps,
        info(),
        acks(10),
        info(),
        **NO_TLP,
    )
    for how, steps in (
        ("fin", [shutdown(socket.SHUT_WR), wait(10)]),
        ("new-data", [send(b"y" * 400, wait=10)]),
        ("peers-data", [ack(b"a", ack=1, sack=((201, 1001),), wait=10), recv()]),
        ("old-time-stamp", [ack(ack=at(10), tsval=500, wait=10)]),
        ("keepalive", [ack(seq=0, ack=1, wait=10)]),
        ("smaller-window", [sacks((1, 5), win=8, wait=10)]),
        ("closed-window", [sacks((1, 5), win=0, wait=60)]),
    )
] + [
    lossy(
        "fin-sacked",
        EST,
        flight(3, 0),
        shutdown(socket.SHUT_WR),
        wait(RTT),
        ack(ack=1, sack=((201, 602),), wait=60),
        info(),
        ack(ack=602),
        info(),
        **NO_TLP,
    ),
    lossy(
        "fin-not-sacked",
        EST,
        flight(3, 0),
        shutdown(socket.SHUT_WR),
        wait(RTT),
        sacks((1, 3), wait=60),
        info(),
        acks(3),
        info(),
        ack(ack=602),
        **NO_TLP,
    ),
]

_ONCE_MORE = (
    close(wait=4), seg("FA"), syn(sport=40001, wait=RTT, mss=SYN_MSS), ack(sport=40001), accept(into="d"),
    info("reordering", "snd_ssthresh", "snd_cwnd", sock="d"),
)  # fmt: skip
_REORDERED = (EST, flight(10), sacks((8, 9)), acks(9, wait=10), acks(10, wait=10))

# What a connection leaves to the next with the same peer (tcp_metrics).
_METRICS = [
    lossy("metrics-reordering-slow-start", _REORDERED, _ONCE_MORE, **NO_TLP),
    lossy(
        "metrics-reordering-after-loss",
        _REORDERED,
        flight(4, RTO_MS),
        acks(14, wait=10),
        info(),
        _ONCE_MORE,
        **NO_TLP,
    ),
    lossy(
        "metrics-reordering-avoidance",
        _REORDERED,
        flight(10),
        sacks((11, 19), una=10, wait=RTT),
        acks(20, wait=10),
        _ONCE_MORE,
        **NO_TLP,
    ),
    lossy(
        "metrics-ssthresh",
        EST,
        flight(10),
        sacks((1, 4), wait=RTT),
        acks(10, wait=10),
        _ONCE_MORE,
        tcp_no_ssthresh_metrics_save=0,
        **NO_TLP,
    ),
]

STIMULI = [
    *_DUPLICATES, *_RACK, *_TIMEOUTS, *_PROBES, *_BLOCKS, *_ECN, *_WINDOW, *_PATH_MTU, *_IN_RECOVERY, *_METRICS
]  # fmt: skip
