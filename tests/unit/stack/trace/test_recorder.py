# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, Sim
from stack.include.ip import in_aton
from stack.include.netdevice import IFF_LOOPBACK
from stack.stack import Stack
from stack.trace.notation import render
from stack.trace.recorder import Call, Recorder


@pytest.fixture
def sim() -> Sim:
    return Sim(seed=3)


@pytest.fixture
def net(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24")


@pytest.fixture
def peer(sim: Sim, net: Stack) -> RawPeer:
    return sim.add_peer("10.0.2.15", net)


def ticking() -> Iterator[int]:
    """A clock that each look moves on by one."""
    return count()


def recorder(**options: int) -> Recorder:
    return Recorder(ticking().__next__, **options)


def every(call: Call) -> Iterator[Call]:
    yield call
    for child in call.calls():
        yield from every(child)


def test_stopped_recorder_leaves_no_trace_function(net: Stack) -> None:
    with recorder() as rec:
        assert sys.gettrace() is not None
        Socket(net)
    assert sys.gettrace() is None
    Socket(net)
    assert [tree.root.name for tree in rec.take()] == ["sys_socket"]


def test_second_trace_function_is_refused(net: Stack) -> None:
    with recorder(), pytest.raises(RuntimeError, match="another trace function"):
        recorder().start()
    assert sys.gettrace() is None


def test_tree_begins_with_a_root_and_other_calls_do_not_show(net: Stack) -> None:
    with recorder() as rec:
        net.snapshot()
        net.next_deadline()
    assert not rec.take()


def test_tree_knows_whose_segment_it_was(sim: Sim, net: Stack, peer: RawPeer) -> None:
    sock = Socket(net)
    sock.bind(("", 80))
    sock.listen(1)
    client = peer.tcp(80)
    with recorder() as rec:
        client.send("S")
        sim.settle()
    tree = next(tree for tree in rec.take() if tree.root.name == "tcp_v4_rcv")
    assert tree.flow == (in_aton("10.0.2.2"), 80, in_aton("10.0.2.15"), client.sport)


def test_tree_of_a_call_on_a_socket_knows_its_addresses(net: Stack) -> None:
    sock = Socket(net)
    with recorder() as rec:
        sock.bind(("10.0.2.2", 80))
    (tree,) = rec.take()
    assert tree.flow == (in_aton("10.0.2.2"), 80, 0, 0)


def test_full_tree_leaves_out_what_is_beyond_its_bound_and_says_how_much(net: Stack) -> None:
    sock = Socket(net)
    with recorder(max_calls=4) as rec:
        sock.bind(("", 80))
    (tree,) = rec.take()
    assert len(list(every(tree.root))) == 4
    assert tree.left_out > 0
    assert render(tree, "full").splitlines()[-1] == f"... {tree.left_out} more calls"


def test_trees_that_nobody_takes_push_out_the_oldest_and_are_counted(net: Stack) -> None:
    with recorder(max_trees=2) as rec:
        for _ in range(5):
            Socket(net)
    assert rec.dropped == 3
    assert len(rec.take()) == 2
    assert not rec.take()


def test_exception_through_traced_calls_leaves_no_open_tree(net: Stack) -> None:
    net.drop_hook = lambda skb, reason: 1 // 0
    (dev,) = (dev for dev in net.devices.values() if not dev.flags & IFF_LOOPBACK)
    header = dev.dev_addr + bytes(6) + b"\x08\x00"
    with recorder() as rec:
        with pytest.raises(ZeroDivisionError):
            net.netif_rx(dev, header + bytes.fromhex("4500001c0000400040060000") + bytes(16))
        Socket(net)
    assert [tree.root.name for tree in rec.take()][-1] == "sys_socket"


def test_time_of_a_call_holds_that_of_the_calls_under_it(net: Stack) -> None:
    sock = Socket(net)
    with recorder() as rec:
        sock.bind(("", 80))
    (tree,) = rec.take()
    for call in every(tree.root):
        assert call.nanoseconds >= sum(child.nanoseconds for child in call.calls())
    assert render(tree, "times").splitlines()[0] == f"sys_bind  {tree.root.nanoseconds / 1000:.1f} us"
