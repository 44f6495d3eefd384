# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

import images
from images import host
from images.__main__ import main
from images.errors import HostToolMissing


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_path_not_built_exits_3_and_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path"]) == 3
    assert "vnic image build debian12" in capsys.readouterr().err


def test_build_unknown_recipe_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "nosuch"]) == 2
    assert "'nosuch'" in capsys.readouterr().err


def test_list_empty_cache_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[name, "not", "built"] for name in images.names()]


def test_find_and_prune_empty_cache_do_no_harm() -> None:
    assert images.find() is None
    assert images.prune() == []


def test_run_missing_program_names_its_package() -> None:
    with pytest.raises(HostToolMissing) as caught:
        host.run(["vnic-no-such-program"])
    assert "vnic-no-such-program is not installed" in caught.value.fact
    assert "PATH=" in caught.value.evidence


def test_run_gives_code_output_and_complaint() -> None:
    result = host.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.code, result.text, result.err) == (3, "out\n", "err\n")
