# SPDX-License-Identifier: GPL-2.0-or-later
"""The vhost-user session: real message orders, then what must be refused."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from vu_driver import LEGACY, MODERN, PACKED, RAM_SIZE, SPLIT, UVA, SessionFrontend

from devmodel.errors import BrokenRing
from devmodel.vhost_user import actions as va
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.message import Request as R
from devmodel.virtio import features as vf
from devmodel.virtio.memory import RegionSpec

U64 = vu.U64.pack


@pytest.fixture
def fe() -> Iterator[SessionFrontend]:
    frontend = SessionFrontend()
    frontend.negotiate()
    yield frontend
    frontend.close()


@pytest.fixture
def slots() -> Iterator[SessionFrontend]:
    """A frontend that adds and removes single regions."""
    frontend = SessionFrontend()
    frontend.request(R.VHOST_USER_SET_PROTOCOL_FEATURES, U64(vs.PROTOCOL_FEATURES))
    yield frontend
    frontend.close()


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- orders that frontends use --------------------------------------------------------------------------


def test_connect_answers_what_is_offered(fe: SessionFrontend) -> None:
    replies = [action.data for action in fe.actions if isinstance(action, va.Reply)]
    offered = vu.encode_reply(R.VHOST_USER_GET_FEATURES, U64(vf.DEVICE_FEATURES))
    assert replies[0] == replies[3] == offered
    assert replies[1] == vu.encode_reply(R.VHOST_USER_GET_PROTOCOL_FEATURES, U64(vs.PROTOCOL_FEATURES))
    assert replies[2] == vu.encode_reply(R.VHOST_USER_GET_QUEUE_NUM, U64(1))


def test_configuration_space_is_not_offered(fe: SessionFrontend) -> None:
    assert not fe.session.offered_protocol >> 9 & 1
    assert not fe.session.offered >> vf.VIRTIO_NET_F_MQ & 1


def test_start_runs_both_rings_enabled_before_features(fe: SessionFrontend) -> None:
    fe.start()
    assert fe.running() == [True, True]
    assert fe.session.running(0) is not None
    assert va.RingStarted(1) in fe.actions


def test_start_without_protocol_features_enables_the_rings() -> None:
    fe = SessionFrontend()
    fe.start(MODERN & ~vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES))
    assert fe.session.running(1) is not None
    fe.close()


def test_start_with_protocol_features_leaves_rings_disabled() -> None:
    fe = SessionFrontend()
    fe.start()
    assert fe.running() == [True, True]
    assert fe.session.running(1) is None
    fe.request(R.VHOST_USER_SET_VRING_ENABLE, fe.state(1, 1))
    assert fe.session.running(1) is not None
    fe.close()


def test_stop_returns_the_index_and_drops_the_descriptors(fe: SessionFrontend) -> None:
    fe.start()
    fe.tx.add_out(bytes(12 + 60))
    ring = fe.session.vrings[1].ring
    assert ring is not None
    fe.session.net.receive(ring, 8)
    actions = fe.request(R.VHOST_USER_GET_VRING_BASE, fe.state(1, 0))
    assert fe.tx.used_idx == 1
    assert va.RingStopped(1) in actions
    assert va.KickFd(1, None) in actions
    assert actions[-1] == va.Reply(vu.encode_reply(R.VHOST_USER_GET_VRING_BASE, fe.state(1, 1)))
    assert fe.running() == [True, False]


def test_guest_reboot_changes_the_header_in_one_session(fe: SessionFrontend) -> None:
    fe.start(LEGACY)
    assert not fe.session.net.offloads.csum
    for index in range(2):
        fe.request(R.VHOST_USER_GET_VRING_BASE, fe.state(index, 0))
        fe.ring(index).reset()
    fe.start(MODERN)
    assert fe.running() == [True, True]
    assert fe.session.net.offloads.tso4


def test_restarted_back_end_takes_used_idx_when_base_differs(fe: SessionFrontend) -> None:
    fe.tx.set_used_idx(9)
    fe.tx.set_avail_idx(11)
    fe.start(base=(0, 3))
    ring = fe.session.vrings[1].ring
    assert ring is not None
    assert ring.resynchronised
    assert ring.waiting() == 2


def test_status_zero_before_get_vring_base_keeps_the_index(fe: SessionFrontend) -> None:
    fe.start(base=(0, 0))
    fe.request(R.VHOST_USER_SET_STATUS, U64(0xF))
    fe.request(R.VHOST_USER_SET_STATUS, U64(0))
    assert fe.running() == [True, True]
    assert fe.session.status == 0


def test_same_memory_table_while_running_moves_the_rings(fe: SessionFrontend) -> None:
    fe.start()
    table = vu.encode_mem_table(fe.ram.specs)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2) == 0
    fe.tx.add_out(bytes(12) + b"f" * 60)
    ring = fe.session.vrings[1].ring
    assert ring is not None
    assert fe.session.net.receive(ring, 8) == [(None, b"f" * 60)]


def test_longer_memory_table_is_accepted(fe: SessionFrontend) -> None:
    table = vu.encode_mem_table(fe.ram.specs[:1]) + bytes(32)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd]) == 0


def test_mtu_reaches_the_device_before_the_features(fe: SessionFrontend) -> None:
    assert fe.ack(R.VHOST_USER_NET_SET_MTU, U64(1400)) == 0
    fe.start(LEGACY)
    assert fe.session.net.offloads.max_frame == 1414
    assert [fe.ack(R.VHOST_USER_NET_SET_MTU, U64(mtu)) for mtu in (67, 68, 65535, 65536)] == [1, 0, 0, 1]


def test_rarp_carries_the_mac(fe: SessionFrontend) -> None:
    actions = fe.request(R.VHOST_USER_SEND_RARP, bytes.fromhex("5254001234560000"))
    assert actions == [va.Rarp(bytes.fromhex("525400123456"))]


def test_reset_device_stops_and_disables(fe: SessionFrontend) -> None:
    fe.start()
    assert fe.ack(R.VHOST_USER_RESET_DEVICE) == 0
    assert fe.running() == [False, False]
    assert (fe.session.features, fe.session.vrings[0].enabled) == (0, False)


def test_reset_owner_is_deprecated_and_drops_nothing(fe: SessionFrontend) -> None:
    fe.start()
    assert fe.ack(R.VHOST_USER_RESET_OWNER) == 0
    assert fe.running() == [True, True]
    assert fe.session.features == MODERN


def test_ring_of_a_reset_device_stays_where_it_is_when_memory_comes_before_its_new_place(
    fe: SessionFrontend,
) -> None:
    """The old place belongs to nobody now: a driver that starts anew shares memory first, and says then where its rings
    are, of which size, and where to kick."""
    fe.start()
    assert fe.ack(R.VHOST_USER_RESET_DEVICE) == 0
    assert fe.ack(R.VHOST_USER_SET_FEATURES, U64(MODERN)) == 0
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table(fe.ram.specs), [fe.ram.fd] * 2) == 0
    assert fe.running() == [False, False]
    assert fe.ack(R.VHOST_USER_SET_VRING_NUM, fe.state(1, 8)) == 0
    assert fe.running() == [False, False]


def test_reset_device_gives_the_kick_descriptors_back(fe: SessionFrontend) -> None:
    fe.start()
    actions = fe.request(R.VHOST_USER_RESET_DEVICE)
    assert [action for action in actions if isinstance(action, va.KickFd)] == [
        va.KickFd(0, None),
        va.KickFd(1, None),
    ]


def test_reply_only_when_asked_for(fe: SessionFrontend) -> None:
    assert fe.request(R.VHOST_USER_SET_OWNER) == []
    assert fe.ack(R.VHOST_USER_SET_OWNER) == 0


def test_multiqueue_offers_pairs() -> None:
    fe = SessionFrontend(queue_pairs=4)
    fe.negotiate()
    assert len(fe.session.vrings) == 8
    assert fe.session.offered >> vf.VIRTIO_NET_F_MQ & 1
    assert fe.ack(R.VHOST_USER_GET_QUEUE_NUM) == 4
    fe.close()


def test_memory_slots_add_then_start_then_remove(slots: SessionFrontend) -> None:
    fe = slots
    single = [vu.SINGLE_REGION.pack(0, *spec) for spec in fe.ram.specs]
    assert [fe.ack(R.VHOST_USER_ADD_MEM_REG, body, [fe.ram.fd]) for body in single] == [0, 0]
    for request, payload, given in fe.start_messages(MODERN):
        if request != R.VHOST_USER_SET_MEM_TABLE:
            fe.request(request, payload, given)
    assert fe.running() == [True, True]
    assert fe.ack(R.VHOST_USER_REM_MEM_REG, single[1]) == 0
    assert fe.running() == [True, True]
    assert fe.ack(R.VHOST_USER_REM_MEM_REG, single[0]) == 0
    assert fe.running() == [False, False]


# -- bad inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (R.VHOST_USER_SET_VRING_ADDR, bytes(39)),
        (R.VHOST_USER_SET_FEATURES, b""),
        (R.VHOST_USER_SET_VRING_NUM, bytes(12)),
        (R.VHOST_USER_SET_OWNER, bytes(1)),
        (R.VHOST_USER_SET_MEM_TABLE, bytes(8)),
    ],
)
def test_row_04_wrong_size_changes_nothing(fe: SessionFrontend, request_: R, payload: bytes) -> None:
    before = fds()
    assert fe.ack(request_, payload, [fe.ram.fd] if request_ == R.VHOST_USER_SET_MEM_TABLE else []) == 1
    assert fds() == before
    assert isinstance(fe.request(request_, payload)[0], va.Disconnect)


@pytest.mark.parametrize("number", [0, 33, 99, 2**32 - 1])
def test_row_05_unknown_request(fe: SessionFrontend, number: int) -> None:
    assert fe.ack(number) == 1
    assert isinstance(fe.request(number)[0], va.Disconnect)


def test_row_06_reply_flag_on_a_request(fe: SessionFrontend) -> None:
    assert isinstance(fe.request(R.VHOST_USER_SET_OWNER, flags=5)[0], va.Disconnect)


def test_row_07_unexpected_descriptors_are_closed(fe: SessionFrontend) -> None:
    before = fds()
    assert fe.ack(R.VHOST_USER_SET_FEATURES, U64(0), [fe.ram.fd] * 8) == 1
    assert fds() == before


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_row_08_wrong_number_of_descriptors(fe: SessionFrontend, count: int) -> None:
    before = fds()
    table = vu.encode_mem_table(fe.ram.specs)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * count) == 1
    assert fds() == before


def test_row_08_descriptors_lost_by_the_kernel(fe: SessionFrontend) -> None:
    table = vu.encode_mem_table(fe.ram.specs)
    given = tuple(os.dup(fe.ram.fd) for _ in range(2))
    before = fds()
    fe.carry_out(fe.session.handle(vu.Message(R.VHOST_USER_SET_MEM_TABLE, 9, table, given, truncated=True)))
    assert fds() == before - 2
    assert fe.session.memory.regions == ()


@pytest.mark.parametrize(("word", "count"), [(0x100, 1), (0, 0)])
def test_row_09_nofd_bit_disagrees(fe: SessionFrontend, word: int, count: int) -> None:
    before = fds()
    assert fe.ack(R.VHOST_USER_SET_VRING_KICK, U64(word), [fe.ram.fd] * count) == 1
    assert fds() == before


@pytest.mark.parametrize("index", [2, 255, 2**31])
@pytest.mark.parametrize(
    "request_",
    [
        R.VHOST_USER_SET_VRING_NUM,
        R.VHOST_USER_SET_VRING_BASE,
        R.VHOST_USER_GET_VRING_BASE,
        R.VHOST_USER_SET_VRING_ENABLE,
        R.VHOST_USER_SET_VRING_KICK,
        R.VHOST_USER_SET_VRING_CALL,
        R.VHOST_USER_SET_VRING_ERR,
        R.VHOST_USER_SET_VRING_ADDR,
    ],
)
def test_row_12_ring_index_out_of_range(fe: SessionFrontend, request_: R, index: int) -> None:
    payload = index.to_bytes(4, "little") + bytes(4)
    given = []
    if request_ == R.VHOST_USER_SET_VRING_ADDR:
        payload += bytes(32)
    if 12 <= request_ <= 14:
        given = [fe.ram.fd]
    assert fe.ack(request_, payload, given) == 1


@pytest.mark.parametrize("count", [0, 9, 2**32 - 1])
def test_row_13_number_of_regions(fe: SessionFrontend, count: int) -> None:
    table = count.to_bytes(4, "little") + bytes(4) + bytes(8 * 32)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd]) == 1


@pytest.mark.parametrize(
    "spec",
    [
        RegionSpec(0, 0, UVA, 0),
        RegionSpec(2**64 - 4096, 8192, UVA, 0),
        RegionSpec(0, 8192, 2**64 - 4096, 0),
        RegionSpec(0, 8192, UVA, 2**64 - 4096),
        RegionSpec(0, 2**64 - 1, 0, 0),
    ],
    ids=["empty", "gpa-wraps", "uva-wraps", "offset-wraps", "everything"],
)
def test_row_14_bad_region(fe: SessionFrontend, spec: RegionSpec) -> None:
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table([spec]), [fe.ram.fd]) == 1


@pytest.mark.parametrize(("gpa", "uva"), [(4096, UVA + SPLIT), (SPLIT, UVA + 4096)], ids=["gpa", "uva"])
def test_row_15_overlapping_regions(fe: SessionFrontend, gpa: int, uva: int) -> None:
    table = vu.encode_mem_table([RegionSpec(0, 8192, UVA, 0), RegionSpec(gpa, 8192, uva, 0)])
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2) == 1


def test_row_16_file_shorter_than_the_region(fe: SessionFrontend) -> None:
    for spec in (RegionSpec(0, RAM_SIZE + 1, UVA, 0), RegionSpec(0, RAM_SIZE, UVA, 4096)):
        assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table([spec]), [fe.ram.fd]) == 1


def test_row_17_unmappable_descriptor_rolls_back(fe: SessionFrontend, tmp_path: object) -> None:
    table = vu.encode_mem_table(fe.ram.specs)
    left, right = socket.socketpair()
    readonly = os.open(f"/proc/self/fd/{fe.ram.fd}", os.O_RDONLY)
    event = os.eventfd(0)
    before = fds()
    for bad in (left.fileno(), readonly, event):
        assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd, bad]) == 1
    assert fds() == before
    assert fe.session.memory.regions == ()
    os.close(readonly)
    os.close(event)
    left.close()
    right.close()


def test_row_19_new_memory_without_the_rings_breaks_them(fe: SessionFrontend) -> None:
    fe.start()
    far = vu.encode_mem_table([RegionSpec(SPLIT, 4096, UVA + 2**32, 0)])
    actions = fe.request(R.VHOST_USER_SET_MEM_TABLE, far, [fe.ram.fd])
    assert fe.running() == [False, False]
    assert [action.index for action in actions if isinstance(action, va.RingBroken)] == [0, 1]
    fe.request(R.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table(fe.ram.specs), [fe.ram.fd] * 2)
    assert fe.running() == [False, False]
    fe.request(R.VHOST_USER_SET_VRING_ADDR, fe.addr(0))
    assert fe.running() == [True, False]


def test_row_20_memory_slots(slots: SessionFrontend) -> None:
    fe = slots
    body = vu.SINGLE_REGION.pack(0, 0, 4096, UVA, 0)
    assert fe.ack(R.VHOST_USER_REM_MEM_REG, body) == 1
    assert fe.ack(R.VHOST_USER_ADD_MEM_REG, body, [fe.ram.fd]) == 0
    longer = vu.SINGLE_REGION.pack(0, 0, 8192, UVA, 0)
    assert fe.ack(R.VHOST_USER_ADD_MEM_REG, longer, [fe.ram.fd]) == 1
    for number in range(1, 32):
        body = vu.SINGLE_REGION.pack(0, number * 4096, 4096, UVA + number * 4096, 0)
        assert fe.ack(R.VHOST_USER_ADD_MEM_REG, body, [fe.ram.fd]) == 0
    body = vu.SINGLE_REGION.pack(0, 32 * 4096, 4096, UVA + 32 * 4096, 0)
    assert fe.ack(R.VHOST_USER_ADD_MEM_REG, body, [fe.ram.fd]) == 1
    assert len(fe.session.memory.regions) == 32


def test_region_that_is_given_and_taken_once_for_each_pair_is_one_region(slots: SessionFrontend) -> None:
    """QEMU 7.2 with queues=4."""
    fe, before = slots, fds()
    body = vu.SINGLE_REGION.pack(0, 0, 4096, UVA, 0)
    for _ in range(2):
        for _ in range(4):
            assert fe.ack(R.VHOST_USER_ADD_MEM_REG, body, [fe.ram.fd]) == 0
            assert len(fe.session.memory.regions) == 1
        for _ in range(4):
            assert fe.ack(R.VHOST_USER_REM_MEM_REG, body) == 0
            assert len(fe.session.memory.regions) == 0
    assert fe.ack(R.VHOST_USER_REM_MEM_REG, vu.SINGLE_REGION.pack(0, 0, 8192, UVA, 0)) == 1
    assert fds() == before


def test_ring_whose_region_comes_back_in_another_shape_goes_on(slots: SessionFrontend) -> None:
    fe = slots
    fe.start()
    vring = fe.session.vrings[1]
    ring = vring.ring
    assert fe.ack(R.VHOST_USER_REM_MEM_REG, vu.SINGLE_REGION.pack(0, *fe.ram.specs[0])) == 0
    assert fe.running() == [False, False]
    assert vring.parked is ring
    assert fe.ack(R.VHOST_USER_ADD_MEM_REG, vu.SINGLE_REGION.pack(0, 0, 4096, UVA, 0), [fe.ram.fd]) == 0
    assert vring.parked is ring, "its place is not there yet"
    rest = vu.SINGLE_REGION.pack(0, 4096, SPLIT - 4096, UVA + 4096, 4096)
    assert fe.ack(R.VHOST_USER_ADD_MEM_REG, rest, [fe.ram.fd]) == 0
    assert vring.ring is ring
    assert vring.parked is None
    assert va.RingResumed(1) in fe.actions


def test_ring_whose_region_never_comes_back_stops_where_it_stood(slots: SessionFrontend) -> None:
    fe = slots
    fe.start()
    vring = fe.session.vrings[1]
    assert fe.ack(R.VHOST_USER_REM_MEM_REG, vu.SINGLE_REGION.pack(0, *fe.ram.specs[0])) == 0
    assert vring.parked is not None
    fe.request(R.VHOST_USER_GET_VRING_BASE, fe.state(1, 0))
    assert (vring.parked, vring.ring, vring.broken, vring.base) == (None, None, None, 0)


@pytest.mark.parametrize("num", [0, 3, 32769, 65536])
def test_row_21_ring_size(fe: SessionFrontend, num: int) -> None:
    assert fe.ack(R.VHOST_USER_SET_VRING_NUM, fe.state(0, num)) == 1


def test_row_22_running_ring_is_not_changed(fe: SessionFrontend) -> None:
    fe.start()
    assert fe.ack(R.VHOST_USER_SET_VRING_NUM, fe.state(0, 8)) == 1
    assert fe.ack(R.VHOST_USER_SET_VRING_BASE, fe.state(0, 5)) == 1
    assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, fe.addr(0, desc=fe.ram.uva(0))) == 1
    assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, fe.addr(0)) == 0
    assert fe.running() == [True, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"desc": UVA + SPLIT + 4096},
        {"desc": UVA + SPLIT - 16},
        {"desc": UVA + 8},
        {"used": UVA + 2},
        {"avail": UVA + 1},
        {"avail": 2**64 - 2},
    ],
    ids=["hole", "straddles", "desc-align", "used-align", "avail-align", "wraps"],
)
def test_row_23_ring_address(fe: SessionFrontend, changes: dict[str, int]) -> None:
    table = vu.encode_mem_table(fe.ram.specs)
    fe.request(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2)
    fe.request(R.VHOST_USER_SET_VRING_NUM, fe.state(0, 16))
    assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, fe.addr(0, **changes)) == 1
    fe.request(R.VHOST_USER_SET_VRING_KICK, U64(0), [fe.kick[0]])
    assert fe.running() == [False, False]


def test_row_23_ring_address_before_memory_breaks_at_the_start(fe: SessionFrontend) -> None:
    fe.request(R.VHOST_USER_SET_VRING_NUM, fe.state(0, 16))
    fe.request(R.VHOST_USER_SET_VRING_ADDR, fe.addr(0, desc=UVA + 8))
    fe.request(R.VHOST_USER_SET_VRING_KICK, U64(0), [fe.kick[0]])
    actions = fe.request(R.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table(fe.ram.specs), [fe.ram.fd] * 2)
    assert any(isinstance(action, va.RingBroken) for action in actions)


def test_row_24_kick_and_enable_first_are_remembered(fe: SessionFrontend) -> None:
    messages = fe.start_messages(MODERN)
    fe.request(*messages[0][:2])
    for request, payload, given in reversed(messages[1:]):
        fe.request(request, payload, given)
    assert fe.running() == [True, True]


@pytest.mark.parametrize("base", [0x10000, 0xFFFFFFFF])
def test_row_25_base_above_16_bits(fe: SessionFrontend, base: int) -> None:
    assert fe.ack(R.VHOST_USER_SET_VRING_BASE, fe.state(0, base)) == 1


def test_row_26_features_never_offered(fe: SessionFrontend) -> None:
    fe.request(R.VHOST_USER_SET_STATUS, U64(0xB))
    assert fe.ack(R.VHOST_USER_SET_FEATURES, U64(MODERN | 1 << 33)) == 1
    assert fe.session.features == 0
    assert fe.ack(R.VHOST_USER_GET_STATUS) == 3
    assert fe.ack(R.VHOST_USER_SET_PROTOCOL_FEATURES, U64(1 << 9)) == 1


def test_row_27_features_changed_while_running(fe: SessionFrontend) -> None:
    fe.start()
    assert fe.ack(R.VHOST_USER_SET_FEATURES, U64(LEGACY)) == 1
    assert fe.ack(R.VHOST_USER_SET_FEATURES, U64(MODERN)) == 0


@pytest.mark.parametrize(
    "request_", [R.VHOST_USER_SET_STATUS, R.VHOST_USER_SEND_RARP, R.VHOST_USER_NET_SET_MTU]
)
def test_row_28_message_without_its_protocol_feature(request_: R) -> None:
    fe = SessionFrontend()
    fe.request(R.VHOST_USER_SET_PROTOCOL_FEATURES, U64(1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK))
    assert fe.ack(request_, U64(1400)) == 1
    fe.close()


def test_row_29_in_band_notifications_are_not_offered(fe: SessionFrontend) -> None:
    actions = fe.request(R.VHOST_USER_SET_PROTOCOL_FEATURES, U64(1 << 14))
    assert isinstance(actions[0], va.Disconnect)


def test_row_52_replaced_descriptors_do_not_pile_up(fe: SessionFrontend) -> None:
    fe.start()
    before = fds()
    table = vu.encode_mem_table(fe.ram.specs)
    for _ in range(200):
        fe.request(R.VHOST_USER_SET_VRING_CALL, U64(1), [fe.call[1]])
        fe.request(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2)
    assert fds() == before


def test_broken_ring_stays_out_until_stopped_and_started(fe: SessionFrontend) -> None:
    fe.start()
    fe.tx.add_out(bytes(72))
    actions = fe.session.quarantine(1, BrokenRing(1, "rule", "2.7"))
    assert va.StateChanged() in actions
    fe.request(R.VHOST_USER_SET_VRING_KICK, U64(1), [fe.kick[1]])
    assert fe.running() == [True, False]
    assert fe.tx.used_idx == 0
    fe.request(R.VHOST_USER_GET_VRING_BASE, fe.state(1, 0))
    fe.start()
    assert fe.running() == [True, True]


@contextmanager
def no_mapping_stays(fe: SessionFrontend) -> Iterator[None]:
    """At the session's end, without waiting for the collector: each mapping has a descriptor of its own."""
    gc.disable()
    try:
        yield
        before = len(os.listdir("/proc/self/fd"))
        fe.carry_out(fe.session.close())
        assert len(os.listdir("/proc/self/fd")) == before - len(fe.ram.specs)
    finally:
        gc.enable()
        fe.close()


def test_error_of_a_ring_that_could_not_start_does_not_keep_the_guests_memory_mapped() -> None:
    """Its traceback would: its frames hold the views of a ring that was half made, and each other in a circle."""
    fe = SessionFrontend(packed=True)
    fe.negotiate()
    with no_mapping_stays(fe):
        fe.request(R.VHOST_USER_SET_FEATURES, U64(PACKED))
        more_in_flight_than_16 = fe.state(1, 0x10000)
        fe.request(R.VHOST_USER_SET_VRING_BASE, more_in_flight_than_16)
        for request, payload, given in fe.start_messages(PACKED):
            if request != R.VHOST_USER_SET_VRING_BASE:
                fe.request(request, payload, given)
        assert fe.running() == [True, False]


def test_error_that_ends_a_session_does_not_keep_the_guests_memory_mapped() -> None:
    """The first area of the ring lies in memory, the second does not, and nobody asked for an answer."""
    fe = SessionFrontend()
    fe.negotiate()
    with no_mapping_stays(fe):
        fe.request(R.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table(fe.ram.specs), [fe.ram.fd] * 2)
        fe.request(R.VHOST_USER_SET_VRING_NUM, fe.state(1, 16))
        desc, nowhere = fe.ram.uva(fe.tx.desc_gpa), 1 << 50
        actions = fe.request(R.VHOST_USER_SET_VRING_ADDR, vu.VRING_ADDR.pack(1, 0, desc, nowhere, nowhere, 0))
        assert any(isinstance(action, va.Disconnect) for action in actions)
