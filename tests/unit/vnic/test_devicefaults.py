# SPDX-License-Identifier: GPL-2.0-or-later
"""Device faults from the command line to the ports, and what is refused on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from devmodel.netdev.loopback import Loopback
from guest.driver.loop import World
from vnic import cli
from vnic.cli.inject import lines
from vnic.devicefaults import Injector
from vnic.errors import UsageError
from vnic.options import Options

FRAME = bytes(60)


def test_port_without_faults_has_ordinary_rings() -> None:
    world = World()
    injector = Injector([world.port], 1)
    world.start()
    assert type(world.link.session.vrings[0].ring).__name__ == "SplitRing"
    assert injector.asdict() == {}
    assert lines(injector.asdict()) == ["no device faults"]
    world.close()


def test_faults_are_added_while_the_rings_run_and_told() -> None:
    world = World()
    injector = Injector([world.port, Loopback().a], 1)
    world.start()
    injector.add(["tx:late-used:at=2,ms=3", "rx:stuck:at=5"])
    world.send(FRAME, FRAME, FRAME)
    world.settle()
    told = lines(injector.asdict())
    assert told[:3] == [
        "in-process: 1 injected",
        "  tx:late-used:at=2,ms=3.0: 1 of 3 occasions",
        "  rx:stuck:at=5: 0 of 0 occasions",
    ]
    assert " ".join(told[3].split()) == "0.000000 s tx:late-used: queue 1, head 1: held back for 3 ms"
    injector.clear()
    assert injector.asdict()["in-process"]["rules"] == []
    world.close()


def test_script_is_taken_whole_or_not_at_all() -> None:
    world = World()
    injector = Injector([world.port], 1)
    with pytest.raises(UsageError, match="no device fault is called 'late'"):
        injector.add(["rx:stuck:at=1", "rx:late:at=1"])
    assert injector.faults == []
    world.close()


def test_ports_without_rings_take_none() -> None:
    with pytest.raises(UsageError, match="about rings"):
        Injector([Loopback().a], 1, ["rx:stuck:at=1"])


def test_options_refuse_what_cannot_be_before_anything_is_opened() -> None:
    with pytest.raises(UsageError, match="has to say when"):
        Options(vhost_user="any", device_faults=("rx:stuck",))
    with pytest.raises(UsageError, match="only vhost-user has any"):
        Options(stream="any", device_faults=("rx:stuck:at=1",))
    assert Options(vhost_user="any", device_faults=("rx:stuck:at=1",)).device_faults == ("rx:stuck:at=1",)


@pytest.mark.parametrize("verb", [["serve", "--vhost-user", "/nowhere/x"], ["vm"]])
def test_command_line_refuses_a_fault_that_is_none(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*verb, "--device-fault", "rx:late:at=1"]) == 2
    assert "there are late-used, reorder-used" in capsys.readouterr().err


def test_vm_refuses_faults_of_rings_that_are_qemus(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vm", "--net", "stream", "--device-fault", "rx:stuck:at=1", "--dry-run"]) == 2
    assert "QEMU has those" in capsys.readouterr().err


def test_vm_hands_its_faults_and_the_seed_on(capsys: pytest.CaptureFixture[str]) -> None:
    fault = "rx:stuck:at=1"
    assert cli.main(["vm", "--device-fault", fault, "--seed", "7", "--dry-run"]) == 0
    words = capsys.readouterr().out.replace("\\\n", "").split()
    at = words.index("--device-fault")
    assert words[at : at + 4] == ["--device-fault", fault, "--seed", "7"]


def test_list_shows_every_kind_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inject", "--list"]) == 0
    told = capsys.readouterr().out
    assert "duplicate-used  (each buffer)" in told
    assert max(map(len, told.splitlines())) <= 80
    assert cli.main(["inject", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stuck"]["occasion"] == "buffer"


def test_inject_asks_the_back_end_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = str(tmp_path / "control")
    argv = ["serve", "--vhost-user", str(tmp_path / "vu"), "--control", control]
    argv += ["--device-fault", "rx:stuck:at=7"]
    with subprocess.Popen(
        [sys.executable, "-m", "vnic", *argv], stdout=subprocess.PIPE, text=True
    ) as back_end:
        assert back_end.stdout is not None
        assert back_end.stdout.readline().startswith("ready:")
        assert cli.main(["inject", "tx:stuck:at=1", "--control", control]) == 0
        assert "rx:stuck:at=7: 0 of 0 occasions\n  tx:stuck:at=1: 0 of 0" in capsys.readouterr().out
        assert cli.main(["inject", "--clear", "--json", "--control", control]) == 0
        assert json.loads(capsys.readouterr().out)["vhost-user"]["rules"] == []
        assert cli.main(["inject", "rx:nonsense:at=1", "--control", control]) == 2
        assert "there are late-used" in capsys.readouterr().err
        back_end.terminate()


def test_table_of_faults_in_the_documentation_is_complete() -> None:
    from devmodel.virtio.faultscript import KINDS

    text = (Path(__file__).parents[3] / "docs/driver-faults.md").read_text("utf-8")
    rows = [
        line.split("|")[1:4] for line in text.splitlines() if line.startswith("| `") and ":" not in line[:20]
    ]
    found = {row[0].strip(" `"): row[1].strip() for row in rows}
    assert found == {name: kind.occasion for name, kind in KINDS.items()}
