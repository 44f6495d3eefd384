# SPDX-License-Identifier: GPL-2.0-or-later
"""asyncio servers and datagram endpoints on IPv6 addresses, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

from stack.api import aio
from stack.api.bsd import AF_INET6, Socket
from stack.api.sim import RawPeer, Sim
from stack.include.ipv6 import IPV6_V6ONLY
from stack.net.ipv6.ipv6_sockglue import SOL_IPV6
from stack.stack import Stack

HOST, PEER = "fd00::2", "fd00::15"


class Echo(asyncio.Protocol):
    """Answers what it gets; ``made`` are the transports."""

    made: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.made.append(transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data + repr(addr).encode(), addr)


def world() -> tuple[Sim, Stack, RawPeer]:
    sim = Sim(seed=3)
    net = sim.add_stack("10.0.2.2/24", HOST + "/64")
    return sim, net, sim.add_peer("10.0.2.15", net, addr6=PEER)


def test_listening_server_on_ipv6_gives_4_tuples() -> None:
    sim, net, peer = world()

    async def main() -> Any:
        runner = aio.Runner(net)
        Echo.made = []
        server = await aio.create_server(runner, Echo, "::", 7)
        assert server.sockets[0].getsockopt(SOL_IPV6, IPV6_V6ONLY) == 1
        four = await aio.create_server(runner, Echo, "0.0.0.0", 7)  # asyncio's sockets never overlap
        conn = peer.tcp(7, dst=HOST)
        conn.handshake(mss=1440)
        runner.batch_done()
        conn.send("PA", b"hello")
        sim.settle()
        runner.batch_done()
        conn.expect("A")
        assert conn.expect("PA").payload == b"hello"
        info = Echo.made[0].get_extra_info
        server.close()
        four.close()
        return info("peername"), info("sockname")

    assert asyncio.run(main()) == ((PEER, 40000, 0, 0), (HOST, 7, 0, 0))


def test_listening_server_on_a_dual_stack_socket_takes_ipv4() -> None:
    _sim, net, peer = world()

    async def main() -> Any:
        runner = aio.Runner(net)
        Echo.made = []
        sock = Socket(net, AF_INET6)
        sock.bind(("::", 7))
        await aio.create_server(runner, Echo, sock=sock)
        peer.tcp(7, dst="10.0.2.2").handshake()
        runner.batch_done()
        return Echo.made[0].get_extra_info("peername")

    assert asyncio.run(main()) == ("::ffff:10.0.2.15", 40000, 0, 0)


def test_udp6_endpoint_answers() -> None:
    sim, net, peer = world()

    async def main() -> None:
        runner = aio.Runner(net)
        await aio.create_datagram_endpoint(runner, EchoDatagrams, (HOST, 53))
        peer.send_udp(HOST, 4000, 53, b"who am I ")
        sim.settle()
        runner.batch_done()

    asyncio.run(main())
    peer.expect_udp(53, 4000, b"who am I ('fd00::15', 4000, 0, 0)")
