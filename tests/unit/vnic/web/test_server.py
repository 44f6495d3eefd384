# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's server on this machine's loopback: who may look, what a browser is sent, and when it is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from devmodel.netdev.loopback import Loopback
from stack.net.ipv4 import tcp_ipv4
from stack.trace.hub import TraceHub
from vnic.callgraph import CLIENT_PORT, PORT, World
from vnic.web import server, state
from vnic.web.server import WebServer, Wish
from vnic.web.trees import Filter

KEY = f"10.0.2.2:{PORT} < 10.0.2.15:{CLIENT_PORT}"
Talk = Callable[["Page"], Awaitable[None]]


class BackEnd:
    """A World in a host's place."""

    def __init__(self) -> None:
        self.world = World()
        self.stack = self.world.net
        self.port: Any = Loopback().a
        self.dev = self.stack.devices_by_name["eth0"]
        self.hub = TraceHub(time.perf_counter_ns)


class Page:
    """The server's client: what a browser does."""

    def __init__(self, host: BackEnd, web: WebServer, url: str, session: aiohttp.ClientSession) -> None:
        self.host, self.web, self.url, self.session = host, web, url, session
        self.parts: dict[str, Any] = {}
        self.counters: dict[str, int] = {}
        self.trees: list[dict[str, Any]] = []

    @property
    def origin(self) -> str:
        where = urlsplit(self.url)
        return f"{where.scheme}://{where.netloc}"

    async def get(self, url: str, **headers: str) -> aiohttp.ClientResponse:
        async with self.session.get(url, headers=headers) as answer:
            await answer.read()
            return answer

    @asynccontextmanager
    async def live(self, **wish: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        headers = {"Origin": self.origin}
        async with self.session.ws_connect(f"{self.url}live", headers=headers) as socket_:
            await socket_.send_json(wish)
            yield socket_

    async def read(self, socket_: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
        """The next message, taken over as the page does."""
        message: dict[str, Any] = json.loads((await socket_.receive()).data)
        self.parts |= message
        self.counters |= message["counters"]
        self.trees += message.get("trees", [])
        return message

    async def until(self, socket_: aiohttp.ClientWebSocketResponse, true: Callable[[], Any]) -> None:
        while not true():
            await self.read(socket_)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PERIOD_S", 0.005)
    monkeypatch.setattr(server, "SHARE", 0)


def look(talk: Talk, host: BackEnd | None = None) -> WebServer:
    """Let a client talk to a server; the server, when it has ended."""
    back_end = host or BackEnd()

    async def run() -> WebServer:
        web = WebServer(back_end)
        async with asyncio.timeout(20), web.listen(0) as url, aiohttp.ClientSession() as session:
            await talk(Page(back_end, web, url, session))
        return web

    return asyncio.run(run())


# -- who may look ------------------------------------------------------------------------------------------------------


def test_page_and_its_files_are_served_with_a_policy_that_allows_nothing_from_elsewhere() -> None:
    async def talk(page: Page) -> None:
        for name, kind in (
            ("", "text/html"),
            ("page.js", "text/javascript"),
            ("style.css", "text/css"),
            ("icon.svg", "image/svg+xml"),
        ):
            answer = await page.get(page.url + name)
            assert (answer.status, answer.content_type) == (200, kind)
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-store"

    look(talk)


def test_server_listens_on_the_loopback_alone() -> None:
    async def talk(page: Page) -> None:
        where = urlsplit(page.url)
        assert where.hostname == "127.0.0.1"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        listening = [words[1] for words in lines if words[3] == "0A"]
        assert f"0100007F:{where.port:04X}" in listening
        assert f"00000000:{where.port:04X}" not in listening

    look(talk)


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/wrong/", "/wrong/page.js", "/wrong/live", "/%ff/", "/favicon.ico"]
)
def test_address_without_the_token_is_refused(path: str) -> None:
    async def talk(page: Page) -> None:
        answer = await page.get(page.origin + path, Origin=page.origin)
        assert answer.status == 403
        assert "Content-Security-Policy" in answer.headers

    look(talk)


def test_tokens_are_long_and_each_servers_own() -> None:
    made = {WebServer(BackEnd())._token for _ in range(20)}
    assert len(made) == 20
    assert min(map(len, made)) >= 22  # 128 bits


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{}", ""]
)
def test_request_for_another_host_is_refused(host: str) -> None:
    async def talk(page: Page) -> None:
        name = host.format(urlsplit(page.url).port)
        for where in (page.url, f"{page.url}live"):
            assert (await page.get(where, Host=name, Origin=f"http://{name}")).status == 403

    look(talk)


def test_localhost_is_a_name_of_this_host() -> None:
    async def talk(page: Page) -> None:
        name = f"localhost:{urlsplit(page.url).port}"
        assert (await page.get(page.url, Host=name)).status == 200

    look(talk)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "https://127.0.0.1:{}", "http://127.0.0.1"]
)
def test_websocket_of_another_origin_is_refused(origin: str) -> None:
    async def talk(page: Page) -> None:
        headers = {"Origin": origin.format(urlsplit(page.url).port)} if origin else {}
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await page.session.ws_connect(f"{page.url}live", headers=headers)
        assert caught.value.status == 403

    look(talk)


def test_address_without_its_last_slash_leads_to_the_page() -> None:
    async def talk(page: Page) -> None:
        answer = await page.get(page.url.removesuffix("/"))
        assert (answer.status, str(answer.url)) == (200, page.url)
        wrong = await page.get(f"{page.origin}/guessed")
        assert (wrong.status, str(wrong.url)) == (403, f"{page.origin}/guessed")

    look(talk)


@pytest.mark.parametrize("name", ["nothing", "../server.py", "%2e%2e%2fserver.py", "page.js/", "live/"])
def test_file_that_is_not_the_pages_is_404(name: str) -> None:
    async def talk(page: Page) -> None:
        answer = await page.get(page.url + name)
        assert answer.status in (403, 404)  # what climbs out has no token any more
        assert answer.content_type == "text/plain"

    look(talk)


def test_page_can_only_look() -> None:
    async def talk(page: Page) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with page.session.request(method, page.url) as answer:
                assert answer.status == 405

    look(talk)


def test_stranger_without_the_token_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 0.05)

    async def talk(page: Page) -> None:
        where = urlsplit(page.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(b"GET /")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        async with page.live() as socket_:  # who has shown it stays
            await asyncio.sleep(0.1)
            await page.read(socket_)
        assert page.web._door is not None
        assert not page.web._door._strangers

    look(talk)


def test_strangers_that_come_and_go_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)
    monkeypatch.setattr(server, "BIRTH_S", 0)

    async def talk(page: Page) -> None:
        where = urlsplit(page.url)
        assert page.web._door is not None
        for _ in range(30):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
            writer.close()
            await writer.wait_closed()
            assert len(page.web._door._strangers) <= 6

    look(talk)


@pytest.mark.parametrize(
    "request_",
    [b"GET /\xff/ HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", bytes(9) + b"\r\n"],
)
def test_request_that_is_none_is_refused_and_fills_no_log(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(page: Page) -> None:
        where = urlsplit(page.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(request_)
        assert b" 400 " in await reader.readline()
        writer.close()

    look(talk)
    assert caplog.text == ""


def test_connection_too_many_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)

    async def talk(page: Page) -> None:
        where = urlsplit(page.url)
        idle = [await asyncio.open_connection(where.hostname, where.port) for _ in range(3)]
        await asyncio.sleep(0.02)
        with pytest.raises(aiohttp.ClientError):
            await page.get(page.url)
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.02)
        assert (await page.get(page.url)).status == 200

    look(talk)


# -- what a browser is sent --------------------------------------------------------------------------------------------


def test_browser_is_sent_everything_once_and_then_what_changed() -> None:
    async def talk(page: Page) -> None:
        page.host.world.half_open()
        async with page.live() as socket_:
            first = await page.read(socket_)
            assert set(first) >= {"about", "connections", "listeners", "counters", "tracing", "at"}
            assert first["connections"]["rows"][0]["state"] == "SYN-RECV"
            assert page.counters["TcpInSegs"] == 1
            assert set(await page.read(socket_)) == {"at", "counters"}
            page.host.world.receive_ack()
            await page.until(socket_, lambda: page.counters["TcpInSegs"] == 2)
            assert page.parts["connections"]["rows"][0]["state"] == "ESTAB"
            assert page.counters["TcpPassiveOpens"] == 1

    look(talk)


def test_counter_that_went_back_to_zero_is_told() -> None:
    async def talk(page: Page) -> None:
        page.host.world.established()
        async with page.live() as socket_:
            await page.until(socket_, lambda: page.counters.get("TcpCurrEstab") == 1)
            page.host.world.client.send("R")
            page.host.world.sim.settle()
            await page.until(socket_, lambda: page.counters["TcpCurrEstab"] == 0)

    look(talk)


def test_browser_that_wants_trees_is_sent_those_of_its_port() -> None:
    async def talk(page: Page) -> None:
        page.host.world.listening()
        async with page.live(trees="segments", port=PORT) as socket_:
            await page.until(socket_, lambda: page.parts.get("tracing") == "on")
            page.host.world.receive_syn()
            await page.until(socket_, lambda: page.trees)
        (tree,) = page.trees
        assert (tree["flow"], tree["before"], tree["after"]) == (KEY, "LISTEN", "NEW_SYN_RECV")
        assert any("tcp_v4_conn_request" in line for line in tree["lines"])

    look(talk)


def test_page_that_is_closed_or_paused_is_not_traced_for_any_more() -> None:
    async def talk(page: Page) -> None:
        assert sys.gettrace() is None
        async with page.live(trees="segments") as socket_:
            await page.until(socket_, lambda: page.parts.get("tracing") == "on")
            assert page.host.hub.watched
            await socket_.send_json({"trees": None})
            await page.until(socket_, lambda: page.parts["tracing"] == "off")
            assert not page.host.hub.watched
            await socket_.send_json({"trees": "all"})
            await page.until(socket_, lambda: page.parts["tracing"] == "on")
        while page.web._browsers:
            await asyncio.sleep(0.005)
        assert not page.host.hub.watched
        assert sys.gettrace() is None
        assert page.web._watching is not None
        await page.web._watching  # nobody looks, so nothing is looked at

    look(talk)


def test_compiled_stack_is_said_to_have_no_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_ipv4, "__file__", "tcp_ipv4.cpython-311-x86_64-linux-gnu.so")

    async def talk(page: Page) -> None:
        async with page.live(trees="segments") as socket_:
            await page.until(socket_, lambda: "compiled" in page.parts.get("tracing", ""))

    look(talk)


def test_chosen_connection_is_told_in_detail() -> None:
    async def talk(page: Page) -> None:
        page.host.world.established()
        async with page.live(chosen=KEY) as socket_:
            await page.until(socket_, lambda: page.parts.get("detail"))
            assert page.parts["detail"]["head"] == f"{KEY} ESTAB"
            page.host.world.client.send("R")
            page.host.world.sim.settle()
            await page.until(socket_, lambda: page.parts["detail"] == {"gone": True})

    look(talk)


def test_tables_are_drawn_for_whom_wants_them() -> None:
    async def talk(page: Page) -> None:
        page.host.world.established()
        async with page.live(tables="text") as socket_:
            await page.until(socket_, lambda: page.parts.get("tables"))
            assert "inet_hashinfo" in page.parts["tables"]["text"]
            await socket_.send_json({"tables": None})
            await page.until(socket_, lambda: page.parts["tables"] is None)

    look(talk)


def test_thousand_connections_make_no_message_longer_than_a_bound() -> None:
    host = BackEnd()
    host.world.sock.bind(("", PORT))
    host.world.sock.listen(1000)
    for i in range(1000):
        host.world.peer.tcp(PORT, sport=10_000 + i).handshake()

    async def talk(page: Page) -> None:
        async with page.live(trees="segments", tables="text") as socket_:
            message = await socket_.receive()
            assert len(message.data) < 100_000
            told = json.loads(message.data)["connections"]
            assert (len(told["rows"]), told["more"]) == (state.MAX_ROWS, 1000 - state.MAX_ROWS)

    look(talk, host)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"trees": "everything"}',
        '{"trees": ["all"]}',
        '{"port": "80"}',
        '{"port": true}',
        '{"chosen": 7}',
        '{"chosen": "a < b"}',
        '{"tables": "dot"}',
        "[" * 4000,
    ],
)
def test_wish_that_cannot_be_ends_the_connection(text: str) -> None:
    async def talk(page: Page) -> None:
        async with page.live() as socket_:
            await socket_.send_str(text)
            while (message := await socket_.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        async with page.live() as socket_:  # nobody else is any worse off
            await page.read(socket_)

    look(talk)


def test_wish_longer_than_the_bound_ends_the_connection() -> None:
    async def talk(page: Page) -> None:
        async with page.live() as socket_:
            await socket_.send_str(json.dumps({"chosen": "x" * server.MAX_WISH}))
            while (message := await socket_.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert message.type is not aiohttp.WSMsgType.ERROR

    look(talk)


def test_wish_is_read_as_the_page_writes_it() -> None:
    told = Wish.of(json.dumps({"trees": "all", "port": 7, "chosen": KEY, "tables": "svg"}))
    ends = state.parse_ends(KEY)
    assert told == Wish(Filter("all", 7, ends), 7, ends, "svg")
    assert Wish.of("{}") == Wish()


# -- bounds ------------------------------------------------------------------------------------------------------------


def grown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make every look a large one; how many were made."""
    looks = [0]

    def about(net: object, port: object) -> dict[str, Any]:
        looks[0] += 1
        return {"filler": f"{looks[0]:9}" * 30_000}

    monkeypatch.setattr(state, "about", about)
    return looks


@pytest.mark.slow
def test_browser_that_takes_nothing_is_skipped_then_cut_off_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 0.3)
    looks = grown(monkeypatch)

    async def talk(page: Page) -> None:
        where = urlsplit(page.url)
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        with deaf:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, (where.hostname, where.port))
            await loop.sock_sendall(deaf, upgrade(page).encode())
            async with page.live() as socket_:
                while not any(browser.busy for browser in page.web._browsers) or looks[0] < 10:
                    await page.read(socket_)
                (slow,) = [browser for browser in page.web._browsers if browser.busy]
                sending, before = slow._sending, looks[0]
                while slow in page.web._browsers:
                    await page.read(socket_)
                    held = slow._transport.get_write_buffer_size()
                    assert held < 2_000_000  # a message or two, whatever it has missed
                assert looks[0] > before + 5
                assert slow._sending is sending
        assert "cut off" in caplog.text

    look(talk)


def upgrade(page: Page) -> str:
    """The head of a WebSocket's request."""
    where = urlsplit(page.url)
    lines = [
        f"GET {where.path}live HTTP/1.1",
        f"Host: {where.netloc}",
        f"Origin: {page.origin}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    return "\r\n".join([*lines, "", ""])


def test_ninth_browser_is_told_so() -> None:
    async def talk(page: Page) -> None:
        open_ = [
            await page.session.ws_connect(f"{page.url}live", headers={"Origin": page.origin})
            for _ in range(server.MAX_BROWSERS)
        ]
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await page.session.ws_connect(f"{page.url}live", headers={"Origin": page.origin})
        assert caught.value.status == 503
        for socket_ in open_:
            await socket_.close()

    look(talk)


def test_look_that_takes_long_is_taken_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SHARE", 20)
    looks = []

    def slow(net: object, port: object) -> dict[str, Any]:
        looks.append(time.monotonic())
        time.sleep(0.005)
        return {}

    monkeypatch.setattr(state, "about", slow)

    async def talk(page: Page) -> None:
        async with page.live() as socket_:
            for _ in range(3):
                await page.read(socket_)
        assert looks[2] - looks[1] > 20 * 0.005

    look(talk)


def test_fault_of_a_look_costs_the_page_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(net: object, port: object) -> dict[str, Any]:
        raise ZeroDivisionError

    async def talk(page: Page) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(state, "about", broken)
            async with page.live() as socket_:
                assert (await socket_.receive()).type in (
                    aiohttp.WSMsgType.CLOSED,
                    aiohttp.WSMsgType.CLOSE,
                    aiohttp.WSMsgType.ERROR,
                )
        async with page.live() as socket_:
            await page.read(socket_)

    look(talk)
    assert "the live page is cut off" in caplog.text


def test_server_that_ends_cuts_its_browsers_off_and_traces_no_more(caplog: pytest.LogCaptureFixture) -> None:
    host = BackEnd()

    async def run() -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(10):
            async with WebServer(host).listen(0) as url:
                page = Page(host, WebServer(host), url, session)
                headers = {"Origin": page.origin}
                socket_ = await session.ws_connect(f"{url}live", headers=headers)
                await socket_.send_json({"trees": "all"})
                await page.until(socket_, lambda: page.parts.get("tracing") == "on")
            while (await socket_.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            await socket_.close()

    asyncio.run(run())
    assert sys.gettrace() is None
    assert not caplog.records


def test_port_that_is_taken_is_an_oserror() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
            async with WebServer(BackEnd()).listen(taken.getsockname()[1]):
                pass

    asyncio.run(run())
