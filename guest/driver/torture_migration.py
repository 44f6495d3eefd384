# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad inputs of a frontend that migrates its guest: rows 48 and 50 of docs/bad-inputs.md."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable
from typing import Final

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.message import Request
from devmodel.virtio import features as vf
from devmodel.virtio.memory import RegionSpec
from guest.driver.devicestate import write_all
from guest.driver.dirtylog import LOG_PAGE, GuestLog
from guest.driver.frontend import Call
from guest.driver.torture import (
    ACCEPTED,
    ERR,
    LEAKING,
    REFUSED,
    SCRIBBLED,
    SERVE,
    SERVED,
    Case,
    Good,
    Victim,
    feature,
    protocol,
)
from guest.driver.virtio_net import TX

R = Request
CASES: Final[list[Case]] = []
TOP: Final = 1 << 64
SAVE: Final = vu.VHOST_TRANSFER_STATE_DIRECTION_SAVE
LOAD: Final = vu.VHOST_TRANSFER_STATE_DIRECTION_LOAD


def case(row: int, name: str, good: Good) -> Callable[[Callable[[Victim], str]], Callable[[Victim], str]]:
    """Put a function into the table."""

    def put(act: Callable[[Victim], str]) -> Callable[[Victim], str]:
        CASES.append(Case(row, name, act, good))
        return act

    return put


# -- the dirty log: 48 ----------------------------------------------------------------------------------------


def _logs(victim: Victim) -> None:
    """FeatureMissing for a back end that logs nothing."""
    protocol(victim, vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD)
    feature(victim, vf.VHOST_F_LOG_ALL)


def _needed(victim: Victim) -> int:
    """Bytes of the shortest log that covers the memory."""
    end = max(spec.gpa + spec.size for spec in victim.memory.specs)
    return -(-end // (8 * LOG_PAGE))


def _ask_log(victim: Victim, size: int, offset: int, fd: int) -> str:
    """What becomes of SET_LOG_BASE, which is answered without being asked to."""
    payload = vu.LOG.pack(size, offset)
    if victim.frontend.has(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK):
        return victim.ask(R.VHOST_USER_SET_LOG_BASE, payload, [fd])
    victim.backend.call(Call(R.VHOST_USER_SET_LOG_BASE, payload, (fd,), replies=True))
    return ACCEPTED


def _bad_log(name: str, make: Callable[[int, int], tuple[int, int]]) -> None:
    """`make` gives size and offset of what the shortest good size, and the file's, are."""

    def act(victim: Victim) -> str:
        _logs(victim)
        victim.start()
        (fd,) = victim.keep(os.memfd_create("log", os.MFD_CLOEXEC))
        os.ftruncate(fd, 1 << 20)
        return _ask_log(victim, *make(_needed(victim), 1 << 20), fd)

    CASES.append(Case(48, name, act, ERR))


_bad_log("a log of no length", lambda needed, file: (0, 0))
_bad_log("a log that is a byte too short for the memory", lambda needed, file: (needed - 1, 0))
_bad_log("a log that reaches behind its file", lambda needed, file: (needed, file - needed + 1))
_bad_log("a log of 2**63 bytes", lambda needed, file: (1 << 63, 0))
_bad_log("a log that wraps beyond 2**64", lambda needed, file: (needed, TOP - needed))


@case(48, "a log that cannot be mapped", ERR)
def _unmappable(victim: Victim) -> str:
    _logs(victim)
    victim.start()
    (fd,) = victim.keep(os.eventfd(0, os.EFD_CLOEXEC))
    return _ask_log(victim, _needed(victim), 0, fd)


def _logging(victim: Victim) -> GuestLog:
    """Rings that run and log; the log is closed with its descriptor."""
    _logs(victim)
    victim.start()
    log = GuestLog(victim.memory.specs)
    victim.keep(log.fd)
    victim.backend.run(victim.frontend.set_log(log))
    victim.backend.run(victim.frontend.log_writes(True, victim.driver.queues))
    return log


@case(48, "a used ring that is logged outside of memory", ERR)
def _used_outside(victim: Victim) -> str:
    _logging(victim)
    queue, uva = victim.driver.tx, victim.memory.uva
    places = uva(queue.desc_gpa), uva(queue.device_gpa), uva(queue.driver_gpa)
    return victim.ask(
        R.VHOST_USER_SET_VRING_ADDR, vu.VRING_ADDR.pack(TX, vu.VHOST_VRING_F_LOG, *places, 1 << 44)
    )


@case(48, "memory that outgrows the log of rings that run", ERR)
def _outgrown(victim: Victim) -> str:
    _logging(victim)
    far = RegionSpec(1 << 40, 4096, 0x7E00_0000_0000, 0)
    if victim.frontend.has(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS):
        payload = vu.SINGLE_REGION.pack(0, far.gpa, far.size, far.uva, far.offset)
        return victim.ask(R.VHOST_USER_ADD_MEM_REG, payload, [victim.memory.fd])
    specs = [*victim.memory.specs, far]
    return victim.ask(R.VHOST_USER_SET_MEM_TABLE, vu.encode_mem_table(specs), [victim.memory.fd] * len(specs))


@case(48, "a log that ends in the middle of its file", SERVE)
def _nothing_behind(victim: Victim) -> str:
    """Legal: and nothing before or behind it may be touched."""
    _logs(victim)
    victim.start()
    needed, before = _needed(victim), 12345
    (fd,) = victim.keep(os.memfd_create("log", os.MFD_CLOEXEC))
    os.ftruncate(fd, before + needed + 8192)
    if _ask_log(victim, needed, before, fd) != ACCEPTED:
        return REFUSED
    victim.backend.run(victim.frontend.log_writes(True, victim.driver.queues))
    outcome = victim.traffic()
    with mmap.mmap(fd, before + needed + 8192, access=mmap.ACCESS_READ) as area:
        outside = area[:before] + area[before + needed :]
        return outcome if not any(outside) and any(area[before : before + needed]) else SCRIBBLED


@case(48, "logging switched 400 times while the rings run", SERVE)
def _switching(victim: Victim) -> str:
    log = _logging(victim)
    before = victim.fd_count()
    for number in range(400):
        victim.backend.run(victim.frontend.log_writes(bool(number % 2), victim.driver.queues))
        if number % 10 == 0:
            victim.backend.run(victim.frontend.set_log(log))
    if before and victim.fd_count() > before + 16:
        return LEAKING
    return victim.traffic()


# -- the device's state: 50 -----------------------------------------------------------------------------------


def _begin(victim: Victim, direction: int, fd: int, phase: int = 0) -> bool:
    """SET_DEVICE_STATE_FD; whether the back end is willing."""
    payload = vu.DEVICE_STATE.pack(direction, phase)
    answer = victim.backend.call(Call(R.VHOST_USER_SET_DEVICE_STATE_FD, payload, (fd,), replies=True))
    return not int.from_bytes(answer[:8], "little") & vu.DEVICE_STATE_ERROR_MASK


def _check(victim: Victim) -> str:
    answer = victim.backend.call(Call(R.VHOST_USER_CHECK_DEVICE_STATE, replies=True))
    return REFUSED if any(answer[:8]) else ACCEPTED


def _pipe(victim: Victim) -> tuple[int, int]:
    reading, writing = victim.keep(*os.pipe2(os.O_CLOEXEC))
    return reading, writing


def _unwilling(name: str, direction: int, phase: int = 0, start: bool = False) -> None:
    def act(victim: Victim) -> str:
        protocol(victim, vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE)
        if start:
            victim.start()
        return ACCEPTED if _begin(victim, direction, _pipe(victim)[1 - (direction & 1)], phase) else REFUSED

    CASES.append(Case(50, name, act, ERR))


_unwilling("a direction that does not exist", 2)
_unwilling("a phase that does not exist", LOAD, phase=1)
_unwilling("saving while rings run", SAVE, start=True)
_unwilling("loading while rings run", LOAD, start=True)


def _loaded(name: str, data: bytes) -> None:
    """A state that ends, and how it went."""

    def act(victim: Victim) -> str:
        protocol(victim, vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE)
        reading, writing = _pipe(victim)
        if not _begin(victim, LOAD, reading):
            return REFUSED
        victim.drop(reading)  # a back end that has had enough is noticed by that
        with contextlib.suppress(OSError):
            write_all(writing, data, time.monotonic() + victim.settings.deadline_s)
        victim.drop(writing)
        return _check(victim)

    CASES.append(Case(50, name, act, ERR))


_loaded("a state of no bytes", b"")
_loaded("a state of 8 MiB of zeros", bytes(8 << 20))
_loaded("a state of noise", bytes(range(256)) * 64)


@case(50, "a state that was cut short", ERR)
def _cut_short(victim: Victim) -> str:
    """Its own, but for the last byte."""
    protocol(victim, vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE)
    reading, writing = _pipe(victim)
    if not _begin(victim, SAVE, writing):
        return REFUSED
    victim.drop(writing)
    data = b""
    while piece := os.read(reading, 1 << 16):
        data += piece
    if _check(victim) != ACCEPTED:
        return REFUSED
    reading, writing = _pipe(victim)
    if not _begin(victim, LOAD, reading):
        return REFUSED
    write_all(writing, data[:-1], time.monotonic() + victim.settings.deadline_s)
    victim.drop(writing)
    return _check(victim)


@case(50, "a file of 1 TB as the state", ERR)
def _file(victim: Victim) -> str:
    protocol(victim, vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE)
    (fd,) = victim.keep(os.memfd_create("state", os.MFD_CLOEXEC))
    os.ftruncate(fd, 1 << 40)
    return _check(victim) if _begin(victim, LOAD, fd) else REFUSED


@case(50, "a question about a state that nobody moved", ERR)
def _nothing_moved(victim: Victim) -> str:
    protocol(victim, vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE)
    return _check(victim)


def _unfinished(name: str, direction: int) -> None:
    """A pipe that stands still; the rings are started all the same, and serve."""

    def act(victim: Victim) -> str:
        protocol(victim, vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE)
        ends = _pipe(victim)
        if not _begin(victim, direction, ends[1 - direction]):
            return REFUSED
        if direction == LOAD:
            os.write(ends[1], b"v")
        victim.start()
        return victim.traffic()

    CASES.append(Case(50, name, act, SERVE | ERR))


_unfinished("a state that never ends", LOAD)
_unfinished("a state that nobody reads", SAVE)


@case(50, "a state whose reader goes away", SERVE | ERR)
def _reader_gone(victim: Victim) -> str:
    protocol(victim, vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE)
    reading, writing = _pipe(victim)
    victim.drop(reading)
    if _begin(victim, SAVE, writing) and _check(victim) == ACCEPTED:
        return ACCEPTED
    return SERVED if victim.start().traffic() == SERVED else REFUSED
