# SPDX-License-Identifier: GPL-2.0-or-later
"""Window games: closed, shrinking and odd windows of the peer, Nagle and corks; our own as it is read and set."""

from __future__ import annotations

import socket
from typing import Any

from tests.differential.script import (
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
    wait,
)

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_MORE = 1, 2, 0x20, 0x8000
NODELAY = setopt(TCP, socket.TCP_NODELAY, 1)
CORK, UNCORK = setopt(TCP, socket.TCP_CORK, 1), setopt(TCP, socket.TCP_CORK, 0)
WINDOW_CLAMP = 10
MSS = 200  # small: the guest's calls come over its console
PROBE_MS = 300.0  # one RTO of 204 ms, but not the second
COUNTS = info(
    "probes", "backoff", "retransmits", "unacked", "notsent_bytes", "snd_wnd", "bytes_sent", "bytes_retrans",
    "busy_time", "rwnd_limited", "sndbuf_limited",
)  # fmt: skip
QUIET = {"tcp_early_retrans": 0, "tcp_min_tso_segs": 64}


def window(name: str, *steps: Any, **sysctl: int | str) -> Stimulus:
    return stimulus(f"win-{name}", *steps, **{**QUIET, **sysctl})


def peer(win: int, wscale: int | None = 0, **fields: Any) -> Any:
    """A connection whose peer offers that window, its packets of MSS bytes."""
    return established(win=win, wscale=wscale, **{"mss": MSS + 12, **fields})


def sent(segments: float, ms: float = 4, **more: Any) -> Any:
    return send(b"x" * round(segments * MSS), wait=ms, **more)


_CLOSED = [
    window("probe", peer(0), sent(2, PROBE_MS), COUNTS, ack(win=1000), COUNTS, ack(ack=401)),
    window(
        "probe-answered",
        peer(0),
        sent(2, PROBE_MS),
        ack(win=0, wait=500),
        COUNTS,
        ack(win=1000),
        info(),
    ),
    window("probe-answered-with-data", peer(0), sent(2, PROBE_MS), ack(b"x", win=0, wait=60), COUNTS),
    window(
        "probe-window-too-small",
        peer(0),
        sent(2),
        ack(win=50),
        COUNTS,
        wait(PROBE_MS),
        COUNTS,
    ),
    window(
        "probe-one-byte",
        peer(0),
        sent(2),
        ack(win=1, wait=PROBE_MS),
        COUNTS,
        ack(ack=2, win=0),
        COUNTS,
    ),
    window(
        "closes-with-data-in-flight",
        peer(1000),
        sent(4),
        ack(ack=201, win=0),
        COUNTS,
        ack(ack=801, win=0, wait=4),
        sent(1, PROBE_MS),
        COUNTS,
        ack(ack=801, win=1000),
        info(),
    ),
    window("closes-and-rto", peer(1000), sent(2), ack(ack=1, win=0, wait=PROBE_MS), COUNTS),
    window(
        "closes-on-last-ack",
        peer(1000),
        sent(2),
        ack(ack=401, win=0),
        COUNTS,
        sent(1),
        ack(win=1000),
        info(),
    ),
    window(
        "shrinks-below-flight",
        peer(1000),
        sent(4),
        ack(ack=201, win=100),
        sent(2),
        COUNTS,
        ack(ack=801, win=600),
        COUNTS,
    ),
    window("shrinks-and-rto", peer(1000), sent(4), ack(ack=201, win=100, wait=PROBE_MS), COUNTS),
    window("update-with-data", peer(0), sent(2), ack(b"x", win=1000, wait=50), COUNTS),
    window("update-with-old-data", peer(100), sent(2), ack(b"xyz"), ack(b"xyz", seq=1, win=1000), COUNTS),
    window(
        "update-with-old-ack",
        peer(400),
        sent(4),
        ack(ack=401, win=400),
        ack(ack=201, win=1000),
        COUNTS,
    ),
    window("update-with-lower-seq", peer(100), sent(2), ack(b"xyz"), ack(seq=1, win=1000), COUNTS),
    window("fin-waits", peer(0), sent(1), shutdown(socket.SHUT_WR), wait(PROBE_MS), ack(win=1000), COUNTS),
    window("fin-alone-needs-none", peer(0), shutdown(socket.SHUT_WR), wait(4), COUNTS, ack()),
    window(
        "fin-fits-after-data",
        peer(200),
        sent(1),
        shutdown(socket.SHUT_WR),
        wait(4),
        COUNTS,
        ack(ack=201, win=0),
        ack(ack=202, win=0),
    ),
    window("close-with-data", peer(0), sent(1), close(wait=PROBE_MS), ack(win=1000)),
    window(
        "urgent",
        peer(0),
        send(b"abc", MSG_OOB),
        wait(PROBE_MS),
        COUNTS,
        ack(win=1000),
        COUNTS,
    ),
    window(
        "urgent-then-closed",
        peer(1000),
        sent(1),
        send(b"abc", MSG_OOB),
        ack(ack=201, win=0),
        wait(4),
        COUNTS,
    ),
]

_ODD = [
    *(
        window(
            f"nagle-{n}",
            peer(n),
            sent(7),
            COUNTS,
            ack(win=n, wait=4),
            ack(win=n, wait=4),
            COUNTS,
        )
        for n in (199, 200, 201, 399, 400, 777)
    ),
    *(
        window(f"nodelay-{n}", peer(n), NODELAY, sent(7), COUNTS, ack(win=n), ack(win=n), COUNTS)
        for n in (99, 100, 199, 201, 399, 777)
    ),
    window(
        "half-of-largest",
        peer(300),
        sent(4),
        ack(win=140),
        ack(win=149),
        COUNTS,
        ack(win=151),
        COUNTS,
    ),
    window(
        "half-of-largest-nodelay",
        peer(300),
        NODELAY,
        sent(4),
        ack(win=140),
        ack(win=149),
        ack(win=151),
        COUNTS,
    ),
    window("tiny-at-once", peer(10), sent(1), COUNTS, ack(win=10), COUNTS),
    *(
        window(f"scale-{n}", peer(3, n), sent(7), info(), ack(win=3), info("snd_wnd", "wscale"))
        for n in (0, 1, 7, 14, 15)
    ),
    window("scale-none", peer(3, None), sent(7), info()),
    window("push-at-half-window", peer(1000), *(sent(1, 0) for _ in range(5)), wait(4), COUNTS),
    window("nagle-small", peer(9000), sent(0.1), sent(0.1), sent(0.8), sent(0.1), ack(), COUNTS),
    window(
        "nagle-large-then-small",
        peer(9000),
        sent(2.5),
        sent(0.1),
        ack(ack=401),
        COUNTS,
        ack(),
        COUNTS,
    ),
    window("nagle-full-goes", peer(9000), sent(0.5), sent(0.5), sent(1), ack()),
    window("nodelay-flushes", peer(9000), sent(0.5), sent(0.4), NODELAY, wait(4), COUNTS, ack()),
    window("more", peer(9000), sent(0.5, flags=MSG_MORE), sent(0.4, flags=MSG_MORE), sent(0.1), ack()),
    window(
        "more-full",
        peer(9000),
        sent(1.5, flags=MSG_MORE),
        COUNTS,
        ack(ack=201),
        COUNTS,
        sent(0.1),
        ack(),
    ),
    window("more-times-out", peer(9000), sent(0.5, PROBE_MS, flags=MSG_MORE), COUNTS, ack()),
    window(
        "cork",
        peer(9000),
        CORK,
        sent(0.5),
        sent(0.4),
        sent(0.3),
        COUNTS,
        ack(),
        UNCORK,
        wait(4),
        COUNTS,
    ),
    window("cork-times-out", peer(9000), CORK, sent(0.5, PROBE_MS), COUNTS, ack()),
    window(
        "cork-and-nodelay",
        peer(9000),
        CORK,
        NODELAY,
        sent(0.5),
        sent(0.1),
        COUNTS,
        UNCORK,
        wait(4),
        ack(),
    ),
    window("cork-close", peer(9000), CORK, sent(0.5), close(wait=4), ack()),
    window("cork-shutdown", peer(9000), CORK, sent(1.5), shutdown(socket.SHUT_WR), wait(4), COUNTS, ack()),
    window(
        "cork-window-closed",
        peer(0),
        CORK,
        sent(0.5, PROBE_MS),
        COUNTS,
        ack(win=1000),
        COUNTS,
    ),
]

OURS = ("rcv_mss", "rcv_ssthresh", "bytes_received", "segs_in", "segs_out", "data_segs_in")


def rcvbuf(size: int) -> Any:
    return established((SOL, socket.SO_RCVBUF, size))


_OWN = [
    *(
        window(
            f"clamp-{n}",
            established(),
            setopt(TCP, WINDOW_CLAMP, n),
            wait(4),
            ack(b"hello", wait=4),
            recv(),
            info(*OURS),
        )
        for n in (1, 100, 2000, 20000, 100000)
    ),
    window("clamp-off", established(), setopt(TCP, WINDOW_CLAMP, 0), ack(b"hello"), recv(), info(*OURS)),
    window(
        "clamp-before",
        established((TCP, WINDOW_CLAMP, 3000)),
        ack(b"x" * 1000),
        recv(),
        ack(b"y" * 1000),
        recv(),
        info(*OURS),
    ),
    window(
        "clamp-raised",
        established((TCP, WINDOW_CLAMP, 3000)),
        ack(b"x" * 500),
        setopt(TCP, WINDOW_CLAMP, 9000),
        ack(b"y" * 500),
        recv(),
        ack(b"z" * 500),
        recv(),
        info(*OURS),
    ),
    window(
        "clamp-lowered",
        established(),
        ack(b"x" * 500),
        setopt(TCP, WINDOW_CLAMP, 1000),
        recv(),
        ack(b"y" * 500),
        recv(),
        info(*OURS),
    ),
    window(
        "rcvbuf-raised",
        rcvbuf(8192),
        ack(b"x" * 500),
        setopt(SOL, socket.SO_RCVBUF, 65536),
        recv(),
        ack(b"y" * 500),
        recv(),
        info(*OURS),
    ),
    window(
        "rcvbuf-lowered",
        rcvbuf(65536),
        ack(b"x" * 500),
        setopt(SOL, socket.SO_RCVBUF, 4096),
        recv(),
        ack(b"y" * 500),
        recv(),
        info(*OURS),
    ),
    window(
        "read-odd",
        rcvbuf(8192),
        ack(b"x" * 1448),
        ack(b"y" * 1448),
        recv(1),
        recv(700),
        recv(999),
        recv(),
        info(*OURS),
    ),
    window(
        "read-one-segment-of-three",
        rcvbuf(8192),
        *(ack(b"x" * 1448) for _ in range(3)),
        recv(1448),
        recv(1448),
        recv(1448),
        info(*OURS),
    ),
    window("read-peek-first", rcvbuf(8192), ack(b"x" * 1448), recv(1448, MSG_PEEK), recv(1448), info(*OURS)),
    window(
        "read-while-data-come",
        rcvbuf(8192),
        *(s for _ in range(4) for s in (ack(b"x" * 1000), recv(500))),
        recv(),
        info(*OURS),
    ),
    window("last-fraction", rcvbuf(2304), ack(b"x" * 700), ack(b"y" * 700), recv(), info(*OURS)),
    window("past-the-edge", rcvbuf(2304), ack(b"x" * 700, seq=1200), ack(b"x" * 700, seq=2000), info(*OURS)),
    window(
        "probe-of-ours", rcvbuf(2304), ack(b"x" * 1400), ack(b"y"), recv(), ack(b"y"), recv(), info(*OURS)
    ),
    window(
        "keepalive-when-full",
        rcvbuf(2304),
        ack(b"x" * 1400),
        ack(seq=1400),
        ack(b"y", seq=1401),
        recv(),
        info(*OURS),
    ),
    window("fin-when-full", rcvbuf(2304), ack(b"x" * 1448), seg("FA"), recv(), recv(), info("state", *OURS)),
    window(
        "urgent-when-full",
        rcvbuf(2304),
        ack(b"x" * 1448),
        seg("AU", b"y", urg=1),
        recv(),
        recv(1, MSG_OOB),
        info(*OURS),
    ),
]


def sndbuf(size: int, **fields: Any) -> Any:
    return established((SOL, socket.SO_SNDBUF, size), **fields)


_BUFFER = [
    window(
        "sndbuf-full",
        sndbuf(2304),
        send(b"x" * 6000, wait=4),
        poll(),
        info("notsent_bytes", "unacked"),
        ack(),
        poll(),
        send(b"x" * 6000, wait=4),
        ack(),
    ),
    window(
        "sndbuf-full-of-small",
        sndbuf(2304, mss=MSS + 12),
        NODELAY,
        *[sent(1, 1) for _ in range(8)],
        poll(),
        ack(ack=401),
        poll(),
        sent(1),
        ack(),
    ),
    window(
        "sndbuf-full-window-closed",
        sndbuf(2304, win=0),
        send(b"x" * 5000, wait=1),
        send(b"y", wait=1),
        poll(),
        ack(win=3000),
        poll(),
        info("notsent_bytes", "unacked", "snd_wnd"),
    ),
    window(
        "sndbuf-lowered",
        established(),
        setopt(SOL, socket.SO_SNDBUF, 2304),
        send(b"x" * 7000, wait=4),
        poll(),
        ack(ack=1449),
        poll(),
        ack(),
        poll(),
    ),
    window(
        "shrinks-ours",
        rcvbuf(65536),
        *(ack(b"x" * 600) for _ in range(12)),
        recv(3000, MSG_TRUNC),
        info(*OURS),
        tcp_shrink_window=1,
    ),
    window(
        "shrinks-ours-a-little",
        established(),
        *(ack(b"x" * 1448) for _ in range(5)),
        recv(),
        info(*OURS),
        tcp_shrink_window=1,
    ),
    window(
        "shrinks-ours-no-scale",
        rcvbuf(4096),
        *(ack(b"x" * 536) for _ in range(8)),
        recv(500),
        recv(),
        tcp_shrink_window=1,
    ),
    window(
        "urgent-twice",
        peer(2),
        send(b"abc", MSG_OOB, wait=4),
        send(b"def", MSG_OOB, wait=4),
        ack(win=1000),
        ack(win=1000),
    ),
    window(
        "urgent-stdurg",
        established(),
        send(b"abc", MSG_OOB, wait=4),
        ack(),
        seg("AU", b"hello", urg=2),
        recv(),
        recv(),
        tcp_stdurg=1,
    ),
]

STIMULI = [*_CLOSED, *_ODD, *_OWN, *_BUFFER]
