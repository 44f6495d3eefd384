# SPDX-License-Identifier: GPL-2.0-or-later
"""A smaller path MTU while data wait to be sent, on a device that does not segment."""

from __future__ import annotations

from typing import Any

from stack.api.bsd import Socket
from stack.api.sim import MSEC, Sim, parse_segment
from stack.include.ip import IPPROTO_TCP
from stack.include.snmp import TCP_MIB_RETRANSSEGS
from stack.kernel.time.timer import tcp_jiffies32


class Sending:
    """A server that has written ``nbytes``, and a router that can say to it that a path is narrow."""

    def __init__(self, nbytes: int, **syn: Any) -> None:
        self.sim = Sim(seed=7)
        self.net = self.sim.add_stack("10.0.2.2/24")
        self.peer = self.sim.add_peer("10.0.2.15", self.net)
        listener = Socket(self.net)
        listener.bind(("", 80))
        listener.listen(1)
        self.conn = self.peer.tcp(80)
        self.conn.handshake(**syn)
        self.child = listener.accept()[0]
        self.child.send(bytes(nbytes))

    def path_mtu(self, mtu: int) -> None:
        assert self.conn.irs is not None
        ports = b"\0\x50" + self.conn.sport.to_bytes(2, "big")
        quoted = self.peer.ip_packet(
            6, ports + (self.conn.irs + 1).to_bytes(4, "big"), "10.0.2.15", src="10.0.2.2"
        )
        self.peer.send_icmp("10.0.2.2", 3, 4, mtu, quoted)
        self.sim.settle()


def test_established_path_mtu_shrinks_unsent_packets_leave_in_whole() -> None:
    sending = Sending(30000, sackok=False, ts=False)
    sim, peer, conn = sending.sim, sending.peer, sending.conn
    sim.settle()
    sending.path_mtu(600)
    assert conn.irs is not None
    sent = 1
    for _ in range(60):
        while peer.inbox:
            packet = peer.inbox.popleft()
            assert packet.proto == IPPROTO_TCP
            segment = parse_segment(packet)
            at = (segment.seq - conn.irs) & 0xFFFFFFFF
            assert at <= sent, f"bytes {sent} to {at} were never sent"
            sent = max(sent, at + len(segment.payload))
        conn.send("A", ack=sent)
        sim.settle()
    assert sent == 30001


def test_established_path_mtu_shrinks_time_of_the_resent_data_is_now() -> None:
    """tcpi_last_data_sent counts from it: an ICMP error comes without a segment, at which the clock would be read."""
    sending = Sending(3000)
    sending.sim.run_for(100 * MSEC)
    counted = sending.net.mib.tcp_statistics
    sent = counted[TCP_MIB_RETRANSSEGS]
    sending.path_mtu(600)
    assert counted[TCP_MIB_RETRANSSEGS] > sent
    assert sending.child._sock.sk.lsndtime == tcp_jiffies32(sending.net)
