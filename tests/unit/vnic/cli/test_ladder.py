# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic ladder`` as typed: of a file, and of a back end that is a thread with a unix socket."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devmodel.middleware.capture import INBOUND, OUTBOUND, Captured, PcapngWriter, open_file
from stack.api.sim import flags_to_bits
from stack.inspect import ladder as drawing
from vnic import cli
from vnic.cli import ladder
from vnic.cli.ladder import Wanted

STACK = "10.0.2.2", 7


def frame(outbound: bool, flags: str, seq: int, ack: int, port: int = 40000) -> bytes:
    ends = [(b"\x0a\0\x02\x0f", port), (b"\x0a\0\x02\x02", STACK[1])]
    (source, sport), (dest, dport) = reversed(ends) if outbound else ends
    tcp = (
        sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + seq.to_bytes(4, "big") + ack.to_bytes(4, "big")
    )
    tcp += bytes([0x50, flags_to_bits(flags)]) + b"\x10\0" + bytes(4)
    return bytes(12) + b"\x08\0\x45\0\0\x28" + bytes(4) + b"\x40\x06\0\0" + source + dest + tcp


Said = tuple[bool, bytes, str]


def connection(port: int = 40000) -> list[Said]:
    return [
        (False, frame(False, "S", 100, 0, port), "tcp_v4_rcv > tcp_v4_do_rcv; LISTEN -> NEW_SYN_RECV"),
        (True, frame(True, "SA", 500, 101, port), "tcp_v4_send_synack; NEW_SYN_RECV"),
        (False, frame(False, "A", 101, 501, port), "tcp_v4_rcv; NEW_SYN_RECV -> ESTABLISHED"),
        (False, frame(False, "R", 101, 0, port), "tcp_v4_rcv; ESTABLISHED -> LISTEN"),
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two connections."""
    path = tmp_path / "net.pcapng"
    writer = PcapngWriter(open_file(path), "eth0")
    for n, (outbound, data, comment) in enumerate(connection() + connection(40001)):
        writer.write(Captured(n * 1_000_000, OUTBOUND if outbound else INBOUND, [data], comment))
    writer.close()
    return path


Verb = Callable[..., str]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Verb:
    """What ``vnic ladder`` prints."""

    def run(*arguments: object) -> str:
        assert cli.main(["ladder", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Verb:
    """The three parts of its error."""

    def run(*arguments: object) -> str:
        assert cli.main(["ladder", *map(str, arguments)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err

    return run


# -- a file ----------------------------------------------------------------------------------------------------------


def test_file_has_all_its_connections_in_80_columns(typed: Verb, file: Path) -> None:
    first, second = typed(file).split("\n\n")
    assert first.startswith("connection 1: 4 segments in 3.00 ms")
    assert second.startswith("connection 2: 4 segments")
    assert "client (guest)" in first
    assert first.splitlines()[-1].endswith("->| CLOSE")
    assert max(map(len, [*first.splitlines(), *second.splitlines()])) <= 80
    assert "\x1b" not in first


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["-n", "2"], [2]),
        (["-n", "2", "-n", "1"], [1, 2]),
        (["--port", "40001"], [2]),
        (["--port", "7"], [1, 2]),
        (["--peer", "10.0.2.15:40000"], [1]),
        (["--peer", "10.0.2.2:7", "--connection", "1"], [1]),
    ],
)
def test_filters_choose(typed: Verb, file: Path, options: list[str], numbers: list[int]) -> None:
    found = json.loads(typed(file, *options, "--json"))
    assert [one["connection"] for one in found] == numbers


def test_paths_are_shown_if_asked_for(typed: Verb, file: Path) -> None:
    assert "tcp_v4_rcv" not in typed(file)
    assert "|   tcp_v4_rcv > tcp_v4_do_rcv " in typed(file, "--paths")


def test_json_has_what_is_known_of_segments(typed: Verb, file: Path) -> None:
    found = json.loads(typed(file, "-f", "json", "-n", 1))[0]
    assert (found["client"], found["server"], found["stack"]) == ("10.0.2.15:40000", "10.0.2.2:7", "server")
    assert found["segments"][0]["said"]["path"] == "tcp_v4_rcv > tcp_v4_do_rcv"
    assert [one["flags"] for one in found["segments"]] == [["SYN"], ["SYN", "ACK"], ["ACK"], ["RST"]]


def test_svg_goes_into_a_file(typed: Verb, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "ladder.svg"
    assert typed(file, "--format", "svg", "-o", out) == ""
    words = "".join(ET.fromstring(out.read_text()).itertext())
    assert "connection 1: " in words
    assert "connection 2: " in words


def test_output_that_cannot_be_written_is_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ladder", str(file), "-o", "/nowhere/ladder.txt"]) == 3
    assert "could not write /nowhere/ladder.txt" in capsys.readouterr().err


def test_terminal_has_its_width_and_colours(typed: Verb, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((100, 24)))
    lines = typed(file, "-n", 1).splitlines()
    assert lines[0].startswith("\x1b[1mconnection 1")
    assert lines[-1].startswith("\x1b[31m")
    arrows = [line.removeprefix("\x1b[31m") for line in lines if "--" in line]
    assert {line.rindex("|") for line in arrows} == {100 - len("NEW_SYN_RECV") - 2}
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in typed(file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["there is nothing to draw", "vnic ladder net.pcapng"]),
        (["FILE", "--live"], ["exclude each other", "leave one of them out"]),
        (["FILE", "--count", "2"], ["about a running back end"]),
        (["FILE", "--json", "-f", "svg"], ["contradict each other"]),
        (["--live", "-f", "svg"], ["--live draws text, no SVG", "vnic capture start"]),
        (["--live", "--json"], ["--live draws text, no JSON"]),
        (["--live", "-o", "x"], ["--live writes to stdout", "vnic ladder --live > x"]),
        (["--live", "-n", "1"], ["--connection is about a file"]),
        (["--live", "-i", "eth0"], ["--interface is about a file"]),
        (["FILE", "-i", "vhost0"], ["no TCP connection"]),
        (["FILE", "--peer", "10.0.2.15"], ["'10.0.2.15' is no address with a port"]),
        (["FILE", "--peer", "10.0.2.15:70000"], ["70000 is no port"]),
        (
            ["FILE", "--port", "99"],
            ["has port 99", "1  10.0.2.15:40000 > 10.0.2.2:7", "2  10.0.2.15:40001 > 10.0.2.2:7"],
        ),
        (
            ["FILE", "-n", "3", "--peer", "10.0.2.2:7"],
            ["has end 10.0.2.2:7 and number 3", "name one of these"],
        ),
    ],
)
def test_what_cannot_be_is_refused(refused: Verb, file: Path, options: list[str], words: list[str]) -> None:
    told = refused(*(file if option == "FILE" else option for option in options))
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "FILE", "--level", "full"], "--level, --count, --seconds"),
        (["report", "-i", "eth0"], "--interface is about a capture"),
        (["capture", "start", "a.pcapng", "--files", "3"], "--files is about a ring"),
    ],
)
def test_option_that_would_do_nothing_is_refused(
    arguments: list[str], words: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(file) if word == "FILE" else word for word in arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def both_sides(tmp_path: Path) -> Path:
    """A connection that the stack saw, and another one that only the wire did."""
    path = tmp_path / "lossy.pcapng"
    writer = PcapngWriter(open_file(path), "eth0", "vhost0")
    for interface, port in ((0, 40000), (1, 40001)):
        for n, (outbound, data, _) in enumerate(connection(port)):
            direction = OUTBOUND if outbound else INBOUND
            writer.write(Captured(n * 1_000_000, direction, [data], interface=interface))
    writer.close()
    return path


def test_ladder_of_another_interface(both_sides: Path, typed: Verb) -> None:
    assert "40000" in typed(both_sides)
    told = typed(both_sides, "--interface", "vhost0")
    assert "40001" in told
    assert "40000" not in told


def test_report_of_another_interface(both_sides: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert cli.main(["report", str(both_sides), "-i", "vhost0", "-o", str(page)]) == 0
    text = page.read_text()
    assert "40001" in text
    assert "40000" not in text


def test_many_connections_are_not_all_named(refused: Verb, tmp_path: Path) -> None:
    path = tmp_path / "many.pcapng"
    writer = PcapngWriter(open_file(path), "eth0")
    for port in range(1000, 1030):
        writer.write(Captured(0, INBOUND, [frame(False, "S", 1, 0, port)]))
    writer.close()
    told = refused(path, "-n", 77)
    assert "10  10.0.2.15:1009 > 10.0.2.2:7" in told
    assert "and 20 more" in told
    assert "1010" not in told


@pytest.mark.parametrize("name", ["ladder", "report"])
def test_capture_is_not_replaced_by_what_is_drawn_of_it(
    name: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file.read_bytes()
    assert cli.main([name, str(file), "-o", str(file)]) == 2
    assert "is the capture" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_file_without_tcp_is_told(refused: Verb, tmp_path: Path) -> None:
    path = tmp_path / "udp.pcapng"
    writer = PcapngWriter(open_file(path), "eth0")
    writer.write(Captured(0, INBOUND, [bytes(60)]))
    writer.close()
    told = refused(path)
    assert f"no TCP connection is in {path}" in told
    assert "none of its 1 packets" in told


def test_what_is_no_capture_is_told(refused: Verb) -> None:
    assert "cannot be read as a capture" in refused(__file__)


# -- a running back end -------------------------------------------------------------------------------------------


def answers(said: list[Said], begin: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "packet": {
                "stamp_ns": (begin + n) * 1_000_000,
                "outbound": outbound,
                "frame": b64encode(data).decode(),
                "comment": comment,
            }
        }
        for n, (outbound, data, comment) in enumerate(said)
    ]


@pytest.fixture
def back_end(tmp_path: Path) -> Iterator[tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Its socket, what it will answer, and what it was asked; it hangs up when it has said all."""
    path, will_say, asked = tmp_path / "control.sock", list[dict[str, Any]](), list[dict[str, Any]]()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    server.settimeout(20)

    def serve() -> None:
        with server.accept()[0] as client, client.makefile("rw") as lines:
            request = json.loads(lines.readline())
            if request["verb"] == "there":
                lines.write('{"ok": true}\n')
                lines.flush()
                request = json.loads(lines.readline())
            asked.append(request)
            for answer in [{"ok": {}}, *will_say]:
                lines.write(json.dumps(answer) + "\n")
            lines.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield path, will_say, asked
    thread.join(20)
    server.close()


def test_live_draws_until_so_many_have_ended(
    typed: Verb, back_end: tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    path, will_say, asked = back_end
    will_say += answers(connection()) + answers(connection(40001), 4) + answers(connection(40002), 8)
    drawn = typed("--live", "-c", 2, "--control", path)
    assert asked == [{"verb": "packets", "comments": "states"}]
    assert [line for line in drawn.splitlines() if line.startswith("connection")] == [
        "connection 1",
        "connection 2",
    ]
    assert drawn.count("| CLOSE") == 2
    assert max(map(len, drawn.splitlines())) <= 80


def test_live_with_paths_asks_for_them(
    typed: Verb, back_end: tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    path, will_say, asked = back_end
    will_say += answers([(out, data, f"tcp_v4_rcv > tcp_ack; {said}") for out, data, said in connection()])
    drawn = typed("--live", "--paths", "-c", 1, "--control", path)
    assert asked == [{"verb": "packets", "comments": "paths"}]
    assert "tcp_v4_rcv > tcp_ack" in drawn


def test_live_filters_and_ends_with_the_back_end(
    back_end: tuple[Path, list[dict[str, Any]], list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, will_say, _ = back_end
    will_say += answers(connection()) + [{"dropped": 7}] + answers(connection(40001), 4)
    assert cli.main(["ladder", "--live", "--port", "40001", "--control", str(path)]) == 3
    printed = capsys.readouterr()
    assert printed.out.count("connection ") == 1
    assert "10.0.2.15:40001" in printed.out
    assert "... 7 packets were lost: they came too fast" in printed.err
    assert "hung up" in printed.err


def test_live_run_is_drawn_when_nothing_more_comes() -> None:
    many = [(False, frame(False, "A", 1, 1 + 10 * n), "") for n in range(50)]
    said = [*answers(many), {"pause": True}, {"pause": True}]
    *_, before, pause, again = ladder.follow(said, drawing.Live(), Wanted(), None)
    assert before == []
    assert "bare ACKs" in pause[-1].text
    assert again == []


def test_live_other_answers_and_other_packets_are_passed_over() -> None:
    said = [{"news": 1}, *answers([(False, bytes(60), "")]), *answers(connection())]
    lines = list(ladder.follow(said, drawing.Live(), Wanted(), 1))
    assert len(lines) == 4


def test_live_same_ends_again_count_again() -> None:
    again = [(outbound, data[:38] + bytes([9]) + data[39:], said) for outbound, data, said in connection()]
    said = answers(connection()) + answers(again, 4) + answers(connection(40001), 8)
    assert len(list(ladder.follow(said, drawing.Live(), Wanted(), 2))) == 8
