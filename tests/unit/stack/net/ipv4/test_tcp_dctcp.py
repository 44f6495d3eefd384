# SPDX-License-Identifier: GPL-2.0-or-later
"""DCTCP against RFC 8257: alpha, the cut, the receiver's echo, and the way back to Reno."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, RawPeer, RawTcp, Sim
from stack.include.tcp import SOL_TCP, TCP_CC_INFO, TCP_CONGESTION, TCP_CA_Recovery
from stack.net.ipv4 import tcp_cong, tcp_dctcp
from stack.net.ipv4.tcp_dctcp import dctcp

CE, ECT0 = 3, 2
MSS = 1448


@pytest.fixture
def accept(sim: Sim, peer: RawPeer) -> Callable[[str], tuple[RawTcp, Any]]:
    """A connection to a DCTCP listener whose client's SYN has these flags."""
    net = sim.stacks[0]
    net.sysctl_set("tcp_ecn", 0)
    net.sysctl_set("tcp_allowed_congestion_control", "dctcp")

    def make(flags: str) -> tuple[RawTcp, Any]:
        listener = Socket(net)
        listener.setsockopt(SOL_TCP, TCP_CONGESTION, b"dctcp")
        listener.bind(("", 80))
        listener.listen(1)
        conn = peer.tcp(80)
        conn.send(flags, mss=1460, sackok=True, ts=(1000, 0), wscale=7)
        synack = conn.expect("SAE" if "E" in flags else "SA")
        assert synack.packet.tos == ECT0
        conn.ts_on = True
        conn.send("A")
        sim.settle()
        sock = listener.accept()[0]
        sock.setblocking(False)
        return conn, sock

    return make


def test_established_dctcp_everything_is_ect(accept: Any) -> None:
    conn, sock = accept("SEW")
    sock.send(b"data")
    assert conn.expect("PA").packet.tos == ECT0
    conn.send("A", b"x", tos=ECT0)
    assert conn.expect("A").packet.tos == ECT0


def test_established_dctcp_peer_without_ecn_falls_back_to_reno(accept: Any) -> None:
    conn, sock = accept("S")
    assert sock.getsockopt(SOL_TCP, TCP_CONGESTION, 16).rstrip(b"\0") == b"dctcp-reno"
    sock.send(b"data")
    assert conn.expect("PA").packet.tos == 0
    assert tcp_cong.tcp_ca_find("dctcp-reno") is None


def test_established_dctcp_echo_follows_each_segment(accept: Any) -> None:
    conn, _ = accept("SEW")
    for tos, flags in ((ECT0, "A"), (CE, "AE"), (CE, "AE"), (ECT0, "A")):
        conn.send("A", b"x" * MSS, tos=tos)
        assert conn.expect().flags == flags


def test_established_dctcp_change_of_ce_sends_the_delayed_ack_first(accept: Any) -> None:
    conn, sock = accept("SEW")
    for _ in range(16):
        conn.send("A", b"x", tos=ECT0)
        conn.expect("A")
    conn.send("A", b"x", tos=ECT0)
    conn.expect_nothing()
    before = sock._sock.sk.rcv_nxt
    conn.send("A", b"x", tos=CE)
    old, new = conn.expect("A", ack=18), conn.expect("AE", ack=19)
    assert old.packet.time_ns == new.packet.time_ns
    assert sock._sock.sk.rcv_nxt == before + 1


def rounds(sk: Any, delivered: int, marked: int, count: int) -> list[int]:
    """alpha after each of ``count`` round trips in which so many segments were delivered and marked."""
    alphas = []
    for _ in range(count):
        sk.delivered += delivered
        sk.delivered_ce += marked
        sk.snd_una = sk.snd_nxt = sk.snd_nxt + MSS
        tcp_dctcp.dctcp_update_alpha(sk, 0)
        alphas.append(sk.icsk_ca_priv.dctcp_alpha)
    return alphas


@pytest.mark.parametrize(("marked", "share"), [(0, 0.0), (10, 0.1), (50, 0.5), (100, 1.0)])
def test_dctcp_alpha_is_the_moving_mean_of_the_marked_share(accept: Any, marked: int, share: float) -> None:
    """RFC 8257, 3.3: alpha = alpha * (1 - g) + g * M with g = 1/16, from 1."""
    _, sock = accept("SEW")
    sk = sock._sock.sk
    expected = 1.0
    for alpha in rounds(sk, 100, marked, 60):
        expected += (share - expected) / 16
        assert alpha / 1024 == pytest.approx(expected, abs=0.02)
    assert tcp_dctcp.dctcp_ssthresh(sk) == pytest.approx(10 * (1 - expected / 2), abs=1)


def test_dctcp_alpha_moves_once_a_round_trip(accept: Any) -> None:
    _, sock = accept("SEW")
    sk = sock._sock.sk
    rounds(sk, 100, 0, 1)
    alpha = sk.icsk_ca_priv.dctcp_alpha
    sk.snd_nxt += MSS
    tcp_dctcp.dctcp_reset(sk, sk.icsk_ca_priv)
    sk.delivered += 10
    tcp_dctcp.dctcp_update_alpha(sk, 0)
    assert sk.icsk_ca_priv.dctcp_alpha == alpha


def test_dctcp_loss_halves_whatever_alpha_is(accept: Any) -> None:
    _, sock = accept("SEW")
    sk = sock._sock.sk
    ca: dctcp = sk.icsk_ca_priv
    ca.dctcp_alpha = 0
    sk.snd_cwnd = 40
    tcp_cong.tcp_set_ca_state(sk, TCP_CA_Recovery)
    assert sk.snd_ssthresh == 20
    sk.snd_cwnd = 20
    assert tcp_dctcp.dctcp_cwnd_undo(sk) == 40


def test_established_dctcp_marks_cut_the_window_by_half_of_alpha(accept: Any, sim: Sim) -> None:
    conn, sock = accept("SEW")
    sk = sock._sock.sk
    sk.snd_cwnd, sk.icsk_ca_priv.dctcp_alpha = 20, 512
    sock.send(bytes(20 * MSS))
    for _ in range(20):
        conn.expect()
    sim.run_for(MSEC)
    tcp_dctcp.dctcp_reset(sk, sk.icsk_ca_priv)
    conn.send("AE", ack=1 + MSS)
    sim.settle()
    assert sk.snd_ssthresh == 15


def test_established_dctcp_info_after_fast_open_took_a_segment_back_is_32_bits(accept: Any) -> None:
    """A client's Fast Open counts its SYN's data one less once acknowledged, after DCTCP noted the count."""
    _, sock = accept("SEW")
    sk = sock._sock.sk
    sk.delivered = sk.icsk_ca_priv.old_delivered - 1
    assert sock.getsockopt(SOL_TCP, TCP_CC_INFO, 64)[-4:] == (-sk.mss_cache & 0xFFFFFFFF).to_bytes(
        4, "little"
    )
