# SPDX-License-Identifier: GPL-2.0-or-later
"""Random walks of a few connections: hostile peers and careless applications, with TCP's books checked at each step.

A walk sends segments with flags, numbers and SACK blocks in and around the window, calls the sockets as an application
may, and lets time pass.  After each step the counters have to agree with the queues they count, and at the end of every
walk nothing may be left: no socket in the tables, no orphan.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Sim, parse_segment
from stack.include.ip import IPPROTO_TCP
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.include.snmp import TCP_MIB_CURRESTAB
from stack.include.tcp import TCPCB_LOST, TCPCB_SACKED_ACKED, TCPCB_SACKED_RETRANS
from stack.include.tcp_states import TCP_ESTABLISHED, TCP_NEW_SYN_RECV, TCP_TIME_WAIT
from stack.stack import Stack

MASK = 0xFFFFFFFF
FLAGS = ("A", "A", "A", "PA", "PA", "PA", "FA", "RA", "R", "SA", "S", "FPA", "PAU", "", "EA", "WA")
SYSCTLS: tuple[dict[str, Any], ...] = (
    {},
    {"tcp_abort_on_overflow": 1},
    {"tcp_recovery": 0},
    {"tcp_syncookies": 2},
    {"tcp_syncookies": 0},
)


class Walk:
    """One stack with a listener, one raw host with up to six connections, one seeded generator."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.sim = Sim(seed=seed)
        self.net: Stack = self.sim.add_stack(
            "10.0.2.2/24",
            features=rng.choice([0, NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO]),
            sysctl=rng.choice(SYSCTLS),
            profile=rng.choice(["linux-6.1", "linux-6.18"]),
        )
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net, delay_ns=rng.choice([0, 1, 20]) * MSEC)
        self.listener = Socket(self.net)
        self.listener.bind(("", 80))
        self.listener.listen(rng.choice([1, 2, 8]))
        self.conns: list[RawTcp] = []
        self.ends: dict[int, int] = {}  # what each connection got from us at most, by the peer's port
        self.socks: list[Socket] = []
        self.connect()

    def step(self) -> None:
        what = self.rng.random()
        try:
            if what < 0.05 and len(self.conns) < 6:
                self.connect()
            elif what < 0.65:
                self.segment(self.rng.choice(self.conns))
            elif what < 0.75:
                self.socks.append(self.listener.accept()[0])
            elif what < 0.88 and self.socks:
                self.call(self.rng.choice(self.socks))
            else:
                self.sim.run_for(self.rng.choice([1, 5, 40, 200, 1000, 10000]) * MSEC)
        except OSError:
            pass
        self.sim.settle()
        self.take_in()
        self.sim.frames.clear()
        check(self.net, self.listener.sk)

    def connect(self) -> None:
        rng = self.rng
        isn = rng.choice([MASK - 500, 0x7FFFFFF0, rng.getrandbits(32)])
        conn = self.peer.tcp(80, sport=40000 + len(self.conns), isn=isn)
        conn.window = rng.choice([0, 1, 500, 3000, 65535])
        conn.ts_on = rng.random() < 0.5
        conn.send(
            "S",
            mss=rng.choice([None, 88, 1460]),
            wscale=rng.choice([None, 0, 7, 14]),
            sackok=rng.random() < 0.7,
        )
        self.conns.append(conn)
        self.ends[conn.sport] = 1

    def segment(self, conn: RawTcp) -> None:
        rng, end = self.rng, self.ends[conn.sport]
        flags = rng.choice(FLAGS)
        size = rng.choice([0, 1, 10, 500, 1400]) if "P" in flags or rng.random() < 0.1 else 0
        offset = (
            rng.choice([-1400, -500, -1, 1, 100, 1400, 3000, 70000, 1 << 31]) if rng.random() < 0.25 else None
        )
        ack = rng.choice([conn.rcv_nxt, end, end, rng.randint(0, end + 1), end + 5])
        conn.ts_val += rng.choice([0, 1, 10])
        conn.send(
            flags,
            bytes(size),
            seq=None if offset is None else conn.snd_nxt + offset,
            ack=ack,
            window=rng.choice([conn.window, conn.window, 0, 1, 300, 65535]),
            sack=self.blocks(ack, end) if conn.irs is not None and rng.random() < 0.3 else (),
            urg_ptr=rng.choice([0, 1, 5]) if "U" in flags else 0,
        )

    def blocks(self, ack: int, end: int) -> tuple[tuple[int, int], ...]:
        starts = [self.rng.randint(min(ack, end), end) for _ in range(self.rng.randint(1, 2))]
        return tuple((at, min(end, at + self.rng.choice([1, 500, 1400, 1448, 4344]))) for at in starts)

    def call(self, sock: Socket) -> None:
        rng = self.rng
        what = rng.random()
        if what < 0.4:
            sock.send(bytes(rng.choice([1, 100, 1448, 5000, 60000])))
        elif what < 0.75:
            sock.recv(rng.choice([1, 100, 100000]), rng.choice([0, 0, 0, 2]))
        elif what < 0.8:
            sock.shutdown(rng.choice([0, 1, 2]))
        elif what < 0.95:
            sock.setsockopt(
                *rng.choice([(6, 1, 1), (6, 3, 1), (6, 3, 0), (1, 7, 5000), (1, 8, 5000), (6, 18, 500)])
            )
        else:
            self.socks.remove(sock)
            sock.close()

    def take_in(self) -> None:
        """What came from the stack moves the connections along, most of it."""
        while self.peer.inbox:
            packet = self.peer.inbox.popleft()
            segment = parse_segment(packet) if packet.proto == IPPROTO_TCP else None
            for conn in self.conns:
                if segment is None or segment.dport != conn.sport:
                    continue
                assert segment.checksum_ok
                if conn.irs is None and "S" in segment.flags:
                    conn.irs = segment.seq
                rel = (segment.seq - (conn.irs or 0)) & MASK
                if conn.irs is not None and "R" not in segment.flags and rel < 1 << 31:
                    end = rel + len(segment.payload) + ("F" in segment.flags)
                    self.ends[conn.sport] = max(self.ends[conn.sport], end)
                    if self.rng.random() < 0.8:
                        conn._advance(segment, rel)

    def finish(self) -> None:
        for sock in self.socks:
            sock.close()
        for _ in range(2):  # what is accepted late has its own last hour
            self.sim.run_for(2 * 3600 * SEC)
            try:
                while True:
                    self.listener.accept()[0].close()
            except OSError:
                pass
        self.sim.run_for(2 * 3600 * SEC)


def sockets(net: Stack) -> list[Any]:
    return [sk for chain in net.tcp_hashinfo.ehash.values() for sk in chain]


def check(net: Stack, listener: Any) -> None:
    everybody = sockets(net)
    queue = listener.icsk_accept_queue
    assert queue.qlen == sum(sk.sk_state == TCP_NEW_SYN_RECV for sk in everybody)
    assert 0 <= queue.young <= queue.qlen
    assert listener.sk_ack_backlog == len(queue.rskq_accept_head)
    established = sum(sk.sk_state == TCP_ESTABLISHED for sk in everybody)
    assert net.mib.tcp_statistics[TCP_MIB_CURRESTAB] == established
    for sk in everybody:
        if sk.sk_state not in (TCP_NEW_SYN_RECV, TCP_TIME_WAIT):
            check_connection(sk)


def check_connection(sk: Any) -> None:
    rtx, unsent = list(sk.tcp_rtx_queue), list(sk.sk_write_queue)

    def segments(flag: int) -> int:
        return sum(skb.cb.tcp_gso_segs for skb in rtx if skb.cb.sacked & flag)

    assert sk.packets_out == sum(skb.cb.tcp_gso_segs for skb in rtx)
    assert not sk.rx_opt.sack_ok or sk.sacked_out == segments(TCPCB_SACKED_ACKED)
    assert sk.lost_out == segments(TCPCB_LOST)
    assert sk.retrans_out == segments(TCPCB_SACKED_RETRANS)
    assert sk.sk_wmem_queued == sum(skb.truesize for skb in rtx + unsent)
    received = list(sk.sk_receive_queue) + list(sk.out_of_order_queue)
    assert sk.sk_rmem_alloc == sum(skb.truesize for skb in received)
    assert sk.icsk_pending or not rtx, "data in flight and no timer"
    ends = [skb.cb.end_seq for skb in rtx + unsent]
    assert [skb.cb.seq for skb in (rtx + unsent)[1:]] == ends[:-1]
    assert sk.write_seq == (ends[-1] if ends else sk.snd_nxt)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", [*range(24), 1267])
def test_random_walk_keeps_the_books_and_leaves_nothing(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(120):
        walk.step()
    walk.finish()
    check(walk.net, walk.listener.sk)
    assert sockets(walk.net) == []
    assert walk.net.ipv4.tcp_orphan_count == 0
