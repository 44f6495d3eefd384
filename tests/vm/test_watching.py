# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking into a running stack while a real guest uses it: its call trees, its counters, its sysctls."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from line import SERVER, Line

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
