# SPDX-License-Identifier: GPL-2.0-or-later
"""RST on close, half close, linger, FIN_WAIT, TIME_WAIT; closed UDP ports and ICMP echo."""

from __future__ import annotations

import socket
import struct

from tests.differential.script import (
    accept,
    ack,
    close,
    established,
    icmp,
    ip,
    listen,
    recv,
    seg,
    send,
    setopt,
    shutdown,
    stimulus,
    syn,
    udp,
    wait,
)

EST = established()
RESET = setopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
LINGER2 = setopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, -1)
CLOSED = (EST, close(wait=4))
TIME_WAIT = (*CLOSED, seg("FA"))
WR, RD, RDWR = socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR

STIMULI = [
    stimulus("close-plain", *CLOSED, ack(), seg("FA")),
    stimulus("close-fin-ack-both", *CLOSED, seg("FA")),
    stimulus("close-fin-no-ack-of-fin", *CLOSED, seg("FA", ack=1), ack(ack=2)),
    stimulus("close-unread", EST, ack(b"hello"), close(wait=4), ack()),
    stimulus("close-after-read", EST, ack(b"hello"), recv(), close(wait=4)),
    stimulus("close-partly-read", EST, ack(b"hello"), recv(2), close(wait=4)),
    stimulus("close-linger-0", EST, RESET, close(wait=4), ack()),
    stimulus("close-linger-0-data", EST, send(b"hello"), RESET, close(wait=4)),
    stimulus("close-linger2-negative", EST, LINGER2, close(wait=4), ack()),
    stimulus("close-pending-data", EST, send(b"hello", wait=4), close(wait=4), ack(ack=7)),
    stimulus("close-data-unsent", established(win=0), send(b"hello"), close(wait=4), ack(win=100)),
    stimulus("close-data-after", *CLOSED, ack(), ack(b"late")),
    stimulus("close-data-with-ack-of-fin", *CLOSED, ack(b"late")),
    stimulus("close-data-before-ack", *CLOSED, ack(b"late", ack=1)),
    stimulus("close-fin-with-data", *CLOSED, seg("FA", b"late")),
    stimulus("close-rst", *CLOSED, seg("R"), ack(ack=2)),
    stimulus("close-rst-in-fin-wait2", *CLOSED, ack(), seg("R"), ack()),
    stimulus("close-rst-inexact", *CLOSED, ack(), seg("R", seq=9)),
    stimulus("close-syn-in-fin-wait2", *CLOSED, ack(), seg("S", seq=5, ts=(1000, 0))),
    stimulus("close-fin-retransmitted", EST, close(wait=700)),
    stimulus("close-passive", EST, seg("FA"), recv(), close(wait=4), ack(), ack()),
    stimulus(
        "close-passive-data-first", EST, seg("FA", b"hello"), recv(), send(b"bye"), close(wait=4), ack()
    ),
    stimulus("close-passive-unread", EST, seg("FA", b"hello"), close(wait=4)),
    stimulus("close-last-ack-rst", EST, seg("FA"), close(wait=4), seg("R"), ack()),
    stimulus("close-last-ack-data", EST, seg("FA"), close(wait=4), ack(b"late", ack=1)),
    stimulus("close-simultaneous", *CLOSED, seg("FA", ack=1), ack(ack=2), ack(ack=2)),
    stimulus("close-closing-data", *CLOSED, seg("FA", ack=1), ack(b"x", ack=1)),
    stimulus("close-listener-too", EST, close("L"), ack(b"hello"), recv(), close(wait=4)),
    stimulus("shutdown-wr", EST, shutdown(WR), wait(3), ack(b"hello"), recv(), seg("FA"), recv()),
    stimulus("shutdown-wr-send", EST, shutdown(WR), send(b"x")),
    stimulus("shutdown-wr-twice", EST, shutdown(WR), shutdown(WR), ack()),
    stimulus("shutdown-rd", EST, shutdown(RD), ack(b"hello"), recv(), recv()),
    stimulus("shutdown-rdwr", EST, shutdown(RDWR), wait(3), ack(), ack(b"hello"), recv()),
    stimulus("shutdown-wr-pending", EST, send(b"x" * 3000), shutdown(WR), wait(3), ack(ack=3002)),
    stimulus("shutdown-after-rst", EST, seg("R"), shutdown(WR)),
    stimulus(
        "half-close-keeps-receiving",
        EST,
        shutdown(WR),
        wait(3),
        ack(),
        ack(b"one"),
        recv(),
        ack(b"two"),
        recv(),
        close(wait=3),
    ),
    stimulus(
        "half-close-by-peer", EST, seg("FA"), recv(), send(b"hello", wait=4), ack(), send(b"more", wait=4)
    ),
    stimulus("fin-wait2-timeout", *CLOSED, ack(wait=2300), ack(), tcp_fin_timeout=1),
    stimulus("tw-duplicate-fin", *TIME_WAIT, seg("FA", seq=1)),
    stimulus("tw-ack", *TIME_WAIT, ack()),
    stimulus("tw-ack-old", *TIME_WAIT, ack(seq=1)),
    stimulus("tw-data", *TIME_WAIT, ack(b"late")),
    stimulus("tw-rst", *TIME_WAIT, seg("R"), ack()),
    stimulus("tw-rst-rfc1337", *TIME_WAIT, seg("R"), ack(), tcp_rfc1337=1),
    stimulus("tw-rst-old", *TIME_WAIT, seg("R", seq=1), ack()),
    stimulus("tw-syn-new-ts", *TIME_WAIT, syn(seq=100, ts=(2000, 0)), ack(seq=101), accept(into="d")),
    stimulus(
        "tw-syn-higher-seq-no-ts", established(ts=None), close(wait=4), seg("FA"), syn(seq=100, ts=None)
    ),
    stimulus("tw-syn-lower-seq-new-ts", *TIME_WAIT, syn(seq=-100, ts=(2000, 0))),
    stimulus("tw-syn-same-ts", *TIME_WAIT, syn(seq=-100, ts=(1000, 0))),
    stimulus("tw-syn-old-ts", *TIME_WAIT, syn(seq=100, ts=(500, 0))),
    stimulus(
        "tw-syn-lower-seq-no-ts", established(ts=None), close(wait=4), seg("FA"), syn(seq=-100, ts=None)
    ),
    stimulus("tw-syn-ack", *TIME_WAIT, seg("SA", seq=100)),
    stimulus("tw-syn-no-listener", EST, close("L"), close(wait=4), seg("FA"), syn(seq=100, ts=(2000, 0))),
    stimulus("tw-paws", *TIME_WAIT, ack(tsval=500)),
    stimulus("tw-fin-out-of-window", *TIME_WAIT, seg("FA", seq=1 << 30)),
    stimulus("tw-fin-wait2-data", *CLOSED, ack(), wait(100), ack(b"x")),
    stimulus("udp-closed", udp(9, b"hello")),
    stimulus("udp-closed-empty", udp(9)),
    stimulus("udp-closed-no-checksum", udp(9, b"hello", checksum="none")),
    stimulus("udp-closed-bad-checksum", udp(9, b"hello", checksum="bad")),
    stimulus("udp-closed-long", udp(9, b"x" * 1200)),
    stimulus("udp-length-short", udp(9, b"hello", length=4)),
    stimulus("udp-length-long", udp(9, b"hello", length=400)),
    stimulus("udp-length-cuts", udp(9, b"hello", length=10, checksum="none")),
    stimulus("udp-port-0", udp(0, b"hello")),
    stimulus("udp-closed-tos", udp(9, b"hello", tos=0x48)),
    stimulus("udp-closed-broadcast", udp(9, b"hello", dst="10.0.2.255", checksum="none")),
    stimulus("udp-closed-fragments", udp(9, b"x" * 40, frag=0, frags=((0, 24, True), (24, 48, False)))),
    stimulus("udp-closed-many", *(udp(9, b"hello", wait=1) for _ in range(12))),
    stimulus("udp-truncated", ip(17, b"\x00\x09\x00")),
    stimulus("echo", icmp(8, 0, rest=0x12345678, data=b"ping")),
    stimulus("echo-empty", icmp(8, 0, rest=0x12345678, data=b"")),
    stimulus("echo-3000", icmp(8, 0, data=b"x" * 3000)),
    stimulus("echo-tos", icmp(8, 0, data=b"ping", tos=0x48)),
    stimulus("echo-bad-checksum", icmp(8, 0, data=b"ping", bad_checksum=True)),
    stimulus("echo-code-9", icmp(8, 9, data=b"ping")),
    stimulus("echo-broadcast", icmp(8, 0, data=b"ping", dst="10.0.2.255")),
    stimulus("echo-record-route", icmp(8, 0, data=b"ping", ip_options=b"\x07\x07\x04\0\0\0\0\0")),
    stimulus("echo-fragments", icmp(8, 0, data=b"x" * 40, frag=0, frags=((0, 24, True), (24, 48, False)))),
    stimulus("echo-ignored", icmp(8, 0, data=b"ping"), icmp_echo_ignore_all=1),
    stimulus("echo-reply-unasked", icmp(0, 0, data=b"pong")),
    stimulus("icmp-timestamp", icmp(13, 0, data=bytes(12)), icmp(13, 0, data=bytes(3))),
    stimulus("icmp-mask-request", icmp(17, 0, data=bytes(4))),
    stimulus("icmp-unknown-type", icmp(99, 0, data=b"")),
    stimulus("icmp-truncated", ip(1, b"\x08\x00\xf7")),
    stimulus("ip-unknown-protocol", ip(253, b"what")),
    stimulus("ip-unknown-protocol-broadcast", ip(253, b"what", dst="10.0.2.255")),
    stimulus("listener-any-after-child", listen(), syn(), ack(), accept(), close("L"), syn(sport=40001)),
]
