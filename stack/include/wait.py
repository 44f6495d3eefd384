# SPDX-License-Identifier: GPL-2.0-or-later
"""Waking whoever waits for a socket: include/linux/wait.h.

A wait queue is a list of callables ``waiter(sk, mask)`` with EPOLL bits; a waiter may leave the queue while it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stack.include.sock import sock


def wake_up_interruptible_poll(sk: sock, mask: int) -> None:
    for waiter in tuple(sk.sk_wq):
        waiter(sk, mask)


def wake_up_interruptible_sync_poll(sk: sock, mask: int) -> None:
    """The waker goes on working, so the kernel does not migrate the sleeper; here the same as the other one."""
    for waiter in tuple(sk.sk_wq):
        waiter(sk, mask)
