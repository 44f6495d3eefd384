# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic serve`` as a process: its ready line, its end by signals, and what keeps it from starting."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vnic import cli

SERVE = [sys.executable, "-m", "vnic", "serve"]
NO_CONTROL = ("--control", "none")  # the user's own runtime directory is left alone

pytestmark = pytest.mark.slow  # a Python process takes a second to start


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A back end that has said that it is ready."""
    process = subprocess.Popen(
        [*SERVE, *_quiet(arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready:")
        yield process
    finally:
        process.kill()
        process.communicate()


def _quiet(arguments: tuple[str, ...]) -> tuple[str, ...]:
    return arguments if "--control" in arguments else (*arguments, *NO_CONTROL)


def refused(*arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    command = [*prefix, *SERVE, *_quiet(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["--vhost-user", "--stream"])
def test_ready_signal_ends_it_cleanly(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(kind, str(path)) as process:
        assert path.is_socket()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
    assert not path.exists()
    assert "ending: 0 frames" in err


def test_path_of_a_living_process_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving("--vhost-user", str(path)) as process:
        code, told = refused("--vhost-user", str(path))
        assert code == 3
        assert str(process.pid) in told
        assert path.is_socket()


def test_stale_path_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with serving("--stream", str(path)):
        assert path.is_socket()


def test_bound_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, told = refused("--stream", f"127.0.0.1:{port}")
    assert code == 3
    assert f"port {port}" in told


def test_path_longer_than_107_bytes_is_refused(tmp_path: Path) -> None:
    code, told = refused("--vhost-user", str(tmp_path / ("x" * 100)))
    assert code == 3
    assert "107" in told


def test_ordinary_file_at_the_path_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    assert refused("--stream", str(path))[0] == 3
    assert path.read_text() == "precious"


def test_capture_that_cannot_be_written_leaves_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    code, told = refused("--stream", str(path), "--pcap", str(tmp_path / "no" / "x.pcapng"))
    assert code == 3
    assert "capture" in told
    assert not path.exists()


def test_capture_on_a_full_disk_leaves_no_socket(tmp_path: Path) -> None:
    path, pcap = tmp_path / "s", tmp_path / "x.pcapng"
    code, told = refused("--stream", str(path), "--pcap", str(pcap), prefix=("prlimit", "--fsize=0"))
    assert code == 3
    assert f"could not write the capture to {pcap}" in told
    assert not path.exists()


def test_capture_into_a_pipe_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, told = refused("--stream", str(tmp_path / "s"), "--pcap", str(pipe))
    assert code == 3
    assert f"could not write the capture to {pipe}" in told


def test_capture_is_its_owners(tmp_path: Path) -> None:
    with serving("--stream", str(tmp_path / "s"), "--pcap", str(tmp_path / "x.pcapng")):
        assert (tmp_path / "x.pcapng").stat().st_mode & 0o777 == 0o600


def test_state_is_written_at_the_end_and_read_at_the_beginning(tmp_path: Path) -> None:
    path, state, again = tmp_path / "s", tmp_path / "state.json", tmp_path / "again.json"
    with serving("--stream", str(path), "--freeze", str(state)) as process:
        assert not state.exists()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
    assert state.stat().st_mode & 0o777 == 0o600
    assert json.loads(state.read_text())["application"]["connections"] == []
    with serving("--stream", str(path), "--thaw", str(state), "--freeze", str(again)) as process:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
    # Neither lost a listener: the same sockets, by descriptor.
    assert again.read_text().count('"struct": "socket"') == state.read_text().count('"struct": "socket"') > 10
    code, told = refused("--stream", str(path), "--thaw", str(state), "--address", "10.9.9.1/24")
    assert code == 2
    assert "no address 10.9.9.1/24" in told


def test_state_that_is_none_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"format": ')
    code, told = refused("--stream", str(tmp_path / "s"), "--thaw", str(bad))
    assert code == 2
    assert str(bad) in told
    assert "to mend it" in told
    code, told = refused("--stream", str(tmp_path / "s"), "--thaw", str(tmp_path / "nothing"))
    assert code == 3


def test_state_that_could_not_be_written_is_said_at_the_beginning(tmp_path: Path) -> None:
    code, told = refused(
        "--stream", str(tmp_path / "s"), "--freeze", str(tmp_path / "nowhere" / "state.json")
    )
    assert code == 3
    assert "nowhere" in told


ARP_REQUEST = bytes.fromhex(
    "ffffffffffff 525400123456 0806 0001 0800 06 04 0001 525400123456 0a00020f 000000000000 0a000202"
)


def test_recorded_run_is_replayed(tmp_path: Path) -> None:
    path, recording, state = tmp_path / "s", tmp_path / "run.jsonl", tmp_path / "state.json"
    with serving("--stream", str(path), "--record", str(recording), "--freeze", str(state)) as process:
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(str(path))
            guest.sendall(len(ARP_REQUEST).to_bytes(4, "big") + ARP_REQUEST)
            size = int.from_bytes(guest.recv(4, socket.MSG_WAITALL), "big")
            assert guest.recv(size, socket.MSG_WAITALL)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
    assert recording.stat().st_mode & 0o777 == 0o600
    code, told = replayed(str(recording), "--freeze", str(tmp_path / "again.json"))
    assert code == 0
    assert "byte for byte" in told
    # What was frozen a moment later has the same objects.
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["objects"] == json.loads(state.read_text())["objects"]
    damaged = recording.read_text().replace(ARP_REQUEST.hex(), ARP_REQUEST[:-1].hex() + "07")
    recording.write_text(damaged)
    code, told = replayed(str(recording))
    assert code == 1
    assert "is not the recorded one" in told
    assert ", netif_rx: " in told
    assert replayed(str(tmp_path / "nothing"))[0] == 3


def replayed(*arguments: str) -> tuple[int, str]:
    argv = [*SERVE[:-1], "replay", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_control_path_that_is_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    code, told = refused("--stream", str(tmp_path / "s"), "--control", str(tmp_path / "precious"))
    assert code == 3
    assert "exists and is not a socket" in told
    assert (tmp_path / "precious").read_text() == "precious"


def test_control_path_that_is_the_frontends_is_refused(tmp_path: Path) -> None:
    code, told = refused("--stream", str(tmp_path / "s"), "--control", str(tmp_path / "s"))
    assert code == 2
    assert "is the frontend's socket too" in told


def test_several_places_are_announced_each_with_a_card_of_its_own(tmp_path: Path) -> None:
    first, second, third = (str(tmp_path / name) for name in ("a", "b", "c"))
    with serving("--vhost-user", first, "--stream", second, "--dgram", f"{third},{third}.guest") as process:
        for path in (first, second, third):
            assert Path(path).is_socket()
        assert process.stdout is not None
        out = "".join(process.stdout.readline() for _ in range(11))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
    assert f"connect a guest to stream {second} with:" in out
    assert [f"mac=52:54:00:12:34:{last}" in out for last in ("56", "57", "58")] == [True] * 3
    assert list(tmp_path.iterdir()) == []


def test_negotiate_shows_each_of_several_ports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = str(tmp_path / "c")
    with serving("--vhost-user", str(tmp_path / "a"), "--stream", str(tmp_path / "b"), "--control", control):
        assert cli.main(["negotiate", "--control", control]) == 0
        told = capsys.readouterr().out
        assert "vhost-user, nobody is connected" in told
        assert "stream, nobody is connected" in told
        assert cli.main(["negotiate", "--control", control, "--json"]) == 0
        assert [one["name"] for one in json.loads(capsys.readouterr().out)["ports"]] == [
            "vhost-user",
            "stream",
        ]
        assert cli.main(["negotiate", "--control", control, "--qmp", "/nowhere"]) == 2
        assert "vhost-user, stream" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "is needed"),
        (("--stream", "PATH", "--vhost-user", "PATH"), "is named twice"),
        (("--dgram", "PATH,127.0.0.1:5"), "its ends are of two kinds"),
        (("--socket", "fd=3"), "it is not what -netdev socket takes"),
        (("--socket", "udp=127.0.0.1:5"), "udp= needs localaddr="),
        (("--tap", "tap0,fast"), "only vnet may follow the name"),
        (("--stream-to", "host:x"), "neither a path nor HOST:PORT"),
    ],
)
def test_places_that_cannot_be_are_usage_errors_in_three_parts(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    code, told = refused(*(word.replace("PATH", str(tmp_path / "s")) for word in arguments))
    assert code == 2
    assert said in told
    assert "because: " in told
    assert "to mend it: " in told
    assert list(tmp_path.iterdir()) == []


def test_place_that_is_taken_leaves_the_ones_before_it_closed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (tmp_path / "precious").write_text("precious")
    code, told = refused("--stream", str(path), "--dgram", str(tmp_path / "precious"))
    assert code == 3
    assert "is no socket" in told
    assert not path.exists()


def test_control_path_of_a_living_process_is_refused_and_a_stale_one_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with serving("--stream", str(tmp_path / "s"), "--control", str(path)) as process:
        code, told = refused("--stream", str(tmp_path / "other"), "--control", str(path))
        assert (code, str(process.pid) in told) == (3, True)
        assert path.is_socket()
    assert path.is_socket()  # it was killed
    with serving("--stream", str(tmp_path / "s"), "--control", str(path)) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert not path.exists()


def test_live_page_is_served_and_its_address_said(tmp_path: Path) -> None:
    with serving("--stream", str(tmp_path / "s"), "--web", "0") as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("  live page: http://127.0.0.1:")
        url = said.split()[-1]
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"<title>vnic</title>" in answer.read()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert f"the live page is {url}" in err


def test_live_page_on_a_bound_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, told = refused("--stream", str(tmp_path / "s"), "--web", str(port))
    assert code == 3
    assert f"could not show the page on 127.0.0.1:{port}" in told
    assert not (tmp_path / "s").exists()
