# SPDX-License-Identifier: GPL-2.0-or-later
"""The control queue from the driver's side (virtio 1.2, section 5.1.6.5): commands out, acks back.

`post()` lays one command into the ring, `answers()` takes what the device said, in the order of the commands: the ack,
then the result of a command that has one. As with the other queues nothing here kicks or waits. The bytes of commands
are made by `hash_config()`, `coalescing()` and the like; a command is (class, command, data).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from devmodel.virtio import ctrl
from guest.driver.errors import DeviceBroken
from guest.driver.memory import DriverMemory
from guest.driver.virtqueue import Piece, QueueFull, Virtqueue

Command = tuple[int, int, bytes]

CTRL: Final = 2  # 5.1.2: behind the one pair of queues
ACK_SIZE: Final = 1
_UNTOUCHED: Final = b"\xff"
_ACKS: Final = (bytes([ctrl.VIRTIO_NET_OK]), bytes([ctrl.VIRTIO_NET_ERR]))
_VQ_COAL: Final = struct.Struct("<H2xII")


def hash_config(types: int, key: bytes) -> Command:
    """What to hash, and by which key: 5.1.6.5.6.4."""
    data = struct.pack("<I8xB", types, len(key)) + key
    return ctrl.VIRTIO_NET_CTRL_MQ, ctrl.VIRTIO_NET_CTRL_MQ_HASH_CONFIG, data


def coalescing(number: int, max_usecs: int, max_packets: int) -> Command:
    """VIRTIO_NET_CTRL_NOTF_COAL_TX_SET or _RX_SET: 5.1.6.5.9."""
    return ctrl.VIRTIO_NET_CTRL_NOTF_COAL, number, struct.pack("<II", max_packets, max_usecs)


def queue_coalescing(index: int, max_usecs: int, max_packets: int) -> Command:
    """VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET, for one queue."""
    data = _VQ_COAL.pack(index, max_packets, max_usecs)
    return ctrl.VIRTIO_NET_CTRL_NOTF_COAL, ctrl.VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET, data


def queue_coalescing_get(index: int) -> Command:
    """VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET; its result has 12 bytes: index, two bytes of nothing, packets, microseconds."""
    data = struct.pack("<H2x", index)
    return ctrl.VIRTIO_NET_CTRL_NOTF_COAL, ctrl.VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET, data


class ControlDriver:
    """The driver's end of one control queue."""

    def __init__(self, memory: DriverMemory, queue: Virtqueue) -> None:
        self.memory = memory
        self.queue = queue
        queue.disable_calls()

    def post(self, command: Command, room: int = 0) -> bool:
        """Show the device one command, with so much room for its result; whether it wants a kick. QueueFull."""
        kind, number, data = command
        readable = [bytes([kind, number]), *([data] if data else [])]
        if self.queue.free < len(readable) + 1:
            raise QueueFull
        pieces = [Piece(*self.memory.put(part)) for part in readable]
        pieces.append(Piece(*self.memory.put(_UNTOUCHED * (ACK_SIZE + room)), True))
        self.queue.add(pieces, pieces)
        return self.queue.publish()

    def answers(self) -> list[bytes]:
        """What came back, each beginning with VIRTIO_NET_OK or VIRTIO_NET_ERR. DeviceBroken if one does not."""
        found = []
        for used in self.queue.used():
            pieces: Sequence[Piece] = used.token
            answer = self.memory.read(pieces[-1].gpa, used.written)
            for piece in pieces:
                self.memory.free(piece.gpa)
            if answer[:ACK_SIZE] not in _ACKS:
                rule = f"a command was answered by {answer!r}"
                raise DeviceBroken(self.queue.index, rule, "5.1.6.5")
            found.append(answer)
        return found
