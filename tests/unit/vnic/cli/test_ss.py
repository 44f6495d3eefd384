# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic ss``, ``tcpinfo``, ``nstat`` and ``sysctl`` as typed, of a stack in virtual time that stands in for the
back end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stack.api import bsd
from stack.api.sim import MSEC, Sim
from stack.inspect.snapshot import counters
from stack.stack import Stack
from vnic import cli, control
from vnic.cli import tcpinfo


@pytest.fixture
def sim() -> Sim:
    return Sim(seed=1)


@pytest.fixture
def net(sim: Sim) -> Stack:
    """A listener on 7, one connection to it over IPv4 and one over IPv6, an accepted one, UDP on 53."""
    net = sim.add_stack("10.0.2.2/24", "fd00:10:0:2:5054:ff:fe12:3456/64")
    peer = sim.add_peer("10.0.2.15", net, delay_ns=5 * MSEC, addr6="fd00:10:0:2:5054:ff:fe65:4321")
    sock = bsd.Socket(net, bsd.AF_INET6)
    sock.bind(("::", 7))
    sock.listen(5)
    bsd.Socket(net, type=bsd.SOCK_DGRAM).bind(("", 53))
    peer.tcp(7, dst="10.0.2.2").handshake()
    peer.tcp(7, dst="fd00:10:0:2:5054:ff:fe12:3456", sport=40001).handshake()
    sim.run_for(10 * MSEC)
    sock.accept()
    return net


@pytest.fixture(autouse=True)
def back_end(net: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        """Asks the stack itself, through JSON."""

        pid = 4711

        def __init__(self, path: Path) -> None: ...

        def ask(self, verb: str, **more: str) -> Any:
            answers: dict[str, Callable[[], Any]] = {
                "snapshot": net.snapshot,
                "counters": lambda: counters(net),
                "sysctls": lambda: {
                    name: control.sysctl_text(value) for name, value in net.sysctls().items()
                },
                "sysctl": lambda: control.sysctl_text(net.sysctl_get(more["name"])),
            }
            return json.loads(json.dumps(answers[verb]()))

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *exc: object) -> None: ...

    monkeypatch.setattr(control, "Client", Client)
    monkeypatch.setattr("vnic.counters.Client", Client)


Verb = Callable[..., list[str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Verb:
    """What a command line prints, line by line."""

    def run(*arguments: str) -> list[str]:
        assert cli.main([*arguments, "--control", "/there"]) == 0
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, typed: Verb) -> Verb:
    """The same on a terminal of 80 columns."""

    def run(*arguments: str) -> list[str]:
        monkeypatch.setenv("TERM", "dumb")  # no escape sequences, and 80 columns
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        return typed(*arguments)

    return run


def test_ss_shows_connections_of_both_kinds(typed: Verb) -> None:
    heading, *socks = typed("ss")
    assert heading.split()[:2] == ["Netid", "State"]
    assert sorted(line.split()[:2] for line in socks) == [["tcp", "ESTAB"], ["tcp", "ESTAB"]]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("-a", ["udp UNCONN", "tcp LISTEN", "tcp ESTAB", "tcp ESTAB"]),
        ("-l", ["udp UNCONN", "tcp LISTEN"]),
        ("-tl", ["LISTEN 1"]),
        ("-uan", ["UNCONN 0"]),
        ("-4a", ["udp UNCONN"]),
        ("-t state listening", ["1 5"]),  # ss shows no column of what all have
        ("-l state established dst 10.0.2.15", ["tcp 0"]),
    ],
)
def test_ss_options_choose_kind_state_and_family(typed: Verb, options: str, found: list[str]) -> None:
    lines = typed("ss", "-H", *options.split())
    assert [" ".join(line.split()[:2]) for line in lines] == found


def test_ss_details_say_who_has_the_socket(typed: Verb) -> None:
    line, info = typed("ss", "-Htnmpoie", "dst", "10.0.2.15")
    assert 'users:(("vnic",pid=4711,fd=5))' in line
    assert line.endswith(" <->")
    assert info.startswith("\t skmem:(r0,rb131072,")
    assert " ts sack cubic wscale:7,7 rto:212 " in info


def test_ss_json_is_a_list_of_objects(typed: Verb) -> None:
    (text,) = typed("ss", "-ta", "--json", "sport = :echo")
    socks = json.loads(text)
    assert [sock["state"] for sock in socks] == ["LISTEN", "ESTAB", "ESTAB"]
    assert socks[0]["users"] == [{"name": "vnic", "pid": 4711, "fd": 3}]


def test_ss_summary_counts(typed: Verb) -> None:
    assert typed("ss", "-s")[1] == "TCP:   3 (estab 2, closed 0, orphaned 0, timewait 0)"
    assert json.loads(typed("ss", "-s", "--json")[0])["tcp"]["estab"] == 2


def test_ss_on_a_terminal_stays_within_80_columns(terminal: Verb) -> None:
    lines = terminal("ss", "-tanmpoie")
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[0] == "State"
    assert "skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d0) cubic cwnd:10" in " ".join(" ".join(lines).split())
    assert terminal("ss", "-tHl")[0].split()[:4] == ["LISTEN", "1", "5", "*:7"]


def test_ss_of_a_bad_filter_is_2_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ss", "-t", "dport", "7"]) == 2
    fact, evidence, remedy = capsys.readouterr().err.splitlines()
    assert fact == "error: the filter is not understood"
    assert evidence == "  because: after 'dport' there should be one of = != < > <= >=, and there is '7'"
    assert remedy.startswith("  to mend it: such as: vnic ss -t state established")


# -- tcpinfo -----------------------------------------------------------------------------------------------------------


def test_tcpinfo_shows_every_field_with_unit_and_meaning(typed: Verb) -> None:
    head, *fields = typed("tcpinfo", "10.0.2.2:7", "10.0.2.15:40000")
    assert head == "[::ffff:10.0.2.2]:7 < [::ffff:10.0.2.15]:40000 ESTAB cubic"
    assert "tcpi_rtt 10000 us round trip, smoothed" in [" ".join(line.split()) for line in fields]
    assert len(fields) == len(json.loads(typed("tcpinfo", "10.0.2.15:40000", "--json")[0])["tcp_info"])


def test_tcpinfo_on_a_terminal_stays_within_80_columns(terminal: Verb) -> None:
    lines = terminal("tcpinfo", "[fd00:10:0:2:5054:ff:fe65:4321]:40001")
    assert max(map(len, lines)) <= 80
    assert ["tcpi_state", "1", "ESTABLISHED"] in [line.split()[:3] for line in lines]


def test_tcpinfo_that_watches_shows_what_changed(
    sim: Sim, typed: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        sim.run_for(int(seconds * 1000) * MSEC)

    monkeypatch.setattr(tcpinfo.time, "sleep", sleep)
    lines = typed("tcpinfo", "10.0.2.15:40000", "--watch", "0.5", "-c", "2")
    assert pauses == [0.5]
    after = next(i for i, line in enumerate(lines) if line.startswith("after "))
    changes = [line.split() for line in lines[after + 1 :]]
    assert ["tcpi_last_ack_recv", "528", "ms", "+500"] in changes
    assert len(typed("tcpinfo", "10.0.2.15:40000", "-c", "3", "--json")) == 3
    assert pauses == [0.5, 1.0, 1.0]


def test_tcpinfo_of_a_connection_that_is_not_there_is_2_and_says_what_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["tcpinfo", "10.0.2.99:1", "--control", "/there"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "error: there is no connection 10.0.2.99:1"
    assert "    [::ffff:10.0.2.2]:7 [::ffff:10.0.2.15]:40000 (ESTAB)" in told
    assert told[-1] == "  to mend it: vnic ss -ta shows what there is"
    assert cli.main(["tcpinfo", "nobody", "--control", "/there"]) == 2
    assert cli.main(["tcpinfo", "10.0.2.2:7", "10.0.2.15:40000", "x", "--control", "/there"]) == 2


# -- nstat, sysctl -------------------------------------------------------------------------------------------------


def test_nstat_in_a_pipe_is_nstats_and_on_a_terminal_a_table(typed: Verb, terminal: Verb) -> None:
    arguments = ("nstat", "-a", "-s", "TcpPassiveOpens", "TcpExtTCPPureAcks")
    piped, shown = typed(*arguments), terminal(*arguments)
    assert piped[0] == "#kernel"
    assert shown[0].split() == ["counter", "value"]
    assert [line.split() for line in shown[1:]] == [line.split() for line in piped[1:]]


def test_sysctl_on_a_terminal_is_a_table_of_at_most_80_columns(typed: Verb, terminal: Verb) -> None:
    assert typed("sysctl", "tcp_rmem") == ["tcp_rmem = 4096\t131072\t6291456"]
    heads, row = terminal("sysctl", "tcp_rmem")
    assert (heads.split(), row.split()) == (["sysctl", "value"], ["tcp_rmem", "4096", "131072", "6291456"])
    lines = terminal("sysctl", "-a")
    assert max(map(len, lines)) <= 80
    assert len(lines) > 50
    assert terminal("sysctl", "-n", "tcp_rmem") == ["4096\t131072\t6291456"]
