# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may have which port, and what the tables look like."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stack.api.bsd import Socket
from stack.api.sim import RawPeer
from stack.include.tcp_states import TCP_LISTEN
from stack.stack import Stack

Listen = Callable[..., Socket]
SO_REUSEADDR = (1, 2, 1)
SO_REUSEPORT = (1, 15, 1)


def bound(net: Stack, addr: str, port: int, *options: tuple[int, int, int]) -> Socket:
    sock = Socket(net)
    for option in options:
        sock.setsockopt(*option)
    sock.bind((addr, port))
    return sock


def test_bind_takes_the_bucket_of_the_port(net: Stack) -> None:
    sock = bound(net, "", 2222)
    (tb,) = net.tcp_hashinfo.bhash[174]
    assert (tb.port, list(tb.owners)) == (2222, [sock.sk])
    assert sock.sk.icsk_bind_hash is tb  # type: ignore[attr-defined]


def test_listen_hangs_in_both_listening_tables(net: Stack) -> None:
    sock = bound(net, "", 2222)
    sock.listen(1)
    assert sock.sk.sk_state == TCP_LISTEN
    assert net.tcp_hashinfo.listening_hash[2222 & 31] == [sock.sk]
    assert [chain for chain in net.tcp_hashinfo.lhash2.values() if chain] == [[sock.sk]]


def test_close_frees_the_port(net: Stack) -> None:
    bound(net, "", 2222).close()
    assert net.tcp_hashinfo.bhash == {}
    bound(net, "", 2222)


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("", "", True),
        ("", "10.0.2.2", True),
        ("10.0.2.2", "", True),
        ("10.0.2.2", "10.0.2.2", True),
        ("10.0.2.2", "10.0.2.3", False),
    ],
)
def test_bind_conflicts_by_address(net: Stack, first: str, second: str, clash: bool) -> None:
    bound(net, first, 80)
    if clash:
        with pytest.raises(OSError, match="bind"):
            bound(net, second, 80)
    else:
        bound(net, second, 80)


def test_bind_reuseaddr_both(net: Stack) -> None:
    bound(net, "", 80, SO_REUSEADDR)
    bound(net, "", 80, SO_REUSEADDR)


def test_bind_reuseaddr_one_only(net: Stack) -> None:
    bound(net, "", 80, SO_REUSEADDR)
    with pytest.raises(OSError, match="bind"):
        bound(net, "", 80)


def test_bind_reuseaddr_against_a_listener(net: Stack) -> None:
    bound(net, "", 80, SO_REUSEADDR).listen(1)
    with pytest.raises(OSError, match="bind"):
        bound(net, "", 80, SO_REUSEADDR)


def test_listen_second_of_two_reuseaddr_sockets(net: Stack) -> None:
    first, second = bound(net, "", 80, SO_REUSEADDR), bound(net, "", 80, SO_REUSEADDR)
    first.listen(1)
    with pytest.raises(OSError, match="listen"):
        second.listen(1)


def test_bind_reuseport_both_may_listen(net: Stack) -> None:
    for _ in range(3):
        bound(net, "", 80, SO_REUSEPORT).listen(1)
    (tb,) = net.tcp_hashinfo.bhash[80]
    assert tb.num_owners == 3


def test_bind_reuseport_one_only(net: Stack) -> None:
    bound(net, "", 80)
    with pytest.raises(OSError, match="bind"):
        bound(net, "", 80, SO_REUSEPORT)


def test_bind_time_wait_holds_the_port(listen: Listen, peer: RawPeer, net: Stack) -> None:
    sock = listen()
    conn = peer.tcp(80)
    conn.handshake()
    sock.accept()[0].close()
    conn.expect("FA")
    conn.send("FA")
    conn.expect("A")
    sock.close()
    with pytest.raises(OSError, match="bind"):
        bound(net, "", 80)


def test_bind_any_port_takes_odd_ones_of_the_range(net: Stack) -> None:
    ports = [bound(net, "", 0).getsockname()[1] for _ in range(40)]
    assert len(set(ports)) == 40
    assert all(port % 2 == 1 and 32768 <= port <= 60999 for port in ports)


def test_bind_any_port_takes_even_ones_last(net: Stack) -> None:
    net.sysctl_set("ip_local_port_range", (40000, 40007))
    ports = [bound(net, "", 0).getsockname()[1] for _ in range(8)]
    assert {p % 2 for p in ports[:4]} == {1}
    assert sorted(ports) == list(range(40000, 40008))
    with pytest.raises(OSError, match="bind"):
        bound(net, "", 0)


def test_bind_any_port_leaves_reserved_ones(net: Stack) -> None:
    net.sysctl_set("ip_local_port_range", (40000, 40003))
    net.sysctl_set("ip_local_reserved_ports", (40001,))
    assert bound(net, "", 0).getsockname()[1] == 40003


def test_lookup_prefers_the_listener_on_the_address(listen: Listen, peer: RawPeer) -> None:
    specific, anywhere = listen(addr="10.0.2.3", before=(SO_REUSEPORT,)), listen(before=(SO_REUSEPORT,))
    for dst, sock in (("10.0.2.3", specific), ("10.0.2.2", anywhere)):
        peer.tcp(80, dst=dst).handshake()
        assert sock.accept()[0].getsockname() == (dst, 80)
