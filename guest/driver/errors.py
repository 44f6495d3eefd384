# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong between our driver and somebody's back end, one type per cause.

.. code-block:: text

    Exception
     +-- DriverError                 never raised itself; fact, evidence, remedy
          +-- BackendAbsent       3  nobody listens at the path
          +-- BackendSilent       5  it did not answer a message before the deadline
          +-- BackendHungUp       1  it closed the socket although we asked for something
          +-- ProtocolBroken      1  its answer is none that the vhost-user specification allows
          +-- RequestRefused      1  it answered with a number that says no
          +-- FeatureMissing      1  what was asked for by name is not offered
          +-- DeviceBroken        1  the device broke a rule of a virtqueue or of virtio-net
          +-- OutOfMemory         2  the guest's memory is smaller than what was asked of it

`exit_code` is what a command line that ends because of the error returns.
"""

from __future__ import annotations

from typing import ClassVar


class DriverError(Exception):
    """Root of the tree."""

    exit_code: ClassVar[int] = 1

    def __init__(self, fact: str, evidence: str = "", remedy: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.evidence = evidence
        self.remedy = remedy

    def __str__(self) -> str:
        return "\n".join(part for part in (self.fact, self.evidence, self.remedy) if part)


class BackendAbsent(DriverError):
    """No socket at the path, or nobody behind it."""

    exit_code = 3


class BackendSilent(DriverError):
    """A deadline passed; whoever has the other end of the socket may hang, or serve somebody else."""

    exit_code = 5


class BackendHungUp(DriverError):
    """The end of the stream where an answer was due."""


class ProtocolBroken(DriverError):
    """A reply with the wrong number, flags, size or content."""


class RequestRefused(DriverError):
    """A nonzero acknowledgement (REPLY_ACK)."""


class FeatureMissing(DriverError):
    """The back end does not offer a feature without which what was asked for cannot be done."""


class DeviceBroken(DriverError):
    """The device's half of the contract was broken; `section` is where virtio 1.2 has the rule."""

    def __init__(self, queue: int, rule: str, section: str) -> None:
        super().__init__(
            f"the device broke a rule of queue {queue}: {rule}",
            f"virtio 1.2, section {section}",
            "this is a fault of the back end: report it there",
        )
        self.queue = queue
        self.rule = rule
        self.section = section


class OutOfMemory(DriverError):
    """The allocator has no piece of the size that was asked for."""

    exit_code = 2
