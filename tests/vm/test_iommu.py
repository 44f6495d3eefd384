# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's driver behind QEMU's Intel IOMMU: every address in a ring is I/O virtual, and asked for over the channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from guest.vm.machine import Guest
from vnic.control import Client

Boot = Callable[..., Guest]

SERVER = "10.0.2.2"
SIZE = 4 << 20


LONG_RINGS = ("rx_queue_size=1024", "tx_queue_size=1024")
"""Linux lays them into pages that lie apart."""


@pytest.mark.parametrize(("packed", "properties"), [(False, ()), (False, LONG_RINGS), (True, LONG_RINGS)])
def test_guest_behind_an_iommu_transfers_both_ways(
    backends: Any, boot: Boot, rundir: Any, packed: bool, properties: tuple[str, ...]
) -> None:
    control = rundir.path / "control.sock"
    nic = replace(
        backends.start("vhost-user", "--control", str(control)), packed=packed, properties=properties
    )
    guest = boot(nic=nic, machine="q35", iommu=True)
    assert guest.ready["dhcp"] == "ok"
    guest.check("dmesg | grep -q 'DMAR: Intel.R. Virtualization Technology'")
    guest.check(f"ping -c 3 -i 0.2 {SERVER}", 30)
    guest.check(f"curl -sS -D /tmp/h -o /tmp/b http://{SERVER}/bytes/{SIZE}", 60)
    digest = guest.check("sha256sum /tmp/b", 30).split()[0]
    assert digest in guest.check("cat /tmp/h")
    assert digest in guest.check(f"curl -sS -T /tmp/b http://{SERVER}/upload", 60)
    with Client(control) as back_end:
        found = back_end.ask("negotiation")
    assert {"name": "VIRTIO_F_ACCESS_PLATFORM", "offered": True, "acknowledged": True} in found["features"]
    assert [ring["running"] for ring in found["rings"]] == [True, True]
    assert found["channel"]["open"]
    assert found["channel"]["requests"] > SIZE // 65536, "every buffer is asked for"
