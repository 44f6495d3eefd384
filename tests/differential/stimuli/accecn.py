# SPDX-License-Identifier: GPL-2.0-or-later
"""Accurate ECN (RFC 9768): negotiation both ways, the ACE field, the option.

``ace`` are the three header flags AE, CWR and ECE as a number.  Kernels whose tcp_ecn has no values above 2 refuse
those (and are then compared with the default); to them Accurate ECN comes by a SYN-ACK that answers a classic offer
with an accurate one, ``opened()``."""

from __future__ import annotations

from typing import Any

from tests.differential.script import (
    FULL,
    Step,
    Steps,
    Stimulus,
    accept,
    close,
    connect,
    ecn_info,
    listen,
    seg,
    send,
    shutdown,
    stimulus,
    wait,
)

MSS = 1448
NOT_ECT, ECT1, ECT0, CE = range(4)
L = listen()


def _ace(flags: str, data: bytes = b"", ace: int = 5, **fields: Any) -> Step:
    """A segment with that ACE field; 5 is the count of no CE at all."""
    bits = flags + "E" * (ace & 1) + "W" * (ace >> 1 & 1)
    return seg(bits, data, reserved=ace >> 2, **fields)


def _syn(ace: int = 7, **fields: Any) -> Step:
    return _ace("S", ace=ace, **{**FULL, **fields})


def _option(kind: int, *counters: int) -> bytes:
    raw = bytes((kind, 2 + 3 * len(counters)))
    raw += b"".join((n & 0xFFFFFF).to_bytes(3, "big") for n in counters)
    return raw + b"\1" * (-len(raw) % 4)


def _order0(*counters: int) -> bytes:
    """ECT(0), CE, ECT(1)."""
    return _option(172, *counters)


def _order1(*counters: int) -> bytes:
    """ECT(1), CE, ECT(0)."""
    return _option(174, *counters)


INITIAL = _order0(1, 0, 1)


def _connect() -> Step:
    return connect(40000, bind=80)


def _opened(ace: int = 2, then: bytes = b"", **fields: Any) -> tuple[Step, ...]:
    """The server connects with a classic offer, or an accurate one, and the SYN-ACK has ``ace``."""
    opts = {"opts": then} if then else {}
    return (_connect(), _ace("SA", ace=ace, **{**FULL, "ts": (1000, None), **opts, **fields}))


def _far(*args: Any, **fields: Any) -> tuple[Step, ...]:
    """_opened() with a round trip of 100 ms, so that a slow guest meets no timer."""
    syn, synack = _opened(*args, **fields)
    return (syn, wait(100), synack)


def _accepted(ace: int = 2, then: bytes = b"", syn_ace: int = 7, **fields: Any) -> tuple[Step, ...]:
    """The client connects with an accurate offer."""
    opts = {"opts": then} if then else {}
    return (L, _syn(syn_ace, **fields), _ace("A", ace=ace, **opts), accept())


def _data(count: int, tos: int, ms: float = 5.0, **fields: Any) -> list[Step]:
    return [_ace("PA", b"x", tos=tos, wait=ms, **fields) for _ in range(count)]


def _active(name: str, *steps: Steps, ecn: int = 1, **sysctl: int) -> Stimulus:
    """An active open: ``ecn`` 1 works on every kernel that knows Accurate ECN."""
    return stimulus(f"accecn-{name}", *steps, tcp_ecn=ecn, **sysctl)


def _sending(name: str, *steps: Steps) -> Stimulus:
    """An active open, with data that a slow console may take its time to hand to the guest."""
    return _active(name, *steps, tcp_slow_start_after_idle=0)


def _passive(name: str, *steps: Steps, ecn: int = 3, **sysctl: int) -> Stimulus:
    return stimulus(f"accecn-{name}", *steps, tcp_ecn=ecn, **sysctl)


_INFO = ecn_info()

NEGOTIATION = [
    *(
        _passive(f"syn-{ace}-tos-{tos}-ecn-{ecn}", L, _syn(ace, tos=tos), ecn=ecn)
        for ecn in (2, 3)
        for ace in range(8)
        for tos in range(4)
    ),
    *(_passive(f"syn-{ace}-ecn-{ecn}", L, _syn(ace), ecn=ecn) for ecn in (0, 1, 4, 5) for ace in (2, 3, 7)),
    *(
        _passive(f"third-{ace}", *_accepted(ace), _INFO, send(b"hello"), _ace("A"), _data(1, ECT1), _INFO)
        for ace in range(8)
    ),
    *(
        _passive(f"third-syn-tos-{tos}", *_accepted(tos=tos), _INFO, _data(1, ECT0), _INFO)
        for tos in range(4)
    ),
    _passive("third-none-with-option", *_accepted(0, INITIAL), _INFO, send(b"hello"), _ace("A"), _INFO),
    _passive(
        "third-data",
        L,
        _syn(),
        _ace("PA", b"abc", ace=2, tos=ECT0, opts=INITIAL),
        accept(),
        _INFO,
        send(b"x"),
    ),
    _passive("third-data-ce", L, _syn(), _ace("PA", b"abc", ace=2, tos=CE), accept(), _INFO, send(b"x")),
    _passive("third-data-ace-0", L, _syn(), _ace("PA", b"abc", ace=0, tos=CE), accept(), _INFO, send(b"x")),
    _passive("third-data-ace-6", L, _syn(), _ace("PA", b"abc", ace=6, tos=CE), accept(), _INFO, send(b"x")),
    _passive("third-ce", L, _syn(), _ace("A", ace=2, tos=CE), accept(), _INFO, send(b"x")),
    *(
        _passive(
            f"third-option-{name}",
            *_accepted(2, option),
            _INFO,
            send(b"z" * 1000),
            _ace("A", opts=_order0(1001, 0, 1)),
            _INFO,
        )
        for name, option in (
            ("empty", _order0()),
            ("000", _order0(0, 0, 0)),
            ("100", _order0(1, 0, 0)),
            ("001", _order0(0, 0, 1)),
            ("151", _order0(1, 5, 1)),
            ("one-zero", _order1(0)),
            ("two", _order0(1, 0)),
            ("kind-254", bytes((254, 5, 0xAC, 0xCE, 0, 1, 1, 1))),
        )
    ),
    _passive("syn-option", L, _syn(opts=INITIAL)),
    *(
        _passive(f"synack-{name}", L, _ace("S", ace=7, **options))
        for name, options in {
            "bare": {},
            "mss": {"mss": 1460},
            "sack": {"mss": 1460, "sackok": True},
            "wscale": {"mss": 1460, "wscale": 7},
            "sack-wscale": {"mss": 1460, "sackok": True, "wscale": 7},
            "ts": {"mss": 1460, "ts": (1000, 0)},
        }.items()
    ),
    *(
        _passive(
            f"option-setting-{n}", *_accepted(2, INITIAL), _data(1, ECT0), send(b"1"), _INFO, tcp_ecn_option=n
        )
        for n in (0, 1, 2)
    ),
    *(
        _passive(
            f"syn-again-{ace}",
            L,
            _syn(),
            wait(600),
            _syn(ace, seq=0),
            _ace("A", ace=2),
            accept(),
            _INFO,
            send(b"x"),
        )
        for ace in (0, 3, 7)
    ),
    _passive(
        "syn-again-ce",
        L,
        _syn(),
        wait(600),
        _syn(seq=0, tos=CE),
        _ace("A", ace=2),
        accept(),
        _INFO,
        send(b"x"),
    ),
    _passive(
        "syn-again-third-0",
        L,
        _syn(),
        wait(600),
        _syn(0, seq=0),
        _ace("A", ace=0),
        accept(),
        _INFO,
        send(b"x"),
    ),
    _passive(
        "syn-again-twice",
        L,
        _syn(),
        _syn(seq=0),
        wait(600),
        _syn(seq=0),
        _ace("A", ace=2),
        accept(),
        _INFO,
        send(b"x"),
    ),
    _passive(
        "syn-plain-first", L, _syn(0), wait(600), _syn(seq=0), _ace("A", ace=2), accept(), _INFO, send(b"x")
    ),
    _passive(
        "synack-timeout",
        L,
        _syn(tos=ECT0),
        wait(1500),
        _ace("A", ace=2, opts=INITIAL),
        accept(),
        _INFO,
        send(b"x"),
    ),
    _passive(
        "synack-timeouts",
        L,
        _syn(tos=ECT0),
        wait(4000),
        _ace("A", ace=2),
        accept(),
        _INFO,
        _data(1, ECT0),
        send(b"x"),
    ),
    _passive(
        "synack-timeout-syn",
        L,
        _syn(),
        wait(1500),
        _syn(seq=0),
        _ace("A", ace=2),
        accept(),
        _INFO,
        send(b"x"),
    ),
    *(
        _passive(
            f"cookie-third-{ace}",
            L,
            _syn(),
            _ace("A", ace=ace),
            accept(),
            _INFO,
            send(b"x"),
            tcp_syncookies=2,
        )
        for ace in range(8)
    ),
    _passive(
        "cookie-ce",
        L,
        _syn(tos=CE),
        _ace("A", ace=2, opts=INITIAL),
        accept(),
        _INFO,
        _data(1, CE),
        _INFO,
        tcp_syncookies=2,
    ),
    _passive(
        "cookie-bare", L, _ace("S", ace=7), _ace("A", ace=2), accept(), _INFO, send(b"x"), tcp_syncookies=2
    ),
    _passive(
        "cookie-classic-third-2", L, _syn(3), _ace("A", ace=2), accept(), _INFO, send(b"x"), tcp_syncookies=2
    ),
    _passive(
        "cookie-classic-ecn-2",
        L,
        _syn(3),
        _ace("A", ace=2),
        accept(),
        _INFO,
        send(b"x"),
        ecn=2,
        tcp_syncookies=2,
    ),
    _passive("cookie-plain", L, _syn(0), _ace("A", ace=2), accept(), _INFO, send(b"x"), tcp_syncookies=2),
]

ACTIVE = [
    *(
        _active(
            f"connect-{ecn}-synack-{ace}", *_opened(ace), _INFO, send(b"x"), _data(2, ECT0), _INFO, ecn=ecn
        )
        for ecn in (0, 1, 2, 3, 4)
        for ace in range(8)
    ),
    *(_active(f"connect-tries-{ecn}", _connect(), wait(8400), ecn=ecn) for ecn in (1, 3, 4, 5)),
    _active("connect-tries-no-fallback", _connect(), wait(8400), ecn=3, tcp_ecn_fallback=0),
    *(
        _active(f"connect-synack-tos-{tos}", *_opened(tos=tos), _INFO, send(b"x"), _data(1, ECT0), _INFO)
        for tos in (1, 2, 3)
    ),
    *(
        _active(f"connect-option-{name}", *_opened(2, option), _INFO, send(b"x"), _data(2, ECT0), _INFO)
        for name, option in (
            ("0", INITIAL),
            ("1", _order1(1, 0, 1)),
            ("zero", _order0(0, 0, 0)),
            ("empty", _order0()),
        )
    ),
    _active(
        "connect-option-sparing",
        *_opened(2, INITIAL),
        _INFO,
        send(b"x"),
        _data(4, ECT0),
        tcp_ecn_option=1,
        tcp_ecn_option_beacon=0,
    ),
    _active(
        "connect-synack-again",
        *_opened(2, INITIAL),
        _ace("SA", ace=2, seq=0, **{**FULL, "ts": (1000, None)}),
        send(b"x"),
        _INFO,
    ),
    _active(
        "connect-synack-again-ce",
        *_opened(2),
        wait(600),
        _ace("SA", ace=2, seq=0, tos=CE, **{**FULL, "ts": (1000, None)}),
        send(b"x"),
        _INFO,
    ),
    _active("connect-late-2", _connect(), wait(3300), *_opened(2)[1:], _INFO, send(b"x"), ecn=3),
    _active("connect-late-0", _connect(), wait(3300), *_opened(0)[1:], _INFO, send(b"x"), ecn=3),
    _active("cross", _connect(), _syn(), _ace("A", ace=2), _INFO, send(b"x"), ecn=3),
    _active("cross-plain", _connect(), _syn(0), _ace("A", ace=2), _INFO, send(b"x"), ecn=3),
    _active("cross-classic", _connect(), _syn(3), _ace("A", ace=1), _INFO, send(b"x"), ecn=3),
    *(
        _active(f"cross-third-{ace}", _connect(), _syn(), _ace("A", ace=ace), _INFO, send(b"x"), ecn=3)
        for ace in (0, 3, 6)
    ),
    _active("cross-ce", _connect(), _syn(tos=CE), _ace("A", ace=2), _INFO, send(b"x"), ecn=3),
    _active("cross-1", _connect(), _syn(), _ace("A", ace=2), _INFO, send(b"x"), ecn=1),
]


def _burst(n: int = 10) -> Step:
    return send(b"x" * n * MSS)


def _acked(segments: int, ace: int, **fields: Any) -> Step:
    return _ace("A", ace=ace, ack=1 + segments * MSS, **fields)


# The option in what the server sends makes its segments shorter.
SHORT = MSS - 12

COUNTING = [
    *(_active(f"receive-tos-{tos}", *_opened(), _data(3, tos), _INFO) for tos in range(4)),
    *(
        _active(f"receive-option-tos-{tos}", *_opened(2, INITIAL), _data(3, tos), _INFO, send(b"abc"))
        for tos in range(4)
    ),
    *(_active(f"receive-classic-tos-{tos}", *_opened(1), _data(2, tos), _INFO) for tos in range(4)),
    *(_active(f"receive-plain-tos-{tos}", *_opened(0), _data(2, tos), _INFO) for tos in range(4)),
    _active("receive-wrap", *_opened(2, INITIAL), _data(12, CE), _INFO),
    _active(
        "receive-pure-acks",
        *_opened(2, INITIAL),
        _data(2, ECT0),
        [_ace("A", tos=CE) for _ in range(9)],
        _INFO,
        send(b"x"),
    ),
    _active(
        "receive-pure-acks-ts",
        *_opened(2, INITIAL),
        _data(2, ECT0),
        [_ace("A", tos=CE, tsval=1001 + n) for n in range(9)],
        _INFO,
        send(b"x"),
    ),
    _active(
        "receive-ts-data",
        *_opened(2, INITIAL),
        _data(22, ECT0, 50),
        [_ace("PA", b"x", tos=CE, tsval=1001 + n, wait=0.5) for n in range(9)],
        wait(100),
        _INFO,
    ),
    _active(
        "receive-change",
        *_opened(2, INITIAL),
        _data(22, ECT0, 50),
        [_data(1, tos, 60) for tos in (2, 1, 1, 3, 3, 3, 2, 2, 0, 0, 2)],
        _INFO,
    ),
    _active(
        "receive-change-acks",
        *_opened(2, INITIAL),
        _data(22, ECT0, 50),
        _ace("A", tos=CE),
        _data(1, CE, 60),
        _data(1, CE, 60),
        _INFO,
    ),
    _active(
        "receive-sparing",
        *_opened(2, INITIAL),
        [_data(n, tos, 10) for n, tos in ((6, 2), (4, 1), (4, 2), (5, 3), (4, 0), (3, 2))],
        _INFO,
        tcp_ecn_option=1,
        tcp_ecn_option_beacon=0,
    ),
    _active(
        "receive-sparing-send",
        *_opened(2, INITIAL),
        [send(b"1"), _ace("A"), send(b"2"), _ace("A"), send(b"3"), _ace("A")],
        _INFO,
        tcp_ecn_option=1,
        tcp_ecn_option_beacon=0,
    ),
    *(
        _active(
            f"receive-beacon-{n}",
            _connect(),
            wait(200),
            *_opened(2, INITIAL)[1:],
            _data(16, ECT0, 20),
            tcp_ecn_option=1,
            tcp_ecn_option_beacon=n,
        )
        for n in (0, 1, 2, 3)
    ),
    _active(
        "receive-beyond-window",
        *_opened(2, INITIAL),
        _ace("PA", b"x", seq=9_000_000, tos=CE),
        _data(1, ECT0),
        _ace("PA", b"x", seq=1, tos=CE),
        _INFO,
    ),
    _active("receive-fin", *_opened(2, INITIAL), _ace("FA", tos=CE), close(), _ace("A")),
    _active(
        "receive-after-shutdown",
        *_opened(2, INITIAL),
        shutdown(1),
        _ace("A"),
        _data(2, CE),
        _ace("FA", tos=CE),
        _INFO,
    ),
    _active(
        "receive-before-fin-acked",
        *_opened(2, INITIAL),
        shutdown(1),
        _data(2, CE, ack=1),
        _INFO,
        _ace("A"),
        _ace("FA", tos=CE),
    ),
    _active(
        "time-wait",
        *_opened(2, INITIAL),
        shutdown(1),
        _ace("A"),
        _ace("FA"),
        close(),
        _ace("FA", seq=1, tos=CE),
    ),
    _active("reset", *_opened(2, INITIAL), _data(2, ECT0), close()),
    *(
        _active(f"syn-on-connection-{ace}", *_opened(2, INITIAL, tos=ECT0), _syn(ace, seq=0), _INFO)
        for ace in (0, 3, 7)
    ),
    _active(
        "receive-sack",
        *_opened(2, INITIAL),
        [_ace("PA", b"yy", seq=11 + 10 * n, tos=ECT0) for n in range(5)],
        _INFO,
    ),
    _active(
        "receive-sack-no-ts",
        *_opened(2, INITIAL, ts=None),
        [_ace("PA", b"yy", seq=11 + 10 * n, tos=ECT0) for n in range(6)],
        _INFO,
    ),
    _active(
        "receive-sack-not-ect",
        *_opened(2, INITIAL, ts=None),
        [_ace("PA", b"yy", seq=11 + 10 * n) for n in range(6)],
        _INFO,
    ),
    _active(
        "receive-sack-ce",
        *_opened(2, INITIAL),
        _data(1, ECT0),
        [_ace("PA", b"yy", seq=11 + 10 * n, tos=CE) for n in range(5)],
        _INFO,
    ),
    _active(
        "receive-sack-ect1",
        *_opened(2, INITIAL),
        _data(1, ECT1),
        [_ace("PA", b"yy", seq=11 + 10 * n, tos=ECT1) for n in range(5)],
        _INFO,
    ),
    _active(
        "receive-sack-ect1-no-ts",
        *_opened(2, INITIAL, ts=None),
        _data(1, ECT1),
        [_ace("PA", b"yy", seq=11 + 10 * n, tos=ECT1) for n in range(6)],
        _INFO,
    ),
    _active(
        "receive-dsack",
        *_opened(2, INITIAL),
        _data(2, ECT0),
        [_ace("PA", b"yy", seq=11 + 10 * n, tos=ECT0) for n in range(2)],
        _ace("PA", b"xx", seq=1, tos=ECT0),
        _INFO,
    ),
    *(
        _active(
            f"repeated-{n}",
            *_opened(2, INITIAL),
            _data(1, ECT0),
            [_ace("PA", b"x", seq=1, tos=ECT0, wait=30) for _ in range(6)],
            _data(2, ECT0),
            _INFO,
            tcp_ecn_option=n,
        )
        for n in (1, 2)
    ),
    _active(
        "repeated-other",
        *_opened(2, INITIAL),
        _data(3, ECT0),
        [_ace("PA", b"x", seq=1 + n, tos=ECT0, wait=30) for n in range(3)],
        _data(2, ECT0),
        _INFO,
    ),
    _active(
        "repeated-between",
        *_opened(2, INITIAL),
        _data(2, ECT0),
        _ace("PA", b"x", seq=1, tos=ECT0),
        _data(1, ECT0),
        _ace("PA", b"x", seq=1, tos=ECT0),
        _data(2, ECT0),
        _INFO,
    ),
    _passive(
        "repeated-persist",
        *_accepted(2, INITIAL),
        _data(1, ECT0),
        [_ace("PA", b"x", seq=1, tos=ECT0, wait=30) for _ in range(3)],
        _data(2, ECT0),
        _INFO,
        tcp_ecn_option=3,
    ),
    # The ACE field of ACKs
    *(
        _sending(f"sender-{delta}-of-10", *_far(), _burst(), _acked(10, 5 + delta & 7), _INFO)
        for delta in range(8)
    ),
    *(
        _sending(
            f"sender-{delta}-of-2",
            *_far(),
            _burst(),
            _acked(2, 5 + delta & 7),
            _INFO,
            _acked(4, 6 + delta & 7),
            _INFO,
            _acked(10, 6 + delta & 7),
            _INFO,
        )
        for delta in (0, 1, 2, 7)
    ),
    _sending("sender-fresh", *_far(), _burst(), _acked(0, 6), _INFO, _acked(0, 6, tsval=1001), _INFO),
    _sending(
        "sender-idle",
        *_far(),
        _ace("A", ace=6),
        _INFO,
        _ace("A", ace=6, tsval=1001),
        _INFO,
        _ace("PA", b"x", ace=7, tsval=1002),
        _INFO,
    ),
    _sending(
        "sender-no-ts",
        *_far(ts=None),
        send(b"x" * 14600),
        _ace("A", ack=2921, ace=6),
        _INFO,
        _ace("A", ack=2921, ace=7),
        _INFO,
        _ace("A", ack=14601, ace=2),
        _INFO,
    ),
    *(
        _sending(
            f"sender-average-{n}",
            *_far(),
            _burst(n),
            _acked(n, 5),
            send(b"x" * 9 * MSS),
            _acked(n + 9, 6),
            _INFO,
        )
        for n in (1, 3, 4, 5)
    ),
    _sending(
        "sender-one-then-nine",
        *_far(),
        _burst(),
        _acked(1, 5),
        _acked(10, 6),
        _INFO,
    ),
    _sending(
        "sender-many",
        *_far(),
        _burst(),
        _acked(1, 5),
        _acked(10, 5),
        _INFO,
        send(b"x" * 20 * MSS),
        _acked(28, 7),
        _INFO,
    ),
    _active(
        "sender-sack",
        *_far(),
        _burst(),
        _acked(0, 6, sack=[(1 + MSS, 1 + 2 * MSS)]),
        _INFO,
        _acked(0, 7, sack=[(1 + MSS, 1 + 3 * MSS)]),
        _INFO,
        _acked(10, 7),
        _INFO,
        tcp_recovery=0,
        tcp_slow_start_after_idle=0,
    ),
    _sending("sender-dup-acks", *_far(sackok=False), _burst(), [_acked(1, 6) for _ in range(5)], _INFO),
    _sending(
        "sender-reduces-once",
        *_far(),
        _burst(),
        [(_acked(n + 1, 6 + n & 7), _INFO) for n in range(10)],
        send(b"x" * 5 * MSS),
        _acked(12, 7),
        _INFO,
        _acked(14, 0),
        _INFO,
    ),
    _sending("sender-failed", *_far(), _burst(), _acked(2, 0), _INFO, _acked(4, 0), _INFO),
    _passive(
        "sender-third-none",
        *_accepted(0),
        _burst(2),
        _acked(2, 6, opts=_order0(1 + 2 * MSS, 0, 1)),
        _INFO,
        _acked(2, 7, tsval=1001),
        _INFO,
    ),
    _passive(
        "sender-third-bad", *_accepted(3), _burst(2), _acked(2, 6), _INFO, _acked(2, 7, tsval=1001), _INFO
    ),
    # The option in ACKs
    *(
        _active(
            f"delivered-{name}",
            *_opened(2, INITIAL),
            [(send(b"z" * 1000), _ace("A", **fields), _INFO) for fields in acks],
        )
        for name, acks in {
            "order-0": [
                {"opts": _order0(1001, 0, 1)},
                {"ace": 6, "opts": _order0(1001, 1000, 1)},
                {"ace": 6, "opts": _order0(1001, 1000, 1001)},
            ],
            "order-1": [
                {"opts": _order1(1, 0, 1001)},
                {"ace": 6, "opts": _order1(1, 1000, 1001)},
                {"ace": 6, "opts": _order1(1001, 1000, 1001)},
            ],
            "short-0": [
                {"opts": _order0(1001)},
                {"ace": 6, "opts": _order0(1001, 1000)},
                {"ace": 6, "opts": _order0()},
                {"ace": 6},
            ],
            "short-1": [
                {"opts": _order1(1001)},
                {"ace": 6, "opts": _order1(1001, 1000)},
                {"ace": 6, "opts": _order1()},
                {"ace": 6},
            ],
            "none": [{}, {"ace": 6}, {"ace": 6}],
            "then-none": [{"opts": _order0(1, 0, 1001)}, {}, {"ace": 6}],
            "back": [
                {"opts": _order0(1001, 0, 1)},
                {"opts": _order0(900, 0, 1)},
                {},
                {"opts": _order0(4001, 0, 1)},
                {},
            ],
            "two-grow": [{"opts": _order0(501, 0, 501)}, {}, {"opts": _order0(2501, 0, 501)}, {}],
            "too-much": [{"opts": _order0(5001, 0, 1)}, {}],
            "too-little": [{"opts": _order0(1, 0, 1)}, {"opts": _order0(1, 0, 1)}, {}],
            "ce-without-ace": [{"opts": _order0(1, 1000, 1)}, {"opts": _order0(1001, 1000, 1)}],
            "length-3": [{"opts": bytes((172, 3, 0, 1))}, {}],
            "length-12": [{"opts": bytes((172, 12)) + bytes(10)}, {}],
            "length-14": [{"opts": bytes((172, 14, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1))}, {}],
            "twice": [{"opts": _order0(1001, 0, 1) + _order1(1, 0, 501)}, {}],
        }.items()
    ),
    *(
        _active(
            f"delivered-late-{name}",
            *_opened(),
            [(send(b"z" * 1000), _ace("A", opts=option), _INFO) for option in options],
            _data(1, ECT0),
        )
        for name, options in {
            "good": [_order0(1001, 0, 1), _order0(2001, 0, 1)],
            "zero": [_order0(0, 0, 0), _order0(2001, 0, 1)],
            "empty": [_order0(), _order0(2001, 0, 1)],
        }.items()
    ),
    *(
        _sending(
            f"wrapped-{name}",
            *_far(2, INITIAL),
            send(b"x" * 10 * SHORT),
            _ace("A", ack=1 + SHORT, opts=_order0(1 + SHORT, 0, 1)),
            _ace("A", ack=1 + 10 * SHORT, opts=_order0(1 + 10 * SHORT, 0, 1)),
            send(b"x" * 20 * SHORT),
            _ace(
                "A",
                ack=1 + (10 + segments) * SHORT,
                ace=5 + delta & 7,
                opts=_order0(1 + (10 + segments) * SHORT - ce, ce, 1),
            ),
            _INFO,
        )
        for name, segments, delta, ce in (
            ("9-0-none", 9, 0, 0),
            ("9-1-one", 9, 1, SHORT),
            ("9-1-more", 9, 1, SHORT + 1),
            ("9-1-half", 9, 1, 9 * SHORT // 2),
            ("9-1-little", 9, 1, SHORT // 2),
            ("9-1-all", 9, 1, 9 * SHORT),
            ("9-0-eight", 9, 0, 8 * SHORT),
            ("18-1-one", 18, 1, SHORT),
            ("18-1-nine", 18, 1, 9 * SHORT),
            ("18-1-seventeen", 18, 1, 17 * SHORT),
            ("18-2-all", 18, 2, 18 * SHORT),
            ("18-0-none", 18, 0, 0),
        )
    ),
]

# A listener that takes a SYN's data without a cookie (tcp_fastopen 0x602)
FAST_OPEN = [
    *(
        _passive(
            f"fast-open-tos-{tos}-third-{third}",
            L,
            _ace("S", b"data", ace=7, tos=tos, **FULL),
            accept(),
            _INFO,
            send(b"x"),
            _ace("A", ace=third, opts=INITIAL),
            _INFO,
            _data(1, ECT0),
            _INFO,
            tcp_fastopen=0x602,
        )
        for tos in (NOT_ECT, CE)
        for third in (0, 2, 3, 6)
    ),
]

STIMULI = [*NEGOTIATION, *ACTIVE, *COUNTING, *FAST_OPEN]
