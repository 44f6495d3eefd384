# SPDX-License-Identifier: GPL-2.0-or-later
"""The DHCP server's states, with messages built and read by dpkt and a clock turned by hand."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest
from dpkt import dhcp

from vnic.services.dhcp import DECLINE_S, OFFER_S, Config, DhcpServer

SERVER = IPv4Address("10.0.2.2")
FIRST = IPv4Address("10.0.2.15")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A server with a pool of ``size`` addresses, and clients that talk to it."""

    def __init__(self, size: int = 3, lease_s: int = 3600) -> None:
        self.clock = Clock()
        config = Config(
            server=IPv4Interface("10.0.2.2/24"),
            first=FIRST,
            last=FIRST + size - 1,
            router=SERVER,
            name_servers=(IPv4Address("10.0.2.3"),),
            lease_s=lease_s,
        )
        self.server = DhcpServer(config, self.clock)

    def ask(self, kind: int, mac: int = 1, *options: tuple[int, bytes], **fields: Any) -> Any | None:
        reply = self.ask_raw(kind, mac, *options, **fields)
        return None if reply is None else dhcp.DHCP(reply[0])

    def ask_raw(self, kind: int, mac: int, *options: tuple[int, bytes], **fields: Any) -> Any | None:
        hardware = bytes([0x52, 0x54, 0, 0, 0, mac])
        opts = [(dhcp.DHCP_OPT_MSGTYPE, bytes([kind])), *options]
        message = dhcp.DHCP(op=dhcp.DHCP_OP_REQUEST, xid=0x1000 + mac, chaddr=hardware, opts=opts, **fields)
        return self.server.handle(bytes(message))

    def lease(self, mac: int = 1, *options: tuple[int, bytes]) -> IPv4Address:
        """DISCOVER, then REQUEST of what was offered."""
        offer = self.ask(dhcp.DHCPDISCOVER, mac, *options)
        assert offer is not None
        wanted = (dhcp.DHCP_OPT_REQ_IP, IPv4Address(offer.yiaddr).packed)
        ack = self.ask(dhcp.DHCPREQUEST, mac, *options, wanted, (dhcp.DHCP_OPT_SERVER_ID, SERVER.packed))
        assert ack is not None
        assert kind_of(ack) == dhcp.DHCPACK
        return IPv4Address(ack.yiaddr)


def option(message: Any, code: int) -> bytes | None:
    return next((bytes(value) for have, value in message.opts if have == code), None)


def kind_of(message: Any) -> int:
    value = option(message, dhcp.DHCP_OPT_MSGTYPE)
    assert value is not None
    return value[0]


def requested(address: IPv4Address) -> tuple[int, bytes]:
    return dhcp.DHCP_OPT_REQ_IP, address.packed


def test_free_discover_is_offered_the_first_address_and_the_link() -> None:
    offer = Bench().ask(dhcp.DHCPDISCOVER)
    assert kind_of(offer) == dhcp.DHCPOFFER
    assert offer.xid == 0x1001
    assert IPv4Address(offer.yiaddr) == FIRST
    assert option(offer, dhcp.DHCP_OPT_SERVER_ID) == SERVER.packed
    assert option(offer, dhcp.DHCP_OPT_ROUTER) == SERVER.packed
    assert option(offer, dhcp.DHCP_OPT_DNS_SVRS) == bytes([10, 0, 2, 3])
    assert option(offer, dhcp.DHCP_OPT_NETMASK) == bytes([255, 255, 255, 0])
    assert option(offer, dhcp.DHCP_OPT_MTUSIZE) == struct.pack(">H", 1500)
    assert option(offer, dhcp.DHCP_OPT_LEASE_SEC) == struct.pack(">I", 3600)
    assert option(offer, dhcp.DHCP_OPT_DOMAIN) == b"vnic.test"


def test_three_clients_get_three_addresses_in_order() -> None:
    bench = Bench()
    assert [bench.lease(mac) for mac in (1, 2, 3)] == [FIRST, FIRST + 1, FIRST + 2]
    assert len(bench.server.leases()) == 3


def test_bound_client_gets_its_address_again() -> None:
    bench = Bench()
    bench.lease(1)
    mine = bench.lease(2)
    assert bench.lease(2) == mine


def test_client_identifier_names_the_client_not_its_mac() -> None:
    bench = Bench()
    name = (dhcp.DHCP_OPT_CLIENT_ID, b"\x00guest-a")
    first = bench.lease(1, name)
    assert bench.lease(2, name) == first
    assert bench.lease(1) != first


def test_full_pool_discover_is_not_answered() -> None:
    bench = Bench(size=1)
    bench.lease(1)
    assert bench.ask(dhcp.DHCPDISCOVER, 2) is None
    assert bench.server.counters["exhausted"] == 1


def test_offered_expires_after_a_minute() -> None:
    bench = Bench(size=1)
    bench.ask(dhcp.DHCPDISCOVER, 1)
    assert bench.ask(dhcp.DHCPDISCOVER, 2) is None
    bench.clock.now += OFFER_S
    assert bench.ask(dhcp.DHCPDISCOVER, 2) is not None


def test_bound_expires_and_its_client_is_preferred() -> None:
    bench = Bench(size=2, lease_s=100)
    mine = bench.lease(1)
    bench.clock.now += 100
    assert bench.server.leases() == []
    assert bench.lease(2) != mine
    assert bench.lease(1) == mine


def test_bound_renew_extends_the_lease_by_unicast() -> None:
    bench = Bench(lease_s=100)
    mine = bench.lease(1)
    bench.clock.now += 60
    reply = bench.ask_raw(dhcp.DHCPREQUEST, 1, ciaddr=int(mine))
    assert reply is not None
    assert reply[1] == (str(mine), 68)
    bench.clock.now += 60
    assert [lease.address for lease in bench.server.leases()] == [mine]


def test_released_address_goes_to_the_next_when_nothing_fresh_is_left() -> None:
    bench = Bench(size=1)
    mine = bench.lease(1)
    bench.ask(dhcp.DHCPRELEASE, 1, ciaddr=int(mine))
    assert bench.server.leases() == []
    assert bench.lease(2) == mine


def test_release_of_a_strangers_address_changes_nothing() -> None:
    bench = Bench()
    mine = bench.lease(1)
    bench.ask(dhcp.DHCPRELEASE, 2, ciaddr=int(mine))
    assert [lease.address for lease in bench.server.leases()] == [mine]


def test_declined_address_rests() -> None:
    bench = Bench(size=2)
    bad = bench.lease(1)
    bench.ask(dhcp.DHCPDECLINE, 1, requested(bad))
    assert bench.lease(1) == bad + 1
    assert bench.ask(dhcp.DHCPDISCOVER, 2) is None
    bench.clock.now += DECLINE_S
    assert bench.lease(2) == bad


def test_request_of_anothers_address_is_refused_by_broadcast() -> None:
    bench = Bench()
    taken = bench.lease(1)
    reply = bench.ask_raw(dhcp.DHCPREQUEST, 2, requested(taken))
    assert reply is not None
    assert kind_of(dhcp.DHCP(reply[0])) == dhcp.DHCPNAK
    assert reply[1] == ("255.255.255.255", 68)


@pytest.mark.parametrize("address", ["10.0.2.2", "10.0.2.200", "192.168.1.5"])
def test_reboot_request_outside_the_pool_is_refused(address: str) -> None:
    refused = Bench().ask(dhcp.DHCPREQUEST, 1, requested(IPv4Address(address)))
    assert kind_of(refused) == dhcp.DHCPNAK


def test_request_after_our_restart_is_confirmed_if_free() -> None:
    bench = Bench()
    kept = FIRST + 2
    ack = bench.ask(dhcp.DHCPREQUEST, 1, ciaddr=int(kept))
    assert kind_of(ack) == dhcp.DHCPACK
    assert IPv4Address(ack.yiaddr) == kept


def test_offered_client_that_chose_another_server_frees_the_address() -> None:
    bench = Bench(size=1)
    bench.ask(dhcp.DHCPDISCOVER, 1)
    other = (dhcp.DHCP_OPT_SERVER_ID, bytes([10, 0, 2, 99]))
    assert bench.ask(dhcp.DHCPREQUEST, 1, other, requested(FIRST)) is None
    assert bench.lease(2) == FIRST


def test_inform_gets_the_link_but_no_lease() -> None:
    ack = Bench().ask(dhcp.DHCPINFORM, 1, ciaddr=int(IPv4Address("10.0.2.77")))
    assert kind_of(ack) == dhcp.DHCPACK
    assert ack.yiaddr == 0
    assert option(ack, dhcp.DHCP_OPT_LEASE_SEC) is None
    assert option(ack, dhcp.DHCP_OPT_ROUTER) == SERVER.packed


def test_relayed_discover_is_answered_to_the_relay() -> None:
    reply = Bench().ask_raw(dhcp.DHCPDISCOVER, 1, giaddr=int(IPv4Address("10.0.2.9")))
    assert reply is not None
    assert reply[1] == ("10.0.2.9", 67)


@pytest.mark.parametrize("cut", [0, 10, 239, 241, 242])
def test_cut_message_is_dropped_and_counted(cut: int) -> None:
    bench = Bench()
    opts = [(dhcp.DHCP_OPT_MSGTYPE, bytes([dhcp.DHCPDISCOVER]))]
    whole = bytes(dhcp.DHCP(op=1, chaddr=b"\x52\x54\0\0\0\1", opts=opts))
    assert bench.server.handle(whole) is not None
    assert bench.server.handle(whole[:cut]) is None
    assert bench.server.counters["malformed"] == 1


def test_pool_outside_the_subnet_is_refused() -> None:
    with pytest.raises(ValueError, match="not within"):
        Config(server=IPv4Interface("10.0.2.2/24"), first=FIRST, last=IPv4Address("10.0.3.1"), router=None)
