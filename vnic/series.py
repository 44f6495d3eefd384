# SPDX-License-Identifier: GPL-2.0-or-later
"""What a plot of one TCP connection shows, as numbers: sequence numbers, windows, round trips and goodput over time.

Theory of operation
-------------------
A ``View`` is one direction of a ``Conversation``: who sends data, and the replies of the receiver.  Each function here
makes one panel's series of it, in one pass, and knows nothing of how that is drawn.  Times are seconds since the
connection's first segment (whole nanoseconds), sizes bytes, round trips seconds, rates bit/s.

    sequence    each data segment as a bar of its sequence numbers, what was sent before apart from it; the highest ACK
                and the right edge of the receiver's window (ACK + window) as steps; SACK blocks when they change
    window      bytes in flight: the highest number sent minus the highest acknowledged, so SACKed and lost ones count;
                cwnd and ssthresh where comments of the capture say them (segments there, so times the segment size)
    rtt         from data to the ACK that covers it, without what was sent twice (Karn's algorithm: RFC 6298, section 3)
                or SACKed before; from a time stamp to its echo (RFC 7323, section 4), which may be of a retransmission
    throughput  goodput: bytes that the receiver acknowledged or SACKed for the first time (when a hole is filled, what
                lies behind it has been counted), in bins of 1, 2 or 5 times a power of ten seconds, about 60 of them
                and none shorter than a round trip if that leaves ten; and the mean so far

A round trip is what the place of the capture saw.  There the data of the stack come by as they are sent; those of its
peer do as they arrive, and their ACK follows at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final, Literal

from stack.inspect.conversation import (
    ACK,
    DSACK,
    DUPLICATE_ACK,
    FIN,
    KEEPALIVE,
    RST,
    SYN,
    WINDOW_PROBE,
    ZERO_WINDOW,
    Conversation,
    Segment,
)

Direction = Literal["up", "down"]
"""up: from client to server."""
PANELS: Final = ("sequence", "cwnd", "rtt", "throughput")

BINS: Final = 60
MIN_BINS: Final = 10
_MIN_WIDTH_S: Final = 1e-6
_TIMESTAMP_BYTES: Final = 12  # what the option takes from a segment: RFC 7323, appendix A
_DEFAULT_MSS: Final = 1460

NO_COMMENTS: Final = "not in this capture: record with `vnic capture start FILE --comments`"
NOT_OURS: Final = "not in this capture: the sender is not vnic's end"


@dataclass
class Points:
    """Values ``y`` at the times ``t``; None is a gap."""

    t: list[float] = field(default_factory=list)
    y: list[float | None] = field(default_factory=list)

    def add(self, t: float, y: float | None) -> None:
        self.t.append(t)
        self.y.append(y)

    def change(self, t: float, y: float | None) -> None:
        """Only if that is another value than the last: a step."""
        if not self.y or self.y[-1] != y:
            self.add(t, y)


@dataclass
class Bars:
    """At each time ``t`` what lies from ``low`` to ``high``."""

    t: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, t: float, low: float, high: float) -> None:
        self.t.append(t)
        self.low.append(low)
        self.high.append(high)


@dataclass(frozen=True)
class Mark:
    """A word at a place."""

    t: float
    y: float
    text: str


@dataclass
class Sequence:
    """Sequence numbers, relative; ``zero_windows`` are times, each from its first to the window that ended it."""

    data: Bars = field(default_factory=Bars)
    retransmitted: Bars = field(default_factory=Bars)
    ack: Points = field(default_factory=Points)
    window: Points = field(default_factory=Points)
    sack: Bars = field(default_factory=Bars)
    dsack: Bars = field(default_factory=Bars)
    duplicate_acks: Points = field(default_factory=Points)
    probes: Points = field(default_factory=Points)
    zero_windows: list[tuple[float, float]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


@dataclass
class Window:
    """Bytes.  ``missing`` says why there is no ``cwnd``, "" if there is.  ``ssthresh`` has gaps where it is
    infinite."""

    flight: Points = field(default_factory=Points)
    cwnd: Points = field(default_factory=Points)
    ssthresh: Points = field(default_factory=Points)
    missing: str = ""


@dataclass
class RoundTrips:
    """Seconds: from data to ACK, from time stamp to echo, and srtt where comments say it."""

    samples: Points = field(default_factory=Points)
    echoes: Points = field(default_factory=Points)
    smoothed: Points = field(default_factory=Points)


@dataclass
class Throughput:
    """bit/s: ``goodput[i]`` from ``edges[i]`` to ``edges[i + 1]``, ``mean[i]`` from the first edge to there."""

    width_s: float = 0.0
    edges: list[float] = field(default_factory=list)
    goodput: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Totals:
    """``nbytes`` counts each byte of the stream once, ``seconds`` is from the connection's first segment to its last,
    ``mss`` bytes of data in a full segment."""

    nbytes: int
    segments: int
    retransmissions: int
    seconds: float
    mss: int


@dataclass
class Series:
    """All of a plot; a panel that was not asked for is None."""

    sender: str
    receiver: str
    direction: Direction
    totals: Totals
    sequence: Sequence | None = None
    cwnd: Window | None = None
    rtt: RoundTrips | None = None
    throughput: Throughput | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON: without the panels that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


# -- one direction -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """One direction of a connection."""

    conversation: Conversation
    direction: Direction

    @property
    def start_ns(self) -> int:
        return self.conversation.segments[0].at_ns

    @property
    def is_ours(self) -> bool:
        """Whether the stack is the sender, so that comments are about this direction's window."""
        return (self.direction == "up") != self.conversation.server_is_ours

    @property
    def ends(self) -> tuple[str, str]:
        """Sender, receiver."""
        client, server = self.conversation.ends
        return (client, server) if self.direction == "up" else (server, client)

    def is_sent(self, segment: Segment) -> bool:
        return segment.from_client == (self.direction == "up")

    def at(self, segment: Segment) -> float:
        """Seconds."""
        return (segment.at_ns - self.start_ns) / 1e9

    def steps(self) -> Iterator[Step]:
        """Every segment of both ends, with how far things are after it."""
        top = una = 0
        for segment in self.conversation.segments:
            sent, top_before, una_before = self.is_sent(segment), top, una
            if sent:
                top = max(top, segment.end)
            elif segment.flags & ACK and not segment.flags & RST:
                una = max(una, segment.ack)
                top = max(top, una)  # data that the capture lacks
            yield Step(segment, self.at(segment), sent, top, una, top_before, una_before)


@dataclass(frozen=True, slots=True)
class Step:
    """A segment at time ``t``; ``top`` is behind the highest number sent, ``una`` the highest acknowledged."""

    segment: Segment
    t: float
    sent: bool
    top: int
    una: int
    top_before: int
    una_before: int


def nbytes_of(conversation: Conversation, direction: Direction) -> int:
    """Bytes that were sent that way, each counted once."""
    view = View(conversation, direction)
    first, last = math.inf, -math.inf
    for segment in filter(view.is_sent, conversation.segments):
        if segment.length:
            begin = segment.seq + bool(segment.flags & SYN)
            first, last = min(first, begin), max(last, begin + segment.length)
    return int(last - first) if last > first else 0


def direction_of(conversation: Conversation) -> Direction:
    """The one with more data; down if both have as much."""
    return "up" if nbytes_of(conversation, "up") > nbytes_of(conversation, "down") else "down"


def series_of(
    conversation: Conversation, direction: Direction | None = None, only: tuple[str, ...] | None = None
) -> Series:
    """The panels ``only`` (of PANELS, all unless given) of a connection that has segments."""
    view = View(conversation, direction or direction_of(conversation))
    panels = PANELS if only is None else only
    return Series(
        *view.ends,
        view.direction,
        totals(view),
        sequence(view) if "sequence" in panels else None,
        window(view) if "cwnd" in panels else None,
        round_trips(view) if "rtt" in panels else None,
        throughput(view) if "throughput" in panels else None,
    )


def totals(view: View) -> Totals:
    sent = [segment for segment in view.conversation.segments if view.is_sent(segment) and segment.length]
    return Totals(
        nbytes_of(view.conversation, view.direction),
        len(sent),
        len(_retransmitted(view)),
        max(map(view.at, view.conversation.segments)),
        segment_size(view),
    )


def _retransmitted(view: View) -> list[Step]:
    """Segments with data of which some had been sent before."""
    return [
        step
        for step in view.steps()
        if step.sent
        and step.segment.length
        and step.segment.seq < step.top_before
        and not is_probe(step.segment)
    ]


def is_probe(segment: Segment) -> bool:
    """A keep-alive or window probe, which may carry a byte that was acknowledged long ago."""
    return KEEPALIVE in segment.notes or WINDOW_PROBE in segment.notes


def segment_size(view: View) -> int:
    """Bytes of data in a full segment, in which cwnd is counted: what the ends told each other, less the time stamps;
    without their SYNs the largest that was sent, but not more than Ethernet takes, as a device may cut it later."""
    segments = view.conversation.segments
    told = [segment.mss for segment in segments if segment.mss is not None]
    if told:
        stamped = any(segment.tsval is not None for segment in segments if not segment.flags & SYN)
        return max(min(told) - _TIMESTAMP_BYTES * stamped, 1)
    return min(
        max((one.length for one in segments if view.is_sent(one)), default=0) or _DEFAULT_MSS, _DEFAULT_MSS
    )


# -- sequence numbers ----------------------------------------------------------------------------------------------


def sequence(view: View) -> Sequence:
    found = Sequence()
    blocks: tuple[tuple[int, int], ...] = ()
    step: Step | None = None
    for step in view.steps():
        if step.sent:
            _add_sent(found, step)
        elif step.segment.flags & RST:
            found.marks.append(Mark(step.t, step.una, "RST of the receiver"))
        elif step.segment.flags & ACK:
            _add_reply(found, step, blocks)
            blocks = step.segment.sack
    if step is not None and found.ack.y:  # the lines go on to the end
        found.ack.add(step.t, found.ack.y[-1])
        found.window.add(step.t, found.window.y[-1])
    found.zero_windows = zero_windows(view)
    return found


def _add_sent(found: Sequence, step: Step) -> None:
    """New data, old data, or a segment of both."""
    segment, t = step.segment, step.t
    begin = segment.seq + bool(segment.flags & SYN)
    end = begin + segment.length
    if is_probe(segment):
        found.probes.add(t, segment.seq)
    elif segment.length:
        if begin < step.top_before:
            found.retransmitted.add(t, begin, min(end, step.top_before))
        if end > step.top_before:
            found.data.add(t, max(begin, step.top_before), end)
    for name, bit in (("SYN", SYN), ("FIN", FIN), ("RST", RST)):
        if segment.flags & bit:
            found.marks.append(Mark(t, segment.seq if bit == SYN else end, name))


def _add_reply(found: Sequence, step: Step, before: tuple[tuple[int, int], ...]) -> None:
    """``before``: the SACK blocks of the last one.  What an older ACK says that comes late is no step back."""
    segment, t = step.segment, step.t
    if segment.ack == step.una:
        found.ack.change(t, segment.ack)
        found.window.change(t, segment.ack + segment.window)
    if DUPLICATE_ACK in segment.notes:
        found.duplicate_acks.add(t, segment.ack)
    for number, (left, right) in enumerate(segment.sack):
        if number == 0 and DSACK in segment.notes:
            found.dsack.add(t, left, right)
        elif (left, right) not in before:
            found.sack.add(t, left, right)


def zero_windows(view: View) -> list[tuple[float, float]]:
    """When the receiver had no room, each from the segment that said so to the one that said otherwise."""
    found: list[tuple[float, float]] = []
    since: float | None = None
    for segment in view.conversation.segments:
        if view.is_sent(segment) or segment.flags & (RST | SYN):
            continue
        if ZERO_WINDOW in segment.notes:
            since = view.at(segment) if since is None else since
        elif since is not None:
            found.append((since, view.at(segment)))
            since = None
    if since is not None:
        found.append((since, view.at(view.conversation.segments[-1])))
    return found


# -- windows -------------------------------------------------------------------------------------------------------


def window(view: View) -> Window:
    found = Window()
    mss = segment_size(view)
    last = 0.0
    for step in view.steps():
        said, last = step.segment.said, step.t
        found.flight.change(step.t, _flight(step))
        if view.is_ours and said.cwnd is not None:
            found.cwnd.change(step.t, said.cwnd * mss)
            found.ssthresh.change(step.t, None if said.ssthresh is None else said.ssthresh * mss)
    for points in (found.flight, found.cwnd, found.ssthresh):
        if points.y:
            points.add(last, points.y[-1])
    if not found.cwnd.y:
        found.missing = NO_COMMENTS if view.is_ours or view.conversation.ours is None else NOT_OURS
    return found


def _flight(step: Step) -> int:
    """Bytes without an ACK; the SYN's number counts as none."""
    return max(step.top - max(step.una, 1), 0)


# -- round trips ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sent:
    """A segment that waits for its ACK.  ``clean``: neither it nor one before it was sent again meanwhile."""

    end: int
    t: float
    clean: bool = True


def round_trips(view: View) -> RoundTrips:
    found = RoundTrips(_karn(view), _echoes(view))
    if view.is_ours:
        for segment in view.conversation.segments:
            if segment.said.srtt_us is not None:
                found.smoothed.change(view.at(segment), segment.said.srtt_us / 1e6)
    return found


def _karn(view: View) -> Points:
    """One sample at most an ACK: of the last segment that it covers, if nothing was sent again meanwhile."""
    found = Points()
    waiting: deque[_Sent] = deque()
    sacked = 0
    for step in view.steps():
        segment = step.segment
        if step.sent:
            _wait(waiting, step)
            continue
        covered = []
        while waiting and waiting[0].end <= step.una:
            covered.append(waiting.popleft())
        if covered and all(one.clean for one in covered) and covered[-1].end > sacked:
            found.add(step.t, _since(covered[-1].t, step.t))
        sacked = max([sacked, *(right for _, right in segment.sack)])
    return found


def _wait(waiting: deque[_Sent], step: Step) -> None:
    segment = step.segment
    if segment.seq < step.top_before:  # what lies behind it will be covered together with it
        for one in waiting:
            one.clean = one.clean and one.end <= segment.seq
    if segment.end > step.top_before:
        waiting.append(_Sent(segment.end, step.t))


def _echoes(view: View) -> Points:
    """One sample an ACK that covers something new: since the first segment with the time stamp that it echoes, of those
    that were not covered before (a receiver that delays its ACK echoes the first: RFC 7323, section 4.3)."""
    found = Points()
    stamped: dict[int, deque[_Sent]] = {}
    for step in view.steps():
        segment = step.segment
        if step.sent:
            if segment.tsval is not None and segment.end > segment.seq:
                sent = _Sent(segment.end, step.t)
                stamped.setdefault(segment.tsval, deque()).append(sent)
        elif step.una > step.una_before and segment.tsecr is not None:
            waiting = stamped.get(segment.tsecr, deque())
            while waiting and waiting[0].end <= step.una_before:
                waiting.popleft()
            if waiting:
                found.add(step.t, _since(waiting[0].t, step.t))
    return found


def _since(begin: float, end: float) -> float:
    """0 if the capture's clock was set back meanwhile."""
    return max(_seconds(end - begin), 0.0)


def _seconds(value: float) -> float:
    """Whole nanoseconds."""
    return round(value, 9)


# -- throughput ----------------------------------------------------------------------------------------------------


def throughput(view: View) -> Throughput:
    """Empty if nothing was acknowledged."""
    begin, acked = _acknowledged(view)
    if not acked:
        return Throughput()
    end = max(t for t, _ in acked)
    width = bin_width(end - begin, _typical([y for y in _karn(view).y if y is not None]))
    count = max(round((end - begin) / width), 1)  # the last one may be half as long again, or half as long
    edges = [_seconds(begin + i * width) for i in range(count)] + [_seconds(max(end, begin + _MIN_WIDTH_S))]
    sums = [0] * count
    for t, nbytes in acked:
        sums[min(int((t - begin) / width), count - 1)] += nbytes
    found = Throughput(width, edges)
    so_far = 0
    for i, nbytes in enumerate(sums):
        so_far += nbytes
        found.goodput.append(round(nbytes * 8 / (edges[i + 1] - edges[i])))
        found.mean.append(round(so_far * 8 / (edges[i + 1] - begin)))
    return found


def _acknowledged(view: View) -> tuple[float, list[tuple[float, int]]]:
    """When the first data were sent, and how many bytes were acknowledged or SACKed when."""
    begin: float | None = None
    fin: int | None = None
    covered = _Covered()
    acked: list[tuple[float, int]] = []
    for step in view.steps():
        segment = step.segment
        if step.sent:
            if segment.length and begin is None:
                begin = step.t
            if segment.flags & FIN:
                fin = segment.end
        elif begin is not None:
            top = step.top if fin is None or step.top < fin else fin - 1
            if new := covered.add(min(step.una, top), segment.sack, top):
                acked.append((max(step.t, begin), new))  # a capture's clock may have been set back
    return begin or 0.0, acked


class _Covered:
    """What a receiver has: all up to ``una``, and blocks beyond that."""

    def __init__(self) -> None:
        self.una = 1
        self.blocks: list[tuple[int, int]] = []

    def add(self, una: int, sack: tuple[tuple[int, int], ...], top: int) -> int:
        """How many bytes that is more; beyond ``top`` nothing was sent that it could have."""
        before = self._size()
        self.una = max(self.una, una)
        joined: list[tuple[int, int]] = []
        for left, right in sorted([*self.blocks, *sack]):
            left, right = max(left, self.una), min(right, top)
            if joined and left <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(right, joined[-1][1])
            elif left < right:
                joined.append((left, right))
        self.blocks = joined
        return self._size() - before

    def _size(self) -> int:
        return self.una + sum(right - left for left, right in self.blocks)


def _typical(values: list[float]) -> float:
    return median(values) if values else 0.0


def bin_width(seconds: float, round_trip: float) -> float:
    """1, 2 or 5 times a power of ten seconds; see the head of the file."""
    return _seconds(rounded_up(max(seconds / BINS, min(round_trip, seconds / MIN_BINS), _MIN_WIDTH_S)))


def rounded_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 and so on, for any positive value."""
    unit = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= value * (1 - 1e-9))
