# SPDX-License-Identifier: GPL-2.0-or-later
"""SYN queue, accept queue, cookies, deferred accept, listeners that close."""

from __future__ import annotations

import socket

from tests.differential.script import Step, accept, ack, close, getopt, listen, recv, seg, stimulus, syn, wait

TCP = socket.IPPROTO_TCP
DEFER = (TCP, socket.TCP_DEFER_ACCEPT, 5)


def _syns(count: int, **fields: object) -> list[Step]:
    return [syn(sport=41000 + n, wait=1, **fields) for n in range(count)]


def _connects(count: int) -> list[Step]:
    return [
        step for n in range(count) for step in (syn(sport=41000 + n, wait=1), ack(sport=41000 + n, wait=2))
    ]


STIMULI = [
    *(stimulus(f"synq-{b}-no-cookies", listen(b), _syns(b + 5), tcp_syncookies=0) for b in (0, 1, 4, 16)),
    *(stimulus(f"synq-{b}-cookies", listen(b), _syns(b + 5)) for b in (0, 1, 4)),
    *(stimulus(f"acceptq-{b}", listen(b), _connects(b + 3)) for b in (0, 1, 4)),
    stimulus("acceptq-drains", listen(0), _connects(1), _syns(2), accept(), syn(sport=41005)),
    stimulus(
        "acceptq-third-ack",
        listen(0),
        _syns(2),
        ack(sport=41000),
        ack(sport=41001),
        accept(),
        ack(sport=41001),
    ),
    stimulus("acceptq-third-ack-data", listen(0), _syns(2), ack(sport=41000), ack(b"hi", sport=41001)),
    stimulus(
        "acceptq-abort", listen(0), _syns(2), ack(sport=41000), ack(sport=41001), tcp_abort_on_overflow=1
    ),
    stimulus("synq-max-syn-backlog", listen(64), _syns(20), tcp_syncookies=0, tcp_max_syn_backlog=16),
    stimulus("synq-max-syn-backlog-cookies", listen(64), _syns(20), tcp_max_syn_backlog=16),
    stimulus(
        "somaxconn",
        listen(100),
        _syns(8),
        getopt(TCP, socket.TCP_INFO, sock="none"),
        core_somaxconn=2,
        tcp_syncookies=0,
    ),
    stimulus(
        "accept-order",
        listen(4),
        _connects(3),
        accept(),
        accept(into="d"),
        accept(into="e"),
        accept(into="f"),
    ),
    stimulus("cookies-always", listen(), syn(), ack(), accept(), tcp_syncookies=2),
    stimulus("cookies-always-data", listen(), syn(), ack(b"hello"), accept(), recv(), tcp_syncookies=2),
    stimulus("cookies-no-options", listen(), syn(bare=True), ack(), accept(), tcp_syncookies=2),
    stimulus("cookies-mss-only", listen(), syn(bare=True, mss=1460), ack(), accept(), tcp_syncookies=2),
    stimulus("cookies-sack-wscale-no-ts", listen(), syn(ts=None), ack(), accept(), tcp_syncookies=2),
    stimulus("cookies-mss-1000", listen(), syn(mss=1000), ack(), accept(), tcp_syncookies=2),
    stimulus("cookies-mss-100", listen(), syn(mss=100), ack(), accept(), tcp_syncookies=2),
    stimulus("cookies-bad-ack", listen(), syn(), ack(ack=7777), accept(), tcp_syncookies=2),
    stimulus("cookies-bad-seq", listen(), syn(), ack(seq=5), accept(), tcp_syncookies=2),
    stimulus("cookies-bad-tsecr", listen(), syn(), ack(ts_off=100000), accept(), tcp_syncookies=2),
    stimulus("cookies-no-ts-on-ack", listen(), syn(), ack(nots=True), accept(), tcp_syncookies=2),
    stimulus("cookies-rst", listen(), syn(), seg("R"), ack(), accept(), tcp_syncookies=2),
    stimulus("cookies-syn-ack", listen(), syn(), seg("SA", seq=0), accept(), tcp_syncookies=2),
    stimulus("cookies-fin-ack", listen(), syn(), seg("FA"), accept(), recv(), tcp_syncookies=2),
    stimulus(
        "cookies-ecn",
        listen(),
        seg("SEW", mss=1460, sackok=True, ts=(1000, 0), wscale=7),
        ack(),
        tcp_syncookies=2,
    ),
    stimulus("cookies-forged", listen(), ack(seq=1, ack=1234567), tcp_syncookies=2),
    stimulus("cookies-forged-unpressed", listen(), ack(seq=1, ack=1234567)),
    stimulus("cookies-duplicate-syn", listen(), syn(), syn(seq=0), ack(), accept(), tcp_syncookies=2),
    stimulus(
        "cookies-acceptq-full", listen(0), _syns(2), ack(sport=41000), ack(sport=41001), tcp_syncookies=2
    ),
    stimulus("cookies-tos", listen(), syn(tos=0x48), tcp_syncookies=2),
    stimulus("defer-bare-ack", listen(16, 80, DEFER), syn(), ack(), accept()),
    stimulus("defer-data", listen(16, 80, DEFER), syn(), ack(), ack(b"hello"), accept(), recv()),
    stimulus("defer-data-at-once", listen(16, 80, DEFER), syn(), ack(b"hello"), accept(), recv()),
    stimulus("defer-fin", listen(16, 80, DEFER), syn(), ack(), seg("FA"), accept(), recv()),
    stimulus("defer-two-acks", listen(16, 80, DEFER), syn(), ack(), ack(), ack(), accept()),
    stimulus("defer-rst", listen(16, 80, DEFER), syn(), ack(), seg("R"), ack(b"hello"), accept()),
    stimulus(
        "defer-resend", listen(16, 80, (TCP, socket.TCP_DEFER_ACCEPT, 1)), syn(), ack(wait=1500), accept()
    ),
    stimulus("defer-value", listen(16, 80, DEFER), getopt(TCP, socket.TCP_DEFER_ACCEPT, sock="L")),
    stimulus("defer-cookies", listen(16, 80, DEFER), syn(), ack(), accept(), tcp_syncookies=2),
    stimulus("close-listener-request", listen(), syn(), close("L"), ack()),
    stimulus("close-listener-syn", listen(), close("L"), syn()),
    stimulus("close-listener-child", listen(), syn(), ack(), close("L"), ack(b"x")),
    stimulus("close-listener-children", listen(), _connects(3), close("L")),
    stimulus("close-listener-child-data", listen(), syn(), ack(b"hello"), close("L")),
    stimulus("close-listener-child-fin", listen(), syn(), ack(), seg("FA"), close("L")),
    stimulus("close-listener-no-retransmit", listen(), syn(), close("L"), wait(1300)),
    stimulus(
        "shutdown-listener",
        listen(),
        syn(),
        Step("call", {"name": "shutdown", "args": (0,), "sock": "L"}, 2),
        ack(),
    ),
    stimulus(
        "listen-again",
        listen(0),
        Step("call", {"name": "listen", "args": (3,), "sock": "L"}, 2),
        _connects(6),
    ),
    stimulus("accept-empty", listen(), accept()),
    stimulus("accept-half-open", listen(), syn(), accept()),
    stimulus("accept-after-rst", listen(), syn(), ack(), seg("R"), accept(), recv()),
    stimulus("accept-after-fin", listen(), syn(), ack(), seg("FA"), accept(), recv(), recv()),
]
