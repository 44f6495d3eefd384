# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated path: what it does to packets, from the generator it was given and nothing else."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stack.api.bsd import Socket
from stack.api.path import (
    SEC,
    Bernoulli,
    Frame,
    GilbertElliott,
    Nth,
    Path,
    complete_checksum,
    ecn_bits,
    segment,
)
from stack.api.sim import MSEC, RawTcp, Sim, parse_packet, parse_segment
from stack.include.netdevice import NETIF_F_HW_CSUM, NETIF_F_SG, NETIF_F_TSO
from stack.include.snmp import TCP_MIB_INERRS
from stack.lib.checksum import ip_fast_csum
from stack.net.ipv4.tcp_output import sk_can_gso
from stack.rng import SeededRng
from stack.stack import Stack

TSO = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO


def packet(length: int = 1000, tos: int = 0) -> Frame:
    """An IPv4 packet of ``length`` bytes with Ethernet header and a correct header checksum."""
    head = bytearray(b"\x45" + bytes(19))
    head[1], head[2:4] = tos, (length - 14).to_bytes(2, "big")
    head[10:12] = ip_fast_csum(head, 5).to_bytes(2, "big")
    return Frame(0, "a", "b", bytes(12) + b"\x08\x00" + bytes(head) + bytes(length - 34))


def arrivals(path: Path, count: int, gap_ns: int = 0, length: int = 1000) -> list[int]:
    """When each of ``count`` packets arrives, in the order of sending."""
    return [when for i in range(count) for when, _ in path.send(i * gap_ns, packet(length))]


def losses(model: Bernoulli | GilbertElliott, count: int) -> list[bool]:
    rng = SeededRng(3)
    return [model.lost(rng) for _ in range(count)]


def test_bernoulli_many_packets_lose_their_share_without_memory() -> None:
    lost = losses(Bernoulli(0.1), 20_000)
    assert sum(lost) / 20_000 == pytest.approx(0.1, abs=0.01)
    after_loss = [b for a, b in pairwise(lost) if a]
    assert sum(after_loss) / len(after_loss) == pytest.approx(0.1, abs=0.02)


def test_gilbert_elliott_many_packets_lose_in_bursts_of_one_over_r() -> None:
    model = GilbertElliott(p=0.01, r=0.25)
    lost = losses(model, 40_000)
    bursts = sum(b and not a for a, b in pairwise([False, *lost]))
    assert sum(lost) / bursts == pytest.approx(4, rel=0.1)
    assert sum(lost) / 40_000 == pytest.approx(model.mean(), rel=0.1)


def test_path_rate_serialises_and_delay_adds() -> None:
    path = Path(rate_bps=8_000_000, delay_ns=5 * MSEC)
    assert arrivals(path, 3) == [6 * MSEC, 7 * MSEC, 8 * MSEC]
    assert path.backlog(0) == 3000
    assert path.backlog(2_500_000) == 500


def test_path_full_queue_drops_the_tail_until_it_drains() -> None:
    path = Path(rate_bps=8_000_000, queue_bytes=2500)
    assert arrivals(path, 4) == [1 * MSEC, 2 * MSEC]
    assert path.stats.overflowed == 2
    assert path.send(1 * MSEC, packet()) != []
    assert path.stats.backlog_max == 2000


def test_path_lost_packet_takes_no_time_of_the_link() -> None:
    path = Path(rate_bps=8_000_000, loss=Nth({0}))
    assert arrivals(path, 2) == [1 * MSEC]
    assert path.stats.lost == 1


def test_path_reordered_packet_is_overtaken() -> None:
    path = Path(delay_ns=MSEC, reorder=0.2, reorder_ns=3 * MSEC, rng=SeededRng(4))
    times = arrivals(path, 100, gap_ns=MSEC)
    late = [i for i in range(100) if times[i] == i * MSEC + 4 * MSEC]
    assert len(late) == path.stats.reordered == pytest.approx(20, abs=10)
    assert times != sorted(times)


def test_path_duplicate_arrives_twice() -> None:
    path = Path(dup=1.0)
    assert arrivals(path, 2) == [0, 0, 0, 0]
    assert path.stats.duplicated == 2


def test_path_same_seed_same_path_other_seed_another() -> None:
    def run(seed: int) -> list[int]:
        path = Path(loss=Bernoulli(0.3), dup=0.1, reorder=0.1, rng=SeededRng(seed))
        return arrivals(path, 200, gap_ns=1000)

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_path_nothing_on_draws_nothing() -> None:
    rng = SeededRng(9)
    arrivals(Path(rate_bps=SEC, delay_ns=1, rng=rng), 10)
    assert rng.state == SeededRng(9).state


@pytest.mark.parametrize(("tos", "after"), [(0, 0), (1, 3), (2, 3), (3, 3)])
def test_path_deep_queue_marks_only_ecn_capable_packets(tos: int, after: int) -> None:
    path = Path(rate_bps=8_000_000, ce_bytes=1500)
    marks = [ecn_bits(p.data) for _ in range(3) for _, p in path.send(0, packet(tos=tos))]
    assert marks == [tos, tos, after]
    assert path.stats.marked == (tos in (1, 2))


def test_path_mark_keeps_the_header_checksum_right() -> None:
    path = Path(rate_bps=8_000_000, ce_bytes=1)
    path.send(0, packet(tos=2))
    marked = path.send(0, packet(tos=2))[0][1]
    assert ecn_bits(marked.data) == 3
    assert ip_fast_csum(marked.data[14:34], 5) == 0


def test_path_ipv6_mark_leaves_the_rest_of_the_traffic_class() -> None:
    data = bytes(12) + b"\x86\xdd" + bytes((0x6A, 0x2F)) + bytes(60)
    path = Path(rate_bps=8_000, ce_bytes=1)
    path.send(0, Frame(0, "a", "b", data))
    marked = path.send(0, Frame(0, "a", "b", data))[0][1]
    assert marked.data[14:16] == bytes((0x6A, 0x3F))


def connection(
    sim: Sim, net: Stack, path_to_peer: Path | None, path_from_peer: Path | None
) -> tuple[RawTcp, Socket]:
    """A raw host's connection to port 80, made before the link gets its paths."""
    peer = sim.add_peer("10.0.2.15", net)
    listener = Socket(net)
    listener.bind(("", 80))
    listener.listen(1)
    listener.setblocking(False)
    conn = peer.tcp(80)
    conn.handshake()
    link = sim.links[peer.name]
    link.forward.path, link.backward.path = path_to_peer, path_from_peer
    sock = listener.accept()[0]
    sock.setblocking(False)
    return conn, sock


def test_path_corrupted_segment_is_refused_by_its_checksum() -> None:
    sim = Sim(seed=1)
    net = sim.add_stack("10.0.2.2/24")
    conn, sock = connection(sim, net, None, Path(corrupt=1.0, rng=SeededRng(2)))
    for _ in range(20):
        conn.send("PA", b"x" * 500, seq=1)
    sim.settle()
    with pytest.raises(BlockingIOError):
        sock.recv(1000)
    ip_errors = 20 - net.mib.tcp_statistics[TCP_MIB_INERRS]
    assert 0 <= ip_errors < 5  # the bit fell into the IP header of some
    conn.expect_nothing()


def test_segment_gso_frame_is_cut_into_packets_with_right_headers() -> None:
    sim = Sim(seed=1)
    net = sim.add_stack("10.0.2.2/24", features=TSO)
    _, sock = connection(sim, net, Path(), None)
    assert sk_can_gso(sock._sock.sk)
    payload = bytes(range(256)) * 40
    sock.send(payload)
    frame = next(f for f in sim.frames if f.gso_size)
    packets = [parse_packet(complete_checksum(f)) for f in segment(frame)]
    segments = [parse_segment(p) for p in packets if p is not None]
    assert len(segments) == len(packets) > 1
    assert all(s.checksum_ok for s in segments)
    assert b"".join(s.payload for s in segments) == payload[: sum(len(s.payload) for s in segments)]
    assert [s.seq - segments[0].seq for s in segments] == [1448 * i for i in range(len(segments))]
    assert [s.packet.ip_id - segments[0].packet.ip_id for s in segments] == list(range(len(segments)))
    assert all("P" not in s.flags for s in segments[:-1])


def test_sim_path_cuts_gso_frames_and_loses_single_packets() -> None:
    sim = Sim(seed=1)
    net = sim.add_stack("10.0.2.2/24", features=TSO)
    conn, sock = connection(sim, net, Path(loss=Nth({1})), None)
    sock.send(bytes(5000))
    sim.settle()
    got = []
    while conn.peer.inbox:
        segment_ = conn.peer.expect_segment()
        got.append((segment_.seq - (conn.irs or 0), len(segment_.payload)))
    assert got == [(1, 1448), (2897, 1448), (4345, 656)]


def test_sim_without_frames_keeps_none() -> None:
    sim = Sim(seed=1, keep_frames=False)
    net = sim.add_stack("10.0.2.2/24")
    conn, _ = connection(sim, net, None, None)
    conn.send("PA", b"x")
    sim.settle()
    assert sim.frames == []
    conn.expect("A", ack=2)
