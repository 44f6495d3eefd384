# SPDX-License-Identifier: GPL-2.0-or-later
"""A raw sender that cuts a stream into random, overlapping pieces and sends them in any order, some twice; what the
application reads has to be the stream, once."""

from __future__ import annotations

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, RawTcp, Sim
from stack.include.sk_buff import CHECKSUM_PARTIAL, SKB_GSO_TCPV4
from stack.include.sock import SOCK_DONE
from stack.rng import SeededRng


def connect(seed: int) -> tuple[Sim, RawTcp, Socket]:
    sim = Sim(seed=seed)
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net)
    listener = Socket(net)
    listener.bind(("", 80))
    listener.listen(5)
    conn = peer.tcp(80)
    conn.handshake()
    sock = listener.accept()[0]
    sock.setblocking(False)
    return sim, conn, sock


def read(sock: Socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("seed", range(20))
def test_established_random_pieces_are_read_in_order_once(seed: int) -> None:
    sim, conn, sock = connect(seed)
    rng = SeededRng(seed)
    stream = rng.get_random_bytes(30_000)
    got = bytearray()
    base = 0
    while len(got) < len(stream):
        pieces = []
        for _ in range(12):
            start = base + rng.get_random_u32_below(8000)
            pieces.append((start, min(start + 1 + rng.get_random_u32_below(1448), len(stream))))
        pieces.append((len(got), min(len(got) + 700, len(stream))))
        for start, end in pieces:
            if start < end:
                conn.send("A", stream[start:end], seq=1 + start)
                sim.settle()
                if rng.get_random_u32_below(3) == 0:
                    got += read(sock)
        got += read(sock)
        base = len(got)
        sim.run_for(MSEC)
    assert got == stream
    sk = sock._sock.sk
    assert not sk.out_of_order_queue or sk.out_of_order_queue[0].cb.end_seq == conn.isn + 1 + len(stream)
    conn.send("FA", seq=1 + len(stream))
    sim.settle()
    assert sk.sk_flags & SOCK_DONE
    assert sk.sk_rmem_alloc == sum(skb.truesize for skb in sk.sk_receive_queue)


def test_established_big_frame_is_taken_whole() -> None:
    """A guest's TSO frame: one 64 KB packet with a partial checksum reaches the socket as it is."""
    sim, conn, sock = connect(1)
    sk = sock._sock.sk
    payload = bytes(range(256)) * 250
    peer = conn.peer
    conn.send("PA", b"x")
    sim.settle()
    template = next(f for f in reversed(sim.frames) if f.src == peer.name)
    header = bytearray(template.data[:66])
    header[16:18] = (52 + len(payload)).to_bytes(2, "big")
    header[24:26] = b"\0\0"
    header[38:42] = (conn.isn + 2).to_bytes(4, "big")
    words = [int.from_bytes(header[i : i + 2], "big") for i in range(14, 34, 2)]
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header[24:26] = (total ^ 0xFFFF).to_bytes(2, "big")
    offload = {"ip_summed": CHECKSUM_PARTIAL, "csum_start": 34, "csum_offset": 16}
    peer.send_frame(bytes(header) + payload, gso_size=1448, gso_type=SKB_GSO_TCPV4, **offload)
    sim.settle()
    assert len(sk.sk_receive_queue) <= 2
    assert sock.recv(1 << 20) == b"x" + payload
    assert sk.icsk_ack.rcv_mss == 1448
    assert sk.segs_in >= len(payload) // 1448
