# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end that serves the control queue, which `vnic serve` leaves to QEMU: control_backend.py SOCKET."""

from __future__ import annotations

import asyncio
import sys

from devmodel.vhost_user.server import VhostUserServer
from stack.api import aio
from stack.stack import Stack
from vnic.host import MAC, Adapter
from vnic.services.echo import Echo


async def main(path: str) -> None:
    port = await VhostUserServer.listen(path, control_queue=True)
    stack = Stack(aio.MonotonicClock(), aio.SystemRng())
    dev = stack.register_netdevice("eth0", MAC)
    stack.dev_addr_add(dev, "10.0.2.2/24")
    runner = aio.Runner(stack, flush=port.flush)
    Adapter(stack, runner, port, dev)
    await aio.create_server(runner, Echo, "10.0.2.2", 7)
    print("ready: with a control queue", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
