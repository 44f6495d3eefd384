# SPDX-License-Identifier: GPL-2.0-or-later
"""What stream sockets have in common: net/core/stream.c."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from stack.include.net import SOCK_NOSPACE
from stack.include.sock import EPOLLOUT, EPOLLWRBAND, EPOLLWRNORM, __sk_stream_is_writeable, sock_error
from stack.include.wait import wake_up_interruptible_poll
from stack.net.core.skbuff import consume_skb

if TYPE_CHECKING:
    from stack.include.sock import sock


def sk_stream_write_space(sk: sock) -> None:
    """Room in the send buffer: wake writers once a third of it is free, and half of TCP_NOTSENT_LOWAT."""
    sock_ = sk.sk_socket
    if sock_ is not None and __sk_stream_is_writeable(sk, 1):
        sock_.flags &= ~SOCK_NOSPACE
        if sk.sk_wq:
            wake_up_interruptible_poll(sk, EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND)


def sk_stream_error(sk: sock, err: int) -> int:
    """What a failed send returns: the pending error instead of EPIPE, if there is one."""
    if err == -errno.EPIPE:
        err = sock_error(sk) or -errno.EPIPE
    return err


def sk_stream_kill_queues(sk: sock) -> None:
    """The socket is about to be freed: drop what was received and never read."""
    for queue in (sk.sk_receive_queue, sk.sk_error_queue):
        while queue:
            consume_skb(queue.popleft())
    sk.sk_forward_alloc = 0
