# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from bench.stats import MEASURES, Measure, advantage, medians, table

RATE = Measure("conn/s", "connections/s", True)
TIME = Measure("ping-pong", "us", False)


def test_ratio_is_formed_inside_the_round_when_the_machine_slows_down() -> None:
    rounds = [
        {("conn/s", "a"): 200.0, ("conn/s", "b"): 100.0},
        {("conn/s", "a"): 20.0, ("conn/s", "b"): 10.0},
        {("conn/s", "a"): 30.0, ("conn/s", "b"): 10.0},
    ]
    assert advantage(rounds, RATE, "a", "b") == (2.0, 2.0, 3.0)
    assert medians(rounds, "conn/s", ["a", "b"]) == {"a": 30.0, "b": 10.0}


def test_a_shorter_time_is_an_advantage_above_one() -> None:
    rounds = [{("ping-pong", "a"): 50.0, ("ping-pong", "b"): 100.0}]
    assert advantage(rounds, TIME, "a", "b")[1] == pytest.approx(2.0)


def test_table_has_a_row_for_each_measure_and_a_column_for_each_ratio() -> None:
    one = {(m.name, b): v for m in MEASURES for b, v in (("ours", 4.0), ("peer", 2.0))}
    rows = table([one], ["ours"], "peer").splitlines()
    assert len(rows) == 2 + len(MEASURES)
    assert "**2.00x** (2.00-2.00)" in rows[2]
    assert "**0.50x** (0.50-0.50)" in next(r for r in rows if "ping-pong" in r)
