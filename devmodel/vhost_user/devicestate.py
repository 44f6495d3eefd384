# SPDX-License-Identifier: GPL-2.0-or-later
"""A session's part in migrating the back end's state (vhost-user specification, "Migrating back-end state"). No I/O.

    SET_DEVICE_STATE_FD   save or load, with the descriptor to do it through; only while the device is suspended
    CHECK_DEVICE_STATE    how it went: 0, or something else

States: none, running, good, bad. `begin_*()` leads to running, `ended()` from there to good or bad, `abort()` to bad. A
CHECK that comes while it runs is answered at its end: who loads closes his end of the pipe and asks at once, when we
may still be reading. If a ring starts, or a request comes from a frontend that should be waiting, the transfer is bad.

Load changes nothing before all of the state is there, whole, for a device like this one, and accepted by the owner. The
device's part is then given to the driver's features once those are known, which may be before or after; a ring that
stops ends that: after it the driver begins anew.

The owner of the device is whoever knows what is behind it (vnic's frozen stack). One without an owner has a state too,
the control queue's, and takes none that has an owner's part.
"""

from __future__ import annotations

from typing import Final, Protocol

from devmodel.errors import StateError
from devmodel.virtio import state as virtio_state
from devmodel.virtio.features import effective
from devmodel.virtio.net import VirtioNet
from devmodel.virtio.state import DeviceState

NONE: Final = "none"
RUNNING: Final = "running"
GOOD: Final = "good"
BAD: Final = "bad"


class StateOwner(Protocol):
    """Who contributes to a device's state."""

    def save_state(self) -> bytes:
        """What a back end elsewhere needs to go on. Nothing changes here: the guest may go on here all the same.
        StateError."""

    def load_state(self, owner: bytes) -> None:
        """Go on from what another one's `save_state()` gave, before the guest's rings are looked at again. StateError,
        with nothing changed."""


class NoOwner:
    """There is nothing behind the device that would have a state."""

    def save_state(self) -> bytes:
        return b""

    def load_state(self, owner: bytes) -> None:
        if owner:
            raise StateError(
                "the state is of a device with an owner", f"{len(owner)} bytes are his, none is here"
            )


class StateMachine:
    """See the module."""

    __slots__ = ("_loaded", "_net", "_offered", "_pairs", "check_waits", "error", "owner", "phase", "saving")

    def __init__(self, net: VirtioNet, owner: StateOwner, pairs: int, offered: int) -> None:
        self._net, self.owner, self._pairs, self._offered = net, owner, pairs, offered
        self._loaded: DeviceState | None = None
        self.phase = NONE
        self.saving = False
        self.check_waits = False
        self.error: StateError | None = None  # of the last that was bad

    def begin_save(self) -> bytes:
        """The bytes to write. StateError."""
        data = virtio_state.encode(self._net, self.owner.save_state())
        self.phase, self.saving = RUNNING, True
        return data

    def begin_load(self) -> None:
        self.phase, self.saving = RUNNING, False

    def abort(self, error: StateError) -> bool:
        """Whether one was running."""
        if self.phase != RUNNING:
            return False
        self.phase, self.error = BAD, error
        return True

    def ended(self, state: DeviceState | None, error: StateError | None) -> None:
        """All bytes are written, or the state is here, or neither will be."""
        if self.phase != RUNNING:
            return
        if error is None and not self.saving:
            error = self._take_over(state)
        self.phase, self.error = (GOOD if error is None else BAD), error

    def _take_over(self, state: DeviceState | None) -> StateError | None:
        if state is None:
            return StateError("no state came")
        try:
            virtio_state.check(state, self._pairs, self._offered)
            self.owner.load_state(state.owner)
        except StateError as error:
            return error
        self._loaded = state
        self.negotiated()
        return None

    def negotiated(self) -> None:
        """The driver's features are known: those of the driver that was loaded?"""
        state = self._loaded
        if state is not None and effective(state.features) == self._net.features:
            virtio_state.obey(self._net, state.commands)

    def forget(self) -> None:
        """The driver begins anew."""
        self._loaded = None
