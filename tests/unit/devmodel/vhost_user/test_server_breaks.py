# SPDX-License-Identifier: GPL-2.0-or-later
"""A broken ring is told by its error descriptor, to a frontend that reads it, and by negotiation()."""

from __future__ import annotations

import asyncio
import select
from pathlib import Path

import pytest

from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio import features as vf
from guest.driver.backend import Backend
from guest.driver.frontend import Frontend
from guest.driver.memory import LAYOUTS, DriverMemory
from guest.driver.virtio_net import DRIVER_FEATURES, TX, VirtioNetDriver

MEMORY = 8 << 20
DEADLINE_S = 5.0


def break_over_a_socket(path: str, features: int) -> tuple[list[int], list[int]]:
    """A driver with a frontend at a socket: which rings its error descriptors named before and after it broke one."""
    with Backend(path) as backend:
        backend.connect()
        frontend = Frontend()
        offered = backend.run(frontend.connect())
        backend.run(frontend.set_features(features & offered))
        memory = DriverMemory(LAYOUTS["split"](MEMORY))
        driver = VirtioNetDriver(memory, frontend.features, 64)
        driver.refill()
        backend.run(frontend.start(memory, driver.queues, backend.fds))
        before = backend.broken_rings()
        if features >> vf.VIRTIO_F_RING_PACKED & 1:
            memory.view(driver.tx.desc_gpa, 16).cast("Q")[1] = 64 << 32 | (1 << 7) << 48  # id 64 of 0 to 63
        else:
            memory.view(driver.tx.driver_gpa, 4).cast("H")[1] = 1000
        backend.kick(TX)
        backend.wait([], 0.0)
        backend.run(frontend.connect())  # an answered message later the kick was read
        return before, until_told(backend)


def until_told(backend: Backend) -> list[int]:
    poller = select.poll()
    for fds in backend.fds:
        poller.register(fds.err, select.POLLIN)
    poller.poll(DEADLINE_S * 1000)
    return backend.broken_rings()


@pytest.mark.parametrize(
    ("features", "section"),
    [(DRIVER_FEATURES, "2.7.13.3"), (DRIVER_FEATURES | vf.mask(vf.VIRTIO_F_RING_PACKED), "2.8.22")],
    ids=["split", "packed"],
)
def test_broken_ring_signals_its_error_descriptor_and_no_other(
    tmp_path: Path, features: int, section: str
) -> None:
    async def main() -> None:
        path = str(tmp_path / "vu.sock")
        port = await VhostUserServer.listen(path)
        try:
            before, after = await asyncio.to_thread(break_over_a_socket, path, features)
            assert (before, after) == ([], [TX])
            for _ in range(1000):
                if not port.connected:
                    break
                await asyncio.sleep(0.001)
            assert port.stats()["broken_rings"] == 1
            last = port._breaks[TX].asdict(0.0)["last_break"]
            assert last["section"] == section
            assert last["ended_by"] == "the end of the frontend's connection"
        finally:
            port.close()

    asyncio.run(main())
