# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad inputs around the back-end channel and the frontend's IOMMU: rows 51 and 56 of docs/bad-inputs.md.

The channel is the frontend's to break; what must not suffer are the rings and the main socket. For that reason most of
these go on with ordinary traffic, and the outcome is what became of it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from devmodel.vhost_user import message as vu
from devmodel.vhost_user.backend_channel import BackendRequest, iotlb_message
from devmodel.vhost_user.message import Request
from devmodel.virtio import features as vf
from guest.driver.errors import FeatureMissing
from guest.driver.torture import BROKEN, ERR, LEAKING, SERVE, SERVED, STALLED, Case, Good, Victim, feature
from guest.driver.virtio_net import DRIVER_FEATURES, RX, TX

R = Request
CASES: Final[list[Case]] = []
PAGE: Final = 4096
TOP: Final = 1 << 64
_MISS: Final = BackendRequest.VHOST_USER_BACKEND_IOTLB_MSG

GOES_ON: Final[Good] = frozenset({SERVED, BROKEN, STALLED})
"""Rings that wait for a translation may stand still or be given up; the session may not."""


def case(row: int, name: str, good: Good) -> Callable[[Callable[[Victim], str]], Callable[[Victim], str]]:
    """Put a function into the table."""

    def put(act: Callable[[Victim], str]) -> Callable[[Victim], str]:
        CASES.append(Case(row, name, act, good))
        return act

    return put


def channel_of(victim: Victim) -> socket.socket:
    """Negotiate the channel, and hand one end of a socket pair over; the other end, which is the caller's to close."""
    frontend = victim.frontend
    wanted = frontend.protocol_features | vf.mask(vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ)
    if wanted & ~frontend.offered_protocol:
        raise FeatureMissing("VHOST_USER_PROTOCOL_F_BACKEND_REQ is not offered")
    victim.backend.run(frontend.set_number(R.VHOST_USER_SET_PROTOCOL_FEATURES, wanted))
    frontend.protocol_features = wanted
    return give_channel(victim)


def give_channel(victim: Victim) -> socket.socket:
    ours, theirs = socket.socketpair()
    ours.settimeout(victim.settings.deadline_s)
    victim.backend.run(victim.frontend.request(R.VHOST_USER_SET_BACKEND_REQ_FD, fds=[theirs.fileno()]))
    theirs.close()
    return ours


# -- the channel: 51 ------------------------------------------------------------------------------------------


def _says(said: bytes) -> Callable[[Victim], str]:
    def act(victim: Victim) -> str:
        with channel_of(victim) as channel:
            victim.start()
            with contextlib.suppress(BrokenPipeError):
                channel.sendall(said)
            return victim.traffic()

    return act


for _name, _said in (
    ("a reply that nobody waits for", vu.encode_reply(_MISS, vu.U64.pack(0))),
    ("a bare number", vu.U64.pack(0)),
    ("a request, as on the main socket", vu.encode(R.VHOST_USER_GET_FEATURES)),
    ("half a reply, and nothing more", vu.encode_reply(_MISS, vu.U64.pack(0))[:15]),
    ("a reply that announces 4 GiB", vu.HEADER.pack(_MISS, 5, 0xFFFFFFFF)),
    ("a megabyte of zeros", bytes(1 << 20)),
):
    CASES.append(Case(51, f"the back-end channel says {_name}", _says(_said), SERVE))


@case(51, "the back-end channel is closed at once", SERVE)
def _closed(victim: Victim) -> str:
    channel_of(victim).close()
    return victim.start().traffic()


@case(51, "a back-end channel that is no socket", SERVE)
def _no_socket(victim: Victim) -> str:
    channel_of(victim).close()
    (null,) = victim.keep(os.open("/dev/null", os.O_RDWR))
    victim.ask(R.VHOST_USER_SET_BACKEND_REQ_FD, b"", [null])
    return victim.start().traffic()


@case(51, "a new back-end channel 500 times", SERVE)
def _flood(victim: Victim) -> str:
    channel_of(victim).close()
    before = victim.fd_count()
    for _ in range(500):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            victim.backend.run(
                victim.frontend.request(R.VHOST_USER_SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
            )
    if before and victim.fd_count() > before + 16:
        return LEAKING
    return victim.start().traffic()


def _untranslated(victim: Victim) -> socket.socket:
    """Rings whose addresses nobody has translated; the channel that they are asked for on."""
    feature(victim, vf.VIRTIO_F_ACCESS_PLATFORM)
    channel = channel_of(victim)
    victim.start(DRIVER_FEATURES | vf.mask(vf.VIRTIO_F_ACCESS_PLATFORM))
    victim.backend.kick(TX)
    return channel


@case(51, "a translation that is asked for and never comes", GOES_ON)
def _never(victim: Victim) -> str:
    with _untranslated(victim) as channel:
        channel.recv(PAGE)
        time.sleep(victim.settings.patience_s)
        victim.alive()
    return STALLED


@case(51, "the channel closes while a translation is asked for", GOES_ON)
def _mid_request(victim: Victim) -> str:
    with _untranslated(victim) as channel:
        channel.recv(PAGE)
    time.sleep(victim.settings.patience_s)
    victim.alive()
    return BROKEN if {RX, TX} & set(victim.backend.broken_rings()) else STALLED


@case(51, "a miss that is answered by success, and no translation", GOES_ON)
def _empty_success(victim: Victim) -> str:
    until = time.monotonic() + victim.settings.patience_s
    with _untranslated(victim) as channel:
        asked = 0
        while time.monotonic() < until:
            channel.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                asked += len(channel.recv(44)) // 44
                channel.sendall(vu.encode_reply(_MISS, vu.U64.pack(0)))
        victim.alive()
    return STALLED if asked < 1000 else "busy"


# -- the IOMMU: 56 --------------------------------------------------------------------------------------------


def _iotlb(name: str, *fields: int, started: bool = True, good: Good = ERR) -> None:
    """A message whose user address counts from the first region's."""

    def act(victim: Victim) -> str:
        iova, size, offset, access, kind = fields
        uva = (victim.memory.specs[0].uva + offset) % TOP
        if started:
            _untranslated(victim).close()
        else:
            channel_of(victim).close()
        return victim.ask(R.VHOST_USER_IOTLB_MSG, iotlb_message(iova, size, uva, access, kind))

    CASES.append(Case(56, name, act, good))


_UPDATE, _INVALIDATE = vu.VHOST_IOTLB_UPDATE, vu.VHOST_IOTLB_INVALIDATE
_iotlb("an IOTLB update without ACCESS_PLATFORM", PAGE, PAGE, 0, 3, _UPDATE, started=False)
_iotlb("an IOTLB update of no bytes", PAGE, 0, 0, 3, _UPDATE)
_iotlb("an IOTLB update that wraps", TOP - PAGE, 2 * PAGE, 0, 3, _UPDATE)
_iotlb("an IOTLB update outside of memory", PAGE, PAGE, 1 << 40, 3, _UPDATE)
_iotlb("an IOTLB update that leaves its region", PAGE, 1 << 40, 0, 3, _UPDATE)
_iotlb("an IOTLB update that allows nothing", PAGE, PAGE, 0, 0, _UPDATE)
_iotlb("an IOTLB update with permissions that are none", PAGE, PAGE, 0, 200, _UPDATE)
_iotlb("an IOTLB message of the back end's kind", PAGE, PAGE, 0, 3, vu.VHOST_IOTLB_MISS)
_iotlb("an IOTLB message of no kind", PAGE, PAGE, 0, 3, 77)


@case(56, "ACCESS_PLATFORM without a channel to ask on", ERR | SERVE)
def _no_channel(victim: Victim) -> str:
    feature(victim, vf.VIRTIO_F_ACCESS_PLATFORM)
    features = victim.frontend.offered & (DRIVER_FEATURES | vf.mask(vf.VIRTIO_F_ACCESS_PLATFORM))
    return victim.ask(R.VHOST_USER_SET_FEATURES, vu.U64.pack(features | 1 << 30))


@case(56, "5000 overlapping IOTLB updates and invalidations", SERVE)
def _churn(victim: Victim) -> str:
    with _untranslated(victim):
        uva = victim.memory.specs[0].uva
        for number in range(5000):
            kind = _UPDATE if number % 3 else _INVALIDATE
            message = iotlb_message(number % 977 * 512, 3 * PAGE, uva, 3, kind)
            victim.backend.run(victim.frontend.request(R.VHOST_USER_IOTLB_MSG, message))
        victim.alive()
    return SERVED
