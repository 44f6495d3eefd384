# SPDX-License-Identifier: GPL-2.0-or-later
"""``vnic serve`` killed by SIGKILL wherever it happens to be, again and again under load, and another process that goes
on with the region: rings in shared memory, over a socket."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devmodel.virtio import features as vf
from guest.driver.backend import Backend
from guest.driver.errors import BackendHungUp
from guest.driver.frontend import Frontend
from guest.driver.memory import LAYOUTS, DriverMemory
from guest.driver.rawhost import RawHost
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX, VirtioNetDriver
from guest.driver.virtqueue import QueueFull

pytestmark = pytest.mark.slow  # a Python process takes a second to start

SERVER = "10.0.2.2"
NUM = 64
KILLS = 2
PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
IN_ORDER = vf.mask(vf.VIRTIO_F_IN_ORDER)


@contextmanager
def served(path: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "vnic", "serve", "--control", "none", "--vhost-user", path]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready:")
        yield process
    finally:
        process.kill()
        process.communicate()


class Guest:
    """A driver that asks by ARP, as fast as its ring lets it."""

    def __init__(self, path: str, features: int) -> None:
        self.backend = Backend(path)
        self.frontend = Frontend()
        self.memory = DriverMemory(LAYOUTS["split"](8 << 20))
        self.host = RawHost(bytes.fromhex("525400567890"), "10.0.2.15")
        self.backend.connect()
        run = self.backend.run
        offered = run(self.frontend.connect())
        run(self.frontend.set_features(features & offered))
        self.driver = VirtioNetDriver(self.memory, self.frontend.features, NUM)
        self.region = run(self.frontend.get_inflight(2, NUM))
        run(self.frontend.set_inflight(*self.region))
        self.bases = [queue.base for queue in self.driver.queues]
        self.driver.refill()
        self.driver.rx.enable_calls()
        self._start()

    def _start(self) -> None:
        start = self.frontend.start(self.memory, self.driver.queues, self.backend.fds, self.bases)
        self.backend.run(start)
        self.backend.kick(RX)

    def again(self) -> None:
        """To the next back end, with the bases of the first start, as QEMU gives them."""
        self.frontend.forget()
        self.backend.reconnect()
        run = self.backend.run
        run(self.frontend.connect())
        run(self.frontend.set_features(self.driver.features & ~vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES)))
        run(self.frontend.set_inflight(*self.region))
        self._start()

    def turn(self) -> int:
        """Ask, and take what came; how many frames."""
        try:
            while True:
                self.host.arp(SERVER)
                (frame,) = self.host.take()
                self.driver.queue(frame)
        except QueueFull:
            pass
        if self.driver.tx.publish():
            self.backend.kick(TX)
        self.backend.wait((RX,), 0.01)
        frames, kick = self.driver.receive()
        if kick:
            self.backend.kick(RX)
        return len(frames)

    def turns_forever(self) -> None:
        while True:
            self.turn()

    def close(self) -> None:
        self.backend.close()
        os.close(self.region[1])
        self.memory.close()


@pytest.mark.parametrize(
    "features",
    [DRIVER_FEATURES, DRIVER_FEATURES | PACKED | IN_ORDER],
    ids=["split", "packed, IN_ORDER"],
)
def test_killed_under_load_and_replaced(tmp_path: Path, features: int) -> None:
    path = str(tmp_path / "s")
    rng = random.Random(features)
    guest: Guest | None = None
    for _ in range(KILLS):
        with served(path) as process:
            if guest is None:
                guest = Guest(path, features)
            else:
                guest.again()
            until = time.monotonic() + 0.1 + rng.random() / 10
            while time.monotonic() < until:
                guest.turn()
            process.kill()
            with pytest.raises(BackendHungUp):
                guest.turns_forever()
    assert guest is not None
    with served(path):
        guest.again()
        got = sum(guest.turn() for _ in range(50))
        assert got > NUM
        until = time.monotonic() + 5
        while guest.driver.tx.outstanding() and time.monotonic() < until:
            guest.backend.wait((RX,), 0.01)
            guest.driver.receive()
            guest.driver.reclaim()
        assert guest.driver.tx.outstanding() == 0
        guest.close()
