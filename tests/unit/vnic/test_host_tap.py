# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel of a private network namespace is the client: its TCP, over a TAP, against the stack's services."""

from __future__ import annotations

import hashlib
import http.client
import socket
from collections.abc import Iterator

import pytest
from line import HostThread
from netns import Namespace, why_no_tap
from pyroute2 import IPRoute

from vnic.options import Options
from vnic.places import Tap

SERVER = "10.0.2.2"
SIZE = 4_000_000

_NO_TAP = why_no_tap()
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(_NO_TAP), reason=f"no TAP here: {_NO_TAP}"),
]


def configure(name: str) -> None:
    with IPRoute() as route:
        index = route.link_lookup(ifname=name)[0]
        route.addr("add", index=index, address="10.0.2.15", prefixlen=24)


class Line:
    """The host's thread and the client's: both are in the namespace."""

    def __init__(self, private: Namespace, text: str) -> None:
        self.private = private
        self.behind = private.call(lambda: HostThread(Options(further=(Tap(text),), address6="none")))
        private.call(lambda: configure("tap0"))

    def stats(self) -> dict[str, int]:
        return self.behind.call(self.behind.host.port.stats)

    def close(self) -> None:
        self.private.call(self.behind.close)


@pytest.fixture(params=["tap0", "tap0,vnet"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    with Namespace() as private:
        made = Line(private, request.param)
        yield made
        made.close()


def echo(data: bytes) -> bytes:
    with socket.create_connection((SERVER, 7), timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_kernel_gets_its_echo(line: Line) -> None:
    data = b"from the kernel's own TCP\n" * 100
    assert line.private.call(lambda: echo(data)) == data


def test_kernel_downloads_and_uploads_unchanged(line: Line) -> None:
    def both() -> tuple[str, str, bytes]:
        client = http.client.HTTPConnection(SERVER, timeout=20)
        client.request("GET", f"/bytes/{SIZE}")
        answer = client.getresponse()
        headers, body = str(answer.headers), answer.read()
        client.request("PUT", "/upload", body)
        return headers, client.getresponse().read().decode(), body

    headers, told, body = line.private.call(both)
    digest = hashlib.sha256(body).hexdigest()
    assert len(body) == SIZE
    assert digest in headers
    assert digest in told
    stats = line.stats()
    segments = SIZE // 1448
    if line.behind.host.negotiation()["vnet_hdr_size"]:
        # 64 KB at a time, each way
        assert stats["tx_frames"] < segments / 2
        assert stats["rx_frames"] < segments
    else:
        assert stats["tx_frames"] > segments
    assert stats["tx_dropped"] == 0


def test_kernel_is_refused_at_a_closed_port(line: Line) -> None:
    def refused() -> None:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((SERVER, 4321), timeout=10)

    line.private.call(refused)
