# SPDX-License-Identifier: GPL-2.0-or-later
"""When a child acknowledges; measured on Linux 6.1."""

from __future__ import annotations

from typing import Any

import pytest
from factworld import MSS, World

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawTcp


def connected(delay_ns: int = 0, **more: Any) -> tuple[World, RawTcp, Socket]:
    w = World(delay_ns=delay_ns)
    conn, child = w.connect(w.listen(), **more)
    w.mark()
    return w, conn, child


def ack_delay_ms(w: World, conn: RawTcp, flags: str, payload: bytes) -> float:
    """Send one segment; how long after its arrival its ACK left."""
    arrives = w.sim.now_ns() + w.delay_ns
    conn.send(flags, payload)
    return w.sent_at(conn.expect("A", within_ns=2 * SEC), arrives) * 1000


def use_up_quick_acks(w: World, conn: RawTcp, child: Socket | None = None, size: int = 100) -> None:
    for _ in range(16):
        assert ack_delay_ms(w, conn, "A", b"x" * size) == 0
        if child is not None:
            child.recv(size)


@pytest.mark.probe("delayed ACK: the first 16 segments")
@pytest.mark.parametrize("flags", ["A", "PA"])
@pytest.mark.parametrize("size", [1, 100, 536, MSS])
def test_probe_first_16_segments_are_acknowledged_at_once(flags: str, size: int) -> None:
    w, conn, _ = connected()
    for _ in range(16):
        assert ack_delay_ms(w, conn, flags, b"x" * size) == 0
    assert 40 <= ack_delay_ms(w, conn, flags, b"x" * size) <= 44


@pytest.mark.probe("delayed ACK: nobody reads, by round trip")
@pytest.mark.parametrize(
    ("rtt", "measured"),
    [
        (0, [44, 44, 44, 44]),
        (20, [44, 44, 44, 44]),
        (40, [44, 44, 44, 44]),
        (60, [44, 66, 66, 66]),
        (100, [44, 94, 106, 106]),
        (200, [44, 94, 198, 202]),
        (400, [44, 94, 198, 202]),
    ],
)
def test_probe_delay_is_bounded_by_the_round_trip_and_200_ms(rtt: int, measured: list[int]) -> None:
    """A round trip at the handshake; then each segment 9 ms after the ACK of the one before."""
    w = World()
    listener = w.listen()
    conn, _ = w.request()
    w.sim.run_for(rtt * MSEC)
    conn.send("A")
    w.sim.settle()
    listener.accept()
    use_up_quick_acks(w, conn)
    got = []
    for _ in measured:
        w.sim.run_for(9 * MSEC)
        got.append(ack_delay_ms(w, conn, "A", b"x" * 100))
    assert got == pytest.approx(measured, abs=4)


@pytest.mark.probe("delayed ACK: after a pause")
@pytest.mark.parametrize(("pause", "at_once"), [(150, 0), (300, 16), (600, 16)])
def test_probe_a_pause_longer_than_the_rto_brings_16_back(pause: int, at_once: int) -> None:
    w, conn, _ = connected()
    use_up_quick_acks(w, conn)
    assert ack_delay_ms(w, conn, "A", b"x" * 100) >= 40
    w.sim.run_for(pause * MSEC)
    delays = [ack_delay_ms(w, conn, "A", b"x" * 100) for _ in range(18)]
    assert [d == 0 for d in delays] == [True] * at_once + [False] * (18 - at_once)


@pytest.mark.probe("delayed ACK: nobody reads, two full segments")
def test_probe_nobody_reads_two_full_segments_force_no_ack() -> None:
    w, conn, _ = connected()
    use_up_quick_acks(w, conn, size=MSS)
    for _ in range(4):
        conn.send("A", b"x" * MSS)
    conn.expect_nothing(39 * MSEC)
    conn.expect("A", ack=1 + 20 * MSS, within_ns=5 * MSEC)


@pytest.mark.probe("delayed ACK: with a reader")
def test_probe_with_a_reader_every_second_full_segment_is_acknowledged_on_arrival() -> None:
    w, conn, child = connected()
    counts = []
    for _ in range(24):
        start = w.sim.now_ns()
        conn.send("A", b"x" * MSS)
        flight = w.flight(conn)
        assert all(s.packet.time_ns == start for s in flight)
        child.recv(100_000)
        assert w.flight(conn) == []
        counts.append(len(flight))
    assert counts == [1] * 16 + [0, 1] * 4


@pytest.mark.probe("delayed ACK: read at once, small segments")
def test_probe_read_at_once_small_segments_without_push_are_delayed() -> None:
    w, conn, child = connected()
    use_up_quick_acks(w, conn, child)
    start = w.sim.now_ns()
    conn.send("A", b"x" * 100)
    w.sim.settle()
    child.recv(100)
    assert 0.040 <= w.sent_at(conn.expect("A", within_ns=SEC), start) <= 0.044


@pytest.mark.probe("delayed ACK: read at once, pushed segments")
@pytest.mark.parametrize("size", [100, MSS])
def test_probe_read_at_once_pushed_segments_are_acknowledged_by_the_read(size: int) -> None:
    w, conn, child = connected()
    use_up_quick_acks(w, conn, child, size)
    start = w.sim.now_ns()
    conn.send("PA", b"x" * size)
    conn.expect_nothing()
    child.recv(size)
    assert w.sent_at(conn.expect("A"), start) == 0


@pytest.mark.probe("delayed ACK: ping-pong")
def test_probe_ping_pong_acks_ride_on_the_replies_until_one_is_missing() -> None:
    w, conn, child = connected()
    counts = []
    for _ in range(4):
        conn.send("PA", b"ping")
        before = len(w.flight(conn, MSEC))  # the reply is later
        child.recv(100)
        child.send(b"pong")
        flight = w.flight(conn)
        counts.append((before, [len(s.payload) for s in flight]))
        conn.send("A")
        w.sim.settle()
    assert counts == [(1, [4]), (0, [4]), (0, [4]), (0, [4])]
    assert 40 <= ack_delay_ms(w, conn, "PA", b"lone") <= 44
    assert [ack_delay_ms(w, conn, "PA", b"lone") for _ in range(3)] == [0, 0, 0]


@pytest.mark.probe("delayed ACK: a server that speaks first")
def test_probe_a_server_that_speaks_first_is_not_in_ping_pong_mode() -> None:
    w, conn, child = connected()
    child.send(b"220 ready")
    conn.expect("PA")
    conn.send("A")
    w.sim.run_for(10 * MSEC)
    assert ack_delay_ms(w, conn, "PA", b"HELO") == 0


@pytest.mark.probe("delayed ACK: a FIN with no data before it")
def test_probe_fin_without_data_is_acknowledged_at_the_next_tick() -> None:
    w, conn, _ = connected()
    w.sim.run_for(MSEC)
    assert 0 < ack_delay_ms(w, conn, "FA", b"") <= 4


@pytest.mark.probe("delayed ACK: 29 segments behind one hole")
def test_probe_29_segments_behind_a_hole_10_acks_19_compressed() -> None:
    """Three at once, then one for the four segments that come in a twentieth of the round trip (0.8 ms)."""
    w, conn, _ = connected(8 * MSEC)
    for n in range(1, 30):
        conn.send("A", b"x" * MSS, seq=1 + MSS * n)
        w.sim.run_for(MSEC // 4)
    flight = w.flight(conn, SEC)
    assert (len(flight), w.counted()["TCPAckCompressed"]) == (10, 19)
    assert flight[-1].opts.sack == ((conn.isn + 1 + MSS, conn.isn + 1 + 30 * MSS),)
