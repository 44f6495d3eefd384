# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a device, one type per cause.

    DevModelError            every message: the fact, the evidence, the remedy
      TransportError         the host side could not be set up; the user meets it when a back end starts
        SocketPathTooLong    sun_path holds 107 bytes and a NUL
        SocketPathInUse      a living process listens there
        SocketPathBlocked    something that is no socket lies there, or the directory refuses us
        AddressInUse         the TCP or UDP port is taken
        AddressUnknown       a name that stands for no address
        TapUnavailable       the kernel gives us no TAP of that name
      FrontendError          the frontend (QEMU) broke the vhost-user protocol: nonzero ack or disconnect
        MappingError         memory that the frontend offered could not be mapped safely
      StateError             a device's state that came from another process cannot be taken over
      BrokenRing             the guest broke the virtio contract: its ring is quarantined, all else goes on

`TransportError` reaches the caller of `listen()` or `open()`. The others never leave the device: they end as a log
line and as counters in `Port.stats()`.
"""

from __future__ import annotations


class DevModelError(Exception):
    """Fact (what failed), evidence (what was seen), remedy (what to type or change; may be empty)."""

    def __init__(self, fact: str, evidence: str = "", remedy: str = "") -> None:
        super().__init__(fact, evidence, remedy)
        self.fact = fact
        self.evidence = evidence
        self.remedy = remedy

    def __str__(self) -> str:
        return "\n".join(part for part in (self.fact, self.evidence, self.remedy) if part)


class TransportError(DevModelError):
    """The host side of a device could not be set up."""


class SocketPathTooLong(TransportError):
    """A unix socket path of more than 107 bytes."""


class SocketPathInUse(TransportError):
    """A living process accepts connections at the path."""


class SocketPathBlocked(TransportError):
    """The path cannot be bound: no socket lies there, or its directory is missing or closed to us."""


class AddressInUse(TransportError):
    """The TCP or UDP address is taken or not ours."""


class AddressUnknown(TransportError):
    """A host name that cannot be resolved."""


class TapUnavailable(TransportError):
    """/dev/net/tun is missing or closed to us, or the interface is taken or of another kind."""


class FrontendError(DevModelError):
    """The frontend sent something that the vhost-user specification does not allow here."""


class MappingError(FrontendError):
    """A memory region could not be mapped, or would not have been safe to touch."""


class StateError(DevModelError):
    """A device's state is no such thing, damaged, too large, or not for a device like this one."""


class BrokenRing(DevModelError):
    """A guest's virtqueue that cannot be trusted any more.

    `queue` is the vring index, `head` and `descriptor` are -1 where the fault is not about one; `rule` is the
    requirement that was broken, `section` where the specification has it: a number of virtio 1.2, or another
    one's heading.
    """

    def __init__(self, queue: int, rule: str, section: str, head: int = -1, descriptor: int = -1) -> None:
        where = f"queue {queue}"
        if head >= 0:
            where += f", head {head}"
        if descriptor >= 0:
            where += f", descriptor {descriptor}"
        super().__init__(
            f"broken ring: {where}: {rule}",
            f"virtio 1.2, section {section}" if section[:1].isdigit() else section,
            "the ring is stopped until the guest's driver resets the device",
        )
        self.queue = queue
        self.rule = rule
        self.section = section
        self.head = head
        self.descriptor = descriptor
