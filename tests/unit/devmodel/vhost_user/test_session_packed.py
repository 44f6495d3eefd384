# SPDX-License-Identifier: GPL-2.0-or-later
"""The session with packed rings: sizes, addresses, bases of three kinds of frontends, stopping and resetting."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from vu_driver import FRESH, LEGACY, MODERN, PACKED, SPLIT, UVA, Driver, DriverRing, SessionFrontend

from devmodel.vhost_user import actions as va
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.message import Request as R
from devmodel.virtio import features as vf
from devmodel.virtio.ring_packed import PackedRing, half_of
from devmodel.virtio.ring_split import SplitRing

U64 = vu.U64.pack
HDR, FRAME = bytes(12), b"f" * 60


@pytest.fixture
def fe() -> Iterator[SessionFrontend]:
    frontend = SessionFrontend(packed=True)
    frontend.negotiate()
    yield frontend
    frontend.close()


def send_frames(fe: SessionFrontend, count: int) -> None:
    """Frames of the guest, each there and back."""
    ring = fe.session.vrings[1].ring
    assert ring is not None
    for _ in range(count):
        ident = fe.tx.add_out(HDR + FRAME, indirect=True)
        assert fe.session.net.receive(ring, 8) == [(None, FRAME)]
        ring.publish()
        assert fe.tx.used() == [(ident, 0)]


def stop(fe: SessionFrontend, index: int) -> int:
    """GET_VRING_BASE's answer."""
    actions = fe.request(R.VHOST_USER_GET_VRING_BASE, fe.state(index, 0))
    [reply] = [action.data for action in actions if isinstance(action, va.Reply)]
    return int(vu.VRING_STATE.unpack(reply[12:])[1])


def start_one(fe: SessionFrontend, index: int, base: int) -> None:
    """What starts one ring."""
    fe.request(R.VHOST_USER_SET_VRING_NUM, fe.state(index, fe.ring(index).num))
    fe.request(R.VHOST_USER_SET_VRING_BASE, fe.state(index, base))
    fe.request(R.VHOST_USER_SET_VRING_ADDR, fe.addr(index))
    fe.request(R.VHOST_USER_SET_VRING_KICK, U64(index), [fe.kick[index]])
    fe.request(R.VHOST_USER_SET_VRING_CALL, U64(index), [fe.call[index]])


def test_features_of_the_rings_are_offered(fe: SessionFrontend) -> None:
    offered = vf.names(fe.session.offered)
    assert {"VIRTIO_F_RING_PACKED", "VIRTIO_F_IN_ORDER", "VIRTIO_F_NOTIFY_ON_EMPTY"} < set(offered)
    assert "VIRTIO_F_RING_RESET" not in offered  # QEMU would offer it and not tell us of a reset


@pytest.mark.parametrize("base", [FRESH, 0x8000, 0], ids=["qemu", "dpdk", "uml"])
def test_start_runs_packed_rings_from_each_frontends_base(fe: SessionFrontend, base: int) -> None:
    fe.start(base=(base, base))
    assert [type(vring.ring) for vring in fe.session.vrings] == [PackedRing] * 2
    send_frames(fe, 20)
    assert stop(fe, 1) == 0x10001 * half_of(20, 16)
    assert stop(fe, 0) == FRESH


@pytest.mark.parametrize("num", [1, 3, 255, 256, 32768])
def test_size_of_a_packed_queue_need_not_be_a_power_of_two(num: int) -> None:
    fe = SessionFrontend(num, packed=True)
    fe.negotiate()
    fe.start()
    assert fe.running() == [True, True]
    send_frames(fe, 5)
    fe.close()


@pytest.mark.parametrize("count", [0, 5, 16, 32, 37])
def test_paused_guest_goes_on_where_it_stopped(fe: SessionFrontend, count: int) -> None:
    fe.start()
    for _ in range(3):
        send_frames(fe, count)
        bases = [stop(fe, 0), stop(fe, 1)]
        fe.start(base=bases)
        assert fe.running() == [True, True]
        ring = fe.session.vrings[1].ring
        assert ring is not None
        assert not ring.resynchronised
    send_frames(fe, 1)


def test_frames_that_wait_over_a_pause_are_taken_after_it(fe: SessionFrontend) -> None:
    fe.start()
    send_frames(fe, 30)
    fe.tx.add_out(HDR + FRAME)
    fe.start(base=[stop(fe, 0), stop(fe, 1)])
    ring = fe.session.vrings[1].ring
    assert ring is not None
    assert fe.session.net.receive(ring, 8) == [(None, FRAME)]


def test_pushed_buffers_are_published_when_a_ring_stops(fe: SessionFrontend) -> None:
    fe.start()
    ident = fe.tx.add_out(HDR + FRAME)
    ring = fe.session.vrings[1].ring
    assert ring is not None
    fe.session.net.receive(ring, 8)
    assert stop(fe, 1) == 0x80018001
    assert fe.tx.used() == [(ident, 0)]


def test_one_ring_is_reset_to_another_size_while_the_other_runs(fe: SessionFrontend) -> None:
    fe.start()
    send_frames(fe, 3)
    stop(fe, 0)
    assert fe.running() == [False, True]
    send_frames(fe, 3)
    fe.rx = type(fe.rx)(fe.ram, 5)
    start_one(fe, 0, FRESH)
    assert fe.running() == [True, True]
    ring = fe.session.vrings[0].ring
    assert ring is not None
    assert (ring.num, ring.last_avail) == (5, 0)
    send_frames(fe, 3)


def test_split_ring_is_reset_while_the_other_runs() -> None:
    fe = SessionFrontend()
    fe.negotiate()
    fe.start()
    fe.tx.add_out(HDR + FRAME)
    stop(fe, 0)
    ring = fe.session.vrings[1].ring
    assert ring is not None
    assert fe.session.net.receive(ring, 8) == [(None, FRAME)]
    fe.rx = DriverRing(fe.ram, 4)
    start_one(fe, 0, 0)
    assert fe.running() == [True, True]
    fe.close()


@pytest.mark.parametrize("count", [0, 1, 7, 16, 21, 32])
def test_new_back_end_finds_where_the_rings_stand_behind_a_stale_base(count: int) -> None:
    fe = SessionFrontend(packed=True)
    fe.negotiate()
    fe.start()
    send_frames(fe, count)
    fe.tx.add_out(HDR + FRAME)
    fe.session.close()  # and nobody was told where its rings stood
    fe.session = vs.Session(fe.session._mapper)
    fe.negotiate()
    fe.start()
    ring = fe.session.vrings[1].ring
    assert ring is not None
    assert ring.resynchronised is (count not in (0, 32))
    assert fe.session.net.receive(ring, 8) == [(None, FRAME)]
    ring.publish()
    assert len(fe.tx.used()) == 1
    send_frames(fe, 40)
    fe.close()


def test_guest_reboot_from_legacy_firmware_to_packed_rings_and_back(fe: SessionFrontend) -> None:
    rings: list[tuple[Driver, Driver]] = [(fe.rx, fe.tx), (DriverRing(fe.ram), DriverRing(fe.ram))]
    for features, kind in ((LEGACY, SplitRing), (PACKED, PackedRing), (MODERN, SplitRing)):
        fe.rx, fe.tx = rings[kind is SplitRing]
        fe.rx.reset()
        fe.tx.reset()
        fe.start(features, (FRESH, FRESH) if kind is PackedRing else (0, 0))
        assert [type(vring.ring) for vring in fe.session.vrings] == [kind] * 2
        stop(fe, 0)
        stop(fe, 1)


def test_same_memory_table_while_running_moves_the_rings(fe: SessionFrontend) -> None:
    fe.start()
    send_frames(fe, 17)
    table = vu.encode_mem_table(fe.ram.specs)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2) == 0
    send_frames(fe, 17)


# -- bad inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [0, 32769, 65536, 2**32 - 1])
def test_row_21_size_of_a_packed_queue(fe: SessionFrontend, num: int) -> None:
    fe.request(R.VHOST_USER_SET_FEATURES, U64(PACKED))
    assert fe.ack(R.VHOST_USER_SET_VRING_NUM, fe.state(0, num)) == 1


def test_row_21_size_from_packed_rings_breaks_a_split_one(fe: SessionFrontend) -> None:
    fe.request(R.VHOST_USER_SET_FEATURES, U64(PACKED))
    assert fe.ack(R.VHOST_USER_SET_VRING_NUM, fe.state(0, 3)) == 0
    messages = [one for one in fe.start_messages(MODERN) if one[0] != R.VHOST_USER_SET_VRING_NUM]
    for request, payload, given in messages:
        fe.request(request, payload, given)
    error = fe.session.vrings[0].broken
    assert error is not None
    assert "power of two" in error.rule
    assert fe.running() == [False, False]


def test_row_22_running_ring_is_not_changed(fe: SessionFrontend) -> None:
    fe.start()
    send_frames(fe, 3)
    assert fe.ack(R.VHOST_USER_SET_VRING_NUM, fe.state(1, 8)) == 1
    assert fe.ack(R.VHOST_USER_SET_VRING_BASE, fe.state(1, FRESH)) == 1
    assert fe.ack(R.VHOST_USER_SET_VRING_BASE, fe.state(1, 0x80038003)) == 0
    assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, fe.addr(1, used=fe.ram.uva(0))) == 1
    assert fe.running() == [True, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"desc": UVA + SPLIT + 4096},
        {"desc": UVA + SPLIT - 16},
        {"desc": UVA + 8},
        {"used": UVA + 2},
        {"avail": UVA + 2},
        {"avail": UVA + SPLIT - 2},
        {"used": 2**64 - 4},
    ],
    ids=["hole", "straddles", "desc-align", "used-align", "avail-align", "avail-straddles", "wraps"],
)
def test_row_23_ring_address(fe: SessionFrontend, changes: dict[str, int]) -> None:
    fe.request(R.VHOST_USER_SET_FEATURES, U64(PACKED))
    table = vu.encode_mem_table(fe.ram.specs)
    fe.request(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2)
    fe.request(R.VHOST_USER_SET_VRING_NUM, fe.state(0, 16))
    assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, fe.addr(0, **changes)) == 1
    fe.request(R.VHOST_USER_SET_VRING_KICK, U64(0), [fe.kick[0]])
    assert fe.running() == [False, False]


def test_row_23_events_at_the_end_of_memory_are_legal(fe: SessionFrontend) -> None:
    fe.request(R.VHOST_USER_SET_FEATURES, U64(PACKED))
    table = vu.encode_mem_table(fe.ram.specs)
    fe.request(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2)
    fe.request(R.VHOST_USER_SET_VRING_NUM, fe.state(0, 16))
    assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, fe.addr(0, avail=UVA + SPLIT - 4)) == 0


def test_row_24_kick_and_enable_first_are_remembered(fe: SessionFrontend) -> None:
    messages = fe.start_messages()
    fe.request(*messages[0][:2])
    for request, payload, given in reversed(messages[1:]):
        fe.request(request, payload, given)
    assert fe.running() == [True, True]
    send_frames(fe, 1)


@pytest.mark.parametrize("base", [0x8010, 0x80108000, 0x80000001, 0xFFFFFFFF])
def test_row_25_base_beyond_the_queue(fe: SessionFrontend, base: int) -> None:
    fe.request(R.VHOST_USER_SET_FEATURES, U64(PACKED))
    fe.request(R.VHOST_USER_SET_VRING_NUM, fe.state(0, 16))
    assert fe.ack(R.VHOST_USER_SET_VRING_BASE, fe.state(0, base)) == 1


def test_row_25_base_beyond_the_queue_before_its_size_breaks_at_the_start(fe: SessionFrontend) -> None:
    fe.request(R.VHOST_USER_SET_FEATURES, U64(PACKED))
    assert fe.ack(R.VHOST_USER_SET_VRING_BASE, fe.state(0, 0x80108010)) == 0
    messages = [one for one in fe.start_messages() if one[0] != R.VHOST_USER_SET_VRING_BASE]
    for request, payload, given in messages:
        fe.request(request, payload, given)
    assert fe.running() == [False, True]
    error = fe.session.vrings[0].broken
    assert error is not None
    assert error.section == "2.8.1"


def test_row_46_broken_ring_is_quarantined_and_the_other_goes_on(fe: SessionFrontend) -> None:
    fe.start()
    before = len(os.listdir("/proc/self/fd"))
    ring = fe.session.vrings[0].ring
    assert ring is not None
    fe.rx.offer(0, 64, 2, ident=99)
    with pytest.raises(vs.BrokenRing, match="buffer id 99") as caught:
        fe.session.net.transmit(ring, None, [FRAME])
    actions = fe.carry_out(fe.session.quarantine(0, caught.value))
    assert va.RingBroken(0, caught.value) in actions
    assert fe.running() == [False, True]
    send_frames(fe, 3)
    assert len(os.listdir("/proc/self/fd")) == before
    stop(fe, 0)
    fe.rx.reset()
    start_one(fe, 0, FRESH)
    assert fe.running() == [True, True]
