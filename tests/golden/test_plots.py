# SPDX-License-Identifier: GPL-2.0-or-later
"""Three transfers in virtual time as plots: their series, number for number, and the pictures in docs/plots.md.

``python -m tests.golden.test_plots`` writes both anew.  Versions of matplotlib draw the same a little differently, so
of a picture its panels and words are compared.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.transfer import Scenario
from stack.inspect.conversation import conversations
from tests.helpers import plotscenes
from vnic import plots
from vnic.series import PANELS, Series, series_of

HERE = Path(__file__).parent
GOLDEN = HERE / "plots"
PICTURES = HERE.parents[1] / "docs" / "pictures"
SMALL_BUFFER = (("tcp_rmem", (4096, 65536, 65536)),)

SCENES: dict[str, dict[str, Any]] = {
    "overflow": {"scenario": Scenario(512 << 10, rate_mbit=5, rtt_ms=40), "comments": True},
    "stall": {"scenario": Scenario(200_000, rate_mbit=10, rtt_ms=40, sysctl=SMALL_BUFFER), "stall_ms": 1500},
    "receiver": {
        "scenario": Scenario(60_000, "reno", rate_mbit=10, rtt_ms=40),
        "lost": (20,),
        "at_receiver": True,
    },
}
WORDS = {
    "overflow": (
        "congestion window",
        "slow-start threshold",
        "SACK block",
        "duplicate ACK",
        "smoothed (srtt)",
    ),
    "stall": ("zero window", "probe, keep-alive", "record with `vnic capture start FILE --comments`"),
    "receiver": ("the sender is not vnic's end", "retransmission, or late"),
}


@cache
def series_at(scene: str) -> Series:
    found = conversations(plotscenes.transfer(**SCENES[scene]))
    assert len(found) == 1
    return series_of(found[0])


def document(scene: str) -> str:
    """JSON with a list of numbers a line."""
    return _lines(series_at(scene).plain(), "") + "\n"


def _lines(value: Any, indent: str) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    deeper = indent + " "
    inner = (f"{deeper}{json.dumps(name)}: {_lines(one, deeper)}" for name, one in value.items())
    return "{\n" + ",\n".join(inner) + "\n" + indent + "}"


def words(drawn: str) -> set[str]:
    """The texts that are no numbers."""
    found = ("".join(element.itertext()).strip() for element in ET.fromstring(drawn).iter() if element.text)
    return {text for text in found if any(letter.isalpha() for letter in text)}


@pytest.mark.parametrize("scene", SCENES)
def test_series_are_the_golden_ones(scene: str) -> None:
    assert document(scene) == (GOLDEN / f"{scene}.json").read_text(), "run python -m tests.golden.test_plots"


@pytest.mark.parametrize("scene", SCENES)
def test_picture_has_every_panel_and_says_what_it_shows(scene: str) -> None:
    drawn = plots.svg(series_at(scene))
    assert all(f'id="plot-panel-{panel}"' in drawn for panel in PANELS)
    said = words(drawn)
    assert all(any(word in text for text in said) for word in WORDS[scene])
    assert words((PICTURES / f"plot-{scene}.svg").read_text()) == said, (
        "run python -m tests.golden.test_plots"
    )


@pytest.mark.parametrize("scene", SCENES)
def test_docs_show_the_picture(scene: str) -> None:
    assert f"(pictures/plot-{scene}.svg)" in (PICTURES.parent / "plots.md").read_text()


def test_overflow_is_seen_in_every_panel() -> None:
    """The queue of one bandwidth-delay product overflows at the end of slow start."""
    found = series_at("overflow")
    assert found.sequence is not None
    assert found.cwnd is not None
    assert found.rtt is not None
    assert found.throughput is not None
    assert len(found.sequence.retransmitted.t) == found.totals.retransmissions > 10
    cut = next(y for y in found.cwnd.ssthresh.y if y is not None)
    assert max(y for y in found.cwnd.cwnd.y if y is not None) >= cut
    delays = [y for y in found.rtt.samples.y if y is not None]
    assert 0.040 <= min(delays) < 0.042
    assert 0.078 < max(delays) <= 0.082  # the queue is as long as the path
    assert max(found.throughput.goodput) < 5_000_000


def test_stall_is_from_the_full_buffer_to_the_first_read() -> None:
    found = series_at("stall")
    assert found.sequence is not None
    ((begin, end),) = found.sequence.zero_windows
    assert begin < 1.0 < 1.5 < end < 1.7
    assert all(begin < t < end for t in found.sequence.probes.t)


if __name__ == "__main__":
    for directory in (GOLDEN, PICTURES):
        directory.mkdir(exist_ok=True)
    for name in SCENES:
        (GOLDEN / f"{name}.json").write_text(document(name))
        (PICTURES / f"plot-{name}.svg").write_text(plots.svg(series_at(name)))
