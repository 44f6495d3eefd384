# SPDX-License-Identifier: GPL-2.0-or-later
"""Which services there are, where they listen, and how all of them are started and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Any

from vnic.services import chargen, dhcp, dhcp6, discard, dns, echo, http, iperf3
from vnic.services.base import Network, ProtocolFactory, Server

POOL_FIRST = 15
"""Offset in the subnet of the first address handed out: 10.0.2.15."""
POOL_MAX = 1024
"""Addresses in the pool however large the subnet is: each is a record that every message looks at."""


_SIMPLE: dict[int, Callable[[], asyncio.Protocol]] = {
    echo.PORT: echo.Echo,
    discard.PORT: discard.Discard,
    chargen.PORT: chargen.Chargen,
}


class Services:
    """All of them: 7, 9, 19, 80 and 5201 by TCP and 53 by UDP on each address of the server, by UDP also 67 over IPv4
    and 547 over IPv6."""

    def __init__(
        self,
        server: IPv4Interface,
        name_server: IPv4Address,
        mtu: int = 1500,
        hosts: Mapping[str, str] | None = None,
        server6: IPv6Address | None = None,
        mac: bytes = bytes(6),
    ) -> None:
        """``hosts`` extends the name server's table; ValueError for what is no name or no address in it.  ``mac`` is
        what DHCPv6 makes its identifier from."""
        self._server, self._name_server = server, name_server
        self._addresses = [str(server.ip)] + ([str(server6)] if server6 is not None else [])
        self.http = http.Http()
        self.iperf3 = iperf3.Iperf3Server()
        ip6 = None if server6 is None else str(server6)
        table = dns.Table(dns.default_hosts(str(server.ip), str(name_server), ip6))
        for name, address in (hosts or {}).items():
            table.add(name, address)
        self.dns = dns.Resolver(table)
        self.dhcp = dhcp.DhcpServer(_dhcp_config(server, name_server, mtu), asyncio.get_running_loop().time)
        self.dhcp6 = None if server6 is None else _dhcp6(server6, mac)
        self._opened: list[Any] = []

    async def start(self, network: Network) -> None:
        """Open every port; OSError if one is taken, and then none stays open."""
        try:
            await self._start(network)
        except BaseException:
            await self.close()
            raise

    async def _start(self, network: Network) -> None:
        factories: dict[int, ProtocolFactory] = {**_SIMPLE, iperf3.PORT: self.iperf3}
        for address in self._addresses:
            for port, factory in factories.items():
                server: Server = await network.create_server(factory, address, port)
                self._opened.append(server)
            await self.http.start(network, address)
        for address in (*self._addresses, str(self._name_server)):
            await self._open_datagram(network, lambda: dns.DnsProtocol(self.dns), (address, dns.PORT))
        # A client without an address sends to 255.255.255.255: only a socket bound to no address gets that.
        await self._open_datagram(
            network, lambda: dhcp.DhcpProtocol(self.dhcp), ("0.0.0.0", dhcp.SERVER_PORT)
        )

        server6 = self.dhcp6
        if server6 is not None:
            where = (dhcp6.GROUP, dhcp6.SERVER_PORT)
            await self._open_datagram(network, lambda: dhcp6.Dhcp6Protocol(server6), where)

    async def _open_datagram(self, network: Network, factory: Any, address: tuple[str, int]) -> None:
        transport, _ = await network.create_datagram_endpoint(factory, address)
        self._opened.append(transport)

    async def close(self) -> None:
        """Stop listening; HTTP connections are ended, others end with their stack."""
        await self.http.close()
        for opened in self._opened:
            opened.close()
        self._opened.clear()

    # -- frozen connections ----------------------------------------------------------------------------------------

    def freeze_connection(self, port: int, transport: Any) -> dict[str, Any] | None:
        """What ``resume`` needs of a connection to a service; None if it cannot be resumed (an upload, iperf3)."""
        if port == http.PORT:
            return self.http.freeze(transport)
        return None if port == iperf3.PORT else {}

    def resume(self, port: int, state: dict[str, Any]) -> asyncio.Protocol:
        """The protocol that goes on with it."""
        return self.http.resume(state) if port == http.PORT else _SIMPLE[port]()

    def counters(self) -> dict[str, dict[str, int]]:
        """What each service counted."""
        found = {"dhcp": self.dhcp.counters, "dns": self.dns.counters, "iperf3": self.iperf3.counters}
        return found if self.dhcp6 is None else {**found, "dhcp6": self.dhcp6.counters}


def _dhcp6(server6: IPv6Address, mac: bytes) -> dhcp6.Dhcp6Server:
    return dhcp6.Dhcp6Server(dhcp6.Config(duid=dhcp6.duid_ll(mac), name_servers=(server6,)))


def _dhcp_config(server: IPv4Interface, name_server: IPv4Address, mtu: int) -> dhcp.Config:
    network = server.network
    first = network.network_address + POOL_FIRST
    return dhcp.Config(
        server=server,
        first=first,
        last=min(network.broadcast_address - 1, first + POOL_MAX - 1),
        router=server.ip,
        name_servers=(name_server,),
        mtu=mtu,
    )
