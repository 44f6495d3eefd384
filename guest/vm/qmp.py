# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's monitor, synchronous: qemu.qmp's asyncio client on a thread of its own, every call with a deadline.

The thread runs one event loop for one connection and ends with close().  Messages both ways go to a
JSON-lines file, one object {"t": seconds, "out"|"in": message} a line, so that a failed test shows what was
asked and answered.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import threading
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError

from guest.vm.errors import QmpError, QmpTimeout

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 10.0


class _LoggedClient(QMPClient):
    """QMPClient with a copy of each message to a file."""

    def __init__(self, log: Path | None) -> None:
        super().__init__("vnic")
        self._file = log.open("a", buffering=1) if log is not None else None
        self._began = time.monotonic()
        self.events_seen: list[dict[str, Any]] = []
        self.event_arrived = asyncio.Condition()

    def _note(self, direction: str, message: Message) -> None:
        if self._file is not None:
            stamp = round(time.monotonic() - self._began, 4)
            self._file.write(json.dumps({"t": stamp, direction: dict(message)}) + "\n")

    async def _do_recv(self) -> Message:
        message = await super()._do_recv()
        self._note("in", message)
        if "event" in message:
            self.events_seen.append(dict(message))
            async with self.event_arrived:
                self.event_arrived.notify_all()
        return message

    def _do_send(self, msg: Message) -> None:
        self._note("out", msg)
        super()._do_send(msg)

    def close_log(self) -> None:
        if self._file is not None:
            self._file.close()


class Monitor:
    """One QMP session over a connected socket, which it takes over."""

    def __init__(
        self, sock: socket.socket, log: Path | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """Negotiates; QmpTimeout if QEMU does not greet in time, QmpError if it hangs up."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vnic-qmp", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._client = self._call(self._make(log), "make a client", timeout)
            self._call(self._client.connect(sock), "greet us", timeout)
        except BaseException:
            sock.close()
            self._stop_loop()
            raise

    @staticmethod
    async def _make(log: Path | None) -> _LoggedClient:
        return _LoggedClient(log)

    def _call(self, work: Coroutine[Any, Any, T], what: str, timeout: float) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise QmpTimeout(
                f"QEMU did not {what} within {timeout:g} s",
                context="its main loop hangs, or waits for a back end that does not answer",
            ) from None
        except ExecuteError as error:
            raise QmpError(f"QEMU refused to {what}", f"{error.error_class}: {error}") from error
        except (QMPError, OSError, EOFError, asyncio.CancelledError) as error:
            raise QmpError(
                f"QEMU's monitor closed while it was to {what}", str(error) or repr(error)
            ) from error

    def execute(
        self, name: str, arguments: Mapping[str, object] | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Any:
        """One command of the QEMU QMP Reference Manual; the value of its "return"."""
        if self._closed:
            raise QmpError(f"QEMU's monitor is closed, {name} can't be sent", "the guest has been closed")
        given = dict(arguments) if arguments else None
        return self._call(self._client.execute(name, given), f"execute {name}", timeout)

    def status(self) -> str:
        """running, paused, shutdown, guest-panicked, ... (RunState)."""
        return str(self.execute("query-status")["status"])

    def version(self) -> tuple[int, int, int]:
        """(major, minor, micro) of the QEMU that answers."""
        found = self.execute("query-version")["qemu"]
        return found["major"], found["minor"], found["micro"]

    def hmp(self, line: str, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        """A command of the human monitor, e.g. "info network"; what it printed."""
        return str(self.execute("human-monitor-command", {"command-line": line}, timeout))

    def system_reset(self) -> None:
        """Pull the reset line."""
        self.execute("system_reset")

    def quit(self, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Ask QEMU to end; a monitor that closes before it answered counts as yes."""
        with contextlib.suppress(QmpError):
            self.execute("quit", timeout=timeout)

    def events(self) -> list[dict[str, Any]]:
        """All events so far, oldest first: {"event": name, "data": {...}, "timestamp": {...}}."""
        return list(self._client.events_seen)

    def wait_event(self, name: str, timeout: float, since: int = 0) -> dict[str, Any]:
        """The first event of that name whose position in events() is `since` or later."""
        return self._call(self._await_event(name, since), f"send event {name}", timeout)

    async def _await_event(self, name: str, since: int) -> dict[str, Any]:
        client = self._client
        async with client.event_arrived:
            while True:
                for event in client.events_seen[since:]:
                    if event["event"] == name:
                        return event
                await client.event_arrived.wait()

    def close(self) -> None:
        """Hang up and end the thread; may be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(QmpError, QmpTimeout):
            self._call(self._hang_up(), "hang up", 2.0)
        self._stop_loop()

    async def _hang_up(self) -> None:
        with contextlib.suppress(Exception):  # disconnect() raises again what ended the reader
            await self._client.disconnect()
        self._client.close_log()

    async def _cancel_the_rest(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    def _stop_loop(self) -> None:
        """Tasks that a deadline cut off get to clean up first."""
        ended = asyncio.run_coroutine_threadsafe(self._cancel_the_rest(), self._loop)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            ended.result(2.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._loop.close()
