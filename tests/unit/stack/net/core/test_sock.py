# SPDX-License-Identifier: GPL-2.0-or-later
"""SOL_SOCKET options, wake-ups and the memory accounts of a socket."""

from __future__ import annotations

import errno
from struct import pack

import pytest

from stack.api.sim import Sim
from stack.include.sk_buff import alloc_skb
from stack.include.sock import (
    AF_INET,
    EPOLLERR,
    EPOLLIN,
    EPOLLOUT,
    SOCK_DGRAM,
    SOCK_STREAM,
    sock_orphan,
)
from stack.include.tcp import tcp_sock
from stack.net.core import sock as core_sock
from stack.net.core.skbuff import consume_skb
from stack.net.core.stream import sk_stream_write_space
from stack.net.ipv4.tcp_ipv4 import tcp_prot
from stack.stack import Stack


@pytest.fixture
def net() -> Stack:
    return Sim(seed=3).add_stack("10.0.2.2/24")


@pytest.fixture
def sk(net: Stack) -> tcp_sock:
    new: tcp_sock = core_sock.sk_alloc(net, AF_INET, tcp_prot)
    core_sock.sock_init_data(None, new)
    new.sk_type = SOCK_STREAM
    tcp_prot.init(new)
    return new


def get(sk: tcp_sock, option: int) -> int | bytes:
    err, value = core_sock.sk_getsockopt(sk, 1, option)
    assert err == 0
    return value


@pytest.mark.parametrize(("value", "got"), [(1, 2304), (2048, 4096), (65536, 131072), (1 << 30, 425984)])
def test_setsockopt_rcvbuf_doubles_and_clamps(sk: tcp_sock, value: int, got: int) -> None:
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_RCVBUF, value) == 0
    assert get(sk, core_sock.SO_RCVBUF) == got


@pytest.mark.parametrize(("value", "got"), [(1, 4608), (10000, 20000), (1 << 30, 425984)])
def test_setsockopt_sndbuf_doubles_and_clamps(sk: tcp_sock, value: int, got: int) -> None:
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_SNDBUF, value) == 0
    assert get(sk, core_sock.SO_SNDBUF) == got


def test_setsockopt_rcvbufforce_passes_the_limit(sk: tcp_sock) -> None:
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_RCVBUFFORCE, 4 << 20) == 0
    assert get(sk, core_sock.SO_RCVBUF) == 8 << 20


@pytest.mark.parametrize(
    "option", [core_sock.SO_REUSEADDR, core_sock.SO_REUSEPORT, core_sock.SO_BROADCAST, core_sock.SO_KEEPALIVE]
)
def test_setsockopt_flags(sk: tcp_sock, option: int) -> None:
    assert get(sk, option) == 0
    for value in (1, 0):
        assert core_sock.sk_setsockopt(sk, 1, option, value) == 0
        assert get(sk, option) == value


def test_setsockopt_takes_the_bytes_of_an_int(sk: tcp_sock) -> None:
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_REUSEADDR, pack("=i", 1)) == 0
    assert get(sk, core_sock.SO_REUSEADDR) == 1
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_REUSEADDR, b"\1") == -errno.EINVAL


def test_setsockopt_linger(sk: tcp_sock) -> None:
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_LINGER, pack("=ii", 1, 7)) == 0
    assert get(sk, core_sock.SO_LINGER) == pack("=ii", 1, 7)
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_LINGER, b"\0" * 4) == -errno.EINVAL


def test_setsockopt_timeout(sk: tcp_sock) -> None:
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_RCVTIMEO, pack("=qq", 1, 500000)) == 0
    assert get(sk, core_sock.SO_RCVTIMEO) == pack("=qq", 1, 500000)
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_RCVTIMEO, pack("=qq", 1, 1000000)) == -errno.EDOM


def test_setsockopt_bindtodevice(sk: tcp_sock) -> None:
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_BINDTODEVICE, b"eth0") == 0
    assert get(sk, core_sock.SO_BINDTODEVICE) == b"eth0\0"
    assert core_sock.sk_setsockopt(sk, 1, core_sock.SO_BINDTODEVICE, b"nowhere") == -errno.ENODEV


@pytest.mark.parametrize("option", [core_sock.SO_TYPE, core_sock.SO_ERROR, core_sock.SO_ACCEPTCONN, 9999])
def test_setsockopt_refuses(sk: tcp_sock, option: int) -> None:
    assert core_sock.sk_setsockopt(sk, 1, option, 1) == -errno.ENOPROTOOPT


def test_getsockopt_error_reads_once(sk: tcp_sock) -> None:
    sk.sk_err = errno.ECONNRESET
    assert get(sk, core_sock.SO_ERROR) == errno.ECONNRESET
    assert get(sk, core_sock.SO_ERROR) == 0


def test_getsockopt_type_and_unknown(sk: tcp_sock) -> None:
    assert get(sk, core_sock.SO_TYPE) == SOCK_STREAM != SOCK_DGRAM
    assert core_sock.sk_getsockopt(sk, 1, 9999) == (-errno.ENOPROTOOPT, 0)


def test_wake_up_reaches_every_waiter_even_one_that_leaves(sk: tcp_sock) -> None:
    seen: list[tuple[str, int]] = []

    def first(sk_: object, mask: int) -> None:
        seen.append(("first", mask))
        sk.sk_wq.remove(first)

    sk.sk_wq += [first, lambda _sk, mask: seen.append(("second", mask))]
    sk.sk_data_ready(sk)
    sk.sk_error_report(sk)
    assert [name for name, _ in seen] == ["first", "second", "second"]
    assert seen[0][1] & EPOLLIN
    assert seen[2][1] == EPOLLERR


def test_write_space_wakes_when_a_third_is_free(net: Stack, sk: tcp_sock) -> None:
    from stack.include.net import SOCK_NOSPACE, socket

    sock = socket(net, SOCK_STREAM)
    sk.sk_socket = sock
    sock.flags |= SOCK_NOSPACE
    seen: list[int] = []
    sk.sk_wq.append(lambda _sk, mask: seen.append(mask))
    sk.sk_sndbuf = 9000
    sk.sk_wmem_queued = 6001
    sk_stream_write_space(sk)
    assert seen == []
    assert sock.flags & SOCK_NOSPACE
    sk.sk_wmem_queued = 6000
    sk_stream_write_space(sk)
    assert seen[0] & EPOLLOUT
    assert not sock.flags & SOCK_NOSPACE


def test_orphan_is_woken_no_more(sk: tcp_sock) -> None:
    seen: list[int] = []
    sk.sk_wq.append(lambda _sk, mask: seen.append(mask))
    sock_orphan(sk)
    sk.sk_state_change(sk)
    assert seen == []


def test_receive_account_goes_back_to_zero(sk: tcp_sock) -> None:
    skb = alloc_skb(5000)
    assert core_sock.sk_rmem_schedule(sk, skb, skb.truesize)
    core_sock.skb_set_owner_r(skb, sk)
    assert sk.sk_rmem_alloc == skb.truesize
    consume_skb(skb)
    assert sk.sk_rmem_alloc == 0
    assert 0 <= sk.sk_forward_alloc < core_sock.SK_MEM_QUANTUM
