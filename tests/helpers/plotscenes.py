# SPDX-License-Identifier: GPL-2.0-or-later
"""Transfers over a path in virtual time, as a capture next to the sender or the receiver shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.transfer import Download, Scenario, World
from devmodel.middleware.capture import INBOUND, OUTBOUND, Captured, PcapngWriter, open_file
from stack.api.path import Nth, complete_checksum
from stack.api.sim import MSEC, SEC, Frame, Sim, StackEnd
from stack.include.netdevice import net_device
from stack.include.sk_buff import sk_buff
from stack.inspect.conversation import Packet
from stack.net.core.skbuff import skb_linear_bytes
from stack.stack import Stack
from stack.trace.hub import TraceHub
from stack.trace.packets import PacketComments

START_NS = 1_700_000_000 * SEC
"""When the scenes begin: a capture's stamps are since 1970."""


class Tap:
    """The packets of a stack's device, with the comments of ``vnic capture --comments`` (without functions) or none."""

    def __init__(self, sim: Sim, net: Stack, *, comments: bool) -> None:
        self.sim = sim
        self.packets: list[Packet] = []
        dev = net.devices_by_name["eth0"]
        self._comments = PacketComments(net, dev.ifindex, TraceHub(sim.now_ns)) if comments else None
        if self._comments is not None:
            self._comments.start(paths=False)
        end = next(
            one
            for link in sim.links.values()
            for one in (link.a, link.b)
            if isinstance(one, StackEnd) and one.net is net
        )
        self._receive, self._xmit = end.receive, dev.ndo_start_xmit
        end.receive = self._received  # type: ignore[method-assign]
        dev.ndo_start_xmit = self._sent

    def _received(self, frame: Frame) -> None:
        data = complete_checksum(frame).data
        told: Callable[[], str] = str
        if self._comments is not None:
            told = self._comments.received(data)
        stamp, number = START_NS + self.sim.now_ns(), len(self.packets)
        self._receive(frame)
        self.packets.insert(number, Packet(stamp, False, data, told()))

    def _sent(self, skb: sk_buff, dev: net_device) -> int:
        data = skb_linear_bytes(skb)
        said = "" if self._comments is None else self._comments.sent([data])
        self.packets.append(Packet(START_NS + self.sim.now_ns(), True, data, said))
        assert self._xmit is not None
        return self._xmit(skb, dev)


class LazyDownload(Download):
    """Reads nothing until it may."""

    may = False

    def act(self, now_ns: int) -> None:
        if self.may:
            super().act(now_ns)


def transfer(
    scenario: Scenario,
    *,
    at_receiver: bool = False,
    comments: bool = False,
    lost: tuple[int, ...] = (),
    stall_ms: int = 0,
) -> list[Packet]:
    """The client sends, the server reads, after ``stall_ms`` first; the packets that are ``lost`` are counted from the
    client's SYN, which is 0."""
    world = World(scenario)
    if lost:
        world.path.loss = Nth(lost)
    tap = Tap(world.sim, world.receiver if at_receiver else world.sender, comments=comments)
    world.open_flow()
    if stall_ms:
        flow = world.flows[0]
        lazy = flow.download = LazyDownload(flow.download.sock)
        world.run_until(world.sim.now_ns() + stall_ms * MSEC)
        lazy.may = lazy.woken = True
    world.finish(world.sim.now_ns() + 3600 * SEC)
    world.run_until(world.sim.now_ns() + SEC // 4)  # the end of the connection
    return tap.packets


def write(path: Path, *captures: list[Packet]) -> Path:
    """A pcapng file with those packets."""
    writer = PcapngWriter(open_file(path), "eth0")
    for packet in (packet for packets in captures for packet in packets):
        direction = OUTBOUND if packet.outbound else INBOUND
        writer.write(Captured(packet.stamp_ns, direction, [packet.frame], packet.comment))
    writer.close()
    return path
