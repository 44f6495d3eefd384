# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import backends


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
