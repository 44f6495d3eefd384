# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration space and in-band notifications, with driver and device on a step clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from mirror import FEATURES, Mirror

from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.message import Message, Request
from devmodel.virtio import features as vf
from devmodel.virtio.config import VIRTIO_NET_CONFIG, VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP, NetConfig
from devmodel.virtio.ctrl import VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_OK
from guest.driver.errors import BackendHungUp, FeatureMissing, RequestRefused
from guest.driver.frontend import Call
from guest.driver.loop import World
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX, make_queue
from guest.driver.virtqueue import QueueFull, Virtqueue

MAC = bytes.fromhex("525400abcdef")
ANNOUNCE = vf.mask(vf.VIRTIO_NET_F_CTRL_VQ, vf.VIRTIO_NET_F_GUEST_ANNOUNCE)
CONTROL = 2
INBAND = vf.mask(vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS)

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    worlds: list[World] = []

    def making(**options: object) -> World:
        worlds.append(World(**options))  # type: ignore[arg-type]
        return worlds[-1]

    yield making
    for world in worlds:
        world.close()


def read(world: World, offset: int = 0, size: int = 24) -> bytes:
    return world.link.run(world.frontend.get_config(offset, size))


def status(world: World) -> int:
    return int(VIRTIO_NET_CONFIG.unpack(read(world))[1])


# -- configuration space --------------------------------------------------------------------------------------


def test_space_is_read_in_any_part(make: Make) -> None:
    world = make(config=NetConfig(mac=MAC, mtu=9000))
    world.start()
    whole = read(world)
    assert whole == NetConfig(mac=MAC, mtu=9000).pack(1, False)
    for size in range(1, 7):  # as User-Mode Linux does
        assert read(world, 0, size) == MAC[:size]
    assert read(world, 10, 2) == (9000).to_bytes(2, "little")
    assert read(world, 20, 236) == whole[20:].ljust(236, b"\0")


@pytest.mark.parametrize(("offset", "size"), [(250, 7), (256, 1), (0xFFFFFFFF, 1)])
def test_read_behind_the_end_is_answered_by_nothing(make: Make, offset: int, size: int) -> None:
    world = make(config=NetConfig(mac=MAC))
    world.start()
    with pytest.raises(RequestRefused):
        read(world, offset, size)
    assert read(world, 0, 6) == MAC


def test_size_beyond_the_limit_is_refused_and_the_session_goes_on(make: Make) -> None:
    world = make(config=NetConfig(mac=MAC))
    world.start()
    payload = vu.CONFIG.pack(0, 0xFFFFFFFF, 0) + bytes(20)
    answer = world.link.call(Call(Request.VHOST_USER_GET_CONFIG, payload, replies=True))
    assert answer == b""
    assert read(world, 0, 6) == MAC


def test_driver_writes_its_mac_and_nothing_else(make: Make) -> None:
    world = make(config=NetConfig(mac=MAC))
    world.start()
    other = bytes.fromhex("020000000001")
    world.link.run(world.frontend.set_config(0, other))
    assert read(world, 0, 6) == other
    for offset, data, flags in ((8, b"\1\0", 0), (0, MAC, 2), (0, b"\1" * 6, 0)):
        with pytest.raises(RequestRefused):
            world.link.run(world.frontend.set_config(offset, data, flags))
    world.link.run(world.frontend.set_config(0, MAC + bytes(18), vu.VHOST_SET_CONFIG_TYPE_MIGRATION))
    assert read(world) == NetConfig(mac=MAC).pack(1, False)


def test_mtu_of_the_space_is_the_ports(make: Make) -> None:
    world = make(config=NetConfig(mac=MAC, mtu=4000))
    world.start(DRIVER_FEATURES & ~FEATURES["plain"] | vf.mask(vf.VIRTIO_NET_F_MTU))
    assert world.port.mtu == 4000


def test_without_an_owner_who_wants_it_there_is_none(make: Make) -> None:
    world = make(inband=True)
    world.start()
    assert not world.frontend.offered & vf.mask(vf.VIRTIO_NET_F_MAC, vf.VIRTIO_NET_F_STATUS)
    assert not world.frontend.has(vu.VHOST_USER_PROTOCOL_F_CONFIG)
    with pytest.raises(FeatureMissing):
        world.link.run(world.frontend.request(Request.VHOST_USER_SET_CONFIG, vu.CONFIG.pack(0, 6, 0) + MAC))


def test_link_that_goes_down_is_told_and_no_frame_passes(make: Make) -> None:
    world = make(config=NetConfig(mac=MAC))
    mirror = Mirror(world.port)
    world.start()
    assert status(world) == VIRTIO_NET_S_LINK_UP
    world.port.set_link(False)
    world.settle()
    assert (world.channel.config_changes, status(world), world.port.link_up) == (1, 0, False)
    assert not mirror.port.send(None, [bytes(60)])
    world.send(bytes(60))
    world.settle()
    stats = world.port.stats()
    assert (stats["tx_drop_link_down"], stats["rx_drop_link_down"]) == (1, 1)
    world.port.set_link(True)
    world.port.set_link(True)
    world.settle()
    assert (world.channel.config_changes, status(world), world.port.link_up) == (2, 1, True)
    world.send(bytes(61))
    world.settle()
    assert [len(frame) for _, frame in world.received] == [61]


def test_link_without_configuration_space_goes_down_untold(make: Make) -> None:
    world = make()
    Mirror(world.port)
    world.start()
    world.port.set_link(False)
    world.settle()
    assert not world.port.link_up
    assert world.link.unheard == []


def test_device_whose_rings_are_stopped_says_nothing(make: Make) -> None:
    world = make(config=NetConfig(mac=MAC))
    Mirror(world.port)
    world.start()
    world.stop()
    world.port.set_link(False)
    world.settle()
    assert world.channel.config_changes == 0
    world.resume()
    assert status(world) == 0, "its driver reads it when it starts"


def test_announcement_is_asked_for_and_acknowledged(make: Make) -> None:
    world = make(config=NetConfig(mac=MAC), control_queue=True)
    Mirror(world.port)
    world.start(DRIVER_FEATURES | ANNOUNCE)
    assert world.port.announce()
    world.settle()
    assert world.channel.config_changes == 1
    assert status(world) == VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE
    acknowledged = VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, b""
    assert world.command(acknowledged) == VIRTIO_NET_OK
    assert status(world) == VIRTIO_NET_S_LINK_UP


def test_announcement_of_a_driver_that_does_not_know_it_is_not_asked_for(make: Make) -> None:
    world = make(config=NetConfig(mac=MAC), control_queue=True)
    Mirror(world.port)
    world.start(DRIVER_FEATURES)
    assert not world.port.announce()
    assert world.channel.config_changes == 0


# -- in-band notifications ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "event", "packed+event"])
def test_kicks_and_calls_as_messages_lose_nothing(make: Make, kind: str) -> None:
    rng = random.Random(kind)
    world = make(inband=True)
    Mirror(world.port)
    driver = world.start(FEATURES[kind], 16)
    sent: list[bytes] = []
    for number in range(60):
        for _ in range(rng.randint(1, 16)):
            frame = number.to_bytes(2, "big") * rng.randint(30, 700)
            try:
                driver.queue(frame)
                sent.append(frame)
            except QueueFull:
                break
        if driver.tx.publish():
            world.kick(TX)
        world.settle()
    assert [frame for _, frame in world.received] == sent
    assert world.port.stats()["lost_kicks"] == 0
    calls = [call for call in world.link.log if call.request == Request.VHOST_USER_VRING_KICK]
    assert calls, "a kick is a message"
    assert not world.link.unheard


def test_ring_starts_at_its_first_kick_without_a_descriptor(make: Make) -> None:
    world = make(inband=True)
    Mirror(world.port)
    frontend, link = world.frontend, world.link
    offered = link.run(frontend.connect())
    link.run(frontend.set_features(DRIVER_FEATURES & offered))
    link.run(frontend.share_memory(world.memory))
    queue = make_queue(world.memory, TX, 16, frontend.features)
    for request, payload in (
        (Request.VHOST_USER_SET_VRING_NUM, vu.VRING_STATE.pack(TX, 16)),
        (Request.VHOST_USER_SET_VRING_ADDR, vu.VRING_ADDR.pack(TX, 0, *_places(queue), (1 << 64) - 1)),
    ):
        link.run(frontend.request(request, payload))
    assert link.session.vrings[TX].ring is None
    link.run(frontend.set_state(Request.VHOST_USER_VRING_KICK, TX, 0))
    assert link.session.vrings[TX].ring is not None


def _places(queue: Virtqueue) -> tuple[int, int, int]:
    desc, avail, used = queue.addresses
    return desc, used, avail


def test_broken_ring_is_told_as_a_message(make: Make) -> None:
    world = make(inband=True)
    Mirror(world.port)
    driver = world.start(FEATURES["plain"], 16)
    world.memory.view(driver.tx.driver_gpa, 4).cast("H")[1] = 1000
    world.kick(TX)
    world.settle()
    assert world.channel.errors == {TX}
    assert world.link.session.running(RX) is not None


def test_descriptor_is_preferred_where_there_is_one(make: Make) -> None:
    """QEMU 7.2 acknowledges the bit and goes on with descriptors: in a Connection they win, see Connection.signal."""
    world = make(inband=True)
    world.start()
    assert world.link.session.notify(RX) != []
    world.link.session.protocol_features &= ~INBAND
    assert world.link.session.notify(RX) == []


@pytest.mark.parametrize("lacks", [vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ, vu.VHOST_USER_PROTOCOL_F_REPLY_ACK])
@pytest.mark.parametrize("need_reply", [False, True])
def test_inband_without_what_it_needs_ends_the_session(make: Make, lacks: int, need_reply: bool) -> None:
    world = make(inband=True)
    world.start()
    features = (vs.PROTOCOL_FEATURES | INBAND) & ~vf.mask(lacks)
    flags = vu.VHOST_USER_VERSION | (vu.VHOST_USER_NEED_REPLY_MASK if need_reply else 0)
    message = Message(Request.VHOST_USER_SET_PROTOCOL_FEATURES, flags, vu.U64.pack(features))
    world.link.perform(world.link.session.handle(message))
    assert world.link.hung_up()
    assert "INBAND_NOTIFICATIONS" in str(world.link.ended)
    with pytest.raises(BackendHungUp):
        world.link.run(world.frontend.number(Request.VHOST_USER_GET_FEATURES))
