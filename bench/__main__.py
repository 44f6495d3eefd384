# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench``: vnic over vhost-user and over stream against QEMU's user networking.

Each back end has a guest of its own, all of one image, with one card: in one guest with several cards QEMU's main
loop would serve libslirp's sockets on every back end's time (measured: a third of the bulk).  A round measures every
figure on every back end, one after the other in an order that changes from round to round, while the other guests
idle; ratios are formed inside a round (bench/stats.py).  Every back end serves the same application code
(bench/apps.py): vnic's on vnic's stack, QEMU's user networking leads to the same asyncio protocols on the machine's
own TCP.  Three more on request: ``--compiled``, the stack compiled by tools/compile; ``--before DIR``, the vhost-user
back end of another checkout, to see what a change costs; and ``--ceiling``, a responder without a stack
(bench/ceiling.py), which tells what the machine, QEMU and the device allow.  ``--rings`` compares our own back end
with itself instead: packed rings with split ones, and four queue pairs with one, in guests of four processors.  Prints
the tables as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import images
from bench.apps import BASE_PORT
from bench.stats import Round, table
from guest.vm import probe
from guest.vm.args import Nic, Stream, User, VhostUser, Vm
from guest.vm.machine import Guest, boot
from guest.vm.rundir import RunDir

READY_S = 30.0
COMMAND_S = 120.0
PEER = "user"
ADDRESS = "10.0.2.2"
FIRST_BYTES = 64 << 20
HERE = Path(__file__).resolve().parents[1]
COMPILED = HERE / "build" / "compiled"
BEFORE = "before"


@dataclass(frozen=True)
class Figure:
    """How the guest's client measures one row: its arguments before address and port, the port, the key to read."""

    name: str
    mode: str
    port: int
    options: str
    key: str
    is_bulk: bool = False

    def command(self, amount: int) -> str:
        """``amount`` bytes if it is a transfer."""
        limit = f" -t 60 -b {amount}" if self.is_bulk else ""
        return f"vnicbench {self.mode} {ADDRESS} {BASE_PORT + self.port} {self.options}{limit}"


def figures(seconds: float) -> list[Figure]:
    """The five rows."""
    timed = f"-t {seconds:g}"
    return [
        Figure("conn/s", "conn", 0, timed, "per_second"),
        Figure("x16", "conn", 0, f"{timed} -n 16", "per_second"),
        Figure("ping-pong", "rr", 1, timed, "per_second"),
        Figure("up", "up", 2, "", "mb_per_second", is_bulk=True),
        Figure("down", "down", 3, "", "mb_per_second", is_bulk=True),
    ]


@dataclass(frozen=True)
class Backend:
    """One column of the table: what bench.server serves (its kind), and the guest's side of that.  Its process takes
    the project's modules from ``trees``, the first that has one; from the current one if that is empty."""

    name: str
    kind: str
    trees: tuple[Path, ...] = ()
    packed: bool = False
    queues: int = 1
    smp: int = 1

    def nic(self, path: Path) -> Nic:
        if self.kind == "host":
            return User(options=("net=10.0.2.0/24", "host=10.0.2.2"))
        if self.kind == "stream":
            return Stream(path=path)
        return VhostUser(path=path, packed=self.packed, queues=self.queues)

    def arguments(self, path: Path) -> list[str]:
        return [self.kind, "127.0.0.1"] if self.kind == "host" else [self.kind, str(path), f"{ADDRESS}/24"]

    def environment(self) -> dict[str, str]:
        if not self.trees:
            return dict(os.environ)
        return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(map(str, self.trees))}


def backends(compiled: bool, ceiling: bool, before: Path | None = None) -> list[Backend]:
    """Those to measure, the peer last."""
    ours = [Backend("vhost-user", "vhost-user"), Backend("stream", "stream")]
    if before is not None:
        if not (before / "bench" / "server.py").exists():
            raise SystemExit(f"{before} is no checkout of this project: it has no bench/server.py")
        ours.insert(1, Backend(BEFORE, "vhost-user", (before.resolve(),)))
    if compiled:
        if not (COMPILED / ".ready").exists():
            raise SystemExit(
                f"there is no compiled stack in {COMPILED}: run tools/compile, or make bench-compiled"
            )
        ours.insert(1, Backend("compiled", "vhost-user", (COMPILED, HERE)))
    if ceiling:
        ours.append(Backend("ceiling", "ceiling"))
    return [*ours, Backend(PEER, "host")]


RINGS = (
    Backend("split", "vhost-user"),
    Backend("packed", "vhost-user", packed=True),
    Backend("one pair", "vhost-user", smp=4),
    Backend("four pairs", "vhost-user", queues=4, smp=4),
)


@contextlib.contextmanager
def server(backend: Backend, path: Path) -> Iterator[None]:
    """A bench.server that listens; it ends when the block is left."""
    argv = [sys.executable, "-m", "bench.server", *backend.arguments(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=backend.environment()) as child:
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


@contextlib.contextmanager
def running(backend: Backend, plan: Vm) -> Iterator[Guest]:
    """A guest on that back end, with an address, whose gateway has answered."""
    with RunDir.create() as rundir:
        path = rundir.socket_path("nic.sock")
        with server(backend, path):
            guest = boot(replace(plan, smp=backend.smp, nics=(backend.nic(path),)), rundir)
            with contextlib.closing(guest):
                own = ADDRESS.rsplit(".", 1)[0] + ".77/24"
                guest.check(f"ip addr flush dev eth0; ip addr add {own} dev eth0; ip link set eth0 up")
                guest.check(f"ping -c 1 -W 5 {ADDRESS}")
                yield guest


def measure(guest: Guest, figure: Figure, amount: int) -> float:
    """One figure on one back end; a client that reports a failure ends the bench."""
    command = figure.command(amount)
    result = guest.run(command, COMMAND_S)
    fields = dict(word.split("=", 1) for word in result.out.split() if "=" in word)
    if result.code or figure.key not in fields:
        raise SystemExit(f"{command} failed: {result.out}{result.err}")
    value = float(fields[figure.key])
    return 1e6 / value if figure.name == "ping-pong" else value


def run_rounds(guests: dict[str, Guest], rounds: int, rows: list[Figure], seconds: float) -> list[Round]:
    """``rounds`` rounds after one that is not counted.

    Each transfer lasts about ``seconds``, as the other figures do: its bytes follow from the round before.  The same
    bytes for all would leave the fastest in the machine's first, slow moments after a pause.
    """
    order = list(guests)
    done: list[Round] = []
    one: Round = {}
    for number in range(rounds + 1):
        order = order[1:] + order[:1]
        amount = {key: int(figure * seconds) * 10**6 for key, figure in one.items()}
        for row, name in product(rows, order):
            one[row.name, name] = measure(guests[name], row, amount.get((row.name, name), FIRST_BYTES))
        if number:
            done.append(dict(one))
        words = (f"{f.name} " + "/".join(f"{one[f.name, b]:.4g}" for b in guests) for f in rows)
        print(f"round {number or 'not counted'}: {', '.join(words)}", file=sys.stderr, flush=True)
    return done


def vm(image: images.Image, machine: str) -> Vm:
    """The guest, without its card."""
    qemu = probe.ask_qemu(probe.find_qemu())
    accel, said = probe.choose_accel("auto", probe.probe_kvm(qemu))
    print(said, file=sys.stderr)
    return Vm(
        kernel=image.kernel,
        initramfs=image.initramfs,
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
    parser.add_argument("--seconds", type=float, default=1.5, help="for each figure")
    parser.add_argument("--machine", choices=["microvm", "q35"], default="microvm")
    parser.add_argument("--image", default=images.DEFAULT)
    parser.add_argument("--json", type=Path, help="write all rounds there")
    parser.add_argument("--compiled", action="store_true", help="the compiled stack too (tools/compile)")
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="another checkout's vhost-user back end too"
    )
    parser.add_argument("--ceiling", action="store_true", help="a responder without a stack too")
    parser.add_argument("--rings", action="store_true", help="packed and several rings against split and one")
    options = parser.parse_args(argv)
    if options.rings and (options.compiled or options.before or options.ceiling):
        parser.error(
            "--rings compares vnic with itself: it goes with none of --compiled, --before and --ceiling"
        )
    image = images.ensure(options.image, lambda line: print(line, file=sys.stderr))
    rows = figures(options.seconds)
    plan = vm(image, options.machine)
    columns = list(RINGS) if options.rings else backends(options.compiled, options.ceiling, options.before)
    with contextlib.ExitStack() as cleanup:
        guests = {}
        for backend in columns:
            print(f"booting a guest for {backend.name}", file=sys.stderr)
            guests[backend.name] = cleanup.enter_context(running(backend, plan))
        rounds = run_rounds(guests, options.rounds, rows, options.seconds)
    print(f"{environment(plan.machine, plan.accel)}; medians of {len(rounds)} rounds\n")
    if options.rings:
        print(table(rounds, ["packed"], "split") + "\n\n" + table(rounds, ["four pairs"], "one pair"))
    else:
        print(table(rounds, [backend.name for backend in columns[:-1]], PEER))
    if options.before:
        print("\n" + table(rounds, ["vhost-user"], BEFORE))
    if options.json:
        options.json.write_text(
            json.dumps([{"/".join(k): v for k, v in r.items()} for r in rounds], indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
