# SPDX-License-Identifier: GPL-2.0-or-later
"""The lives of a back end whose guest may move: which stack is behind the port, and when another one takes its place.

A ``Line`` (the port, listening) outlives the stacks behind it. A life ends when its state was given away (the next one
is a fresh one), or when a state came that it has to make room for. Between two lives the guest's rings are left alone.

A state comes in two ways: from the other back end's socket (vnic/handover.py), or from a frontend that migrates it
itself (VHOST_USER_PROTOCOL_F_DEVICE_STATE), for which this is the device's owner (devmodel/vhost_user/devicestate.py).
In the latter case both back ends have a copy, and the frontend sees to it that one guest runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from devmodel.errors import StateError
from devmodel.port import Offloads, VnetHdr
from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio.state import DeviceState
from stack.freeze.errors import FreezeError
from vnic.cli import output
from vnic.errors import UsageError
from vnic.handover import Giver, HandoverError, ask
from vnic.host import Host, Line, thaw_text
from vnic.options import Options

if TYPE_CHECKING:
    from stack.freeze.reader import Thawed


class _Arrival:
    """Behind the port until there is a stack: waits for the guest."""

    def __init__(self) -> None:
        self.there = asyncio.Event()

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        """None comes while the rings are left alone."""

    def batch_done(self) -> None:
        pass

    def link_changed(self, up: bool, offloads: Offloads) -> None:
        if up:
            self.there.set()


class Moves:
    """See the module; ``next`` is set when the present life is to end."""

    def __init__(self, line: Line, options: Options) -> None:
        self._line, self._options = line, options
        only = (
            line.transports[0] if len(line.transports) == 1 else None
        )  # a switch's stack is of several guests
        self._server = only if isinstance(only, VhostUserServer) else None
        self._host: Host | None = None
        self._state: Thawed | None = None
        self._giver: Giver | None = None
        self.next = asyncio.Event()
        self.announced = options.take_over is not None
        if self._server is not None:
            self._server.hold()
            self._server.owner = self

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hand over where that was asked for.  TransportError."""
        async with contextlib.AsyncExitStack() as stack:
            if self._options.hand_over is not None and self._server is not None:
                self._giver = Giver(self._server, self.save_state, self._given)
                await stack.enter_async_context(self._giver.open(self._options.hand_over))
            yield

    async def arrive(self) -> None:
        """Wait for the guest, then for the state of its connections."""
        assert self._server is not None
        assert self._options.take_over is not None
        arrival = _Arrival()
        self._line.port.attach(arrival)
        await arrival.there.wait()
        try:
            async with ask(self._options.take_over) as offer:
                thawed = self._thaw(offer.state)
                await offer.accept()
        except (HandoverError, StateError, UsageError) as error:
            output.stage("the guest is here, the state of its connections is not: they will be reset")
            output.show_error(error)
        else:
            self._state = thawed
            output.stage(f"the guest is here, its connections were taken over from {self._options.take_over}")

    def _thaw(self, state: DeviceState) -> Thawed:
        assert self._server is not None
        self._server.check_state(state)
        return thaw_text(state.owner.decode("utf-8", "replace"), self._options, "the state that came")

    # -- lives ------------------------------------------------------------------------------------------

    def take_state(self) -> Thawed | None:
        """What the next life begins with."""
        state, self._state = self._state, None
        return state

    def live(self, host: Host) -> None:
        """A life begins: its guest is served."""
        self._host = host
        self.announced = True
        if self._server is not None:
            self._server.go_on()

    def leave(self) -> None:
        """It ends."""
        self._host = None
        self._outdate()
        self.next.clear()
        if self._server is not None:
            self._server.hold()

    # -- the owner of the device's state ----------------------------------------------------------------

    def save_state(self) -> bytes:
        if self._host is None:
            raise StateError(
                "there is no stack behind the port yet", "it is still to come from another back end"
            )
        try:
            return self._host.snapshot().encode()
        except FreezeError as error:
            raise StateError(error.fact, error.evidence, error.remedy) from error

    def load_state(self, owner: bytes) -> None:
        if self._host is None or self._options.record is not None:
            why = "its run is recorded" if self._host is not None else "it is still to get its stack"
            raise StateError("this back end cannot take over a state now", why)
        try:
            self._state = thaw_text(owner.decode("utf-8", "replace"), self._options, "the state that came")
        except UsageError as error:
            raise StateError(error.fact, error.evidence, error.remedy) from error
        self._host.abandon()
        output.stage("a state came from the frontend: going on from it")
        self._begin_anew()

    def _given(self) -> None:
        assert self._host is not None
        self._host.abandon()
        output.stage("the guest's connections were handed over: beginning anew")
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Nothing of the guest's is looked at before the next life is there."""
        assert self._server is not None
        self._outdate()
        self._server.hold()
        self.next.set()

    def _outdate(self) -> None:
        """What is being handed over is of this life: it must not end the next one."""
        if self._giver is not None:
            self._giver.changed()
