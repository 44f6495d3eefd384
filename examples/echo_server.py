# SPDX-License-Identifier: GPL-2.0-or-later
"""A server on the Python stack: echo on port 7777 of 10.0.2.2, for one QEMU guest.

python examples/echo_server.py /tmp/vnic.sock        and, in the guest:  nc 10.0.2.2 7777
"""

import asyncio
import contextlib
import sys

from stack.api import aio
from vnic.host import Host
from vnic.options import Options


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(path: str) -> None:
    async with Host.open(Options(vhost_user=path)) as host:
        server = await aio.start_server(host.runner, echo, "10.0.2.2", 7777)
        print(f"listening on 10.0.2.2:7777 of the network behind {path}", flush=True)
        await server.serve_forever()


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(sys.argv[1]))
