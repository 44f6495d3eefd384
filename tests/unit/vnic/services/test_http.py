# SPDX-License-Identifier: GPL-2.0-or-later
"""The site over loopback sockets of the host, as a raw client sees it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from vnic.services import content
from vnic.services.base import LoopNetwork
from vnic.services.http import Http, endpoint

Response = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Awaitable[Response]]


def with_site(test: Callable[[Ask], Awaitable[None]]) -> None:
    """Run ``test`` with a function that sends one request and reads its response up to the end of file."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        site = Http()
        await site.start(LoopNetwork(), "127.0.0.1", port)
        try:
            await test(lambda *lines, body=b"": ask(port, lines, body))
        finally:
            await site.close()

    asyncio.run(run())


async def ask(port: int, lines: tuple[str, ...], body: bytes) -> Response:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = [f"{lines[0]} HTTP/1.1", "Host: 10.0.2.2", "Connection: close", *lines[1:], "", ""]
    writer.write("\r\n".join(request).encode() + body)
    raw = await reader.read()
    writer.close()
    head, _, rest = raw.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    return int(status.split()[1]), headers, rest


def test_root_get_shows_the_connection_as_text() -> None:
    async def check(ask: Ask) -> None:
        status, headers, body = await ask("GET /", "Accept: */*")
        text = body.decode()
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        for word in (
            "client",
            "127.0.0.1:",
            "window scale",
            "MSS",
            "RTT",
            "ESTABLISHED",
            "tcpi_snd_cwnd",
            "timestamps",
        ):
            assert word in text

    with_site(check)


def test_root_get_of_a_browser_is_html() -> None:
    async def check(ask: Ask) -> None:
        accept = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
        _, headers, body = await ask("GET /", accept, "X-Odd: <script>")
        assert headers["content-type"].startswith("text/html")
        assert b"<h1>vnic</h1>" in body
        assert b"<script>" not in body
        assert b"&lt;script&gt;" in body

    with_site(check)


def test_root_get_of_a_program_is_json() -> None:
    async def check(ask: Ask) -> None:
        _, _, body = await ask("GET /", "Accept: application/json")
        told = json.loads(body)
        assert told["schema"] == 1
        assert int(told["tcp_info"]["tcpi_snd_mss"]) > 0

    with_site(check)


@pytest.mark.parametrize("size", [0, 1, 1 << 16, content.BLOCK_LENGTH + 17])
def test_bytes_get_has_length_and_checksum_of_what_comes(size: int) -> None:
    async def check(ask: Ask) -> None:
        status, headers, body = await ask(f"GET /bytes/{size}")
        assert status == 200
        assert int(headers["content-length"]) == len(body) == size
        assert headers["x-sha256"] == hashlib.sha256(body).hexdigest()

    with_site(check)


def test_bytes_head_has_the_headers_and_no_body() -> None:
    async def check(ask: Ask) -> None:
        _, headers, body = await ask("HEAD /bytes/5000")
        assert headers["content-length"] == "5000"
        assert "x-sha256" in headers
        assert body == b""

    with_site(check)


def test_bytes_head_beyond_the_hashing_limit_has_crc_only() -> None:
    async def check(ask: Ask) -> None:
        status, headers, _ = await ask(f"HEAD /bytes/{content.SHA256_LIMIT + 1}")
        assert status == 200
        assert "x-crc32" in headers
        assert "x-sha256" not in headers

    with_site(check)


@pytest.mark.parametrize("begin", ["GET /bytes/1000000000000 HTTP/1.1", "PUT /upload HTTP/1.1"])
def test_client_that_resets_its_connection_is_no_error_of_ours(
    begin: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As curl does when it is stopped."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        site = Http()
        await site.start(LoopNetwork(), "127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = f"{begin}\r\nHost: 10.0.2.2\r\nContent-Length: {100000 if 'PUT' in begin else 0}\r\n\r\n"
            client.sendall(head.encode() + (bytes(1000) if "PUT" in begin else b""))
            await asyncio.sleep(0.03)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await asyncio.sleep(0.03)
        await site.close()

    asyncio.run(run())
    assert caplog.text == ""


@pytest.mark.parametrize("count", ["x", "-1", "1.5", "1e9", "9" * 30, "%20"])
def test_bytes_get_of_no_number_is_400(count: str) -> None:
    async def check(ask: Ask) -> None:
        status, _, body = await ask(f"GET /bytes/{count}")
        assert status == 400
        assert body.endswith(b"\n")

    with_site(check)


@pytest.mark.parametrize(("method", "expected"), [("PUT", 201), ("POST", 200)])
def test_upload_answers_length_and_sha256(method: str, expected: int) -> None:
    body = bytes(range(256)) * 1000

    async def check(ask: Ask) -> None:
        status, headers, text = await ask(f"{method} /upload", f"Content-Length: {len(body)}", body=body)
        assert status == expected
        assert headers["x-length"] == str(len(body))
        assert hashlib.sha256(body).hexdigest() in text.decode()

    with_site(check)


def test_upload_expecting_100_is_told_to_go_on() -> None:
    async def check(ask: Ask) -> None:
        status, _, rest = await ask("PUT /upload", "Content-Length: 3", "Expect: 100-continue", body=b"abc")
        assert status == 100
        assert b" 201 " in rest.split(b"\r\n")[0]

    with_site(check)


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [("GET /nothing", 404), ("GET /proc/net/snmp", 404), ("DELETE /", 405), ("GET /upload", 405)],
)
def test_unknown_request_is_refused_in_a_line(request_line: str, expected: int) -> None:
    async def check(ask: Ask) -> None:
        status, _, body = await ask(request_line)
        assert status == expected
        assert body.count(b"\n") == 1

    with_site(check)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (("10.0.2.2", 80), "10.0.2.2:80"),
        (("fd00::2", 80, 0, 0), "[fd00::2]:80"),
        (("fe80::1%eth0", 7, 0, 2), "[fe80::1%eth0]:7"),
    ],
)
def test_endpoint_of_ipv6_stands_in_brackets(name: tuple[str, int, *tuple[int, ...]], text: str) -> None:
    assert endpoint(name) == text
