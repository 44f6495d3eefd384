# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets of AF_INET6: ports shared with IPv4, dual-stack listeners, names, options (RFC 3493)."""

from __future__ import annotations

import errno

import pytest

from stack.api.bsd import AF_INET, AF_INET6, SOCK_STREAM, Socket
from stack.api.sim import RawPeer, Sim
from stack.include.ipv6 import (
    IPV6_MINHOPCOUNT,
    IPV6_MTU,
    IPV6_MULTICAST_HOPS,
    IPV6_TCLASS,
    IPV6_UNICAST_HOPS,
    IPV6_V6ONLY,
)
from stack.net.core.sock import SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET
from stack.net.ipv6.ipv6_sockglue import SOL_IPV6
from stack.stack import Stack


@pytest.fixture
def sim() -> Sim:
    return Sim(seed=7)


@pytest.fixture
def net(sim: Sim) -> Stack:
    return sim.add_stack("10.0.2.2/24", "fd00::2/64")


@pytest.fixture
def peer(sim: Sim, net: Stack) -> RawPeer:
    """A host that speaks IPv4."""
    return sim.add_peer("10.0.2.15", net)


def bound(net: Stack, host: str, v6only: bool = False, port: int = 80, **options: int) -> Socket:
    sock = Socket(net, AF_INET6 if ":" in host else AF_INET, SOCK_STREAM)
    if v6only:
        sock.setsockopt(SOL_IPV6, IPV6_V6ONLY, 1)
    for name, value in options.items():
        sock.setsockopt(SOL_SOCKET, {"reuseaddr": SO_REUSEADDR, "reuseport": SO_REUSEPORT}[name], value)
    sock.bind((host, port))
    return sock


CONFLICTS = [
    # first bound, its v6only, then bound, its v6only, whether that is refused
    ("::", False, "0.0.0.0", False, True),
    ("0.0.0.0", False, "::", False, True),
    ("::", True, "0.0.0.0", False, False),
    ("0.0.0.0", False, "::", True, False),
    ("::", False, "10.0.2.2", False, True),
    ("10.0.2.2", False, "::", False, True),
    ("::", True, "10.0.2.2", False, False),
    ("::", False, "fd00::2", False, True),
    ("fd00::2", False, "::", True, True),
    ("fd00::2", False, "0.0.0.0", False, False),
    ("0.0.0.0", False, "fd00::2", False, False),
    ("fd00::2", False, "::1", False, False),
    ("fd00::2", False, "fd00::2", False, True),
    ("::ffff:10.0.2.2", False, "10.0.2.2", False, True),
    ("10.0.2.2", False, "::ffff:10.0.2.2", False, True),
    ("::ffff:10.0.2.2", False, "::ffff:10.0.2.2", False, True),
    ("::ffff:10.0.2.2", False, "0.0.0.0", False, True),
    ("::ffff:10.0.2.2", False, "::", False, True),
    ("::ffff:10.0.2.2", False, "::", True, False),
    ("::ffff:10.0.2.2", False, "fd00::2", False, False),
]


@pytest.mark.parametrize(("first", "only1", "second", "only2", "refused"), CONFLICTS)
def test_close_bind_of_both_families(
    net: Stack, first: str, only1: bool, second: str, only2: bool, refused: bool
) -> None:
    bound(net, first, only1)
    if refused:
        with pytest.raises(OSError, match="in use") as caught:
            bound(net, second, only2)
        assert caught.value.errno == errno.EADDRINUSE
    else:
        assert bound(net, second, only2).getsockname()[:2] == (second, 80)


def test_close_bind_reuseaddr_lets_both_families_share_until_one_listens(net: Stack) -> None:
    first, second = bound(net, "::", reuseaddr=1), bound(net, "0.0.0.0", reuseaddr=1)
    first.listen()
    with pytest.raises(OSError, match="in use"):
        second.listen()


def test_close_bind_twice(net: Stack) -> None:
    sock = bound(net, "::")
    with pytest.raises(OSError, match="not possible") as caught:
        sock.bind(("::", 81))
    assert caught.value.errno == errno.EINVAL


def test_close_bind_to_an_address_of_others(net: Stack) -> None:
    for host in ("fd00::99", "::ffff:10.0.2.99"):
        with pytest.raises(OSError, match="no device") as caught:
            bound(net, host)
        assert caught.value.errno == errno.EADDRNOTAVAIL


def test_close_bind_mapped_address_with_v6only(net: Stack) -> None:
    with pytest.raises(OSError, match="invalid") as caught:
        bound(net, "::ffff:10.0.2.2", v6only=True)
    assert caught.value.errno == errno.EINVAL


def test_close_bind_to_a_group(net: Stack) -> None:
    with pytest.raises(OSError, match="invalid") as caught:
        bound(net, "ff02::1%eth0")
    assert caught.value.errno == errno.EINVAL


def test_close_bind_port_0_takes_one_of_the_range(net: Stack) -> None:
    host, port, flowinfo, scope_id = bound(net, "::", port=0).getsockname()
    assert (host, flowinfo, scope_id) == ("::", 0, 0)
    assert 32768 <= port <= 60999


def test_close_bind_rejects_what_is_no_address(net: Stack) -> None:
    sock = Socket(net, AF_INET6)
    with pytest.raises(ValueError, match="not an IPv6 address"):
        sock.bind(("10.0.2.2", 80))
    with pytest.raises(ValueError, match="no device 'eth9'"):
        sock.bind(("fe80::1%eth9", 80))
    with pytest.raises(OverflowError, match="port"):
        sock.bind(("::", 65536))


def test_close_specific_address_implies_v6only_and_a_failed_bind_does_not(net: Stack) -> None:
    sock = bound(net, "fd00::2")
    assert sock.getsockopt(SOL_IPV6, IPV6_V6ONLY) == 1
    other = Socket(net, AF_INET6)
    with pytest.raises(OSError, match="in use"):
        other.bind(("fd00::2", 80))
    assert other.getsockopt(SOL_IPV6, IPV6_V6ONLY) == 0


# -- IPv4 at a listener of AF_INET6 ---------------------------------------------------------------------------------


def test_listen_dual_stack_takes_ipv4_as_mapped(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = bound(net, "::")
    sock.listen(5)
    conn = peer.tcp(80, dst="10.0.2.2")
    answer = conn.handshake()
    assert answer.opts.mss == 1460
    child, address = sock.accept()
    assert address == ("::ffff:10.0.2.15", 40000, 0, 0)
    assert child.getsockname() == ("::ffff:10.0.2.2", 80, 0, 0)
    assert child.getpeername() == address
    assert child.sk.mss_cache == 1448  # type: ignore[attr-defined]
    conn.send("PA", b"hello")
    sim.settle()
    assert child.recv(100) == b"hello"
    child.send(b"x" * 3000)
    conn.expect("A", ack=6, length=0)
    got = b"".join(conn.expect().payload for _ in range(3))
    conn.send("A")
    assert got == b"x" * 3000
    conn.send("FA")
    sim.settle()
    assert child.recv(100) == b""
    child.close()
    conn.expect("FA")


def test_listen_v6only_gives_ipv4_a_reset(net: Stack, peer: RawPeer) -> None:
    bound(net, "::", v6only=True).listen(5)
    conn = peer.tcp(80, dst="10.0.2.2")
    conn.send("S", mss=1460)
    conn.expect("RA", ack=1)


def test_listen_mapped_address_takes_ipv4_alone(net: Stack, peer: RawPeer) -> None:
    sock = bound(net, "::ffff:10.0.2.2")
    sock.listen(5)
    peer.tcp(80, dst="10.0.2.2").handshake()
    assert sock.accept()[1] == ("::ffff:10.0.2.15", 40000, 0, 0)


def test_listen_ipv4_goes_to_its_own_family_first(net: Stack, peer: RawPeer) -> None:
    dual, four = bound(net, "::", reuseport=1), bound(net, "0.0.0.0", reuseport=1)
    four.listen(5)
    dual.listen(5)
    peer.tcp(80, dst="10.0.2.2").handshake()
    assert four.accept()[1] == ("10.0.2.15", 40000)
    with pytest.raises(BlockingIOError):
        dual.accept()


def test_listen_dual_stack_answers_ipv4_with_a_cookie(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl={"tcp_syncookies": 2})
    peer = sim.add_peer("10.0.2.15", net)
    sock = bound(net, "::")
    sock.listen(5)
    peer.tcp(80).handshake()
    child, address = sock.accept()
    assert address == ("::ffff:10.0.2.15", 40000, 0, 0)
    assert child.sk.icsk_af_ops.net_header_len == 20  # type: ignore[attr-defined]


def test_time_wait_of_a_mapped_connection_answers_ipv4(net: Stack, peer: RawPeer, sim: Sim) -> None:
    sock = bound(net, "::")
    sock.listen(5)
    conn = peer.tcp(80, dst="10.0.2.2")
    conn.handshake()
    child, _ = sock.accept()
    child.close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    conn.send("FA", seq=1)
    conn.expect("A")


# -- options --------------------------------------------------------------------------------------------------------


def test_close_option_v6only_only_before_bind(net: Stack) -> None:
    sock = bound(net, "::")
    with pytest.raises(OSError, match="invalid") as caught:
        sock.setsockopt(SOL_IPV6, IPV6_V6ONLY, 1)
    assert caught.value.errno == errno.EINVAL
    assert sock.getsockopt(SOL_IPV6, IPV6_V6ONLY) == 0


@pytest.mark.parametrize(
    ("option", "default", "good", "bad"),
    [
        (IPV6_TCLASS, 0, 0x28, 256),
        (IPV6_UNICAST_HOPS, 64, 3, 256),
        (IPV6_MINHOPCOUNT, 0, 255, -1),
    ],
)
def test_close_option_is_kept_within_its_range(
    net: Stack, option: int, default: int, good: int, bad: int
) -> None:
    sock = Socket(net, AF_INET6)
    assert sock.getsockopt(SOL_IPV6, option) == default
    sock.setsockopt(SOL_IPV6, option, good)
    assert sock.getsockopt(SOL_IPV6, option) == good
    with pytest.raises(OSError, match="invalid"):
        sock.setsockopt(SOL_IPV6, option, bad)


def test_close_option_tclass_leaves_the_ecn_bits_of_a_stream(net: Stack) -> None:
    sock = Socket(net, AF_INET6)
    sock.setsockopt(SOL_IPV6, IPV6_TCLASS, 0xFF)
    assert sock.getsockopt(SOL_IPV6, IPV6_TCLASS) == 0xFC


def test_close_option_unknown_or_of_another_kind(net: Stack) -> None:
    sock = Socket(net, AF_INET6)
    for option in (IPV6_MULTICAST_HOPS, 9999):
        with pytest.raises(OSError, match="no such option") as caught:
            sock.setsockopt(SOL_IPV6, option, 1)
        assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(OSError, match="not connected"):
        sock.getsockopt(SOL_IPV6, IPV6_MTU)


def test_close_bindv6only_sysctl_is_the_default(sim: Sim) -> None:
    net = sim.add_stack("10.0.2.2/24", sysctl={"ipv6.bindv6only": 1})
    assert Socket(net, AF_INET6).getsockopt(SOL_IPV6, IPV6_V6ONLY) == 1
