# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors and the socket calls' own checks."""

from __future__ import annotations

import errno

import pytest

from stack.api.sim import Sim
from stack.include.net import SOCK_NONBLOCK
from stack.include.sock import AF_INET, SOCK_DGRAM, SOCK_STREAM
from stack.net import socket as net_socket
from stack.stack import Stack


@pytest.fixture
def net() -> Stack:
    return Sim(seed=3).add_stack("10.0.2.2/24")


def test_descriptors_are_the_lowest_free_ones(net):
    first, second, third = (net_socket.sys_socket(net, AF_INET, SOCK_STREAM) for _ in range(3))
    assert (second, third) == (first + 1, first + 2)
    net_socket.sys_close(net, third)
    net_socket.sys_close(net, first)
    assert net_socket.sys_socket(net, AF_INET, SOCK_DGRAM) == first
    assert net_socket.sys_socket(net, AF_INET, SOCK_DGRAM) == third


def test_descriptors_of_two_stacks_know_nothing_of_each_other(net):
    other = Sim(seed=4).add_stack("10.0.2.3/24")
    fd = net_socket.sys_socket(net, AF_INET, SOCK_STREAM)
    assert net_socket.sys_close(other, fd) == -errno.EBADF
    assert net_socket.sys_close(net, fd) == 0
    assert net_socket.sys_close(net, fd) == -errno.EBADF


def test_full_table_refuses_and_leaks_nothing(net):
    net.files.max_fds = net.files.next_fd + 1
    fd = net_socket.sys_socket(net, AF_INET, SOCK_STREAM)
    assert net_socket.sys_socket(net, AF_INET, SOCK_STREAM) == -errno.EMFILE
    assert list(net.files.fdt) == [fd]


def test_socket_type_may_carry_flags(net):
    fd = net_socket.sys_socket(net, AF_INET, SOCK_STREAM | SOCK_NONBLOCK)
    assert net.files.fdt[fd].f_flags == SOCK_NONBLOCK


def test_second_descriptor_keeps_the_socket_open(net):
    fd = net_socket.sys_socket(net, AF_INET, SOCK_STREAM)
    file = net.files.fdt[fd]
    sock = file.private_data
    file.f_count += 1
    net_socket.fd_install(net, net_socket.get_unused_fd_flags(net, 0), file)
    net_socket.sys_close(net, fd)
    assert file.private_data is sock
    net_socket.fput_light(file, 1)
    assert file.private_data is None


@pytest.mark.parametrize(
    "call",
    [
        lambda net: net_socket.sys_bind(net, 99, (0, 1)),
        lambda net: net_socket.sys_listen(net, 99, 1),
        lambda net: net_socket.sys_accept(net, 99),
        lambda net: net_socket.sys_connect(net, 99, (1, 1)),
        lambda net: net_socket.sys_getsockname(net, 99),
        lambda net: net_socket.sys_getpeername(net, 99),
        lambda net: net_socket.sys_sendto(net, 99, b"x"),
        lambda net: net_socket.sys_recvfrom(net, 99, 1),
        lambda net: net_socket.sys_shutdown(net, 99, 0),
        lambda net: net_socket.sys_setsockopt(net, 99, 1, 2, 1),
        lambda net: net_socket.sys_getsockopt(net, 99, 1, 2)[0],
        lambda net: net_socket.sys_close(net, 99),
    ],
)
def test_closed_descriptor_is_bad_in_every_call(net, call):
    assert call(net) == -errno.EBADF


def test_accept_that_fails_gives_its_descriptor_back(net):
    fd = net_socket.sys_socket(net, AF_INET, SOCK_STREAM)
    net_socket.sys_bind(net, fd, (0, 7))
    net_socket.sys_listen(net, fd, 5)
    assert net_socket.sys_accept4(net, fd) == -errno.EAGAIN
    assert net_socket.sys_socket(net, AF_INET, SOCK_STREAM) == fd + 1


@pytest.mark.parametrize(
    ("asked", "got"), [(0, 0), (7, 7), (4096, 4096), (4097, 4096), (-1, 4096), (-5, 4096)]
)
def test_listen_backlog_ends_at_somaxconn(net, asked, got):
    fd = net_socket.sys_socket(net, AF_INET, SOCK_STREAM)
    assert net_socket.sys_listen(net, fd, asked) == 0
    sock = net_socket.sockfd_lookup_light(net, fd)
    assert sock is not None
    assert sock.sk.sk_max_ack_backlog == got
