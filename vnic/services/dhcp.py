# SPDX-License-Identifier: GPL-2.0-or-later
"""A DHCP server, RFC 2131, the only one on its link.

States of an address
--------------------
::

    free --DISCOVER--> offered --REQUEST--> bound --RELEASE, expiry--> free (its last client is remembered)
                          |  60 s, or the client chose another server: free again
    bound --DECLINE--> declined (somebody else uses it) --DECLINE_S--> free

A client is named by its client identifier (option 61), without one by hardware type and address.  It gets, in this
order: the address it has, the one it had, the one it asks for if that is free, the next one that nobody ever had, the
one that has been free for longest.  With none left a DISCOVER is not answered (another server might), and counted.

REQUEST tells its purpose by its fields (RFC 2131, 4.3.2): with a server identifier it accepts an offer (SELECTING);
with a requested address alone it comes from a rebooted client (INIT-REBOOT); with ``ciaddr`` it renews or rebinds.  As
we are alone on the link, an address that this server has no record of but that lies in the pool and is free is
confirmed: that is how guests keep their addresses when the back end was restarted.  Anything else is refused by NAK.

Answers go to the relay if there is one, to ``ciaddr`` if the client has that address, else to 255.255.255.255: a client
without an address could be reached by unicast only with its hardware address, and RFC 2131, 4.1 allows the broadcast.

Left out: BOOTP clients (no message type), authentication (RFC 3118), options of relay agents (RFC 3046).
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import dpkt
from dpkt import dhcp

from vnic.services.dns import DOMAIN

SERVER_PORT = 67
CLIENT_PORT = 68
BROADCAST = "255.255.255.255"

OFFER_S = 60.0
DECLINE_S = 600.0
MIN_MESSAGE = 300  # RFC 951: what old clients take for the smallest message
HARDWARE_MAX = 16

Option = tuple[int, bytes]
Reply = tuple[bytes, tuple[str, int]]

_KNOWN = {
    dhcp.DHCPDISCOVER: "discover",
    dhcp.DHCPREQUEST: "request",
    dhcp.DHCPDECLINE: "decline",
    dhcp.DHCPRELEASE: "release",
    dhcp.DHCPINFORM: "inform",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the clients are told; ``first`` and ``last`` bound the pool, both included."""

    server: IPv4Interface
    first: IPv4Address
    last: IPv4Address
    router: IPv4Address | None
    name_servers: tuple[IPv4Address, ...] = ()
    domain: str = DOMAIN
    mtu: int = 1500
    lease_s: int = 3600

    def __post_init__(self) -> None:
        """ValueError for a pool outside the server's subnet."""
        inside = self.first in self.server.network and self.last in self.server.network
        if not inside or self.first > self.last:
            raise ValueError(f"the pool {self.first} to {self.last} is not within {self.server.network}")


@dataclass(slots=True)
class Lease:
    """``state`` is free, offered, bound or declined; ``until`` is in seconds of the server's clock."""

    address: IPv4Address
    client: bytes = b""
    state: str = "free"
    until: float = 0.0
    hostname: str = ""


@dataclass(slots=True)
class _Request:
    """One client message with what the decisions need."""

    message: Any
    kind: int
    options: dict[int, bytes]
    client: bytes = field(default=b"")

    def address(self, option: int) -> IPv4Address | None:
        raw = self.options.get(option, b"")
        return IPv4Address(raw) if len(raw) == 4 else None

    @property
    def ciaddr(self) -> IPv4Address | None:
        return IPv4Address(self.message.ciaddr) if self.message.ciaddr else None


def parse(message: bytes) -> _Request | None:
    """A client's message; None for what is not one."""
    try:
        parsed = dhcp.DHCP(message)
    except (dpkt.Error, struct.error, IndexError):
        return None
    if (
        parsed.op != dhcp.DHCP_OP_REQUEST
        or parsed.magic != dhcp.DHCP_MAGIC
        or not 0 < parsed.hln <= HARDWARE_MAX
    ):
        return None
    options: dict[int, bytes] = {}
    for code, value in parsed.opts:  # a long option comes in pieces: RFC 3396
        options[code] = options.get(code, b"") + bytes(value)
    kind = options.get(dhcp.DHCP_OPT_MSGTYPE, b"")
    if len(kind) != 1 or kind[0] not in _KNOWN:
        return None
    hardware = bytes([parsed.hrd]) + bytes(parsed.chaddr)
    identifier = options.get(dhcp.DHCP_OPT_CLIENT_ID, b"")
    return _Request(parsed, kind[0], options, identifier if len(identifier) >= 2 else hardware)


class Pool:
    """The addresses and who has them; every call is given the time."""

    def __init__(self, config: Config) -> None:
        ours = config.server.ip
        numbers = range(int(config.first), int(config.last) + 1)
        taken = {ours, config.router, *config.name_servers}
        taken |= {config.server.network.network_address, config.server.network.broadcast_address}
        self.leases = {
            address: Lease(address) for address in map(IPv4Address, numbers) if address not in taken
        }

    def expire(self, now: float) -> None:
        """Free what ran out; who had it stays on record."""
        for lease in self.leases.values():
            if lease.state != "free" and lease.until <= now:
                lease.state = "free"

    def of_client(self, client: bytes) -> Lease | None:
        """The lease that the client has or was offered."""
        held = (lease for lease in self.leases.values() if lease.client == client)
        return next((lease for lease in held if lease.state in ("offered", "bound")), None)

    def choose(self, client: bytes, wanted: IPv4Address | None) -> Lease | None:
        """The address for this client, as the order in the module's head says; None if all are taken."""
        mine = self.of_client(client)
        if mine is not None:
            return mine
        free = [lease for lease in self.leases.values() if lease.state == "free"]
        had = [lease for lease in free if lease.client == client]
        asked = [lease for lease in free if lease.address == wanted and not lease.client]
        fresh = [lease for lease in free if not lease.client]
        oldest = sorted(free, key=lambda lease: lease.until)
        return next(iter([*had, *asked, *fresh, *oldest]), None)

    def may_have(self, client: bytes, address: IPv4Address) -> Lease | None:
        """The lease of ``address`` if the client has it, or nobody does and the client has no other."""
        lease, mine = self.leases.get(address), self.of_client(client)
        if lease is None or (mine is not None and mine is not lease):
            return None
        return lease if lease is mine or lease.state == "free" else None


class DhcpServer:
    """Messages in, messages with their destinations out."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self.config = config
        self.pool = Pool(config)
        self._clock = clock
        self.counters: dict[str, int] = dict.fromkeys(
            (*_KNOWN.values(), "offer", "ack", "nak", "malformed", "exhausted"), 0
        )

    def handle(self, message: bytes) -> Reply | None:
        """The answer to one UDP message; None if there is none."""
        request = parse(message)
        if request is None:
            self.counters["malformed"] += 1
            return None
        now = self._clock()
        self.pool.expire(now)
        self.counters[_KNOWN[request.kind]] += 1
        handlers: dict[int, Callable[[_Request, float], Reply | None]] = {
            dhcp.DHCPDISCOVER: self._discover,
            dhcp.DHCPREQUEST: self._request,
            dhcp.DHCPDECLINE: self._decline,
            dhcp.DHCPRELEASE: self._release,
            dhcp.DHCPINFORM: self._inform,
        }
        return handlers[request.kind](request, now)

    def freeze(self) -> list[list[Any]]:
        """The leases as what JSON takes; times as seconds from now."""
        now = self._clock()
        held = (lease for lease in self.pool.leases.values() if lease.state != "free")
        return [
            [str(one.address), one.client.hex(), one.state, one.until - now, one.hostname] for one in held
        ]

    def thaw(self, leases: list[list[Any]]) -> None:
        """Take over what ``freeze`` said; addresses that are not in this pool are left out.  TypeError or ValueError
        for anything else."""
        now = self._clock()
        for address, client, state, left, hostname in leases:
            lease = self.pool.leases.get(IPv4Address(address))
            if lease is not None:
                lease.client, lease.state = bytes.fromhex(client), str(state)
                lease.until, lease.hostname = now + float(left), str(hostname)

    def leases(self) -> list[Lease]:
        """All that is bound now."""
        self.pool.expire(self._clock())
        return [lease for lease in self.pool.leases.values() if lease.state == "bound"]

    # -- one method a message type -----------------------------------------------------------------------------------

    def _discover(self, request: _Request, now: float) -> Reply | None:
        lease = self.pool.choose(request.client, request.address(dhcp.DHCP_OPT_REQ_IP))
        if lease is None:
            self.counters["exhausted"] += 1
            return None
        if lease.state != "bound":
            lease.state, lease.client, lease.until = "offered", request.client, now + OFFER_S
        return self._reply(request, dhcp.DHCPOFFER, lease.address)

    def _request(self, request: _Request, now: float) -> Reply | None:
        chosen = request.address(dhcp.DHCP_OPT_SERVER_ID)
        if chosen is not None and chosen != self.config.server.ip:
            self._forget_offer(request.client)
            return None
        address = request.address(dhcp.DHCP_OPT_REQ_IP) or request.ciaddr
        if address is None:
            return self._nak(request)
        if chosen is None:
            lease = self.pool.may_have(request.client, address)
        else:
            mine = self.pool.of_client(request.client)
            lease = mine if mine is not None and mine.address == address else None
            lease = lease or self.pool.may_have(request.client, address)
        if lease is None:
            return self._nak(request)
        lease.state, lease.client, lease.until = "bound", request.client, now + self.config.lease_s
        lease.hostname = request.options.get(dhcp.DHCP_OPT_HOSTNAME, b"").decode("ascii", "replace")
        return self._reply(request, dhcp.DHCPACK, lease.address)

    def _forget_offer(self, client: bytes) -> None:
        lease = self.pool.of_client(client)
        if lease is not None and lease.state == "offered":
            lease.state = "free"

    def _decline(self, request: _Request, now: float) -> None:
        """Somebody else answers ARP for the address: keep it out of the pool for a while."""
        lease = self.pool.of_client(request.client)
        if lease is not None and lease.address == request.address(dhcp.DHCP_OPT_REQ_IP):
            lease.state, lease.client, lease.until = "declined", b"", now + DECLINE_S

    def _release(self, request: _Request, now: float) -> None:
        lease = self.pool.of_client(request.client)
        if lease is not None and lease.address == request.ciaddr:
            lease.state, lease.until = "free", now

    def _inform(self, request: _Request, now: float) -> Reply | None:
        return self._reply(request, dhcp.DHCPACK, None) if request.ciaddr is not None else None

    # -- answers -----------------------------------------------------------------------------------------------------

    def _reply(self, request: _Request, kind: int, address: IPv4Address | None) -> Reply:
        self.counters["offer" if kind == dhcp.DHCPOFFER else "ack"] += 1
        options = [*self._lease_options(), *self._link_options()] if address else self._link_options()
        return self._send(request, kind, options, address, request.ciaddr)

    def _nak(self, request: _Request) -> Reply:
        """Always by broadcast: the client may hold an address of another subnet (RFC 2131, 4.3.2)."""
        self.counters["nak"] += 1
        return self._send(request, dhcp.DHCPNAK, [], None, None)

    def _send(
        self,
        request: _Request,
        kind: int,
        options: list[Option],
        address: IPv4Address | None,
        unicast: IPv4Address | None,
    ) -> Reply:
        asked = request.message
        head = [
            (dhcp.DHCP_OPT_MSGTYPE, bytes([kind])),
            (dhcp.DHCP_OPT_SERVER_ID, self.config.server.ip.packed),
        ]
        answer = dhcp.DHCP(
            op=dhcp.DHCP_OP_REPLY,
            hrd=asked.hrd,
            hln=asked.hln,
            xid=asked.xid,
            flags=asked.flags,
            ciaddr=asked.ciaddr if kind == dhcp.DHCPACK else 0,
            yiaddr=int(address) if address else 0,
            siaddr=0,
            giaddr=asked.giaddr,
            chaddr=bytes(asked.chaddr),
            opts=[*head, *options],
        )
        return bytes(answer).ljust(MIN_MESSAGE, b"\0"), _destination(asked.giaddr, unicast)

    def _lease_options(self) -> list[Option]:
        seconds = self.config.lease_s
        times = {
            dhcp.DHCP_OPT_LEASE_SEC: seconds,
            dhcp.DHCP_OPT_RENEWTIME: seconds // 2,  # T1 and T2: RFC 2131, 4.4.5
            dhcp.DHCP_OPT_REBINDTIME: seconds * 7 // 8,
        }
        return [(code, struct.pack(">I", value)) for code, value in times.items()]

    def _link_options(self) -> list[Option]:
        config, network = self.config, self.config.server.network
        options = [
            (dhcp.DHCP_OPT_NETMASK, network.netmask.packed),
            (dhcp.DHCP_OPT_BROADCASTADDR, network.broadcast_address.packed),
            (dhcp.DHCP_OPT_MTUSIZE, struct.pack(">H", config.mtu)),
            (dhcp.DHCP_OPT_DOMAIN, config.domain.encode()),
        ]
        if config.router is not None:
            options.append((dhcp.DHCP_OPT_ROUTER, config.router.packed))
        if config.name_servers:
            options.append((dhcp.DHCP_OPT_DNS_SVRS, b"".join(one.packed for one in config.name_servers)))
        return options


def _destination(giaddr: int, unicast: IPv4Address | None) -> tuple[str, int]:
    if giaddr:
        return str(ipaddress.IPv4Address(giaddr)), SERVER_PORT
    return (str(unicast) if unicast else BROADCAST), CLIENT_PORT


class DhcpProtocol(asyncio.DatagramProtocol):
    """The server on a UDP socket that may send broadcasts."""

    def __init__(self, server: DhcpServer) -> None:
        self._server = server
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        reply = self._server.handle(bytes(data))
        if reply is not None:
            self._transport.sendto(*reply)
