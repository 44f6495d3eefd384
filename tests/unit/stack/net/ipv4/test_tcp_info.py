# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP_INFO: the fields that tell of time, and the length of the struct.  tests/differential compares the rest."""

from __future__ import annotations

from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, Sim
from stack.net.ipv4.tcp import tcp_get_info
from stack.stack import Stack

MSEC = 1_000_000
SOL_TCP, TCP_INFO = 6, 11


class World:
    def __init__(self, profile: str = "linux-6.1", window: int = 65535) -> None:
        self.sim = Sim(seed=2)
        self.net: Stack = self.sim.add_stack("10.0.2.2/24", profile=profile)
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net)
        listener = Socket(self.net)
        listener.bind(("", 7))
        listener.listen()
        self.conn = self.peer.tcp(dport=7)
        self.conn.handshake(window=window, wscale=None)
        self.sim.settle()
        self.sock = listener.accept()[0]
        self.sk: Any = self.sock.sk

    def info(self, *names: str) -> list[int]:
        found = tcp_get_info(self.sk)
        return [found["tcpi_" + name] for name in names]

    def pass_time(self, ms: int) -> None:
        self.sim.run_for(ms * MSEC)


@pytest.mark.parametrize(("profile", "length"), [("linux-6.1", 232), ("linux-6.18", 280)])
def test_info_is_as_long_as_the_kernels(profile: str, length: int) -> None:
    world = World(profile)
    raw = world.sock.getsockopt(SOL_TCP, TCP_INFO, 1000)
    assert len(raw) == length
    assert raw[0] == world.info("state")[0] == 1
    assert world.sock.getsockopt(SOL_TCP, TCP_INFO, 8) == raw[:8]


def test_info_of_later_kernels_has_the_own_window_behind_the_peers() -> None:
    world = World("linux-6.18")
    raw = world.sock.getsockopt(SOL_TCP, TCP_INFO, 1000)
    words = [int.from_bytes(raw[at : at + 4], "little") for at in (228, 232)]
    assert words == world.info("snd_wnd", "rcv_wnd")


def test_busy_time_counts_while_data_are_in_flight() -> None:
    world = World()
    world.pass_time(40)
    assert world.info("busy_time") == [0]
    world.sock.send(b"x")
    world.pass_time(40)
    assert world.info("busy_time", "rwnd_limited", "sndbuf_limited") == [40_000, 0, 0]
    world.conn.expect("PA")
    world.conn.send("A")
    world.pass_time(40)
    assert world.info("busy_time") == [40_000]


def test_rwnd_limited_counts_while_the_peers_window_is_full() -> None:
    world = World(window=1000)
    world.sock.send(b"x" * 5000)
    world.pass_time(80)
    busy, rwnd, sndbuf = world.info("busy_time", "rwnd_limited", "sndbuf_limited")
    assert (rwnd, sndbuf) == (80_000, 0)
    assert busy == 80_000  # the whole of it, whatever the reason


def test_timeouts_are_counted_and_timed_until_recovered() -> None:
    world = World("linux-6.18")
    world.sock.send(b"x")
    world.pass_time(1100)  # a probe after 208 ms, timeouts after 208, 416 and 832 more
    total, runs, took, rehash = world.info("total_rto", "total_rto_recoveries", "total_rto_time", "rehash")
    assert (total, runs, rehash) == (2, 1, 2)
    assert 600 <= took <= 800
    while world.peer.inbox:
        world.conn.expect()
    world.conn.send("A")
    world.pass_time(20)
    done = world.info("total_rto_time")
    world.pass_time(500)
    assert world.info("total_rto_time") == done
    assert world.info("total_rto", "total_rto_recoveries") == [2, 1]


def test_delivery_rate_is_what_the_last_acks_delivered_per_second() -> None:
    world = World()
    for _ in range(4):
        world.sock.send(b"x" * 1448)
        world.pass_time(50)
        while world.peer.inbox:
            world.conn.expect()
        world.conn.send("A")
        world.sim.settle()
    rate, limited = world.info("delivery_rate", "delivery_rate_app_limited")
    assert 1448 * 15 <= rate <= 1448 * 25  # a segment in 50 ms
    assert limited == 1
