# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Session has its caller do: `Session.handle()` and its like give a list of these, to be carried out in order.

Whoever carries them out owns the descriptors in them, also of those that come when the connection has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from devmodel.errors import BrokenRing, FrontendError
from devmodel.vhost_user.backend_channel import BackendChannel


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes to the frontend; a descriptor that goes with them is to be closed then."""

    data: bytes
    fd: int | None = None


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
class RingPaused:
    """The ring's place in memory is not known for a while: it goes on by itself, what is queued for it waits."""

    index: int


@dataclass(frozen=True, slots=True)
class RingResumed:
    """The ring may go on after a pause, or with a buffer that was not translated before; look at it."""

    index: int


@dataclass(frozen=True, slots=True)
class Kicked:
    """The ring was kicked by a message."""

    index: int


@dataclass(frozen=True, slots=True)
class ChannelFd:
    """Talk to `channel` through this descriptor from now on; the old one is to be closed."""

    fd: int
    channel: BackendChannel


@dataclass(frozen=True, slots=True)
class ChannelSend:
    """Send these bytes over the back-end channel."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The channel is of no use any more: close its descriptor. `finished`: the frontend ended it in good order."""

    reason: str
    finished: bool


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
    | RingPaused
    | RingResumed
    | Kicked
    | ChannelFd
    | ChannelSend
    | ChannelClosed
    | StateChanged
    | Rarp
    | Disconnect
)
