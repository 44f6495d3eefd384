# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend's half of vhost-user: what to say to a back end, in which order, and what its answers mean.

No I/O. Each step of the protocol (`connect`, `start`, `stop`, ...) is a generator: it yields a `Call` and is sent the
payload of the answer, b"" where there is none. Whoever runs it carries the calls::

    run(frontend.connect())            a socket (guest/driver/backend.py)
    link.run(frontend.connect())       a session in this process (guest/driver/loop.py)

States. A frontend is connected (features known), then started (rings run), then stopped, and started again with the
same or other features; after the back end came back it goes on with `connect()` and `start(bases)`. A region that says
what was in flight is asked for by `get_inflight()`, kept, and handed to each back end by `set_inflight()`
before `start()`.

Which order. `connect()`: SET_OWNER, GET_FEATURES, the protocol features if bit 30 is offered, then what these give:
queue pairs, memory slots. `start()`: features, memory, then ring by ring size, base, addresses, err, call, kick, and
at last enable. Status messages go where a driver would set its status (2.1, 3.1.1), if they were negotiated.

Answers. A request with a reply of its own waits for that. Any other one is asked to be acknowledged (NEED_REPLY) once
REPLY_ACK is negotiated, so that a refusal is met where it happened: RequestRefused. Without REPLY_ACK a back end can
only hang up; then `start()` ends by a GET_FEATURES, whose answer says that all before it was taken.

Nothing that was not negotiated is sent: `request()` checks that, and is the one way out. Who wants to break the
protocol makes a `Call` by hand.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, NamedTuple, TypeVar

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.message import Request
from devmodel.virtio import features as vf
from devmodel.virtio.inflight import InflightSpec
from devmodel.virtio.memory import RegionSpec
from devmodel.virtio.spec import (
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK,
)
from guest.driver.dirtylog import GuestLog
from guest.driver.errors import FeatureMissing, ProtocolBroken, RequestRefused
from guest.driver.memory import DriverMemory
from guest.driver.names import feature_names
from guest.driver.virtqueue import Virtqueue

T = TypeVar("T")

# What this frontend can make use of.
PROTOCOL_FEATURES: Final = vf.mask(
    vu.VHOST_USER_PROTOCOL_F_MQ,
    vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD,
    vu.VHOST_USER_PROTOCOL_F_RARP,
    vu.VHOST_USER_PROTOCOL_F_REPLY_ACK,
    vu.VHOST_USER_PROTOCOL_F_NET_MTU,
    vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
    vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
    vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    vu.VHOST_USER_PROTOCOL_F_STATUS,
    vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE,
)

# What it can make use of with somebody at its end of the back-end channel (guest/driver/channel.py).
CHANNEL_FEATURES: Final = vf.mask(
    vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
    vu.VHOST_USER_PROTOCOL_F_CONFIG,
    vu.VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS,
)

# "Payload": what a reply of its own looks like, in bytes
_REPLY_SIZE: Final = 8


class Call(NamedTuple):
    """One message. `replies`: its answer is the next thing that the back end sends; descriptors that come with it are
    added to `got_fds`, for whoever asked to close, and closed if there is no such list."""

    request: int
    payload: bytes = b""
    fds: tuple[int, ...] = ()
    replies: bool = False
    need_reply: bool = False
    got_fds: list[int] | None = None

    @property
    def name(self) -> str:
        try:
            return Request(self.request).name.removeprefix("VHOST_USER_")
        except ValueError:
            return f"request {self.request}"

    def encode(self) -> bytes:
        flags = vu.VHOST_USER_VERSION | (vu.VHOST_USER_NEED_REPLY_MASK if self.need_reply else 0)
        return vu.encode(self.request, self.payload, flags)


Steps = Generator[Call, bytes, T]
"""A part of the protocol; its return value is the result."""


class RingFds(NamedTuple):
    """One ring's descriptors: the back end waits for `kick`, and writes `call` and `err`."""

    kick: int
    call: int
    err: int


class Frontend:
    """What was offered, what was agreed on, and the steps. `wanted_protocol` narrows the protocol features."""

    def __init__(self, wanted_protocol: int = PROTOCOL_FEATURES) -> None:
        self.wanted_protocol = wanted_protocol
        self.offered = 0
        self.features = 0
        self.offered_protocol = 0
        self.protocol_features = 0
        self.queue_pairs = 1
        self.mem_slots = vu.MAX_REGIONS
        self.memory: DriverMemory | None = None
        self.channel_fd = -1  # what the back end gets for its own requests, if it wants that
        self.logging = False

    def has(self, bit: int) -> bool:
        """A protocol feature was negotiated."""
        return bool(self.protocol_features >> bit & 1)

    @property
    def speaks_protocol_features(self) -> bool:
        return bool(self.offered >> vf.VHOST_USER_F_PROTOCOL_FEATURES & 1)

    # -- one message ------------------------------------------------------------------------------------

    def request(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        got_fds: list[int] | None = None,
    ) -> Steps[bytes]:
        """One message and its answer. RequestRefused; FeatureMissing for what its protocol feature is missing."""
        rule = vu.RULES[request]
        if rule.gate is not None and not self.has(rule.gate):
            raise FeatureMissing(
                f"{Request(request).name} cannot be sent",
                f"protocol feature {vu.names(1 << rule.gate)[0]} was not negotiated",
            )
        need_reply = not rule.replies and self.has(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
        call = Call(request, payload, tuple(fds), rule.replies or need_reply, need_reply, got_fds)
        answer = yield call
        if call.replies and len(answer) < _REPLY_SIZE:
            raise ProtocolBroken(f"the answer to {call.name} is too short", f"{len(answer)} bytes, 8 are due")
        if need_reply and any(answer[:_REPLY_SIZE]):
            (number,) = vu.U64.unpack_from(answer)
            raise RequestRefused(f"the back end refused {call.name}", f"it answered {number}")
        return answer

    def number(self, request: int) -> Steps[int]:
        """A request whose answer is a number."""
        answer = yield from self.request(request)
        return int(vu.U64.unpack_from(answer)[0])

    def set_number(self, request: int, value: int, fds: Sequence[int] = ()) -> Steps[bytes]:
        return (yield from self.request(request, vu.U64.pack(value), fds))

    def set_state(self, request: int, index: int, number: int) -> Steps[bytes]:
        return (yield from self.request(request, vu.VRING_STATE.pack(index, number)))

    # -- connecting -------------------------------------------------------------------------------------

    def connect(self) -> Steps[int]:
        """Own the session and learn what is offered; the offered features."""
        self.protocol_features = 0
        yield from self.request(Request.VHOST_USER_SET_OWNER)
        self.offered = yield from self.number(Request.VHOST_USER_GET_FEATURES)
        if self.speaks_protocol_features:
            yield from self._connect_protocol()
        return self.offered

    def _connect_protocol(self) -> Steps[None]:
        self.offered_protocol = yield from self.number(Request.VHOST_USER_GET_PROTOCOL_FEATURES)
        agreed = self.offered_protocol & self.wanted_protocol
        yield from self.set_number(Request.VHOST_USER_SET_PROTOCOL_FEATURES, agreed)
        self.protocol_features = agreed
        if self.has(vu.VHOST_USER_PROTOCOL_F_MQ):
            self.queue_pairs = yield from self.number(Request.VHOST_USER_GET_QUEUE_NUM)
        if self.has(vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ) and self.channel_fd >= 0:
            yield from self.request(Request.VHOST_USER_SET_BACKEND_REQ_FD, fds=[self.channel_fd])
        if self.has(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS):
            self.mem_slots = yield from self.number(Request.VHOST_USER_GET_MAX_MEM_SLOTS)

    # -- inflight I/O tracking --------------------------------------------------------------------------

    def get_inflight(self, num_queues: int, queue_size: int) -> Steps[tuple[InflightSpec, int]]:
        """A fresh region and its descriptor, which is the caller's. RequestRefused."""
        got: list[int] = []
        payload = vu.encode_inflight(InflightSpec(0, 0, num_queues, queue_size))
        answer = yield from self.request(Request.VHOST_USER_GET_INFLIGHT_FD, payload, (), got)
        if len(answer) < vu.INFLIGHT.size:
            raise ProtocolBroken("the answer to GET_INFLIGHT_FD is too short", f"{len(answer)} bytes")
        spec = vu.decode_inflight(answer)
        if not spec.mmap_size or len(got) != 1:
            raise RequestRefused(
                "the back end gave no inflight region", f"{spec}, {len(got)} descriptors came with it"
            )
        return spec, got[0]

    def set_inflight(self, spec: InflightSpec, fd: int) -> Steps[None]:
        """Hand a region over, a fresh one or one that another back end left; the rings start after that."""
        yield from self.request(Request.VHOST_USER_SET_INFLIGHT_FD, vu.encode_inflight(spec), [fd])

    # -- starting ---------------------------------------------------------------------------------------

    def set_features(self, features: int) -> Steps[None]:
        """Acknowledge features; bit 30 goes with them where it was offered. FeatureMissing."""
        alien = features & ~self.offered
        if alien:
            raise FeatureMissing(
                "the back end does not offer " + feature_names(alien),
                f"it offers {feature_names(self.offered) or 'nothing'}",
                "leave the feature out",
            )
        self.features = features | self.offered & vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES)
        yield from self._status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)
        yield from self.set_number(Request.VHOST_USER_SET_FEATURES, self.features)
        if not self.has(vu.VHOST_USER_PROTOCOL_F_STATUS):
            return
        wanted = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK
        yield from self._status(wanted)
        status = yield from self.number(Request.VHOST_USER_GET_STATUS)
        if not status & VIRTIO_CONFIG_S_FEATURES_OK:
            raise RequestRefused("the back end refused the features", f"status {status:#x} lacks FEATURES_OK")

    def _status(self, status: int) -> Steps[None]:
        if self.has(vu.VHOST_USER_PROTOCOL_F_STATUS):
            yield from self.set_number(Request.VHOST_USER_SET_STATUS, status)

    def set_mtu(self, mtu: int) -> Steps[None]:
        """Tell the guest's MTU, if the back end wants to know."""
        if self.has(vu.VHOST_USER_PROTOCOL_F_NET_MTU):
            yield from self.set_number(Request.VHOST_USER_NET_SET_MTU, mtu)

    def share_memory(self, memory: DriverMemory) -> Steps[None]:
        """Give all regions to the back end, one by one where memory slots were negotiated."""
        if not self.has(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS):
            table = vu.encode_mem_table(memory.specs)
            fds = [memory.fd] * len(memory.specs)
            yield from self.request(Request.VHOST_USER_SET_MEM_TABLE, table, fds)
        elif self.memory is not memory:
            if len(memory.specs) > self.mem_slots:
                raise FeatureMissing(
                    f"the back end has {self.mem_slots} memory slots", f"{len(memory.specs)} are needed"
                )
            for spec in memory.specs:
                yield from self.request(Request.VHOST_USER_ADD_MEM_REG, encode_single(spec), [memory.fd])
        self.memory = memory

    def remove_region(self, spec: RegionSpec) -> Steps[None]:
        yield from self.request(Request.VHOST_USER_REM_MEM_REG, encode_single(spec))

    def start_ring(self, queue: Virtqueue, fds: RingFds | None, base: int | None = None) -> Steps[None]:
        """Everything of one ring but the enabling. Without `fds` the back end has to poll."""
        index = queue.index
        yield from self.set_state(Request.VHOST_USER_SET_VRING_NUM, index, queue.num)
        start = queue.base if base is None else base
        yield from self.set_state(Request.VHOST_USER_SET_VRING_BASE, index, start)
        yield from self.request(Request.VHOST_USER_SET_VRING_ADDR, encode_addr(queue, self._addr_flags))
        for request, fd in (
            (Request.VHOST_USER_SET_VRING_ERR, None if fds is None else fds.err),
            (Request.VHOST_USER_SET_VRING_CALL, None if fds is None else fds.call),
            (Request.VHOST_USER_SET_VRING_KICK, None if fds is None else fds.kick),
        ):
            yield from self.set_fd(request, index, fd)

    def set_fd(self, request: int, index: int, fd: int | None) -> Steps[None]:
        """SET_VRING_KICK, _CALL or _ERR; None: there is none."""
        word = index | (vu.VHOST_USER_VRING_NOFD_MASK if fd is None else 0)
        yield from self.set_number(request, word, [] if fd is None else [fd])

    def enable(self, index: int, on: bool) -> Steps[None]:
        """Nothing where bit 30 was not negotiated: such rings are enabled from the start."""
        if self.features >> vf.VHOST_USER_F_PROTOCOL_FEATURES & 1:
            yield from self.set_state(Request.VHOST_USER_SET_VRING_ENABLE, index, int(on))

    def start(
        self,
        memory: DriverMemory,
        queues: Sequence[Virtqueue],
        fds: Sequence[RingFds] = (),
        bases: Sequence[int] = (),
    ) -> Steps[None]:
        """Share memory and start all queues; `set_features()` comes before."""
        yield from self.share_memory(memory)
        for at, queue in enumerate(queues):
            base = bases[at] if bases else None
            yield from self.start_ring(queue, fds[at] if fds else None, base)
        for queue in queues:
            yield from self.enable(queue.index, True)
        yield from self._status(
            VIRTIO_CONFIG_S_ACKNOWLEDGE
            | VIRTIO_CONFIG_S_DRIVER
            | VIRTIO_CONFIG_S_FEATURES_OK
            | VIRTIO_CONFIG_S_DRIVER_OK
        )
        yield from self.number(Request.VHOST_USER_GET_FEATURES)

    # -- migrating --------------------------------------------------------------------------------------

    @property
    def _addr_flags(self) -> int:
        return vu.VHOST_VRING_F_LOG if self.logging else 0

    def set_log(self, log: GuestLog) -> Steps[None]:
        """Where the back end marks pages from now on."""
        payload = vu.LOG.pack(log.size, log.offset)
        if self.has(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK) or not self.has(vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD):
            yield from self.request(Request.VHOST_USER_SET_LOG_BASE, payload, [log.fd])
        else:  # it is answered all the same, by an empty message
            yield Call(Request.VHOST_USER_SET_LOG_BASE, payload, (log.fd,), replies=True)

    def log_writes(self, on: bool, queues: Sequence[Virtqueue]) -> Steps[None]:
        """Begin or end logging, of rings that run too, as QEMU does it: features, then addresses. FeatureMissing."""
        bit = vf.mask(vf.VHOST_F_LOG_ALL)
        if on and not self.offered & bit:
            raise FeatureMissing("writes cannot be logged", "the back end does not offer VHOST_F_LOG_ALL")
        self.features = self.features | bit if on else self.features & ~bit
        self.logging = on
        yield from self.set_number(Request.VHOST_USER_SET_FEATURES, self.features)
        for queue in queues:
            yield from self.request(Request.VHOST_USER_SET_VRING_ADDR, encode_addr(queue, self._addr_flags))

    def transfer_state(self, direction: int, fd: int) -> Steps[None]:
        """Save or load the back end's state through the end of a pipe that is given to it. RequestRefused."""
        payload = vu.DEVICE_STATE.pack(direction, vu.VHOST_TRANSFER_STATE_PHASE_STOPPED)
        answer = yield from self.request(Request.VHOST_USER_SET_DEVICE_STATE_FD, payload, [fd])
        (word,) = vu.U64.unpack_from(answer)
        if word & vu.DEVICE_STATE_ERROR_MASK:
            raise RequestRefused("the back end does not transfer its state", f"it answered {word:#x}")
        if not word & vu.DEVICE_STATE_NOFD:
            raise ProtocolBroken(
                "the answer to SET_DEVICE_STATE_FD is about a descriptor that did not come", ""
            )

    def check_state(self) -> Steps[None]:
        """RequestRefused if the state was not saved or taken over as a whole."""
        answer = yield from self.number(Request.VHOST_USER_CHECK_DEVICE_STATE)
        if answer:
            raise RequestRefused("the back end's state was not transferred", f"it answered {answer}")

    # -- stopping ---------------------------------------------------------------------------------------

    def stop(self, queues: Sequence[Virtqueue]) -> Steps[list[int]]:
        """Stop all queues; where each of them stands."""
        bases = []
        for queue in queues:
            yield from self.enable(queue.index, False)
        for queue in queues:
            bases.append((yield from self.get_base(queue.index)))
        return bases

    def get_base(self, index: int) -> Steps[int]:
        """GET_VRING_BASE, which stops the ring."""
        payload = vu.VRING_STATE.pack(index, 0)
        answer = yield from self.request(Request.VHOST_USER_GET_VRING_BASE, payload)
        got, base = vu.VRING_STATE.unpack_from(answer)
        if got != index:
            evidence = f"queue {index} was asked for, the answer is about queue {got}"
            raise ProtocolBroken("the answer to GET_VRING_BASE is about another ring", evidence)
        return int(base)

    def reset(self, queues: Sequence[Virtqueue]) -> Steps[None]:
        """Back to where `set_features()` starts, the connection kept."""
        if self.has(vu.VHOST_USER_PROTOCOL_F_RESET_DEVICE):
            yield from self.request(Request.VHOST_USER_RESET_DEVICE)
        else:
            yield from self._status(0)
            yield from self.stop(queues)
        self.features = 0

    # -- configuration space ----------------------------------------------------------------------------

    def get_config(self, offset: int, size: int) -> Steps[bytes]:
        """Bytes of configuration space; RequestRefused if the back end has none there."""
        asked = vu.CONFIG.pack(offset, size, 0) + bytes(size)
        answer = yield Call(Request.VHOST_USER_GET_CONFIG, asked, replies=True)
        if len(answer) != len(asked):
            evidence = f"{len(answer)} bytes instead of {len(asked)}"
            raise RequestRefused("the back end refused GET_CONFIG", evidence)
        return answer[vu.CONFIG.size :]

    def set_config(self, offset: int, data: bytes, flags: int = 0) -> Steps[None]:
        payload = vu.CONFIG.pack(offset, len(data), flags) + data
        yield from self.request(Request.VHOST_USER_SET_CONFIG, payload)

    def forget(self) -> None:
        """The connection is gone; `connect()` comes next."""
        self.memory = None
        self.protocol_features = 0
        self.features = 0
        self.logging = False


def encode_addr(queue: Virtqueue, flags: int = 0) -> bytes:
    """SET_VRING_ADDR's payload: user addresses, or an IOMMU's, in the order desc, used, avail; and for the
    log a guest physical one, or again the IOMMU's."""
    desc, avail, used = queue.addresses
    log = queue.log_address if flags & vu.VHOST_VRING_F_LOG else 0
    return vu.VRING_ADDR.pack(queue.index, flags, desc, used, avail, log)


def encode_single(spec: RegionSpec) -> bytes:
    """The payload of ADD_MEM_REG and REM_MEM_REG."""
    return vu.SINGLE_REGION.pack(0, spec.gpa, spec.size, spec.uva, spec.offset)
