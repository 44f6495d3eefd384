# SPDX-License-Identifier: GPL-2.0-or-later
"""`-netdev stream`: framing in odd pieces, a peer that does not read, a second peer."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from vu_driver import Recorder

from devmodel.netdev import base
from devmodel.netdev.stream import FrameReader, FramingError, StreamServer
from devmodel.port import Offloads, VnetHdr

FRAME = bytes(range(60))


def packed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


def run(
    script: Callable[[StreamServer, Recorder, Callable[[], Awaitable[socket.socket]]], Awaitable[None]],
    address: str | tuple[str, int],
    **options: bool,
) -> None:
    async def main() -> None:
        port = await StreamServer.listen(address, **options)  # type: ignore[arg-type]
        behind = Recorder()
        port.attach(behind)
        peers: list[socket.socket] = []

        async def connect() -> socket.socket:
            where = port.address
            peer = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
            peer.setblocking(False)
            peers.append(peer)
            await asyncio.get_running_loop().sock_connect(peer, where)
            await asyncio.sleep(0.001)
            return peer

        try:
            await script(port, behind, connect)
        finally:
            port.close()
            port.close()
            for peer in peers:
                peer.close()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.0005)
    raise AssertionError("it never came to be")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "stream.sock")


def test_reader_cuts_frames_out_of_single_bytes() -> None:
    reader = FrameReader()
    found: list[bytes] = []
    for byte in packed(b"one", b"", b"three"):
        found += reader.feed(bytes([byte]))
    assert found == [b"one", b"", b"three"]


def test_reader_takes_many_frames_at_once_and_keeps_the_rest() -> None:
    reader = FrameReader()
    data = packed(FRAME, FRAME, b"last")
    assert reader.feed(data[:-1]) == [FRAME, FRAME]
    assert reader.feed(data[-1:]) == [b"last"]


def test_reader_refuses_what_qemu_would_not_send() -> None:
    assert FrameReader().feed((69632).to_bytes(4, "big")) == []
    with pytest.raises(FramingError):
        FrameReader().feed((69633).to_bytes(4, "big"))


@pytest.mark.parametrize("kind", ["unix", "inet"])
def test_connected_peer_exchanges_frames(path: str, kind: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        peer = await connect()
        await until(lambda: port.link_up)
        peer.sendall(packed(FRAME, b"x" * 14))
        await until(lambda: len(behind.frames) == 2)
        assert behind.frames == [(None, FRAME), (None, b"x" * 14)]
        assert behind.batches == 1
        assert port.send(None, [FRAME[:14], FRAME[14:]])
        assert port.send(None, [b"y" * 20])
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        port.flush()
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 4096), 1)
        assert data == packed(FRAME, b"y" * 20)

    run(script, path if kind == "unix" else ("127.0.0.1", 0))


def test_header_is_finished_in_software(path: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        peer = await connect()
        await until(lambda: port.link_up)
        assert port.offloads.tso4
        frame = bytearray(bytes(12) + b"\x08\x00" + bytes(40))
        assert port.send(VnetHdr(1, 0, 0, 0, 34, 16), [frame])
        assert not port.send(VnetHdr(1, 1, 54, 1448, 34, 16), [frame])
        port.flush()
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 4096), 1)
        assert data[4 + 50 : 4 + 52] == b"\xff\xff"
        assert port.stats()["tx_drop_malformed"] == 1

    run(script, path)


def test_offloads_can_be_kept_back(path: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        await connect()
        await until(lambda: port.link_up)
        assert behind.links == [(True, Offloads(max_frame=1514))]

    run(script, path, software_gso=False)


def test_empty_and_short_frames_are_counted(path: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        peer = await connect()
        peer.sendall(packed(b"", b"x" * 13, FRAME))
        await until(lambda: behind.frames)
        stats = port.stats()
        assert (stats["rx_drop_empty"], stats["rx_drop_short"], stats["rx_frames"]) == (1, 1, 1)

    run(script, path)


def test_too_large_a_length_ends_the_connection_after_what_came_before(path: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        peer = await connect()
        await until(lambda: port.link_up)
        peer.sendall(packed(FRAME))
        await until(lambda: behind.frames)
        peer.sendall(b"\x00\x02\x00\x00")
        await until(lambda: not port.link_up)
        assert port.stats()["framing_errors"] == 1
        again = await connect()
        again.sendall(packed(FRAME))
        await until(lambda: len(behind.frames) == 2)

    run(script, path)


def test_peer_that_does_not_read_costs_a_bounded_queue(path: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        peer = await connect()
        await until(lambda: port.link_up)
        frame = bytes(60000)
        sent = 0
        while port.send(None, [frame]):
            port.flush()
            sent += 1
        stats = port.stats()
        assert stats["tx_drop_backlog"] == stats["tx_dropped"] == 1
        assert stats["tx_queued"] <= base.BACKLOG_BYTES + 100
        got = 0
        while got < sent * 60004:
            got += len(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 1 << 20), 1))
        assert port.stats()["tx_queued"] == 0

    run(script, path)


def test_second_peer_is_refused(path: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        first = await connect()
        second = await connect()
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(second, 1), 1) == b""
        first.sendall(packed(FRAME))
        await until(lambda: behind.frames)
        assert port.stats()["clients_refused"] == 1

    run(script, path)


def test_peer_that_leaves_takes_the_link_down_and_may_return(path: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        peer = await connect()
        await until(lambda: port.link_up)
        peer.close()
        await until(lambda: not port.link_up)
        assert not port.send(None, [FRAME])
        await connect()
        await until(lambda: port.link_up)
        assert [up for up, _ in behind.links] == [True, False, True]

    run(script, path)


def test_closed_port_leaves_no_socket_behind(path: str) -> None:
    async def script(
        port: StreamServer, behind: Recorder, connect: Callable[[], Awaitable[socket.socket]]
    ) -> None:
        assert os.path.exists(path)

    run(script, path)
    assert not os.path.exists(path)
