# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench's server process: ``python -m bench.server {host | vhost-user | stream} WHERE``.

``host ADDRESS`` serves the applications on the machine's own TCP at ADDRESS (loopback), for QEMU's user networking;
``vhost-user PATH NET`` and ``stream PATH NET`` serve the same applications on vnic's stack, which has the address and
prefix NET.  Prints one line, ``ready``, when it listens, and ends on SIGTERM or when its standard input is closed (so it never outlives the bench).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vnic.host import Host

from bench.apps import APPS, BASE_PORT
from stack.api import aio


@asynccontextmanager
async def _on_host(address: str) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(app, address, BASE_PORT + i, backlog=512) for i, app in enumerate(APPS)
    ]
    yield
    for server in servers:
        server.close()


@asynccontextmanager
async def _on_vnic(kind: str, path: str, address: str) -> AsyncIterator[None]:
    where = {"vhost_user": path} if kind == "vhost-user" else {"stream": path}
    async with Host.open(address=address, services=(), **where) as host:
        for i, app in enumerate(APPS):
            await aio.create_server(host.runner, app, address.split("/")[0], BASE_PORT + i, backlog=512)
        yield


async def _until_told_to_stop() -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin, lambda: stop.set() if not sys.stdin.buffer.read1(4096) else None)
    await stop.wait()
    loop.remove_reader(sys.stdin)


async def main(argv: list[str]) -> int:
    kind, where, *rest = argv
    serving = _on_host(where) if kind == "host" else _on_vnic(kind, where, rest[0])
    async with serving:
        print("ready", flush=True)
        await _until_told_to_stop()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
