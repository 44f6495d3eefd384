# SPDX-License-Identifier: GPL-2.0-or-later
"""An aiohttp application on the Python stack: port 8080 of 10.0.2.2, for one QEMU guest.

python examples/aiohttp_app.py /tmp/vnic.sock        and, in the guest:  curl http://10.0.2.2:8080/hello/you
"""

import asyncio
import contextlib
import sys

from aiohttp import web

from stack.api.loop import StackEventLoop
from vnic.host import Host
from vnic.options import Options


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello, {request.match_info['name']} at {request.remote}\n")


async def serve(application: web.Application) -> None:
    """As on any other network: the event loop says which one it is."""
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "10.0.2.2", 8080).start()
        print("listening on 10.0.2.2:8080", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def application() -> web.Application:
    app = web.Application()
    app.router.add_get("/hello/{name}", hello)
    return app


async def main(path: str) -> None:
    async with Host.open(Options(vhost_user=path)) as host:
        host.runner.loop.network = host.runner
        await serve(application())


if __name__ == "__main__":
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=StackEventLoop) as asyncio_runner,
    ):
        asyncio_runner.run(main(sys.argv[1]))
