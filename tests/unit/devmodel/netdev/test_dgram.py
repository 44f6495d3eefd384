# SPDX-License-Identifier: GPL-2.0-or-later
"""Datagram netdevs, beyond the contract: peers that come, go, change, do not read; strangers; ourselves."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from portrigs import until
from vu_driver import Recorder

from devmodel.errors import AddressInUse, AddressUnknown, SocketPathInUse, SocketPathTooLong
from devmodel.netdev import base
from devmodel.netdev.dgram import Address, DgramPort

FRAME = bytes(range(60))


def run(
    script: Callable[[DgramPort, Recorder], Awaitable[None]], local: Address, remote: Address | None = None
) -> None:
    async def main() -> None:
        port = await DgramPort.open(local, remote)
        behind = Recorder()
        port.attach(behind)
        try:
            await script(port, behind)
        finally:
            port.close()

    asyncio.run(main())


def bound(address: Address) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(address)
    peer.setblocking(False)
    return peer


@pytest.fixture
def here(tmp_path: Path) -> str:
    return str(tmp_path / "here.sock")


@pytest.fixture
def there(tmp_path: Path) -> str:
    return str(tmp_path / "there.sock")


def test_frame_for_nobody_is_counted_and_the_next_finds_who_came(here: str, there: str) -> None:
    async def script(port: DgramPort, behind: Recorder) -> None:
        assert port.send(None, [FRAME])
        port.flush()
        assert (port.stats()["tx_drop_no_peer"], port.stats()["tx_dropped"]) == (1, 1)
        assert not port.connected
        with bound(there) as peer:
            port.send(None, [FRAME])
            port.flush()
            assert peer.recv(100) == FRAME
            peer.sendto(FRAME, here)
            await until(lambda: behind.frames)
            assert port.connected

    run(script, here, there)


def test_peer_that_is_restarted_is_found_by_the_next_frame_and_heard(here: str, there: str) -> None:
    async def script(port: DgramPort, behind: Recorder) -> None:
        for number in range(1, 4):
            with bound(there) as peer:
                port.send(None, [FRAME])
                port.flush()
                assert peer.recv(100) == FRAME
                peer.sendto(FRAME, here)
                await until(lambda number=number: len(behind.frames) == number)  # type: ignore[misc]
            os.unlink(there)
        assert port.stats()["tx_dropped"] == 0

    run(script, here, there)


def test_peer_is_whoever_sent_last_if_none_was_named(here: str, there: str, tmp_path: Path) -> None:
    async def script(port: DgramPort, behind: Recorder) -> None:
        port.send(None, [FRAME])
        port.flush()
        assert port.stats()["tx_drop_no_peer"] == 1
        for path in (there, str(tmp_path / "other.sock")):
            with bound(path) as peer:
                peer.sendto(FRAME, here)
                await until(lambda: behind.frames)
                behind.frames.clear()
                port.send(None, [FRAME])
                port.flush()
                assert peer.recv(100) == FRAME
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
            nameless.sendto(FRAME, here)
            await until(lambda: behind.frames)

    run(script, here)


def test_udp_peer_is_whoever_sent_last_if_none_was_named() -> None:
    async def script(port: DgramPort, behind: Recorder) -> None:
        port.send(None, [FRAME])
        port.flush()
        assert port.stats()["tx_drop_no_peer"] == 1
        with bound(("127.0.0.1", 0)) as peer:
            peer.sendto(FRAME, port.address)
            await until(lambda: behind.frames)
            port.send(None, [FRAME])
            port.flush()
            assert peer.recv(100) == FRAME

    run(script, ("127.0.0.1", 0))


def test_udp_stranger_is_not_heard() -> None:
    with bound(("127.0.0.1", 0)) as peer, bound(("127.0.0.1", 0)) as stranger:

        async def script(port: DgramPort, behind: Recorder) -> None:
            stranger.sendto(b"stranger" * 4, port.address)
            peer.sendto(FRAME, port.address)
            await until(lambda: behind.frames)
            assert behind.frames == [(None, FRAME)]

        run(script, ("127.0.0.1", 0), peer.getsockname())


def test_udp_peer_that_is_gone_costs_frames_and_not_the_port() -> None:
    with bound(("127.0.0.1", 0)) as gone:
        where = gone.getsockname()

    async def script(port: DgramPort, behind: Recorder) -> None:
        for _ in range(4):
            port.send(None, [FRAME])
            port.flush()
            await asyncio.sleep(0)
        with bound(where) as peer:
            port.send(None, [FRAME])
            port.flush()
            assert peer.recv(100) == FRAME
            peer.sendto(FRAME, port.address)
            await until(lambda: behind.frames)

    run(script, ("127.0.0.1", 0), where)


def test_peer_that_does_not_read_costs_a_bounded_queue_and_gets_all_of_it_later(
    here: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unix socket takes ten datagrams, more or less, until they are read."""
    monkeypatch.setattr(base, "BACKLOG_BYTES", 100 * 1000)

    async def script(port: DgramPort, behind: Recorder) -> None:
        with bound(there) as peer:
            sent = 0
            while port.send(None, [sent.to_bytes(2, "big").ljust(1000, b"x")]):
                port.flush()
                sent += 1
            assert sent >= 100
            stats = port.stats()
            assert stats["tx_drop_backlog"] == stats["tx_dropped"] == 1
            assert stats["tx_queued"] <= 100 * 1000
            loop = asyncio.get_running_loop()
            came = [await asyncio.wait_for(loop.sock_recv(peer, 2000), 2) for _ in range(sent)]
            assert [int.from_bytes(frame[:2], "big") for frame in came] == list(range(sent))
            assert port.stats()["tx_queued"] == 0
            assert port.stats()["tx_frames"] == sent

    run(script, here, there)


def test_waiting_frames_of_a_peer_that_is_gone_are_dropped_and_counted(here: str, there: str) -> None:
    async def script(port: DgramPort, behind: Recorder) -> None:
        peer = bound(there)
        for _ in range(400):
            port.send(None, [FRAME])
        port.flush()
        assert port.stats()["tx_queued"] > 0
        peer.close()
        os.unlink(there)
        await until(lambda: port.stats()["tx_queued"] == 0)
        stats = port.stats()
        assert stats["tx_frames"] + stats["tx_drop_no_peer"] == 400

    run(script, here, there)


def test_odd_sizes_are_counted_and_dropped(here: str, there: str) -> None:
    async def script(port: DgramPort, behind: Recorder) -> None:
        with bound(there) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            for data in (b"", b"x" * 13, b"y" * 69633, FRAME):
                peer.sendto(data, here)
            await until(lambda: behind.frames)
        stats = port.stats()
        assert behind.frames == [(None, FRAME)]
        assert [stats[f"rx_drop_{why}"] for why in ("empty", "short", "long")] == [1, 1, 1]

    run(script, here, there)


def test_own_frames_of_a_multicast_group_are_not_heard_and_others_are() -> None:
    group = ("239.255.77.3", bound_port())

    async def main() -> None:
        ports = [await DgramPort.open(("127.0.0.1", 0), group) for _ in range(3)]
        recorders = [Recorder() for _ in ports]
        for port, recorder in zip(ports, recorders, strict=True):
            port.attach(recorder)
        ports[0].send(None, [FRAME])
        ports[0].flush()
        await until(lambda: recorders[1].frames and recorders[2].frames)
        await until(lambda: ports[0].stats()["rx_drop_own"] == 1)
        assert recorders[0].frames == []
        assert recorders[1].frames == [(None, FRAME)]
        for port in ports:
            port.close()

    asyncio.run(main())


def bound_port() -> int:
    with bound(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_closed_port_leaves_no_socket_behind(here: str, there: str) -> None:
    async def script(port: DgramPort, behind: Recorder) -> None:
        assert os.path.exists(here)

    before = len(os.listdir("/proc/self/fd"))
    run(script, here, there)
    assert not os.path.exists(here)
    assert len(os.listdir("/proc/self/fd")) == before


def test_path_of_a_living_socket_is_refused_and_a_stale_one_taken(here: str, there: str) -> None:
    async def script(port: DgramPort, behind: Recorder) -> None:
        with pytest.raises(SocketPathInUse):
            await DgramPort.open(here, there)

    bound(here).close()
    run(script, here, there)


@pytest.mark.parametrize(
    ("local", "remote", "error"),
    [
        ("/" + "x" * 108, None, SocketPathTooLong),
        ("here", "/" + "x" * 108, SocketPathTooLong),
        (("192.0.2.1", 0), None, AddressInUse),
        (("127.0.0.1", 0), ("no.such.name.invalid", 5), AddressUnknown),
        (("192.0.2.1", 0), ("239.255.77.4", 5), AddressInUse),
    ],
)
def test_address_that_cannot_be_is_refused_in_three_parts(
    local: Address, remote: Address | None, error: type[Exception], tmp_path: Path
) -> None:
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        where = str(tmp_path / "here") if local == "here" else local
        with pytest.raises(error) as refused:
            await DgramPort.open(where, remote)
        assert all(refused.value.args)

    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before
