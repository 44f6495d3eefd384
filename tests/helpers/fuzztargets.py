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
from collections.abc import Callable, Iterable
from pathlib import Path

from devmodel.errors import BrokenRing, FrontendError
from devmodel.netdev.base import MAX_FRAME
from devmodel.netdev.offload import finish
from devmodel.netdev.stream import FrameReader, FramingError
from devmodel.port import Buffer, Offloads, VnetHdr
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.message import Message, MessageReader
from devmodel.vhost_user.server import CHAINS_PER_TURN, VhostUserServer
from devmodel.virtio import features as vf
from devmodel.virtio.ctrl import ControlQueue
from devmodel.virtio.memory import GuestMemory, Region, RegionSpec
from devmodel.virtio.net import VirtioNet
from devmodel.virtio.ring import DESCRIPTORS_PER_CHAIN, Ring
from devmodel.virtio.ring_packed import PackedRing
from devmodel.virtio.ring_split import SplitRing
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

    def ring(self) -> Ring:
        memory, areas, index = self.painted.memory, self.areas(), 0 if self.receives else 1
        if self.packed:
            return PackedRing(index, self.num, memory, areas, self.features, self.base)
        return SplitRing(index, self.num, memory, areas, self.features, self.base & 0xFFFF)


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


def _ring(data: bytes, packed: bool) -> None:
    given = RingInput(Input(data), packed)
    allowed = [*given.device_area, *given.given()]
    steady = not overlaps(given.given(), given.rules())
    net = VirtioNet()
    net.negotiate(given.features)
    ring: Ring | None = None
    try:
        ring = given.ring()
        _use_ring(ring, net, given)
    except BrokenRing as error:
        demand(error.rule and error.section, "a broken ring without a rule")
    finally:
        if ring is not None:
            ring.release()
    if steady:
        given.painted.check(allowed)


@target("split_ring")
def split_ring(data: bytes) -> None:
    """A split virtqueue of any contents, used as a transmit or a receive queue (virtio 1.2, 2.7)."""
    _ring(data, packed=False)


@target("packed_ring")
def packed_ring(data: bytes) -> None:
    """A packed virtqueue of any contents (2.8)."""
    _ring(data, packed=True)


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
