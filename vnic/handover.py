# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves to another QEMU, and its connections to that one's back end: who has them, and when that changes.

Why. QEMU's vhost-user network device moves the guest's memory and its rings, and nothing of what the back end knows
(it does for file systems only: VHOST_USER_PROTOCOL_F_DEVICE_STATE). So the two back ends settle it between themselves,
over a unix socket of the one that the guest leaves: ``vnic serve --hand-over PATH`` there, ``--take-over PATH`` at the
destination.

When. A guest runs at one place at a time, and a back end sees whether it runs behind its own rings: QEMU stops them
before it lets the guest go on elsewhere. So nothing is handed over when a migration begins or seems to end, but when
the guest's rings start at the destination: then it has moved, whatever became of the plans before that. A migration
that fails, is cancelled or never ends is no event at all: nobody asks, and the source goes on.

Until then the destination leaves its guest's frames in the rings (VhostUserServer.hold).  It asks once::

    destination                                       source
    take 1            ->
                      <-  the state, as devmodel/virtio/state.py writes it; or "no: why" if its guest runs
    taken             ->  (after it was thawed)
                      <-  given: its own copy is gone; or the end of the connection if that cannot be any more

Who has the connections. The source until it has written "given", the destination from when it has read it. If the
source's rings start again before it is told "taken", it does not give; if it dies, its copy dies with it; if the word
"given" is lost on its way, nobody has them any more. So they are lost at worst, and never in two places.
A destination that gets no state serves its guest all the same: what the guest says on old connections is answered by
resets, and it can make new ones.

After it has given, the source begins anew as if it had just been started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from devmodel.errors import StateError
from devmodel.listener import listen_unix
from devmodel.vhost_user.server import VhostUserServer
from devmodel.virtio.state import DeviceState, StateReader, encode
from vnic.errors import VnicError

log = logging.getLogger(__name__)

DEADLINE_S: Final = 10.0
"""For each side to do its next step: freezing 1000 connections takes a second, a local socket carries 1 GB/s."""
TOTAL_S: Final = 120.0
"""For all of a state, as in devmodel/vhost_user/transfer.py: who sends or takes a byte now and then is none to wait
for."""
_PIECE: Final = 1 << 16
_TAKE: Final = b"take 1\n"
_TAKEN: Final = b"taken\n"
_GIVEN: Final = b"given\n"
_NO: Final = b"no: "
_LINE: Final = 200


class HandoverError(VnicError):
    """There is no state to be had from the other back end, or it was not given."""


class Giver:
    """The source's half: listens while the block of ``open()`` lasts.

    ``freeze`` gives the owner's part of the state without changing anything, ``gone`` is called when it belongs to
    somebody else.
    """

    def __init__(
        self, server: VhostUserServer, freeze: Callable[[], bytes], gone: Callable[[], None]
    ) -> None:
        self._server, self._freeze, self._gone = server, freeze, gone
        self._generation = 0
        self._asking: set[asyncio.Task[Any]] = set()
        self.given = 0

    @asynccontextmanager
    async def open(self, path: Path) -> AsyncIterator[None]:
        """Listen at ``path``.  TransportError."""
        before = os.umask(0o177)  # what is handed over has the keys of connections in it
        try:
            listener = listen_unix(str(path))
        finally:
            os.umask(before)
        listening = await asyncio.start_unix_server(self._asked, sock=listener.sock)
        try:
            yield
        finally:
            listening.close()
            listener.close()
            for task in self._asking:
                task.cancel()
            await asyncio.gather(*self._asking)

    def changed(self) -> None:
        """The connections are not those any more that somebody may just be reading: he does not get them."""
        self._generation += 1

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._asking.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            # By open(), at its end; the callback of asyncio.streams (3.11) takes no cancelled task.
            writer.transport.abort()
        except (OSError, TimeoutError, StateError, asyncio.IncompleteReadError) as error:
            log.warning(
                "handing over ended early, the connections stay here: %s",
                str(error) or type(error).__name__,
            )
            writer.transport.abort()  # what he did not read is not kept for him
        finally:
            self._asking.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(DEADLINE_S):
            asked = await reader.readexactly(len(_TAKE))
        if asked != _TAKE or self._server.guest_runs:
            why = "the guest runs here" if asked == _TAKE else "that was not understood"
            writer.write(_NO + why.encode() + b"\n")
            log.warning("nothing was handed over: %s", why)
            return
        generation = self._generation
        await _send(writer, encode(self._server.net, self._freeze()))
        async with asyncio.timeout(DEADLINE_S):
            word = await reader.readexactly(len(_TAKEN))
        if word != _TAKEN or self._server.guest_runs or generation != self._generation:
            log.warning("nothing was handed over: the guest runs here again, or somebody else was faster")
            return
        self._generation += 1
        self.given += 1
        self._gone()
        writer.write(_GIVEN)
        log.info("the guest's connections were handed over")


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """All of it; each piece has its deadline, and the whole."""
    view = memoryview(data)
    async with asyncio.timeout(TOTAL_S):
        for at in range(0, len(view), _PIECE):
            writer.write(view[at : at + _PIECE])
            async with asyncio.timeout(DEADLINE_S):
                await writer.drain()


class Offer:
    """The destination's half: a state that was read, and is its own once ``accept()`` has returned."""

    def __init__(
        self, state: DeviceState, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.state = state
        self._reader, self._writer = reader, writer

    async def accept(self) -> None:
        """HandoverError if the other end keeps it."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                self._writer.write(_TAKEN)
                word = await self._reader.readexactly(len(_GIVEN))
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise _silent(error) from error
        if word != _GIVEN:
            raise HandoverError("the other back end keeps the connections", f"it answered {word!r}")


@asynccontextmanager
async def ask(path: Path) -> AsyncIterator[Offer]:
    """Get the state that is handed over at ``path``.  HandoverError."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(str(path))
    except (OSError, TimeoutError) as error:
        raise HandoverError(
            f"no back end hands over at {path}", str(error), "start the other one with --hand-over PATH"
        ) from error
    try:
        writer.write(_TAKE)
        yield Offer(await _read(reader), reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> DeviceState:
    """The state, or why there is none; each piece has its deadline, the whole has another and a size."""
    state = StateReader()
    first = True
    try:
        async with asyncio.timeout(TOTAL_S):
            while state.wants:
                async with asyncio.timeout(DEADLINE_S):
                    data = await reader.read(min(state.wants, 1 << 20))
                if first and data.startswith(_NO[:3]):
                    async with asyncio.timeout(DEADLINE_S):
                        why = data + await reader.read(_LINE)
                    raise HandoverError("the other back end keeps the connections", _legible(why))
                first = False
                if not data:
                    break
                state.feed(data)
            return state.finish()
    except StateError as error:
        raise HandoverError(error.fact, error.evidence, error.remedy) from error
    except (OSError, TimeoutError) as error:
        raise _silent(error) from error


def _legible(line: bytes) -> str:
    """What somebody said, for a terminal: whoever listens there may say anything."""
    text = line[:_LINE].decode("utf-8", "replace").strip()
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _silent(error: BaseException) -> HandoverError:
    return HandoverError(
        "the other back end did not hand over", str(error) or f"nothing came for {DEADLINE_S:g} s"
    )
