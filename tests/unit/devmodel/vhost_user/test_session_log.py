# SPDX-License-Identifier: GPL-2.0-or-later
"""The session and the dirty log: where it may lie, when it is switched, and what is refused (row 48 of BAD_INPUTS)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from vu_driver import MODERN, PACKED, RAM_SIZE, UVA, SessionFrontend

from devmodel.vhost_user import actions as va
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user.message import Request as R
from devmodel.virtio import features as vf
from devmodel.virtio.dirtylog import LoggedPackedRing, LoggedSplitRing
from devmodel.virtio.memory import RegionSpec
from devmodel.virtio.ring_packed import PackedRing
from devmodel.virtio.ring_split import SplitRing
from guest.driver.dirtylog import GuestLog

U64 = vu.U64.pack
LOG_ALL = vf.mask(vf.VHOST_F_LOG_ALL)
HDR, FRAME = bytes(12), b"f" * 60
F_LOG = vu.VHOST_VRING_F_LOG


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def fe(request: pytest.FixtureRequest) -> Iterator[SessionFrontend]:
    frontend = SessionFrontend(packed=request.param)
    frontend.negotiate()
    yield frontend
    frontend.close()


@pytest.fixture
def log(fe: SessionFrontend) -> Iterator[GuestLog]:
    made = GuestLog(fe.ram.specs)
    yield made
    made.close()


def base(log: GuestLog) -> bytes:
    return vu.LOG.pack(log.size, log.offset)


def addr(fe: SessionFrontend, index: int, log: int | None = None) -> bytes:
    """SET_VRING_ADDR with the log flag, at the used ring or elsewhere."""
    ring, uva = fe.ring(index), fe.ram.uva
    where = ring.used_gpa if log is None else log
    return vu.VRING_ADDR.pack(
        index, F_LOG, uva(ring.desc_gpa), uva(ring.used_gpa), uva(ring.avail_gpa), where
    )


def switch_on(fe: SessionFrontend, log: GuestLog) -> None:
    """As QEMU does when a migration begins."""
    fe.request(R.VHOST_USER_SET_LOG_BASE, base(log), [log.fd])
    assert fe.ack(R.VHOST_USER_SET_FEATURES, U64(fe.features | LOG_ALL)) == 0
    for index in range(2):
        assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, addr(fe, index)) == 0


def kinds(fe: SessionFrontend) -> list[type]:
    return [type(vring.ring) for vring in fe.session.vrings]


def send_frame(fe: SessionFrontend) -> None:
    ring = fe.session.vrings[1].ring
    assert ring is not None
    fe.tx.add_out(HDR + FRAME)
    assert fe.session.net.receive(ring, 8) == [(None, FRAME)]
    ring.publish()
    assert len(fe.tx.used()) == 1


def pages(gpa: int, size: int) -> set[int]:
    return set(range(gpa >> 12, (gpa + size - 1 >> 12) + 1))


def test_what_a_migration_needs_is_offered(fe: SessionFrontend) -> None:
    assert "VHOST_F_LOG_ALL" in vf.names(fe.session.offered)
    assert "VHOST_USER_PROTOCOL_F_LOG_SHMFD" in vu.names(fe.session.offered_protocol)


def test_log_base_is_answered_by_an_empty_message_that_nobody_asked_for(
    fe: SessionFrontend, log: GuestLog
) -> None:
    actions = fe.request(R.VHOST_USER_SET_LOG_BASE, base(log), [log.fd])
    [reply] = [action.data for action in actions if isinstance(action, va.Reply)]
    assert reply == vu.encode_reply(R.VHOST_USER_SET_LOG_BASE, b"")
    assert fe.ack(R.VHOST_USER_SET_LOG_BASE, base(log), [log.fd]) == 0


def test_running_rings_are_replaced_where_they_stand(fe: SessionFrontend, log: GuestLog) -> None:
    fe.start()
    plain, logged = (PackedRing, LoggedPackedRing) if fe.session.packed else (SplitRing, LoggedSplitRing)
    for _ in range(3):
        send_frame(fe)
    switch_on(fe, log)
    assert kinds(fe) == [logged, logged]
    assert not fe.session.vrings[1].broken
    for _ in range(20):
        send_frame(fe)
    assert pages(fe.tx.used_gpa, 4) <= log.take()
    assert fe.ack(R.VHOST_USER_SET_FEATURES, U64(fe.features)) == 0
    for index in range(2):
        assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, fe.addr(index)) == 0
    assert kinds(fe) == [plain, plain]
    for _ in range(20):
        send_frame(fe)
    assert not log.take()


def test_switching_leaves_what_was_negotiated_alone(fe: SessionFrontend, log: GuestLog) -> None:
    fe.start()
    fe.session.net.control.pairs = 7  # what a driver had told the control queue
    switch_on(fe, log)
    fe.request(R.VHOST_USER_SET_FEATURES, U64(fe.features))
    assert fe.session.net.control.pairs == 7
    assert fe.ack(R.VHOST_USER_SET_FEATURES, U64(fe.features ^ 1)) == 1  # anything else is still refused


def test_frame_to_the_guest_is_marked_where_it_lies(fe: SessionFrontend, log: GuestLog) -> None:
    fe.start()
    _, places = fe.rx.add_in(1526)
    switch_on(fe, log)
    log.take()
    ring = fe.session.vrings[0].ring
    assert ring is not None
    assert fe.session.net.transmit(ring, None, [FRAME]) == 0
    assert pages(places[0][0], 72) <= log.take()


def test_ring_without_the_flag_marks_buffers_only(fe: SessionFrontend, log: GuestLog) -> None:
    fe.ram.next_free = 0x200000
    fe.start()
    fe.request(R.VHOST_USER_SET_LOG_BASE, base(log), [log.fd])
    fe.request(R.VHOST_USER_SET_FEATURES, U64(fe.features | LOG_ALL))
    send_frame(fe)
    assert not log.take()


def test_batch_that_was_not_shown_yet_is_shown_and_signalled(fe: SessionFrontend, log: GuestLog) -> None:
    fe.start()
    fe.rx.add_in(1526)
    ring = fe.session.vrings[0].ring
    assert ring is not None
    assert fe.session.net.transmit(ring, None, [FRAME]) == 0
    assert not fe.rx.used()
    actions = fe.request(R.VHOST_USER_SET_FEATURES, U64(fe.features | LOG_ALL))
    assert va.Signal(0) in actions
    assert len(fe.rx.used()) == 1


def test_log_fd_is_kept_by_the_caller(fe: SessionFrontend) -> None:
    fd = os.eventfd(0)
    actions = fe.request(R.VHOST_USER_SET_LOG_FD, b"", [fd])
    assert any(isinstance(action, va.LogFd) for action in actions)
    os.close(fd)


def test_rings_start_while_logging_and_before_the_log_is_known(fe: SessionFrontend, log: GuestLog) -> None:
    """What QEMU does for a guest that boots during a migration."""
    fe.features |= LOG_ALL
    fe.start()
    for index in range(2):
        assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, addr(fe, index)) == 0
    send_frame(fe)
    fe.request(R.VHOST_USER_SET_LOG_BASE, base(log), [log.fd])
    assert pages(fe.tx.used_gpa, 4) <= log.take()


# -- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "offset"),
    [
        (0, 0),
        (RAM_SIZE // 32768 - 1, 0),  # a byte too short for the memory
        (RAM_SIZE // 32768, 1 << 20),  # behind the end of its file
        (1 << 40, 0),
        ((1 << 64) - 1, 0),
        (4096, (1 << 64) - 4096),
        ((1 << 64) - 1, (1 << 64) - 1),
    ],
)
def test_log_of_a_false_size_is_refused(fe: SessionFrontend, log: GuestLog, size: int, offset: int) -> None:
    fe.start()
    switch_on(fe, log)
    log.take()
    assert fe.ack(R.VHOST_USER_SET_LOG_BASE, vu.LOG.pack(size, offset), [log.fd]) == 1
    send_frame(fe)
    assert log.take()  # the old one is still the log


def test_log_that_cannot_be_mapped_is_refused(fe: SessionFrontend, log: GuestLog) -> None:
    fe.start()
    fd = os.eventfd(0)
    assert fe.ack(R.VHOST_USER_SET_LOG_BASE, base(log), [fd]) == 1
    os.close(fd)


def test_log_without_its_protocol_feature_is_refused(fe: SessionFrontend, log: GuestLog) -> None:
    agreed = vs.PROTOCOL_FEATURES & ~vf.mask(vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD)
    fe.request(R.VHOST_USER_SET_PROTOCOL_FEATURES, U64(agreed))
    assert fe.ack(R.VHOST_USER_SET_LOG_BASE, base(log), [log.fd]) == 1


@pytest.mark.parametrize("where", [RAM_SIZE, RAM_SIZE - 2, 1 << 40, (1 << 64) - 1])
def test_used_ring_outside_of_memory_is_refused(fe: SessionFrontend, log: GuestLog, where: int) -> None:
    fe.start()
    switch_on(fe, log)
    assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, addr(fe, 1, where)) == 1
    send_frame(fe)
    assert pages(fe.tx.used_gpa, 4) <= log.take()


def test_flag_for_a_place_that_is_no_memory_breaks_the_ring_that_starts(fe: SessionFrontend) -> None:
    """Where memory was not known when the address was told."""
    fe.request(R.VHOST_USER_SET_FEATURES, U64(fe.features | LOG_ALL))
    for index in range(2):
        fe.request(R.VHOST_USER_SET_VRING_NUM, fe.state(index, 16))
        fe.request(R.VHOST_USER_SET_VRING_BASE, fe.state(index, fe.fresh[index]))
        assert fe.ack(R.VHOST_USER_SET_VRING_ADDR, addr(fe, index, 1 << 41)) == 0
        fe.request(R.VHOST_USER_SET_VRING_KICK, U64(index), [fe.kick[index]])
    table = vu.encode_mem_table(fe.ram.specs)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2) == 0
    assert not any(fe.running())
    assert "log_guest_addr" in str(fe.session.vrings[0].broken)


def grown(fe: SessionFrontend) -> tuple[bytes, list[int]]:
    """A memory table with one more region, far behind the others."""
    specs = [*fe.ram.specs, RegionSpec(1 << 32, 4096, UVA + (1 << 40), 0)]
    return vu.encode_mem_table(specs), [fe.ram.fd] * 3


def test_memory_may_not_grow_beyond_the_log_of_running_rings(fe: SessionFrontend, log: GuestLog) -> None:
    fe.start()
    switch_on(fe, log)
    table, fds = grown(fe)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, fds) == 1
    assert len(fe.session.memory.regions) == 2
    send_frame(fe)
    assert log.take()
    larger = GuestLog([RegionSpec(0, (1 << 32) + 4096, 0, 0)])
    fe.request(R.VHOST_USER_SET_LOG_BASE, base(larger), [larger.fd])
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, fds) == 0
    send_frame(fe)
    assert pages(fe.tx.used_gpa, 4) <= larger.take()
    larger.close()


def test_memory_that_outgrows_the_log_while_nothing_runs_ends_the_log(
    fe: SessionFrontend, log: GuestLog
) -> None:
    fe.start()
    switch_on(fe, log)
    for index in range(2):
        fe.request(R.VHOST_USER_GET_VRING_BASE, fe.state(index, 0))
    table, fds = grown(fe)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, fds) == 0
    assert fe.session.log.size == 0


def test_memory_that_moves_takes_the_marks_along(fe: SessionFrontend, log: GuestLog) -> None:
    fe.start()
    switch_on(fe, log)
    table = vu.encode_mem_table(fe.ram.specs)
    assert fe.ack(R.VHOST_USER_SET_MEM_TABLE, table, [fe.ram.fd] * 2) == 0
    assert all(fe.running())
    log.take()
    send_frame(fe)
    assert pages(fe.tx.used_gpa, 4) <= log.take()


def test_legacy_driver_is_logged_too(log: GuestLog, fe: SessionFrontend) -> None:
    assert MODERN & LOG_ALL == PACKED & LOG_ALL == 0
    fe.features = vf.mask(vf.VHOST_USER_F_PROTOCOL_FEATURES) | (
        fe.features & vf.mask(vf.VIRTIO_F_RING_PACKED)
    )
    fe.start()
    switch_on(fe, log)
    assert all(fe.running())
