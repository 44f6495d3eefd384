# SPDX-License-Identifier: GPL-2.0-or-later
"""The iperf3 server: its protocol by hand over loopback, and the real client where there is one."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vnic.services import iperf3
from vnic.services.iperf3 import Iperf3Server, ProtocolError, parse_parameters

COOKIE = b"a" * 36 + b"\0"
REAL = shutil.which("iperf3")


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, cookie: bytes = COOKIE) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.writer.write(cookie)
        return client

    async def state(self) -> int:
        return (await self.reader.readexactly(1))[0]

    def send_json(self, told: object) -> None:
        raw = json.dumps(told).encode()
        self.writer.write(struct.pack(">I", len(raw)) + raw)

    async def read_json(self) -> Any:
        (length,) = struct.unpack(">I", await self.reader.readexactly(4))
        return json.loads(await self.reader.readexactly(length))


def with_server(test: Callable[[Iperf3Server, int], Awaitable[None]]) -> None:
    async def run() -> None:
        service = Iperf3Server()
        server = await asyncio.get_running_loop().create_server(service, "127.0.0.1", 0)
        async with server:
            await test(service, server.sockets[0].getsockname()[1])
            if service.test is not None:
                service.test.close()

    asyncio.run(run())


async def start_test(port: int, **parameters: object) -> tuple[Client, list[Client]]:
    """Up to TEST_RUNNING, with as many streams as asked for."""
    control = await Client.connect(port)
    assert await control.state() == iperf3.PARAM_EXCHANGE
    control.send_json({"tcp": True, "parallel": 1, **parameters})
    assert await control.state() == iperf3.CREATE_STREAMS
    streams = [await Client.connect(port) for _ in range(int(str(parameters.get("parallel", 1))))]
    assert await control.state() == iperf3.TEST_START
    assert await control.state() == iperf3.TEST_RUNNING
    return control, streams


async def finish(control: Client) -> Any:
    control.writer.write(bytes([iperf3.TEST_END]))
    assert await control.state() == iperf3.EXCHANGE_RESULTS
    control.send_json({"streams": []})
    told = await control.read_json()
    assert await control.state() == iperf3.DISPLAY_RESULTS
    control.writer.write(bytes([iperf3.IPERF_DONE]))
    assert await control.reader.read() == b""
    return told


def test_forward_two_streams_are_counted_by_number() -> None:
    async def check(service: Iperf3Server, port: int) -> None:
        control, streams = await start_test(port, parallel=2, time=10)
        for stream, size in zip(streams, (1000, 70000), strict=True):
            stream.writer.write(bytes(size))
            stream.writer.write_eof()
        while service.test is not None and sum(stream.bytes for stream in service.test.streams) < 71000:
            await asyncio.sleep(0)
        told = await finish(control)
        assert [(one["id"], one["bytes"]) for one in told["streams"]] == [(1, 1000), (3, 70000)]
        assert told["sender_has_retransmits"] == -1
        assert service.test is None

    with_server(check)


def test_reverse_with_limit_sends_that_many_bytes() -> None:
    async def check(_: Iperf3Server, port: int) -> None:
        control, (stream,) = await start_test(port, reverse=True, num=100_001, len=8192)
        assert len(await stream.reader.readexactly(100_001)) == 100_001
        told = await finish(control)
        assert told["streams"][0]["bytes"] == 100_001
        assert told["sender_has_retransmits"] == 1
        assert await stream.reader.read() == b""

    with_server(check)


def test_reverse_end_closes_the_streams_for_a_client_in_the_middle_of_a_block() -> None:
    async def check(service: Iperf3Server, port: int) -> None:
        control, streams = await start_test(port, time=1, reverse=True)
        await streams[0].reader.readexactly(1000)
        control.writer.write(bytes([iperf3.TEST_END]))
        rest = await asyncio.wait_for(streams[0].reader.read(), 5)
        assert (1000 + len(rest)) % iperf3.DEFAULT_BLOCK == 0
        assert await control.state() == iperf3.EXCHANGE_RESULTS
        control.send_json({"streams": []})
        told = await control.read_json()
        assert told["streams"][0]["bytes"] == 1000 + len(rest)
        assert told["sender_has_retransmits"] == 1

    with_server(check)


def test_running_second_client_is_denied() -> None:
    async def check(service: Iperf3Server, port: int) -> None:
        first = await start_test(port)
        second = await Client.connect(port, b"b" * 36 + b"\0")
        assert await second.state() == iperf3.ACCESS_DENIED
        assert service.counters["refused_busy"] == 1
        assert service.test is not None
        await finish(first[0])

    with_server(check)


def test_running_client_leaves_and_the_next_is_served() -> None:
    async def check(service: Iperf3Server, port: int) -> None:
        control, _ = await start_test(port, reverse=True)
        control.writer.close()
        while service.test is not None:
            await asyncio.sleep(0)
        await start_test(port)

    with_server(check)


def test_cookie_in_pieces_with_parameters_behind_it() -> None:
    async def check(_: Iperf3Server, port: int) -> None:
        control = await Client.connect(port, COOKIE[:10])
        await asyncio.sleep(0)
        control.writer.write(COOKIE[10:])
        control.send_json({"tcp": True})
        assert await control.state() == iperf3.PARAM_EXCHANGE
        assert await control.state() == iperf3.CREATE_STREAMS

    with_server(check)


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        (b"{}x", iperf3.IERECVPARAMS),
        (b"[1]", iperf3.IERECVPARAMS),
        (b'{"udp": true}', iperf3.IEUNIMP),
        (b'{"parallel": 0}', iperf3.IENUMSTREAMS),
        (b'{"parallel": 100000}', iperf3.IENUMSTREAMS),
        (b'{"parallel": "many"}', iperf3.IERECVPARAMS),
        (b'{"len": 10000000000}', iperf3.IEBLOCKSIZE),
        (b'{"num": -5}', iperf3.IERECVPARAMS),
        (b'{"time": NaN}', iperf3.IERECVPARAMS),
        (b"[" * 100_000, iperf3.IERECVPARAMS),
    ],
)
def test_bad_parameters_are_refused_with_a_number(raw: bytes, number: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_parameters(raw)
    assert caught.value.number == number


def test_running_longer_than_a_day_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iperf3, "MAX_TEST_S", 0.05)

    async def check(service: Iperf3Server, port: int) -> None:
        control, streams = await start_test(port, time=10**18)
        assert await asyncio.wait_for(streams[0].reader.read(), 5) == b""
        assert await control.reader.read() == b""
        assert service.test is None

    with_server(check)


def test_bad_parameters_end_the_test_with_server_error() -> None:
    async def check(service: Iperf3Server, port: int) -> None:
        control = await Client.connect(port)
        await control.state()
        control.send_json({"udp": True})
        assert await control.reader.read() == bytes([iperf3.SERVER_ERROR]) + struct.pack(
            ">ii", iperf3.IEUNIMP, 0
        )
        assert service.test is None

    with_server(check)


def test_huge_json_is_refused_before_it_is_read() -> None:
    async def check(service: Iperf3Server, port: int) -> None:
        control = await Client.connect(port)
        await control.state()
        control.writer.write(b"\xff\xff\xff\xff")
        assert (await control.reader.read())[:1] == bytes([iperf3.SERVER_ERROR])
        assert service.test is None

    with_server(check)


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="iperf3 is not installed: apt install iperf3")
@pytest.mark.parametrize(
    "options",
    [
        ["-t", "1"],
        ["-t", "1", "-R"],
        ["-n", "20M"],
        ["-n", "20M", "-R"],
        ["-t", "1", "-P", "3", "-R"],
        ["-t", "1", "--bidir"],
    ],
    ids=" ".join,
)
def test_real_client(options: list[str]) -> None:
    async def check(_: Iperf3Server, port: int) -> None:
        argv = [str(REAL), "-c", "127.0.0.1", "-p", str(port), "-J", *options]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        out, _err = await process.communicate()
        told = json.loads(out)
        assert process.returncode == 0, told.get("error")
        sent, received = told["end"]["sum_sent"]["bytes"], told["end"]["sum_received"]["bytes"]
        assert received > 10_000_000
        assert received <= sent

    with_server(check)
