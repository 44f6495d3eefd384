# SPDX-License-Identifier: GPL-2.0-or-later
"""Driver, rings, device and stack in one process on one step clock; a raw host is the guest's network."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from guest.driver.loop import StepLoop, World
from guest.driver.rawhost import RawHost, RawTcp
from guest.driver.virtio_net import DRIVER_FEATURES, Frame
from stack.api import aio
from stack.rng import SeededRng
from stack.stack import Stack
from vnic.host import MAC, Adapter
from vnic.services.base import ProtocolFactory
from vnic.services.echo import Echo

SERVER, GUEST = "10.0.2.2", "10.0.2.15"
GUEST_MAC = bytes.fromhex("525400123456")


class LoopClock:
    """A stack's clock that is the loop's."""

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop

    def now_ns(self) -> int:
        return round(self._loop.now * 1e9)

    def real_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.now_ns()


class DriverWorld:
    """The whole way from a packet of the guest to an asyncio protocol and back, nothing running by itself."""

    def __init__(
        self,
        features: int = DRIVER_FEATURES,
        *,
        num: int = 64,
        service: ProtocolFactory = Echo,
        port: int = 7,
        **options: Any,
    ) -> None:
        self.world = World(**options)
        loop = self.world.loop
        self.stack = Stack(LoopClock(loop), SeededRng(1))
        dev = self.stack.register_netdevice("eth0", MAC, 1500)
        self.stack.dev_addr_add(dev, f"{SERVER}/24")
        device = self.world.port
        runner = aio.Runner(
            self.stack, cast(asyncio.AbstractEventLoop, loop), flush=device.flush, timers=True
        )
        self.runner = runner
        Adapter(self.stack, runner, device, dev)
        _finish(aio.create_server(runner, service, SERVER, port))
        self.host = RawHost(GUEST_MAC, GUEST)
        self.seen: list[Frame] = []
        self.world.on_frames = self._frames
        self.world.start(features, num)

    def _frames(self, frames: list[Frame]) -> None:
        for hdr, frame in frames:
            self.seen.append((hdr, frame))
            self.host.handle(frame, hdr)
        self.flush()

    def flush(self) -> None:
        """Send what the raw host has to say."""
        frames = self.host.take()
        if frames:
            self.world.send(*frames)

    def run(self, seconds: float = 0.0) -> None:
        """Let everything happen that is due within that time."""
        self.flush()
        self.world.sleep(seconds)

    def find_server(self) -> None:
        self.host.arp(SERVER)
        self.run()
        assert self.host.neighbours[SERVER] == MAC

    def connect(self, port: int = 7) -> RawTcp:
        """An established connection of the raw host."""
        self.find_server()
        connection = self.host.tcp(SERVER, port)
        connection.connect()
        self.run()
        assert connection.state == "established"
        return connection

    def close(self) -> None:
        self.runner.close()
        self.world.close()


def _finish(work: Any) -> Any:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")
