# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts 60 and 71 and the probes of the receive window as linux-6.18 has them: the buffer is worth what the segments
that came carried of what they cost.  Measured on 6.18.44 over a TUN device."""

from __future__ import annotations

import pytest
from measured import Host

from stack.api.sim import MSEC

LINUX_6_18 = pytest.mark.parametrize("profile", ["linux-6.18"])
SO_RCVBUF = (1, 8)


def _fields(host: Host, size: int, count: int, rcvbuf: int = 0, read: bool = False) -> list[int]:
    """The window field after each of ``count`` segments."""
    sock = host.listen(before=((*SO_RCVBUF, rcvbuf),) if rcvbuf else ())
    conn = host.connect()
    child, _ = sock.accept()
    fields = []
    for _ in range(count):
        conn.send("A", b"x" * size)
        fields.append(conn.expect("A", within_ns=100 * MSEC).window)
        if read:
            child.recv(1 << 20)
    return fields


@pytest.mark.probe("receive window: nobody reads, 1448-byte segments")
@LINUX_6_18
def test_probe_window_nobody_reads_full_segments_6_18(host: Host) -> None:
    """Each of the first widens it by two segments; then it follows the share that the buffer is worth, and never
    gives up what was offered."""
    assert _fields(host, 1448, 75) == [67, 70, 73, *range(75, 3, -1)]


@pytest.mark.probe("receive window: nobody reads, 100- and 512-byte segments")
@LINUX_6_18
@pytest.mark.parametrize("size", [100, 512])
def test_probe_window_nobody_reads_small_segments_6_18(host: Host, size: int) -> None:
    assert _fields(host, size, 14) == [64] * 14


@pytest.mark.probe("receive window: a reader that reads at once")
@LINUX_6_18
def test_probe_window_of_a_reader_6_18(host: Host) -> None:
    assert _fields(host, 1448, 10, read=True) == [67, 70, 73, 75, 78, 79, 79, 79, 79, 79]


@pytest.mark.fact(71, "4 KiB buffer, nobody reading")
@LINUX_6_18
@pytest.mark.parametrize(("size", "fields"), [(1448, [2896, 1448, 0]), (1000, [2000, 1000, 0])])
def test_fact_71_tiny_buffer_6_18(host: Host, size: int, fields: list[int]) -> None:
    assert _fields(host, size, 3, rcvbuf=4096) == fields


@pytest.mark.fact(60, "immediate and delayed ACKs")
@LINUX_6_18
def test_fact_60_20_immediate_acks_then_40_ms_6_18(host: Host) -> None:
    """Sixteen, and one more for each of the first four, which widen the window."""
    sock = host.listen()
    conn = host.connect()
    sock.accept()
    delays = []
    for _ in range(24):
        start = host.sim.now_ns()
        conn.send("A", b"x" * 1448)
        delays.append(conn.expect("A", within_ns=100 * MSEC).packet.time_ns - start)
    assert delays[:20] == [0] * 20
    assert all(40 * MSEC <= delay <= 48 * MSEC for delay in delays[20:])
