# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rungs of a ladder diagram are, before anybody draws them as text (``ladder``) or as SVG (``laddersvg``).

A conversation becomes a list of rows: a segment, a gap in time, or a run of many segments that nothing is remarkable
about.  A run is what lies between a first and a last segment that both are drawn, so that it can be seen where the
numbers begin and end; it has no note, no change of a state or of flags other than PSH, and no gap in it.

A gap is drawn where nothing was said for much longer than is usual in this conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from stack.inspect.conversation import (
    ACK,
    DSACK,
    DUPLICATE_ACK,
    FIN,
    KEEPALIVE,
    PSH,
    RETRANSMISSION,
    RST,
    SYN,
    URG,
    WINDOW_PROBE,
    WINDOW_UPDATE,
    ZERO_WINDOW,
    Conversation,
    Segment,
)

RUN: Final = 6  # unremarkable segments that are drawn one by one
GAP_USUAL: Final = (
    8  # a gap is longer than so many times a usual distance, of which a quarter are shorter, ...
)
GAP_SHARE: Final = 20  # ... and than this part of the whole

# How a segment is drawn, by what is most remarkable about it.
PLAIN: Final = "plain"
AGAIN: Final = "retransmission"
DUPLICATE: Final = "duplicate"
WINDOW: Final = "window"
RESET: Final = "reset"

_KINDS: Final = (
    (RETRANSMISSION, AGAIN),
    (DUPLICATE_ACK, DUPLICATE),
    (DSACK, DUPLICATE),
    (ZERO_WINDOW, WINDOW),
    (WINDOW_PROBE, WINDOW),
    (WINDOW_UPDATE, WINDOW),
    (KEEPALIVE, WINDOW),
)
_CE: Final = 3  # RFC 3168, section 5
_MICROSECOND, _MILLISECOND, _SECOND = 1_000, 1_000_000, 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rung:
    """One segment.  ``states`` has the new state of an end that changed it, "" for one that did not."""

    segment: Segment
    states: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing was said for that long."""

    ns: int


@dataclass(slots=True)
class Run:
    """Unremarkable segments, of the one direction and of the other."""

    begin_ns: int = 0
    end_ns: int = 0
    ways: dict[bool, Way] = field(
        default_factory=dict
    )  # by from_client, in the order in which they were seen

    def add(self, segment: Segment) -> None:
        if not self.ways:
            self.begin_ns = segment.at_ns
        self.end_ns = segment.at_ns
        self.ways.setdefault(segment.from_client, Way(segment.seq)).add(segment)

    @property
    def segments(self) -> int:
        return sum(way.segments for way in self.ways.values())


@dataclass(slots=True)
class Way:
    """One direction of a run."""

    begin: int
    end: int = 0
    segments: int = 0
    length: int = 0
    ack: int = 0

    def add(self, segment: Segment) -> None:
        self.segments += 1
        self.length += segment.length
        self.end, self.ack = max(self.end, segment.end), segment.ack

    def parts(self, ns: int) -> list[str]:
        """In words, of a run that took ``ns``."""
        if not self.length:
            return [f"{counted(self.segments, 'bare ACK')},", f"up to {self.ack}"]
        took = f"{size_text(self.length)} in {span_text(ns)}"
        return [f"{counted(self.segments, 'segment')},", f"{took},", f"{self.begin}:{self.end}"]


Row = Rung | Gap | Run


def rows(conversation: Conversation, every: bool = False) -> list[Row]:
    """All that is to be drawn, in order; ``every`` segment one by one instead of runs."""
    gap_ns = _gap_ns(conversation.segments)
    found: list[Row] = []
    rungs: list[Rung] = []
    follows = Follower(conversation.begun)
    before: Segment | None = None
    for segment in conversation.segments:
        gap = segment.at_ns - before.at_ns if before is not None else 0
        if gap > gap_ns:
            found += _folded(rungs, every)
            found.append(Gap(gap))
            rungs = []
        rung, unremarkable = follows.take(segment)
        if not unremarkable:
            found += _folded(rungs, every)
            rungs = []
        if unremarkable or every:
            rungs.append(rung)
        else:
            found.append(rung)
        before = segment
    return found + _folded(rungs, every)


class Follower:
    """Sees one segment of a conversation after the other."""

    def __init__(self, begun: tuple[str, str]) -> None:
        self._states = begun
        self._flags: dict[bool, int] = {}

    def take(self, segment: Segment) -> tuple[Rung, bool]:
        """It as a rung, and whether it may be part of a run."""
        new = (
            segment.states[0] if segment.states[0] != self._states[0] else "",
            segment.states[1] if segment.states[1] != self._states[1] else "",
        )
        self._states = segment.states
        flags = segment.flags & ~PSH
        same = self._flags.get(segment.from_client, ACK) == flags
        self._flags[segment.from_client] = flags
        told = bool(segment.notes or segment.said.dropped or segment.sack or segment.ecn == _CE)
        remarkable = told or any(new) or bool(flags & (SYN | FIN | RST | URG)) or not same
        return Rung(segment, new), not remarkable


def _folded(rungs: list[Rung], every: bool) -> list[Row]:
    if every or len(rungs) <= RUN:
        return list(rungs)
    run = Run()
    for rung in rungs[1:-1]:
        run.add(rung.segment)
    return [rungs[0], run, rungs[-1]]


def _gap_ns(segments: list[Segment]) -> int:
    """Longer than that is a gap."""
    distances = [later.at_ns - one.at_ns for one, later in pairwise(segments) if later.at_ns > one.at_ns]
    if not distances:
        return 0
    usual = sorted(distances)[len(distances) // 4]
    return max(GAP_USUAL * usual, sum(distances) // GAP_SHARE)


# -- words ---------------------------------------------------------------------------------------------------


def kind_of(segment: Segment) -> str:
    """One of the kinds above."""
    if segment.flags & RST:
        return RESET
    return next((kind for note, kind in _KINDS if note in segment.notes), PLAIN)


def label(segment: Segment) -> list[str]:
    """The words at an arrow, in parts that are not torn apart; what is remarkable in brackets."""
    numbers = f"{segment.seq}:{segment.end}({segment.length})" if segment.length else f"seq {segment.seq}"
    behind = KEEPALIVE in segment.notes or WINDOW_PROBE in segment.notes
    tells = behind or bool(segment.flags & (SYN | FIN | RST)) or not segment.flags & ACK
    parts = [segment.flag_names or "no flags"]
    if segment.length or tells:
        parts.append(numbers)
    if segment.flags & ACK:
        parts.append(f"ack {segment.ack}")
    if not segment.flags & RST:
        parts.append(f"win {segment.window}")
    parts += [f"[{note}]" for note in segment.notes]
    if segment.ecn == _CE:
        parts.append("[CE]")
    if segment.said.dropped:
        parts.append(f"[dropped: {clean(segment.said.dropped)}]")
    return parts


def options(segment: Segment) -> list[str]:
    """The options that tell something new."""
    parts = list(_of_syn(segment)) if segment.flags & SYN else []
    return parts + [f"sack {left}:{right}" for left, right in segment.sack]


def _of_syn(segment: Segment) -> Iterator[str]:
    if segment.mss is not None:
        yield f"mss {segment.mss}"
    if segment.sack_ok:
        yield "sackOK"
    if segment.tsval is not None:
        yield "TS"
    if segment.wscale is not None:
        yield f"wscale {segment.wscale}"


def path(segment: Segment) -> str:
    """The functions that the stack went through, and what its sender knows, from the comment."""
    said = segment.said
    parts = [clean(said.path)] if said.path else []
    if said.cwnd is not None:
        parts.append(f"cwnd {said.cwnd} ssthresh {'inf' if said.ssthresh is None else said.ssthresh}")
    if said.srtt_us is not None:
        parts.append(f"srtt {span_text(said.srtt_us * _MICROSECOND)}")
    return ", ".join(parts)


def clean(text: str) -> str:
    """Somebody else's words without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def summary(conversation: Conversation) -> str:
    """ "9 segments in 1.20 ms, 5 B to the server, 5 B to the client"."""
    segments = conversation.segments
    there, back = (sum(one.length for one in segments if one.from_client is way) for way in (True, False))
    span = segments[-1].at_ns - segments[0].at_ns if segments else 0
    took = f"{counted(len(segments), 'segment')} in {span_text(span)}"
    return f"{took}, {size_text(there)} to the server, {size_text(back)} to the client"


def counted(number: int, what: str) -> str:
    """ "1 segment", "2 segments"."""
    return f"{number} {what}{'s' * (number != 1)}"


def roles(conversation: Conversation) -> tuple[str, str]:
    """What client and server are, besides: "client (guest)", "server (stack)"."""
    if conversation.ours is None:
        return "client", "server"
    stack_serves = conversation.server_is_ours
    return ("client (guest)", "server (stack)") if stack_serves else ("client (stack)", "server (guest)")


def worded(segment: Segment, first: int, rest: int) -> list[str]:
    """Label and options in lines: in one if they fit, else the options begin a line."""
    words, more = label(segment), options(segment)
    one = " ".join([*words, *more])
    if len(one) <= first or not more:
        return folded(words + more, first, rest)
    return folded(words, first, rest) + folded(more, rest, rest)


def folded(parts: Iterable[str], first: int, rest: int) -> list[str]:
    """Parts in lines: the first of at most ``first`` columns, the others of at most ``rest``."""
    lines: list[str] = []
    line, room = "", first
    for part in parts:
        if line and len(line) + 1 + len(part) > room:
            lines.append(line)
            line, room = "", rest
        line = cut(f"{line} {part}" if line else part, room)
    return [*lines, line]


def cut(text: str, room: int) -> str:
    """``text``, or as much of it as there is room for."""
    return text if len(text) <= room else text[: room - 3] + "..."


# -- numbers -------------------------------------------------------------------------------------------------

_SIZES: Final = ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB"))
_SPANS: Final = ((_SECOND, "s"), (_MILLISECOND, "ms"), (_MICROSECOND, "us"))


def size_text(size: int) -> str:
    """ "1.75 MB"."""
    return _three_digits(size, _SIZES, "B")


def span_text(ns: int) -> str:
    """ "1.20 ms"."""
    return _three_digits(ns, _SPANS, "ns")


def _three_digits(value: int, units: tuple[tuple[int, str], ...], smallest: str) -> str:
    for factor, unit in units:
        if abs(value) >= factor:
            number = value / factor
            return f"{number:.{2 if abs(number) < 10 else 1 if abs(number) < 100 else 0}f} {unit}"
    return f"{value} {smallest}"


@dataclass(frozen=True, slots=True)
class Clock:
    """Writes times of one ladder, all in one unit, from its first segment on."""

    start_ns: int
    unit: str
    factor: int
    digits: int

    @classmethod
    def of(cls, conversation: Conversation) -> Clock:
        """Microseconds below 1 ms, milliseconds below 10 s, else seconds; none of them loses a microsecond."""
        stamps = [one.at_ns for one in conversation.segments] or [0]
        longest = max(abs(stamp - stamps[0]) for stamp in stamps)
        if longest < _MILLISECOND:
            return cls(stamps[0], "us", _MICROSECOND, 1)
        if longest < 10 * _SECOND:
            return cls(stamps[0], "ms", _MILLISECOND, 3)
        return cls(stamps[0], "s", _SECOND, 6)

    def text(self, at_ns: int) -> str:
        return f"{(at_ns - self.start_ns) / self.factor:.{self.digits}f}"

    def width(self, conversation: Conversation) -> int:
        """Columns that the times of all its segments need."""
        return max([len(self.unit), *(len(self.text(one.at_ns)) for one in conversation.segments)])
