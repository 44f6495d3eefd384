# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest without QEMU for the device's tests: memory in a memfd, drivers of both rings, a vhost-user frontend.

`GuestRam` is laid out as QEMU does it: several regions of one memfd, user addresses unlike guest physical ones.
`DriverRing` and `PackedDriverRing` write rings by hand, rightly or wrongly. `Frontend` makes messages;
`SessionFrontend` hands them to a Session directly, `SocketFrontend` sends them through a real socket."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from devmodel.errors import StateError
from devmodel.vhost_user import actions as va
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.mapping import map_fd
from devmodel.vhost_user.message import Message, Request
from devmodel.virtio import features as vf
from devmodel.virtio.memory import GuestMemory, RegionSpec
from devmodel.virtio.ring_packed import PackedRing, half_of, position_of
from devmodel.virtio.ring_split import SplitRing
from devmodel.virtio.spec import PVIRTQ_EVENT_SIZE, avail_size, desc_size, used_size
from guest.driver.memory import DriverMemory

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 0x80, 0x8000
RAM_SIZE = 4 << 20
SPLIT = 1 << 20  # where the first region ends and the second begins
UVA = 0x7F00_0000_0000
UVA_GAP = 0x1000_0000  # between the regions' user addresses, though they touch in guest physical ones

RINGS = vf.mask(
    vf.VIRTIO_F_RING_PACKED,
    vf.VIRTIO_F_IN_ORDER,
    vf.VIRTIO_F_RING_RESET,
    vf.VIRTIO_F_NOTIFY_ON_EMPTY,
    vf.VHOST_F_LOG_ALL,
)
MODERN = vf.DEVICE_FEATURES & ~RINGS
"""What a driver of split rings acknowledges (Linux); `PACKED` one of packed rings."""
PACKED = MODERN | vf.mask(vf.VIRTIO_F_RING_PACKED)
FRESH = 0x80008000
"""The base of a packed ring that nothing was put into."""
LEGACY = vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES)


class GuestRam(DriverMemory):
    """4 MiB of guest memory in two adjacent regions of one memfd; `next_free` is where the next thing goes, and tests
    move it to where they want that."""

    def __init__(self) -> None:
        super().__init__(
            [
                RegionSpec(0, SPLIT, UVA, 0),
                RegionSpec(SPLIT, RAM_SIZE - SPLIT, UVA + SPLIT + UVA_GAP, SPLIT),
            ]
        )
        self.next_free = 0x40000

    def uva(self, gpa: int) -> int:
        """Also of what is no memory."""
        return UVA + gpa + (UVA_GAP if gpa >= SPLIT else 0)

    def alloc(self, size: int, align: int = 4096) -> int:
        """The gpa of fresh memory inside one region; nothing is ever given back."""
        gpa = -(-self.next_free // align) * align
        if gpa < SPLIT < gpa + size:
            gpa = SPLIT
        self.next_free = gpa + size
        return gpa

    def map(self) -> GuestMemory:
        """The device's view of it, as SET_MEM_TABLE would make it."""
        return self.device_view()


class Driver:
    """What drivers of both layouts have: where the three areas lie, and buffers with contents."""

    def __init__(self, ram: GuestRam, num: int, sizes: tuple[int, int, int]) -> None:
        self.ram = ram
        self.num = num
        self.sizes = sizes
        self.desc_gpa, self.avail_gpa, self.used_gpa = (ram.alloc(size) for size in sizes)
        self.clear()

    def clear(self) -> None:
        for gpa, size in zip((self.desc_gpa, self.avail_gpa, self.used_gpa), self.sizes, strict=True):
            self.ram.write(gpa, bytes(size))

    def add(self, buffers: Sequence[tuple[int, int, int]], indirect: bool = False) -> int:
        """Make one chain of (gpa, size, flags) available; what names it."""
        raise NotImplementedError

    def add_out(self, *pieces: bytes, indirect: bool = False) -> int:
        """A chain of readable descriptors with these contents."""
        return self.add([(*self.ram.put(piece), 0) for piece in pieces], indirect)

    def add_in(self, *sizes: int) -> tuple[int, list[tuple[int, int]]]:
        """A chain of writable descriptors: what names it, and (gpa, size) of each."""
        places = [(self.ram.alloc(size, 64), size) for size in sizes]
        return self.add([(gpa, size, WRITE) for gpa, size in places]), places

    def u16(self, gpa: int) -> int:
        return int.from_bytes(self.ram.read(gpa, 2), "little")

    def areas(self, memory: GuestMemory) -> tuple[memoryview, memoryview, memoryview]:
        """The device's view of them."""
        views = []
        for gpa, size in zip((self.desc_gpa, self.avail_gpa, self.used_gpa), self.sizes, strict=True):
            view = memory.uva_view(self.ram.uva(gpa), size)
            assert view is not None
            views.append(view)
        return views[0], views[1], views[2]


class DriverRing(Driver):
    """The driver's side of one split queue. `add()` keeps the rules, `desc()` and `offer()` keep none."""

    def __init__(self, ram: GuestRam, num: int = 16, event_idx: bool = True, in_order: bool = False) -> None:
        self.event_idx = event_idx
        self.in_order = in_order
        super().__init__(ram, num, (desc_size(num), avail_size(num), used_size(num)))
        self.reset()

    def reset(self) -> None:
        """As a driver does before it hands the ring over."""
        self.clear()
        self.avail_idx = 0
        self.kicked_idx = 0
        self.last_used = 0
        self.free = list(range(self.num))
        self.chains: dict[int, list[int]] = {}

    # raw access

    def desc(self, index: int, addr: int, size: int, flags: int = 0, nxt: int = 0) -> None:
        self.ram.write(self.desc_gpa + 16 * index, struct.pack("<QIHH", addr, size, flags, nxt))

    def offer(self, head: int) -> None:
        """Put a head into the available ring and advance avail.idx."""
        slot = self.avail_gpa + 4 + 2 * (self.avail_idx % self.num)
        self.ram.write(slot, struct.pack("<H", head))
        self.set_avail_idx(self.avail_idx + 1)

    def set_avail_idx(self, idx: int) -> None:
        self.avail_idx = idx & 0xFFFF
        self.ram.write(self.avail_gpa + 2, struct.pack("<H", self.avail_idx))

    def set_avail_flags(self, flags: int) -> None:
        self.ram.write(self.avail_gpa, struct.pack("<H", flags))

    def set_used_event(self, idx: int) -> None:
        self.ram.write(self.avail_gpa + 4 + 2 * self.num, struct.pack("<H", idx & 0xFFFF))

    def set_used_idx(self, idx: int) -> None:
        self.ram.write(self.used_gpa + 2, struct.pack("<H", idx & 0xFFFF))

    @property
    def used_flags(self) -> int:
        return int(struct.unpack("<H", self.ram.read(self.used_gpa, 2))[0])

    @property
    def used_idx(self) -> int:
        return int(struct.unpack("<H", self.ram.read(self.used_gpa + 2, 2))[0])

    @property
    def avail_event(self) -> int:
        return int(struct.unpack("<H", self.ram.read(self.used_gpa + 4 + 8 * self.num, 2))[0])

    # a driver that keeps the rules

    def add(self, buffers: Sequence[tuple[int, int, int]], indirect: bool = False) -> int:
        """Make one chain of (gpa, size, flags) available; its head."""
        if indirect:
            table = b"".join(
                struct.pack("<QIHH", gpa, size, flags | (NEXT if at + 1 < len(buffers) else 0), at + 1)
                for at, (gpa, size, flags) in enumerate(buffers)
            )
            gpa, size = self.ram.put(table)
            buffers = [(gpa, size, INDIRECT)]
        taken = [self.free.pop(0) for _ in buffers]
        for at, (gpa, size, flags) in enumerate(buffers):
            last = at + 1 == len(buffers)
            self.desc(taken[at], gpa, size, flags | (0 if last else NEXT), 0 if last else taken[at + 1])
        self.chains[taken[0]] = taken
        self.offer(taken[0])
        return taken[0]

    def used(self) -> list[tuple[int, int]]:
        """The (id, len) elements that came since the last call; their descriptors are free again."""
        found: list[tuple[int, int]] = []
        while self.last_used != self.used_idx:
            at = self.used_gpa + 4 + 8 * (self.last_used % self.num)
            head, size = struct.unpack("<II", self.ram.read(at, 8))
            found += self._run(head, size) if self.in_order else [self._freed(head, size)]
        return found

    def _freed(self, head: int, size: int) -> tuple[int, int]:
        self.free += self.chains.pop(head, [])
        self.last_used = (self.last_used + 1) & 0xFFFF
        return head, size

    def _run(self, last: int, size: int) -> list[tuple[int, int]]:
        """With IN_ORDER an element stands for all buffers up to the one that it names."""
        found = []
        while True:
            head = next(iter(self.chains))
            found.append(self._freed(head, size if head == last else 0))
            if head == last:
                return found

    # notifications

    def room(self) -> int:
        """Descriptors that are free."""
        return len(self.free)

    def has_used(self) -> bool:
        return self.last_used != self.used_idx

    def sleep(self) -> bool:
        """Ask to be told of the next used buffer; True if it is there already."""
        self.set_used_event(self.last_used)
        self.set_avail_flags(0)
        return self.has_used()

    def look_by_itself(self) -> None:
        """Ask not to be told; with EVENT_IDX that is an event which is left behind."""
        if not self.event_idx:
            self.set_avail_flags(1)

    def wants_to_kick(self) -> bool:
        """2.7.10: whether the device asked to be told of what was added since the last call."""
        new, old, self.kicked_idx = self.avail_idx, self.kicked_idx, self.avail_idx
        if not self.event_idx:
            return not self.used_flags & 1
        return (new - self.avail_event - 1) & 0xFFFF < (new - old) & 0xFFFF

    def device(self, memory: GuestMemory, features: int = MODERN, index: int = 1, base: int = 0) -> SplitRing:
        """The device's side of this ring."""
        return SplitRing(index, self.num, memory, self.areas(memory), features, base)


class PackedDriverRing(Driver):
    """The driver's side of one packed queue. `add()` keeps the rules, `desc()` and `offer()` keep none.

    `position` and `last_used` count slots over two laps, 0 to 2 * num - 1: the first lap has wrap counter 1.
    """

    def __init__(self, ram: GuestRam, num: int = 16, event_idx: bool = True, in_order: bool = False) -> None:
        self.event_idx = event_idx
        self.in_order = in_order
        super().__init__(ram, num, (desc_size(num), PVIRTQ_EVENT_SIZE, PVIRTQ_EVENT_SIZE))
        self.reset()

    def reset(self, position: int = 0) -> None:
        """As a driver does before it hands the ring over; or as if all had been used up to a position."""
        self.clear()
        self.position = self.last_used = position
        self.added = 0  # descriptors since the last call of wants_to_kick()
        self.free = list(range(self.num))
        self.chains: dict[int, int] = {}
        for slot in range(self.num):
            lap = 1 if slot < position % self.num else 0
            wrap = (position // self.num + lap) % 2  # 1 in the first lap
            self.desc(slot, 0, 0, 0, (AVAIL | USED) * wrap)

    # raw access

    def slot(self, position: int) -> int:
        return position % self.num

    def flags(self, position: int) -> int:
        """What makes a descriptor available there."""
        return AVAIL if position % (2 * self.num) < self.num else USED

    def desc(self, slot: int, addr: int, size: int, ident: int, flags: int) -> None:
        self.ram.write(self.desc_gpa + 16 * slot, struct.pack("<QIHH", addr, size, ident, flags))

    def read(self, slot: int) -> tuple[int, int, int, int]:
        """addr, len, id, flags of a descriptor as it stands."""
        fields = struct.unpack("<QIHH", self.ram.read(self.desc_gpa + 16 * slot, 16))
        return fields[0], fields[1], fields[2], fields[3]

    def offer(self, addr: int, size: int, flags: int = 0, ident: int = 0) -> None:
        """Make a descriptor available at the next position."""
        self.desc(self.slot(self.position), addr, size, ident, flags | self.flags(self.position))
        self.position = (self.position + 1) % (2 * self.num)
        self.added += 1

    def set_event(self, flags: int, position: int = 0, half: int | None = None) -> None:
        """The driver's event suppression structure."""
        half = half_of(position, self.num) if half is None else half
        self.ram.write(self.avail_gpa, struct.pack("<HH", half, flags))

    @property
    def device_event(self) -> tuple[int, int]:
        """The device's: its flags, and the position that its offset says."""
        return self.u16(self.used_gpa + 2), position_of(self.u16(self.used_gpa), self.num)

    # a driver that keeps the rules

    def add(self, buffers: Sequence[tuple[int, int, int]], indirect: bool = False) -> int:
        if indirect:
            table = b"".join(struct.pack("<QIHH", gpa, size, 0, flags) for gpa, size, flags in buffers)
            gpa, size = self.ram.put(table)
            buffers = [(gpa, size, INDIRECT)]
        ident = self.free.pop(0)
        self.chains[ident] = len(buffers)
        start = self.position
        head_flags = 0
        for at, (gpa, size, flags) in enumerate(buffers):
            flags |= NEXT if at + 1 < len(buffers) else 0
            if at == 0:
                head_flags = flags | self.flags(start)
                self.desc(self.slot(start), gpa, size, ident, self.read(self.slot(start))[3])
                self.position = (start + 1) % (2 * self.num)
            else:
                self.offer(gpa, size, flags, ident)
        self.ram.write(self.desc_gpa + 16 * self.slot(start) + 14, struct.pack("<H", head_flags))
        self.added += 1
        return ident

    def has_used(self) -> bool:
        wrap = self.last_used < self.num
        flags = self.read(self.slot(self.last_used))[3]
        return flags & (AVAIL | USED) == (AVAIL | USED if wrap else 0)

    def used(self) -> list[tuple[int, int]]:
        """The (id, len) of the buffers that came back since the last call."""
        found: list[tuple[int, int]] = []
        while self.chains and self.has_used():
            _, size, ident, flags = self.read(self.slot(self.last_used))
            assert flags & WRITE or not size
            found += self._run(ident, size) if self.in_order else [self._freed(ident, size)]
        return found

    def _freed(self, ident: int, size: int) -> tuple[int, int]:
        self.last_used = (self.last_used + self.chains.pop(ident)) % (2 * self.num)
        self.free.append(ident)
        return ident, size

    def _run(self, last: int, size: int) -> list[tuple[int, int]]:
        """With IN_ORDER a used descriptor stands for all buffers up to the one that it names."""
        found = []
        while True:
            ident = next(iter(self.chains))
            found.append(self._freed(ident, size if ident == last else 0))
            if ident == last:
                return found

    def room(self) -> int:
        """Descriptors that are free."""
        return self.num - sum(self.chains.values())

    # notifications

    def sleep(self) -> bool:
        self.set_event(2 if self.event_idx else 0, self.last_used)
        return bool(self.chains) and self.has_used()

    def look_by_itself(self) -> None:
        self.set_event(1)

    def wants_to_kick(self) -> bool:
        """2.8.10: whether the device asked to be told of what was added since the last call."""
        count, self.added = self.added, 0
        flags, position = self.device_event
        if flags != 2:
            return flags == 0
        return (position - self.position + count) % (2 * self.num) < count

    def device(
        self,
        memory: GuestMemory,
        features: int = PACKED,
        index: int = 1,
        base: int = FRESH,
        resumed: bool = False,
    ) -> PackedRing:
        """The device's side of this ring."""
        return PackedRing(index, self.num, memory, self.areas(memory), features, base, resumed)


class Frontend:
    """Payloads, and the order in which QEMU sends them. Subclasses carry them."""

    def __init__(self, num: int = 16, packed: bool = False, pairs: int = 1, control: bool = False) -> None:
        self.ram = GuestRam()
        layout = PackedDriverRing if packed else DriverRing
        # The tests of packed rings know which they have.
        self.fresh = (FRESH if packed else 0,) * (2 * pairs + control)
        self.features = PACKED if packed else MODERN
        self.rings: list[Any] = [layout(self.ram, num) for _ in self.fresh]
        self.kick = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in self.rings]
        self.call = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in self.rings]
        self.err = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in self.rings]

    @property
    def rx(self) -> Any:
        """The first pair's receive ring."""
        return self.rings[0]

    @rx.setter
    def rx(self, ring: Any) -> None:
        self.rings[0] = ring

    @property
    def tx(self) -> Any:
        return self.rings[1]

    @tx.setter
    def tx(self, ring: Any) -> None:
        self.rings[1] = ring

    def close_guest(self) -> None:
        for fd in (*self.kick, *self.call, *self.err):
            os.close(fd)
        self.ram.close()

    @staticmethod
    def u64(value: int) -> bytes:
        return vu.U64.pack(value)

    @staticmethod
    def state(index: int, num: int) -> bytes:
        return vu.VRING_STATE.pack(index, num)

    def ring(self, index: int) -> Any:
        return self.rings[index]

    def addr(self, index: int, **changes: int) -> bytes:
        """SET_VRING_ADDR's payload; `changes` are other values for desc, used, avail."""
        ring, uva = self.ring(index), self.ram.uva
        fields = {
            "desc": uva(ring.desc_gpa),
            "used": uva(ring.used_gpa),
            "avail": uva(ring.avail_gpa),
        } | changes
        return vu.VRING_ADDR.pack(index, 0, fields["desc"], fields["used"], fields["avail"], 0)

    def connect_messages(self) -> list[tuple[int, bytes, list[int]]]:
        """What QEMU 7.2 sends when its chardev connects."""
        messages: list[tuple[int, bytes, list[int]]] = [
            (Request.VHOST_USER_GET_FEATURES, b"", []),
            (Request.VHOST_USER_GET_PROTOCOL_FEATURES, b"", []),
            (Request.VHOST_USER_SET_PROTOCOL_FEATURES, self.u64(vs.PROTOCOL_FEATURES), []),
            (Request.VHOST_USER_GET_QUEUE_NUM, b"", []),
            (Request.VHOST_USER_SET_OWNER, b"", []),
            (Request.VHOST_USER_GET_FEATURES, b"", []),
        ]
        for index in range(len(self.rings)):
            messages.append((Request.VHOST_USER_SET_VRING_CALL, self.u64(index), [self.call[index]]))
            messages.append((Request.VHOST_USER_SET_VRING_ERR, self.u64(index), [self.err[index]]))
        for index in range(len(self.rings)):
            messages.append((Request.VHOST_USER_SET_VRING_ENABLE, self.state(index, 1), []))
        return messages

    def start_messages(
        self, features: int | None = None, base: Sequence[int] | None = None
    ) -> list[tuple[int, bytes, list[int]]]:
        """What QEMU 7.2 sends when the guest's driver sets DRIVER_OK."""
        features = self.features if features is None else features
        base = self.fresh if base is None else base
        table = vu.encode_mem_table(self.ram.specs)
        messages: list[tuple[int, bytes, list[int]]] = [
            (Request.VHOST_USER_SET_FEATURES, self.u64(features), []),
            (Request.VHOST_USER_SET_MEM_TABLE, table, [self.ram.fd] * len(self.ram.specs)),
        ]
        for index in range(len(self.rings)):
            num = self.ring(index).num
            messages += [
                (Request.VHOST_USER_SET_VRING_NUM, self.state(index, num), []),
                (Request.VHOST_USER_SET_VRING_BASE, self.state(index, base[index]), []),
                (Request.VHOST_USER_SET_VRING_ADDR, self.addr(index), []),
                (Request.VHOST_USER_SET_VRING_KICK, self.u64(index), [self.kick[index]]),
                (Request.VHOST_USER_SET_VRING_CALL, self.u64(index), [self.call[index]]),
            ]
        return messages


class SessionFrontend(Frontend):
    """Talks to a Session without any socket; descriptors are duplicated as SCM_RIGHTS would."""

    def __init__(self, num: int = 16, packed: bool = False, **options: Any) -> None:
        super().__init__(num, packed)
        self.session = vs.Session(map_fd, **options)
        self.kept: dict[tuple[str, int], int] = {}
        self.actions: list[va.Action] = []

    def request(
        self,
        request: int,
        payload: bytes = b"",
        fds: Iterable[int] = (),
        need_reply: bool = False,
        flags: int = 1,
    ) -> list[va.Action]:
        """Send one message; the actions, after carrying out those that own descriptors."""
        given = tuple(os.dup(fd) for fd in fds)
        message = Message(request, flags | (8 if need_reply else 0), payload, given)
        return self.carry_out(self.session.handle(message))

    def carry_out(self, actions: list[va.Action]) -> list[va.Action]:
        for action in actions:
            if isinstance(action, va.CloseFd):
                os.close(action.fd)
            elif isinstance(action, va.Reply) and action.fd is not None:
                self._keep(("Reply", 0), action.fd)
            elif isinstance(action, va.KickFd | va.CallFd | va.ErrFd):
                self._keep((type(action).__name__, action.index), action.fd)
            elif isinstance(action, va.LogFd | va.ChannelFd):
                self._keep((type(action).__name__, 0), action.fd)
            elif isinstance(action, va.SaveState | va.LoadState):
                self.transfer_begun(action)
        self.actions += actions
        return actions

    def transfer_begun(self, action: va.SaveState | va.LoadState) -> None:
        """It ends at once, and badly."""
        os.close(action.fd)
        self.carry_out(self.session.state_ended(None, StateError("nobody carries it")))

    def _keep(self, key: tuple[str, int], fd: int | None) -> None:
        old = self.kept.pop(key, None)
        if old is not None:
            os.close(old)
        if fd is not None:
            self.kept[key] = fd

    def ack(self, request: int, payload: bytes = b"", fds: Iterable[int] = ()) -> int | str:
        """Send with NEED_REPLY: the number that came back, or "closed"."""
        for action in self.request(request, payload, fds, need_reply=True):
            if isinstance(action, va.Reply):
                return int(vu.U64.unpack(action.data[12:20])[0])
            if isinstance(action, va.Disconnect):
                return "closed"
        return "no answer"

    def negotiate(self) -> None:
        for request, payload, fds in self.connect_messages():
            self.request(request, payload, fds)

    def start(self, features: int | None = None, base: Sequence[int] | None = None) -> None:
        for request, payload, fds in self.start_messages(features, base):
            self.request(request, payload, fds)

    def running(self) -> list[bool]:
        return [vring.ring is not None for vring in self.session.vrings]

    def close(self) -> None:
        self.carry_out(self.session.close())
        for fd in self.kept.values():
            os.close(fd)
        self.close_guest()


class SocketFrontend(Frontend):
    """Talks to a back end that listens at a unix socket."""

    def __init__(self, num: int = 16, packed: bool = False, pairs: int = 1, control: bool = False) -> None:
        super().__init__(num, packed, pairs, control)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)

    async def connect(self, path: str) -> None:
        await asyncio.get_running_loop().sock_connect(self.sock, path)

    async def accept(self, path: str) -> None:
        """Listen at `path` for one back end, as QEMU does with server=on, and no longer than until it is there."""
        self.sock.bind(path)
        self.sock.listen(1)
        listener = self.sock
        try:
            self.sock, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 5)
        finally:
            listener.close()
            os.unlink(path)

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def send(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), need_reply: bool = False
    ) -> None:
        self.send_raw(vu.encode(request, payload, 1 | (8 if need_reply else 0)), fds)

    async def reply(self) -> bytes:
        """The next reply's payload; b"" when the back end hung up."""
        loop = asyncio.get_running_loop()
        try:
            header = await asyncio.wait_for(loop.sock_recv(self.sock, 12), 2)
        except ConnectionResetError:
            return b""
        if not header:
            return b""
        _request, flags, size = vu.HEADER.unpack(header)
        assert flags == 5
        return await asyncio.wait_for(loop.sock_recv(self.sock, size), 2) if size else b""

    async def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Send, await the reply, its first number; -1 when the back end hung up."""
        self.send(request, payload, fds, need_reply=True)
        data = await self.reply()
        return int.from_bytes(data[:8], "little") if data else -1

    async def negotiate(self) -> None:
        for request, payload, fds in self.connect_messages():
            self.send(request, payload, fds)
            if vu.RULES[request].replies:
                await self.reply()

    async def start(self, features: int | None = None, base: Sequence[int] | None = None) -> None:
        for request, payload, fds in self.start_messages(features, base):
            self.send(request, payload, fds)
        await self.ask(Request.VHOST_USER_SET_OWNER)

    async def stop(self) -> list[int]:
        """GET_VRING_BASE for both rings: their indexes."""
        bases = []
        for index in range(2):
            self.send(Request.VHOST_USER_GET_VRING_BASE, self.state(index, 0))
            bases.append(vu.VRING_STATE.unpack(await self.reply())[1])
        return bases

    def kick_ring(self, index: int) -> None:
        os.eventfd_write(self.kick[index], 1)

    async def called(self, index: int, timeout: float = 2.0) -> bool:
        """Wait for the device's signal."""
        return await readable(self.call[index], timeout)

    def close(self) -> None:
        self.sock.close()
        self.close_guest()


async def readable(fd: int, timeout: float = 2.0) -> bool:
    """Wait until an eventfd is readable, and read it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await asyncio.wait_for(ready, timeout)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    os.eventfd_read(fd)
    return True


class Recorder:
    """A PortHandler that remembers everything."""

    def __init__(self) -> None:
        self.frames: list[tuple[object, bytes]] = []
        self.batches = 0
        self.links: list[tuple[bool, object]] = []

    def frame_received(self, hdr: object, frame: bytes) -> None:
        self.frames.append((hdr, frame))

    def batch_done(self) -> None:
        self.batches += 1

    def link_changed(self, up: bool, offloads: object) -> None:
        self.links.append((up, offloads))
