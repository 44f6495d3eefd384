# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: a server in this test's event loop, clients in threads, as another process would be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stack.api.bsd import SOCK_DGRAM, Socket
from stack.api.sim import Sim
from stack.include.snmp import LINUX_MIB_LISTENDROPS as LISTENDROPS
from stack.net.ipv4 import tcp_ipv4
from stack.stack import Stack
from vnic import control, counters
from vnic.capture import Wanted
from vnic.control import Client, ControlError, ControlServer, NoBackEnd
from vnic.errors import UsageError

Talk = Callable[[Path], Any]


@pytest.fixture
def net() -> Stack:
    return Sim(seed=1).add_stack("10.0.2.2/24")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


def served(
    net: Stack,
    path: Path,
    talk: Talk,
    *,
    during: Callable[[], None] | None = None,
    fixed: str = "",
    capture: Any = None,
) -> Any:
    """What ``talk(path)`` returns, run in a thread against a server; ``during`` runs on the server's loop meanwhile."""

    async def run() -> Any:
        async with ControlServer(net, fixed=fixed, capture=capture).listen(path):
            task = asyncio.ensure_future(asyncio.to_thread(talk, path))
            while not task.done():
                if during is not None:
                    during()
                await asyncio.wait([task], timeout=0.02)
            return await task

    return asyncio.run(run())


class Captured:
    """In a Capture's place: notes what it was told."""

    def __init__(self) -> None:
        self.wanted: Wanted | None = None

    def status(self) -> dict[str, Any]:
        return {"running": self.wanted is not None}

    def start(self, wanted: Wanted) -> dict[str, Any]:
        self.wanted = wanted
        return self.status()

    def stop(self) -> dict[str, Any]:
        raise UsageError("no capture runs", "there is none to stop", "vnic capture start FILE")


def asks(verb: str, **more: object) -> Talk:
    def talk(path: Path) -> Any:
        with Client(path) as client:
            return client.ask(verb, **more)

    return talk


@contextmanager
def raw(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        yield sock


def sends(data: bytes) -> Talk:
    """Everything that comes back until the server hangs up."""

    def talk(path: Path) -> bytes:
        got = b""
        with raw(path) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                got += part
        return got

    return talk


def test_snapshot_is_the_stacks(net: Stack, path: Path) -> None:
    Socket(net).bind(("10.0.2.2", 80))
    assert served(net, path, asks("snapshot")) == json.loads(json.dumps(net.snapshot()))


def test_client_knows_the_process_of_the_back_end(net: Stack, path: Path) -> None:
    def talk(path: Path) -> int:
        with Client(path) as client:
            return client.pid

    assert served(net, path, talk) == os.getpid()


def test_counters_have_the_names_of_nstat(net: Stack, path: Path) -> None:
    found = served(net, path, asks("counters"))
    assert found["TcpExtListenDrops"] == 0
    assert found["IpDefaultTTL"] == 64
    assert "Ip6InReceives" in found


def test_sysctl_is_read_and_set(net: Stack, path: Path) -> None:
    assert served(net, path, asks("sysctl", name="net.ipv4.tcp_rmem")) == "4096\t131072\t6291456"
    assert (
        served(net, path, asks("sysctl", name="tcp_rmem", value="4096 65536 6291456"))
        == "4096\t65536\t6291456"
    )
    assert net.ipv4.sysctl_tcp_rmem == (4096, 65536, 6291456)
    assert served(net, path, asks("sysctl", name="tcp_congestion_control", value="reno")) == "reno"
    everything = served(net, path, asks("sysctls"))
    assert everything["net.ipv4.tcp_congestion_control"] == "reno"
    assert everything["net.core.somaxconn"] == "4096"
    for name in everything:
        net.sysctl_get(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tcp_nothing", None),
        ("tcp_nothing", "1"),
        ("tcp_syncookies", "many"),
        ("tcp_syncookies", "256"),
        ("ip_default_ttl", "0"),
        ("ipv6.hop_limit", "256"),
        ("tcp_app_win", "-1"),
        ("tcp_fin_timeout", "99999999999"),
        ("tcp_syncookies", "1 2"),
        ("tcp_rmem", "1 2"),
        ("tcp_congestion_control", "vegas"),
        (7, None),
        ("tcp_syncookies", 1),
    ],
)
def test_sysctl_that_cannot_be_is_refused_and_nothing_changes(
    net: Stack, path: Path, name: object, value: object
) -> None:
    before = net.sysctls()
    with pytest.raises(ControlError) as caught:
        served(net, path, asks("sysctl", name=name, value=value))
    assert caught.value.evidence
    assert net.sysctls() == before


def test_sysctl_of_a_recorded_run_cannot_be_set(net: Stack, path: Path) -> None:
    with pytest.raises(ControlError, match="cannot set tcp_syncookies") as caught:
        served(net, path, asks("sysctl", name="tcp_syncookies", value="2"), fixed="the run is recorded")
    assert caught.value.evidence == "the run is recorded"
    assert served(net, path, asks("sysctl", name="tcp_syncookies"), fixed="the run is recorded") == "1"


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"hello\n", b"[]\n", b'{"verb"\n', b"\xff\xfe\n", b"7\n", b"[" * 60000 + b"\n", b"{}\n"],
)
def test_garbage_is_told_so_and_cut_off(net: Stack, path: Path, garbage: bytes) -> None:
    answer = json.loads(served(net, path, sends(garbage + b'{"verb": "snapshot"}\n')))
    assert answer["error"][0] == "the request is not understood"


def test_verb_that_does_not_exist_is_told_which_do(net: Stack, path: Path) -> None:
    with pytest.raises(ControlError, match="no verb 'reboot'") as caught:
        served(net, path, asks("reboot"))
    assert "snapshot" in caught.value.evidence
    with pytest.raises(ControlError):
        served(net, path, asks(["snapshot"]))  # type: ignore[arg-type]


def test_request_without_an_end_is_cut_off(net: Stack, path: Path) -> None:
    answer = json.loads(served(net, path, sends(b"x" * (control.MAX_REQUEST * 3))))
    assert answer["error"][0] == "the request is too long"


def test_client_that_hangs_is_cut_off(net: Stack, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.05)

    def talk(path: Path) -> bytes:
        with raw(path) as sock:
            sock.sendall(b'{"verb": ')
            return sock.recv(1)

    assert served(net, path, talk) == b""


def test_client_that_does_not_read_is_cut_off(
    net: Stack, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.05)

    def talk(path: Path) -> bool:
        with raw(path) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(400):
                    sock.sendall(b'{"verb": "snapshot"}\n')
            hung_up = select.poll()
            hung_up.register(sock, 0)
            return bool(hung_up.poll(5000))

    assert served(net, path, talk)


def test_client_of_another_user_is_cut_off(net: Stack, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1 if uid else 1)
    monkeypatch.setattr(control, "ROOT", uid + 2)
    assert served(net, path, sends(b'{"verb": "counters"}\n')) == b""


def test_seventeenth_client_is_told_so_and_cut_off(net: Stack, path: Path) -> None:
    def talk(path: Path) -> Any:
        idle = [socket.socket(socket.AF_UNIX) for _ in range(control.MAX_CLIENTS)]
        for sock in idle:
            sock.connect(str(path))
        with pytest.raises(ControlError, match="too many clients"):
            asks("sysctl", name="tcp_sack")(path)
        for sock in idle:
            sock.close()
        for _ in range(100):  # the server hears of it one after the other
            with contextlib.suppress(ControlError):
                return asks("sysctl", name="tcp_sack")(path)
        raise AssertionError("nobody is served though the others have left")

    assert served(net, path, talk) == "1"


def test_server_that_ends_cuts_its_clients_off_without_a_word_on_its_terminal(
    net: Stack, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with ControlServer(net).listen(path):
            idle, tracing = [await asyncio.open_unix_connection(path) for _ in range(2)]
            tracing[1].write(b'{"verb": "trace"}\n')
            assert await tracing[0].readline() == b'{"ok": "tracing"}\n'
        assert await idle[0].read() == b""
        for _, writer in (idle, tracing):
            writer.close()

    asyncio.run(run(), debug=False)
    assert sys.gettrace() is None
    assert not caplog.records


def test_file_that_somebody_put_in_the_sockets_place_is_left_alone(net: Stack, path: Path) -> None:
    async def run() -> None:
        async with ControlServer(net).listen(path):
            path.unlink()
            path.write_text("precious")

    asyncio.run(run())
    assert path.read_text() == "precious"


def test_socket_is_the_users_own_and_goes_with_the_server(net: Stack, path: Path) -> None:
    assert served(net, path, lambda p: p.stat().st_mode & 0o777) == 0o600
    assert not path.exists()


# -- trace -------------------------------------------------------------------------------------------------------------


def traces(count: int, **more: object) -> Talk:
    """The first answers of a trace."""

    def talk(path: Path) -> list[dict[str, Any]]:
        with Client(path) as client:
            return list(client.stream("trace", count=count, **more))

    return talk


def test_trace_sends_trees_as_they_happen_until_there_are_enough(net: Stack, path: Path) -> None:
    found = served(net, path, traces(2), during=lambda: Socket(net).close())
    assert [answer["tree"].splitlines()[0] for answer in found] == ["sys_socket", "sys_close"]


def test_trace_of_a_port_leaves_out_the_others(net: Stack, path: Path) -> None:
    def during() -> None:
        for port in (80, 2222):
            sock = Socket(net)
            sock.bind(("10.0.2.2", port))
            sock.close()

    (bind,) = served(net, path, traces(1, port=2222, root="sys_bind", level="full"), during=during)
    assert bind["tree"].splitlines()[0] == "sys_bind"
    assert bind["flow"] == "10.0.2.2:2222 < 0.0.0.0:0"


def test_trace_of_a_peer_that_is_not_there_shows_nothing(net: Stack, path: Path) -> None:
    def talk(path: Path) -> bytes:
        with raw(path) as sock:
            sock.sendall(b'{"verb": "trace", "peer": "10.0.2.99:1"}\n')
            sock.settimeout(0.15)
            data = sock.recv(65536)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            return data

    answer = served(net, path, talk, during=lambda: Socket(net).close())
    assert json.loads(answer) == {"ok": "tracing"}


@pytest.mark.parametrize(
    ("more", "there"),
    [
        ({}, True),
        ({"port": 80}, True),
        ({"port": 81}, False),
        ({"port": 53}, True),
        ({"peer": "10.0.2.99:1"}, False),
        ({"port": 80, "peer": "10.0.2.99:1"}, False),
    ],
)
def test_client_is_told_whether_a_socket_is_meant(
    net: Stack, path: Path, more: dict[str, object], there: bool
) -> None:
    sock = Socket(net)
    sock.bind(("10.0.2.2", 80))
    sock.listen(1)
    Socket(net, type=SOCK_DGRAM).bind(("10.0.2.2", 53))
    assert served(net, path, asks("there", **more)) is there


def test_trace_of_a_phase_leaves_out_the_others(net: Stack, path: Path) -> None:
    def during() -> None:
        sock = Socket(net)
        sock.bind(("10.0.2.2", 80))
        sock.close()

    trees = served(net, path, traces(3, phase="close"), during=during)
    assert [answer["tree"].split()[0] for answer in trees] == ["sys_close"] * 3


def test_trace_that_falls_behind_says_how_much_it_lost(
    net: Stack, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "STREAM_BUFFER", 10)

    def during() -> None:
        for _ in range(6):  # two trees each
            Socket(net).close()

    answers = served(net, path, traces(15), during=during)
    lost = [answer["dropped"] for answer in answers if "dropped" in answer]
    assert lost
    assert all(n > 0 for n in lost)


def test_trace_of_a_thousand_connections_shows_or_counts_each(net: Stack, path: Path) -> None:
    """The trees that came and those that are said to be lost are all that there were."""
    made = iter([1000])

    def during() -> None:
        if net_watched():
            for _ in range(next(made, 0)):
                Socket(net).close()

    def net_watched() -> bool:
        return sys.gettrace() is not None

    def talk(path: Path) -> tuple[int, int]:
        came = lost = 0
        with Client(path) as client:
            for answer in client.stream("trace"):
                lost += answer.get("dropped", 0)
                came += "tree" in answer
                if came + lost == 2000:
                    break
        return came, lost

    came, lost = served(net, path, talk, during=during)
    assert came == control.STREAM_BUFFER
    assert came + lost == 2000


def test_trace_of_one_root_is_not_crowded_out_by_others(
    net: Stack, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "STREAM_BUFFER", 10)

    def during() -> None:
        sock = Socket(net)
        sock.bind(("10.0.2.2", 80))
        for _ in range(20):
            Socket(net).close()
        sock.close()

    answers = served(net, path, traces(2, root="sys_bind"), during=during)
    assert ["tree" in answer for answer in answers] == [True, True]


def test_packets_of_a_server_without_a_port_are_refused(net: Stack, path: Path) -> None:
    def talk(path: Path) -> None:
        with Client(path) as client:
            client.stream("packets")

    with pytest.raises(ControlError, match="no port to look at"):
        served(net, path, talk)


def test_trace_of_a_compiled_stack_is_refused(
    net: Stack, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_ipv4, "__file__", "tcp_ipv4.cpython-311-x86_64-linux-gnu.so")
    with pytest.raises(ControlError, match="cannot trace") as refused:
        served(net, path, traces(1))
    assert "the stack is compiled" in refused.value.evidence


def test_trace_refused_leaves_the_debugger_that_was_there(net: Stack, path: Path) -> None:
    async def run() -> None:
        def debugger(frame: object, event: str, arg: object) -> None:
            """Somebody else's."""

        async with ControlServer(net).listen(path):
            reader, writer = await asyncio.open_unix_connection(path)
            sys.settrace(debugger)
            try:
                writer.write(b'{"verb": "trace"}\n')
                assert b"cannot trace" in await reader.readline()
                assert sys.gettrace() is debugger
            finally:
                sys.settrace(None)
                writer.close()

    asyncio.run(run())


def test_back_end_that_ends_before_there_are_enough_trees_is_told(net: Stack, path: Path) -> None:
    def talk(path: Path) -> None:
        with Client(path) as client:
            stream = client.stream("trace", count=1_000_000)
            next(stream)
            client._socket.shutdown(socket.SHUT_WR)  # which makes it hang up
            with pytest.raises(NoBackEnd, match="hung up"):
                list(stream)

    served(net, path, talk, during=lambda: Socket(net).close())


@pytest.mark.parametrize(
    ("request_", "fact"),
    [
        ({"root": []}, "no tree begins with"),
        ({"peer": "nobody"}, "'nobody' is no address with a port"),
        ({"peer": "10.0.2.15:99999"}, "is no address with a port"),
        ({"level": "chatty"}, "there is no level 'chatty'"),
        ({"root": "main"}, "no tree begins with 'main'"),
        ({"port": "http"}, "the filter is not understood"),
        ({"phase": "noon"}, "there is no phase 'noon'"),
        ({"phase": []}, "there is no phase"),
    ],
)
def test_trace_filter_that_cannot_be_is_refused(
    net: Stack, path: Path, request_: dict[str, object], fact: str
) -> None:
    with pytest.raises(ControlError, match=fact):
        served(net, path, traces(1, **request_))


def test_two_trace_at_the_same_time_and_both_get_every_tree(net: Stack, path: Path) -> None:
    def talk(path: Path) -> tuple[str, str]:
        with Client(path) as first, Client(path) as second:
            one, other = first.stream("trace", root="sys_close"), second.stream("trace", root="sys_close")
            return str(next(one)["tree"]), str(next(other)["tree"])

    one, other = served(net, path, talk, during=lambda: Socket(net).close())
    assert one.startswith("sys_close")
    assert one == other


def test_trace_ends_with_its_client_and_costs_nothing_then(net: Stack, path: Path) -> None:
    seen: list[bool] = []

    def during() -> None:
        Socket(net).close()
        seen.append(sys.gettrace() is not None)

    def talk(path: Path) -> None:
        with Client(path) as client:
            next(client.stream("trace"))
        for _ in range(100):
            if seen[-1] is False:
                return
            asks("sysctl", name="tcp_sack")(path)

    served(net, path, talk, during=during)
    assert True in seen
    assert sys.gettrace() is None


# -- finding the back end, and nstat's history -------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(control, "directory", lambda: tmp_path)
    return tmp_path


def test_socket_of_an_ended_back_end_is_removed_with_its_history(runtime: Path) -> None:
    dead = runtime / "1.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    control.history(dead).touch()
    assert control.running() == []
    assert not list(runtime.iterdir())


def test_back_end_whose_backlog_is_full_is_one_that_runs(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = runtime / "1.sock"
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as other:
        sock.bind(str(busy))
        sock.listen(0)
        other.connect(str(busy))
        monkeypatch.setattr(control, "PROBE_S", 0.01)
        assert control.running() == [busy]


def test_no_back_end_is_told_how_to_start_one(runtime: Path) -> None:
    with pytest.raises(NoBackEnd, match="no back end runs"):
        control.choose(None)


def test_only_back_end_is_found_and_of_two_one_has_to_be_named(net: Stack, runtime: Path) -> None:
    def talk(path: Path) -> None:
        assert control.choose(None) == path
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(runtime / "2.sock"))
            other.listen()
            with pytest.raises(UsageError, match="2 back ends run"):
                control.choose(None)
            assert control.choose(path) == path

    served(net, runtime / "1.sock", talk)


def test_back_end_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoBackEnd, match="no back end answers at"):
        Client(tmp_path / "none.sock")


def test_nstat_shows_what_came_since_the_last_time(net: Stack, path: Path) -> None:
    def count() -> None:
        net.mib.net_statistics[LISTENDROPS] += 2

    def talk(path: Path) -> list[int]:
        def drops(**how: bool) -> int:
            values = counters.read(path, **{"absolute": False, "update": True, **how})
            return values["TcpExtListenDrops"]

        first = drops()
        count()
        return [first, drops(update=False), drops(), drops(), drops(absolute=True)]

    count()
    assert served(net, path, talk) == [2, 2, 2, 0, 4]
    assert not control.history(path).exists()


def test_nstat_of_another_run_begins_anew(net: Stack, path: Path) -> None:
    control.history(path).write_text('{"IpDefaultTTL": 1000, "IpForwarding": 1}')
    values = served(net, path, lambda p: counters.read(p, absolute=False, update=False))
    assert (values["IpDefaultTTL"], values["IpForwarding"]) == (64, 2)
    control.history(path).write_text("damaged")
    assert served(net, path, lambda p: counters.read(p, absolute=False, update=False))["IpDefaultTTL"] == 64


def test_nstat_chooses_by_name_and_leaves_out_zeros() -> None:
    values = {"TcpInSegs": 3, "TcpOutRsts": 0, "IpInReceives": 5}
    assert counters.chosen(values, [], zeros=False) == {"TcpInSegs": 3, "IpInReceives": 5}
    assert counters.chosen(values, ["Tcp*"], zeros=True) == {"TcpInSegs": 3, "TcpOutRsts": 0}
    with pytest.raises(UsageError, match="no counter is called Udp"):
        counters.chosen(values, ["Udp*"], zeros=True)
    assert counters.text({"TcpInSegs": 3}) == f"#kernel\n{'TcpInSegs':<32}3\n"


# -- capture -----------------------------------------------------------------------------------------------------


def test_capture_is_started_with_what_the_request_says(net: Stack, path: Path) -> None:
    capture = Captured()
    start = asks("capture", action="start", file="/tmp/a.pcapng", ring=100_000, files=3, comments=True)
    assert served(net, path, start, capture=capture) == {"running": True}
    assert capture.wanted == Wanted(Path("/tmp/a.pcapng"), 100_000, 3, True)
    assert served(net, path, asks("capture"), capture=capture) == {"running": True}


def test_capture_that_does_not_run_is_stopped_with_an_error(net: Stack, path: Path) -> None:
    with pytest.raises(ControlError, match="no capture runs"):
        served(net, path, asks("capture", action="stop"), capture=Captured())


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"file": 1},
        *({"file": "a", "ring": odd} for odd in ("1", True, 1.5)),
        *({"file": "a", "files": odd} for odd in (None, True)),
        {"file": "a", "comments": 1},
    ],
)
def test_capture_with_odd_values_is_refused(net: Stack, path: Path, odd: dict[str, Any]) -> None:
    capture = Captured()
    with pytest.raises(ControlError, match="not understood"):
        served(net, path, asks("capture", action="start", **odd), capture=capture)
    assert capture.wanted is None


def test_capture_where_none_can_be_is_no_verb(net: Stack, path: Path) -> None:
    with pytest.raises(ControlError, match="no verb 'capture'"):
        served(net, path, asks("capture"))


# -- large answers -----------------------------------------------------------------------------------------------------


class Observed:
    """In an Observation's place: over at once, with a record of that size."""

    def __init__(self, size: int) -> None:
        self._record = {"data": "x" * size}
        self.ended = 1

    def start(self) -> None:
        """There is nothing to watch."""

    stop = start

    def record(self) -> dict[str, Any]:
        return self._record


def test_last_answer_reaches_a_client_that_reads_it_late(
    net: Stack, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it the socket's buffers hold: with one of these sizes the end of it waits in the server's own."""
    monkeypatch.setattr(control, "STREAM_PERIOD_S", 0.002)

    def lengths(path: Path) -> list[int]:
        found = []
        for _ in sizes:
            with Client(path) as client:
                client.observe(connections=1)
                hung_up = select.poll()
                hung_up.register(client._socket, 0)
                hung_up.poll(12)
                found.append(len(client.read_record()["data"]))
        return found

    async def run() -> list[int]:
        made = iter(sizes)
        server = ControlServer(net, observe=lambda wanted: Observed(next(made)))  # type: ignore[arg-type,return-value]
        async with server.listen(path):
            return await asyncio.to_thread(lengths, path)

    sizes = [kilobytes << 10 for kilobytes in range(64, 513, 48)]
    assert asyncio.run(run()) == sizes


def test_packets_have_their_turn_between_two_trees_that_are_drawn(net: Stack, path: Path) -> None:
    turns = []

    async def run() -> None:
        async def others() -> None:
            while True:
                turns.append(sum("tree" in line for line in lines))
                await asyncio.sleep(0)

        async with ControlServer(net).listen(path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"verb": "trace", "count": 50}\n')
            await reader.readline()
            for _ in range(25):
                Socket(net).close()
            task = asyncio.ensure_future(others())
            while (line := await reader.readline()) != b'{"ok": "done"}\n':
                lines.append(json.loads(line))
            task.cancel()
            writer.close()

    lines: list[dict[str, Any]] = []
    asyncio.run(run())
    assert len(lines) == 50
    assert len(set(turns)) > 10
