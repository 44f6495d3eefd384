# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic driver`` against ``vnic serve``, and what it says when there is nobody to talk to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_backend import faulty

from vnic import cli

SERVE = [sys.executable, "-m", "vnic", "serve", "--control", "none"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A back end that is ready."""
    where = str(tmp_path_factory.mktemp("driver") / "s")
    process = subprocess.Popen(
        [*SERVE, "--vhost-user", where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready:")
        yield where
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def ask(path: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def asking(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = cli.main(["driver", "--connect", path, "--json", *arguments])
        return code, json.loads(capsys.readouterr().out)

    return asking


pytestmark = pytest.mark.slow  # a Python process takes a second to start


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--legacy",),
        ("--features", "VERSION_1"),
        ("--features", "all,-MRG_RXBUF", "--memory", "flat"),
        ("--packed",),
        ("--packed", "--features", "all,IN_ORDER", "--queue-size", "5"),
        ("--features", "all,-event_idx", "--memory", "pieces", "--queue-size", "4"),
    ],
)
def test_everything_answers(ask: Any, arguments: tuple[str, ...]) -> None:
    code, report = ask(*arguments)
    assert code == 0
    assert report["ok"]
    assert [probe["name"] for probe in report["probes"]] == ["arp", "ping", "ping", "ping", "tcp"]
    assert all(probe["ok"] and probe["ms"] > 0 and probe["sent"] == 1 for probe in report["probes"])
    assert report["rings"]["header"] == (10 if "--legacy" in arguments else 12)
    assert not report["rings"]["broken"]


def test_all_kinds_of_segmentation_are_negotiated(ask: Any) -> None:
    _, report = ask("-c", "0")
    taken = {bit["name"].removeprefix("VIRTIO_NET_F_") for bit in report["features"] if bit["acknowledged"]}
    assert {"GUEST_UFO", "HOST_UFO", "GUEST_USO4", "GUEST_USO6", "HOST_USO", "HOST_TSO4"} <= taken
    assert "CTRL_VQ" not in taken


@pytest.mark.parametrize("more", [(), ("--packed",)])
def test_back_end_with_a_control_queue_hashes_what_it_sends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    where = str(tmp_path / "s")
    script = Path(__file__).parents[3] / "helpers" / "control_backend.py"
    with subprocess.Popen([sys.executable, script, where], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready:")
            features = "all,CTRL_VQ,HASH_REPORT,NOTF_COAL"
            code = cli.main(["driver", "--connect", where, "--json", "--features", features, *more])
            report = json.loads(capsys.readouterr().out)
        finally:
            process.kill()
    assert code == 0
    assert report["rings"]["header"] == 20
    counters = report["counters"]
    assert counters["rx_hashed"] == counters["rx_frames"] - 1 > 3  # ARP is not hashed


def test_negotiation_has_each_bit_and_who_has_it(ask: Any) -> None:
    _, report = ask("--features", "VERSION_1,MRG_RXBUF")
    bits = {bit["name"]: bit for bit in report["features"]}
    assert bits["VIRTIO_NET_F_MRG_RXBUF"] == {
        "bit": 15,
        "name": "VIRTIO_NET_F_MRG_RXBUF",
        "asked": True,
        "offered": True,
        "acknowledged": True,
    }
    assert not bits["VIRTIO_F_EVENT_IDX"]["acknowledged"]
    assert {"VHOST_USER_PROTOCOL_F_REPLY_ACK"} <= {bit["name"] for bit in report["protocol_features"]}


def test_feature_that_is_not_offered_is_said_and_done_without(ask: Any) -> None:
    code, report = ask("--features", "all,NOTIFICATION_DATA", "-c", "0")
    assert code == 0
    bits = {bit["name"]: bit for bit in report["features"]}
    assert [bits["VIRTIO_F_NOTIFICATION_DATA"][key] for key in ("asked", "offered", "acknowledged")] == [
        True,
        False,
        False,
    ]


def test_port_nobody_listens_at_is_1(ask: Any) -> None:
    code, report = ask("--port", "99", "-c", "0")
    assert code == 1
    assert [probe["ok"] for probe in report["probes"]] == [True, False]
    assert "reset" in report["probes"][1]["detail"]


def test_address_nobody_has_is_1(ask: Any) -> None:
    code, report = ask("--server", "10.0.2.77", "--deadline", "0.2")
    assert code == 1
    assert [probe["sent"] for probe in report["probes"]] == [1, 0, 0]


def test_text_says_each_answer(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["driver", "--connect", path, "-c", "1"]) == 0
    told = capsys.readouterr()
    assert "12-byte header" in told.out
    assert sum(line.startswith("ok  ") for line in told.out.splitlines()) == 3
    assert "3 of 3 answered" in told.err


def test_no_socket_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["driver", "--connect", str(tmp_path / "none")]) == 3
    told = capsys.readouterr().err
    assert told.startswith("error: no vhost-user back end")
    assert "to mend it: start one first: vnic serve" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ("--queue-size", "3"),
        ("--features", "WARP"),
        ("--legacy", "--packed"),
        ("--legacy", "--features", "VERSION_1"),
        ("--address", "ten"),
        ("--deadline", "0"),
        ("--mac", "01:00:5e:00:00:01"),
    ],
)
def test_what_cannot_be_is_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["driver", "--connect", "/nowhere", *arguments]) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "code", "fact"),
    [
        ("mute", 5, "more than 0.5 s to answer GET_FEATURES"),
        ("babble", 1, "is no answer to GET_FEATURES|the answer to GET_FEATURES"),
        ("leave", 1, "the back end hung up"),
    ],
)
def test_back_end_that_fails_is_told(
    tmp_path: Path, fault: str, code: int, fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with faulty(tmp_path / "s", fault) as path:
        assert cli.main(["driver", "--connect", path, "--deadline", "0.5"]) == code
    told = capsys.readouterr()
    assert re.search(fact, told.err)
    assert "  because: " in told.err
    assert ("VIRTIO_F_VERSION_1" in told.out) == (fault == "leave"), "what was learnt until then"
