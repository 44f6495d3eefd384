# SPDX-License-Identifier: GPL-2.0-or-later
"""Several queue pairs: frames are steered by their flows, and each queue has troubles of its own."""

from __future__ import annotations

import os
from pathlib import Path

import dpkt
import pytest
from vu_driver import MODERN, PACKED
from vu_rig import Rig, run

from devmodel.vhost_user.message import Request as R
from devmodel.virtio import features as vf
from devmodel.virtio import rss
from tests.unit.devmodel.virtio.test_rss import frame

MQ = MODERN | vf.mask(vf.VIRTIO_NET_F_MQ)
HDR = bytes(12)
ARP = bytes(dpkt.ethernet.Ethernet(type=dpkt.ethernet.ETH_TYPE_ARP, data=dpkt.arp.ARP()))
FROM_GUEST = frame("10.0.2.15", 1000, "10.0.2.2", 7)
TO_GUEST = frame("10.0.2.2", 7, "10.0.2.15", 1000)


@pytest.mark.parametrize("packed", [False, True])
def test_answer_comes_on_the_queue_that_the_guest_sent_on(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rss, "MOVE_AFTER", 1)

    async def script(rig: Rig) -> None:
        fe = await rig.frontend(MQ | (PACKED if packed else 0), packed=packed, pairs=4)
        for pair in (2, 0, 3, 1):
            for ring in fe.rings[::2]:
                ring.add_in(1536)
            fe.rings[2 * pair + 1].add_out(HDR + FROM_GUEST)
            fe.kick_ring(2 * pair + 1)
            await rig.until(lambda: rig.behind.frames)
            rig.behind.frames.clear()
            before = [len(ring.used()) for ring in fe.rings[::2]]
            rig.port.send(None, [TO_GUEST])
            rig.port.flush()
            after = [len(ring.used()) for ring in fe.rings[::2]]
            assert [b - a for a, b in zip(before, after, strict=True)] == [
                int(place == pair) for place in range(4)
            ]

    run(tmp_path, script, queue_pairs=4)


def test_frame_of_no_flow_comes_on_the_first_queue(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(MQ, pairs=2)
        for ring in fe.rings[::2]:
            ring.add_in(1536)
        rig.port.send(None, [ARP])
        rig.port.flush()
        assert [len(ring.used()) for ring in fe.rings[::2]] == [1, 0]

    run(tmp_path, script, queue_pairs=2)


def test_each_queue_that_got_frames_is_signalled_once(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(MQ, pairs=2)
        for ring in fe.rings[::2]:
            for _ in range(8):
                ring.add_in(1536)
        rig.port.net.steering.sent_on(FROM_GUEST, 1)
        for _ in range(3):
            rig.port.send(None, [ARP])
            rig.port.send(None, [TO_GUEST])
        rig.port.flush()
        assert [os.eventfd_read(fe.call[index]) for index in (0, 2)] == [1, 1]
        assert rig.port.stats()["tx_frames"] == 6
        rings = rig.port.negotiation()["rings"]
        assert [ring["steered"] for ring in rings if "steered" in ring] == [3, 3]

    run(tmp_path, script, queue_pairs=2)


def test_queue_without_buffers_holds_back_its_own_frames_alone(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(MQ, pairs=2)
        fe.rx.add_in(1536)
        rig.port.net.steering.sent_on(FROM_GUEST, 1)
        assert rig.port.send(None, [TO_GUEST])
        assert rig.port.send(None, [ARP])
        rig.port.flush()
        assert len(fe.rx.used()) == 1
        assert rig.port.stats()["tx_queued"] == 1
        fe.rings[2].add_in(1536)
        fe.kick_ring(2)
        await rig.until(fe.rings[2].used)
        assert rig.port.stats()["tx_queued"] == 0

    run(tmp_path, script, queue_pairs=2)


def test_pair_that_is_disabled_gets_nothing_more(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(MQ, pairs=2)
        rig.port.net.steering.sent_on(FROM_GUEST, 1)
        rig.port.send(None, [TO_GUEST])  # it waits: that queue has no buffers
        for index in (2, 3):
            fe.send(R.VHOST_USER_SET_VRING_ENABLE, fe.state(index, 0))
        await fe.ask(R.VHOST_USER_SET_OWNER)
        assert rig.port.stats()["tx_queued"] == 0
        fe.rx.add_in(1536)
        rig.port.send(None, [TO_GUEST])
        rig.port.flush()
        assert len(fe.rx.used()) == 1

    run(tmp_path, script, queue_pairs=2)


def test_broken_receive_queue_takes_no_other_with_it(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(MQ, pairs=2)
        fe.rings[2].set_avail_idx(1000)
        rig.port.net.steering.sent_on(FROM_GUEST, 1)
        assert not rig.port.send(None, [TO_GUEST])
        fe.rx.add_in(1536)
        assert rig.port.send(None, [TO_GUEST])
        rig.port.flush()
        assert len(fe.rx.used()) == 1
        assert rig.port.stats()["broken_rings"] == 1
        assert rig.port.link_up

    run(tmp_path, script, queue_pairs=2)


def test_frontend_that_uses_one_pair_of_many_notices_nothing(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend()
        fe.rx.add_in(1536)
        fe.tx.add_out(HDR + FROM_GUEST)
        fe.kick_ring(1)
        assert await fe.called(1)
        assert rig.port.send(None, [TO_GUEST])
        rig.port.flush()
        assert len(fe.rx.used()) == 1
        assert [ring["index"] for ring in rig.port.negotiation()["rings"]] == [0, 1]

    run(tmp_path, script, queue_pairs=8)
