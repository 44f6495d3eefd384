# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench's server process: ``python -m bench.server host ADDRESS | vhost-user PATH NET | stream PATH NET``.

``host`` serves the applications on the machine's own TCP at ADDRESS (loopback), where QEMU's user networking takes
the guest; the other two serve the same applications on vnic's stack, which has the address and prefix NET.  Prints
one line, ``ready``, when it listens, and ends when its standard input is closed, so that it never outlives the bench.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.apps import APPS, BASE_PORT
from stack.api import aio
from vnic.host import Host
from vnic.options import Options

BACKLOG = 512


@asynccontextmanager
async def on_host(address: str) -> AsyncIterator[None]:
    """The applications on the machine's own sockets."""
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(app, address, BASE_PORT + i, backlog=BACKLOG) for i, app in enumerate(APPS)
    ]
    yield
    for server in servers:
        server.close()


@asynccontextmanager
async def on_vnic(kind: str, path: str, net: str) -> AsyncIterator[None]:
    """The applications on a Stack behind a socket of QEMU's."""
    options = Options(
        vhost_user=path if kind == "vhost-user" else None,
        stream=path if kind == "stream" else None,
        address=net,
    )
    async with Host.open(options) as host:
        for i, app in enumerate(APPS):
            await aio.create_server(host.runner, app, net.split("/")[0], BASE_PORT + i, backlog=BACKLOG)
        yield


async def main(argv: list[str]) -> int:
    kind, where, *rest = argv
    async with on_host(where) if kind == "host" else on_vnic(kind, where, rest[0]):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
