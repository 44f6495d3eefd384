# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end's state through a session and through pipes: row 50 of BAD_INPUTS, and what is good."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vu_driver import SessionFrontend
from vu_rig import Rig, run

from devmodel.errors import StateError
from devmodel.vhost_user import actions as va
from devmodel.vhost_user import message as vu
from devmodel.vhost_user import session as vs
from devmodel.vhost_user import transfer
from devmodel.vhost_user.message import Request as R
from devmodel.virtio import features as vf
from devmodel.virtio import state as virtio_state
from devmodel.virtio.net import VirtioNet
from devmodel.virtio.state import DeviceState, StateReader

U64 = vu.U64.pack
SAVE = vu.VHOST_TRANSFER_STATE_DIRECTION_SAVE
LOAD = vu.VHOST_TRANSFER_STATE_DIRECTION_LOAD
STARTED = vu.DEVICE_STATE_NOFD
REFUSED = vu.DEVICE_STATE_NOFD | 1


class Owner:
    """What is behind the device."""

    def __init__(self, has: bytes = b"owner") -> None:
        self.has = has
        self.picky = False
        self.loaded = 0

    def save_state(self) -> bytes:
        if self.picky:
            raise StateError("there is nothing to save")
        return self.has

    def load_state(self, owner: bytes) -> None:
        if self.picky or owner.startswith(b"bad"):
            raise StateError("not for this one")
        self.has, self.loaded = owner, self.loaded + 1


class StateFrontend(SessionFrontend):
    """With an owner, and transfers that are kept instead of carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.session = vs.Session(vs_mapper(), owner=Owner(), queue_pairs=1, control_queue=True)
        self.fds: list[int] = []

    def transfer_begun(self, action: va.SaveState | va.LoadState) -> None:
        self.fds.append(action.fd)

    def transfer(self, direction: int, phase: int = 0) -> int:
        """What SET_DEVICE_STATE_FD answers."""
        reading, writing = os.pipe()
        actions = self.request(
            R.VHOST_USER_SET_DEVICE_STATE_FD, vu.DEVICE_STATE.pack(direction, phase), [writing]
        )
        os.close(reading)
        os.close(writing)
        return number(actions)

    def check(self) -> int:
        return number(self.request(R.VHOST_USER_CHECK_DEVICE_STATE))

    def close(self) -> None:
        super().close()
        for fd in self.fds:
            os.close(fd)


def vs_mapper() -> Any:
    from devmodel.vhost_user.mapping import map_fd

    return map_fd


def number(actions: list[va.Action]) -> int:
    """The number that was answered, -1 for none yet."""
    for action in actions:
        if isinstance(action, va.Reply):
            return int(vu.U64.unpack(action.data[12:20])[0])
    return -1


@pytest.fixture
def fe() -> Iterator[StateFrontend]:
    frontend = StateFrontend()
    frontend.negotiate()
    yield frontend
    frontend.close()


def owner_of(fe: StateFrontend) -> Owner:
    owner = fe.session.state.owner
    assert isinstance(owner, Owner)
    return owner


def other_state(owner: bytes = b"another", *commands: bytes, features: int = 0) -> DeviceState:
    net = VirtioNet()
    net.negotiate(features)
    assert virtio_state.obey(net, commands)
    reader = StateReader()
    reader.feed(virtio_state.encode(net, owner))
    return reader.finish()


# -- the session -------------------------------------------------------------------------------------------------


def test_save_gives_the_devices_and_the_owners_part(fe: StateFrontend) -> None:
    fe.request(R.VHOST_USER_SET_FEATURES, U64(fe.features))
    assert fe.transfer(SAVE) == STARTED
    [saved] = [action for action in fe.actions if isinstance(action, va.SaveState)]
    reader = StateReader()
    reader.feed(saved.data)
    assert reader.finish().owner == b"owner"
    assert number(fe.carry_out(fe.session.state_ended(None, None))) == -1
    assert fe.check() == 0


def test_load_is_the_owners_once_it_is_whole(fe: StateFrontend) -> None:
    assert fe.transfer(LOAD) == STARTED
    assert owner_of(fe).has == b"owner"
    fe.carry_out(fe.session.state_ended(other_state(), None))
    assert owner_of(fe).has == b"another"
    assert fe.check() == 0


def test_check_before_the_end_is_answered_at_the_end(fe: StateFrontend) -> None:
    fe.transfer(LOAD)
    assert fe.check() == -1
    assert number(fe.carry_out(fe.session.state_ended(other_state(), None))) == 0


def test_check_without_any_transfer_is_bad(fe: StateFrontend) -> None:
    assert fe.check() == 1


@pytest.mark.parametrize(("direction", "phase"), [(2, 0), (0, 1), (1, 1), (2**32 - 1, 0)])
def test_direction_or_phase_that_does_not_exist_is_refused(
    fe: StateFrontend, direction: int, phase: int
) -> None:
    assert fe.transfer(direction, phase) == REFUSED
    assert not fe.fds
    assert fe.check() == 1


def test_device_that_is_not_suspended_keeps_its_state(fe: StateFrontend) -> None:
    fe.start()
    assert fe.transfer(SAVE) == fe.transfer(LOAD) == REFUSED
    for index in range(2):
        fe.request(R.VHOST_USER_GET_VRING_BASE, fe.state(index, 0))
    assert fe.transfer(SAVE) == STARTED


def test_second_transfer_while_one_runs_is_refused(fe: StateFrontend) -> None:
    assert fe.transfer(LOAD) == STARTED
    assert fe.transfer(SAVE) == REFUSED


def test_transfer_without_its_protocol_feature_is_refused(fe: StateFrontend) -> None:
    agreed = vs.PROTOCOL_FEATURES & ~vf.mask(vu.VHOST_USER_PROTOCOL_F_DEVICE_STATE)
    fe.request(R.VHOST_USER_SET_PROTOCOL_FEATURES, U64(agreed))
    payload = vu.DEVICE_STATE.pack(SAVE, 0)
    assert fe.ack(R.VHOST_USER_SET_DEVICE_STATE_FD, payload, [fe.ram.fd]) == 1
    assert fe.ack(R.VHOST_USER_CHECK_DEVICE_STATE) == 1


def test_owner_without_a_state_refuses_to_save(fe: StateFrontend) -> None:
    owner_of(fe).picky = True
    assert fe.transfer(SAVE) == REFUSED
    assert not fe.fds


@pytest.mark.parametrize(
    "state",
    [
        other_state(b"bad one"),
        DeviceState(1 << 62, (), b"another"),
        DeviceState(0, (b"\4\0\5\0",), b"another"),
        None,
    ],
)
def test_state_that_is_not_for_this_device_changes_nothing(
    fe: StateFrontend, state: DeviceState | None
) -> None:
    fe.transfer(LOAD)
    fe.carry_out(fe.session.state_ended(state, None))
    assert fe.check() == 1
    assert owner_of(fe).loaded == 0


def test_transfer_that_failed_is_bad_and_the_next_may_be_good(fe: StateFrontend) -> None:
    fe.transfer(LOAD)
    fe.carry_out(fe.session.state_ended(None, StateError("cut short")))
    assert fe.check() == 1
    fe.transfer(LOAD)
    fe.carry_out(fe.session.state_ended(other_state(), None))
    assert fe.check() == 0


def test_ring_that_starts_ends_the_transfer(fe: StateFrontend) -> None:
    fe.transfer(LOAD)
    fe.start()
    assert va.StopTransfer() in fe.actions
    assert fe.session.state_ended(other_state(), None) == []  # too late
    assert owner_of(fe).loaded == 0
    assert fe.check() == 1


def test_frontend_that_goes_on_instead_of_waiting_gets_a_bad_check_first(fe: StateFrontend) -> None:
    fe.transfer(LOAD)
    assert fe.check() == -1
    actions = fe.request(R.VHOST_USER_GET_FEATURES)
    replies = [vu.HEADER.unpack(action.data[:12])[0] for action in actions if isinstance(action, va.Reply)]
    assert replies == [R.VHOST_USER_CHECK_DEVICE_STATE, R.VHOST_USER_GET_FEATURES]
    assert number(actions) == 1


CONTROL = vf.DEVICE_FEATURES & ~vf.mask(vf.VIRTIO_F_RING_PACKED, vf.VHOST_F_LOG_ALL) | vf.CONTROL_FEATURES
VLAN = b"\2\0" + struct.pack("<H", 7)


@pytest.mark.parametrize("features_first", [False, True])
def test_what_a_driver_told_the_control_queue_is_there_again(fe: StateFrontend, features_first: bool) -> None:
    state = other_state(b"x", VLAN, features=CONTROL)
    if features_first:
        fe.request(R.VHOST_USER_SET_FEATURES, U64(CONTROL))
    fe.transfer(LOAD)
    fe.carry_out(fe.session.state_ended(state, None))
    if not features_first:
        assert fe.session.net.rx_filter.vlans == set()
        fe.request(R.VHOST_USER_SET_FEATURES, U64(CONTROL))
    assert fe.session.net.rx_filter.vlans == {7}


def test_driver_that_begins_anew_has_nothing_of_what_was_loaded(fe: StateFrontend) -> None:
    fe.transfer(LOAD)
    fe.carry_out(fe.session.state_ended(other_state(b"x", VLAN, features=CONTROL), None))
    fe.start(CONTROL)
    assert fe.session.net.rx_filter.vlans == {7}
    for index in range(2):
        fe.request(R.VHOST_USER_GET_VRING_BASE, fe.state(index, 0))
    fe.request(R.VHOST_USER_SET_FEATURES, U64(CONTROL))
    assert fe.session.net.rx_filter.vlans == set()


# -- the pipes ---------------------------------------------------------------------------------------------------


async def begin(rig: Rig, direction: int, fd: int) -> Any:
    """A frontend whose transfer was begun."""
    rig.port.owner = rig.owner  # type: ignore[attr-defined]
    fe = await rig.frontend(None)
    await fe.negotiate()
    fe.send(R.VHOST_USER_SET_DEVICE_STATE_FD, vu.DEVICE_STATE.pack(direction, 0), [fd])
    assert int.from_bytes(await fe.reply(), "little") == STARTED
    return fe


async def check(fe: Any) -> int:
    fe.send(R.VHOST_USER_CHECK_DEVICE_STATE)
    return int.from_bytes(await fe.reply(), "little")


def script_with(owner: Owner, script: Any) -> Any:
    async def main(rig: Rig) -> None:
        rig.owner = owner  # type: ignore[attr-defined]
        await script(rig)

    return main


LARGE = os.urandom(3 << 20)


def test_state_of_megabytes_goes_out_and_in_while_the_loop_turns(tmp_path: Path) -> None:
    owner = Owner(LARGE)

    async def script(rig: Rig) -> None:
        reading, writing = os.pipe()
        fe = await begin(rig, SAVE, writing)
        os.close(writing)
        os.set_blocking(reading, False)
        saved, turns = bytearray(), 0
        while True:
            try:
                data = os.read(reading, 1 << 16)
            except BlockingIOError:
                turns += 1
                await asyncio.sleep(0)
                continue
            if not data:
                break
            saved += data
        os.close(reading)
        assert turns > 10
        assert await check(fe) == 0
        owner.has = b"gone"
        reading, writing = os.pipe()
        fe.send(R.VHOST_USER_SET_DEVICE_STATE_FD, vu.DEVICE_STATE.pack(LOAD, 0), [reading])
        assert int.from_bytes(await fe.reply(), "little") == STARTED
        os.close(reading)
        os.set_blocking(writing, False)
        left = memoryview(saved)
        while len(left):
            try:
                left = left[os.write(writing, left) :]
            except BlockingIOError:
                await asyncio.sleep(0)
        os.close(writing)
        assert await check(fe) == 0
        assert owner.has == LARGE

    run(tmp_path, script_with(owner, script))


@pytest.mark.parametrize("kept", [0, 20, -1])
def test_state_that_ends_early_is_bad(tmp_path: Path, kept: int) -> None:
    owner = Owner()

    async def script(rig: Rig) -> None:
        reading, writing = os.pipe()
        fe = await begin(rig, LOAD, reading)
        os.close(reading)
        os.write(writing, virtio_state.encode(VirtioNet(), b"another")[:kept])
        os.close(writing)
        assert await check(fe) == 1
        assert await fe.ask(R.VHOST_USER_SET_OWNER) == 0  # the connection goes on

    run(tmp_path, script_with(owner, script))
    assert owner.loaded == 0


def test_hostile_state_is_bad_at_once_and_nobody_reads_on(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        reading, writing = os.pipe()
        fe = await begin(rig, LOAD, reading)
        os.close(reading)
        os.write(writing, b"\0" * 1000)
        assert await check(fe) == 1
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"more")
        os.close(writing)

    run(tmp_path, script_with(Owner(), script))


@pytest.mark.parametrize("direction", [SAVE, LOAD])
def test_pipe_that_stalls_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: int
) -> None:
    monkeypatch.setattr(transfer, "STALL_S", 0.02)

    async def script(rig: Rig) -> None:
        reading, writing = os.pipe()
        fe = await begin(rig, direction, (writing, reading)[direction])
        assert await check(fe) == 1
        os.close(reading)
        os.close(writing)

    run(tmp_path, script_with(Owner(LARGE), script))


def test_pipe_that_drips_is_given_up_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TOTAL_S", 0.05)

    async def script(rig: Rig) -> None:
        reading, writing = os.pipe()
        fe = await begin(rig, LOAD, reading)
        data = virtio_state.encode(VirtioNet(), LARGE)
        fe.send(R.VHOST_USER_CHECK_DEVICE_STATE)
        answer = asyncio.ensure_future(fe.reply())
        for at in range(1000):
            if answer.done():
                break
            os.write(writing, data[at : at + 1])
            await asyncio.sleep(0.001)
        assert int.from_bytes(await answer, "little") == 1
        os.close(reading)
        os.close(writing)

    run(tmp_path, script_with(Owner(), script))


@pytest.mark.parametrize("direction", [SAVE, LOAD])
def test_file_of_a_terabyte_is_neither_read_nor_written(tmp_path: Path, direction: int) -> None:
    async def script(rig: Rig) -> None:
        fd = os.memfd_create("state")
        os.ftruncate(fd, 1 << 40)
        fe = await begin(rig, direction, fd)
        assert await check(fe) == 1
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        assert os.pread(fd, 8, 0) == bytes(8)
        os.close(fd)

    run(tmp_path, script_with(Owner(), script))


def test_reader_that_goes_away_is_no_harm(tmp_path: Path) -> None:
    async def script(rig: Rig) -> None:
        reading, writing = os.pipe()
        fe = await begin(rig, SAVE, writing)
        os.close(reading)
        os.close(writing)
        assert await check(fe) == 1

    run(tmp_path, script_with(Owner(LARGE), script))


def test_frontend_that_goes_away_takes_its_transfer_along(tmp_path: Path) -> None:
    owner = Owner()

    async def script(rig: Rig) -> None:
        reading, writing = os.pipe()
        fe = await begin(rig, LOAD, reading)
        os.close(reading)
        fe.sock.close()
        await rig.until(lambda: not rig.port.connected)
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"x")
        os.close(writing)

    run(tmp_path, script_with(owner, script))
    assert owner.loaded == 0
