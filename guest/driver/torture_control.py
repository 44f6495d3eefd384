# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad commands of the control queue: row 45 of docs/bad-inputs.md (virtio 1.2, section 5.1.6.5).

For back ends whose frontends forward that queue: they offer VIRTIO_NET_F_CTRL_VQ, all others are spared. Each command
has to be answered by VIRTIO_NET_ERR, or its ring be taken out of service where there is no room for an answer; a good
command behind it has to be answered still, unless the ring was.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Final

from devmodel.virtio import ctrl
from devmodel.virtio import features as vf
from devmodel.virtio.rss import SUPPORTED_HASH_TYPES
from guest.driver.backend import eventfd
from guest.driver.frontend import RingFds
from guest.driver.torture import (
    ACCEPTED,
    BROKEN,
    BROKEN_RING,
    DROPPED,
    ERR,
    NONSENSE,
    NUM,
    REFUSED,
    STALLED,
    Case,
    Good,
    Victim,
    feature,
)
from guest.driver.virtio_net import DRIVER_FEATURES, RX, make_queue
from guest.driver.virtqueue import Piece, Virtqueue

CASES: Final[list[Case]] = []
MULTIQUEUE: Final = vf.mask(vf.VIRTIO_NET_F_MQ)
RSS: Final = vf.mask(vf.VIRTIO_NET_F_MQ, vf.VIRTIO_NET_F_RSS)
FEATURES: Final = DRIVER_FEATURES | vf.CONTROL_FEATURES
UNANSWERED: Final = 0xFF


class Control:
    """The control queue of a guest that runs."""

    def __init__(self, victim: Victim, wanted: int) -> None:
        """`wanted`: features without which this is not about the back end."""
        feature(victim, vf.VIRTIO_NET_F_CTRL_VQ)
        for bit in range(64):
            if wanted >> bit & 1:
                feature(victim, bit)
        driver = victim.prepare(FEATURES | wanted)
        self.index = 2 * victim.frontend.queue_pairs if wanted & RSS else 2
        victim.backend.fds += [
            RingFds(eventfd(), eventfd(), eventfd()) for _ in range(self.index + 1 - len(victim.backend.fds))
        ]
        self.victim = victim
        self.queue: Virtqueue = make_queue(victim.memory, self.index, NUM, victim.frontend.features)
        driver.refill()
        driver.rx.enable_calls()
        self.queue.enable_calls()
        queues = [driver.rx, driver.tx, self.queue]  # whatever that driver thinks of its place
        fds = [victim.backend.fds[queue.index] for queue in queues]
        victim.backend.run(victim.frontend.start(victim.memory, queues, fds))
        victim.backend.kick(RX)

    def give(self, parts: Sequence[bytes], room: int = 1) -> str:
        """One command in so many descriptors, with so many bytes for the answer; what became of it."""
        victim, memory = self.victim, self.victim.memory
        pieces = [Piece(*memory.put(part)) for part in parts]
        gpa = memory.put(bytes([UNANSWERED]))[0]
        if room:
            pieces.append(Piece(gpa, room, True))
        self.queue.add(pieces, gpa)
        self.queue.publish()
        victim.backend.kick(self.index)
        until = time.monotonic() + victim.settings.patience_s
        while (left := until - time.monotonic()) > 0:
            victim.backend.wait((self.index,), min(left, 0.02))
            if self.index in victim.backend.broken_rings():
                return BROKEN
            if self.queue.used():
                answer = memory.read(gpa, 1)[0]
                return {0: ACCEPTED, 1: REFUSED, UNANSWERED: DROPPED}.get(answer, NONSENSE)
        victim.alive()
        return STALLED


def command(name: str, *parts: bytes, room: int = 1, wanted: int = 0, good: Good = ERR | BROKEN_RING) -> None:
    """A command that has to be refused; the case fails if a good one behind it finds no answer."""

    def act(victim: Victim) -> str:
        control = Control(victim, wanted)
        seen = control.give(parts, room)
        if seen != REFUSED:
            return seen
        again = control.give([bytes([ctrl.VIRTIO_NET_CTRL_RX, 0]), b"\1"])
        return REFUSED if again == ACCEPTED else again

    CASES.append(Case(45, name, act, good))


def _head(kind: int, number: int = 0) -> bytes:
    return bytes([kind, number])


def _table(count: int, *macs: bytes) -> bytes:
    return struct.pack("<I", count) + b"".join(macs)


def _rss(mask: int, queues: Sequence[int], key: bytes, key_len: int | None = None, max_tx: int = 1) -> bytes:
    head = struct.pack(f"<IHH{len(queues)}HH", SUPPORTED_HASH_TYPES, mask, 0, *queues, max_tx)
    return head + bytes([len(key) if key_len is None else key_len]) + key


_MAC: Final = b"\x52\x54\0\0\0\1"
_GROUP: Final = b"\x01\0\x5e\0\0\1"
_KEY: Final = bytes(range(40))
_RX: Final = ctrl.VIRTIO_NET_CTRL_RX
_MACS: Final = ctrl.VIRTIO_NET_CTRL_MAC
_VLAN: Final = ctrl.VIRTIO_NET_CTRL_VLAN
_MQ: Final = ctrl.VIRTIO_NET_CTRL_MQ
_OFFLOADS: Final = ctrl.VIRTIO_NET_CTRL_GUEST_OFFLOADS

command("a command of one byte", b"\0")
command("a command of no byte, only room for the answer")
command("a class that does not exist", _head(0x7F), b"\1")
command("a command that does not exist in its class", _head(_RX, 99), b"\1")
command("a mode without its byte", _head(_RX))
command("a mode of two bytes", _head(_RX), b"\1\1")
command("no room for the answer", _head(_RX), b"\1", room=0, good=BROKEN_RING | ERR | {DROPPED})
command("a table of 2**32 - 1 addresses, one is there", _head(_MACS), _table(0xFFFFFFFF, _MAC) + _table(0))
command("a table of 2 addresses, one is there", _head(_MACS), _table(0) + _table(2, _GROUP))
command("a table of 2**32 - 1 addresses behind a good one", _head(_MACS), _table(0) + _table(0xFFFFFFFF))
command("a table that ends inside its number", _head(_MACS), b"\0\0")
command("an address of 5 bytes", _head(_MACS, ctrl.VIRTIO_NET_CTRL_MAC_ADDR_SET), _MAC[:5])
command("VLAN 4096", _head(_VLAN), struct.pack("<H", 4096))
command("VLAN 65535", _head(_VLAN, ctrl.VIRTIO_NET_CTRL_VLAN_DEL), struct.pack("<H", 65535))
command("a VLAN of one byte", _head(_VLAN), b"\1")
command("offloads that were not negotiated", _head(_OFFLOADS), struct.pack("<Q", 1 << 63 | 1))
command("offloads of four bytes", _head(_OFFLOADS), struct.pack("<I", 0))
command("queue pairs without VIRTIO_NET_F_MQ", _head(_MQ), struct.pack("<H", 1))
command("0 queue pairs", _head(_MQ), struct.pack("<H", 0), wanted=MULTIQUEUE)
command("65535 queue pairs", _head(_MQ), struct.pack("<H", 0xFFFF), wanted=MULTIQUEUE)
_RSS_HEAD: Final = _head(_MQ, ctrl.VIRTIO_NET_CTRL_MQ_RSS_CONFIG)
command("RSS with a key longer than it is", _RSS_HEAD, _rss(0, [0], _KEY, 255), wanted=RSS)
command("RSS with a key shorter than it is", _RSS_HEAD, _rss(0, [0], _KEY, 4), wanted=RSS)
command("RSS with a table mask that is none", _RSS_HEAD, _rss(2, [0, 0, 0], _KEY), wanted=RSS)
command("RSS with a table of 65536 entries, one is there", _RSS_HEAD, _rss(0xFFFF, [0], _KEY), wanted=RSS)
command("RSS to a queue that does not exist", _RSS_HEAD, _rss(0, [0x7FFF], _KEY), wanted=RSS)
command("RSS with 0 transmit queues", _RSS_HEAD, _rss(0, [0], _KEY, max_tx=0), wanted=RSS)
command("RSS that ends inside its table", _RSS_HEAD, _rss(3, [0, 0, 0, 0], _KEY)[:12], wanted=RSS)


def _endless(victim: Victim) -> str:
    """A command as long as the queue allows, of one byte pieces: copied once, refused, and no more."""
    control = Control(victim, 0)
    return control.give([bytes([_MACS]), b"\0", *[b"\xff"] * (NUM - 3)])


CASES.append(Case(45, "a table in one-byte pieces that fill the queue", _endless, ERR | BROKEN_RING))


def _many(victim: Victim) -> str:
    """Bad commands back to back; none may be left unanswered."""
    control = Control(victim, 0)
    for number in range(100):
        seen = control.give([bytes([0x7F, number])])
        if seen != REFUSED:
            return seen
    return REFUSED


CASES.append(Case(45, "100 commands of a class that does not exist", _many, ERR | BROKEN_RING))
