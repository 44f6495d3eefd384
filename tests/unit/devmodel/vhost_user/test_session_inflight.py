# SPDX-License-Identifier: GPL-2.0-or-later
"""GET_INFLIGHT_FD and SET_INFLIGHT_FD: a region is made, checked, used by the rings, and let go of."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest
from vu_driver import PACKED, SessionFrontend

from devmodel.errors import MappingError
from devmodel.vhost_user import actions as va
from devmodel.vhost_user import message as vu
from devmodel.vhost_user.mapping import allocate
from devmodel.vhost_user.message import Request as R
from devmodel.virtio.inflight import InflightSpec, queue_bytes, region_bytes
from devmodel.virtio.ring_packed import PackedRing
from devmodel.virtio.ring_split import SplitRing
from devmodel.virtio.ring_tracked import TrackedPackedRing, TrackedSplitRing

GET, SET = R.VHOST_USER_GET_INFLIGHT_FD, R.VHOST_USER_SET_INFLIGHT_FD
NUM = 16


@pytest.fixture
def fe() -> Iterator[SessionFrontend]:
    frontend = SessionFrontend(NUM, allocator=allocate)
    frontend.negotiate()
    yield frontend
    frontend.close()


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = allocate(region_bytes(2, NUM))
    yield fd
    os.close(fd)


def spec(**changes: int) -> bytes:
    fields = {"mmap_size": region_bytes(2, NUM), "mmap_offset": 0, "num_queues": 2, "queue_size": NUM}
    return vu.encode_inflight(InflightSpec(**fields | changes))


def asked(fe: SessionFrontend, payload: bytes) -> va.Reply:
    (reply,) = (action for action in fe.request(GET, payload) if isinstance(action, va.Reply))
    return reply


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- GET_INFLIGHT_FD ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20, 24])
def test_get_answers_24_bytes_and_a_sealed_region_of_zeros(fe: SessionFrontend, size: int) -> None:
    reply = asked(fe, spec(mmap_size=0)[:size])
    assert len(reply.data) == vu.HEADER.size + 24
    told = vu.decode_inflight(reply.data[vu.HEADER.size :])
    assert told == (region_bytes(2, NUM), 0, 2, NUM)
    assert reply.fd is not None
    assert os.fstat(reply.fd).st_size == told.mmap_size
    assert fcntl.fcntl(reply.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    assert os.pread(reply.fd, 1 << 16, 0) == bytes(told.mmap_size)


@pytest.mark.parametrize(
    "changes", [{"num_queues": 0}, {"num_queues": 3}, {"num_queues": 65535}, {"queue_size": 0}]
)
def test_get_of_impossible_numbers_is_answered_by_a_size_of_0(
    fe: SessionFrontend, changes: dict[str, int]
) -> None:
    reply = asked(fe, spec(**changes))
    assert reply.fd is None
    assert vu.decode_inflight(reply.data[vu.HEADER.size :]).mmap_size == 0


def test_get_without_memory_is_answered_by_a_size_of_0() -> None:
    def none(size: int) -> int:
        raise MappingError("no shared memory can be made")

    for allocator in (None, none):
        frontend = SessionFrontend(NUM, allocator=allocator)
        frontend.negotiate()
        assert vu.decode_inflight(asked(frontend, spec()).data[vu.HEADER.size :]).mmap_size == 0
        frontend.close()


def test_get_again_and_again_keeps_no_descriptor(fe: SessionFrontend) -> None:
    asked(fe, spec())
    before = fds()
    for _ in range(100):
        asked(fe, spec())
    assert fds() == before


def test_both_need_the_protocol_feature(memfd: int) -> None:
    frontend = SessionFrontend(NUM, allocator=allocate)
    frontend.request(R.VHOST_USER_SET_PROTOCOL_FEATURES, vu.U64.pack(1 << vu.VHOST_USER_PROTOCOL_F_REPLY_ACK))
    assert frontend.ack(GET, spec()) == 1
    assert frontend.ack(SET, spec(), [memfd]) == 1
    frontend.close()


# -- SET_INFLIGHT_FD ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20, 24])
@pytest.mark.parametrize(
    ("packed", "kind"), [(False, TrackedSplitRing), (True, TrackedPackedRing)], ids=["split", "packed"]
)
def test_set_before_the_start_makes_rings_that_track(
    memfd: int, size: int, packed: bool, kind: type[object]
) -> None:
    fe = SessionFrontend(NUM, packed, allocator=allocate)
    fe.negotiate()
    assert fe.ack(SET, spec()[:size], [memfd]) == 0
    fe.start()
    assert [type(vring.ring) for vring in fe.session.vrings] == [kind, kind]
    stride = queue_bytes(NUM, packed)
    for index in (0, 1):
        assert os.pread(memfd, 4, index * stride + 8) == b"\1\0\x10\0"  # version, desc_num
    fe.close()


def test_ring_that_the_region_does_not_cover_does_not_track(fe: SessionFrontend, memfd: int) -> None:
    assert fe.ack(SET, spec(num_queues=1), [memfd]) == 0
    fe.start()
    assert [type(vring.ring) for vring in fe.session.vrings] == [TrackedSplitRing, SplitRing]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_queues": 0},
        {"num_queues": 65535},
        {"queue_size": 0},
        {"queue_size": 65535},
        {"queue_size": 2 * NUM, "mmap_size": queue_bytes(2 * NUM, packed=False)},
        {"mmap_size": 0},
        {"mmap_size": 64},
        {"mmap_size": 1 << 40},
        {"mmap_size": (1 << 64) - 1},
        {"mmap_offset": 8},
        {"mmap_offset": 4096},
        {"mmap_offset": (1 << 64) - 64},
    ],
)
def test_set_of_false_numbers_is_refused_and_changes_nothing(
    fe: SessionFrontend, memfd: int, changes: dict[str, int]
) -> None:
    before = fds()
    assert fe.ack(SET, spec(**changes), [memfd]) == 1
    assert fe.session.inflight is None
    assert fds() == before
    fe.start()
    assert fe.running() == [True, True]


def test_set_of_an_unknown_version_is_refused(fe: SessionFrontend, memfd: int) -> None:
    os.pwrite(memfd, b"\2", queue_bytes(NUM, packed=False) + 8)
    assert fe.ack(SET, spec(), [memfd]) == 1


def test_set_while_a_ring_runs_is_refused(fe: SessionFrontend, memfd: int) -> None:
    fe.start()
    assert fe.ack(SET, spec(), [memfd]) == 1


def test_set_without_a_descriptor_or_with_two_is_refused(fe: SessionFrontend, memfd: int) -> None:
    assert fe.ack(SET, spec(), []) == 1
    assert fe.ack(SET, spec(), [memfd, memfd]) == 1


def test_set_again_and_again_keeps_one_mapping(fe: SessionFrontend, memfd: int) -> None:
    fe.request(SET, spec(), [memfd])
    before = fds()
    for _ in range(50):
        assert fe.ack(SET, spec(), [memfd]) == 0
    assert fds() == before


def test_lists_that_make_no_sense_break_that_ring_alone(fe: SessionFrontend, memfd: int) -> None:
    os.pwrite(memfd, b"\1\0\x10\0\xff\xff\xfe\xff", 8)  # the last batch has two heads, the first is 65535
    assert fe.ack(SET, spec(), [memfd]) == 0
    fe.start()
    assert fe.running() == [False, True]
    broken = fe.session.vrings[0].broken
    assert broken is not None
    assert "leads to 65535" in broken.rule


def test_reset_device_lets_the_region_go(fe: SessionFrontend, memfd: int) -> None:
    fe.request(SET, spec(), [memfd])
    fe.start()
    assert fe.ack(R.VHOST_USER_RESET_DEVICE) == 0
    assert fe.session.inflight is None
    fe.start()
    assert type(fe.session.vrings[0].ring) is SplitRing


def test_layout_that_the_region_is_too_short_for_breaks_its_rings(memfd: int) -> None:
    fe = SessionFrontend(NUM, packed=True, allocator=allocate)
    fe.negotiate()
    short = 2 * queue_bytes(NUM, packed=False)
    assert fe.ack(SET, spec(mmap_size=short), [memfd]) == 0  # no layout was negotiated yet
    fe.start()
    assert fe.features & PACKED
    assert fe.running() == [False, False]
    fe.close()


def test_without_a_region_rings_do_not_track() -> None:
    for packed, kind in ((False, SplitRing), (True, PackedRing)):
        fe = SessionFrontend(NUM, packed, allocator=allocate)
        fe.negotiate()
        fe.start()
        assert type(fe.session.vrings[1].ring) is kind
        fe.close()
