# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses, source selection (RFC 6724) and routes."""

from __future__ import annotations

import errno

import pytest

from stack.api.sim import RawPeer, Sim
from stack.include.dst import RTF_LOCAL, dst_metric_advmss, dst_mtu, flowi6, rt6_info
from stack.include.ipv6 import in6_ntop, in6_pton
from stack.include.netdevice import net_device
from stack.net.ipv6 import route
from stack.stack import Stack


def look_up(net: Stack, daddr: str, saddr: str = "::", oif: int = 0) -> rt6_info | int:
    fl6 = flowi6()
    fl6.daddr, fl6.saddr, fl6.flowi6_oif = in6_pton(daddr), in6_pton(saddr), oif
    return route.ip6_route_output(net, None, fl6)


def found(net: Stack, daddr: str, saddr: str = "::", oif: int = 0) -> rt6_info:
    rt = look_up(net, daddr, saddr, oif)
    assert isinstance(rt, rt6_info)
    return rt


def test_device_has_its_link_local_address_from_the_start_and_global_ones_come_first(
    net: Stack, dev: net_device
) -> None:
    net.dev_addr_add(dev, "fd00:1::2/64")
    addresses = net.snapshot()["devices"][1]["addresses6"]
    assert addresses == ["fd00::2/64", "fd00:1::2/64", "fe80::5054:ff:fe00:1/64"]
    assert net.snapshot()["devices"][0]["addresses6"] == ["::1/128"]


@pytest.mark.parametrize(
    "cidr", ["fd00::2/64", "ff02::1/64", "::/64", "fd00::2", "fd00::x/64", "fd00::9/129"]
)
def test_address_that_cannot_be_added_is_refused(net: Stack, dev: net_device, cidr: str) -> None:
    with pytest.raises(ValueError):
        net.dev_addr_add(dev, cidr)


def test_address_taken_away_is_not_answered_any_more(net: Stack, dev: net_device, peer: RawPeer) -> None:
    net.dev_addr_del(dev, "fd00::2/64")
    peer.send_icmp6("fd00::2", 128, 0)
    peer.expect_nothing()
    assert look_up(net, "fd00::15") == -errno.ENETUNREACH
    with pytest.raises(ValueError, match="no address"):
        net.dev_addr_del(dev, "fd00::2/64")


@pytest.mark.parametrize(
    ("daddr", "saddr"),
    [
        ("fd00::15", "fd00::2"),
        ("fd00:1::15", "fd00:1::2"),
        ("fe80::15", "fe80::5054:ff:fe00:1"),
        ("ff02::1", "fe80::5054:ff:fe00:1"),
        ("ff05::1:3", "fd00::2"),
        ("fd00:1::2", "fd00:1::2"),
        ("::1", "::1"),
        ("2001:db8::1", "fd00::2"),
    ],
)
def test_source_is_chosen_by_scope_then_by_common_prefix(
    net: Stack, dev: net_device, peer: RawPeer, daddr: str, saddr: str
) -> None:
    net.dev_addr_add(dev, "fd00:1::2/64")
    net.route_add("::/0", via="fd00::15")
    assert in6_ntop(found(net, daddr).rt6i_src) == saddr


def test_look_up_fills_in_the_source(net: Stack) -> None:
    fl6 = flowi6()
    fl6.daddr = in6_pton("fd00::15")
    route.ip6_route_output(net, None, fl6)
    assert in6_ntop(fl6.saddr) == "fd00::2"


def test_longest_prefix_wins_and_a_gateway_is_the_next_hop(net: Stack, dev: net_device) -> None:
    net.route_add("::/0", via="fd00::1")
    net.route_add("2001:db8::/32", via="fe80::9", dev=dev)
    assert in6_ntop(found(net, "2001:db8::1").rt6i_gateway) == "fe80::9"
    assert in6_ntop(found(net, "2001:db9::1").rt6i_gateway) == "fd00::1"
    assert found(net, "fd00::77").rt6i_gateway == 0


@pytest.mark.parametrize(("via", "why"), [("2001:db8::1", "on no link"), ("fe80::1", "needs a device")])
def test_gateway_that_is_nowhere_is_refused(net: Stack, via: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        net.route_add("::/0", via=via)
    with pytest.raises(ValueError, match="needs a device or a gateway"):
        net.route_add("::/0")


def test_address_of_ours_is_reached_over_loopback(net: Stack) -> None:
    rt = found(net, "fd00::2")
    assert rt.dev is net.loopback_dev
    assert rt.rt6i_flags & RTF_LOCAL


@pytest.mark.parametrize(
    ("daddr", "saddr", "oif", "error"),
    [
        ("2001:db8::1", "::", 0, errno.ENETUNREACH),
        ("fd00::15", "fd00::99", 0, errno.EADDRNOTAVAIL),
        ("fd00::15", "ff02::1", 0, errno.EINVAL),
        ("fd00::15", "::", 77, errno.ENODEV),
    ],
)
def test_flow_without_a_route_gets_its_errno(
    net: Stack, daddr: str, saddr: str, oif: int, error: int
) -> None:
    assert look_up(net, daddr, saddr, oif) == -error


def test_link_local_destination_on_two_devices_needs_to_be_told_which(net: Stack) -> None:
    other = net.register_netdevice("eth1", bytes.fromhex("525400000077"))
    assert look_up(net, "ff02::1") == -errno.ENETUNREACH
    assert found(net, "ff02::1", oif=other.ifindex).dev is other
    assert found(net, "fe80::15", oif=other.ifindex).dev is other


def test_route_is_cached_until_an_address_changes(net: Stack, dev: net_device) -> None:
    first = found(net, "fd00::15")
    assert found(net, "fd00::15") is first
    net.dev_addr_add(dev, "fd00:1::2/64")
    assert route.ip6_dst_check(first, 0) is None
    assert found(net, "fd00::15") is not first


def test_caches_are_bounded(net: Stack, peer: RawPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "RT6_CACHE_MAX", 8)
    for n in range(30):
        found(net, f"fd00::1:{n:x}")
        peer.send_ip(17, bytes(8), f"fd00::1:{n:x}")
    peer.sim.settle()
    assert max(len(net.fib6.output_cache), len(net.fib6.input_cache)) <= 8


@pytest.mark.parametrize(("mtu", "advmss"), [(1500, 1440), (1280, 1220), (9000, 8940)])
def test_advertised_mss_is_the_mtu_less_the_headers(sim: Sim, mtu: int, advmss: int) -> None:
    wide = sim.add_stack("fd00::2/64", mtu=mtu)
    rt = found(wide, "fd00::15")
    assert (dst_mtu(rt), dst_metric_advmss(rt)) == (mtu, advmss)


def test_loopback_offers_what_linux_offers_on_lo(net: Stack) -> None:
    assert dst_metric_advmss(found(net, "::1")) == 65476


def test_two_stacks_find_each_other(sim: Sim, net: Stack) -> None:
    from stack.include.dst import flowi6 as key
    from stack.net.ipv6 import icmp

    other = sim.add_stack("fd00::3/64")
    sim.join(net, other)
    fl6 = key()
    fl6.daddr = in6_pton("fd00::3")
    rt = route.ip6_route_output(net, None, fl6)
    assert isinstance(rt, rt6_info)
    icmp.icmpv6_push_pending_frames(net, 128, 0, 1, bytes(5000), fl6, rt, 0)
    sim.settle()
    counters = net.snapshot()["snmp6"]
    assert (counters["Icmp6InEchoReplies"], counters["Ip6FragCreates"], counters["Ip6ReasmOKs"]) == (1, 4, 1)
    assert other.snapshot()["snmp6"]["Ip6ReasmOKs"] == 1


def test_proc_net_snmp6_has_the_kernels_lines(net: Stack, sim: Sim) -> None:
    from stack.net.ipv6 import proc

    lines = proc.snmp6_seq_show(net).splitlines()
    assert lines[0] == f"{'Ip6InReceives':<32}\t0"
    assert "Ip6OutTransmits" not in proc.snmp6_counters(net)
    later = sim.add_stack("fd00::3/64", profile="linux-6.18")
    names = list(proc.snmp6_counters(later))
    assert names[names.index("Ip6InCEPkts") + 1] == "Ip6OutTransmits"
    assert names[names.index("Icmp6InCsumErrors") + 1] == "Icmp6OutRateLimitHost"
    assert names[-1] == "Udp6MemErrors"
