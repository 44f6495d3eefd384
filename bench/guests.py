# SPDX-License-Identifier: GPL-2.0-or-later
"""Two QEMU guests of one image, joined by the relay (bench/relay.py): a path's transfers between two kernels of theirs.

A kernel other than the machine's own is measured this way, on the same path with the same seeds.  The guests boot once;
each transfer has new connections, a new path and nothing of an earlier one in flight.  What is set for the comparison:

* the buffers of ``SYSCTLS``, no metrics of earlier connections, the congestion control by its sysctl;
* permanent neighbours and no IPv6, so that nothing but TCP is on the wire;
* no GRO: neither the stacks in virtual time nor a TUN device merge what arrives, and the relay, which gives a
  millisecond's packets at once, would make it happen more than a real path does.

The time is the relay's, from the first byte that the receiver is given to the FIN by which it says that it has read the
last one: a guest under TCG takes milliseconds to start a program, and none of that counts.  What does count, and is not
in the relay's ``late``, is that its kernel takes 0.7 ms to answer a packet (median, measured with TCG).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import images
from bench.__main__ import vm
from bench.relay import SYSCTLS, Measured, Relay, Stopwatch, Stream, say
from bench.transfer import PORT, RECEIVER, SENDER, Scenario
from guest.vm import args
from guest.vm.args import Vm
from guest.vm.machine import ATTEMPTS, Guest, boot
from guest.vm.rundir import RunDir

MACS: Final = {SENDER: "52:54:00:00:00:01", RECEIVER: "52:54:00:00:00:02"}
TRANSFER_S: Final = 300
MARGIN_S: Final = 20
COUNTERS: Final = ("TcpRetransSegs", "TcpExtTCPTimeouts", "TcpExtTCPLossProbes", "TcpExtTCPFastRetrans")


@dataclass
class End:
    """A guest with the relay's end of its card."""

    guest: Guest
    wire: Stream

    @property
    def pid(self) -> int:
        return self.guest.machine.pid


@dataclass
class Pair:
    """The guest that sends and the one that receives; ``release`` is their kernel's."""

    sender: End
    receiver: End
    release: str

    def run(self, scenario: Scenario) -> Measured:
        """The scenario between them.  The talk with the guests is a thread's, which waits all the time."""
        for end in (self.sender, self.receiver):
            end.wire.drain()
        watch = Stopwatch(self.receiver.wire)
        relay = Relay(self.sender.wire, watch, scenario)
        with ahead_of_others(self.sender.pid, self.receiver.pid, os.getpid()), ThreadPoolExecutor(1) as pool:
            talk = pool.submit(self.transfer, scenario)
            relay.run_until(talk.done)
            counted = talk.result()
        measured = Measured(scenario.nbytes * 8 / watch.seconds() / 1e6, relay.late_ms())
        told = f"{measured.goodput:.2f} Mbit/s, late {measured.late_ms:.1f} ms, {counted}"
        say(f"Linux {self.release}, {scenario.control}, seed {scenario.seed}: {told}")
        return measured

    def transfer(self, scenario: Scenario) -> str:
        """One connection, until both ends have forgotten it; the sender's counters."""
        sender, receiver = self.sender.guest, self.receiver.guest
        sender.check(f"echo {scenario.control} >/proc/sys/net/ipv4/tcp_congestion_control; nstat -n")
        job = receiver.shell.background(f"nc -d -l {PORT} | wc -c")
        receiver.check(f"until ss -Hltn | grep -q :{PORT}; do sleep 0.1; done")
        command = f"vnicbench up {RECEIVER} {PORT} -b {scenario.nbytes} -t {TRANSFER_S}"
        sender.check(command, TRANSFER_S + MARGIN_S)
        taken = int(job.wait(MARGIN_S).check().out)
        assert taken == scenario.nbytes, f"{taken} of {scenario.nbytes} bytes arrived"
        # The receiver's FIN stays until it is acknowledged, and that ACK may be lost a few times.
        receiver.check("while ss -Htn | grep -q .; do sleep 0.2; done", MARGIN_S)
        return ", ".join(f"{k} {v}" for k, v in counters(sender.check("nstat -z")).items())


def counters(nstat: str) -> dict[str, int]:
    """Those of COUNTERS in nstat's output."""
    found = dict(re.findall(r"^(\w+)\s+(\d+)", nstat, re.MULTILINE))
    return {name: int(found[name]) for name in COUNTERS}


@contextlib.contextmanager
def ahead_of_others(*pids: int) -> Iterator[None]:
    """What these processes have to do is done at once (SCHED_RR), whatever else the machine is busy with.

    They do little, but a guest that is served late has a longer round trip: measured on two busy cores, the sender's
    smoothed one was 60 ms, with this 55, where a stack in virtual time has 53.5 (delayed ACKs are in all of them).

    QEMU's worker threads come and go: one may have ended since it was listed, and the others have their turn still."""
    tasks = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    try:
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(task, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        say("no CAP_SYS_NICE: other processes delay the guests, which makes them slower than their kernel is")
    try:
        yield
    finally:
        for task in tasks:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def pair(image_name: str) -> Iterator[Pair]:
    """Two guests of that image with a card each; they end with the block."""
    plan = vm(images.ensure(image_name, say), "microvm")
    with contextlib.ExitStack() as cleanup:
        sender = cleanup.enter_context(_end(plan, SENDER, RECEIVER))
        receiver = cleanup.enter_context(_end(plan, RECEIVER, SENDER))
        yield Pair(sender, receiver, sender.guest.check("uname -r").strip())


@contextlib.contextmanager
def _end(plan: Vm, own: str, other: str) -> Iterator[End]:
    with RunDir.create() as rundir, socket.socket(socket.AF_UNIX) as listener:
        path = rundir.socket_path("nic.sock")
        listener.bind(str(path))
        listener.listen(ATTEMPTS)
        guest = boot(replace(plan, nics=(args.Stream(path=path, mac=MACS[own]),)), rundir)
        with contextlib.closing(guest), newest(listener) as sock:
            for command in commands(own, other):
                guest.check(command)
            yield End(guest, Stream(sock))


def newest(listener: socket.socket) -> socket.socket:
    """The connection of the QEMU that runs; those before it were of guests that said nothing and were ended."""
    listener.setblocking(False)
    found, _ = listener.accept()
    with contextlib.suppress(BlockingIOError):
        while True:
            later, _ = listener.accept()
            found.close()
            found = later
    found.setblocking(True)
    return found


def commands(own: str, other: str) -> list[str]:
    """What makes a guest ready: see the head of the file."""
    return [
        "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6",
        f"ip addr flush dev eth0; ip addr add {own}/24 dev eth0; ip link set eth0 up txqueuelen 10000",
        f"ip neigh replace {other} lladdr {MACS[other]} dev eth0 nud permanent",
        "ethtool -K eth0 gro off",
        "modprobe tcp_bbr",
        *(f"echo '{value}' >/proc/sys/net/ipv4/{name}" for name, value in SYSCTLS.items()),
    ]
