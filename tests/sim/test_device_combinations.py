# SPDX-License-Identifier: GPL-2.0-or-later
"""The dirty log, the tracking of buffers in flight and an IOMMU, two and three at a time, on rings that run: each frame
arrives once and in order, each page that the device wrote is marked, and a device that is killed is replaced."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from itertools import combinations

import pytest
from crash import Killed, kill_at_store
from mirror import Mirror

from devmodel.port import Offloads, VnetHdr
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.vring import Vring
from devmodel.virtio import features as vf
from devmodel.virtio.dirtylog import LOG_PAGE
from devmodel.virtio.memory import WRITE
from devmodel.virtio.ringfaults import DeviceFaults, FaultyRing
from devmodel.virtio.spec import VIRTQ_MAX_SIZE, used_size
from guest.driver.channel import invalidation
from guest.driver.dirtylog import GuestLog
from guest.driver.errors import RequestRefused
from guest.driver.frontend import Frontend
from guest.driver.iommu import EVERYTHING
from guest.driver.loop import World
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX
from guest.driver.virtqueue import QueueFull

PACKED = vf.mask(vf.VIRTIO_F_RING_PACKED)
IN_ORDER = vf.mask(vf.VIRTIO_F_IN_ORDER)
INDIRECT = vf.mask(vf.VIRTIO_F_INDIRECT_DESC)
MERGEABLE = vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)

KINDS = {
    "split": DRIVER_FEATURES,
    "packed": DRIVER_FEATURES | PACKED,
    "split, in order": DRIVER_FEATURES | IN_ORDER,
    "packed, in order": DRIVER_FEATURES | IN_ORDER | PACKED,
    "split, chains": DRIVER_FEATURES & ~(MERGEABLE | INDIRECT),
    "packed, chains": DRIVER_FEATURES & ~(MERGEABLE | INDIRECT) | PACKED,
}
THINGS = ("logged", "tracked", "iommu")
SETS = [*combinations(THINGS, 2), THINGS]
APART = 1 << 15
"""What lies so far apart is marked apart (devmodel/virtio/dirtylog.py)."""
NUM = 16


class Host:
    """A guest with these things, and what the device writes of its memory while it logs."""

    def __init__(self, things: tuple[str, ...], features: int, num: int = NUM, apart: bool = False) -> None:
        self.iommu = "iommu" in things
        self.num = num
        memory_size = 6 << 20 if not features & MERGEABLE else 2 << 20
        self.world = World(
            inflight="tracked" in things,
            iommu="strict" if self.iommu else "",
            layout="split",
            memory_size=memory_size,
        )
        if apart:
            alloc = self.world.memory.alloc
            self.world.memory.alloc = lambda size, align=APART: alloc(size, APART)  # type: ignore[method-assign]
        self.driver = self.world.start(features, num)
        self.log = GuestLog(self.world.memory.specs, offset=LOG_PAGE)
        self.on = False
        self.sent: list[bytes] = []
        if "logged" in things:
            self.world.link.run(self.world.frontend.set_log(self.log))

    def log_writes(self, on: bool) -> None:
        self.on = on
        self.world.link.run(self.world.frontend.log_writes(on, self.driver.queues))

    def forget(self) -> None:
        """The guest flushes its IOMMU's cache."""
        if self.iommu:
            frontend = self.world.frontend
            self.world.link.run(frontend.request(vu.Request.VHOST_USER_IOTLB_MSG, invalidation(*EVERYTHING)))

    def queue(self, rng: random.Random) -> None:
        """Some frames out of the guest, as many as fit."""
        driver = self.driver
        for _ in range(rng.randint(1, self.num)):
            frame = len(self.sent).to_bytes(4, "big") * rng.randint(15, 350)
            try:
                driver.queue(frame)
            except QueueFull:
                break
            self.sent.append(frame)
        if driver.tx.publish():
            self.world.kick(TX)

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

    def settle(self) -> int:
        """Run to the end, and check at each step that what the device wrote is marked; how many pages those were."""
        written = 0
        for _ in range(500):
            before = self.snapshot()
            ran = self.world.loop.run_ready()
            changed = self.changed(before)
            assert not self.on or changed <= self.log.take(), "a page was written and not marked"
            written += len(changed)
            if not (ran | self.world._interrupts()):
                return written
        raise AssertionError("it never comes to rest")

    def received(self) -> list[bytes]:
        return [frame for _, frame in self.world.received]

    def check(self) -> None:
        stats = self.world.port.stats()
        bad = ("broken_rings", "tx_dropped", "lost_kicks", "resynchronised_rings", "channel_errors")
        assert {name: stats[name] for name in bad if stats[name]} == {}
        assert self.received() == self.sent
        check_audits(self.world)

    def close(self) -> None:
        self.log.close()
        self.world.close()


def check_audits(world: World) -> None:
    """What devmodel/virtio/audit.py promises, for both rings."""
    for index in (RX, TX):
        audit = world.port._audits[index]
        kicks, told = audit.kicks, audit.interrupts
        caused = kicks.kicks - kicks.spurious + kicks.lost + kicks.at_start + kicks.suppressed
        assert kicks.batches == caused, (index, kicks.asdict())
        asked = told.shown + told.lost + told.settled + told.fresh + told.timed
        decided = told.needed + told.suppressed + told.coalesced + told.stopped + told.held
        assert asked == decided, (index, told.asdict())
        assert told.needed == told.sent + told.unsent, (index, told.asdict())


@pytest.fixture(name="hosts")
def _hosts() -> Iterator[list[Host]]:
    hosts: list[Host] = []
    yield hosts
    for host in hosts:
        host.close()


@pytest.mark.parametrize("things", SETS, ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_frames_both_ways_arrive_once_while_the_log_goes_on_and_off(
    kind: str, things: tuple[str, ...], hosts: list[Host]
) -> None:
    rng = random.Random(kind)
    host = Host(things, KINDS[kind])
    hosts.append(host)
    Mirror(host.world.port)
    for _ in range(30):
        host.queue(rng)
        if "logged" in things and rng.random() < 0.5:
            host.log_writes(not host.on)
        if rng.random() < 0.3:
            host.forget()
        if "logged" in things and rng.random() < 0.3:
            host.log_writes(not host.on)
        if rng.random() < 0.7:
            host.world.settle()
        if rng.random() < 0.2:
            host.world.sleep(rng.choice((0.001, 0.02)))
    host.world.sleep(0.1)
    assert len(host.sent) > 10 * NUM, "more than a few times around"
    host.check()


@pytest.mark.parametrize("things", [things for things in SETS if "logged" in things], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_each_page_that_is_written_is_marked(kind: str, things: tuple[str, ...], hosts: list[Host]) -> None:
    rng = random.Random(kind)
    host = Host(things, KINDS[kind], 8, apart=True)
    hosts.append(host)
    Mirror(host.world.port)
    written = 0
    host.log_writes(True)
    for _ in range(7):
        host.queue(rng)
        if rng.random() < 0.4:
            host.forget()
        written += host.settle()
        if rng.random() < 0.3:
            host.world.loop.now += 0.02
            written += host.settle()
    assert written > 30
    host.check()


class Numbers:
    """Behind the port: what arrived, by the number that each frame begins with."""

    def __init__(self) -> None:
        self.arrived: list[int] = []

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self.arrived.append(int.from_bytes(frame[:4], "big"))

    def batch_done(self) -> None:
        pass

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        pass


def crash_while_logging(host: Host, behind: Numbers, number: int) -> bool:
    """Some batches with the log on, and the device killed at a store of the last; False if there is no such store."""
    rng = random.Random(1)
    world = host.world
    world.port.attach(behind)
    host.log_writes(True)
    for _ in range(3):
        host.queue(rng)
        world.settle()
    host.queue(rng)
    done = False

    def work() -> None:
        nonlocal done
        world.settle()
        for at in range(3):
            world.port.send(None, [(1 << 20 | at).to_bytes(4, "big") * 200])
        world.port.flush()
        world.settle()
        done = True

    kill_at_store(number, work)
    if done:
        return False
    world.crash().attach(behind)
    host.driver.reclaim()
    # As QEMU does for a device that comes back during a migration: the log first, and all features with LOG_ALL.
    world.take_over()
    world.link.run(world.frontend.set_log(host.log))
    host.log_writes(True)
    world.sleep(0.01)
    world.poll()
    world.settle()
    return True


@pytest.mark.parametrize("things", [("logged", "tracked"), THINGS], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_device_that_is_killed_while_it_logs_is_replaced_and_no_frame_is_missed(
    kind: str, things: tuple[str, ...], hosts: list[Host]
) -> None:
    number = 0
    while True:
        host, behind = Host(things, KINDS[kind], 4), Numbers()
        hosts.append(host)
        if not crash_while_logging(host, behind, number):
            break
        assert [*dict.fromkeys(behind.arrived)] == list(range(len(host.sent)))
        host.driver.reclaim()
        assert host.driver.tx.outstanding() == 0
        before = len(host.world.received)
        for at in range(12):
            assert host.world.port.send(None, [at.to_bytes(4, "big") * 100])
            host.world.port.flush()
            host.settle()
        assert [int.from_bytes(frame[:4], "big") for frame in host.received()[before:]] == list(range(12))
        assert host.world.port.stats()["broken_rings"] == 0
        number += 7 if kind in ("split", "packed") else 29
    assert number > 40


# -- faults on purpose ----------------------------------------------------------------------------------------

LAYOUTS = pytest.mark.parametrize("kind", ["split", "packed"])
FRAME = bytes(range(60))


def faulty(things: tuple[str, ...], kind: str, *script: str) -> Host:
    host = Host(things, KINDS[kind], 8, apart="logged" in things)
    host.world.port.inject(DeviceFaults(random.Random(1), script))
    return host


@LAYOUTS
@pytest.mark.parametrize("things", [("tracked",), *SETS], ids="+".join)
def test_used_elements_with_false_lengths_leave_log_and_region_in_order(
    kind: str, things: tuple[str, ...], hosts: list[Host]
) -> None:
    host = faulty(things, kind, "rx:wrong-length:every=2,to=full")
    hosts.append(host)
    Mirror(host.world.port)
    if "logged" in things:
        host.log_writes(True)
    for number in range(40):
        host.world.send(number.to_bytes(4, "big") * 20)
        host.settle()
        host.forget()
    assert [frame[:4] for frame in host.received()] == [number.to_bytes(4, "big") for number in range(40)]
    assert host.world.port.faults is not None
    assert host.world.port.faults.count == 20
    assert host.world.port.stats()["broken_rings"] == 0


@LAYOUTS
@pytest.mark.parametrize("things", SETS, ids="+".join)
def test_late_buffers_come_back_though_their_ring_is_remade_or_parked(
    kind: str, things: tuple[str, ...], hosts: list[Host]
) -> None:
    host = faulty(things, kind, "tx:late-used:every=3,ms=20", "rx:late-used:every=3,ms=20")
    hosts.append(host)
    behind = Numbers()
    host.world.port.attach(behind)
    for number in range(60):
        host.driver.reclaim()
        host.world.send(number.to_bytes(4, "big") * 20)
        host.world.settle()
        assert host.world.port.send(None, [number.to_bytes(4, "big") * 20])
        host.world.port.flush()
        if "logged" in things:
            host.log_writes(not host.on)
        if number % 3:
            host.forget()
        host.world.sleep(0.009)
    host.world.sleep(0.1)
    host.world.poll()
    host.driver.reclaim()
    assert host.driver.tx.outstanding() == 0
    assert behind.arrived == list(range(60)), "each was handed on once"
    assert sorted(host.received()) == [number.to_bytes(4, "big") * 20 for number in range(60)]
    assert host.world.port.stats()["broken_rings"] == 0


@LAYOUTS
def test_late_buffer_of_a_parked_ring_comes_back_when_it_runs_again(kind: str, hosts: list[Host]) -> None:
    host = faulty(("iommu",), kind, "tx:late-used:at=1,ms=20")
    hosts.append(host)
    host.world.port.attach(Numbers())
    host.world.send(FRAME)
    host.world.settle()
    host.world.lose_requests = 1 << 30
    host.forget()
    assert host.world.link.session.parked(TX)
    host.world.sleep(0.05)
    host.world.lose_requests = 0
    frontend = host.world.frontend
    host.world.link.run(frontend.request(vu.Request.VHOST_USER_SET_BACKEND_REQ_FD, fds=[frontend.channel_fd]))
    host.world.sleep(0.1)
    host.driver.reclaim()
    assert host.driver.tx.outstanding() == 0


@LAYOUTS
def test_rings_that_are_parked_take_faults_too(kind: str, hosts: list[Host]) -> None:
    host = Host(("iommu",), KINDS[kind])
    hosts.append(host)
    host.world.channel_delay_s = 0.01
    host.forget()
    assert host.world.link.session.parked(TX)
    host.world.port.inject(DeviceFaults(random.Random(1), ["tx:stuck:at=1"]))
    host.world.sleep(0.1)
    assert [type(vring.ring) for vring in host.world.link.session.vrings] == [FaultyRing, FaultyRing]
    host.world.send(FRAME)
    host.world.sleep(0.1)
    assert host.world.port.faults is not None
    assert host.world.port.faults.count == 1


@LAYOUTS
def test_faulty_device_takes_over_what_a_dead_one_had_taken(kind: str, hosts: list[Host]) -> None:
    host = Host(("tracked",), KINDS[kind])
    hosts.append(host)
    world = host.world
    world.send(FRAME, FRAME)
    kill_at_store(1 << 30, lambda: setattr(world.port, "_deliver", kill))
    kill_at_store(1 << 30, world.settle)
    port = world.crash()
    behind = Numbers()
    port.attach(behind)
    port.inject(DeviceFaults(random.Random(1), ["tx:stuck:at=1000"]))
    world.take_over()
    assert world.link.take_signals() == {RX, TX}, "a dead device may have told the driver nothing"
    world.settle()
    assert len(behind.arrived) == 2
    assert port.stats()["resubmitted_buffers"] == 2
    ring = world.link.session.vrings[TX].ring
    assert ring is not None
    assert ring.tracked, "frames are handed on before their buffers are given back"


def kill(*_: object) -> None:
    raise Killed


# -- rings that are parked ------------------------------------------------------------------------------------


@LAYOUTS
def test_region_is_not_replaced_under_a_parked_ring(kind: str, hosts: list[Host]) -> None:
    host = Host(("tracked", "iommu"), KINDS[kind])
    hosts.append(host)
    world = host.world
    behind = Numbers()
    world.port.attach(behind)
    world.channel_delay_s = 0.01
    host.forget()
    assert world.link.session.parked(TX)
    assert world.inflight is not None
    with pytest.raises(RequestRefused):
        world.link.run(world.frontend.set_inflight(*world.inflight))
    world.send(FRAME)
    world.sleep(0.1)
    assert len(behind.arrived) == 1


@LAYOUTS
def test_log_that_comes_after_parked_rings_were_stopped_has_what_was_written_before(
    kind: str, hosts: list[Host]
) -> None:
    host = Host(("logged", "iommu"), KINDS[kind], 8, apart=True)
    hosts.append(host)
    world = host.world
    host.log_writes(True)
    world.settle()
    host.forget()
    assert world.link.session.parked(RX)
    bases = world.stop()
    world.link.run(world.frontend.start(world.memory, host.driver.queues, bases=bases))
    host.driver.rx.enable_calls()
    world.settle()
    assert world.port.send(None, [FRAME])
    world.port.flush()
    written: set[int] = set()
    for _ in range(20):  # the driver, which is not asked, writes nothing
        before = host.snapshot()
        world.loop.run_ready()
        written |= host.changed(before)
    assert written
    later = GuestLog(world.memory.specs, offset=LOG_PAGE)
    world.link.run(world.frontend.set_log(later))
    assert written <= later.take()
    later.close()


@LAYOUTS
def test_region_that_was_spoilt_breaks_the_ring_that_is_remade(kind: str, hosts: list[Host]) -> None:
    host = Host(("logged", "tracked"), KINDS[kind])
    hosts.append(host)
    world = host.world
    host.log_writes(True)
    assert world.inflight is not None
    os.pwrite(world.inflight[1], b"\xff\xff", 8)
    last = world.memory.specs[-1]
    places = [place for queue in host.driver.queues for place in queue.addresses]
    assert not any(last.uva <= place < last.uva + last.size for place in places)
    payload = struct.pack("<Q4Q", 0, last.gpa, last.size, last.uva, 0)
    world.link.run(world.frontend.request(vu.Request.VHOST_USER_REM_MEM_REG, payload))
    assert [vring.state for vring in world.link.session.vrings] == ["broken", "broken"]
    assert not world.link.hung_up()


def test_slots_that_are_hidden_from_the_driver_at_the_start_are_marked(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch that was rolled back (devmodel/virtio/inflight.py), by a device that looks at no ring yet, for a
    frontend that has its rings logged from the start."""
    monkeypatch.setattr(Frontend, "_addr_flags", vu.VHOST_VRING_F_LOG)
    number = hidden = 0
    while True:
        host = Host(("logged", "tracked"), KINDS["packed"], 4, apart=True)
        hosts.append(host)
        world = host.world
        world.port.attach(Numbers())
        world.send(FRAME, FRAME, FRAME)
        if kill_at_store(number, world.settle) < number:
            break
        world.crash().hold()
        host.driver.features |= vf.mask(vf.VHOST_F_LOG_ALL)
        before = host.snapshot()
        world.take_over()
        changed = host.changed(before)
        world.link.run(world.frontend.set_log(host.log))
        assert changed <= host.log.take()
        hidden += any(world.memory.uva(page * LOG_PAGE) == host.driver.tx.addresses[0] for page in changed)
        number += 1
    assert hidden


def test_log_of_a_ring_in_more_pages_than_a_buffer_may_lie_in(hosts: list[Host]) -> None:
    host = Host(("logged", "iommu"), KINDS["split"])
    hosts.append(host)
    session = host.world.link.session
    assert session.iommu is not None
    vring = Vring(RX)
    vring.num, vring.log = VIRTQ_MAX_SIZE, 0x4000_0000
    size = used_size(vring.num)
    (spec, *_) = host.world.memory.specs
    for at in range(0, size, LOG_PAGE):
        session.iommu.tlb.update(vring.log + at, LOG_PAGE, spec.uva + at, WRITE)
    own = session._own_memory(vring)
    assert sum(room for _, room in own) == size
