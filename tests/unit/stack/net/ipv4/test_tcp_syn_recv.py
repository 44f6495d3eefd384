# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a half-open connection; behaviour and counters measured on Linux 6.1."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim
from stack.include.ip import in_aton
from stack.include.snmp import (
    LINUX_MIB_EMBRYONICRSTS,
    LINUX_MIB_LISTENDROPS,
    LINUX_MIB_OUTOFWINDOWICMPS,
    LINUX_MIB_PAWSESTABREJECTED,
    LINUX_MIB_TCPACKSKIPPEDSYNRECV,
    LINUX_MIB_TCPCHALLENGEACK,
    LINUX_MIB_TCPDEFERACCEPTDROP,
    LINUX_MIB_TCPSYNRETRANS,
    TCP_MIB_ATTEMPTFAILS,
    TCP_MIB_PASSIVEOPENS,
    TCP_MIB_RETRANSSEGS,
)
from stack.include.tcp_states import TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_NEW_SYN_RECV
from stack.stack import Stack

Listen = Callable[..., Socket]


def request(peer: RawPeer, sport: int = 40000) -> tuple[RawTcp, Segment]:
    """A connection after SYN and SYN-ACK, with time stamps."""
    conn = peer.tcp(80, sport=sport)
    conn.send("S", mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    answer = conn.expect("SA", seq=0, ack=1)
    conn.ts_on = True
    return conn, answer


def qlen(sock: Socket) -> tuple[int, int]:
    queue = sock.sk.icsk_accept_queue  # type: ignore[attr-defined]
    return queue.qlen, queue.young


def members(net: Stack) -> list[int]:
    return sorted(sk.sk_state for chain in net.tcp_hashinfo.ehash.values() for sk in chain)


def test_new_syn_recv_request_hangs_in_ehash(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    request(peer)
    assert members(net) == [TCP_NEW_SYN_RECV]
    assert qlen(sock) == (1, 1)
    (req,) = (sk for chain in net.tcp_hashinfo.ehash.values() for sk in chain)
    assert req.rsk_listener is sock.sk  # type: ignore[attr-defined]


def test_new_syn_recv_ack_makes_the_child(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn, _ = request(peer)
    conn.send("A")
    peer.expect_nothing()
    assert members(net) == [TCP_ESTABLISHED]
    assert qlen(sock) == (0, 0)
    assert net.mib.tcp_statistics[TCP_MIB_PASSIVEOPENS] == 1
    (tb,) = net.tcp_hashinfo.bhash[80]
    assert tb.num_owners == 2
    child, address = sock.accept()
    assert address == ("10.0.2.15", 40000)
    assert child.getsockname() == ("10.0.2.2", 80)


def test_new_syn_recv_silence_resends_the_synack(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    sock = listen()
    conn, first = request(peer)
    times = []
    for _ in range(5):
        again = conn.expect("SA", seq=0, ack=1, within_ns=40 * SEC)
        assert (again.packet.ip_id, again.seq) == (0, first.seq)
        times.append(again.packet.time_ns / SEC)
    # Nominal times, plus what the timer wheel's rounding adds (measured: 1.0, 3.0, 7.1, 15.3, 31.4).
    for got, nominal, wheel in zip(times, (1, 3, 7, 15, 31), (0.04, 0.08, 0.35, 0.7, 2.8), strict=True):
        assert nominal <= got <= nominal + wheel
    assert qlen(sock) == (1, 0)
    peer.expect_nothing(40 * SEC)
    assert members(net) == []
    assert qlen(sock) == (0, 0)
    assert net.mib.net_statistics[LINUX_MIB_TCPSYNRETRANS] == 5
    assert net.mib.tcp_statistics[TCP_MIB_RETRANSSEGS] == 5


@pytest.mark.parametrize(("retries", "gone"), [(0, 1), (1, 3), (2, 7)])
def test_new_syn_recv_fewer_retries(
    listen: Listen, peer: RawPeer, net: Stack, sim: Sim, retries: int, gone: int
) -> None:
    net.sysctl_set("tcp_synack_retries", retries)
    listen()
    request(peer)
    sim.run_for(gone * SEC - MSEC)
    assert members(net) == [TCP_NEW_SYN_RECV]
    sim.run_for(400 * MSEC)
    assert members(net) == []


def test_new_syn_recv_syn_again_pushes_the_timer(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    listen()
    conn, _ = request(peer)
    sim.run_for(600 * MSEC)
    conn.send("S", seq=0, mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    times = [conn.expect("SA", within_ns=10 * SEC).packet.time_ns / SEC for _ in range(4)]
    assert times == pytest.approx([0.6, 1.6, 3.6, 7.8], abs=0.25)


def test_new_syn_recv_syn_again_at_most_twice_a_second(
    listen: Listen, peer: RawPeer, net: Stack, sim: Sim
) -> None:
    listen()
    conn, _ = request(peer)
    for _ in range(3):
        sim.run_for(10 * MSEC)
        conn.send("S", seq=0, mss=1460, sackok=True, ts=(1000, 0), wscale=7)
    conn.expect("SA")
    conn.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_TCPACKSKIPPEDSYNRECV] == 2


def test_new_syn_recv_another_syn_in_the_window(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn, _ = request(peer)
    conn.send("S", seq=100)
    peer.expect("RA", seq=0, ack=conn.isn + 101)
    assert members(net) == []
    assert qlen(sock) == (0, 0)
    assert net.mib.net_statistics[LINUX_MIB_EMBRYONICRSTS] == 1
    assert net.mib.tcp_statistics[TCP_MIB_ATTEMPTFAILS] == 1


@pytest.mark.parametrize("ack", [0, 2, 5000])
def test_new_syn_recv_wrong_ack_draws_rst_and_the_request_survives(
    listen: Listen, peer: RawPeer, net: Stack, ack: int
) -> None:
    sock = listen()
    conn, answer = request(peer)
    conn.send("A", ack=ack)
    peer.expect("R", seq=(answer.seq + ack) & 0xFFFFFFFF, ack=0)
    assert members(net) == [TCP_NEW_SYN_RECV]
    conn.send("A")
    peer.expect_nothing()
    sock.accept()


def test_new_syn_recv_ack_outside_the_window(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn, _ = request(peer)
    conn.send("A", seq=100_000)
    answer = conn.expect("A", seq=1, ack=1, window=509)
    assert answer.opts.kinds == (1, 1, 8)
    assert members(net) == [TCP_NEW_SYN_RECV]


def test_new_syn_recv_old_tsval(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn, _ = request(peer)
    for _ in range(2):
        conn.send("A", ts=(900, conn.ts_recent))
    conn.expect("A", window=509)
    conn.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_PAWSESTABREJECTED] == 2
    assert net.mib.net_statistics[LINUX_MIB_TCPACKSKIPPEDSYNRECV] == 1


def test_new_syn_recv_exact_rst(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn, _ = request(peer)
    conn.send("R")
    peer.expect_nothing()
    assert members(net) == []
    assert qlen(sock) == (0, 0)


def test_new_syn_recv_rst_in_the_window_draws_a_challenge(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn, _ = request(peer)
    conn.send("R", seq=100)
    conn.expect("A", seq=1, ack=1)
    assert members(net) == [TCP_NEW_SYN_RECV]


def test_new_syn_recv_rst_in_the_window_counts_a_challenge(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn, _ = request(peer)
    conn.send("R", seq=2)
    conn.expect("A", seq=1, ack=1)
    assert net.mib.net_statistics[LINUX_MIB_TCPCHALLENGEACK] == 1


def test_new_syn_recv_exact_rst_with_a_wrong_ack_resets(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn, _ = request(peer)
    conn.send("RA", ack=99)
    peer.expect_nothing()
    assert members(net) == []
    assert qlen(sock) == (0, 0)
    assert net.mib.net_statistics[LINUX_MIB_EMBRYONICRSTS] == 1


def test_new_syn_recv_rst_outside_the_window(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn, _ = request(peer)
    conn.send("R", seq=100_000)
    peer.expect_nothing()
    assert members(net) == [TCP_NEW_SYN_RECV]


@pytest.mark.parametrize(("flags", "payload"), [("", b"data"), ("F", b""), ("P", b"data")])
def test_new_syn_recv_segment_without_ack(
    listen: Listen, peer: RawPeer, net: Stack, flags: str, payload: bytes
) -> None:
    listen()
    conn, _ = request(peer)
    conn.send(flags, payload, seq=1)
    peer.expect_nothing()
    assert members(net) == [TCP_NEW_SYN_RECV]


def test_new_syn_recv_fin_with_the_ack(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn, _ = request(peer)
    conn.send("FA")
    conn.expect("A", ack=2, within_ns=8 * MSEC)
    assert members(net) == [TCP_CLOSE_WAIT]
    child, _ = sock.accept()
    assert child.recv(10) == b""


def test_new_syn_recv_data_with_the_ack(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn, _ = request(peer)
    conn.send("PA", b"hello")
    conn.expect("A", ack=6)
    child, _ = sock.accept()
    assert child.recv(10) == b"hello"


def test_new_syn_recv_crossed_synack(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn, _ = request(peer)
    conn.send("SA", seq=0)
    conn.expect("A", seq=1, ack=1)
    assert members(net) == [TCP_NEW_SYN_RECV]


def test_new_syn_recv_ack_without_time_stamp(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn, _ = request(peer)
    conn.ts_on = False
    conn.send("A")
    peer.expect_nothing()
    sock.accept()


@pytest.mark.parametrize(("wscale", "child"), [(0, 0), (7, 7), (14, 14), (15, 14), (200, 14)])
def test_new_syn_recv_child_takes_the_window_scale(
    listen: Listen, peer: RawPeer, wscale: int, child: int
) -> None:
    sock = listen()
    conn = peer.tcp(80)
    conn.send("S", mss=1460, wscale=wscale)
    conn.expect("SA")
    conn.send("A")
    assert _child(sock, peer).rx_opt.snd_wscale == child


@pytest.mark.parametrize(
    ("mss", "child"), [(None, 536), (0, 536), (20, 48), (1000, 1000), (1460, 1460), (9000, 1460)]
)
def test_new_syn_recv_child_takes_the_mss(listen: Listen, peer: RawPeer, mss: int | None, child: int) -> None:
    sock = listen()
    conn = peer.tcp(80)
    conn.send("S", mss=mss)
    conn.expect("SA")
    conn.send("A")
    assert _child(sock, peer).mss_cache == child


@pytest.mark.parametrize(("mss", "child"), [(0, 524), (20, 36), (1460, 1448)])
def test_new_syn_recv_child_takes_the_mss_less_time_stamps(
    listen: Listen, peer: RawPeer, mss: int, child: int
) -> None:
    sock = listen()
    conn = peer.tcp(80)
    conn.send("S", mss=mss, ts=(1000, 0))
    conn.expect("SA")
    conn.ts_on = True
    conn.send("A")
    assert _child(sock, peer).mss_cache == child


def _child(sock: Socket, peer: RawPeer):  # type: ignore[no-untyped-def]
    peer.expect_nothing()
    return sock.accept()[0].sk


@pytest.mark.parametrize(("resends", "cwnd", "rto"), [(0, 10, 51), (1, 10, 750), (2, 1, 750)])
def test_new_syn_recv_child_after_resent_synacks(
    listen: Listen, peer: RawPeer, resends: int, cwnd: int, rto: int
) -> None:
    sock = listen()
    conn = peer.tcp(80)
    conn.send("S", mss=1460)
    for _ in range(resends + 1):
        conn.expect("SA", within_ns=5 * SEC)
    conn.send("A")
    child = _child(sock, peer)
    assert (child.snd_cwnd, child.icsk_rto) == (cwnd, rto)


@pytest.mark.parametrize(("resends", "cwnd"), [(1, 10), (2, 1)])
def test_new_syn_recv_child_after_resent_synacks_with_time_stamps(
    listen: Listen, peer: RawPeer, resends: int, cwnd: int
) -> None:
    sock = listen()
    conn, _ = request(peer)
    for _ in range(resends):
        conn.expect("SA", within_ns=5 * SEC)
    conn.send("A")
    child = _child(sock, peer)
    assert (child.snd_cwnd, child.icsk_rto) == (cwnd, 51)


# -- ICMP errors -------------------------------------------------------------------------------------------------


def _icmp(peer: RawPeer, type_: int, code: int, seq: int, sport: int = 40000) -> None:
    """An ICMP error that quotes the SYN-ACK."""
    head = b"".join(v.to_bytes(2, "big") for v in (80, sport)) + seq.to_bytes(4, "big")
    quoted = bytes((0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0))
    quoted += in_aton("10.0.2.2").to_bytes(4, "big") + in_aton("10.0.2.15").to_bytes(4, "big") + head
    peer.send_icmp("10.0.2.2", type_, code, 0, quoted)


@pytest.mark.parametrize(("type_", "code"), [(3, 0), (3, 1), (11, 0)])
def test_new_syn_recv_icmp_error_ends_the_request(
    listen: Listen, peer: RawPeer, net: Stack, type_: int, code: int
) -> None:
    sock = listen()
    _, answer = request(peer)
    _icmp(peer, type_, code, answer.seq)
    peer.expect_nothing()
    assert members(net) == []
    assert qlen(sock) == (0, 0)
    assert net.mib.net_statistics[LINUX_MIB_LISTENDROPS] == 1


@pytest.mark.parametrize(("type_", "code"), [(3, 3), (3, 4), (4, 0)])
def test_new_syn_recv_icmp_error_that_does_not(
    listen: Listen, peer: RawPeer, net: Stack, type_: int, code: int
) -> None:
    listen()
    _, answer = request(peer)
    _icmp(peer, type_, code, answer.seq)
    peer.expect_nothing()
    assert members(net) == [TCP_NEW_SYN_RECV]


def test_new_syn_recv_icmp_error_with_another_sequence_number(
    listen: Listen, peer: RawPeer, net: Stack
) -> None:
    listen()
    _, answer = request(peer)
    _icmp(peer, 3, 1, (answer.seq + 1) & 0xFFFFFFFF)
    peer.expect_nothing()
    assert members(net) == [TCP_NEW_SYN_RECV]
    assert net.mib.net_statistics[LINUX_MIB_OUTOFWINDOWICMPS] == 1


# -- TCP_DEFER_ACCEPT --------------------------------------------------------------------------------------------


def test_new_syn_recv_bare_ack_with_defer_accept(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    sock = listen(before=((6, 9, 5),))
    assert sock.getsockopt(6, 9) == 7
    conn, _ = request(peer)
    conn.send("A")
    peer.expect_nothing(6 * SEC)
    assert members(net) == [TCP_NEW_SYN_RECV]
    assert net.mib.net_statistics[LINUX_MIB_TCPDEFERACCEPTDROP] == 1
    conn.send("PA", b"x")
    conn.expect("A", ack=2)
    assert sock.accept()[0].recv(4) == b"x"
