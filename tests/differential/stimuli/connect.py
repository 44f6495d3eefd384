# SPDX-License-Identifier: GPL-2.0-or-later
"""The active open: the server connects to a port of the raw client's, which answers its SYN."""

from __future__ import annotations

import socket
import struct
from typing import Any

from tests.differential.script import (
    Step,
    Steps,
    Stimulus,
    Value,
    accept,
    ack,
    again,
    close,
    connect,
    connected,
    flat,
    getopt,
    handshake,
    icmp,
    listen,
    peer,
    poll,
    recv,
    seg,
    send,
    sendto,
    setopt,
    shutdown,
    stimulus,
    stream,
    syn,
    synack,
    wait,
)

TCP, SOL, IP = socket.IPPROTO_TCP, socket.SOL_SOCKET, socket.IPPROTO_IP
RESET = struct.pack("ii", 1, 0)  # SO_LINGER
IP_RECVERR = (IP, 11, 1)
NO_PMTU = (IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
FASTOPEN = 0x20000000  # MSG_FASTOPEN
_SO_ERROR = getopt(SOL, socket.SO_ERROR)
_END = (poll(), handshake(), _SO_ERROR, poll())  # what the application sees of it


def _syn(name: str, *options: tuple[int, int, int], **sysctl: Value) -> Stimulus:
    """The shape of the SYN, of what follows the SYN-ACK and of the first data."""
    steps = connected(*options), poll(), handshake(), send(b"hello"), peer("A"), peer("PA", b"world"), recv()
    return stimulus(f"conn-syn-{name}", *steps, **sysctl)


def _answer(name: str, *answers: Step, **sysctl: Value) -> Stimulus:
    """What comes back for a SYN, and what the application sees."""
    return stimulus(f"conn-{name}", connect(), poll(), *answers, *_END, **sysctl)


def _unreachable(kind: int, code: int, name: str, **fields: int) -> Stimulus:
    return stimulus(
        f"conn-icmp-{name}", connect(), icmp(kind, code, sport=80, port=0, **fields), poll(), again(), *_END
    )


_SHAPES = [
    _syn("full"),
    _syn("no-ts", tcp_timestamps=0),
    _syn("ts-2", tcp_timestamps=2),
    _syn("no-sack", tcp_sack=0),
    _syn("no-wscale", tcp_window_scaling=0),
    _syn("no-options", tcp_timestamps=0, tcp_sack=0, tcp_window_scaling=0),
    _syn("no-ts-no-sack", tcp_timestamps=0, tcp_sack=0),
    _syn("maxseg", (TCP, socket.TCP_MAXSEG, 600)),
    _syn("rcvbuf", (SOL, socket.SO_RCVBUF, 8192)),
    _syn("rcvbuf-large", (SOL, socket.SO_RCVBUF, 1 << 20)),
    _syn("window-clamp", (TCP, socket.TCP_WINDOW_CLAMP, 4000)),
    _syn("tos", (IP, socket.IP_TOS, 0x28)),
    _syn("ttl", (IP, socket.IP_TTL, 9)),
    _syn("no-pmtu", NO_PMTU),
    *(stimulus(f"conn-syn-ecn-{n}", connect(), synack(), *_END, tcp_ecn=n) for n in (0, 1, 2)),
    stimulus("conn-ecn-synack", connect(), peer("SAE", mss=1460), *_END, send(b"a"), peer("A"), tcp_ecn=1),
    stimulus("conn-ecn-synack-cwr", connect(), peer("SAEW", mss=1460), *_END, send(b"a"), tcp_ecn=1),
    stimulus("conn-ecn-synack-cwr-only", connect(), peer("SAW", mss=1460), *_END, send(b"a"), tcp_ecn=1),
    stimulus("conn-ecn-synack-not-asked", connect(), peer("SAE", mss=1460), *_END, send(b"a"), tcp_ecn=2),
    stimulus("conn-ecn-synack-ect", connect(), peer("SAE", mss=1460, tos=2), *_END, send(b"a"), tcp_ecn=1),
    stimulus("conn-ecn-synack-ce", connect(), peer("SAE", mss=1460, tos=3), *_END, send(b"a"), tcp_ecn=1),
    stimulus("conn-ecn-fallback", connect(), wait(1200), synack(), *_END, tcp_ecn=1),
    stimulus("conn-ecn-no-fallback", connect(), wait(1200), synack(), *_END, tcp_ecn=1, tcp_ecn_fallback=0),
]

_SYNACKS = [
    *(
        _answer(f"flags-{flags or 'none'}", peer(flags))
        for flags in ("", "A", "F", "FA", "P", "SF", "SR", "SFA")
    ),
    _answer("synack-psh", peer("SPA", mss=1460)),
    _answer("synack-rst", peer("SRA")),
    _answer("synack-bare", synack(bare=True), send(b"x" * 500), peer("A")),
    _answer("synack-mss-only", synack(bare=True, mss=1000), send(b"x" * 900), peer("A")),
    _answer("synack-mss-0", synack(mss=0), send(b"x" * 500), peer("A")),
    _answer("synack-mss-small", synack(mss=20), send(b"x" * 30), peer("A")),
    _answer("synack-mss-large", synack(mss=65535), send(b"x" * 1400), peer("A")),
    _answer("synack-no-ts", synack(ts=None)),
    _answer("synack-no-sack", synack(sackok=False), peer("PA", b"b", seq=2)),
    _answer("synack-no-wscale", synack(bare=True, mss=1460, ts=(1000, None), sackok=True)),
    _answer("synack-wscale-15", synack(wscale=15, win=2), peer("A", win=2), send(b"x" * 300), peer("A")),
    _answer("synack-wscale-0", synack(wscale=0)),
    _answer("synack-window-0", synack(win=0), send(b"hello"), peer("A", win=100)),
    _answer("synack-window-1", synack(win=1), send(b"hello"), peer("A", win=100)),
    _answer("synack-not-offered", synack(), tcp_timestamps=0, tcp_sack=0, tcp_window_scaling=0),
    _answer("synack-odd-options", synack(bare=True, opts=b"\xfd\x04\xaa\xbb\x02\x04\x02\x00")),
    _answer("synack-broken-options", synack(bare=True, opts=b"\x02\x00\x05\xb4")),
    _answer("synack-cookie-unasked", synack(bare=True, mss=1460, opts=b"\x22\x0a" + b"c" * 8 + b"\1\1")),
    _answer("synack-tsecr-zero", synack(ts=(1000, 0))),
    _answer("synack-tsecr-wrong", synack(ts_off=1000), synack()),
    _answer("synack-tsecr-ahead", synack(ts_off=-1000), synack()),
    _answer("synack-ack-0", synack(ack=0, wait=40), synack()),
    _answer("synack-ack-2", synack(ack=2, wait=40), synack()),
    _answer("synack-ack-below", synack(ack=-5, wait=40), synack()),
    _answer("ack-bad", peer("A", ack=2, wait=40)),
    _answer("ack-bad-twice", peer("A", ack=2, wait=40), peer("A", ack=2, wait=40)),
    _answer("synack-data", synack(data=b"early"), peer("PA", b"early", seq=1), recv()),
    _answer("synack-fin", peer("SFA", mss=1460), peer("FA", seq=1), recv()),
    _answer("synack-urg", peer("SUA", mss=1460, urg=1)),
    _answer("synack-twice", synack(), synack(seq=0)),
    _answer("synack-twice-other-isn", synack(), synack(seq=100)),
    _answer("synack-bad-checksum", synack(bad_checksum=True), synack()),
    _answer("synack-late", wait(1200), synack()),
    _answer("synack-late-no-ts", wait(1200), synack(bare=True, mss=1460)),
    _answer("synack-late-first-echo", wait(1200), synack(ts_off=1000)),
    _answer("synack-from-elsewhere", seg("SA", sport=81, port=0, ack=1), synack()),
]

_RESETS = [
    _answer("rst-ack", peer("RA", seq=0), again()),
    _answer("rst-ack-seq-any", peer("RA", seq=777)),
    _answer("rst-no-ack", peer("R", seq=0), synack()),
    _answer("rst-no-ack-seq-1", peer("R", seq=1)),
    _answer("rst-bad-ack", peer("RA", ack=0), wait(30), synack()),
    _answer("rst-bad-ack-above", peer("RA", ack=2), wait(30), synack()),
    _answer("rst-data", peer("RA", b"go away", seq=0)),
    _answer("refused-then-again", peer("RA", seq=0), _SO_ERROR, again(), synack(isn=5000, seq=0)),
    _answer("refused-bound", peer("RA", seq=0), recv(), send(b"x")),
    stimulus("conn-refused-again-tells", connect(), peer("RA", seq=0), again(), again(), again()),
    stimulus("conn-refused-recv-tells", connect(), peer("RA", seq=0), recv(), recv(), send(b"x"), poll()),
    stimulus("conn-refused-send-tells", connect(), peer("RA", seq=0), send(b"x"), send(b"x"), recv(), poll()),
    stimulus("conn-rst-after-synack", connected(), peer("R", seq=1), again(), *_END),
]

_CROSSED = [
    _answer("crossed-syn", peer("S", mss=1460), synack(seq=0), send(b"a"), recv()),
    _answer("crossed-syn-ack-only", peer("S", mss=1460), peer("A", ack=1), send(b"a"), recv()),
    _answer("crossed-syn-bare", peer("S"), peer("SA", seq=0), send(b"a" * 500), peer("A")),
    _answer("crossed-syn-full", peer("S", mss=1460, sackok=True, ts=(1000, None), wscale=7), synack(seq=0)),
    _answer("crossed-syn-ts-zero", peer("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7), synack(seq=0)),
    _answer("crossed-syn-data", peer("S", b"early", mss=1460), peer("PA", b"early", seq=1, ack=1), recv()),
    _answer("crossed-syn-fin", peer("SF", mss=1460), peer("FA", seq=1, ack=1), recv()),
    _answer("crossed-syn-ecn", peer("SEW", mss=1460), peer("SAE", seq=0), send(b"a"), tcp_ecn=1),
    _answer("crossed-syn-ecn-not-asked", peer("SEW", mss=1460), peer("SAE", seq=0), send(b"a")),
    _answer("crossed-syn-no-ecn", peer("S", mss=1460), peer("SA", seq=0), send(b"a"), tcp_ecn=1),
    _answer("crossed-syn-bad-ack", peer("S", mss=1460), peer("A", ack=5), peer("A", ack=1)),
    _answer("crossed-syn-rst", peer("S", mss=1460), peer("R", seq=1)),
    _answer("crossed-syn-rst-ack", peer("S", mss=1460), peer("RA", seq=1, ack=1)),
    _answer("crossed-syn-twice", peer("S", mss=1460), peer("S", seq=0, mss=1460), peer("A", ack=1)),
    _answer("crossed-syn-third-data", peer("S", mss=1460), peer("PA", b"data", ack=1), recv()),
    _answer("crossed-syn-third-fin", peer("S", mss=1460), peer("FA", ack=1), recv()),
    _answer("crossed-syn-lost-ack", peer("S", mss=1460), wait(1200), peer("SA", seq=0)),
    stimulus("conn-crossed-syn-close", connect(), peer("S", mss=1460), close(), peer("A", ack=1), wait(20)),
    stimulus(
        "conn-crossed-syn-shutdown", connect(), peer("S", mss=1460), shutdown(1), peer("A", ack=1), *_END
    ),
    stimulus("conn-crossed-syn-icmp", connect(), peer("S", mss=1460), icmp(3, 1, sport=80, port=0), *_END),
]

_ICMP = [
    *(
        _unreachable(3, code, f"unreachable-{code}")
        for code in (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
    ),
    _unreachable(3, 4, "frag-needed", rest=576),
    _unreachable(3, 4, "frag-needed-large", rest=2000),
    _unreachable(4, 0, "source-quench"),
    _unreachable(5, 1, "redirect"),
    _unreachable(11, 0, "ttl-exceeded"),
    _unreachable(11, 1, "reassembly-time"),
    _unreachable(12, 0, "parameter-problem"),
    _unreachable(3, 3, "bad-seq-above", seq=1000),
    _unreachable(3, 3, "bad-seq-below", seq=-1),
    _unreachable(3, 3, "seq-1", seq=1),
    stimulus(
        "conn-icmp-recverr",
        connect(80, IP_RECVERR),
        icmp(3, 1, sport=80, port=0),
        *_END,
    ),
    stimulus(
        "conn-icmp-frag-needed-then-synack",
        connect(),
        icmp(3, 4, rest=1000, sport=80, port=0),
        synack(),
        send(b"x" * 900),
        peer("A"),
        *_END,
    ),
    stimulus("conn-icmp-after-retransmit", connect(), wait(1200), icmp(3, 1, sport=80, port=0), *_END),
]

_ONCE: dict[str, Value] = {"tcp_syn_retries": 1, "tcp_syn_linear_timeouts": 0}

_TIMES = [
    stimulus("conn-timeout", connect(), wait(3700), *_END, **_ONCE),
    stimulus("conn-timeout-tells", connect(), wait(3700), again(), again(), **_ONCE),
    stimulus(
        "conn-timeout-syncnt",
        connect(80, (TCP, socket.TCP_SYNCNT, 1)),
        wait(3700),
        *_END,
        tcp_syn_linear_timeouts=0,
    ),
    stimulus(
        "conn-timeout-linear",
        connect(),
        wait(3700),
        *_END,
        wait(900),
        *_END,
        tcp_syn_retries=1,
        tcp_syn_linear_timeouts=2,
    ),
    stimulus("conn-user-timeout", connect(80, (TCP, socket.TCP_USER_TIMEOUT, 500)), wait(1200), *_END),
    stimulus("conn-resend-info", connect(), wait(1200), handshake(), poll(), wait(1000), handshake()),
    stimulus("conn-resend-then-refused", connect(), wait(1200), peer("RA", seq=0), *_END),
]

_CALLS = [
    stimulus("conn-again-while-connecting", connect(), again(), synack(), again(), again()),
    stimulus("conn-again-elsewhere", connect(), again(81), synack(), again(81)),
    stimulus("conn-bound", connect(80, bind=5000), synack(), *_END),
    stimulus("conn-bound-twice", connect(80, bind=5000), connect(80, bind=5000, sock="d"), synack()),
    stimulus(
        "conn-bound-reuse",
        connect(80, (SOL, socket.SO_REUSEADDR, 1), bind=5000),
        connect(81, (SOL, socket.SO_REUSEADDR, 1), bind=5000, sock="d"),
        synack(),
    ),
    stimulus(
        "conn-bound-reuse-same-peer",
        connect(80, (SOL, socket.SO_REUSEADDR, 1), bind=5000),
        connect(80, (SOL, socket.SO_REUSEADDR, 1), bind=5000, sock="d"),
    ),
    stimulus("conn-port-0", connect(0), *_END),
    stimulus("conn-no-route", connect(80, to="192.0.2.1"), *_END),
    stimulus("conn-broadcast", connect(80, to="10.0.2.255"), *_END),
    stimulus("conn-multicast", connect(80, to="224.0.0.1"), *_END),
    stimulus("conn-everywhere", connect(80, to="255.255.255.255"), *_END),
    stimulus("conn-loopback-refused", connect(80, to="127.0.0.1"), *_END, again()),
    stimulus("conn-zero-refused", connect(80, to="0.0.0.0"), *_END, again()),
    stimulus(
        "conn-own-listener",
        listen(),
        connect(80, to="10.0.2.2"),
        accept(into="d"),
        *_END,
        send(b"hello"),
        recv(sock="d"),
        close(),
        recv(sock="d"),
        wait(100),
    ),
    stimulus("conn-own-listener-loopback", listen(), connect(80, to="127.0.0.1"), *_END, close(), wait(100)),
    stimulus(
        "conn-itself",
        connect(5000, to="10.0.2.2", bind=5000),
        *_END,
        send(b"hello"),
        recv(),
        close(),
        wait(100),
    ),
    stimulus("conn-send-early", connect(), send(b"early"), recv(), synack(), send(b"data")),
    stimulus("conn-quickack-off", connect(80, (TCP, socket.TCP_QUICKACK, 0)), synack(), send(b"data")),
    stimulus("conn-quickack-off-silent", connect(80, (TCP, socket.TCP_QUICKACK, 0)), synack(), wait(260)),
    stimulus("conn-defer-accept", connect(80, (TCP, socket.TCP_DEFER_ACCEPT, 1)), synack(), send(b"data")),
    stimulus("conn-defer-accept-silent", connect(80, (TCP, socket.TCP_DEFER_ACCEPT, 1)), synack(), wait(260)),
    stimulus("conn-close-early", connect(), close(), synack(), wait(20)),
    stimulus("conn-close-early-crossed", connect(), close(), peer("S", mss=1460)),
    stimulus("conn-linger-early", connect(), setopt(SOL, socket.SO_LINGER, RESET), close(), synack()),
    *(
        stimulus(f"conn-shutdown-early-{how}", connect(), shutdown(how), *_END, synack(), again(), *_END)
        for how in (0, 1, 2)
    ),
    stimulus("conn-shutdown-before", connect(), peer("RA", seq=0), shutdown(1), *_END),
    stimulus("conn-keepalive", connect(80, (SOL, socket.SO_KEEPALIVE, 1)), synack(), *_END),
    stimulus(
        "conn-keepalive-early",
        connect(80, (SOL, socket.SO_KEEPALIVE, 1), (TCP, socket.TCP_KEEPIDLE, 1)),
        wait(1600),
        synack(),
        wait(1300),
        peer("A"),
        *_END,
    ),
    stimulus("conn-signed-windows", connected(), *_END, tcp_workaround_signed_windows=1),
    stimulus("conn-no-pmtu-disc", connected(), send(b"x"), peer("A"), *_END, ip_no_pmtu_disc=1),
    stimulus("conn-nodelay", connected((TCP, socket.TCP_NODELAY, 1)), send(b"a"), send(b"b"), peer("A")),
    stimulus("conn-fin-first", connected(), shutdown(1), peer("FA"), recv(), close(), wait(10)),
    stimulus(
        "conn-peer-speaks-first", connected(), peer("PA", b"220 hello"), recv(), send(b"HELO"), wait(60)
    ),
]

# -- Fast Open (RFC 7413) ----------------------------------------------------------------------------------------------

COOKIE = b"\x22\x0a" + b"chocchip" + b"\1\1"
FAST = (TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
NO_COOKIE = (TCP, 34, 1)  # TCP_FASTOPEN_NO_COOKIE
_BLACKHOLE: dict[str, Value] = {"tcp_fastopen_blackhole_timeout_sec": 3600}


def ask(data: bytes = b"request", port: int = 80, sock: str = "c", **more: int) -> tuple[Step, Step]:
    """A new socket that connects with data."""
    return stream(sock=sock), sendto(data, FASTOPEN, port, sock=sock, **more)


def _with_cookie(mss: int = 1460, port: int = 80, **fields: Any) -> tuple[Steps, ...]:
    """A first connection, which brings a cookie, and its end."""
    first = ask(b"first", port, sock="f"), synack(mss=mss, port=port, opts=COOKIE, **fields)
    return *first, setopt(SOL, socket.SO_LINGER, RESET, sock="f"), close(sock="f")


def _fast(name: str, *steps: Steps, **sysctl: Value) -> Stimulus:
    """What happens to the SYN with data of the second connection."""
    closed = any(
        s.kind == "call" and s.args["name"] == "close" and s.args["sock"] == "c" for s in flat(steps)
    )
    seen = () if closed else (poll(), handshake(), _SO_ERROR)
    return stimulus(f"conn-tfo-{name}", _with_cookie(), *steps, *seen, **sysctl)


_FAST_OPEN = [
    stimulus("conn-tfo-ask", ask(), synack(opts=COOKIE), send(b"data"), peer("A"), *_END),
    stimulus(
        "conn-tfo-ask-no-answer",
        ask(),
        synack(),
        send(b"data"),
        peer("A"),
        *_END,
        ask(sock="d"),
        synack(),
        ask(sock="e"),
        synack(),
        ask(sock="f"),
    ),
    stimulus(
        "conn-tfo-ask-exp-answer",
        ask(),
        synack(),
        ask(sock="d"),
        synack(bare=True, mss=1460, opts=b"\xfe\x0c\xf9\x89" + b"oatmeal!"),
        ask(sock="e"),
    ),
    stimulus("conn-tfo-ask-connect", connect(80, FAST), poll(), synack(opts=COOKIE), send(b"data"), *_END),
    stimulus("conn-tfo-ask-resent", ask(), wait(1200), synack(opts=COOKIE), *_END, ask(sock="d")),
    stimulus("conn-tfo-ask-short-cookie", ask(), synack(opts=b"\x22\x04ab"), ask(sock="d")),
    stimulus(
        "conn-tfo-ask-cookie-4", ask(), synack(bare=True, mss=1460, opts=b"\x22\x06abcd\1\1"), ask(sock="d")
    ),
    stimulus(
        "conn-tfo-ask-cookie-16",
        ask(),
        synack(bare=True, mss=1460, opts=b"\x22\x12" + b"c" * 16 + b"\1\1"),
        ask(sock="d"),
        synack(bare=True, mss=1460, ack=8),
        *_END,
    ),
    stimulus("conn-tfo-ask-unasked", connect(), synack(opts=COOKIE), ask(sock="d")),
    stimulus("conn-tfo-ask-full-options", ask(), synack(opts=COOKIE), ask(sock="d"), tcp_sack=0),
    stimulus("conn-tfo-disabled", ask(), poll(), stream(FAST, sock="d"), again(sock="d"), tcp_fastopen=0),
    stimulus("conn-tfo-send-no-address", stream(), send(b"request", FASTOPEN), poll()),
    stimulus(
        "conn-tfo-while-connecting",
        connect(),
        sendto(b"request", FASTOPEN),
        synack(),
        sendto(b"r", FASTOPEN),
        send(b"r", FASTOPEN),
        peer("A"),
    ),
    stimulus("conn-tfo-option-late", connect(), setopt(*FAST), synack(), setopt(*FAST), getopt(TCP, 30)),
    stimulus("conn-tfo-option-values", stream((TCP, 30, 2), (TCP, 30, -1), FAST), getopt(TCP, 30)),
    _fast("data", ask(), synack(), peer("PA", b"reply"), recv(), send(b"more"), peer("A")),
    _fast("data-cookie-again", ask(), synack(bare=True, mss=1460, opts=COOKIE), send(b"more"), peer("A")),
    _fast("data-not-taken", ask(), synack(ack=1), peer("A"), send(b"more"), peer("A")),
    _fast(
        "data-not-taken-cookie",
        ask(),
        synack(ack=1, opts=b"\x22\x0a" + b"newflour" + b"\1\1"),
        peer("A"),
        ask(sock="d"),
    ),
    _fast("data-partly-taken", ask(), synack(ack=4), peer("A"), send(b"more"), peer("A")),
    _fast("data-reply-in-synack", ask(), synack(data=b"reply"), recv()),
    _fast("data-not-taken-reply-in-synack", ask(), synack(data=b"reply", ack=1), recv()),
    _fast("data-fin-in-synack", ask(), peer("SFA", b"reply", mss=1460), recv(), recv()),
    _fast("data-empty", ask(b""), synack(), send(b"data"), peer("A")),
    _fast("data-large", ask(b"x" * 3000), synack(), send(b"more"), peer("A")),
    _fast(
        "data-small-mss",
        ask(b"x" * 1000, 81),
        synack(port=81, mss=536, opts=COOKIE),
        ask(b"x" * 1000, 81, sock="d"),
        synack(port=81, mss=536),
    ),
    _fast("data-maxseg", stream((TCP, socket.TCP_MAXSEG, 300)), sendto(b"x" * 600, FASTOPEN), synack()),
    _fast("data-ack-beyond", ask(), synack(ack=9, wait=40)),
    _fast("data-refused", ask(), peer("RA", seq=0, ack=1)),
    _fast("data-refused-all", ask(), peer("RA", seq=0)),
    _fast("data-icmp", ask(), icmp(3, 1, sport=80, port=0)),
    _fast("data-icmp-seq", ask(), icmp(3, 3, sport=80, port=0, seq=5)),
    _fast(
        "data-icmp-frag-needed", ask(b"x" * 1200), icmp(3, 4, rest=600, sport=80, port=0), synack(), peer("A")
    ),
    _fast("data-crossed-syn", ask(), peer("S", mss=1460), peer("A", ack=8), peer("A", ack=8)),
    _fast("data-crossed-syn-ack-1", ask(), peer("S", mss=1460), peer("A", ack=1), peer("A", ack=8)),
    _fast("data-ecn", ask(), peer("SAE", mss=1460), send(b"more"), peer("A"), tcp_ecn=1),
    _fast(
        "data-again", ask(), sendto(b"again", FASTOPEN), send(b"early"), synack(), send(b"late"), peer("A")
    ),
    _fast("data-close-early", ask(), close(), synack()),
    _fast("data-shutdown-early", ask(), shutdown(1), synack()),
    _fast("data-syn-lost", ask(), wait(1200), synack(ack=1), peer("A"), ask(sock="d")),
    _fast("data-syn-lost-all-acked", ask(), wait(1200), synack(), ask(sock="d")),
    _fast(
        "data-two-syns-lost",
        ask(),
        wait(3700),
        synack(ack=1),
        peer("A"),
        ask(sock="d"),
        **_ONCE | {"tcp_syn_retries": 3},
    ),
    _fast("data-timeout", ask(), wait(3700), ask(sock="d"), **_ONCE),
    _fast(
        "connect-data",
        connect(80, FAST),
        poll(),
        recv(),
        again(),
        send(b"request"),
        synack(),
        send(b"more"),
        peer("A"),
    ),
    _fast(
        "connect-data-cork",
        connect(80, FAST, (TCP, socket.TCP_CORK, 1)),
        send(b"request", socket.MSG_MORE),
        synack(),
    ),
    _fast("connect-sendto", connect(80, FAST), sendto(b"request", FASTOPEN), synack()),
    _fast("connect-close", connect(80, FAST), close()),
    stimulus(
        "conn-tfo-connect-shutdown",
        _with_cookie(),
        connect(80, FAST),
        shutdown(1),
        poll(),
        handshake(without="notsent_bytes"),  # counted from a random number, as no SYN was sent
        _SO_ERROR,
    ),
    _fast("connect-fin-early", connect(80, FAST), send(b"request"), synack(), shutdown(1), peer("A")),
    _fast("connect-not-taken", connect(80, FAST), send(b"request"), synack(ack=1), peer("A")),
    _fast(
        "connect-refused",
        connect(80, FAST),
        send(b"request"),
        peer("RA", seq=0),
        send(b"x"),
        again(),
        again(),
    ),
    stimulus("conn-tfo-no-cookie-option", stream(NO_COOKIE), sendto(b"request", FASTOPEN), synack(), *_END),
    stimulus("conn-tfo-no-cookie-sysctl", ask(), synack(), *_END, tcp_fastopen=5),
    stimulus(
        "conn-tfo-no-cookie-connect", connect(80, FAST, NO_COOKIE), send(b"request"), synack(ack=1), *_END
    ),
    _fast("blackhole-off", ask(), wait(3700), ask(sock="d"), **_ONCE),
    _fast("blackhole-timeout", ask(), wait(3700), ask(sock="d"), synack(), **_ONCE, **_BLACKHOLE),
    _fast(
        "blackhole-rst",
        ask(),
        synack(),
        peer("R", seq=5),
        ask(sock="d"),
        synack(ack=1),
        connect(80, FAST, sock="e"),
        **_BLACKHOLE,
    ),
    _fast(
        "blackhole-rst-after-data",
        ask(),
        synack(),
        peer("PA", b"reply"),
        peer("R", seq=20),
        ask(sock="d"),
        **_BLACKHOLE,
    ),
    _fast(
        "blackhole-fin-ofo",
        ask(),
        synack(),
        peer("FA", seq=100),
        setopt(SOL, socket.SO_LINGER, RESET),
        close(),
        ask(sock="d"),
        **_BLACKHOLE,
    ),
    _fast(
        "blackhole-data-ofo",
        ask(),
        synack(),
        peer("PA", b"reply", seq=100),
        setopt(SOL, socket.SO_LINGER, RESET),
        close(),
        ask(sock="d"),
        **_BLACKHOLE,
    ),
]

# -- what the next connection knows of this one ------------------------------------------------------------------------


def _slow(sock: str = "a", ms: float = 300) -> tuple[Steps, ...]:
    """A connection whose SYN-ACK takes that long, and its end."""
    return connect(sock=sock), wait(ms), synack(), *_end(sock)


def _end(sock: str) -> tuple[Step, ...]:
    """The server closes first."""
    return shutdown(1, sock), peer("FA"), close(sock), wait(10)


_RESENT = (connect(sock="a"), synack(), send(b"x" * 300, sock="a"), wait(300), peer("A"))
_SWAPPED = (
    connect(sock="a"),
    synack(),
    send(b"x" * 8688, sock="a"),
    peer("A", ack=1, sack=((7241, 8689),), wait=0),
    peer("A", ack=8689),
)
_MSS = 1448
# An RTO at cwnd 20 makes ssthresh 10; then cwnd 4, and four segments of which the last comes first.
_SWAPPED_IN_SLOW_START = (
    connect(sock="a"),
    synack(),
    *(send(b"x" * _MSS * 10, sock="a"), peer("A")),
    send(b"x" * 300, sock="a"),
    wait(260),
    peer("A"),
    *(send(b"x" * _MSS * 2, sock="a"), peer("A")),
    send(b"x" * _MSS * 4, sock="a"),
    peer("A", ack=301 + _MSS * 12, sack=((301 + _MSS * 15, 301 + _MSS * 16),), wait=0),
    peer("A"),
)
_SAVED: dict[str, Value] = {"tcp_no_ssthresh_metrics_save": 0}


def _metrics(name: str, *steps: Steps, **sysctl: Value) -> Stimulus:
    return stimulus(f"conn-metrics-{name}", *steps, connect(), synack(), handshake(), **sysctl)


_METRICS = [
    _metrics("rtt", _slow()),
    _metrics("rtt-not-saved", _slow(), tcp_no_metrics_save=1),
    _metrics("rtt-of-other-peer-port", _slow(), connect(81, sock="b"), synack(port=81), handshake("b")),
    _metrics("rtt-reset", connect(sock="a"), wait(300), synack(), peer("R", seq=1), close("a")),
    _metrics(
        "rtt-peer-closes-first", connect(sock="a"), wait(300), synack(), peer("FA"), close("a"), peer("A")
    ),
    stimulus(
        "conn-metrics-rtt-shorter",
        _slow(),
        _slow("b", 4),
        _slow("d", 4),
        _slow("e", 4),
        connect(),
        synack(),
        send(b"x"),
        wait(800),
        tcp_early_retrans=0,
    ),
    _metrics("ssthresh", _RESENT, _end("a"), **_SAVED),
    _metrics("ssthresh-not-saved", _RESENT, _end("a")),
    _metrics("reordering", _SWAPPED, handshake("a"), _end("a")),
    _metrics(
        "reordering-in-slow-start", _SWAPPED_IN_SLOW_START, handshake("a"), _end("a"), tcp_early_retrans=0
    ),
    _metrics(
        "reordering-not-saved",
        _SWAPPED_IN_SLOW_START,
        _end("a"),
        tcp_early_retrans=0,
        tcp_no_metrics_save=1,
    ),
]

_CHILD = [
    stimulus(
        "conn-tfo-child-info",
        listen(16, 80, (TCP, socket.TCP_FASTOPEN, 5)),
        syn(data=b"hello"),
        accept(),
        handshake(),
        ack(),
        handshake(),
        tcp_fastopen=0x602,
    ),
]

# -- ports -----------------------------------------------------------------------------------------------------------

_TWO: dict[str, Value] = {"ip_local_port_range": (40000, 40001)}
_REUSE = (SOL, socket.SO_REUSEADDR, 1)


def _time_wait(bind: int = 0, sock: str = "a", **fields: Any) -> tuple[Steps, ...]:
    """A connection to port 80 of which a TIME_WAIT socket remains."""
    return connect(80, _REUSE, bind=bind, sock=sock), synack(**fields), *_end(sock)


_PORTS = [
    stimulus("conn-ports-all-taken", *(connect(sock=s) for s in "abd"), connect(81, sock="e"), **_TWO),
    stimulus(
        "conn-ports-free-again", connect(sock="a"), connect(sock="b"), close("a"), connect(sock="d"), **_TWO
    ),
    stimulus("conn-ports-reserved", connect(), connect(sock="d"), **_TWO, ip_local_reserved_ports=(40000,)),
    stimulus("conn-ports-bound", connect(81, bind=40000, sock="a"), connect(), connect(sock="d"), **_TWO),
    stimulus("conn-ports-of-a-listener", listen(16, 40000), connect(), connect(sock="d"), **_TWO),
    stimulus("conn-ports-time-wait", _time_wait(), _time_wait(sock="b"), connect(), **_TWO),
    stimulus(
        "conn-ports-time-wait-reuse",
        _time_wait(),
        _time_wait(sock="b"),
        wait(1100),
        connect(),
        connect(sock="d"),
        tcp_tw_reuse=1,
        **_TWO,
    ),
    stimulus(
        "conn-ports-time-wait-reuse-at-once",
        _time_wait(),
        _time_wait(sock="b"),
        connect(),
        tcp_tw_reuse=1,
        **_TWO,
    ),
    stimulus(
        "conn-ports-time-wait-bound",
        _time_wait(5000),
        connect(80, _REUSE, bind=5000),
        synack(isn=900000, seq=0),
        send(b"x"),
        peer("A"),
    ),
    stimulus("conn-ports-time-wait-bound-no-ts", _time_wait(5000, ts=None), connect(80, _REUSE, bind=5000)),
    stimulus(
        "conn-ports-time-wait-bound-old-ts",
        _time_wait(5000),
        connect(80, _REUSE, bind=5000),
        peer("S", ts=(10, None)),
        peer("S", ts=(5000, None), mss=1460),
    ),
]

STIMULI = (
    _SHAPES
    + _SYNACKS
    + _RESETS
    + _CROSSED
    + _ICMP
    + _TIMES
    + _CALLS
    + _FAST_OPEN
    + _METRICS
    + _CHILD
    + _PORTS
)
