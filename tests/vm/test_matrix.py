# SPDX-License-Identifier: GPL-2.0-or-later
"""Every combination of transport, machine, dialect, layout of rings and number of queue pairs, each with a guest.

tests/helpers/vmmatrix.py lists them, and says why those that are not run cannot be. A run proves something only if the
combination was in effect, so that is asked for first, of the guest, of QEMU and of the back end.

A TAP combination lives in a network namespace of the test: the guest's interface and the back end's are on a bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from netns import Namespace, bridge, make_tap, why_no_tap
from vmmatrix import POSSIBLE, REDUCED, Combination

from devmodel.virtio import features as vf
from guest.vm.args import Tap, Vm
from guest.vm.machine import Guest
from guest.vm.machine import boot as boot_vm
from guest.vm.rundir import RunDir
from vnic.cli.backend import Backend
from vnic.control import Client

SERVER = "10.0.2.2"
SIZE = 16 << 20
FEW = 100_000
QUIET = ("vnic.quiet", "vnic.plain")
_NO_TAP = why_no_tap()


@dataclass
class Bench:
    """A guest of one combination, and the control socket of what is behind it."""

    guest: Guest
    control: Path

    def negotiation(self) -> dict[str, Any]:
        with Client(self.control) as back_end:
            answer: dict[str, Any] = back_end.ask("negotiation")
            return answer


MakeBench = Callable[[Combination], Any]


@pytest.fixture
def bench(
    request: pytest.FixtureRequest, vm_of: Callable[..., Vm], rundir: RunDir, artifacts: Path
) -> MakeBench:
    def settings(one: Combination) -> dict[str, Any]:
        return {"machine": one.machine, "smp": one.pairs, "reboot": True, "append": QUIET}

    def properties(one: Combination) -> dict[str, Any]:
        queues = {"queues": one.pairs} if one.pairs > 1 else {}
        return {"dialect": one.dialect, "packed": one.ring == "packed", **queues}

    @contextmanager
    def on_a_socket(one: Combination) -> Iterator[Bench]:
        control = rundir.path / "control.sock"
        nic = request.getfixturevalue("backends").start(one.transport, "--control", str(control))
        vm = vm_of(nics=(replace(nic, **properties(one)),), **settings(one))
        with boot_vm(vm, rundir, artifacts, progress=print) as guest:
            yield Bench(guest, control)

    @contextmanager
    def on_a_tap(one: Combination) -> Iterator[Bench]:
        if _NO_TAP:
            pytest.skip(f"no TAP here: {_NO_TAP}")
        control = rundir.path / "control.sock"
        words = ["--tap", "tap0,vnet", "--control", str(control)]
        with Namespace() as private, private.call(lambda: Backend(words, rundir)) as back_end:
            back_end.await_ready()
            private.call(lambda: make_tap("tap0-guest", one.pairs > 1))
            private.call(lambda: bridge("tap0", "tap0-guest"))
            vm = vm_of(nics=(Tap(ifname="tap0-guest", **properties(one)),), **settings(one))
            guest = private.call(lambda: boot_vm(vm, rundir, artifacts, progress=print), 120)
            try:
                yield Bench(guest, control)
            finally:
                guest.close()

    return lambda one: on_a_tap(one) if one.transport == "tap" else on_a_socket(one)


# -- whether it is what it should be --------------------------------------------------------------------------------


def check_guest(guest: Guest, one: Combination) -> None:
    """What the guest's driver acknowledged, and the queues that it uses (virtio 1.2, section 6)."""
    bits = guest.check("cat /sys/bus/virtio/devices/virtio0/features").strip()
    has = {bit for bit, digit in enumerate(bits) if digit == "1"}
    assert (vf.VIRTIO_F_VERSION_1 in has) == (one.dialect == "modern")
    assert (vf.VIRTIO_F_RING_PACKED in has) == (one.ring == "packed")
    assert (vf.VIRTIO_NET_F_MQ in has) == (one.pairs > 1)
    for way in ("rx", "tx"):
        queues = guest.check(f"ls -d /sys/class/net/eth0/queues/{way}-*").split()
        assert len(queues) == one.pairs
    bus = guest.check("readlink -f /sys/bus/virtio/devices/virtio0")
    assert ("/pci" in bus) == (one.machine == "q35"), bus


def check_qemu(guest: Guest, one: Combination) -> None:
    """What QEMU's device says, and which of its rings were set up.

    Of a vhost-user card's rings it is not asked: QEMU 7.2 answers x-query-virtio-queue-status with what GET_VRING_BASE
    tells, and that message stops the ring.
    """
    (card,) = (each for each in guest.monitor.execute("x-query-virtio") if each["name"] == "virtio-net")
    status = guest.monitor.execute("x-query-virtio-status", {"path": card["path"]})
    taken = " ".join(status["guest-features"]["transports"])
    assert ("VIRTIO_F_VERSION_1" in taken) == (one.dialect == "modern")
    assert ("VIRTIO_F_RING_PACKED" in taken) == (one.ring == "packed")
    assert ("vhost-dev" in status) == (one.transport == "vhost-user")
    if one.transport == "vhost-user":
        return
    for ring in range(2 * one.pairs):
        about = guest.monitor.execute("x-query-virtio-queue-status", {"path": card["path"], "queue": ring})
        assert about["vring-desc"] != 0, f"ring {ring} was not set up"


def check_back_end(bench: Bench, one: Combination) -> None:
    """What the device has: with vhost-user the rings are its own."""
    told = bench.negotiation()
    assert told["transport"] == one.transport
    if one.transport != "vhost-user":
        return
    taken = {feature["name"] for feature in told["features"] if feature["acknowledged"]}
    assert ("VIRTIO_F_VERSION_1" in taken) == (one.dialect == "modern")
    assert ("VIRTIO_F_RING_PACKED" in taken) == (one.ring == "packed")
    running = [ring["index"] for ring in told["rings"] if ring["running"]]
    assert running == list(range(2 * one.pairs))


def check(bench: Bench, one: Combination) -> None:
    check_guest(bench.guest, one)
    check_qemu(bench.guest, one)
    check_back_end(bench, one)


# -- what it is for -------------------------------------------------------------------------------------------------


def transfer(guest: Guest, size: int, flows: int) -> None:
    """So many bytes down and up again over so many connections at once, unchanged."""
    each = size // flows
    for flow in range(flows):
        fetch = f"curl -sS -D /tmp/h{flow} -o /tmp/b{flow} http://{SERVER}/bytes/{each}"
        send = f"curl -sS -T /tmp/b{flow} http://{SERVER}/upload >/tmp/u{flow}"
        guest.check(f"(({fetch}) && ({send}); echo >/tmp/d{flow}) >/dev/null 2>&1 &")
    guest.check(
        f"for i in $(seq 600); do [ $(ls /tmp/d? 2>/dev/null | wc -l) = {flows} ] && exit; sleep 0.1; done",
        90,
    )
    for flow in range(flows):
        digest = guest.check(f"sha256sum /tmp/b{flow}", 60).split()[0]
        assert digest in guest.check(f"cat /tmp/h{flow}")
        answer = guest.check(f"cat /tmp/u{flow}")
        assert digest in answer
        assert str(each) in answer
    guest.check("rm -f /tmp/[hbud]?")


def steered(bench: Bench) -> list[int]:
    return [ring["steered"] for ring in bench.negotiation()["rings"] if "steered" in ring]


@pytest.mark.parametrize(
    "one",
    [pytest.param(one, id=str(one), marks=() if one in REDUCED else pytest.mark.heavy) for one in POSSIBLE],
)
def test_guest_connects_transfers_both_ways_and_does_so_again_after_a_reboot(
    one: Combination, bench: MakeBench
) -> None:
    with bench(one) as made:
        guest = made.guest
        assert guest.ready["dhcp"] == "ok"
        check(made, one)
        transfer(guest, SIZE, one.pairs)
        if one.transport == "vhost-user" and one.pairs > 1:
            assert sum(count > 0 for count in steered(made)) >= 2
        guest.reboot()
        assert guest.ready["dhcp"] == "ok"
        check(made, one)
        transfer(guest, FEW, 1)
