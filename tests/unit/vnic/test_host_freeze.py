# SPDX-License-Identifier: GPL-2.0-or-later
"""A host process's state comes back in another one: transfers, requests, echoes and leases go on, the rest is reset."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, cast

import pytest

from stack.api import aio
from stack.api.sim import MSEC, RawTcp, Sim, StackEnd, parse_segment
from stack.freeze.reader import thaw
from tests.sim.test_tcp_lossy_download import Receiver
from vnic import host
from vnic.errors import UsageError
from vnic.services import content
from vnic.services.catalogue import Services

SERVER = "10.0.2.2"


class Client:
    """A scripted connection that acknowledges and keeps what it gets; ``reset`` once the server has reset it."""

    def __init__(self, conn: RawTcp) -> None:
        self.conn, self.receiver = conn, Receiver(conn, sack=True)

    @property
    def data(self) -> bytes:
        return bytes(self.receiver.data)

    def send(self, data: bytes) -> None:
        self.conn.send("PA", data, ack=1 + len(self.receiver.data))


class World:
    """The services on a stack at 10.0.2.2, clients at 10.0.2.15, in virtual time."""

    def __init__(self) -> None:
        self.sim = Sim(seed=1)
        self.net = self.sim.add_stack(f"{SERVER}/24", "10.0.2.3/24")
        self.peer = self.sim.add_peer("10.0.2.15", self.net, delay_ns=MSEC)
        self.clients: dict[int, Client] = {}

    async def start(self) -> None:
        self.runner = aio.Runner(self.net, timers=False)
        self.services = Services(IPv4Interface(f"{SERVER}/24"), IPv4Address("10.0.2.3"))
        self.network = host.StackNetwork(self.runner, "eth0")
        await self.services.start(self.network)

    def host(self) -> host.Host:
        dev = self.net.devices_by_name["eth0"]
        none = cast(Any, None)
        return host.Host(none, self.net, self.runner, dev, self.services, self.network, none, none)

    async def replaced(self, edit: Callable[[dict[str, Any]], None] = lambda state: None) -> None:
        """The process ends, and another one goes on; ``edit`` has its way with the file."""
        state = json.loads(self.host().freeze())
        edit(state)
        await self.services.close()
        self.runner.close()
        thawed = thaw(json.dumps(state), self.sim.clock)
        self.net = thawed.stack
        self.sim.stacks[0] = self.net
        end = next(iter(self.sim.links.values())).a
        assert isinstance(end, StackEnd)
        end.net, end.dev = self.net, self.net.devices_by_name["eth0"]
        end.dev.ndo_start_xmit = end.ndo_start_xmit
        await self.start()
        host._resume(thawed.application, self.services, self.network)

    def drain(self) -> None:
        """What has come goes to the client whose it is."""
        while self.peer.inbox:
            segment = parse_segment(self.peer.inbox.popleft())
            client = self.clients[segment.dport]
            if segment.opts.ts is not None:
                client.conn.ts_recent = segment.opts.ts[0]
            if "R" not in segment.flags:
                seq = (segment.seq - (client.conn.irs or 0)) & 0xFFFFFFFF
                client.receiver._take(seq, segment.payload, "F" in segment.flags)

    async def connect(self, port: int) -> Client:
        self.sim.settle()
        self.drain()
        conn = self.peer.tcp(port, sport=40000 + len(self.clients))
        conn.handshake()
        client = self.clients[conn.sport] = Client(conn)
        await self.turn(2)
        return client

    async def turn(self, ms: int) -> None:
        """Time passes, and everybody reacts."""
        for _ in range(ms):
            self.sim.run_for(MSEC)
            for _ in range(10):
                await asyncio.sleep(0)
            self.drain()

    async def until(self, condition: Callable[[], bool], ms: int = 5000) -> None:
        for _ in range(ms):
            if condition():
                return
            await self.turn(1)
        raise AssertionError("it never came")


def with_world(test: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        await world.start()
        await test(world)
        await world.services.close()

    asyncio.run(run())


def expected(length: int) -> bytes:
    return b"".join(content.pieces(length))


def body(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[2]


REQUEST = b"GET /bytes/%d HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("length", [150_000, 3_000_000])
def test_transfer_goes_on_where_it_was_and_the_connection_stays(length: int) -> None:
    async def check(world: World) -> None:
        client = await world.connect(80)
        client.send(REQUEST % length)
        for received in (20_000, 60_000):  # the next process's transfer can be frozen as well
            await world.until(lambda received=received: len(client.data) > received)
            await world.replaced()
        await world.until(lambda: len(body(client.data)) >= length)
        assert hashlib.sha256(body(client.data)).hexdigest().encode() in client.data
        assert body(client.data) == expected(length)
        before = len(client.data)
        client.send(REQUEST % 5)
        await world.until(lambda: client.data.endswith(expected(5)))
        assert client.data[before:].startswith(b"HTTP/1.1 200 OK")

    with_world(check)


def test_request_that_was_not_answered_yet_is_answered_by_the_next_process() -> None:
    async def check(world: World) -> None:
        client = await world.connect(80)
        client.send(REQUEST % 5)
        world.sim.run_for(3 * MSEC)
        while not world.services.http._requests:  # until it waits for a worker's checksum
            await asyncio.sleep(0)
        assert client.data == b""
        await world.replaced()
        await world.until(lambda: client.data.endswith(expected(5)))
        assert client.data.count(b"HTTP/1.1 200 OK") == 1

    with_world(check)


def test_transfer_that_ends_the_connection_ends_it() -> None:
    async def check(world: World) -> None:
        client = await world.connect(80)
        client.send(b"GET /bytes/150000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await world.until(lambda: len(client.data) > 20_000)
        await world.replaced()
        await world.until(lambda: client.receiver.fin_at is not None)
        assert body(client.data) == expected(150_000)

    with_world(check)


def test_echo_keeps_what_waits_and_accepts_who_waits() -> None:
    async def check(world: World) -> None:
        client = await world.connect(7)
        client.send(b"before ")
        world.sim.run_for(3 * MSEC)
        await world.replaced()
        client.send(b"after")
        late = await world.connect(7)
        late.send(b"new")
        await world.until(lambda: client.data == b"before after" and late.data == b"new")

    with_world(check)


def test_what_cannot_go_on_is_reset() -> None:
    async def check(world: World) -> None:
        upload = await world.connect(80)
        upload.send(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        test = await world.connect(5201)
        idle = await world.connect(80)
        await world.turn(3)
        sent = len(world.sim.frames)
        await world.replaced()
        await world.turn(10)
        resets = {int.from_bytes(f.data[36:38], "big") for f in world.sim.frames[sent:] if f.data[47] & 4}
        assert resets == {upload.conn.sport, test.conn.sport}
        idle.send(REQUEST % 5)
        await world.until(lambda: idle.data.endswith(expected(5)))

    with_world(check)


def test_leases_come_back() -> None:
    async def check(world: World) -> None:
        lease = world.services.dhcp.pool.leases[IPv4Address("10.0.2.15")]
        lease.client, lease.state, lease.until = b"\1me", "bound", lease.until + 1e9
        await world.replaced()
        (again,) = world.services.dhcp.leases()
        assert (again.client, again.address) == (b"\1me", IPv4Address("10.0.2.15"))
        assert again.until == pytest.approx(lease.until, abs=5)

    with_world(check)


def forged_port(application: dict[str, Any]) -> None:
    application["connections"][0]["port"] = 81


def forged_descriptor(application: dict[str, Any]) -> None:
    application["connections"][0]["transport"]["fd"] = 3  # a listener


def forged_buffer(application: dict[str, Any]) -> None:
    application["connections"][0]["transport"]["buffer"] = "xyz"


def forged_state(application: dict[str, Any]) -> None:
    application["connections"][0]["service"] = {"state": "bytes", "length": -1, "sent": 0, "keep_alive": 1}


def forged_lease(application: dict[str, Any]) -> None:
    application["leases"] = [["10.0.2.15", 5]]


@pytest.mark.parametrize(
    "forge",
    [forged_port, forged_descriptor, forged_buffer, forged_state, forged_lease],
    ids=lambda f: f.__name__,
)
def test_forged_connections_are_refused(forge: Callable[[dict[str, Any]], None]) -> None:
    async def check(world: World) -> None:
        await world.connect(80)
        with pytest.raises(UsageError, match="damaged"):
            await world.replaced(lambda state: forge(state["application"]))

    with_world(check)
