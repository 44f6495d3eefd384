# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end that connects: when it tries, when it gives way, and that a frontend which comes back is served."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from portrigs import until
from vu_driver import MODERN, Recorder, SocketFrontend

from devmodel.errors import SocketPathTooLong
from devmodel.switch import Switch
from devmodel.vhost_user.client import RETRY_MAX_S, RETRY_S, VhostUserClient
from devmodel.vhost_user.devicestate import NoOwner
from devmodel.vhost_user.message import Request
from devmodel.vhost_user.server import VhostUserServer
from devmodel.vhost_user.session import offered_features
from devmodel.virtio.features import VIRTIO_F_ACCESS_PLATFORM
from guest.driver.loop import StepLoop

Script = Callable[[VhostUserClient, Recorder], Awaitable[None]]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "qemu.sock")


# -- when it tries, on a step clock ---------------------------------------------------------------------------


class ReadingLoop(StepLoop):
    """One that takes readers, and wakes none of them by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int, /) -> bool:
        return self.readers.pop(fd, None) is not None


class Frontends:
    """Who may be connected to: nobody, until `there` is set; `tries` are the times of the attempts."""

    def __init__(self) -> None:
        self.loop = ReadingLoop()
        self.tries: list[float] = []
        self.there = False
        self.ends: list[socket.socket] = []
        self.port = VhostUserClient("/qemu.sock", self.loop, dial=self.dial)

    def dial(self, path: str) -> socket.socket:
        assert path == "/qemu.sock"
        self.tries.append(round(self.loop.now, 6))
        if not self.there:
            raise ConnectionRefusedError(111, "refused")
        ours, theirs = socket.socketpair()
        self.ends.append(theirs)
        return ours

    def sleep(self, seconds: float) -> None:
        until = self.loop.now + seconds
        while (due := self.loop.next_deadline()) is not None and due <= until:
            self.loop.now = due
            self.loop.run_ready()
        self.loop.now = until

    def hang_up(self) -> None:
        self.ends.pop().close()
        for callback in list(self.loop.readers.values()):
            callback()

    def close(self) -> None:
        self.port.close()
        for end in self.ends:
            end.close()


def test_nobody_there_is_tried_at_growing_intervals_up_to_the_bound() -> None:
    them = Frontends()
    them.sleep(60)
    gaps = [round(b - a, 6) for a, b in zip(them.tries, them.tries[1:], strict=False)]
    assert gaps[:5] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S, 16 * RETRY_S]
    assert set(gaps[5:]) == {RETRY_MAX_S}
    assert them.port.stats()["connect_failures"] == len(them.tries)
    them.close()


def test_owner_that_comes_after_the_session_owns_its_state() -> None:
    class Owner(NoOwner):
        def save_state(self) -> bytes:
            return b"all of it"

    them = Frontends()
    them.there = True
    them.sleep(RETRY_S)
    assert them.port.connected
    them.port.owner = Owner()
    session = them.port._connection.session  # type: ignore[union-attr]
    assert session.state.begin_save().endswith(b"all of it")
    them.close()


def test_what_listens_offers_what_connects_offers_too(path: str, tmp_path: Path) -> None:
    async def main() -> None:
        listens = await VhostUserServer.listen(str(tmp_path / "ours.sock"))
        with socket.socket(socket.AF_UNIX) as qemu:
            qemu.bind(path)
            qemu.listen()
            connects = await VhostUserClient.connect(path)
            session = connects._connection.session  # type: ignore[union-attr]
            assert session.offered == offered_features(listens._features, 1, False, False, listens._iommu)
            assert session.offered >> VIRTIO_F_ACCESS_PLATFORM & 1
            connects.close()
        listens.close()

    asyncio.run(main())


def test_frontend_that_hangs_up_at_once_is_visited_ever_more_rarely() -> None:
    them = Frontends()
    them.there = True
    them.sleep(RETRY_S)
    waits = []
    for _ in range(7):
        assert them.port.connected
        left = them.loop.now
        them.hang_up()
        assert not them.port.connected
        them.sleep(RETRY_MAX_S)
        waits.append(round(them.tries[-1] - left, 6))
    assert waits == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert them.port.stats()["connects"] == 8
    them.close()


def test_ring_that_started_makes_the_next_interval_short_again() -> None:
    them = Frontends()
    them.sleep(60)
    them.there = True
    them.sleep(RETRY_MAX_S)
    assert them.port.connected
    them.port.ring_started(0)
    before = them.loop.now
    them.hang_up()
    them.sleep(RETRY_MAX_S)
    assert them.tries[-1] == round(before + RETRY_S, 6)
    them.close()


def test_closed_port_tries_no_more() -> None:
    them = Frontends()
    them.port.close()
    them.sleep(60)
    assert len(them.tries) == 1
    them = Frontends()
    them.there = True
    them.sleep(RETRY_S)
    them.close()
    them.sleep(60)
    assert len(them.tries) == 2
    assert not them.loop.readers


# -- over sockets ---------------------------------------------------------------------------------------------


def run(script: Script, path: str) -> None:
    async def main() -> None:
        port = await VhostUserClient.connect(path, retry_s=0.001)
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


async def guest_at(path: str) -> SocketFrontend:
    """A frontend that listens there, with a guest that runs."""
    guest = SocketFrontend(16)
    await guest.accept(path)
    await guest.negotiate()
    await guest.start(MODERN)
    return guest


def test_frontend_that_leaves_and_comes_again_is_served_again(path: str) -> None:
    async def script(port: VhostUserClient, behind: Recorder) -> None:
        for number in range(3):
            guest = await guest_at(path)
            await until(lambda: port.link_up)
            guest.tx.add_out(bytes(12) + bytes([number]) * 60)
            guest.kick_ring(1)
            await until(lambda number=number: len(behind.frames) == number + 1)  # type: ignore[misc]
            guest.close()
            await until(lambda: not port.link_up)
        assert port.stats()["connects"] == 3

    run(script, path)


def test_path_that_is_no_socket_is_tried_again(path: str) -> None:
    Path(path).write_text("no socket")

    async def script(port: VhostUserClient, behind: Recorder) -> None:
        await until(lambda: port.stats()["connect_failures"] > 2)
        os.unlink(path)
        guest = await guest_at(path)
        await until(lambda: port.link_up)
        guest.close()

    run(script, path)


def test_path_too_long_is_said_at_once() -> None:
    with pytest.raises(SocketPathTooLong):
        asyncio.run(VhostUserClient.connect("/" + "x" * 200))


def test_both_modes_offer_the_same(path: str, tmp_path: Path) -> None:
    async def main() -> None:
        listening = str(tmp_path / "vnic.sock")
        client = await VhostUserClient.connect(path, retry_s=0.001)
        server = await VhostUserServer.listen(listening)
        one, two = SocketFrontend(16), SocketFrontend(16)
        await one.accept(path)
        await two.connect(listening)
        offered = []
        for frontend in (one, two):
            for request in (Request.VHOST_USER_GET_FEATURES, Request.VHOST_USER_GET_PROTOCOL_FEATURES):
                frontend.send(request)
                offered.append(await frontend.reply())
            frontend.close()
        assert offered[:2] == offered[2:]
        assert int.from_bytes(offered[0], "little") >> VIRTIO_F_ACCESS_PLATFORM & 1
        client.close()
        server.close()

    asyncio.run(main())


def test_both_modes_are_ports_of_one_switch(path: str, tmp_path: Path) -> None:
    async def main() -> None:
        listening = str(tmp_path / "vnic.sock")
        client = await VhostUserClient.connect(path, retry_s=0.001)
        server = await VhostUserServer.listen(listening)
        switch = Switch(asyncio.get_running_loop().time)
        switch.join(client)
        switch.join(server)
        one = await guest_at(path)
        two = SocketFrontend(16)
        await two.connect(listening)
        await two.negotiate()
        await two.start(MODERN)
        await until(lambda: client.link_up and server.link_up)
        two.rx.add_in(2048)
        frame = b"\xff" * 6 + b"\x52\x54\0\0\0\1" + bytes(50)
        one.tx.add_out(bytes(12) + frame)
        one.kick_ring(1)
        await until(lambda: server.stats()["tx_frames"])
        assert two.rx.used()[0][1] == 12 + len(frame)
        switch.close()
        one.close()
        two.close()

    asyncio.run(main())
