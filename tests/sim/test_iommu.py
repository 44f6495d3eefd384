# SPDX-License-Identifier: GPL-2.0-or-later
"""Driver, device and stack with an IOMMU between them: every access misses, mappings come and go while frames pass."""

from __future__ import annotations

import random

import pytest
from driverworld import DriverWorld
from mirror import FEATURES, MERGEABLE, PACKED, Mirror

from devmodel.vhost_user import message as vu
from devmodel.virtio import features as vf
from devmodel.virtio.memory import GuestMemory
from devmodel.virtio.scattered import ScatteredArea
from guest.driver.channel import invalidation
from guest.driver.errors import RequestRefused
from guest.driver.iommu import EVERYTHING
from guest.driver.loop import World
from guest.driver.memory import PAGE
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX
from guest.driver.virtqueue import QueueFull

FLUSHES = ("strict", "lazy")
WITHOUT_MERGEABLE = DRIVER_FEATURES & ~MERGEABLE


def forget(world: World) -> None:
    """The guest flushes everything."""
    world.link.run(world.frontend.request(vu.Request.VHOST_USER_IOTLB_MSG, invalidation(*EVERYTHING)))


def exchange(world: World, rng: random.Random, rounds: int, num: int, forgetful: float = 0.0) -> list[bytes]:
    """Random batches out of the guest, which a Mirror gives back; what was sent."""
    driver = world.driver
    assert driver is not None
    sent: list[bytes] = []
    for number in range(rounds):
        for _ in range(rng.randint(1, num)):
            frame = number.to_bytes(2, "big") * rng.randint(30, 700)
            try:
                driver.queue(frame)
                sent.append(frame)
            except QueueFull:
                break
        if driver.tx.publish():
            world.kick(TX)
        if rng.random() < forgetful:
            forget(world)
        if rng.random() < 0.7:
            world.settle()
        if rng.random() < forgetful:
            forget(world)
        if rng.random() < 0.2:
            world.sleep(rng.choice((0.001, 0.02)))
    world.sleep(0.1)
    return sent


@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize("kind", FEATURES)
def test_frames_through_an_iommu_come_back_once_and_in_order(kind: str, flush: str) -> None:
    rng = random.Random(kind)
    world = World(iommu=flush, layout="pieces")
    Mirror(world.port)
    world.start(FEATURES[kind], 16)
    sent = exchange(world, rng, 40, 16)
    assert [frame for _, frame in world.received] == sent
    stats = world.port.stats()
    assert stats["lost_kicks"] == stats["broken_rings"] == stats["tx_dropped"] == stats["channel_errors"] == 0
    assert stats["iotlb_misses"] > len(sent), "at least once a frame, each way"
    world.close()


@pytest.mark.parametrize("packed", [0, PACKED])
def test_frames_pass_while_everything_is_forgotten_again_and_again(packed: int) -> None:
    rng = random.Random(packed)
    world = World(iommu="strict", layout="pieces")
    world.channel_delay_s = 0.002
    Mirror(world.port)
    world.start(DRIVER_FEATURES | packed, 16)
    sent = exchange(world, rng, 60, 16, forgetful=0.6)
    assert [frame for _, frame in world.received] == sent
    stats = world.port.stats()
    assert stats["broken_rings"] == stats["tx_dropped"] == stats["lost_kicks"] == 0
    world.close()


@pytest.mark.parametrize(
    ("features", "flush"), [(DRIVER_FEATURES, "strict"), (WITHOUT_MERGEABLE | PACKED, "lazy")]
)
def test_connection_through_an_iommu_carries_much_data_both_ways(features: int, flush: str) -> None:
    world = DriverWorld(features, num=128, memory_size=32 << 20, iommu=flush, layout="pieces")
    connection = world.connect()
    said = bytes(range(256)) * 300
    connection.send(said)
    world.run(0.2)
    forget(world.world)
    world.run(2)
    assert bytes(connection.received) == said
    assert world.host.bad_checksums == 0
    assert world.world.port.stats()["broken_rings"] == 0
    world.close()


def test_link_stays_up_and_frames_wait_while_rings_are_not_translated() -> None:
    world = World(iommu="strict")
    mirror = Mirror(world.port)
    world.start()
    world.lose_requests = 1000
    forget(world)
    assert world.port.link_up
    assert mirror.port.send(None, [bytes(60)])
    world.settle()
    assert not world.received
    world.lose_requests = 0
    assert world.link.session.channel is not None
    assert world.link.session.channel.pending > 0
    # The frontend hands over another channel: what waits is asked for there.
    world.link.run(
        world.frontend.request(vu.Request.VHOST_USER_SET_BACKEND_REQ_FD, fds=[world.frontend.channel_fd])
    )
    world.sleep(0.1)
    assert [len(frame) for _, frame in world.received] == [60]
    world.close()


def test_miss_of_what_is_not_mapped_breaks_the_ring_with_a_diagnosis() -> None:
    world = World(iommu="strict")
    Mirror(world.port)
    driver = world.start()
    assert world.iommu is not None
    driver.queue(bytes(60))
    ((iova, size),) = next(iter(driver.tx._out.values())).lent  # type: ignore[attr-defined]
    world.iommu.unmap(iova, size)
    driver.tx.publish()
    world.kick(TX)
    world.settle()
    broken = world.link.session.vrings[TX].broken
    assert broken is not None
    assert broken.rule == f"the frontend answered 1 to a miss at iova {iova:#x}"
    assert world.link.session.running(RX) is not None
    assert world.port.link_up
    world.close()


def test_buffer_that_may_only_be_read_is_not_written_and_the_frontend_hears_of_it() -> None:
    world = World(iommu="strict")
    Mirror(world.port)
    driver = world.start(num=16)
    assert world.iommu is not None
    for page, (gpa, _access) in list(world.iommu._pages.items()):
        if page not in {address // 4096 for queue in driver.queues for address in queue.addresses}:
            world.iommu._pages[page] = (gpa, 1)
    assert world.port.send(None, [bytes(60)])
    world.settle()
    broken = world.link.session.vrings[RX].broken
    assert broken is not None
    assert "may not be written" in broken.rule
    assert [access for _, access in world.channel.access_failures] == [2]
    world.close()


def test_frontend_that_never_answers_a_miss_costs_the_ring_and_not_the_session() -> None:
    world = World(iommu="strict")
    Mirror(world.port)
    world.start()
    world.lose_requests = 1 << 30
    world.send(bytes(60))
    world.settle()  # the deadline is the socket's: tests/unit/devmodel/vhost_user/test_channel_socket.py
    world.link.perform(world.link.session.channel_lost("it took too long"))
    assert world.link.channel_ends == ["it took too long"]
    assert world.port.stats()["channel_errors"] == 1
    broken = world.link.session.vrings[TX].broken
    assert broken is not None
    assert "it took too long" in broken.rule
    assert not world.link.hung_up()
    world.close()


def test_answer_of_success_without_a_translation_is_asked_for_again() -> None:
    world = World(iommu="strict")
    Mirror(world.port)
    world.start()
    session = world.link.session
    world.lose_requests = 1
    world.send(bytes(60))
    world.settle()
    assert session.channel is not None
    assert session.channel.pending == 1
    world.link.answer(vu.encode_reply(1, vu.U64.pack(0)))
    assert session.waits(TX)
    world.sleep(0.2)
    assert not session.waits(TX)
    assert len(world.received) == 1
    world.close()


def test_access_platform_without_the_channel_is_refused() -> None:
    world = World(iommu="strict")
    world.frontend.wanted_protocol &= ~vf.mask(vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ)
    with pytest.raises(RequestRefused):
        world.start()
    assert not world.link.hung_up()
    world.close()


def test_memory_that_moves_keeps_translations_that_still_lead_into_it() -> None:
    world = World(iommu="strict", layout="pieces")
    Mirror(world.port)
    world.start()
    known = len(world.link.session.iommu.tlb)  # type: ignore[union-attr]
    assert known > 0
    world.link.run(world.frontend.share_memory(world.memory))
    assert len(world.link.session.iommu.tlb) == known  # type: ignore[union-attr]
    world.send(bytes(60))
    world.settle()
    assert len(world.received) == 1
    world.close()


def test_rings_stop_while_they_are_parked_and_start_where_they_stood() -> None:
    world = World(iommu="strict")
    Mirror(world.port)
    driver = world.start()
    world.send(bytes(60), bytes(61))
    world.settle()
    forget(world)
    assert world.link.session.parked(RX)
    told = world.port.negotiation()["rings"][RX]
    assert (told["running"], told["state"]) == (True, "running"), "it only waits for its frontend"
    bases = world.stop()
    assert bases == [driver.rx.base, driver.tx.base] == [2, 2]
    world.link.run(world.frontend.start(world.memory, driver.queues, bases=bases))
    driver.rx.enable_calls()
    world.settle()
    world.send(bytes(62))
    world.settle()
    assert [len(frame) for _, frame in world.received] == [60, 61, 62]
    world.close()


@pytest.mark.parametrize("kind", ["plain", "in-order+event", "packed+event", "packed+in-order"])
def test_rings_in_pages_that_lie_apart_are_rings(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GuestMemory.uva_view

    def one_page(self: GuestMemory, uva: int, size: int) -> memoryview | None:
        return whole(self, uva, size) if size <= PAGE else None

    monkeypatch.setattr(GuestMemory, "uva_view", one_page)
    rng = random.Random(kind)
    world = World(iommu="lazy", memory_size=16 << 20)
    Mirror(world.port)
    world.start(FEATURES[kind], 512)
    areas = world.link.session._areas(world.link.session.vrings[TX])
    assert any(isinstance(area, ScatteredArea) for area in areas)
    sent = exchange(world, rng, 40, 60, forgetful=0.2)
    assert len(sent) > 600, "more than once around"
    assert [frame for _, frame in world.received] == sent
    stats = world.port.stats()
    assert stats["broken_rings"] == stats["tx_dropped"] == stats["lost_kicks"] == 0
    world.close()
