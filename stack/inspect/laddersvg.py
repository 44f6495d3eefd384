# SPDX-License-Identifier: GPL-2.0-or-later
"""Ladder diagrams as SVG, with nothing to load: the font is whatever monospace one there is.

Each lifeline is a bar whose parts are the states of that end, with their names beside it.  An arrow slants down, as
time does; its words stand above the higher of its ends, so that no line crosses them.  Widths come from the number of
characters, at a width that no common monospace font exceeds.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; what they say is also said by the pattern of
a line, by its head and in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from math import hypot
from typing import Final

from stack.inspect.conversation import Conversation
from stack.inspect.ladderrows import (
    AGAIN,
    DUPLICATE,
    PLAIN,
    RESET,
    WINDOW,
    Clock,
    Gap,
    Row,
    Run,
    Rung,
    clean,
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

_SIZE: Final = 12  # of the font
_CHAR: Final = 0.61 * _SIZE  # DejaVu Sans Mono has 0.602, Courier 0.6, Consolas 0.55
_LINE: Final = 15.0
_MARGIN: Final = 14.0
_BAR: Final = 10.0
_SLANT: Final = 10.0
_SPACE: Final = 11.0  # below an arrow; with a line of words more than the box of a state needs
_GAP: Final = 34.0
_WORDS: Final = 60  # characters in a line at an arrow
_NEAREST: Final = 400.0  # between the lifelines
_REACH: Final = 0.8  # of the way, that a dropped packet is drawn

_BLACK, _GREY, _ORANGE, _SKY, _GREEN = "#000000", "#595959", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _VERMILION, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

_FILLS: Final = {
    "CLOSE": "#FFFFFF",
    "LISTEN": "#FFFFFF",
    "SYN_SENT": _YELLOW,
    "SYN_RECV": _YELLOW,
    "NEW_SYN_RECV": _YELLOW,
    "ESTABLISHED": _GREEN,
    "TIME_WAIT": _ORANGE,
}
_CLOSING_FILL: Final = _SKY  # every other state


@dataclass(frozen=True)
class _Stroke:
    """How a kind of segment is drawn.  ``head`` is "full", "hollow" or "double"."""

    words: str  # in the legend
    colour: str = _BLACK
    dashes: str = ""
    head: str = "full"
    width: float = 1.4


_MANY, _DROP = "many", "drop"
_STROKES: Final = {
    PLAIN: _Stroke("segment"),
    AGAIN: _Stroke("retransmission", _VERMILION, "8 4"),
    DUPLICATE: _Stroke("duplicate ACK, D-SACK", _PURPLE, "3 3", "hollow", 1.8),
    WINDOW: _Stroke("keepalive, or about a closed window", _BLUE, "9 3 2 3", "hollow"),
    RESET: _Stroke("reset", _BLACK, "", "double", 2.6),
    _MANY: _Stroke("many segments", _BLUE),
    _DROP: _Stroke("dropped by the stack", _VERMILION),
}


def svg(
    conversation: Conversation, *, every: bool = False, paths: bool = False, number: int = 0, title: str = ""
) -> str:
    """A conversation as one SVG document; the options are those of ``ladder.text``.  ``title`` is for readers
    that cannot see it, the ends unless given."""
    return _document([_Picture(conversation, every, paths, number)], title)


def stacked(
    conversations: Sequence[tuple[int, Conversation]], *, every: bool = False, paths: bool = False
) -> str:
    """Several with their numbers, one below the other."""
    return _document([_Picture(one, every, paths, number) for number, one in conversations])


def _document(pictures: Sequence[_Picture], title: str = "") -> str:
    width = max((one.width for one in pictures), default=0.0)
    height = sum(one.height for one in pictures)
    named = title or "; ".join(" to ".join(one.conversation.ends) for one in pictures)
    size = f'width="{_n(width)}" height="{_n(height)}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_n(width)} {_n(height)}" role="img">',
        f"<title>{_escaped(named)}</title>",
        f'<rect {size} fill="#FFFFFF"/>',
        f'<g font-family="DejaVu Sans Mono, Consolas, Menlo, monospace" font-size="{_SIZE}">',
    ]
    top = 0.0
    for one in pictures:
        lines += [f'<g transform="translate(0 {_n(top)})">', *one.elements, "</g>"]
        top += one.height
    return "\n".join([*lines, "</g>", "</svg>"]) + "\n"


# -- elements ------------------------------------------------------------------------------------------------


def _n(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def _escaped(text: str) -> str:
    """XML has no way to write most control characters; ``clean`` leaves none of them."""
    return escape(clean(text), quote=True)


def _text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{more}>{_escaped(words)}</text>'


def _line(begin: tuple[float, float], end: tuple[float, float], stroke: _Stroke) -> str:
    dashes = f' stroke-dasharray="{stroke.dashes}"' if stroke.dashes else ""
    ends = f'x1="{_n(begin[0])}" y1="{_n(begin[1])}" x2="{_n(end[0])}" y2="{_n(end[1])}"'
    return f'<line {ends} stroke="{stroke.colour}" stroke-width="{_n(stroke.width)}"{dashes}/>'


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
    return f'<rect {place} fill="{fill}" stroke="{_BLACK}" stroke-width="0.8"/>'


def _cross(x: float, y: float) -> Iterator[str]:
    stroke = _Stroke("", _VERMILION, width=2.4)
    yield _line((x - 6, y - 6), (x + 6, y + 6), stroke)
    yield _line((x - 6, y + 6), (x + 6, y - 6), stroke)


_HEAD: Final = 11.0  # length
_HALF: Final = 4.5  # and half the width


def _arrow(begin: tuple[float, float], end: tuple[float, float], stroke: _Stroke) -> Iterator[str]:
    """A line that ends where its head begins, so that a hollow one is seen to be."""
    length = hypot(end[0] - begin[0], end[1] - begin[1])
    ux, uy = (end[0] - begin[0]) / length, (end[1] - begin[1]) / length
    heads = 2 if stroke.head == "double" else 1
    tail = (end[0] - ux * _HEAD * heads, end[1] - uy * _HEAD * heads)
    yield _line(begin, tail, stroke)
    for n in range(heads):
        tip = (end[0] - ux * _HEAD * n, end[1] - uy * _HEAD * n)
        back = (tip[0] - ux * _HEAD, tip[1] - uy * _HEAD)
        corners = (
            tip,
            (back[0] - uy * _HALF, back[1] + ux * _HALF),
            (back[0] + uy * _HALF, back[1] - ux * _HALF),
        )
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in corners)
        fill = "#FFFFFF" if stroke.head == "hollow" else stroke.colour
        yield f'<polygon points="{points}" fill="{fill}" stroke="{stroke.colour}"/>'


def _double(begin: tuple[float, float], end: tuple[float, float], stroke: _Stroke) -> Iterator[str]:
    """Two lines with one head, for many segments."""
    short = end[0] + (_HEAD if end[0] < begin[0] else -_HEAD)
    for off in (-2.0, 2.0):
        yield _line((begin[0], begin[1] + off), (short, end[1] + off), stroke)
    yield from list(_arrow((short, end[1]), end, stroke))[1:]


# -- one conversation ----------------------------------------------------------------------------------------


@dataclass
class _Bar:
    """A lifeline: where which state begins."""

    x: float
    outwards: int  # -1 for the left one: the names of states stand left of it
    states: list[tuple[float, str]] = field(default_factory=list)

    def become(self, y: float, state: str) -> None:
        if state:
            self.states.append((y, state))

    def elements(self, bottom: float) -> Iterator[str]:
        ends = [y for y, _ in self.states[1:]] + [bottom]
        for (top, state), end in zip(self.states, ends, strict=True):
            yield _rect(self.x - _BAR / 2, top, _BAR, end - top, _FILLS.get(state, _CLOSING_FILL))
        for top, state in self.states:
            yield from self._name(top, state)

    def _name(self, y: float, state: str) -> Iterator[str]:
        """A box that touches the bar where the state begins."""
        width = len(state) * _CHAR + 10
        edge = self.x + self.outwards * (_BAR / 2 + 4)
        yield _line((self.x + self.outwards * _BAR / 2, y), (edge, y), _Stroke("", width=0.8))
        yield _rect(
            edge if self.outwards > 0 else edge - width, y - 8, width, 16, _FILLS.get(state, _CLOSING_FILL)
        )
        colour = ' fill="#FFFFFF"' if state == "ESTABLISHED" else ""
        yield _text(edge + self.outwards * width / 2, y + 4, state, "middle", colour)


class _Picture:
    """The elements of a conversation, and the size they need."""

    def __init__(self, conversation: Conversation, every: bool, paths: bool, number: int) -> None:
        self.conversation = conversation
        self.elements: list[str] = []
        self._paths = paths
        self._clock = Clock.of(conversation)
        self._rows = rows(conversation, every)
        self._seen: dict[str, None] = {}  # kinds, for the legend
        title = f"connection {number}: {summary(conversation)}" if number else summary(conversation)
        titles = [title]
        if not conversation.whole:
            titles.append("its beginning is not there: who is the client is guessed")
        self._lay_out(titles)
        top = self._heading(titles)
        bottom = self._ladder(top)
        self.height = self._legend(bottom + 2 * _LINE) + _MARGIN

    # where the columns are

    def _lay_out(self, titles: Sequence[str]) -> None:
        """From left to right: times, names of states, lifeline, arrows, lifeline, names of states."""
        states = [self.conversation.begun, *(one.states for one in self.conversation.segments)]
        left, right = (max(len(pair[side]) for pair in states) * _CHAR + 18 for side in (0, 1))
        heads = zip(self.conversation.ends, roles(self.conversation), strict=True)
        half_left, half_right = (max(map(len, pair)) * _CHAR / 2 for pair in heads)
        self._time = _MARGIN + self._clock.width(self.conversation) * _CHAR
        x_left = max(self._time + 14 + left + _BAR / 2, _MARGIN + half_left)
        words = max((len(line) for row in self._rows for line in self._words(row)), default=0)
        between = max(_NEAREST, words * _CHAR + 60, half_left + half_right + 20)
        x_right = x_left + between
        self._left, self._right = _Bar(x_left, -1), _Bar(x_right, 1)
        inner = max(x_right + _BAR / 2 + right, x_right + half_right)
        self.width = max(inner, *(_MARGIN + len(one) * _CHAR for one in titles)) + _MARGIN

    def _words(self, row: Row) -> list[str]:
        """All lines above the arrows of a row."""
        if isinstance(row, Rung):
            return self._rung_words(row)
        if isinstance(row, Run):
            return [line for words in self._run_words(row) for line in words]
        return [span_text(row.ns)]

    def _rung_words(self, rung: Rung) -> list[str]:
        segment = rung.segment
        lines = worded(segment, _WORDS, _WORDS)
        return [*lines, cut(path(segment), _WORDS)] if self._paths and path(segment) else lines

    def _run_words(self, run: Run) -> Iterator[list[str]]:
        for way in run.ways.values():
            yield folded(way.parts(run.end_ns - run.begin_ns), _WORDS, _WORDS)

    # drawing

    def _draw(self, elements: Iterable[str]) -> None:
        self.elements += elements

    def _heading(self, titles: Sequence[str]) -> float:
        y = _MARGIN + _SIZE
        for one in titles:
            self._draw([_text(_MARGIN, y, one, more=f' fill="{_GREY}"')])
            y += _LINE
        y += _LINE / 2
        for names, more in (
            (self.conversation.ends, ' font-weight="bold"'),
            (roles(self.conversation), ""),
        ):
            for bar, name in zip((self._left, self._right), names, strict=True):
                self._draw([_text(bar.x, y, name, "middle", more)])
            y += _LINE
        return y

    def _ladder(self, top: float) -> float:
        """Arrows, and the bars on which they end; the y of the bars' end."""
        self._draw([_text(self._time, top + 4, self._clock.unit, "end", f' fill="{_GREY}"')])
        self._left.become(top, self.conversation.begun[0])
        self._right.become(top, self.conversation.begun[1])
        arrows, self.elements = self.elements, []
        y, breaks = top + _SPACE, []
        for row in self._rows:
            if isinstance(row, Gap):
                breaks.append((y + _GAP / 2 - _SPACE / 2, row.ns))
                y += _GAP - _SPACE / 2
            else:
                y = self._rung(y, row) if isinstance(row, Rung) else self._run(y, row)
        rungs, self.elements = self.elements, arrows
        for bar in (self._left, self._right):
            self._draw(bar.elements(y))
        self._draw(rungs)
        for at, ns in breaks:
            self._break(at, ns)
        return y

    def _ends(self, y: float, to_the_right: bool) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where an arrow that is sent at ``y`` begins and ends: at the bars' edges."""
        left, right = self._left.x + _BAR / 2, self._right.x - _BAR / 2
        return ((left, y), (right, y + _SLANT)) if to_the_right else ((right, y), (left, y + _SLANT))

    def _above(self, y: float, lines: Sequence[str]) -> float:
        """Words in the middle; the y below them."""
        middle = (self._left.x + self._right.x) / 2
        for one in lines:
            y += _LINE
            self._draw([_text(middle, y - 3, one, "middle")])
        return y + 2

    def _at(self, y: float, at_ns: int) -> None:
        self._draw([_text(self._time, y + 4, self._clock.text(at_ns), "end")])

    def _rung(self, y: float, rung: Rung) -> float:
        segment = rung.segment
        y = self._above(y, self._rung_words(rung))
        self._at(y, segment.at_ns)
        begin, end = self._ends(y, segment.from_client)
        for bar, state, sends in zip(
            (self._left, self._right),
            rung.states,
            (segment.from_client, not segment.from_client),
            strict=True,
        ):
            bar.become(y if sends else y + _SLANT, state)
        stroke = self._stroke(kind_of(segment))
        if segment.said.dropped:
            self._stroke(_DROP)
            end = (begin[0] + (end[0] - begin[0]) * _REACH, y + _SLANT * _REACH)
            self._draw([_line(begin, end, stroke), *_cross(*end)])
        else:
            self._draw(_arrow(begin, end, stroke))
        return y + _SLANT + _SPACE

    def _run(self, y: float, run: Run) -> float:
        time = True
        for (from_client, _), words in zip(run.ways.items(), self._run_words(run), strict=True):
            y = self._above(y, words) + 2
            if time:
                self._at(y, run.begin_ns)
            time = False
            begin, end = self._ends(y, from_client)
            self._draw(_double(begin, (end[0], y), self._stroke(_MANY)))
            y += _SPACE
        return y

    def _break(self, y: float, ns: int) -> None:
        """Time that is longer than it is drawn: both bars are interrupted."""
        for bar in (self._left, self._right):
            corners = ((-1, 3), (1, -3), (1, 3), (-1, 9))
            points = " ".join(f"{_n(bar.x + side * 9)},{_n(y + off - 3)}" for side, off in corners)
            self._draw([f'<polygon points="{points}" fill="#FFFFFF"/>'])
            for off in (0.0, 6.0):
                self._draw([_line((bar.x - 9, y + off), (bar.x + 9, y + off - 6), _Stroke("", width=0.8))])
        middle = (self._left.x + self._right.x) / 2
        self._draw([_text(middle, y + 4, span_text(ns), "middle", f' font-style="italic" fill="{_GREY}"')])

    def _stroke(self, kind: str) -> _Stroke:
        self._seen.setdefault(kind)
        return _STROKES[kind]

    def _legend(self, y: float) -> float:
        """What occurs and is not plain; the y below it."""
        for kind in (one for one in _STROKES if one in self._seen and one != PLAIN):
            begin, end = (self._left.x, y), (self._left.x + 60, y)
            stroke = _STROKES[kind]
            self._draw(_LEGENDS.get(kind, _arrow)(begin, end, stroke))
            self._draw([_text(end[0] + 12, y + 4, stroke.words)])
            y += _LINE + 3
        return y


def _dropped(begin: tuple[float, float], end: tuple[float, float], _stroke: _Stroke) -> Iterator[str]:
    short = (end[0] - 12, end[1])
    yield _line(begin, short, _STROKES[PLAIN])
    yield from _cross(*short)


_LEGENDS: Final[dict[str, Callable[..., Iterator[str]]]] = {_MANY: _double, _DROP: _dropped}
