# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line called in this process: parsing, refusals and their exit codes."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import images
from guest.vm import probe
from guest.vm.errors import GuestPanic
from vnic import __main__ as entry
from vnic import cli
from vnic.cli import output
from vnic.cli import version as version_verb

QEMU = probe.Qemu(
    "/opt/qemu", (7, 2, 22), "QEMU 7.2.22", frozenset({"vhost-user"}), frozenset({"microvm", "q35"})
)


@pytest.fixture
def any_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "find_qemu", lambda: QEMU.path)
    monkeypatch.setattr(probe, "ask_qemu", lambda path: QEMU)
    monkeypatch.setattr(probe, "tsc_khz", lambda: None)


def test_interrupt_while_the_command_line_is_loaded_leaves_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C in the first half of a second; typer stands for the modules that take so long."""
    (tmp_path / "typer.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(cli.__file__).parents[2]}"}
    argv = [sys.executable, "-m", "vnic", "version"]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_interrupt_of_a_verb_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_verb.platform, "release", lambda: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", ["vnic", "version"])
    assert entry.main() == 130


def test_version_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1
    assert told["vnic"]


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["vm", "--memory", "much"], ["vm", "--machine", "pdp11"], ["serve"]]
)
def test_usage_error_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err != ""


def test_no_qemu_is_3_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VNIC_QEMU", "/nowhere/qemu")
    assert cli.main(["vm", "--accel", "tcg"]) == 3
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: no QEMU")
    assert any(line.startswith("  to mend it: apt install") for line in told)


@pytest.mark.usefixtures("any_qemu")
def test_qemu_without_the_netdev_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vm", "--net", "stream", "--accel", "tcg"]) == 3
    assert "no netdev 'stream'" in capsys.readouterr().err


@pytest.mark.usefixtures("any_qemu")
def test_guest_that_cannot_be_is_2_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vm", "--memory", "1", "--accel", "tcg"]) == 2
    assert "back end" not in capsys.readouterr().err


@pytest.mark.usefixtures("any_qemu")
def test_unknown_image_is_2_and_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vm", "--image", "plan9", "--accel", "tcg"]) == 2
    assert "debian12" in capsys.readouterr().err


@pytest.mark.usefixtures("any_qemu")
def test_dry_run_shows_both_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = [
        "--accel",
        "tcg",
        "--machine",
        "q35",
        "--loss",
        "0.02",
        "--seed",
        "7",
        "--host",
        "a.test=10.0.2.9",
        "--web",
        "0",
    ]
    assert cli.main(["vm", "--dry-run", *options]) == 0
    shown = " ".join(capsys.readouterr().out.replace("\\\n", "").split())
    assert "vnic serve --vhost-user /" in shown
    assert "--loss 0.02 --seed 7 --host a.test=10.0.2.9 --web 0" in shown
    assert "/opt/qemu" in shown
    assert "vectors=0" in shown
    assert "image debian12" in shown  # not built: a name stands for its files


def test_packed_reaches_the_card_and_is_refused_where_qemu_has_the_rings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.main(["vm", "--dry-run", "--accel", "tcg", "--packed"]) == 0
    assert "virtio-net-device,netdev=net0,packed=on" in capsys.readouterr().out
    assert cli.main(["vm", "--dry-run", "--accel", "tcg", "--packed", "--net", "stream"]) == 2
    assert "leave --packed out" in capsys.readouterr().err


@pytest.mark.usefixtures("any_qemu")
def test_dry_run_of_a_datagram_guest_with_an_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(probe, "ask_qemu", lambda path: replace(QEMU, netdevs=frozenset({"dgram"})))
    options = ["--accel", "tcg", "--net", "dgram", "--mac", "52:54:00:00:00:09", "--socket", "/tmp/x.sock"]
    assert cli.main(["vm", "--dry-run", *options]) == 0
    shown = " ".join(capsys.readouterr().out.replace("\\\n", "").split())
    assert "local.path=/tmp/x.sock.guest,remote.type=unix,remote.path=/tmp/x.sock" in shown
    assert "mac=52:54:00:00:00:09" in shown


@pytest.mark.usefixtures("any_qemu")
def test_address_that_no_card_can_have_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vm", "--mac", "ff:ff:ff:ff:ff:ff", "--accel", "tcg"]) == 2
    assert "MAC address" in capsys.readouterr().err


def test_panic_of_a_layer_below_is_4_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def panics() -> str:
        raise GuestPanic("the guest's kernel panicked", ["Kernel panic - not syncing"], "read it")

    monkeypatch.setattr(version_verb.platform, "python_version", panics)
    assert cli.main(["version"]) == 4
    told = capsys.readouterr().err
    assert "Kernel panic - not syncing" in told
    assert "Traceback" not in told


def test_debug_adds_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> str:
        raise ValueError("odd")

    monkeypatch.setattr(version_verb.platform, "python_version", fails)
    assert cli.main(["--debug", "version"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_image_path_of_one_not_built_is_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.main(["image", "path"]) == 3
    assert "vnic image build debian12" in capsys.readouterr().err


@pytest.mark.parametrize(("variable", "coloured"), [("NO_COLOR", False), ("FORCE_COLOR", True)])
def test_colour_follows_the_environment(
    variable: str, coloured: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    cli.main(["serve"])
    assert ("\x1b[" in capsys.readouterr().err) is coloured


@pytest.mark.usefixtures("any_qemu")
@pytest.mark.parametrize("wrong", [["--loss", "7"], ["--host", "nonsense"], ["--timeout", "-1"]])
def test_option_that_the_back_end_would_refuse_is_2_before_the_image(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["vm", "--accel", "tcg", *wrong]) == 2
    told = capsys.readouterr().err
    assert wrong[0] in told
    assert "accelerator" not in told


@pytest.mark.usefixtures("any_qemu")
def test_ctrl_c_while_the_image_is_built_is_130_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "ensure", interrupted)
    assert cli.main(["vm", "--accel", "tcg"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_stage_on_a_closed_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class HungUp(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", HungUp())
    output.stage("nobody reads this")
    output.show_error(ValueError("nor this"))


@pytest.mark.slow
def test_callgraph_shows_the_steps_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["callgraph", "bind", "listen"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("# bind\nsys_bind\n  -> inet_bind\n")
    assert "\n\n# listen\nsys_listen\n" in told


def test_callgraph_lists_the_steps_and_which_the_kernel_shows_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["callgraph", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines if line.startswith("bind ")] == [["kernel", "too"]]
    assert any(line.startswith("connect ") and not line.endswith("too") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["nonsense"], "there is no step nonsense"),
        (["--diff", "bind"], "about the kernel's trees"),
        (["--kernel", "connect"], "the kernel's tree of connect is not recorded"),
    ],
)
def test_callgraph_refuses_what_it_has_not(
    arguments: list[str], fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["callgraph", *arguments]) == 2
    assert fact in capsys.readouterr().err
