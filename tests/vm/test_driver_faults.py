# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/driver-faults.md row by row: what Linux's virtio_net does with a device that breaks the rules.

One guest for all rows of a layout: a row leaves a network that works.  Each row that hangs its guest has one of its
own, and all of these but one are heavy."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from line import Line

from guest.vm.args import VhostUser, Vm
from guest.vm.errors import GuestTimeout
from guest.vm.machine import boot as boot_vm
from guest.vm.rundir import RunDir
from vnic.options import Options

pytestmark = pytest.mark.xdist_group("driver-faults")

TABLE = Path(__file__).parents[2] / "docs/driver-faults.md"
SERVER, GUEST = "10.0.2.2", "10.0.2.15"
HANGS_S = 3.0
"""A guest that has not answered by then, where it takes a tenth of a second, is taken for hung."""
COUNTERS = "rx_length_errors", "rx_frame_errors", "tx_fifo_errors"
HEAVY = {
    "split-rx:stuck:at=1",
    "split-rx:wrong-head:at=1",
    "split-rx:wrong-length:at=1,to=0",
    "split-rx:header:at=1,num_buffers=3",
    "split-rx:header:at=1,gso_type=77,gso_size=100",
    "split-tx:wrong-head:at=1",
    "split-tx:duplicate-used:at=1",
    "packed-rx:bad-head:at=1",
    "packed-tx:bad-head:at=1",
}
"""Rows that say again of another fault what one that always runs says of its own."""
DRIVER = "/sys/bus/virtio/drivers/virtio_net"

# One ping, short of its deadline by a factor of ten on a slow host; the address stays known, or ARP's frames would
# take the faults.
HELPERS = f"""
p() {{ ping -c 1 -W 1 {SERVER} > /dev/null 2>&1 && echo alive || echo dead; }}
up() {{
  sysctl -q net.ipv6.conf.eth0.disable_ipv6=1
  ip link set eth0 up
  ip addr replace {GUEST}/24 dev eth0
  ip neigh replace {SERVER} lladdr 52:55:0a:00:02:02 nud permanent dev eth0
}}
updown() {{ ip link set eth0 down; up; }}
rebind() {{ echo virtio0 > {DRIVER}/unbind; echo virtio0 > {DRIVER}/bind; up; }}
counters() {{ cd /sys/class/net/eth0/statistics; for c in {" ".join(COUNTERS)}; do echo $c $(cat $c); done; }}
"""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    fault: str
    rings: str
    says: str
    counter: str
    network: str

    @property
    def name(self) -> str:
        return f"{self.rings}-{self.fault}"


def rows() -> list[Row]:
    lines = [line for line in TABLE.read_text("utf-8").splitlines() if re.match(r"\| `[rt]x", line)]
    return [Row(*(cell.strip().strip("`") for cell in line.strip("|").split("|"))) for line in lines]


def of(rings: str, *networks: str) -> list[Any]:
    found = [row for row in rows() if row.rings == rings and row.network in networks]
    return [pytest.param(row, id=row.name, marks=[pytest.mark.heavy] * (row.name in HEAVY)) for row in found]


class Bench:
    """A guest with a device that can be made to misbehave."""

    def __init__(self, line: Line, folder: Path) -> None:
        self.line, self.folder = line, folder
        self.guest = line.guest
        self.quiet()

    def quiet(self) -> None:
        """No frames but the test's own: neither side asks for the other's address any more."""

        def never_probe() -> None:
            self.line.stack.arp_tbl.parms.delay_probe_time = 1 << 40

        self.line.behind.call(never_probe)
        self.guest.shell.push(HELPERS.encode(), "/tmp/helpers")
        assert self.sh("up; p; p; dmesg -c > /dev/null").split()[-1] == "alive"

    def sh(self, script: str, timeout: float = 30.0) -> str:
        return self.guest.check(f". /tmp/helpers; {script}", timeout)

    def inject(self, *script: str) -> None:
        def add() -> None:
            self.line.host.injector.clear()
            self.line.host.injector.add(list(script))

        self.line.behind.call(add)

    def heal(self) -> None:
        self.line.behind.call(self.line.host.injector.clear)

    def injected(self) -> list[int]:
        """How often each fault of the script was."""
        told = self.line.behind.call(self.line.host.injector.asdict)
        return [rule["injected"] for rule in told["vhost-user"]["rules"]]

    def until_console(self, words: str, deadline_s: float) -> None:
        until = time.monotonic() + deadline_s
        while words not in self.console():
            assert time.monotonic() < until, f"no {words!r} on the console"
            time.sleep(0.2)

    def console(self) -> str:
        return (self.folder / "console.log").read_text("utf-8", "replace")

    def counts(self) -> dict[str, int]:
        words = self.sh("counters").split()
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))


BenchBy = Callable[[bool], AbstractContextManager[Bench]]


def _bench(packed: bool, vm_of: Callable[..., Vm], folder: Path) -> Iterator[Bench]:
    with RunDir.create() as rundir:
        path = rundir.socket_path("net0.sock")
        line = Line(Options(vhost_user=str(path)))
        try:
            nic = VhostUser(path=path, packed=packed, reconnect_s=1)
            vm = vm_of(nics=(nic,), append=("vnic.quiet", "vnic.plain"))
            with boot_vm(vm, rundir, folder, progress=print) as line.guest:
                yield Bench(line, folder)
        finally:
            line.close()


@pytest.fixture(scope="module")
def split(vm_of: Callable[..., Vm], shared_artifacts: Any) -> Iterator[Bench]:
    with shared_artifacts("-split") as folder:
        yield from _bench(False, vm_of, folder)


@pytest.fixture(scope="module")
def packed(vm_of: Callable[..., Vm], shared_artifacts: Any) -> Iterator[Bench]:
    with shared_artifacts("-packed") as folder:
        yield from _bench(True, vm_of, folder)


@pytest.fixture
def fresh(vm_of: Callable[..., Vm], artifacts: Path) -> BenchBy:
    """A guest of a test's own: ``with fresh(packed) as bench``."""
    return contextmanager(lambda packed: _bench(packed, vm_of, artifacts))


def check(bench: Bench, row: Row) -> None:
    """Inject, ping twice, look at what the kernel says, and mend it."""
    assert bench.sh("[ $(p) = alive ] || rebind; p").strip() == "alive"
    before = bench.counts()
    bench.inject(row.fault)
    first, second, *said = bench.sh("p; p; dmesg -c").splitlines()
    assert sum(bench.injected()) >= 1
    bench.heal()
    grown = [name for name, value in bench.counts().items() if value > before[name]]
    network = "dead" if second == "dead" else "goes on" if first == "alive" else "frame lost"
    assert network == row.network
    assert grown == ([row.counter] if row.counter else [])
    assert [bool(re.search(row.says, line)) for line in said] == [True] * bool(row.says), said
    if row.network == "dead":
        assert bench.sh("updown; p; rebind; p; dmesg -c > /dev/null").split() == ["dead", "alive"]
    else:
        assert bench.sh("p").strip() == "alive"


def hang(bench: Bench, fault: str) -> None:
    """Inject, and see that the guest does nothing any more."""
    bench.sh("dmesg -n 8")  # what the kernel says comes on the console at once
    bench.inject(fault)
    with pytest.raises(GuestTimeout):
        bench.guest.run(f"ping -c 1 -W 1 {SERVER}; true", HANGS_S)
    assert sum(bench.injected()) == 1


@pytest.mark.parametrize("row", of("split", "dead", "frame lost", "goes on"))
def test_split_row(split: Bench, row: Row) -> None:
    check(split, row)


@pytest.mark.parametrize("row", of("packed", "dead", "frame lost", "goes on"))
def test_packed_row(packed: Bench, row: Row) -> None:
    check(packed, row)


@pytest.mark.parametrize("row", [*of("split", "hangs"), *of("packed", "hangs")])
def test_row_that_hangs_the_guest(fresh: BenchBy, row: Row) -> None:
    with fresh(row.rings == "packed") as bench:
        hang(bench, row.fault)
        assert re.search(row.says, bench.console())


@pytest.mark.heavy
def test_guest_that_hangs_is_seen_by_its_own_watchdog(fresh: BenchBy) -> None:
    with fresh(False) as bench:
        hang(bench, "tx:wrong-head:at=1")
        bench.until_console("soft lockup - CPU#0 stuck for", 60.0)


def test_what_is_late_or_in_another_order_but_legal_loses_no_byte(split: Bench) -> None:
    split.sh("up; p")
    split.inject(
        "rx:late-used:every=5,ms=5",
        "rx:reorder-used:every=7",
        "tx:late-used:every=5,ms=5",
        "tx:reorder-used:every=7",
        "rx:late-interrupt:every=4,ms=5",
        "rx:spurious-interrupt:every=3",
    )
    fetch = f"curl -sS -D /tmp/headers -o /tmp/body http://{SERVER}/bytes/500000"
    head, digest = split.sh(f"{fetch}; grep SHA256 /tmp/headers; sha256sum /tmp/body", 60.0).splitlines()
    assert head.split()[1] == digest.split()[0]
    assert all(split.injected()), split.injected()
    split.heal()


@pytest.mark.heavy
def test_transmit_queue_that_is_stuck_is_seen_by_the_watchdog_of_the_network(split: Bench) -> None:
    # A socket waits for its buffers to come back: many are needed to fill a queue of 1024, 41 fragments a ping.
    split.inject("tx:stuck:at=20")
    pings = f"for i in $(seq 24); do ping -s 60000 -c 3 -W 1 {SERVER} > /dev/null 2>&1 & done; wait"
    split.sh(f"up; ({pings})", 40.0)
    said = split.sh(
        "for i in $(seq 20); do dmesg | grep -q 'TX timeout' && break; sleep 1; done; dmesg -c", 40.0
    )
    split.heal()
    assert re.search(r"eth0: NETDEV WATCHDOG: CPU: 0: transmit queue 0 timed out \d+ ms", said)
    assert re.search(r"TX timeout on queue: 0, sq: output\.0", said)
    assert split.sh("p; updown; p; rebind; p").split() == ["dead", "dead", "alive"]


# -- the link ---------------------------------------------------------------------------------------------------------

CARRIER = "cat /sys/class/net/eth0/carrier"


def test_hang_up_takes_the_link_down_until_the_frontend_is_back(split: Bench) -> None:
    split.sh("up; p")
    split.inject("tx:hang-up:at=1")
    states = split.sh(
        f"p; for i in $(seq 100); do {CARRIER}; [ $(p) = alive ] && break; sleep 0.1; done; {CARRIER}"
    ).split()
    split.heal()
    assert "0" in states
    assert states[-1] == "1"
    rings = split.line.behind.call(split.line.host.negotiation)["rings"][:2]
    assert [ring["state"] for ring in rings] == ["running", "running"]


def test_link_that_qemu_takes_down_stops_the_rings(split: Bench) -> None:
    split.sh("up; p")
    for up in (False, True):
        split.guest.monitor.execute("set_link", {"name": "net0", "up": up})
        assert (
            split.sh(
                f"for i in $(seq 50); do [ $({CARRIER}) = {up:d} ] && break; sleep 0.05; done; {CARRIER}"
            ).strip()
            == f"{up:d}"
        )
        rings = split.line.behind.call(split.line.host.negotiation)["rings"][:2]
        assert {ring["state"] for ring in rings} == {"running" if up else "stopped"}
    assert split.sh("p").strip() == "alive"
