# SPDX-License-Identifier: GPL-2.0-or-later
"""The server over a real socket with packed rings, and with IN_ORDER on both layouts."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from itertools import pairwise
from pathlib import Path

import pytest
from vu_driver import FRESH, INDIRECT, MODERN, NEXT, PACKED, WRITE
from vu_rig import Rig, run

from devmodel.vhost_user import server as server_module
from devmodel.vhost_user.message import Request as R
from devmodel.virtio import features as vf

FRAME = bytes(range(60))
HDR = bytes(12)
DISABLE, DESC = 1, 2


def signalled(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_running_guest_sends_a_batch_and_is_signalled(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        for _ in range(9):  # two laps and more
            idents = [fe.tx.add_out(HDR + FRAME, bytes([number])) for number in range(2)]
            fe.kick_ring(1)
            assert await fe.called(1)
            assert fe.tx.used() == [(ident, 0) for ident in idents]
            fe.tx.sleep()
        assert [frame for _, frame in rig.behind.frames] == [FRAME + b"\0", FRAME + b"\1"] * 9
        assert rig.port.stats()["broken_rings"] == 0

    run(tmp_path, script)


def test_drained_ring_waits_for_a_kick_of_its_next_descriptor(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        await rig.until(lambda: fe.tx.device_event == (DESC, 0))
        fe.tx.add_out(HDR + FRAME)
        assert fe.tx.wants_to_kick()
        fe.kick_ring(1)
        await rig.until(lambda: fe.tx.device_event == (DESC, 1))
        assert rig.port.stats()["lost_kicks"] == 0

    run(tmp_path, script)


def test_lost_kick_is_found_by_the_recheck(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        await rig.until(lambda: fe.tx.device_event == (DESC, 0))
        fe.tx.add_out(HDR + FRAME)
        await rig.until(lambda: len(rig.behind.frames) == 1)
        assert rig.port.stats()["lost_kicks"] == 1

    run(tmp_path, script)


def test_running_guest_receives_frames_of_many_buffers_after_flush_with_one_signal(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, num=48, packed=True)
        frame = bytes(range(256)) * 256
        for turn in range(3):
            places = [fe.rx.add_in(1536) for _ in range(48)]
            assert rig.port.send(None, [frame[:14], frame[14:65000]])
            assert fe.rx.used() == []
            rig.port.flush()
            used = fe.rx.used()
            data = b"".join(
                fe.ram.read(place[1][0][0], size) for place, (_, size) in zip(places, used, strict=False)
            )
            assert data == HDR[:10] + len(used).to_bytes(2, "little") + frame[:65000]
            assert os.eventfd_read(fe.call[0]) == 1
            fe.rx.sleep()
            for _ in range(48 - len(used)):
                assert rig.port.send(None, [FRAME])
            rig.port.flush()
            assert len(fe.rx.used()) == 48 - len(used), turn
            assert os.eventfd_read(fe.call[0]) == 1
            fe.rx.sleep()

    run(tmp_path, script)


def test_frames_wait_for_buffers_and_the_kick_that_brings_them(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        await rig.until(lambda: fe.rx.device_event[0] == DISABLE)
        fe.rx.add_in(64)
        assert rig.port.send(None, [FRAME * 2])
        assert rig.port.stats()["tx_queued"] == 1
        assert fe.rx.device_event == (DESC, 1)
        ident, _ = fe.rx.add_in(128)
        assert fe.rx.wants_to_kick()
        fe.kick_ring(0)
        assert await fe.called(0)
        assert fe.rx.used() == [(0, 64), (ident, 68)]
        assert fe.rx.device_event[0] == DISABLE
        assert rig.port.stats()["lost_kicks"] == 0

    run(tmp_path, script)


def test_driver_that_looks_by_itself_is_not_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RECHECK_S", 3600.0)

    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        fe.tx.add_out(HDR + FRAME)
        fe.kick_ring(1)
        assert await fe.called(1)  # the first batch always is
        fe.tx.used()
        fe.tx.look_by_itself()
        fe.tx.add_out(HDR + FRAME)
        fe.kick_ring(1)
        await rig.until(fe.tx.has_used)
        assert not signalled(fe.call[1])

    run(tmp_path, script)


def test_ring_of_thousands_is_drained_in_turns(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, num=3000, packed=True)
        gpa, size = fe.ram.put(HDR + FRAME)
        for _ in range(3000):
            fe.tx.add([(gpa, size, 0)])
        fe.kick_ring(1)
        seen = [0]
        while seen[-1] < 3000 and len(seen) < 1000:
            await asyncio.sleep(0)
            seen.append(len(rig.behind.frames))
        assert seen[-1] == 3000
        assert max(after - before for before, after in pairwise(seen)) == 1024

    run(tmp_path, script)


def test_stop_and_start_in_one_session_goes_on(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        sent = 0
        for _ in range(4):
            for _ in range(5):
                fe.tx.add_out(HDR + FRAME)
            sent += 5
            fe.kick_ring(1)
            await rig.until(lambda sent=sent: len(rig.behind.frames) == sent)
            await fe.start(base=await fe.stop())
            fe.tx.used()
        assert rig.port.stats()["resynchronised_rings"] == 0
        assert [up for up, _ in rig.behind.links] == [True, False] * 4 + [True]

    run(tmp_path, script)


def test_frontend_that_reconnects_with_a_stale_base_is_served(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        for _ in range(5):
            fe.tx.add_out(HDR + FRAME)
        fe.kick_ring(1)
        await rig.until(lambda: len(rig.behind.frames) == 5)
        fe.tx.used()
        fe.sock.close()
        await rig.until(lambda: not rig.port.connected)
        fe.sock = socket.socket(socket.AF_UNIX)
        fe.sock.setblocking(False)
        await fe.connect(rig.path)
        await fe.negotiate()
        await fe.start(base=(FRESH, FRESH))
        fe.tx.add_out(HDR + FRAME)
        fe.kick_ring(1)
        await rig.until(lambda: len(rig.behind.frames) == 6)
        assert rig.port.stats()["resynchronised_rings"] == 1
        assert rig.port.stats()["broken_rings"] == 0

    run(tmp_path, script)


@pytest.mark.parametrize(
    ("rule", "flags", "ident"),
    [("id", 0, 99), ("list", NEXT, 0), ("table", INDIRECT, 0), ("address", 0, 0)],
)
def test_row_46_broken_transmit_ring_is_quarantined_and_receiving_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rule: str, flags: int, ident: int
) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        addr = 2**60 if rule == "address" else fe.ram.put(HDR + FRAME)[0]
        before = fe.ram.read(fe.tx.desc_gpa + 16, 15 * 16)
        fe.tx.offer(addr, 72, flags, ident)
        fe.kick_ring(1)
        await rig.until(lambda: signalled(fe.err[1]))
        assert "queue 1, head 0, descriptor" in caplog.text
        assert "section 2.8." in caplog.text
        assert fe.ram.read(fe.tx.desc_gpa + 16, 15 * 16) == before
        place, _ = fe.rx.add_in(128)
        assert rig.port.send(None, [FRAME])
        rig.port.flush()
        assert fe.rx.used() == [(place, 72)]
        assert rig.port.stats()["broken_rings"] == 1

    run(tmp_path, script)


def test_row_55_receive_ring_that_is_never_refilled_drops_beyond_the_queue(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, packed=True)
        fe.rx.add([(fe.ram.alloc(64), 64, WRITE)])
        for _ in range(300):
            rig.port.send(None, [FRAME * 4])
        stats = rig.port.stats()
        assert stats["tx_queued"] + stats["tx_drop_backlog"] == 300
        await asyncio.sleep(0.02)
        assert rig.port.stats()["lost_kicks"] == 0

    run(tmp_path, script)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_in_order_batches_are_completed_by_one_element(tmp_path: Path, packed: bool) -> None:
    features = (PACKED if packed else MODERN) | vf.mask(vf.VIRTIO_F_IN_ORDER)

    async def script(rig: Rig) -> None:
        fe = await rig.frontend(features, packed=packed)
        fe.tx.in_order = fe.rx.in_order = True
        for turn in range(1, 7):
            idents = [fe.tx.add_out(HDR + FRAME) for _ in range(5)]
            fe.kick_ring(1)
            await rig.until(lambda turn=turn: len(rig.behind.frames) == 5 * turn)
            assert fe.tx.used() == [(ident, 0) for ident in idents]
            posted = [fe.rx.add_in(64)[0] for _ in range(5)]
            assert rig.port.send(None, [FRAME * 2])
            assert rig.port.send(None, [FRAME])
            rig.port.flush()
            assert fe.rx.used() == list(zip(posted, (64, 64, 4, 64, 8), strict=True))

    run(tmp_path, script)


def test_legacy_driver_with_notify_on_empty_is_told_although_it_looks_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RECHECK_S", 3600.0)
    legacy = vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES, vf.VIRTIO_F_NOTIFY_ON_EMPTY)

    async def script(rig: Rig) -> None:
        fe = await rig.frontend(legacy)
        fe.tx.set_avail_flags(1)
        for turn in range(1, 4):
            for _ in range(3):
                fe.tx.add_out(bytes(10) + FRAME)
            fe.kick_ring(1)
            assert await fe.called(1)
            assert fe.tx.used_idx == 3 * turn

    run(tmp_path, script)


def test_features_of_packed_rings_reach_the_negotiation(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        fe = await rig.frontend(PACKED, num=5, packed=True)
        found = {one["name"]: one["acknowledged"] for one in rig.port.negotiation()["features"]}
        assert found["VIRTIO_F_RING_PACKED"]
        assert not found["VIRTIO_F_IN_ORDER"]
        assert [ring["size"] for ring in rig.port.negotiation()["rings"]] == [5, 5]
        assert await fe.ask(R.VHOST_USER_SET_OWNER) == 0

    run(tmp_path, script)
