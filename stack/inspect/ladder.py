# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections as ladder diagrams: two lifelines, an arrow for each segment, the states of both ends beside them.

    text(), lines()     a whole conversation as text, 80 columns or as many as there are
    Live                the same, a few lines at a time, while segments come
    svg(), stacked()    one conversation, or several below each other, as SVG
    plain()             what json.dumps takes

A row of text is: time since the first segment, the client's state if it is new, the arrow with its words, the server's
state if it is new.  What does not fit at the arrow goes on below it.

    --  a segment                       ..  a retransmission
    ==  many segments (a run)           X   the stack dropped it
    :   a lifeline where time passes, or where a run stands for many segments
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from stack.inspect.conversation import Conversation, Segment
from stack.inspect.ladderrows import (
    AGAIN,
    RUN,
    Clock,
    Follower,
    Gap,
    Row,
    Run,
    Rung,
    cut,
    folded,
    kind_of,
    path,
    roles,
    rows,
    span_text,
    summary,
    worded,
)
from stack.inspect.laddersvg import stacked as stacked
from stack.inspect.laddersvg import svg as svg

MIN_WIDTH: Final = 80
MAX_WIDTH: Final = 132  # an arrow over the whole of a wide screen is hard to follow
STATE_WIDTH: Final = len("NEW_SYN_RECV")

# What a line is, besides the kinds of segments.
HEADING: Final = "heading"
DROPPED: Final = "dropped"
GAP: Final = "gap"
MANY: Final = "many"
PATH: Final = "path"

_DROP_GAP: Final = "    "  # between the X and the lifeline that was not reached


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text and what it is: HEADING, a kind of ``ladderrows``, ..."""

    text: str
    kind: str


def text(
    conversation: Conversation,
    width: int = MIN_WIDTH,
    *,
    every: bool = False,
    paths: bool = False,
    number: int = 0,
) -> str:
    """A whole conversation, each line with its end.  ``every`` segment has a row, instead of one for many where
    nothing happens; ``paths`` adds what the comments of the capture say; ``number`` is the connection's."""
    drawn = lines(conversation, width, every=every, paths=paths, number=number)
    return "".join(f"{line.text}\n" for line in drawn)


def lines(
    conversation: Conversation,
    width: int = MIN_WIDTH,
    *,
    every: bool = False,
    paths: bool = False,
    number: int = 0,
) -> list[Line]:
    """The same with what each line is."""
    clock = Clock.of(conversation)
    states = [conversation.begun, *(one.states for one in conversation.segments)]
    sheet = _Sheet(
        width=_within(width),
        clock=clock,
        time=clock.width(conversation),
        left=max(len(left) for left, _ in states),
        right=max(len(right) for _, right in states),
        paths=paths,
    )
    title = f"connection {number}: {summary(conversation)}" if number else summary(conversation)
    drawn = list(sheet.heading(conversation, title))
    for row in rows(conversation, every):
        drawn += sheet.row(row)
    return drawn


def _within(width: int) -> int:
    return min(max(width, MIN_WIDTH), MAX_WIDTH)


@dataclass(frozen=True)
class _Sheet:
    """Where the columns are: time, state, lifeline, room for arrows, lifeline, state."""

    width: int
    clock: Clock
    time: int
    left: int
    right: int
    paths: bool = False

    @property
    def room(self) -> int:
        return self.width - self.time - self.left - self.right - 5

    def heading(self, conversation: Conversation, title: str) -> Iterator[Line]:
        """Who talks, and the states at the beginning."""
        yield from (Line(part, HEADING) for part in folded(title.split(" "), self.width, self.width))
        if not conversation.whole:
            yield Line("its beginning is not there: who is the client is guessed", HEADING)
        yield from (Line(one, HEADING) for one in self._over_lifelines(conversation.ends))
        yield from (Line(one, HEADING) for one in self._over_lifelines(roles(conversation)))
        yield Line(self._line(self.clock.unit, conversation.begun, " " * self.room), HEADING)

    def _stamp(self, at_ns: int) -> str:
        """Live it is not known beforehand how long it gets: the last digits are given up then."""
        return self.clock.text(at_ns)[: self.time]

    def _over_lifelines(self, names: tuple[str, str]) -> list[str]:
        """Each in the middle over its lifeline as far as there is room; if there is none, one above the other."""
        left = self.time + self.left + 2
        places = left, left + 1 + self.room
        begins = [
            max(0, min(place - len(name) // 2, self.width - len(name)))
            for place, name in zip(places, names, strict=True)
        ]
        first, second = (" " * begin + name for begin, name in zip(begins, names, strict=True))
        if len(first) + 2 > begins[1]:
            return [first, second]
        return [first + second[len(first) :]]

    def _line(self, time: str, states: tuple[str, str], between: str, lifeline: str = "|") -> str:
        left, right = states
        drawn = f"{time:>{self.time}} {left:>{self.left}} {lifeline}{between:<{self.room}}{lifeline} {right}"
        return drawn.rstrip()

    def row(self, row: Row) -> Iterator[Line]:
        if isinstance(row, Rung):
            yield from self.rung(row)
        elif isinstance(row, Gap):
            yield Line(self._line("", ("", ""), f"{span_text(row.ns):^{self.room}}", ":"), GAP)
        else:
            yield from self.run(row)

    def rung(self, rung: Rung) -> Iterator[Line]:
        """The arrow, and below it what has no room there."""
        segment = rung.segment
        kind = DROPPED if segment.said.dropped else kind_of(segment)
        room = self.room - len("--  ->") - (len(_DROP_GAP) if segment.said.dropped else 0)
        first, *more = worded(segment, room, self.room - 4)
        shaft = "." if kind_of(segment) == AGAIN else "-"
        arrow = _arrow(first, self.room, shaft, segment.from_client, bool(segment.said.dropped))
        yield Line(self._line(self._stamp(segment.at_ns), rung.states, arrow), kind)
        for one in more:
            yield self._below(one, kind)
        if self.paths and path(segment):
            yield self._below(cut(path(segment), self.room - 4), PATH)

    def _below(self, words: str, kind: str) -> Line:
        return Line(self._line("", ("", ""), f"   {words}"), kind)

    def run(self, run: Run) -> Iterator[Line]:
        """One arrow for each direction."""
        time = self._stamp(run.begin_ns)
        for from_client, way in run.ways.items():
            words = folded(way.parts(run.end_ns - run.begin_ns), self.room - 6, self.width)
            first = words[0].removesuffix(",")
            arrow = _arrow(first, self.room, "=", from_client, False)
            yield Line(self._line(time, ("", ""), arrow, ":"), MANY)
            time = ""


def _arrow(words: str, room: int, shaft: str, to_the_right: bool, dropped: bool) -> str:
    """The words begin in the same column whichever way it points."""
    reach = room - (len(_DROP_GAP) if dropped else 0)
    if to_the_right:
        return f"{shaft * 2} {words} ".ljust(reach - 1, shaft) + ("X" if dropped else ">")
    if dropped:
        return _DROP_GAP + f"X{shaft} {words} ".ljust(reach, shaft)
    return f"<{shaft} {words} ".ljust(room, shaft)


# -- while it happens ----------------------------------------------------------------------------------------

LIVE_GAP_NS: Final = 200_000_000  # TCP_RTO_MIN: nothing that waits for an answer waits for less
LIVE_RUN_NS: Final = 1_000_000_000  # a run is told of that often
MAX_DRAWN: Final = 1000  # connections of which is known what was drawn
_LIVE_TIME: Final = len("9999.999999")


@dataclass
class _Drawn:
    conversation: Conversation
    number: int
    sheet: _Sheet
    follows: Follower
    at_ns: int
    unremarkable: int = 0
    run: Run = field(default_factory=Run)


class Live:
    """Draws segments as they come, of several connections by turns."""

    def __init__(self, width: int = MIN_WIDTH, *, every: bool = False, paths: bool = False) -> None:
        self._width = _within(width)
        self._every = every
        self._paths = paths
        self._drawn: dict[int, _Drawn] = {}
        self._runs: dict[int, _Drawn] = {}  # those of which segments were not drawn yet
        self._last: _Drawn | None = None
        self._count = 0

    def add(self, conversation: Conversation, segment: Segment) -> list[Line]:
        """What is to be written now: a heading if the connection is new, runs that have lasted, the segment."""
        key = id(conversation)
        drawn = self._drawn.get(key)
        found = [line for one in self._lasting(segment.at_ns) for line in self._end_run(one)]
        if drawn is None:
            found += self._forget()
            drawn = self._drawn[key] = self._begin(conversation, segment)
            self._last = drawn
            found += [Line("", HEADING)] * (self._count > 1)
            found += drawn.sheet.heading(conversation, f"connection {drawn.number}")
        return found + self._segment(drawn, segment)

    def flush(self) -> list[Line]:
        """What is not written yet of segments that came."""
        return [line for one in list(self._runs.values()) for line in self._end_run(one)]

    def _begin(self, conversation: Conversation, segment: Segment) -> _Drawn:
        self._count += 1
        clock = Clock(segment.at_ns, "s", 1_000_000_000, 6)
        sheet = _Sheet(self._width, clock, _LIVE_TIME, STATE_WIDTH, STATE_WIDTH, self._paths)
        return _Drawn(conversation, self._count, sheet, Follower(conversation.begun), segment.at_ns)

    def _forget(self) -> list[Line]:
        """The oldest connection, if there are too many."""
        if len(self._drawn) < MAX_DRAWN:
            return []
        oldest = self._drawn.pop(next(iter(self._drawn)))
        return self._end_run(oldest)

    def _segment(self, drawn: _Drawn, segment: Segment) -> list[Line]:
        rung, unremarkable = drawn.follows.take(segment)
        gap, drawn.at_ns = segment.at_ns - drawn.at_ns, segment.at_ns
        if gap > LIVE_GAP_NS or not unremarkable:
            drawn.unremarkable = 0
        drawn.unremarkable += unremarkable
        if drawn.unremarkable > RUN and not self._every:
            drawn.run.add(segment)
            self._runs[id(drawn.conversation)] = drawn
            return []
        found = [*self._end_run(drawn), *self._turn(drawn)]
        if gap > LIVE_GAP_NS:
            found += drawn.sheet.row(Gap(gap))
        return found + list(drawn.sheet.rung(rung))

    def _lasting(self, now_ns: int) -> list[_Drawn]:
        return [one for one in self._runs.values() if now_ns - one.run.begin_ns >= LIVE_RUN_NS]

    def _end_run(self, drawn: _Drawn) -> list[Line]:
        if self._runs.pop(id(drawn.conversation), None) is None:
            return []
        run, drawn.run = drawn.run, Run()
        return [*self._turn(drawn), *drawn.sheet.run(run)]

    def _turn(self, drawn: _Drawn) -> list[Line]:
        """A line that says whose rows follow, if another connection's came before."""
        if self._last is drawn:
            return []
        self._last = drawn
        client, server = drawn.conversation.ends
        words = [f"connection {drawn.number}:", client, ">", server]
        return [Line(one, HEADING) for one in folded(words, self._width, self._width)]


# -- as JSON -------------------------------------------------------------------------------------------------


def plain(conversation: Conversation) -> dict[str, Any]:
    """What json.dumps takes."""
    client, server = conversation.ends
    ours = None if conversation.ours is None else "server" if conversation.server_is_ours else "client"
    return {
        "client": client,
        "server": server,
        "stack": ours,
        "whole": conversation.whole,
        "begun": list(conversation.begun),
        "segments": [_plain(segment) for segment in conversation.segments],
    }


def _plain(segment: Segment) -> dict[str, Any]:
    found = asdict(segment)
    return found | {"flags": segment.flag_names.split(), "end": segment.end}
