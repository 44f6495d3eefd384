# SPDX-License-Identifier: GPL-2.0-or-later
"""ESTABLISHED: challenge ACKs, out of order, SACK and DSACK, windows, sending, keepalive, urgent data."""

from __future__ import annotations

import socket

from tests.differential.script import ack, established, icmp, recv, seg, send, setopt, stimulus, syn, wait

EST = established()
NOTS = established(ts=None)
BARE = established(bare=True)
TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
MSG_PEEK = 2
KEEP = (
    (SOL, socket.SO_KEEPALIVE, 1),
    (TCP, socket.TCP_KEEPIDLE, 1),
    (TCP, socket.TCP_KEEPINTVL, 1),
    (TCP, socket.TCP_KEEPCNT, 2),
)

STIMULI = [
    stimulus("est-data", EST, ack(b"hello"), recv(), ack(b"again"), recv()),
    stimulus("est-data-no-ts", NOTS, ack(b"hello"), recv()),
    stimulus("est-data-bare", BARE, ack(b"hello"), recv()),
    stimulus("est-data-no-push", EST, seg("A", b"hello"), recv()),
    stimulus("est-data-unread", EST, *(ack(b"x" * 500) for _ in range(4))),
    stimulus("est-data-full-mss", EST, ack(b"x" * 1448), ack(b"y" * 1448), recv()),
    stimulus("est-data-full-mss-no-ts", NOTS, ack(b"x" * 1460), ack(b"y" * 1460), recv()),
    stimulus("est-data-peek", EST, ack(b"hello"), recv(3, MSG_PEEK), recv(3), recv()),
    stimulus("est-echo", EST, ack(b"hello"), recv(), send(b"world", wait=4), ack(b"more"), recv()),
    stimulus("est-no-flags", EST, seg("", b"hello"), recv()),
    stimulus("est-push-no-ack", EST, seg("P", b"hello"), recv()),
    stimulus("est-fin-no-ack", EST, seg("F"), recv()),
    stimulus("est-syn", EST, seg("S", seq=0, ts=(1000, 0))),
    stimulus("est-syn-in-window", EST, seg("S", seq=10, ts=(1000, 0))),
    stimulus("est-syn-far", EST, seg("S", seq=1 << 30, ts=(1000, 0))),
    stimulus("est-syn-twice", EST, seg("S", seq=5, ts=(1000, 0)), seg("S", seq=5, ts=(1000, 0))),
    stimulus("est-syn-600-ms-apart", EST, seg("S", seq=5, wait=600), seg("S", seq=5)),
    stimulus("est-syn-ack", EST, seg("SA", seq=0)),
    stimulus("est-syn-ack-in-window", EST, seg("SA", seq=1)),
    stimulus("est-syn-rst", EST, seg("SR", seq=1), recv()),
    *(
        stimulus(f"est-rst-{n}", EST, seg("R", seq=n), recv())
        for n in (0, 1, 2, 100, 65161, 65162, 70000, 1 << 30)
    ),
    stimulus("est-rst-ack", EST, seg("RA"), recv()),
    stimulus("est-rst-ack-unsent", EST, seg("RA", ack=500), recv()),
    stimulus("est-rst-data", EST, seg("R", b"bye"), recv()),
    stimulus("est-rst-paws", EST, seg("R", seq=1, ts=(500, 0)), recv()),
    stimulus("est-rst-after-data", EST, ack(b"hello"), seg("R"), recv(), recv()),
    stimulus("est-rst-send", EST, seg("R"), send(b"x"), send(b"y")),
    *(stimulus(f"est-ack-{n}", EST, ack(ack=n)) for n in (2, 100, 70000, 1 << 30, 0, -1, -70000, -(1 << 30))),
    *(stimulus(f"est-data-ack-{n}", EST, ack(b"hello", ack=n), recv()) for n in (2, 70000, 0, -70000)),
    stimulus("est-ack-unsent-twice", EST, ack(ack=100), ack(ack=100), ack(ack=100)),
    *(stimulus(f"est-seq-{n}", EST, ack(seq=n)) for n in (0, -1, -70000, 2, 65161, 65162, 1 << 30)),
    *(
        stimulus(f"est-old-data-{n}", EST, ack(b"hello"), ack(b"ABC", seq=n), recv())
        for n in (1, 2, 3, 4, 5, 0, -2)
    ),
    stimulus("est-beyond-window", EST, ack(b"x" * 100, seq=65100), recv()),
    stimulus("est-beyond-window-far", EST, ack(b"x" * 100, seq=66000), recv()),
    stimulus("est-at-right-edge", EST, ack(b"x", seq=65536), recv()),
    stimulus("est-keepalive-probe", EST, ack(seq=0), ack(seq=0)),
    stimulus("est-keepalive-probe-byte", EST, ack(b"hello"), ack(b"o", seq=5), recv()),
    stimulus("est-paws", EST, ack(b"hello", tsval=500), recv(), ack(b"hello", seq=1, tsval=1001), recv()),
    stimulus("est-paws-pure-ack", EST, ack(tsval=500)),
    stimulus("est-paws-one-less", EST, ack(b"hello", tsval=999), recv()),
    stimulus("est-ts-missing", EST, ack(b"hello", nots=True), recv()),
    stimulus("est-ts-unnegotiated", NOTS, ack(b"hello", ts=(5, 6)), recv()),
    stimulus("est-ts-newer", EST, ack(b"hello", tsval=5000), recv(), ack(b"x", tsval=5001)),
    stimulus("est-ts-wrap", established(ts=(0xFFFFFFFF, 0)), ack(b"hello", tsval=1), recv()),
    stimulus("est-ooo-one", EST, ack(b"world", seq=6), ack(b"hello"), recv()),
    stimulus(
        "est-ooo-two-holes", EST, ack(b"c", seq=3), ack(b"e", seq=5), ack(b"a"), ack(b"b", seq=2), recv()
    ),
    stimulus(
        "est-ooo-five-holes", EST, *(ack(b"x", seq=n) for n in (3, 5, 7, 9, 11)), ack(b"ab", seq=1), recv()
    ),
    stimulus("est-ooo-descending", EST, *(ack(b"x", seq=n) for n in (11, 9, 7, 5, 3)), recv()),
    stimulus("est-ooo-adjacent", EST, ack(b"cd", seq=3), ack(b"ef", seq=5), ack(b"ab"), recv()),
    stimulus("est-ooo-overlap", EST, ack(b"cdef", seq=3), ack(b"EFGH", seq=5), ack(b"ab"), recv()),
    stimulus("est-ooo-covered", EST, ack(b"d", seq=4), ack(b"CDEF", seq=3), ack(b"ab"), recv()),
    stimulus("est-ooo-duplicate", EST, ack(b"cd", seq=3), ack(b"cd", seq=3), ack(b"ab"), recv()),
    stimulus("est-ooo-part-duplicate", EST, ack(b"cd", seq=3), ack(b"de", seq=4), recv()),
    stimulus("est-ooo-no-ts", NOTS, *(ack(b"x", seq=n) for n in (3, 5, 7, 9, 11)), recv()),
    stimulus("est-ooo-no-sack", BARE, *(ack(b"x", seq=n) for n in (3, 5)), ack(b"ab"), recv()),
    stimulus("est-ooo-fin", EST, seg("FA", seq=6), ack(b"hello"), recv(), recv()),
    stimulus("est-ooo-fin-data", EST, seg("FA", b"world", seq=6), ack(b"hello"), recv(), recv()),
    stimulus("est-dsack-full", EST, ack(b"hello"), ack(b"hello", seq=1), recv()),
    stimulus("est-dsack-off", EST, ack(b"hello"), ack(b"hello", seq=1), recv(), tcp_dsack=0),
    stimulus("est-dsack-partial", EST, ack(b"hello"), ack(b"loworld", seq=4), recv()),
    stimulus("est-dsack-above-hole", EST, ack(b"hello"), ack(b"zz", seq=9), ack(b"hello", seq=1), recv()),
    stimulus("est-fin", EST, seg("FA"), recv()),
    stimulus("est-fin-data", EST, seg("FA", b"hello"), recv(), recv()),
    stimulus("est-fin-twice", EST, seg("FA"), seg("FA", seq=1), recv()),
    stimulus("est-data-after-fin", EST, seg("FA"), ack(b"late"), recv()),
    stimulus("est-urg", EST, seg("AU", b"hello", urg=5), recv(), recv()),
    stimulus("est-urg-first", EST, seg("AU", b"hello", urg=1), recv(), recv()),
    stimulus("est-urg-beyond", EST, seg("AU", b"hello", urg=50), recv(), recv()),
    stimulus("est-bad-checksum", EST, ack(b"hello", bad_checksum=True), recv()),
    stimulus("est-fragmented", EST, ack(b"x" * 64, frag=0, frags=((0, 48, True), (48, 96, False))), recv()),
    stimulus("est-ce", EST, ack(b"hello", tos=3), recv()),
    stimulus("est-ecn-ce", established(), ack(b"hello", tos=2), recv()),
    stimulus(
        "est-ecn-negotiated-ce",
        *established()[:1],
        seg("SEW", mss=1460, sackok=True, ts=(1000, 0), wscale=7),
        *established()[2:],
        ack(b"hello", tos=3),
        recv(),
        ack(b"more", tos=2),
        recv(),
        seg("PAW", b"cwr", tos=2),
        recv(),
        send(b"answer", wait=4),
    ),
    stimulus("est-malformed-ts", EST, ack(b"hello", nots=True, opts=b"\x08\x0b" + bytes(10)), recv()),
    stimulus("est-unknown-option", EST, ack(b"hello", opts=b"\xfd\x04\0\0"), recv()),
    stimulus("est-icmp-host-unreachable", EST, icmp(3, 1, seq=1), recv()),
    stimulus("est-icmp-port-unreachable", EST, icmp(3, 3, seq=1), recv()),
    stimulus(
        "est-icmp-data-outstanding", EST, send(b"hello", wait=4), icmp(3, 1, seq=1), recv(), ack(b"x", ack=6)
    ),
    stimulus("est-icmp-out-of-window", EST, send(b"hello", wait=4), icmp(3, 1, seq=900), recv()),
    stimulus(
        "est-icmp-frag-needed", EST, send(b"x" * 1400, wait=4), icmp(3, 4, rest=600, seq=1), ack(ack=1401)
    ),
    stimulus(
        "est-icmp-frag-needed-tiny", EST, send(b"x" * 1000, wait=4), icmp(3, 4, rest=60, seq=1), ack(ack=1001)
    ),
    stimulus(
        "est-icmp-recverr",
        EST,
        setopt(socket.IPPROTO_IP, 11, 1),
        send(b"hello", wait=4),
        icmp(3, 1, seq=1),
        recv(),
        recv(),
    ),
    stimulus("est-send", EST, send(b"hello", wait=4), ack()),
    stimulus("est-send-1448", EST, send(b"x" * 1448, wait=4), ack()),
    stimulus("est-send-3000", EST, send(b"x" * 3000, wait=4), ack()),
    stimulus(
        "est-send-3000-nodelay", EST, setopt(TCP, socket.TCP_NODELAY, 1), send(b"x" * 3000, wait=4), ack()
    ),
    stimulus("est-send-nagle", EST, send(b"a", wait=4), send(b"b", wait=4), send(b"c", wait=4), ack()),
    stimulus(
        "est-send-nodelay",
        EST,
        setopt(TCP, socket.TCP_NODELAY, 1),
        send(b"a", wait=4),
        send(b"b", wait=4),
        ack(),
    ),
    stimulus(
        "est-send-cork",
        EST,
        setopt(TCP, 3, 1),
        send(b"a", wait=4),
        send(b"b", wait=4),
        setopt(TCP, 3, 0),
        wait(4),
        ack(),
    ),
    stimulus("est-send-mss-536", established(mss=536), send(b"x" * 1200, wait=4), ack()),
    stimulus("est-send-no-mss", established(bare=True), send(b"x" * 1200, wait=4), ack()),
    stimulus("est-send-mss-1", established(mss=1), send(b"x" * 100, wait=4), ack()),
    stimulus("est-send-first-flight", EST, send(b"x" * 30000, wait=4), ack()),
    stimulus(
        "est-send-window-1000", established(win=1000, wscale=0), send(b"x" * 3000, wait=4), ack(win=1000)
    ),
    stimulus("est-send-window-0", established(win=0), send(b"hello", wait=500), ack(win=100)),
    stimulus(
        "est-window-closes", EST, send(b"hello", wait=4), ack(win=0), send(b"more", wait=300), ack(win=100)
    ),
    stimulus("est-window-update", established(win=0), send(b"hello", wait=4), ack(win=100), ack(ack=6)),
    stimulus(
        "est-send-tos", EST, setopt(socket.IPPROTO_IP, socket.IP_TOS, 0x28), send(b"hello", wait=4), ack()
    ),
    stimulus("est-send-ttl", EST, setopt(socket.IPPROTO_IP, socket.IP_TTL, 9), send(b"hello", wait=4), ack()),
    stimulus("est-send-no-df", EST, setopt(socket.IPPROTO_IP, 10, 0), send(b"hello", wait=4), ack()),
    stimulus("est-send-no-ts", NOTS, send(b"hello", wait=4), ack()),
    stimulus(
        "est-dup-acks",
        EST,
        send(b"x" * 7240, wait=4),
        # With the usual wait RACK's timer, a quarter of that round trip, ends where the next step begins.
        *(ack(ack=1, sack=((1449 * n, 1449 * n + 1448),), wait=20) for n in (1, 2, 3)),
    ),
    stimulus("est-sack-one", EST, send(b"x" * 7240, wait=4), ack(ack=1, sack=((1449, 2897),), wait=100)),
    stimulus(
        "est-sack-three",
        EST,
        send(b"x" * 7240, wait=4),
        *(ack(ack=1, sack=((1449, 1449 + 1448 * n),), wait=40) for n in (1, 2, 3)),
        ack(ack=7241),
    ),
    stimulus(
        "est-tail-loss-probe", EST, send(b"x" * 1448, wait=4), ack(), send(b"y" * 2896, wait=150), ack()
    ),
    stimulus(
        "est-sack-invalid", EST, send(b"x" * 2896, wait=4), ack(ack=1, sack=((5000, 6000),)), ack(ack=2897)
    ),
    stimulus("est-partial-ack", EST, send(b"x" * 2896, wait=4), ack(ack=1449), ack(ack=2897)),
    stimulus("est-rto", EST, send(b"hello", wait=900), ack(ack=6)),
    stimulus("est-keepalive", established(*KEEP), wait(3600)),
    stimulus("est-keepalive-answered", established(*KEEP), wait(1300), ack(), wait(700)),
    stimulus(
        "est-zero-receive-window",
        established((SOL, socket.SO_RCVBUF, 4096)),
        *(ack(b"x" * 700) for _ in range(6)),
        recv(),
        wait(50),
    ),
    stimulus("est-small-rcvbuf-one", established((SOL, socket.SO_RCVBUF, 2048)), ack(b"x" * 500), recv()),
    stimulus("est-delayed-ack", EST, *(ack(b"x" * 1448, wait=60) for _ in range(3))),
    stimulus("est-quickack-off", EST, setopt(TCP, socket.TCP_QUICKACK, 0), ack(b"hello", wait=80), recv()),
    stimulus("est-new-syn-other-port", EST, syn(sport=40001), ack(sport=40001)),
]
