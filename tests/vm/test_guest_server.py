# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest as the server: clients on our stack, by asyncio and by socket calls, connect to programs in the guest."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import random
import time

import pytest
from line import GUEST, Line, send_all, sha256_of

from stack.api import aio
from stack.api.bsd import AF_INET, AF_INET6, Socket
from stack.include.net import MSG_WAITALL, SHUT_WR

pytestmark = pytest.mark.xdist_group("guest-server")

FAMILIES = ("ipv4", "ipv6")
AF = {"ipv4": AF_INET, "ipv6": AF_INET6}
LISTEN = {
    ("nc", "ipv4"): "nc -N -l",
    ("nc", "ipv6"): "nc -6 -N -l",
    ("busybox", "ipv6"): "busybox nc -l -p",  # takes IPv4 too
}
SIZE = 8 << 20
AT_ONCE_S = 0.9  # a second SYN, had it been needed, would leave after 1 s (RFC 6298, section 2.1)
RESOLUTION_S = (2.5, 8.0)  # three probes a second apart (RFC 4861, section 10; mcast_solicit of ARP)


@pytest.fixture(scope="module")
def address(line: Line) -> dict[str, str]:
    """The guest's, by family."""
    return {"ipv4": GUEST, "ipv6": line.guest_address6()}


@pytest.mark.parametrize(("program", "family"), [("nc", "ipv4"), ("busybox", "ipv6")])
def test_nc_that_listens_talks_with_a_client_on_the_stack(
    line: Line, address: dict[str, str], program: str, family: str
) -> None:
    """Each side waits for the other's words, so that neither talks to itself."""
    port = line.free_port()
    guest = line.guest

    async def talk() -> list[bytes]:
        reader, writer = await aio.open_connection(line.host.runner, address[family], port)
        heard = [await reader.readline()]
        writer.write(b"I am well\n")
        heard.append(await reader.readline())
        writer.write_eof()
        heard.append(await reader.read())
        writer.close()
        await writer.wait_closed()
        return heard

    guest.check("rm -f /tmp/said; mkfifo /tmp/said; : > /tmp/heard")
    speaker = (
        "(echo how are you; until grep -q well /tmp/heard; do sleep 0.1; done; echo so am I) > /tmp/said"
    )
    job = guest.shell.background(speaker)
    with line.serving(f"{LISTEN[program, family]} {port} < /tmp/said > /tmp/heard", port) as server:
        assert line.behind.run(talk(), 30) == [b"how are you\n", b"so am I\n", b""]
        server.wait().check()
    job.wait().check()
    assert guest.check("cat /tmp/heard") == "I am well\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_mib_go_both_ways_at_once_unchanged(line: Line, address: dict[str, str], family: str) -> None:
    data = random.Random(family).randbytes(SIZE)
    port = line.free_port()

    async def exchange() -> tuple[str, int]:
        reader, writer = await aio.open_connection(line.host.runner, address[family], port)
        _, got = await asyncio.gather(send_all(writer, data), sha256_of(reader))
        writer.close()  # not before the guest's end came: nc sends no more once it has ours
        await writer.wait_closed()
        return got

    command = f"{LISTEN['nc', family]} {port} < {line.guest_file(SIZE)} | sha256sum"
    with line.serving(command, port) as server:
        assert line.behind.run(exchange(), 60) == (line.guest_digest(SIZE), SIZE)
        assert server.wait().check().out.split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("family", FAMILIES)
def test_socket_calls_reach_the_guests_server(line: Line, address: dict[str, str], family: str) -> None:
    data = random.Random(family).randbytes(1 << 20)
    port = line.free_port()
    runner = line.host.runner

    async def call() -> str:
        with Socket(line.stack, AF[family]) as sock:
            assert sock.connect_ex((address[family], port)) == errno.EINPROGRESS
            await aio.sock_connect(runner, sock, (address[family], port))
            assert sock.getpeername()[:2] == (address[family], port)
            await aio.sock_sendall(runner, sock, data)
            got = await aio.sock_recv(runner, sock, SIZE, MSG_WAITALL)
            assert await aio.sock_recv(runner, sock, 1) == b""
            sock.shutdown(SHUT_WR)
            runner.touch()
            return hashlib.sha256(got).hexdigest()

    command = f"{LISTEN['nc', family]} {port} < {line.guest_file(SIZE)} | sha256sum"
    with line.serving(command, port) as server:
        assert line.behind.run(call(), 60) == line.guest_digest(SIZE)
        assert server.wait().check().out.split()[0] == hashlib.sha256(data).hexdigest()


def test_forty_pages_of_the_guests_web_server_eight_at_a_time(line: Line) -> None:
    """busybox httpd forks for each connection; its backlog is 9."""
    port = line.free_port()
    write = "for n in $(seq 40); do seq $n 2000 > /tmp/www/$n; done"
    line.guest.check(f"mkdir -p /tmp/www; {write}", 60)

    async def get(number: int) -> bool:
        reader, writer = await aio.open_connection(line.host.runner, GUEST, port)
        writer.write(f"GET /{number} HTTP/1.0\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return b" 200 OK" in head and body == b"".join(b"%d\n" % n for n in range(number, 2001))

    async def get_all() -> list[bool]:
        eight = asyncio.Semaphore(8)

        async def one(number: int) -> bool:
            async with eight:
                return await get(number)

        return await asyncio.gather(*map(one, range(1, 41)))

    with line.serving(f"busybox httpd -f -p {port} -h /tmp/www", port):
        assert line.behind.run(get_all(), 60) == [True] * 40


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_port_of_the_guest_refuses_at_once(line: Line, address: dict[str, str], family: str) -> None:
    before = line.ours()
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError) as refused:
        line.behind.run(aio.open_connection(line.host.runner, address[family], line.free_port()), 30)
    seconds = time.monotonic() - began
    after = line.ours()
    assert refused.value.errno == errno.ECONNREFUSED
    assert after["TcpAttemptFails"] == before["TcpAttemptFails"] + 1
    assert after["TcpRetransSegs"] == before["TcpRetransSegs"], "a second SYN was needed"
    assert seconds < AT_ONCE_S


def test_addresses_that_nobody_has_are_unreachable(line: Line) -> None:
    """After the neighbour probes; every client has an address of its own, all of them at the same time."""

    async def by_socket(family: int, address: str) -> None:
        with Socket(line.stack, family) as sock:
            await aio.sock_connect(line.host.runner, sock, (address, 80))

    async def connect() -> list[object]:
        return await asyncio.gather(
            aio.open_connection(line.host.runner, "10.0.2.98", 80),
            aio.open_connection(line.host.runner, "fd00:10:0:2::98", 80),
            by_socket(AF_INET, "10.0.2.99"),
            by_socket(AF_INET6, "fd00:10:0:2::99"),
            return_exceptions=True,
        )

    began = time.monotonic()
    errors = line.behind.run(connect(), 30)
    assert RESOLUTION_S[0] < time.monotonic() - began < RESOLUTION_S[1]
    for error in errors:
        assert isinstance(error, OSError), error
        assert error.errno == errno.EHOSTUNREACH


def test_network_without_a_route_is_unreachable_at_once(line: Line) -> None:
    with pytest.raises(OSError, match="no route to that network") as unreachable:
        line.behind.run(aio.open_connection(line.host.runner, "192.0.2.1", 80), 5)
    assert unreachable.value.errno == errno.ENETUNREACH


def test_guests_server_that_dies_resets_the_client(line: Line) -> None:
    """A process that ends with unread data in its socket makes the guest's kernel send a RST (RFC 2525, 2.17)."""
    port = line.free_port()

    async def connect() -> asyncio.StreamWriter:
        _, writer = await aio.open_connection(line.host.runner, GUEST, port)
        writer.write(bytes(1 << 20))  # more than nc and its pipe take
        return writer

    async def write_on(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"more\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    with line.serving(f"sleep 1000 | nc -N -l {port} | sleep 1000", port) as server:
        writer = line.behind.run(connect(), 30)
        line.guest.check(
            f"until ss -Htn state established 'sport = :{port}' | grep -q '^[1-9]'; do sleep 0.05; done"
        )
        server.kill("KILL")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            line.behind.run(write_on(writer), 30)
        line.behind.call(writer.close)
