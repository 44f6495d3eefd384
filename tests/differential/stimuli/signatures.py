# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP-MD5 (RFC 2385): keys by peer, what is dropped, what is signed and with which key."""

from __future__ import annotations

from tests.differential.family import CLIENT
from tests.differential.script import (
    accept,
    ack,
    close,
    established,
    listen,
    recv,
    seg,
    send,
    setopt,
    stimulus,
    syn,
    wait,
)
from tests.differential.signature import KEY, OTHER_KEY, UNSIGNED, key_option

K = {"md5": KEY}
KEYED = listen(16, 80, key_option(CLIENT))
EST = (KEYED, syn(**K), ack(**K), accept())
CLOSED = (*EST, close(wait=4))
TIME_WAIT = (*CLOSED, seg("FA", **K))
OTHER = "10.0.2.16"
FORGET = key_option(CLIENT, b"")

STIMULI = [
    stimulus("md5-handshake", *EST, ack(b"hello", **K), recv(), send(b"world", wait=60), ack(**K)),
    stimulus("md5-syn-unsigned", KEYED, syn()),
    stimulus("md5-syn-other-key", KEYED, syn(md5=OTHER_KEY)),
    stimulus("md5-syn-digest-of-zeros", KEYED, syn(opts=UNSIGNED)),
    stimulus("md5-syn-short-option", KEYED, syn(opts=b"\x01\x13\x04\x00\x00\x01\x01\x01")),
    stimulus("md5-syn-option-twice", KEYED, syn(bare=True, opts=b"\1\1" + UNSIGNED[2:], **K)),
    stimulus("md5-data-option-twice", *EST, ack(b"hello", opts=b"\1\1" + UNSIGNED[2:], **K), recv()),
    stimulus("md5-data-broken-options", *EST, ack(b"hello", opts=b"\x1e\x30\0\0", **K), recv()),
    stimulus("md5-data-unexpected", established(bare=True, mss=1460), ack(b"hello", **K), recv()),
    stimulus(
        "md5-echo",
        *EST,
        *(step for _ in range(4) for step in (ack(b"hello", **K), recv(), send(b"x", wait=5), ack(**K))),
    ),
    stimulus("md5-syn-unexpected", listen(), syn(**K)),
    stimulus("md5-syn-from-other-peer", listen(16, 80, key_option(OTHER)), syn()),
    stimulus("md5-syn-from-other-peer-signed", listen(16, 80, key_option(OTHER)), syn(**K)),
    stimulus("md5-syn-prefix", listen(16, 80, key_option("10.0.2.0", prefix=24)), syn(**K), ack(**K)),
    stimulus("md5-syn-prefix-outside", listen(16, 80, key_option("10.0.3.0", prefix=24)), syn()),
    stimulus(
        "md5-syn-longest-prefix",
        listen(16, 80, key_option("10.0.2.0", OTHER_KEY, prefix=24), key_option(CLIENT)),
        syn(**K),
    ),
    stimulus("md5-syn-bare", KEYED, syn(bare=True, **K), ack(**K), accept()),
    stimulus("md5-syn-mss-only", KEYED, syn(bare=True, mss=1460, **K)),
    stimulus("md5-syn-no-ts", KEYED, syn(bare=True, mss=1460, sackok=True, wscale=7, **K)),
    stimulus("md5-syn-no-sack", KEYED, syn(bare=True, mss=1460, ts=(1000, 0), wscale=7, **K)),
    stimulus("md5-syn-ecn", KEYED, seg("SEW", mss=1460, **K)),
    stimulus("md5-syn-data", KEYED, syn(data=b"hello", **K)),
    stimulus("md5-syn-retransmitted", KEYED, syn(**K), syn(seq=0, **K)),
    stimulus("md5-synack-retransmitted", KEYED, syn(wait=1100, **K)),
    stimulus("md5-ack-unsigned", KEYED, syn(**K), ack(), ack(**K), accept()),
    stimulus("md5-ack-other-key", KEYED, syn(**K), ack(md5=OTHER_KEY), accept()),
    stimulus("md5-request-rst-unsigned", KEYED, syn(**K), seg("R"), ack(**K), accept()),
    stimulus("md5-request-rst-signed", KEYED, syn(**K), seg("R", **K), ack(**K), accept()),
    stimulus("md5-request-bad-ack", KEYED, syn(**K), ack(ack=99, **K)),
    stimulus("md5-request-bad-ack-unsigned", KEYED, syn(**K), ack(ack=99)),
    stimulus("md5-listen-ack-signed", KEYED, seg("A", seq=5, ack=77, **K)),
    stimulus("md5-listen-ack-unsigned", KEYED, seg("A", seq=5, ack=77)),
    stimulus("md5-closed-port-signed", seg("S", **K)),
    stimulus("cookies-md5", KEYED, syn(**K), ack(**K), accept(), ack(b"hello", **K), tcp_syncookies=2),
    stimulus("cookies-md5-unsigned-ack", KEYED, syn(**K), ack(), accept(), tcp_syncookies=2),
    stimulus("md5-data-unsigned", *EST, ack(b"hello"), recv(), ack(b"again", seq=1, **K), recv()),
    stimulus("md5-data-other-key", *EST, ack(b"hello", md5=OTHER_KEY), recv()),
    stimulus("md5-data-out-of-order", *EST, ack(b"world", seq=6, **K), ack(b"hello", seq=1, **K), recv()),
    stimulus("md5-data-out-of-window", *EST, ack(b"x", seq=0x7FFFFFFF, **K)),
    stimulus("md5-data-retransmitted", *EST, send(b"hello", wait=700)),
    stimulus("md5-send-two-segments", *EST, send(b"x" * 2800, wait=20)),
    stimulus("md5-rst-unsigned", *EST, seg("R"), ack(b"hello", **K), recv()),
    stimulus("md5-rst-signed", *EST, seg("R", **K), recv()),
    stimulus("md5-rst-inexact", *EST, seg("R", seq=9, **K)),
    stimulus("md5-syn-in-established", *EST, seg("S", seq=5, **K)),
    stimulus("md5-close", *CLOSED, ack(**K), seg("FA", **K)),
    stimulus("md5-close-unread", *EST, ack(b"hello", **K), close(wait=4)),
    stimulus("md5-close-data-after", *CLOSED, ack(**K), ack(b"late", **K)),
    stimulus("md5-passive-close", *EST, seg("FA", **K), recv(), close(wait=4), ack(**K)),
    stimulus("md5-tw-fin-again", *TIME_WAIT, seg("FA", seq=1, **K)),
    stimulus("md5-tw-fin-again-unsigned", *TIME_WAIT, seg("FA", seq=1)),
    stimulus("md5-tw-old-ack", *TIME_WAIT, ack(seq=0, **K)),
    stimulus("md5-tw-syn", *TIME_WAIT, wait(1100), syn(isn=2_000_000, tsval=9000, **K)),
    stimulus("md5-child-key-removed", *EST, setopt(*FORGET), ack(b"hello"), recv(), send(b"x", wait=4)),
    stimulus("md5-child-key-removed-signed", *EST, setopt(*FORGET), ack(b"hello", **K), recv()),
    stimulus("md5-child-key-changed", *EST, setopt(*key_option(CLIENT, OTHER_KEY)), send(b"x", wait=4)),
    stimulus("md5-listener-key-removed", *EST, setopt(*FORGET, sock="L"), ack(b"hello", **K), recv()),
    stimulus(
        "md5-listener-key-changed-in-between",
        KEYED,
        syn(**K),
        setopt(*key_option(CLIENT, OTHER_KEY), sock="L"),
        ack(**K),
        accept(),
    ),
    stimulus("md5-key-remove-unknown", listen(), setopt(*FORGET, sock="L")),
    stimulus("md5-key-too-long", listen(16, 80, key_option(CLIENT, b"k" * 80)), syn(md5=b"k" * 80)),
    stimulus("md5-key-struct-short", listen(16, 80, (*FORGET[:2], FORGET[2][:100]))),
    stimulus("md5-key-family", listen(16, 80, key_option(CLIENT, family=99))),
    stimulus("md5-key-prefix-too-long", listen(16, 80, key_option(CLIENT, prefix=33))),
]
