# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.paths``: transfers of two stacks of ours over a simulated path, and of Linux kernels.

Each row is a scenario: a control, a share of random loss, a path.  Ours runs in virtual time (``bench.transfer``).
Linux runs in real time; between its two ends this process relays every packet through the same ``Path`` object
(``bench.relay``): same rate, delay, queue and loss model, drawn from the same seeds.  The ends are two private network
namespaces of the machine's own kernel with a TUN device each, and with ``--guest IMAGE`` also two QEMU guests of that
image, so of its kernel (``bench.guests``).  All have the same buffers and none has metrics of earlier connections.  The
ratio of the mean goodputs is printed.

The namespaces need root and /dev/net/tun (``--no-host`` leaves them out); what they hold ends with the processes.  The
relay is late when the machine is busy: ``late`` is the delay that the worst percent of the packets had beyond what the
path gave them, in milliseconds; a row where that is more than a tenth of the round trip says little.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path as FilePath
from statistics import fmean
from typing import Final

from bench.guests import pair
from bench.relay import SYSCTLS, Measured, Relay, Tun, say
from bench.transfer import MIB, PORT, RECEIVER, SENDER, Scenario, run

CLONE_NEWNET: Final = 0x40000000
TUNSETIFF: Final = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
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


# -- one transfer -------------------------------------------------------------------------------------------------


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
    relay = Relay(Tun(sender), Tun(receiver), scenario)
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
    return Measured(taken * 8 / seconds / 1e6, relay.late_ms())


# -- the table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A kernel to compare with, and how a scenario is run on it."""

    name: str
    run: Callable[[Scenario], Measured]


def head(peers: list[Peer]) -> str:
    """The table's first two lines."""
    cells = ["path", "control", "ours (min-max)"]
    for peer in peers:
        cells += [f"{peer.name} (min-max)", f"ours : {peer.name}", "late"]
    return line(cells) + "\n" + "|---" * len(cells) + "|"


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def spread(values: list[float]) -> str:
    return f"{fmean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def compared(ours: list[float], measured: list[Measured]) -> list[str]:
    """A peer's three cells."""
    theirs = [m.goodput for m in measured]
    ratio = f"**{fmean(ours) / fmean(theirs):.2f}x**"
    return [spread(theirs), ratio, f"{max(m.late_ms for m in measured):.1f}"]


def ours_run(scenario: Scenario) -> float:
    """In virtual time; what it took is said beside the table, as the guests' is."""
    result = run(scenario)
    goodput = result.goodput_mbit()
    took = f"retransmitted {result.retransmitted}, timeouts {result.timeouts}"
    say(f"ours, {scenario.control}, seed {scenario.seed}: {goodput:.2f} Mbit/s, {took}")
    return goodput


def row(name: str, scenario: Scenario, rounds: int, peers: list[Peer]) -> str:
    seeds = [replace(scenario, seed=seed) for seed in range(1, rounds + 1)]
    ours = [ours_run(s) for s in seeds]
    cells = [name, scenario.control, spread(ours)]
    for peer in peers:
        cells += compared(ours, [peer.run(s) for s in seeds])
    return line(cells)


@contextlib.contextmanager
def chosen(host: bool, image: str | None) -> Iterator[list[Peer]]:
    """The kernels to compare with; guests run as long as the block does."""
    peers = [Peer(f"Linux {os.uname().release}", kernel_run)] if host else []
    with contextlib.ExitStack() as cleanup:
        if image:
            guests = cleanup.enter_context(pair(image))
            peers.append(Peer(f"Linux {guests.release} in guests", guests.run))
        yield peers


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.paths", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="seeds of each scenario")
    parser.add_argument("--control", nargs="*", default=["cubic", "reno", "bbr"])
    parser.add_argument("--only", choices=SCENARIOS, help="one scenario")
    parser.add_argument("--rtt", type=float, default=50.0, metavar="MS", help="the path's round-trip time")
    parser.add_argument("--guest", metavar="IMAGE", help="the kernel of this image too, between two guests")
    parser.add_argument("--no-host", action="store_true", help="not the machine's own kernel (needs no root)")
    options = parser.parse_args(argv)
    print(f"100 Mbit/s, {options.rtt:g} ms, a queue of one bandwidth-delay product; goodput in Mbit/s\n")
    with chosen(not options.no_host, options.guest) as peers:
        print(head(peers), flush=True)
        for name, scenario in SCENARIOS.items():
            if options.only in (None, name):
                for control in options.control:
                    planned = replace(scenario, control=control, rtt_ms=options.rtt)
                    print(row(name, planned, options.rounds, peers), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
