# SPDX-License-Identifier: GPL-2.0-or-later
"""Which call trees browsers are sent, and with which states."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from stack.net.ipv4 import tcp_ipv4
from stack.trace.hub import TraceHub
from vnic.callgraph import CLIENT_PORT, PORT, World
from vnic.web import trees
from vnic.web.state import parse_ends
from vnic.web.trees import Filter, Trees

KEY = f"10.0.2.2:{PORT} < 10.0.2.15:{CLIENT_PORT}"


SEGMENTS = Filter()


class Looked(World):
    """A world with one browser, "me"."""

    def __init__(self) -> None:
        super().__init__()
        ifindex = self.net.devices_by_name["eth0"].ifindex
        hub = TraceHub(time.perf_counter_ns)
        self.trees = Trees(self.net, ifindex, hub, lambda: self.net.clock.now_ns() / 1e9)

    def look(self, wanted: Filter = SEGMENTS) -> None:
        assert self.trees.want("me", wanted) == ""

    def seen(self) -> list[dict[str, Any]]:
        return [trees.plain(one) for one in self.trees.take("me")[0]]

    def steps(self) -> list[tuple[str, str, str]]:
        return [(one["root"], one["before"], one["after"]) for one in self.seen()]


@pytest.fixture
def world() -> Any:
    made = Looked()
    yield made
    made.trees.want("me", None)
    assert sys.gettrace() is None


def test_syn_and_third_ack_show_their_trees_and_states(world: Looked) -> None:
    world.listening()
    world.look()
    world.receive_syn()
    (syn,) = world.seen()
    assert (syn["flow"], syn["before"], syn["after"]) == (KEY, "LISTEN", "NEW_SYN_RECV")
    assert syn["lines"][0] == "tcp_v4_rcv"
    assert any("tcp_v4_conn_request" in line for line in syn["lines"])
    world.client.expect("SA")
    world.receive_ack()
    assert world.steps() == [("tcp_v4_rcv", "NEW_SYN_RECV", "ESTABLISHED")]


def test_close_by_the_application_is_the_state_before_the_next_segment(world: Looked) -> None:
    world.established()
    world.look()
    world.close()
    world.client.expect("FA")
    world.receive_ack()
    assert world.steps() == [("tcp_v4_rcv", "FIN_WAIT1", "FIN_WAIT2")]
    world.receive_fin()
    assert world.steps() == [("tcp_v4_rcv", "FIN_WAIT2", "TIME_WAIT")]


def test_reset_leaves_close_though_a_listener_is_there(world: Looked) -> None:
    world.established()
    world.look()
    world.client.send("R")
    world.sim.settle()
    assert world.steps() == [("tcp_v4_rcv", "ESTABLISHED", "CLOSE")]


def test_reset_of_a_request_leaves_the_listener(world: Looked) -> None:
    """RFC 9293, section 3.10.7.4; a capture's comment says the same."""
    world.half_open()
    world.look()
    world.client.send("R")
    world.sim.settle()
    assert world.steps() == [("tcp_v4_rcv", "NEW_SYN_RECV", "LISTEN")]


def test_segment_for_nobody_is_close_before_and_after(world: Looked) -> None:
    world.look()
    world.receive_syn()
    assert world.steps() == [("tcp_v4_rcv", "CLOSE", "CLOSE")]


def test_socket_calls_and_other_packets_show_when_they_are_wanted(world: Looked) -> None:
    world.listening()
    world.look(Filter("all"))
    world.receive_syn()
    roots = [root for root, _, _ in world.steps()]
    assert "tcp_v4_rcv" in roots
    world.client.expect("SA")
    world.look(Filter("received"))
    world.receive_ack()
    world.accept()
    assert {root for root, _, _ in world.steps()} <= {"tcp_v4_rcv", "arp_rcv"}
    world.look(Filter("all"))
    world.conn.send(b"hello")
    assert ("sys_sendto", "ESTABLISHED", "ESTABLISHED") in world.steps()


def test_filter_by_port_and_connection_leaves_out_the_others(world: Looked) -> None:
    world.listening()
    for wanted, count in (
        (Filter(port=PORT), 1),
        (Filter(port=CLIENT_PORT + 1), 0),
        (Filter(ends=parse_ends(KEY)), 1),
        (Filter(ends=parse_ends("10.0.2.2:1 < 10.0.2.15:2")), 0),
    ):
        world.look(wanted)
        world.receive_syn()
        assert len(world.seen()) == count, wanted


def test_busy_stack_keeps_a_few_trees_and_those_that_changed_a_state(world: Looked) -> None:
    world.half_open()
    world.look()
    world.receive_ack()
    world.accept()
    for _ in range(50):
        world.client.send("PA", b"x")
        world.sim.settle()
    seen, skipped = world.trees.take("me")
    assert skipped == 51 - 1 - trees.KEPT
    assert [one.after for one in seen] == ["ESTABLISHED"] * (1 + trees.KEPT)
    assert seen[0].before == "NEW_SYN_RECV"
    assert world.trees.take("me") == ([], 0)


def test_nobody_wants_trees_nothing_is_traced(world: Looked) -> None:
    assert sys.gettrace() is None
    world.look()
    world.trees.want("you", Filter())
    assert sys.gettrace() is not None
    world.trees.want("me", None)
    assert sys.gettrace() is not None
    world.trees.want("you", None)
    assert sys.gettrace() is None
    assert world.trees.take("you") == ([], 0)


def test_compiled_stack_says_that_there_are_no_trees(world: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_ipv4, "__file__", "tcp_ipv4.cpython-311-x86_64-linux-gnu.so")
    assert "compiled" in world.trees.want("me", Filter())
    assert sys.gettrace() is None


def test_fault_of_ours_ends_the_tracing_and_not_the_segment(
    world: Looked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(root: str, ends: object) -> tuple[str, str]:
        raise ZeroDivisionError

    world.listening()
    world.look()
    monkeypatch.setattr(world.trees._states, "step", broken)
    world.receive_syn()
    world.client.expect("SA")
    assert "no call trees any more" in caplog.text
    assert sys.gettrace() is None
