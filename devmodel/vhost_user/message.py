# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of the vhost-user protocol: numbers, layouts, what each request must look like, and framing.

Codec only. `RULES` says of each request that this back end knows how long its payload is, how many
descriptors come with it, which protocol feature it needs and whether it has a reply of its own; `check()`
applies that before any handler runs. `MessageReader` cuts the byte stream: it says how many bytes to read
next, so that nobody reads past one message, whose successor may carry descriptors of its own.

Limits: a payload of 4096 bytes, 32 descriptors in one message, 8 memory regions in a table, 32 one by one. The largest
message that a known frontend sends is a memory table of 264 bytes with 8 descriptors.

Byte order on the wire is the host's; this package runs on little-endian hosts only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from devmodel.errors import FrontendError
from devmodel.virtio.inflight import InflightSpec
from devmodel.virtio.memory import RegionSpec

# "Header"
HEADER: Final = struct.Struct("<III")
VHOST_USER_VERSION: Final = 1
VHOST_USER_VERSION_MASK: Final = 3
VHOST_USER_REPLY_MASK: Final = 4
VHOST_USER_NEED_REPLY_MASK: Final = 8

MAX_PAYLOAD: Final = 4096
MAX_FDS: Final = 32
MAX_REGIONS: Final = 8
MAX_MEM_SLOTS: Final = 32  # with CONFIGURE_MEM_SLOTS: room for memory that is plugged in while the guest runs

# "Payload"
U64: Final = struct.Struct("<Q")
VRING_STATE: Final = struct.Struct("<II")
VRING_ADDR: Final = struct.Struct("<IIQQQQ")
MEM_TABLE: Final = struct.Struct("<II")
MEM_REGION: Final = struct.Struct("<QQQQ")
SINGLE_REGION: Final = struct.Struct("<QQQQQ")
INFLIGHT: Final = struct.Struct("<QQHH")
INFLIGHT_SIZE: Final = 24  # as C pads it, and strict peers compare; the specification counts 20
IOTLB: Final = struct.Struct("<QQQBB")  # iova, size, user address, permissions, type
IOTLB_SIZE: Final = 32  # of the C struct, which ends in padding
CONFIG: Final = struct.Struct("<III")  # offset, size, flags; the data follow

# "IOTLB message": permissions and types
VHOST_ACCESS_RO: Final = 1
VHOST_ACCESS_WO: Final = 2
VHOST_ACCESS_RW: Final = 3
VHOST_IOTLB_MISS: Final = 1
VHOST_IOTLB_UPDATE: Final = 2
VHOST_IOTLB_INVALIDATE: Final = 3
VHOST_IOTLB_ACCESS_FAIL: Final = 4

# "Virtio device config space": the most that a message carries, and who writes
VHOST_USER_MAX_CONFIG_SIZE: Final = 256
VHOST_SET_CONFIG_TYPE_FRONTEND: Final = 0
VHOST_SET_CONFIG_TYPE_MIGRATION: Final = 1
LOG: Final = struct.Struct("<QQ")

DEVICE_STATE: Final = struct.Struct("<II")

# "Device state transfer parameters", and what SET_DEVICE_STATE_FD answers
VHOST_TRANSFER_STATE_DIRECTION_SAVE: Final = 0
VHOST_TRANSFER_STATE_DIRECTION_LOAD: Final = 1
VHOST_TRANSFER_STATE_PHASE_STOPPED: Final = 0
DEVICE_STATE_ERROR_MASK: Final = 0xFF
DEVICE_STATE_NOFD: Final = 0x100  # the frontend's own descriptor is used

# "Vring address description": flags
VHOST_VRING_F_LOG: Final = 1

# "Vring descriptor messages"
VHOST_USER_VRING_IDX_MASK: Final = 0xFF
VHOST_USER_VRING_NOFD_MASK: Final = 0x100


class Request(IntEnum):
    """ "Front-end message types", those that a network device may meet."""

    VHOST_USER_GET_FEATURES = 1
    VHOST_USER_SET_FEATURES = 2
    VHOST_USER_SET_OWNER = 3
    VHOST_USER_RESET_OWNER = 4
    VHOST_USER_SET_MEM_TABLE = 5
    VHOST_USER_SET_LOG_BASE = 6
    VHOST_USER_SET_LOG_FD = 7
    VHOST_USER_SET_VRING_NUM = 8
    VHOST_USER_SET_VRING_ADDR = 9
    VHOST_USER_SET_VRING_BASE = 10
    VHOST_USER_GET_VRING_BASE = 11
    VHOST_USER_SET_VRING_KICK = 12
    VHOST_USER_SET_VRING_CALL = 13
    VHOST_USER_SET_VRING_ERR = 14
    VHOST_USER_GET_PROTOCOL_FEATURES = 15
    VHOST_USER_SET_PROTOCOL_FEATURES = 16
    VHOST_USER_GET_QUEUE_NUM = 17
    VHOST_USER_SET_VRING_ENABLE = 18
    VHOST_USER_SEND_RARP = 19
    VHOST_USER_NET_SET_MTU = 20
    VHOST_USER_SET_BACKEND_REQ_FD = 21
    VHOST_USER_IOTLB_MSG = 22
    VHOST_USER_GET_CONFIG = 24
    VHOST_USER_SET_CONFIG = 25
    VHOST_USER_GET_INFLIGHT_FD = 31
    VHOST_USER_SET_INFLIGHT_FD = 32
    VHOST_USER_RESET_DEVICE = 34
    VHOST_USER_VRING_KICK = 35
    VHOST_USER_GET_MAX_MEM_SLOTS = 36
    VHOST_USER_ADD_MEM_REG = 37
    VHOST_USER_REM_MEM_REG = 38
    VHOST_USER_SET_STATUS = 39
    VHOST_USER_GET_STATUS = 40
    VHOST_USER_SET_DEVICE_STATE_FD = 42
    VHOST_USER_CHECK_DEVICE_STATE = 43


# "Protocol features"
VHOST_USER_PROTOCOL_F_MQ: Final = 0
VHOST_USER_PROTOCOL_F_LOG_SHMFD: Final = 1
VHOST_USER_PROTOCOL_F_RARP: Final = 2
VHOST_USER_PROTOCOL_F_REPLY_ACK: Final = 3
VHOST_USER_PROTOCOL_F_NET_MTU: Final = 4
VHOST_USER_PROTOCOL_F_BACKEND_REQ: Final = 5
VHOST_USER_PROTOCOL_F_CONFIG: Final = 9
VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD: Final = 12
VHOST_USER_PROTOCOL_F_RESET_DEVICE: Final = 13
VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS: Final = 14
VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: Final = 15
VHOST_USER_PROTOCOL_F_STATUS: Final = 16
VHOST_USER_PROTOCOL_F_DEVICE_STATE: Final = 19
_NAMES: Final = {
    value: name for name, value in list(globals().items()) if name.startswith("VHOST_USER_PROTOCOL_F_")
}


def names(protocol_features: int) -> list[str]:
    """The set bits by name, lowest first; a bit without a name as `bit N`."""
    return [_NAMES.get(bit, f"bit {bit}") for bit in range(64) if protocol_features >> bit & 1]


class Rule(NamedTuple):
    """What one request must look like: payload bytes and descriptors (least, most), protocol feature."""

    size: tuple[int, int]
    fds: tuple[int, int] = (0, 0)
    gate: int | None = None
    replies: bool = False


_NONE = (0, 0)
_U64 = (8, 8)
_INFLIGHT = (INFLIGHT.size, INFLIGHT_SIZE)
_CONFIG = (CONFIG.size + 1, CONFIG.size + VHOST_USER_MAX_CONFIG_SIZE)
_TABLE = (MEM_TABLE.size + MEM_REGION.size, MEM_TABLE.size + MAX_REGIONS * MEM_REGION.size)

RULES: Final[dict[int, Rule]] = {
    Request.VHOST_USER_GET_FEATURES: Rule(_NONE, replies=True),
    Request.VHOST_USER_SET_FEATURES: Rule(_U64),
    Request.VHOST_USER_SET_OWNER: Rule(_NONE),
    Request.VHOST_USER_RESET_OWNER: Rule(_NONE),
    Request.VHOST_USER_SET_MEM_TABLE: Rule(_TABLE, (1, MAX_REGIONS)),
    Request.VHOST_USER_SET_LOG_BASE: Rule((LOG.size, LOG.size), (1, 1), VHOST_USER_PROTOCOL_F_LOG_SHMFD),
    Request.VHOST_USER_SET_LOG_FD: Rule(_NONE, (1, 1)),
    Request.VHOST_USER_SET_VRING_NUM: Rule(_U64),
    Request.VHOST_USER_SET_VRING_ADDR: Rule((40, 40)),
    Request.VHOST_USER_SET_VRING_BASE: Rule(_U64),
    Request.VHOST_USER_GET_VRING_BASE: Rule(_U64, replies=True),
    Request.VHOST_USER_SET_VRING_KICK: Rule(_U64, (0, 1)),
    Request.VHOST_USER_SET_VRING_CALL: Rule(_U64, (0, 1)),
    Request.VHOST_USER_SET_VRING_ERR: Rule(_U64, (0, 1)),
    Request.VHOST_USER_GET_PROTOCOL_FEATURES: Rule(_NONE, replies=True),
    Request.VHOST_USER_SET_PROTOCOL_FEATURES: Rule(_U64),
    Request.VHOST_USER_GET_QUEUE_NUM: Rule(_NONE, gate=VHOST_USER_PROTOCOL_F_MQ, replies=True),
    Request.VHOST_USER_SET_VRING_ENABLE: Rule(_U64),
    Request.VHOST_USER_SEND_RARP: Rule(_U64, gate=VHOST_USER_PROTOCOL_F_RARP),
    Request.VHOST_USER_NET_SET_MTU: Rule(_U64, gate=VHOST_USER_PROTOCOL_F_NET_MTU),
    Request.VHOST_USER_SET_BACKEND_REQ_FD: Rule((0, 8), (1, 1), VHOST_USER_PROTOCOL_F_BACKEND_REQ),
    Request.VHOST_USER_IOTLB_MSG: Rule(
        (IOTLB.size, IOTLB_SIZE), gate=VHOST_USER_PROTOCOL_F_BACKEND_REQ, replies=True
    ),
    Request.VHOST_USER_GET_CONFIG: Rule(_CONFIG, gate=VHOST_USER_PROTOCOL_F_CONFIG, replies=True),
    Request.VHOST_USER_SET_CONFIG: Rule(_CONFIG, gate=VHOST_USER_PROTOCOL_F_CONFIG),
    Request.VHOST_USER_VRING_KICK: Rule(_U64, gate=VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS),
    Request.VHOST_USER_GET_INFLIGHT_FD: Rule(
        _INFLIGHT, gate=VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD, replies=True
    ),
    Request.VHOST_USER_SET_INFLIGHT_FD: Rule(_INFLIGHT, (1, 1), VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD),
    Request.VHOST_USER_RESET_DEVICE: Rule(_NONE, gate=VHOST_USER_PROTOCOL_F_RESET_DEVICE),
    Request.VHOST_USER_GET_MAX_MEM_SLOTS: Rule(
        _NONE, gate=VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, replies=True
    ),
    Request.VHOST_USER_ADD_MEM_REG: Rule((40, 40), (1, 1), VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS),
    Request.VHOST_USER_REM_MEM_REG: Rule((40, 40), (0, 1), VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS),
    Request.VHOST_USER_SET_STATUS: Rule(_U64, gate=VHOST_USER_PROTOCOL_F_STATUS),
    Request.VHOST_USER_GET_STATUS: Rule(_NONE, gate=VHOST_USER_PROTOCOL_F_STATUS, replies=True),
    Request.VHOST_USER_SET_DEVICE_STATE_FD: Rule(_U64, (1, 1), VHOST_USER_PROTOCOL_F_DEVICE_STATE, True),
    Request.VHOST_USER_CHECK_DEVICE_STATE: Rule(_NONE, gate=VHOST_USER_PROTOCOL_F_DEVICE_STATE, replies=True),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One request with what came along; `truncated` when the kernel dropped descriptors (MSG_CTRUNC)."""

    request: int
    flags: int
    payload: bytes = b""
    fds: tuple[int, ...] = ()
    truncated: bool = False

    @property
    def need_reply(self) -> bool:
        return bool(self.flags & VHOST_USER_NEED_REPLY_MASK)

    @property
    def name(self) -> str:
        """The specification's name, for messages to people."""
        try:
            return Request(self.request).name
        except ValueError:
            return f"request {self.request}"


def check(message: Message, protocol_features: int) -> Rule:
    """The rule of this request, if the message keeps it. FrontendError if not, and for unknown requests."""
    rule = RULES.get(message.request)
    if rule is None:
        raise FrontendError(f"unknown vhost-user {message.name}", f"{len(message.payload)} bytes of payload")
    if message.flags & VHOST_USER_REPLY_MASK:
        raise FrontendError(f"{message.name} has the reply flag", f"flags {message.flags:#x}")
    if message.truncated or not rule.fds[0] <= len(message.fds) <= rule.fds[1]:
        evidence = "some were lost" if message.truncated else f"{len(message.fds)} came"
        raise FrontendError(f"{message.name} takes {rule.fds[0]} to {rule.fds[1]} descriptors", evidence)
    if not rule.size[0] <= len(message.payload) <= rule.size[1]:
        raise FrontendError(
            f"{message.name} takes {rule.size[0]} to {rule.size[1]} bytes", f"{len(message.payload)} came"
        )
    if rule.gate is not None and not protocol_features >> rule.gate & 1:
        raise FrontendError(f"{message.name} needs protocol feature {rule.gate}", "it was not negotiated")
    return rule


def encode(request: int, payload: bytes = b"", flags: int = VHOST_USER_VERSION) -> bytes:
    """The bytes of a message."""
    return HEADER.pack(request, flags, len(payload)) + payload


def encode_reply(request: int, payload: bytes) -> bytes:
    """The bytes of the reply to `request`."""
    return encode(request, payload, VHOST_USER_VERSION | VHOST_USER_REPLY_MASK)


def decode_mem_table(payload: bytes) -> list[RegionSpec]:
    """The regions of SET_MEM_TABLE; a payload longer than they need is legal (User-Mode Linux sends one)."""
    count, _padding = MEM_TABLE.unpack_from(payload)
    if not 1 <= count <= MAX_REGIONS or len(payload) < MEM_TABLE.size + count * MEM_REGION.size:
        evidence = f"{count} regions in {len(payload)} bytes"
        raise FrontendError(f"a memory table has 1 to {MAX_REGIONS} regions", evidence)
    fields = [MEM_REGION.unpack_from(payload, 8 + 32 * number) for number in range(count)]
    return [RegionSpec(gpa, size, uva, offset) for gpa, size, uva, offset in fields]


def encode_mem_table(regions: Sequence[RegionSpec]) -> bytes:
    """The payload of SET_MEM_TABLE."""
    body = b"".join(MEM_REGION.pack(region.gpa, region.size, region.uva, region.offset) for region in regions)
    return MEM_TABLE.pack(len(regions), 0) + body


def decode_single_region(payload: bytes) -> RegionSpec:
    """The region of ADD_MEM_REG or REM_MEM_REG."""
    _padding, gpa, size, uva, offset = SINGLE_REGION.unpack(payload)
    return RegionSpec(gpa, size, uva, offset)


def decode_inflight(payload: bytes) -> InflightSpec:
    """The payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD, with or without its padding."""
    return InflightSpec(*INFLIGHT.unpack_from(payload))


def encode_inflight(spec: InflightSpec) -> bytes:
    """The same, with the padding."""
    return INFLIGHT.pack(*spec).ljust(INFLIGHT_SIZE, b"\0")


class MessageReader:
    """Cuts a stream into messages. Read `wants` bytes at most, `feed()` what came, take what it returns."""

    __slots__ = ("_fds", "_got", "_header", "_truncated", "wants")

    def __init__(self) -> None:
        self._got = bytearray()
        self._fds: list[int] = []
        self._header: tuple[int, int, int] | None = None
        self._truncated = False
        self.wants: int = HEADER.size

    @property
    def idle(self) -> bool:
        """Between two messages: an end of file here is a clean one."""
        return not self._got and self._header is None

    def take_fds(self) -> list[int]:
        """The descriptors of an unfinished message, to be closed; the reader forgets them."""
        fds, self._fds = self._fds, []
        return fds

    def feed(self, data: bytes, fds: Sequence[int] = (), truncated: bool = False) -> Message | None:
        """Add bytes and descriptors; the message when it is complete.

        FrontendError for a wrong version or a size above the limit, before anything is allocated for it; the
        stream cannot be followed after that.
        """
        self._got += data
        self._fds += fds
        self._truncated |= truncated
        self.wants -= len(data)
        if self.wants:
            return None
        if self._header is None:
            self._header = self._parse_header()
            self._got.clear()
            self.wants = self._header[2]
            if self.wants:
                return None
        return self._finish(self._header)

    def _parse_header(self) -> tuple[int, int, int]:
        request, flags, size = HEADER.unpack(self._got)
        if flags & VHOST_USER_VERSION_MASK != VHOST_USER_VERSION:
            raise FrontendError("vhost-user version is not 1", f"request {request}, flags {flags:#x}")
        if size > MAX_PAYLOAD:
            raise FrontendError(f"vhost-user payload above {MAX_PAYLOAD} bytes", f"request {request}: {size}")
        return request, flags, size

    def _finish(self, header: tuple[int, int, int]) -> Message:
        message = Message(header[0], header[1], bytes(self._got), tuple(self._fds), self._truncated)
        self._got.clear()
        self._fds = []
        self._header = None
        self._truncated = False
        self.wants = HEADER.size
        return message
