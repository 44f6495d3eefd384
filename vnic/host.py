# SPDX-License-Identifier: GPL-2.0-or-later
"""The host process: the only place where a Stack meets a Port.

``Adapter`` translates between a sk_buff and a virtio_net_hdr with its frame, both ways; the two formats say the same
things (checksum still to be completed from an offset on, segment size and kind), since Linux made one from the other::

    virtio_net_hdr                       sk_buff
    NEEDS_CSUM, csum_start, csum_offset  ip_summed CHECKSUM_PARTIAL, csum_start, csum_offset
    DATA_VALID                           CHECKSUM_UNNECESSARY
    no flag, or no header at all         CHECKSUM_NONE: the stack verifies in software
    gso_type TCPV4, TCPV6, ECN; gso_size SKB_GSO_TCPV4, _TCPV6, _TCP_ECN; gso_size
    gso_type UDP, UDP_L4                 SKB_GSO_UDP, _UDP_L4

``Host`` is everything of one run: port, capture and faults around it, stack, runner, services.  Of several ports each
has its own capture and faults, and a switch joins them (devmodel.switch).  Closing it gives all back, in the opposite
order.  A program puts middleware of its own between port and stack by ``Host.open(around=...)``.  What stays while one
``Host`` follows another on the same ports, because the state of a stack came from another process, is a ``Line``.

``Host.freeze`` is the state of a run as a text: the stack, what waits in the transports, what the services have to know
to go on, the leases; ``Host.snapshot`` the same of a run that goes on until ``Host.abandon``.  A run that begins with
``Options.thaw`` takes its stack from there; each service finds its listening socket by address and port, then the
connections are given to their services again.  What cannot go on (an upload, an iperf3 test) is reset.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Interface
from pathlib import Path
from typing import Any

from devmodel.middleware.capture import CapturePort, PcapngWriter, Point, Writer, open_file
from devmodel.middleware.fault import FaultPort, Faults
from devmodel.port import Offloads, Port, VnetHdr
from devmodel.switch import Switch
from stack.api import aio
from stack.api.bsd import Socket, open_sockets
from stack.freeze.errors import FreezeError
from stack.freeze.reader import Thawed, frozen_time, thaw
from stack.freeze.record import Recorder
from stack.freeze.writer import freeze
from stack.include.ip import IPPROTO_TCP, IPPROTO_UDP
from stack.include.netdevice import (
    GSO_MAX_SIZE,
    NETDEV_TX_OK,
    NETIF_F_GSO_UDP_L4,
    NETIF_F_HW_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NETIF_F_TSO6,
    NETIF_F_TSO_ECN,
    net_device,
)
from stack.include.sk_buff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_TCP_ECN,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKB_GSO_UDP,
    SKB_GSO_UDP_L4,
    sk_buff,
)
from stack.net.core.sock import SO_LINGER, SOL_SOCKET
from stack.net.ipv4.devinet import ifaddrs
from stack.net.ipv6.addrconf import ifaddrs6
from stack.stack import Stack
from stack.trace.hub import TraceHub
from vnic.capture import Capture
from vnic.devicefaults import Injector
from vnic.errors import UsageError, from_oserror
from vnic.feed import PacketFeed
from vnic.observe import Observation, Wanted
from vnic.options import IPV6_MIN_MTU, AddressPlan, Options, server6_of
from vnic.places import Transport, port_names
from vnic.services.base import DatagramFactory, ProtocolFactory, Server
from vnic.services.catalogue import Services
from vnic.services.dns import DOMAIN

# virtio 1.2, section 5.1.6: flags and gso_type of virtio_net_hdr.
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
VIRTIO_NET_HDR_F_DATA_VALID = 2
VIRTIO_NET_HDR_GSO_TCPV4 = 1
VIRTIO_NET_HDR_GSO_UDP = 3
VIRTIO_NET_HDR_GSO_TCPV6 = 4
VIRTIO_NET_HDR_GSO_UDP_L4 = 5
VIRTIO_NET_HDR_GSO_ECN = 0x80

ETH_HLEN = 14
MAC = bytes.fromhex("52550a000202")  # locally administered; the last four bytes are 10.0.2.2

_SUMMED_OF_FLAGS = {0: CHECKSUM_NONE, VIRTIO_NET_HDR_F_DATA_VALID: CHECKSUM_UNNECESSARY}
_SKB_GSO = {
    VIRTIO_NET_HDR_GSO_TCPV4: SKB_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6: SKB_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP: SKB_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4: SKB_GSO_UDP_L4,
}


class Adapter:
    """A net_device whose wire is a Port; the PortHandler of that port."""

    def __init__(self, stack: Stack, runner: aio.Runner, port: Port, dev: net_device) -> None:
        self._runner, self.port, self.net, self.dev = runner, port, stack, dev
        self.calls: Stack | Recorder = stack
        dev.ndo_start_xmit = self.ndo_start_xmit
        port.attach(self)

    def plug(self, port: Port) -> None:
        """Another port from now on: one that was put round the old one, or the one that it was put round."""
        self.port = port
        self._runner.flush = port.flush
        port.attach(self)

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self._runner.in_batch = True
        if hdr is None:
            self.calls.netif_rx(self.dev, frame)
            return
        gso = hdr.gso_type
        self.calls.netif_rx(
            self.dev,
            frame,
            csum_start=hdr.csum_start,
            csum_offset=hdr.csum_offset,
            ip_summed=_SUMMED_OF_FLAGS.get(hdr.flags, CHECKSUM_PARTIAL),
            gso_size=hdr.gso_size if gso else 0,
            gso_type=_gso_type_of(gso) if gso else 0,
        )

    def batch_done(self) -> None:
        self._runner.batch_done()

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        """What the guest's driver takes from us becomes the device's features."""
        features = NETIF_F_SG
        for has, feature in (
            (offloads.csum, NETIF_F_HW_CSUM),
            (offloads.csum and offloads.tso4, NETIF_F_TSO),
            (offloads.csum and offloads.tso6, NETIF_F_TSO6),
            (offloads.csum and offloads.ecn, NETIF_F_TSO_ECN),
            # The feature is one for both versions of IP: what a guest takes of one only, the port cuts of the other.
            (offloads.csum and (offloads.uso4 or offloads.uso6), NETIF_F_GSO_UDP_L4),
        ):
            features |= feature if has else 0
        self.dev.features = features
        self.dev.gso_max_size = min(GSO_MAX_SIZE, max(offloads.max_frame - ETH_HLEN, self.dev.mtu))
        if isinstance(self.calls, Recorder):
            self.calls.device_changed(self.dev)

    def ndo_start_xmit(self, skb: sk_buff, dev: net_device) -> int:
        """What the port drops it counts; TCP sends it again, as after any loss."""
        parts = [memoryview(skb.head)[skb.data : skb.tail], *skb.frags]
        self.port.send(_header_of(skb), parts)
        if not self._runner.in_batch:
            self._runner.touch()
        return NETDEV_TX_OK


def _header_of(skb: sk_buff) -> VnetHdr | None:
    if skb.ip_summed != CHECKSUM_PARTIAL:
        return VnetHdr()
    start = skb.csum_start - skb.data
    if not skb.gso_size:
        return VnetHdr(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, start, skb.csum_offset)
    if skb.gso_type & SKB_GSO_UDP_L4:
        kind = VIRTIO_NET_HDR_GSO_UDP_L4
        return VnetHdr(VIRTIO_NET_HDR_F_NEEDS_CSUM, kind, start + 8, skb.gso_size, start, skb.csum_offset)
    kind = VIRTIO_NET_HDR_GSO_TCPV6 if skb.gso_type & SKB_GSO_TCPV6 else VIRTIO_NET_HDR_GSO_TCPV4
    if skb.gso_type & SKB_GSO_TCP_ECN:
        kind |= VIRTIO_NET_HDR_GSO_ECN
    headers = start + (skb.head[skb.csum_start + 12] >> 4) * 4  # th->doff
    return VnetHdr(VIRTIO_NET_HDR_F_NEEDS_CSUM, kind, headers, skb.gso_size, start, skb.csum_offset)


def _gso_type_of(virtio: int) -> int:
    kind = _SKB_GSO.get(virtio & ~VIRTIO_NET_HDR_GSO_ECN, 0)
    return kind | (SKB_GSO_TCP_ECN if virtio & VIRTIO_NET_HDR_GSO_ECN else 0)


# -- the whole of one run --------------------------------------------------------------------------------------------


class StackNetwork:
    """The stack behind the calls that services are started by (vnic.services.base.Network)."""

    def __init__(self, runner: aio.Runner, device: str) -> None:
        self._runner, self._device = runner, device
        self.servers: dict[tuple[str, int], aio.Server] = {}
        self._found = open_sockets(runner.stack)  # none, unless the stack was thawed

    async def create_server(self, protocol_factory: ProtocolFactory, host: str, port: int) -> Server:
        there = self._take(IPPROTO_TCP, host, port)
        server = await aio.create_server(self._runner, protocol_factory, host, port, sock=there, backlog=1024)
        self.servers[host, port] = server
        return server

    async def create_datagram_endpoint(
        self, protocol_factory: DatagramFactory, local_addr: tuple[str, int]
    ) -> tuple[Any, Any]:
        there = self._take(IPPROTO_UDP, *local_addr)
        return await aio.create_datagram_endpoint(
            self._runner, protocol_factory, local_addr, sock=there, allow_broadcast=True, device=self._device
        )

    def _take(self, protocol: int, host: str, port: int) -> Socket | None:
        """The socket of a thawed stack that is bound there."""
        sockets = self._found.get((protocol, host, port, "", 0))
        return sockets.pop() if sockets else None

    def release(self, used: set[int]) -> None:
        """Close what the stack had and nobody took."""
        for sock in (one for sockets in self._found.values() for one in sockets):
            if sock.fileno() not in used:
                sock.setsockopt(SOL_SOCKET, SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a connection is reset
                sock.close()


Middleware = Callable[[Port], Port]
"""Makes a Port round a Port."""


@dataclass(frozen=True)
class Line:
    """What is between a stack and its guests, listening: ``port`` is what the stack sees of it."""

    transports: tuple[Transport, ...]
    port: Port
    wire: CapturePort | None
    injector: Injector

    @classmethod
    @asynccontextmanager
    async def open(cls, options: Options, around: Middleware | None = None) -> AsyncIterator[Line]:
        """Listen until the block is left.  TransportError, OSError, UsageError."""
        async with AsyncExitStack() as cleanup:
            transports = await _transports(options, cleanup)
            injector = Injector(transports, options.seed, options.device_faults)
            port, wire = _line(transports, options)
            cleanup.callback(port.close)
            if around is not None:
                port = around(port)
                cleanup.callback(port.close)
            yield cls(tuple(transports), port, wire, injector)


class Host:
    """A running one; made by ``Host.open``."""

    def __init__(
        self,
        port: Port,
        stack: Stack,
        runner: aio.Runner,
        dev: net_device,
        services: Services,
        network: StackNetwork,
        feed: PacketFeed,
        hub: TraceHub,
        recorder: Recorder | None = None,
        transports: Sequence[Transport] = (),
        injector: Injector | None = None,
    ) -> None:
        self.port, self.stack, self.runner, self.dev, self.services = port, stack, runner, dev, services
        self.feed, self.hub = feed, hub
        self.capture = Capture(feed)
        self._network, self._recorder, self._transports = network, recorder, tuple(transports)
        self.injector = injector if injector is not None else Injector(transports, 0)

    def negotiation(self) -> dict[str, Any]:
        """What the device and its guest agreed on: a dict for JSON."""
        if len(self._transports) == 1:
            return self._transports[0].negotiation()
        ports = [{"name": transport.name, **transport.negotiation()} for transport in self._transports]
        return {"transport": "switch", "ports": ports} if ports else {}

    def observe(self, wanted: Wanted) -> Observation:
        """A part of this run, for a report; to be started."""
        return Observation(self.stack, self.feed, self.hub, wanted, self.negotiation)

    def freeze(self) -> str:
        """The state of this run, after which nothing leaves any more: the connections belong to who thaws them."""
        if self._recorder is not None:
            self._recorder.close()
        text = self.snapshot()
        self.abandon()
        return text

    def snapshot(self) -> str:
        """The state of this run at this moment."""
        connections = []
        for (address, port), server in self._network.servers.items():
            for transport in server.transports:
                service = self.services.freeze_connection(port, transport)
                if service is not None and isinstance(transport, aio.StackStreamTransport):
                    listener = {"address": address, "port": port}
                    connections.append({**listener, "transport": transport.freeze(), "service": service})
        application = {"connections": connections, "leases": self.services.dhcp.freeze()}
        return freeze(self.stack, application)

    def abandon(self) -> None:
        """Somebody else goes on with all connections: they end here without a word to the guest."""
        self.dev.ndo_start_xmit = _nowhere
        for server in self._network.servers.values():
            server.abort_clients()
        self.services.http.abandon()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        options: Options,
        around: Middleware | None = None,
        *,
        line: Line | None = None,
        state: Thawed | None = None,
    ) -> AsyncIterator[Host]:
        """Listen for a frontend and serve its guest until the block is left; ``around`` makes the outermost port, which
        the stack sees.  With a ``line`` that is open already its ports stay open.  ``state`` is gone on from, in the
        place of ``options.thaw``.  TransportError, OSError, UsageError."""
        plan = AddressPlan.of(options.address)
        server6 = _server6(options)
        async with AsyncExitStack() as cleanup:
            if line is None:
                line = await cleanup.enter_async_context(Line.open(options, around))
            port = line.port
            if state is None and options.thaw is not None:
                state = thaw_file(options.thaw, options)
            if state is None:
                stack, application = _new_stack(options, plan, server6), {}
            else:
                stack, application = state.stack, state.application
            dev = stack.devices_by_name["eth0"]
            runner = aio.Runner(stack, flush=port.flush)
            cleanup.callback(runner.close)
            ip6 = None if server6 is None else server6.ip
            services = Services(plan.server, plan.name_server, options.mtu, options.hosts, ip6, dev.dev_addr)
            network = StackNetwork(runner, dev.name)
            await services.start(network)
            cleanup.push_async_callback(services.close)
            adapter = Adapter(stack, runner, port, dev)
            recorder = None
            if options.record is not None:
                recorder = _recorder(options.record, stack, cleanup)
                adapter.calls = runner.calls = recorder
            _resume(application, services, network)
            hub = TraceHub(time.perf_counter_ns)
            feed = PacketFeed(adapter, hub, line.wire)
            host = cls(
                port,
                stack,
                runner,
                dev,
                services,
                network,
                feed,
                hub,
                recorder,
                line.transports,
                line.injector,
            )
            cleanup.callback(host.capture.close)
            yield host


def _recorder(path: Path, stack: Stack, cleanup: AsyncExitStack) -> Recorder:
    """A recorder into a file that only its owner may read; it is closed before anything else is."""
    try:
        path.touch(mode=0o600)
        file = cleanup.enter_context(path.open("w", encoding="ascii"))
        recorder = Recorder(stack, file.write, secrets.randbits(64))
    except OSError as error:
        raise from_oserror(error, f"write the recording to {path}") from error
    cleanup.callback(recorder.close)
    return recorder


def _nowhere(skb: sk_buff, dev: net_device) -> int:
    """The wire of a stack that was frozen: who thaws it goes on."""
    return NETDEV_TX_OK


def _new_stack(options: Options, plan: AddressPlan, server6: IPv6Interface | None) -> Stack:
    stack = Stack(aio.MonotonicClock(), aio.SystemRng())
    dev = stack.register_netdevice("eth0", MAC, options.mtu)
    stack.dev_addr_add(dev, str(plan.server))
    stack.dev_addr_add(dev, f"{plan.name_server}/{plan.server.network.prefixlen}")
    if server6 is not None:
        stack.dev_addr_add(dev, str(server6))
        stack.ra_start(dev, str(server6.network), dns=[str(server6.ip)], domains=[DOMAIN], other=True)
    return stack


def _server6(options: Options) -> IPv6Interface | None:
    server6 = server6_of(options.address6)
    return None if options.mtu < IPV6_MIN_MTU else server6


def thaw_file(path: Path, options: Options) -> Thawed:
    """The state that an earlier run wrote to that file; UsageError, HostIOError."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise from_oserror(error, f"read the frozen stack {path}") from error
    return thaw_text(text, options, str(path))


def thaw_text(text: str, options: Options, where: str) -> Thawed:
    """The stack of a frozen run, and what its services need; UsageError if it is none or has other addresses."""
    plan, server6 = AddressPlan.of(options.address), _server6(options)
    try:
        thawed = thaw(text, aio.ResumedClock(frozen_time(text)), aio.SystemRng())
    except FreezeError as error:
        raise UsageError(error.fact, f"{where}: {error.evidence}", error.remedy) from error
    dev = thawed.stack.devices_by_name.get("eth0")
    has = [] if dev is None else [*ifaddrs(dev), *ifaddrs6(dev)]
    wanted = [str(plan.server)] + ([str(server6)] if server6 is not None else [])
    for address in wanted:
        if address not in has:
            raise UsageError(
                f"the frozen stack has no address {address}",
                f"in {where} eth0 has {', '.join(has) or 'none'}",
                "give --address and --address6 as they were when it was frozen",
            )
    return thawed


def _resume(application: dict[str, Any], services: Services, network: StackNetwork) -> None:
    """Give the connections and leases of a frozen run to the services; reset what nobody takes."""
    used: set[int] = set()
    try:
        for one in application.get("connections", []):
            protocol = services.resume(one["port"], one["service"])
            network.servers[one["address"], one["port"]].adopt(one["transport"], protocol)
            used.add(one["transport"]["fd"])
        services.dhcp.thaw(application.get("leases", []))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        raise UsageError(
            "the frozen stack is damaged",
            f"a connection or lease is not as vnic writes it: {error!r}",
            "freeze the stack again, or take an undamaged copy of the file",
        ) from error
    network.release(used)


async def _transports(options: Options, cleanup: AsyncExitStack) -> list[Transport]:
    """All of them, listening; closing one twice, from here and through what goes around it, does no harm."""
    transports = []
    for place, name in zip(options.places, port_names(options.places), strict=True):
        transports.append(await place.open(name, options.mtu))
        cleanup.callback(transports[-1].close)
    return transports


def _line(transports: Sequence[Transport], options: Options) -> tuple[Port, CapturePort | None]:
    """What is between the stack and the guests: nothing but what was asked for if there is one, a switch of several."""
    names = [transport.name for transport in transports]
    writer = None if options.capture is None else _capture_writer(options.capture, names)
    if len(transports) == 1:
        return _around(transports[0], options, writer, options.seed)
    switch = Switch(time.monotonic)
    switch.own(MAC)
    for number, transport in enumerate(transports):
        part = None if writer is None else Point(writer, number)
        switch.join(_around(transport, options, part, options.seed + number)[0])
    return switch.stack, None


def _around(
    port: Port, options: Options, writer: Writer | None, seed: int
) -> tuple[Port, CapturePort | None]:
    """What was asked for around a transport; the capture next to the wire, to show what the guest saw.  With faults
    there is a sleeping point for another one there (vnic.feed)."""
    wire: CapturePort | None = None
    if writer is not None:
        port = CapturePort(port, writer, time.time_ns)
    if options.loss or options.reorder or options.duplicate:
        faults = Faults(loss=options.loss, reorder=options.reorder, duplicate=options.duplicate, segment=True)
        wire = CapturePort(port, None, time.time_ns)
        port = FaultPort(wire, random.Random(seed), asyncio.get_running_loop(), rx=faults, tx=faults)
    return port, wire


def _capture_writer(path: Path, interfaces: Sequence[str]) -> PcapngWriter:
    """The file with its first blocks, which a full disk refuses as the opening does not."""
    try:
        return PcapngWriter(open_file(path), *interfaces)
    except OSError as error:
        raise from_oserror(error, f"write the capture to {path}") from error
