# SPDX-License-Identifier: GPL-2.0-or-later
"""A run, or a part of one, as a record that a report is made of: packets, call trees, tables, counters.

Theory of operation
-------------------
An ``Observation`` subscribes to the packets (vnic.feed, comments "states") and to the call trees (stack.trace.hub) and
keeps what belongs to the connections that are wanted.  A moment is the beginning, the end, and each packet after which
a connection is in another state than before: then the tables are what they are in that very moment, as the snapshot is
taken by the packet's own processing.

All is bounded: MAX_PACKETS headers, MAX_MOMENTS snapshots of MAX_SOCKETS sockets, and what is beyond that is counted;
after MAX_TREES call trees the tracing, which slows the stack, ends, and the record says so.  ``record()`` is a dict for
JSON; times in it are nanoseconds since 1970.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from devmodel.middleware.capture import OUTBOUND, Captured
from stack.inspect.conversation import MAX_OPEN, Conversation, Packet, Segment, Tracker
from stack.inspect.snapshot import counters, tcp_tables
from stack.trace.notation import render
from stack.trace.packets import Flow, flow_of_frame
from stack.trace.recorder import socket_flow
from vnic.feed import Callback
from vnic.packets import headers_of, plain_packet

if TYPE_CHECKING:
    from stack.include.sock import sock_common
    from stack.stack import Stack
    from stack.trace.hub import TraceHub
    from stack.trace.recorder import Tree
    from vnic.feed import PacketFeed

VERSION: Final = 1
MAX_PACKETS: Final = 20_000
MAX_TREES: Final = 300
MAX_MOMENTS: Final = 40
MAX_SOCKETS: Final = 50


@dataclass(frozen=True)
class Wanted:
    """Which connections: with that port at either end, with that peer (address and port as the stack's numbers)."""

    port: int | None = None
    peer: tuple[int, int] | None = None
    level: str = "notes"  # of the trees: stack.trace.notation.LEVELS

    def takes(self, local: tuple[int, int], peer: tuple[int, int]) -> bool:
        if self.port is not None and self.port not in (local[1], peer[1]):
            return False
        return self.peer is None or peer == self.peer


@dataclass
class _Followed:
    """A connection and the state of our end of it after its last packet."""

    conversation: Conversation
    state: str
    over: bool = False


class Observation:
    """From ``start`` to ``stop``."""

    def __init__(
        self,
        net: Stack,
        feed: PacketFeed,
        hub: TraceHub,
        wanted: Wanted,
        negotiation: Callable[[], dict[str, Any]],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``negotiation`` tells what the device and its guest agreed on."""
        self._net, self._feed, self._hub, self._wanted = net, feed, hub, wanted
        self._negotiation, self._clock_ns = negotiation, clock_ns
        self._agreed: dict[str, Any] = {}  # at the first packet: at the end the guest may be gone
        self._tracker = Tracker(keep=False)
        self.ended = 0  # connections that are over
        self._packets: list[dict[str, Any]] = []
        self._trees: list[tuple[int, Tree]] = []
        self._moments: list[dict[str, Any]] = []
        self._followed: dict[Flow, _Followed] = {}
        self._dropped = {"packets": 0, "moments": 0}
        self._ends: list[Callable[[], None]] = []
        self._why_no_trees = ""
        self._before: dict[str, int] = {}
        self._after: dict[str, int] = {}
        self._began_ns = self._ended_ns = 0

    def start(self) -> None:
        """A stack that cannot be traced is observed without call trees, and the record says why."""
        self._began_ns = self._clock_ns()
        self._before = counters(self._net)
        self._moment("at the beginning")
        self._ends.append(self._feed.subscribe(Callback(self._packet), "states").end)
        try:
            self._stop_tracing = self._hub.subscribe(self._tree)
            self._ends.append(self._stop_tracing)
        except RuntimeError as error:
            self._why_no_trees = str(error)

    def stop(self) -> None:
        """A second time it does nothing."""
        if not self._ends:
            return
        for end in self._ends:
            end()
        self._ends = []
        self._ended_ns = self._clock_ns()
        self._after = counters(self._net)
        self._moment("at the end")

    @property
    def packets(self) -> int:
        """How many there were so far, lost ones too."""
        return len(self._packets) + self._dropped["packets"]

    def record(self) -> dict[str, Any]:
        """All of it."""
        return {
            "version": VERSION,
            "began_ns": self._began_ns,
            "ended_ns": self._ended_ns,
            "packets": self._packets,
            "trees": [_plain(stamp, tree, self._wanted.level) for stamp, tree in self._trees],
            "why_no_trees": self._why_no_trees,
            "moments": self._moments,
            "counters": {"before": self._before, "after": self._after},
            "negotiation": self._agreed or self._negotiation(),
            "dropped": self._dropped,
            "tracing_ended": len(self._trees) >= MAX_TREES,
        }

    # -- from within the traffic -------------------------------------------------------------------------------------

    def _packet(self, packet: Captured) -> None:
        self._agreed = self._agreed or self._negotiation()
        head = headers_of(packet.parts)
        outbound = packet.direction == OUTBOUND
        flow = flow_of_frame(head, outbound=outbound)
        if flow is None or not self._wanted.takes(flow[1:3], flow[3:5]):
            return
        if len(self._packets) < MAX_PACKETS:
            self._packets.append(plain_packet(packet._replace(parts=(head,))))
        else:
            self._dropped["packets"] += 1
        found = self._tracker.add(Packet(packet.stamp_ns, outbound, head, packet.comment))
        if found is not None:
            self._follow(flow, *found)

    def _follow(self, flow: Flow, conversation: Conversation, segment: Segment) -> None:
        """Is the connection in another state than after its last packet, is it over?"""
        ours = int(conversation.server_is_ours)
        one = self._followed.get(flow)
        if one is None or one.conversation is not conversation:  # or another between the same ends
            one = self._followed[flow] = _Followed(conversation, conversation.begun[ours])
            if len(self._followed) > MAX_OPEN:
                del self._followed[next(iter(self._followed))]
        was, one.state = one.state, segment.states[ours]
        if was != one.state:
            self._moment(f"{was} -> {one.state}", flow)
        if segment.is_last and not one.over:
            one.over = True
            self.ended += 1

    def _moment(self, title: str, flow: Flow | None = None) -> None:
        if len(self._moments) >= MAX_MOMENTS:
            self._dropped["moments"] += 1
            return
        self._hub.recorder.paused = True  # this may be within a tree
        try:
            sockets = self._sockets()
            tcp = tcp_tables(self._net, sockets[:MAX_SOCKETS])
        finally:
            self._hub.recorder.paused = False
        self._moments.append(
            {
                "stamp_ns": self._clock_ns(),
                "title": title,
                "flow": None if flow is None else list(flow[1:]),
                "left_out": max(len(sockets) - MAX_SOCKETS, 0),
                "tcp": tcp,
            }
        )

    def _sockets(self) -> list[sock_common]:
        """Who is wanted, the connections before the listeners."""
        info = self._net.tcp_hashinfo
        hashed = (
            sk for table in (info.ehash, info.listening_hash) for chain in table.values() for sk in chain
        )
        return [sk for sk in hashed if self._takes(socket_flow(sk)) or self._listens(sk)]

    def _takes(self, flow: tuple[int, int, int, int] | None) -> bool:
        return flow is not None and self._wanted.takes(flow[:2], flow[2:])

    def _listens(self, sk: sock_common) -> bool:
        """A listener has no peer: its port alone is looked at."""
        return not sk.sk_dport and self._wanted.port in (None, sk.sk_num)

    def _tree(self, tree: Tree) -> None:
        if not self._takes(tree.flow):
            return
        self._trees.append((self._clock_ns(), tree))
        if len(self._trees) >= MAX_TREES:
            self._stop_tracing()


def _plain(stamp_ns: int, tree: Tree, level: str) -> dict[str, Any]:
    return {
        "stamp_ns": stamp_ns,
        "flow": None if tree.flow is None else list(tree.flow),
        "root": tree.root.name,
        "microseconds": tree.root.nanoseconds / 1000,
        "text": render(tree, level),
    }
