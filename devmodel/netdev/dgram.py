# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's `-netdev dgram` and `-netdev socket,udp=` or `mcast=`: a Port at a datagram socket, a frame a datagram.

    unix        bound at LOCAL, sends to REMOTE
    inet        UDP from LOCAL to REMOTE; datagrams from elsewhere are not taken (connect(2))
    multicast   UDP to a group that every member hears: a hub of QEMUs; LOCAL's host names the interface

What they decide:

* Whether the link is up: as long as the port is open, as QEMU's own is. A datagram socket learns nothing of its peer
  before it sends; a frame for nobody is counted (`tx_drop_no_peer`), and `connected` says that a frame came.
* Who the peer is. Without a REMOTE it is whoever sent last, from an address (a unix socket that is bound nowhere cannot
  be answered). With one it stays that; a QEMU that comes back binds the same path again, and is found by the next
  frame: the kernel's ECONNREFUSED of the old one makes us connect anew, once per frame.
* How many wait. A unix socket takes net.unix.max_dgram_qlen datagrams (10) until its owner reads, so frames wait here
  (base.py). To be told when they may go on, the sending socket has to be connected: poll(2) calls an
  unconnected one writable always. The receiving one has to stay unconnected, or a QEMU that comes back could not
  send to it. So a unix port has two sockets. UDP never waits: what the peer does not read in time is lost.
* What comes back to us: of a multicast group we hear our own frames too; they are told by their source, the port that
  only we send from. (QEMU does not, so its guests see their own broadcasts.)

Limits: UDP carries 65507 bytes over IPv4, so the largest frames of a port with GSO (65550) are cut or dropped; a unix
datagram carries QEMU's 69632. Multicast is IPv4 only, as QEMU's is, and by default stays on 127.0.0.1.

Counters: base.py's, and rx_drop_own, tx_drop_no_peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from ipaddress import ip_address

from devmodel.errors import AddressInUse
from devmodel.listener import Listener, bind_udp, bind_unix_datagram, check_unix_path, resolve
from devmodel.netdev.base import MAX_FRAME, Frame, PacketPort

Address = str | tuple[str, int]

MAX_UDP4 = 65507  # 65535 less 20 bytes of IPv4 header and 8 of UDP
MAX_UDP6 = 65527  # RFC 8200: the payload length does not count the IPv6 header
RECEIVE_BUFFER = 4 << 20
"""Asked for; net.core.rmem_max may allow less."""
_NO_PEER = (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTCONN, errno.EDESTADDRREQ, errno.EPERM)


def is_multicast(address: Address | None) -> bool:
    """Whether a remote address is a group."""
    if address is None or isinstance(address, str):
        return False
    with contextlib.suppress(ValueError):
        return ip_address(address[0]).is_multicast
    return False


class DgramPort(PacketPort):
    """See the module. Made by `await DgramPort.open(...)`; belongs to the loop that ran it."""

    transport = "dgram"
    extra_counters = ("rx_drop_own", "tx_drop_no_peer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        mtu: int,
        software_gso: bool,
        receiver: socket.socket,
        sender: socket.socket,
    ) -> None:
        super().__init__(loop, name, mtu, software_gso)
        self._receiver, self._sender = receiver, sender
        self._open = True
        self._heard = False
        self._buffer = bytearray(MAX_FRAME + 1)
        self._view = memoryview(self._buffer)
        loop.add_reader(receiver.fileno(), self._readable)

    @classmethod
    async def open(
        cls,
        local: Address,
        remote: Address | None = None,
        *,
        name: str = "dgram",
        mtu: int = 1500,
        software_gso: bool = True,
    ) -> DgramPort:
        """Bind now; both are paths, or both (host, port). TransportError says why not."""
        loop = asyncio.get_running_loop()
        if isinstance(local, str):
            assert remote is None or isinstance(remote, str), "a unix socket has no peer that is none"
            return UnixDgramPort(loop, name, mtu, software_gso, local, remote)
        assert not isinstance(remote, str), "a UDP socket has no peer that is none"
        if remote is not None and is_multicast(remote):
            return MulticastPort(loop, name, mtu, software_gso, local[0], remote)
        family, where = await resolve(*local, socket.SOCK_DGRAM)
        there = None if remote is None else (await resolve(*remote, socket.SOCK_DGRAM))[1]
        return UdpPort(loop, name, mtu, software_gso, bind_udp(*where, family), there)

    @property
    def link_up(self) -> bool:
        return self._open

    @property
    def connected(self) -> bool:
        """A frame came from the peer."""
        return self._open and self._heard

    @property
    def address(self) -> Address:
        """Where it is bound; the real port if 0 was asked for."""
        bound = self._receiver.getsockname()
        return bound if isinstance(bound, str) else (bound[0], bound[1])

    def close(self) -> None:
        if not self._open:
            return
        self._loop.remove_reader(self._receiver.fileno())
        self._forget_queue("tx_drop_link_down")
        self._open = False
        self._tell_link()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._receiver.close()
        self._sender.close()

    # -- frames ----------------------------------------------------------------------------------------------

    def _comes_from(self, source: Address) -> bool:
        """Whether a datagram from there is for us; the peer may be learned here."""
        raise NotImplementedError

    def _connect_again(self) -> None:
        """Connect the sending socket to the peer; OSError if there is none."""

    def _read_one(self) -> Frame | None:
        size, source = self._receiver.recvfrom_into(self._buffer)
        if not self._comes_from(source):
            self._count["rx_drop_own"] += 1
            return None
        self._heard = True
        return None, bytes(self._view[:size])

    def _read_failed(self, error: OSError) -> None:
        """UDP's ICMP errors are reported here too: the next frame to send meets the same."""

    def _write_one(self, packet: bytes) -> None:
        try:
            self._sender.send(packet)
        except OSError as error:
            if error.errno not in _NO_PEER:
                raise
            self._connect_again()
            self._sender.send(packet)

    def _write_failed(self, error: OSError) -> str:
        return "tx_drop_too_big" if error.errno == errno.EMSGSIZE else "tx_drop_no_peer"

    def _write_fd(self) -> int:
        return self._sender.fileno()


class UnixDgramPort(DgramPort):
    """Two sockets: one that is bound and hears everybody, one that is connected and sends."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        mtu: int,
        software_gso: bool,
        local: str,
        remote: str | None,
    ) -> None:
        if remote is not None:
            check_unix_path(remote)
        self._bound: Listener = bind_unix_datagram(local)
        self._learns = remote is None
        self._remote = remote or ""
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setblocking(False)
        super().__init__(loop, name, mtu, software_gso, self._bound.sock, sender)

    def _comes_from(self, source: Address) -> bool:
        if self._learns and source and source != self._remote and isinstance(source, str):
            self._remote = source
            with contextlib.suppress(OSError):
                self._connect_again()
        return True

    def _connect_again(self) -> None:
        if not self._remote:
            raise OSError(errno.ENOTCONN, "no peer is known yet")
        self._sender.connect(self._remote)

    def _close_sockets(self) -> None:
        self._bound.close()
        self._sender.close()


class UdpPort(DgramPort):
    """One socket; connected once the peer is known, if it was given."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        mtu: int,
        software_gso: bool,
        sock: socket.socket,
        remote: tuple[str, int] | None,
    ) -> None:
        _enlarge(sock)
        if remote is not None:
            _connect(sock, remote)
        super().__init__(loop, name, mtu, software_gso, sock, sock)
        self._max_frame = MAX_UDP6 if sock.family == socket.AF_INET6 else MAX_UDP4
        self._learns = remote is None
        self._remote: Address | None = None

    def _comes_from(self, source: Address) -> bool:
        self._remote = source
        return True

    def _write_one(self, packet: bytes) -> None:
        if not self._learns:
            super()._write_one(packet)
        elif self._remote is not None:
            self._sender.sendto(packet, self._remote)
        else:
            raise OSError(errno.ENOTCONN, "no peer is known yet")


class MulticastPort(DgramPort):
    """A member of a group: one socket that is bound to the group and hears it, one that sends to it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        mtu: int,
        software_gso: bool,
        interface: str,
        group: tuple[str, int],
    ) -> None:
        receiver, sender = _join(interface or "127.0.0.1", group)
        super().__init__(loop, name, mtu, software_gso, receiver, sender)
        self._max_frame = MAX_UDP4
        self._own: tuple[str, int] = sender.getsockname()

    def _comes_from(self, source: Address) -> bool:
        return source != self._own


def _enlarge(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _connect(sock: socket.socket, remote: tuple[str, int]) -> None:
    try:
        sock.connect(remote)
    except OSError as error:
        sock.close()
        host, port = remote
        raise AddressInUse(
            f"cannot send to {host} port {port}", str(error), "choose an address that LOCAL can reach"
        ) from error


def _join(interface: str, group: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    """The two sockets of a member. AddressInUse."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # other members are on this host
        receiver.bind(group)
        address = socket.inet_aton(interface)
        member = struct.pack("4s4s", socket.inet_aton(group[0]), address)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sender.bind((interface, 0))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sender.connect(group)
    except OSError as error:
        receiver.close()
        sender.close()
        remedy = "choose an interface's address of this host: ip -4 -br address; 127.0.0.1 is always one"
        raise AddressInUse(f"cannot join {group[0]} at {interface}", str(error), remedy) from error
    for sock in (receiver, sender):
        sock.setblocking(False)
    _enlarge(receiver)
    return receiver, sender
