# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench``: vnic over vhost-user and over stream against QEMU's user networking, in one guest.

One guest has three cards, one of each kind, each with a network of its own.  A round measures every figure on every
card, one after the other in an order that changes from round to round; ratios are formed inside a round
(bench/stats.py).  Every back end serves the same application code (bench/apps.py): vnic's on vnic's stack, QEMU's user
networking leads to the same asyncio protocols on the machine's own TCP.  Prints the table as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import images
from bench.apps import BASE_PORT
from bench.stats import Round, table
from guest.vm import probe
from guest.vm.args import Stream, User, VhostUser, Vm
from guest.vm.machine import Guest, boot
from guest.vm.rundir import RunDir

READY_S = 30.0
COMMAND_S = 120.0
OURS = ["vhost-user", "stream"]
PEER = "user"
MIB = 1 << 20


@dataclass(frozen=True)
class Figure:
    """How the guest's client measures one row: its arguments before address and port, the port, the key to read."""

    name: str
    mode: str
    port: int
    options: str
    key: str

    def command(self, address: str) -> str:
        return f"vnicbench {self.mode} {address} {BASE_PORT + self.port} {self.options}"


def figures(seconds: float, bulk: int) -> list[Figure]:
    """The five rows: connections and round trips for ``seconds``, transfers of ``bulk`` bytes."""
    timed = f"-t {seconds:g}"
    moved = f"-t 60 -b {bulk}"
    return [
        Figure("conn/s", "conn", 0, timed, "per_second"),
        Figure("x16", "conn", 0, f"{timed} -n 16", "per_second"),
        Figure("ping-pong", "rr", 1, timed, "per_second"),
        Figure("up", "up", 2, moved, "mb_per_second"),
        Figure("down", "down", 3, moved, "mb_per_second"),
    ]


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[None]:
    """A bench.server that listens; it ends when the block is left."""
    argv = [sys.executable, "-m", "bench.server", *arguments]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        line = child.stdout.readline()
        if line.strip() != "ready":
            raise SystemExit(f"{' '.join(argv)} did not start: it said {line!r} (its errors are above)")
        try:
            yield
        finally:
            child.stdin.close()
            try:
                child.wait(READY_S)
            except subprocess.TimeoutExpired:
                child.kill()


ADDRESSES = {"vhost-user": "10.0.2.2", "stream": "10.1.2.2", "user": "10.2.2.2"}


def set_up(guest: Guest) -> None:
    """An address on each card; eth0, eth1, eth2 are in the order of the command line."""
    for index, gateway in enumerate(ADDRESSES.values()):
        own = gateway.rsplit(".", 1)[0] + ".77/24"
        guest.check(
            f"ip addr flush dev eth{index}; ip addr add {own} dev eth{index}; ip link set eth{index} up"
        )


def by_gateway(guest: Guest) -> None:
    """Which card is which is read from the guest, never assumed: each gateway has to answer on its own card."""
    for gateway in ADDRESSES.values():
        guest.check(f"ping -c 1 -W 5 {gateway}")


def measure(guest: Guest, figure: Figure, backend: str) -> float:
    """One figure on one card; a client that reports a failure ends the bench."""
    result = guest.run(figure.command(ADDRESSES[backend]), COMMAND_S)
    fields = dict(word.split("=", 1) for word in result.out.split() if "=" in word)
    if result.code or figure.key not in fields:
        raise SystemExit(f"{figure.command(ADDRESSES[backend])} failed: {result.out}{result.err}")
    value = float(fields[figure.key])
    return 1e6 / value if figure.name == "ping-pong" else value


def run_rounds(guest: Guest, rounds: int, rows: list[Figure]) -> list[Round]:
    """``rounds`` rounds after one that is not counted."""
    order = [*OURS, PEER]
    done: list[Round] = []
    for number in range(rounds + 1):
        order = order[1:] + order[:1]
        one: Round = {(f.name, b): measure(guest, f, b) for f in rows for b in order}
        if number:
            done.append(one)
        words = (f"{f.name} " + "/".join(f"{one[f.name, b]:.4g}" for b in [*OURS, PEER]) for f in rows)
        print(f"round {number or 'not counted'}: {', '.join(words)}", file=sys.stderr, flush=True)
    return done


def vm(image: images.Image, rundir: RunDir, machine: str) -> Vm:
    """The guest with its three cards."""
    qemu = probe.ask_qemu(probe.find_qemu())
    accel, said = probe.choose_accel("auto", probe.probe_kvm(qemu))
    print(said, file=sys.stderr)
    return Vm(
        kernel=image.kernel,
        initramfs=image.initramfs,
        nics=(
            VhostUser(path=rundir.socket_path("vu.sock")),
            Stream(path=rundir.socket_path("st.sock")),
            User(options=("net=10.2.2.0/24", "host=10.2.2.2")),
        ),
        machine="q35" if machine == "q35" else "microvm",
        accel=accel,
        append=("vnic.nodhcp", "vnic.quiet", "vnic.plain"),
        tsc_khz=probe.tsc_khz() if accel == "tcg" else None,
        qemu=qemu.path,
        qemu_version=qemu.version,
    )


def environment(machine: str, accel: str) -> str:
    """What was measured on, without naming the machine."""
    return f"{machine}, {accel}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each timed figure")
    parser.add_argument("--mib", type=int, default=64, help="for each transfer")
    parser.add_argument("--machine", choices=["microvm", "q35"], default="microvm")
    parser.add_argument("--image", default=images.DEFAULT)
    parser.add_argument("--json", type=Path, help="write all rounds there")
    options = parser.parse_args(argv)
    image = images.ensure(options.image, lambda line: print(line, file=sys.stderr))
    rows = figures(options.seconds, options.mib * MIB)
    with RunDir.create() as rundir, contextlib.ExitStack() as cleanup:
        for kind, name in (("vhost-user", "vu.sock"), ("stream", "st.sock")):
            cleanup.enter_context(server(kind, str(rundir.socket_path(name)), f"{ADDRESSES[kind]}/24"))
        cleanup.enter_context(server("host", "127.0.0.1"))
        machine = vm(image, rundir, options.machine)
        guest = boot(machine, rundir, progress=lambda line: print(line, file=sys.stderr))
        with contextlib.closing(guest):
            set_up(guest)
            by_gateway(guest)
            rounds = run_rounds(guest, options.rounds, rows)
    print(f"{environment(machine.machine, machine.accel)}; medians of {len(rounds)} rounds\n")
    print(table(rounds, OURS, PEER))
    if options.json:
        options.json.write_text(
            json.dumps([{"/".join(k): v for k, v in r.items()} for r in rounds], indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
