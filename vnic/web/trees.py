# SPDX-License-Identifier: GPL-2.0-or-later
"""The call trees that browsers see: those of the last segments, with the state of the connection before and after.

The stack is traced while at least one browser wants trees, and not a call longer.  From within the stack a tree is only
kept (``_Shelf``: a few of those that changed a state and a few of the others, so that a bulk transfer does not push the
handshake out); it is drawn when a browser is sent something, which is four times a second at most.

What a tree does not say is its connection's state when it began.  That is the state when the connection's last tree
ended: ``_States`` remembers it, beginning with that of everybody at the time at which tracing begins.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from stack.inspect.conversation import looked_up
from stack.trace.notation import render
from stack.trace.packets import socket_of, state_name, state_of
from stack.trace.recorder import socket_flow
from vnic.control import flow_text
from vnic.web.state import Ends

if TYPE_CHECKING:
    from stack.stack import Stack
    from stack.trace.hub import TraceHub
    from stack.trace.recorder import Tree

log = logging.getLogger(__name__)

Kind = Literal["segments", "received", "all"]
KINDS: Final = get_args(Kind)
KEPT: Final = 6  # trees of each sort between two looks
MAX_LINES: Final = 400  # of a tree
_SEGMENTS: Final = ("tcp_v4_rcv", "tcp_v6_rcv")
_CLOSING: Final = "sys_close"  # does not say whose descriptor that was


@dataclass(frozen=True)
class Filter:
    """Which trees a browser wants to see."""

    kind: Kind = "segments"
    port: int | None = None
    ends: Ends | None = None

    def takes(self, tree: Tree, ends: Ends | None) -> bool:
        name = tree.root.name
        if self.kind != "all" and name not in _SEGMENTS:
            if self.kind == "segments" or not name.endswith("_rcv"):
                return False
        if self.port is not None and (ends is None or self.port not in (ends[1], ends[3])):
            return False
        return self.ends is None or self.ends == ends


@dataclass(frozen=True)
class Seen:
    """A tree and what was known when it ended."""

    number: int
    at: float
    tree: Tree
    ends: Ends | None
    before: str
    after: str


class _Shelf:
    """What one browser has not been sent yet, and how many trees found no room."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self._changing: deque[Seen] = deque(maxlen=KEPT)
        self._others: deque[Seen] = deque(maxlen=KEPT)
        self._count = 0

    def put(self, seen: Seen) -> None:
        self._count += 1
        (self._others if seen.before == seen.after else self._changing).append(seen)

    def take(self) -> tuple[list[Seen], int]:
        kept = sorted([*self._changing, *self._others], key=lambda seen: seen.number)
        skipped = self._count - len(kept)
        self._changing.clear()
        self._others.clear()
        self._count = 0
        return kept, skipped


def plain(seen: Seen) -> dict[str, Any]:
    """A tree drawn, for json.dumps."""
    lines = render(seen.tree).splitlines()
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"... {len(lines) - MAX_LINES} more lines"]
    return {
        "number": seen.number,
        "at": seen.at,
        "flow": flow_text(seen.ends),
        "root": seen.tree.root.name,
        "before": seen.before,
        "after": seen.after,
        "lines": lines,
    }


class Trees:
    """Of one Stack, for all browsers; ``clock`` is what their times are of."""

    def __init__(self, net: Stack, ifindex: int, hub: TraceHub, clock: Callable[[], float]) -> None:
        self._net, self._hub, self._clock = net, hub, clock
        self._states = _States(net, ifindex)
        self._shelves: dict[object, _Shelf] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._number = 0

    def want(self, who: object, wanted: Filter | None) -> str:
        """What a browser wants from now on, nothing if that is None; why it cannot be, or ""."""
        if wanted is None:
            self._shelves.pop(who, None)
        elif who not in self._shelves or self._shelves[who].wanted != wanted:
            self._shelves[who] = _Shelf(wanted)
        return self._begin() if self._shelves else self._end()

    def take(self, who: object) -> tuple[list[Seen], int]:
        """What a browser is to be sent, oldest first, and how many found no room since the last time."""
        shelf = self._shelves.get(who)
        return ([], 0) if shelf is None else shelf.take()

    def _begin(self) -> str:
        if self._unsubscribe is None:
            try:
                self._unsubscribe = self._hub.subscribe(self._ended)
            except RuntimeError as error:
                return str(error)
            self._states.begin()
        return ""

    def _end(self) -> str:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        return ""

    def _ended(self, tree: Tree) -> None:
        """Called from within the stack, which a fault of ours must not stop."""
        try:
            self._keep(tree)
        except Exception:
            log.exception("the live page shows no call trees any more")
            self._end()

    def _keep(self, tree: Tree) -> None:
        ends = tree.flow
        before, after = self._states.step(tree.root.name, ends)
        self._number += 1
        seen = Seen(self._number, self._clock(), tree, ends, before, after)
        for shelf in self._shelves.values():
            if shelf.wanted.takes(tree, ends):
                shelf.put(seen)


class _States:
    """The states of connections as the last tree left them."""

    def __init__(self, net: Stack, ifindex: int) -> None:
        self._net, self._ifindex = net, ifindex
        self._known: dict[Ends, str] = {}

    def begin(self) -> None:
        """As they are now."""
        hashed = (sk for chain in self._net.tcp_hashinfo.ehash.values() for sk in chain)
        self._known = {ends: state_name(sk) for sk in hashed if (ends := socket_flow(sk)) is not None}

    def step(self, root: str, ends: Ends | None) -> tuple[str, str]:
        """Before and after a tree that ended just now; "" for what is not TCP."""
        if ends is None:
            if root == _CLOSING:
                self.begin()
            return "", ""
        before, after = self._known.pop(ends, ""), self._look(ends)
        if after not in ("CLOSE", "LISTEN"):
            self._known[ends] = after
            return before or self._look((*ends[:2], 0, 0)), after
        if before:
            return before, looked_up(after, before)
        return (after, after) if root in _SEGMENTS else ("", "")

    def _look(self, ends: Ends) -> str:
        flow = (6 if ends[0] >> 32 or ends[2] >> 32 else 4, *ends)
        return state_of(self._net, flow, socket_of(self._net, flow, self._ifindex))
