# SPDX-License-Identifier: GPL-2.0-or-later
"""Applications of others on the Stack, unchanged, by the event loop that they are given: aiohttp, uvicorn with h11, and
TLS by the standard library.  The peer is scripted, so nothing passes any network of the machine."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stack.api import aio
from stack.api.bsd import Socket
from stack.api.loop import StackEventLoop
from stack.api.sim import RawTcp
from stack.include.net import MSG_WAITALL

ROOT = Path(__file__).parents[4]
TLS = ROOT / "tests" / "data" / "tls"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def loop() -> Iterator[StackEventLoop]:
    """In the place of the conftest's, so that ``world`` is built on it."""
    loop = StackEventLoop()
    asyncio.set_event_loop(
        loop
    )  # uvicorn asks for it in its protocol, which the world calls from outside of the loop
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def net(world: Any, loop: StackEventLoop) -> Any:
    loop.network = world.runner
    return world


@pytest.fixture
def task(net: Any, loop: StackEventLoop) -> Iterator[Any]:
    """Start a coroutine that serves until it is cancelled."""
    tasks: list[asyncio.Task[Any]] = []

    def start(coroutine: Any) -> None:
        tasks.append(loop.create_task(coroutine))
        net.settle()

    yield start
    for one in tasks:
        one.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def ask(net: Any, port: int, request: bytes) -> bytes:
    conn: RawTcp = net.connect(port)
    conn.send("PA", request)
    answer: bytes = net.drain(conn)
    return answer


def test_aiohttp_site_answers(net: Any, task: Any) -> None:
    app = example("aiohttp_app")
    task(app.serve(app.application()))
    answer = ask(net, 8080, b"GET /hello/you HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello, you at 10.0.2.15\n")
    assert b" 404 " in ask_again(net, 8080, b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
    assert net.errors == []


def ask_again(net: Any, port: int, request: bytes) -> bytes:
    conn: RawTcp = net.connect(port, sport=40001)
    conn.send("PA", request)
    answer: bytes = net.drain(conn)
    return answer


def test_uvicorn_answers_a_body_in_two_segments(net: Any, loop: StackEventLoop) -> None:
    server = example("uvicorn_app").server()
    running = loop.create_task(server._serve())  # serve() without its signal handlers
    net.settle()
    conn = net.connect(8000)
    conn.send("PA", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello")
    net.settle()
    conn.send("PA", b"world")
    answer = net.drain(conn)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"POST from 10.0.2.15: HELLOWORLD\n" in answer
    conn.send("FA")
    net.settle()
    server.should_exit = server.force_exit = True
    loop.run_until_complete(running)
    assert net.errors == []


class TlsClient:
    """A TLS client above a scripted connection."""

    def __init__(self, net: Any, port: int) -> None:
        self.net, self.conn = net, net.connect(port)
        context = ssl.create_default_context(cafile=TLS / "server.crt")
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="vnic.test")

    def until(self, call: Any, *args: Any) -> Any:
        """Call that, carrying bytes both ways as long as it wants more."""
        for _ in range(20):
            try:
                result = call(*args)
            except ssl.SSLWantReadError:
                self.carry()
            else:
                self.carry()
                return result
        raise AssertionError(f"{call} wants ever more")

    def carry(self) -> None:
        data = self.outgoing.read()
        for at in range(0, len(data), 1400):
            self.conn.send("PA", data[at : at + 1400])
        self.incoming.write(self.net.drain(self.conn))


def test_tls_server_shakes_hands_and_answers(net: Any, task: Any) -> None:
    app = example("tls_server")
    task(app.serve(app.context(TLS / "server.crt", TLS / "server.key")))
    client = TlsClient(net, 4433)
    client.until(client.tls.do_handshake)
    assert client.tls.version() == "TLSv1.3"
    client.until(client.tls.write, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = client.until(client.tls.read, 4096)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(f"TLSv1.3 {client.tls.cipher()[0]} 256\n".encode())
    assert net.errors == []


def test_tls_server_hangs_up_on_who_speaks_no_tls(net: Any, task: Any) -> None:
    app = example("tls_server")
    task(app.serve(app.context(TLS / "server.crt", TLS / "server.key")))
    answer = ask(net, 4433, b"GET / HTTP/1.1\r\n\r\n")
    assert not answer.startswith(b"HTTP")
    assert net.net.files.fdt.keys() == {3}  # the listener alone


def test_tls_options_without_tls_are_an_error(net: Any, loop: StackEventLoop) -> None:
    with pytest.raises(ValueError, match="only meaningful with ssl"):
        loop.run_until_complete(loop.create_server(asyncio.Protocol, "10.0.2.2", 5, ssl_handshake_timeout=1))
    with pytest.raises(TypeError, match="SSLContext"):
        loop.run_until_complete(loop.create_server(asyncio.Protocol, "10.0.2.2", 5, ssl=True))


def test_start_tls_turns_a_plain_connection_into_tls(net: Any, task: Any) -> None:
    context = example("tls_server").context(TLS / "server.crt", TLS / "server.key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(context)
        writer.write((await reader.readline()).upper())
        await writer.drain()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "10.0.2.2", 25)
        await server.serve_forever()

    task(serve())
    client = TlsClient(net, 25)
    client.conn.send("PA", b"STARTTLS\n")
    assert net.drain(client.conn) == b"go\n"
    client.until(client.tls.do_handshake)
    client.until(client.tls.write, b"hello\n")
    assert client.until(client.tls.read, 100) == b"HELLO\n"


def test_sock_calls_wait_on_the_stack(net: Any, loop: StackEventLoop) -> None:
    listener = Socket(net.net)
    listener.bind(("10.0.2.2", 7))
    listener.listen()
    got: list[bytes] = []

    async def serve() -> None:
        conn, peer = await loop.sock_accept(listener)
        assert peer == ("10.0.2.15", 40000)
        got.append(await aio.sock_recv(net.runner, conn, 6, MSG_WAITALL))
        buffer = bytearray(4)
        assert await loop.sock_recv_into(conn, buffer) == 2
        got.append(bytes(buffer))
        got.append(await aio.sock_recv(net.runner, conn, 6, MSG_WAITALL))
        got.append(await loop.sock_recv(conn, 6))
        await loop.sock_sendall(conn, b"x" * 300_000)
        conn.close()

    task = loop.create_task(serve())
    conn = net.connect()
    for data in (b"abc", b"defgh"):
        conn.send("PA", data)
        net.settle()
    conn.send("FPA", b"end")
    assert net.drain(conn) == b"x" * 300_000
    loop.run_until_complete(task)
    assert got == [b"abcdef", b"gh\0\0", b"end", b""]


def test_sock_datagrams_wait_on_the_stack(net: Any, loop: StackEventLoop) -> None:
    sock = Socket(net.net, type=socket.SOCK_DGRAM)
    sock.bind(("10.0.2.2", 7))
    task = loop.create_task(loop.sock_recvfrom(sock, 100))
    net.settle()
    assert not task.done()
    net.peer.send_udp("10.0.2.2", 9, 7, b"hello")
    net.settle()
    assert task.result() == (b"hello", ("10.0.2.15", 9))
    assert loop.run_until_complete(loop.sock_sendto(sock, b"back", ("10.0.2.15", 9))) == 4


def test_sock_waiting_is_cancelled_and_leaves_no_waiter(net: Any, loop: StackEventLoop) -> None:
    sock = Socket(net.net, type=socket.SOCK_DGRAM)
    sock.bind(("10.0.2.2", 7))
    task = loop.create_task(loop.sock_recvfrom(sock, 100))
    net.settle()
    task.cancel()
    net.settle()
    assert task.cancelled()
    assert sock.sk.sk_wq == []


def test_datagram_endpoint_is_the_stacks(net: Any, loop: StackEventLoop) -> None:
    received: list[Any] = []

    class Echo(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            received.append((data, addr))

    loop.run_until_complete(loop.create_datagram_endpoint(Echo, local_addr=("10.0.2.2", 9)))
    net.peer.send_udp("10.0.2.2", 5000, 9, b"hello")
    net.settle()
    assert received == [(b"hello", ("10.0.2.15", 5000))]


def test_sockets_of_the_machine_stay_the_machines(net: Any, loop: StackEventLoop) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        loop.run_until_complete(loop.sock_sendall(left, b"hello"))
        assert loop.run_until_complete(loop.sock_recv(right, 9)) == b"hello"


def test_transport_socket_has_what_asyncios_has(net: Any) -> None:
    names = {name for name in dir(asyncio.trsock.TransportSocket) if not name.startswith("_")}
    # dup() makes no sense here; getsockbyname() is in no socket.
    assert names - {"dup", "getsockbyname"} <= set(dir(Socket))
    sock = Socket(net.net)
    sock.settimeout(0)
    with pytest.raises(ValueError, match="never block"):
        sock.settimeout(1)
    assert sock.get_inheritable() is False
