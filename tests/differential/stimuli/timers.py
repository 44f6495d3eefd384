# SPDX-License-Identifier: GPL-2.0-or-later
"""Retransmission timing and giving up: round trips, backoff, Karn, TCP_USER_TIMEOUT, probes and keepalive.

Most of these have no tail loss probe, so that the first thing to happen is the RTO: 204 to 208 ms at the 4 ms of the
handshake, srtt + max(4 rttvar, 200 ms) in general (RFC 6298)."""

from __future__ import annotations

import socket
from typing import Any

from tests.differential.script import (
    Stimulus,
    accept,
    ack,
    close,
    established,
    icmp,
    info,
    listen,
    poll,
    recv,
    send,
    setopt,
    shutdown,
    stimulus,
    syn,
    wait,
)

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
USER_TIMEOUT = 18
EST, NOTS = established(), established(ts=None)
RTO_MS = 300.0  # the first, not the second
STATE = info(
    "retransmits", "backoff", "probes", "unacked", "total_retrans", "snd_cwnd", "snd_ssthresh", "ca_state", "state",
    "rto", "busy_time",
)  # fmt: skip
NODELAY = setopt(TCP, socket.TCP_NODELAY, 1)


def timer(name: str, *steps: Any, **sysctl: int | str) -> Stimulus:
    return stimulus(f"timer-{name}", *steps, **{"tcp_early_retrans": 0, **sysctl})


def slow(ms: float, **fields: Any) -> Any:
    """A handshake whose ACK comes after ``ms``."""
    return (listen(), syn(wait=ms, **fields), ack(), accept())


def user_timeout(ms: int) -> Any:
    return setopt(TCP, USER_TIMEOUT, ms)


def keepalive(idle: int = 1, interval: int = 1, count: int = 2) -> Any:
    options = ((SOL, socket.SO_KEEPALIVE, 1), (TCP, socket.TCP_KEEPIDLE, idle), (TCP, socket.TCP_KEEPINTVL, interval),
               (TCP, socket.TCP_KEEPCNT, count))  # fmt: skip
    return established(*options)


_RTO = [
    *(timer(f"rto-after-{ms}-ms", slow(ms), send(b"hello", wait=260 + 3 * ms), STATE) for ms in (4, 60)),
    timer(
        "rto-after-samples",
        slow(60),
        *(s for _ in range(3) for s in (send(b"x", wait=20), ack())),
        send(b"y", wait=400),
        STATE,
    ),
    timer("rto-after-a-slow-sample", EST, send(b"x", wait=120), ack(), send(b"y", wait=500), STATE),
    timer(
        "rto-restarts-at-an-ack",
        EST,
        send(b"x" * 100, wait=2),
        send(b"y", wait=0),
        NODELAY,
        wait(120),
        ack(ack=101, wait=150),
        STATE,
        wait(120),
        STATE,
    ),
    timer(
        "rto-not-restarted-by-old-ack",
        EST,
        send(b"x" * 100, wait=120),
        ack(ack=1, wait=130),
        STATE,
    ),
    timer(
        "rto-restarts-at-new-data",
        EST,
        NODELAY,
        send(b"x", wait=120),
        send(b"y", wait=140),
        STATE,
    ),
    timer(
        "backoff",
        EST,
        send(b"hello", wait=800),
        STATE,
        ack(),
        STATE,
        send(b"x", wait=RTO_MS),
        STATE,
    ),
    timer(
        "backoff-karn",
        NOTS,
        send(b"hello", wait=900),
        ack(),
        STATE,
        send(b"x", wait=RTO_MS),
        STATE,
    ),
    timer(
        "backoff-karn-then-sample",
        NOTS,
        send(b"hello", wait=RTO_MS),
        ack(),
        send(b"x", wait=4),
        ack(),
        send(b"y", wait=RTO_MS),
        STATE,
    ),
    timer(
        "tlp-one-packet",
        EST,
        send(b"hello", wait=260),
        STATE,
        wait(300),
        STATE,
        tcp_early_retrans=3,
    ),
    timer(
        "tlp-two-packets",
        EST,
        send(b"x" * 2896, wait=100),
        STATE,
        ack(),
        STATE,
        tcp_early_retrans=3,
    ),
    timer(
        "data-crosses",
        EST,
        send(b"hello", wait=100),
        ack(b"x", ack=1, wait=160),
        STATE,
        ack(),
        recv(),
    ),
]

_GIVING_UP = [
    timer("retries2-1", EST, send(b"hello", wait=1100), STATE, recv(), poll(), tcp_retries2=1),
    timer("retries2-0", EST, send(b"hello", wait=900), STATE, recv(), tcp_retries2=0),
    timer("orphan-retries-1", EST, send(b"hello"), close(wait=1500), ack(), tcp_orphan_retries=1),
    timer(
        "user-timeout-500",
        EST,
        user_timeout(500),
        send(b"hello", wait=400),
        STATE,
        wait(500),
        recv(),
        poll(),
        STATE,
    ),
    timer(
        "user-timeout-acked",
        EST,
        user_timeout(500),
        send(b"hello", wait=RTO_MS),
        ack(),
        send(b"x", wait=RTO_MS),
        STATE,
        recv(),
    ),
    timer(
        "user-timeout-short",
        EST,
        user_timeout(50),
        send(b"hello", wait=RTO_MS),
        STATE,
        wait(300),
        recv(),
    ),
    timer(
        "user-timeout-window-closed",
        established(win=0),
        user_timeout(500),
        send(b"hello", wait=RTO_MS),
        STATE,
        wait(600),
        recv(),
        STATE,
    ),
    timer(
        "user-timeout-fin",
        EST,
        user_timeout(500),
        shutdown(socket.SHUT_WR),
        wait(1000),
        recv(),
        STATE,
    ),
]

_KEEPALIVE = [
    timer(
        "keepalive-data-unacked",
        keepalive(),
        send(b"hello", wait=1300),
        STATE,
        ack(),
        STATE,
    ),
    timer("keepalive-rst-answers", keepalive(), wait(1200), ack(ack=1), recv(), STATE),
    timer(
        "keepalive-off-again",
        keepalive(),
        wait(600),
        setopt(SOL, socket.SO_KEEPALIVE, 0),
        wait(600),
        STATE,
    ),
    timer(
        "keepalive-set-late",
        EST,
        wait(100),
        setopt(TCP, socket.TCP_KEEPIDLE, 1),
        setopt(SOL, socket.SO_KEEPALIVE, 1),
        wait(1300),
        ack(),
        STATE,
    ),
]

# RFC 6069: an ICMP error about the packet that is being resent says that the path is broken, not congested.
_ICMP = [
    timer(
        "icmp-takes-a-backoff-back",
        EST,
        send(b"hello", wait=RTO_MS),
        STATE,
        icmp(3, 1, seq=1, wait=160),
        STATE,
        ack(),
        recv(),
    ),
    timer(
        "icmp-about-another-packet",
        EST,
        send(b"hello", wait=RTO_MS),
        icmp(3, 1, seq=3, wait=160),
        STATE,
        ack(),
        recv(),
    ),
    timer(
        "icmp-no-backoff-yet",
        EST,
        send(b"hello", wait=100),
        icmp(3, 1, seq=1, wait=160),
        STATE,
        ack(),
        recv(),
    ),
    timer(
        "icmp-then-gives-up",
        EST,
        send(b"hello", wait=RTO_MS),
        icmp(3, 1, seq=1, wait=1000),
        recv(),
        STATE,
        tcp_retries2=1,
    ),
]

STIMULI = [*_RTO, *_GIVING_UP, *_KEEPALIVE, *_ICMP]
