# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the measured facts share: a stack of one profile, a raw host on its link, and the counters.

    w = World("linux-6.1")
    listener = w.listen()
    conn, synack = w.request()          # SYN with all options, SYN-ACK
    conn, child = w.connect(listener)   # and the third ACK, accepted
    assert w.counted() == {"PassiveOpens": 1}

Counters are read by the names of /proc/net/snmp and /proc/net/netstat, as differences since ``World.mark``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stack.api.bsd import Socket
from stack.api.sim import MSEC, SEC, RawPeer, RawTcp, Segment, Sim
from stack.include.ip import in_aton
from stack.include.snmp import snmp4_net_list, snmp4_tcp_list
from stack.include.tcp_states import TCP_NEW_SYN_RECV, TCP_TIME_WAIT

PROFILES = ("linux-6.1", "linux-6.18")
both = pytest.mark.parametrize("profile", PROFILES)
only_6_1 = pytest.mark.parametrize("profile", PROFILES[:1])

MSS = 1448
WSCALE = {"linux-6.1": 7, "linux-6.18": 10}
OPTIONS: dict[str, Any] = {"mss": 1460, "sackok": True, "ts": (1000, 0), "wscale": 7}
# Segments and ordinary state changes: not what a fact is about.
_TRAFFIC = {"InSegs", "OutSegs", "CurrEstab", "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn", "TCPPureAcks"}
_TRAFFIC |= {"TCPHPHits", "TCPHPAcks", "TCPOrigDataSent", "TCPDelivered", "TCPAutoCorking", "TCPRcvCoalesce"}


class World:
    """One stack (10.0.2.2, and 10.0.2.3) and one raw host (10.0.2.15), ``delay_ns`` apart."""

    def __init__(
        self,
        profile: str = "linux-6.1",
        *,
        delay_ns: int = 0,
        sysctl: dict[str, Any] | None = None,
        seed: int = 1,
        features: int = 0,
    ) -> None:
        self.profile = profile
        self.wscale = WSCALE[profile]
        self.delay_ns = delay_ns
        self.sim = Sim(seed=seed)
        self.net = self.sim.add_stack(
            "10.0.2.2/24", "10.0.2.3/24", profile=profile, sysctl=sysctl, features=features
        )
        self.peer: RawPeer = self.sim.add_peer("10.0.2.15", self.net, delay_ns=delay_ns)
        self.mark()

    # counters

    def _counters(self) -> dict[str, int]:
        mib = self.net.mib
        values = dict(zip(snmp4_tcp_list, mib.tcp_statistics, strict=True))
        values.update(zip(snmp4_net_list, mib.net_statistics, strict=True))
        return values

    def mark(self) -> None:
        self._base = self._counters()

    def counted(self) -> dict[str, int]:
        """The counters that moved since the mark, those of plain traffic left out."""
        now = self._counters()
        return {k: n - self._base[k] for k, n in now.items() if n != self._base[k] and k not in _TRAFFIC}

    # connections

    def listen(
        self, backlog: int = 5, *, port: int = 80, before: tuple[tuple[int, int, Any], ...] = ()
    ) -> Socket:
        """A listener on every address; ``before`` are (level, option, value) set ahead of bind()."""
        sock = Socket(self.net)
        for option in before:
            sock.setsockopt(*option)
        sock.bind(("", port))
        sock.listen(backlog)
        return sock

    def request(self, *, sport: int = 40000, port: int = 80, **options: Any) -> tuple[RawTcp, Segment]:
        """SYN (``options`` instead of all of them) and SYN-ACK."""
        conn = self.peer.tcp(port, sport=sport)
        wanted = options or OPTIONS
        conn.send("S", **wanted)
        answer = conn.expect("SA", seq=0, ack=1, within_ns=2 * self.delay_ns)
        conn.ts_on = wanted.get("ts") is not None
        return conn, answer

    def connect(
        self, listener: Socket, *, sport: int = 40000, window: int = 65535, **options: Any
    ) -> tuple[RawTcp, Socket]:
        """A whole handshake, and accept()."""
        conn, _ = self.request(sport=sport, **options)
        conn.window = window
        conn.send("A")
        self.sim.run_for(self.delay_ns)
        self.sim.settle()
        child, _ = listener.accept()
        return conn, child

    def flight(self, conn: RawTcp, for_ns: int = 0) -> list[Segment]:
        """What the raw host has got after that time, oldest first."""
        self.sim.settle()
        if for_ns:
            self.sim.run_for(for_ns)
        segments = []
        while self.peer.inbox:
            segments.append(conn.expect())
        return segments

    def sent_at(self, segment: Segment, since_ns: int = 0) -> float:
        """Seconds from ``since_ns`` to when the stack sent a segment that the raw host got."""
        return (segment.packet.time_ns - self.delay_ns - since_ns) / SEC

    def icmp(self, conn: RawTcp, type_: int, code: int, rel_seq: int) -> None:
        """An ICMP error that quotes a segment of the stack's with that relative sequence number."""
        assert conn.irs is not None
        seq = (conn.irs + rel_seq) & 0xFFFFFFFF
        head = b"".join(v.to_bytes(2, "big") for v in (conn.dport, conn.sport)) + seq.to_bytes(4, "big")
        quoted = bytes((0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0))
        quoted += in_aton(conn.dst).to_bytes(4, "big") + in_aton(self.peer.addr).to_bytes(4, "big") + head
        self.peer.send_icmp(conn.dst, type_, code, 0, quoted)
        self.sim.settle()

    # tables

    def states(self) -> list[int]:
        """The states of all that is in ehash."""
        return sorted(sk.sk_state for chain in self.net.tcp_hashinfo.ehash.values() for sk in chain)

    def requests(self) -> int:
        return self.states().count(TCP_NEW_SYN_RECV)

    def time_waits(self) -> int:
        return self.states().count(TCP_TIME_WAIT)


def rel(conn: RawTcp, segment: Segment) -> int:
    """A segment's sequence number, 1 for the first byte of the stream."""
    return (segment.seq - (conn.irs or 0)) & 0xFFFFFFFF


def times(w: World, segments: list[Segment], since_ns: int) -> list[float]:
    """Seconds from ``since_ns`` at which the stack sent each."""
    return [w.sent_at(s, since_ns) for s in segments]


def wheel_ns(delay_ns: int) -> int:
    """At most so much later than its nominal time a timer may fire: the step of the wheel's level."""
    for bound, step in (
        (250 * MSEC, 4),
        (2 * SEC, 32),
        (16 * SEC, 256),
        (129 * SEC, 2048),
        (1032 * SEC, 16384),
    ):
        if delay_ns < bound:
            return step * MSEC
    return 131072 * MSEC


def gaps_follow(got: list[float], nominal: list[float]) -> bool:
    """Whether the gaps from 0 between ``got`` are each the nominal one (seconds), plus two ticks for where in a tick it
    began and ended, plus what the wheel may add."""
    starts = [0.0, *got]
    return len(got) == len(nominal) and all(
        gap - 0.0005 <= here - there <= gap + 0.008 + wheel_ns(int(gap * SEC)) / SEC
        for there, here, gap in zip(starts, got, nominal, strict=False)
    )


def raises_soon(action: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        action()
