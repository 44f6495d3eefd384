# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad inputs of a frontend: rows 1 to 29 and 52 to 54 of docs/bad-inputs.md."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.message import Request
from devmodel.virtio import features as vf
from devmodel.virtio.memory import RegionSpec
from guest.driver.backend import Backend
from guest.driver.errors import BackendHungUp, BackendSilent, FeatureMissing
from guest.driver.frontend import Call, encode_single
from guest.driver.torture import (
    ACCEPTED,
    BROKEN,
    BROKEN_RING,
    CLOSE,
    CLOSED,
    ERR,
    HARMLESS,
    LEAKING,
    REFUSED,
    SERVE,
    SERVED,
    Case,
    Good,
    Victim,
    feature,
    protocol,
)
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX

R = Request
CASES: Final[list[Case]] = []
TOP: Final = 1 << 64
PAGE: Final = 4096


def case(row: int, name: str, good: Good) -> Callable[[Callable[[Victim], str]], Callable[[Victim], str]]:
    """Put a function into the table."""

    def put(act: Callable[[Victim], str]) -> Callable[[Victim], str]:
        CASES.append(Case(row, name, act, good))
        return act

    return put


def refused(
    row: int, name: str, request: int, payload: bytes = b"", flags: int = 1, good: Good = ERR
) -> None:
    """A message by itself, right after the negotiation."""
    CASES.append(Case(row, name, lambda victim: victim.ask(request, payload, (), flags), good))


def u64(value: int) -> bytes:
    return vu.U64.pack(value)


def state(index: int, number: int) -> bytes:
    return vu.VRING_STATE.pack(index, number)


# -- framing: 1 to 6 ------------------------------------------------------------------------------------------


def _cut(said: bytes) -> Callable[[Victim], str]:
    def act(victim: Victim) -> str:
        victim.backend.send_raw(said)
        victim.backend.sock.shutdown(socket.SHUT_WR)
        return victim.closes()

    return act


def _raw(said: bytes) -> Callable[[Victim], str]:
    def act(victim: Victim) -> str:
        victim.backend.send_raw(said)
        return victim.closes()

    return act


CASES.extend(
    [
        Case(1, "the stream ends inside a header", _cut(b"\2\0\0\0\1"), CLOSE),
        Case(
            1,
            "the stream ends inside a payload",
            _cut(vu.encode(R.VHOST_USER_SET_FEATURES, u64(0))[:15]),
            CLOSE,
        ),
        *(
            Case(2, f"version {version}", _raw(vu.encode(R.VHOST_USER_GET_FEATURES, b"", version)), CLOSE)
            for version in (0, 2, 3)
        ),
        *(
            Case(3, f"a payload of {size} bytes is announced", _raw(struct.pack("<III", 5, 1, size)), CLOSE)
            for size in (1 << 20, 0xFFFFFFFF)
        ),
    ]
)
for _request, _payload in (
    (R.VHOST_USER_SET_VRING_ADDR, bytes(39)),
    (R.VHOST_USER_SET_VRING_ADDR, bytes(41)),
    (R.VHOST_USER_SET_FEATURES, b""),
    (R.VHOST_USER_SET_FEATURES, bytes(4)),
    (R.VHOST_USER_SET_VRING_NUM, bytes(4)),
    (R.VHOST_USER_SET_VRING_ENABLE, bytes(16)),
    (R.VHOST_USER_SET_OWNER, bytes(8)),
):
    refused(4, f"{_request.name[11:]} of {len(_payload)} bytes", _request, _payload)
for _number in (0, 33, 99, 0xFFFFFFFF):
    refused(5, f"request {_number}", _number)
refused(6, "SET_OWNER with the reply flag", R.VHOST_USER_SET_OWNER, b"", 5)


@case(5, "request 99 that asks for no acknowledgement", frozenset({CLOSED, SERVED}))
def _unknown_unasked(victim: Victim) -> str:
    victim.backend.send_raw(vu.encode(99))
    victim.alive()
    return SERVED


# -- descriptors: 7 to 11 -------------------------------------------------------------------------------------


def _with_fds(request: int, payload: bytes, count: int) -> Callable[[Victim], str]:
    return lambda victim: victim.ask(request, payload, [victim.memory.fd] * count)


def _table(specs: Sequence[RegionSpec], count: int | None = None) -> bytes:
    body = b"".join(vu.MEM_REGION.pack(*spec) for spec in specs)
    return vu.MEM_TABLE.pack(len(specs) if count is None else count, 0) + body


_ONE = RegionSpec(0, PAGE, 0x10000, 0)
_TWO = [_ONE, RegionSpec(PAGE, PAGE, 0x20000, PAGE)]
_MEM = R.VHOST_USER_SET_MEM_TABLE

CASES.extend(
    [
        Case(7, "SET_OWNER with a descriptor", _with_fds(R.VHOST_USER_SET_OWNER, b"", 1), ERR),
        Case(
            7, "SET_VRING_NUM with 8 descriptors", _with_fds(R.VHOST_USER_SET_VRING_NUM, state(0, 64), 8), ERR
        ),
        Case(8, "two regions, one descriptor", _with_fds(_MEM, _table(_TWO), 1), ERR),
        Case(8, "one region, two descriptors", _with_fds(_MEM, _table([_ONE]), 2), ERR),
        Case(8, "one region, no descriptor", _with_fds(_MEM, _table([_ONE]), 0), ERR),
        Case(8, "one region, 100 descriptors", _with_fds(_MEM, _table([_ONE]), 100), ERR),
    ]
)
for _request in (R.VHOST_USER_SET_VRING_KICK, R.VHOST_USER_SET_VRING_CALL, R.VHOST_USER_SET_VRING_ERR):
    CASES.extend(
        [
            Case(9, f"{_request.name[11:]}: NOFD and a descriptor", _with_fds(_request, u64(0x100), 1), ERR),
            Case(
                9, f"{_request.name[11:]}: neither NOFD nor a descriptor", _with_fds(_request, u64(0), 0), ERR
            ),
        ]
    )


def _odd_kick(make: Callable[[Victim], int]) -> Callable[[Victim], str]:
    """A kick descriptor that is no eventfd; a back end that takes it has to go on, without spinning."""

    def act(victim: Victim) -> str:
        victim.start()
        fd = make(victim)
        victim.ask(R.VHOST_USER_SET_VRING_KICK, u64(TX), [fd])
        victim.alive()
        return SERVED

    return act


def _regular_file(victim: Victim) -> int:
    return victim.memory.fd


def _zeros(victim: Victim) -> int:
    return victim.keep(os.open("/dev/zero", os.O_RDONLY))[0]


def _closed_pipe(victim: Victim) -> int:
    read, write = os.pipe()
    os.close(write)
    return victim.keep(read)[0]


def _closed_socket(victim: Victim) -> int:
    ours, theirs = socket.socketpair()
    theirs.close()
    return victim.keep(ours.detach())[0]


CASES.extend(
    [
        Case(10, f"a kick descriptor that is {what}", _odd_kick(make), frozenset({SERVED, CLOSED, REFUSED}))
        for what, make in (
            ("a regular file", _regular_file),
            ("always readable", _zeros),
            ("a pipe whose writer is gone", _closed_pipe),
            ("a socket whose peer is gone", _closed_socket),
        )
    ]
)


@case(11, "kick and call descriptors that block", SERVE)
def _blocking(victim: Victim) -> str:
    victim.start()
    for index, fds in enumerate(victim.backend.fds):
        for request, fd in ((R.VHOST_USER_SET_VRING_CALL, fds.call), (R.VHOST_USER_SET_VRING_KICK, fds.kick)):
            os.set_blocking(fd, True)
            victim.backend.run(victim.frontend.set_fd(request, index, fd))
    return victim.traffic()


@case(11, "a call descriptor whose counter is full, and that blocks", SERVE)
def _full(victim: Victim) -> str:
    victim.start()
    for index in (RX, TX):
        fd = victim.keep(os.eventfd(0xFFFFFFFE, os.EFD_CLOEXEC))[0]
        os.eventfd_write(fd, TOP - 2 - 0xFFFFFFFE)
        victim.backend.run(victim.frontend.set_fd(R.VHOST_USER_SET_VRING_CALL, index, fd))
    return victim.traffic()


# -- ring numbers: 12 -----------------------------------------------------------------------------------------

for _request in (
    R.VHOST_USER_SET_VRING_NUM,
    R.VHOST_USER_SET_VRING_BASE,
    R.VHOST_USER_SET_VRING_ENABLE,
):
    for _index in (0xFFFF, 1 << 31):
        refused(12, f"{_request.name[11:]} of ring {_index}", _request, state(_index, 1))
refused(
    12,
    "SET_VRING_ADDR of ring 2**31",
    R.VHOST_USER_SET_VRING_ADDR,
    vu.VRING_ADDR.pack(1 << 31, 0, 0, 0, 0, 0),
)


@case(12, "GET_VRING_BASE of ring 2**31", ERR)
def _get_base(victim: Victim) -> str:
    call = Call(R.VHOST_USER_GET_VRING_BASE, state(1 << 31, 0), replies=True)
    answer = victim.backend.call(call)
    return ACCEPTED if len(answer) == 8 and answer[:4] == call.payload[:4] else REFUSED


@case(12, "SET_VRING_CALL of ring 255", ERR)
def _call_of_255(victim: Victim) -> str:
    if victim.frontend.queue_pairs >= 128:
        raise FeatureMissing("the back end has a ring 255")
    return victim.ask(R.VHOST_USER_SET_VRING_CALL, u64(255), [victim.backend.fds[0].call])


# -- memory: 13 to 20 -----------------------------------------------------------------------------------------


def _mem(row: int, name: str, *specs: RegionSpec, count: int | None = None, good: Good = ERR) -> None:
    def act(victim: Victim) -> str:
        return victim.ask(_MEM, _table(specs, count), [victim.memory.fd] * min(len(specs), 8))

    CASES.append(Case(row, name, act, good))


_mem(13, "no region", count=0)
_mem(13, "9 regions", *[RegionSpec(at * PAGE, PAGE, (at + 1) << 16, at * PAGE) for at in range(9)])
_mem(13, "2**32 - 1 regions, one is there", _ONE, count=0xFFFFFFFF)
_mem(14, "a region of size 0", RegionSpec(0, 0, 0x10000, 0))
_mem(14, "a region beyond 2**64 in guest addresses", RegionSpec(TOP - PAGE, 2 * PAGE, 0x10000, 0))
_mem(14, "a region beyond 2**64 in user addresses", RegionSpec(0, 2 * PAGE, TOP - PAGE, 0))
_mem(14, "a region whose offset wraps", RegionSpec(0, 2 * PAGE, 0x10000, TOP - PAGE))
_mem(15, "regions that overlap in guest addresses", _ONE, RegionSpec(PAGE // 2, PAGE, 0x20000, PAGE))
_mem(15, "regions that overlap in user addresses", _ONE, RegionSpec(PAGE, PAGE, 0x10800, PAGE))
_mem(16, "a region longer than its file", RegionSpec(0, 1 << 30, 0x10000, 0))
_mem(16, "a region that begins behind its file", RegionSpec(0, PAGE, 0x10000, 1 << 30))


def _unmappable(make: Callable[[Victim], int]) -> Callable[[Victim], str]:
    def act(victim: Victim) -> str:
        return victim.ask(_MEM, _table(_TWO), [victim.memory.fd, make(victim)])

    return act


def _read_only(victim: Victim) -> int:
    return victim.keep(os.open(f"/proc/self/fd/{victim.memory.fd}", os.O_RDONLY))[0]


CASES.extend(
    [
        Case(17, f"a second region that is {what}", _unmappable(make), ERR)
        for what, make in (
            ("a socket", _closed_socket),
            ("an eventfd", lambda victim: victim.backend.fds[0].call),
            ("a file that may only be read", _read_only),
        )
    ]
)


@case(19, "a new memory table without the region that holds the rings", HARMLESS - {SERVED})
def _lost_rings(victim: Victim) -> str:
    victim.start()
    spec = RegionSpec(1 << 40, PAGE, 1 << 41, 0)
    outcome = victim.ask(_MEM, _table([spec]), [victim.memory.fd])
    if outcome == REFUSED:
        return outcome
    victim.driver.send(victim.arp_frame())
    seen = victim.watch(lambda: bool(victim.driver.reclaim()))
    return BROKEN if RX in victim.backend.broken_rings() else seen


def _slot(name: str, request: int, specs: Sequence[RegionSpec]) -> None:
    """Memory slots: all but the last of these are good."""

    def act(victim: Victim) -> str:
        protocol(victim, vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)
        fds = [victim.memory.fd]
        for spec in specs[:-1]:
            victim.backend.run(victim.frontend.request(R.VHOST_USER_ADD_MEM_REG, encode_single(spec), fds))
        given = fds if request == R.VHOST_USER_ADD_MEM_REG else []
        return victim.ask(request, encode_single(specs[-1]), given)

    CASES.append(Case(20, name, act, ERR))


_slot("REM_MEM_REG of an unknown region", R.VHOST_USER_REM_MEM_REG, [_ONE])
_slot(
    "ADD_MEM_REG of a region that overlaps another",
    R.VHOST_USER_ADD_MEM_REG,
    [_ONE, RegionSpec(0, 2 * PAGE, 0x10000, 0)],
)


# -- rings: 21 to 25 ------------------------------------------------------------------------------------------

for _number in (0, 3, 32769, 65536):
    refused(21, f"a ring of {_number} entries", R.VHOST_USER_SET_VRING_NUM, state(0, _number))


def _on_started(name: str, make: Callable[[Victim], tuple[int, bytes]]) -> None:
    def act(victim: Victim) -> str:
        victim.start()
        return victim.ask(*make(victim))

    CASES.append(Case(22, f"{name} on a ring that runs", act, ERR))


_on_started("SET_VRING_NUM with another size", lambda _: (R.VHOST_USER_SET_VRING_NUM, state(TX, 64)))
_on_started("SET_VRING_BASE with another index", lambda _: (R.VHOST_USER_SET_VRING_BASE, state(TX, 7)))
_on_started(
    "SET_VRING_ADDR with other addresses",
    lambda victim: (R.VHOST_USER_SET_VRING_ADDR, _addresses(victim, desc=4096)),
)


def _addresses(victim: Victim, **moved: int) -> bytes:
    """The transmit ring's addresses, some of them moved by that many bytes."""
    queue = victim.driver.tx
    uva = victim.memory.uva
    at = {"desc": uva(queue.desc_gpa), "used": uva(queue.device_gpa), "avail": uva(queue.driver_gpa)}
    for name, by in moved.items():
        at[name] = (at[name] + by) % TOP
    return vu.VRING_ADDR.pack(TX, 0, at["desc"], at["used"], at["avail"], 0)


def _misplaced(name: str, **moved: int) -> None:
    """A transmit ring with bad addresses, started, with a good frame in it."""

    def act(victim: Victim) -> str:
        driver = victim.prepare()
        driver.refill()
        frontend, backend = victim.frontend, victim.backend
        backend.run(frontend.share_memory(victim.memory))
        backend.run(frontend.start_ring(driver.rx, backend.fds[RX]))
        for request, payload in (
            (R.VHOST_USER_SET_VRING_NUM, state(TX, driver.tx.num)),
            (R.VHOST_USER_SET_VRING_BASE, state(TX, 0)),
            (R.VHOST_USER_SET_VRING_ADDR, _addresses(victim, **moved)),
        ):
            backend.run(frontend.request(request, payload))
        backend.run(frontend.set_fd(R.VHOST_USER_SET_VRING_ERR, TX, backend.fds[TX].err))
        backend.run(frontend.set_fd(R.VHOST_USER_SET_VRING_KICK, TX, backend.fds[TX].kick))
        for index in (RX, TX):
            backend.run(frontend.enable(index, True))
        driver.send(victim.arp_frame())
        return victim.watch(lambda: bool(driver.reclaim()))

    CASES.append(Case(23, name, act, BROKEN_RING | {REFUSED}))


_misplaced("a descriptor table in no region", desc=1 << 44)
_misplaced("an available ring in no region", avail=1 << 44)
_misplaced("a used ring in no region", used=1 << 44)
_misplaced("a descriptor table that is misaligned", desc=8)
_misplaced("a used ring that is misaligned", used=2)
_misplaced("an available ring at an odd address", avail=1)
_misplaced("a descriptor table that wraps beyond 2**64", desc=-0x7F00_0000_0000 - 0x400)


@case(24, "kick and enable before anything is known of the rings", SERVE)
def _early(victim: Victim) -> str:
    backend, frontend = victim.backend, victim.frontend
    for index in (RX, TX):
        backend.kick(index)
        backend.run(frontend.set_fd(R.VHOST_USER_SET_VRING_KICK, index, backend.fds[index].kick))
        if frontend.speaks_protocol_features:
            backend.run(frontend.set_state(R.VHOST_USER_SET_VRING_ENABLE, index, 1))
    return victim.start().traffic()


refused(
    25,
    "SET_VRING_BASE above 65535 of a split ring",
    R.VHOST_USER_SET_VRING_BASE,
    state(0, 0x12345),
    good=ERR | {ACCEPTED},
)


# -- features: 26 to 29 ---------------------------------------------------------------------------------------


@case(26, "a feature that was not offered", ERR)
def _alien_feature(victim: Victim) -> str:
    missing = ~victim.frontend.offered & (TOP - 1)
    return victim.ask(R.VHOST_USER_SET_FEATURES, u64(victim.frontend.offered | missing & -missing))


@case(26, "a protocol feature that was not offered", ERR)
def _alien_protocol_feature(victim: Victim) -> str:
    offered = victim.frontend.offered_protocol
    return victim.ask(R.VHOST_USER_SET_PROTOCOL_FEATURES, u64(offered | 1 << 63))


@case(27, "other features while a ring runs", ERR)
def _other_features(victim: Victim) -> str:
    feature(victim, vf.VIRTIO_NET_F_MRG_RXBUF)
    victim.start()
    return victim.ask(
        R.VHOST_USER_SET_FEATURES, u64(victim.frontend.features ^ 1 << vf.VIRTIO_NET_F_MRG_RXBUF)
    )


def _ungated(name: str, request: int, payload: bytes) -> None:
    """A message whose protocol feature was given up."""

    def act(victim: Victim) -> str:
        only = vf.mask(vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
        frontend = victim.frontend
        protocol(victim, vu.VHOST_USER_PROTOCOL_F_REPLY_ACK)
        victim.backend.run(frontend.set_number(R.VHOST_USER_SET_PROTOCOL_FEATURES, only))
        return victim.ask(request, payload)

    CASES.append(Case(28, f"{name} without its protocol feature", act, ERR))


_ungated("NET_SET_MTU", R.VHOST_USER_NET_SET_MTU, u64(1500))
_ungated("SEND_RARP", R.VHOST_USER_SEND_RARP, u64(0x563412005452))
_ungated("RESET_DEVICE", R.VHOST_USER_RESET_DEVICE, b"")


@case(29, "in-band notifications without the channel for them", CLOSE | ERR)
def _inband(victim: Victim) -> str:
    inband = 1 << 14
    if not victim.frontend.offered_protocol & inband:
        raise FeatureMissing("VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS is not offered")
    return victim.ask(R.VHOST_USER_SET_PROTOCOL_FEATURES, u64(inband))


# -- floods and neighbours: 52 to 54 --------------------------------------------------------------------------


@case(52, "SET_VRING_CALL 2000 times", SERVE)
def _flood(victim: Victim) -> str:
    victim.start()
    before = victim.fd_count()
    for _ in range(2000):
        victim.backend.run(
            victim.frontend.set_fd(R.VHOST_USER_SET_VRING_CALL, RX, victim.backend.fds[RX].call)
        )
    if before and victim.fd_count() > before + 16:
        return LEAKING
    return victim.traffic()


@case(52, "all memory is given anew 300 times", SERVE)
def _memory_flood(victim: Victim) -> str:
    victim.start()
    before = victim.fd_count()
    for _ in range(300):
        if victim.frontend.has(vu.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS):
            for spec in victim.memory.specs:
                victim.backend.run(victim.frontend.remove_region(spec))
            victim.frontend.memory = None
        victim.backend.run(victim.frontend.share_memory(victim.memory))
    if before and victim.fd_count() > before + 16:
        return LEAKING
    return victim.traffic()


@case(53, "a second frontend at the same socket", SERVE)
def _second(victim: Victim) -> str:
    victim.start()
    with Backend(victim.settings.path, 0.2) as second:
        second.connect()
        with contextlib.suppress(BackendHungUp, BackendSilent):
            second.call(Call(R.VHOST_USER_GET_FEATURES, replies=True))
        return victim.traffic()


@case(54, "a message that comes byte by byte", SERVE)
def _slow(victim: Victim) -> str:
    victim.start(DRIVER_FEATURES)
    for byte in vu.encode(R.VHOST_USER_SET_VRING_ENABLE, state(TX, 1)):
        victim.backend.send_raw(bytes([byte]))
        time.sleep(0.002)
    return victim.traffic()
