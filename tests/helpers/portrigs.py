# SPDX-License-Identifier: GPL-2.0-or-later
"""Every port with somebody at its other end, behind one interface: for the contract that all of them keep.

A Rig's other end is what the port is made for, as near as it gets without a guest: a driver's rings in memory, a socket
that speaks QEMU's framing, the kernel behind a TAP. It gives frames as one burst and takes what the port published.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from vu_driver import MODERN, Recorder, SocketFrontend

from devmodel.middleware.capture import CapturePort, PcapngWriter
from devmodel.middleware.fault import FaultPort, Faults
from devmodel.middleware.meter import MeterPort
from devmodel.netdev.dgram import DgramPort
from devmodel.netdev.loopback import FULL_OFFLOADS, Loopback
from devmodel.netdev.stream import StreamServer
from devmodel.netdev.stream_client import StreamClient
from devmodel.netdev.tap import TapPort
from devmodel.port import Offloads, Port, VnetHdr
from devmodel.switch import Switch
from devmodel.virtio import features as vf

ETH_P_ALL = 3
PLAIN = vf.mask(vf.VIRTIO_F_VERSION_1, vf.VIRTIO_NET_F_MRG_RXBUF, vf.VHOST_USER_F_PROTOCOL_FEATURES)
STATS = {"rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "tx_dropped"}

Received = tuple[VnetHdr | None, bytes]


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.0005)
    raise AssertionError("it never came to be")


class Rig:
    """One port under test; `largest` is the longest frame that its wire carries to the guest, `longest_up` from it."""

    largest = 65550
    longest_up = 65550
    oversized = 70000
    goes_down = True
    """Whether the other end can leave."""
    shows_headers = False
    """Whether `take()` knows the header that a frame was sent with."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.path = str(tmp_path / "port.sock")
        self.peer_path = str(tmp_path / "peer.sock")
        self.port: Port
        self.behind = Recorder()

    async def open(self) -> None:
        """Make the port; nobody is at the other end where that can be."""
        raise NotImplementedError

    async def up(self) -> None:
        """The other end comes."""
        await until(lambda: self.port.link_up)

    async def down(self) -> None:
        """It leaves."""

    async def give(self, frames: list[bytes]) -> None:
        """Frames that lie there before the port looks."""
        raise NotImplementedError

    async def take(self, number: int) -> list[Received]:
        """So many frames that the port published."""
        raise NotImplementedError

    def waiting(self) -> bool:
        """Whether the port published anything that was not taken."""
        raise NotImplementedError

    def release(self) -> None:
        """Give back what is the other end's."""


class VhostUserRig(Rig):
    shows_headers = True
    features = MODERN
    BUFFERS = 64
    oversized = 65551  # its mergeable buffers would take it

    async def open(self) -> None:
        from devmodel.vhost_user.server import VhostUserServer

        self.port = await VhostUserServer.listen(self.path)
        self.guest: SocketFrontend | None = None
        self.places: dict[int, list[tuple[int, int]]] = {}
        self.ready: list[Received] = []

    async def up(self) -> None:
        self.guest = guest = SocketFrontend(64)
        await self.meet(guest)
        await guest.negotiate()
        await guest.start(self.features)
        self.places = dict(guest.rx.add_in(2048) for _ in range(self.BUFFERS))
        await super().up()

    async def meet(self, guest: SocketFrontend) -> None:
        await guest.connect(self.path)

    async def down(self) -> None:
        assert self.guest is not None
        self.guest.close()
        self.guest = None
        await until(lambda: not self.port.link_up)

    async def give(self, frames: list[bytes]) -> None:
        assert self.guest is not None
        for frame in frames:
            self.guest.tx.add_out(bytes(12) + frame)
        self.guest.kick_ring(1)
        await asyncio.sleep(0)

    def _collect(self) -> None:
        """Frames out of used buffers, which are posted again."""
        assert self.guest is not None
        used = self.guest.rx.used()
        while used:
            (head, size), *used = used
            data = self._read(head, size)
            hdr = VnetHdr(*struct.unpack_from("<BBHHHH", data))
            for head, size in used[: int.from_bytes(data[10:12], "little") - 1]:
                data += self._read(head, size)
            used = used[int.from_bytes(data[10:12], "little") - 1 :]
            self.ready.append((hdr if hdr.flags or hdr.gso_type else None, data[12:]))

    def _read(self, head: int, size: int) -> bytes:
        assert self.guest is not None
        places = self.places.pop(head)
        data = b"".join(self.guest.ram.read(gpa, room) for gpa, room in places)[:size]
        fresh = self.guest.rx.add([(gpa, room, 2) for gpa, room in places])
        self.places[fresh] = places
        self.guest.kick_ring(0)
        return data

    async def take(self, number: int) -> list[Received]:
        await until(lambda: self._collect() or len(self.ready) >= number)
        taken, self.ready = self.ready[:number], self.ready[number:]
        return taken

    def waiting(self) -> bool:
        self._collect()
        return bool(self.ready)

    def release(self) -> None:
        if self.guest is not None:
            self.guest.close()


class VhostUserPlainRig(VhostUserRig):
    features = PLAIN


class VhostUserClientRig(VhostUserRig):
    """The frontend listens."""

    async def open(self) -> None:
        from devmodel.vhost_user.client import VhostUserClient

        self.port = await VhostUserClient.connect(self.path, retry_s=0.001)
        self.guest = None
        self.places = {}
        self.ready = []

    async def meet(self, guest: SocketFrontend) -> None:
        await guest.accept(self.path)


class SocketRig(Rig):
    """The other end is a socket of ours."""

    longest_up = 69632
    peer: socket.socket | None = None

    def release(self) -> None:
        if self.peer is not None:
            self.peer.close()
        self.peer = None


class StreamRig(SocketRig):
    """We listen."""

    async def open(self) -> None:
        self.port = await StreamServer.listen(self.path)
        self.data = b""

    async def up(self) -> None:
        self.data = b""
        self.peer = socket.socket(socket.AF_UNIX)
        self.peer.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self.peer, self.path)
        await super().up()

    async def down(self) -> None:
        self.release()
        await until(lambda: not self.port.link_up)

    async def give(self, frames: list[bytes]) -> None:
        assert self.peer is not None
        data = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
        self.peer.setblocking(True)  # what does not fit the socket at once would be a batch of its own
        try:
            assert self.peer.send(data) == len(data)
        finally:
            self.peer.setblocking(False)

    def _collect(self) -> None:
        assert self.peer is not None
        try:
            while data := self.peer.recv(1 << 20):
                self.data += data
        except BlockingIOError:
            pass

    def _cut(self) -> bytes | None:
        size = int.from_bytes(self.data[:4], "big")
        if len(self.data) < 4 or len(self.data) < 4 + size:
            return None
        frame, self.data = self.data[4 : 4 + size], self.data[4 + size :]
        return frame

    async def take(self, number: int) -> list[Received]:
        taken: list[Received] = []

        def enough() -> bool:
            self._collect()
            while len(taken) < number and (frame := self._cut()) is not None:
                taken.append((None, frame))
            return len(taken) == number

        await until(enough)
        return taken

    def waiting(self) -> bool:
        self._collect()
        return bool(self.data)


class StreamClientRig(StreamRig):
    """QEMU listens."""

    family = socket.AF_UNIX

    async def open(self) -> None:
        self.listener = socket.socket(self.family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.setblocking(False)
        self.listener.bind(self._where())
        self.where = self.listener.getsockname()
        self.port = await StreamClient.connect(self.where, retry_s=0.001)
        self.data = b""

    def _where(self) -> str | tuple[str, int]:
        return self.path

    async def up(self) -> None:
        self.data = b""
        self.listener.listen(1)
        self.peer, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(self.listener), 5)
        self.peer.setblocking(False)
        await until(lambda: self.port.link_up)

    async def down(self) -> None:
        again = self.listener
        self.listener = socket.socket(self.family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.setblocking(False)
        again.close()
        if isinstance(self.where, str):
            os.unlink(self.where)
        self.release()
        await until(lambda: not self.port.link_up)
        self.listener.bind(self.where)

    def release(self) -> None:
        super().release()
        if isinstance(self.port, StreamClient) and not self.port._open:
            self.listener.close()


class TcpClientRig(StreamClientRig):
    family = socket.AF_INET

    def _where(self) -> tuple[str, int]:
        return "127.0.0.1", 0


class DgramRig(SocketRig):
    """Two unix paths. The link is up while the port is open."""

    goes_down = False

    async def open(self) -> None:
        self.peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.peer.bind(self.peer_path)
        self.peer.setblocking(False)
        self.port = await DgramPort.open(self.path, self.peer_path)

    async def give(self, frames: list[bytes]) -> None:
        assert self.peer is not None
        assert isinstance(self.port, DgramPort)
        for frame in frames:
            self.peer.sendto(frame, self._to())

    def _to(self) -> str | tuple[str, int]:
        assert isinstance(self.port, DgramPort)
        return self.port.address

    async def take(self, number: int) -> list[Received]:
        assert self.peer is not None
        taken: list[Received] = []
        loop = asyncio.get_running_loop()
        while len(taken) < number:
            frame, source = await asyncio.wait_for(loop.sock_recvfrom(self.peer, 1 << 17), 2)
            if self._is_theirs(source):
                taken.append((None, frame))
        return taken

    def _is_theirs(self, source: object) -> bool:
        return True

    def waiting(self) -> bool:
        assert self.peer is not None
        try:
            self.peer.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True


class UdpRig(DgramRig):
    largest = longest_up = 65507

    async def open(self) -> None:
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.setblocking(False)
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.port = await DgramPort.open(("127.0.0.1", 0), self.peer.getsockname())


class MulticastRig(UdpRig):
    GROUP = "239.255.77.1"

    async def open(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.group = (self.GROUP, probe.getsockname()[1])
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.peer.bind(self.group)
        local = socket.inet_aton("127.0.0.1")
        member = socket.inet_aton(self.GROUP) + local
        self.peer.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        self.peer.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
        self.peer.setblocking(False)
        self.port = await DgramPort.open(("127.0.0.1", 0), self.group)

    def _to(self) -> tuple[str, int]:
        return self.group

    def _is_theirs(self, source: object) -> bool:
        """A member hears itself."""
        return isinstance(source, tuple) and source[1] != self.group[1]


class LoopbackRig(Rig):
    shows_headers = True
    offloads = FULL_OFFLOADS

    async def open(self) -> None:
        self.wire = Loopback(a=self.offloads, b=self.offloads)
        self.port = self.wire.a
        self.wire.a.set_link(False)
        self.ready: list[Received] = []

    async def up(self) -> None:
        self.wire.a.set_link(True)

    async def down(self) -> None:
        self.wire.a.set_link(False)

    async def give(self, frames: list[bytes]) -> None:
        for frame in frames:
            assert self.wire.b.send(None, [frame])
        self.wire.b.flush()
        self.wire.a.deliver(self.wire.b.take())

    async def take(self, number: int) -> list[Received]:
        self.waiting()
        assert len(self.ready) >= number
        taken, self.ready = self.ready[:number], self.ready[number:]
        return taken

    def waiting(self) -> bool:
        self.ready += self.wire.a.take()
        return bool(self.ready)


class PlainLoopbackRig(LoopbackRig):
    offloads = Offloads()


class SwitchRig(LoopbackRig):
    """The stack's port of a switch whose only member is a loopback."""

    async def open(self) -> None:
        await super().open()
        self.switch = Switch(lambda: 0.0)
        self.switch.join(self.wire.a)
        self.port = self.switch.stack


class MiddlewareRig(LoopbackRig):
    """Middleware round a loopback."""

    def __init__(self, tmp_path: Path, around: Callable[[Port, Path], Port]) -> None:
        super().__init__(tmp_path)
        self._around, self._folder = around, tmp_path

    async def open(self) -> None:
        await super().open()
        self.port = self._around(self.wire.a, self._folder)


class TapRig(Rig):
    """The kernel's end is a packet socket: it sees what the interface received, and sends by it."""

    goes_down = False
    MTU = 65521
    longest_up = MTU + 14
    vnet = False

    async def open(self) -> None:
        self.port = await TapPort.open("tap0", vnet=self.vnet, mtu=self.MTU)
        self.peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.peer.bind(("tap0", 0))
        self.peer.setblocking(False)

    async def give(self, frames: list[bytes]) -> None:
        for frame in frames:
            self.peer.send(frame)

    def _next(self) -> bytes | None:
        try:
            while True:
                frame, address = self.peer.recvfrom(1 << 17)
                if address[2] != socket.PACKET_OUTGOING:
                    return frame
        except BlockingIOError:
            return None

    async def take(self, number: int) -> list[Received]:
        taken: list[Received] = []

        def enough() -> bool:
            while len(taken) < number and (frame := self._next()) is not None:
                taken.append((None, frame))
            return len(taken) == number

        await until(enough)
        return taken

    def waiting(self) -> bool:
        return self._next() is not None

    def release(self) -> None:
        self.peer.close()


class WrappedStreamRig(StreamRig):
    """All middleware at once, round a port with a socket."""

    async def open(self) -> None:
        await super().open()
        self.port = _metered(_faulty(_captured(self.port, self.folder), self.folder), self.folder)


class WrappedVhostUserRig(VhostUserRig):
    """The same round rings."""

    async def open(self) -> None:
        await super().open()
        self.port = _metered(_faulty(_captured(self.port, self.folder), self.folder), self.folder)


class StreamSwitchRig(StreamRig):
    """A switch whose member is a stream."""

    longest_up = 65550

    async def open(self) -> None:
        await super().open()
        switch = Switch(lambda: 0.0)
        switch.join(self.port)
        self.port = switch.stack


class VnetTapRig(TapRig):
    vnet = True


def _captured(port: Port, folder: Path) -> Port:
    writer = PcapngWriter((folder / "contract.pcapng").open("wb"), port.name)
    return CapturePort(port, writer, lambda: 0)


def _faulty(port: Port, folder: Path) -> Port:
    return FaultPort(port, random.Random(1), asyncio.get_running_loop(), rx=Faults(), tx=Faults())


def _metered(port: Port, folder: Path) -> Port:
    return MeterPort(port, lambda: 0.0)


RIGS: dict[str, Callable[[Path], Rig]] = {
    "vhost-user": VhostUserRig,
    "vhost-user-plain": VhostUserPlainRig,
    "vhost-user-client": VhostUserClientRig,
    "stream": StreamRig,
    "stream-client": StreamClientRig,
    "stream-client-tcp": TcpClientRig,
    "dgram": DgramRig,
    "dgram-udp": UdpRig,
    "dgram-multicast": MulticastRig,
    "loopback": LoopbackRig,
    "loopback-plain": PlainLoopbackRig,
    "switch": SwitchRig,
    "capture": lambda folder: MiddlewareRig(folder, _captured),
    "fault": lambda folder: MiddlewareRig(folder, _faulty),
    "meter": lambda folder: MiddlewareRig(folder, _metered),
    "stream-wrapped": WrappedStreamRig,
    "vhost-user-wrapped": WrappedVhostUserRig,
    "switch-stream": StreamSwitchRig,
    "tap": TapRig,
    "tap-vnet": VnetTapRig,
}
