# SPDX-License-Identifier: GPL-2.0-or-later
"""One frontend's vhost-user session as a state machine: messages with descriptors in, actions (actions.py) out.

No I/O happens here. `handle()` gives a list of actions that the caller carries out in order; each
descriptor that came in comes out in exactly one of them, to be kept or closed. Memory is mapped through
the function that the caller handed in.

States. A device has features (of virtio and of the protocol), a status byte, a memory map and 2 * pairs
rings. A ring is stopped, running or broken, and, independently, enabled or not:

    stopped -> running   size, addresses, memory and a kick descriptor (or the word that there is none) are all
                         known, whatever the order they came in. A ring starts at SET_VRING_KICK and not at
                         the first kick: a kick given to a back end that died is lost with it.
    running -> stopped   GET_VRING_BASE, RESET_DEVICE, the end of the session
    running -> broken    the guest broke a rule (`quarantine()`), or a new memory map has no place for the ring
    broken  -> stopped   as for running; new addresses also end it

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
ring_packed.py, "Starting"). With INFLIGHT_SHMFD the frontend has asked for a region (GET_INFLIGHT_FD) and hands it over
before it starts the rings (SET_INFLIGHT_FD): those then start where the region says, with the buffers first that the
last back end had taken (virtio/inflight.py). The region is let go of by RESET_DEVICE and with the session.

The back-end channel (SET_BACKEND_REQ_FD) is a socket of its own with a state machine of its own, backend_channel.py;
what is to be sent there comes out as an action, what came is given to `channel_heard()`. Three things need it. With
ACCESS_PLATFORM addresses are I/O virtual and are asked for there: iommu.py; a ring whose areas are not translated is
`parked` with its indexes, neither stopped nor running. With INBAND_NOTIFICATIONS kicks come as messages here, and calls
and errors go out there, unless a ring has descriptors. With CONFIG we own configuration space (virtio/config.py), and a
change of it is told there. ACCESS_PLATFORM is refused without the channel and REPLY_ACK, as nothing could be asked
for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from devmodel.errors import BrokenRing, FrontendError, MappingError, StateError
from devmodel.vhost_user import devicestate
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.actions import (
    Action,
    CallFd,
    ChannelClosed,
    ChannelFd,
    ChannelSend,
    CloseFd,
    Disconnect,
    ErrFd,
    Kicked,
    KickFd,
    LoadState,
    LogFd,
    Rarp,
    Reply,
    RingBroken,
    RingPaused,
    RingResumed,
    RingStarted,
    RingStopped,
    SaveState,
    Signal,
    StateChanged,
    StopTransfer,
)
from devmodel.vhost_user.backend_channel import Answer, BackendChannel, BackendRequest, iotlb_message
from devmodel.vhost_user.devicestate import NoOwner, StateMachine, StateOwner
from devmodel.vhost_user.iommu import Iommu
from devmodel.vhost_user.message import Message, Request
from devmodel.vhost_user.vring import Vring, areas_of
from devmodel.virtio import features as vf
from devmodel.virtio.config import CONFIG_FEATURES, NetConfig
from devmodel.virtio.dirtylog import DirtyLog, log_size
from devmodel.virtio.inflight import (
    Allocator,
    InflightRegion,
    InflightSpec,
    SplitState,
    check_spec,
    region_bytes,
)
from devmodel.virtio.iotlb import IotlbMiss
from devmodel.virtio.memory import (
    WRITE,
    Extent,
    GuestMemory,
    Mapper,
    Region,
    RegionSpec,
    check_regions,
    map_regions,
)
from devmodel.virtio.net import DEFAULT_MTU, VirtioNet
from devmodel.virtio.ring import Area, Areas, Ring
from devmodel.virtio.ring_kinds import Place, packed_ring, split_ring
from devmodel.virtio.ring_packed import bad_base
from devmodel.virtio.spec import (
    PVIRTQ_EVENT_SIZE,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_NET_MAX_MTU,
    VIRTIO_NET_MIN_MTU,
    VIRTQ_MAX_SIZE,
    desc_size,
    used_size,
)
from devmodel.virtio.state import DeviceState

# CONFIG is not among them: QEMU's network device warns about it and drops it; it comes with `config`. Neither is
# INBAND_NOTIFICATIONS: QEMU 7.2 acknowledges that bit like any other it knows the place of, and then goes on as
# without.
PROTOCOL_FEATURES = vf.mask(
    vu.VHOST_USER_PROTOCOL_F_MQ,
    vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD,
    vu.VHOST_USER_PROTOCOL_F_RARP,
    vu.VHOST_USER_PROTOCOL_F_REPLY_ACK,
    vu.VHOST_USER_PROTOCOL_F_NET_MTU,
    vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
    vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
    vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
    vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    vu.VHOST_USER_PROTOCOL_F_STATUS,
    vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE,
)

_REMEMBERED = 256  # regions that were removed

_FOR_REQUESTS = vf.mask(vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ, vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
_LIMIT = 1 << 64
_LOG_ALL = vf.mask(vf.VHOST_F_LOG_ALL)


def _forget_frames(error: BaseException | None) -> None:
    """Before an error is kept: frames of its traceback, and of the errors that led to it, hold views of guest memory,
    which would stay mapped as long, or until the collector finds the circle that a frame and the error make."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def offered_features(
    features: int, queue_pairs: int, control_queue: bool, config: bool = False, iommu: bool = False
) -> int:
    """What a device with all of that offers, if one of a single pair and nothing else offers `features`."""
    if queue_pairs > 1:
        features |= vf.mask(vf.VIRTIO_NET_F_MQ)
    if control_queue:
        features |= vf.CONTROL_FEATURES | (vf.mask(vf.VIRTIO_NET_F_RSS) if queue_pairs > 1 else 0)
    if config:
        features |= CONFIG_FEATURES
        features |= vf.mask(vf.VIRTIO_NET_F_GUEST_ANNOUNCE) if control_queue else 0
    return features | (vf.mask(vf.VIRTIO_F_ACCESS_PLATFORM) if iommu else 0)


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
        allocator: Allocator | None = None,
        config: NetConfig | None = None,
        iommu: bool = False,
        owner: StateOwner | None = None,
    ) -> None:
        """`control_queue`: the frontend may forward it, as a ring behind the pairs. Without an `allocator` no inflight
        region is made for a frontend that asks; one that it brings along is used. `config`: configuration space is
        ours. `iommu`: addresses may be I/O virtual (ACCESS_PLATFORM). `owner` of what is migrated besides the device's
        own state."""
        iommu = iommu and protocol_features & _FOR_REQUESTS == _FOR_REQUESTS
        features = offered_features(features, queue_pairs, control_queue, config is not None, iommu)
        if config is not None:
            protocol_features |= vf.mask(vu.VHOST_USER_PROTOCOL_F_CONFIG)
        self.queue_pairs = queue_pairs
        self.config = config
        self.channel: BackendChannel | None = None
        self.iommu: Iommu | None = None
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
        self.inflight: InflightRegion | None = None
        self._mapper = mapper
        self._allocator = allocator
        self._specs: list[RegionSpec] = []
        self._removed: set[tuple[int, ...]] = set()  # regions that went by REM_MEM_REG: gpa, size, uva
        self._handlers = self._table()
        self._actions: list[Action] = []
        self._pending_fds: list[int] = []
        self._cause = ""  # the message that is carried out, for what ends a ring's quarantine
        self.around: Callable[[Ring, int], Ring] | None = None  # put round each ring, with the features
        self._reply_fd: int | None = None

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
            Request.VHOST_USER_SET_BACKEND_REQ_FD: self._set_backend_req_fd,
            Request.VHOST_USER_IOTLB_MSG: self._iotlb_msg,
            Request.VHOST_USER_GET_CONFIG: self._get_config,
            Request.VHOST_USER_SET_CONFIG: self._set_config,
            Request.VHOST_USER_VRING_KICK: self._vring_kick,
            Request.VHOST_USER_GET_INFLIGHT_FD: self._get_inflight_fd,
            Request.VHOST_USER_SET_INFLIGHT_FD: self._set_inflight_fd,
            Request.VHOST_USER_RESET_DEVICE: self._reset_device,
            Request.VHOST_USER_GET_MAX_MEM_SLOTS: lambda _: vu.U64.pack(vu.MAX_MEM_SLOTS),
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
        self._reply_fd = None
        own_reply = False
        if self.state.check_waits:
            self._abort_transfer("the frontend went on without waiting for the state")
        try:
            own_reply = vu.check(message, self.protocol_features).replies
            self._cause = Request(message.request).name
            payload = self._handlers[message.request](message.payload)
        except FrontendError as error:
            self._refuse(message, error)
        else:
            if own_reply and payload is not None:
                actions.append(Reply(vu.encode_reply(message.request, payload), self._reply_fd))
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
        self._cause = "the end of the frontend's connection"
        self.state.check_waits = False
        self._abort_transfer("the session ended")
        for vring in self.vrings:
            self._stop(vring)
            vring.enabled = False
        self._drop_inflight()
        if self.channel is not None:
            self.channel.close("the session is over")
        self._see_through(None)
        self.memory.close()
        self.memory = GuestMemory()
        self.log.drop()
        self.net.negotiate(0)
        self.net.set_mtu(DEFAULT_MTU)
        return self._actions

    def channel_heard(self, answer: Answer) -> list[Action]:
        """The frontend answered a request of ours."""
        self._actions = []
        if answer.request == BackendRequest.VHOST_USER_BACKEND_IOTLB_MSG and self.iommu is not None:
            why = f"the frontend answered {answer.number} to a miss at iova {answer.what:#x}"
            self._give_up(self.iommu.answered(answer.what, answer.number == 0), why)
        return self._actions

    def channel_lost(self, reason: str) -> list[Action]:
        """The channel cannot be used any more; what waits for it is broken, all else goes on."""
        self._actions = []
        if self.channel is not None and not self.channel.closed:
            lost = self.channel.close(reason)
            self._actions.append(ChannelClosed(reason, self.channel.finished))
            if self.iommu is not None:
                for answer in lost:
                    self.iommu.answered(answer.what, True)
                self._give_up(self.iommu.everyone(), f"no translation can be asked for: {reason}")
        return self._actions

    def missed(self, index: int, miss: IotlbMiss) -> list[Action]:
        """A ring met a buffer that is not translated: ask for that."""
        self._actions = []
        self._wait(self.vrings[index], miss)
        return self._actions

    def retry(self, index: int) -> list[Action]:
        """If the ring waits and nobody was asked, or answered without a translation: begin again."""
        self._actions = []
        if self.iommu is not None and self.iommu.to_ask_again(index):
            self._resume(self.vrings[index])
        return self._actions

    def waits(self, index: int) -> bool:
        """The ring waits for translations; kicks tell it nothing meanwhile."""
        return self.iommu is not None and self.iommu.waits(index)

    def notify(self, index: int) -> list[Action]:
        """The ring's driver is to be told and has no descriptor for that; [] unless in-band notifications are."""
        self._actions = []
        if self._inband:
            self._request(BackendRequest.VHOST_USER_BACKEND_VRING_CALL, vu.VRING_STATE.pack(index, 0))
        return self._actions

    def config_changed(self) -> list[Action]:
        """Tell the driver to read configuration space again."""
        self._actions = []
        if self.protocol_features >> vu.VHOST_USER_PROTOCOL_F_CONFIG & 1:
            self._request(BackendRequest.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, answered=True)
        return self._actions

    def running(self, index: int) -> Ring | None:
        """The ring if it runs and is enabled."""
        vring = self.vrings[index]
        return vring.ring if vring.enabled else None

    def parked(self, index: int) -> bool:
        """The ring is enabled, and waits for its own areas to be translated."""
        vring = self.vrings[index]
        return vring.enabled and vring.parked is not None

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
        return all(vring.ring is None and vring.parked is None for vring in self.vrings)

    @property
    def _reply_ack(self) -> bool:
        return bool(self.protocol_features >> vu.VHOST_USER_PROTOCOL_F_REPLY_ACK & 1)

    @property
    def _inband(self) -> bool:
        return bool(self.protocol_features >> vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS & 1)

    def _refuse(self, message: Message, error: FrontendError) -> None:
        if message.need_reply and self._reply_ack:
            self._actions.append(Reply(vu.encode_reply(message.request, vu.U64.pack(1))))
        else:
            _forget_frames(error)
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
        """Each feature bit and who has it, the rings, the back-end channel and what is known of an IOMMU: for JSON."""
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
            {
                "index": vring.index,
                "name": self._queue_name(vring.index),
                "size": vring.num,
                "running": (vring.ring or vring.parked) is not None,
                "state": vring.state,
                "enabled": vring.enabled,
            }
            for vring in self.vrings
            if vring.num  # what the frontend has not said anything of is none of its rings
        ]
        found: dict[str, Any] = {
            "features": features,
            "protocol_features": protocol,
            "rings": rings,
            "regions": len(self.memory.regions),
        }
        if self.channel is not None:
            found["channel"] = {"open": not self.channel.closed, **self.channel.counters}
        if self.iommu is not None:
            found["translations"] = len(self.iommu.tlb)
        return found

    def _queue_name(self, index: int) -> str:
        """As virtio 1.2, section 5.1.2, calls it."""
        if index == self.control_index:
            return "controlq"
        return f"{'transmitq' if index & 1 else 'receiveq'}{index // 2 + 1}"

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
        platform = features >> vf.VIRTIO_F_ACCESS_PLATFORM & 1
        if platform and self.protocol_features & _FOR_REQUESTS != _FOR_REQUESTS:
            self.status &= ~VIRTIO_CONFIG_S_FEATURES_OK
            raise FrontendError(
                "ACCESS_PLATFORM needs the protocol features BACKEND_REQ and REPLY_ACK",
                ", ".join(vu.names(self.protocol_features)),
            )
        self._see_through((self.iommu or Iommu(self.memory)) if platform else None)
        self.features = features
        if changed & _LOG_ALL:
            self._relog(self.vrings)
        if changed != _LOG_ALL:
            self._negotiated(features & ~_LOG_ALL)
        if not features >> vf.VHOST_USER_F_PROTOCOL_FEATURES & 1:
            for vring in self.vrings:
                vring.enabled = True
        self._actions.append(StateChanged())

    def _negotiated(self, features: int) -> None:
        """The driver's features are these, without what is the frontend's own."""
        self.net.negotiate(features)
        self.state.negotiated()
        if self.config is not None and features >> vf.VIRTIO_NET_F_MTU & 1:
            self.net.set_mtu(self.config.mtu)

    def _set_protocol_features(self, payload: bytes) -> None:
        (features,) = vu.U64.unpack(payload)
        alien = features & ~self.offered_protocol
        if alien:
            raise FrontendError("protocol features were set that were not offered", f"{alien:#x}")
        inband = features >> vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS & 1
        if inband and features & _FOR_REQUESTS != _FOR_REQUESTS:
            error = FrontendError(
                "INBAND_NOTIFICATIONS needs the protocol features BACKEND_REQ and REPLY_ACK", f"{features:#x}"
            )
            self._actions.append(Disconnect(error))  # "In-band notifications": must close the connection
            return
        self.protocol_features = features

    def _set_status(self, payload: bytes) -> None:
        """Remember the driver's status. 0 keeps the ring indexes: QEMU asks for them right after."""
        (status,) = vu.U64.unpack(payload)
        if status > 0xFF:
            raise FrontendError("the device status is one byte", f"{status:#x}")
        self.status = status

    def _reset_device(self, _payload: bytes) -> None:
        """All rings stop, and do not start where they were because memory is shared again before they are described."""
        for vring in self.vrings:
            self._stop(vring)
            vring.enabled = False
            vring.has_kick = False
            vring.addr = None
            self._actions.append(KickFd(vring.index, None))
        self._drop_inflight()
        self._see_through(None)
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
        if spec in self._specs:
            return  # with several queue pairs QEMU 7.2 gives each region once for each
        if len(self._specs) >= vu.MAX_MEM_SLOTS:
            raise FrontendError(f"ADD_MEM_REG beyond {vu.MAX_MEM_SLOTS} regions", f"{spec}")
        check_regions([*self._specs, spec])
        added = map_regions([spec], self._pending_fds, self._mapper)
        self._removed.discard(spec[:3])
        memory = GuestMemory([*self.memory.regions, *added.regions])
        self._fit_log(memory, added)
        self._adopt(memory, [*self._specs, spec])

    def _rem_mem_reg(self, payload: bytes) -> None:
        spec = vu.decode_single_region(payload)
        gone = [known for known in self._specs if known[:3] == spec[:3]]
        if not gone and spec[:3] in self._removed:
            return  # as for ADD_MEM_REG: it went with the first of several pairs
        if not gone:
            raise FrontendError("REM_MEM_REG names a region that is not there", f"{spec}")
        kept, lost = self._split_regions(gone[0])
        memory, specs = GuestMemory(kept), [known for known in self._specs if known != gone[0]]
        if len(self._removed) >= _REMEMBERED:
            self._removed.clear()
        self._removed.add(spec[:3])
        self._adopt(memory, specs, wait=True)
        GuestMemory(lost).close()

    def _split_regions(self, gone: RegionSpec) -> tuple[list[Region], list[Region]]:
        kept = [region for region in self.memory.regions if region.gpa != gone.gpa]
        lost = [region for region in self.memory.regions if region.gpa == gone.gpa]
        return kept, lost

    def _adopt(self, memory: GuestMemory, specs: list[RegionSpec], wait: bool = False) -> None:
        """Go over to a new memory map; running rings move along, or break if their place is gone. `wait`: they are
        parked instead, since a frontend that gives regions one by one takes away what it will give anew in another
        shape (QEMU does so when regions merge or split)."""
        self.memory = memory
        self._specs = specs
        if self.iommu is not None:
            self.iommu.rebase(memory)
        for vring in self.vrings:
            if vring.ring is not None:
                self._move(vring, vring.ring, wait)
            elif vring.parked is not None:
                self._resume(vring, wait=True)
            else:
                self._try_start(vring)

    def _move(self, vring: Vring, ring: Ring, wait: bool = False) -> None:
        """Go on with a ring, running or parked, where its areas lie now, or park it."""
        try:
            areas = self._areas(vring)
            if self.logging:
                self._own_memory(vring)
        except BrokenRing as error:
            if not wait:
                self._break(vring, error)
            elif vring.parked is None:
                self._park(vring, ring)
        except IotlbMiss as miss:
            if vring.parked is None:
                self._park(vring, ring)
            self._wait(vring, miss)
        else:
            if ring is vring.parked or not (self.logging or vring.logged):
                ring.rebind(self._ring_memory, areas)
                vring.ring, vring.parked = ring, None
            if self.logging or vring.logged:
                self._remake(vring, ring)

    @property
    def _ring_memory(self) -> GuestMemory:
        """What the addresses of rings and descriptors lie in."""
        return self.memory if self.iommu is None else self.iommu.memory

    # -- inflight I/O tracking --------------------------------------------------------------------------

    def _get_inflight_fd(self, payload: bytes) -> bytes:
        """A fresh region; numbers that are none get the answer for "not possible", a size of 0 and no descriptor."""
        asked = vu.decode_inflight(payload)
        try:
            check_spec(asked._replace(mmap_size=0, mmap_offset=0), len(self.vrings))
            if self._allocator is None:
                raise MappingError("this device makes no inflight regions")
            size = region_bytes(asked.num_queues, asked.queue_size)
            self._reply_fd = self._allocator(size)
        except FrontendError:
            return vu.encode_inflight(InflightSpec(0, 0, asked.num_queues, asked.queue_size))
        return vu.encode_inflight(InflightSpec(size, 0, asked.num_queues, asked.queue_size))

    def _set_inflight_fd(self, payload: bytes) -> None:
        spec = vu.decode_inflight(payload)
        check_spec(spec, len(self.vrings))
        if not self.suspended:
            raise FrontendError("SET_INFLIGHT_FD while a ring runs", f"{spec}")
        mapping = self._mapper(self._pending_fds[0], spec.mmap_size, spec.mmap_offset)
        region = InflightRegion(mapping, spec)
        try:
            region.check(self.packed)
        except FrontendError:
            region.close()
            raise
        self._drop_inflight()
        self.inflight = region

    def _drop_inflight(self) -> None:
        if self.inflight is not None:
            self.inflight.close()
            self.inflight = None

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
            if vring.ring is not None:
                self._move(vring, vring.ring)
        self._actions.append(StateChanged())

    def _remake(self, vring: Vring, ring: Ring) -> None:
        """Replace a ring that runs by one of the kind that is wanted now, where it stands. That may fail though its
        place is there: an inflight region can be spoilt at any time."""
        ring.let_go()
        if ring.publish() and ring.needs_signal():
            self._actions.append(Signal(vring.index))
        ring.release()
        vring.base = ring.base
        self._actions.append(StateChanged())
        try:
            vring.ring = self._make_ring(vring, resumed=True)
        except BrokenRing as error:
            self._break(vring, error)

    def _own_memory(self, vring: Vring) -> list[Extent]:
        """What the device writes of the ring itself, if that is to be logged. BrokenRing if it is no memory."""
        if vring.log is None:
            return []
        size = PVIRTQ_EVENT_SIZE if self.packed else used_size(vring.num)
        memory = self._ring_memory
        own = memory.extents(vring.log, size)
        if self.iommu is None:
            known = memory.pieces(vring.log, size, WRITE) is not None
        else:  # a ring may lie in more pages than a buffer may
            known = sum(room for _, room in own) == size
        if not known:
            rule = f"log_guest_addr {vring.log:#x} is not in memory"
            raise BrokenRing(vring.index, rule, "vhost-user: Migration")
        if self.packed and vring.addr is not None:
            own += memory.area_extents(vring.addr[0], desc_size(vring.num))
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
        if (vring.ring or vring.parked) is not None and num != vring.num:
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
        ring = vring.ring or vring.parked
        if ring is not None and base != ring.base:
            raise FrontendError("SET_VRING_BASE on a running ring", f"ring {vring.index}")
        vring.base = base

    def _set_vring_addr(self, payload: bytes) -> None:
        index, flags, desc, used, avail, log = vu.VRING_ADDR.unpack(payload)
        vring = self._vring(index)
        addr = (desc, avail, used)
        if (vring.ring or vring.parked) is not None and addr != vring.addr:
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
            except IotlbMiss:
                pass  # asked for when the ring starts
        self._mend(vring)
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
        if num and self._inband:
            self._start_inband(vring)
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
        section, plan = areas_of(vring.num, self.packed)
        if vring.addr is None:
            raise BrokenRing(vring.index, "the ring has no addresses", section)
        views: list[Area] = []
        for address, (what, align, size, access) in zip(vring.addr, plan, strict=True):
            view: Area | None
            if self.iommu is None or address % align:
                view = None if address % align else self.memory.uva_view(address, size)
                rule = f"{what} at {address:#x}: misaligned or not inside one region"
            else:
                view = self.iommu.memory.area(address, size, access)
                rule = f"{what}: iova {address:#x} and length {size} {self.iommu.memory.fault}"
            if view is None:
                raise BrokenRing(vring.index, rule, section)
            views.append(view)
        return views[0], views[1], views[2]

    def _make_ring(self, vring: Vring, resumed: bool = False) -> Ring:
        """The ring of the layout that was negotiated. BrokenRing if what was said of it makes none."""
        num = vring.num
        if num & (num - 1) and not self.packed:
            raise BrokenRing(vring.index, f"a split queue's size is a power of two, not {num}", "2.7")
        areas = self._areas(vring)
        base = vring.base if self.packed else vring.base & 0xFFFF
        place = Place(vring.index, num, self._ring_memory, areas, self.features, base)
        marks = (self.log, self._own_memory(vring)) if self.logging else None
        state = None if self.inflight is None else self.inflight.state(vring.index, num, self.packed)
        if isinstance(state, SplitState):
            ring = split_ring(place, state, marks)
        elif self.packed:
            ring = packed_ring(place, resumed or vring.base == vring.given_base, state, marks)
        else:
            ring = split_ring(place, None, marks)
        vring.logged = self.logging
        return ring if self.around is None else self.around(ring, self.features)

    def _try_start(self, vring: Vring) -> None:
        ready = vring.has_kick and vring.num and vring.addr and self.memory.regions
        if not ready or (vring.ring or vring.parked) is not None or vring.broken is not None:
            return
        try:
            vring.ring = self._make_ring(vring)
        except BrokenRing as error:
            self._break(vring, error)
            return
        except IotlbMiss as miss:
            self._wait(vring, miss)
            return
        self._abort_transfer("a ring was started")
        self._actions += [RingStarted(vring.index), StateChanged()]

    def _stop(self, vring: Vring) -> None:
        """Stop a ring; what it pushed is published, and its index kept for GET_VRING_BASE."""
        self._mend(vring)
        if self.iommu is not None:
            self.iommu.forget(vring.index)
        ring, runs = vring.ring or vring.parked, vring.ring is not None
        vring.ring = vring.parked = None
        if ring is None:
            return
        if runs:  # one that is parked let go of memory long ago
            ring.publish()
        vring.base = ring.base
        ring.release()
        self.state.forget()
        if self.suspended:
            self.log.remember()
        self._actions += [RingStopped(vring.index), StateChanged()]

    def _mend(self, vring: Vring) -> None:
        if vring.broken is not None:
            vring.broken = None
            vring.breaks.ended(self._cause)

    def _break(self, vring: Vring, error: BrokenRing) -> None:
        """Quarantine: nothing is written to this ring after, not even what was pushed and not published."""
        ring, vring.ring = vring.ring or vring.parked, None
        vring.parked = None
        vring.broken = error
        _forget_frames(error)
        vring.breaks.broke(error)
        if self.iommu is not None:
            self.iommu.forget(vring.index)
        self._tell_of_broken(vring)
        if ring is not None:
            vring.base = ring.base
            ring.release()
        self._actions += [RingStopped(vring.index), RingBroken(vring.index, error), StateChanged()]

    # -- the back-end channel ---------------------------------------------------------------------------

    def _set_backend_req_fd(self, _payload: bytes) -> None:
        """A new channel in the place of the old one, if there was one; what that one was asked is asked for anew."""
        if self.channel is not None:
            for answer in self.channel.close("the frontend gave another one"):
                if self.iommu is not None:
                    self.iommu.answered(answer.what, True)
        self.channel = BackendChannel(self._reply_ack)
        self._actions.append(ChannelFd(self._take_fd(), self.channel))

    def _request(
        self, request: BackendRequest, payload: bytes = b"", what: int = 0, answered: bool = False
    ) -> bool:
        """Ask the frontend for something; False if that cannot be. A suspended device says nothing."""
        if self.channel is None or not any(self._lives(vring) for vring in self.vrings):
            return False
        data = self.channel.request(request, payload, what, answered)
        if data:
            self._actions.append(ChannelSend(data))
        return bool(data)

    def _lives(self, vring: Vring) -> bool:
        """Not stopped; a ring that cannot be laid out before it was translated counts, and one that broke."""
        waits = self.iommu is not None and self.iommu.waits(vring.index)
        return waits or (vring.ring or vring.parked or vring.broken) is not None

    def _tell_of_broken(self, vring: Vring) -> None:
        """What a frontend hears of a broken ring over the channel."""
        denied = None if self.iommu is None else self.iommu.memory.take_denied()
        if denied is not None:
            payload = iotlb_message(denied[0], 0, 0, denied[1], vu.VHOST_IOTLB_ACCESS_FAIL)
            self._request(BackendRequest.VHOST_USER_BACKEND_IOTLB_MSG, payload)
        if self._inband:
            self._request(BackendRequest.VHOST_USER_BACKEND_VRING_ERR, vu.VRING_STATE.pack(vring.index, 0))

    def _vring_kick(self, payload: bytes) -> None:
        vring, _num = self._vring_state(payload)
        self._start_inband(vring)
        self._actions.append(Kicked(vring.index))

    def _start_inband(self, vring: Vring) -> None:
        """A frontend with in-band notifications need not send SET_VRING_KICK: User-Mode Linux does not."""
        vring.has_kick = True
        self._try_start(vring)

    # -- the frontend's IOMMU ---------------------------------------------------------------------------

    def _see_through(self, iommu: Iommu | None) -> None:
        """Take addresses as I/O virtual from now on, or as they are."""
        if self.iommu is not None and iommu is not self.iommu:
            self.iommu.tlb.clear()
        self.iommu = iommu

    def _wait(self, vring: Vring, miss: IotlbMiss) -> None:
        """The ring waits for translations; those that nobody asked for yet are asked for."""
        iommu = self.iommu
        if iommu is None:
            return
        if self.channel is None or self.channel.closed:
            reason = "there is no back-end channel" if self.channel is None else self.channel.closed
            rule = f"iova {miss.missing[0]:#x} is not translated, and cannot be asked for: {reason}"
            self._break(vring, BrokenRing(vring.index, rule, "6"))
            return
        for iova in iommu.wait(vring.index, miss):
            payload = iotlb_message(iova, 0, 0, miss.access, vu.VHOST_IOTLB_MISS)
            if self._request(BackendRequest.VHOST_USER_BACKEND_IOTLB_MSG, payload, iova, True):
                iommu.asked(iova)

    def _iotlb_msg(self, payload: bytes) -> bytes:
        iova, size, uva, access, kind = vu.IOTLB.unpack_from(payload)
        if self.iommu is None:
            raise FrontendError("IOTLB_MSG needs ACCESS_PLATFORM", "it was not negotiated")
        if kind == vu.VHOST_IOTLB_UPDATE:
            self.iommu.tlb.update(iova, size, uva, access)
        elif kind == vu.VHOST_IOTLB_INVALIDATE:
            self.iommu.tlb.invalidate(iova, size)
        else:
            raise FrontendError("an IOTLB message is an update or an invalidation", f"type {kind}")
        for vring in self.vrings:
            if vring.ring is not None and self._lies_in(vring, iova, size):
                self._move(vring, vring.ring)
        if kind == vu.VHOST_IOTLB_UPDATE:
            for index in self.iommu.came():
                self._resume(self.vrings[index])
        return vu.U64.pack(0)

    def _lies_in(self, vring: Vring, iova: int, size: int) -> bool:
        """One of the ring's areas touches these addresses; all do if `size` is 0."""
        _section, plan = areas_of(vring.num, self.packed)
        areas = zip(vring.addr or (), plan, strict=True)
        return any(not size or (at < iova + size and iova < at + room) for at, (_, _, room, _) in areas)

    def _park(self, vring: Vring, ring: Ring) -> None:
        """Let go of the ring's areas, which the frontend takes away once it has our answer."""
        ring.publish()
        ring.release()
        vring.ring, vring.parked = None, ring
        self._actions.append(RingPaused(vring.index))

    def _resume(self, vring: Vring, wait: bool = False) -> None:
        """What the ring waited for has come."""
        if vring.parked is not None:
            vring.parked.forget_signalled()
            self._move(vring, vring.parked, wait)
        elif vring.ring is None:
            self._try_start(vring)
            return
        if vring.ring is not None:
            self._actions.append(RingResumed(vring.index))

    def _give_up(self, indexes: list[int], rule: str) -> None:
        """Translations that these rings wait for will never come."""
        for index in indexes:
            self._break(self.vrings[index], BrokenRing(index, rule, "6"))

    # -- configuration space ----------------------------------------------------------------------------

    def _get_config(self, payload: bytes) -> bytes:
        """As much of it as was asked for; what lies behind it is zeros. An empty reply says that it cannot be read."""
        offset, size, _flags = vu.CONFIG.unpack_from(payload)
        limit = vu.VHOST_USER_MAX_CONFIG_SIZE
        if self.config is None or not 0 < size <= limit or offset + size > limit:
            return b""
        space = self.config.pack(self.queue_pairs, self.net.control.announce).ljust(limit, b"\0")
        return payload[: vu.CONFIG.size] + space[offset : offset + size]

    def _set_config(self, payload: bytes) -> None:
        offset, size, flags = vu.CONFIG.unpack_from(payload)
        data = payload[vu.CONFIG.size :]
        what = f"offset {offset}, size {size}, flags {flags}, {len(data)} bytes"
        if size != len(data) or flags > vu.VHOST_SET_CONFIG_TYPE_MIGRATION:
            raise FrontendError("SET_CONFIG is not what it says", what)
        migration = flags == vu.VHOST_SET_CONFIG_TYPE_MIGRATION
        if self.config is None or not self.config.write(offset, data, migration=migration):
            raise FrontendError("SET_CONFIG of what a driver may not write", what)

    # -- network ----------------------------------------------------------------------------------------

    def _net_set_mtu(self, payload: bytes) -> None:
        (mtu,) = vu.U64.unpack(payload)
        if not VIRTIO_NET_MIN_MTU <= mtu <= VIRTIO_NET_MAX_MTU:
            raise FrontendError("MTU outside 68 to 65535", f"{mtu}")
        self.net.set_mtu(mtu)
        self._actions.append(StateChanged())

    def _send_rarp(self, payload: bytes) -> None:
        self._actions.append(Rarp(payload[:6]))
