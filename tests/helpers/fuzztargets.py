# SPDX-License-Identifier: GPL-2.0-or-later
"""What is given any bytes at all: one function for each part of the device that reads what it did not write.

A target takes bytes and returns, or raises what its caller would have to live with, which is a finding. Beyond that it
checks what no exception shows: that nothing was written to memory which no driver gave away (`Painted`), that the work
was bounded, that no descriptor was left open.

    @target("name")
    def name(data: bytes) -> None: ...

is all that a new one needs, with a file or two in tests/fuzz/corpus/name. tests/fuzz/test_targets.py runs all of them
over their corpus and over random bytes; `make fuzz` runs them under atheris, which looks for bytes that reach new code.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from devmodel.errors import BrokenRing, FrontendError, StateError
from devmodel.netdev.base import MAX_FRAME
from devmodel.netdev.offload import finish
from devmodel.netdev.stream import FrameReader, FramingError
from devmodel.port import Buffer, Offloads, VnetHdr
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.backend_channel import MAX_PENDING, Answer, BackendChannel
from devmodel.vhost_user.message import Message, MessageReader
from devmodel.vhost_user.server import CHAINS_PER_TURN, VhostUserServer
from devmodel.virtio import features as vf
from devmodel.virtio import state as virtio_state
from devmodel.virtio.ctrl import ControlQueue
from devmodel.virtio.dirtylog import DirtyLog, log_size
from devmodel.virtio.inflight import (
    InflightRegion,
    InflightSpec,
    PackedState,
    SplitState,
    queue_bytes,
)
from devmodel.virtio.iotlb import MAX_MISSES, MAX_RUNS, MAX_RUNS_OF_PIECE, PAGE, Iotlb, IotlbMemory, IotlbMiss
from devmodel.virtio.memory import GuestMemory, Region, RegionSpec
from devmodel.virtio.net import VirtioNet
from devmodel.virtio.ring import DESCRIPTORS_PER_CHAIN, Ring
from devmodel.virtio.ring_kinds import Marks, Place
from devmodel.virtio.ring_kinds import packed_ring as make_packed
from devmodel.virtio.ring_kinds import split_ring as make_split
from devmodel.virtio.rss import Steering
from devmodel.virtio.rxfilter import RxFilter
from devmodel.virtio.spec import ETH_HLEN, MAX_GSO_FRAME, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_WRITE
from guest.driver.loop import DirectLink, StepLoop

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {}
CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
MAX_INPUT = 4096


class Finding(AssertionError):
    """Something that no input may bring about."""


def target(name: str) -> Callable[[Target], Target]:
    def register(function: Target) -> Target:
        TARGETS[name] = function
        return function

    return register


def corpus(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Finding(what)


class Input:
    """The bytes, taken from the front; zeroes behind their end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return max(0, len(self.data) - self.at)

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        self.at += size
        return piece.ljust(size, b"\0")

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "little")

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def rest(self) -> bytes:
        piece = self.data[self.at :]
        self.at = len(self.data)
        return piece


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- memory ---------------------------------------------------------------------------------------------------------

HIGH = 0x20000
SIZES = ((0, 0x8000), (0x8000, 0x4000), (HIGH, 0x2000))
"""Two regions that touch and one behind a hole, as (gpa, size)."""
DESC, DRIVER, DEVICE, TABLES = 0x1000, 0x3000, 0x5000, 0x9000
BUFFERS, BUFFERS_END = 0xA000, 0xC000
"""Where every 256 bytes a header lies that the input chose."""
MAX_NUM = 32
_DESC = struct.Struct("<QIHH")
_ENTRY = struct.Struct("<QHHIQ")  # of an inflight region of packed queues: counter, id, flags, len, addr
_SHORT_DESC = struct.Struct("<IHHH")


class _Plain:
    """A Mapping of memory that nobody shares."""

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def close(self) -> None:
        self.view.release()


class Painted:
    """Guest memory of which every byte is known: what the device changed can be told from what it may have changed."""

    def __init__(self) -> None:
        self._stores = [bytearray(bytes(range(256)) * (size // 256)) for _, size in SIZES]
        self.memory = GuestMemory(
            [
                Region(RegionSpec(gpa, size, gpa + (1 << 40), 0), _Plain(memoryview(store)))
                for (gpa, size), store in zip(SIZES, self._stores, strict=True)
            ]
        )
        self._before: list[bytes] = []

    def changed(self) -> set[int]:
        """The addresses of all bytes that differ from what is remembered."""
        return {
            start + at
            for (start, _), before, now in zip(SIZES, self._before, self._stores, strict=True)
            if before != now
            for at, (old, new) in enumerate(zip(before, now, strict=True))
            if old != new
        }

    def view(self, gpa: int, size: int) -> memoryview:
        (piece,) = self.memory.pieces(gpa, size) or []
        return piece

    def write(self, gpa: int, data: bytes) -> None:
        self.view(gpa, len(data))[:] = data

    def remember(self) -> None:
        """The driver has done its part; from here on only the device writes."""
        self._before = [bytes(store) for store in self._stores]

    def check(self, given: Iterable[tuple[int, int]]) -> None:
        """Nothing but these (gpa, size) may differ from what is remembered."""
        now = [bytearray(store) for store in self._stores]
        for gpa, size in given:
            for (start, room), before, after in zip(SIZES, self._before, now, strict=True):
                first, last = max(gpa - start, 0), min(gpa + size - start, room)
                if first < last:
                    after[first:last] = before[first:last]
        for (start, _), before, after in zip(SIZES, self._before, now, strict=True):
            if before != after:
                at = next(at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
                raise Finding(f"the device wrote to {start + at:#x}, which nobody gave it")


def overlaps(these: Iterable[tuple[int, int]], those: Iterable[tuple[int, int]]) -> bool:
    others = list(those)
    return any(a < d + s and d < a + n for a, n in these for d, s in others)


# -- rings ----------------------------------------------------------------------------------------------------------


class RingInput:
    """A ring of any contents: what the driver laid out, and what it thereby lets the device write."""

    def __init__(self, source: Input, packed: bool) -> None:
        self.source, self.packed = source, packed
        self.painted = Painted()
        features = source.number(2)
        self.features = vf.mask(
            *(bit for at, bit in enumerate(RING_CHOICES) if features >> at & 1),
            *([vf.VIRTIO_F_RING_PACKED] if packed else []),
        )
        size = source.number()
        self.num = 1 + size % MAX_NUM if packed else 1 << size % 6
        self.receives = bool(source.number() & 1)
        self.base = source.number(4)
        self._avail = source.number(2)
        self._events = source.take(8)
        self.descriptors = self._lay(DESC, self.num)
        self.tables = self._lay(TABLES, MAX_NUM)
        self._lay_driver_area()
        header = self.source.take(12)
        for gpa in range(BUFFERS, BUFFERS_END, 0x100):
            self.painted.write(gpa, header)
        self.painted.remember()

    def _lay(self, gpa: int, count: int) -> list[tuple[int, int, int]]:
        """Descriptors in memory, as (addr, len, flags): ten bytes of the input each."""
        found = []
        for number in range(count):
            addr, size, third, fourth = self.source.fields(_SHORT_DESC)
            addr = (
                addr & 0xFFFFF if addr >> 31 else ((addr & 0xFFFFFF) << 40 if addr >> 30 else addr & 0x2FFFF)
            )
            length = size if size < 0xFF00 else size << 16
            body = _DESC.pack(addr, length, third, fourth)
            self.painted.write(gpa + 16 * number, body)
            found.append((addr, length, fourth if self.packed else third))
        return found

    def _lay_driver_area(self) -> None:
        if self.packed:
            self.painted.write(DRIVER, self._events[:4])
            self.painted.write(DEVICE, bytes(4))
            return
        ring = b"".join(self.source.take(2) for _ in range(self.num))
        self.painted.write(
            DRIVER, self._events[:2] + struct.pack("<H", self._avail) + ring + self._events[2:4]
        )
        self.painted.write(
            DEVICE, self._events[4:6] + struct.pack("<H", self.base & 0xFFFF) + bytes(8 * self.num + 2)
        )

    @property
    def device_area(self) -> list[tuple[int, int]]:
        if self.packed:
            return [(DEVICE, 4), (DESC, 16 * self.num)]
        return [(DEVICE, 6 + 8 * self.num)]

    def given(self) -> list[tuple[int, int]]:
        """All that any descriptor says may be written, whether or not it is ever taken; tables may lie anywhere."""
        ranges = [(addr, size) for addr, size, flags in self.descriptors if flags & VIRTQ_DESC_F_WRITE]
        for addr, size, flags in self.descriptors:
            if flags & VIRTQ_DESC_F_INDIRECT:
                table = self.painted.memory.read(addr, min(size, 16 * self.num)) or b""
                for at in range(0, len(table) - 15, 16):
                    inner, length, third, fourth = _DESC.unpack_from(table, at)
                    flags_of = fourth if self.packed else third
                    ranges += [(inner, length)] if flags_of & VIRTQ_DESC_F_WRITE else []
        return ranges

    def areas(self) -> tuple[memoryview, memoryview, memoryview]:
        view = self.painted.view
        if self.packed:
            return view(DESC, 16 * self.num), view(DRIVER, 4), view(DEVICE, 4)
        return view(DESC, 16 * self.num), view(DRIVER, 6 + 2 * self.num), view(DEVICE, 6 + 8 * self.num)

    def rules(self) -> list[tuple[int, int]]:
        """What decides of what may be written: a buffer that lies over it changes that while the device runs."""
        tables = [(addr, size) for addr, size, flags in self.descriptors if flags & VIRTQ_DESC_F_INDIRECT]
        return [(DESC, 16 * self.num), (DRIVER, 6 + 2 * self.num), *tables]

    def ring(self, state: SplitState | PackedState | None = None, marks: Marks | None = None) -> Ring:
        index, base = 0 if self.receives else 1, self.base if self.packed else self.base & 0xFFFF
        place = Place(index, self.num, self.painted.memory, self.areas(), self.features, base)
        if self.packed:
            assert not isinstance(state, SplitState)
            return make_packed(place, False, state, marks)
        assert not isinstance(state, PackedState)
        return make_split(place, state, marks)


RING_CHOICES = (
    vf.VIRTIO_F_EVENT_IDX,
    vf.VIRTIO_F_INDIRECT_DESC,
    vf.VIRTIO_F_IN_ORDER,
    vf.VIRTIO_F_VERSION_1,
    vf.VIRTIO_NET_F_MRG_RXBUF,
    vf.VIRTIO_NET_F_CSUM,
    vf.VIRTIO_NET_F_HOST_TSO4,
    vf.VIRTIO_NET_F_GUEST_CSUM,
    vf.VIRTIO_NET_F_GUEST_TSO4,
    vf.VIRTIO_F_NOTIFY_ON_EMPTY,
)
STEPS = 24
BUDGET = 64


def _use_ring(ring: Ring, net: VirtioNet, given: RingInput) -> None:
    """What the server does with a ring, in the order that the input says."""
    for _ in range(STEPS):
        step = given.source.number()
        if step == 0:
            break
        if step % 4 == 0:
            ring.arm_kicks() if step & 8 else ring.suppress_kicks()
        elif step % 4 == 1:
            ring.publish()
            ring.needs_signal()
        elif step % 4 == 2:
            demand(ring.unseen() in (True, False), "unseen() is a truth value")
            ring.mark()
        elif given.receives:
            size = ETH_HLEN + given.source.number(2) % 2000
            net.transmit(
                ring, None if step & 8 else VnetHdr(1, 1, 54, 500, 34, 16), [bytes(14), bytes(size - 14)]
            )
        else:
            walked = ring.walked
            frames = net.receive(ring, BUDGET)
            demand(len(frames) <= BUDGET, f"{len(frames)} frames for a budget of {BUDGET}")
            most = BUDGET * DESCRIPTORS_PER_CHAIN + given.num
            demand(ring.walked - walked <= most, f"{ring.walked - walked} descriptors walked in one batch")
            for _, frame in frames:
                demand(ETH_HLEN <= len(frame) <= MAX_GSO_FRAME, f"a frame of {len(frame)} bytes")
    ring.publish()


def _ring(
    given: RingInput, state: SplitState | PackedState | None = None, marks: Marks | None = None
) -> bool:
    """Whether the ring was used to the end: it had no broken rule."""
    allowed = [*given.device_area, *given.given()]
    steady = not overlaps(given.given(), given.rules())
    net = VirtioNet()
    net.negotiate(given.features)
    ring: Ring | None = None
    whole = False
    try:
        ring = given.ring(state, marks)
        _use_ring(ring, net, given)
        whole = True
    except BrokenRing as error:
        demand(error.rule and error.section, "a broken ring without a rule")
    finally:
        if ring is not None:
            ring.release()
    if steady:
        given.painted.check(allowed)
    return whole


@target("split_ring")
def split_ring(data: bytes) -> None:
    """A split virtqueue of any contents, used as a transmit or a receive queue (virtio 1.2, 2.7)."""
    _ring(RingInput(Input(data), packed=False))


@target("packed_ring")
def packed_ring(data: bytes) -> None:
    """A packed virtqueue of any contents (2.8)."""
    _ring(RingInput(Input(data), packed=True))


@target("dirty_log")
def dirty_log(data: bytes) -> None:
    """A ring of any contents that logs: every byte that it wrote has its mark, whenever the log came ("Migration")."""
    source = Input(data)
    kind = source.number()
    given = RingInput(source, packed=bool(kind & 1))
    log, store = DirtyLog(), bytearray(log_size(given.painted.memory))

    def set_base() -> None:
        log.set_base(_Plain(memoryview(store)), given.painted.memory)

    if kind & 2:
        set_base()
    if kind & 4:
        log.remember()
    whole = _ring(given, marks=(log, given.device_area))
    if not kind & 2:
        set_base()
    log.drop()
    if whole:
        beside = {at for at in given.painted.changed() if store[at >> 15] != 0xFF}
        demand(
            not beside,
            f"{len(beside)} bytes were written and not logged, the first at {min(beside, default=0):#x}",
        )


@target("inflight")
def inflight(data: bytes) -> None:
    """A region of any contents that a back end which died has left, and the ring that goes on with it."""
    source = Input(data)
    kind, size, queues = source.number(), 1 + source.number() % MAX_NUM, 1 + source.number() % 2
    packed, says = bool(kind & 1), source.number(2)
    store = bytearray(source.take(queues * queue_bytes(size, packed) - (kind >> 7)))
    if (
        not kind & 2
    ):  # what an honest frontend keeps: the head is in order, where the batch stood may be anything
        for at in range(0, len(store) - 16, queue_bytes(size, packed)):
            store[at : at + 12] = struct.pack("<QHH", 0, 1, size)
    spec = InflightSpec(len(store), 0, queues, size)
    region = InflightRegion(_Plain(memoryview(store)), spec)
    given = RingInput(source, packed)
    if packed:  # which keeps descriptors: whoever wrote the region gave away what they say
        given.descriptors += _descriptors_in(store, size)
    try:
        region.check(packed)
        own = 0 if given.receives else 1
        _recovers(region, 1 - own, size, packed, says)
        given.num = given.num if given.num <= size else 1  # laid out for more: the rest is never looked at
        _ring(given, region.state(own, given.num, packed))
    except FrontendError as error:
        demand(error.fact, "an error that says nothing")
    except BrokenRing as error:
        demand(error.rule and error.section, "a broken ring without a rule")
    finally:
        region.close()


def _descriptors_in(store: bytearray, size: int) -> list[tuple[int, int, int]]:
    """All of a region's parts, as (addr, len, flags)."""
    stride = queue_bytes(size, packed=True)
    found = []
    for part in range(0, len(store) - stride + 1, stride):
        for entry in range(size):
            at = part + 8 * PackedState.counter_at(entry)
            _counter, _id, flags, length, addr = _ENTRY.unpack_from(store, at)
            found.append((addr, length, flags))
    return found


def _recovers(region: InflightRegion, index: int, size: int, packed: bool, says: int) -> None:
    """What is recovered makes sense, and the same again is recovered from what that left."""
    state = region.state(index, size, packed)
    if state is None or state.fresh:
        return
    if isinstance(state, SplitState):
        heads, counter = state.recover(size, says)
        demand(len(set(heads)) == len(heads) and all(head < size for head in heads), "heads in flight")
        demand(state.recover(size, says) == (heads, counter), "recovering twice differs")
        return
    found = state.recover(size, lambda slot, wrap: bool(says >> (slot + wrap) % 16 & 1))
    entries = [entry for what in found.taken for entry in what.entries] + found.free
    demand(sorted(entries) == list(range(size)), "entries are free or in flight, and once")
    demand(found.used_idx < size and found.wrap < 2, "a place beside the ring")
    demand(state.recover(size, lambda *_: False) == found, "recovering twice differs")


# -- translations ---------------------------------------------------------------------------------------------------


class Translations:
    """What holds, by the definition: the last word of the frontend on an address. The cache may know less."""

    def __init__(self) -> None:
        self.words: list[tuple[int, int, int | None, int]] = []  # start, end, uva or forgotten, access

    def of(self, iova: int) -> tuple[int, int] | None:
        for start, end, uva, access in reversed(self.words):
            if start <= iova < end:
                return None if uva is None else (uva + iova - start, access)
        return None


@target("iotlb")
def iotlb(data: bytes) -> None:
    """Updates and invalidations of any numbers, and memory seen through them ("IOMMU support")."""
    source = Input(data)
    painted = Painted()
    tlb, truth = Iotlb(painted.memory), Translations()
    through = IotlbMemory(tlb)
    for _ in range(STEPS):
        if not source.left:
            break
        kind, iova, size = source.number(), source.number(3), source.number(2)
        iova += (1 << 64) - (1 << 24) if kind & 0x80 else 0
        if kind % 4 == 0:
            uva, access = (1 << 40) + source.number(3), source.number() & 7
            with contextlib.suppress(FrontendError):
                tlb.update(iova, size, uva, access)
                truth.words.append((iova, iova + size, uva, access))
                demand(tlb.covers(iova + size - 1, access), "a translation that is not there")
        elif kind % 4 == 1:
            tlb.invalidate(iova, size)
            truth.words.append((iova, iova + size, None, 0) if size else (0, 1 << 64, None, 0))
        elif kind % 4 == 2:
            tlb.rebase(painted.memory)
        _look(through, truth, iova, size, 1 + (kind >> 4) % 3)
        starts, runs = tlb._starts, tlb._runs
        demand([run.start for run in runs] == starts and len(starts) <= MAX_RUNS, "a cache out of order")
        demand(all(a.end <= b.start for a, b in pairwise(runs)), "translations that overlap")


def _look(through: IotlbMemory, truth: Translations, iova: int, size: int, access: int) -> None:
    try:
        pieces = through.pieces(iova, size, access)
        area = through.area(iova, size, access)
    except IotlbMiss as miss:
        demand(0 < len(miss.missing) <= MAX_MISSES, f"{len(miss.missing)} misses")
        demand(len({at // PAGE for at in miss.missing}) == len(miss.missing), "a page that is missed twice")
        demand(all(through.tlb.find(at) is None for at in miss.missing), "a miss of what is there")
        return
    if pieces is None:
        return
    demand(len(pieces) <= MAX_RUNS_OF_PIECE and sum(map(len, pieces)) == size, "pieces of another length")
    at = iova
    for piece in pieces:
        for address in {at, at + len(piece) - 1} if len(piece) else ():
            holds = truth.of(address)
            demand(holds is not None and holds[1] & access == access, "an address that is not translated")
            assert holds is not None
            there = through.tlb.memory.uva_view(holds[0], 1)
            demand(there is not None and there[0] == piece[address - at], "a stale translation")
        at += len(piece)
    demand(area is not None and area.tobytes() == b"".join(pieces), "an area that is not its pieces")


# -- headers --------------------------------------------------------------------------------------------------------


@target("net_header")
def net_header(data: bytes) -> None:
    """A header and a frame in pieces of any size from the guest; what is let through can be finished (5.1.6.2)."""
    source = Input(data)
    net = VirtioNet()
    net.negotiate(source.number(8))
    pieces = []
    for _ in range(1 + source.number() % 4):
        pieces.append(memoryview(source.take(source.number(2) % 1600)))
    pieces.append(memoryview(source.rest()))
    size = sum(map(len, pieces))
    found = net._parse(pieces, [])
    counters = net.counters.asdict()
    demand((found is None) == (counters["rx_frames"] == 0), "a frame is taken or dropped, and counted")
    if found is None:
        demand(
            sum(counters[name] for name in counters if name.startswith("rx_drop")) == 1,
            "one reason for one drop",
        )
        return
    hdr, frame = found
    demand(len(frame) in (size - 10, size - 12, size - 20), "the frame is what is behind the header")
    if hdr is not None:
        train = finish(hdr, [frame])
        total = sum(len(part) for parts in train for part in parts)
        demand(total <= 2 * MAX_GSO_FRAME + 120 * len(train), f"{total} bytes made of {len(frame)}")
        demand(len(train) <= MAX_GSO_FRAME, f"{len(train)} segments of one frame")


@target("stream_framing")
def stream_framing(data: bytes) -> None:
    """Frames behind lengths, cut anywhere (QEMU's stream netdev)."""
    source, reader = Input(data), FrameReader()
    fed = out = 0
    while source.left:
        piece = source.take(min(1 + source.number(), source.left))
        fed += len(piece)
        try:
            frames = reader.feed(piece)
        except FramingError:
            return
        out += sum(4 + len(frame) for frame in frames)
        demand(all(len(frame) <= MAX_FRAME for frame in frames), "a frame beyond the limit")
        demand(out <= fed, "more came out than went in")


# -- the control queue ----------------------------------------------------------------------------------------------


@target("control_queue")
def control_queue(data: bytes) -> None:
    """Commands, and frames that their filters and their steering look at (5.1.6.5)."""
    source = Input(data)
    rx_filter, steering = RxFilter(), Steering()
    pairs = 1 + source.number() % 8
    queue = ControlQueue(rx_filter, steering, pairs)
    queue.negotiate(source.number(8) | vf.mask(vf.VIRTIO_NET_F_CTRL_VQ))
    for _ in range(STEPS):
        if not source.left:
            break
        kind = source.number()
        body = source.take(min(source.number(2) % 600, source.left))
        if kind & 1:
            answer = queue.process(body, kind >> 1)
            demand(answer == b"" if kind < 2 else answer in (b"\0", b"\1"), f"an answer of {answer!r}")
        else:
            frame = body.ljust(ETH_HLEN, b"\0")
            rx_filter.accepts(frame)
            steering.use(queue.pairs)
            steering.sent_on(frame, kind % queue.pairs)
            demand(0 <= steering.pair_of(frame) < queue.pairs, "a frame steered to a pair that is not used")
        demand(1 <= queue.pairs <= pairs, f"{queue.pairs} pairs of {pairs}")
        demand(len(rx_filter.unicast) + len(rx_filter.multicast) <= 128, "a table that grows")


# -- messages -------------------------------------------------------------------------------------------------------


@target("message_codec")
def message_codec(data: bytes) -> None:
    """The byte stream of a frontend, cut anywhere, each message checked and its payload decoded."""
    source, reader = Input(data), MessageReader()
    protocol_features = source.number(4)
    while source.left:
        piece = source.take(min(reader.wants, source.left, 1 + source.number() % 64))
        try:
            message = reader.feed(piece)
            demand(0 < reader.wants <= max(vu.MAX_PAYLOAD, vu.HEADER.size), f"{reader.wants} bytes wanted")
            if message is not None:
                _decode(message, protocol_features)
        except FrontendError as error:
            demand(error.fact, "an error that says nothing")
            if not reader.idle:
                return


def _decode(message: Message, protocol_features: int) -> None:
    fds = vu.RULES[message.request].fds[0] if message.request in vu.RULES else 0
    message = Message(message.request, message.flags, message.payload, tuple(range(fds)))
    vu.check(message, protocol_features)
    if message.request == vu.Request.VHOST_USER_SET_MEM_TABLE:
        specs = vu.decode_mem_table(message.payload)
        demand(vu.decode_mem_table(vu.encode_mem_table(specs)) == specs, "a table that is not itself")
    elif message.request in (vu.Request.VHOST_USER_ADD_MEM_REG, vu.Request.VHOST_USER_REM_MEM_REG):
        vu.decode_single_region(message.payload)


class _Sink:
    """Behind the port; gives some frames back."""

    def __init__(self, port: VhostUserServer) -> None:
        self.port = port
        self.seen = 0

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self.seen += 1
        parts: list[Buffer] = [frame]
        self.port.send(hdr, parts)

    def batch_done(self) -> None:
        pass

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        pass


@target("backend_channel")
def backend_channel(data: bytes) -> None:
    """What a frontend answers to our own requests, or says there unasked."""
    source = Input(data)
    reply_ack = bool(source.number() & 1)
    channel = BackendChannel(reply_ack)
    asked: deque[tuple[int, int]] = deque()
    while source.left:
        kind = source.number()
        if kind % 3 == 0:
            request, waits = 1 + kind // 3 % 5, channel.pending
            sent = channel.request(request, bytes(kind % 16), kind, answered=bool(kind & 64))
            full = reply_ack and kind & 64 and waits == MAX_PENDING
            demand(bool(sent) == (not channel.closed and not full), "a request that is sent or not")
            demand(channel.pending <= MAX_PENDING, f"{channel.pending} requests that wait")
            asked += [(request, kind)] * (channel.pending - waits)
            continue
        piece = source.take(min(kind, source.left))
        if kind % 3 == 2 and asked:  # an answer such as it should be
            piece = vu.encode_reply(asked[0][0], piece[:8].ljust(8, b"\0"))
        if channel.closed:
            continue
        try:
            for answer in _heard(channel, piece):
                demand((answer.request, answer.what) == asked.popleft(), "an answer to another request")
        except FrontendError as error:
            demand(error.fact, "an error that says nothing")
            lost = channel.close(error.fact)
            demand(
                [(one.request, one.what) for one in lost] == list(asked), "answers that are lost, in order"
            )
            demand(all(one.number == -1 for one in lost) and not channel.close("again"), "an end")
            asked.clear()


def _heard(channel: BackendChannel, data: bytes) -> Iterable[Answer]:
    """The answers in what the socket has, which is read as far as is wanted each time."""
    while True:
        wants = channel.wants
        demand(0 < wants <= vu.MAX_PAYLOAD, f"{wants} bytes wanted")
        answer = channel.feed(data[:wants])
        data = data[wants:]
        if answer is not None:
            yield answer
        if not data:
            return


# -- a device's state -----------------------------------------------------------------------------------------------

STATE_PAIRS = 4


@target("device_state")
def device_state(data: bytes) -> None:
    """A state from elsewhere: refused, or a device that gives the same state again."""
    source = Input(data)
    kind = source.number()
    state = source.rest() if kind & 1 else _sealed(source, kind)
    reader = virtio_state.StateReader(owner_limit=MAX_INPUT)
    pieces, at = Input(state), 0
    try:
        while pieces.left:
            wants = reader.wants
            demand(0 <= wants <= virtio_state.DEVICE_LIMIT + MAX_INPUT + 64, f"{wants} bytes wanted")
            at += 1
            reader.feed(pieces.take(min(pieces.left, 1 + (kind + at) % 64)))
        loaded = reader.finish()
        virtio_state.check(loaded, STATE_PAIRS, STATE_OFFERED)
    except StateError as error:
        demand(error.fact, "an error that says nothing")
        return
    net, again = VirtioNet(STATE_PAIRS), VirtioNet(STATE_PAIRS)
    net.negotiate(loaded.features)
    demand(virtio_state.obey(net, loaded.commands), "commands that were accepted on trial are refused")
    saved = virtio_state.encode(net, loaded.owner)
    reader = virtio_state.StateReader()
    reader.feed(saved)
    told = reader.finish()
    again.negotiate(told.features)
    demand(virtio_state.obey(again, told.commands), "a device does not accept its own state")
    demand(virtio_state.encode(again, told.owner) == saved, "a device that is not what was saved")
    demand(_told(again) == _told(net), "something that the driver said is not in the state")


def _told(net: VirtioNet) -> object:
    """What the control queue of a device was told, as far as it has an effect."""
    control, heard = net.control, net.rx_filter
    hashes = control.hash if control.features >> vf.VIRTIO_NET_F_HASH_REPORT & 1 else None
    filters = heard.mac, heard.modes, heard.unicast, heard.multicast, heard.vlans
    return filters, control.pairs, net.steering.rss, hashes, control.coalescing, net.used_offloads


STATE_OFFERED = vs.offered_features(vf.DEVICE_FEATURES, STATE_PAIRS, control_queue=True)


def _sealed(source: Input, kind: int) -> bytes:
    """A head that fits, round features that are mostly offered, commands in their frames, and some owner."""
    features = source.number(8)
    device = struct.pack("<Q", features if kind & 2 else features & STATE_OFFERED)
    while source.left > (kind >> 4):
        size = source.number(2) % 512
        device += struct.pack("<I", size) + source.take(size)
    owner = source.rest()
    digest = sha256(device + owner).digest()
    head = virtio_state.HEAD.pack(
        virtio_state.MAGIC, virtio_state.VERSION, 0, len(device), len(owner), digest
    )
    return head + device + owner


MEMFD_SIZE = 0x10000
TURNS = 50
_FEW = tuple(sorted(vu.RULES))


@target("session")
def session(data: bytes) -> None:
    """Any messages with any descriptors to a device whose memory has any contents, and kicks between them."""
    before = open_fds()
    source = Input(data)
    loop = StepLoop()
    port = VhostUserServer(
        None, loop, "fuzz", protocol_features=0xFFFFFFFF, queue_pairs=2, control_queue=True
    )
    sink = _Sink(port)
    port.attach(sink)
    links: list[DirectLink] = []

    def make(session: vs.Session) -> DirectLink:
        links.append(DirectLink(loop, session, port))
        return links[-1]

    memory = os.memfd_create("fuzz", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, MEMFD_SIZE)
        os.pwrite(memory, source.take(min(source.number(2) % 1024, source.left)), 0)
        port.serve(make)
        while source.left and links[-1]._open:
            _one_message(source, links[-1], memory)
            _turn(loop)
        links[-1].disconnect()
        port.close()
    finally:
        os.close(memory)
    demand(sink.seen <= CHAINS_PER_TURN * (TURNS + 1) * (len(data) + 1), "frames without end")
    demand(open_fds() == before, f"{open_fds() - before} descriptors left open")


def _turn(loop: StepLoop) -> None:
    for _ in range(TURNS):
        if not loop.run_ready():
            return


def _one_message(source: Input, link: DirectLink, memory: int) -> None:
    """A kick, or a message: mostly one of those that are known, with as many descriptors as they take."""
    number = source.number()
    if number >= 0xE0:
        link.kick(number % len(link.session.vrings))
        return
    request = number if number >= 0xC0 or number in vu.RULES else _FEW[number % len(_FEW)]
    flags = vu.VHOST_USER_VERSION | source.number() & vu.VHOST_USER_NEED_REPLY_MASK
    shape = source.number()
    payload = _payload(source, request, shape)
    if request == vu.Request.VHOST_USER_SET_FEATURES and not shape & 16 and len(payload) == 8:
        payload = vu.U64.pack(vu.U64.unpack(payload)[0] & link.session.offered)
    rule = vu.RULES.get(request)
    count = shape >> 6 if rule is None or shape & 1 else _as_many(rule, payload)
    fds = []
    for _ in range(count):
        fds.append(
            os.dup(memory) if shape & 2 or request == vu.Request.VHOST_USER_SET_MEM_TABLE else _eventfd()
        )
    with contextlib.suppress(BrokenRing):
        link.perform(link.session.handle(Message(request, flags, payload, tuple(fds))))


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def _as_many(rule: vu.Rule, payload: bytes) -> int:
    least, most = rule.fds
    if most > 1:
        return min(payload[0] if payload else 0, most)
    no_fd = len(payload) == 8 and payload[1] & 1  # VHOST_USER_VRING_NOFD_MASK
    return least if no_fd or not most else most


def _payload(source: Input, request: int, shape: int) -> bytes:
    """Any bytes, or a memory table that has a chance."""
    rule = vu.RULES.get(request)
    if shape & 4:
        return source.take(min(source.number() % 80, source.left))
    if request == vu.Request.VHOST_USER_SET_MEM_TABLE:
        return vu.encode_mem_table(
            [RegionSpec(0, 0x8000, 1 << 40, 0), RegionSpec(0x8000, 0x8000, 1 << 41, 0x8000)]
        )
    if request == vu.Request.VHOST_USER_SET_VRING_ADDR:
        index, desc, avail, used = source.number(), *(source.number(2) & 0x7FF0 for _ in range(3))
        at = 1 << 40
        return vu.VRING_ADDR.pack(index & 7, 0, at + desc, at + used, at + avail, 0)
    least = rule.size[0] if rule is not None else 8
    return source.take(min(least, 2)) + bytes(least - 2) if shape & 8 and least >= 2 else source.take(least)
