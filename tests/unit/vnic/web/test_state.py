# SPDX-License-Identifier: GPL-2.0-or-later
"""What the page shows, of stacks in virtual time."""

from __future__ import annotations

import json

import pytest

from devmodel.netdev.loopback import Loopback
from stack.api.bsd import AF_INET, AF_INET6, SOCK_DGRAM, Socket
from vnic.callgraph import CLIENT_PORT, PORT, World
from vnic.control import flow_text
from vnic.web import state

KEY = f"10.0.2.2:{PORT} < 10.0.2.15:{CLIENT_PORT}"


def crowded(count: int) -> World:
    world = World()
    world.sock.bind(("", PORT))
    world.sock.listen(count)
    for i in range(count):
        world.peer.tcp(PORT, sport=10_000 + i).handshake()
    return world


def test_connection_is_a_row_with_what_ss_shows() -> None:
    world = World()
    world.established()
    world.client.send("PA", b"hello")
    world.sim.settle()
    told = state.connections(world.net)
    (row,) = told["rows"]
    assert (row["key"], row["state"], row["recv_q"], row["cwnd"]) == (KEY, "ESTAB", 5, 10)
    assert (row["local"], row["peer"]) == tuple(KEY.split(" < "))
    assert (told["more"], told["states"]) == (0, {"ESTAB": 1})


def test_request_and_time_wait_are_rows_in_sss_words() -> None:
    world = World()
    world.half_open()
    assert [row["state"] for row in state.connections(world.net)["rows"]] == ["SYN-RECV"]
    world = World()
    world.fin_wait2()
    world.receive_fin()
    told = state.connections(world.net)
    assert [row["state"] for row in told["rows"]] == ["TIME-WAIT"]
    assert told["states"] == {"TIME-WAIT": 1}


def test_thousand_connections_are_cut_at_the_bound_and_the_rest_is_counted() -> None:
    net = crowded(1000).net
    told = state.connections(net)
    assert (len(told["rows"]), told["more"]) == (state.MAX_ROWS, 1000 - state.MAX_ROWS)
    assert told["states"] == {"ESTAB": 1000}
    assert told["rows"][0]["peer"] == "10.0.2.15:10999"  # the youngest
    assert len(json.dumps(told)) < 40_000
    chosen, more = state.drawn(net)
    assert (len(chosen), more) == (1 + state.MAX_DRAWN, 1000 - state.MAX_DRAWN)


def test_port_narrows_connections_down() -> None:
    net = crowded(3).net
    assert [row["peer"] for row in state.connections(net, 10_001)["rows"]] == ["10.0.2.15:10001"]
    assert len(state.connections(net, PORT)["rows"]) == 3
    assert state.connections(net, 80) == {"rows": [], "more": 0, "states": {}}


def test_listener_shows_both_queues_and_udp_follows() -> None:
    world = World()
    Socket(world.net, AF_INET, SOCK_DGRAM).bind(("10.0.2.2", 53))
    world.half_open()
    told = state.listeners(world.net)
    tcp, udp = told["rows"]
    assert tcp == {
        "netid": "tcp",
        "local": f"0.0.0.0:{PORT}",
        "recv_q": 0,
        "backlog": 5,
        "qlen": 1,
        "young": 1,
    }
    assert (udp["netid"], udp["local"], udp["backlog"]) == ("udp", "10.0.2.2:53", None)
    world.receive_ack()
    assert state.listeners(world.net)["rows"][0]["recv_q"] == 1
    assert told["more"] == 0


def test_detail_has_every_field_of_tcp_info_and_says_when_the_connection_is_gone() -> None:
    world = World()
    world.established()
    told = state.detail(world.net, state.parse_ends(KEY))
    assert told["head"] == f"{KEY} ESTAB"
    rows = {name: value for name, value, _ in told["rows"]}
    assert rows["tcpi_state"] == "1 ESTABLISHED"
    assert len(rows) > 50
    assert any(word.startswith("skmem:") for word in told["words"])
    assert state.detail(world.net, state.parse_ends("10.0.2.2:1 < 10.0.2.15:1")) == {"gone": True}


def test_detail_of_a_request_has_no_tcp_info() -> None:
    world = World()
    world.half_open()
    told = state.detail(world.net, state.parse_ends(KEY))
    assert told["rows"] == []
    assert told["words"][0].startswith("timer:(on,")


def test_ends_of_a_dual_stack_sockets_ipv4_connection_are_ipv4s() -> None:
    world = World()
    world.sock.close()
    world.sock = Socket(world.net, AF_INET6)
    world.sock.bind(("::", PORT))
    world.sock.listen(5)
    world.client.handshake()
    assert [row["key"] for row in state.connections(world.net)["rows"]] == [KEY]
    assert state.detail(world.net, state.parse_ends(KEY))["rows"]


@pytest.mark.parametrize("text", [KEY, "[fd00::2]:80 < [fd00::15]:40000"])
def test_key_of_a_connection_is_read_as_it_is_written(text: str) -> None:
    assert flow_text(state.parse_ends(text)) == text


@pytest.mark.parametrize("text", ["", "10.0.2.2:7", "a < b", "10.0.2.2 < 10.0.2.15", "x" * 5000])
def test_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        state.parse_ends(text)


def test_counters_are_the_kernels_the_devices_the_ports_and_the_drops_without_zeros() -> None:
    world = World()
    world.established()
    port = Loopback().a
    port.send(None, [b"frame"])
    told = state.counted(world.net, port)
    assert told["TcpPassiveOpens"] == 1
    assert told["eth0 rx_packets"] > 0
    assert told["port tx_frames"] == 1
    assert all(told.values())


def test_looking_changes_nothing() -> None:
    world = World()
    world.established()
    before = json.dumps(world.net.snapshot())
    state.connections(world.net)
    state.listeners(world.net)
    state.detail(world.net, state.parse_ends(KEY))
    state.about(world.net, Loopback().a)
    assert json.dumps(world.net.snapshot()) == before
