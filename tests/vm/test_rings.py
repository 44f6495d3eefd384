# SPDX-License-Identifier: GPL-2.0-or-later
"""A ring that a guest breaks by itself, and what became of the notifications of one that does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guest.vm.machine import Guest
from vnic.control import Client

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
SIZE = 8 << 20

# A driver in shell: the registers of a virtio-mmio device (virtio 1.2, section 4.2.2) in the order of section 3.1.1.
# The rings lie in the first MB of memory, which /dev/mem lets root write and Linux leaves alone.  It makes one queue's
# available index run away by 1000, which no driver does.
WILD_DRIVER = """
cd /sys/bus/platform/drivers/virtio-mmio
DEVICE=$(ls | grep ^LNRO)
BASE=$(readlink -f $DEVICE | xargs -n 1 basename | xargs -I X grep X /proc/iomem | head -n 1 | cut -d - -f 1)
echo $DEVICE > unbind
w() { busybox devmem $((0x$BASE + $1)) 32 $2; }
poke() { busybox devmem $1 16 $2; }
queue() {  # index, descriptors, available ring, used ring
  w 0x30 $1; w 0x38 16
  w 0x80 $2; w 0x84 0; w 0x90 $3; w 0x94 0; w 0xa0 $4; w 0xa4 0
  w 0x44 1
}
for at in 0x10000 0x10002 0x11000 0x11002 0x12000 0x12002 0x13000 0x13002; do poke $at 0; done
w 0x70 0; w 0x70 1; w 0x70 3
w 0x24 1; w 0x20 1; w 0x24 0; w 0x20 0; w 0x70 11
queue 0 0x14000 0x10000 0x11000
queue 1 0x15000 0x12000 0x13000
w 0x70 15
poke 0x12002 1000
w 0x50 1
"""
TAME = "echo $(basename /sys/bus/platform/devices/LNRO*) > /sys/bus/platform/drivers/virtio-mmio/bind"


def negotiated(control: Path, *options: str) -> str:
    """What ``vnic negotiate`` prints into a pipe."""
    argv = [sys.executable, "-m", "vnic", "negotiate", "--control", str(control), *options]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def rings(control: Path) -> list[dict[str, Any]]:
    with Client(control) as back_end:
        found: list[dict[str, Any]] = back_end.ask("negotiation")["rings"]
    return found


def test_ring_that_a_guest_breaks_is_told_until_its_driver_resets_the_device(
    backends: Any, boot: Boot, rundir: Any
) -> None:
    control = rundir.path / "control.sock"
    guest = boot(nic=backends.start("vhost-user", "--control", str(control)))
    guest.check(WILD_DRIVER, 60)
    told = negotiated(control)
    assert "transmitq1    16  broken       1" in told, told
    text = " ".join(told.split())
    assert "broken ring: queue 1: avail.idx 1000 is 1000 ahead of 0, the queue size is 16" in text
    assert "because: virtio 1.2, section 2.7.13.3" in text
    assert "to mend it: the driver has to reset the device" in text
    assert max(map(len, told.partition("virtio feature")[0].splitlines())) <= 80
    (_, broken) = json.loads(negotiated(control, "--json"))["rings"][:2]
    assert (broken["state"], broken["last_break"]["section"]) == ("broken", "2.7.13.3")

    guest.check(TAME)
    up = "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0"
    guest.check(f"{up}; for i in $(seq 20); do ping -c 1 -W 1 {SERVER} && exit; done; exit 1", 60)
    text = " ".join(negotiated(control).split())
    assert "was broken once" in text
    assert "ended by: VHOST_USER_GET_VRING_BASE" in text


def test_notifications_of_a_transfer_add_up(backends: Any, boot: Boot, rundir: Any) -> None:
    control = rundir.path / "control.sock"
    guest = boot(nic=backends.start("vhost-user", "--control", str(control)))
    before = {ring["index"]: ring["audit"] for ring in rings(control)}
    guest.check(f"curl -sS -o /tmp/body http://{SERVER}/bytes/{SIZE}", 60)
    guest.check(f"curl -sS -o /dev/null -T /tmp/body http://{SERVER}/upload", 60)
    for ring in rings(control):
        kicks, interrupts = ring["audit"]["kicks"], ring["audit"]["interrupts"]
        assert kicks["batches"] == (
            kicks["kicks"] - kicks["spurious"] + kicks["lost"] + kicks["at_start"] + kicks["suppressed"]
        )
        assert interrupts["shown"] + interrupts["lost"] + interrupts["settled"] + interrupts["fresh"] == (
            interrupts["needed"] + interrupts["suppressed"] + interrupts["coalesced"] + interrupts["stopped"]
        )
        assert interrupts["needed"] == interrupts["sent"] + interrupts["unsent"]
        assert interrupts["shown"] - before[ring["index"]]["interrupts"]["shown"] >= 20
    transmit = rings(control)[1]["audit"]
    assert transmit["kicks"]["kicks"] < transmit["kicks"]["batches"] + transmit["kicks"]["spurious"] + 1
    assert (
        transmit["interrupts"]["coalesced"] > transmit["interrupts"]["sent"] // 2
    )  # answers go with the other queue's
    assert transmit["kicks"]["lost"] <= 2
    assert "kicks, from the driver" in negotiated(control, "--audit")
