# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end whose only listener, on port 7000, accepts when it is told to: lazy_server.py SOCKET BACKLOG.

Commands, one a line on standard input: ``queue`` (connections that wait to be accepted), ``accept`` (take one),
or the name of a counter as nstat shows it.  Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys

from stack.api.bsd import Socket
from stack.include.snmp import snmp4_net_list
from vnic.host import Host
from vnic.options import Options

PORT = 7000


def answer(listener: Socket, command: str) -> str:
    if command == "queue":
        return str(listener.sk.sk_ack_backlog)
    if command == "accept":
        connection, (host, port) = listener.accept()
        accepted.append(connection)
        return f"{host}:{port}"
    counters = listener.sk.sk_net.mib.net_statistics
    return str(counters[snmp4_net_list.index(command)])


accepted: list[Socket] = []


async def main(path: str, backlog: int) -> None:
    loop = asyncio.get_running_loop()
    async with Host.open(Options(vhost_user=path)) as host:
        listener = Socket(host.stack)
        listener.bind(("10.0.2.2", PORT))
        listener.listen(backlog)
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(answer(listener, line.strip()), flush=True)
            host.runner.touch()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
