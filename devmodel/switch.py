# SPDX-License-Identifier: GPL-2.0-or-later
"""A learning switch: several Ports share one Ethernet segment, so that guests reach each other and the stack.

    guest A -- Port --\\
    guest B -- Port ---- Switch -- `switch.stack`, a Port like any other, for whoever was behind the one Port before
    a TAP  --- Port --/

What it decides for each frame, as a bridge does (IEEE 802.1Q, clause 8):

1. Is it a frame for others at all? Not with a group address or zeros as its source, not to the addresses that bridges
   keep to themselves (01:80:c2:00:00:0x), not beyond what virtio-net carries (65550 bytes).
2. Where is its source? There from now on: an address that was elsewhere moves (a guest that migrated, or one that uses
   another's address: a switch cannot tell). The stack's own addresses never move: a frame from outside with one of
   those as its source is a loop or a lie, and dropped.
3. Where is its destination? A known one gets the frame, unless it lies where the frame came from. Unknown ones and
   groups are flooded: to every port that is up except the frame's own.

An address is forgotten `ageing` seconds after its last frame (300, the standard's default), when its port goes
down, or when its port has learned ENTRIES newer ones: each port has a table of its own size, so that a guest which
makes up addresses pushes out its own and nobody else's. What then is unknown is flooded, which is slow but right.

Offloads. Every Port finishes what its guest cannot take (port.py), so frames pass with the header they came with; the
stack is told that everything is welcome. A frame that is longer than a guest takes is dropped by its port, as on any
segment of several MTUs.

Two guests with one address (QEMU gives every card the same unless told) make it move with each frame: that is logged,
once in a minute.

Batches. What a port receives in one batch is forwarded at once and published when the batch ends: one flush for each
port that got something, after the stack has answered. Nothing is copied, nothing waits here; each port's own queue
bounds what a slow guest costs.

Left out: spanning tree (a loop of two ports to one outside bridge is a storm), VLANs (tags pass unread), IGMP and MLD
snooping, isolation of ports from each other.

Counters (`stack.stats()`): rx_frames, rx_bytes, tx_frames, tx_bytes, tx_dropped of the stack's port;
switch_{forwarded,flooded,filtered,learned,moved,aged,evicted}, switch_drop_{source,own,reserved,size}, switch_addresses
(now); and those of each port, with its name before: `stream_rx_frames`, `stream_addresses`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from devmodel.port import Buffer, Offloads, Port, PortHandler, VnetHdr
from devmodel.virtio.spec import ETH_HLEN, MAX_GSO_FRAME

log = logging.getLogger(__name__)

AGEING_S = 300.0  # IEEE 802.1Q, table 8-6: the default ageing time
ENTRIES = 1024
"""Addresses of one port: a guest has a few, a bridge of containers behind a TAP some hundreds."""

WARN_AGAIN_S = 60.0

_ZERO = bytes(6)
_RESERVED = bytes.fromhex("0180c20000")  # IEEE 802.1Q, table 8-1: with 00 to 0f as the last byte
_EVERYTHING: Final = Offloads(
    csum=True, tso4=True, tso6=True, ecn=True, max_frame=MAX_GSO_FRAME, uso4=True, uso6=True, ufo=True
)
_COUNTERS = (
    "forwarded",
    "flooded",
    "filtered",
    "learned",
    "moved",
    "aged",
    "evicted",
    "drop_source",
    "drop_own",
    "drop_reserved",
    "drop_size",
)


class _Station:
    """A place on the segment: when each address was last seen there, the one seen longest ago first."""

    def __init__(self) -> None:
        self.seen: OrderedDict[bytes, float] = OrderedDict()
        self.dirty = False

    @property
    def title(self) -> str:
        raise NotImplementedError

    @property
    def up(self) -> bool:
        raise NotImplementedError

    def put(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        """Let it have a frame; False if it does not take it."""
        raise NotImplementedError


class _Member(_Station):
    """A Port that joined; its handler."""

    def __init__(self, switch: Switch, port: Port) -> None:
        super().__init__()
        self._switch, self.port = switch, port

    @property
    def title(self) -> str:
        return self.port.name

    @property
    def up(self) -> bool:
        return self.port.link_up

    def put(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        self.dirty = True
        return self.port.send(hdr, parts)

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self._switch.forward(self, hdr, (frame,), frame, len(frame))

    def batch_done(self) -> None:
        self._switch.settle()

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        if not up:
            self._switch.forget(self)
        self._switch.stack.update_link()


class StackPort(_Station):
    """The Port for whoever owns the segment: up while any port is."""

    def __init__(self, switch: Switch, name: str) -> None:
        super().__init__()
        self.name = name
        self._switch = switch
        self._handler: PortHandler | None = None
        self._link = False
        self.got_frames = False
        self._count = {"rx_frames": 0, "rx_bytes": 0, "tx_frames": 0, "tx_bytes": 0, "tx_dropped": 0}

    # -- Port -------------------------------------------------------------------------------------------

    @property
    def link_up(self) -> bool:
        return self._link

    @property
    def offloads(self) -> Offloads:
        return _EVERYTHING if self._link else Offloads()

    def attach(self, handler: PortHandler) -> None:
        self._handler = handler
        if self._link:
            handler.link_changed(True, self.offloads)

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        size = sum(map(len, parts))
        sent = self._link and size >= ETH_HLEN
        if sent:
            head = parts[0] if len(parts[0]) >= ETH_HLEN else b"".join(parts)
            sent = self._switch.forward(self, hdr, parts, head, size)
        if not sent:
            self._count["tx_dropped"] += 1
            return False
        self._count["tx_frames"] += 1
        self._count["tx_bytes"] += size
        return True

    def flush(self) -> None:
        self._switch.flush()

    def stats(self) -> dict[str, int]:
        return {**self._count, **self._switch.stats()}

    def close(self) -> None:
        self._switch.close()

    # -- station ----------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        return "the stack"

    @property
    def up(self) -> bool:
        return self._handler is not None

    def put(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        """Ports give whole frames."""
        frame = parts[0]
        if self._handler is None or not isinstance(frame, bytes):
            return False
        self._count["rx_frames"] += 1
        self._count["rx_bytes"] += len(frame)
        self.got_frames = True
        self._handler.frame_received(hdr, frame)
        return True

    def end_batch(self) -> None:
        if self.got_frames and self._handler is not None:
            self.got_frames = False
            self._handler.batch_done()

    def update_link(self) -> None:
        up = self._switch.any_up()
        if up == self._link:
            return
        self._link = up
        if self._handler is not None:
            self._handler.link_changed(up, self.offloads)


class Switch:
    """See the module. `clock` gives seconds; ports join before traffic begins, or at any time."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        name: str = "switch",
        ageing: float = AGEING_S,
        entries: int = ENTRIES,
    ) -> None:
        self.stack = StackPort(self, name)
        self._clock = clock
        self._ageing = ageing
        self._entries = entries
        self._members: list[_Member] = []
        self._stations: list[_Station] = [self.stack]
        self._where: dict[bytes, _Station] = {}
        self._count = dict.fromkeys(_COUNTERS, 0)
        self._quiet_until = clock()

    def join(self, port: Port) -> None:
        """One more port on the segment, which belongs to it from now on. Its name tells its counters apart."""
        member = _Member(self, port)
        self._members.append(member)
        self._stations.insert(-1, member)  # the stack last: what it answers follows what it answers to
        port.attach(member)

    def own(self, mac: bytes) -> None:
        """An address of the stack's: known before its first frame."""
        self._learn(self.stack, mac, self._clock())

    def any_up(self) -> bool:
        return any(member.up for member in self._members)

    def addresses(self, port: Port) -> list[bytes]:
        """What is known to be there now."""
        oldest = self._clock() - self._ageing
        for station in self._members:
            if station.port is port:
                return [mac for mac, seen in station.seen.items() if seen >= oldest]
        return []

    # -- frames -----------------------------------------------------------------------------------------

    def forward(
        self, source: _Station, hdr: VnetHdr | None, parts: Sequence[Buffer], head: Buffer, size: int
    ) -> bool:
        """Take a frame from a station to where it belongs; False if nobody took it. `head` begins with its
        Ethernet header."""
        if not ETH_HLEN <= size <= MAX_GSO_FRAME:
            self._count["drop_size"] += 1
            return False
        to, now = bytes(head[:6]), self._clock()
        if not self._learn(source, bytes(head[6:12]), now):
            return False
        if to[0] & 1:
            if to[:5] == _RESERVED and to[5] < 16:
                self._count["drop_reserved"] += 1
                return False
            return self._flood(source, hdr, parts)
        target = self._find(to, now)
        if target is None:
            return self._flood(source, hdr, parts)
        if target is source:
            self._count["filtered"] += 1
            return True
        self._count["forwarded"] += 1
        return target.put(hdr, parts)

    def _flood(self, source: _Station, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        self._count["flooded"] += 1
        taken = False
        for station in tuple(self._stations):
            if station is not source and station.up:
                taken |= station.put(hdr, parts)
        return taken

    def _learn(self, station: _Station, mac: bytes, now: float) -> bool:
        """The station has that address; False for one that it cannot have."""
        seen = station.seen
        owner = self._where.get(mac)
        if owner is not station:
            if mac[0] & 1 or mac == _ZERO:
                self._count["drop_source"] += 1
                return False
            if owner is self.stack:
                self._count["drop_own"] += 1
                return False
            self._settle_in(station, mac, owner)
        seen[mac] = now
        seen.move_to_end(mac)
        return True

    def _settle_in(self, station: _Station, mac: bytes, owner: _Station | None) -> None:
        if owner is not None:
            del owner.seen[mac]
            self._count["moved"] += 1
            self._tell_move(mac, owner, station)
        else:
            self._count["learned"] += 1
        if len(station.seen) >= self._entries:
            oldest, _ = station.seen.popitem(last=False)
            del self._where[oldest]
            self._count["evicted"] += 1
        self._where[mac] = station

    def _tell_move(self, mac: bytes, old: _Station, new: _Station) -> None:
        now = self._clock()
        if now >= self._quiet_until:
            self._quiet_until = now + WARN_AGAIN_S
            log.warning(
                "%s was at %s and is at %s now: if both are guests of their own, give each card its own mac=",
                mac.hex(":"),
                old.title,
                new.title,
            )

    def _find(self, mac: bytes, now: float) -> _Station | None:
        """Who has an address, if that is still true; the stack's do not age."""
        owner = self._where.get(mac)
        if owner is None or owner is self.stack or now - owner.seen[mac] <= self._ageing:
            return owner
        del self._where[mac], owner.seen[mac]
        self._count["aged"] += 1
        return None

    def forget(self, member: _Member) -> None:
        """Its link is down: whoever was there may turn up elsewhere."""
        for mac in member.seen:
            del self._where[mac]
        member.seen.clear()

    # -- batches ----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """A port's batch is over: let the stack answer it, then publish."""
        try:
            self.stack.end_batch()
        finally:
            self.flush()

    def flush(self) -> None:
        for member in self._members:
            if member.dirty:
                member.dirty = False
                member.port.flush()

    # -- the whole --------------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        stats = {f"switch_{name}": value for name, value in self._count.items()}
        stats["switch_addresses"] = len(self._where)
        for member in self._members:
            name = member.port.name
            stats |= {f"{name}_{key}": value for key, value in member.port.stats().items()}
            stats[f"{name}_addresses"] = len(member.seen)
        return stats

    def close(self) -> None:
        """Close every port; a second call does nothing."""
        for member in self._members:
            member.port.close()
