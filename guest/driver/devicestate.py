# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves a back end's state through a pipe (vhost-user specification, "Migrating back-end state"), the frontend's end.

`run` carries the frontend's steps: `Backend.run` over a socket, `DirectLink.run` in this process.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any

from devmodel.vhost_user import message as vu
from guest.driver.errors import BackendSilent
from guest.driver.frontend import Frontend

Run = Callable[[Any], Any]

DEADLINE_S = 10.0


def save(run: Run, frontend: Frontend, deadline_s: float = DEADLINE_S) -> bytes:
    """The state of a back end whose rings stand still. RequestRefused, BackendSilent, FeatureMissing."""
    reading, writing = os.pipe()
    try:
        try:
            run(frontend.transfer_state(vu.VHOST_TRANSFER_STATE_DIRECTION_SAVE, writing))
        finally:
            os.close(writing)
        data = _read_all(reading, time.monotonic() + deadline_s)
    finally:
        os.close(reading)
    run(frontend.check_state())
    return data


def load(run: Run, frontend: Frontend, data: bytes, deadline_s: float = DEADLINE_S) -> None:
    """Give a state to a back end whose rings stand still. RequestRefused if it does not take it."""
    reading, writing = os.pipe()
    try:
        try:
            run(frontend.transfer_state(vu.VHOST_TRANSFER_STATE_DIRECTION_LOAD, reading))
        finally:
            os.close(reading)
        write_all(writing, data, time.monotonic() + deadline_s)
    finally:
        os.close(writing)
    run(frontend.check_state())


def _read_all(fd: int, until: float) -> bytes:
    pieces: list[bytes] = []
    while True:
        _await(fd, select.POLLIN, until)
        piece = os.read(fd, 1 << 16)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def write_all(fd: int, data: bytes, until: float) -> None:
    """Ends early, and without an error, if nobody reads any more: CHECK_DEVICE_STATE has the word."""
    os.set_blocking(fd, False)
    left = memoryview(data)
    while len(left):
        _await(fd, select.POLLOUT, until)
        try:
            left = left[os.write(fd, left[: 1 << 16]) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            return


def _await(fd: int, event: int, until: float) -> None:
    poller = select.poll()
    poller.register(fd, event)
    if not poller.poll(max(until - time.monotonic(), 0) * 1000):
        raise BackendSilent("the back end does not go on with the state", "its end of the pipe is silent")
