# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic plot`` as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import plotscenes
import pytest

from bench.transfer import Scenario
from vnic import cli, plots

PATH = Scenario(10_000, rate_mbit=10, rtt_ms=40)
SMALL = "10.0.0.1:34176"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


@pytest.fixture(scope="module")
def one(directory: Path) -> Path:
    """A connection that sends 10 kB up, with comments."""
    return plotscenes.write(directory / "one.pcapng", plotscenes.transfer(PATH, comments=True))


@pytest.fixture(scope="module")
def two(directory: Path) -> Path:
    """That one, and one that sends 20 kB."""
    larger = plotscenes.transfer(Scenario(20_000, rate_mbit=10, rtt_ms=40, seed=5))
    return plotscenes.write(directory / "two.pcapng", plotscenes.transfer(PATH), larger)


@pytest.fixture(scope="module")
def refused(directory: Path) -> Path:
    """A SYN and its SYN-ACK: no data."""
    return plotscenes.write(directory / "refused.pcapng", plotscenes.transfer(PATH)[:2])


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command line that is wrong says."""
    assert cli.main(["plot", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(part in said.err for part in ("error: ", "because: ", "to mend it: "))
    return said.err


def test_plot_is_written_beside_the_capture(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plot", str(one)]) == 0
    drawn = one.with_suffix(".svg")
    assert "congestion window" in drawn.read_text()
    said = capsys.readouterr()
    assert (said.out, said.err.rstrip().endswith(f"drawn: {drawn}")) == ("", True)


def test_plot_output_name_tells_the_format(one: Path, tmp_path: Path) -> None:
    assert cli.main(["plot", str(one), "-o", str(tmp_path / "a.PNG"), "--only", "rtt"]) == 0
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    assert (
        cli.main(["plot", str(one), "-o", str(tmp_path / "picture"), "--format", "svg", "--only", "rtt"]) == 0
    )
    assert (tmp_path / "picture").read_text().startswith("<?xml")


def test_plot_to_stdout(one: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["plot", str(one), "-o", "-", "-f", "png", "--only", "rtt"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"\x89PNG")


def test_plot_png_to_a_terminal_is_refused(
    one: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "terminal" in failed(capsys, one, "-o", "-", "--format", "png")


def test_plot_json_has_the_series_and_draws_nothing(
    one: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "svg", None)
    assert cli.main(["plot", str(one), "--json", "--only", "cwnd,rtt"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sender"], found["direction"], found["totals"]["nbytes"]) == (SMALL, "up", 10_000)
    assert found["cwnd"]["cwnd"]["y"][0] == 10 * 1448
    assert "sequence" not in found


def test_plot_json_goes_where_it_is_told(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plot", str(one), "--json", "-o", str(tmp_path / "one.json")]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "one.json").read_text())["sender"] == SMALL
    assert "contradict" in failed(capsys, one, "--json", "--format", "png")
    assert "is the capture" in failed(capsys, one, "--json", "-o", one)


def test_plot_of_several_takes_the_one_with_most_data_and_says_so(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plot", str(two), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["totals"]["nbytes"] == 20_000
    assert "connection 2, of 2 the one with the most data" in said.err
    assert "--connection N" in said.err


@pytest.mark.parametrize("choice", [["-n", "1"], ["--peer", SMALL], ["--port", SMALL.partition(":")[2]]])
def test_plot_of_the_connection_that_is_named(
    two: Path, choice: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plot", str(two), "--json", *choice]) == 0
    said = capsys.readouterr()
    assert (json.loads(said.out)["sender"], said.err) == (SMALL, "")


def test_plot_list_shows_the_connections(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plot", "--list", str(two)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert lines[0].endswith("10000 bytes up, 0 down")
    assert cli.main(["plot", "--list", str(two), "-n", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[1:]


def test_plot_of_a_connection_that_is_not_there_names_those_that_are(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failed(capsys, two, "--port", 99, "-n", 1)
    assert "has port 99 and number 1" in said
    assert f"1  {SMALL} > 10.0.0.2:5001" in said


def test_plot_of_a_capture_without_tcp(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no TCP connection is in" in failed(capsys, plotscenes.write(directory / "none.pcapng"))


def test_plot_of_a_connection_without_data(refused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "that connection has no data" in failed(capsys, refused)


def test_plot_of_the_direction_without_data(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failed(capsys, one, "--direction", "down")
    assert "sent 10000 bytes" in said
    assert "--direction up" in said


def test_plot_of_no_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no capture")
    assert "cannot be read as a capture" in failed(capsys, tmp_path / "text")


def test_plot_of_a_panel_that_there_is_not(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sequence, cwnd, rtt, throughput" in failed(capsys, one, "--only", "rtt,window")


@pytest.mark.parametrize("arguments", [["-o", "a.pdf"], ["-o", "a.svg", "-f", "png"]])
def test_plot_to_a_format_that_is_not_clear(
    one: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    failed(capsys, one, *arguments)


def test_plot_does_not_replace_the_capture(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = one.read_bytes()
    assert "is the capture" in failed(capsys, one, "-o", one, "-f", "svg")
    assert one.read_bytes() == before


def test_plot_that_cannot_be_written(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plot", str(one), "-o", str(one.parent / "nowhere" / "a.svg")]) == 3
    assert "could not write" in capsys.readouterr().err


@pytest.mark.slow
def test_command_line_loads_no_matplotlib() -> None:
    code = "import sys, vnic.cli, vnic.plots; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
