# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups that sockets join and leave."""

from __future__ import annotations

import errno
import struct

import pytest

from stack.api.bsd import AF_INET6, SOCK_DGRAM, SOCK_STREAM, Socket
from stack.api.sim import RawPeer, Sim
from stack.include.ipv6 import IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP, in6_pton
from stack.include.netdevice import net_device
from stack.net.ipv6.ipv6_sockglue import SOL_IPV6
from stack.net.ipv6.mcast import ipv6_chk_mcast_addr
from stack.stack import Stack

GROUP = "ff02::1:2"


def mreq(group: str = GROUP, ifindex: int = 0) -> bytes:
    return in6_pton(group).to_bytes(16, "big") + struct.pack("=i", ifindex)


def bound(net: Stack, host: str = GROUP) -> Socket:
    sock = Socket(net, AF_INET6, SOCK_DGRAM)
    sock.bind((host, 547, 0, 2 if host == GROUP else 0))
    return sock


def joined(dev: net_device, group: str = GROUP) -> bool:
    return ipv6_chk_mcast_addr(dev, in6_pton(group))


def error_of(sock: Socket, option: int, value: int | bytes) -> int | None:
    with pytest.raises(OSError) as caught:
        sock.setsockopt(SOL_IPV6, option, value)
    return caught.value.errno


@pytest.mark.parametrize("ifindex", [0, 2])
def test_bound_socket_hears_its_group_once_it_joined(
    net: Stack, dev: net_device, peer: RawPeer, sim: Sim, ifindex: int
) -> None:
    assert dev.ifindex == 2
    sock = bound(net)
    peer.send_udp(GROUP, 546, 547, b"before")
    sim.settle()
    sock.setsockopt(SOL_IPV6, IPV6_ADD_MEMBERSHIP, mreq(ifindex=ifindex))
    peer.send_udp(GROUP, 546, 547, b"after", src=peer.addr6_ll)
    sim.settle()
    data, where = sock.recvfrom(100)
    assert (data, where) == (b"after", (peer.addr6_ll, 546, 0, dev.ifindex))
    sock.sendto(b"answer", where)
    packet = peer.expect_udp(547, 546, b"answer")
    assert (packet.src, packet.dst) == ("fe80::5054:ff:fe00:1", peer.addr6_ll)


@pytest.mark.parametrize(("first", "second"), [(0, 2), (2, 0)])
def test_member_by_device_and_by_any_device_is_one_member(
    net: Stack, dev: net_device, first: int, second: int
) -> None:
    """ifindex 0 means whichever device it became: EADDRINUSE the second time, and leaving by either (as on 6.18)."""
    sock = bound(net, "::")
    sock.setsockopt(SOL_IPV6, IPV6_ADD_MEMBERSHIP, mreq(ifindex=first))
    assert error_of(sock, IPV6_ADD_MEMBERSHIP, mreq(ifindex=second)) == errno.EADDRINUSE
    sock.setsockopt(SOL_IPV6, IPV6_DROP_MEMBERSHIP, mreq(ifindex=second))
    assert not joined(dev)


def test_last_of_two_members_to_leave_ends_it(net: Stack, dev: net_device) -> None:
    one, two = bound(net, "::"), Socket(net, AF_INET6, SOCK_DGRAM)
    for sock in (one, two):
        sock.setsockopt(SOL_IPV6, IPV6_ADD_MEMBERSHIP, mreq())
    one.setsockopt(SOL_IPV6, IPV6_DROP_MEMBERSHIP, mreq())
    assert joined(dev)
    two.close()
    assert not joined(dev)


def test_group_of_an_address_stays_when_a_socket_leaves_it(net: Stack, dev: net_device) -> None:
    sock = bound(net, "::")
    sock.setsockopt(SOL_IPV6, IPV6_ADD_MEMBERSHIP, mreq("ff02::1"))
    sock.close()
    assert joined(dev, "ff02::1")


def test_membership_that_cannot_be(net: Stack) -> None:
    sock = bound(net, "::")
    assert error_of(sock, IPV6_ADD_MEMBERSHIP, 1) == errno.EINVAL
    assert error_of(sock, IPV6_ADD_MEMBERSHIP, mreq()[:19]) == errno.EINVAL
    assert error_of(sock, IPV6_ADD_MEMBERSHIP, mreq("fd00::2")) == errno.EINVAL
    assert error_of(sock, IPV6_DROP_MEMBERSHIP, mreq("fd00::2")) == errno.EINVAL
    assert error_of(sock, IPV6_ADD_MEMBERSHIP, mreq(ifindex=77)) == errno.ENODEV
    assert error_of(sock, IPV6_DROP_MEMBERSHIP, mreq()) == errno.EADDRNOTAVAIL
    sock.setsockopt(SOL_IPV6, IPV6_ADD_MEMBERSHIP, mreq())
    assert error_of(sock, IPV6_ADD_MEMBERSHIP, mreq()) == errno.EADDRINUSE
    stream = Socket(net, AF_INET6, SOCK_STREAM)
    assert error_of(stream, IPV6_ADD_MEMBERSHIP, mreq()) == errno.EPROTO
