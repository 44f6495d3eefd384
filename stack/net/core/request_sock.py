# SPDX-License-Identifier: GPL-2.0-or-later
"""The queues of a listener: net/core/request_sock.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stack.include.request_sock import request_sock_queue


def reqsk_queue_alloc(queue: request_sock_queue) -> None:
    """Both queues empty.  What listen() was told to do for Fast Open before stays."""
    queue.qlen = 0
    queue.young = 0
    queue.synflood_warned = 0
    queue.rskq_accept_head.clear()
    queue.fastopenq.rskq_rst_head.clear()
    queue.fastopenq.qlen = 0
