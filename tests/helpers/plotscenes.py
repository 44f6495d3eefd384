# SPDX-License-Identifier: GPL-2.0-or-later
"""Transfers over a path in virtual time, as a capture next to the sender or the receiver shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.transfer import Download, Scenario, World
from stack.api.path import Nth, complete_checksum
from stack.api.sim import SEC, Frame, Sim, StackEnd
from stack.include.netdevice import net_device
from stack.include.sk_buff import sk_buff
from stack.include.tcp import TCP_INFINITE_SSTHRESH
from stack.include.tcp_states import TCP_STATE_NAMES
from stack.inspect.conversation import Packet
from stack.net.core.skbuff import skb_linear_bytes
from stack.stack import Stack

START_NS = 1_700_000_000 * SEC
"""When the scenes begin: a capture's stamps are since 1970."""


@dataclass
class Tap:
    """The packets of a stack's device.  With ``comments`` each says what vnic's say of the sender ``sk``."""

    sim: Sim
    net: Stack
    comments: bool = False
    sk: Any = None
    packets: list[Packet] = field(default_factory=list)

    def __post_init__(self) -> None:
        end = next(
            one
            for link in self.sim.links.values()
            for one in (link.a, link.b)
            if isinstance(one, StackEnd) and one.net is self.net
        )
        self._receive, self._xmit = end.receive, end.dev.ndo_start_xmit
        end.receive = self._received  # type: ignore[method-assign]
        end.dev.ndo_start_xmit = self._sent

    def _received(self, frame: Frame) -> None:
        stamp, number = START_NS + self.sim.now_ns(), len(self.packets)
        self._receive(frame)
        self.packets.insert(number, Packet(stamp, False, complete_checksum(frame).data, self._comment()))

    def _sent(self, skb: sk_buff, dev: net_device) -> int:
        self.packets.append(
            Packet(START_NS + self.sim.now_ns(), True, skb_linear_bytes(skb), self._comment())
        )
        assert self._xmit is not None
        return self._xmit(skb, dev)

    def _comment(self) -> str:
        if not self.comments or self.sk is None:
            return ""
        sk = self.sk
        ssthresh = "inf" if sk.snd_ssthresh >= TCP_INFINITE_SSTHRESH else sk.snd_ssthresh
        state = TCP_STATE_NAMES[sk.sk_state]
        return f"{state}; cwnd={sk.snd_cwnd} ssthresh={ssthresh} srtt={sk.srtt_us >> 3}us"


class LazyDownload(Download):
    """Does not read before ``until_ns``."""

    until_ns = 0

    def act(self, now_ns: int) -> None:
        if now_ns >= self.until_ns:
            super().act(now_ns)


def transfer(
    scenario: Scenario, *, at_receiver: bool = False, comments: bool = False, lost: tuple[int, ...] = ()
) -> list[Packet]:
    """The client uploads to the server; the packets that are ``lost`` are counted from the client's SYN, which is 0."""
    world = World(scenario)
    if lost:
        world.path.loss = Nth(lost)
    tap = Tap(world.sim, world.receiver if at_receiver else world.sender, comments)
    world.open_flow()
    if not at_receiver:
        tap.sk = world.flows[0].upload.sock._sock.sk
    world.finish(3600 * SEC)
    world.run_until(world.sim.now_ns() + SEC // 4)  # the end of the connection
    return tap.packets
