# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.soak``: a day of a device's life, and whether it has more of anything at the end than at the start.

Random reconnects, resets of the device and of single queues, feature sets, memory tables, floods, refused requests and
broken rings, with traffic between them all of which has to come back; seeded, so that a run can be had again. At each
quarter everything is put down (no frontend, no guest memory), and counted: descriptors, mappings of guest memory,
timers, readers of the event loop, live objects, resident memory. Of the first four there must be as many as at the
first quarter, of the others no more than `SLACK`.

Twice over. In process (`InProcess`) time is virtual: the driver, the frontend's messages and the device of
guest/driver/loop.py, for 24 hours in which a device that is left alone looks at its rings each 80 ms. Over a unix
socket (`OverSocket`) time is real, and descriptors, mappings and eventfds are the kernel's; that is counted in rounds.

What has no place here: guests (tests/vm), a stack behind the device (tests/sim), several queue pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from devmodel.port import Buffer, Offloads, VnetHdr
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.message import Request
from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio import features as vf
from devmodel.virtio.memory import RegionSpec
from guest.driver.backend import Backend
from guest.driver.errors import BackendHungUp, RequestRefused
from guest.driver.frontend import PROTOCOL_FEATURES, Call, Frontend, RingFds, Steps, encode_single
from guest.driver.loop import DirectLink, StepLoop
from guest.driver.memory import LAYOUTS, PAGE, DriverMemory
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX, VirtioNetDriver, make_queue
from guest.driver.virtqueue import Piece, QueueFull

T = TypeVar("T")

MEMORY: Final = 8 << 20
PAUSE_S: Final = 5.0
"""Mean time between two events: 17 280 in a day."""
OFFERED_PROTOCOL: Final = vs.PROTOCOL_FEATURES | vf.mask(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)
LAYOUT_FEATURES: Final = vf.mask(vf.VIRTIO_F_RING_PACKED, vf.VIRTIO_F_IN_ORDER)
FAR: Final = 0x10_0000_0000
"""Where regions that hold nothing lie, by all three addresses."""
EXACT: Final = ("fds", "maps", "timers", "readers")
SLACK: Final = {"blocks": 2000, "rss_kib": 2048}
"""Objects in a dictionary that grew or a cache that filled; a page or two of the allocator's: a leak of 100 bytes an
event would be 430 KiB and 4000 objects between two quarters of a day."""


@dataclass(frozen=True)
class Census:
    """What there is. `blocks`: live objects, as the interpreter's allocator counts them."""

    at: float  # hours, or rounds
    fds: int
    maps: int
    timers: int
    readers: int
    blocks: int
    rss_kib: int


def count(at: float, timers: int, readers: int) -> Census:
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count("memfd:")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    blocks = sys.getallocatedblocks()
    return Census(at, len(os.listdir("/proc/self/fd")), maps, timers, readers, blocks, pages * (PAGE >> 10))


def leaks(marks: Sequence[Census]) -> list[str]:
    """What there is more of at a later mark than at the first, in words; none if all is well."""
    found = []
    first = marks[0]
    for mark in marks[1:]:
        for name in (*EXACT, *SLACK):
            before, now = getattr(first, name), getattr(mark, name)
            if now > before + SLACK.get(name, 0):
                found.append(f"{name}: {before} at {first.at:g}, {now} at {mark.at:g}")
    return found


class Echo:
    """Behind the port: gives every frame back, after the batch."""

    def __init__(self, port: VhostUserServer) -> None:
        self.port = port
        self.batch: list[bytes] = []
        port.attach(self)

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self.batch.append(frame)

    def batch_done(self) -> None:
        batch, self.batch = self.batch, []
        for frame in batch:
            parts: Sequence[Buffer] = [frame[:14], frame[14:]]
            if not self.port.send(None, parts):
                raise AssertionError("an answer was dropped")

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        pass


class Line(Protocol):
    """What joins the frontend to the device."""

    port: VhostUserServer

    @property
    def fds(self) -> Sequence[RingFds]:
        """One for each ring; none where kicks need no descriptor."""

    def connect(self) -> None: ...

    def hang_up(self) -> None: ...

    def run(self, steps: Steps[T]) -> T: ...

    def call(self, call: Call) -> bytes: ...

    def kick(self, index: int) -> None: ...

    def wait(self) -> bool:
        """Until a ring was signalled; False if nothing will be."""

    def behind(self, work: Callable[[], T]) -> T:
        """Call something where the device lives."""

    def idle(self, seconds: float) -> None:
        """Let the device do what it has to, and time pass."""

    def census(self, at: float) -> Census: ...

    def close(self) -> None: ...


class InProcess:
    """A Line on a step clock."""

    fds: Sequence[RingFds] = ()

    def __init__(self) -> None:
        self.loop = StepLoop()
        self.port = VhostUserServer(None, self.loop, "soak", protocol_features=OFFERED_PROTOCOL)
        Echo(self.port)
        self.link: DirectLink

    def connect(self) -> None:
        def make(session: vs.Session) -> DirectLink:
            self.link = DirectLink(self.loop, session, self.port)
            return self.link

        self.port.serve(make)

    def hang_up(self) -> None:
        self.link.disconnect()

    def run(self, steps: Steps[T]) -> T:
        return self.link.run(steps)

    def call(self, call: Call) -> bytes:
        return self.link.call(call)

    def kick(self, index: int) -> None:
        self.link.kick(index)

    def wait(self) -> bool:
        while not (signalled := self.link.take_signals()) and self.loop.run_ready():
            pass
        return bool(signalled)

    def behind(self, work: Callable[[], T]) -> T:
        return work()

    def idle(self, seconds: float) -> None:
        until = self.loop.now + seconds
        while self.loop.run_ready():
            pass
        while (due := self.loop.next_deadline()) is not None and due <= until:
            self.loop.now = max(due, self.loop.now)
            while self.loop.run_ready():
                pass
        self.loop.now = until

    def census(self, at: float) -> Census:
        self.idle(1.0)
        live = [timer for _, _, timer in self.loop._timers if not timer.cancelled]
        return count(at, len(live), 0)

    def close(self) -> None:
        self.port.close()


class OverSocket:
    """A Line to a server at a unix socket, whose event loop runs in a thread."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "soak.sock")
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="soak")
        self._thread.start()
        self._faults: list[dict[str, Any]] = []
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(5)
        self.backend: Backend | None = None

    async def _listen(self) -> VhostUserServer:
        self.loop.set_exception_handler(lambda _, context: self._faults.append(context))
        port = await VhostUserServer.listen(self.path, protocol_features=OFFERED_PROTOCOL)
        Echo(port)
        return port

    @property
    def _there(self) -> Backend:
        assert self.backend is not None
        return self.backend

    @property
    def fds(self) -> Sequence[RingFds]:
        return self._there.fds

    def connect(self) -> None:
        self.backend = Backend(self.path)
        self.backend.connect()

    def hang_up(self) -> None:
        self._there.close()
        self.backend = None
        until = time.monotonic() + 5
        while self.behind(lambda: self.port.connected):
            if time.monotonic() > until:
                raise AssertionError("the device did not see that its frontend is gone")

    def run(self, steps: Steps[T]) -> T:
        return self._there.run(steps)

    def call(self, call: Call) -> bytes:
        return self._there.call(call)

    def kick(self, index: int) -> None:
        self._there.kick(index)

    def wait(self) -> bool:
        self._check()
        return bool(self._there.wait([RX, TX], 5.0))

    def _check(self) -> None:
        if self._faults:
            raise AssertionError(f"in the device's event loop: {self._faults[0]}")

    def behind(self, work: Callable[[], T]) -> T:
        async def there() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(there(), self.loop).result(5)

    def idle(self, seconds: float) -> None:
        """Real time is not passed: the device gets two turns."""
        for _ in range(2):
            self.behind(lambda: None)

    def census(self, at: float) -> Census:
        self._check()
        self.idle(0)
        readers = len(self.loop._selector.get_map())  # type: ignore[attr-defined]
        live = [one for one in self.loop._scheduled if not one.cancelled()]  # type: ignore[attr-defined]
        return count(at, len(live), readers)

    def close(self) -> None:
        self.behind(self.port.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


class Guest:
    """A guest that its owner cannot leave alone: `event()` does one thing to it, and shows that it still works."""

    def __init__(self, line: Line, rng: random.Random) -> None:
        self.line, self.rng = line, rng
        self.frontend = Frontend()
        self.memory: DriverMemory | None = None
        self.driver: VirtioNetDriver | None = None
        self.number = 0
        self.events: dict[str, int] = {}
        self.frames = 0
        self._deeds: tuple[tuple[int, Callable[[], None]], ...] = (
            (40, self.chat),
            (6, self.flood),
            (10, self.reset),
            (10, self.reset_queue),
            (8, self.come_back),
            (8, self.come_anew),
            (8, self.change_memory),
            (4, self.lose_memory),
            (6, self.disable),
            (6, self.break_ring),
            (6, self.be_refused),
        )

    def event(self) -> None:
        (deed,) = self.rng.choices([deed for _, deed in self._deeds], [weight for weight, _ in self._deeds])
        self.events[deed.__name__] = self.events.get(deed.__name__, 0) + 1
        deed()
        self.say(self.rng.randint(1, 8))

    # -- coming and going ----------------------------------------------------------------------------------------

    def arrive(self) -> None:
        """Connect with fresh memory; rings run."""
        layout = self.rng.choice(list(LAYOUTS))
        self.memory = DriverMemory(LAYOUTS[layout](MEMORY))
        self.connect()
        self.start()

    def leave(self) -> None:
        """Put everything down. All that the driver took of its memory has to be there again."""
        assert self.memory is not None
        self.line.hang_up()
        self.let_go()
        if self.memory.taken:
            raise AssertionError(
                f"{self.memory.taken} pieces of its memory were not given back by the driver"
            )
        self.memory.close()
        self.memory = None
        self.frontend.forget()

    def connect(self) -> None:
        self.frontend.forget()
        without = self.rng.choice((0, vu.VHOST_USER_PROTOCOL_F_REPLY_ACK, vu.VHOST_USER_PROTOCOL_F_STATUS))
        slots = self.rng.choice((0, vf.mask(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)))
        self.frontend.wanted_protocol = PROTOCOL_FEATURES & ~slots & ~vf.mask(without)
        self.line.connect()
        self.line.run(self.frontend.connect())

    def let_go(self) -> None:
        if self.driver is not None:
            self.driver.release()
            self.driver = None

    def start(self) -> None:
        """Another driver, with other features and queues."""
        assert self.memory is not None
        self.let_go()
        rng, frontend = self.rng, self.frontend
        if rng.random() < 0.3:
            self.line.run(frontend.set_mtu(rng.choice((576, 1500, 9000))))
        self.line.run(frontend.set_features(self.some_features() & frontend.offered))
        self.driver = VirtioNetDriver(self.memory, frontend.features, self.some_size())
        self.driver.refill()
        self.resume()

    def resume(self) -> None:
        assert self.memory is not None
        assert self.driver is not None
        self.line.run(self.frontend.start(self.memory, self.driver.queues, self.line.fds))
        self.driver.rx.enable_calls()

    def some_features(self) -> int:
        rng = self.rng
        features = rng.choice((DRIVER_FEATURES, DRIVER_FEATURES, rng.getrandbits(64) & DRIVER_FEATURES, 0))
        if features >> vf.VIRTIO_F_VERSION_1 & 1:
            features |= rng.getrandbits(64) & LAYOUT_FEATURES
        return features

    @property
    def packed(self) -> bool:
        return bool(self.frontend.features >> vf.VIRTIO_F_RING_PACKED & 1)

    def some_size(self) -> int:
        return self.rng.randint(4, 64) if self.packed else 1 << self.rng.randint(2, 6)

    # -- traffic -------------------------------------------------------------------------------------------------

    def say(self, number: int) -> None:
        """Send frames, and have each of them back, in order."""
        assert self.driver is not None
        sent = []
        for _ in range(number):
            self.number += 1
            frame = struct.pack("<Q", self.number) * self.rng.randint(8, 170)
            try:
                self.driver.queue(frame)
            except QueueFull:
                break
            sent.append(frame)
        if self.driver.tx.publish():
            self.line.kick(TX)
        self.expect(sent)

    def expect(self, frames: Sequence[bytes]) -> None:
        assert self.driver is not None
        got: list[bytes] = []
        while len(got) < len(frames) and self.line.wait():
            came, kick = self.driver.receive()
            if kick:
                self.line.kick(RX)
            got += [frame for _, frame in came]
        if got != list(frames):
            what = f"{len(got)} frames came of {len(frames)}, after {self.events}"
            raise AssertionError(f"{what}; {self.line.behind(self.line.port.stats)}")
        self.frames += len(got)

    def chat(self) -> None:
        for _ in range(self.rng.randint(1, 8)):
            self.say(self.rng.randint(1, 64))

    def flood(self) -> None:
        """More from behind than there are buffers for: some waits, some is dropped; or nobody looks any more."""
        size = self.rng.randint(60, 1400)

        def send() -> list[bytes]:
            frames = [
                struct.pack("<I", number).ljust(size, b"f") for number in range(self.rng.randint(1, 400))
            ]
            taken = [frame for frame in frames if self.line.port.send(None, [frame])]
            self.line.port.flush()
            return taken

        waiting = self.line.behind(send)
        if self.rng.random() < 0.5:
            self.expect(waiting)
        else:
            self.line.idle(self.rng.expovariate(1.0))
            self.come_anew()

    # -- what is done to it --------------------------------------------------------------------------------------

    def reset(self) -> None:
        """The guest's driver is unloaded and loaded again."""
        assert self.driver is not None
        if self.rng.random() < 0.5:
            self.line.run(self.frontend.stop(self.driver.queues))
        else:
            self.line.run(self.frontend.reset(self.driver.queues))
        self.start()

    def reset_queue(self) -> None:
        """One ring ends and begins anew, the other goes on."""
        assert self.memory is not None
        assert self.driver is not None
        index = self.rng.choice((RX, TX))
        self.line.run(self.frontend.get_base(index))
        for pieces in self.driver.queues[index].release():
            self._free(pieces)
        queue = make_queue(self.memory, index, self.some_size(), self.frontend.features)
        self.driver.queues[index] = queue
        if index == RX:
            self.driver.refill()
            queue.enable_calls()
        else:
            queue.disable_calls()
        fds = self.line.fds
        self.line.run(self.frontend.start_ring(queue, fds[index] if fds else None))

    def _free(self, pieces: Iterable[Piece]) -> None:
        assert self.memory is not None
        for piece in pieces:
            self.memory.free(piece.gpa)

    def come_back(self) -> None:
        """The connection is lost and made again; the rings are as they were."""
        features = self.frontend.features & ~vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES)
        self.line.hang_up()
        self.connect()
        self.line.run(self.frontend.set_features(features))
        self.resume()

    def come_anew(self) -> None:
        """Another QEMU in the place of the one that ended."""
        self.leave()
        self.line.idle(self.rng.expovariate(1 / PAUSE_S))
        self.arrive()

    def change_memory(self) -> None:
        """Memory is plugged in and out while rings run: they move along."""
        assert self.memory is not None
        spec = RegionSpec(FAR, PAGE * self.rng.randint(1, 64), FAR, 0)
        fd = os.memfd_create("soak", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, spec.size)
            self._plug(spec, fd)
        finally:
            os.close(fd)

    def _plug(self, spec: RegionSpec, fd: int) -> None:
        assert self.memory is not None
        run, request, specs = self.line.run, self.frontend.request, self.memory.specs
        if self.frontend.has(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS):
            run(request(Request.VHOST_USER_ADD_MEM_REG, encode_single(spec), [fd]))
            self.say(4)
            run(self.frontend.remove_region(spec))
            return
        more = [*specs, spec]
        fds = [self.memory.fd] * len(specs)
        run(request(Request.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table(more), [*fds, fd]))
        self.say(4)
        run(request(Request.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table(specs), fds))

    def lose_memory(self) -> None:
        """A table without the rings: they are broken, until a driver starts anew."""
        assert self.memory is not None
        assert self.driver is not None
        spec = self.memory.specs[0]._replace(gpa=FAR, uva=FAR)
        table = vu.encode_mem_table([spec])
        self.line.run(self.frontend.request(Request.VHOST_USER_SET_MEM_TABLE, table, [self.memory.fd]))
        self.line.run(self.frontend.stop(self.driver.queues))
        self.frontend.memory = None
        if self.frontend.has(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS):
            self.line.run(self.frontend.remove_region(spec))
        self.start()

    def disable(self) -> None:
        """The rings run and may not be used: what is sent is discarded."""
        assert self.driver is not None
        for index in (RX, TX):
            self.line.run(self.frontend.enable(index, False))
        self.driver.queue(bytes(60))
        if self.driver.tx.publish():
            self.line.kick(TX)
        self.line.idle(0.1)
        self.line.run(self.frontend.number(Request.VHOST_USER_GET_FEATURES))
        for index in (RX, TX):
            self.line.run(self.frontend.enable(index, True))

    def break_ring(self) -> None:
        """Nonsense in a ring that the device is made to look at. The next driver is served all the same."""
        assert self.memory is not None
        assert self.driver is not None
        queue = self.driver.queues[self.rng.choice((RX, TX))]
        for gpa, size in zip((queue.desc_gpa, queue.driver_gpa), queue.sizes, strict=False):
            self.memory.write(gpa, self.rng.randbytes(size))
        self.line.kick(queue.index)
        self.line.idle(0.1)
        self.come_anew() if self.rng.random() < 0.5 else self._start_over()

    def _start_over(self) -> None:
        assert self.driver is not None
        self.line.run(self.frontend.stop(self.driver.queues))
        self.start()

    def be_refused(self) -> None:
        """A memory table whose file is too short, with its descriptor: a refusal, or the end of the session."""
        assert self.memory is not None
        spec = RegionSpec(FAR, 2 * self.memory.size, FAR, 0)
        request = self.frontend.request(
            Request.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table([spec]), [self.memory.fd]
        )
        try:
            self.line.run(request)
            self.line.run(self.frontend.number(Request.VHOST_USER_GET_FEATURES))
        except RequestRefused:
            return
        except BackendHungUp:
            self.come_anew()
            return
        raise AssertionError("a memory table beyond its file was taken")


@dataclass(frozen=True)
class Result:
    name: str
    seed: int
    marks: tuple[Census, ...]
    events: dict[str, int]
    frames: int
    seconds: float

    @property
    def leaks(self) -> list[str]:
        return leaks(self.marks)


def soak(name: str, line: Line, seed: int, until: float, step: Callable[[], float]) -> Result:
    """Live until `step()`, the time or the rounds that are over, reaches `until`; a census at each quarter."""
    began = time.monotonic()
    guest = Guest(line, random.Random(seed))
    marks = []
    for quarter in range(1, 5):
        guest.arrive()
        while step() < until * quarter / 4:
            guest.event()
            line.idle(guest.rng.expovariate(1 / PAUSE_S))
        guest.leave()
        marks.append(line.census(step()))
    return Result(name, seed, tuple(marks), guest.events, guest.frames, time.monotonic() - began)


def in_process(hours: float, seed: int) -> Result:
    line = InProcess()
    try:
        return soak("in process", line, seed, hours, lambda: line.loop.now / 3600)
    finally:
        line.close()


def over_socket(rounds: int, seed: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        line = OverSocket(folder)
        done = iter(range(rounds + 8))
        try:
            return soak("unix socket", line, seed, rounds, lambda: next(done))
        finally:
            line.close()


def _print(result: Result, unit: str) -> None:
    total = sum(result.events.values())
    print(
        f"{result.name}, seed {result.seed}: {total} events, {result.frames} frames there and back, "
        f"{result.seconds:.1f} s"
    )
    print(f"  {unit:>8}" + "".join(f"{name:>9}" for name in (*EXACT, *SLACK)))
    for mark in result.marks:
        row = asdict(mark)
        print(f"  {mark.at:8.1f}" + "".join(f"{row[name]:9}" for name in (*EXACT, *SLACK)))
    for leak in result.leaks:
        print(f"  LEAK {leak}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--hours", type=float, default=24.0, help="of virtual time, for each seed")
    parser.add_argument("--rounds", type=int, default=2000, help="events over a socket, for each seed")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(argv)
    logger = logging.getLogger("devmodel")
    level = logger.level
    logger.setLevel(logging.ERROR)  # rings are broken by the hundred
    try:
        return _soak_all(options.hours, options.rounds, options.seeds)
    finally:
        logger.setLevel(level)


def _soak_all(hours: float, rounds: int, seeds: int) -> int:
    bad = 0
    for seed in range(1, seeds + 1):
        for result, unit in ((in_process(hours, seed), "hours"), (over_socket(rounds, seed), "rounds")):
            _print(result, unit)
            bad += len(result.leaks)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
