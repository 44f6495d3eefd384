# SPDX-License-Identifier: GPL-2.0-or-later
"""The host process: the only place where a Stack meets a Port.

``Adapter`` translates between a sk_buff and a virtio_net_hdr with its frame, both ways; the two formats say the same
things (checksum still to be completed from an offset on, segment size and kind), since Linux made one from the other::

    virtio_net_hdr                       sk_buff
    NEEDS_CSUM, csum_start, csum_offset  ip_summed CHECKSUM_PARTIAL, csum_start, csum_offset
    DATA_VALID                           CHECKSUM_UNNECESSARY
    no flag, or no header at all         CHECKSUM_NONE: the stack verifies in software
    gso_type TCPV4, TCPV6, ECN; gso_size SKB_GSO_TCPV4, _TCPV6, _TCP_ECN; gso_size

``Host`` is everything of one run: port, capture and faults around it, stack, runner, services.  Closing it gives all
back, in the opposite order.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from devmodel.middleware.capture import CapturePort, PcapngWriter
from devmodel.middleware.fault import FaultPort, Faults
from devmodel.netdev.stream import StreamServer
from devmodel.port import Offloads, Port, VnetHdr
from devmodel.vhost_user.server import VhostUserServer
from stack.api import aio
from stack.include.netdevice import (
    GSO_MAX_SIZE,
    NETDEV_TX_OK,
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
    sk_buff,
)
from stack.stack import Stack
from vnic.errors import from_oserror
from vnic.options import IPV6_MIN_MTU, AddressPlan, Options, server6_of, stream_address
from vnic.services.base import DatagramFactory, ProtocolFactory, Server
from vnic.services.catalogue import Services

# virtio 1.2, section 5.1.6: flags and gso_type of virtio_net_hdr.
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
VIRTIO_NET_HDR_F_DATA_VALID = 2
VIRTIO_NET_HDR_GSO_TCPV4 = 1
VIRTIO_NET_HDR_GSO_TCPV6 = 4
VIRTIO_NET_HDR_GSO_ECN = 0x80

ETH_HLEN = 14
MAC = bytes.fromhex("52550a000202")  # locally administered; the last four bytes are 10.0.2.2

_SUMMED_OF_FLAGS = {0: CHECKSUM_NONE, VIRTIO_NET_HDR_F_DATA_VALID: CHECKSUM_UNNECESSARY}
_SKB_GSO = {VIRTIO_NET_HDR_GSO_TCPV4: SKB_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6: SKB_GSO_TCPV6}


class Adapter:
    """A net_device whose wire is a Port; the PortHandler of that port."""

    def __init__(self, stack: Stack, runner: aio.Runner, port: Port, dev: net_device) -> None:
        self._stack, self._runner, self._port, self.dev = stack, runner, port, dev
        dev.ndo_start_xmit = self.ndo_start_xmit
        port.attach(self)

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self._runner.in_batch = True
        if hdr is None:
            self._stack.netif_rx(self.dev, frame)
            return
        gso = hdr.gso_type
        self._stack.netif_rx(
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
        ):
            features |= feature if has else 0
        self.dev.features = features
        self.dev.gso_max_size = min(GSO_MAX_SIZE, max(offloads.max_frame - ETH_HLEN, self.dev.mtu))

    def ndo_start_xmit(self, skb: sk_buff, dev: net_device) -> int:
        """What the port drops it counts; TCP sends it again, as after any loss."""
        parts = [memoryview(skb.head)[skb.data : skb.tail], *skb.frags]
        self._port.send(_header_of(skb), parts)
        if not self._runner.in_batch:
            self._runner.touch()
        return NETDEV_TX_OK


def _header_of(skb: sk_buff) -> VnetHdr | None:
    if skb.ip_summed != CHECKSUM_PARTIAL:
        return VnetHdr()
    start = skb.csum_start - skb.data
    if not skb.gso_size:
        return VnetHdr(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, start, skb.csum_offset)
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

    async def create_server(self, protocol_factory: ProtocolFactory, host: str, port: int) -> Server:
        return await aio.create_server(self._runner, protocol_factory, host, port, backlog=1024)

    async def create_datagram_endpoint(
        self, protocol_factory: DatagramFactory, local_addr: tuple[str, int]
    ) -> tuple[Any, Any]:
        return await aio.create_datagram_endpoint(
            self._runner, protocol_factory, local_addr, allow_broadcast=True, device=self._device
        )


class Host:
    """A running one; made by ``Host.open``."""

    def __init__(
        self, port: Port, stack: Stack, runner: aio.Runner, dev: net_device, services: Services
    ) -> None:
        self.port, self.stack, self.runner, self.dev, self.services = port, stack, runner, dev, services

    @classmethod
    @asynccontextmanager
    async def open(cls, options: Options) -> AsyncIterator[Host]:
        """Listen for a frontend and serve its guest until the block is left.  TransportError, OSError, UsageError."""
        plan = AddressPlan.of(options.address)
        server6 = server6_of(options.address6)
        async with AsyncExitStack() as cleanup:
            port = await _open_port(options, cleanup)
            stack = Stack(aio.MonotonicClock(), aio.SystemRng())
            dev = stack.register_netdevice("eth0", MAC, options.mtu)
            stack.dev_addr_add(dev, str(plan.server))
            stack.dev_addr_add(dev, f"{plan.name_server}/{plan.server.network.prefixlen}")
            if options.mtu < IPV6_MIN_MTU:
                server6 = None
            if server6 is not None:
                stack.dev_addr_add(dev, str(server6))
                stack.ra_start(dev, str(server6.network))
            runner = aio.Runner(stack, flush=port.flush)
            cleanup.callback(runner.close)
            ip6 = None if server6 is None else server6.ip
            services = Services(plan.server, plan.name_server, options.mtu, options.hosts, ip6)
            await services.start(StackNetwork(runner, dev.name))
            cleanup.push_async_callback(services.close)
            Adapter(stack, runner, port, dev)
            yield cls(port, stack, runner, dev, services)


async def _open_port(options: Options, cleanup: AsyncExitStack) -> Port:
    """The transport with what was asked for around it; the capture next to the wire, to show what the guest saw."""
    port: Port
    if options.vhost_user is not None:
        port = await VhostUserServer.listen(options.vhost_user)
    else:
        port = await StreamServer.listen(stream_address(options.stream or ""), mtu=options.mtu)
    cleanup.callback(port.close)  # closing twice, here and through what goes around it, does no harm
    if options.capture is not None:
        port = CapturePort(port, _capture_writer(options.capture, port.name), time.time_ns)
    if options.loss or options.reorder or options.duplicate:
        faults = Faults(loss=options.loss, reorder=options.reorder, duplicate=options.duplicate, segment=True)
        rng = random.Random(options.seed)
        port = FaultPort(port, rng, asyncio.get_running_loop(), rx=faults, tx=faults)
    cleanup.callback(port.close)
    return port


def _capture_writer(path: Path, interface: str) -> PcapngWriter:
    """The file with its first blocks, which a full disk refuses as the opening does not."""
    try:
        return PcapngWriter(path.open("wb"), interface)
    except OSError as error:
        raise from_oserror(error, f"write the capture to {path}") from error
