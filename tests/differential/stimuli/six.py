# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP stimuli of the other files over IPv6: those whose answer is made by functions that each family has of its own
(net/ipv6/tcp_ipv6.c, syncookies.c, inet6_hashtables.c), and some of every other kind."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from tests.differential.stimuli import closing, established, listener, queues, syn_recv, synack

_TAKEN = {
    synack: "synack-full synack-no-options synack-mss-[1o]* synack-sysctl-no-ts synack-rcvbuf-20000 synack-maxseg-* "
    "synack-retry-later synack-opt-eol-hides synack-syn-tos synack-reflect-tos",
    listener: "listen-flags-[nFRA]* listen-flags-S[FRA] listen-syn-data listen-ack-data closed-flags-[nPS]* "
    "closed-[sa]* closed-tos closed-flood ecn-setup bad-checksum-* zero-checksum-syn short-header header-19 doff-* "
    "reserved-bits",
    syn_recv: "synrecv-dup-syn* synrecv-new-syn-above synrecv-new-syn-no-ts synrecv-ack-[02] synrecv-ack-70000 "
    "synrecv-ack-seq-[02] synrecv-ack-seq-70000 synrecv-rst-[12] synrecv-rst-ack synrecv-no-flags "
    "synrecv-fin-ack-data synrecv-data-on-ack synrecv-synack-* synrecv-syn-fin synrecv-paws* synrecv-tsecr-future "
    "synrecv-retransmit-then-ack synrecv-save-syn synrecv-wrap-isn",
    queues: "synq-1-* acceptq-1 acceptq-drains acceptq-third-ack acceptq-abort somaxconn accept-order "
    "cookies-[abfnst]* cookies-mss-only defer-bare-ack defer-data defer-rst close-listener-*",
    established: "est-data est-echo est-syn est-syn-rst est-rst-[12] est-rst-send est-ack-70000 est-seq-0 est-paws "
    "est-ooo-one est-dsack-full est-fin-data est-urg est-bad-checksum est-send-mss-536 est-sack-one est-rto "
    "est-ecn-negotiated-ce",
    closing: "close-plain close-unread close-linger-0 close-passive close-simultaneous shutdown-wr half-close-by-peer "
    "tw-*",
}

STIMULI = [
    replace(stimulus, name=f"six-{stimulus.name}", family=6)
    for module, patterns in _TAKEN.items()
    for stimulus in module.STIMULI
    if any(fnmatchcase(stimulus.name, pattern) for pattern in patterns.split())
]
