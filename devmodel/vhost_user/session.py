# SPDX-License-Identifier: GPL-2.0-or-later
"""One frontend's vhost-user session as a state machine: messages with descriptors in, actions out.

No I/O happens here. `handle()` gives a list of actions that the caller carries out in order; each
descriptor that came in comes out in exactly one of them, to be kept or closed. Memory is mapped through
the function that the caller handed in.

States. A device has features (of virtio and of the protocol), a status byte, a memory map and 2 * pairs
rings. A ring is stopped, running or broken, and, independently, enabled or not:

    stopped -> running   size, addresses, memory and a kick descriptor (or the word that there is none) are
    all
                         known, whatever the order they came in. A ring starts at SET_VRING_KICK and not at
                         the first kick: a kick given to a back end that died is lost with it.
    running -> stopped   GET_VRING_BASE, RESET_DEVICE, the end of the session
    running -> broken    the guest broke a rule (`quarantine()`), or a new memory map has no place for the
    ring broken  -> stopped   as for running; new addresses also end it

    enabled              SET_VRING_ENABLE, or SET_FEATURES without VHOST_USER_F_PROTOCOL_FEATURES. It may come
                         before SET_FEATURES and outlives a stop: QEMU sends it early and then never again.

Answers. A request with a reply of its own gets it. Any other gets a number (0 good, 1 failed) if it asks and
REPLY_ACK was negotiated, else nothing. A request that breaks a rule changes nothing and its descriptors are
closed; if it cannot be told so by a number, the session ends, since both sides would disagree about the
state.

Logging. While VHOST_F_LOG_ALL is set what is written to the guest's memory is marked in the log of SET_LOG_BASE, and
the memory of a ring for which SET_VRING_ADDR said so (virtio/dirtylog.py). Both come and go while rings run, each of
which is then replaced by one of the other kind where it stands. SET_LOG_BASE is the one request that is answered
without being asked to: by an empty message, which QEMU waits for; by a number if NEED_REPLY is set.

Layouts. VIRTIO_F_RING_PACKED makes all rings packed: their size need not be a power of two, SET_VRING_ADDR's available
and used addresses are the driver's and the device's event, and SET_VRING_BASE has 32 bits. The
features that came last say which layout is meant; all frontends send them before they describe a ring.

One ring can be reset while the others run: GET_VRING_BASE ends it, and what starts a ring starts it anew, with another
size and other addresses if the driver likes. VIRTIO_F_RING_RESET, which lets a driver ask for that, can be offered to a
frontend that passes it on; QEMU 7.2 does not (see virtio/features.py).

Reconnection. The frontend remembers the features that the guest has, and sends all state anew. A split ring starts at
its `used.idx`, whatever SET_VRING_BASE said (see ring_split.py). A packed ring has no such index in memory: it starts
at SET_VRING_BASE's value, or, after a back end that crashed, where its descriptors show it to be, if they do (see
ring_packed.py, "Starting")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from devmodel.errors import BrokenRing, FrontendError, MappingError, StateError
from devmodel.vhost_user import devicestate
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.devicestate import NoOwner, StateMachine, StateOwner
from devmodel.vhost_user.message import Message, Request
from devmodel.virtio import features as vf
from devmodel.virtio.dirtylog import DirtyLog, Extent, LoggedPackedRing, LoggedSplitRing, log_size
from devmodel.virtio.memory import GuestMemory, Mapper, Region, RegionSpec, check_regions, map_regions
from devmodel.virtio.net import DEFAULT_MTU, VirtioNet
from devmodel.virtio.ring import Areas, Ring
from devmodel.virtio.ring_packed import PackedRing, bad_base
from devmodel.virtio.ring_split import SplitRing
from devmodel.virtio.spec import (
    PVIRTQ_EVENT_ALIGN,
    PVIRTQ_EVENT_SIZE,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_NET_MAX_MTU,
    VIRTIO_NET_MIN_MTU,
    VIRTQ_AVAIL_ALIGN,
    VIRTQ_DESC_ALIGN,
    VIRTQ_MAX_SIZE,
    VIRTQ_USED_ALIGN,
    avail_size,
    desc_size,
    used_size,
)
from devmodel.virtio.state import DeviceState

# CONFIG is not among them: QEMU's network device warns about it and drops it.
PROTOCOL_FEATURES = vf.mask(
    vu.VHOST_USER_PROTOCOL_F_MQ,
    vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD,
    vu.VHOST_USER_PROTOCOL_F_RARP,
    vu.VHOST_USER_PROTOCOL_F_REPLY_ACK,
    vu.VHOST_USER_PROTOCOL_F_NET_MTU,
    vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
    vu.VHOST_USER_PROTOCOL_F_STATUS,
    vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes to the frontend."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CloseFd:
    """Close a descriptor that is not kept."""

    fd: int


@dataclass(frozen=True, slots=True)
class KickFd:
    """Watch this descriptor for kicks of the ring; None: it has none any more. The old one is to be
    closed."""

    index: int
    fd: int | None


@dataclass(frozen=True, slots=True)
class CallFd:
    """Signal this ring's driver here from now on; None: do not. The old one is to be closed."""

    index: int
    fd: int | None


@dataclass(frozen=True, slots=True)
class ErrFd:
    """Signal errors of this ring here from now on; None: do not. The old one is to be closed."""

    index: int
    fd: int | None


@dataclass(frozen=True, slots=True)
class LogFd:
    """Signal here when pages were marked in the log. The old one is to be closed."""

    fd: int


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write these bytes there and close it; `state_ended()` hears of the end."""

    fd: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LoadState:
    """Read a state from there, up to its end; `state_ended()` gets it."""

    fd: int


@dataclass(frozen=True, slots=True)
class StopTransfer:
    """Nobody wants the state any more that is written or read."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal this ring's driver: what was given back to it was shown outside of a batch."""

    index: int


@dataclass(frozen=True, slots=True)
class RingStarted:
    """The ring runs; look at it once, whether kicked or not."""

    index: int


@dataclass(frozen=True, slots=True)
class RingStopped:
    """The ring is gone; whatever was queued for it is lost."""

    index: int


@dataclass(frozen=True, slots=True)
class RingBroken:
    """The ring is in quarantine: log it, signal its error descriptor."""

    index: int
    error: BrokenRing


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The link or the offloads may have changed."""


@dataclass(frozen=True, slots=True)
class Rarp:
    """Announce this MAC to the network behind us (the guest moved here)."""

    mac: bytes


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the session."""

    error: FrontendError


Action = (
    Reply
    | CloseFd
    | KickFd
    | CallFd
    | ErrFd
    | LogFd
    | Signal
    | SaveState
    | LoadState
    | StopTransfer
    | RingStarted
    | RingStopped
    | RingBroken
    | StateChanged
    | Rarp
    | Disconnect
)


class Vring:
    """What the frontend said about one ring, and the ring while it runs."""

    __slots__ = ("addr", "base", "broken", "enabled", "given_base", "has_kick", "index", "log", "num", "ring")

    def __init__(self, index: int) -> None:
        self.index = index
        self.num = 0
        self.base = 0
        self.given_base = -1  # what GET_VRING_BASE answered last
        self.addr: tuple[int, int, int] | None = None  # desc, avail, used as the frontend's user addresses
        self.log: int | None = None  # VHOST_VRING_F_LOG: log_guest_addr
        self.enabled = False
        self.has_kick = False
        self.ring: Ring | None = None
        self.broken: BrokenRing | None = None


_LIMIT = 1 << 64
_LOG_ALL = vf.mask(vf.VHOST_F_LOG_ALL)

_Plan = tuple[str, tuple[tuple[str, int, int], ...]]
"""The section of a layout; what each area is, its alignment and size."""


def _split_plan(num: int) -> _Plan:
    return "2.7", (
        ("descriptor table", VIRTQ_DESC_ALIGN, desc_size(num)),
        ("available ring", VIRTQ_AVAIL_ALIGN, avail_size(num)),
        ("used ring", VIRTQ_USED_ALIGN, used_size(num)),
    )


def _packed_plan(num: int) -> _Plan:
    return "2.8.10.1", (
        ("descriptor ring", VIRTQ_DESC_ALIGN, desc_size(num)),
        ("driver event", PVIRTQ_EVENT_ALIGN, PVIRTQ_EVENT_SIZE),
        ("device event", PVIRTQ_EVENT_ALIGN, PVIRTQ_EVENT_SIZE),
    )


def offered_features(features: int, queue_pairs: int, control_queue: bool) -> int:
    """What a device of so many pairs offers, if one of a single pair offers `features`."""
    if queue_pairs > 1:
        features |= vf.mask(vf.VIRTIO_NET_F_MQ)
    if control_queue:
        features |= vf.CONTROL_FEATURES | (vf.mask(vf.VIRTIO_NET_F_RSS) if queue_pairs > 1 else 0)
    return features


class Session:
    """A frontend's session with a network device of `queue_pairs` pairs of rings (2k receives, 2k+1
    sends)."""

    def __init__(
        self,
        mapper: Mapper,
        *,
        queue_pairs: int = 1,
        features: int = vf.DEVICE_FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
        net: VirtioNet | None = None,
        control_queue: bool = False,
        owner: StateOwner | None = None,
    ) -> None:
        """`control_queue`: the frontend may forward it, as a ring behind the pairs; `owner` of what is migrated besides
        the device's own state."""
        features = offered_features(features, queue_pairs, control_queue)
        self.queue_pairs = queue_pairs
        self.offered = features
        self.offered_protocol = protocol_features
        self.features = 0
        self.protocol_features = 0
        self.status = 0
        self.memory = GuestMemory()
        self.log = DirtyLog()
        self.net = net if net is not None else VirtioNet()
        self.state = StateMachine(self.net, owner or NoOwner(), queue_pairs, features)
        self.vrings = [Vring(index) for index in range(2 * queue_pairs + control_queue)]
        self._mapper = mapper
        self._specs: list[RegionSpec] = []
        self._handlers = self._table()
        self._actions: list[Action] = []
        self._pending_fds: list[int] = []

    def _table(self) -> dict[int, Callable[[bytes], bytes | None]]:
        return {
            Request.VHOST_USER_GET_FEATURES: lambda _: vu.U64.pack(self.offered),
            Request.VHOST_USER_SET_FEATURES: self._set_features,
            Request.VHOST_USER_SET_OWNER: lambda _: None,
            Request.VHOST_USER_RESET_OWNER: lambda _: None,  # deprecated: never drop state for it
            Request.VHOST_USER_SET_MEM_TABLE: self._set_mem_table,
            Request.VHOST_USER_SET_LOG_BASE: self._set_log_base,
            Request.VHOST_USER_SET_LOG_FD: self._set_log_fd,
            Request.VHOST_USER_SET_VRING_NUM: self._set_vring_num,
            Request.VHOST_USER_SET_VRING_ADDR: self._set_vring_addr,
            Request.VHOST_USER_SET_VRING_BASE: self._set_vring_base,
            Request.VHOST_USER_GET_VRING_BASE: self._get_vring_base,
            Request.VHOST_USER_SET_VRING_KICK: self._set_vring_kick,
            Request.VHOST_USER_SET_VRING_CALL: self._set_vring_call,
            Request.VHOST_USER_SET_VRING_ERR: self._set_vring_err,
            Request.VHOST_USER_GET_PROTOCOL_FEATURES: lambda _: vu.U64.pack(self.offered_protocol),
            Request.VHOST_USER_SET_PROTOCOL_FEATURES: self._set_protocol_features,
            Request.VHOST_USER_GET_QUEUE_NUM: lambda _: vu.U64.pack(self.queue_pairs),
            Request.VHOST_USER_SET_VRING_ENABLE: self._set_vring_enable,
            Request.VHOST_USER_SEND_RARP: self._send_rarp,
            Request.VHOST_USER_NET_SET_MTU: self._net_set_mtu,
            Request.VHOST_USER_RESET_DEVICE: self._reset_device,
            Request.VHOST_USER_GET_MAX_MEM_SLOTS: lambda _: vu.U64.pack(vu.MAX_REGIONS),
            Request.VHOST_USER_ADD_MEM_REG: self._add_mem_reg,
            Request.VHOST_USER_REM_MEM_REG: self._rem_mem_reg,
            Request.VHOST_USER_SET_STATUS: self._set_status,
            Request.VHOST_USER_GET_STATUS: lambda _: vu.U64.pack(self.status),
            Request.VHOST_USER_SET_DEVICE_STATE_FD: self._set_device_state_fd,
            Request.VHOST_USER_CHECK_DEVICE_STATE: self._check_device_state,
        }

    # -- entry points -----------------------------------------------------------------------------------

    def handle(self, message: Message) -> list[Action]:
        """Carry out one request. Never raises for what the frontend sent."""
        actions: list[Action] = []
        self._actions = actions
        self._pending_fds = list(message.fds)
        own_reply = False
        if self.state.check_waits:
            self._abort_transfer("the frontend went on without waiting for the state")
        try:
            own_reply = vu.check(message, self.protocol_features).replies
            payload = self._handlers[message.request](message.payload)
        except FrontendError as error:
            self._refuse(message, error)
        else:
            if own_reply and payload is not None:
                actions.append(Reply(vu.encode_reply(message.request, payload)))
            elif message.need_reply and self._reply_ack:
                actions.append(Reply(vu.encode_reply(message.request, vu.U64.pack(0))))
            elif payload is not None:
                actions.append(Reply(vu.encode_reply(message.request, payload)))
        actions.extend(CloseFd(fd) for fd in self._pending_fds)
        self._pending_fds = []
        return actions

    def quarantine(self, index: int, error: BrokenRing) -> list[Action]:
        """Take a ring out of service for good, as its driver cannot be trusted."""
        self._actions = []
        self._break(self.vrings[index], error)
        return self._actions

    def state_ended(self, state: DeviceState | None, error: StateError | None) -> list[Action]:
        """What SaveState or LoadState came to: the state that was loaded, or why there is none."""
        self._actions = []
        self.state.ended(state, error)
        self._answer_check()
        return self._actions

    def close(self) -> list[Action]:
        """End the session: all rings stop, memory is unmapped. The caller closes the descriptors it keeps."""
        self._actions = []
        self.state.check_waits = False
        self._abort_transfer("the session ended")
        for vring in self.vrings:
            self._stop(vring)
            vring.enabled = False
        self.memory.close()
        self.memory = GuestMemory()
        self.log.drop()
        self.net.negotiate(0)
        self.net.set_mtu(DEFAULT_MTU)
        return self._actions

    def running(self, index: int) -> Ring | None:
        """The ring if it runs and is enabled."""
        vring = self.vrings[index]
        return vring.ring if vring.enabled else None

    @property
    def packed(self) -> bool:
        """The layout of the rings that was negotiated."""
        return bool(self.features >> vf.VIRTIO_F_RING_PACKED & 1)

    @property
    def logging(self) -> bool:
        """What is written to the guest's memory is marked in the log."""
        return bool(self.features >> vf.VHOST_F_LOG_ALL & 1)

    @property
    def suspended(self) -> bool:
        """No ring runs ("Suspended device state")."""
        return all(vring.ring is None for vring in self.vrings)

    @property
    def _reply_ack(self) -> bool:
        return bool(self.protocol_features >> vu.VHOST_USER_PROTOCOL_F_REPLY_ACK & 1)

    def _refuse(self, message: Message, error: FrontendError) -> None:
        if message.need_reply and self._reply_ack:
            self._actions.append(Reply(vu.encode_reply(message.request, vu.U64.pack(1))))
        else:
            self._actions.append(Disconnect(error))

    def _take_fd(self) -> int:
        return self._pending_fds.pop(0)

    @property
    def control_index(self) -> int:
        """The ring of the control queue, -1 if there is none: the last, which a driver that does not know of several
        pairs finds behind the first (virtio 1.2, section 5.1.2)."""
        if not self.features >> vf.VIRTIO_NET_F_CTRL_VQ & 1:
            return -1
        several = self.features & vf.mask(vf.VIRTIO_NET_F_MQ, vf.VIRTIO_NET_F_RSS)
        return 2 * self.queue_pairs if several else 2

    def negotiation(self) -> dict[str, Any]:
        """Each feature bit and who has it, and the rings: a dict for JSON."""
        both = (
            (self.offered, self.features, vf.names),
            (self.offered_protocol, self.protocol_features, vu.names),
        )
        features, protocol = (
            [
                {"name": name, "offered": name in names(offered), "acknowledged": name in names(acknowledged)}
                for name in names(offered | acknowledged)
            ]
            for offered, acknowledged, names in both
        )
        rings = [
            {"index": vring.index, "size": vring.num, "running": vring.ring is not None}
            for vring in self.vrings
            if vring.num  # what the frontend has not said anything of is none of its rings
        ]
        return {"features": features, "protocol_features": protocol, "rings": rings}

    # -- features ---------------------------------------------------------------------------------------

    def _set_features(self, payload: bytes) -> None:
        (features,) = vu.U64.unpack(payload)
        alien = features & ~self.offered
        if alien:
            self.status &= ~VIRTIO_CONFIG_S_FEATURES_OK
            raise FrontendError("features were set that were not offered", ", ".join(vf.names(alien)))
        changed = features ^ self.features
        if changed & ~_LOG_ALL and not self.suspended:
            raise FrontendError("features were changed while a ring runs", f"{changed:#x}")
        self.features = features
        if changed & _LOG_ALL:
            self._relog(self.vrings)
        if changed != _LOG_ALL:
            self.net.negotiate(features & ~_LOG_ALL)
            self.state.negotiated()
        if not features >> vf.VHOST_USER_F_PROTOCOL_FEATURES & 1:
            for vring in self.vrings:
                vring.enabled = True
        self._actions.append(StateChanged())

    def _set_protocol_features(self, payload: bytes) -> None:
        (features,) = vu.U64.unpack(payload)
        alien = features & ~self.offered_protocol
        if alien:
            raise FrontendError("protocol features were set that were not offered", f"{alien:#x}")
        self.protocol_features = features

    def _set_status(self, payload: bytes) -> None:
        """Remember the driver's status. 0 keeps the ring indexes: QEMU asks for them right after."""
        (status,) = vu.U64.unpack(payload)
        if status > 0xFF:
            raise FrontendError("the device status is one byte", f"{status:#x}")
        self.status = status

    def _reset_device(self, _payload: bytes) -> None:
        for vring in self.vrings:
            self._stop(vring)
            vring.enabled = False
        self.features = 0
        self.status = 0
        self.state.forget()
        self.net.negotiate(0)
        self._actions.append(StateChanged())

    # -- memory -----------------------------------------------------------------------------------------

    def _set_mem_table(self, payload: bytes) -> None:
        specs = vu.decode_mem_table(payload)
        if len(specs) != len(self._pending_fds):
            evidence = f"{len(specs)} regions, {len(self._pending_fds)} descriptors"
            raise FrontendError("SET_MEM_TABLE takes one descriptor for each region", evidence)
        memory = map_regions(specs, self._pending_fds, self._mapper)
        self._fit_log(memory, memory)
        old = self.memory
        self._adopt(memory, specs)
        old.close()

    def _add_mem_reg(self, payload: bytes) -> None:
        spec = vu.decode_single_region(payload)
        if len(self._specs) >= vu.MAX_REGIONS:
            raise FrontendError(f"ADD_MEM_REG beyond {vu.MAX_REGIONS} regions", f"{spec}")
        check_regions([*self._specs, spec])
        added = map_regions([spec], self._pending_fds, self._mapper)
        memory = GuestMemory([*self.memory.regions, *added.regions])
        self._fit_log(memory, added)
        self._adopt(memory, [*self._specs, spec])

    def _rem_mem_reg(self, payload: bytes) -> None:
        spec = vu.decode_single_region(payload)
        gone = [known for known in self._specs if known[:3] == spec[:3]]
        if not gone:
            raise FrontendError("REM_MEM_REG names a region that is not there", f"{spec}")
        kept, lost = self._split_regions(gone[0])
        self._adopt(GuestMemory(kept), [known for known in self._specs if known != gone[0]])
        GuestMemory(lost).close()

    def _split_regions(self, gone: RegionSpec) -> tuple[list[Region], list[Region]]:
        kept = [region for region in self.memory.regions if region.gpa != gone.gpa]
        lost = [region for region in self.memory.regions if region.gpa == gone.gpa]
        return kept, lost

    def _adopt(self, memory: GuestMemory, specs: list[RegionSpec]) -> None:
        """Go over to a new memory map; running rings move along, or break if their place is gone."""
        self.memory = memory
        self._specs = specs
        for vring in self.vrings:
            if vring.ring is not None:
                self._move(vring, vring.ring)
            else:
                self._try_start(vring)

    def _move(self, vring: Vring, ring: Ring) -> None:
        if self.logging:
            self._relog([vring])
            return
        try:
            ring.rebind(self.memory, self._areas(vring))
        except BrokenRing as error:
            self._break(vring, error)

    # -- the log ----------------------------------------------------------------------------------------

    def _set_log_base(self, payload: bytes) -> bytes:
        size, offset = vu.LOG.unpack(payload)
        needed = log_size(self.memory)
        if not needed <= size < _LIMIT - offset or not size:
            evidence = f"{size} bytes at {offset:#x}; the memory that is known takes {needed}"
            raise FrontendError("SET_LOG_BASE: the log is too small, or too large", evidence)
        try:
            mapping = self._mapper(self._pending_fds[0], size, offset)
        except MappingError as error:
            raise FrontendError("SET_LOG_BASE: the log cannot be mapped", error.evidence) from error
        self.log.set_base(mapping, self.memory)
        return b""

    def _set_log_fd(self, _payload: bytes) -> None:
        self._actions.append(LogFd(self._take_fd()))

    def _fit_log(self, memory: GuestMemory, new: GuestMemory) -> None:
        """A log that is too short for this memory is none; FrontendError, with what is new of it unmapped, if that log
        is in use."""
        if self.log.covers(memory):
            return
        if self.logging and not self.suspended:
            new.close()
            evidence = f"it takes a log of {log_size(memory)} bytes, that of SET_LOG_BASE has {self.log.size}"
            raise FrontendError("memory that lies beyond the log, while rings run", evidence)
        self.log.drop()

    def _relog(self, vrings: Sequence[Vring]) -> None:
        """Replace the rings that run by such that log, or do not, and go on where those stood."""
        for vring in vrings:
            ring = vring.ring
            if ring is None:
                continue
            if ring.publish() and ring.needs_signal():
                self._actions.append(Signal(vring.index))
            vring.base = ring.base
            ring.release()
            try:
                vring.ring = self._make_ring(vring, resumed=True)
            except BrokenRing as error:
                self._break(vring, error)
        self._actions.append(StateChanged())

    def _own_memory(self, vring: Vring) -> list[Extent]:
        """What the device writes of the ring itself, if that is to be logged. BrokenRing if it is no memory."""
        if vring.log is None:
            return []
        own = [(vring.log, PVIRTQ_EVENT_SIZE if self.packed else used_size(vring.num))]
        if self.packed and vring.addr is not None:
            desc = self.memory.gpa_of(vring.addr[0], desc_size(vring.num))
            own += [] if desc is None else [(desc, desc_size(vring.num))]
        if self.memory.pieces(*own[0]) is None:
            rule = f"log_guest_addr {vring.log:#x} is not in memory"
            raise BrokenRing(vring.index, rule, "vhost-user: Migration")
        return own

    # -- the device's state -----------------------------------------------------------------------------

    def _set_device_state_fd(self, payload: bytes) -> bytes:
        direction, phase = vu.DEVICE_STATE.unpack(payload)
        known = direction in (vu.VHOST_TRANSFER_STATE_DIRECTION_SAVE, vu.VHOST_TRANSFER_STATE_DIRECTION_LOAD)
        busy = self.state.phase == devicestate.RUNNING
        if not known or phase != vu.VHOST_TRANSFER_STATE_PHASE_STOPPED or not self.suspended or busy:
            return vu.U64.pack(vu.DEVICE_STATE_NOFD | 1)
        if direction == vu.VHOST_TRANSFER_STATE_DIRECTION_LOAD:
            self.state.begin_load()
            self._actions.append(LoadState(self._take_fd()))
        else:
            try:
                data = self.state.begin_save()
            except StateError:
                return vu.U64.pack(vu.DEVICE_STATE_NOFD | 1)
            self._actions.append(SaveState(self._take_fd(), data))
        return vu.U64.pack(vu.DEVICE_STATE_NOFD)

    def _check_device_state(self, _payload: bytes) -> bytes | None:
        """None: it is answered when the transfer ends."""
        if self.state.phase == devicestate.RUNNING:
            self.state.check_waits = True
            return None
        return vu.U64.pack(self.state.phase != devicestate.GOOD)

    def _answer_check(self) -> None:
        if self.state.check_waits and self.state.phase != devicestate.RUNNING:
            self.state.check_waits = False
            answer = vu.U64.pack(self.state.phase != devicestate.GOOD)
            self._actions.append(Reply(vu.encode_reply(Request.VHOST_USER_CHECK_DEVICE_STATE, answer)))

    def _abort_transfer(self, why: str) -> None:
        if self.state.abort(StateError(f"the state's transfer was given up: {why}")):
            self._actions.append(StopTransfer())
            self._answer_check()

    # -- rings ------------------------------------------------------------------------------------------

    def _vring(self, index: int) -> Vring:
        if index >= len(self.vrings):
            raise FrontendError(f"ring index {index}", f"the device has {len(self.vrings)} rings")
        return self.vrings[index]

    def _vring_state(self, payload: bytes) -> tuple[Vring, int]:
        index, num = vu.VRING_STATE.unpack(payload)
        return self._vring(index), num

    def _set_vring_num(self, payload: bytes) -> None:
        vring, num = self._vring_state(payload)
        if not 0 < num <= VIRTQ_MAX_SIZE:
            raise FrontendError("a queue's size is 1 to 32768", f"{num}")
        if num & (num - 1) and not self.packed:
            raise FrontendError("a split queue's size is a power of two", f"{num}")
        if vring.ring is not None and num != vring.num:
            raise FrontendError("SET_VRING_NUM on a running ring", f"ring {vring.index}")
        vring.num = num
        self._try_start(vring)

    def _set_vring_base(self, payload: bytes) -> None:
        vring, base = self._vring_state(payload)
        if base > 0xFFFF and not self.packed:
            raise FrontendError("a split queue's index has 16 bits", f"{base:#x}")
        wrong = bad_base(base, vring.num) if self.packed and vring.num else ""
        if wrong:
            raise FrontendError(f"SET_VRING_BASE: {wrong}", f"ring {vring.index}")
        if vring.ring is not None and base != vring.ring.base:
            raise FrontendError("SET_VRING_BASE on a running ring", f"ring {vring.index}")
        vring.base = base

    def _set_vring_addr(self, payload: bytes) -> None:
        index, flags, desc, used, avail, log = vu.VRING_ADDR.unpack(payload)
        vring = self._vring(index)
        addr = (desc, avail, used)
        if vring.ring is not None and addr != vring.addr:
            raise FrontendError("SET_VRING_ADDR on a running ring", f"ring {index}")
        old = vring.addr, vring.log
        vring.addr, vring.log = addr, log if flags & vu.VHOST_VRING_F_LOG else None
        if self.memory.regions and vring.num:
            try:
                self._areas(vring)
                self._own_memory(vring)
            except BrokenRing as error:
                vring.addr, vring.log = old
                raise FrontendError(f"SET_VRING_ADDR: {error.rule}", f"ring {index}") from error
        vring.broken = None
        if self.logging and vring.log != old[1]:
            self._relog([vring])
        self._try_start(vring)

    def _get_vring_base(self, payload: bytes) -> bytes:
        vring, _num = self._vring_state(payload)
        self._stop(vring)
        vring.has_kick = False
        vring.given_base = vring.base
        self._actions += [KickFd(vring.index, None), CallFd(vring.index, None)]
        return vu.VRING_STATE.pack(vring.index, vring.base)

    def _set_vring_enable(self, payload: bytes) -> None:
        vring, num = self._vring_state(payload)
        if num > 1:
            raise FrontendError("SET_VRING_ENABLE takes 0 or 1", f"{num}")
        started = num and not vring.enabled and vring.ring is not None
        vring.enabled = bool(num)
        self._actions.append(StateChanged())
        if started:
            self._actions.append(RingStarted(vring.index))

    def _vring_fd(self, payload: bytes) -> tuple[Vring, int | None]:
        """Which ring, and its new descriptor or None; the descriptor is ours from here on."""
        (word,) = vu.U64.unpack(payload)
        if word & ~(vu.VHOST_USER_VRING_IDX_MASK | vu.VHOST_USER_VRING_NOFD_MASK):
            raise FrontendError("ring index with unknown bits", f"{word:#x}")
        vring = self._vring(word & vu.VHOST_USER_VRING_IDX_MASK)
        nofd = bool(word & vu.VHOST_USER_VRING_NOFD_MASK)
        if nofd == bool(self._pending_fds):
            evidence = f"NOFD is {int(nofd)}, {len(self._pending_fds)} descriptors came"
            raise FrontendError("the NOFD bit and the descriptors disagree", evidence)
        return vring, None if nofd else self._take_fd()

    def _set_vring_kick(self, payload: bytes) -> None:
        vring, fd = self._vring_fd(payload)
        vring.has_kick = True
        self._actions.append(KickFd(vring.index, fd))
        self._try_start(vring)

    def _set_vring_call(self, payload: bytes) -> None:
        vring, fd = self._vring_fd(payload)
        if vring.ring is not None:
            vring.ring.forget_signalled()
        self._actions.append(CallFd(vring.index, fd))

    def _set_vring_err(self, payload: bytes) -> None:
        vring, fd = self._vring_fd(payload)
        self._actions.append(ErrFd(vring.index, fd))

    def _areas(self, vring: Vring) -> Areas:
        """The three areas of a ring in memory (2.7, 2.8.10.1). BrokenRing if they cannot lie there."""
        section, plan = _packed_plan(vring.num) if self.packed else _split_plan(vring.num)
        if vring.addr is None:
            raise BrokenRing(vring.index, "the ring has no addresses", section)
        views = []
        for address, (what, align, size) in zip(vring.addr, plan, strict=True):
            view = self.memory.uva_view(address, size)
            if address % align or view is None:
                rule = f"{what} at {address:#x}: misaligned or not inside one region"
                raise BrokenRing(vring.index, rule, section)
            views.append(view)
        return views[0], views[1], views[2]

    def _make_ring(self, vring: Vring, resumed: bool = False) -> Ring:
        """The ring of the layout that was negotiated. BrokenRing if what was said of it makes none."""
        index, num, base, areas = vring.index, vring.num, vring.base, self._areas(vring)
        own = self._own_memory(vring) if self.logging else []
        if self.packed:
            resumed |= base == vring.given_base
            if self.logging:
                return LoggedPackedRing(
                    index, num, self.memory, areas, self.features, base, resumed, self.log, own
                )
            return PackedRing(index, num, self.memory, areas, self.features, base, resumed)
        if num & (num - 1):
            raise BrokenRing(index, f"a split queue's size is a power of two, not {num}", "2.7")
        base &= 0xFFFF
        if self.logging:
            return LoggedSplitRing(index, num, self.memory, areas, self.features, base, self.log, own)
        return SplitRing(index, num, self.memory, areas, self.features, base)

    def _try_start(self, vring: Vring) -> None:
        ready = vring.has_kick and vring.num and vring.addr and self.memory.regions
        if not ready or vring.ring is not None or vring.broken is not None:
            return
        try:
            vring.ring = self._make_ring(vring)
        except BrokenRing as error:
            self._break(vring, error)
            return
        self._abort_transfer("a ring was started")
        self._actions += [RingStarted(vring.index), StateChanged()]

    def _stop(self, vring: Vring) -> None:
        """Stop a ring; what it pushed is published, and its index kept for GET_VRING_BASE."""
        vring.broken = None
        ring, vring.ring = vring.ring, None
        if ring is None:
            return
        ring.publish()
        vring.base = ring.base
        ring.release()
        self.state.forget()
        if self.suspended:
            self.log.remember()
        self._actions += [RingStopped(vring.index), StateChanged()]

    def _break(self, vring: Vring, error: BrokenRing) -> None:
        """Quarantine: nothing is written to this ring after, not even what was pushed and not published."""
        ring, vring.ring = vring.ring, None
        vring.broken = error
        if ring is not None:
            vring.base = ring.base
            ring.release()
        self._actions += [RingStopped(vring.index), RingBroken(vring.index, error), StateChanged()]

    # -- network ----------------------------------------------------------------------------------------

    def _net_set_mtu(self, payload: bytes) -> None:
        (mtu,) = vu.U64.unpack(payload)
        if not VIRTIO_NET_MIN_MTU <= mtu <= VIRTIO_NET_MAX_MTU:
            raise FrontendError("MTU outside 68 to 65535", f"{mtu}")
        self.net.set_mtu(mtu)
        self._actions.append(StateChanged())

    def _send_rarp(self, payload: bytes) -> None:
        self._actions.append(Rarp(payload[:6]))
