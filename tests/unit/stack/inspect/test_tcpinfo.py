# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from stack.api import bsd
from stack.api.sim import MSEC, Sim
from stack.inspect import ss, tcpinfo
from stack.inspect.tcpinfo import NoConnection
from stack.net.ipv4.tcp import tcp_get_info
from stack.profile import PROFILES
from stack.stack import Stack


@pytest.fixture
def sim() -> Sim:
    return Sim(seed=1)


@pytest.fixture
def net(sim: Sim) -> Stack:
    """A connection from port 40000 that is accepted."""
    return connected(sim, "linux-6.1")


def connected(sim: Sim, profile: str) -> Stack:
    net = sim.add_stack("10.0.2.2/24", "10.0.2.3/24", profile=profile)
    peer = sim.add_peer("10.0.2.15", net, delay_ns=5 * MSEC)
    sock = bsd.Socket(net)
    sock.bind(("", 7))
    sock.listen(5)
    peer.tcp(7).handshake()
    sim.run_for(10 * MSEC)
    sock.accept()
    return net


def found(net: Stack, *ends: str) -> ss.Sock:
    return tcpinfo.connection(ss.sockets(net.snapshot()), ends)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_field_has_a_meaning_and_the_value_of_tcp_info(sim: Sim, profile: str) -> None:
    net = connected(sim, profile)
    (child,) = (sk for chain in net.tcp_hashinfo.ehash.values() for sk in chain)
    shown = tcpinfo.values(found(net, "10.0.2.15:40000"))
    assert shown == tcp_get_info(child)  # type: ignore[arg-type]
    assert all(meaning for _, _, meaning in tcpinfo.rows(shown))


def test_values_are_put_into_words(net: Stack) -> None:
    rows = {name: value for name, value, _ in tcpinfo.rows(tcpinfo.values(found(net, "10.0.2.15:40000")))}
    assert rows["tcpi_state"] == "1 ESTABLISHED"
    assert rows["tcpi_ca_state"] == "0 Open"
    assert rows["tcpi_options"] == "7 timestamps sack wscale"
    assert rows["tcpi_snd_ssthresh"] == "none yet"
    assert rows["tcpi_max_pacing_rate"] == "no limit"
    assert rows["tcpi_rtt"] == "10000 us"


def test_what_changed_is_shown_with_the_difference() -> None:
    before, now = (
        {"tcpi_rtt": 300, "tcpi_unacked": 4, "tcpi_rto": 1},
        {"tcpi_rtt": 250, "tcpi_unacked": 6, "tcpi_rto": 1},
    )
    assert list(tcpinfo.changed(before, now)) == [
        ("tcpi_rtt", "250 us", "-50"),
        ("tcpi_unacked", "6 segments", "+2"),
    ]


def test_connection_is_found_by_the_peer_or_by_both_ends(net: Stack) -> None:
    by_peer = found(net, "10.0.2.15:40000")
    assert tcpinfo.head(by_peer) == "10.0.2.2:7 < 10.0.2.15:40000 ESTAB cubic"
    assert found(net, "10.0.2.2:7", "10.0.2.15:40000") == by_peer
    assert found(net, "10.0.2.2:7", "[::ffff:10.0.2.15]:40000") == by_peer


@pytest.mark.parametrize("ends", [("10.0.2.15:40001",), ("10.0.2.2:8", "10.0.2.15:40000"), ("10.0.2.2:7",)])
def test_connection_that_is_not_there_is_told_what_is(net: Stack, ends: tuple[str, ...]) -> None:
    with pytest.raises(NoConnection, match="there is no connection") as caught:
        found(net, *ends)
    assert "10.0.2.2:7 10.0.2.15:40000 (ESTAB)" in caught.value.evidence
    assert "vnic ss -ta" in caught.value.remedy


def test_stack_without_connections_says_so(sim: Sim) -> None:
    with pytest.raises(NoConnection) as caught:
        found(sim.add_stack("10.0.2.2/24"), "10.0.2.15:40000")
    assert caught.value.evidence == "there is no connection at all"


def test_peer_of_two_connections_has_to_be_named_with_the_local_end(sim: Sim, net: Stack) -> None:
    sock = bsd.Socket(net)
    sock.bind(("10.0.2.3", 9))
    with pytest.raises(BlockingIOError):
        sock.connect(("10.0.2.15", 40000))
    with pytest.raises(NoConnection, match="there are 2 connections") as caught:
        found(net, "10.0.2.15:40000")
    assert caught.value.remedy == "name both ends"
    assert found(net, "10.0.2.3:9", "10.0.2.15:40000").state == "SYN-SENT"


def test_half_open_connection_has_no_tcp_info_yet(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24")
    peer = sim.add_peer("10.0.2.15", net)
    sock = bsd.Socket(net)
    sock.bind(("", 7))
    sock.listen(5)
    conn = peer.tcp(7)
    conn.send("S", mss=1460)
    conn.expect("SA")
    with pytest.raises(NoConnection, match="has no struct tcp_info") as caught:
        found(net, "10.0.2.15:40000")
    assert caught.value.evidence == "it is in SYN-RECV and has no socket yet"


@pytest.mark.parametrize("text", ["nobody", "10.0.2.15", "10.0.2.400:7", "10.0.2.15:http"])
def test_end_that_is_none_is_told_how_one_looks(net: Stack, text: str) -> None:
    with pytest.raises(NoConnection, match="is no address with a port") as caught:
        found(net, text)
    assert "10.0.2.15:40000" in caught.value.remedy
