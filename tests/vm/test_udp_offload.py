# SPDX-License-Identifier: GPL-2.0-or-later
"""UDP of many datagrams at once between Linux's driver and the stack. Linux 6.1 takes UFO of what is offered, and QEMU
7.2 keeps USO to itself; `vnicsock` makes the calls in the guest."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from line import HostThread
from udpframes import udp_frame

from devmodel.middleware.meter import MeterPort
from devmodel.port import Buffer, VnetHdr
from guest.vm.args import VhostUser
from guest.vm.machine import Guest
from guest.vm.shell import Program
from stack.api.bsd import AF_INET, SOCK_DGRAM, Socket
from stack.include.udp import SOL_UDP, UDP_SEGMENT
from vnic.host import MAC
from vnic.options import Options

Boot = Callable[..., Guest]

SERVER, GUEST = "10.0.2.2", "10.0.2.15"
PORT = 7007
_ANSWER = re.compile(rb"@(ok|err|bad)([^\r\n]*)\r\n")


class Watch(MeterPort):
    """Keeps what passes, with its header."""

    up: list[tuple[VnetHdr | None, bytes]]
    down: list[VnetHdr | None]

    def frame_received(self, hdr: VnetHdr | None, frame: bytes) -> None:
        self.up.append((hdr, frame))
        super().frame_received(hdr, frame)

    def send(self, hdr: VnetHdr | None, parts: Sequence[Buffer]) -> bool:
        self.down.append(hdr)
        return super().send(hdr, parts)


class Calls:
    """Socket calls in the guest."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def ask(self, *words: object) -> list[str]:
        self._program.sendline(" ".join(map(str, words)))
        found = self._program.expect(_ANSWER, 20)
        assert not isinstance(found, bytes)
        assert found[1] == b"ok", (words[0], found[0])
        return found[2].decode().split()

    def receive(self, fd: str, count: int) -> list[bytes]:
        """So many datagrams, which may still be on their way."""
        got: list[bytes] = []
        until = time.monotonic() + 20
        while len(got) < count and time.monotonic() < until:
            if int(self.ask("poll", fd, 1)[0]) & 1:
                got.append(bytes.fromhex(self.ask("recv", fd, 65536, 0)[0][2:]))
        return got


@pytest.fixture
def behind(rundir: Any) -> Iterator[tuple[HostThread, Watch]]:
    watches: list[Watch] = []

    def around(port: Any) -> Watch:
        watches.append(Watch(port, time.monotonic))
        watches[0].up, watches[0].down = [], []
        return watches[0]

    made = HostThread(Options(vhost_user=str(rundir.socket_path("net0.sock"))), around)
    yield made, watches[0]
    made.close()


def _echo(host: HostThread) -> Socket:
    """A UDP socket of the stack that sends back what it gets, each datagram for itself."""

    def make() -> Socket:
        sock = Socket(host.host.stack, AF_INET, SOCK_DGRAM)
        sock.setsockopt(1, 33, 4 << 20)
        sock.bind((SERVER, PORT))
        sock.on_event = answer
        return sock

    def answer(sock: Socket, mask: int) -> None:
        while True:
            try:
                data, peer = sock.recvfrom(65536)
            except BlockingIOError:
                return
            sock.sendto(data, peer)

    return host.call(make)


def test_linux_takes_ufo_and_sends_and_receives_many_datagrams(
    behind: tuple[HostThread, Watch], boot: Boot, rundir: Any
) -> None:
    host, watch = behind
    guest = boot(nic=VhostUser(path=rundir.socket_path("net0.sock")))
    features = {one["name"]: one["acknowledged"] for one in host.call(host.host.negotiation)["features"]}
    assert features["VIRTIO_NET_F_GUEST_UFO"]
    assert features["VIRTIO_NET_F_HOST_UFO"]
    assert not features["VIRTIO_NET_F_HOST_USO"]
    assert guest.ready["dhcp"] == "ok"
    assert SERVER in guest.check("nslookup vnic.test")
    assert "2 packets received" in guest.check(f"ping -c 2 -i 0.2 -s 9000 -W 5 {SERVER}", 30)

    echo = _echo(host)
    rng = random.Random(1)
    ends = f"{GUEST}/24 {SERVER} {MAC.hex(':')} fd00::15/64 fd00::2"
    with guest.shell.spawn(f"vnicsock eth0 {ends}") as program:
        program.expect(b"@ready\r\n", 10)
        calls = Calls(program)
        calls.ask("begin")
        (fd,) = calls.ask("socket", 2, 2)
        calls.ask("bind", fd, GUEST, 4000)
        for size, total in ((1472, 1472 * 3), (1000, 5001), (1, 128), (0, 20000)):
            data = rng.randbytes(total)
            calls.ask("setsockopt", fd, SOL_UDP, UDP_SEGMENT, f"i:{size}")
            calls.ask("sendto", fd, 0, f"x:{data.hex()}", SERVER, PORT)
            pieces = [data[at : at + size] for at in range(0, total, size)] if size else [data]
            assert calls.receive(fd, len(pieces)) == pieces

        data = rng.randbytes(4001)
        host.call(lambda: echo.setsockopt(SOL_UDP, UDP_SEGMENT, 1000))
        host.call(lambda: (echo.sendto(data, (GUEST, 4000)), host.host.runner.touch()))
        assert calls.receive(fd, 5) == [data[at : at + 1000] for at in range(0, 4001, 1000)]

        # UFO: what another guest left to its device is whole for this one, which would take it in fragments too.
        [station] = {
            frame[6:12] for _, frame in watch.up if frame[23:24] == b"\x11" and frame[26:30] == b"\n\0\2\x0f"
        }
        data = rng.randbytes(9000)
        frame, start = udp_frame(data, SERVER, GUEST, PORT, 4000, station, MAC)
        hdr = VnetHdr(1, 3, start + 8, 1480, start, 6)
        host.call(lambda: (watch.send(hdr, [frame]), watch.flush()))
        assert calls.receive(fd, 1) == [data]
        stats = host.call(watch.stats)
        assert (
            stats["tx_dropped"] == stats["tx_drop_link_down"]
        )  # what was said before the guest's driver was there
        assert stats["rx_drop_gso"] == stats["rx_drop_csum"] == 0
