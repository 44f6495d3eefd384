# SPDX-License-Identifier: GPL-2.0-or-later
"""Draws the panels of a plot with matplotlib; ``vnic.plots`` loads this when a picture is wanted.

Each series can be told from the others of its panel without its colour, by marker, width or dashes; the colours are
those of Okabe and Ito, which colour-blind people can tell apart.  Legends stand to the right of the panels, where no
data are.  What nobody could see is left out: points of a line within one column of the picture, bars that touch in one
column, dots on the same place.  A series of which more than RASTER dots or bars are left is a bitmap within an SVG.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MultipleLocator

from vnic.series import Bars, Points, RoundTrips, Series, Throughput, Window, rounded_up
from vnic.series import Sequence as SequenceNumbers

BLACK, GREY = "#000000", "#999999"
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)

COLUMNS: Final = 1000  # of time, that a picture can show
ROWS: Final = 400  # of a panel, that dots can be told apart on
RASTER: Final = 4000  # markers or bars of a series beyond which they are a bitmap in an SVG
_FEW: Final = 150  # of a series of which each one gets its own place and size
_PATCH_BARS: Final = 1000  # bars in one path: the renderer has a limit
_WIDTH, _LEFT, _RIGHT = 11.0, 0.85, 2.55  # inches
_HEIGHTS: Final = {"sequence": 3.7, "cwnd": 2.0, "rtt": 1.7, "throughput": 1.7}
_TOP, _GAP, _BOTTOM = 0.95, 0.5, 0.6
_TITLE_LETTERS: Final = 70

_SETTINGS: Final[dict[str, Any]] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextlib.contextmanager
def settings(salt: str) -> Iterator[None]:
    """matplotlib's settings for our figures, whatever the user's are; they are as before afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS | {"svg.hashsalt": salt})
        yield


# -- units ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """``name`` is ``size`` of the series' own."""

    size: float
    name: str

    def text(self, value: float) -> str:
        """ "1.25 MB"."""
        return f"{value / self.size:.3g} {self.name}"


_BYTES: Final = (Unit(1e9, "GB"), Unit(1e6, "MB"), Unit(1e3, "kB"), Unit(1, "B"))
_RATES: Final = (Unit(1e9, "Gbit/s"), Unit(1e6, "Mbit/s"), Unit(1e3, "kbit/s"), Unit(1, "bit/s"))
_SECONDS: Final = (Unit(1, "s"), Unit(1e-3, "ms"), Unit(1e-6, "µs"))


def unit_for(units: Sequence[Unit], largest: float) -> Unit:
    """The one in which the largest value is 1 or more."""
    return next((unit for unit in units if largest >= unit.size), units[-1])


def _scale_y(axes: Axes, units: Sequence[Unit], low: float, high: float, what: str) -> None:
    """Limits with some room, ticks in one unit, which stands in the label."""
    high = high if high > low else low + units[-1].size
    unit = unit_for(units, high)
    room = (high - low) * 0.07
    axes.set_ylim(low - (room if low else 0), high + room)
    _ticks(axes.yaxis, unit, (high - low) / 5)
    axes.set_ylabel(f"{what} ({unit.name})")


def _ticks(axis: Any, unit: Unit, distance: float) -> None:
    """Round numbers of the unit, about so far from each other."""
    axis.set_major_locator(MultipleLocator(rounded_up(distance / unit.size) * unit.size))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit.size:.6g}"))


# -- thinning ------------------------------------------------------------------------------------------------------


def thinned(points: Points, columns: int = COLUMNS) -> Points:
    """First, lowest, highest and last value of each column in time: what a line through all of them would look like.
    Gaps stay."""
    if len(points.t) <= 4 * columns:
        return points
    begin = points.t[0]
    width = (points.t[-1] - begin) / columns or 1.0
    found, column = Points(), [0]
    for i, t in enumerate(points.t[1:], 1):
        if int((t - begin) / width) != int((points.t[column[0]] - begin) / width):
            _keep(found, points, column)
            column = []
        column.append(i)
    _keep(found, points, column)
    return found


def _keep(found: Points, points: Points, column: list[int]) -> None:
    values = [(y, i) for i in column if (y := points.y[i]) is not None]
    gaps = [i for i in column if points.y[i] is None][:1]
    extremes = [min(values)[1], max(values)[1]] if values else []
    for i in sorted({column[0], column[-1], *extremes, *gaps}):
        found.add(points.t[i], points.y[i])


def merged(bars: Bars, columns: int = COLUMNS) -> Bars:
    """Neighbours that touch within a column in time as one bar."""
    if len(bars.t) <= columns:
        return bars
    width = (bars.t[-1] - bars.t[0]) / columns
    found = Bars()
    for t, low, high in zip(bars.t, bars.low, bars.high, strict=True):
        if found.t and t - found.t[-1] < width and low <= found.high[-1] and high >= found.low[-1]:
            found.low[-1], found.high[-1] = min(low, found.low[-1]), max(high, found.high[-1])
        else:
            found.add(t, low, high)
    return found


def distinct(points: Points, columns: int = COLUMNS, rows: int = ROWS) -> Points:
    """One dot of those that lie on the same place."""
    if not points.t:
        return points
    values = [y or 0.0 for y in points.y]
    width = (points.t[-1] - points.t[0]) / columns or 1.0
    height = (max(values) - min(values)) / rows or 1.0
    found, places = Points(), set()
    for t, y in zip(points.t, values, strict=True):
        place = int(t / width), int(y / height)
        if place not in places:
            places.add(place)
            found.add(t, y)
    return found


# -- what is drawn -------------------------------------------------------------------------------------------------


def _steps(axes: Axes, points: Points, **look: Any) -> Line2D:
    few = thinned(points)
    values = [float("nan") if y is None else y for y in few.y]
    return axes.plot(few.t, values, drawstyle="steps-post", **look)[0]


def _dots(axes: Axes, points: Points, **look: Any) -> Line2D:
    few = distinct(points)
    if len(points.t) > _FEW:
        look["markersize"] *= max((_FEW / len(points.t)) ** 0.5, 0.5)
    return axes.plot(few.t, few.y, linestyle="none", rasterized=len(few.t) > RASTER, **look)[0]


def _bars(axes: Axes, bars: Bars, **look: Any) -> None:
    few = merged(bars)
    look["rasterized"] = len(few.t) > RASTER
    for at in range(0, len(few.t), _PATCH_BARS):
        part = slice(at, at + _PATCH_BARS)
        ends = zip(few.t[part], few.low[part], few.high[part], strict=True)
        vertices = [vertex for t, low, high in ends for vertex in ((t, low), (t, high))]
        codes = [Path.MOVETO, Path.LINETO] * (len(vertices) // 2)
        axes.add_artist(PathPatch(Path(vertices, codes), fill=False, capstyle="butt", **look))
    if len(bars.t) <= _FEW:  # where one ends and the next begins
        ends_of = Points(bars.t * 2, [*bars.low, *bars.high])
        _dots(axes, ends_of, marker="_", markersize=4, color=look["color"], zorder=look["zorder"])


def _bar_key(label: str, **look: Any) -> Line2D:
    """How a series of bars looks in a legend."""
    width = look.pop("linewidth")
    look.pop("zorder")
    return Line2D(
        [], [], linestyle="none", marker="|", markersize=11, markeredgewidth=width, label=label, **look
    )


def _legend(axes: Axes, handles: Sequence[Any]) -> None:
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1.03), borderaxespad=0.3)


def _says(axes: Axes, text: str) -> None:
    """A panel without data says so."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#555555")


# -- panels --------------------------------------------------------------------------------------------------------

_SACK: Final[dict[str, Any]] = {"color": PURPLE, "linewidth": 3.0, "alpha": 0.5, "zorder": 2.0}
_DSACK: Final[dict[str, Any]] = {"color": BLACK, "linewidth": 3.0, "zorder": 2.1}
_ACK: Final[dict[str, Any]] = {"color": GREEN, "linewidth": 1.1, "zorder": 2.5}
_DATA: Final[dict[str, Any]] = {"color": BLUE, "linewidth": 1.8, "zorder": 2.6}
_AGAIN: Final[dict[str, Any]] = {"color": VERMILION, "linewidth": 2.0, "zorder": 2.7}


def _draw_sequence(axes: Axes, found: SequenceNumbers, series: Series) -> None:
    axes.set_title("Sequence numbers")
    keys: list[Any] = []
    low, high = _span(found)
    keys += _draw_window_edge(axes, found, high)
    for bars, look, label in (
        (found.sack, _SACK, "SACK block"),
        (found.dsack, _DSACK, "D-SACK: it came twice"),
        (found.data, _DATA, "data"),
        (found.retransmitted, _AGAIN, ""),
    ):
        _bars(axes, bars, **look)
        if bars.t and label:
            keys.append(_bar_key(label, **look))
    keys += _draw_replies(axes, found)
    keys += _draw_zero_windows(axes, found.zero_windows)
    _write_marks(axes, found, series.totals.seconds)
    _scale_y(axes, _BYTES, low, high, "sequence number")
    _legend(axes, keys)


def _span(found: SequenceNumbers) -> tuple[float, float]:
    """From the lowest number of the connection to the highest, without the window."""
    values = [
        *found.data.low,
        *found.data.high,
        *found.retransmitted.low,
        *(y for y in found.ack.y if y is not None),
    ]
    return min(values, default=0.0), max(values, default=1.0)


def _draw_window_edge(axes: Axes, found: SequenceNumbers, high: float) -> list[Line2D]:
    if not found.window.y:
        return []
    label = "edge of the receive window"
    if min(y for y in found.window.y if y is not None) > high:
        label += "\n(above the picture)"
    look = {"color": ORANGE, "linewidth": 1.3, "dashes": (6, 2)}
    return [_steps(axes, found.window, label=label, **look)]


def _draw_replies(axes: Axes, found: SequenceNumbers) -> list[Line2D]:
    """The ACK line, and whatever is a dot."""
    keys = [_steps(axes, found.ack, label="ACK", **_ACK)] if found.ack.y else []
    again = Points(found.retransmitted.t, [*found.retransmitted.high])
    for points, label, look in (
        (
            again,
            "retransmission, or late",
            {"marker": "v", "markersize": 4, "color": VERMILION, "zorder": 2.7},
        ),
        (
            found.duplicate_acks,
            "duplicate ACK",
            {"marker": "x", "markersize": 3.5, "markeredgewidth": 0.7, "color": BLACK, "zorder": 2.4},
        ),
        (
            found.probes,
            "probe, keep-alive",
            {"marker": "D", "markersize": 5, "color": BLACK, "fillstyle": "none"},
        ),
    ):
        if points.t:
            keys.append(_dots(axes, points, label=label, **look))
    return keys


def _draw_zero_windows(axes: Axes, spans: list[tuple[float, float]]) -> list[Patch]:
    look: dict[str, Any] = {"facecolor": "none", "edgecolor": GREY, "hatch": "///", "linewidth": 0.5}
    for begin, end in spans:
        axes.axvspan(begin, end, **look)
    return [Patch(label="zero window", **look)] if spans else []


def _write_marks(axes: Axes, found: SequenceNumbers, seconds: float) -> None:
    """SYN, FIN and RST; one that is repeated at once is written once."""
    last: dict[str, float] = {}
    for mark in found.marks:
        if mark.t - last.get(mark.text, -seconds) < seconds * 0.04 and mark.text in last:
            continue
        last[mark.text] = mark.t
        right = mark.t > seconds * 0.9
        axes.annotate(
            mark.text,
            (mark.t, mark.y),
            (-3 if right else 3, -10 if mark.text == "SYN" else 4),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
        axes.plot([mark.t], [mark.y], marker=".", color=BLACK, markersize=4)


def _draw_cwnd(axes: Axes, found: Window, series: Series) -> None:
    if found.missing:
        axes.set_title(f"Bytes in flight (the congestion window is {found.missing})", fontsize=8.5)
    else:
        axes.set_title("Congestion window and bytes in flight")
    keys: list[Any] = []
    if found.cwnd.y:
        keys.append(_steps(axes, found.cwnd, color=BLUE, linewidth=1.7, label="congestion window"))
    if any(y is not None for y in found.ssthresh.y):
        look = {"color": VERMILION, "linewidth": 1.4, "dashes": (5, 2)}
        keys.append(_steps(axes, found.ssthresh, label="slow-start threshold", **look))
    keys.append(_draw_flight(axes, found.flight))
    if series.sequence is not None:
        _draw_zero_windows(axes, series.sequence.zero_windows)
    values = [y for points in (found.flight, found.cwnd) for y in points.y if y is not None]
    thresholds = [y for y in found.ssthresh.y if y is not None and y <= 2 * max(values, default=0)]
    _scale_y(axes, _BYTES, 0, max([*values, *thresholds], default=1), "window")
    _legend(axes, keys)


def _draw_flight(axes: Axes, flight: Points) -> Patch:
    few = thinned(flight)
    look: dict[str, Any] = {"facecolor": SKY, "alpha": 0.45, "linewidth": 0}
    if len(few.t) > 1:
        axes.stairs(few.y[:-1], few.t, fill=True, **look)
    return Patch(label="bytes in flight\n(sent, no ACK yet)", **look)


def _draw_rtt(axes: Axes, found: RoundTrips, series: Series) -> None:
    axes.set_title("Round trip, as the place of the capture saw it")
    keys: list[Any] = []
    for points, label, look in (
        (
            found.echoes,
            "time stamp to echo",
            {"marker": "+", "markersize": 5, "color": ORANGE, "markeredgewidth": 0.7},
        ),
        (found.samples, "data to ACK", {"marker": "o", "markersize": 1.8, "color": BLUE}),
    ):
        if points.t:
            keys.append(_dots(axes, points, label=label, **look))
    if found.smoothed.y:
        keys.append(_steps(axes, found.smoothed, color=BLACK, linewidth=1.1, label="smoothed (srtt)"))
    values = [y for one in (found.samples, found.echoes, found.smoothed) for y in one.y if y is not None]
    _scale_y(axes, _SECONDS, 0, max(values, default=0) or 1e-6, "round trip")
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # a dot at 0 is seen whole
    if values:
        _legend(axes, keys)
    else:
        _says(axes, "no data with an ACK")


def _draw_throughput(axes: Axes, found: Throughput, series: Series) -> None:
    if not found.edges:
        axes.set_title("Goodput")
        _scale_y(axes, _RATES, 0, 1, "goodput")
        _says(axes, "no data was acknowledged")
        return
    axes.set_title(
        f"Goodput: bytes acknowledged or SACKed, in bins of {unit_for(_SECONDS, found.width_s).text(found.width_s)}"
    )
    bins = axes.stairs(
        found.goodput, found.edges, fill=True, facecolor=SKY, edgecolor=BLUE, alpha=0.6, label="goodput"
    )
    highest = max(*found.goodput, *found.mean, 1)
    mean = unit_for(_RATES, found.mean[-1]).text(found.mean[-1])
    look = {"color": BLACK, "linewidth": 1.5, "dashes": (5, 2)}
    line = axes.plot(found.edges[1:], found.mean, label=f"mean so far;\nat the end {mean}", **look)[0]
    _scale_y(axes, _RATES, 0, highest, "goodput")
    _legend(axes, [bins, line])


_DRAW: Final[dict[str, Callable[[Axes, Any, Series], None]]] = {
    "sequence": _draw_sequence,
    "cwnd": _draw_cwnd,
    "rtt": _draw_rtt,
    "throughput": _draw_throughput,
}


# -- the figure ----------------------------------------------------------------------------------------------------


def figure(series: Series) -> Figure:
    """All panels that the series have, one above the other over one time axis; within ``settings``."""
    shown = {name: found for name in _DRAW if (found := getattr(series, name)) is not None}
    height = _TOP + sum(_HEIGHTS[name] + _GAP for name in shown) - _GAP + _BOTTOM
    drawn = Figure(figsize=(_WIDTH, height))
    top, first, unit = height - _TOP, None, unit_for(_SECONDS, series.totals.seconds)
    for name, found in shown.items():
        box = (_LEFT, top - _HEIGHTS[name], _WIDTH - _LEFT - _RIGHT, _HEIGHTS[name])
        axes = drawn.add_axes(
            (box[0] / _WIDTH, box[1] / height, box[2] / _WIDTH, box[3] / height),
            sharex=first,
            gid=f"panel-{name}",
        )
        first = first or axes
        _DRAW[name](axes, found, series)
        axes.tick_params(labelbottom=name == list(shown)[-1])
        top -= _HEIGHTS[name] + _GAP
    if first is not None:
        _set_time(first, axes, unit, series.totals.seconds)
    _write_title(drawn, series, height)
    return drawn


def _set_time(first: Axes, last: Axes, unit: Unit, seconds: float) -> None:
    """The axis that all share, which the last one names."""
    room = (seconds or unit.size) * 0.01
    first.set_xlim(-room, (seconds or unit.size) + room)
    _ticks(first.xaxis, unit, (seconds or unit.size) / 12)
    last.set_xlabel(f"time since the connection's first segment ({unit.name})")


def _write_title(drawn: Figure, series: Series, height: float) -> None:
    """Who sends to whom, smaller where long addresses need it; and the totals."""
    left = _LEFT / _WIDTH
    ends = f"{series.sender} → {series.receiver}  ({series.direction})"
    size = 13 * min(_TITLE_LETTERS / len(ends), 1)
    drawn.text(left, 1 - 0.3 / height, ends, fontsize=size, weight="bold", va="center")
    drawn.text(left, 1 - 0.54 / height, _summary(series), va="center", color="#333333")


def _summary(series: Series) -> str:
    totals = series.totals
    nbytes = unit_for(_BYTES, totals.nbytes).text(totals.nbytes)
    seconds = unit_for(_SECONDS, totals.seconds).text(totals.seconds)
    told = f"{nbytes} of data in {totals.segments} segments, {totals.retransmissions} retransmitted or late; {seconds}"
    if series.throughput is not None and series.throughput.mean:
        mean = series.throughput.mean[-1]
        told += f"; goodput {unit_for(_RATES, mean).text(mean)}"
    return told
