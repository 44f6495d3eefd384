# SPDX-License-Identifier: GPL-2.0-or-later
"""Each fault on a live ring, met by a driver that checks what the device does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from devmodel.port import VnetHdr
from devmodel.virtio import features as vf
from devmodel.virtio.ringfaults import DeviceFaults
from guest.driver.errors import DeviceBroken
from guest.driver.loop import World
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX

PACKED = DRIVER_FEATURES | vf.mask(vf.VIRTIO_F_RING_PACKED)
LAYOUTS = pytest.mark.parametrize("features", [DRIVER_FEATURES, PACKED], ids=["split", "packed"])
FRAME = bytes(range(60))


class Bench:
    """A driver and a faulty device."""

    def __init__(self, features: int = DRIVER_FEATURES, *script: str, seed: int = 1) -> None:
        self.world = World()
        self.faults = DeviceFaults(random.Random(seed), script)
        self.world.port.inject(self.faults)
        self.driver = self.world.start(features)

    def to_guest(self, *numbers: int) -> None:
        for number in numbers:
            self.world.port.send(None, [FRAME, bytes([number])])
        self.world.port.flush()

    def deliver(self, *numbers: int) -> None:
        """To the guest, whose driver takes them."""
        self.to_guest(*numbers)
        self.world.settle()

    def collect(self, count: int) -> None:
        """From the guest, whose driver takes its buffers back."""
        self.from_guest(count)
        self.given_back()

    def exercise(self, rounds: int) -> None:
        """Both ways by turns."""
        for number in range(rounds):
            self.deliver(number)
            self.collect(1)

    def got(self) -> list[int]:
        self.world.settle()
        return [frame[-1] for _, frame in self.world.received]

    def from_guest(self, count: int) -> None:
        self.world.send(*[FRAME] * count)
        self.world.settle()

    def given_back(self) -> int:
        """Sent buffers that came back so far."""
        self.driver.reclaim()
        return self.driver.counters.tx_reclaimed

    def told(self) -> list[tuple[int, int]]:
        """Queue and occasion of what was injected."""
        return [(one.queue, one.number) for one in self.faults.injected]


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[Bench] = []

    def make(*arguments: Any, **settings: Any) -> Bench:
        made.append(Bench(*arguments, **settings))
        return made[-1]

    yield make
    for one in made:
        one.world.close()


# -- used elements --------------------------------------------------------------------------------------


@LAYOUTS
def test_late_buffer_comes_back_when_its_time_has_come(bench: Any, features: int) -> None:
    rig = bench(features, "tx:late-used:at=2,ms=30")
    rig.from_guest(3)
    assert rig.given_back() == 2
    rig.world.sleep(0.029)
    assert rig.given_back() == 2
    rig.world.sleep(0.002)
    assert rig.given_back() == 3


@LAYOUTS
def test_late_buffer_comes_back_after_so_many_others(bench: Any, features: int) -> None:
    rig = bench(features, "rx:late-used:at=1,ms=1000,more=2")
    rig.to_guest(1)
    assert rig.got() == []
    rig.to_guest(2)
    assert rig.got() == [2]
    rig.to_guest(3)
    assert rig.got() == [2, 3, 1]


@LAYOUTS
def test_late_received_buffer_is_signalled_when_it_comes(bench: Any, features: int) -> None:
    rig = bench(features, "rx:late-used:at=1,ms=30")
    rig.to_guest(1)
    rig.world.sleep(0.029)
    assert rig.got() == []
    rig.world.sleep(0.002)
    assert rig.got() == [1]


@LAYOUTS
def test_reordered_buffer_comes_behind_the_next_or_soon(bench: Any, features: int) -> None:
    rig = bench(features, "rx:reorder-used:every=2")
    rig.to_guest(1, 2, 3, 4)
    assert rig.got() == [1, 3, 2]
    rig.world.sleep(0.006)
    assert rig.got() == [1, 3, 2, 4]


@LAYOUTS
@pytest.mark.parametrize("where", ["rx", "tx"])
def test_duplicated_buffer_is_noticed(bench: Any, features: int, where: str) -> None:
    rig = bench(features, f"{where}:duplicate-used:at=2")
    with pytest.raises(DeviceBroken, match=r"not available|buffers are out|names"):
        rig.deliver(1, 2, 3) if where == "rx" else rig.collect(3)
    assert rig.told() == [(RX if where == "rx" else TX, 2)]


def test_packed_duplicate_without_a_next_buffer_does_not_happen(bench: Any) -> None:
    rig = bench(PACKED, "rx:duplicate-used:at=1")
    rig.to_guest(1)
    assert rig.got() == []
    rig.world.sleep(1.1)
    assert rig.got() == [1]
    assert rig.told() == []
    with pytest.raises(DeviceBroken):
        rig.deliver(2, 3)


@LAYOUTS
@pytest.mark.parametrize("script", ["wrong-head", "bad-head", "bad-head:to=65535"])
@pytest.mark.parametrize("where", ["rx", "tx"])
def test_head_that_the_device_does_not_have_is_noticed(
    bench: Any, features: int, where: str, script: str
) -> None:
    what, _, args = script.partition(":")
    rig = bench(features, f"{where}:{what}:at=2,{args}")
    with pytest.raises(DeviceBroken):
        rig.exercise(40)  # the driver's ring is full at first: there is no idle buffer to name
    assert len(rig.told()) == 1


def test_wrong_head_waits_until_there_is_an_idle_one(bench: Any) -> None:
    rig = bench(DRIVER_FEATURES, "rx:wrong-head:at=1")
    rig.to_guest(1)
    assert rig.got() == [1]
    assert rig.told() == []
    with pytest.raises(DeviceBroken, match="not available"):
        rig.deliver(2)
    assert rig.told() == [(RX, 2)]


@LAYOUTS
def test_more_bytes_than_the_buffer_has_are_noticed(bench: Any, features: int) -> None:
    rig = bench(features, "rx:wrong-length:at=1,to=over")
    with pytest.raises(DeviceBroken, match="room for"):
        rig.deliver(1)


@LAYOUTS
def test_no_bytes_are_noticed(bench: Any, features: int) -> None:
    rig = bench(features, "rx:wrong-length:at=1,to=0")
    with pytest.raises(DeviceBroken, match="0 bytes of a frame"):
        rig.deliver(1)


def test_all_of_the_room_is_a_frame_with_a_tail(bench: Any) -> None:
    rig = bench(DRIVER_FEATURES, "rx:wrong-length:at=1,to=full")
    rig.deliver(1)
    ((_, frame),) = rig.world.received
    assert len(frame) == 1536 - 12
    assert frame.startswith(FRAME)


@LAYOUTS
def test_stuck_queue_gives_nothing_back_until_the_driver_resets_it(bench: Any, features: int) -> None:
    rig = bench(features, "tx:stuck:at=3")
    rig.from_guest(5)
    rig.world.sleep(1.0)
    assert rig.given_back() == 2
    assert rig.world.port.stats()["rx_frames"] == 5
    rig.world.stop()
    rig.driver = rig.world.start(features)
    rig.from_guest(5)
    assert rig.given_back() == 5


# -- headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lies", "noticed"),
    [
        ("num_buffers=0", "num_buffers is 0"),
        ("num_buffers=1000", "num_buffers is 1000"),
        ("gso_type=1,gso_size=0", "gso_size 0"),
        ("gso_type=77", "gso_type 0x4d"),
        ("flags=1,csum_start=5000", "checksum at 5000"),
    ],
)
def test_lies_of_the_header_are_noticed(bench: Any, lies: str, noticed: str) -> None:
    rig = bench(DRIVER_FEATURES, f"rx:header:at=2,{lies}")
    rig.to_guest(1)
    assert rig.got() == [1]
    with pytest.raises(DeviceBroken, match=noticed):
        rig.deliver(2)


def test_header_faults_count_frames_and_not_their_buffers(bench: Any) -> None:
    rig = bench(DRIVER_FEATURES, "rx:header:at=2,hdr_len=777")
    hdr = VnetHdr(1, 1, 54, 1448, 34, 16)
    big = [bytes(12) + b"\x08\x00" + bytes(6000)]  # five buffers
    for _ in range(2):
        assert rig.world.port.send(hdr, big)
    rig.world.port.flush()
    rig.world.settle()
    assert [hdr.hdr_len for hdr, _ in rig.world.received] == [54, 777]


@LAYOUTS
@pytest.mark.parametrize("script", ["reorder-used:every=2", "reorder-used:p=0.3", "late-used:p=0.3,ms=4"])
def test_buffers_of_a_merged_frame_stay_together(bench: Any, features: int, script: str) -> None:
    rig = bench(features, f"rx:{script}")
    frames = [b"".join(bytes([number, part]) * 768 for part in range(4)) for number in range(12)]
    for frame in frames:
        assert rig.world.port.send(VnetHdr(1, 1, 54, 1448, 34, 16), [frame])
        rig.world.port.flush()
        rig.world.sleep(0.001)
    rig.world.sleep(0.1)
    received = [frame for _, frame in rig.world.received]
    assert sorted(received) == sorted(frames)
    assert received != frames


# -- interrupts -----------------------------------------------------------------------------------------


@LAYOUTS
def test_lost_interrupt_is_never_made_up_for(bench: Any, features: int) -> None:
    rig = bench(features, "rx:lost-interrupt:at=2")
    rig.to_guest(1)
    assert rig.got() == [1]
    rig.to_guest(2)
    rig.world.sleep(1.0)
    assert rig.got() == [1]
    rig.to_guest(3)
    rig.world.sleep(1.0)
    assert rig.got() == [1]  # the event index was passed already: a driver that relies on it sleeps for good
    rig.world.poll()
    assert rig.got() == [1, 2, 3]


@LAYOUTS
def test_late_interrupt_comes(bench: Any, features: int) -> None:
    rig = bench(features, "rx:late-interrupt:at=1,ms=7")
    rig.to_guest(1)
    rig.world.sleep(0.006)
    assert rig.got() == []
    rig.world.sleep(0.002)
    assert rig.got() == [1]


def test_spurious_interrupt_finds_nothing(bench: Any) -> None:
    rig = bench(DRIVER_FEATURES, "rx:spurious-interrupt:at=1,ms=7")
    rig.to_guest(1)
    assert rig.got() == [1]
    before = rig.world.port.stats()["signals"]
    rig.world.sleep(0.008)
    assert rig.world.port.stats()["signals"] > before
    assert rig.got() == [1]


# -- the device -----------------------------------------------------------------------------------------


def test_needs_reset_is_in_the_status_that_a_frontend_asks_for(bench: Any) -> None:
    rig = bench(DRIVER_FEATURES, "tx:needs-reset:at=2")
    session = rig.world.link.session
    rig.from_guest(1)
    assert not session.status & 0x40
    rig.from_guest(1)
    assert session.status & 0x40
    assert rig.given_back() == 2


def test_hang_up_closes_the_connection_and_the_next_one_is_served(bench: Any) -> None:
    rig = bench(DRIVER_FEATURES, "tx:hang-up:at=1")
    rig.world.send(FRAME)
    rig.world.settle()
    rig.world.sleep(0.001)
    assert rig.world.link.hung_up()
    assert not rig.world.port.link_up
    rig.world.connect()
    rig.driver = rig.world.start()
    rig.from_guest(3)
    assert rig.given_back() == 3


# -- the script -----------------------------------------------------------------------------------------


def test_script_says_at_which_occasions(bench: Any) -> None:
    rig = bench(DRIVER_FEATURES, "tx:late-used:every=3,ms=1,times=2")
    rig.from_guest(12)
    assert rig.told() == [(TX, 3), (TX, 6)]
    rig.faults.at(2, "tx", "late-used", ms=1)
    rig.from_guest(2)
    assert rig.told()[2:] == [(TX, 2)]


def test_times_narrow_a_fault(bench: Any) -> None:
    rig = bench(DRIVER_FEATURES, "tx:late-used:every=1,ms=1,after=1,until=2")
    for _ in range(3):
        rig.from_guest(1)
        rig.world.sleep(0.9)
    assert [round(one.at_s, 3) for one in rig.faults.injected] == [1.8]


def test_same_seed_same_faults_another_seed_others() -> None:
    def run(seed: int) -> list[tuple[int, int]]:
        rig = Bench(DRIVER_FEATURES, "tx:late-used:p=0.2,ms=1", "tx:reorder-used:p=0.1", seed=seed)
        for _ in range(20):
            rig.from_guest(10)
            rig.world.sleep(0.01)
        rig.world.close()
        return rig.told()

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert 20 < len(run(1)) < 100


def test_each_fault_is_told_with_buffer_and_time(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    rig = bench(DRIVER_FEATURES)
    rig.world.sleep(0.5)
    rig.faults.at(1, "tx", "late-used", ms=2)
    rig.from_guest(1)
    (line,) = [record.getMessage() for record in caplog.records if "fault injected" in record.getMessage()]
    assert line == (
        "in-process: fault injected: tx:late-used: queue 1, head 0: held back for 2 ms"
        " (0.500000 s after the ring started)"
    )
    told = rig.world.port.negotiation()["faults"]
    assert told["rules"] == [{"fault": "tx:late-used:at=1,ms=2", "occasions": 1, "injected": 1}]
    assert told["injected"][0]["ring_s"] == 0.5


@LAYOUTS
def test_rings_that_run_already_take_faults(features: int) -> None:
    world = World()
    driver = world.start(features)
    world.send(FRAME)
    world.settle()
    faults = DeviceFaults(random.Random(1), ["rx:late-used:at=1,ms=3"])
    world.port.inject(faults)
    world.port.send(None, [FRAME])
    world.port.flush()
    world.settle()
    assert world.received == []
    world.sleep(0.004)
    assert len(world.received) == 1
    world.send(FRAME)
    world.settle()
    driver.reclaim()
    assert driver.counters.tx_reclaimed == 2
    world.close()


@LAYOUTS
def test_device_with_no_fault_due_carries_frames_as_without(bench: Any, features: int) -> None:
    rig = bench(features, "rx:stuck:at=1000000", "tx:stuck:at=1000000")
    for round_ in range(30):
        rig.from_guest(7)
        rig.to_guest(*range(round_, round_ + 5))
        rig.world.settle()
    assert rig.given_back() == 210
    assert len(rig.world.received) == 150
    assert rig.world.port.stats()["lost_kicks"] == 0
