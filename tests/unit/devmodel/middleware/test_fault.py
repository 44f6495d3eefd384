# SPDX-License-Identifier: GPL-2.0-or-later
"""A bad wire in virtual time: seeded, so that each figure here is exact."""

from __future__ import annotations

import heapq
import random
import struct
from collections.abc import Callable

from vu_driver import Recorder

from devmodel.middleware.fault import FaultPort, Faults
from devmodel.netdev.loopback import Loopback
from devmodel.port import VnetHdr


class Time:
    """A scheduler whose time passes when told."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, callback))

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, callback = heapq.heappop(self._heap)
            callback()
        self.now = until


class Rig:
    """A fault port on one end of a wire, recorders at both."""

    def __init__(
        self, *, rx: Faults | None = None, tx: Faults | None = None, seed: int = 1, time: Time | None = None
    ) -> None:
        self.wire = Loopback()
        self.time = time or Time()
        self.port = FaultPort(self.wire.a, random.Random(seed), self.time, rx=rx, tx=tx)
        self.behind, self.guest = Recorder(), Recorder()
        self.port.attach(self.behind)
        self.wire.b.attach(self.guest)

    def to_guest(self, *frames: bytes) -> list[bytes]:
        for frame in frames:
            assert self.port.send(None, [frame])
        self.port.flush()
        self.wire.pump()
        return self.got()

    def from_guest(self, *frames: bytes) -> list[bytes]:
        for frame in frames:
            self.wire.b.send(None, [frame])
        self.wire.b.flush()
        self.wire.pump()
        return [frame for _, frame in self.behind.frames]

    def wait(self, until: float) -> list[bytes]:
        self.time.run(until)
        self.wire.pump()
        return self.got()

    def got(self) -> list[bytes]:
        return [frame for _, frame in self.guest.frames]


def frames(count: int) -> list[bytes]:
    return [number.to_bytes(2, "big") + bytes(58) for number in range(count)]


def test_no_faults_pass_everything_both_ways() -> None:
    rig = Rig()
    assert rig.to_guest(*frames(5)) == frames(5)
    assert rig.from_guest(*frames(5)) == frames(5)


def test_loss_drops_that_share_and_counts_it() -> None:
    rig = Rig(tx=Faults(loss=0.2))
    got = rig.to_guest(*frames(1000))
    lost = rig.port.stats()["fault_tx_lost"]
    assert len(got) == 1000 - lost
    assert 150 < lost < 250


def test_same_seed_gives_the_same_faults() -> None:
    faults = Faults(loss=0.1, duplicate=0.1, reorder=0.1, corrupt=0.1)
    runs = [Rig(tx=faults, seed=7).to_guest(*frames(300)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] != Rig(tx=faults, seed=8).to_guest(*frames(300))


def test_duplicates_come_twice_in_a_row() -> None:
    rig = Rig(rx=Faults(duplicate=1.0))
    assert rig.from_guest(*frames(2)) == [frame for frame in frames(2) for _ in range(2)]


def test_reordered_frame_leaves_after_the_next() -> None:
    rig = Rig(tx=Faults(reorder=1.0))
    one, two, three = frames(3)
    assert rig.to_guest(one, two) == [two, one]
    assert rig.to_guest(three) == [two, one]
    assert rig.wait(0.005) == [two, one, three]


def test_corruption_flips_one_bit_behind_the_addresses() -> None:
    rig = Rig(tx=Faults(corrupt=1.0))
    for frame, damaged in zip(frames(50), rig.to_guest(*frames(50)), strict=True):
        difference = int.from_bytes(frame, "big") ^ int.from_bytes(damaged, "big")
        assert difference.bit_count() == 1
        assert frame[:12] == damaged[:12]


def test_corruption_completes_a_partial_checksum_first() -> None:
    rig = Rig(tx=Faults(corrupt=1.0))
    rig.port.send(VnetHdr(1, 0, 0, 0, 34, 16), [bytes(60)])
    rig.port.flush()
    rig.wire.pump()
    [(hdr, frame)] = rig.guest.frames
    assert hdr is None
    assert frame[50:52] != bytes(2)


def test_delay_holds_frames_that_long_and_in_order() -> None:
    rig = Rig(tx=Faults(delay=0.1, jitter=0.05))
    assert rig.to_guest(*frames(20)) == []
    assert rig.wait(0.0999) == []
    assert rig.wait(0.15) == frames(20)


class LateTime(Time):
    """One whose clock goes on while frames are put, as a real one does: by less for each frame."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> None:
        super().call_later(delay + 1e-5 / (1 + self._number), callback)


def test_jitter_keeps_frames_in_order_whatever_the_clock_does() -> None:
    rig = Rig(tx=Faults(delay=0.02, jitter=0.01), time=LateTime())
    rig.to_guest(*frames(50))
    assert rig.wait(1.0) == frames(50)


def test_frame_does_not_overtake_those_that_wait_when_the_delay_ends() -> None:
    rig = Rig(tx=Faults(delay=0.02))
    rig.to_guest(frames(2)[0])
    rig.port.set_faults(tx=Faults())
    assert rig.to_guest(frames(2)[1]) == []
    assert rig.wait(0.1) == frames(2)


def test_frames_that_are_due_together_arrive_as_one_batch() -> None:
    rig = Rig(rx=Faults(delay=0.02))
    rig.from_guest(*frames(5))
    batches = rig.behind.batches
    rig.wait(0.1)
    assert [frame for _, frame in rig.behind.frames] == frames(5)
    assert rig.behind.batches == batches + 1


def test_rate_spaces_frames_out() -> None:
    rig = Rig(tx=Faults(rate=6000.0))
    rig.to_guest(*frames(10))
    assert len(rig.wait(0.0501)) == 5
    assert len(rig.wait(0.1001)) == 10


def test_rate_queue_overflows() -> None:
    rig = Rig(tx=Faults(rate=6000.0, rate_queue=3))
    rig.to_guest(*frames(10))
    assert rig.wait(1.0) == frames(3)
    assert rig.port.stats()["fault_tx_overflow"] == 7


def test_segmented_gso_frame_loses_segments_not_the_whole() -> None:
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 0, 1, 0x4000, 64, 6, 0, b"\x0a\0\2\2", b"\x0a\0\2\x0f")
    tcp = struct.pack(">HHIIBBHHH", 80, 49152, 1, 1, 0x50, 0x10, 512, 0, 0)
    frame = bytes(12) + b"\x08\x00" + ip + tcp + bytes(45 * 1000)
    rig = Rig(tx=Faults(loss=0.2, segment=True))
    rig.port.send(VnetHdr(1, 1, 54, 1000, 34, 16), [frame])
    rig.port.flush()
    rig.wire.pump()
    lost = rig.port.stats()["fault_tx_lost"]
    assert 0 < lost < 20
    assert len(rig.got()) == 45 - lost
    assert {hdr for hdr, _ in rig.guest.frames} == {None}


def test_closed_port_delivers_nothing_late() -> None:
    rig = Rig(tx=Faults(delay=0.1))
    rig.to_guest(*frames(1))
    rig.port.close()
    assert rig.wait(1.0) == []


def test_faults_can_be_exchanged() -> None:
    rig = Rig(tx=Faults(loss=1.0))
    assert rig.to_guest(*frames(3)) == []
    rig.port.set_faults(tx=Faults())
    assert rig.to_guest(*frames(3)) == frames(3)
