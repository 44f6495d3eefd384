# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of measured kernel behaviour share: a stack of one profile with a raw host on its link.

A fact that was measured on both kernels takes the fixture ``profile``, which runs it once for each.  A figure that one
kernel alone was asked for names it: ``@LINUX_6_1``; figures that differ stand beside the profile's name in a
``parametrize`` of the test.  Each test carries ``@pytest.mark.fact(number, subject)``, from which
tools/conformance makes docs/conformance.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer, RawTcp, Segment, Sim
from stack.net.ipv4 import proc
from stack.stack import Stack

PROFILES = ("linux-6.1", "linux-6.18")
LINUX_6_1 = pytest.mark.parametrize("profile", ["linux-6.1"])

# The SYN of a Linux client, and of one without time stamps.
FULL: dict[str, Any] = {"mss": 1460, "sackok": True, "ts": (1000, 0), "wscale": 7}
NO_TS: dict[str, Any] = {"mss": 1460, "sackok": True, "wscale": 7}
ISN = 1_000_000  # a RawTcp's own initial sequence number


@dataclass
class Host:
    """A stack at 10.0.2.2 and the raw host 10.0.2.15 beside it."""

    sim: Sim
    net: Stack
    peer: RawPeer

    def listen(
        self, backlog: int = 5, port: int = 80, before: tuple[tuple[int, int, Any], ...] = ()
    ) -> Socket:
        """A listener on every address; ``before`` are (level, option, value) set before listen()."""
        sock = Socket(self.net)
        for option in before:
            sock.setsockopt(*option)
        sock.bind(("", port))
        sock.listen(backlog)
        return sock

    def syn(self, sport: int = 40000, port: int = 80, **options: Any) -> tuple[RawTcp, Segment]:
        """Send a SYN; the connection's raw end and the SYN-ACK that came."""
        conn = self.peer.tcp(port, sport=sport)
        conn.send("S", **options)
        return conn, conn.expect("SA", seq=0, ack=1)

    def connect(self, sport: int = 40000, port: int = 80, **handshake: Any) -> RawTcp:
        """A whole handshake."""
        conn = self.peer.tcp(port, sport=sport)
        conn.handshake(**handshake)
        return conn

    def synacks(self, count: int, first: int = 40000) -> int:
        """Send that many SYNs, each from a port of its own; how many were answered."""
        for sport in range(first, first + count):
            self.peer.tcp(80, sport=sport).send("S", **FULL)
        self.sim.settle()
        segments = self.drain()
        assert all(segment.flags == "SA" for segment in segments)
        return len(segments)

    def drain(self) -> list[Segment]:
        """What waits at the raw host."""
        return [self.peer.expect_segment() for _ in range(len(self.peer.inbox))]

    def count(self, name: str) -> int:
        """A counter of /proc/net/netstat's TcpExt, or with "Tcp:" of /proc/net/snmp; KeyError if this kernel has
        none."""
        if name.startswith("Tcp:"):
            return proc.snmp_groups(self.net)["Tcp"][name.removeprefix("Tcp:")]
        return proc.netstat_groups(self.net)["TcpExt"][name]
