# SPDX-License-Identifier: GPL-2.0-or-later
"""Stimuli on the host's kernel: one process and one private network namespace with a TUN device for each.

``python -m tests.differential.real PROFILE NAME...`` runs these stimuli, several at a time, and prints one JSON object:
outcomes by name.  It is a program of its own so that what forks and changes namespaces is never the test process.
Nothing outside of the new namespaces is touched, and they go with their processes.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from stack.clock import ManualClock
from stack.rng import SeededRng
from stack.stack import Stack
from tests.differential.family import SERVER, SERVER6
from tests.differential.runner import POLL_ALL, TCP_INFO_SIZE, Run, ecn_info, settle
from tests.differential.script import COMMON_SYSCTL, Stimulus

TUN = "/dev/net/tun"
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
IFF_UP, IFF_RUNNING = 0x1, 0x40

AT_A_TIME = 12
_SYS = Path("/proc/sys/net")
_NET = Path("/proc/thread-self/net")


class NoNamespace(RuntimeError):
    """A private network namespace or a TUN device in it cannot be had here; the text says why."""


def enter_namespace(family: int = 4) -> int:
    """Move this process into a new network namespace and give back the descriptor of a TUN device in it, up,
    with the server's address (of both families if ``family`` is 6); NoNamespace if that fails."""
    before = os.readlink("/proc/thread-self/ns/net")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise NoNamespace(f"unshare(CLONE_NEWNET): {os.strerror(ctypes.get_errno())}")
    if os.readlink("/proc/thread-self/ns/net") == before:
        raise NoNamespace("unshare(CLONE_NEWNET) succeeded but the namespace is still the old one")
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
        if family == 6:
            _quiet_ipv6()
        _configure()
        if family == 6:
            _configure6()
    except OSError as error:
        raise NoNamespace(f"{TUN} in the new namespace: {error}") from error
    return fd


def _configure() -> None:
    addr = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(SERVER))
    mask = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton("255.255.255.0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for name in (b"lo", b"tun0"):
            if name == b"tun0":
                fcntl.ioctl(s, SIOCSIFADDR, struct.pack("16s16s8x", name, addr))
                fcntl.ioctl(s, SIOCSIFNETMASK, struct.pack("16s16s8x", name, mask))
            fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH22x", name, IFF_UP | IFF_RUNNING))


def _quiet_ipv6() -> None:
    """The device says nothing of itself: no address of its own making, no router solicitation, and what it has to tell
    of its groups is told at once."""
    for name, value in (
        ("addr_gen_mode", 1),
        ("router_solicitations", 0),
        ("mldv2_unsolicited_report_interval", 1),
    ):
        (_SYS / "ipv6/conf/tun0" / name).write_text(str(value))


def _configure6() -> None:
    """The server's IPv6 address; a TUN device has no neighbours to look for and tries no duplicates."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        address = socket.inet_pton(socket.AF_INET6, SERVER6)
        fcntl.ioctl(s, SIOCSIFADDR, struct.pack("=16sIi", address, 64, socket.if_nametoindex("tun0")))


def sysctl_text(value: Any) -> str:
    return " ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def profile_sysctls(profile: str) -> dict[str, str]:
    """The integers and strings of a Stack of that profile, by their path below /proc/sys/net."""
    net = Stack(ManualClock(0), SeededRng(1), profile)
    found: dict[str, str] = {}
    for owner, directory in ((net.ipv4, "ipv4"), (net.ipv6, "ipv6"), (net.core, "core")):
        for field, value in vars(owner).items():
            name = field.removeprefix("sysctl_")
            if field.startswith("sysctl_") and isinstance(value, int | str | tuple):
                found[f"{directory}/{name}"] = sysctl_text(value)
    found["ipv4/tcp_max_syn_backlog"] = str(net.sysctl_get("tcp_max_syn_backlog"))
    found["ipv4/ip_local_port_range"] = sysctl_text(net.sysctl_get("ip_local_port_range"))
    return found


def apply_sysctls(values: dict[str, str]) -> list[str]:
    """Set them in this namespace; what is there and could not be made equal, as "name: have, want"."""
    different: list[str] = []
    for name, want in values.items():
        path = _SYS / name
        if not path.exists():
            continue
        have = " ".join(path.read_text().split())
        if have == want:
            continue
        try:
            path.write_text(want)
        except OSError:
            different.append(f"{name}: {have}, not {want}")
    return different


class RealSide:
    """This process's namespace."""

    def __init__(self, tun: int, profile: str, family: int = 4) -> None:
        self.tun = tun
        self.profile = profile
        self.family = family
        self.kept: list[Any] = []
        self.late = 0.0  # ms by which this process was too slow at its worst: the host is busy
        self.ready: float | None = None

    def transmit(self, packet: bytes) -> None:
        try:
            os.write(self.tun, packet)
        except OSError as error:
            raise ValueError(f"the TUN device refuses {packet[:24].hex()}: {error}") from error

    def advance(self, ms: float) -> list[tuple[float, bytes]]:
        start = time.monotonic()
        if self.ready is not None:
            self.late = max(self.late, (start - self.ready) * 1000)
        end = start + ms / 1000
        out: list[tuple[float, bytes]] = []
        while True:
            left = end - time.monotonic()
            ready, _, _ = select.select([self.tun], [], [], max(left, 0))
            if ready:
                packet = os.read(self.tun, 65536)
                if packet[0] >> 4 in (4, self.family):
                    out.append(((time.monotonic() - start) * 1000, packet))
            elif left <= 0:
                self.ready = time.monotonic()
                self.late = max(self.late, (self.ready - end) * 1000)
                return out

    def now_ms(self) -> float:
        return time.monotonic() * 1000

    def socket(self, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        s = socket.socket(family, kind)
        s.setblocking(False)
        self.kept.append(s)
        return s

    def poll(self, sock: socket.socket) -> int:
        poller = select.poll()
        poller.register(sock, POLL_ALL)
        return next((mask for _, mask in poller.poll(0)), 0)

    def ioctl(self, sock: socket.socket, request: int) -> int:
        return int.from_bytes(fcntl.ioctl(sock, request, bytes(4)), sys.byteorder, signed=True)

    def ecn_info(self, sock: socket.socket) -> dict[str, int]:
        return ecn_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE), self.profile)

    def counters(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in ("snmp", "netstat"):
            lines = (_NET / name).read_text().splitlines()
            for names, numbers in zip(lines[::2], lines[1::2], strict=True):
                group = names.partition(":")[0]
                for key, value in zip(names.split()[1:], numbers.split()[1:], strict=True):
                    found[f"{group}.{key}"] = int(value)
        if self.family == 6:
            pairs = (line.split() for line in (_NET / "snmp6").read_text().splitlines())
            found.update({name: int(value) for name, value in pairs})
        return found


def run_here(stimulus: Stimulus, profile: str) -> dict[str, Any]:
    """The outcome in a new namespace, with what sysctls differ from the profile in ``sysctl``."""
    tun = enter_namespace(stimulus.family)
    extra = {
        k.replace(".", "/") if "." in k else f"ipv4/{k}": sysctl_text(v)
        for k, v in {**COMMON_SYSCTL, **stimulus.sysctl}.items()
    }
    different = apply_sysctls({**profile_sysctls(profile), **extra})
    side = RealSide(tun, profile, stimulus.family)
    if stimulus.family == 6:
        settle(side)
    outcome = Run(side, stimulus).run()
    outcome["sysctl"], outcome["late"] = different, side.late
    return outcome


def _child(stimulus: Stimulus, profile: str, path: Path) -> None:
    """In the forked process: run, write the outcome, leave without the parent's clean-up."""
    try:
        outcome = run_here(stimulus, profile)
    except Exception:  # whatever it is, the parent has to hear of it
        outcome = {"error": traceback.format_exc()}
    path.write_text(json.dumps(outcome))
    os._exit(0)


def run_all(stimuli: list[Stimulus], profile: str) -> dict[str, Any]:
    """Outcomes by name, AT_A_TIME at once, the longest first."""
    waiting = sorted(stimuli, key=lambda s: sum(step.wait for step in s.steps))
    running: set[int] = set()
    with tempfile.TemporaryDirectory() as directory:
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                stimulus = waiting.pop()
                pid = os.fork()
                if pid == 0:
                    _child(stimulus, profile, Path(directory, stimulus.name))
                running.add(pid)
            pid, _ = os.wait()
            running.discard(pid)
        return {s.name: _load(Path(directory, s.name)) for s in stimuli}


def _load(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {"error": "its process died without an outcome"}


def main() -> None:
    from tests.differential.table import TABLE

    profile, *names = sys.argv[1:]
    if not names:  # can it be done here?
        enter_namespace()
    json.dump(run_all([TABLE[name] for name in names], profile), sys.stdout)


if __name__ == "__main__":
    main()
