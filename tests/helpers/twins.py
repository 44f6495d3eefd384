# SPDX-License-Identifier: GPL-2.0-or-later
"""A stack of a simulation and its thawed twin, which gets the same frames, timers and socket calls.

``Twins(sim, net)`` watches a stack that is linked already.  ``renew`` freezes it, checks that the thawed stack freezes
to the same text, and makes that one the twin; from then on each frame that arrives is given to both, the simulation
runs the timers of both, and a socket from ``socket()`` makes each call on both and compares what came of it.  ``check``
compares the frames that left since the last check; ``compare`` the two states too.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from stack.api.bsd import Socket
from stack.api.sim import Frame, Sim, StackEnd
from stack.freeze.reader import thaw
from stack.freeze.writer import freeze
from stack.include.netdevice import NETDEV_TX_OK, net_device
from stack.include.sk_buff import sk_buff
from stack.net.core.skbuff import skb_linear_bytes
from stack.stack import Stack


class Twins:
    def __init__(self, sim: Sim, net: Stack) -> None:
        self.sim, self.net = sim, net
        self.twin: Stack | None = None
        self.freezes = 0
        self._sent: list[Any] = []
        self._twin_sent: list[Any] = []
        end = next(
            e for link in sim.links.values() for e in (link.a, link.b) if getattr(e, "net", None) is net
        )
        assert isinstance(end, StackEnd)
        self._receive = end.receive
        end.receive = self._receive_twice  # type: ignore[method-assign]
        self._xmit = end.dev.ndo_start_xmit
        end.dev.ndo_start_xmit = self._original_sends

    def renew(self) -> None:
        """A new twin, of the state as it is now."""
        self.compare()
        text = freeze(self.net)
        twin = thaw(text, self.sim.clock).stack
        assert first_difference(freeze(twin), text) is None
        if self.twin is not None:
            self.sim.stacks.remove(self.twin)
        self.twin = twin
        twin.devices_by_name["eth0"].ndo_start_xmit = self._twin_sends
        self.sim.stacks.append(twin)
        self.freezes += 1

    def check(self) -> None:
        """Both sent the same frames."""
        if self.twin is not None:
            assert self._twin_sent == self._sent
        self._sent.clear()
        self._twin_sent.clear()

    def compare(self) -> None:
        """Both sent the same, and are the same."""
        self.check()
        if self.twin is not None:
            assert first_difference(freeze(self.twin), freeze(self.net)) is None

    def socket(self, *arguments: Any) -> TwinSocket:
        """A new socket on both."""
        sock = TwinSocket(self, Socket(self.net, *arguments))
        if self.twin is not None:
            assert Socket(self.twin, *arguments).fileno() == sock.fileno()
        return sock

    # -- what both get -----------------------------------------------------------------------------------------------

    def _receive_twice(self, frame: Frame) -> None:
        self._receive(frame)
        if self.twin is not None:
            StackEnd.receive(_End(self.sim, self.twin), frame)  # type: ignore[arg-type]

    def _original_sends(self, skb: sk_buff, dev: net_device) -> int:
        self._sent.append(_told(skb))
        assert self._xmit is not None
        return self._xmit(skb, dev)

    def _twin_sends(self, skb: sk_buff, dev: net_device) -> int:
        self._twin_sent.append(_told(skb))
        return NETDEV_TX_OK


def first_difference(one: str, other: str) -> tuple[str, str] | None:
    """The first line that differs, in both texts; None if there is none."""
    pairs = zip_longest(one.splitlines(), other.splitlines(), fillvalue="")
    return next((pair for pair in pairs if pair[0] != pair[1]), None)


class _End:
    """What StackEnd.receive needs."""

    def __init__(self, sim: Sim, net: Stack) -> None:
        self.sim, self.net, self.dev = sim, net, net.devices_by_name["eth0"]


def _told(skb: sk_buff) -> tuple[Any, ...]:
    offloads = skb.ip_summed, skb.gso_size, skb.gso_type
    return skb.dev.net.clock.now_ns() if skb.dev else 0, skb_linear_bytes(skb), offloads


class TwinSocket:
    """A socket of the original; calls are made on the twin's too, and have to end alike."""

    def __init__(self, twins: Twins, sock: Socket) -> None:
        self._twins, self._sock = twins, sock

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._sock, name)
        if not callable(value) or name == "fileno":
            return value
        return lambda *arguments: self._call(name, *arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        twin = None
        if self._twins.twin is not None and self._sock.fileno() >= 0:
            twin = Socket(self._twins.twin, fd=self._sock.fileno())
        ours = _outcome(self._sock, name, arguments)
        if twin is not None:
            theirs = _outcome(twin, name, arguments)
            assert _comparable(theirs) == _comparable(ours), name
        if isinstance(ours, OSError):
            raise ours
        if name == "accept":
            return TwinSocket(self._twins, ours[0]), ours[1]
        return ours


def _outcome(sock: Socket, name: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return getattr(sock, name)(*arguments)
    except OSError as error:
        return error


def _comparable(outcome: Any) -> Any:
    if isinstance(outcome, OSError):
        return type(outcome), outcome.errno
    if isinstance(outcome, tuple) and isinstance(outcome[0], Socket):
        return outcome[0].fileno(), outcome[1]
    return outcome
