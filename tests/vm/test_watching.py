# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking into a running stack while a real guest uses it: its call trees, its counters, its sysctls."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pexpect
import pytest
from line import SERVER, Line

from guest.vm.args import listening_monitor
from stack.api import aio
from stack.api.bsd import Socket
from stack.trace.notation import render
from stack.trace.recorder import Recorder, Tree
from tests.golden.test_callgraph import KNOWN, NOTES
from vnic.control import Client

pytestmark = pytest.mark.xdist_group("watching")

PORT = 2222


def notes(name: str) -> list[str]:
    known = KNOWN.get(name, {})
    return [known.get(line, line) for line in (NOTES / f"{name}.txt").read_text().splitlines()]


def drawn(trees: list[Tree], root: str, nth: int = 0) -> list[str]:
    return render([tree for tree in trees if tree.root.name == root][nth]).splitlines()


def test_connection_of_a_guests_nc_draws_the_notes(line: Line) -> None:
    """bind, listen, the SYN and the third ACK: one socket, one nc, four trees."""
    recorder = Recorder(time.perf_counter_ns)

    async def listening() -> Socket:
        recorder.start()
        sock = Socket(line.stack)
        sock.bind(("", PORT))
        sock.listen(5)
        return sock

    async def accepted(sock: Socket) -> bytes:
        conn, _ = await aio.sock_accept(line.host.runner, sock)
        return await aio.sock_recv(line.host.runner, conn, 100)

    sock = line.behind.run(listening(), 10)
    job = line.guest.shell.background(f"echo hello | nc -N -w 5 {SERVER} {PORT}")
    try:
        assert line.behind.run(accepted(sock), 30) == b"hello\n"
    finally:
        line.behind.call(recorder.stop)
        line.behind.call(sock.close)
    job.wait()
    trees = recorder.take()
    assert drawn(trees, "sys_bind") == notes("bind")
    assert drawn(trees, "sys_listen") == notes("listen")
    segments = [
        tree
        for tree in trees
        if tree.root.name == "tcp_v4_rcv" and tree.flow is not None and tree.flow[1] == PORT
    ]
    assert drawn(segments, "tcp_v4_rcv", 0) == notes("receive_syn")
    assert drawn(segments, "tcp_v4_rcv", 1) == notes("receive_ack")


def verb(path: Path, *arguments: str) -> Any:
    """What a verb prints as JSON, of the back end with that control socket."""
    argv = [sys.executable, "-m", "vnic", *arguments, "--json", "--control", str(path)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_verbs_look_into_the_back_end_that_a_guest_uses(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    path = rundir.path / "control.sock"
    guest = boot(nic=backends.start("vhost-user", "--control", str(path)))
    assert verb(path, "sysctl", "net.ipv4.tcp_syncookies=2") == {"net.ipv4.tcp_syncookies": "2"}
    verb(path, "nstat")
    with Client(path) as client:
        trees = client.stream("trace", port=7, root="tcp_v4_rcv", count=2)
        job = guest.shell.background(f"echo hello | nc -N -w 5 {SERVER} 7")
        syn, ack = list(trees)
    job.wait().check()
    assert "cookie_v4_init_sequence" in syn["tree"]
    assert "cookie_v4_check" in ack["tree"]
    assert syn["flow"].startswith(f"{SERVER}:7 < 10.0.2.15:")
    hashinfo = verb(path, "tables", "bhash")[0]
    assert {"name": "bhash[7]", "value": "", "to": ["tb7"]} in hashinfo["rows"]
    counted = verb(path, "nstat", "TcpExtSyncookies*", "TcpPassiveOpens")["kernel"]
    assert counted == {"TcpPassiveOpens": 1, "TcpExtSyncookiesSent": 1, "TcpExtSyncookiesRecv": 1}


def printed(path: Path, *arguments: str) -> list[str]:
    """What a verb writes into a pipe."""
    argv = [sys.executable, "-m", "vnic", *arguments, "--control", str(path)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def on_terminal(path: Path, *arguments: str) -> list[str]:
    """What a verb shows on a terminal of 80 columns, without its escape sequences."""
    argv = ["-m", "vnic", *arguments, "--control", str(path)]
    shown: str = pexpect.run(
        " ".join([sys.executable, *argv]), encoding="utf-8", timeout=30, dimensions=(24, 80)
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()


def words_of(info: str) -> dict[str, str]:
    """ss's "name:value" words, and "name value" of rates."""
    return dict(re.findall(r"([a-z_]+)[: ]([\d.,/]+)", info))


def test_ss_and_tcpinfo_agree_with_the_guests_view_of_its_connection(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    path = rundir.path / "control.sock"
    guest = boot(nic=backends.start("vhost-user", "--control", str(path)))
    job = guest.shell.background(f"{{ echo hello; sleep 300; }} | nc {SERVER} 7 > /tmp/echoed")
    guest.check("for i in $(seq 100); do grep -q hello /tmp/echoed && exit; sleep 0.1; done; exit 1", 60)
    try:
        line, info = guest.check("ss -Htino state established dport = :7").strip().splitlines()
        port = line.split()[2].rpartition(":")[2]
        ends = [f"{SERVER}:7", f"10.0.2.15:{port}"]

        heading, *socks = printed(path, "ss", "-tan")
        assert heading.split() == [
            "State",
            "Recv-Q",
            "Send-Q",
            *("Local", "Address:Port", "Peer", "Address:Port"),
        ]
        assert ["ESTAB", "0", "0", *ends] in [sock.split() for sock in socks]
        assert ["LISTEN", ends[0]] in [[sock.split()[0], sock.split()[3]] for sock in socks]

        line, ours = printed(path, "ss", "-Htino", "state", "established", "( sport = :7 )")
        assert line.split() == ["0", "0", *ends]
        assert ours.startswith("\t ts sack cubic wscale:")
        known, theirs = words_of(ours), words_of(info)
        assert (known["bytes_received"], known["bytes_acked"]) == ("6", "6")
        assert known["bytes_received"] == theirs["bytes_sent"]
        assert known["bytes_sent"] == theirs["bytes_received"]
        assert known["mss"] == theirs["mss"]
        assert known["wscale"] == ",".join(reversed(theirs["wscale"].split(",")))
        assert set(theirs) - set(known) <= {"ato", "rcv_rtt", "busy", "pacing_rate", "delivery_rate"}

        (user,) = verb(path, "ss", "dst", ends[1])[0]["users"]
        assert Path(f"/proc/{user['pid']}/cmdline").read_bytes().split(b"\0")[1:4] == [
            b"-m",
            b"vnic",
            b"serve",
        ]

        piped = printed(path, "tcpinfo", *ends)
        assert piped[0] == f"{ends[0]} < {ends[1]} ESTAB cubic"
        assert "tcpi_bytes_received 6 B received in order" in [" ".join(row.split()) for row in piped]
        assert verb(path, "tcpinfo", ends[1])["tcp_info"]["tcpi_state"] == 1
        for arguments in (("ss", "-tanmpoie"), ("tcpinfo", ends[1])):
            shown = on_terminal(path, *arguments)
            assert max(map(len, shown)) <= 80
            assert any(ends[1] in row for row in shown)
    finally:
        job.kill("KILL")


def test_capture_of_a_guests_connection_has_paths_and_states_in_its_comments(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    path = rundir.path / "control.sock"
    guest = boot(nic=backends.start("vhost-user", "--control", str(path)))
    file = rundir.path / "net.pcapng"
    guest.check(f"echo before | nc -N -w 5 {SERVER} 7")
    assert verb(path, "capture", "start", str(file), "--comments")["running"]
    guest.check(f"echo hello | nc -N -w 5 {SERVER} 7")
    assert printed(path, "capture", "status")[0].startswith(f"capturing into {file}: ")
    count = verb(path, "capture", "stop")["packets"]
    guest.check(f"echo after | nc -N -w 5 {SERVER} 7")
    tshark = shutil.which("tshark")
    assert tshark is not None, "tools/setup --test installs it"
    read = [tshark, "-r", str(file), "-T", "fields", "-E", "separator=|"]
    fields = ("tcp.port", "tcp.flags.str", "tcp.payload", "frame.comment")
    argv = [*read, *(word for name in fields for word in ("-e", name))]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    rows = [row.split("|") for row in done.stdout.splitlines()]
    assert len(rows) == count
    rows = [row for row in rows if "7" in row[0].split(",")]
    comments = [comment for *_, comment in rows]
    assert comments[0].startswith(
        "tcp_v4_rcv > tcp_v4_do_rcv > tcp_rcv_state_process > tcp_v4_conn_request > "
    )
    assert comments[0].endswith("; LISTEN -> NEW_SYN_RECV")
    assert comments[1].endswith("tcp_v4_send_synack; NEW_SYN_RECV")
    assert "; NEW_SYN_RECV -> ESTABLISHED; cwnd=10 ssthresh=inf srtt=" in comments[2]
    assert any("; ESTABLISHED -> CLOSE_WAIT; cwnd=" in comment for comment in comments)
    payloads = {bytes.fromhex(row[2]) for row in rows}
    assert b"hello\n" in payloads
    assert not payloads & {b"before\n", b"after\n"}


def test_trace_of_a_thousand_connections_shows_or_counts_each_segment(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    """A guest connects a thousand times while somebody traces: what is shown and what is said to be lost is all."""
    path = rundir.path / "control.sock"
    guest = boot(nic=backends.start("vhost-user", "--control", str(path)))
    seen = {"came": 0, "lost": 0}

    def watch(answers: Iterator[dict[str, Any]]) -> None:
        for answer in answers:
            if f"{SERVER}:9 < " in answer.get("flow", ""):
                return
            seen["came"] += "tree" in answer
            seen["lost"] += answer.get("dropped", 0)

    def segments() -> int:
        with Client(path) as counting:
            return int(counting.ask("counters")["TcpInSegs"])

    with Client(path) as client:
        watching = threading.Thread(
            target=watch, args=[client.stream("trace", root="tcp_v4_rcv")], daemon=True
        )
        before = segments()
        watching.start()
        guest.check(f"for i in $(seq 1000); do echo x | nc -N -w 5 {SERVER} 7 > /dev/null; done", 120)
        after = segments()
        time.sleep(1)  # until nothing waits to be sent, so that the last connection is not among the lost
        guest.check(f"echo x | nc -N -w 5 {SERVER} 9")
        watching.join(30)
        assert not watching.is_alive()
    assert seen["came"] + seen["lost"] == after - before >= 4 * 1000
    assert verb(path, "nstat", "-a", "TcpPassiveOpens")["kernel"] == {"TcpPassiveOpens": 1001}


def test_report_of_a_guests_connections_is_one_page_that_needs_nothing_else(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    path, page = rundir.path / "control.sock", rundir.path / "report.html"
    guest = boot(nic=backends.start("vhost-user", "--control", str(path)))
    argv = [sys.executable, "-m", "vnic", "report", "-o", str(page), "--port", "80", "-c", "2"]
    with subprocess.Popen([*argv, "--control", str(path)], stderr=subprocess.PIPE, text=True) as reporting:
        try:
            assert reporting.stderr is not None
            assert "observing" in reporting.stderr.readline()
            guest.check(f"echo other | nc -N -w 5 {SERVER} 7")
            for size in (10, 300_000):
                assert guest.check(f"curl -s http://{SERVER}/bytes/{size} | wc -c") == f"{size}\n"
            said = reporting.stderr.read()
            assert "written" in said
            assert reporting.wait(60) == 0, said
        finally:
            reporting.kill()
    text = page.read_text()
    shown = PageText()
    shown.feed(text)
    sections = shown.sections
    assert re.findall(r'(?:src|href)="(?!#)', text) == []
    assert [name for name in sections if name.startswith("c")] == ["c1", "c2", "counters"]
    for name in ("c1", "c2"):
        assert "10.0.2.15:" in sections[name]
        assert "NEW_SYN_RECV" in sections[name]  # in the ladder
        assert "tcp_v4_conn_request" in sections[name]
        assert "Sequence numbers" in sections[name]  # of the plot
        assert "window scale" in sections[name]
    titles = ["at the beginning", "LISTEN -> NEW_SYN_RECV 10.0.2.15:", "NEW_SYN_RECV -> ESTABLISHED"]
    assert all(title in sections["tables"] for title in titles)
    assert "tcp_request_sock" in sections["tables"]
    assert "TcpPassiveOpens" in sections["counters"]
    assert "VIRTIO_NET_F_MRG_RXBUF" in sections["device"]
    assert "10.0.2.2:7" not in text  # the other connection was not asked for


def test_vm_writes_a_report_of_its_command(tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    command = f"echo hello | nc -N -w 5 {SERVER} 7"
    argv = [sys.executable, "-m", "vnic", "vm", "--report", str(page), "--", command]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert f"the report is {page}" in done.stderr
    shown = PageText()
    shown.feed(page.read_text())
    assert "tcp_v4_conn_request" in shown.sections["c1"]
    assert "CLOSE_WAIT" in shown.sections["tables"]
    assert "VIRTIO_NET_F_MRG_RXBUF" in shown.sections["device"]  # though the guest is gone when it is written


class PageText(HTMLParser):
    """The text of a page, section by section; for each tag that has to be closed, that it was."""

    VOID = ("meta", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self._open: list[str] = []
        self._section = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.sections[self._section] = ""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data


LOOKS = {
    "tables": ("tables",),
    "states": ("states", "--live"),
    "nstat": ("nstat", "-a"),
    "sysctl": ("sysctl", "-a"),
    "ss": ("ss", "-tuanoimep"),
    "tcpinfo": ("tcpinfo", "{peer}"),
    "capture": ("capture", "status"),
}
WAITS = {
    "trace": (("trace", "--port", "7", "-c", "2"), "tcp_v4_conn_request"),
    "trace of a phase": (("trace", "--phase", "syn", "-c", "1", "--level", "times"), " us"),
    "ladder": (("ladder", "--live", "--port", "7", "-c", "1"), "NEW_SYN_RECV"),
    "report": (("report", "--port", "7", "-c", "1", "-o", "{directory}/run.html"), "written"),
}


def test_every_verb_that_looks_fits_80_columns_and_is_plain_in_a_pipe(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    path = rundir.path / "control.sock"
    guest = boot(nic=backends.start("vhost-user", "--control", str(path)))
    job = guest.shell.background(f"{{ echo hello; sleep 300; }} | nc {SERVER} 7 > /tmp/echoed")
    guest.check("for i in $(seq 100); do grep -q hello /tmp/echoed && exit; sleep 0.1; done; exit 1", 60)
    try:
        (sock,) = verb(path, "ss", "-tn", "state", "established", "sport", "=", ":7")
        peer = f"{sock['peer']}:{sock['peer_port']}"
        for arguments in LOOKS.values():
            words = [word.format(peer=peer) for word in arguments]
            piped = printed(path, *words)
            assert piped
            assert "\x1b" not in "".join(piped)
            assert verb(path, *words)
            shown = on_terminal(path, *words)
            assert len(shown) >= len(piped)
            if words[0] != "capture":  # names a file
                assert max(map(len, shown)) <= 80, words
    finally:
        job.kill("KILL")


def test_every_verb_of_a_capture_fits_80_columns_and_is_plain_in_a_pipe(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    path, file = rundir.path / "control.sock", rundir.path / "net.pcapng"
    guest = boot(nic=backends.start("vhost-user", "--control", str(path)))
    verb(path, "capture", "start", str(file), "--comments")
    guest.check(f"curl -s http://{SERVER}/bytes/100000 | wc -c")
    verb(path, "capture", "stop")
    picture = rundir.path / "net.svg"
    for words, expected in (
        (["ladder", str(file)], "NEW_SYN_RECV"),
        (["plot", str(file), "--list"], f"{SERVER}:80"),
        (["plot", str(file), "-o", str(picture)], "net.svg"),
        (["report", str(file), "-o", str(rundir.path / "net.html")], "net.html"),
        (["callgraph", "receive_syn"], "tcp_v4_conn_request"),
    ):
        argv = [sys.executable, "-m", "vnic", *words]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
        assert (done.returncode, expected in said, "\x1b" in said) == (0, True, False), said
        shown = pexpect.run(" ".join(argv), encoding="utf-8", timeout=60, dimensions=(24, 80))
        rows = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
        assert any(expected in row for row in rows)
        if not any(str(rundir.path) in row for row in rows):  # a path is as long as it is
            assert max(map(len, rows)) <= 80, words
    assert "congestion window" in picture.read_text()


def test_every_verb_that_waits_shows_a_guests_connection_on_a_terminal_and_in_a_pipe(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    path = rundir.path / "control.sock"
    guest = boot(nic=backends.start("vhost-user", "--control", str(path)))
    for arguments, expected in WAITS.values():
        words = [word.format(directory=rundir.path) for word in arguments]
        argv = ["-m", "vnic", *words, "--control", str(path)]
        with pexpect.spawn(
            sys.executable, argv, encoding="utf-8", timeout=60, dimensions=(24, 80)
        ) as terminal:
            echo_once_watched(path, guest)
            shown = re.sub(r"\x1b\[[0-9;]*m", "", str(terminal.expect(pexpect.EOF) or terminal.before))
        assert expected in shown
        if words[0] == "ladder":  # a line of a tree is as long as its names
            assert max(map(len, shown.splitlines())) <= 80
        with subprocess.Popen(
            [sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as piped:
            echo_once_watched(path, guest)
            said, _ = piped.communicate(timeout=60)
        assert (piped.returncode, expected in said, "\x1b" in said) == (0, True, False), said


def echo_once_watched(path: Path, guest: Any) -> None:
    """A connection of the guest's to the echo service, once somebody watches what the back end does."""
    for _ in range(200):
        with Client(path) as asking:
            if asking.ask("watched"):
                break
        time.sleep(0.05)
    guest.check(f"echo hello | nc -N -w 5 {SERVER} 7")


def test_negotiate_tells_who_vetoed_each_feature(
    backends: Any, boot: Callable[..., Any], rundir: Any
) -> None:
    path, qmp = rundir.path / "control.sock", rundir.path / "monitor.sock"
    boot(nic=backends.start("vhost-user", "--control", str(path)), extra=listening_monitor(qmp))
    told = verb(path, "negotiate", "--qmp", str(qmp))
    verdicts = {one["name"]: one["verdict"] for one in told["features"]}
    assert verdicts["VIRTIO_NET_F_MRG_RXBUF"] == "in use"
    assert verdicts["VIRTIO_NET_F_MAC"] == "in use, by the frontend alone"
    assert verdicts["VIRTIO_F_ANY_LAYOUT"] == "not taken by the guest's driver"
    assert verdicts["VIRTIO_NET_F_MTU"] == "vetoed by the frontend"  # the card has no host_mtu
    for words in (("negotiate",), ("negotiate", "--qmp", str(qmp))):
        piped = printed(path, *words)
        assert piped[0] == "vhost-user, connected, MTU 1500"
        assert piped[2].split() == ["0", "receiveq1", "1024", "running", "0", "0"]
        assert piped[3].split() == ["1", "transmitq1", "1024", "running", "0", "-"]
        assert any(row.split()[:2] == ["VIRTIO_NET_F_MRG_RXBUF", "yes"] for row in piped)
        assert max(map(len, on_terminal(path, *words))) <= 80
    piped = printed(path, "negotiate", "--audit")
    assert "kicks, from the driver" in piped
    assert max(map(len, piped)) <= 80
