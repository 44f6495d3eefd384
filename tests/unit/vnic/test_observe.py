# SPDX-License-Identifier: GPL-2.0-or-later
"""What an observation keeps of a run, and that all of it is bounded and said."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.api.bsd import AF_INET6, Socket
from stack.inspect.conversation import conversations
from stack.trace import hub as hub_module
from tests.unit.vnic.test_capture import ACK, FIN, GUEST, SYN, Bench, segment
from vnic import observe
from vnic.control import Client, ControlError, ControlServer
from vnic.observe import Observation, Wanted
from vnic.packets import packet_of

GUEST_END = (int.from_bytes(GUEST, "big"), 40000)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.close()


def observed(bench: Bench, *wanted: Wanted) -> Observation:
    return Observation(
        bench.net, bench.feed, bench.hub, *wanted or (Wanted(),), lambda: {"transport": "none"}
    )


def record_of(bench: Bench, observation: Observation, during: Callable[[], object]) -> dict[str, Any]:
    """As it is after its way through JSON."""
    observation.start()
    try:
        during()
    finally:
        observation.stop()
    record: dict[str, Any] = json.loads(json.dumps(observation.record()))
    return record


def test_connection_leaves_packets_trees_moments_and_counters(bench: Bench) -> None:
    record = record_of(bench, observed(bench), bench.handshake)
    (one,) = conversations(map(packet_of, record["packets"]))
    assert [segment.said.after for segment in one.segments] == ["NEW_SYN_RECV", "NEW_SYN_RECV", "ESTABLISHED"]
    assert [tree["root"] for tree in record["trees"]] == ["tcp_v4_rcv", "tcp_v4_rcv"]
    assert "tcp_v4_conn_request" in record["trees"][0]["text"]
    titles = [moment["title"] for moment in record["moments"]]
    assert titles == [
        "at the beginning",
        "LISTEN -> NEW_SYN_RECV",
        "NEW_SYN_RECV -> ESTABLISHED",
        "at the end",
    ]
    assert len(record["moments"][1]["tcp"]["requests"]) == 1
    before, after = record["counters"]["before"], record["counters"]["after"]
    assert after["TcpPassiveOpens"] - before["TcpPassiveOpens"] == 1
    assert record["negotiation"] == {"transport": "none"}
    assert record["dropped"] == {"packets": 0, "moments": 0}
    assert not record["tracing_ended"]


def test_negotiation_is_told_as_it_was_at_the_first_packet(bench: Bench) -> None:
    told = {"connected": True}
    observation = Observation(bench.net, bench.feed, bench.hub, Wanted(), lambda: dict(told))

    def during() -> None:
        bench.handshake()
        told["connected"] = False

    assert record_of(bench, observation, during)["negotiation"] == {"connected": True}


def test_observation_that_ended_is_in_nobodys_way(bench: Bench) -> None:
    observation = observed(bench)
    record = record_of(bench, observation, bench.handshake)
    observation.stop()
    assert (bench.adapter.port, sys.gettrace(), bench.net.drop_hook) == (bench.wire.a, None, None)
    bench.give(segment(SYN, 5000, dport=7))
    assert len(observation.record()["packets"]) == len(record["packets"])


@pytest.mark.parametrize(
    ("wanted", "packets"),
    [
        (Wanted(port=7), 3),
        (Wanted(port=8), 2),
        (Wanted(peer=GUEST_END), 5),
        (Wanted(peer=(GUEST_END[0], 1)), 0),
        (Wanted(port=7, peer=GUEST_END), 3),
    ],
)
def test_connection_that_is_not_wanted_leaves_nothing(bench: Bench, wanted: Wanted, packets: int) -> None:
    def during() -> None:
        bench.handshake()
        bench.give(segment(SYN, 1000, dport=8))  # nobody listens: RST

    record = record_of(bench, observed(bench, wanted), during)
    assert len(record["packets"]) == packets
    assert len(record["trees"]) == packets // 2 + packets % 2


def test_dual_stack_sockets_connection_is_known_by_its_ipv4_ends(bench: Bench) -> None:
    bench.listener.close()
    bench.listener = Socket(bench.net, AF_INET6)
    bench.listener.bind(("::", 7))
    bench.listener.listen(5)

    def during() -> None:
        bench.handshake()
        bench.listener.accept()[0].send(b"hello")

    record = record_of(bench, observed(bench, Wanted(peer=GUEST_END)), during)
    assert [tree["root"] for tree in record["trees"]] == ["tcp_v4_rcv", "tcp_v4_rcv", "sys_sendto"]
    assert len(record["moments"][-1]["tcp"]["connections"]) == 1


def test_moment_shows_the_sockets_that_are_wanted_alone(bench: Bench) -> None:
    record = record_of(bench, observed(bench, Wanted(port=8)), bench.handshake)
    assert record["moments"][-1]["tcp"]["listeners"] == []
    assert record["moments"][-1]["tcp"]["connections"] == []


@pytest.mark.parametrize("bound", ["MAX_PACKETS", "MAX_MOMENTS"])
def test_what_is_beyond_a_bound_is_counted(bench: Bench, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, bound, 1)
    record = record_of(bench, observed(bench), bench.handshake)
    what = bound.removeprefix("MAX_").lower()
    assert len(record[what]) == 1
    assert record["dropped"][what] == {"packets": 2, "moments": 3}[what]


def test_tracing_ends_with_the_last_tree_that_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "MAX_TREES", 1)

    def during() -> None:
        bench.handshake()
        assert sys.gettrace() is None

    record = record_of(bench, observed(bench), during)
    assert [tree["root"] for tree in record["trees"]] == ["tcp_v4_rcv"]
    assert record["tracing_ended"]
    assert len(record["packets"]) == 3


def test_moment_of_many_sockets_says_how_many_are_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "MAX_SOCKETS", 1)
    record = record_of(bench, observed(bench), bench.handshake)
    last = record["moments"][-1]
    assert (len(last["tcp"]["connections"]), last["tcp"]["listeners"], last["left_out"]) == (1, [], 1)


def test_connection_counts_as_ended_once_both_ends_are_through(bench: Bench) -> None:
    observation = observed(bench)
    observation.start()
    isn = bench.handshake()
    assert observation.ended == 0
    bench.listener.accept()[0].close()
    bench.give(segment(ACK | FIN, 1001, isn + 2))
    assert observation.ended == 1
    observation.stop()


def test_tree_is_not_disturbed_by_the_moment_within_it(bench: Bench) -> None:
    """close() sends the FIN, and with it the state is another: the snapshot is taken within sys_close."""

    def during() -> None:
        bench.handshake()
        bench.listener.accept()[0].close()

    record = record_of(bench, observed(bench, Wanted(level="full")), during)
    tree = record["trees"][-1]
    assert tree["root"] == "sys_close"
    assert "tcp_send_fin" in tree["text"]
    assert "tcp_get_info" not in tree["text"]
    assert "ESTABLISHED -> FIN_WAIT1" in [moment["title"] for moment in record["moments"]]


def test_compiled_stack_is_observed_without_trees(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "is_compiled", lambda: True)
    record = record_of(bench, observed(bench), bench.handshake)
    assert record["trees"] == []
    assert "compiled" in record["why_no_trees"]
    assert len(record["packets"]) == 3


# -- over the control socket ------------------------------------------------------------------------------------------


def asked(
    bench: Bench, path: Path, more: dict[str, object], enough: threading.Event | None
) -> dict[str, Any]:
    """The record that a client gets, which has it end when ``enough`` is set."""

    def talk() -> dict[str, Any]:
        with Client(path) as client:
            client.observe(**more)
            if enough is not None:
                assert enough.wait(10)
                client.end_observation()
            return client.read_record()

    async def run() -> dict[str, Any]:
        server = ControlServer(
            bench.net, hub=bench.hub, feed=bench.feed, observe=lambda w: observed(bench, w)
        )
        async with server.listen(path):
            task = asyncio.ensure_future(asyncio.to_thread(talk))
            while not bench.feed.watched and not task.done():
                await asyncio.wait([task], timeout=0.01)
            if not task.done():
                isn = bench.handshake()
                bench.listener.accept()[0].close()
                bench.give(segment(ACK | FIN, 1001, isn + 2))
            if enough is not None:
                enough.set()
            return await task

    return bench.loop.run_until_complete(run())


def test_observation_ends_when_enough_connections_have(bench: Bench, tmp_path: Path) -> None:
    record = asked(bench, tmp_path / "c.sock", {"connections": 1, "port": 7}, None)
    assert record["counters"]["after"]["TcpPassiveOpens"] == 1
    assert not bench.feed.watched


def test_observation_ends_after_its_time(bench: Bench, tmp_path: Path) -> None:
    assert asked(bench, tmp_path / "c.sock", {"seconds": 0.05}, None)["moments"][-1]["title"] == "at the end"


def test_observation_ends_when_the_client_says_so(bench: Bench, tmp_path: Path) -> None:
    record = asked(bench, tmp_path / "c.sock", {"level": "times"}, threading.Event())
    assert " us" in record["trees"][0]["text"]


@pytest.mark.parametrize("more", [{"connections": "one"}, {"seconds": []}, {"level": "loud"}, {"peer": "x"}])
def test_observation_that_cannot_be_is_refused(bench: Bench, tmp_path: Path, more: dict[str, object]) -> None:
    with pytest.raises(ControlError):
        asked(bench, tmp_path / "c.sock", more, None)
    assert not bench.feed.watched


def test_observer_that_hangs_up_leaves_nothing_behind(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "c.sock"

    def talk() -> None:
        with Client(path) as client:
            client.observe()

    async def run() -> None:
        server = ControlServer(
            bench.net, hub=bench.hub, feed=bench.feed, observe=lambda w: observed(bench, w)
        )
        async with server.listen(path):
            await asyncio.to_thread(talk)
            for _ in range(100):
                if not bench.feed.watched:
                    break
                await asyncio.sleep(0.01)

    bench.loop.run_until_complete(run())
    assert (bench.feed.watched, sys.gettrace()) == (False, None)
