# SPDX-License-Identifier: GPL-2.0-or-later
"""The back-end channel over real sockets: a frontend without descriptors for its rings, and what it does to the
channel."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from mirror import Mirror

from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.message import Request
from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio.config import NetConfig
from devmodel.virtio.features import mask
from guest.driver.backend import Backend
from guest.driver.channel import FrontendChannel
from guest.driver.frontend import CHANNEL_FEATURES, Frontend, Steps
from guest.driver.memory import DriverMemory, split_layout
from guest.driver.virtio_net import DRIVER_FEATURES, TX, VirtioNetDriver

MAC = bytes.fromhex("525400abcdef")


class Rig:
    """A server, and a frontend whose calls block in a thread while the server's loop turns."""

    def __init__(self, path: str, port: VhostUserServer) -> None:
        self.port = port
        self.backend = Backend(path, 5.0)
        self.frontend = Frontend()
        self.frontend.wanted_protocol |= CHANNEL_FEATURES
        self.ours, self.theirs = socket.socketpair()
        self.frontend.channel_fd = self.theirs.fileno()
        self.channel = FrontendChannel(self.frontend)
        self.memory = DriverMemory(split_layout(8 << 20))
        self.driver: VirtioNetDriver | None = None

    async def do(self, steps: Steps[object]) -> object:
        return await asyncio.to_thread(self.backend.run, steps)

    async def start(self) -> VirtioNetDriver:
        await asyncio.to_thread(self.backend.connect)
        await self.do(self.frontend.connect())
        await self.do(self.frontend.set_features(DRIVER_FEATURES & self.frontend.offered))
        self.driver = driver = VirtioNetDriver(self.memory, self.frontend.features, 16)
        driver.refill()
        driver.rx.enable_calls()
        await self.do(self.frontend.start(self.memory, driver.queues))
        return driver

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.0005)
        raise AssertionError("it never came to be")

    def listen(self) -> None:
        """Take what the device says on the channel, and answer it."""
        self.ours.setblocking(False)
        try:
            data = self.ours.recv(4096)
        except BlockingIOError:
            return
        for asked in self.channel.feed(data):
            steps = self.channel.steps(asked)
            try:
                next(steps)
            except StopIteration as end:
                if reply := self.channel.reply(asked, end.value):
                    self.ours.send(reply)

    def close(self) -> None:
        self.backend.close()
        self.ours.close()
        self.theirs.close()
        self.driver = None
        self.memory.close()


def run(tmp_path: Path, script: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        path = str(tmp_path / "s")
        port = await VhostUserServer.listen(
            path,
            protocol_features=vs.PROTOCOL_FEATURES | mask(vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS),
            config=NetConfig(mac=MAC),
            iommu=False,
        )
        Mirror(port)
        rig = Rig(path, port)
        try:
            await script(rig)
        finally:
            rig.close()
            port.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before


def test_frames_pass_with_kicks_and_calls_as_messages(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        driver = await rig.start()
        assert await rig.do(rig.frontend.get_config(0, 6)) == MAC
        for size in (60, 61, 62):
            if driver.send(bytes(size)):
                await rig.do(rig.frontend.set_state(Request.VHOST_USER_VRING_KICK, TX, 0))
        got: list[int] = []

        def arrived() -> bool:
            rig.listen()
            if rig.channel.calls:
                rig.channel.calls.clear()
                got.extend(len(frame) for _, frame in driver.receive()[0])
            return len(got) == 3

        await rig.until(arrived)
        assert got == [60, 61, 62]

    run(tmp_path, script)


def test_change_of_configuration_is_told_and_answered(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        await rig.start()
        rig.port.set_link(False)
        await rig.until(lambda: (rig.listen(), rig.channel.config_changes == 1)[1])  # type: ignore[func-returns-value]
        found = lambda: rig.port.negotiation()["channel"]  # noqa: E731
        await rig.until(lambda: found()["answers"] == 1)
        assert found()["open"]

    run(tmp_path, script)


@pytest.mark.parametrize(
    ("said", "errors"), [(b"", 0), (vu.U64.pack(0) * 2, 1), (vu.encode_reply(1, vu.U64.pack(0)), 1)]
)
def test_channel_that_ends_is_an_error_only_if_somebody_made_one(
    tmp_path: Path, said: bytes, errors: int
) -> None:
    async def script(rig: Rig) -> None:
        await rig.start()
        rig.theirs.close()
        if said:
            rig.ours.send(said)
        else:
            rig.ours.close()
        await rig.until(lambda: not rig.port.negotiation()["channel"]["open"])
        assert rig.port.stats()["channel_errors"] == errors
        assert rig.port.link_up
        await rig.do(rig.frontend.number(Request.VHOST_USER_GET_FEATURES))

    run(tmp_path, script)


def test_frontend_that_ends_takes_its_channel_along_without_an_error(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        await rig.start()
        rig.port.set_link(False)  # its answer is never given
        await asyncio.sleep(0)
        rig.backend.sock.close()
        rig.theirs.close()
        rig.ours.close()
        await rig.until(lambda: not rig.port.connected)
        assert rig.port.stats()["channel_errors"] == 0

    run(tmp_path, script)
