# SPDX-License-Identifier: GPL-2.0-or-later
"""ECN on a connection (RFC 3168): ECT on data, ECE until CWR, one reduction per window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, RawTcp, Sim

ListenFactory = Callable[..., Socket]
CE, ECT0 = 3, 2


def connect(sim: Sim, peer: RawPeer, listen: ListenFactory) -> tuple[RawTcp, Any]:
    listener = listen()
    conn = peer.tcp(80)
    conn.send("SEW", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    assert conn.expect("SAE").packet.tos == 0
    conn.ts_on = True
    conn.send("A")
    sim.settle()
    return conn, listener.accept()[0]


def test_established_ecn_data_are_ect_and_pure_acks_are_not(
    sim: Sim, peer: RawPeer, listen: ListenFactory
) -> None:
    conn, sock = connect(sim, peer, listen)
    sock.send(b"data")
    assert conn.expect("PA").packet.tos == ECT0
    conn.send("A", b"x", tos=ECT0)
    assert conn.expect("A").packet.tos == 0


def test_established_ecn_ce_is_echoed_until_cwr(sim: Sim, peer: RawPeer, listen: ListenFactory) -> None:
    conn, _ = connect(sim, peer, listen)
    conn.send("A", b"x", tos=ECT0)
    conn.expect("A")
    conn.send("A", b"x", tos=CE)
    conn.expect("AE")
    conn.send("A", b"x", tos=ECT0)
    conn.expect("AE")
    conn.send("AW", b"x", tos=ECT0)
    conn.expect("A")


def test_established_ecn_echo_reduces_once_and_says_cwr(
    sim: Sim, peer: RawPeer, listen: ListenFactory
) -> None:
    conn, sock = connect(sim, peer, listen)
    sock.send(b"x" * 14480)
    for _ in range(10):
        conn.expect()
    conn.send("AE", ack=1 + 1448)
    conn.send("AE", ack=1 + 2896)
    sim.settle()
    sk = sock._sock.sk
    assert sk.snd_ssthresh == 7
    assert sk.icsk_ca_state == 2
    sock.send(b"y")
    conn.send("A")
    assert conn.expect().flags == "PAW"
