# SPDX-License-Identifier: GPL-2.0-or-later
"""A raw client's TCP connection to the echo service through rings in memory: driver, device and stack on one clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from driverworld import SERVER, DriverWorld

from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.spec import VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4
from guest.driver.loop import World
from guest.driver.rawhost import ACK, IPPROTO_TCP, PSH, checksum
from guest.driver.virtio_net import DRIVER_FEATURES, TX

WITHOUT_MERGEABLE = DRIVER_FEATURES & ~vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF)
WITHOUT_EVENT_IDX = DRIVER_FEATURES & ~vf.mask(vf.VIRTIO_F_EVENT_IDX)
PACKED = DRIVER_FEATURES | vf.mask(vf.VIRTIO_F_RING_PACKED)
IN_ORDER = vf.mask(vf.VIRTIO_F_IN_ORDER)
EVENT_IDX = vf.mask(vf.VIRTIO_F_EVENT_IDX)
KINDS = {
    "all": DRIVER_FEATURES,
    "big packets": WITHOUT_MERGEABLE,
    "no EVENT_IDX": WITHOUT_EVENT_IDX,
    "modern, nothing else": vf.mask(vf.VIRTIO_F_VERSION_1),
    "in order": DRIVER_FEATURES | IN_ORDER,
    "packed": PACKED,
    "packed, in order": PACKED | IN_ORDER,
    "packed, no EVENT_IDX": PACKED & ~EVENT_IDX,
    "packed, big packets": PACKED & WITHOUT_MERGEABLE | vf.mask(vf.VIRTIO_F_RING_PACKED),
    "legacy": 0,
    "legacy, mergeable": vf.mask(vf.VIRTIO_NET_F_MRG_RXBUF),
}

Make = Callable[..., DriverWorld]


@pytest.fixture
def make() -> Iterator[Make]:
    worlds: list[DriverWorld] = []

    def making(*arguments: int, **options: object) -> DriverWorld:
        worlds.append(DriverWorld(*arguments, **options))  # type: ignore[arg-type]
        return worlds[-1]

    yield making
    for world in worlds:
        world.close()


@pytest.mark.parametrize("kind", KINDS)
def test_connection_echo_and_close(make: Make, kind: str) -> None:
    world = make(KINDS[kind], memory_size=16 << 20)
    connection = world.connect()
    connection.send(b"hello")
    world.run(0.05)
    assert bytes(connection.received) == b"hello"
    connection.close()
    world.run(0.05)
    assert connection.state == "ended"
    assert world.host.bad_checksums == 0
    assert world.world.port.stats()["lost_kicks"] == 0


def test_ping_and_arp_are_answered(make: Make) -> None:
    world = make()
    world.find_server()
    world.host.ping(SERVER, 1, b"x" * 1000)
    world.run()
    assert [(one.kind, one.detail) for one in world.host.heard[1:]] == [("echo", "sequence 1, 1000 bytes")]


@pytest.mark.parametrize(
    "kind", ["all", "big packets", "in order", "packed", "packed, in order", "packed, big packets"]
)
def test_much_data_comes_back_in_frames_of_many_segments(make: Make, kind: str) -> None:
    world = make(KINDS[kind], num=256, memory_size=32 << 20)
    connection = world.connect()
    said = bytes(range(256)) * 100
    connection.send(said)
    world.run(1)
    assert bytes(connection.received) == said
    driver = world.world.driver
    assert driver is not None
    assert driver.counters.rx_gso > 0
    assert bool(driver.counters.rx_merged) == ("big packets" not in kind)


def test_frame_of_many_segments_goes_up_whole(make: Make) -> None:
    world = make(memory_size=16 << 20)
    connection = world.connect()
    said = bytes(range(250)) * 100
    connection._send(PSH | ACK, said)
    (frame,) = world.host.take()
    start, at = 34, 34 + 16
    pseudo = ~checksum(frame[26:34], IPPROTO_TCP + len(frame) - start) & 0xFFFF
    frame = frame[:at] + pseudo.to_bytes(2, "big") + frame[at + 2 :]
    driver = world.world.driver
    assert driver is not None
    driver.queue(frame, VnetHdr(VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 54, 1460, start, 16))
    assert driver.tx.publish()
    world.world.kick(TX)
    world.run(1)
    assert bytes(connection.received) == said
    assert driver.counters.tx_gso == 1


@pytest.mark.parametrize("mtu", [576, 1500, 9000])
def test_mtu_reaches_the_device(mtu: int) -> None:
    world = World()
    world.start(0, mtu=mtu)
    assert world.port.mtu == mtu
    assert world.port.offloads.max_frame == mtu + 14
    assert world.port.send(None, [bytes(mtu + 14)])
    world.port.flush()
    world.settle()
    assert [len(frame) for _, frame in world.received] == [mtu + 14]
    world.close()


def test_port_nobody_listens_at_is_refused(make: Make) -> None:
    world = make()
    world.find_server()
    connection = world.host.tcp(SERVER, 9999)
    connection.connect()
    world.run()
    assert connection.state == "reset"


@pytest.mark.parametrize("layout", ["split", "flat", "pieces"])
@pytest.mark.parametrize(("kind", "num"), [("all", 4), ("packed", 4), ("packed", 5)])
def test_small_queues_in_any_memory(make: Make, layout: str, kind: str, num: int) -> None:
    world = make(KINDS[kind], num=num, layout=layout)
    connection = world.connect()
    for word in (b"one", b"two", b"three"):
        connection.send(word)
        world.run(0.05)
    assert bytes(connection.received) == b"onetwothree"


@pytest.mark.parametrize("kind", ["all", "no EVENT_IDX", "packed", "packed, no EVENT_IDX"])
def test_lost_kick_is_made_up_for_after_5_ms(make: Make, kind: str) -> None:
    world = make(KINDS[kind])
    connection = world.connect()
    world.run(0.3)
    world.world.lose_kicks = 1
    connection.send(b"x")
    world.run()
    assert bytes(connection.received) == b""
    world.run(0.1)
    assert bytes(connection.received) == b"x"
    assert world.world.port.stats()["lost_kicks"] == 1


def test_syn_ack_is_repeated_to_a_client_that_lost_its_interrupt(make: Make) -> None:
    world = make(
        WITHOUT_EVENT_IDX
    )  # with EVENT_IDX the driver would have to ask again before it is told of more
    world.find_server()
    world.world.lose_signals = 1
    connection = world.host.tcp(SERVER, 7)
    connection.connect()
    world.run(0.9)
    assert connection.state == "syn-sent"
    world.run(0.2)
    assert connection.state == "established"
    assert len(world.seen) == 3, "ARP's answer and two SYN-ACKs"


@pytest.mark.parametrize("kind", ["legacy", "all", "packed"])
def test_guest_resets_and_comes_back_as_another_driver(make: Make, kind: str) -> None:
    world = make(KINDS["packed" if kind == "all" else "all"])
    connection = world.connect()
    world.world.stop()
    assert not world.world.port.link_up
    world.world.start(KINDS[kind])
    assert world.world.port.link_up
    connection.send(b"still there")
    world.run(0.05)
    assert bytes(connection.received) == b"still there"


@pytest.mark.parametrize("kind", ["all", "in order", "packed", "packed, in order"])
@pytest.mark.parametrize("before", [1, 15, 16, 40])
def test_frontend_reconnects_with_the_rings_as_they_stand(make: Make, kind: str, before: int) -> None:
    world = make(KINDS[kind], num=16)
    connection = world.connect()
    for _ in range(before):
        connection.send(b"1")
        world.run(0.05)
    inner, driver = world.world, world.world.driver
    assert driver is not None
    inner.link.disconnect()
    inner.connect()
    inner.link.run(inner.frontend.connect())
    inner.link.run(inner.frontend.set_features(driver.features & ~vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES)))
    inner.resume()
    connection.send(b"two")
    world.run(0.05)
    assert bytes(connection.received) == b"1" * before + b"two"
    assert inner.port.stats()["resynchronised_rings"] == 0


def test_wrong_base_is_made_up_for_and_counted_once_a_ring(make: Make) -> None:
    world = make()
    connection = world.connect()
    inner, driver = world.world, world.world.driver
    assert driver is not None
    world.world.stop()
    inner.link.run(inner.frontend.start(inner.memory, driver.queues, bases=[0, 0]))
    connection.send(b"x")
    world.run(0.05)
    assert bytes(connection.received) == b"x"
    assert inner.port.stats()["resynchronised_rings"] == 2


def test_same_calls_give_the_same_bytes(make: Make) -> None:
    runs = []
    for _ in range(2):
        world = make()
        connection = world.connect()
        connection.send(bytes(5000))
        world.run(2)
        connection.close()
        world.run(60)
        runs.append([(hdr.astuple(), frame) for hdr, frame in world.seen])
    assert runs[0] == runs[1]
    assert len(runs[0]) > 3
