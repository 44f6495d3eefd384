# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of a run: what is on it, and that nothing from the wire becomes part of the page."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stack.inspect.conversation import Packet, conversations
from tests.unit.vnic.test_capture import ACK, FIN, SYN, Bench, segment
from tests.unit.vnic.test_observe import observed
from vnic import cli, graphviz, plots, report
from vnic.capture import Wanted
from vnic.control import Client

NEGOTIATION = {
    "transport": "vhost-user",
    "connected": True,
    "mtu": 1500,
    "features": [{"name": "VIRTIO_NET_F_CSUM", "offered": True, "acknowledged": False}],
    "protocol_features": [],
    "rings": [
        {"index": 0, "name": "receiveq1", "size": 256, "state": "running", "breaks": 0, "last_break": None}
    ],
}


class Page(HTMLParser):
    """The words of a page by section, and that each tag is closed by its like."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.tags: list[str] = []
        self._open: list[str] = []
        self._section = "head"
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"] or ""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.close()


def record(bench: Bench) -> dict[str, Any]:
    """A connection with data from its beginning to its end."""
    observation = observed(bench)
    observation.start()
    isn = bench.handshake()
    bench.give(segment(ACK, 1001, isn + 1, b"hello"))
    conn = bench.listener.accept()[0]
    conn.recv(100)
    conn.close()
    bench.give(segment(ACK | FIN, 1006, isn + 2))
    observation.stop()
    made: dict[str, Any] = json.loads(json.dumps(observation.record()))
    made["negotiation"] = NEGOTIATION
    return made


def test_page_has_every_part_of_a_run(bench: Bench) -> None:
    page = Page(report.page(report.of_record(record(bench), "a run")))
    one = page.sections["c1"]
    assert "10.0.2.15:40000 > 10.0.2.2:7" in page.sections["head"]
    for words in ("maximum segment size", "SYN_SENT", "Sequence numbers", "tcp_v4_conn_request", "sys_close"):
        assert words in one
    assert "SYN, LISTEN -> NEW_SYN_RECV" in one
    tables = page.sections["tables"]
    assert "LISTEN -> NEW_SYN_RECV 10.0.2.15:40000" in tables
    assert re.search(r"^\+ .*tcp_request_sock", tables, re.M)  # what the SYN changed
    assert "TcpPassiveOpens+1" in page.sections["counters"]
    assert "VIRTIO_NET_F_CSUMyes-" in page.sections["device"]


def test_page_loads_nothing(bench: Bench) -> None:
    text = report.page(report.of_record(record(bench), "a run"))
    assert re.findall(r'(?:src|href|action|url)\s*[=(]\s*"?(?!["#]|#)[^\s"#>)]+', text) == []
    assert "@import" not in text


def test_ids_of_a_page_are_its_own(bench: Bench) -> None:
    made = record(bench)
    made["packets"] += record_of_second(bench)["packets"]
    text = report.page(report.of_record(made, "a run"))
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert "c2" in ids
    assert len(ids) == len(set(ids))


def record_of_second(bench: Bench) -> dict[str, Any]:
    observation = observed(bench)
    observation.start()
    bench.give(segment(SYN, 900_000))
    observation.stop()
    made: dict[str, Any] = json.loads(json.dumps(observation.record()))
    return made


def test_what_others_wrote_is_text(bench: Bench) -> None:
    made = record(bench)
    evil = "<script>alert(1)</script>"
    for packet in made["packets"]:
        packet["comment"] = f"{evil}; LISTEN"
    for tree in made["trees"]:
        tree["text"] = f"tcp_v4_rcv\n  -> {evil}"
        tree["root"] = evil
    for moment in made["moments"]:
        moment["title"] = evil
    made["counters"]["after"][evil] = 1
    made["negotiation"]["features"][0]["name"] = evil
    made["why_no_trees"] = evil
    text = report.page(report.of_record(made, evil))
    assert evil not in text
    page = Page(text)
    assert page.tags.count("script") == 1
    assert evil in page.sections["counters"]


def test_what_was_not_kept_is_said(bench: Bench) -> None:
    made = record(bench)
    made["dropped"]["packets"] = 17
    made["tracing_ended"] = True
    made["moments"][0]["left_out"] = 3
    page = Page(report.page(report.of_record(made, "a run")))
    assert "17 packets more were not kept" in page.sections["head"]
    assert f"{len(made['trees'])} call trees are kept; then the tracing ended" in page.sections["head"]
    assert "3 more sockets are not shown" in page.sections["tables"]


def test_connections_beyond_the_bound_are_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_CONNECTIONS", 1)
    observation = observed(bench)
    observation.start()
    bench.give(segment(SYN, 1000))
    bench.give(segment(SYN, 1000, dport=8))
    observation.stop()
    page = Page(report.page(report.of_record(observation.record() | {"negotiation": {}}, "a run")))
    assert "of 2 connections" in page.sections["head"]
    assert "the first 1 connections are shown" in page.sections["head"]
    assert "c2" not in page.sections


def test_stack_that_was_not_traced_is_said(bench: Bench) -> None:
    made = record(bench) | {"trees": [], "why_no_trees": "the stack is compiled"}
    assert "the stack is compiled" in Page(report.page(report.of_record(made, "a run"))).sections["c1"]


def test_page_without_graphviz_shows_tables_as_text(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(graph: str) -> str:
        raise graphviz.GraphvizError("SVG needs graphviz")

    monkeypatch.setattr(graphviz, "svg", missing)
    tables = Page(report.page(report.of_record(record(bench), "a run"))).sections["tables"]
    assert "| bhash[7] -> tb7" in tables


def test_page_without_matplotlib_says_what_is_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **more: object) -> str:
        raise plots.PlotError("drawing needs matplotlib", "no module", "make setup")

    monkeypatch.setattr(plots, "svg_of", missing)
    page = Page(report.page(report.of_record(record(bench), "a run")))
    assert "drawing needs matplotlib: no module. make setup" in page.sections["c1"]


def test_refused_connection_has_a_ladder_and_no_plot(bench: Bench) -> None:
    observation = observed(bench)
    observation.start()
    bench.give(segment(SYN, 1000, dport=8))
    observation.stop()
    page = Page(report.page(report.of_record(observation.record() | {"negotiation": {}}, "a run")))
    assert "RST" in page.sections["c1"]
    assert "It carried no data." in page.sections["c1"]


def test_connection_whose_beginning_is_not_there_has_no_options() -> None:
    packets = [Packet(0, False, segment(ACK, 1000, 1, b"x")), Packet(1, True, segment(ACK, 1000, 1))]
    page = Page(report.page(report.of_capture(conversations(packets), "part.pcapng")))
    assert "Its SYN is not there." in page.sections["c1"]
    assert "A capture does not have them" in page.sections["counters"]


def test_stamps_and_a_name_that_a_damaged_capture_can_have() -> None:
    """Years beyond 9999, and bytes that are no UTF-8 (as Python reads them from a command line)."""
    packets = [Packet(1 << 70, False, segment(SYN, 1000)), Packet(1 << 74, True, segment(ACK, 1000, 1))]
    made = report.page(report.of_capture(conversations(packets), "\udcff\x07.pcapng"))
    assert "??.pcapng" in Page(made).sections["head"]
    assert f"{1 << 70} ns after 1970" in made
    made.encode()


# -- trees that fold ------------------------------------------------------------------------------------------------


def test_line_with_others_under_it_folds_them() -> None:
    html = report.folding("a\n  -> b\n    -> c\n\n  -> d  // <x>")
    fold = "<details open><summary>{}</summary><div>{}</div></details>"
    assert html == fold.format("a", fold.format("-&gt; b", "<p>-&gt; c</p>") + "<p>-&gt; d  // &lt;x&gt;</p>")


def test_tree_of_one_line_folds_nothing() -> None:
    assert report.folding("sys_listen") == "<p>sys_listen</p>"
    assert report.folding("") == ""


# -- the verb -------------------------------------------------------------------------------------------------------


def test_report_of_a_capture_is_written(bench: Bench, tmp_path: Path) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng", comments=True))
    bench.handshake()
    bench.capture.stop()
    out = tmp_path / "a.html"
    assert cli.main(["report", str(tmp_path / "a.pcapng"), "-o", str(out)]) == 0
    page = Page(out.read_text())
    assert "ESTABLISHED" in page.sections["c1"]
    assert out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{file}", "-c", "1"], "are about a running back end"),
        (["{file}", "--port", "9"], "has port 9"),
        (["{file}", "--peer", "x"], "no address with a port"),
        (["{nothing}"], "could not read"),
        (["--control", "{nothing}"], "no back end answers"),
        (["{file}", "-o", "{nothing}/x.html"], "could not write"),
    ],
)
def test_report_that_cannot_be_is_refused_and_leaves_no_file(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    bench.capture.start(Wanted(tmp_path / "a.pcapng"))
    bench.handshake()
    bench.capture.stop()
    names = {"file": str(tmp_path / "a.pcapng"), "nothing": str(tmp_path / "nothing")}
    out = tmp_path / "old.html"
    out.write_text("an older report")
    given = [word.format(**names) for word in arguments]
    assert cli.main(["report", *(["-o", str(out)] if "-o" not in given else []), *given]) != 0
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert out.read_text() == "an older report"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pcapng", "old.html"]


def talking_to(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The back end's end of the socket of the next Client."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: None)
    monkeypatch.setattr("vnic.control.socket.socket", lambda *arguments: ours)
    return theirs


def test_interrupt_asks_for_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(client: Client) -> None:
        raise KeyboardInterrupt

    back_end = talking_to(monkeypatch)
    back_end.sendall(b'{"ok": "observing"}\n{"error": ["no", "", ""]}\n')
    monkeypatch.setattr(Client, "await_record", interrupted)
    assert cli.main(["report", "--control", "x", "-o", str(tmp_path / "a.html")]) == 2
    assert back_end.recv(1000).endswith(b"}\n\n")
    back_end.close()


def test_wait_for_a_record_takes_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an interrupt of the wait would lose that."""
    back_end = talking_to(monkeypatch)
    with Client(Path("x")) as client:
        back_end.sendall(b'{"ok": "observing"}\n{"rec')
        client.observe()
        client.await_record()
        back_end.sendall(b'ord": {"a": 1}}\n')
        assert client.read_record() == {"a": 1}
    back_end.close()
