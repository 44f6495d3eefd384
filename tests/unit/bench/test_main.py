# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.__main__ import RINGS, backends, main
from guest.vm.args import VhostUser


def test_before_is_the_other_checkouts_back_end(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "server.py").write_text("print('of the other checkout')\n")
    columns = backends(compiled=False, ceiling=False, before=tmp_path)
    assert [b.name for b in columns] == ["vhost-user", "before", "stream", "user"]
    env = columns[1].environment()
    ran = subprocess.run(
        [sys.executable, "-m", "bench.server"], env=env, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "of the other checkout\n"


def test_before_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no checkout of this project"):
        backends(compiled=False, ceiling=False, before=tmp_path)


def test_rings_are_compared_in_guests_that_differ_in_nothing_else(tmp_path: Path) -> None:
    split, packed, one, four = RINGS
    assert replace(packed, name="split", packed=False) == split
    assert replace(four, name="one pair", queues=1) == one
    cards = [backend.nic(tmp_path / "nic.sock") for backend in RINGS]
    assert [isinstance(card, VhostUser) and (card.packed, card.queues) for card in cards] == [
        (False, 1),
        (True, 1),
        (False, 1),
        (False, 4),
    ]


@pytest.mark.parametrize("other", ["--compiled", "--ceiling", "--before=x"])
def test_rings_and_peers_are_not_one_run(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rings", other])
    assert "--rings compares vnic with itself" in capsys.readouterr().err
