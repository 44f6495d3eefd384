# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured is done: the driver of the measurement refills the rings, and the device takes all of it."""

from __future__ import annotations

import pytest

from bench import rings


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("name", rings.MEASURES)
def test_each_measure_goes_round_the_ring_several_times(name: str, packed: bool) -> None:
    assert rings.MEASURES[name](packed, 3000) > 0


def test_table_has_a_line_for_each_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert rings.main(["--count", "600", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rings.MEASURES)
