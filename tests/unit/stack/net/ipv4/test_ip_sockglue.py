# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of level SOL_IP."""

from __future__ import annotations

import errno

import pytest

from stack.api.sim import Sim
from stack.include.ip import (
    IP_FREEBIND,
    IP_MINTTL,
    IP_MTU,
    IP_MTU_DISCOVER,
    IP_MULTICAST_TTL,
    IP_OPTIONS,
    IP_PKTINFO,
    IP_TOS,
    IP_TTL,
)
from stack.include.sock import AF_INET, SOCK_DGRAM, SOCK_STREAM
from stack.net import socket as net_socket

SOL_IP = 0


class Sockets:
    def __init__(self) -> None:
        self.net = Sim(seed=5).add_stack("10.0.2.2/24")
        self.stream = net_socket.sys_socket(self.net, AF_INET, SOCK_STREAM)
        self.dgram = net_socket.sys_socket(self.net, AF_INET, SOCK_DGRAM)

    def set(self, fd: int, name: int, value: int | bytes) -> int:
        return net_socket.sys_setsockopt(self.net, fd, SOL_IP, name, value)

    def get(self, fd: int, name: int) -> tuple[int, int | bytes]:
        return net_socket.sys_getsockopt(self.net, fd, SOL_IP, name)


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        (IP_TTL, 9, 9),
        (IP_TTL, -1, 64),
        (IP_TTL, b"\x0a\0\0\0", 10),
        (IP_TTL, b"\x0b", 11),
        (IP_MINTTL, 255, 255),
        (IP_MTU_DISCOVER, 2, 2),
        (IP_PKTINFO, 1, 1),
        (IP_FREEBIND, 1, 1),
        (IP_OPTIONS, b"\x94\x04\0\0", b"\x94\x04\0\0"),
    ],
)
def test_option_reads_back(sockets, name, value, read):
    for fd in (sockets.stream, sockets.dgram):
        assert sockets.set(fd, name, value) == 0
        assert sockets.get(fd, name) == (0, read)


@pytest.mark.parametrize(
    ("name", "value"),
    [(IP_TTL, 0), (IP_TTL, 256), (IP_MINTTL, -1), (IP_MTU_DISCOVER, 6), (IP_OPTIONS, bytes(41))],
)
def test_option_out_of_range_is_invalid(sockets, name, value):
    assert sockets.set(sockets.dgram, name, value) == -errno.EINVAL


def test_tos_of_a_stream_leaves_the_ecn_bits_to_tcp(sockets):
    assert sockets.set(sockets.stream, IP_TOS, 0x13) == 0
    assert sockets.get(sockets.stream, IP_TOS) == (0, 0x10)
    assert sockets.set(sockets.dgram, IP_TOS, 0x13) == 0
    assert sockets.get(sockets.dgram, IP_TOS) == (0, 0x13)


def test_tos_sets_the_priority(sockets):
    sockets.set(sockets.dgram, IP_TOS, 0x10)
    sock = net_socket.sockfd_lookup_light(sockets.net, sockets.dgram)
    assert sock is not None
    assert sock.sk.sk_priority == 6


def test_multicast_ttl_is_not_for_streams(sockets):
    assert sockets.set(sockets.stream, IP_MULTICAST_TTL, 3) == -errno.EINVAL
    assert sockets.set(sockets.dgram, IP_MULTICAST_TTL, 3) == 0


def test_mtu_needs_a_route(sockets):
    assert sockets.get(sockets.dgram, IP_MTU) == (-errno.ENOTCONN, 0)
    assert net_socket.sys_connect(sockets.net, sockets.dgram, (0x0A00020F, 9)) == 0
    assert sockets.get(sockets.dgram, IP_MTU) == (0, 1500)


def test_unknown_option_is_no_protocol_option(sockets):
    assert sockets.set(sockets.dgram, 999, 1) == -errno.ENOPROTOOPT
    assert sockets.get(sockets.dgram, 999) == (-errno.ENOPROTOOPT, 0)
