# SPDX-License-Identifier: GPL-2.0-or-later
"""Bulk data from the stack to a raw receiver over a bad wire, in virtual time.

The receiver acknowledges every segment, with up to three SACK blocks (RFC 2018) and a DSACK for duplicates (RFC 2883);
the wire loses, duplicates and reorders both ways.  What arrives has to be what was sent, and the sender has to get
along without waiting for timeouts all the time.
"""

from __future__ import annotations

from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawTcp, Sim, parse_segment
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.include.snmp import LINUX_MIB_TCPFASTRETRANS, LINUX_MIB_TCPTIMEOUTS, TCP_MIB_RETRANSSEGS
from stack.net.ipv4 import tcp_ipv4

TSO = NETIF_F_HW_CSUM | NETIF_F_TSO | NETIF_F_SG


class Receiver:
    """A receiver with reassembly and SACK on a raw connection."""

    def __init__(self, conn: RawTcp, sack: bool) -> None:
        self.conn = conn
        self.sack = sack
        self.data = bytearray()
        self.ooo: dict[int, bytes] = {}
        self.recent: list[tuple[int, int]] = []
        self.fin_at: int | None = None

    def drain(self) -> int:
        """Take what has come, acknowledge each segment; how many there were."""
        count = 0
        while self.conn.peer.inbox:
            segment = parse_segment(self.conn.peer.inbox.popleft())
            assert segment.checksum_ok
            if segment.opts.ts is not None:
                self.conn.ts_recent = segment.opts.ts[0]
            count += 1
            self._take(
                (segment.seq - (self.conn.irs or 0)) & 0xFFFFFFFF, segment.payload, "F" in segment.flags
            )
        return count

    def _take(self, seq: int, payload: bytes, fin: bool) -> None:
        end = seq + len(payload)
        if fin:
            self.fin_at = end
        before = 1 + len(self.data)
        dsack = (seq, end) if payload and end <= before else None
        if payload and end > before:
            self.ooo[seq] = max(payload, self.ooo.get(seq, b""), key=len)
            if seq > before:
                self.recent = [(seq, end), *(b for b in self.recent if b != (seq, end))]
        self._advance()
        ack = 1 + len(self.data) + (self.fin_at == 1 + len(self.data))
        self.conn.rcv_nxt = ack
        blocks = self._merged() if self.sack else []
        if dsack is not None and self.sack:
            blocks = [dsack, *blocks]
        self.conn.send("A", ack=ack, sack=blocks[:3])

    def _advance(self) -> None:
        for seq in sorted(self.ooo):
            nxt = 1 + len(self.data)
            if seq > nxt:
                break
            self.data += self.ooo.pop(seq)[nxt - seq :]

    def _merged(self) -> list[tuple[int, int]]:
        spans: list[list[int]] = []
        for seq in sorted(self.ooo):
            end = seq + len(self.ooo[seq])
            if spans and seq <= spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], end)
            else:
                spans.append([seq, end])
        order = []
        for start, _ in self.recent:
            for span in spans:
                if span[0] <= start < span[1] and tuple(span) not in order:
                    order.append((span[0], span[1]))
        self.recent = [b for b in self.recent if b[0] > len(self.data)][:16]
        return order


def download(
    size: int, features: int, seed: int, sack: bool = True, limit_s: int = 600, **wire: Any
) -> tuple[Any, ...]:
    sim = Sim(seed=seed)
    net = sim.add_stack("10.0.2.2/24", features=features)
    peer = sim.add_peer("10.0.2.15", net, delay_ns=5 * MSEC)
    listener = Socket(net)
    listener.bind(("", 80))
    listener.listen(5)
    conn = peer.tcp(80)
    conn.handshake(sackok=sack)
    sim.run_for(10 * MSEC)
    sock = listener.accept()[0]
    sock.setblocking(False)
    link = next(iter(sim.links.values()))
    for way in (link.forward, link.backward):
        for name, value in wire.items():
            setattr(way, name, value)
    blob = bytes(i * 7 & 255 for i in range(size))
    receiver = Receiver(conn, sack)
    sent = 0
    closed = False
    sk = sock._sock.sk
    end = sim.now_ns() + limit_s * SEC
    while (receiver.fin_at is None or len(receiver.data) < size) and sim.now_ns() < end:
        try:
            while sent < size:
                sent += sock.send(blob[sent : sent + 65536])
        except BlockingIOError:
            pass
        if sent == size and not closed:
            sock.close()
            closed = True
        sim.run_for(MSEC)
        conn.ts_val = 1000 + sim.now_ns() // MSEC
        receiver.drain()
    return sim, net, receiver, blob, sk


@pytest.mark.parametrize("features", [0, TSO])
def test_established_clean_wire_delivers_everything(features: int) -> None:
    sim, net, receiver, blob, _ = download(500_000, features, seed=1)
    assert receiver.data == blob
    assert net.mib.tcp_statistics[TCP_MIB_RETRANSSEGS] == 0
    assert sim.now_ns() < SEC


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("features", [0, TSO])
@pytest.mark.parametrize("sack", [True, False])
def test_established_lossy_wire_delivers_everything(features: int, seed: int, sack: bool) -> None:
    sim, net, receiver, blob, sk = download(
        400_000, features, seed, sack, loss=0.02, dup=0.01, reorder=0.02, reorder_ns=3 * MSEC
    )
    assert receiver.data == blob, (len(receiver.data), sim.now_ns())
    lost = sum(f.lost and f.src.startswith("stack") and len(f.data) > 100 for f in sim.frames)
    assert net.mib.tcp_statistics[TCP_MIB_RETRANSSEGS] >= lost
    assert sim.now_ns() < 60 * SEC
    assert not sk.tcp_rtx_queue or sk.snd_una != sk.write_seq
    assert min(sk.packets_out, sk.sacked_out, sk.lost_out, sk.retrans_out) >= 0


def test_established_one_loss_is_repaired_without_a_timeout() -> None:
    dropped: list[int] = []

    def once(frame: Any) -> bool:
        if len(frame.data) > 1000 and len(dropped) < 30:
            dropped.append(1)
            return len(dropped) == 30
        return False

    _, net, receiver, blob, _ = download(400_000, 0, seed=1, drop_if=once)
    assert receiver.data == blob
    assert net.mib.net_statistics[LINUX_MIB_TCPFASTRETRANS] == 1
    assert net.mib.net_statistics[LINUX_MIB_TCPTIMEOUTS] == 0


@pytest.mark.parametrize("isn", [0xFFFFFFFF, 0x100000000 - 200_000, 0x80000000 - 200_000])
def test_established_sequence_numbers_wrap_inside_the_transfer(
    monkeypatch: pytest.MonkeyPatch, isn: int
) -> None:
    monkeypatch.setattr(tcp_ipv4.tcp_request_sock_ipv4_ops, "init_seq", lambda skb, req: isn)
    _, _, receiver, blob, sk = download(400_000, TSO, 3, loss=0.02, reorder=0.02, reorder_ns=3 * MSEC)
    assert receiver.conn.irs == isn
    assert receiver.data == blob
    assert (sk.write_seq - isn) & 0xFFFFFFFF == len(blob) + 2
