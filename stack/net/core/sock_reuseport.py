# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups of sockets that share one port by SO_REUSEPORT: net/core/sock_reuseport.c.

Every member of a group points to it (``sk_reuseport_cb``).  Which member gets a connection is decided by the keyed
hash of its 4-tuple, so the split follows chance, not turns.  Departure: no BPF program chooses.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stack.include.sock import sock

REUSEPORT_MAX_SOCKS: Final = 65535


class sock_reuseport:
    """struct sock_reuseport: the members in the order in which they joined."""

    __slots__ = ("socks",)

    def __init__(self) -> None:
        self.socks: list[sock] = []

def reuseport_alloc(sk: sock) -> int:
    """Found a group with one member."""
    reuse = sock_reuseport()
    reuse.socks.append(sk)
    sk.sk_reuseport_cb = reuse
    return 0


def reuseport_add_sock(sk: sock, sk2: sock) -> int:
    """Join the group of ``sk2``, which may not have one yet."""
    if sk2.sk_reuseport_cb is None:
        reuseport_alloc(sk2)
    reuse = sk2.sk_reuseport_cb
    assert reuse is not None
    if len(reuse.socks) >= REUSEPORT_MAX_SOCKS:
        return -errno.ENOSPC
    reuse.socks.append(sk)
    sk.sk_reuseport_cb = reuse
    return 0


def reuseport_detach_sock(sk: sock) -> None:
    reuse = sk.sk_reuseport_cb
    if reuse is not None:
        reuse.socks.remove(sk)
        sk.sk_reuseport_cb = None


def reuseport_select_sock(sk: sock, hash_: int) -> sock | None:
    """The member that a 32-bit hash falls on: the range of the hash cut into equal parts."""
    reuse = sk.sk_reuseport_cb
    if reuse is None or not reuse.socks:
        return None
    return reuse.socks[hash_ * len(reuse.socks) >> 32]
