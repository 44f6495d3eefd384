# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend's end of the back-end channel: reads the back end's requests, and says what to do about them. No I/O.

    for asked in channel.feed(data):          requests, in the order in which they came
        steps = channel.steps(asked)          messages for the main socket that it takes: IOTLB updates
        reply = channel.reply(asked, number)  bytes for the channel, b"" if none is wanted

`calls`, `errors` and `config_changes` keep what the device said. A request that makes no sense is ProtocolBroken.
"""

from __future__ import annotations

from typing import NamedTuple

from devmodel.errors import FrontendError
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.backend_channel import BackendRequest, iotlb_message
from devmodel.vhost_user.message import MessageReader, Request
from guest.driver.errors import ProtocolBroken
from guest.driver.frontend import Frontend, Steps
from guest.driver.iommu import Iommu


class Asked(NamedTuple):
    """One request of the back end."""

    request: int
    payload: bytes
    need_reply: bool


class FrontendChannel:
    """See the module. Without an IOMMU every miss fails."""

    def __init__(self, frontend: Frontend, iommu: Iommu | None = None) -> None:
        self.iommu = iommu
        self.misses: list[tuple[int, int]] = []
        self.access_failures: list[tuple[int, int]] = []
        self.calls: set[int] = set()
        self.errors: set[int] = set()
        self.config_changes = 0
        self._frontend = frontend
        self._reader = MessageReader()

    @property
    def wants(self) -> int:
        """How many bytes to read next, at most."""
        return self._reader.wants

    def feed(self, data: bytes) -> list[Asked]:
        """What was read; the requests that it completes. ProtocolBroken."""
        found = []
        while data:
            part, data = data[: self._reader.wants], data[self._reader.wants :]
            try:
                message = self._reader.feed(part)
            except FrontendError as error:
                raise ProtocolBroken("the back end's channel cannot be followed", str(error)) from error
            if message is not None:
                found.append(self._checked(message))
        return found

    @staticmethod
    def _checked(message: vu.Message) -> Asked:
        sizes = {
            BackendRequest.VHOST_USER_BACKEND_IOTLB_MSG: vu.IOTLB_SIZE,
            BackendRequest.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG: 0,
            BackendRequest.VHOST_USER_BACKEND_VRING_CALL: 8,
            BackendRequest.VHOST_USER_BACKEND_VRING_ERR: 8,
        }
        known = {int(request): size for request, size in sizes.items()}
        if known.get(message.request) != len(message.payload) or message.flags & vu.VHOST_USER_REPLY_MASK:
            raise ProtocolBroken(
                "the back end asked for something that does not exist",
                f"request {message.request}, flags {message.flags:#x}, {len(message.payload)} bytes",
            )
        return Asked(message.request, message.payload, message.need_reply)

    def steps(self, asked: Asked) -> Steps[int]:
        """Do what was asked for; the number to answer, 0 for success."""
        if asked.request == BackendRequest.VHOST_USER_BACKEND_IOTLB_MSG:
            return (yield from self._iotlb(asked.payload))
        if asked.request == BackendRequest.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG:
            self.config_changes += 1
            return 0
        index, _zero = vu.VRING_STATE.unpack(asked.payload)
        kind = BackendRequest.VHOST_USER_BACKEND_VRING_CALL
        (self.calls if asked.request == kind else self.errors).add(index)
        return 0

    def _iotlb(self, payload: bytes) -> Steps[int]:
        iova, _size, _uva, access, kind = vu.IOTLB.unpack_from(payload)
        if kind == vu.VHOST_IOTLB_ACCESS_FAIL:
            self.access_failures.append((iova, access))
            return 0
        self.misses.append((iova, access))
        found = None if self.iommu is None else self.iommu.translate(iova)
        if found is None:
            return 1
        message = iotlb_message(*found, vu.VHOST_IOTLB_UPDATE)
        yield from self._frontend.request(Request.VHOST_USER_IOTLB_MSG, message)
        return 0

    @staticmethod
    def reply(asked: Asked, number: int) -> bytes:
        return vu.encode_reply(asked.request, vu.U64.pack(number)) if asked.need_reply else b""


def invalidation(iova: int, size: int) -> bytes:
    """The payload of an IOTLB invalidation."""
    return iotlb_message(iova, size, 0, 0, vu.VHOST_IOTLB_INVALIDATE)
