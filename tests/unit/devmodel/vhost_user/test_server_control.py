# SPDX-License-Identifier: GPL-2.0-or-later
"""A frontend that forwards the control queue: commands through its ring, and what they do to frames."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from vu_driver import MODERN, PACKED, WRITE, SocketFrontend
from vu_rig import Rig, run

from devmodel.port import Offloads
from devmodel.virtio import ctrl
from devmodel.virtio import features as vf
from tests.unit.devmodel.virtio.test_rss import frame

CONTROL = MODERN | vf.CONTROL_FEATURES
MQ = vf.mask(vf.VIRTIO_NET_F_MQ)
OK, ERR = 0, 1
OWN, OTHER = b"\x52\x54\0\0\0\1", b"\x52\x54\0\0\0\2"


async def command(rig: Rig, fe: SocketFrontend, kind: int, number: int, data: bytes = b"") -> int:
    """The ack of one command."""
    ring: Any = fe.rings[-1]
    (head, hsize), (ack, asize) = fe.ram.put(bytes([kind, number])), fe.ram.put(b"\xff")
    body = [(*fe.ram.put(data), 0)] if data else []
    ring.add([(head, hsize, 0), *body, (ack, asize, WRITE)])
    fe.kick_ring(len(fe.rings) - 1)
    await rig.until(lambda: fe.ram.read(ack, 1) != b"\xff")
    return fe.ram.read(ack, 1)[0]


def received(rig: Rig, fe: SocketFrontend, data: bytes) -> bool:
    """Whether the guest gets that frame."""
    fe.rx.add_in(1536)
    sent = rig.port.send(None, [data])
    rig.port.flush()
    assert bool(fe.rx.used()) is sent
    return sent


@pytest.mark.parametrize("packed", [False, True])
def test_filters_of_the_driver_are_applied(tmp_path: Path, packed: bool) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(CONTROL | (PACKED if packed else 0), packed=packed, control=True)
        assert await command(rig, fe, ctrl.VIRTIO_NET_CTRL_MAC, 1, OWN) == OK
        assert received(rig, fe, OTHER + bytes(60))  # promiscuous still
        assert await command(rig, fe, ctrl.VIRTIO_NET_CTRL_RX, 0, b"\0") == OK
        assert not received(rig, fe, OTHER + bytes(60))
        assert received(rig, fe, OWN + bytes(60))
        stats = rig.port.stats()
        assert (stats["tx_drop_filtered"], stats["tx_dropped"]) == (1, 1)
        assert await command(rig, fe, 0x7F, 0) == ERR

    run(tmp_path, script, control_queue=1)


def test_offloads_that_the_driver_takes_back_change_the_link(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        features = CONTROL | vf.mask(vf.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)
        fe = await rig.frontend(features, control=True)
        await rig.until(lambda: rig.port.link_up)
        assert rig.port.offloads.tso4
        wanted = struct.pack("<Q", vf.mask(vf.VIRTIO_NET_F_GUEST_CSUM))
        assert await command(rig, fe, ctrl.VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, wanted) == OK
        await rig.until(lambda: not rig.port.offloads.tso4)
        up, offloads = rig.behind.links[-1]
        assert isinstance(offloads, Offloads)
        assert (up, offloads.csum, offloads.tso4, offloads.tso6) == (True, True, False, False)

    run(tmp_path, script, control_queue=1)


def test_pairs_are_used_once_the_driver_says_so(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(CONTROL | MQ, pairs=4, control=True)
        assert rig.port.net.steering.pairs == 1
        assert await command(rig, fe, ctrl.VIRTIO_NET_CTRL_MQ, 0, struct.pack("<H", 3)) == OK
        await rig.until(lambda: rig.port.net.steering.pairs == 3)
        assert await command(rig, fe, ctrl.VIRTIO_NET_CTRL_MQ, 0, struct.pack("<H", 5)) == ERR
        assert rig.port.net.steering.pairs == 3

    run(tmp_path, script, queue_pairs=4, control_queue=1)


def test_rss_of_the_driver_steers(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(CONTROL | MQ | vf.mask(vf.VIRTIO_NET_F_RSS), pairs=2, control=True)
        data = struct.pack("<IHH", 0x3F, 0, 0) + struct.pack("<HH", 1, 2) + bytes([40]) + bytes(40)
        assert await command(rig, fe, ctrl.VIRTIO_NET_CTRL_MQ, 1, data) == OK
        await rig.until(lambda: rig.port.net.steering.pairs == 2)
        fe.rings[2].add_in(1536)
        assert rig.port.send(None, [frame("10.0.2.2", 7, "10.0.2.15", 1000)])
        rig.port.flush()
        assert len(fe.rings[2].used()) == 1  # the table has one place, for pair 1

    run(tmp_path, script, queue_pairs=2, control_queue=1)


def test_driver_of_one_pair_has_its_control_queue_behind_that(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(CONTROL, control=True)  # three rings, of a device that has nine
        assert await command(rig, fe, ctrl.VIRTIO_NET_CTRL_RX, 1, b"\1") == OK
        assert received(rig, fe, OWN + bytes(60))

    run(tmp_path, script, queue_pairs=4, control_queue=1)


def test_command_without_room_for_its_ack_breaks_the_control_queue_alone(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(CONTROL, control=True)
        fe.rings[-1].add_out(bytes([ctrl.VIRTIO_NET_CTRL_RX, 0, 0]))
        fe.kick_ring(2)
        await rig.until(lambda: rig.port.stats()["broken_rings"])
        assert rig.port.link_up
        assert received(rig, fe, OTHER + bytes(60))

    run(tmp_path, script, control_queue=1)


def test_frontend_without_a_control_queue_is_not_offered_its_commands(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        await rig.frontend()
        offered = {one["name"] for one in rig.port.negotiation()["features"] if one["offered"]}
        assert "VIRTIO_NET_F_CTRL_VQ" not in offered

    run(tmp_path, script)


def test_ring_of_the_control_queue_that_was_not_negotiated_disturbs_nobody(tmp_path: Path) -> None:
    """It is there, may be described and kicked, and is no receive queue."""

    async def script(rig: Rig) -> None:
        fe = await rig.frontend(MODERN, control=True)
        await rig.until(lambda: rig.port.link_up)
        last = len(fe.rings) - 1
        fe.rings[last].add_in(64)
        kicks = rig.port.stats()["kicks"]
        fe.kick_ring(last)
        await rig.until(lambda: rig.port.stats()["kicks"] > kicks)
        assert received(rig, fe, OWN + bytes(60))
        assert [ring.get("steered") is not None for ring in rig.port.negotiation()["rings"]] == [
            True,
            False,
            False,
        ]
        fe.close()
        await rig.until(lambda: not rig.port.connected)
        rig.frontends.remove(fe)
        assert await rig.frontend(MODERN)

    run(tmp_path, script, control_queue=1)
