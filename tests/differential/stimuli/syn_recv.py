# SPDX-License-Identifier: GPL-2.0-or-later
"""Events in SYN_RECV."""

from __future__ import annotations

import socket

from tests.differential.script import accept, ack, icmp, listen, recv, seg, stimulus, syn, wait

O = (listen(), syn())  # noqa: E741
N = (listen(), syn(ts=None))
DONE = (ack(), accept())

STIMULI = [
    stimulus("synrecv-dup-syn", O, syn(seq=0)),
    stimulus("synrecv-dup-syn-twice", O, syn(seq=0), syn(seq=0), DONE),
    stimulus("synrecv-dup-syn-after-600", O, syn(seq=0), wait(600), syn(seq=0)),
    stimulus("synrecv-dup-syn-new-ts", O, syn(seq=0, ts=(1500, 0)), ack(), accept()),
    stimulus("synrecv-dup-syn-other-options", O, seg("S", seq=0, mss=500, nots=True), ack()),
    stimulus("synrecv-new-syn-above", O, seg("S", seq=100, ts=(1000, 0)), DONE),
    stimulus("synrecv-new-syn-below", O, seg("S", seq=-100, ts=(1000, 0)), DONE),
    stimulus("synrecv-new-syn-no-ts", O, seg("S", seq=100, nots=True), DONE),
    stimulus("synrecv-new-syn-far", O, seg("S", seq=1 << 30, ts=(1000, 0)), DONE),
    *(stimulus(f"synrecv-ack-{n}", O, ack(ack=n), DONE) for n in (-1, 0, 2, 100, 70000, 1 << 30)),
    *(
        stimulus(f"synrecv-ack-seq-{n}", O, ack(seq=n), DONE)
        for n in (0, -1, -100, 2, 100, 65159, 65160, 65161, 65162, 70000, 1 << 30)
    ),
    *(stimulus(f"synrecv-nots-ack-seq-{n}", N, ack(seq=n), DONE) for n in (0, 2, 64240, 64241, 64242)),
    *(
        stimulus(f"synrecv-rst-{n}", O, seg("R", seq=n), DONE)
        for n in (0, 1, 2, 100, 65160, 65161, 65162, 1 << 30)
    ),
    stimulus("synrecv-rst-ack", O, seg("RA"), DONE),
    stimulus("synrecv-rst-ack-wrong", O, seg("RA", ack=99), DONE),
    stimulus("synrecv-rst-data", O, seg("R", b"bye"), DONE),
    stimulus("synrecv-no-flags", O, seg("", seq=1), DONE),
    stimulus("synrecv-data-no-ack", O, seg("P", b"x", seq=1), DONE),
    stimulus("synrecv-fin-no-ack", O, seg("F", seq=1), DONE),
    stimulus("synrecv-fin-ack", O, seg("FA"), accept(), recv()),
    stimulus("synrecv-fin-ack-data", O, seg("FA", b"hello", wait=60), accept(), recv(), recv()),
    stimulus("synrecv-data-on-ack", O, ack(b"hello"), accept(), recv()),
    stimulus("synrecv-data-1460", N, ack(bytes(1460)), accept(), recv()),
    stimulus("synrecv-urg-data", O, seg("AU", b"hello", urg=3), accept(), recv()),
    stimulus("synrecv-synack-crossed", O, seg("SA", seq=0), DONE),
    stimulus("synrecv-synack-next", O, seg("SA", seq=1), DONE),
    stimulus("synrecv-syn-ack-wrong-ack", O, seg("SA", seq=0, ack=77), DONE),
    stimulus("synrecv-syn-fin", O, seg("SF", seq=0), DONE),
    stimulus("synrecv-paws", O, ack(tsval=500), ack(tsval=1000), accept()),
    stimulus(
        "synrecv-paws-data", O, ack(b"old", tsval=500), ack(b"new", tsval=1000, seq=1), accept(), recv()
    ),
    stimulus("synrecv-paws-rst", O, seg("R", ts=(500, 0)), DONE),
    stimulus("synrecv-tsecr-old", O, ack(ts_off=5000), accept()),
    stimulus("synrecv-tsecr-future", O, ack(ts_off=-5000), accept()),
    stimulus("synrecv-tsecr-zero", O, ack(ts=(1000, 0)), accept()),
    stimulus("synrecv-no-ts", O, ack(nots=True), accept(), ack(b"x")),
    stimulus("synrecv-ooo-data-first", O, ack(b"world", seq=6), ack(b"hello", seq=1), accept(), recv()),
    stimulus("synrecv-ack-window-0", O, ack(win=0), accept()),
    stimulus("synrecv-retransmit", O, wait(3500)),
    stimulus("synrecv-retransmit-then-ack", O, wait(1200), DONE),
    stimulus("synrecv-retransmit-ts", O, wait(1200), syn(seq=0, ts=(2200, 0)), DONE),
    stimulus("synrecv-retries-1", O, wait(4500), ack(), tcp_synack_retries=1),
    stimulus("synrecv-retries-0", O, wait(2300), ack(), tcp_synack_retries=0),
    stimulus(
        "synrecv-half-full-prunes",
        listen(1),
        syn(sport=41000, wait=600),
        syn(sport=41001),
        wait(8000),
        tcp_synack_retries=3,
    ),
    *(
        stimulus(f"synrecv-icmp-{k}-{c}", O, icmp(k, c, rest=1400 if (k, c) == (3, 4) else 0), DONE)
        for k, c in (
            (3, 0),
            (3, 1),
            (3, 2),
            (3, 3),
            (3, 4),
            (3, 9),
            (3, 10),
            (3, 13),
            (11, 0),
            (11, 1),
            (12, 0),
            (4, 0),
        )
    ),
    stimulus("synrecv-icmp-wrong-seq", O, icmp(3, 1, seq=9), DONE),
    stimulus("synrecv-icmp-short-quote", O, icmp(3, 1, quote=4), DONE),
    stimulus("synrecv-icmp-bad-checksum", O, icmp(3, 1, bad_checksum=True), DONE),
    stimulus("listen-icmp-unreachable", listen(), icmp(3, 1), syn()),
    stimulus("closed-icmp-unreachable", icmp(3, 1)),
    stimulus("icmp-other-flow", O, icmp(3, 1, sport=45000), DONE),
    stimulus("icmp-wrong-source", O, icmp(3, 1, qsrc="10.0.2.9"), DONE),
    stimulus("synrecv-save-syn", listen(16, 80, (socket.IPPROTO_TCP, 27, 1)), syn(), ack(), accept()),
    stimulus("synrecv-wrap-isn", listen(), syn(isn=0xFFFFFFFF), ack(b"hello"), accept(), recv()),
    stimulus("synrecv-wrap-in-data", listen(), syn(isn=0xFFFFFFFC), ack(b"hello"), accept(), recv()),
]
