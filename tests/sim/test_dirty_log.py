# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest is copied while its rings run: random traffic, the log taken at random moments, and the copy is the guest."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from devmodel.port import Buffer, Offloads, VnetHdr
from devmodel.virtio import features as vf
from guest.driver.dirtylog import LOG_PAGE, GuestLog
from guest.driver.loop import World
from guest.driver.virtio_net import DRIVER_FEATURES, TX
from guest.driver.virtqueue import QueueFull

PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
IN_ORDER = vf.mask(vf.VIRTIO_F_IN_ORDER)
INDIRECT = vf.mask(vf.VIRTIO_F_INDIRECT_DESC)
EVENT_IDX = vf.mask(vf.VIRTIO_F_EVENT_IDX)
MERGEABLE = vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)

KINDS = {
    "split": DRIVER_FEATURES,
    "packed": DRIVER_FEATURES | PACKED,
    "split, flags": DRIVER_FEATURES & ~EVENT_IDX,
    "packed, flags": DRIVER_FEATURES & ~EVENT_IDX | PACKED,
    "split, in order": DRIVER_FEATURES | IN_ORDER,
    "packed, in order": DRIVER_FEATURES | IN_ORDER | PACKED,
    "split, chains": DRIVER_FEATURES & ~(MERGEABLE | INDIRECT),
    "packed, chains": DRIVER_FEATURES & ~(MERGEABLE | INDIRECT) | PACKED,
    "split, indirect": DRIVER_FEATURES & ~MERGEABLE,
    "packed, indirect": DRIVER_FEATURES & ~MERGEABLE | PACKED,
    "legacy": 0,
}


APART = 1 << 15
"""What lies so far apart is marked apart (devmodel/virtio/dirtylog.py)."""


def world_with_all_apart(features: int, iommu: str | None = None) -> World:
    """Rings and buffers lie where none is marked along with another."""
    many = not features & MERGEABLE  # a buffer of 64 KB, in pages
    world = World(memory_size=(3 if many else 1) << 20, iommu=iommu)
    alloc = world.memory.alloc
    world.memory.alloc = lambda size, align=APART: alloc(size, APART)  # type: ignore[method-assign]
    return world


class Migration:
    """Copies a guest's memory: what its driver writes is known (as QEMU knows it), what the device writes is in the
    log."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.log = GuestLog(world.memory.specs, offset=LOG_PAGE)
        self.copy: dict[int, bytes] = {}
        self.driver_dirty: set[int] = set()
        self.sent = 0

    def pages(self) -> dict[int, bytes]:
        """All of the guest's memory now."""
        memory = self.world.memory
        found = {}
        for spec in memory.specs:
            whole = memory.read(spec.gpa, spec.size)
            first = spec.gpa // LOG_PAGE
            for at in range(0, spec.size, LOG_PAGE):
                found[first + at // LOG_PAGE] = whole[at : at + LOG_PAGE]
        return found

    def snapshot(self) -> list[bytes]:
        return [self.world.memory.read(spec.gpa, spec.size) for spec in self.world.memory.specs]

    def changed(self, before: list[bytes]) -> set[int]:
        """The pages that are not as they were."""
        found = set()
        for spec, old, new in zip(self.world.memory.specs, before, self.snapshot(), strict=True):
            first = spec.gpa // LOG_PAGE
            for at in range(0, spec.size if old != new else 0, LOG_PAGE):
                if old[at : at + LOG_PAGE] != new[at : at + LOG_PAGE]:
                    found.add(first + at // LOG_PAGE)
        return found

    def begin(self) -> None:
        assert self.world.driver is not None
        self.world.link.run(self.world.frontend.set_log(self.log))
        self.world.link.run(self.world.frontend.log_writes(True, self.world.driver.queues))
        self.copy = self.pages()

    def round(self) -> None:
        """Take what is dirty, then copy it."""
        dirty = self.log.take() | self.driver_dirty
        self.driver_dirty = set()
        for page in dirty & self.copy.keys():
            self.copy[page] = self.world.memory.read(page * LOG_PAGE, LOG_PAGE)
            self.sent += 1

    def maybe(self) -> None:
        """At any moment, for all the device knows."""
        if self.copy and self.rng.random() < 0.2:
            self.round()

    def driver_does(self, work: Callable[[], object]) -> object:
        """The driver's own writes, which the processor tells QEMU of."""
        before = self.snapshot()
        done = work()
        self.driver_dirty |= self.changed(before)
        return done

    def settle(self) -> None:
        for _ in range(200):
            before = self.snapshot()
            ran = self.world.loop.run_ready()
            if self.copy and not self.device_copied:
                marked = self.log.take()
                assert self.changed(before) <= marked
                self.driver_dirty |= marked
            if not (ran | bool(self.driver_does(self.world._interrupts))):
                return
        raise AssertionError("it never comes to rest")

    device_copied = False
    """Rounds happen within the device's work too, so the log alone does not have all that it wrote in one step."""


class Mirror:
    """Behind the port: gives every frame back; the migration goes on at any of its steps."""

    def __init__(self, world: World, migration: Migration) -> None:
        self.port, self.migration = world.port, migration
        self.batch: list[bytes] = []
        world.port.attach(self)

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self._look()
        self.batch.append(frame)

    def batch_done(self) -> None:
        batch, self.batch = self.batch, []
        for frame in batch:
            parts: Sequence[Buffer] = [frame[:14], frame[14:]]
            self.port.send(None, parts)
            self._look()

    def _look(self) -> None:
        if self.migration.device_copied:
            self.migration.maybe()

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        pass


def random_traffic(world: World, migration: Migration, rng: random.Random, rounds: int, num: int) -> int:
    driver = world.driver
    assert driver is not None
    sent = 0

    def send() -> None:
        nonlocal sent
        for _ in range(rng.randint(1, num)):
            try:
                driver.queue(rng.randbytes(rng.randint(60, 1400)))
                sent += 1
            except QueueFull:
                break
        if driver.tx.publish():
            world.kick(TX)

    for _ in range(rounds):
        migration.driver_does(send)
        migration.settle()
        migration.maybe()
        if rng.random() < 0.2:
            world.loop.now += 0.02
            migration.settle()
    return sent


@pytest.mark.parametrize("device_copied", [False, True], ids=["between", "within"])
@pytest.mark.parametrize("kind", KINDS)
def test_guest_that_is_copied_while_its_rings_run_is_the_same_at_the_end(
    kind: str, device_copied: bool
) -> None:
    rng = random.Random(kind)
    world = world_with_all_apart(KINDS[kind])
    migration = Migration(world, rng)
    migration.device_copied = device_copied
    Mirror(world, migration)
    driver = world.start(KINDS[kind] & world.link.session.offered, 8)
    random_traffic(world, migration, rng, 3, 8)  # rings that run before they log
    migration.begin()
    assert random_traffic(world, migration, rng, 10, 8) > 20
    world.link.run(world.frontend.stop(driver.queues))
    assert migration.log.others() == bytes(LOG_PAGE)
    migration.round()
    assert migration.copy == migration.pages()
    assert world.port.stats()["broken_rings"] == world.port.stats()["lost_kicks"] == 0
    assert len(world.received) > 20
    migration.log.close()
    world.close()


@pytest.mark.parametrize("flush", ["strict", "lazy"])
@pytest.mark.parametrize("kind", ["split", "packed"])
def test_guest_behind_an_iommu_is_logged_where_its_translations_lead(kind: str, flush: str) -> None:
    rng = random.Random(kind)
    world = world_with_all_apart(KINDS[kind], flush)
    migration = Migration(world, rng)
    Mirror(world, migration)
    driver = world.start(KINDS[kind] & world.link.session.offered, 8)
    assert world.link.session.iommu is not None
    random_traffic(world, migration, rng, 3, 8)
    migration.begin()
    assert random_traffic(world, migration, rng, 10, 8) > 20
    world.link.run(world.frontend.stop(driver.queues))
    migration.round()
    assert migration.copy == migration.pages()
    assert world.port.stats()["broken_rings"] == 0
    assert len(world.received) > 20
    migration.log.close()
    world.close()


@pytest.mark.parametrize("kind", ["split", "packed", "legacy"])
def test_logging_switched_on_and_off_at_any_time_loses_no_frame(kind: str) -> None:
    rng = random.Random(kind)
    world = World(memory_size=1 << 20)
    migration = Migration(world, rng)
    Mirror(world, migration)
    driver = world.start(KINDS[kind] & world.link.session.offered, 16)
    world.link.run(world.frontend.set_log(migration.log))
    sent: list[bytes] = []
    on = False
    for number in range(200):
        for _ in range(rng.randint(1, 8)):
            frame = number.to_bytes(2, "big") * rng.randint(30, 700)
            try:
                driver.queue(frame)
                sent.append(frame)
            except QueueFull:
                break
        if driver.tx.publish():
            world.kick(TX)
        if rng.random() < 0.5:
            on = not on
            world.link.run(world.frontend.log_writes(on, driver.queues))
        if rng.random() < 0.7:
            world.settle()
    world.sleep(0.1)
    assert [frame for _, frame in world.received] == sent
    stats = world.port.stats()
    assert stats["broken_rings"] == stats["tx_dropped"] == stats["resynchronised_rings"] == 0
    migration.log.close()
    world.close()
