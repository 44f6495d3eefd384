# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP on port 80: aiohttp's server as the protocol, with pages that show and measure the connection.

=========================  =========================================================================================
GET  /                     this connection: addresses, ports, options, and struct tcp_info of the server's socket;
                           text, HTML or JSON by the Accept header
GET  /bytes/N              N bytes (services/content.py); X-SHA256 and X-CRC32 headers tell their checksums beforehand
PUT or POST /upload        takes any body and answers its length and SHA-256
GET  /proc/net/NAME        the server's counters as Linux shows its own: snmp, netstat, sockstat
HEAD                       wherever GET works
=========================  =========================================================================================

A connection can be frozen and resumed (``Http.freeze``, ``Http.resume``): a transfer of /bytes/N goes on where it was,
any other GET or HEAD is answered anew, an upload is lost, since a hash cannot be written down.

Memory is bounded however large N or the upload is: pieces of a constant block go out as the transport takes them, and
an upload is hashed as it comes and kept nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from aiohttp import web

from vnic.services import content, tcpinfo
from vnic.services.base import Network, Server

PORT = 80
N_LIMIT = 1 << 50
"""A pebibyte: over ten days at 1 GB/s; beyond it a typing error is likelier than a wish."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PEER = ("0.0.0.0", 0)


class Http:
    """One site; ``start`` may be called on several networks."""

    def __init__(self) -> None:
        self._checksums = content.Checksums()
        self._runner: web.AppRunner | None = None
        self._servers: list[Server] = []
        self._requests: dict[Any, web.BaseRequest] = {}  # being answered, by transport
        self._sent: dict[Any, int] = {}  # bytes of /bytes/N that the transport has taken

    async def start(self, network: Network, host: str, port: int = PORT) -> None:
        """Listen on host:port; OSError if that is taken."""
        if self._runner is None:
            self._runner = web.AppRunner(self._application(), access_log=None, handle_signals=False)
            await self._runner.setup()
        factory = self._runner.server
        assert factory is not None
        self._servers.append(await network.create_server(factory, host, port))

    async def close(self) -> None:
        """Stop listening and end what is open."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._noted, _plain_errors])
        app.router.add_get("/", self._show)
        app.router.add_get("/bytes/{count}", self._bytes)
        app.router.add_put("/upload", self._upload)
        app.router.add_post("/upload", self._upload)
        app.router.add_get("/proc/net/{name}", self._proc_net)
        return app

    async def _show(self, request: web.Request) -> web.Response:
        facts = connection_facts(request)
        kind = _wanted(request.headers.get("Accept", ""))
        if kind == "application/json":
            return web.json_response({"schema": 1, **{name: dict(rows) for name, rows in facts.items()}})
        text = _as_html(facts) if kind == "text/html" else _as_text(facts)
        return web.Response(text=text, content_type=kind)

    async def _proc_net(self, request: web.Request) -> web.Response:
        transport, name = request.transport, request.match_info["name"]
        files = (transport and transport.get_extra_info("proc_net")) or {}
        if name not in files:
            there = ", ".join(sorted(files)) or "nothing: the host's own TCP carries this connection"
            raise web.HTTPNotFound(text=f"404: no file {name[:40]!r} in /proc/net; there is {there}\n")
        return web.Response(text=files[name])

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        length = _parse_count(request.match_info["count"])
        headers = {"X-CRC32": f"{content.crc32(length):08x}"}
        if length <= content.SHA256_LIMIT:
            headers["X-SHA256"] = await self._checksums.sha256(length)
        response = web.StreamResponse(headers=headers)
        response.content_type = "text/plain" if length < 1 << 20 else "application/octet-stream"
        response.content_length = length
        await response.prepare(request)
        if request.method != "HEAD":
            for piece in content.pieces(length):
                self._sent[request.transport] = self._sent.get(request.transport, 0) + len(piece)
                await response.write(piece)
                await asyncio.sleep(0)  # others have their turn even if this client reads as fast as we write
        await response.write_eof()
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        began = time.monotonic()
        length, digest = 0, hashlib.sha256()
        async for chunk in request.content.iter_any():
            length += len(chunk)
            digest.update(chunk)
        seconds = max(time.monotonic() - began, 1e-6)
        rate = length / seconds / 1e6
        text = f"length {length}\nsha256 {digest.hexdigest()}\nseconds {seconds:.3f} ({rate:.1f} MB/s)\n"
        headers = {"X-Length": str(length), "X-SHA256": digest.hexdigest()}
        return web.Response(text=text, status=201 if request.method == "PUT" else 200, headers=headers)

    # -- frozen connections ----------------------------------------------------------------------------------------

    @web.middleware
    async def _noted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Remember who is being answered."""
        transport = request.transport
        self._requests[transport] = request
        try:
            return await handler(request)
        finally:
            self._requests.pop(transport, None)
            self._sent.pop(transport, None)

    def freeze(self, transport: Any) -> dict[str, Any] | None:
        """What ``resume`` needs of a connection; None if it cannot be resumed."""
        protocol = transport.get_protocol()
        if isinstance(protocol, _Resumed):
            return protocol.freeze()
        request = self._requests.get(transport)
        if request is None:
            return {"state": "idle"}
        if request.method not in ("GET", "HEAD"):
            return None
        if transport not in self._sent:
            return {"state": "request", "raw": _raw(request).hex()}
        length = int(request.match_info["count"])  # type: ignore[attr-defined]
        sent = self._sent[transport]
        return {"state": "bytes", "length": length, "sent": sent, "keep_alive": request.keep_alive}

    def abandon(self) -> None:
        """Somebody else goes on with everything that is being answered."""
        for request in self._requests.values():
            request.task.cancel()

    def resume(self, state: dict[str, Any]) -> asyncio.Protocol:
        """The protocol that goes on from what ``freeze`` said; KeyError, TypeError or ValueError if it never did."""
        assert self._runner is not None, "started"
        factory = self._runner.server
        assert factory is not None
        if state["state"] == "bytes":
            length, sent = int(state["length"]), int(state["sent"])
            if not 0 <= sent <= length <= N_LIMIT:
                raise ValueError(f"{sent} of {length} bytes")
            return _Resumed(length, sent, factory() if state["keep_alive"] else None)
        handler: asyncio.Protocol = factory()
        return handler if state["state"] == "idle" else _Replayed(bytes.fromhex(state["raw"]), handler)


def _raw(request: web.BaseRequest) -> bytes:
    """The head of a request, as it may have been received."""
    lines = [f"{request.method} {request.raw_path} HTTP/1.{request.version.minor}".encode()]
    lines += [name + b": " + value for name, value in request.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class _Replayed(asyncio.Protocol):
    """A connection with a request that was received once already."""

    def __init__(self, raw: bytes, handler: asyncio.Protocol) -> None:
        self._raw, self._handler = raw, handler

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.set_protocol(self._handler)
        self._handler.connection_made(transport)
        self._handler.data_received(self._raw)


class _Resumed(asyncio.Protocol):
    """Sends the rest of a transfer and leaves the connection to ``handler``, or ends it."""

    def __init__(self, length: int, sent: int, handler: asyncio.Protocol | None) -> None:
        self._length, self._sent, self._handler = length, sent, handler
        self._writable = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def freeze(self) -> dict[str, Any]:
        keep_alive = self._handler is not None
        return {"state": "bytes", "length": self._length, "sent": self._sent, "keep_alive": keep_alive}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()  # the next request waits until this one is answered
        self._writable.set()
        self._task = asyncio.get_running_loop().create_task(self._send(transport))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _send(self, transport: asyncio.Transport) -> None:
        for piece in content.pieces(self._length, self._sent):
            await self._writable.wait()
            transport.write(piece)
            self._sent += len(piece)
            await asyncio.sleep(0)
        await self._writable.wait()
        if self._handler is None:
            transport.close()
            return
        transport.set_protocol(self._handler)
        self._handler.connection_made(transport)
        transport.resume_reading()


_CLIENT_LEFT: Final = 499  # nobody reads it


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """404, 405 and the like with a line that says what there is."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status == 404 and not request.path.startswith("/proc/net/"):
            there = "/, /bytes/N, /upload (PUT or POST) and /proc/net/NAME"
            error.text = f"404: {request.path} is not here; there are {there}\n"
        elif error.text is not None and not error.text.endswith("\n"):
            error.text += "\n"
        raise
    except ConnectionError:  # the client has left, which is no error of ours: aiohttp would log it as one
        return web.Response(status=_CLIENT_LEFT)


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise web.HTTPBadRequest(text=f"400: {text[:40]!r} is not a number of bytes; try /bytes/1000000\n")
    count = int(text[:20])
    if len(text) > 20 or count > N_LIMIT:
        raise web.HTTPBadRequest(text=f"400: more than {N_LIMIT} bytes are not served\n")
    return count


# -- the page --------------------------------------------------------------------------------------------------------

Rows = list[tuple[str, str]]
Facts = dict[str, Rows]


def _wanted(accept: str) -> str:
    """The best of our three kinds for an Accept header (RFC 9110, section 12.5.1); text wins a tie."""
    best, best_quality = "text/plain", 0.0
    for kind in ("text/plain", "text/html", "application/json"):
        quality = max((q for pattern, q in _accepted(accept) if pattern == kind), default=0.0)
        if quality > best_quality:
            best, best_quality = kind, quality
    return best


def _accepted(accept: str) -> Iterable[tuple[str, float]]:
    for item in accept.split(","):
        pattern, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.lower().startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        yield pattern.lower(), quality


def connection_facts(request: web.Request) -> Facts:
    """What the server knows about the connection that carries ``request``, in sections of (name, value)."""
    transport = request.transport
    if transport is None:
        return {}
    info = tcpinfo.tcp_info(transport)
    peer = transport.get_extra_info("peername") or _PEER
    local = transport.get_extra_info("sockname") or _PEER
    facts: Facts = {"connection": [("client", endpoint(peer)), ("server", endpoint(local))]}
    if info:
        facts["connection"] += _summary(info)
        facts["tcp_info"] = [(name, str(value)) for name, value in info.items()]
    facts["request"] = [(name, value[:200]) for name, value in request.headers.items()]
    return facts


def endpoint(name: tuple[str, int, *tuple[int, ...]]) -> str:
    """A socket's name as text, an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"


def _summary(info: dict[str, int]) -> Rows:
    snd, rcv = info.get("tcpi_snd_wscale", 0), info.get("tcpi_rcv_wscale", 0)
    return [
        ("state", tcpinfo.state_name(info)),
        ("options", " ".join(tcpinfo.option_names(info)) or "none"),
        ("window scale", f"{snd} (theirs), {rcv} (ours)"),
        ("MSS", f"{info.get('tcpi_snd_mss', 0)} sending, {info.get('tcpi_advmss', 0)} advertised"),
        ("path MTU", str(info.get("tcpi_pmtu", 0))),
        (
            "RTT",
            f"{info.get('tcpi_rtt', 0) / 1000:.3f} ms, variation {info.get('tcpi_rttvar', 0) / 1000:.3f} ms",
        ),
        ("RTO", f"{info.get('tcpi_rto', 0) / 1000:.0f} ms"),
        ("congestion window", f"{info.get('tcpi_snd_cwnd', 0)} segments"),
        ("retransmissions", str(info.get("tcpi_total_retrans", 0))),
    ]


def _as_text(facts: Facts) -> str:
    lines = ["vnic: your connection, as the server's TCP sees it", ""]
    for section, rows in facts.items():
        width = max((len(name) for name, _ in rows), default=0)
        lines += [section, *(f"  {name:<{width}}  {value}" for name, value in rows), ""]
    return "\n".join(lines)


_STYLE = "body{font:15px sans-serif;margin:2em}td{padding:.1em 1.5em .1em 0;font-family:monospace}"


def _as_html(facts: Facts) -> str:
    parts = [
        f"<!doctype html><meta charset=utf-8><title>vnic</title><style>{_STYLE}</style><h1>vnic</h1>",
        "<p>Your connection, as the server's TCP sees it.</p>",
    ]
    for section, rows in facts.items():
        cells = (f"<tr><td>{html.escape(name)}<td>{html.escape(value)}" for name, value in rows)
        parts.append(f"<h2>{html.escape(section)}</h2><table>{''.join(cells)}</table>")
    return "\n".join(parts) + "\n"
