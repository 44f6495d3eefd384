# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a Stack meets a Port: what becomes of headers, features and batches, with a port that only notes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import dpkt
import pytest

from devmodel.middleware.meter import MeterPort
from devmodel.port import Buffer, Offloads, Port, PortHandler, VnetHdr
from stack.api.aio import Runner
from stack.clock import ManualClock
from stack.include import netdevice
from stack.include.ipv6 import in6_pton
from stack.include.netdevice import net_device
from stack.include.sk_buff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_TCP_ECN,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKB_GSO_UDP,
    SKB_GSO_UDP_L4,
    alloc_skb,
)
from stack.net.core.neighbour import neigh_add_permanent
from stack.rng import SeededRng
from stack.stack import Stack
from vnic import host
from vnic.host import Adapter, StackNetwork
from vnic.options import Options
from vnic.services import dhcp6
from vnic.services.echo import Echo

GUEST_MAC = bytes.fromhex("525400123456")
GUEST, SERVER = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])


class NotingPort:
    """A Port without a wire."""

    name = "noting"
    link_up = True
    offloads = Offloads()

    def __init__(self) -> None:
        self.sent: list[tuple[VnetHdr | None, bytes]] = []
        self.flushes = 0
        self.handler: PortHandler | None = None

    def attach(self, handler: PortHandler) -> None:
        self.handler = handler

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        self.sent.append((hdr, b"".join(parts)))
        return True

    def flush(self) -> None:
        self.flushes += 1

    def stats(self) -> dict[str, int]:
        return {"tx_frames": len(self.sent)}

    def close(self) -> None:
        self.handler = None


class Bench:
    def __init__(self) -> None:
        self.port = NotingPort()
        self.stack = Stack(ManualClock(), SeededRng(1))
        self.dev = self.stack.register_netdevice("eth0", host.MAC)
        self.stack.dev_addr_add(self.dev, "10.0.2.2/24")
        self.runner = Runner(self.stack, flush=self.port.flush)
        self.adapter = Adapter(self.stack, self.runner, self.port, self.dev)
        self.sent = self.port.sent

    def receive(self, frame: bytes, hdr: VnetHdr | None = None) -> None:
        self.adapter.frame_received(hdr, frame)
        self.adapter.batch_done()

    def introduce_guest(self) -> None:
        """The guest asks for our hardware address, and so tells its own."""
        self.receive(arp_request())
        self.sent.clear()


def with_bench(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        await test(Bench())

    asyncio.run(run())


def ethernet(kind: int, payload: bytes) -> bytes:
    return bytes(dpkt.ethernet.Ethernet(dst=host.MAC, src=GUEST_MAC, type=kind, data=payload))


def arp_request() -> bytes:
    question = dpkt.arp.ARP(op=dpkt.arp.ARP_OP_REQUEST, sha=GUEST_MAC, spa=GUEST, tpa=SERVER)
    return ethernet(dpkt.ethernet.ETH_TYPE_ARP, bytes(question))


def tcp_frame(flags: int, payload: bytes = b"", seq: int = 1000, ack: int = 0) -> bytes:
    segment = dpkt.tcp.TCP(sport=40000, dport=7, seq=seq, ack=ack, flags=flags, win=65535, data=payload)
    packet = dpkt.ip.IP(src=GUEST, dst=SERVER, p=dpkt.ip.IP_PROTO_TCP, data=segment, ttl=64)
    return ethernet(dpkt.ethernet.ETH_TYPE_IP, bytes(packet))


def test_arp_request_is_answered_to_the_port() -> None:
    async def check(bench: Bench) -> None:
        bench.receive(arp_request())
        ((hdr, frame),) = bench.sent
        reply = dpkt.ethernet.Ethernet(frame)
        assert hdr == VnetHdr()
        assert reply.dst == GUEST_MAC
        assert (reply.data.op, reply.data.sha) == (dpkt.arp.ARP_OP_REPLY, host.MAC)

    with_bench(check)


def test_connection_echoes_through_the_stack() -> None:
    async def check(bench: Bench) -> None:
        await StackNetwork(bench.runner, "eth0").create_server(Echo, "10.0.2.2", 7)
        bench.introduce_guest()
        bench.receive(tcp_frame(dpkt.tcp.TH_SYN))
        synack = dpkt.ethernet.Ethernet(bench.sent.pop()[1]).data.data
        assert synack.flags == dpkt.tcp.TH_SYN | dpkt.tcp.TH_ACK
        bench.receive(tcp_frame(dpkt.tcp.TH_ACK, b"hello", 1001, synack.seq + 1))
        payloads = [bytes(dpkt.ethernet.Ethernet(frame).data.data.data) for _, frame in bench.sent]
        assert b"hello" in payloads

    with_bench(check)


def test_batch_of_segments_is_read_and_acknowledged_to_its_end() -> None:
    async def check(bench: Bench) -> None:
        await StackNetwork(bench.runner, "eth0").create_server(asyncio.Protocol, "10.0.2.2", 7)
        bench.introduce_guest()
        bench.receive(tcp_frame(dpkt.tcp.TH_SYN))
        ours = dpkt.ethernet.Ethernet(bench.sent.pop()[1]).data.data.seq + 1
        bench.receive(tcp_frame(dpkt.tcp.TH_ACK, b"", 1001, ours))
        bench.sent.clear()
        for seq in (1001, 2001):
            bench.adapter.frame_received(None, tcp_frame(dpkt.tcp.TH_ACK, bytes(1000), seq, ours))
        bench.adapter.batch_done()
        acknowledged = [dpkt.ethernet.Ethernet(frame).data.data.ack for _, frame in bench.sent]
        assert acknowledged[-1] == 3001

    with_bench(check)


@pytest.mark.parametrize(
    ("hdr", "summed", "size", "kind"),
    [
        (None, CHECKSUM_NONE, 0, 0),
        (VnetHdr(), CHECKSUM_NONE, 0, 0),
        (VnetHdr(flags=2), CHECKSUM_UNNECESSARY, 0, 0),
        (VnetHdr(1, 0, 0, 0, 34, 16), CHECKSUM_PARTIAL, 0, 0),
        (VnetHdr(1, 1, 54, 1448, 34, 16), CHECKSUM_PARTIAL, 1448, SKB_GSO_TCPV4),
        (VnetHdr(1, 0x81, 54, 1448, 34, 16), CHECKSUM_PARTIAL, 1448, SKB_GSO_TCPV4 | SKB_GSO_TCP_ECN),
        (VnetHdr(1, 4, 74, 1428, 54, 16), CHECKSUM_PARTIAL, 1428, SKB_GSO_TCPV6),
        (VnetHdr(1, 3, 42, 1480, 34, 6), CHECKSUM_PARTIAL, 1480, SKB_GSO_UDP),
        (VnetHdr(1, 5, 42, 1000, 34, 6), CHECKSUM_PARTIAL, 1000, SKB_GSO_UDP_L4),
    ],
)
def test_received_header_reaches_the_stack(
    hdr: VnetHdr | None, summed: int, size: int, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(bench: Bench) -> None:
        told: dict[str, object] = {}
        defaults = {
            "ip_summed": CHECKSUM_NONE,
            "gso_size": 0,
            "gso_type": 0,
            "csum_start": 0,
            "csum_offset": 0,
        }

        def netif_rx(dev: net_device, frame: bytes, **facts: int) -> int:
            told.update(defaults | facts)
            return 0

        monkeypatch.setattr(bench.stack, "netif_rx", netif_rx)
        bench.receive(tcp_frame(dpkt.tcp.TH_SYN), hdr)
        assert (told["ip_summed"], told["gso_size"], told["gso_type"]) == (summed, size, kind)
        if summed == CHECKSUM_PARTIAL:
            assert hdr is not None
            assert (told["csum_start"], told["csum_offset"]) == (hdr.csum_start, hdr.csum_offset)

    with_bench(check)


def test_sent_packet_of_many_datagrams_has_its_header() -> None:
    async def check(bench: Bench) -> None:
        skb = alloc_skb(200)
        skb.data, skb.len = 200 - 42, 42  # Ethernet 14, IPv4 20, UDP 8
        skb.frags = [bytes(5000)]
        skb.ip_summed, skb.csum_start, skb.csum_offset = CHECKSUM_PARTIAL, 200 - 8, 6
        skb.gso_size, skb.gso_type = 1000, SKB_GSO_UDP_L4
        bench.adapter.ndo_start_xmit(skb, bench.dev)
        assert bench.sent.pop()[0] == VnetHdr(1, 5, 42, 1000, 34, 6)

    with_bench(check)


def test_sent_gso_packet_has_its_header() -> None:
    async def check(bench: Bench) -> None:
        skb = alloc_skb(200)
        skb.data, skb.len = 200 - 66, 66  # Ethernet 14, IPv4 20, TCP 32
        skb.csum_start, skb.csum_offset, skb.ip_summed = skb.data + 34, 16, CHECKSUM_PARTIAL
        assert isinstance(skb.head, bytearray)
        skb.head[skb.csum_start + 12] = 8 << 4
        skb.gso_size, skb.gso_type = 1448, SKB_GSO_TCPV4 | SKB_GSO_TCP_ECN
        skb.frags = [b"a" * 1448, memoryview(b"b" * 100)]
        bench.adapter.ndo_start_xmit(skb, bench.dev)
        ((hdr, frame),) = bench.sent
        assert hdr == VnetHdr(1, 0x81, 66, 1448, 34, 16)
        assert frame[66:] == b"a" * 1448 + b"b" * 100

    with_bench(check)


def test_send_outside_of_a_batch_is_flushed_at_the_next_turn() -> None:
    async def check(bench: Bench) -> None:
        skb = alloc_skb(60)
        skb.data, skb.len = 0, 60
        bench.adapter.ndo_start_xmit(skb, bench.dev)
        assert bench.port.flushes == 0
        await asyncio.sleep(0)
        assert bench.port.flushes == 1

    with_bench(check)


@pytest.mark.parametrize(
    ("offloads", "features"),
    [
        (Offloads(), 0),
        (Offloads(csum=True), netdevice.NETIF_F_HW_CSUM),
        (Offloads(tso4=True), 0),  # without checksums there is no segmentation either
        (
            Offloads(True, True, True, True, 65550),
            netdevice.NETIF_F_HW_CSUM
            | netdevice.NETIF_F_TSO
            | netdevice.NETIF_F_TSO6
            | netdevice.NETIF_F_TSO_ECN,
        ),
        (Offloads(csum=True, uso4=True), netdevice.NETIF_F_HW_CSUM | netdevice.NETIF_F_GSO_UDP_L4),
        (Offloads(csum=True, uso6=True), netdevice.NETIF_F_HW_CSUM | netdevice.NETIF_F_GSO_UDP_L4),
        (Offloads(uso4=True, uso6=True), 0),
        (Offloads(csum=True, ufo=True), netdevice.NETIF_F_HW_CSUM),  # the stack makes no such packets
    ],
)
def test_link_up_offloads_become_features(offloads: Offloads, features: int) -> None:
    async def check(bench: Bench) -> None:
        bench.adapter.link_changed(True, offloads)
        assert bench.dev.features == features | netdevice.NETIF_F_SG
        assert bench.dev.gso_max_size == max(1500, offloads.max_frame - 14)

    with_bench(check)


def open_host(tmp_path: Path, **fields: Any) -> dict[str, Any]:
    """The tables of a host process a moment after it began."""

    async def run() -> dict[str, Any]:
        options = Options(stream=str(tmp_path / "s"), **fields)
        async with host.Host.open(options) as running:
            await asyncio.sleep(0.05)
            return running.stack.snapshot()

    return asyncio.run(run())


def test_host_has_an_ipv6_address_and_advertises_its_prefix(tmp_path: Path) -> None:
    tables = open_host(tmp_path)
    assert tables["devices"][1]["addresses6"] == ["fd00:10:0:2::2/64", "fe80::5055:aff:fe00:202/64"]
    assert tables["snmp6"]["Icmp6OutRouterAdvertisements"] == 1


def dhcp6_frame(group: str) -> bytes:
    """An information-request of fe80::15; its checksum is for the device to vouch for."""
    message = bytes([dhcp6.INFORMATION_REQUEST]) + b"xid"
    datagram = dpkt.udp.UDP(sport=546, dport=547, sum=1, data=message, ulen=8 + len(message))
    src, dst = (in6_pton(one).to_bytes(16, "big") for one in ("fe80::15", group))
    packet = dpkt.ip6.IP6(
        src=src, dst=dst, nxt=dpkt.ip.IP_PROTO_UDP, hlim=1, plen=len(datagram), data=datagram
    )
    return ethernet(dpkt.ethernet.ETH_TYPE_IP6, bytes(packet))


@pytest.mark.parametrize(("group", "answers"), [("ff02::1:2", 1), ("ff02::1:3", 0)])
def test_dhcpv6_is_answered_to_who_asks_the_servers_group(group: str, answers: int) -> None:
    async def check(bench: Bench) -> None:
        config = dhcp6.Config(duid=dhcp6.duid_ll(host.MAC), name_servers=())
        server = dhcp6.Dhcp6Server(config)
        neigh_add_permanent(bench.stack.nd_tbl, in6_pton("fe80::15"), bench.dev, GUEST_MAC)
        network = StackNetwork(bench.runner, "eth0")
        await network.create_datagram_endpoint(
            lambda: dhcp6.Dhcp6Protocol(server), (dhcp6.GROUP, dhcp6.SERVER_PORT)
        )
        bench.receive(dhcp6_frame(group), VnetHdr(host.VIRTIO_NET_HDR_F_DATA_VALID))
        for _ in range(5):
            await asyncio.sleep(0)
        sent = [dpkt.ethernet.Ethernet(frame) for _, frame in bench.sent]
        assert len(sent) == answers
        assert [(f.dst, f.data.dst[-1], f.data.data.dport, f.data.data.data[:4]) for f in sent] == [
            (GUEST_MAC, 0x15, 546, b"\x07xid")
        ] * answers

    with_bench(check)


@pytest.mark.parametrize("fields", [{"address6": "none"}, {"mtu": 1000}])
def test_host_without_ipv6_advertises_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    tables = open_host(tmp_path, **fields)
    assert not any("fd00" in address for address in tables["devices"][1]["addresses6"])
    assert tables["snmp6"]["Icmp6OutRouterAdvertisements"] == 0


def test_middleware_of_the_programs_own_lies_between_the_port_and_the_stack(tmp_path: Path) -> None:
    meters: list[MeterPort] = []

    def around(port: Port) -> Port:
        meters.append(MeterPort(port, time.monotonic))
        return meters[0]

    async def run() -> None:
        async with host.Host.open(Options(stream=str(tmp_path / "s")), around) as running:
            assert running.port is meters[0]
            reader, _ = await asyncio.open_unix_connection(str(tmp_path / "s"))
            await reader.readexactly(4)  # the first router advertisement passes the meter, then the wire
            assert meters[0].stats()["meter_tx_frames"] > 0

    asyncio.run(run())
