# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad inflight regions of a frontend: row 49 of docs/bad-inputs.md.

Numbers that are false come with SET_INFLIGHT_FD or GET_INFLIGHT_FD and have to be refused. What lies in a region is
good as a back end writes it, but for one thing; it is handed over, and the rings are started: the message may be
refused, or the transmit ring be broken, or what was written there be ignored (traffic goes on), but the back end must
not run after an index that leads out of the region, nor round in a circle.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.mapping import allocate
from devmodel.vhost_user.message import Request as R
from devmodel.virtio import features as vf
from devmodel.virtio.inflight import InflightSpec, PackedState, SplitState, queue_bytes, region_bytes
from guest.driver.errors import RequestRefused
from guest.driver.frontend import Call
from guest.driver.torture import (
    ACCEPTED,
    BROKEN,
    BROKEN_RING,
    ERR,
    LEAKING,
    NUM,
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

CASES: Final[list[Case]] = []
QUEUES: Final = 2
PACKED: Final = DRIVER_FEATURES | vf.mask(vf.VIRTIO_F_RING_PACKED)
NO_WAY_OUT: Final[Good] = BROKEN_RING | ERR | SERVE


def _spec(**changes: int) -> InflightSpec:
    size = region_bytes(QUEUES, NUM)
    return InflightSpec(
        **{"mmap_size": size, "mmap_offset": 0, "num_queues": QUEUES, "queue_size": NUM} | changes
    )


def _region(victim: Victim) -> int:
    return victim.keep(allocate(region_bytes(QUEUES, NUM)))[0]


# -- numbers --------------------------------------------------------------------------------------------------


def _set(name: str, fds: int = 1, **changes: int) -> None:
    def act(victim: Victim) -> str:
        protocol(victim, vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)
        victim.prepare()
        payload = vu.encode_inflight(_spec(**changes))
        return victim.ask(R.VHOST_USER_SET_INFLIGHT_FD, payload, [_region(victim)] * fds)

    CASES.append(Case(49, f"SET_INFLIGHT_FD {name}", act, ERR))


_set("for no queue", num_queues=0)
_set("for 65535 queues", num_queues=65535)
_set("for queues of 0", queue_size=0)
_set("for queues of 65535", queue_size=65535)
_set("of a size that its queues do not fit into", mmap_size=64)
_set("of no size", mmap_size=0)
_set("of more than its file has", mmap_size=1 << 40)
_set("of 2**64 - 1 bytes", mmap_size=(1 << 64) - 1)
_set("at an offset that wraps", mmap_offset=(1 << 64) - 4096)
_set("at an offset behind its file", mmap_offset=1 << 30)
_set("at an odd offset", mmap_size=region_bytes(QUEUES, NUM) - 64, mmap_offset=1)
_set("without a descriptor", fds=0)


def _get(name: str, **changes: int) -> None:
    def act(victim: Victim) -> str:
        protocol(victim, vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)
        got: list[int] = []
        call = Call(
            R.VHOST_USER_GET_INFLIGHT_FD, vu.encode_inflight(_spec(**changes)), replies=True, got_fds=got
        )
        answer = victim.backend.call(call)
        victim.keep(*got)
        told = vu.decode_inflight(answer) if len(answer) >= vu.INFLIGHT.size else None
        return ACCEPTED if told is not None and told.mmap_size else REFUSED

    CASES.append(Case(49, f"GET_INFLIGHT_FD {name}", act, ERR))


_get("for no queue", num_queues=0)
_get("for 65535 queues of 32768", num_queues=65535, queue_size=32768)
_get("for queues of 0", queue_size=0)


def _flood(victim: Victim) -> str:
    protocol(victim, vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)
    before = victim.fd_count()
    for _ in range(300):
        got: list[int] = []
        payload = vu.encode_inflight(_spec(mmap_size=0))
        victim.backend.call(Call(R.VHOST_USER_GET_INFLIGHT_FD, payload, replies=True, got_fds=got))
        for fd in got:
            os.close(fd)
    if before and victim.fd_count() > before + 16:
        return LEAKING
    return victim.start().traffic()


CASES.append(Case(52, "GET_INFLIGHT_FD 300 times", _flood, SERVE))


# -- contents -------------------------------------------------------------------------------------------------


def _write(victim: Victim, packed: bool, spoil: Callable[[SplitState | PackedState], None]) -> int:
    """A region as a back end leaves it that gave everything back, its transmit queue's part spoilt."""
    fd = _region(victim)
    stride = queue_bytes(NUM, packed)
    for index in (RX, TX):
        state: SplitState | PackedState
        if packed:
            state = PackedState(index, memoryview(bytearray(stride)), NUM)
            state.begin(0, 1)
        else:
            state = SplitState(index, memoryview(bytearray(stride)), NUM)
            state.begin(0)
        if index == TX:
            spoil(state)
        os.pwrite(fd, bytes(state.bytes), index * stride)
    return fd


def _contents(packed: bool, name: str, spoil: Callable[[SplitState | PackedState], None]) -> None:
    def act(victim: Victim) -> str:
        protocol(victim, vu.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)
        if packed:
            feature(victim, vf.VIRTIO_F_RING_PACKED)
        driver = victim.prepare(PACKED if packed else DRIVER_FEATURES)
        driver.refill()
        driver.rx.enable_calls()
        try:
            victim.backend.run(victim.frontend.set_inflight(_spec(), _write(victim, packed, spoil)))
        except RequestRefused:
            return REFUSED
        victim.go()
        if TX in victim.backend.broken_rings():
            return BROKEN
        driver.send(victim.arp_frame())
        seen = victim.watch(lambda: bool(driver.reclaim()))
        return SERVED if seen == "passed" else seen

    kind = "packed" if packed else "split"
    CASES.append(Case(49, f"a region of a {kind} ring {name}", act, NO_WAY_OUT))


def _half(at: int, value: int) -> Callable[[SplitState | PackedState], None]:
    return lambda state: state.halves.__setitem__(at, value)


def _list(head: int, nxt: int) -> Callable[[SplitState | PackedState], None]:
    """The ring's used.idx is 0: two heads were given back since, if the region is to be believed."""

    def spoil(state: SplitState | PackedState) -> None:
        state.halves[SplitState.USED_IDX] = 0xFFFE
        state.halves[SplitState.LAST_BATCH_HEAD] = head
        state.halves[SplitState.next_at(0)] = nxt

    return spoil


def _buffer(count: int, last: int, *nexts: int, used: int = 0) -> Callable[[SplitState | PackedState], None]:
    """A packed buffer of `count` entries in flight, from entry 0 on."""

    def spoil(state: SplitState | PackedState) -> None:
        assert isinstance(state, PackedState)
        at = state.next_at(0)
        state.halves[at + 1], state.halves[at + 2] = last, count
        for entry, nxt in enumerate(nexts):
            state.halves[state.next_at(entry)] = nxt
        state.bytes[state.inflight_at(0)] = 1
        state.set_free(count % NUM, count % NUM)

    return spoil


def _all_in_flight(state: SplitState | PackedState) -> None:
    for entry in range(NUM):
        state.bytes[state.inflight_at(entry)] = 1


_contents(packed=False, name="of an unknown version", spoil=_half(4, 2))
_contents(packed=False, name="of another size", spoil=_half(5, 0xFFFF))
_contents(packed=False, name="whose list begins outside", spoil=_list(0xFFFF, 0))
_contents(packed=False, name="whose list leads outside", spoil=_list(0, NUM))
_contents(packed=False, name="whose list is a circle", spoil=_list(0, 0))
_contents(packed=False, name="that is 65535 behind its ring", spoil=_half(SplitState.USED_IDX, 1))
_contents(packed=False, name="with buffers in flight that nobody offered", spoil=_all_in_flight)
_contents(packed=True, name="of an unknown version", spoil=_half(4, 2))
_contents(packed=True, name="of another size", spoil=_half(5, 1))
_contents(packed=True, name="whose used_idx lies outside", spoil=_half(8, 0xFFFF))
_contents(packed=True, name="whose old used_idx lies outside", spoil=_half(9, 0xFFFF))
_contents(packed=True, name="whose free list begins outside", spoil=_half(7, 0xFFFF))
_contents(packed=True, name="whose free list is a circle", spoil=_half(PackedState.next_at(3), 2))
_contents(packed=True, name="with a buffer that leads outside", spoil=_buffer(2, 1, 0xFFFF))
_contents(packed=True, name="with a buffer that is a circle", spoil=_buffer(2, 1, 0))
_contents(packed=True, name="with a buffer longer than the queue", spoil=_buffer(0xFFFF, 5, 1, 2, 3))
_contents(packed=True, name="with buffers in flight that nobody offered", spoil=_all_in_flight)
