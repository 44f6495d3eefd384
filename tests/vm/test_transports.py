# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's other netdevs, several guests on one segment, and a TAP: each with real guests."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from netns import Namespace, bridge, why_no_tap

from guest.vm.args import Dgram, Nic, Socket, Stream, Tap, VhostUser, Vm
from guest.vm.machine import Guest
from guest.vm.machine import boot as boot_vm
from guest.vm.rundir import RunDir
from vnic.cli.backend import Backend

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
QUIET = ("vnic.quiet", "vnic.plain")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
SIZE = 16 << 20
_NO_TAP = why_no_tap()


def fetch(guest: Guest) -> None:
    """A new connection that carries data both ways."""
    assert "ESTABLISHED" in guest.check(f"curl -sS --max-time 30 http://{SERVER}/", 40)


def transfer(guest: Guest, size: int) -> None:
    """So many bytes down and up again, unchanged."""
    guest.check(f"curl -sS -D /tmp/headers -o /tmp/body http://{SERVER}/bytes/{size}", 60)
    digest = guest.check("sha256sum /tmp/body", 30).split()[0]
    assert digest in guest.check("cat /tmp/headers")
    answer = guest.check(f"curl -sS -T /tmp/body http://{SERVER}/upload", 60)
    assert digest in answer
    assert str(size) in answer


def address_of(guest: Guest) -> str:
    found = re.search(r"inet (10\.0\.2\.\d+)/24", guest.check("ip -4 addr show eth0"))
    assert found
    return found.group(1)


def free_ports(number: int) -> list[int]:
    """Of loopback, for TCP and UDP; somebody else could take them, but hardly does."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def test_dgram_guest_transfers_both_ways_and_has_a_network_after_a_reboot(backends: Any, boot: Boot) -> None:
    guest = boot(nic=backends.start("dgram"), append=QUIET, reboot=True)
    transfer(guest, SIZE)
    guest.reboot()
    assert guest.ready["dhcp"] == "ok"
    fetch(guest)


def test_back_end_connects_to_a_qemu_that_listens_and_again_after_it_was_killed(
    backends: Any, boot: Boot
) -> None:
    """QEMU 7.2 has no reconnect for its stream netdev; as the listener it needs none."""
    guest = boot(nic=backends.start("stream-to"), append=QUIET)
    transfer(guest, SIZE)
    backends.kill(signal.SIGKILL)
    backends.start("stream-to")
    guest.check(f"for i in $(seq 20); do ping -c 1 -W 1 {SERVER} >/dev/null && break; done", 60)
    fetch(guest)


def test_every_netdev_of_one_guest_reaches_the_stack(backends: Any, vm_of: Callable[..., Vm]) -> None:
    """One guest with a card for each, used in turn; one back end that is all their peers at once."""
    tcp, connect, udp, near, group = free_ports(5)
    multicast = f"239.255.77.2:{group}"
    places: list[tuple[str, str, Nic]] = [
        ("--stream-to", str(backends.path("q.sock")), Stream(path=backends.path("q.sock"), listens=True)),
        (
            "--dgram",
            f"{backends.path('d.sock')},{backends.path('g.sock')}",
            Dgram(path=backends.path("d.sock"), local=backends.path("g.sock")),
        ),
        ("--socket", f"listen=127.0.0.1:{tcp}", Socket(options=f"listen=127.0.0.1:{tcp}")),
        ("--socket", f"connect=127.0.0.1:{connect}", Socket(options=f"connect=127.0.0.1:{connect}")),
        (
            "--socket",
            f"udp=127.0.0.1:{udp},localaddr=127.0.0.1:{near}",
            Socket(options=f"udp=127.0.0.1:{udp},localaddr=127.0.0.1:{near}"),
        ),
        ("--socket", f"mcast={multicast}", Socket(options=f"mcast={multicast},localaddr=127.0.0.1")),
    ]
    backends.serve(*(word for option, text, _ in places for word in (option, text)))
    vm = vm_of(nics=tuple(nic for _, _, nic in places), append=(*QUIET, "vnic.nodhcp"))
    with boot_vm(vm, None, None, progress=print) as guest:
        guest.check("ip link set eth0 down")
        for index in range(len(places)):
            card = f"eth{index}"
            guest.check(f"ip link set {card} up && ip addr add 10.0.2.{100 + index}/24 dev {card}")
            guest.check(f"ping -c 1 -W 5 {SERVER}", 20)
            guest.check(f"curl -sS -D /tmp/h -o /tmp/b --max-time 30 http://{SERVER}/bytes/1000000", 40)
            assert guest.check("sha256sum /tmp/b").split()[0] in guest.check("cat /tmp/h"), places[index]
            guest.check(f"ip addr flush dev {card} && ip link set {card} down")


def test_two_guests_of_one_segment_reach_each_other_and_the_stack(
    backends: Any, vm_of: Callable[..., Vm], artifacts: Path
) -> None:
    paths = backends.path("net0.sock"), backends.path("net1.sock")
    backends.serve("--vhost-user", str(paths[0]), "--stream", str(paths[1]))
    cards = (VhostUser(path=paths[0], mac=MACS[0]), Stream(path=paths[1], mac=MACS[1]))
    with (
        boot_vm(vm_of(nics=cards[:1], append=QUIET), None, artifacts / "a", progress=print) as first,
        boot_vm(vm_of(nics=cards[1:], append=QUIET), None, artifacts / "b", progress=print) as second,
    ):
        addresses = address_of(first), address_of(second)
        assert addresses[0] != addresses[1]
        for guest, other in ((first, addresses[1]), (second, addresses[0])):
            assert "3 packets received" in guest.check(f"ping -c 3 -i 0.2 -W 5 {other}", 20)
            fetch(guest)
        assert MACS[1] in first.check(f"ip neigh show {addresses[1]}")
        # With its offloads on, the first sends 64 KB segments, which the second's wire cannot carry.
        first.check("head -c 4000000 /dev/urandom >/tmp/sent")
        receiving = second.shell.background("nc -l 5000 >/tmp/came")
        second.check(
            "for i in $(seq 100); do ss -Htln 'sport = :5000' | grep -q . && break; sleep 0.05; done"
        )
        first.check(f"nc -N {addresses[1]} 5000 </tmp/sent", 30)
        second.check(
            "for i in $(seq 100); do [ $(stat -c %s /tmp/came) = 4000000 ] && break; sleep 0.1; done", 30
        )
        receiving.kill("KILL")
        assert first.check("sha256sum </tmp/sent") == second.check("sha256sum </tmp/came")


# -- in a network namespace of the test's own -----------------------------------------------------------------------


@pytest.fixture
def private() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


@pytest.mark.root
@pytest.mark.skipif(bool(_NO_TAP), reason=f"no TAP here: {_NO_TAP}")
@pytest.mark.parametrize("how", ["", ",vnet"])
def test_tap_bridged_to_the_tap_of_a_guest(
    private: Namespace, vm_of: Callable[..., Vm], artifacts: Path, rundir: RunDir, how: str
) -> None:
    """Both processes live in the namespace, where they find each other's interface on a bridge."""
    backend = private.call(lambda: Backend(["--tap", f"tap0{how}"], rundir))
    with backend:
        backend.await_ready()
        vm = vm_of(nics=(Tap(ifname="tap0-guest"),), append=(*QUIET, "vnic.nodhcp"))
        guest = private.call(lambda: boot_vm(vm, rundir, artifacts, progress=print), 120)
        try:
            private.call(lambda: bridge("tap0", "tap0-guest"))
            guest.check("ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0")
            guest.check(f"for i in $(seq 20); do ping -c 1 -W 1 {SERVER} >/dev/null && break; done", 60)
            transfer(guest, SIZE)
        finally:
            guest.close()
