# SPDX-License-Identifier: GPL-2.0-or-later
"""The pictures: what is in them, and what they leave alone."""

from __future__ import annotations

import builtins
import re
import sys
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib as mpl
import plotscenes
import pytest

from bench.transfer import Scenario
from stack.inspect.conversation import Conversation, conversations
from vnic import panels, plots
from vnic.series import Bars, Points, series_of


@pytest.fixture(scope="module")
def lossy() -> Conversation:
    packets = plotscenes.transfer(Scenario(40_000, rate_mbit=10, rtt_ms=40), lost=(5,), comments=True)
    return conversations(packets)[0]


def texts(drawn: str) -> str:
    """Every word in an SVG."""
    return "\n".join("".join(element.itertext()) for element in ET.fromstring(drawn).iter() if element.text)


def test_svg_has_a_panel_each_and_its_text_as_text(lossy: Conversation) -> None:
    drawn = plots.svg_of(lossy)
    assert [name for name in panels._DRAW if f'"plot-panel-{name}"' in drawn] == list(panels._DRAW)
    for words in (
        "10.0.0.2:5001",
        "SACK block",
        "retransmission, or late",
        "congestion window",
        "Goodput",
        "(ms)",
    ):
        assert words in texts(drawn)


def test_svg_of_chosen_panels(lossy: Conversation) -> None:
    drawn = plots.svg_of(lossy, only=("rtt",))
    assert re.findall(r'id="plot-panel-(\w+)"', drawn) == ["rtt"]


def test_svg_of_the_direction_without_data_says_so(lossy: Conversation) -> None:
    said = texts(plots.svg_of(lossy, "down"))
    assert "no data was acknowledged" in said
    assert "the sender is not vnic's end" in said


def test_svg_is_the_same_each_time(lossy: Conversation) -> None:
    found = series_of(lossy, only=("sequence",))
    assert plots.svg(found) == plots.svg(found)


def test_svg_within_a_page_has_ids_and_style_of_its_own(lossy: Conversation) -> None:
    shown = ("sequence", "cwnd")
    one, other = (plots.svg_of(lossy, only=shown, prefix=prefix) for prefix in ("one", "other"))
    assert one.startswith("<svg ")
    ids = [re.findall(r'\bid="([^"]*)"', drawn) for drawn in (one, other)]
    assert not set(ids[0]) & set(ids[1])
    assert len(set(ids[0])) == len(ids[0])
    used = set(re.findall(r'href="#([^"]*)"', one)) | set(re.findall(r"url\(#([^)]*)\)", one))
    assert used <= set(ids[0])
    assert re.findall(r"<style[^>]*>([^{]*)", one) == ["#one *"]


def test_png_needs_no_pyplot(lossy: Conversation) -> None:
    assert plots.png(series_of(lossy, only=("rtt",))).startswith(b"\x89PNG\r\n")
    assert "matplotlib.pyplot" not in sys.modules


def test_settings_of_the_user_neither_matter_nor_change(
    lossy: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = series_of(lossy, only=("rtt",))
    before = plots.svg(found)
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    assert plots.svg(found) == before
    assert (mpl.rcParams["font.size"], mpl.rcParams["svg.fonttype"]) == (30, "path")


def test_without_matplotlib_the_remedy_is_said(lossy: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def refuse(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'")
        return load(name, *arguments, **more)

    monkeypatch.delitem(sys.modules, "vnic.panels")
    monkeypatch.delattr("vnic.panels")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(plots.PlotError) as caught:
        plots.svg(series_of(lossy))
    assert (caught.value.evidence, caught.value.exit_code) == ("No module named 'matplotlib'", 3)
    assert "make setup" in caught.value.remedy


# -- what nobody could see -----------------------------------------------------------------------------------------


def test_thinned_line_keeps_extremes_and_gaps_of_each_column() -> None:
    points = Points([i / 100 for i in range(1000)], [float(i % 7) for i in range(1000)])
    points.y[105], points.y[305] = 99.0, None
    few = panels.thinned(points, 10)
    assert len(few.t) <= 51
    assert 99.0 in few.y
    assert None in few.y
    assert (few.t[0], few.t[-1]) == (points.t[0], points.t[-1])
    assert few.t == sorted(few.t)


def test_thinned_line_of_few_points_is_as_it_was() -> None:
    points = Points([0.0, 1.0], [2.0, 3.0])
    assert panels.thinned(points, 1) is points


def test_merged_bars_touch() -> None:
    bars = Bars([0.0, 0.1, 0.2, 5.0, 9.0], [0, 10, 30, 30, 40], [10, 20, 40, 40, 50])
    few = panels.merged(bars, 4)
    assert (few.t, few.low, few.high) == ([0.0, 0.2, 5.0, 9.0], [0, 30, 30, 40], [20, 40, 40, 50])


def test_distinct_dots_lie_apart() -> None:
    dots = Points([0.0, 0.001, 0.5, 1.0], [5.0, 5.01, 5.0, 10.0])
    assert panels.distinct(dots, 10, 10).t == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1448, "1.45 kB"), (2_097_152, "2.1 MB"), (64e9, "64 GB")]
)
def test_bytes_have_si_units(value: float, text: str) -> None:
    assert panels.unit_for(panels._BYTES, value).text(value) == text


def test_svg_of_a_lone_syn_has_empty_panels(lossy: Conversation) -> None:
    alone = Conversation(lossy.client, lossy.server, lossy.segments[:1])
    said = texts(plots.svg_of(alone, "up"))
    assert "SYN" in said
    assert "no data with an ACK" in said
