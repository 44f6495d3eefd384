# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host process is told: checked before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address
from pathlib import Path

from vnic.devicefaults import parse_script
from vnic.errors import UsageError
from vnic.places import Place, Stream, VhostUser, check_together
from vnic.services.dns import valid_name

DEFAULT_ADDRESS = "10.0.2.2/24"
DEFAULT_ADDRESS6 = "fd00:10:0:2::2/64"
NO_ADDRESS6 = "none"
IPV6_MIN_MTU = 1280  # RFC 8200, section 5: a link below that has no IPv6


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a host process is made of: at least one place to be reached at, ``vhost_user`` (a path), ``stream`` (a path
    or HOST:PORT) or any in ``further``; of several each is a port of one switch."""

    vhost_user: str | None = None
    stream: str | None = None
    further: tuple[Place, ...] = ()
    capture: Path | None = None
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    seed: int = 0
    device_faults: tuple[str, ...] = ()
    """What the device does wrong on purpose, in the words of devmodel.virtio.faultscript; vhost-user only."""
    address: str = DEFAULT_ADDRESS
    address6: str = DEFAULT_ADDRESS6
    """The server's IPv6 address and the prefix that the guest makes its own from, or "none"; unused below an MTU of
    1280."""
    mtu: int = 1500
    hosts: dict[str, str] = field(default_factory=dict)
    freeze: Path | None = None
    """Where the state is written at the end."""
    record: Path | None = None
    """Where all calls on the stack are written, to be replayed."""
    thaw: Path | None = None
    """A file that an earlier run wrote so, to go on from."""

    hand_over: Path | None = None
    """A socket where another back end gets the state, once the guest has moved there."""
    take_over: Path | None = None
    """The socket of such a one, which the guest comes from."""

    def __post_init__(self) -> None:
        """UsageError for what cannot be."""
        check_together(self.places, self.mtu)
        parse_script(self.device_faults)
        if self.device_faults and not any(isinstance(place, VhostUser) for place in self.places):
            raise UsageError(
                "--device-fault is about rings, and only vhost-user has any on our side",
                ", ".join(map(str, self.places)),
                "--vhost-user PATH",
            )
        self._check_moving()
        for name in ("loss", "reorder", "duplicate"):
            chance = getattr(self, name)
            if not 0 <= chance <= 1:
                raise UsageError(
                    f"--{name} {chance} is no probability", "", f"for two percent: --{name} 0.02"
                )

    def _check_moving(self) -> None:
        if self.hand_over is None and self.take_over is None:
            return
        if len(self.places) != 1 or not isinstance(self.places[0], VhostUser):
            raise UsageError(
                "--hand-over and --take-over are for one guest behind vhost-user",
                f"the places are {', '.join(map(str, self.places))}",
                "a back end of its own for each guest that is to be moved",
            )
        for option, path in (("--hand-over", self.hand_over), ("--take-over", self.take_over)):
            if path is not None and (path == Path() or str(path) in self.places[0].paths()):
                raise UsageError(
                    f"{option} needs a socket of its own",
                    f"{option} {str(path)!r}, --vhost-user {self.places[0].text}",
                    f"as in {option} /tmp/move.sock",
                )
        if self.record is not None:
            raise UsageError(
                "a run that is recorded cannot be moved", "--record with --hand-over or --take-over", ""
            )
        if self.take_over is not None and self.thaw is not None:
            raise UsageError(
                "there are two states to go on from", "--thaw with --take-over", "leave one of them out"
            )
        if self.hand_over is not None and self.hand_over == self.take_over:
            raise UsageError(
                "--hand-over and --take-over name the same socket", f"{self.hand_over}", "name another one"
            )

    @property
    def places(self) -> tuple[Place, ...]:
        """All of them."""
        first = () if self.vhost_user is None else (VhostUser(self.vhost_user),)
        second = () if self.stream is None else (Stream(self.stream),)
        return (*first, *second, *self.further)


@dataclass(frozen=True)
class AddressPlan:
    """Server and name server of the link; the pool of DHCP follows from them (vnic.services.catalogue)."""

    server: IPv4Interface
    name_server: IPv4Address

    @classmethod
    def of(cls, cidr: str) -> AddressPlan:
        """The server's address as given, the name server the next one; UsageError if that does not fit."""
        try:
            server = IPv4Interface(cidr)
        except ValueError as error:
            raise UsageError(
                f"--address {cidr} is no IPv4 address with a prefix", str(error), "10.0.2.2/24"
            ) from error
        if server.is_multicast or server.is_loopback or server.is_unspecified:
            raise UsageError(
                f"--address {cidr} cannot be a server's", "multicast, loopback or unspecified", "10.0.2.2/24"
            )
        name_server = server.ip + 1
        if server.network.prefixlen > 27 or server.ip == server.network.network_address:
            raise UsageError(
                f"--address {cidr} leaves no room", "16 and more addresses are handed out", "10.0.2.2/24"
            )
        if name_server not in server.network or name_server == server.network.broadcast_address:
            raise UsageError(
                f"--address {cidr}: no room for the name server", f"{name_server}", "10.0.2.2/24"
            )
        return cls(server, name_server)


def server6_of(cidr: str) -> IPv6Interface | None:
    """The server's IPv6 address, None for "none"; UsageError for one that no server can have, or a prefix that is not
    64 bits long, from which no guest makes an address."""
    if cidr == NO_ADDRESS6:
        return None
    try:
        server = IPv6Interface(cidr)
    except ValueError as error:
        raise UsageError(
            f"--address6 {cidr} is no IPv6 address with a prefix", str(error), f"{DEFAULT_ADDRESS6}, or none"
        ) from error
    ip = server.ip
    if ip.is_multicast or ip.is_loopback or ip.is_unspecified or ip.is_link_local:
        raise UsageError(
            f"--address6 {cidr} cannot be a server's",
            "multicast, loopback, link-local or unspecified",
            DEFAULT_ADDRESS6,
        )
    if server.network.prefixlen != 64 or server.ip == server.network.network_address:
        raise UsageError(
            f"--address6 {cidr} is no host in a /64",
            "a guest makes its address from a prefix of 64 bits",
            DEFAULT_ADDRESS6,
        )
    return server


def parse_hosts(pairs: list[str]) -> dict[str, str]:
    """NAME=ADDR arguments; UsageError for what is none."""
    hosts = {}
    for pair in pairs:
        name, equals, address = pair.partition("=")
        try:
            hosts[name] = str(ip_address(address))
        except ValueError as error:
            raise UsageError(
                f"--host {pair} is not NAME=ADDRESS", str(error), "--host db.test=10.0.2.2"
            ) from error
        if not equals or not valid_name(name):
            raise UsageError(f"--host {pair}: {name!r} is not a host name", "", "--host db.test=10.0.2.2")
    return hosts
