# SPDX-License-Identifier: GPL-2.0-or-later
"""An ASGI application under uvicorn on the Python stack: port 8000 of 10.0.2.2, for one QEMU guest.

python examples/uvicorn_app.py /tmp/vnic.sock        and, in the guest:  curl -d hello http://10.0.2.2:8000/
"""

import asyncio
import contextlib
import sys

import uvicorn

from stack.api.loop import StackEventLoop
from vnic.host import Host
from vnic.options import Options


async def application(scope, receive, send):
    """Answers with the method, the client and the body, in capitals."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    text = f"{scope['method']} from {scope['client'][0]}: ".encode() + body.upper() + b"\n"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


def server() -> uvicorn.Server:
    config = uvicorn.Config(application, "10.0.2.2", 8000, http="h11", lifespan="off", log_level="warning")
    return uvicorn.Server(config)


async def main(path: str) -> None:
    async with Host.open(Options(vhost_user=path)) as host:
        host.runner.loop.network = host.runner
        print("starting on 10.0.2.2:8000", flush=True)
        await server().serve()


if __name__ == "__main__":
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=StackEventLoop) as asyncio_runner,
    ):
        asyncio_runner.run(main(sys.argv[1]))
