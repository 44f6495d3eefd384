# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's server: HTTP on 127.0.0.1, and a WebSocket over which each browser is told what changed.

Who may look: whoever has the page's address, which holds a random token, since any user of this machine can connect to
its loopback.  A request also has to name this host (a name that an attacker's DNS server turns into 127.0.0.1 is
refused), and the WebSocket comes from this page's origin only.  The page can only look: nothing that a browser sends
changes the stack.

Nothing of it is on the packet path.  Without a browser one socket listens and no more.  With browsers the event loop
builds one look for all of them, step by step between batches of packets, four times a second or less often: looks take
at most a twentieth of the time.  What a look shows is bounded (state.py, trees.py), and of it a browser is sent what is
not as it was.

=================  =====================================================================================================
a slow browser     is not sent the next look before it has taken the last one, and is cut off after ten seconds
a stranger         who does not show the token within some ten seconds is cut off; there are 64 connections at most:
                   another user of this machine can keep others from looking, no more
many browsers      eight at a time; the ninth is told so
=================  =====================================================================================================
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import WSMsgType, web
from aiohttp.http import HttpProcessingError

from vnic.web import pictures, state, trees

if TYPE_CHECKING:
    from devmodel.port import Port
    from stack.include.netdevice import net_device
    from stack.stack import Stack
    from stack.trace.hub import TraceHub

log = logging.getLogger(__name__)

ADDRESS: Final = "127.0.0.1"
PERIOD_S: Final = 0.25
SHARE: Final = 20  # a look may take that part of the time
PATIENCE_S: Final = 10.0
HEARTBEAT_S: Final = 20.0
MAX_BROWSERS: Final = 8
MAX_CONNECTIONS: Final = 64
BIRTH_S: Final = 1.0  # until a connection that was accepted is one of aiohttp's
MAX_WISH: Final = 4096  # bytes of what a browser may say

STATIC: Final = Path(__file__).parent / "static"
_FILES: Final = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "style.css": ("style.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_WRONG_ADDRESS: Final = (
    "403: this is not the page's address. vnic printed it when it started, with a token in it.\n"
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BackEnd(Protocol):
    """What is looked at: a vnic.host.Host."""

    stack: Stack
    port: Port
    dev: net_device
    hub: TraceHub


@dataclass(frozen=True)
class Wish:
    """What a browser wants to see besides what all see."""

    trees: trees.Filter | None = None
    port: int | None = None
    chosen: state.Ends | None = None
    tables: pictures.Form | None = None

    @classmethod
    def of(cls, text: str) -> Wish:
        """From {"trees": KIND, "port": N, "chosen": KEY, "tables": FORM}, each of which may be null; ValueError."""
        told = json.loads(text)
        if not isinstance(told, dict):
            raise ValueError("no object")
        kind, port, key, form = (told.get(name) for name in ("trees", "port", "chosen", "tables"))
        known = kind in (None, *trees.KINDS) and form in (None, *pictures.FORMS)
        if not known or not (port is None or type(port) is int) or not isinstance(key, str | None):
            raise ValueError(f"there is no such wish: {text[:100]}")
        chosen = None if key is None else state.parse_ends(key)
        return cls(None if kind is None else trees.Filter(kind, port, chosen), port, chosen, form)


class _Browser:
    """One WebSocket.  ``sent`` is what its page shows."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self._socket, self._transport = socket, transport
        self.wish = Wish()
        self.refused = ""  # why there are no trees
        self._sent: dict[str, Any] = {}
        self._counters: dict[str, int] = {}
        self._sending: asyncio.Task[None] | None = None
        self._since = 0.0

    @property
    def busy(self) -> bool:
        """Whether it has not taken yet what it was sent."""
        return self._sending is not None and not self._sending.done()

    @property
    def stuck(self) -> bool:
        return self.busy and time.monotonic() - self._since > PATIENCE_S

    def send(self, at: float, parts: dict[str, Any], counters: dict[str, int], more: dict[str, Any]) -> None:
        """Of ``parts`` and ``counters`` what is not as it was sent before; all of ``more``."""
        message = {name: part for name, part in parts.items() if self._sent.get(name, ...) != part}
        changed = {name: value for name, value in counters.items() if self._counters.get(name) != value}
        changed |= {name: 0 for name in self._counters if name not in counters}
        self._sent, self._counters = parts, counters
        message |= {"at": at, "counters": changed, **more}
        self._since = time.monotonic()
        self._sending = asyncio.ensure_future(self._send(json.dumps(message)))

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except ConnectionError:
            self.cut_off()

    def cut_off(self) -> None:
        """Its handler sees the end of the connection, and ends."""
        self._transport.abort()


class WebServer:
    """For one back end; made by ``listen``."""

    def __init__(self, host: BackEnd) -> None:
        self._host = host
        self._token = secrets.token_urlsafe(16)
        self._names: tuple[str, ...] = ()
        self._browsers: set[_Browser] = set()
        self._watching: asyncio.Task[None] | None = None
        self._door: _Door | None = None
        self._trees = trees.Trees(host.stack, host.dev.ifindex, host.hub, lambda: state.seconds(host.stack))
        self._pictures = pictures.Pictures(host.stack)
        self._files = {name: (STATIC / file).read_bytes() for name, (file, _) in _FILES.items()}

    @asynccontextmanager
    async def listen(self, port: int) -> AsyncIterator[str]:
        """Serve at that port, any free one if it is 0, until the block is left; the page's address.  OSError."""
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=PATIENCE_S,
            shutdown_timeout=1.0,
            logger=_http_log(),
        )
        await runner.setup()
        assert runner.server is not None
        door = self._door = _Door(runner.server)
        try:
            server = await asyncio.get_running_loop().create_server(door.protocol, ADDRESS, port)
            taken = server.sockets[0].getsockname()[1]
            self._names = (f"{ADDRESS}:{taken}", f"localhost:{taken}")
            try:
                yield f"http://{ADDRESS}:{taken}/{self._token}/"
            finally:
                server.close()
                door.close()
        finally:
            await self._close()
            await runner.cleanup()

    async def _close(self) -> None:
        for browser in self._browsers:
            browser.cut_off()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._pictures.close()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._checked])
        app.on_response_prepare.append(_with_headers)
        app.router.add_get("/{token}", self._page)
        app.router.add_get("/{token}/live", self._live)
        app.router.add_get("/{token}/{name:[^/]*}", self._file)
        return app

    # -- who may -----------------------------------------------------------------------------------------------------

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Before anything else is looked at, the file's name included."""
        if request.headers.get("Host", "") not in self._names:
            raise web.HTTPForbidden(text=_WRONG_ADDRESS)
        token = request.path.removeprefix("/").partition("/")[0]
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            raise web.HTTPForbidden(text=_WRONG_ADDRESS)
        if self._door is not None:
            self._door.admit(request.protocol)
        return await handler(request)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        """Its address without the last slash, which the names of its files begin behind."""
        raise web.HTTPPermanentRedirect(f"{request.path}/")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound(text="404: there is no such file\n")
        return web.Response(body=self._files[name], content_type=_FILES[name][1], charset="utf-8")

    # -- browsers ----------------------------------------------------------------------------------------------------

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Origin", "") != f"http://{request.headers['Host']}":
            raise web.HTTPForbidden(text="403: another page's script may not look\n")
        if len(self._browsers) >= MAX_BROWSERS:
            raise web.HTTPServiceUnavailable(text=f"503: {MAX_BROWSERS} browsers look at a time\n")
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_WISH, compress=False)
        await socket.prepare(request)
        assert request.transport is not None
        browser = _Browser(socket, request.transport)
        self._browsers.add(browser)
        try:
            self._watch()
            await self._listen_to(browser, socket)
        finally:
            self._browsers.discard(browser)
            self._trees.want(browser, None)
        return socket

    async def _listen_to(self, browser: _Browser, socket: web.WebSocketResponse) -> None:
        """Until it leaves, or says what it cannot mean."""
        async for message in socket:
            try:
                if message.type is not WSMsgType.TEXT:
                    raise ValueError("no text")
                browser.wish = Wish.of(message.data)
            except (ValueError, RecursionError):
                await socket.close(code=1008, message=b"not understood")
                return
            browser.refused = self._trees.want(browser, browser.wish.trees)

    def _watch(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._look_for_all())

    async def _look_for_all(self) -> None:
        """Until nobody looks any more.  A fault of ours costs the browsers their page, and nobody else anything."""
        try:
            while self._browsers:
                took = await _in_steps(self._look())
                await asyncio.sleep(max(PERIOD_S, SHARE * took))
        except Exception:
            log.exception("the live page is cut off")
            for browser in self._browsers:
                browser.cut_off()

    def _look(self) -> Iterator[None]:
        """Step by step: packets have their turn between them."""
        net, port = self._host.stack, self._host.port
        connections = cache(lambda port: state.connections(net, port))
        drawn = cache(self._pictures.look)
        at, counters = state.seconds(net), state.counted(net, port)
        common = {"about": {**state.about(net, port), "pid": os.getpid()}, "listeners": state.listeners(net)}
        for browser in tuple(self._browsers):
            if browser.stuck:
                log.warning("a browser that takes nothing is cut off")
                browser.cut_off()
            if browser.busy:
                continue
            yield
            wish = browser.wish
            parts: dict[str, Any] = {**common, "connections": connections(wish.port)}
            yield
            parts["detail"] = None if wish.chosen is None else state.detail(net, wish.chosen)
            parts["tables"] = None if wish.tables is None else drawn(wish.tables)
            parts["tracing"] = browser.refused or ("on" if wish.trees else "off")
            seen, skipped = self._trees.take(browser)
            told = []
            for one in seen:
                yield
                told.append(trees.plain(one))
            yield
            browser.send(at, parts, counters, {"trees": told, "skipped": skipped} if seen or skipped else {})


async def _in_steps(steps: Iterator[None]) -> float:
    """Go through them, a turn of the loop between two; the seconds that they took by themselves."""
    took = 0.0
    while True:
        began = time.monotonic()
        done = next(steps, True)
        took += time.monotonic() - began
        if done:
            return took
        await asyncio.sleep(0)


def _http_log() -> logging.Logger:
    """aiohttp's, without what it says of each request that is none: a stranger could fill our log with it."""
    logger = log.getChild("http")
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _with_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


class _Door:
    """Makes the protocols of new connections, and ends those of strangers."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._strangers: dict[object, float] = {}  # protocol -> when it came
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self) -> asyncio.Protocol:
        """aiohttp's, a stranger's for now; one that hangs up if there are too many."""
        if len(self._server.connections) >= MAX_CONNECTIONS:
            return _Refused()
        if len(self._strangers) >= MAX_CONNECTIONS:
            self._forget_gone()
        protocol = self._server()
        self._strangers[protocol] = time.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_S / 4, self._sweep)
        return protocol

    def admit(self, protocol: object) -> None:
        """It has shown the token."""
        self._strangers.pop(protocol, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        self._forget_gone()
        late = time.monotonic() - PATIENCE_S
        for protocol, came in tuple(self._strangers.items()):
            if came <= late:
                del self._strangers[protocol]
                transport = getattr(protocol, "transport", None)
                if transport is not None:
                    transport.abort()
        again = bool(self._strangers)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PATIENCE_S / 4, self._sweep) if again else None

    def _forget_gone(self) -> None:
        """Those that hung up by themselves; one that has just come is not among the server's yet."""
        there = {*self._server.connections}
        young = time.monotonic() - BIRTH_S
        kept = {one: came for one, came in self._strangers.items() if one in there or came > young}
        self._strangers = kept


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
