# SPDX-License-Identifier: GPL-2.0-or-later
"""Stimuli on a guest's kernel: this process is the raw client, at the other end of the guest's virtual network card.

The card is virtio-net with QEMU's ``-netdev stream``, which carries plain frames (no offloads: the guest's kernel
computes and checks every checksum and cuts every segment).  In the guest runs ``vnicsock`` (images/client), which
makes the socket calls, and gives each stimulus a network namespace of its own with the card in it.

A guest under TCG may take longer for an answer than the few milliseconds that a step waits.  So each step ends with a
fence: an ARP probe, which the kernel answers at once and in order, after whatever the step's packets made it send.  ARP
touches no counter of IP, and a probe (RFC 5227: sender 0.0.0.0) no neighbour table.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from guest.vm.args import Stream, Vm
from guest.vm.machine import Guest, boot
from guest.vm.rundir import RunDir
from guest.vm.shell import Program
from tests.differential.family import CLIENT, CLIENT6, SERVER, SERVER6, aton
from tests.differential.real import profile_sysctls, sysctl_text
from tests.differential.runner import POLL_ALL, TCP_INFO_SIZE, Run, ecn_info, settle
from tests.differential.script import COMMON_SYSCTL, Stimulus

MAC = bytes.fromhex("525400000001")  # the guest's card
PEER_MAC = bytes.fromhex("525400000002")

FENCE_S = 10.0  # for the guest to answer a fence
CALL_S = 10.0

_ARP = struct.Struct("!HHBBH6sI6sI")
_ARP_TYPE = b"\x08\x06"
_ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_LENGTH = struct.Struct(">I")
_REQUEST, _REPLY = 1, 2
_ANSWER = re.compile(rb"@(ok|err|bad)([^\r\n]*)\r\n")


class Card:
    """Our end of ``-netdev stream``: a connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(True)
        self._buffer = b""

    def send(self, frame: bytes) -> None:
        self._sock.sendall(_LENGTH.pack(len(frame)) + frame)

    def receive(self, deadline: float) -> bytes | None:
        """The next frame, or None at ``deadline`` (time.monotonic)."""
        while (frame := self._whole()) is None:
            ready, _, _ = select.select([self._sock], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            data = self._sock.recv(65536)
            if not data:
                raise ConnectionError("QEMU hung up: the guest's console and qemu.log tell why")
            self._buffer += data
        return frame

    def _whole(self) -> bytes | None:
        if len(self._buffer) < 4:
            return None
        end = 4 + _LENGTH.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return None
        frame, self._buffer = self._buffer[4:end], self._buffer[end:]
        return frame


class Agent:
    """vnicsock on the guest's console."""

    def __init__(self, guest: Guest) -> None:
        mac = PEER_MAC.hex(":")
        ends = f"{SERVER}/24 {CLIENT} {mac} {SERVER6}/64 {CLIENT6}"
        self._program: Program = guest.shell.spawn(f"vnicsock eth0 {ends}")
        self._program.expect(b"@ready\r\n", CALL_S)

    def ask(self, *words: object) -> list[str]:
        """One command; the words after "@ok", OSError for "@err"."""
        self._program.sendline(" ".join(map(str, words)))
        found = self._program.expect(_ANSWER, CALL_S)
        assert not isinstance(found, bytes)
        kind, rest = found[1], found[2].decode().split()
        if kind == b"err":
            raise OSError(int(rest[0]), f"{words[0]} in the guest")
        if kind == b"bad":
            raise ValueError(f"vnicsock does not understand: {' '.join(map(str, words))[:200]}")
        return rest

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._program.__exit__(kind, value, tb)


class GuestSocket:
    """A TCP socket of the guest, with the calls of Python's."""

    def __init__(self, agent: Agent, fd: str) -> None:
        self._agent, self._fd = agent, fd

    def setblocking(self, blocking: bool) -> None:
        """None of them blocks."""

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        text = f"i:{value}" if isinstance(value, int) else f"x:{value.hex()}"
        self._agent.ask("setsockopt", self._fd, level, name, text)

    def getsockopt(self, level: int, name: int, size: int = 0) -> int | bytes:
        raw = _bytes(self._agent.ask("getsockopt", self._fd, level, name, size or 4))
        return raw if size else int.from_bytes(raw, "little", signed=True)

    def bind(self, where: tuple[str, int]) -> None:
        self._agent.ask("bind", self._fd, *where)

    def connect(self, where: tuple[str, int]) -> None:
        self._agent.ask("connect", self._fd, *where)

    def listen(self, backlog: int) -> None:
        self._agent.ask("listen", self._fd, backlog)

    def accept(self) -> tuple[GuestSocket, tuple[str, int]]:
        fd, host, port = self._agent.ask("accept", self._fd)
        return GuestSocket(self._agent, fd), (host, int(port))

    def recv(self, size: int, flags: int = 0) -> bytes:
        return _bytes(self._agent.ask("recv", self._fd, size, flags))

    def recvmsg(
        self, size: int, room: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int] | None]:
        data, got, host, port, *rest = self._agent.ask("recvmsg", self._fd, size, room, flags)
        control = [(int(a), int(b), _bytes([c])) for a, b, c in zip(*[iter(rest)] * 3, strict=True)]
        return _bytes([data]), control, int(got), None if host == "-" else (host, int(port))

    def poll(self, events: int) -> int:
        return int(self._agent.ask("poll", self._fd, events)[0])

    def ioctl(self, request: int) -> int:
        return int(self._agent.ask("ioctl", self._fd, request)[0])

    def send(self, data: bytes, flags: int = 0) -> int:
        return int(self._agent.ask("send", self._fd, flags, f"x:{data.hex()}")[0])

    def sendto(self, data: bytes, flags: int, where: tuple[str, int]) -> int:
        return int(self._agent.ask("sendto", self._fd, flags, f"x:{data.hex()}", *where)[0])

    def shutdown(self, how: int) -> None:
        self._agent.ask("shutdown", self._fd, how)

    def close(self) -> None:
        self._agent.ask("close", self._fd)


def _bytes(words: list[str]) -> bytes:
    return bytes.fromhex(words[0].removeprefix("x:"))


class GuestSide:
    """A namespace of the guest, between "begin" and "end"."""

    def __init__(self, card: Card, agent: Agent, profile: str, family: int = 4) -> None:
        self._card, self._agent, self._family = card, agent, family
        self._profile = profile
        self.late = 0.0  # ms that the guest took for its slowest fence

    def transmit(self, packet: bytes) -> None:
        self._card.send(MAC + PEER_MAC + _ETHERTYPES[packet[0] >> 4] + packet)

    def advance(self, ms: float) -> list[tuple[float, bytes]]:
        start = time.monotonic()
        end, give_up = start + ms / 1000, start + FENCE_S
        self._card.send(_fence())
        fenced, out = False, []
        while (frame := self._card.receive(end if fenced else give_up)) is not None:
            passed = (time.monotonic() - start) * 1000
            if frame[12:14] in (_ETHERTYPES[4], _ETHERTYPES[self._family]):
                out.append((passed, _packet(frame)))
            elif frame[12:14] == _ARP_TYPE and self._arp(frame):
                fenced, self.late = True, max(self.late, passed)
        if not fenced:
            raise ConnectionError(f"the guest did not answer an ARP probe for {FENCE_S:g} s")
        return out

    def _arp(self, frame: bytes) -> bool:
        """Whether it is the answer to a fence; a question is answered, as everybody is at our end."""
        _, _, _, _, op, sha, spa, _, tpa = _ARP.unpack_from(frame, 14)
        if op == _REQUEST and spa:
            self._card.send(_arp_frame(_REPLY, tpa, sha, spa))
        return bool(op == _REPLY and tpa == 0)

    def now_ms(self) -> float:
        return time.monotonic() * 1000

    def socket(self, family: int, kind: int = socket.SOCK_STREAM) -> GuestSocket:
        return GuestSocket(self._agent, self._agent.ask("socket", family, int(kind))[0])

    def poll(self, sock: GuestSocket) -> int:
        return sock.poll(POLL_ALL)

    def ioctl(self, sock: GuestSocket, request: int) -> int:
        return sock.ioctl(request)

    def ecn_info(self, sock: GuestSocket) -> dict[str, int]:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        assert isinstance(raw, bytes)
        return ecn_info(raw, self._profile)

    def counters(self) -> dict[str, int]:
        pairs = (word.split("=") for word in self._agent.ask("counters"))
        return {name: int(value) for name, value in pairs if self._family == 6 or "." in name}


def _packet(frame: bytes) -> bytes:
    """The IP packet in a frame, without the padding of short ones."""
    if frame[12:14] == _ETHERTYPES[6]:
        return frame[14 : 54 + int.from_bytes(frame[18:20], "big")]
    return frame[14 : 14 + int.from_bytes(frame[16:18], "big")]


def _arp_frame(op: int, spa: int, tha: bytes, tpa: int) -> bytes:
    return MAC + PEER_MAC + _ARP_TYPE + _ARP.pack(1, 0x0800, 6, 4, op, PEER_MAC, spa, tha, tpa)


def _fence() -> bytes:
    return _arp_frame(_REQUEST, 0, bytes(6), aton(SERVER))


class GuestServer:
    """A booted guest as the real side: ``run`` gives a stimulus' outcome."""

    def __init__(self, guest: Guest, card: Card) -> None:
        self._card = card
        self.proc = {name: guest.check(f"cat /proc/net/{name}") for name in ("snmp", "netstat")}
        """As text, to see which counters there are."""
        self.release = guest.check("uname -r").strip()
        self.profile = "linux-" + ".".join(self.release.split(".")[:2])
        self._agent = Agent(guest)
        self._sysctls: dict[str, str] | None = (
            None  # what a new namespace of this kernel lacks of the profile
        )

    def close(self) -> None:
        """End vnicsock and give the console back."""
        self._agent.__exit__(None, None, None)

    def run(self, stimulus: Stimulus) -> dict[str, Any]:
        """The outcome in a new namespace, as real.run_here() gives it."""
        self._agent.ask(*(("begin", 6) if stimulus.family == 6 else ("begin",)))
        try:
            different = self._apply(stimulus)
            side = GuestSide(self._card, self._agent, self.profile, stimulus.family)
            if stimulus.family == 6:
                settle(side)
            side.advance(0)  # what the device's arrival made the guest send
            outcome = Run(side, stimulus).run()
        finally:
            self._agent.ask("end")
        outcome["sysctl"], outcome["late"] = different, side.late
        return outcome

    def _apply(self, stimulus: Stimulus) -> list[str]:
        """Set the profile's sysctls and the stimulus' own; those that could not be made equal."""
        if self._sysctls is None:
            wanted = profile_sysctls(self.profile)
            found = {name: self._set(name, value) for name, value in wanted.items()}
            self._sysctls = {k: v for k, v in wanted.items() if found[k] not in ("same", "absent")}
        extra = {k.replace(".", "/") if "." in k else f"ipv4/{k}": sysctl_text(v) for k, v in
                 {**COMMON_SYSCTL, **stimulus.sysctl}.items()}  # fmt: skip
        results = {k: self._set(k, v) for k, v in {**self._sysctls, **extra}.items()}
        return [
            f"{name}: {result}" for name, result in results.items() if result not in ("same", "set", "absent")
        ]

    def _set(self, name: str, value: str) -> str:
        try:
            return self._agent.ask("sysctl", name, value.replace(" ", "/"))[0]
        except FileNotFoundError:
            return "absent"
        except OSError as error:
            return f"not {value}, {error.strerror}"


@contextmanager
def booted(vm_of: Callable[..., Vm], rundir: RunDir, artifacts: Path) -> Iterator[GuestServer]:
    """A new guest with one card, whose other end is ours; ``vm_of`` makes a Vm of an image and of settings."""
    path = rundir.socket_path("net0.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(CALL_S)
        nic = Stream(path=path, mac=MAC.hex(":"))
        vm = vm_of(nics=(nic,), append=("vnic.quiet", "vnic.plain", "vnic.nodhcp"))
        with boot(vm, rundir, artifacts, progress=lambda _: None) as guest:
            sock, _ = listener.accept()
            with sock:
                server = GuestServer(guest, Card(sock))
                yield server
                server.close()
