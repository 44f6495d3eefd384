# SPDX-License-Identifier: GPL-2.0-or-later
"""What bounds TCP's memory: tcp_mem, tcp_max_orphans, the table of descriptors, the queues of silent neighbours."""

from __future__ import annotations

import errno

import pytest

from stack.api.bsd import Socket
from stack.api.sim import SEC, RawPeer, RawTcp, Sim
from stack.include.neighbour import NUD_INCOMPLETE
from stack.include.net import RLIMIT_NOFILE
from stack.include.snmp import (
    LINUX_MIB_LISTENOVERFLOWS,
    LINUX_MIB_OFOPRUNED,
    LINUX_MIB_TCPABORTONMEMORY,
    LINUX_MIB_TCPMEMORYPRESSURES,
    LINUX_MIB_TCPOFODROP,
    LINUX_MIB_TCPRCVQDROP,
)
from stack.include.sysctl import SysctlValue
from stack.net.core import neighbour
from stack.net.core.sock import SK_MEM_QUANTUM
from stack.stack import Stack


class Server:
    """A listener on port 80 and a raw host beside it."""

    def __init__(self, profile: str = "linux-6.1", **sysctl: SysctlValue) -> None:
        self.sim = Sim(seed=4)
        self.net: Stack = self.sim.add_stack("10.0.2.2/24", profile=profile, sysctl=sysctl)
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net)
        self.listener = Socket(self.net)
        self.listener.bind(("", 80))
        self.listener.listen(16)

    def connect(self) -> tuple[RawTcp, Socket]:
        conn = self.peer.tcp(80, sport=40000 + len(self.net.files.fdt))
        conn.handshake()
        return conn, self.listener.accept()[0]

    def count(self, mib: int) -> int:
        return self.net.mib.net_statistics[mib]


def push(conn: RawTcp, size: int, at: int | None = None) -> None:
    conn.send("PA", bytes(size), seq=at)
    conn.peer.sim.settle()
    conn.peer.inbox.clear()


def test_established_data_are_charged_until_read() -> None:
    server = Server()
    conn, child = server.connect()
    for _ in range(20):
        push(conn, 1448)
    ipv4 = server.net.ipv4
    assert ipv4.tcp_memory_allocated * SK_MEM_QUANTUM == child.sk.sk_rmem_alloc + child.sk.sk_forward_alloc
    assert ipv4.tcp_memory_allocated >= 20 * 1448 // SK_MEM_QUANTUM
    assert len(child.recv(100000)) == 20 * 1448
    assert ipv4.tcp_memory_allocated == 0


def test_closed_unread_and_out_of_order_data_are_given_back() -> None:
    server = Server()
    conn, child = server.connect()
    push(conn, 1000)
    push(conn, 1000, at=conn.snd_nxt + 5000)
    assert server.net.ipv4.tcp_memory_allocated > 0
    child.close()
    assert server.net.ipv4.tcp_memory_allocated == 0


def test_pressure_begins_above_the_second_number_and_ends_below_the_first() -> None:
    server = Server(tcp_mem=(4, 8, 1000))
    conn, child = server.connect()
    while server.net.ipv4.tcp_memory_allocated <= 8:
        assert server.net.ipv4.tcp_memory_pressure == 0
        push(conn, 1448)
    assert server.net.ipv4.tcp_memory_pressure > 0
    assert server.count(LINUX_MIB_TCPMEMORYPRESSURES) == 1
    child.recv(100000)
    assert server.net.ipv4.tcp_memory_pressure == 0


def test_above_the_third_number_in_order_data_are_dropped_and_come_again() -> None:
    server = Server(tcp_mem=(2, 3, 4))
    conn, child = server.connect()
    taken = 0
    while not server.count(LINUX_MIB_TCPRCVQDROP):
        taken = conn.snd_nxt
        push(conn, 1448)
    assert server.net.ipv4.tcp_memory_allocated <= 4 + 1
    assert len(child.recv(100000)) == taken - 1
    push(conn, 1448, at=taken)
    assert len(child.recv(100000)) == 1448


def test_above_the_third_number_data_behind_a_hole_make_room_for_what_comes() -> None:
    server = Server(tcp_mem=(2, 3, 4))
    conn, child = server.connect()
    for gap in range(1, 9):
        push(conn, 1000, at=conn.snd_nxt + 2000 * gap)
    assert server.count(LINUX_MIB_OFOPRUNED) > 0
    assert server.net.ipv4.tcp_memory_allocated <= 4 + 1
    assert child.sk.sk_rmem_alloc == sum(skb.truesize for skb in child.sk.out_of_order_queue)


def test_above_the_third_number_data_behind_a_hole_are_dropped_by_later_kernels() -> None:
    server = Server("linux-6.18", tcp_mem=(2, 3, 4))
    conn, child = server.connect()
    for gap in range(1, 9):
        push(conn, 1000, at=conn.snd_nxt + 2000 * gap)
    assert server.count(LINUX_MIB_TCPOFODROP) > 0
    assert server.net.ipv4.tcp_memory_allocated <= 4 + 1
    assert child.sk.sk_rmem_alloc == sum(skb.truesize for skb in child.sk.out_of_order_queue)


def test_above_the_third_number_the_segment_that_fills_the_hole_is_taken() -> None:
    server = Server("linux-6.18", tcp_mem=(1, 2, 3))
    conn, child = server.connect()
    start = conn.snd_nxt
    for gap in range(1, 9):
        push(conn, 1000, at=start + 1000 * gap)
    push(conn, 1000, at=start)
    assert len(child.recv(100000)) >= 1000


def test_orphan_beyond_the_limit_is_reset() -> None:
    server = Server(tcp_max_orphans=1)
    pairs = [server.connect() for _ in range(3)]
    server.peer.inbox.clear()
    for (conn, child), flags in zip(pairs, ("FA", "FA RA", "FA RA"), strict=True):
        child.close()
        for expected in flags.split():
            conn.expect(expected)
    assert server.net.ipv4.tcp_orphan_count == 1
    assert server.count(LINUX_MIB_TCPABORTONMEMORY) == 2


def test_fin_wait1_orphan_is_reset_by_its_timer_when_there_are_too_many() -> None:
    server = Server()
    conn, child = server.connect()
    child.send(b"never acknowledged")
    child.close()
    assert server.net.ipv4.tcp_orphan_count == 1
    server.net.sysctl_set("tcp_max_orphans", 0)
    server.sim.run_for(2 * SEC)
    assert server.net.ipv4.tcp_orphan_count == 0
    assert server.count(LINUX_MIB_TCPABORTONMEMORY) == 1
    segments = []
    while (packet := server.peer.next_packet(6)) is not None:
        segments.append(packet.body[13])
    assert segments[-1] & 0x04
    assert conn.irs is not None


def test_accept_without_descriptors_leaves_the_queue_to_fill_and_syns_to_be_dropped() -> None:
    server = Server()
    assert server.net.files.max_fds == RLIMIT_NOFILE
    server.listener.listen(1)
    server.net.files.max_fds = server.net.files.next_fd
    for number in range(2):
        server.peer.tcp(80, sport=50000 + number).handshake()
    with pytest.raises(OSError) as caught:
        server.listener.accept()
    assert caught.value.errno == errno.EMFILE
    refused = server.peer.tcp(80, sport=50009)
    refused.send("S", mss=1460)
    refused.expect_nothing()
    assert server.count(LINUX_MIB_LISTENOVERFLOWS) == 1


def test_child_that_was_reset_gives_its_port_back_before_it_is_closed() -> None:
    server = Server()
    conn, child = server.connect()
    server.listener.close()
    conn.send("R")
    server.sim.settle()
    assert child.sk.icsk_bind_hash is None
    again = Socket(server.net)
    again.bind(("", 80))
    again.close()


def test_tw_buckets_follow_the_sysctl_after_start() -> None:
    server = Server()
    server.net.sysctl_set("tcp_max_tw_buckets", 0)
    conn, child = server.connect()
    child.close()
    server.sim.settle()
    conn.expect("FA")
    conn.send("FA")
    server.sim.settle()
    assert server.net.tcp_death_row.tw_refcount == 0
    assert not any(server.net.tcp_hashinfo.ehash.values())


def test_silent_neighbours_share_one_limit_of_waiting_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour, "ARP_QUEUES_MAX_BYTES", 20_000)
    sim = Sim(seed=4)
    net = sim.add_stack("10.0.2.2/8")
    peer = sim.add_peer("10.0.2.15", net)
    for host in range(6):
        for number in range(12):
            peer.send_tcp("10.0.2.2", 1024 + number, 81, "S", 1, src=f"10.9.0.{host}")
        sim.settle()
    table = net.arp_tbl
    queued = sum(skb.truesize for neigh in table.hash.values() for skb in neigh.arp_queue)
    assert queued == table.arp_queue_len_bytes <= 20_000 + 6 * 2048  # and one packet each
    assert all(neigh.arp_queue for neigh in table.hash.values() if neigh.nud_state == NUD_INCOMPLETE)
    assert table.stats["unresolved_discards"] > 0
    sim.run_for(10 * SEC)
    assert table.arp_queue_len_bytes == 0
