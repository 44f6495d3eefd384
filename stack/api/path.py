# SPDX-License-Identifier: GPL-2.0-or-later
"""A network path in virtual time: bandwidth, delay, a queue, and everything that goes wrong on the way.

Theory of operation
-------------------
A ``Path`` is one way between two hosts.  It has no clock and no queue of frames: ``send(now_ns, frame)`` answers when
each packet of the frame arrives, and whoever holds the clock (``stack.api.sim.Sim``, or a relay in real time) delivers
it then.  A packet passes, in this order:

    segmentation   a frame that the device would have cut (GSO) is cut here: what is lost or reordered is a packet
    loss           a model with memory of its own: ``Bernoulli``, or bursts by ``GilbertElliott``
    queue          ``rate_bps`` serialises; what does not fit in ``queue_bytes`` of waiting packets is dropped
    marking        ECN-capable packets (RFC 3168) that find ``ce_bytes`` waiting get CE, as in RFC 8257's switch
    delay          ``delay_ns``; a reordered packet takes ``reorder_ns`` more and is overtaken
    corruption     one bit behind the Ethernet header flips; a checksum left to the device is completed first
    duplication    the packet arrives twice

As in Linux's netem, what is lost at random does not use the bottleneck's time.  The backlog is not stored: it is
what the link still has to send, ``(busy_until - now) * rate``.

Every draw comes from the injected generator, so the same seed gives the same path, packet for packet; an impairment
that is off draws nothing.  ``stats`` counts packets.

Left out: queues that schedule (fair queueing, CoDel, RED), rates that vary, jitter without reordering.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, Protocol

from stack.include.ip import ETH_P_IP, ETH_P_IPV6
from stack.include.sk_buff import CHECKSUM_NONE, CHECKSUM_PARTIAL, SKB_GSO_TCP_ACCECN
from stack.lib.checksum import csum_fold, csum_partial, ip_fast_csum, tcp_v4_pseudo, tcp_v6_pseudo
from stack.rng import Rng, SeededRng

SEC: Final = 1_000_000_000
ETH_HLEN: Final = 14
_WORD: Final = Struct("!I")
_HALF: Final = Struct("!H")
_V4_ADDRS: Final = Struct("!II")
_TCP_SEQ, _TCP_FLAGS, _TCP_CHECK = 4, 13, 16  # offsets in the header
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
_ECT_MASK: Final = 3


@dataclass(slots=True)
class Frame:
    """An Ethernet frame on a link, with the offloads of its virtio_net_hdr (``csum_start`` from the frame's
    start)."""

    time_ns: int
    src: str
    dst: str
    data: bytes
    ip_summed: int = CHECKSUM_NONE
    csum_start: int = 0
    csum_offset: int = 0
    gso_size: int = 0
    gso_type: int = 0
    lost: bool = False


def chance(rng: Rng, probability: float) -> bool:
    """True with this probability; 0 draws nothing."""
    return probability > 0 and rng.get_random_u32() < probability * 4294967296


# -- loss --------------------------------------------------------------------------------------------------------------


class LossModel(Protocol):
    """Decides on one packet after the other."""

    def lost(self, rng: Rng) -> bool: ...


@dataclass(slots=True)
class Bernoulli:
    """Each packet is lost with probability ``p``, whatever happened to the others."""

    p: float

    def lost(self, rng: Rng) -> bool:
        return chance(rng, self.p)


@dataclass(slots=True)
class GilbertElliott:
    """Bursts: a chain of two states that moves before each packet (Gilbert 1960, Elliott 1963).

    ``p`` is the probability of good -> bad, ``r`` of bad -> good, so that a bad spell lasts 1/r packets and the chain
    is bad for p / (p + r) of them; ``loss_bad`` and ``loss_good`` are the losses in each state."""

    p: float
    r: float
    loss_bad: float = 1.0
    loss_good: float = 0.0
    bad: bool = False

    def lost(self, rng: Rng) -> bool:
        if chance(rng, self.r if self.bad else self.p):
            self.bad = not self.bad
        return chance(rng, self.loss_bad if self.bad else self.loss_good)

    def mean(self) -> float:
        """The share of packets that is lost in the long run."""
        bad = self.p / (self.p + self.r)
        return bad * self.loss_bad + (1 - bad) * self.loss_good


@dataclass(slots=True)
class Nth:
    """The packets of these numbers are lost, counted from 0: a scripted path."""

    numbers: frozenset[int]
    seen: int = 0

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = frozenset(numbers)
        self.seen = 0

    def lost(self, rng: Rng) -> bool:
        self.seen += 1
        return self.seen - 1 in self.numbers


# -- packets -----------------------------------------------------------------------------------------------------------


def _ethertype(data: bytes | bytearray) -> int:
    return data[12] << 8 | data[13]


def segment(frame: Frame) -> list[Frame]:
    """What a device makes of a TCP frame of more than one segment: packets of ``gso_size`` bytes of payload, each with
    lengths, IP id, sequence number and flags of its own; the checksum stays CHECKSUM_PARTIAL.  A frame of one packet
    comes back as it is."""
    if not frame.gso_size:
        return [frame]
    data, tcp = frame.data, frame.csum_start
    head = tcp + (data[tcp + 12] >> 4) * 4
    starts = range(head, len(data), frame.gso_size)
    return [_cut(frame, head, i, at, at + frame.gso_size) for i, at in enumerate(starts)]


def _cut(frame: Frame, head: int, number: int, start: int, end: int) -> Frame:
    """Segment ``number``, with the payload ``data[start:end]``."""
    tcp = frame.csum_start
    packet = bytearray(frame.data[:head]) + frame.data[start:end]
    seq = _WORD.unpack_from(packet, tcp + _TCP_SEQ)[0]
    _WORD.pack_into(packet, tcp + _TCP_SEQ, (seq + start - head) & 0xFFFFFFFF)
    if end < len(frame.data):
        packet[tcp + _TCP_FLAGS] &= ~_FIN_PSH
    if number and not frame.gso_type & SKB_GSO_TCP_ACCECN:
        packet[tcp + _TCP_FLAGS] &= ~_CWR
    _set_lengths(packet, tcp, number)
    return Frame(frame.time_ns, frame.src, frame.dst, bytes(packet), CHECKSUM_PARTIAL, tcp, frame.csum_offset)


def _set_lengths(packet: bytearray, tcp: int, number: int) -> None:
    """The IP header's length, id and checksum, and the pseudo-header's sum in TCP's checksum field."""
    length = len(packet) - tcp
    if _ethertype(packet) == ETH_P_IP:
        _HALF.pack_into(packet, 16, len(packet) - ETH_HLEN)
        _HALF.pack_into(packet, 18, (_HALF.unpack_from(packet, 18)[0] + number) & 0xFFFF)
        _sum_ipv4(packet)
        saddr, daddr = _V4_ADDRS.unpack_from(packet, 26)
        pseudo = tcp_v4_pseudo(saddr, daddr, length)
    else:
        _HALF.pack_into(packet, 18, len(packet) - ETH_HLEN - 40)
        saddr, daddr = int.from_bytes(packet[22:38], "big"), int.from_bytes(packet[38:54], "big")
        pseudo = tcp_v6_pseudo(saddr, daddr, length)
    _HALF.pack_into(packet, tcp + _TCP_CHECK, pseudo)


def _sum_ipv4(packet: bytearray) -> None:
    packet[24:26] = b"\0\0"
    _HALF.pack_into(packet, 24, ip_fast_csum(packet[ETH_HLEN:], packet[ETH_HLEN] & 15))


def complete_checksum(frame: Frame) -> Frame:
    """The same frame with the checksum that was left to the device."""
    if frame.ip_summed != CHECKSUM_PARTIAL:
        return frame
    data = bytearray(frame.data)
    _HALF.pack_into(
        data, frame.csum_start + frame.csum_offset, csum_fold(csum_partial(data[frame.csum_start :]))
    )
    return Frame(frame.time_ns, frame.src, frame.dst, bytes(data))


def ecn_bits(data: bytes) -> int:
    """The ECN field of an IP packet in an Ethernet frame: 0 not capable, 1 and 2 ECT, 3 CE (RFC 3168, section 5)."""
    kind = _ethertype(data)
    if kind == ETH_P_IP:
        return data[15] & _ECT_MASK
    return data[15] >> 4 & _ECT_MASK if kind == ETH_P_IPV6 else 0


def mark_ce(frame: Frame) -> Frame:
    """The same frame with CE set, its IPv4 header's checksum made right."""
    data = bytearray(frame.data)
    if _ethertype(data) == ETH_P_IP:
        data[15] |= _ECT_MASK
        _sum_ipv4(data)
    else:
        data[15] |= _ECT_MASK << 4
    return _with_data(frame, bytes(data))


def flip_bit(frame: Frame, rng: Rng) -> Frame:
    """The same frame, its checksum completed, with one random bit behind the Ethernet header turned over."""
    frame = complete_checksum(frame)
    data = bytearray(frame.data)
    bit = rng.get_random_u32_below((len(data) - ETH_HLEN) * 8)
    data[ETH_HLEN + bit // 8] ^= 1 << bit % 8
    return _with_data(frame, bytes(data))


def _with_data(frame: Frame, data: bytes) -> Frame:
    return Frame(
        frame.time_ns, frame.src, frame.dst, data, frame.ip_summed, frame.csum_start, frame.csum_offset
    )


# -- the path ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PathStats:
    """Packets by what became of them; ``backlog_max`` in bytes."""

    sent: int = 0
    lost: int = 0
    overflowed: int = 0
    marked: int = 0
    reordered: int = 0
    duplicated: int = 0
    corrupted: int = 0
    backlog_max: int = 0


@dataclass(slots=True)
class Path:
    """One way of a path; see the head of the file.  ``rate_bps`` 0 is infinitely fast, ``queue_bytes`` 0 a queue
    without end, ``ce_bytes`` 0 no marking; ``dup``, ``reorder`` and ``corrupt`` are probabilities per packet."""

    rate_bps: int = 0
    delay_ns: int = 0
    queue_bytes: int = 0
    loss: LossModel | None = None
    ce_bytes: int = 0
    reorder: float = 0.0
    reorder_ns: int = 1_000_000
    dup: float = 0.0
    corrupt: float = 0.0
    rng: Rng = field(default_factory=SeededRng)
    stats: PathStats = field(default_factory=PathStats)
    busy_until: int = 0

    def backlog(self, now_ns: int) -> int:
        """Bytes that wait for the link, the packet that it is sending included as far as it is not sent."""
        waiting = self.busy_until - now_ns
        return -(-waiting * self.rate_bps // (8 * SEC)) if waiting > 0 else 0

    def send(self, now_ns: int, frame: Frame) -> list[tuple[int, Frame]]:
        """What arrives of the frame, and when: (ns, packet), in no particular order; [] if it is lost.  A frame that is
        one packet and is lost has ``lost`` set."""
        arrivals: list[tuple[int, Frame]] = []
        for packet in segment(frame):
            self._send_packet(now_ns, packet, arrivals)
        return arrivals

    def _send_packet(self, now_ns: int, packet: Frame, arrivals: list[tuple[int, Frame]]) -> None:
        stats = self.stats
        stats.sent += 1
        if self.loss is not None and self.loss.lost(self.rng):
            stats.lost += 1
            packet.lost = True
            return
        backlog = self.backlog(now_ns)
        when = self._serialise(now_ns, len(packet.data), backlog)
        if when is None:
            stats.overflowed += 1
            packet.lost = True
            return
        if self.ce_bytes and backlog >= self.ce_bytes and ecn_bits(packet.data) in (1, 2):
            stats.marked += 1
            packet = mark_ce(packet)
        when += self.delay_ns
        if chance(self.rng, self.reorder):
            stats.reordered += 1
            when += self.reorder_ns
        if chance(self.rng, self.corrupt):
            stats.corrupted += 1
            packet = flip_bit(packet, self.rng)
        arrivals.append((when, packet))
        if chance(self.rng, self.dup):
            stats.duplicated += 1
            arrivals.append((when, packet))

    def _serialise(self, now_ns: int, length: int, backlog: int) -> int | None:
        """When the packet has left the link; None if the queue has no room for it."""
        if not self.rate_bps:
            return now_ns
        if self.queue_bytes and backlog + length > self.queue_bytes:
            return None
        self.stats.backlog_max = max(self.stats.backlog_max, backlog + length)
        self.busy_until = max(now_ns, self.busy_until) + length * 8 * SEC // self.rate_bps
        return self.busy_until
