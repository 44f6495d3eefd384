# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets a run's packets, and that nothing is in their way when nobody does."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devmodel.middleware.capture import INBOUND, OUTBOUND, Captured, CapturePort
from devmodel.middleware.fault import FaultPort, Faults
from devmodel.port import Buffer
from stack.include.sk_buff import sk_buff
from stack.inspect.conversation import Packet
from stack.trace.hub import TraceHub
from tests.unit.vnic.test_capture import ACK, SYN, Bench, segment
from vnic import pcapng
from vnic.capture import Capture, Wanted
from vnic.control import Client, ControlError, ControlServer
from vnic.feed import Callback, Comments, Discard, PacketFeed
from vnic.packets import packet_of


class Heard:
    """A subscriber's packets."""

    def __init__(self) -> None:
        self.comments: list[str] = []
        self.directions: list[int] = []
        self.writer = Callback(self.take)

    def take(self, packet: Captured) -> None:
        self.directions.append(packet.direction)
        self.comments.append(packet.comment)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for subscription in tuple(made.feed._subscriptions):
        subscription.end()
    made.loop.close()


def test_subscribers_each_get_the_comments_that_they_want(bench: Bench) -> None:
    plain, states, paths = Heard(), Heard(), Heard()
    wanted: list[tuple[Heard, Comments]] = [(plain, "none"), (states, "states"), (paths, "paths")]
    subscriptions = [bench.feed.subscribe(heard.writer, comments) for heard, comments in wanted]
    bench.give(segment(SYN, 1000))
    for subscription in subscriptions:
        subscription.end()
    assert plain.directions == states.directions == paths.directions == [INBOUND, OUTBOUND]
    assert plain.comments == ["", ""]
    assert states.comments[0].endswith("; LISTEN -> NEW_SYN_RECV")
    assert paths.comments[0].startswith("tcp_v4_rcv > ")
    assert (bench.adapter.port, sys.gettrace(), bench.net.drop_hook) == (bench.wire.a, None, None)


def test_states_are_told_without_tracing(bench: Bench) -> None:
    heard = Heard()
    bench.feed.subscribe(heard.writer, "states")
    assert sys.gettrace() is None
    bench.handshake()
    assert heard.comments[0] == "LISTEN -> NEW_SYN_RECV"
    assert heard.comments[2].startswith("NEW_SYN_RECV -> ESTABLISHED; cwnd=10 ssthresh=inf srtt=")


def test_tracing_ends_with_the_one_who_wanted_paths(bench: Bench) -> None:
    heard = Heard()
    bench.feed.subscribe(heard.writer, "states")
    paths = bench.feed.subscribe(Discard(), "paths")
    assert sys.gettrace() is not None
    paths.end()
    assert sys.gettrace() is None
    bench.give(segment(SYN, 1000))
    assert heard.comments == ["LISTEN -> NEW_SYN_RECV", "NEW_SYN_RECV"]


def test_subscriber_that_fails_takes_no_other_with_it(bench: Bench) -> None:
    class Full(Discard):
        def write(self, packet: Captured) -> None:
            raise OSError("no space")

    heard = Heard()
    full = bench.feed.subscribe(Full())
    bench.feed.subscribe(heard.writer)
    bench.handshake()
    assert (full.failed, full.packets) == ("no space", 0)
    assert len(heard.directions) == 3
    assert bench.feed.watched


def test_subscriber_with_a_fault_is_logged_and_stops_no_packet(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def take(packet: Captured) -> None:
        raise ZeroDivisionError

    heard = Heard()
    broken = bench.feed.subscribe(Callback(take))
    bench.feed.subscribe(heard.writer)
    bench.handshake()
    assert bench.listener.accept()
    assert len(heard.directions) == 3
    assert "ZeroDivisionError" in broken.failed
    assert "ZeroDivisionError" in caplog.text


def test_subscription_that_ends_within_a_packet_leaves_the_port_to_the_stack(bench: Bench) -> None:
    def take(packet: Captured) -> None:
        subscription.end()

    subscription = bench.feed.subscribe(Callback(take), "states")
    bench.handshake()
    assert bench.adapter.port is bench.wire.a
    assert bench.listener.accept()


def test_capture_behind_faults_has_an_interface_for_the_wire(bench: Bench, tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    wire = CapturePort(bench.wire.a, None, time.time_ns)
    everything = Faults(loss=1.0)
    bench.adapter.plug(FaultPort(wire, random.Random(1), loop, rx=everything))
    feed = PacketFeed(bench.adapter, TraceHub(time.perf_counter_ns), wire)
    capture = Capture(feed)
    capture.start(Wanted(tmp_path / "a.pcapng"))
    bench.give(segment(SYN, 1000))  # lost between the two
    capture.stop()
    bench.give(segment(SYN, 1000))
    loop.close()
    assert feed.interfaces == ("eth0", wire.name)
    assert list(pcapng.read(tmp_path / "a.pcapng", "eth0")) == []
    (syn,) = pcapng.read(tmp_path / "a.pcapng", wire.name)
    assert (syn.frame, syn.outbound) == (segment(SYN, 1000), False)
    assert wire.writer is None


def test_second_of_two_captures_keeps_its_own_packets(bench: Bench, tmp_path: Path) -> None:
    heard = Heard()
    isn = bench.handshake()
    bench.capture.start(Wanted(tmp_path / "a.pcapng"))
    bench.feed.subscribe(heard.writer)
    bench.capture.stop()
    bench.give(segment(ACK, 1001, isn + 1, b"x"))
    assert heard.directions == [INBOUND, OUTBOUND]
    assert [len(packet.frame) for packet in pcapng.read(tmp_path / "a.pcapng")] == []


def test_drop_hook_that_was_put_round_ours_is_called_once_a_packet(bench: Bench) -> None:
    reasons: list[int] = []

    def outer(skb: sk_buff, reason: int) -> None:
        reasons.append(reason)
        assert inner is not None
        inner(skb, reason)

    first = bench.feed.subscribe(Discard(), "states")
    inner, bench.net.drop_hook = bench.net.drop_hook, outer
    first.end()
    heard = Heard()
    bench.feed.subscribe(heard.writer, "states")
    bench.give(segment(SYN, 1000, dport=8))
    assert len(reasons) == 1
    assert heard.comments[0] == "CLOSE; dropped: NO_SOCKET"


def test_frame_in_pieces_is_heard_as_it_is_sent(bench: Bench) -> None:
    pieces: list[list[Buffer]] = []
    bench.feed.subscribe(Callback(lambda packet: pieces.append(list(packet.parts))))
    bench.give(segment(SYN, 1000))
    assert b"".join(pieces[1]) == bench.frames[-1]


def test_control_clients_get_the_headers_of_packets(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    def talk() -> list[Packet]:
        with Client(path) as client:
            return [packet_of(answer["packet"]) for answer in client.stream("packets", count=3)]

    async def run() -> list[Packet]:
        server = ControlServer(bench.net, hub=bench.hub, feed=bench.feed)
        async with server.listen(path):
            task = asyncio.ensure_future(asyncio.to_thread(talk))
            while not bench.feed.watched:
                await asyncio.wait([task], timeout=0.01)
            bench.handshake()
            return await task

    syn, synack, ack = bench.loop.run_until_complete(run())
    assert syn.frame == segment(SYN, 1000)
    assert [packet.outbound for packet in (syn, synack, ack)] == [False, True, False]
    assert syn.comment == "LISTEN -> NEW_SYN_RECV"
    assert not bench.feed.watched


def test_control_clients_are_told_when_no_packet_comes_for_now(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    def talk() -> list[str]:
        with Client(path) as client:
            answers = client.stream("packets")
            return [next(iter(next(answers))) for _ in range(4)]

    async def run() -> list[str]:
        async with ControlServer(bench.net, hub=bench.hub, feed=bench.feed).listen(path):
            task = asyncio.ensure_future(asyncio.to_thread(talk))
            while not bench.feed.watched:
                await asyncio.wait([task], timeout=0.01)
            bench.handshake()
            return await task

    assert bench.loop.run_until_complete(run()) == ["packet", "packet", "packet", "pause"]


@pytest.mark.parametrize("more", [{"comments": "loud"}, {"comments": []}, {"count": "many"}])
def test_packets_that_cannot_be_told_are_refused(
    bench: Bench, tmp_path: Path, more: dict[str, object]
) -> None:
    path = tmp_path / "c.sock"

    def talk() -> None:
        with Client(path) as client:
            client.stream("packets", **more)

    async def run() -> None:
        async with ControlServer(bench.net, hub=bench.hub, feed=bench.feed).listen(path):
            await asyncio.to_thread(talk)

    with pytest.raises(ControlError, match="not understood"):
        bench.loop.run_until_complete(run())
