# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest is the server, this script its client: port 5000 of 10.0.2.15, the address of the first QEMU guest.

python examples/guest_server.py /tmp/vnic.sock       and, in the guest:  nc -N -l 5000
Each line that is typed there comes back in capitals; Ctrl-D there ends both.
"""

import asyncio
import contextlib
import sys

from stack.api import aio
from vnic.host import Host
from vnic.options import Options

GUEST = ("10.0.2.15", 5000)


async def connect(host: Host) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Try until the guest is up (nobody answers ARP before: EHOSTUNREACH) and listens (ECONNREFUSED before)."""
    while True:
        try:
            return await aio.open_connection(host.runner, *GUEST)
        except OSError as error:
            print(f"{error.strerror}; trying again", flush=True)
            await asyncio.sleep(1)


async def main(path: str) -> None:
    async with Host.open(Options(vhost_user=path)) as host:
        print(f"the network behind {path} is up", flush=True)
        reader, writer = await connect(host)
        here, there = (":".join(map(str, writer.get_extra_info(end))) for end in ("sockname", "peername"))
        print(f"connected from {here} to {there}", flush=True)
        writer.write(b"type a line\n")
        async for line in reader:
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
