# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream whose peer listens, beyond the contract: attempts that fail, take long, or meet themselves."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from portrigs import until
from vu_driver import Recorder

from devmodel.errors import AddressUnknown, SocketPathTooLong
from devmodel.netdev import stream_client
from devmodel.netdev.stream_client import StreamClient

FRAME = bytes(range(60))
PACKED = len(FRAME).to_bytes(4, "big") + FRAME

Address = str | tuple[str, int]


def run(script: Callable[[StreamClient, Recorder], Awaitable[None]], address: Address) -> None:
    async def main() -> None:
        port = await StreamClient.connect(address, retry_s=0.001)
        behind = Recorder()
        port.attach(behind)
        try:
            await script(port, behind)
        finally:
            port.close()
            port.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before


def listening(address: Address) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(1)
    listener.setblocking(False)
    return listener


async def accepted(listener: socket.socket) -> socket.socket:
    sock, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 2)
    return sock


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "qemu.sock")


def test_nobody_there_is_tried_again_until_somebody_is(path: str) -> None:
    async def script(port: StreamClient, behind: Recorder) -> None:
        await until(lambda: port.stats()["connect_failures"] > 2)
        assert not port.link_up
        assert not port.send(None, [FRAME])
        with listening(path) as listener, await accepted(listener) as peer:
            await until(lambda: port.link_up)
            port.send(None, [FRAME])
            port.flush()
            assert peer.recv(100) == PACKED
            peer.send(PACKED)
            await until(lambda: behind.frames)

    run(script, path)


@pytest.mark.parametrize("kind", ["unix", "inet"])
def test_peer_that_leaves_is_connected_to_again(path: str, kind: str) -> None:
    listener = listening(path if kind == "unix" else ("127.0.0.1", 0))

    async def script(port: StreamClient, behind: Recorder) -> None:
        for number in range(1, 4):
            with await accepted(listener) as peer:
                peer.send(PACKED)
                await until(lambda number=number: len(behind.frames) == number)  # type: ignore[misc]
        assert [up for up, _ in behind.links][:5] == [True, False, True, False, True]
        assert port.stats()["connects"] >= 3

    with listener:
        run(script, path if kind == "unix" else listener.getsockname())


def test_connection_to_itself_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel makes one where nobody listens at a port that it gives out: rare, so made on purpose here."""

    class SelfConnected(socket.socket):
        def connect_ex(self, address: Address) -> int:
            self.bind(("127.0.0.1", 0))
            return super().connect_ex(self.getsockname())

    monkeypatch.setattr(stream_client.socket, "socket", SelfConnected)

    async def script(port: StreamClient, behind: Recorder) -> None:
        await until(lambda: port.stats()["connect_failures"] > 1)
        assert behind.links == []

    run(script, ("127.0.0.1", 9))


def test_attempt_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TCP listener whose queue is full answers no SYN."""
    monkeypatch.setattr(stream_client, "CONNECT_S", 0.01)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queued = [socket.socket() for _ in range(3)]
        for one in queued:
            one.setblocking(False)
            assert one.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)

        async def script(port: StreamClient, behind: Recorder) -> None:
            await until(lambda: port.stats()["connect_failures"] > 1)
            assert not port.link_up

        run(script, listener.getsockname())
        for one in queued:
            one.close()


def test_port_that_is_closed_during_an_attempt_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queued = [socket.socket() for _ in range(3)]
        for one in queued:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())

        async def script(port: StreamClient, behind: Recorder) -> None:
            assert port._pending is not None

        run(script, listener.getsockname())
        for one in queued:
            one.close()


@pytest.mark.parametrize(
    ("address", "error"),
    [("/" + "x" * 108, SocketPathTooLong), (("no.such.name.invalid", 5), AddressUnknown)],
)
def test_address_that_nobody_can_listen_at_is_refused(address: Address, error: type[Exception]) -> None:
    async def main() -> None:
        with pytest.raises(error):
            await StreamClient.connect(address)

    asyncio.run(main())
