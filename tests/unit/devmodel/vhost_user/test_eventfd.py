# SPDX-License-Identifier: GPL-2.0-or-later
"""Kick descriptors that a frontend shares with us and may read as well."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from devmodel.vhost_user.eventfd import KickFd


class OneReader:
    """An event loop reduced to the callback that was added last."""

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> None:
        self.ready = callback

    def remove_reader(self, fd: int, /) -> bool:
        return True


def blocking_pipe() -> tuple[int, int]:
    return os.pipe()


def blocking_eventfd() -> tuple[int, int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    return fd, os.dup(fd)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("make", [blocking_eventfd, blocking_pipe])
def test_row_11_kick_that_the_frontend_took_back_does_not_block(make: Callable[[], tuple[int, int]]) -> None:
    ours, theirs = make()
    loop, kicks = OneReader(), [0]

    def kicked() -> bool:
        kicks[0] += 1
        return True

    kick = KickFd(loop, ours, kicked)
    loop.ready()
    assert (kicks[0], kick.lost) == (0, False)
    os.write(theirs, (1).to_bytes(8, "little"))
    loop.ready()
    assert (kicks[0], kick.lost) == (1, False)
    kick.close()
    os.close(theirs)
