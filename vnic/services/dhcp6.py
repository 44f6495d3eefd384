# SPDX-License-Identifier: GPL-2.0-or-later
"""A stateless DHCPv6 server, RFC 8415 section 6.1: guests make their addresses themselves (RFC 4862) and ask here for
the rest - name servers, search domains (RFC 3646), and how long that is good (section 21.23).

What comes in, and what becomes of it (section 18.3)
----------------------------------------------------
::

    Information-request            Reply with what was asked for; without an option request, with everything
    Solicit                        Advertise: the same, and that no address (or prefix) is to be had
    Request                        Reply: no address is to be had
    Renew, Release, Decline        Reply: no such binding
    Confirm, Rebind                silence: they ask whoever knows the addresses, and we do not
    Relay-forward                  silence: every guest is on our link, and no relay agent is between
    Advertise, Reply, Reconfigure, Relay-reply, anything else         silence: not for a server

A message is dropped if section 16 says so: without a client identifier where one must be, with one that is empty or
longer than 130 bytes, with the identifier of another server, with one where none may be, an Information-request with an
IA in it, options that do not fit into each other.  Each is counted.

Answers go back to where the message came from.  Messages sent to an address of ours instead of the servers' group never
come here, as section 18.4 wants: the socket is bound to that group.

Left out: addresses and prefixes, so Rapid Commit and preferences; authentication (section 20) and Reconfigure.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

from vnic.services import dns

SERVER_PORT = 547
GROUP = "ff02::1:2"
"""All_DHCP_Relay_Agents_and_Servers: section 7.1."""

# Section 7.3: message types
SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY = 1, 2, 3, 4, 5, 6, 7
RELEASE, DECLINE, RECONFIGURE, INFORMATION_REQUEST, RELAY_FORW, RELAY_REPL = 8, 9, 10, 11, 12, 13

# Section 21: options; RFC 3646 for 23 and 24
OPTION_CLIENTID, OPTION_SERVERID, OPTION_IA_NA, OPTION_IA_TA, OPTION_ORO = 1, 2, 3, 4, 6
OPTION_STATUS_CODE, OPTION_DNS_SERVERS, OPTION_DOMAIN_LIST, OPTION_IA_PD = 13, 23, 24, 25
OPTION_INFORMATION_REFRESH_TIME = 32

# Section 21.13: status codes
SUCCESS, NO_ADDRS_AVAIL, NO_BINDING, NO_PREFIX_AVAIL = 0, 2, 3, 6

IRT_MINIMUM = 600  # s, section 7.6
DUID_MAX = 130  # section 11.1: the type's two bytes and 128 more
_IA_HEAD = {OPTION_IA_NA: 12, OPTION_IA_TA: 4, OPTION_IA_PD: 12}
"""What stands in front of the options of an IA: IAID, and T1 and T2 for two of them."""

_KINDS = {
    SOLICIT: "solicit",
    REQUEST: "request",
    CONFIRM: "confirm",
    RENEW: "renew",
    REBIND: "rebind",
    RELEASE: "release",
    DECLINE: "decline",
    INFORMATION_REQUEST: "information-request",
}
_OTHERS = {ADVERTISE, REPLY, RECONFIGURE, RELAY_FORW, RELAY_REPL}
_TO_US = {REQUEST, RENEW, RELEASE, DECLINE}  # these name their server

Option = tuple[int, bytes]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What guests are told.  ``duid`` identifies this server (section 11)."""

    duid: bytes
    name_servers: tuple[IPv6Address, ...]
    domains: tuple[str, ...] = (dns.DOMAIN,)
    refresh_s: int = 86400

    def __post_init__(self) -> None:
        """ValueError for an identifier that is none, or a refresh time below the least."""
        if not 3 <= len(self.duid) <= DUID_MAX:
            raise ValueError(f"a DUID has 3 to {DUID_MAX} bytes, not {len(self.duid)}")
        if self.refresh_s < IRT_MINIMUM:
            raise ValueError(f"a refresh time of {self.refresh_s} s is below {IRT_MINIMUM}")


def duid_ll(mac: bytes) -> bytes:
    """Section 11.4: an identifier from an Ethernet address."""
    return struct.pack(">HH", 3, 1) + mac


def parse_options(raw: bytes) -> list[Option] | None:
    """Options one behind the other (section 21.1); None if the last one is not whole."""
    found: list[Option] = []
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            return None
        code, size = struct.unpack_from(">HH", raw, at)
        at += 4
        if at + size > len(raw):
            return None
        found.append((code, raw[at : at + size]))
        at += size
    return found


def pack_options(options: list[Option]) -> bytes:
    return b"".join(struct.pack(">HH", code, len(value)) + value for code, value in options)


def pack_domain(name: str) -> bytes:
    """Section 10: labels with their lengths, not compressed."""
    labels = [label.encode("ascii") for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


@dataclass(slots=True)
class _Message:
    """A client's message with what the decisions need."""

    kind: int
    transaction: bytes
    options: list[Option]
    client: bytes | None
    server: bytes | None
    wanted: set[int] | None

    def ias(self) -> list[Option]:
        return [(code, value) for code, value in self.options if code in _IA_HEAD]


class _Malformed(ValueError):
    """Options that a message cannot have."""


def parse(raw: bytes) -> _Message | None:
    """A message of a client's kind, read as far as decisions need; None if it is not whole or contradicts itself."""
    options = parse_options(raw[4:]) if len(raw) >= 4 else None
    if options is None or any(len(value) < _IA_HEAD.get(code, 0) for code, value in options):
        return None
    try:
        client, server, wanted = (
            _single(options, code) for code in (OPTION_CLIENTID, OPTION_SERVERID, OPTION_ORO)
        )
    except _Malformed:
        return None
    if (client is not None and not 3 <= len(client) <= DUID_MAX) or len(wanted or b"") % 2:
        return None
    codes = None if wanted is None else {code for (code,) in struct.iter_unpack(">H", wanted)}
    return _Message(raw[0], raw[1:4], options, client, server, codes)


def _single(options: list[Option], code: int) -> bytes | None:
    """The value of an option that may be there once (section 21)."""
    values = [value for one, value in options if one == code]
    if len(values) > 1:
        raise _Malformed(f"option {code} is there {len(values)} times")
    return values[0] if values else None


class Dhcp6Server:
    """Messages in, answers out."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.counters: dict[str, int] = dict.fromkeys(
            (*_KINDS.values(), "advertise", "reply", "refused", "ignored", "malformed"), 0
        )

    def handle(self, raw: bytes) -> bytes | None:
        """The answer to one UDP message; None if there is none."""
        kind = raw[0] if raw else 0
        message = parse(raw) if kind in _KINDS else None
        if message is None:
            self.counters["ignored" if kind in _OTHERS else "malformed"] += 1
            return None
        self.counters[_KINDS[kind]] += 1
        if not self._acceptable(message):
            self.counters["refused"] += 1
            return None
        return self._answer_to(message)

    def _answer_to(self, message: _Message) -> bytes | None:
        handlers: dict[int, Callable[[_Message], bytes | None]] = {
            INFORMATION_REQUEST: self._information,
            SOLICIT: self._solicit,
            REQUEST: self._request,
            RENEW: self._no_binding,
            RELEASE: self._no_binding,
            DECLINE: self._no_binding,
        }
        handler = handlers.get(message.kind)
        if handler is None:
            self.counters["ignored"] += 1
            return None
        return handler(message)

    def _acceptable(self, message: _Message) -> bool:
        """Section 16: which identifiers a message must have and must not."""
        if message.kind == INFORMATION_REQUEST:
            return not message.ias() and message.server in (None, self.config.duid)
        if message.kind in _TO_US:
            return message.client is not None and message.server == self.config.duid
        return message.client is not None and message.server is None

    # -- answers -----------------------------------------------------------------------------------------------------

    def _information(self, message: _Message) -> bytes:
        return self._answer(REPLY, message, self._configuration(message))

    def _solicit(self, message: _Message) -> bytes:
        """Section 18.3.9: a client that finds no server with addresses still may want the rest."""
        return self._answer(ADVERTISE, message, [*_refused(message), *self._configuration(message)])

    def _request(self, message: _Message) -> bytes:
        return self._answer(REPLY, message, [*_refused(message), *self._configuration(message)])

    def _no_binding(self, message: _Message) -> bytes:
        """Sections 18.3.4, 18.3.7 and 18.3.8."""
        status = [] if message.kind == RENEW else [_status(SUCCESS)]
        return self._answer(
            REPLY, message, [*status, *(_with_status(ia, NO_BINDING) for ia in message.ias())]
        )

    def _configuration(self, message: _Message) -> list[Option]:
        config = self.config
        all_of_it = {
            OPTION_DNS_SERVERS: b"".join(one.packed for one in config.name_servers),
            OPTION_DOMAIN_LIST: b"".join(map(pack_domain, config.domains)),
            OPTION_INFORMATION_REFRESH_TIME: struct.pack(">I", config.refresh_s),
        }
        if message.kind != INFORMATION_REQUEST:
            del all_of_it[OPTION_INFORMATION_REFRESH_TIME]  # section 21.23: only in an answer to that
        wanted = all_of_it.keys() if message.wanted is None else message.wanted
        return [(code, value) for code, value in all_of_it.items() if code in wanted and value]

    def _answer(self, kind: int, message: _Message, options: list[Option]) -> bytes:
        self.counters["reply" if kind == REPLY else "advertise"] += 1
        head = [(OPTION_SERVERID, self.config.duid)]
        if message.client is not None:
            head.append((OPTION_CLIENTID, message.client))
        return bytes([kind]) + message.transaction + pack_options([*head, *options])


def _refused(message: _Message) -> list[Option]:
    """Each IA with the news that there is nothing for it."""
    return [
        _with_status(ia, NO_PREFIX_AVAIL if ia[0] == OPTION_IA_PD else NO_ADDRS_AVAIL) for ia in message.ias()
    ]


def _with_status(ia: Option, status: int) -> Option:
    code, value = ia
    iaid = value[:4].ljust(_IA_HEAD[code], b"\0")  # T1 and T2: 0, for the client to choose
    return code, iaid + pack_options([_status(status)])


def _status(status: int) -> Option:
    return OPTION_STATUS_CODE, struct.pack(">H", status)


class Dhcp6Protocol(asyncio.DatagramProtocol):
    """The server on a UDP socket bound to GROUP, which it joins."""

    def __init__(self, server: Dhcp6Server) -> None:
        self._server = server
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        membership = socket.inet_pton(socket.AF_INET6, GROUP) + struct.pack("=i", 0)
        try:
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # a thawed stack's socket is in the group already
                raise

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        answer = self._server.handle(bytes(data))
        if answer is not None:
            self._transport.sendto(answer, addr)
