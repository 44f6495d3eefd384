# SPDX-License-Identifier: GPL-2.0-or-later
"""A smaller path MTU while data wait to be sent, on a device that does not segment."""

from __future__ import annotations

from stack.api.bsd import Socket
from stack.api.sim import MSEC, Sim, parse_segment
from stack.include.ip import IPPROTO_TCP
from stack.include.snmp import TCP_MIB_RETRANSSEGS
from stack.kernel.time.timer import tcp_jiffies32


def test_established_path_mtu_shrinks_unsent_packets_leave_in_whole() -> None:
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net)
    listener = Socket(net)
    listener.bind(("", 80))
    listener.listen(1)
    conn = peer.tcp(80)
    conn.handshake(sackok=False, ts=False)
    child = listener.accept()[0]
    child.send(bytes(30000))
    sim.settle()
    assert conn.irs is not None
    quoted = peer.ip_packet(6, b"\0\x50" + conn.sport.to_bytes(2, "big") + (conn.irs + 1).to_bytes(4, "big"),
                            "10.0.2.15", src="10.0.2.2")  # fmt: skip
    peer.send_icmp("10.0.2.2", 3, 4, 600, quoted)
    sim.settle()
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
    sim = Sim(seed=7)
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net)
    listener = Socket(net)
    listener.bind(("", 80))
    listener.listen(1)
    conn = peer.tcp(80)
    conn.handshake()
    child = listener.accept()[0]
    child.send(bytes(3000))
    sim.run_for(100 * MSEC)
    assert conn.irs is not None
    quoted = peer.ip_packet(6, b"\0\x50" + conn.sport.to_bytes(2, "big") + (conn.irs + 1).to_bytes(4, "big"),
                            "10.0.2.15", src="10.0.2.2")  # fmt: skip
    sent = net.mib.tcp_statistics[TCP_MIB_RETRANSSEGS]
    peer.send_icmp("10.0.2.2", 3, 4, 600, quoted)
    sim.settle()
    assert net.mib.tcp_statistics[TCP_MIB_RETRANSSEGS] > sent
    assert child._sock.sk.lsndtime == tcp_jiffies32(net)
