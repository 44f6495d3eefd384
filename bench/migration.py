# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench.migration``: a guest moves to another QEMU and back end in the middle of a download; what it costs.

Two runs for each layout of rings, one of a guest that only waits and one of a guest that downloads, tell what the
device's writing adds: pages of 4 KiB that QEMU sent (zero pages aside), rounds over the memory, the time for which the
guest was stopped, as QEMU says it, and the longest pause between two data segments of the download, as the captures of
both back ends have it. Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import images
from bench.__main__ import ADDRESS, environment, vm
from guest.vm.args import VhostUser, Vm
from guest.vm.machine import Guest, boot, incoming
from guest.vm.rundir import RunDir
from vnic.cli.backend import Backend
from vnic.pcapng import read_all

MIB = 1 << 20
PREPARE = (
    f"ip addr add {ADDRESS.rsplit('.', 1)[0]}.77/24 dev eth0; ip link set eth0 up; ping -c 1 -W 5 {ADDRESS}"
)
TCP_DATA = 200  # bytes of a frame that has more than headers in it


@dataclass(frozen=True)
class Move:
    """What one migration was like."""

    pages: int
    rounds: int
    total_ms: int
    stopped_ms: int
    pause_ms: float

    def row(self, name: str) -> str:
        pause = f"{self.pause_ms:.0f}" if self.pause_ms else "-"
        return f"| {name} | {self.pages} | {self.rounds} | {self.total_ms} | {self.stopped_ms} | {pause} |"


@contextlib.contextmanager
def served(rundir: RunDir, *options: str) -> Iterator[VhostUser]:
    """A back end with a capture; the card for it."""
    path = rundir.socket_path("nic.sock")
    arguments = ["--vhost-user", str(path), "--control", "none", "--pcap", str(pcap(rundir)), *options]
    with Backend(arguments, rundir) as backend:
        backend.await_ready()
        yield VhostUser(path=path)


def pcap(rundir: RunDir) -> Path:
    return rundir.path / "net.pcapng"


def longest_pause(*captures: Path) -> float:
    """Milliseconds between two data segments of the server's port 80."""
    times = sorted(
        packet.stamp_ns
        for path in captures
        for packet in read_all(path)
        if len(packet.frame) > TCP_DATA
        and packet.frame[12:14] == b"\x08\x00"
        and packet.frame[34:36] == b"\0\x50"
    )
    return max((after - before for before, after in pairwise(times)), default=0) / 1e6


def move(plan: Vm, packed: bool, size: int) -> Move:
    """One guest, which downloads so many bytes meanwhile."""
    with RunDir.create() as here, RunDir.create() as there:
        socket = str(here.socket_path("move.sock"))
        with (
            served(here, "--hand-over", socket) as nic,
            served(there, "--take-over", socket) as target,
            boot(replace(plan, nics=(replace(nic, packed=packed),)), here) as guest,
        ):
            guest.check(PREPARE)
            with incoming(
                replace(guest.machine.vm, nics=(replace(target, packed=packed),)), there
            ) as machine:
                if size:
                    _download(guest, size)
                moved = guest.migrate_to(machine)
                if size:
                    _finish(moved, size)
                info = guest.monitor.execute("query-migrate")
        ram = info["ram"]
        pause = longest_pause(pcap(here), pcap(there)) if size else 0.0
        return Move(ram["normal"], ram["dirty-sync-count"], info["total-time"], info["downtime"], pause)


def _download(guest: Guest, size: int) -> None:
    """Begin it, as fast as it goes; it is thrown away in the guest."""
    url = f"http://{ADDRESS}/bytes/{size}"
    guest.shell.background(f"curl -sS {url} | wc -c > /tmp/counted; echo done > /tmp/done")
    guest.check("sleep 0.3")


def _finish(guest: Guest, size: int) -> None:
    guest.check("until [ -e /tmp/done ]; do sleep 0.1; done", 120)
    came = int(guest.check("cat /tmp/counted"))
    if came != size:
        raise SystemExit(f"of the download's {size} bytes {came} came through")


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.migration", description=__doc__)
    parser.add_argument("--machine", choices=("microvm", "q35"), default="microvm")
    parser.add_argument("--mib", type=int, default=256, help="of the download")
    args = parser.parse_args(argv)
    plan = vm(images.ensure(images.DEFAULT), args.machine)
    print(f"{environment(args.machine, plan.accel)}, {plan.memory_mib} MiB of memory\n")
    print("| guest | pages sent | rounds | ms in all | ms stopped | longest pause of the download, ms |")
    print("|---|---|---|---|---|---|")
    for packed in (False, True):
        for size in (0, args.mib * MIB):
            what = "downloads" if size else "waits"
            print(move(plan, packed, size).row(f"{'packed' if packed else 'split'}, {what}"), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
