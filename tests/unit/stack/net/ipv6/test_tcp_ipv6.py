# SPDX-License-Identifier: GPL-2.0-or-later
"""The passive open over IPv6: what a listener of AF_INET6 does on the wire; figures of Linux 6.1."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import AF_INET6, Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Sim
from stack.include.dropreason import SKB_DROP_REASON_NO_SOCKET, SKB_DROP_REASON_TCP_MINTTL, drop_reason_names
from stack.include.ipv6 import (
    ICMPV6_DEST_UNREACH,
    ICMPV6_NOROUTE,
    ICMPV6_PKT_TOOBIG,
    IPV6_MINHOPCOUNT,
    IPV6_TCLASS,
    IPV6_UNICAST_HOPS,
    IPV6_V6ONLY,
    in6_pton,
)
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO6
from stack.include.sk_buff import SKB_GSO_TCPV6
from stack.include.snmp import (
    LINUX_MIB_LISTENDROPS,
    LINUX_MIB_LISTENOVERFLOWS,
    LINUX_MIB_OUTOFWINDOWICMPS,
    LINUX_MIB_SYNCOOKIESFAILED,
    LINUX_MIB_SYNCOOKIESRECV,
    LINUX_MIB_SYNCOOKIESSENT,
    TCP_MIB_CSUMERRORS,
    TCP_MIB_INERRS,
    TCP_MIB_OUTRSTS,
    TCP_MIB_PASSIVEOPENS,
    TCP_MIB_RETRANSSEGS,
)
from stack.include.tcp import SOL_TCP, TCP_FASTOPEN
from stack.include.tcp_states import TCP_ESTABLISHED, TCP_NEW_SYN_RECV, TCP_TIME_WAIT
from stack.net.core.sock import SO_REUSEPORT, SOL_SOCKET
from stack.net.ipv6.ipv6_sockglue import SOL_IPV6
from stack.stack import Stack

HOST = "fd00::2"
PEER = "fd00::15"
Listen = Callable[..., Socket]


@pytest.fixture
def sim() -> Sim:
    return Sim(seed=7)


@pytest.fixture
def net(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", HOST + "/64")


@pytest.fixture
def peer(sim: Sim, net: Stack) -> RawPeer:
    return sim.add_peer("10.0.2.15", net, addr6=PEER)


@pytest.fixture
def listen(net: Stack) -> Listen:
    def make(host: str = "::", backlog: int = 5, before: tuple[tuple[int, int, int], ...] = ()) -> Socket:
        return listening(net, host, backlog, before)

    return make


def listening(
    net: Stack, host: str = "::", backlog: int = 5, before: tuple[tuple[int, int, int], ...] = ()
) -> Socket:
    sock = Socket(net, AF_INET6)
    for option in before:
        sock.setsockopt(*option)
    sock.bind((host, 80))
    sock.listen(backlog)
    return sock


def tcp(peer: RawPeer, sport: int = 40000) -> RawTcp:
    return peer.tcp(80, dst=HOST, sport=sport)


def states(net: Stack) -> list[int]:
    return sorted(sk.sk_state for chain in net.tcp_hashinfo.ehash.values() for sk in chain)


def connected(sim: Sim, peer: RawPeer, sock: Socket, **handshake: Any) -> tuple[RawTcp, Socket]:
    conn = tcp(peer)
    conn.handshake(mss=1440, **handshake)
    sim.settle()
    return conn, sock.accept()[0]


def mib(net: Stack, field: int) -> int:
    return net.mib.net_statistics[field]


# -- handshake ------------------------------------------------------------------------------------------------------


def test_listen_syn_gets_a_synack_with_mss_1440(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn = tcp(peer)
    conn.send("S", mss=1440, sackok=True, ts=(1000, 0), wscale=7)
    answer = conn.expect("SA", seq=0, ack=1)
    assert (answer.packet.src, answer.packet.dst) == (HOST, PEER)
    assert (answer.opts.mss, answer.opts.wscale, answer.opts.sackok) == (1440, 7, True)
    assert answer.opts.ts is not None
    assert (answer.opts.ts[1], answer.packet.ttl, answer.packet.tos) == (1000, 64, 0)
    assert answer.window == 64260  # 45 segments of 1428 bytes
    assert states(net) == [TCP_NEW_SYN_RECV]


def test_new_syn_recv_ack_makes_the_child(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn = tcp(peer)
    conn.handshake(mss=1440)
    peer.expect_nothing()
    assert states(net) == [TCP_ESTABLISHED]
    assert net.mib.tcp_statistics[TCP_MIB_PASSIVEOPENS] == 1
    child, address = sock.accept()
    assert address == (PEER, 40000, 0, 0)
    assert child.getsockname() == (HOST, 80, 0, 0)
    assert child.getpeername() == address
    sk: Any = child.sk
    assert (sk.mss_cache, sk.advmss, sk.icsk_pmtu_cookie) == (1428, 1428, 1500)


def test_listen_isn_is_another_for_each_peer_and_clocked(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    listen()
    seqs = []
    for sport in (40000, 40001):
        conn = tcp(peer, sport)
        conn.send("S", mss=1440)
        seqs.append(conn.expect("SA").seq)
        conn.send("R", seq=1)
    assert seqs[0] != seqs[1]
    sim.run_for(64_000)
    conn = tcp(peer, 40000)
    conn.send("S", mss=1440)
    assert (conn.expect("SA").seq - seqs[0]) & 0xFFFFFFFF == 1000  # one per 64 ns


def test_new_syn_recv_silence_resends_the_synack(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn = tcp(peer)
    conn.send("S", mss=1440)
    first = conn.expect("SA", seq=0, ack=1)
    times = []
    for _ in range(5):
        again = conn.expect("SA", seq=0, ack=1, within_ns=40 * SEC)
        assert (again.seq, again.opts) == (first.seq, first.opts)
        times.append(round(again.packet.time_ns / SEC))
    assert times == [1, 3, 7, 15, 31]
    conn.expect_nothing(for_ns=70 * SEC)
    assert states(net) == []
    assert sock.sk.icsk_accept_queue.qlen == 0  # type: ignore[attr-defined]
    assert net.mib.tcp_statistics[TCP_MIB_RETRANSSEGS] == 5


def test_new_syn_recv_syn_again_gets_the_synack_again(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    listen()
    conn = tcp(peer)
    conn.send("S", mss=1440)
    first = conn.expect("SA")
    sim.run_for(600 * MSEC)
    conn.send("S", seq=0, mss=1440)
    assert conn.expect("SA", seq=0, ack=1).seq == first.seq


def test_new_syn_recv_wrong_ack_gets_a_reset(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn = tcp(peer)
    conn.send("S", mss=1440)
    conn.expect("SA")
    conn.send("A", ack=5)
    answer = conn.expect("R", seq=5)
    assert (answer.window, answer.opts.raw, answer.packet.ttl) == (0, b"", 64)
    assert states(net) == [TCP_NEW_SYN_RECV]


def test_new_syn_recv_out_of_window_gets_an_ack_with_time_stamp(listen: Listen, peer: RawPeer) -> None:
    listen()
    conn = tcp(peer)
    conn.send("S", mss=1440, ts=(1000, 0))
    conn.expect("SA")
    conn.send("A", b"x", seq=200_000, ts=(1001, conn.ts_recent))
    answer = conn.expect("A", seq=1, ack=1)
    assert answer.opts.ts is not None
    assert answer.opts.ts[1] == 1000


def test_new_syn_recv_rst_ends_the_request(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn = tcp(peer)
    conn.send("S", mss=1440)
    conn.expect("SA")
    conn.send("R")
    conn.expect_nothing()
    assert states(net) == []


def test_listen_accept_queue_full_drops_the_syn(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen(backlog=0)
    tcp(peer, 40000).handshake(mss=1440)
    conn = tcp(peer, 40001)
    conn.send("S", mss=1440)
    conn.expect_nothing()
    assert (mib(net, LINUX_MIB_LISTENOVERFLOWS), mib(net, LINUX_MIB_LISTENDROPS)) == (1, 1)


# -- who a segment is for -------------------------------------------------------------------------------------------


def test_close_syn_to_a_closed_port_gets_a_reset(peer: RawPeer, net: Stack) -> None:
    conn = tcp(peer)
    conn.send("S", mss=1440)
    answer = conn.expect("RA", seq=0, ack=1)
    assert (answer.window, answer.packet.ttl, answer.packet.tos) == (0, 64, 0)
    assert net.mib.tcp_statistics[TCP_MIB_OUTRSTS] == 1
    assert net.drop_reasons == {drop_reason_names[SKB_DROP_REASON_NO_SOCKET]: 1}


def test_close_ack_to_a_closed_port_gets_a_bare_reset(peer: RawPeer) -> None:
    conn = tcp(peer)
    conn.send("A", ack=77, seq=5)
    conn.expect("R", seq=77)


def test_close_rst_to_a_closed_port_gets_nothing(peer: RawPeer) -> None:
    tcp(peer).send("R")
    peer.expect_nothing()


def test_listen_bad_checksum_is_counted_and_dropped(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    tcp(peer).send("S", mss=1440, bad_checksum=True)
    peer.expect_nothing()
    assert net.mib.tcp_statistics[TCP_MIB_CSUMERRORS] == 1


def test_listen_address_before_any(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    reuse = ((SOL_SOCKET, SO_REUSEPORT, 1),)
    one, every = listen(HOST, before=reuse), listen("::", before=reuse)
    connected(sim, peer, one)
    with pytest.raises(BlockingIOError):
        every.accept()


def test_listen_reuseport_group_picks_by_the_tuple(net: Stack, peer: RawPeer) -> None:
    group = [listening(net, before=((SOL_SOCKET, SO_REUSEPORT, 1),)) for _ in range(2)]
    for sport in range(40000, 40010):
        tcp(peer, sport).handshake(mss=1440)
    waiting = [sock.sk.sk_ack_backlog for sock in group]
    assert sum(waiting) == 10
    assert min(waiting) > 0


def test_listen_dual_stack_serves_both_families(sim: Sim, net: Stack, peer: RawPeer) -> None:
    sock = listening(net)
    assert sock.getsockopt(SOL_IPV6, IPV6_V6ONLY) == 0
    connected(sim, peer, sock)
    assert states(net) == [TCP_ESTABLISHED]


def test_listen_v6only_serves_ipv6(sim: Sim, net: Stack, peer: RawPeer) -> None:
    sock = listening(net, before=((SOL_IPV6, IPV6_V6ONLY, 1),))
    _conn, child = connected(sim, peer, sock)
    assert child.getsockopt(SOL_IPV6, IPV6_V6ONLY) == 1


# -- the connection -------------------------------------------------------------------------------------------------


def test_established_data_both_ways_and_close(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    conn, child = connected(sim, peer, listen())
    conn.send("PA", b"hello")
    conn.expect("A", ack=6)
    assert child.recv(100) == b"hello"
    child.send(b"y" * 4000)
    got = b"".join(conn.expect().payload for _ in range(3))
    assert got == b"y" * 4000
    conn.send("A")
    child.close()
    conn.expect("FA", seq=4001)
    conn.send("FA")
    conn.expect("A", ack=7)
    assert states(net) == [TCP_TIME_WAIT]


def test_time_wait_repeats_its_ack_and_takes_a_new_syn(
    listen: Listen, peer: RawPeer, net: Stack, sim: Sim
) -> None:
    sock = listen()
    conn, child = connected(sim, peer, sock)
    child.close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    conn.send("FA", seq=1)
    assert conn.expect("A", ack=2).opts.ts is not None
    sim.run_for(2 * SEC)
    again = peer.tcp(80, dst=HOST, isn=9_000_000)
    again.ts_val = 5000
    again.handshake(mss=1440)
    assert states(net) == [TCP_ESTABLISHED]


def test_established_peer_closes_first(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    conn, child = connected(sim, peer, listen())
    conn.send("FA")
    sim.settle()
    assert child.recv(10) == b""
    child.close()
    sim.settle()
    conn.expect()
    while peer.inbox:
        conn.expect()
    conn.send("A", ack=2)
    sim.settle()
    assert states(net) == []


def test_established_lost_segment_is_sent_again(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    conn, child = connected(sim, peer, listen())
    child.send(b"lost")
    conn.expect("PA", seq=1, payload=b"lost")
    conn.expect("PA", seq=1, payload=b"lost", within_ns=SEC)


def test_established_syn_gets_a_challenge_ack(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    conn, _child = connected(sim, peer, listen())
    conn.send("S", seq=500)
    conn.expect("A", seq=1, ack=1)


def test_established_tso_leaves_in_large_frames(sim: Sim) -> None:
    net = sim.add_stack(HOST + "/64", features=NETIF_F_HW_CSUM | NETIF_F_SG | NETIF_F_TSO6)
    peer = sim.add_peer("10.0.2.15", net, addr6=PEER)
    conn, child = connected(sim, peer, listening(net))
    sent = len(sim.frames)
    child.send(b"z" * 8000)
    sim.settle()
    frames = sim.frames[sent:]
    assert len(frames) <= 3
    assert (frames[0].gso_size, frames[0].gso_type) == (1428, SKB_GSO_TCPV6)
    assert {(f.csum_start, f.csum_offset) for f in frames} == {(54, 16)}
    assert b"".join(conn.expect().payload for _ in frames) == b"z" * 8000


def test_established_gso_frame_is_received_whole(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    conn, child = connected(sim, peer, listen())
    conn.send("PA", b"q" * 4000)
    sim.settle()
    assert child.recv(10_000) == b"q" * 4000


def test_established_options_are_inherited(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    options = ((SOL_IPV6, IPV6_TCLASS, 0x48), (SOL_IPV6, IPV6_UNICAST_HOPS, 9))
    conn = tcp(peer)
    sock = listen(before=options)
    answer = conn.handshake(mss=1440)
    assert (answer.packet.tos, answer.packet.ttl) == (0x48, 9)
    child, _ = sock.accept()
    child.send(b"data")
    segment = conn.expect("PA")
    assert (segment.packet.tos, segment.packet.ttl) == (0x48, 9)
    assert child.getsockopt(SOL_IPV6, IPV6_TCLASS) == 0x48


def test_established_ecn_is_marked_in_the_traffic_class(sim: Sim) -> None:
    net = sim.add_stack(HOST + "/64", sysctl={"tcp_ecn": 1})
    peer = sim.add_peer("10.0.2.15", net, addr6=PEER)
    sock = listening(net)
    conn = tcp(peer)
    conn.send("SEW", mss=1440)
    assert conn.expect("SAE").packet.tos == 0
    conn.send("A")
    sim.settle()
    child, _ = sock.accept()
    child.send(b"data")
    assert conn.expect("PA").packet.tos == 2
    conn.send("PA", b"x")
    assert conn.expect("A").packet.tos == 0


def test_established_minhopcount_drops_what_came_too_far(
    listen: Listen, peer: RawPeer, net: Stack, sim: Sim
) -> None:
    conn, child = connected(sim, peer, listen())
    child.setsockopt(SOL_IPV6, IPV6_MINHOPCOUNT, 255)
    conn.send("PA", b"hello")
    peer.expect_nothing()
    assert net.drop_reasons[drop_reason_names[SKB_DROP_REASON_TCP_MINTTL]] == 1


# -- cookies --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cookies(sim: Sim) -> tuple[Stack, RawPeer]:
    net = sim.add_stack(HOST + "/64", sysctl={"tcp_syncookies": 2})
    return net, sim.add_peer("10.0.2.15", net, addr6=PEER)


def test_listen_cookie_keeps_nothing_and_comes_back(sim: Sim, cookies: tuple[Stack, RawPeer]) -> None:
    net, peer = cookies
    sock = listening(net)
    conn = tcp(peer)
    conn.send("S", mss=1440, sackok=True, ts=(1000, 0), wscale=7)
    conn.expect("SA", seq=0, ack=1)
    assert states(net) == []
    conn.ts_on = True
    conn.send("A")
    sim.settle()
    assert states(net) == [TCP_ESTABLISHED]
    sk: Any = sock.accept()[0].sk
    assert (sk.rx_opt.mss_clamp, sk.rx_opt.snd_wscale, sk.rx_opt.sack_ok) == (1440, 7, 1)
    assert (mib(net, LINUX_MIB_SYNCOOKIESSENT), mib(net, LINUX_MIB_SYNCOOKIESRECV)) == (1, 1)


@pytest.mark.parametrize(("offered", "kept"), [(500, 1220), (1220, 1220), (1430, 1420), (9000, 8940)])
def test_listen_cookie_rounds_the_mss_down(
    sim: Sim, cookies: tuple[Stack, RawPeer], offered: int, kept: int
) -> None:
    net, peer = cookies
    sock = listening(net)
    conn = tcp(peer)
    conn.send("S", mss=offered)
    conn.expect("SA")
    conn.send("A")
    sim.settle()
    sk: Any = sock.accept()[0].sk
    assert sk.rx_opt.mss_clamp == kept


def test_listen_forged_cookie_gets_a_reset(sim: Sim, cookies: tuple[Stack, RawPeer]) -> None:
    net, peer = cookies
    listening(net)
    conn = tcp(peer)
    conn.send("S", mss=1440)
    conn.expect("SA")
    conn.send("A", ack=12345)
    conn.expect("R")
    assert mib(net, LINUX_MIB_SYNCOOKIESFAILED) == 1


def test_listen_cookie_expires(sim: Sim, cookies: tuple[Stack, RawPeer]) -> None:
    net, peer = cookies
    listening(net)
    conn = tcp(peer)
    conn.send("S", mss=1440)
    conn.expect("SA")
    sim.run_for(181 * SEC)
    conn.send("A")
    conn.expect("R")
    assert states(net) == []


# -- ICMPv6 errors --------------------------------------------------------------------------------------------------


def quote(conn: RawTcp, seq: int, length: int = 1428) -> bytes:
    """The first bytes of a segment of ours, as a router quotes it: IPv6 header and TCP header."""
    head = bytes((0x60, 0, 0, 0)) + (20 + length).to_bytes(2, "big") + bytes((6, 64))
    head += in6_pton(HOST).to_bytes(16, "big") + in6_pton(PEER).to_bytes(16, "big")
    ports = conn.dport.to_bytes(2, "big") + conn.sport.to_bytes(2, "big")
    assert conn.irs is not None
    return (
        head + ports + ((conn.irs + seq) & 0xFFFFFFFF).to_bytes(4, "big") + bytes(4) + b"\x50\x10" + bytes(6)
    )


def send_error(peer: RawPeer, kind: int, code: int, rest: int, quoted: bytes) -> None:
    peer.send_icmp6(HOST, kind, code, rest, quoted)
    peer.sim.settle()


def test_established_packet_too_big_makes_segments_smaller(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    conn, child = connected(sim, peer, listen())
    child.send(b"a" * 1428)
    conn.expect("PA", length=1428)
    send_error(peer, ICMPV6_PKT_TOOBIG, 0, 1280, quote(conn, 1))
    sk: Any = child.sk
    assert (sk.icsk_pmtu_cookie, sk.mss_cache) == (1280, 1208)
    assert conn.expect("A", seq=1).payload == b"a" * 1208
    assert conn.expect("PA", seq=1209, within_ns=SEC).payload == b"a" * 220


@pytest.mark.parametrize("mtu", [0, 68, 1279])
def test_established_packet_too_big_below_1280_is_not_believed(
    listen: Listen, peer: RawPeer, sim: Sim, mtu: int
) -> None:
    conn, child = connected(sim, peer, listen())
    child.send(b"a" * 1428)
    conn.expect("PA", length=1428)
    send_error(peer, ICMPV6_PKT_TOOBIG, 0, mtu, quote(conn, 1))
    assert child.sk.mss_cache == 1428  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [0, 12, 19, 20])
def test_listen_segment_without_a_whole_header_is_dropped_uncounted(
    listen: Listen, peer: RawPeer, net: Stack, size: int
) -> None:
    """InErrs is for what a header says wrongly: a data offset below 5, a bad checksum."""
    listen()
    header = b"\x9c\x40\0\x50\0\0\0\1\0\0\0\0\xf0\2\0\0\0\0\0\0"  # with an offset of 60 bytes
    peer.send_ip(6, header[:size], HOST)
    peer.expect_nothing()
    assert net.drop_reasons == {"PKT_TOO_SMALL": 1}
    assert net.mib.tcp_statistics[TCP_MIB_INERRS] == 0


def test_listen_syn_from_nobody_is_dropped(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    peer.send_tcp(HOST, 40000, 80, "S", src="::", seq=1)
    peer.expect_nothing()
    assert (mib(net, LINUX_MIB_LISTENDROPS), states(net)) == (1, [])
    assert net.snapshot()["snmp6"]["Ip6OutNoRoutes"] == 1


def test_listen_syn_from_a_mapped_address_counts_as_a_bad_header(
    listen: Listen, peer: RawPeer, net: Stack
) -> None:
    listen()
    peer.send_tcp(HOST, 40000, 80, "S", src="::ffff:10.0.2.15", seq=1)
    peer.expect_nothing()
    assert net.snapshot()["snmp6"]["Ip6InHdrErrors"] == 1


def test_established_packet_too_big_out_of_window_is_ignored(
    listen: Listen, peer: RawPeer, net: Stack, sim: Sim
) -> None:
    conn, child = connected(sim, peer, listen())
    send_error(peer, ICMPV6_PKT_TOOBIG, 0, 1280, quote(conn, 5000))
    assert child.sk.mss_cache == 1428  # type: ignore[attr-defined]
    assert mib(net, LINUX_MIB_OUTOFWINDOWICMPS) == 1


def test_established_unreachable_is_a_soft_error(listen: Listen, peer: RawPeer, sim: Sim) -> None:
    conn, child = connected(sim, peer, listen())
    child.send(b"a")
    conn.expect("PA")
    send_error(peer, ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE, 0, quote(conn, 1))
    assert (child.sk.sk_err, child.sk.sk_err_soft) == (0, errno.ENETUNREACH)


def test_new_syn_recv_error_with_a_wrong_number_is_counted(listen: Listen, peer: RawPeer, net: Stack) -> None:
    listen()
    conn = tcp(peer)
    conn.send("S", mss=1440)
    conn.expect("SA")
    send_error(peer, ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE, 0, quote(conn, 7))
    assert states(net) == [TCP_NEW_SYN_RECV]
    assert mib(net, LINUX_MIB_OUTOFWINDOWICMPS) == 1


# -- link-local -----------------------------------------------------------------------------------------------------


def test_listen_link_local_peer_is_tied_to_its_device(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", "fd00::2/64")
    peer = sim.add_peer("10.0.2.15", net, addr6="fe80::15")
    sock = listening(net)
    dev = net.devices_by_name["eth0"]
    mac = dev.dev_addr
    local = f"fe80::{mac[0] ^ 2:x}{mac[1]:02x}:{mac[2]:x}ff:fe{mac[3]:02x}:{mac[4] << 8 | mac[5]:x}"
    conn = peer.tcp(80, dst=local)
    conn.handshake(mss=1440)
    child, address = sock.accept()
    assert address == ("fe80::15", 40000, 0, dev.ifindex)
    assert child.getsockname()[3] == dev.ifindex
    assert child.sk.sk_bound_dev_if == dev.ifindex


# -- Fast Open ------------------------------------------------------------------------------------------------------


def test_listen_fast_open_gives_a_cookie_and_takes_data_in_the_syn(sim: Sim) -> None:
    net = sim.add_stack(HOST + "/64", sysctl={"tcp_fastopen": 3})
    peer = sim.add_peer("10.0.2.15", net, addr6=PEER)
    sock = listening(net, before=((SOL_TCP, TCP_FASTOPEN, 5),))
    conn = tcp(peer, 39000)
    conn.send("S", mss=1440, options=b"\x22\x02\x01\x01")
    raw = conn.expect("SA", seq=0, ack=1).opts.raw
    at = raw.index(b"\x22\x0a")
    cookie = raw[at + 2 : at + 10]
    conn.send("R")
    conn = tcp(peer, 40000)
    conn.send("S", b"early", mss=1440, options=b"\x22\x0a" + cookie + b"\x01\x01")
    conn.expect("SA", seq=0, ack=6)
    child, address = sock.accept()
    assert (child.recv(10), address) == (b"early", (PEER, 40000, 0, 0))
    child.send(b"answer")
    assert conn.expect("PA", seq=1).payload == b"answer"
    conn.send("A")
    sim.settle()
    assert child.sk.sk_state == TCP_ESTABLISHED
