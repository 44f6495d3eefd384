# SPDX-License-Identifier: GPL-2.0-or-later
"""Several watchers of one thread's call trees."""

from __future__ import annotations

import itertools
import linecache
import sys

import pytest

from stack.api.bsd import Socket
from stack.api.sim import Sim
from stack.trace import hub as module
from stack.trace import source
from stack.trace.hub import TraceHub
from stack.trace.recorder import Tree


def hub() -> TraceHub:
    return TraceHub(itertools.count(0, 1000).__next__)


def test_watchers_get_each_tree_and_the_last_one_ends_the_tracing() -> None:
    net, shared = Sim(seed=1).add_stack("10.0.2.2/24"), hub()
    first: list[Tree] = []
    second: list[Tree] = []
    leave_first = shared.subscribe(first.append)
    sock = Socket(net)
    leave_second = shared.subscribe(second.append)
    sock.bind(("10.0.2.2", 80))
    leave_first()
    leave_first()  # twice does no harm, to the other either
    assert shared.watched
    sock.listen(1)
    leave_second()
    sock.close()
    assert [tree.root.name for tree in first] == ["sys_socket", "sys_bind"]
    assert [tree.root.name for tree in second] == ["sys_bind", "sys_listen"]
    assert (sys.gettrace(), shared.watched) == (None, False)


def test_watcher_that_comes_back_gets_trees_again() -> None:
    net, shared = Sim(seed=1).add_stack("10.0.2.2/24"), hub()
    trees: list[Tree] = []
    shared.subscribe(trees.append)()
    leave = shared.subscribe(trees.append)
    Socket(net)
    leave()
    assert [tree.root.name for tree in trees] == ["sys_socket"]


def test_debugger_that_traces_already_is_left_alone() -> None:
    def debugger(frame: object, event: str, arg: object) -> None: ...

    sys.settrace(debugger)
    try:
        shared = hub()
        with pytest.raises(RuntimeError, match="is active"):
            shared.subscribe(print)
        assert sys.gettrace() is debugger
    finally:
        sys.settrace(None)
    assert not shared.watched


def test_compiled_stack_has_no_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_compiled", lambda: True)
    with pytest.raises(RuntimeError, match="compiled"):
        hub().subscribe(print)


def test_watcher_that_raises_is_left_out_and_the_call_goes_on() -> None:
    net, shared = Sim(seed=1).add_stack("10.0.2.2/24"), hub()
    trees: list[Tree] = []

    def broken(tree: Tree) -> None:
        raise ValueError("a fault of the watcher's")

    shared.subscribe(broken)
    leave = shared.subscribe(trees.append)
    sock = Socket(net)
    sock.bind(("10.0.2.2", 80))
    leave()
    assert [tree.root.name for tree in trees] == ["sys_socket", "sys_bind"]
    assert (sys.gettrace(), shared.watched) == (None, False)


def test_sources_are_read_before_anything_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one takes up to 50 ms, which a segment of a handshake should not have to wait for."""
    source._file.cache_clear()
    leave = hub().subscribe(lambda tree: None)
    read: list[str] = []
    monkeypatch.setattr(linecache, "getlines", lambda filename: read.append(filename) or [])
    Socket(Sim(seed=1).add_stack("10.0.2.2/24")).close()
    leave()
    assert read == []
