# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS by the standard library on the Python stack: port 4433 of 10.0.2.2, for one QEMU guest.

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=10.0.2.2 \\
    -addext subjectAltName=IP:10.0.2.2 -keyout key.pem -out cert.pem
python examples/tls_server.py /tmp/vnic.sock cert.pem key.pem    and, in the guest:  curl -k https://10.0.2.2:4433/
"""

import asyncio
import contextlib
import ssl
import sys

from stack.api.loop import StackEventLoop
from vnic.host import Host
from vnic.options import Options


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Any HTTP request gets the cipher that it came by."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        name, version, bits = writer.get_extra_info("cipher")
        text = f"{version} {name} {bits}\n"
        writer.write(
            f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        await writer.drain()
    writer.close()


def context(certificate: str, key: str) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls


async def serve(tls: ssl.SSLContext) -> None:
    server = await asyncio.start_server(answer, "10.0.2.2", 4433, ssl=tls)
    print("listening on 10.0.2.2:4433", flush=True)
    await server.serve_forever()


async def main(path: str, certificate: str, key: str) -> None:
    async with Host.open(Options(vhost_user=path)) as host:
        host.runner.loop.network = host.runner
        await serve(context(certificate, key))


if __name__ == "__main__":
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=StackEventLoop) as asyncio_runner,
    ):
        asyncio_runner.run(main(*sys.argv[1:4]))
