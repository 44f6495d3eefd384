# SPDX-License-Identifier: GPL-2.0-or-later
"""The queues of a listener: net/core/request_sock.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stack.include.request_sock import reqsk_put
from stack.include.tcp_states import TCP_LISTEN
from stack.include.timer import HZ
from stack.kernel.time.timer import jiffies, timer_setup

if TYPE_CHECKING:
    from stack.include.request_sock import request_sock_queue, tcp_request_sock
    from stack.include.tcp import tcp_sock

# A Fast Open request whose SYN-ACK drew a RST counts against the limit for this long: whoever sends SYNs in other
# hosts' names runs into the limit (RFC 7413, section 5.1).
TFO_RST_HOLD: Final = 60 * HZ


def reqsk_queue_alloc(queue: request_sock_queue) -> None:
    """Both queues empty.  What listen() was told to do for Fast Open before stays."""
    queue.qlen = 0
    queue.young = 0
    queue.synflood_warned = 0
    queue.rskq_accept_head.clear()
    queue.fastopenq.rskq_rst_head.clear()
    queue.fastopenq.qlen = 0


def reqsk_fastopen_remove(sk: tcp_sock, req: tcp_request_sock, reset: bool) -> None:
    """The child ``sk`` of a SYN with data needs its request no longer: the third segment came, or the end
    (``reset``: by a RST).  Without reference counts: the request ends here unless its child waits for accept()."""
    lsk = req.rsk_listener
    fastopenq = lsk.icsk_accept_queue.fastopenq
    sk.fastopen_rsk = None
    fastopenq.qlen -= 1
    req.tfo_listener = False
    if req.sk is not None:
        return
    if not reset or lsk.sk_state != TCP_LISTEN:
        reqsk_put(req)
        return
    req.rsk_timer = timer_setup(_never, req)  # only its time matters: it is never armed
    req.rsk_timer.expires = jiffies(sk.sk_net) + TFO_RST_HOLD
    fastopenq.rskq_rst_head.append(req)
    fastopenq.qlen += 1


def _never(req: tcp_request_sock) -> None:
    """The function of a timer that is not armed."""
    raise AssertionError("the timer of a Fast Open request does not run")
