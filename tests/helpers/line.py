# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest, a Host within the test's own process, and the line between them, which a test can make worse.

The Host's event loop has a thread of its own: the test waits for the guest's console in its thread, and hands
coroutines and calls on the stack over to that one (``HostThread.run``, ``call``).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from devmodel.middleware.fault import FaultPort, Faults
from devmodel.port import Port
from guest.vm.machine import Guest
from guest.vm.shell import Job
from stack.api import aio
from stack.net.ipv4 import proc
from vnic.host import Host, Middleware
from vnic.options import Options

T = TypeVar("T")
Application = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, T]]
"""One end of a connection, and what it says of it."""

SERVER, SERVER6 = "10.0.2.2", "fd00:10:0:2::2"
GUEST = "10.0.2.15"
GOOD = Faults()


class HostThread:
    """A Host that is open from here to ``close``."""

    def __init__(self, options: Options, around: Middleware | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="host", daemon=True)
        self._thread.start()
        self._cleanup = AsyncExitStack()
        try:
            self.host = self.run(self._cleanup.enter_async_context(Host.open(options, around)), 30)
        except BaseException:
            self._stop()
            raise

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """A coroutine's result; TimeoutError if there is none in time, and the coroutine is cancelled."""
        return asyncio.run_coroutine_threadsafe(_within(work, timeout_s), self._loop).result(timeout_s + 10)

    def call(self, function: Callable[[], T]) -> T:
        """A function's result, called where the stack may be called."""

        async def calling() -> T:
            return function()

        return self.run(calling(), 30)

    def close(self) -> None:
        try:
            self.run(self._cleanup.aclose(), 20)
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if not self._thread.is_alive():
            self._loop.close()


async def _within(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    async with asyncio.timeout(timeout_s):
        return await work


def counters_of(*texts: str) -> dict[str, int]:
    """/proc/net/snmp and netstat as nstat names them: TcpRetransSegs, TcpExtTCPTimeouts."""
    found: dict[str, int] = {}
    for text in texts:
        lines = text.splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            prefix, *keys = names.split()
            numbers = map(int, values.split()[1:])
            found |= {prefix.rstrip(":") + key: value for key, value in zip(keys, numbers, strict=True)}
    return found


class Line:
    """Both ends, and what the wire between them does.  Ports are numbered on, so that no test meets another's."""

    def __init__(self, options: Options, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self.port: FaultPort
        self.behind = HostThread(options, self._around)
        self.host = self.behind.host
        self.stack = self.host.stack
        self.guest: Guest
        self._next_port = 6000
        self._digests: dict[int, str] = {}
        self._address6 = ""

    def _around(self, port: Port) -> Port:
        self.port = FaultPort(port, self._rng, asyncio.get_running_loop())
        return self.port

    def close(self) -> None:
        self.behind.close()

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    # -- the wire ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def impaired(self, up: Faults, down: Faults) -> Iterator[None]:
        """A bad wire for this block: ``up`` from the guest to the stack, ``down`` to the guest."""
        self.behind.call(lambda: self.port.set_faults(rx=up, tx=down))
        try:
            yield
        finally:
            self.behind.call(lambda: self.port.set_faults(rx=GOOD, tx=GOOD))

    # -- counters ------------------------------------------------------------------------------------------------------

    def ours(self) -> dict[str, int]:
        """The stack's counters and, as ``fault_...``, those of the wire."""

        def look() -> dict[str, int]:
            net = self.stack
            return counters_of(proc.snmp_seq_show(net), proc.netstat_seq_show(net)) | self.port.stats()

        return self.behind.call(look)

    def guests(self) -> dict[str, int]:
        """The guest's."""
        return counters_of(self.guest.check("cat /proc/net/snmp /proc/net/netstat"))

    # -- the guest -----------------------------------------------------------------------------------------------------

    def guest_address6(self) -> str:
        """The guest's own address in the stack's prefix, once it may be used."""
        if not self._address6:
            shown = "ip -6 -o addr show dev eth0 scope global -tentative | grep -o 'fd00:[^/]*'"
            waits = f"for i in $(seq 100); do {shown} && exit; sleep 0.1; done; exit 1"
            self._address6 = self.guest.check(waits, 60).strip()
        return self._address6

    def guest_file(self, size: int) -> str:
        """A file of random bytes in the guest."""
        path = f"/tmp/blob-{size}"
        if size not in self._digests:
            self.guest.check(f"head -c {size} /dev/urandom > {path}", 60)
            self._digests[size] = self.guest.check(f"sha256sum {path}", 60).split()[0]
        return path

    def guest_digest(self, size: int) -> str:
        """SHA-256 of that file."""
        self.guest_file(size)
        return self._digests[size]

    @contextlib.contextmanager
    def serving(self, command: str, port: int) -> Iterator[Job]:
        """A server in the guest that listens on that TCP port; it is killed at the end if it still runs."""
        job = self.guest.shell.background(command)
        listens = f"ss -Htln 'sport = :{port}' | grep -q ."
        self.guest.check(f"for i in $(seq 100); do {listens} && exit 0; sleep 0.05; done; exit 1", 60)
        try:
            yield job
        finally:
            job.kill("KILL")

    # -- the stack -----------------------------------------------------------------------------------------------------

    async def connect(self, application: Application[T], host: str, port: int) -> T:
        """What an application says that connects from the stack."""
        return await application(*await aio.open_connection(self.host.runner, host, port))

    @contextlib.contextmanager
    def accepting(
        self, application: Application[T], host: str, port: int
    ) -> Iterator[concurrent.futures.Future[T]]:
        """A server on the stack; the future is what the application says of its connection."""
        said: concurrent.futures.Future[T] = concurrent.futures.Future()

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                said.set_result(await application(reader, writer))
            except Exception as error:
                said.set_exception(error)

        server = self.behind.run(aio.start_server(self.host.runner, one, host, port), 10)
        try:
            yield said
        finally:
            self.behind.call(server.close)


# -- transfers by an application on the stack --------------------------------------------------------------------------


async def send_all(writer: asyncio.StreamWriter, data: bytes, piece: int = 65536) -> None:
    """Write it all; the other direction goes on."""
    for at in range(0, len(data), piece):
        writer.write(data[at : at + piece])
        await writer.drain()


async def sha256_of(reader: asyncio.StreamReader) -> tuple[str, int]:
    """The digest of everything until the end, and how much that was."""
    digest, size = hashlib.sha256(), 0
    while data := await reader.read(1 << 18):
        digest.update(data)
        size += len(data)
    return digest.hexdigest(), size
