# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench's server process: ``python -m bench.server KIND ...``, where KIND is one of

    host ADDRESS                        the applications on the machine's own TCP at ADDRESS (loopback), where QEMU's
                                        user networking takes the guest
    vhost-user PATH NET, stream PATH NET  the same applications on vnic's stack, which has the address and prefix NET
    ceiling PATH NET                    answers over vhost-user without a stack (bench/ceiling.py)

Prints one line, ``ready``, when it listens, and ends when its standard input is closed, so that it never outlives the
bench.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv4Interface

from bench.apps import APPS, BASE_PORT
from bench.ceiling import Responder
from devmodel.vhost_user.server import VhostUserServer
from stack.api import aio
from vnic.host import MAC, Host
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


@asynccontextmanager
async def on_nothing(path: str, net: str) -> AsyncIterator[None]:
    """Answers without a stack."""
    port = await VhostUserServer.listen(path)
    Responder(port, MAC, int(IPv4Interface(net).ip))
    try:
        yield
    finally:
        port.close()


def serving(kind: str, where: str, rest: list[str]) -> AbstractAsyncContextManager[None]:
    if kind == "host":
        return on_host(where)
    return on_nothing(where, rest[0]) if kind == "ceiling" else on_vnic(kind, where, rest[0])


async def main(argv: list[str]) -> int:
    kind, where, *rest = argv
    async with serving(kind, where, rest):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
