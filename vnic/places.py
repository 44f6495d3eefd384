# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a back end is reached: what the options --vhost-user, --stream and so on name, and what QEMU has to be told.

    --vhost-user PATH[,mac=MAC]       we listen, rings in shared memory; mac: for a frontend without a card of its own
    --vhost-user-to PATH              the same where QEMU listens; we connect, once it is there
    --stream PATH|HOST:PORT           we listen for -netdev stream,server=off
    --stream-to PATH|HOST:PORT        we connect to -netdev stream,server=on, once it is there
    --dgram LOCAL[,REMOTE]            -netdev dgram; REMOTE may be a multicast group; without it: whoever sends
    --socket TEXT                     the peer of -netdev socket,TEXT: listen=, connect=, udp=...,localaddr=..., mcast=
    --tap NAME[,vnet]                 a TAP of this network namespace; vnet: with offloads

A path is what holds a slash or no colon, anything else HOST:PORT. Each kind is one class below: what it makes of its
text (UsageError in three parts), how it opens the port, what to say to QEMU. Of several places each is one port
of a switch (devmodel/switch.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from devmodel.netdev.dgram import MAX_UDP4, Address, DgramPort, is_multicast
from devmodel.netdev.stream import StreamServer
from devmodel.netdev.stream_client import StreamClient
from devmodel.netdev.tap import TapPort
from devmodel.port import Port
from devmodel.vhost_user.client import VhostUserClient
from devmodel.vhost_user.message import VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS
from devmodel.vhost_user.server import VhostUserServer
from devmodel.vhost_user.session import PROTOCOL_FEATURES
from devmodel.virtio.config import NetConfig
from devmodel.virtio.features import mask
from devmodel.virtio.spec import ETH_HLEN, MAX_GSO_FRAME
from vnic.errors import UsageError

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.IGNORECASE)

GUEST_SUFFIX = ".guest"
"""Of the path that a guest's own datagram socket gets where nobody named one."""
QUEUE_PAIRS = 8
"""That a vhost-user frontend may use; one that uses fewer does not notice."""
FIRST_MAC = 0x525400123456
"""The address that QEMU gives to a guest's card by itself; of several guests each needs its own."""


class Transport(Port, Protocol):
    """A port that knows who is at its other end."""

    def negotiation(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Place:
    """One of them; `text` is as it was given."""

    text: str
    kind: ClassVar[str] = ""
    example: ClassVar[str] = ""

    @property
    def option(self) -> str:
        return f"--{self.kind}"

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"

    def __post_init__(self) -> None:
        if not self.text:
            raise UsageError(
                f"{self.option} has an empty value", f"{self.option} ''", f"{self.option} {self.example}"
            )
        self.check()

    def check(self) -> None:
        """UsageError for a text that cannot be."""

    def largest(self) -> int:
        """The longest frame, in bytes, that its wire carries."""
        return MAX_GSO_FRAME

    def paths(self) -> tuple[str, ...]:
        """What it makes in the file system."""
        return ()

    async def open(self, name: str, mtu: int) -> Transport:
        """The port, listening. TransportError."""
        raise NotImplementedError

    def qemu(self, net: str) -> list[str]:
        """The options of QEMU that reach it, its card left to `frontend_lines`."""
        raise NotImplementedError

    def device(self, net: str) -> str:
        return f"-device virtio-net-pci,netdev={net}"

    def refused(self, fact: str, evidence: str) -> UsageError:
        return UsageError(
            f"{self.option} {self.text}: {fact}", evidence, f"as in {self.option} {self.example}"
        )


class VhostUser(Place):
    """With a MAC address the whole card is ours: configuration space, control queue, notifications as messages. QEMU
    has all that itself; User-Mode Linux has none of it."""

    kind = "vhost-user"
    example = "/tmp/vnic.sock"

    def check(self) -> None:
        _, given, mac = self.text.partition(",mac=")
        if given and (not _MAC.fullmatch(mac) or int(mac[1], 16) & 1):
            fact = "a card's address is six bytes with colons, the first one even"
            example = "as in --vhost-user /tmp/vnic.sock,mac=52:54:00:12:34:56"
            raise UsageError(f"{self.option} {self.text}: {fact}", f"mac={mac}", example)

    @property
    def path(self) -> str:
        return self.text.partition(",mac=")[0]

    @property
    def mac(self) -> str:
        """The address that was given, "" without one."""
        return self.text.partition(",mac=")[2]

    def paths(self) -> tuple[str, ...]:
        return (self.path,)

    async def open(self, name: str, mtu: int) -> Transport:
        if not self.mac:
            return await VhostUserServer.listen(self.path, name=name, queue_pairs=QUEUE_PAIRS)
        return await VhostUserServer.listen(
            self.path,
            name=name,
            protocol_features=PROTOCOL_FEATURES | mask(VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS),
            control_queue=True,
            config=NetConfig(mac=bytes.fromhex(self.mac.replace(":", "")), mtu=mtu),
            iommu=False,
        )

    def qemu(self, net: str) -> list[str]:
        chardev = net.replace("net", "chr")
        return [
            f"-chardev socket,id={chardev},path={_escaped(self.path)},reconnect=1",
            f"-netdev vhost-user,id={net},chardev={chardev}",
        ]

    def device(self, net: str) -> str:
        return f"{super().device(net)},vectors=0"


class VhostUserTo(VhostUser):
    """QEMU listens."""

    kind = "vhost-user-to"
    example = "/tmp/qemu.sock"

    def check(self) -> None:
        if ",mac=" in self.text:
            raise self.refused(
                "QEMU, which listens there, has a card of its own", "mac= is for frontends without"
            )

    def paths(self) -> tuple[str, ...]:
        return ()

    async def open(self, name: str, mtu: int) -> Transport:
        return await VhostUserClient.connect(self.text, name=name, queue_pairs=QUEUE_PAIRS)

    def qemu(self, net: str) -> list[str]:
        chardev = net.replace("net", "chr")
        return [
            f"-chardev socket,id={chardev},path={_escaped(self.text)},server=on,wait=off",
            f"-netdev vhost-user,id={net},chardev={chardev}",
        ]


class Stream(Place):
    """QEMU connects."""

    kind = "stream"
    example = "/tmp/vnic.sock"

    def check(self) -> None:
        stream_address(self.text)

    def paths(self) -> tuple[str, ...]:
        address = stream_address(self.text)
        return (address,) if isinstance(address, str) else ()

    async def open(self, name: str, mtu: int) -> Transport:
        return await StreamServer.listen(stream_address(self.text), name=name, mtu=mtu)

    def qemu(self, net: str) -> list[str]:
        return [f"-netdev stream,id={net},server=off,{_qapi('addr', stream_address(self.text))}"]


class StreamTo(Place):
    """QEMU listens."""

    kind = "stream-to"
    example = "/tmp/qemu.sock"

    def check(self) -> None:
        stream_address(self.text)

    async def open(self, name: str, mtu: int) -> Transport:
        return await StreamClient.connect(stream_address(self.text), name=name, mtu=mtu)

    def qemu(self, net: str) -> list[str]:
        return [f"-netdev stream,id={net},server=on,{_qapi('addr', stream_address(self.text))}"]


class Dgram(Place):
    kind = "dgram"
    example = "/tmp/vnic.sock,/tmp/vnic.sock.guest"

    def ends(self) -> tuple[Address, Address | None]:
        local, comma, remote = self.text.partition(",")
        if not local or (comma and not remote):
            raise self.refused("one end is empty", "LOCAL,REMOTE, or LOCAL alone")
        ends = stream_address(local), stream_address(remote) if remote else None
        if ends[1] is not None and isinstance(ends[0], str) != isinstance(ends[1], str):
            raise self.refused("its ends are of two kinds", "both are paths, or both HOST:PORT")
        if ends[0] == ends[1]:
            raise self.refused("both ends are the same", f"{local} is named twice")
        if isinstance(ends[0], tuple) and ends[0][1] == 0 and not is_multicast(ends[1]):
            raise self.refused("LOCAL needs a port", "nobody could be told of the one that port 0 becomes")
        return ends

    def check(self) -> None:
        self.ends()

    def largest(self) -> int:
        return super().largest() if self.paths() else MAX_UDP4

    def paths(self) -> tuple[str, ...]:
        local, _ = self.ends()
        return (local,) if isinstance(local, str) else ()

    async def open(self, name: str, mtu: int) -> Transport:
        return await DgramPort.open(*self.ends(), name=name, mtu=mtu)

    def qemu(self, net: str) -> list[str]:
        local, remote = self.ends()
        if remote is not None and is_multicast(remote):
            both = f"{_qapi('remote', remote)},{_qapi('local', (local[0], 0))}"
        else:
            guest = remote or _guest_end(local)
            both = f"{_qapi('local', guest)},{_qapi('remote', local)}"
        return [f"-netdev dgram,id={net},{both}"]


class Socket(Place):
    """QEMU's older way of writing some of the above; the text is QEMU's, and we are the other end."""

    kind = "socket"
    example = "connect=127.0.0.1:5000"

    def given(self) -> dict[str, str]:
        given: dict[str, str] = {}
        for word in self.text.split(","):
            key, equals, value = word.partition("=")
            if not equals or key not in ("listen", "connect", "udp", "mcast", "localaddr") or key in given:
                evidence = f"{word!r}; listen=, connect=, udp= or mcast=, and localaddr= with the latter two"
                raise self.refused("it is not what -netdev socket takes", evidence)
            given[key] = value
        return given

    def check(self) -> None:
        self.same()

    def same(self) -> Place:
        """The place of another kind that this one is."""
        given = self.given()
        near = given.pop("localaddr", None)
        if len(given) != 1:
            raise self.refused("it says not what to do", "one of listen=, connect=, udp= and mcast=")
        ((key, value),) = given.items()
        self._inet(value if key != "listen" or not value.startswith(":") else f"127.0.0.1{value}")
        if key in ("listen", "connect"):
            if near is not None:
                raise self.refused(f"{key}= has no localaddr=", "only udp= and mcast= have one")
            return Stream(value) if key == "connect" else StreamTo(_with_host(value))
        return self._datagrams(key, value, near)

    def _datagrams(self, key: str, value: str, near: str | None) -> Place:
        """QEMU sends to `value`, which is where we are (udp=) or the group."""
        group = is_multicast(self._inet(value))
        if group != (key == "mcast"):
            kind = "a" if group else "no"
            raise self.refused(f"{key}= is another thing", f"{value} is {kind} multicast group")
        if key == "mcast":
            return Dgram(f"{near or '127.0.0.1'}:0,{value}")
        if near is None:
            raise self.refused("udp= needs localaddr=", "it is where QEMU receives, and where we send to")
        self._inet(near)
        return Dgram(f"{value},{near}")

    def _inet(self, text: str) -> tuple[str, int]:
        address = stream_address(text)
        if isinstance(address, str):
            raise self.refused("a path is none of its addresses", f"{text!r} is not HOST:PORT")
        return address

    def largest(self) -> int:
        return self.same().largest()

    async def open(self, name: str, mtu: int) -> Transport:
        return await self.same().open(name, mtu)

    def qemu(self, net: str) -> list[str]:
        text = self.text
        if text.startswith("mcast=") and "localaddr=" not in text:
            text += ",localaddr=127.0.0.1"
        return [f"-netdev socket,id={net},{text}"]


class Tap(Place):
    kind = "tap"
    example = "tap0,vnet"

    def interface(self) -> tuple[str, bool]:
        name, comma, how = self.text.partition(",")
        if comma and how != "vnet":
            raise self.refused("only vnet may follow the name", f"{how!r}")
        if not 0 < len(name) < 16 or "/" in name or name.split() != [name]:
            raise self.refused(
                f"{name!r} is no name of an interface", "1 to 15 characters, no blank, no slash"
            )
        return name, bool(comma)

    def check(self) -> None:
        self.interface()

    async def open(self, name: str, mtu: int) -> Transport:
        interface, vnet = self.interface()
        return await TapPort.open(interface, name=name, vnet=vnet, mtu=mtu)

    def qemu(self, net: str) -> list[str]:
        """A TAP of QEMU's own, joined to ours by a bridge."""
        return [f"-netdev tap,id={net},ifname={self.interface()[0]}-guest,script=no,downscript=no"]


KINDS: tuple[type[Place], ...] = (VhostUser, VhostUserTo, Stream, StreamTo, Dgram, Socket, Tap)


def check_together(places: Sequence[Place], mtu: int) -> None:
    """UsageError for none, for two that are one, and for an MTU that one cannot have."""
    if not places:
        options = ", ".join(f"--{kind.kind}" for kind in KINDS)
        raise UsageError(
            f"one of {options} is needed", "none was given", "vnic serve --vhost-user /tmp/vnic.sock"
        )
    used: dict[str, Place] = {}
    for place in places:
        for what in (*place.paths(), str(place)):
            if what in used:
                raise UsageError(
                    f"{what} is named twice", f"by {used[what].option} and {place.option}", "name another one"
                )
            used[what] = place
        if mtu + ETH_HLEN > place.largest():
            raise UsageError(
                f"--mtu {mtu} does not fit {place.option} {place.text}",
                f"its frames have {place.largest()} bytes at most, {ETH_HLEN} of them the Ethernet header",
                f"--mtu {place.largest() - ETH_HLEN}, or less",
            )


def port_names(places: Sequence[Place]) -> list[str]:
    """One for each: its kind, with a number from the second of a kind on."""
    names: list[str] = []
    for place in places:
        same = sum(name.rstrip("0123456789") == place.kind for name in names)
        names.append(f"{place.kind}{same + 1}" if same else place.kind)
    return names


def frontend_lines(places: Sequence[Place]) -> list[list[str]]:
    """For each place the options of a QEMU that connects there, for pasting into a command line."""
    several = len(places) > 1
    lines = []
    for index, place in enumerate(places):
        mac = f",mac={_colons(FIRST_MAC + index)}" if several else ""
        lines.append([*_memory(place), *place.qemu("net0"), place.device("net0") + mac])
    return lines


def bridge_lines(place: Place) -> list[str]:
    """What to do with a TAP, besides QEMU's options: the kernel is its guest already."""
    if not isinstance(place, Tap):
        return []
    name, _ = place.interface()
    both = f"ip link set {name} master br0; ip link set {name}-guest master br0 up"
    return [
        f"this host can be its guest instead: ip address add 10.0.2.100/24 dev {name}",
        f"a bridge joins it to QEMU's TAP: ip link add br0 type bridge; ip link set br0 up; {both}",
    ]


def _memory(place: Place) -> list[str]:
    if not isinstance(place, VhostUser):
        return []
    return ["-object memory-backend-memfd,id=mem0,size=256M,share=on -machine q35,memory-backend=mem0 -m 256"]


def stream_address(text: str) -> Address:
    """A unix path, or HOST:PORT: what holds a slash or no colon is a path.  UsageError for a bad port."""
    host, colon, port = text.rpartition(":")
    if "/" in text or not colon:
        return text
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"{text} is neither a path nor HOST:PORT", f"{port!r} is no port number", "127.0.0.1:5000"
        )
    return host, int(port)


def _with_host(text: str) -> str:
    """QEMU's listen=:PORT is every address of its host; we connect to this one."""
    return f"127.0.0.1{text}" if text.startswith(":") else text


def _guest_end(local: Address) -> Address:
    """Where a guest may be that is answered wherever it is: near us."""
    if isinstance(local, str):
        return local + GUEST_SUFFIX
    return local[0], local[1] + 1 if local[1] < 65535 else local[1] - 1


def _qapi(end: str, address: Address) -> str:
    """A SocketAddress in the options of QEMU's netdevs."""
    if isinstance(address, str):
        return f"{end}.type=unix,{end}.path={_escaped(address)}"
    return f"{end}.type=inet,{end}.host={address[0]},{end}.port={address[1]}"


def _escaped(path: str) -> str:
    """In QEMU's option lists a comma in a value is written twice."""
    return path.replace(",", ",,")


def _colons(mac: int) -> str:
    return mac.to_bytes(6, "big").hex(":")
