# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import errno

import pytest

from stack.api.sim import SEC, Sim
from stack.include.dst import (
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_UNICAST,
    dst_metric_advmss,
    flowi4,
    rtable,
)
from stack.include.ip import in_aton, in_ntoa
from stack.net.ipv4 import devinet, fib_frontend, route
from stack.stack import Stack


def look_up(net: Stack, daddr: str, saddr: str = "0.0.0.0", oif: int = 0) -> rtable | int:
    fl4 = flowi4()
    fl4.daddr, fl4.saddr, fl4.flowi4_oif = in_aton(daddr), in_aton(saddr), oif
    return route.ip_route_output_flow(net, fl4, None)


def found(net: Stack, daddr: str, **key: object) -> rtable:
    rt = look_up(net, daddr, **key)  # type: ignore[arg-type]
    assert isinstance(rt, rtable), rt
    return rt


@pytest.fixture
def two_links(sim: Sim) -> Stack:
    net = sim.add_stack("10.0.2.2/24", "10.0.2.3/24")
    other = net.register_netdevice("eth1", b"\x52\x54\0\0\x01\x01", mtu=9000)
    net.dev_addr_add(other, "192.168.7.1/16")
    net.route_add("0.0.0.0/0", via="10.0.2.254")
    net.route_add("172.16.0.0/12", dev=other)
    return net


@pytest.mark.parametrize(
    ("daddr", "dev", "src", "gateway"),
    [
        ("10.0.2.15", "eth0", "10.0.2.2", "0.0.0.0"),
        ("192.168.200.9", "eth1", "192.168.7.1", "0.0.0.0"),
        ("172.20.1.1", "eth1", "192.168.7.1", "0.0.0.0"),
        ("8.8.8.8", "eth0", "10.0.2.2", "10.0.2.254"),
        ("10.0.2.3", "lo", "10.0.2.3", "0.0.0.0"),
        ("127.1.2.3", "lo", "127.0.0.1", "0.0.0.0"),
    ],
)
def test_destination_finds_its_device_source_and_gateway(
    two_links: Stack, daddr: str, dev: str, src: str, gateway: str
) -> None:
    rt = found(two_links, daddr)
    assert (rt.dev.name, in_ntoa(rt.rt_src), in_ntoa(rt.rt_gateway)) == (dev, src, gateway)


def test_destination_without_route_is_unreachable(net: Stack) -> None:
    assert look_up(net, "8.8.8.8") == -errno.ENETUNREACH


@pytest.mark.parametrize("saddr", ["10.0.2.77", "224.0.0.1", "255.255.255.255"])
def test_source_that_is_not_ours_is_refused(net: Stack, saddr: str) -> None:
    assert look_up(net, "10.0.2.15", saddr) == -errno.EINVAL


def test_route_is_cached_until_an_address_changes(net: Stack) -> None:
    first = found(net, "10.0.2.15")
    assert found(net, "10.0.2.15") is first
    assert route.ipv4_dst_check(first, 0) is first
    net.dev_addr_add(net.devices_by_name["eth0"], "10.0.9.1/24")
    assert route.ipv4_dst_check(first, 0) is None
    assert found(net, "10.0.2.15") is not first


def test_route_cache_stays_bounded(net: Stack) -> None:
    for i in range(2 * route.RT_CACHE_MAX):
        found(net, in_ntoa(in_aton("127.1.0.0") + i))
    assert len(net.rt_hash_cache) <= route.RT_CACHE_MAX


@pytest.mark.parametrize(
    ("addr", "kind"),
    [
        ("0.0.0.0", RTN_BROADCAST),
        ("255.255.255.255", RTN_BROADCAST),
        ("10.0.2.255", RTN_BROADCAST),
        ("10.0.2.0", RTN_BROADCAST),
        ("224.0.0.1", RTN_MULTICAST),
        ("10.0.2.2", RTN_LOCAL),
        ("127.9.9.9", RTN_LOCAL),
        ("10.0.2.15", RTN_UNICAST),
    ],
)
def test_address_has_its_type(net: Stack, addr: str, kind: int) -> None:
    assert fib_frontend.inet_addr_type(net, in_aton(addr)) == kind


def test_deleted_primary_address_promotes_the_secondary(net: Stack) -> None:
    dev = net.devices_by_name["eth0"]
    net.dev_addr_del(dev, "10.0.2.2/24")
    assert devinet.ifaddrs(dev) == ["10.0.2.3/24"]
    assert in_ntoa(found(net, "10.0.2.15").rt_src) == "10.0.2.3"
    assert fib_frontend.inet_addr_type(net, in_aton("10.0.2.2")) == RTN_UNICAST


@pytest.mark.parametrize(
    "cidr",
    [
        "10.0.2.2",
        "10.0.2/24",
        "10.0.2.2/33",
        "10.0.2.256/24",
        "10.0.2.2/x",
        "fd00::2",
        "fd00::2/129",
        "fd00::g/64",
    ],
)
def test_malformed_address_is_refused_with_a_reason(net: Stack, cidr: str) -> None:
    with pytest.raises(ValueError, match="address"):
        net.dev_addr_add(net.devices_by_name["eth0"], cidr)


def test_gateway_off_every_link_is_refused(net: Stack) -> None:
    with pytest.raises(ValueError, match="on no link"):
        net.route_add("0.0.0.0/0", via="192.168.1.1")


@pytest.mark.parametrize(
    ("mtu", "advmss"), [(1500, 1460), (576, 536), (9000, 8960), (68, 256), (65535, 65495)]
)
def test_advertised_mss_follows_the_mtu(sim: Sim, mtu: int, advmss: int) -> None:
    net = sim.add_stack("10.0.2.2/24", mtu=mtu)
    assert dst_metric_advmss(found(net, "10.0.2.15")) == advmss


def test_path_mtu_is_learned_never_raised_and_forgotten(sim: Sim, net: Stack) -> None:
    rt = found(net, "10.0.2.15")
    for mtu, seen in ((1400, 1400), (1450, 1400), (1200, 1200), (100, 552)):
        route.ip_rt_update_pmtu(rt, None, None, mtu)
        assert route.ipv4_mtu(rt) == seen
    assert route.ip_mtu_locked(rt)
    assert route.ipv4_mtu(found(net, "10.0.2.16")) == 1500
    sim.run_for(601 * SEC)
    assert route.ipv4_mtu(rt) == 1500
    assert not route.ip_mtu_locked(rt)
