# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections out of captured packets: who said what when, and in which states that leaves both ends.

Theory of operation
-------------------
``Tracker.add`` takes one packet after the other, from a file or from a running back end, and tells which connection it
belongs to and what it is there: a ``Segment`` with numbers relative to the initial ones and unwrapped to any size, the
window in bytes, what is remarkable about it, and the state of both ends once it has been sent and received.

An end's state follows from what it sends and what it gets by the rules of RFC 9293 (section 3.3.2), under the kernel's
names; a packet of the capture counts as received.  Where a packet has a comment of ours (``stack.trace.packets``) the
state that stands in it is that of the stack's end: it was looked up, not guessed.

A connection begins with a SYN; one whose beginning is not in the capture is taken as established, and the end that sent
the first packet of it as the client, or as the server if its port is the lower one by far (below 1024, the other not).

Left out: segments behind IPv6 extension headers or VLAN tags, and fragments.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address
from operator import itemgetter
from struct import unpack_from
from typing import Final

from stack.include.ip import in_ntoa
from stack.include.ipv6 import in6_ntop
from stack.include.tcp_states import TCP_STATE_NAMES

# RFC 9293, section 3.1; RFC 3168 and draft-ietf-tcpm-accurate-ecn for the last three.
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, AE = (1 << bit for bit in range(9))
_FLAG_NAMES: Final = (("SYN", SYN), ("FIN", FIN), ("RST", RST), ("PSH", PSH), ("ACK", ACK), ("URG", URG)) + (
    ("ECE", ECE),
    ("CWR", CWR),
    ("AE", AE),
)

# What can be remarkable about a segment.
RETRANSMISSION: Final = "retransmission"
KEEPALIVE: Final = "keepalive"
WINDOW_PROBE: Final = "window probe"
DUPLICATE_ACK: Final = "duplicate ACK"
ZERO_WINDOW: Final = "zero window"
WINDOW_UPDATE: Final = "window update"
DSACK: Final = "D-SACK"

_STATE: Final = "|".join(TCP_STATE_NAMES.values())
_PROGRESS: Final = {
    "LISTEN": 0,
    **dict.fromkeys(("SYN_SENT", "NEW_SYN_RECV"), 1),
    "SYN_RECV": 2,
    "ESTABLISHED": 3,
    **dict.fromkeys(("FIN_WAIT1", "CLOSE_WAIT"), 4),
    **dict.fromkeys(("FIN_WAIT2", "CLOSING", "LAST_ACK"), 5),
    "TIME_WAIT": 6,
    "CLOSE": 7,
}
_STATES: Final = re.compile(f"(?:({_STATE}) -> )?({_STATE})")
_SENDER: Final = re.compile(r"cwnd=(\d{1,19}) ssthresh=(\d{1,19}|inf) srtt=(\d{1,19})us")
_WELL_KNOWN: Final = 1024
_LIMIT: Final = 1 << 32
MAX_OPEN: Final = 4096  # connections that a Tracker follows which keeps none
MAX_ISLANDS: Final = 1000  # behind holes of one direction that are remembered
_OVER: Final = frozenset({"CLOSE", "LISTEN", "TIME_WAIT"})
End = tuple[int, int]
"""Address and port as numbers; an address of IPv6 is beyond 32 bits."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One captured frame.  ``outbound``: from the stack to the guest; None where the capture does not say.
    ``frame`` begins with the Ethernet header and may be cut off behind TCP's."""

    stamp_ns: int  # since 1970
    outbound: bool | None
    frame: bytes
    comment: str = ""
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Comment:
    """What a comment of ours says (``stack.trace.packets``); parts that are not there are "" or None."""

    path: str = ""  # "tcp_v4_rcv > tcp_v4_do_rcv"
    before: str = ""  # the state of the stack's end before the packet
    after: str = ""
    dropped: str = ""  # the reason
    cwnd: int | None = None  # segments
    ssthresh: int | None = None  # segments; None for "inf", where slow start has not ended
    srtt_us: int | None = None  # smoothed round-trip time; None before the first sample


def parse_comment(text: str) -> Comment:
    """Take a comment apart; of somebody else's comment nothing is found."""
    found: dict[str, str | int | None] = {}
    for part in text.split("; "):
        if states := _STATES.fullmatch(part):
            found["before"], found["after"] = states[1] or states[2], states[2]
        elif part.startswith("dropped: "):
            found["dropped"] = part.removeprefix("dropped: ")
        elif sender := _SENDER.fullmatch(part):
            found["cwnd"] = int(sender[1])
            found["ssthresh"] = int(sender[2]) if sender[2] != "inf" else None
            found["srtt_us"] = int(sender[3]) or None
        elif "path" not in found:
            found["path"] = part
    return Comment(**found)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Segment:
    """``seq`` and ``ack`` count from the initial sequence number of their direction, which is 0: the first byte of data
    is 1.  ``states`` are those of client and server after it."""

    number: int  # of the packet in the capture, the first is 1
    at_ns: int  # since 1970
    from_client: bool
    outbound: bool | None
    flags: int
    seq: int
    ack: int
    window: int  # bytes; as it stands in the segment while the scale is not known
    length: int  # bytes of payload
    mss: int | None = None
    wscale: int | None = None
    sack_ok: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    tsval: int | None = None
    tsecr: int | None = None
    ecn: int = 0  # of the IP header: RFC 3168, section 5
    said: Comment = Comment()
    notes: tuple[str, ...] = ()
    states: tuple[str, str] = ("", "")

    @property
    def end(self) -> int:
        """The sequence number behind it."""
        return self.seq + self.length + bool(self.flags & SYN) + bool(self.flags & FIN)

    @property
    def is_last(self) -> bool:
        """Whether neither end has anything to say after it."""
        return all(state in _OVER for state in self.states)

    @property
    def flag_names(self) -> str:
        """ "SYN ACK"."""
        return " ".join(name for name, bit in _FLAG_NAMES if self.flags & bit)


class _Side:
    """What one end has sent and received so far."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.isn: int | None = None
        self.begun = False  # its SYN is there
        self.top = 0  # the highest relative number sent
        self.last = 0  # the last one sent, from which the next is unwrapped
        self.scale: int | None = None
        self.scales = False  # both SYNs had the option
        self.fin: int | None = None  # the number behind our FIN
        self.received = 0  # all up to there came
        self.islands: list[tuple[int, int]] = []  # what came beyond that, in order, none touches another
        self.acked = 0
        self.window = -1

    def relative(self, seq: int) -> int:
        """``seq`` of the wire as a number near the last one."""
        assert self.isn is not None
        return self.last + ((seq - self.isn - self.last + _LIMIT // 2) % _LIMIT - _LIMIT // 2)

    def take(self, begin: int, end: int) -> None:
        """Bytes arrived.  Of too many holes the oldest counts as filled: the capture lacks what did it."""
        if begin == end:
            return
        first = bisect_left(self.islands, begin, key=itemgetter(1))
        behind = bisect_right(self.islands, end, first, key=itemgetter(0))
        if touched := self.islands[first:behind]:
            begin, end = min(begin, touched[0][0]), max(end, touched[-1][1])
        self.islands[first:behind] = [(begin, end)]
        self.has(self.islands[0][0] if len(self.islands) > MAX_ISLANDS else self.received)

    def has(self, upto: int) -> None:
        """All before that has arrived."""
        self.received = max(self.received, upto)
        while self.islands and self.islands[0][0] <= self.received:
            self.received = max(self.received, self.islands.pop(0)[1])


@dataclass
class Conversation:
    """One connection, or an attempt at one."""

    client: End
    server: End
    segments: list[Segment] = field(default_factory=list)
    whole: bool = True  # its beginning is there
    ours: End | None = None  # the stack's end, if the capture says which
    begun: tuple[str, str] = ("", "")  # the states of client and server before the first segment

    @property
    def ends(self) -> tuple[str, str]:
        """ "10.0.2.15:40000", "10.0.2.2:80": client, server."""
        return end_text(self.client), end_text(self.server)

    @property
    def server_is_ours(self) -> bool:
        """Whether the stack is the server; also where that is not known."""
        return self.ours != self.client


def parse_end(text: str) -> End:
    """What ``end_text`` writes as numbers again, a mapped address as the IPv4 one that segments have.  ValueError for
    anything else."""
    host, _, port = text.rpartition(":")
    address = ip_address(host.removeprefix("[").removesuffix("]"))
    if not 0 < int(port) < 65536:
        raise ValueError(f"{port} is no port")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return int(mapped or address), int(port)


def end_text(end: End) -> str:
    """ "10.0.2.2:80", "[fd00::2]:80"."""
    address, port = end
    return f"[{in6_ntop(address)}]:{port}" if address >> 32 else f"{in_ntoa(address)}:{port}"


_NOTHING_SAID: Final = Comment()


class Tracker:
    """Sorts packets into connections."""

    def __init__(self, keep: bool = True) -> None:
        """``keep`` the connections and their segments, as is wanted of a file; else nothing is in ``conversations``, a
        conversation has no segments, and the oldest is forgotten when there are too many."""
        self._keep = keep
        self.conversations: list[Conversation] = []
        self.packets = 0
        self._open: dict[tuple[End, End], _Tracked] = {}

    def add(self, packet: Packet) -> tuple[Conversation, Segment] | None:
        """What a packet is, and of which connection; None if it is no TCP segment that can be read."""
        self.packets += 1
        raw = _parse(packet.frame)
        if raw is None:
            return None
        key = (raw.source, raw.dest) if raw.source < raw.dest else (raw.dest, raw.source)
        tracked = self._open.get(key)
        if tracked is None or tracked.is_over(raw):
            tracked = self._open[key] = _Tracked(raw)
            if self._keep:
                self.conversations.append(tracked.conversation)
            elif len(self._open) > MAX_OPEN:
                del self._open[next(iter(self._open))]
        segment = tracked.add(self.packets, packet, raw)
        if self._keep:
            tracked.conversation.segments.append(segment)
        return tracked.conversation, segment


def conversations(packets: Iterable[Packet]) -> list[Conversation]:
    """All connections of a capture, in the order in which they began."""
    tracker = Tracker()
    for packet in packets:
        tracker.add(packet)
    return tracker.conversations


class _Tracked:
    """A conversation that grows."""

    def __init__(self, first: _Raw) -> None:
        begins = bool(first.flags & SYN)
        client, server = first.source, first.dest
        if (first.flags & (SYN | ACK)) == SYN | ACK or (
            not begins and first.source[1] < _WELL_KNOWN <= first.dest[1]
        ):
            client, server = server, client
        self.conversation = Conversation(client, server, whole=first.flags & (SYN | ACK) == SYN)
        begun = ("CLOSE", "LISTEN") if self.conversation.whole else ("ESTABLISHED", "ESTABLISHED")
        self.conversation.begun = begun
        self._sides = (_Side(begun[0]), _Side(begun[1]))
        self._segments = 0

    def is_over(self, raw: _Raw) -> bool:
        """Whether this SYN begins another connection between the same ends."""
        if raw.flags & (SYN | ACK) != SYN:
            return False
        side = self._sides[raw.source != self.conversation.client]
        if raw.source == self.conversation.client and side.isn == raw.seq:
            return False
        return any(one.state in ("CLOSE", "TIME_WAIT") for one in self._sides) and side.isn is not None

    def add(self, number: int, packet: Packet, raw: _Raw) -> Segment:
        conversation = self.conversation
        from_client = raw.source == conversation.client
        if packet.outbound is not None:
            conversation.ours = raw.source if packet.outbound else raw.dest
        mine, peer = self._sides if from_client else self._sides[::-1]
        said = parse_comment(packet.comment) if packet.comment else _NOTHING_SAID
        if not self._segments:
            self._begin(packet, raw, said)
        refused = bool(raw.flags & RST) and mine.isn is None and mine.state == "LISTEN"
        self._number(mine, peer, raw)
        seq = mine.relative(raw.seq)
        ack = peer.relative(raw.ack) if raw.flags & ACK else 0
        window = raw.window << (mine.scale or 0) if mine.scales and not raw.flags & SYN else raw.window
        end = seq + raw.length + bool(raw.flags & SYN) + bool(raw.flags & FIN)
        blocks = raw.sack if raw.flags & ACK else ()
        sack = tuple((peer.relative(left), peer.relative(right)) for left, right in blocks)
        notes = tuple(_notes(mine, peer, raw, seq, end, ack, window, sack))
        was = self._ours().state
        _step(mine, peer, raw, seq, end, ack)
        mine.top, mine.last, mine.window = max(mine.top, end), seq, window
        if raw.flags & ACK:
            mine.acked = max(mine.acked, ack)
        if said.after and conversation.ours is not None:
            state = looked_up(said.after, was)
            # What is sent while a packet is dealt with comes after it in the capture, with the state in between.
            if not (packet.outbound and _PROGRESS.get(state, 7) < _PROGRESS.get(was, 0)):
                self._ours().state = state
        if refused:
            self._nobody_listened()
        segment = Segment(
            number,
            packet.stamp_ns,
            from_client,
            packet.outbound,
            raw.flags,
            seq,
            ack,
            window,
            raw.length,
            raw.mss,
            raw.wscale,
            raw.sack_ok,
            sack,
            raw.tsval,
            raw.tsecr,
            raw.ecn,
            said,
            notes,
            (self._sides[0].state, self._sides[1].state),
        )
        self._segments += 1
        return segment

    def _ours(self) -> _Side:
        """The stack's side; the server's where that is not known."""
        return self._sides[self.conversation.server_is_ours]

    def _begin(self, packet: Packet, raw: _Raw, said: Comment) -> None:
        """The comment of the first packet says in which state our end was; but for a SYN of ours, which is sent when
        the state has changed already."""
        if said.before and packet.outbound is not None and not (packet.outbound and raw.flags & SYN):
            self._ours().state = said.before
            self.conversation.begun = (self._sides[0].state, self._sides[1].state)

    def _nobody_listened(self) -> None:
        """A listener answers no SYN with a reset: there was none, as we had assumed."""
        conversation = self.conversation
        conversation.begun = (conversation.begun[0], "CLOSE")
        conversation.segments[:] = (
            replace(one, states=(one.states[0], "CLOSE")) for one in conversation.segments
        )

    @staticmethod
    def _number(mine: _Side, peer: _Side, raw: _Raw) -> None:
        """Learn where the numbers begin, and the scale of windows."""
        if raw.flags & SYN:
            again = mine.top <= 1 and not raw.flags & ACK and mine.isn != raw.seq
            if mine.isn is None or again:
                mine.isn, mine.top, mine.last = raw.seq, 0, 0
            mine.begun, mine.scale = True, raw.wscale
            mine.scales = peer.scales = peer.begun and None not in (mine.scale, peer.scale)
        if mine.isn is None:  # its beginning is not there
            mine.isn = raw.seq - 1
            mine.top = mine.last = 1
            peer.received = max(peer.received, 1)
        if raw.flags & ACK and peer.isn is None:
            peer.isn = raw.ack - 1
            peer.top = peer.last = 1
            mine.received = max(mine.received, 1)


def _notes(
    mine: _Side,
    peer: _Side,
    raw: _Raw,
    seq: int,
    end: int,
    ack: int,
    window: int,
    sack: tuple[tuple[int, int], ...],
) -> Iterator[str]:
    if raw.flags & RST:
        return
    plain = not raw.flags & (SYN | FIN)
    crossed = bool(raw.flags & SYN) and mine.state == "SYN_SENT" and bool(raw.flags & ACK)
    if plain and raw.length <= 1 and 1 < mine.top == seq + 1 and peer.acked >= mine.top:
        yield WINDOW_PROBE if peer.window == 0 else KEEPALIVE
    elif seq < end <= mine.top and not crossed:
        yield RETRANSMISSION
    if plain and raw.flags & ACK:
        bare = raw.length == 0 and ack == mine.acked and peer.top > ack
        if bare and (window == mine.window or sack):
            yield DUPLICATE_ACK
        elif raw.length == 0 and ack == mine.acked and window > mine.window >= 0 and seq == mine.top:
            yield WINDOW_UPDATE
        if window == 0:
            yield ZERO_WINDOW
    if sack and sack[0][1] <= ack:
        yield DSACK


# -- states: RFC 9293, section 3.3.2 ------------------------------------------------------------------------------


def looked_up(after: str, was: str) -> str:
    """The state of an end that was in ``was`` and for which the tables say ``after`` now.  Who looks for a connection
    that is gone finds the listener at its port; only a request's end is back in LISTEN then (RFC 9293, section
    3.10.7.4).  A SYN_RECV of the kernel is a tcp_sock, and closed."""
    return "CLOSE" if after == "LISTEN" and was not in ("LISTEN", "NEW_SYN_RECV") else after


def _step(mine: _Side, peer: _Side, raw: _Raw, seq: int, end: int, ack: int) -> None:
    """The segment is sent by the one, then received by the other.  What it acknowledges its sender has, also where the
    capture does not."""
    if raw.flags & ACK:
        mine.has(min(ack, peer.top))
        _gets_fin(mine, peer)
    _sends(mine, raw, end)
    peer.take(seq, end)
    if raw.flags & RST:
        peer.state = "CLOSE"
        return
    if raw.flags & ACK:
        _gets_ack(peer, raw, ack)
    _gets_fin(peer, mine)


def _gets_fin(side: _Side, peer: _Side) -> None:
    """If that has come, and all before it."""
    if peer.fin is not None and side.received >= peer.fin:
        side.state = _AFTER_PEERS_FIN.get(side.state, side.state)


_AFTER_OUR_FIN: Final = {
    "ESTABLISHED": "FIN_WAIT1",
    "SYN_RECV": "FIN_WAIT1",
    "CLOSE_WAIT": "LAST_ACK",
}
_AFTER_PEERS_FIN: Final = {
    "ESTABLISHED": "CLOSE_WAIT",
    "SYN_RECV": "CLOSE_WAIT",
    "FIN_WAIT1": "CLOSING",
    "FIN_WAIT2": "TIME_WAIT",
}
_AFTER_OUR_FIN_IS_ACKED: Final = {"FIN_WAIT1": "FIN_WAIT2", "CLOSING": "TIME_WAIT", "LAST_ACK": "CLOSE"}


def _sends(mine: _Side, raw: _Raw, end: int) -> None:
    if raw.flags & RST:
        mine.state = "CLOSE"
    elif raw.flags & SYN:
        if not raw.flags & ACK:
            mine.state = "SYN_SENT"
        elif mine.state == "LISTEN":
            mine.state = "NEW_SYN_RECV"
        elif mine.state == "SYN_SENT":
            mine.state = "SYN_RECV"
    elif raw.flags & FIN:
        mine.fin = end
        mine.state = _AFTER_OUR_FIN.get(mine.state, mine.state)


def _gets_ack(side: _Side, raw: _Raw, ack: int) -> None:
    if ack >= 1 and (
        side.state in ("NEW_SYN_RECV", "SYN_RECV") or (side.state == "SYN_SENT" and raw.flags & SYN)
    ):
        side.state = "ESTABLISHED"
    if side.fin is not None and ack >= side.fin:
        side.state = _AFTER_OUR_FIN_IS_ACKED.get(side.state, side.state)


# -- frames ---------------------------------------------------------------------------------------------------------

_ETH_HLEN, _ETH_P_IP, _ETH_P_IPV6, _TCP = 14, 0x0800, 0x86DD, 6
_MSS, _WSCALE, _SACK_PERM, _SACK, _TIMESTAMP = 2, 3, 4, 5, 8


@dataclass(slots=True)
class _Raw:
    source: End
    dest: End
    flags: int
    seq: int
    ack: int
    window: int
    length: int
    ecn: int
    mss: int | None = None
    wscale: int | None = None
    sack_ok: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    tsval: int | None = None
    tsecr: int | None = None


def _parse(frame: bytes) -> _Raw | None:
    """The segment in a frame, None if there is none or it is cut off within its headers."""
    if len(frame) < _ETH_HLEN + 40:
        return None
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ETH_P_IP and 0x45 <= frame[14] <= 0x4F and frame[23] == _TCP:
        if int.from_bytes(frame[20:22], "big") & 0x3FFF:  # a fragment
            return None
        at, size, ends, ecn = _ETH_HLEN + (frame[14] & 15) * 4, 4, _ETH_HLEN + 12, frame[15] & 3
        total = _ETH_HLEN + int.from_bytes(frame[16:18], "big")
    elif kind == _ETH_P_IPV6 and frame[14] >> 4 == 6 and frame[20] == _TCP:
        at, size, ends, ecn = _ETH_HLEN + 40, 16, _ETH_HLEN + 8, frame[15] >> 4 & 3
        total = at + int.from_bytes(frame[18:20], "big")
    else:
        return None
    if len(frame) < at + 20:
        return None
    source, dest = (int.from_bytes(frame[ends + n * size : ends + n * size + size], "big") for n in (0, 1))
    sport, dport, seq, ack, head, window = unpack_from("!HHIIHH", frame, at)
    data = at + (head >> 12) * 4
    if data < at + 20 or len(frame) < data or total < data:
        return None
    raw = _Raw((source, sport), (dest, dport), head & 0x1FF, seq, ack, window, total - data, ecn)
    _parse_options(raw, frame[at + 20 : data])
    return raw


def _parse_options(raw: _Raw, options: bytes) -> None:
    """RFC 9293, 7323, 2018; a malformed one ends them, as in the stack."""
    at = 0
    while at < len(options) and (kind := options[at]):
        if kind == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            return
        _parse_option(raw, kind, options[at + 2 : at + size])
        at += size


def _parse_option(raw: _Raw, kind: int, value: bytes) -> None:
    if kind == _MSS and len(value) == 2:
        raw.mss = int.from_bytes(value, "big")
    elif kind == _WSCALE and len(value) == 1:
        raw.wscale = min(value[0], 14)  # RFC 7323, section 2.3
    elif kind == _SACK_PERM:
        raw.sack_ok = True
    elif kind == _SACK and len(value) % 8 == 0:
        edges = [int.from_bytes(value[i : i + 4], "big") for i in range(0, len(value), 4)]
        raw.sack = tuple(zip(edges[::2], edges[1::2], strict=True))
    elif kind == _TIMESTAMP and len(value) == 8:
        raw.tsval, raw.tsecr = unpack_from("!II", value)
