# SPDX-License-Identifier: GPL-2.0-or-later
"""TIME_WAIT and the orphaned FIN_WAIT2; measured on Linux 6.1."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Sim
from stack.include.inet_timewait_sock import tcp_timewait_sock
from stack.include.snmp import (
    LINUX_MIB_PAWSESTABREJECTED,
    LINUX_MIB_TCPACKSKIPPEDTIMEWAIT,
    LINUX_MIB_TCPREQQFULLDROP,
    LINUX_MIB_TCPTIMEWAITOVERFLOW,
    LINUX_MIB_TIMEWAITED,
)
from stack.include.tcp_states import TCP_FIN_WAIT2, TCP_TIME_WAIT
from stack.stack import Stack

Listen = Callable[..., Socket]


def time_waits(net: Stack) -> list[tcp_timewait_sock]:
    return [
        sk for chain in net.tcp_hashinfo.ehash.values() for sk in chain if isinstance(sk, tcp_timewait_sock)
    ]


def closed(sock: Socket, peer: RawPeer, *, ts: bool = True) -> RawTcp:
    """A connection that we closed first: its socket is in TIME_WAIT."""
    conn = peer.tcp(80)
    conn.handshake(ts=ts)
    child, _ = sock.accept()
    child.close()
    conn.expect("FA", seq=1, ack=1)
    conn.send("FA")
    conn.expect("A", seq=2, ack=2)
    return conn


def test_time_wait_after_closing_first(listen: Listen, peer: RawPeer, net: Stack) -> None:
    closed(listen(), peer)
    (tw,) = time_waits(net)
    assert (tw.sk_state, tw.tw_substate) == (TCP_TIME_WAIT, TCP_TIME_WAIT)
    (tb,) = net.tcp_hashinfo.bhash[80]
    assert tw in tb.owners


def test_time_wait_ends_after_a_minute(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    sock = listen()
    closed(sock, peer)
    sim.run_for(60 * SEC - MSEC)
    assert len(time_waits(net)) == 1
    sim.run_for(2 * SEC + MSEC)
    assert time_waits(net) == []
    assert net.mib.net_statistics[LINUX_MIB_TIMEWAITED] == 1
    assert net.tcp_death_row.tw_refcount == 0
    sock.close()
    assert net.tcp_hashinfo.bhash == {}


def test_time_wait_fin_again(listen: Listen, peer: RawPeer) -> None:
    conn = closed(listen(), peer)
    for _ in range(2):
        conn.send("FA", seq=1)
        answer = conn.expect("A", seq=2, ack=2)
        assert answer.packet.ip_id == 0


def test_time_wait_old_ack_is_answered_twice_a_second(listen: Listen, peer: RawPeer, net: Stack) -> None:
    conn = closed(listen(), peer)
    conn.send("A", seq=1)
    conn.expect("A", seq=2, ack=2)
    conn.send("A", seq=1)
    conn.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_TCPACKSKIPPEDTIMEWAIT] == 1


def test_time_wait_rst(listen: Listen, peer: RawPeer, net: Stack) -> None:
    closed(listen(), peer).send("R")
    peer.expect_nothing()
    assert time_waits(net) == []


def test_time_wait_rst_with_rfc1337(listen: Listen, peer: RawPeer, net: Stack) -> None:
    net.sysctl_set("tcp_rfc1337", 1)
    closed(listen(), peer).send("R")
    peer.expect_nothing()
    assert len(time_waits(net)) == 1


def test_time_wait_newer_syn_begins_a_connection(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    sock = listen()
    old = closed(sock, peer)
    sim.run_for(SEC)
    assert old.irs is not None
    again = peer.tcp(80, isn=2_000_000)
    again.send("S", mss=1460, ts=(2000, 0))
    answer = again.expect("SA", ack=1)
    assert (answer.seq - old.irs) & 0xFFFFFFFF == SEC // 64
    assert time_waits(net) == []
    again.ts_on = True
    again.send("A", ts=(2001, again.ts_recent))
    peer.expect_nothing()
    sock.accept()


def test_time_wait_newer_syn_on_a_newer_kernel(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", profile="linux-6.18")
    peer = sim.add_peer("10.0.2.15", net)
    sock = Socket(net)
    sock.bind(("", 80))
    sock.listen(5)
    old = closed(sock, peer)
    again = peer.tcp(80, isn=2_000_000)
    again.send("S", mss=1460, ts=(2000, 0))
    assert old.irs is not None
    assert again.expect("SA", ack=1).seq == (old.irs + 2 + 65537) & 0xFFFFFFFF


def test_time_wait_newer_syn_meets_a_full_syn_queue(listen: Listen, peer: RawPeer, net: Stack) -> None:
    net.sysctl_set("tcp_syncookies", 0)
    sock = listen(0)
    closed(sock, peer)
    peer.tcp(80, sport=41000).send("S", mss=1460)
    peer.expect("SA")
    peer.tcp(80, isn=2_000_000).send("S", ts=(2000, 0))
    peer.expect_nothing()
    assert net.mib.net_statistics[LINUX_MIB_TCPREQQFULLDROP] == 1


def test_time_wait_old_syn(listen: Listen, peer: RawPeer, net: Stack) -> None:
    conn = closed(listen(), peer)
    conn.send("S", seq=-5000, ts=(900, 0))
    conn.expect("A", seq=2, ack=2)
    assert len(time_waits(net)) == 1
    assert net.mib.net_statistics[LINUX_MIB_PAWSESTABREJECTED] == 1


@pytest.mark.parametrize(("seq", "flags"), [(5000, "SA"), (-5000, "A")])
def test_time_wait_syn_without_time_stamps(listen: Listen, peer: RawPeer, seq: int, flags: str) -> None:
    conn = closed(listen(), peer, ts=False)
    conn.send("S", seq=seq, mss=1460)
    peer.expect(flags)


def test_time_wait_lower_seq_with_newer_time_stamp(listen: Listen, peer: RawPeer) -> None:
    conn = closed(listen(), peer)
    conn.send("S", seq=-5000, ts=(5000, 0))
    peer.expect("SA")


def test_time_wait_new_syn_with_the_listener_gone(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn = closed(sock, peer)
    sock.close()
    conn.send("S", seq=5000, ts=(5000, 0))
    conn.expect("A", seq=2, ack=2)
    assert len(time_waits(net)) == 1


def test_time_wait_too_many(listen: Listen, peer: RawPeer, net: Stack) -> None:
    net.sysctl_set("tcp_max_tw_buckets", 0)
    closed(listen(), peer)
    assert time_waits(net) == []
    assert net.mib.net_statistics[LINUX_MIB_TCPTIMEWAITOVERFLOW] == 1


def fin_wait2(sock: Socket, peer: RawPeer) -> RawTcp:
    conn = peer.tcp(80)
    conn.handshake()
    sock.accept()[0].close()
    conn.expect("FA", seq=1, ack=1)
    conn.send("A")
    return conn


def test_fin_wait2_orphan_lasts_a_minute(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    fin_wait2(listen(), peer)
    sim.run_for(59 * SEC)
    (tw,) = time_waits(net)
    assert tw.tw_substate == TCP_FIN_WAIT2
    sim.run_for(3 * SEC)
    assert time_waits(net) == []


def test_fin_wait2_orphan_gets_its_fin(listen: Listen, peer: RawPeer, net: Stack, sim: Sim) -> None:
    conn = fin_wait2(listen(), peer)
    sim.run_for(30 * SEC)
    conn.send("FA")
    conn.expect("A", seq=2, ack=2)
    (tw,) = time_waits(net)
    assert tw.tw_substate == TCP_TIME_WAIT


def test_fin_wait2_orphan_gets_data(listen: Listen, peer: RawPeer, net: Stack) -> None:
    conn = fin_wait2(listen(), peer)
    conn.send("PA", b"late")
    conn.expect("R", seq=2)
    assert time_waits(net) == []
