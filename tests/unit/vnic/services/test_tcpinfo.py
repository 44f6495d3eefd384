# SPDX-License-Identifier: GPL-2.0-or-later
"""struct tcp_info from both kinds of transport."""

from __future__ import annotations

import asyncio
import socket

from vnic.services import tcpinfo


class Told(asyncio.BaseTransport):
    def __init__(self, **extra: object) -> None:
        super().__init__(extra)


def test_stack_transport_tells_a_mapping() -> None:
    info = tcpinfo.tcp_info(Told(tcp_info={"tcpi_state": 1, "tcpi_rtt": 250, "tcpi_options": 7}))
    assert info["tcpi_rtt"] == 250
    assert tcpinfo.state_name(info) == "ESTABLISHED"
    assert tcpinfo.option_names(info) == ["timestamps", "sack", "wscale"]


def test_host_socket_is_unpacked() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        info = tcpinfo.tcp_info(Told(socket=client))
        mss = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    assert tcpinfo.state_name(info) == "ESTABLISHED"
    assert info["tcpi_snd_mss"] == mss
    assert info["tcpi_pmtu"] == 65535  # of the loopback device, at TCP's limit


def test_nothing_known_is_empty() -> None:
    assert tcpinfo.tcp_info(Told()) == {}
    assert tcpinfo.unpack(b"short") == {}
    assert tcpinfo.state_name({}) == "UNKNOWN"
