# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.paths``: transfers of two stacks of ours over a simulated path, and of the machine's own kernel.

Each row is a scenario: a control, a share of random loss, a path.  Ours runs in virtual time (``bench.transfer``).  The
kernel runs in real time, in two private network namespaces with a TUN device each; between them this process relays
every packet through the same ``Path`` object: same rate, delay, queue and loss model, drawn from the same seeds.  Both
have the same buffers and neither has metrics of earlier connections.  The ratio of the mean goodputs is printed.

Needs root and /dev/net/tun; what the namespaces hold ends with the processes.  The relay is late when the machine is
busy: ``late`` is the delay that the worst percent of the packets had beyond what the path gave them, in milliseconds; a
row where that is more than a tenth of the round trip says little.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path as FilePath
from statistics import fmean
from typing import Final

from bench.transfer import MIB, PORT, RECEIVER, SENDER, Scenario, make_path, run
from stack.api.path import ETH_HLEN, Frame

CLONE_NEWNET: Final = 0x40000000
TUNSETIFF: Final = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
ETHERNET: Final = bytes(12) + b"\x08\x00"
SYSCTLS: Final = {
    "tcp_rmem": "4096 131072 6291456",
    "tcp_wmem": "4096 16384 4194304",
    "tcp_no_metrics_save": "1",
}
BATCH: Final = 64
SCENARIOS: Final = {
    "0.01 % loss": Scenario(64 * MIB, loss=0.0001),
    "1 % loss": Scenario(8 * MIB, loss=0.01),
    "no loss": Scenario(64 * MIB),
}


# -- the kernel's end: one process per namespace -------------------------------------------------------------------


def enter_namespace(addr: str) -> int:
    """A new network namespace with a TUN device that has this address; the device's descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET): root is needed")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
    for command in (f"addr add {addr}/24 dev tun0", "link set tun0 up txqueuelen 10000"):
        subprocess.run(["ip", *command.split()], check=True)
    for name, value in SYSCTLS.items():
        FilePath("/proc/sys/net/ipv4", name).write_text(value)
    return fd


def kernel_receiver(ends: Connection, fds: socket.socket, control: str, nbytes: int) -> None:
    """Accept one connection, read all of it, tell how many seconds lay between the first byte and the last."""
    socket.send_fds(fds, [b"r"], [enter_namespace(RECEIVER)])
    with socket.create_server((RECEIVER, PORT)) as listener:
        ends.send("listening")
        conn, _ = listener.accept()
        taken, began = 0, 0.0
        while data := conn.recv(MIB):
            began = began or time.monotonic()
            taken += len(data)
        ends.send((taken, time.monotonic() - began))


def kernel_sender(ends: Connection, fds: socket.socket, control: str, nbytes: int) -> None:
    """Connect when told to, send, close."""
    socket.send_fds(fds, [b"s"], [enter_namespace(SENDER)])
    ends.recv()
    with socket.socket() as conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
        conn.connect((RECEIVER, PORT))
        data = bytes(MIB)
        for _ in range(nbytes // MIB):
            conn.sendall(data)
        conn.shutdown(socket.SHUT_WR)
        conn.recv(1)


# -- the relay -----------------------------------------------------------------------------------------------------


@dataclass
class Relay:
    """Carries packets between two TUN devices, each way through its path, until told to stop."""

    one: int
    two: int
    scenario: Scenario

    def __post_init__(self) -> None:
        s = self.scenario
        self.ways = {self.one: (make_path(s, True, True, s.seed), self.two)}
        self.ways[self.two] = (make_path(s, s.both, False, s.seed + 1000), self.one)
        self.flight: list[tuple[int, int, int, bytes]] = []
        self.serial = 0
        self.late: list[int] = []

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.deliver()
            ready, _, _ = select.select(list(self.ways), [], [], self.idle())
            for fd in ready:
                self.take(fd)

    def idle(self) -> float:
        """Seconds to the next arrival, a millisecond at most so that the end is noticed."""
        if not self.flight:
            return 0.001
        return min(max(self.flight[0][0] - time.monotonic_ns(), 0) / 1e9, 0.001)

    def take(self, fd: int) -> None:
        """Put what the device sends on its path."""
        path, other = self.ways[fd]
        for _ in range(BATCH):
            try:
                packet = os.read(fd, 65536)
            except BlockingIOError:
                return
            now = time.monotonic_ns()
            for when, frame in path.send(now, Frame(now, "", "", ETHERNET + packet)):
                self.serial += 1
                heappush(self.flight, (when, self.serial, other, frame.data[ETH_HLEN:]))

    def deliver(self) -> None:
        """Give the devices what has arrived."""
        flight = self.flight
        now = time.monotonic_ns()
        while flight and flight[0][0] <= now:
            when, _, fd, packet = heappop(flight)
            os.write(fd, packet)
            self.late.append(now - when)


@dataclass(frozen=True)
class Measured:
    """Mbit/s of payload, and the lateness of the relay's worst percent in ms."""

    goodput: float
    late_ms: float


def kernel_run(scenario: Scenario) -> Measured:
    """The scenario between two namespaces of the running kernel."""
    context = get_context("fork")
    pairs = [(context.Pipe(), socket.socketpair()) for _ in range(2)]
    targets = (kernel_receiver, kernel_sender)
    processes = []
    for target, ((_, child), (_, fds)) in zip(targets, pairs, strict=True):
        args = (child, fds, scenario.control, scenario.nbytes)
        processes.append(context.Process(target=target, args=args, daemon=True))
        processes[-1].start()
    try:
        return _relay(scenario, [p[0][0] for p in pairs], [p[1][0] for p in pairs])
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _relay(scenario: Scenario, ends: list[Connection], fds: list[socket.socket]) -> Measured:
    receiver, sender = (socket.recv_fds(s, 1, 1)[1][0] for s in fds)
    relay = Relay(sender, receiver, scenario)
    try:
        relay.run_until(ends[0].poll)
        ends[0].recv()
        ends[1].send("go")
        relay.run_until(ends[0].poll)
        taken, seconds = ends[0].recv()
    finally:
        os.close(receiver)
        os.close(sender)
    assert taken == scenario.nbytes, f"{taken} of {scenario.nbytes} bytes arrived"
    late = sorted(relay.late)
    return Measured(taken * 8 / seconds / 1e6, late[len(late) * 99 // 100] / 1e6)


# -- the table ---------------------------------------------------------------------------------------------------


def ours_run(scenario: Scenario) -> float:
    return run(scenario).goodput_mbit()


def row(name: str, scenario: Scenario, rounds: int) -> str:
    seeds = [replace(scenario, seed=seed) for seed in range(1, rounds + 1)]
    ours = [ours_run(s) for s in seeds]
    kernel = [kernel_run(s) for s in seeds]
    theirs = [k.goodput for k in kernel]
    late = max(k.late_ms for k in kernel)
    cells = [
        name,
        scenario.control,
        f"{fmean(ours):.2f} ({min(ours):.2f}-{max(ours):.2f})",
        f"{fmean(theirs):.2f} ({min(theirs):.2f}-{max(theirs):.2f})",
        f"**{fmean(ours) / fmean(theirs):.2f}x**",
        f"{late:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.paths", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="seeds of each scenario")
    parser.add_argument("--control", nargs="*", default=["cubic", "reno", "bbr"])
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario")
    options = parser.parse_args(argv)
    kernel = os.uname().release
    print(f"100 Mbit/s, 50 ms, a queue of one bandwidth-delay product; goodput in Mbit/s, Linux {kernel}\n")
    print("| path | control | ours (min-max) | Linux (min-max) | ours : Linux | late |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, scenario in SCENARIOS.items():
        if options.only in (None, name):
            for control in options.control:
                print(row(name, replace(scenario, control=control), options.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
