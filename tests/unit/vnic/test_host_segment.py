# SPDX-License-Identifier: GPL-2.0-or-later
"""A Host that is reached at several places: one segment, one capture with an interface for each, faults of each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import dpkt
from portrigs import until

from devmodel.netdev.stream import StreamServer
from devmodel.switch import StackPort
from vnic import report
from vnic.host import Host
from vnic.observe import Wanted
from vnic.options import Options
from vnic.pcapng import read_all
from vnic.places import Dgram, Stream

GUESTS = (b"\x52\x54\x00\x00\x00\x01", b"\x52\x54\x00\x00\x00\x02")
BROADCAST = b"\xff" * 6


def discover(mac: bytes, xid: int) -> bytes:
    """DHCPDISCOVER as a guest sends it."""
    kind = (dpkt.dhcp.DHCP_OPT_MSGTYPE, bytes([dpkt.dhcp.DHCPDISCOVER]))
    message = bytes(dpkt.dhcp.DHCP(chaddr=mac, xid=xid, opts=(kind,)))
    udp = dpkt.udp.UDP(sport=68, dport=67, data=message, ulen=8 + len(message))
    ip = dpkt.ip.IP(src=bytes(4), dst=b"\xff" * 4, p=17, data=udp, ttl=64)
    return bytes(dpkt.ethernet.Ethernet(dst=BROADCAST, src=mac, type=0x0800, data=bytes(ip)))


def ping(mac: bytes, to: bytes) -> bytes:
    return to + mac + b"\x88\xb5" + b"ping".ljust(46, b"x")


class Guests:
    """One at a stream, one at a datagram socket."""

    def __init__(self, tmp_path: Path) -> None:
        self.paths = [str(tmp_path / name) for name in ("stream", "dgram", "peer")]
        self.places = (Stream(self.paths[0]), Dgram(f"{self.paths[1]},{self.paths[2]}"))
        self.stream = socket.socket(socket.AF_UNIX)
        self.dgram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.came: tuple[list[bytes], list[bytes]] = ([], [])

    def connect(self) -> None:
        self.dgram.bind(self.paths[2])
        self.stream.connect(self.paths[0])
        for sock in (self.stream, self.dgram):
            sock.setblocking(False)

    def send(self, number: int, frame: bytes) -> None:
        if number == 0:
            self.stream.send(len(frame).to_bytes(4, "big") + frame)
        else:
            self.dgram.sendto(frame, self.paths[1])

    def look(self) -> tuple[list[bytes], list[bytes]]:
        with contextlib.suppress(BlockingIOError):
            while size := self.stream.recv(4):
                self.came[0].append(self.stream.recv(int.from_bytes(size, "big")))
        with contextlib.suppress(BlockingIOError):
            while frame := self.dgram.recv(70000):
                self.came[1].append(frame)
        return self.came

    def close(self) -> None:
        self.stream.close()
        self.dgram.close()


@contextlib.asynccontextmanager
async def segment(guests: Guests, **options: object) -> AsyncIterator[Host]:
    async with Host.open(Options(further=guests.places, **options)) as host:  # type: ignore[arg-type]
        guests.connect()
        await until(lambda: host.port.stats()["stream_connects"] == 1)
        try:
            yield host
        finally:
            guests.close()


def run(script: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(script())  # type: ignore[arg-type]


def offered(frames: list[bytes], mac: bytes) -> str:
    """The address of the first DHCPOFFER for that card among them: offers are broadcast, everybody hears them."""
    for frame in frames:
        if frame[12:14] == b"\x08\x00" and frame[36:38] == b"\x00\x44" and frame[70:76] == mac:
            return socket.inet_ntoa(frame[58:62])
    return ""


def test_each_guest_gets_a_lease_of_its_own_and_reaches_the_other(tmp_path: Path) -> None:
    async def script() -> None:
        guests = Guests(tmp_path)
        async with segment(guests):
            for number, mac in enumerate(GUESTS):
                guests.send(number, discover(mac, number))
            await until(lambda: all(map(offered, guests.look(), GUESTS)))
            assert list(map(offered, guests.came, GUESTS)) == ["10.0.2.15", "10.0.2.16"]
            for number in (0, 1):
                guests.send(number, ping(GUESTS[number], GUESTS[1 - number]))
            await until(lambda: all(b"ping" in frames[-1] for frames in guests.look()))
            assert guests.came[0][-1] == ping(GUESTS[1], GUESTS[0])
            assert guests.came[1][-1] == ping(GUESTS[0], GUESTS[1])

    run(script)


def test_capture_has_an_interface_for_each_port(tmp_path: Path) -> None:
    async def script() -> None:
        guests = Guests(tmp_path)
        async with segment(guests, capture=tmp_path / "net.pcapng"):
            guests.send(0, ping(GUESTS[0], BROADCAST))
            await until(lambda: ping(GUESTS[0], BROADCAST) in guests.look()[1])

    run(script)
    packets = [one for one in read_all(tmp_path / "net.pcapng") if b"ping" in one.frame]
    assert [(one.interface, one.outbound) for one in packets] == [("stream", False), ("dgram", True)]


def test_faults_hit_the_wire_of_each_guest(tmp_path: Path) -> None:
    async def script() -> None:
        guests = Guests(tmp_path)
        async with segment(guests, loss=1.0) as host:
            guests.send(0, ping(GUESTS[0], BROADCAST))
            guests.send(1, ping(GUESTS[1], BROADCAST))
            await until(lambda: host.port.stats()["stream_fault_rx_lost"] == 1)
            await until(lambda: host.port.stats()["dgram_fault_rx_lost"] == 1)
            assert host.port.stats()["rx_frames"] == 0

    run(script)


def test_report_and_negotiation_name_every_port(tmp_path: Path) -> None:
    async def script() -> None:
        guests = Guests(tmp_path)
        async with segment(guests) as host:
            told = host.negotiation()
            assert [one["transport"] for one in told["ports"]] == ["stream", "dgram"]
            observation = host.observe(Wanted())
            observation.start()
            observation.stop()
            page = report.page(report.of_record(observation.record(), "a segment"))
            assert "stream, MTU 1500, connected" in page
            assert "dgram, MTU 1500, not connected" in page

    run(script)


def test_single_port_has_no_switch_before_it(tmp_path: Path) -> None:
    async def script() -> None:
        async with Host.open(Options(stream=str(tmp_path / "s"))) as host:
            assert isinstance(host.port, StreamServer)
            assert host.negotiation()["transport"] == "stream"
        guests = Guests(tmp_path)
        async with segment(guests) as host:
            assert isinstance(host.port, StackPort)

    run(script)
