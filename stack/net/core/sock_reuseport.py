# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups of sockets that share one port by SO_REUSEPORT: net/core/sock_reuseport.c.

Every member of a group points to it (``sk_reuseport_cb``).  Which member gets a connection is decided by the keyed
hash of its 4-tuple, so the split follows chance, not turns; a selector that somebody attached to the group decides
instead.  Departure: the selector is a Python function, where the kernel has a BPF program (SO_ATTACH_REUSEPORT_CBPF).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stack.include.sk_buff import sk_buff
    from stack.include.sock import sock

REUSEPORT_MAX_SOCKS: Final = 65535


class sock_reuseport:
    """struct sock_reuseport: the members in the order in which they joined (when one leaves, the last takes its
    place), and the selector."""

    __slots__ = ("prog", "socks")

    def __init__(self) -> None:
        self.socks: list[sock] = []
        self.prog: Callable[[sk_buff], int] | None = None


def reuseport_alloc(sk: sock) -> int:
    """Found a group with one member; a socket that got one by attaching a selector keeps it."""
    if sk.sk_reuseport_cb is not None:
        return 0
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
    if sk.sk_reuseport_cb is not None and len(sk.sk_reuseport_cb.socks) != 1:
        return -errno.EBUSY
    if len(reuse.socks) >= REUSEPORT_MAX_SOCKS:
        return -errno.ENOSPC
    reuse.socks.append(sk)
    sk.sk_reuseport_cb = reuse
    return 0


def reuseport_detach_sock(sk: sock) -> None:
    reuse = sk.sk_reuseport_cb
    if reuse is not None:
        at = reuse.socks.index(sk)
        last = reuse.socks.pop()
        if last is not sk:
            reuse.socks[at] = last
        sk.sk_reuseport_cb = None


def reuseport_attach_prog(sk: sock, prog: Callable[[sk_buff], int]) -> int:
    """Let a selector choose for the whole group of the socket; before bind() and listen() it founds the group.
    -EINVAL for a socket without SO_REUSEPORT."""
    if sk.sk_node is None:
        if not sk.sk_reuseport:
            return -errno.EINVAL
        reuseport_alloc(sk)
    reuse = sk.sk_reuseport_cb
    if reuse is None:
        return -errno.EINVAL
    reuse.prog = prog
    return 0


def reuseport_detach_prog(sk: sock) -> int:
    """Back to the hash; -ENOENT if no selector is attached."""
    reuse = sk.sk_reuseport_cb
    if reuse is None or reuse.prog is None:
        return -errno.ENOENT
    reuse.prog = None
    return 0


def run_bpf_filter(reuse: sock_reuseport, prog: Callable[[sk_buff], int], skb: sk_buff) -> sock | None:
    """The member whose number the selector returns; None if there is no such member."""
    index = prog(skb)
    return reuse.socks[index] if 0 <= index < len(reuse.socks) else None


def reuseport_select_sock(sk: sock, hash_: int, skb: sk_buff | None) -> sock | None:
    """The member that the selector names, else the one that a 32-bit hash falls on: the range of the hash cut into
    equal parts."""
    reuse = sk.sk_reuseport_cb
    if reuse is None or not reuse.socks:
        return None
    if reuse.prog is not None and skb is not None:
        chosen = run_bpf_filter(reuse, reuse.prog, skb)
        if chosen is not None:
            return chosen
    return reuse.socks[hash_ * len(reuse.socks) >> 32]
