# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever frame comes in: no exception, and every frame that was dropped has a reason.

Each example feeds a batch of random or mutated frames into one stack with sockets on it, then lets time
pass.  The check on reasons wraps the packets' two exits: a frame that left by neither and waits nowhere
was lost in silence.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stack.api import bsd
from stack.api.sim import RawPeer, RawTcp, Sim, build_tcp_options
from stack.include.dropreason import SKB_NOT_DROPPED_YET
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_PARTIAL, CHECKSUM_UNNECESSARY, sk_buff
from stack.include.sock import AF_INET
from stack.net.core import dev as core_dev
from stack.net.core import skbuff
from stack.net.core import sock as core_sock
from stack.net.ipv4 import tcp_minisocks, udp
from stack.stack import Stack

pytestmark = pytest.mark.fuzz
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
ETHERTYPES = [b"\x08\x00", b"\x08\x06", b"\x86\xdd"]
DEV_MAC = bytes((0x52, 0x54, 0, 0, 0, 1))


def make_stack() -> tuple[Sim, Stack, RawPeer]:
    sim = Sim(seed=3)
    net = sim.add_stack("10.0.2.2/24", "10.0.2.3/24")
    peer = sim.add_peer("10.0.2.15", net)
    for port in (67, 7):
        sk: udp.udp_sock = core_sock.sk_alloc(net, AF_INET, udp.udp_prot)
        core_sock.sock_init_data(None, sk)
        sk.sk_protocol = 17
        assert udp.udp_lib_get_port(sk, port) == 0
    return sim, net, peer


def seeds() -> list[bytes]:
    """Well-formed frames of every kind, to be mutated."""
    sim, _, peer = make_stack()
    peer.send_arp(1, "10.0.2.2")
    peer.send_arp(2, "10.0.2.2")
    peer.send_icmp("10.0.2.2", 8, 0, 1, b"ping")
    peer.send_icmp("10.0.2.2", 13, 0, 1, bytes(12))
    quoted = peer.ip_packet(17, b"\0\x07\0\x09\0\x09\0\0x", "10.0.2.15", src="10.0.2.2")
    for icmp_type, code in ((3, 3), (3, 4), (4, 0), (5, 1), (11, 1), (12, 0)):
        peer.send_icmp("10.0.2.2", icmp_type, code, 600, quoted)
    peer.send_udp("10.0.2.2", 1000, 7, b"data")
    peer.send_udp("255.255.255.255", 68, 67, b"dhcp", src="0.0.0.0", dest_mac=b"\xff" * 6)
    peer.send_ip(17, bytes(1400), "10.0.2.2", frag=0x2000)
    peer.send_ip(17, bytes(1400), "10.0.2.2", frag=175)
    peer.send_ip(1, b"\x08\x00\xf7\xff\0\0\0\0", "10.0.2.2", ip_options=bytes((7, 11, 4)) + bytes(9))
    peer.send_ip(1, b"\x08\x00\xf7\xff\0\0\0\0", "10.0.2.2", ip_options=bytes((68, 8, 5, 1)) + bytes(4))
    peer.send_ip(1, b"\x08\x00\xf7\xff\0\0\0\0", "10.0.2.2", ip_options=bytes((131, 7, 4, 10, 0, 2, 9, 0)))
    options = build_tcp_options(1460, True, (1, 0), 7)
    for flags in ("S", "A", "FA", "R", "SA", "PA", "", "SFRPAUEW"):
        peer.send_tcp("10.0.2.2", 1000, 80, flags, 5, 6, b"" if "S" in flags else b"xyz", options=options)
    peer.send_ip(132, bytes(8), "10.0.2.2")
    return [f.data for f in sim.frames if f.src == peer.name]


SEEDS = seeds()


@contextmanager
def every_frame_accounted_for() -> Iterator[list[sk_buff]]:
    """Collect the packets that entered, and fail unless each has left by exactly one exit or waits in a queue:
    received = consumed + dropped with a reason + waiting."""
    entered: list[sk_buff] = []
    children: list[Any] = []
    gone: Counter[int] = Counter()
    alive: list[sk_buff] = []  # no id() may be used again while this counts
    real_receive, real_kfree, real_consume = (
        core_dev.netif_receive_skb,
        skbuff.kfree_skb_reason,
        skbuff.consume_skb,
    )

    def receive(skb: sk_buff) -> int:
        entered.append(skb)
        return real_receive(skb)

    def kfree(skb: sk_buff, reason: int) -> None:
        gone[id(skb)] += 1
        alive.append(skb)
        assert reason != SKB_NOT_DROPPED_YET
        real_kfree(skb, reason)

    def consume(skb: sk_buff) -> None:
        gone[id(skb)] += 1
        alive.append(skb)
        real_consume(skb)

    real_child = tcp_minisocks.tcp_create_openreq_child

    def child(*args: Any) -> Any:
        children.append(real_child(*args))
        return children[-1]

    exits = {"kfree_skb_reason": (real_kfree, kfree), "consume_skb": (real_consume, consume)}
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(core_dev, "netif_receive_skb", receive))
        patches.enter_context(mock.patch.object(tcp_minisocks, "tcp_create_openreq_child", child))
        for module in [m for name, m in sys.modules.items() if name.startswith("stack.")]:
            for name, (real, spy) in exits.items():
                if getattr(module, name, None) is real:
                    patches.enter_context(mock.patch.object(module, name, spy))
        yield entered
    net_of = {id(s.dev.net): s.dev.net for s in entered if s.dev is not None}
    held = {id(skb) for net in net_of.values() for skb in waiting(net)}
    for sk in children:
        held.update(id(skb) for skb in (*sk.sk_receive_queue, *sk.out_of_order_queue))
    lost = [s for s in entered if not gone[id(s)] and id(s) not in held]
    twice = [s for s in entered if gone[id(s)] > 1 or (gone[id(s)] and id(s) in held)]
    assert not twice, f"{len(twice)} frames left twice, first: {bytes(twice[0].head).hex()}"
    assert not lost, f"{len(lost)} frames vanished, first: {bytes(lost[0].head).hex()}"


def waiting(net: Stack) -> Iterator[sk_buff]:
    """Received packets that something still holds: a UDP socket or the fragment store."""
    for chain in net.udp_table.hash.values():
        for sk in chain:
            yield from sk.sk_receive_queue
    for qp in net.ipv4_fqdir.queues.values():
        for _, frag in qp.frags:
            yield frag


def feed(net: Stack, frames: list[bytes]) -> None:
    dev = net.devices_by_name["eth0"]
    for frame in frames:
        net.netif_rx(dev, frame)
    net.rx_done()


@SETTINGS
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_random_frames_never_raise_and_always_have_a_reason(frames: list[bytes]) -> None:
    _, net, _ = make_stack()
    feed(net, frames)
    assert sum(net.drop_reasons.values()) == len(frames)


@SETTINGS
@given(
    st.lists(
        st.tuples(st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x86\xdd"]), st.binary(max_size=120)),
        max_size=20,
    )
)
def test_random_packets_behind_a_good_ethernet_header(packets: list[tuple[bytes, bytes]]) -> None:
    _, net, _ = make_stack()
    with every_frame_accounted_for():
        feed(net, [DEV_MAC + b"\x02\0\0\0\0\x01" + kind + body for kind, body in packets])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    frame = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(frame) - 1))
        frame[at] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del frame[draw(st.integers(0, len(frame))) :]
    if draw(st.booleans()) and len(frame) >= 34:
        fix_header(frame)
    return bytes(frame)


def fix_header(frame: bytearray) -> None:
    """Make the IPv4 checksum right again, so that the mutation gets past it."""
    ihl = (frame[14] & 15) * 4
    if len(frame) < 14 + ihl or ihl < 20:
        return
    frame[24:26] = b"\0\0"
    total = sum(int.from_bytes(frame[i : i + 2], "big") for i in range(14, 14 + ihl, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    frame[24:26] = (total ^ 0xFFFF).to_bytes(2, "big")


@SETTINGS
@given(st.lists(mutated(), max_size=25), st.integers(0, 120))
def test_mutated_frames_never_raise_and_are_accounted_for(frames: list[bytes], seconds: int) -> None:
    sim, net, _ = make_stack()
    with every_frame_accounted_for():
        feed(net, frames)
        sim.run_for(seconds * 1_000_000_000)
    assert net.ipv4_fqdir.mem >= 0
    if seconds > 40:
        assert net.ipv4_fqdir.mem == 0


@SETTINGS
@given(
    mutated(),
    st.sampled_from([CHECKSUM_NONE, CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL]),
    st.integers(-10, 70000),
    st.integers(-10, 70000),
    st.integers(-1, 70000),
    st.integers(0, 255),
)
def test_hostile_offload_fields_never_raise(
    frame: bytes, summed: int, start: int, offset: int, gso_size: int, gso_type: int
) -> None:
    sim, net, _ = make_stack()
    dev = net.devices_by_name["eth0"]
    with every_frame_accounted_for():
        net.netif_rx(
            dev,
            frame,
            csum_start=start,
            csum_offset=offset,
            ip_summed=summed,
            gso_size=gso_size,
            gso_type=gso_type,
        )
        sim.settle()


@SETTINGS
@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 200), st.booleans(), st.integers(0, 3)), max_size=40
    )
)
def test_fragments_of_any_shape_keep_the_books(pieces: list[tuple[int, int, bool, int]]) -> None:
    sim, net, peer = make_stack()
    with every_frame_accounted_for():
        for offset, length, more, ip_id in pieces:
            peer.send_ip(17, bytes(length), "10.0.2.2", frag=(0x2000 if more else 0) | offset, ip_id=ip_id)
            sim.settle()
        queues = net.ipv4_fqdir.queues.values()
        assert net.ipv4_fqdir.mem == sum(200 + sum(f.truesize for _, f in qp.frags) for qp in queues)
        for qp in queues:
            ends = [end for end, _ in qp.frags]
            assert all(end <= start for end, start in zip(ends, qp.starts[1:], strict=False))
            assert qp.meat == sum(end - start for end, start in zip(ends, qp.starts, strict=True))
        sim.run_for(60_000_000_000)
    assert (net.ipv4_fqdir.mem, net.ipv4_fqdir.queues) == (0, {})


# -- connections
# -------------------------------------------------------------------------------------------------------


@st.composite
def segments(draw: st.DrawFn) -> tuple[str, int, int, bytes, bytes, int]:
    """Flags, sequence and acknowledgement near the right ones, payload, option bytes, window."""
    near = st.one_of(st.integers(-3, 3), st.integers(-70000, 70000), st.integers(0, 2**32 - 1))
    flags = "".join(draw(st.lists(st.sampled_from("SFRPAUEW"), max_size=4, unique=True)))
    options = draw(st.binary(max_size=7)) * 4
    return flags, draw(near), draw(near), draw(st.binary(max_size=64)), options, draw(st.integers(0, 65535))


@SETTINGS
@given(st.lists(st.tuples(segments(), st.integers(0, 2000)), max_size=30), st.booleans())
def test_segments_of_any_shape_never_raise_in_any_state(
    script: list[tuple[tuple[str, int, int, bytes, bytes, int], int]], accepted: bool
) -> None:
    sim = Sim(seed=9)
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net)
    listener = bsd.Socket(net)
    listener.bind(("0.0.0.0", 80))
    listener.listen(2)
    conn = peer.tcp(80)
    with every_frame_accounted_for():
        if accepted:
            conn.handshake()
            child, _ = listener.accept()
            child.send(b"hello" * 1000)
            sim.settle()
        walk(sim, conn, script)
    json.dumps(net.snapshot())


@SETTINGS
@given(
    st.lists(st.tuples(segments(), st.integers(0, 200)), max_size=25),
    st.sampled_from([{}, {"tcp_syncookies": 2}, {"tcp_syncookies": 0}, {"tcp_abort_on_overflow": 1}]),
    st.sampled_from(["read", "close", "leave", "linger"]),
)
def test_segments_around_a_busy_listener_are_accounted_for(
    script: list[tuple[tuple[str, int, int, bytes, bytes, int], int]], sysctl: dict[str, Any], what: str
) -> None:
    sim = Sim(seed=9)
    net = sim.add_stack("10.0.2.2/24", sysctl=sysctl)
    peer = sim.add_peer("10.0.2.15", net)
    listener = bsd.Socket(net)
    listener.bind(("0.0.0.0", 80))
    listener.listen(0)
    with every_frame_accounted_for():
        conn = peer.tcp(80)
        conn.handshake(ts=what != "close")
        for sport in (1, 2, 3):
            other = peer.tcp(80, sport=sport)
            for flags in ("S", "S", "A"):
                other.send(flags, seq=0 if flags == "S" else 1, ack=1)
                sim.settle()
        child, _ = listener.accept()
        for at in (1, 200, 100, 50, 100):
            conn.send("PA", bytes(100), seq=at)
        sim.settle()
        conn.snd_nxt = 300
        if what == "read":
            child.recv(150)
        elif what == "linger":
            child.setsockopt(6, 8, -1)
        if what != "leave":
            child.close()
        walk(sim, conn, script)


def walk(sim: Sim, conn: RawTcp, script: list[tuple[tuple[str, int, int, bytes, bytes, int], int]]) -> None:
    """Send the segments with the pauses between them, then let a minute pass."""
    for (flags, seq, ack, payload, options, window), ms in script:
        conn.peer.inbox.clear()
        conn.send(
            flags,
            payload,
            seq=conn.snd_nxt + seq,
            ack=(conn.rcv_nxt + ack) & 0xFFFFFFFF,
            window=window,
            options=options,
        )
        sim.run_for(ms * 1_000_000)
    assert sim.run_until(sim.now_ns() + 60_000_000_000)
